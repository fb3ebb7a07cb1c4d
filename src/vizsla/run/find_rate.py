"""Find learning rates for the end-to-end epochs of a training.

Everything is as ``vizsla train`` does it up to the first end-to-end step: a head is fitted on features of the frozen body,
and from there the rate is raised step by step, three times, on the same images with the same shares of the rate for early
body, late body and head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.recipe.config import AUTO
from vizsla.recipe.end_to_end import RATE_SHARES, end_to_end_trainer
from vizsla.recipe.features_first import (
    features_first,
    fit_size,
    load_network,
    loaders_for,
)
from vizsla.recipe.going_on import check_classes, choices_of
from vizsla.recipe.recipe import with_network
from vizsla.train.rates.lr_finder import find_learning_rate
from vizsla.train.rates.suggestions import (
    ROBUST_RUNS,
    minimum,
    robust,
    slide,
    steep,
    suggest,
    valley,
)

if TYPE_CHECKING:
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display
    from vizsla.train.rates.lr_finder import FinderCurve
    from vizsla.train.rates.suggestions import SuggestedLRs
    from vizsla.types import ImageTable

START_RATE = 1e-7
END_RATE = 1.0


def find_rate(
    table: ImageTable,
    *,
    config: TrainConfig,
    display: Display,
    num_it: int = 100,
    start_lr: float = START_RATE,
    end_lr: float = END_RATE,
) -> tuple[FinderCurve, SuggestedLRs]:
    """Return the loss over the rate of the end-to-end epochs, and the rates that it suggests.

    ``config`` has the choices of the training that the rate is for; its own rate does not matter. Each of three runs takes
    ``num_it`` steps from ``start_lr`` to just below ``end_lr``.
    """
    config, earlier = choices_of(config)
    for line in () if earlier is None else check_classes(earlier, table):
        display.line(line)
    loaders = loaders_for(table, config=config)
    if config.arch == AUTO:
        config, _ = with_network(config, loaders, checkpoint=None, display=display)
    network = load_network(config, earlier)
    if earlier is None:
        config, notes = fit_size(config, network)
        for line in notes:
            display.line(line)
        loaders = loaders_for(table, config=config, cache=loaders.cache)
    first = features_first(loaders, config=config, display=display, backbone=network)
    trainer = end_to_end_trainer(
        loaders, first.classifier, config=config, display=display, flips=first.flips
    )
    curve = find_learning_rate(
        trainer,
        start_lr=start_lr,
        end_lr=end_lr,
        num_it=num_it,
        num_runs=ROBUST_RUNS,
        shares=RATE_SHARES,
    )
    return curve, suggest(curve, (robust, valley, slide, steep, minimum))
