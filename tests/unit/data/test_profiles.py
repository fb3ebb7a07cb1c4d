"""Colour profiles: pixels of any space become sRGB, in each format, mode and decoder; an unusable profile changes nothing."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

from vizsla import Resize
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    ImageReader,
    decode_image,
    decodes_as_pillow,
    plain_jpeg,
    to_rgb,
)
from vizsla.data.images import reader as reading

# Columns of the matrices are XYZ (D50) of full red, green and blue; then the exponent of the curve, 0 for that of sRGB.
SRGB = ([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]], 0)
SPACES = {
    "Adobe RGB": (
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
        563 / 256,
    ),
    "Display P3": (
        [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]],
        0,
    ),
    "ProPhoto": (
        [[0.79767, 0.13519, 0.03135], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]],
        1.80078125,
    ),
}
Pixels = NDArray[Any]


def profile(space: bytes, tags: dict[bytes, bytes], *, connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2, of these tags."""
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249)), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, b"mntr", space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    return head + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + body


def xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(exponent: float) -> bytes:
    if exponent:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * exponent))
    values = np.rint(65535 * linear(np.linspace(0, 1, 1024), 0)).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + values.tobytes()


def rgb_profile(matrix: Any, exponent: float) -> bytes:
    colours = {name + b"XYZ": xyz(column) for name, column in zip((b"r", b"g", b"b"), np.transpose(matrix), strict=True)}  # fmt: skip
    return profile(b"RGB ", {**colours, **{name + b"TRC": curve(exponent) for name in (b"r", b"g", b"b")}})  # fmt: skip


def grey_profile(exponent: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve(exponent)})


def cmyk_profile(colour_of: Any) -> bytes:
    """A table of the 16 corners, from CMYK of 0 and 1 to Lab."""
    steps = bytes(range(256))
    corners = b""
    for number in range(16):
        light, a, b = colour_of(*(number >> shift & 1 for shift in (3, 2, 1, 0)))
        corners += bytes((round(2.55 * light), a + 128, b + 128))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + 4 * steps + corners + 3 * steps
    return profile(b"CMYK", {b"A2B0": table}, connection=b"Lab ")


def linear(values: Pixels, exponent: float) -> Pixels:
    if exponent:
        return values**exponent
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_of_xyz(values: Pixels) -> Pixels:
    light = np.clip(values @ np.linalg.inv(SRGB[0]).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def converted(pixels: Any, matrix: Any, exponent: float) -> Pixels:
    """What LittleCMS is compared with: pixels of a space in sRGB, as floats 0-255."""
    return srgb_of_xyz(linear(np.asarray(pixels) / 255, exponent) @ np.transpose(matrix))


def colourful(height: int = 60, width: int = 80) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def distance(image: Image.Image, expected: Any) -> float:
    return float(np.abs(np.asarray(image, dtype=np.float64) - expected).max())


def test_colours_of_each_space_become_srgb_in_every_format():
    kinds: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {})]  # fmt: skip
    if features.check("avif"):
        kinds.append(("AVIF", {}))
    for name, (matrix, exponent) in SPACES.items():
        for kind, options in kinds:
            data = as_bytes(colourful(), kind, icc_profile=rgb_profile(matrix, exponent), **options)
            plain = decode_image(as_bytes(colourful(), kind, **options))
            found, expected = decode_image(data), converted(plain, matrix, exponent)
            assert distance(found, expected) < 2.1, (name, kind)
            assert float(np.abs(expected - plain).mean()) > 4
            assert not found.info
            assert decode_image(as_bytes(found, "PNG")).tobytes() == found.tobytes()


def test_a_jpeg_that_is_decoded_smaller_is_converted_too():
    matrix, exponent = SPACES["Adobe RGB"]
    for options in ({}, {"progressive": True}):
        data = as_bytes(colourful(480, 640), "JPEG", icc_profile=rgb_profile(matrix, exponent), **options)  # fmt: skip
        without = as_bytes(colourful(480, 640), "JPEG", **options)
        for cover in ((200, 200), (100, 100), (50, 50)):
            found, plain = (decode_image(one, cover=cover) for one in (data, without))
            assert found.width < 640
            assert distance(found, converted(plain, matrix, exponent)) < 2.1


def test_srgb_by_any_name_changes_nothing_and_stays_plain():
    ready_made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one in (rgb_profile(*SRGB), ready_made):
        data = as_bytes(colourful(), "JPEG", icc_profile=one)
        assert decode_image(data).tobytes() == decode_image(as_bytes(colourful(), "JPEG")).tobytes()
        assert plain_jpeg(data) is not None
    for matrix, exponent in SPACES.values():
        assert plain_jpeg(as_bytes(colourful(), "JPEG", icc_profile=rgb_profile(matrix, exponent))) is None  # fmt: skip


def test_palettes_and_transparent_images_are_converted_before_they_are_laid_over_white():
    matrix, exponent = SPACES["Adobe RGB"]
    icc = rgb_profile(matrix, exponent)
    palette = colourful().quantize(16)
    found = decode_image(as_bytes(palette, "PNG", icc_profile=icc))
    assert distance(found, converted(palette.convert("RGB"), matrix, exponent)) < 2.1
    clear = colourful().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 40, 60))
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode_image(as_bytes(clear, kind, icc_profile=icc)))
        assert (found[:, :40] == 255).all()
        expected = converted(colourful(), matrix, exponent)[:, 40:]
        assert np.abs(found[:, 40:] - expected).max() < 2.1


