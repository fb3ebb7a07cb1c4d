"""The first stage: a frozen body computes the features of every image once, and a head is fitted on them.

The body sees every image once (training images also mirrored, where that does no harm), forward only. The head is also fitted on parts of the training
images: if accuracy still rises towards all of them, more images would help. Features that do not fit into memory are kept in a file
until then.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from vizsla import __version__
from vizsla.data.cache.cache import ImageCache, expected_bytes
from vizsla.data.loading.dataloaders import DataLoaders, default_device
from vizsla.data.table.splits import stratified_split
from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import HistoryPoint, Predictions
from vizsla.infer.mistakes import MOST_TRAINING, KnownImages
from vizsla.infer.neighbours import evenly_spread, standardised
from vizsla.infer.run import Features, extract_features, table_predictions
from vizsla.infer.stored_features import StoredFeatures
from vizsla.infer.streamline import StreamlinedOnce
from vizsla.machine import parse_bytes
from vizsla.models.backbones import build_backbone, joined_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import FeatureHead
from vizsla.recipe.config import at_size
from vizsla.recipe.flips import Flips, without_harmful
from vizsla.recipe.head_fit import (
    ROWS_AT_ONCE,
    FeatureLayout,
    FitOptions,
    HeadFit,
    HeadSetting,
    default_setting,
    fit_feature_head,
)
from vizsla.seeding import derive_seed, generator
from vizsla.text import counted, duration_text
from vizsla.train.distributed import all_of, positions_of, share
from vizsla.train.losses import balanced_class_weights
from vizsla.train.profile import (
    AUGMENTATION,
    COPY,
    FORWARD,
    OVERHEAD,
    WAITING,
    PhaseClock,
    RunProfile,
    watched_batches,
)
from vizsla.train.step import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.infer.stored_features import FeatureStore
    from vizsla.models.stages import Backbone
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display
    from vizsla.train.earlier import EarlierModel
    from vizsla.types import ImageTable

STATISTICS = ("mean", "std")
NUM_POOLED_STAGES = 4
"""At the end of the body; the edges and colours before say little about classes."""
SHARES = (0.125, 0.25, 0.5, 1.0)
"""The head is fitted on these parts of the training images, one after the other."""
HELD_SHARE, MOST_HELD, FEWEST_TRIED = 0.25, 2_000, 8
"""Of the training images, how many are held out to judge end-to-end training; with fewer left nothing can be judged."""
BUILDING, FITTING, LEARNING_CURVE = "loading the network", "fitting the head", "learning curve"
FEATURES_FIRST = "features first"
FEATURE_PHASES = (BUILDING, WAITING, COPY, AUGMENTATION, FORWARD, FITTING, LEARNING_CURVE, OVERHEAD)
"""Where the time of this stage goes; "augmentation" only makes floats of the images here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """A part of the training images, and a head that does not know it.

    Attributes:
        rest: int64, rows of the training images that the head was fitted on.
        held: int64, rows of the others.
        head: The head.
    """

    rest: Tensor
    held: Tensor
    head: FeatureHead


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extracted:
    """Features of N images, float32 ``(N, V, D)``, with their targets and rows of the table."""

    values: Tensor | StoredFeatures
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """The features of all images of a run, as one network or two joined ones see them at one size.

    Attributes:
        config: Options with that network and size.
        loaders: Prepare the images at that size.
        classifier: The network, with a head that only pools.
        layout: What the columns are.
        train: Of the training images, in the views of ``flips``.
        valid: Of the validation images.
        flips: Which mirror images are among the views.
        clock: Of the stage.
        store: Where the features are, if not in memory.
    """

    config: TrainConfig
    loaders: DataLoaders
    classifier: Classifier
    layout: FeatureLayout
    train: _Extracted
    valid: _Extracted
    flips: Flips
    clock: PhaseClock
    store: FeatureStore | None

    @property
    def problem(self) -> FitOptions:
        """What is the same for every head on these features."""
        loaders = self.loaders
        return {
            "layout": self.layout,
            "num_classes": len(loaders.table.vocab),
            "task": loaders.table.task,
            "class_weights": None if loaders.balance == "none" else balanced_class_weights(loaders),
            "seed": loaders.seed,
        }

    def fit(self, images: Tensor | None = None, *, setting: HeadSetting | None = None) -> HeadFit:
        """Fit a head on all training images or on some, by their positions; by default the one that suits any data."""
        values, targets = self.train.values, self.train.targets
        if setting is None:
            setting = default_setting(self.layout, num_rows=values.shape[0] * values.shape[1])
        if images is not None:
            values, targets = _some(values, images=images), targets[images]
        return fit_feature_head(values, targets, setting=setting, **self.problem)

    def discard(self) -> None:
        """Remove what is on disk."""
        if self.store is not None:
            self.store.remove()


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureStage:
    """The result of the first stage.

    Attributes:
        classifier: Body and fitted head, in eval mode.
        features: What the head was fitted on; those on disk are gone.
        fit: The head and how it was chosen.
        predictions: On the validation images.
        history: One point per fit of the head, on growing parts of the training images.
        known: Features of training images, and their leave-one-out predictions.
        flips: Which mirror images of training images it learned from.
        notes: What was decided about them, a line each.
        held_out: What judges end-to-end training, where there may be some.
    """

    classifier: Classifier
    features: FeatureSet
    fit: HeadFit
    predictions: Predictions
    history: tuple[HistoryPoint, ...]
    known: KnownImages
    flips: Flips
    notes: tuple[str, ...]
    held_out: HeldOut | None = None


