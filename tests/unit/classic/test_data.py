"""Folders, CSV files and arrays become datasets and loaders whose images are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla.classic import (
    ImageClassifierData,
    Transforms,
    csv_source,
    folder_source,
    get_cv_idxs,
    open_image,
    resnet34,
    split_by_idx,
    tfms_from_model,
    transforms_side_on,
)


@pytest.fixture
def tfms() -> tuple[Transforms, Transforms]:
    """Transforms to 32 pixels with augmentation."""
    return tfms_from_model(resnet34, 32, aug_tfms=transforms_side_on, max_zoom=1.1)


@pytest.fixture
def data(lesson: str, tfms: Any) -> ImageClassifierData:
    """The data of the folder, in batches of 8."""
    return ImageClassifierData.from_paths(lesson, bs=8, tfms=tfms)


def test_a_folder_has_the_attributes_of_the_original(data: ImageClassifierData, lesson: str):
    assert data.classes == ["cats", "dogs", "signs"]
    assert (data.c, data.sz, data.bs, data.path) == (3, 32, 8, lesson)
    assert data.val_y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.val_y.dtype == np.int64
    assert len(data.trn_y) == len(data.trn_ds) == 26
    assert (data.is_multi, data.is_reg) == (False, False)
    assert len(data.trn_dl) == 4
    assert [len(loader) for loader in (data.val_dl, data.fix_dl, data.aug_dl)] == [2, 4, 2]
    dataset: Any = data.val_ds
    assert dataset.fnames[0] == "valid/cats/cats.10.jpg"
    with Image.open(lesson + dataset.fnames[0]) as image:
        assert image.size == (56, 40)


def test_an_item_is_what_the_batch_has_of_it(data: ImageClassifierData):
    x, y = next(iter(data.val_dl))
    assert (x.shape, x.dtype, y.dtype) == ((8, 3, 32, 32), torch.float32, torch.int64)
    item, label = data.val_ds[np.int64(5)]
    assert isinstance(item, np.ndarray)
    assert np.array_equal(item, x[5].cpu().numpy())
    assert (label, y[5].item()) == (1, 1)
    stacked, labels = data.val_ds[4:6]
    assert np.array_equal(stacked[1], item)
    assert labels == (1, 1)


def test_each_pass_shuffles_training_and_changes_augmented_images(data: ImageClassifierData):
    once, again = ([y.tolist() for _, y in data.trn_dl] for _ in range(2))
    assert once != again
    assert sorted(label for batch in once for label in batch) == sorted(data.trn_y.tolist())
    first, second = (torch.cat([x for x, _ in data.aug_dl]) for _ in range(2))
    assert first.shape == (12, 3, 32, 32)
    assert (first - second).abs().mean() > 0.01
    assert torch.cat([y for _, y in data.aug_dl]).tolist() == data.val_y.tolist()


def test_data_made_twice_is_augmented_differently(lesson: str, tfms: Any):
    one, other = (
        next(iter(ImageClassifierData.from_paths(lesson, bs=2, tfms=tfms, num_workers=0).aug_dl))[0]
        for _ in range(2)
    )
    assert (one - other).abs().mean() > 0.01


def test_the_engine_gets_the_same_images_from_any_batch_on(data: ImageClassifierData):
    (batch, *_) = data.loaders.valid.batches()
    x, _ = next(iter(data.val_dl))
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert torch.equal(data.tfms[1].normalised(batch.images), x)  # pyright: ignore[reportOptionalMemberAccess]
    whole = list(data.loaders.train.batches(epoch=3))
    rest = list(data.loaders.train.batches(epoch=3, start=2))
    assert len(rest) == 2
    assert torch.equal(rest[0].images, whole[2].images)


def test_test_images_come_in_order_and_without_labels(lesson: str, tfms: Any):
    data = ImageClassifierData.from_paths(lesson, bs=8, tfms=tfms, test_name="valid/cats")
    assert data.test_ds is not None
    assert data.test_ds.y.shape == (4, 1)
    assert data.test_dl is not None
    assert sum(len(y) for _, y in data.test_dl) == 4


def test_wrong_arguments_are_refused(lesson: str, tfms: Any):
    with pytest.raises(FileNotFoundError, match="test folder doesn't exist or is empty"):
        ImageClassifierData.from_paths(lesson, tfms=tfms, test_name="test")
    with pytest.raises(AssertionError, match="please provide transformations"):
        ImageClassifierData.from_paths(lesson)
    with pytest.raises(AssertionError, match="relative path"):
        ImageClassifierData.from_csv("p", "/train", "labels.csv", tfms=tfms)
    Path(lesson, "train", "notes.txt").write_text("x")
    with pytest.raises(NotADirectoryError):
        folder_source(lesson, "train")


def test_a_csv_file_is_read_as_recorded(tmp_path: Path, recorded: Any):
    file = tmp_path / "labels.csv"
    for name in ("csv_single", "csv_multi"):
        golden = recorded["splits"][name]
        file.write_text(golden["text"])
        fnames, y, classes = csv_source(golden["folder"], file, suffix=golden["suffix"])
        assert (fnames, y.tolist(), classes) == (golden["fnames"], golden["y"], golden["classes"])
        assert y.dtype == (np.int64 if y.ndim == 1 else np.float32)


def test_a_csv_file_becomes_data_with_a_fifth_held_out(lesson: str, tfms: Any):
    names = sorted(Path(lesson, "train", "cats").iterdir())
    rows = [f"{name.stem},{'odd' if number % 2 else 'even'}" for number, name in enumerate(names)]
    Path(lesson, "labels.csv").write_text("\n".join(["name,label", *rows]))
    data = ImageClassifierData.from_csv(
        lesson, "train/cats", f"{lesson}labels.csv", bs=4, tfms=tfms, suffix=".jpg"
    )
    assert (len(data.trn_ds), len(data.val_ds)) == (8, 2)
    assert data.classes == ["even", "odd"]
    assert next(iter(data.val_dl))[0].shape == (2, 3, 32, 32)


def test_several_labels_and_numbers_set_the_task(lesson: str, tfms: Any):
    names = [f"train/cats/cats.{number}.jpg" for number in range(10)]
    hot = np.eye(2, dtype=np.float32)[[0, 1] * 5]
    data = ImageClassifierData.from_names_and_array(lesson, names, hot, ["a", "b"], tfms=tfms, bs=4)
    assert data.is_multi
    assert data.table.task == "multi_category"
    numbers = np.arange(10, dtype=np.float32)
    data = ImageClassifierData.from_names_and_array(
        lesson, names, numbers, [], tfms=tfms, bs=4, continuous=True
    )
    assert data.is_reg
    assert (data.table.task, data.c) == ("regression", 1)


def test_arrays_of_images_are_prepared_and_rows_of_features_are_not(tmp_path: Path, tfms: Any):
    images = np.random.default_rng(0).random((6, 40, 50, 3))
    y = np.array([0, 1, 0, 1, 0, 1])
    data = ImageClassifierData.from_arrays(tmp_path, (images, y), (images, y), bs=4, tfms=tfms)
    x, _ = next(iter(data.val_dl))
    assert x[2].numpy() == pytest.approx(tfms[1](images[2]), abs=1e-6)
    assert next(iter(data.trn_dl))[0].shape == (4, 3, 32, 32)
    features = np.ones((6, 5), dtype=np.float32)
    data = ImageClassifierData.from_arrays(tmp_path, (features, y), (features, y), bs=4)
    assert (data.sz, data.c) == (5, 2)
    assert torch.equal(next(iter(data.val_dl))[0].cpu(), torch.ones(4, 5))


def test_images_are_written_smaller_once(lesson: str, data: ImageClassifierData):
    smaller = data.resize(20)
    assert smaller.path == f"{lesson}tmp/20/"
    first = Path(smaller.path, "train/cats/cats.0.jpg")
    with Image.open(first) as image:
        assert image.size == (28, 20)
    written = first.stat().st_mtime_ns
    data.resize(20)
    assert first.stat().st_mtime_ns == written
    assert len(smaller.trn_ds) == 26


def test_the_validation_set_is_the_recorded_one(recorded: Any):
    for arguments, golden in (((10,), "n10"), ((10, 1), "n10_cv1"), ((100,), "n100")):
        assert get_cv_idxs(*arguments).tolist() == recorded["splits"][golden]
    ((chosen, others),) = split_by_idx([3, 1], np.arange(5))
    assert [chosen.tolist(), others.tolist()] == recorded["splits"]["split_by_idx_[1,3]_of_0..4"]


def test_an_image_is_opened_as_floats_or_is_an_os_error(lesson: str):
    found = open_image(f"{lesson}train/signs/signs.0.png")
    assert (found.shape, found.dtype) == ((44, 36, 3), np.float32)
    assert 0 <= found.min() < found.max() <= 1
    Path(lesson, "bad.jpg").write_bytes(b"no image")
    for name, message in (
        ("missing.jpg", "No such file or directory"),
        ("train", "Is a directory"),
        ("bad.jpg", "Error handling image at"),
    ):
        with pytest.raises(OSError, match=message):
            open_image(lesson + name)
