"""The same training task in vizsla and in fastai: same files, split, weights, sizes, batch size and augmentation.

fastai is handed vizsla's files and split, since it lists folders in the order in which the system does. ``measured`` runs a task in a
process of its own.
"""

from __future__ import annotations

import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import Figures, cpu_seconds, in_own_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from vizsla import Callback, DataLoaders, Learner
    from vizsla.models.classifier import Classifier
    from vizsla.types import ImageTable

ARCHITECTURE = "efficientnet_lite0"
NAME_PATTERN = r"^(.+)_\d+\.jpe?g$"
VALID_SHARE = 0.2
MIN_SCALE = 0.75
EARLY_PARTS = 6
"""Normalisation, stem, its norm and three of the seven stages: where vizsla cuts between early and late body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A training task.

    Attributes:
        folder: Has sub-folders ``train`` and ``valid`` with one folder per class in each; or images called
            ``class_number.jpg`` at any depth, of which a random fifth is held out.
        epochs: Unfrozen epochs of ``fine_tune``.
        freeze_epochs: Frozen ones before them.
        size: Side of the images that the network sees.
        presize: Side that images have before augmentation.
        batch_size: Images in a step.
        seed: Of split, order, augmentation, head and dropout.
        workers: Threads of vizsla, processes of fastai; "auto" is each library's own default.
        groups: Parameter groups of fastai: 2 (body and head) is what it gives networks of timm, 3 are cut as vizsla's.
        augment: Whether training images are augmented; without, images have ``size`` from the start.
    """

    folder: str
    epochs: int = 2
    freeze_epochs: int = 1
    size: int = 128
    presize: int = 160
    batch_size: int = 32
    seed: int = 0
    workers: int | str = "auto"
    groups: int = 2
    augment: bool = True


def _no_wait() -> None:
    """A processor has done its work when the call returns."""


@dataclass(kw_only=True, slots=True)
class EpochLog:
    """What each epoch gave and took.

    Attributes:
        wait: Waits for the device, where work is done on one.
        values: ``[train_loss, valid_loss, error]`` of each epoch.
        seconds: Of each, validation included.
        train_seconds: Of each, without validation.
        epoch_cpu_seconds: Of each, of this process and of the child processes that ended in it, all cores together.
        ends: When each was validated, in seconds since 1970.
        marks: When imports, loaders and learner were there, in seconds since this log was made.
        helped_seconds: What the process spent on being handed another library's split.
    """

    wait: Callable[[], None] = _no_wait
    values: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    epoch_cpu_seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    helped_seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter)
    _started: float = 0.0
    _cpu_started: float = 0.0
    _trained: float = 0.0

    def mark(self, name: str) -> None:
        """Note that something is there."""
        self.marks[name] = time.perf_counter() - self._began

    def start(self) -> None:
        """An epoch begins."""
        self.wait()
        self._cpu_started = cpu_seconds()
        self._started = time.perf_counter()

    def trained(self) -> None:
        """Its steps are done."""
        self.wait()
        self._trained = time.perf_counter()

    def end(self, values: list[float]) -> None:
        """It was validated."""
        self.wait()
        self.values.append([float(value) for value in values])
        self.seconds.append(time.perf_counter() - self._started)
        self.train_seconds.append(self._trained - self._started)
        self.epoch_cpu_seconds.append(cpu_seconds() - self._cpu_started)
        self.ends.append(time.time())

    def of_vizsla(self) -> Callback:
        """Return a callback of vizsla that keeps this log."""
        from vizsla import Callback

        log = self

        class Watch(Callback):
            """Notes times and values."""

            order = -100

            def before_epoch(self, fit: Any) -> None:
                del fit
                log.start()

            def before_validate(self, fit: Any) -> None:
                del fit
                log.trained()

            def after_epoch(self, fit: Any) -> None:
                log.end(list(fit.values.values()))

        return Watch()

    def of_fastai(self) -> Any:
        """Return a callback of fastai that keeps this log."""
        from fastai.vision.all import Callback

        log = self

        class Watch(Callback):
            """Notes times and values."""

            order = 90  # after the recorder

            def before_epoch(self) -> None:
                log.start()

            def after_train(self) -> None:
                log.trained()

            def after_epoch(self) -> None:
                log.end(list(self.learn.recorder.values[-1]))

        return Watch()


# --- vizsla ----------------------------------------------------------------------------------------------------------


