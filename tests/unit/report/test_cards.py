"""Cards: mistakes with what explains them, suspects of both sets, duplicates with their labels, and tasks without one class."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vizsla.data.images.facts import picture_facts
from vizsla.evaluate.predictions import Predictions
from vizsla.infer.mistakes import Evidence, Neighbour
from vizsla.report import cards
from vizsla.report.thumbnails import Album
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.report.build import ReportContent

    Maker = Callable[..., ReportContent]


def test_a_mistake_has_its_heat_map_and_its_neighbours(make_content: Maker):
    content = make_content([[3.0, 0.0], [3.0, 0.0], [0.0, 3.0]], [1, 0, 1])
    evidence = Evidence(
        heat={0: torch.full((3, 40, 50), 200, dtype=torch.uint8)},
        neighbours={0: (Neighbour(row=1, similarity=0.9), Neighbour(row=1, similarity=0.8))},
    )
    (mistake,) = cards.mistake_cards(
        content.predictions,
        table=content.table,
        positions=torch.tensor([0]),
        evidence=evidence,
        album=Album(),
    )
    assert mistake.heat is not None
    assert (mistake.heat.width, mistake.heat.height) == (50, 40)
    assert [(each.label, each.similarity) for each in mistake.neighbours] == [
        ("cross", "0.90"),
        ("cross", "0.80"),
    ]
    assert mistake.support == "All 2 are labelled as predicted."


def test_without_evidence_a_mistake_is_only_itself(make_content: Maker):
    content = make_content([[3.0, 0.0]], [1])
    (mistake,) = cards.mistake_cards(
        content.predictions,
        table=content.table,
        positions=torch.tensor([0]),
        evidence=Evidence(),
        album=Album(),
    )
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


def test_duplicates_tell_both_files_and_whether_their_labels_differ(picture_folder: Path):
    first = sorted((picture_folder / "cross").glob("*.jpg"))[0]
    copy = picture_folder / "disc" / "copy.jpg"
    shutil.copy(first, copy)
    table = PictureTable(
        root=picture_folder,
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
        valid_facts=picture_facts(table, table.valid_rows, num_workers=0),
        train_facts=picture_facts(table, table.train_rows, num_workers=0),
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
