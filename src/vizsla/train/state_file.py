"""Weights, the state of an optimiser and plain values in, one safetensors file out, and back; nothing in it can run code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vizsla.errors import ModelFileError
from vizsla.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VALUES_KEY = "vizsla.state"
_OPTIMISER = "optimiser/"


def save_state(path: Path, tensors: Mapping[str, Tensor], *, values: Mapping[str, Any]) -> Path:
    """Write tensors and values to one file, whole or not at all.

    Args:
        path: File to write; its folder must exist.
        tensors: On any device; a tensor that is there under several names is written for each.
        values: Anything that JSON can hold.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata={VALUES_KEY: json.dumps(values)})
    return path


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the values of a file that ``save_state`` wrote.

    Raises:
        ModelFileError: There is no such file, it is damaged, or it is another kind of file.
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
            f"{path} holds no state of a training. A finished model is opened by load_learner; give a file that "
            "learn.save wrote."
        ) from error
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read: {error}. It is damaged or another kind of file."
        ) from error
    return tensors, values


def pack_optimiser(
    optimiser: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of an optimiser's state, by names that ``unpack_optimiser`` knows, and the rest as values."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
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
    """Put a packed state into an optimiser over the same parameters.

    Args:
        optimiser: Of the same kind, over as many parameters in the same groups.
        tensors: May hold others too.
        values: As ``pack_optimiser`` returned them.

    Raises:
        ModelFileError: The optimiser is over other parameters.
    """
    state: dict[int, dict[str, Any]] = {
        int(place): dict(entries) for place, entries in values["rest"].items()
    }
    parameters = [weight for group in optimiser.param_groups for weight in group["params"]]
    for key, value in tensors.items():
        if key.startswith(_OPTIMISER):
            place, _, name = key.removeprefix(_OPTIMISER).partition("/")
            state.setdefault(int(place), {})[name] = _laid_out(
                value, like=parameters, at=int(place)
            )
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in values["groups"]
    ]
    try:
        optimiser.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise ModelFileError(
            f"The saved state of the optimiser is of other parameters: {error}. Freeze the same groups as then, or load "
            "with with_opt=False."
        ) from error


def _laid_out(value: Tensor, *, like: list[Tensor], at: int) -> Tensor:
    """Return a tensor in the memory order of its parameter (channels-last); kernels compute in that order."""
    if at >= len(like) or like[at].shape != value.shape:
        return value
    return torch.empty_like(like[at], dtype=value.dtype, device=value.device).copy_(value)
