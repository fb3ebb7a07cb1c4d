"""A folder of labelled pictures and a few choices in; a training task in vizsla out, and the terms that fastai shares.

Both get the same files, the same split, the same weights (``efficientnet_lite0``), sizes, batch size and augmentation; fastai's
side is ``fastai_peer.py``.
"""

from __future__ import annotations

import os
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from benchmarks.pictures import photographs

if TYPE_CHECKING:
    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.models.classifier import Classifier
    from vizsla.train.learner import Learner

ARCHITECTURE = "efficientnet_lite0"
NAME_PATTERN = r"^(.+)_\d+\.jpe?g$"
VALID_SHARE = 0.2
MIN_SCALE = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A training task.

    Attributes:
        folder: Has sub-folders ``train`` and ``valid`` with one folder per class in each; or pictures called
            ``class_number.jpg`` at any depth, of which a random fifth is held out.
        epochs: Unfrozen epochs of ``fine_tune``.
        freeze_epochs: Frozen ones before them.
        size: Side of the pictures that the network sees.
        presize: Side that pictures have before augmentation.
        batch_size: Pictures in a step.
        seed: Of split, order, augmentation, head and dropout.
        workers: Threads of vizsla, processes of fastai; -1 is each library's own default.
        groups: Parameter groups of fastai: 2 (body and head) is what it gives networks of timm, 3 are cut as vizsla's.
        augment: Whether training pictures are augmented; without, pictures have ``size`` from the start.
    """

    folder: str
    epochs: int = 2
    freeze_epochs: int = 1
    size: int = 128
    presize: int = 160
    batch_size: int = 32
    seed: int = 0
    workers: int = -1
    groups: int = 2
    augment: bool = True


@dataclass(kw_only=True, slots=True)
class EpochLog:
    """What an epoch gave, in the order of the epochs.

    Attributes:
        values: ``[train_loss, valid_loss, error]`` of each.
        seconds: Of each, validation included.
        train_seconds: Of each, without validation.
        cpu_seconds: Of each, of this process and of the child processes that ended in it, all cores together.
        ends: When each was validated, in seconds since 1970.
        helped_seconds: What the process spent on being handed another library's split.
    """

    values: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    helped_seconds: float = 0.0
    _started: float = 0.0
    _cpu_started: float = 0.0
    _trained: float = 0.0

    def start(self) -> None:
        """An epoch begins."""
        self._cpu_started = cpu_seconds()
        self._started = time.perf_counter()

    def trained(self) -> None:
        """Its steps are done."""
        self._trained = time.perf_counter()

    def end(self, values: list[float]) -> None:
        """It was validated."""
        self.values.append([float(value) for value in values])
        self.seconds.append(time.perf_counter() - self._started)
        self.train_seconds.append(self._trained - self._started)
        self.cpu_seconds.append(cpu_seconds() - self._cpu_started)
        self.ends.append(time.time())


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that ended, all cores together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def with_parts(folder: Path | None, *, made_in: Path, count: int) -> Path:
    """Return a folder with ``train`` and ``valid``: the one given, or one that is filled with drawn pictures.

    Args:
        folder: Of the user's own; None draws.
        made_in: Where pictures are drawn.
        count: Of training pictures; there are a third as many for validation.
    """
    if folder is not None:
        return folder.resolve()
    photographs(None, made_in=made_in / "train", count=count)
    photographs(None, made_in=made_in / "valid", count=count // 3)
    return made_in


def vizsla_loaders(setting: Setting) -> DataLoaders:
    """Return vizsla's loaders."""
    from vizsla import ImageDataLoaders, Resize
    from vizsla.augment.presets import aug_transforms
    from vizsla.data.table.sources import get_image_files

    folder = Path(setting.folder)
    item_tfms = Resize(setting.presize if setting.augment else setting.size)
    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)
    batch_tfms = augmented if setting.augment else None
    workers = None if setting.workers < 0 else setting.workers
    if (folder / "train").is_dir():
        return ImageDataLoaders.from_folder(
            folder,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=setting.batch_size,
            seed=setting.seed,
            num_workers=workers,
        )
    return ImageDataLoaders.from_name_re(
        folder,
        get_image_files(folder),
        NAME_PATTERN,
        valid_pct=VALID_SHARE,
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
        bs=setting.batch_size,
        seed=setting.seed,
        num_workers=workers,
    )


def vizsla_learner(setting: Setting, *, precision: str = "auto") -> Learner:
    """Return vizsla's learner, its body frozen.

    Args:
        setting: The task.
        precision: As in ``vision_learner``.
    """
    from vizsla import vision_learner
    from vizsla.train.metrics import error_rate

    return vision_learner(
        vizsla_loaders(setting),
        ARCHITECTURE,
        metrics=error_rate,
        precision=precision,
        quiet=True,
    )


def train_vizsla(setting: Setting, *, precision: str = "auto") -> EpochLog:
    """Fine-tune with vizsla.

    Args:
        setting: The task.
        precision: As in ``vision_learner``.
    """
    from vizsla.train.callbacks.base import Callback, Fit

    log = EpochLog()

    class Watch(Callback):
        """Notes times and values."""

        order = -100

        def before_epoch(self, fit: Fit) -> None:
            del fit
            log.start()

        def before_validate(self, fit: Fit) -> None:
            del fit
            log.trained()

        def after_epoch(self, fit: Fit) -> None:
            log.end(list(fit.values.values()))

    learn = vizsla_learner(setting, precision=precision)
    learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=Watch())
    return log


def run_model_alone(setting: Setting) -> EpochLog:
    """Go forward and backward as often as ``fine_tune`` does, on one batch that is ready; no step of an optimiser.

    The frozen epochs come first, as there; the validation is forward only, in batches of the same sizes.
    """
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
        num_workers=2 if setting.workers < 0 else setting.workers,
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
    from vizsla.recipe.config import TrainConfig
    from vizsla.recipe.recipe import train_classifier
    from vizsla.train.display import Display

    config = TrainConfig(
        epochs=setting.epochs,
        size=setting.size,
        presize=setting.presize,
        batch_size=setting.batch_size,
        seed=setting.seed,
        num_workers=setting.workers,
        device="cpu",
    )
    run = train_classifier(
        vizsla_loaders(setting).table, config=config, display=Display(quiet=True)
    )
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
