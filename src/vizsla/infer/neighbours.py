"""Find the known images that are most like a new one to the network, by the features that its head pools.

Features have length 1, so that the similarity of two images is the cosine of their angle.

Shapes: N known images, B new ones, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from vizsla.infer.run import image_features
from vizsla.models.heads import FeatureHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.models.classifier import Classifier

_Item = TypeVar("_Item")
_ROWS_AT_ONCE = (
    8192  # Half-precision rows become float32 this many at a time, 40 MB for a thousand features.
)


def evenly_spread(items: Sequence[_Item], *, most: int) -> list[_Item]:
    """Return at most ``most`` items (at least 1), spread evenly over all of them."""
    if len(items) <= most:
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def pooled_features(classifier: Classifier, images: Tensor) -> Tensor:
    """Return what the head pools from images (float 0-1, on its device), float32 ``(B, D)`` on the CPU, each row of length 1.

    A ``FeatureHead`` pools and standardises; for others the last map is averaged.
    """
    kind = "head" if isinstance(classifier.head, FeatureHead) else "body"
    return functional.normalize(image_features(classifier, images, kind=kind), dim=1)


def standardised(head: torch.nn.Module, pooled_BD: Tensor) -> Tensor:
    """Return pooled features as they are compared: on the scale of the head where it has one, each row of length 1."""
    if isinstance(head, FeatureHead):
        pooled_BD = (pooled_BD - head.offset) * head.scale
    return functional.normalize(pooled_BD, dim=1)


def nearest(queries_BD: Tensor, known_ND: Tensor, *, count: int) -> list[list[tuple[int, float]]]:
    """Return position and similarity of the known images most like each new one, best first, at most ``count``."""
    parts = [queries_BD @ part.float().T for part in known_ND.split(_ROWS_AT_ONCE)]
    best = torch.cat(parts, dim=1).topk(min(count, len(known_ND)), dim=1)
    return [
        list(zip(positions, similarities, strict=True))
        for positions, similarities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
