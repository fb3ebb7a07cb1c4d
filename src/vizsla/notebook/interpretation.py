"""What does a trained learner get wrong? Numbers are computed once; images are read when they are shown.

N images, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.data.loading.dataloaders import DataLoader
from vizsla.errors import ConfigError
from vizsla.evaluate import interpret
from vizsla.evaluate.metrics import classification_report
from vizsla.evaluate.plots import confusion_size, draw_confusion, image_grid, set_fitting_titles
from vizsla.evaluate.predictions import Predictions
from vizsla.infer.run import compute_outputs
from vizsla.lists import L
from vizsla.notebook.tensors import TensorImage
from vizsla.text import say
from vizsla.train.losses import per_image
from vizsla.types import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vizsla.data.table.labels import CategoryMap
    from vizsla.train.learner import Learner

    Images = Callable[[Tensor], Tensor]
    """Positions int64 ``(K,)`` -> float32 ``(K, 3, H, W)``, 0-1, on the CPU."""

_NOTHING = "There is no labelled image to show. Ask for at least one, and give labelled images."


class ClassificationInterpretation:
    """Explores the predictions of a learner for labelled images; make one with ``from_learner``.

    Args:
        learn: The learner; only ``plot_grad_cam`` runs its model again.
        predictions: Its predictions.
        images: Gives the images as the network saw them.
        root: Folder that the paths of the predictions are relative to.

    Attributes:
        predictions: The predictions.
        losses: float32 ``(N,)``, by the learner's loss; NaN where the label is unknown.
    """

    def __init__(
        self, learn: Learner, predictions: Predictions, *, images: Images, root: Path = Path()
    ) -> None:
        self.learn = learn
        self.predictions = predictions
        self.losses = _losses(learn, predictions)
        self._images = images
        self._root = root

    @classmethod
    def from_learner(
        cls,
        learn: Learner,
        ds_idx: int = 1,
        dl: DataLoader | Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> ClassificationInterpretation:
        """Run the model once over some images.

        Args:
            learn: A trained learner.
            ds_idx: 0 for training, 1 for validation images; both prepared as in validation.
            dl: Other images: a loader, such as ``dls.test_dl(items, with_labels=True)``, or a list of batches.

        Raises:
            ConfigError: ``ds_idx`` is neither, or the images of ``dl`` have no labels.
        """
        if dl is None:
            table, predictions = learn.dls.table, learn.predictions(ds_idx)
        elif isinstance(dl, DataLoader):
            table, predictions = dl.table, learn.predictions(dl=dl)
        else:
            return cls._of_batches(learn, dl)

        def images(positions: Tensor) -> Tensor:
            rows = predictions.rows[positions]
            own = table is learn.dls.table
            chosen = learn.dls.loader_for(rows) if own else learn.dls.loader_for(rows, table=table)
            return torch.cat([batch.images.cpu() for batch in chosen.batches()])

        return cls(learn, predictions, images=images, root=table.root)

    @classmethod
    def _of_batches(
        cls, learn: Learner, batches: Sequence[tuple[Tensor, Tensor]]
    ) -> ClassificationInterpretation:
        outputs = compute_outputs(
            learn.classifier, batches, precision=learn.precision, keep_images=True
        )
        if outputs.targets is None or outputs.images is None:
            raise ConfigError("The batches have no labels. Give (images, labels) pairs.")
        number, images = len(outputs.logits), outputs.images
        predictions = Predictions(
            rows=torch.arange(number),
            paths=tuple(f"image {place}" for place in range(number)),
            logits=outputs.logits,
            targets=outputs.targets,
            vocab=learn.dls.table.vocab,
            task=learn.dls.table.task,
            thresholds=learn.thresholds,
        )
        return cls(learn, predictions, images=lambda positions: images[positions])

    @property
    def vocab(self) -> CategoryMap:
        """The classes."""
        return self.learn.dls.vocab

    @property
    def preds(self) -> Tensor:
        """float32 ``(N, C)``: probabilities."""
        return self.predictions.probabilities

    @property
    def targs(self) -> Tensor:
        """int64 ``(N,)``: the labels."""
        return self.predictions.targets

    @property
    def decoded(self) -> Tensor:
        """int64 ``(N,)``: the predicted classes."""
        return self.predictions.predicted

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Return how often each class was predicted as each, int64 ``(C, C)``: rows actual, columns predicted."""
        return interpret.confusion_matrix(self.predictions).numpy()

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """Return the confused pairs of classes: (actual, predicted, count), most frequent first; pairs below ``min_val`` are left out."""
        return interpret.most_confused(self.predictions, min_count=min_val)

    def top_losses(
        self, k: int | None = None, largest: bool = True, items: bool = False
    ) -> tuple[Any, ...]:
        """Return the images with the largest losses.

        Args:
            k: At most this many; None is all.
            largest: False starts with the smallest loss.
            items: Whether to return their paths too.

        Returns:
            Losses float32 ``(K,)``, positions int64 ``(K,)`` in the order of the images, and paths if asked for.

        Raises:
            ConfigError: ``k`` is negative.
        """
        if k is not None and k < 0:
            raise ConfigError(f"The number of images cannot be negative. Received: k={k}")
        labelled = (~self.losses.isnan()).nonzero()[:, 0]
        order = self.losses[labelled].argsort(descending=largest, stable=True)
        chosen = labelled[order][:k]
        if not items:
            return self.losses[chosen], chosen
        paths = [self._root / self.predictions.paths[place] for place in chosen.tolist()]
        return self.losses[chosen], chosen, L(paths)

    def plot_confusion_matrix(
        self,
        normalize: bool = False,
        title: str = "Confusion matrix",
        cmap: str = "Blues",
        norm_dec: int = 2,
        plot_txt: bool = True,
        figsize: tuple[float, float] | None = None,
        dpi: float | None = None,
    ) -> None:
        """Draw the confusion matrix in a new figure, rows actual and columns predicted.

        Args:
            normalize: Whether to divide each row by its sum; the row of an absent class stays 0.
            title: Title above it.
            cmap: Name of a matplotlib colour map.
            norm_dec: Digits after the point when normalised.
            plot_txt: Whether to write the number into each cell.
            figsize: (width, height) in inches; None grows with the number of classes and the length of their names.
            dpi: Dots per inch; None is pyplot's default.
        """
        import matplotlib.pyplot as plt

        side = confusion_size(self.predictions.vocab)
        figure = plt.figure(figsize=figsize or (side, side), dpi=dpi, layout="constrained")
        draw_confusion(
            figure.add_subplot(),
            self.predictions,
            normalise=normalize,
            title=title,
            colours=cmap,
            decimals=norm_dec,
            show_numbers=plot_txt,
        )

    def plot_top_losses(
        self,
        k: int | Sequence[int] | Tensor,
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> None:
        """Draw the images with the largest losses, with prediction, label, loss and probability of the prediction.

        Args:
            k: How many; or which of them, such as ``range(9, 18)``.
            largest: False starts with the smallest loss.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) in inches; None is 3 x 3 for each image.

        Raises:
            ConfigError: There is no image to show.
        """
        if isinstance(k, int):
            chosen = self.top_losses(k, largest)[1]
        else:
            order = self.top_losses(largest=largest)[1]
            chosen = order[[int(place) for place in k if -len(order) <= place < len(order)]]
        self._draw(chosen, nrows=nrows, ncols=ncols, figsize=figsize)

    def plot_grad_cam(
        self,
        k: int = 9,
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        stage: int = -1,
    ) -> None:
        """Draw the images with the largest losses, and over them in colour the evidence for the predicted class (Grad-CAM).

        Args:
            k: How many.
            largest: False starts with the smallest loss.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) in inches; None is 3 x 3 for each image.
            stage: Which stage of the network to explain; the last one sees most and is the coarsest.

        Raises:
            ConfigError: There is no image to show, or no such stage.
        """
        from vizsla.infer.grad_cam import grad_cam, overlay

        chosen = self.top_losses(k, largest)[1]
        if not len(chosen):
            raise ConfigError(_NOTHING)
        images = self._images(chosen).to(self.learn.dls.device)
        targets = self.decoded[chosen].to(images.device)
        heat = grad_cam(self.learn.classifier, images, targets=targets, stage=stage)
        seen = [overlay(image, one).cpu() for image, one in zip(images, heat, strict=True)]
        self._draw(chosen, nrows=nrows, ncols=ncols, figsize=figsize, images=torch.stack(seen))

    def show_results(
        self,
        idxs: int | Sequence[int] | Tensor,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> None:
        """Draw the images at some positions with their label and, below it, the prediction: green if they agree, else red.

        Args:
            idxs: The positions, or one.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) in inches; None is 3 x 3 for each image.
        """
        positions = torch.as_tensor(idxs).reshape(-1)
        places = positions.tolist()
        pairs = [(self.predictions.label(place), self._guess(place)) for place in places]
        draw_results(self._images(positions), pairs, nrows=nrows, ncols=ncols, figsize=figsize)

    def print_classification_report(self) -> None:
        """Print precision, recall and F1 of each class."""
        say(classification_report(self.predictions))

    def _draw(
        self,
        positions: Tensor,
        *,
        nrows: int | None,
        ncols: int | None,
        figsize: tuple[float, float] | None,
        images: Tensor | None = None,
    ) -> None:
        if not len(positions):
            raise ConfigError(_NOTHING)
        images = self._images(positions) if images is None else images
        title = "Prediction/Actual/Loss/Probability"
        places = image_grid(
            len(positions), nrows=nrows, ncols=ncols, figsize=figsize, title=title, title_lines=2
        )
        for axes, image in zip(places, images, strict=False):
            TensorImage(image).show(ctx=axes)
        set_fitting_titles(places, [self._title(place) for place in positions.tolist()])

    def _title(self, place: int) -> str:
        label = self.predictions.label(place)
        text = f"{self._guess(place)}/{label}\n{float(self.losses[place]):.2f}"
        if self.predictions.task == "regression":  # numbers come without a probability
            return text
        return f"{text} / {float(self.predictions.confidence[place]):.2f}"

    def _guess(self, place: int) -> str:
        predicted = self.predictions.predicted[place]
        return label_of(predicted, task=self.predictions.task, vocab=self.predictions.vocab)


def draw_results(
    images: Tensor,
    pairs: Sequence[tuple[str, str]],
    *,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
) -> None:
    """Draw images, float ``(N, 3, H, W)`` 0-1, with (label, prediction) above each: green if they agree, else red."""
    places = image_grid(
        len(pairs),
        nrows=nrows,
        ncols=ncols,
        figsize=figsize,
        title="Target/Prediction",
        title_lines=2,
    )
    for axes, image in zip(places, images, strict=False):
        TensorImage(image).show(ctx=axes)
    colours = ["green" if label == guess else "red" for label, guess in pairs]
    set_fitting_titles(places, ["\n".join(pair) for pair in pairs], colours=colours)


def _losses(learn: Learner, predictions: Predictions) -> Tensor:
    """Return the loss of each image, float32 ``(N,)``; NaN where the label is not known."""
    losses = torch.full((len(predictions.rows),), torch.nan)
    known = predictions.labelled
    if known.any():
        loss = per_image(learn.loss_func)
        losses[known] = loss(predictions.logits[known], predictions.targets[known]).detach().cpu()
    return losses
