"""A table and a few choices in, a trained classifier with its predictions and history out: what ``vizsla train`` does.

Features first: a frozen body sees every picture once, a head is fitted on what it says in seconds (``head_fit.py``), and that
is already a good classifier and a verdict on the data. Then, where there is a GPU or epochs are asked for, everything is
trained end to end from there at low rates, and the best state is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, get_args

import torch

from vizsla.data.cache.cache import CacheMode, PictureCache, expected_bytes
from vizsla.data.images.decode import Truncated
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoaders, default_device
from vizsla.errors import ConfigError, PictureError, TrainingError
from vizsla.infer.run import predict_batches
from vizsla.machine import parse_bytes
from vizsla.models.heads import build_head
from vizsla.recipe.end_to_end import END_TO_END, BestState, train_end_to_end
from vizsla.recipe.features_first import (
    FEATURE_PHASES,
    FeatureStage,
    fit_on_features,
    pooling_classifier,
)
from vizsla.recipe.resuming import CutOffRun, read_cut_off
from vizsla.recipe.run_profile import FEATURES_FIRST, RunProfile
from vizsla.train.callbacks.base import as_callbacks
from vizsla.train.checkpoint import data_identity
from vizsla.train.display import Display
from vizsla.train.step import resolve_precision
from vizsla.types import as_size

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.infer.mistakes import KnownPictures
    from vizsla.models.classifier import Classifier
    from vizsla.train.callbacks.base import Callbacks
    from vizsla.train.checkpoint import Checkpoint
    from vizsla.types import PictureTable

EPOCHS_ON_GPU = 5
EPOCH_COLUMNS = ("stage", "pictures", "epoch", "train_loss", "valid_loss", "accuracy", "time")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The choices of a run; each default is a good first try on pictures of things.

    Attributes:
        arch: Name of the network. The default's weights are installed with vizsla, so no download is needed.
        weights: A file of weights for the network instead of the published ones; empty for these.
        epochs: End-to-end epochs after the head was fitted; ``"auto"`` is 5 on CUDA and 0 elsewhere.
        size: Side of the square that the network sees, in pixels; 224 is what most weights were trained for.
        presize: Short side at which training pictures are kept for random crops; ``"auto"`` is 1.3 times ``size``, so that
            rotation and crops do not run out of picture.
        batch_size: Pictures in a step.
        learning_rate: Peak rate of the late layers in the end-to-end epochs.
        seed: Everything random follows from it.
        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        num_workers: Threads that read pictures; -1 is one per core.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        cache: Where prepared pictures are kept: ``"auto"``, ``"memory"``, ``"disk"``, ``"off"`` or ``"device"``, see
            ``PictureCache``.
        cache_budget: What they may take, such as ``"4GB"``; ``"auto"`` is a share of what is free.
        truncated: What to do about JPEGs that end too early: ``"strict"`` says that they cannot be read, ``"ok"`` takes
            what is there.

    Raises:
        ConfigError: A value cannot work.
    """

    arch: str = "efficientnet_lite0"
    weights: str = ""
    epochs: int | str = "auto"
    size: int = 224
    presize: int | str = "auto"
    batch_size: int = 32
    learning_rate: float = 1e-4
    seed: int = 0
    precision: str = "auto"
    num_workers: int = -1
    device: str = "auto"
    cache: str = "auto"
    cache_budget: int | str = "auto"
    truncated: Truncated = "strict"

    def __post_init__(self) -> None:
        as_size(self.size)
        if self.epochs != "auto" and (not isinstance(self.epochs, int) or self.epochs < 0):
            raise ConfigError(
                f"epochs is 'auto' or a whole number from 0 on. Received: {self.epochs!r}"
            )
        if self.presize != "auto" and (
            not isinstance(self.presize, int) or self.presize < self.size
        ):
            raise ConfigError(
                f"presize is 'auto' or at least size ({self.size} pixels). Received: {self.presize!r}"
            )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size (--bs) is at least 1. Received: {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"learning_rate (--lr) is a positive number. Received: {self.learning_rate}"
            )
        resolve_precision(self.precision, device=torch.device("cpu"))
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise ConfigError(
                f"device is 'auto', 'cpu', 'cuda' or 'mps'. Received: {self.device!r}"
            )
        if self.truncated not in get_args(Truncated):
            raise ConfigError(f"truncated is 'strict' or 'ok'. Received: {self.truncated!r}")
        if self.cache not in get_args(CacheMode):
            raise ConfigError(
                f"cache is one of {', '.join(get_args(CacheMode))}. Received: {self.cache!r}"
            )
        if self.cache_budget != "auto":
            parse_bytes(self.cache_budget, option="cache_budget")

    @property
    def kept_size(self) -> int:
        """The presize in pixels."""
        return round(1.3 * self.size) if isinstance(self.presize, str) else self.presize

    def epochs_on(self, device: torch.device) -> int:
        """Return the number of end-to-end epochs on a device."""
        if isinstance(self.epochs, str):
            return EPOCHS_ON_GPU if device.type == "cuda" else 0
        return self.epochs


