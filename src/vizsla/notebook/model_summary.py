"""A table of a network: its layers, their output shapes, their parameters, and which of them train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.models.classifier import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vizsla.train.trainer import Trainer

WIDTHS = (36, 22, 12, 9)


class Table(str):
    """Text that a notebook shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the text itself."""
        return str(self)


def summarise_model(trainer: Trainer) -> Table:
    """Return the layers of a model in the order in which an image passes through them.

    The first validation image (or training image) goes through the network once, in evaluation mode; nothing changes. ``Identity``
    layers, which do nothing, are left out.
    """
    loader = trainer.dls.valid if trainer.dls.valid.n else trainer.dls.train
    images = loader.one_batch()[0][:1].as_subclass(Tensor)
    rows: list[tuple[str, ...]] = []

    def note(part: nn.Module, _: object, output: object) -> None:
        shape = " x ".join(map(str, output.shape)) if isinstance(output, Tensor) else ""
        own = list(part.parameters())
        count = sum(parameter.numel() for parameter in own)
        trains = str(any(parameter.requires_grad for parameter in own)) if own else ""
        rows.append((type(part).__name__, shape, f"{count:,}" if own else "", trains))

    parts = trainer.model.modules()
    layers = [
        part for part in parts if not (list(part.children()) or isinstance(part, nn.Identity))
    ]
    run_watched(trainer.classifier, images, layers=layers, note=note)
    parameters = list(trainer.model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trains = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    line = "-" * sum(WIDTHS)
    frozen = trainer.num_frozen_groups
    factory = getattr(trainer.opt_func, "func", trainer.opt_func)
    notes = [
        f"{type(trainer.model).__name__} (Input shape: {' x '.join(map(str, images.shape))})",
        line,
        _row(("Layer (type)", "Output Shape", "Param #", "Trainable")),
        line,
        *map(_row, rows),
        line,
        f"Total params: {total:,}",
        f"Total trainable params: {trains:,}",
        f"Total non-trainable params: {total - trains:,}",
        "",
        f"Optimizer used: {getattr(factory, '__name__', factory)}",
        f"Loss function: {trainer.loss_func}",
        f"Model frozen up to parameter group #{frozen}" if frozen else "Model unfrozen",
        "Callbacks: " + (", ".join(type(each).__name__ for each in trainer.cbs) or "none"),
    ]
    return Table("\n".join(notes))


def run_watched(
    model: nn.Module,
    images: Tensor,
    *,
    layers: Iterable[nn.Module],
    note: Callable[[nn.Module, tuple[Any, ...], object], None],
) -> None:
    """Run a model once in evaluation mode, without changing it; call ``note(layer, inputs, output)`` after each of the layers."""
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()


def _row(cells: tuple[str, ...]) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
