"""A table and a configuration in, what each part of training and predicting costs on this machine out.

Nothing is left behind: the weights are random, which costs the same as trained ones and needs no download, and pictures are kept in
memory. Steps are those of the real loop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vizsla.bench.advice import WORTH_SAYING, Measured, advice_of, estimates_of
from vizsla.bench.budget import Budget
from vizsla.bench.network import NetworkBench, random_classifier
from vizsla.bench.reading import time_one_thread, time_reading
from vizsla.bench.results import BenchResult, PartTime
from vizsla.data.cache.cache import PictureCache, expected_bytes
from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, PictureError
from vizsla.machine import default_num_workers, device_name, shown_bytes
from vizsla.recipe.recipe import cache_for
from vizsla.seeding import generator
from vizsla.train.profile import AUGMENTATION, BACKWARD, FORWARD, OPTIMISER

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display, MoveBar
    from vizsla.types import PictureTable

MIN_SECONDS = 1.0
BATCHES_SAMPLED = 8
LEAST_BATCHES = 4
"""Two of twice the size."""
READING_ROUNDS = 2
"""The faster one counts: what else the machine does only makes it slower."""
PARTS = 8
"""That the bar counts."""
SMALLER = 0.7
"""Of the side: half of the pixels."""


def run_bench(
    table: PictureTable,
    *,
    config: TrainConfig,
    data: str,
    counts: tuple[int, int] | None = None,
    seconds: float = 40.0,
    display: Display,
) -> BenchResult:
    """Measure a machine on pictures.

    Args:
        table: Labelled pictures with their split.
        config: Choices of the training that is to be measured.
        data: Where the pictures come from, in words.
        counts: (to learn from, held out), so many pictures to reckon for; None is what the table has.
        seconds: About how long it may take, without loading libraries. Everything is measured at least once where the
            estimates need it, however long that takes; other settings are measured where there is time.
        display: Shows a bar.

    Raises:
        ConfigError: ``seconds`` is too small, there is no such network, or a choice cannot work.
        PictureError: None of the pictures that were looked at can be read.
        TrainingError: There is nothing to train on.
    """
    if not seconds >= MIN_SECONDS:
        raise ConfigError(f"seconds (--seconds) is at least {MIN_SECONDS:g}. Received: {seconds}")
    with display.bar("measuring", total=PARTS, unit="parts") as move:
        move(0, "building the network")
        classifier = random_classifier(config, vocab=table.vocab)
        found = (len(table.train_rows), len(table.valid_rows))
        bench = _Bench(
            table,
            config=config,
            classifier=classifier,
            data=data,
            counts=found if counts is None else counts,
            budget=Budget(seconds),
            move=move,
        )
        return bench.run()


class _Bench:
    """The parts of a bench, one after the other.

    Args:
        table: See ``run_bench``.
        config: See ``run_bench``.
        classifier: The network.
        data: See ``run_bench``.
        counts: See ``run_bench``.
        budget: The time that there is.
        move: Moves the bar.
    """

    def __init__(
        self,
        table: PictureTable,
        *,
        config: TrainConfig,
        classifier: Classifier,
        data: str,
        counts: tuple[int, int],
        budget: Budget,
        move: MoveBar,
    ) -> None:
        self.table = table
        self.config = config
        self.classifier = classifier
        self.data = data
        self.num_train, self.num_valid = counts
        self.budget = budget
        self.num_workers = config.num_threads or default_num_workers()
        self.parts: list[PartTime] = []
        self.not_measured: list[str] = []
        self._move = move
        self._done = 1

    def run(self) -> BenchResult:
        """Measure everything, in the order in which later parts need what earlier ones found."""
        sample = self._sample()
        cache = self._cache(sample, presize=self.config.kept_size)
        self._next("reading")
        read_centred = self._read(sample, size=self.config.size, training=False)
        read_strip, reads = self._workers(sample)
        self._read(sample, size=self.config.kept_size, training=True, cache=cache)
        self._next("end-to-end steps")
        network = NetworkBench(
            self._part(sample), config=self.config, cache=cache, classifier=self.classifier
        )
        batch = f"batches of {self.config.batch_size}"
        steps = network.end_to_end(within=self.budget.part(0.25))
        phases = {name: value / steps.num_pictures for name, value in steps.phases.items()}
        step = steps.seconds / steps.num_pictures
        for name in (AUGMENTATION, FORWARD, BACKWARD, OPTIMISER):
            self._add(name, batch, phases[name])
        self._add("whole end-to-end step", batch, step)
        self._next("steps with a frozen body")
        frozen = network.frozen(within=self.budget.part(0.15))
        frozen_step = frozen.seconds / frozen.num_pictures
        self._add("whole step, body frozen", batch, frozen_step)
        self._next("predictions")
        forward = network.forward(within=self.budget.part(0.06))
        self._predictions(network, sample, each=read_centred + forward, forward=forward)
        self._next("other batch sizes")
        by_batch = self._other_batches(sample, cache=cache, step=step)
        step = self._confirmed(network, step, others=by_batch)
        self._next("a smaller size")
        by_size = self._smaller(sample, step=step)
        kept_share, needed = self._room()
        measured = Measured(
            num_train=self.num_train,
            num_valid=self.num_valid,
            shares_processor=network.device.type == "cpu",
            batch_size=self.config.batch_size,
            size=self.config.size,
            num_workers=self.num_workers,
            read_strip=read_strip,
            read_centred=read_centred,
            forward=forward,
            phases=phases,
            step=step,
            frozen_step=frozen_step,
            kept_share=kept_share,
            needed=needed,
            steps_by_batch=by_batch,
            steps_by_size=by_size,
            reads_by_workers=reads,
        )
        return self._result(measured, network=network, num_sampled=len(sample))

    def _sample(self) -> Tensor:
        """Return rows of training pictures that can be read, as many as there is time to read."""
        self._next("decoding")
        rows = self.table.train_rows
        rows = rows[torch.randperm(len(rows), generator=generator(self.config.seed, "bench"))]
        alone = time_one_thread(
            self.table,
            rows.tolist(),
            presize=self.config.kept_size,
            truncated=self.config.truncated,
            within=self.budget.part(0.04),
        )
        self._add("decode", self._threads(1), alone.decode)
        self._add("presize", self._threads(1), alone.presize)
        affordable = self.budget.part(0.05) / max(alone.decode + alone.presize, 1e-6)
        batch = self.config.batch_size
        number = min(
            max(LEAST_BATCHES * batch, int(affordable)), BATCHES_SAMPLED * batch, len(rows)
        )
        chosen = rows[:number]
        _, bad = time_reading(
            self.table,
            chosen,
            size=self.config.size,
            training=False,
            num_workers=self.num_workers,
            truncated=self.config.truncated,
        )
        kept = [row for row in chosen.tolist() if row not in bad]
        if not kept:
            raise PictureError(
                f"None of the {len(bad)} pictures that were looked at can be read. vizsla check says why."
            )
        return torch.tensor(kept)

    def _read(
        self, rows: Tensor, *, size: int, training: bool, cache: PictureCache | None = None
    ) -> float:
        seconds, _ = time_reading(
            self.table,
            rows,
            size=size,
            training=training,
            num_workers=self.num_workers,
            truncated=self.config.truncated,
            cache=cache,
        )
        return seconds

    def _workers(self, rows: Tensor) -> tuple[float, dict[int, float]]:
        """Return the seconds of a picture with the threads that were asked for, and with other numbers of them."""
        numbers = sorted({max(self.num_workers // 2, 1), self.num_workers, 2 * self.num_workers})
        found: dict[int, list[float]] = {number: [] for number in numbers}
        for _ in range(READING_ROUNDS):
            for number in numbers:
                seconds, _ = time_reading(
                    self.table,
                    rows,
                    size=self.config.kept_size,
                    training=True,
                    num_workers=number,
                    truncated=self.config.truncated,
                )
                found[number].append(seconds)
        best = {number: min(times) for number, times in found.items()}
        for number, seconds in best.items():
            self._add("decode and presize", self._threads(number), seconds)
        own = best.pop(self.num_workers)
        return own, best

    def _predictions(
        self, network: NetworkBench, rows: Tensor, *, each: float, forward: float
    ) -> None:
        batch = self.config.batch_size
        self._add("forward pass alone", f"batches of {batch}", forward)
        number = max(batch, int(self.budget.part(0.06) / max(each, 1e-6)))
        seconds = network.predict(rows[:number])
        self._add("prediction, from the file", f"batches of {batch}", seconds)
        seconds = network.predict_one(int(rows[0]), within=self.budget.part(0.02))
        self._add("prediction, from the file", "one alone", seconds)

    def _other_batches(self, rows: Tensor, *, cache: PictureCache, step: float) -> dict[int, float]:
        found: dict[int, float] = {}
        for size in (2 * self.config.batch_size, self.config.batch_size // 2):
            if size < 1 or len(rows) < 2 * size:
                continue
            config = replace(self.config, batch_size=size)
            how = f"batches of {size}"
            seconds = self._step_of(rows, config=config, cache=cache, step=step, how=how)
            if seconds is not None:
                found[size] = seconds
        return found

    def _confirmed(self, network: NetworkBench, step: float, *, others: dict[int, float]) -> float:
        """Return the step's seconds a picture, measured once more where another batch seems faster: the machine may be busy."""
        least = 3 * self.config.batch_size * step
        is_faster = others and step / min(others.values()) >= WORTH_SAYING
        if not is_faster or not self.budget.allows(least):
            return step
        steps = network.end_to_end(within=max(least, self.budget.part(0.08)))
        again = steps.seconds / steps.num_pictures
        self._add("whole end-to-end step", f"batches of {self.config.batch_size}, again", again)
        return min(step, again)

    def _smaller(self, rows: Tensor, *, step: float) -> dict[int, float]:
        size = 32 * round(SMALLER * self.config.size / 32)
        if not 32 <= size < self.config.size:
            return {}
        config = replace(self.config, size=size, presize="auto")
        cache = self._cache(rows, presize=config.kept_size)
        how = f"{size} pixels"
        seconds = self._step_of(rows, config=config, cache=cache, step=step, how=how)
        return {} if seconds is None else {size: seconds}

    def _step_of(
        self,
        rows: Tensor,
        *,
        config: TrainConfig,
        cache: PictureCache,
        step: float,
        how: str,
    ) -> float | None:
        """Return a step's seconds a picture with other settings; None if there is no time to measure it."""
        least = 3 * config.batch_size * step  # the first of them does not count
        if not self.budget.allows(least):
            self.not_measured.append(f"end-to-end steps with {how}")
            return None
        self._read(rows, size=config.kept_size, training=True, cache=cache)
        other = NetworkBench(
            self._part(rows), config=config, cache=cache, classifier=self.classifier
        )
        steps = other.end_to_end(within=max(least, self.budget.part(0.08)))
        seconds = steps.seconds / steps.num_pictures
        self._add("whole end-to-end step", how, seconds)
        return seconds

    def _room(self) -> tuple[float, str]:
        """Return the share of all prepared pictures that the cache of a run has room for, and what they take, in words."""
        config = replace(self.config, epochs=1)
        num_centred = self.num_train + self.num_valid
        centred = expected_bytes(Resize(config.size), num_centred=num_centred, num_strips=0)
        strips = expected_bytes(Resize(config.kept_size), num_centred=0, num_strips=self.num_train)
        needed = (centred or 0) + (strips or 0)
        room = cache_for(self.table, config=config).budget_bytes
        return min(1.0, room / max(needed, 1)), shown_bytes(needed)

    def _result(
        self, measured: Measured, *, network: NetworkBench, num_sampled: int
    ) -> BenchResult:
        return BenchResult(
            data=self.data,
            num_train=measured.num_train,
            num_valid=measured.num_valid,
            num_classes=len(self.table.vocab),
            num_sampled=num_sampled,
            device=device_name(network.device),
            precision=network.precision,
            arch=self.config.arch,
            size=self.config.size,
            presize=self.config.kept_size,
            batch_size=self.config.batch_size,
            num_workers=self.num_workers,
            parts=tuple(self.parts),
            estimates=estimates_of(measured),
            advice=advice_of(measured),
            not_measured=tuple(self.not_measured),
            seconds=self.budget.used,
        )

    def _cache(self, rows: Tensor, *, presize: int) -> PictureCache:
        """Return a cache for the pictures that are measured with: on the device where those of a run would be, else in memory."""
        on_device = self.config.cache in ("auto", "device")
        return PictureCache(
            mode="auto" if on_device else "memory",
            device=next(self.classifier.parameters()).device,
            expected_bytes=expected_bytes(Resize(presize), num_centred=0, num_strips=len(rows)),
        )

    def _part(self, rows: Tensor) -> PictureTable:
        return replace(self.table, train_rows=rows, valid_rows=rows[:0])

    def _threads(self, number: int) -> str:
        return f"{number} thread{'s' * (number != 1)}"

    def _add(self, name: str, how: str, seconds: float) -> None:
        self.parts.append(PartTime.of(name, how=how, seconds=seconds))

    def _next(self, note: str) -> None:
        self._move(self._done, note)
        self._done += 1
