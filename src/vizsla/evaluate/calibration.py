"""Calibrate a model: fit a temperature on held-out images, and keep it only where it surely helps.

Temperature scaling (Guo, Pleiss, Sun, Weinberger: "On calibration of modern neural networks", ICML 2017) divides logits by one
number, so the order of the classes stays. With it come the thresholds of label sets (``conformal.py``) and of "none of these"
(``novelty.py``).

A temperature fitted on few images can be worse than none, so it is kept only by three rules:

- There are at least ``FEWEST_FOR_TEMPERATURE`` labelled images. Fitted on 12 images of a network that needs no temperature, it
  comes out anywhere from 0.9 to 3.7; on 50, from 0.9 to 1.9.
- The fit lies inside ``TEMPERATURE_BOUNDS``. At a bound the images do not determine it.
- The loss on images that it was not fitted on falls by more than one standard error of that change. Without this rule, 4 to
  23 % of the networks that need no temperature would get one; with it, 1 to 3 %. Of networks whose logits are twice too
  large, 65 to 93 % get theirs with 50 images, all with 300. (60 draws each, 4 and 37 classes.)

Shapes: N images, C classes, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from vizsla.evaluate.conformal import LabelSets, fit_label_sets
from vizsla.evaluate.novelty import Novelty, fit_novelty
from vizsla.evaluate.statistics import sums_by, wilson_interval
from vizsla.seeding import generator
from vizsla.text import counted
from vizsla.types import Task, probabilities_of

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions

FEWEST_IMAGES = 10
"""With fewer labelled held-out images nothing is fitted."""

FEWEST_FOR_TEMPERATURE = 50
"""With fewer labelled held-out images probabilities stay as the network gives them."""

TEMPERATURE_BOUNDS = (0.1, 10.0)
"""Networks need 0.5 to 4; a fit at a bound is discarded."""

NUM_CALIBRATION_BINS = 15
"""Of confidence, equally wide."""

NUM_FOLDS = 5
_VALUES_AT_ONCE = 4_000_000  # Logits in float64 at a time, 32 MB.


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How the answers of a model are calibrated, and how far they were off.

    Attributes:
        temperature: What logits are divided by before they become probabilities; 1 where that did not help.
        num_pictures: Held-out images with a label that it was fitted on.
        error_before: Expected calibration error of the plain probabilities of these images, 0-1.
        error_after: The same after the temperature, cross-fitted: each fifth of the images was measured with a temperature
            fitted on the other four.
        loss_before: Mean log loss before.
        loss_after: Mean log loss after, cross-fitted as well.
        label_sets: Thresholds of label sets; None unless each image has one class.
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
    """Return what the predictions of held-out images say about how far to trust the model.

    A temperature is fitted and kept by the rules at the top of this module. Targets are smoothed by 1 / (N + 2), as Platt did
    (1999): a few images that are all right do not prove that the next one is.

    Args:
        predictions: Of images that the network was not trained on; those without a label are left out.
        temperature: Take this one instead of fitting it, for example 1 for a head that was calibrated when it was fitted.

    Returns:
        None for regression, and for fewer than ``FEWEST_IMAGES`` labelled images.
    """
    known = predictions.labelled
    if predictions.task == "regression" or int(known.sum()) < FEWEST_IMAGES:
        return None
    task = predictions.task
    logits, targets = predictions.logits[known], predictions.targets[known]
    scaled = logits
    if temperature is not None:
        scaled = logits / temperature
    else:
        temperature = 1.0
        if len(logits) >= FEWEST_FOR_TEMPERATURE:
            fitted = fit_temperature(logits, targets, task=task)
            cross_fitted = _cross_fitted(logits, targets, task=task)
            if _surely_helps(fitted, logits, cross_fitted, targets, task=task):
                temperature, scaled = fitted, cross_fitted
    sets = None
    if task == "category":
        probabilities = probabilities_of(logits / temperature, task=task)
        sets = fit_label_sets(probabilities.gather(1, targets[:, None])[:, 0])
    return Calibration(
        temperature=temperature,
        num_pictures=len(logits),
        error_before=_error_of(logits, targets, task=task),
        error_after=_error_of(scaled, targets, task=task),
        loss_before=float(_losses(logits, targets, task=task, reduction="mean")),
        loss_after=float(_losses(scaled, targets, task=task, reduction="mean")),
        label_sets=sets,
        novelty=fit_novelty(logits, targets=targets if task == "category" else None),
    )


def calibration_line(calibration: Calibration | None, *, by_head: bool = False) -> str:
    """Return what was done about the probabilities, and why; ``by_head``: they were calibrated when the head was fitted."""
    how = "calibrated when the head was fitted" if by_head else "the network's own"
    if calibration is None:
        return (
            f"Probabilities: {how}; checking them takes at least {FEWEST_IMAGES} labelled "
            "validation images."
        )
    images = counted(calibration.num_pictures, "validation image")
    error = f"calibration error {calibration.error_before:.1%}"
    if calibration.temperature != 1:
        return (
            f"Probabilities: calibrated on {images} by dividing logits by "
            f"{calibration.temperature:.3g}; {error} before, {calibration.error_after:.1%} after "
            "(cross-fitted)."
        )
    if not by_head and calibration.num_pictures < FEWEST_FOR_TEMPERATURE:
        how += f" (calibration takes at least {FEWEST_FOR_TEMPERATURE} validation images)"
    elif not by_head:
        how += " (no temperature improves them reliably)"
    return f"Probabilities: {how}; {error} on {images}."


def calibration_error(
    confidence_N: Tensor, right_N: Tensor, *, counts_NR: Tensor | None = None
) -> Tensor:
    """Return the expected calibration error: the mean gap between stated probability and share of right answers.

    Confidence is float64 ``(N,)``, 0-1. ``counts_NR`` says how often each answer was drawn, for resamples; the result is
    float64 ``(R,)``, or ``(1,)`` without it.
    """
    bins_N = _bins_of(confidence_N)
    gaps_NR = (confidence_N - right_N.double())[:, None]
    if counts_NR is not None:
        gaps_NR = counts_NR * gaps_NR
    gaps_BR = sums_by(gaps_NR, groups=bins_N, num_groups=NUM_CALIBRATION_BINS)
    return gaps_BR.abs().sum(0) / len(confidence_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Answers whose stated probability is about the same.

    Attributes:
        stated: Mean probability that was stated.
        share_right: Share of them that are right.
        low: Lower end of its 95 % interval (Wilson's).
        high: Upper end of its 95 % interval.
        num_answers: How many there are: images, or with several labels decisions.
    """

    stated: float
    share_right: float
    low: float
    high: float
    num_answers: int


