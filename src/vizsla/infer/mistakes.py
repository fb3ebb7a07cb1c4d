"""Explain mistakes: where the network looked, which training images look like the mistaken ones, facts about the files.

A report never runs a model, so everything that needs one is done here, and the result is plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.data.images.duplicates import Duplicate, find_duplicates
from vizsla.data.images.facts import ImageFacts, image_facts
from vizsla.errors import ConfigError
from vizsla.evaluate.interpret import top_losses, worst_mistakes
from vizsla.infer.grad_cam import grad_cam, overlay
from vizsla.infer.neighbours import evenly_spread, nearest, pooled_features
from vizsla.infer.run import over_batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.classifier import Classifier
    from vizsla.types import Batch, ImageTable

NUM_EXPLAINED = 12
NUM_NEIGHBOURS = 3
MOST_TRAINING = 4000
"""Training images that are examined, evenly spread where there are more: it takes a second or two on a GPU."""
_EXPLAINED_AT_ONCE = 4

BatchesOf = Callable[[Tensor], Generator["Batch"]]
"""Rows of a table -> batches of their images as float32 0-1 on the classifier's device, as validation prepares them."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KnownImages:
    """What is known of the training images.

    Attributes:
        rows: int64 ``(T,)``, rows of the table.
        features: float32 ``(T, D)``, from ``pooled_features`` of the final classifier; None where it has changed since.
        left_out: Predictions for each training image by a head fitted without it; None where not known.
    """

    rows: Tensor
    features: Tensor | None = None
    left_out: Predictions | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """A training image that is like another one to the network; ``similarity`` is the cosine of their features."""

    row: int
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """Explanations of a finished run; what was not examined is absent.

    Attributes:
        valid_facts: Of the images of the predictions, in their order.
        train_facts: Of training images, at most ``MOST_TRAINING``.
        duplicates: Validation images that are among these training images too.
        heat: By position in the predictions: the image as the network saw it with the places that spoke for its answer,
            uint8 ``(3, H, W)``.
        neighbours: By position in the predictions: the training images most like it, best first.
        left_out: See ``KnownImages``.
    """

    valid_facts: ImageFacts | None = None
    train_facts: ImageFacts | None = None
    duplicates: tuple[Duplicate, ...] = ()
    heat: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    neighbours: Mapping[int, tuple[Neighbour, ...]] = field(
        default_factory=dict[int, tuple[Neighbour, ...]]
    )
    left_out: Predictions | None = None


def explained_positions(predictions: Predictions, k: int = NUM_EXPLAINED) -> Tensor:
    """Return the positions, int64, of the ``k`` worst images at most: mistakes by loss; for regression, the highest losses."""
    if predictions.task == "regression":
        return top_losses(predictions, k)
    return worst_mistakes(predictions, k)


def collect_evidence(
    classifier: Classifier,
    *,
    predictions: Predictions,
    table: ImageTable,
    batches_of: BatchesOf,
    known: KnownImages | None = None,
    num_workers: int | None = None,
    on_progress: Progress = lambda _what, _done, _total: None,
) -> Evidence:
    """Examine the worst mistakes with the network, and the files of all images; the classifier is left as it was.

    ``batches_of`` gives images by row; ``known`` is what training left, so that it need not be computed again; ``num_workers``
    threads read files, None is one per core.
    """
    positions = explained_positions(predictions)
    sample = torch.tensor(
        evenly_spread(table.train_rows.tolist(), most=MOST_TRAINING), dtype=torch.int64
    )
    heat: dict[int, Tensor] = {}
    neighbours: dict[int, tuple[Neighbour, ...]] = {}
    if len(positions):
        rows, features = (sample, None) if known is None else (known.rows, known.features)
        if features is None:
            rows = sample
            found = over_batches(
                classifier,
                batches_of(rows),
                partial(pooled_features, classifier),
                on_progress=lambda done: on_progress(
                    "features of training images", done, len(rows)
                ),
            )
            features = torch.cat(found.outputs) if found.outputs else torch.zeros(0, 0)
        seen = _look_at(classifier, predictions, positions, batches_of=batches_of, heat=heat)
        if len(features):
            alike = nearest(seen, features, count=NUM_NEIGHBOURS)
            neighbours = {
                position: tuple(
                    Neighbour(row=int(rows[at]), similarity=cosine) for at, cosine in like
                )
                for position, like in zip(positions.tolist(), alike, strict=True)
            }

    def facts(of_rows: Tensor, what: str) -> ImageFacts:
        return image_facts(
            table,
            of_rows,
            on_progress=lambda done: on_progress(what, done, len(of_rows)),
            num_workers=num_workers,
        )

    valid_facts = facts(predictions.rows, "scanning validation files")
    train_facts = facts(sample, "scanning training files")
    return Evidence(
        valid_facts=valid_facts,
        train_facts=train_facts,
        duplicates=find_duplicates(valid_facts, train_facts),
        heat=heat,
        neighbours=neighbours,
        left_out=None if known is None else known.left_out,
    )


def _look_at(
    classifier: Classifier,
    predictions: Predictions,
    positions: Tensor,
    *,
    batches_of: BatchesOf,
    heat: dict[int, Tensor],
) -> Tensor:
    """Put the heat maps of some images into ``heat``; return their features ``(P, D)`` in the order of the positions."""
    place_of = {int(predictions.rows[position]): position for position in positions.tolist()}
    found: dict[int, Tensor] = {}
    with closing(batches_of(predictions.rows[positions])) as batches:
        for batch in batches:
            for start in range(0, len(batch.rows), _EXPLAINED_AT_ONCE):
                chosen = slice(start, start + _EXPLAINED_AT_ONCE)
                images = batch.images[chosen].float()
                places = [place_of[row] for row in batch.rows[chosen].tolist()]
                found |= dict(zip(places, pooled_features(classifier, images), strict=True))
                heat |= _overlays(classifier, predictions, images, places=places)
    return torch.stack([found[position] for position in positions.tolist()])


def _overlays(
    classifier: Classifier, predictions: Predictions, images: Tensor, *, places: list[int]
) -> dict[int, Tensor]:
    """Return overlays by position; none for networks and image sizes that have no map to look at."""
    answers = predictions.predicted[torch.tensor(places)]
    if predictions.task == "regression":
        answers = torch.ones(len(places), len(predictions.vocab))
    elif predictions.task == "multi_category":
        answers = answers.float()
    try:
        maps = grad_cam(classifier, images, targets=answers)
    except ConfigError:
        return {}
    return {
        place: overlay(image.cpu(), warmth.cpu())
        for place, image, warmth in zip(places, images, maps, strict=True)
        if bool(warmth.any())  # else no place speaks for the answer
    }
