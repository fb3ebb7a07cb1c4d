"""A PILImage is upright RGB whatever it is made of, prints its size, and leaves its source alone; images and curves are drawn."""

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

from vizsla import (
    ConfigError,
    CropPad,
    PictureError,
    PILImage,
    RandomResizedCrop,
    RatioResize,
    Resize,
    TensorCategory,
    TensorImage,
    show_image,
    show_images,
)
from vizsla.notebook import plot_function, subplots

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "reprs.json").read_text("utf-8")
)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
SMALL = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(SMALL).permute(2, 0, 1)


@pytest.fixture
def image() -> PILImage:
    return PILImage.create(PIXELS)


def only_axes() -> Any:
    (axes,) = plt.gcf().axes
    return axes


def test_it_prints_its_mode_and_its_width_by_height(image: PILImage):
    assert repr(image) == GOLDEN["image"]
    assert str(image) == GOLDEN["image_str"]
    assert repr((image, TensorCategory(0))) == GOLDEN["item"]
    assert list(image.shape) == GOLDEN["image_shape"]
    assert list(image.size) == GOLDEN["image_size"]
    assert image.aspect == pytest.approx(40 / 60)


def test_ipython_shows_the_image_and_prints_the_same(image: PILImage):
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    assert pretty(image) == GOLDEN["image"]
    assert pretty((image, 1)) == f"({GOLDEN['image']}, 1)"
    assert (image._repr_png_() or b"").startswith(b"\x89PNG")


def test_every_form_gives_the_same_pixels(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    data, floats = path.read_bytes(), CHANNELS_FIRST / 255
    for form in (
        *(path, str(path), data, bytearray(data)),
        *(PIXELS, PIXELS / 255, CHANNELS_FIRST, floats, floats.double(), TensorImage(floats)),
        *(Image.fromarray(PIXELS), PILImage.create(PIXELS)),
    ):
        for found in (PILImage.create(form), PILImage(form)):
            assert type(found) is PILImage
            assert np.array_equal(np.asarray(found), PIXELS), type(form)
    with Image.open(path) as opened:
        made = PILImage.create(opened)
    assert np.array_equal(np.asarray(made), PIXELS)  # the file is closed
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


def test_its_source_is_left_alone(image: PILImage):
    plain = Image.fromarray(PIXELS)
    array = PIXELS.copy()
    for given in (plain, image, array):
        PILImage.create(given).paste((1, 2, 3), (0, 0, 40, 60))
    assert type(plain) is Image.Image
    assert all(np.array_equal(np.asarray(one), PIXELS) for one in (plain, image, array))


def test_other_things_are_refused(tmp_path: Path):
    wrong: tuple[Any, ...] = (
        *(3, None, np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)),
        *(np.zeros((4, 4, 3), np.int64), np.full((4, 4, 3), 1.5), np.full((4, 4, 3), np.nan)),
        *(torch.zeros(2, 3, 4, 4), b"no image"),
    )
    for given in wrong:
        with pytest.raises(PictureError, match=r"Received|no image"):
            PILImage.create(given)
    with pytest.raises(PictureError, match=r"none\.jpg"):
        PILImage.create(tmp_path / "none.jpg")


def test_item_transforms_act_on_it_and_keep_its_kind(image: PILImage):
    for transform, shape in (
        (Resize(46), (46, 46)),
        (Resize((20, 30), "squish"), (20, 30)),
        (Resize(46, "pad", "zeros"), (46, 46)),
        (RandomResizedCrop(32), (32, 32)),
        (CropPad(50), (50, 50)),
        (RatioResize(30), (30, 20)),
    ):
        found: Any = transform(image)
        assert type(found) is PILImage
        assert found.shape == shape
    sizes = [image.to_thumb(*box).size for box in ((30,), (30, 10), (500,))]
    assert sizes == [(20, 30), (10, 15), (40, 60)]
    assert image.shape == (60, 40)


