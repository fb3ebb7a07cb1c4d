"""Sections: what each part of the page says about small cases worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.evaluate.metrics import Metric, measure
from vizsla.report import cards, confusions, sections
from vizsla.report.metric_words import metric_rows
from vizsla.report.thumbnails import Album
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.report.build import ReportContent

    Maker = Callable[..., ReportContent]


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
    rows = sections.class_rows(make_content(logits, [0, 1, 1, 2, 2], vocab="abcd").predictions)
    assert [row.name for row in rows] == ["b", "a", "c", "d"]
    assert rows[0].recall == "50.0\u202f%"
    assert (rows[-1].support, rows[-1].recall, rows[-1].precision, rows[-1].f1) == (
        0,
        "\u2013",
        "\u2013",
        "\u2013",
    )


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
    make_content: Maker, picture_folder: Path
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
    first, *_, last = sections.history_rows(make_content([[1, 0]], [0]).history)
    assert (first.train_loss, first.accuracy) == ("\u2013", "80.0\u202f%")
    assert (last.train_loss, last.time.replace("\u202f", " ")) == ("0.4000", "1 min 35 s")
