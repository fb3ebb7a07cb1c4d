"""Backbones: a network without its classifier, with its weights and what they expect, built by name.

Weights are looked for in this order: a file that was given, the caches of this machine, the hub. The weights of
``efficientnet_lite0`` come from an installed package instead, so that it works anywhere at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.bodies import (
    IMAGENET_PREPROCESSING,
    UNKNOWN_LICENCE,
    Body,
    packaged_body,
    timm_body,
    torchvision_body,
)
from vizsla.models.names import (
    FUNCTION_NAMES,
    NAME_ATTRIBUTE,
    PACKAGED_NAME,
    TORCHVISION_PREFIX,
    Architecture,
    check_cut,
    cut_module,
    cut_name,
    resolve_architecture,
    split_cut_name,
)
from vizsla.models.stages import MapExtractor, Stages, own_stages
from vizsla.models.weights import Weights, load_weights, read_weights_file
from vizsla.seeding import derive_seed
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """Which network, and where its weights come from.

    Attributes:
        source: The library that the architecture is from, or ``"module"`` for a network that somebody brought.
        name: Of the architecture in that library, or of the class.
        weights: Where the weights come from, for people; ``"random"`` if nowhere.
        licence: Of the weights, as an SPDX name where known, else ``"unknown"``.
    """

    source: Literal["timm", "torchvision", "module"]
    name: str
    weights: str
    licence: str

    @property
    def arch(self) -> str:
        """The text that makes ``build_backbone`` build this architecture again."""
        return TORCHVISION_PREFIX + self.name if self.source == "torchvision" else self.name


class Backbone(nn.Module):
    """A network without its classifier: normalised images in, the maps of its stages out.

    Args:
        network: The layers.
        stages: How to get the maps out of them.
        spec: Where all that comes from.
        preprocessing: What the weights expect of images; ``Classifier`` applies it.

    Attributes:
        fixed_size: The only size that the network takes, None if it takes any.
        stage_channels: Channels of each map.
        num_features: Channels of the last map.
        early_end: Name of the layer of ``network`` with which the early half of the body ends.
        steps: Names of the layers of ``network`` in the order in which they run, where that is known.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        stages: Stages,
        spec: BackboneSpec,
        preprocessing: Preprocessing,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.preprocessing = preprocessing
        self.fixed_size = stages.fixed_size
        self.stage_channels = stages.channels
        self.early_end = stages.early_end
        self.steps = stages.steps
        self._maps: MapExtractor = stages.maps

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return self.stage_channels[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each stage, the network's own final features last.

        Args:
            images: Normalised images ``(B, 3, H, W)``.

        Returns:
            Maps ``(B, C, h, w)`` with C as in ``stage_channels``; for efficientnet_lite0 at 224 x 224 from
            ``(B, 16, 112, 112)`` to ``(B, 1280, 7, 7)``.

        Raises:
            ConfigError: The network takes images of one size only, and these have another.
        """
        if self.fixed_size is not None and tuple(images.shape[2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise ConfigError(
                f"The network {self.spec.name} takes images of {height} x {width} pixels only. "
                f"Received: {images.shape[2]} x {images.shape[3]}. Set the size to {height}, or choose a network of "
                "convolutions."
            )
        return self._maps(self.network, images)


def build_backbone(
    arch: Architecture,
    *,
    pretrained: bool = True,
    weights_file: Path | str | None = None,
    preprocessing: Preprocessing | None = None,
    cut: int | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a network without its classifier.

    Args:
        arch: A name (``names.py`` has the rule which library is meant), one of torchvision's functions such as
            ``torchvision.models.resnet34``, or an ``nn.Module`` that returns one map ``(B, C, h, w)`` or several.
        pretrained: Use pretrained weights. An ``nn.Module`` keeps the weights that it has.
        weights_file: A file of weights (``read_weights_file``) to use instead of the published ones, whatever
            ``pretrained`` says; None for the published ones.
        preprocessing: What the weights expect of images; None for what is known of the weights, and for an
            ``nn.Module`` its attribute ``preprocessing`` if it has one, else the numbers of ImageNet.
        cut: Where the body ends, as in ``list(network.children())[:cut]``: for networks of torchvision and an
            ``nn.Module`` whose children run one after the other. None for the usual place, before pooling and classifier.
            The name ``"torchvision:resnet34[:6]"`` says the same.
        seed: Of random weights; the global random state is neither used nor changed.

    Returns:
        The backbone, in training mode, on the CPU unless a context says otherwise.

    Raises:
        ConfigError: There is no such architecture (the message has the three nearest names), it gives no maps, or it
            cannot be cut there.
        WeightsError: The weights cannot be found, read or matched.

    Examples:
        >>> build_backbone("efficientnet_lite0").stage_channels
        (16, 24, 40, 112, 320, 1280)
    """
    given = None
    if weights_file is not None:
        # The name alone: the spec travels in model files, and folders of this machine are nobody's business.
        origin = f"file {Path(weights_file).name}"
        given = Weights(tensors=read_weights_file(weights_file), origin=origin)
    with torch.random.fork_rng(devices=[]):  # the global random state stays as it is
        torch.manual_seed(derive_seed(seed, "backbone"))
        if isinstance(arch, nn.Module):
            source, name = "module", type(arch).__name__
            network = arch if cut is None else cut_module(arch, cut=check_cut(cut))
            body = _own_body(network, name=name, given=given)
        else:
            source, name, cut = _library_name_cut(arch, cut=cut)
            if source == "torchvision":
                body = torchvision_body(name, pretrained=pretrained, given=given, cut=cut)
            else:
                build = packaged_body if name == PACKAGED_NAME else timm_body
                body = build(name, pretrained=pretrained, given=given)
            name = name if body.num_parts is None else cut_name(name, body.num_parts)
    return Backbone(
        body.network,
        stages=body.stages,
        spec=BackboneSpec(source=source, name=name, weights=body.origin, licence=body.licence),
        preprocessing=preprocessing or body.preprocessing,
    )


def adapt_input_channels(backbone: Backbone, n_in: int) -> Backbone:
    """Return a backbone for images of so many channels, which is the same one for 3 and refused for others.

    All images here are RGB: decoding turns grey ones into three equal channels, so there is nothing with another number.

    Args:
        backbone: Takes images of three channels.
        n_in: Channels of an image.

    Raises:
        ConfigError: ``n_in`` is not 3.
    """
    if n_in != 3:
        raise ConfigError(
            f"n_in is 3: images become RGB when they are decoded, grey ones too. Received: {n_in!r}. "
            "Leave n_in out; a network for other channels can be trained with torch itself."
        )
    return backbone


def _library_name_cut(
    arch: str | Callable[..., nn.Module], *, cut: int | None
) -> tuple[Literal["timm", "torchvision"], str, int | None]:
    """Return library and name of an architecture, and where to cut it."""
    named_cut = None
    if isinstance(arch, str):
        arch, named_cut = split_cut_name(arch)
    source, name = resolve_architecture(arch)
    cut = named_cut if cut is None else check_cut(cut)
    if cut is not None and source == "timm":
        raise ConfigError(
            f"cut={cut} works for networks of torchvision and for an nn.Module; timm cuts {name!r} itself, before pooling "
            f"and classifier. Leave cut out, or give torchvision's network: {TORCHVISION_PREFIX + 'resnet34'!r}."
        )
    return source, name, cut


def _own_body(network: nn.Module, *, name: str, given: Weights | None) -> Body:
    """Return a network that somebody brought as a body."""
    own = getattr(network, "preprocessing", None)
    preprocessing = own if isinstance(own, Preprocessing) else IMAGENET_PREPROCESSING
    if given is not None:
        load_weights(network, given, what=f"the network {name}")
    return Body(
        network=network,
        stages=own_stages(network, size=preprocessing.size),
        preprocessing=preprocessing,
        origin=given.origin if given is not None else "as given",
        licence=UNKNOWN_LICENCE,
    )


def architecture_function(name: str) -> Callable[..., nn.Module]:
    """Return the function of an architecture, as a notebook writes it: ``vision_learner(dls, resnet34)``.

    Importing torchvision takes over a second, so the function does that when it is called; ``vision_learner`` knows it by its
    name and never calls it.

    Returns:
        ``build(pretrained=False)``, with ``name`` as its name; it returns the network.

    Raises:
        ConfigError: There is no such name.
    """
    if name not in FUNCTION_NAMES:
        raise ConfigError(f"There is no function {name!r}. Give the name as text instead.")

    def build(pretrained: bool = False) -> nn.Module:
        if name == PACKAGED_NAME:
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
