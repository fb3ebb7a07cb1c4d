"""A folder of photographs in, a table out: the cold first pass, later passes from the device cache, augmentation alone, on CUDA.

A part of ``gpu.py``.

    python -m benchmarks.gpu_pieces --data FOLDER --pictures 7390
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.feed import BATCH_SIZE, MIN_SCALE, PRESIZE, SIZE, vizsla_loaders
from benchmarks.machine import described, with_spread
from benchmarks.pictures import photographs
from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.augment.presets import aug_transforms
from vizsla.data.cache.device import DeviceDecoder, DeviceStore
from vizsla.data.table.sources import get_image_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.data.loading.dataloaders import DataLoaders

PASSES = 5
AUGMENTED_BATCHES = 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with a sub-folder for each class (default: made-up photographs)",
    )
    parser.add_argument(
        "--pictures", type=int, default=7390, help="the files are copied until there are so many"
    )
    parser.add_argument("--quick", action="store_true", help="few pictures")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures = 256
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu_pieces needs a CUDA device, and torch sees none here.")
    print(
        f"{torch.cuda.get_device_name()}; {described('vizsla', 'torch', 'torchvision', 'pillow')}"
    )
    with tempfile.TemporaryDirectory() as name:
        data = photographs(options.data, made_in=Path(name) / "drawn")
        folder = copied(data, into=Path(name) / "copies", count=options.pictures)
        print(f"\n| {options.pictures:,} JPEGs, pictures/s | |\n|---|---:|")
        for decoder in ("CPU", "device"):
            first, later = passes(folder, decoder=decoder)
            seconds = options.pictures / first
            print(f"| first pass, decoded by the {decoder} ({seconds:.2f} s) | {first:,.0f} |")
            print(f"| later passes, device cache | {with_spread(later)} |")
    print(
        f"| augmentation alone, {PRESIZE} to {SIZE}, batch {BATCH_SIZE} | {with_spread(augmentation_rates())} |"
    )


def copied(data: Path, *, into: Path, count: int) -> Path:
    """Return a folder of ``count`` files, copies of those of another folder in turn.

    Args:
        data: Folder of pictures.
        into: Folder that is made.
        count: How many.
    """
    into.mkdir(parents=True)
    for number, source in enumerate(
        itertools.islice(itertools.cycle(get_image_files(data)), count)
    ):
        shutil.copyfile(source, into / f"{number:05}{source.suffix}")
    return into


def passes(folder: Path, *, decoder: str) -> tuple[float, list[float]]:
    """Return pictures/s of the first pass over a folder and of each later one.

    Files that were read a moment ago are in the system's memory: what is cold is vizsla's cache.

    Args:
        folder: Folder of pictures.
        decoder: ``"device"`` decodes plain JPEGs there, as usual; ``"CPU"`` never does.
    """
    torch.empty(1, device="cuda")  # The first use of a device takes a second of its own.
    loaders = vizsla_loaders(folder, workers=None, cache="device", device="cuda")
    if decoder == "CPU":
        vars(loaders.train.loader)["_device_decoder"] = lambda _shipping: None
    else:
        warm_up(loaders)
    rates: list[float] = []
    for epoch in range(1 + PASSES):
        count = 0
        started = time.perf_counter()
        for batch in loaders.train.batches(epoch=epoch):
            count += len(batch.images)
        torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - started))
    return rates[0], rates[1:]


def warm_up(loaders: DataLoaders) -> None:
    """Let the device's decoder load its libraries, into a store that is thrown away."""
    loader, sizing = loaders.train.loader, loaders.resize
    if sizing is not None and loader.reader.scales_one_box:
        store = DeviceStore(torch.device("cuda"), budget_bytes=2**28)
        DeviceDecoder(loader.reader, sizing=sizing, store=store).fill(loader.table.paths[:64])


def augmentation_rates() -> list[float]:
    """Return pictures/s of the augmentation alone, a few times; the pictures are on the device already."""
    augmentation = BatchAugmentation(aug_transforms(size=SIZE, min_scale=MIN_SCALE))
    shape = BATCH_SIZE, PRESIZE, PRESIZE, 3
    pictures = torch.randint(256, shape, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    plan = torch.arange(AUGMENTED_BATCHES * BATCH_SIZE).split(BATCH_SIZE)

    def augment_all() -> None:
        with augmentation.foresee(plan, epoch=0, training=True):
            for rows in plan:
                augmentation(pictures, rows=rows, epoch=0, training=True)

    _seconds(augment_all)
    return [AUGMENTED_BATCHES * BATCH_SIZE / _seconds(augment_all) for _ in range(PASSES)]


def _seconds(work: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
