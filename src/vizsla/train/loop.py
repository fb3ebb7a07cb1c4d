"""The training loop: epochs of steps, each epoch validated and recorded, callbacks called at every event.

``run_fit``, read from top to bottom, is all that happens in a fit. Nothing in a step waits for the device: losses stay there and
are read a few times a second, when the progress bar moves.
"""

from __future__ import annotations

import copy
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

from vizsla.data.loading.dataloaders import DataLoader
from vizsla.data.loading.loader import reading_meanwhile
from vizsla.errors import TrainingError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.machine import keep_freed_memory
from vizsla.seeding import derive_seed, seed_global
from vizsla.train.callbacks.base import CancelBatchException, CancelValidException
from vizsla.train.cuda_graphs import rehearsal
from vizsla.train.display import format_seconds
from vizsla.train.distributed import STEPS_BETWEEN_READS, share
from vizsla.train.optim import set_hyperparameters
from vizsla.train.step import TrainingStep

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.display import MoveBar
    from vizsla.types import Batch

SECONDS_BETWEEN_READS = 0.25


def run_fit(fit: Fit) -> None:
    """Train epoch by epoch; ``Trainer.run`` made the fit."""
    trainer, callbacks = fit.trainer, fit.callbacks
    rank, world = share()
    process = "" if world == 1 else f" in process {rank}"
    keep_freed_memory()
    with _after_fit_of_all(fit):
        for callback in callbacks:
            fit.settings = callback.configure(fit, fit.settings)
        for callback in callbacks:
            callback.before_fit(fit)
        take_step = _step_of(fit)
        fit.step = fit.first_step
        if fit.measured and trainer.show_table and fit.step < fit.num_steps:
            trainer.display.header(("epoch", *trainer.recorder.value_names, "time"))

        for epoch in range(fit.first_step // fit.num_batches, fit.n_epoch):
            started = last_read = time.monotonic()
            end_of_epoch = (epoch + 1) * fit.num_batches
            name = f"{fit.settings.epoch_name} {epoch + 1}/{fit.n_epoch}"
            label = name if fit.measured else fit.stage
            fit.begin_epoch(epoch)
            trainer.epochs_done = fit.position + epoch + 1
            trainer.training_mode()
            for callback in callbacks:
                callback.before_epoch(fit)
            take_step.refresh()
            with (
                trainer.display.bar(label, total=fit.num_batches, unit="batches") as move_bar,
                _batches_of_epoch(fit) as batches,
            ):
                for batch in batches if not (fit.stop_reason or fit.skip_rest) else ():
                    # Random numbers follow from the number of the step, so that a fit can be resumed anywhere.
                    name = f"step {fit.step} of epoch {fit.position + epoch}{process}"
                    seed_global(derive_seed(trainer.dls.seed, name), device=batch.images.device)
                    set_hyperparameters(
                        take_step.optimiser,
                        rates=fit.schedule.rates_at(fit.step),
                        momentum=fit.schedule.momentum_at(fit.step),
                    )
                    try:
                        for callback in callbacks:
                            batch = callback.before_step(fit, batch)
                        fit.batch = batch
                        loss = take_step(batch, last=fit.step + 1 == end_of_epoch)
                    except CancelBatchException:
                        loss = torch.zeros(()) if fit.loss is None else fit.loss
                    fit.step_done(loss, rows=batch.rows)
                    for callback in callbacks:
                        callback.after_step(fit)
                    if _is_time_to_read(fit, last_read):
                        last_read = _read_losses(fit, move_bar)
                    if fit.stop_reason or fit.skip_rest:
                        break
                fit.batch = None
                _read_losses(fit, move_bar)
                if fit.skip_rest:
                    fit.step = end_of_epoch

            if take_step.gave_up_graphs:
                trainer.cuda_graphs = False  # Another try would fail again.
            is_cut_off = fit.stop_reason and fit.step < end_of_epoch
            if fit.measured and not is_cut_off and fit.skip_rest != "epoch":
                with suppress(CancelValidException):
                    for callback in callbacks:
                        callback.before_validate(fit)
                    _validate(fit, started=started)
                    for callback in callbacks:
                        callback.after_epoch(fit)
            if fit.stop_reason:
                if fit.measured:
                    trainer.display.line(fit.stop_reason)
                break


@contextmanager
def own_random_numbers(*, device: torch.device) -> Generator[None]:
    """Let training draw its own random numbers; afterwards the global random state is as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _step_of(fit: Fit) -> TrainingStep:
    trainer = fit.trainer
    if trainer.opt is None:
        raise TrainingError("A callback removed the optimiser before the fit.")
    is_alone = share()[1] == 1
    return TrainingStep(
        trainer.classifier,
        loss_function=trainer.loss_func,
        optimiser=trainer.opt,
        precision=trainer.precision,
        settings=fit.settings,
        forward=trainer.forward_pass(),
        scaler=fit.scaler,
        whole_batch=None if is_alone else min(trainer.dls.train.bs, trainer.dls.train.n),
        captured=trainer.uses_graphs() and not fit.settings.eager,
        say=trainer.display.line,
        events=trainer.events if trainer.events.callbacks else None,
    )


@contextmanager
def _batches_of_epoch(fit: Fit) -> Generator[Generator[Batch]]:
    """Give the batches of this epoch that are still to be trained on; no thread that reads them outlives the block."""
    trainer, settings = fit.trainer, fit.settings
    loader, valid = trainer.dls.train, trainer.dls.valid
    if settings.sizes:
        loader = copy.copy(loader)
        loader.augmentation = copy.copy(loader.augmentation)
        loader.augmentation.size = settings.sizes[fit.epoch * len(settings.sizes) // fit.n_epoch]
    options: dict[str, Any] = {} if share()[1] == 1 else {"share": share()}
    if settings.clock is not None:
        options["augmenting"] = settings.clock.augmenting
    start = fit.step - fit.epoch * fit.num_batches
    batches = loader.batches(epoch=fit.position + fit.epoch, start=start, **options)
    # Loaders of the classic dialect cannot be read ahead.
    reads_ahead = fit.measured and isinstance(valid, DataLoader)  # pyright: ignore[reportUnnecessaryIsInstance]
    # Later fits find the kernels loaded.
    is_first = fit.number == 0 and fit.step == fit.first_step and not settings.eager
    with (
        reading_meanwhile(valid.loader) if reads_ahead else nullcontext(),
        closing(batches),
        own_random_numbers(device=trainer.dls.device),
        rehearsal(trainer) if is_first else nullcontext() as rehearsed,
    ):
        yield batches if rehearsed is None else _after(rehearsed, batches)


def _after(thread: threading.Thread, batches: Generator[Batch]) -> Generator[Batch]:
    """Yield batches, the first of them once a thread has ended; it may run while that batch is read."""
    for batch in batches:
        thread.join()
        yield batch


def _is_time_to_read(fit: Fit, last_read: float) -> bool:
    """Whether to read the losses. Several processes must do so at the same step, whatever their clocks say."""
    if share()[1] > 1:
        return fit.step % STEPS_BETWEEN_READS == 0
    return time.monotonic() - last_read > SECONDS_BETWEEN_READS


def _read_losses(fit: Fit, move_bar: MoveBar) -> float:
    """Read the losses of the last steps, move the bar, and return the time."""
    fit.read_losses()
    move_bar(fit.step - fit.epoch * fit.num_batches, f"loss {fit.smoothed.value:.4f}")
    return time.monotonic()


def _validate(fit: Fit, *, started: float) -> None:
    """Measure the model on the validation images, record the results, print a row."""
    trainer, record = fit.trainer, fit.record
    recorder = trainer.recorder
    fit.predictions = found = trainer.predictions()
    values = [fit.smoothed.value, *trainer.measure(found)]
    fit.values = dict(zip(recorder.value_names, values, strict=True))
    seconds = time.monotonic() - started
    record.values.append(values)
    record.iters.append(len(record.losses))
    has_accuracy = found.task == "category" and len(found.rows)
    recorder.history.append(
        HistoryPoint(
            stage=fit.stage,
            epoch=len(recorder.history),
            train_loss=values[0],
            valid_loss=values[1],
            accuracy=float(found.correct.float().mean()) if has_accuracy else None,
            seconds=seconds,
        )
    )
    if trainer.show_table:
        cells = (f"{value:.6f}" for value in values)
        trainer.display.row([str(fit.epoch), *cells, format_seconds(seconds)])


@contextmanager
def _after_fit_of_all(fit: Fit) -> Generator[None]:
    """Call ``after_fit`` of every callback when the block ends, whatever ended it; then raise the first error.

    The error that ended the fit arrives unchanged; one in ``after_fit`` becomes a note to it. A fit without a step leaves no record.
    """
    fits, problem = fit.trainer.recorder.fits, None
    if fit.measured:
        fits.append(fit.record)
    try:
        yield
    except BaseException as error:
        fit.error = error
        raise
    finally:
        fit.batch = None
        for callback in fit.callbacks:
            try:
                callback.after_fit(fit)
            except BaseException as error:  # noqa: BLE001 (raised below)
                if fit.error is not None:
                    name = type(callback).__name__
                    fit.error.add_note(
                        f"{name}.after_fit failed too: {type(error).__name__}: {error}"
                    )
                problem = problem or error
        if fit.error is not None and fit.measured and not fits[-1].losses:
            fits.pop()
        if problem is not None and fit.error is None:
            raise problem
