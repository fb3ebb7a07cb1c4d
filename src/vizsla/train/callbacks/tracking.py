"""Watch the results of each epoch: end a fit early, keep its best weights, or lower its rates."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError, OutputError
from vizsla.train.callbacks.base import Callback
from vizsla.train.checkpoint import BestWeights, load_weights, save_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.train.callbacks.base import Fit


class TrackerCallback(Callback):
    """Tracks the best value of a loss or metric.

    Args:
        monitor: ``train_loss``, ``valid_loss`` or the name of a metric.
        comp: Whether its first argument is better than its second; None prefers smaller values for names with loss or error in
            them, larger ones for others.
        min_delta: A value must be better by this much.
        reset_on_fit: Forget the best value when a new fit begins.

    Attributes:
        best: The best value so far.
        improved: Whether the last epoch reached it.
        wait: Epochs since then.

    Raises:
        ConfigError: At the start of a fit: there is no such value.
    """

    order = 60

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], bool] | None = None,
        min_delta: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        self.monitor = monitor
        smaller = "loss" in monitor or "error" in monitor
        self.better = comp or ((lambda a, b: a < b) if smaller else (lambda a, b: a > b))
        # With a user's function the sign of the margin follows from what the function prefers.
        prefers_small = self.better(0.0, 1.0)
        self.margin = abs(min_delta) if prefers_small else -abs(min_delta)
        self.worst = math.inf if prefers_small else -math.inf
        self.best = self.worst
        self.reset_on_fit = reset_on_fit
        self.improved = False
        self.wait = 0

    def before_fit(self, fit: Fit) -> None:
        """Check the name; forget the last fit unless told not to."""
        names = fit.trainer.recorder.value_names
        if self.monitor not in names:
            raise ConfigError(
                f"{type(self).__name__} cannot monitor {self.monitor!r}: this learner has {', '.join(names)}. "
                "Choose one of these, or add the metric to the learner."
            )
        if self.starts_anew(fit):
            self.best = self.worst
        self.wait = 0

    def starts_anew(self, fit: Fit) -> bool:
        """Return whether a new fit has a best value of its own."""
        del fit
        return self.reset_on_fit

    def after_epoch(self, fit: Fit) -> None:
        """Compare the value with the best."""
        value = fit.values[self.monitor]
        self.improved = self.better(value + self.margin, self.best)
        self.wait = 0 if self.improved else self.wait + 1
        if self.improved:
            self.best = value

    def state(self) -> dict[str, Any]:
        """Return the best value and the epochs since then."""
        return {"best": self.best if math.isfinite(self.best) else None, "wait": self.wait}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the best value from ``state``."""
        self.best = self.worst if state["best"] is None else state["best"]
        self.wait = state["wait"]


