"""Sections: what each part of the page says about small cases worked out by hand."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.data.images.facts import ImageFacts
from vizsla.evaluate.metrics import Metric, measure, summarise
from vizsla.evaluate.predictions import Predictions
from vizsla.report import cards
from vizsla.report import cards as confusions
from vizsla.report import tables as sections
from vizsla.report.build import render_report
from vizsla.report.cards import Album
from vizsla.report.slices import Slice, hypergeometric_tail, slice_findings, with_p_values
from vizsla.report.tables import interval_methods, metric_rows
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.report.build import ReportContent

    Maker = Callable[..., ReportContent]
    from collections.abc import Sequence

    from vizsla.types import Task


def test_the_headline_counts_and_names_the_naive_answer(make_content: Maker):
    predictions = make_content([[1, 0], [1, 0], [0, 1], [1, 0]], [0, 1, 1, 1]).predictions
    words = sections.headline(predictions, metric=measure(predictions, "accuracy"))
    assert (words.num_correct, words.num_pictures) == (2, 4)
    assert words.accuracy == "50.0\u202f%"
    assert (words.baseline_class, words.baseline) == ("disc", "75.0\u202f%")


def test_an_interval_without_width_is_not_known():
    rows = metric_rows(
        (
            Metric(name="balanced_accuracy", value=1.0, low=1.0, high=1.0, num_pictures=3),
            Metric(name="log_loss", value=0.25, low=0.125, high=0.5, num_pictures=3),
            Metric(name="my_score", value=2.0, low=1.0, high=3.0, num_pictures=3),
        )
    )
    assert [row.interval for row in rows] == ["not known", "0.125\u20130.500", "1.000\u20133.000"]
    assert [row.title for row in rows] == ["Balanced accuracy", "Log loss", "My score"]


def test_the_hardest_class_comes_first_and_absent_ones_last(make_content: Maker):
    logits = torch.eye(4)[[0, 0, 1, 2, 2]] * 3.0
    content = make_content(logits, [0, 1, 1, 2, 2], vocab="abcd")
    rows = sections.sorted_classes(content.predictions)
    assert [row.name for row in rows] == ["b", "a", "c", "d"]
    page = render_report(content)
    (absent,) = re.findall(r'<tr><th scope="row">d</th>.*?</tr>', page, flags=re.DOTALL)
    assert absent.count("\u2013") == 3  # recall, precision and F1 of nothing
    assert absent.count('data-key="-1"') == 3
    assert "50.0\u202f%" in page


def test_the_matrix_is_shaded_by_share_of_the_label(make_content: Maker):
    logits = torch.eye(2)[[0, 0, 0, 1, 1]] * 3.0
    first, second = confusions.matrix_rows(make_content(logits, [0, 0, 0, 0, 1]).predictions)
    assert [cell.text for cell in first.cells] == ["3", "1"]
    assert [cell.shade for cell in first.cells] == ["right-6", "wrong-4"]
    assert [cell.shade for cell in second.cells] == ["", "right-8"]
    assert first.cells[1].hint == "cross \u2192 disc"


def test_beyond_40_classes_there_is_no_matrix(make_content: Maker):
    def rows(num_classes: int) -> tuple[confusions.MatrixRow, ...]:
        vocab = [str(index) for index in range(num_classes)]
        content = make_content(torch.eye(num_classes)[:1], [0], vocab=vocab)
        return confusions.matrix_rows(content.predictions)

    assert len(rows(40)) == 40
    assert rows(41) == ()


def test_confused_pairs_give_the_share_of_the_label(make_content: Maker):
    logits = torch.eye(2)[[1, 0, 0, 0, 0]] * 3.0
    (pair, *rest) = confusions.confused_pairs(
        make_content(logits, [0, 0, 0, 0, 1]).predictions, limit=1
    )
    assert (pair.actual, pair.predicted, pair.count, pair.share) == (
        "cross",
        "disc",
        1,
        "25.0\u202f%",
    )
    assert rest == []


def test_a_card_tells_path_label_prediction_and_probabilities(
    make_content: Maker, image_folder: Path
):
    logits = torch.tensor([[0.0, 0.0], [0.75, 0.25], [0.75, 0.25]]).log().nan_to_num(neginf=0.0)
    content = make_content(logits, [0, 1, UNLABELLED])
    wrong, unknown = cards.cards(
        content.predictions, table=content.table, positions=torch.tensor([1, 2]), album=Album()
    )
    assert wrong.path == "cross/cross_1.jpg"
    assert (wrong.prediction, wrong.probability) == ("cross", "75.0\u202f%")
    assert (wrong.label, wrong.label_probability, wrong.verdict) == ("disc", "25.0\u202f%", "wrong")
    assert (unknown.label, unknown.label_probability, unknown.verdict) == ("", "", "")
    assert wrong.thumbnail.address.startswith("data:image/jpeg;base64,")


def test_epochs_without_a_figure_have_a_dash(make_content: Maker):
    page = render_report(make_content([[1, 0]], [0]))
    table = page.split('<table class="numbers history">')[1].split("</table>")[0]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert (rows[0][2], rows[0][4]) == ("\u2013", "80.0\u202f%")
    assert (rows[-1][2], rows[-1][5].replace("\u202f", " ")) == ("0.4000", "1 min 35 s")


def predictions(task: Task) -> Predictions:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 6, generator=draws)
    targets = {
        "category": torch.arange(40) % 6,
        "multi_category": (torch.rand(40, 6, generator=draws) < 0.4).float(),
        "regression": torch.randn(40, 6, generator=draws),
    }
    return Predictions(
        rows=torch.arange(40),
        paths=tuple(map(str, range(40))),
        logits=logits,
        targets=targets[task],
        vocab=tuple("abcdef"),
        task=task,
    )


@pytest.mark.parametrize("task", ["category", "multi_category", "regression"])
def test_every_metric_of_a_summary_has_words(task: Task):
    rows = metric_rows(summarise(predictions(task)))
    assert [row.title for row in rows if not row.description] == []


def test_intervals_are_told_as_they_were_made():
    texts = {task: interval_methods(summarise(predictions(task))) for task in ("category", "multi_category", "regression")}  # fmt: skip
    assert texts["regression"] == "1,000 resamples of the images"
    for task in ("category", "multi_category"):
        assert "Wilson" in texts[task]
        assert "DeLong" in texts[task]
        assert texts[task].endswith("1,000 resamples of the images for the others")
    only = Metric(name="accuracy", value=0.5, low=0.4, high=0.6, num_pictures=9)
    assert interval_methods([only]) == "Wilson\u2019s interval for shares of images"


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


def predictions_slices(correct: Sequence[bool], *, paths: Sequence[str] = ()) -> Predictions:
    targets = torch.arange(len(correct)) % 2
    said = torch.where(torch.tensor(correct), targets, 1 - targets)
    return Predictions(
        rows=torch.arange(len(correct)),
        paths=tuple(paths) or tuple(f"{number}.jpg" for number in range(len(correct))),
        logits=torch.eye(2)[said] * 3.0,
        targets=targets,
        vocab=("a", "b"),
    )


def exact_tail(most: int, drawn: int, marked: int, total: int) -> float:
    chosen = math.comb(total, drawn)
    ways = (math.comb(marked, k) * math.comb(total - marked, drawn - k) for k in range(most + 1))
    return sum(ways) / chosen


@pytest.mark.parametrize(
    ("most", "drawn", "marked", "total"),
    [(3, 10, 60, 80), (0, 5, 5, 20), (10, 10, 60, 80), (40, 50, 90, 100), (5, 30, 900, 1000)],
)
def test_the_tail_is_that_of_whole_numbers(most: int, drawn: int, marked: int, total: int):
    found = hypergeometric_tail(most, drawn=drawn, marked=marked, total=total)
    assert found == pytest.approx(exact_tail(most, drawn, marked, total), rel=1e-9)


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


def test_a_slice_that_is_worse_is_told_in_a_sentence_and_marked():
    small = [(40, 50)] * 30
    large = [(400, 500)] * 70
    correct = [number % 3 == 0 for number in range(30)] + [True] * 70
    found = slice_findings(predictions_slices(correct), facts(small + large))
    (sentence,) = found.sentences
    assert sentence.startswith("Short side in pixels, 40: 33.3\u202f% of 30 images are right, of the rest 100.0\u202f%.")  # fmt: skip
    assert "in less than 1 of 1,000 reports that look at 2 slices." in sentence
    (table,) = found.tables
    assert [(row.name, row.num_pictures, row.is_worse) for row in table] == [
        ("40", 30, True),
        ("400", 70, False),
    ]


def test_chance_is_not_told():
    correct = [number % 9 != 0 for number in range(100)]
    sizes = [(50, 50) if number % 2 else (70, 70) for number in range(100)]
    found = slice_findings(predictions_slices(correct), facts(sizes))
    assert found.sentences == ()
    assert found.num_compared == 2


def test_shape_and_brightness_are_cut_into_words_and_quarters():
    sizes = [(200, 100), (100, 110), (100, 200), (100, 100)] * 5
    brightness = [number / 20 for number in range(20)]
    found = slice_findings(predictions_slices([True] * 20), facts(sizes, brightness=brightness))
    names = {table[0].quality: [row.name for row in table] for table in found.tables}
    assert names["Shape"] == ["upright (taller than 5:4)", "nearly square", "wide (wider than 5:4)"]
    assert names["Brightness, 0 to 100"] == ["0 to 20", "25 to 45", "50 to 70", "75 to 95"]
    assert "Short side in pixels" not in names  # all are 100


def test_folders_are_slices_unless_they_are_the_classes():
    paths = [f"{'day' if number < 10 else 'night'}/{number}.jpg" for number in range(20)]
    found = slice_findings(predictions_slices([True] * 10 + [False] * 10, paths=paths), None)
    (table,) = found.tables
    assert [(row.name, row.share) for row in table] == [("day", 1.0), ("night", 0.0)]
    classes = [f"{'ab'[number % 2]}/{number}.jpg" for number in range(20)]
    assert slice_findings(predictions_slices([True] * 20, paths=classes), None).tables == ()


def test_pictures_that_cannot_be_read_are_in_no_slice_of_the_files():
    sizes = [(0, 0)] * 4 + [(10, 10)] * 8 + [(30, 30)] * 8
    found = slice_findings(
        predictions_slices([True] * 20), facts(sizes, brightness=[math.nan] * 4 + [0.5] * 16)
    )
    (table,) = found.tables
    assert sum(row.num_pictures for row in table) == 16
