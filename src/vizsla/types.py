"""The values that cross module borders, and the conventions that all of them keep.

Sizes are ``(height, width)``. Images are RGB ``(3, H, W)`` uint8 tensors with values 0-255, batches ``(B, 3, H, W)``;
in memory they are channels-last. They become float32 0-1 in one place (``augment/apply.py``) and are normalised in one
place (the first step of ``models/classifier.py``). A *row* is a position in an ``ImageTable``; it follows an image
through loading, training and evaluation, so no result depends on the order of a loader.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from vizsla.errors import ConfigError, DataError
from vizsla.paths import ImagePaths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Size = tuple[int, int]
"""(height, width) in pixels."""

Task = Literal["category", "multi_category", "regression"]
"""What is predicted of an image: one of several classes, any number of several classes, or numbers."""

ClassType = Literal["text", "int", "bool"]
"""What classes were as labels. ``vocab`` holds them as text everywhere; ``typed_class`` gives them back."""

UNLABELLED = -1
"""The target of an image whose class is not known; the targets of the other tasks are NaN there."""

DECISION_THRESHOLD = 0.5
"""An image has a class of a ``"multi_category"`` task where its probability is above this, unless the class has a threshold."""

LABEL_SEPARATOR = ";"
"""Stands between the labels of one image where they are shown as one text."""

SYMMETRIES: tuple[tuple[bool, bool, bool], ...] = (
    (False, False, False),  # 0: as it is
    (False, False, True),  # 1: mirrored left to right
    (False, True, False),  # 2: upside down
    (True, True, False),  # 3: turned anticlockwise by 90 degrees
    (False, True, True),  # 4: by 180
    (True, False, True),  # 5: by 270
    (True, False, False),  # 6: transposed
    (True, True, True),  # 7: transposed along the other diagonal
)
"""The 8 symmetries of the square: whether height and width are swapped, and then whether rows and columns are reversed.

