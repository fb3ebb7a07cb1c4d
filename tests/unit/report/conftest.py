"""Report contents made from small real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vizsla import Predictions
from vizsla.evaluate import HistoryPoint, summarise
from vizsla.report import ReportContent
from vizsla.types import ImageTable

HISTORY = (
    HistoryPoint(stage="features", epoch=0, valid_loss=0.7, accuracy=0.8, seconds=12.3),
    HistoryPoint(stage="head", epoch=0, train_loss=0.6, valid_loss=0.5, accuracy=0.85, seconds=1),
    HistoryPoint(stage="head", epoch=1, train_loss=0.4, valid_loss=0.4, accuracy=0.9, seconds=95),
)


@pytest.fixture
def make_content(image_folder: Path) -> Callable[..., ReportContent]:
    """Return a function that makes the content of a report on images of crosses and discs."""

    def make(
        logits: Sequence[Sequence[float]] | Tensor,
        targets: Sequence[int],
        *,
        vocab: Sequence[str] = ("cross", "disc"),
        paths: Sequence[Path] = (),
        skipped: tuple[tuple[Path, str], ...] = (),
        **changes: Any,
    ) -> ReportContent:
        files = tuple(paths) or tuple(sorted(image_folder.rglob("*.jpg")))
        rows = torch.arange(len(targets))
        table = ImageTable(
            root=image_folder,
            paths=tuple(files[row % len(files)] for row in rows.tolist()),
            targets=torch.tensor(targets, dtype=torch.int64),
            vocab=tuple(vocab),
            train_rows=torch.arange(0),
            valid_rows=rows,
            skipped=skipped,
        )
        predictions = Predictions(
            rows=rows,
            paths=tuple(map(table.shown_path, rows.tolist())),
            logits=torch.as_tensor(logits, dtype=torch.float32),
            targets=table.targets,
            vocab=table.vocab,
        )
        usual: dict[str, Any] = {
            "title": "Crosses and discs",
            "facts": (("Network", "tiny"),),
            "history": HISTORY,
            "metrics": summarise(predictions) if bool(predictions.labelled.any()) else (),
            "references": (),
        }
        return ReportContent(predictions=predictions, table=table, **(usual | changes))

    return make


@pytest.fixture
def content(make_content: Callable[..., ReportContent]) -> ReportContent:
    """A report with 20 images of which three are wrong."""
    targets = [number % 2 for number in range(20)]
    logits = torch.nn.functional.one_hot(torch.tensor(targets), 2) * 2.0
    logits[[3, 8, 11]] = logits[[3, 8, 11]].flip(1) * torch.tensor([[0.5], [2.0], [1.0]])
    return make_content(logits, targets, references=(("An older network", 0.5),))
