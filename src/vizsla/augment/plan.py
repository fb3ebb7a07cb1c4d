"""Maps, colour steps and blocks come in, a plan for each picture goes out: which steps it needs at all.

Everything is known on the CPU, so no device is asked. A picture to which nothing happens gets an empty plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.kernels import HORIZON

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vizsla.augment.compose import ColourStep
    from vizsla.augment.erasing import Erasing
    from vizsla.augment.options import Mode
    from vizsla.types import Size


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What has to be done to a picture.

    Attributes:
        resamples: Whether it is seen through a map or gets another size.
        pooled_size: (height, width) that it is averaged to before that, ``None``: it is not.
        recolours: Whether its logits change.
        turns_hue: Whether its colour circle is turned.
        erases: Whether blocks of it are covered.
    """

    resamples: bool
    pooled_size: Size | None
    recolours: bool
    turns_hue: bool
    erases: bool


def prefilter_sizes(warp: Tensor, *, source_size: Size, size: Size) -> list[Size | None]:
    """Return the size that each picture is averaged to before it is resampled; ``None`` where it is not.

    Bilinear sampling looks at 2 pixels in a row, so a picture that shrinks by more than 2 loses pixels without a
    filter. It is averaged to twice the output size (of the side that shrinks less), and to a size doubled as often as
    the map magnifies by 2, so that a small crop of a large picture keeps its detail. Sizes depend on the maps, which
    the CPU knows, and on nothing else: neither on the other pictures of the batch nor on a read from the device.

    Args:
        warp: float64 ``(B, 3, 3)`` on the CPU, output coordinates to source coordinates.
        source_size: (height, width) that comes in.
        size: (height, width) that comes out.
    """
    (height, width), (out_height, out_width) = source_size, size
    shrinks_by = min(height / out_height, width / out_width)
    if shrinks_by <= 2:
        return [None] * len(warp)
    sizes: list[Size | None] = []
    magnifications: list[float] = _magnification(warp).tolist()
    for magnifies_by in magnifications:
        doubled = 2 << max(0, math.floor(math.log2(magnifies_by)))
        if shrinks_by <= max(doubled, 2 * magnifies_by):
            sizes.append(None)
        elif height * out_width <= width * out_height:
            sizes.append((doubled * out_height, width * doubled * out_height // height))
        else:
            sizes.append((height * doubled * out_width // width, doubled * out_width))
    return sizes


def make_plans(
    warp: Tensor,
    *,
    source_size: Size,
    size: Size,
    colour: ColourStep | None,
    erasing: Erasing | None,
    mode: Mode,
    together: bool = False,
) -> list[Plan]:
    """Decide what each picture needs.

    Args:
        warp: float64 ``(B, 3, 3)`` on the CPU, output coordinates to source coordinates.
        source_size: (height, width) that comes in.
        size: (height, width) that comes out.
        colour: The colour step, on the CPU; ``None``: none.
        erasing: The blocks to cover, on the CPU; ``None``: none.
        mode: Interpolation; the nearest pixel is taken without a filter.
        together: Where one is recoloured, say so of all: a device does that to all at once, and leaves out who needs none.
    """
    count = len(warp)
    identity = torch.eye(3, dtype=warp.dtype)
    moved = _flags((warp != identity).flatten(1).any(dim=1))
    pooled: list[Size | None] = [None] * count
    if mode != "nearest":
        pooled = prefilter_sizes(warp, source_size=source_size, size=size)
    never = [False] * count
    recoloured = never if colour is None else _flags(~colour.is_neutral)
    if together:
        recoloured = [any(recoloured)] * count
    turned = never if colour is None else _flags(~colour.keeps_hue)
    erased = never if erasing is None else _flags(~erasing.is_neutral)
    return [
        Plan(
            resamples=moved[at] or source_size != size,
            pooled_size=pooled[at],
            recolours=recoloured[at],
            turns_hue=turned[at],
            erases=erased[at],
        )
        for at in range(count)
    ]


def groups_of(
    plans: Sequence[Plan], share: Sequence[int], *, at_a_time: int
) -> Iterator[tuple[Plan, list[int]]]:
    """Yield positions of pictures with the same plan, a limited number at a time."""
    by_plan: dict[Plan, list[int]] = {}
    for at in share:
        by_plan.setdefault(plans[at], []).append(at)
    for plan, positions in by_plan.items():
        for start in range(0, len(positions), at_a_time):
            yield plan, positions[start : start + at_a_time]


def _flags(flags: Tensor) -> list[bool]:
    return flags.tolist()


def _magnification(warp: Tensor) -> Tensor:
    """Return by how much each map magnifies the source, float64 ``(B,)``: a length, from the area that the output shows.

    An area does not change when a picture is turned; the extent of its corners, which fastai takes, does.
    """
    corners = warp.new_tensor([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]])
    mapped_B34 = warp @ corners
    seen_B24 = mapped_B34[:, :2] / mapped_B34[:, 2:].clamp_min(HORIZON)
    x, y = seen_B24.unbind(1)
    area = (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(dim=1).abs() / 2
    return (4 / area.clamp_min(HORIZON)).sqrt()
