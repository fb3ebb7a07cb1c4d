"""Epochs of vizsla, of fastai and of the network alone on a CUDA device, then the parts of a batch there.

Not part of ``python -m benchmarks`` without names: it needs a CUDA device.

    python -m benchmarks.gpu --data FOLDER --json gpu.json
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.data import BATCH_SIZE, MIN_SCALE, PRESIZE, SIZE, vizsla_loaders
from benchmarks.measure import (
    ANY_DATA,
    KEPT_JSON,
    Command,
    Figures,
    Kept,
    Measure,
    answer,
    by_turns,
    comparison,
    head,
    images_or_made_up,
    one_of,
    row,
    several,
    with_spread,
)
from benchmarks.peer import Setting, measured

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vizsla import DataLoaders

NUM_CLASSES, WIDTH, HEIGHT, QUALITY = 37, 394, 333, 95
KINDS = {
    "vizsla": "vizsla",
    "vizsla, no graphs": "vizsla, no graphs",
    "fastai fp16": "fastai fp16",
    "fastai fp32": "fastai",
    "network alone": "network alone",
}
"""What can be measured, and its name among ``peer.TRAINERS``."""


# --- Epochs ----------------------------------------------------------------------------------------------------------


def _unfrozen(run: Figures, name: str) -> list[float]:
    return run[name][run["frozen"] :]


MEASURES = (
    Measure("frozen epoch, the first (cold), s", lambda run: run["seconds"][:1]),
    Measure("frozen epoch, later, s", lambda run: run["seconds"][1 : run["frozen"]]),
    Measure("unfrozen epoch, the first, s", lambda run: _unfrozen(run, "seconds")[:1]),
    Measure("unfrozen epoch, later, s", lambda run: _unfrozen(run, "seconds")[1:]),
    Measure("of that without validation, s", lambda run: _unfrozen(run, "train_seconds")[1:]),
    Measure("device memory, MB", lambda run: run["device_bytes"] / 1e6, 0),
    Measure("host memory with all processes, MB", lambda run: run["peak_bytes"] / 1e6, 0),
)


def gpu(options: argparse.Namespace) -> None:
    """Time epochs of vizsla, of fastai and of the network alone on a CUDA device, then the parts of a batch there.

    The images are JPEGs of 394 x 333 with about 45 kB, 37 classes, like the Oxford pets, cut from those of the folder. The libraries
    take turns, each measurement is its own process; runs that are in the file are not repeated. --part pieces copies the files of
    the folder until there are --images of them.
    """
    import torch

    if options.quick:
        options.archs = options.archs[:1]
        options.images = 256 if options.part == "pieces" else 512
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device, and torch sees none here.")
    print(torch.cuda.get_device_name(), flush=True)
    folder = images_or_made_up(options.data, made_in=options.made_in / "made up")
    if options.part != "pieces":
        folder = _pets_like(folder, into=options.made_in / "images", count=options.images)
        for arch in options.archs:
            runs = _measure_epochs(folder, arch, options)
            rounds = max(map(len, runs.values()), default=0)
            ratios = [(kind, "vizsla") for kind in runs if kind.startswith("fastai")]
            print(f"\n{arch}, {options.images:,} JPEGs, {rounds} rounds:\n")
            print(comparison(runs, MEASURES, ratios=ratios, digits=1))
    if options.part != "epochs":
        _print_pieces(_copied(folder, into=options.made_in / "copies", count=options.images))


def _measure_epochs(
    folder: Path, arch: str, options: argparse.Namespace
) -> dict[str, list[Figures]]:
    """Return the runs of one network by kind; one that fails says so and is left out."""
    kept = Kept(options.json)

    def measure(kind: str, number: int) -> Figures:
        setting = Setting(
            folder=str(folder),
            # A frozen epoch of fastai takes as long as the first one, which waits for its files too.
            freeze_epochs=1 if kind.startswith("fastai") else 2,
            size=SIZE,
            presize=PRESIZE,
            batch_size=BATCH_SIZE,
            seed=number,
            arch=arch,
            device="cuda",
        )
        key = {"arch": arch, "kind": kind, "round": number}
        try:
            return kept.figures(key, partial(measured, KINDS[kind], setting), needs="seconds")
        except SystemExit as error:
            print(error, flush=True)
            return {}

    def told(kind: str, run: Figures) -> str:
        seconds = ", ".join(f"{value:.2f}" for value in run.get("seconds", []))
        return f"{arch}, {kind}: epochs {seconds} s"

    runs = by_turns(options.only, rounds=options.rounds, measure=measure, told=told)
    done = {kind: [run for run in each if run] for kind, each in runs.items()}
    return {kind: each for kind, each in done.items() if each}


def _pets_like(data: Path, *, into: Path, count: int) -> Path:
    """Return a new folder of JPEGs in 37 folders, cut from photographs so that no two are alike."""
    from vizsla import get_image_files

    sources = get_image_files(data)
    for number in range(NUM_CLASSES):
        (into / f"class{number:02}").mkdir(parents=True)
    make = partial(_cut, sources=sources, into=into)
    with ThreadPoolExecutor(16) as pool:
        num_bytes = sum(pool.map(make, range(count)))
    print(
        f"{count:,} JPEGs of {WIDTH} x {HEIGHT}, {num_bytes / count / 1e3:.0f} kB each", flush=True
    )
    return into


def _cut(number: int, *, sources: Sequence[Path], into: Path) -> int:
    """Save one image, whose number says from which photograph and where; return its bytes."""
    from PIL import Image

    turn, place = divmod(number, len(sources))
    with Image.open(sources[place]) as opened:
        image = opened.convert("RGB")
    inset = 0.004 * turn
    box = inset * image.width, inset * image.height, image.width, image.height
    path = into / f"class{number % NUM_CLASSES:02}" / f"{number:05}.jpg"
    image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box).save(path, quality=QUALITY)
    return path.stat().st_size


# --- The parts of a batch --------------------------------------------------------------------------------------------

PASSES = 5
AUGMENTED_BATCHES = 200


def _print_pieces(folder: Path) -> None:
    """Print the cold first pass, later passes from the device cache, augmentation alone."""
    count = len(list(folder.iterdir()))
    print("\n" + head(f"{count:,} JPEGs, images/s", ""), flush=True)
    for decoder in ("CPU", "device"):
        first, *later = passes(folder, decoder=decoder)
        name = f"first pass, decoded by the {decoder} ({count / first:.2f} s)"
        print(row(name, f"{first:,.0f}"), flush=True)
        print(row("later passes, device cache", with_spread(later)), flush=True)
    name = f"augmentation alone, {PRESIZE} to {SIZE}, batch {BATCH_SIZE}"
    print(row(name, with_spread(augmentation_rates())))


def _copied(data: Path, *, into: Path, count: int) -> Path:
    """Return a new folder with copies of the images of another folder, in turn."""
    from vizsla import get_image_files

    into.mkdir(parents=True)
    sources = itertools.islice(itertools.cycle(get_image_files(data)), count)
    for number, source in enumerate(sources):
        shutil.copyfile(source, into / f"{number:05}{source.suffix}")
    return into


def passes(folder: Path, *, decoder: str) -> list[float]:
    """Return images/s of each pass over a folder; the "device" decodes plain JPEGs itself, the "CPU" leaves it none.

    Files that were just read are in the system's memory: only vizsla's cache is cold.
    """
    import torch

    torch.empty(1, device="cuda")  # The first use of a device takes a second of its own.
    loaders = vizsla_loaders(folder, cache="device", device="cuda")
    if decoder == "CPU":
        vars(loaders.train.loader)["_device_decoder"] = lambda _shipping: None
    else:
        warm_up(loaders)
    rates: list[float] = []
    for epoch in range(1 + PASSES):
        started = time.perf_counter()
        count = sum(len(batch.images) for batch in loaders.train.batches(epoch=epoch))
        torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - started))
    return rates


def warm_up(loaders: DataLoaders) -> None:
    """Let the device's decoder load its libraries, into a store that is thrown away."""
    import torch

    from vizsla.data.cache import DeviceDecoder, DeviceStore

    loader = loaders.train.loader
    if loader.reader.scales_one_box:
        store = DeviceStore(torch.device("cuda"), budget_bytes=2**28)
        DeviceDecoder(loader.reader, store=store).fill(loader.table.paths[:64])


