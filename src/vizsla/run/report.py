"""A run folder, or a run that just ended, in; what its report shows beyond the plain numbers, and the report itself, out.

``gather_evidence`` has the network look at the mistakes after training. ``rebuild_report`` makes ``report.html`` anew from the files
of a run folder, for example with a newer vizsla.
"""

from __future__ import annotations

import csv
import json
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from vizsla.data.table.check import drop_unreadable
from vizsla.data.table.demo_data import solar_cells
from vizsla.data.table.from_words import resolve_data
from vizsla.errors import DataError, VizslaError
from vizsla.evaluate.metrics import summarise
from vizsla.evaluate.predictions import HistoryPoint, Predictions
from vizsla.infer.mistakes import Evidence, collect_evidence
from vizsla.model_file.bundle import Bundle, load_bundle
from vizsla.recipe.recipe import TrainConfig, loaders_for
from vizsla.report.build import ReportContent, write_report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vizsla.data.cache.cache import PictureCache
    from vizsla.infer.mistakes import BatchesOf, KnownPictures
    from vizsla.models.classifier import Classifier
    from vizsla.train.display import Display, MoveBar
    from vizsla.types import PictureTable

DEMO_DATA = "elpv-dataset"


def gather_evidence(
    classifier: Classifier,
    *,
    predictions: Predictions,
    table: PictureTable,
    config: TrainConfig,
    display: Display,
    cache: PictureCache | None = None,
    known: KnownPictures | None = None,
) -> tuple[Evidence, tuple[str, ...]]:
    """Find out what explains the mistakes of a run.

    Args:
        classifier: The final one.
        predictions: What it said of the validation pictures.
        table: The table that their rows point into.
        config: Choices of the run.
        display: Shows bars.
        cache: Pictures that were read already.
        known: What training left.

    Returns:
        The evidence, and sentences for the report about what could not be found out: a run is not lost for its report.
    """
    loaders = loaders_for(table, config=config, cache=cache)

    def batches_of(rows: torch.Tensor) -> Any:
        return loaders.loader_for(rows).batches()

    give: BatchesOf = batches_of
    with _Bars(display) as bars:
        try:
            evidence = collect_evidence(
                classifier.to(loaders.device),
                predictions=predictions,
                table=table,
                batches_of=give,
                known=known,
                num_workers=None if config.num_workers < 0 else config.num_workers,
                on_progress=bars.move,
            )
        except VizslaError as error:
            return Evidence(), (f"The mistakes could not be looked into: {error}",)
    return evidence, ()


class _Bars:
    """One bar after the other, each begun when its work first moves."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._stack = ExitStack()
        self._label = ""
        self._bar: MoveBar | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def move(self, label: str, done: int, total: int) -> None:
        """Move the bar of this label."""
        if label != self._label:
            self._stack.close()
            self._label = label
            self._bar = self._stack.enter_context(self._display.bar(label, total=total))
        if self._bar is not None:
            self._bar(done)


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunFiles:
    """What the text files of a run folder say."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    history: tuple[HistoryPoint, ...]


def rebuild_report(folder: Path, *, device: str = "auto", display: Display) -> Path:
    """Write ``report.html`` of a run folder anew, from its files and from the pictures.

    Predictions, history and numbers are those of the run; the network looks at the mistakes again. What only training knew, the
    leave-one-out predictions of training pictures, is not kept in the folder, so labels of training pictures are not judged.

    Args:
        folder: Of a run of ``vizsla train`` or ``vizsla demo``.
        device: Where the network runs: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        display: Shows bars.

    Returns:
        The page.

    Raises:
        DataError: A file of the run is missing or damaged, or the pictures are not those of the run any more.
        ModelFileError: The model file is missing or damaged.
        OutputError: The page cannot be written; an old one is untouched.
    """
    files = _read_files(folder)
    table = _table_of(folder, files)
    predictions = _read_predictions(folder / "predictions.csv", table=table)
    bundle = load_bundle(folder / "model.safetensors")
    config = _config_of(files, device=device)
    evidence, notes = gather_evidence(
        bundle.classifier, predictions=predictions, table=table, config=config, display=display
    )
    content = ReportContent(
        title=str(files.metrics.get("title") or folder.resolve().name),
        facts=tuple((str(name), str(value)) for name, value in files.metrics["facts"].items()),
        history=files.history,
        metrics=summarise(predictions) if bool(predictions.labelled.any()) else (),
        references=tuple(files.metrics.get("references", {}).items()),
        predictions=predictions,
        table=table,
        notes=(*map(str, files.metrics.get("notes", ())), *notes),
        evidence=evidence,
        temperature=temperature_of(bundle),
    )
    return write_report(folder / "report.html", content=content)


