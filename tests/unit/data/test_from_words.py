"""A folder or CSV file becomes the table that its owner means, or one message with everything that is wrong."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from functools import partial
from importlib.metadata import metadata
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from PIL import Image

from vizsla import (
    ColSplitter,
    ConfigError,
    DataError,
    ImageDataLoaders,
    LabelError,
    MissingExtraError,
    PictureError,
    Resize,
    TableError,
)
from vizsla.data import SOLAR_CELLS, solar_cells
from vizsla.data.images import find_copies
from vizsla.data.table import labelled_data, resolve_data
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.types import ImageTable


def several(pattern: str, count: int = 5) -> list[str]:
    return [pattern.format(number) for number in range(count)]


def shown(table: ImageTable, rows: object) -> list[str]:
    return [table.shown_path(row) for row in rows.tolist()]  # pyright: ignore[reportAttributeAccessIssue]


def labelled(table: ImageTable) -> dict[str, str]:
    return {table.shown_path(row): table.label(row) for row in range(len(table.paths))}


def test_class_folders_are_split_with_equal_parts(make):
    root = make(*several("cat/{}.jpg", 10), *several("dog/{}.jpg", 20))
    table = resolve_data(root, seed=0)
    assert (table.vocab, table.root) == (("cat", "dog"), root)
    assert Counter(map(table.label, table.valid_rows.tolist())) == {"cat": 2, "dog": 4}
    assert sorted(table.train_rows.tolist() + table.valid_rows.tolist()) == list(range(30))
    assert shown(table, resolve_data(root, seed=0).valid_rows) == shown(table, table.valid_rows)
    assert shown(table, resolve_data(root, seed=1).valid_rows) != shown(table, table.valid_rows)


def test_the_part_to_hold_out_can_be_given(make):
    root = make(*several("cat/{}.jpg", 4), *several("dog/{}.jpg", 6))
    for valid in (0.5, "0.5"):
        assert len(resolve_data(root, valid=valid, seed=0).valid_rows) == 5
    for valid in (0.0, 1, "none", -0.2):
        with pytest.raises(ConfigError, match=f"valid.* {valid}"):
            resolve_data(root, valid=valid, seed=0)


def numbered(root: Path) -> Path:
    """Give each image below a folder bytes of its own."""
    for number, file in enumerate(sorted(root.rglob("*.jpg"))):
        file.write_bytes(number.to_bytes(2, "big"))
    return root


def test_a_drawn_split_keeps_exact_duplicates_in_one_set_and_moves_no_other_image(make):
    root = numbered(make(*several("cat/{}.jpg", 20), *several("dog/{:02}.jpg", 30)))
    drawn = resolve_data(root, seed=0)
    held_out = shown(drawn, drawn.valid_rows)
    assert (drawn.copies, len(held_out)) == ((), 10)
    learned = shown(drawn, drawn.train_rows)
    cats, dogs = ([name for name in learned if name.startswith(of)] for of in ("cat", "dog"))
    copies = {cats[0]: held_out[0], cats[1]: held_out[1], dogs[0]: dogs[1], dogs[2]: cats[2]}
    for copy, original in copies.items():
        (root / copy).write_bytes((root / original).read_bytes())
    table = resolve_data(root, seed=0)
    found = set(shown(table, table.valid_rows))
    # One of two torn pairs goes to each set, so that the number of validation images stays.
    assert found == {*held_out} - {held_out[0]} | {cats[1]}
    assert len(table.copies or ()) == 4
    assert (
        sum("exact duplicate" in note and note.startswith("2 images") for note in table.notes) == 1
    )
    assert {*table.moved} == {(held_out[0], "train"), (cats[1], "valid")}
    again = resolve_data(root, moved=table.moved, seed=0)
    assert (again.valid_rows.tolist(), again.copies) == (table.valid_rows.tolist(), None)
    as_before = resolve_data(root, moved=(), seed=0)
    assert shown(as_before, as_before.valid_rows) == held_out


def test_groups_that_share_an_exact_duplicate_stay_in_one_set(make):
    root = numbered(make(*(f"{of}/{p:02}_{n}.jpg" for of in "ab" for p in range(20) for n in "01")))
    resolve = partial(resolve_data, root, group=r"regex:/(\d+)_", seed=0)
    table = resolve()
    held_out, learned = (
        sorted({path[2:4] for path in shown(table, rows)})
        for rows in (table.valid_rows, table.train_rows)
    )
    (root / f"a/{held_out[0]}_0.jpg").write_bytes((root / f"a/{learned[0]}_0.jpg").read_bytes())
    table = resolve()
    found = {path[2:4] for path in shown(table, table.valid_rows)}
    assert found == {*held_out} - {held_out[0]}
    assert not found & {path[2:4] for path in shown(table, table.train_rows)}


def test_images_made_from_one_photograph_stay_in_one_set_with_group_auto(
    make_image, tmp_path: Path
):
    for number in range(16):
        make_image(f"data/{('cross', 'disc')[number % 2]}/{number:02}.png", number=number)
    root = tmp_path / "data"
    drawn = resolve_data(root, seed=0)
    held_out, learned = (shown(drawn, rows) for rows in (drawn.valid_rows, drawn.train_rows))
    original = next(path for path in learned if path[:4] == held_out[0][:4])
    with Image.open(root / original) as image:
        image.resize((96, 72)).save(root / held_out[0])
    as_drawn, table = resolve_data(root, seed=0), resolve_data(root, group="auto", seed=0)
    assert shown(as_drawn, as_drawn.valid_rows) == held_out
    assert shown(table, table.valid_rows) == held_out[1:]
    assert any("near duplicate" in note and note.startswith("1 image ") for note in table.notes)
    for part, paths in (("train", learned), ("valid", held_out)):
        for path in paths:
            place = tmp_path / "own" / part / path
            place.parent.mkdir(parents=True, exist_ok=True)
            (root / path).rename(place)
    own = resolve_data(tmp_path / "own", group="auto", seed=0)
    assert len(own.valid_rows) == len(held_out)
    assert any("1 group of near duplicates" in note for note in own.notes)


def test_a_split_of_the_data_is_kept_whatever_is_in_it(make):
    root = numbered(
        make(*(f"{part}/{of}/{n}.jpg" for part in ("train", "valid") for of in "ab" for n in "01"))
    )
    (root / "valid/a/0.jpg").write_bytes((root / "train/a/0.jpg").read_bytes())
    table = resolve_data(root, seed=0)
    assert (len(table.train_rows), len(table.valid_rows), table.copies) == (4, 4, None)
    assert [copies.kind for copies in find_copies(table)] == ["across sets"]


def test_data_of_nothing_but_duplicates_cannot_be_measured(make):
    root = make(*several("cat/{}.jpg"), *several("dog/{}.jpg"))
    for file in root.rglob("*.jpg"):
        file.write_bytes(file.parent.name.encode())
    with pytest.raises(DataError, match="2 images drawn for validation are exact duplicates"):
        resolve_data(root, seed=0)


@pytest.mark.parametrize("name", ["valid", "val", "validation", "Val"])
def test_split_folders_are_used_when_present(make, name: str):
    root = make("train/cat/1.jpg", "train/dog/2.jpg", f"{name}/cat/3.jpg", "sample/train/cat/1.jpg")
    table = resolve_data(root, seed=0)
    assert shown(table, table.train_rows) == ["train/cat/1.jpg", "train/dog/2.jpg"]
    assert shown(table, table.valid_rows) == [f"{name}/cat/3.jpg"]
    assert len(table.paths) == 3


def test_images_of_a_test_folder_may_lack_a_label(make):
    root = make("train/a/1.jpg", "train/b/2.jpg", "valid/a/3.jpg", "test/b/4.jpg", "test/5.jpg")
    table = resolve_data(root, seed=0)
    assert labelled(table)["test/b/4.jpg"] == "b"
    assert table.targets[[*labelled(table)].index("test/5.jpg")] == UNLABELLED
    used = shown(table, table.train_rows) + shown(table, table.valid_rows)
    assert not any(path.startswith("test") for path in used)


@pytest.mark.parametrize(
    ("folders", "valid", "vocab", "sizes"),
    [
        (["train/a", "train/b", "test/a"], "auto", ("a", "b"), (8, 2, 15)),
        (["train/a", "train/b", "valid/a", "test/b"], "pool:0.2", ("a", "b"), (12, 3, 20)),
        (["train", "car"], "auto", ("car", "train"), (8, 2, 10)),
    ],
    ids=["no validation folder", "a given part", "a class of trains"],
)
def test_what_is_not_in_a_test_folder_is_split(make, folders, valid, vocab, sizes):
    root = make(*(f"{folder}/{number}.jpg" for folder in folders for number in range(5)))
    table = resolve_data(root, valid=valid, seed=0)
    assert table.vocab == vocab
    assert (len(table.train_rows), len(table.valid_rows), len(table.paths)) == sizes
    used = shown(table, table.train_rows) + shown(table, table.valid_rows)
    assert not any(path.startswith("test") for path in used)


def test_classes_with_few_images_are_trained_on_or_refused_as_asked(make):
    root = make(*several("cat/{}.jpg"), *several("dog/{}.jpg", 3), "fox/1.jpg")
    table = resolve_data(root, min_per_class=1, seed=0)
    assert "fox/1.jpg" in shown(table, table.train_rows)
    assert "not validated: 1 class has no validation images: 'fox'" in table.notes
    with pytest.raises(
        LabelError, match=r"2 classes have fewer than 4.*\n  'dog': 3.*\n  'fox': 1"
    ):
        resolve_data(root, min_per_class=4, seed=0)
    with pytest.raises(ConfigError, match="Received: 0"):
        resolve_data(root, min_per_class=0, seed=0)
    split = make("s/train/a/1.jpg", "s/train/b/2.jpg", "s/valid/a/3.jpg") / "s"
    assert (
        "not validated: 1 class has no validation images: 'b'" in resolve_data(split, seed=0).notes
    )
    with pytest.raises(LabelError, match=r"'b'.*2\.jpg"):
        resolve_data(split, min_per_class=2, seed=0)


def test_a_level_of_folders_is_refused_where_labels_come_from_elsewhere(make):
    root = make(*several("x/cat_{}.jpg"), *several("y/dog_{}.jpg"))
    (root / "l.csv").write_text("file,label\nx/cat_0.jpg,cat\ny/dog_0.jpg,dog\n")
    for data, labels in ((root, r"regex:(\w+)_"), (root, "csv:l.csv"), (root / "l.csv", "folder")):
        with pytest.raises(ConfigError, match="label_level=1"):
            resolve_data(data, labels=labels, label_level=1, seed=0)


@pytest.mark.parametrize(
    ("names", "labels", "error", "words"),
    [
        (["train/a/1.jpg", "train/b/2.jpg", "valid/zebra/3.jpg", "valid/a/4.jpg"], "folder", LabelError, r"not in training:\n  'zebra': 1 image"),
        ([*several("cat/{}.jpg"), *several("dog/{}.jpg"), "loose.jpg"], "folder", LabelError, r"1 of 11 .*:\n  '.*/loose\.jpg'"),
        (several("cat_{}.jpg"), "folder", LabelError, r"(?s)None of 5 .*regex:PATTERN.*csv:FILE"),
        (several("images/cat_{}.jpg"), "folder", LabelError, r"only one class, 'images', for all 5 .*regex:PATTERN"),
        ([*several("cat/{}.jpg"), "dog/1.jpg"], "folder", LabelError, r"only one image.*:\n  'dog': '.*/dog/1\.jpg'"),
        (["a_1.jpg"], r"regex:.+_\d+\.jpg$", ConfigError, "no group"),
        (["a_1.jpg"], "names", ConfigError, r"'csv:FILE\[,image=COLUMN\]\[,label=COLUMN\].* 'names'"),
        (["a.jpg"], "csv:l.csv,image=a,image=b", ConfigError, "csv:l.csv,image=a,image=b"),
        (["a.jpg"], "csv:l.csv,label=", ConfigError, "csv:l.csv,label="),
    ],
)  # fmt: skip
def test_folders_and_words_that_give_no_usable_labels_are_refused(
    make, names: list[str], labels: str, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        resolve_data(make(*names), labels=labels, seed=0)


def test_what_is_no_folder_or_table_is_refused(make):
    root = make("a.jpg", "b.zip")
    for name, words in [
        ("a.jpg", "is an image"),
        ("b.zip", "neither a folder"),
        ("gone", "no folder"),
    ]:
        for labels in ("folder", "regex:(.)", "csv:x.csv"):
            with pytest.raises(DataError, match=words):
                resolve_data(root / name, labels=labels, seed=0)


def test_labels_are_taken_from_file_names_only(make):
    root = make(*several("pets_1/Maine_Coon_{}.jpg"), *several("pets_2/beagle_{}.jpg"))
    table = resolve_data(root, labels=r"regex:(.+)_\d+\.jpg$", seed=0)
    assert table.vocab == ("Maine_Coon", "beagle")


def test_classes_in_numbered_file_names_are_offered_and_taken(make):
    """Names of another kind offer nothing: one word for all, or a name for each image."""
    names = [f"{name}.{number}.jpg" for name in ("cat", "dog") for number in range(6)]
    flat = make(*(f"k/train/{name}" for name in names), "k/test1/1.jpg") / "k"
    with pytest.raises(LabelError, match="2 classes with --labels name"):
        resolve_data(flat, seed=0)
    assert resolve_data(flat, labels="name", seed=0).vocab == ("cat", "dog")
    for number, own in enumerate([several("IMG_{}.jpg"), [f"person{n}x_1.jpg" for n in range(9)]]):
        with pytest.raises(LabelError) as raised:
            resolve_data(make(*(f"{number}/all/{name}" for name in own)) / f"{number}", seed=0)
        assert "labels name" not in str(raised.value)


def test_an_expression_that_matches_nothing_shows_three_names(make):
    root = make(*several("beagle-{}.jpg", 7))
    with pytest.raises(LabelError) as caught:
        resolve_data(root, labels=r"regex:(.+)_\d+\.jpg$", seed=0)
    message = str(caught.value)
    assert message.startswith("None of 7 images gives a label:")
    assert re.findall(r"in '(.*)'\n", message) == ["beagle-0.jpg", "beagle-1.jpg", "beagle-2.jpg"]


@pytest.fixture
def table_with(make, tmp_path: Path):
    """Return a function that writes ``labels.csv`` beside images 0.jpg ... 9.jpg."""
    make(*several("{}.jpg", 10))

    def write(header: str, *rows: str, name: str = "labels.csv") -> Path:
        file = tmp_path / name
        file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return file

    return write


def rows_of(pattern: str, count: int = 10) -> list[str]:
    return [pattern.format(n=number, label="ab"[number % 2]) for number in range(count)]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image,label", "{n}.jpg,{label}"),
        ("Breed,extra,Filename", "{label},7,{n}.jpg"),
        ("one,two,three", "{n}.jpg,{label},7"),
        ("category,x", "{label},{n}.jpg"),
        ("id,breed", "{n},{label}"),
    ],
)
def test_the_usual_tables_are_understood(table_with, header: str, row: str):
    table = resolve_data(table_with(header, *rows_of(row)), seed=0)
    assert labelled(table) == {f"{n}.jpg": "ab"[n % 2] for n in range(10)}
    assert len(table.valid_rows) == 2


def test_columns_can_be_named(table_with, tmp_path: Path):
    file = table_with("image,label,who,what", *rows_of("x,y,{label},{n}.jpg"))
    for data, labels in (
        (file, "csv:,image=what,label=who"),
        (file, f"csv:{file},label=who,image=what"),
        (tmp_path, "csv:labels.csv,image=what,label=who"),
        (tmp_path, f"csv:{file},image=what,label=who"),
    ):
        assert resolve_data(data, labels=labels, seed=0).vocab == ("a", "b")


def test_one_named_column_leaves_the_other_to_be_chosen(table_with, tmp_path: Path):
    file = table_with("label,image", *rows_of("{n}.jpg,{label}"))
    for labels in ("csv:,image=label", "csv:,label=image"):
        assert resolve_data(file, labels=labels, seed=0).vocab == ("a", "b")
    table_with("image,label", *rows_of("{n}.jpg,{label}"), name="a,b.csv")
    assert resolve_data(tmp_path, labels="csv:a,b.csv", seed=0).vocab == ("a", "b")


def test_a_table_as_data_takes_no_other_labels(table_with):
    file = table_with("image,label", "0.jpg,a")
    for labels in ["regex:(.)", "csv:other.csv"]:
        with pytest.raises(ConfigError, match=re.escape(labels)):
            resolve_data(file, labels=labels, seed=0)


def test_a_missing_column_is_named_with_those_that_are_there(table_with):
    file = table_with("image,label", "0.jpg,a")
    with pytest.raises(TableError, match=r"(?s)'breed'.*  0: 'image'\n  1: 'label'"):
        resolve_data(file, labels="csv:,label=breed", seed=0)
    with pytest.raises(TableError, match="single column, 'image'"):
        resolve_data(table_with("image", "0.jpg"), seed=0)


def test_images_are_found_below_the_folder_by_their_name_unless_two_have_it(make, table_with):
    make(*(f"images/deep/p{n}.jpg" for n in range(10)), "x/p.jpg", "y/p.jpg")
    rows = rows_of("p{n}.jpg,{label}")
    table = resolve_data(table_with("image,label", *rows), seed=0)
    assert table.shown_path(0) == "images/deep/p0.jpg"
    with pytest.raises(TableError, match=r"'p\.jpg' matches 2 images: 'x/p\.jpg', 'y/p\.jpg'"):
        resolve_data(table_with("image,label", *rows, "p.jpg,a"), seed=0)


def test_all_faults_of_a_table_are_reported_at_once_with_rows(table_with):
    file = table_with(
        "image,label,split",
        *rows_of("{n}.jpg,{label},train", 8),
        "8.jpg,a,valid",
        "9.jpg,b,perhaps",
        "gone.jpg,a,train",
        "0.jpg,b,train",
        "1.jpg,b,train",
        ",a,train",
        "2.jpg,,train",
    )
    with pytest.raises(DataError) as caught:
        resolve_data(file, seed=0)
    message = str(caught.value)
    assert message.startswith("The data has 5 problems.")
    assert "no image in column 'image':\n  row 15: ('', 'a', 'train')" in message
    assert "no known set in column 'split':\n  row 11: ('9.jpg', 'b', 'perhaps')" in message
    assert re.search(r"do(es)? not exist:\n  row 12 \('.*gone\.jpg'\)", message)
    assert "0.jpg': 2 times (row 2, row 13), with different labels: 'a', 'b'" in message
    assert "1.jpg': 2 times (row 3, row 14), each labelled 'b'" in message
    assert re.search(r"an empty label:\n  row 16 \('.*2\.jpg'\)", message)


@pytest.mark.parametrize(
    ("name", "held_out", "other"), [("is_valid", "True", "False"), ("Split", "val", "train")]
)
def test_a_split_column_is_honoured(table_with, name: str, held_out: str, other: str):
    rows = [f"{n}.jpg,{'ab'[n % 2]},{held_out if n < 3 else other}" for n in range(10)]
    file = table_with(f"image,label,{name}", *rows)
    table = resolve_data(file, seed=0)
    assert shown(table, table.valid_rows) == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(resolve_data(file, valid="pool:0.4", seed=0).valid_rows) == 4
    with pytest.raises(ConfigError, match=r"7 images for training and 3 for validation.*pool:0.4"):
        resolve_data(file, valid=0.4, seed=0)


def test_rows_of_a_test_set_are_in_neither_set(table_with):
    rows = [f"{n}.jpg,{'ab'[n % 2]},{'test' if n < 4 else 'train'}" for n in range(10)]
    table = resolve_data(table_with("image,label,split", *rows), seed=0)
    assert min(table.train_rows.tolist() + table.valid_rows.tolist()) == 4
    assert (len(table.valid_rows), len(table.paths)) == (2, 10)


def test_a_table_of_split_folders_keeps_their_split(make, table_with):
    root = make("train/1.jpg", "train/2.jpg", "valid/3.jpg", "valid/4.jpg")
    table_with(
        "f,l", "train/1.jpg,a", "train/2.jpg,b", "valid/3.jpg,a", "valid/4.jpg,b", name="s.csv"
    )
    table = resolve_data(root, labels="csv:s.csv", seed=0)
    assert shown(table, table.valid_rows) == ["valid/3.jpg", "valid/4.jpg"]


@pytest.mark.parametrize("names", [("9", "10"), ("09", "10"), ("NA", "null")])
def test_whole_numbers_are_sorted_as_numbers_and_na_is_a_class(table_with, names: tuple[str, str]):
    rows = [f"{n}.jpg, {names[n % 2]} " for n in range(10)]
    assert resolve_data(table_with("image,label", *rows), seed=0).vocab == names


def test_odd_names_in_a_table_are_found(make, table_with):
    names = ["new\nline.jpg", 'quo"te.jpg', "a,b 犬.jpg", "é.jpg"]
    make(*names, "e\u0301te\u0301.jpg")
    rows = ['"new\nline.jpg",a', '"quo""te.jpg",a', '"a,b 犬.jpg",b', "é.jpg,b"]
    # An accent may be written in either way.
    table = resolve_data(table_with("image,label", *rows, "\u00e9t\u00e9.jpg,a"), seed=0)
    assert [path.name for path in table.paths[:4]] == names
    assert table.shown_path(4) in ("e\u0301te\u0301.jpg", "\u00e9t\u00e9.jpg")


def test_a_table_without_any_of_its_images_lists_twenty_of_them(tmp_path: Path):
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(["image,label", *rows_of("{n}.jpg,{label}", 29), "n" * 5000 + ",a"]))
    with pytest.raises(PictureError, match=r"30 of 30(?s:.*)and 10 more"):
        resolve_data(file, seed=0)


def test_paths_may_be_relative(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(make("train/a/1.jpg", "train/b/2.jpg", "valid/a/3.jpg"))
    table = resolve_data(".", seed=0)
    assert list(map(str, table.paths)) == ["train/a/1.jpg", "train/b/2.jpg", "valid/a/3.jpg"]
    assert shown(table, table.valid_rows) == ["valid/a/3.jpg"]


@pytest.fixture(scope="module")
def cells() -> ImageTable:
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    return solar_cells(seed=0)


def test_the_cells_are_those_of_the_paper(cells: ImageTable):
    assert cells.vocab == ("defective", "functional")
    assert Counter(map(cells.label, range(len(cells.paths)))) == {
        "functional": 1803,
        "defective": 821,
    }
    assert cells.shown_path(0) == "images/cell0001.png"
    assert all(path.is_file() for path in cells.paths)


def test_a_quarter_is_held_out_with_equal_parts_of_classes_and_cell_types(cells: ImageTable):
    assert solar_cells(seed=0).valid_rows.equal(cells.valid_rows)
    assert not solar_cells(seed=1).valid_rows.equal(cells.valid_rows)
    assert (len(cells.train_rows), len(cells.valid_rows)) == (1968, 656)
    assert len({*cells.train_rows.tolist(), *cells.valid_rows.tolist()}) == 2624
    types = [line.split()[2] for line in (cells.root / "labels.csv").read_text().splitlines()]
    strata = Counter((cells.label(row), types[row]) for row in cells.valid_rows.tolist())
    whole = Counter((cells.label(row), types[row]) for row in range(2624))
    assert all(abs(strata[stratum] - count / 4) < 1 for stratum, count in whole.items())


def test_licence_and_published_results_are_stated(cells: ImageTable):
    stated = metadata("elpv-dataset")["License-Expression"]
    assert stated == "CC-BY-NC-SA-4.0 AND Apache-2.0"  # the images, and the code of the package
    assert SOLAR_CELLS.licence == "CC BY-NC-SA 4.0"
    assert "commercial" in SOLAR_CELLS.terms
    assert [accuracy for _, accuracy in SOLAR_CELLS.published] == [0.8244, 0.8842]
    assert "arXiv:1807.02894" in SOLAR_CELLS.citation[-1]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(MissingExtraError, match="pip install elpv-dataset"):
        solar_cells(seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"labels\.csv"),
        ("images/a.png 1.0\n", "three columns"),
        ("images/a.png high mono\n", "row 1: .*'high'"),
    ],
)
def test_a_damaged_package_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
):
    (tmp_path / "elpv_dataset" / "data").mkdir(parents=True)
    (tmp_path / "elpv_dataset" / "__init__.py").touch()
    if text is not None:
        (tmp_path / "elpv_dataset" / "data" / "labels.csv").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with pytest.raises(DataError, match=message):
        solar_cells(seed=0)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda name: name.replace("/", "\\"), "slashes and spaces"),
        (lambda name: f"C:\\data\\{name[2:]}", "the file's name"),
        (lambda name: f"C:/{name}", "slashes and spaces"),
        (lambda name: f"  {name} ", "slashes and spaces"),
        (lambda name: f"./{name}", ""),
        (lambda name: f"somewhere/{name[2:]}", "the file's name"),
        (lambda name: name[2:-4], "without the extension"),
        (lambda name: name.upper(), "another case"),
        (lambda name: str(int(name[4:-4])), "leading zeros"),
    ],
)
def test_names_that_changed_on_their_way_are_found_and_counted(make, table_with, change, note):
    names = [f"{'ab'[n % 2]}/im{n:03}.jpg" for n in range(10)]
    if note == "leading zeros":
        names = [f"{'ab'[n % 2]}/{n + 20:05}.jpg" for n in range(10)]
    root = make(*names)
    rows = [f"{change(name)},{name[0]}" for name in names]
    table = resolve_data(table_with("file,label", *rows), seed=0)
    assert sorted(path.relative_to(root).as_posix() for path in table.paths) == sorted(names)
    told = [line for line in table.notes if "found by" in line]
    assert told == ([f"10 images found by {told[0][19:]}"] if note else [])
    assert all(note in line for line in told)


def test_a_name_that_means_several_files_is_not_called_missing(make, table_with):
    make("a/p.jpg", "b/p.jpg", "a/q.jpg", "a/r.jpg", "b/s.jpg")
    file = table_with("file,label", "p.jpg,a", "q.jpg,a", "r.jpg,b", "s.jpg,b")
    with pytest.raises(TableError) as refusal:
        resolve_data(file, seed=0)
    text = str(refusal.value)
    assert "'p.jpg' matches 2 images: 'a/p.jpg', 'b/p.jpg'" in text
    assert "not exist" not in text


def test_the_nearest_file_is_named_for_a_missing_one(make, table_with):
    make("dog_01.jpg", "dog_02.jpg", "cat_01.jpg", "cat_02.jpg")
    file = table_with("file,label", "dgo_01.jpg,d", "dog_02.jpg,d", "cat_01.jpg,c", "cat_02.jpg,c")
    with pytest.raises(PictureError, match=r"dgo_01\.jpg'\), did you mean 'dog_01\.jpg'"):
        resolve_data(file, seed=0)


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        (["sep=;", "file;label", *(f"{n}.jpg;{'ab'[n % 2]}" for n in range(10))], ("file", "label")),
        ([f"{n}.jpg,{'ab'[n % 2]}" for n in range(10)], ("0", "1")),
        ([",photo,kind", *(f"{n},{n}.jpg,{'ab'[n % 2]}" for n in range(10))], ("photo", "kind")),
        (["Unnamed: 0,kind,photo", *(f"{n},{'ab'[n % 2]},{n}.jpg" for n in range(10))], ("photo", "kind")),
    ],
)  # fmt: skip
def test_tables_as_programs_write_them(make, table_with, lines: list[str], columns):
    make(*(f"{n}.jpg" for n in range(10)))
    table = resolve_data(table_with(*lines), seed=0)
    assert (table.vocab, len(table.paths)) == (("a", "b"), 10)
    told = " ".join(table.notes)
    assert f"labels from column {columns[1]!r}, images from column {columns[0]!r}" in told
    assert ("no header" in told) == (columns == ("0", "1"))


@pytest.mark.parametrize(
    ("header", "row", "facts"),
    [
        ("file,label", lambda n: f"{n}.jpg,{'nan' if n == 3 else 'ab'[n % 2]}", ["'label'", "row 5: 'nan'"]),
        ("file,cat,dog", lambda n: f"{n}.jpg,{n % 2},{n % 3 == 0:d}", ["'cat', 'dog'", "label=*", "encoded=True"]),
        ("file,tags", lambda n: f"{n}.jpg,{'ab'[n % 2]}|{'xyz'[n % 3]}", ["'tags'", "label=tags,delimiter=|", "label_delim='|'"]),
        ("file,score", lambda n: f"{n}.jpg,{n / 7:.3f}", ["'score'", "0.000", "label=score,kind=number", "RegressionBlock"]),
        ("file,label,is_valid", lambda n: f"{n}.jpg,{'ab'[n % 2]},{n % 5}", ["'is_valid'", "on=0"]),
    ],
)  # fmt: skip
def test_a_column_that_is_not_one_class_per_image_is_refused(make, table_with, header, row, facts):
    make(*(f"{n}.jpg" for n in range(10)))
    with pytest.raises(DataError) as refusal:
        resolve_data(table_with(header, *map(row, range(10))), seed=0)
    for fact in facts:
        assert fact in str(refusal.value)


def test_a_column_of_folds_is_not_one_of_sets(make):
    root = make(*(f"{n}.jpg" for n in range(10)))
    frame = pd.DataFrame(
        {"f": [f"{n}.jpg" for n in range(10)], "l": list("ab") * 5, "fold": [0, 1, 2, 3, 4] * 2}
    )
    with pytest.raises(TableError, match="'fold'"):
        ImageDataLoaders.from_df(frame, root, valid_col="fold", item_tfms=Resize(8))
    with pytest.raises(TableError, match=r"Received: 2.*on=0"):
        ColSplitter("fold")(frame)
    assert ColSplitter("fold", on=0)(frame)[1] == [0, 5]


# --- several labels, numbers, groups -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "task", "vocab", "first_two"),
    [
        ("label=tags,delimiter= ", "multi_category", ("a", "b", "even"), [[1, 0, 1], [0, 1, 0]]),
        ("label=tags,delimiter=' '", "multi_category", ("a", "b", "even"), [[1, 0, 1], [0, 1, 0]]),
        ("label=x,label=y", "multi_category", ("x", "y"), [[1, 0], [0, 1]]),
        ("label=one,label=two", "multi_category", ("a", "b", "c"), [[1, 0, 1], [0, 1, 1]]),
        ("label=score,kind=number", "regression", ("score",), [[0.0], [0.5]]),
        ("label=score,label=y,kind=number", "regression", ("score", "y"), [[0.0, 0], [0.5, 1]]),
        ("label=one", "category", ("a", "b"), [0, 1]),
    ],
)
def test_a_table_says_what_its_labels_are(table_with, words, task, vocab, first_two):
    rows = [
        f"{n}.jpg,{'ab'[n % 2]}{' even' * (n % 2 == 0)},{1 - n % 2},{n % 2},{n / 2},{'ab'[n % 2]},c"
        for n in range(10)
    ]
    file = table_with("file,tags,x,y,score,one,two", *rows)
    table = resolve_data(file, labels=f"csv:,{words}", seed=0)
    assert (table.task, table.vocab) == (task, vocab)
    assert table.targets[:2].tolist() == first_two
    assert (len(table.train_rows), len(table.valid_rows)) == (8, 2)


def test_all_columns_left_are_labels(table_with):
    rows = [f"{n}.jpg,{n % 2},{1 - n % 2},p{n // 2}" for n in range(10)]
    file = table_with("file,x,y,patient", *rows)
    table = resolve_data(file, labels="csv:,label=*,group=patient", seed=0)
    assert table.vocab == ("x", "y")
    with pytest.raises(TableError, match="'patient'"):
        resolve_data(file, labels="csv:,label=*", seed=0)


@pytest.mark.parametrize(
    "words",
    [
        "label=tags,kind=labels",
        "label=tags,kind=class,delimiter=;",
        "label=x,label=y,kind=class",
        "label=tags,kind=several",
        "label=score,kind=number,delimiter=;",
        "label=tags,delimiter=",
        "group=x,group=y",
    ],
)
def test_words_that_contradict_each_other_are_refused(table_with, words: str):
    file = table_with("file,tags,x,y,score", "0.jpg,a,0,1,0.5")
    with pytest.raises(ConfigError, match=re.escape(words)):
        resolve_data(file, labels=f"csv:,{words}", seed=0)


def test_a_rare_label_is_in_both_sets(table_with):
    rows = [f"{n}.jpg,{'a;rare' if n in (3, 8) else 'a' if n % 2 else 'a;b'}" for n in range(10)]
    for seed in range(5):
        table = resolve_data(
            table_with("file,tags", *rows), labels="csv:,label=tags,delimiter=;", seed=seed
        )
        rare = table.targets[:, table.vocab.index("rare")]
        assert rare[table.train_rows].sum() == rare[table.valid_rows].sum() == 1


def test_images_of_a_group_are_in_one_set(make, table_with):
    patients = [f"p{n // 2}" for n in range(40)]
    make(*several("{}.jpg", 40))
    rows = [f"{n}.jpg,{'ab'[n // 20]},{patient}" for n, patient in enumerate(patients)]
    file = table_with("file,label,patient", *rows)
    for labels, group in (("csv:,label=label,group=patient", ""), ("folder", "patient")):
        table = resolve_data(file, labels=labels, group=group, seed=3)
        sets = [
            {patients[row] for row in rows.tolist()}
            for rows in (table.train_rows, table.valid_rows)
        ]
        assert not sets[0] & sets[1]
        # Of several draws the one with the same part of each class is taken.
        assert table.targets[table.valid_rows].bincount().tolist() == [4, 4]
        assert "20 groups" in table.notes[-1]
    file.write_text(file.read_text().replace("p7", " "))
    with pytest.raises(TableError, match="row 16"):
        resolve_data(file, group="patient", seed=0)


def test_groups_can_be_in_the_paths(make):
    root = make(*(f"{label}/ann{n // 3}_{n}.jpg" for label in ("a", "b") for n in range(12)))
    table = resolve_data(root, group=r"regex:/(ann\d+)_", seed=0)
    held_out = {path.split("_")[0][2:] for path in shown(table, table.valid_rows)}
    trained = {path.split("_")[0][2:] for path in shown(table, table.train_rows)}
    assert not held_out & trained
    with pytest.raises(LabelError, match=r"24 paths.*\n  'a/ann0_0\.jpg'"):
        resolve_data(root, group="regex:(bob)", seed=0)
    for group in ("patient", "regex:bob"):
        with pytest.raises(ConfigError, match="group"):
            resolve_data(root, group=group, seed=0)


def test_whole_groups_that_a_model_was_trained_on_are_left_out_when_it_is_judged(make):
    root = make(*(f"{label}/ann{n // 3}_{n}.jpg" for label in ("a", "b") for n in range(12)))
    options: Any = {"vocab": ("a", "b"), "task": "category"}
    options["trained_on"] = {os.path.realpath(root / "a" / "ann0_0.jpg")}
    assert len(labelled_data(root, **options).valid_rows) == 23
    table = labelled_data(root, group=r"regex:/(ann\d+)_", **options)
    judged = shown(table, table.valid_rows)
    assert (len(judged), len(table.paths)) == (18, 24)
    assert not any("ann0_" in path for path in judged)
    assert [note.split(" image")[0] for note in table.notes[-2:]] == ["skipped 1", "skipped 5"]


def test_a_split_that_tears_groups_apart_is_refused(table_with):
    rows = [f"{n}.jpg,{'ab'[n % 2]},{n // 4},{n % 5 == 0:d}" for n in range(10)]
    file = table_with("file,label,patient,is_valid", *rows)
    assert len(resolve_data(file, seed=0).valid_rows) == 2
    with pytest.raises(DataError, match=r"2 groups.*\n  '0'\n  '1'"):
        resolve_data(file, group="patient", seed=0)
    assert resolve_data(file, group="patient", valid="pool:0.4", seed=0).train_rows.numel() == 6


def test_metadata_beside_the_images_is_found_by_itself(make):
    rows = [f"{n}.jpg,{'ab'[n % 2]}" for n in range(10)]
    records = [f'{{"file_name": "{n}.jpg", "label": {str(n % 2 == 0).lower()}}}' for n in range(10)]
    root = make(*(f"{place}/{n}.jpg" for place in ("csv", "split/train", "split/test", "two/cat", "two/dog") for n in range(10)))  # fmt: skip
    (root / "csv" / "metadata.csv").write_text("\n".join(("file_name,label", *rows)))
    table = resolve_data(root / "csv", seed=0)
    assert table.vocab == ("a", "b")
    assert "metadata.csv', found beside the images" in table.notes[0]
    for place in ("train", "test"):
        (root / "split" / place / "metadata.jsonl").write_text("\n".join(records))
    table = resolve_data(root / "split", seed=0)
    assert table.classes == (False, True)
    assert all(path.startswith("train/") for path in shown(table, table.train_rows))
    assert len(table.paths) == 20
    assert not any("no row names" in note for note in table.notes)
    file = root / "two" / "metadata.csv"
    file.write_text("\n".join(("file_name,label", *(f"cat/{row}" for row in rows))))
    with pytest.raises(DataError, match=r"Folders \(cat, dog\) and .*metadata.csv"):
        resolve_data(root / "two", seed=0)
    assert resolve_data(root / "two", labels="folder", seed=0).vocab == ("cat", "dog")
    file.write_text("file_name,label\ncat/0.jpg,cat\ncat/1.jpg,cat\ndog/0.jpg,dog\ndog/1.jpg,dog\n")
    assert len(resolve_data(root / "two", seed=0).paths) == 4
    file.write_text("file_name,colour,shape\n0.jpg,red,round\n")
    with pytest.raises(DataError, match="'colour', 'shape'"):
        resolve_data(root / "two", seed=0)
    (root / "two" / "metadata.jsonl").write_text(records[0] + "\n" + records[1])
    with pytest.raises(DataError, match=r"metadata\.csv' or .*metadata\.jsonl"):
        resolve_data(root / "two", seed=0)
    for other in ("what,ever\n1,2\n", ""):  # not of images
        file.write_text(other)
        (root / "two" / "metadata.jsonl").unlink(missing_ok=True)
        assert resolve_data(root / "two", seed=0).vocab == ("cat", "dog")
