"""A classifier and batches of any kind in; its raw outputs, in the order of the batches, out.

Loaders give ``Batch`` values with rows of a table; a notebook also hands in plain lists of ``(images, targets)``. Here both
are the same: what comes out knows of no table.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sized
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.infer.run import Precision, compute_logits, evaluation_mode
from vizsla.types import Batch, is_labelled

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a network gave for N pictures, on the CPU.

    Attributes:
        logits: float32 ``(N, C)``.
        targets: As the batches had them; None if they had none.
        images: float32 ``(N, 3, H, W)``, values 0-1, if they were to be kept.
    """

    logits: Tensor
    targets: Tensor | None
    images: Tensor | None = None


def compute_outputs(
    model: nn.Module,
    batches: object,
    *,
    precision: Precision = "fp32",
    keep_images: bool = False,
) -> Outputs:
    """Run a network over batches.

    Args:
        model: Used in evaluation mode; afterwards every part is in the mode that it was in.
        batches: A loader, or anything with a length that gives ``Batch`` values, ``(images, targets)`` or ``(images,)``; the
            images are floats 0-1.
        precision: See ``Precision``.
        keep_images: Return the images too.

    Raises:
        ConfigError: ``batches`` has no length, or nothing in it.
    """
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    images: list[Tensor] = []
    iterator = _iterator(batches)
    ending = closing(iterator) if isinstance(iterator, Generator) else nullcontext()
    with ending, evaluation_mode(model):
        for batch in iterator:
            pictures, known = _parts(batch)
            logits.append(compute_logits(model, pictures, precision=precision))  # pyright: ignore[reportArgumentType] (any module with logits will do)
            if known is not None:
                targets.append(known)
            if keep_images:
                images.append(pictures.cpu())
    if not logits:
        raise ConfigError("There is nothing to predict: the loader gives no batches.")
    all_targets = torch.cat(targets).cpu() if len(targets) == len(logits) else None
    if all_targets is not None and not is_labelled(all_targets).any():
        all_targets = None
    return Outputs(
        logits=torch.cat(logits).cpu(),
        targets=all_targets,
        images=torch.cat(images) if keep_images else None,
    )


def _iterator(batches: Any) -> Iterable[object]:
    if hasattr(batches, "batches"):
        return batches.batches()
    if not isinstance(batches, Sized):
        raise ConfigError(
            "Batches come from a loader or a list, which have a length and may be gone through again. "
            f"Received: {type(batches).__name__}. Wrap it: dl=list(...)."
        )
    return iter(batches)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType] (checked by the loop)


def _parts(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return plain images and targets of a batch of any form."""
    if isinstance(batch, Batch):
        return batch.images, batch.targets
    images, *rest = batch
    known = rest[0].as_subclass(Tensor) if rest else None
    return images.as_subclass(Tensor), known
