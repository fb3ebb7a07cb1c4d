"""How images are scaled, cut, lit and normalised, against recorded numbers and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import ConfigError, Dihedral, Flip, RandomResizedCrop, Resize, Rotate, Zoom
from vizsla.classic import (
    CropType,
    RandomLighting,
    RandomRotate,
    RandomScale,
    Scale,
    TfmType,
    imagenet_stats,
    inception_4,
    resnet34,
    tfms_from_model,
    tfms_from_stats,
    transforms_basic,
    transforms_side_on,
    transforms_top_down,
)
from vizsla.classic.transforms import Lighting, ScaledCrop, relight


def ramp(height: int, width: int) -> np.ndarray:
    """Return an image whose red runs down and whose green runs right, 0-1."""
    image = np.zeros((height, width, 3))
    image[..., 0] = np.linspace(0, 1, height)[:, None]
    image[..., 1] = np.linspace(0, 1, width)
    return image


def test_validation_sees_the_middle():
    _, valid = tfms_from_stats(None, 32)
    found = valid(ramp(40, 80))
    assert found.shape == (3, 32, 32)
    assert found.dtype == np.float32
    assert found[0].min() < 0.03
    assert found[0].max() > 0.97
    # The smaller side is 40 of 80 columns: the middle half is left.
    assert (found[1].min(), found[1].max()) == pytest.approx((0.26, 0.74), abs=0.02)


def test_validation_is_the_same_each_time_and_training_is_not():
    train, valid = tfms_from_model(resnet34, 32)
    image = ramp(40, 120)
    assert np.array_equal(valid(image), valid(image))
    assert len({train(image).tobytes() for _ in range(6)}) > 1


def test_training_without_augmentation_slides_along_the_longer_side_only():
    train, _ = tfms_from_stats(None, 32)
    starts = {round(float(train(ramp(32, 96))[1].min()), 2) for _ in range(12)}
    assert len(starts) > 4
    assert all(0 <= start <= 0.67 for start in starts)
    assert train(ramp(32, 96))[0].max() == pytest.approx(1, abs=0.01)


def test_images_are_scaled_to_the_recorded_sizes(recorded: Any):
    for sizes in recorded["images"]["sz224"]:
        height, width = sizes["in_hw"]
        strip = Resize(224).presize(Image.new("RGB", (width, height)), training=True)
        expected = sizes["scaled_hw"]
        assert abs(strip.shape[0] - expected[0]) <= 1
        assert abs(strip.shape[1] - expected[1]) <= 1


def test_a_zoom_becomes_part_of_the_one_map_and_leaves_pixels_to_spare():
    train, valid = tfms_from_model(resnet34, 224, aug_tfms=transforms_side_on, max_zoom=1.1)
    assert train.sizing == Resize(247, reducing_gap=1)
    assert [type(policy) for policy in train.policies] == [Rotate, Flip, Zoom]
    zoom = train.policies[-1]
    assert isinstance(zoom, Zoom)
    assert (zoom.min_zoom, zoom.max_zoom, zoom.p) == (1.0, 1.1, 0.75)
    assert train.lighting == (RandomLighting(0.05, 0.05),)
    assert valid.sizing == Resize(224, reducing_gap=1)
    assert (valid.policies, valid.lighting) == ((), ())


def test_the_lists_are_those_of_the_original():
    assert transforms_basic == [RandomRotate(10), RandomLighting(0.05, 0.05)]
    assert transforms_side_on[:2] == transforms_top_down[:2] == transforms_basic
    turned, _ = tfms_from_model(resnet34, 32, aug_tfms=transforms_top_down)
    assert turned.policies[-1] == Dihedral(1.0)


def test_a_crop_becomes_a_sizing():
    def crop(size: int, short_side: int, *, pad: int = 0, centred: bool = False) -> ScaledCrop:
        border = {"pad": pad, "pad_mode": "reflection"}
        return ScaledCrop(size=(size, size), short_side=short_side, centred_only=centred, **border)  # pyright: ignore[reportArgumentType]

    cases: tuple[tuple[dict[str, Any], object], ...] = (
        ({}, Resize(32, reducing_gap=1)),
        ({"crop_type": CropType.NO}, Resize(32, "squish", reducing_gap=1)),
        ({"crop_type": CropType.GOOGLENET}, RandomResizedCrop(32, 0.08, (0.75, 1.333))),
        ({"crop_type": CropType.CENTER}, crop(32, 32, centred=True)),
        ({"pad": 4}, crop(32, 32, pad=4)),
        ({"scale": Scale(40)}, crop(32, 40)),
        ({"scale": [RandomScale(40, (1.0, 1.5))]}, crop(48, 60)),
    )
    for options, sizing in cases:
        train, _ = tfms_from_model(resnet34, 32, **options)
        assert train.sizing == sizing
        assert train(ramp(50, 60)).shape == (3, 32, 32)


def test_a_centred_crop_is_centred_in_training_too():
    train, valid = tfms_from_stats(None, 32, crop_type=CropType.CENTER)
    assert train(ramp(40, 90)) == pytest.approx(valid(ramp(40, 90)), abs=1e-6)


def test_validation_is_squashed_or_cut_in_the_middle():
    assert tfms_from_model(resnet34, 32, crop_type=CropType.NO)[1].sizing == Resize(
        32, "squish", reducing_gap=1
    )
    assert tfms_from_model(resnet34, 32, crop_type=CropType.GOOGLENET)[1].sizing == Resize(
        32, reducing_gap=1
    )
    _, valid = tfms_from_stats(None, 32, scale=Scale(64))
    found = valid(ramp(64, 64))
    assert (found[0].min(), found[0].max()) == pytest.approx((0.25, 0.75), abs=0.02)


def test_a_border_lets_the_crop_reach_beyond_the_image():
    train, _ = tfms_from_stats(None, 32, pad=8, pad_mode=0)
    corners = [train(np.ones((32, 32, 3)))[:, 0, 0].sum() for _ in range(12)]
    assert 0 in corners


def test_lighting_and_contrast_have_the_recorded_formula(recorded: Any):
    golden = recorded["images"]["lighting"]
    pixels = np.array(golden["in"]).reshape(golden["shape"])
    images = torch.tensor(pixels, dtype=torch.float64).permute(2, 0, 1)[None]
    found = relight(
        images, brightness=torch.tensor([golden["b"]]), contrast=torch.tensor([golden["c"] - 1])
    )
    expected = np.array(golden["out"]).reshape(golden["shape"])
    assert found[0].permute(1, 2, 0).numpy() == pytest.approx(expected, abs=golden["tolerance"])
    images = torch.tensor([0.25, 0.75], dtype=torch.float64).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    for draw, factor in recorded["images"]["contrast_map"].items():
        found = relight(images, brightness=torch.zeros(1), contrast=torch.tensor([float(draw)]))
        assert float(found[0, 0, 0, 1] - 0.5) == pytest.approx(0.25 * factor, rel=1e-6)


def test_lighting_depends_on_row_and_epoch_alone():
    light = Lighting((), size=(4, 4), seed=3, lighting=(RandomLighting(0.2, 0.2),))
    images = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    rows = torch.tensor([5, 6, 7])
    together = light(images, rows=rows, epoch=1, training=True)
    alone = light(images[:1], rows=rows[1:2], epoch=1, training=True)
    assert torch.equal(together[1:2], alone)
    assert len(together[:, 0, 0, 0].unique()) == 3
    assert not torch.equal(together, light(images, rows=rows, epoch=2, training=True))
    plain = light(images, rows=rows, epoch=1, training=False)
    assert torch.equal(plain, images.float() / 255)


def test_statistics_are_those_of_the_weights(recorded: Any):
    assert tfms_from_model(resnet34, 8)[0].stats == imagenet_stats
    assert tfms_from_model(inception_4, 8)[0].stats == ((0.5,) * 3, (0.5,) * 3)
    _, valid = tfms_from_model(resnet34, 8)
    for value, name in ((0.0, "rgb_0"), (1.0, "rgb_1")):
        found = valid(np.full((8, 8, 3), value))[:, 0, 0]
        assert found == pytest.approx(recorded["images"]["normalise"][name], abs=1e-5)


def test_denorm_gives_channels_last_and_undoes_normalisation():
    _, valid = tfms_from_model(resnet34, 4)
    for images in (torch.rand(3, 4, 4), torch.rand(2, 3, 4, 4)):
        found = valid.denorm(valid.normalised(images))
        batch = images if images.ndim == 4 else images[None]
        assert found.shape == (*batch.shape[:1], 4, 4, 3)
        assert found == pytest.approx(batch.permute(0, 2, 3, 1).numpy(), abs=1e-5)


def test_targets_that_are_images_and_a_scale_below_the_size_are_refused():
    with pytest.raises(NotImplementedError, match="tfm_y"):
        tfms_from_model(resnet34, 8, tfm_y=TfmType.COORD)
    with pytest.raises(ConfigError, match="sz=32"):
        tfms_from_model(resnet34, 32, scale=Scale(16))
