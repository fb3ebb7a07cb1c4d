"""Cards of the report's galleries: small images with what is said about them."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from PIL import Image

from vizsla.data.images.decode import decode_image
from vizsla.errors import PictureError
from vizsla.evaluate.interpret import worst_mistakes
from vizsla.evaluate.label_errors import suspected_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from vizsla.data.images.duplicates import Duplicate
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.mistakes import Evidence
    from vizsla.types import ImageTable

LONGEST_SIDE, SMALL_SIDE, TILE_SIDE = 224, 160, 112
BUDGET_BYTES = 4_300_000
"""For all images of a page, as text; with its words the page stays below 5 MB."""
GONE = "cannot be read any more"
NO_ROOM = "left out, the page is full"
MOST_OF_A_GROUP = 24
MOST_TILES = 480
"""Images of all confusions together; the most frequent confusions get theirs first."""
_QUALITY, _TILE_QUALITY = 80, 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small image as a ``data:`` address; without one, ``missing`` says why."""

    address: str = ""
    width: int = 0
    height: int = 0
    missing: str = ""


class Album:
    """Makes the small images of one page until their budget is spent; later ones are left out."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._left = budget_bytes

    def of_file(
        self,
        path: Path,
        *,
        side: int = LONGEST_SIDE,
        quality: int = _QUALITY,
        bit_depth: int | None = None,
    ) -> Thumbnail:
        """Return the whole image of a file, its longest side at most ``side`` pixels.

        A file that can no longer be read becomes a placeholder: one image must not cost the report.
        """
        if self._left <= 0:
            return Thumbnail(missing=NO_ROOM)
        try:
            image = decode_image(path, cover=(side, side), truncated="ok", bit_depth=bit_depth)
        except (PictureError, OSError):
            return Thumbnail(missing=GONE)
        return self._add(image, side=side, quality=quality)

    def of_pixels(self, pixels: Tensor) -> Thumbnail:
        """Return uint8 ``(3, H, W)`` as a small image."""
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        return self._add(image, side=LONGEST_SIDE, quality=_QUALITY)

    def _add(self, image: Image.Image, *, side: int, quality: int) -> Thumbnail:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality, optimize=True)
        code = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._left -= len(code)
        if self._left < 0:
            return Thumbnail(missing=NO_ROOM)
        return Thumbnail(
            address=f"data:image/jpeg;base64,{code}", width=image.width, height=image.height
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """An image with what is said about it; what is not known is empty or None.

    Attributes:
        path: As people see it.
        thumbnail: The image.
        label: Its label.
        label_probability: Of the label, 0-1, where an image has one class.
        prediction: What was predicted.
        probability: Of the prediction, 0-1, where an image has one class.
        verdict: ``"right"`` or ``"wrong"``; empty without a label and for numbers.
        split: The set that the image is in, where a gallery mixes both.
        heat: Where the network looked.
        neighbours: Training images most like it, each with the cosine of their features.
    """

    path: str
    thumbnail: Thumbnail
    label: str
    label_probability: float | None = None
    prediction: str = ""
    probability: float | None = None
    verdict: str = ""
    split: str = ""
    heat: Thumbnail | None = None
    neighbours: tuple[tuple[Card, float], ...] = ()

    @property
    def support(self) -> str:
        """What the labels of the neighbours speak for, in words, where they agree."""
        labels = {neighbour.label for neighbour, _ in self.neighbours}
        if self.probability is None or labels not in ({self.prediction}, {self.label}):
            return ""
        all_of_them = f"All {len(self.neighbours)}"
        if labels == {self.prediction}:
            return f"{all_of_them} are labelled as predicted."
        return f"{all_of_them} have the label of this image."


def cards(
    predictions: Predictions,
    positions: Tensor | Sequence[int],
    *,
    table: ImageTable,
    album: Album,
    side: int = SMALL_SIDE,
    quality: int = _QUALITY,
) -> list[Card]:
    """Return the cards of the images at some positions of the predictions."""
    shown = predictions.take(torch.as_tensor(positions, dtype=torch.int64))
    known, probabilities = shown.labelled.tolist(), shown.probabilities
    right = [] if shown.task == "regression" else shown.correct.tolist()
    made: list[Card] = []
    for place, row in enumerate(shown.rows.tolist()):
        verdict = ("right" if right[place] else "wrong") if right and known[place] else ""
        card = Card(
            path=shown.paths[place],
            thumbnail=album.of_file(
                table.paths[row], side=side, quality=quality, bit_depth=table.bit_depth
            ),
            label=shown.label(place) or ("none" if verdict else ""),
            prediction=shown.prediction(place) or "none",
            verdict=verdict,
        )
        if shown.task == "category":
            own = float(probabilities[place, shown.targets[place]]) if known[place] else None
            highest = float(probabilities[place].max())
            card = replace(card, label_probability=own, probability=highest)
        made.append(card)
    return made


def mistake_cards(
    predictions: Predictions,
    positions: Tensor,
    *,
    evidence: Evidence,
    table: ImageTable,
    album: Album,
) -> list[Card]:
    """Return larger cards, with heat maps and the nearest training images where they are known."""
    plain = cards(predictions, positions, table=table, album=album, side=LONGEST_SIDE)
    made: list[Card] = []
    for position, card in zip(positions.tolist(), plain, strict=True):
        neighbours = tuple(
            (_card_of_row(each.row, table=table, album=album), each.similarity)
            for each in evidence.neighbours.get(position, ())
        )
        pixels = evidence.heat.get(position)
        heat = None if pixels is None else album.of_pixels(pixels)
        made.append(replace(card, heat=heat, neighbours=neighbours))
    return made


def suspect_cards(
    predictions: Predictions,
    *,
    left_out: Predictions | None,
    table: ImageTable,
    album: Album,
    limit: int,
) -> tuple[list[Card], tuple[int, int]]:
    """Return images whose label is probably wrong, the surest first, with the class that each probably is.

    Returns:
        At most ``limit`` cards, and how many validation and training labels are suspected in all.
    """
    sources = [("validation", predictions)]
    if left_out is not None:
        sources.append(("training", left_out))
    found = [(*source, each) for source in sources for each in suspected_labels(source[1])]
    found.sort(key=lambda one: one[2].label_probability)
    made: list[Card] = []
    for split, source, each in found[:limit]:
        (card,) = cards(source, [each.position], table=table, album=album)
        made.append(
            replace(
                card,
                split=split,
                label_probability=each.label_probability,
                prediction=source.vocab[each.suggestion],
                probability=each.probability,
            )
        )
    counts = Counter(split for split, _, _ in found)
    return made, (counts["validation"], counts["training"])


def duplicate_cards(
    predictions: Predictions, *, evidence: Evidence, table: ImageTable, album: Album, limit: int
) -> list[tuple[Duplicate, Card, Card]]:
    """Return validation images that are trained on too, each with that training image."""
    return [
        (
            each,
            _card_of_row(int(predictions.rows[each.position]), table=table, album=album),
            _card_of_row(each.train_row, table=table, album=album),
        )
        for each in evidence.duplicates[:limit]
    ]


def _card_of_row(row: int, *, table: ImageTable, album: Album) -> Card:
    return Card(
        path=table.shown_path(row),
        thumbnail=album.of_file(table.paths[row], side=TILE_SIDE, bit_depth=table.bit_depth),
        label=table.label(row),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """The images of one class that were taken for another.

    Attributes:
        actual: Their class.
        predicted: What they were taken for.
        count: How many they are.
        share: Of the images of their class, 0-1.
        anchor: Name of the place in the page where they are shown.
        cards: Those that are shown.
    """

    actual: str
    predicted: str
    count: int
    share: float
    anchor: str
    cards: list[Card]


def confusions(predictions: Predictions, *, table: ImageTable, album: Album) -> list[Confusion]:
    """Return the most frequent confusions first, each with its worst images first while there is room for them."""
    positions_of: dict[tuple[int, int], list[int]] = {}
    targets, predicted = predictions.targets.tolist(), predictions.predicted.tolist()
    for position in worst_mistakes(predictions).tolist():
        positions_of.setdefault((targets[position], predicted[position]), []).append(position)
    supports = Counter(targets)
    left = MOST_TILES
    found: list[Confusion] = []
    for pair, positions in sorted(positions_of.items(), key=lambda one: (-len(one[1]), one[0])):
        chosen = positions[: min(MOST_OF_A_GROUP, left)]
        left -= len(chosen)
        tiles: list[Card] = []
        if chosen:
            tiles = cards(
                predictions,
                chosen,
                table=table,
                album=album,
                side=TILE_SIDE,
                quality=_TILE_QUALITY,
            )
        confusion = Confusion(
            actual=predictions.vocab[pair[0]],
            predicted=predictions.vocab[pair[1]],
            count=len(positions),
            share=len(positions) / supports[pair[0]],
            anchor=f"confused-{pair[0]}-{pair[1]}",
            cards=tiles,
        )
        found.append(confusion)
    return found
