"""FinalResize does to validation pictures exactly what the augmentation did that it was taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.augment.apply import BatchAugmentation
from vizsla.augment.policy import BatchTransform, Flip, RandomResizedCropGPU, aug_transforms
from vizsla.export.final_resize import FinalResize

if TYPE_CHECKING:
    from collections.abc import Sequence


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
