"""A classifier and batches in; on CUDA their logits from one recorded graph out, and what every recording has to ask.

A graph (``torch.cuda.CUDAGraph``) records the kernels that a piece of work launches and repeats them in one call, on the memory that
they were recorded with. At 64 pictures a processor needs longer to launch the kernels of a network than the device to run them.
Nothing of Python runs in a repetition, so only work whose Python is known to do nothing else is recorded.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from vizsla.infer.run import compute_logits

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from vizsla.infer.run import Precision
    from vizsla.models.classifier import Classifier

_ROOM = 1.2
"""How many times the most memory that was ever in use has to be free, for what a graph keeps besides."""

_KNOWN_PACKAGES = ("torch", "torchvision", "timm", "vizsla")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class CapturedForward:
    """Computes logits as ``compute_logits`` does, from a graph where a shape came up before.

    Args:
        classifier: On a CUDA device.
        precision: See ``Precision``.
    """

    def __init__(self, classifier: Classifier, *, precision: Precision) -> None:
        self.classifier = classifier
        self.precision: Precision = precision
        self._recorded: _Recorded | None = None
        self._last_shape: tuple[int, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._is_usable = True

    @property
    def recorded_shape(self) -> tuple[int, ...] | None:
        """``(B, 3, H, W)`` of the batches that come from a graph; None while there is none."""
        return None if self._recorded is None else tuple(self._recorded.images.shape)

    def refresh(self) -> None:
        """Forget the recording where the weights lie elsewhere now, or somebody watches; call it before each pass."""
        addresses = addresses_of(self.classifier)
        self._is_usable = not has_hooks(self.classifier)
        if addresses != self._addresses or not self._is_usable:
            self._recorded = None
            self._last_shape = ()
        self._addresses = addresses

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of one batch, without waiting for the device.

        Args:
            images: float32 ``(B, 3, H, W)`` with values 0-1, on the device.

        Returns:
            float32 ``(B, C)``.
        """
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
    """Record what is launched inside, which is not run.

    Other threads, which decode and copy pictures meanwhile, may do what a recording forbids to its own.

    Args:
        graph: Gets it.

    Raises:
        RuntimeError: Something cannot be recorded, such as waiting for the device, or there is no memory.
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
        generator.graphsafe_set_state(
            spare
        )  # Its own would wait for the end of the recording for ever.
        raise


def is_known(*modules: object) -> bool:
    """Whether modules and functions are made of torch's, torchvision's, timm's and vizsla's parts alone.

    What their Python does besides launching kernels is nothing that a graph would miss.

    Args:
        modules: Networks, losses.
    """
    origins: set[str] = set()
    for module in modules:
        if isinstance(module, nn.Module):
            origins |= {type(part).__module__ for part in module.modules()}
        else:
            origins.add(getattr(module, "__module__", None) or "")
    return all(origin.partition(".")[0] in _KNOWN_PACKAGES for origin in origins)


def has_hooks(model: nn.Module) -> bool:
    """Whether something looks on when a part of the model computes; it would see nothing of a graph."""
    return any(getattr(part, kind, None) for part in model.modules() for kind in _HOOKS)


def has_room() -> bool:
    """Whether the device has memory for as much as was ever in use, besides what is in use."""
    free, _ = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free > _ROOM * torch.cuda.max_memory_allocated()


def addresses_of(model: nn.Module) -> tuple[int, ...]:
    """Return where weights and buffers lie; a graph reads them there."""
    return tuple(value.data_ptr() for value in (*model.parameters(), *model.buffers()))
