"""Build backbones by name: a network without its classifier, with its weights and what they expect of images.

Weights are looked for in this order: a given file, the caches of this machine, the hub. The weights of
``efficientnet_lite0`` come from an installed package instead, so that it works anywhere at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

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
from vizsla.models.stages import Backbone, BackboneSpec, own_stages
from vizsla.models.weights import Weights, load_weights, read_weights_file
from vizsla.seeding import derive_seed
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable


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
        arch: A name (``names.py`` has the rule for which library is meant), one of torchvision's functions such as
            ``torchvision.models.resnet34``, or an ``nn.Module`` that returns one map ``(B, C, h, w)`` or several.
        pretrained: Use pretrained weights. An ``nn.Module`` keeps its own.
        weights_file: A file of weights to use instead of the published ones, whatever ``pretrained`` says.
        preprocessing: What the weights expect of images. None: what is known of the weights; for an ``nn.Module`` its
            attribute ``preprocessing`` if it has one, else the numbers of ImageNet.
        cut: Where the body ends, as in ``list(network.children())[:cut]``: for networks of torchvision and an
            ``nn.Module`` whose children run one after the other. None: before pooling and classifier. The name
            ``"torchvision:resnet34[:6]"`` means the same.
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
        # The file's name alone: the spec goes into model files, which should not show the folders of this machine.
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
    """Return the backbone for 3 channels and refuse other numbers: decoding makes every image RGB, grey ones too."""
    if n_in != 3:
        raise ConfigError(
            f"n_in is 3: images become RGB when they are decoded, grey ones too. Received: {n_in!r}. "
            "Leave n_in out; a network for other channels can be trained with torch itself."
        )
    return backbone


def _library_name_cut(
    arch: str | Callable[..., nn.Module], *, cut: int | None
) -> tuple[Literal["timm", "torchvision"], str, int | None]:
    """Return the library and the name of an architecture, and where to cut it."""
    named_cut = None
    if isinstance(arch, str):
        arch, named_cut = split_cut_name(arch)
    source, name = resolve_architecture(arch)
    cut = named_cut if cut is None else check_cut(cut)
    if cut is not None and source == "timm":
        raise ConfigError(
            f"cut={cut} works for networks of torchvision and for an nn.Module; timm cuts {name!r} itself, before pooling "
            f"and classifier. Leave cut out, or choose torchvision's network: {TORCHVISION_PREFIX + 'resnet34'!r}."
        )
    return source, name, cut


def _own_body(network: nn.Module, *, name: str, given: Weights | None) -> Body:
    """Return a user's own network as a body."""
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
    """Return the function ``build(pretrained=False)`` of an architecture, for ``vision_learner(dls, resnet34)``.

    Importing torchvision takes over a second, so it waits until the function is called; ``vision_learner`` only reads its name.
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
