"""The engine's loaders in, loaders to look at out: batches that print and show themselves, items, steps, the vocabulary.

Training reads the same plain batches as without this (``batches``); only what a person asks for (``one_batch``, iteration,
``show_batch``) comes as ``TensorImage`` and ``TensorCategory``. B: pictures of a batch; H, W: sides.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.data.loading.dataloaders import DataLoader
from vizsla.data.loading.order import ALL, Share, part, rows_of, turns_of
from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.plots import picture_grid, set_fitting_titles
from vizsla.notebook.collections import L
from vizsla.notebook.items import PictureItems, as_target
from vizsla.notebook.steps import Steps, batch_steps, item_steps
from vizsla.notebook.tensors import TensorImage
from vizsla.notebook.vocab import CategoryMap
from vizsla.types import is_labelled, label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from vizsla.types import Batch


class NotebookLoader(DataLoader):
    """A loader that can be looked at; made of one of the engine's by ``of``.

    Asked twice for a batch, it gives the first batch of two epochs, so training pictures differ, as they do in training.
    """

    _looks: int = 0
    _get_idxs: Callable[[], Iterable[int]] | None = None

    @classmethod
    def of(cls, loader: DataLoader) -> NotebookLoader:
        """Return a loader of the same pictures in the same order, prepared in the same way."""
        return cls(loader.loader, augmentation=loader.augmentation)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of epoch 0, each as ``one_batch`` returns it."""
        with closing(self.batches()) as batches:
            for batch in batches:
                yield self._shown(batch)

    def batches(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> Generator[Batch]:
        """Yield the batches of an epoch; see ``DataLoader.batches``.

        Args:
            epoch: As there.
            start: As there.
            share: As there.
        """
        if self._get_idxs is None:
            return super().batches(epoch=epoch, start=start, share=share)
        plan = self._chosen_plan(len(self))[start:]
        return self._prepared([part(turns, share=share) for turns in plan], epoch=epoch)

    def one_batch(self, *, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one batch, for looking at.

        Args:
            epoch: The first batch of this epoch; None is the next epoch at each call.

        Returns:
            ``TensorImage`` float32 ``(B, 3, H, W)`` 0-1, and ``TensorCategory`` int64 ``(B,)`` (or what else the labels
            are), on the device; the pictures alone where no label is known.

        Raises:
            DataError: There are no pictures.
        """
        if epoch is None:
            epoch, self._looks = self._looks, self._looks + 1
        plan = self.loader.plan(epoch=epoch) if self._get_idxs is None else self._chosen_plan(1)
        for batch in self._prepared(plan[:1], epoch=epoch):
            return self._shown(batch)
        raise DataError("There is no batch to show: this loader was given no pictures.")

    @property
    def get_idxs(self) -> Callable[[], Iterable[int]]:
        """A function that gives the positions that come up in an epoch; set another one to choose them.

        It may be endless (``Inf.ones`` for always the second picture): an epoch is as long as without it.
        """
        return self._get_idxs or self._usual_idxs

    @get_idxs.setter
    def get_idxs(self, function: Callable[[], Iterable[int]] | None) -> None:
        self._get_idxs = function

    @property
    def dataset(self) -> PictureItems:
        """Pictures and labels, before any transform."""
        return PictureItems(self.table, self.rows)

    @property
    def items(self) -> L[Any]:
        """The paths."""
        return self.dataset.items

    @property
    def vocab(self) -> CategoryMap:
        """The classes, in the order of the numbers."""
        return CategoryMap(self.table.vocab, sort=False)

    @property
    def c(self) -> int:
        """Number of classes, or of numbers that are predicted."""
        return len(self.table.vocab)

    @property
    def after_item(self) -> Steps:
        """What is done to each picture."""
        return item_steps(self.loader.reader.items)

    @property
    def before_batch(self) -> Steps:
        """What is done to the pictures together before they are a batch: nothing."""
        return Steps()

    @property
    def after_batch(self) -> Steps:
        """What is done to a batch in training; validation has the size alone of it."""
        return batch_steps(self.augmentation.policy)

    def decode_batch(self, b: Sequence[Tensor], max_n: int = 9) -> L[Any]:
        """Return the pictures of a batch as bytes, with their labels in words.

        Args:
            b: As ``one_batch`` returns it.
            max_n: At most so many.

        Returns:
            (``TensorImage`` uint8 ``(3, H, W)``, label) for each; the pictures in a tuple of their own where no labels are.
        """
        images = b[0][:max_n].detach().as_subclass(Tensor).cpu()
        pictures = (
            (images.clamp(0, 1) * 255).to(torch.uint8) if images.is_floating_point() else images
        )
        shown = [TensorImage(picture) for picture in pictures]
        if len(b) < 2:
            return L([(picture,) for picture in shown])
        return L(list(zip(shown, self.labels_of(b[1][:max_n]), strict=True)))

    def labels_of(self, targets: Tensor) -> list[str]:
        """Return targets in words; an empty text where the label is not known.

        Args:
            targets: As a batch has them.
        """
        plain = targets.detach().as_subclass(Tensor).cpu()
        return [label_of(one, task=self.table.task, vocab=self.table.vocab) for one in plain]

    def show_batch(
        self,
        b: Sequence[Tensor] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        show: bool = True,
    ) -> L[Any] | None:
        """Draw the pictures of a batch with their labels, in a new figure.

        Args:
            b: The batch, (pictures, labels); None takes the next one.
            max_n: At most so many pictures.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) of the figure in inches; None is 3 x 3 for each picture.
            unique: Show one picture again and again, as different epochs of training see it.
            show: False draws nothing.

        Returns:
            Without drawing, what would have been shown, as from ``decode_batch``; else nothing.

        Raises:
            ConfigError: There is no picture to show, or a number is not positive.
        """
        if nrows is not None and ncols is not None:
            max_n = min(max_n, nrows * ncols) if b is not None or not unique else nrows * ncols
        if b is None:
            b = self._one_picture(max_n) if unique else self.one_batch()
        if not len(b) or b[0].ndim != 4:
            raise ConfigError(
                "A batch to show is (pictures, labels) with pictures (B, 3, H, W), as one_batch() returns it. "
                f"Received: {[tuple(part.shape) for part in b]}"
            )
        decoded = self.decode_batch(b, max_n)
        if not show:
            return decoded
        places = picture_grid(len(decoded), nrows=nrows, ncols=ncols, figsize=figsize)
        for axes, (picture, *_) in zip(places, decoded, strict=False):
            picture.show(ctx=axes)
        set_fitting_titles(places, [label for _, *labels in decoded for label in labels])
        return None

    def _one_picture(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first picture so many times, each time cropped and augmented anew."""
        rows = rows_of(self.loader.plan()[0][:1]) if len(self) else self.rows
        for batch in self._prepared([turns_of(rows.repeat(count))], epoch=self._looks):
            self._looks += 1
            return self._shown(batch)
        raise DataError("There is no batch to show: this loader was given no pictures.")

    def _shown(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = TensorImage(batch.images)
        if not bool(is_labelled(batch.targets).any()):
            return (images,)  # pyright: ignore[reportReturnType] (nothing to unpack, as in fastai)
        return images, as_target(batch.targets, task=self.table.task)

    def _usual_idxs(self) -> list[int]:
        position_of = {row: place for place, row in enumerate(self.rows.tolist())}
        turns = self.loader.plan()
        rows = rows_of(torch.cat(turns)) if turns else self.rows
        return [position_of[row] for row in rows.tolist()]

    def _chosen_plan(self, num_batches: int) -> tuple[Tensor, ...]:
        """Return the turns of at most so many batches of the positions that ``get_idxs`` gives."""
        most = min(num_batches * self.bs, self.n) if num_batches > 1 else self.bs
        places = [int(place) for place in islice(iter(self.get_idxs()), most)]
        outside = [place for place in places if not -self.n <= place < self.n]
        if outside:
            raise ConfigError(
                f"get_idxs gives positions of the {self.n} pictures, from 0 to {self.n - 1}. Received: {outside[0]}"
            )
        return torch.split(turns_of(self.rows[places]), self.bs)