def features_first(
    loaders: DataLoaders,
    *,
    config: TrainConfig,
    display: Display,
    profile: RunProfile | None = None,
    backbone: Backbone | None = None,
    store: FeatureStore | None = None,
) -> FeatureStage:
    """Compute the features of all images once and fit a head; ``backbone`` as from ``load_network``.

    Features that are too large for memory go to the ``store``, which is empty again afterwards; without one, and in several
    processes, they are kept in memory.

    Raises:
        OutputError: The store has too little room.
        TrainingError: A head cannot be fitted to the features.
    """
    started = time.monotonic()
    found = compute_features(
        loaders, config=config, display=display, profile=profile, backbone=backbone, store=store
    )
    number = counted(len(found.train.rows) + len(found.valid.rows), "image")
    display.line(f"Features of {number}: {duration_text(time.monotonic() - started, space=' ')}")
    found.clock.to(FITTING)
    notes: tuple[str, ...] = ()
    with display.bar(FITTING, total=1, unit=""):
        best = found.fit()
        if config.flip is not True:
            asked, values, targets = found.flips, found.train.values, found.train.targets
            flips, notes = without_harmful(asked, values, targets, found=best, **found.problem)
            if flips != asked:
                kept = tuple(asked.views.index(view) for view in flips.views)
                train = replace(found.train, values=_some(values, views=kept))
                found = replace(found, train=train, flips=flips)
                best = found.fit(setting=best.setting)
    for note in notes:
        display.line(note)
    return finish_stage(found, best, display=display, started=started, notes=notes)


