"""What the names of folders say: the split, the level that names the class, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vizsla import DataError
from vizsla.data.table import read_layout, read_split_name

ROOT = Path("pets")


def layout(*folders: str, label_level: int | None = None, need_classes: bool = True):
    """Read folders, each with one image; "." is the root."""
    parts = [() if folder == "." else tuple(folder.split("/")) for folder in folders]
    return read_layout(
        parts, [1] * len(parts), root=ROOT, label_level=label_level, need_classes=need_classes
    )


@pytest.mark.parametrize(
    ("train", "held_out", "split"),
    [
        ("train", "valid", "valid"),
        ("Training", "Testing", "test"),
        ("training_set", "test_set", "test"),
        ("TRAIN", "Val", "valid"),
        ("trn", "tst", "test"),
        ("train", "dev", "valid"),
        ("train-images", "holdout-images", "valid"),
        ("pets_train", "pets_val", "valid"),
        ("train_data", "validation_data", "valid"),
        ("trainset", "testset", "test"),
        ("train1", "test1", "test"),
        ("train (1)", "test (1)", "test"),
    ],
)
def test_split_folders_under_their_usual_names(train: str, held_out: str, split: str):
    found = layout(f"{train}/cat", f"{train}/dog", f"{held_out}/cat", f"{held_out}/dog")
    assert found.splits == ("train", "train", split, split)
    assert found.classes == ("cat", "dog", "cat", "dog")
    assert train in found.notes[0]
    assert held_out in found.notes[0]


@pytest.mark.parametrize(
    "name", ["trains", "cats", "testimony", "2023", "", "_", "retrain", "valley"]
)
def test_other_names_are_no_split(name: str):
    assert read_split_name(name) is None


@pytest.mark.parametrize(
    "folders",
    [
        ("train/cat", "train/dog"),  # train alone
        ("train", "plane", "ship"),  # pictures of trains
        ("a_train/cat", "b_test/cat"),  # two data sets
    ],
)
def test_one_name_or_two_data_sets_are_no_split(folders: tuple[str, ...]):
    assert layout(*folders, label_level=1).splits is None


def test_a_level_of_the_same_meaning_is_passed():
    found = layout("seg_train/seg_train/sea", "seg_train/seg_train/ice", "seg_test/seg_test/sea")
    assert found.splits == ("train", "train", "test")
    assert found.classes == ("sea", "ice", "sea")


def test_a_split_inside_each_class():
    found = layout("cat/train", "cat/val", "dog/train", "dog/val")
    assert found.splits == ("train", "valid", "train", "valid")
    assert found.classes == ("cat", "cat", "dog", "dog")


def test_wrapping_folders_are_passed_and_said():
    found = layout("data/my/train/cat", "data/my/train/dog", "data/my/val/cat", "data/my/val/dog")
    assert found.splits == ("train", "train", "valid", "valid")
    assert found.classes == ("cat", "dog", "cat", "dog")
    assert "data/my" in found.notes[0]


def test_folders_beside_the_split_are_left_out_and_counted():
    found = layout("sample/cat", "train/cat", "train/dog", "valid/cat", ".")
    assert found.splits == ("", "train", "train", "valid", "")
    assert found.classes == ("", "cat", "dog", "cat", "")
    assert "2 images" in found.notes[1]
    assert "sample (1)" in found.notes[1]


def test_images_that_lie_directly_in_split_folders_have_no_class():
    with pytest.raises(DataError, match="regex:"):
        layout("train", "test1")
    assert layout("train", "test1", need_classes=False).splits == ("train", "test")


def test_test_images_may_lie_without_classes():
    assert layout("train/cat", "train/dog", "test").classes == ("cat", "dog", "")


def test_levels_below_the_class_are_merged_and_the_level_is_said():
    for folders, classes in (
        (("cat/2023", "cat/2024", "dog/2023"), ("cat", "cat", "dog")),
        (("cat/batch_1", "dog/batch_1", "dog/batch_2"), ("cat", "dog", "dog")),
        (("cat/photos", "dog/photos"), ("cat", "dog")),
        (("cat", "cat/kitten", "dog"), ("cat", "cat", "dog")),
    ):
        found = layout(*folders)
        assert found.classes == classes
        assert "level 1: cat, dog" in found.notes[-1]
    assert layout("2023/cat", "2023/dog", "2024/cat").classes == ("cat", "dog", "cat")


def test_two_levels_that_may_name_the_class_are_refused():
    folders = ("site_a/cat", "site_a/dog", "site_b/cat", "site_b/dog")
    with pytest.raises(DataError) as refusal:
        layout(*folders)
    for fact in ("level 1: site_a, site_b", "level 2: cat, dog", "--label-level"):
        assert fact in str(refusal.value)
    assert layout(*folders, label_level=2).classes == ("cat", "dog", "cat", "dog")
    assert layout(*folders, label_level=1).classes == ("site_a", "site_a", "site_b", "site_b")


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="Received: label level 3"):
        layout("cat", "dog", label_level=3)


def test_digits_are_classes_where_nothing_else_is():
    assert layout("0", "1", "2").classes == ("0", "1", "2")
    assert layout("train/0", "train/1", "test/0").classes == ("0", "1", "0")


def test_one_class_and_images_outside_of_it():
    assert layout("cat").classes == ("cat",)
    assert layout(".", "cat", "dog").classes == ("", "cat", "dog")
