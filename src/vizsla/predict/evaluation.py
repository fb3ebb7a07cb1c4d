"""Judge a model on labelled images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.images.decode import cause_of
from vizsla.data.table.from_words import labelled_data
from vizsla.errors import DataError, PictureError
from vizsla.evaluate.metrics import Metric, summarise
from vizsla.evaluate.predictions import Predictions
from vizsla.types import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from vizsla.data.table.fixes import Fixes
    from vizsla.data.table.from_words import Part
    from vizsla.predict.predictor import Predictor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What a model said about labelled images.

    Attributes:
        predictions: With the calibrated probabilities, as ``Predictor.predict`` gives them.
        metrics: Those of ``summarise``, each with its 95 % interval.
        unreadable: ``(path, cause)`` of the images that could not be read; they are in no figure.
        notes: What was judged, guessed and left out, a line each.
    """

    predictions: Predictions
    metrics: tuple[Metric, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def evaluate_model(
    predictor: Predictor,
    data: Path | str,
    *,
    labels: str = "auto",
    label_level: int | Literal["auto"] = "auto",
    group: str = "",
    part: Part = "auto",
    fixes: Fixes = None,
    trained_on: Collection[str] = (),
    batch_size: int = 32,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """Predict labelled images, and measure how right that is; see ``Predictor.evaluate``.

    ``trained_on`` has the real paths of images to leave out, see ``labelled_data``. ``on_progress`` is called with the number of
    images done and that of all.
    """
    table = labelled_data(
        data,
        vocab=predictor.vocab,
        task=predictor.task,
        labels=labels,
        label_level=label_level,
        group=group,
        part=part,
        fixes=fixes,
        trained_on=trained_on,
    )
    rows = table.valid_rows.tolist()
    outputs: list[torch.Tensor] = []
    judged: list[int] = []
    unreadable: list[tuple[str, str]] = []
    found = predictor.predict_many(
        [table.paths[row] for row in rows], batch_size=batch_size, num_workers=num_workers
    )
    for done, (row, (_, said)) in enumerate(zip(rows, found, strict=True), start=1):
        if isinstance(said, PictureError):
            unreadable.append((table.shown_path(row), cause_of(said)))
        else:
            is_number = predictor.task == "regression"
            outputs.append(torch.tensor(said.values) if is_number else said.probabilities)
            judged.append(row)
        on_progress(done, len(rows))
    if not judged:
        raise DataError(
            f"There are no images to evaluate the model on ({'; '.join(table.notes)}; cannot be read: "
            f"{len(unreadable)}). Give labelled images that it was not trained on."
        )
    chosen = torch.tensor(judged)
    predictions = Predictions(
        rows=chosen,
        paths=tuple(map(table.shown_path, judged)),
        logits=logits_of(torch.stack(outputs), task=predictor.task),
        targets=table.targets[chosen],
        vocab=predictor.vocab,
        task=predictor.task,
        thresholds=predictor.thresholds,
    )
    return Evaluation(
        predictions=predictions,
        metrics=summarise(predictions),
        unreadable=tuple(unreadable),
        notes=table.notes,
    )