def test_grey_images_follow_a_grey_profile():
    grey = colourful().convert("L")
    icc = grey_profile(1.0)
    expected = srgb_of_xyz(np.asarray(grey)[..., None] / 255 * [0.9642, 1, 0.8249])
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for image, kind in ((grey, "PNG"), (opaque, "PNG"), (wide, "PNG"), (grey, "TIFF")):
        assert distance(decode_image(as_bytes(image, kind, icc_profile=icc)), expected) < 2.1
    plain = decode_image(as_bytes(grey, "JPEG"))
    found = decode_image(as_bytes(grey, "JPEG", icc_profile=icc))
    assert distance(found, srgb_of_xyz(np.asarray(plain) / 255 * [0.9642, 1, 0.8249])) < 2.1


def test_cmyk_is_converted_by_its_profile_and_lab_by_its_meaning():
    def muted(cyan: int, magenta: int, yellow: int, black: int) -> tuple[int, int, int]:
        if black:
            return 0, 0, 0
        return 100 - 22 * (cyan + magenta) - 8 * yellow, 20 * (magenta - cyan), 30 * yellow

    icc = cmyk_profile(muted)
    for inks in (
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
        (1, 1, 0, 0),
        (0, 0, 0, 1),
    ):
        light, a, b = muted(*inks)
        y = (light + 16) / 116
        roots = np.array([y + a / 500, y, y - b / 200])
        values = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
        expected = srgb_of_xyz(values * [0.9642, 1, 0.8249])
        image = Image.new("CMYK", (16, 16), tuple(255 * ink for ink in inks))
        for kind in ("TIFF", "JPEG"):
            found = decode_image(as_bytes(image, kind, icc_profile=icc))
            assert distance(found, expected) < 4, (inks, kind)
        lab = Image.new("LAB", (16, 16), (round(2.55 * light), a + 128, b + 128))
        assert distance(decode_image(as_bytes(lab, "TIFF")), expected) < 4, inks


def test_a_profile_that_cannot_be_used_changes_nothing():
    adobe = rgb_profile(*SPACES["Adobe RGB"])
    cmyk = cmyk_profile(lambda *inks: (0 if any(inks) else 100, 0, 0))
    plain = decode_image(as_bytes(colourful(), "JPEG")).tobytes()
    for unusable in (b"no profile", adobe[:200], adobe[:-60], grey_profile(1.0), cmyk, bytes(300)):
        data = as_bytes(colourful(), "JPEG", icc_profile=unusable)
        assert decode_image(data).tobytes() == plain
    grey = colourful().convert("L")
    data = as_bytes(grey, "JPEG", icc_profile=adobe)
    assert decode_image(data).tobytes() == decode_image(as_bytes(grey, "JPEG")).tobytes()


def test_damage_to_a_profile_never_makes_an_image_unreadable():
    whole, chance = rgb_profile(*SPACES["ProPhoto"]), np.random.default_rng(2)
    for _ in range(80):
        damaged = bytearray(whole)
        for place in chance.integers(0, len(whole), 4):
            damaged[place] = chance.integers(256)
        data = as_bytes(colourful(), "JPEG", icc_profile=bytes(damaged))
        assert decode_image(data).size == (80, 60)


def test_an_image_in_memory_is_converted_as_its_file_is_and_stays_as_it_was(tmp_path: Path):
    path = tmp_path / "photo.png"
    path.write_bytes(as_bytes(colourful(), "PNG", icc_profile=rgb_profile(*SPACES["Display P3"])))
    with Image.open(path) as opened:
        before = opened.tobytes()
        assert to_rgb(opened).tobytes() == decode_image(path).tobytes()
        assert opened.tobytes() == before


@pytest.mark.skipif(not decodes_as_pillow(), reason="torchvision decodes otherwise here")
@pytest.mark.parametrize("training", [False, True])
def test_a_reader_gives_the_same_with_both_decoders(tmp_path: Path, monkeypatch, training: bool):
    path, found = tmp_path / "a.jpg", list[Any]()
    for icc in (rgb_profile(*SRGB), rgb_profile(*SPACES["ProPhoto"])):
        path.write_bytes(as_bytes(colourful(), "JPEG", icc_profile=icc))
        for plain in (True, False):
            monkeypatch.setattr(reading, "is_worthwhile", lambda plain=plain: plain)
            reader = ImageReader(resize=Resize(40), cache=ImageCache(mode="off"))
            found.append(reader.read(path, training=training))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[2], found[3])
    assert not np.array_equal(found[0], found[2])


def test_many_threads_and_many_profiles_give_the_same():
    profiles = [rgb_profile(SPACES["Adobe RGB"][0], 1 + number / 16) for number in range(40)]
    files = [as_bytes(colourful(), "JPEG", icc_profile=icc) for icc in profiles]
    expected = [decode_image(data).tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        found = [image.tobytes() for image in pool.map(decode_image, files * 3)]
    assert found == expected * 3
    assert len(set(expected)) == len(profiles)
