"""Fit the thresholds of several labels on held-out images: an image has a class where its probability is above the class's own.

0.5 is best only where all mistakes weigh the same. The best F1 of a rare class usually lies lower, a stated precision higher. A
threshold is the middle between two stated probabilities of held-out images, so it is fitted on them as a weight is: what it gains
there is measured cross-fitted, each fifth of the images with thresholds from the other four.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import statistics as stats
from vizsla.seeding import generator
from vizsla.text import joined
from vizsla.types import DECISION_THRESHOLD, has_class

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vizsla.evaluate.predictions import Predictions
    from vizsla.types import Task

FEWEST_WITH_CLASS = 10
"""A class keeps 0.5 if fewer held-out images have it, or lack it: of 5 images one more or less moves its recall by 20 points."""

NUM_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedThresholds:
    """Thresholds, and what they are worth.

    Attributes:
        values: One for each class, 0-1; above 1 is nothing, so a class with 1 is never given.
        goal: What they were fitted for: ``"f1"``, or ``"precision:0.9"``.
        too_few: Classes that keep 0.5, as fewer than ``FEWEST_WITH_CLASS`` images have them or lack them.
        unreached: Classes that no threshold gives with that precision; they are never given.
        macro_f1: Mean F1 of the classes at 0.5, and with the thresholds, cross-fitted.
        precision: Share of the given labels that are right, in the same way; 1 where none is given.
        recall: Share of the labels of the images that are given, in the same way.
    """

    values: tuple[float, ...]
    goal: str
    too_few: tuple[str, ...]
    unreached: tuple[str, ...]
    macro_f1: tuple[float, float]
    precision: tuple[float, float]
    recall: tuple[float, float]

    def lines(self) -> Iterator[str]:
        """Yield what was fitted, and what it is worth on images that it was not fitted on."""
        figures = (
            ("macro F1", self.macro_f1),
            ("precision", self.precision),
            ("recall", self.recall),
        )
        told = ", ".join(f"{name} {before:.3f} to {after:.3f}" for name, (before, after) in figures)
        yield f"thresholds fitted on the validation images for {self.goal}; cross-fitted, from 0.5: {told}"
        if self.too_few:
            yield (
                f"threshold stays 0.5 (fewer than {FEWEST_WITH_CLASS} validation images with or without the "
                f"label): {joined(self.too_few, limit=10)}"
            )
        if self.unreached:
            yield f"never predicted, because no threshold reaches {self.goal}: {joined(self.unreached, limit=10)}"


def fit_thresholds(predictions: Predictions, goal: str = "f1") -> FittedThresholds:
    """Return the thresholds that serve a goal best on held-out images.

    Args:
        predictions: Of several labels, of images that the network was not trained on; those without a label are left out.
        goal: ``"f1"``: the best F1 of each class. ``"precision:0.9"``: the lowest threshold of each class at which that share of the
            images that get it have it.

    Raises:
        ConfigError: There is no such goal, or the predictions are not of several labels.
    """
    check_task_of_thresholds(predictions.task)
    wanted = _precision_of(goal)
    known = predictions.take(predictions.labelled)
    probabilities_NC, truth_NC = known.probabilities, known.targets.bool()
    fitted = _fit(probabilities_NC, truth_NC, wanted)
    given_NC = torch.empty_like(truth_NC)
    order = torch.randperm(len(truth_NC), generator=generator(0, "threshold folds"))
    for fold in range(NUM_FOLDS):
        held_out = torch.zeros(len(truth_NC), dtype=torch.bool)
        held_out[order[fold::NUM_FOLDS]] = True
        values = _fit(probabilities_NC[~held_out], truth_NC[~held_out], wanted)
        given_NC[held_out] = has_class(probabilities_NC[held_out], values)
    before, after = (_figures(truth_NC, given) for given in (has_class(probabilities_NC), given_NC))
    few_C = _too_few(truth_NC)
    named = list(zip(predictions.vocab, few_C.tolist(), fitted, strict=True))
    return FittedThresholds(
        values=fitted,
        goal=goal,
        too_few=tuple(name for name, is_few, _ in named if is_few),
        unreached=tuple(name for name, is_few, value in named if value == 1 and not is_few),
        macro_f1=(before[0], after[0]),
        precision=(before[1], after[1]),
        recall=(before[2], after[2]),
    )


def check_task_of_thresholds(task: Task) -> None:
    """Raise ConfigError unless images may have several labels."""
    if task == "category":
        raise ConfigError(
            "Thresholds are for several labels per image, and this model predicts exactly one "
            "class. For the set of possible classes, use coverage=0.9 (--coverage 0.9); to drop "
            "uncertain predictions, filter them by probability."
        )
    if task == "regression":
        raise ConfigError(
            "Thresholds are for classes, and this model predicts numbers. Leave the threshold out."
        )


def as_thresholds(
    given: float | Sequence[float] | Mapping[str, float] | Tensor,
    *,
    vocab: Sequence[str],
    task: Task,
    now: Sequence[float] | None = None,
) -> tuple[float, ...] | None:
    """Return one threshold for each class: of one number for all, a number for each, or numbers by class; None for 0.5.

    Classes that are not named keep what they have ``now``.

    Raises:
        ConfigError: A number is not in 0..1, there are too many or too few, a class does not exist, or the task has none.
    """
    check_task_of_thresholds(task)
    values = [DECISION_THRESHOLD] * len(vocab) if now is None else list(now)
    parts: Any = given.tolist() if isinstance(given, Tensor) else given
    if isinstance(parts, Mapping):
        if unknown := [name for name in parts if name not in vocab]:
            raise ConfigError(
                f"A threshold is given for {unknown[0]!r}, which is not a class. The classes are "
                f"{joined(list(map(repr, vocab)), limit=20)}."
            )
        values = [parts.get(name, value) for name, value in zip(vocab, values, strict=True)]
    elif isinstance(parts, int | float):
        values = [parts] * len(vocab)
    else:
        values = list(parts)
    if len(values) != len(vocab):
        raise ConfigError(
            f"Give one threshold for all classes, or one for each of the {len(vocab)} classes. "
            f"Received: {len(values)}"
        )
    if odd := [
        value for value in values if not isinstance(value, int | float) or not 0 <= value <= 1
    ]:
        raise ConfigError(
            f"A threshold is a probability, a number from 0 to 1. Received: {odd[0]!r}"
        )
    is_usual = all(value == DECISION_THRESHOLD for value in values)
    return None if is_usual else tuple(map(float, values))


def read_thresholds(words: Sequence[str]) -> float | dict[str, float]:
    """Return what the words of a command line say: a number, or CLASS=NUMBER several times."""
    named = [word.rpartition("=") for word in words]
    try:
        if len(words) == 1 and not named[0][1]:
            return float(words[0])
        if all(equals for _, equals, _ in named):
            return {name: float(number) for name, _, number in named}
        raise ValueError
    except ValueError:
        raise ConfigError(
            "--threshold is a number from 0 to 1, or CLASS=NUMBER, which may be repeated. "
            f"Received: {joined(list(map(repr, words)), limit=5)}"
        ) from None


def at_temperature(
    thresholds: Sequence[float] | None, temperature: float
) -> tuple[float, ...] | None:
    """Return thresholds that decide about calibrated probabilities as these do about plain ones."""
    if thresholds is None or temperature == 1:
        return None if thresholds is None else tuple(thresholds)
    odds = torch.tensor(thresholds, dtype=torch.float64).logit()
    return tuple((odds / temperature).sigmoid().tolist())


def _precision_of(goal: str) -> float | None:
    """Return the precision that a goal states; None for ``"f1"``."""
    kind, _, number = goal.partition(":")
    try:
        wanted = float(number) if kind == "precision" else None
    except ValueError:
        wanted = 0.0
    if goal != "f1" and (wanted is None or not 0 < wanted <= 1):
        raise ConfigError(
            f"Thresholds are fitted for 'f1', or for a precision such as 'precision:0.9'. Received: {goal!r}"
        )
    return wanted


def _too_few(truth_NC: Tensor) -> Tensor:
    return torch.minimum(truth_NC.sum(0), (~truth_NC).sum(0)) < FEWEST_WITH_CLASS


def _fit(probabilities_NC: Tensor, truth_NC: Tensor, wanted: float | None) -> tuple[float, ...]:
    few_C = _too_few(truth_NC).tolist()
    return tuple(
        DECISION_THRESHOLD if few else _fit_one(probabilities_N, truth_N, wanted)
        for probabilities_N, truth_N, few in zip(probabilities_NC.T, truth_NC.T, few_C, strict=True)
    )


def _fit_one(probabilities_N: Tensor, truth_N: Tensor, wanted: float | None) -> float:
    """Return the best threshold of one class; ``wanted`` is a precision, None is for the best F1."""
    descending_N, order_N = probabilities_N.sort(descending=True)
    hits_N = truth_N[order_N].cumsum(0).double()
    given_N = torch.arange(1, len(hits_N) + 1)
    lower_N = torch.cat([descending_N[1:], descending_N.new_zeros(1)])
    ends_N = descending_N > lower_N  # a threshold cannot part equal probabilities
    if wanted is None:
        f1_N = 2 * hits_N / (given_N + hits_N[-1])
        place = int(f1_N.where(ends_N, -1.0).argmax())
    else:
        places = (ends_N & (hits_N / given_N >= wanted)).nonzero()
        if not len(places):
            return 1.0
        place = int(places[-1])
    above, below = float(descending_N[place]), float(lower_N[place])
    middle = (above + below) / 2
    # In float32 the middle of two neighbours is one of them.
    return middle if torch.tensor(middle, dtype=torch.float32) < above else below


def _figures(truth_NC: Tensor, given_NC: Tensor) -> tuple[float, float, float]:
    """Return macro F1, precision and recall of all labels together."""
    tallies = stats.count_labels(truth_NC, given_NC)
    macro = stats.mean_of_seen(stats.f_beta(tallies), seen=tallies.seen)
    hits, given, present = (int(one.sum()) for one in (truth_NC & given_NC, given_NC, truth_NC))
    return float(macro), hits / given if given else 1.0, hits / max(present, 1)
