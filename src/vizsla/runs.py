"""A resolved table and a configuration in; a run folder with the model, its numbers and its report out.

A run folder holds ``model.safetensors history.csv metrics.json predictions.csv config.toml report.html``. Everything that can
be refused is refused before training: the place to write to is tried and every picture is read first.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from errno import EISDIR
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vizsla import __version__
from vizsla.data.check import settle_unreadable
from vizsla.data.loader import find_unreadable
from vizsla.data.presize import Resize
from vizsla.data.problems import counted
from vizsla.data.reader import PictureReader
from vizsla.data.small import count_smaller, enlarged_text
from vizsla.errors import OutputError
from vizsla.evaluate.metrics import Metric, summarise
from vizsla.export.bundle import fingerprint, save_bundle
from vizsla.files import atomic_write
from vizsla.report.build import ReportContent, write_report
from vizsla.train.progress import Display, format_seconds
from vizsla.train.recipes import TrainConfig, TrainedRun, cache_for, train_classifier
from vizsla.train.recorder import save_history
from vizsla.types import as_size

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    import torch

    from vizsla.data.cache import PictureCache
    from vizsla.types import PictureTable


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run is about, for its report and its files.

    Attributes:
        title: Heading of the report.
        data: Where the pictures come from, in words.
        config: Choices of the training.
        on_bad: Refuse unreadable pictures, or train on the rest.
        choices: Further choices to keep in ``config.toml``, such as where labels came from.
        references: (name, accuracy) of published results on the same data.
        notes: Sentences for the end of the report, such as a licence.
    """

    title: str
    data: str
    config: TrainConfig
    on_bad: Literal["error", "skip"] = "error"
    choices: tuple[tuple[str, str], ...] = ()
    references: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """What a run left.

    Attributes:
        folder: Where its files are.
        metrics: On the validation pictures, with intervals.
        interrupted: Ctrl-C ended it early.
        problem: What ended it early otherwise, or empty.
    """

    folder: Path
    metrics: tuple[Metric, ...]
    interrupted: bool
    problem: str = ""


def run_training(
    table: PictureTable, *, plan: RunPlan, out: Path, force: bool = False, display: Display
) -> FinishedRun:
    """Check the pictures, train, and write everything into a run folder.

    Args:
        table: Labelled pictures with their split.
        plan: What the run is about.
        out: Folder to write; if it exists and ``force`` is off, ``out-2``, ``out-3`` ... is taken.
        force: Write into ``out`` even if it exists, replacing the files of an earlier run once all new ones are written.
        display: Where to show progress.

    Returns:
        The folder and the metrics.

    Raises:
        OutputError: The folder cannot be written to, which is found before training; or a file cannot be written.
        PictureError: Pictures cannot be read, and ``plan.on_bad`` is ``"error"``; all are named. Found before training.
        VizslaError: As ``train_classifier`` raises.
    """
    started = time.monotonic()
    with run_folder(out, force=force) as folder:
        with noted_on_stop("There was no model to save yet, and nothing was written."):
            cache = cache_for(table, config=plan.config)
            table = read_all(table, plan=plan, cache=cache, display=display)
            enlarged = enlarged_pictures(table, plan=plan)
            if enlarged:
                display.line(enlarged)
                plan = replace(plan, notes=(*plan.notes, enlarged))
            display.line(cache.describe())
            run = train_classifier(table, config=plan.config, display=display, cache=cache)
            metrics = summarise(run.predictions)
        note = f"The results were being written to {folder}; not all files are there."
        with noted_on_stop(note), place_to_write(folder) as place:
            seconds = time.monotonic() - started
            write_run(place, run=run, table=table, plan=plan, metrics=metrics, seconds=seconds)
    return FinishedRun(
        folder=folder, metrics=metrics, interrupted=run.interrupted, problem=run.problem
    )


@contextmanager
def run_folder(out: Path, *, force: bool) -> Generator[Path]:
    """Make the folder of a run, or the next free one, and make sure that files can be written there.

    If the block fails before anything was written, a folder that was made is removed again.

    Args:
        out: The wish.
        force: Take it even if it exists.

    Raises:
        OutputError: It cannot be made or written to.
    """
    folder = out
    try:
        existed = force and out.is_dir()
        folder = out if existed else _new_folder(out, force=force)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    try:
        yield folder
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):  # It stays if a file was written.
                folder.rmdir()
        raise


def _new_folder(out: Path, *, force: bool) -> Path:
    for number in count(1):
        if number > 1 and out.name in ("", ".."):
            break
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if force or Path(error.filename) != folder:  # Else a part of the path is in the way.
                raise
        else:
            return folder
    raise OutputError(
        f"Cannot write results to the folder {out}: it exists, and its name cannot get a number. "
        "Choose another --out, or write into it with --force."
    )


@contextmanager
def place_to_write(folder: Path) -> Generator[Path]:
    """Give a folder to write the files of a run in: an empty one itself, so that what was written stays if a later file fails.

    If something is in the folder, an earlier run for example, the place is a new folder ``unfinished-...`` in it. Its files
    take the places of those with the same names when the block has succeeded, so that the files of two runs never mix.
    """
    try:
        used = any(folder.iterdir())
        place = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder)) if used else folder
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    if not used:
        yield folder
        return
    try:
        yield place
        _move_files(place, folder)
    except OutputError as error:
        kept = f" What was written of the new run is in {place}." if any(place.iterdir()) else ""
        raise OutputError(f"{error} The earlier files in {folder} are untouched.{kept}") from error
    finally:
        with contextlib.suppress(OSError):  # It stays if a file was written before another failed.
            place.rmdir()


