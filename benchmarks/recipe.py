"""Folders of labelled pictures in, a table out: the error of the recipe of ``vizsla train`` against fastai's ``fine_tune``.

Same files, split, weights, picture size and number of passes over the pictures: ``fine_tune(N)`` makes 1 + N, the recipe one to
fit the head on features and N end to end. What ``vizsla train`` does on a CPU unless told otherwise, the one pass alone, is
in the table too.

    python -m benchmarks.recipe dogscats:2 breeds:5
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
    has_fastai,
    kept_run,
    setting_of,
    tasks_of,
    with_interval,
)
from benchmarks.machine import described

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD_ONLY = "recipe, 1 pass"
SAME_PASSES = "recipe, same passes"
FINE_TUNE = "fastai"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--size", type=int, default=224, help="side that the network sees")
    parser.add_argument("--presize", type=int, default=291, help="side before augmentation")
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
    columns = [HEAD_ONLY, SAME_PASSES, *([FINE_TUNE] if has_fastai() else [])]
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    lines = [
        f"| data | passes | {' | '.join(columns)} | recipe / fastai |",
        "|---|---:|" + "---:|" * (len(columns) + 1),
    ]
    for folder, epochs in tasks:
        setting = setting_of(folder, epochs=epochs, options=options)
        errors: dict[str, list[float]] = {column: [] for column in columns}
        for seed in options.seeds[:1] if options.quick else options.seeds:
            for column in columns:
                own_epochs = 0 if column == HEAD_ONLY else setting.epochs
                kind = "fastai" if column == FINE_TUNE else "recipe"
                chosen = replace(setting, seed=seed, epochs=own_epochs)
                run = kept_run(kind, chosen, kept_in=options.json)
                errors[column].append(run["values"][-1][-1])
                shown = (
                    f"{folder.name}, seed {seed}, {column}: error {100 * errors[column][-1]:.1f} %"
                )
                print(f"{shown}; {run['total_seconds']:.0f} s", flush=True)
        cells = [with_interval(errors[column]) for column in columns]
        ratio = ""
        if FINE_TUNE in errors:
            ratio = f"{mean(errors[SAME_PASSES]) / max(mean(errors[FINE_TUNE]), 1e-9):.2f}"
        cells = [folder.name, str(setting.freeze_epochs + setting.epochs), *cells, ratio]
        lines.append(f"| {' | '.join(cells)} |")
    print("\nValidation error in %, mean ± 95 % interval (each seed):\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
