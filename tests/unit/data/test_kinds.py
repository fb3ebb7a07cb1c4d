"""Kinds of image files: unusual ones are decoded to the values that numpy has, others are refused by name and kind.

16-bit images whose values use fewer bits: one depth for a data set, from the loaders to the model file.
"""

from __future__ import annotations

import json
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vizsla import ConfigError, DataError, PictureError, Resize
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    ImageReader,
    cause_of,
    decide_bit_depth,
    decode_image,
    guess_bit_depth,
    kind_of,
    size_from_header,
    to_rgb,
    wide_maximum,
)
from vizsla.data.loading import DataLoaders
from vizsla.data.table import resolve_data
from vizsla.model_file import read_manifest, save_bundle
from vizsla.predict import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from vizsla.models import Classifier

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


def png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16-bit values (H, W, C): grey, grey and alpha, RGB, RGBA. Pillow writes the first only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, bands = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pnm(values: NDArray[np.uint16], *, largest: int) -> bytes:
    kind = "P5" if values.shape[2] == 1 else "P6"
    return f"{kind} {WIDTH} {HEIGHT} {largest}\n".encode() + values.astype(">u2").tobytes()


def opaque(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Values whose last band, the alpha, is the largest of 16 bits."""
    values = values.copy()
    values[..., -1] = 65535
    return values


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


def test_lossless_files_of_all_modes_give_the_values_of_numpy():
    """Pillow's usual kinds, compared with an independent reference: grey repeated, alpha laid over white, inks subtracted."""
    values = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    grey, colours, alpha = values[..., :1], values[..., :3], values[..., 3:].astype(float) / 255
    palette = Image.fromarray(grey[..., 0] % 60, "P")
    palette.putpalette(list(range(180)))
    wide = grey[..., 0].astype(np.uint16) * 257
    over_white = {3: colours * alpha + 255 * (1 - alpha), 1: grey * alpha + 255 * (1 - alpha)}
    inks = (255 - colours.astype(float)) * (1 - alpha)
    cases: dict[str, tuple[Image.Image, NDArray[Any], str]] = {
        "L": (Image.fromarray(grey[..., 0]), grey, "PNG TIFF BMP GIF PPM JPEG2000"),
        "RGB": (Image.fromarray(colours), colours, "PNG TIFF BMP PPM WEBP JPEG2000"),
        "RGBA": (Image.fromarray(values), over_white[3], "PNG TIFF WEBP JPEG2000"),
        "LA": (
            Image.merge("LA", [Image.fromarray(values[..., band]) for band in (0, 3)]),
            over_white[1],
            "PNG TIFF",
        ),
        "P": (palette, (grey.astype(int) % 60) * 3 + np.arange(3), "PNG TIFF BMP GIF"),
        "1": (Image.fromarray(grey[..., 0] > 99), (grey > 99) * 255, "PNG TIFF BMP PPM GIF"),
        "CMYK": (Image.frombytes("CMYK", (WIDTH, HEIGHT), values.tobytes()), inks, "TIFF"),
        "I;16": (Image.fromarray(wide), grey, "PNG TIFF PPM JPEG2000"),
        "F": (Image.fromarray(grey[..., 0].astype(np.float32) / 255), grey, "TIFF"),
    }
    for mode, (image, expected, formats) in cases.items():
        for kind in formats.split():
            options: list[dict[str, Any]] = [{}]
            if kind == "TIFF":
                options += [
                    {"compression": name} for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate")
                ]
            if kind == "WEBP":
                options = [{"lossless": True, "exact": True}]
            for one in options:
                found = pixels(as_bytes(image, format=kind, **one)).astype(float)
                wrong = np.abs(found - np.broadcast_to(expected, found.shape)).max()
                assert wrong <= (1 if mode in ("RGBA", "LA", "CMYK") else 0.5), (mode, kind, one)


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
        "from 0 to 65535": tiff(one.astype(np.float32), photometric=MIN_IS_BLACK),
        "one band of 32-bit": tiff(one.astype(np.uint32), photometric=MIN_IS_BLACK, order=">"),
        "from -": tiff(one.astype(np.int16) - 9, photometric=MIN_IS_BLACK),
        "compression 50013": tiff(one, photometric=MIN_IS_BLACK, tags={259: [50013]}),
        "WebP compression": tiff(ramp(8).astype(np.uint8), tags={259: [50001]}),
        "12 bits": LOSSLESS.replace(b"\xff\xc3\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c"),
        "lossless": LOSSLESS.replace(b"\xff\xc3\x00\x0b\x08", b"\xff\xc3\x00\x0b\x0c"),
        "DICOM": bytes(128) + b"DICM" + bytes(40),
        "Photoshop": b"8BPS\0\1" + bytes(40),
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


# ── 16 bits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_file_is_scaled_by_the_depth():
    grey, colours, four = ramp(12, 1), ramp(12, 3), opaque(ramp(12, 4))
    cases: dict[str, tuple[bytes, NDArray[np.uint16]]] = {
        "PNG, grey": (png(grey), grey),
        "PNG, grey and alpha": (png(opaque(ramp(12, 2))), opaque(ramp(12, 2))[..., :1]),
        "PNG, RGB": (png(colours), colours),
        "PNG, RGBA": (png(four), four[..., :3]),
        "PGM": (pnm(grey, largest=65535), grey),
        "PPM": (pnm(colours, largest=65535), colours),
        "PPM, text": (f"P3 9 6 65535\n{' '.join(map(str, colours.ravel()))}".encode(), colours),
        "JPEG 2000": (as_bytes(Image.fromarray(grey[..., 0]), format="JPEG2000"), grey),
    }
    for order in "<>":
        cases[f"TIFF {order}, grey"] = (tiff(grey, order=order, photometric=MIN_IS_BLACK), grey)
        for planar in (False, True):
            cases[f"TIFF {order}, RGB, {planar}"] = (tiff(colours, order=order, planar=planar), colours)  # fmt: skip
            cases[f"TIFF {order}, RGBA, {planar}"] = (tiff(four, order=order, planar=planar, tags={338: [2]}), four[..., :3])  # fmt: skip
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        image = Image.fromarray(grey[..., 0])
        cases[compression] = (as_bytes(image, format="TIFF", compression=compression), grey)
    for name, (data, values) in cases.items():
        expected = np.rint(values / 4095 * 255).astype(np.uint8)
        found = np.asarray(decode_image(data, bit_depth=12))
        assert np.array_equal(found, np.broadcast_to(expected, found.shape)), name
        # Without a depth all 16 bits count, and the largest value is told, or its upper byte.
        noted: list[int] = []
        full = np.asarray(decode_image(data, on_wide=noted.append)).astype(int)
        assert np.abs(full - values / 257).max() <= 1, name
        assert noted == [wide_maximum(data)], name
        assert values.max() <= noted[0] <= values.max() | 255, name
        with pytest.raises(PictureError) as caught:
            decode_image(data, bit_depth=10)
        assert (caught.value.kind, "bit_depth" in str(caught.value)) == ("unsupported kind", True)


def test_a_file_that_states_its_depth_is_scaled_by_that():
    grey, colours = ramp(12, 1), ramp(12, 3)
    for data, values in ((pnm(grey, largest=4095), grey), (pnm(colours, largest=4095), colours)):  # fmt: skip
        for bit_depth in (None, 8, 12, 16):
            found = np.asarray(decode_image(data, bit_depth=bit_depth)).astype(int)
            assert np.abs(found - values / 4095 * 255).max() <= 1
        assert wide_maximum(data) is None
    for image in (Image.new("RGB", (4, 4)), Image.new("L", (4, 4)), Image.new("F", (4, 4))):
        assert wide_maximum(as_bytes(image, format="TIFF")) is None
    assert wide_maximum(b"no image") is None


def test_a_transparent_colour_is_compared_with_all_bits():
    values = np.array([[[1, 2, 3], [1, 2, 4], [4095, 0, 0]]], np.uint16)
    chunk = b"tRNS" + struct.pack(">HHH", 1, 2, 3)
    data = png(values)
    at = data.index(b"IDAT") - 4
    data = data[:at] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]  # fmt: skip
    for bit_depth, red in ((None, 15), (12, 255)):
        found = np.asarray(decode_image(data, bit_depth=bit_depth))
        assert found[0].tolist() == [[255, 255, 255], [0, 0, 0], [red, 0, 0]]