def _move_files(source: Path, target: Path) -> None:
    """Move the files of a folder into another one, all or none unless the system fails in between."""
    try:
        names = sorted(file.name for file in source.iterdir())
        for name in names:
            if (target / name).is_dir():
                raise IsADirectoryError(EISDIR, f"{name} is a folder there")
        for name in names:
            (source / name).replace(target / name)
    except OSError as error:
        raise _cannot_write_to(target, error) from error


def _cannot_write_to(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write results to the folder {folder}: {error.strerror}. Choose another --out."
    )


@contextmanager
def noted_on_stop(note: str) -> Generator[None]:
    """Add a note to the Ctrl-C that ends the block, for the message about it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(note)
        raise


def read_all(
    table: PictureTable, *, plan: RunPlan, cache: PictureCache, display: Display
) -> PictureTable:
    """Read every picture of both splits once, into the cache; return the table of the readable ones.

    Raises:
        PictureError: Some cannot be read, and ``plan.on_bad`` is ``"error"``; all are named.
    """
    import torch

    rows = torch.cat([table.train_rows, table.valid_rows])
    num_workers = None if plan.config.num_workers < 0 else plan.config.num_workers
    reader = PictureReader(
        resize=Resize(plan.config.size), cache=cache, truncated=plan.config.truncated
    )
    with display.bar("reading pictures", total=len(rows)) as move:
        unreadable = find_unreadable(
            table, rows, reader=reader, num_workers=num_workers, on_progress=move
        )
    kept = settle_unreadable(table, unreadable, on_bad=plan.on_bad)
    if unreadable:
        display.line(
            f"Left out {counted(len(unreadable), 'unreadable picture')}; the report lists what was wrong."
        )
    return kept


def enlarged_pictures(table: PictureTable, *, plan: RunPlan) -> str:
    """Return a sentence about the pictures of both splits that are smaller than the size, empty if there are none."""
    import torch

    size = as_size(plan.config.size)
    rows = torch.cat([table.train_rows, table.valid_rows])
    num_workers = None if plan.config.num_workers < 0 else plan.config.num_workers
    return enlarged_text(count_smaller(table, rows, size=size, num_workers=num_workers), size=size)


def write_run(
    folder: Path,
    *,
    run: TrainedRun,
    table: PictureTable,
    plan: RunPlan,
    metrics: tuple[Metric, ...],
    seconds: float,
) -> None:
    """Write the files of a run, the model first.

    Raises:
        OutputError: A file cannot be written; one that was there before is untouched.
    """
    save_bundle(
        folder / "model.safetensors",
        classifier=run.classifier,
        resize=run.resize,
        metrics=metrics,
        data_fingerprint=fingerprint(table),
        notes=run.recipe,
    )
    save_history(folder / "history.csv", run.history)
    run.predictions.save_csv(folder / "predictions.csv")
    facts = run_facts(run, table=table, plan=plan, seconds=seconds)
    _write_text(folder / "metrics.json", metrics_text(run, metrics=metrics, facts=facts, plan=plan))
    _write_text(folder / "config.toml", config_text(plan))
    content = ReportContent(
        title=plan.title,
        facts=facts,
        history=run.history,
        metrics=metrics,
        references=plan.references,
        predictions=run.predictions,
        table=table,
        notes=plan.notes,
    )
    write_report(folder / "report.html", content=content)


def run_facts(
    run: TrainedRun, *, table: PictureTable, plan: RunPlan, seconds: float
) -> tuple[tuple[str, str], ...]:
    """Return (name, value) of what was trained on what, for people."""
    import torch

    spec = run.classifier.backbone.spec
    device = next(run.classifier.parameters()).device
    return (
        ("Data", plan.data),
        (
            "Pictures",
            f"{len(table.train_rows):,} to learn from, {len(table.valid_rows):,} to validate on",
        ),
        ("Classes", f"{len(table.vocab)}: " + _shortened(table.vocab)),
        ("Network", spec.name),
        ("Weights", f"{spec.weights}; licence: {spec.licence}" if spec.licence else spec.weights),
        (
            "Recipe",
            run.recipe
            + (" Stopped early by Ctrl-C." if run.interrupted else "")
            + f" {run.problem}".rstrip(),
        ),
        ("Picture size", f"{plan.config.size} x {plan.config.size} pixels"),
        ("Seed", str(plan.config.seed)),
        ("Time", f"{format_seconds(seconds)} on {device_name(device)}"),
        ("Peak memory", f"{peak_memory_bytes() / 2**30:.1f} GiB"),
        (
            "Versions",
            f"vizsla {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        ),
    )


def device_name(device: torch.device) -> str:
    """Return the name of a device, for people."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had so far; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def metrics_text(
    run: TrainedRun,
    *,
    metrics: tuple[Metric, ...],
    facts: tuple[tuple[str, str], ...],
    plan: RunPlan,
) -> str:
    """Return the numbers of a run as JSON."""
    values: Mapping[str, object] = {
        "metrics": {metric.name: asdict(metric) for metric in metrics},
        "references": dict(plan.references),
        "facts": dict(facts),
        "interrupted": run.interrupted,
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def config_text(plan: RunPlan) -> str:
    """Return the choices of a run as TOML."""
    values: dict[str, object] = {**dict(plan.choices), "on_bad": plan.on_bad, **asdict(plan.config)}
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in values.items())


def _toml_value(value: object) -> str:
    """Return a text or a number as TOML: as JSON writes it, but for escapes that TOML lacks or wants."""
    if isinstance(value, str):  # A file name that is not valid Unicode holds lone surrogates.
        value = value.encode("utf-8", errors="backslashreplace").decode("utf-8")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def _write_text(path: Path, text: str) -> None:
    # Lone surrogates become escapes, which JSON knows.
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _shortened(names: tuple[str, ...], *, limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (" ..." if len(names) > limit else "")
