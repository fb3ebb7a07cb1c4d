"""How fast images are listed, decoded, loaded and augmented, and in how much memory, next to fastai.

python -m benchmarks.data COMMAND --help
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import (
    ANY_DATA,
    JSON,
    WORKERS,
    Command,
    Figures,
    Measure,
    answer,
    by_turns,
    comparison,
    cpu_seconds,
    head,
    in_own_process,
    installed,
    one_of,
    row,
    several,
    tree_bytes,
    with_spread,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from PIL import Image
    from torch import Tensor

    from vizsla import DataLoaders
    from vizsla.data.cache import CacheMode

    Decoder = Callable[..., object]

PRESIZE, SIZE, MIN_SCALE, BATCH_SIZE = 460, 224, 0.75, 64
LIBRARIES = ("vizsla", "fastai")


# --- Loader and memory -----------------------------------------------------------------------------------------------

LOADERS = ("vizsla", "vizsla, cache off", "fastai")
LOADER_MEASURES = (
    Measure("first epoch, images/s", lambda run: run["rates"][0], 0),
    Measure("later epochs, images/s", lambda run: median(run["rates"][1:]), 0),
    Measure("first epoch, CPU ms/image", lambda run: run["cpu_ms"][0]),
    Measure("later epochs, CPU ms/image", lambda run: median(run["cpu_ms"][1:])),
    Measure("peak memory, MB", lambda run: run["peak_bytes"] / 1e6, 0),
)
MEMORY_EPOCHS = 10


def loader(options: argparse.Namespace) -> int:
    """Decode, presize and augment with vizsla and with fastai: presize 460, size 224, batch 64, on the CPU.

    Each measurement is its own process, the libraries take turns, and medians are compared: other work on the machine meets both.
    """
    if options.epochs < 2 or options.rounds < 1:
        print("--epochs is at least 2 and --rounds at least 1", file=sys.stderr)
        return 2
    asked = {"folder": str(options.folder), "epochs": options.epochs, "workers": options.workers}
    runs = by_turns(
        installed(options.only),
        rounds=options.rounds,
        measure=lambda library, _: in_own_process("data:feed", library=library, **asked),
        told=lambda library, run: (
            f"{library}: {', '.join(f'{rate:.0f}' for rate in run['rates'])} images/s"
        ),
        json_file=options.json,
    )
    ratios = [(own, "fastai") for own in LOADERS[:2]]
    print("\n" + comparison(runs, LOADER_MEASURES, ratios=ratios))
    return 0


def memory(options: argparse.Namespace) -> None:
    """Show the memory of a process after each of ten epochs of loading and augmenting.

    It counts memory of the process itself (anonymous pages), not the pages of libraries: their part changes whenever another
    process that uses the same library starts or ends. Linux only.
    """
    epochs = map(str, range(1, MEMORY_EPOCHS + 1))
    print("\n" + head("MB after epoch", *epochs, "last / second"), flush=True)
    asked = {"folder": str(options.folder), "epochs": MEMORY_EPOCHS, "workers": options.workers}
    for library in LOADERS[:2]:
        after = in_own_process("data:feed", library=library, **asked)["bytes_after_epoch"]
        growth = f"{after[-1] / after[1]:.3f}" if after[1] else ""
        print(row(library, *(f"{used / 1e6:,.0f}" for used in after), growth), flush=True)


def feed(library: str, folder: str, epochs: int, workers: int | str) -> Figures:
    """Run epochs of one of ``LOADERS`` in this process: what a training step would get."""
    if library == "fastai":
        batches = _feed_fastai(Path(folder), workers=workers)
    else:
        cache = "off" if library == "vizsla, cache off" else "memory"
        loaders = vizsla_loaders(Path(folder), workers=workers, cache=cache)
        batches = lambda epoch: (batch.images for batch in loaders.train.batches(epoch=epoch))  # noqa: E731
    figures: Figures = {"rates": [], "cpu_ms": [], "bytes_after_epoch": []}
    for epoch in range(epochs):
        started, cpu_started = time.perf_counter(), cpu_seconds()
        count = sum(map(len, batches(epoch)))
        figures["rates"].append(count / (time.perf_counter() - started))
        figures["cpu_ms"].append(1000 * (cpu_seconds() - cpu_started) / count)
        figures["bytes_after_epoch"].append(tree_bytes(os.getpid(), own=True))
    return figures


def vizsla_loaders(
    folder: Path, *, workers: int | str = "auto", cache: CacheMode, device: str = "cpu"
) -> DataLoaders:
    """Return vizsla's loaders; all images of the folder are training images."""
    import torch

    from vizsla import DataLoaders, Resize, aug_transforms, get_image_files
    from vizsla.data.cache import ImageCache
    from vizsla.types import ImageTable

    paths = tuple(get_image_files(folder))
    table = ImageTable(
        root=folder,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("image",),
        train_rows=torch.arange(len(paths)),
        valid_rows=torch.arange(0),
    )
    named: Any = workers
    return DataLoaders(
        table,
        resize=Resize(PRESIZE),
        transforms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        batch_size=BATCH_SIZE,
        num_workers=named,
        device=device,
        cache=ImageCache(mode=cache, device=device),
    )


