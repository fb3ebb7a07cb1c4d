"""Promises about awkward data: nothing blocks, nothing fails in its own words, what is not used is named; Python says the same."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vizsla import DataError, PictureError
from vizsla.data.images import decode_image
from vizsla.data.table import resolve_data

if TYPE_CHECKING:
    from conftest import Done

ROWS = [f"{number}.png,{'ab'[number % 2]}" for number in range(10)]
RECORDS = [
    {"file_name": f"{number}.png", "label": "ab"[number % 2], "box": [0, 1]} for number in range(10)
]
TAGS = ["fog sea", "fog", "ice sea", "ice", "fog wind", "ice wind sea", "wind", "sea", "fog ice"]


def lines(*records: object) -> str:
    return "\n".join(map(json.dumps, records))


def table(*rows: str) -> str:
    return "\n".join(("file,label", *rows))


# Name of the file beside ten images, what is in it, the exit code of ``check`` and what it says.
FILES: tuple[tuple[str, str | bytes, int, str], ...] = (
    ("l.csv", table(*ROWS).encode("utf-16"), 0, "total"),
    ("l.csv", table(*ROWS).encode("utf-16-le"), 2, "zero bytes"),
    ("l.csv", table(*ROWS).replace("a", "caf\xe9").encode("latin-1"), 2, "CSV UTF-8"),
    ("l.csv", table('0.png,"a', *ROWS[1:]), 2, "Check its quotes"),
    ("l.csv", "file,label,label\n0.png,a,b", 2, "duplicate names: 'label'"),
    ("l.csv", table(*ROWS[:6]), 0, "skipped 4 images that no row names: '6.png'"),
    ("l.csv", table(*ROWS, "99.png,a"), 2, "row 12 ('l/99.png'), did you mean '9.png'?"),
    ("l.csv", table(*ROWS, "folder.png,a"), 2, "'l/folder.png'), it is a folder"),
    ("l.csv", table(*ROWS, "pipe.png,a"), 2, "'l/pipe.png'), it is a pipe"),
    ("l.csv", table(*ROWS, "link.png,a"), 2, "'l/link.png'), it is a broken link"),
    ("l.csv", b"PK\x03\x04", 2, "zip archive"),
    ("l.csv", b"PAR1", 2, "Parquet"),
    ("l.csv", "file,label\n0.png,a\0", 2, "zero bytes"),
    ("l.csv", table(",a", ",b"), 2, "row 2: ('', 'a')"),
    ("l.csv", "file,tags\n" + "\n".join(f"{n}.png,{tag}" for n, tag in enumerate(TAGS)), 2, "lists of labels, such as 'fog sea'"),
    ("l.jsonl", lines(*RECORDS), 0, "images from column 'file_name'"),
    ("l.json", json.dumps(RECORDS, indent=1), 0, "labels from column 'label'"),
    ("l.jsonl", lines(*RECORDS[:9], {"file_name": "9.png"}), 2, "row 10 ('l/9.png')"),
    ("l.jsonl", lines(*RECORDS[:9]) + '\n{"file_name": ', 2, "row 10 of 'l/l.jsonl' is not JSON"),
    ("l.jsonl", lines({"file_name": "0.png"}, ["1.png", "a"]), 2, "row 2: ['1.png', 'a']"),
    ("l.jsonl", lines({"image": {"bytes": ""}, "label": 1}, {"image": "1.png", "label": 2}), 2, "row 1"),
    ("l.jsonl", lines(*({"file_name": f"{n}.png", "label": {"id": n}} for n in range(9))), 2, "an object as its label"),
    ("l.json", json.dumps({"0.png": "a", "1.png": "b"}), 2, "single JSON object, with the keys '0.png', '1.png'"),
    ("l.json", "", 2, "empty"),
    ("l.zip", b"PK\x03\x04", 2, "Unpack it"),
    ("l.parquet", b"PAR1", 2, "Create it again"),
)  # fmt: skip


def said(done: Done) -> str:
    assert "Traceback" not in done.out + done.err
    return done.out + done.err.removeprefix("vizsla: ")


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and links")
def test_tables_as_they_should_not_be(here: Path, make_image, vizsla: Callable[..., Done]):
    for number in range(10):
        make_image(f"l/{number}.png", number=number)
    (here / "l" / "folder.png").mkdir()
    os.mkfifo(here / "l" / "pipe.png")
    (here / "l" / "link.png").symlink_to("nowhere")
    for name, content, code, words in FILES:
        file = here / "l" / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        done = vizsla("check", Path("l") / name)
        assert (done.code, words in said(done)) == (code, True), (name, content[:60], said(done))
        if code == 2:
            with pytest.raises(DataError) as refusal:
                resolve_data(Path("l") / name, seed=0)
            assert str(refusal.value) == said(done).rstrip("\n")
        file.unlink()


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and links")
def test_folders_as_they_should_not_be(
    here: Path, image_folder: Path, vizsla: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(image_folder / "cross" / "pipe.png")
    monkeypatch.chdir(image_folder / "disc")  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
    monkeypatch.chdir(here)
    (image_folder / "cross" / "up").symlink_to(image_folder)
    (image_folder / "cross" / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(PictureError, match="a device"):
        decode_image("/dev/zero")
    shutil.copy(image_folder / "cross" / "cross_0.jpg", image_folder / "cross" / "._cross_0.jpg")
    for number, name in enumerate(("-x.jpg", "#1.jpg", "100%.jpg", "new\nline.jpg")):
        os.link(image_folder / "cross" / f"cross_{number}.jpg", image_folder / "cross" / name)
    done = vizsla("check", "pictures")
    assert done.code == 0
    for words in (
        "skipped pipes, sockets or devices: cross/pipe.png, cross/zero.png, disc/socket.png",
        "skipped 1 image with a name that begins with a dot",
        "exact duplicates within a set: 4 images in 8 files",
    ):
        assert words in done.out.replace("across training, validation and test", "within a set")
    for data, words in (
        ("http://127.0.0.1:9/pets", "cannot be read"),
        ("telepathy://bucket/pets", "cannot be opened"),
        ("pictures/cross/*_0.jpg", "matches 1 of the 28 images"),
        ("pictures/cross/pipe.png", "is a pipe"),
        ("/dev/null", "is a pipe or a device"),
    ):
        done = vizsla("check", data)
        assert (done.code, words in done.err) == (2, True), done.err
