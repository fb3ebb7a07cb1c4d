"""Cycles, rates and batches of a fit in; how many epochs it has, its schedule, and where its cycles end, out.

Steps of a fit in; rates, losses and their plots, as ``learn.sched`` shows them, out.

Events of the engine's fits in; lesson one's table, saved cycles and callbacks out.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import nn

from vizsla.errors import ConfigError
from vizsla.train.callbacks import base as callback
from vizsla.train.recorder import SmoothedLoss
from vizsla.train.schedules import (
    classic_epochs,
    constant,
    rates_per_group,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.schedules import Rates, Schedule


class Lengths(NamedTuple):
    """How long the cycles are.

    Attributes:
        n_cycle: Their number.
        cycle_len: Epochs of the first; None counts as 1 and keeps the rate constant.
        cycle_mult: Every cycle is so many times longer than the one before.
    """

    n_cycle: int
    cycle_len: int | None
    cycle_mult: float


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """A fit that is to be.

    Attributes:
        lengths: Of the cycles.
        batches: Steps of an epoch.
        use_clr: (div, cut_div) and perhaps two momenta.
        use_clr_beta: (div, pct) and perhaps two momenta.
    """

    lengths: Lengths
    batches: int
    use_clr: Sequence[float] | None = None
    use_clr_beta: Sequence[float] | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the whole fit.

        Raises:
            ConfigError: A number cannot work.
        """
        n_cycle, cycle_len, cycle_mult = self.lengths
        return classic_epochs(n_cycle, cycle_len=cycle_len, cycle_mult=cycle_mult)

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """Steps done at the end of each cycle."""
        n_cycle, cycle_len, cycle_mult = self.lengths
        if self.use_clr is not None or self.use_clr_beta is not None:
            cycle_mult = 1
        lengths = (self.batches * (cycle_len or 1) * cycle_mult**cycle for cycle in range(n_cycle))
        return tuple(round(end) for end in accumulate(lengths))

    def schedule(self, rates: tuple[float, ...]) -> Schedule:
        """Return the rates of every step.

        Args:
            rates: One per group.

        Raises:
            ConfigError: Triangles are asked for without ``cycle_len``, or cannot be made.
        """
        num_steps = self.epochs * self.batches
        triangles = self.use_clr or self.use_clr_beta
        if self.lengths.cycle_len is None:
            if triangles:
                raise ConfigError("use_clr and use_clr_beta need cycle_len, the epochs of a cycle.")
            return constant(num_steps, rates=rates)
        cycle_steps = self.batches * self.lengths.cycle_len
        if triangles:
            momenta = (triangles[2], triangles[3]) if len(triangles) == 4 else None
            if self.use_clr_beta:
                return triangular_beta(
                    num_steps,
                    rates=rates,
                    cycle_steps=cycle_steps,
                    div=triangles[0],
                    pct=triangles[1],
                    momenta=momenta,
                )
            return triangular(
                num_steps,
                rates=rates,
                cycle_steps=cycle_steps,
                div=triangles[0],
                cut_div=triangles[1],
                momenta=momenta,
            )
        return warm_restarts_classic(
            num_steps, rates=rates, cycle_steps=cycle_steps, cycle_mult=self.lengths.cycle_mult
        )


def rates_of(lrs: Rates, *, num_groups: int, head_only: bool) -> tuple[float, ...]:
    """Return one rate per group.

    Args:
        lrs: One rate, or one per group; a list or array of one counts as one.
        num_groups: Number of groups.
        head_only: Whether the head is the only group, because features are precomputed: of three rates the last is taken.

    Raises:
        ConfigError: There is not one rate per group.
    """
    if isinstance(lrs, list | tuple | np.ndarray):
        numbers = [float(rate) for rate in np.asarray(lrs, dtype=np.float64).reshape(-1)]
        if len(numbers) == 1:
            return rates_per_group(numbers[0], num_groups=num_groups)
        if head_only and len(numbers) == 3:
            warnings.warn(
                f"Only the head trains while precompute is True: of the three rates {numbers} the last was taken.",
                stacklevel=4,
            )
            return rates_per_group(numbers[-1], num_groups=1)
        return rates_per_group(numbers, num_groups=num_groups)
    return rates_per_group(lrs, num_groups=num_groups)


def decays_of(wds: float | Sequence[float] | None, *, num_groups: int) -> tuple[float, ...]:
    """Return one weight decay per group.

    Args:
        wds: One, or one per group; None is none.
        num_groups: Number of groups.

    Raises:
        ConfigError: There is not one per group.
    """
    numbers = [float(each) for each in np.asarray(0.0 if wds is None else wds).reshape(-1)]
    if len(numbers) not in (1, num_groups):
        raise ConfigError(
            f"{len(numbers)} weight decays were given and there are {num_groups} parameter groups. "
            "Give one, or one per group."
        )
    return tuple(numbers * num_groups if len(numbers) == 1 else numbers)


DIVERGED = 4.0
"""The finder stops at a loss so many times the best one."""

STEPS_WITHOUT_BEST = 11
"""The first losses are not trusted to be the best."""

START_OF_BEST = 1e9


class EndOfFit(Exception):  # noqa: N818 (no error: it ends a fit early and never reaches the user)
    """Raised inside of a fit to end it at once."""


class LossRecorder(callback.Callback):
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


WIDTH = 10
"""Of a column of the table."""

DECIMALS = 6


