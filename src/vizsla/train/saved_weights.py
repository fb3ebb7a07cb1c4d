"""A trainer and a path in; its weights and the state of its optimiser in a file out, and back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from vizsla.errors import ModelFileError, OutputError
from vizsla.train.distributed import is_main, wait_for_all
from vizsla.train.state_file import load_state, pack_optimiser, save_state, unpack_optimiser

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vizsla.train.trainer import Trainer

MAX_NAMED = 4
_MODEL = "model/"


def save_weights(trainer: Trainer, path: Path, *, with_opt: bool = True) -> Path:
    """Write the weights of a trainer's model; the folder is made.

    Of several processes the main one writes, and all have to call this: when it returns, the file is there for all.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    if not is_main():
        wait_for_all()
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder {path.parent}: {error.strerror}. Give the learner another path."
        ) from error
    tensors = {f"{_MODEL}{name}": value for name, value in trainer.model.state_dict().items()}
    values: dict[str, Any] = describe_model(trainer)
    if with_opt and trainer.opt is not None:
        state, values["optimiser"] = pack_optimiser(trainer.opt)
        tensors |= state
    save_state(path, tensors, values=values)
    wait_for_all()
    return path


def load_weights(
    trainer: Trainer, path: Path, *, with_opt: bool = True, strict: bool = True
) -> None:
    """Read weights that ``save_weights`` wrote.

    Raises:
        ModelFileError: There is no such file, or it is of another network or other classes.
    """
    tensors, values = load_state(path)
    check_same_model(trainer, values, path=path)
    weights = {
        name.removeprefix(_MODEL): value
        for name, value in tensors.items()
        if name.startswith(_MODEL)
    }
    _load(trainer, weights, path=path, strict=strict)
    if not with_opt:
        return
    if "optimiser" not in values:
        warnings.warn(f"{path} has no state of an optimiser; it starts afresh.", stacklevel=3)
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
    """Return what has to agree for weights to fit: network and classes."""
    backbone = getattr(trainer.model, "backbone", None)
    architecture = type(trainer.model).__name__ if backbone is None else backbone.spec.name
    return {"architecture": architecture, "vocab": list(trainer.dls.vocab)}


def check_same_model(trainer: Trainer, values: dict[str, Any], *, path: Path) -> None:
    """Raise an error if a file is of another network or other classes.

    Raises:
        ModelFileError: It is; both are named.
    """
    own = describe_model(trainer)
    if values.get("architecture") != own["architecture"]:
        raise ModelFileError(
            f"{path} has the weights of {values.get('architecture')}, and this learner trains {own['architecture']}. "
            "Build the learner with the same network."
        )
    if values.get("vocab") != own["vocab"]:
        theirs = values.get("vocab") or []
        raise ModelFileError(
            f"{path} knows {len(theirs)} classes {theirs[:5]}, and the data of this learner has {len(own['vocab'])} "
            f"{own['vocab'][:5]}. Use data with the same classes."
        )


def _load(trainer: Trainer, weights: dict[str, Tensor], *, path: Path, strict: bool) -> None:
    """Put weights into the model, all or none: torch itself puts in those that fit before it says that others do not."""
    own = trainer.model.state_dict()
    problems = [
        f"{name} is {tuple(weights[name].shape)} there and {tuple(value.shape)} here"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if strict:
        problems += [f"{name} is missing there" for name in own.keys() - weights.keys()]
        problems += [f"{name} is unknown here" for name in weights.keys() - own.keys()]
    if problems:
        shown = "; ".join(sorted(problems)[:MAX_NAMED])
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ModelFileError(
            f"The weights in {path} do not fit this model: {shown}{more}. Build it with the same head."
        )
    trainer.model.load_state_dict(weights, strict=strict)
