"""Pictures, predictions and confusion matrices in, pyplot figures out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from vizsla.classic.transforms import to_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vizsla.classic.data import PictureDataset

__all__ = ["ImageModelResults", "plot_confusion_matrix", "plots"]

MAX_SHOWN = 4


def plots(
    ims: Any,
    figsize: tuple[float, float] = (12, 6),
    rows: int = 1,
    interp: bool = False,
    titles: Sequence[Any] | None = None,
    maintitle: str | None = None,
) -> None:
    """Draw pictures in a grid.

    Args:
        ims: Pictures ``(H, W, 3)``, or an array of them, also with the channels in front.
        figsize: Inches.
        rows: Of the grid.
        interp: Smooth pixels.
        titles: One above each picture.
        maintitle: Above all.
    """
    import matplotlib.pyplot as plt

    if isinstance(ims, np.ndarray) and ims.ndim == 4 and ims.shape[-1] != 3:
        ims = ims.transpose(0, 2, 3, 1)
    figure = plt.figure(figsize=figsize)
    if maintitle is not None:
        figure.suptitle(maintitle, fontsize=16)
    columns = max(1, -(-len(ims) // rows))
    for number, picture in enumerate(ims):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.axis("off")
        if titles is not None:
            axes.set_title(str(titles[number]), fontsize=16)
        values = to_array(picture)
        shown = values if values.dtype == np.uint8 else np.clip(values, 0, 1)
        axes.imshow(shown, interpolation="bilinear" if interp else "none")


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
        cm: Rows actual classes, columns predicted ones.
        classes: Their names.
        normalize: Divide each row by its sum.
        title: Above it.
        cmap: Colours.
        figsize: Inches.
    """
    import matplotlib.pyplot as plt

    cells = np.asarray(cm)
    if normalize:
        cells = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    sys.stdout.write(f"{cells}\n")
    figure, axes = plt.subplots(figsize=figsize)
    image = axes.imshow(cells, interpolation="nearest", cmap=cmap)
    axes.set_title(title)
    figure.colorbar(image)
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
    """Which pictures a model gets right, wrong, or cannot decide.

    Args:
        ds: The pictures.
        log_preds: Log-probabilities, float ``(N, C)``, in their order.
    """

    def __init__(self, ds: PictureDataset, log_preds: NDArray[Any]) -> None:
        self.ds = ds
        self.preds = np.argmax(log_preds, axis=1)
        self.probs = np.exp(log_preds)
        self.num_classes = log_preds.shape[1]

    def plot_most_correct(self, y: int) -> bool | None:
        """Draw pictures of a class that were recognised, the surest first.

        Args:
            y: Position of the class.

        Returns:
            False if there are none.
        """
        return self._plot(self._ranked(y, right=True), y)

    def plot_most_incorrect(self, y: int) -> bool | None:
        """Draw pictures of a class that were taken for another, the surest first.

        Args:
            y: Position of the class.

        Returns:
            False if there are none.
        """
        return self._plot(self._ranked(y, right=False), y)

    def plot_most_uncertain(self, y: int) -> bool | None:
        """Draw pictures whose probability of a class is nearest to that of guessing.

        Args:
            y: Position of the class.

        Returns:
            False if there are none.
        """
        distance = np.abs(self.probs[:, y] - 1 / self.num_classes)
        return self._plot(np.argsort(distance, kind="stable")[:MAX_SHOWN], y)

    def _ranked(self, y: int, *, right: bool) -> NDArray[np.int64]:
        targets = np.asarray(self.ds.y)
        places = np.where(((self.preds == targets) == right) & (targets == y))[0]
        sign = -1 if right else 1
        order = np.argsort(sign * self.probs[places, y], kind="stable")
        return places[order[:MAX_SHOWN]]

    def _plot(self, places: NDArray[np.int64], y: int) -> bool | None:
        if not len(places):
            return False
        pictures = self.ds.denorm(np.stack([self.ds[place][0] for place in places]))
        titles = [float(self.probs[place, y]) for place in places]
        plots(pictures, titles=[f"{title:.4f}" for title in titles], figsize=(16, 8))
        return None
