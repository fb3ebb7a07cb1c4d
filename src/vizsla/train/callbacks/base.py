"""What callbacks are told about a fit, and what they may change in it.

A callback changes training only through what it is handed: the settings of the fit before it begins, the batch of a step, the
state of the fit. Its errors reach the user unchanged.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vizsla.errors import ConfigError, TrainingError
from vizsla.text import joined
from vizsla.train.distributed import mean_over_processes
from vizsla.train.recorder import FitRecord, SmoothedLoss

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.train.profile import PhaseClock
    from vizsla.train.rates.schedules import Schedule
    from vizsla.train.trainer import Trainer
    from vizsla.types import Batch, Size

MAX_NAMED_FILES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How the steps of a fit are taken; a callback may return a changed copy before the first step.

    Attributes:
        accumulate: Batches whose gradients are added up for one step of the optimiser.
        parts: How many parts a batch goes through in, one after another; the step is that of the whole batch, except for batch norms.
        clip: Largest norm of all gradients together; None leaves them.
        sizes: ``(height, width)`` of the training images in each part of the fit, all parts equally long; empty for the size
            of the loaders.
        eager: Compute every step operation by operation, for a callback that looks into the network. Otherwise CUDA may
            replay a recorded step.
        clock: Told about every phase of a step; None measures nothing.
        epoch_name: What the progress bar calls an epoch.

    Raises:
        ConfigError: A number cannot work.
    """

    accumulate: int = 1
    parts: int = 1
    clip: float | None = None
    sizes: tuple[Size, ...] = ()
    eager: bool = False
    clock: PhaseClock | None = None
    epoch_name: str = "epoch"

    def __post_init__(self) -> None:
        if self.accumulate < 1 or (self.clip is not None and not self.clip > 0):
            raise ConfigError(
                "accumulate must be at least 1 batch, and clip a positive norm or None. Received: "
                f"accumulate={self.accumulate!r}, clip={self.clip!r}"
            )