def compute_features(
    loaders: DataLoaders,
    *,
    config: TrainConfig,
    display: Display,
    profile: RunProfile | None = None,
    backbone: Backbone | None = None,
    store: FeatureStore | None = None,
    flips: Flips | None = None,
) -> FeatureSet:
    """Compute the features of all images once; ``flips`` None are those that the options ask for, the rest as for ``features_first``."""
    table = loaders.table
    profile = RunProfile(wanted=False) if profile is None else profile
    clock = profile.stage(
        FEATURES_FIRST,
        phases=FEATURE_PHASES,
        num_images=loaders.train.n + loaders.valid.n,
        device=loaders.device,
    )
    classifier, pooling, layout = pooling_classifier(
        loaders, load_network(config) if backbone is None else backbone
    )
    flips = Flips.asked_for(config) if flips is None else flips
    num_features = len(pooling.offset)
    num_views = loaders.train.n * len(flips.views) + loaders.valid.n
    num_bytes = 4 * num_features * num_views
    if share()[1] > 1 or (store is not None and not store.is_needed(num_bytes)):
        store = None
    if store is not None:
        display.line(store.prepare(num_bytes))
        store = replace(store, identity={**store.identity, **_body_identity(classifier.backbone)})
    look = partial(
        extract_features,
        classifier,
        head=pooling,
        quick=StreamlinedOnce(classifier),
        precision=resolve_precision(config.precision, device=loaders.device),
    )
    extract = partial(
        _extract,
        rest_of=loaders.loader_for,
        look=look,
        num_features=num_features,
        store=store,
        display=display,
        clock=clock,
    )
    train = extract(loaders.loader_for(table.train_rows), "features, training", flips.views)
    valid = extract(loaders.valid, "features, validation", ("plain",))
    return FeatureSet(
        config=config,
        loaders=loaders,
        classifier=classifier,
        layout=layout,
        train=train,
        valid=valid,
        flips=flips,
        clock=clock,
        store=store,
    )


def join_features(one: FeatureSet, other: FeatureSet) -> FeatureSet:
    """Return the features of two networks side by side; both saw the same views of the images at the same size, and are in memory."""
    backbone = joined_backbone((one.classifier.backbone, other.classifier.backbone))
    classifier, _, layout = pooling_classifier(other.loaders, backbone)

    def both(first: _Extracted, second: _Extracted) -> _Extracted:
        if isinstance(first.values, StoredFeatures) or isinstance(second.values, StoredFeatures):
            raise ConfigError("Features in files are not joined.")
        return replace(first, values=torch.cat([first.values, second.values], dim=2))

    return replace(
        other,
        config=replace(other.config, arch=backbone.spec.arch),
        classifier=classifier,
        layout=layout,
        train=both(one.train, other.train),
        valid=both(one.valid, other.valid),
    )


def finish_stage(
    found: FeatureSet,
    best: HeadFit,
    *,
    display: Display,
    started: float,
    notes: tuple[str, ...] = (),
) -> FeatureStage:
    """Return the stage for a head that ``found.fit`` returned: also fitted on parts of the images, for the learning curve and a trial."""
    table, loaders, layout = found.loaders.table, found.loaders, found.layout
    train, valid, clock = found.train, found.valid, found.clock
    setting = best.setting
    clock.to(LEARNING_CURVE)
    columns = layout.columns(setting.stages, setting.statistics)
    order = torch.randperm(len(train.rows), generator=generator(loaders.seed, "shares"))
    fits: list[tuple[HeadFit, Predictions]] = []
    history: list[HistoryPoint] = []
    display.header(CURVE_COLUMNS)
    for fraction in SHARES:
        part = order[: max(2, round(fraction * len(order)))].sort().values
        fit = best if fraction == 1 else found.fit(part, setting=setting)
        with torch.inference_mode():
            logits = torch.cat(
                [fit.head.classify(each[:, 0, columns]) for each in _blocks(valid.values)]
            )
        predictions = table_predictions(
            table, rows=valid.rows, logits=logits.clone(), targets=valid.targets
        )
        fits.append((fit, predictions))
        is_class = table.task == "category"
        accuracy = float(predictions.correct.float().mean()) if is_class else None
        history.append(
            HistoryPoint(
                stage="head",
                epoch=0,
                train_loss=fit.loss,
                valid_loss=float(predictions.losses.mean()),
                accuracy=accuracy,
                seconds=time.monotonic() - started,
                num_pictures=len(part),
            )
        )
        show_point(history[-1], display=display)
        started = time.monotonic()
    fit, predictions = fits[-1]
    chosen = torch.tensor(evenly_spread(range(len(train.rows)), most=MOST_TRAINING))
    with torch.inference_mode():
        features = standardised(fit.head, train.values[chosen][:, 0, columns])
    known = KnownImages(
        rows=train.rows[chosen],
        features=features.clone(),
        left_out=table_predictions(
            table,
            rows=train.rows[fit.sample],
            logits=fit.left_out,
            targets=train.targets[fit.sample],
        ),
    )
    held_out: HeldOut | None = None
    if found.config.trains_on(loaders.device):
        rest, held = hold_out(table, train.rows, seed=loaders.seed)
        if len(held) and len(rest) >= FEWEST_TRIED:
            without = found.fit(rest, setting=setting)
            held_out = HeldOut(rest=train.rows[rest], held=train.rows[held], head=without.head)
    classifier = found.classifier
    classifier.head = fit.head.to(loaders.device)
    found.discard()
    clock.stop()
    return FeatureStage(
        classifier=classifier.eval(),
        features=found,
        fit=fit,
        predictions=predictions,
        history=tuple(history),
        known=known,
        flips=found.flips,
        notes=notes,
        held_out=held_out,
    )


