"""Confusions: cells lead to their pictures, frequent confusions get theirs first, and a full page keeps the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.report import confusions
from vizsla.report.thumbnails import NO_ROOM, Album

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.report.build import ReportContent

    Maker = Callable[..., ReportContent]


def mixed_up(make_content: Maker) -> ReportContent:
    said = [1, 1, 2, 0, 0, 2, 2]
    return make_content(torch.eye(3)[said] * 3.0, [0, 0, 0, 0, 1, 1, 2], vocab="abc")


def test_each_confusion_has_its_pictures_the_most_frequent_first(make_content: Maker):
    content = mixed_up(make_content)
    groups = confusions.confusion_groups(content.predictions, table=content.table, album=Album())
    assert [(group.actual, group.predicted, group.count) for group in groups] == [
        ("a", "b", 2),
        ("a", "c", 1),
        ("b", "a", 1),
        ("b", "c", 1),
    ]
    assert [len(group.cards) for group in groups] == [2, 1, 1, 1]
    assert groups[0].cards[0].path == content.predictions.paths[0]


def test_cells_and_pairs_lead_to_the_pictures(make_content: Maker):
    content = mixed_up(make_content)
    anchors = {"confused-0-1"}
    rows = confusions.matrix_rows(content.predictions, anchors=anchors)
    assert [[cell.link for cell in row.cells] for row in rows] == [
        ["", "#confused-0-1", ""],
        ["", "", ""],
        ["", "", ""],
    ]
    pairs = confusions.confused_pairs(content.predictions, limit=2, anchors=anchors)
    assert [pair.link for pair in pairs] == ["#confused-0-1", ""]


def test_a_confusion_shows_its_worst_pictures_when_it_has_many(make_content: Maker):
    logits = torch.zeros(40, 2)
    logits[:, 1] = torch.arange(40) / 10 + 0.1
    content = make_content(logits, [0] * 40)
    (group,) = confusions.confusion_groups(content.predictions, table=content.table, album=Album(0))
    assert (group.count, len(group.cards)) == (40, confusions.MOST_OF_A_GROUP)
    assert group.cards[0].path == content.predictions.paths[39]


def test_where_the_page_is_full_names_stay(make_content: Maker):
    content = mixed_up(make_content)
    groups = confusions.confusion_groups(content.predictions, table=content.table, album=Album(0))
    cards = [card for group in groups for card in group.cards]
    assert {card.thumbnail.missing for card in cards} == {NO_ROOM}
    assert all(card.path for card in cards)