@dataclass(kw_only=True, slots=True)
class Fit:
    """The state of a running fit, as callbacks see it.

    Attributes:
        trainer: Whose fit it is.
        stage: Name of the fit, for people: ``"one cycle"``.
        number: How many fits the trainer did before.
        n_epoch: Passes over the training images.
        num_batches: Steps of an epoch.
        schedule: Rates and momentum of every step.
        callbacks: All callbacks of this fit, in the order in which they are called.
        settings: How steps are taken; complete when ``before_fit`` is called.
        scaler: Scales the losses of fp16; idle otherwise.
        measured: Whether epochs are validated, recorded and printed.
        position: Epochs that the trainer did before this fit; data and random numbers depend on it.
        epochs_before: Epochs of earlier phases of the same training: those with the body frozen, in the second half of
            ``fine_tune``.
        is_last_phase: Whether no further phase of the same training follows.
        first_step: Where to begin. A callback may move it in ``before_fit`` to continue an interrupted fit: earlier steps are
            skipped and their images are not read.
        record: Losses, rates and results so far.
        step: Steps done.
        epoch: The present epoch, from 0.
        batch: What the present step trains on.
        loss: Of the last step, a scalar on the device; reading it waits for the device.
        smoothed: Running mean of the losses; behind by a fraction of a second.
        predictions: On the validation images after the last epoch.
        values: ``train_loss``, ``valid_loss`` and the metrics after the last epoch.
        error: In ``after_fit``, the error that ended the fit early, if any.
        stop_reason: Why the fit is to end early; empty to go on.
        skip_rest: The part of the present epoch that is left out: ``"training"``, or ``"epoch"`` with its validation; or nothing.
    """

    trainer: Trainer
    stage: str
    number: int
    n_epoch: int
    num_batches: int
    schedule: Schedule
    callbacks: Sequence[Callback] = ()
    settings: FitSettings = FitSettings()
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler(enabled=False)
    )
    measured: bool = True
    position: int = 0
    epochs_before: int = 0
    is_last_phase: bool = True
    first_step: int = 0
    record: FitRecord = field(default_factory=lambda: FitRecord(stage=""))
    step: int = 0
    epoch: int = 0
    batch: Batch | None = None
    loss: Tensor | None = None
    smoothed: SmoothedLoss = field(default_factory=SmoothedLoss)
    predictions: Predictions | None = None
    values: dict[str, float] = field(default_factory=dict)
    error: BaseException | None = None
    stop_reason: str = ""
    skip_rest: str = ""
    _unread: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    @property
    def total_epoch(self) -> int:
        """The last validated epoch, counted from 0 through all fits of the trainer."""
        return len(self.trainer.recorder.history) - 1

    @property
    def num_steps(self) -> int:
        """Steps of the whole fit."""
        return self.n_epoch * self.num_batches

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch, from 0."""
        self.epoch, self.skip_rest = epoch, ""

    def stop(self, reason: str) -> None:
        """End the fit after the present step or epoch, and print the reason, a short sentence."""
        self.stop_reason = reason

    def step_done(self, loss: Tensor, *, rows: Tensor) -> None:
        """Count a step and keep its loss, a scalar that stays on the device; ``rows`` are the images of its batch."""
        self.loss = loss
        self._unread.append((loss, rows))
        self.step += 1
        self.trainer.steps_done += 1

    def read_losses(self) -> None:
        """Wait for the device, so that the record holds every step that was taken.

        Raises:
            TrainingError: A loss is not finite.
        """
        if not self._unread:
            return
        stacked = torch.stack([loss for loss, _ in self._unread])
        losses: list[float] = mean_over_processes(stacked).tolist()
        steps = range(self.step - len(losses), self.step)
        for step, loss, (_, rows) in zip(steps, losses, self._unread, strict=True):
            if not math.isfinite(loss):
                raise self._not_finite(loss, step=step, rows=rows)
        self._unread.clear()
        momenta = (self.schedule.momentum_at(step) for step in steps)
        self.record.smoothed += self.smoothed.add(losses)
        self.record.losses += losses
        self.record.lrs += [self.schedule.rates_at(step)[-1] for step in steps]
        self.record.moms += [momentum for momentum in momenta if momentum is not None]

    def _not_finite(self, loss: float, *, step: int, rows: Tensor) -> TrainingError:
        rates = ", ".join(
            f"group {group}: {rate:.3g}" for group, rate in enumerate(self.schedule.rates_at(step))
        )
        paths = [self.trainer.dls.table.shown_path(row) for row in rows.tolist()]
        return TrainingError(
            f"The loss became {loss} at step {step} of {self.num_steps}, at learning rates {rates} (earliest "
            f"layers first), on {joined(paths, limit=MAX_NAMED_FILES)}. That step did not change the weights. "
            "Start again from the last good weights with a learning rate ten times lower; if it happens at every "
            "rate, check these images and labels."
        )


_ELSEWHERE = {
    **dict.fromkeys(("begin_epoch", "on_epoch_begin", "on_train_epoch_start"), "before_epoch"),
    **dict.fromkeys(("begin_batch", "on_batch_begin", "on_train_batch_start"), "before_step"),
    **dict.fromkeys(
        ("on_batch_end", "on_loss_begin", "on_backward_begin", "on_train_batch_end"), "after_step"
    ),
    **dict.fromkeys(("begin_validate", "on_validation_epoch_start"), "before_validate"),
    **dict.fromkeys(
        ("on_epoch_end", "on_validation_epoch_end", "on_train_epoch_end"), "after_epoch"
    ),
    **dict.fromkeys(
        ("begin_fit", "after_create", "on_train_begin", "on_fit_start", "on_train_start"),
        "before_fit",
    ),
    **dict.fromkeys(("on_train_end", "on_fit_end"), "after_fit"),
}
"""Events of other libraries, and what comes nearest to them here."""


SHORT_EVENTS = (
    *("before_fit", "before_epoch", "before_train", "before_batch", "after_pred", "after_loss"),
    *("before_backward", "after_backward", "before_step", "after_step", "after_batch"),
    *("after_train", "before_validate", "after_validate", "after_epoch", "after_fit"),
    *(f"after_cancel_{part}" for part in ("fit", "epoch", "train", "validate", "batch")),
)
"""Events of callbacks in fastai's form, whose methods take nothing."""


class CancelException(Exception):  # noqa: N818 (fastai's names)
    """Raised by an event of a callback in fastai's form: leave out what follows."""

    event: ClassVar[str] = ""


class CancelFitException(CancelException):
    """End the fit."""

    event = "after_cancel_fit"


class CancelEpochException(CancelException):
    """Skip the rest of the epoch, including its validation."""

    event = "after_cancel_epoch"


class CancelTrainException(CancelException):
    """Skip the remaining training batches of the epoch."""

    event = "after_cancel_train"


class CancelValidException(CancelException):
    """Skip the validation of the epoch."""

    event = "after_cancel_validate"


class CancelBatchException(CancelException):
    """Skip the rest of a batch; existing gradients are kept for the next one."""

    event = "after_cancel_batch"


class CancelBackwardException(CancelException):
    """Compute no gradients of this batch."""


class CancelStepException(CancelException):
    """Skip the optimiser step and drop these gradients."""


