"""A folder of labelled pictures in, a table out: seconds and memory of what a notebook does besides training, beside fastai.

Import, dataloaders, first batch, ``lr_find``, ``validate``, ``tta``, predictions, export and load: the same lines in both
libraries, on the same pictures, with the same weights, sizes and batch size. Each measurement is a process of its own that
starts from nothing, and the libraries take turns. Memory is that of the whole process, with all that the task needs first.

    python -m benchmarks.tasks --data dogscats --json tasks.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy import has_fastai
from benchmarks.machine import MemoryWatch, described, with_spread
from benchmarks.one_task import SURFACES, TASKS, Places, Work
from benchmarks.peers import ARCHITECTURE, with_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_MANY = 1000
NEEDS_FILE = ("load", "predict one", "cold")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    options = parsed(arguments)
    libraries = [name for name in SURFACES if name != "fastai" or has_fastai()]
    tiny = options.quick and options.data is None
    rounds = 1 if options.quick else options.rounds
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    with tempfile.TemporaryDirectory() as made_in:
        drawn = Path(made_in) / "drawn"
        folder = with_parts(options.data, made_in=drawn, count=60 if tiny else 600)
        work = Work(
            size=options.size,
            presize=options.size * 5 // 4,
            batch_size=min(16, options.batch_size) if tiny else options.batch_size,
            workers=options.workers,
            num_it=10 if options.quick else options.num_it,
            num_single=5 if options.quick else 20,
        )
        bench = Measurements(
            folder,
            work=work,
            made_in=Path(made_in),
            num_many=min(options.many, 100) if options.quick else options.many,
            kept_in=options.json,
            data_name="drawn" if options.data is None else str(folder),
        )
        for number in range(1, rounds + 1):
            for task in options.only:
                taken: list[str] = []
                for library in libraries:
                    figures = bench.figures(library, task, number=number)
                    taken.append(f"{library} {figures['seconds']:.3f} s")
                print(f"round {number}, {task}: {', '.join(taken)}", flush=True)
        print(
            f"\n{ARCHITECTURE}, {work.presize} to {work.size} pixels, batch {work.batch_size}, {bench.num_many:,} pictures to "
            f"predict, lr_find of {work.num_it} steps, {rounds} rounds, median (smallest-largest):\n"
        )
        print(table(bench, tasks=options.only, libraries=libraries, rounds=rounds))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="with train and valid (default: drawn pictures)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=-1, help="-1: each library's default")
    parser.add_argument("--num-it", type=int, default=100, help="steps of lr_find")
    parser.add_argument("--many", type=int, default=NUM_MANY, help="pictures to predict")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--quick", action="store_true", help="one round; without --data few pictures"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="every measurement is written there, and not repeated if it is there",
    )
    return parser.parse_args(arguments)


class Measurements:
    """Measures, or looks up what was measured before.

    Args:
        folder: Has ``train`` and ``valid``.
        work: What both libraries work on.
        made_in: A folder for what is made on the way.
        num_many: Pictures to predict.
        kept_in: A JSON file; None keeps nothing.
        data_name: What the file calls the data.
    """

    def __init__(
        self,
        folder: Path,
        *,
        work: Work,
        made_in: Path,
        num_many: int,
        kept_in: Path | None,
        data_name: str,
    ) -> None:
        self.work = work
        self.num_many = num_many
        self._folder = folder
        self._made_in = made_in
        self._kept_in = kept_in
        self._setting = asdict(work) | {"data": data_name, "many": num_many}
        self._runs: list[dict[str, Any]] = []
        if kept_in is not None and kept_in.is_file():
            self._runs = json.loads(kept_in.read_text(encoding="utf-8"))
        self._many = linked_pictures(folder, count=num_many, made_in=made_in / "many")

    def figures(self, library: str, task: str, *, number: int) -> dict[str, Any]:
        """Return ``seconds`` and ``peak_bytes`` of a task.

        Args:
            library: One of ``SURFACES``.
            task: One of ``TASKS``.
            number: Of the round.
        """
        key = {"library": library, "task": task, "round": number, "setting": self._setting}
        for run in self._runs:
            if {name: run[name] for name in key} == key:
                return run["figures"]
        if task in NEEDS_FILE and not self._exported(library).exists():
            self._measured(library, "export")
        figures = self._measured(library, task)
        self._runs.append(key | {"figures": figures})
        if self._kept_in is not None:
            text = json.dumps(self._runs, indent=1) + "\n"
            self._kept_in.write_text(text, encoding="utf-8")
        return figures

    def _exported(self, library: str) -> Path:
        return self._made_in / f"{library}.model"

    def _measured(self, library: str, task: str) -> dict[str, Any]:
        places = Places(
            folder=str(self._folder),
            many=str(self._many),
            exported=str(self._exported(library)),
        )
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.one_task", library, task]
        command += [json.dumps(asdict(self.work)), json.dumps(asdict(places))]
        root = Path(__file__).parents[1]
        with (
            subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child,
            MemoryWatch(child.pid) as watch,
        ):
            printed, _ = child.communicate()
        if child.returncode != 0:
            raise SystemExit(f"{task} of {library} failed with exit code {child.returncode}")
        figures = json.loads(printed.strip().splitlines()[-1])
        peak = max(watch.peak_bytes, figures["end_bytes"])
        return {"seconds": figures["seconds"], "peak_bytes": peak}


def linked_pictures(folder: Path, *, count: int, made_in: Path) -> Path:
    """Return a folder with so many links to the pictures of another, each of which is a picture of its own for both libraries.

    Args:
        folder: With pictures at any depth.
        count: Links.
        made_in: The folder to make.
    """
    from vizsla.data.table.sources import get_image_files

    files = get_image_files(folder)
    made_in.mkdir()
    for number in range(count):
        file = files[number % len(files)].resolve()
        (made_in / f"{number:05}{file.suffix}").symlink_to(file)
    return made_in


def table(
    bench: Measurements, *, tasks: Sequence[str], libraries: Sequence[str], rounds: int
) -> str:
    """Return a Markdown table of seconds and memory with their ratios.

    Args:
        bench: Has measured all of it.
        tasks: Rows.
        libraries: Columns.
        rounds: How many there were.
    """
    heads = [f"{library}, {unit}" for unit in ("s", "MB") for library in libraries]
    if len(libraries) == 2:
        ratio = f"{libraries[0]} / {libraries[1]}"
        heads = [*heads[:2], f"time, {ratio}", *heads[2:], f"memory, {ratio}"]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for task in tasks:
        cells: list[str] = []
        for name, unit in (("seconds", 1.0), ("peak_bytes", 1e6)):
            middles: list[float] = []
            for library in libraries:
                runs = [bench.figures(library, task, number=n + 1) for n in range(rounds)]
                values = [run[name] / unit for run in runs]
                digits = 0 if name == "peak_bytes" else 3 if max(values) < 1 else 2
                cells.append(with_spread(values, digits=digits))
                middles.append(median(values))
            cells += [f"{middles[0] / middles[1]:.2f}"] if len(middles) == 2 else []
        called = TASKS[task][0]
        if task == "predict many":
            called = called.replace("1,000", f"{bench.num_many:,}")
        lines.append(f"| {called} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
