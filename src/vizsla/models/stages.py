"""Find out, by trying it once, how a network gives its stage maps.

A *stage* is a run of layers that share one resolution; its map is the output of the last of them, NCHW. Networks of
tokens (ViT, Swin) give maps too: timm lays their tokens out as images and applies the last normalisation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from torchvision.models import VisionTransformer

    from vizsla.types import Size

MapExtractor = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
"""Network and normalised images ``(B, 3, H, W)`` in, stage maps ``(B, C, h, w)`` out, the final map last."""

_Result = TypeVar("_Result")

_SMALL_SIZE = (96, 96)
"""What most networks can take (inception networks need 75); larger costs time whenever a network is made."""

_STAGE_SHRINKAGE = 0.75
"""What a new stage leaves of a map's side at most; convolutions without padding take a pixel or two within a stage."""

_PROBE_ERRORS = (AssertionError, AttributeError, RuntimeError, ValueError, TypeError, LookupError)
"""What networks raise on images or arguments that they cannot take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimmMaps:
    """Stage maps of a network of timm, by its ``forward_intermediates``.

    Attributes:
        normalise: Apply the network's last norm to maps that lack it; a few networks cannot.
        final: What becomes of the network's own output: it is the last stage's map already (``"drop"``), a later form
            of it (``"replace"``), or further layers lie between (``"append"``, as the 1x1 convolution of
            EfficientNets).
    """

    normalise: bool
    final: Literal["drop", "replace", "append"]

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the stage maps of normalised images."""
        output, maps = _forward_intermediates(network, images, normalise=self.normalise)
        if not isinstance(output, Tensor) or self.final == "drop":
            return maps
        return (*(maps[:-1] if self.final == "replace" else maps), output)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialMaps:
    """Stage maps of a network whose layers run one after the other.

    Attributes:
        steps: Names of the layers in the order in which they run.
        stage_ends: Those whose outputs are the maps, the last step among them.
        channels_last: Those of the stage ends that give ``(B, h, w, C)``.
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

    The embeddings of the positions are stretched to the image's own grid (bicubic), so it takes images of any size from
    one patch on.

    Attributes:
        blocks: Names of the blocks in the order in which they run.
    """

    blocks: tuple[str, ...]

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of normalised images."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnMaps:
    """Maps of a network that somebody brought: what it returns, one map or several."""

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of normalised images."""
        maps = network(images)
        return (maps,) if isinstance(maps, Tensor) else tuple(maps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """What trying a network has shown.

    Attributes:
        maps: Gives the stage maps.
        channels: Channels of each map.
        early_end: Name of the last layer of the first half of the stages; the early body ends with it. Empty if the
            network has no parts.
        fixed_size: The size that the network is made for if it failed with another one; None if it takes any.
        steps: Names of the layers in the order in which they run, where that is known.
    """

    maps: MapExtractor
    channels: tuple[int, ...]
    early_end: str
    fixed_size: Size | None
    steps: tuple[str, ...] = ()


def timm_stages(network: nn.Module, *, size: Size, name: str) -> Stages:
    """Find out how a network of timm gives stage maps.

    Raises:
        ConfigError: It does not give maps.
    """
    num_features = int(cast("int", network.num_features))
    for normalise in (True, False):  # A few networks cannot apply their norm to maps.
        trial = _try_sizes(
            partial(_forward_intermediates, network, normalise=normalise), network, size=size
        )
        if trial is None:
            continue
        (output, maps), fixed_size = trial
        final = _final_rule(output, maps, num_features=num_features)
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
        f"timm's network {name!r} does not give maps of features, which vizsla works on. "
        "Choose another architecture, for example convnext_atto, resnet34 or efficientnet_lite0."
    )


def sequential_stages(
    network: nn.Module, *, steps: tuple[str, ...], size: Size, name: str
) -> Stages:
    """Find the stages of a network whose layers run one after the other, by where the resolution falls.

    Raises:
        ConfigError: The layers cannot be run in this order, or give something other than square maps.
    """
    everything = SequentialMaps(steps=steps, stage_ends=steps)
    trial = _try_sizes(partial(everything, network), network, size=size)
    maps, fixed_size = trial or ((), None)
    if not maps or any(_side(found) is None for found in maps):
        raise ConfigError(
            f"torchvision's network {name!r} is not a sequence of stages with square maps, which vizsla works on. "
            "timm has networks of most families: give the name of one of those."
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
    """Find out which maps a network that somebody brought returns.

    Raises:
        ConfigError: It fails on an image, or returns something other than maps ``(B, C, h, w)``.
    """
    name = type(network).__name__
    trial = _try_sizes(partial(OwnMaps(), network), network, size=size)
    if trial is None:
        raise ConfigError(
            f"The network {name} fails on an image (1, 3, {size[0]}, {size[1]}). "
            "A body for vizsla takes normalised images (B, 3, H, W) and returns maps (B, C, h, w)."
        )
    maps, fixed_size = trial
    return Stages(
        maps=OwnMaps(),
        channels=_channels(maps, name=name),
        early_end=middle_part(network),
        fixed_size=fixed_size,
    )


def middle_part(network: nn.Module) -> str:
    """Return the name of the child that ends the first half of a network's children; empty if it has none.

    A child that is alone stands for its own children.
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
    """Return the side of a map of a square image, whichever place its channels have; None if it is no such map."""
    if found.ndim != 4:
        return None
    if _has_channels_last(found):
        return found.shape[1]
    return found.shape[3] if found.shape[2] == found.shape[3] else None


