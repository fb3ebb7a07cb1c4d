"""Paths, folders and lists of paths in, the pictures one by one out, in a fixed order and without keeping them.

A folder is walked one folder at a time, so that only the names of one folder (and of those above it) are in memory.

A model file and paths in; rows on the screen, or in a file that can be resumed, out, in the order of the paths.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vizsla.data.table.sources import (
    MAX_NESTED_LINKS,
    check_folder,
    get_image_files,
    is_picture_name,
)
from vizsla.errors import ConfigError, DataError, OutputError, PictureError
from vizsla.model_file.bundle import read_manifest
from vizsla.model_file.manifest import manifest_to_json
from vizsla.predict.files import TextOutput, part_of
from vizsla.predict.formats import Columns, Format, csv_line, csv_rows, json_rows, table_rows
from vizsla.predict.parquet import ParquetOutput, check_installed, parts_of
from vizsla.predict.predictor import Predictor
from vizsla.text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import BinaryIO

    from vizsla.predict.files import Output
    from vizsla.predict.prediction import Prediction

STDIN = "-"
"""Stands for a list of paths on standard input."""

_CHUNK_BYTES = 1 << 16
_LONGEST_PATH = 1 << 20  # Bytes; a list without separators must not fill the memory.


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSource:
    """Where the paths of pictures come from.

    Attributes:
        paths: Pictures, folders whose pictures are all taken, and ``-`` for a list on standard input.
        lists: Files that list pictures, one path for each line; ``-`` for standard input. They come after ``paths``.
        null: The paths of lists end with a zero byte instead of a line break, as ``find -print0`` writes them.
    """

    paths: Sequence[Path | str] = ()
    lists: Sequence[Path | str] = ()
    null: bool = False

    @property
    def num_known(self) -> int | None:
        """How many pictures there are, where that can be told without looking."""
        if self.lists or any(str(path) == STDIN or Path(path).is_dir() for path in self.paths):
            return None
        return len(self.paths)

    def check(self) -> None:
        """Find out before anything is computed what can be found out.

        Raises:
            DataError: A path or list does not exist, a folder has no pictures, or nothing was given.
        """
        if not self.paths and not self.lists:
            raise DataError(
                "No pictures were given. Give paths of pictures, folders, or a list of paths."
            )
        given = [*self.paths, *self.lists]
        if sum(str(path) == STDIN for path in given) > 1:
            raise DataError(
                "Standard input (-) was given more than once, and can be read only once."
            )
        missing = [quoted(path) for path in given if str(path) != STDIN and not _exists(Path(path))]
        if missing:
            raise DataError(
                f"There is no such file or folder:\n{listed(missing)}\n"
                "Check the spelling; give pictures, or folders of them."
            )
        for path in map(Path, self.paths):
            if path.is_dir() and next(walk_pictures(path), None) is None:
                get_image_files(path)  # It says what is there instead.

    def pictures(self) -> Iterator[str]:
        """Yield the paths, in the order in which they were given, those of a folder sorted.

        Raises:
            DataError: A folder or list cannot be read, or a list is separated otherwise.
        """
        for path in self.paths:
            if str(path) == STDIN:
                yield from read_list(sys.stdin.buffer, null=self.null, name="standard input")
            elif Path(path).is_dir():
                yield from walk_pictures(Path(path))
            else:
                yield str(path)
        for path in self.lists:
            if str(path) == STDIN:
                yield from read_list(sys.stdin.buffer, null=self.null, name="standard input")
                continue
            try:
                with Path(path).open("rb") as file:
                    yield from read_list(file, null=self.null, name=str(path))
            except OSError as error:
                raise DataError(
                    f"The list {quoted(path)} cannot be read: {error.strerror}. Give a text file of paths."
                ) from error


def read_list(file: BinaryIO, *, null: bool, name: str) -> Iterator[str]:
    """Yield the paths of a list as they come; empty lines are left out.

    Args:
        file: Bytes, for example a pipe.
        null: See ``PathSource``.
        name: What messages call it.

    Raises:
        DataError: A path has a zero byte or is longer than any path.
    """
    separator = b"\0" if null else b"\n"
    rest = b""
    # read1 gives what is there: whoever writes paths into a pipe gets answers before it is full.
    read = getattr(file, "read1", file.read)
    while chunk := read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        for path in whole:
            yield from _listed_path(path, null=null, name=name)
        if len(rest) > _LONGEST_PATH:
            raise DataError(
                f"A path in {name} is longer than a million bytes. Give one path for each line"
                f"{', or leave out --null' if null else ''}."
            )
    yield from _listed_path(rest, null=null, name=name)


def _listed_path(path: bytes, *, null: bool, name: str) -> Iterator[str]:
    if not null:
        path = path.removesuffix(b"\r")
        if b"\0" in path:
            raise DataError(f"The paths in {name} end with zero bytes. Add --null.")
    if path:
        yield os.fsdecode(path)


def walk_pictures(folder: Path) -> Iterator[str]:
    """Yield the pictures below a folder in the order of ``get_image_files``, which sorts them all.

    Args:
        folder: Symbolic links in it are followed, loops are not; names that start with a dot are left out.

    Raises:
        DataError: A folder cannot be read.
    """
    check_folder(folder)
    yield from _walk(str(folder), above=frozenset({_identity(str(folder))}), num_links=0)


def _walk(folder: str, *, above: frozenset[tuple[int, int]], num_links: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its pictures do, by its name and the separator after it.
            names = sorted(
                entry.name + "/" * _is_folder(entry)
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        raise DataError(
            f"The folder {quoted(folder)} cannot be read: {error.strerror}. "
            "Change its permissions, or give a folder that does not contain it."
        ) from error
    for name in names:
        path = os.path.join(folder, name.removesuffix("/"))  # noqa: PTH118 (a Path of each is slow)
        if not name.endswith("/"):
            # A broken link is kept: it is reported as missing.
            if is_picture_name(name) and (os.path.islink(path) or os.path.isfile(path)):  # noqa: PTH113, PTH114
                yield path
            continue
        links = num_links + os.path.islink(path)  # noqa: PTH114
        identity = _identity(path)
        if identity in above:
            continue
        if links > MAX_NESTED_LINKS:
            raise DataError(
                f"More than {MAX_NESTED_LINKS} linked folders lie inside one another at {quoted(path)}. "
                "Remove the symbolic links that point back up."
            )
        yield from _walk(path, above=above | {identity}, num_links=links)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 (a Path for each folder would be made for nothing)
    return status.st_dev, status.st_ino


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name that is too long for the file system
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How pictures are predicted.

    Attributes:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        batch_size: Pictures that run through the network together.
        num_workers: Threads that read pictures; None is one per core, at most 16.
        views: Views of each picture that are averaged.
        coverage: Of the label sets; None for none.
    """

    device: str = "auto"
    batch_size: int = 32
    num_workers: int | None = None
    views: int = 1
    coverage: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What was done.

    Attributes:
        num_pictures: Rows that were written now.
        num_failed: Of these, pictures that could not be read.
        num_before: Rows that were there already.
        seconds: How long it took, without opening the model.
    """

    num_pictures: int
    num_failed: int
    num_before: int
    seconds: float


def print_predictions(
    model: Path,
    source: PathSource,
    *,
    form: Format = Format.table,
    options: PredictOptions | None = None,
    file: TextIO | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Predicted:
    """Print what a model says of pictures, each row as soon as it is there.

    Args:
        model: A model file.
        source: Where the paths come from.
        form: ``table``: class, probability and the three likeliest. ``csv``: ``path,prediction,probability``, one
            ``prob_<class>`` column per class, and ``error``; several labels are joined by ``;``. A model that predicts
            numbers has ``path``, one ``prediction_<name>`` column per number, and ``error``. ``json``: an object per line.
        options: None for the defaults.
        file: Where to; None is standard output.
        on_progress: Called with the number of pictures done.

    Returns:
        What was done; each picture that could not be read has its line with the cause.

    Raises:
        DataError: A path does not exist, or a folder has no pictures.
        ModelFileError: The model cannot be opened.
        ConfigError: An option cannot work.
    """
    options = PredictOptions() if options is None else options
    source.check()
    where = sys.stdout if file is None else file
    predictor = Predictor.load(model, device=options.device)
    columns = Columns.of(predictor, coverage=options.coverage)
    if form is Format.parquet:
        raise ConfigError("A Parquet file cannot be printed. Give a file to write.")
    if form is Format.json:
        # Readable where the file can hold every character; escapes that JSON knows elsewhere.
        only_ascii = (where.encoding or "utf-8").lower().replace("-", "") != "utf8"
        row = json_rows(columns, only_ascii=only_ascii)
    else:
        row = csv_rows(columns) if form is Format.csv else table_rows(columns)
    results = _results(predictor, source.pictures(), options=options)
    if form is Format.csv:
        where.write(csv_line(columns.names))
    started, done, failed = time.perf_counter(), 0, 0
    with closing(results):
        for path, result in results:
            where.write(row(path, result))
            where.flush()  # Whoever reads the lines on gets each at once, not when a buffer is full.
            done, failed = done + 1, failed + isinstance(result, PictureError)
            if on_progress is not None:
                on_progress(done)
    seconds = time.perf_counter() - started
    return Predicted(num_pictures=done, num_failed=failed, num_before=0, seconds=seconds)


def write_predictions(
    model: Path,
    source: PathSource,
    *,
    file: Path,
    form: Format,
    options: PredictOptions | None = None,
    resume: bool = False,
    force: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Predicted | None:
    """Write what a model says of any number of pictures, in memory that does not grow with them.

    The file appears when all rows are there; an old one is replaced then. Until that, or when this is stopped in any way,
    the rows are kept beside it, and ``resume`` goes on: no row is missing or there twice, and none is different, on the
    same machine.

    Args:
        model: A model file.
        source: Where the paths come from; to resume, the same in the same order.
        file: To write.
        form: ``csv``, ``json`` (an object per line) or ``parquet``.
        options: None for the defaults; to resume, the same but for the number of workers.
        resume: Go on with what is there; begin where there is nothing.
        force: Throw away the rows of a run that was stopped.
        on_progress: Called with the number of rows done, also those of before.

    Returns:
        What was done; None if the file was complete already. A picture that cannot be read has its row with the cause.

    Raises:
        DataError: A path does not exist, or a folder has no pictures.
        ModelFileError: The model cannot be opened.
        ConfigError: An option cannot work, or there are rows of a run that was stopped, and neither ``resume`` nor
            ``force``; or they were made of other pictures or in another way.
        OutputError: The file cannot be written.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    options = PredictOptions() if options is None else options
    if form is Format.parquet:
        check_installed()
    unfinished = _check_place(file, form=form, resume=resume, force=force)
    source.check()
    if resume and not unfinished and file.exists():
        return None
    predictor = Predictor.load(model, device=options.device)
    predictor.check_options(coverage=options.coverage, views=options.views)
    columns = Columns.of(predictor, coverage=options.coverage)
    settings: dict[str, object] = {
        "format": 1,
        "model": hashlib.sha256(manifest_to_json(read_manifest(model)).encode()).hexdigest(),
        "form": form.value,
        "--device": predictor.device.type,
        "--bs": options.batch_size,
        "--tta": options.views,
        "--coverage": options.coverage,
    }
    output = _output(
        file, form=form, columns=columns, settings=settings, batch_size=options.batch_size
    )
    pictures = source.pictures()
    with closing(output):
        if resume and unfinished:
            pictures = output.resume(pictures)
        else:
            output.begin()
        started, done, failed = time.perf_counter(), 0, 0
        results = _results(predictor, pictures, options=options)
        with closing(results):
            for path, result in results:
                output.write(path, result)
                done, failed = done + 1, failed + isinstance(result, PictureError)
                if on_progress is not None:
                    on_progress(output.num_done + done)
        output.finish()
    return Predicted(
        num_pictures=done,
        num_failed=failed,
        num_before=output.num_done,
        seconds=time.perf_counter() - started,
    )


