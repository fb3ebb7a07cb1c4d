"""A fit of lesson one: its cycles and rates, what ``learn.sched`` shows, the table it prints, and its callbacks."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vizsla.errors import ConfigError
from vizsla.text import say
from vizsla.train.callbacks import base
from vizsla.train.rates.schedules import (
    classic_epochs,
    constant,
    rates_per_group,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)
from vizsla.train.recorder import SmoothedLoss
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.rates.schedules import Rates, Schedule

__all__ = ["Callback"]

DIVERGED = 4.0
"""The finder stops at a loss of this many times the best one."""

STEPS_WITHOUT_BEST = 11
"""The first losses are not trusted to be the best."""

WIDTH = 10
"""Of a column of the table."""

DECIMALS = 6


# --- cycles and rates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """The length of a fit and its rates; the options are those of ``ConvLearner.fit``, ``batches`` are the steps of an epoch."""

    n_cycle: int
    cycle_len: int | None
    cycle_mult: float
    batches: int
    use_clr: Sequence[float] | None = None
    use_clr_beta: Sequence[float] | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the whole fit."""
        return classic_epochs(self.n_cycle, cycle_len=self.cycle_len, cycle_mult=self.cycle_mult)

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """Steps done at the end of each cycle."""
        has_triangles = self.use_clr is not None or self.use_clr_beta is not None
        growth = 1 if has_triangles else self.cycle_mult
        first = self.batches * (self.cycle_len or 1)
        lengths = (first * growth**cycle for cycle in range(self.n_cycle))
        return tuple(round(end) for end in accumulate(lengths))

    def schedule(self, rates: tuple[float, ...]) -> Schedule:
        """Return the rates of every step, from one per group.

        Raises:
            ConfigError: Triangles are asked for without ``cycle_len``, or cannot be made.
        """
        num_steps = self.epochs * self.batches
        triangles = self.use_clr or self.use_clr_beta
        if self.cycle_len is None:
            if triangles:
                raise ConfigError("use_clr and use_clr_beta need cycle_len, the epochs of a cycle.")
            return constant(num_steps, rates=rates)
        cycle_steps = self.batches * self.cycle_len
        if not triangles:
            return warm_restarts_classic(
                num_steps, rates=rates, cycle_steps=cycle_steps, cycle_mult=self.cycle_mult
            )
        div, second, *momenta = triangles
        options: dict[str, Any] = {
            "rates": rates,
            "cycle_steps": cycle_steps,
            "div": div,
            "momenta": tuple(momenta) if len(momenta) == 2 else None,
        }
        if self.use_clr_beta:
            return triangular_beta(num_steps, pct=second, **options)
        return triangular(num_steps, cut_div=second, **options)


def rates_of(lrs: Rates, *, num_groups: int, head_only: bool) -> tuple[float, ...]:
    """Return one rate per group, from one or one per group; a list or array of one counts as one.

    While precomputed features make the head the only group (``head_only``), of three rates the last is taken.

    Raises:
        ConfigError: There is not one rate per group.
    """
    if isinstance(lrs, list | tuple | np.ndarray):
        lrs = np.asarray(lrs, dtype=np.float64).reshape(-1)
        if head_only and len(lrs) == 3:
            warnings.warn(
                f"Only the head trains while precompute is True: of the three rates {lrs.tolist()} the last was taken.",
                stacklevel=4,
            )
            lrs = lrs[-1:]
    return rates_per_group(lrs, num_groups=num_groups)


def decays_of(wds: float | Sequence[float] | None, *, num_groups: int) -> tuple[float, ...]:
    """Return one weight decay per group, from one, one per group, or None for none."""
    numbers = [float(each) for each in np.asarray(0.0 if wds is None else wds).reshape(-1)]
    if len(numbers) not in (1, num_groups):
        raise ConfigError(
            f"{len(numbers)} weight decays were given and there are {num_groups} parameter groups. Give one "
            "number, or one per group."
        )
    return tuple(numbers * num_groups if len(numbers) == 1 else numbers)


# --- what learn.sched shows --------------------------------------------------------------------------------------------


class EndOfFit(Exception):  # noqa: N818 (no error: it ends a fit early and never reaches the user)
    """Raised inside a fit to end it at once."""


