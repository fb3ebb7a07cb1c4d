"""Report contents made from small real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.evaluate.metrics import summarise
from vizsla.evaluate.predictions import HistoryPoint, Predictions
from vizsla.report.build import ReportContent
from vizsla.types import UNLABELLED, ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

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
        history: tuple[HistoryPoint, ...] = HISTORY,
        references: tuple[tuple[str, float], ...] = (),
        title: str = "Crosses and discs",
        facts: tuple[tuple[str, str], ...] = (("Network", "tiny"),),
        notes: tuple[str, ...] = (),
        skipped: tuple[tuple[Path, str], ...] = (),
    ) -> ReportContent:
        files = tuple(paths) or tuple(sorted(image_folder.rglob("*.jpg")))
        files = tuple(files[number % len(files)] for number in range(len(targets)))
        table = ImageTable(
            root=image_folder,
            paths=files,
            targets=torch.tensor(targets, dtype=torch.int64),
            vocab=tuple(vocab),
            train_rows=torch.arange(0),
            valid_rows=torch.arange(len(targets)),
            skipped=skipped,
        )
        predictions = Predictions(
            rows=torch.arange(len(targets)),
            paths=tuple(table.shown_path(row) for row in range(len(targets))),
            logits=torch.as_tensor(logits, dtype=torch.float32),
            targets=table.targets,
            vocab=table.vocab,
        )
        labelled = bool((table.targets != UNLABELLED).any())
        return ReportContent(
            title=title,
            facts=facts,
            history=history,
            metrics=summarise(predictions) if labelled else (),
            references=references,
            predictions=predictions,
            table=table,
            notes=notes,
        )

    return make


@pytest.fixture
def content(make_content: Callable[..., ReportContent]) -> ReportContent:
    """A report with 20 images of which three are wrong."""
    targets = [number % 2 for number in range(20)]
    logits = torch.nn.functional.one_hot(torch.tensor(targets), 2) * 2.0
    logits[[3, 8, 11]] = logits[[3, 8, 11]].flip(1) * torch.tensor([[0.5], [2.0], [1.0]])
    return make_content(logits, targets, references=(("An older network", 0.5),))