def cache_for(table: PictureTable, *, config: TrainConfig) -> PictureCache:
    """Return the cache for a run over a table: all its pictures centred, and strips of what the end-to-end epochs see.

    Args:
        table: The pictures.
        config: Has mode, budget, device and sizes.

    Raises:
        OutputError: The disk was asked for and its folder cannot be written to.
    """
    device = default_device() if config.device == "auto" else torch.device(config.device)
    num_train, num_valid = len(table.train_rows), len(table.valid_rows)
    centred = expected_bytes(Resize(config.size), num_centred=num_train + num_valid, num_strips=0)
    strips = expected_bytes(Resize(config.kept_size), num_centred=0, num_strips=num_train)
    needed = (centred or 0) + (strips or 0) * (config.epochs_on(device) > 0)
    budget = config.cache_budget
    return PictureCache(
        mode=cast("CacheMode", config.cache),
        budget_bytes=None if budget == "auto" else parse_bytes(budget, option="cache_budget"),
        device=device,
        expected_bytes=needed,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """What training leaves.

    Attributes:
        classifier: In eval mode, on the device it was trained on.
        resize: How its pictures are prepared.
        predictions: On the validation pictures.
        history: One point per fit of the head and per epoch.
        recipe: What was done, in words.
        interrupted: Ctrl-C ended the end-to-end epochs early; this is the best state until then.
        problem: Why the end-to-end epochs could not go on, empty if they could; this is the best state until then.
        known: What the first stage knows of the training pictures; None after a resumed run.
    """

    classifier: Classifier
    resize: Resize
    predictions: Predictions
    history: tuple[HistoryPoint, ...]
    recipe: str
    interrupted: bool = False
    problem: str = ""
    known: KnownPictures | None = None


def train_classifier(
    table: PictureTable,
    *,
    config: TrainConfig | None = None,
    display: Display | None = None,
    cache: PictureCache | None = None,
    checkpoint: Checkpoint | None = None,
    profile: RunProfile | None = None,
) -> TrainedRun:
    """Train a classifier on a table by the default recipe.

    Args:
        table: Labelled pictures with their split.
        config: Choices; None is all defaults.
        display: Where to show progress; None is the screen.
        cache: Pictures that were read already at the size of ``config``; None is a new ``cache_for(table, config=config)``.
        checkpoint: Writes the state of the end-to-end epochs now and then, and goes on from it where it is to resume.
        profile: Told where the time goes; None does not measure that.

    Returns:
        The classifier with what it says of the validation pictures.

    Raises:
        ConfigError: There is no such network, a choice cannot work, or the checkpoint is of another run.
        WeightsError: Its weights cannot be found.
        PictureError: A picture cannot be read.
        TrainingError: A head cannot be fitted to the features.
        ModelFileError: The checkpoint is damaged.

    Example:
        >>> run = train_classifier(resolve_data(Path("pets"), seed=0))
        >>> run.predictions.correct.float().mean()
    """
    config = TrainConfig() if config is None else config
    display = Display() if display is None else display
    profile = RunProfile(wanted=False) if profile is None else profile
    loaders = loaders_for(table, config=config, cache=cache)
    settings = settings_of(config, table=table, device=loaders.device)
    cut_off = read_cut_off(checkpoint, settings=settings)
    display.header(EPOCH_COLUMNS)
    history: list[HistoryPoint] = []
    known: KnownPictures | None = None
    if cut_off is None:
        first = features_first(loaders, config=config, display=display, profile=profile)
        best = BestState(
            first.classifier, predictions=first.predictions, name="the head on frozen features"
        )
        history += first.history
        known = first.known
        recipe = f"Features first: {first.fit.setting}; {first.fit.accuracy:.1%} leave-one-out on the training pictures."
    else:
        best = _best_before(cut_off, loaders, config=config)
        recipe = cut_off.recipe
    epochs = config.epochs_on(loaders.device)
    interrupted, problem = False, ""
    if epochs:
        interrupted, problem = _end_to_end(
            loaders,
            best=best,
            history=history,
            notes={"recipe": recipe, "settings": settings},
            config=config,
            display=display,
            cbs=[*as_callbacks(checkpoint), *profile.callbacks()],
        )
        done = sum(point.stage == END_TO_END for point in history)
        number = str(epochs) if done == epochs else f"{done} of {epochs}"
        if known is not None:  # the body may have changed, and its features with it
            known = replace(known, features=None)
        recipe += f" Then {number} end-to-end epoch{'s' * (epochs > 1)}; kept: {best.name}."
    return TrainedRun(
        classifier=best.classifier.eval(),
        resize=Resize(config.size),
        predictions=best.predictions,
        history=tuple(history),
        recipe=recipe,
        interrupted=interrupted,
        problem=problem,
        known=known,
    )


def loaders_for(
    table: PictureTable, *, config: TrainConfig, cache: PictureCache | None = None
) -> DataLoaders:
    """Return loaders of a table that prepare its pictures as in validation.

    Args:
        table: Labelled pictures with their split.
        config: Choices of the run.
        cache: None is a new ``cache_for(table, config=config)``.

    Raises:
        ConfigError: The recipe is not for such a table.
    """
    if table.task != "category":
        raise ConfigError(
            f"The recipe fits a head for classes, and this table is of the task {table.task!r}. Train it with "
            "vision_learner(dls, arch)."
        )
    return DataLoaders(
        table,
        resize=Resize(config.size),
        batch_size=config.batch_size,
        seed=config.seed,
        num_workers=None if config.num_workers < 0 else config.num_workers,
        device=None if config.device == "auto" else config.device,
        cache=cache_for(table, config=config) if cache is None else cache,
        truncated=config.truncated,
    )


def features_first(
    loaders: DataLoaders,
    *,
    config: TrainConfig,
    display: Display,
    profile: RunProfile | None = None,
) -> FeatureStage:
    """Do the first stage of the recipe: a head on features of the frozen body; see ``fit_on_features``.

    Args:
        loaders: From ``loaders_for``.
        config: Choices of the run.
        display: Where to show progress.
        profile: Told where the time goes.
    """
    clock = None
    if profile is not None:
        clock = profile.stage(
            FEATURES_FIRST,
            phases=FEATURE_PHASES,
            num_pictures=loaders.train.n + loaders.valid.n,
            device=loaders.device,
        )
    return fit_on_features(
        loaders,
        arch=config.arch,
        weights=config.weights or None,
        precision=resolve_precision(config.precision, device=loaders.device),
        display=display,
        clock=clock,
    )


def settings_of(
    config: TrainConfig, *, table: PictureTable, device: torch.device
) -> dict[str, Any]:
    """Return what has to be the same for a run to be continued: its data, and the choices that its result depends on."""
    return {
        **data_identity(table),
        "arch": config.arch,
        "weights": config.weights,
        "epochs": config.epochs_on(device),
        "size": config.size,
        "presize": config.kept_size,
        "batch size": config.batch_size,
        "learning rate": config.learning_rate,
        "seed": config.seed,
        "precision": resolve_precision(config.precision, device=device),
    }


def _best_before(cut_off: CutOffRun, loaders: DataLoaders, *, config: TrainConfig) -> BestState:
    """Return a classifier with a head of the same make; the checkpoint will put its weights in."""
    classifier, _, _ = pooling_classifier(loaders, arch=config.arch, weights=config.weights or None)
    head = build_head(
        cut_off.head,
        stage_channels=classifier.backbone.stage_channels,
        num_classes=loaders.c,
    )
    classifier.head = head.to(loaders.device)
    precision = resolve_precision(config.precision, device=loaders.device, model=classifier)
    predictions = predict_batches(
        classifier, loaders.valid.batches(), table=loaders.table, precision=precision
    )
    return BestState(classifier.eval(), predictions=predictions, name="")


def _end_to_end(
    loaders: DataLoaders,
    *,
    best: BestState,
    history: list[HistoryPoint],
    notes: dict[str, Any],
    config: TrainConfig,
    display: Display,
    cbs: Callbacks,
) -> tuple[bool, str]:
    """Train end to end, leave the best state, and return whether Ctrl-C ended it and what else did."""
    try:
        train_end_to_end(
            loaders,
            best=best,
            history=history,
            notes=notes,
            epochs=config.epochs_on(loaders.device),
            presize=config.kept_size,
            learning_rate=config.learning_rate,
            precision=resolve_precision(
                config.precision, device=loaders.device, model=best.classifier
            ),
            display=display,
            cbs=cbs,
        )
    except KeyboardInterrupt:
        display.line("Stopped by Ctrl-C; the best state so far is kept.")
        return True, ""
    except (TrainingError, PictureError) as error:
        return False, f"{error} The best state so far is kept."
    finally:
        best.restore()
    return False, ""
