"""A PILImage is upright RGB whatever it is made of, prints its size, and leaves what it was made of alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from vizsla.data.images.sizing import CropPad, RandomResizedCrop, RatioResize, Resize
from vizsla.errors import PictureError
from vizsla.notebook.images import PILImage
from vizsla.notebook.tensors import TensorCategory, TensorImage

if TYPE_CHECKING:
    from collections.abc import Generator

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "reprs.json").read_text("utf-8")
)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_figures_left() -> Generator[None]:
    yield
    plt.close("all")


@pytest.fixture
def picture() -> PILImage:
    return PILImage.create(PIXELS)


def test_it_prints_its_mode_and_its_width_by_height(picture: PILImage):
    assert repr(picture) == GOLDEN["image"]
    assert str(picture) == GOLDEN["image_str"]
    assert repr((picture, TensorCategory(0))) == GOLDEN["item"]


def test_it_has_shape_size_and_aspect(picture: PILImage):
    assert list(picture.shape) == GOLDEN["image_shape"]
    assert list(picture.size) == GOLDEN["image_size"]
    assert picture.aspect == pytest.approx(40 / 60)


def test_ipython_shows_the_picture_and_prints_the_same(picture: PILImage):
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    assert pretty(picture) == GOLDEN["image"]
    assert pretty((picture, 1)) == f"({GOLDEN['image']}, 1)"
    assert (picture._repr_png_() or b"").startswith(b"\x89PNG")


CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
FORMS = {
    "path": lambda path: path,
    "str": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "array": lambda path: PIXELS,
    "float array": lambda path: PIXELS / 255,
    "tensor": lambda path: CHANNELS_FIRST,
    "float tensor": lambda path: CHANNELS_FIRST / 255,
    "double tensor": lambda path: (CHANNELS_FIRST / 255).double(),
    "TensorImage": lambda path: TensorImage(CHANNELS_FIRST / 255),
    "Pillow": lambda path: Image.fromarray(PIXELS),
    "PILImage": lambda path: PILImage.create(PIXELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form: str, tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    found = PILImage.create(FORMS[form](path))
    assert type(found) is PILImage
    assert np.array_equal(np.asarray(found), PIXELS)


def test_grey_arrays_become_rgb():
    for grey in (PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[..., 0].copy())):
        found = PILImage.create(grey)
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found)[..., 2], PIXELS[..., 0])


def test_orientation_transparency_and_wide_values_are_as_in_training():
    turned = Image.new("RGB", (40, 60), "red")
    turned.getexif()[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=turned.getexif())
    assert PILImage.create(buffer.getvalue()).size == (60, 40)
    assert PILImage.create(Image.open(buffer)).size == (60, 40)
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert PILImage.create(clear).getpixel((0, 0)) == (255, 255, 255)
    wide = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert PILImage.create(wide).getpixel((0, 0)) == (128, 128, 128)


def test_what_it_was_made_of_is_left_alone(picture: PILImage):
    plain = Image.fromarray(PIXELS)
    array = PIXELS.copy()
    for given in (plain, picture, array):
        made = PILImage.create(given)
        made.paste((1, 2, 3), (0, 0, 40, 60))
    assert type(plain) is Image.Image
    assert np.array_equal(np.asarray(plain), PIXELS)
    assert np.array_equal(np.asarray(picture), PIXELS)
    assert np.array_equal(array, PIXELS)


def test_an_opened_file_is_not_held_open(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    with Image.open(path) as opened:
        made = PILImage.create(opened)
    assert np.array_equal(np.asarray(made), PIXELS)


@pytest.mark.parametrize(
    "given",
    [
        3,
        None,
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), 1.5),
        np.full((4, 4, 3), np.nan),
        torch.zeros(2, 3, 4, 4),
        b"no picture",
    ],
)
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(PictureError, match=r"Received|no picture"):
        PILImage.create(given)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(PictureError, match=r"none\.jpg: there is no such file"):
        PILImage.create(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (Resize(46), (46, 46)),
        (Resize((20, 30), "squish"), (20, 30)),
        (Resize(46, "pad", "zeros"), (46, 46)),
        (RandomResizedCrop(32), (32, 32)),
        (CropPad(50), (50, 50)),
        (RatioResize(30), (30, 20)),
    ],
)
def test_item_transforms_act_on_it_and_keep_its_kind(transform, shape, picture: PILImage):
    found = transform(picture)
    assert type(found) is PILImage
    assert found.shape == shape
    assert picture.shape == (60, 40)


def test_a_thumbnail_is_a_small_copy(picture: PILImage):
    assert picture.to_thumb(30).size == (20, 30)
    assert picture.to_thumb(30, 10).size == (10, 15)
    assert picture.to_thumb(500).size == (40, 60)
    assert picture.size == (40, 60)


def test_it_shows_itself_on_axes_and_alone(picture: PILImage):
    axes: Any = plt.subplots()[1]
    assert picture.show(ctx=axes, title="a cat") is axes
    assert axes.get_title() == "a cat"
    assert np.array_equal(axes.images[0].get_array(), PIXELS)
    assert picture.show(figsize=(2, 2)) is not axes
    assert len(plt.get_fignums()) == 2


def test_numpy_and_matplotlib_take_it(picture: PILImage):
    assert np.array_equal(np.array(picture), PIXELS)
    plt.subplots()[1].imshow(picture)