class _OfLearner:
    """An attribute that a callback takes from its learner, unless it has one of its own."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, callback: Callback | None, owner: type) -> Any:
        return self if callback is None else getattr(callback.learn, self._name)


class Callback:
    """Is called at the events of a fit; override the methods that matter.

    Methods have one of two forms. In the first, each takes ``fit`` (and ``before_step`` also the batch), as below. In
    fastai's form none takes an argument: ``before_batch``, ``after_pred``, ``after_loss``, ``after_batch`` and its other
    events read what they need from the learner (``self.learn.xb``, or ``self.xb`` for short), set it there
    (``self.learn.pred = ...``), and skip work by raising ``CancelFitException`` or one of its relatives.

    A class with a method ``before_...`` or ``after_...`` that is not an event, or an event with the wrong arguments, is a
    ConfigError when the class is defined: it would never be called.

    Attributes:
        order: Callbacks with a lower number are called first.
        learn: The learner that the callback belongs to.
    """

    order: ClassVar[int] = 0
    learn: Any = None
    model, dls, opt, loss_func, metrics, recorder, path = (_OfLearner() for _ in range(7))
    xb, yb, x, y, pred, loss, loss_grad, smooth_loss = (_OfLearner() for _ in range(8))
    epoch, n_epoch, iter, n_iter, train_iter, pct_train = (_OfLearner() for _ in range(6))
    training, dl = _OfLearner(), _OfLearner()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        is_short = has_short_form(cls)
        for name, method in vars(cls).items():
            if not inspect.isfunction(method) or name.startswith("_"):
                continue
            if not (is_short and name in SHORT_EVENTS and _takes_nothing(method)):
                _check_event(name, method, where=cls.__qualname__)

    @property
    def name(self) -> str:
        """The class name in lower case, without ``Callback``; the learner has the callback as an attribute of this name."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__)
        return words.lower().replace("_callback", "") or "callback"

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Before the fit begins: return its step settings, changed or not."""
        del fit
        return settings

    def before_fit(self, fit: Fit) -> None:
        """The fit is about to begin; optimiser and schedule exist."""

    def before_epoch(self, fit: Fit) -> None:
        """An epoch is about to begin."""

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """A batch is about to go through the network; return it, changed or not."""
        del fit
        return batch

    def after_step(self, fit: Fit) -> None:
        """The weights were updated (with accumulation: the gradients were added)."""

    def before_validate(self, fit: Fit) -> None:
        """Training of the epoch is done and validation is next: weights set now are the ones validated."""

    def after_epoch(self, fit: Fit) -> None:
        """The epoch was validated; ``fit.values`` and ``fit.predictions`` belong to it."""

    def after_fit(self, fit: Fit) -> None:
        """The fit is over, however it ended; every callback is called."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep: tensors, and values that JSON can hold."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned in an interrupted run."""


def has_short_form(kind: type[Callback]) -> bool:
    """Whether a class of callbacks has events in fastai's form; one that inherits events that take ``fit`` has not."""
    given = [
        vars(each)[name]
        for each in kind.__mro__[: kind.__mro__.index(Callback)]
        for name in (*SHORT_EVENTS, "configure")
        if inspect.isfunction(vars(each).get(name))
    ]
    return any(map(_takes_nothing, given)) and not any(
        not _takes_nothing(method) for method in given
    )


def own_event(callback: Callback, name: str) -> Callable[[], object] | None:
    """Return an event of a callback in fastai's form, if its class has it."""
    method = getattr(type(callback), name, None)
    return None if method is getattr(Callback, name, None) else getattr(callback, name)


def _takes_nothing(method: Callable[..., object]) -> bool:
    """Whether a method has no argument but its object."""
    return len(inspect.signature(method).parameters) == 1


Callbacks = Callback | type[Callback] | Iterable[Callback | type[Callback]] | None
"""What may be given as ``cbs``."""


def _check_event(name: str, method: Callable[..., object], *, where: str) -> None:
    """Raise ConfigError for a method that looks like an event and would not be called, or not in this way."""
    event = vars(Callback).get(name)
    if not inspect.isfunction(event):
        if not name.startswith(("before_", "after_")) and name not in _ELSEWHERE:
            return
        events = [each for each in vars(Callback) if each.startswith(("before_", "after_"))]
        known = (*events, *_ELSEWHERE, *SHORT_EVENTS)
        (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
        nearest = _ELSEWHERE.get(nearest, nearest)
        form = "" if nearest in events else f", as def {nearest}(self)"
        raise ConfigError(
            f"{where}.{name} would never be called, because there is no such event. The nearest is "
            f"{nearest}{form}. Events that take fit: {', '.join(events)}; fastai's events take no argument. "
            "Rename the method if it is not an event."
        )
    wanted = list(inspect.signature(event).parameters)
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError as error:
        raise ConfigError(
            f"{where}.{name} is called with ({', '.join(wanted[1:])}), so it is defined as: "
            f"def {name}({', '.join(wanted)}). Received: {name}{inspect.signature(method)}. The learner is fit.trainer. Events without arguments "
            "are called too, where a class and those that it inherits from have no others."
        ) from error


def as_callbacks(cbs: Callbacks) -> list[Callback]:
    """Return callbacks as a new list; a class becomes an object of it.

    Raises:
        ConfigError: Something in it is not a callback.
    """
    given: list[Any] = [cbs]
    if isinstance(cbs, Iterable) and not isinstance(cbs, str):
        given = list(cbs)
    found = [each() if isinstance(each, type) else each for each in given if each is not None]
    for callback in found:
        if not isinstance(callback, Callback):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
            raise ConfigError(
                f"Callbacks are classes that inherit from Callback, or objects of them. Received: {callback!r:.80}"
            )
    return found
