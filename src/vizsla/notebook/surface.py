"""``DataBlock`` and ``ImageDataLoaders`` as a notebook uses them: the engine's, with loaders to look at and ``summary()``."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

from vizsla.data.table import block, factories
from vizsla.notebook.items import Datasets
from vizsla.notebook.loaders import NotebookLoaders
from vizsla.notebook.summary import summarise_block

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.images.decode import Truncated
    from vizsla.data.loading.dataloaders import DataLoaders

_Arguments = ParamSpec("_Arguments")


def _looking(make: Callable[_Arguments, DataLoaders]) -> Callable[_Arguments, NotebookLoaders]:
    """Return a function that makes loaders to look at, with the signature and help of the one that makes the engine's."""

    @wraps(make)
    def made(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> NotebookLoaders:
        return NotebookLoaders.of(make(*args, **kwargs))

    return made


class DataBlock(block.DataBlock):
    """How to get from a source to labelled pictures: the engine's ``DataBlock``, for looking at every stage."""

    __doc__ = block.DataBlock.__doc__

    for_looking: ClassVar[bool] = True

    def dataloaders(
        self,
        source: Any,
        path: Path | str = ".",
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        num_workers: int | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
        truncated: Truncated = "strict",
        balanced: bool = False,
    ) -> NotebookLoaders:
        """Return the loaders of a source, to train on and to look at.

        Args:
            source: See ``resolve``.
            path: See ``resolve``.
            bs: Pictures in a training batch.
            val_bs: Pictures in a validation batch; ``None`` is ``bs``.
            shuffle: Training pictures are always shuffled; only ``True`` is accepted.
            num_workers: Threads that read ahead; ``None`` is one for each core.
            device: Where batches go; ``None`` is the best there is.
            seed: Of shuffling, crops and augmentation.
            cache: Keeps decoded pictures; ``None`` is a new one with the default budget.
            truncated: ``"ok"`` takes what is there of JPEGs that end too early; ``"strict"`` refuses them.
            balanced: Draw training pictures so that all classes come up equally often.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
            ConfigError: One of the arguments cannot work.
        """
        made = super().dataloaders(
            source,
            path,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed,
            cache=cache,
            truncated=truncated,
            balanced=balanced,
        )
        picture_of, label_of = self._getters()
        return NotebookLoaders.of(made, label_of=label_of, picture_of=picture_of)

    def datasets(self, source: Any, path: Path | str = ".") -> Datasets:
        """Return the pictures of a source with their labels, split, before any transform.

        Args:
            source: See ``resolve``.
            path: See ``resolve``.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
        """
        return Datasets(self.resolve(source, path))

    def summary(
        self, source: Any, bs: int = 4, show_batch: bool = False, path: Path | str = "."
    ) -> None:
        """Print what happens to the pictures of a source on their way into a batch, stage by stage.

        One picture is followed through everything that is done to it, then a small batch. Where the pictures do not
        make a batch, the last lines say why and what to add.

        Args:
            source: See ``resolve``.
            bs: Pictures in the batch; the first training pictures, fewer where there are fewer.
            show_batch: Draw it, too.
            path: See ``resolve``.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
            CollateError: The pictures have different sizes.
        """
        getters = self._getters()
        loaders = summarise_block(self, source, getters=getters, bs=bs, path=path)
        if show_batch:
            NotebookLoaders.of(loaders).show_batch(max_n=bs)


class ImageDataLoaders(factories.ImageDataLoaders):
    """Loaders of pictures in folders, lists and tables: the engine's, with batches to look at."""

    __doc__ = factories.ImageDataLoaders.__doc__

    from_folder = staticmethod(_looking(factories.ImageDataLoaders.from_folder))
    from_path_func = staticmethod(_looking(factories.ImageDataLoaders.from_path_func))
    from_name_func = staticmethod(_looking(factories.ImageDataLoaders.from_name_func))
    from_path_re = staticmethod(_looking(factories.ImageDataLoaders.from_path_re))
    from_name_re = staticmethod(_looking(factories.ImageDataLoaders.from_name_re))
    from_lists = staticmethod(_looking(factories.ImageDataLoaders.from_lists))
    from_df = staticmethod(_looking(factories.ImageDataLoaders.from_df))
    from_csv = staticmethod(_looking(factories.ImageDataLoaders.from_csv))
