"""Cards of the report's galleries: a small image and what was said about it; mistakes, suspects, duplicates, confusions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vizsla.data.images.decode import decode_image
from vizsla.data.images.duplicates import find_duplicates
from vizsla.errors import PictureError
from vizsla.evaluate.interpret import (
    confusion_matrix,
    confusion_shares,
    most_confused,
    worst_mistakes,
)
from vizsla.evaluate.label_errors import suspected_labels
from vizsla.text import percent_text

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.mistakes import Evidence
    from vizsla.types import ImageTable

LONGEST_SIDE = 224
BUDGET_BYTES = 4_300_000
"""Of all addresses of a page; with its text it stays below 5 MB."""
GONE = "cannot be read any more"
NO_ROOM = "left out, the page is full"
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small image for a page.

    Attributes:
        address: ``data:image/jpeg;base64,...``, or an empty string where there is no image.
        width: Pixels.
        height: Pixels.
        missing: Why there is no image; empty where there is one.
    """

    address: str
    width: int
    height: int
    missing: str = ""


class Album:
    """The images of one page: makes them small, and leaves further ones out when the page would grow too large."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._left = budget_bytes

    def of_file(
        self, path: Path, *, side: int = LONGEST_SIDE, quality: int = _JPEG_QUALITY
    ) -> Thumbnail:
        """Return the whole image of a file, its longest side at most ``side`` pixels, ``quality`` as Pillow counts.

        A file that cannot be read any more gives an empty address: a report is not given up for one image.
        """
        if self._left <= 0:
            return _without(NO_ROOM, side=side)
        try:
            image = decode_image(path, cover=(side, side), truncated="ok")
        except (PictureError, OSError):
            return _without(GONE, side=side)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return self._placed(image, side=side, quality=quality)

    def of_pixels(self, pixels: Tensor, *, side: int = LONGEST_SIDE) -> Thumbnail:
        """Return pixels as a small image."""
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return self._placed(image, side=side, quality=_JPEG_QUALITY)

    def _placed(self, image: Image.Image, *, side: int, quality: int) -> Thumbnail:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality, optimize=True)
        code = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._left -= len(code)
        if self._left < 0:
            self._left = 0
            return _without(NO_ROOM, side=side)
        return Thumbnail(
            address=f"data:image/jpeg;base64,{code}", width=image.width, height=image.height
        )


def _without(why: str, *, side: int) -> Thumbnail:
    return Thumbnail(address="", width=side, height=side, missing=why)


SMALL_SIDE = 160
TILE_SIDE = 112
_TILE_QUALITY = 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """An image with what was said about it; ``verdict`` is right, wrong or empty without a label."""

    path: str
    thumbnail: Thumbnail
    label: str
    label_probability: str
    prediction: str
    probability: str
    verdict: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourCard:
    """A training image that is like another one."""

    path: str
    thumbnail: Thumbnail
    label: str
    similarity: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MistakeCard:
    """A mistake with what explains it.

    Attributes:
        card: The image and what was said.
        heat: Where the network looked, if that is known.
        neighbours: Training images most like it.
        support: How many of them have the label and how many what was predicted, in words; empty without neighbours.
    """

    card: Card
    heat: Thumbnail | None
    neighbours: tuple[NeighbourCard, ...]
    support: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectCard:
    """An image whose label is probably wrong; ``split`` says which set it is in."""

    card: Card
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateCard:
    """A validation image beside the training image that is the same; ``note`` says how alike they are."""

    valid: Thumbnail
    valid_path: str
    valid_label: str
    train: Thumbnail
    train_path: str
    train_label: str
    note: str
    labels_differ: bool


def cards(
    predictions: Predictions,
    *,
    table: ImageTable,
    positions: Tensor,
    album: Album,
    side: int = SMALL_SIDE,
) -> tuple[Card, ...]:
    """Return a card with a thumbnail for each position."""
    return tuple(
        _card(predictions, position=position, table=table, album=album, side=side)
        for position in positions.tolist()
    )


def mistake_cards(
    predictions: Predictions,
    *,
    table: ImageTable,
    positions: Tensor,
    evidence: Evidence,
    album: Album,
) -> tuple[MistakeCard, ...]:
    """Return a card for each mistake, with heat map and nearest training images where they are known."""
    chosen: list[MistakeCard] = []
    for position, card in zip(
        positions.tolist(),
        cards(predictions, table=table, positions=positions, album=album, side=224),
        strict=True,
    ):
        pixels = evidence.heat.get(position)
        neighbours = tuple(
            NeighbourCard(
                path=table.shown_path(each.row),
                thumbnail=album.of_file(table.paths[each.row], side=TILE_SIDE),
                label=table.label(each.row),
                similarity=f"{each.similarity:.2f}",
            )
            for each in evidence.neighbours.get(position, ())
        )
        chosen.append(
            MistakeCard(
                card=card,
                heat=None if pixels is None else album.of_pixels(pixels),
                neighbours=neighbours,
                support=_support(card, neighbours) if predictions.task == "category" else "",
            )
        )
    return tuple(chosen)


def suspect_cards(
    predictions: Predictions,
    *,
    table: ImageTable,
    left_out: Predictions | None,
    album: Album,
    limit: int,
) -> tuple[tuple[SuspectCard, ...], int, int]:
    """Return cards of images whose label is probably wrong, the surest first.

    Returns:
        The cards, and how many validation and training labels are suspected in all.
    """
    found = [("validation", predictions, each) for each in suspected_labels(predictions)]
    num_valid = len(found)
    if left_out is not None:
        found += [("training", left_out, each) for each in suspected_labels(left_out)]
    ranked = sorted(found, key=lambda one: one[2].label_probability - one[2].probability)
    chosen = tuple(
        SuspectCard(
            card=Card(
                path=source.paths[each.position],
                thumbnail=album.of_file(
                    table.paths[int(source.rows[each.position])], side=SMALL_SIDE
                ),
                label=source.label(each.position),
                label_probability=percent_text(each.label_probability),
                prediction=source.vocab[each.suggestion],
                probability=percent_text(each.probability),
                verdict="",
            ),
            split=split,
        )
        for split, source, each in ranked[:limit]
    )
    return chosen, num_valid, len(found) - num_valid


def duplicate_cards(
    predictions: Predictions, *, table: ImageTable, evidence: Evidence, album: Album, limit: int
) -> tuple[tuple[DuplicateCard, ...], int]:
    """Return the validation images that are trained on too, and how many there are in all."""
    if evidence.valid_facts is None or evidence.train_facts is None:
        return (), 0
    found = find_duplicates(evidence.valid_facts, evidence.train_facts)
    chosen: list[DuplicateCard] = []
    for each in found[:limit]:
        row = int(predictions.rows[each.position])
        labels = table.label(row), table.label(each.train_row)
        chosen.append(
            DuplicateCard(
                valid=album.of_file(table.paths[row], side=TILE_SIDE),
                valid_path=table.shown_path(row),
                valid_label=labels[0],
                train=album.of_file(table.paths[each.train_row], side=TILE_SIDE),
                train_path=table.shown_path(each.train_row),
                train_label=labels[1],
                note="the same file" if each.is_exact else f"likeness {each.likeness:.3f}",
                labels_differ=labels[0] != labels[1],
            )
        )
    return tuple(chosen), len(found)


def tiles(
    predictions: Predictions, *, table: ImageTable, positions: list[int], album: Album
) -> tuple[Card, ...]:
    """Return cards with very small images, for long lists."""
    return tuple(
        _card(
            predictions,
            position=position,
            table=table,
            album=album,
            side=TILE_SIDE,
            quality=_TILE_QUALITY,
        )
        for position in positions
    )


def _card(
    predictions: Predictions,
    *,
    position: int,
    table: ImageTable,
    album: Album,
    side: int,
    quality: int = _JPEG_QUALITY,
) -> Card:
    thumbnail = album.of_file(
        table.paths[int(predictions.rows[position])], side=side, quality=quality
    )
    label_probability, probability, verdict = _numbers(predictions, position)
    return Card(
        path=predictions.paths[position],
        thumbnail=thumbnail,
        label=predictions.label(position) or ("none" if verdict else ""),
        label_probability=label_probability,
        prediction=predictions.prediction(position) or "none",
        probability=probability,
        verdict=verdict,
    )


def _numbers(predictions: Predictions, position: int) -> tuple[str, str, str]:
    """Return the probabilities of label and prediction and the verdict, empty where the task has none."""
    target = predictions.targets[position]
    logits = predictions.logits[position]
    if predictions.task == "regression":
        return "", "", ""
    if predictions.task == "multi_category":
        known = not bool(target.isnan().any())
        right = bool(((logits.sigmoid() > 0.5).float() == target).all())
        return "", "", ("right" if right else "wrong") if known else ""
    shares = logits.softmax(dim=0)
    known, predicted = int(target) >= 0, int(logits.argmax())
    own = percent_text(float(shares[int(target)])) if known else ""
    verdict = ("right" if int(target) == predicted else "wrong") if known else ""
    return own, percent_text(float(shares[predicted])), verdict


def _support(card: Card, neighbours: tuple[NeighbourCard, ...]) -> str:
    labels = {each.label for each in neighbours}
    if labels == {card.prediction}:
        return f"All {len(neighbours)} are labelled as predicted."
    return f"All {len(neighbours)} have the label of this image." if labels == {card.label} else ""


LARGEST_MATRIX = 40
NUM_SHADES = 8
MOST_OF_A_GROUP = 24
MOST_TILES = 480
"""Images of all confusions together; the most frequent confusions get theirs first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of the confusion matrix; ``shade`` is a class of the style sheet, ``link`` leads to its images."""

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
    """Two classes that were mixed up; ``link`` leads to the images, or is empty."""

    actual: str
    predicted: str
    count: int
    share: str
    link: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusionGroup:
    """The images of one confusion: where links lead to, whose they are, and those that are shown."""

    anchor: str
    actual: str
    predicted: str
    count: int
    cards: tuple[Card, ...]


def confusion_groups(
    predictions: Predictions, *, table: ImageTable, album: Album
) -> tuple[ConfusionGroup, ...]:
    """Return the images of each confusion, the most frequent first; of one confusion the worst first."""
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
    """Return the name of the place in the page where the images of a confusion are."""
    return f"confused-{actual}-{predicted}"


def matrix_rows(
    predictions: Predictions, *, anchors: Collection[str] = ()
) -> tuple[MatrixRow, ...]:
    """Return the confusion matrix, or nothing where it has more than 40 classes and could not be read."""
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
    """Return the most frequent confusions with their share of the label's images."""
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
