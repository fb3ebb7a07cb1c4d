"""Which transforms are asked for, how a list of them becomes one policy, and what cannot work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vizsla.augment.apply import Sampling
from vizsla.augment.batch_augmentation import (
    BatchAugmentation,
    ColourTransform,
    Composed,
    GeometricTransform,
)
from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.augment.normalize import Normalize
from vizsla.augment.presets import aug_transforms, setup_aug_tfms
from vizsla.errors import ConfigError
from vizsla.types import as_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
NOT_AN_OBJECT: Any = Flip
COMPARED = ("p", "max_deg", "min_zoom", "max_zoom", "magnitude", "batch")


def described(transform: Any) -> dict[str, Any]:
    """Return a transform in the words of the reference."""
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


def test_aug_transforms_asks_for_what_the_reference_does():
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


def test_setup_aug_tfms_makes_the_objects_of_the_reference():
    for case in STRUCTURES:
        found = setup_aug_tfms(aug_transforms(**case["kwargs"]))
        for entry, composed in zip(case["result"], found, strict=True):
            kinds(entry, composed)
    for kind, extra in EXTRA.items():
        (case,) = [c for c in RECORD["aug_transforms_structure_extra"] if kind in c["kwargs"]["xtra_tfms"]]  # fmt: skip
        found = setup_aug_tfms(aug_transforms(size=128, xtra_tfms=extra))
        for entry, composed in zip(case["result"], found, strict=True):
            kinds(entry, composed)


def test_composed_transforms_are_the_same_policy_however_often_they_are_composed():
    chosen = [Hue(), *aug_transforms(size=24, min_scale=0.5), Saturation(), RandomErasing()]
    once = setup_aug_tfms(chosen)
    assert setup_aug_tfms(once) == once
    assert sorted(map(repr, BatchAugmentation(once).transforms)) == sorted(map(repr, chosen))


def test_extra_transforms_come_last():
    extra = [Saturation(0.3), Rotate(90)]
    assert aug_transforms(xtra_tfms=extra)[-2:] == extra


def test_aug_transforms_passes_its_options_to_every_geometric_transform():
    chosen = aug_transforms(
        size=(20, 30), mode="nearest", pad_mode="zeros", align_corners=False, batch=True
    )
    geometric = [t for t in chosen if isinstance(t, (Flip, Rotate, Zoom, Warp))]
    assert len(geometric) == 4
    for transform in geometric:
        assert transform.size == (20, 30)
        assert transform.mode == "nearest"
        assert transform.pad_mode == "zeros"
        assert transform.align_corners is False
    assert all(
        isinstance(t, (Flip, Rotate, Zoom, Warp, Brightness, Contrast)) and t.batch for t in chosen
    )


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


def test_the_size_of_a_crop_comes_before_that_of_the_geometry():
    assert BatchAugmentation([Flip(size=40), RandomResizedCropGPU((24, 28))]).size == (24, 28)


def test_a_crop_alone_decides_the_mode():
    assert BatchAugmentation([RandomResizedCropGPU(24, mode="nearest")]).sampling.mode == "nearest"


def test_transforms_are_values():
    assert Flip(draw=[1, 0]) == Flip(draw=(1.0, 0.0))
    assert hash(Flip(draw=[1, 0])) == hash(Flip(draw=(1.0, 0.0)))
    assert Dihedral(size=[24, 30]).size == (24, 30)  # pyright: ignore[reportArgumentType] a list from JSON
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flip().p = 0.1  # pyright: ignore[reportAttributeAccessIssue] that is the point


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
        (lambda: RandomResizedCropGPU(24, ratio=(2, 1)), ["ratio[0]", "2"]),
        (lambda: RandomResizedCropGPU(0), ["positive whole number", "0"]),
        (lambda: Rotate(draw=NOT_A_NUMBER), ["Rotate(draw=...)", "number"]),
        (lambda: aug_transforms(min_scale=0.5), ["size=", "min_scale=0.5"]),
        (lambda: BatchAugmentation([NOT_AN_OBJECT]), ["object", "Flip(", "class"]),
        (lambda: BatchAugmentation([RandomResizedCropGPU(9)] * 2), ["Only one", "RandomResizedCropGPU"]),
        (lambda: BatchAugmentation([RandomErasing()] * 2), ["Only one", "RandomErasing"]),
        (lambda: BatchAugmentation([Normalize(), Normalize((0,), (1,))]), ["Only one", "Normalize", "mean"]),
        (lambda: Hue(1.5), ["Hue(max_hue=...)", "1.5"]),
        (lambda: RandomErasing(sl=0.5), ["RandomErasing(sl=...)", "0.3"]),
        (lambda: RandomErasing(min_aspect=0), ["RandomErasing(min_aspect=...)"]),
        (lambda: RandomErasing(max_count=0), ["RandomErasing(max_count=...)"]),
        (lambda: Normalize((0.5,)), ["mean and std", "(0.5,)"]),
        (lambda: Normalize((0.5,), (0.0,)), ["above 0", "0.0"]),
        (lambda: Normalize(axes=(0,)), ["axes", "(0,)"]),
]  # fmt: skip


def test_what_cannot_work_is_refused_in_words():
    for make, words in REFUSED:
        with pytest.raises(ConfigError) as caught:
            make()
        assert [word for word in words if word not in str(caught.value)] == []


def test_a_misspelt_argument_is_a_type_error():
    with pytest.raises(TypeError):
        aug_transforms(max_rotation=3)  # pyright: ignore[reportCallIssue] that is the point
