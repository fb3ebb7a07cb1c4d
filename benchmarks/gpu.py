"""Epochs of vizsla, of fastai and of the network alone on a CUDA device, then what a batch is made of there.

Not part of ``python -m benchmarks`` without names: it needs a CUDA device.

    python -m benchmarks.gpu --data FOLDER --json gpu.json
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.data import vizsla_loaders as loaders_of_all
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
    described,
    head,
    images_or_made_up,
    in_own_process,
    row,
    with_spread,
)
from benchmarks.peer import EpochLog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    import torch

    from vizsla import DataLoaders, Learner
    from vizsla.models.classifier import Classifier

BATCH_SIZE, SIZE, PRESIZE, MIN_SCALE = 64, 224, 460, 0.75
NUM_CLASSES, WIDTH, HEIGHT, QUALITY = 37, 394, 333, 95


# --- Epochs, in the process of a measurement -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is trained.

    Attributes:
        folder: A folder for each class.
        arch: A function of ``torchvision.models``.
        frozen: Epochs with a frozen body; the first of all reads every file.
        later: Epochs with everything unfrozen.
        seed: Of split, order and augmentation.
    """

    folder: str
    arch: str = "resnet34"
    frozen: int = 2
    later: int = 2
    seed: int = 0


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_vizsla(task: Task, *, cuda_graphs: bool | None = None) -> EpochLog:
    """Fine-tune with vizsla's defaults; ``cuda_graphs`` as in ``Trainer``."""
    log = EpochLog(wait=_wait)
    watch = log.of_vizsla()
    learn = vizsla_learner(task, log=log)
    learn.cuda_graphs = cuda_graphs
    learn.fine_tune(task.later, freeze_epochs=task.frozen, cbs=watch)
    log.mark("trained")
    return log


def vizsla_loaders(task: Task) -> DataLoaders:
    """Return loaders of 460 to 224 pixels."""
    from vizsla import ImageDataLoaders, Resize, aug_transforms

    return ImageDataLoaders.from_folder(
        Path(task.folder),
        valid_pct=0.2,
        seed=task.seed,
        item_tfms=Resize(PRESIZE),
        batch_tfms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        bs=BATCH_SIZE,
    )


def vizsla_learner(task: Task, *, log: EpochLog) -> Learner:
    """Return a learner with random weights."""
    import torchvision.models

    from vizsla import error_rate, vision_learner

    log.mark("imports")
    loaders = vizsla_loaders(task)
    log.mark("loaders")
    learn = vision_learner(
        loaders,
        getattr(torchvision.models, task.arch),
        pretrained=False,
        metrics=error_rate,
        quiet=True,
    )
    log.mark("learner")
    return learn


def run_model_alone(task: Task) -> EpochLog:
    """Take as many steps and predictions as the epochs have, from CUDA graphs, on one batch that is ready: the limit."""
    from vizsla.infer.run import compute_logits, evaluation_mode
    from vizsla.train.step import TrainingStep
    from vizsla.types import Batch

    log = EpochLog(wait=_wait)
    learn = vizsla_learner(task, log=log)
    first = next(learn.dls.train.batches())
    images, targets = first.images, first.targets
    batch = Batch(images=images, targets=targets, rows=learn.dls.train.rows[: len(images)])
    for freeze, epochs in ((learn.freeze, task.frozen), (learn.unfreeze, task.later)):
        freeze()
        learn.create_opt()
        take_step = TrainingStep(
            learn.model,
            loss_function=learn.loss_func,
            optimiser=cast("torch.optim.Optimizer", learn.opt),
            precision=learn.precision,
            captured=True,
        )
        for _ in range(epochs):
            learn.training_mode()
            take_step.refresh()
            log.start()
            for _ in range(len(learn.dls.train)):
                take_step(batch)
            log.trained()
            with evaluation_mode(learn.model):
                for rows in learn.dls.valid.rows.split(BATCH_SIZE):
                    compute_logits(
                        cast("Classifier", learn.model),
                        images[: len(rows)],
                        precision=learn.precision,
                    )
            log.end([])
    return log


def train_fastai(task: Task, *, half: bool = True) -> EpochLog:
    """Fine-tune with fastai, on vizsla's split; ``half``: with ``to_fp16()``."""
    log = EpochLog(wait=_wait)
    import torchvision.models
    from fastai.vision.all import (
        ImageDataLoaders,
        Resize,
        aug_transforms,
        error_rate,
        vision_learner,
    )

    log.mark("imports")
    loaders = ImageDataLoaders.from_folder(
        Path(task.folder),
        valid_pct=0.2,
        seed=task.seed,
        item_tfms=Resize(PRESIZE),
        batch_tfms=aug_transforms(size=SIZE, min_scale=MIN_SCALE),
        bs=BATCH_SIZE,
    )
    log.mark("loaders")
    learn = vision_learner(
        loaders, getattr(torchvision.models, task.arch), pretrained=False, metrics=error_rate
    )
    if half:
        learn = learn.to_fp16()
    log.mark("learner")
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(task.later, freeze_epochs=task.frozen, cbs=log.of_fastai())
    log.mark("trained")
    return log


