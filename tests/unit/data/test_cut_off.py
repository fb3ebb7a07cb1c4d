"""JPEGs that were cut off and closed again are named as incomplete; grey that is meant to be there is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vizsla import Resize
from vizsla.bench import made_up_photograph
from vizsla.data.cache import ImageCache
from vizsla.data.images import ImageNotes, ImageReader, decode_image, missing_part
from vizsla.types import Size

GREY = (128, 128, 128)
KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "full colours": {"subsampling": 0},
    "half colours": {"subsampling": 1},
    "optimised": {"optimize": True, "quality": 60},
    "restarts": {"restart_marker_rows": 1},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return made_up_photograph(0).resize((333, 251))


def jpeg(image: Image.Image, *, mode: str = "RGB", **options: Any) -> bytes:
    stream = BytesIO()
    image.convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def cut(data: bytes, share: float) -> bytes:
    """A file that ends after this share of its coded data, with an end marker."""
    start = data.index(b"\xff\xda") + 20
    return data[: start + int(share * (len(data) - start))] + b"\xff\xd9"


def doubt(data: bytes, *, cover: Size | None = None) -> str:
    return missing_part(decode_image(data, cover=cover), data)


def test_a_file_that_was_cut_off_and_closed_is_found_at_every_scale(photo: Image.Image):
    for kind, options in KINDS.items():
        whole = jpeg(photo, **options)
        assert not doubt(whole), kind
        for share in (0.1, 0.3, 0.55, 0.75):
            for cover in (None, (120, 120), (30, 30)):
                assert "grey" in doubt(cut(whole, share), cover=cover), (kind, share, cover)


def test_what_begins_at_the_edge_is_told_by_the_last_bytes(photo: Image.Image):
    # One row of blocks after the other is coded, each followed by a marker, so a file can end after any of them.
    data = jpeg(photo, restart_marker_rows=1)
    ends = [data.index(b"\xff" + bytes([0xD0 + number])) for number in range(2, 6)]
    for end in ends:
        closed = data[:end] + b"\xff\xd9"
        rows = np.asarray(decode_image(closed))
        assert (rows[-16:] == 128).all()
        assert "grey" in doubt(closed)


def test_a_copy_that_another_program_made_is_found(photo: Image.Image):
    found: list[bool] = []
    for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        with Image.open(BytesIO(cut(jpeg(photo), share))) as opened:
            found += ["grey" in doubt(jpeg(opened, quality=quality)) for quality in (75, 95)]
    assert sum(found) > 0.8 * len(found)


def test_a_file_that_is_shown_turned_is_found(photo: Image.Image):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "grey" in doubt(cut(jpeg(photo, exif=exif), 0.5))


def test_a_progressive_file_without_its_last_scans_is_coarse(photo: Image.Image):
    whole = jpeg(photo, progressive=True)
    assert not doubt(whole)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        assert "coarse" in doubt(whole[:at] + b"\xff\xd9")


def borders(photo: Image.Image) -> Iterator[Image.Image]:
    width, height = photo.size
    for pad in (16, 37, 96):
        below, around, left = (Image.new("RGB", size, GREY) for size in ((width, height + pad), (width, height + 2 * pad), (width + pad, height + pad)))  # fmt: skip
        below.paste(photo.crop((0, 0, width, 240)))
        around.paste(photo, (0, pad))
        left.paste(photo, (pad, 0))
        yield from (below, around, left)
    shape = Image.new("L", photo.size)
    ImageDraw.Draw(shape).ellipse((-30, 20, 250, 200), fill=255)
    yield Image.composite(photo, Image.new("RGB", photo.size, GREY), shape)
    yield photo.rotate(17, expand=True, fillcolor=GREY)
    yield Image.new("RGB", photo.size, GREY)
    yield Image.new("RGB", (5, 5), GREY)


def test_grey_that_is_meant_is_left_alone(photo: Image.Image):
    for number, image in enumerate(borders(photo)):
        kinds: list[dict[str, Any]] = [*KINDS.values(), {"quality": 95}, {"progressive": True}]
        for options in kinds:
            assert not doubt(jpeg(image, **options)), (number, options)


def test_odd_files_are_not_doubted_nor_refused(photo: Image.Image):
    data, chance = cut(jpeg(photo), 0.4), np.random.default_rng(4)
    image = decode_image(data)
    assert missing_part(image, b"\xff\xd8") == ""
    for _ in range(60):
        damaged = bytearray(data)
        for place in chance.integers(2, 700, 3):
            damaged[place] = chance.integers(256)
        assert isinstance(missing_part(image, bytes(damaged)), str)


def test_a_run_with_a_cache_on_disk_finds_it_again(tmp_path: Path, photo: Image.Image):
    path = tmp_path / "cut.jpg"
    path.write_bytes(cut(jpeg(photo), 0.5))
    for _ in range(2):
        notes = ImageNotes((48, 48))
        cache = ImageCache(mode="disk", folder=tmp_path / "cache")
        ImageReader(resize=Resize(48), cache=cache, on_decoded=notes.note).read(path)
        assert list(notes.doubts) == [str(path)]


def test_check_and_train_name_incomplete_images(here: Path, image_folder: Path, photo, vizsla):
    for name in ("cross/cross_3.jpg", "disc/disc_0.jpg"):
        (image_folder / name).write_bytes(cut(jpeg(photo), 0.4))
    done = vizsla("check", image_folder)
    assert done.code == 0
    line = next(line for line in done.out.splitlines() if "incomplete" in line)
    assert line.startswith("2 images")
    assert "cross/cross_3.jpg" in line
    summary = json.loads(vizsla("check", image_folder, "--json").out)
    assert list(summary["suspicious"]) == ["cross/cross_3.jpg", "disc/disc_0.jpg"]
    done = vizsla("train", image_folder, "--out", "run", "--size", "48")
    assert done.code == 0, done.err
    assert line in done.out
    metrics = json.loads(Path("run/metrics.json").read_text("utf-8"))
    assert list(metrics["suspicious"]) == ["cross/cross_3.jpg", "disc/disc_0.jpg"]
    assert line in metrics["notes"]
