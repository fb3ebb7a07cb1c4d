"""What must hold for the geometry of any picture: identities, inverses, quarter turns, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vizsla.augment.apply import augment_images
from vizsla.augment.batch_augmentation import BatchAugmentation, BatchTransform
from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.augment.normalize import Normalize

TOLERANCE = 1e-4
"""Coordinates are float32: a position is known to 1e-5 pixels, and neighbours differ by up to 1."""

sizes = st.tuples(st.integers(2, 24), st.integers(2, 24))
seeds = st.integers(0, 2**63 - 1)


@st.composite
def batches(draw: st.DrawFn, *, square: bool = False) -> Tensor:
    height, width = draw(sizes)
    shape = (draw(st.integers(1, 4)), 3, height, height if square else width)
    noise = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)


def through(transform: BatchTransform, images: Tensor, *, seed: int = 0, epoch: int = 0) -> Tensor:
    rows = torch.arange(len(images))
    return BatchAugmentation([transform], seed=seed)(images, rows=rows, epoch=epoch, training=True)


@given(images=batches(), kind=st.sampled_from([Flip, Dihedral, Rotate, Zoom, Warp]))
@settings(max_examples=40, deadline=None)
def test_identity_parameters_return_the_input(images: Tensor, kind: type[Flip]):
    assert torch.equal(through(kind(p=0), images), images / 255)


@given(images=batches())
@settings(max_examples=40, deadline=None)
def test_neutral_fixed_draws_return_the_input(images: Tensor):
    for transform in (
        Flip(p=1, draw=0),
        Dihedral(p=1, draw=0),
        Rotate(p=1, draw=0),
        Zoom(p=1, draw=1),
        Warp(p=1, draw_x=0, draw_y=0),
    ):
        assert torch.equal(through(transform, images), images / 255)


@given(images=batches())
@settings(max_examples=40, deadline=None)
def test_a_flip_mirrors_and_twice_is_the_identity(images: Tensor):
    once = through(Flip(p=1), images)
    torch.testing.assert_close(once, (images / 255).flip(-1), atol=TOLERANCE, rtol=0)
    warp = Flip().matrix(torch.ones(len(images), 1, dtype=torch.float64))
    size = images.shape[-2], images.shape[-1]
    twice = augment_images(once, warp=warp, size=size)
    torch.testing.assert_close(twice, images / 255, atol=TOLERANCE, rtol=0)
    assert torch.equal(augment_images(images, warp=warp @ warp, size=size), images / 255)


@given(images=batches(square=True), quarters=st.integers(-3, 3))
@settings(max_examples=40, deadline=None)
def test_a_quarter_turn_of_a_square_is_rot90(images: Tensor, quarters: int):
    found = through(Rotate(p=1, draw=90 * quarters), images)
    expected = torch.rot90(images / 255, -quarters, dims=(-2, -1))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@given(images=batches(square=True), k=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_a_dihedral_of_a_square_moves_pixels_only(images: Tensor, k: int):
    unit = images / 255
    turned = [torch.rot90(unit, k, dims=(-2, -1)) for k in range(4)]
    upside = unit.flip(-2)
    transposed, transverse = unit.transpose(-2, -1), turned[2].transpose(-2, -1)
    expected = [
        unit,
        unit.flip(-1),
        upside,
        turned[1],
        turned[2],
        turned[3],
        transposed,
        transverse,
    ]
    found = through(Dihedral(p=1, draw=k), images)
    torch.testing.assert_close(found, expected[k], atol=TOLERANCE, rtol=0)


geometric = st.sampled_from(
    [
        Flip(),
        Dihedral(),
        Rotate(180, 0.7),
        Zoom(0.5, 3, 0.7),
        Warp(0.3, 0.7),
        RandomResizedCropGPU((5, 7)),
        Rotate(20, 0.7, size=3),
    ]
)


of_pixels = st.sampled_from(
    [
        Brightness(0.5, 0.7),
        Contrast(0.5, 0.7),
        Saturation(0.5, 0.7),
        Hue(0.5, 0.7),
        RandomErasing(0.7, max_count=2),
        Normalize(),
    ]
)


@given(
    images=batches(),
    transforms=st.lists(geometric | of_pixels, max_size=6, unique_by=type),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_a_batch_equals_its_pictures_one_by_one(
    images: Tensor, transforms: list[BatchTransform], seed: int
):
    augmentation = BatchAugmentation(transforms, seed=seed)
    rows = torch.arange(len(images)) * 1001
    together = augmentation(images, rows=rows, epoch=3, training=True)
    for at in range(len(images)):
        one = slice(at, at + 1)
        alone = augmentation(images[one], rows=rows[one], epoch=3, training=True)
        assert torch.equal(alone, together[one])


@given(images=batches(), transform=geometric, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_interpolation_invents_no_values(images: Tensor, transform: BatchTransform, seed: int):
    found, unit = through(transform, images, seed=seed), images / 255
    for picture, source in zip(found, unit, strict=True):
        assert float(picture.min()) >= float(source.min()) - 1e-6
        assert float(picture.max()) <= float(source.max()) + 1e-6


@given(images=batches(), transform=of_pixels, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_what_happens_to_pixels_stays_within_0_and_1(
    images: Tensor, transform: BatchTransform, seed: int
):
    found = through(transform, images, seed=seed)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(value=st.integers(0, 255), transform=geometric, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_plain_picture_stays_plain(value: int, transform: BatchTransform, seed: int):
    images = torch.full((2, 3, 9, 12), value, dtype=torch.uint8)
    found = through(transform, images, seed=seed)
    torch.testing.assert_close(found, torch.full_like(found, value / 255), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(0.2, 0.1), (-0.3, 0.2)])
def test_a_warp_and_its_inverse_are_the_identity(x: float, y: float):
    warp = Warp().matrix(torch.tensor([[x, y]], dtype=torch.float64))
    found = warp @ torch.linalg.inv(warp)
    torch.testing.assert_close(found[0], torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
