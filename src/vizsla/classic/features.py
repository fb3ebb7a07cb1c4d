"""A network and loaders in; the features that its head sees of every picture out, from a cache where nothing has changed.

A cache is ``tmp/x_act_<name>_<sz>.npy``, float32 ``(N, nf)``, with a note beside it of what it was made from. It is used again
only if that is the same still: body and weights, preparation, and the pictures themselves, by the digests of their
contents where their dates are not those of the note.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from vizsla.files import atomic_write
from vizsla.infer.run import extract_features
from vizsla.machine import default_num_workers

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vizsla.classic.loaders import Batches
    from vizsla.classic.models import ConvnetBuilder
    from vizsla.infer.run import Precision
    from vizsla.train.display import Display

FORMAT = 1
"""Of the note; another one is not trusted."""

Note = dict[str, Any]


def cached_features(
    models: ConvnetBuilder,
    loader: Batches,
    *,
    file: Path,
    preparation: str,
    precision: Precision,
    display: Display,
) -> NDArray[np.float32]:
    """Return the features of the pictures of a loader, float32 ``(N, nf)``.

    Args:
        models: Body and pooling are used in evaluation mode.
        loader: Gives the pictures in order.
        file: The cache; made where there is none, replaced where it does not fit.
        preparation: What is done to the pictures, in words.
        precision: Of the body.
        display: Shows how far it is.

    Raises:
        PictureError: A picture cannot be read.
        OutputError: The cache cannot be written.
    """
    files = [loader.table.paths[row] for row in loader.rows.tolist()]
    note: Note = {
        "format": FORMAT,
        "body": models.name,
        "weights": _weights_digest(models.top_model),
        "preparation": preparation,
        "precision": precision,
        "names": [loader.table.shown_path(row) for row in loader.rows.tolist()],
        "dates": _dates(files),
    }
    known = _read(file, note, files=files)
    if known is not None:
        return known
    note["contents"] = _contents(files)
    with display.bar(f"features {file.stem}", total=loader.n) as move:
        found = extract_features(
            models.classifier,
            loader.batches(),
            head=cast("Any", models.classifier.head),
            precision=precision,
            on_progress=move,
        )
    values = found.values[:, 0].float().numpy()
    with atomic_write(file) as temporary, temporary.open("wb") as out:
        np.save(out, values, allow_pickle=False)
    _write_note(file, note)
    return values


def _note_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_note(file: Path, note: Note) -> None:
    with atomic_write(_note_file(file)) as temporary:
        temporary.write_text(json.dumps(note), encoding="utf-8")


def _read(file: Path, note: Note, *, files: list[Path]) -> NDArray[np.float32] | None:
    """Return the features of a cache that was made from what the note says, else None."""
    try:
        known: Note = json.loads(_note_file(file).read_text(encoding="utf-8"))
        values: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    dates = known.pop("dates", None)
    contents = known.pop("contents", None)
    same = {key: value for key, value in note.items() if key != "dates"} == known
    if not same or len(values) != len(files):
        return None
    if dates != note["dates"]:
        # A copied or touched folder has other dates; only the contents can tell.
        if contents != _contents(files):
            return None
        _write_note(file, {**note, "contents": contents})
    return values


def _dates(files: list[Path]) -> str:
    """Return a digest of what the file system says of the files; moving or writing one changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            facts = os.stat(file)  # noqa: PTH116 (paid for every picture)
            numbers = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        except OSError:
            numbers = ()
        digest.update(repr(numbers).encode())
    return digest.hexdigest()


def _contents(files: list[Path]) -> str:
    """Return a digest of all bytes of the files; a file that cannot be read counts as empty."""

    def one(file: Path) -> bytes:
        try:
            return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
        except OSError:
            return b""

    with ThreadPoolExecutor(max(1, default_num_workers())) as pool:
        return hashlib.blake2b(b"".join(pool.map(one, files)), digest_size=16).hexdigest()


def _weights_digest(body: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in body.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
