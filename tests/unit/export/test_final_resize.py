"""FinalResize does to validation pictures exactly what the augmentation did that it was taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla.augment.batch_augmentation import BatchAugmentation, BatchTransform
from vizsla.augment.geometry import Flip, RandomResizedCropGPU
from vizsla.augment.presets import aug_transforms
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.sizing import CropPad, RandomResizedCrop, RatioResize, Resize
from vizsla.errors import ConfigError
from vizsla.model_file.final_resize import FinalResize, storable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vizsla.data.images.item_transforms import ItemTransforms, Sizing


@pytest.mark.parametrize(
    ("transforms", "size"),
    [
        ([], None),
        ([], (20, 24)),
        (aug_transforms(), None),
        (aug_transforms(size=24), None),
        (aug_transforms(size=24, mode="bicubic", pad_mode="zeros", align_corners=False), (30, 20)),
        (aug_transforms(size=24, min_scale=0.5), None),
        ([RandomResizedCropGPU(24, ratio=(1, 1), valid_scale=0.7)], None),
        ([Flip(mode="nearest"), RandomResizedCropGPU((16, 24), ratio=(0.5, 0.6))], None),
    ],
)
def test_validation_pictures_are_the_same(
    transforms: Sequence[BatchTransform], size: tuple[int, int] | None
):
    original = BatchAugmentation(transforms, size=size, seed=3)
    copy = FinalResize.of(original).augmentation()
    images = torch.randint(0, 256, (3, 3, 40, 52), dtype=torch.uint8)
    expected = original(images, rows=torch.arange(3), epoch=0, training=False)
    found = copy(images, rows=torch.arange(3), epoch=0, training=False)
    assert torch.equal(found, expected)


def test_nothing_is_random_in_it():
    augmentation = FinalResize.of(BatchAugmentation(aug_transforms(size=24))).augmentation()
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    rows = torch.arange(3)
    trained = augmentation(images, rows=rows, epoch=1, training=True)
    assert torch.equal(trained, augmentation(images, rows=rows, epoch=0, training=False))


def shown(resize: Sizing | None, augmentation: BatchAugmentation, picture: Image.Image) -> Tensor:
    pixels = np.array(picture if resize is None else resize.centred(picture))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return augmentation(images, rows=torch.arange(1), epoch=0, training=False)


def drawn(height: int = 90, width: int = 120) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [24, 37, 64])
@pytest.mark.parametrize("val_xtra", [0.0, 0.14])
def test_a_stored_random_resized_crop_shows_the_same_pixels(size: int, val_xtra: float):
    crop = RandomResizedCrop(size, val_xtra=val_xtra)
    resize, augmentation = storable(item_pipeline(crop), BatchAugmentation(aug_transforms()))
    expected = shown(crop, BatchAugmentation(aug_transforms()), drawn())
    found = shown(resize, augmentation, drawn())
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_stored_random_resized_crop_goes_on_to_the_final_size():
    crop = RandomResizedCrop(64)
    batches = BatchAugmentation(aug_transforms(size=32))
    resize, augmentation = storable(item_pipeline(crop), batches)
    found = shown(resize, augmentation, drawn())
    assert found.shape == (1, 3, 32, 32)
    assert (found - shown(crop, batches, drawn())).abs().mean() < 0.01


def test_a_plain_resize_is_stored_as_it_is():
    batches = BatchAugmentation(aug_transforms(size=24, min_scale=0.5))
    assert storable(item_pipeline(Resize(40)), batches) == (Resize(40), batches)
    assert storable(item_pipeline(None), batches) == (None, batches)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([Resize(24), np.flipud], "no code, so it cannot hold the item transforms flipud;"),
        (CropPad(24), r"cannot hold the item transform CropPad\(size=\(24, 24\)"),
        (RatioResize(24), r"cannot hold the item transform RatioResize\(max_sz=24\)\. Use Resize"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(transforms: ItemTransforms, message: str):
    with pytest.raises(ConfigError, match=message):
        storable(item_pipeline(transforms), BatchAugmentation())


def test_a_random_crop_of_pictures_and_one_of_batches_are_not_stored_together():
    batches = BatchAugmentation(aug_transforms(size=24, min_scale=0.5))
    with pytest.raises(ConfigError, match="followed by a random crop of batches"):
        storable(item_pipeline(RandomResizedCrop(40)), batches)
