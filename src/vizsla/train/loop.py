"""Batches, a step and callbacks in; the losses of an epoch out. The loop that all training goes through.

Nothing here waits for the device: losses are kept there and read a few times a second, when the progress bar moves. A loss
that is not finite is noticed at that moment and named with its step, its rates and the pictures of its batch.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import TrainingError
from vizsla.machine import keep_freed_memory
from vizsla.seeding import derive_seed, seed_global
from vizsla.train.distributed import mean_over_processes, share
from vizsla.train.optim import set_hyperparameters

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vizsla.train.callbacks.base import Callback, Fit
    from vizsla.train.step import TrainingStep
    from vizsla.types import Batch

SECONDS_BETWEEN_READS = 0.25
STEPS_BETWEEN_READS = 20
MAX_NAMED_FILES = 5


@contextmanager
def own_random_numbers(*, device: torch.device) -> Generator[None]:
    """Let training draw its own random numbers; the global random state is afterwards as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def train_epoch(
    fit: Fit,
    batches: Generator[Batch],
    *,
    take_step: TrainingStep,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    on_read: Callable[[list[float]], None] | None = None,
) -> None:
    """Take one step per batch.

    Args:
        fit: Knows how many steps were done, and the schedule; moved on.
        batches: Float pictures on the model's device, of the rest of the epoch; closed at the end, whatever happens.
        take_step: Moves the weights.
        callbacks: Told of every step.
        seed: Dropout of a step draws from it, the epoch and the step, so a fit can be taken up anywhere.
        on_read: Called with the losses of the steps since the last call, a few times a second and at the end.

    Raises:
        TrainingError: A loss is not finite.
    """
    keep_freed_memory()
    rank, world = share()
    part = "" if world == 1 else f" in process {rank}"
    unread = _UnreadLosses(fit)
    last_read = time.monotonic()

    def read() -> None:
        losses = unread.read()
        if losses and on_read is not None:
            on_read(losses)

    fit.read_losses = read
    try:
        with closing(batches):
            for batch in batches:
                seed_global(
                    derive_seed(seed, f"step {fit.step} of epoch {fit.position + fit.epoch}{part}"),
                    device=batch.images.device,
                )
                set_hyperparameters(
                    take_step.optimiser,
                    rates=fit.schedule.rates_at(fit.step),
                    momentum=fit.schedule.momentum_at(fit.step),
                )
                for callback in callbacks:
                    batch = callback.before_step(fit, batch)
                fit.batch = batch
                fit.loss = take_step(batch, last=(fit.step + 1) % fit.num_batches == 0)
                unread.add(fit.loss, rows=batch.rows)
                fit.step += 1
                for callback in callbacks:
                    callback.after_step(fit)
                # Several processes have to read at the same step, whatever their clocks say.
                due = time.monotonic() - last_read > SECONDS_BETWEEN_READS
                if due if world == 1 else fit.step % STEPS_BETWEEN_READS == 0:
                    read()
                    last_read = time.monotonic()
                if fit.stop_reason:
                    break
    finally:
        fit.batch = None
    read()


class _UnreadLosses:
    """Losses that are still on the device, with what an error would have to name."""

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self._losses: list[Tensor] = []
        self._rows: list[Tensor] = []

    def add(self, loss: Tensor, *, rows: Tensor) -> None:
        self._losses.append(loss)
        self._rows.append(rows)

    def read(self) -> list[float]:
        """Wait for the device and return the losses since the last call."""
        if not self._losses:
            return []
        losses: list[float] = mean_over_processes(torch.stack(self._losses)).tolist()
        first = self._fit.step - len(losses)
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise _not_finite(self._fit, loss, step=first + offset, rows=self._rows[offset])
        self._losses.clear()
        self._rows.clear()
        return losses


def _not_finite(fit: Fit, loss: float, *, step: int, rows: Tensor) -> TrainingError:
    rates = ", ".join(
        f"group {group}: {rate:.3g}" for group, rate in enumerate(fit.schedule.rates_at(step))
    )
    table = fit.trainer.dls.table
    files = ", ".join(table.shown_path(row) for row in rows[:MAX_NAMED_FILES].tolist())
    more = f" and {len(rows) - MAX_NAMED_FILES} more" if len(rows) > MAX_NAMED_FILES else ""
    return TrainingError(
        f"The loss became {loss} at step {step} of {fit.num_steps}, at learning rates {rates} (earliest layers first), on "
        f"{files}{more}. Start again from the last good weights with a learning rate ten times lower; if it happens at any "
        "rate, look at these pictures and labels."
    )