KINDS: dict[str, Callable[[Task], EpochLog]] = {
    "vizsla": train_vizsla,
    "vizsla, no graphs": lambda task: train_vizsla(task, cuda_graphs=False),
    "fastai fp16": train_fastai,
    "fastai fp32": lambda task: train_fastai(task, half=False),
    "network alone": run_model_alone,
}
"""What can be measured, and how."""


def train(kind: str, task: dict[str, Any]) -> Figures:
    """Train in this process and return the figures."""
    import torch

    asked = Task(**task)
    log = KINDS[kind](asked)
    return {
        "epochs": log.seconds,
        "train": log.train_seconds,
        "marks": log.marks,
        "frozen": asked.frozen,
        "device_bytes": torch.cuda.max_memory_reserved(),
    }


# --- The table of epochs ---------------------------------------------------------------------------------------------

MEASURES = (
    Measure(name="frozen epoch, the first (cold), s", figure=lambda run: run["epochs"][:1]),
    Measure(name="frozen epoch, later, s", figure=lambda run: run["epochs"][1 : run["frozen"]]),
    Measure(name="unfrozen epoch, the first, s", figure=lambda run: _unfrozen(run, "epochs")[:1]),
    Measure(name="unfrozen epoch, later, s", figure=lambda run: _unfrozen(run, "epochs")[1:]),
    Measure(name="of that without validation, s", figure=lambda run: _unfrozen(run, "train")[1:]),
    Measure(name="imports, s", digits=1, figure=lambda run: run["marks"]["imports"]),
    Measure(
        name="loaders and learner, s",
        digits=1,
        figure=lambda run: run["marks"]["learner"] - run["marks"]["imports"],
    ),
    Measure(name="device memory, MB", digits=0, figure=lambda run: run["device_bytes"] / 1e6),
    Measure(
        name="host memory with all processes, MB",
        digits=0,
        figure=lambda run: run["peak_bytes"] / 1e6,
    ),
)


def _unfrozen(run: Figures, name: str) -> list[float]:
    return run[name][run["frozen"] :]


def gpu(options: argparse.Namespace) -> None:
    """Time epochs of vizsla, of fastai and of the network alone on a CUDA device, then what a batch is made of there.

    The images are JPEGs of 394 x 333 with about 45 kB, 37 classes, as the Oxford pets have them, cut from those of the folder.
    The libraries take turns, each measurement is a process of its own; runs that are in the file are not repeated. --part pieces
    copies the files of the folder as they are until there are --images of them.
    """
    import torch

    if options.quick:
        options.rounds, options.archs = 1, options.archs[:1]
        options.images = 256 if options.part == "pieces" else 512
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device, and torch sees none here.")
    machine = described("vizsla", "fastai", "torch", "torchvision", "pillow")
    print(f"{torch.cuda.get_device_name()}; {machine}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = images_or_made_up(options.data, made_in=Path(name) / "made up")
        if options.part != "pieces":
            folder = _pets_like(folder, into=Path(name) / "images", count=options.images)
            for arch in options.archs:
                runs = _measure_epochs(folder, arch, options)
                rounds = max(map(len, runs.values()), default=0)
                ratios = [(kind, "vizsla") for kind in runs if kind.startswith("fastai")]
                print(f"\n{arch}, {options.images:,} JPEGs, {rounds} rounds:\n")
                print(comparison(runs, MEASURES, ratios=ratios, digits=1))
        if options.part != "epochs":
            _print_pieces(_copied(folder, into=Path(name) / "copies", count=options.images))


def _measure_epochs(
    folder: Path, arch: str, options: argparse.Namespace
) -> dict[str, list[Figures]]:
    """Return the runs of one network by kind; one that fails says so and is left out."""
    kept = Kept(options.json)

    def measure(kind: str, number: int) -> Figures:
        # A frozen epoch of fastai takes as long as the first one, which waits for its files too.
        frozen = 1 if kind.startswith("fastai") else 2
        task = Task(folder=str(folder), arch=arch, frozen=frozen, seed=number)
        key = {"arch": arch, "kind": kind, "round": number}
        try:
            return kept.figures(
                key, lambda: in_own_process("gpu:train", kind=kind, task=asdict(task))
            )
        except SystemExit as error:
            print(error, flush=True)
            return {}

    def told(kind: str, run: Figures) -> str:
        seconds = ", ".join(f"{value:.2f}" for value in run.get("epochs", []))
        return f"{arch}, {kind}: epochs {seconds} s"

    runs = by_turns(options.only, rounds=options.rounds, measure=measure, told=told)
    done = {kind: [run for run in each if run] for kind, each in runs.items()}
    return {kind: each for kind, each in done.items() if each}


def _pets_like(data: Path, *, into: Path, count: int) -> Path:
    """Return a folder of so many JPEGs in 37 folders, cut from photographs so that no two are alike.

    Args:
        data: Photographs.
        into: Folder that is made.
        count: How many.
    """
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
    """Save one image, the number says from which photograph and where; return its bytes."""
    from PIL import Image

    turn, place = divmod(number, len(sources))
    with Image.open(sources[place]) as opened:
        image = opened.convert("RGB")
    inset = 0.004 * turn
    box = inset * image.width, inset * image.height, image.width, image.height
    path = into / f"class{number % NUM_CLASSES:02}" / f"{number:05}.jpg"
    image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box).save(path, quality=QUALITY)
    return path.stat().st_size


