"""What a caller named as architecture in, the library and the name it has there out; unknown names get the nearest ones.

A text is looked up in this order: ``efficientnet_lite0`` (the network whose weights an installed package carries), a name
of timm (with or without a tag, as in ``resnet18.a1_in1k``), a name of torchvision. So where both libraries have a name,
timm's network is meant; ``torchvision:resnet34``, or torchvision's function ``resnet34`` itself, means torchvision's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Literal

from torch import nn

from vizsla.errors import ConfigError

Architecture = str | Callable[..., nn.Module] | nn.Module
"""A name, one of torchvision's functions such as ``torchvision.models.resnet34``, or a network."""

NAME_ATTRIBUTE = "architecture_name"
"""What the functions of ``models/functions.py`` are known by."""

PACKAGED_NAME = "efficientnet_lite0"
"""EfficientNet-Lite0 with ImageNet weights from an installed package: works without any network connection."""

TORCHVISION_PREFIX = "torchvision:"


def resolve_architecture(
    arch: str | Callable[..., nn.Module],
) -> tuple[Literal["timm", "torchvision"], str]:
    """Return the library that has an architecture, and its name there.

    Args:
        arch: A name or a torchvision function; the rule stands at the top of this module.

    Returns:
        The library, and the name; ``efficientnet_lite0`` counts as timm's. A name that timm has replaced becomes the new
        one.

    Raises:
        ConfigError: Nothing has that name; the message has the three nearest names.
    """
    if not isinstance(arch, str):
        own: str | None = getattr(arch, NAME_ATTRIBUTE, None)
        if own == PACKAGED_NAME:
            return "timm", own
        return "torchvision", own or _torchvision_function_name(arch)
    if arch == PACKAGED_NAME:
        return "timm", arch
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
    """Return all names that ``resolve_architecture`` knows, without tags, sorted."""
    import timm

    return tuple(sorted({*timm.list_models(), *torchvision_names()}))


def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's networks for classification."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def nearest_names(name: str, names: tuple[str, ...], *, count: int = 3) -> tuple[str, ...]:
    """Return the names that look most like ``name``, the nearest first.

    Args:
        name: What was asked for.
        names: What there is.
        count: How many to return, if there are as many.
    """
    return tuple(difflib.get_close_matches(name.lower(), names, n=count, cutoff=0.0))


def _unknown(name: str, names: tuple[str, ...], *, library: str) -> ConfigError:
    nearest = ", ".join(nearest_names(name, names))
    return ConfigError(
        f"No network of {library} is called {name!r}. The nearest names are: {nearest}. Choose one of them, or pass a "
        "torchvision function or an nn.Module."
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
