"""Keep images that were answered wrongly, with the right label, for the next training.

An image goes into a folder beside a file of fixes, under a name made from its content, and gets a row there that adds it to training
(``vizsla train --fixes``). Only who has the token of the printed address can do that: it writes to the disk.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vizsla.data.images.decoded_size import format_of
from vizsla.data.table.fixes import read_fixes, write_fixes
from vizsla.errors import ConfigError
from vizsla.files import atomic_write
from vizsla.types import LABEL_SEPARATOR, Fix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vizsla.types import Task


class Corrections:
    """Corrected images of one server.

    Args:
        file: The file of fixes; rows in it stay. Images go into ``NAME-images`` beside it.
        vocab: The labels that the model knows; no other can be given.
        task: What the model predicts: one label or several.
        token: Who knows it may correct.

    Attributes:
        num_kept: Corrections since the start.

    Raises:
        ConfigError: The model predicts numbers.
        TableError: The file is there and has rows that are not fixes.
    """

    def __init__(
        self, file: Path, *, vocab: Sequence[str], task: Task, token: str | None = None
    ) -> None:
        if task == "regression":
            raise ConfigError(
                "--fixes keeps labels, and this model predicts numbers. Leave it out."
            )
        if file.exists():
            read_fixes(file)
        self.file = file
        self.folder = file.with_name(f"{file.stem}-images")
        self.token = secrets.token_urlsafe(16) if token is None else token
        self.num_kept = 0
        self._vocab = frozenset(vocab)
        self._task = task

    def keep(self, data: bytes, label: str, *, answer: str) -> None:
        """Keep the bytes of an image file, and add it to the fixes with its label; ``answer`` was the wrong one.

        Raises:
            ConfigError: The model has no such label.
            OutputError: The image or the file cannot be written.
        """
        labels = label.split(LABEL_SEPARATOR) if self._task == "multi_category" else [label]
        if unknown := [name for name in labels if name not in self._vocab]:
            raise ConfigError(
                f"This model has no label {unknown[0][:80]!r}. Choose one of its labels."
            )
        self.folder.mkdir(exist_ok=True)
        name = f"{hashlib.sha256(data).hexdigest()[:20]}.{format_of(data).lower()}"
        with atomic_write(self.folder / name) as temporary:
            temporary.write_bytes(data)
        fix = Fix(
            path=str((self.folder / name).absolute()),
            action="add",
            label=label,
            why=f"vizsla serve answered {answer}",
            when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        write_fixes(self.file, [fix], append=True)
        self.num_kept += 1
