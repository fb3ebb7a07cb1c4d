"""The networks of lesson one: bodies by their names of that time, two poolings and a head, in one sequence of layers.

The engine trains the same layers inside a ``Classifier``, which normalises images. A *body* is a network without pooling and
classifier. Shapes: B images, C outputs, nf inputs of the head.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.backbones import build_backbone, whole_network
from vizsla.models.classifier import Classifier
from vizsla.models.heads import NoHead
from vizsla.models.weights import Weights, load_weights, read_weights_file
from vizsla.notebook.model_summary import run_watched
from vizsla.seeding import generator
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.models.groups import Group
    from vizsla.models.stages import Backbone
    from vizsla.types import Task

__all__ = [
    "AdaptiveConcatPool2d",
    "ConvnetBuilder",
    "Flatten",
    "children",
    "dn121",
    "dn161",
    "dn169",
    "dn201",
    "efficientnet_lite0",
    "inception_4",
    "inceptionresnet_2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50",
    "resnext101",
    "resnext101_64",
    "vgg16",
    "vgg19",
    "wrn",
]

Arch = Callable[..., nn.Module]
"""A function below, one of torchvision's, or the user's own: ``f(pretrained)`` returns a body. Its name names cached features."""

Stats = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of values 0-1."""

IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION_STATS: Stats = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

HIDDEN = (512,)
DROPOUT = (0.25, 0.5)
"""Before the hidden layers, and before the last."""

SUFFIXES = (".safetensors", ".h5")
"""Of weights files: ours, and those that the original library wrote with ``torch.save``."""


# --- bodies ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """How a network becomes a sequence of layers.

    Attributes:
        network: What the engine calls it.
        early: Number of layers in the first group.
        parts: The layers in the order in which they run; ``name.*`` stands for all layers in it. Empty: all children.
        stats: Mean and standard deviation that its weights expect.
    """

    network: str
    early: int
    parts: tuple[str, ...] = ()
    stats: Stats = IMAGENET_STATS

    def layers(self, *, pretrained: bool) -> list[nn.Module]:
        """Build the network and return its layers without pooling and classifier."""
        network = build_backbone(self.network, pretrained=pretrained).network
        layers: list[nn.Module] = []
        for part in self.parts or (".*",):
            module = network.get_submodule(part.removesuffix(".*"))
            layers += module.children() if part.endswith(".*") else [module]
        return layers


_BODIES: dict[str, Body] = {}


def _architecture(
    name: str, network: str, early: int, *parts: str, stats: Stats = IMAGENET_STATS
) -> Arch:
    """Make the function that builds a body."""
    body = _BODIES[name] = Body(network=network, early=early, parts=parts, stats=stats)

    def build(pretrained: bool = False) -> nn.Module:
        return nn.Sequential(*body.layers(pretrained=pretrained))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        f"Return the body of {network}, with published or random weights.\n\n"
        "Args:\n    pretrained: Whether to load the published weights, which may need a download."
    )
    return build


resnet18 = _architecture("resnet18", "torchvision:resnet18", 6)
resnet34 = _architecture("resnet34", "torchvision:resnet34", 6)
resnet50 = _architecture("resnet50", "torchvision:resnet50", 6)
resnet101 = _architecture("resnet101", "torchvision:resnet101", 6)
resnet152 = _architecture("resnet152", "torchvision:resnet152", 6)
vgg16 = _architecture("vgg16", "torchvision:vgg16_bn", 22, "features.*")
vgg19 = _architecture("vgg19", "torchvision:vgg19_bn", 22, "features.*")
resnext50 = _architecture("resnext50", "torchvision:resnext50_32x4d", 6)
resnext101 = _architecture("resnext101", "torchvision:resnext101_32x8d", 6)
resnext101_64 = _architecture("resnext101_64", "torchvision:resnext101_64x4d", 6)
wrn = _architecture("wrn", "torchvision:wide_resnet50_2", 6)
inceptionresnet_2 = _architecture(
    "inceptionresnet_2",
    "inception_resnet_v2",
    9,
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "maxpool_5a"),
    *("mixed_5b", "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b"),
    stats=INCEPTION_STATS,
)
inception_4 = _architecture("inception_4", "inception_v4", 9, "features.*", stats=INCEPTION_STATS)
dn121 = _architecture("dn121", "torchvision:densenet121", 7, "features.*")
dn161 = _architecture("dn161", "torchvision:densenet161", 7, "features.*")
dn169 = _architecture("dn169", "torchvision:densenet169", 7, "features.*")
dn201 = _architecture("dn201", "torchvision:densenet201", 7, "features.*")
efficientnet_lite0 = _architecture(
    "efficientnet_lite0",
    "efficientnet_lite0",
    5,  # as the engine cuts it: after the third of seven blocks
    *("conv_stem", "bn1", "blocks.*", "conv_head", "bn2"),
    stats=INCEPTION_STATS,
)


class LastMap(nn.Module):
    """One of the engine's backbones as a layer: normalised images to the last map."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return the last map."""
        return self.backbone(images)[-1]