def vizsla_loaders(setting: Setting) -> DataLoaders:
    """Return vizsla's loaders."""
    from vizsla import ImageDataLoaders, Resize, aug_transforms, get_image_files

    folder = Path(setting.folder)
    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)
    options: dict[str, Any] = {
        "item_tfms": Resize(setting.presize if setting.augment else setting.size),
        "batch_tfms": augmented if setting.augment else None,
        "bs": setting.batch_size,
        "seed": setting.seed,
        "num_workers": setting.workers,
    }
    if (folder / "train").is_dir():
        return ImageDataLoaders.from_folder(folder, **options)
    files = get_image_files(folder)
    return ImageDataLoaders.from_name_re(
        folder, files, NAME_PATTERN, valid_pct=VALID_SHARE, **options
    )


def vizsla_learner(setting: Setting, *, precision: str = "auto") -> Learner:
    """Return vizsla's learner, its body frozen."""
    from vizsla import error_rate, vision_learner

    return vision_learner(
        vizsla_loaders(setting), ARCHITECTURE, metrics=error_rate, precision=precision, quiet=True
    )


def train_vizsla(setting: Setting, *, precision: str = "auto") -> EpochLog:
    """Fine-tune with vizsla."""
    log = EpochLog()
    learn = vizsla_learner(setting, precision=precision)
    learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=log.of_vizsla())
    return log


def train_in_bf16(setting: Setting) -> EpochLog:
    """Fine-tune with vizsla in bfloat16."""
    return train_vizsla(setting, precision="bf16")


def run_model_alone(setting: Setting) -> EpochLog:
    """Go forward and backward as often as ``fine_tune`` does, on one batch that is ready; no step of an optimiser.

    The frozen epochs come first, as there; the validation is forward only, in batches of the same sizes.
    """
    from torch import nn

    from vizsla.infer.run import compute_logits, evaluation_mode
    from vizsla.machine import keep_freed_memory

    keep_freed_memory()
    learn = vizsla_learner(setting)
    classifier = cast("Classifier", learn.model)
    first = next(learn.dls.train.batches())
    images, targets = first.images, first.targets
    valid_sizes = [len(rows) for rows in learn.dls.valid.rows.split(learn.dls.valid.bs)]
    log = EpochLog()
    for epoch in range(setting.freeze_epochs + setting.epochs):
        (learn.freeze if epoch < setting.freeze_epochs else learn.unfreeze)()
        learn.training_mode()
        log.start()
        for _ in range(len(learn.dls.train)):
            nn.functional.cross_entropy(learn.model(images), targets).backward()
            for parameter in learn.model.parameters():
                parameter.grad = None
        log.trained()
        with evaluation_mode(learn.model):
            for size in valid_sizes:
                compute_logits(classifier, images[:size])
        log.end([])
    return log


def run_quick_start(setting: Setting) -> EpochLog:
    """Fit a head on features that are computed once, as lesson one begins; the first time is that of the features."""
    import timm  # noqa: F401 (imported with the network otherwise, while the clock runs)

    from vizsla.classic import (
        Callback,
        ConvLearner,
        ImageClassifierData,
        efficientnet_lite0,
        tfms_from_model,
    )

    log = EpochLog()

    class Watch(Callback):
        """Notes times and values."""

        def on_train_begin(self) -> None:
            log.start()

        def on_epoch_end(self, metrics: list[float]) -> None:
            log.trained()
            log.end([nan, metrics[0], 1 - metrics[1]])
            log.start()

    log.start()
    data = ImageClassifierData.from_paths(
        setting.folder,
        bs=setting.batch_size,
        tfms=tfms_from_model(efficientnet_lite0, setting.size),
        num_workers=2 if isinstance(setting.workers, str) else setting.workers,
    )
    learn = ConvLearner.pretrained(efficientnet_lite0, data, precompute=True)
    log.trained()
    log.end([])
    with redirect_stdout(StringIO()):
        learn.fit(0.01, setting.epochs, callbacks=[Watch()])
    return log


def train_recipe(setting: Setting) -> EpochLog:
    """Run what ``vizsla train --epochs N`` runs, with its defaults for all that the setting does not say.

    The last values are those of the state that is kept, the last end is the end of the recipe.
    """
    from vizsla import TrainConfig, train_classifier
    from vizsla.train.display import Display

    config = TrainConfig(
        epochs=setting.epochs,
        size=setting.size,
        presize=setting.presize,
        batch_size=setting.batch_size,
        seed=setting.seed,
        num_workers=cast("Any", setting.workers),
        device="cpu",
    )
    table = vizsla_loaders(setting).table
    run = train_classifier(table, config=config, display=Display(quiet=True))
    log = EpochLog()
    for point in run.history:
        error = None if point.accuracy is None else 1 - point.accuracy
        values = (point.train_loss, point.valid_loss, error)
        log.values.append([nan if value is None else value for value in values])
        log.seconds.append(point.seconds)
        log.ends.append(nan)
    kept = run.predictions
    error = 1 - float(kept.correct.float().mean())
    log.values.append([nan, float(kept.losses.mean()), error])
    log.ends.append(time.time())
    return log


