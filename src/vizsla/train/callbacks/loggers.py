"""Log a fit to files and dashboards: CSV, JSON lines, TensorBoard, Weights & Biases, MLflow, a plot."""

from __future__ import annotations

import csv
import json
import os
import re
import time
import warnings
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError, MissingExtraError, OutputError
from vizsla.train.callbacks.base import Callback
from vizsla.train.distributed import is_main

if TYPE_CHECKING:
    from vizsla.train.callbacks.base import Fit

_NOT_FOR_MLFLOW = re.compile(r"[^\w\-. /]")
"""Characters that no name of a metric has there."""


class _FileLogger(Callback):
    """Adds a row per epoch to a file below the learner's path, complete after every epoch; only the main process writes."""

    order = 60

    def __init__(self, fname: str | Path, *, append: bool) -> None:
        self.fname = Path(fname)
        self.path = Path(fname)
        self.append = append
        self._started = 0.0
        self._begun = False
        self._logs: set[Path] = set()

    def before_fit(self, fit: Fit) -> None:
        """Place the file below the learner's path."""
        self.path = fit.trainer.path / self.fname
        self._logs = fit.trainer.recorder.logs
        self._begun = self._begun or self.path in self._logs

    def before_epoch(self, fit: Fit) -> None:
        """Start the clock."""
        del fit
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return how long the epoch took."""
        return time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """Return how much of the file belongs to this run."""
        return {"bytes": self.path.stat().st_size if self._begun else None}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with the same file, without the rows of epochs that are done again."""
        self._begun = state["bytes"] is not None
        if self._begun and self.path.exists() and is_main():
            os.truncate(self.path, state["bytes"])

    def _write(self, text: str, *, header: str = "") -> None:
        """Add a row, whole or not at all; the first one of a learner begins a new file, and its later fits go on with it.

        Only the first raises an error: a fit must not be lost for a later one.
        """
        if not is_main():
            return
        begins, size = not self._begun and not self.append, 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w" if begins else "a", encoding="utf-8", newline="") as file:
                size = file.tell()
                file.write(text if size else header + text)
        except OSError as error:
            what = f"Cannot write {self.path}: {error.strerror}."
            if not self._begun:
                raise OutputError(f"{what} Choose another fname, or free some space.") from error
            with suppress(OSError):
                os.truncate(self.path, size)
            warnings.warn(f"{what} The row of this epoch was not written.", stacklevel=3)
        self._begun = True
        self._logs.add(self.path)


class CSVLogger(_FileLogger):
    """Writes epoch, losses, metrics and seconds as CSV, numbers in full precision; all fits of a learner in one file.

    Epochs are counted through all fits, and a new ``CSVLogger`` for each fit continues the file too.

    Args:
        fname: File below the learner's path.
        append: Add to an existing file; otherwise the first fit begins a new one.
    """

    def __init__(self, fname: str | Path = "history.csv", append: bool = False) -> None:
        super().__init__(fname, append=append)

    def after_epoch(self, fit: Fit) -> None:
        """Add a row."""
        header, row = StringIO(), StringIO()
        csv.writer(header, lineterminator="\n").writerow(["stage", "epoch", *fit.values, "time"])
        values = [fit.stage, fit.total_epoch, *fit.values.values(), self.seconds()]
        csv.writer(row, lineterminator="\n").writerow(values)
        self._write(row.getvalue(), header=header.getvalue())


class JSONLLogger(_FileLogger):
    """Writes one JSON object per epoch and line: stage, epoch, losses, metrics, rates, seconds.

    Args:
        fname: File below the learner's path.
        append: Add to an existing file; otherwise the first fit begins a new one.
    """

    def __init__(self, fname: str | Path = "history.jsonl", append: bool = False) -> None:
        super().__init__(fname, append=append)

    def after_epoch(self, fit: Fit) -> None:
        """Add a line."""
        entry = {
            "stage": fit.stage,
            "epoch": fit.total_epoch,
            "step": fit.step,
            **fit.values,
            "learning_rates": list(fit.schedule.rates_at(fit.step - 1)),
            "seconds": self.seconds(),
        }
        self._write(json.dumps(entry) + "\n")


