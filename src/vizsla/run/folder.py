"""A run folder: what is in it, how it is read from anywhere, and how it is written without losing an earlier run.

A run folder holds ``model.safetensors history.csv metrics.json predictions.csv config.toml report.html``, and ``fixes.csv`` and
``profile.json`` where they were asked for. ``config.toml`` names the data of the run by its absolute path, and relative to the folder in case both
move together; if only the data moved, the user says where it is (``data=``, ``--data``).
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
import tomllib
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from errno import EISDIR
from functools import cached_property
from io import StringIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.data.table.words import table_words
from vizsla.errors import ConfigError, DataError, OutputError
from vizsla.files import OURS, only_writer, remove_leftovers, writer_of
from vizsla.paths import is_address
from vizsla.recipe.config import DataConfig, TrainConfig
from vizsla.text import valid_unicode

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.types import ImageTable

MODEL = "model.safetensors"
HISTORY = "history.csv"
METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
CONFIG = "config.toml"
FIXES = "fixes.csv"
REPORT = "report.html"
PROFILE = "profile.json"
LOCK = f"{OURS}lock"
CHECKPOINT_FOLDER = "checkpoint"
_RESULTS, _COMPLETE = f"{OURS}results-", f"{OURS}complete-"
DEMO_DATA = "elpv-dataset"
"""What ``config.toml`` names as the data of the demo."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a finished run, read when it is asked for something.

    Raises:
        DataError: A file is missing or damaged; from whatever reads it.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The model file."""
        return self.path / MODEL

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What ``config.toml`` says."""
        return self._read(CONFIG, tomllib.loads)

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """What ``metrics.json`` says: title, metrics, references, facts, notes, skipped."""
        metrics = self._read(METRICS, json.loads)
        if not isinstance(metrics.get("facts"), dict):
            raise self._damaged(METRICS, "facts is not a table")
        return metrics

    @cached_property
    def history(self) -> tuple[HistoryPoint, ...]:
        """One point per fit of the head and per epoch."""
        return self._read(
            HISTORY, lambda text: tuple(map(_point, csv.DictReader(text.splitlines())))
        )

    def train_config(self, *, device: str = "auto") -> TrainConfig:
        """Return the choices of the run, for a device of this machine."""
        names = {field.name for field in fields(TrainConfig)}
        kept = {name: value for name, value in self.config.items() if name in names}
        try:
            return replace(TrainConfig(**kept), device=device)
        except (TypeError, ConfigError) as error:
            raise self._damaged(CONFIG, str(error)) from error

    def find_data(self, data: Path | None = None) -> Path:
        """Return where the images of the run are now: ``data`` if given, else where they were, else beside the folder.

        Raises:
            DataError: They are not there.
        """
        if data is None and "data" not in self.config:
            raise self._damaged(CONFIG, "it does not say what the run was trained on")
        return locate_data(self.config, self.path, data)[0]

    def table(self, data: Path | None = None) -> ImageTable:
        """Find the images of the run again, without those that could not be read then.

        Raises:
            DataError: They are not there, or something is wrong with them now.
        """
        from vizsla.data.demo_data import solar_cells
        from vizsla.data.table.check import drop_unreadable
        from vizsla.data.table.from_words import resolve_data
        from vizsla.data.table.sources import holds_images

        seed = self.train_config().seed
        if self.config.get("data") == DEMO_DATA:
            table = solar_cells(seed=seed)
        else:
            place, labels = locate_data(self.config, self.path, self.find_data(data))
            valid = str(self.config.get("valid", "auto"))
            if valid != "auto" and not valid.startswith(
                "pool:"
            ):  # as it was drawn, whatever split the data has now
                valid = f"pool:{valid}"
            fixes = str(self.config.get("fixes", ""))
            from_folders = labels in ("auto", "folder") and holds_images(
                place
            )  # else ignored until 0.1
            table = resolve_data(
                place,
                labels=labels,
                valid=valid,
                label_level=self.config.get("label_level", "auto") if from_folders else "auto",
                min_per_class=self.config.get("min_per_class", "auto"),
                group=str(self.config.get("group", "")),
                fixes=fixes and self.path / fixes,
                new_classes=True,  # those that are named were allowed then
                moved=self.metrics.get("moved", {}).items(),
                seed=seed,
            )
        if self.config.get("start_from"):
            table = self._as_measured(table)
        causes = dict(self.metrics.get("skipped", ()))
        row_of = {table.shown_path(row): row for row in range(len(table.paths))}
        return drop_unreadable(
            table, [(row_of[path], str(cause)) for path, cause in causes.items() if path in row_of]
        )

    def sides(self) -> dict[str, str]:
        """Return the set of each image of the run by its real path, ``"train"`` or ``"valid"``.

        What the models before it were trained on, if it went on from any, counts as ``"train"``.

        Raises:
            DataError: The images are not where they were, or the folder is damaged.
        """
        table = self.table()
        found = {os.path.realpath(table.file(row)): "valid" for row in table.valid_rows.tolist()}
        run, known = self, {""}
        while (
            os.path.realpath(run.path) not in known
        ):  # a run may have replaced the one that it went on from
            known.add(os.path.realpath(run.path))
            table = run.table()
            found |= {
                os.path.realpath(table.file(row)): "train" for row in table.train_rows.tolist()
            }
            if before := run.config.get("start_from"):
                run = RunFolder(run_of(Path(str(before))))
        return found

    def _as_measured(self, table: ImageTable) -> ImageTable:
        """Return a table with the images of ``predictions.csv`` as its validation set: a run that goes on keeps old sides."""
        import torch

        held_out = set(
            self._read(
                PREDICTIONS, lambda text: [row["path"] for row in csv.DictReader(StringIO(text))]
            )
        )
        rows = torch.cat([table.train_rows, table.valid_rows]).sort().values
        is_held_out = torch.tensor(
            [valid_unicode(table.shown_path(row)) in held_out for row in rows.tolist()],
            dtype=torch.bool,
        )
        return replace(table, train_rows=rows[~is_held_out], valid_rows=rows[is_held_out])

    def predictions(self, table: ImageTable) -> Predictions:
        """Return what was predicted for the validation images of ``table``.

        Logits are the logarithms of the probabilities: the same up to a constant per image. Those of several labels are
        the log odds; those of numbers are the numbers.

        Raises:
            DataError: The file does not fit the table: images or labels have changed since.
        """
        import torch

        from vizsla.evaluate.predictions import Predictions
        from vizsla.types import logits_of

        stem = "prediction" if table.task == "regression" else "prob"
        columns = [f"{stem}_{valid_unicode(name)}" for name in table.vocab]
        row_of = {table.shown_path(row): row for row in table.valid_rows.tolist()}
        paths: list[str] = []
        numbers: list[list[float]] = []
        file = self.path / PREDICTIONS
        try:
            with file.open(newline="", encoding="utf-8") as opened:
                for line in csv.DictReader(opened):
                    paths.append(line["path"])
                    numbers.append([float(line[column]) for column in columns])
            rows = torch.tensor([row_of[path] for path in paths], dtype=torch.int64)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{file} no longer matches the images of the run ({type(error).__name__}: {error}). They must be "
                "the images and labels that the run was trained on."
            ) from error
        thresholds = self.metrics.get("thresholds")
        outputs = torch.tensor(numbers, dtype=torch.float64).view(len(paths), len(columns))
        return Predictions(
            rows=rows,
            paths=tuple(paths),
            logits=logits_of(outputs, task=table.task),
            targets=table.targets[rows],
            vocab=table.vocab,
            task=table.task,
            thresholds=None if thresholds is None else tuple(thresholds),
        )

    def _read(self, name: str, parse: Any) -> Any:
        try:
            return parse((self.path / name).read_text(encoding="utf-8"))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(name, f"{type(error).__name__}: {error}") from error

    def _damaged(self, name: str, what: str) -> DataError:
        return DataError(
            f"{self.path} is not the folder of a finished run, or {name} in it is damaged ({what}). Give the folder that "
            f"vizsla train wrote, with {CONFIG}, {METRICS}, {HISTORY}, {PREDICTIONS} and {MODEL} in it."
        )


