"""Run a network over batches: predictions of a table's images, raw outputs, features, and test-time augmentation.

The network is left as it was. Nothing waits for the device until the end, when all results are copied to the CPU at once.

Shapes: B images of a batch, N images in all, V views of each, C classes (or numbers, where the task is regression), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import Predictions
from vizsla.infer.streamline import StreamlinedOnce
from vizsla.machine import keep_freed_memory
from vizsla.models.classifier import evaluation_mode
from vizsla.models.heads import ConcatPoolHead, FeatureHead, NoHead, OwnHead
from vizsla.text import first_line
from vizsla.types import Batch, is_labelled, unknown_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.models.classifier import Classifier
    from vizsla.types import ImageTable

NumberFormat = Literal["fp32", "bf16", "fp16"]
"""``"fp32"``, or ``"bf16"`` or ``"fp16"``: half as many bits where torch's autocast considers that safe."""

FeatureKind = Literal["head", "body"]
"""Features of an image: what the head reads, or the mean of each channel of the last stage."""

VIEWS = {"plain": (), "mirrored": (3,), "upside down": (2,), "turned": (2, 3)}
"""Fixed views of an image, and the dimensions of ``(B, 3, H, W)`` that they reverse."""

FIRST_VIEW = 1_000_000
"""Epoch number of the first augmented view, far from those of training, so no view was trained on."""

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """Outputs of a network for N images, on the CPU: float32 ``(N, C)``, and, if there are any, targets and images ``(N, 3, H, W)``."""

    logits: Tensor
    targets: Tensor | None
    images: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Pooled features of N images on the CPU: float32 ``(N, V, D)``, with their targets and rows of the table, int64 ``(N,)``."""

    values: Tensor
    targets: Tensor
    rows: Tensor


def autocast(device: torch.device, precision: NumberFormat) -> AbstractContextManager[object]:
    """Return a context in which networks on a device compute in this precision."""
    if precision == "fp32":
        return nullcontext()
    if precision not in _AUTOCAST_TYPES:
        raise ConfigError(f'precision is "fp32", "bf16" or "fp16". Received: {precision!r}')
    return torch.autocast(device.type, _AUTOCAST_TYPES[precision])


def compute_logits(
    classifier: Classifier, images: Tensor, *, precision: NumberFormat = "fp32"
) -> Tensor:
    """Return the logits of one batch, float32 ``(B, C)``, without gradients and without waiting for the device.

    The classifier is in evaluation mode (``evaluation_mode``), the images are float32 0-1, on any device.
    """
    keep_freed_memory()
    device = next(classifier.parameters()).device
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    with torch.inference_mode(), autocast(device, precision):
        images = images.to(device, non_blocking=True, memory_format=layout)
        return classifier(images).float()


def check_own_parts(classifier: Classifier, example: Callable[[], Tensor]) -> None:
    """Try a network with parts of the user's own on the images that ``example`` gives, float32 0-1; it stays as it was.

    Raises:
        ConfigError: It fails, or does not give one logit for each image and class.
    """
    head = classifier.head
    if not isinstance(head, OwnHead | NoHead):
        return
    images = example()
    expected = (len(images), len(classifier.vocab))
    with evaluation_mode(classifier), torch.no_grad(), torch.random.fork_rng(devices=[]):
        if isinstance(head, OwnHead):
            maps = classifier.stage_maps(images)
            run = partial(head, maps)
            what = f"The head {type(head.layers).__name__} is given maps {tuple(maps[-1].shape)} of {classifier.backbone.spec.name}"
        else:
            run = partial(classifier, images)
            what = f"The network {classifier.backbone.spec.name} is given images {tuple(images.shape)} with values 0 to 1"
        try:
            outputs = run()
        except Exception as error:
            raise ConfigError(f"{what}, and fails: {first_line(error)}") from error
    if not isinstance(outputs, Tensor) or outputs.shape != expected:  # pyright: ignore[reportUnnecessaryIsInstance] (a user's module)
        shown = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"{what}, and must return a tensor {expected}: one output per image and class (or number). Received: "
            f"{shown}"
        )


@dataclass(frozen=True, slots=True)
class BatchResults:
    """Results of a run over batches, one entry per batch; rows and targets where the batches have them."""

    outputs: list[Tensor]
    targets: list[Tensor]
    rows: list[Tensor]
    images: list[Tensor]


def over_batches(
    model: nn.Module,
    batches: Iterable[object],
    forward: Callable[[Tensor], Tensor],
    *,
    keep_images: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> BatchResults:
    """Call ``forward`` with the images of every batch, the model in evaluation mode.

    Batches are ``Batch`` values, ``(images, targets)`` or ``(images,)``; a generator is closed afterwards, so that its threads end.
    ``on_progress`` is called after each with the number of images done so far.
    """
    found = BatchResults([], [], [], [])
    done = 0
    iterator = iter(batches)
    ending = closing(iterator) if isinstance(iterator, Generator) else nullcontext()
    with ending, evaluation_mode(model):
        for batch in iterator:
            images, targets = _parts(batch)
            found.outputs.append(forward(images))
            if targets is not None:
                found.targets.append(targets)
            if isinstance(batch, Batch):
                found.rows.append(batch.rows)
            if keep_images:
                found.images.append(images.cpu())
            done += len(images)
            if on_progress is not None:
                on_progress(done)
    return found


def predict_batches(
    classifier: Classifier,
    batches: Iterable[Batch],
    *,
    table: ImageTable,
    precision: NumberFormat = "fp32",
    forward: Callable[[Tensor], Tensor] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a classifier over batches of a table's images, float32 0-1, and return its predictions, in the order of the batches.

    ``forward`` computes logits from images, by default ``compute_logits``.
    """
    task = getattr(classifier, "task", table.task)  # a module of the user's own does not say
    if task != table.task:
        raise ConfigError(
            f"The classifier is for the task {task!r}, and the labels of these images are for {table.task!r}. "
            "Build it with Classifier(..., task=table.task)."
        )
    if forward is None:
        forward = partial(compute_logits, classifier, precision=precision)
    found = over_batches(classifier, batches, forward, on_progress=on_progress)
    num_outputs = len(table.vocab)
    no_targets = unknown_targets(0, task=table.task, num_outputs=num_outputs)
    return table_predictions(
        table,
        rows=_joined(found.rows, torch.zeros(0, dtype=torch.int64)),
        logits=_joined(found.outputs, torch.zeros((0, num_outputs))),
        targets=_joined(found.targets, no_targets),
    )


