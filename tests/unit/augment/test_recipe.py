"""What is drawn for many batches at once is what each of them would get alone."""

from __future__ import annotations

import pytest
import torch

from vizsla.augment.batch_augmentation import (
    BatchAugmentation,
    BatchTransform,
    GeometricTransform,
    _looks_at_the_batch,
)
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.geometry import Flip, Rotate
from vizsla.augment.presets import aug_transforms

TRANSFORMS = [*aug_transforms(size=24, min_scale=0.5), RandomErasing()]


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    made = []
    for size in sizes:
        rows = torch.randint(1000, (size,), generator=generator)
        images = torch.randint(256, (size, 60, 52, 3), dtype=torch.uint8, generator=generator)
        made.append((rows, images.permute(0, 3, 1, 2)))
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("transforms", [TRANSFORMS, []])
def test_foreseen_batches_are_the_same_bit_for_bit(
    training: bool, transforms: list[BatchTransform]
):
    augmentation = BatchAugmentation(transforms, seed=3)
    given = batches(*[5] * 20, 3, 0)
    expected = [augmentation(x, rows=rows, epoch=2, training=training) for rows, x in given]
    with augmentation.foresee([rows for rows, _ in given], epoch=2, training=training):
        found = [augmentation(x, rows=rows, epoch=2, training=training) for rows, x in given]
        # Also where one is asked for again, or out of turn, or was not foreseen.
        again = augmentation(given[1][1], rows=given[1][0], epoch=2, training=training)
        unforeseen = augmentation(given[1][1], rows=given[1][0].clone(), epoch=2, training=training)
        other_epoch = augmentation(given[1][1], rows=given[1][0], epoch=1, training=training)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(again, expected[1])
    assert torch.equal(unforeseen, expected[1])
    alone = augmentation(given[1][1], rows=given[1][0], epoch=1, training=training)
    assert torch.equal(other_epoch, alone)


def test_pictures_of_another_size_are_drawn_for_anew():
    augmentation = BatchAugmentation(TRANSFORMS)
    (rows, images), (more_rows, more) = batches(4, 4)
    small = more[..., :40, :30]
    with augmentation.foresee([rows, more_rows], epoch=0, training=True):
        augmentation(images, rows=rows, epoch=0, training=True)
        found = augmentation(small, rows=more_rows, epoch=0, training=True)
    assert torch.equal(found, augmentation(small, rows=more_rows, epoch=0, training=True))


@pytest.mark.parametrize(
    "transform", [Flip(batch=True), Rotate(draw=[1.0, 2.0]), Rotate(draw=lambda x: x[:, 0, 0, 0])]
)
def test_what_depends_on_the_batch_is_drawn_batch_by_batch(transform: GeometricTransform):
    assert _looks_at_the_batch(transform)
    augmentation = BatchAugmentation([transform])
    given = batches(2, 2)
    expected = [augmentation(x, rows=rows, epoch=0, training=True) for rows, x in given]
    with augmentation.foresee([rows for rows, _ in given], epoch=0, training=True):
        found = [augmentation(x, rows=rows, epoch=0, training=True) for rows, x in given]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_fixed_numbers_and_chances_are_for_each_picture_alone():
    assert not _looks_at_the_batch(Rotate(draw=10.0))
