"""Cards: mistakes with what explains them, suspects, duplicates, confusions, and the small images of a page."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vizsla.data.images import find_duplicates, image_facts
from vizsla.infer import Evidence, Neighbour
from vizsla.report import NO_ROOM, Album, ReportContent, Thumbnail, cards
from vizsla.types import UNLABELLED

Maker = Callable[..., ReportContent]


def first_mistake(content: ReportContent, evidence: Evidence) -> cards.Card:
    (mistake,) = cards.mistake_cards(
        content.predictions,
        torch.tensor([0]),
        evidence=evidence,
        table=content.table,
        album=Album(),
    )
    return mistake


def test_a_card_has_path_label_prediction_and_probabilities(make_content: Maker):
    logits = torch.tensor([[0.0, 0.0], [0.75, 0.25], [0.75, 0.25]]).log().nan_to_num(neginf=0.0)
    content = make_content(logits, [0, 1, UNLABELLED])
    wrong, unknown = cards.cards(content.predictions, [1, 2], table=content.table, album=Album())
    assert wrong.path == "cross/cross_1.jpg"
    assert (wrong.prediction, wrong.label, wrong.verdict) == ("cross", "disc", "wrong")
    assert (wrong.probability, wrong.label_probability) == pytest.approx((0.75, 0.25))
    assert (unknown.label, unknown.label_probability, unknown.verdict) == ("", None, "")
    assert wrong.thumbnail.address.startswith("data:image/jpeg;base64,")


def test_several_labels_and_numbers_have_cards_without_probabilities(make_content: Maker):
    content = make_content([[3.0, 0.0]], [1])
    for task, targets, verdict, label, said in (
        ("multi_category", [[0.0, 1.0]], "wrong", "disc", "cross"),
        ("multi_category", [[1.0, 0.0]], "right", "cross", "cross"),
        ("regression", [[1.5, 2.0]], "", "1.5;2", "3;0"),
    ):
        predictions = replace(content.predictions, targets=torch.tensor(targets), task=task)
        (card,) = cards.cards(predictions, [0], table=content.table, album=Album())
        assert (card.verdict, card.label, card.prediction) == (verdict, label, said)
        assert (card.probability, card.label_probability) == (None, None)


def test_a_mistake_has_its_heat_map_and_its_neighbours(make_content: Maker):
    content = make_content([[3.0, 0.0], [3.0, 0.0], [0.0, 3.0]], [1, 0, 1])
    evidence = Evidence(
        heat={0: torch.full((3, 40, 50), 200, dtype=torch.uint8)},
        neighbours={0: (Neighbour(row=1, similarity=0.9), Neighbour(row=1, similarity=0.8))},
    )
    mistake = first_mistake(content, evidence)
    assert mistake.heat is not None
    assert (mistake.heat.width, mistake.heat.height) == (50, 40)
    assert [(card.label, cosine) for card, cosine in mistake.neighbours] == [
        ("cross", 0.9),
        ("cross", 0.8),
    ]
    assert mistake.support == "All 2 are labelled as predicted."
    plain = first_mistake(content, Evidence())
    assert (plain.heat, plain.neighbours, plain.support) == (None, (), "")


def test_suspects_of_validation_and_training_are_ranked_together(make_content: Maker):
    content = make_content(torch.eye(2)[[0, 0, 1, 1, 1]] * 3.0, [0, 0, 0, 1, 1])
    left_out = replace(content.predictions, logits=content.predictions.logits * 2)
    found, numbers = cards.suspect_cards(
        content.predictions, left_out=left_out, table=content.table, album=Album(), limit=9
    )
    assert numbers == (1, 1)
    assert [card.split for card in found] == ["training", "validation"]
    assert (found[0].label, found[0].prediction) == ("cross", "disc")


def test_duplicates_have_both_files_and_their_labels(make_content: Maker, image_folder: Path):
    first = image_folder / "cross" / "cross_0.jpg"
    copy = shutil.copy(first, image_folder / "disc" / "copy.jpg")
    content = make_content(torch.zeros(2, 2), [0, 1], paths=(first, copy))
    table = replace(content.table, train_rows=torch.tensor([0]), valid_rows=torch.tensor([1]))
    predictions = replace(
        content.predictions,
        rows=table.valid_rows,
        paths=("disc/copy.jpg",),
        logits=torch.zeros(1, 2),
        targets=torch.tensor([1]),
    )
    facts = [
        image_facts(table, rows, num_workers=0) for rows in (table.valid_rows, table.train_rows)
    ]
    evidence = Evidence(duplicates=find_duplicates(*facts))
    ((found, valid, train),) = cards.duplicate_cards(
        predictions, evidence=evidence, table=table, album=Album(), limit=4
    )
    assert (found.position, found.is_exact) == (0, True)
    assert (valid.path, valid.label) == ("disc/copy.jpg", "disc")
    assert (train.path, train.label) == ("cross/cross_0.jpg", "cross")


def test_each_confusion_has_its_images_the_most_frequent_first(make_content: Maker):
    said = [1, 1, 2, 0, 0, 2, 2]
    content = make_content(torch.eye(3)[said] * 3.0, [0, 0, 0, 0, 1, 1, 2], vocab="abc")
    found = cards.confusions(content.predictions, table=content.table, album=Album())
    assert [(one.actual, one.predicted, one.count, one.share, len(one.cards)) for one in found] == [
        ("a", "b", 2, 0.5, 2),
        ("a", "c", 1, 0.25, 1),
        ("b", "a", 1, 0.5, 1),
        ("b", "c", 1, 0.5, 1),
    ]
    assert found[0].cards[0].path == content.predictions.paths[0]
    full = cards.confusions(content.predictions, table=content.table, album=Album(0))
    assert {card.thumbnail.missing for one in full for card in one.cards} == {NO_ROOM}
    assert all(card.path for one in full for card in one.cards)


def test_a_confusion_shows_its_worst_images_when_it_has_many(make_content: Maker):
    logits = torch.zeros(40, 2)
    logits[:, 1] = torch.arange(40) / 10 + 0.1
    content = make_content(logits, [0] * 40)
    (found,) = cards.confusions(content.predictions, table=content.table, album=Album(0))
    assert (found.count, len(found.cards)) == (40, cards.MOST_OF_A_GROUP)
    assert found.cards[0].path == content.predictions.paths[39]


def decoded(thumbnail: Thumbnail) -> Image.Image:
    kind, code = thumbnail.address.split(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(code)))
    assert image.format == "JPEG"
    assert image.size == (thumbnail.width, thumbnail.height)
    return image


def test_a_thumbnail_is_at_most_224_pixels_long(make_image: Callable[..., Path], tmp_path: Path):
    for size, expected in (
        ((300, 600), (224, 112)),
        ((48, 64), (64, 48)),
        ((1500, 4), (1, 224)),
    ):
        assert decoded(Album().of_file(make_image("a.png", size=size))).size == expected
    Image.new("RGB", (800, 800), (200, 30, 40)).save(tmp_path / "red.jpg", quality=95)
    pixel = decoded(Album().of_file(tmp_path / "red.jpg")).getpixel((100, 100))
    assert pixel == pytest.approx((200, 30, 40), abs=6)
    found = Album().of_pixels(torch.zeros(3, 100, 448, dtype=torch.uint8))
    assert (found.width, found.height) == (224, 50)


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
