"""One library, a folder and a number of epochs in, one line of JSON out; run by ``loader.py``, a process per measurement.

Presize 460, size 224, batch 64, ``aug_transforms(size=224, min_scale=0.75)``, on the CPU: what a training step would get.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import tree_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from vizsla.data.cache.cache import CacheMode
    from vizsla.data.loading.dataloaders import DataLoaders

PRESIZE, SIZE, MIN_SCALE, BATCH_SIZE = 460, 224, 0.75, 64


def vizsla_loaders(
    folder: Path, *, workers: int | None, cache: CacheMode, device: str = "cpu"
) -> DataLoaders:
    """Return vizsla's loaders; all pictures of the folder are training pictures.

    Args:
        folder: Folder of pictures.
        workers: Threads that read; None: vizsla's default.
        cache: Mode of the cache.
        device: Where batches go.
    """
    import torch

    from vizsla.augment.presets import aug_transforms
    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.images.sizing import Resize
    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.data.table.sources import get_image_files
    from vizsla.types import PictureTable

    paths = tuple(get_image_files(folder))
    table = PictureTable(
        root=folder,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("picture",),
        train_rows=torch.arange(len(paths)),
        valid_rows=torch.arange(0),
    )
    return DataLoaders(
        table,
        resize=Resize(PRESIZE),
        transforms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        batch_size=BATCH_SIZE,
        num_workers=workers,
        device=device,
        cache=PictureCache(mode=cache, device=device),
    )


def feed_vizsla(
    folder: Path, *, workers: int | None, cache: CacheMode
) -> Callable[[int], Iterable[Tensor]]:
    """Return a function that gives the batches of an epoch.

    Args:
        folder: Folder with a sub-folder for each class.
        workers: Threads that read; None: vizsla's default.
        cache: Mode of the cache.
    """
    loaders = vizsla_loaders(folder, workers=workers, cache=cache)
    return lambda epoch: (batch.images for batch in loaders.train.batches(epoch=epoch))


def feed_fastai(folder: Path, *, workers: int | None) -> Callable[[int], Iterable[Tensor]]:
    """Return a function that gives the batches of an epoch.

    Args:
        folder: Folder with a sub-folder for each class.
        workers: Processes that read; None: one per core, fastai's own default.
    """
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        aug_transforms,
        get_image_files,
        parent_label,
    )

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=IndexSplitter([]),
        item_tfms=Resize(PRESIZE),
        batch_tfms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
    )
    loaders = block.dataloaders(
        folder,
        bs=BATCH_SIZE,
        num_workers=os.cpu_count() if workers is None else workers,
        device="cpu",
    )
    return lambda _epoch: (images for images, _ in loaders.train)


def main() -> None:
    """Run the epochs that the command line asks for and print their figures."""
    library, folder, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    workers = int(sys.argv[4]) if len(sys.argv) > 4 else None
    if library == "fastai":
        batches = feed_fastai(folder, workers=workers)
    else:
        cache = "off" if library == "vizsla-nocache" else "memory"
        batches = feed_vizsla(folder, workers=workers, cache=cache)
    rates: list[float] = []
    cpu_ms: list[float] = []
    after: list[int] = []
    for epoch in range(epochs):
        started, cpu_started, count = time.perf_counter(), _cpu_seconds(), 0
        for images in batches(epoch):
            count += len(images)
        rates.append(count / (time.perf_counter() - started))
        cpu_ms.append(1000 * (_cpu_seconds() - cpu_started) / count)
        after.append(tree_bytes(os.getpid(), own=True))
    flat = after[-1] / after[1] if len(after) > 1 and after[1] else 0.0
    figures = {"rates": rates, "cpu_ms": cpu_ms, "bytes_after_epoch": after, "flat": flat}
    print(json.dumps(figures))


def _cpu_seconds() -> float:
    """Return what this process and its children that have ended took of all cores together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
