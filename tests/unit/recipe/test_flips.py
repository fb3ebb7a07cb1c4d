"""Which mirror images a head learns from: decided by leave-one-out, never by chance; and what the end-to-end epochs do then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import Flip, TrainConfig
from vizsla.augment import (
    BatchAugmentation,
    Brightness,
    Contrast,
    RandomResizedCropGPU,
    Zoom,
    may_mirror,
)
from vizsla.data.table import resolve_data
from vizsla.recipe import (
    FeatureLayout,
    Flips,
    HeadSetting,
    end_to_end_trainer,
    fit_feature_head,
    loaders_for,
    without_harmful,
)
from vizsla.train import Display

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

LAYOUT = FeatureLayout(stages=(0, 1), statistics=("mean",), channels=(6, 6))
BOTH = Flips(sideways=True, upside_down=True)


def decided(asked: Flips, values: Tensor, targets: Tensor, **options: Any) -> tuple[Flips, Any]:
    problem: Any = {"layout": LAYOUT, "num_classes": 2, **options}
    linear = HeadSetting(stages=LAYOUT.stages, statistics=LAYOUT.statistics)
    best = fit_feature_head(values, targets, setting=linear, **problem)
    return without_harmful(asked, values, targets, found=best, **problem)


def features(targets: Tensor, *, signs: tuple[float, ...], noise: float, seed: int = 0) -> Tensor:
    """Return ``(N, V, 12)``: the first column is the target, times a sign for each view; the rest is noise."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(len(targets), 1, 12, generator=random)
    values = image + 0.3 * torch.randn(len(targets), len(signs), 12, generator=random)
    towards = targets.float() * 2 - 1 if targets.dtype == torch.int64 else targets[:, 0]
    values[:, :, 0] = towards[:, None] * torch.tensor(signs) + noise * image[:, :, 0]
    return values


def test_flips_that_exchange_classes_are_left_out():
    classes = torch.arange(60) % 2
    numbers = torch.linspace(-1, 1, 60)[:, None]
    labels = torch.stack([classes, 1 - classes], 1).float()
    for task, targets, num in (
        ("category", classes, 2),
        ("regression", numbers, 1),
        ("multi_category", labels, 2),
    ):
        towards = classes if task == "multi_category" else targets
        cases = [
            ((1, -1, -1, 1), Flips(sideways=False), ["left and right", "up and down"]),
            ((1, -1, 1, -1), Flips(sideways=False, upside_down=True), ["left and right"]),
            ((1, 1, -1, -1), Flips(), ["up and down"]),
            ((1, 1, 1, 1), BOTH, []),
        ]
        for signs, kept, words in cases if task == "category" else cases[:1]:
            values = features(towards, signs=signs, noise=0.1)
            found, lines = decided(BOTH, values, targets, task=task, num_classes=num)
            assert found == kept, (task, signs)
            assert [word in line for word, line in zip(words, lines, strict=True)] == [True] * len(words)  # fmt: skip
    assert Flips(sideways=False, upside_down=True).views == ("plain", "upside down")
    assert BOTH.views == ("plain", "mirrored", "upside down", "turned")


def test_mirroring_is_not_switched_off_by_chance():
    for seed in range(9):
        random = torch.Generator().manual_seed(seed)
        number = (12, 40, 100)[seed % 3]
        targets = torch.randint(2, (number,), generator=random)
        # From classes that are easy to those that differ in nothing.
        values = features(targets, signs=(1, 1), noise=(0.3, 2, 1000)[seed // 3], seed=seed)
        assert decided(Flips(), values, targets, seed=seed) == (Flips(), ())


def test_a_flip_of_a_few_images_in_many_is_noticed_and_a_rare_one_is_not():
    targets = torch.arange(300) % 2
    for share, is_kept in ((0.2, False), (0.01, True)):
        signs = torch.where(torch.rand(300, generator=torch.Generator().manual_seed(1)) < share, -1, 1)  # fmt: skip
        values = features(targets, signs=(1, 1), noise=0.1)
        values[:, 1, 0] *= signs
        values[:, :, 1] = (signs < 0).float()[:, None] * values[:, :, 0]  # what to look at there
        found, _ = decided(Flips(), values, targets)
        assert found.sideways == is_kept, share


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, [Flip, "Warp", "Rotate", Zoom, Brightness, Contrast, RandomResizedCropGPU]),
        ({"augment": "light", "flip": False}, ["Warp", "Rotate", Zoom, Brightness, Contrast, RandomResizedCropGPU]),
        ({"augment": "strong", "colour": False, "vertical_flip": True}, [Flip, "Warp", "Rotate", Zoom, RandomResizedCropGPU, Flip]),
        ({"augment": "none"}, []),
        ({"augment": "none", "flip": True}, [Flip]),
    ],
)  # fmt: skip
def test_switches_decide_what_the_end_to_end_epochs_do(
    options: Any, kinds: list[Any], image_folder: Path, make_classifier: Callable[..., Any]
):
    config = TrainConfig(size=32, batch_size=4, epochs=1, device="cpu", **options)
    loaders = loaders_for(resolve_data(image_folder, seed=0), config=config)
    classifier = make_classifier(("cross", "disc"))
    quiet = Display(quiet=True)
    trainer = end_to_end_trainer(loaders, classifier, config=config, display=quiet)
    transforms = trainer.dls.augmentation.transforms
    names = [kind if isinstance(kind, str) else kind.__name__ for kind in kinds]
    assert [type(one).__name__ for one in transforms] == names
    assert may_mirror(transforms) == (options.get("flip") is not False)
    for batch in trainer.dls.train.batches():
        assert batch.images.shape[2:] == (32, 32)


def test_a_vertical_flip_exchanges_top_and_bottom():
    images = torch.randint(0, 256, (3, 3, 8, 6), dtype=torch.uint8)
    augment = BatchAugmentation([Flip(p=1, vertical=True)])
    seen = augment(images, rows=torch.arange(3), epoch=0, training=True)
    torch.testing.assert_close(seen, images.flip(2) / 255, atol=1e-5, rtol=0)
