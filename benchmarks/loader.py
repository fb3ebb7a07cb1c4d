"""A folder of photographs in, a table out: decode, presize and augment with vizsla and with fastai, turn and turn about.

Each measurement is a process of its own (``feed.py``), the libraries alternate, and medians are compared: whatever else the
machine does meets both. Without fastai (the extra ``bench``) vizsla is measured alone.

    python -m benchmarks.loader --data FOLDER --rounds 3
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.machine import MemoryWatch, described, with_spread
from benchmarks.pictures import NUM_PICTURES, photographs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LABELS = {
    "vizsla": "vizsla",
    "vizsla-nocache": "vizsla, cache off",
    "fastai": "fastai",
}
MEASURES: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
    ("first epoch, pictures/s", lambda run: run["rates"][0]),
    ("later epochs, pictures/s", lambda run: median(run["rates"][1:])),
    ("first epoch, CPU ms/picture", lambda run: run["cpu_ms"][0]),
    ("later epochs, CPU ms/picture", lambda run: median(run["cpu_ms"][1:])),
    ("peak memory, MB", lambda run: run["peak_bytes"] / 1e6),
)


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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--epochs", type=int, default=2, help="the first and the later ones together"
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="of both libraries (default: one per core)"
    )
    parser.add_argument("--only", nargs="+", choices=list(LABELS), default=list(LABELS))
    parser.add_argument("--quick", action="store_true", help="few pictures, one round")
    parser.add_argument("--json", type=Path, help="also write every single measurement there")
    options = parser.parse_args(arguments)
    if options.epochs < 2 or options.rounds < 1:
        parser.error("--epochs is at least 2 and --rounds at least 1")
    if options.quick:
        options.rounds = 1
    libraries = list(options.only)
    if "fastai" in libraries and importlib.util.find_spec("fastai") is None:
        print("fastai is not installed, so vizsla is measured alone: pip install fastai")
        libraries.remove("fastai")
    runs: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
    print(described("vizsla", "fastai", "torch", "pillow"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        count = 130 if options.quick else NUM_PICTURES
        data = photographs(options.data, made_in=Path(folder), count=count)
        for number in range(1, options.rounds + 1):
            for library in libraries:
                run = measured(library, data=data, epochs=options.epochs, workers=options.workers)
                runs[library].append(run)
                rates = ", ".join(f"{rate:.0f}" for rate in run["rates"])
                print(f"round {number}, {LABELS[library]}: {rates} pictures/s", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(runs))


def measured(library: str, *, data: Path, epochs: int, workers: int | None) -> dict[str, Any]:
    """Return the figures of one process that runs some epochs of one library.

    Args:
        library: One of ``LABELS``.
        data: Folder with a sub-folder for each class.
        epochs: How many.
        workers: Reading threads or processes; None: as many as there are cores.
    """
    command = [sys.executable, "-m", "benchmarks.feed", library, str(data), str(epochs)]
    if workers is not None:
        command.append(str(workers))
    root = Path(__file__).parents[1]
    with (
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child,
        MemoryWatch(child.pid) as watch,
    ):
        printed, _ = child.communicate()
    if child.returncode != 0:
        raise SystemExit(f"the measurement of {library} failed with exit code {child.returncode}")
    return json.loads(printed.strip().splitlines()[-1]) | {"peak_bytes": watch.peak_bytes}


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table: medians over the rounds, smallest and largest in brackets, ratios of medians.

    Args:
        runs: Figures of every round, for each library.
    """
    libraries = list(runs)
    compared = [library for library in libraries if library != "fastai"] if "fastai" in runs else []
    heads = [LABELS[library] for library in libraries]
    heads += [f"{LABELS[library]} / fastai" for library in compared]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, figure in MEASURES:
        values = {library: [figure(run) for run in runs[library]] for library in libraries}
        digits = 0 if name.endswith(("/s", "MB")) else 2
        cells = [with_spread(values[library], digits=digits) for library in libraries]
        cells += [f"{median(values[each]) / median(values['fastai']):.2f}" for each in compared]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
