"""Paths from the command line, from folders and from lists come in their order, and one by one."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vizsla.data.table.sources import get_image_files
from vizsla.errors import DataError
from vizsla.predict.stream import PathSource, read_list, walk_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator


class OneByteAtATime(io.RawIOBase):
    """A pipe whose writer is slow."""

    def __init__(self, content: bytes) -> None:
        self._bytes: Iterator[int] = iter(content)

    def read1(self, _size: int) -> bytes:
        return bytes([value for value in [next(self._bytes, None)] if value is not None])


def test_a_walk_has_the_order_of_the_sorted_list(tmp_path: Path):
    for name in (
        "b/x.png",
        "b-c/y.png",
        "b.png",
        "b/0.png",
        "B.jpg",
        "b c/z.png",
        "a/.hid.png",
        "a/t.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    walked = list(walk_pictures(tmp_path))
    assert walked == [str(path) for path in get_image_files(tmp_path)]
    assert len(walked) == 7


@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a b.png\n\nc.png", False, ["a b.png", "c.png"]),
        (b"a.png\r\nc.png\r\n", False, ["a.png", "c.png"]),
        (b"a\nb.png\0c.png\0", True, ["a\nb.png", "c.png"]),
        (b"\xff.png\n", False, [os.fsdecode(b"\xff.png")]),
        (b"", False, []),
    ],
)
def test_a_list_is_read_by_its_separator_however_it_arrives(
    content: bytes, null: bool, expected: list[str]
):
    assert list(read_list(io.BytesIO(content), null=null, name="list")) == expected
    assert list(read_list(OneByteAtATime(content), null=null, name="list")) == expected  # pyright: ignore[reportArgumentType] (raw is enough)


def test_a_list_with_zero_bytes_says_which_option_it_needs():
    with pytest.raises(DataError, match=r"^The paths in list end with zero bytes\. Add --null\.$"):
        list(read_list(io.BytesIO(b"a.png\0b.png\0\n"), null=False, name="list"))


def test_a_list_without_separators_does_not_fill_the_memory():
    endless = io.BytesIO(b"x" * 3_000_000)
    with pytest.raises(DataError, match="longer than a million bytes"):
        list(read_list(endless, null=False, name="list"))
    assert endless.tell() < 2_000_000


def test_paths_folders_standard_input_and_lists_come_in_the_order_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in.png").touch()
    (tmp_path / "single.png").touch()
    (tmp_path / "list.txt").write_text("listed.png\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped.png\n")))
    source = PathSource(
        paths=[tmp_path / "single.png", Path("-"), tmp_path / "folder"],
        lists=[tmp_path / "list.txt"],
    )
    source.check()
    expected = [tmp_path / "single.png", "piped.png", tmp_path / "folder" / "in.png", "listed.png"]
    assert list(source.pictures()) == [str(path) for path in expected]
    assert source.num_known is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PathSource(), "No pictures were given"),
        (PathSource(paths=["-"], lists=["-"]), "given more than once"),
        (PathSource(lists=["none.txt"]), "There is no such file or folder:\n  'none.txt'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(source: PathSource, message: str):
    with pytest.raises(DataError, match=message):
        source.check()
