"""What ``vizsla train`` does with a table: features first, then end to end; an interrupted run can be continued.

Features first: a frozen body sees every image once and a head is fitted on its features in seconds (``head_fit.py``), which is
already a good classifier and a verdict on the data. Then, where there is a GPU or epochs are asked for, everything is trained
end to end from there at low rates, and the best state is kept.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from vizsla.data.cache.cache import ImageCache, expected_bytes
from vizsla.data.loading.dataloaders import DataLoaders, default_device
from vizsla.errors import ConfigError, PictureError, TrainingError
from vizsla.infer.run import predict_batches
from vizsla.infer.stored_features import FeatureStore
from vizsla.machine import home_folder, parse_bytes
from vizsla.models.heads import build_head
from vizsla.recipe.config import AUTO, TrainConfig
from vizsla.recipe.end_to_end import END_TO_END, BestState, OfferEpochs, train_end_to_end
from vizsla.recipe.features_first import (
    EPOCH_COLUMNS,
    features_first,
    fit_size,
    load_network,
    pooling_classifier,
)
from vizsla.recipe.flips import Flips
from vizsla.recipe.going_on import as_it_was, check_classes, choices_of, predict_before
from vizsla.recipe.networks import choose_network
from vizsla.text import counted
from vizsla.train.callbacks.base import as_callbacks
from vizsla.train.checkpoint import data_identity, differences
from vizsla.train.display import Display
from vizsla.train.profile import RunProfile
from vizsla.train.step import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Generator

    from vizsla.data.images.sizing import Resize
    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.infer.mistakes import KnownImages
    from vizsla.models.classifier import Classifier
    from vizsla.models.stages import Backbone
    from vizsla.train.checkpoint import Checkpoint
    from vizsla.train.earlier import EarlierModel
    from vizsla.types import ImageTable

_CANNOT_DIFFER = ("arch", "weights")
_ADDED = ("augment", "flip", "vertical_flip", "colour", "balance", "compress_gradients")
"""Options that older checkpoints do not have; they were made with the defaults."""

AS_IT_WAS = "the earlier model as it was"


def cache_for(table: ImageTable, *, config: TrainConfig) -> ImageCache:
    """Return the cache for a run over a table: all its images centred, and strips for the random crops of the end-to-end epochs."""
    device = default_device() if config.device == "auto" else torch.device(config.device)
    num_train, num_valid = len(table.train_rows), len(table.valid_rows)
    centred = expected_bytes(config.resizing(), num_centred=num_train + num_valid, num_strips=0)
    strips = expected_bytes(config.resizing(presized=True), num_centred=0, num_strips=num_train)
    needed = (centred or 0) + (strips or 0) * (config.epochs_on(device) > 0)
    budget = config.cache_budget
    return ImageCache(
        mode=config.cache,
        budget_bytes=None if budget == "auto" else parse_bytes(budget, option="cache_budget"),
        device=device,
        expected_bytes=needed,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """The result of training.

    Attributes:
        classifier: In eval mode, on the device it was trained on.
        resize: How its images are prepared.
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
    display.header(EPOCH_COLUMNS)
    history: list[HistoryPoint] = []
    known: KnownImages | None = None
    if kept is None:
        with _store_for(checkpoint, settings=settings) as store:
            first = features_first(
                loaders,
                config=config,
                display=display,
                profile=profile,
                backbone=backbone,
                store=store,
            )
        best = BestState(
            first.classifier,
            predictions=first.predictions,
            name="the head on frozen features",
            balanced=loaders.balance != "none",
        )
        history += first.history
        known = first.known
        flips = first.flips
        recipe = f"Features first: {first.fit.setting}; {first.fit.result} leave-one-out on the training images."
        if loaders.balance != "none":
            recipe += " Classes of unequal size have equal parts in it."
        recipe = " ".join([*([chosen] * bool(chosen)), recipe, *first.notes])
        if earlier is not None:
            recipe = f"Went on from {earlier.place.name} ({counted(len(earlier.vocab), 'class', 'classes')}). {recipe}"
            best = _offer_as_it_was(best, earlier, loaders, config=config, display=display)
    else:
        best = _best_before(kept["head"], loaders, backbone, config=config)
        recipe = kept["notes"]["recipe"]
        flips = Flips(**kept["notes"].get("flips", {}))
    epochs = config.epochs_on(loaders.device)
    unused = {
        "learning_rate": "--lr",
        "presize": "--presize",
        "patience": "--patience",
        "colour": "--no-colour",
        "compress_gradients": "--compress-gradients",
    }
    if config.augment != "none":
        unused["augment"] = "--augment"
    unused = [word for name, word in unused.items() if getattr(config, name) != getattr(TrainConfig(), name)]  # fmt: skip
    if unused and not epochs:
        display.line(f"Not used, as there are no end-to-end epochs (--epochs): {', '.join(unused)}")
    interrupted, problem = False, ""
    if epochs:
        try:
            train_end_to_end(
                loaders,
                best=best,
                history=history,
                notes={"recipe": recipe, "settings": settings, "flips": asdict(flips)},
                config=config,
                display=display,
                flips=flips,
                cbs=[*as_callbacks(checkpoint), *profile.steps(END_TO_END)],
            )
        except KeyboardInterrupt:
            display.line("Stopped by Ctrl-C; the best state so far is kept.")
            interrupted = True
        except (TrainingError, PictureError) as error:
            problem = f"{error} The best state so far is kept."
        finally:
            best.restore()
        done = sum(point.stage == END_TO_END for point in history)
        number = str(epochs) if done == epochs else f"{done} of {epochs}"
        recipe += f" Then {number} end-to-end epoch{'s' * (epochs > 1)}"
    is_as_it_was = best.name == AS_IT_WAS
    if epochs or is_as_it_was:
        recipe = f"{recipe.removesuffix('.')}; kept: {best.name}."
        if known is not None:  # the body may have changed, or the head, and the features with it
            known = replace(known, features=None)
    return TrainedRun(
        classifier=best.classifier.eval(),
        resize=config.resizing(),
        predictions=best.predictions,
        history=tuple(history),
        recipe=recipe,
        interrupted=interrupted,
        problem=problem,
        known=known,
        flips=flips,
        before=before,
        is_as_it_was=is_as_it_was,
    )


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
                stop.add_note("Features computed so far are kept: go on with --resume.")
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
    return (
        BestState(was, predictions=said, name=AS_IT_WAS, balanced=best.balanced)
        if is_better
        else best
    )


def loaders_for(
    table: ImageTable, *, config: TrainConfig, cache: ImageCache | None = None
) -> DataLoaders:
    """Return loaders of a table that prepare its images as in validation; a cache of None is a new ``cache_for`` it."""
    return DataLoaders(
        table,
        resize=config.resizing(),
        batch_size=config.batch_size,
        seed=config.seed,
        num_workers=config.num_threads,
        device=None if config.device == "auto" else config.device,
        cache=cache_for(table, config=config) if cache is None else cache,
        truncated=config.truncated,
        bit_depth=config.stated_bit_depth,
        balance=config.balance,
    )


def with_network(
    config: TrainConfig, loaders: DataLoaders, *, checkpoint: Checkpoint | None, display: Display
) -> tuple[TrainConfig, str]:
    """Return options with the best network for these images, and why it is; that of the run to continue, if there is one."""
    kept = None if checkpoint is None else checkpoint.kept_by(OfferEpochs)
    if kept is not None:
        return replace(config, arch=kept["notes"]["settings"]["arch"]), ""
    choice = choose_network(loaders, config=config, display=display)
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
    balanced = loaders.balance != "none"
    return BestState(classifier.eval(), predictions=predictions, name="", balanced=balanced)
