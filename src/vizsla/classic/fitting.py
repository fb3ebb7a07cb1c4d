"""Events of the engine's fits in; lesson one's table, saved cycles and callbacks out."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from vizsla.classic.sched import EndOfFit
from vizsla.train.callbacks import base as callback
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.classic.sched import LossRecorder
    from vizsla.train.callbacks.base import Fit

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
