"""Record the work of CUDA as graphs, and replay them: predictions, training steps, and a rehearsal of the first step.

A graph (``torch.cuda.CUDAGraph``) records the kernels that a piece of work launches and repeats them in one call, in the memory that
they were recorded with. At 64 images a processor needs longer to launch the kernels of a network than the device to run them:
resnet34 at 224 pixels on an H100 with a slow core takes 26 ms a step when each of its kernels is launched by itself, 8 ms from a
graph. A replay runs no Python, so only work whose Python is known to do nothing else is recorded. The optimiser's few kernels stay
outside, where schedules, clipping and callbacks can reach them.

CUDA loads a kernel when it is first launched. For a step of resnet34 that takes a second, while the device waits; so does decoding
the first images. The rehearsal does both at once, which takes hardly longer than one of them.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from vizsla.infer.run import autocast, compute_logits
from vizsla.machine import free_device_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from vizsla.infer.run import NumberFormat
    from vizsla.models.classifier import Classifier
    from vizsla.train.trainer import Trainer
    from vizsla.types import Batch, Size

_ROOM = 1.2
"""This many times the most memory ever in use has to be free, because a graph keeps more."""

_KNOWN_PACKAGES = ("torch", "torchvision", "timm", "vizsla")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CapturedForward:
    """Computes logits as ``compute_logits`` does on CUDA, from a graph once a batch repeats the shape of the one before."""

    def __init__(self, classifier: Classifier, *, precision: NumberFormat) -> None:
        self.classifier = classifier
        self.precision: NumberFormat = precision
        self._recorded: _Recorded | None = None
        self._last_shape: tuple[int, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._is_usable = True

    @property
    def recorded_shape(self) -> tuple[int, ...] | None:
        """``(B, 3, H, W)`` of the batches that come from a graph; None while there is none."""
        return None if self._recorded is None else tuple(self._recorded.images.shape)

    def refresh(self) -> None:
        """Forget the recording if the weights moved in memory or a hook watches; call it before each pass."""
        addresses = addresses_of(self.classifier)
        self._is_usable = not has_hooks(self.classifier)
        if addresses != self._addresses or not self._is_usable:
            self._recorded = None
            self._last_shape = ()
        self._addresses = addresses

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits, float32 ``(B, C)``, of images on the device, float32 ``(B, 3, H, W)`` 0-1, without waiting for it."""
        if self._is_usable and self._recorded is None and tuple(images.shape) == self._last_shape:
            self._is_usable = has_room()
            if self._is_usable:
                self._record(images)
        self._last_shape = tuple(images.shape)
        recorded = self._recorded
        if recorded is None or recorded.images.shape != images.shape:
            return compute_logits(self.classifier, images, precision=self.precision)
        recorded.images.copy_(images, non_blocking=True)
        recorded.graph.replay()
        return recorded.logits.clone()

    def _record(self, images: Tensor) -> None:
        kept = images.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with recording(graph):
                logits = compute_logits(self.classifier, kept, precision=self.precision)
        except RuntimeError:  # An OutOfMemoryError is one too.
            self._is_usable = False
            return
        self._recorded = _Recorded(graph, kept, logits)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor


@contextmanager
def recording(graph: torch.cuda.CUDAGraph) -> Generator[None]:
    """Record into a graph what is launched inside the block, which is not run.

    Other threads, which decode and copy images meanwhile, may do what is forbidden to the recording one.

    Raises:
        RuntimeError: Something cannot be recorded, such as waiting for the device, or memory is short.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    spare = generator.clone_state()
    try:
        # The outer context brings the stream back where a recording fails.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, capture_error_mode="thread_local"),
        ):
            yield
    except RuntimeError:
        # Its own state would wait for the end of the recording for ever.
        generator.graphsafe_set_state(spare)
        raise


def is_known(*modules: object) -> bool:
    """Whether networks and losses are made of parts of torch, torchvision, timm and vizsla alone.

    Their Python does nothing but launch kernels, so a graph misses nothing.
    """
    origins: set[str] = set()
    for module in modules:
        if isinstance(module, nn.Module):
            origins |= {type(part).__module__ for part in module.modules()}
        else:
            origins.add(getattr(module, "__module__", None) or "")
    return all(origin.partition(".")[0] in _KNOWN_PACKAGES for origin in origins)


def has_hooks(model: nn.Module) -> bool:
    """Whether a hook watches a part of the model; graphs would not call it."""
    return any(getattr(part, kind, None) for part in model.modules() for kind in _HOOKS)


def has_room() -> bool:
    """Whether as much memory as was ever in use is free besides what is in use now."""
    return free_device_bytes(torch.device("cuda")) > _ROOM * torch.cuda.max_memory_allocated()


def addresses_of(model: nn.Module) -> tuple[int, ...]:
    """Return the addresses of weights and buffers, where a graph reads them."""
    return tuple(value.data_ptr() for value in (*model.parameters(), *model.buffers()))


STEPS_BEFORE = 3
"""Batches of a shape computed the usual way first: in them libraries load and choose kernels, which cannot be recorded."""

_MAX_GRAPHS = 4
"""Each keeps the memory of a whole step; further shapes are computed the usual way."""


class CapturedGradients:
    """Computes loss and gradients of batches, from a graph once their shape has come up often enough.

    Args:
        compute: Takes a batch, adds gradients to the parameters of the model and returns the loss. Recorded once per shape.
        remember: Called after a recording; the function it returns is called after each replay, to repeat what the Python of
            ``compute`` did besides launching kernels.
        say: Called with a sentence when a step cannot be recorded.

    Attributes:
        gave_up: Whether a step could not be recorded. torch's allocator does not recover from that altogether: in the same
            process it keeps the memory of later batches for longer than it needs.
    """

    def __init__(
        self,
        compute: Callable[[Batch], Tensor],
        *,
        model: nn.Module,
        remember: Callable[[], Callable[[], None]] = lambda: lambda: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        self._model = model
        self._remember = remember
        self._say = say
        self._seen: dict[tuple[object, ...], int] = {}
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        self._state: tuple[object, ...] = ()
        self._is_watched = False
        self.gave_up = False

    def refresh(self) -> None:
        """Forget all recordings if modes, trained parameters or addresses of the model changed; call it before an epoch."""
        model = self._model
        state = (
            tuple(part.training for part in model.modules()),
            tuple(value.requires_grad for value in model.parameters()),
            addresses_of(model),
        )
        self._is_watched = has_hooks(model)
        if state != self._state or self._is_watched:
            self._state = state
            self._graphs.clear()
            self._seen.clear()

    def __call__(self, batch: Batch) -> Tensor | None:
        """Compute the gradients of parameters that have none, from a graph, and return the loss.

        None where nothing was done: then call ``compute``.
        """
        if self.gave_up or self._is_watched:
            return None
        key = _shape(batch)
        if key not in self._graphs:
            self._seen[key] = self._seen.get(key, 0) + 1
            is_due = self._seen[key] == STEPS_BEFORE + 1 and len(self._graphs) < _MAX_GRAPHS
            if not is_due or not has_room():
                return None
            self._record(batch, key=key)
        graph = self._graphs.get(key)
        return None if graph is None else graph.run(batch)

    def _record(self, batch: Batch, *, key: tuple[object, ...]) -> None:
        try:
            self._graphs[key] = _Graph.of(
                self._compute, batch, model=self._model, remember=self._remember
            )
            return
        except RuntimeError as error:  # An OutOfMemoryError is one too.
            self.gave_up = True
            self._graphs.clear()
            # Ending a failed recording raises an error of its own.
            reason = str(error.__context__ or error).strip().partition("\n")[0]
            self._say(
                f"The step could not be recorded as a CUDA graph ({reason}). Training continues without it, which "
                "may be slower."
            )
        # Outside the handler: the traceback of the error keeps the tensors of the failed recording alive.
        for parameter in self._model.parameters():
            parameter.grad = None
        torch.cuda.empty_cache()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    """A recorded step and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor
    gradients: list[tuple[nn.Parameter, Tensor]]
    recall: Callable[[], None]

    @classmethod
    def of(
        cls,
        compute: Callable[[Batch], Tensor],
        batch: Batch,
        *,
        model: nn.Module,
        remember: Callable[[], Callable[[], None]],
    ) -> _Graph:
        """Record a step; nothing is computed yet."""
        kept = _copy_of(batch)
        for parameter in model.parameters():
            parameter.grad = None  # So that the graph writes gradients and does not add to them.
        graph = torch.cuda.CUDAGraph()
        with recording(graph):
            loss = compute(kept)
        gradients = [
            (parameter, parameter.grad)
            for parameter in model.parameters()
            if parameter.grad is not None
        ]
        return cls(graph=graph, batch=kept, loss=loss, gradients=gradients, recall=remember())

    def run(self, batch: Batch) -> Tensor:
        for kept, given in zip(_tensors(self.batch), _tensors(batch), strict=True):
            kept.copy_(given, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.recall()
        return self.loss.clone()


def _tensors(batch: Batch) -> list[Tensor]:
    given = (batch.images, batch.targets, batch.partner_targets, batch.shares)
    return [tensor for tensor in given if tensor is not None]


def _shape(batch: Batch) -> tuple[object, ...]:
    shapes = [(tuple(each.shape), each.stride(), each.dtype) for each in _tensors(batch)]
    return (*shapes, batch.shares is None)


def _copy_of(batch: Batch) -> Batch:
    return replace(
        batch,
        images=batch.images.clone(),
        targets=batch.targets.clone(),
        partner_targets=None if batch.partner_targets is None else batch.partner_targets.clone(),
        shares=None if batch.shares is None else batch.shares.clone(),
    )


_REHEARSAL_ROOM = 0.5
"""Share of the device's memory that has to be free: a rehearsal takes as much as a step."""


@contextmanager
def rehearsal(trainer: Trainer) -> Generator[threading.Thread | None]:
    """In a thread, go forward and backward through a copy of the network on blank images, and yield the thread.

    Wait for it before the first step; it has ended after the block. None where there is nothing to gain. Neither the trainer nor
    any random number changes: the copy has its dropout switched off.
    """
    size: Size | None = getattr(trainer.dls, "final_size", None)  # Cached features have none.
    is_known = trainer.uses_graphs() and not has_hooks(trainer.model)
    if size is None or not is_known or not _has_room_to_rehearse():
        yield None
        return
    model = copy.deepcopy(trainer.classifier).eval()
    for part in model.modules():
        part.training = isinstance(part, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
    count = min(trainer.dls.train.bs, trainer.dls.train.n)
    targets = trainer.dls.table.targets[trainer.dls.train.rows[:count]]
    thread = threading.Thread(
        target=_rehearse,
        args=(trainer, model, (count, 3, *size), targets),
        name="vizsla-rehearsal",
        daemon=True,
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def _rehearse(trainer: Trainer, model: nn.Module, shape: tuple[int, ...], targets: Tensor) -> None:
    device = trainer.dls.device
    try:
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
            with autocast(device, trainer.precision):
                logits = model(images)
            trainer.loss_func(logits.float(), targets.to(device)).backward()
            torch.cuda.current_stream(device).synchronize()
    except (RuntimeError, ValueError):
        return  # The first step will raise the same error.


def _has_room_to_rehearse() -> bool:
    free, total = torch.cuda.mem_get_info()
    return free > _REHEARSAL_ROOM * total
