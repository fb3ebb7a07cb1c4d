"""plain_jpeg: which files a device may decode, and what it must know of them; Pillow is asked for comparison."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vizsla.data.images.decode import plain_jpeg

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def exif_of(orientation: int, *, order: str = "II") -> bytes:
    kind = "little" if order == "II" else "big"
    entry = b"".join(
        value.to_bytes(length, kind)  # pyright: ignore[reportArgumentType]
        for value, length in ((0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2))
    )
    magic = b"II*\0" if order == "II" else b"MM\0*"
    return b"Exif\0\0" + magic + (8).to_bytes(4, kind) + (1).to_bytes(2, kind) + entry + bytes(4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"dpi": (72, 72)}, {"comment": b"a comment"}])  # fmt: skip
def test_baseline_files_are_plain(options: dict[str, Any]):
    header = plain_jpeg(encoded(**options))
    assert header is not None
    assert (header.size, header.orientation) == ((24, 40), 1)


def test_grey_files_are_plain():
    header = plain_jpeg(encoded(picture("L")))
    assert header is not None
    assert header.size == (24, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_the_orientation_is_that_which_pillow_reads(orientation: int, order: str):
    data = encoded(exif=exif_of(orientation, order=order))
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    header = plain_jpeg(data)
    assert header is not None
    assert header.orientation == orientation


def test_exif_data_without_an_orientation_means_upright():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    header = plain_jpeg(encoded(exif=exif))
    assert header is not None
    assert header.orientation == 1


UNUSUAL = {
    "progressive": encoded(progressive=True),
    "CMYK": encoded(picture("CMYK")),
    "stored as RGB": encoded(keep_rgb=True),
    "orientation 0": encoded(exif=exif_of(0)),
    "orientation 9": encoded(exif=exif_of(9)),
    "orientation in XMP": encoded(xmp=XMP),
    "damaged EXIF": encoded(exif=b"Exif\0\0no tiff"),
    "EXIF cut off": encoded(exif=exif_of(6)[:20]),
    "truncated": encoded()[:-200],
    "something after its end": encoded() + b"more",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "no header": b"\xff\xd8\xff\xd9",
    "text": b"not a picture",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_is_left_to_the_usual_decoder(kind: str):
    assert plain_jpeg(UNUSUAL[kind]) is None


@given(at=st.integers(2, 400), value=st.integers(0, 255), length=st.integers(0, 2000))
def test_no_damage_makes_it_fail(at: int, value: int, length: int):
    data = bytearray(encoded(exif=exif_of(6)))
    data[at] = value
    plain_jpeg(bytes(data))
    plain_jpeg(bytes(data[:length]) + b"\xff\xd9")
