"""Plots: figures with the right words in them, made without touching pyplot."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from vizsla.errors import ConfigError
from vizsla.evaluate.plots import (
    grid_shape,
    image_grid,
    plot_confusion,
    plot_history,
    set_fitting_titles,
)
from vizsla.evaluate.predictions import HistoryPoint, Predictions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure


Maker = Callable[..., Predictions]


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("L"))


def test_the_confusion_plot_has_counts_names_and_readable_colours(from_confusion: Maker):
    figure = plot_confusion(from_confusion([[9, 1], [0, 6]], vocab=("cat", "dog")))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["9", "1", "0", "6"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90.0}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "Actual")
    assert axes.get_title() == "Confusion matrix"
    assert pixels(figure).std() > 10


def test_a_normalised_row_of_an_absent_class_is_zero(from_confusion: Maker):
    figure = plot_confusion(from_confusion([[3, 1], [0, 0]]), normalise=True, decimals=1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.8", "0.2", "0.0", "0.0"]


def test_the_confusion_plot_can_be_sized_and_left_without_numbers(from_confusion: Maker):
    figure = plot_confusion(
        from_confusion([[3, 1], [1, 2]]), show_numbers=False, figure_size=(6, 5), dots_per_inch=50
    )
    assert len(figure.axes[0].texts) == 0
    assert pixels(figure).shape == (250, 300)


def test_the_history_plot_leaves_gaps_and_marks_stages():
    history = (
        HistoryPoint(stage="features", epoch=0, accuracy=0.8, seconds=2.0),
        HistoryPoint(stage="head", epoch=0, train_loss=1.0, valid_loss=0.9, accuracy=0.9),
        HistoryPoint(stage="head", epoch=1, train_loss=0.5, valid_loss=0.6, accuracy=0.95),
    )
    loss, accuracy = plot_history(history).axes
    train = np.asarray(loss.lines[0].get_ydata(), dtype=float)
    assert np.isnan(train[0])
    assert train[1:].tolist() == [1.0, 0.5]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "valid"]  # pyright: ignore[reportOptionalMemberAccess]
    assert np.asarray(accuracy.lines[1].get_xdata()).tolist() == [1.5, 1.5]


def test_an_empty_history_gives_an_empty_plot():
    assert pixels(plot_history(())).std() > 0


def test_no_window_and_no_global_figure_is_made(from_confusion: Maker):
    plot_confusion(from_confusion([[1, 0], [0, 1]]))
    plot_history((HistoryPoint(stage="head", epoch=0, train_loss=1.0),))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("n", "given", "expected"),
    [
        (9, {}, (3, 3)),
        (24, {}, (4, 6)),
        (1, {}, (1, 1)),
        (8, {}, (2, 4)),
        (7, {"ncols": 3}, (3, 3)),
        (7, {"nrows": 2}, (2, 4)),
        (9, {"nrows": 1, "ncols": 3}, (1, 3)),
    ],
)
def test_rows_and_columns_follow_from_the_number(
    n: int, given: dict[str, int], expected: tuple[int, int]
):
    assert grid_shape(n, **given) == expected


@pytest.mark.parametrize("given", [(0, None, None), (1, 0, None), (1, None, -1)])
def test_an_empty_grid_is_refused(given: tuple[int, int | None, int | None]):
    with pytest.raises(ConfigError, match="at least one image"):
        grid_shape(given[0], nrows=given[1], ncols=given[2])


def test_places_without_a_picture_stay_empty():
    places = image_grid(3, nrows=2, ncols=2)
    assert len(places) == 3
    assert len(plt.gcf().axes) == 4
    assert not any(axes.axison for axes in plt.gcf().axes)
    assert plt.gcf().get_size_inches().tolist() == [6.0, 6.0]


def test_more_lines_of_title_get_more_room():
    image_grid(1, title_lines=3, title="above")
    assert plt.gcf().get_size_inches()[1] > 3.2
    assert plt.gcf().get_suptitle() == "above"


def test_long_titles_are_no_wider_than_their_pictures():
    places = image_grid(4)
    set_fitting_titles(places, ["american_staffordshire_bull_terrier_of_some_kind"] * 4)
    figure = plt.gcf()
    figure.canvas.draw()
    for axes in places:
        assert axes.title.get_window_extent().width <= figure.bbox.width / 2


def test_short_titles_keep_their_size_and_get_colours():
    places = image_grid(2)
    set_fitting_titles(places, ["cat", "dog", "unused"], colours=["green", "red", "red"])
    usual = plt.figure().add_subplot().set_title("x").get_fontsize()
    assert [axes.title.get_fontsize() for axes in places] == [usual, usual]
    assert [axes.title.get_color() for axes in places] == ["green", "red"]
