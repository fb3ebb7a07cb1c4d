"""A computation of loss and gradients and the batches of a fit in; on CUDA the same work from one recorded graph out.

resnet34 at 64 pictures of 224 pixels on an H100 with a slow core: 26 ms a step when each of its kernels is launched by itself, 8 ms
from a graph. What a graph is stands in ``infer/captured.py``. The optimiser's few kernels stay outside, where schedules,
clipping and callbacks can reach them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from vizsla.infer.captured import addresses_of, has_hooks, has_room, recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from vizsla.types import Batch

STEPS_BEFORE = 3
"""Batches of a shape that go the usual way first: libraries load and choose their kernels in them, which cannot be recorded."""

_MAX_GRAPHS = 4
"""Each keeps the memory of a whole step; a fit with more shapes goes the usual way with the rest."""


class CapturedGradients:
    """Computes loss and gradients of batches, from a graph where their shape has come up often enough.

    Args:
        compute: Takes a batch, adds gradients to the parameters and returns the loss. Called to be recorded, once per shape.
        model: Whose parameters.
        remember: Called after ``compute`` was recorded; what it returns is called each time that the graph ran, to do again what
            Python did besides launching kernels.
        say: Told in a sentence when a step cannot be recorded.

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
        """Forget what was recorded where the model is not as it was: other modes, other trained parts, other memory.

        Call it before an epoch.
        """
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
        """Compute loss and gradients from a graph.

        The parameters must have no gradients.

        Args:
            batch: Float pictures on the device.

        Returns:
            The loss, as ``compute`` returns it; None where nothing was done, and ``compute`` is to be called.
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
            # What ends a recording that failed raises an error of its own.
            reason = str(error.__context__ or error).strip().partition("\n")[0]
            self._say(
                f"The step could not be recorded as a CUDA graph ({reason}). Training goes on, with more work for the "
                "processor."
            )
        # Outside of the handler: the traceback of the error keeps the tensors of the failed recording alive.
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