class EarlyStoppingCallback(TrackerCallback):
    """Ends a fit when results stop improving.

    Args:
        monitor: See ``TrackerCallback``.
        comp: See ``TrackerCallback``.
        min_delta: See ``TrackerCallback``.
        patience: Epochs without an improvement after which the fit ends.
        reset_on_fit: See ``TrackerCallback``.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], bool] | None = None,
        min_delta: float = 0.0,
        patience: int = 1,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        self.patience = patience

    def after_epoch(self, fit: Fit) -> None:
        """Stop after ``patience`` epochs without an improvement."""
        super().after_epoch(fit)
        if self.wait >= self.patience:
            fit.stop(f"No improvement since epoch {fit.epoch - self.wait}: early stopping")


class _BestOfPhases(TrackerCallback):
    """Remembers the best epoch of all phases of one training: both halves of ``fine_tune``."""

    def starts_anew(self, fit: Fit) -> bool:
        """Return whether this is the first phase of a training."""
        return self.reset_on_fit and not fit.epochs_before


class KeepBest(_BestOfPhases):
    """Keeps the weights of the best epoch in memory and puts them back when the fit ends, also after Ctrl-C.

    In ``fine_tune`` that is the best epoch of both phases.

    Args:
        monitor: See ``TrackerCallback``.
        comp: See ``TrackerCallback``.
        min_delta: See ``TrackerCallback``.
        reset_on_fit: See ``TrackerCallback``; without it the weights stay in memory for the next fit.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], bool] | None = None,
        min_delta: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        self.epoch = -1
        self._best = BestWeights()

    def before_fit(self, fit: Fit) -> None:
        """Forget the weights of an earlier training."""
        super().before_fit(fit)
        if self.starts_anew(fit):
            self._best = BestWeights()

    def after_epoch(self, fit: Fit) -> None:
        """Keep better weights."""
        super().after_epoch(fit)
        if self.improved:
            self.epoch = fit.epochs_before + fit.epoch
            self._best.keep(fit.trainer.model)

    def after_fit(self, fit: Fit) -> None:
        """Put the best weights back."""
        if self._best:
            self._best.put_back(fit.trainer.model)
            if fit.is_last_phase and self.reset_on_fit:
                self._best = BestWeights()

    def state(self) -> dict[str, Any]:
        """Add the weights."""
        return {**super().state(), "epoch": self.epoch, **self._best.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the weights too."""
        super().load_state(state)
        self.epoch = state["epoch"]
        self._best.load_state(state)


class SaveModelCallback(_BestOfPhases):
    """Saves weights when they are the best so far, and loads them when the fit ends.

    In ``fine_tune`` they are the best of both phases, with epochs numbered across both. If the best weights cannot be
    written, a warning says so, the fit continues, and the model ends with its last weights.

    Args:
        monitor: See ``TrackerCallback``.
        comp: See ``TrackerCallback``.
        min_delta: See ``TrackerCallback``.
        fname: Name of the file below the learner's models folder, without a suffix.
        every_epoch: Save after every epoch instead, as ``fname_0``, ``fname_1``, ...; a number n saves every n epochs.
        at_end: Save when the fit ends, too.
        with_opt: Save the state of the optimiser, too.
        reset_on_fit: See ``TrackerCallback``.
    """

    order = 61

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], bool] | None = None,
        min_delta: float = 0.0,
        fname: str = "model",
        every_epoch: bool | int = False,
        at_end: bool = False,
        with_opt: bool = False,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        self.fname = fname
        self.every_epoch = int(every_epoch)
        self.at_end = at_end
        self.with_opt = with_opt
        self.saved: Path | None = None

    def before_fit(self, fit: Fit) -> None:
        """Forget the file of an earlier fit."""
        super().before_fit(fit)
        if self.starts_anew(fit):
            self.saved = None

    def after_epoch(self, fit: Fit) -> None:
        """Save the epoch if it is due or the best so far."""
        super().after_epoch(fit)
        epoch = fit.epochs_before + fit.epoch
        if self.every_epoch:
            if epoch % self.every_epoch == 0:
                self._save(fit, f"{self.fname}_{epoch}")
        elif self.improved:
            fit.trainer.display.line(
                f"Better model found at epoch {epoch} with {self.monitor} value: {self.best}."
            )
            self.saved = self._save(fit, self.fname)

    def after_fit(self, fit: Fit) -> None:
        """Save the last weights if asked to, else load the best."""
        if self.at_end and fit.error is None:
            self._save(fit, self.fname)
        elif self.saved is not None:
            load_weights(fit.trainer, self.saved, with_opt=self.with_opt)

    def state(self) -> dict[str, Any]:
        """Add the path of the best weights."""
        return {**super().state(), "saved": None if self.saved is None else str(self.saved)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the path too."""
        super().load_state(state)
        self.saved = None if state["saved"] is None else Path(state["saved"])

    def _save(self, fit: Fit, name: str) -> Path | None:
        """Return where the weights are; None, after a warning, if they cannot be written: a fit must not be lost for a file."""
        trainer = fit.trainer
        path = trainer.path / trainer.model_dir / f"{name}.safetensors"
        try:
            return save_weights(trainer, path, with_opt=self.with_opt)
        except OutputError as error:
            warnings.warn(
                f"The weights after epoch {fit.epoch} were not saved: {error} Training continues.",
                stacklevel=2,
            )
            return None


class ReduceLROnPlateau(TrackerCallback):
    """Lowers learning rates for the rest of the fit when results stop improving; meant for constant rates.

    Args:
        monitor: See ``TrackerCallback``.
        comp: See ``TrackerCallback``.
        min_delta: See ``TrackerCallback``.
        patience: Epochs without an improvement before the rates are lowered.
        factor: Rates are divided by it.
        min_lr: Lower bound for the rate of the last group; earlier groups keep their ratio to it.
        reset_on_fit: See ``TrackerCallback``.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        comp: Callable[[float, float], bool] | None = None,
        min_delta: float = 0.0,
        patience: int = 1,
        factor: float = 10.0,
        min_lr: float = 0.0,
        reset_on_fit: bool = True,
    ) -> None:
        super().__init__(monitor, comp, min_delta, reset_on_fit)
        if not factor > 1:
            raise ConfigError(
                f"factor divides the learning rates, so it must be above 1. Received: {factor}"
            )
        self.patience = patience
        self.factor = factor
        self.min_lr = min_lr
        self.lowered_at: list[int] = []
        self._is_behind = False

    def before_fit(self, fit: Fit) -> None:
        """Forget what an earlier fit lowered."""
        super().before_fit(fit)
        self.lowered_at = []

    def before_epoch(self, fit: Fit) -> None:
        """After a resume, lower the rates as the interrupted run had."""
        if self._is_behind:
            self._is_behind = False
            for step in self.lowered_at:
                self._lower(fit, step=step)

    def after_epoch(self, fit: Fit) -> None:
        """Lower the rates after ``patience`` epochs without an improvement."""
        super().after_epoch(fit)
        if self.wait < self.patience or fit.step >= fit.num_steps:
            return
        self.wait = 0
        self.lowered_at.append(fit.step)
        self._lower(fit, step=fit.step)
        fit.trainer.display.line(
            f"Epoch {fit.epoch}: reducing lr to {fit.schedule.rates_at(fit.step)[-1]:.3g}"
        )

    def state(self) -> dict[str, Any]:
        """Add the steps at which the rates were lowered."""
        return {**super().state(), "lowered_at": self.lowered_at}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore those steps too."""
        super().load_state(state)
        self.lowered_at, self._is_behind = state["lowered_at"], True

    def _lower(self, fit: Fit, *, step: int) -> None:
        schedule = fit.schedule
        least = self.min_lr / schedule.rates[-1]
        later = (max(value / self.factor, min(value, least)) for value in schedule.factors[step:])
        fit.schedule = replace(schedule, factors=(*schedule.factors[:step], *later))


class TerminateOnNaNCallback(Callback):
    """Does nothing, for notebooks that use it: every fit stops at a loss that is not finite, with an error that says where."""
