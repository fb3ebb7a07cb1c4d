"""Maps and colour steps: where points go, that identities are exact, and that a composed step equals its parts in turn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import (
    BatchAugmentation,
    ColourTransform,
    Draws,
    correct_aspect,
)
from vizsla.augment.colour import Brightness, Contrast, Saturation
from vizsla.augment.geometry import (
    Dihedral,
    Flip,
    RandomResizedCropGPU,
    Rotate,
    Warp,
    Zoom,
    crop_matrix,
)
from vizsla.augment.kernels import GREY_WEIGHTS, ColourStep
from vizsla.augment.presets import aug_transforms

IDENTITY = torch.eye(3, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def source_of(warp: Tensor, x: float, y: float) -> list[float]:
    """Return where the first map of a batch finds the output point (x, y)."""
    mapped = warp[0] @ torch.tensor([x, y, 1], dtype=torch.float64)
    return (mapped[:2] / mapped[2]).tolist()


def test_a_flip_finds_the_left_on_the_right():
    assert source_of(Flip().matrix(numbers(1)), -1, 0.5) == [1, 0.5]


def test_a_positive_rotation_turns_the_picture_clockwise():
    # What is at the top after a quarter turn clockwise was on the left before.
    warp = Rotate().matrix(numbers(90))
    assert source_of(warp, 0, -1) == pytest.approx([-1, 0], abs=1e-12)


def test_a_zoom_keeps_its_point_and_magnifies_about_it():
    warp = Zoom().matrix(numbers(2, 0.25, 0.75))
    assert source_of(warp, -0.5, 0.5) == pytest.approx([-0.5, 0.5])
    assert source_of(warp, 0.5, 0.5) == pytest.approx([0, 0.5])


@pytest.mark.parametrize("k", range(8))
def test_the_dihedral_group_is_a_group_of_signed_permutations(k: int):
    linear = Dihedral().matrix(numbers(k))[0, :2, :2]
    assert sorted(linear.abs().flatten().tolist()) == [0, 0, 1, 1]
    assert torch.equal(linear @ linear.T, IDENTITY[:2, :2])


def test_dihedral_maps_are_all_different():
    values = torch.arange(8, dtype=torch.float64)[:, None]
    assert len(Dihedral().matrix(values).unique(dim=0)) == 8


def test_a_rotation_of_a_wide_picture_keeps_distances_in_pixels():
    # 20 x 80 pixels: the output point 10 pixels above the middle comes from 10 pixels left of it.
    turned = Rotate().matrix(numbers(90))
    x, y = source_of(correct_aspect(turned, source_size=(20, 80)), 0, -1)
    assert [x * 40, y * 10] == pytest.approx([-10, 0], abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.2, -0.05), (-0.1, 0.2), (0.3, 0.3), (0, 0.2), (0, 0)])
def test_a_warp_takes_its_targets_to_the_corners(a: float, b: float):
    warp = Warp().matrix(numbers(a, b))
    for target, corner in [
        ((-1 - b, -1 - a), (-1, -1)),
        ((-1 + b, 1 + a), (-1, 1)),
        ((1 + b, -1 + a), (1, -1)),
        ((1 - b, 1 - a), (1, 1)),
    ]:
        assert source_of(warp, *target) == pytest.approx(corner, abs=1e-12)


def test_a_crop_shows_the_centres_of_its_corner_pixels():
    warp = crop_matrix(torch.tensor([[2, 3, 5, 6]]), source_size=(11, 21))
    pixels = [
        [(x + 1) * 10, (y + 1) * 5] for x, y in (source_of(warp, -1, -1), source_of(warp, 1, 1))
    ]
    assert pixels[0] == pytest.approx([3, 2])
    assert pixels[1] == pytest.approx([8, 6])


def test_a_crop_without_aligned_corners_shows_the_edges_of_its_corner_pixels():
    warp = crop_matrix(torch.tensor([[2, 3, 5, 6]]), source_size=(10, 20), align_corners=False)
    edges = [
        [(x + 1) * 10, (y + 1) * 5] for x, y in (source_of(warp, -1, -1), source_of(warp, 1, 1))
    ]
    assert edges[0] == pytest.approx([3, 2])
    assert edges[1] == pytest.approx([9, 7])


@pytest.mark.parametrize("align_corners", [True, False])
def test_a_crop_of_everything_is_exactly_the_identity(align_corners: bool):
    for size in ((460, 460), (7, 333), (1, 1)):
        boxes = torch.tensor([[0, 0, *size]])
        found = crop_matrix(boxes, source_size=size, align_corners=align_corners)
        assert torch.equal(found[0], IDENTITY) or size == (1, 1)
        assert found.isfinite().all()


def draws(count: int = 5) -> Draws:
    return Draws(seed=2, epoch=1, rows=torch.arange(count))


def test_transforms_that_never_act_compose_to_exactly_the_identity():
    never = [Flip(0), Dihedral(0), Warp(p=0), Rotate(p=0), Zoom(p=0)]
    found = BatchAugmentation(never).training_map(draws(), source_size=(33, 47))
    assert torch.equal(found, IDENTITY.expand(5, 3, 3))


def test_perspective_follows_the_affine_part_and_the_crop_comes_first():
    zoom, warp = Zoom(p=1, draw=1.5, draw_x=0.2, draw_y=0.9), Warp(p=1, draw_x=0.1, draw_y=0.2)
    turn, crop = Rotate(p=1, draw=25), RandomResizedCropGPU(8, 0.5)
    size = (30, 40)
    found = BatchAugmentation([crop, turn, warp, zoom]).training_map(draws(1), source_size=size)
    only_crop = BatchAugmentation([crop]).training_map(draws(1), source_size=size)
    affine = turn.matrix(numbers(25)) @ zoom.matrix(numbers(1.5, 0.2, 0.9))
    expected = (
        Warp().matrix(numbers(0.1, 0.2)) @ correct_aspect(affine, source_size=size) @ only_crop
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_two_warps_act_one_after_the_other():
    first, second = Warp(p=1, draw_x=0.1, draw_y=0.2), Warp(p=1, draw_x=-0.2, draw_y=0.1)
    found = BatchAugmentation([first, second]).training_map(draws(1), source_size=(9, 9))
    expected = Warp().matrix(numbers(-0.2, 0.1)) @ Warp().matrix(numbers(0.1, 0.2))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_maps_belong_to_the_picture_and_not_to_the_batch():
    augmentation = BatchAugmentation(aug_transforms(size=24, min_scale=0.3))
    rows = torch.tensor([7, 3, 11])
    together = augmentation.training_map(Draws(seed=1, epoch=4, rows=rows), source_size=(40, 50))
    for at in range(3):
        alone = Draws(seed=1, epoch=4, rows=rows[at : at + 1])
        found = augmentation.training_map(alone, source_size=(40, 50))
        assert torch.equal(found, together[at : at + 1])


def test_validation_sees_everything_unless_the_policy_crops():
    whole = BatchAugmentation(aug_transforms()).validation_map(2, source_size=(8, 9))
    assert torch.equal(whole, IDENTITY.expand(2, 3, 3))
    cropping = BatchAugmentation([RandomResizedCropGPU(8, ratio=(1, 1))])
    warp = cropping.validation_map(2, source_size=(11, 21))
    assert source_of(warp, -1, -1) == pytest.approx([-0.5, -1])
    assert source_of(warp, 1, 1) == pytest.approx([0.5, 1])


def in_turn(parts: list[tuple[ColourTransform, Tensor]], logits: Tensor) -> Tensor:
    """Apply colour transforms one by one, as their definitions say; logits (C, N), one picture."""
    for transform, draw in parts:
        value = float(draw)
        match transform:
            case Brightness():
                logits = logits + math.log(value / (1 - value))
            case Contrast():
                logits = logits * value
            case Saturation():
                grey = (torch.tensor(GREY_WEIGHTS, dtype=torch.float64)[:, None] * logits).sum(0)
                logits = value * logits + (1 - value) * grey
            case _:
                raise TypeError(transform)
    return logits


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 2, 1), (2, 0, 2), (1, 0, 1)]
)
def test_a_colour_step_equals_its_parts_in_turn(order: tuple[int, ...]):
    kinds: list[tuple[ColourTransform, float]] = [(Brightness(), 0.6), (Contrast(), 1.25), (Saturation(), 0.7)]  # fmt: skip
    parts = [(kinds[at][0], torch.tensor([kinds[at][1]], dtype=torch.float64)) for at in order]
    step = ColourStep.neutral(1)
    for transform, values in parts:
        step = transform.follow(step, values)
    logits = torch.linspace(-4, 5, 30, dtype=torch.float64).view(3, 10)
    grey = (torch.tensor(GREY_WEIGHTS, dtype=torch.float64)[:, None] * logits).sum(0)
    assert (step.grey_gain is None) == (2 not in order)
    grey_gain = 0 if step.grey_gain is None else step.grey_gain
    found = step.gain * logits + grey_gain * grey + step.offset
    torch.testing.assert_close(found, in_turn(parts, logits), atol=1e-12, rtol=0)


def test_colour_that_never_acts_is_exactly_neutral():
    step = BatchAugmentation([Brightness(p=0), Contrast(p=0), Saturation(p=0)]).colour_step(draws())
    assert isinstance(step, ColourStep)
    assert step.is_neutral.tolist() == [True] * 5


def test_colour_that_always_acts_is_nowhere_neutral():
    step = BatchAugmentation([Brightness(p=1)]).colour_step(draws())
    assert isinstance(step, ColourStep)
    assert step.is_neutral.tolist() == [False] * 5


def test_no_colour_transforms_make_no_step():
    assert BatchAugmentation([Flip()]).colour_step(draws()) is None


def test_a_part_of_a_step_is_that_of_the_pictures_asked_for():
    step = BatchAugmentation([Brightness(p=1, draw=[0.1, 0.2, 0.3])]).colour_step(draws(3))
    assert isinstance(step, ColourStep)
    assert torch.equal(step.of(torch.tensor([2, 0])).offset, step.offset[[2, 0]])
    assert step.of(slice(1, 3)).gain.shape == (2,)
