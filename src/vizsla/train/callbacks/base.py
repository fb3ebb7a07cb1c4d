"""What happens in a fit comes in through seven events; what somebody wants to add to training hooks in here.

A callback changes training only through what it is handed: the batch of a step, the state of the fit, the trainer. Its
errors reach the user unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vizsla.errors import ConfigError
from vizsla.train.recorder import SmoothedLoss

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.train.schedules import Schedule
    from vizsla.train.trainer import Trainer
    from vizsla.types import Batch


@dataclass(kw_only=True, slots=True)
class Fit:
    """The state of a running fit, as callbacks see it.

    Attributes:
        trainer: Whose fit it is.
        stage: Name of the fit, for people: ``"one cycle"``.
        number: How many fits the trainer did before.
        n_epoch: Passes over the training pictures.
        num_batches: Steps of an epoch.
        schedule: Rates and momentum of every step.
        position: Epochs that the trainer did before this fit; data and random numbers depend on it.
        first_step: Where to begin. A callback may move it in ``before_fit`` to continue a fit that was cut off: the steps
            before it are not done and their pictures are not read.
        step: Steps done.
        epoch: The present epoch, from 0.
        batch: What the present step trains on.
        loss: Of the last step, a scalar on the device; reading it waits for the device.
        smoothed: Running mean of the losses; behind by a fraction of a second.
        predictions: On the validation pictures after the last epoch.
        values: ``train_loss``, ``valid_loss`` and the metrics after the last epoch.
        error: What ended the fit early, where something did; there in ``after_fit``.
        stop_reason: Why the fit is to end early; empty to go on.
        read_losses: Waits for the device, so that the recorder knows all steps that were done.
        scaler: Scales the losses of fp16; there when the fit begins.
        callbacks: All that are told of this fit, in order.
        eager: Compute every step operation by operation, as something that looks into the network needs it; set it in
            ``before_fit``. Otherwise CUDA may replay what it recorded.
    """

    trainer: Trainer
    stage: str
    number: int
    n_epoch: int
    num_batches: int
    schedule: Schedule
    position: int = 0
    first_step: int = 0
    step: int = 0
    epoch: int = 0
    batch: Batch | None = None
    loss: Tensor | None = None
    smoothed: SmoothedLoss = field(default_factory=SmoothedLoss)
    predictions: Predictions | None = None
    values: dict[str, float] = field(default_factory=dict)
    error: BaseException | None = None
    stop_reason: str = ""
    read_losses: Callable[[], None] = lambda: None
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler(enabled=False)
    )
    callbacks: Sequence[Callback] = ()
    eager: bool = False

    def stop(self, reason: str) -> None:
        """End the fit after the present step or epoch.

        Args:
            reason: Printed; a short sentence.
        """
        self.stop_reason = reason

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the scaler; empty where nothing is scaled."""
        return self.scaler.state_dict()

    def restore(
        self, *, smoothed: Sequence[float], scaler: dict[str, Any], factors: Sequence[float]
    ) -> None:
        """Go on from an earlier state of this fit."""
        self.smoothed.load_state(smoothed)
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.schedule = replace(self.schedule, factors=tuple(factors))

    @property
    def num_steps(self) -> int:
        """Steps of the whole fit."""
        return self.n_epoch * self.num_batches


class Callback:
    """Something that is told of the events of a fit; override the ones that matter.

    Attributes:
        order: Callbacks with a lower number are told first.
    """

    order: ClassVar[int] = 0

    def before_fit(self, fit: Fit) -> None:
        """The fit is about to begin; optimiser and schedule are there."""

    def before_epoch(self, fit: Fit) -> None:
        """An epoch is about to begin."""

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """A batch is about to go through the network; return it, changed or not."""
        del fit
        return batch

    def after_step(self, fit: Fit) -> None:
        """The weights have moved (with accumulation: the gradients have been added)."""

    def before_validate(self, fit: Fit) -> None:
        """The epoch is trained and about to be validated: weights put in now are those that are measured."""

    def after_epoch(self, fit: Fit) -> None:
        """The epoch was validated; ``fit.values`` and ``fit.predictions`` are of this epoch."""

    def after_fit(self, fit: Fit) -> None:
        """The fit is over, whatever ended it: every callback is told, last of all."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep: tensors, and values that JSON can hold."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned in a run that was cut off."""


Callbacks = Callback | Iterable[Callback] | None
"""What may be given as ``cbs``."""


def as_callbacks(cbs: Callbacks) -> list[Callback]:
    """Return callbacks as a new list.

    Raises:
        ConfigError: One of them is none.
    """
    found = [] if cbs is None else [cbs] if isinstance(cbs, Callback) else list(cbs)
    for callback in found:
        if not isinstance(callback, Callback):  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
            raise ConfigError(
                f"Callbacks are objects made of classes that inherit from Callback. Received: {callback!r}"
            )
    return found
