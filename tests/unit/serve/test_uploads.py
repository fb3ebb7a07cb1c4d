"""Images that cost too much to decode are found by their headers; ordinary ones pass."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from PIL import Image

from vizsla import ConfigError
from vizsla.serve import Screening, formats_of, num_scans, screen

ALL = formats_of(["tiff,avif,jpeg2000,ppm,ico"])


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_images_of_too_many_pixels_are_refused(draw: Callable[..., Image.Image]):
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        found = screen(file_of(draw("disc", number=1), kind), max_pixels=10_000, formats=ALL)
        assert found.refusal == ""
        assert found.pixels == 48 * 64 * (3 if kind == "WEBP" else 1)
        data = file_of(Image.new("RGB", (101, 100)), kind)
        refusal = screen(data, max_pixels=10_000, formats=ALL).refusal
        assert refusal == "it has 101 x 100 pixels, more than 0.01 million", kind


def test_only_some_formats_are_taken_unless_the_operator_says_so(draw: Callable[..., Image.Image]):
    image = draw("disc", number=1)
    for name, kind in (("ico", "ICO"), ("tiff", "TIFF"), ("ppm", "PPM"), ("jpeg2000", "JPEG2000")):
        data = file_of(image, kind)
        refusal = screen(data, max_pixels=10_000).refusal
        assert kind in refusal
        assert "convert it to JPEG or PNG" in refusal
        assert screen(data, max_pixels=10_000, formats=formats_of([name])).refusal == ""
    assert formats_of(["tiff, AVIF", "heic"])[-3:] == ("TIFF", "AVIF", "HEIF")
    with pytest.raises(ConfigError, match=r"tiff.*'gif'"):
        formats_of(["gif"])
    assert screen(b"", max_pixels=1).refusal == "not an image: the file is empty (0 bytes)"
    assert screen(b"no image", max_pixels=1) == Screening()


def test_jpegs_of_very_many_scans_are_refused(draw: Callable[..., Image.Image]):
    fake = b"\xff\xda\x00\x02"  # in a segment, or after the end, it is not a scan
    comment = b"\xff\xfe" + (2 + 400).to_bytes(2, "big") + fake * 100
    for progressive, scans in ((False, 1), (True, 10)):
        data = file_of(draw("disc", number=1), "JPEG", progressive=progressive)
        assert num_scans(data, most=200) == scans
        assert num_scans(data[:2] + comment + data[2:] + fake * 300, most=200) == scans
    data = file_of(draw("disc", number=1), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert screen(data[:-2] + scan * 150 + data[-2:], max_pixels=10_000).refusal == ""
    bomb = data[:-2] + scan * 300 + data[-2:]
    assert screen(bomb, max_pixels=10_000).refusal == "it is a JPEG of more than 200 scans, which would take too long to decode"  # fmt: skip
    for end in (b"", b"\xff", b"\xff\xda", b"\xff" * 1000):
        assert num_scans(b"\xff\xd8" + end, most=200) <= 1
    assert num_scans(b"", most=200) <= 1


def test_pixels_are_counted_as_decoding_holds_them():
    def pixels(data: bytes) -> int:
        return screen(data, max_pixels=50_000_000, cover=(224, 224)).pixels

    many = Image.new("L", (4001, 3001))
    assert pixels(file_of(many, "PNG")) == 4001 * 3001
    assert pixels(file_of(many, "JPEG", progressive=True)) == 4001 * 3001
    assert pixels(file_of(many, "JPEG")) == 501 * 376  # an eighth
    assert pixels(file_of(many.convert("RGB"), "WEBP", lossless=True, method=0)) == 3 * 4001 * 3001
    assert pixels(file_of(Image.new("L", (300, 4000)), "JPEG")) == 300 * 4000
    for size in ((4001, 3001), (900, 447), (448, 448), (8 * 224, 1000), (100, 90)):
        data = file_of(Image.new("L", size), "JPEG")
        with Image.open(io.BytesIO(data)) as image:
            image.draft("L", (224, 224))
            decoded = image.width * image.height
        assert screen(data, max_pixels=50_000_000, cover=(224, 224)).pixels == decoded, size
    assert not Screening(pixels=12_000_000).is_large
    assert Screening(pixels=12_000_001).is_large
    assert not Screening().is_large


def test_the_header_of_webp_is_read_without_opening_it():
    for mode, lossless, exif in product(
        ("RGB", "RGBA"), (False, True), (b"", Image.Exif().tobytes())
    ):
        data = file_of(Image.new(mode, (301, 207)), "WEBP", lossless=lossless, exif=exif)
        found = screen(data, max_pixels=1000)
        assert found.refusal == "it has 301 x 207 pixels, more than 0.001 million"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_screening_decodes_no_pixel(monkeypatch: pytest.MonkeyPatch, kind: str):
    data = file_of(Image.new("RGB", (120, 100), "red"), kind)

    def load(_image: Image.Image) -> None:
        pytest.fail("Pillow was asked for pixels")

    with Image.open(io.BytesIO(data)) as image:
        monkeypatch.setattr(type(image), "load", load)
    assert screen(data, max_pixels=1000, formats=ALL).refusal.startswith("it has 120 x 100 pixels")
