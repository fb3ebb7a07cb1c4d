"""RandomErasing: the blocks of the reference, for each image independently, with noise that has an image's statistics."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vizsla import Normalize, RandomErasing, RandomResizedCropGPU, aug_transforms
from vizsla.augment import BatchAugmentation, Draws, erasing_noise

Maker = Callable[..., Tensor]
RECORD = json.loads((Path(__file__).parents[2] / "golden" / "augment.json").read_text("utf-8"))


def run(transform: RandomErasing, images: Tensor, *, rows: Tensor | None = None) -> Tensor:
    rows = torch.arange(len(images)) if rows is None else rows
    return BatchAugmentation([transform], seed=3)(images, rows=rows, epoch=1, training=True)


def middle_of_step(position: int, steps: int) -> float:
    """Return the uniform number that chooses this of ``steps`` positions."""
    return (position + 0.5) / steps


def test_blocks_have_the_sizes_of_the_reference():
    for case in RECORD["random_erasing"]:
        draw = random.Random(case["python_random_seed"])
        draw.randint(1, 2)  # the number of blocks, recorded as "count"
        height, width = case["img_hw"]
        uniform: list[list[float]] = []
        for top, bottom, left, right in case["areas"]:
            shape = [draw.random(), draw.random()]
            rows, columns = height - (bottom - top), width - (right - left)
            assert (draw.randint(0, rows), draw.randint(0, columns)) == (top, left)
            uniform.append(
                [*shape, middle_of_step(top, rows + 1), middle_of_step(left, columns + 1)]
            )
        transform = RandomErasing(1, case["sl"], case["sh"], case["min_aspect"], case["count"])
        counts = torch.tensor([float(case["count"])])
        boxes = transform.boxes(
            torch.tensor([uniform]).double(), counts=counts, size=(height, width)
        )
        expected = [[top, left, bottom - top, right - left] for top, bottom, left, right in case["areas"]]  # fmt: skip
        assert boxes[0].tolist() == expected


def test_windows_have_the_sizes_of_the_reference():
    for case in RECORD["rrcgpu_sampling"]:
        draw = random.Random(case["python_random_seed"])
        tries = [(draw.random(), draw.random()) for _ in range(10)]
        limits = [side - cut + 1 for side, cut in zip(case["hw"], case["crop_hw"], strict=True)]
        places = [
            middle_of_step(at, steps) for at, steps in zip(case["tl_yx"], limits, strict=True)
        ]
        uniform = [*(area for area, _ in tries), *(ratio for _, ratio in tries), *places]
        crop = RandomResizedCropGPU(224, case["min_scale"], case["ratio"])
        height, width = case["hw"]
        (box,) = crop.boxes(torch.tensor([uniform]).double(), source_size=(height, width))
        assert box.tolist() == [*case["tl_yx"], *case["crop_hw"]]


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    sl=st.floats(0, 1), more=st.floats(0, 1), aspect=st.floats(0.01, 1), most=st.integers(1, 4), seed=st.integers(0, 2**40),
)  # fmt: skip
@settings(max_examples=60)
def test_blocks_lie_within_the_image(
    size: tuple[int, int], sl: float, more: float, aspect: float, most: int, seed: int
):
    transform = RandomErasing(1, sl, sl + more * (1 - sl), aspect, most)
    draws = Draws(seed=seed, epoch=0, rows=torch.arange(20))
    erasing = transform.blocks(draws, "erasing", size=size, normalize=None)
    boxes, offsets = erasing.boxes, erasing.offsets
    assert boxes.shape == (20, most, 4)
    assert bool((boxes >= 0).all())
    assert bool((boxes[..., :2] + boxes[..., 2:] <= torch.tensor(size)).all())
    assert bool((offsets < torch.tensor(size)).all())


def test_blocks_have_the_given_probability_number_area_and_shape():
    transform = RandomErasing(0.5, 0.1, 0.3, 0.5, 3)
    draws = Draws(seed=0, epoch=0, rows=torch.arange(4000))
    boxes = transform.blocks(draws, "erasing", size=(200, 100), normalize=None).boxes
    blocks = (boxes[..., 2] > 0).sum(dim=1)
    share = blocks.bincount(minlength=4) / len(blocks)
    assert share.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6], abs=0.02)
    area = (boxes[..., 2] * boxes[..., 3]).sum(dim=1)[blocks > 0] / 20000
    assert float(area.mean()) == pytest.approx(0.2, abs=0.005)
    assert 0.09 < float(area.min()) < float(area.max()) < 0.31
    tall = boxes[..., 2].double() / boxes[..., 3]
    tall = tall[boxes[..., 2] > 0].log() / math.log(2)
    assert float(tall.abs().max()) < 1.1
    assert float(tall.mean()) == pytest.approx(0, abs=0.04)


def test_only_blocks_change_and_every_image_has_its_own(make_batch: Maker):
    images = make_batch(40, (16, 12))
    found = run(RandomErasing(0.5, 0.1, 0.3), images)
    changed = (found != images / 255).any(dim=1)
    erased = changed.flatten(1).any(dim=1)
    assert 10 < int(erased.sum()) < 30
    for one in changed[erased]:
        height, width = one.any(dim=1).sum(), one.any(dim=0).sum()
        assert int(one.sum()) == int(height * width) < 100
    found = run(RandomErasing(1, 0.2, 0.3), torch.full((6, 3, 20, 24), 7, dtype=torch.uint8))
    assert len({tuple(image.flatten().tolist()) for image in found}) == 6


def test_noise_has_the_statistics_of_images():
    for normalize in (None, Normalize(), Normalize.from_stats([0.5] * 3, [0.1] * 3)):
        noise = erasing_noise((100, 100), seed=1, normalize=normalize)
        mean = [0.5] * 3 if normalize and normalize.mean else [0.485, 0.456, 0.406]
        assert noise.mean(dim=(1, 2)).tolist() == pytest.approx(mean, abs=0.01)
        assert 0 <= float(noise.min()) < float(noise.max()) <= 1
    assert not torch.equal(erasing_noise((9, 9), seed=1), erasing_noise((9, 9), seed=2))


def test_erasing_is_the_last_step_and_has_the_final_size(make_batch: Maker):
    images = make_batch(3, (40, 40))
    transforms = aug_transforms(size=(10, 12))
    plain = BatchAugmentation(transforms, seed=1)
    erased = BatchAugmentation([RandomErasing(1, 0.3, 0.4), *transforms], seed=1)
    rows = torch.arange(3)
    one, other = (a(images, rows=rows, epoch=0, training=True) for a in (plain, erased))
    assert other.shape == (3, 3, 10, 12)
    same = (one == other).all(dim=1).double().mean(dim=(1, 2))
    assert all(0.5 < float(share) < 0.8 for share in same)
    valid = erased(images, rows=rows, epoch=0, training=False)
    assert torch.equal(valid, plain(images, rows=rows, epoch=0, training=False))
