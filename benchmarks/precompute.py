"""A folder of labelled pictures in, a table out: lesson one's quick start against one frozen epoch of fastai.

The quick start computes the features of every picture once and fits a head on them for two epochs; fastai trains the head for one
epoch through the frozen network. Same pictures, weights, size and batch size, no augmentation; a process per measurement, by turns.

    python -m benchmarks.precompute --data dogscats
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy import has_fastai
from benchmarks.fit import measured
from benchmarks.machine import described, with_spread
from benchmarks.peers import ARCHITECTURE, Setting, with_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

EPOCHS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="with train and valid (default: drawn pictures)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=-1, help="-1: each library's default")
    parser.add_argument(
        "--quick", action="store_true", help="one round; without --data few pictures"
    )
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    quick: list[dict[str, Any]] = []
    frozen: list[dict[str, Any]] = []
    compares = has_fastai()
    with tempfile.TemporaryDirectory() as drawn:
        count = 60 if options.quick else 600
        folder = with_parts(options.data, made_in=Path(drawn), count=count)
        for number in range(1, rounds + 1):
            with (
                tempfile.TemporaryDirectory() as made_in
            ):  # Anew, so that no features are there yet.
                setting = Setting(
                    folder=str(linked(folder, made_in=Path(made_in))),
                    epochs=EPOCHS,
                    size=options.size,
                    batch_size=options.batch_size,
                    workers=options.workers,
                    augment=False,
                )
                quick.append(measured("quick start", setting))
                if compares:
                    frozen.append(measured("fastai", replace(setting, epochs=0)))
            print(f"round {number} done", flush=True)
    print(
        f"\n{ARCHITECTURE}, {options.size} pixels, batch {options.batch_size}, {rounds} rounds, median (smallest-largest):\n"
    )
    print("| | seconds | validation error, % |\n|---|---:|---:|")
    print_row("features of all pictures", [run["seconds"][0] for run in quick])
    print_row("first epoch on them", [run["seconds"][1] for run in quick])
    print_row("second epoch on them", [run["seconds"][2] for run in quick])
    whole = [sum(run["seconds"]) for run in quick]
    print_row("quick start in all", whole, errors=[run["values"][-1][-1] for run in quick])
    if compares:
        epochs = [run["seconds"][0] for run in frozen]
        errors = [run["values"][-1][-1] for run in frozen]
        print_row("fastai, one frozen epoch", epochs, errors=errors)
        print(f"\nquick start / fastai's epoch: {median(whole) / median(epochs):.2f}")


def linked(folder: Path, *, made_in: Path) -> Path:
    """Return a fresh folder with links to ``train`` and ``valid``, for the features go beside them."""
    for part in ("train", "valid"):
        (made_in / part).symlink_to((folder / part).resolve(), target_is_directory=True)
    return made_in


def print_row(name: str, seconds: Sequence[float], *, errors: Sequence[float] = ()) -> None:
    """Print a row of the table."""
    error = with_spread([100 * value for value in errors], digits=1) if errors else ""
    print(f"| {name} | {with_spread(seconds, digits=2)} | {error} |")


if __name__ == "__main__":
    main()
