"""What would cost too much to decode is found from headers; ordinary pictures pass."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from vizsla.serve.screening import is_large, num_scans, refusal

if TYPE_CHECKING:
    from collections.abc import Callable


def file_of(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_ordinary_pictures_pass(draw: Callable[..., Image.Image], kind: str):
    assert refusal(file_of(draw("disc", number=1), kind), max_pixels=10_000) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_too_many_pixels_do_not(kind: str):
    data = file_of(Image.new("RGB", (101, 100)), kind)
    assert refusal(data, max_pixels=10_000) == "it has 101 x 100 pixels, more than 0.01 million"


def test_icons_do_not_whose_header_need_not_be_true():
    data = file_of(Image.new("RGB", (32, 32)), "ICO")
    assert refusal(data, max_pixels=10_000) == "it is an icon (ICO), which is not taken here; convert it to PNG"  # fmt: skip


def test_nothing_is_refused_and_no_picture_is_left_to_the_decoder():
    assert refusal(b"", max_pixels=1) == "the file is empty (0 bytes)"
    assert refusal(b"no picture", max_pixels=1) is None


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_the_scans_of_a_jpeg_are_counted(draw: Callable[..., Image.Image], progressive: bool, scans: int):  # fmt: skip
    data = file_of(draw("disc", number=1), "JPEG", progressive=progressive)
    assert num_scans(data, most=200) == scans
    # What lies in segments, or after the end, is no scan.
    comment = b"\xff\xfe" + (2 + 400).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 100
    assert num_scans(data[:2] + comment + data[2:] + b"\xff\xda\x00\x02" * 300, most=200) == scans


def test_a_jpeg_of_very_many_scans_is_refused(draw: Callable[..., Image.Image]):
    data = file_of(draw("disc", number=1), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert refusal(data[:-2] + scan * 150 + data[-2:], max_pixels=10_000) is None
    bomb = data[:-2] + scan * 300 + data[-2:]
    assert refusal(bomb, max_pixels=10_000) == "it is a JPEG of more than 200 scans, which would take too long to decode"  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8" + b"\xff" * 1000])  # fmt: skip
def test_a_damaged_jpeg_has_few_scans(data: bytes):
    assert num_scans(data, most=200) <= 1


def test_large_are_pictures_that_take_much_memory_to_decode():
    many = Image.new("L", (4000, 3001))
    assert is_large(file_of(many, "PNG"))
    assert is_large(file_of(many, "JPEG", progressive=True))
    assert not is_large(file_of(many, "JPEG"))
    assert not is_large(file_of(Image.new("L", (4000, 3000)), "PNG"))
    assert not is_large(b"no picture")
