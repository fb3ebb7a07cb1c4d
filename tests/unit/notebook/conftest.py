"""A small folder of named images, its description, and a learner with random weights; figures are closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from vizsla import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    Learner,
    RandomSplitter,
    RegexLabeller,
    Resize,
    aug_transforms,
    get_image_files,
    using_attr,
    vision_learner,
)

BREEDS = ("Bengal", "Birman", "beagle", "great_pyrenees")
SIZES_WH = ((50, 38), (40, 60), (64, 48), (33, 50), (60, 40))
LABEL = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="session")
def breeds(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """A folder ``images`` with Bengal_1.jpg ... great_pyrenees_5.jpg, of five sizes."""
    folder = tmp_path_factory.mktemp("pets") / "images"
    folder.mkdir()
    for label in BREEDS:
        for number, (width, height) in enumerate(SIZES_WH, start=1):
            image = draw(label, number=number, size=(height, width))
            image.save(folder / f"{label}_{number}.jpg")
    return folder


@pytest.fixture(scope="session")
def pets() -> DataBlock:
    """The description of the images, presized to 36 and augmented to 24 pixels."""
    return DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=LABEL,
        item_tfms=Resize(36),
        batch_tfms=aug_transforms(size=24, min_scale=0.75),
    )


@pytest.fixture(scope="session")
def learn(pets: DataBlock, breeds: Path) -> Learner:
    """An untrained learner of these images; tests do not change it."""
    loaders = pets.dataloaders(breeds, bs=4, num_workers=0, device="cpu")
    return vision_learner(loaders, "efficientnet_lite0", quiet=True)


@pytest.fixture
def dls(pets: DataBlock, breeds: Path) -> DataLoaders:
    """Their loaders, 16 training and 4 validation images in batches of 4."""
    return pets.dataloaders(breeds, bs=4, num_workers=0, device="cpu")