Number n above 0 is ``PIL.Image.Transpose(n - 1)``."""

SYMMETRY_OF_ORIENTATION = {1: 0, 2: 1, 3: 4, 4: 2, 5: 6, 6: 5, 7: 7, 8: 3}
"""Which symmetry turns an image upright, by its EXIF orientation."""


def check_task(task: str) -> None:
    """Raise ``ConfigError`` for a word that names no task."""
    if task not in get_args(Task):
        raise ConfigError(f"task must be one of {', '.join(get_args(Task))}. Received: {task!r}")


def probabilities_of(logits: Tensor, *, task: Task) -> Tensor:
    """Return what logits ``(N, C)`` or ``(C,)`` mean: softmax, for several labels sigmoid, for numbers the logits themselves."""
    if task == "category":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if task == "multi_category" else logits


def has_class(probabilities: Tensor, thresholds: Sequence[float] | None = None) -> Tensor:
    """Return which of several labels images have, bool ``(..., C)``: those with a probability above the class's threshold.

    ``thresholds`` are C numbers; None is ``DECISION_THRESHOLD`` for all.
    """
    if thresholds is None:
        return probabilities > DECISION_THRESHOLD
    return probabilities > probabilities.new_tensor(thresholds)


def surest(probabilities: Tensor, has: Tensor) -> Tensor:
    """Return ``(...)``: the probability ``(..., C)`` of the least certain decision, which are bool of the same shape."""
    return probabilities.where(has, 1 - probabilities).amin(dim=-1)


def logits_of(outputs: Tensor, *, task: Task) -> Tensor:
    """Return logits, float32 ``(N, C)``, that ``probabilities_of`` turns into these outputs; classes up to a constant per image."""
    if task == "category":
        return outputs.double().clamp_min(1e-45).log().float()
    return (outputs.double().logit(eps=1e-9) if task == "multi_category" else outputs).float()


def unknown_targets(num_images: int, *, task: Task, num_outputs: int) -> Tensor:
    """Return unknown targets: int64 ``(N,)`` of ``UNLABELLED`` for ``"category"``, else float32 ``(N, num_outputs)`` of NaN."""
    if task == "category":
        return torch.full((num_images,), UNLABELLED)
    return torch.full((num_images, num_outputs), torch.nan)


def is_labelled(targets: Tensor) -> Tensor:
    """Return which targets, int64 ``(N,)`` or float32 ``(N, K)``, are known, as bool ``(N,)``."""
    return ~targets.isnan().any(dim=1) if targets.ndim == 2 else targets != UNLABELLED


def label_of(target: Tensor, *, task: Task, vocab: Sequence[str]) -> str:
    """Return one target as text: the class, or the classes or numbers joined by ``;``.

    ``target`` is one element of a table's targets: ``()`` for ``"category"``, else ``(K,)``. The text is empty where the
    label is not known, and for an image that is known to have none of the classes.
    """
    if not bool(is_labelled(target[None])):
        return ""
    if task == "category":
        return vocab[int(target)]
    if task == "multi_category":
        parts = [name for name, present in zip(vocab, target.tolist(), strict=True) if present]
    else:
        parts = [f"{value:.7g}" for value in target.tolist()]  # float32 holds about 7 digits
    return LABEL_SEPARATOR.join(parts)


def typed_class(name: str, class_type: ClassType) -> str | int | bool:
    """Return a class as it was as a label; one that no label was, such as ``"#na#"``, stays text.

    Examples:
        >>> typed_class("7", "int"), typed_class("True", "bool"), typed_class("7", "text")
        (7, True, '7')
    """
    if class_type == "int" and re.fullmatch(r"-?\d{1,4000}", name):  # Python reads no longer ones
        return int(name)
    return {"True": True, "False": False}.get(name, name) if class_type == "bool" else name


FixAction = Literal["relabel", "add", "drop", "keep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """A correction for one image of a data set; the data set's files are not changed.

    Attributes:
        path: The image: absolute, or relative to the data.
        action: ``"relabel"`` gives it another label, ``"add"`` takes an image from elsewhere into training, ``"drop"`` leaves
            it out, ``"keep"`` says that it is right as it is.
        label: The label of ``"relabel"`` and ``"add"``; several, or several numbers, are separated by ``;``.
        why: The reason, for human readers.
        when: Date and time in ISO format, such as ``"2026-05-01T12:00:00+00:00"``. Of several fixes for an image the latest
            counts, of equal ones the last; one without a date is earlier than all with one.
        source: Where it was read, for messages.

    Raises:
        ConfigError: The path is empty, there is no such action, ``"relabel"`` or ``"add"`` has no label, or ``when`` is no date.

    Examples:
        >>> Fix(path="cat/12.jpg", action="relabel", label="dog", why="a pug")
    """

    path: str
    action: FixAction
    label: str = ""
    why: str = ""
    when: str = ""
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ConfigError("A fix needs the path of an image. Received: an empty path")
        if self.action not in get_args(FixAction):
            raise ConfigError(
                f"The action of a fix must be one of {', '.join(get_args(FixAction))}. Received: {self.action!r}"
            )
        if self.gives_label and not self.label.strip():
            raise ConfigError(
                f"A fix with the action {self.action} needs a label. Received: an empty label"
            )
        try:
            _ = self.seconds
        except (ValueError, OverflowError, OSError):
            raise ConfigError(
                "The time of a fix must be an ISO date such as 2026-05-01T12:00:00, or empty. Received: "
                f"{self.when!r}"
            ) from None

    @property
    def gives_label(self) -> bool:
        """Whether the image gets the label of the fix."""
        return self.action in ("relabel", "add")

    @property
    def seconds(self) -> float:
        """The time as seconds since 1970; without one, before all others. A time without a zone is local."""
        return (
            datetime.fromisoformat(self.when.strip()).timestamp()
            if self.when.strip()
            else -math.inf
        )


LARGEST_SIDE, MOST_PIXELS = 4_096, 2**23
"""Of a size. The largest of timm's networks are made for 1,024 x 1,024, an eighth of these pixels; at 4,096 x 2,048
EfficientNet-Lite0 takes 3 GB for one image."""

LONGEST_CLASS_NAME = 1_000
"""Characters. Names are repeated in each row of predictions; a file name has at most 255."""


def as_size(size: int | tuple[int, int]) -> Size:
    """Return ``size`` as ``(height, width)``; one number means a square. Sides are positive whole numbers."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(
        isinstance(side, bool) or side != int(side) or side < 1 for side in sides
    ):
        raise ConfigError(
            f"A size must be one positive whole number of pixels or (height, width). Received: {size!r}"
        )
    height, width = map(int, sides)
    if not is_usable_size((height, width)):
        raise ConfigError(
            f"A size must have sides of at most {LARGEST_SIDE:,} pixels, and {MOST_PIXELS:,} pixels in all. "
            f"Received: {height} x {width}"
        )
    return height, width


def is_usable_size(size: Size) -> bool:
    """Return whether images of a size ``(height, width)`` can be computed in bounded memory."""
    return min(size) >= 1 and max(size) <= LARGEST_SIDE and size[0] * size[1] <= MOST_PIXELS