def _feed_fastai(folder: Path, *, workers: int | str) -> Callable[[int], Iterable[Tensor]]:
    """Return a function that gives the batches of an epoch; "auto" is a process per core, fastai's default."""
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
    num_workers = os.cpu_count() if workers == "auto" else workers
    loaders = block.dataloaders(folder, bs=BATCH_SIZE, num_workers=num_workers, device="cpu")
    return lambda _epoch: (images for images, _ in loaders.train)


# --- Augmentation ----------------------------------------------------------------------------------------------------

AUGMENTED_BATCHES = 4


def augment(options: argparse.Namespace) -> None:
    """Augment 64 uint8 images of 460 x 460 to 224 x 224 on the CPU, augmentation alone, with vizsla and with fastai.

    Each measurement is its own process.
    """
    libraries = installed(LIBRARIES)
    heads = [f"{library}, images/s" for library in libraries]
    print("\n" + head("threads", *heads, *(["vizsla / fastai"] if len(libraries) == 2 else [])))
    for threads in [1] if options.quick else options.threads:
        runs = by_turns(
            libraries,
            rounds=options.rounds,
            measure=lambda library, _, threads=threads: in_own_process(
                "data:augmentation_rate", library=library, threads=threads
            ),
        )
        rates = [[run["rate"] for run in each] for each in runs.values()]
        ratio = [f"{median(rates[0]) / median(rates[1]):.1f}"] if len(rates) == 2 else []
        print(row(str(threads), *map(with_spread, rates), *ratio), flush=True)


