"""A model file and paths in; rows on the screen, or in a file that can be resumed, out, in the order of the paths."""

from __future__ import annotations

import hashlib
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from vizsla.data.problems import quoted
from vizsla.errors import ConfigError, OutputError, PictureError
from vizsla.export.bundle import read_manifest
from vizsla.export.manifest import manifest_to_json
from vizsla.export.predictor import Predictor
from vizsla.predicting.files import TextOutput, part_of
from vizsla.predicting.parquet import ParquetOutput, check_installed, parts_of
from vizsla.predicting.rows import Columns, Format, csv_line, csv_rows, json_rows, table_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from vizsla.export.prediction import Prediction
    from vizsla.predicting.files import Output
    from vizsla.predicting.inputs import PathSource


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
