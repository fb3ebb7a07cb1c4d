"""uint8 pictures and their rows come in, float32 pictures 0-1 go out: one resampling at most, one colour step at most.

This is the one place where pixels stop being uint8. Maps and colour steps are known on the CPU, so what a picture needs
(nothing, a resampling, an area average before it) is decided there, without asking the device.

On the CPU each picture goes alone from uint8 to its finished floats, on one of as many threads as torch uses: a 460 x 460
picture then stays in the cache from step to step. 64 of them to 224 x 224, with colour, took 68 ms of one core that way and
181 ms as a whole batch. Channels-last input is sampled as fast as planar input and is cheaper to convert (68 and 82 ms).
On other devices all pictures that need the same go together.

Shape legend: B pictures, C channels, H x W source, h x w output.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.erasing import erase_blocks
from vizsla.augment.kernels import (
    area_average,
    change_lighting,
    turn_hue,
    warp_pictures,
)
from vizsla.augment.merge import AugmentationPolicy, merge_transforms
from vizsla.augment.plan import groups_of
from vizsla.augment.recipe import (
    Foreseen,
    Recipe,
    drawn_recipe,
    is_for_each_alone,
    written_recipe,
)
from vizsla.augment.sample import Draws
from vizsla.errors import ConfigError
from vizsla.machine import Blocks, keep_freed_memory, run_in_threads
from vizsla.types import as_size

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vizsla.augment.compose import ColourStep
    from vizsla.augment.erasing import Erasing
    from vizsla.augment.options import Mode, PadMode
    from vizsla.augment.policy import BatchTransform
    from vizsla.types import Size

_MAX_BLOCKS = 4
"""The consumer has a batch, and holds the one before until the next is there."""


class BatchAugmentation:
    """Turns uint8 batches into float batches of one size, augmented in training.

    Args:
        transforms: What may happen in training, for example ``aug_transforms()``.
        size: (height, width) of what comes out; ``None``: what the transforms say, and if they do not, unchanged.
        seed: The run's seed.

    Attributes:
        policy: The transforms, merged.
        size: (height, width) of what comes out, ``None``: unchanged.
        seed: The run's seed.

    Raises:
        ConfigError: The list holds something that is no transform, or more than one crop.

    Example:
        >>> augment = BatchAugmentation(aug_transforms(size=224), seed=1)
        >>> images = augment(batch.images, rows=batch.rows, epoch=0, training=True)
    """

    def __init__(
        self, transforms: Sequence[BatchTransform] = (), *, size: Size | None = None, seed: int = 0
    ) -> None:
        self.policy = merge_transforms(transforms)
        self.size = self.policy.size if size is None else as_size(size)
        self.seed = seed
        self._memory = Blocks(max_blocks=_MAX_BLOCKS)
        self._foreseen: list[Foreseen] = []

    @contextmanager
    def foresee(self, plan: Sequence[Tensor], *, epoch: int, training: bool) -> Generator[None]:
        """Let random numbers be drawn for several batches at once, which does not change them.

        Args:
            plan: The rows of the batches that will come; calls with these very tensors profit.
            epoch: Epoch number, from 0.
            training: Whether they will be augmented.
        """
        if not is_for_each_alone(self.policy):
            yield
            return
        foreseen = Foreseen(self.policy, plan, seed=self.seed, epoch=epoch, training=training)
        self._foreseen.append(foreseen)
        try:
            yield
        finally:
            self._foreseen.remove(foreseen)

    @torch.no_grad()
    def __call__(self, images_u8: Tensor, *, rows: Tensor, epoch: int, training: bool) -> Tensor:
        """Return the pictures as the network gets them, apart from normalisation.

        Args:
            images_u8: uint8 ``(B, 3, H, W)``, best channels-last; left as they are.
            rows: int64 ``(B,)`` on the CPU; with the seed and the epoch they decide what happens to each picture.
            epoch: Epoch number, from 0.
            training: Whether to augment; otherwise pictures are resized (the middle, if the transforms crop) and no more.

        Returns:
            float32 ``(B, 3, h, w)``, 0-1, channels-last, on the device of the pictures. A picture to which nothing
            happens is its uint8 values over 255, exactly.

        Raises:
            ConfigError: The pictures are not an uint8 batch, or there is not one row for each.
        """
        _check_batch(images_u8, rows)
        source_size = images_u8.shape[-2], images_u8.shape[-1]
        size = self.size or self.policy.size or source_size
        for foreseen in self._foreseen:
            if (foreseen.epoch, foreseen.training) == (epoch, training):
                recipe = foreseen.recipe(
                    rows, source_size=source_size, size=size, device=images_u8.device
                )
                if recipe is not None:
                    return _applied(
                        recipe, images_u8, policy=self.policy, size=size, memory=self._memory
                    )
        draws = Draws(seed=self.seed, epoch=epoch, rows=rows, images=images_u8)
        return apply_policy(
            images_u8,
            policy=self.policy,
            draws=draws,
            size=size,
            training=training,
            memory=self._memory,
        )


def apply_policy(
    images: Tensor,
    *,
    policy: AugmentationPolicy,
    draws: Draws,
    size: Size | None = None,
    training: bool = True,
    memory: Blocks | None = None,
) -> Tensor:
    """Sample, compose and apply a policy.

    Args:
        images: ``(B, 3, H, W)``, uint8 0-255 or float 0-1.
        policy: What may happen.
        draws: Where the random numbers come from, one row per picture.
        size: (height, width) of what comes out; ``None``: that of the policy, and if it has none, unchanged.
        training: Whether to augment, or only to resize.
        memory: Where the result lies, on the CPU; ``None``: memory of its own.

    Returns:
        float32 ``(B, 3, h, w)``, 0-1, channels-last.
    """
    source_size = images.shape[-2], images.shape[-1]
    final_size = size or policy.size or source_size
    recipe = drawn_recipe(
        policy,
        draws=draws,
        source_size=source_size,
        size=final_size,
        training=training,
        device=images.device,
    )
    return _applied(recipe, images, policy=policy, size=final_size, memory=memory)


def augment_pictures(
    images: Tensor,
    *,
    warp: Tensor,
    size: Size,
    colour: ColourStep | None = None,
    erasing: Erasing | None = None,
    mode: Mode = "bilinear",
    pad_mode: PadMode = "reflection",
    align_corners: bool = True,
    memory: Blocks | None = None,
) -> Tensor:
    """Return pictures seen through their maps and recoloured; what the numbers say is not needed is not done.

    A picture that shrinks by more than 2 is averaged over areas first, see ``plan.prefilter_sizes``.

    Args:
        images: ``(B, C, H, W)``, uint8 0-255 or float 0-1.
        warp: ``(B, 3, 3)`` on the CPU, output coordinates to source coordinates.
        size: (height, width) of what comes out.
        colour: The colour step, on the CPU; ``None``: none.
        erasing: The blocks to cover, on the CPU; ``None``: none.
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
        memory: Where the result lies, on the CPU; ``None``: memory of its own.

    Returns:
        float32 ``(B, C, h, w)``, 0-1, channels-last. Each picture is independent of the others of its batch.
    """
    recipe = written_recipe(
        warp,
        source_size=(images.shape[-2], images.shape[-1]),
        size=size,
        colour=colour,
        erasing=erasing,
        mode=mode,
        device=images.device,
    )
    policy = AugmentationPolicy(mode=mode, pad_mode=pad_mode, align_corners=align_corners)
    return _applied(recipe, images, policy=policy, size=size, memory=memory)


def _applied(
    recipe: Recipe,
    images: Tensor,
    *,
    policy: AugmentationPolicy,
    size: Size,
    memory: Blocks | None,
) -> Tensor:
    """Return what a recipe makes of pictures; of the policy only how to interpolate."""
    # Inference mode belongs to a thread: what it makes could not be written to by the threads below.
    with torch.inference_mode(mode=False), torch.no_grad():
        work = _Work(
            images=images,
            out=_empty((*images.shape[:2], *size), device=images.device, memory=memory),
            recipe=recipe,
            mode=policy.mode,
            pad_mode=policy.pad_mode,
            align_corners=policy.align_corners,
        )
        count = len(recipe.plans)
        if images.device.type == "cpu":
            keep_freed_memory()  # Each batch takes the same blocks again: 1.0 ms of system time for a picture, 0.1 so.
            _in_threads(work, count=count)
        else:
            work.do(range(count), at_a_time=count)
    return work.out


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What ``augment_pictures`` was asked for, and where the result goes."""

    images: Tensor
    out: Tensor
    recipe: Recipe
    mode: Mode
    pad_mode: PadMode
    align_corners: bool

    @torch.no_grad()
    def do(self, share: Sequence[int], *, at_a_time: int) -> None:
        """Finish the pictures at these positions; those with the same plan together, in the same memory."""
        recipe = self.recipe
        shape = at_a_time, *self.images.shape[1:]
        floats = _empty(shape, device=self.images.device)
        spare: Tensor | None = None
        if any(recipe.plans[at].pooled_size for at in share):
            spare = _empty(shape, device=self.images.device)
        for plan, positions in groups_of(recipe.plans, share, at_a_time=at_a_time):
            chosen = _selector(positions, device=self.images.device)
            part = floats[: len(positions)].copy_(self.images[chosen])
            if plan.pooled_size is not None:
                part = area_average(part, size=plan.pooled_size, spare=spare)
            if plan.resamples:
                part = warp_pictures(
                    part,
                    warp=recipe.warp[chosen],
                    size=(self.out.shape[-2], self.out.shape[-1]),
                    mode=self.mode,
                    pad_mode=self.pad_mode,
                    align_corners=self.align_corners,
                )
            if self.images.dtype == torch.uint8:
                part = part.div_(255)
            if plan.resamples and self.mode == "bicubic":
                part = part.clamp_(0, 1)  # a cubic overshoots at edges
            if plan.recolours and recipe.colour is not None:
                part = self._recoloured(part, colour=recipe.colour.of(chosen))
            if plan.turns_hue and recipe.colour is not None and recipe.colour.hue is not None:
                part = turn_hue(part, shift=recipe.colour.hue[chosen])
            if plan.erases and recipe.erasing is not None:
                part = erase_blocks(part, erasing=recipe.erasing.of(chosen))
            self.out[chosen] = part

    def _recoloured(self, images: Tensor, *, colour: ColourStep) -> Tensor:
        changed = change_lighting(images, colour=colour)
        if images.device.type == "cpu":
            return changed  # These all need it.
        return torch.where(colour.is_neutral[:, None, None, None], images, changed)


