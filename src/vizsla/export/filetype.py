"""A path given as a model file in; nothing out if it can be a safetensors file, else an error that says what it is.

Only the first and the last bytes are looked at. Pickles (``.pkl``, old ``.pth``) and zip archives (``.pth``, ``.pt``, Keras)
are recognised by their magic bytes and never opened: opening a pickle can run any program that its author put into it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from vizsla.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, a little-endian number of 8 bytes."""

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Protocols 2 to 5 begin with their number, protocols 0 and 1 with the first thing that they hold: a list, a dictionary,
# an imported name. (Python, Lib/pickletools.py)
_PICKLE = re.compile(rb"\x80[\x02-\x0f]|\(?[ld]p\d+\n|\(?c[\w.]+\n[\w.]+\n|\(?[]}]q")
_AGAIN = "Copy the file again from where it came, or export the model again."


def check_is_safetensors(path: Path) -> None:
    """Return if a file can be a safetensors file; its header is not parsed yet.

    Args:
        path: What the user gave as a model file.

    Raises:
        ModelFileError: There is no such file, it is a folder, cannot be read, is a pickle or zip archive (which is not
            opened), or too short for what its first bytes say.
    """
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder, not a model file. Give the file in it, for example {path / 'model.safetensors'}"
        )
    if not path.exists():
        raise ModelFileError(
            f"There is no model file {path}. Check the path; `vizsla train` writes RUN/model.safetensors"
        )
    if not path.is_file():  # Reading a pipe or a device could wait for ever.
        raise ModelFileError(f"{path} is a device or a pipe. Give the path of a model file.")
    try:
        with path.open("rb") as file:
            _check_bytes(path, file)
    except OSError as error:
        raise ModelFileError(
            f"Cannot read the model file {path}: {error.strerror or error}. Check its permissions and the disk."
        ) from error


def _check_bytes(path: Path, file: BinaryIO) -> None:
    num_bytes = path.stat().st_size
    start = file.read(64)
    header_length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    fits = _LENGTH_BYTES + header_length <= num_bytes and header_length <= LARGEST_HEADER
    # The length may begin like a pickle does (640 is 80 02), so this is asked first.
    if fits and start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        return
    _refuse_foreign(path, start)
    if num_bytes < _LENGTH_BYTES + 2:
        raise ModelFileError(f"{path} is too short to be a model file: {num_bytes} bytes. {_AGAIN}")
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        raise ModelFileError(
            f"{path} is cut short or damaged: its header should have {header_length:,} bytes (at most "
            f"{LARGEST_HEADER:,}), the file has {num_bytes:,}. {_AGAIN}"
        )
    raise ModelFileError(
        f"{path} is not a model file: it is not in the safetensors format, it begins with {start[:16]!r}. "
        "Give a model.safetensors that vizsla wrote."
    )


def _refuse_foreign(path: Path, start: bytes) -> None:
    """Raise for the kinds of file that people may take for a model file."""
    cure = "Give a model.safetensors that vizsla wrote, or train and export the model with vizsla."
    if _PICKLE.match(start):
        raise ModelFileError(
            f"{path} is a Python pickle. It was not opened, because opening a pickle can run any program. {cure}"
        )
    if start.startswith(_ZIP):
        raise ModelFileError(
            f"{path} is a zip archive, in which torch.save puts pickles. It was not opened, because opening a pickle "
            f"can run any program. {cure}"
        )
    if start.startswith(_HDF5):
        raise ModelFileError(f"{path} is an HDF5 file, as Keras writes it. {cure}")
