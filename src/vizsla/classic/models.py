"""An architecture and data in; lesson one's network out: body, two poolings, head, in one sequence of layers.

The engine trains the same layers inside of a ``Classifier``, which normalises. B: pictures; nf: inputs of the head.

Names of lesson one's networks in, functions out that build their bodies as a plain sequence of layers.

A *body* is the network without pooling and classifier. The functions are told apart by identity; their ``__name__`` is part of
the names of cached features.

A sequence of layers and the size of a picture in; one entry per layer, in the order in which they run, out.

A network and a path in; its weights in a safetensors file out, and back; files of the original library are read too.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.files import atomic_write
from vizsla.infer.run import evaluation_mode
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.weights import Weights, load_weights, read_weights_file
from vizsla.seeding import generator
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.models.backbones import Backbone
    from vizsla.models.groups import Group
    from vizsla.types import Task

Arch = Callable[..., nn.Module]
"""One of the functions below, one of torchvision's, or a function of the user's own: ``f(pretrained)`` returns a body."""

Stats = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of values 0-1."""

IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION_STATS: Stats = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_RESNET_V2_PARTS = (
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "maxpool_5a"),
    *("mixed_5b", "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """How a body is made.

    Attributes:
        network: What the engine calls it.
        early: Layers of the first group.
        parts: The layers in the order in which they run; ``name.*`` stands for all layers in it. Empty: all children.
        stats: What its weights expect of pictures.
    """

    network: str
    early: int
    parts: tuple[str, ...] = ()
    stats: Stats = IMAGENET_STATS


_DESIGNS = {
    **{
        f"resnet{depth}": Design(network=f"torchvision:resnet{depth}", early=6)
        for depth in (18, 34, 50, 101, 152)
    },
    **{
        f"vgg{depth}": Design(network=f"torchvision:vgg{depth}_bn", early=22, parts=("features.*",))
        for depth in (16, 19)
    },
    "resnext50": Design(network="torchvision:resnext50_32x4d", early=6),
    "resnext101": Design(network="torchvision:resnext101_32x8d", early=6),
    "resnext101_64": Design(network="torchvision:resnext101_64x4d", early=6),
    "wrn": Design(network="torchvision:wide_resnet50_2", early=6),
    "inceptionresnet_2": Design(
        network="inception_resnet_v2", early=9, parts=_RESNET_V2_PARTS, stats=INCEPTION_STATS
    ),
    "inception_4": Design(
        network="inception_v4", early=9, parts=("features.*",), stats=INCEPTION_STATS
    ),
    **{
        f"dn{depth}": Design(network=f"torchvision:densenet{depth}", early=7, parts=("features.*",))
        for depth in (121, 161, 169, 201)
    },
    "efficientnet_lite0": Design(
        network="efficientnet_lite0",
        early=5,  # as the engine cuts it: after the third of seven blocks
        parts=("conv_stem", "bn1", "blocks.*", "conv_head", "bn2"),
        stats=INCEPTION_STATS,
    ),
}
_LIBRARIES = ("vizsla.models.", "torchvision.models.")


def _function(name: str) -> Arch:
    design = _DESIGNS[name]

    def build(pretrained: bool = False) -> nn.Module:
        return nn.Sequential(*_layers(design, pretrained=pretrained))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f"Return the body of {design.network}, with published or random weights.\n\n"
        "Args:\n    pretrained: Whether to load the published weights, which may need a download."
    )
    return build


resnet18 = _function("resnet18")
resnet34 = _function("resnet34")
resnet50 = _function("resnet50")
resnet101 = _function("resnet101")
resnet152 = _function("resnet152")
vgg16 = _function("vgg16")
vgg19 = _function("vgg19")
resnext50 = _function("resnext50")
resnext101 = _function("resnext101")
resnext101_64 = _function("resnext101_64")
wrn = _function("wrn")
inceptionresnet_2 = _function("inceptionresnet_2")
inception_4 = _function("inception_4")
dn121 = _function("dn121")
dn161 = _function("dn161")
dn169 = _function("dn169")
dn201 = _function("dn201")
efficientnet_lite0 = _function("efficientnet_lite0")


def stats_of(arch: Arch) -> Stats:
    """Return mean and standard deviation that the weights of an architecture expect; ImageNet's where nothing is known."""
    design = _design_of(arch)
    return IMAGENET_STATS if design is None else design.stats


def body_layers(arch: Arch, *, pretrained: bool) -> tuple[list[nn.Module], int]:
    """Return the layers of a body in the order in which they run, and how many of them are the first group.

    Args:
        arch: A function. One that is not known here is called as ``arch(pretrained)``, and what it returns is one layer.
        pretrained: Load published weights.

    Raises:
        WeightsError: There are no weights; the message names the ways out.
        ConfigError: ``arch`` cannot be called.
    """
    design = _design_of(arch)
    if design is not None:
        return _layers(design, pretrained=pretrained), design.early
    if _is_of_a_library(arch):
        return [LastMap(build_backbone(arch, pretrained=pretrained))], 0
    if not callable(arch) or isinstance(arch, nn.Module):
        raise ConfigError(
            "An architecture is a function such as resnet34, without brackets, or one of your own that takes "
            f"pretrained and returns a body. Received: {arch!r}"
        )
    return [arch(pretrained)], 0


class LastMap(nn.Module):
    """Normalised pictures in, the last map of an engine's backbone out.

    Args:
        backbone: The backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return the last map."""
        return self.backbone(images)[-1]


def _is_of_a_library(arch: Arch) -> bool:
    return (getattr(arch, "__module__", "") or "").startswith(_LIBRARIES)


def _design_of(arch: Arch) -> Design | None:
    name = getattr(arch, "__name__", "")
    own = arch is globals().get(name)
    return _DESIGNS.get(name) if own or _is_of_a_library(arch) else None


def _layers(design: Design, *, pretrained: bool) -> list[nn.Module]:
    network = build_backbone(design.network, pretrained=pretrained).network
    if not design.parts:
        return list(network.children())
    layers: list[nn.Module] = []
    for part in design.parts:
        module = network.get_submodule(part.removesuffix(".*"))
        layers += module.children() if part.endswith(".*") else [module]
    return layers


HIDDEN = (512,)
DROPOUT = (0.25, 0.5)
"""Before the hidden layers, and before the last."""


class AdaptiveConcatPool2d(nn.Module):
    """Maps ``(B, N, h, w)`` in, ``(B, 2N, 1, 1)`` out: the largest value of each channel, then the mean of each."""

    def __init__(self) -> None:
        super().__init__()
        self.mp = nn.AdaptiveMaxPool2d(1)
        self.ap = nn.AdaptiveAvgPool2d(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps of any size."""
        return torch.cat([self.mp(maps), self.ap(maps)], dim=1)


class MapHead(nn.Module):
    """Pooling and head as the engine's classifier calls them.

    Args:
        pooling: Maps to vectors.
        layers: Vectors to outputs.
    """

    def __init__(self, pooling: nn.Sequential, layers: nn.Sequential) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = layers

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the features of pictures, ``(B, nf)``."""
        return self.pooling(maps[-1])

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs, ``(B, C)``."""
        return self.layers(self.pool(maps))


class ConvnetBuilder:
    """The parts of a network.

    Args:
        f: The architecture.
        vocab: Names of the outputs.
        task: What they stand for.
        stats: Mean and standard deviation that the pictures are normalised with; None leaves them at 0-1.
        ps: Dropout before each linear layer; one number for all; None for 0.25, and 0.5 before the last.
        xtra_fc: Widths of hidden layers; None for one of 512.
        xtra_cut: So many more layers of the body are cut off.
        custom_head: Takes maps instead of pooling and head.
        pretrained: Start from published weights.
        seed: Of the head's random weights.

    Attributes:
        name: ``resnet34_0``: the architecture and ``xtra_cut``.
        body: Layers of the body.
        top_model: Body and pooling.
        fc_model: The head.
        model: All in one sequence.
        classifier: All as the engine trains it.
        nf: Inputs of the head.

    Raises:
        ConfigError: The number of dropouts is not that of linear layers, or nothing is left of the body.
        WeightsError: There are no published weights.
    """

    def __init__(
        self,
        f: Arch,
        *,
        vocab: tuple[str, ...],
        task: Task,
        stats: Stats | None,
        ps: float | Sequence[float] | None,
        xtra_fc: Sequence[int] | None,
        xtra_cut: int,
        custom_head: nn.Module | None,
        pretrained: bool,
        seed: int,
    ) -> None:
        layers, early = body_layers(f, pretrained=pretrained)
        if not 0 <= xtra_cut < len(layers):
            raise ConfigError(
                f"xtra_cut is from 0 to {len(layers) - 1} for this architecture. Received: {xtra_cut}"
            )
        self.name = f"{getattr(f, '__name__', type(f).__name__)}_{xtra_cut}"
        self.body = layers[: len(layers) - xtra_cut]
        self._early = early
        mean, std = stats or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        backbone = build_backbone(
            nn.Sequential(*self.body),
            preprocessing=Preprocessing(mean=_triple(mean), std=_triple(std)),
        )
        self.nf = 2 * backbone.num_features
        if custom_head is not None:
            pooling, self.fc_model = nn.Sequential(), as_sequential(custom_head)
        else:
            pooling = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten())
            widths = (self.nf, *(HIDDEN if xtra_fc is None else xtra_fc), len(vocab))
            self.fc_model = build_head(widths, ps=ps, task=task, seed=seed)
        self._pooling = pooling
        self.top_model = nn.Sequential(*self.body, *pooling)
        self.model = nn.Sequential(*self.body, *pooling, *self.fc_model)
        head = MapHead(pooling, self.fc_model)
        self.classifier = Classifier(backbone, head, vocab=vocab, task=task)

    def get_layer_groups(self, precompute: bool = False) -> list[list[nn.Module]]:
        """Return the layers in groups: early body, late body with pooling, head; the head alone while it is trained alone.

        Args:
            precompute: Whether it is.
        """
        head = list(self.fc_model)
        if precompute:
            return [head]
        return [self.body[: self._early], [*self.body[self._early :], *self._pooling], head]


def build_head(
    widths: Sequence[int], *, ps: float | Sequence[float] | None, task: Task, seed: int
) -> nn.Sequential:
    """Make a head: norm, dropout, linear layer and ReLU for each width, then the final activation.

    Linear weights start from a normal distribution of standard deviation sqrt(2 / inputs) (He et al. 2015, arXiv
    1502.01852), biases at 0.

    Args:
        widths: Inputs, hidden layers, outputs.
        ps: See ``ConvnetBuilder``.
        task: Decides the activation: log-softmax, sigmoid for several labels, none for numbers.
        seed: Of the random weights.

    Raises:
        ConfigError: The number of dropouts is not that of linear layers.
    """
    count = len(widths) - 1
    if ps is None:
        ps = [DROPOUT[0]] * (count - 1) + [DROPOUT[1]]
    dropouts = [float(ps)] * count if isinstance(ps, int | float) else [float(p) for p in ps]
    if len(dropouts) != count:
        raise ConfigError(
            f"ps is one number or one for each of the {count} linear layers. Received: {ps!r}"
        )
    random = generator(seed, "classic head")
    layers: list[nn.Module] = []
    for number, p in enumerate(dropouts):
        inputs, outputs = widths[number : number + 2]
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.normal_(0, math.sqrt(2 / inputs), generator=random)
            linear.bias.zero_()
        layers.append(nn.BatchNorm1d(inputs))
        layers += [nn.Dropout(p)] if p else []
        layers += [linear] if number == count - 1 else [linear, nn.ReLU()]
    if task == "category":
        layers.append(nn.LogSoftmax(dim=1))
    elif task == "multi_category":
        layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def parameters_of(layers: Sequence[nn.Module]) -> Group:
    """Return the parameters of some layers."""
    return tuple(parameter for layer in layers for parameter in layer.parameters())


def as_sequential(module: nn.Module) -> nn.Sequential:
    """Return a module as a sequence: itself if it is one."""
    return module if isinstance(module, nn.Sequential) else nn.Sequential(module)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


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


SUFFIXES = (".safetensors", ".h5")
"""Ours, and what the original library called the files of ``torch.save``."""


def save_model(models: ConvnetBuilder, path: Path) -> None:
    """Write the weights of body and head.

    Args:
        models: The network.
        path: Without suffix.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    tensors = {name: value.contiguous() for name, value in models.model.state_dict().items()}
    with atomic_write(with_suffix(path, SUFFIXES[0])) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_model(models: ConvnetBuilder, path: Path) -> None:
    """Read weights into body and head, or into the head alone where a file holds nothing else.

    Args:
        models: Changed in place, and only if everything fits.
        path: Without suffix; ``.safetensors`` comes before ``.h5``.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It is of another network.
    """
    files = [with_suffix(path, suffix) for suffix in SUFFIXES]
    file = next((each for each in files if each.exists()), None)
    if file is None:
        raise FileNotFoundError(
            f"There are no weights {files[0]}. Save them first, or check the name."
        )
    weights = Weights(tensors=read_weights_file(file), origin=f"file {file}")
    head = {name for name in models.fc_model.state_dict() if not name.endswith("_tracked")}
    given = {name for name in weights.tensors if not name.endswith("_tracked")}
    if given != head:
        load_weights(models.model, weights, what=f"the network {models.name}")
        return
    load_weights(models.fc_model, weights, what=f"the head of {models.name}")
    warnings.warn(f"{file} holds a head only: the body is as it was.", stacklevel=4)


def with_suffix(path: Path, suffix: str) -> Path:
    """Return a path with a suffix added; points in the name stay."""
    return path.with_name(path.name + suffix)
