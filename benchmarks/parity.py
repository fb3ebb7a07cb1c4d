"""Folders of labelled pictures in, a table out: the validation error of vizsla's and of fastai's ``fine_tune``, all else equal.

Same files, split, weights (``efficientnet_lite0``), epochs, schedule, sizes, batch size and augmentation (``peers.py``), several
seeds. The interval of the difference is that of the seeds' differences (Student's t).

    python -m benchmarks.parity dogscats:2 breeds:5
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.accuracy import (
    add_options,
    half_width,
    has_fastai,
    kept_run,
    setting_of,
    tasks_of,
    with_interval,
)
from benchmarks.machine import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Setting


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--size", type=int, default=128, help="side that the network sees")
    parser.add_argument("--presize", type=int, default=160, help="side before augmentation")
    parser.add_argument(
        "--groups", type=int, choices=(2, 3), default=2, help="parameter groups of fastai"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made_in:
        tasks = tasks_of(options, made_in=Path(made_in))
        if tasks:
            compare(tasks, options=options)


def compare(tasks: Sequence[tuple[Path, int]], *, options: argparse.Namespace) -> None:
    """Train on every task and print the table.

    Args:
        tasks: Folders and epochs.
        options: Of the command line.
    """
    libraries = ["vizsla", *(["fastai"] if has_fastai() else [])]
    seeds = options.seeds[:1] if options.quick else options.seeds
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    lines = ["| data | passes | vizsla | fastai | vizsla - fastai |", "|---|---:|---:|---:|---:|"]
    for folder, epochs in tasks:
        setting = setting_of(folder, epochs=epochs, options=options, groups=options.groups)
        errors: dict[str, list[float]] = {library: [] for library in libraries}
        for seed in seeds:
            for library in libraries:
                run = kept_run(library, replace(setting, seed=seed), kept_in=options.json)
                steps = [f"{100 * values[-1]:.1f}" for values in run["values"]]
                errors[library].append(run["values"][-1][-1])
                shown = f"{folder.name}, seed {seed}, {library}: error {', '.join(steps)} %"
                print(f"{shown}; {run['total_seconds']:.0f} s", flush=True)
        lines.append(row(folder.name, setting=setting, errors=errors))
    print("\nValidation error in %, mean ± 95 % interval (each seed):\n")
    print("\n".join(lines))


def row(name: str, *, setting: Setting, errors: dict[str, list[float]]) -> str:
    """Return a row of the table.

    Args:
        name: Of the data.
        setting: Has the number of passes.
        errors: Of each seed, as shares, by library.
    """
    passes = setting.freeze_epochs + setting.epochs
    cells = [name, str(passes), with_interval(errors["vizsla"])]
    if "fastai" in errors:
        pairs = zip(errors["vizsla"], errors["fastai"], strict=True)
        differences = [100 * (own - other) for own, other in pairs]
        margin = "" if len(differences) < 2 else f" ± {half_width(differences):.1f}"
        cells += [with_interval(errors["fastai"]), f"{mean(differences):+.1f}{margin}"]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