class LossRecorder(base.Callback):
    """The engine's record of one fit under the names of lesson one.

    Attributes:
        lrs: Learning rate of the last group at each step.
        losses: Running mean of the training losses after each step.
        momentums: Momentum at each step, where the schedule sets it.
        epochs: Steps done at the end of each epoch.
        val_losses: Validation loss of each epoch.
        rec_metrics: Metrics of each epoch.
    """

    order = -20

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.momentums: list[float] = []
        self.epochs: list[int] = []
        self.val_losses: list[float] = []
        self.rec_metrics: list[list[float]] = []

    @property
    def iterations(self) -> list[int]:
        """1, 2, ... for each step."""
        return list(range(1, len(self.lrs) + 1))

    def before_fit(self, fit: Fit) -> None:
        """Share the engine's record, which grows while the fit runs."""
        record = fit.record
        self.lrs, self.losses = record.lrs, record.smoothed
        self.momentums, self.epochs = record.moms, record.iters

    def after_epoch(self, fit: Fit) -> None:
        """Keep the validation loss and the metrics."""
        _, loss, *metrics = fit.record.values[-1]
        self.val_losses.append(loss)
        self.rec_metrics.append(metrics)

    def plot_loss(self, n_skip: int = 10, n_skip_end: int = 5) -> None:
        """Draw the losses against the steps on the current axes, without ``n_skip`` steps at the start and ``n_skip_end`` at the end."""
        shown = _shown(len(self.losses), n_skip, n_skip_end)
        _current_axes().plot(self.iterations[shown], self.losses[shown])

    def plot_lr(self) -> None:
        """Draw the rate of the last group against the steps; next to it the momentum, where the schedule sets it."""
        import matplotlib.pyplot as plt

        if not self.momentums:
            _draw(_current_axes(), self.iterations, self.lrs, y="learning rate")
            return
        _, axes = plt.subplots(1, 2, figsize=(12, 4))
        _draw(axes[0], self.iterations, self.lrs, y="learning rate")
        _draw(axes[1], self.iterations, self.momentums, y="momentum")


class LRFinder(LossRecorder):
    """Records a fit of rising rates, and ends it when the loss diverges; that step is not recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._best = 1e9
        self._smoothed = SmoothedLoss()

    def after_step(self, fit: Fit) -> None:
        """Check the loss, then let it be recorded."""
        if fit.loss is not None:
            (smoothed,) = self._smoothed.add([float(fit.loss)])
            if self.diverges(smoothed, step=fit.step - 1):
                raise EndOfFit
        fit.read_losses()

    def diverges(self, smoothed: float, *, step: int) -> bool:
        """Return whether a smoothed loss ends the search at a step (from 0), and remember the best one."""
        if math.isnan(smoothed) or smoothed > DIVERGED * self._best:
            return True
        if smoothed < self._best and step >= STEPS_WITHOUT_BEST:
            self._best = smoothed
        return False

    def plot(self, n_skip: int = 10, n_skip_end: int = 5) -> None:
        """Draw the losses against the rates on the current axes, without ``n_skip`` steps at the start and ``n_skip_end + 1`` at the end."""
        shown = _shown(len(self.losses), n_skip, n_skip_end + 1)
        axes = _current_axes()
        _draw(axes, self.lrs[shown], self.losses[shown], y="loss")
        axes.set_xlabel("learning rate (log scale)")
        axes.set_xscale("log")


def _shown(count: int, n_skip: int, n_skip_end: int) -> slice:
    """Return which points are drawn: all where skipping would leave no line."""
    left = count - n_skip - n_skip_end
    return slice(n_skip, count - n_skip_end) if left > 1 else slice(None)


def _current_axes() -> Axes:
    import matplotlib.pyplot as plt

    return plt.gca()


def _draw(axes: Axes, x: Sequence[float], y_values: Sequence[float], *, y: str) -> None:
    axes.set_xlabel("iterations")
    axes.set_ylabel(y)
    axes.plot(x, y_values)


# --- the engine's trainer and callbacks --------------------------------------------------------------------------------


class ClassicTrainer(Trainer):
    """The engine's trainer; ``norms_frozen`` keeps the statistics of all norms."""

    norms_frozen = False

    def training_mode(self) -> None:
        """Put the model in training mode, except norms whose statistics are frozen."""
        super().training_mode()
        if self.norms_frozen:
            for part in self.model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    part.eval()