class Callback:
    """Something of the user's that is told of a fit; override what matters.

    A true value from ``on_batch_end`` ends the fit at once, one from ``on_epoch_end`` after the epoch.
    """

    def on_train_begin(self) -> None:
        """The fit begins."""

    def on_batch_begin(self) -> None:
        """A batch is about to go through the network."""

    def on_phase_begin(self) -> None:
        """The fit begins, after ``on_train_begin``."""

    def on_epoch_end(self, metrics: list[float]) -> bool | None:
        """An epoch was measured.

        Args:
            metrics: Validation loss and metrics.
        """

    def on_phase_end(self) -> None:
        """The fit is over, before ``on_train_end``."""

    def on_batch_end(self, metrics: float) -> bool | None:
        """A step was taken.

        Args:
            metrics: Running mean of the training loss.
        """

    def on_train_end(self) -> None:
        """The fit is over."""


class ClassicTrainer(Trainer):
    """The engine's trainer; norms keep their statistics where they do not train, or where ``norms_frozen`` says so."""

    norms_frozen = False

    def training_mode(self) -> None:
        """Put the model in training mode, except norms that are not to learn statistics."""
        super().training_mode()
        if self.norms_frozen:
            for part in self.model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    part.eval()


class TablePrinter(callback.Callback):
    """Prints a header after the first epoch and a row after each.

    Attributes:
        values: By epoch: training loss, validation loss and metrics, rounded as printed.
    """

    order = -10

    def __init__(self) -> None:
        self.values: OrderedDict[int, list[float]] = OrderedDict()

    def after_epoch(self, fit: Fit) -> None:
        """Print the row of the epoch."""
        record = fit.trainer.recorder
        if not self.values:
            columns = ["epoch", "trn_loss", "val_loss", *record.metric_names]
            sys.stdout.write(header_line(columns) + "\n")
        values = record.last.values[-1]
        self.values[fit.epoch] = [round(value, DECIMALS) for value in values]
        sys.stdout.write(row_line(fit.epoch, values) + "\n")


def header_line(columns: Sequence[str]) -> str:
    """Return the names of the columns as the table has them."""
    return "".join(f"{name:<{WIDTH}} " for name in columns)


def row_line(epoch: int, values: Sequence[float]) -> str:
    """Return a row: zeros at the end of a number are dropped."""
    cells = (f" {round(float(value), DECIMALS)!s:<{WIDTH}}" for value in values)
    return f"{epoch:^{WIDTH}}{''.join(cells)}"


class CallbackBridge(callback.Callback):
    """Tells callbacks of the user's.

    Args:
        callbacks: In the order in which they are told.
        sched: Knows the running mean of the loss.
    """

    order = 20

    def __init__(self, callbacks: Sequence[Callback], *, sched: LossRecorder) -> None:
        self._callbacks = list(callbacks)
        self._sched = sched
        self._ended_in_batch = False

    def before_fit(self, fit: Fit) -> None:
        """Tell of the beginning."""
        del fit
        for each in self._callbacks:
            each.on_train_begin()
        for each in self._callbacks:
            each.on_phase_begin()

    def before_step(self, fit: Fit, batch: callback.Batch) -> callback.Batch:
        """Tell of a batch."""
        del fit
        for each in self._callbacks:
            each.on_batch_begin()
        return batch

    def after_step(self, fit: Fit) -> None:
        """Tell of a step; end the fit if one says so."""
        del fit
        loss = self._sched.losses[-1] if self._callbacks else 0.0
        if any(each.on_batch_end(loss) for each in self._callbacks):
            self._ended_in_batch = True
            raise EndOfFit

    def after_epoch(self, fit: Fit) -> None:
        """Tell of an epoch; end the fit if one says so."""
        values = returned(fit.trainer.recorder.last.values[-1])
        if any(each.on_epoch_end(values) for each in self._callbacks):
            raise EndOfFit

    def after_fit(self, fit: Fit) -> None:
        """Tell of the end, unless a step was the end."""
        if self._ended_in_batch or not (fit.error is None or isinstance(fit.error, EndOfFit)):
            return
        for each in self._callbacks:
            each.on_phase_end()
        for each in self._callbacks:
            each.on_train_end()


class CycleSaver(callback.Callback):
    """Saves after the last step of each cycle.

    Args:
        save: Called with the number of the cycle.
        ends: Steps done at the end of each cycle.
    """

    def __init__(self, save: Callable[[int], None], *, ends: Sequence[int]) -> None:
        self._save = save
        self._cycle_of = {step: cycle for cycle, step in enumerate(ends)}

    def after_step(self, fit: Fit) -> None:
        """Save, if a cycle is over."""
        if fit.step in self._cycle_of:
            self._save(self._cycle_of[fit.step])


class BestSaver(callback.Callback):
    """Saves whenever the first metric is higher, or the same at a lower validation loss; without metrics, by that loss.

    Args:
        save: Called with nothing.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._best: tuple[float, float] | None = None

    def after_epoch(self, fit: Fit) -> None:
        """Save, if this is the best epoch so far."""
        _, loss, *metrics = fit.trainer.recorder.last.values[-1]
        score = (metrics[0] if metrics else 0.0, -loss)
        if self._best is None or score > self._best:
            self._best = score
            self._save()


def returned(values: Sequence[float]) -> list[float]:
    """Return what ``fit`` gives back of an epoch: plain floats, the loss as short as a float32 can be written.

    Args:
        values: Training loss, validation loss, metrics.
    """
    _, loss, *metrics = values
    return [float(str(np.float32(loss))), *(float(metric) for metric in metrics)]
