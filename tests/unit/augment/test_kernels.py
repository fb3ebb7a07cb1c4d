"""The operations on pixels, against independent computations; hue, draws by function, Normalize."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vizsla import (
    Brightness,
    ConfigError,
    Contrast,
    Hue,
    Normalize,
    Rotate,
    Saturation,
    aug_transforms,
)
from vizsla.augment import (
    BatchAugmentation,
    ColourStep,
    Draws,
    area_average,
    change_lighting,
    sampling_grid,
    turn_hue,
    warp_images,
)

IDENTITY = torch.eye(3).repeat(2, 1, 1)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_identity_samples_every_pixel():
    for align_corners in [True, False]:
        grid = sampling_grid(IDENTITY, size=(4, 5), align_corners=align_corners)
        expected = F.affine_grid(IDENTITY[:, :2], [2, 3, 4, 5], align_corners=align_corners)
        torch.testing.assert_close(grid, expected)
        grid = sampling_grid(IDENTITY, size=(1, 3), align_corners=align_corners)
        assert grid[..., 1].tolist() == [[[0, 0, 0]]] * 2
        assert grid[0, 0, 1].tolist() == [0, 0]


def test_a_perspective_divides_by_the_depth():
    warp = torch.tensor([[[1.0, 0.1, 0.2], [0.3, 0.9, 0.0], [0.2, -0.1, 1.0]]])
    grid = sampling_grid(warp, size=(3, 5))
    for row, y in enumerate((-1.0, 0.0, 1.0)):
        for column, x in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            mapped = warp[0] @ torch.tensor([x, y, 1.0])
            torch.testing.assert_close(grid[0, row, column], mapped[:2] / mapped[2])
    beyond_its_horizon = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [2.0, 0, 1]]])
    found = warp_images(noise(1, 3, 8, 8), warp=beyond_its_horizon, size=(8, 8))
    assert found.isfinite().all()


def test_modes_are_those_of_torch():
    for mode in ["nearest", "bilinear", "bicubic"]:
        images = noise(2, 3, 6, 7)
        theta = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 0.8, 0.0]]).repeat(2, 1, 1)
        warp = torch.cat([theta, torch.tensor([0.0, 0, 1]).expand(2, 1, 3)], dim=1)
        found = warp_images(images, warp=warp, size=(5, 4), mode=mode)  # pyright: ignore[reportArgumentType] any of three
        grid = F.affine_grid(theta, [2, 3, 5, 4], align_corners=True)
        expected = F.grid_sample(
            images, grid, mode=mode, padding_mode="reflection", align_corners=True
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_area_average_is_adaptive_pooling():
    for source, size in [
        ((46, 46), (44, 44)),
        ((7, 9), (7, 5)),
        ((64, 31), (20, 28)),
        ((12, 30), (3, 1)),
        ((5, 5), (5, 5)),
    ]:
        planar = noise(2, 3, *source)
        expected = F.adaptive_avg_pool2d(planar, size)
        channels_last = planar.contiguous(memory_format=torch.channels_last)
        found = area_average(channels_last, size=size)
        for other in (area_average(planar, size=size), found):
            torch.testing.assert_close(other, expected, atol=1e-6, rtol=1e-6)
        for room in (1, 3):
            spare = torch.full((room, *source, 3), math.nan).permute(0, 3, 1, 2)
            assert torch.equal(area_average(channels_last, size=size, spare=spare), found)


def step(gain: float, grey_gain: float | None, offset: float) -> ColourStep:
    return ColourStep(
        gain=torch.tensor([gain]),
        grey_gain=None if grey_gain is None else torch.tensor([grey_gain]),
        offset=torch.tensor([offset]),
    )


def test_colour_is_linear_in_the_logits():
    for gain, grey_gain, offset in [(1.2, None, -0.4), (1.2, 0.0, -0.4), (0.7, 0.3, 0.5)]:
        images = noise(1, 3, 5, 6)
        logits = -(1 / images.double() - 1).log()
        grey = (torch.tensor([0.2989, 0.5870, 0.1140])[None, :, None, None] * logits).sum(
            1, keepdim=True
        )
        expected = 1 / (1 + (-(gain * logits + (grey_gain or 0) * grey + offset)).exp())
        before = images.clone()
        found = change_lighting(images, colour=step(gain, grey_gain, offset))
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
        assert torch.equal(images, before)


def test_black_and_white_stay_finite():
    images = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    found = change_lighting(images, colour=step(1.3, -0.2, 2.0))
    assert found.isfinite().all()
    assert 0 <= float(found.min()) < 1e-4
    assert 1 - 1e-4 < float(found.max()) <= 1


Maker = Callable[..., Tensor]
IMAGENET = Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def run(transforms: list[object], images: Tensor, *, seed: int = 0) -> Tensor:
    rows = torch.arange(len(images))
    augmentation = BatchAugmentation(transforms, seed=seed)  # pyright: ignore[reportArgumentType] any kind
    return augmentation(images, rows=rows, epoch=0, training=True)


colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(colour=colours, shift=st.floats(-1, 1))
@settings(max_examples=100)
def test_hue_matches_the_standard_library(colour: tuple[int, ...], shift: float):
    red, green, blue = (part / 255 for part in colour)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    image = torch.tensor([red, green, blue]).view(1, 3, 1, 1)
    found = turn_hue(image, shift=torch.tensor([shift]))
    torch.testing.assert_close(found.flatten(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_neutral_hue_is_exact_and_greys_have_none(make_batch: Maker):
    images = make_batch()
    for transform in [Hue(p=0), Hue(p=1, draw=0), Hue(p=1, draw=1)]:
        assert torch.equal(run([transform], images), images / 255)
    greys = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(run([Hue(p=1, draw=0.3)], greys), greys / 255)


def test_two_hues_add_up_and_come_after_the_logits(make_batch: Maker):
    images = make_batch()
    parts = [Hue(p=1, draw=0.1), Brightness(p=1, draw=0.6), Hue(p=1, draw=0.25)]
    expected = turn_hue(run([parts[1]], images), shift=torch.full((4,), 0.35))
    torch.testing.assert_close(run([*parts], images), expected, atol=1e-6, rtol=0)


def test_shifts_are_drawn_on_a_logarithmic_scale():
    draws = Draws(seed=0, epoch=0, rows=torch.arange(4000))
    shifts = Hue(0.1, 1).sample(draws, "augment/hue/0")
    assert -0.1 <= float(shifts.min()) < -0.099
    assert 0.11 < float(shifts.max()) <= 1 / 0.9 - 1
    assert float((shifts + 1).log().mean()) == pytest.approx(0, abs=0.003)
    some = Hue(0.1, 0.75).sample(draws, "augment/hue/0")
    assert float((some == 0).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_a_draw_may_be_a_function_of_the_images(make_batch: Maker):
    images = make_batch()

    def by_brightness(given: Tensor) -> Tensor:
        assert given is images
        return given.float().mean(dim=(1, 2, 3)).sub(127).sign().mul(5)

    fixed = by_brightness(images).tolist()
    found = run([Rotate(p=1, draw=by_brightness)], images)
    assert torch.equal(found, run([Rotate(p=1, draw=fixed)], images))
    assert torch.equal(run([Contrast(p=1, draw=lambda _: 2.0)], images), run([Contrast(p=1, draw=2)], images))  # fmt: skip
    assert torch.equal(run([Hue(p=1, draw=lambda x: [0.1] * len(x))], images), run([Hue(p=1, draw=0.1)], images))  # fmt: skip
    with pytest.raises(ConfigError, match="at least 4"):
        run([Rotate(p=1, draw=lambda _: [1.0])], images)
    with pytest.raises(ConfigError, match="images="):
        Contrast(draw=lambda _: 1.0).sample(Draws(seed=0, epoch=0, rows=torch.arange(1)), "c")


# A bfloat16 has 8 significant bits: values in 0.5-1 are 2**-8 apart, rounding is off by 2**-9 at most. Input and output
# are both rounded. Interpolation does not enlarge the first error; colour steps do, by their slope (here below 2).
BFLOAT16_STEP = 2.0**-8


def test_bfloat16_images_are_resampled_within_one_step(make_batch: Maker):
    images = make_batch() / 255
    angle = torch.tensor(0.3)
    rotation = torch.tensor([[angle.cos(), angle.sin(), 0], [-angle.sin(), angle.cos(), 0], [0, 0, 1]])  # fmt: skip
    warp = rotation.expand(4, 3, 3)
    found = warp_images(images.bfloat16(), warp=warp, size=(30, 31))
    assert found.dtype == torch.bfloat16
    exact = warp_images(images, warp=warp, size=(30, 31))
    torch.testing.assert_close(found.float(), exact, atol=BFLOAT16_STEP, rtol=0)


def test_bfloat16_images_are_recoloured_within_two_steps(make_batch: Maker):
    images = make_batch() / 255
    draw = torch.tensor([0.8, 1.2, 1.25, 1.0], dtype=torch.float64)
    step = Saturation().follow(Contrast().follow(ColourStep.neutral(4), draw), draw)
    step = step.on(torch.device("cpu"))
    shift = torch.tensor([0.1, -0.1, 0.0, 0.05])
    for kernel in (
        lambda images: change_lighting(images, colour=step),
        lambda images: turn_hue(images, shift=shift),
    ):
        found = kernel(images.bfloat16())
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), kernel(images), atol=2 * BFLOAT16_STEP, rtol=0)


# ── Normalize ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_normalize_in_a_list_leaves_the_images_alone(make_batch: Maker):
    images, transforms = make_batch(), aug_transforms(size=12)
    for normalize in (IMAGENET, Normalize()):
        assert torch.equal(run([*transforms, normalize], images), run([*transforms], images))
        assert torch.equal(run([normalize], images), images / 255)
    augmentation = BatchAugmentation([IMAGENET])
    valid = augmentation(images, rows=torch.arange(len(images)), epoch=0, training=False)
    assert torch.equal(valid, images / 255)
    assert augmentation.normalize == IMAGENET


class OneBatch:
    """A loader of one batch that counts how often it is asked."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.num_asked = 0

    def one_batch(self) -> tuple[Tensor, Tensor]:
        self.num_asked += 1
        return self.images, torch.zeros(len(self.images))


def test_unknown_statistics_are_measured_on_one_batch():
    for call in (Normalize(), Normalize().decode):
        with pytest.raises(ConfigError, match="from_stats"):
            call(torch.zeros(1, 3, 2, 2))
    images = noise(5, 3, 8, 9) * 0.5 + 0.2
    loader = OneBatch(images)
    normalise = Normalize().set_up(loader)
    assert torch.allclose(torch.tensor(normalise.mean), images.mean((0, 2, 3)))
    assert torch.allclose(torch.tensor(normalise.std), images.std((0, 2, 3)) + 1e-7)
    found = normalise(images)
    assert torch.allclose(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(found.std((0, 2, 3)), torch.ones(3), atol=1e-5)
    assert IMAGENET.set_up(loader) is IMAGENET
    assert loader.num_asked == 1
    grey = torch.full((2, 3, 4, 4), 0.5)  # Images of one colour have a spread too.
    assert torch.isfinite(Normalize.of(grey)(grey)).all()
