"""Images of a folder are listed as a person would list them, in one order; CSV files and frames become tables."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vizsla import DataError, TableError, get_image_files
from vizsla.data.table import IMAGE_SUFFIXES, MAX_DEPTH, list_images, read_table, table_of_frame


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def names_below(root: Path, **arguments: object) -> list[str]:
    return [file.relative_to(root).as_posix() for file in get_image_files(root, **arguments)]  # pyright: ignore[reportArgumentType]


ODD = ["with space.jpg", "quo'te\".jpg", "new\nline.jpg", "Pyrénées 犬/été.png", "a,b;c.jpg"]
NEAR = ["a/x.jpg", "a.jpg", "a b/1.jpg", "a/b.jpg", "a/b/1.jpg", "a/b-c.jpg", "a/b.d/2.jpg"]


@pytest.mark.parametrize(
    ("present", "arguments", "found"),
    [
        (["a.JPG", "b.Png", "c.txt", "d", "e.mat", "jpg", "f.tar.gz", "g.x.webp"], {}, ["a.JPG", "b.Png", "g.x.webp"]),
        (["b.jpg", "a/2.jpg", "a-b/1.jpg", "a/10.jpg", "B.jpg"], {}, ["B.jpg", "a-b/1.jpg", "a/10.jpg", "a/2.jpg", "b.jpg"]),
        (["a.jpg", ".b.jpg", ".cache/c.jpg", "._d.jpg"], {}, ["a.jpg"]),
        (["a.jpg", "b/c.jpg"], {"recurse": False}, ["a.jpg"]),
        (["a.jpg", "b/c.jpg", "d/e/f.jpg", "g/h.jpg"], {"folders": ["d", "b"]}, ["b/c.jpg", "d/e/f.jpg"]),
        (["a.jpg", "b/c.jpg", "d/e/f.jpg", "g/h.jpg"], {"folders": [".", "g"]}, ["a.jpg", "g/h.jpg"]),
        (ODD, {}, sorted(ODD)),
        ([*NEAR, "b"], {}, sorted(NEAR)),
    ],
    ids=["suffixes", "order", "hidden", "not recursive", "folders", "folders with .", "odd names", "files between folders"],
)  # fmt: skip
def test_images_are_listed_in_the_order_of_their_posix_paths(
    tmp_path: Path, present: list[str], arguments: dict[str, Any], found: list[str]
):
    touch(tmp_path, *present)
    assert names_below(tmp_path, **arguments) == found


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on posix only")
def test_a_name_that_is_no_text_is_listed(tmp_path: Path):
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    assert [os.fsencode(file.name) for file in get_image_files(tmp_path)] == [b"caf\xe9.jpg"]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path):
    touch(tmp_path, "real/a.jpg", "data/b/c.jpg")
    (tmp_path / "data" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data" / "itself")
    # A broken link is listed, so that it can be reported.
    assert names_below(tmp_path / "data") == ["b/c.jpg", "gone.jpg", "linked/a.jpg"]


def test_a_web_of_links_is_an_error_instead_of_a_hang(tmp_path: Path):
    folders = [tmp_path / f"f{number}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other, target_is_directory=True)
    with pytest.raises(DataError, match="More than 16 linked folders"):
        get_image_files(folders[0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_an_image(tmp_path: Path):
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert names_below(tmp_path) == ["a.jpg"]


def test_a_folder_that_cannot_be_listed_says_what_is_there(tmp_path: Path):
    touch(tmp_path, "dogscats/train/a.jpg", "text/a.txt", "text/b/c.TXT", "text/readme")
    (tmp_path / "empty").mkdir()
    root = tmp_path.as_posix()
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("dogcats", {}, f"'{root}/dogcats'(?s:.*)'{root}' contains these folders:\n  'dogscats'\n  'empty'"),
        ("cats/images/x", {}, f"'{root}/cats/images/x'(?s:.*)contains these folders:\n  'dogscats'"),
        ("dogscats", {"folders": ["train", "valid"]}, f"'{root}/dogscats/valid'(?s:.*)\n  'train'"),
        ("dogscats/train/a.jpg", {}, r"a\.jpg' is a file"),
        ("text", {}, r"no images in .*:\n  \.txt: 2 files\n  \(no extension\): 1 file\n"),
        ("empty", {}, "no images in .* no files at all"),
    ]  # fmt: skip
    for folder, arguments, words in cases:
        with pytest.raises(DataError, match=words):
            get_image_files(tmp_path / folder, **arguments)


def test_every_suffix_is_lower_case_with_a_dot():
    assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif"} <= IMAGE_SUFFIXES


def test_listing_asks_the_system_about_folders_and_not_about_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(150):
            (tmp_path / folder / f"{number}.jpg").touch()
    asked: list[str] = []
    real_stat = os.stat

    def counting_stat(path: str, **options: bool) -> os.stat_result:
        asked.append(os.fspath(path))
        return real_stat(path, **options)

    monkeypatch.setattr(os, "stat", counting_stat)
    assert len(get_image_files(tmp_path)) == 300
    assert len(asked) < 10
    assert not [name for name in asked if name.endswith(".jpg")]


def test_a_listing_knows_of_all_but_links_that_they_are_there(tmp_path: Path):
    touch(tmp_path, "a/1.jpg", "a/3.jpg", "b/4.jpg")
    (tmp_path / "a" / "2.jpg").symlink_to("nowhere")
    (tmp_path / "b" / "5.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    listing = list_images(tmp_path)
    assert listing.in_doubt == (1, 4)
    assert listing.paths == get_image_files(tmp_path)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["b", "a"], ["a/1.jpg", "a/c/2.jpg", "b/3.jpg"]),
        (["a/c", "a"], ["a/1.jpg", "a/c/2.jpg", "a/c/2.jpg"]),
        (["b", "b"], ["b/3.jpg", "b/3.jpg"]),
    ],
)
def test_folders_that_lie_in_one_another_leave_all_in_doubt(
    tmp_path: Path, folders: list[str], names: list[str]
):
    touch(tmp_path, "a/1.jpg", "a/c/2.jpg", "b/3.jpg")
    listing = list_images(tmp_path, folders=folders)
    assert [path.relative_to(tmp_path).as_posix() for path in listing.paths] == names
    assert listing.in_doubt == (() if folders == ["b", "a"] else None)


@pytest.mark.parametrize("root", [".", "pets", "./pets/../pets"])
def test_paths_are_written_as_path_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
):
    touch(tmp_path, "pets/a/1.jpg", "pets/2.jpg")
    monkeypatch.chdir(tmp_path if root != "." else tmp_path / "pets")
    expected = [Path(root) / "2.jpg", Path(root) / "a" / "1.jpg"]
    assert get_image_files(root) == expected
    assert [str(path) for path in list_images(root).paths] == [str(path) for path in expected]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "arguments", "columns", "rows", "numbers"),
    [
        ("file, label\n007.jpg,NA\n8,\n,null\n", {}, ("file", "label"), [("007.jpg", "NA"), ("8", ""), ("", "null")], (2, 3, 4)),
        ('f,l\n"a\nb.jpg",x\n\nc.jpg,y\n', {}, ("f", "l"), [("a\nb.jpg", "x"), ("c.jpg", "y")], (2, 4)),
        *((f"f{d}l\r\na.jpg{d}x\r\n", {}, ("f", "l"), [("a.jpg", "x")], (2,)) for d in ",;\t|"),
        ("\ufefff,l\na,b\n", {}, ("f", "l"), [("a", "b")], (2,)),
        ("a,b\nc,d\n", {"header": None}, ("0", "1"), [("a", "b"), ("c", "d")], (1, 2)),
        ("made by,me\nf,l\na,b\n", {"header": 1}, ("f", "l"), [("a", "b")], (3,)),
        ("f,l\na\nb,c,\n", {}, ("f", "l"), [("a", ""), ("b", "c")], (2, 3)),
    ],
    ids=["text", "spreadsheet rows", *",;\t|", "byte order mark", "no header", "late header", "short rows"],
)  # fmt: skip
def test_csv_files_are_read_as_text(tmp_path: Path, text, arguments, columns, rows, numbers):
    table = read_table(write(tmp_path / "t.csv", text), **arguments)
    assert (table.columns, [*table.rows], table.numbers) == (columns, rows, numbers)
    assert table.column(columns[1]) == table.column(1) == table.column(-1)
    for column in ["breed", 2]:
        names = rf"\n  0: {columns[0]!r}\n  1: {columns[1]!r}\n"
        with pytest.raises(TableError, match=rf"{column!r} in '.*t\.csv'(?s:.*){names}"):
            table.column(column)


def test_unusable_tables_say_why(tmp_path: Path):
    for text, encoding, words in [
        ("\n", "utf-8", "is empty"),
        ("f,l\n", "utf-8", "no rows"),
        ("f,l\na,b,c\n", "utf-8", r"more cells .*\n  row 2: 3 cells"),
        ("f,l\né,b\n", "latin-1", r"UTF-8 text \(byte"),
        ("f,l\na,b\n", "utf-16-le", "UTF-8|CSV"),
        ("f,l\n" + "a" * 200_000 + ",b\n", "utf-8", "CSV"),
    ]:
        with pytest.raises(TableError, match=rf"t\.csv'(?s:.*){words}"):
            read_table(write(tmp_path / "t.csv", text, encoding))
    with pytest.raises(TableError, match=r"gone\.csv"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(TableError, match="is a folder"):
        read_table(tmp_path)


def test_a_frame_keeps_its_values_and_loses_its_gaps():
    frame = pd.DataFrame({"f": ["a", None], "n": [1, 2], 3: [0.5, float("nan")]})
    table = table_of_frame(frame)
    assert table.columns == ("f", "n", "3")
    assert table.rows == (("a", 1, 0.5), (None, 2, None))
    assert table.numbers == (0, 1)


def test_folders_too_deep_for_python_are_refused(tmp_path: Path):
    deep = tmp_path.joinpath(*"d" * (MAX_DEPTH + 1))
    deep.mkdir(parents=True)
    with pytest.raises(DataError, match=f"more than {MAX_DEPTH} deep"):
        get_image_files(tmp_path)
