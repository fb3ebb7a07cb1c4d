"""A policy and the rows of some pictures in, all that will be done to each of them out; no pixels are touched.

Drawing and composing take a few dozen operations on a few numbers per picture: 4 ms for a batch of 64 on a slow core, and hardly
more for sixteen such batches. What depends on nothing but (seed, epoch, row) is therefore done for many batches at once.

Shape legend: B pictures.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.compose import ColourStep, compose_colour, compose_map, validation_map
from vizsla.augment.erasing import Erasing, erasing_noise, sample_erasing
from vizsla.augment.plan import Plan, make_plans
from vizsla.augment.sample import Draws

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vizsla.augment.merge import AugmentationPolicy
    from vizsla.augment.options import Mode
    from vizsla.types import Size

BATCHES_AT_ONCE = 16
"""Random numbers are drawn for so many, which takes hardly longer than for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is done to each of some pictures.

    Attributes:
        plans: Which steps each needs.
        warp: float32 ``(B, 3, 3)`` on the device of the pictures, output coordinates to source coordinates.
        colour: The colour step, there too; ``None``: none.
        erasing: The blocks to cover, there too; ``None``: none.
    """

    plans: Sequence[Plan]
    warp: Tensor
    colour: ColourStep | None
    erasing: Erasing | None

    def of(self, part: slice) -> Recipe:
        """Return the recipe of some neighbouring pictures."""
        return Recipe(
            plans=self.plans[part],
            warp=self.warp[part],
            colour=None if self.colour is None else self.colour.of(part),
            erasing=None if self.erasing is None else self.erasing.of(part),
        )


def written_recipe(
    warp: Tensor,
    *,
    source_size: Size,
    size: Size,
    colour: ColourStep | None,
    erasing: Erasing | None,
    mode: Mode,
    device: torch.device,
) -> Recipe:
    """Return the recipe of what is known on the CPU.

    Args:
        warp: float64 ``(B, 3, 3)``, output coordinates to source coordinates.
        source_size: (height, width) of the pictures that come in.
        size: (height, width) of what comes out.
        colour: The colour step; ``None``: none.
        erasing: The blocks to cover; ``None``: none.
        mode: Interpolation.
        device: Of the pictures; it is not waited for.
    """
    plans = make_plans(
        warp,
        source_size=source_size,
        size=size,
        colour=colour,
        erasing=erasing,
        mode=mode,
        together=device.type != "cpu",
    )
    return Recipe(
        plans=plans,
        warp=warp.float().to(device, non_blocking=True),
        colour=None if colour is None else colour.on(device),
        erasing=None if erasing is None else erasing.on(device),
    )


def drawn_recipe(
    policy: AugmentationPolicy,
    *,
    draws: Draws,
    source_size: Size,
    size: Size,
    training: bool,
    device: torch.device,
) -> Recipe:
    """Draw and compose what a policy does to some pictures.

    Args:
        policy: What may happen.
        draws: Where the random numbers come from, one row per picture.
        source_size: (height, width) of the pictures that come in.
        size: (height, width) of what comes out.
        training: Whether to augment, or only to resize.
        device: Of the pictures.
    """
    colour = erasing = None
    with one_thread():
        if training:
            warp = compose_map(policy, draws=draws, source_size=source_size)
            colour = compose_colour(policy, draws=draws)
            erasing = _drawn_erasing(policy, draws=draws, size=size)
        else:
            warp = validation_map(policy, count=len(draws.rows), source_size=source_size)
        return written_recipe(
            warp,
            source_size=source_size,
            size=size,
            colour=colour,
            erasing=erasing,
            mode=policy.mode,
            device=device,
        )


def is_for_each_alone(policy: AugmentationPolicy) -> bool:
    """Whether what happens to a picture never depends on which others are in its batch, or on pixels."""
    transforms = (*policy.matrices, *policy.warps, *policy.colours, *policy.hues)
    return not any(
        transform.batch
        or any(
            not isinstance(getattr(transform, one.name), float | int | None)
            for one in fields(transform)
            if one.name.startswith("draw")
        )
        for transform in transforms
    )


class Foreseen:
    """The recipes of batches that are known to come, drawn for some of them at a time.

    Args:
        policy: For which ``is_for_each_alone`` holds.
        plan: The rows of each batch, int64 ``(B,)`` on the CPU; they are recognised as these very tensors.
        seed: The run's seed.
        epoch: Epoch number, from 0.
        training: Whether to augment, or only to resize.
    """

    def __init__(
        self,
        policy: AugmentationPolicy,
        plan: Sequence[Tensor],
        *,
        seed: int,
        epoch: int,
        training: bool,
    ) -> None:
        self._policy = policy
        self._plan = plan
        self._seed = seed
        self.epoch = epoch
        self.training = training
        self._numbers = {id(rows): number for number, rows in enumerate(plan)}
        self._drawn: tuple[object, int, list[Recipe]] = (None, 0, [])

    def recipe(
        self, rows: Tensor, *, source_size: Size, size: Size, device: torch.device
    ) -> Recipe | None:
        """Return the recipe of a batch; None if it is none of the plan.

        Args:
            rows: Of the batch, as in the plan.
            source_size: (height, width) of its pictures.
            size: (height, width) of what comes out.
            device: Of its pictures.
        """
        number = self._numbers.get(id(rows))
        if number is None:
            return None
        kind = source_size, size, device
        known, first, recipes = self._drawn
        if known != kind or not 0 <= number - first < len(recipes):
            first, recipes = number, self._draw(number, source_size, size, device)
            self._drawn = kind, first, recipes
        return recipes[number - first]

    def _draw(
        self, first: int, source_size: Size, size: Size, device: torch.device
    ) -> list[Recipe]:
        some = self._plan[first : first + BATCHES_AT_ONCE]
        whole = drawn_recipe(
            self._policy,
            draws=Draws(seed=self._seed, epoch=self.epoch, rows=torch.cat(list(some))),
            source_size=source_size,
            size=size,
            training=self.training,
            device=device,
        )
        recipes: list[Recipe] = []
        start = 0
        for rows in some:
            recipes.append(whole.of(slice(start, start + len(rows))))
            start += len(rows)
        return recipes


@contextmanager
def one_thread() -> Generator[None]:
    """Keep small operations on this thread: exp or sqrt of 640 numbers are not worth waiting for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _drawn_erasing(policy: AugmentationPolicy, *, draws: Draws, size: Size) -> Erasing | None:
    if policy.erasing is None:
        return None
    boxes, offsets = sample_erasing(policy.erasing, draws=draws, size=size)
    noise = erasing_noise(size, seed=draws.seed, normalize=policy.normalize)
    return Erasing(boxes=boxes, offsets=offsets, noise=noise)
