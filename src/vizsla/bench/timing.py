"""Time the parts of the work: decoding, reading in threads, training steps, the forward pass, predictions."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.decode import decode_image
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.dataloaders import default_device
from vizsla.data.table.check import find_unreadable
from vizsla.errors import PictureError
from vizsla.infer.run import compute_logits, predict_batches
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier, evaluation_mode
from vizsla.models.heads import ConcatPoolHead
from vizsla.recipe.end_to_end import end_to_end_trainer
from vizsla.recipe.features_first import loaders_for
from vizsla.train.callbacks.base import Callback
from vizsla.train.cuda_graphs import STEPS_BEFORE
from vizsla.train.display import Display
from vizsla.train.profile import STEP_PHASES, StepProfile
from vizsla.train.rates.schedules import constant
from vizsla.train.step import resolve_precision
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.infer.run import NumberFormat
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.callbacks.base import Fit
    from vizsla.types import ImageTable

MAX_CALLS = 100
MAX_EPOCHS = 1000
_RATE = 1e-6


class Budget:
    """The seconds that a bench may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def part(self, share: float) -> float:
        """Return a share of the time, in seconds."""
        return share * self.seconds

    def allows(self, seconds: float) -> bool:
        """Return whether there is time left for something that takes this long."""
        return self.used + seconds <= self.seconds


