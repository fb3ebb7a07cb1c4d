"""Rows of text in, a file that appears when all of them are there out; a run that was killed goes on where it stopped.

Until the end the rows are in ``FILE.part``, beside ``FILE.part.json``, which says what they were made with. To go on, the
whole rows of the part are compared with the pictures that are given again, the last batch that is not whole is cut off, and
the rest is predicted in the same batches as without the interruption: the file comes out the same, byte for byte.
"""

from __future__ import annotations

import csv
import json
import os
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from vizsla.errors import OutputError
from vizsla.predict.formats import Columns, Format, csv_line, csv_rows, json_rows
from vizsla.predict.resuming import Settings, check_settings, expect_same, said_of, write_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from vizsla.predict.formats import Result

_LONGEST_ROW = 1 << 28  # Bytes; a foreign file without line breaks must not fill the memory.


class Output(Protocol):
    """Where rows go.

    Attributes:
        num_done: Rows that were there before.
    """

    num_done: int

    def begin(self) -> None:
        """Start anew."""
        ...

    def resume(self, pictures: Iterator[str]) -> Iterator[str]:
        """Take up what is there; return the pictures that have no row yet."""
        ...

    def write(self, path: str, result: Result) -> None:
        """Add a row."""
        ...

    def finish(self) -> None:
        """Make the file appear."""
        ...

    def close(self) -> None:
        """Let go of what is open; nothing is removed."""
        ...


class TextOutput:
    """CSV or JSON lines.

    Args:
        file: The file that appears at the end.
        form: ``csv`` or ``json``.
        columns: What is known of each picture.
        settings: What the rows depend on.
        batch_size: Rows that are computed together, and handed to the system together.

    Attributes:
        num_done: Rows that were there before.
    """

    def __init__(
        self, file: Path, *, form: Format, columns: Columns, settings: Settings, batch_size: int
    ) -> None:
        self.num_done = 0
        self._file = file
        self._form = form
        self._settings = settings
        self._batch_size = batch_size
        self._header = _encoded(csv_line(columns.names)) if form is Format.csv else b""
        self._row = csv_rows(columns) if form is Format.csv else json_rows(columns)
        self._part: BinaryIO | None = None
        self._num_waiting = 0

    def begin(self) -> None:
        """Start anew.

        Raises:
            OutputError: The file cannot be written.
        """
        part, settings = part_of(self._file), settings_of(self._file)
        try:
            settings.unlink(missing_ok=True)
            self._part = part.open("wb")
        except OSError as error:
            raise said_of(error, file=self._file) from error
        write_settings(settings, self._settings)
        self._add(self._header)

    def resume(self, pictures: Iterator[str]) -> Iterator[str]:
        """Take up what is there.

        Args:
            pictures: All of them, from the first one on.

        Returns:
            Those that have no row yet.

        Raises:
            ConfigError: What is there comes from other pictures or settings.
            OutputError: It cannot be read or written.
        """
        part = part_of(self._file)
        try:
            if not part.stat().st_size:
                self.begin()
                return pictures
            check_settings(settings_of(self._file), self._settings, file=self._file)
            with part.open("rb") as known:
                waiting, end = self._compare(known, pictures)
            self._part = part.open("r+b")
            self._part.truncate(end)
            self._part.seek(end)
        except OSError as error:
            raise said_of(error, file=self._file) from error
        if not end:
            self._add(self._header)
        return chain(waiting, pictures)

    def _compare(self, known: BinaryIO, pictures: Iterator[str]) -> tuple[list[str], int]:
        """Return the pictures after the last whole batch, and where its rows end."""
        if known.read(len(self._header)) != self._header:
            return [], 0
        end, waiting = len(self._header), list[str]()
        for path, row_end in _known_rows(known, form=self._form):
            number = self.num_done + len(waiting) + 1
            waiting.append(expect_same(path, next(pictures, None), number=number, file=self._file))
            if len(waiting) == self._batch_size:
                self.num_done += self._batch_size
                end = row_end
                waiting.clear()
        return waiting, end

    def write(self, path: str, result: Result) -> None:
        """Add a row.

        Args:
            path: Of the picture.
            result: What the model says of it, or why it cannot be read.

        Raises:
            OutputError: The disk is full, for example; what is there stays.
        """
        self._add(_encoded(self._row(path, result)))
        self._num_waiting += 1
        if self._num_waiting == self._batch_size:
            self._flush()

    def finish(self) -> None:
        """Make the file appear.

        Raises:
            OutputError: The disk is full, for example; what is there stays.
        """
        self._flush()
        part = self._opened()
        try:
            os.fsync(part.fileno())
            part.close()
            part_of(self._file).replace(self._file)
            settings_of(self._file).unlink(missing_ok=True)
        except OSError as error:
            raise said_of(error, file=self._file) from error

    def close(self) -> None:
        """Let go of what is open; nothing is removed.

        Raises:
            OutputError: The last rows cannot be written.
        """
        if self._part is not None:
            try:
                self._part.close()
            except OSError as error:
                raise said_of(error, file=self._file) from error

    def _add(self, row: bytes) -> None:
        try:
            self._opened().write(row)
        except OSError as error:
            raise said_of(error, file=self._file) from error

    def _flush(self) -> None:
        self._num_waiting = 0
        try:
            self._opened().flush()
        except OSError as error:
            raise said_of(error, file=self._file) from error

    def _opened(self) -> BinaryIO:
        if self._part is None:
            raise OutputError(f"{self._file} was not opened: call begin() or resume() first.")
        return self._part


def part_of(file: Path) -> Path:
    """Return where the rows of a file are until all are there."""
    return file.with_name(f"{file.name}.part")


def settings_of(file: Path) -> Path:
    """Return where it is noted what they were made with."""
    return file.with_name(f"{file.name}.part.json")


def _encoded(text: str) -> bytes:
    # Lone surrogates, from file names that are not valid Unicode, become escapes.
    return text.encode("utf-8", errors="backslashreplace")


def _known_rows(file: BinaryIO, *, form: Format) -> Iterator[tuple[str, int]]:
    """Yield the path of each whole row of a file, and where the row ends."""
    end = file.tell()
    row = b""
    while line := file.readline(_LONGEST_ROW):
        row += line
        if len(row) > _LONGEST_ROW:
            return
        # A line feed within quotes does not end a row, and there the quotes before it are odd in number.
        if not line.endswith(b"\n") or (form is Format.csv and row.count(b'"') % 2):
            continue
        end += len(row)
        text, row = row.decode("utf-8", errors="replace"), b""
        if form is Format.csv:
            yield next(csv.reader([text], strict=True))[0], end
        else:
            yield json.loads(text)["path"], end
