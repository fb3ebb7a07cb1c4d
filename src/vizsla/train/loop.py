"""Batches, a step and callbacks in; the losses of an epoch out. The loop that all training goes through.

Nothing here waits for the device: losses are kept there and read a few times a second, when the progress bar moves. A loss
that is not finite is noticed at that moment and named with its step, its rates and the pictures of its batch.

A fit that is ready to begin in; its epochs trained, validated, recorded and printed, its callbacks told, out.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.data.loading.dataloaders import DataLoader
from vizsla.data.loading.loader import reading_meanwhile
from vizsla.errors import TrainingError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.machine import keep_freed_memory
from vizsla.seeding import derive_seed, seed_global
from vizsla.train.cuda_graphs import rehearsal
from vizsla.train.display import format_seconds
from vizsla.train.distributed import mean_over_processes, share
from vizsla.train.optim import set_hyperparameters
from vizsla.train.recorder import FitRecord
from vizsla.train.step import TrainingStep, make_scaler

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Sequence

    from vizsla.train.callbacks.base import Callback, Fit
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


def run_fit(fit: Fit, *, callbacks: Sequence[Callback], measured: bool = True) -> None:
    """Train epoch by epoch.

    Args:
        fit: Its trainer has an optimiser.
        callbacks: Told of everything, in this order.
        measured: Validate, print and record.

    Raises:
        TrainingError: The loss is not finite any more.
        PictureError: A picture cannot be read.
    """
    recorder = fit.trainer.recorder
    if measured:
        recorder.fits.append(FitRecord(stage=fit.stage))
    fit.callbacks = callbacks
    fit.scaler = make_scaler(fit.trainer.precision)
    try:
        for callback in callbacks:
            callback.before_fit(fit)
        _run_epochs(fit, callbacks=callbacks, measured=measured)
    except BaseException as error:
        fit.error = error
        raise
    finally:
        _tell_of_the_end(fit, callbacks=callbacks)
        if measured and fit.error is not None and not recorder.last.losses:
            recorder.fits.pop()  # It ended before anything was learned of it.


def _run_epochs(fit: Fit, *, callbacks: Sequence[Callback], measured: bool) -> None:
    trainer = fit.trainer
    if trainer.opt is None:
        raise TrainingError("A callback took the optimiser away before the fit.")
    take_step = TrainingStep(
        trainer.model,
        loss_function=trainer.loss_func,
        optimiser=trainer.opt,
        precision=trainer.precision,
        accumulate=trainer.accumulate,
        clip=trainer.clip,
        forward=trainer.forward_pass(),
        scaler=fit.scaler,
        whole_batch=None if share()[1] == 1 else min(trainer.dls.train.bs, trainer.dls.train.n),
        captured=trainer.uses_graphs() and not fit.eager,
        say=trainer.display.line,
    )
    fit.step = fit.first_step
    if measured and trainer.show_table and fit.first_step < fit.num_steps:
        names = ("epoch", "train_loss", "valid_loss", *trainer.recorder.metric_names, "time")
        trainer.display.header(names)
    for epoch in range(fit.first_step // fit.num_batches, fit.n_epoch):
        started = time.monotonic()
        fit.epoch = epoch
        trainer.epochs_done = fit.position + epoch + 1
        for callback in callbacks:
            callback.before_epoch(fit)
        valid = trainer.dls.valid
        is_ours = isinstance(valid, DataLoader)  # pyright: ignore[reportUnnecessaryIsInstance] (lesson one has batches of its own)
        with reading_meanwhile(valid.loader) if measured and is_ours else nullcontext():
            _train_epoch(fit, take_step, callbacks=callbacks, measured=measured)
        if take_step.gave_up_graphs:
            trainer.cuda_graphs = False  # Another try would fail again.
        cut_off = fit.stop_reason and fit.step < (epoch + 1) * fit.num_batches
        if measured and not cut_off:
            for callback in callbacks:
                callback.before_validate(fit)
            _validate(fit, started=started)
            for callback in callbacks:
                callback.after_epoch(fit)
        if fit.stop_reason:
            if measured:
                trainer.display.line(fit.stop_reason)
            break


def _train_epoch(
    fit: Fit, take_step: TrainingStep, *, callbacks: Sequence[Callback], measured: bool
) -> None:
    """Take the steps of the present epoch under a moving bar."""
    trainer = fit.trainer
    record = trainer.recorder.fits[-1] if measured else FitRecord(stage=fit.stage)
    label = f"epoch {fit.epoch + 1}/{fit.n_epoch}" if measured else fit.stage
    before = fit.epoch * fit.num_batches
    with trainer.display.bar(label, total=fit.num_batches, unit="batches") as move:

        def on_read(losses: list[float]) -> None:
            steps = range(fit.step - len(losses), fit.step)
            momenta = (fit.schedule.momentum_at(step) for step in steps)
            record.smoothed += fit.smoothed.add(losses)
            record.losses += losses
            record.lrs += [fit.schedule.rates_at(step)[-1] for step in steps]
            record.moms += [momentum for momentum in momenta if momentum is not None]
            move(fit.step - before, f"loss {fit.smoothed.value:.4f}")

        trainer.training_mode()
        take_step.refresh()
        parts = {} if share()[1] == 1 else {"share": share()}
        batches = trainer.dls.train.batches(
            epoch=fit.position + fit.epoch, start=fit.step - before, **parts
        )
        # Later fits find the kernels loaded.
        is_first = fit.number == 0 and fit.step == fit.first_step and not fit.eager
        with (
            own_random_numbers(device=trainer.dls.device),
            rehearsal(trainer) if is_first else nullcontext() as rehearsed,
        ):
            train_epoch(
                fit,
                _after(rehearsed, batches),
                take_step=take_step,
                callbacks=callbacks,
                seed=trainer.dls.seed,
                on_read=on_read,
            )


def _after(thread: threading.Thread | None, batches: Generator[Batch]) -> Generator[Batch]:
    """Yield batches, the first of them when a thread has ended that may run while it is read."""
    with closing(batches):
        for batch in batches:
            if thread is not None:
                thread.join()
            yield batch


def _validate(fit: Fit, *, started: float) -> None:
    """Measure the model on the validation pictures, record it, print a row."""
    trainer = fit.trainer
    recorder, record = trainer.recorder, trainer.recorder.fits[-1]
    fit.predictions = trainer.predictions()
    values = [fit.smoothed.value, *trainer.measure(fit.predictions)]
    names = ("train_loss", "valid_loss", *recorder.metric_names)
    fit.values = dict(zip(names, values, strict=True))
    seconds = time.monotonic() - started
    record.values.append(values)
    record.iters.append(len(record.losses))
    has_accuracy = trainer.dls.table.task == "category" and len(fit.predictions.rows)
    recorder.history.append(
        HistoryPoint(
            stage=fit.stage,
            epoch=len(recorder.history),
            train_loss=values[0],
            valid_loss=values[1],
            accuracy=float(fit.predictions.correct.float().mean()) if has_accuracy else None,
            seconds=seconds,
        )
    )
    if trainer.show_table:
        cells = (f"{value:.6f}" for value in values)
        trainer.display.row([str(fit.epoch), *cells, format_seconds(seconds)])


def _tell_of_the_end(fit: Fit, *, callbacks: Sequence[Callback]) -> None:
    """Call ``after_fit`` of all callbacks; when all were told, the first error comes up.

    What ended the fit arrives unchanged: an error after it is a note to it.
    """
    problem: BaseException | None = None
    for callback in callbacks:
        try:
            callback.after_fit(fit)
        except BaseException as error:  # noqa: BLE001 (raised below)
            if fit.error is not None:
                name = type(callback).__name__
                fit.error.add_note(f"{name}.after_fit failed too: {type(error).__name__}: {error}")
            problem = problem or error
    if problem is not None and fit.error is None:
        raise problem
