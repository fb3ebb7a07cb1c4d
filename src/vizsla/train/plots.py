"""What a recorder kept in, pyplot figures of it out: the learning curve, the schedule, the metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vizsla.train.recorder import Recorder

_FEWEST_STEPS_LEFT = 2
"""Fewer than this after what is skipped at the start, and nothing is skipped: a curve of one point shows nothing."""

_WIDTH, _HEIGHT = 6.4, 4.0
"""Inches of one plot."""

_SHRUNK = 0.75
"""Of several side by side, so that three fit into a page."""


def plot_loss(
    recorder: Recorder,
    skip_start: int = 5,
    with_valid: bool = True,
    log: bool = False,
    show_epochs: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the losses of the last fit over its steps.

    Args:
        recorder: Of a learner that was trained.
        skip_start: So many steps are left out at the start, where the loss falls from far above. With hardly more steps
            than that, none are.
        with_valid: Draw the validation loss at the end of each epoch too.
        log: Draw the losses on a logarithmic scale.
        show_epochs: Mark the end of each epoch.
        ax: Where to draw; None is a new figure.

    Returns:
        The axes.

    Raises:
        ConfigError: Nothing was trained so far.
    """
    record = recorder.last
    if ax is None:
        ax = _new_axes(1)[0]
    first = skip_start if len(record.smoothed) >= skip_start + _FEWEST_STEPS_LEFT else 0
    ax.plot(range(first, len(record.smoothed)), record.smoothed[first:], label="train")
    if with_valid:
        ends = [
            (step, values[1])
            for step, values in zip(record.iters, record.values, strict=False)
            if step >= first and not math.isnan(values[1])
        ]
        ax.plot([step for step, _ in ends], [loss for _, loss in ends], "o-", markersize=3, label="valid")  # fmt: skip
        ax.legend()
    if show_epochs:
        for step in record.iters:
            ax.axvline(step, color="grey", linestyle=":", linewidth=1)
    if log:
        ax.set_yscale("log")
    ax.set_title("learning curve")
    ax.set_xlabel("steps")
    ax.set_ylabel("loss")
    return ax


def plot_sched(recorder: Recorder) -> None:
    """Draw the learning rate of the last group, and the momentum where it is scheduled, at every step of the last fit.

    Args:
        recorder: Of a learner that was trained.

    Raises:
        ConfigError: Nothing was trained so far.
    """
    record = recorder.last
    drawn = [
        (name, values) for name, values in (("lr", record.lrs), ("mom", record.moms)) if values
    ]
    for axes, (name, values) in zip(_new_axes(max(1, len(drawn))), drawn, strict=False):
        axes.plot(range(len(values)), values)
        axes.set_xlabel("steps")
        axes.set_ylabel({"lr": "learning rate", "mom": "momentum"}[name])
        axes.set_title(name)


def plot_metrics(recorder: Recorder) -> None:
    """Draw losses and metrics of the last fit over its epochs: the losses together, each metric on its own.

    Args:
        recorder: Of a learner that was trained.

    Raises:
        ConfigError: Nothing was trained so far.
    """
    rows = recorder.last.values
    epochs = range(len(rows))
    places = _new_axes(1 + len(recorder.metric_names))
    for column, name in enumerate(("train", "valid")):
        places[0].plot(epochs, [row[column] for row in rows], "o-", markersize=3, label=name)
    places[0].set_title("losses")
    places[0].legend()
    for number, name in enumerate(recorder.metric_names):
        axes = places[1 + number]
        axes.plot(epochs, [row[2 + number] for row in rows], "o-", markersize=3, color="#2ca02c")
        axes.set_title(name)
    for axes in places:
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)


def _new_axes(number: int) -> list[Axes]:
    """Return so many axes side by side in a new figure of pyplot."""
    import matplotlib.pyplot as plt

    share = 1 if number == 1 else _SHRUNK
    size = _WIDTH * share * number, _HEIGHT * share
    _, places = plt.subplots(1, number, figsize=size, squeeze=False, layout="constrained")
    return list(places.flat)
