"""Spend minutes on other frozen features, the most gain per second first.

The next network takes half as long again as the first one, a larger size twice as long, and either gains more than end-to-end
steps, which take twenty times as long (``benchmarks/LOG.md``). Two networks that saw the images at the same size are also joined,
which costs the fit of a head. Leave-one-out decides: it is honest as long as the body is frozen.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vizsla.errors import install_command
from vizsla.infer.stored_features import StoredFeatures
from vizsla.models.backbones import packaged_networks
from vizsla.models.names import JOIN
from vizsla.recipe.config import TrainConfig, at_size
from vizsla.recipe.features_first import (
    FITTING,
    FeatureSet,
    compute_features,
    finish_stage,
    fit_size,
    join_features,
    load_network,
    loaders_for,
)
from vizsla.train.display import format_seconds
from vizsla.train.distributed import any_of

if TYPE_CHECKING:
    from vizsla.infer.stored_features import FeatureStore
    from vizsla.models.stages import Backbone
    from vizsla.recipe.features_first import FeatureStage
    from vizsla.train.display import Display
    from vizsla.train.profile import RunProfile

LARGER_SIZE = 320
"""Pixels; most networks do best at 1.3 times the size of their training or a little more."""
NEXT_NETWORK = "efficientnet_lite2"
NEXT_COST = 1.45
"""Times as long as the default network takes for the same images."""


def better_features(
    first: FeatureStage,
    *,
    store: FeatureStore,
    seconds: float,
    until: float,
    display: Display,
    profile: RunProfile,
) -> FeatureStage:
    """Return the stage with the lowest leave-one-out loss, of the first one and of those that there is time for.

    Args:
        first: For the network and the size of the options.
        store: Where features go that are too large for memory; those are not joined.
        seconds: How long the first stage took.
        until: When to be ready, as ``time.monotonic`` says it.
        display: Where to say what is tried, and what it brings.
        profile: Told where the time goes.
    """
    started = time.monotonic()
    best, fit, notes = first.features, first.fit, [*first.notes]
    seen = [best]
    asked = best.config
    losses = {(asked.arch, asked.size): fit.loss}
    steps = further_features(asked, best.classifier.backbone)
    if steps and asked.arch == TrainConfig().arch and not has_next_network():
        display.line(f"{NEXT_NETWORK} would be tried first: {install_command('weights')}")
    for config, costs in steps:
        if any(
            loss > losses.get((arch, asked.size), math.inf)
            for (arch, size), loss in losses.items()
            if size == config.size
        ):
            continue  # larger images were no better for a network that was tried
        expected = costs * seconds
        what = f"Features of {_named(config)}: about {format_seconds(expected)}"
        if any_of(time.monotonic() + expected > until):
            display.line(f"{what}, more than is left of {asked.minutes:g} minutes.")
            continue
        display.line(f"{what}.")
        same = [each for each in seen if each.config.arch == config.arch]
        folder = store.folder / f"{config.arch} {config.size}"
        identity = {**store.identity, "arch": config.arch, "size": config.size}
        found = compute_features(
            loaders_for(best.loaders.table, config=config, cache=best.loaders.cache),
            config=config,
            display=display,
            profile=profile,
            backbone=same[0].classifier.backbone if same else load_network(config),
            store=replace(store, folder=folder, identity=identity),
            flips=first.flips,
        )
        found.clock.to(FITTING)
        pairs = [join_features(each, found) for each in seen if _can_join(each, found)]
        for each in (found, *pairs):
            tried = each.fit()
            losses[each.config.arch, each.config.size] = tried.loss
            is_better = tried.loss < fit.loss
            notes.append(
                f"Leave-one-out loss {tried.loss:.4f} with {_named(each.config)}, {fit.loss:.4f} with {_named(best.config)}."
            )
            display.line(notes[-1])
            if is_better:
                best.discard()
                best, fit = each, tried
        if best.store is not found.store:
            found.discard()
        found.clock.stop()
        seen.append(found)
    if best is first.features:
        return replace(first, notes=tuple(notes))
    display.line(f"Kept: {_named(best.config)}.")
    return finish_stage(best, fit, display=display, started=started, notes=tuple(notes))


def further_features(config: TrainConfig, backbone: Backbone) -> list[tuple[TrainConfig, float]]:
    """Return options whose features may be better, and their time as a multiple of the first, most gain per second first.

    A network and a size that were asked for stay.
    """
    usual = TrainConfig()
    if config.size != usual.size or config.start_from or backbone.fixed_size is not None:
        return []
    larger, _ = fit_size(at_size(config, LARGER_SIZE), backbone)
    pixels = (larger.size / usual.size) ** 2
    if config.arch != usual.arch or config.weights or not has_next_network():
        return [(larger, pixels)]
    return [
        (replace(config, arch=NEXT_NETWORK), NEXT_COST),
        (replace(larger, arch=NEXT_NETWORK), NEXT_COST * pixels),
        (larger, pixels),
    ]


def has_next_network() -> bool:
    """Whether the weights of the next network are installed."""
    return NEXT_NETWORK in packaged_networks()


def _can_join(one: FeatureSet, other: FeatureSet) -> bool:
    """Whether two sets are of different networks at one size, and in memory."""
    in_files = any(isinstance(each.train.values, StoredFeatures) for each in (one, other))
    is_alike = one.config.arch == other.config.arch or one.config.size != other.config.size
    return not in_files and not is_alike


def _named(config: TrainConfig) -> str:
    return f"{config.arch.replace(JOIN, ' and ')} at {config.size} pixels"
