"""Choose a network: those whose weights are on this machine are compared on a sample of the training images.

Each sees the sample once, and a head is fitted on its features in closed form; what the head says of each image when it was fitted
without it is compared image by image. Two networks side by side cost nothing more to compare: their features are there. The lowest
loss wins if it is lower than that of every faster network by more than chance; else the fastest of those that may be the best.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import torch

from vizsla.errors import ConfigError, VizslaError, install_command
from vizsla.evaluate.metrics import measure
from vizsla.evaluate.statistics import normal_quantile
from vizsla.infer.run import Features, extract_features, table_predictions
from vizsla.infer.streamline import StreamlinedOnce
from vizsla.models.backbones import build_backbone, local_networks
from vizsla.models.names import JOIN
from vizsla.recipe.features_first import divide_rows, pooling_classifier
from vizsla.recipe.head_fit import FeatureLayout, default_setting, fit_feature_head
from vizsla.seeding import derive_seed
from vizsla.text import counted
from vizsla.train.display import format_seconds
from vizsla.train.distributed import all_of
from vizsla.train.losses import balanced_class_weights
from vizsla.train.step import resolve_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.evaluate.predictions import Predictions
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display
    from vizsla.types import Batch, Task

SECONDS = 180.0
"""For the whole comparison, unless the caller has another bound."""
MOST_IMAGES, FEWEST_IMAGES = 1_000, 100
MOST_PLANNED = 6
"""Networks for which the first one leaves time; of more, those with the largest files may be left out."""
NUM_TIMED = 4
"""Batches that a network is timed on; the first one is not counted, and of the others the fastest counts."""
MOST_JOINED = 3
"""Networks that are joined in pairs: those with the lowest losses."""
COLUMNS = ("95 % interval", "loss", "seconds", "images/s")
METRICS: dict[Task, str] = {
    "category": "accuracy",
    "multi_category": "micro_f1",
    "regression": "mae",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedNetwork:
    """How a network did on the sample.

    Attributes:
        arch: Its name, as for ``TrainConfig.arch``; two names with a plus between them if they are joined.
        left_out: What a head on its features says of each image of the sample that it was fitted without.
        losses: Of these, float32 ``(N,)``; images of rare classes count more where classes are balanced.
        seconds: From building it to its fitted head; of joined networks the heads alone.
        images_per_second: How fast it computes features on this device.
    """

    arch: str
    left_out: Predictions
    losses: Tensor
    seconds: float
    images_per_second: float

    @property
    def loss(self) -> float:
        """Mean leave-one-out loss."""
        return float(self.losses.mean())

    def row(self) -> list[str]:
        """Return the cells of its row: its name, what ``METRICS`` names, and ``COLUMNS``."""
        found = measure(self.left_out, METRICS[self.left_out.task])
        return [
            self.arch,
            f"{found.value:.4g}",
            f"{found.low:.4g} to {found.high:.4g}",
            f"{self.loss:.4f}",
            f"{self.seconds:.1f}",
            f"{self.images_per_second:.0f}",
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkChoice:
    """The network that was chosen, all that were tried, the lowest loss first, and why it was chosen, in words."""

    arch: str
    tried: tuple[TriedNetwork, ...]
    reason: str


def choose_network(
    loaders: DataLoaders,
    *,
    config: TrainConfig,
    display: Display,
    archs: tuple[str, ...] | None = None,
    seconds: float = SECONDS,
) -> NetworkChoice:
    """Compare networks on a sample of the training images and show a table.

    The first of ``archs`` is tried in any case, on fewer images if it is slow; others as long as time is left. Of several processes
    the first one decides.

    Args:
        loaders: Prepare the images.
        config: Precision, seed and size of the run.
        display: Where the table goes.
        archs: Names of networks; None: those whose weights are on this machine.
        seconds: How long the comparison may take.

    Raises:
        ConfigError: None of the networks can be used.
    """
    until = time.monotonic() + seconds
    archs = local_networks() if archs is None else archs
    rows = _sample(loaders, most=MOST_IMAGES)
    display.line(
        f"Comparing {counted(len(archs), 'network')} on up to {counted(len(rows), 'training image')}, for at most {format_seconds(seconds)}."
    )
    width = len(JOIN.join(sorted(archs, key=len)[-2:]))
    display.header(["network".ljust(width), METRICS[loaders.table.task], *COLUMNS])
    tried: list[TriedNetwork] = []
    seen: dict[str, _Seen] = {}
    left_out: list[str] = []
    for arch in archs:
        share = (until - time.monotonic()) / (1 if tried else min(len(archs), MOST_PLANNED))
        try:
            found = _try_network(
                arch, loaders, rows, config=config, seconds=share, is_first=not tried
            )
        except VizslaError as error:
            left_out.append(f"{arch} ({error})")
            continue
        if found is None:
            left_out.append(f"{arch} (no time left)")
            continue
        seen[arch], rows = found, found.rows
        tried.append(found.network)
        display.row(found.network.row())
    for line in left_out:
        display.line(f"Not compared: {line}")
    if not tried:
        raise ConfigError(
            f"None of the networks can be used: {'; '.join(left_out)}. Name one: --arch NAME, in Python TrainConfig(arch=NAME)."
        )
    best = sorted(tried, key=lambda each: each.loss)[:MOST_JOINED]
    for one, other in combinations(sorted(best, key=tried.index), 2):
        if time.monotonic() + one.seconds > until:
            break
        tried.append(_try_joined(seen[one.arch], seen[other.arch], loaders))
        display.row(tried[-1].row())
    choice: NetworkChoice = all_of(_choose(tried))[0]
    display.line(choice.reason)
    return choice


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A network that was tried, and its features of the sample, which other networks are joined with."""

    network: TriedNetwork
    rows: Tensor
    features: Features
    layout: FeatureLayout


