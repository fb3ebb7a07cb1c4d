"""Predict any number of images from paths, folders and lists of paths: one row for each, in their order.

Nothing grows with the number of images: a folder is walked one folder at a time, so only the names of one folder (and of
those above it) are in memory.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vizsla.data.images.decode import cause_of
from vizsla.data.storage.storage import is_there
from vizsla.data.table.sources import holds_images, list_images, walk_folders
from vizsla.errors import ConfigError, DataError, OutputError, PictureError
from vizsla.model_file.bundle import read_manifest
from vizsla.model_file.manifest import manifest_digest
from vizsla.predict.formats import (
    Format,
    PartFile,
    check_parquet_installed,
    columns_of,
    header_line,
    part_of,
    row_line,
    vector_text,
)
from vizsla.predict.prediction import Prediction
from vizsla.predict.predictor import Predictor
from vizsla.text import listed, printable, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from torch import Tensor

    from vizsla.infer.run import FeatureKind

    RowsOf = Callable[[Predictor, Iterable[str], "PredictOptions"], Generator[dict[str, Any]]]

STDIN = "-"
"""Stands for a list of paths on standard input."""

_CHUNK_BYTES = 1 << 16
_LONGEST_PATH = 1 << 20  # Bytes; a list without separators must not fill the memory.


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSource:
    """Where the paths of images come from.

    Attributes:
        paths: Images, folders whose images are all taken, and ``-`` for a list on standard input.
        lists: Files that list images, one path for each line; ``-`` for standard input. They come after ``paths``.
        null: The paths of lists end with a zero byte instead of a line break, as ``find -print0`` writes them.
    """

    paths: Sequence[Path | str] = ()
    lists: Sequence[Path | str] = ()
    null: bool = False

    @property
    def num_known(self) -> int | None:
        """How many images there are, where that is known without looking."""
        if self.lists or any(str(path) == STDIN or holds_images(Path(path)) for path in self.paths):
            return None
        return len(self.paths)

    def check(self) -> None:
        """Raise DataError if a path or list does not exist, a folder has no images, or nothing was given."""
        if not self.paths and not self.lists:
            raise DataError(
                "No images were given. Give paths of images, folders, or a list of paths."
            )
        given = [*self.paths, *self.lists]
        if sum(str(path) == STDIN for path in given) > 1:
            raise DataError(
                "Standard input (-) was given more than once, and can be read only once."
            )
        missing = [quoted(path) for path in given if str(path) != STDIN and not _exists(Path(path))]
        if missing:
            cure = "Check the spelling; give images, or folders of them."
            raise DataError(f"There is no such file or folder:\n{listed(missing)}\n{cure}")
        for path in map(Path, self.paths):
            if holds_images(path):
                next(walk_images(path))  # It says what is there instead of images.

    def images(self) -> Iterator[str]:
        """Yield the paths in the order in which they were given, those of a folder sorted."""
        for path in self.paths:
            if str(path) == STDIN:
                yield from self._listed(path)
            elif holds_images(Path(path)):
                yield from walk_images(Path(path))
            else:
                yield str(path)
        for path in self.lists:
            yield from self._listed(path)

    def _listed(self, path: Path | str) -> Iterator[str]:
        if str(path) == STDIN:
            yield from read_list(sys.stdin.buffer, null=self.null, name="standard input")
            return
        try:
            with Path(path).open("rb") as file:
                yield from read_list(file, null=self.null, name=str(path))
        except OSError as error:
            raise DataError(
                f"The list {quoted(path)} cannot be read: {error.strerror}. Give a text file of paths."
            ) from error


def read_list(file: BinaryIO, *, null: bool, name: str) -> Iterator[str]:
    """Yield the paths of a list as they come, without empty lines and a byte-order mark; messages call it ``name``."""
    separator = b"\0" if null else b"\n"
    rest, mark = b"", b"" if null else codecs.BOM_UTF8
    # read1 gives what is there: whoever writes paths into a pipe gets answers before it is full.
    read = getattr(file, "read1", file.read)
    while chunk := read(_CHUNK_BYTES):
        rest += chunk
        if mark and (len(rest) >= len(mark) or not mark.startswith(rest)):
            rest, mark = rest.removeprefix(mark), b""
        *whole, rest = rest.split(separator)
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
            raise DataError(f"The paths in {name} are separated by zero bytes. Add --null.")
    if path:
        yield os.fsdecode(path)


def walk_images(folder: Path) -> Iterator[str]:
    """Yield the images below a folder in the order of ``get_image_files``, which sorts them all.

    Symbolic links are followed, loops are not; names that start with a dot are left out.

    Raises:
        DataError: A folder cannot be read, or holds no image; a shard is damaged.
    """
    has_images = False
    if folder.is_dir():
        for prefix, names, _ in walk_folders(str(folder), os.path.join(folder, "")):  # noqa: PTH118 (the separator at its end)
            has_images = True
            for name in names:
                yield prefix + name
    if not has_images:  # shards, rows, or nothing
        yield from list_images(folder).paths.texts()


def _exists(path: Path) -> bool:
    try:
        return path.exists() or holds_images(path) or is_there(path)
    except OSError:  # for example a name that is too long for the file system
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How images are predicted.

    Attributes:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        batch_size: Images that run through the network together.
        num_workers: Threads that read images; None is one per core, at most 16.
        views: Views of each image that are averaged.
        coverage: Of the label sets; None for none.
        csv_safe: Put ``'`` before text in CSV that a spreadsheet would take for a formula: it begins with ``=``, ``+``, ``-``,
            ``@``, a tab or a carriage return. Such text does not come back as it was.
        sha256: Of the model file, see ``Predictor.load``.
        num_top: Classes that a row of a table or of JSON names, the most probable ones.
        features: Write these features instead of predictions, see ``Predictor.embed``.
        thresholds: Of several labels, see ``Predictor.set_thresholds``; None are those of the model file.
    """

    device: str = "auto"
    batch_size: int = 32
    num_workers: int | None = None
    views: int = 1
    coverage: float | None = None
    csv_safe: bool = False
    sha256: str | None = None
    num_top: int = 3
    features: FeatureKind | None = None
    thresholds: float | Mapping[str, float] | None = None