def test_images_in_memory_are_scaled_too():
    values = ramp(12, 1)[..., 0]
    expected = np.rint(values / 4095 * 255).astype(np.uint8)
    found = np.asarray(to_rgb(Image.fromarray(values), bit_depth=12))
    assert np.array_equal(found[..., 0], expected)
    for wrong in (7, 17, 12.0, True):
        with pytest.raises(ConfigError):
            decode_image(png(ramp(12, 1)), bit_depth=wrong)  # pyright: ignore[reportArgumentType]


def write_set(folder: Path, largest: dict[str, int], *, names: str = "ab") -> Path:
    """A folder of two classes; each image is grey of 16 bits with this largest value."""
    for name, value in largest.items():
        for label in names:
            path = folder / label / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            number = value - (label == "b")
            values = np.rint(ramp(12, 1)[..., 0] / 4095 * number).astype(np.uint16)
            Image.fromarray(values).save(path)
    return folder


TWELVE = {str(number): 3000 + 100 * number for number in range(8)}


# ── the decision ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_depth_is_the_smallest_that_holds_all_values():
    for largest, depth in ((200, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (9000, 14), (16384, 16), (65535, 16)):  # fmt: skip
        assert decide_bit_depth({"a": largest, "b": largest // 2, "black": 0}) == depth
    assert decide_bit_depth({"black": 0}) == 16
    many = {str(number): 60_000 for number in range(20)}
    assert decide_bit_depth({**many, "dark": 3000}) == 16
    with pytest.raises(DataError, match="dark7") as caught:
        decide_bit_depth({**many, **{f"dark{number}": 4000 for number in range(8)}})
    assert "--bit-depth 16 (bit_depth=16)" in str(caught.value)
    assert not isinstance(caught.value, PictureError)


def test_loaders_decide_by_a_sample_and_say_it(tmp_path: Path):
    table = resolve_data(write_set(tmp_path / "set", TWELVE), valid="0.25", seed=0)
    assert guess_bit_depth(table) == 12
    with pytest.warns(UserWarning, match="16-bit images use 12 bits: values are scaled by 4,095"):
        loaders = DataLoaders(table, resize=Resize(6), device="cpu", num_workers=0)
    assert loaders.table.bit_depth == loaders.reader.bit_depth == 12
    assert loaders.reader.read(table.paths[0]).max() > 150
    image, _ = loaders.train_ds[0]
    assert np.asarray(image).max() > 180
    for stated in (12, 16):  # nothing is guessed, so nothing is said
        loaders = DataLoaders(table, resize=Resize(6), device="cpu", bit_depth=stated)
        assert loaders.reader.bit_depth == stated
    mixed = write_set(tmp_path / "set", {"bright": 65000})
    with pytest.raises(DataError, match="bit_depth=16"):
        DataLoaders(resolve_data(mixed, valid="0.25", seed=0), resize=Resize(6))


def test_eight_bits_need_no_decision(tmp_path: Path, make_image: Callable[..., Path]):
    for label in "ab":
        for number in range(4):
            for suffix in ("png", "jpg"):
                make_image(f"set/{label}/{number}.{suffix}", label=f"disc{label}", number=number)
    table = resolve_data(tmp_path / "set", valid="0.25", seed=0)
    assert guess_bit_depth(table) is None
    assert DataLoaders(table, resize=Resize(6), device="cpu").reader.bit_depth is None


# ── one depth everywhere ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_cached_depends_on_the_depth(tmp_path: Path):
    path = write_set(tmp_path / "set", {"one": 4000}, names="a") / "a" / "one.png"
    cache = ImageCache(mode="memory")
    noted: dict[Any, int] = {}
    undecided = ImageReader(resize=Resize(6), cache=cache, on_wide=noted.__setitem__)
    dark = undecided.read(path)
    assert noted == {path: 4000}
    assert undecided.read(path) is not dark  # it must be seen again by whoever decides
    readers = {n: ImageReader(resize=Resize(6), cache=cache, bit_depth=n) for n in (12, 16)}
    bright = readers[12].read(path)
    assert readers[12].read(path) is bright
    assert bright.max() > 200
    assert np.array_equal(readers[16].read(path), dark)
    alone = ImageReader(resize=Resize(6), cache=cache)
    with pytest.warns(UserWarning, match=r"one\.png"):
        alone.read(path)
    with warnings.catch_warnings():  # once for a reader
        warnings.simplefilter("error")
        alone.read(path)


def test_the_model_file_keeps_the_depth(tmp_path: Path, make_classifier: Callable[..., Classifier]):
    classifier = make_classifier(("a", "b"))
    image = tmp_path / "image.png"
    image.write_bytes(png(ramp(12, 3)))
    eight = Image.fromarray(np.rint(ramp(12, 3) / 4095 * 255).astype(np.uint8))
    answers: list[list[float]] = []
    for bit_depth in (None, 16, 12):
        path = tmp_path / f"{bit_depth}.safetensors"
        save_bundle(path, classifier=classifier, resize=Resize(32), bit_depth=bit_depth)
        assert read_manifest(path).bit_depth == bit_depth
        predictor = Predictor.load(path, device="cpu")
        assert predictor.dls.reader.bit_depth == predictor.bit_depth == bit_depth
        if bit_depth == 12:
            assert predictor.predict(image).to_dict() == predictor.predict(eight).to_dict()
        with warnings.catch_warnings(action="ignore"):
            answers.append(predictor.predict(image).probabilities.tolist())
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.usefixtures("here")
def test_check_and_train_decide_once_and_say_it(tmp_path: Path, vizsla: Callable[..., Any]):
    write_set(tmp_path / "set", TWELVE)
    line = "16-bit images use 12 bits: values are scaled by 4,095"

    options = ("--size", "32", "--epochs", "0", "--device", "cpu", "--out", "run")
    done = vizsla("train", "set", *options)
    assert (done.code, done.out.count(line)) == (0, 1)
    assert read_manifest(tmp_path / "run" / "model.safetensors").bit_depth == 12
    assert json.loads(vizsla("check", "set", "--json").out)["bit_depth"] == 12
    write_set(tmp_path / "set", {"bright1": 60_000, "bright2": 60_000})
    for words, code, said in (
        ((), 2, "--bit-depth 16"),
        (("--bit-depth", "16"), 0, "scaled by 65,535"),
        (("--bit-depth", "12"), 2, "bright1"),
    ):
        done = vizsla("check", "set", *words)
        assert (done.code, said in done.out + done.err) == (code, True), words
