"""Names of networks in, functions that build them out: ``resnet34`` and its kin as a notebook writes them, without torchvision.

Importing torchvision takes over a second; these functions do so when they are called. ``vision_learner(dls, resnet34)``
knows them by their names and never calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.models.names import NAME_ATTRIBUTE, PACKAGED_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

TORCHVISION_FUNCTIONS = (
    "alexnet",
    *(f"convnext_{size}" for size in ("base", "large", "small", "tiny")),
    *(f"densenet{layers}" for layers in (121, 161, 169, 201)),
    *(f"efficientnet_b{number}" for number in range(8)),
    *(f"efficientnet_v2_{size}" for size in "lms"),
    *("googlenet", "inception_v3", "maxvit_t"),
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *(f"regnet_x_{cost}" for cost in ("16gf", "1_6gf", "32gf", "3_2gf", "400mf", "800mf", "8gf")),
    *(f"regnet_y_{cost}" for cost in ("128gf", "16gf", "1_6gf", "32gf", "3_2gf", "400mf", "800mf")),
    "regnet_y_8gf",
    *(f"resnet{layers}" for layers in (18, 34, 50, 101, 152)),
    *("resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d"),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    *("squeezenet1_0", "squeezenet1_1"),
    *(f"swin{version}_{size}" for version in ("", "_v2") for size in "bst"),
    *(f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"vit_{size}" for size in ("b_16", "b_32", "h_14", "l_16", "l_32")),
    *("wide_resnet101_2", "wide_resnet50_2"),
)
"""Torchvision's networks for classification, by the names of its functions."""

FUNCTION_NAMES = (PACKAGED_NAME, *TORCHVISION_FUNCTIONS)


def architecture_function(name: str) -> Callable[..., nn.Module]:
    """Return the function of an architecture.

    Args:
        name: One of ``FUNCTION_NAMES``.

    Returns:
        ``build(pretrained=False)``, with ``name`` as its name; it returns the network.

    Raises:
        ConfigError: There is no such name.
    """
    if name not in FUNCTION_NAMES:
        raise ConfigError(f"There is no function {name!r}. Give the name as text instead.")

    def build(pretrained: bool = False) -> nn.Module:
        if name == PACKAGED_NAME:
            from vizsla.models.backbones import build_backbone

            return build_backbone(name, pretrained=pretrained).network
        from torchvision import models

        return models.get_model(name, weights="DEFAULT" if pretrained else None)

    library = "an installed package" if name == PACKAGED_NAME else "torchvision"
    build.__name__ = build.__qualname__ = name
    setattr(build, NAME_ATTRIBUTE, name)
    build.__doc__ = (
        f"Return the network {name} of {library}, with published or random weights.\n\n"
        "Args:\n    pretrained: Whether to load the published weights, which may need a download."
    )
    return build
