"""A PILImage is upright RGB whatever it is made of, prints its size, and leaves what it was made of alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from vizsla.data.images.sizing import CropPad, RandomResizedCrop, RatioResize, Resize
from vizsla.errors import ConfigError, PictureError
from vizsla.notebook.images import PILImage, plot_function, show_image, show_images, subplots
from vizsla.notebook.tensors import TensorCategory, TensorImage

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "reprs.json").read_text("utf-8")
)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)


@pytest.fixture
def image() -> PILImage:
    return PILImage.create(PIXELS)


def test_it_prints_its_mode_and_its_width_by_height(image: PILImage):
    assert repr(image) == GOLDEN["image"]
    assert str(image) == GOLDEN["image_str"]
    assert repr((image, TensorCategory(0))) == GOLDEN["item"]


def test_it_has_shape_size_and_aspect(image: PILImage):
    assert list(image.shape) == GOLDEN["image_shape"]
    assert list(image.size) == GOLDEN["image_size"]
    assert image.aspect == pytest.approx(40 / 60)


def test_ipython_shows_the_picture_and_prints_the_same(image: PILImage):
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    assert pretty(image) == GOLDEN["image"]
    assert pretty((image, 1)) == f"({GOLDEN['image']}, 1)"
    assert (image._repr_png_() or b"").startswith(b"\x89PNG")


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


def test_what_it_was_made_of_is_left_alone(image: PILImage):
    plain = Image.fromarray(PIXELS)
    array = PIXELS.copy()
    for given in (plain, image, array):
        made = PILImage.create(given)
        made.paste((1, 2, 3), (0, 0, 40, 60))
    assert type(plain) is Image.Image
    assert np.array_equal(np.asarray(plain), PIXELS)
    assert np.array_equal(np.asarray(image), PIXELS)
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
        b"no image",
    ],
)
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(PictureError, match=r"Received|no image"):
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
def test_item_transforms_act_on_it_and_keep_its_kind(transform, shape, image: PILImage):
    found = transform(image)
    assert type(found) is PILImage
    assert found.shape == shape
    assert image.shape == (60, 40)


def test_a_thumbnail_is_a_small_copy(image: PILImage):
    assert image.to_thumb(30).size == (20, 30)
    assert image.to_thumb(30, 10).size == (10, 15)
    assert image.to_thumb(500).size == (40, 60)
    assert image.size == (40, 60)


def test_it_shows_itself_on_axes_and_alone(image: PILImage):
    axes: Any = plt.subplots()[1]
    assert image.show(ctx=axes, title="a cat") is axes
    assert axes.get_title() == "a cat"
    assert np.array_equal(axes.images[0].get_array(), PIXELS)
    assert image.show(figsize=(2, 2)) is not axes
    assert len(plt.get_fignums()) == 2


def test_numpy_and_matplotlib_take_it(image: PILImage):
    assert np.array_equal(np.array(image), PIXELS)
    plt.subplots()[1].imshow(image)


SMALL = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(SMALL).permute(2, 0, 1)


def only_axes() -> Any:
    (axes,) = plt.gcf().axes
    return axes


@pytest.mark.parametrize(
    "image",
    [
        TENSOR,
        TENSOR / 255,
        SMALL,
        SMALL / 255,
        Image.fromarray(SMALL),
        (TENSOR / 255).double().requires_grad_(),
    ],
)
def test_every_kind_of_picture_shows_the_same(image):
    drawn = np.asarray(show_image(image).images[0].get_array(), dtype=np.float64)
    scale = 1 if drawn.max() > 1 else 255
    np.testing.assert_allclose(drawn * scale, SMALL, atol=1e-3)


def test_half_precision_and_values_outside_are_shown_clipped():
    drawn = show_image(torch.full((3, 4, 4), 1.5, dtype=torch.bfloat16)).images[0].get_array()
    assert np.asarray(drawn).max() == 1


def test_a_grey_picture_takes_a_colour_map():
    for grey in (
        TENSOR[:1],
        TENSOR[0],
        SMALL[..., :1],
        Image.fromarray(SMALL).convert("L"),
    ):
        drawn: Any = show_image(grey, cmap="gray").images[0]
        assert drawn.get_array().shape == (6, 8)
        assert drawn.get_cmap().name == "gray"


def test_axes_title_and_size_can_be_given():
    axes = plt.subplots()[1]
    assert show_image(TENSOR, ax=axes, title="a") is axes
    assert show_image(TENSOR, ctx=axes) is axes
    assert axes.get_title() == "a"
    assert not axes.axison
    new: Any = show_image(TENSOR, figsize=(2, 4))
    assert list(new.figure.get_size_inches()) == [2, 4]


@pytest.mark.parametrize(
    "thing", [torch.zeros(2, 3, 4, 4), np.zeros((4, 4, 5)), np.zeros(4), np.array("a"), "a.jpg"]
)
def test_what_is_no_image_is_not_drawn(thing):
    with pytest.raises(ConfigError, match="take one of a batch with"):
        show_image(thing)


def test_subplots_gives_an_array_of_axes_even_for_one():
    assert [subplots(*shape)[1].shape for shape in ((1, 1), (1, 2), (2, 1), (2, 3))] == [
        (1,),
        (2,),
        (2,),
        (2, 3),
    ]


def test_subplots_have_3_inches_each_unless_told():
    assert list(subplots(2, 4)[0].get_size_inches()) == [12, 6]
    assert list(subplots(2, 4, imsize=2)[0].get_size_inches()) == [8, 4]
    assert list(subplots(2, 4, figsize=(5, 5))[0].get_size_inches()) == [5, 5]
    figure, _ = subplots(1, 1, suptitle="all")
    assert figure.get_suptitle() == "all"


def test_pictures_side_by_side():
    show_images([TENSOR] * 3, nrows=2, titles=["a", "b", "c"])
    axes = plt.gcf().axes
    assert [one.get_title() for one in axes] == ["a", "b", "c", ""]
    assert [len(one.images) for one in axes] == [1, 1, 1, 0]
    assert not any(one.axison for one in axes)


def test_titles_have_to_match_the_pictures():
    with pytest.raises(ConfigError, match="2 images"):
        show_images([TENSOR] * 2, titles=["a"])


def test_a_function_is_drawn_on_a_figure_of_its_own():
    assert plot_function(torch.sigmoid, min=-4, max=4) is None
    axes = only_axes()
    (line,) = axes.lines
    x, y = line.get_data()
    assert (len(x), x[0], x[-1]) == (100, -4, 4)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x)), atol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("", "", "")
    assert list(axes.figure.get_size_inches()) == [6, 4]


def test_a_function_says_what_it_is_told():
    plot_function(torch.tanh, "x", "y", "title", -1, 1, (3, 2), 7)
    axes = only_axes()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("x", "y", "title")
    assert len(axes.lines[0].get_xdata()) == 7


@pytest.mark.parametrize(
    "function", [torch.log, lambda x: np.log(x.numpy()), lambda x: -1 * torch.log(x)]
)
def test_infinite_values_neither_raise_nor_warn(function):
    plot_function(function, min=0, max=1)
    plt.gcf().canvas.draw()
    y = only_axes().lines[0].get_ydata()
    assert np.isnan(y[0])
    assert np.isfinite(y[1:]).all()
