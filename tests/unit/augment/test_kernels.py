"""The operations on pixels, against independent ways to compute the same."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vizsla.augment.kernels import (
    ColourStep,
    area_average,
    change_lighting,
    sampling_grid,
    warp_images,
)

IDENTITY = torch.eye(3).repeat(2, 1, 1)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_grid_of_the_identity_is_where_the_pixels_are(align_corners: bool):
    grid = sampling_grid(IDENTITY, size=(4, 5), align_corners=align_corners)
    expected = F.affine_grid(IDENTITY[:, :2], [2, 3, 4, 5], align_corners=align_corners)
    torch.testing.assert_close(grid, expected)


@pytest.mark.parametrize("align_corners", [True, False])
def test_a_side_of_one_pixel_looks_at_the_middle(align_corners: bool):
    grid = sampling_grid(IDENTITY, size=(1, 3), align_corners=align_corners)
    assert grid[..., 1].tolist() == [[[0, 0, 0]]] * 2
    assert grid[0, 0, 1].tolist() == [0, 0]


def test_a_perspective_divides_by_the_depth():
    warp = torch.tensor([[[1.0, 0.1, 0.2], [0.3, 0.9, 0.0], [0.2, -0.1, 1.0]]])
    grid = sampling_grid(warp, size=(3, 5))
    for row, y in enumerate((-1.0, 0.0, 1.0)):
        for column, x in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            mapped = warp[0] @ torch.tensor([x, y, 1.0])
            torch.testing.assert_close(grid[0, row, column], mapped[:2] / mapped[2])


def test_beyond_the_horizon_there_is_no_infinity():
    warp = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [2.0, 0, 1]]])
    found = warp_images(noise(1, 3, 8, 8), warp=warp, size=(8, 8))
    assert found.isfinite().all()


def test_warping_keeps_the_scale_of_the_values():
    images = noise(2, 3, 6, 7) * 255
    found = warp_images(images, warp=IDENTITY, size=(6, 7))
    torch.testing.assert_close(found, images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_modes_are_those_of_torch(mode: str):
    images = noise(2, 3, 6, 7)
    theta = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 0.8, 0.0]]).repeat(2, 1, 1)
    warp = torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(2, 1, 3)], dim=1)
    found = warp_images(images, warp=warp, size=(5, 4), mode=mode)  # pyright: ignore[reportArgumentType] any of three
    grid = F.affine_grid(theta, [2, 3, 5, 4], align_corners=True)
    expected = F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("source", "size"),
    [((46, 46), (44, 44)), ((7, 9), (7, 5)), ((64, 31), (20, 28)), ((12, 30), (3, 1)), ((5, 5), (5, 5))],
)  # fmt: skip
def test_area_average_is_adaptive_pooling(
    source: tuple[int, int], size: tuple[int, int], channels_last: bool
):
    images = noise(2, 3, *source)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    found = area_average(images, size=size)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(images, size), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("room", [1, 3])
def test_area_average_does_not_depend_on_spare_memory(room: int):
    images = noise(2, 3, 30, 20).contiguous(memory_format=torch.channels_last)
    spare = torch.full((room, 3, 30, 20), math.nan).contiguous(memory_format=torch.channels_last)
    found = area_average(images, size=(29, 13), spare=spare)
    assert torch.equal(found, area_average(images, size=(29, 13)))


def step(gain: float, grey_gain: float | None, offset: float) -> ColourStep:
    return ColourStep(
        gain=torch.tensor([gain]),
        grey_gain=None if grey_gain is None else torch.tensor([grey_gain]),
        offset=torch.tensor([offset]),
    )


@pytest.mark.parametrize(
    ("gain", "grey_gain", "offset"), [(1.2, None, -0.4), (1.2, 0.0, -0.4), (0.7, 0.3, 0.5)]
)
def test_colour_is_linear_in_the_logits(gain: float, grey_gain: float | None, offset: float):
    images = noise(1, 3, 5, 6)
    logits = -(1 / images.double() - 1).log()
    grey = (torch.tensor([0.2989, 0.5870, 0.1140])[None, :, None, None] * logits).sum(
        1, keepdim=True
    )
    expected = 1 / (1 + (-(gain * logits + (grey_gain or 0) * grey + offset)).exp())
    found = change_lighting(images, colour=step(gain, grey_gain, offset))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_colour_leaves_its_input_alone():
    images = noise(1, 3, 5, 6)
    before = images.clone()
    change_lighting(images, colour=step(1.2, 0.1, 0.3))
    assert torch.equal(images, before)


def test_black_and_white_stay_finite():
    images = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    found = change_lighting(images, colour=step(1.3, -0.2, 2.0))
    assert found.isfinite().all()
    assert 0 <= float(found.min()) < 1e-4
    assert 1 - 1e-4 < float(found.max()) <= 1
