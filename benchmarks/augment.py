"""Nothing in, a table out: 64 pictures of 460 x 460 to 224 x 224 on the CPU, augmentation alone, vizsla and fastai alternating.

The pictures are uint8 and lie in memory; each measurement is a process of its own. Without fastai (the extra ``bench``)
vizsla is measured alone.

    python -m benchmarks.augment --rounds 3
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.machine import described, with_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

PRESIZE, SIZE, MIN_SCALE, BATCH_SIZE = 460, 224, 0.75, 64
BATCHES = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch")
    parser.add_argument("--quick", action="store_true", help="one round with one thread")
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(rate(options.one[0], threads=int(options.one[1]))))
        return
    if options.quick:
        options.rounds, options.threads = 1, [1]
    libraries = ["vizsla", "fastai"]
    if importlib.util.find_spec("fastai") is None:
        print("fastai is not installed, so vizsla is measured alone: pip install fastai")
        libraries.remove("fastai")
    print(described("vizsla", "fastai", "torch"), flush=True)
    heads = [f"{library}, pictures/s" for library in libraries]
    heads += ["vizsla / fastai"] if len(libraries) == 2 else []
    print("\n| threads | " + " | ".join(heads) + " |\n|---:|" + "---:|" * len(heads))
    for threads in options.threads:
        rates: dict[str, list[float]] = {library: [] for library in libraries}
        for _ in range(options.rounds):
            for library in libraries:
                rates[library].append(_in_a_process(library, threads=threads))
        cells = [with_spread(rates[library]) for library in libraries]
        if len(libraries) == 2:
            cells.append(f"{median(rates['vizsla']) / median(rates['fastai']):.1f}")
        print(f"| {threads} | " + " | ".join(cells) + " |", flush=True)


def rate(library: str, *, threads: int) -> float:
    """Return how many pictures a second one library augments: the median batch of ``BATCHES``, after one to warm up.

    Args:
        library: ``"vizsla"`` or ``"fastai"``.
        threads: Of torch.
    """
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    shape = BATCH_SIZE, PRESIZE, PRESIZE, 3
    pictures_BHWC = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    pictures = pictures_BHWC.permute(0, 3, 1, 2)
    if library == "vizsla":
        augment = vizsla_augmentation()
    else:
        augment, pictures = fastai_augmentation(), pictures.contiguous()
    seconds: list[float] = []
    for number in range(BATCHES + 1):
        started = time.perf_counter()
        augment(pictures, number)
        seconds.append(time.perf_counter() - started)
    return BATCH_SIZE / median(seconds[1:])


def vizsla_augmentation() -> Callable[[Tensor, int], Tensor]:
    """Return a function of uint8 pictures and the number of the batch that gives float pictures."""
    import torch

    from vizsla.augment.batch_augmentation import BatchAugmentation
    from vizsla.augment.presets import aug_transforms

    augmentation = BatchAugmentation(aug_transforms(size=SIZE, min_scale=MIN_SCALE))
    rows = torch.arange(BATCH_SIZE)
    return lambda pictures, number: augmentation(pictures, rows=rows, epoch=number, training=True)


def fastai_augmentation() -> Callable[[Tensor, int], Tensor]:
    """Return the same for fastai."""
    from fastai.vision.all import IntToFloatTensor, Pipeline, TensorImage, aug_transforms

    transforms = [IntToFloatTensor(), *aug_transforms(size=SIZE, min_scale=MIN_SCALE)]
    pipeline = Pipeline(transforms, split_idx=0)
    return lambda pictures, _number: pipeline(TensorImage(pictures))


def _in_a_process(library: str, *, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.augment", "--one", library, str(threads)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
