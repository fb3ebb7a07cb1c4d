"""The printed table byte for byte, what fit returns, and when weights are saved."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vizsla.classic.training import BestSaver, CycleSaver, header_line, returned_values, row_line

FORMAT: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "classic.json").read_text("utf-8")
)["format"]


def test_the_header_is_the_recorded_one():
    assert header_line(["epoch", "trn_loss", "val_loss", "accuracy"]) == FORMAT["header"]
    assert header_line(["epoch", "trn_loss", "val_loss"]) == FORMAT["no_metrics_header"]


@pytest.mark.parametrize("row", FORMAT["rows"])
def test_rows_are_the_recorded_ones(row: dict[str, Any]):
    values = [float("nan") if value is None else float(value) for value in row["values"]]
    assert row_line(row["epoch"], values) == row["line"]


def test_the_loss_is_returned_as_short_as_a_float32_can_be_written():
    assert repr(returned_values([0.1, 0.021074643358588219, 0.9931640625])) == (
        "[0.021074643, 0.9931640625]"
    )


def ended(values: list[float]) -> Any:
    """Return a fit whose last epoch had these values."""
    return SimpleNamespace(record=SimpleNamespace(values=[values]))


@pytest.mark.parametrize(
    ("epochs", "saved"),
    [
        ([[0, 1.0, 0.5], [0, 2.0, 0.6], [0, 1.0, 0.4]], [0, 1]),
        ([[0, 1.0, 0.5], [0, 0.9, 0.5], [0, 0.95, 0.5]], [0, 1]),
        ([[0, 1.0], [0, 1.1], [0, 0.9]], [0, 2]),
    ],
    ids=["metric rises", "equal metric, loss falls", "no metrics"],
)
def test_the_best_weights_are_saved(epochs: list[list[float]], saved: list[int]):
    found: list[int] = []
    seen: list[int] = []
    saver = BestSaver(lambda: found.append(len(seen) - 1))
    for number, values in enumerate(epochs):
        seen.append(number)
        saver.after_epoch(ended(values))
    assert found == saved


def test_cycles_are_saved_after_their_last_step():
    found: list[tuple[int, int]] = []
    step = 0
    saver = CycleSaver(lambda cycle: found.append((step, cycle)), ends=(2, 6))
    for step in range(1, 7):
        fit: Any = SimpleNamespace(step=step)
        saver.after_step(fit)
    assert found == [(2, 0), (6, 1)]
