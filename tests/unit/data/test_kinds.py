"""Kinds of image files: unusual ones are decoded to the values that numpy has, others are refused by name and kind."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vizsla import PictureError
from vizsla.data.images import cause_of, decode_image, kind_of, size_from_header, to_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

HEIGHT, WIDTH = 6, 9
MIN_IS_WHITE, MIN_IS_BLACK, IS_RGB, IS_CMYK = 0, 1, 2, 5
SIGNED, FLOAT = 2, 3


def ramp(bits: int, bands: int = 3) -> NDArray[np.uint16]:
    """Values from 0 to the largest of ``bits``, (H, W, C), of which no two bands are alike."""
    values = np.arange(HEIGHT * WIDTH * bands).reshape(HEIGHT, WIDTH, bands) ** 2.0
    return np.rint(values / values.max() * (2**bits - 1)).astype(np.uint16)


def tiff(
    values: NDArray[Any],
    *,
    photometric: int = IS_RGB,
    planar: bool = False,
    order: str = "<",
    tags: Mapping[int, Sequence[int]] | None = None,
    strips: Sequence[bytes] = (),
) -> bytes:
    """A TIFF of values (H, W) or (H, W, C), as other programs write arrays; planes apart if ``planar``.

    It is uncompressed, unless ``strips`` holds the planes in a compression that the tags name.
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, bands = values.shape
    planes = [values[..., band] for band in range(bands)] if planar else [values]
    kind = values.dtype.newbyteorder(order)  # pyright: ignore[reportArgumentType] (one of its letters)
    strips = strips or [np.ascontiguousarray(plane).astype(kind).tobytes() for plane in planes]
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    kinds = {"u": 1, "i": SIGNED, "f": FLOAT}
    entries: dict[int, Sequence[int]] = {
        256: [width],
        257: [height],
        258: [8 * values.itemsize] * bands,
        259: [1],
        262: [photometric],
        273: starts,
        277: [bands],
        278: [height],
        279: list(map(len, strips)),
        284: [2 if planar else 1],
        339: [kinds[values.dtype.kind]] * bands,
        **(tags or {}),
    }
    data = b"".join(strips)
    at = 8 + len(data)
    directory, behind = struct.pack(f"{order}H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            place = at + 2 + 12 * len(entries) + 4 + len(behind)
            content, behind = struct.pack(f"{order}I", place), behind + content
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + content
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HI", 42, at) + data + directory + bytes(4) + behind


def as_bytes(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def pixels(data: bytes, **options: Any) -> NDArray[np.uint8]:
    return np.asarray(decode_image(data, **options))


def refusal(data: bytes | Path, **options: Any) -> tuple[str | None, str]:
    with pytest.raises(PictureError) as caught:
        decode_image(data, **options)
    assert kind_of(cause_of(caught.value)) == caught.value.kind
    return caught.value.kind, cause_of(caught.value)


# ── decoded ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_sixteen_bits_are_put_together(order: str):
    values = ramp(16)
    whole = pixels(tiff(values, order=order))
    assert np.array_equal(whole, values >> 8)
    assert np.array_equal(pixels(tiff(values, planar=True, order=order)), whole)
    turned = {0x0112: [6]}
    upright = pixels(tiff(values, order=order, tags=turned))
    assert np.array_equal(pixels(tiff(values, planar=True, order=order, tags=turned)), upright)
    assert upright.shape == (WIDTH, HEIGHT, 3)
    with_alpha = ramp(16, 4)
    with_alpha[..., 3] = 65535
    for extra in (1, 2):
        data = tiff(with_alpha, planar=True, order=order, tags={338: [extra]})
        assert np.abs(pixels(data).astype(int) - (with_alpha[..., :3] >> 8)).max() <= 1
    two_strips = tiff(ramp(8).astype(np.uint8), planar=True, order=order)
    assert np.array_equal(pixels(two_strips), ramp(8))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_planes_are_put_together(compression: str):
    strips: list[bytes] = []
    number = 1
    for band in range(3):
        data = as_bytes(
            Image.fromarray(ramp(16)[..., band]), format="TIFF", compression=compression
        )
        tags: Any = Image.open(BytesIO(data))
        (start,), (length,), number = (tags.tag_v2[tag] for tag in (273, 279, 259))
        strips.append(data[start : start + length])
    found = pixels(tiff(ramp(16), planar=True, tags={259: [number]}, strips=strips))
    assert np.array_equal(found, ramp(16) >> 8)


def test_where_0_is_white_sixteen_bits_are_turned_round():
    values = ramp(16, 1)[..., 0]
    expected = 255 - np.rint(values / 257).astype(np.uint8)
    found = pixels(tiff(values, photometric=MIN_IS_WHITE))
    assert np.array_equal(found, np.stack([expected] * 3, axis=-1))


def test_a_transparent_value_of_sixteen_bits_is_white():
    values = np.array([[0, 513, 40_000, 65535]], np.uint16)
    data = as_bytes(Image.fromarray(values), format="PNG", transparency=513)
    assert pixels(data)[0, :, 0].tolist() == [0, 255, 156, 255]


def test_grey_with_premultiplied_alpha_is_laid_over_white():
    values = np.array([[[50, 100], [0, 0], [200, 255]]], np.uint8)  # (grey times alpha, alpha)
    data = tiff(values, photometric=MIN_IS_BLACK, tags={338: [1]})
    expected = [50 + 155, 255, 200]
    assert np.abs(pixels(data)[0, :, 0].astype(int) - expected).max() <= 1
    premultiplied = Image.frombytes("La", (3, 1), values.tobytes())
    assert np.array_equal(np.asarray(to_rgb(premultiplied)), pixels(data))


def test_every_mode_that_pillow_holds_becomes_rgb():
    source = Image.fromarray((ramp(16, 1)[..., 0] >> 8).astype(np.uint8))
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16L", "I;16B", "I;16N")  # fmt: skip
    rare = [source.convert("RGBA").convert("RGBa"), source.convert("LA").convert("La")]
    for image in (*map(source.convert, modes), source.convert("P").convert("PA"), *rare):
        assert to_rgb(image).mode == "RGB", image.mode


LOSSLESS = bytes.fromhex(
    "ffd8ffc40017000101010100000000000000000000000000060507ffc3000b08000c000c01001100"
    "ffda0008010000060000c3000000000000000001d92cacacacacacacacacacac8000000000000000"
    "ffd9"
)
"""A lossless JPEG of 12 x 12 grey values: 100 above, 200 below."""


def test_a_lossless_jpeg_is_the_same_at_every_size_or_refused():
    try:
        expected = pixels(LOSSLESS)
    except PictureError:  # libjpeg-turbo decodes these from 3.0 on
        for cover in (None, (3, 3)):
            assert refusal(LOSSLESS, cover=cover)[0] == "unsupported kind"
        return
    assert expected[[0, -1], 0, 0].tolist() == [100, 200]
    for cover in ((1, 1), (3, 3), (12, 12)):
        assert np.array_equal(pixels(LOSSLESS, cover=cover), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_size_of_a_turned_tiff_is_upright(order: str):
    for orientation in range(1, 9):
        for values in (ramp(8).astype(np.uint8), ramp(16)):
            data = tiff(values, order=order, tags={0x0112: [orientation]})
            width, height = decode_image(data).size
            assert size_from_header(data) == (height, width)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unsupported_kinds_are_never_called_damaged():
    one = ramp(16, 1)[..., 0]
    cases: dict[str, bytes] = {
        "7 bands of 16-bit": tiff(ramp(16, 7), photometric=MIN_IS_BLACK),
        "7 bands of 8-bit": tiff(
            ramp(8, 7).astype(np.uint8), photometric=MIN_IS_BLACK, planar=True
        ),
        "2 bands of 16-bit": tiff(ramp(16, 2), photometric=MIN_IS_BLACK, tags={338: [2]}),
        "32-bit floating-point": tiff(ramp(8).astype(np.float32)),
        "64-bit floating-point": tiff(one.astype(np.float64), photometric=MIN_IS_BLACK),
        "3 bands of 32-bit integers": tiff(ramp(16).astype(np.uint32)),
        "go from 0 to 65535": tiff(one.astype(np.float32), photometric=MIN_IS_BLACK),
        "one band of 32-bit": tiff(one.astype(np.uint32), photometric=MIN_IS_BLACK, order=">"),
        "go from -": tiff(one.astype(np.int16) - 9, photometric=MIN_IS_BLACK),
        "compression 50013": tiff(one, photometric=MIN_IS_BLACK, tags={259: [50013]}),
        "WebP compression": tiff(ramp(8).astype(np.uint8), tags={259: [50001]}),
        "12 bits": LOSSLESS.replace(b"\xff\xc3\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c"),
        "lossless": LOSSLESS.replace(b"\xff\xc3\x00\x0b\x08", b"\xff\xc3\x00\x0b\x0c"),
        "DICOM": bytes(128) + b"DICM" + bytes(40),
        "Photoshop": b"8BPS\0\1" + bytes(40),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    }
    for words, data in cases.items():
        kind, text = refusal(data)
        assert kind == "unsupported kind", (words, text)
        assert words in text


def test_damaged_files_and_other_files_are_told_apart(tmp_path: Path):
    image = Image.fromarray(ramp(8).astype(np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM"):
        data = as_bytes(image, format=kind)
        assert refusal(data[: len(data) * 2 // 3])[0] == "damaged", kind
    planar = tiff(ramp(16), planar=True)
    assert refusal(planar.replace(planar[8:-300], b"", 1))[0] == "damaged"
    for other in (b"", b"Dear diary", b"\0\1\2\3" * 9, b"%PNG"):
        assert refusal(other)[0] == "not an image", other
    for neither in (tmp_path, tmp_path / "absent.png"):
        assert refusal(neither)[0] is None
