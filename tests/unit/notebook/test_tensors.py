"""TensorImage and Pipeline: one interpolation for each call, one for a pipeline, and results that print and show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
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
    TensorCategory,
    TensorImage,
    TensorMultiCategory,
    Warp,
    Zoom,
    setup_aug_tfms,
)
from vizsla.augment import BatchAugmentation

GOLDEN = Path(__file__).parents[2] / "golden"
BOOK = [
    Rotate(p=1, draw=30, size=24),
    Zoom(p=1, draw=1.2, draw_x=0.5, draw_y=0.5, size=24),
    Warp(p=1, draw_x=-0.2, draw_y=0.2, size=24),
]
WRONG: Any = torch.zeros(3, 2, 2)
MIRROR = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])


def recorded(name: str) -> Tensor:
    with np.load(GOLDEN / "augment.npz") as arrays:
        return torch.from_numpy(arrays[name].astype(np.float32) / 65535)


def plain(images: Tensor) -> Tensor:
    return images.as_subclass(Tensor)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_the_two_images_of_the_book_equal_the_reference():
    record = json.loads((GOLDEN / "augment.json").read_text("utf-8"))
    assert {"book_single", "book_sequential"} <= {case["out"] for case in record["cases"]}
    for source, suffix in (("x32", ""), ("x64", "_x64")):
        images = recorded(source)
        one_by_one = TensorImage(images.clone()).affine_coord(sz=24)
        one_by_one = one_by_one.rotate(draw=30, p=1.0)
        one_by_one = one_by_one.zoom(draw=1.2, p=1.0, draw_x=0.5, draw_y=0.5)
        one_by_one = one_by_one.warp(draw_x=-0.2, draw_y=0.2, p=1.0)
        composed = Pipeline(setup_aug_tfms(BOOK))(images)
        for found, name in ((one_by_one, "book_sequential"), (composed, "book_single")):
            expected = TensorImage(recorded(name + suffix))
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_tensors_print_and_keep_their_class(images: Tensor):
    assert repr(TensorCategory(1)) == "TensorCategory(1)"
    assert repr(TensorCategory([1, 2])) == "TensorCategory([1, 2])"
    assert repr(TensorImage(torch.zeros(1, 1, 2))) == "TensorImage([[[0., 0.]]])"
    assert TensorCategory([1, 2]).dtype == torch.int64
    kept = TensorImage(images)
    assert {type(one) for one in (kept[0], kept.clone(), kept / 2, TensorImage(kept))} == {TensorImage}  # fmt: skip
    assert kept.data_ptr() == images.data_ptr()


def test_losses_of_two_kinds_of_tensors_are_plain(images: Tensor):
    outputs, targets = TensorImage(images[0]), TensorMultiCategory((images[0] > 0.5).float())
    loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
    assert type(loss) is Tensor
    assert loss == torch.nn.functional.binary_cross_entropy_with_logits(
        plain(outputs), plain(targets)
    )
    assert type(outputs * 2) is TensorImage


def test_a_call_does_what_its_transform_does_in_training():
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 12, 16), dtype=torch.uint8, generator=noise)
    rows = torch.arange(2)
    cases: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("flip_batch", Flip, {"draw": 1}),
        ("dihedral_batch", Dihedral, {"draw": 2}),
        ("rotate", Rotate, {"draw": 20, "size": 9}),
        ("zoom", Zoom, {"draw": 2, "draw_x": 0.1, "draw_y": 1}),
        ("warp", Warp, {"draw_x": 0.1, "draw_y": 0.2}),
        ("brightness", Brightness, {"draw": 0.7}),
        ("contrast", Contrast, {"draw": 2}),
    )
    for name, transform, options in cases:
        augment = BatchAugmentation([transform(**options, p=1)])
        expected = TensorImage(augment(images, rows=rows, epoch=0, training=True))
        for each in (images, images / 255):
            found = getattr(TensorImage(each), name)(**options, p=1)
            assert type(found) is TensorImage
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        single = getattr(TensorImage(images[1]), name)(**options, p=1)
        torch.testing.assert_close(single, expected[1], atol=1e-5, rtol=0)


def test_random_draws_come_from_the_generator_one_per_image(images: Tensor):
    def turned(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return TensorImage(images).rotate(max_deg=90, p=1, generator=generator)

    assert torch.equal(turned(1), turned(1))
    assert not torch.equal(turned(1), turned(2))
    state = torch.get_rng_state()
    found: list[Tensor] = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(TensorImage(images).rotate(max_deg=90, p=1))
    torch.set_rng_state(state)
    assert torch.equal(*found)
    several = TensorImage(images[:1].expand(4, -1, -1, -1)).warp(p=1)
    assert not torch.equal(several[0], several[1])


def test_the_input_stays_as_it_is(images: Tensor):
    before = images.clone()
    TensorImage(images).rotate(draw=30, p=1).contrast(draw=2, p=1)
    Pipeline([Hue(p=1), RandomErasing(p=1), Normalize.from_stats([0.5] * 3, [0.2] * 3)])(images)
    assert torch.equal(images, before)


def test_a_bfloat16_image_stays_one(images: Tensor):
    found = TensorImage(images.bfloat16()).rotate(draw=30, p=1).contrast(draw=1.2, p=1)
    assert found.dtype == torch.bfloat16
    exact = TensorImage(images).rotate(draw=30, p=1).contrast(draw=1.2, p=1)
    torch.testing.assert_close(found.float(), exact, atol=2.0**-7, rtol=0)


def test_affine_coord_takes_maps(images: Tensor):
    kept = TensorImage(images)
    for mat in (MIRROR, MIRROR.expand(2, 2, 3), torch.diag(torch.tensor([-1.0, 1, 1]))):
        found = kept.affine_coord(mat=mat)
        torch.testing.assert_close(found, TensorImage(images.flip(-1)), atol=1e-5, rtol=0)
    assert kept.affine_coord(sz=(5, 7)).shape == (2, 3, 5, 7)
    assert torch.equal(kept.affine_coord(), kept)
    with pytest.raises(ConfigError, match=r"\(3, 2, 2\)"):
        kept.affine_coord(mat=WRONG)


def test_affine_coord_takes_a_function_of_coordinates(images: Tensor):
    kept = TensorImage(images)

    def upside_down(coordinates: Tensor) -> Tensor:
        assert coordinates.shape == (2, 12, 16, 2)
        return coordinates * torch.tensor([1.0, -1.0])

    found = kept.affine_coord(mat=MIRROR, coord_tfm=upside_down)
    assert type(found) is TensorImage
    assert torch.allclose(plain(found), images.flip(3).flip(2), atol=1e-5)
    same = kept.affine_coord(sz=(5, 4), coord_tfm=lambda coordinates: coordinates)
    assert torch.allclose(plain(same), plain(kept.affine_coord(sz=(5, 4))), atol=1e-5)
    one = TensorImage((images[0] * 255).to(torch.uint8))
    assert one.affine_coord(coord_tfm=lambda coordinates: coordinates).shape == (3, 12, 16)
    with pytest.raises(ConfigError, match=r"\(2, 12, 16, 2\)"):
        kept.affine_coord(coord_tfm=lambda coordinates: coordinates[..., :1])


def test_a_called_transform_acts_at_once_like_a_pipeline_of_it(images: Tensor):
    before = images.clone()
    transforms: list[Any] = [
        *(Flip(p=1.0), Rotate(draw=30, p=1.0), Zoom(draw=1.2, p=1.0, draw_x=0.5, draw_y=0.5)),
        *(Warp(draw_x=0.1, draw_y=0.2, p=1.0), Brightness(draw=0.7, p=1.0), Brightness(p=1.0)),
        *(Contrast(draw=1.5, p=1.0), Hue(draw=0.2, p=1.0)),
        *(RandomResizedCropGPU(8), RandomErasing(p=1.0, sl=0.1)),
        *setup_aug_tfms([Rotate(draw=30, p=1.0), Brightness(draw=0.7, p=1.0)]),
    ]
    for transform in transforms:
        for each in (TensorImage(images), images, TensorImage(images)[0]):
            torch.manual_seed(3)
            found = transform(each)
            torch.manual_seed(3)
            expected = Pipeline([transform])(each)
            assert type(found) is type(each)
            assert torch.equal(plain(found), plain(expected))
            if found.shape == each.shape:
                assert not torch.equal(plain(found), plain(each))
        assert torch.equal(images, before)
        drawn = [transform(images, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
        assert torch.equal(*drawn)


def test_a_pipeline_interpolates_once(images: Tensor):
    turn, back = Rotate(p=1, draw=30), Rotate(p=1, draw=-30)
    composed = Pipeline([turn, back])(images)
    torch.testing.assert_close(composed, TensorImage(images), atol=1e-5, rtol=0)
    parted = Pipeline([turn, torch.Tensor.clone, back])(images)
    one_by_one = TensorImage(images).rotate(p=1, draw=30).rotate(p=1, draw=-30)
    assert torch.equal(parted, one_by_one)
    assert not torch.allclose(parted, composed, atol=1e-3)


def test_a_pipeline_normalises_last_crops_and_prints(images: Tensor):
    normalize = Normalize.from_stats([0.5] * 3, [0.25] * 3)
    found = Pipeline([normalize, Contrast(p=1, draw=2)])(images)
    expected = (TensorImage(images).contrast(draw=2, p=1) - 0.5) / 0.25
    torch.testing.assert_close(found, expected)
    assert torch.equal(Pipeline([])(images), TensorImage(images))
    pipeline = Pipeline([RandomResizedCropGPU((5, 6)), Flip(), torch.relu])
    assert pipeline(images).shape == (2, 3, 5, 6)
    assert repr(pipeline) == "Pipeline: RandomResizedCropGPU -> Flip -> relu"


def test_an_image_shows_itself(images: Tensor):
    axes = Figure().subplots()
    assert TensorImage(images[0]).show(ctx=axes, title="cat") is axes
    (shown,) = axes.get_images()
    np.testing.assert_allclose(np.asarray(shown.get_array()), images[0].permute(1, 2, 0).numpy())
    assert axes.get_title() == "cat"
    assert not axes.axison
    grey = torch.full((1, 4, 5), 51, dtype=torch.uint8)
    (shown,) = TensorImage(grey).show(ctx=Figure().subplots()).get_images()
    np.testing.assert_allclose(np.asarray(shown.get_array()), np.full((4, 5, 3), 51))
    plt.switch_backend("agg")
    assert TensorImage(images[0].bfloat16()).show(figsize=(2, 4)).figure is not None
    assert tuple(plt.gcf().get_size_inches()) == (2, 4)


def test_other_shapes_are_neither_shown_nor_transformed():
    for shape in ((2, 3, 4, 5), (2, 4, 5), (4, 5)):
        with pytest.raises(ConfigError, match=r"\(.*\)"):
            TensorImage(torch.zeros(shape)).show()
    with pytest.raises(ConfigError, match=r"\(4, 5\)"):
        TensorImage(torch.zeros(4, 5)).rotate(draw=3, p=1)
