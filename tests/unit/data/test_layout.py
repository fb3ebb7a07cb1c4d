"""What the names of folders say: the split, the level that names the class, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vizsla import (
    ColReader,
    ConfigError,
    DataBlock,
    DataError,
    ImageDataLoaders,
    Resize,
    get_image_files,
    parent_label,
)
from vizsla.data.table import describe_data, read_layout, read_split_name, resolve_data

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
    found = layout("train", "test1")
    assert found.classes == ("", "")
    assert found.splits == ("train", "test")


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


def five_in(*folders: str) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(5)]


def test_a_folder_named_training_is_not_pooled_with_testing(make):
    root = make(*five_in("Training/cat", "Training/dog", "Testing/cat", "Testing/dog"))
    table = resolve_data(root, seed=0)
    used = [
        table.shown_path(row) for row in (*table.train_rows.tolist(), *table.valid_rows.tolist())
    ]
    assert len(used) == 10
    assert all(path.startswith("Training/") for path in used)
    assert any("Training for training; Testing for testing" in note for note in table.notes)
    assert "20% of each class" in table.notes[-1]


def test_a_ready_split_is_not_mixed_by_a_fraction(make):
    root = make(*five_in("train/cat", "train/dog", "dev/cat", "dev/dog"))
    with pytest.raises(
        ConfigError, match=r"10 images for training and 10 for validation.*pool:0.2"
    ):
        resolve_data(root, valid=0.2, seed=0)
    table = resolve_data(root, valid="pool:0.2", seed=0)
    assert (len(table.train_rows), len(table.valid_rows)) == (16, 4)
    with pytest.raises(ConfigError, match=r"valid_pct=0.2"):
        ImageDataLoaders.from_folder(root, valid_pct=0.2, item_tfms=Resize(8))


def test_python_and_command_line_read_the_same_layout(make, draw):
    root = make()
    for number, folder in enumerate(("cat/2023", "cat/2024", "dog/2023") * 4):
        (root / folder).mkdir(parents=True, exist_ok=True)
        draw("disc", number=number).save(root / folder / f"{number}.png")
    dls = ImageDataLoaders.from_folder(root, valid_pct=0.2, seed=0, item_tfms=Resize(8), bs=2)
    assert tuple(dls.vocab) == resolve_data(root, seed=0).vocab == ("cat", "dog")
    by_year = resolve_data(root, label_level=2, seed=0)
    assert by_year.vocab == ("2023", "2024")
    dls = ImageDataLoaders.from_folder(
        root, valid_pct=0.2, seed=0, item_tfms=Resize(8), bs=2, label_level=2
    )
    assert tuple(dls.vocab) == by_year.vocab


def test_what_is_left_out_is_counted_and_named(make):
    root = make(
        *five_in("cat", "dog", "@eaDir", "lost+found", "__MACOSX/cat"),
        "cat/a.txt",
        "b.mp4",
    )
    (root / "none").mkdir()
    table = resolve_data(root, seed=0)
    assert table.vocab == ("cat", "dog")
    told = "\n".join(table.notes)
    for fact in ("2 files", ".txt (1)", ".mp4 (1)", "@eaDir", "lost+found", "__MACOSX", "none"):
        assert fact in told
    assert describe_data(table).notes == table.notes


def test_files_without_a_telling_name_are_recognised_by_their_content(make, draw):
    root = make(*five_in("cat", "dog"), "dog/notes", "dog/BMW")
    (root / "dog" / "BMW").write_text("BMW is a maker of cars")
    for number, (name, form) in enumerate(
        (("0", "png"), ("1.jpg?w=640", "jpeg"), ("2.PICT", "webp"), ("3.x", "bmp"), ("4.y", "tiff"))
    ):
        draw("disc", number=number).save(root / "cat" / name, format=form)
    table = resolve_data(root, seed=0)
    assert len(table.paths) == 15
    assert any("2 files" in note and "(no extension) (2)" in note for note in table.notes)


@pytest.mark.parametrize(
    "names",
    [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("red fox", "red  fox"), ("Straße", "STRASSE")],
)
def test_names_that_only_look_different_are_one_error(names: tuple[str, str]):
    frame = pd.DataFrame({"file": [f"{n}.jpg" for n in range(12)], "label": [*names, "ox"] * 4})
    block = DataBlock(get_x=ColReader("file"), get_y=ColReader("label"), item_tfms=Resize(8))
    with pytest.raises(DataError) as refusal:
        block.dataloaders(frame)
    text = str(refusal.value)
    assert "spelled in several ways" in text
    for name in names:
        assert repr(name) in text or ascii(name) in text


def test_items_that_a_splitter_leaves_out_are_counted(make):
    root = make(*five_in("a", "b"))
    block = DataBlock(
        get_items=get_image_files, get_y=parent_label, splitter=lambda _: ([0, 1, 5], [2, 6])
    )
    (note,) = block.resolve(root).notes
    assert "5 of 10 items" in note
    assert "at positions 3, 4, 7, 8, 9" in note


def test_letters_in_both_cases_are_different_classes(make):
    assert resolve_data(make(*five_in("a", "A", "b")), seed=0).vocab == ("A", "a", "b")


def test_a_folder_one_level_too_deep_names_the_one_above(make):
    root = make(*five_in("pets/cat", "pets/dog"))
    with pytest.raises(DataError, match=r"folder above, '.*pets'\? It also holds dog"):
        resolve_data(root / "pets" / "cat", seed=0)
