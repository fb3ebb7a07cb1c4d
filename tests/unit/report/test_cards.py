"""Cards: mistakes with what explains them, suspects of both sets, duplicates with their labels, and tasks without one class."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.data.images.facts import image_facts
from vizsla.evaluate.predictions import Predictions
from vizsla.infer.mistakes import Evidence, Neighbour
from vizsla.report import cards
from vizsla.report.cards import NO_ROOM, Album, Thumbnail
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.report.build import ReportContent

    Maker = Callable[..., ReportContent]


def first_mistake(content: ReportContent, evidence: Evidence) -> cards.MistakeCard:
    (mistake,) = cards.mistake_cards(
        content.predictions,
        table=content.table,
        positions=torch.tensor([0]),
        evidence=evidence,
        album=Album(),
    )
    return mistake


def test_a_mistake_has_its_heat_map_and_its_neighbours(make_content: Maker):
    content = make_content([[3.0, 0.0], [3.0, 0.0], [0.0, 3.0]], [1, 0, 1])
    evidence = Evidence(
        heat={0: torch.full((3, 40, 50), 200, dtype=torch.uint8)},
        neighbours={0: (Neighbour(row=1, similarity=0.9), Neighbour(row=1, similarity=0.8))},
    )
    mistake = first_mistake(content, evidence)
    assert mistake.heat is not None
    assert (mistake.heat.width, mistake.heat.height) == (50, 40)
    assert [(each.label, each.similarity) for each in mistake.neighbours] == [
        ("cross", "0.90"),
        ("cross", "0.80"),
    ]
    assert mistake.support == "All 2 are labelled as predicted."


def test_without_evidence_a_mistake_is_only_itself(make_content: Maker):
    content = make_content([[3.0, 0.0]], [1])
    mistake = first_mistake(content, Evidence())
    assert mistake.heat is None
    assert mistake.neighbours == ()
    assert mistake.support == ""


def test_suspects_of_validation_and_training_are_ranked_together(make_content: Maker):
    logits = torch.eye(2)[[0, 0, 1, 1, 1]] * 3.0
    content = make_content(logits, [0, 0, 0, 1, 1])
    left_out = replace(content.predictions, logits=content.predictions.logits * 2)
    found, num_valid, num_train = cards.suspect_cards(
        content.predictions, table=content.table, left_out=left_out, album=Album(), limit=9
    )
    assert (num_valid, num_train) == (1, 1)
    assert [one.split for one in found] == ["training", "validation"]
    assert (found[0].card.label, found[0].card.prediction) == ("cross", "disc")


def test_duplicates_tell_both_files_and_whether_their_labels_differ(image_folder: Path):
    first = sorted((image_folder / "cross").glob("*.jpg"))[0]
    copy = image_folder / "disc" / "copy.jpg"
    shutil.copy(first, copy)
    table = ImageTable(
        root=image_folder,
        paths=(first, copy),
        targets=torch.tensor([0, 1]),
        vocab=("cross", "disc"),
        train_rows=torch.tensor([0]),
        valid_rows=torch.tensor([1]),
    )
    predictions = Predictions(
        rows=torch.tensor([1]),
        paths=("disc/copy.jpg",),
        logits=torch.zeros(1, 2),
        targets=torch.tensor([1]),
        vocab=table.vocab,
    )
    evidence = Evidence(
        valid_facts=image_facts(table, table.valid_rows, num_workers=0),
        train_facts=image_facts(table, table.train_rows, num_workers=0),
    )
    (found,), number = cards.duplicate_cards(
        predictions, table=table, evidence=evidence, album=Album(), limit=4
    )
    assert number == 1
    assert (found.valid_path, found.train_path) == ("disc/copy.jpg", "cross/cross_0.jpg")
    assert (found.note, found.labels_differ) == ("the same file", True)


def test_several_labels_and_numbers_have_cards_without_probabilities(make_content: Maker):
    content = make_content([[3.0, 0.0]], [1])
    for task, targets, verdict, label, said in (
        ("multi_category", [[0.0, 1.0]], "wrong", "disc", "cross"),
        ("multi_category", [[1.0, 0.0]], "right", "cross", "cross"),
        ("regression", [[1.5, 2.0]], "", "1.5;2", "3;0"),
    ):
        predictions = replace(content.predictions, targets=torch.tensor(targets), task=task)
        (card,) = cards.cards(
            predictions, table=content.table, positions=torch.tensor([0]), album=Album()
        )
        assert (card.verdict, card.label, card.prediction) == (verdict, label, said)
        assert (card.probability, card.label_probability) == ("", "")


def mixed_up(make_content: Maker) -> ReportContent:
    said = [1, 1, 2, 0, 0, 2, 2]
    return make_content(torch.eye(3)[said] * 3.0, [0, 0, 0, 0, 1, 1, 2], vocab="abc")


def test_each_confusion_has_its_pictures_the_most_frequent_first(make_content: Maker):
    content = mixed_up(make_content)
    groups = cards.confusion_groups(content.predictions, table=content.table, album=Album())
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
    rows = cards.matrix_rows(content.predictions, anchors=anchors)
    assert [[cell.link for cell in row.cells] for row in rows] == [
        ["", "#confused-0-1", ""],
        ["", "", ""],
        ["", "", ""],
    ]
    pairs = cards.confused_pairs(content.predictions, limit=2, anchors=anchors)
    assert [pair.link for pair in pairs] == ["#confused-0-1", ""]


def test_a_confusion_shows_its_worst_pictures_when_it_has_many(make_content: Maker):
    logits = torch.zeros(40, 2)
    logits[:, 1] = torch.arange(40) / 10 + 0.1
    content = make_content(logits, [0] * 40)
    (group,) = cards.confusion_groups(content.predictions, table=content.table, album=Album(0))
    assert (group.count, len(group.cards)) == (40, cards.MOST_OF_A_GROUP)
    assert group.cards[0].path == content.predictions.paths[39]


def test_where_the_page_is_full_names_stay(make_content: Maker):
    content = mixed_up(make_content)
    groups = cards.confusion_groups(content.predictions, table=content.table, album=Album(0))
    shown = [card for group in groups for card in group.cards]
    assert {card.thumbnail.missing for card in shown} == {NO_ROOM}
    assert all(card.path for card in shown)


def decoded(thumbnail: Thumbnail) -> Image.Image:
    kind, code = thumbnail.address.split(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(code)))
    assert image.format == "JPEG"
    assert image.size == (thumbnail.width, thumbnail.height)
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 600), (224, 112)), ((48, 64), (64, 48)), ((1500, 4), (1, 224))],
)
def test_the_longest_side_is_at_most_224_pixels(
    make_image: Callable[..., Path], size: tuple[int, int], expected: tuple[int, int]
):
    assert decoded(Album().of_file(make_image("a.png", size=size))).size == expected


def test_a_thumbnail_looks_like_its_picture(tmp_path: Path):
    Image.new("RGB", (800, 800), (200, 30, 40)).save(tmp_path / "red.jpg", quality=95)
    pixel = decoded(Album().of_file(tmp_path / "red.jpg")).getpixel((100, 100))
    assert pixel == pytest.approx((200, 30, 40), abs=6)


def test_an_unreadable_or_missing_file_gives_no_address(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    assert Album().of_file(tmp_path / "empty.jpg").address == ""
    assert Album().of_file(tmp_path / "missing.jpg").address == ""


def test_an_album_stops_when_it_is_full(make_image: Callable[..., Path]):
    path = make_image("cross.jpg", size=(200, 300))
    size = len(Album().of_file(path).address)
    album = Album(2 * size)
    found = [album.of_file(path) for _ in range(4)]
    assert [bool(each.address) for each in found] == [True, True, False, False]
    assert [each.missing for each in found[2:]] == [NO_ROOM, NO_ROOM]


def test_pixels_become_a_thumbnail():
    found = Album().of_pixels(torch.zeros(3, 100, 448, dtype=torch.uint8))
    assert (found.width, found.height) == (224, 50)
