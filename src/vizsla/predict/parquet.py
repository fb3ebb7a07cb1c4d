"""Rows in, a Parquet file out, by way of part files, because a Parquet file cannot be added to once it is closed.

Until the end the parts are in the folder ``FILE.parts``. Each has the same number of rows, appears whole, and becomes a row
group of the file, so that a run that was killed gives the same file, byte for byte.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.data.images.decode import cause_of
from vizsla.errors import MissingExtraError, OutputError, PictureError
from vizsla.files import atomic_write
from vizsla.predict.resuming import Settings, check_settings, expect_same, said_of, write_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vizsla.predict.formats import Columns, Result

ROWS = 16_384
"""Of a part, at most; fewer where there are many classes, and always whole batches."""

_VALUES = 4_000_000  # Probabilities of a part, at most: 16 MB.
_SETTINGS = "settings.json"


class ParquetOutput:
    """A Parquet file with the columns of the CSV file; numbers are float32, and what is not known is null.

    Args:
        file: The file that appears at the end.
        columns: What is known of each picture.
        settings: What the rows depend on.
        batch_size: Rows that are computed together.

    Attributes:
        num_done: Rows that were there before.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(
        self, file: Path, *, columns: Columns, settings: Settings, batch_size: int
    ) -> None:
        check_installed()
        self.num_done = 0
        self._file = file
        self._columns = columns
        self._settings = settings
        fitting = min(ROWS, _VALUES // len(columns.vocab))
        self._rows_per_part = max(1, fitting // batch_size) * batch_size
        self._rows: list[tuple[str, Result]] = []
        self._num_parts = 0

    def begin(self) -> None:
        """Start anew.

        Raises:
            OutputError: The folder of parts cannot be written.
        """
        parts = parts_of(self._file)
        try:
            if parts.exists():
                shutil.rmtree(parts)
            parts.mkdir()
        except OSError as error:
            raise said_of(error, file=self._file) from error
        write_settings(parts / _SETTINGS, self._settings)

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
        if not (parts_of(self._file) / _SETTINGS).exists():
            self.begin()
            return pictures
        check_settings(parts_of(self._file) / _SETTINGS, self._settings, file=self._file)
        waiting: list[str] = []
        while self._part(self._num_parts).exists():
            paths = self._paths_of(self._num_parts)
            waiting = [
                expect_same(
                    path, next(pictures, None), number=self.num_done + place, file=self._file
                )
                for place, path in enumerate(paths, start=1)
            ]
            if len(paths) < self._rows_per_part:  # The last one, if the run got that far.
                break
            self.num_done += len(paths)
            self._num_parts += 1
            waiting = []
        return chain(waiting, pictures)

    def write(self, path: str, result: Result) -> None:
        """Add a row.

        Args:
            path: Of the picture.
            result: What the model says of it, or why it cannot be read.

        Raises:
            OutputError: The disk is full, for example; what is there stays.
        """
        self._rows.append((path, result))
        if len(self._rows) == self._rows_per_part:
            self._write_part()

    def finish(self) -> None:
        """Make the file appear.

        Raises:
            OutputError: The disk is full, for example; what is there stays.
        """
        import pyarrow.parquet as parquet

        if self._rows:
            self._write_part()
        with (
            atomic_write(self._file) as temporary,
            parquet.ParquetWriter(temporary, schema(self._columns)) as writer,
        ):
            for number in range(self._num_parts):
                writer.write_table(parquet.read_table(self._part(number)))
        # Its new name says that the parts are not needed any more, should removing them be cut off.
        parts = parts_of(self._file)
        done = parts.with_name(f"{parts.name}.done")
        try:
            if done.exists():
                shutil.rmtree(done)
            shutil.rmtree(parts.replace(done))
        except OSError as error:
            raise said_of(error, file=self._file) from error

    def close(self) -> None:
        """Forget the rows that make no whole part yet."""
        self._rows.clear()

    def _part(self, number: int) -> Path:
        return parts_of(self._file) / f"{number:06}.parquet"

    def _write_part(self) -> None:
        import pyarrow.parquet as parquet

        with atomic_write(self._part(self._num_parts)) as temporary:
            parquet.write_table(table_of(self._rows, columns=self._columns), temporary)
        self._num_parts += 1
        self._rows.clear()

    def _paths_of(self, number: int) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        part = self._part(number)
        try:
            return parquet.read_table(part, columns=["path"])["path"].to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(
                f"{part} is damaged: {error}. Remove it, and what follows it, and go on with --resume."
            ) from error


def parts_of(file: Path) -> Path:
    """Return the folder where the parts of a file are until all are there."""
    return file.with_name(f"{file.name}.parts")


def check_installed() -> None:
    """Raise an error if Parquet files cannot be written.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="parquet", purpose="write Parquet files"
        ) from error


def schema(columns: Columns) -> Any:
    """Return the Arrow schema of the rows.

    Args:
        columns: What is known of each picture.
    """
    import pyarrow as pa

    kinds = {
        "path": pa.string(),
        "prediction": pa.string(),
        "label_set": pa.list_(pa.string()),
        "none_of_these": pa.bool_(),
        "error": pa.string(),
    }
    regression = columns.task == "regression"
    return pa.schema(
        [
            (name, pa.float32() if regression and name not in ("path", "error") else kind)
            for name in columns.names
            for kind in [kinds.get(name, pa.float32())]
        ]
    )


def table_of(rows: list[tuple[str, Result]], *, columns: Columns) -> Any:
    """Return rows as an Arrow table.

    Args:
        rows: Paths and results.
        columns: What is known of each picture.
    """
    import pyarrow as pa

    good = [None if isinstance(result, PictureError) else result for _, result in rows]
    known = np.array([result is not None for result in good])
    nothing = torch.zeros(len(columns.vocab))
    numbers = torch.stack([nothing if one is None else one.probabilities for one in good]).numpy()
    values: list[Any] = [[_as_text(path) for path, _ in rows]]
    if columns.task != "regression":
        values.append([None if one is None else _as_text(one.label) for one in good])
        values.append([None if one is None else one.probability for one in good])
    values += [pa.array(column, mask=~known) for column in numbers.T]
    if columns.label_sets:
        values.append([None if one is None else list(one.label_set or ()) for one in good])
    if columns.novelty and columns.task != "regression":
        values.append([None if one is None else one.familiarity for one in good])
        values.append([None if one is None else one.none_of_these for one in good])
    values.append(
        [_as_text(cause_of(one)) if isinstance(one, PictureError) else None for _, one in rows]
    )
    kinds = schema(columns)
    arrays = [
        pa.array(value, type=field.type) if isinstance(value, list) else value
        for value, field in zip(values, kinds, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=kinds)


def _as_text(text: str) -> str:
    """Valid Unicode: lone surrogates become escapes, as in the other files."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
