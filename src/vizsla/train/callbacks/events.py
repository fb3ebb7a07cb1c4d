"""Callbacks in fastai's form: events without arguments, and what a step computes read and set on the learner.

``EventCaller`` stands for them among the callbacks of a fit. It calls ``before_batch``, ``after_pred``, ``after_loss`` and the others at
the places where fastai's loop does, for training and validation batches.
"""

from __future__ import annotations

from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vizsla.train.callbacks.base import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelTrainException,
    own_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from torch import Tensor

    from vizsla.train.callbacks.base import Fit, FitSettings
    from vizsla.types import Batch


class EventCaller(Callback):
    """Calls the events of callbacks in fastai's form.

    Attributes:
        callbacks: These callbacks, in the order in which they are called.
        xb: Images of the present batch, in a tuple; ``before_batch`` may set others.
        yb: Their targets, in a tuple.
        pred: Outputs of the network; ``after_pred`` may set others.
        loss: Their loss, a scalar; setting another one counts too.
        loss_grad: The loss that gradients are computed of; ``after_loss`` may set another one.
        training: Whether the present batch is trained on.
        dl: Where it comes from.
        iter: Its number in the epoch.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks
        self.fit: Fit | None = None
        self.training = False
        self.dl: Any = None
        self.iter = 0
        self.in_fit = self._in_step = self._has_left = False
        self._hooks: list[Any] = []
        self._forget_batch()

    def _forget_batch(self) -> None:
        self.xb: tuple[Any, ...] = (None,)
        self.yb: tuple[Any, ...] = (None,)
        self.pred: Tensor | None = None
        self.loss: Tensor | None = None
        self.loss_grad: Tensor | None = None

    @property
    def x(self) -> Any:
        """The images."""
        return self.xb[0]

    @property
    def y(self) -> Any:
        """The targets."""
        return self.yb[0]

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return 0 if self.fit is None else self.fit.epoch

    @property
    def n_epoch(self) -> int:
        """Epochs of the fit."""
        return 1 if self.fit is None else self.fit.n_epoch

    @property
    def n_iter(self) -> int:
        """Batches of the epoch."""
        return 0 if self.dl is None else len(self.dl)

    @property
    def train_iter(self) -> int:
        """Steps of the fit so far."""
        return 0 if self.fit is None else self.fit.step

    @property
    def pct_train(self) -> float:
        """The part of the fit that is done."""
        return 0.0 if self.fit is None else self.fit.step / self.fit.num_steps

    @property
    def smooth_loss(self) -> float:
        """The running mean of the training losses."""
        if self.fit is None:
            return 0.0
        self.fit.read_losses()
        return self.fit.smoothed.value

    # --- called by the loop ---

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Take steps operation by operation."""
        self.fit = fit
        return replace(settings, eager=True)

    def before_fit(self, fit: Fit) -> None:
        """Call ``before_fit``, and from now on ``after_backward``, ``before_step`` and ``after_step``."""
        self.in_fit = True
        opt = fit.trainer.opt
        if opt is not None:
            self._hooks = [
                opt.register_step_pre_hook(lambda *_: self._call("after_backward", "before_step")),
                opt.register_step_post_hook(lambda *_: self._call("after_step")),
            ]
        self._call("before_fit")

    def before_epoch(self, fit: Fit) -> None:
        """Call ``before_epoch`` and ``before_train``."""
        self.training, self.dl = True, fit.trainer.dls.train
        self._call("before_epoch", "before_train")

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """Call ``before_batch``, which may change the batch."""
        self.iter = fit.step - fit.epoch * fit.num_batches
        self._in_step, self._has_left = True, False
        return self._begin(batch)

    def see_outputs(self, pred: Tensor) -> Tensor:
        """Call ``after_pred`` for outputs, which it may change."""
        self.pred = pred
        self._call("after_pred")
        return self.pred

    def see_loss(self, loss: Tensor) -> Tensor:
        """Call ``after_loss`` and ``before_backward`` for a loss, and return the one to compute gradients of."""
        self.loss_grad, self.loss = loss, loss.clone()
        before = self.loss
        if self.fit is not None and self.training:
            self.fit.loss = loss.detach()
        self._call("after_loss", "before_backward" if self.training else "")
        # Older callbacks set the loss itself.
        return self.loss_grad if self.loss is before or self.loss_grad is not loss else self.loss

    def after_step(self, fit: Fit) -> None:
        """Call ``after_batch``."""
        del fit
        self._in_step = False
        if not self._has_left:
            self._call("after_batch")

    def before_validate(self, fit: Fit) -> None:
        """Call ``after_train`` and ``before_validate``."""
        self._call("after_train")
        self.training, self.dl = False, fit.trainer.dls.valid
        self._call("before_validate")

    def in_validation(
        self, batches: Generator[Batch], forward: Callable[[Tensor], Tensor]
    ) -> tuple[Generator[Batch], Callable[[Tensor], Tensor]]:
        """Return batches and the function that computes logits, with the events of each batch around them."""

        def begun() -> Generator[Batch]:
            with closing(batches):
                for self.iter, batch in enumerate(batches):
                    yield self._begin(batch)

        def watched(images: Tensor) -> Tensor:
            self.pred = forward(images)
            with suppress(CancelBatchException):
                self.see_outputs(self.pred)
                if self.fit is not None and self._has("after_loss", "after_batch"):
                    loss = self.fit.trainer.loss_func
                    self.see_loss(loss(self.pred, self.y.to(self.pred.device)))
            self._call("after_batch")
            return self.pred

        return begun(), watched

    def after_epoch(self, fit: Fit) -> None:
        """Call ``after_validate`` and ``after_epoch``."""
        del fit
        self._call("after_validate", "after_epoch")

    def after_fit(self, fit: Fit) -> None:
        """Call ``after_fit``."""
        del fit
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.in_fit = self._in_step = False
        self._forget_batch()
        self._call("after_fit")

    # --- what calls them ---

    def _begin(self, batch: Batch) -> Batch:
        self.xb, self.yb = (batch.images,), (batch.targets,)
        with nullcontext() if self._in_step else suppress(CancelBatchException):
            self._call("before_batch")
        if self.x is batch.images and self.y is batch.targets:
            return batch
        return replace(batch, images=self.x, targets=self.y)

    def _has(self, *events: str) -> bool:
        return any(own_event(each, event) for each in self.callbacks for event in events)

    def _call(self, *events: str) -> None:
        """Call events of all callbacks; what one cancels is told to all, and to the fit."""
        for event in events:
            of_batch = "batch" in event or event in _OF_BATCH
            side = "run_train" if self.training else "run_valid"
            for each in self.callbacks:
                runs = getattr(each, "run", True) and (not of_batch or getattr(each, side, True))
                method = own_event(each, event) if runs else None
                if method is None:
                    continue
                try:
                    method()
                except CancelException as cancelled:
                    self._call(cancelled.event)
                    self._pass_on(cancelled)

    def _pass_on(self, cancelled: CancelException) -> None:
        """End what a callback cancels: parts of a step and validation at once, the rest by telling the fit."""
        fit = self.fit
        if fit is not None and isinstance(cancelled, CancelFitException):
            fit.stop("A callback ended the fit.")
        elif fit is not None and isinstance(cancelled, CancelEpochException | CancelTrainException):
            fit.skip_rest = "epoch" if isinstance(cancelled, CancelEpochException) else "training"
        else:
            raise cancelled
        self._has_left = True
        if self._in_step:
            raise CancelBatchException


_OF_BATCH = {"after_pred", "after_loss", "before_backward", "after_backward", "before_step", "after_step"}  # fmt: skip


class RunningValue:
    """An attribute of a learner that is one of its ``EventCaller``: what the present batch has led to."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, learner: Any, owner: type) -> Any:
        return self if learner is None else getattr(learner.events, self._name)

    def __set__(self, learner: Any, value: Any) -> None:
        setattr(learner.events, self._name, value)