def augmentation_rate(library: str, threads: int) -> Figures:
    """Return how many images one library augments per second: the median batch, after one to warm up."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shape = BATCH_SIZE, PRESIZE, PRESIZE, 3
    images_BHWC = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    images = images_BHWC.permute(0, 3, 1, 2)
    if library == "vizsla":
        from vizsla import aug_transforms
        from vizsla.augment import BatchAugmentation

        augmentation = BatchAugmentation(aug_transforms(size=SIZE, min_scale=MIN_SCALE))
        apply = partial(augmentation, images, rows=torch.arange(BATCH_SIZE), training=True)
    else:
        from fastai.vision.all import IntToFloatTensor, Pipeline, TensorImage, aug_transforms

        transforms = [IntToFloatTensor(), *aug_transforms(size=SIZE, min_scale=MIN_SCALE)]
        pipeline = Pipeline(transforms, split_idx=0)
        images = images.contiguous()
        apply = lambda epoch: pipeline(TensorImage(images))  # noqa: ARG005, E731
    seconds: list[float] = []
    for number in range(AUGMENTED_BATCHES + 1):
        started = time.perf_counter()
        apply(epoch=number)
        seconds.append(time.perf_counter() - started)
    return {"rate": BATCH_SIZE / median(seconds[1:])}


# --- Decoding --------------------------------------------------------------------------------------------------------

FILE_KINDS = {"500 x 375": (375, 500), "12 megapixels": (3000, 4000)}
PRESIZES = (None, 160, 224, 460)
PILLOW, OURS = "Pillow, whole", "vizsla (Pillow, scaled)"


def decode(options: argparse.Namespace) -> None:
    """Time the decoding of JPEG files, whole and for a presize, with every decoder that is installed: ms per image.

    The images of the folder are brought to 500 x 375 and to 12 megapixels (4000 x 3000). Each cell is the fastest of the rounds; the
    decoders take turns within a round, so that other work on the machine slows all of them alike. --clock cpu counts processor
    time instead, which other work hardly changes.
    """
    import torch

    count = 2 if options.quick else options.images
    torch.set_num_threads(1)
    source = "made-up images" if options.data is None else "photographs"
    print(
        f"{count} {source}, JPEG quality {options.quality}, {options.rounds} rounds after one to warm up, "
        f"{options.clock} time"
    )
    records: list[Figures] = []
    for kind, size in FILE_KINDS.items():
        files = _encoded(options.data, size=size, count=count, quality=options.quality)
        samples: dict[tuple[str, int | None, int], list[float]] = {}
        for _ in range(options.rounds + 1):
            for presize in PRESIZES:
                for threads in (1, 2):
                    for name, decoder in _decoders().items():
                        taken = _seconds_each(
                            partial(decoder, presize=presize), files, threads, options.clock
                        )
                        samples.setdefault((name, presize, threads), []).append(taken)
        best = {key: 1000 * min(taken[1:]) for key, taken in samples.items()}
        for key, taken in samples.items():
            name, presize, threads = key
            record = {"images": kind, "decoder": name, "presize": presize, "threads": threads}
            middle = 1000 * median(taken[1:])
            record |= {"milliseconds": best[key], "median": middle, "clock": options.clock}
            records.append(record)
        megabytes = statistics.mean(map(len, files)) / 1e6
        print(f"\n**{kind}**, {megabytes:.2f} MB each; ms per image with 1 thread / 2 threads\n")
        print(head("decoder", "whole", *map(str, PRESIZES[1:])))
        for name in _decoders():
            pairs = [[best[name, side, threads] for threads in (1, 2)] for side in PRESIZES]
            print(row(name, *(f"{one:.1f} / {two:.1f}" for one, two in pairs)))
        whole = best[PILLOW, None, 1]
        ratios = ", ".join(f"{whole / best[OURS, at, 1]:.1f}x at {at}" for at in PRESIZES[1:])
        print(f"\nPillow's whole decode against vizsla's decode and presize, 1 thread: {ratios}")
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=1), encoding="utf-8")


GAPS = (1.0, 1.5, 2.0, 3.0)


def gap(options: argparse.Namespace) -> None:
    """Compare the probabilities for JPEG files decoded at a scale with those for all of their pixels, for each reducing_gap."""
    import numpy as np
    import torch

    from vizsla import get_image_files
    from vizsla.model_file import load_bundle
    from vizsla.predict import Predictor

    torch.set_num_threads(1)
    files = list(get_image_files(options.data))[: options.images]
    bundle = load_bundle(options.model)
    resize = bundle.manifest.resize
    if resize is None:
        raise SystemExit(f"{options.model} has no resize: its images keep their own sizes")
    found: dict[float, tuple[Any, float]] = {}
    for each in (1e6, *GAPS):  # the first decodes all pixels
        manifest = replace(bundle.manifest, resize=replace(resize, reducing_gap=each))
        predictor = Predictor.of_bundle(replace(bundle, manifest=manifest))
        started = time.process_time()
        answers = [one.probabilities for _, one in predictor.predict_many(files)]
        found[each] = torch.stack(answers).numpy(), time.process_time() - started
    in_full, seconds = found.pop(1e6)
    print(
        f"{len(files)} images at {resize.size[0]} pixels; decoded in full {seconds:.1f} s of processor time\n"
    )
    print(head("reducing_gap", "within 0.01", "99th percentile", "largest", "other class", "s"))
    for each, (answers, seconds) in found.items():
        apart = np.abs(answers - in_full).max(1)
        other = (answers.argmax(1) != in_full.argmax(1)).mean()
        print(
            row(
                f"{each:g}",
                f"{(apart < 0.01).mean():.1%}",
                f"{np.quantile(apart, 0.99):.4f}",
                f"{apart.max():.4f}",
                f"{other:.1%}",
                f"{seconds:.1f}",
            )
        )


def _seconds_each(
    work: Callable[[bytes], object], files: list[bytes], threads: int, clock: str
) -> float:
    """Return seconds per image, with several threads working at once."""
    now = time.perf_counter if clock == "wall" else time.process_time
    with ThreadPoolExecutor(threads) as pool:
        started = now()
        for _ in pool.map(work, files):
            pass
        return (now() - started) / len(files)


def _encoded(
    folder: Path | None, *, size: tuple[int, int], count: int, quality: int
) -> list[bytes]:
    """Return JPEGs of one size, of photographs or made-up ones; upright images are turned."""
    from PIL.Image import Resampling

    from vizsla import get_image_files
    from vizsla.bench import made_up_photograph
    from vizsla.data.images import decode_image

    if folder is None:
        images = [made_up_photograph(number) for number in range(count)]
    else:
        paths = get_image_files(folder)
        images = [decode_image(path) for path in paths[:: max(1, len(paths) // count)][:count]]
    files: list[bytes] = []
    for image in images:
        lying = image.rotate(90, expand=True) if image.height > image.width else image
        buffer = BytesIO()
        resized = lying.resize((size[1], size[0]), Resampling.BICUBIC)
        resized.save(buffer, format="JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def _decoders() -> dict[str, Decoder]:
    """Return the installed decoders; each takes the bytes of a JPEG and the presize, None for the whole image."""
    found: dict[str, Decoder] = {PILLOW: _pillow_whole, OURS: _vizsla_scaled}
    if find_spec("torchvision") is not None:
        found["torchvision, whole"] = _torchvision_whole
    if find_spec("simplejpeg") is not None:
        found["simplejpeg, scaled"] = _simplejpeg_scaled
        found["simplejpeg, scaled, fast"] = partial(_simplejpeg_scaled, fast=True)
    return found


def _vizsla_scaled(data: bytes, presize: int | None) -> object:
    """Decode as training does: the smallest scale that covers the presize, then ``Resize``."""
    import numpy as np

    from vizsla import Resize
    from vizsla.data.images import decode_image

    if presize is None:
        return np.asarray(decode_image(data))
    sizing = Resize(presize)
    return sizing.presize(decode_image(data, cover=sizing.size), training=True)


def _pillow_resized(image: Image.Image, presize: int | None) -> object:
    """Resize with Pillow so that the short side is the presize."""
    import numpy as np
    from PIL.Image import Resampling

    if presize is None:
        return np.asarray(image)
    width, height = image.size
    factor = presize / min(width, height)
    size = round(factor * width), round(factor * height)
    return np.asarray(image.resize(size, Resampling.BILINEAR))


def _pillow_whole(data: bytes, presize: int | None) -> object:
    """Decode every pixel, then resize, both with Pillow."""
    from PIL import Image

    image = Image.open(BytesIO(data))
    image.load()
    return _pillow_resized(image, presize)


def _torchvision_whole(data: bytes, presize: int | None) -> object:
    """Decode with torchvision, which knows no scales; resize with Pillow."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    if presize is None:
        return pixels
    return _pillow_resized(Image.fromarray(np.ascontiguousarray(pixels)), presize)


