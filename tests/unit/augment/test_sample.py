"""Random numbers per picture: ranges, probabilities, fixed draws, and that they belong to the picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import (
    ColourTransform,
    Draws,
    GeometricTransform,
    stream_names,
)
from vizsla.augment.colour import Brightness, Contrast, Saturation
from vizsla.augment.geometry import (
    Dihedral,
    Flip,
    RandomResizedCropGPU,
    Rotate,
    Warp,
    Zoom,
    centre_crop_box,
)
from vizsla.errors import ConfigError

MANY = Draws(seed=3, epoch=0, rows=torch.arange(20000))


def matrix_values(transform: GeometricTransform, draws: Draws = MANY) -> Tensor:
    return transform.sample(draws, "test")


def colour_values(transform: ColourTransform, draws: Draws = MANY) -> Tensor:
    return transform.sample(draws, "test")


def boxes(transform: RandomResizedCropGPU, size: tuple[int, int], draws: Draws = MANY) -> Tensor:
    return transform.boxes(draws.uniform("test", count=22), source_size=size)


def share(mask: Tensor) -> float:
    return float(mask.double().mean())


def test_a_flip_acts_with_its_probability():
    assert share(matrix_values(Flip(0.3)) == 1) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0.0), (1.0, 1.0)])
def test_probabilities_of_zero_and_one_are_exact(p: float, expected: float):
    assert share(matrix_values(Flip(p)) == 1) == expected


def test_a_dihedral_leaves_as_many_alone_as_the_reference():
    values = matrix_values(Dihedral(0.5))
    assert share(values == 0) == pytest.approx(0.5 + 0.5 / 8, abs=0.01)
    assert [share(values == k) for k in range(1, 8)] == pytest.approx([0.0625] * 7, abs=0.006)


def test_rotations_are_uniform_both_ways():
    values = matrix_values(Rotate(20, 1))
    assert float(values.min()) == pytest.approx(-20, abs=0.02)
    assert float(values.max()) == pytest.approx(20, abs=0.02)
    assert float(values.mean()) == pytest.approx(0, abs=0.3)
    assert float(values.std()) == pytest.approx(40 / math.sqrt(12), abs=0.2)


def test_a_zoom_that_does_not_act_has_factor_one_and_still_a_point():
    factor, x, y = matrix_values(Zoom(1.1, 1.5, 0.5)).T
    assert share(factor == 1) == pytest.approx(0.5, abs=0.01)
    assert float(factor[factor != 1].min()) >= 1.1
    assert float(factor.max()) <= 1.5
    for point in (x, y):
        assert float(point.std()) == pytest.approx(1 / math.sqrt(12), abs=0.005)


def test_the_directions_of_a_warp_act_independently():
    x, y = Warp(0.2, 0.5).sample(MANY, "test").T
    assert share(x != 0) == pytest.approx(0.5, abs=0.01)
    assert share((x != 0) & (y != 0)) == pytest.approx(0.25, abs=0.01)
    assert float(x.abs().max()) <= 0.2


def test_brightness_is_uniform_around_the_middle():
    values = colour_values(Brightness(0.4, 1))
    assert float(values.min()) == pytest.approx(0.3, abs=0.001)
    assert float(values.max()) == pytest.approx(0.7, abs=0.001)


@pytest.mark.parametrize("kind", [Contrast, Saturation])
def test_contrast_and_saturation_are_log_uniform(kind: type[Contrast] | type[Saturation]):
    logs = colour_values(kind(0.2, 1)).log()
    assert float(logs.min()) == pytest.approx(math.log(0.8), abs=0.001)
    assert float(logs.max()) == pytest.approx(-math.log(0.8), abs=0.001)
    assert float(logs.mean()) == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize(("transform", "neutral"), [(Brightness(p=0.75), 0.5), (Contrast(p=0.75), 1), (Saturation(p=0.75), 1)])  # fmt: skip
def test_colour_that_does_not_act_is_neutral(transform: ColourTransform, neutral: float):
    assert share(colour_values(transform) == neutral) == pytest.approx(0.25, abs=0.01)


def test_windows_lie_inside_and_have_the_area_and_ratio_asked_for():
    crop = RandomResizedCropGPU(24, 0.2, (0.5, 2.0), max_scale=0.6)
    top, left, height, width = boxes(crop, (60, 80)).T
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + height).max()) == 60
    assert int((left + width).max()) == 80
    area = (height * width).double() / 4800
    assert float(area.min()) == pytest.approx(0.2, abs=0.02)
    assert float(area.max()) == pytest.approx(0.6, abs=0.02)
    ratio = width / height
    assert float(ratio.min()) == pytest.approx(0.5, abs=0.05)
    assert float(ratio.max()) == pytest.approx(2.0, abs=0.1)


def test_windows_have_the_distribution_of_the_rejection_sampling():
    # Area U(0.75, 1) of a square and ratio 1: always the first try; the side is the root of the area.
    side = boxes(RandomResizedCropGPU(24, 0.75, (1, 1)), (460, 460))[:, 2].double() / 460
    assert float((side**2).mean()) == pytest.approx(0.875, abs=0.002)
    assert float((side**2).std()) == pytest.approx(0.25 / math.sqrt(12), abs=0.002)


def test_every_position_of_a_window_is_reached():
    top, left, height, _ = boxes(RandomResizedCropGPU(4, 0.25, (1, 1), max_scale=0.25), (8, 8)).T
    assert set(height.tolist()) == {4}
    assert set(top.tolist()) == set(left.tolist()) == {0, 1, 2, 3, 4}


def test_the_middle_is_taken_where_no_window_fits():
    found = boxes(RandomResizedCropGPU(24, 0.9, (1, 1)), (20, 80))
    assert found.unique(dim=0).tolist() == [[0, 30, 20, 20]]


@pytest.mark.parametrize(
    ("size", "ratio", "scale", "box"),
    [
        ((46, 46), (1, 1), 1.0, (0, 0, 46, 46)),
        ((20, 32), (3 / 4, 4 / 3), 1.0, (0, 3, 20, 26)),
        ((32, 20), (3 / 4, 4 / 3), 1.0, (3, 0, 26, 20)),
        ((20, 32), (3 / 4, 4 / 3), 0.8, (2, 6, 16, 20)),
        ((1, 50), (0.5, 0.6), 0.1, (0, 24, 1, 1)),
    ],
)
def test_the_middle_has_the_nearest_allowed_ratio(
    size: tuple[int, int], ratio: tuple[float, float], scale: float, box: tuple[int, ...]
):
    assert centre_crop_box(size, ratio=ratio, scale=scale) == box


def test_fixed_draws_are_used_as_given():
    draws = Draws(seed=0, epoch=0, rows=torch.tensor([8, 3]))
    assert matrix_values(Rotate(p=1, draw=12.5), draws).tolist() == [[12.5], [12.5]]
    assert matrix_values(Rotate(p=1, draw=[1, -2, 9]), draws).tolist() == [[1], [-2]]
    assert colour_values(Contrast(p=1, draw=[1.5, 0.5]), draws).tolist() == [1.5, 0.5]


def test_the_mask_acts_on_fixed_draws_too():
    assert matrix_values(Rotate(p=0, draw=12.5)).unique().tolist() == [0]


def test_too_few_fixed_draws_are_refused():
    draws = Draws(seed=0, epoch=0, rows=torch.arange(3))
    with pytest.raises(ConfigError, match=r"at least 3.*Received 2"):
        matrix_values(Rotate(draw=[1, 2]), draws)


def test_one_draw_for_the_batch_is_that_of_its_first_row():
    rows = torch.tensor([5, 6, 7])
    together = matrix_values(Zoom(0.5, 2, 1, batch=True), Draws(seed=1, epoch=0, rows=rows))
    alone = matrix_values(Zoom(0.5, 2, 1), Draws(seed=1, epoch=0, rows=rows[:1]))
    assert torch.equal(together, alone.expand(3, 3))


def test_draws_belong_to_the_picture_and_not_to_the_batch():
    rows = torch.tensor([4, 900, 17])
    together = boxes(RandomResizedCropGPU(24), (60, 80), Draws(seed=1, epoch=2, rows=rows))
    for at in range(3):
        alone = Draws(seed=1, epoch=2, rows=rows[at : at + 1])
        assert torch.equal(boxes(RandomResizedCropGPU(24), (60, 80), alone), together[at : at + 1])


def test_each_transform_has_a_stream_of_its_own():
    names = stream_names([Flip(), Rotate(), Flip(), Flip(0.1)])
    assert names == ("augment/flip/0", "augment/rotate/0", "augment/flip/1", "augment/flip/2")
