"""Thumbnails: whole pictures made small, as JPEG inside the page; unreadable files give none."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.report.thumbnails import NO_ROOM, Album, Thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def decoded(thumbnail: Thumbnail) -> Image.Image:
    kind, code = thumbnail.address.split(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(code)))
    assert picture.format == "JPEG"
    assert picture.size == (thumbnail.width, thumbnail.height)
    return picture


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 600), (224, 112)), ((48, 64), (64, 48)), ((1500, 4), (1, 224))],
)
def test_the_longest_side_is_at_most_224_pixels(
    make_picture: Callable[..., Path], size: tuple[int, int], expected: tuple[int, int]
):
    assert decoded(Album().of_file(make_picture("a.png", size=size))).size == expected


def test_a_thumbnail_looks_like_its_picture(tmp_path: Path):
    Image.new("RGB", (800, 800), (200, 30, 40)).save(tmp_path / "red.jpg", quality=95)
    pixel = decoded(Album().of_file(tmp_path / "red.jpg")).getpixel((100, 100))
    assert pixel == pytest.approx((200, 30, 40), abs=6)


def test_an_unreadable_or_missing_file_gives_no_address(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    assert Album().of_file(tmp_path / "empty.jpg").address == ""
    assert Album().of_file(tmp_path / "missing.jpg").address == ""


def test_an_album_stops_when_it_is_full(make_picture: Callable[..., Path]):
    path = make_picture("cross.jpg", size=(200, 300))
    size = len(Album().of_file(path).address)
    album = Album(2 * size)
    found = [album.of_file(path) for _ in range(4)]
    assert [bool(each.address) for each in found] == [True, True, False, False]
    assert [each.missing for each in found[2:]] == [NO_ROOM, NO_ROOM]


def test_pixels_become_a_thumbnail():
    found = Album().of_pixels(torch.zeros(3, 100, 448, dtype=torch.uint8))
    assert (found.width, found.height) == (224, 50)
