"""Plots of results on matplotlib axes, and grids of images as figures of pyplot, which notebooks show at once."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.evaluate.interpret import confusion_matrix
from vizsla.types import LONGEST_CLASS_NAME

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
_SMALLEST = 8.0  # Points: smaller letters cannot be read at the usual 100 dots per inch.
_MOST_FOR_NAMES = 6.0  # Inches that the names of classes add to a figure.
_NAMES_SHARE = 0.4  # Of the side of a figure, at most for the names of classes.


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
    """Write titles above images, all in one size at which the longest is no wider than its place.

    Where letters would become smaller than can be read, lines are broken instead.
    """
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import FontProperties

    size = FontProperties(size=plt.rcParams["axes.titlesize"]).get_size_in_points()
    points = min((_points_of_column(axes) for axes in places), default=math.inf)
    size = max(_fitting_size(size, titles, points=points), min(size, _SMALLEST))
    most = max(1, int(min(points / size / _CHARACTER_WIDTH, LONGEST_CLASS_NAME)))
    for number, (axes, title) in enumerate(zip(places, titles, strict=False)):
        text = axes.set_title(_broken(title, most=most), size=size)
        if colours is not None:
            text.set_color(colours[number])


def confusion_size(vocab: Sequence[str]) -> float:
    """Return the side in inches of a figure with a confusion matrix whose class names fit."""
    import matplotlib.pyplot as plt

    longest = max(map(len, vocab), default=0)
    names = longest * _CHARACTER_WIDTH * plt.rcParams["font.size"] / _POINTS_PER_INCH
    return 3.0 + 0.35 * len(vocab) + min(max(0.5, names), _MOST_FOR_NAMES)


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
    import matplotlib.pyplot as plt

    cells = confusion_matrix(predictions)
    if normalise:
        cells = cells.double() / cells.sum(dim=1, keepdim=True).clamp(min=1)
    num_classes = len(predictions.vocab)
    axes.imshow(cells.numpy(), interpolation="nearest", cmap=colours)
    axes.set_title(title)
    figure = axes.get_figure(root=True)
    sides = (math.inf,) if figure is None else figure.get_size_inches()
    points = _NAMES_SHARE * min(sides) * _POINTS_PER_INCH
    size = _fitting_size(plt.rcParams["font.size"], predictions.vocab, points=points)
    axes.set_xticks(range(num_classes), predictions.vocab, rotation=90, size=size)
    axes.set_yticks(range(num_classes), predictions.vocab, size=size)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("Actual")
    if show_numbers:
        half = float(cells.max()) / 2
        for actual, row in enumerate(cells.tolist()):
            for predicted, value in enumerate(row):
                text = f"{value:.{decimals}f}" if normalise else str(value)
                colour = "white" if value > half else "black"
                axes.text(predicted, actual, text, ha="center", va="center", color=colour)


def _points_of_column(axes: Axes) -> float:
    """Return the width in points of the column of a grid that axes stand in."""
    grid, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    if grid is None or figure is None:
        return math.inf
    return 0.95 * figure.get_figwidth() / grid.get_gridspec().ncols * _POINTS_PER_INCH


def _fitting_size(size: float, texts: Sequence[str], *, points: float) -> float:
    """Return the size, at most ``size``, at which the longest line of texts is no wider than ``points``."""
    longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return min(size, points / max(1.0, _CHARACTER_WIDTH * longest))


def _broken(text: str, *, most: int) -> str:
    """Return a text in lines of at most ``most`` characters, broken behind spaces and signs where there are any."""
    lines: list[str] = []
    for line in text.splitlines():
        lines.append("")
        for word in re.findall(r"[^ _;/-]*[ _;/-]?", line):
            for part in (word[n : n + most] for n in range(0, len(word), most)):
                if len(lines[-1]) + len(part.rstrip()) > most:
                    lines.append("")
                lines[-1] += part
    return "\n".join(lines)