def _simplejpeg_scaled(data: bytes, presize: int | None, *, fast: bool = False) -> object:
    """Decode with simplejpeg at the smallest scale that covers the presize; resize as vizsla does.

    ``fast`` takes the coarser inverse transform and chroma upsampling.
    """
    import simplejpeg

    from vizsla.data.images import resize

    side = 0 if presize is None else presize
    pixels: Any = simplejpeg.decode_jpeg(
        data, min_height=side, min_width=side, min_factor=1, fastdct=fast, fastupsample=fast
    )
    if presize is None:
        return pixels
    height, width, _ = pixels.shape
    factor = presize / min(width, height)
    return resize(pixels, size=(round(factor * height), round(factor * width)))


# --- Listing and growth ----------------------------------------------------------------------------------------------

CASES = ((1_000, 2), (10_000, 2), (100_000, 2), (100_000, 1_000), (100_000, 10_000))
FULL_CASES = (*CASES, (1_000_000, 2), (1_000_000, 10_000))
QUICK_CASES = ((100, 2), (1_000, 2), (1_000, 100))
LINKS_PER_FILE = 10_000
"""File systems allow 65,000 and some fewer."""


def listing(options: argparse.Namespace) -> None:
    """List many files of one folder, and print the elapsed and the processor time of the fastest round."""
    from vizsla import get_image_files

    num_files = 2_000 if options.quick else options.files
    for number in range(num_files):
        (options.made_in / f"image {number:06d}.jpg").touch()
    walls: list[float] = []
    processors: list[float] = []
    for _ in range(options.rounds):
        wall, processor = time.perf_counter(), time.process_time()
        found = len(get_image_files(options.made_in))
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        if found != num_files:
            raise SystemExit(f"{found:,} of {num_files:,} files were found")
    print(
        f"{num_files:,} files in one folder: {min(walls):.2f} s elapsed ({max(walls):.2f} s at the slowest), "
        f"{min(processors):.2f} s of processor time"
    )