def wait_for(device: torch.device) -> None:
    """Wait until a CUDA device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], *, within: float, device: torch.device) -> float:
    """Return the median time of a call; all calls together take about ``within`` seconds.

    The first call, which sets things up, counts only if there is no time for another.
    """
    times: list[float] = []
    while len(times) <= MAX_CALLS and (not times or sum(times) + times[-1] <= within):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)


def time_one_thread(
    table: ImageTable, rows: Sequence[int], *, config: TrainConfig, within: float
) -> tuple[float, float]:
    """Read images one by one for some seconds; return the seconds per image to decode and to presize, readable images only.

    Raises:
        PictureError: None of the images can be read; the message is about the last one.
    """
    resize = config.resizing(presized=True)
    decoding = resizing = 0.0
    done = 0
    problem: PictureError | None = None
    ended = time.perf_counter() + within
    for row in rows:
        started = time.perf_counter()
        if done and started > ended:
            break
        try:
            image = decode_image(
                table.paths[row],
                cover=resize.cover(training=True),
                truncated=config.truncated,
                bit_depth=table.bit_depth,
            )
        except PictureError as error:
            problem = error
            continue
        middle = time.perf_counter()
        resize.presize(image, training=True)
        decoding += middle - started
        resizing += time.perf_counter() - middle
        done += 1
    if not done and problem is not None:
        raise problem
    return decoding / max(done, 1), resizing / max(done, 1)


def time_reading(
    table: ImageTable,
    rows: Tensor,
    *,
    config: TrainConfig,
    num_workers: int,
    presized: bool = True,
    cache: ImageCache | None = None,
) -> tuple[float, set[int]]:
    """Read images in threads as training does; return the elapsed seconds per image, and the rows that cannot be read.

    ``presized`` reads strips at the presize for random crops, else centred squares at the size. Without a cache nothing is kept.
    """
    reader = ImageReader(
        resize=config.resizing(presized=presized),
        cache=ImageCache(mode="off") if cache is None else cache,
        truncated=config.truncated,
        bit_depth=table.bit_depth,
    )
    started = time.perf_counter()
    bad = find_unreadable(table, rows, reader=reader, num_workers=num_workers, training=presized)
    return (time.perf_counter() - started) / max(len(rows), 1), {row for row, _ in bad}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """The cost of a training step, in seconds per image.

    Attributes:
        seconds: A whole step, measured without looking into it.
        phases: Each of ``STEP_PHASES``; they add up to more where looking into a step costs time.
    """

    seconds: float
    phases: dict[str, float]


def time_steps(trainer: Trainer, *, within: float, settled: bool = False) -> StepTimes:
    """Take training steps at a tiny rate for some seconds; the first one, which sets up memory and kernels, does not count.

    At least one step is counted. ``settled``: steps of this kind were taken before, so the first counts if there is no time for a
    second.

    Raises:
        TrainingError: There is nothing to train on.
        PictureError: An image cannot be read.
    """
    profile = StepProfile(show=False)
    on_cuda = trainer.dls.device.type == "cuda"
    clock = _Until(within / 2 if on_cuda else within, profile=profile, settled=settled)
    _run(trainer, [profile, clock])
    loader = trainer.dls.train
    batch_size = min(loader.bs, loader.n)
    phases = {name: value / clock.num_steps / batch_size for name, value in clock.phases.items()}
    if on_cuda:  # Where the step is captured as a whole, its phases say nothing about it.
        clock = _Until(within / 2, warm_up=2 * STEPS_BEFORE)
        _run(trainer, [clock])
    return StepTimes(seconds=clock.seconds / clock.num_steps / batch_size, phases=phases)


def _run(trainer: Trainer, callbacks: list[Callback]) -> None:
    steps = MAX_EPOCHS * len(trainer.dls.train)
    schedule = constant(steps, rates=[_RATE] * len(trainer.groups))
    trainer.run(schedule, n_epoch=MAX_EPOCHS, stage="bench", cbs=callbacks, measured=False)


class _Until(Callback):
    """Ends a fit after ``within`` seconds, and measures its steps after ``warm_up`` ones; ``settled``: see ``time_steps``."""

    order: ClassVar[int] = StepProfile.order + 1

    def __init__(
        self,
        within: float,
        *,
        profile: StepProfile | None = None,
        warm_up: int = 1,
        settled: bool = False,
    ) -> None:
        self.within = within
        self.warm_up = warm_up
        self.settled = settled
        self.num_steps = 0
        self.seconds = 0.0
        self.phases: dict[str, float] = {}
        self._profile = profile
        self._began = self._since = 0.0
        self._before: dict[str, float] = {}

    def before_fit(self, fit: Fit) -> None:
        """Start the clock."""
        del fit
        self._began = self._since = time.perf_counter()

    def after_step(self, fit: Fit) -> None:
        """Read the clock."""
        elapsed = time.perf_counter() - self._began
        is_warm_up = fit.step <= self.warm_up
        last = elapsed > self.within and (self.settled or not is_warm_up)
        if fit.step == self.warm_up or last:
            wait_for(fit.trainer.dls.device)
        now = time.perf_counter()
        phases = {} if self._profile is None else dict(self._profile.seconds)
        if is_warm_up and not last:
            self._since, self._before = now, phases
            return
        self.num_steps += 1
        self.seconds = now - self._since
        self.phases = {
            name: phases[name] - self._before.get(name, 0.0)
            for name in STEP_PHASES
            if name in phases
        }
        if last:
            fit.stop("measured")


def random_classifier(config: TrainConfig, *, table: ImageTable) -> Classifier:
    """Return the network of a configuration with random weights, on its device."""
    device = default_device() if config.device == "auto" else torch.device(config.device)
    backbone = build_backbone(config.arch, pretrained=False, seed=config.seed)
    head = ConcatPoolHead(backbone.num_features, len(table.vocab), lin_ftrs=[], first_bn=False)
    return Classifier(backbone, head, vocab=table.vocab, task=table.task).place(device)


class NetworkTimer:
    """Times a network on the training rows of a table; ``cache`` has the images once they were read."""

    def __init__(
        self,
        table: ImageTable,
        *,
        config: TrainConfig,
        cache: ImageCache,
        classifier: Classifier,
    ) -> None:
        self._config = config
        self._table = table
        self._classifier = classifier
        self._loaders = loaders_for(table, config=config, cache=cache)
        self._uncached = loaders_for(table, config=config, cache=ImageCache(mode="off"))
        self.device = self._loaders.device
        self.precision: NumberFormat = resolve_precision(
            config.precision, device=self.device, model=classifier
        )

    def end_to_end(self, *, within: float) -> StepTimes:
        """Return the cost of a step of an end-to-end epoch: everything trains but the norms."""
        return time_steps(self._trainer(), within=within)

    def frozen(self, *, within: float) -> StepTimes:
        """Return the cost of a step with a frozen body whose norms train, as ``fine_tune`` begins; call it after ``end_to_end``."""
        loaders = self._trainer().dls
        trainer = Trainer(loaders, self._classifier, precision=self.precision, quiet=True)
        trainer.freeze()
        return time_steps(trainer, within=within, settled=True)

    def _trainer(self) -> Trainer:
        return end_to_end_trainer(
            self._loaders, self._classifier, config=self._config, display=Display(quiet=True)
        )

    def forward(self, *, within: float) -> float:
        """Return the seconds per image of the forward pass, in batches."""
        images = self._loaders.loader_for(self._table.train_rows).one_batch()[0].as_subclass(Tensor)
        with evaluation_mode(self._classifier):
            seconds = seconds_of(
                lambda: compute_logits(self._classifier, images, precision=self.precision),
                within=within,
                device=self.device,
            )
        return seconds / len(images)

    def predict(self, rows: Tensor) -> float:
        """Return the seconds per image from file to answer, for many uncached images."""
        wait_for(self.device)

        def predict_all() -> None:
            batches = self._uncached.loader_for(rows).batches()
            predict_batches(self._classifier, batches, table=self._table, precision=self.precision)

        # Within no time there is one call.
        return seconds_of(predict_all, within=0.0, device=self.device) / max(len(rows), 1)

    def predict_one(self, row: int, *, within: float) -> float:
        """Return the seconds from the file of a single image to its answer."""
        path = self._table.paths[row]

        def answer() -> Tensor:
            pixels = torch.tensor(self._uncached.reader.read(path))
            images_u8 = pixels.permute(2, 0, 1)[None].to(self.device)
            images = self._uncached.augmentation(
                images_u8, rows=torch.tensor([row]), epoch=0, training=False
            )
            return compute_logits(self._classifier, images, precision=self.precision).cpu()

        with evaluation_mode(self._classifier):
            return seconds_of(answer, within=within, device=self.device)
