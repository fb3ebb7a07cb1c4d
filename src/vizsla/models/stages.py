"""Backbones: images in, the maps of all stages out. How a network gives its maps is found out by trying it once.

A *stage* is a run of layers that share one resolution; its map is the output of the last of them, NCHW. Networks of
tokens (ViT, Swin) give maps too: timm lays their tokens out as images and applies the last normalisation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.models.names import TORCHVISION_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.utils.hooks import RemovableHandle
    from torchvision.models import VisionTransformer

    from vizsla.types import Preprocessing, Size

MapExtractor = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
"""From a network and normalised images ``(B, 3, H, W)`` to its stage maps ``(B, C, h, w)``, the final one last."""

_ForwardIntermediates = Callable[..., tuple[object, list[Tensor]]]
_Result = TypeVar("_Result")

_SMALL_SIZE = (96, 96)
"""Most networks take this size (inception networks need 75); a larger one costs time whenever a network is made."""

_STAGE_SHRINKAGE = 0.75
"""A new stage shrinks the side of its map to this or less; convolutions without padding take a pixel or two within a stage."""

_PERMISSIVE = {
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "unknown",
}
"""Licences of weights of which nothing needs to be said; of a user's own file nothing is known."""

AND = "AND"
"""Joins licences, as in SPDX expressions."""

