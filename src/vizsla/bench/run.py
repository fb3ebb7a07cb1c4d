"""Measure each part of training and predicting on this machine, and estimate the time of a training run.

Nothing is left behind: the weights are random, which costs the same as trained ones and needs no download, and images are kept in
memory. Steps are those of the real loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from vizsla.bench.results import (
    WORTH_SAYING,
    BenchResult,
    Measured,
    PartTime,
    advice_of,
    estimates_of,
)
from vizsla.bench.timing import (
    Budget,
    NetworkTimer,
    random_classifier,
    time_one_thread,
    time_reading,
)
from vizsla.data.cache.cache import ImageCache, expected_bytes
from vizsla.errors import ConfigError, PictureError
from vizsla.machine import default_num_workers, device_name, shown_bytes
from vizsla.recipe.features_first import cache_for
from vizsla.recipe.going_on import choices_of
from vizsla.seeding import generator
from vizsla.train.profile import AUGMENTATION, BACKWARD, FORWARD, OPTIMISER

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.bench.elsewhere import Elsewhere
    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display, MoveBar
    from vizsla.types import ImageTable

MIN_SECONDS = 1.0
BATCHES_SAMPLED = 8
LEAST_BATCHES = 4
"""Enough for two batches of twice the size."""
READING_ROUNDS = 2
"""The faster round counts: other work on the machine only makes it slower."""
NUM_PARTS = 8
"""Length of the progress bar."""
SMALLER = 0.7
"""This part of the side has half of the pixels."""


def run_bench(
    table: ImageTable,
    *,
    config: TrainConfig,
    data: str,
    counts: tuple[int, int] | None = None,
    seconds: float = 40.0,
    elsewhere: Elsewhere | None = None,
    display: Display,
) -> BenchResult:
    """Measure a machine on images.

    Args:
        table: Labelled images with their split.
        config: Choices of the training to measure.
        data: Where the images come from, in words.
        counts: (to learn from, held out), how many images to estimate for; None takes those of the table.
        seconds: About how long it may take, without loading libraries. What the estimates need is measured at least once,
            however long that takes; other settings are measured where there is time.
        elsewhere: Other machines to estimate for; None for none.
        display: Shows a bar.

    Raises:
        ConfigError: ``seconds`` is too small, the speed of a GPU elsewhere is not known, there is no such network, or a choice cannot work.
        PictureError: No image of the sample can be read.
        TrainingError: There is nothing to train on.
    """
    if not seconds >= MIN_SECONDS:
        raise ConfigError(f"seconds (--seconds) is at least {MIN_SECONDS:g}. Received: {seconds}")
    config, _ = choices_of(config)
    if elsewhere is not None:
        elsewhere.check(config)
    with display.bar("measuring", total=NUM_PARTS, unit="parts") as move:
        move(0, "building the network")
        bench = _Bench(
            table=table,
            config=config,
            classifier=random_classifier(config, table=table),
            data=data,
            counts=counts or (len(table.train_rows), len(table.valid_rows)),
            budget=Budget(seconds),
            elsewhere=elsewhere,
            move=move,
        )
        return bench.run()


@dataclass(kw_only=True)
class _Bench:
    """One bench, part by part."""

    table: ImageTable
    config: TrainConfig
    classifier: Classifier
    data: str
    counts: tuple[int, int]
    budget: Budget
    elsewhere: Elsewhere | None
    move: MoveBar
    parts: list[PartTime] = field(default_factory=list[PartTime])
    not_measured: list[str] = field(default_factory=list[str])
    _done: int = 0

    def __post_init__(self) -> None:
        self.num_workers = self.config.num_threads or default_num_workers()
        self.batch = f"batches of {self.config.batch_size}"

    def run(self) -> BenchResult:
        """Measure everything; later parts need the results of earlier ones."""
        sample = self._sample()
        cache = self._cache(self.config, num_images=len(sample))
        self._begin("reading")
        read_centred = self._read(sample, presized=False)
        read_strip, reads = self._read_with_threads(sample)
        self._read(sample, cache=cache)
        self._begin("end-to-end steps")
        network = self._timer(sample, config=self.config, cache=cache)
        steps = network.end_to_end(within=self.budget.part(0.25))
        for name in (AUGMENTATION, FORWARD, BACKWARD, OPTIMISER):
            self._add(name, self.batch, steps.phases[name])
        self._add("whole end-to-end step", self.batch, steps.seconds)
        self._begin("steps with a frozen body")
        frozen_step = network.frozen(within=self.budget.part(0.15)).seconds
        self._add("whole step, body frozen", self.batch, frozen_step)
        self._begin("predictions")
        forward = network.forward(within=self.budget.part(0.06))
        self._predictions(network, sample, each=read_centred + forward, forward=forward)
        self._begin("other batch sizes")
        by_batch = self._other_batches(sample, cache=cache, step=steps.seconds)
        step = self._confirmed(network, steps.seconds, others=by_batch)
        self._begin("a smaller size")
        by_size = self._smaller(sample, step=step)
        kept_share, needed = self._room()
        num_train, num_valid = self.counts
        measured = Measured(
            num_train=num_train,
            num_valid=num_valid,
            shares_processor=network.device.type == "cpu",
            size=self.config.size,
            read_strip=read_strip,
            read_centred=read_centred,
            forward=forward,
            phases=steps.phases,
            step=step,
            frozen_step=frozen_step,
            kept_share=kept_share,
            needed=needed,
            steps_by_batch=by_batch,
            steps_by_size=by_size,
            reads_by_workers=reads,
        )
        estimates = estimates_of(measured)
        elsewhere = self.elsewhere
        return BenchResult(
            data=self.data,
            num_train=num_train,
            num_valid=num_valid,
            num_classes=len(self.table.vocab),
            num_sampled=len(sample),
            device=device_name(network.device),
            precision=network.precision,
            arch=self.config.arch,
            size=self.config.size,
            presize=self.config.kept_size,
            batch_size=self.config.batch_size,
            num_workers=self.num_workers,
            parts=tuple(self.parts),
            estimates=estimates,
            advice=advice_of(measured),
            not_measured=tuple(self.not_measured),
            seconds=self.budget.used,
            elsewhere=elsewhere
            and elsewhere.estimate(
                estimates, config=self.config, step=step, device=network.device.type
            ),
        )

    def _sample(self) -> Tensor:
        """Return rows of readable training images, as many as there is time to read."""
        self._begin("decoding")
        rows = self.table.train_rows
        rows = rows[torch.randperm(len(rows), generator=generator(self.config.seed, "bench"))]
        within = self.budget.part(0.04)
        decode, presize = time_one_thread(
            self.table, rows.tolist(), config=self.config, within=within
        )
        self._add("decode", _threads(1), decode)
        self._add("presize", _threads(1), presize)
        affordable = int(self.budget.part(0.05) / max(decode + presize, 1e-6))
        batch = self.config.batch_size
        number = min(max(LEAST_BATCHES * batch, affordable), BATCHES_SAMPLED * batch, len(rows))
        chosen = rows[:number]
        _, bad = time_reading(
            self.table, chosen, config=self.config, num_workers=self.num_workers, presized=False
        )
        kept = [row for row in chosen.tolist() if row not in bad]
        if not kept:
            raise PictureError(
                f"None of the {len(bad)} images of the sample can be read. vizsla check says why."
            )
        return torch.tensor(kept)

    def _read(
        self,
        rows: Tensor,
        *,
        config: TrainConfig | None = None,
        num_workers: int | None = None,
        presized: bool = True,
        cache: ImageCache | None = None,
    ) -> float:
        """Return the seconds per image, by default with the settings of the bench."""
        seconds, _ = time_reading(
            self.table,
            rows,
            config=config or self.config,
            num_workers=num_workers or self.num_workers,
            presized=presized,
            cache=cache,
        )
        return seconds

    def _read_with_threads(self, rows: Tensor) -> tuple[float, dict[int, float]]:
        """Return the seconds per image with the requested threads, and with other numbers of them."""
        numbers = sorted({max(self.num_workers // 2, 1), self.num_workers, 2 * self.num_workers})
        rounds = [
            [self._read(rows, num_workers=number) for number in numbers]
            for _ in range(READING_ROUNDS)
        ]
        best = {number: min(times) for number, *times in zip(numbers, *rounds, strict=True)}
        for number, seconds in best.items():
            self._add("decode and presize", _threads(number), seconds)
        own = best.pop(self.num_workers)
        return own, best

    def _predictions(
        self, network: NetworkTimer, rows: Tensor, *, each: float, forward: float
    ) -> None:
        self._add("forward pass alone", self.batch, forward)
        number = max(self.config.batch_size, int(self.budget.part(0.06) / max(each, 1e-6)))
        self._add("prediction, from the file", self.batch, network.predict(rows[:number]))
        alone = network.predict_one(int(rows[0]), within=self.budget.part(0.02))
        self._add("prediction, from the file", "one alone", alone)

    def _other_batches(self, rows: Tensor, *, cache: ImageCache, step: float) -> dict[int, float]:
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

    def _confirmed(self, network: NetworkTimer, step: float, *, others: dict[int, float]) -> float:
        """Return the seconds per image of a step, measured again where another batch seems faster: the machine may be busy."""
        least = 3 * self.config.batch_size * step
        is_faster = others and step / min(others.values()) >= WORTH_SAYING
        if not is_faster or not self.budget.allows(least):
            return step
        again = network.end_to_end(within=max(least, self.budget.part(0.08))).seconds
        self._add("whole end-to-end step", f"{self.batch}, again", again)
        return min(step, again)

    def _smaller(self, rows: Tensor, *, step: float) -> dict[int, float]:
        size = 32 * round(SMALLER * self.config.size / 32)
        if not 32 <= size < self.config.size:
            return {}
        config = replace(self.config, size=size, presize="auto")
        cache = self._cache(config, num_images=len(rows))
        how = f"{size} pixels"
        seconds = self._step_of(rows, config=config, cache=cache, step=step, how=how)
        return {} if seconds is None else {size: seconds}

    def _step_of(
        self, rows: Tensor, *, config: TrainConfig, cache: ImageCache, step: float, how: str
    ) -> float | None:
        """Return the seconds per image of a step with other settings; None if there is no time to measure it."""
        least = 3 * config.batch_size * step  # the first of them does not count
        if not self.budget.allows(least):
            self.not_measured.append(f"end-to-end steps with {how}")
            return None
        self._read(rows, config=config, cache=cache)
        within = max(least, self.budget.part(0.08))
        seconds = self._timer(rows, config=config, cache=cache).end_to_end(within=within).seconds
        self._add("whole end-to-end step", how, seconds)
        return seconds

    def _room(self) -> tuple[float, str]:
        """Return the share of all prepared images that fits into the cache of a run, and their size in words."""
        config = replace(self.config, epochs=1)
        num_train, num_valid = self.counts
        num_centred = num_train + num_valid
        centred = expected_bytes(config.resizing(), num_centred=num_centred, num_strips=0)
        strips = expected_bytes(config.resizing(presized=True), num_centred=0, num_strips=num_train)
        needed = (centred or 0) + (strips or 0)
        room = cache_for(self.table, config=config).budget_bytes
        return min(1.0, room / max(needed, 1)), shown_bytes(needed)

    def _cache(self, config: TrainConfig, *, num_images: int) -> ImageCache:
        """Return a cache for the sample: on the device where that of a run would be, else in memory."""
        on_device = config.cache in ("auto", "device")
        return ImageCache(
            mode="auto" if on_device else "memory",
            device=next(self.classifier.parameters()).device,
            expected_bytes=expected_bytes(
                config.resizing(presized=True), num_centred=0, num_strips=num_images
            ),
        )

    def _timer(self, rows: Tensor, *, config: TrainConfig, cache: ImageCache) -> NetworkTimer:
        table = replace(self.table, train_rows=rows, valid_rows=rows[:0])
        return NetworkTimer(table, config=config, cache=cache, classifier=self.classifier)

    def _add(self, name: str, how: str, seconds: float) -> None:
        self.parts.append(PartTime.of(name, how=how, seconds=seconds))

    def _begin(self, note: str) -> None:
        self._done += 1
        self.move(self._done, note)


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"
