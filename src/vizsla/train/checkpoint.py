"""A running fit in, a file from which a new process goes on as if nothing had happened out.

A step depends on the weights, the optimiser, the rates of its position, its batch and its random numbers. The last three follow
from (seed, epoch, step); the first two, the record so far and the state of callbacks are what a checkpoint holds. So a run that
was killed and resumed ends with the same weights as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.errors import ConfigError, OutputError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.model_file.bundle import fingerprint
from vizsla.train.callbacks.base import Callback
from vizsla.train.distributed import any_of, is_main, share
from vizsla.train.loop import STEPS_BETWEEN_READS
from vizsla.train.recorder import FitRecord
from vizsla.train.saved_weights import describe_model
from vizsla.train.state_file import load_state, pack_optimiser, save_state, unpack_optimiser

if TYPE_CHECKING:
    from vizsla.train.callbacks.base import Fit
    from vizsla.train.trainer import Trainer
    from vizsla.types import PictureTable

FILE_NAME = "checkpoint.safetensors"

_CANNOT_DIFFER = ("model", "callbacks", "trained parameters")
_IN_WORDS = {
    "data": "data: other pictures or labels than then",
    "split": "split: other pictures to learn from or to validate on than then",
}
_MAKES_THE_STEPS = ("stage", "epochs", "steps of an epoch")

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process that was told to end."""


class Checkpoint(Callback):
    """Writes the state of training to a file now and then, and goes on from it in another process.

    Build the same learner and call the same fits again with ``resume=True``: fits that were done are left out, the one that was
    cut off continues at its step. Each file replaces the last one, whole or not at all.

    Args:
        folder: Where the file is written; made if need be.
        every_steps: Write after so many steps.
        every_seconds: Write when so much time has passed since the last time; several processes look at their clocks every
            20 steps. Both may be None: then at the ends of epochs only, where it is written in any case.
        resume: Go on from the file in ``folder``; if there is none, begin.
        force: Go on although data, settings or versions differ from those of the file; where that makes for another number of
            steps, at the beginning of the epoch that was cut off.

    Raises:
        ConfigError: A number is not positive; at the start of a fit: the file is of other data, settings or versions.
        ModelFileError: At the start of a fit: the file is damaged.
        OutputError: The file cannot be written.

    Example:
        >>> learn.fine_tune(5, cbs=Checkpoint("run", every_seconds=60, resume=True))
    """

    order = 100

    def __init__(
        self,
        folder: Path | str,
        *,
        every_steps: int | None = None,
        every_seconds: float | None = 300.0,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        for name, number in (("every_steps", every_steps), ("every_seconds", every_seconds)):
            if number is not None and not number > 0:
                raise ConfigError(f"{name} is a positive number or None. Received: {number!r}")
        self.path = Path(folder) / FILE_NAME
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.resume = resume
        self.force = force
        self.callbacks: tuple[Callback, ...] = ()
        self._identity: dict[str, Any] = {}
        self._last = 0.0
        self._told_to_end = False
        self._old_handler: Any = None
        self._listens = False

    def before_fit(self, fit: Fit) -> None:
        """Go on from the file if there is one; begin to listen for the signal to end."""
        self._last = time.monotonic()
        self._told_to_end = False
        self._identity = identity_of(fit)
        if self.resume and self.path.is_file():
            self._go_on(fit)
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_signal)
            self._listens = True

    def after_step(self, fit: Fit) -> None:
        """Write if it is time."""
        in_epoch = fit.step % fit.num_batches
        if not in_epoch or in_epoch % fit.trainer.accumulate:
            return  # The epoch is about to be validated and then written; gathered gradients are not in the file.
        due = self.every_steps is not None and in_epoch % self.every_steps == 0
        ends = False
        # Several processes have to ask one another at the same steps.
        if share()[1] == 1 or in_epoch % STEPS_BETWEEN_READS == 0:
            passed = time.monotonic() - self._last
            late = self.every_seconds is not None and passed > self.every_seconds
            ends = any_of(self._told_to_end)
            due = any_of(due or late or ends)
        if due:
            self.write(fit)
        if ends:
            self._end(fit)

    def after_epoch(self, fit: Fit) -> None:
        """Write."""
        self.write(fit)
        if any_of(self._told_to_end):
            self._end(fit)

    def after_fit(self, fit: Fit) -> None:
        """Stop listening."""
        del fit
        if self._listens:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._listens = False

    def write(self, fit: Fit) -> None:
        """Write the state of a fit to the file; of several processes only the main one does."""
        fit.read_losses()
        self._last = time.monotonic()
        if not is_main():
            return
        trainer = fit.trainer
        tensors = {f"model/{name}": value for name, value in trainer.model.state_dict().items()}
        optimiser: dict[str, Any] = {}
        if trainer.opt is not None:
            state, optimiser = pack_optimiser(trainer.opt)
            tensors |= state
        kept: list[dict[str, Any]] = []
        for place, callback in enumerate(fit.callbacks):
            plain: dict[str, Any] = {}
            for name, value in callback.state().items():
                if isinstance(value, Tensor):
                    tensors[f"callback/{place}/{name}"] = value
                else:
                    plain[name] = value
            kept.append({"class": type(callback).__name__, "values": plain})
        values = {
            "identity": self._identity,
            "fit": {"number": fit.number, "step": fit.step, "position": fit.position},
            "factors": list(fit.schedule.factors),
            "smoothed": fit.smoothed.state(),
            "scaler": fit.scaler_state(),
            "epochs_done": trainer.epochs_done,
            "fits": [asdict(record) for record in trainer.recorder.fits],
            "history": [asdict(point) for point in trainer.recorder.history],
            "optimiser": optimiser,
            "callbacks": kept,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot make the folder {self.path.parent}: {error.strerror}. Choose another folder."
            ) from error
        save_state(self.path, tensors, values=values)

    def _go_on(self, fit: Fit) -> None:
        """Put everything back to where the file was written, if that was in this fit or a later one."""
        tensors, values = load_state(self.path)
        saved = values["fit"]
        if fit.number > saved["number"]:
            return
        if fit.number < saved["number"]:
            fit.first_step = fit.num_steps  # It was done.
            return
        differing = self._check_identity(fit, values["identity"])
        trainer = fit.trainer
        trainer.model.load_state_dict(_below("model/", tensors))
        if trainer.opt is not None:
            unpack_optimiser(trainer.opt, tensors, values["optimiser"])
        trainer.recorder.fits[:] = [FitRecord(**record) for record in values["fits"]]
        trainer.recorder.history[:] = [HistoryPoint(**point) for point in values["history"]]
        trainer.epochs_done = values["epochs_done"]
        fit.first_step, fit.position = saved["step"], saved["position"]
        factors = values["factors"]
        if differing.intersection(_MAKES_THE_STEPS):
            done = saved["step"] // values["identity"]["steps of an epoch"]
            fit.first_step = min(done, fit.n_epoch) * fit.num_batches
            factors = fit.schedule.factors
        fit.restore(smoothed=values["smoothed"], scaler=values["scaler"], factors=factors)
        for place, (callback, kept) in enumerate(
            zip(fit.callbacks, values["callbacks"], strict=True)
        ):
            state = {**kept["values"], **_below(f"callback/{place}/", tensors)}
            if state:
                callback.load_state(state)
        trainer.display.line(f"Going on after step {fit.first_step} of {fit.num_steps}.")

    def _check_identity(self, fit: Fit, saved: dict[str, Any]) -> set[str]:
        """Return the names of what differs, which was forced then."""
        differing = differences(saved, self._identity)
        if not differing:
            return set()
        what = "; ".join(differing.values())
        if not self.force or differing.keys() & set(_CANNOT_DIFFER):
            raise ConfigError(
                f"{self.path} was written by another run. What differs: {what}. Give what was given then, begin anew without "
                "resume, or go on all the same with force=True (--force), which cannot bridge another network or other callbacks."
            )
        fit.trainer.display.line(f"Going on although something differs: {what}.")
        return set(differing)

    def _end(self, fit: Fit) -> None:
        fit.trainer.display.line(
            f"Told to end after step {fit.step} of {fit.num_steps}; the state is in {self.path}. "
            "Go on with the same words and --resume (in Python: resume=True)."
        )
        raise SystemExit(TERMINATED)

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._told_to_end = True


