"""Record training: losses, rates and results of every fit, and plots of them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.files import atomic_write
from vizsla.train.display import format_seconds
from vizsla.train.metrics import unique_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from torch import Tensor


_FEWEST_STEPS_LEFT = 2
"""If skipping the start would leave fewer steps, nothing is skipped: a curve of one point shows nothing."""

_WIDTH, _HEIGHT = 6.4, 4.0
"""Inches of one plot."""

_SHRUNK = 0.75
"""Scale of several plots side by side, so that three fit on a page."""

SMOOTHING = 0.98
"""Weight of the past in the smoothed loss; about the last 50 steps count."""


class SmoothedLoss:
    """Exponentially weighted mean of the losses of a fit, corrected for its start at zero; ``beta`` weighs the past."""

    def __init__(self, *, beta: float = SMOOTHING) -> None:
        self._beta = beta
        self._sum = 0.0
        self._steps = 0

    def add(self, losses: Sequence[float]) -> list[float]:
        """Add the losses of further steps and return the mean after each of them."""
        means: list[float] = []
        for loss in losses:
            self._sum = self._beta * self._sum + (1 - self._beta) * loss
            self._steps += 1
            means.append(self.value)
        return means

    def state(self) -> list[float]:
        """Return what ``load_state`` needs to go on."""
        return [self._sum, self._steps]

    def load_state(self, state: Sequence[float]) -> None:
        """Go on from an earlier state."""
        self._sum, self._steps = float(state[0]), int(state[1])

    @property
    def value(self) -> float:
        """The smoothed loss; nan before the first step."""
        return self._sum / (1 - self._beta**self._steps) if self._steps else math.nan


@dataclass(kw_only=True, slots=True)
class FitRecord:
    """The record of one fit.

    Attributes:
        stage: Name of the fit.
        losses: Training loss of every step.
        smoothed: Running mean of the losses after every step.
        lrs: Learning rate of the last parameter group at every step.
        moms: Momentum at every step, where the schedule sets it.
        iters: Steps done at the end of every epoch.
        values: Per epoch the printed numbers: training loss, validation loss, then the metrics.
    """

    stage: str
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    moms: list[float] = field(default_factory=list)
    iters: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Recorder:
    """The record of all fits of a learner.

    Attributes:
        metrics: The metrics in ``values``.
        fits: One record for each fit; ``fine_tune`` makes two.
        history: One point per epoch, over all fits.
        logs: Files that loggers of these fits have begun, which later ones go on with.
        draw_finder: Draws what the last search for a learning rate saw, for ``plot_lr_find``.
    """

    metrics: tuple[Callable[..., Tensor | float], ...] = ()
    fits: list[FitRecord] = field(default_factory=list)
    history: list[HistoryPoint] = field(default_factory=list)
    logs: set[Path] = field(default_factory=set)
    draw_finder: Callable[..., Axes] | None = None

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the numbers of an epoch: ``train_loss``, ``valid_loss``, then the metrics."""
        return ("train_loss", "valid_loss", *unique_names(self.metrics))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Heads of the printed table: ``epoch``, the ``value_names``, ``time``."""
        return ("epoch", *self.value_names, "time")

    @property
    def log(self) -> list[Any]:
        """The last row of the printed table, in the order of ``metric_names``; empty before the first epoch."""
        if not self.history:
            return []
        last = self.last
        seconds = format_seconds(self.history[-1].seconds)
        return [len(last.values) - 1, *last.values[-1], seconds] if last.values else []

    @property
    def last(self) -> FitRecord:
        """The record of the last fit.

        Raises:
            ConfigError: Nothing was trained so far.
        """
        if not self.fits:
            raise ConfigError("There is nothing to show before training. Fit first.")
        return self.fits[-1]

    def joined(self, fits: int | None) -> FitRecord:
        """Return the last fits as one record, all of them for None.

        Raises:
            ConfigError: Nothing was trained so far, or ``fits`` is not positive.
        """
        if fits is not None and fits < 1:
            raise ConfigError(
                f"fits must be the number of fits to draw, or None for all. Received: fits={fits!r}"
            )
        joined, chosen = FitRecord(stage=self.last.stage), self.fits[-(fits or 0) :]
        has_momentum = any(fit.moms for fit in chosen)
        for fit in chosen:
            joined.iters += [len(joined.losses) + step for step in fit.iters]
            for name in ("losses", "smoothed", "lrs", "values"):
                getattr(joined, name).extend(getattr(fit, name))
            if has_momentum:
                joined.moms += fit.moms or [math.nan] * len(fit.losses)
        return joined

    @property
    def losses(self) -> list[float]:
        """Training loss of every step of all fits."""
        return list(chain.from_iterable(fit.losses for fit in self.fits))

    @property
    def lrs(self) -> list[float]:
        """Learning rate of the last parameter group at every step of all fits."""
        return list(chain.from_iterable(fit.lrs for fit in self.fits))

    @property
    def moms(self) -> list[float]:
        """Momentum at every step of all fits whose schedule sets it."""
        return list(chain.from_iterable(fit.moms for fit in self.fits))

    @property
    def values(self) -> list[list[float]]:
        """Training loss, validation loss and metrics of every epoch of all fits."""
        return list(chain.from_iterable(fit.values for fit in self.fits))

    def plot_loss(
        self,
        skip_start: int = 5,
        with_valid: bool = True,
        log: bool = False,
        show_epochs: bool = False,
        ax: Axes | None = None,
        *,
        fits: int | None = 1,
    ) -> Axes:
        """Draw the losses of the last fit, or of the last few, over its steps.

        Args:
            skip_start: Leave out this many steps at the start, where the loss falls from far above; in a fit that has hardly
                more, none.
            with_valid: Draw the validation loss at the end of each epoch too.
            log: Draw the losses on a logarithmic scale.
            show_epochs: Mark the end of each epoch.
            ax: Where to draw; None is a new figure.
            fits: How many of the last fits to draw, one after the other; None draws all. ``fine_tune`` makes two.

        Returns:
            The axes.
        """
        record = self.joined(fits)
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

    def plot_lr_find(self, skip_end: int = 5) -> Axes:
        """Draw again what the last ``lr_find`` saw, and what it suggested.

        Args:
            skip_end: Points at the end that are left out.

        Raises:
            ConfigError: There was no search yet.
        """
        if self.draw_finder is None:
            raise ConfigError(
                "There are no learning rate finder results yet. Call learn.lr_find() first."
            )
        return self.draw_finder(skip_end=skip_end)

    def plot_sched(
        self,
        keys: str | Sequence[str] | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        fits: int | None = 1,
    ) -> None:
        """Draw the learning rate of the last group, and the momentum where it is scheduled, at every step.

        Args:
            keys: ``"lr"``, ``"mom"``, or both; None is both.
            figsize: (width, height) of the figure in inches.
            fits: See ``plot_loss``.
        """
        record = self.joined(fits)
        curves = (("lr", "learning rate", record.lrs), ("mom", "momentum", record.moms))
        wanted = ("lr", "mom") if keys is None else (keys,) if isinstance(keys, str) else keys
        drawn = [curve for curve in curves if curve[2] and curve[0] in wanted]
        places = _new_axes(max(1, len(drawn)), figsize=figsize)
        for axes, (name, label, values) in zip(places, drawn, strict=False):
            axes.plot(range(len(values)), values)
            axes.set_xlabel("steps")
            axes.set_ylabel(label)
            axes.set_title(name)

    def plot_metrics(self, *, fits: int | None = 1) -> None:
        """Draw losses and metrics over the epochs: the losses together, each metric on its own.

        Args:
            fits: See ``plot_loss``.
        """
        rows = self.joined(fits).values
        epochs = range(len(rows))
        names = self.value_names[2:]
        places = _new_axes(1 + len(names))
        for column, name in enumerate(("train", "valid")):
            places[0].plot(epochs, [row[column] for row in rows], "o-", markersize=3, label=name)
        places[0].set_title("losses")
        places[0].legend()
        for column, (axes, name) in enumerate(zip(places[1:], names, strict=True), 2):
            axes.plot(epochs, [row[column] for row in rows], "o-", markersize=3, color="#2ca02c")
            axes.set_title(name)
        for axes in places:
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)


def save_history(path: Path, history: Sequence[HistoryPoint]) -> Path:
    """Write one row per epoch as CSV, numbers in full precision; a value that a stage does not have is empty.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    names = [column.name for column in fields(HistoryPoint)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(point, name) for name in names] for point in history)
    return path


def _new_axes(number: int, *, figsize: tuple[float, float] | None = None) -> list[Axes]:
    """Return axes side by side in a new figure of pyplot."""
    import matplotlib.pyplot as plt

    share = 1 if number == 1 else _SHRUNK
    size = figsize or (_WIDTH * share * number, _HEIGHT * share)
    _, places = plt.subplots(1, number, figsize=size, squeeze=False, layout="constrained")
    return list(places.flat)