def shown_path(path: str, *, root: Path) -> str:
    """Return a path as people see it: posix, relative to ``root`` if it lies below it."""
    # Texts, not paths: every epoch shows all validation images, and pathlib takes 0.1 ms for each.
    above = root.as_posix()
    return path.replace(os.sep, "/").removeprefix(above if above.endswith("/") else f"{above}/")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """Labelled images and the two sets, resolved once; row ``r`` is ``paths[r]``, ``targets[r]``.

    Attributes:
        root: Folder that paths are shown relative to.
        paths: Image files, one per row; kept as ``ImagePaths``, in 30 bytes each.
        targets: By task. ``"category"``: int64 ``(N,)``, position of the row's label in ``vocab``, or ``UNLABELLED``.
            ``"multi_category"``: float32 ``(N, C)``, 1 for each class of the image, else 0. ``"regression"``: float32
            ``(N, K)``, the numbers. In the latter two a row whose label is not known is NaN.
        vocab: Names of the classes or numbers, in the order of the network's outputs.
        train_rows: int64 ``(T,)``, rows to learn from.
        valid_rows: int64 ``(V,)``, rows held out.
        skipped: ``(path, cause)`` of images that were left out because they cannot be read.
        suspicious: ``(path, what seems to be missing)`` of images that can be read, and are used.
        task: What is predicted of an image.
        untrainable: The error that training raises, where the images can only be looked at; else None.
        notes: What was guessed of the data's layout and what was left out, a line each, for those who train on it.
        class_type: What the classes were as labels.
        bit_depth: How many bits the values of 16-bit files use, 8 to 16; None where that was not decided.
        copies: Rows of files with the same bytes, a group for each image that several hold; None where nobody looked.
        moved: ``(shown path, "train" or "valid")`` of images that left the set that was drawn for them because of duplicates.
        fixes: What was changed of the data, see ``read_fixes``.
    """

    root: Path
    paths: Sequence[Path]
    targets: Tensor
    vocab: tuple[str, ...]
    train_rows: Tensor
    valid_rows: Tensor
    skipped: tuple[tuple[Path, str], ...] = ()
    suspicious: tuple[tuple[Path, str], ...] = ()
    task: Task = "category"
    untrainable: DataError | None = None
    notes: tuple[str, ...] = ()
    class_type: ClassType = "text"
    bit_depth: int | None = None
    copies: tuple[tuple[int, ...], ...] | None = None
    moved: tuple[tuple[str, str], ...] = ()
    fixes: tuple[Fix, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ImagePaths.of(self.paths))
        check_task(self.task)
        expected = (torch.int64, 1) if self.task == "category" else (torch.float32, 2)
        if (self.targets.dtype, self.targets.ndim) != expected:
            raise ConfigError(
                f"The targets of a {self.task} table are {expected[0]} with {expected[1]} axes. "
                f"Received: {self.targets.dtype} of shape {tuple(self.targets.shape)}"
            )

    @property
    def classes(self) -> tuple[str | int | bool, ...]:
        """The vocabulary as it was in the labels: text, whole numbers, or true and false."""
        return tuple(typed_class(name, self.class_type) for name in self.vocab)

    def label(self, row: int) -> str:
        """Return the label of a row as text; see ``label_of``."""
        return label_of(self.targets[row], task=self.task, vocab=self.vocab)

    def file(self, row: int) -> str:
        """Return the path of a row as text, in a tenth of the time of ``paths[row]``."""
        return ImagePaths.of(self.paths).text(row)

    def shown_path(self, row: int) -> str:
        """Return the path of a row as people see it: posix, relative to ``root`` if it lies below it."""
        return shown_path(self.file(row), root=self.root)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some images on a device, with what is known of them.

    Attributes:
        images: ``(B, 3, H, W)``; uint8 0-255 as a loader yields it, float32 0-1 after augmentation.
        targets: As in the table: int64 ``(B,)``, or float32 ``(B, C)`` for several labels and for numbers.
        rows: int64 ``(B,)`` on the CPU, rows of the table.
        partner_targets: Like ``targets``, of the images that were mixed into these; None without mixing.
        shares: float ``(B,)``, 0-1, what mixing left of each image itself.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    partner_targets: Tensor | None = None
    shares: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What a set of pretrained weights expects of its images; it travels with the weights.

    Attributes:
        mean: Per channel (RGB), subtracted from values scaled to 0-1; one number for a network of one channel.
        std: Per channel (RGB), divided by after that.
        size: The size the weights were trained for; other sizes work with most networks.
        grey: Whether colours become grey first. A network of three channels gets three equal ones.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size = (224, 224)
    grey: bool = False
