"""The report of a run: the network looks at the mistakes, then the page is written; or written again from the run's files."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.auditing.quick import quick_audit
from vizsla.data.images.bit_depth import FULL_DEPTH
from vizsla.errors import VizslaError
from vizsla.evaluate.metrics import summarise
from vizsla.files import only_writer
from vizsla.infer.mistakes import collect_evidence
from vizsla.model_file.bundle import load_bundle
from vizsla.paths import is_address
from vizsla.recipe.features_first import loaders_for
from vizsla.report.build import ReportContent, check_report_installed, write_report
from vizsla.run.folder import CONFIG, DEMO_DATA, LOCK, REPORT, RunFolder
from vizsla.train.display import Bars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.auditing.audit import Finding
    from vizsla.data.cache.cache import ImageCache
    from vizsla.infer.mistakes import KnownImages
    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display
    from vizsla.types import Task


def write_explained(
    path: Path,
    *,
    content: ReportContent,
    classifier: Classifier,
    config: TrainConfig,
    display: Display,
    cache: ImageCache | None = None,
    known: KnownImages | None = None,
) -> tuple[Finding, ...]:
    """Add what explains the mistakes to a report, and what was found out about the data, and write it; return the latter.

    What could not be found out becomes a note of the report: a run must not be lost for its report.
    """
    loaders = loaders_for(content.table, config=config, cache=cache)
    found: tuple[Finding, ...] = ()
    with Bars(display) as bars:
        try:
            evidence = collect_evidence(
                classifier.to(loaders.device),
                predictions=content.predictions,
                table=content.table,
                batches_of=lambda rows: loaders.loader_for(rows).batches(),
                known=known,
                num_workers=config.num_threads,
                on_progress=bars.move,
            )
            found = quick_audit(
                content.table,
                predictions=content.predictions,
                evidence=evidence,
                metric=content.metrics[0] if content.metrics else None,
                seed=config.seed,
                num_workers=config.num_threads,
            )
            told = tuple((each.title, each.advice) for each in found)
            content = replace(content, evidence=evidence, data=told)
        except VizslaError as error:
            note = f"The mistakes could not be examined: {error}"
            content = replace(content, notes=(*content.notes, note))
    write_report(path, content=content)
    return found


def commands_of(
    folder: Path, *, config: Mapping[str, Any], task: Task
) -> tuple[tuple[str, str], ...]:
    """Return (what it does, command) of what can be done next with the run in a folder; ``config`` is its ``config.toml``."""
    run, data = str(folder), str(config.get("data", ""))
    found = [
        ("Classify images", ["predict", run, "photos"]),
        ("Measure on images that it has never seen", ["evaluate", run, "test-images"]),
        ("Show it on a web page", ["serve", run]),
    ]
    if data == DEMO_DATA:
        chosen = [
            word for name in ("seed", "epochs") for word in (f"--{name}", str(config.get(name, 0)))
        ]
        again = ["demo", *chosen, "--out", f"{run}-again"]
        found.append(("Train again in the same way", again))
    elif is_address(data) or Path(data).exists():
        if task == "category":
            found.append(("Correct labels on a page, without touching a file", ["label", run]))
        again = ["train", "--config", str(folder / CONFIG), "--out", f"{run}-again"]
        found += [
            ("Look for faults in the data", ["audit", data]),
            ("Train again in the same way", again),
        ]
    return tuple((what, shlex.join(["vizsla", *words])) for what, words in found)


def rebuild_report(
    folder: Path, *, data: Path | None = None, device: str = "auto", display: Display
) -> Path:
    """Write ``report.html`` of a run folder again, for example with a newer vizsla; ``data`` as for ``RunFolder.find_data``.

    Predictions, history and numbers are those of the run; the network looks at the mistakes again. The leave-one-out
    predictions of training images are not kept in the folder, so labels of training images are not judged.

    Raises:
        DataError: A file of the run is missing or damaged, or the images are not those of the run any more.
        ModelFileError: The model file is missing or damaged.
        OutputError: The page cannot be written; an old one is untouched. Or another process is writing to the folder.
        MissingExtraError: jinja2 is not installed.
    """
    check_report_installed()
    run = RunFolder(folder)
    run.metrics  # noqa: B018 (a folder of something else is refused before anything is written there)
    with only_writer(folder / LOCK, of=folder):
        return _rebuild(run, data=data, device=device, display=display)


def _rebuild(run: RunFolder, *, data: Path | None, device: str, display: Display) -> Path:
    folder = run.path
    metrics, history, config = run.metrics, run.history, run.train_config(device=device)
    bundle = load_bundle(run.model)
    table = replace(run.table(data), bit_depth=bundle.manifest.bit_depth or FULL_DEPTH)
    predictions = run.predictions(table)
    calibration = bundle.manifest.calibration
    facts = {"Date": bundle.manifest.created, **metrics["facts"]}
    content = ReportContent(
        title=str(metrics.get("title") or folder.resolve().name),
        facts=tuple((str(name), str(value)) for name, value in facts.items()),
        history=history,
        metrics=summarise(predictions) if bool(predictions.labelled.any()) else (),
        references=tuple(metrics.get("references", {}).items()),
        predictions=predictions,
        table=table,
        notes=tuple(map(str, metrics.get("notes", ()))),
        temperature=None if calibration is None else calibration.temperature,
        commands=commands_of(folder, config=run.config, task=table.task),
    )
    write_explained(
        folder / REPORT,
        content=content,
        classifier=bundle.classifier,
        config=config,
        display=display,
    )
    return folder / REPORT
