"""Resize, RandomResizedCrop, CropPad, RandomCrop, RatioResize: the reference's boxes and pixels, hard sizes; resampling."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vizsla import ConfigError, CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize
from vizsla.data.images import (
    MAX_STRIP_WINDOWS,
    NUM_TRIES,
    PadMode,
    ResizeMethod,
    Sizing,
    decode_image,
    resize,
    window_box,
)
from vizsla.data.images import sizing as sizing_module
from vizsla.types import Size

Case = dict[str, Any]

GOLDEN = Path(__file__).parents[2] / "golden"
RESIZES = json.loads((GOLDEN / "resize.json").read_text(encoding="utf-8"))
CROPS = json.loads((GOLDEN / "crops.json").read_text(encoding="utf-8"))

sides = st.tuples(st.integers(1, 300), st.integers(1, 300))
target_sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))
unit = st.floats(0, 1, exclude_max=True)


def golden_pixels(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


def as_given(size: int | list[int]) -> int | tuple[int, int]:
    return size if isinstance(size, int) else (size[0], size[1])


def noise(height: int, width: int, *, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def blank(size: Size, colour: tuple[int, int, int] = (10, 200, 30)) -> Image.Image:
    return Image.new("RGB", (size[1], size[0]), colour)


def centred(sizing: Sizing, image: Image.Image) -> Image.Image:
    return Image.fromarray(sizing.presize(image, training=False))


def strip(sizing: Sizing, image: Image.Image) -> Image.Image:
    return Image.fromarray(sizing.presize(image, training=True))


def differs_by(left: Image.Image | np.ndarray, right: Image.Image | np.ndarray) -> int:
    found, expected = np.asarray(left).astype(int), np.asarray(right).astype(int)
    assert found.shape == expected.shape
    return int(np.abs(found - expected).max())


def draws_of(seed: int) -> list[float]:
    return np.random.default_rng(seed).random(2 * NUM_TRIES + 2).tolist()


# ── Resize ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pixels_match_the_reference_within_one_grey_level():
    pixels = golden_pixels("resize.npz")
    for case in RESIZES["cases"]:
        sizing = Resize(as_given(case["size"]), case["method"], case["pad_mode"])
        at_x, at_y = case["pcts"] or (0.5, 0.5)
        result = sizing.placed(Image.fromarray(pixels[case["input"]]), at_x=at_x, at_y=at_y)
        assert list(result.shape[:2]) == case["out_hw"], case["out"]
        assert differs_by(result, pixels[case["out"]]) <= 1, case["out"]


def test_boxes_match_the_reference_or_are_more_exact():
    for case in (*RESIZES["cases"], *RESIZES["boxes"]):
        sizing = Resize(as_given(case["size"]), case["method"])
        width, height = case["input_wh"]
        at_x, at_y = case["pcts"] or (0.5, 0.5)
        left, top, right, bottom = sizing.box((height, width), at_x=at_x, at_y=at_y)
        assert [right - left, bottom - top] == case.get("exact_crop_wh", case["crop_wh"])
        if "exact_crop_wh" not in case:
            assert [left, top] == case["crop_tl_xy"]
    for case in RESIZES["float_floor_examples"]:
        width, height = case["input_wh"]
        left, top, right, bottom = Resize(case["size"], case["method"]).box((height, width))
        assert (right - left, bottom - top) == (case["exact_crop"], case["exact_crop"])


def test_a_strip_keeps_the_whole_long_side():
    assert strip(Resize(100), noise(200, 300)).size == (150, 100)
    assert strip(Resize(100), noise(300, 200)).size == (100, 150)
    assert strip(Resize((100, 50)), noise(200, 300)).size == (150, 100)
    assert strip(Resize((50, 100)), noise(30, 20)).size == (100, 150)


def test_a_strip_may_be_the_centred_image():
    image = noise(30, 50)
    for sizing in (Resize((30, 50)), Resize(24, "pad"), Resize(24, "squish")):
        assert strip(sizing, image).tobytes() == centred(sizing, image).tobytes()
    assert centred(Resize((30, 50)), image).tobytes() == image.tobytes()


def test_the_middle_of_a_strip_looks_like_the_centred_image():
    ramp = np.linspace(0, 255, 300, dtype=np.uint8)[None, :, None]
    image = Image.fromarray(np.broadcast_to(ramp, (100, 300, 3)).copy())
    middle = Resize(50).view(np.asarray(strip(Resize(50), image)), draws=[0.5])
    assert differs_by(middle, centred(Resize(50), image)) <= 2


@given(image_size=sides, target=target_sizes)
@settings(max_examples=40)
def test_strip_spans_the_window_one_way_and_is_bounded_the_other(image_size: Size, target: Size):
    width, height = strip(Resize(target), blank(image_size)).size
    assert width == target[1] or height == target[0]
    assert target[0] <= height <= MAX_STRIP_WINDOWS * target[0]
    assert target[1] <= width <= MAX_STRIP_WINDOWS * target[1]


@given(image_size=sides, target=target_sizes, at=st.tuples(*[st.floats(0, 1)] * 2))
@settings(max_examples=60)
def test_crops_lie_inside_and_pads_around_the_image(image_size: Size, target: Size, at):
    height, width = image_size
    left, top, right, bottom = Resize(target).box(image_size, at_x=at[0], at_y=at[1])
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    left, top, right, bottom = Resize(target, "pad").box(image_size, at_x=at[0], at_y=at[1])
    assert left <= 0 < width <= right
    assert top <= 0 < height <= bottom


@pytest.mark.parametrize("method", get_args(ResizeMethod))
def test_extreme_shapes_come_out_at_the_size(method: ResizeMethod):
    for pad_mode in get_args(PadMode):
        sizing = Resize((20, 30), method, pad_mode)
        for image_size in ((1, 1), (10, 2000), (2000, 10), (1, 5000)):
            image = blank(image_size)
            assert centred(sizing, image).size == (30, 20)
            assert strip(sizing, image).width <= MAX_STRIP_WINDOWS * 30
            if pad_mode != "zeros":
                assert centred(sizing, image).getcolors() == [(600, (10, 200, 30))]


def test_padding_a_long_thin_image_takes_little_memory():
    image = blank((10, 60_000), (90, 90, 90))  # its square would take 10.8 GB
    assert centred(Resize(32, "pad"), image).getcolors() == [(1024, (90, 90, 90))]


@pytest.mark.parametrize("method", get_args(ResizeMethod))
def test_an_array_is_presized_as_the_image_is(method: ResizeMethod):
    sizing = Resize((24, 30), method)
    for image_size in ((60, 90), (90, 60), (24, 30), (10, 7), (4, 900)):
        image = noise(*image_size)
        for training in (True, False):
            found = sizing.presize_pixels(np.array(image), training=training)
            assert np.array_equal(found, sizing.presize(image, training=training))


def test_window_reaches_both_ends_and_takes_every_position():
    boxes = [window_box((4, 10), (4, 4), x=at, y=at) for at in np.arange(0, 1, 0.01)]
    assert {left for left, _, _, _ in boxes} == set(range(7))
    assert (boxes[0], boxes[-1]) == ((0, 0, 4, 4), (6, 0, 10, 4))


# ── RandomResizedCrop ─────────────────────────────────────────────────────────────────────────────────────────────────


def random_resized(split: str) -> Iterable[Case]:
    return [case for case in CROPS["random_resized_crop"] if case["split"] == split]


def test_random_parts_are_those_of_the_reference_for_the_same_draws():
    pixels = golden_pixels("crops.npz")
    for case in random_resized("train"):
        # Areas and shapes are drawn in the reference's order; places are drawn differently, and given below.
        chance = random.Random(case["python_random_seed"])
        crop = RandomResizedCrop(case["size"], min_scale=case["min_scale"])
        numbers = [chance.random() for _ in range(2 * NUM_TRIES)]
        image = Image.fromarray(pixels[case["input"]])
        left, top, right, bottom = crop.part((image.height, image.width), [*numbers, 0.0, 0.0])
        # The reference draws the place of a part that fits from the same stream, but no further try follows.
        assert [right - left, bottom - top] == case["cp_size_wh"]
        (left, top), (width, height) = case["tl_xy"], case["cp_size_wh"]
        part = image.crop((left, top, left + width, top + height))
        assert differs_by(resize(part, size=crop.size), pixels[case["out"]]) <= 1


def test_the_middle_is_taken_if_no_part_fits():
    crop = RandomResizedCrop(24, min_scale=0.35)
    assert crop.part((30, 200), draws_of(0)) == (80, 0, 120, 30)
    assert crop.part((200, 30), draws_of(0)) == (0, 80, 30, 120)


def test_validation_keeps_the_shape_unlike_the_reference():
    # On purpose: the reference squashes the whole image into a square before it cuts the edge off, so validation shows
    # shapes that training, which keeps them within 3:4 to 4:3, has not seen. Ours keeps the shape of the image. Squashed
    # beforehand, the image gives the reference's pixels: size of the margin and place of the cut are the same.
    pixels = golden_pixels("crops.npz")
    for case in random_resized("valid"):
        crop = RandomResizedCrop(case["size"])
        assert list(crop.valid_size) == case["final_size_wh"]
        image = Image.fromarray(pixels[case["input"]])
        squashed = centred(Resize(crop.valid_size, "squish"), image)
        assert differs_by(centred(crop, squashed), pixels[case["out"]]) <= 1
        assert differs_by(centred(crop, image), pixels[case["out"]]) > 1
    assert RandomResizedCrop(224).valid_size == (256, 256)
    assert RandomResizedCrop((100, 200), val_xtra=0).valid_size == (100, 200)


def test_validation_keeps_circles_round():
    image = Image.new("RGB", (400, 200), "white")
    image.paste((0, 0, 0), (150, 50, 250, 150))
    black = np.asarray(centred(RandomResizedCrop(64), image))[..., 0] < 128
    assert abs(int(black.any(0).sum()) - int(black.any(1).sum())) <= 1


@given(image_size=sides, seed=st.integers(0, 99), min_scale=st.floats(0.01, 1))
@settings(max_examples=80)
def test_random_parts_lie_inside_and_keep_the_shape(image_size: Size, seed: int, min_scale: float):
    crop = RandomResizedCrop(16, min_scale=min_scale)
    left, top, right, bottom = crop.part(image_size, draws_of(seed))
    assert 0 <= left < right <= image_size[1]
    assert 0 <= top < bottom <= image_size[0]
    width, height = right - left, bottom - top
    assert (width + 0.5) / max(0.5, height - 0.5) >= 3 / 4  # half a pixel for rounding
    assert max(0.5, width - 1) / (height + 0.5) <= 4 / 3


def test_areas_and_places_are_spread_evenly():
    crop = RandomResizedCrop(32, min_scale=0.25)
    boxes = np.array([crop.part((400, 400), draws_of(seed)) for seed in range(2000)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 160_000
    assert 0.24 < shares.min() < 0.27
    # 0.625 if every part fitted; large ones are rejected more often.
    assert 0.55 < shares.mean() < 0.62
    middles = (boxes[:, 0] + boxes[:, 2]) / 2
    assert abs(middles.mean() - 200) < 5


def test_training_keeps_enough_pixels_for_the_smallest_part():
    crop = RandomResizedCrop(32, min_scale=0.25)
    assert crop.cover(training=True) == (64, 64)
    assert strip(crop, noise(300, 400)).size == (100, 75)
    assert strip(crop, noise(100, 120)).size == (120, 100)
    assert crop.cover(training=False) == (120, 120)


def test_a_jpeg_decoded_at_a_scale_is_as_sharp_as_in_full():
    stream = BytesIO()
    noise(60, 75).resize((1000, 800)).save(stream, "JPEG", quality=95)
    in_full = Resize(48).presize(decode_image(stream.getvalue()), training=False).astype(int)

    def apart(sizing: Resize) -> float:
        decoded = decode_image(stream.getvalue(), cover=sizing.cover(training=False))
        assert decoded.width < 1000
        return float(np.abs(sizing.presize(decoded, training=False) - in_full).mean())

    assert apart(Resize(48)) < 1 < apart(Resize(48, reducing_gap=1))
    with pytest.raises(ConfigError, match="reducing_gap"):
        Resize(48, reducing_gap=0.5)


# ── the others ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cuts_and_ratio_resize_are_the_reference_within_one_grey_level():
    pixels = golden_pixels("crops.npz")
    for case in CROPS["misc"]:
        made = {
            "CropPad": lambda case=case: CropPad(as_given(case["size"]), case["pad_mode"]),
            "RatioResize": lambda case=case: RatioResize(case["max_sz"]),
            "RandomCrop": lambda case=case: RandomCrop(case["size"]),
        }
        sizing: Sizing = made[case["tfm"]]()
        result = centred(sizing, Image.fromarray(pixels[case["input"]]))
        most = 1 if case["tfm"] == "RatioResize" else 0
        assert differs_by(result, pixels[case["out"]]) <= most, case["out"]


def test_calling_a_sizing_shows_what_validation_sees():
    image = noise(40, 50)
    for sizing in (Resize(24), RandomResizedCrop(24), CropPad(24), RandomCrop(24), RatioResize(24)):
        assert sizing(image).tobytes() == centred(sizing, image).tobytes()


@pytest.mark.parametrize("image_size", [(1, 1), (10, 20_000), (20_000, 10), (3, 2)])
def test_extreme_shapes_are_cut_to_the_size(image_size: Size):
    for sizing in (RandomResizedCrop((20, 30)), RandomCrop((20, 30)), CropPad((20, 30))):
        assert centred(sizing, blank(image_size)).size == (30, 20)
        kept = sizing.presize(blank(image_size), training=True)
        assert sizing.view(kept, draws=draws_of(1)).shape == (20, 30, 3)
    assert max(centred(RatioResize(24), blank(image_size)).size) == 24


def test_crop_pad_pads_the_same_in_training():
    ramp = Image.fromarray(np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2))
    rows: dict[PadMode, list[int]] = {
        "zeros": [0, 0, 0, 1, 2, 3, 0, 0],
        "border": [0, 0, 0, 1, 2, 3, 3, 3],
        "reflection": [2, 1, 0, 1, 2, 3, 2, 1],
    }
    for pad_mode, expected in rows.items():
        sizing = CropPad((1, 8), pad_mode)
        assert np.asarray(sizing(ramp))[0, :, 0].tolist() == expected
        kept = sizing.presize(ramp, training=True)
        assert np.array_equal(sizing.view(kept, draws=()), np.asarray(sizing(ramp)))


@given(image_size=sides, at=st.tuples(unit, unit))
@settings(max_examples=40)
def test_random_crop_takes_a_slice_of_the_image_or_pads_it(image_size: Size, at):
    sizing, image = RandomCrop((20, 30)), noise(*image_size)
    kept = sizing.presize(image, training=True)
    assert sizing.view(kept, draws=at).shape == (20, 30, 3)
    if image_size[0] >= 20 and image_size[1] >= 30:
        assert np.array_equal(kept, np.asarray(image))


def test_random_crop_reaches_every_corner():
    kept = RandomCrop(2).presize(noise(4, 5), training=True)
    assert np.array_equal(RandomCrop(2).view(kept, draws=(0, 0)), kept[:2, :2])
    assert np.array_equal(RandomCrop(2).view(kept, draws=(0.999, 0.999)), kept[2:, 3:])


WRONG: list[tuple[Callable[[], object], list[str]]] = [
    (lambda: Resize(24, "stretch"), ["method='stretch'", "crop, pad, squish"]),  # pyright: ignore[reportArgumentType]
    (lambda: Resize(24, "pad", "wrap"), ["pad_mode='wrap'"]),  # pyright: ignore[reportArgumentType]
    (lambda: Resize(0), ["positive"]),
    (lambda: CropPad(24, "wrap"), ["pad_mode='wrap'", "reflection, border, zeros"]),  # pyright: ignore[reportArgumentType]
    (lambda: RatioResize(0), ["positive"]),
    (lambda: RandomResizedCrop(24, min_scale=0), ["min_scale=0,"]),
    (lambda: RandomResizedCrop(24, min_scale=0.5, max_scale=0.2), ["max_scale=0.2"]),
    (lambda: RandomResizedCrop(24, ratio=(2, 1)), ["ratio", "(2, 1)"]),
    (lambda: RandomResizedCrop(24, val_xtra=-1), ["val_xtra"]),
    (lambda: RandomResizedCrop(0), ["positive"]),
]


def test_impossible_options_are_refused():
    for make, facts in WRONG:
        with pytest.raises(ConfigError) as caught:
            make()
        assert [fact for fact in facts if fact not in str(caught.value)] == []


def test_sizings_are_values_whose_repr_stays():
    # The repr is part of the keys of cached images.
    assert Resize(24) == Resize((24, 24))
    assert hash(Resize(24)) == hash(Resize((24, 24)))
    assert RandomCrop(24) == RandomCrop((24, 24))
    assert (
        repr(Resize(24))
        == "Resize(size=(24, 24), method='crop', pad_mode='reflection', reducing_gap=3.0)"
    )
    assert repr(CropPad(24)) == "CropPad(size=(24, 24), pad_mode='zeros')"
    assert repr(RatioResize(24)) == "RatioResize(max_sz=24)"
    assert repr(RandomResizedCrop(24, ratio=(1, 1))) == (
        "RandomResizedCrop(size=(24, 24), min_scale=0.08, ratio=(1.0, 1.0), val_xtra=0.14, max_scale=1.0)"
    )


# ── resampling ────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_pillow(pixels: np.ndarray, size: Size) -> np.ndarray:
    # Pillow 13 begins with the columns where it is faster; one axis at a time is the same in all versions.
    rows = Image.fromarray(pixels).resize((size[1], len(pixels)), Image.Resampling.BILINEAR)
    return np.asarray(rows.resize((size[1], size[0]), Image.Resampling.BILINEAR)).astype(int)


def differences(image: Image.Image, size: Size) -> list[np.ndarray]:
    expected = by_pillow(np.asarray(image), size)
    return [np.abs(resize(one, size=size) - expected) for one in (np.array(image), image)]


@settings(max_examples=60)
@given(source=sides, size=sides, seed=st.integers(0, 99))
@example(source=(42, 258), size=(129, 300), seed=81)  # one value of 116,100 differs by two
@example(source=(48, 40), size=(30, 48), seed=0)  # columns first, in Pillow 13
def test_values_are_nearly_always_within_one_of_pillows(source: Size, size: Size, seed: int):
    image = noise(*source, seed=seed)
    for difference in differences(image, size):
        assert difference.max() <= 2
        assert (difference == 2).sum() <= max(1, difference.size / 10_000)
    expected = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    assert differs_by(resize(image, size=size), expected) <= 2
    # Resized in one direction, there is only one rounding.
    for one_way in ((size[0], source[1]), (source[0], size[1])):
        assert max(difference.max() for difference in differences(image, one_way)) <= 1


@given(source=sides, size=sides, value=st.integers(0, 255))
def test_an_image_of_one_colour_keeps_it(source: Size, size: Size, value: int):
    pixels = np.full((*source, 3), value, dtype=np.uint8)
    assert (resize(pixels, size=size) == value).all()


def test_the_same_size_gives_a_copy():
    pixels = np.array(noise(20, 30))
    found = resize(pixels, size=(20, 30))
    assert np.array_equal(found, pixels)
    assert not np.shares_memory(found, pixels)


def test_a_read_only_part_of_an_image_is_resized():
    pixels = np.array(noise(40, 50))
    pixels.setflags(write=False)
    part = pixels[3:33, 10:45]
    before = part.copy()
    found = resize(part, size=(10, 12))
    assert found.flags.c_contiguous
    assert differs_by(found, by_pillow(before, (10, 12))) <= 1
    assert np.array_equal(part, before)


def test_large_images_and_slow_machines_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch):
    large = noise(2**11 + 1, 2**11)
    assert differs_by(resize(large, size=(9, 8)), by_pillow(np.asarray(large), (9, 8))) == 0
    monkeypatch.setattr(sizing_module, "resampler", lambda: "Pillow")
    image = noise(75, 100)
    for found in (resize(np.array(image), size=(23, 31)), resize(image, size=(23, 31))):
        assert differs_by(found, by_pillow(np.asarray(image), (23, 31))) == 0
