"""A file of weights in, tensors by name out, and from there into a network; nothing in a file is ever run.

Files are safetensors, or what ``torch.save`` writes for a dictionary of tensors. The second kind is a pickle, which could
contain code; it is read by torch's restricted reader, and a file that wants more than tensors is refused. This module is
the only place where ``torch.load`` stands.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (the error that a refused file raises; nothing is unpickled here)
from typing import cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vizsla.errors import WeightsError

UNKNOWN_LICENCE = "unknown"
"""The licence of weights that nobody has told us."""

_WRAPPERS = ("state_dict", "model_ema", "state_dict_ema", "model")
"""Names under which training scripts store the weights beside other things."""

_PREFIXES = ("module.", "backbone.network.")
"""Put before names by ``DataParallel``, and by our own model files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Pretrained weights and where they come from.

    Attributes:
        tensors: By the name that the file gives them.
        origin: For people, for example ``"file body.safetensors"``.
        licence: Of the weights, as an SPDX name where known.
    """

    tensors: Mapping[str, Tensor]
    origin: str
    licence: str = UNKNOWN_LICENCE


def read_weights_file(path: Path | str) -> dict[str, Tensor]:
    """Read a file of weights.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote with a dictionary of tensors in it (also under
            ``state_dict`` or ``model``). The content decides which, not the suffix.

    Returns:
        Tensors on the CPU by name.

    Raises:
        WeightsError: There is no such file, it is damaged, it is of another kind, or it contains more than tensors.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Cannot read the file of weights {path}: {error.strerror or error}. Check the path."
        ) from error
    return _parse(content, name=str(path))


def read_checked_file(path: Path, *, sha256: str) -> dict[str, Tensor]:
    """Read a file of weights if its SHA-256 digest is the expected one.

    Args:
        path: As for ``read_weights_file``.
        sha256: The expected digest, 64 hexadecimal digits.

    Raises:
        WeightsError: As for ``read_weights_file``, or the digest differs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"Cannot read the file of weights {path}: {error.strerror or error}. Install its package again."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"The file of weights {path} is not the one that we know: its SHA-256 digest is {found}, expected {sha256}. "
            "Install its package again."
        )
    return _parse(content, name=str(path))


def load_weights(
    network: nn.Module, weights: Weights, *, ignored: Iterable[str] = (), what: str
) -> None:
    """Copy weights into a network; every tensor of the network must be there, in its shape, and no other.

    Args:
        network: Changed in place, and only if everything matches.
        weights: May have the prefix of ``DataParallel`` or of our own model files before all names.
        ignored: Names of parts that the network does not have (its former classifier); their tensors are left out.
        what: The network in words, for messages.

    Raises:
        WeightsError: Tensors are missing, left over or of another shape.
    """
    expected = network.state_dict()
    parts = tuple(f"{part}." for part in ignored)
    given = {
        name: tensor
        for name, tensor in _without_prefix(weights.tensors).items()
        if not name.startswith(parts)
    }
    # Counters of batches came with torch 0.4.1, older files lack them; nothing of ours reads them.
    missing = [
        name for name in expected if name not in given and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in given if name not in expected]
    misshapen = [
        f"{name} {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in given.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if missing or unknown or misshapen:
        problems = (
            _listed("missing", missing),
            _listed("not part of the network", unknown),
            _listed("of another shape", misshapen),
        )
        raise WeightsError(
            f"The weights from {weights.origin} do not fit {what}: "
            f"{'; '.join(problem for problem in problems if problem)}. "
            "Give the weights of this architecture, or the architecture of these weights."
        )
    network.load_state_dict(given, strict=False)


def _parse(content: bytes, *, name: str) -> dict[str, Tensor]:
    """Return the tensors in the content of a file; the first bytes tell its kind."""
    if content[8:9] == b"{":
        try:
            return safetensors.torch.load(content)
        except SafetensorError as error:
            raise WeightsError(
                f"The file of weights {name} is damaged: {error}. Fetch it again."
            ) from error
    if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        return _tensors(_restricted_load(content, name=name), name=name)
    raise WeightsError(
        f"{name} is not a file of weights: it is neither safetensors nor written by torch.save. "
        f"It starts with {content[:8]!r}."
    )


def _restricted_load(content: bytes, *, name: str) -> object:
    try:
        return torch.load(  # noqa: TID251 (the one place; tensors only)
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it wants to use {blocked[1]}" if blocked else "its pickle cannot be read safely"
        raise WeightsError(
            f"The file {name} was refused: {reason}, and a file of weights may hold tensors only. Nothing in it was "
            "run. Save the state dict alone, best as safetensors: safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        # What torch raises for broken archives and streams; the first line is the part for people.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"The file of weights {name} is damaged: {reason}. Fetch it again."
        ) from error


def _tensors(content: object, *, name: str) -> dict[str, Tensor]:
    """Return the dictionary of tensors in what torch has read, unwrapped."""
    entries = _unwrapped(content)
    strays = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if strays or not entries:
        found = _listed("other things", strays) or f"none in a {type(content).__name__}"
        raise WeightsError(
            f"The file {name} holds no weights: a dictionary of tensors by name was expected, found {found}. "
            "Save model.state_dict()."
        )
    return {str(key): cast("Tensor", value) for key, value in entries.items()}


def _unwrapped(content: object) -> Mapping[object, object]:
    """Return the dictionary that training scripts put into another beside epoch, optimiser and so on."""
    if not isinstance(content, Mapping):
        return {}
    entries = cast("Mapping[object, object]", content)
    inner = [entries[key] for key in _WRAPPERS if isinstance(entries.get(key), Mapping)]
    return cast("Mapping[object, object]", inner[0]) if inner else entries


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Drop a known prefix; of a model file of ours, only the backbone has one and the head is left out."""
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    return tensors


def _listed(words: str, names: list[str]) -> str:
    """Return "3 missing (a, b, c)", with three of the names at most, or nothing."""
    if not names:
        return ""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {words} ({', '.join(names[:3])}{more})"
