"""Epochs of vizsla, of fastai and of the network alone on a CUDA device, then what a batch is made of there; tables out.

Not part of ``python -m benchmarks``: it needs a CUDA device.

    python -m benchmarks.gpu --data FOLDER --json gpu.json

The pictures are JPEGs of 394 x 333 with about 45 kB, 37 classes, as the Oxford pets have them, cut from those of the folder. The
libraries take turns, each measurement is a process of its own; runs that are in the file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import gpu_pieces
from benchmarks.gpu_fit import KINDS, Task, as_arguments
from benchmarks.machine import MemoryWatch, described, with_spread
from benchmarks.pictures import photographs
from vizsla.data.table.sources import get_image_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NUM_CLASSES, WIDTH, HEIGHT, QUALITY = 37, 394, 333, 95
Run = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="photographs in any sub-folders (default: drawn ones)"
    )
    parser.add_argument("--pictures", type=int, default=7390)
    parser.add_argument("--archs", nargs="+", default=["resnet34", "resnet50"])
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-pieces", action="store_true", help="epochs only")
    parser.add_argument("--json", type=Path, help="every measurement is kept there")
    parser.add_argument("--quick", action="store_true", help="one round with few pictures")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.pictures, options.archs = 1, 512, options.archs[:1]
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device, and torch sees none here.")
    print(
        f"{torch.cuda.get_device_name()}; "
        f"{described('vizsla', 'fastai', 'torch', 'torchvision', 'pillow')}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        data = photographs(options.data, made_in=Path(name) / "drawn")
        folder = pets_like(data, into=Path(name) / "pictures", count=options.pictures)
        runs = measure_all(folder, options)
        for arch in options.archs:
            print(f"\n{arch}, {options.pictures:,} JPEGs, {epochs_table(runs, arch=arch)}")
        if not options.no_pieces:
            gpu_pieces.main(["--pictures", str(options.pictures), "--data", str(folder)])


def measure_all(folder: Path, options: argparse.Namespace) -> dict[str, Run]:
    """Return every measurement by its name; those of the file are taken from there."""
    runs: dict[str, Run] = {}
    if options.json is not None and options.json.exists():
        runs = json.loads(options.json.read_text(encoding="utf-8"))
    for number in range(1, options.rounds + 1):
        for arch in options.archs:
            for kind in options.only:
                name = f"{arch}/{kind}/{number}"
                if name in runs:
                    continue
                # A frozen epoch of fastai takes as long as the first one, which waits for its files too.
                frozen = 1 if kind.startswith("fastai") else 2
                task = Task(folder=str(folder), arch=arch, frozen=frozen, seed=number)
                run = measured(kind, task)
                if run is None:
                    continue
                runs[name] = run
                seconds = ", ".join(f"{value:.2f}" for value in run["epochs"])
                print(f"{name}: epochs {seconds} s", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    return runs


def measured(kind: str, task: Task) -> Run | None:
    """Run one measurement in a process of its own; None where it fails, which is said."""
    root = Path(__file__).parents[1]
    with (
        subprocess.Popen(
            as_arguments(kind, task), cwd=root, stdout=subprocess.PIPE, text=True
        ) as child,
        MemoryWatch(child.pid) as watch,
    ):
        printed, _ = child.communicate()
    if child.returncode:
        print(f"{task.arch}, {kind}: failed with exit code {child.returncode}", flush=True)
        return None
    return json.loads(printed.strip().splitlines()[-1]) | {"peak_bytes": watch.peak_bytes}


MEASURES: tuple[tuple[str, int, Callable[[Run], list[float]]], ...] = (
    ("frozen epoch, the first (cold), s", 2, lambda run: run["epochs"][:1]),
    ("frozen epoch, later, s", 2, lambda run: run["epochs"][1 : run["frozen"]]),
    ("unfrozen epoch, the first, s", 2, lambda run: run["epochs"][run["frozen"] :][:1]),
    ("unfrozen epoch, later, s", 2, lambda run: run["epochs"][run["frozen"] + 1 :]),
    ("of that without validation, s", 2, lambda run: run["train"][run["frozen"] + 1 :]),
    ("imports, s", 1, lambda run: [run["marks"]["imports"]]),
    ("loaders and learner, s", 1, lambda run: [run["marks"]["learner"] - run["marks"]["imports"]]),
    ("device memory, MB", 0, lambda run: [run["device_bytes"] / 1e6]),
    ("host memory with all processes, MB", 0, lambda run: [run["peak_bytes"] / 1e6]),
)


def epochs_table(runs: dict[str, Run], *, arch: str) -> str:
    """Return a Markdown table of one network, medians with the smallest and the largest value.

    Args:
        runs: By name.
        arch: Which network.
    """
    by_kind: dict[str, list[Run]] = {}
    for name, run in runs.items():
        if name.startswith(f"{arch}/"):
            by_kind.setdefault(name.split("/")[1], []).append(run)
    peers = [kind for kind in by_kind if kind.startswith("fastai") and "vizsla" in by_kind]
    heads = [*by_kind, *(f"{peer} / vizsla" for peer in peers)]
    rounds = max(map(len, by_kind.values()), default=0)
    lines = [
        f"{rounds} rounds:\n",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for label, digits, figures in MEASURES:
        values = {
            kind: [value for run in each for value in figures(run)]
            for kind, each in by_kind.items()
        }
        cells = [with_spread(each, digits=digits) if each else "" for each in values.values()]
        cells += [
            f"{median(values[peer]) / median(values['vizsla']):.1f}" if values[peer] else ""
            for peer in peers
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pets_like(data: Path, *, into: Path, count: int) -> Path:
    """Return a folder of so many JPEGs in 37 folders, cut from photographs so that no two are alike.

    Args:
        data: Photographs.
        into: Folder that is made.
        count: How many.
    """
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
    """Save one picture, the number says from which photograph and where; return its bytes."""
    from PIL import Image

    turn, place = divmod(number, len(sources))
    with Image.open(sources[place]) as opened:
        picture = opened.convert("RGB")
    inset = 0.004 * turn
    box = inset * picture.width, inset * picture.height, picture.width, picture.height
    path = into / f"class{number % NUM_CLASSES:02}" / f"{number:05}.jpg"
    picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box).save(path, quality=QUALITY)
    return path.stat().st_size


if __name__ == "__main__":
    main()
