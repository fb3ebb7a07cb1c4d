"""Make a copy of a classifier that gives the same answers in less time; for prediction only, it cannot be trained.

A norm in evaluation mode multiplies each channel and adds to it, and the convolution before it can do both (Jacob et al.,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018, section 3.2). Which
convolution is before which norm is found by running the network once, not by names; then both networks are run and compared.
EfficientNet-Lite0 at 224 px, 16 images on one thread: 58 images a second, 66 with the norms folded and oneDNN, 69 with the
activations in the same pass, 72 with weights in oneDNN's order, 77 without padded copies of maps (OpenVINO: 86).
"""

from __future__ import annotations

import copy
import platform
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vizsla.errors import ConfigError
from vizsla.models.classifier import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.models.classifier import Classifier

MOST_DIFFERENCE = 1e-4
"""Of logits and maps, as a share of their largest value; rounding alone makes about a hundredth of it."""

# What a network may raise if its code uses a norm that is gone.
_NOT_FOLDABLE = (AttributeError, TypeError, LookupError, RuntimeError, ValueError)


class OneDnnConvolution(nn.Module):
    """A convolution and the activation after it, computed by oneDNN in one pass, with weights in the order that it wants.

    torch goes over the maps once more for an activation, reorders weights in each call, and on a single thread computes small
    batches with slower code of its own (``use_mkldnn`` in its Convolution.cpp). Where gradients are wanted, the layers given
    compute them.
    """

    def __init__(
        self, convolution: nn.Conv2d, activation: nn.Module, *, shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        words = _activation_words(activation)
        if words is None:
            raise ConfigError(f"oneDNN has no {type(activation).__name__}")
        self._words = words
        self._shape = list(shape)  # of maps as they will come; those of other sizes are reordered
        self._orders: dict[tuple[int, ...], Tensor] = {}

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, K, h, w)`` for maps ``(B, C, h, w)``."""
        layer = self.convolution
        if torch.is_grad_enabled():
            return self.activation(layer(maps))
        padding, wider = _padding_of(layer, maps)
        key = (*padding, *wider)
        weight = self._orders.get(key)
        if weight is None:
            weight = functional.pad(layer.weight.detach(), (wider[1], 0, wider[0], 0))
            weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                weight.to_mkldnn(), padding, layer.stride, layer.dilation, layer.groups, self._shape
            )
            self._orders[key] = weight
        return torch.ops.mkldnn._convolution_pointwise(
            maps, weight, layer.bias, padding, layer.stride, layer.dilation, layer.groups,
            *self._words,
        )  # fmt: skip


def _padding_of(convolution: nn.Conv2d, maps: Tensor) -> tuple[list[int], list[int]]:
    """Return how maps are padded on all sides, and by how many zeros kernels begin for that.

    TensorFlow pads one row and column more at the end. A copy of the maps with them took a sixth of the time of a network; a kernel
    that begins with zeros, on maps padded alike on both sides, gives the same.
    """
    if type(convolution) is nn.Conv2d:
        return [int(side) for side in convolution.padding], [0, 0]
    padding, wider = [0, 0], [0, 0]
    for axis, side in enumerate(maps.shape[2:]):
        step = convolution.stride[axis]
        covered = (-(-side // step) - 1) * step + convolution.kernel_size[axis]
        total = max(covered - side, 0)
        padding[axis], wider[axis] = -(-total // 2), total % 2
    return padding, wider


def _activation_words(activation: nn.Module) -> tuple[str, list[float], str] | None:
    """Return how oneDNN calls an activation, its numbers, and the kind of formula; None where it does not know it."""
    match activation:
        case nn.ReLU6() | nn.Hardtanh():
            return "hardtanh", [activation.min_val, activation.max_val], ""
        case nn.LeakyReLU():
            return "leaky_relu", [activation.negative_slope], ""
        case nn.GELU():
            return "gelu", [], activation.approximate
        case _:
            name = _ONE_DNN_NAMES.get(type(activation))
            return None if name is None else (name, [], "")


_ONE_DNN_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "none",
    nn.ReLU: "relu",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}


def streamlined(classifier: Classifier, *, images: Tensor) -> Classifier:
    """Return a copy of a classifier, in evaluation mode, that gives the same answers up to rounding, faster.

    It is tried with ``images``, a few as it will get them. Where nothing can be gained, or the copy gives something else, the
    classifier itself is returned.
    """
    with evaluation_mode(classifier), torch.no_grad():
        pairs, shapes = _trial(classifier, images)
        if not pairs:
            return classifier
        changed = copy.deepcopy(classifier).eval()
        for convolution, norm in pairs.items():
            _fold(changed, convolution=convolution, norm=norm)
        for name, shape in shapes.items():
            activation: nn.Module = nn.Identity()
            if name in pairs and _activation_words(changed.get_submodule(pairs[name])):
                activation = changed.get_submodule(pairs[name])
                changed.set_submodule(pairs[name], nn.Identity())
            layer = cast("nn.Conv2d", changed.get_submodule(name))
            changed.set_submodule(name, OneDnnConvolution(layer, activation, shape=shape))
        try:
            same = _gives_the_same(changed, classifier, images)
        except _NOT_FOLDABLE:
            return classifier
    return changed if same else classifier


class StreamlinedOnce:
    """Gives the streamlined copy of a classifier, for several runs over images; the first images that come are those of the trial."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._copy: Classifier | None = None

    def __call__(self, images: Tensor) -> Classifier:
        """Return the copy, or the classifier itself where nothing can be gained."""
        if self._copy is None:
            self._copy = streamlined(self._classifier, images=images[:2])
        return self._copy


