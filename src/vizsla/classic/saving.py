"""A network and a path in; its weights in a safetensors file out, and back; files of the original library are read too."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import safetensors.torch

from vizsla.files import atomic_write
from vizsla.models.weights import Weights, load_weights, read_weights_file

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.classic.models import ConvnetBuilder

SUFFIXES = (".safetensors", ".h5")
"""Ours, and what the original library called the files of ``torch.save``."""


def save_model(models: ConvnetBuilder, path: Path) -> None:
    """Write the weights of body and head.

    Args:
        models: The network.
        path: Without suffix.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    tensors = {name: value.contiguous() for name, value in models.model.state_dict().items()}
    with atomic_write(with_suffix(path, SUFFIXES[0])) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_model(models: ConvnetBuilder, path: Path) -> None:
    """Read weights into body and head, or into the head alone where a file holds nothing else.

    Args:
        models: Changed in place, and only if everything fits.
        path: Without suffix; ``.safetensors`` comes before ``.h5``.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: It is of another network.
    """
    files = [with_suffix(path, suffix) for suffix in SUFFIXES]
    file = next((each for each in files if each.exists()), None)
    if file is None:
        raise FileNotFoundError(
            f"There are no weights {files[0]}. Save them first, or check the name."
        )
    weights = Weights(tensors=read_weights_file(file), origin=f"file {file}")
    head = {name for name in models.fc_model.state_dict() if not name.endswith("_tracked")}
    given = {name for name in weights.tensors if not name.endswith("_tracked")}
    if given != head:
        load_weights(models.model, weights, what=f"the network {models.name}")
        return
    load_weights(models.fc_model, weights, what=f"the head of {models.name}")
    warnings.warn(f"{file} holds a head only: the body is as it was.", stacklevel=4)


def with_suffix(path: Path, suffix: str) -> Path:
    """Return a path with a suffix added; points in the name stay."""
    return path.with_name(path.name + suffix)