def growth(options: argparse.Namespace) -> None:
    """Show how listing, labels, split and table grow with the number of files and of classes.

    Files are hard links to a few images, one folder for each class; loaders are made of them and no image is read. Each measurement
    is its own process, the libraries alternate, medians are printed. Memory is what the process holds afterwards beyond what it
    held after its imports.
    """
    cases = FULL_CASES if options.full else QUICK_CASES if options.quick else CASES
    libraries = installed(LIBRARIES)
    names = ["files", "classes", "list, s", "loaders, s", "memory, MB", "bytes per file"]
    others = ["fastai: list, s", "loaders, s", "memory, MB"] if len(libraries) == 2 else []
    print("\n" + head(*names, *others), flush=True)
    with tempfile.TemporaryDirectory(dir=options.within) as folder:
        for num_files, num_classes in cases:
            place = Path(folder) / f"{num_files}-{num_classes}"
            make_links(place, num_files=num_files, num_classes=num_classes)
            images = str(place / "images")
            runs: dict[str, list[Figures]] = {library: [] for library in libraries}
            for number in range(options.rounds):
                # The first to list waits for the disk.
                for library in libraries[:: -1 if number % 2 else 1]:
                    run = in_own_process("data:list_and_load", library=library, folder=images)
                    runs[library].append(run)
            shutil.rmtree(place)
            cells = [f"{num_files:,}", f"{num_classes:,}"]
            for library, each in runs.items():
                listed, loaded, held = (
                    median(run[name] for run in each) for name in ("list", "loaders", "megabytes")
                )
                cells += [f"{listed:.2f}", f"{loaded:.2f}", f"{held:,.1f}"]
                cells += [f"{1e6 * held / num_files:,.0f}"] if library == "vizsla" else []
            print(row(*cells), flush=True)


