"""Plots of results as matplotlib figures, and grids of images.

The figures do not belong to pyplot: show one by returning it from a notebook cell, or keep it with ``figure.savefig``.
``image_grid`` is the exception: notebooks show it at once, so it belongs to pyplot.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.evaluate.interpret import confusion_matrix, confusion_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vizsla.evaluate.predictions import HistoryPoint, Predictions

_INCHES = 3.0
"""Side of the place of one image."""

_POINTS_PER_INCH = 72

_CHARACTER_WIDTH = 0.6
"""Of a letter, in font sizes; the mean over class names in matplotlib's own font is a little less."""

_LINE_HEIGHT = 1.25


def grid_shape(n: int, *, nrows: int | None = None, ncols: int | None = None) -> tuple[int, int]:
    """Return (rows, columns) of a grid for ``n`` images; what is not given follows from the rest.

    Args:
        n: Images.
        nrows: Rows; None is the root of ``n``, rounded down.
        ncols: Columns.

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
    """Return the axes for ``n`` images in a new figure of pyplot, all without scales.

    Args:
        n: Images.
        nrows: Rows; None follows from the rest.
        ncols: Columns; None follows from the rest.
        figsize: (width, height) in inches; None is 3 x 3 for each image.
        title: Above the figure.
        title_lines: Lines of text above each image, for which room is made.

    Returns:
        As many axes as there are images and places.

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
    """Write titles above images, all in one size in which the longest is no wider than its place.

    Args:
        places: Axes, as ``image_grid`` gives them.
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


def plot_confusion(
    predictions: Predictions,
    *,
    normalise: bool = False,
    title: str = "Confusion matrix",
    colours: str = "Blues",
    decimals: int = 2,
    show_numbers: bool = True,
    figure_size: tuple[float, float] | None = None,
    dots_per_inch: float = 100.0,
) -> Figure:
    """Draw the confusion matrix, rows actual and columns predicted.

    Args:
        predictions: Any number of images.
        normalise: Divide each row by its sum; the row of an absent class stays 0.
        title: Heading of the figure.
        colours: Name of a matplotlib colour map.
        decimals: Digits after the point when normalised.
        show_numbers: Write the number into each cell.
        figure_size: (width, height) in inches; None grows with the number of classes.
        dots_per_inch: Resolution.
    """
    from matplotlib.figure import Figure

    side = 3.5 + 0.35 * len(predictions.vocab)
    figure = Figure(figsize=figure_size or (side, side), dpi=dots_per_inch, layout="constrained")
    draw_confusion(
        figure.add_subplot(),
        predictions,
        normalise=normalise,
        title=title,
        colours=colours,
        decimals=decimals,
        show_numbers=show_numbers,
    )
    return figure


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
    """Draw the confusion matrix on axes, rows actual and columns predicted; the arguments are those of ``plot_confusion``."""
    cells = confusion_shares(predictions) if normalise else confusion_matrix(predictions)
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


def plot_history(history: Sequence[HistoryPoint]) -> Figure:
    """Draw losses and accuracy over the epochs of a run, all stages one after another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    lines = (
        (loss_axes, "train", [point.train_loss for point in history]),
        (loss_axes, "valid", [point.valid_loss for point in history]),
        (accuracy_axes, "accuracy", [point.accuracy for point in history]),
    )
    for axes, name, values in lines:
        numbers = [math.nan if value is None else value for value in values]
        axes.plot(epochs, numbers, marker="o", markersize=3, label=name)
    for axes, title in ((loss_axes, "loss"), (accuracy_axes, "validation accuracy")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        for place, (before, after) in enumerate(pairwise(history), start=1):
            if before.stage != after.stage:
                axes.axvline(place + 0.5, linestyle=":", linewidth=1, color="grey")
    loss_axes.legend()
    return figure