def _results(
    predictor: Predictor, pictures: Iterator[str], *, options: PredictOptions
) -> Generator[tuple[str, Prediction | PictureError]]:
    return predictor.predict_many(
        pictures,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        coverage=options.coverage,
        views=options.views,
    )


def _output(
    file: Path, *, form: Format, columns: Columns, settings: dict[str, object], batch_size: int
) -> Output:
    if form is Format.parquet:
        return ParquetOutput(file, columns=columns, settings=settings, batch_size=batch_size)
    return TextOutput(file, form=form, columns=columns, settings=settings, batch_size=batch_size)


def _check_place(file: Path, *, form: Format, resume: bool, force: bool) -> bool:
    """Return whether there are rows of a run that was stopped; raise an error if that or the place forbids to begin."""
    if form is Format.table:
        raise ConfigError(
            "A table is for people to look at and is printed. Write CSV, JSON or Parquet."
        )
    if resume and force:
        raise ConfigError("--resume and --force exclude each other. Choose one of them.")
    if file.is_dir() or not file.parent.is_dir():
        what = "it is a folder" if file.is_dir() else f"there is no folder {quoted(file.parent)}"
        raise OutputError(f"Cannot write {quoted(file)}: {what}. Choose another file.")
    unfinished = (parts_of(file) if form is Format.parquet else part_of(file)).exists()
    if unfinished and not resume and not force:
        raise ConfigError(
            f"There are rows of a run that was stopped, beside {quoted(file)}. Go on with --resume, or predict anew with "
            "--force."
        )
    return unfinished
