"""decode_image: every kind of file becomes upright RGB, and the error for a bad file says why. Plain JPEGs."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from vizsla import ConfigError, PictureError, Resize
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    ImageReader,
    Truncated,
    cause_of,
    decode_image,
    decodes_as_pillow,
    plain_jpeg,
    plain_pixels,
    size_from_header,
    source_name,
    to_rgb,
)
from vizsla.data.images import reader as reading
from vizsla.types import Size

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (30, 40, 210)


def left_red_right_blue(width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def as_bytes(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **options)  # pyright: ignore[reportArgumentType]  options of the format
    return buffer.getvalue()


def near(image: Image.Image, xy: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(image)[xy[1], xy[0]].astype(int) - colour).max() <= 6)


def noisy(height: int = 120, width: int = 100) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def cause(source: Path | bytes) -> str:
    with pytest.raises(PictureError) as caught:
        decode_image(source)
    return cause_of(caught.value)


def png(width: int, height: int, data: bytes, *, bits: int = 0) -> bytes:
    """A PNG that claims this size, grey of ``bits`` (0: 8-bit RGB), with this compressed data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits or 8, 0 if bits else 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# ── kinds of files ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_turned_upright(kind: str):
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste(RED, (0, 0, 32, 24))
    upright.paste(BLUE, (32, 0, 64, 24))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    options = {"lossless": True} if kind == "WEBP" else {}
    for orientation in range(1, 9):
        stored = upright if orientation == 1 else upright.transpose(undo[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = as_bytes(stored, format=kind, exif=exif, **options)
        for cover in (None, (8, 10)):
            image = decode_image(data, cover=cover)
            width, height = image.size
            assert width * 48 == height * 64
            assert near(image, (width // 4, height // 4), RED)
            assert near(image, (3 * width // 4, height // 4), BLUE)
            assert near(image, (width // 4, 3 * height // 4), (255, 255, 255))
            assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_with_damaged_exif_data_is_read():
    for exif in (b"MM\0*\0\0\0\x08\xff\xff\x01", b"no TIFF header", b"MM"):
        for kind in ("JPEG", "PNG", "WEBP"):
            data = as_bytes(left_red_right_blue(), format=kind, exif=b"Exif\0\0" + exif)
            assert decode_image(data, cover=(32, 32)).size == (64, 32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = decode_image(as_bytes(Image.fromarray(values), format=kind))
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(image), np.stack([expected] * 3, axis=-1))


def test_floats_from_0_to_1_are_scaled_and_other_ranges_refused():
    def tiff(value: float, kind: type) -> bytes:
        return as_bytes(Image.fromarray(np.full((4, 4), value, kind)), format="TIFF")

    assert decode_image(tiff(0.5, np.float32)).getcolors() == [(16, (128, 128, 128))]
    assert "70000" in cause(tiff(70_000, np.int32))
    assert "-2.5" in cause(tiff(-2.5, np.float32))


WHITE = (255, 255, 255)


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (4, 1), (*RED, 0))
    rgba.putpixel((1, 0), (*RED, 255))
    rgba.putpixel((2, 0), (0, 0, 0, 51))
    grey = Image.new("LA", (2, 1), (7, 0))
    grey.putpixel((1, 0), (7, 255))
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    cases: list[tuple[Image.Image, dict[str, Any], list[tuple[int, int, int]]]] = [
        (rgba, {"format": "PNG"}, [WHITE, RED, (204, 204, 204), WHITE]),
        (rgba, {"format": "TIFF"}, [WHITE, RED, (204, 204, 204), WHITE]),
        (grey, {"format": "PNG"}, [WHITE, (7, 7, 7)]),
        (palette, {"format": "PNG", "transparency": 1}, [RED, WHITE, BLUE]),
        (palette, {"format": "PNG", "transparency": b"\xff\x00\xff"}, [RED, WHITE, BLUE]),
        (left_red_right_blue(2, 1), {"format": "PNG", "transparency": BLUE}, [RED, WHITE]),
    ]
    for image, options, expected in cases:
        opened = decode_image(as_bytes(image, **options))
        assert [opened.getpixel((x, 0)) for x in range(image.width)] == expected


def test_cmyk_grey_and_one_bit_images_become_rgb():
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    opened = decode_image(as_bytes(cmyk, format="JPEG", quality=95), cover=(4, 4))
    assert opened.mode == "RGB"
    assert near(opened, (1, 1), (255, 0, 0))
    grey = decode_image(as_bytes(Image.new("L", (5, 4), 77), format="JPEG"))
    assert grey.getcolors() == [(20, (77, 77, 77))]
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    opened = decode_image(as_bytes(bits, format="PNG"))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_read(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = as_bytes(frames[0], format=kind, save_all=True, append_images=frames[1:], lossless=True)
    assert near(decode_image(data), (4, 4), RED)


def test_the_first_image_of_a_multi_image_jpeg_is_read():
    others = [Image.new("RGB", (400, 200), GREEN)]
    image = left_red_right_blue(400, 200)
    data = as_bytes(image, format="MPO", save_all=True, append_images=others)
    opened = decode_image(data, cover=(100, 100))
    assert opened.size == (200, 100)
    assert near(opened, (10, 10), RED)


def test_the_format_follows_from_the_content(tmp_path: Path):
    path = tmp_path / "really_a_png.jpg"
    left_red_right_blue().save(path, format="PNG")
    assert decode_image(path).getpixel((0, 0)) == RED


# ── the scale of JPEGs ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers():
    data = as_bytes(left_red_right_blue(800, 600), format="JPEG")
    expected: dict[Size | None, tuple[int, int]] = {
        None: (800, 600),
        (600, 600): (800, 600),
        (301, 301): (800, 600),
        (300, 400): (400, 300),
        (160, 160): (400, 300),
        (150, 150): (200, 150),
        (75, 100): (100, 75),
        (10, 10): (100, 75),
        (2000, 2000): (800, 600),
    }
    assert {cover: decode_image(data, cover=cover).size for cover in expected} == expected
    data = as_bytes(left_red_right_blue(800, 600), format="PNG")
    assert decode_image(data, cover=(10, 10)).size == (800, 600)


# ── what cannot be read ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_message_names_the_file_and_the_cause(tmp_path: Path):
    path = tmp_path / "nothing.jpg"
    path.touch()
    with pytest.raises(PictureError) as caught:
        decode_image(path)
    assert str(path) in str(caught.value)
    assert "0 bytes" in str(caught.value)
    with pytest.raises(PictureError, match="given as 3 bytes"):
        decode_image(b"abc")
    assert cause_of(PictureError("two files are bad")) == "two files are bad"


def test_each_cause_has_its_own_message(tmp_path: Path):
    loop, page = tmp_path / "loop.jpg", tmp_path / "page.jpg"
    loop.symlink_to(loop)
    page.write_text("<html>not found</html>")
    # Pillow would run another program to open an EPS file.
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for source, fact in [
        (tmp_path / "absent.jpg", "no such file"),
        (tmp_path, "folder"),
        (loop, "the system says "),
        (page, "text that begins with '<html>not found</html>'"),
        (eps, "PostScript"),
        (b"\0\1\2\3" * 9, r"not an image: it begins with b'\x00\x01\x02\x03"),
    ]:
        assert fact in cause(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_refused(kind: str):
    data = as_bytes(noisy(), format=kind)
    for kept in (0.3, 0.6, 0.98):
        for cover in (None, (10, 10)):
            with pytest.raises(PictureError) as caught:
                decode_image(data[: int(kept * len(data))], cover=cover)
            if kind in ("JPEG", "PNG"):
                assert "truncated" in cause_of(caught.value)
    if kind != "JPEG":
        with pytest.raises(PictureError):
            decode_image(data[: int(0.6 * len(data))], truncated="ok")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cover", [None, (10, 10)])
def test_a_truncated_jpeg_can_be_read_as_far_as_it_goes(progressive: bool, cover: Size | None):
    whole = as_bytes(noisy(), format="JPEG", quality=90, progressive=progressive)
    cut = whole[: int(0.6 * len(whole))]
    part = np.asarray(decode_image(cut, cover=cover, truncated="ok")).astype(int)
    full = np.asarray(decode_image(whole, cover=cover)).astype(int)
    assert part.shape == full.shape
    if not progressive:  # a progressive one is all there, but coarser
        third = len(part) // 3
        assert np.array_equal(part[:third], full[:third])
        assert np.abs(part[-2:] - 128).max() <= 2  # what is missing is grey


def test_truncated_ok_leaves_whole_jpegs_alone():
    data = as_bytes(noisy(), format="JPEG")
    assert decode_image(data, truncated="ok").tobytes() == decode_image(data).tobytes()
    for kept in (3, 40, 200):
        with pytest.raises(PictureError):
            decode_image(data[:kept], truncated="ok")
    with pytest.raises(ConfigError, match="'maybe'"):
        decode_image(b"", truncated="maybe")  # pyright: ignore[reportArgumentType]  the mistake under test


def test_damaged_pixel_data_is_refused():
    data = bytearray(as_bytes(left_red_right_blue(), format="PNG"))
    place = data.index(b"IDAT") + 10
    data[place : place + 8] = b"\xff" * 8
    assert cause(bytes(data)).startswith("damaged: ")


@pytest.mark.parametrize("truncated", ["strict", "ok"])
def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path, truncated: Truncated):
    # A whole, valid PNG of one bit a pixel: 28 kB that unpack to 225 million pixels, 675 MB as RGB.
    path = tmp_path / "bomb.png"
    path.write_bytes(png(15_000, 15_000, zlib.compress(b"\0" * 1876 * 15_000, 9), bits=1))
    assert path.stat().st_size < 30_000
    with pytest.raises(PictureError) as caught:
        decode_image(path, cover=(224, 224), truncated=truncated)
    assert "15000 x 15000 pixels" in cause_of(caught.value)
    # Refused from the header alone, before any memory is taken; the same at a smaller size is an image.
    assert "20000 x 10001 pixels" in cause(png(20_000, 10_001, zlib.compress(b"\0" * 9)))
    data = png(1000, 1000, zlib.compress(b"\0" * 126 * 1000, 9), bits=1)
    assert decode_image(data).getcolors() == [(1_000_000, (0, 0, 0))]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_can():
    data = as_bytes(left_red_right_blue(), format="AVIF", quality=95)
    opened = decode_image(data)
    assert opened.size == (64, 32)
    assert near(opened, (8, 8), RED)
    assert near(opened, (56, 8), BLUE)


def test_the_longest_thinnest_and_smallest_images_are_read():
    for kind in ("JPEG", "PNG"):
        for size in ((20_000, 10), (10, 20_000), (1, 1)):
            data = as_bytes(Image.new("RGB", size, GREEN), format=kind, quality=95)
            image = decode_image(data, cover=(224, 224))
            assert image.size == size
            assert near(image, (0, 0), GREEN)


def test_odd_names_are_printed_on_one_line(tmp_path: Path, odd_names: list[str]):
    for name in odd_names:
        path = tmp_path / name
        path.write_bytes(b"\0")
        with pytest.raises(PictureError) as caught:
            decode_image(path)
        assert source_name(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).encode("utf-8")


# ── the size alone ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_size_from_header_is_upright(tmp_path: Path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    left_red_right_blue(64, 32).save(path, exif=exif)
    assert size_from_header(path) == (64, 32)
    assert decode_image(path).size == (32, 64)
    path.write_bytes(path.read_bytes()[:-40])
    assert size_from_header(path) == (64, 32)
    path.write_bytes(b"no image")
    for unreadable in (path, tmp_path / "absent.jpg", tmp_path):
        assert size_from_header(unreadable) is None


def test_pillows_own_limit_is_lifted_and_put_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(as_bytes(left_red_right_blue(), format="PNG")).size == (64, 32)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_damaged_file_gives_an_image_or_our_error():
    sources = [
        as_bytes(left_red_right_blue(), format=kind)
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000")
    ]
    chance = np.random.default_rng(7)
    for source in sources:
        for _ in range(60):
            damaged = bytearray(source)
            for place in chance.integers(0, min(len(source), 400), 3):
                damaged[place] = chance.integers(256)
            try:
                mode = decode_image(bytes(damaged), cover=(4, 4)).mode
            except PictureError:
                mode = "refused"
            assert mode in ("RGB", "refused")


def test_many_threads_may_open_images_at_once():
    data = [as_bytes(Image.new("RGB", (9, 9), (i, i, i)), format="PNG") for i in range(40)]
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        found = [image.getpixel((4, 4)) for image in pool.map(decode_image, data)]
    assert found == [(i, i, i) for i in range(40)]
    assert limit == Image.MAX_IMAGE_PIXELS


def test_rare_modes_become_rgb_and_rgb_is_not_copied():
    image = left_red_right_blue()
    assert to_rgb(image) is image
    for rare in (
        image.convert("RGBA").convert("RGBa"),
        image.quantize(4).convert("PA"),
        image.convert("YCbCr"),
        image.convert("HSV"),
    ):
        assert near(to_rgb(rare), (0, 0), RED)


# ── plain JPEGs ───────────────────────────────────────────────────────────────────────────────────────────────────────

with_second_decoder = pytest.mark.skipif(
    not decodes_as_pillow(), reason="torchvision decodes otherwise here"
)


def jpeg(width: int = 61, height: int = 47, **options: Any) -> bytes:
    values = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    stream = BytesIO()
    image.convert(options.pop("mode", "RGB")).save(stream, "JPEG", **options)
    return stream.getvalue()


@with_second_decoder
def test_pixels_are_those_of_pillow():
    for size in ((61, 47), (8, 8), (1, 1), (640, 3)):
        kinds: list[dict[str, Any]] = [{"mode": "L"}, *({"subsampling": n} for n in (0, 1, 2))]
        for options in kinds:
            data = jpeg(*size, **options)
            found = plain_pixels(data, cover=(40, 40))
            assert found is not None
            assert found.flags.writeable
            assert np.array_equal(found, np.asarray(decode_image(data)))


@with_second_decoder
def test_what_pillow_does_better_is_left_to_it():
    for data in (jpeg(exif=exif_of(6)), jpeg(progressive=True)):
        assert plain_pixels(data, cover=(40, 40)) is None
    # Half the size still covers it, which Pillow decodes faster.
    assert plain_pixels(jpeg(), cover=(20, 20)) is None


@with_second_decoder
@pytest.mark.parametrize("method", ["crop", "squish"])
def test_a_reader_gives_the_same_with_both_decoders(tmp_path: Path, monkeypatch, method):
    path, seen = tmp_path / "a.jpg", list[Any]()

    def read(*, plain: bool, training: bool) -> Any:
        monkeypatch.setattr(reading, "is_worthwhile", lambda: plain)
        reader = ImageReader(
            resize=Resize(40, method),
            cache=ImageCache(mode="off"),
            on_decoded=lambda _path, decoded, _doubt: seen.append(decoded),
        )
        return reader.read(path, training=training)

    for size in ((61, 47), (47, 61), (50, 50), (40, 300)):
        path.write_bytes(jpeg(*size))
        for training in (True, False):
            seen.clear()
            plain, usual = (read(plain=plain, training=training) for plain in (True, False))
            assert np.array_equal(plain, usual)
            assert not plain.flags.writeable
            assert seen == [(size[1], size[0])] * 2
    path.write_bytes(jpeg()[:-60])
    with pytest.raises(PictureError, match=r"a\.jpg: .*truncated"):
        read(plain=True, training=True)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def exif_of(orientation: int, *, order: str = "II") -> bytes:
    kind = "little" if order == "II" else "big"
    entry = b"".join(
        value.to_bytes(length, kind)  # pyright: ignore[reportArgumentType]
        for value, length in ((0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2))
    )
    magic = b"II*\0" if order == "II" else b"MM\0*"
    return b"Exif\0\0" + magic + (8).to_bytes(4, kind) + (1).to_bytes(2, kind) + entry + bytes(4)  # pyright: ignore[reportArgumentType]


def test_baseline_files_are_plain():
    kinds: list[dict[str, Any]] = [
        *({}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}),
        *({"dpi": (72, 72)}, {"comment": b"a comment"}, {"mode": "L"}),
    ]
    for options in kinds:
        header = plain_jpeg(jpeg(**options))
        assert header is not None
        assert (header.size, header.orientation) == ((47, 61), 1)


def test_the_orientation_is_the_one_that_pillow_reads():
    for order in ("II", "MM"):
        for orientation in range(1, 9):
            data = jpeg(exif=exif_of(orientation, order=order))
            assert Image.open(BytesIO(data)).getexif()[0x0112] == orientation
            header = plain_jpeg(data)
            assert (header and header.orientation) == orientation
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    header = plain_jpeg(jpeg(exif=exif))
    assert (header and header.orientation) == 1


UNUSUAL = {
    "progressive": jpeg(progressive=True),
    "CMYK": jpeg(mode="CMYK"),
    "stored as RGB": jpeg(keep_rgb=True),
    "orientation 0": jpeg(exif=exif_of(0)),
    "orientation 9": jpeg(exif=exif_of(9)),
    "orientation in XMP": jpeg(xmp=XMP),
    "damaged EXIF": jpeg(exif=b"Exif\0\0no tiff"),
    "EXIF cut off": jpeg(exif=exif_of(6)[:20]),
    "truncated": jpeg()[:-200],
    "something after its end": jpeg() + b"more",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "no header": b"\xff\xd8\xff\xd9",
    "text": b"not an image",
    "nothing": b"",
}


def test_unusual_files_are_left_to_the_usual_decoder():
    for kind, data in UNUSUAL.items():
        assert plain_jpeg(data) is None, kind


@given(at=st.integers(2, 400), value=st.integers(0, 255), length=st.integers(0, 2000))
def test_damage_does_not_crash_the_parser(at: int, value: int, length: int):
    data = bytearray(jpeg(exif=exif_of(6)))
    data[at] = value
    plain_jpeg(bytes(data))
    plain_jpeg(bytes(data[:length]) + b"\xff\xd9")