def run_of(model: Path) -> Path:
    """Return the folder of the run that a model file lies in; any other path stays."""
    return model.parent if (model.parent / CONFIG).is_file() and model.name == MODEL else model


def _point(row: Mapping[str, str]) -> HistoryPoint:
    from vizsla.evaluate.predictions import HistoryPoint

    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return HistoryPoint(
        stage=row["stage"],
        epoch=int(row["epoch"]),
        train_loss=number("train_loss"),
        valid_loss=number("valid_loss"),
        accuracy=number("accuracy"),
        seconds=float(row["seconds"]),
        num_pictures=int(row["num_pictures"]) if row["num_pictures"] else None,
    )


# --- config.toml ---


def config_text(
    folder: Path,
    *,
    source: Path | str,
    where: DataConfig,
    on_bad: str,
    config: TrainConfig,
) -> str:
    """Return the choices of a run as TOML that holds from any directory."""
    from vizsla.data.storage.storage import absolute

    values: dict[str, object] = {"data": source}
    if isinstance(source, Path):
        values["data"] = absolute(source)
        if not is_address(source):
            with contextlib.suppress(ValueError):  # Windows: on another drive
                values["data_from_here"] = os.path.relpath(source, folder)
        where = replace(where, labels=_to_data(where.labels, source))
    values |= {**asdict(where), "on_bad": on_bad, **asdict(config)}
    values |= {
        name: os.path.abspath(path)  # noqa: PTH100
        for name in ("weights", "start_from")
        if (path := getattr(config, name))
    }
    return "".join(f"{name} = {toml_value(value)}\n" for name, value in values.items())