# --- fastai ----------------------------------------------------------------------------------------------------------


def lite0(pretrained: bool = True) -> nn.Sequential:
    """Return the network as fastai wants it: normalisation and body, a pooling layer (fastai cuts before it), a stand-in classifier."""
    import torch
    from torch import nn

    from vizsla.models.backbones import build_backbone

    class Normalise(nn.Module):
        """Normalises images with values 0-1."""

        def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Return them normalised."""
            return (images - self.mean) / self.std

    backbone = build_backbone(ARCHITECTURE, pretrained=pretrained)
    body = cast("Any", backbone.network)
    normalised = Normalise(backbone.preprocessing.mean, backbone.preprocessing.std)
    layers = [body.conv_stem, body.bn1, *body.blocks, body.conv_head, body.bn2]
    return nn.Sequential(nn.Sequential(normalised, *layers), nn.AdaptiveAvgPool2d(1), nn.Identity())


def fastai_loaders(setting: Setting, table: ImageTable) -> Any:
    """Return fastai's loaders of the images of vizsla's table with the same split."""
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        aug_transforms,
        defaults,
    )

    targets = table.targets.tolist()
    labels = {path: table.vocab[one] for path, one in zip(table.paths, targets, strict=True)}
    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)

    def label_of(path: Path) -> str:
        return labels[path]

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(table.vocab))),
        get_y=label_of,
        splitter=IndexSplitter(table.valid_rows.tolist()),
        item_tfms=Resize(setting.presize if setting.augment else setting.size),
        batch_tfms=augmented if setting.augment else None,
    )
    workers = defaults.cpus if setting.workers == "auto" else setting.workers
    return block.dataloaders(
        list(table.paths), bs=setting.batch_size, num_workers=workers, device="cpu"
    )


def fastai_learner(setting: Setting, table: ImageTable) -> Any:
    """Return fastai's learner with the same weights, its body frozen."""
    from fastai.vision.all import L, error_rate, params, set_seed, vision_learner

    def three_groups(model: Any) -> Any:
        body = model[0][0]
        return L(body[:EARLY_PARTS], body[EARLY_PARTS:], model[1:]).map(params)

    set_seed(setting.seed)
    learn = vision_learner(
        fastai_loaders(setting, table),
        lite0,
        metrics=error_rate,
        splitter=three_groups if setting.groups == 3 else None,
        path=Path.cwd(),
    )
    set_seed(setting.seed)
    return learn


def train_fastai(setting: Setting) -> EpochLog:
    """Fine-tune with fastai; without unfrozen epochs, train the head alone."""
    import fastai.vision.all  # noqa: F401 (not part of what the process is helped with)

    log = EpochLog()
    started = time.perf_counter()
    table = vizsla_loaders(setting).table
    log.helped_seconds = time.perf_counter() - started
    learn = fastai_learner(setting, table)
    with learn.no_bar(), learn.no_logging():
        watch = log.of_fastai()
        if setting.epochs:
            learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=watch)
        else:
            learn.fit_one_cycle(setting.freeze_epochs, cbs=watch)
    return log


# --- A process per measurement ---------------------------------------------------------------------------------------

TRAINERS: dict[str, Callable[[Setting], EpochLog]] = {
    "vizsla": train_vizsla,
    "vizsla in bf16": train_in_bf16,
    "fastai": train_fastai,
    "network alone": run_model_alone,
    "recipe": train_recipe,
    "quick start": run_quick_start,
}
"""``recipe`` is what ``vizsla train`` does, ``network alone`` forward and backward alone, ``quick start`` lesson one's."""


def measured(kind: str, setting: Setting) -> Figures:
    """Run one training task in a process of its own.

    Args:
        kind: One of ``TRAINERS``.
        setting: The task.

    Returns:
        The lists of an ``EpochLog``, ``ends`` in seconds since the process started, without what it spent on being handed
        another library's split; ``cpu_seconds`` of the process; and what ``in_own_process`` adds.
    """
    figures = in_own_process("peer:train", kind=kind, setting=asdict(setting))
    not_its_own = figures["began"] + figures.pop("helped_seconds")
    return figures | {"ends": [moment - not_its_own for moment in figures["ends"]]}


def train(kind: str, setting: dict[str, Any]) -> Figures:
    """Train in this process and return the figures."""
    log = TRAINERS[kind](Setting(**setting))
    return {
        "values": log.values,
        "seconds": log.seconds,
        "train_seconds": log.train_seconds,
        "epoch_cpu_seconds": log.epoch_cpu_seconds,
        "cpu_seconds": cpu_seconds(),
        "ends": log.ends,
        "helped_seconds": log.helped_seconds,
    }
