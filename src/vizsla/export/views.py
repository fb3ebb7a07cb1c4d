"""Pictures as the network sees them in, several fixed views of each out, for test-time augmentation without chance.

The first view is the picture, the second its mirror image; then come parts of seven eighths of its sides, enlarged: the
centre and the four corners, each plain and mirrored.

Shapes: B pictures, h x w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

KEPT_SHARE = 7 / 8
"""Of each side that the enlarged views keep: 224 of 256 pixels, as the centre crop of most published evaluations."""

# (down, across): 0 is the upper or left edge, 1 the lower or right one.
_PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
MOST_VIEWS = 2 * (1 + len(_PLACES))


def check_num_views(views: int) -> None:
    """Raise an error for a number of views that there is not.

    Raises:
        ConfigError: It is no whole number from 1 to ``MOST_VIEWS``.
    """
    if not isinstance(views, int) or not 1 <= views <= MOST_VIEWS:  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(
            f"The number of views of each picture is a whole number from 1 to {MOST_VIEWS}. Received: {views!r}"
        )


def view_of(images: Tensor, *, number: int) -> Tensor:
    """Return one view of each picture.

    Args:
        images: float ``(B, 3, h, w)``.
        number: 0 to ``MOST_VIEWS`` - 1.

    Returns:
        Of the same shape and type.
    """
    if number >= 2:
        down, across = _PLACES[number // 2 - 1]
        height, width = images.shape[-2:]
        rows, columns = max(1, round(height * KEPT_SHARE)), max(1, round(width * KEPT_SHARE))
        top, left = round(down * (height - rows)), round(across * (width - columns))
        part = images[..., top : top + rows, left : left + columns]
        images = functional.interpolate(part, size=(height, width), mode="bilinear")
    return images.flip(-1) if number % 2 else images