class TablePrinter(base.Callback):
    """Prints a header after the first epoch and a row after each.

    Attributes:
        values: By epoch: training loss, validation loss and metrics, rounded as printed.
    """

    order = -10

    def __init__(self) -> None:
        self.values: OrderedDict[int, list[float]] = OrderedDict()

    def after_epoch(self, fit: Fit) -> None:
        """Print the row of the epoch."""
        if not self.values:
            names = fit.trainer.recorder.value_names[2:]
            say(header_line(["epoch", "trn_loss", "val_loss", *names]))
        values = fit.record.values[-1]
        self.values[fit.epoch] = [round(value, DECIMALS) for value in values]
        say(row_line(fit.epoch, values))


def header_line(columns: Sequence[str]) -> str:
    """Return the header of the table."""
    return "".join(f"{name:<{WIDTH}} " for name in columns)


def row_line(epoch: int, values: Sequence[float]) -> str:
    """Return a row; zeros at the end of a number are dropped."""
    cells = (f" {round(float(value), DECIMALS)!s:<{WIDTH}}" for value in values)
    return f"{epoch:^{WIDTH}}{''.join(cells)}"


def returned_values(values: Sequence[float]) -> list[float]:
    """Return validation loss and metrics as plain floats, the loss as short as a float32 can be written."""
    _, loss, *metrics = values
    return [float(str(np.float32(loss))), *(float(metric) for metric in metrics)]


class Callback:
    """Follows a fit; override what matters.

    A true value from ``on_batch_end`` ends the fit at once, one from ``on_epoch_end`` after the epoch.
    """

    def on_train_begin(self) -> None:
        """The fit begins."""

    def on_batch_begin(self) -> None:
        """A batch is about to go through the network."""

    def on_phase_begin(self) -> None:
        """The fit begins, after ``on_train_begin``."""

    def on_epoch_end(self, metrics: list[float]) -> bool | None:
        """An epoch was validated; ``metrics`` are its validation loss and metrics."""

    def on_phase_end(self) -> None:
        """The fit is over, before ``on_train_end``."""

    def on_batch_end(self, metrics: float) -> bool | None:
        """A step was taken; ``metrics`` is the running mean of the training loss."""

    def on_train_end(self) -> None:
        """The fit is over."""


class CallbackBridge(base.Callback):
    """Calls the user's callbacks, in their order, and ends the fit where one says so."""

    order = 20

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._ended_in_batch = False

    def before_fit(self, fit: Fit) -> None:
        """Call the callbacks at the beginning."""
        del fit
        for each in self._callbacks:
            each.on_train_begin()
        for each in self._callbacks:
            each.on_phase_begin()

    def before_step(self, fit: Fit, batch: base.Batch) -> base.Batch:
        """Call them before a batch."""
        del fit
        for each in self._callbacks:
            each.on_batch_begin()
        return batch

    def after_step(self, fit: Fit) -> None:
        """Call them after a step, with a loss that waits for the device."""
        if not self._callbacks:
            return
        fit.read_losses()
        if any(each.on_batch_end(fit.smoothed.value) for each in self._callbacks):
            self._ended_in_batch = True
            raise EndOfFit

    def after_epoch(self, fit: Fit) -> None:
        """Call them after an epoch."""
        values = returned_values(fit.record.values[-1])
        if any(each.on_epoch_end(values) for each in self._callbacks):
            raise EndOfFit

    def after_fit(self, fit: Fit) -> None:
        """Call them at the end, unless a step or an error ended the fit."""
        if self._ended_in_batch or not (fit.error is None or isinstance(fit.error, EndOfFit)):
            return
        for each in self._callbacks:
            each.on_phase_end()
        for each in self._callbacks:
            each.on_train_end()


class CycleSaver(base.Callback):
    """Calls ``save`` with the number of each cycle after its last step; ``ends`` are the numbers of those steps."""

    def __init__(self, save: Callable[[int], None], *, ends: Sequence[int]) -> None:
        self._save = save
        self._cycle_of = {step: cycle for cycle, step in enumerate(ends)}

    def after_step(self, fit: Fit) -> None:
        """Save, if a cycle is over."""
        if fit.step in self._cycle_of:
            self._save(self._cycle_of[fit.step])


class BestSaver(base.Callback):
    """Saves whenever the first metric is higher, or equal at a lower validation loss; without metrics, by that loss."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._best: tuple[float, float] | None = None

    def after_epoch(self, fit: Fit) -> None:
        """Save, if this is the best epoch so far."""
        _, loss, *metrics = fit.record.values[-1]
        score = (metrics[0] if metrics else 0.0, -loss)
        if self._best is None or score > self._best:
            self._best = score
            self._save()
