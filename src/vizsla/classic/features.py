"""Features of a body that are computed once (``precompute``), in a cache that is never stale.

The cache is ``tmp/x_act_<name>_<sz>.npy``, float32 ``(N, nf)``, with a note beside it of what it was made from. It is used
again only if that is unchanged: body and weights, preparation, and the images themselves, compared by content where their
dates differ from the note.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from vizsla.files import atomic_write
from vizsla.infer.run import extract_features
from vizsla.machine import default_num_workers, map_in_threads

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vizsla.classic.loaders import Batches
    from vizsla.classic.models import ConvnetBuilder
    from vizsla.classic.training import ClassicTrainer

FORMAT = 1
"""Of the note; a note of another format is not trusted."""

Note = dict[str, Any]


def cached_features(
    models: ConvnetBuilder,
    loader: Batches,
    *,
    file: Path,
    preparation: str,
    trainer: ClassicTrainer,
) -> NDArray[np.float32]:
    """Return the features of the images of a loader, float32 ``(N, nf)``; ``preparation`` says in words what is done to them.

    Raises:
        PictureError: An image cannot be read.
        OutputError: The cache cannot be written.
    """
    rows = loader.rows.tolist()
    files = [loader.table.paths[row] for row in rows]
    note: Note = {
        "format": FORMAT,
        "body": models.name,
        "weights": _digest_of_weights(models.top_model),
        "preparation": preparation,
        "precision": trainer.precision,
        "names": [loader.table.shown_path(row) for row in rows],
    }
    dates = _digest_of_dates(files)
    known = _read(file, note, files=files, dates=dates)
    if known is not None:
        return known
    contents = _digest_of_contents(files)
    with trainer.display.bar(f"features {file.stem}", total=loader.n) as move:
        found = extract_features(
            models.classifier,
            loader.batches(),
            head=cast("Any", models.classifier.head),
            precision=trainer.precision,
            on_progress=move,
        )
    values = found.values[:, 0].float().numpy()
    with atomic_write(file) as temporary, temporary.open("wb") as out:
        np.save(out, values, allow_pickle=False)
    _write_note(file, {**note, "dates": dates, "contents": contents})
    return values


def _read(file: Path, note: Note, *, files: list[Path], dates: str) -> NDArray[np.float32] | None:
    """Return the cached features if they were made from what the note says."""
    try:
        known: Note = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        values: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    known_dates, contents = known.pop("dates", None), known.pop("contents", None)
    if known != note or len(values) != len(files):
        return None
    if known_dates != dates:
        # A copied or touched folder has other dates; only the contents can tell.
        if contents != _digest_of_contents(files):
            return None
        _write_note(file, {**note, "dates": dates, "contents": contents})
    return values


def _write_note(file: Path, note: Note) -> None:
    with atomic_write(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(note), encoding="utf-8")


def _digest_of_dates(files: list[Path]) -> str:
    """Return a digest of size, dates and inode of the files; moving or writing one changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            facts = os.stat(file)  # noqa: PTH116 (paid for every image)
            numbers = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        except OSError:
            numbers = ()
        digest.update(repr(numbers).encode())
    return digest.hexdigest()


def _digest_of_contents(files: list[Path]) -> str:
    """Return a digest of all bytes of the files; an unreadable file counts as empty."""

    def digests(some: list[Path]) -> list[bytes]:
        found: list[bytes] = []
        for file in some:
            try:
                found.append(hashlib.blake2b(file.read_bytes(), digest_size=16).digest())
            except OSError:
                found.append(b"")
        return found

    num_threads = max(1, default_num_workers())
    parts = map_in_threads(digests, files, num_threads=num_threads, together=16)
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _digest_of_weights(body: torch.nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in body.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
