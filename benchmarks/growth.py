"""Nothing in, a table out: how listing, labels, split and table grow with the number of files and of classes.

Files are hard links to a few pictures, one folder for each class; loaders are made of them and no picture is read. Each measurement is a
process of its own, the libraries alternate, medians are printed. Memory is what the process holds afterwards beyond what it held after
its imports.

    python -m benchmarks.growth          # 1,000 to 100,000 files
    python -m benchmarks.growth --full   # 1,000,000 too
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.decode import drawn_photograph
from benchmarks.machine import described, tree_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES = ((1_000, 2), (10_000, 2), (100_000, 2), (100_000, 1_000), (100_000, 10_000))
FULL_CASES = (*CASES, (1_000_000, 2), (1_000_000, 10_000))
QUICK_CASES = ((100, 2), (1_000, 2), (1_000, 100))
LINKS_PER_FILE = 10_000
"""File systems allow 65,000 and some less."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table, or one case of it.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="a million files too")
    parser.add_argument("--quick", action="store_true", help="a thousand files at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--within", type=Path, help="where to make the folders (default: temporary)"
    )
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(
            json.dumps({"vizsla": of_vizsla, "fastai": of_fastai}[options.one[0]](options.one[1]))
        )
        return
    cases = FULL_CASES if options.full else QUICK_CASES if options.quick else CASES
    rounds = 1 if options.quick else options.rounds
    has_fastai = importlib.util.find_spec("fastai") is not None
    print(described("vizsla", "fastai", "torch"))
    print("\n| files | classes | list, s | loaders, s | memory, MB | bytes a file | ", end="")
    print("fastai: list, s | loaders, s | memory, MB |" if has_fastai else "")
    print("|---:|---:|---:|---:|---:|---:|" + "---:|---:|---:|" * has_fastai)
    with tempfile.TemporaryDirectory(dir=options.within) as folder:
        for num_files, num_classes in cases:
            place = Path(folder) / f"{num_files}-{num_classes}"
            make_links(place, num_files=num_files, num_classes=num_classes)
            own: list[list[float]] = []
            others: list[list[float]] = []
            for number in range(rounds):
                turns = [("vizsla", own), *([("fastai", others)] if has_fastai else [])]
                # Who lists first waits for the disk.
                for library, figures in turns[:: -1 if number % 2 else 1]:
                    figures.append(in_own_process(library, place))
            shutil.rmtree(place)
            middle = _medians(own)
            per_file = f"{1e6 * middle[2] / num_files:,.0f}"
            cells = [f"{num_files:,}", f"{num_classes:,}", *_cells(middle), per_file]
            cells += _cells(_medians(others)) if others else []
            print(f"| {' | '.join(cells)} |", flush=True)


def make_links(folder: Path, *, num_files: int, num_classes: int) -> None:
    """Fill a folder with so many pictures in so many sub-folders; all are links to few files."""
    folder.mkdir()
    source = folder / "source"
    for number in range(num_classes):
        (folder / "pictures" / f"class {number:05}").mkdir(parents=True)
    for number in range(num_files):
        if number % LINKS_PER_FILE == 0:
            source = folder / f"source {number}"
            drawn_photograph(number, size=(32, 32)).save(source, format="JPEG")
        place = folder / "pictures" / f"class {number % num_classes:05}"
        os.link(source, place / f"picture {number:07}.jpg")


def in_own_process(library: str, folder: Path) -> list[float]:
    """Return seconds of listing, seconds of loaders and megabytes, of a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.growth", "--one", library]
    done = subprocess.run(
        [*command, str(folder / "pictures")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def of_vizsla(folder: str) -> list[float]:
    """Measure vizsla."""
    from vizsla import ImageDataLoaders, Resize
    from vizsla.data.table.sources import get_image_files

    warm_up = ImageDataLoaders  # the name is looked up lazily: here, not while the clock runs
    before = _own_bytes()
    started = time.perf_counter()
    listed = len(get_image_files(folder))
    middle = time.perf_counter()
    loaders = warm_up.from_folder(folder, valid_pct=0.2, seed=0, item_tfms=Resize(64), device="cpu")
    ended = time.perf_counter()
    if listed != len(loaders.table.paths):
        raise SystemExit(
            f"{listed} files were listed and {len(loaders.table.paths)} are in the table"
        )
    return [middle - started, ended - middle, (_own_bytes() - before) / 1e6]


def of_fastai(folder: str) -> list[float]:
    """Measure fastai."""
    from fastai.vision.all import ImageDataLoaders, Resize, get_image_files

    before = _own_bytes()
    started = time.perf_counter()
    listed = len(get_image_files(folder))
    middle = time.perf_counter()
    loaders = ImageDataLoaders.from_folder(
        folder, valid_pct=0.2, seed=0, item_tfms=Resize(64), device="cpu", num_workers=0
    )
    ended = time.perf_counter()
    if listed != len(loaders.train_ds) + len(loaders.valid_ds):
        raise SystemExit("fastai left files out")
    return [middle - started, ended - middle, (_own_bytes() - before) / 1e6]


def _own_bytes() -> int:
    gc.collect()
    return tree_bytes(os.getpid(), own=True)


def _medians(rounds: list[list[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def _cells(figures: list[float]) -> list[str]:
    return [f"{figures[0]:.2f}", f"{figures[1]:.2f}", f"{figures[2]:,.1f}"]


if __name__ == "__main__":
    main()
