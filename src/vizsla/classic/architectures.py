"""Names of lesson one's networks in, functions out that build their bodies as a plain sequence of layers.

A *body* is the network without pooling and classifier. The functions are told apart by identity; their ``__name__`` is part of
the names of cached features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.backbones import build_backbone

if TYPE_CHECKING:
    from vizsla.models.backbones import Backbone

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
