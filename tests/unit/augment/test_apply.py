"""BatchAugmentation: what training and validation do to a uint8 batch, and that it is exact where nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from vizsla.augment.apply import augment_images
from vizsla.augment.batch_augmentation import BatchAugmentation, BatchTransform
from vizsla.augment.colour import Brightness, Contrast, Hue, Saturation
from vizsla.augment.erasing import RandomErasing
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.augment.kernels import area_average, prefilter_sizes, warp_images
from vizsla.augment.presets import aug_transforms
from vizsla.errors import ConfigError

Maker = Callable[..., Tensor]
WRONG: Any = "mirror"

NEVER: list[BatchTransform] = [
    Flip(0), Dihedral(0), Warp(p=0), Rotate(p=0), Zoom(p=0), Brightness(p=0), Contrast(p=0), Saturation(p=0), Hue(p=0), RandomErasing(p=0),
]  # fmt: skip
EVERYTHING = aug_transforms(size=(9, 12), min_scale=0.3, max_rotate=40, p_affine=0.6, p_lighting=0.5, xtra_tfms=[Saturation(p=0.5), Dihedral(), Hue(p=0.5), RandomErasing(p=0.5)])  # fmt: skip


def identity(count: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)


def train(augmentation: BatchAugmentation, images: Tensor, *, epoch: int = 0) -> Tensor:
    return augmentation(images, rows=torch.arange(len(images)), epoch=epoch, training=True)


def validate(augmentation: BatchAugmentation, images: Tensor) -> Tensor:
    return augmentation(images, rows=torch.arange(len(images)), epoch=0, training=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("transforms", [[], NEVER])
def test_nothing_to_do_is_uint8_over_255_exactly(
    transforms: list[BatchTransform], training: bool, make_batch: Maker
):
    images = make_batch()
    run = train if training else validate
    assert torch.equal(run(BatchAugmentation(transforms), images), images / 255)


def test_a_picture_to_which_nothing_happens_is_exact_among_others_that_change(make_batch: Maker):
    images = make_batch(64)
    found = train(BatchAugmentation([Rotate(p=0.5), Brightness(p=0.5)]), images)
    same = [torch.equal(one, other / 255) for one, other in zip(found, images, strict=True)]
    assert 5 < sum(same) < 30


@pytest.mark.parametrize("training", [True, False])
def test_results_are_float_channels_last_of_the_final_size(training: bool, make_batch: Maker):
    run = train if training else validate
    found = run(BatchAugmentation(EVERYTHING), make_batch(5, (30, 24)))
    assert found.shape == (5, 3, 9, 12)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_the_input_is_left_as_it_is(make_batch: Maker):
    images = make_batch(5, (30, 24))
    before = images.clone()
    train(BatchAugmentation(EVERYTHING), images)
    validate(BatchAugmentation(EVERYTHING), images)
    assert torch.equal(images, before)


def test_a_batch_equals_its_pictures_one_by_one_in_any_order(make_batch: Maker):
    images, rows = make_batch(9, (30, 24)), torch.tensor([3, 14, 15, 92, 65, 35, 8, 97, 9])
    augmentation = BatchAugmentation(EVERYTHING, seed=5)
    together = augmentation(images, rows=rows, epoch=1, training=True)
    order = torch.tensor([8, 0, 7, 1, 6, 2, 5, 3, 4])
    shuffled = augmentation(images[order], rows=rows[order], epoch=1, training=True)
    assert torch.equal(shuffled, together[order])
    for at in range(9):
        one = slice(at, at + 1)
        alone = augmentation(images[one], rows=rows[one], epoch=1, training=True)
        assert torch.equal(alone, together[one])


def test_memory_layout_does_not_matter(make_batch: Maker):
    images = make_batch(5, (30, 24))
    augmentation = BatchAugmentation(EVERYTHING, seed=5)
    assert torch.equal(train(augmentation, images.contiguous()), train(augmentation, images))
    window = make_batch(5, (30, 60))[..., 20:44]
    assert torch.equal(train(augmentation, window), train(augmentation, window.contiguous()))


def test_the_number_of_threads_does_not_matter(make_batch: Maker):
    images, augmentation = make_batch(7, (30, 24)), BatchAugmentation(EVERYTHING, seed=5)
    threads = torch.get_num_threads()
    found: list[Tensor] = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(train(augmentation, images))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])


def test_the_settings_of_torch_are_left_as_they_are(make_batch: Maker):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        train(BatchAugmentation(EVERYTHING), make_batch(2))
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_thread_arrives(make_batch: Maker):
    images = make_batch(3)
    with pytest.raises(ValueError, match="padding_mode"):
        augment_images(images, warp=identity(3), size=(5, 5), pad_mode=WRONG)


def test_seed_and_epoch_change_the_result_and_repeat_it(make_batch: Maker):
    images = make_batch(6, (30, 24))
    first = train(BatchAugmentation(EVERYTHING, seed=1), images)
    assert torch.equal(train(BatchAugmentation(EVERYTHING, seed=1), images), first)
    assert not torch.equal(train(BatchAugmentation(EVERYTHING, seed=2), images), first)
    assert not torch.equal(train(BatchAugmentation(EVERYTHING, seed=1), images, epoch=1), first)


def test_validation_does_not_depend_on_seed_rows_or_epoch(make_batch: Maker):
    images = make_batch(3, (30, 24))
    found = validate(BatchAugmentation(EVERYTHING, seed=1), images)
    other = BatchAugmentation(EVERYTHING, seed=2)(
        images, rows=torch.tensor([9, 7, 5]), epoch=4, training=False
    )
    assert torch.equal(found, other)


def test_validation_resizes_once(make_batch: Maker):
    images = make_batch(2, (20, 24))
    found = validate(BatchAugmentation(aug_transforms(size=(15, 18))), images)
    expected = warp_images(images.float(), warp=identity(2), size=(15, 18)) / 255
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_validation_averages_before_it_shrinks_by_more_than_two(make_batch: Maker):
    images = make_batch(2, (46, 50))
    found = validate(BatchAugmentation(size=(22, 22)), images)
    pooled = area_average(images.float(), size=(44, 47))
    expected = warp_images(pooled, warp=identity(2), size=(22, 22)) / 255
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_nearest_neighbours_are_never_averages(make_batch: Maker):
    images = make_batch(2, (40, 40)).clone()
    images[images < 128] = 0
    images[images >= 128] = 255
    found = train(BatchAugmentation([Rotate(p=1, size=9, mode="nearest")]), images)
    assert set(found.unique().tolist()) <= {0.0, 1.0}


def test_a_cubic_that_overshoots_stays_within_bounds(make_batch: Maker):
    images = make_batch(2).clone()
    images[:] = torch.where(images < 128, 0, 255)
    found = train(BatchAugmentation([Zoom(2, 2, 1, mode="bicubic")]), images)
    assert float(found.min()) == 0
    assert float(found.max()) == 1


def test_a_given_size_comes_before_that_of_the_transforms(make_batch: Maker):
    augmentation = BatchAugmentation(aug_transforms(size=16), size=(10, 11))
    assert augmentation.size == (10, 11)
    assert train(augmentation, make_batch()).shape[-2:] == (10, 11)


def test_no_size_at_all_keeps_that_of_the_pictures(make_batch: Maker):
    augmentation = BatchAugmentation(aug_transforms())
    assert augmentation.size is None
    assert train(augmentation, make_batch(2, (13, 17))).shape == (2, 3, 13, 17)


def test_an_empty_batch_stays_empty():
    empty = torch.empty((0, 3, 20, 24), dtype=torch.uint8)
    for run in (train, validate):
        assert run(BatchAugmentation(EVERYTHING), empty).shape == (0, 3, 9, 12)


def test_nothing_is_recorded_for_a_backward_pass(make_batch: Maker):
    found = train(BatchAugmentation(EVERYTHING), make_batch())
    assert not found.requires_grad
    assert not found.is_inference()


def test_inference_mode_gives_the_same(make_batch: Maker):
    images = make_batch(5, (30, 24))
    with torch.inference_mode():
        found = train(BatchAugmentation(EVERYTHING), images.clone())
        seen = validate(BatchAugmentation(EVERYTHING), images.clone())
    assert torch.equal(found, train(BatchAugmentation(EVERYTHING), images))
    assert torch.equal(seen, validate(BatchAugmentation(EVERYTHING), images))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(make_batch: Maker):
    images, rows = make_batch(33, (60, 48)), torch.arange(33)
    augmentation = BatchAugmentation(EVERYTHING, seed=5)
    for training in (True, False):
        expected = augmentation(images, rows=rows, epoch=1, training=training)
        found = augmentation(images.cuda(), rows=rows, epoch=1, training=training)
        assert found.is_cuda
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


def test_float_pictures_keep_their_scale(make_batch: Maker):
    images = make_batch(2) / 255
    found = augment_images(images, warp=identity(2), size=(20, 24))
    assert torch.equal(found, images)


@pytest.mark.parametrize(
    ("images", "rows", "words"),
    [
        (torch.zeros(2, 3, 4, 4), torch.arange(2), ["uint8", "float32"]),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.arange(3), ["(3, 4, 4)"]),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), ["(2, 1, 4, 4)"]),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(3), ["2 images", "(3,)"]),
    ],
)
def test_what_is_no_batch_is_refused_in_words(images: Tensor, rows: Tensor, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        BatchAugmentation()(images, rows=rows, epoch=0, training=True)
    for word in words:
        assert word in str(caught.value)


def zoomed(*factors: float) -> Tensor:
    warp = identity(len(factors))
    warp[:, 0, 0] = warp[:, 1, 1] = 1 / torch.tensor(factors, dtype=torch.float64)
    return warp


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((460, 460), (224, 224), (448, 448)),
        ((448, 448), (224, 224), None),
        ((460, 448), (224, 224), None),
        ((1944, 2592), (224, 224), (448, 597)),
        ((600, 300), (100, 100), (400, 200)),
        ((100, 100), (224, 224), None),
    ],
)
def test_pictures_are_averaged_to_twice_the_output(
    source: tuple[int, int], size: tuple[int, int], expected: tuple[int, int] | None
):
    assert prefilter_sizes(identity(1), source_size=source, size=size) == [expected]


def test_a_picture_that_is_magnified_keeps_its_detail():
    # 1000 to 100 pixels, magnified by z: 10 / z source pixels for one output pixel.
    found = prefilter_sizes(
        zoomed(1, 1.9, 2.1, 4.1, 5.1), source_size=(1000, 1000), size=(100, 100)
    )
    assert found == [(200, 200), (200, 200), (400, 400), (800, 800), None]


def test_turning_a_picture_does_not_change_its_filter():
    turned = BatchAugmentation([Rotate(p=1, draw=30)])
    angle = torch.tensor(30.0).deg2rad()
    warp = identity(1)
    warp[0, :2, :2] = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    assert turned.size is None
    assert prefilter_sizes(warp, source_size=(201, 201), size=(100, 100)) == [(200, 200)]
    assert prefilter_sizes(warp, source_size=(199, 199), size=(100, 100)) == [None]


def test_a_small_crop_of_a_large_picture_is_as_sharp_as_without_the_rest(make_batch: Maker):
    images = make_batch(1, (96, 96))
    crop = RandomResizedCropGPU(24, 0.0625, (1, 1), max_scale=0.0625)
    found = train(BatchAugmentation([crop], seed=1), images)
    windows = images.unfold(2, 24, 1).unfold(3, 24, 1)[0].permute(1, 2, 0, 3, 4) / 255
    difference = (windows - found[0]).abs().amax(dim=(2, 3, 4))
    assert float(difference.min()) < 1e-4