def _in_threads(work: _Work, *, count: int) -> None:
    """Do the work picture by picture, on as many threads as torch uses, each of which does its pictures alone.

    Inside one operation torch's threads wait for one another. There are a dozen short operations for each picture, and
    with other threads around (decoding) each of these waits was measured at up to 8 ms.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work.do(range(count), at_a_time=1)
    else:
        shares = [range(first, count, threads) for first in range(threads)]
        run_in_threads(lambda share: work.do(share, at_a_time=1), shares)


def _empty(shape: tuple[int, ...], *, device: torch.device, memory: Blocks | None = None) -> Tensor:
    """Return a float32 tensor ``(B, C, H, W)`` in channels-last memory, with any values."""
    if memory is None or device.type != "cpu":
        return torch.empty(shape, device=device, memory_format=torch.channels_last)
    count, channels, height, width = shape
    lying = memory.empty((count, height, width, channels), dtype=torch.float32)
    return lying.permute(0, 3, 1, 2)


def _selector(positions: list[int], *, device: torch.device) -> slice | Tensor:
    """Return an index for these pictures: a slice, which copies nothing, where they are neighbours."""
    if positions[-1] - positions[0] == len(positions) - 1:
        return slice(positions[0], positions[-1] + 1)
    return torch.tensor(positions).to(device, non_blocking=True)


def _check_batch(images_u8: Tensor, rows: Tensor) -> None:
    if images_u8.dtype != torch.uint8 or images_u8.ndim != 4 or images_u8.shape[1] != 3:
        raise ConfigError(
            "Augmentation takes uint8 pictures (batch, 3, height, width) with values 0-255. "
            f"Received: {images_u8.dtype} {tuple(images_u8.shape)}"
        )
    if rows.shape != images_u8.shape[:1] or rows.device.type != "cpu":
        raise ConfigError(
            f"Augmentation needs the table row of each of the {len(images_u8)} pictures, on the CPU. "
            f"Received: rows of shape {tuple(rows.shape)} on {rows.device}"
        )