def _trial(
    classifier: Classifier, images: Tensor
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the names of convolutions with the norms right after them that can be folded, from one run of the network.

    And, by the names of convolutions that oneDNN is to compute, the shapes of the maps that they got.
    """
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    found: list[tuple[str, str]] = []
    calls = Counter[str]()
    shapes: dict[str, tuple[int, ...]] = {}

    def after_convolution(name: str, layer: nn.Conv2d, inputs: tuple[Tensor], maps: Tensor) -> None:
        calls[name] += 1
        if _suits_one_dnn(layer):
            shapes[name] = tuple(inputs[0].shape)
        # The tensor is kept, so that no other one can get its place in memory and be mistaken for it.
        outputs[id(maps)] = (name, maps, maps._version)

    def before_norm(name: str, _layer: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[name] += 1
        maps = inputs[0]
        convolution, _, version = outputs.get(id(maps), ("", maps, -1))
        if version == maps._version:  # Else something was written into it in between.
            found.append((convolution, name))

    layers = dict(classifier.named_modules())
    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            handles.append(layer.register_forward_hook(partial(after_convolution, name)))
        elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(partial(before_norm, name)))
    try:
        classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    pairs = {
        convolution: norm
        for convolution, norm in found
        if calls[convolution] == calls[norm] == 1 and _after_norm(layers[norm]) is not None
    }
    return pairs, shapes


def _after_norm(norm: nn.Module) -> nn.Module | None:
    """Return what a layer does besides normalising; None where that is not known."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    # Ours and timm's BatchNormAct2d; only timm's has a dropout.
    drop, act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", None)
    if not (isinstance(drop, nn.Module) and isinstance(act, nn.Module)):
        return None
    return act if isinstance(drop, nn.Identity) else nn.Sequential(drop, act)


def _fold(classifier: Classifier, *, convolution: str, norm: str) -> None:
    first = cast("nn.Conv2d", classifier.get_submodule(convolution))
    second = cast("nn.BatchNorm2d", classifier.get_submodule(norm))
    classifier.set_submodule(convolution, fuse_conv_bn_eval(first, second))
    classifier.set_submodule(norm, _after_norm(second) or nn.Identity())


def _suits_one_dnn(layer: nn.Conv2d) -> bool:
    """Return whether oneDNN computes a convolution, on the processors that it was measured on."""
    is_here = torch.backends.mkldnn.is_available() and platform.machine() in {"x86_64", "AMD64"}
    if not is_here or layer.weight.device.type != "cpu" or layer.weight.dtype != torch.float32:
        return False
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer).__name__ == "Conv2dSame" and layer.dilation == (1, 1)  # ours and timm's


def _gives_the_same(changed: Classifier, classifier: Classifier, images: Tensor) -> bool:
    """Return whether two classifiers give the same maps and logits, up to rounding, together and alone."""
    for batch in (images, images[:1]):
        wanted_maps, found_maps = classifier.stage_maps(batch), changed.stage_maps(batch)
        wanted = (*wanted_maps, classifier.head(wanted_maps))
        found = (*found_maps, changed.head(found_maps))
        if len(wanted) != len(found) or not all(map(_is_close, found, wanted)):
            return False
    return True


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    difference = (found - wanted).abs().max()
    return bool(
        difference <= MOST_DIFFERENCE * wanted.abs().max()
    )  # False where it is not a number.
