"""A folder of labelled pictures in, a table out: seconds and memory of an epoch of vizsla, of fastai, and of the network alone.

One frozen epoch, which is the first and reads every file, then one unfrozen epoch (``fine_tune(1)``), the same data, weights,
sizes, batch size and augmentation. Each measurement is a process of its own, and they take turns. The network alone goes forward
and backward as often, on one batch that is ready, with the same freezing.

    python -m benchmarks.epoch --data dogscats
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy import has_fastai
from benchmarks.fit import measured
from benchmarks.machine import described, with_spread
from benchmarks.peers import ARCHITECTURE, Setting, with_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KINDS = {
    "vizsla": "vizsla",
    "fastai": "fastai",
    "model": "network alone",
    "vizsla bf16": "vizsla in bf16",
}
"""What can be measured; the last, which needs less memory and more time, only where it is asked for."""


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
    parser.add_argument("--later", type=int, default=1, help="unfrozen epochs after the frozen one")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--presize", type=int, default=None, help="default: 1.25 times the size")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=-1, help="-1: each library's default")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS)[:3])
    parser.add_argument(
        "--quick", action="store_true", help="one round; without --data few pictures"
    )
    parser.add_argument("--json", type=Path, help="also write every single measurement there")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in options.only if kind != "fastai" or has_fastai()]
    rounds = 1 if options.quick else options.rounds
    tiny = options.quick and options.data is None
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    with tempfile.TemporaryDirectory() as made_in:
        setting = Setting(
            folder=str(with_parts(options.data, made_in=Path(made_in), count=60 if tiny else 600)),
            epochs=options.later,
            size=options.size,
            presize=options.size * 5 // 4 if options.presize is None else options.presize,
            batch_size=min(16, options.batch_size) if tiny else options.batch_size,
            workers=options.workers,
        )
        for number in range(1, rounds + 1):
            for kind in kinds:
                run = measured(kind, setting)
                runs[kind].append(run)
                seconds = ", ".join(f"{value:.1f}" for value in run["seconds"])
                print(f"round {number}, {KINDS[kind]}: epochs {seconds} s", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(
        f"\n{ARCHITECTURE}, {setting.presize} to {setting.size} pixels, batch {setting.batch_size}, {rounds} rounds, "
        "median (smallest-largest):\n"
    )
    print(table(runs))


MEASURES: tuple[tuple[str, int, Callable[[dict[str, Any]], float]], ...] = (
    ("frozen epoch (first), s", 1, lambda run: run["seconds"][0]),
    ("unfrozen epoch (later), s", 1, lambda run: median(run["seconds"][1:])),
    ("both, s", 1, lambda run: _first_and_later(run["seconds"])),
    ("steps of both alone, s", 1, lambda run: _first_and_later(run["train_seconds"])),
    ("whole process, s", 1, lambda run: run["total_seconds"]),
    ("CPU time of both epochs, s", 1, lambda run: _first_and_later(run["epoch_cpu_seconds"])),
    ("CPU time of the process, s", 1, lambda run: run["cpu_seconds"]),
    ("peak memory, MB", 0, lambda run: run["peak_bytes"] / 1e6),
)


def _first_and_later(seconds: list[float]) -> float:
    return seconds[0] + median(seconds[1:])


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table with the ratios that are to be reached.

    Args:
        runs: Figures of every round, by kind.
    """
    kinds = list(runs)
    compared = [kind for kind in ("fastai", "model") if kind in kinds and "vizsla" in kinds]
    heads = [KINDS[kind] for kind in kinds] + [f"vizsla / {KINDS[kind]}" for kind in compared]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, digits, figure in MEASURES:
        values = {kind: [figure(run) for run in runs[kind]] for kind in kinds}
        cells = [with_spread(values[kind], digits=digits) for kind in kinds]
        cells += [f"{median(values['vizsla']) / median(values[kind]):.2f}" for kind in compared]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
