"""What cells of notebooks write gives what fastai gave (``tests/golden/notebook_helpers.py`` recorded it), or says what to write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import (
    ClassificationInterpretation,
    ConfigError,
    DataBlock,
    ImageDataLoaders,
    LabelError,
    PILImage,
    RandomResizedCrop,
    Resize,
    get_image_files,
    show_image,
    vision_learner,
)
from vizsla.notebook import load_pickle, parallel, patch_image, save_pickle, to_cpu

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "notebook_helpers.json").read_text("utf-8")
)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """The images that fastai was given: eight in each of two folders."""
    for label, number in ((label, number) for label in "ab" for number in range(8)):
        (tmp_path / label).mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / label / f"{number}.png")
    return tmp_path


@pytest.fixture
def _patched() -> Iterator[None]:
    """Pillow's images as ``from vizsla.all import *`` leaves them, for this test alone."""
    before = set(vars(Image.Image))
    for _ in range(2):
        patch_image()
    yield
    for name in set(vars(Image.Image)) - before:
        delattr(Image.Image, name)


@pytest.mark.usefixtures("_patched")
def test_every_image_of_pillow_has_the_sizes_of_fastai(labelled: Path):
    golden = GOLDEN["pil_images"]
    with Image.open(labelled / "a" / "0.png") as opened:
        plain: Any = opened.copy()
        thumb = opened.to_thumb(16)  # pyright: ignore[reportAttributeAccessIssue] (given by the import)
        assert type(thumb) is Image.Image
    own = PILImage.create(labelled / "a" / "0.png")
    for image in (plain, own):
        assert list(image.shape) == golden["shape"][0]
        assert image.n_px == golden["n_px"][0]
        assert image.aspect == golden["aspect"]
        thumbs = [image.to_thumb(*to) for to in ((16,), (16, 8), (100,))]
        assert [list(one.size) for one in thumbs] == golden["to_thumb"]
        assert list(image.reshape(10, 20).size) == golden["reshape"]
        for limits, size in golden["resize_max"]:
            made = image.resize_max(**limits)
            assert (list(made.size), type(made)) == (size, type(image))


def test_item_transforms_have_the_names_of_fastai():
    transforms = (Resize(64), Resize(64, "squish"), RandomResizedCrop(64))
    ours = ", 'reducing_gap': 3.0"
    assert [each.name.replace(ours, "") for each in transforms] == GOLDEN["names"]


def test_loaders_have_the_classes_of_fastai(labelled: Path):
    import pandas as pd

    options: dict[str, Any] = {"item_tfms": Resize(16), "bs": 2, "seed": 1}
    files = get_image_files(labelled)
    frame = pd.DataFrame({"file": list(map(str, files)), "label": [file.parent.name for file in files]})  # fmt: skip
    block = DataBlock.from_columns(
        get_items=lambda df: (df["file"], df["label"]), item_tfms=Resize(16)
    )
    with pytest.warns(UserWarning, match="only one class, 'a'"):
        flat = ImageDataLoaders.from_folder(labelled / "a", valid_pct=0.5, **options)
    made = {
        "bool": ImageDataLoaders.from_path_func(labelled, files, lambda path: path.parent.name == "a", **options),
        "int": ImageDataLoaders.from_path_func(labelled, files, lambda path: int(path.stem) % 2, **options),
        "flat": flat,
        "columns": block.dataloaders(frame, bs=2),
        "shuffle_train": ImageDataLoaders.from_df(frame, "/", shuffle_train=True, **options),
    }  # fmt: skip
    for name, dls in made.items():
        found = [list(dls.vocab), len(dls.train_ds), len(dls.valid_ds)]
        assert found == GOLDEN["labels"][name], name
        assert [type(each) for each in dls.vocab] == [type(each) for each in GOLDEN["labels"][name][0]]  # fmt: skip
    with pytest.raises(LabelError, match="only one class"):
        vision_learner(flat, "test_resnet", pretrained=False).fit(1)
    with pytest.raises(ConfigError, match="shuffle_train=False"):
        ImageDataLoaders.from_df(frame, "/", shuffle_train=False, **options)
    for columns in ((["a"], ["b", "c"]), (["a"],), ()):
        with pytest.raises(ConfigError, match="from_columns"):
            DataBlock.from_columns().datasets(columns)


def test_figures_have_the_sizes_of_fastai(labelled: Path):
    dls = ImageDataLoaders.from_folder(labelled, valid_pct=0.7, item_tfms=Resize(32), bs=4, seed=1)
    learn = vision_learner(dls, "test_resnet", pretrained=False, quiet=True)
    interp = ClassificationInterpretation.from_learner(learn)
    assert {name for name in GOLDEN["cells"]["interpretation"] if not hasattr(interp, name)} == set()  # fmt: skip
    shown = {
        "results": [learn.show_results, lambda **options: learn.show_results(dl=dls.test_dl(get_image_files(labelled), with_labels=True), **options)],
        "batch": [dls.valid.show_batch],
    }  # fmt: skip
    for what, options, size, count in GOLDEN["figures"]:
        for show in shown[what]:
            show(**options)
            figure = plt.gcf()
            assert size is None or list(figure.get_size_inches()) == size
            assert sum(bool(axes.images) for axes in figure.axes) == count
    for draw, count in (
        (lambda: interp.show_results([0, 2], nrows=2, figsize=(3, 6)), 2),
        (lambda: interp.show_results(1), 1),
        (lambda: interp.plot_top_losses(range(2, 5)), 3),
        (lambda: interp.plot_top_losses(torch.tensor([0]), nrows=1), 1),
    ):
        plt.close("all")
        draw()
        assert sum(bool(axes.images) for axes in plt.gcf().axes) == count
    with pytest.raises(ConfigError):
        learn.show_results(nrows=0)
    axes = show_image(torch.rand(5, 5), interpolation="nearest", cmap="Greys", vmin=0, alpha=0.5)  # fmt: skip
    (drawn,) = axes.images
    assert (drawn.get_cmap().name, drawn.get_interpolation(), drawn.get_alpha()) == ("Greys", "nearest", 0.5)  # fmt: skip


class Pair(NamedTuple):
    x: torch.Tensor
    y: str


def test_helpers_of_cells_give_what_fastai_gives():
    golden = GOLDEN["cells"]
    assert parallel(pow, [1, 2, 3], 2, n_workers=0) == [1, 4, 9]
    assert parallel(len, iter(["a", "bc"]), n_workers=2, threadpool=True) == golden["parallel_threads"]  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        parallel(lambda x: 1 / x, [1, 0], progress=True)
    nested = (torch.ones(2), [torch.ones(1)], {"a": torch.ones(1)}, 3)
    moved = to_cpu(nested)
    assert [type(part).__name__ for part in moved] == golden["to_cpu"]
    assert torch.equal(moved[2]["a"], nested[2]["a"])
    assert to_cpu(Pair(torch.ones(1), "b")).y == "b"


def test_pickles_are_refused_with_another_way(tmp_path: Path):
    for refused in (lambda: save_pickle(tmp_path / "a.pkl", [1]), lambda: load_pickle("a.pkl")):
        with pytest.raises(ConfigError, match="weights_only"):
            refused()
    assert list(tmp_path.iterdir()) == []
