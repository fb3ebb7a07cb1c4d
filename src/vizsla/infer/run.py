"""A classifier and batches of float pictures in, ``Predictions`` out; the classifier is left as it was.

Shapes: B pictures of a batch, N pictures in all, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vizsla.allocator import keep_freed_memory
from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from vizsla.models.classifier import Classifier
    from vizsla.types import Batch, PictureTable

Precision = Literal["fp32", "bf16"]
"""``"fp32"``, or ``"bf16"``: bfloat16 where torch's autocast deems it safe."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Put a module in evaluation mode for a while; afterwards every part is in the mode that it was in.

    Args:
        module: Any module. Parts may differ in mode: frozen norms are often in evaluation mode already.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def compute_logits(
    classifier: Classifier, images: Tensor, *, precision: Precision = "fp32"
) -> Tensor:
    """Return the logits of one batch, without gradients and without waiting for the device.

    Args:
        classifier: In evaluation mode (``evaluation_mode``).
        images: float32 ``(B, 3, H, W)`` with values 0-1, on any device.
        precision: See ``Precision``.

    Returns:
        float32 ``(B, C)`` on the classifier's device.

    Raises:
        ConfigError: ``precision`` is none of the two.
    """
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f'precision is "fp32" or "bf16". Received: {precision!r}')
    keep_freed_memory()
    device = next(classifier.parameters()).device
    faster = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.inference_mode(), faster:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return classifier(images).float()


def predict_batches(
    classifier: Classifier,
    batches: Iterable[Batch],
    *,
    table: PictureTable,
    precision: Precision = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a classifier over batches and return what it says of every picture, in the order of the batches.

    The device is not waited for until the end, when all logits are copied to the CPU at once. If the batches come from
    a generator, it is closed, also after an error, so that its threads end.

    Args:
        classifier: Used in evaluation mode; every part is in its own mode again afterwards.
        batches: Pictures as float32 0-1 (augmentation applied), as ``DataLoader.batches()`` yields them.
        table: The table that the rows of the batches point into; gives paths and class names.
        precision: See ``Precision``.
        on_progress: Called after each batch with the number of pictures done so far, for a progress bar.

    Returns:
        Predictions of N pictures; float32 logits ``(N, C)`` on the CPU.

    Raises:
        ConfigError: ``precision`` is none of the two.
        PictureError: A loader met a picture that it cannot read.
    """
    logits: list[Tensor] = []
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    iterator = iter(batches)
    ending = closing(iterator) if isinstance(iterator, Generator) else nullcontext()
    with ending, evaluation_mode(classifier):
        for batch in iterator:
            logits.append(compute_logits(classifier, batch.images, precision=precision))
            rows.append(batch.rows)
            targets.append(batch.targets)
            if on_progress is not None:
                on_progress(sum(map(len, rows)))
    all_rows = _joined(rows).cpu()
    return Predictions(
        rows=all_rows,
        paths=tuple(table.shown_path(row) for row in all_rows.tolist()),
        logits=torch.cat(logits).cpu() if logits else torch.zeros((0, len(table.vocab))),
        targets=_joined(targets).cpu(),
        vocab=table.vocab,
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