def differences(saved: dict[str, Any], present: dict[str, Any]) -> dict[str, str]:
    """Return what was another one then, by name, in words."""
    return {
        name: _IN_WORDS.get(name, f"{name}: {_short(saved.get(name))} then, {_short(value)} now")
        for name, value in present.items()
        if saved.get(name) != value
    }


def data_identity(table: PictureTable) -> dict[str, str]:
    """Return digests of the pictures with their labels, and of who is in which split."""
    splits = [
        sorted(table.shown_path(row) for row in rows.tolist())
        for rows in (table.train_rows, table.valid_rows)
    ]
    split = hashlib.sha256(json.dumps(splits).encode()).hexdigest()
    return {"data": fingerprint(table), "split": split}


def identity_of(fit: Fit) -> dict[str, Any]:
    """Return what has to be the same for a fit to be continued."""
    trainer: Trainer = fit.trainer
    trains = [name for name, value in trainer.model.named_parameters() if value.requires_grad]
    return {
        "model": describe_model(trainer),
        "callbacks": [type(callback).__name__ for callback in fit.callbacks],
        **data_identity(trainer.dls.table),
        "seed": trainer.dls.seed,
        "batch size": trainer.dls.bs,
        "stage": fit.stage,
        "epochs": fit.n_epoch,
        "steps of an epoch": fit.num_batches,
        "learning rates": list(fit.schedule.rates),
        "trained parameters": len(trains),
        "batches of a step": trainer.accumulate,
        "precision": trainer.precision,
        "vizsla": _version("vizsla"),
        "torch": torch.__version__,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