def _to_data(labels: str, data: Path) -> str:
    """Return labels whose table is named from the data if it lies in it, else absolutely."""
    words = table_words(labels)
    if not words.file:
        return labels
    if data.is_file():  # the table is the data
        return f"csv:{words.options}" if words.options else "folder"
    file = Path(words.file)
    found = Path(os.path.abspath(file if file.is_file() else data / file))  # noqa: PTH100
    root = Path(os.path.abspath(data))  # noqa: PTH100
    return f"csv:{found.relative_to(root) if found.is_relative_to(root) else found}{words.options}"


def locate_data(
    config: Mapping[str, Any], folder: Path, data: Path | None = None
) -> tuple[Path, str]:
    """Return where the images of a ``config.toml`` in ``folder`` are now, and its labels as they are found from any directory.

    Raises:
        DataError: The images are neither at ``data``, nor where they were, nor beside the folder.
    """
    from vizsla.data.table.sources import holds_images

    place = data
    if place is None:
        was = Path(str(config["data"]))
        beside = folder / str(config.get("data_from_here", was))
        place = next((one for one in (was, beside) if one.exists() or holds_images(one)), None)
        if place is None:
            raise DataError(
                f"The images of the run {folder} are no longer at {was}"
                + ("" if beside == was else f", nor at {beside}")
                + ". Give their location: data=PATH in Python, --data PATH on the command line."
            )
    labels = str(config.get("labels", "folder"))
    words = table_words(labels)
    if words.file and (place / words.file).is_file():  # the opposite of ``_to_data``
        labels = f"csv:{place / words.file}{words.options}"
    return place, labels


