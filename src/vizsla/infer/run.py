"""A classifier and batches of float pictures in, ``Predictions`` out; the classifier is left as it was.

Shapes: B pictures of a batch, N pictures in all, C classes (or numbers, where the task is regression).

A classifier and batches of any kind in; its raw outputs, in the order of the batches, out.

Loaders give ``Batch`` values with rows of a table; a notebook also hands in plain lists of ``(images, targets)``. Here both
are the same: what comes out knows of no table.

A network and pictures in; probabilities averaged over several augmented views of each out: test-time augmentation.

A classifier and batches of float pictures in, the features that its head pools out; the classifier is left as it was.

Shape legend: N pictures, V views of each, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import Predictions
from vizsla.machine import keep_freed_memory
from vizsla.types import Batch, is_labelled, unknown_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.models.classifier import Classifier
    from vizsla.models.heads import FeatureHead
    from vizsla.types import PictureTable

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


def augmented_probabilities(
    classifier: Classifier,
    augmenting: DataLoader,
    *,
    order: Tensor,
    activation: Callable[[Tensor], Tensor],
    num_views: int = 4,
    precision: Precision = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the probabilities of every view of every picture.

    Args:
        classifier: Used in evaluation mode.
        augmenting: Loads the pictures as in training, in any order, each once.
        order: int64 ``(N,)``, the rows in the order of the result.
        activation: Makes probabilities of raw outputs ``(N, C)``.
        num_views: Augmented views of each picture.
        precision: See ``Precision``.
        on_progress: Called with the number of views done so far.

    Returns:
        float32 ``(V, N, C)`` on the CPU.

    Raises:
        ConfigError: ``num_views`` is no whole number from 1 on.
    """
    if not isinstance(num_views, int) or num_views < 1:  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(f"The number of views is at least 1. Received: {num_views!r}")
    views: list[Tensor] = []
    for view in range(num_views):
        # Views are epochs of their own, far from those of training, so no view was ever trained on.
        predictions = predict_batches(
            classifier,
            augmenting.batches(epoch=FIRST_VIEW + view),
            table=augmenting.table,
            precision=precision,
        )
        place_of = {row: place for place, row in enumerate(predictions.rows.tolist())}
        places = torch.tensor([place_of[row] for row in order.tolist()], dtype=torch.int64)
        views.append(activation(predictions.logits[places]))
        if on_progress is not None:
            on_progress(view + 1)
    return torch.stack(views)


FIRST_VIEW = 1_000_000
"""Epoch number of the first view."""


def mix_with_plain(
    views: Tensor, plain: Tensor, *, beta: float | None = 0.25, use_max: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Join what was said of augmented and of plain pictures, as fastai does.

    Args:
        views: float32 ``(V, N, C)``, probabilities.
        plain: float32 ``(N, C)``.
        beta: Weight of the plain pictures, the rest is that of the mean of the views; None returns (mean of the views, plain).
        use_max: Take the largest probability of each class instead; rows then no longer sum to 1.
    """
    if use_max:
        return torch.cat([views, plain[None]]).amax(dim=0)
    mean = views.mean(dim=0)
    return (mean, plain) if beta is None else torch.lerp(mean, plain, beta)


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
