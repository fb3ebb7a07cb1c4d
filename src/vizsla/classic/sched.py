"""Steps of a fit in; rates, losses and their plots, as ``learn.sched`` shows them, out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vizsla.train.callbacks.base import Callback
from vizsla.train.recorder import SmoothedLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

    from vizsla.train.callbacks.base import Fit

DIVERGED = 4.0
"""The finder stops at a loss so many times the best one."""

STEPS_WITHOUT_BEST = 11
"""The first losses are not trusted to be the best."""

START_OF_BEST = 1e9


class EndOfFit(Exception):  # noqa: N818 (no error: it ends a fit early and never reaches the user)
    """Raised inside of a fit to end it at once."""


class LossRecorder(Callback):
    """What happened in one fit.

    Attributes:
        lrs: Learning rate of the last group at each step.
        momentums: Momentum at each step, where the schedule sets it.
        iterations: 1, 2, ... for each step.
        val_losses: Validation loss of each epoch.
        rec_metrics: Metrics of each epoch.
        epochs: Steps done at the end of each epoch.
    """

    order = -20

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.momentums: list[float] = []
        self.iterations: list[int] = []
        self.val_losses: list[float] = []
        self.rec_metrics: list[list[float]] = []
        self.epochs: list[int] = []
        self._losses: list[float] = []
        self._smoothed = SmoothedLoss()
        self._unread: list[Tensor] = []

    @property
    def losses(self) -> list[float]:
        """Running mean of the training losses after each step."""
        self._losses += self._smoothed.add([float(loss) for loss in self._unread])
        self._unread.clear()
        return self._losses

    def after_step(self, fit: Fit) -> None:
        """Keep rate and loss; the loss stays on the device."""
        momentum = fit.schedule.momentum_at(fit.step - 1)
        self.lrs.append(fit.schedule.rates_at(fit.step - 1)[-1])
        self.momentums += [] if momentum is None else [momentum]
        self.iterations.append(fit.step)
        if fit.loss is not None:
            self._unread.append(fit.loss)

    def after_epoch(self, fit: Fit) -> None:
        """Keep what was measured."""
        _, loss, *metrics = fit.trainer.recorder.last.values[-1]
        self.val_losses.append(loss)
        self.rec_metrics.append(metrics)
        self.epochs.append(fit.step)

    def after_fit(self, fit: Fit) -> None:
        """Read the losses, so that nothing on the device is kept."""
        del fit
        _ = self.losses

    def plot_loss(self, n_skip: int = 10, n_skip_end: int = 5) -> None:
        """Draw the losses against the steps on the current axes.

        Args:
            n_skip: Steps left out at the start; all are drawn if no line would be left.
            n_skip_end: Steps left out at the end.
        """
        kept = _kept(len(self.losses), n_skip, n_skip_end)
        _current_axes().plot(self.iterations[kept], self.losses[kept])

    def plot_lr(self) -> None:
        """Draw the rate of the last group against the steps; beside it the momentum, where the schedule sets it."""
        import matplotlib.pyplot as plt

        if not self.momentums:
            _draw(_current_axes(), self.iterations, self.lrs, y="learning rate")
            return
        _, axes = plt.subplots(1, 2, figsize=(12, 4))
        _draw(axes[0], self.iterations, self.lrs, y="learning rate")
        _draw(axes[1], self.iterations, self.momentums, y="momentum")


class LRFinder(LossRecorder):
    """Records a fit of rising rates, and ends it when the loss runs away."""

    def __init__(self) -> None:
        super().__init__()
        self._best = START_OF_BEST
        self._finder_loss = SmoothedLoss()

    def after_step(self, fit: Fit) -> None:
        """Look at the loss, then keep it."""
        if fit.loss is not None:
            (smoothed,) = self._finder_loss.add([float(fit.loss)])
            if self.diverges(smoothed, step=fit.step - 1):
                raise EndOfFit
        super().after_step(fit)

    def diverges(self, smoothed: float, *, step: int) -> bool:
        """Return whether a loss ends the search, and remember the best one.

        Args:
            smoothed: Running mean of the losses.
            step: Number of the step, from 0.
        """
        if math.isnan(smoothed) or smoothed > DIVERGED * self._best:
            return True
        if smoothed < self._best and step >= STEPS_WITHOUT_BEST:
            self._best = smoothed
        return False

    def plot(self, n_skip: int = 10, n_skip_end: int = 5) -> None:
        """Draw the losses against the rates on the current axes.

        Args:
            n_skip: Steps left out at the start; all are drawn if no line would be left.
            n_skip_end: Steps left out at the end, and one more.
        """
        kept = _kept(len(self.losses), n_skip, n_skip_end + 1)
        axes = _current_axes()
        _draw(axes, self.lrs[kept], self.losses[kept], y="loss")
        axes.set_xlabel("learning rate (log scale)")
        axes.set_xscale("log")


def _kept(count: int, n_skip: int, n_skip_end: int) -> slice:
    """Return which points are drawn: all of a short search, of which no line would be left."""
    left = count - n_skip - n_skip_end
    return slice(n_skip, count - n_skip_end) if left > 1 else slice(None)


def _current_axes() -> Axes:
    import matplotlib.pyplot as plt

    return plt.gca()


def _draw(axes: Axes, x: Sequence[float], y_values: Sequence[float], *, y: str) -> None:
    axes.set_xlabel("iterations")
    axes.set_ylabel(y)
    axes.plot(x, y_values)
