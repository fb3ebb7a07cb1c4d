"""HEIC images: upright once, 8 bits, sRGB, through folders, prediction and serving; without the extra the message names it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from vizsla import PictureError
from vizsla.data.images import (
    TooCostlyError,
    cause_of,
    decode_image,
    decoded_pixels,
    size_from_header,
)
from vizsla.data.table import get_image_files, resolve_data

pillow_heif = pytest.importorskip("pillow_heif")
RED, BLUE = (220, 30, 30), (30, 40, 210)


def drawn() -> Image.Image:
    image = Image.new("RGB", (64, 48), "white")
    image.paste(RED, (0, 0, 32, 24))
    image.paste(BLUE, (32, 0, 64, 24))
    return image


def heic(image: Image.Image, *others: Image.Image, **options: Any) -> bytes:
    stream = BytesIO()
    file = pillow_heif.from_pillow(image)
    for other in others:
        file.add_from_pillow(other)
    file.save(stream, quality=95, **options)
    return stream.getvalue()


def near(image: Image.Image, xy: tuple[int, int], colour: tuple[int, ...]) -> bool:
    return bool(np.abs(np.asarray(image)[xy[1], xy[0]].astype(int) - colour).max() <= 8)


def test_every_orientation_is_applied_once():
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = heic(
            drawn(), exif=exif.tobytes()
        )  # becomes irot and imir, and stays in the EXIF data
        stored = BytesIO()
        drawn().save(stored, "PNG", exif=exif)
        image, expected = decode_image(data), decode_image(stored.getvalue())
        assert image.size == expected.size
        assert size_from_header(data) == (image.height, image.width)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 3, orientation
        assert not image.info


def test_wide_values_transparency_grey_and_further_images():
    wide = np.full((48, 64, 3), 512 << 6, np.uint16)
    stream = BytesIO()
    file = pillow_heif.from_bytes("RGB;16", (64, 48), wide.tobytes())
    file.save(stream, quality=95)
    assert near(decode_image(stream.getvalue()), (5, 5), (128, 128, 128))
    clear = drawn().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 32, 24))
    assert near(decode_image(heic(clear)), (5, 5), (255, 255, 255))
    assert near(decode_image(heic(drawn().convert("L"))), (5, 5), (87, 87, 87))
    other = Image.new("RGB", (32, 32), BLUE)
    assert decode_image(heic(drawn(), other)).size == (64, 48)
    assert decode_image(heic(drawn(), other, primary_index=1)).size == (32, 32)


def test_colours_follow_the_profile():
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = decode_image(heic(drawn()))
    image = drawn()
    image.info["icc_profile"] = swapped.tobytes().replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")  # fmt: skip
    found = decode_image(heic(image))
    assert near(plain, (5, 5), RED)
    assert near(found, (5, 5), (RED[1], RED[0], RED[2]))


def test_its_pixels_are_counted_before_it_is_decoded():
    data = heic(drawn(), Image.new("RGB", (100, 70)))
    assert decoded_pixels(data, max_pixels=10_000) == 7000
    with pytest.raises(TooCostlyError, match="100 x 70"):
        decoded_pixels(data, max_pixels=6000)
    flat = heic(Image.new("RGB", (2000, 2000)))
    forged = flat.replace(struct.pack(">II", 2000, 2000), struct.pack(">II", 64, 64))
    assert forged != flat
    with pytest.raises(PictureError):
        decode_image(forged)


def test_damaged_files_are_refused():
    data = heic(drawn())
    for damaged in (data[:40], data[:300], data[: len(data) - 200], data[:60] + bytes(400)):
        with pytest.raises(PictureError):
            decode_image(damaged)


def test_pillow_is_left_as_it_is():
    decode_image(heic(drawn()))
    assert "HEIF" not in Image.OPEN
    with pytest.raises(OSError, match="identify"):
        Image.open(BytesIO(heic(drawn())))


def heic_folder(root: Path, draw: Callable[..., Image.Image]) -> Path:
    for label in ("cross", "disc"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            suffix = (".heic", ".HEIF", ".hif")[number % 3]
            (root / label / f"{number}{suffix}").write_bytes(heic(draw(label, number=number)))
    return root


def test_folders_of_heic_images_are_trained_on_and_predicted(here: Path, draw, vizsla):
    folder = heic_folder(here / "photos", draw)
    assert len(get_image_files(folder)) == 12
    done = vizsla("train", folder, "--out", "run", "--size", "48")
    assert done.code == 0, done.err
    done = vizsla("predict", "run", folder / "cross" / "0.heic", "--json")
    assert done.code == 0, done.err
    assert "error" not in done.out


def test_without_the_extra_every_image_is_counted_and_the_package_named(
    here: Path, draw, vizsla, monkeypatch: pytest.MonkeyPatch
):
    folder = heic_folder(here / "photos", draw)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    done = vizsla("check", folder)
    assert done.code == 2
    assert "12 of 12 images cannot be read" in done.err
    assert "pip install pillow-heif" in done.err
    with pytest.raises(PictureError) as caught:
        decode_image(folder / "cross" / "0.heic")
    assert "HEIC" in cause_of(caught.value)
    assert len(resolve_data(folder, seed=0).paths) == 12