def stats_of(arch: Arch) -> Stats:
    """Return the statistics that an architecture's weights expect; ImageNet's for an unknown one."""
    body = _known_body(arch)
    return IMAGENET_STATS if body is None else body.stats


def body_layers(arch: Arch, *, pretrained: bool) -> tuple[list[nn.Module], int]:
    """Return the layers of a body in the order in which they run, and how many of them are the first group.

    An unknown function is called as ``arch(pretrained)``; what it returns is one layer.

    Raises:
        WeightsError: There are no published weights.
        ConfigError: ``arch`` cannot be called.
    """
    body = _known_body(arch)
    if body is not None:
        return body.layers(pretrained=pretrained), body.early
    if _module_of(arch).startswith(("vizsla.models.", "torchvision.models.")):
        return [LastMap(build_backbone(arch, pretrained=pretrained))], 0
    if not callable(arch) or isinstance(arch, nn.Module):
        raise ConfigError(
            "An architecture is a function such as resnet34, without brackets, or one of your own that takes "
            f"pretrained and returns a body. Received: {arch!r}"
        )
    return [arch(pretrained)], 0


def _known_body(arch: Arch) -> Body | None:
    """Return the body of a function of this module, or of the engine's or torchvision's function of the same name."""
    libraries = (__name__, "vizsla.models.", "torchvision.models.")
    name = getattr(arch, "__name__", "")
    return _BODIES.get(name) if _module_of(arch).startswith(libraries) else None


def _module_of(arch: Arch) -> str:
    return getattr(arch, "__module__", None) or ""


# --- head and whole network --------------------------------------------------------------------------------------------


class AdaptiveConcatPool2d(nn.Module):
    """Pools maps ``(B, N, h, w)`` to ``(B, 2N, 1, 1)``: the maximum of each channel, then the mean of each.

    Unlike the engine's it has a layer for each pooling, because ``learn.summary()`` lists both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mp = nn.AdaptiveMaxPool2d(1)
        self.ap = nn.AdaptiveAvgPool2d(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps of any size."""
        return torch.cat([self.mp(maps), self.ap(maps)], dim=1)


class MapHead(nn.Module):
    """Pooling and head as the engine's classifier calls them, with the maps of all stages."""

    def __init__(self, pooling: nn.Sequential, layers: nn.Sequential) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = layers

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the features of images, ``(B, nf)``."""
        return self.pooling(maps[-1])

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs, ``(B, C)``."""
        return self.layers(self.pool(maps))