def _has_channels_last(found: Tensor) -> bool:
    """Tell whether a map of a square image is ``(B, h, w, C)``."""
    return found.shape[1] == found.shape[2] != found.shape[3]


def _stretched_positions(positions: Tensor, *, grid: Size) -> Tensor:
    """Return ViT's embeddings of positions ``(1, 1 + n, C)`` for another grid of patches."""
    side = math.isqrt(positions.shape[1] - 1)
    if grid == (side, side):
        return positions
    image = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    stretched = F.interpolate(image, size=grid, mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], stretched.flatten(2).transpose(1, 2)], dim=1)


def _middle(count: int) -> int:
    """Return the last position of the first half, which is the larger one: of five stages the first three are early."""
    return (count + 1) // 2 - 1


def _forward_intermediates(
    network: nn.Module, images: Tensor, *, normalise: bool
) -> tuple[object, tuple[Tensor, ...]]:
    forward = cast("Callable[..., tuple[object, list[Tensor]]]", network.forward_intermediates)
    output, maps = forward(images, norm=normalise, output_fmt="NCHW")
    return output, tuple(maps)


def _final_rule(
    output: object, maps: tuple[Tensor, ...], *, num_features: int
) -> Literal["drop", "replace", "append"] | None:
    """Decide what the network's own output adds to its stage maps; None if neither is what it calls its features."""
    last_channels = maps[-1].shape[1]
    if isinstance(output, Tensor) and output.ndim == 4:
        if output.shape == maps[-1].shape:
            return "replace"
        if output.shape[1] == num_features != last_channels:
            return "append"
    return "drop" if last_channels == num_features else None


def _feature_modules(network: nn.Module) -> list[str]:
    """Return the names of the layers that end timm's stages, if its record of them is right."""
    information = getattr(network, "feature_info", None)
    entries = cast("list[dict[str, object]]", information if isinstance(information, list) else [])
    names = [str(entry.get("module", "")) for entry in entries]
    known = {name for name, _ in network.named_modules()}
    return names if all(name in known and name for name in names) else []


def _try_sizes(
    run: Callable[[Tensor], _Result], network: nn.Module, *, size: Size
) -> tuple[_Result, Size | None] | None:
    """Return what an empty image gives, and ``size`` if only that works; None if nothing does."""
    with _trying(network):
        for tried, fixed_size in ((_SMALL_SIZE, None), (size, size)):
            with contextlib.suppress(*_PROBE_ERRORS):
                return run(torch.zeros(1, 3, *tried)), fixed_size
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


@contextmanager
def _trying(network: nn.Module) -> Generator[None]:
    """Evaluation mode and no gradients for a while, so that a trial leaves no trace in norm statistics."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
