"""Thumbnails: whole pictures made small, as JPEG inside the page; unreadable files give none."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from vizsla.report.thumbnails import Thumbnail, make_thumbnail

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
    assert decoded(make_thumbnail(make_picture("a.png", size=size))).size == expected


def test_a_thumbnail_looks_like_its_picture(tmp_path: Path):
    Image.new("RGB", (800, 800), (200, 30, 40)).save(tmp_path / "red.jpg", quality=95)
    pixel = decoded(make_thumbnail(tmp_path / "red.jpg")).getpixel((100, 100))
    assert pixel == pytest.approx((200, 30, 40), abs=6)


def test_an_unreadable_or_missing_file_gives_no_address(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    assert make_thumbnail(tmp_path / "empty.jpg").address == ""
    assert make_thumbnail(tmp_path / "missing.jpg").address == ""
