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
from vizsla.data.table.splits import stratified_split
from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import HistoryPoint, Predictions
from vizsla.infer.mistakes import MOST_TRAINING, KnownImages
from vizsla.infer.neighbours import evenly_spread, standardised
from vizsla.infer.run import Features, extract_features, table_predictions
from vizsla.infer.stored_features import StoredFeatures
from vizsla.infer.streamline import StreamlinedOnce
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import FeatureHead
from vizsla.recipe.config import at_size
from vizsla.recipe.flips import Flips, without_harmful
from vizsla.recipe.head_fit import (
    ROWS_AT_ONCE,
    FeatureLayout,
    FitOptions,
    HeadFit,
    default_setting,
    fit_feature_head,
)
from vizsla.seeding import derive_seed, generator
from vizsla.train.display import Display, format_seconds
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

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.infer.stored_features import FeatureStore
    from vizsla.models.stages import Backbone
    from vizsla.recipe.config import TrainConfig
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
class FeatureStage:
    """The result of the first stage.

    Attributes:
        classifier: Body and fitted head, in eval mode.
        fit: The head and how it was chosen.
        predictions: On the validation images.
        history: One point per fit of the head, on growing parts of the training images.
        known: Features of training images, and their leave-one-out predictions.
        flips: Which mirror images of training images it learned from.
        notes: What was decided about them, a line each.
        held_out: What judges end-to-end training, where there may be some.
    """

    classifier: Classifier
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
    table = loaders.table
    started = time.monotonic()
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
    flips, notes = Flips.asked_for(config), ()
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
    clock.to(FITTING)
    values = train.values
    problem: FitOptions = {
        "layout": layout,
        "num_classes": len(table.vocab),
        "task": table.task,
        "class_weights": None if loaders.balance == "none" else balanced_class_weights(loaders),
        "seed": loaders.seed,
    }
    setting = default_setting(layout, num_rows=values.shape[0] * values.shape[1])
    with display.bar(FITTING, total=1, unit=""):
        best = fit_feature_head(values, train.targets, setting=setting, **problem)
        if config.flip is not True:
            asked = flips
            flips, notes = without_harmful(asked, values, train.targets, found=best, **problem)
            if flips != asked:
                kept = tuple(asked.views.index(view) for view in flips.views)
                values = _some(values, views=kept)
                best = fit_feature_head(values, train.targets, setting=setting, **problem)
    for note in notes:
        display.line(note)
    clock.to(LEARNING_CURVE)
    columns = layout.columns(setting.stages, setting.statistics)
    order = torch.randperm(len(train.rows), generator=generator(loaders.seed, "shares"))
    fits: list[tuple[HeadFit, Predictions]] = []
    history: list[HistoryPoint] = []
    for fraction in SHARES:
        part = order[: max(2, round(fraction * len(order)))].sort().values
        fit = best
        if fraction < 1:
            some = _some(values, images=part)
            fit = fit_feature_head(some, train.targets[part], setting=setting, **problem)
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
    if config.trains_on(loaders.device):
        rest, held = hold_out(table, train.rows, seed=loaders.seed)
        if len(held) and len(rest) >= FEWEST_TRIED:
            some = _some(values, images=rest)
            without = fit_feature_head(some, train.targets[rest], setting=setting, **problem)
            held_out = HeldOut(rest=train.rows[rest], held=train.rows[held], head=without.head)
    classifier.head = fit.head.to(loaders.device)
    if store is not None:
        store.remove()
    clock.stop()
    return FeatureStage(
        classifier=classifier.eval(),
        fit=fit,
        predictions=predictions,
        history=tuple(history),
        known=known,
        flips=flips,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extracted:
    """Features of N images, float32 ``(N, V, D)``, with their targets and rows of the table."""

    values: Tensor | StoredFeatures
    targets: Tensor
    rows: Tensor


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


def show_point(point: HistoryPoint, *, display: Display) -> None:
    """Write a row of the epoch table; ``EPOCH_COLUMNS`` names the columns."""
    numbers = (point.train_loss, point.valid_loss, point.accuracy)
    cells = ("" if number is None else f"{number:.6f}" for number in numbers)
    num_images = "" if point.num_pictures is None else f"{point.num_pictures:,}"
    display.row([point.stage, num_images, str(point.epoch), *cells, format_seconds(point.seconds)])
