"""Keep the state of training: the best weights in memory, saved weights, and checkpoints from which a new process goes on.

A step depends on the weights, the optimiser, the rates of its position, its batch and its random numbers. The last three follow
from (seed, epoch, step); the first two, the record so far and the state of callbacks are what a checkpoint holds. So a run that
was killed and resumed ends with the same weights as one that was not, bit for bit on a CPU. Files are safetensors; nothing in
them can run code.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
import warnings
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vizsla import __version__
from vizsla.data.table.check import digest_of, fingerprint, json_parts
from vizsla.errors import ConfigError, ModelFileError, OutputError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.files import atomic_write
from vizsla.text import joined
from vizsla.train.callbacks.base import Callback
from vizsla.train.distributed import (
    STEPS_BETWEEN_READS,
    all_of,
    any_of,
    from_process,
    is_main,
    share,
)
from vizsla.train.recorder import FitRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.trainer import Trainer
    from vizsla.types import ImageTable


class BestWeights:
    """The best weights of a model so far, in memory and in the state of a checkpoint."""

    _PREFIX = "best/"

    def __init__(self) -> None:
        self._weights: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._weights)

    def keep(self, model: nn.Module) -> None:
        """Copy the present weights."""
        state = model.state_dict(keep_vars=True)
        self._weights = {name: value.detach().clone() for name, value in state.items()}

    def put_back(self, model: nn.Module) -> None:
        """Give the model the kept weights."""
        model.load_state_dict(self._weights)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to keep."""
        return {f"{self._PREFIX}{name}": value for name, value in self._weights.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take the kept weights from a state that ``state`` contributed to."""
        self._weights = _below(self._PREFIX, state)


VALUES_KEY = "vizsla.state"
_MODEL, _OPTIMISER = "model/", "optimiser/"


def save_state(path: Path, tensors: Mapping[str, Tensor], *, values: Mapping[str, Any]) -> Path:
    """Write tensors, and values that JSON can hold, to one file, whole or not at all; its folder is made.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder {path.parent}: {error.strerror}. Choose another folder."
        ) from error
    # Not safetensors' save_file: its errors are not the system's.
    content = save(plain, metadata={VALUES_KEY: json.dumps(values)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the values of a file that ``save_state`` wrote.

    Raises:
        ModelFileError: There is no such file, it is damaged, or another kind of file.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no file {path}. Check the name and the folder.")
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType] (untyped)
            header: dict[str, str] = file.metadata() or {}
            values = json.loads(header[VALUES_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except KeyError as error:
        raise ModelFileError(
            f"{path} is not a training state written by learn.save. Open a finished model with load_learner; "
            "train one further with vision_learner(dls, weights=FILE) or vizsla train DATA --from FILE."
        ) from error
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read: {error}. It is damaged or another kind of file."
        ) from error
    return tensors, values


def _state_or_problem(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | ModelFileError:
    """Return what ``load_state`` returns or raises, to be sent to other processes."""
    try:
        return load_state(path)
    except ModelFileError as error:
        return error


def pack_state(
    trainer: Trainer, *, with_opt: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of model and optimiser for a file, and the optimiser's other values; those are empty without one."""
    tensors = {f"{_MODEL}{name}": value for name, value in trainer.model.state_dict().items()}
    if not with_opt or trainer.opt is None:
        return tensors, {}
    state = trainer.opt.state_dict()
    rest: dict[str, dict[str, Any]] = {}
    for place, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMISER}{place}/{name}"] = value
            else:
                rest.setdefault(str(place), {})[name] = value
    return tensors, {"groups": state["param_groups"], "rest": rest}


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put what ``pack_state`` returned into an optimiser over the same parameters; ``tensors`` may hold others too.

    Raises:
        ModelFileError: The optimiser is over other parameters.
    """
    state: dict[int, dict[str, Any]] = {
        int(place): dict(entries) for place, entries in values["rest"].items()
    }
    parameters = [weight for group in optimiser.param_groups for weight in group["params"]]
    for key, value in _below(_OPTIMISER, tensors).items():
        place, _, name = key.partition("/")
        state.setdefault(int(place), {})[name] = _laid_out(value, like=parameters, at=int(place))
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in values["groups"]
    ]
    try:
        optimiser.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise ModelFileError(
            f"The saved optimiser state is for other parameters: {error}. Freeze the same groups as when it was "
            "saved, or load with with_opt=False."
        ) from error


def _laid_out(value: Tensor, *, like: list[Tensor], at: int) -> Tensor:
    """Return a tensor in the memory order of its parameter (channels-last), in which kernels compute."""
    if at >= len(like) or like[at].shape != value.shape:
        return value
    return torch.empty_like(like[at], dtype=value.dtype, device=value.device).copy_(value)


MAX_NAMED = 4


def save_weights(trainer: Trainer, path: Path, *, with_opt: bool = True) -> Path:
    """Write the weights of a trainer's model; the folder is made.

    Every process has to call this. The main one writes; when the call returns, the file is there for all.

    Raises:
        OutputError: The file cannot be written, in every process; an old one is untouched.
    """
    problem: OutputError | None = None
    if is_main():
        tensors, optimiser = pack_state(trainer, with_opt=with_opt)
        values = describe_model(trainer) | ({"optimiser": optimiser} if optimiser else {})
        try:
            save_state(path, tensors, values=values)
        except OutputError as error:
            problem = error
    if any_of(problem is not None):
        raise problem or OutputError(f"The main process could not write {path}.")
    return path


def load_weights(
    trainer: Trainer, path: Path, *, with_opt: bool = True, strict: bool = True
) -> None:
    """Read weights that ``save_weights`` wrote.

    Every process has to call this. The main one reads: other machines need not see the file.

    Raises:
        ModelFileError: There is no such file, or it belongs to another network or other classes; nothing is loaded then.
    """
    state = from_process(0, _state_or_problem(path) if is_main() else None)
    if isinstance(state, ModelFileError):
        raise state
    tensors, values = state
    weights = _below(_MODEL, tensors)
    misfits = [*differences(values, describe_model(trainer)).values()]
    misfits = misfits or _misfits(weights, trainer.model.state_dict(), strict=strict)
    if misfits:  # torch would load the weights that fit before it reports the others.
        raise ModelFileError(
            f"The weights in {path} do not fit this learner: {joined(misfits, limit=MAX_NAMED, separator='; ')}. "
            "Build it with the same network and head, for the same classes; or, for other classes: "
            "vision_learner(dls, arch, weights=FILE)."
        )
    trainer.model.load_state_dict(weights, strict=strict)
    if not with_opt:
        return
    if "optimiser" not in values:
        warnings.warn(f"{path} has no optimiser state; the optimiser starts afresh.", stacklevel=3)
        trainer.opt = None
        return
    trainer.create_opt()
    try:
        if trainer.opt is not None:
            unpack_optimiser(trainer.opt, tensors, values["optimiser"])
    except ModelFileError as error:
        trainer.opt = None
        warnings.warn(f"{error} The weights are loaded; the optimiser starts afresh.", stacklevel=3)


def describe_model(trainer: Trainer) -> dict[str, Any]:
    """Return what must agree for weights to fit: network and classes."""
    backbone = getattr(trainer.model, "backbone", None)
    architecture = type(trainer.model).__name__ if backbone is None else backbone.spec.name
    return {"architecture": architecture, "vocab": list(trainer.dls.table.vocab)}


def _misfits(there: dict[str, Tensor], here: dict[str, Tensor], *, strict: bool) -> list[str]:
    """Return in words which weights do not fit: those of another shape, with ``strict`` also those on one side only."""
    problems = [
        f"{name} is {tuple(there[name].shape)} there and {tuple(value.shape)} here"
        for name, value in here.items()
        if name in there and there[name].shape != value.shape
    ]
    if strict:
        problems += [f"{name} is missing there" for name in here.keys() - there.keys()]
        problems += [f"{name} is unknown here" for name in there.keys() - here.keys()]
    return sorted(problems)


FILE_NAME = "checkpoint.safetensors"

_CANNOT_DIFFER = ("model", "callbacks", "trained parameters")
_IN_WORDS = {
    "data": "data: images or labels have changed",
    "split": "split: training or validation images have changed",
    "schedule": "schedule: learning rates or momenta have changed",
}
_MAKES_THE_STEPS = ("stage", "epochs", "steps of an epoch")

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a process ended by SIGTERM, as shells report it."""


class Checkpoint(Callback):
    """Saves the state of training to a file regularly, and resumes from it in another process.

    Build the same learner and call the same fits again with ``resume=True``: finished fits are skipped, the interrupted one
    continues at its step. Each file replaces the last one, whole or not at all. If one cannot be written (the disk is full,
    say), a warning says so, the last one stays, and training continues; if this still holds at the end of the fit, another
    warning says so.

    Args:
        folder: Folder for the file; created if needed.
        every_steps: Write after this many steps.
        every_seconds: Write after this much time; several processes look at their clocks every 20 steps. With both None the file
            is written only at the ends of epochs, as it is in any case.
        resume: Resume from the file in ``folder``, or start a new training if there is none.
        force: Resume even if data, settings or versions differ from those of the file. If that changes the number of steps,
            resume at the beginning of the interrupted epoch.

    Raises:
        ConfigError: A number is not positive; at the start of a fit: the file is of other data, settings or versions.
        ModelFileError: At the start of a fit: the file is damaged.

    Examples:
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
                raise ConfigError(f"{name} must be a positive number or None. Received: {number!r}")
        self.path = Path(folder) / FILE_NAME
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.resume = resume
        self.force = force
        self._identity: dict[str, Any] = {}
        self._last = 0.0
        self._told_to_end = False
        self._old_handler: Any = None
        self._kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._was_read = False
        self._problem = ""

    def before_fit(self, fit: Fit) -> None:
        """Resume from the file if there is one; start listening for SIGTERM."""
        self._last = time.monotonic()
        self._told_to_end = False
        self._problem = ""
        self._identity = identity_of(fit)
        self._read_once()
        if self._kept is not None:
            self._go_on(fit, *self._kept)
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_signal)

    def after_step(self, fit: Fit) -> None:
        """Write if it is time."""
        in_epoch = fit.step % fit.num_batches
        if not in_epoch or in_epoch % fit.settings.accumulate:
            return  # An epoch is written after its validation, and a file cannot hold half-gathered gradients.
        due = self.every_steps is not None and in_epoch % self.every_steps == 0
        ends = False
        # Several processes have to ask each other at the same steps.
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
        """Stop listening; warn if the file is not up to date."""
        if self._problem and fit.error is None:
            warnings.warn(
                f"The last checkpoint was not saved: {self._problem} {self._left()}",
                stacklevel=2,
            )
        self._was_read = self._kept is not None  # for the next fit; else that is another learner's
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def write(self, fit: Fit) -> None:
        """Write the state of a fit to the file, or warn; of several processes only the main one writes."""
        fit.read_losses()
        self._last = time.monotonic()
        if not is_main():
            return
        trainer = fit.trainer
        tensors, optimiser = pack_state(trainer)
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
            "smoothed": fit.smoothed.state(),
            "scaler": fit.scaler.state_dict(),
            "epochs_done": trainer.epochs_done,
            "fits": [asdict(record) for record in trainer.recorder.fits],
            "history": [asdict(point) for point in trainer.recorder.history],
            "optimiser": optimiser,
            "callbacks": kept,
        }
        try:
            save_state(self.path, tensors, values=values)
        except OutputError as error:
            self._problem = str(error)
            warnings.warn(
                f"The checkpoint after step {fit.step} could not be saved: {error} Training continues.",
                stacklevel=2,
            )
        else:
            self._problem = ""

    def kept_by(self, callback: type[Callback]) -> dict[str, Any] | None:
        """Return the plain values that a callback of this class has in the file; None if there is nothing to resume from.

        The next fit resumes from this same state, whatever happens to the file in the meantime.

        Raises:
            ModelFileError: The file is damaged.
        """
        self._read_once()
        kept = [] if self._kept is None else self._kept[1]["callbacks"]
        return next((each["values"] for each in kept if each["class"] == callback.__name__), None)

    def _read_once(self) -> None:
        """Read the file once until its fit: another process may replace or remove it meanwhile.

        Of several processes, the one with the latest state gives it to those that do not have it: machines need not share the
        folder, and the main process may be on another one than before.
        """
        if not self.resume or self._was_read:
            return
        self._was_read = True
        own = _state_or_problem(self.path) if self.path.is_file() else None
        problem = own if isinstance(own, ModelFileError) else None
        kept = None if isinstance(own, ModelFileError) else own
        found = all_of((problem, _how_far(kept)))
        for problem, _ in found:
            if problem is not None:
                raise problem
        steps = [step for _, step in found]
        self._kept = kept if len(set(steps)) == 1 else from_process(steps.index(max(steps)), kept)

    def _go_on(self, fit: Fit, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore the state of the file if it is of this fit; skip this fit if the file is of a later one."""
        saved = values["fit"]
        if fit.number > saved["number"]:
            self._kept = None
            return
        if fit.number < saved["number"]:
            fit.first_step = fit.num_steps
            return
        differing = self._check_identity(fit, values["identity"])
        trainer = fit.trainer
        trainer.model.load_state_dict(_below(_MODEL, tensors))
        if trainer.opt is not None:
            unpack_optimiser(trainer.opt, tensors, values["optimiser"])
        trainer.recorder.fits[:] = [FitRecord(**record) for record in values["fits"]]
        fit.record = trainer.recorder.last
        if fit.record.values:
            fit.values = dict(zip(trainer.recorder.value_names, fit.record.values[-1], strict=True))
        trainer.recorder.history[:] = [HistoryPoint(**point) for point in values["history"]]
        trainer.epochs_done = values["epochs_done"]
        fit.first_step, fit.position = saved["step"], saved["position"]
        if differing.intersection(_MAKES_THE_STEPS):
            done = saved["step"] // values["identity"]["steps of an epoch"]
            fit.first_step = min(done, fit.n_epoch) * fit.num_batches
        fit.smoothed.load_state(values["smoothed"])
        if values["scaler"]:
            fit.scaler.load_state_dict(values["scaler"])
        for place, (callback, kept) in enumerate(
            zip(fit.callbacks, values["callbacks"], strict=True)
        ):
            state = {**kept["values"], **_below(f"callback/{place}/", tensors)}
            if state:
                callback.load_state(state)
        self._kept = None
        trainer.display.line(f"Resuming after step {fit.first_step} of {fit.num_steps}.")

    def _check_identity(self, fit: Fit, saved: dict[str, Any]) -> set[str]:
        """Return the names of what differs, all of it forced; raise an error where it cannot be or was not forced."""
        differing = differences(saved, self._identity)
        if not differing:
            return set()
        what = "; ".join(differing.values())
        if not self.force or differing.keys() & set(_CANNOT_DIFFER):
            raise ConfigError(
                f"{self.path} was written by a run with different settings: {what}. Use the same settings, start "
                "again without resume, or resume anyway with force=True (--force), which still needs the same "
                "network and callbacks."
            )
        fit.trainer.display.line(f"Resuming despite differences: {what}.")
        return set(differing)

    def _left(self) -> str:
        return (
            f"An earlier one is in {self.path}."
            if self.path.is_file()
            else "There is no earlier one to resume from."
        )

    def _end(self, fit: Fit) -> None:
        state = f"the checkpoint is {self.path}"
        if any_of(bool(self._problem)):
            state = (
                f"the checkpoint could not be saved: {self._problem} {self._left()}".removesuffix(
                    "."
                )
            )
        fit.trainer.display.line(
            f"Stopped by a signal after step {fit.step} of {fit.num_steps}; {state}. To continue, run the same "
            "command with --resume (in Python: resume=True)."
        )
        raise SystemExit(TERMINATED)

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._told_to_end = True


def _how_far(kept: tuple[dict[str, Tensor], dict[str, Any]] | None) -> tuple[int, int]:
    """Return the fit and the step after which a state was kept; no state comes before all others."""
    return (-1, -1) if kept is None else (kept[1]["fit"]["number"], kept[1]["fit"]["step"])


def differences(saved: dict[str, Any], present: dict[str, Any]) -> dict[str, str]:
    """Return what differed then, by name, in words."""
    return {
        name: _IN_WORDS.get(name, f"{name}: {_short(saved.get(name))} then, {_short(value)} now")
        for name, value in present.items()
        if saved.get(name) != value
    }


def data_identity(table: ImageTable) -> dict[str, str]:
    """Return digests of the images with their labels, and of the splits."""
    train, valid = (
        json_parts(sorted(map(table.shown_path, rows.tolist())))
        for rows in (table.train_rows, table.valid_rows)
    )
    return {
        "data": fingerprint(table),
        "split": digest_of(chain("[", train, (", ",), valid, "]")),
    }


def identity_of(fit: Fit) -> dict[str, Any]:
    """Return what has to be the same for a fit to be continued."""
    trainer = fit.trainer
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
        "schedule": _digest([fit.schedule.factors, fit.schedule.momenta]),
        "trained parameters": len(trains),
        "batches of a step": fit.settings.accumulate,
        "precision": trainer.precision,
        "vizsla": __version__,
        "torch": torch.__version__,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _below(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the entries whose name starts with a prefix, by the rest of the name."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
