"""BatchAugmentation: what training and validation do to a batch, drawing ahead, properties, one interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
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
    TensorImage,
    Warp,
    Zoom,
    aug_transforms,
)
from vizsla.augment import (
    BatchAugmentation,
    BatchTransform,
    Draws,
    Sampling,
    area_average,
    augment_images,
    prefilter_sizes,
    warp_images,
)

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


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_nothing_to_do_is_uint8_over_255_exactly(make_batch: Maker):
    images = make_batch()
    for run in [train, validate]:
        for transforms in [[], NEVER]:
            assert torch.equal(run(BatchAugmentation(transforms), images), images / 255)
    assert torch.equal(augment_images(images / 255, warp=identity(4), size=(20, 24)), images / 255)


def test_untouched_images_of_a_batch_are_exact(make_batch: Maker):
    images = make_batch(64)
    found = train(BatchAugmentation([Rotate(p=0.5), Brightness(p=0.5)]), images)
    same = [torch.equal(one, other / 255) for one, other in zip(found, images, strict=True)]
    assert 5 < sum(same) < 30


def test_results_are_new_plain_floats_of_the_final_size(make_batch: Maker):
    images = make_batch(5, (30, 24))
    before = images.clone()
    for run in [train, validate]:
        found = run(BatchAugmentation(EVERYTHING), images)
        assert found.shape == (5, 3, 9, 12)
        assert found.dtype == torch.float32
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert not found.requires_grad
        assert not found.is_inference()
        assert torch.equal(images, before)
        with torch.inference_mode():
            assert torch.equal(run(BatchAugmentation(EVERYTHING), images.clone()), found)
        assert run(BatchAugmentation(EVERYTHING), images[:0]).shape == (0, 3, 9, 12)


def test_neither_order_nor_memory_layout_matters(make_batch: Maker):
    images, rows = make_batch(9, (30, 24)), torch.tensor([3, 14, 15, 92, 65, 35, 8, 97, 9])
    augmentation = BatchAugmentation(EVERYTHING, seed=5)
    together = augmentation(images, rows=rows, epoch=1, training=True)
    order = torch.tensor([8, 0, 7, 1, 6, 2, 5, 3, 4])
    reordered = augmentation(images[order], rows=rows[order], epoch=1, training=True)
    assert torch.equal(reordered, together[order])
    assert torch.equal(train(augmentation, images.contiguous()), train(augmentation, images))
    window = make_batch(5, (30, 60))[..., 20:44]
    assert torch.equal(train(augmentation, window), train(augmentation, window.contiguous()))


def test_results_do_not_depend_on_the_number_of_threads(make_batch: Maker, threads: int):
    images, augmentation = make_batch(7, (30, 24)), BatchAugmentation(EVERYTHING, seed=5)
    found: list[Tensor] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(train(augmentation, images))
        assert torch.get_num_threads() == count
    assert torch.equal(found[0], found[1])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_thread_is_raised(make_batch: Maker):
    with pytest.raises(ValueError, match="padding_mode"):
        augment_images(
            make_batch(3), warp=identity(3), size=(5, 5), sampling=Sampling(pad_mode=WRONG)
        )


def test_seed_epoch_and_rows_decide_training_and_not_validation(make_batch: Maker):
    images, other_rows = make_batch(6, (30, 24)), torch.arange(6) + 9
    first, second = (BatchAugmentation(EVERYTHING, seed=seed) for seed in (1, 2))
    found = train(first, images)
    assert torch.equal(train(BatchAugmentation(EVERYTHING, seed=1), images), found)
    assert not torch.equal(train(second, images), found)
    assert not torch.equal(train(first, images, epoch=1), found)
    seen = second(images, rows=other_rows, epoch=4, training=False)
    assert torch.equal(validate(first, images), seen)


def test_validation_averages_before_it_shrinks_by_more_than_two(make_batch: Maker):
    images = make_batch(2, (20, 24))
    found = validate(BatchAugmentation(aug_transforms(size=(15, 18))), images)
    expected = warp_images(images.float(), warp=identity(2), size=(15, 18)) / 255
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    images = make_batch(2, (46, 50))
    found = validate(BatchAugmentation(size=(22, 22)), images)
    pooled = area_average(images.float(), size=(44, 47))
    expected = warp_images(pooled, warp=identity(2), size=(22, 22)) / 255
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_nearest_never_averages_and_a_cubic_stays_within_bounds(make_batch: Maker):
    extremes = torch.where(make_batch(2, (40, 40)) < 128, 0, 255).to(torch.uint8)
    found = train(BatchAugmentation([Rotate(p=1, size=9, mode="nearest")]), extremes)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    found = train(BatchAugmentation([Zoom(2, 2, 1, mode="bicubic")]), extremes)
    assert (float(found.min()), float(found.max())) == (0, 1)


def test_a_given_size_wins_over_the_transforms(make_batch: Maker):
    augmentation = BatchAugmentation(aug_transforms(size=16), size=(10, 11))
    assert augmentation.size == (10, 11)
    assert train(augmentation, make_batch()).shape[-2:] == (10, 11)
    unsized = BatchAugmentation(aug_transforms())
    assert unsized.size is None
    assert train(unsized, make_batch(2, (13, 17))).shape == (2, 3, 13, 17)


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


def test_a_wrong_batch_is_refused():
    for shape, dtype, count, words in [
        ((2, 3, 4, 4), torch.float32, 2, ["uint8", "float32"]),
        ((3, 4, 4), torch.uint8, 3, ["(3, 4, 4)"]),
        ((2, 1, 4, 4), torch.uint8, 2, ["(2, 1, 4, 4)"]),
        ((2, 3, 4, 4), torch.uint8, 3, ["2 images", "(3,)"]),
    ]:
        with pytest.raises(ConfigError) as caught:
            BatchAugmentation()(
                torch.zeros(shape, dtype=dtype), rows=torch.arange(count), epoch=0, training=True
            )
        assert [word for word in words if word not in str(caught.value)] == []


def zoomed(*factors: float) -> Tensor:
    warp = identity(len(factors))
    warp[:, 0, 0] = warp[:, 1, 1] = 1 / torch.tensor(factors, dtype=torch.float64)
    return warp


def test_images_are_averaged_to_twice_the_magnified_output():
    for source, size, expected in [
        ((460, 460), (224, 224), (448, 448)),
        ((448, 448), (224, 224), None),
        ((460, 448), (224, 224), None),
        ((1944, 2592), (224, 224), (448, 597)),
        ((600, 300), (100, 100), (400, 200)),
        ((100, 100), (224, 224), None),
    ]:
        assert prefilter_sizes(identity(1), source_size=source, size=size) == [expected]
    # 1000 to 100 pixels, magnified by z: 10 / z source pixels for one output pixel.
    found = prefilter_sizes(
        zoomed(1, 1.9, 2.1, 4.1, 5.1), source_size=(1000, 1000), size=(100, 100)
    )
    assert found == [(200, 200), (200, 200), (400, 400), (800, 800), None]


def test_turning_an_image_does_not_change_its_filter():
    warp = Rotate().matrix(torch.tensor([[30.0]], dtype=torch.float64))
    assert prefilter_sizes(warp, source_size=(201, 201), size=(100, 100)) == [(200, 200)]
    assert prefilter_sizes(warp, source_size=(199, 199), size=(100, 100)) == [None]


def test_a_small_crop_of_a_large_image_stays_sharp(make_batch: Maker):
    images = make_batch(1, (96, 96))
    crop = RandomResizedCropGPU(24, 0.0625, (1, 1), max_scale=0.0625)
    found = train(BatchAugmentation([crop], seed=1), images)
    windows = images.unfold(2, 24, 1).unfold(3, 24, 1)[0].permute(1, 2, 0, 3, 4) / 255
    difference = (windows - found[0]).abs().amax(dim=(2, 3, 4))
    assert float(difference.min()) < 1e-4


# ── drawing ahead ─────────────────────────────────────────────────────────────────────────────────────────────────────


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    made = []
    for size in sizes:
        rows = torch.randint(1000, (size,), generator=generator)
        images = torch.randint(256, (size, 60, 52, 3), dtype=torch.uint8, generator=generator)
        made.append((rows, images.permute(0, 3, 1, 2)))
    return made


BATCH_DEPENDENT = [
    Flip(batch=True),
    Rotate(draw=[1.0, 2.0, 3.0, 4.0, 5.0]),
    Rotate(draw=lambda x: x[:, 0, 0, 0]),
]


@pytest.mark.parametrize("training", [True, False])
def test_batches_drawn_ahead_are_the_same_bit_for_bit(training: bool):
    for transforms in [
        [*aug_transforms(size=24, min_scale=0.5), RandomErasing()],
        [],
        *([one] for one in BATCH_DEPENDENT),
    ]:
        augmentation, given = BatchAugmentation(transforms, seed=3), batches(*[5] * 20, 3, 0)
        expected = [augmentation(x, rows=rows, epoch=2, training=training) for rows, x in given]
        augment = augmentation.ahead([rows for rows, _ in given], epoch=2, training=training)
        # A batch may also come twice and out of turn.
        for number in [*range(len(given)), 1]:
            assert torch.equal(augment(number, given[number][1]), expected[number])


def test_images_of_another_size_get_new_draws():
    augmentation = BatchAugmentation(aug_transforms(size=24, min_scale=0.5))
    (rows, images), (more_rows, more) = batches(4, 4)
    small = more[..., :40, :30]
    augment = augmentation.ahead([rows, more_rows], epoch=0, training=True)
    augment(0, images)
    expected = augmentation(small, rows=more_rows, epoch=0, training=True)
    assert torch.equal(augment(1, small), expected)


# ── properties ────────────────────────────────────────────────────────────────────────────────────────────────────────

TOLERANCE = 1e-4
"""Coordinates are float32: a position is known to 1e-5 pixels, and neighbours differ by up to 1."""

sizes = st.tuples(st.integers(2, 24), st.integers(2, 24))
seeds = st.integers(0, 2**63 - 1)


@st.composite
def image_batches(draw: st.DrawFn, *, square: bool = False) -> Tensor:
    height, width = draw(sizes)
    shape = (draw(st.integers(1, 4)), 3, height, height if square else width)
    noise = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)


def through(transform: BatchTransform, images: Tensor, *, seed: int = 0) -> Tensor:
    return train(BatchAugmentation([transform], seed=seed), images)


@given(images=image_batches())
@settings(max_examples=40)
def test_neutral_draws_return_the_input(images: Tensor):
    for transform in (
        Flip(p=1, draw=0),
        Dihedral(p=1, draw=0),
        Rotate(p=1, draw=0),
        Zoom(p=1, draw=1),
        Warp(p=1, draw_x=0, draw_y=0),
    ):
        assert torch.equal(through(transform, images), images / 255)


@given(images=image_batches())
@settings(max_examples=40)
def test_a_flip_mirrors_and_twice_is_the_identity(images: Tensor):
    once = through(Flip(p=1), images)
    torch.testing.assert_close(once, (images / 255).flip(-1), atol=TOLERANCE, rtol=0)
    warp = Flip().matrix(torch.ones(len(images), 1, dtype=torch.float64))
    size = images.shape[-2], images.shape[-1]
    twice = augment_images(once, warp=warp, size=size)
    torch.testing.assert_close(twice, images / 255, atol=TOLERANCE, rtol=0)
    assert torch.equal(augment_images(images, warp=warp @ warp, size=size), images / 255)


@given(images=image_batches(square=True), quarters=st.integers(-3, 3))
@settings(max_examples=40)
def test_a_quarter_turn_of_a_square_is_rot90(images: Tensor, quarters: int):
    found = through(Rotate(p=1, draw=90 * quarters), images)
    expected = torch.rot90(images / 255, -quarters, dims=(-2, -1))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@given(images=image_batches(square=True), k=st.integers(0, 7))
@settings(max_examples=40)
def test_a_dihedral_of_a_square_only_moves_pixels(images: Tensor, k: int):
    unit = images / 255
    turned = [torch.rot90(unit, k, dims=(-2, -1)) for k in range(4)]
    upside = unit.flip(-2)
    transposed, transverse = unit.transpose(-2, -1), turned[2].transpose(-2, -1)
    expected = [unit, unit.flip(-1), upside, *turned[1:], transposed, transverse]
    found = through(Dihedral(p=1, draw=k), images)
    torch.testing.assert_close(found, expected[k], atol=TOLERANCE, rtol=0)


geometric = st.sampled_from([Flip(), Dihedral(), Rotate(180, 0.7), Zoom(0.5, 3, 0.7), Warp(0.3, 0.7), RandomResizedCropGPU((5, 7)), Rotate(20, 0.7, size=3)])  # fmt: skip
of_pixels = st.sampled_from([Brightness(0.5, 0.7), Contrast(0.5, 0.7), Saturation(0.5, 0.7), Hue(0.5, 0.7), RandomErasing(0.7, max_count=2), Normalize()])  # fmt: skip


@given(
    images=image_batches(),
    transforms=st.lists(geometric | of_pixels, max_size=6, unique_by=type),
    seed=seeds,
)
@settings(max_examples=60)
def test_a_batch_equals_its_images_one_by_one(
    images: Tensor, transforms: list[BatchTransform], seed: int
):
    augmentation = BatchAugmentation(transforms, seed=seed)
    rows = torch.arange(len(images)) * 1001
    together = augmentation(images, rows=rows, epoch=3, training=True)
    for at in range(len(images)):
        one = slice(at, at + 1)
        alone = augmentation(images[one], rows=rows[one], epoch=3, training=True)
        assert torch.equal(alone, together[one])


@given(images=image_batches(), transform=geometric, seed=seeds)
@settings(max_examples=40)
def test_interpolation_invents_no_values(images: Tensor, transform: BatchTransform, seed: int):
    found, unit = through(transform, images, seed=seed), images / 255
    for image, source in zip(found, unit, strict=True):
        assert float(image.min()) >= float(source.min()) - 1e-6
        assert float(image.max()) <= float(source.max()) + 1e-6


@given(images=image_batches(), transform=of_pixels, seed=seeds)
@settings(max_examples=40)
def test_pixels_stay_within_0_and_1(images: Tensor, transform: BatchTransform, seed: int):
    found = through(transform, images, seed=seed)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(value=st.integers(0, 255), transform=geometric, seed=seeds)
@settings(max_examples=30)
def test_a_plain_image_stays_plain(value: int, transform: BatchTransform, seed: int):
    images = torch.full((2, 3, 9, 12), value, dtype=torch.uint8)
    found = through(transform, images, seed=seed)
    torch.testing.assert_close(found, torch.full_like(found, value / 255), atol=1e-6, rtol=0)


BOOK = [
    Warp(p=1, draw_x=-0.2, draw_y=0.2),
    Rotate(p=1, draw=30),
    Zoom(p=1, draw=1.2, draw_x=0.5, draw_y=0.5),
]
SIDE = 224


def photograph(name: str) -> Tensor:
    """A square of a photograph that comes with scikit-learn, 224 x 224, float 0-1."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "datasets" / "images" / f"{name}.jpg"
    with Image.open(file) as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)
    return F.interpolate(pixels.permute(2, 0, 1)[None, :, :416, 100:516], SIDE, mode="area")


