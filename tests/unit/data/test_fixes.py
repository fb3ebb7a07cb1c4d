"""Fixes change labels and drop images where data is read; the files stay, and every other image keeps its set."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from vizsla import (
    CategoryBlock,
    ConfigError,
    DataBlock,
    DataError,
    Fix,
    ImageBlock,
    ImageDataLoaders,
    LabelError,
    MultiCategoryBlock,
    OutputError,
    RandomSplitter,
    RegressionBlock,
    TableError,
    get_image_files,
    parent_label,
    read_fixes,
    write_fixes,
)
from vizsla.data.table import images_to_label, resolve_data, take_back

if TYPE_CHECKING:
    from vizsla.types import ImageTable

COLUMNS = "path,action,label,why,when\n"


def sets_of(table: ImageTable) -> dict[str, tuple[str, str]]:
    """Return set and label of each image, by its path."""
    of = dict.fromkeys(table.train_rows.tolist(), "train")
    of |= dict.fromkeys(table.valid_rows.tolist(), "valid")
    return {table.shown_path(row): (of.get(row, ""), table.label(row)) for row in range(len(table.paths))}  # fmt: skip


@pytest.fixture
def pets(make: Any) -> Path:
    return make(*(f"{of}/{number:02}.jpg" for of in ("cat", "dog", "owl") for number in range(10)))


@pytest.fixture
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("more")
    for number in range(4):
        (folder / f"{number}.jpg").touch()
    return folder


# --- the file ---


def test_what_is_written_is_read_again(tmp_path: Path):
    texts = ["plain", "a, b; c", 'q"uote', "two\nlines", "car\rriage", "=1+1", "'-5", "''@x", " été 犬", "-"]  # fmt: skip
    fixes = [
        Fix(path=text, action="relabel", label=text, why=text, when="2026-05-01T12:00:00+00:00")
        for text in texts
    ]
    file = write_fixes(tmp_path / "fixes.csv", fixes)
    assert read_fixes(file) == tuple(fixes)
    with file.open(newline="", encoding="utf-8") as opened:
        cells = [cell for row in csv.reader(opened) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    odd = Fix(path=os.fsdecode(b"caf\xe9\n.jpg"), action="drop", why="\0")
    (found,) = read_fixes(write_fixes(file, [odd]))
    assert (found.path, found.why) == ("caf\\udce9\n.jpg", "\\x00")
    assert read_fixes(write_fixes(file, [])) == ()


def test_appending_keeps_what_is_there_and_loses_nothing_between_writers(tmp_path: Path):
    file = tmp_path / "fixes.csv"

    def add(number: int) -> None:
        write_fixes(file, [Fix(path=f"{number}.jpg", action="drop")], append=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert {fix.path for fix in read_fixes(file)} == {f"{number}.jpg" for number in range(12)}
    file.write_text("name,breed\nrex,pug\n")
    with pytest.raises(TableError, match="'path'"):
        add(0)
    assert file.read_text() == "name,breed\nrex,pug\n"
    with pytest.raises(OutputError):
        write_fixes(tmp_path / "absent" / "fixes.csv", [], append=True)


def test_rows_that_are_no_fixes_are_all_named(tmp_path: Path):
    file = tmp_path / "fixes.csv"
    rows = (
        "a.jpg,Drop,,,",
        "b.jpg,delete,,,",
        ",keep,,,",
        "c.jpg,relabel, ,,",
        "d.jpg,keep,,,yesterday",
    )
    file.write_text(COLUMNS + "\n".join(rows))
    with pytest.raises(TableError, match="4 rows") as error:
        read_fixes(file)
    for words in ("row 3: ", "'delete'", "row 4: ", "row 5: ", "row 6: ", "'yesterday'"):
        assert words in str(error.value)
    file.write_text("action;path\ndrop;a.jpg\n")
    assert read_fixes(file) == (Fix(path="a.jpg", action="drop"),)
    with pytest.raises(TableError, match=r"absent\.csv"):
        read_fixes(tmp_path / "absent.csv")
    for wrong in ({"action": "delete"}, {"path": ""}, {"action": "relabel"}, {"when": "noon"}):
        words: Any = {"path": "a.jpg", "action": "keep"} | wrong
        with pytest.raises(ConfigError):
            Fix(**words)


# --- what they do ---


def test_only_the_images_of_fixes_change(pets: Path):
    before = sets_of(resolve_data(pets, seed=0))
    in_set = {
        part: [path for path, (of, _) in before.items() if of == part]
        for part in ("train", "valid")
    }
    dropped = [in_set["train"][0], in_set["valid"][0]]
    relabelled = [in_set["train"][1], in_set["valid"][1], str(pets / in_set["train"][2])]
    fixes = [
        *(Fix(path=path, action="drop") for path in dropped),
        *(Fix(path=path, action="relabel", label="owl") for path in relabelled),
        Fix(path=in_set["train"][3], action="keep"),
    ]
    file = write_fixes(pets / "fixes.csv", fixes)
    table = resolve_data(pets, fixes=file, seed=0)
    expected = {path: was for path, was in before.items() if path not in dropped}
    expected |= {path: (before[path][0], "owl") for path in (*relabelled[:2], in_set["train"][2])}
    assert sets_of(table) == expected
    assert table.fixes == tuple(fixes)
    assert "fixes: 3 labels changed, 2 images dropped, 1 confirmed" in table.notes
    assert len(get_image_files(pets)) == 30


def test_of_several_fixes_the_latest_counts(pets: Path):
    rows = (
        "cat/01.jpg,drop,,,2026-05-01",
        "cat/01.jpg,relabel,dog,,2026-05-03T10:00:00Z",
        "cat/01.jpg,drop,,,",
        "cat/02.jpg,relabel,dog,,",
        "cat/02.jpg,keep,,,",
        "cat/03.jpg,relabel,cat,,",
    )
    file = pets / "fixes.csv"
    file.write_text(COLUMNS + "\n".join(rows))
    table = resolve_data(pets, fixes=file, seed=0)
    found = sets_of(table)
    assert (found["cat/01.jpg"][1], found["cat/02.jpg"][1]) == ("dog", "cat")
    (note,) = [note for note in table.notes if "different fixes" in note]
    assert note.startswith("2 images")
    assert "row 2 of" in note
    # The third is right already.
    assert [(fix.path, fix.action) for fix in table.fixes] == [("cat/01.jpg", "relabel"), ("cat/02.jpg", "keep")]  # fmt: skip


def test_paths_and_labels_that_do_not_fit_are_named_together(pets: Path):
    rows = (
        "cat/1.jpg,drop,,,",
        "cat/02.jpg,relabel,dgo,,",
        "cat/03.jpg,relabel,dgo,,",
        "notes/x.jpg,keep,,,",
    )
    file = pets / "fixes.csv"
    file.write_text(COLUMNS + "\n".join(rows))
    with pytest.raises(DataError) as error:
        resolve_data(pets, fixes=file, seed=0)
    text = str(error.value)
    for words in (
        "2 fixes match no image",
        "row 2 of",
        "row 5 of",
        "'dgo': 2 images",
        "row 3 of",
        "did you mean 'dog'",
        "--new-classes",
    ):
        assert words in text
    file.write_text(COLUMNS + "\n".join(f"cat/{n:02}.jpg,relabel,lynx,," for n in range(5)))
    with pytest.raises(LabelError, match="'lynx'"):
        resolve_data(pets, fixes=file, seed=0)
    assert resolve_data(pets, fixes=file, new_classes=True, seed=0).vocab == ("cat", "dog", "lynx", "owl")  # fmt: skip


def test_files_that_are_not_part_of_the_data_are_counted(make: Any):
    names = (f"{part}/{of}/{n}.jpg" for part in ("train", "valid") for of in "ab" for n in "12")
    root = make(*names, "sample/a/1.jpg")
    fixes = [Fix(path="sample/a/1.jpg", action="drop"), Fix(path="train\\a\\1.jpg", action="drop")]
    table = resolve_data(root, fixes=fixes, seed=0)
    assert any(
        note.startswith("ignored: 1 fix ") and "sample/a/1.jpg" in note for note in table.notes
    )
    assert (len(table.train_rows), len(table.valid_rows)) == (3, 4)


def test_a_folder_reached_through_a_link_has_the_same_images(pets: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(pets / "cat")
    names = sorted(path.name for path in (pets / "cat").iterdir())
    images = [link / name for name in names] + sorted((pets / "dog").iterdir())
    loaders = ImageDataLoaders.from_lists(
        link,
        images,
        ["a"] * 10 + ["b"] * 10,
        seed=0,
        fixes=[Fix(path=str(pets / "cat" / names[0]), action="drop")],
    )
    assert len(loaders.table.paths) == 19


def test_unlabelled_images_are_labelled_by_fixes_and_the_others_wait(make: Any):
    root = make(*(f"{number:02}.jpg" for number in range(40)))
    with pytest.raises(DataError):
        resolve_data(root, seed=0)
    fixes = [Fix(path=f"{n:02}.jpg", action="relabel", label=["cat", "dog"][n % 2]) for n in range(20)]  # fmt: skip
    table = resolve_data(root, fixes=fixes, seed=0)
    assert (table.vocab, len(table.train_rows), len(table.valid_rows)) == (("cat", "dog"), 16, 4)
    assert any(note.startswith("skipped 20 images") for note in table.notes)


def test_folders_may_be_told_to_name_no_class(make: Any):
    root = make(*(f"{year}/{n:02}.jpg" for year in ("may", "june") for n in range(20)))
    fixes = [Fix(path=f"may/{n:02}.jpg", action="relabel", label=["cat", "dog"][n % 2]) for n in range(20)]  # fmt: skip
    table = resolve_data(root, labels="none", fixes=fixes, seed=0)
    assert (table.vocab, len(table.train_rows), len(table.valid_rows)) == (("cat", "dog"), 16, 4)
    with pytest.raises(LabelError):
        resolve_data(root, labels="none", seed=0)


def test_images_from_elsewhere_are_added_to_training_and_move_no_other(pets: Path, more: Path):
    fixes = [
        Fix(path=str(more / "0.jpg"), action="add", label="cat"),
        Fix(path=os.path.relpath(more / "1.jpg", pets), action="add", label="dog"),
        Fix(path=str(more / "2.jpg"), action="add", label="owl", when="2026-05-01T12:00:00"),
        Fix(path=str(more / "2.jpg"), action="drop", when="2026-05-01T12:00:01"),
        Fix(path="cat/00.jpg", action="add", label="owl"),  # it is there: its label changes
    ]
    before = sets_of(resolve_data(pets, seed=0))
    for group in ("", "regex:(.+)"):
        table = resolve_data(pets, fixes=fixes, seed=0, group=group)
        after = sets_of(table)
        assert [after.pop((more / name).as_posix()) for name in ("0.jpg", "1.jpg")] == [("train", "cat"), ("train", "dog")]  # fmt: skip
        assert after["cat/00.jpg"][1] == "owl"
        assert group or {path: side for path, (side, _) in after.items()} == {path: side for path, (side, _) in before.items()}  # fmt: skip
        assert "3 images added" in next(note for note in table.notes if note.startswith("fixes:"))
    with pytest.raises(LabelError, match="wolf"):
        resolve_data(pets, fixes=[replace(fixes[0], label="wolf")], seed=0)
    gone = [Fix(path=str(more / "9.jpg"), action="add", label="cat")]
    with pytest.raises(DataError, match=r"9\.jpg"):
        resolve_data(pets, fixes=gone, seed=0)


def test_a_fix_can_be_taken_back(tmp_path: Path):
    file = tmp_path / "fixes.csv"
    one, other = (Fix(path=f"{name}.jpg", action="drop", when="2026-05-01T12:00:00") for name in "ab")  # fmt: skip
    write_fixes(file, [one, other, one])
    take_back(file, one)
    assert read_fixes(file) == (one, other)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda fix: take_back(file, fix), [one, other]))
    assert read_fixes(file) == ()
    with pytest.raises(DataError):
        take_back(file, one)


def test_images_to_label_are_those_of_the_data_and_others(pets: Path, more: Path):
    images, num_own = images_to_label(pets, unlabelled=more)
    assert (num_own, len(images.paths)) == (30, 34)
    assert [isinstance(label, LabelError) for label in images.labels] == [False] * 30 + [True] * 4  # fmt: skip
    assert images_to_label(pets, unlabelled=pets / "cat")[1] == len(images_to_label(pets, unlabelled=pets / "cat")[0].paths)  # fmt: skip
    flat, _ = images_to_label(more)
    assert all(isinstance(label, LabelError) for label in flat.labels)
    table = pets / "many.csv"
    table.write_text("image,tags\ncat/00.jpg,a b\ndog/00.jpg,b\n")
    with pytest.raises(ConfigError, match="multi_category"):
        images_to_label(pets, labels=f"csv:{table},label=tags,delimiter=' '")


def test_labels_of_every_kind_can_be_fixed(pets: Path):
    files = [f"cat/{number:02}.jpg" for number in range(8)]

    def label_of(block: Any, labels: list[Any], label: str, **options: Any) -> Any:
        frame = pd.DataFrame({"image": files, "label": labels} | options.pop("columns", {}))
        fixes = [Fix(path=files[0], action="relabel", label=label)]
        loaders = ImageDataLoaders.from_df(
            frame, pets, seed=0, y_block=block, fixes=fixes, **options
        )
        return loaders.table.label([*map(str, loaders.table.paths)].index(str(pets / files[0])))

    ints = [1, 2] * 4
    assert label_of(CategoryBlock, ints, "2") == "2"
    assert label_of(CategoryBlock, ints, "30", new_classes=True) == "30"
    assert label_of(CategoryBlock(vocab=["1", "2", "30"]), ["1", "2"] * 4, "30") == "30"
    assert label_of(MultiCategoryBlock, ["a b", "c"] * 4, "c; a", label_delim=" ") == "a;c"
    assert label_of(RegressionBlock, [0.5, 1.0] * 4, "2.5") == "2.5"
    encoded = {"columns": {"x": [0, 1] * 4, "y": [1, 0] * 4}, "label_col": ["x", "y"]}
    assert label_of(MultiCategoryBlock(encoded=True), ints, "x;y", **encoded) == "x;y"
    for block, labels, label, options in (
        (RegressionBlock, [0.5, 1.0] * 4, "high", {}),
        (MultiCategoryBlock(encoded=True), ints, "z", encoded | {"new_classes": True}),
        (MultiCategoryBlock, ["a b", "c"] * 4, "d", {"label_delim": " "}),
    ):
        with pytest.raises(LabelError, match=repr(label)):
            label_of(block, labels, label, **options)


def test_every_door_in_python_takes_fixes(pets: Path):
    fixes = [Fix(path="cat/01.jpg", action="drop"), Fix(path="cat/02.jpg", action="relabel", label="dog")]  # fmt: skip
    file = write_fixes(pets / "fixes.csv", fixes)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=0),
        get_y=parent_label,
        fixes=file,
    )
    files = get_image_files(pets)
    for table in (
        block.resolve(pets),
        block.dataloaders(pets).table,
        ImageDataLoaders.from_folder(pets, valid_pct=0.2, seed=0, fixes=file).table,
        ImageDataLoaders.from_path_func(pets, files, parent_label, seed=0, fixes=fixes).table,
    ):
        found = sets_of(table)
        assert ("cat/01.jpg" in found, found["cat/02.jpg"][1], len(found)) == (False, "dog", 29)
    with pytest.raises(TypeError, match="fixes"):
        ImageDataLoaders.from_folder(pets, valid_pct=0.2, fix=file)  # pyright: ignore[reportCallIssue]
