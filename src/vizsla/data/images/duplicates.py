"""Find images that are both in the training and in the validation set: they flatter the accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vizsla.data.images.facts import ImageFacts

LEAST_LIKENESS = 0.995
"""Correlation of 24 x 24 grey values. Copies that were scaled or compressed again correlate by 0.998 and more."""
STANDS_OUT = 10.0
"""A copy differs by at most a tenth of the difference of the tenth-nearest training image. Cells of a solar module, which are
not copies, correlate by up to 0.9985: without this rule 32 of 656 were taken for copies, with it 3.
"""
_RANK = 10
_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A validation image that is in the training set too."""

    position: int  # Of the validation image, in its facts.
    train_row: int
    likeness: float  # Correlation of the two; 1 for files with the same bytes.
    is_exact: bool  # Whether the files have the same bytes.


def find_duplicates(valid: ImageFacts, train: ImageFacts) -> tuple[Duplicate, ...]:
    """Return the validation images that are also trained on, each with the training image most like it.

    Files with the same bytes come first, then the others by likeness.
    """
    place_of = {
        digest: place for place, digest in reversed(list(enumerate(train.digests))) if digest
    }
    exact = {
        position: place_of[digest]
        for position, digest in enumerate(valid.digests)
        if digest in place_of
    }
    found = [
        Duplicate(position=position, train_row=int(train.rows[place]), likeness=1.0, is_exact=True)
        for position, place in exact.items()
    ]
    if not len(train.rows):
        return ()
    for start in range(0, len(valid.rows), _AT_ONCE):
        likeness = valid.likenesses[start : start + _AT_ONCE] @ train.likenesses.T
        best = likeness.topk(min(_RANK, likeness.shape[1]), dim=1)
        values, places = best.values[:, 0], best.indices[:, 0]
        # With fewer than ten training images the last one stands for the tenth; a single one is judged on its own.
        usual = best.values[:, -1] if likeness.shape[1] > 1 else torch.zeros_like(values)
        is_copy = (values >= LEAST_LIKENESS) & (STANDS_OUT * (1 - values) <= 1 - usual)
        for offset in is_copy.nonzero()[:, 0].tolist():
            if start + offset not in exact:
                found.append(
                    Duplicate(
                        position=start + offset,
                        train_row=int(train.rows[places[offset]]),
                        likeness=min(1.0, float(values[offset])),
                        is_exact=False,
                    )
                )
    return tuple(sorted(found, key=lambda each: (not each.is_exact, -each.likeness)))
