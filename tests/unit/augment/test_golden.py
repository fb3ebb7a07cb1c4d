"""Geometry and colour against images recorded from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vizsla import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    Hue,
    Normalize,
    RandomResizedCropGPU,
    Rotate,
    Saturation,
    Warp,
    Zoom,
)
from vizsla.augment import (
    BatchAugmentation,
    BatchTransform,
    Draws,
    augment_images,
    crop_matrix,
    prefilter_sizes,
    warp_images,
)
from vizsla.augment.kernels import _hue_parts
from vizsla.types import as_size

Golden = Mapping[str, dict[str, Any]]

GEOMETRY_TOLERANCE = 2e-4
COLOUR_TOLERANCE = 1e-4

BOOK = [
    Rotate(p=1, draw=30),
    Zoom(p=1, draw=1.2, draw_x=0.5, draw_y=0.5),
    Warp(p=1, draw_x=-0.2, draw_y=0.2),
]
STACK = [
    Flip(p=1, draw=[1, 0]),
    Warp(p=1, draw_x=[0.2, -0.1], draw_y=[-0.05, 0.2]),
    Rotate(p=1, draw=[10, -7]),
    Zoom(p=1, draw=[1.1, 1.05], draw_x=[0.25, 0.6], draw_y=[0.5, 0.9]),
]
GEOMETRY: dict[str, list[Any]] = {
    "coord_": [],
    "flip_": [Flip(p=1, draw=[1, 0])],
    "rotate_": [Rotate(p=1, draw=[30, -15])],
    "zoom_": [Zoom(p=1, draw=[1.2, 1.5], draw_x=[0.3, 0.5], draw_y=[0.7, 0.5])],
    "zoomout_": [Zoom(0.5, p=1, draw=[0.8, 0.9], draw_x=[0.5, 0.2], draw_y=[0.5, 0.9])],
    "warp_": [Warp(p=1, draw_x=[-0.2, 0.1], draw_y=[0.2, 0.15])],
    "default_stack_": STACK,
    "book_single": BOOK,
    "dihedral_": [Dihedral(p=1, draw=list(range(8)))],
    "coord_x96_24_zoom2.5": [Zoom(p=1, draw=2.5, draw_x=0.5, draw_y=0.5)],
    "coord_x96_24_zoom1.2": [Zoom(p=1, draw=1.2, draw_x=0.5, draw_y=0.5)],
    "rotate30_zeros": [Rotate(p=1, draw=30, pad_mode="zeros")],
    "rotate30_border": [Rotate(p=1, draw=30, pad_mode="border")],
    "rotate30_reflection": [Rotate(p=1, draw=30)],
    "warp_x32_none_xonly": [Warp(p=1, draw_x=0.2, draw_y=0)],
}
"""By how the name of a case begins; the longest counts."""


def training_map(transforms: Sequence[BatchTransform], case: dict[str, Any]) -> torch.Tensor:
    draws = Draws(seed=0, epoch=0, rows=torch.arange(len(case["images"])))
    source_size = case["images"].shape[-2:]
    return BatchAugmentation(transforms).training_map(draws, source_size=source_size)


def size_of(case: dict[str, Any]) -> tuple[int, int]:
    height, width = case["expected"].shape[-2:]
    return height, width


def check(
    found: torch.Tensor, case: dict[str, Any], *, tolerance: float = GEOMETRY_TOLERANCE
) -> None:
    torch.testing.assert_close(
        found, case["expected"], atol=tolerance, rtol=0, msg=lambda text: f"{case['out']}: {text}"
    )


def test_geometry_equals_the_reference(golden: Golden):
    num_cases = 0
    for name, case in golden.items():
        kinds = [kind for kind in GEOMETRY if name.startswith(kind)]
        if not kinds:
            continue
        num_cases += 1
        transforms = GEOMETRY[max(kinds, key=len)]
        sampling = BatchAugmentation(transforms).sampling
        warp = training_map(transforms, case)
        found = augment_images(case["images"], warp=warp, size=size_of(case), sampling=sampling)
        check(found, case)
        if transforms is STACK:
            expected = torch.tensor(case["source_from_output_3x3"], dtype=torch.float64)
            torch.testing.assert_close(warp, expected, atol=1e-6, rtol=0)
    assert num_cases == 35


def fused_map(case: dict[str, Any]) -> torch.Tensor:
    box = torch.tensor([[*case["tl_yx"], *case["crop_hw"]]])
    crop = crop_matrix(box, source_size=case["images"].shape[-2:])
    return training_map(STACK, case) @ crop


def test_a_crop_folds_into_the_map(golden: Golden):
    case = golden["presize_fused_reference"]
    warp = fused_map(case)
    expected = torch.tensor(case["source_from_output_3x3"], dtype=torch.float64)
    torch.testing.assert_close(warp, expected, atol=1e-6, rtol=0)
    found = warp_images(case["images"], warp=warp, size=size_of(case))
    torch.testing.assert_close(found, case["expected"], atol=GEOMETRY_TOLERANCE, rtol=0)


def test_one_interpolation_is_close_to_the_two_of_the_reference(golden: Golden):
    case = golden["presize_fastai_two_interp"]
    found = augment_images(case["images"], warp=fused_map(case), size=size_of(case))
    difference = (found - case["expected"]).abs()
    assert float(difference.mean()) < 0.0036
    assert float(difference.max()) < 0.03


def window_map(case: dict[str, Any]) -> torch.Tensor:
    boxes = torch.tensor([[*case["tl_yx"], *case["crop_hw"]]] * len(case["images"]))
    return crop_matrix(boxes, source_size=case["images"].shape[-2:])


def test_a_window_is_cut_and_resized_as_in_the_reference(golden: Golden):
    for name in ("rrcgpu_x32_2_2_28x28_24", "rrcgpu_x32_8_8_12x12_24", "rrcgpu_x46_3_5_40x40_22"):
        case = golden[name]
        check(augment_images(case["images"], warp=window_map(case), size=size_of(case)), case)


def test_a_window_that_shrinks_by_less_than_2_is_not_filtered(golden: Golden):
    # On purpose: the reference compares the input height with the output width, 46 to 22, and filters a window whose width
    # of 40 shrinks by less than 2.
    case = golden["rrcgpu_x46_0_6_46x40_22"]
    warp, images = window_map(case), case["images"]
    found = augment_images(images, warp=warp, size=(22, 22))
    torch.testing.assert_close(found, warp_images(images, warp=warp, size=(22, 22)))
    assert 0.01 < float((found - case["expected"]).abs().mean()) < 0.02


def test_a_window_is_filtered_with_its_surroundings(golden: Golden):
    # On purpose: the reference cuts the window first and averages 50 x 60 pixels to 48 x 57. Here the window is part of the map, so the
    # whole image is averaged, to twice the output: a little more filter, and no second resampling.
    case = golden["rrcgpu_x64_10_4_50x60_24"]
    warp = window_map(case)
    assert prefilter_sizes(warp, source_size=(64, 64), size=(24, 24)) == [(48, 48)] * 2
    found = augment_images(case["images"], warp=warp, size=(24, 24))
    assert float((found - case["expected"]).abs().mean()) < 0.01


def test_validation_takes_the_middle_as_the_reference_does(golden: Golden):
    cases = [golden[name] for name in golden if name.startswith("rrcgpu_valid_")]
    assert len(cases) == 4
    for case in cases:
        crop = BatchAugmentation([RandomResizedCropGPU(as_size(case["size"]), **case["kwargs"])])
        images = case["images"]
        warp = crop.validation_map(len(images), source_size=images.shape[-2:])
        assert crop.size == size_of(case)
        check(augment_images(images, warp=warp, size=size_of(case)), case)


COLOURS = {"brightness": Brightness, "contrast": Contrast, "saturation": Saturation, "hue": Hue}


def test_colour_equals_the_reference(golden: Golden):
    cases = [golden[name] for name in golden if name.startswith("light_")]
    assert len(cases) == 8
    for case in cases:
        images = case["images"]
        parts = [COLOURS[kind](p=1, draw=draw) for kind, draw in case["draws"].items()]
        draws = Draws(seed=0, epoch=0, rows=torch.arange(len(images)))
        found = augment_images(
            images,
            warp=torch.eye(3, dtype=torch.float64).repeat(len(images), 1, 1),
            size=images.shape[-2:],
            colour=BatchAugmentation(parts).colour_step(draws),
        )
        check(found, case, tolerance=COLOUR_TOLERANCE)


def test_hue_saturation_and_value_equal_the_reference(golden: Golden):
    case = golden["hsv"]
    value, chroma, sixths = _hue_parts(case["images"])
    found = torch.cat([(sixths / 6) % 1, chroma / value, value], dim=1)
    # The hue of a near-grey magnifies the rounding of the recorded input, 2**-17.
    torch.testing.assert_close(found, case["expected"], atol=2 * COLOUR_TOLERANCE, rtol=0)


def test_normalize_called_on_images_equals_the_reference(golden: Golden):
    case = golden["normalize_imagenet"]
    normalize = Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = normalize(case["images"])
    # Recorded as (value + 3) / 6 in steps of 1e-4.
    torch.testing.assert_close(found, case["expected"] * 6 - 3, atol=2e-4, rtol=0)
    torch.testing.assert_close(normalize.decode(found), case["images"])
