"""A network, batches, an optimiser and a schedule in; the losses of every step out. The loop that all training goes through.

Nothing here waits for the device in a step: losses are kept there and read a few times a second, when the progress bar
moves. A loss that is not finite is noticed at that moment and named with its step and rates.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.allocator import keep_freed_memory
from vizsla.errors import TrainingError
from vizsla.train.optim import set_hyperparameters

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import nn

    from vizsla.infer.run import Precision
    from vizsla.train.schedules import Schedule
    from vizsla.types import Batch

SECONDS_BETWEEN_READS = 0.25
SMOOTHING = 0.98
"""Share of the past in the smoothed loss; about the last 50 steps count."""


class SmoothedLoss:
    """Exponentially weighted mean of the losses of a fit, corrected for its start at zero."""

    def __init__(self, *, beta: float = SMOOTHING) -> None:
        self._beta = beta
        self._sum = 0.0
        self._steps = 0

    def add(self, losses: list[float]) -> None:
        """Take in the losses of further steps."""
        for loss in losses:
            self._sum = self._beta * self._sum + (1 - self._beta) * loss
            self._steps += 1

    @property
    def value(self) -> float:
        """The smoothed loss; nan before the first step."""
        return self._sum / (1 - self._beta**self._steps) if self._steps else math.nan


@contextmanager
def own_random_numbers(seed: int, *, device: torch.device) -> Generator[None]:
    """Let dropout draw from this seed while the block runs; the global random state is afterwards as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """What every step of a fit shares.

    Attributes:
        model: Trained in place; its mode is the caller's choice.
        loss_function: Takes logits ``(B, C)`` and targets ``(B,)``, returns a scalar.
        optimiser: Over the parameters that train.
        schedule: Rates of every step of the whole fit.
        precision: ``"fp32"`` or ``"bf16"`` autocast.
        on_read: Called with the number of steps of the epoch done and their losses since the last call.
    """

    model: nn.Module
    loss_function: Callable[[Tensor, Tensor], Tensor]
    optimiser: torch.optim.AdamW
    schedule: Schedule
    precision: Precision = "fp32"
    on_read: Callable[[int, list[float]], None] | None = None


def train_epoch(context: StepContext, batches: Generator[Batch], *, first_step: int) -> list[float]:
    """Take one step per batch and return their losses.

    Args:
        context: Model, loss, optimiser and schedule.
        batches: Float pictures on the model's device; closed at the end, whatever happens.
        first_step: Position of the first batch in the schedule.

    Returns:
        One loss per step.

    Raises:
        TrainingError: A loss is not finite.
    """
    keep_freed_memory()
    unread: list[Tensor] = []
    losses: list[float] = []
    last_read = time.monotonic()

    def read() -> None:
        fresh = torch.stack(unread).tolist() if unread else []
        unread.clear()
        for offset, loss in enumerate(fresh):
            if not math.isfinite(loss):
                raise _not_finite(
                    loss, step=first_step + len(losses) + offset, schedule=context.schedule
                )
        losses.extend(fresh)
        if context.on_read is not None:
            context.on_read(len(losses), fresh)

    with closing(batches):
        for step, batch in enumerate(batches, start=first_step):
            set_hyperparameters(context.optimiser, context.schedule, step=step)
            unread.append(take_step(context, batch))
            if time.monotonic() - last_read > SECONDS_BETWEEN_READS:
                read()
                last_read = time.monotonic()
    read()
    return losses


def take_step(context: StepContext, batch: Batch) -> Tensor:
    """Forward, backward, one optimiser step; return the loss as a scalar that stays on the device."""
    device_type = batch.images.device.type
    faster = (
        torch.autocast(device_type, torch.bfloat16)
        if context.precision == "bf16"
        else nullcontext()
    )
    with faster:
        logits = context.model(batch.images)
        loss = context.loss_function(logits.float(), batch.targets)
    loss.backward()
    context.optimiser.step()
    context.optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def _not_finite(loss: float, *, step: int, schedule: Schedule) -> TrainingError:
    rates = ", ".join(f"{rate:.3g}" for rate in schedule.learning_rates[step])
    return TrainingError(
        f"The loss became {loss} at step {step} of {len(schedule.learning_rates)}, at learning rates {rates} "
        "(earliest layers first). Start again from the last good weights with a learning rate ten times lower."
    )
