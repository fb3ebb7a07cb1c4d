"""Plots of results on matplotlib axes, and grids of images as figures of pyplot, which notebooks show at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.evaluate.interpret import confusion_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vizsla.evaluate.predictions import Predictions

_INCHES = 3.0  # Side of the place of one image.
_POINTS_PER_INCH = 72
_CHARACTER_WIDTH = (
    0.6  # In font sizes; the mean over class names in matplotlib's own font is a little less.
)
_LINE_HEIGHT = 1.25


def grid_shape(n: int, *, nrows: int | None = None, ncols: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) of a grid for ``n`` images; None follows from the rest, or is the root of ``n``.

    Raises:
        ConfigError: There is nothing to show, or a number is not positive.
    """
    if n < 1 or (nrows is not None and nrows < 1) or (ncols is not None and ncols < 1):
        raise ConfigError(
            "A grid shows at least one image in at least one row and column. "
            f"Received: {n} images, nrows={nrows}, ncols={ncols}"
        )
    if nrows is None:
        nrows = math.ceil(n / ncols) if ncols is not None else math.isqrt(n)
    return nrows, math.ceil(n / nrows) if ncols is None else ncols


def image_grid(
    n: int,
    *,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    title_lines: int = 1,
) -> list[Axes]:
    """Return the axes for ``n`` images in a new figure of pyplot, none with scales.

    ``nrows`` and ``ncols`` as in ``grid_shape``; without ``figsize`` each image has 3 x 3 inches and room for
    ``title_lines`` lines of text above it.
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
    """Write titles above images, all in one size at which the longest is no wider than its place."""
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


def draw_confusion(
    axes: Axes,
    predictions: Predictions,
    *,
    normalise: bool = False,
    title: str = "Confusion matrix",
    colours: str = "Blues",
    decimals: int = 2,
    show_numbers: bool = True,
) -> None:
    """Draw the confusion matrix, rows actual and columns predicted.

    ``normalise`` divides each row by its sum, where the row of an absent class stays 0, and shows ``decimals`` digits.
    """
    cells = confusion_matrix(predictions)
    if normalise:
        cells = cells.double() / cells.sum(dim=1, keepdim=True).clamp(min=1)
    num_classes = len(predictions.vocab)
    axes.imshow(cells.numpy(), interpolation="nearest", cmap=colours)
    axes.set_title(title)
    axes.set_xticks(range(num_classes), predictions.vocab, rotation=90)
    axes.set_yticks(range(num_classes), predictions.vocab)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("Actual")
    if show_numbers:
        half = float(cells.max()) / 2
        for actual, row in enumerate(cells.tolist()):
            for predicted, value in enumerate(row):
                text = f"{value:.{decimals}f}" if normalise else str(value)
                colour = "white" if value > half else "black"
                axes.text(predicted, actual, text, ha="center", va="center", color=colour)
