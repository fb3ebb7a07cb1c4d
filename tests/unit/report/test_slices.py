"""Slices of the images, and metrics in words: small cases worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from vizsla import Predictions
from vizsla.data.images import ImageFacts
from vizsla.evaluate import summarise
from vizsla.evaluate.metrics import Metric
from vizsla.report import (
    Slice,
    hypergeometric_tail,
    interval_methods,
    metric_row,
    slice_findings,
    with_p_values,
)
from vizsla.types import Task

Answers = Callable[..., Predictions]


def test_an_interval_without_width_is_not_known():
    for name, value, low, high, title, interval in (
        ("balanced_accuracy", 1.0, 1.0, 1.0, "Balanced accuracy", "not known"),
        ("log_loss", 0.25, 0.125, 0.5, "Log loss", "0.125\u20130.500"),
        ("my_score", 2.0, 1.0, 3.0, "My score", "1.000\u20133.000"),
    ):
        row = metric_row(Metric(name=name, value=value, low=low, high=high, num_pictures=3))
        assert (row.title, row.interval) == (title, interval)


@pytest.mark.parametrize("task", ["category", "multi_category", "regression"])
def test_every_metric_has_a_description_and_an_interval_method(
    task: Task, from_logits: Callable[..., Predictions]
):
    draws = torch.Generator().manual_seed(0)
    targets = {
        "category": torch.arange(40) % 6,
        "multi_category": (torch.rand(40, 6, generator=draws) < 0.4).float(),
        "regression": torch.randn(40, 6, generator=draws),
    }
    logits = torch.randn(40, 6, generator=draws)
    metrics = summarise(from_logits(logits, targets[task], task=task))
    assert [metric.name for metric in metrics if not metric_row(metric).description] == []
    text = interval_methods(metrics)
    if task == "regression":
        assert text == "1,000 resamples of the images"
    else:
        assert "Wilson" in text
        assert "DeLong" in text
        assert text.endswith("1,000 resamples of the images for the others")
        wilson = "Wilson\u2019s interval for shares of images"
        assert interval_methods(metrics[:1]) == wilson


def facts(
    sizes: Sequence[tuple[int, int]], *, brightness: Sequence[float] | None = None
) -> ImageFacts:
    number = len(sizes)
    return ImageFacts(
        rows=torch.arange(number),
        heights=torch.tensor([height for height, _ in sizes]),
        widths=torch.tensor([width for _, width in sizes]),
        brightness=torch.tensor(brightness or [0.5] * number, dtype=torch.float32),
        digests=("",) * number,
        likenesses=torch.zeros(number, 4),
    )


@pytest.fixture
def answers(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function that makes predictions from whether each is correct."""

    def make(correct: Sequence[bool], *, paths: Sequence[str] = ()) -> Predictions:
        targets = torch.arange(len(correct)) % 2
        said = torch.where(torch.tensor(correct), targets, 1 - targets)
        return from_logits(torch.eye(2)[said] * 3.0, targets, vocab="ab", paths=paths)

    return make


def exact_tail(most: int, drawn: int, marked: int, total: int) -> float:
    chosen = math.comb(total, drawn)
    ways = (math.comb(marked, k) * math.comb(total - marked, drawn - k) for k in range(most + 1))
    return sum(ways) / chosen


def test_the_tail_is_that_of_whole_numbers():
    for case in (
        (3, 10, 60, 80),
        (0, 5, 5, 20),
        (10, 10, 60, 80),
        (40, 50, 90, 100),
        (5, 30, 900, 1000),
    ):
        most, drawn, marked, total = case
        found = hypergeometric_tail(most, drawn=drawn, marked=marked, total=total)
        assert found == pytest.approx(exact_tail(*case), rel=1e-9), case


def test_p_values_are_corrected_by_holm_and_small_slices_are_not_compared():
    slices = [
        Slice(quality="q", name=name, num_pictures=20, num_correct=hits)
        for name, hits in (("a", 8), ("b", 12), ("c", 20))
    ]
    tiny = Slice(quality="q", name="tiny", num_pictures=4, num_correct=0)
    found = with_p_values([*slices, tiny], num_correct=80, num_pictures=100)
    raw = [exact_tail(each.num_correct, 20, 80, 100) for each in slices]
    assert found[0].p_value == pytest.approx(3 * raw[0])
    assert found[1].p_value == pytest.approx(2 * raw[1])
    assert found[2].p_value == pytest.approx(1.0)
    assert found[3].p_value is None
    assert [each.is_worse for each in found] == [True, raw[1] < 0.025, False, False]


def test_a_worse_slice_has_a_sentence_and_a_mark(answers: Answers):
    small = [(40, 50)] * 30
    large = [(400, 500)] * 70
    correct = [number % 3 == 0 for number in range(30)] + [True] * 70
    found = slice_findings(answers(correct), facts(small + large))
    (sentence,) = found.sentences
    assert sentence.startswith("Short side in pixels, 40: 33.3\u202f% of 30 images are right, of the rest 100.0\u202f%.")  # fmt: skip
    assert "in less than 1 of 1,000 reports that look at 2 slices." in sentence
    (table,) = found.tables
    assert [(row.name, row.num_pictures, row.is_worse) for row in table] == [
        ("40", 30, True),
        ("400", 70, False),
    ]


def test_chance_has_no_sentence(answers: Answers):
    correct = [number % 9 != 0 for number in range(100)]
    sizes = [(50, 50) if number % 2 else (70, 70) for number in range(100)]
    found = slice_findings(answers(correct), facts(sizes))
    assert found.sentences == ()
    assert found.num_compared == 2


def test_slices_of_shape_have_words_and_of_brightness_quarters(answers: Answers):
    sizes = [(200, 100), (100, 110), (100, 200), (100, 100)] * 5
    brightness = [number / 20 for number in range(20)]
    found = slice_findings(answers([True] * 20), facts(sizes, brightness=brightness))
    names = {table[0].quality: [row.name for row in table] for table in found.tables}
    assert names["Shape"] == ["upright (taller than 5:4)", "nearly square", "wide (wider than 5:4)"]
    assert names["Brightness, 0 to 100"] == ["0 to 20", "25 to 45", "50 to 70", "75 to 95"]
    assert "Short side in pixels" not in names  # all are 100


def test_folders_are_slices_unless_they_are_the_classes(answers: Answers):
    paths = [f"{'day' if number < 10 else 'night'}/{number}.jpg" for number in range(20)]
    found = slice_findings(answers([True] * 10 + [False] * 10, paths=paths), None)
    (table,) = found.tables
    assert [(row.name, row.share) for row in table] == [("day", 1.0), ("night", 0.0)]
    classes = [f"{'ab'[number % 2]}/{number}.jpg" for number in range(20)]
    assert slice_findings(answers([True] * 20, paths=classes), None).tables == ()


def test_unreadable_images_are_in_no_slice_of_the_files(answers: Answers):
    sizes = [(0, 0)] * 4 + [(10, 10)] * 8 + [(30, 30)] * 8
    found = slice_findings(
        answers([True] * 20), facts(sizes, brightness=[math.nan] * 4 + [0.5] * 16)
    )
    (table,) = found.tables
    assert sum(row.num_pictures for row in table) == 16