def test_it_shows_itself_on_axes_and_alone(image: PILImage):
    axes: Any = plt.subplots()[1]
    assert image.show(ctx=axes, title="a cat") is axes
    assert axes.get_title() == "a cat"
    assert np.array_equal(axes.images[0].get_array(), PIXELS)
    assert image.show(figsize=(2, 2)) is not axes
    assert len(plt.get_fignums()) == 2
    plt.subplots()[1].imshow(image)  # matplotlib takes it, too


def test_every_kind_of_image_shows_the_same():
    gradient = (TENSOR / 255).double().requires_grad_()
    for one in (TENSOR, TENSOR / 255, SMALL, SMALL / 255, Image.fromarray(SMALL), gradient):
        drawn = np.asarray(show_image(one).images[0].get_array(), dtype=np.float64)
        scale = 1 if drawn.max() > 1 else 255
        np.testing.assert_allclose(drawn * scale, SMALL, atol=1e-3)
    clipped = show_image(torch.full((3, 4, 4), 1.5, dtype=torch.bfloat16)).images[0].get_array()
    assert np.asarray(clipped).max() == 1
    for grey in (TENSOR[:1], TENSOR[0], SMALL[..., :1], Image.fromarray(SMALL).convert("L")):
        shown: Any = show_image(grey, cmap="gray").images[0]
        assert shown.get_array().shape == (6, 8)
        assert shown.get_cmap().name == "gray"


def test_axes_title_and_size_can_be_given():
    axes = plt.subplots()[1]
    assert show_image(TENSOR, ax=axes, title="a") is axes
    assert show_image(TENSOR, ctx=axes) is axes
    assert axes.get_title() == "a"
    assert not axes.axison
    new: Any = show_image(TENSOR, figsize=(2, 4))
    assert list(new.figure.get_size_inches()) == [2, 4]


def test_other_things_are_not_drawn():
    wrong: tuple[Any, ...] = (
        *(torch.zeros(2, 3, 4, 4), np.zeros((4, 4, 5)), np.zeros(4), np.array("a"), "a.jpg"),
    )
    for thing in wrong:
        with pytest.raises(ConfigError, match="Received"):
            show_image(thing)


def test_subplots_gives_an_array_of_axes_with_3_inches_each():
    shapes = [subplots(*shape)[1].shape for shape in ((1, 1), (1, 2), (2, 1), (2, 3))]
    assert shapes == [(1,), (2,), (2,), (2, 3)]
    options: tuple[dict[str, Any], ...] = ({}, {"imsize": 2}, {"figsize": (5, 5)})
    sizes = [list(subplots(2, 4, **each)[0].get_size_inches()) for each in options]
    assert sizes == [[12, 6], [8, 4], [5, 5]]
    assert subplots(1, 1, suptitle="all")[0].get_suptitle() == "all"


def test_images_are_drawn_side_by_side():
    show_images([TENSOR] * 3, nrows=2, titles=["a", "b", "c"])
    axes = plt.gcf().axes
    assert [one.get_title() for one in axes] == ["a", "b", "c", ""]
    assert [len(one.images) for one in axes] == [1, 1, 1, 0]
    assert not any(one.axison for one in axes)
    with pytest.raises(ConfigError, match="2 images"):
        show_images([TENSOR] * 2, titles=["a"])


def test_a_function_is_drawn_on_its_own_figure():
    assert plot_function(torch.sigmoid, min=-4, max=4) is None
    axes = only_axes()
    (line,) = axes.lines
    x, y = line.get_data()
    assert (len(x), x[0], x[-1]) == (100, -4, 4)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x)), atol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("", "", "")
    assert list(axes.figure.get_size_inches()) == [6, 4]
    plot_function(torch.tanh, "x", "y", "title", -1, 1, (3, 2), 7)
    axes = only_axes()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("x", "y", "title")
    assert len(axes.lines[0].get_xdata()) == 7


def test_infinite_values_neither_raise_nor_warn():
    for function in (torch.log, lambda x: np.log(x.numpy()), lambda x: -1 * torch.log(x)):
        plot_function(function, min=0, max=1)
        plt.gcf().canvas.draw()
        y = only_axes().lines[0].get_ydata()
        assert np.isnan(y[0])
        assert np.isfinite(y[1:]).all()
