"""What decoding takes is counted where the decoder reads it; files that claim less are refused before they are decoded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from PIL import Image, features

from vizsla import PictureError
from vizsla.data.images import TooCostlyError, decode_image, decoded_pixels, format_of
from vizsla.machine import peak_memory_bytes

Draw = Callable[..., Image.Image]
LIMIT = 200_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(size: tuple[int, int], tile: tuple[int, int], *, again: tuple[int, int] = (16, 16), big: bool = False, order: str = "<") -> bytes:  # fmt: skip
    """Return the directory of a deflated TIFF file whose tile size stands there twice, without pixels."""
    tags = [(256, size[0]), (257, size[1]), (258, 8), (259, 8), (262, 1), (277, 1), (324, 8), (325, 8)]  # fmt: skip
    tags += [(322, tile[0]), (323, tile[1]), (322, again[0]), (323, again[1])]
    mark = b"II" if order == "<" else b"MM"
    entries = [(tag, 16 if big else 4, 1, value) for tag, value in sorted(tags)]
    if big:
        rows = b"".join(struct.pack(f"{order}HHQQ", *entry) for entry in entries)
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
        return head + struct.pack(f"{order}Q", len(entries)) + rows + bytes(8)
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = mark + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + rows + bytes(4)


def with_size(data: bytes, name: bytes, *values: int) -> bytes:
    """Return a file whose box or chunk of that name begins with other numbers."""
    at = data.index(name) + len(name) + (4 if name == b"ispe" else 0)
    new = struct.pack(f">{len(values)}I", *values)
    return data[:at] + new + data[at + len(new) :]


def test_ordinary_files_are_counted_as_they_are(draw: Draw):
    image = draw("disc", number=1)
    for kind in FORMATS:
        data = file_of(image, kind, **({"sizes": [(64, 48)]} if kind == "ICO" else {}))
        assert format_of(data) == kind
        # JPEG 2000 has a header for each of its tiles and components.
        assert decoded_pixels(data, max_pixels=LIMIT) == 64 * 48 + 3000 * (kind == "JPEG2000"), kind
        decode_image(data)
    others: list[bytes] = [
        file_of(image.convert("RGBA"), "AVIF"),
        file_of(image, "AVIF", save_all=True, append_images=[draw("cross", number=2)]),
        file_of(image, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        file_of(image, "MPO", save_all=True, append_images=[image]),
        file_of(image, "GIF", save_all=True, append_images=[draw("cross", number=2)], comment=b"c"),
        file_of(image, "JPEG", progressive=True),
        file_of(image, "TIFF", compression="tiff_lzw", tile=(16, 16)),
        file_of(image, "PNG") + bytes(2_000_000),
    ]
    for data in others:
        assert 64 * 48 <= decoded_pixels(data, max_pixels=LIMIT) < 1_000_000
        decode_image(data)
    assert decoded_pixels(b"no image", max_pixels=1) == 0


def test_more_than_the_limit_is_refused_in_every_format():
    for kind in FORMATS:
        with pytest.raises(TooCostlyError, match="200 x 150"):
            decoded_pixels(file_of(Image.new("RGB", (200, 150)), kind, **({"sizes": [(200, 150)]} if kind == "ICO" else {})), max_pixels=29_999)  # fmt: skip


def lies() -> dict[str, tuple[bytes, str, str]]:
    """Return files by name: the claim, and what is decoded, as the message says them."""
    small = Image.new("RGB", (64, 64), "red")
    png = file_of(small, "PNG")
    icon = file_of(small, "ICO", sizes=[(64, 64)])
    inner = icon.index(b"IHDR") + 4
    j2k = file_of(Image.new("RGB", (255, 255)), "JPEG2000", no_jp2=True)
    large = Image.new("RGB", (600, 400), "red")
    avif = file_of(large, "AVIF")
    film = file_of(large, "AVIF", save_all=True, append_images=[small.resize((600, 400))])
    film = with_size(film, b"ispe", 64, 64)
    head = film.index(b"tkhd") - 4
    end = head + int.from_bytes(film[head : head + 4])
    film = film[: end - 8] + struct.pack(">II", 64 << 16, 64 << 16) + film[end:]
    return {
        "TIFF": (tiff((8, 8), (16_000, 16_000)), "8 x 8", "16000 x 16000"),
        "TIFF, first of two": (tiff((8, 8), (16, 16), again=(16_000, 16_000)), "8 x 8", "16000 x 16000"),
        "BigTIFF": (tiff((8, 8), (16_000, 16_000), big=True), "8 x 8", "16000 x 16000"),
        "big-endian TIFF": (tiff((8, 8), (16_000, 16_000), order=">"), "8 x 8", "16000 x 16000"),
        "icon": (icon[:inner] + struct.pack(">II", 9000, 9000) + icon[inner + 8 :], "64 x 64", "9000 x 9000"),
        "AVIF": (with_size(avif, b"ispe", 64, 64), "64 x 64", "600 x 400"),
        "film in AVIF": (film, "64 x 64", "600 x 400"),
        "JPEG 2000": (with_size(file_of(large, "JPEG2000"), b"ihdr", 64, 64), "64 x 64", "600 x 400"),
        "tiles of JPEG 2000": (j2k[:24] + struct.pack(">II", 1, 1) + j2k[32:], "255 x 255", "65025 tiles"),
        "PNG": (with_size(png, b"IHDR", 90_000, 90_000), "90000 x 90000", "200 million"),
    }  # fmt: skip


def test_a_claim_that_is_not_what_is_decoded_is_refused_with_both():
    before = peak_memory_bytes()
    for name, (data, claimed, decoded) in lies().items():
        with pytest.raises(PictureError) as refused:
            decode_image(data)
        assert claimed in str(refused.value), name
        assert decoded in str(refused.value), name
    assert peak_memory_bytes() - before < 100e6


def test_files_of_very_many_parts_are_refused(draw: Draw):
    image = draw("disc", number=1)
    jpeg, png, gif = (file_of(image, kind) for kind in ("JPEG", "PNG", "GIF"))
    chunk = struct.pack(">I4sI", 0, b"teSt", zlib.crc32(b"teSt"))
    at = gif.index(b",")
    avif = file_of(image, "AVIF")
    bombs = {
        "JPEG segments": jpeg[:2] + b"\xff\xe5\x00\x02" * 200_000 + jpeg[2:],
        "junk in a JPEG": jpeg[:20] + bytes(200_000) + jpeg[20:],
        "PNG chunks": png[:33] + chunk * 200_000 + png[33:],
        "GIF comments": gif[:at] + b"!\xfe\x01x\0" * 2_000 + gif[at:],
        "GIF blocks": gif[:at] + b"!\xfe" + b"\x01x" * 200_000 + b"\0" + gif[at:],
        "AVIF boxes": avif[:32] + b"\0\0\0\x08free" * 200_000 + avif[32:],
    }
    for name, data in bombs.items():
        assert len(data) > 1000, name
        with pytest.raises(TooCostlyError, match="100000 parts"):
            decoded_pixels(data, max_pixels=LIMIT)


def test_any_damage_is_an_error_of_ours(draw: Draw):
    image = draw("disc", number=1, size=(32, 24))
    for kind in FORMATS:
        data = file_of(image, kind)
        for at in range(0, min(len(data), 700), 3):
            for damaged in (data[:at], data[:at] + b"\xff" * 4 + data[at + 4 :]):
                with suppress(TooCostlyError):
                    assert decoded_pixels(damaged, max_pixels=LIMIT) >= 0
