"""Transforms: their options, what is drawn, where points go, and how maps and colour steps compose."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vizsla import (
    Brightness,
    ConfigError,
    Contrast,
    Dihedral,
    Flip,
    Hue,
    Normalize,
    Pipeline,
    RandomErasing,
    RandomResizedCropGPU,
    Rotate,
    Saturation,
    Warp,
    Zoom,
    aug_transforms,
    setup_aug_tfms,
)
from vizsla.augment import (
    BatchAugmentation,
    ColourStep,
    ColourTransform,
    Composed,
    Draws,
    GeometricTransform,
    Sampling,
    centre_crop_box,
    correct_aspect,
    crop_matrix,
    stream_names,
)
from vizsla.types import as_size

GOLDEN = Path(__file__).parents[2] / "golden" / "augment.json"
RECORD = json.loads(GOLDEN.read_text(encoding="utf-8"))
STRUCTURES = RECORD["aug_transforms_structure"]
EXTRA: dict[str, list[Any]] = {"Hue": [Saturation(), Hue()], "RandomErasing": [RandomErasing()]}

REFERENCE_NAMES = {
    "Flip": "flip_mat",
    "Dihedral": "dihedral_mat",
    "Rotate": "rotate_mat",
    "Zoom": "zoom_mat",
    "Warp": "warp",
    "Brightness": "_BrightnessLogit",
    "Contrast": "_ContrastLogit",
    "Saturation": "_SaturationLogit",
    "Hue": "_Hue",
}
WRONG: Any = "linear"
NOT_A_NUMBER: Any = "much"
NOT_AN_OBJECT: Any = len
COMPARED = ("p", "max_deg", "min_zoom", "max_zoom", "magnitude", "batch")


def described(transform: Any) -> dict[str, Any]:
    """Describe a transform as the reference does."""
    fields = {field.name: getattr(transform, field.name) for field in dataclasses.fields(transform)}
    strength = [("max", fields[key]) for key in ("max_lighting", "max_hue") if key in fields]
    name = REFERENCE_NAMES[type(transform).__name__]
    return {"fn": name} | {key: fields[key] for key in COMPARED if key in fields} | dict(strength)


def same(found: Sequence[Any], expected: list[dict[str, Any]]) -> bool:
    described_found = [described(transform) for transform in found]
    return len(described_found) == len(expected) and all(
        mine[key] == pytest.approx(reference[key]) if key != "fn" else mine[key] == reference[key]
        for mine, reference in zip(described_found, expected, strict=True)
        for key in reference.keys() & mine.keys()
    )


def result_of_kind(case: dict[str, Any], key: str) -> dict[str, Any]:
    return next((entry for entry in case["result"] if key in entry), {})


def of_kind(augmentation: BatchAugmentation, kind: Any, *, perspective: bool = False) -> list[Any]:
    return [
        one
        for one in augmentation.transforms
        if isinstance(one, kind) and getattr(one, "is_perspective", False) == perspective
    ]


def test_aug_transforms_matches_the_reference():
    for case in STRUCTURES:
        made = BatchAugmentation(aug_transforms(**case["kwargs"]))
        geometry, crop = result_of_kind(case, "affine"), result_of_kind(case, "ratio")
        assert same(of_kind(made, GeometricTransform), geometry.get("affine", [])), case["kwargs"]
        warps = of_kind(made, GeometricTransform, perspective=True)
        assert same(warps, geometry.get("coord", [])), case["kwargs"]
        lighting = result_of_kind(case, "lighting").get("lighting", [])
        assert same(of_kind(made, ColourTransform), lighting), case["kwargs"]
        expected_size = crop.get("size") or geometry.get("size")
        assert made.size == (None if expected_size is None else as_size(expected_size))
        window = (
            RandomResizedCropGPU(as_size(crop["size"]), crop["min_scale"], (1, 1)) if crop else None
        )
        assert made.crop == window


def kinds(entry: dict[str, Any], composed: Any) -> None:
    """Compare one object of the reference with one of ours."""
    if "affine" in entry:
        assert isinstance(composed, Composed)
        assert same([t for t in composed.transforms if not isinstance(t, Warp)], entry["affine"])
        assert same([t for t in composed.transforms if isinstance(t, Warp)], entry["coord"])
        first = composed.transforms[0]
        assert type(first).__name__ == entry["cls"]
        assert isinstance(first, GeometricTransform)
        assert first.size == (None if entry["size"] is None else as_size(entry["size"]))
    elif entry["cls"] == "Brightness":
        assert isinstance(composed, Composed)
        assert same(composed.transforms, entry["lighting"])
    else:
        assert type(composed).__name__ == entry["cls"]


def test_setup_aug_tfms_matches_the_reference():
    for case in STRUCTURES:
        found = setup_aug_tfms(aug_transforms(**case["kwargs"]))
        for entry, composed in zip(case["result"], found, strict=True):
            kinds(entry, composed)
    for kind, extra in EXTRA.items():
        (case,) = [c for c in RECORD["aug_transforms_structure_extra"] if kind in c["kwargs"]["xtra_tfms"]]  # fmt: skip
        found = setup_aug_tfms(aug_transforms(size=128, xtra_tfms=extra))
        for entry, composed in zip(case["result"], found, strict=True):
            kinds(entry, composed)


def test_composing_twice_changes_nothing():
    chosen = [Hue(), *aug_transforms(size=24, min_scale=0.5), Saturation(), RandomErasing()]
    once = setup_aug_tfms(chosen)
    assert setup_aug_tfms(once) == once
    assert sorted(map(repr, BatchAugmentation(once).transforms)) == sorted(map(repr, chosen))


def test_aug_transforms_passes_its_options_to_every_transform():
    options: dict[str, Any] = dict(
        size=(20, 30), mode="nearest", pad_mode="zeros", align_corners=False, batch=True
    )
    extra = [Saturation(0.3), Rotate(90)]
    *chosen, saturation, rotate = aug_transforms(**options, xtra_tfms=extra)
    assert [saturation, rotate] == extra
    assert [type(one) for one in chosen] == [Flip, Warp, Rotate, Zoom, Brightness, Contrast]
    for one in chosen:
        names = options if isinstance(one, GeometricTransform) else ["batch"]
        assert {name: getattr(one, name) for name in names} == {n: options[n] for n in names}


def test_positions_of_arguments_are_those_of_the_notebook_api():
    assert Rotate(30, 1.0, 5.0, 224) == Rotate(max_deg=30, p=1.0, draw=5.0, size=224)
    assert Zoom(0.9, 1.2, 1, 1.1, 0.3, 0.4, 24) == Zoom(
        min_zoom=0.9, max_zoom=1.2, p=1, draw=1.1, draw_x=0.3, draw_y=0.4, size=24
    )
    assert Warp(0.1, 1, 0.05, -0.05) == Warp(magnitude=0.1, p=1, draw_x=0.05, draw_y=-0.05)
    assert Brightness(0.3, 1, 0.6) == Brightness(max_lighting=0.3, p=1, draw=0.6)
    crop = RandomResizedCropGPU(24, 0.5, (1, 2), "nearest", 0.9, 0.8)
    assert (crop.valid_scale, crop.max_scale) == (0.9, 0.8)


def test_the_first_geometric_transform_decides_size_mode_and_padding():
    made = BatchAugmentation(
        [Brightness(), Zoom(size=40, mode="bicubic", pad_mode="border"), Flip(size=60)]
    )
    assert made.size == (40, 40)
    assert made.sampling == Sampling(mode="bicubic", pad_mode="border")
    assert BatchAugmentation([Zoom(), Flip(size=60)]).size is None
    # A crop's size comes first, and its mode where there is no geometry.
    assert BatchAugmentation([Flip(size=40), RandomResizedCropGPU((24, 28))]).size == (24, 28)
    assert BatchAugmentation([RandomResizedCropGPU(24, mode="nearest")]).sampling.mode == "nearest"


def test_transforms_are_values():
    assert Flip(draw=[1, 0]) == Flip(draw=(1.0, 0.0))
    assert hash(Flip(draw=[1, 0])) == hash(Flip(draw=(1.0, 0.0)))
    assert Dihedral(size=[24, 30]).size == (24, 30)  # pyright: ignore[reportArgumentType] a list from JSON
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flip().p = 0.1  # pyright: ignore[reportAttributeAccessIssue] that is the point
    with pytest.raises(TypeError):
        aug_transforms(max_rotation=3)  # pyright: ignore[reportCallIssue] that is the point


REFUSED: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: Flip(p=1.5), ["Flip(p=...)", "from 0 to 1", "1.5"]),
        (lambda: Brightness(p=-0.1), ["Brightness(p=...)", "-0.1"]),
        (lambda: Rotate(max_deg=-3), ["Rotate(max_deg=...)", "-3"]),
        (lambda: Zoom(1.2, 1.1), ["Zoom(min_zoom=...)", "1.2"]),
        (lambda: Zoom(0, 1), ["Zoom(min_zoom=...)"]),
        (lambda: Warp(0.8), ["Warp(magnitude=...)", "0.7", "0.8"]),
        (lambda: Contrast(1.0), ["Contrast(max_lighting=...)", "0.99"]),
        (lambda: Flip(mode=WRONG), ["Flip(mode=...)", "bilinear, nearest, bicubic", "'linear'"]),
        (lambda: Flip(pad_mode=WRONG), ["Flip(pad_mode=...)", "reflection", "'linear'"]),
        (lambda: RandomResizedCropGPU(24, mode=WRONG), ["RandomResizedCropGPU(mode=...)"]),
        (lambda: RandomResizedCropGPU(24, 0), ["RandomResizedCropGPU(min_scale=...)"]),
        (lambda: RandomResizedCropGPU(24, 0.9, max_scale=0.5), ["min_scale", "0.9"]),
        (lambda: RandomResizedCropGPU(24, ratio=(2, 1)), ["ratio", "(2, 1)"]),
        (lambda: RandomResizedCropGPU(24, ratio=(0, 1)), ["ratio", "(0, 1)"]),
        (lambda: RandomResizedCropGPU(0), ["positive whole number", "0"]),
        (lambda: Rotate(draw=NOT_A_NUMBER), ["Rotate(draw=...)", "number"]),
        (lambda: aug_transforms(min_scale=0.5), ["size=", "min_scale=0.5"]),
        (lambda: BatchAugmentation([NOT_AN_OBJECT]), ["object", "Flip(", "len"]),
        (lambda: BatchAugmentation([RandomResizedCropGPU(9)] * 2), ["only one", "RandomResizedCropGPU"]),
        (lambda: BatchAugmentation([RandomErasing()] * 2), ["only one", "RandomErasing"]),
        (lambda: BatchAugmentation([Normalize(), Normalize((0,), (1,))]), ["only one", "Normalize", "mean"]),
        (lambda: Hue(1.5), ["Hue(max_hue=...)", "1.5"]),
        (lambda: RandomErasing(sl=0.5), ["RandomErasing(sl=...)", "0.3"]),
        (lambda: RandomErasing(min_aspect=0), ["RandomErasing(min_aspect=...)"]),
        (lambda: RandomErasing(max_count=0), ["RandomErasing(max_count=...)"]),
        (lambda: Normalize((0.5,)), ["mean and std", "(0.5,)"]),
        (lambda: Normalize((0.5,), (0.0,)), ["above 0", "0.0"]),
        (lambda: Normalize(axes=(0,)), ["axes", "(0,)"]),
]  # fmt: skip


def test_impossible_options_are_refused():
    for make, words in REFUSED:
        with pytest.raises(ConfigError) as caught:
            make()
        assert [word for word in words if word not in str(caught.value)] == []


MANY = Draws(seed=3, epoch=0, rows=torch.arange(20000))


def sampled(transform: GeometricTransform | ColourTransform, draws: Draws = MANY) -> Tensor:
    return transform.sample(draws, "test")


def boxes(transform: RandomResizedCropGPU, size: tuple[int, int]) -> Tensor:
    return transform.boxes(MANY.uniform("test", count=22), source_size=size)


def share(mask: Tensor) -> float:
    return float(mask.double().mean())


def test_transforms_act_with_their_probability():
    for p in (0.0, 0.3, 1.0):
        assert share(sampled(Flip(p)) == 1) == pytest.approx(p, abs=0.01)
    for kind, neutral in [(Brightness, 0.5), (Contrast, 1), (Saturation, 1)]:
        assert share(sampled(kind(p=0.75)) == neutral) == pytest.approx(0.25, abs=0.01)
    values = sampled(Dihedral(0.5))  # One of the eight symmetries changes nothing.
    assert share(values == 0) == pytest.approx(0.5 + 0.5 / 8, abs=0.01)
    assert [share(values == k) for k in range(1, 8)] == pytest.approx([0.0625] * 7, abs=0.006)


def test_strengths_are_uniform_or_log_uniform_in_their_range():
    factor = math.log(0.8)
    for values, low, high in [
        (sampled(Rotate(20, 1)), -20, 20),
        (sampled(Brightness(0.4, 1)), 0.3, 0.7),
        (sampled(Contrast(0.2, 1)).log(), factor, -factor),
        (sampled(Saturation(0.2, 1)).log(), factor, -factor),
    ]:
        unit = (values - low) / (high - low)
        assert float(unit.min()) == pytest.approx(0, abs=0.001)
        assert float(unit.max()) == pytest.approx(1, abs=0.001)
        assert float(unit.mean()) == pytest.approx(0.5, abs=0.0075)
        assert float(unit.std()) == pytest.approx(1 / math.sqrt(12), abs=0.005)


def test_a_zoom_that_does_not_act_has_factor_one():
    factor, x, y = sampled(Zoom(1.1, 1.5, 0.5)).T
    assert share(factor == 1) == pytest.approx(0.5, abs=0.01)
    assert float(factor[factor != 1].min()) >= 1.1
    assert float(factor.max()) <= 1.5
    for point in (x, y):
        assert float(point.std()) == pytest.approx(1 / math.sqrt(12), abs=0.005)


def test_the_directions_of_a_warp_act_independently():
    x, y = sampled(Warp(0.2, 0.5)).T
    assert share(x != 0) == pytest.approx(0.5, abs=0.01)
    assert share((x != 0) & (y != 0)) == pytest.approx(0.25, abs=0.01)
    assert float(x.abs().max()) <= 0.2


def test_windows_lie_inside_with_the_given_area_and_ratio():
    crop = RandomResizedCropGPU(24, 0.2, (0.5, 2.0), max_scale=0.6)
    top, left, height, width = boxes(crop, (60, 80)).T
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + height).max()) == 60
    assert int((left + width).max()) == 80
    area, ratio = (height * width).double() / 4800, width / height
    assert [float(area.min()), float(area.max())] == pytest.approx([0.2, 0.6], abs=0.02)
    assert float(ratio.min()) == pytest.approx(0.5, abs=0.05)
    assert float(ratio.max()) == pytest.approx(2.0, abs=0.1)


def test_windows_are_distributed_as_by_rejection_sampling():
    # Area U(0.75, 1) of a square and ratio 1: always the first try; the side is the root of the area.
    side = boxes(RandomResizedCropGPU(24, 0.75, (1, 1)), (460, 460))[:, 2].double() / 460
    assert float((side**2).mean()) == pytest.approx(0.875, abs=0.002)
    assert float((side**2).std()) == pytest.approx(0.25 / math.sqrt(12), abs=0.002)
    top, left, height, _ = boxes(RandomResizedCropGPU(4, 0.25, (1, 1), max_scale=0.25), (8, 8)).T
    assert set(height.tolist()) == {4}
    assert set(top.tolist()) == set(left.tolist()) == {0, 1, 2, 3, 4}


def test_the_middle_is_taken_where_no_window_fits():
    found = boxes(RandomResizedCropGPU(24, 0.9, (1, 1)), (20, 80))
    assert found.unique(dim=0).tolist() == [[0, 30, 20, 20]]
    for size, ratio, scale, box in [
        ((46, 46), (1, 1), 1.0, (0, 0, 46, 46)),
        ((20, 32), (3 / 4, 4 / 3), 1.0, (0, 3, 20, 26)),
        ((32, 20), (3 / 4, 4 / 3), 1.0, (3, 0, 26, 20)),
        ((20, 32), (3 / 4, 4 / 3), 0.8, (2, 6, 16, 20)),
        ((1, 50), (0.5, 0.6), 0.1, (0, 24, 1, 1)),
    ]:
        assert centre_crop_box(size, ratio=ratio, scale=scale) == box


def test_fixed_draws_are_used_as_given():
    draws = Draws(seed=0, epoch=0, rows=torch.tensor([8, 3]))
    assert sampled(Rotate(p=1, draw=12.5), draws).tolist() == [[12.5], [12.5]]
    assert sampled(Rotate(p=1, draw=[1, -2, 9]), draws).tolist() == [[1], [-2]]
    assert sampled(Contrast(p=1, draw=[1.5, 0.5]), draws).tolist() == [1.5, 0.5]
    assert sampled(Rotate(p=0, draw=12.5)).unique().tolist() == [0]
    with pytest.raises(ConfigError, match=r"at least 2.*Received 1"):
        sampled(Rotate(draw=[1]), draws)


def test_one_draw_for_the_batch_is_that_of_its_first_row():
    rows = torch.tensor([5, 6, 7])
    together = sampled(Zoom(0.5, 2, 1, batch=True), Draws(seed=1, epoch=0, rows=rows))
    alone = sampled(Zoom(0.5, 2, 1), Draws(seed=1, epoch=0, rows=rows[:1]))
    assert torch.equal(together, alone.expand(3, 3))


def test_each_transform_has_its_own_stream():
    names = stream_names([Flip(), Rotate(), Flip(), Flip(0.1)])
    assert names == ("augment/flip/0", "augment/rotate/0", "augment/flip/1", "augment/flip/2")


IDENTITY = torch.eye(3, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def source_of(warp: Tensor, x: float, y: float) -> list[float]:
    """Return where the first map of a batch finds the output point (x, y)."""
    mapped = warp[0] @ torch.tensor([x, y, 1], dtype=torch.float64)
    return (mapped[:2] / mapped[2]).tolist()


def test_a_crop_ends_at_its_corner_pixels():
    for align_corners, size, last in [(True, (11, 21), [8, 6]), (False, (10, 20), [9, 7])]:
        box = torch.tensor([[2, 3, 5, 6]])
        warp = crop_matrix(box, source_size=size, align_corners=align_corners)
        places = [source_of(warp, at, at) for at in (-1, 1)]
        pixels = [[(x + 1) * 10, (y + 1) * 5] for x, y in places]
        assert pixels == [pytest.approx([3, 2]), pytest.approx(last)]


def test_a_crop_of_everything_is_exactly_the_identity():
    for align_corners in [True, False]:
        for size in ((460, 460), (7, 333), (1, 1)):
            boxes = torch.tensor([[0, 0, *size]])
            found = crop_matrix(boxes, source_size=size, align_corners=align_corners)
            assert torch.equal(found[0], IDENTITY) or size == (1, 1)
            assert found.isfinite().all()


def draws(count: int = 5) -> Draws:
    return Draws(seed=2, epoch=1, rows=torch.arange(count))


def test_perspectives_follow_the_affine_part_and_the_crop_comes_first():
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

    first, second = Warp(p=1, draw_x=0.1, draw_y=0.2), Warp(p=1, draw_x=-0.2, draw_y=0.1)
    found = BatchAugmentation([first, second]).training_map(draws(1), source_size=(9, 9))
    expected = Warp().matrix(numbers(-0.2, 0.1)) @ Warp().matrix(numbers(0.1, 0.2))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_colours_in_one_step_equal_one_after_another():
    images = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    kinds = [Brightness(p=1, draw=0.6), Contrast(p=1, draw=1.25), Saturation(p=1, draw=0.7)]
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 2, 1), (2, 0, 2), (1, 0, 1)]:
        expected = images
        for at in order:
            expected = Pipeline([kinds[at]])(expected)
        found = Pipeline([kinds[at] for at in order])(images)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_colour_is_neutral_or_absent():
    for transforms, expected in [
        ([Brightness(p=0), Contrast(p=0), Saturation(p=0)], [True] * 5),
        ([Brightness(p=1)], [False] * 5),
    ]:
        step = BatchAugmentation(transforms).colour_step(draws())
        assert isinstance(step, ColourStep)
        assert step.is_neutral.tolist() == expected
    assert BatchAugmentation([Flip()]).colour_step(draws()) is None
