"""Thresholds of several labels: what is fitted on held-out images, and which words for them are understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import ConfigError
from vizsla.evaluate import as_thresholds, at_temperature, fit_thresholds, read_thresholds
from vizsla.types import has_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vizsla import Predictions


def f1_of(truth: Tensor, given: Tensor) -> float:
    return float(2 * (truth & given).sum() / (truth.sum() + given.sum()))


def test_no_other_threshold_has_a_better_f1_or_the_precision_at_more_images(
    random_predictions: Callable[..., Predictions],
):
    found = random_predictions(200, 4, task="multi_category")
    truth, probabilities = found.targets.bool(), found.probabilities
    best = fit_thresholds(found, "f1")
    precise = fit_thresholds(found, "precision:0.9")
    for column in range(4):
        of_class, present = probabilities[:, column], truth[:, column]
        cuts = [of_class > value for value in of_class.tolist()] + [of_class > -1]
        given = has_class(probabilities, best.values)[:, column]
        assert f1_of(present, given) == max(f1_of(present, cut) for cut in cuts)
        reached = [cut.sum() for cut in cuts if cut.any() and present[cut].double().mean() >= 0.9]
        assert has_class(probabilities, precise.values)[:, column].sum() == max(reached)
    # Half as much was gained on the images that the thresholds were not fitted on as on their own.
    assert best.macro_f1[0] < best.macro_f1[1]
    assert precise.precision[0] < precise.precision[1]
    assert precise.recall[0] > precise.recall[1]


def test_classes_that_cannot_be_fitted_are_named(from_logits: Callable[..., Predictions]):
    draws = torch.Generator().manual_seed(0)
    targets = (torch.rand(100, 3, generator=draws) < 0.3).float()
    targets[9:, 0] = 0  # too few
    logits = 4 * targets - 2 + torch.randn(100, 3, generator=draws)
    logits[:, 1] = 0  # the same for all images
    found = fit_thresholds(from_logits(logits, targets, task="multi_category"), "precision:0.95")
    names = from_logits(logits, targets, task="multi_category").vocab
    assert (found.too_few, found.unreached) == (names[:1], names[1:2])
    assert found.values[:2] == (0.5, 1.0)
    assert len([*found.lines()]) == 3


def test_a_temperature_moves_thresholds_with_the_probabilities():
    logits = torch.linspace(-6, 6, 101)[:, None].expand(-1, 4)
    thresholds = (0.0, 0.2, 0.9, 1.0)
    moved = at_temperature(thresholds, 2.5)
    assert torch.equal(
        has_class(logits.sigmoid(), thresholds), has_class((logits / 2.5).sigmoid(), moved)
    )
    assert at_temperature(None, 2.5) is None


def test_words_and_numbers_for_thresholds_are_understood_or_refused():
    options: Any = {"vocab": ("a", "b=c"), "task": "multi_category"}
    for given, now, expected in (
        (0.5, None, None),
        (0.3, (0.1, 0.2), (0.3, 0.3)),
        ([0, 1], None, (0.0, 1.0)),
        (torch.tensor([0.25, 0.5]), None, (0.25, 0.5)),
        ({"b=c": 0.7}, None, (0.5, 0.7)),
        (read_thresholds(["b=c=0.75", "a=0.25"]), (0.1, 0.2), (0.25, 0.75)),
        (read_thresholds(["0.25"]), None, (0.25, 0.25)),
    ):
        assert as_thresholds(given, now=now, **options) == expected
    for given in (1.5, [0.5], {"d": 0.5}, float("nan"), ["x", "y"]):
        with pytest.raises(ConfigError):
            as_thresholds(given, **options)  # pyright: ignore[reportArgumentType] (what users may give)
    for words in (["much"], ["a"], ["0.5", "0.6"], ["a=b"]):
        with pytest.raises(ConfigError, match="--threshold"):
            read_thresholds(words)
    for task in ("category", "regression"):
        with pytest.raises(ConfigError, match="Thresholds"):
            as_thresholds(0.5, vocab=("a",), task=task)


def test_a_goal_that_does_not_exist_is_refused(random_predictions: Callable[..., Predictions]):
    several = random_predictions(50, 2, task="multi_category")
    for goal in ("f2", "precision", "precision:2", "precision:high", "recall:0.9"):
        with pytest.raises(ConfigError, match=r"precision:0\.9"):
            fit_thresholds(several, goal)
    with pytest.raises(ConfigError, match="exactly one class"):
        fit_thresholds(random_predictions(50, 2))