def make_links(folder: Path, *, num_files: int, num_classes: int) -> None:
    """Fill a folder with images in sub-folders; all are links to a few files."""
    from vizsla.bench import made_up_photograph

    folder.mkdir()
    source = folder / "source"
    for number in range(num_classes):
        (folder / "images" / f"class {number:05}").mkdir(parents=True)
    for number in range(num_files):
        if number % LINKS_PER_FILE == 0:
            source = folder / f"source {number}"
            made_up_photograph(number, size=(32, 32)).save(source, format="JPEG")
        place = folder / "images" / f"class {number % num_classes:05}"
        os.link(source, place / f"image {number:07}.jpg")


def list_and_load(library: str, folder: str) -> Figures:
    """Measure listing and loaders of one library in this process; both have the same names."""
    names = import_module("vizsla" if library == "vizsla" else "fastai.vision.all")
    list_files, make = names.get_image_files, names.ImageDataLoaders.from_folder
    sizing = names.Resize(64)
    more = {} if library == "vizsla" else {"num_workers": 0}

    def own_bytes() -> int:
        gc.collect()
        return tree_bytes(os.getpid(), own=True)

    before = own_bytes()
    started = time.perf_counter()
    listed = len(list_files(folder))
    middle = time.perf_counter()
    loaders = make(folder, valid_pct=0.2, seed=0, item_tfms=sizing, device="cpu", **more)
    loaded = len(loaders.train_ds) + len(loaders.valid_ds)
    ended = time.perf_counter()
    if listed != loaded:
        raise SystemExit(f"{listed} files were listed and {loaded} are in the loaders")
    megabytes = (own_bytes() - before) / 1e6
    return {"list": middle - started, "loaders": ended - middle, "megabytes": megabytes}


COMMANDS = {
    "decode": Command(
        asks="How fast is a JPEG decoded and presized, by which library?",
        run=decode,
        packages=("vizsla", "pillow", "torch", "torchvision", "simplejpeg"),
        options={
            "data": ANY_DATA,
            "rounds": 5,
            "images": 8,
            "quality": 90,
            "clock": one_of("wall", "cpu"),
            "json": JSON,
        },
        short="--rounds 2 --images 4",
        data="--data {folder}",
    ),
    "gap": Command(
        asks="How much do probabilities depend on the scale at which JPEGs are decoded?",
        run=gap,
        packages=("vizsla", "pillow", "torch"),
        options={
            "model": {"type": Path, "required": True, "help": "a model.safetensors"},
            "data": {"type": Path, "required": True, "help": "folder of images"},
            "images": 400,
        },
    ),
    "listing": Command(
        asks="How long does a folder of 50,000 files take to list?",
        run=listing,
        packages=("vizsla",),
        options={"files": 50_000, "rounds": 5},
        short="--rounds 2",
    ),
    "augment": Command(
        asks="How fast is the augmentation of a batch, next to fastai's?",
        run=augment,
        options={
            "rounds": 2,
            "threads": {"default": [1, 2], "type": int, "nargs": "+", "help": "of torch"},
        },
        short="--rounds 1",
    ),
    "loader": Command(
        asks="How fast are images loaded and augmented, next to fastai, and in how much memory?",
        run=loader,
        packages=("vizsla", "fastai", "torch", "pillow"),
        images="any",
        options={
            "rounds": 2,
            "epochs": {"default": 2, "help": "the first and the later ones together"},
            "workers": WORKERS,
            "only": several(LOADERS),
            "json": JSON,
        },
        short="--rounds 1",
    ),
    "memory": Command(
        asks="Does memory stay flat over ten epochs?",
        run=memory,
        packages=("vizsla", "torch", "pillow"),
        images="any",
        options={"workers": WORKERS},
    ),
    "growth": Command(
        asks="How do listing, split and table grow with files and classes?",
        run=growth,
        options={
            "full": {"action": "store_true", "help": "a million files too"},
            "rounds": 3,
            "within": {"type": Path, "help": "where to make the folders (default: temporary)"},
        },
        short="--rounds 1",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
