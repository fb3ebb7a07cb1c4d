"""What a report shows beyond plain numbers, and the report of a run folder made again from its files.

``gather_evidence`` has the network look at the mistakes after training. ``rebuild_report`` makes ``report.html`` of a run folder
again, for example with a newer vizsla.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from vizsla.errors import VizslaError
from vizsla.evaluate.metrics import summarise
from vizsla.infer.mistakes import Evidence, collect_evidence
from vizsla.model_file.bundle import load_bundle
from vizsla.recipe.recipe import loaders_for
from vizsla.report.build import ReportContent, write_report
from vizsla.run.folder import REPORT, RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vizsla.data.cache.cache import ImageCache
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.mistakes import BatchesOf, KnownImages
    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.display import Display, MoveBar
    from vizsla.types import ImageTable


def gather_evidence(
    classifier: Classifier,
    *,
    predictions: Predictions,
    table: ImageTable,
    config: TrainConfig,
    display: Display,
    cache: ImageCache | None = None,
    known: KnownImages | None = None,
) -> tuple[Evidence, tuple[str, ...]]:
    """Find out what explains the mistakes of a run.

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
                num_workers=config.num_threads,
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


def rebuild_report(
    folder: Path, *, data: Path | None = None, device: str = "auto", display: Display
) -> Path:
    """Write ``report.html`` of a run folder again, from its files and from the images.

    Predictions, history and numbers are those of the run; the network looks at the mistakes again. What only training knew, the
    leave-one-out predictions of training images, is not kept in the folder, so labels of training images are not judged.

    Args:
        folder: Of a run of ``vizsla train`` or ``vizsla demo``.
        data: Where its images are now; None looks where they were, then beside the folder, see ``RunFolder.find_data``.
        device: Where the network runs: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        display: Shows bars.

    Returns:
        The page.

    Raises:
        DataError: A file of the run is missing or damaged, or the images are not those of the run any more.
        ModelFileError: The model file is missing or damaged.
        OutputError: The page cannot be written; an old one is untouched.
    """
    run = RunFolder(folder)
    metrics, history, config = run.metrics, run.history, run.train_config(device=device)
    table = run.table(data)
    predictions = run.predictions(table)
    bundle = load_bundle(run.model)
    calibration = bundle.manifest.calibration
    evidence, notes = gather_evidence(
        bundle.classifier, predictions=predictions, table=table, config=config, display=display
    )
    content = ReportContent(
        title=str(metrics.get("title") or folder.resolve().name),
        facts=tuple((str(name), str(value)) for name, value in metrics["facts"].items()),
        history=history,
        metrics=summarise(predictions) if bool(predictions.labelled.any()) else (),
        references=tuple(metrics.get("references", {}).items()),
        predictions=predictions,
        table=table,
        notes=(*map(str, metrics.get("notes", ())), *notes),
        evidence=evidence,
        temperature=None if calibration is None else calibration.temperature,
    )
    return write_report(folder / REPORT, content=content)
