"""Predictions of numbers in, errors with 95 % intervals out; pictures without a label are left out.

Intervals are those of the bootstrap (``evaluate/intervals.py``). Several numbers per picture are averaged; their units
should then be alike.

Shapes: N labelled pictures, K numbers each, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.evaluate.labelled import labelled_part, undefined
from vizsla.evaluate.statistics import Measure, Metric, bootstrap

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions


def summarise_numbers(predictions: Predictions, *, seed: int = 0) -> tuple[Metric, ...]:
    """Return mean absolute error, root mean squared error and the share of explained variance.

    Args:
        predictions: Of numbers; at least one picture whose numbers are known.
        seed: Seed of the bootstrap.

    Returns:
        Without R2 where all targets are the same.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return tuple(_resampled(predictions, seed=seed).values())


def mae(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean absolute difference between predictions and targets.

    Args:
        predictions: Of numbers.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return _resampled(predictions, seed=seed)["mae"]


def rmse(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the root of the mean squared difference between predictions and targets, over pictures and numbers.

    Args:
        predictions: Of numbers.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return _resampled(predictions, seed=seed)["rmse"]


def r2(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the share of the targets' variance that the predictions explain: 1 is perfect, 0 as good as their mean.

    Args:
        predictions: Of numbers. The mean over the numbers whose targets vary.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label, or all have the same.
        ConfigError: The predictions are of another task.
    """
    metric = _resampled(predictions, seed=seed).get("r2")
    if metric is None:
        raise undefined("r2", why="their targets do not vary")
    return metric


def explained_variance(errors: Tensor, targets: Tensor, *, counts: Tensor) -> Tensor:
    """Return ``(R,)``: R2 of each weighting, averaged over the numbers whose targets vary; NaN where none does.

    Args:
        errors: float64 ``(N, K)``, predictions minus targets.
        targets: float64 ``(N, K)``.
        counts: float64 ``(N, R)``, how often each picture counts.
    """
    # Around the mean, or the subtraction below would cancel where the targets are large and close together.
    centred = targets - targets.mean(dim=0)
    total_R = counts.sum(0)
    spread_KR = centred.square().T @ counts - (centred.T @ counts).square() / total_R
    # What is left of equal targets is rounding: at most a few units in the last place of their squares.
    varies_KR = spread_KR > 1e-12 * targets.square().T @ counts
    missed_KR = errors.square().T @ counts
    explained_KR = 1 - missed_KR / spread_KR.where(varies_KR, 1)
    return explained_KR.masked_fill(~varies_KR, 0).sum(0) / varies_KR.sum(0)


def _resampled(predictions: Predictions, *, seed: int) -> dict[str, Metric]:
    measure = _measure(predictions)
    return bootstrap(measure, num_pictures=int(predictions.labelled.sum()), seed=seed)


def _measure(predictions: Predictions) -> Measure:
    known = labelled_part(predictions, task="regression")
    targets_NK = known.targets.double()
    errors_NK = known.logits.double() - targets_NK
    sizes_N, squares_N = errors_NK.abs().mean(dim=1), errors_NK.square().mean(dim=1)
    num_pictures = len(targets_NK)

    def measure(counts: Tensor) -> dict[str, Tensor]:
        return {
            "mae": sizes_N @ counts / num_pictures,
            "rmse": torch.sqrt(squares_N @ counts / num_pictures),
            "r2": explained_variance(errors_NK, targets_NK, counts=counts),
        }

    return measure