def peak_signal_to_noise(found: Tensor, reference: Tensor) -> float:
    """Return decibels for the middle, without the reflected edges."""
    middle = slice(40, -40)
    error = (found - reference)[..., middle, middle].square().mean()
    return float(-10 * error.log10())


def sharpness(images: Tensor) -> float:
    """Return the root mean square of the differences between neighbours."""
    down, across = images.diff(dim=-2).square().mean(), images.diff(dim=-1).square().mean()
    return float((down + across).sqrt())


@pytest.mark.parametrize("name", ["china", "flower"])
def test_one_interpolation_is_sharper_and_truer_than_three(name: str):
    images = photograph(name)
    draws = Draws(seed=0, epoch=0, rows=torch.arange(1))
    warp = BatchAugmentation(BOOK).training_map(draws, source_size=(SIDE, SIDE))
    fine = warp_images(images, warp=warp, size=(4 * SIDE, 4 * SIDE), mode="bicubic")
    reference = area_average(fine, size=(SIDE, SIDE))

    composed = Pipeline(BOOK)(images)
    one_by_one = images
    for step in BOOK:
        one_by_one = Pipeline([step])(one_by_one)

    # Measured: china 38.1 and 32.7 dB, flower 36.7 and 31.8 dB; sharpness of the reference 98 % and 66 %, 94 % and 73 %.
    assert peak_signal_to_noise(composed, reference) > 36
    assert (
        peak_signal_to_noise(composed, reference) > peak_signal_to_noise(one_by_one, reference) + 4
    )
    assert sharpness(composed) > 0.93 * sharpness(reference)
    assert sharpness(one_by_one) < 0.75 * sharpness(reference)

    # Undoing the map brings back more of the photograph after one interpolation.
    back = torch.linalg.inv(warp).float()
    errors = [
        peak_signal_to_noise(TensorImage(found).affine_coord(mat=back, mode="bicubic"), images)
        for found in (composed, one_by_one)
    ]
    assert errors[0] > errors[1] + 1.5