def table_predictions(
    table: ImageTable, *, rows: Tensor, logits: Tensor, targets: Tensor
) -> Predictions:
    """Return the predictions of some rows of a table, all on the CPU."""
    return Predictions(
        rows=rows,
        paths=tuple(table.shown_path(row) for row in rows.tolist()),
        logits=logits,
        targets=targets,
        vocab=table.vocab,
        task=table.task,
    )


def compute_outputs(
    model: nn.Module,
    batches: object,
    *,
    precision: NumberFormat = "fp32",
    keep_images: bool = False,
) -> Outputs:
    """Run a network over batches of any kind, without a table.

    ``batches`` is a loader, or anything with a length that gives ``Batch`` values, ``(images, targets)`` or ``(images,)``.
    """
    forward = partial(compute_logits, model, precision=precision)  # pyright: ignore[reportArgumentType] (any module that returns logits)
    found = over_batches(model, _iterator(batches), forward, keep_images=keep_images)
    if not found.outputs:
        raise ConfigError("There is nothing to predict: the loader has no batches.")
    targets = None
    if len(found.targets) == len(found.outputs):
        targets = torch.cat(found.targets).cpu()
        targets = targets if is_labelled(targets).any() else None
    return Outputs(
        logits=torch.cat(found.outputs).cpu(),
        targets=targets,
        images=torch.cat(found.images) if keep_images else None,
    )


