"""The second decoder gives Pillow's pixels, or leaves the file to Pillow."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vizsla.data.cache.cache import PictureCache
from vizsla.data.images import reader as reading
from vizsla.data.images.decode import decodes_as_pillow, open_picture, plain_pixels
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize, ResizeMethod
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not decodes_as_pillow(), reason="torchvision decodes otherwise here"
)


def jpeg(width: int = 61, height: int = 47, **options: Any) -> bytes:
    values = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
    stream = BytesIO()
    picture.convert(options.pop("mode", "RGB")).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(61, 47), (8, 8), (1, 1), (640, 3)])
def test_pixels_are_those_of_pillow(subsampling: int, mode: str, size: tuple[int, int]):
    options = {} if mode == "L" else {"subsampling": subsampling}
    data = jpeg(*size, mode=mode, **options)
    found = plain_pixels(data, cover=(40, 40))
    assert found is not None
    assert found.flags.writeable
    assert np.array_equal(found, np.asarray(open_picture(data)))


def test_what_pillow_does_better_is_left_to_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_pixels(jpeg(exif=exif), cover=(40, 40)) is None
    assert plain_pixels(jpeg(progressive=True), cover=(40, 40)) is None
    assert plain_pixels(jpeg(mode="CMYK"), cover=(40, 40)) is None
    assert plain_pixels(jpeg()[:-60], cover=(40, 40)) is None
    assert plain_pixels(b"", cover=(40, 40)) is None
    # Half of the sides still covers it: decoding that is faster.
    assert plain_pixels(jpeg(), cover=(20, 20)) is None


@pytest.mark.parametrize("method", ["crop", "squish"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(61, 47), (47, 61), (50, 50), (40, 300)])
def test_a_reader_gives_the_same_with_both_decoders(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: ResizeMethod,
    training: bool,
    size: tuple[int, int],
):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(*size))
    seen: list[tuple[int, int]] = []

    def read(*, plain: bool) -> Any:
        monkeypatch.setattr(reading, "is_worthwhile", lambda: plain)
        reader = PictureReader(
            resize=Resize(40, method),
            cache=PictureCache(mode="off"),
            on_decoded=lambda _path, decoded: seen.append(decoded),
        )
        return reader.read(path, training=training)

    plain, usual = read(plain=True), read(plain=False)
    assert np.array_equal(plain, usual)
    assert not plain.flags.writeable
    assert seen[0] == seen[1] == (size[1], size[0])


def test_bad_files_are_named_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "is_worthwhile", lambda: True)
    reader = PictureReader(resize=Resize(40), cache=PictureCache(mode="off"))
    with pytest.raises(PictureError, match=r"absent\.jpg: there is no such file"):
        reader.read(tmp_path / "absent.jpg")
    short = tmp_path / "short.jpg"
    short.write_bytes(jpeg()[:-60])
    with pytest.raises(PictureError, match=r"short\.jpg: the file is truncated"):
        reader.read(short)
