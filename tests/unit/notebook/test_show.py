"""Figures of pictures and functions: one axes a picture, no scales, titles that fit, and nothing that warns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from vizsla.errors import ConfigError
from vizsla.notebook.images import plot_function, show_image, show_images, subplots

if TYPE_CHECKING:
    from collections.abc import Generator

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.fixture(autouse=True)
def _no_figures_left() -> Generator[None]:
    yield
    plt.close("all")


def only_axes() -> Any:
    (axes,) = plt.gcf().axes
    return axes


@pytest.mark.parametrize(
    "picture",
    [
        TENSOR,
        TENSOR / 255,
        PIXELS,
        PIXELS / 255,
        Image.fromarray(PIXELS),
        (TENSOR / 255).double().requires_grad_(),
    ],
)
def test_every_kind_of_picture_shows_the_same(picture):
    drawn = np.asarray(show_image(picture).images[0].get_array(), dtype=np.float64)
    scale = 1 if drawn.max() > 1 else 255
    np.testing.assert_allclose(drawn * scale, PIXELS, atol=1e-3)


def test_half_precision_and_values_outside_are_shown_clipped():
    drawn = show_image(torch.full((3, 4, 4), 1.5, dtype=torch.bfloat16)).images[0].get_array()
    assert np.asarray(drawn).max() == 1


def test_a_grey_picture_takes_a_colour_map():
    for grey in (TENSOR[:1], TENSOR[0], PIXELS[..., :1], Image.fromarray(PIXELS).convert("L")):
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
def test_what_is_no_picture_is_refused(thing):
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
    with pytest.raises(ConfigError, match="Each of the 2 pictures"):
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