def toml_value(value: object) -> str:
    """Return a text or a number as TOML, which is JSON but for a few escapes."""
    if isinstance(value, str):
        value = valid_unicode(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


# --- a folder to write to ---


@contextmanager
def make_run_folder(out: Path, *, force: bool) -> Generator[Path]:
    """Make the folder of a run and keep other processes from writing there until the block ends.

    If something is in it, it is the next free name, unless ``force``. What killed runs left is removed, and a folder with nothing
    else in it is free. If the block fails before anything was written, a folder that was made is removed again.

    Raises:
        OutputError: It cannot be made or written to, or another process is writing there; the message names that.
    """
    with ExitStack() as held:
        folder, is_new = _claimed_folder(out, force=force, held=held)
        try:
            yield folder
        except BaseException:
            _remove_leftovers(folder)
            held.close()
            if is_new:
                with contextlib.suppress(OSError):  # It stays if a file was written.
                    folder.rmdir()
            raise


def _claimed_folder(out: Path, *, force: bool, held: ExitStack) -> tuple[Path, bool]:
    """Return the folder, locked and without leftovers, and whether it was made."""
    for number in count(1):
        if number > 1 and out.name in ("", ".."):
            break
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        try:
            is_new = not folder.is_dir()
            if is_new:
                folder.mkdir(parents=True)
            elif not force and not _is_vacant(folder):
                continue
        except FileExistsError as error:
            if force or Path(error.filename) != folder:  # Else a part of the path is in the way.
                raise _cannot_write_to(folder, error) from error
            continue
        except OSError as error:
            raise _cannot_write_to(folder, error) from error
        try:
            held.enter_context(only_writer(folder / LOCK, of=folder))
        except OutputError as error:
            if is_new:
                folder.rmdir()
            if isinstance(error.__cause__, OSError):
                raise _cannot_write_to(folder, error.__cause__) from error
            raise OutputError(f"{error} Choose another --out.") from error
        _remove_leftovers(folder)
        return folder, is_new
    raise OutputError(
        f"Cannot write results to the folder {out}: it exists, and no number can be added to its name. Choose "
        "another --out, or write into it with --force."
    )


def _is_vacant(folder: Path) -> bool:
    """Whether no process writes to a folder, and there is at most what one left that was killed before its first file."""
    if writer_of(folder / LOCK):
        return False
    inside = [*folder.iterdir()]
    checkpoint = folder / CHECKPOINT_FOLDER
    if checkpoint in inside and checkpoint.is_dir():
        inside += [*checkpoint.iterdir()]
        inside.remove(checkpoint)
    return all(path.name.startswith(OURS) for path in inside)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left; the lock says that none is alive."""
    for place in (folder, folder / CHECKPOINT_FOLDER):
        remove_leftovers(place)
    for results in folder.glob(f"{_COMPLETE}*"):
        _move_files(results, folder)
    for results in folder.glob(f"{_RESULTS}*"):
        shutil.rmtree(results, ignore_errors=True)
    with contextlib.suppress(OSError):  # It stays if something is in it.
        (folder / CHECKPOINT_FOLDER).rmdir()


def check_not_of_run(file: Path) -> None:
    """Refuse the place of a file that a run folder has of its own.

    Raises:
        OutputError: The file would be one of a run's own.
    """
    own = (MODEL, HISTORY, METRICS, PREDICTIONS, CONFIG, FIXES, REPORT, PROFILE)
    marks = (CONFIG, MODEL, LOCK, CHECKPOINT_FOLDER)
    if file.name in own and any((file.parent / name).exists() for name in marks):
        raise OutputError(
            f"{file} belongs to the run in {file.parent}, and replacing it would damage the run. Choose another "
            "name."
        )


@contextmanager
def place_to_write(folder: Path, onward: str = "") -> Generator[Path]:
    """Give a new folder in ``folder`` to write the files of a run to; they go up, and replace earlier ones, when the block ends.

    If it fails, they stay in ``unfinished-...``, and ``onward`` ends the message: what the user can do. After a kill they are
    removed, or moved up if all were there, when the next run takes the folder.

    Raises:
        OutputError: A file cannot be written, or not replaced; the earlier files are untouched.
    """
    try:
        # Nobody knows what happened to it while training.
        folder.mkdir(parents=True, exist_ok=True)
        has_earlier = any(
            each.name != CHECKPOINT_FOLDER and not each.name.startswith(OURS)
            for each in folder.iterdir()
        )
        place = Path(tempfile.mkdtemp(prefix=_RESULTS, dir=folder))
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    try:
        yield place
        place = place.rename(folder / place.name.replace(_RESULTS, _COMPLETE))
        _move_files(place, folder)
    except BaseException as error:
        unfinished = folder / f"unfinished-{place.name.rpartition('-')[2]}"
        with contextlib.suppress(OSError):
            place.rename(unfinished)
            unfinished.rmdir()  # It stays if a file was written before another failed.
        if isinstance(error, OutputError):
            kept = f" The unfinished new run is in {unfinished}." if unfinished.exists() else ""
            untouched = f" The earlier files in {folder} are untouched." if has_earlier else ""
            # Nobody knows the name that its folder had while it was written.
            what = str(error).replace(str(place), str(unfinished if has_earlier else folder))
            raise OutputError(f"{what}{untouched}{kept}{onward}") from error
        raise


def _move_files(source: Path, target: Path) -> None:
    """Move the files of a folder into another one: all or, unless the system fails in between, none."""
    try:
        names = sorted(file.name for file in source.iterdir())
        for name in names:
            if (target / name).is_dir():
                raise IsADirectoryError(EISDIR, f"{name} is a folder there")
        for name in names:
            (source / name).replace(target / name)
        source.rmdir()
    except OSError as error:
        raise _cannot_write_to(target, error) from error


def _cannot_write_to(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write results to the folder {folder}: {error.strerror}. Choose another --out."
    )


@contextmanager
def noted_on_stop(note: str) -> Generator[None]:
    """Add a note, for the message, to a Ctrl-C that ends the block, or to a SIGTERM that the command line takes for one."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(note)
        raise
