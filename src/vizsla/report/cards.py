"""Positions into predictions in, cards with a picture and what was said about it out, for the page's galleries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.report.duplicates import find_duplicates
from vizsla.report.label_errors import suspected_labels
from vizsla.text import percent_text

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.mistakes import Evidence
    from vizsla.report.thumbnails import Album, Thumbnail
    from vizsla.types import PictureTable

SMALL_SIDE = 160
TILE_SIDE = 112
_TILE_QUALITY = 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A picture with what was said about it; ``verdict`` is right, wrong or empty without a label."""

    path: str
    thumbnail: Thumbnail
    label: str
    label_probability: str
    prediction: str
    probability: str
    verdict: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourCard:
    """A training picture that is like another one."""

    path: str
    thumbnail: Thumbnail
    label: str
    similarity: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MistakeCard:
    """A mistake with what explains it.

    Attributes:
        card: The picture and what was said.
        heat: Where the network looked, if that is known.
        neighbours: Training pictures most like it.
        support: How many of them have the label and how many what was predicted, in words; empty without neighbours.
    """

    card: Card
    heat: Thumbnail | None
    neighbours: tuple[NeighbourCard, ...]
    support: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectCard:
    """A picture whose label is probably wrong; ``split`` says which set it is in."""

    card: Card
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateCard:
    """A validation picture beside the training picture that is the same; ``note`` says how alike they are."""

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
    table: PictureTable,
    positions: Tensor,
    album: Album,
    side: int = SMALL_SIDE,
) -> tuple[Card, ...]:
    """Return a card with a thumbnail for each position.

    Args:
        predictions: What was said.
        table: Where the files are; looked up by the row of the prediction.
        positions: int64 positions into ``predictions``.
        album: Makes the pictures.
        side: Their longest side in pixels.
    """
    return tuple(
        _card(predictions, position=position, table=table, album=album, side=side)
        for position in positions.tolist()
    )


def mistake_cards(
    predictions: Predictions,
    *,
    table: PictureTable,
    positions: Tensor,
    evidence: Evidence,
    album: Album,
) -> tuple[MistakeCard, ...]:
    """Return a card for each mistake, with heat map and nearest training pictures where they are known.

    Args:
        predictions: What was said.
        table: Where the files are.
        positions: int64 positions into ``predictions``.
        evidence: What was found out about them.
        album: Makes the pictures.
    """
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
    table: PictureTable,
    left_out: Predictions | None,
    album: Album,
    limit: int,
) -> tuple[tuple[SuspectCard, ...], int, int]:
    """Return cards of pictures whose label is probably wrong, the surest first.

    Args:
        predictions: On the validation pictures.
        table: Where the files are.
        left_out: Of training pictures, by a head that was fitted without them; may be absent.
        album: Makes the pictures.
        limit: At most so many cards.

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
    predictions: Predictions, *, table: PictureTable, evidence: Evidence, album: Album, limit: int
) -> tuple[tuple[DuplicateCard, ...], int]:
    """Return the validation pictures that are trained on too, and how many there are in all.

    Args:
        predictions: On the validation pictures.
        table: Where the files are.
        evidence: Has what the files say; without that there are none.
        album: Makes the pictures.
        limit: At most so many cards.
    """
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
    predictions: Predictions, *, table: PictureTable, positions: list[int], album: Album
) -> tuple[Card, ...]:
    """Return cards with very small pictures, for long lists.

    Args:
        predictions: What was said.
        table: Where the files are.
        positions: Into ``predictions``.
        album: Makes the pictures.
    """
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
    table: PictureTable,
    album: Album,
    side: int,
    quality: int = 80,
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
    if not neighbours:
        return ""
    labels = [each.label for each in neighbours]
    number = len(labels)
    if labels.count(card.prediction) == number:
        return f"All {number} are labelled as predicted."
    if labels.count(card.label) == number:
        return f"All {number} have the label of this picture."
    return ""
