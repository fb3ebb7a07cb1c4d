"""Predictions of held-out pictures in; what makes the answers of the model honest out, to be kept in the model file.

Temperature scaling (Guo, Pleiss, Sun, Weinberger: "On calibration of modern neural networks", ICML 2017): logits are divided
by one number, so that the order of the classes stays. With it come the thresholds of label sets (``conformal.py``) and of
"none of these" (``novelty.py``).

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from vizsla.evaluate.conformal import LabelSets, fit_label_sets
from vizsla.evaluate.novelty import Novelty, fit_novelty
from vizsla.seeding import generator
from vizsla.types import Task, probabilities_of

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions

FEWEST_PICTURES = 10
"""With fewer labelled held-out pictures nothing is fitted."""

NUM_FOLDS = 5
NUM_BINS = 15
"""Of confidence; as in ``evaluate.metrics.expected_calibration_error``."""

LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-2, 1e2
_VALUES_AT_ONCE = 4_000_000  # Logits in float64 at a time, 32 MB.


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How the answers of a model are made honest, and how honest they were found to be.

    Attributes:
        temperature: What logits are divided by before they become probabilities; 1 where that did not help.
        num_pictures: Held-out pictures with a label that it was fitted on.
        error_before: Expected calibration error of the plain probabilities of these pictures, 0-1.
        error_after: The same after the temperature. The pictures were divided into five parts, and each was measured with
            the temperature of the other four, so that no picture took part in its own.
        loss_before: Mean log loss before.
        loss_after: Mean log loss after, measured in the same way as ``error_after``.
        label_sets: Thresholds of label sets; None unless each picture has one class.
        novelty: Threshold of "none of these".
    """

    temperature: float
    num_pictures: int
    error_before: float
    error_after: float
    loss_before: float
    loss_after: float
    label_sets: LabelSets | None
    novelty: Novelty


def calibrate(predictions: Predictions, *, temperature: float | None = None) -> Calibration | None:
    """Return what the predictions of held-out pictures say about how far to trust the model.

    The temperature that minimises the log loss is kept only if it lowers the loss of pictures that it was not fitted on.
    Targets are smoothed by 1 / (N + 2), as Platt did (1999): few pictures that are all right do not prove that the next is.

    Args:
        predictions: Of pictures that the network was not trained on. Those without a label are left out.
        temperature: Take this one instead of fitting it, for example 1 for a head that was calibrated when it was fitted.

    Returns:
        None for regression, and for fewer than ``FEWEST_PICTURES`` labelled pictures.
    """
    known = predictions.labelled
    if predictions.task == "regression" or int(known.sum()) < FEWEST_PICTURES:
        return None
    task = predictions.task
    logits, targets = predictions.logits[known], predictions.targets[known]
    loss_before, error_before = _quality(logits, targets, task=task)
    loss_after, error_after = loss_before, error_before
    if temperature is None:
        temperature = fit_temperature(logits, targets, task=task)
        scaled = _cross_fitted(logits, targets, task=task)
        loss_after, error_after = _quality(scaled, targets, task=task)
        if loss_after >= loss_before:
            temperature, loss_after, error_after = 1.0, loss_before, error_before
    elif temperature != 1:
        loss_after, error_after = _quality(logits / temperature, targets, task=task)
    sets = None
    if task == "category":
        probabilities = probabilities_of(logits / temperature, task=task)
        sets = fit_label_sets(probabilities.gather(1, targets[:, None])[:, 0])
    return Calibration(
        temperature=temperature,
        num_pictures=len(logits),
        error_before=error_before,
        error_after=error_after,
        loss_before=loss_before,
        loss_after=loss_after,
        label_sets=sets,
        novelty=fit_novelty(logits, targets=targets if task == "category" else None),
    )


def fit_temperature(logits: Tensor, targets: Tensor, *, task: Task) -> float:
    """Return the number to divide logits by that minimises the log loss.

    The loss is convex in the inverse of the temperature, so that its slope has one zero, which is found by halving.

    Args:
        logits: float ``(N, C)``; N is at least 1.
        targets: int64 ``(N,)``, or float ``(N, C)`` of 0 and 1 for several labels.
        task: Not regression.

    Returns:
        From ``LEAST_TEMPERATURE`` to ``LARGEST_TEMPERATURE``.
    """
    low, high = 1 / LARGEST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    for _ in range(50):
        middle = (low * high) ** 0.5
        if _slope(logits, targets, inverse=middle, task=task) > 0:
            high = middle
        else:
            low = middle
    return 1 / (low * high) ** 0.5


def _slope(logits: Tensor, targets: Tensor, *, inverse: float, task: Task) -> float:
    """Return the derivative of the summed loss with respect to the inverse temperature."""
    smoothing = 1 / (len(logits) + 2)
    total = 0.0
    at_once = max(1, _VALUES_AT_ONCE // logits.shape[1])
    for part_NC, wanted in zip(logits.split(at_once), targets.split(at_once), strict=True):
        values_NC = part_NC.double()
        probabilities_NC = probabilities_of(values_NC * inverse, task=task)
        if task == "category":
            wanted_NC = functional.one_hot(wanted, logits.shape[1]).double()
            # Half of what is taken away goes to the right class again, among all: as cross_entropy(label_smoothing=...).
            wanted_NC = wanted_NC * (1 - 2 * smoothing) + 2 * smoothing / logits.shape[1]
        else:
            wanted_NC = wanted.double() * (1 - 2 * smoothing) + smoothing
        total += float(((probabilities_NC - wanted_NC) * values_NC).sum())
    return total


def _cross_fitted(logits: Tensor, targets: Tensor, *, task: Task) -> Tensor:
    """Return logits, each divided by a temperature that was fitted without it."""
    order = torch.randperm(len(logits), generator=generator(0, "calibration folds"))
    scaled = torch.empty_like(logits)
    for fold in range(NUM_FOLDS):
        held_out = torch.zeros(len(logits), dtype=torch.bool)
        held_out[order[fold::NUM_FOLDS]] = True
        temperature = fit_temperature(logits[~held_out], targets[~held_out], task=task)
        scaled[held_out] = logits[held_out] / temperature
    return scaled


def _quality(logits: Tensor, targets: Tensor, *, task: Task) -> tuple[float, float]:
    """Return mean log loss and expected calibration error; of several labels, over all of their decisions."""
    if task == "category":
        loss = functional.cross_entropy(logits.double(), targets)
        confidence, predicted = probabilities_of(logits, task=task).max(1)
        right = predicted == targets
    else:
        loss = functional.binary_cross_entropy_with_logits(logits.double(), targets.double())
        yes = probabilities_of(logits, task=task)
        confidence = torch.maximum(yes, 1 - yes).flatten()
        right = ((yes > 0.5) == targets.bool()).flatten()
    bins = (confidence.double() * NUM_BINS).ceil().long().clamp(min=1, max=NUM_BINS) - 1
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, confidence.double() - right.double())
    return float(loss), float(gaps.abs().sum() / len(confidence))
