"""Resize: boxes and pixels against the reference's numbers, the training strip, and sizes that are hard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vizsla.data.images.sizing import MAX_STRIP_WINDOWS, PadMode, Resize, ResizeMethod, window
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.types import Size

Case = dict[str, Any]

GOLDEN = Path(__file__).parents[2] / "golden"
RECORD = json.loads((GOLDEN / "resize.json").read_text(encoding="utf-8"))

sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))
target_sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "resize.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def as_given(size: int | list[int]) -> int | tuple[int, int]:
    return size if isinstance(size, int) else (size[0], size[1])


def noise(height: int, width: int) -> Image.Image:
    values = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["out"])
def test_pixels_are_the_reference_within_one_grey_level(case: Case, pixels: dict[str, np.ndarray]):
    resize = Resize(as_given(case["size"]), case["method"], case["pad_mode"])
    at_x, at_y = case["pcts"] or (0.5, 0.5)
    result = np.asarray(resize.placed(Image.fromarray(pixels[case["input"]]), at_x=at_x, at_y=at_y))
    assert list(result.shape[:2]) == case["out_hw"]
    assert np.abs(result.astype(int) - pixels[case["out"]].astype(int)).max() <= 1


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["out"])
def test_boxes_of_the_pixel_cases_are_exact(case: Case):
    check_box(case)


def test_boxes_are_the_reference_or_exact_where_that_loses_a_pixel():
    for case in RECORD["boxes"]:
        check_box(case)


def check_box(case: Case) -> None:
    resize = Resize(as_given(case["size"]), case["method"])
    width, height = case["input_wh"]
    at_x, at_y = case["pcts"] or (0.5, 0.5)
    left, top, right, bottom = resize.box((height, width), at_x=at_x, at_y=at_y)
    assert [right - left, bottom - top] == case.get("exact_crop_wh", case["crop_wh"])
    if "exact_crop_wh" not in case:
        assert [left, top] == case["crop_tl_xy"]


def test_no_side_loses_a_pixel_to_rounding():
    for case in RECORD["float_floor_examples"]:
        width, height = case["input_wh"]
        left, top, right, bottom = Resize(case["size"], case["method"]).box((height, width))
        assert (right - left, bottom - top) == (case["exact_crop"], case["exact_crop"])


def test_calling_it_centres():
    picture = noise(40, 50)
    assert Resize(24)(picture).tobytes() == Resize(24).centred(picture).tobytes()


def test_a_picture_of_the_right_size_is_unchanged():
    picture = noise(24, 32)
    assert Resize((24, 32)).centred(picture).tobytes() == picture.tobytes()
    assert Resize((24, 32)).strip(picture).tobytes() == picture.tobytes()


def test_strip_keeps_the_whole_long_side():
    assert Resize(100).strip(noise(200, 300)).size == (150, 100)
    assert Resize(100).strip(noise(300, 200)).size == (100, 150)
    assert Resize((100, 50)).strip(noise(200, 300)).size == (150, 100)
    assert Resize((50, 100)).strip(noise(30, 20)).size == (100, 150)


def test_strip_of_a_picture_of_the_right_shape_is_the_centred_picture():
    picture = noise(90, 120)
    resize = Resize((30, 40))
    assert resize.strip(picture).tobytes() == resize.centred(picture).tobytes()


@pytest.mark.parametrize("method", ["pad", "squish"])
def test_strip_of_methods_that_show_everything_is_the_centred_picture(method: ResizeMethod):
    picture = noise(30, 50)
    resize = Resize(24, method)
    assert resize.strip(picture).tobytes() == resize.centred(picture).tobytes()


def test_the_middle_of_a_strip_looks_like_the_centred_picture():
    ramp = np.linspace(0, 255, 300, dtype=np.uint8)[None, :, None]
    picture = Image.fromarray(np.broadcast_to(ramp, (100, 300, 3)).copy())
    resize = Resize(50)
    middle = window(np.asarray(resize.strip(picture)), size=resize.size, position=0.5)
    assert np.abs(middle.astype(int) - np.asarray(resize.centred(picture)).astype(int)).max() <= 2


@given(picture_size=sizes, target=target_sizes)
@settings(max_examples=40, deadline=None)
def test_strip_spans_the_window_one_way_and_is_bounded_the_other(picture_size: Size, target: Size):
    width, height = Resize(target).strip(Image.new("RGB", (picture_size[1], picture_size[0]))).size
    assert width == target[1] or height == target[0]
    assert target[0] <= height <= MAX_STRIP_WINDOWS * target[0]
    assert target[1] <= width <= MAX_STRIP_WINDOWS * target[1]


@given(picture_size=sizes, target=target_sizes, at=st.tuples(*[st.floats(0, 1)] * 2))
@settings(max_examples=60, deadline=None)
def test_crop_boxes_lie_inside_and_pad_boxes_around_the_picture(
    picture_size: Size, target: Size, at: tuple[float, float]
):
    height, width = picture_size
    left, top, right, bottom = Resize(target).box(picture_size, at_x=at[0], at_y=at[1])
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    left, top, right, bottom = Resize(target, "pad").box(picture_size, at_x=at[0], at_y=at[1])
    assert left <= 0 < width <= right
    assert top <= 0 < height <= bottom


@pytest.mark.parametrize("pad_mode", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("method", ["crop", "pad", "squish"])
@pytest.mark.parametrize("picture_size", [(1, 1), (10, 2000), (2000, 10), (1, 5000)])
def test_extreme_shapes_come_out_at_the_size(
    picture_size: Size, method: ResizeMethod, pad_mode: PadMode
):
    resize = Resize((20, 30), method, pad_mode)
    picture = Image.new("RGB", (picture_size[1], picture_size[0]), (10, 200, 30))
    assert resize.centred(picture).size == (30, 20)
    assert resize.strip(picture).width <= MAX_STRIP_WINDOWS * 30
    if pad_mode != "zeros":
        assert resize.centred(picture).getcolors() == [(600, (10, 200, 30))]


def test_padding_a_long_thin_picture_needs_no_square_of_its_length():
    picture = Image.new("RGB", (60_000, 10), (90, 90, 90))  # its square would take 10.8 GB
    assert Resize(32, "pad").centred(picture).getcolors() == [(1024, (90, 90, 90))]


def test_window_reaches_both_ends_and_takes_every_position():
    strip = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None], (4, 10, 3))
    starts = [int(window(strip, size=(4, 4), position=p)[0, 0, 0]) for p in np.arange(0, 1, 0.01)]
    assert set(starts) == set(range(7))
    assert starts[0] == 0
    assert starts[-1] == 6
    assert window(strip, size=(4, 4), position=0.999).shape == (4, 4, 3)


def test_unknown_words_are_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"method='stretch'\. Use one of crop, pad, squish"):
        Resize(24, "stretch")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(ConfigError, match="pad_mode='wrap'"):
        Resize(24, "pad", "wrap")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(ConfigError, match="positive"):
        Resize(0)


def test_equal_ones_are_equal_and_say_what_they_are():
    assert Resize(24) == Resize((24, 24))
    assert hash(Resize(24)) == hash(Resize((24, 24)))
    assert repr(Resize(24)) == "Resize(size=(24, 24), method='crop', pad_mode='reflection')"


@pytest.mark.parametrize("method", get_args(ResizeMethod))
@pytest.mark.parametrize("picture_size", [(60, 90), (90, 60), (24, 30), (10, 7), (4, 900)])
def test_pixels_are_those_of_the_strip_and_of_the_centred_picture(
    method: ResizeMethod, picture_size: Size
):
    resize, picture = Resize((24, 30), method), noise(*picture_size)
    for training, expected in ((True, resize.strip(picture)), (False, resize.centred(picture))):
        found = resize.pixels(picture, training=training)
        assert np.array_equal(found, np.asarray(expected))
