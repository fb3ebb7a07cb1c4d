"""Find images that may be mislabelled, and note what to do with each; no file is touched."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch

from vizsla.data.table.fixes import write_fixes
from vizsla.errors import ConfigError
from vizsla.evaluate.plots import image_grid, set_fitting_titles
from vizsla.files import atomic_write
from vizsla.lists import L
from vizsla.notebook.images import PILImage
from vizsla.types import Fix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.train.learner import Learner

KEEP = "<Keep>"
DELETE = "<Delete>"
SPLITS = ("Train", "Valid")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An image that the model finds hard.

    Attributes:
        path: Its file.
        split: ``"Train"`` or ``"Valid"``.
        label: Its label.
        prediction: The predicted class.
        probability: Probability of the prediction, 0-1.
        loss: Cross-entropy of the label.
        action: ``"<Keep>"``, ``"<Delete>"``, or the class that it should have.
    """

    path: Path
    split: str
    label: str
    prediction: str
    probability: float
    loss: float
    action: str = KEEP


class ImageClassifierCleaner:
    """Shows the images with the largest losses of a class and split, and notes what to do with each.

    Nothing is deleted or moved: ``delete()`` and ``change()`` return your decisions, and ``save_fixes`` saves them for the
    next training. The model runs once for each split.

    Args:
        learn: A trained learner that predicts one class for each image.
        max_n: Images at a time.

    Raises:
        ConfigError: The learner predicts something else.

    Examples:
        >>> cleaner = ImageClassifierCleaner(learn)
        >>> cleaner.choose("beagle", "Train").show()
        >>> cleaner.mark(0, "<Delete>")
        >>> cleaner.mark(1, "dog")
        >>> cleaner.delete(), cleaner.change()
        ((#1) [0], (#1) [(1, 'dog')])
    """

    def __init__(self, learn: Learner, max_n: int = 30) -> None:
        if learn.dls.table.task != "category":
            raise ConfigError(
                "Labels are proposed for images of one class each. "
                f"Received: a learner of the task {learn.dls.table.task!r}"
            )
        self.learn = learn
        self.max_n = max_n
        self._predictions: dict[str, Predictions] = {}
        self._actions: dict[Path, str] = {}
        self._shown: list[Suspect] = []
        self.choose(learn.dls.table.vocab[0])

    def choose(self, cls: str, split: str = "Train") -> ImageClassifierCleaner:
        """Look at the images labelled ``cls`` in the split ``"Train"`` or ``"Valid"``; return this object.

        Raises:
            ConfigError: There is no such class or split.
        """
        vocab = self.learn.dls.table.vocab
        if cls not in vocab or split not in SPLITS:
            raise ConfigError(
                f"Choose one of the classes {list(vocab)} and of the splits {list(SPLITS)}. "
                f"Received: {cls!r}, {split!r}"
            )
        of_class = [one for one in self._suspects(split) if one.label == cls]
        self._shown = of_class[: self.max_n]
        return self

    @property
    def fns(self) -> L[Path]:
        """The files of the chosen images, largest loss first."""
        return L([one.path for one in self._shown])

    def mark(self, index: int, action: str) -> None:
        """Note what to do with one of the chosen images.

        Args:
            index: Its position in ``fns``.
            action: ``"<Keep>"``, ``"<Delete>"``, or the class that it should have.

        Raises:
            ConfigError: There is no such image or class.
        """
        allowed = (KEEP, DELETE, *self.learn.dls.table.vocab)
        if not 0 <= index < len(self._shown) or action not in allowed:
            raise ConfigError(
                f"Mark one of the {len(self._shown)} images (from 0) with one of {list(allowed)}. "
                f"Received: {index!r}, {action!r}"
            )
        one = self._shown[index]
        self._actions[one.path] = KEEP if action == one.label else action

    def delete(self) -> L[int]:
        """Return the positions in ``fns`` of the images marked for deletion."""
        actions = enumerate(map(self._action, self._shown))
        return L([place for place, action in actions if action == DELETE])

    def change(self) -> L[tuple[int, str]]:
        """Return (position in ``fns``, new class) of the images marked with another class."""
        actions = enumerate(map(self._action, self._shown))
        return L([(place, action) for place, action in actions if action not in {KEEP, DELETE}])

    def propose(self, *, probability: float = 0.9, splits: Sequence[str] = SPLITS) -> L[Suspect]:
        """Return the images of all classes whose label the model confidently contradicts, largest loss first.

        Marked images keep their action; for the others the predicted class is proposed.

        Args:
            probability: How certain the model must be, 0-1.
            splits: Where to look. The model has seen the training images, so it contradicts few of them.
        """
        found = [one for split in splits for one in self._suspects(split)]
        wrong = [
            one for one in found if one.prediction != one.label and one.probability >= probability
        ]
        proposed = [
            replace(one, action=self._actions.get(one.path, one.prediction)) for one in wrong
        ]
        return L(sorted(proposed, key=lambda one: -one.loss))

    def save_csv(self, path: Path, *, probability: float = 0.9) -> Path:
        """Write all marked and proposed images to a CSV file for review; return its path.

        Args:
            path: File to write.
            probability: How certain the model must be of a proposal.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
        """
        import pandas as pd

        everything = [one for split in SPLITS for one in self._suspects(split)]
        marked = [replace(one, action=self._action(one)) for one in everything]
        listed = {one.path: one for one in marked if one.action != KEEP}
        listed |= {one.path: one for one in self.propose(probability=probability)}
        columns = [field.name for field in fields(Suspect)]
        frame = pd.DataFrame([asdict(one) for one in listed.values()], columns=columns)
        with atomic_write(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
        return path

    def save_fixes(self, path: Path) -> Path:
        """Add the marked images, kept ones too, to a file of fixes for ``vizsla train --fixes``; return its path.

        Args:
            path: A file as ``write_fixes`` writes it; existing rows stay, and for an image that is already in it the new
                mark counts.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
            TableError: The file holds something else.
        """
        table = self.learn.dls.table
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row_of = {file: row for row, file in enumerate(table.paths) if file in self._actions}
        fixes = [
            Fix(
                path=table.shown_path(row_of[file]),
                action="keep" if action == KEEP else "drop" if action == DELETE else "relabel",
                label="" if action in {KEEP, DELETE} else action,
                why="looked at in a notebook",
                when=now,
            )
            for file, action in self._actions.items()
        ]
        return write_fixes(path, fixes, append=True)

    def show(self, nrows: int | None = None, ncols: int | None = None) -> None:
        """Draw the chosen images with their position, prediction and action; rows and columns follow from the rest if None.

        Raises:
            ConfigError: The class has no images in the split.
        """
        places = image_grid(len(self._shown), nrows=nrows, ncols=ncols, title_lines=2)
        for axes, one in zip(places, self._shown, strict=False):
            PILImage.create(one.path).show(ctx=axes)
        titles = [
            f"{place}: {one.prediction} {one.probability:.2f}\n{self._action(one)}"
            for place, one in enumerate(self._shown)
        ]
        set_fitting_titles(places, titles)

    def _action(self, one: Suspect) -> str:
        return self._actions.get(one.path, KEEP)

    def _suspects(self, split: str) -> list[Suspect]:
        """Return all images of a split, largest loss first."""
        if split not in self._predictions:
            self._predictions[split] = self.learn.predictions(SPLITS.index(split))
        predictions = self._predictions[split]
        losses = predictions.losses
        order: Tensor = losses.argsort(descending=True, stable=True)
        places = [place for place in order.tolist() if not torch.isnan(losses[place])]
        guesses, confidence = predictions.predicted.tolist(), predictions.confidence.tolist()
        return [
            Suspect(
                path=self.learn.dls.table.paths[int(predictions.rows[place])],
                split=split,
                label=predictions.label(place),
                prediction=predictions.vocab[guesses[place]],
                probability=confidence[place],
                loss=float(losses[place]),
            )
            for place in places
        ]
