"""Apply maps, colour steps and noise blocks to a batch of images: one resampling and one colour step at most.

This is the one place where pixels stop being uint8. Maps and colour steps are known on the CPU, so what an image needs
(nothing, a resampling, an area average before it) is decided there, without asking the device.

On the CPU each image goes alone from uint8 to its finished floats, in one of as many threads as torch uses: a 460 x 460
image then stays in the cache from step to step. 64 of them to 224 x 224, with colour, took 68 ms of one core that way and
181 ms as a whole batch. Channels-last input is sampled as fast as planar input and is cheaper to convert (68 and 82 ms).
On other devices all images that need the same steps go together.

Shape legend: B images, C channels, H x W source, h x w output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vizsla.augment.kernels import (
    ColourStep,
    Erasing,
    Mode,
    PadMode,
    area_average,
    change_lighting,
    erase_blocks,
    prefilter_sizes,
    turn_hue,
    warp_images,
)
from vizsla.machine import Blocks, keep_freed_memory, run_in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vizsla.types import Size


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How images are looked up between and outside their pixels.

    Attributes:
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
    """

    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True


class Needs(NamedTuple):
    """Which steps an image needs at all; images with the same needs go together."""

    resamples: bool
    pooled_size: Size | None  # What it is averaged to before it is resampled; None: it is not.
    recolours: bool
    turns_hue: bool
    erases: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is done to each of some images, to give them one size; made by ``plan_changes``.

    ``warp``, float32 ``(B, 3, 3)``, takes output coordinates to source coordinates. The tensors lie on the images' device.
    """

    needs: Sequence[Needs]
    size: Size
    sampling: Sampling
    warp: Tensor
    colour: ColourStep | None
    erasing: Erasing | None

    def of(self, part: slice) -> Changes:
        """Return what is done to some neighbouring images."""
        return replace(
            self,
            needs=self.needs[part],
            warp=self.warp[part],
            colour=None if self.colour is None else self.colour.of(part),
            erasing=None if self.erasing is None else self.erasing.of(part),
        )


def augment_images(
    images: Tensor,
    *,
    warp: Tensor,
    size: Size,
    colour: ColourStep | None = None,
    sampling: Sampling | None = None,
) -> Tensor:
    """Return images seen through their maps and recoloured, as ``plan_changes`` and ``apply_changes`` do it."""
    changes = plan_changes(
        warp,
        source_size=(images.shape[-2], images.shape[-1]),
        size=size,
        sampling=sampling or Sampling(),
        colour=colour,
        erasing=None,
        device=images.device,
    )
    return apply_changes(images, changes)


def plan_changes(
    warp: Tensor,
    *,
    source_size: Size,
    size: Size,
    sampling: Sampling,
    colour: ColourStep | None,
    erasing: Erasing | None,
    device: torch.device,
) -> Changes:
    """Decide which steps each image needs, and send the numbers to the device without waiting for it.

    All that comes in is on the CPU. An image that shrinks by more than 2 is averaged over areas first, see
    ``kernels.prefilter_sizes``, unless the nearest pixel is asked for. ``warp``: ``(B, 3, 3)``, output coordinates to source.
    """
    count = len(warp)
    identity = torch.eye(3, dtype=warp.dtype)
    moved = _flags((warp != identity).flatten(1).any(dim=1))
    pooled: list[Size | None] = [None] * count
    if sampling.mode != "nearest":
        pooled = prefilter_sizes(warp, source_size=source_size, size=size)
    never = [False] * count
    recoloured = never if colour is None else _flags(~colour.is_neutral)
    if device.type != "cpu":
        # A device recolours all at once and leaves out those that need no change.
        recoloured = [any(recoloured)] * count
    turned = never if colour is None else _flags(~colour.keeps_hue)
    erased = never if erasing is None else _flags(~erasing.is_neutral)
    resampled = moved if source_size == size else [True] * count
    needs = zip(resampled, pooled, recoloured, turned, erased, strict=True)
    return Changes(
        needs=[Needs(*steps) for steps in needs],
        size=size,
        sampling=sampling,
        warp=warp.float().to(device, non_blocking=True),
        colour=None if colour is None else colour.on(device),
        erasing=None if erasing is None else erasing.on(device),
    )


def apply_changes(images: Tensor, changes: Changes, *, memory: Blocks | None = None) -> Tensor:
    """Return the changed images, float32 ``(B, C, h, w)``, 0-1, channels-last; each is independent of the others.

    Args:
        images: ``(B, C, H, W)``, uint8 0-255 or float 0-1.
        changes: What is done to each of them.
        memory: Where the result lies, on the CPU; ``None``: memory of its own.
    """
    # Inference mode belongs to a thread: what it makes could not be written to by the threads below.
    with torch.inference_mode(mode=False), torch.no_grad():
        out = _empty((*images.shape[:2], *changes.size), device=images.device, memory=memory)
        count = len(changes.needs)
        if images.device.type != "cpu":
            _finish(range(count), images=images, changes=changes, out=out, at_a_time=count)
            return out
        keep_freed_memory()  # Each batch takes the same blocks again: 1.0 ms of system time for an image, 0.1 so.
        # Each thread works on images of its own: inside one operation torch's threads wait for one another. An image takes a
        # dozen short operations, and with other threads around (decoding) each of these waits was measured at up to 8 ms.
        threads = min(torch.get_num_threads(), count)
        if threads <= 1:
            _finish(range(count), images=images, changes=changes, out=out, at_a_time=1)
        else:
            shares = [range(first, count, threads) for first in range(threads)]
            run_in_threads(
                lambda share: _finish(share, images=images, changes=changes, out=out, at_a_time=1),
                shares,
            )
    return out


@torch.no_grad()
def _finish(
    share: Sequence[int], *, images: Tensor, changes: Changes, out: Tensor, at_a_time: int
) -> None:
    """Write the images at these positions to ``out``; those with the same needs together, in the same memory."""
    device, sampling = images.device, changes.sampling
    shape = at_a_time, *images.shape[1:]
    floats = _empty(shape, device=device)
    is_pooled = any(changes.needs[at].pooled_size for at in share)
    spare = _empty(shape, device=device) if is_pooled else None
    for needs, positions in _groups(changes.needs, share, at_a_time=at_a_time):
        if positions[-1] - positions[0] == len(positions) - 1:  # neighbours: a slice copies nothing
            chosen = slice(positions[0], positions[-1] + 1)
        else:
            chosen = torch.tensor(positions).to(device, non_blocking=True)
        part = floats[: len(positions)].copy_(images[chosen])
        if needs.pooled_size is not None:
            part = area_average(part, size=needs.pooled_size, spare=spare)
        if needs.resamples:
            part = warp_images(
                part,
                warp=changes.warp[chosen],
                size=changes.size,
                mode=sampling.mode,
                pad_mode=sampling.pad_mode,
                align_corners=sampling.align_corners,
            )
        if images.dtype == torch.uint8:
            part = part.div_(255)
        if needs.resamples and sampling.mode == "bicubic":
            part = part.clamp_(0, 1)  # a cubic overshoots at edges
        if needs.recolours and changes.colour is not None:
            colour = changes.colour.of(chosen)
            changed = change_lighting(part, colour=colour)
            if device.type == "cpu":
                part = changed  # These all need it.
            else:
                part = torch.where(colour.is_neutral[:, None, None, None], part, changed)
        if needs.turns_hue and changes.colour is not None and changes.colour.hue is not None:
            part = turn_hue(part, shift=changes.colour.hue[chosen])
        if needs.erases and changes.erasing is not None:
            part = erase_blocks(part, erasing=changes.erasing.of(chosen))
        out[chosen] = part


def _groups(
    needs: Sequence[Needs], share: Sequence[int], *, at_a_time: int
) -> Iterator[tuple[Needs, list[int]]]:
    """Yield positions of images with the same needs, a limited number at a time."""
    by_needs: dict[Needs, list[int]] = {}
    for at in share:
        by_needs.setdefault(needs[at], []).append(at)
    for same, positions in by_needs.items():
        for start in range(0, len(positions), at_a_time):
            yield same, positions[start : start + at_a_time]


def _empty(shape: tuple[int, ...], *, device: torch.device, memory: Blocks | None = None) -> Tensor:
    """Return a float32 tensor ``(B, C, H, W)`` in channels-last memory, with any values."""
    if memory is None or device.type != "cpu":
        return torch.empty(shape, device=device, memory_format=torch.channels_last)
    count, channels, height, width = shape
    lying = memory.empty((count, height, width, channels), dtype=torch.float32)
    return lying.permute(0, 3, 1, 2)


def _flags(flags: Tensor) -> list[bool]:
    return flags.tolist()
