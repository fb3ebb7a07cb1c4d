"""A sequence of layers and the size of a picture in; one entry per layer, in the order in which they run, out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vizsla.infer.run import evaluation_mode

Entry = OrderedDict[str, Any]


def model_summary(model: nn.Module, input_size: tuple[int, ...]) -> OrderedDict[str, Entry]:
    """Return what each layer takes and gives.

    The model runs in evaluation mode on one empty input; its mode and its norms' statistics are afterwards as before.

    Args:
        model: Any network; containers and the model itself have no entry.
        input_size: Of one item: ``(3, H, W)``.

    Returns:
        ``Conv2d-1`` and so on, each with ``input_shape`` and ``output_shape`` (-1 is the batch), ``nb_params`` (weight
        and bias), and ``trainable`` where there is a weight.
    """
    found: OrderedDict[str, Entry] = OrderedDict()
    layers = [
        module
        for module in model.modules()
        if module is not model and not isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    hooks = [layer.register_forward_hook(partial(_note, found)) for layer in layers]
    device = next(model.parameters()).device
    try:
        with evaluation_mode(model), torch.no_grad():
            model(torch.zeros(1, *input_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _note(
    found: OrderedDict[str, Entry], layer: nn.Module, inputs: tuple[Any, ...], output: Any
) -> None:
    entry: Entry = OrderedDict()
    entry["input_shape"] = _shape(inputs[0])
    entry["output_shape"] = _shape(output)
    weights = [getattr(layer, name, None) for name in ("weight", "bias")]
    own = [weight for weight in weights if isinstance(weight, Tensor)]
    if isinstance(weights[0], Tensor):
        entry["trainable"] = weights[0].requires_grad
    entry["nb_params"] = sum(weight.numel() for weight in own)
    found[f"{type(layer).__name__}-{len(found) + 1}"] = entry


def _shape(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return [-1, *value.shape[1:]]
    return [_shape(each) for each in value] if isinstance(value, Sequence) else []
