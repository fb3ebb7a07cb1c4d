"""A number of pictures in, a pyplot figure with a place for each out; titles are made to fit above them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_INCHES = 3.0
"""Side of the place of one picture."""

_POINTS_PER_INCH = 72

_CHARACTER_WIDTH = 0.6
"""Of a letter, in font sizes; the mean over class names in matplotlib's own font is a little less."""

_LINE_HEIGHT = 1.25


def grid_shape(n: int, *, nrows: int | None = None, ncols: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) of a grid for ``n`` pictures; what is not given follows from the rest.

    Args:
        n: Pictures.
        nrows: Rows; None is the root of ``n``, rounded down.
        ncols: Columns.

    Raises:
        ConfigError: There is nothing to show, or a number is not positive.
    """
    if n < 1 or (nrows is not None and nrows < 1) or (ncols is not None and ncols < 1):
        raise ConfigError(
            "A grid shows at least one picture in at least one row and column. "
            f"Received: {n} pictures, nrows={nrows}, ncols={ncols}"
        )
    if nrows is None:
        nrows = math.ceil(n / ncols) if ncols is not None else math.isqrt(n)
    return nrows, math.ceil(n / nrows) if ncols is None else ncols


def picture_grid(
    n: int,
    *,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    title_lines: int = 1,
) -> list[Axes]:
    """Return the axes for ``n`` pictures in a new figure of pyplot, all without scales.

    Args:
        n: Pictures.
        nrows: Rows; None follows from the rest.
        ncols: Columns; None follows from the rest.
        figsize: (width, height) in inches; None is 3 x 3 for each picture.
        title: Above the figure.
        title_lines: Lines of text above each picture, for which room is made.

    Returns:
        As many axes as there are pictures and places.

    Raises:
        ConfigError: There is nothing to show, or a number is not positive.
    """
    import matplotlib.pyplot as plt

    rows, columns = grid_shape(n, nrows=nrows, ncols=ncols)
    extra = (title_lines - 1) * _LINE_HEIGHT * plt.rcParams["font.size"] / _POINTS_PER_INCH
    size = figsize or (_INCHES * columns, (_INCHES + extra) * rows)
    figure, places = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    if title is not None:
        figure.suptitle(title, weight="bold")
    for axes in places.flat:
        axes.axis("off")
    return list(places.flat)[:n]


def set_fitting_titles(
    places: Sequence[Axes], titles: Sequence[str], *, colours: Sequence[str] | None = None
) -> None:
    """Write titles above pictures, all in one size in which the longest is no wider than its place.

    Args:
        places: Axes, as ``picture_grid`` gives them.
        titles: One for each; of more, the last ones are left out.
        colours: Of each title; None for the usual one.
    """
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import FontProperties

    longest = max((len(line) for title in titles for line in title.splitlines()), default=0)
    size = FontProperties(size=plt.rcParams["axes.titlesize"]).get_size_in_points()
    for number, (axes, title) in enumerate(zip(places, titles, strict=False)):
        grid, figure = axes.get_subplotspec(), axes.get_figure(root=True)
        if grid is not None and figure is not None:
            width = 0.95 * figure.get_figwidth() / grid.get_gridspec().ncols * _POINTS_PER_INCH
            size = min(size, width / max(1.0, _CHARACTER_WIDTH * longest))
        text = axes.set_title(title, size=size)
        if colours is not None:
            text.set_color(colours[number])
