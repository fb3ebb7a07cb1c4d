"""Losses, rates and epoch results in, the whole history of a learner out; later fits add to it, nothing is forgotten."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

SMOOTHING = 0.98
"""Share of the past in the smoothed loss; about the last 50 steps count."""


class SmoothedLoss:
    """Exponentially weighted mean of the losses of a fit, corrected for its start at zero.

    Args:
        beta: Share of the past.
    """

    def __init__(self, *, beta: float = SMOOTHING) -> None:
        self._beta = beta
        self._sum = 0.0
        self._steps = 0

    def add(self, losses: Sequence[float]) -> list[float]:
        """Take in the losses of further steps and return the mean after each of them."""
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
    """What happened in one fit.

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
    """What happened to a learner so far.

    Attributes:
        metric_names: Names of the metrics in ``values``.
        fits: One record for each fit; ``fine_tune`` makes two.
        history: One point per epoch, over all fits.
    """

    metric_names: tuple[str, ...] = ()
    fits: list[FitRecord] = field(default_factory=list)
    history: list[HistoryPoint] = field(default_factory=list)

    @property
    def last(self) -> FitRecord:
        """The record of the last fit.

        Raises:
            ConfigError: There was none.
        """
        if not self.fits:
            raise ConfigError("Nothing was trained so far, so there is nothing to show. Fit first.")
        return self.fits[-1]

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
    ) -> Axes:
        """Draw training and validation loss of the last fit.

        Args:
            skip_start: Steps to leave out at the start, where losses are large; none if there are hardly more.
            with_valid: Draw the validation loss too.
            log: Logarithmic losses.
            show_epochs: Mark the ends of epochs.
            ax: Where to draw; None is a new figure.

        Raises:
            ConfigError: Nothing was trained so far.
        """
        from vizsla.train.plots import plot_loss

        return plot_loss(
            self,
            skip_start=skip_start,
            with_valid=with_valid,
            log=log,
            show_epochs=show_epochs,
            ax=ax,
        )

    def plot_sched(self) -> None:
        """Draw learning rate and momentum of the last fit, step by step.

        Raises:
            ConfigError: Nothing was trained so far.
        """
        from vizsla.train.plots import plot_sched

        plot_sched(self)

    def plot_metrics(self) -> None:
        """Draw losses and metrics of the last fit, epoch by epoch.

        Raises:
            ConfigError: Nothing was trained so far.
        """
        from vizsla.train.plots import plot_metrics

        plot_metrics(self)


def save_history(path: Path, history: Sequence[HistoryPoint]) -> Path:
    """Write one row per epoch as CSV, numbers in full precision; a figure that a stage does not have is empty.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    names = [column.name for column in fields(HistoryPoint)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(point, name) for name in names] for point in history)
    return path
