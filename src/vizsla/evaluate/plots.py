"""Predictions or a training history in, a matplotlib Figure out; no global state is touched and nothing is shown.

The figures do not belong to pyplot: show one by returning it from a notebook cell, or keep it with ``figure.savefig``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from vizsla.evaluate.interpret import confusion_matrix, confusion_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vizsla.evaluate.predictions import HistoryPoint, Predictions


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
        predictions: Any number of pictures.
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
    """Draw the confusion matrix on axes, rows actual and columns predicted; the arguments are those of ``plot_confusion``.

    Args:
        axes: Where to draw.
        predictions: See ``plot_confusion``.
        normalise: See ``plot_confusion``.
        title: See ``plot_confusion``.
        colours: See ``plot_confusion``.
        decimals: See ``plot_confusion``.
        show_numbers: See ``plot_confusion``.
    """
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
    """Draw losses and accuracy over the epochs of a run, all stages one after another.

    Args:
        history: One point per epoch; figures that a point does not have leave a gap.
    """
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