def augmentation_rates() -> list[float]:
    """Return images/s of the augmentation alone, a few times; the images are already on the device."""
    import torch

    from vizsla import aug_transforms
    from vizsla.augment import BatchAugmentation

    augmentation = BatchAugmentation(aug_transforms(size=SIZE, min_scale=MIN_SCALE))
    shape = BATCH_SIZE, PRESIZE, PRESIZE, 3
    images = torch.randint(256, shape, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    plan = torch.arange(AUGMENTED_BATCHES * BATCH_SIZE).split(BATCH_SIZE)

    def augment_all() -> None:
        augment = augmentation.ahead(plan, epoch=0, training=True)
        for number in range(len(plan)):
            augment(number, images)

    seconds = [_seconds(augment_all) for _ in range(1 + PASSES)]
    return [AUGMENTED_BATCHES * BATCH_SIZE / each for each in seconds[1:]]


def _seconds(work: Callable[[], None]) -> float:
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


COMMANDS = {
    "gpu": Command(
        asks="How long are epochs on a GPU, next to fastai and the network alone?",
        run=gpu,
        packages=("vizsla", "fastai", "torch", "torchvision", "pillow"),
        options={
            "data": ANY_DATA,
            "images": 7390,
            "archs": {"nargs": "+", "default": ["resnet34", "resnet50"], "type": str},
            "only": several(list(KINDS)),
            "rounds": 3,
            "part": one_of("all", "epochs", "pieces"),
            "json": KEPT_JSON,
        },
        data="--data {folder}",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