def temperature_of(bundle: Bundle) -> float | None:
    """Return what the model file says that logits are divided by, or None where it says nothing.

    Args:
        bundle: From ``load_bundle``.
    """
    calibration = bundle.manifest.calibration
    return None if calibration is None else calibration.temperature


def _read_files(folder: Path) -> _RunFiles:
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            history = tuple(_point(row) for row in csv.DictReader(file))
        if not isinstance(metrics["facts"], dict):
            raise TypeError("facts is not a table")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} is not the folder of a finished run, or a file of it is damaged ({type(error).__name__}: {error}). "
            "Give the folder that vizsla train wrote, with config.toml, metrics.json, history.csv, predictions.csv and "
            "model.safetensors in it."
        ) from error
    return _RunFiles(config=config, metrics=metrics, history=history)


def _point(row: Mapping[str, str]) -> HistoryPoint:
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


def _config_of(files: _RunFiles, *, device: str) -> TrainConfig:
    names = {field.name for field in fields(TrainConfig)}
    kept = {name: value for name, value in files.config.items() if name in names}
    return replace(TrainConfig(**kept), device=device)


def _table_of(folder: Path, files: _RunFiles) -> PictureTable:
    """Find the pictures of the run again, as its ``config.toml`` says, without those that could not be read then."""
    config = files.config
    try:
        data, seed = str(config["data"]), int(config["seed"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{folder / 'config.toml'} does not say what the run was trained on ({type(error).__name__}: {error}). "
            "Only runs of vizsla train and vizsla demo have a report that can be made again."
        ) from error
    if data == DEMO_DATA:
        table = solar_cells(seed=seed)
    else:
        labels, valid = str(config.get("labels", "folder")), str(config.get("valid", "auto"))
        table = resolve_data(data, labels=labels, valid=valid, seed=seed)
    causes = dict(files.metrics.get("skipped", ()))
    row_of = {table.shown_path(row): row for row in range(len(table.paths))}
    return drop_unreadable(
        table, [(row_of[path], str(cause)) for path, cause in causes.items() if path in row_of]
    )


def _read_predictions(file: Path, *, table: PictureTable) -> Predictions:
    """Read what was predicted. Logits are the logarithms of the probabilities: the same up to a number per picture."""
    columns = [f"prob_{name}" for name in table.vocab]
    row_of = {table.shown_path(row): row for row in table.valid_rows.tolist()}
    paths: list[str] = []
    numbers: list[list[float]] = []
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            for line in csv.DictReader(opened):
                paths.append(line["path"])
                numbers.append([float(line[column]) for column in columns])
        rows = torch.tensor([row_of[path] for path in paths], dtype=torch.int64)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{file} does not fit the pictures of the run any more ({type(error).__name__}: {error}). The report can be made "
            "again only while the pictures and their labels are where and what they were."
        ) from error
    probabilities = torch.tensor(numbers, dtype=torch.float64).view(len(paths), len(columns))
    return Predictions(
        rows=rows,
        paths=tuple(paths),
        logits=probabilities.clamp_min(1e-45).log().float(),
        targets=table.targets[rows],
        vocab=table.vocab,
    )
