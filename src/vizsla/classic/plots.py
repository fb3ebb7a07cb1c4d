"""Draw images, confusion matrices, and the images that a model gets right or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vizsla.classic.metrics import to_array
from vizsla.data.images.decode import decode_image
from vizsla.text import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vizsla.classic.loaders import ImageDataset

__all__ = ["ImageModelResults", "plot_confusion_matrix", "plots", "plots_from_files"]

MAX_SHOWN = 4


def plots(
    ims: Any,
    figsize: tuple[float, float] = (12, 6),
    rows: int = 1,
    interp: bool = False,
    titles: Sequence[Any] | None = None,
    maintitle: str | None = None,
) -> None:
    """Draw images in a grid.

    Args:
        ims: Images ``(H, W, 3)``, or an array of them, also with channels first.
        figsize: Inches.
        rows: Rows of the grid.
        interp: Whether to smooth pixels.
        titles: One above each image.
        maintitle: Title of the figure.
    """
    import matplotlib.pyplot as plt

    if isinstance(ims, np.ndarray) and ims.ndim == 4 and ims.shape[-1] != 3:
        ims = ims.transpose(0, 2, 3, 1)
    figure = plt.figure(figsize=figsize)
    if maintitle is not None:
        figure.suptitle(maintitle, fontsize=16)
    columns = max(1, -(-len(ims) // rows))
    for number, image in enumerate(ims):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.axis("off")
        if titles is not None:
            axes.set_title(str(titles[number]), fontsize=16)
        values = to_array(image)
        shown = values if values.dtype == np.uint8 else np.clip(values, 0, 1)
        axes.imshow(shown, interpolation="bilinear" if interp else "none")


def plots_from_files(
    imspaths: Sequence[str | Path],
    figsize: tuple[float, float] = (10, 5),
    rows: int = 1,
    titles: Sequence[Any] | None = None,
    maintitle: str | None = None,
) -> None:
    """Draw image files in a grid; the options are those of ``plots``.

    Raises:
        PictureError: An image cannot be read.
    """
    images = [np.asarray(decode_image(Path(path))) for path in imspaths]
    plots(images, figsize=figsize, rows=rows, titles=titles, maintitle=maintitle)


def plot_confusion_matrix(
    cm: NDArray[Any],
    classes: Sequence[str],
    normalize: bool = False,
    title: str = "Confusion matrix",
    cmap: Any = "Blues",
    figsize: tuple[float, float] | None = None,
) -> None:
    """Draw a confusion matrix, and print it.

    Args:
        cm: Rows are actual classes, columns predicted ones.
        classes: Their names.
        normalize: Whether to divide each row by its sum.
        title: Title of the figure.
        cmap: Colours.
        figsize: Inches.
    """
    import matplotlib.pyplot as plt

    cells = np.asarray(cm)
    if normalize:
        cells = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    say(f"{cells}")
    figure, axes = plt.subplots(figsize=figsize)
    figure.colorbar(axes.imshow(cells, interpolation="nearest", cmap=cmap))
    axes.set_title(title)
    axes.set_xticks(range(len(classes)), classes, rotation=45)
    axes.set_yticks(range(len(classes)), classes)
    for (actual, predicted), value in np.ndenumerate(cells):
        text = f"{value:.2f}" if normalize else str(value)
        colour = "white" if value > cells.max() / 2 else "black"
        axes.text(predicted, actual, text, ha="center", va="center", color=colour)
    axes.set_ylabel("True label")
    axes.set_xlabel("Predicted label")
    figure.tight_layout()


class ImageModelResults:
    """Shows the images that a model gets right, gets wrong, or is unsure of; each plot returns False if there are none.

    Args:
        ds: The images.
        log_preds: Log-probabilities, float ``(N, C)``, in their order.
    """

    def __init__(self, ds: ImageDataset, log_preds: NDArray[Any]) -> None:
        self.ds = ds
        self.preds = np.argmax(log_preds, axis=1)
        self.probs = np.exp(log_preds)
        self.num_classes = log_preds.shape[1]

    def most_by_correct(self, y: int, is_correct: bool) -> NDArray[np.int64]:
        """Return the positions of up to 4 images of class ``y`` that were recognised, or were not, the most confident first."""
        targets = np.asarray(self.ds.y)
        chosen = np.where(((self.preds == targets) == is_correct) & (targets == y))[0]
        return self._first(chosen, -self.probs[:, y] if is_correct else self.probs[:, y])

    def most_by_uncertain(self, y: int) -> NDArray[np.int64]:
        """Return the positions of up to 4 images whose probability of class ``y`` is closest to guessing."""
        distances = np.abs(self.probs[:, y] - 1 / self.num_classes)
        return self._first(np.arange(len(self.probs)), distances)

    def plot_val_with_title(self, idxs: Sequence[int] | NDArray[np.int64], y: int) -> bool | None:
        """Draw the images at these positions, each with its probability of class ``y`` above it."""
        if not len(idxs):
            return False
        images = self.ds.denorm(np.stack([self.ds[position][0] for position in idxs]))
        plots(images, titles=[f"{self.probs[each, y]:.4f}" for each in idxs], figsize=(16, 8))
        return None

    def plot_most_correct(self, y: int) -> bool | None:
        """Draw correctly recognised images of class ``y``, the most confident first."""
        return self.plot_val_with_title(self.most_by_correct(y, is_correct=True), y)

    def plot_most_incorrect(self, y: int) -> bool | None:
        """Draw images of class ``y`` that were mistaken for another class, the most confident first."""
        return self.plot_val_with_title(self.most_by_correct(y, is_correct=False), y)

    def plot_most_uncertain(self, y: int) -> bool | None:
        """Draw the images whose probability of class ``y`` is closest to guessing."""
        return self.plot_val_with_title(self.most_by_uncertain(y), y)

    @staticmethod
    def _first(positions: NDArray[np.int64], scores: NDArray[Any]) -> NDArray[np.int64]:
        return positions[np.argsort(scores[positions], kind="stable")[:MAX_SHOWN]]
