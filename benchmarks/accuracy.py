"""Errors of several seeds in, their mean with a 95 % interval out; tasks given as FOLDER:EPOCHS, and runs that are kept in a file."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.fit import measured
from benchmarks.peers import Setting, with_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

STUDENT_T = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t by degrees of freedom."""


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean; nan for a single value.

    Args:
        values: One of each seed, at most ten.
    """
    freedom = len(values) - 1
    return STUDENT_T[freedom] * stdev(values) / math.sqrt(len(values)) if freedom else math.nan


def with_interval(values: Sequence[float]) -> str:
    """Return the mean of shares in percent with its interval, and the single values in brackets."""
    percent = [100 * value for value in values]
    each = ", ".join(f"{value:.1f}" for value in percent)
    margin = "" if len(values) < 2 else f" ± {half_width(percent):.1f}"
    return f"{mean(percent):.1f}{margin} ({each})"


def folder_and_epochs(text: str) -> tuple[Path, int]:
    """Return the folder and the epochs of ``FOLDER:EPOCHS``."""
    folder, _, epochs = text.rpartition(":")
    if not folder or not epochs.isdigit():
        raise argparse.ArgumentTypeError(f"it is FOLDER:EPOCHS, such as dogscats:2, not {text!r}")
    return Path(folder).resolve(), int(epochs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the questions about accuracy share."""
    parser.add_argument(
        "tasks",
        nargs="*",
        type=folder_and_epochs,
        metavar="FOLDER:EPOCHS",
        help="a folder with sub-folders train and valid, or with pictures called class_number.jpg; epochs of fine_tune",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=-1, help="-1: each library's default")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, small pictures")
    parser.add_argument(
        "--json", type=Path, help="every run is written there, and not repeated if it is there"
    )


def tasks_of(options: argparse.Namespace, *, made_in: Path) -> list[tuple[Path, int]]:
    """Return the folders and epochs; with ``--quick`` a few drawn pictures where none are given.

    Args:
        options: Of the command line.
        made_in: Where pictures are drawn.
    """
    if options.tasks:
        return options.tasks
    if options.quick:
        return [(with_parts(None, made_in=made_in, count=48), 1)]
    print(
        "Errors are worth comparing on real pictures only. Give FOLDER:EPOCHS, such as dogscats:2."
    )
    return []


def setting_of(
    folder: Path, *, epochs: int, options: argparse.Namespace, groups: int = 2
) -> Setting:
    """Return the training task that the command line asks for.

    Args:
        folder: Of the pictures.
        epochs: Unfrozen epochs.
        options: Of the command line, with ``size`` and ``presize``.
        groups: Parameter groups of fastai.
    """
    return Setting(
        folder=str(folder),
        epochs=1 if options.quick else epochs,
        size=64 if options.quick else options.size,
        presize=80 if options.quick else options.presize,
        batch_size=16 if options.quick else options.batch_size,
        workers=options.workers,
        groups=groups,
    )


def has_fastai() -> bool:
    """Tell whether fastai is installed, and say so where it is not."""
    if importlib.util.find_spec("fastai") is not None:
        return True
    print("fastai is not installed: pip install fastai to compare with it")
    return False


def kept_run(
    kind: str, setting: Setting, *, kept_in: Path | None, needs: str = "values"
) -> dict[str, Any]:
    """Return the figures of a run: those of the file if they are there, else of a process that runs now.

    Args:
        kind: As ``measured`` knows it.
        setting: The task.
        kept_in: A JSON file; None keeps nothing.
        needs: A figure that is used; a run of an older version that lacks it is repeated.
    """
    is_there = kept_in is not None and kept_in.is_file()
    runs: list[dict[str, Any]] = json.loads(kept_in.read_text()) if kept_in and is_there else []
    for run in runs:
        known = (run["kind"], Setting(**run["setting"]))
        if known == (kind, setting) and needs in run["figures"]:
            return run["figures"]
    figures = measured(kind, setting)
    if kept_in is not None:
        runs.append({"kind": kind, "setting": asdict(setting), "figures": figures})
        kept_in.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    return figures
