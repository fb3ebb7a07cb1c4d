"""What a model said about some images: ``Predictions``, which metrics, plots and the report read.

Shapes: N images, C classes (or numbers, where the task is regression). All tensors are on the CPU, in the order in which
the images were asked for.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vizsla.errors import ConfigError
from vizsla.files import atomic_write
from vizsla.text import valid_unicode
from vizsla.types import (
    UNLABELLED,
    Task,
    check_task,
    has_class,
    is_labelled,
    label_of,
    probabilities_of,
    surest,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    Numbers = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """Predictions of a classifier for a set of images; metrics, plots and the report are computed from them alone.

    Each property is recomputed whenever it is read; store it in a variable if you use it often.

    Attributes:
        rows: int64 ``(N,)``, rows of the table that the images come from.
        paths: The N paths as people see them.
        logits: float32 ``(N, C)``, finite: the network's output.
        targets: By task, as in an ``ImageTable``: int64 ``(N,)``, 0 to C-1, or ``UNLABELLED``; float32 ``(N, C)`` of 0 and
            1; float32 ``(N, C)`` of finite numbers. A row of the latter two is NaN where the label is not known.
        vocab: The C names of the classes or numbers, in the order of the logits.
        task: What was predicted.
        thresholds: Of several labels, the probability above which an image has each of the C classes; None is 0.5 for all.

    Raises:
        ConfigError: Lengths, dtypes, target values or class names do not fit together, or a logit is not finite.

    Examples:
        >>> import torch
        >>> predictions = Predictions(
        ...     rows=torch.tensor([0, 1]),
        ...     paths=("a.jpg", "b.jpg"),
        ...     logits=torch.tensor([[2.0, 0.0], [1.0, 3.0]]),
        ...     targets=torch.tensor([0, 0]),
        ...     vocab=("cat", "dog"),
        ... )
        >>> predictions.correct.tolist()
        [True, False]
    """

    rows: Tensor
    paths: tuple[str, ...]
    logits: Tensor
    targets: Tensor
    vocab: tuple[str, ...]
    task: Task = "category"
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        shapes = (len(self.paths), len(self.vocab))
        one_class = self.task == "category"
        expected = {
            "rows": (torch.int64, shapes[:1]),
            "logits": (torch.float32, shapes),
            "targets": (torch.int64, shapes[:1]) if one_class else (torch.float32, shapes),
        }
        for name, (dtype, shape) in expected.items():
            values: Tensor = getattr(self, name)
            if values.dtype != dtype or values.shape != shape or values.device.type != "cpu":
                raise ConfigError(
                    f"Predictions of {shapes[0]} paths and {shapes[1]} classes need {name} as {dtype} of shape "
                    f"{shape} on the CPU. Received: {values.dtype} of shape {tuple(values.shape)} on {values.device}."
                )
        if len(set(self.vocab)) != len(self.vocab):
            raise ConfigError(f"Class names must be unique. Received: vocab={self.vocab!r}")
        self._check_targets()
        infinite = ~self.logits.isfinite().all(dim=1)
        if infinite.any():
            place = int(infinite.nonzero()[0])
            raise ConfigError(
                f"The network's output is not finite for {int(infinite.sum())} of {len(self.paths)} images, first for "
                f"{self.paths[place]!r}. Received: {self.logits[place].tolist()[:5]}. Train with a lower learning "
                'rate, or predict with precision="fp32".'
            )

    def _check_targets(self) -> None:
        targets, num_classes = self.targets, len(self.vocab)
        if self.task == "category":
            fits = (targets >= 0) & (targets < num_classes) | (targets == UNLABELLED)
            needed = f"must be from 0 to {num_classes - 1}, or {UNLABELLED} (no label)"
        elif self.task == "multi_category":
            fits = ((targets == 0) | (targets == 1)).all(dim=1) | targets.isnan().all(dim=1)
            needed = "must be 0 or 1 for each class, or NaN for all (no label)"
        else:
            fits = targets.isfinite().all(dim=1) | targets.isnan().all(dim=1)
            needed = "must be finite numbers, or all NaN (no label)"
        if not fits.all():
            place = int((~fits).nonzero()[0])
            received: object = targets[place].tolist()
            raise ConfigError(
                f"The target of {self.paths[place]!r} {needed}. Received: {received!r:.200}"
            )

    @property
    def labelled(self) -> Tensor:
        """Bool ``(N,)``: whether the label is known."""
        return is_labelled(self.targets)

    @property
    def probabilities(self) -> Tensor:
        """float32 ``(N, C)``: softmax of the logits, their sigmoid for several labels, the outputs for regression."""
        return probabilities_of(self.logits, task=self.task)

    @property
    def predicted(self) -> Tensor:
        """What is predicted, by task.

        int64 ``(N,)``: the class with the largest logit, the first of equal ones. For several labels bool ``(N, C)``: the
        classes whose probability is above their threshold. For regression float32 ``(N, C)``: the outputs.
        """
        if self.task == "category":
            return self.logits.argmax(dim=1)
        outputs = self.probabilities
        return has_class(outputs, self.thresholds) if self.task == "multi_category" else outputs

    @property
    def confidence(self) -> Tensor:
        """float32 ``(N,)``: probability of the predicted class; for several labels, that of the least certain decision.

        Raises:
            ConfigError: The task is regression, whose outputs come without a probability.
        """
        self.refuse_regression("confidence")
        probabilities = self.probabilities
        if self.task == "category":
            return probabilities.amax(dim=1)
        return surest(probabilities, has_class(probabilities, self.thresholds))

    @property
    def losses(self) -> Tensor:
        """float32 ``(N,)``: the loss of each image; NaN where the label is not known.

        Cross-entropy; for several labels binary cross-entropy, for regression the squared error, both averaged over the
        outputs.
        """
        if self.task == "category":
            losses = functional.cross_entropy(
                self.logits, self.targets, reduction="none", ignore_index=UNLABELLED
            )
            return losses.masked_fill(self.targets == UNLABELLED, torch.nan)
        loss = (
            functional.binary_cross_entropy_with_logits
            if self.task == "multi_category"
            else functional.mse_loss
        )
        return loss(self.logits, self.targets, reduction="none").mean(dim=1)

    @property
    def correct(self) -> Tensor:
        """Bool ``(N,)``: whether the prediction is the target (all classes of it); False where that is not known.

        Raises:
            ConfigError: The task is regression.
        """
        self.refuse_regression("correct")
        hits = self.predicted == self.targets
        return hits if self.task == "category" else hits.all(dim=1)

    def refuse_regression(self, what: str) -> None:
        """Raise ConfigError if the task is regression; the message says that ``what`` was asked for."""
        if self.task == "regression":
            raise ConfigError(
                f"{what} needs predictions of classes. Received: predictions of the task 'regression', which are numbers. "
                "Look at the losses, or at the differences between predicted and targets."
            )

    def take(self, positions: Tensor) -> Predictions:
        """Return the predictions of some images: int64 positions (not rows) in any order, or a bool for each image."""
        if positions.dtype == torch.bool:
            positions = positions.nonzero()[:, 0]
        return replace(
            self,
            rows=self.rows[positions],
            paths=tuple(self.paths[position] for position in positions.tolist()),
            logits=self.logits[positions],
            targets=self.targets[positions],
        )

    def label(self, position: int) -> str:
        """Return the label of the image at a position (not row) as text, or an empty string where it is not known.

        Several labels, or numbers, are joined by ``;``.
        """
        return label_of(self.targets[position], task=self.task, vocab=self.vocab)

    def prediction(self, position: int) -> str:
        """Return what is predicted of the image at a position (not row) as text, in the form of :meth:`label`."""
        return label_of(self.predicted[position], task=self.task, vocab=self.vocab)

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one line per image.

        Returns:
            Columns ``path label prediction probability loss`` and ``prob_<class>`` for each class. The label is empty
            and the loss NaN where the label is not known; probability is :attr:`confidence`. Several labels are joined by
            ``;``. Bytes of file names that are not text become escapes. For regression: ``path loss`` and for each number
            ``target_<name>`` and ``prediction_<name>``.
        """
        import pandas as pd

        return pd.DataFrame(self._columns())

    def _columns(self) -> dict[str, list[str] | Numbers]:
        columns: dict[str, list[str] | Numbers] = {"path": list(map(valid_unicode, self.paths))}
        outputs_CN = zip(map(valid_unicode, self.vocab), self.probabilities.T.numpy(), strict=True)
        if self.task == "regression":
            columns["loss"] = self.losses.numpy()
            for (name, values), targets in zip(outputs_CN, self.targets.T.numpy(), strict=True):
                columns |= {f"target_{name}": targets, f"prediction_{name}": values}
            return columns
        columns |= {
            "label": self._texts(self.targets),
            "prediction": self._texts(self.predicted),
            "probability": self.confidence.numpy(),
            "loss": self.losses.numpy(),
        }
        return columns | {f"prob_{name}": values for name, values in outputs_CN}

    def _texts(self, values: Tensor) -> list[str]:
        """Return targets or predictions of all images as text, in the form of :meth:`label`."""
        if self.task == "category":
            names = [*map(valid_unicode, self.vocab), ""]  # UNLABELLED is -1
            return [names[index] for index in values.tolist()]
        return [valid_unicode(label_of(row, task=self.task, vocab=self.vocab)) for row in values]

    def save_csv(self, path: Path) -> Path:
        """Write :meth:`to_frame` as UTF-8 CSV, whole or not at all.

        Args:
            path: File to write; an old one is replaced at the end.

        Returns:
            The path.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
        """
        columns = self._columns()
        with (
            atomic_write(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            # As pandas writes it, without half a second for importing that.
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*map(_cells, columns.values()), strict=True))
        return path


def _cells(values: list[str] | Numbers) -> list[str]:
    """Return the texts of a column in a CSV file; what is not a number is empty."""
    if isinstance(values, list):
        return values
    return np.where(np.isnan(values), "", values.astype(str)).tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPoint:
    """What was measured after one epoch, or after one fit on part of the images; a missing figure is None.

    Attributes:
        stage: Name of the part of training, for example ``"head"``.
        epoch: Number of the epoch within the run or stage, as the epoch table shows it.
        train_loss: Smoothed training loss.
        valid_loss: Mean loss on the validation images.
        accuracy: Share of validation images predicted correctly, 0-1.
        seconds: Wall time of the epoch.
        num_pictures: Training images that were fitted on, where that is what changes between points.
    """

    stage: str
    epoch: int
    train_loss: float | None = None
    valid_loss: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    num_pictures: int | None = None