class TensorBoardLogger(Callback):
    """Sends losses, rates and metrics to TensorBoard.

    Args:
        log_dir: Folder of the event files; None is ``runs/<time>_<host>``, TensorBoard's own choice.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    order = 60

    def __init__(self, log_dir: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "tensorboard", extra="log", purpose="send results to TensorBoard"
            ) from error
        self.writer: Any = SummaryWriter(log_dir) if is_main() else None

    def after_epoch(self, fit: Fit) -> None:
        """Send the steps and the results of the epoch; steps are counted through all fits of the learner."""
        if self.writer is None:
            return
        record = fit.record
        before = len(fit.trainer.recorder.losses) - len(record.losses)
        done = (record.iters[-2] if len(record.iters) > 1 else 0, record.iters[-1])
        for place in range(*done):
            self.writer.add_scalar("loss/step", record.losses[place], before + place)
            self.writer.add_scalar("learning_rate", record.lrs[place], before + place)
        for name, value in fit.values.items():
            self.writer.add_scalar(f"epoch/{name}", value, before + done[1])

    def after_fit(self, fit: Fit) -> None:
        """Flush the event file."""
        del fit
        if self.writer is not None:
            self.writer.flush()


class WandbLogger(Callback):
    """Sends losses, rates and metrics of every epoch to Weights & Biases; epochs count on over all fits.

    Start a run first: ``wandb.init(project="pets")``, with ``mode="offline"`` to keep everything on this machine.

    Raises:
        MissingExtraError: wandb is not installed.
        ConfigError: At the start of a fit: no run was started.
    """

    order = 60

    def __init__(self) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports] (optional)
        except ImportError as error:
            raise MissingExtraError(
                "wandb", extra="log", purpose="send results to Weights & Biases"
            ) from error
        self.wandb: Any = wandb

    def before_fit(self, fit: Fit) -> None:
        """Check that there is a run to send to."""
        del fit
        if is_main() and self.wandb.run is None:
            raise ConfigError(
                "WandbLogger needs an active wandb run. Call wandb.init(project=...) first."
            )

    def after_epoch(self, fit: Fit) -> None:
        """Send the results of the epoch."""
        if not is_main():
            return
        self.wandb.log(
            {"epoch": fit.total_epoch, "learning_rate": fit.record.lrs[-1], **fit.values}
        )


class MLflowLogger(Callback):
    """Sends losses, rates and metrics of every epoch to the active run of MLflow; epochs count on over all fits.

    Start a run first: ``mlflow.start_run()``, after ``mlflow.set_tracking_uri("sqlite:///mlflow.db")`` to keep it on this machine.

    Raises:
        MissingExtraError: mlflow is not installed.
        ConfigError: At the start of a fit: no run was started.
    """

    order = 60

    def __init__(self) -> None:
        try:
            import mlflow  # pyright: ignore[reportMissingImports] (optional)
        except ImportError as error:
            raise MissingExtraError(
                "mlflow", extra="log", purpose="send results to MLflow"
            ) from error
        self.mlflow: Any = mlflow

    def before_fit(self, fit: Fit) -> None:
        """Check that there is a run to send to."""
        del fit
        if is_main() and self.mlflow.active_run() is None:
            raise ConfigError(
                "MLflowLogger needs an active MLflow run. Call mlflow.start_run() first."
            )

    def after_epoch(self, fit: Fit) -> None:
        """Send the results of the epoch; where they cannot be sent, a warning says so, and the fit goes on."""
        if not is_main():
            return
        values = {"learning_rate": fit.record.lrs[-1], **fit.values}
        named = {_NOT_FOR_MLFLOW.sub("_", name): value for name, value in values.items()}
        try:
            self.mlflow.log_metrics(named, step=fit.total_epoch)
        except self.mlflow.MlflowException as error:
            warnings.warn(
                f"MLflow did not accept the results of epoch {fit.epoch}: {error}", stacklevel=2
            )


class ShowGraphCallback(Callback):
    """Draws training and validation loss when the fit is over."""

    order = 65

    def after_fit(self, fit: Fit) -> None:
        """Draw."""
        if fit.record.values:
            fit.trainer.recorder.plot_loss()