def reliability(predictions: Predictions) -> tuple[ReliabilityBin, ...]:
    """Return the stated probabilities of labelled images beside the shares that are right, by bins of ``calibration_error``.

    Bins without answers are left out. Probabilities are right if each share is near what was stated.
    """
    predictions.refuse_regression("reliability")
    known = predictions.labelled
    confidence_N, right_N = _answers(
        predictions.logits[known].double(), predictions.targets[known], task=predictions.task
    )
    bins_N = _bins_of(confidence_N)
    found: list[ReliabilityBin] = []
    for index in bins_N.unique().tolist():
        inside_N = bins_N == index
        number, num_right = int(inside_N.sum()), int(right_N[inside_N].sum())
        low, high = wilson_interval(num_right, number)
        found.append(
            ReliabilityBin(
                stated=float(confidence_N[inside_N].mean()),
                share_right=num_right / number,
                low=low,
                high=high,
                num_answers=number,
            )
        )
    return tuple(found)


def fit_temperature(logits: Tensor, targets: Tensor, *, task: Task) -> float:
    """Return the number to divide logits ``(N, C)`` by that minimises the log loss, within ``TEMPERATURE_BOUNDS``.

    The loss is convex in the inverse of the temperature, so its slope has one zero, which is found by halving.
    """
    low, high = 1 / TEMPERATURE_BOUNDS[1], 1 / TEMPERATURE_BOUNDS[0]
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


def _surely_helps(
    temperature: float, logits: Tensor, cross_fitted: Tensor, targets: Tensor, *, task: Task
) -> bool:
    """Return whether a temperature inside its bounds lowers the cross-fitted loss by more than one standard error."""
    least, largest = TEMPERATURE_BOUNDS
    if not least * 1.01 < temperature < largest * 0.99:
        return False
    gains_N = _losses(logits, targets, task=task) - _losses(cross_fitted, targets, task=task)
    standard_error = float(gains_N.std()) / math.sqrt(len(gains_N))
    return float(gains_N.mean()) > standard_error


def _losses(logits: Tensor, targets: Tensor, *, task: Task, reduction: str = "none") -> Tensor:
    """Return the log loss of each image, float64 ``(N,)``, or their mean; of several labels, the mean over them."""
    if task == "category":
        return functional.cross_entropy(logits.double(), targets, reduction=reduction)
    losses = functional.binary_cross_entropy_with_logits(
        logits.double(), targets.double(), reduction=reduction
    )
    return losses if reduction == "mean" else losses.mean(1)


def _error_of(logits: Tensor, targets: Tensor, *, task: Task) -> float:
    """Return the calibration error; of several labels, over all of their decisions."""
    confidence, right = _answers(logits, targets, task=task)
    return float(calibration_error(confidence.double(), right)[0])


def _answers(logits: Tensor, targets: Tensor, *, task: Task) -> tuple[Tensor, Tensor]:
    """Return the stated probability of each answer, and whether it is right; several labels are as many answers."""
    probabilities = probabilities_of(logits, task=task)
    if task == "category":
        confidence, predicted = probabilities.max(1)
        return confidence, predicted == targets
    confidence = torch.maximum(probabilities, 1 - probabilities).flatten()
    return confidence, ((probabilities > 0.5) == targets.bool()).flatten()


def _bins_of(confidence_N: Tensor) -> Tensor:
    """Return the bin of each answer, from 0: (0, 1/15], (1/15, 2/15], ..."""
    bins_N = (confidence_N * NUM_CALIBRATION_BINS).ceil().long()
    return bins_N.clamp(min=1, max=NUM_CALIBRATION_BINS) - 1