def extract_features(
    classifier: Classifier,
    batches: Generator[Batch],
    *,
    head: FeatureHead,
    views: Sequence[str] = ("plain",),
    precision: NumberFormat = "fp32",
    quick: StreamlinedOnce | None = None,
    into: Callable[[Tensor], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Features:
    """Run the body of a classifier over images once and keep what a head pools from its maps, in the order of the batches.

    The head need not be fitted yet, nor be the classifier's own. On a CPU a streamlined copy of the classifier computes them; ``quick``
    has it where there was a run before. ``into`` takes the features of each batch, float32
    ``(B, V, D)``, instead; those that are returned are then of no image.
    """
    if not views or not set(views) <= VIEWS.keys():
        raise ConfigError(
            f"views must be a selection of {', '.join(VIEWS)}. Received: {list(views)}"
        )
    keep_freed_memory()
    quick = StreamlinedOnce(classifier) if quick is None else quick

    def pooled(images: Tensor) -> Tensor:
        is_tried = images.device.type == "cpu" and precision == "fp32"
        network = quick(images) if is_tried else classifier
        seen = (images.flip(VIEWS[view]) if VIEWS[view] else images for view in views)
        with autocast(images.device, precision), torch.inference_mode():
            return torch.stack([head.pool(network.stage_maps(view)) for view in seen], dim=1)

    def handed_on(images: Tensor) -> Tensor:
        values = pooled(images)
        if into is None:
            return values
        into(values)
        return values[:0]

    found = over_batches(classifier, batches, handed_on, on_progress=on_progress)
    return Features(
        values=torch.cat(found.outputs).cpu().clone(),
        targets=torch.cat(found.targets).cpu().clone(),
        rows=torch.cat(found.rows).cpu(),
    )


def check_feature_kind(kind: str, classifier: Classifier) -> None:
    """Raise ConfigError for a word that names no features, or for those of a head that cannot give any."""
    if kind not in get_args(FeatureKind):
        raise ConfigError(f'features is "head" or "body". Received: {kind!r}')
    if kind == "head" and not isinstance(classifier.head, ConcatPoolHead | FeatureHead):
        raise ConfigError(
            f"What the head {type(classifier.head).__name__} reads is unknown, because it is your own. Use the "
            'features of the body: features="body".'
        )


def image_features(classifier: Classifier, images: Tensor, *, kind: FeatureKind) -> Tensor:
    """Return the features of images (float 0-1, on its device), float32 ``(B, D)`` on the CPU; ``Predictor.embed`` explains them."""
    with evaluation_mode(classifier), torch.inference_mode():
        maps, head = classifier.stage_maps(images), classifier.head
        if kind == "body":
            ends = [stages[-1] for stages in classifier.backbone.stage_ranges]
            found = torch.cat([maps[end].mean(dim=(2, 3)) for end in ends], dim=1)
        elif isinstance(head, FeatureHead):
            found = (head.pool(maps) - head.offset) * head.scale
        else:
            found = cast("ConcatPoolHead", head).pool(maps)
        return found.float().cpu().clone()


def augmented_probabilities(
    classifier: Classifier,
    augmenting: DataLoader,
    *,
    order: Tensor,
    activation: Callable[[Tensor], Tensor],
    num_views: int = 4,
    precision: NumberFormat = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the probabilities of ``num_views`` augmented views of every image, float32 ``(V, N, C)`` on the CPU.

    ``augmenting`` loads the images as in training, in any order, each once; ``order``, int64 ``(N,)``, has the rows in the order of
    the result. ``activation`` makes probabilities of raw outputs ``(N, C)``.
    """
    if not isinstance(num_views, int) or num_views < 1:  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(f"The number of views must be at least 1. Received: {num_views!r}")
    views: list[Tensor] = []
    for view in range(num_views):
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


def mix_with_plain(
    views: Tensor, plain: Tensor, *, beta: float | None = 0.25, use_max: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Mix the probabilities of augmented views ``(V, N, C)`` and of plain images ``(N, C)``, as fastai does.

    ``beta`` is the weight of the plain images, and the mean of the views has the rest; None returns (mean of the views, plain).
    ``use_max`` takes the largest probability of each class instead; rows then no longer sum to 1.
    """
    if use_max:
        return torch.cat([views, plain[None]]).amax(dim=0)
    mean = views.mean(dim=0)
    return (mean, plain) if beta is None else torch.lerp(mean, plain, beta)


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device by its name (``"cpu"``, ``"cuda:1"``, ``"mps"``), if this machine has it."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"There is no device of that name. Received: {device!r}. Choose 'cpu', 'cuda', 'mps', or 'auto'."
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


def _iterator(batches: Any) -> Iterable[object]:
    if hasattr(batches, "batches"):
        return batches.batches()
    if not isinstance(batches, Sized):
        raise ConfigError(
            "Batches must come from a loader or a list, which can be counted and read again. Received: "
            f"{type(batches).__name__}. Wrap it: dl=list(...)."
        )
    return batches  # pyright: ignore[reportReturnType, reportUnknownVariableType] (checked by the loop)


def _parts(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return plain images and targets of a batch of any form."""
    if isinstance(batch, Batch):
        return batch.images, batch.targets
    if not isinstance(batch, tuple | list) or not batch or not isinstance(batch[0], Tensor):
        raise ConfigError(
            "dl is a loader, such as dls.test_dl(files) makes it, or a list of batches (images, targets). "
            f"Received a batch of {type(batch).__name__}: {batch!r:.80}"
        )
    images, *rest = batch
    known = rest[0].as_subclass(Tensor) if rest else None
    return images.as_subclass(Tensor), known


def _joined(parts: list[Tensor], nothing: Tensor) -> Tensor:
    return (torch.cat(parts) if parts else nothing).cpu()
