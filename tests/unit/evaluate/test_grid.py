"""Grids of pictures: rows and columns as fastai lays them out, titles no wider than their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pytest

from vizsla.errors import ConfigError
from vizsla.evaluate.plots import grid_shape, picture_grid, set_fitting_titles

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    with pytest.raises(ConfigError, match="at least one picture"):
        grid_shape(given[0], nrows=given[1], ncols=given[2])


def test_places_without_a_picture_stay_empty():
    places = picture_grid(3, nrows=2, ncols=2)
    assert len(places) == 3
    assert len(plt.gcf().axes) == 4
    assert not any(axes.axison for axes in plt.gcf().axes)
    assert plt.gcf().get_size_inches().tolist() == [6.0, 6.0]


def test_more_lines_of_title_get_more_room():
    picture_grid(1, title_lines=3, title="above")
    assert plt.gcf().get_size_inches()[1] > 3.2
    assert plt.gcf().get_suptitle() == "above"


def test_long_titles_are_no_wider_than_their_pictures():
    places = picture_grid(4)
    set_fitting_titles(places, ["american_staffordshire_bull_terrier_of_some_kind"] * 4)
    figure = plt.gcf()
    figure.canvas.draw()
    for axes in places:
        assert axes.title.get_window_extent().width <= figure.bbox.width / 2


def test_short_titles_keep_their_size_and_get_colours():
    places = picture_grid(2)
    set_fitting_titles(places, ["cat", "dog", "unused"], colours=["green", "red", "red"])
    usual = plt.figure().add_subplot().set_title("x").get_fontsize()
    assert [axes.title.get_fontsize() for axes in places] == [usual, usual]
    assert [axes.title.get_color() for axes in places] == ["green", "red"]
