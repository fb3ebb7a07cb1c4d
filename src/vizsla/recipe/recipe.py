"""What ``vizsla train`` does with a table: features first, then end to end; an interrupted run can be continued.

Features first: a frozen body sees every image once and a head is fitted on its features in seconds (``head_fit.py``), which is
already a good classifier and a verdict on the data. Then, where there is a GPU or epochs are asked for, everything is trained
end to end from there at low rates, and the best state is kept.
"""

from __future__ import annotations

import math
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError, PictureError, TrainingError
from vizsla.infer.run import predict_batches
from vizsla.infer.stored_features import FeatureStore
from vizsla.machine import home_folder
from vizsla.models.classifier import Classifier
from vizsla.models.heads import build_head
from vizsla.recipe.config import AUTO, TrainConfig, at_size
from vizsla.recipe.end_to_end import (
    END_TO_END,
    BestState,
    OfferEpochs,
    Trial,
    train_end_to_end,
    try_end_to_end,
)
from vizsla.recipe.features_first import (
    features_first,
    fit_size,
    load_network,
    loaders_for,
    pooling_classifier,
)
from vizsla.recipe.flips import Flips
from vizsla.recipe.going_on import as_it_was, check_classes, choices_of, predict_before
from vizsla.recipe.minutes import better_features
from vizsla.recipe.networks import SECONDS, choose_network
from vizsla.text import counted
from vizsla.train.callbacks.base import as_callbacks
from vizsla.train.checkpoint import data_identity, differences
from vizsla.train.display import Display
from vizsla.train.profile import RunProfile
from vizsla.train.step import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch

    from vizsla.data.cache.cache import ImageCache
    from vizsla.data.images.sizing import Resize
    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.infer.mistakes import KnownImages
    from vizsla.models.stages import Backbone
    from vizsla.recipe.features_first import HeldOut
    from vizsla.train.callbacks.base import Callback
    from vizsla.train.checkpoint import Checkpoint
    from vizsla.train.earlier import EarlierModel
    from vizsla.types import ImageTable

_CANNOT_DIFFER = ("arch", "weights")
_ADDED = ("augment", "flip", "vertical_flip", "colour", "balance", "compress_gradients", "minutes")
"""Options that older checkpoints do not have; they were made with the defaults."""

MINUTES_COST = 20
"""Times as long as the features: those of a larger network and size, a trial and a training of eight epochs each."""
COMPARED_SHARE = 0.25
"""Of the minutes, for a comparison of networks."""
AS_IT_WAS = "the earlier model as it was"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """The result of training.

    Attributes:
        classifier: In eval mode, on the device it was trained on.
        resize: How its images are prepared; to a larger size than that of the options where minutes were well spent on it.
        predictions: On the validation images.
        history: One point per fit of the head and per epoch.
        recipe: What was done, in words.
        interrupted: Ctrl-C ended the end-to-end epochs early; this is the best state until then.
        problem: Why the end-to-end epochs could not go on, empty if they could; this is the best state until then.
        known: What the first stage knows of the training images; None after a resumed run.
        flips: Which mirror images of training images it learned from.
        before: What the earlier model said of the validation images whose labels it knows, if the run went on from one.
        is_as_it_was: Whether it is that model unchanged, whose probabilities were not calibrated by this run.
    """

    classifier: Classifier
    resize: Resize
    predictions: Predictions
    history: tuple[HistoryPoint, ...]
    recipe: str
    interrupted: bool = False
    problem: str = ""
    known: KnownImages | None = None
    flips: Flips = field(default_factory=Flips)
    before: Predictions | None = None
    is_as_it_was: bool = False


