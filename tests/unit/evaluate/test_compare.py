"""Comparing two runs on the same images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from vizsla import ConfigError, DataError, Predictions, compare
from vizsla.evaluate import paired_interval
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(right: Sequence[bool]) -> Predictions:
    """Predictions of two classes, right where ``right`` says so."""
    targets = torch.arange(len(right)) % 2
    given_classes = torch.where(torch.tensor(right), targets, 1 - targets)
    return Predictions(
        rows=torch.arange(len(right)) + 100,
        paths=tuple(f"{number}.jpg" for number in range(len(right))),
        logits=torch.nn.functional.one_hot(given_classes, 2).float(),
        targets=targets,
        vocab=("cat", "dog"),
    )


BEFORE = run([True] * 70 + [False] * 30)
AFTER = run([True] * 65 + [False] * 5 + [True] * 20 + [False] * 10)


def test_a_clear_difference_has_a_direction():
    found = compare(BEFORE, AFTER, names=("before", "after"))
    assert found.values == (0.7, 0.85)
    assert (found.num_only_first, found.num_only_second, found.num_pictures) == (5, 20, 100)
    assert found.difference == pytest.approx(0.15)
    assert found.can_be_told_apart
    assert found.sentence == (
        "before predicts 70.0% and after 85.0% of the same 100 images correctly, a difference of +15.0 points "
        f"(95 % interval +{100 * found.low:.1f} to +{100 * found.high:.1f}): after is better."
    )
    swapped = compare(AFTER, BEFORE, names=("after", "before"))
    assert swapped.sentence.endswith("after is better.")
    assert (swapped.low, swapped.high) == (-found.high, -found.low)


def test_a_small_difference_is_left_open():
    found = compare(BEFORE, run([True] * 72 + [False] * 28))
    assert not found.can_be_told_apart
    assert found.sentence.endswith("no significant difference on these images.")
    assert found.low < 0 < found.high


def test_equal_runs_have_an_interval_around_zero():
    found = compare(BEFORE, BEFORE)
    z_squared = 1.959963984540054**2
    assert found.difference == 0
    assert found.high == pytest.approx(z_squared / (100 + z_squared))
    assert found.low == -found.high
    assert not found.can_be_told_apart


def largest_likelihood(difference: float, *, gained: int, lost: int, pairs: int) -> float:
    """The most likely share of lost pairs if the true difference is as given, found by search."""

    def unlikely(lost_share: float) -> float:
        cells = (difference + lost_share, lost_share, 1 - difference - 2 * lost_share)
        counts = (gained, lost, pairs - gained - lost)
        return -sum(
            count * math.log(max(cell, 1e-300))
            for count, cell in zip(counts, cells, strict=True)
            if count
        )

    bounds = max(0.0, -difference), (1 - difference) / 2
    return float(
        optimize.minimize_scalar(
            unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}
        ).x  # pyright: ignore[reportAttributeAccessIssue]
    )


def test_the_ends_are_the_differences_that_the_score_test_just_accepts():
    for gained, lost, pairs in ((20, 5, 100), (3, 1, 20), (12, 12, 40), (9, 2, 11)):
        for difference in paired_interval(gained, lost, num_pairs=pairs):
            lost_share = largest_likelihood(difference, gained=gained, lost=lost, pairs=pairs)
            variance = pairs * (2 * lost_share + difference * (1 - difference))
            score = (gained - lost - pairs * difference) / math.sqrt(variance)
            assert abs(score) == pytest.approx(1.959964, abs=1e-3)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_zero_is_left_out_exactly_when_the_test_of_mcnemar_finds_a_difference(data: st.DataObject):
    pairs = data.draw(st.integers(1, 300))
    gained = data.draw(st.integers(0, pairs))
    lost = data.draw(st.integers(0, pairs - gained))
    low, high = paired_interval(gained, lost, num_pairs=pairs)
    assert -1 <= low <= (gained - lost) / pairs <= high <= 1
    differs = (gained - lost) ** 2 > 1.959963984540054**2 * (gained + lost)
    assert (low > 0 or high < 0) == differs


def test_intervals_cover_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.12, 0.05, 0.83])  # a true difference of 0.07
    hits = 0
    for _ in range(200):
        drawn = shares.multinomial(80, replacement=True, generator=generator)
        gained, lost = int((drawn == 0).sum()), int((drawn == 1).sum())
        low, high = paired_interval(gained, lost, num_pairs=80)
        hits += low <= 0.07 <= high
    assert 180 <= hits <= 199  # 95 % are 190, give or take 3


def test_the_order_of_images_and_of_classes_does_not_matter():
    shuffled = AFTER.take(torch.randperm(100, generator=torch.Generator().manual_seed(0)))
    swapped = replace(
        shuffled,
        logits=shuffled.logits.flip(1),
        targets=1 - shuffled.targets,
        vocab=("dog", "cat"),
    )
    assert compare(BEFORE, swapped) == compare(BEFORE, AFTER)


def test_images_without_label_are_left_out():
    unknown = torch.arange(100) < 10
    runs = [
        replace(each, targets=each.targets.masked_fill(unknown, UNLABELLED))
        for each in (BEFORE, AFTER)
    ]
    assert compare(*runs).num_pictures == 90
    nothing = replace(BEFORE, targets=torch.full((100,), UNLABELLED))
    with pytest.raises(DataError, match="has a label"):
        compare(nothing, nothing)


def test_several_labels_are_right_if_all_of_them_are(from_logits: Callable[..., Predictions]):
    truth = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    first = from_logits(2 * truth - 1, truth, task="multi_category")
    second = replace(first, logits=first.logits * torch.tensor([[1.0], [1.0], [-1.0]]))
    assert compare(first, second).values == (1.0, 2 / 3)


def test_other_images_labels_or_tasks_are_refused(tmp_path: Path):
    several = torch.zeros(100, 2)
    for other, facts in (
        (BEFORE.take(torch.arange(49)), "100 .*49.*fewer than 50"),
        (replace(BEFORE, paths=tuple(f"new/{path}" for path in BEFORE.paths)), "0 of them"),
        (replace(BEFORE, targets=1 - BEFORE.targets), r"100 images.*'0\.jpg'.*'cat' and 'dog'"),
        (replace(BEFORE, targets=several, task="regression"), "'accuracy'.*'mae'"),
        (replace(BEFORE, targets=several, task="multi_category"), r"'0\.jpg'"),
    ):
        with pytest.raises(ConfigError, match=facts):
            compare(BEFORE, other)
    (tmp_path / "said.csv").write_text("path,prediction\na.jpg,cat\n")
    for place, fact in (("said.csv", "loss"), ("no.csv", "No such file"), (".", "predictions.csv")):
        with pytest.raises(DataError, match=fact):
            compare(BEFORE, tmp_path / place)


def test_runs_on_different_images_are_compared_on_those_that_both_have():
    found = compare(BEFORE.take(torch.arange(20, 100)), AFTER.take(torch.arange(90)))
    assert (found.num_pictures, found.num_left_out) == (70, (10, 20))
    assert (found.num_only_first, found.num_only_second) == (5, 20)


def test_files_say_the_same_as_the_predictions_that_they_hold(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    numbers = replace(
        run([True] * 60),
        logits=torch.randn(60, 2, generator=generator),
        targets=torch.randn(60, 2, generator=generator),
        task="regression",
    )
    nearer = replace(numbers, logits=numbers.targets + 0.1)
    truth = (numbers.targets > 0).float()
    truth[0] = torch.nan
    labels = replace(numbers, targets=truth, task="multi_category")
    exact = replace(labels, logits=(2 * truth - 1).nan_to_num())
    for first, second, values in (
        (BEFORE, AFTER, (0.7, 0.85)),
        (numbers, nearer, (pytest.approx(1.17, abs=0.2), pytest.approx(0.1))),
        (labels, exact, (pytest.approx(0.25, abs=0.1), 1.0)),
    ):
        expected = compare(first, second, names=("a", "b"))
        files = [tmp_path / "a.csv", tmp_path / "b" / "predictions.csv"]
        files[1].parent.mkdir(exist_ok=True)
        for file, predictions in zip(files, (first, second), strict=True):
            predictions.save_csv(file)
        found = compare(files[0], files[1].parent)
        assert found.names == (str(files[0]), str(files[1].parent))
        assert replace(found, names=("a", "b")).sentence == expected.sentence
        assert found.values == values
        assert found.can_be_told_apart
        assert found.sentence.endswith("b is better.")
        assert len([*found.lines()]) == 5
