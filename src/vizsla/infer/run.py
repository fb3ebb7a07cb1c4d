"""A classifier and batches of float pictures in, ``Predictions`` out; the classifier is left as it was.

Shapes: B pictures of a batch, N pictures in all, C classes (or numbers, where the task is regression).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vizsla.allocator import keep_freed_memory
from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import Predictions
from vizsla.types import unknown_targets

if TYPE_CHECKING:
    from vizsla.models.classifier import Classifier
    from vizsla.types import Batch, PictureTable

Precision = Literal["fp32", "bf16", "fp16"]
"""``"fp32"``, or ``"bf16"`` or ``"fp16"``: half as many bits where torch's autocast deems it safe."""

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context in which the network computes in this precision.

    Args:
        device: Where it computes.
        precision: See ``Precision``.

    Raises:
        ConfigError: ``precision`` is unknown.
    """
    if precision == "fp32":
        return nullcontext()
    if precision not in _AUTOCAST_TYPES:
        raise ConfigError(f'precision is "fp32", "bf16" or "fp16". Received: {precision!r}')
    return torch.autocast(device.type, _AUTOCAST_TYPES[precision])


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Put a module in evaluation mode for a while; afterwards every part is in the mode that it was in.

    Args:
        module: Any module. Parts may differ in mode: frozen norms are often in evaluation mode already.
    """
    # Setting the mode of 300 parts one by one takes 2 ms, a tenth of a small network's prediction: most often none is wrong.
    trained = [part for part in module.modules() if part.training]
    if trained:
        module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True


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
        ConfigError: ``precision`` is unknown.
    """
    keep_freed_memory()
    device = next(classifier.parameters()).device
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    with torch.inference_mode(), autocast(device, precision):
        images = images.to(device, non_blocking=True, memory_format=layout)
        return classifier(images).float()


def predict_batches(
    classifier: Classifier,
    batches: Iterable[Batch],
    *,
    table: PictureTable,
    precision: Precision = "fp32",
    forward: Callable[[Tensor], Tensor] | None = None,
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
        forward: Takes the pictures of a batch and returns their logits; None is ``compute_logits``.
        on_progress: Called after each batch with the number of pictures done so far, for a progress bar.

    Returns:
        Predictions of N pictures; float32 logits ``(N, C)`` on the CPU.

    Raises:
        ConfigError: ``precision`` is unknown.
        PictureError: A loader met a picture that it cannot read.
    """
    _check_task(classifier, table)
    if forward is None:
        forward = partial(compute_logits, classifier, precision=precision)
    logits: list[Tensor] = []
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    iterator = iter(batches)
    ending = closing(iterator) if isinstance(iterator, Generator) else nullcontext()
    with ending, evaluation_mode(classifier):
        for batch in iterator:
            logits.append(forward(batch.images))
            rows.append(batch.rows)
            targets.append(batch.targets)
            if on_progress is not None:
                on_progress(sum(map(len, rows)))
    num_outputs = len(table.vocab)
    nothing = unknown_targets(0, task=table.task, num_outputs=num_outputs)
    all_rows = _joined(rows, torch.zeros(0, dtype=torch.int64)).cpu()
    return Predictions(
        rows=all_rows,
        paths=tuple(table.shown_path(row) for row in all_rows.tolist()),
        logits=_joined(logits, torch.zeros((0, num_outputs))).cpu(),
        targets=_joined(targets, nothing).cpu(),
        vocab=table.vocab,
        task=table.task,
    )


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device by its name, if this machine has it.

    Args:
        device: For example ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ConfigError: torch knows no such device, or does not find it here.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"There is no device of that name. Received: {device!r}. Give 'cpu', 'cuda', 'mps', or 'auto'."
        ) from error
    usable = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    present = usable.get(found.type, lambda: True)()
    if present and found.type == "cuda":
        present = (found.index or 0) < torch.cuda.device_count()
    if not present:
        raise ConfigError(
            f"The device {str(found)!r} was asked for, and torch {torch.__version__} does not find it on this machine. "
            "Use 'auto' or 'cpu', or install the build of torch for that device and its driver."
        )
    return found


def _check_task(classifier: nn.Module, table: PictureTable) -> None:
    task = getattr(classifier, "task", table.task)  # a module of the user's own does not say
    if task != table.task:
        raise ConfigError(
            f"The classifier is of the task {task!r} and the pictures' labels of the task {table.task!r}. "
            "Build it for these: Classifier(..., task=table.task)."
        )


def _joined(parts: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(parts) if parts else nothing