def train_classifier(
    table: ImageTable,
    *,
    config: TrainConfig | None = None,
    display: Display | None = None,
    cache: ImageCache | None = None,
    checkpoint: Checkpoint | None = None,
    profile: RunProfile | None = None,
    backbone: Backbone | None = None,
    earlier: EarlierModel | None = None,
) -> TrainedRun:
    """Train a classifier on a table by the default recipe, and return it with its predictions of the validation images.

    Args:
        table: Labelled images with their split.
        config: Options; None is all defaults.
        display: Where to show progress; None is the screen.
        cache: Images that were read already at the size of ``config``; None is a new ``cache_for(table, config=config)``.
        checkpoint: Stores the state of the end-to-end epochs now and then, and continues from it where it is to resume.
        profile: Told where the time goes; None does not measure that.
        backbone: What ``network_of_run`` returned for this ``config``; None loads it here, after it was chosen where ``arch`` is ``auto``.
        earlier: What ``choices_of`` returned with this ``config``; None opens the model that ``config`` goes on from.

    Raises:
        ConfigError: There is no such network, an option cannot work, or the checkpoint is of another run.
        WeightsError: Its weights cannot be found.
        PictureError: An image cannot be read.
        TrainingError: A head cannot be fitted to the features.
        ModelFileError: The checkpoint is damaged, or was lost before the end-to-end epochs.

    Examples:
        >>> from vizsla.data.table.from_words import resolve_data
        >>> table = resolve_data("pets", seed=0)
        >>> run = train_classifier(table, config=TrainConfig(size=128, epochs=0))
        >>> accuracy = run.predictions.correct.float().mean()
    """
    config = TrainConfig() if config is None else config
    display = Display() if display is None else display
    profile = RunProfile(wanted=False) if profile is None else profile
    if config.start_from and earlier is None:
        config, earlier = choices_of(config)
        for line in () if earlier is None else check_classes(earlier, table):
            display.line(line)
    started = time.monotonic()
    chosen = ""
    if config.arch == AUTO:
        loaders = loaders_for(table, config=config, cache=cache)
        cache = loaders.cache
        config, chosen = with_network(config, loaders, checkpoint=checkpoint, display=display)
    if backbone is None:
        backbone = load_network(config, earlier)
        if earlier is None:
            config, notes = fit_size(config, backbone)
            for line in notes:
                display.line(line)
    loaders = loaders_for(table, config=config, cache=cache)
    settings = _settings_of(config, table=loaders.table, device=loaders.device)
    kept = _kept_by(checkpoint, settings=settings)
    before: Predictions | None = None
    if earlier is not None:
        precision = resolve_precision(config.precision, device=loaders.device)
        before = predict_before(earlier, loaders, precision=precision)
    if kept is not None:
        begun = _as_before(kept, loaders, backbone, config=config)
    else:
        with _store_for(checkpoint, settings=settings) as store:
            begun = _from_features(
                loaders,
                backbone,
                config=config,
                chosen=chosen,
                earlier=earlier,
                started=started,
                store=store,
                display=display,
                profile=profile,
            )
    if unused := _unused_options(config, device=loaders.device):
        display.line(f"Not used, as there are no end-to-end epochs (--epochs): {', '.join(unused)}")
    trained = _Trained(recipe=begun.recipe)
    if config.trains_on(loaders.device):
        cbs = [*as_callbacks(checkpoint), *profile.steps(END_TO_END)]
        trained = _end_to_end(begun, started=started, settings=settings, display=display, cbs=cbs)
    best, recipe, known = begun.best, trained.recipe, begun.known
    is_as_it_was = best.name == AS_IT_WAS
    if config.trains_on(loaders.device) or is_as_it_was:
        recipe = f"{recipe.removesuffix('.')}; kept: {best.name}."
        if known is not None:  # the body may have changed, or the head, and the features with it
            known = replace(known, features=None)
    return TrainedRun(
        classifier=best.classifier.eval(),
        resize=begun.config.resizing(),
        predictions=best.predictions,
        history=tuple(begun.history),
        recipe=recipe,
        interrupted=trained.interrupted,
        problem=trained.problem,
        known=known,
        flips=begun.flips,
        before=before,
        is_as_it_was=is_as_it_was,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    """What end-to-end training goes on from: the features' stage, or a checkpoint.

    Attributes:
        config: The options, with the network and the size that were kept.
        loaders: Of that size.
        best: The fitted head, or what the checkpoint will load.
        history: So far.
        recipe: What was done, in words.
        flips: Which mirror images it learns from.
        known: What the features' stage knows of the training images; None after a resumed run.
        start: What a trial starts from, and what judges it; None where nothing is tried.
        trial: The one that was made before the run was cut off.
    """

    config: TrainConfig
    loaders: DataLoaders
    best: BestState
    history: list[HistoryPoint]
    recipe: str
    flips: Flips
    known: KnownImages | None = None
    start: tuple[Classifier, HeldOut] | None = None
    trial: Trial | None = None


def _from_features(
    loaders: DataLoaders,
    backbone: Backbone,
    *,
    config: TrainConfig,
    chosen: str,
    earlier: EarlierModel | None,
    started: float,
    store: FeatureStore,
    display: Display,
    profile: RunProfile,
) -> _Begun:
    """Fit a head on frozen features: those of the network that was asked for, or better ones where there are minutes for them."""
    first = features_first(
        loaders, config=config, display=display, profile=profile, backbone=backbone, store=store
    )
    if not isinstance(config.minutes, str):
        first = better_features(
            first,
            store=store,
            seconds=time.monotonic() - started,
            until=started + 60 * config.minutes,
            display=display,
            profile=profile,
        )
    elif config.epochs == "auto" and not config.trains_on(loaders.device):
        minutes = math.ceil(MINUTES_COST * (time.monotonic() - started) / 60)
        display.line(
            f"Other networks, a larger size and end-to-end training may gain more: --minutes {minutes} tries them."
        )
    best = BestState(
        first.classifier, predictions=first.predictions, name="the head on frozen features"
    )
    recipe = f"Features first: {first.fit.setting}; {first.fit.result} on the training images, each left out in turn."
    if loaders.balance != "none":
        recipe += " Classes of unequal size have equal parts in it."
    recipe = " ".join([*([chosen] * bool(chosen)), recipe, *first.notes])
    if earlier is not None:
        recipe = f"Went on from {earlier.place.name} ({counted(len(earlier.vocab), 'class', 'classes')}). {recipe}"
        best = _offer_as_it_was(best, earlier, loaders, config=config, display=display)
    start: tuple[Classifier, HeldOut] | None = None
    if first.held_out is not None:
        of_rest = best.classifier
        if of_rest is first.classifier:
            of_rest = Classifier(
                of_rest.backbone,
                first.held_out.head,
                vocab=of_rest.vocab,
                task=of_rest.task,
                class_type=of_rest.class_type,
            )
        start = of_rest, first.held_out
    return _Begun(
        config=first.features.config,
        loaders=first.features.loaders,
        best=best,
        history=[*first.history],
        recipe=recipe,
        flips=first.flips,
        known=first.known,
        start=start,
    )


def _as_before(
    kept: dict[str, Any], loaders: DataLoaders, backbone: Backbone, *, config: TrainConfig
) -> _Begun:
    """Go on from a checkpoint, with the network and the size that the run had chosen."""
    notes = kept["notes"]
    if "trial" not in notes:
        raise ConfigError(
            "The run was cut off while an older version of vizsla trained it end to end, which chose in another way what is kept. "
            "Start again: leave out --resume, and add --force to replace what is there."
        )
    trial = Trial(**notes["trial"])
    if not config.chooses_epochs:  # --force may have changed them
        trial = replace(trial, epochs=config.epochs_on(loaders.device))
    if (arch := notes.get("arch", config.arch)) != config.arch:
        config = replace(config, arch=arch)
        backbone = load_network(config)
    if (size := notes.get("size", config.size)) != config.size:
        config = at_size(config, size)
        loaders = loaders_for(loaders.table, config=config, cache=loaders.cache)
    return _Begun(
        config=config,
        loaders=loaders,
        best=_best_before(kept["head"], loaders, backbone, config=config),
        history=[],
        recipe=notes["recipe"],
        flips=Flips(**notes.get("flips", {})),
        trial=trial,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """How end-to-end training went, as ``TrainedRun`` tells it."""

    recipe: str
    interrupted: bool = False
    problem: str = ""


def _end_to_end(
    begun: _Begun,
    *,
    started: float,
    settings: dict[str, Any],
    display: Display,
    cbs: list[Callback],
) -> _Trained:
    """Try whether training end to end pays, and do it if it does; the best state is in ``begun.best`` and in its classifier afterwards."""
    config, best, trial = begun.config, begun.best, begun.trial
    epochs = config.epochs_on(begun.loaders.device)
    interrupted, problem = False, ""
    try:
        if trial is None:
            trial = Trial(epochs=epochs, share=0.0)
            if begun.start is not None:
                start, held_out = begun.start
                seconds = None
                if not isinstance(config.minutes, str):
                    seconds = started + 60 * config.minutes - time.monotonic()
                trial = try_end_to_end(
                    begun.loaders,
                    start=start,
                    held_out=held_out,
                    config=config,
                    display=display,
                    flips=begun.flips,
                    seconds=seconds,
                )
        if trial.epochs:
            train_end_to_end(
                begun.loaders,
                best=best,
                trial=trial,
                history=begun.history,
                notes={
                    "recipe": begun.recipe,
                    "settings": settings,
                    "flips": asdict(begun.flips),
                    "arch": config.arch,
                    "size": config.size,
                    "trial": asdict(trial),
                },
                config=config,
                display=display,
                flips=begun.flips,
                cbs=cbs,
            )
    except KeyboardInterrupt:
        display.line("Stopped by Ctrl-C; the best state so far is kept.")
        interrupted = True
    except (TrainingError, PictureError) as error:
        problem = f"{error} The best state so far is kept."
    finally:
        best.restore()
    done = sum(point.stage == END_TO_END for point in begun.history)
    asked = trial.epochs if trial is not None else epochs
    number = str(done) if done == asked else f"{done} of {asked}"
    told = trial.line if trial is not None else ""
    recipe = (
        f"{begun.recipe} {told}".rstrip() + f" Then {number} end-to-end epoch{'s' * (asked != 1)}"
    )
    return _Trained(recipe=recipe, interrupted=interrupted, problem=problem)


def _unused_options(config: TrainConfig, *, device: torch.device) -> list[str]:
    """Return the options that were given and concern end-to-end epochs alone, where there are none."""
    if config.trains_on(device):
        return []
    words = {
        "learning_rate": "--lr",
        "presize": "--presize",
        "patience": "--patience",
        "colour": "--no-colour",
        "compress_gradients": "--compress-gradients",
    }
    if config.augment != "none":
        words["augment"] = "--augment"
    return [word for name, word in words.items() if getattr(config, name) != getattr(TrainConfig(), name)]  # fmt: skip


@contextmanager
def _store_for(
    checkpoint: Checkpoint | None, *, settings: dict[str, Any]
) -> Generator[FeatureStore]:
    """Give a place for features that are too large for memory: beside the checkpoint, to go on with; else for this block."""
    if checkpoint is not None:
        folder = checkpoint.path.parent / "features"
        try:
            yield FeatureStore(folder=folder, identity=settings, resume=checkpoint.resume)
        except KeyboardInterrupt as stop:
            if folder.exists():
                stop.add_note("Features computed so far are kept: continue with --resume.")
            raise
        return
    folder = home_folder() / "cache" / "features" / secrets.token_hex(8)
    store = FeatureStore(folder=folder, identity=settings)
    try:
        yield store
    finally:
        store.remove()


def _offer_as_it_was(
    best: BestState,
    earlier: EarlierModel,
    loaders: DataLoaders,
    *,
    config: TrainConfig,
    display: Display,
) -> BestState:
    """Return the state with the lower validation loss: the fitted head, or, with the same classes, the earlier model as it was."""
    was = as_it_was(earlier, best.classifier.backbone, loaders.table)
    if was is None:
        return best
    was.place(loaders.device)
    precision = resolve_precision(config.precision, device=loaders.device, model=was)
    said = predict_batches(was, loaders.valid.batches(), table=loaders.table, precision=precision)
    losses = float(said.losses.mean()), float(best.predictions.losses.mean())
    is_better = losses[0] < losses[1]
    display.line(
        f"Validation loss of the earlier model as it was {losses[0]:.4f}, with the head fitted again {losses[1]:.4f}; "
        f"kept: {AS_IT_WAS if is_better else best.name}."
    )
    return BestState(was, predictions=said, name=AS_IT_WAS) if is_better else best


def with_network(
    config: TrainConfig, loaders: DataLoaders, *, checkpoint: Checkpoint | None, display: Display
) -> tuple[TrainConfig, str]:
    """Return options with the best network for these images, and why it is; that of the run to continue, if there is one."""
    kept = None if checkpoint is None else checkpoint.kept_by(OfferEpochs)
    if kept is not None:
        return replace(config, arch=kept["notes"]["settings"]["arch"]), ""
    seconds = SECONDS
    if not isinstance(config.minutes, str):
        seconds = min(seconds, COMPARED_SHARE * 60 * config.minutes)
    choice = choose_network(loaders, config=config, display=display, seconds=seconds)
    return replace(config, arch=choice.arch), choice.reason


def network_of_run(
    config: TrainConfig, *, checkpoint: Checkpoint, earlier: EarlierModel | None = None
) -> Backbone | None:
    """Return the network of a run, with its weights: what can be refused before an image is read.

    None where it is chosen by looking at the images.

    Raises:
        ConfigError: There is no such network, or the checkpoint to continue from is of another one.
        WeightsError: Its weights cannot be found.
        ModelFileError: The checkpoint is damaged.
    """
    if config.arch == AUTO:
        return None
    weights = config.start_from or config.weights
    _kept_by(checkpoint, settings={"arch": config.arch, "weights": weights})
    return load_network(config, earlier)


def _settings_of(config: TrainConfig, *, table: ImageTable, device: torch.device) -> dict[str, Any]:
    """Return what must not change for a run to be continued: its data, and the options that its result depends on."""
    return {
        **data_identity(table),
        "arch": config.arch,
        "weights": config.start_from or config.weights,
        "epochs": config.epochs_on(device),
        "size": config.size,
        "presize": config.kept_size,
        "batch size": config.batch_size,
        "learning rate": config.learning_rate,
        "seed": config.seed,
        "precision": resolve_precision(config.precision, device=device),
        "bit depth": table.bit_depth,
        **{name: getattr(config, name) for name in _ADDED},
    }


def _kept_by(checkpoint: Checkpoint | None, *, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return what ``OfferEpochs`` kept of a run interrupted in its end-to-end epochs; None if there is none to continue."""
    kept = None if checkpoint is None else checkpoint.kept_by(OfferEpochs)
    if checkpoint is None or kept is None:
        return None
    before = {name: getattr(TrainConfig(), name) for name in _ADDED} | kept["notes"]["settings"]
    differing = differences(before, settings)
    if differing and (not checkpoint.force or differing.keys() & set(_CANNOT_DIFFER)):
        raise ConfigError(
            f"The run to continue ({checkpoint.path}) was another one. What differs: {'; '.join(differing.values())}. Use "
            "the options of that run, leave out --resume to train from the start, or continue anyway with --force, which "
            "cannot change the network."
        )
    return kept


def _best_before(
    head: dict[str, Any], loaders: DataLoaders, backbone: Backbone, *, config: TrainConfig
) -> BestState:
    """Return a classifier with a head of the same shape; the checkpoint will load the weights."""
    classifier, _, _ = pooling_classifier(loaders, backbone)
    made = build_head(
        head, stage_channels=classifier.backbone.stage_channels, num_classes=loaders.c
    )
    classifier.head = made.to(loaders.device)
    precision = resolve_precision(config.precision, device=loaders.device, model=classifier)
    predictions = predict_batches(
        classifier, loaders.valid.batches(), table=loaders.table, precision=precision
    )
    return BestState(classifier.eval(), predictions=predictions, name="")