_PROBE_ERRORS = (AssertionError, AttributeError, RuntimeError, ValueError, TypeError, LookupError)
"""What networks raise for images or arguments that they do not take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimmMaps:
    """Stage maps of a network of timm, by its ``forward_intermediates``.

    ``normalise`` applies the network's last norm to maps that lack it; a few networks cannot. ``final`` says what to do with the
    network's own output: it is the last stage's map already (``"drop"``), a later form of it (``"replace"``), or comes from
    further layers (``"append"``, such as the 1x1 convolution of EfficientNets).
    """

    normalise: bool
    final: Literal["drop", "replace", "append"]

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the stage maps of normalised images."""
        forward = cast("_ForwardIntermediates", network.forward_intermediates)
        output, maps = forward(images, norm=self.normalise, output_fmt="NCHW")
        if not isinstance(output, Tensor) or self.final == "drop":
            return tuple(maps)
        return (*(maps[:-1] if self.final == "replace" else maps), output)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialMaps:
    """Stage maps of a network whose ``steps`` run one after the other: the outputs of ``stage_ends``, the last step among them.

    Those that are also in ``channels_last`` give ``(B, h, w, C)``.
    """

    steps: tuple[str, ...]
    stage_ends: tuple[str, ...]
    channels_last: tuple[str, ...] = ()

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the stage maps of normalised images."""
        maps: list[Tensor] = []
        for step in self.steps:
            images = network.get_submodule(step)(images)
            if step in self.stage_ends:
                maps.append(images.permute(0, 3, 1, 2) if step in self.channels_last else images)
        return tuple(maps)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMaps:
    """Maps of torchvision's ViT: the tokens after each block, normalised and laid out as images.

    The position embeddings are stretched to the image's own grid (bicubic), so images of any size from one patch on work.
    """

    blocks: tuple[str, ...]

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the stage maps of normalised images."""
        vit = cast("VisionTransformer", network)
        patches = vit.conv_proj(images)
        height, width = patches.shape[2:]
        tokens = torch.cat(
            [vit.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        positions = _stretched_positions(vit.encoder.pos_embedding, grid=(height, width))
        tokens = vit.encoder.dropout(tokens + positions)
        maps: list[Tensor] = []
        for block in self.blocks:
            tokens = network.get_submodule(block)(tokens)
            of_patches = vit.encoder.ln(tokens)[:, 1:]
            maps.append(of_patches.transpose(1, 2).unflatten(2, (height, width)))
        return tuple(maps)


def own_maps(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return what a user's own network returns, one map or several."""
    maps = network(images)
    return (maps,) if isinstance(maps, Tensor) else tuple(maps)


class JoinedNetworks(nn.Module):
    """Networks side by side: images as the first one expects them in, the maps of all out, one network's after the other's."""

    def __init__(self, parts: Sequence[Backbone]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        first = parts[0].preprocessing
        for number, part in enumerate(parts):
            own = part.preprocessing
            gain = [a / b for a, b in zip(first.std, own.std, strict=True)]
            shift = [(a - b) / c for a, b, c in zip(first.mean, own.mean, own.std, strict=True)]
            for name, values in (("gain", gain), ("shift", shift)):
                buffer = torch.tensor(values).view(3, 1, 1)
                self.register_buffer(f"{name}_{number}", buffer, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of all networks."""
        first = cast("Backbone", self.parts[0]).preprocessing
        maps: list[Tensor] = []
        for number, part in enumerate(self.parts):
            own, seen = cast("Backbone", part).preprocessing, images
            if (own.mean, own.std) != (first.mean, first.std):
                seen = images * self.get_buffer(f"gain_{number}") + self.get_buffer(
                    f"shift_{number}"
                )
            maps += part(seen)
        return tuple(maps)


def own_output(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return the output of a user's whole network; images are contiguous, because people call ``view`` on them."""
    return (network(images.contiguous()),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """What trying a network has shown.

    Attributes:
        maps: Gives the stage maps.
        channels: Channels of each map.
        early_end: Name of the layer with which the early half of the stages ends; empty if the network has no parts.
        fixed_size: The size that the network is made for, ``(height, width)``, if it failed with another one; None if it takes any.
        steps: Names of the layers in the order in which they run, where that is known.
    """

    maps: MapExtractor
    channels: tuple[int, ...]
    early_end: str
    fixed_size: Size | None
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """Which network, and where its weights come from.

    Attributes:
        source: The library that the architecture is from, or ``"module"`` for the user's own network.
        name: Of the architecture in that library, or of the class.
        weights: Where the weights come from, in words; ``"random"`` without any.
        licence: Of the weights, as an SPDX name where known, else ``"unknown"``.
    """

    source: Literal["timm", "torchvision", "vizsla", "module"]
    name: str
    weights: str
    licence: str

    @property
    def licence_note(self) -> str:
        """A sentence where the licence of the weights is known and does not allow everything; else empty."""
        if set(self.licence.lower().split(f" {AND} ".lower())) <= _PERMISSIVE:
            return ""
        return (
            f"The weights of {self.name} have the licence {self.licence!r}, which also applies to models trained "
            "from them. Read it before you publish or sell a model."
        )

    @property
    def arch(self) -> str:
        """The name by which ``build_backbone`` builds this architecture again."""
        return TORCHVISION_PREFIX + self.name if self.source == "torchvision" else self.name


class Backbone(nn.Module):
    """A network without its classifier: normalised images in, the maps of its stages out.

    ``preprocessing`` is what the weights expect of images; ``Classifier`` applies it.
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
        self.last_map = nn.Identity()
        self._maps: MapExtractor = stages.maps

    def __len__(self) -> int:
        """Return the number of the network's children."""
        return len(list(self.network.children()))

    def __getitem__(self, index: int | slice) -> nn.Module:
        """Return a child of the network, or some one after the other."""
        return nn.Sequential(*self.network.children())[index]

    def register_forward_hook(self, *args: Any, **options: Any) -> RemovableHandle:
        """Register a hook that sees the last map: the output of a body in notebooks."""
        return self.last_map.register_forward_hook(*args, **options)

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """The networks that are joined in it; a single one is its own part."""
        if isinstance(self.network, JoinedNetworks):
            return tuple(cast("Iterable[Backbone]", self.network.parts))
        return (self,)

    @property
    def stage_ranges(self) -> tuple[range, ...]:
        """Positions of the maps of each part."""
        ends = [0, *accumulate(len(part.stage_channels) for part in self.parts)]
        return tuple(range(start, end) for start, end in pairwise(ends))

    @property
    def patch_size(self) -> Size:
        """Pixels that become one token, ``(height, width)``; ``(1, 1)`` for networks that are not made of tokens of one size."""
        for name in ("patch_embed", "embeds"):  # the second is NaFlexVit's
            found = getattr(getattr(self.network, name, None), "patch_size", None)
            if found is not None:
                height, width = (found, found) if isinstance(found, int) else found
                return int(height), int(width)
        return 1, 1

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return self.stage_channels[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each stage for normalised images ``(B, 3, H, W)``, the network's own final features last.

        Maps are ``(B, C, h, w)`` with C as in ``stage_channels``; for efficientnet_lite0 at 224 x 224 from
        ``(B, 16, 112, 112)`` to ``(B, 1280, 7, 7)``.
        """
        if self.fixed_size is not None and tuple(images.shape[2:]) != self.fixed_size:
            height, width = self.fixed_size
            raise ConfigError(
                f"The network {self.spec.name} takes images of {height} x {width} pixels only. "
                f"Received: {images.shape[2]} x {images.shape[3]}. Set the size to {height}, or choose a "
                "convolutional network."
            )
        *maps, last = self._maps(self.network, images)
        return (*maps, self.last_map(last))


def timm_stages(network: nn.Module, *, size: Size, name: str) -> Stages:
    """Find out how a network of timm gives stage maps."""
    num_features = int(cast("int", network.num_features))
    for normalise in (True, False):  # A few networks cannot apply their norm to maps.

        def run(images: Tensor, *, normalise: bool = normalise) -> tuple[object, list[Tensor]]:
            forward = cast("_ForwardIntermediates", network.forward_intermediates)
            return forward(images, norm=normalise, output_fmt="NCHW")

        trial = _try_sizes(run, network, size=size)
        if trial is None:
            continue
        (output, maps), fixed_size = trial
        final = _final_rule(output, maps[-1], num_features=num_features)
        if final is None:
            break
        modules = _feature_modules(network)
        return Stages(
            maps=TimmMaps(normalise=normalise, final=final),
            channels=(*_channels(maps, name=name), *((num_features,) if final == "append" else ())),
            early_end=modules[_middle(len(modules))] if modules else middle_part(network),
            fixed_size=fixed_size,
        )
    raise ConfigError(
        f"timm's network {name!r} does not return feature maps, which vizsla needs. Choose another architecture, "
        "for example convnext_atto, resnet34 or efficientnet_lite0."
    )


def sequential_stages(
    network: nn.Module, *, steps: tuple[str, ...], size: Size, name: str
) -> Stages:
    """Find the stages of a network whose layers run one after the other: a new one begins where the resolution falls."""
    everything = SequentialMaps(steps=steps, stage_ends=steps)
    trial = _try_sizes(partial(everything, network), network, size=size)
    maps, fixed_size = trial or ((), None)
    if not maps or any(_side(found) is None for found in maps):
        raise ConfigError(
            f"The network {name!r} is not a sequence of stages with square maps, which vizsla needs. timm has "
            "networks of most families: use the name of one of those."
        )
    sides = [_side(found) or 0 for found in maps]
    ends = [
        number
        for number in range(len(steps))
        if number + 1 == len(steps) or sides[number + 1] <= _STAGE_SHRINKAGE * sides[number]
    ]
    extract = SequentialMaps(
        steps=steps,
        stage_ends=tuple(steps[number] for number in ends),
        channels_last=tuple(steps[number] for number in ends if _has_channels_last(maps[number])),
    )
    return Stages(
        maps=extract,
        channels=tuple(
            maps[number].shape[3 if _has_channels_last(maps[number]) else 1] for number in ends
        ),
        early_end=steps[ends[_middle(len(ends))]],
        fixed_size=fixed_size,
        steps=steps,
    )


def token_stages(network: nn.Module) -> Stages:
    """Return the stages of torchvision's ViT: one per block."""
    vit = cast("VisionTransformer", network)
    blocks = tuple(f"encoder.layers.{name}" for name, _ in vit.encoder.layers.named_children())
    return Stages(
        maps=TokenMaps(blocks=blocks),
        channels=(vit.hidden_dim,) * len(blocks),
        early_end=blocks[_middle(len(blocks))],
        fixed_size=None,
        steps=("conv_proj", *blocks),
    )


def own_stages(network: nn.Module, *, size: Size) -> Stages:
    """Find out which maps a user's own network returns."""
    name = type(network).__name__
    trial = _try_sizes(partial(own_maps, network), network, size=size)
    if trial is None:
        raise ConfigError(
            f"The network {name} fails on an image (1, 3, {size[0]}, {size[1]}). "
            "A body for vizsla takes normalised images (B, 3, H, W) and returns maps (B, C, h, w)."
        )
    maps, fixed_size = trial
    return Stages(
        maps=own_maps,
        channels=_channels(maps, name=name),
        early_end=middle_part(network),
        fixed_size=fixed_size,
    )


def middle_part(network: nn.Module) -> str:
    """Return the name of the child that ends the first half of a network's children; empty if it has none.

    An only child stands for its own children.
    """
    prefix = ""
    names = [name for name, _ in network.named_children()]
    while len(names) == 1:
        inner = network.get_submodule(prefix + names[0])
        if not any(True for _ in inner.children()):
            break
        prefix += f"{names[0]}."
        names = [name for name, _ in inner.named_children()]
    return prefix + names[_middle(len(names))] if names else ""


def _side(found: Tensor) -> int | None:
    """Return the side of a map of a square image, wherever its channels are; None for anything else."""
    if found.ndim != 4:
        return None
    if _has_channels_last(found):
        return found.shape[1]
    return found.shape[3] if found.shape[2] == found.shape[3] else None


def _has_channels_last(found: Tensor) -> bool:
    """Return whether a map of a square image is ``(B, h, w, C)``."""
    return found.shape[1] == found.shape[2] != found.shape[3]


def _stretched_positions(positions: Tensor, *, grid: Size) -> Tensor:
    """Return ViT's position embeddings ``(1, 1 + n, C)`` for another grid of patches."""
    side = math.isqrt(positions.shape[1] - 1)
    if grid == (side, side):
        return positions
    image = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    stretched = F.interpolate(image, size=grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], stretched.flatten(2).transpose(1, 2)], dim=1)


def _middle(count: int) -> int:
    """Return the last position of the first half, which takes the middle one: of five stages the first three are early."""
    return (count + 1) // 2 - 1


def _final_rule(
    output: object, last: Tensor, *, num_features: int
) -> Literal["drop", "replace", "append"] | None:
    """Return how the network's own output relates to its last map; None if neither is what it calls its features."""
    last_channels = last.shape[1]
    if isinstance(output, Tensor) and output.ndim == 4:
        if output.shape == last.shape:
            return "replace"
        if output.shape[1] == num_features != last_channels:
            return "append"
    return "drop" if last_channels == num_features else None


def _feature_modules(network: nn.Module) -> list[str]:
    """Return the names of the layers that end timm's stages, if its record of them is correct."""
    information = getattr(network, "feature_info", None)
    entries = cast("list[dict[str, object]]", information if isinstance(information, list) else [])
    names = [str(entry.get("module", "")) for entry in entries]
    known = {name for name, _ in network.named_modules()}
    return names if all(name in known and name for name in names) else []


def _try_sizes(
    run: Callable[[Tensor], _Result], network: nn.Module, *, size: Size
) -> tuple[_Result, Size | None] | None:
    """Return what a black image gives, and ``size`` if only that works; None if nothing does. The network stays as it is."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()  # so that norm statistics do not change
    try:
        with torch.no_grad():
            for tried, fixed_size in ((_SMALL_SIZE, None), (size, size)):
                with contextlib.suppress(*_PROBE_ERRORS):
                    return run(torch.zeros(1, 3, *tried)), fixed_size
    finally:
        for part, training in modes:
            part.training = training
    return None


def _channels(maps: Sequence[object], *, name: str) -> tuple[int, ...]:
    channels: list[int] = []
    for found in maps:
        if not isinstance(found, Tensor) or found.ndim != 4:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"The network {name} returns {shape} where maps (B, C, h, w) are needed. "
                "Pass the body of a network, without pooling and classifier."
            )
        channels.append(found.shape[1])
    return tuple(channels)