# --- What a batch is made of -----------------------------------------------------------------------------------------

PASSES = 5
AUGMENTED_BATCHES = 200


def _print_pieces(folder: Path) -> None:
    """Print the cold first pass, later passes from the device cache, augmentation alone."""
    count = len(list(folder.iterdir()))
    print("\n" + head(f"{count:,} JPEGs, images/s", ""), flush=True)
    for decoder in ("CPU", "device"):
        first, later = passes(folder, decoder=decoder)
        name = f"first pass, decoded by the {decoder} ({count / first:.2f} s)"
        print(row(name, f"{first:,.0f}"), flush=True)
        print(row("later passes, device cache", with_spread(later)), flush=True)
    name = f"augmentation alone, {PRESIZE} to {SIZE}, batch {BATCH_SIZE}"
    print(row(name, with_spread(augmentation_rates())))


def _copied(data: Path, *, into: Path, count: int) -> Path:
    """Return a folder of ``count`` files, copies of those of another folder in turn.

    Args:
        data: Folder of images.
        into: Folder that is made.
        count: How many.
    """
    from vizsla import get_image_files

    into.mkdir(parents=True)
    for number, source in enumerate(
        itertools.islice(itertools.cycle(get_image_files(data)), count)
    ):
        shutil.copyfile(source, into / f"{number:05}{source.suffix}")
    return into


def passes(folder: Path, *, decoder: str) -> tuple[float, list[float]]:
    """Return images/s of the first pass over a folder and of each later one.

    Files that were read a moment ago are in the system's memory: what is cold is vizsla's cache.

    Args:
        folder: Folder of images.
        decoder: ``"device"`` decodes plain JPEGs there, as usual; ``"CPU"`` never does.
    """
    import torch

    torch.empty(1, device="cuda")  # The first use of a device takes a second of its own.
    loaders = loaders_of_all(folder, cache="device", device="cuda")
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
    import torch

    from vizsla.data.cache.device import DeviceDecoder, DeviceStore

    loader = loaders.train.loader
    if loader.reader.scales_one_box:
        store = DeviceStore(torch.device("cuda"), budget_bytes=2**28)
        DeviceDecoder(loader.reader, store=store).fill(loader.table.paths[:64])


def augmentation_rates() -> list[float]:
    """Return images/s of the augmentation alone, a few times; the images are on the device already."""
    import torch

    from vizsla import aug_transforms
    from vizsla.augment.batch_augmentation import BatchAugmentation

    augmentation = BatchAugmentation(aug_transforms(size=SIZE, min_scale=MIN_SCALE))
    shape = BATCH_SIZE, PRESIZE, PRESIZE, 3
    images = torch.randint(256, shape, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    plan = torch.arange(AUGMENTED_BATCHES * BATCH_SIZE).split(BATCH_SIZE)

    def augment_all() -> None:
        augment = augmentation.ahead(plan, epoch=0, training=True)
        for number in range(len(plan)):
            augment(number, images)

    _seconds(augment_all)
    return [AUGMENTED_BATCHES * BATCH_SIZE / _seconds(augment_all) for _ in range(PASSES)]


def _seconds(work: Callable[[], None]) -> float:
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


COMMANDS = {
    "gpu": Command(
        asks="How long are epochs on a GPU, beside fastai and the network alone?",
        run=gpu,
        options={
            "data": ANY_DATA,
            "images": {"default": 7390},
            "archs": {"nargs": "+", "default": ["resnet34", "resnet50"], "type": str},
            "only": {"nargs": "*", "choices": list(KINDS), "default": list(KINDS), "type": str},
            "rounds": {"default": 3},
            "part": {"default": "all", "choices": ("all", "epochs", "pieces")},
            "json": KEPT_JSON,
        },
        data="--data {folder}",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