def rows_of(
    predictor: Predictor, images: Iterable[str], options: PredictOptions
) -> Generator[dict[str, Any]]:
    """Yield a row for each image, in their order: what ``Prediction.to_dict`` gives, or features, or why it cannot be read."""
    results: Generator[tuple[Any, Prediction | Tensor | PictureError]]
    how: dict[str, Any] = {"batch_size": options.batch_size, "num_workers": options.num_workers}
    if options.features is None:
        how |= {"coverage": options.coverage, "views": options.views}
        results = predictor.predict_many(images, **how)
    else:
        results = predictor.embed(images, features=options.features, **how)
    with closing(results):
        for path, result in results:
            if isinstance(result, PictureError):
                yield {"path": path, "error": cause_of(result)}
            elif isinstance(result, Prediction):
                yield {"path": path, **result.to_dict(options.num_top)}
            else:
                yield {"path": path, "features": vector_text(result)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What computes rows.

    Attributes:
        rows: As ``rows_of`` does it: the same rows, in the same order.
        device: Where other processes compute, such as ``"cuda"``; None for this process, on the device of the options.
    """

    rows: RowsOf = field(default=rows_of)
    device: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What a run did.

    Attributes:
        num_images: Rows that were written now.
        num_failed: How many of these images could not be read.
        num_before: Rows that were there already.
        seconds: How long it took, without opening the model.
    """

    num_images: int
    num_failed: int
    num_before: int
    seconds: float


def print_predictions(
    model: Path,
    source: PathSource,
    *,
    form: Format = Format.table,
    options: PredictOptions | None = None,
    engine: AbstractContextManager[Engine] | None = None,
    file: TextIO | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Predicted:
    """Print what a model says about images, each row as soon as it is there; ``docs/predicting.md`` lists the columns.

    ``engine`` computes; None is this process.

    Raises:
        DataError: A path does not exist, or a folder has no images.
        ModelFileError: The model cannot be opened.
        ConfigError: An option cannot work.
    """
    if form in (Format.parquet, Format.npz):
        raise ConfigError(f"A file of the form {form} cannot be printed. Give a file to write.")
    options = PredictOptions() if options is None else options
    source.check()
    where = sys.stdout if file is None else file
    in_terminal = where.isatty()
    # Readable where the file can hold every character and obeys none; escapes that JSON knows elsewhere.
    only_ascii = in_terminal or (where.encoding or "utf-8").lower().replace("-", "") != "utf8"
    shown = printable if in_terminal else str

    with engine or nullcontext(Engine()) as running:
        predictor = _opened_for(running, model, options)
        columns = columns_of(predictor, coverage=options.coverage)
        where.write(shown(header_line(form, columns)))

        def write(row: dict[str, Any]) -> None:
            line = row_line(row, form, columns, only_ascii=only_ascii, csv_safe=options.csv_safe)
            where.write(shown(line))
            where.flush()  # A reader at the other end of a pipe gets each line at once.

        rows = running.rows(predictor, source.images(), options)
        return _run(rows, write=write, on_progress=on_progress)


def write_predictions(
    model: Path,
    source: PathSource,
    *,
    file: Path,
    form: Format,
    options: PredictOptions | None = None,
    resume: bool = False,
    force: bool = False,
    engine: AbstractContextManager[Engine] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Predicted | None:
    """Write what a model says about any number of images, or their features, in memory that does not grow with them.

    The file appears when all rows are there. Until then, or when this is stopped in any way, the rows are kept beside it, and
    ``resume`` goes on with the same source and options (the number of workers aside): no row is missing or there twice, and on the
    same machine none differs. Rows that were damaged meanwhile are named in a warning and predicted again. ``force`` throws such
    rows away, and replaces a file that exists. ``engine`` computes; None is this process. The rows do not depend on it, so another may
    go on with them.

    Returns:
        What was done; None if the file was complete already.

    Raises:
        DataError: A path does not exist, or a folder has no images.
        ModelFileError: The model cannot be opened.
        ConfigError: An option cannot work; or there are rows of a run that was stopped, and neither ``resume`` nor
            ``force`` was given, or they were made from other images or in another way.
        OutputError: The file cannot be written, exists already, or another process is writing it.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    options = PredictOptions() if options is None else options
    if form is Format.parquet:
        check_parquet_installed()
    unfinished = _check_place(
        file, form=form, has_features=options.features is not None, resume=resume, force=force
    )
    source.check()
    if resume and not unfinished and file.exists():
        return None
    with engine or nullcontext(Engine()) as running:
        predictor = _opened_for(running, model, options)
        predictor.check_options(coverage=options.coverage, views=options.views)
        settings: dict[str, object] = {
            "format": 3,
            "model": manifest_digest(read_manifest(model)),
            "form": form.value,
            "--device": running.device or predictor.device.type,
            "--bs": options.batch_size,
            "--tta": options.views,
            "--coverage": options.coverage,
            # None where they are not used, as in rows of earlier versions.
            "--top": None if options.num_top == 3 else options.num_top,
            "--features": options.features,
            "--threshold": predictor.thresholds and list(predictor.thresholds),
        }
        part = PartFile(
            file,
            source.images(),
            settings=settings,
            batch_size=options.batch_size,
            resume=resume and unfinished,
        )
        with closing(part):
            done = _run(
                running.rows(predictor, part.images, options),
                write=part.write,
                num_before=part.num_done,
                on_progress=on_progress,
            )
            columns = columns_of(
                predictor, coverage=options.coverage, has_features=options.features is not None
            )
            part.finish(form=form, columns=columns, csv_safe=options.csv_safe)
        return done


def opened(model: Path, options: PredictOptions) -> Predictor:
    """Return the predictor of a model file, with the thresholds of the options."""
    predictor = Predictor.load(model, device=options.device, sha256=options.sha256)
    if options.thresholds is not None:
        predictor.set_thresholds(options.thresholds)
    return predictor


def _opened_for(engine: Engine, model: Path, options: PredictOptions) -> Predictor:
    """Return the predictor of a model file; where other processes compute, on the CPU."""
    return opened(model, options if engine.device is None else replace(options, device="cpu"))


def _run(
    rows: Generator[dict[str, Any]],
    *,
    write: Callable[[dict[str, Any]], None],
    num_before: int = 0,
    on_progress: Callable[[int], None] | None,
) -> Predicted:
    started, done, failed = time.perf_counter(), 0, 0
    with closing(rows):
        for row in rows:
            failed += "error" in row
            write(row)
            done += 1
            if on_progress is not None:
                on_progress(num_before + done)
    seconds = time.perf_counter() - started
    return Predicted(num_images=done, num_failed=failed, num_before=num_before, seconds=seconds)


def _check_place(
    file: Path, *, form: Format, has_features: bool, resume: bool, force: bool
) -> bool:
    """Return whether there are rows of a run that was stopped; raise an error if nothing can be written there."""
    if form is Format.table:
        raise ConfigError("A table can only be printed. Write CSV, JSON or Parquet.")
    if (form is Format.npz and not has_features) or (
        has_features and form not in (Format.npz, Format.parquet)
    ):
        raise ConfigError(
            f"Features are written as NPZ or Parquet, and predictions as CSV, JSON or Parquet. Received: {form}"
        )
    if resume and force:
        raise ConfigError("--resume and --force cannot be used together. Choose one.")
    if file.is_dir() or not file.parent.is_dir():
        what = "it is a folder" if file.is_dir() else f"there is no folder {quoted(file.parent)}"
        raise OutputError(f"Cannot write {quoted(file)}: {what}. Choose another file.")
    unfinished = part_of(file).exists()
    if unfinished and not resume and not force:
        raise ConfigError(
            f"An interrupted run left rows beside {quoted(file)}. Continue with --resume, or start over with "
            "--force."
        )
    if file.exists() and not resume and not force:
        raise OutputError(
            f"{quoted(file)} exists. Choose another name, or replace it with --force."
        )
    return unfinished
