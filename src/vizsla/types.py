"""The values that cross module borders, and the conventions that all of them keep.

Sizes are ``(height, width)``. Pictures are RGB ``(3, H, W)`` uint8 tensors with values 0-255, batches ``(B, 3, H, W)``;
in memory they are channels-last. They become float32 0-1 in one place (``augment/apply.py``) and are normalised in one
place (the first step of ``models/classifier.py``). A *row* is a position in a ``PictureTable``; it follows a picture
through loading, training and evaluation, so no result depends on the order of a loader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

Size = tuple[int, int]
"""(height, width) in pixels."""

UNLABELLED = -1
"""The target of a picture whose label is not known."""


def as_size(size: int | tuple[int, int]) -> Size:
    """Return ``size`` as ``(height, width)``; one number means a square.

    Args:
        size: Pixels, one positive int or ``(height, width)``.

    Raises:
        ConfigError: A side is not a positive whole number.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(
        isinstance(side, bool) or side != int(side) or side < 1 for side in sides
    ):
        raise ConfigError(
            f"A size is one positive whole number of pixels or (height, width). Received: {size!r}"
        )
    return int(sides[0]), int(sides[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureTable:
    """Labelled pictures and who is in which split, resolved once; row ``r`` is ``paths[r]``, ``targets[r]``.

    Attributes:
        root: Folder that paths are shown relative to.
        paths: Picture files, one per row.
        targets: int64 ``(N,)``; position of the row's label in ``vocab``, or ``UNLABELLED``.
        vocab: Class names; the order is the order of the logits.
        train_rows: int64 ``(T,)``, rows to learn from.
        valid_rows: int64 ``(V,)``, rows held out.
        skipped: ``(path, cause)`` of pictures that were left out because they cannot be read.
    """

    root: Path
    paths: tuple[Path, ...]
    targets: Tensor
    vocab: tuple[str, ...]
    train_rows: Tensor
    valid_rows: Tensor
    skipped: tuple[tuple[Path, str], ...] = ()

    def label(self, row: int) -> str:
        """Return the label of a row, or an empty string where it is not known."""
        target = int(self.targets[row])
        return "" if target == UNLABELLED else self.vocab[target]

    def shown_path(self, row: int) -> str:
        """Return the path of a row as people see it: posix, relative to ``root`` where it lies below it."""
        path = self.paths[row]
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some pictures on a device, with what is known of them.

    Attributes:
        images: ``(B, 3, H, W)``; uint8 0-255 as a loader yields it, float32 0-1 after augmentation.
        targets: int64 ``(B,)``, ``UNLABELLED`` where not known.
        rows: int64 ``(B,)`` on the CPU, rows of the table.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What a set of pretrained weights expects of its pictures; it belongs to the weights and travels with them.

    Attributes:
        mean: Per channel (RGB), subtracted from values scaled to 0-1.
        std: Per channel (RGB), divided by after that.
        size: The size the weights were trained for; other sizes work with most networks.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: Size = field(default=(224, 224))
