"""resized, resized_pixels: Pillow's values within one grey level, in rare pixels two, whoever computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vizsla.data.images import sizing as resample
from vizsla.data.images.sizing import resized, resized_pixels

if TYPE_CHECKING:
    import pytest

SIDES = st.tuples(st.integers(1, 300), st.integers(1, 300))


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Pillow 13 begins with the columns where it is faster; one axis at a time is the same in all versions.
    rows = Image.fromarray(pixels).resize((size[1], len(pixels)), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((size[1], size[0]), Image.Resampling.BILINEAR)).astype(int)


def differences(pixels: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    expected = by_pillow(pixels, size)
    found = (
        resized_pixels(pixels, size=size),
        np.asarray(resized(Image.fromarray(pixels), size=size)),
    )
    return [np.abs(values - expected) for values in found]


@settings(max_examples=60, deadline=None)
@given(source=SIDES, size=SIDES, seed=st.integers(0, 99))
@example(source=(42, 258), size=(129, 300), seed=81)  # one value of 116,100 differs by two
def test_values_are_those_of_pillow_within_one_grey_level_and_hardly_ever_two(
    source: tuple[int, int], size: tuple[int, int], seed: int
):
    for difference in differences(noise(*source, seed=seed), size):
        assert difference.max() <= 2
        assert (difference == 2).sum() <= max(1, difference.size / 10_000)


@settings(max_examples=60, deadline=None)
@given(source=SIDES, side=st.integers(1, 300), seed=st.integers(0, 99))
def test_values_resized_in_one_direction_are_never_two_grey_levels_from_those_of_pillow(
    source: tuple[int, int], side: int, seed: int
):
    pixels = noise(*source, seed=seed)
    for size in ((side, source[1]), (source[0], side)):
        assert max(difference.max() for difference in differences(pixels, size)) <= 1


@given(source=SIDES, size=SIDES, value=st.integers(0, 255))
def test_a_picture_of_one_colour_keeps_it(
    source: tuple[int, int], size: tuple[int, int], value: int
):
    pixels = np.full((*source, 3), value, dtype=np.uint8)
    assert (resized_pixels(pixels, size=size) == value).all()


@settings(max_examples=30)
@given(source=SIDES, size=SIDES, seed=st.integers(0, 99))
@example(source=(48, 40), size=(30, 48), seed=0)  # columns first, in Pillow 13
def test_values_are_those_of_one_call_of_pillow_within_two_grey_levels(
    source: tuple[int, int], size: tuple[int, int], seed: int
):
    image = Image.fromarray(noise(*source, seed=seed))
    expected = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(np.asarray(resized(image, size=size)) - expected).max() <= 2


def test_the_same_size_gives_the_same_pixels_in_memory_of_their_own():
    pixels = noise(20, 30)
    found = resized_pixels(pixels, size=(20, 30))
    assert np.array_equal(found, pixels)
    assert not np.shares_memory(found, pixels)


def test_a_read_only_part_of_a_picture_is_resized_and_left_as_it_is():
    pixels = noise(40, 50)
    pixels.setflags(write=False)
    part = pixels[3:33, 10:45]
    before = part.copy()
    found = resized_pixels(part, size=(10, 12))
    assert found.flags.c_contiguous
    assert np.abs(found - by_pillow(before, (10, 12))).max() <= 1
    assert np.array_equal(part, before)


def test_large_pictures_and_machines_without_vector_instructions_are_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch,
):
    large = noise(2**11 + 1, 2**11)
    found = resized(Image.fromarray(large), size=(9, 8))
    assert np.array_equal(np.asarray(found), by_pillow(large, (9, 8)))
    monkeypatch.setattr(resample, "resampler", lambda: "Pillow")
    pixels = noise(75, 100)
    for found in (
        resized_pixels(pixels, size=(23, 31)),
        np.asarray(resized(Image.fromarray(pixels), size=(23, 31))),
    ):
        assert np.array_equal(found, by_pillow(pixels, (23, 31)))
