"""RandomResizedCrop, CropPad, RandomCrop, RatioResize: boxes and pixels against the reference's numbers, and hard sizes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vizsla.data.images.sizing import (
    NUM_TRIES,
    CropPad,
    RandomCrop,
    RandomResizedCrop,
    RatioResize,
    Resize,
)
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.types import Size

Case = dict[str, Any]

GOLDEN = Path(__file__).parents[2] / "golden"
RECORD = json.loads((GOLDEN / "crops.json").read_text(encoding="utf-8"))
TRAINING = [case for case in RECORD["random_resized_crop"] if case["split"] == "train"]
VALIDATION = [case for case in RECORD["random_resized_crop"] if case["split"] == "valid"]

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
unit = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "crops.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def as_given(size: int | list[int]) -> int | tuple[int, int]:
    return size if isinstance(size, int) else (size[0], size[1])


def noise(height: int, width: int) -> Image.Image:
    values = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def differs_by(left: Image.Image | np.ndarray, right: np.ndarray) -> int:
    found = np.asarray(left).astype(int)
    assert found.shape == right.shape
    return int(np.abs(found - right.astype(int)).max())


def draws(seed: int) -> list[float]:
    return np.random.default_rng(seed).random(2 * NUM_TRIES + 2).tolist()


# ── RandomResizedCrop ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", TRAINING, ids=lambda case: case["out"])
def test_the_size_of_the_part_is_the_references_for_the_same_draws(
    case: Case, pixels: dict[str, np.ndarray]
):
    # Areas and shapes are drawn in the reference's order; places come from another kind of draw, and are given below.
    chance = random.Random(case["python_random_seed"])
    crop = RandomResizedCrop(case["size"], min_scale=case["min_scale"])
    numbers = [chance.random() for _ in range(2 * NUM_TRIES)]
    height, width = pixels[case["input"]].shape[:2]
    left, top, right, bottom = crop.box((height, width), draws=[*numbers, 0.0, 0.0])
    # In the reference the places of a part that fits take from the same stream, but then no further try follows.
    assert [right - left, bottom - top] == case["cp_size_wh"]


@pytest.mark.parametrize("case", TRAINING, ids=lambda case: case["out"])
def test_pixels_of_a_part_are_the_reference_within_one_grey_level(
    case: Case, pixels: dict[str, np.ndarray]
):
    (left, top), (width, height) = case["tl_xy"], case["cp_size_wh"]
    picture = Image.fromarray(pixels[case["input"]])
    result = RandomResizedCrop(case["size"]).scaled(
        picture, (left, top, left + width, top + height)
    )
    assert differs_by(result, pixels[case["out"]]) <= 1


def test_a_picture_that_no_part_fits_gives_its_middle_as_the_reference_does():
    crop = RandomResizedCrop(24, min_scale=0.35)
    assert crop.box((30, 200), draws=draws(0)) == (80, 0, 120, 30)
    assert crop.box((200, 30), draws=draws(0)) == (0, 80, 30, 120)


@pytest.mark.parametrize("case", VALIDATION, ids=lambda case: case["out"])
def test_validation_differs_from_the_reference_by_the_shape_alone(
    case: Case, pixels: dict[str, np.ndarray]
):
    # On purpose: the reference squashes the whole picture into a square before it cuts the edge off, so validation shows
    # shapes that training, which keeps them within 3:4 to 4:3, has not seen. Ours keeps the shape of the picture. Squashed
    # beforehand, the picture gives the reference's pixels: size of the margin and place of the cut are the same.
    crop = RandomResizedCrop(case["size"])
    assert list(crop.valid_size) == case["final_size_wh"]
    picture = Image.fromarray(pixels[case["input"]])
    squashed = Resize(crop.valid_size, "squish").centred(picture)
    assert differs_by(crop.centred(squashed), pixels[case["out"]]) <= 1
    assert differs_by(crop.centred(picture), pixels[case["out"]]) > 1


def test_validation_of_224_is_cut_out_of_256():
    assert RandomResizedCrop(224).valid_size == (256, 256)
    assert RandomResizedCrop((100, 200), val_xtra=0).valid_size == (100, 200)


def test_validation_keeps_circles_round():
    picture = Image.new("RGB", (400, 200), "white")
    picture.paste((0, 0, 0), (150, 50, 250, 150))
    black = np.asarray(RandomResizedCrop(64).centred(picture))[..., 0] < 128
    assert abs(int(black.any(0).sum()) - int(black.any(1).sum())) <= 1


@given(picture_size=sizes, seed=st.integers(0, 99), min_scale=st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_random_parts_lie_inside_and_keep_to_area_and_shape(
    picture_size: Size, seed: int, min_scale: float
):
    crop = RandomResizedCrop(16, min_scale=min_scale)
    left, top, right, bottom = crop.box(picture_size, draws=draws(seed))
    assert 0 <= left < right <= picture_size[1]
    assert 0 <= top < bottom <= picture_size[0]
    width, height = right - left, bottom - top
    assert (width + 0.5) / max(0.5, height - 0.5) >= 3 / 4  # half a pixel for rounding
    assert max(0.5, width - 1) / (height + 0.5) <= 4 / 3


def test_areas_and_places_are_spread_evenly():
    crop = RandomResizedCrop(32, min_scale=0.25)
    boxes = np.array([crop.box((400, 400), draws=draws(seed)) for seed in range(2000)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 160_000
    assert 0.24 < shares.min() < 0.27
    assert (
        0.55 < shares.mean() < 0.62
    )  # 0.625 if every part fitted; large ones are turned away more often
    middles = (boxes[:, 0] + boxes[:, 2]) / 2
    assert abs(middles.mean() - 200) < 5


@pytest.mark.parametrize("picture_size", [(1, 1), (10, 20_000), (20_000, 10), (3, 2)])
def test_extreme_shapes_come_out_at_the_size(picture_size: Size):
    picture = Image.new("RGB", (picture_size[1], picture_size[0]), (10, 200, 30))
    for transform in (RandomResizedCrop((20, 30)), RandomCrop((20, 30)), CropPad((20, 30))):
        assert transform(picture).size == (30, 20)
        strip = np.asarray(transform.strip(picture))
        assert transform.window(strip, draws=draws(1)).shape == (20, 30, 3)
    assert max(RatioResize(24)(picture).size) == 24


def test_what_training_keeps_has_pixels_enough_for_the_smallest_part():
    crop = RandomResizedCrop(32, min_scale=0.25)
    assert crop.cover(training=True) == (64, 64)
    assert crop.strip(noise(300, 400)).size == (100, 75)
    assert crop.strip(noise(100, 120)).size == (120, 100)
    assert crop.cover(training=False) == (40, 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_scale": 0}, "min_scale=0,"),
        ({"min_scale": 0.5, "max_scale": 0.2}, "max_scale=0.2"),
        ({"ratio": (2, 1)}, r"ratio is .* Received: \(2, 1\)"),
        ({"val_xtra": -1}, "val_xtra is a share"),
        ({"size": 0}, "positive"),
    ],
)
def test_random_resized_crop_refuses_what_cannot_work(arguments: Case, message: str):
    with pytest.raises(ConfigError, match=message):
        RandomResizedCrop(**{"size": 24, **arguments})  # pyright: ignore[reportArgumentType]  values of many types


# ── the others ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", RECORD["misc"], ids=lambda case: case["out"])
def test_cuts_and_ratio_resize_are_the_reference_within_one_grey_level(
    case: Case, pixels: dict[str, np.ndarray]
):
    transforms = {
        "CropPad": lambda: CropPad(as_given(case["size"]), case["pad_mode"]),
        "RatioResize": lambda: RatioResize(case["max_sz"]),
        "RandomCrop": lambda: RandomCrop(case["size"]),
    }
    transform = transforms[case["tfm"]]()
    result = transform.centred(Image.fromarray(pixels[case["input"]]))
    assert differs_by(result, pixels[case["out"]]) <= (0 if case["tfm"] != "RatioResize" else 1)


def test_crop_pad_is_the_same_in_training():
    picture = noise(40, 50)
    for pad_mode in ("zeros", "border", "reflection"):
        transform = CropPad((30, 60), pad_mode)
        strip = np.asarray(transform.strip(picture))
        assert np.array_equal(transform.window(strip, draws=()), np.asarray(transform(picture)))


def test_crop_pad_pads_with_what_it_says():
    picture = Image.fromarray(np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2))
    rows = {
        pad_mode: np.asarray(CropPad((1, 8), pad_mode)(picture))[0, :, 0].tolist()
        for pad_mode in ("zeros", "border", "reflection")
    }
    assert rows == {
        "zeros": [0, 0, 0, 1, 2, 3, 0, 0],
        "border": [0, 0, 0, 1, 2, 3, 3, 3],
        "reflection": [2, 1, 0, 1, 2, 3, 2, 1],
    }


@given(picture_size=sizes, at=st.tuples(unit, unit))
@settings(max_examples=40, deadline=None)
def test_random_crop_takes_a_slice_of_the_picture_or_pads_it(
    picture_size: Size, at: tuple[float, float]
):
    transform = RandomCrop((20, 30))
    picture = noise(*picture_size)
    strip = np.asarray(transform.strip(picture))
    view = transform.window(strip, draws=at)
    assert view.shape == (20, 30, 3)
    if picture_size[0] >= 20 and picture_size[1] >= 30:
        assert np.array_equal(strip, np.asarray(picture))


def test_random_crop_reaches_every_corner():
    transform = RandomCrop(2)
    strip = np.asarray(transform.strip(noise(4, 5)))
    assert np.array_equal(transform.window(strip, draws=(0, 0)), strip[:2, :2])
    assert np.array_equal(transform.window(strip, draws=(0.999, 0.999)), strip[2:, 3:])


def test_crop_pad_and_ratio_resize_refuse_what_cannot_work():
    with pytest.raises(
        ConfigError, match=r"pad_mode='wrap'\. Use one of reflection, border, zeros"
    ):
        CropPad(24, "wrap")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(ConfigError, match="positive"):
        RatioResize(0)


def test_equal_ones_are_equal_and_say_what_they_are():
    assert RandomCrop(24) == RandomCrop((24, 24))
    assert repr(CropPad(24)) == "CropPad(size=(24, 24), pad_mode='zeros')"
    assert repr(RandomResizedCrop(24, ratio=(1, 1))) == (
        "RandomResizedCrop(size=(24, 24), min_scale=0.08, ratio=(1.0, 1.0), val_xtra=0.14, max_scale=1.0)"
    )
