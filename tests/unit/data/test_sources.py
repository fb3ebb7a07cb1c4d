"""get_image_files lists what a person would, in one order, and says what is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest

from vizsla.data.table.sources import IMAGE_SUFFIXES, get_image_files, list_images
from vizsla.data.table.tables import read_table, table_of_frame
from vizsla.errors import DataError, TableError


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def names_below(root: Path, **arguments: object) -> list[str]:
    return [file.relative_to(root).as_posix() for file in get_image_files(root, **arguments)]  # pyright: ignore[reportArgumentType]


def test_pictures_are_found_by_extension_in_any_case(tmp_path: Path):
    touch(tmp_path, "a.JPG", "b.Png", "c.txt", "d", "e.mat", "jpg", "f.tar.gz", "g.x.webp")
    assert names_below(tmp_path) == ["a.JPG", "b.Png", "g.x.webp"]


def test_the_order_is_that_of_the_posix_path_as_text(tmp_path: Path):
    touch(tmp_path, "b.jpg", "a/2.jpg", "a-b/1.jpg", "a/10.jpg", "B.jpg")
    assert names_below(tmp_path) == ["B.jpg", "a-b/1.jpg", "a/10.jpg", "a/2.jpg", "b.jpg"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path):
    touch(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "._d.jpg")
    assert names_below(tmp_path) == ["a.jpg"]


def test_without_recursion_only_direct_files_count(tmp_path: Path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    assert names_below(tmp_path, recurse=False) == ["a.jpg"]


def test_folders_choose_top_level_folders(tmp_path: Path):
    touch(tmp_path, "a.jpg", "b/c.jpg", "d/e/f.jpg", "g/h.jpg")
    assert names_below(tmp_path, folders=["d", "b"]) == ["b/c.jpg", "d/e/f.jpg"]
    assert names_below(tmp_path, folders=[".", "g"]) == ["a.jpg", "g/h.jpg"]


def test_odd_names_survive(tmp_path: Path):
    odd = ["with space.jpg", "quo'te\".jpg", "new\nline.jpg", "Pyrénées 犬/été.png", "a,b;c.jpg"]
    touch(tmp_path, *odd)
    assert names_below(tmp_path) == sorted(odd)


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on posix only")
def test_a_name_that_is_no_text_is_listed(tmp_path: Path):
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    assert [os.fsencode(file.name) for file in get_image_files(tmp_path)] == [b"caf\xe9.jpg"]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path):
    touch(tmp_path, "real/a.jpg", "data/b/c.jpg")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data" / "itself")
    assert names_below(tmp_path / "data") == ["b/c.jpg", "linked/a.jpg"]


def test_a_web_of_links_is_an_error_instead_of_a_hang(tmp_path: Path):
    folders = [tmp_path / f"f{number}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other, target_is_directory=True)
    with pytest.raises(DataError, match="More than 16 linked folders"):
        get_image_files(folders[0])


def test_a_broken_link_is_listed_so_that_it_can_be_reported(tmp_path: Path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert names_below(tmp_path) == ["gone.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_no_picture(tmp_path: Path):
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert names_below(tmp_path) == ["a.jpg"]


def test_a_missing_folder_is_named_with_those_that_are_there(tmp_path: Path):
    (tmp_path / "dogscats").mkdir()
    expected = f"There is no folder '{tmp_path.as_posix()}/dogcats'. Check the spelling."
    expected += f" In '{tmp_path.as_posix()}' there are the folders:\n  'dogscats'"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        get_image_files(tmp_path / "dogcats")


def test_a_missing_folder_in_a_missing_folder_lists_what_is_above(tmp_path: Path):
    (tmp_path / "pets").mkdir()
    with pytest.raises(
        DataError, match=r"no folder '.*/cats/images/x'(?s:.*)are the folders:\n  'pets'"
    ):
        get_image_files(tmp_path / "cats" / "images" / "x")


def test_a_missing_one_of_folders_is_an_error(tmp_path: Path):
    touch(tmp_path, "train/a.jpg")
    with pytest.raises(DataError, match=r"no folder '.*/valid'.*there are the folders:\n  'train'"):
        get_image_files(tmp_path, folders=["train", "valid"])


def test_a_file_given_as_folder_is_an_error(tmp_path: Path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg' is a file"):
        get_image_files(tmp_path / "a.jpg")


def test_a_folder_without_pictures_tells_what_is_in_it(tmp_path: Path):
    touch(tmp_path, "a.txt", "b/c.TXT", "d.mat", "readme")
    message = r"no images in .*:\n  \.txt: 2 files\n(?s:.*)\.mat: 1 file\n(?s:.*)Give the folder"
    with pytest.raises(DataError, match=message):
        get_image_files(tmp_path)


def test_an_empty_folder_says_so(tmp_path: Path):
    with pytest.raises(DataError, match=r"no images in .* no files at all"):
        get_image_files(tmp_path)


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


def test_folders_and_files_between_one_another_are_in_the_order_of_their_paths(tmp_path: Path):
    names = [
        "a/x.jpg",
        "a.jpg",
        "a b/1.jpg",
        "a/b.jpg",
        "a/b/1.jpg",
        "a/b-c.jpg",
        "a/b.d/2.jpg",
        "b",
    ]
    touch(tmp_path, *names)
    assert names_below(tmp_path) == sorted(names[:-1])


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


def test_cells_stay_text(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "file, label\n007.jpg,NA\n8,\n,null\n"))
    assert table.columns == ("file", "label")
    assert table.rows == (("007.jpg", "NA"), ("8", ""), ("", "null"))


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", 'f,l\n"a\nb.jpg",x\n\nc.jpg,y\n'))
    assert table.rows == (("a\nb.jpg", "x"), ("c.jpg", "y"))
    assert table.numbers == (2, 4)


def test_the_delimiter_is_found_out(tmp_path: Path):
    for delimiter in [",", ";", "\t", "|"]:
        text = f"f{delimiter}l\r\na.jpg{delimiter}x\r\n"
        table = read_table(write(tmp_path / "t.csv", text))
        assert (table.columns, table.rows) == (("f", "l"), (("a.jpg", "x"),))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path):
    assert read_table(write(tmp_path / "t.csv", "f,l\na,b\n", "utf-8-sig")).columns == ("f", "l")


def test_without_a_header_columns_are_named_by_position(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "a,b\nc,d\n"), header=None)
    assert (table.columns, table.rows) == (("0", "1"), (("a", "b"), ("c", "d")))
    assert table.numbers == (1, 2)


def test_a_header_may_stand_further_down(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "made by,me\nf,l\na,b\n"), header=1)
    assert (table.columns, table.rows, table.numbers) == (("f", "l"), (("a", "b"),), (3,))


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "f,l\na\nb,c,\n"))
    assert table.rows == (("a", ""), ("b", "c"))
    with pytest.raises(TableError, match=r"1 row of .* has more cells .*\n  row 2: 3 cells"):
        read_table(write(tmp_path / "u.csv", "f,l\na,b,c\n"))


def test_a_column_is_found_by_name_or_position(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "f,l\na,b\nc,d\n"))
    assert table.column("l") == table.column(1) == table.column(-1) == ("b", "d")


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path):
    for column in ["breed", 2]:
        table = read_table(write(tmp_path / "t.csv", "f,l\na,b\n"))
        message = rf"no column {column!r} in '.*t\.csv'.*\n  0: 'f'\n  1: 'l'\n"
        with pytest.raises(TableError, match=message):
            table.column(column)


def test_unusable_tables_say_why(tmp_path: Path):
    with pytest.raises(TableError, match=r"There is no file '.*gone\.csv'"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(TableError, match="is empty"):
        read_table(write(tmp_path / "empty.csv", "\n"))
    with pytest.raises(TableError, match="has a header and no rows"):
        read_table(write(tmp_path / "header.csv", "f,l\n"))
    with pytest.raises(TableError, match=r"no text in UTF-8 \(byte"):
        read_table(write(tmp_path / "latin.csv", "f,l\né,b\n", "latin-1"))
    with pytest.raises(TableError, match=r"no text in UTF-8|is no CSV file"):
        read_table(write(tmp_path / "utf16.csv", "f,l\na,b\n", "utf-16"))
    with pytest.raises(TableError, match="is no CSV file"):
        read_table(write(tmp_path / "long.csv", "f,l\n" + "a" * 200_000 + ",b\n"))
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path)


def test_a_frame_keeps_its_values_and_loses_its_gaps():
    frame = pd.DataFrame({"f": ["a", None], "n": [1, 2], 3: [0.5, float("nan")]})
    table = table_of_frame(frame)
    assert table.columns == ("f", "n", "3")
    assert table.rows == (("a", 1, 0.5), (None, 2, None))
    assert table.numbers == (0, 1)