def hold_out(table: ImageTable, rows: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return positions in ``rows`` to train on and to hold out, a part of each class in both."""
    share = min(HELD_SHARE, MOST_HELD / len(rows))
    return divide_rows(table, rows, share=share, seed=derive_seed(seed, "held out"))


def divide_rows(
    table: ImageTable, rows: Tensor, *, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return positions in ``rows``, int64: of the larger part and of the ``share``, a part of each class in both."""
    groups = table.targets[rows].tolist() if table.task == "category" else [0] * len(rows)
    split = stratified_split(groups, valid_fraction=share, seed=seed)
    rest, chosen = (torch.as_tensor(positions, dtype=torch.int64) for positions in split)
    return rest, chosen


def cache_for(table: ImageTable, *, config: TrainConfig) -> ImageCache:
    """Return the cache for a run over a table: all its images centred, and strips for the random crops of the end-to-end epochs."""
    device = default_device() if config.device == "auto" else torch.device(config.device)
    num_train, num_valid = len(table.train_rows), len(table.valid_rows)
    centred = expected_bytes(config.resizing(), num_centred=num_train + num_valid, num_strips=0)
    strips = expected_bytes(config.resizing(presized=True), num_centred=0, num_strips=num_train)
    needed = (centred or 0) + (strips or 0) * config.trains_on(device)
    budget = config.cache_budget
    return ImageCache(
        mode=config.cache,
        budget_bytes=None if budget == "auto" else parse_bytes(budget, option="cache_budget"),
        device=device,
        expected_bytes=needed,
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


def load_network(config: TrainConfig, earlier: EarlierModel | None = None) -> Backbone:
    """Return the network of a run, with its weights; those of the earlier model where it goes on from one."""
    seed = derive_seed(config.seed, "model")
    if earlier is not None:
        return earlier.build_body(None, cut=None, seed=seed)
    return build_backbone(config.arch, weights_file=config.weights or None, seed=seed)


def fit_size(config: TrainConfig, backbone: Backbone) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return the options with a size that the network takes, and what the user should know of it and of its weights, a line each.

    Raises:
        ConfigError: It takes images of one size only, and not of this one.
    """
    spec, notes = backbone.spec, list[str]()
    if spec.licence_note:
        notes.append(spec.licence_note)
    fixed = backbone.fixed_size
    if fixed not in (None, (config.size, config.size)):
        raise ConfigError(
            f"The network {spec.name} takes images of {fixed[0]} x {fixed[1]} pixels only. Received: size={config.size}. Set the size "
            f"to {fixed[0]}, or choose another network."
        )
    patch = math.lcm(*(side for part in backbone.parts for side in part.patch_size))
    size = max(1, round(config.size / patch)) * patch
    if size != config.size:
        notes.append(
            f"The network {spec.name} sees patches of {patch} pixels: images are of {size} x {size} pixels, not {config.size}."
        )
        config = at_size(config, size)
    return config, tuple(notes)


def pooling_classifier(
    loaders: DataLoaders, backbone: Backbone
) -> tuple[Classifier, FeatureHead, FeatureLayout]:
    """Return a classifier on the loaders' device whose head only pools so far, that head, and the layout of its features."""
    channels = backbone.stage_channels
    ranges = backbone.stage_ranges
    stages = tuple(stage for each in ranges for stage in each[-NUM_POOLED_STAGES:])
    layout = FeatureLayout(stages=stages, statistics=STATISTICS, channels=channels)
    pooling = FeatureHead(
        stages=stages,
        statistics=STATISTICS,
        num_features=len(layout.columns(stages, STATISTICS)),
        num_classes=loaders.c,
    )
    table = loaders.table
    classifier = Classifier(
        backbone, pooling, vocab=table.vocab, task=table.task, class_type=table.class_type
    )
    return classifier.place(loaders.device), pooling, layout


def _extract(
    loader: DataLoader,
    label: str,
    views: tuple[str, ...],
    *,
    rest_of: Callable[[Tensor], DataLoader],
    look: Callable[..., Features],
    num_features: int,
    store: FeatureStore | None,
    display: Display,
    clock: PhaseClock,
) -> _Extracted:
    """Extract features with a progress bar; several processes do a part each, and each gets all."""
    rows = loader.rows
    with display.bar(label, total=loader.n) as move:
        if store is not None:
            shape = (len(rows), len(views), num_features)
            with store.writing(f"{label}.f32", shape=shape) as writer:
                begun = writer.num_done
                if begun < len(rows):
                    batches = watched_batches(rest_of(rows[begun:]), clock=clock)
                    progress = lambda done: move(begun + done)  # noqa: E731
                    look(batches, views=views, into=writer.add, on_progress=progress)
            targets = loader.table.targets[rows]
            return _Extracted(values=writer.features, targets=targets, rows=rows)
        part = look(watched_batches(loader, clock=clock), views=views, on_progress=move)
    if share()[1] == 1:
        return _Extracted(values=part.values, targets=part.targets, rows=part.rows)
    parts: list[Features] = all_of(part)
    places = positions_of(rows, torch.cat([each.rows for each in parts]))
    return _Extracted(
        values=torch.cat([each.values for each in parts])[places],
        targets=torch.cat([each.targets for each in parts])[places],
        rows=rows,
    )


def _body_identity(body: Backbone) -> dict[str, str]:
    """Return what features depend on beyond the options of a run."""
    digest = hashlib.sha256()
    for name, value in body.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return {"body": digest.hexdigest(), "torch": torch.__version__, "vizsla": __version__}


def _some(
    values: Tensor | StoredFeatures,
    *,
    images: Tensor | None = None,
    views: tuple[int, ...] | None = None,
) -> Tensor | StoredFeatures:
    """Return the features of some images, or of some views, by their positions."""
    if isinstance(values, StoredFeatures):
        return values.some(images=images, views=views)
    values = values if images is None else values[images]
    return values if views is None else values[:, list(views)]


def _blocks(values: Tensor | StoredFeatures) -> Iterator[Tensor]:
    """Yield features as much at a time as memory is meant to hold."""
    if not isinstance(values, StoredFeatures):
        yield values
        return
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield values[start : start + ROWS_AT_ONCE]


EPOCH_COLUMNS = ("stage", "images", "epoch", "train_loss", "valid_loss", "accuracy", "time")
CURVE_COLUMNS = ("images used", "accuracy", "loss")
"""Of the head fitted on more and more training images; accuracy and loss are those of the validation images."""


def show_point(point: HistoryPoint, *, display: Display) -> None:
    """Write a row of the table of epochs, or of the curve of the head: ``EPOCH_COLUMNS`` and ``CURVE_COLUMNS`` name the columns."""
    num_images = "" if point.num_pictures is None else f"{point.num_pictures:,}"
    if point.stage == "head":
        accuracy = "" if point.accuracy is None else f"{point.accuracy:.1%}"
        display.row([num_images, accuracy, f"{point.valid_loss:.4f}"])
        return
    numbers = (point.train_loss, point.valid_loss, point.accuracy)
    cells = ("" if number is None else f"{number:.6f}" for number in numbers)
    display.row(
        [point.stage, num_images, str(point.epoch), *cells, duration_text(point.seconds, space=" ")]
    )