def _sample(loaders: DataLoaders, *, most: int) -> Tensor:
    """Return rows of training images, as many of each class as there are in all."""
    rows, table = loaders.train.rows.sort().values, loaders.table
    if len(rows) <= most:
        return rows
    return rows[divide_rows(table, rows, share=most / len(rows), seed=loaders.seed)[1]]


def _try_network(
    arch: str,
    loaders: DataLoaders,
    rows: Tensor,
    *,
    config: TrainConfig,
    seconds: float,
    is_first: bool,
) -> _Seen | None:
    """Compute features of the sample and fit a head; the first network takes fewer images where all would take too long, others give None."""
    started = time.monotonic()
    backbone = build_backbone(arch, seed=derive_seed(config.seed, "model"))
    size = backbone.fixed_size
    if size not in (None, (config.size, config.size)):
        raise ConfigError(f"it takes images of {size[0]} x {size[1]} pixels only")
    classifier, pooling, layout = pooling_classifier(loaders, backbone)
    look = partial(
        extract_features,
        classifier,
        head=pooling,
        precision=resolve_precision(config.precision, device=loaders.device),
        quick=StreamlinedOnce(classifier),
    )
    with closing(loaders.loader_for(rows[: loaders.bs]).batches()) as batches:
        per_image = _seconds_per_image(look, next(batches))
    fitting = math.floor((started + seconds - time.monotonic()) / per_image)
    if fitting < len(rows):
        if not is_first:
            return None
        rows = _sample(loaders, most=max(FEWEST_IMAGES, fitting))
    found = look(loaders.loader_for(rows).batches())
    left_out, losses = _fit(found, layout, loaders)
    network = TriedNetwork(
        arch=arch,
        left_out=left_out,
        losses=losses,
        seconds=time.monotonic() - started,
        images_per_second=1 / per_image,
    )
    return _Seen(network=network, rows=rows, features=found, layout=layout)


def _seconds_per_image(look: Callable[..., Features], batch: Batch) -> float:
    """Return how long the features of an image take, without reading it: a batch goes through the network a few times."""
    moments: list[float] = []
    look(
        (batch for _ in range(NUM_TIMED)),
        on_progress=lambda _: moments.append(time.monotonic()),
    )
    return min(after - before for before, after in pairwise(moments)) / len(batch.images)


def _fit(
    features: Features, layout: FeatureLayout, loaders: DataLoaders
) -> tuple[Predictions, Tensor]:
    """Fit a head, and return what it says of each image when it is fitted without it, and the losses of that."""
    table = loaders.table
    is_balanced = loaders.balance != "none"
    weights = balanced_class_weights(loaders) if is_balanced else None
    fit = fit_feature_head(
        features.values,
        features.targets,
        layout=layout,
        num_classes=len(table.vocab),
        setting=default_setting(layout, num_rows=len(features.values)),
        task=table.task,
        class_weights=weights,
        seed=loaders.seed,
    )
    left_out = table_predictions(
        table, rows=features.rows, logits=fit.left_out, targets=features.targets
    )
    losses = left_out.losses
    return left_out, losses if weights is None else losses * weights[features.targets]


def _try_joined(one: _Seen, other: _Seen, loaders: DataLoaders) -> TriedNetwork:
    """Fit a head on the features of two networks."""
    started = time.monotonic()
    first, second = one.layout, other.layout
    layout = FeatureLayout(
        stages=(*first.stages, *(len(first.channels) + stage for stage in second.stages)),
        statistics=first.statistics,
        channels=first.channels + second.channels,
    )
    values = torch.cat([one.features.values, other.features.values], dim=2)
    left_out, losses = _fit(replace(one.features, values=values), layout, loaders)
    seconds_per_image = sum(1 / each.network.images_per_second for each in (one, other))
    return TriedNetwork(
        arch=one.network.arch + JOIN + other.network.arch,
        left_out=left_out,
        losses=losses,
        seconds=time.monotonic() - started,
        images_per_second=1 / seconds_per_image,
    )


def _choose(tried: Sequence[TriedNetwork]) -> NetworkChoice:
    """Return the fastest of the networks that may be the best."""
    ranked = tuple(sorted(tried, key=lambda each: each.loss))
    best = ranked[0]
    rivals = [best, *(each for each in ranked[1:] if _difference(each, best)[1] <= 0)]
    chosen = max(rivals, key=lambda each: each.images_per_second)
    if len(ranked) == 1:
        reason = f"{chosen.arch} is the only network that was compared. More weights: {install_command('weights')}"
        return NetworkChoice(arch=chosen.arch, tried=ranked, reason=reason)
    # The best is measured against the next one, one that is as good as the best against the best.
    other = ranked[1] if chosen is best else best
    change, low, high = _difference(other, chosen)
    losses = (
        f"leave-one-out loss {chosen.loss:.4f} on {counted(len(best.losses), 'image')}, {other.loss:.4f} with {other.arch}: a difference "
        f"of {change:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
    )
    if low > 0:
        reason = f"{chosen.arch} is the best: {losses}."
    else:
        reason = f"{chosen.arch} is the fastest of {len(rivals)} that these images cannot tell apart: {losses}."
    return NetworkChoice(arch=chosen.arch, tried=ranked, reason=reason)


def _difference(worse: TriedNetwork, better: TriedNetwork) -> tuple[float, float, float]:
    """Return by how much the mean loss of a network is higher than another's, and the 95 % interval of that, image by image."""
    differences = (worse.losses - better.losses).double()
    mean = float(differences.mean())
    margin = normal_quantile() * float(differences.std()) / math.sqrt(len(differences))
    return mean, mean - margin, mean + margin
