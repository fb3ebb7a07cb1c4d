"""Pixels of one picture and random numbers in, the picture mirrored or turned out: item transforms that need no interpolation.

They act in training only, after the picture has its size, so that what is cached does not depend on them. H, W: sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_Picture = TypeVar("_Picture", "NDArray[np.uint8]", Image.Image)
_SYMMETRIES = 8


@dataclass(frozen=True, slots=True)
class FlipItem:
    """Mirrors pictures left and right, each picture of an epoch for itself.

    Called on a picture it acts at once, with numbers from torch's default generator.

    Args:
        p: Probability that it acts.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("FlipItem", self.p)

    @property
    def num_draws(self) -> int:
        """Random numbers that ``view`` takes."""
        return 1

    def view(self, pixels: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return the picture or its mirror image, as a view.

        Args:
            pixels: uint8 ``(H, W, 3)``.
            draws: One number in [0, 1).
        """
        return symmetry(pixels, 1) if draws[0] < self.p else pixels

    def __call__(self, picture: _Picture) -> _Picture:
        """Return an array or a Pillow picture, mirrored or not."""
        return _at_once(self, picture)


@dataclass(frozen=True, slots=True)
class DihedralItem:
    """Applies one of the 8 symmetries of the square, each picture of an epoch for itself; for pictures without an up and down.

    Sides that differ are swapped by half of the symmetries, so it needs a square size. Called on a picture it acts at once,
    with numbers from torch's default generator.

    Args:
        p: Probability that it acts; one of the 8 leaves a picture as it is.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        _check_probability("DihedralItem", self.p)

    @property
    def num_draws(self) -> int:
        """Random numbers that ``view`` takes."""
        return 2

    def view(self, pixels: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return the picture in one of its symmetries, as a view.

        Args:
            pixels: uint8 ``(H, W, 3)``.
            draws: Two numbers in [0, 1).
        """
        return symmetry(pixels, int(_SYMMETRIES * draws[1])) if draws[0] < self.p else pixels

    def __call__(self, picture: _Picture) -> _Picture:
        """Return an array or a Pillow picture in one of its symmetries."""
        return _at_once(self, picture)


RandomFlip = FlipItem | DihedralItem
"""Item transforms that are random in training and do nothing otherwise."""


def symmetry(pixels: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return one of the 8 symmetries of a picture, as a view; the numbers are those of the batch transform ``Dihedral``.

    Args:
        pixels: ``(H, W, 3)``.
        number: 0 as it is, 1 mirrored left to right, 2 upside down, 3 4 5 turned anticlockwise by 90 180 270 degrees,
            6 transposed, 7 transposed along the other diagonal.
    """
    if number in {3, 4, 5}:
        return np.rot90(pixels, number - 2)
    if number in {6, 7}:
        pixels = pixels.transpose(1, 0, 2)
    if number in {2, 7}:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if number in {1, 7} else pixels


def _at_once(flip: RandomFlip, picture: _Picture) -> _Picture:
    draws = torch.rand(flip.num_draws).tolist()
    if isinstance(picture, Image.Image):
        return Image.fromarray(np.ascontiguousarray(flip.view(np.asarray(picture), draws=draws)))
    return np.ascontiguousarray(flip.view(cast("NDArray[np.uint8]", picture), draws=draws))


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"{name}(p=...) must be from 0 to 1. Received: {p!r}")
