"""A classifier and batches of float pictures in, the features that its head pools out; the classifier is left as it was.

Shape legend: N pictures, V views of each, D features.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.allocator import keep_freed_memory
from vizsla.errors import ConfigError
from vizsla.infer.run import autocast, evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vizsla.infer.run import Precision
    from vizsla.models.classifier import Classifier
    from vizsla.models.feature_head import FeatureHead
    from vizsla.types import Batch

VIEWS = ("plain", "mirrored")
"""Fixed ways of looking at a picture; ``mirrored`` is flipped left to right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Pooled features of some pictures.

    Attributes:
        values: float32 ``(N, V, D)`` on the CPU.
        targets: int64 ``(N,)``.
        rows: int64 ``(N,)``, rows of the table.
    """

    values: Tensor
    targets: Tensor
    rows: Tensor


def extract_features(
    classifier: Classifier,
    batches: Generator[Batch],
    *,
    head: FeatureHead,
    views: Sequence[str] = ("plain",),
    precision: Precision = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> Features:
    """Run the body of a classifier over pictures once and keep what a head pools from its maps.

    Args:
        classifier: Its body is used in evaluation mode; every part is in its own mode again afterwards.
        batches: Pictures as float32 0-1; closed at the end, whatever happens.
        head: Its ``pool`` is used; it need not be fitted yet, nor be the classifier's own.
        views: Some of ``VIEWS``.
        precision: See ``Precision``.
        on_progress: Called after each batch with the number of pictures done so far.

    Returns:
        The features, in the order of the batches.

    Raises:
        ConfigError: A view is not known.
        PictureError: A picture cannot be read.
    """
    if not views or not set(views) <= set(VIEWS):
        raise ConfigError(f"Views are some of {', '.join(VIEWS)}. Received: {list(views)}")
    keep_freed_memory()
    values: list[Tensor] = []
    targets: list[Tensor] = []
    rows: list[Tensor] = []
    with closing(batches), evaluation_mode(classifier):
        for batch in batches:
            images = batch.images
            with autocast(images.device, precision), torch.inference_mode():
                seen = [
                    head.pool(
                        classifier.stage_maps(images.flip(3) if view == "mirrored" else images)
                    )
                    for view in views
                ]
            values.append(torch.stack(seen, dim=1))
            targets.append(batch.targets)
            rows.append(batch.rows)
            if on_progress is not None:
                on_progress(sum(map(len, rows)))
    return Features(
        values=torch.cat(values).cpu().clone(),
        targets=torch.cat(targets).cpu().clone(),
        rows=torch.cat(rows).cpu(),
    )
