"""The short form of an audit that a training gets at hardly any cost: what it found out about its data on the way.

Labels are judged by the leave-one-out predictions of its first stage, duplicates by what its report reads of the files. Only
shortcuts need files to be read, some of them. ``audit`` looks at all images, and names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vizsla.auditing.audit import Finding, label_finding, shortcut_findings
from vizsla.auditing.shortcuts import drawn_places, probe_cues
from vizsla.auditing.traits import read_traits
from vizsla.evaluate.label_errors import label_noise
from vizsla.evaluate.metrics import measure
from vizsla.report.tables import metric_row
from vizsla.text import counted
from vizsla.types import is_labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vizsla.evaluate.metrics import Metric
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.mistakes import Evidence
    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable

NUM_READ = 250
"""Images whose files are read again for shortcuts: half of the classes given away is known to six per cent, in 1.2 s of one core."""


def quick_audit(
    table: ImageTable,
    *,
    predictions: Predictions,
    evidence: Evidence,
    metric: Metric | None = None,
    seed: int = 0,
    num_workers: NumWorkers = "auto",
) -> tuple[Finding, ...]:
    """Return what a finished training says about its data; findings have no images.

    Args:
        table: The images, with their split.
        predictions: On the validation images.
        evidence: Duplicates, and leave-one-out predictions of the training images where they are known.
        metric: The first one of the run, told again without validation images that training saw; None leaves that out.
        seed: Of the images that are read for shortcuts.
        num_workers: Threads that read them, see ``map_rows``.
    """
    return (
        *_twins(table, predictions, evidence, metric),
        *_wrong_labels(evidence.left_out),
        *_worst_shortcut(table, seed=seed, num_workers=num_workers),
    )


def _twins(
    table: ImageTable, predictions: Predictions, evidence: Evidence, metric: Metric | None
) -> Iterator[Finding]:
    """Yield how many validation images training saw, too, and the metric without them."""
    twins = evidence.duplicates
    if not twins:
        return
    pairs = [(table.label(int(predictions.rows[each.position])), table.label(each.train_row)) for each in twins]  # fmt: skip
    contradict = sum(one != other for one, other in pairs if one and other)
    alone = predictions.labelled.clone()
    alone[[each.position for each in twins]] = False
    without = ""
    if metric is not None and bool(alone.any()):
        found = metric_row(measure(predictions.take(alone), metric.name))
        without = f" {found.title} without them: {found.value} ({found.interval})."
    yield Finding(
        kind="across sets",
        severity="mend",
        title=(
            f"{counted(len(twins), 'validation image is', 'validation images are')} also in the "
            "training set, as exact or near "
            f"duplicates{f', {contradict:,} with another label' if contradict else ''}.{without}"
        ),
        advice="They inflate the result. Drop one of each, or split with --group auto.",
    )


def _wrong_labels(left_out: Predictions | None) -> Iterator[Finding]:
    noise = None if left_out is None else label_noise(left_out)
    if noise is not None and noise.suspects:
        yield replace(
            label_finding(noise),
            advice="The report shows the most likely ones; vizsla audit writes all of them to "
            "fixes.csv, for train --fixes.",
        )


def _worst_shortcut(table: ImageTable, *, seed: int, num_workers: NumWorkers) -> Iterator[Finding]:
    """Yield the thing beside the object from which most classes follow, if they do."""
    if table.task != "category":
        return
    rows = table.train_rows[is_labelled(table.targets[table.train_rows])]
    rows = rows[drawn_places(len(rows), most=NUM_READ, seed=seed, purpose="cues")]
    traits = read_traits(table, rows, num_workers=num_workers)
    read = [place for place, one in enumerate(traits) if one is not None]
    if read:
        cues = probe_cues(
            [one for one in traits if one is not None],
            table.targets[rows[read]],
            vocab=table.vocab,
            seed=seed,
        )
        yield from list(shortcut_findings(cues))[:1]
