"""Logits, targets and rows of a pass over pictures in; one ``Predictions`` value out, which everything after reads.

Shapes: N pictures, C classes. All tensors are on the CPU and in the order in which the pictures were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from vizsla.errors import ConfigError
from vizsla.files import atomic_write
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """What a classifier said about some pictures; metrics, plots and the report are computed from it alone.

    The properties compute their result at each access; keep it in a variable where it is used often.

    Attributes:
        rows: int64 ``(N,)``, rows of the table that the pictures come from.
        paths: The N paths as people see them.
        logits: float32 ``(N, C)``, finite.
        targets: int64 ``(N,)``, 0 to C-1, or ``UNLABELLED``.
        vocab: The C class names, in the order of the logits.

    Raises:
        ConfigError: Lengths, dtypes, target values or class names do not fit together, or a logit is not finite.

    Example:
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

    def __post_init__(self) -> None:
        shapes = (len(self.paths), len(self.vocab))
        expected = {
            "rows": (torch.int64, shapes[:1]),
            "logits": (torch.float32, shapes),
            "targets": (torch.int64, shapes[:1]),
        }
        for name, (dtype, shape) in expected.items():
            values: Tensor = getattr(self, name)
            if values.dtype != dtype or values.shape != shape or values.device.type != "cpu":
                raise ConfigError(
                    f"Predictions of {shapes[0]} paths and {shapes[1]} classes need {name} as {dtype} of shape "
                    f"{shape} on the CPU. Received: {values.dtype} of shape {tuple(values.shape)} on {values.device}."
                )
        self._check_values()

    def _check_values(self) -> None:
        if len(set(self.vocab)) != len(self.vocab):
            raise ConfigError(
                f"Class names must differ from one another. Received: vocab={self.vocab!r}"
            )
        bad = (self.targets != UNLABELLED) & (
            (self.targets < 0) | (self.targets >= len(self.vocab))
        )
        if bad.any():
            place = int(bad.nonzero()[0])
            raise ConfigError(
                f"The target of {self.paths[place]!r} must lie in 0..{len(self.vocab) - 1} or be {UNLABELLED} "
                f"(no label). Received: {int(self.targets[place])}"
            )
        infinite = ~self.logits.isfinite().all(dim=1)
        if infinite.any():
            place = int(infinite.nonzero()[0])
            raise ConfigError(
                f"The network's output is not finite for {int(infinite.sum())} of {len(self.paths)} pictures, first for "
                f"{self.paths[place]!r}. Received: {self.logits[place].tolist()[:5]}. Train with a lower learning "
                'rate, or predict with precision="fp32".'
            )

    @property
    def probabilities(self) -> Tensor:
        """float32 ``(N, C)``: softmax of the logits."""
        return self.logits.softmax(dim=1)

    @property
    def predicted(self) -> Tensor:
        """int64 ``(N,)``: the class with the largest logit; the first of equal ones."""
        return self.logits.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """float32 ``(N,)``: probability of the predicted class."""
        return self.probabilities.amax(dim=1)

    @property
    def losses(self) -> Tensor:
        """float32 ``(N,)``: cross-entropy of each picture; NaN where the label is not known."""
        losses = functional.cross_entropy(
            self.logits, self.targets, reduction="none", ignore_index=UNLABELLED
        )
        return losses.masked_fill(self.targets == UNLABELLED, torch.nan)

    @property
    def correct(self) -> Tensor:
        """Bool ``(N,)``: whether the predicted class is the target; False where the label is not known."""
        return self.predicted == self.targets

    def label(self, position: int) -> str:
        """Return the label of the picture at a position (not row), or an empty string where it is not known."""
        target = int(self.targets[position])
        return "" if target == UNLABELLED else self.vocab[target]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one line per picture.

        Returns:
            Columns ``path label prediction probability loss`` and ``prob_<class>`` for each class. The label is empty
            and the loss NaN where the label is not known; probability is that of the prediction.
        """
        import pandas as pd

        probabilities_NC = self.probabilities
        columns: dict[str, object] = {
            "path": list(self.paths),
            "label": [self.label(position) for position in range(len(self.paths))],
            "prediction": [self.vocab[index] for index in self.predicted.tolist()],
            "probability": probabilities_NC.amax(dim=1).numpy(),
            "loss": self.losses.numpy(),
        }
        for index, name in enumerate(self.vocab):
            columns[f"prob_{name}"] = probabilities_NC[:, index].numpy()
        return pd.DataFrame(columns)

    def save_csv(self, path: Path) -> Path:
        """Write :meth:`to_frame` as UTF-8 CSV, whole or not at all.

        Args:
            path: File to write; an old one is replaced at the end.

        Returns:
            The path.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
        """
        text = self.to_frame().to_csv(index=False, lineterminator="\n")
        # A file name that is not valid Unicode holds lone surrogates, which UTF-8 refuses; they are written as \udc...
        with atomic_write(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPoint:
    """What was measured at the end of one epoch, or of one fit on part of the pictures; a missing figure is None.

    Attributes:
        stage: Name of the part of training, for example ``"head"``.
        epoch: Number of the epoch within the run or stage, as the epoch table shows it.
        train_loss: Smoothed training loss.
        valid_loss: Mean loss on the validation pictures.
        accuracy: Share of validation pictures predicted correctly, 0-1.
        seconds: Wall time of the epoch.
        num_pictures: Training pictures that were fitted on, where that is what changes from point to point.
    """

    stage: str
    epoch: int
    train_loss: float | None = None
    valid_loss: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    num_pictures: int | None = None
