"""What the loggers write, over all fits of a learner."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from vizsla.errors import ConfigError, MissingExtraError, OutputError
from vizsla.train.callbacks.loggers import (
    CSVLogger,
    JSONLLogger,
    ShowGraphCallback,
    TensorBoardLogger,
    WandbLogger,
)
from vizsla.train.metrics import accuracy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def learner(make_learner: Any, tmp_path: Path) -> Any:
    return make_learner(metrics=accuracy, path=tmp_path)


def test_both_phases_of_fine_tune_are_in_the_csv_in_full_precision(learner: Any, tmp_path: Path):
    learner.fine_tune(2, cbs=CSVLogger())
    rows = csv_rows(tmp_path / "history.csv")
    assert [row["stage"] for row in rows] == ["frozen", "unfrozen", "unfrozen"]
    assert [row["epoch"] for row in rows] == ["0", "0", "1"]
    assert list(rows[0]) == ["stage", "epoch", "train_loss", "valid_loss", "accuracy", "time"]
    figures = [[float(row[name]) for name in list(row)[2:5]] for row in rows]
    assert figures == learner.recorder.values
    assert all(float(row["time"]) > 0 for row in rows)


def test_both_phases_of_fine_tune_are_in_the_json_lines(learner: Any, tmp_path: Path):
    learner.fine_tune(1, cbs=JSONLLogger("logs/run.jsonl"))
    rows = json_rows(tmp_path / "logs" / "run.jsonl")
    assert [row["stage"] for row in rows] == ["frozen", "unfrozen"]
    assert [row["step"] for row in rows] == [5, 5]
    assert [[row[n] for n in ("train_loss", "valid_loss", "accuracy")] for row in rows] == (
        learner.recorder.values
    )
    assert [row["learning_rates"][-1] for row in rows] == learner.recorder.lrs[4::5]
    assert len(rows[0]["learning_rates"]) == 3


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_what_is_written_is_complete_after_every_epoch(
    learner: Any, tmp_path: Path, kind: type[CSVLogger]
):
    def fail_after(epochs: int) -> Any:
        from vizsla.train.callbacks.base import Callback, Fit

        class Fail(Callback):
            def before_epoch(self, fit: Fit) -> None:
                if fit.epoch == epochs:
                    raise KeyboardInterrupt

        return Fail()

    with pytest.raises(KeyboardInterrupt):
        learner.fit(4, cbs=[kind("log.txt"), fail_after(2)])
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2 + (kind is CSVLogger)


def test_a_new_logger_begins_a_new_file_unless_it_is_to_append(learner: Any, tmp_path: Path):
    path = tmp_path / "history.csv"
    path.write_text("something old\n")
    learner.fit(1, cbs=CSVLogger())
    assert len(csv_rows(path)) == 1
    learner.fit(2, cbs=CSVLogger(append=True))
    assert [row["epoch"] for row in csv_rows(path)] == ["0", "0", "1"]
    assert path.read_text().count("train_loss") == 1


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(learner: Any, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*taken: Is a directory"):
        learner.fit(1, cbs=CSVLogger("taken"))


# --- dashboards ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_step_and_every_epoch(learner: Any, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    learner.fine_tune(1, cbs=logger)
    logger.writer.close()
    events: Any = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "epoch/accuracy",
        "epoch/train_loss",
        "epoch/valid_loss",
        "learning_rate",
        "loss/step",
    ]
    losses = events.Scalars("loss/step")
    assert [point.step for point in losses] == list(range(10))
    assert [point.value for point in losses] == pytest.approx(learner.recorder.losses, rel=1e-6)
    rates = [point.value for point in events.Scalars("learning_rate")]
    assert rates == pytest.approx(learner.recorder.lrs, rel=1e-6)
    valid = events.Scalars("epoch/valid_loss")
    assert [point.step for point in valid] == [5, 10]
    expected = [values[1] for values in learner.recorder.values]
    assert [point.value for point in valid] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Weights & Biases, which sends nothing anywhere."""
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield module
    module.finish()
    module.teardown()


def test_wandb_gets_every_epoch(learner: Any, wandb: Any, monkeypatch: pytest.MonkeyPatch):
    run = wandb.init(project="pictures", mode="offline")
    sent: list[dict[str, Any]] = []
    log = wandb.log
    monkeypatch.setattr(wandb, "log", lambda entry: (sent.append(entry), log(entry)))
    learner.fine_tune(1, cbs=WandbLogger())
    assert [
        [row["train_loss"], row["valid_loss"], row["accuracy"]] for row in sent
    ] == learner.recorder.values
    assert [row["learning_rate"] for row in sent] == learner.recorder.lrs[4::5]
    assert run.summary["accuracy"] == sent[-1]["accuracy"]


def test_wandb_without_a_run_is_an_error_before_the_first_step(learner: Any, wandb: Any):
    with pytest.raises(ConfigError, match=r"Call wandb\.init\(project=\.\.\.\) first"):
        learner.fit(1, cbs=WandbLogger())
    assert learner.recorder.losses == []


@pytest.mark.parametrize(
    ("kind", "package"), [(TensorBoardLogger, "tensorboard"), (WandbLogger, "wandb")]
)
def test_a_package_that_is_not_there_is_named_with_what_brings_it(
    kind: Any, package: str, monkeypatch: pytest.MonkeyPatch
):
    import sys

    blocked = "torch.utils.tensorboard.writer" if package == "tensorboard" else package
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}' is needed.*pip install"):
        kind()


def test_the_losses_are_drawn_at_the_end(learner: Any):
    from matplotlib import pyplot as plt

    learner.fit(1, cbs=ShowGraphCallback())
    (axes,) = plt.gcf().axes
    assert axes.get_title() == "learning curve"
    plt.close("all")
