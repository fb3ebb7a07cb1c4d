"""Predictions in, which classes were mixed up out: the confusion matrix, the frequent pairs, and the pictures that they link to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.evaluate.interpret import (
    confusion_matrix,
    confusion_shares,
    most_confused,
    worst_mistakes,
)
from vizsla.report.cards import Card, tiles
from vizsla.text import percent_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from vizsla.evaluate.predictions import Predictions
    from vizsla.report.thumbnails import Album
    from vizsla.types import PictureTable

LARGEST_MATRIX = 40
NUM_SHADES = 8
MOST_OF_A_GROUP = 24
MOST_TILES = 480
"""Pictures of all confusions together; the most frequent confusions get theirs first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of the confusion matrix; ``shade`` is a class of the style sheet, ``link`` leads to its pictures."""

    text: str
    shade: str
    hint: str
    link: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixRow:
    """A row of the confusion matrix: an actual class."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Two classes that were mixed up; ``link`` leads to the pictures, or is empty."""

    actual: str
    predicted: str
    count: int
    share: str
    link: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionGroup:
    """The pictures of one confusion: where links lead to, whose they are, and those that are shown."""

    anchor: str
    actual: str
    predicted: str
    count: int
    cards: tuple[Card, ...]


def confusion_groups(
    predictions: Predictions, *, table: PictureTable, album: Album
) -> tuple[ConfusionGroup, ...]:
    """Return the pictures of each confusion, the most frequent first; of one confusion the worst first.

    Args:
        predictions: One class per picture.
        table: Where the files are.
        album: Makes the pictures.
    """
    positions_of: dict[tuple[int, int], list[int]] = {}
    predicted = predictions.predicted
    for position in worst_mistakes(predictions).tolist():
        pair = int(predictions.targets[position]), int(predicted[position])
        positions_of.setdefault(pair, []).append(position)
    groups: list[ConfusionGroup] = []
    left = MOST_TILES
    for pair in sorted(positions_of, key=lambda one: (-len(positions_of[one]), one)):
        chosen = positions_of[pair][: min(MOST_OF_A_GROUP, left)]
        left -= len(chosen)
        if not chosen:
            break
        groups.append(
            ConfusionGroup(
                anchor=anchor_of(*pair),
                actual=predictions.vocab[pair[0]],
                predicted=predictions.vocab[pair[1]],
                count=len(positions_of[pair]),
                cards=tiles(predictions, table=table, positions=chosen, album=album),
            )
        )
    return tuple(groups)


def anchor_of(actual: int, predicted: int) -> str:
    """Return the name of the place in the page where the pictures of a confusion are."""
    return f"confused-{actual}-{predicted}"


def matrix_rows(
    predictions: Predictions, *, anchors: Collection[str] = ()
) -> tuple[MatrixRow, ...]:
    """Return the confusion matrix, or nothing where it has more than 40 classes and could not be read.

    Args:
        predictions: One class per picture.
        anchors: Places in the page; the cells that have one link to it.
    """
    vocab = predictions.vocab
    if len(vocab) > LARGEST_MATRIX:
        return ()
    counts: list[list[int]] = confusion_matrix(predictions).tolist()
    shares: list[list[float]] = confusion_shares(predictions).tolist()
    return tuple(
        MatrixRow(
            name=vocab[actual],
            cells=tuple(
                Cell(
                    text=str(count) if count or len(vocab) <= 10 else "",
                    shade=_shade(shares[actual][predicted], is_right=actual == predicted),
                    hint=f"{vocab[actual]} \u2192 {vocab[predicted]}" if count else "",
                    link=_link(actual, predicted, anchors),
                )
                for predicted, count in enumerate(row)
            ),
        )
        for actual, row in enumerate(counts)
    )


def confused_pairs(
    predictions: Predictions, *, limit: int, anchors: Collection[str] = ()
) -> tuple[ConfusedPair, ...]:
    """Return the most frequent confusions with their share of the label's pictures.

    Args:
        predictions: One class per picture.
        limit: At most so many.
        anchors: Places in the page; the pairs that have one link to it.
    """
    place_of = {name: place for place, name in enumerate(predictions.vocab)}
    supports = confusion_matrix(predictions).sum(dim=1).tolist()
    support_of = dict(zip(predictions.vocab, supports, strict=True))
    return tuple(
        ConfusedPair(
            actual=actual,
            predicted=predicted,
            count=count,
            share=percent_text(count / support_of[actual]),
            link=_link(place_of[actual], place_of[predicted], anchors),
        )
        for actual, predicted, count in most_confused(predictions)[:limit]
    )


def _link(actual: int, predicted: int, anchors: Collection[str]) -> str:
    anchor = anchor_of(actual, predicted)
    return f"#{anchor}" if anchor in anchors else ""


def _shade(share: float, *, is_right: bool) -> str:
    """Return the style class of a cell; mistakes are few, so a square root makes small shares visible."""
    if share <= 0:
        return ""
    strength = share if is_right else share**0.5
    return f"{'right' if is_right else 'wrong'}-{max(1, round(NUM_SHADES * strength))}"