class ConvnetBuilder:
    """The parts of a network; ``ConvLearner.pretrained`` explains the options.

    Attributes:
        name: ``resnet34_0``: the architecture and ``xtra_cut``; names cached features.
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
        layers, self._early = body_layers(f, pretrained=pretrained)
        if not 0 <= xtra_cut < len(layers):
            raise ConfigError(
                f"xtra_cut is from 0 to {len(layers) - 1} for this architecture. Received: {xtra_cut}"
            )
        self.name = f"{getattr(f, '__name__', type(f).__name__)}_{xtra_cut}"
        self.body = layers[: len(layers) - xtra_cut]
        backbone = build_backbone(nn.Sequential(*self.body), preprocessing=_preprocessing(stats))
        self.nf = 2 * backbone.num_features
        if custom_head is None:
            self._pooling = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten())
            widths = (self.nf, *(HIDDEN if xtra_fc is None else xtra_fc), len(vocab))
            self.fc_model = head_layers(widths, ps=ps, task=task, seed=seed)
        else:
            self._pooling = nn.Sequential()
            is_sequence = isinstance(custom_head, nn.Sequential)
            self.fc_model = custom_head if is_sequence else nn.Sequential(custom_head)
        self.top_model = nn.Sequential(*self.body, *self._pooling)
        self.model = nn.Sequential(*self.top_model, *self.fc_model)
        head = MapHead(self._pooling, self.fc_model)
        self.classifier = Classifier(backbone, head, vocab=vocab, task=task)

    def get_layer_groups(self, precompute: bool = False) -> list[list[nn.Module]]:
        """Return the layers in groups: early body, late body with pooling, head; with ``precompute`` the head only."""
        head = list(self.fc_model)
        if precompute:
            return [head]
        return [self.body[: self._early], [*self.body[self._early :], *self._pooling], head]

    def parameter_groups(self, precompute: bool = False) -> list[Group]:
        """Return the parameters of each group of layers."""
        return _parameters(self.get_layer_groups(precompute))


class OwnNetwork:
    """A network of the user's own from images to outputs, with what a learner asks of a ``ConvnetBuilder``.

    Attributes:
        name: Name of its class.
        model: The network.
        fc_model: Empty: there is no head of its own.
        classifier: The network as the engine trains it.
    """

    def __init__(
        self, model: nn.Module, *, vocab: tuple[str, ...], task: Task, stats: Stats | None
    ) -> None:
        self.name = type(model).__name__
        self.model = model
        self.fc_model = nn.Sequential()
        backbone = whole_network(model, preprocessing=_preprocessing(stats))
        self.classifier = Classifier(backbone, NoHead(), vocab=vocab, task=task)

    def get_layer_groups(self, precompute: bool = False) -> list[list[nn.Module]]:
        """Return each child of the network as a group; ``precompute`` is for heads and is refused before."""
        del precompute
        return [[child] for child in self.model.children()]

    def parameter_groups(self, precompute: bool = False) -> list[Group]:
        """Return the parameters of each child."""
        return _parameters(self.get_layer_groups(precompute))


def _parameters(groups: list[list[nn.Module]]) -> list[Group]:
    return [
        tuple(parameter for layer in group for parameter in layer.parameters()) for group in groups
    ]


def _preprocessing(stats: Stats | None) -> Preprocessing:
    mean, std = stats or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Preprocessing(mean=_triple(mean), std=_triple(std))


def children(m: nn.Module) -> list[nn.Module]:
    """Return the layers of a network, for ``nn.Sequential(*children(m)[:-2], ...)``."""
    return list(m.children())


class Flatten(nn.Flatten):
    """Makes rows of maps: ``(B, N, h, w)`` to ``(B, N h w)``."""


def head_layers(
    widths: Sequence[int], *, ps: float | Sequence[float] | None, task: Task, seed: int
) -> nn.Sequential:
    """Make a head: norm, dropout, linear layer and ReLU for each width, then the final activation.

    Unlike those of the engine's ``create_head`` the linear layers have biases. Weights start from a normal distribution of
    standard deviation sqrt(2 / inputs) (He et al. 2015, arXiv 1502.01852), biases at 0. The activation is log-softmax, sigmoid
    for several labels, none for numbers.

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
        linear = nn.Linear(widths[number], widths[number + 1])
        nn.init.normal_(linear.weight, 0, math.sqrt(2 / linear.in_features), generator=random)
        nn.init.zeros_(linear.bias)
        layers += [nn.BatchNorm1d(linear.in_features), *([nn.Dropout(p)] if p else []), linear]
        layers += [nn.ReLU()] if number < count - 1 else []
    last = {"category": nn.LogSoftmax(dim=1), "multi_category": nn.Sigmoid()}
    return nn.Sequential(*layers, *([last[task]] if task in last else []))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


# --- summary -----------------------------------------------------------------------------------------------------------

SummaryRow = OrderedDict[str, Any]


def model_summary(model: nn.Module, input_size: tuple[int, ...]) -> OrderedDict[str, SummaryRow]:
    """Return the inputs and outputs of each layer; the model runs once in evaluation mode and does not change.

    Args:
        model: Any network; containers and the model itself have no entry.
        input_size: Of one item: ``(3, H, W)``.

    Returns:
        ``Conv2d-1`` and so on, each with ``input_shape`` and ``output_shape`` (-1 is the batch), ``nb_params`` (weight
        and bias), and ``trainable`` where there is a weight.
    """
    found: OrderedDict[str, SummaryRow] = OrderedDict()

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        row: SummaryRow = OrderedDict(input_shape=_shape(inputs[0]), output_shape=_shape(output))
        weight, bias = (getattr(layer, name, None) for name in ("weight", "bias"))
        if isinstance(weight, Tensor):
            row["trainable"] = weight.requires_grad
        row["nb_params"] = sum(own.numel() for own in (weight, bias) if isinstance(own, Tensor))
        found[f"{type(layer).__name__}-{len(found) + 1}"] = row

    layers = [
        module
        for module in model.modules()
        if module is not model and not isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    empty = torch.zeros(1, *input_size, device=next(model.parameters()).device)
    run_watched(model, empty, layers=layers, note=note)
    return found


def _shape(value: object) -> list[Any]:
    if isinstance(value, Tensor):
        return [-1, *value.shape[1:]]
    return [_shape(each) for each in value] if isinstance(value, Sequence) else []


# --- files of weights --------------------------------------------------------------------------------------------------


def load_model(models: ConvnetBuilder | OwnNetwork, path: Path) -> None:
    """Read weights into body and head, or into the head alone where a file holds nothing else; all or nothing.

    ``path`` has no suffix; ``.safetensors`` comes before ``.h5``.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It is of another network.
    """
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
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
