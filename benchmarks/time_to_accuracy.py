"""Folders of labelled pictures in, a table out: how long until a model is as good as the one that fastai's ``fine_tune`` ends with.

The clock starts with the process, so imports count, and stops when a validated model reaches the accuracy that fastai has at the end
of ``fine_tune(N)`` with the same seed. vizsla gets there with the same ``fine_tune(N)``, after whichever epoch is the first to be
as good, and with the recipe of ``vizsla train``: a head on features that are computed once. The same files, split, weights, sizes
and batch size; a process per measurement, by turns. What fastai's process spends on being handed the split is not counted.
Without a folder the pictures are 600 solar cells, if the package elpv-dataset is installed (the extra ``demo``).

    python -m benchmarks.time_to_accuracy dogscats:2 breeds:5 --json reached.json
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy import add_options, has_fastai, kept_run, setting_of, tasks_of
from benchmarks.machine import described
from benchmarks.pictures import solar_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Setting

WAYS = {"vizsla": "vizsla, the same `fine_tune`", "recipe": "vizsla, its recipe"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """When a run was good enough.

    Attributes:
        seconds: Since the process started; infinite for a run that never was.
        accuracy: Of the first model that was good enough, else of the best.
    """

    seconds: float
    accuracy: float


def first_as_good(run: dict[str, Any], *, wanted: float) -> Reached:
    """Return when a run first had a validated model with an accuracy.

    Args:
        run: From ``fit.measured``: ``values`` with the error last, and ``ends``.
        wanted: Accuracy, a share.
    """
    accuracies = [1 - values[-1] for values in run["values"]]
    for accuracy, seconds in zip(accuracies, run["ends"], strict=True):
        # The end of a fit within the recipe is not known; its last line is that of the model it leaves.
        if accuracy >= wanted - 1e-6 and not math.isnan(seconds):
            return Reached(seconds=seconds, accuracy=accuracy)
    return Reached(seconds=math.inf, accuracy=max(accuracies))


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
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made_in:
        has_own = options.tasks or options.quick
        cells = None if has_own else solar_cells(Path(made_in))
        tasks = tasks_of(options, made_in=Path(made_in)) if cells is None else [(cells, 1)]
        if tasks and has_fastai():
            compare(tasks, options=options)


def compare(tasks: Sequence[tuple[Path, int]], *, options: argparse.Namespace) -> None:
    """Train on every task and print the table.

    Args:
        tasks: Folders and epochs.
        options: Of the command line.
    """
    print(described("vizsla", "fastai", "torch", "timm"), flush=True)
    lines = [
        "| data | `fine_tune` | fastai: accuracy, % | fastai, s | vizsla | accuracy, % | s | vizsla / fastai |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    seeds: list[int] = options.seeds[:1] if options.quick else options.seeds
    for folder, epochs in tasks:
        setting = setting_of(folder, epochs=epochs, options=options)
        peers: list[Reached] = []
        own: dict[str, list[Reached]] = {way: [] for way in WAYS}
        for seed in seeds:
            runs = runs_of(replace(setting, seed=seed), kept_in=options.json)
            wanted = 1 - runs["fastai"]["values"][-1][-1]
            peers.append(Reached(seconds=runs["fastai"]["ends"][-1], accuracy=wanted))
            for way, found in own.items():
                found.append(first_as_good(runs[way], wanted=wanted))
            figures = [f"fastai {_shown(peers[-1])}"]
            figures += [f"{way} {_shown(found[-1])}" for way, found in own.items()]
            print(f"{folder.name}, seed {seed}: {'; '.join(figures)}", flush=True)
        for way, found in own.items():
            lines.append(row(folder.name, setting, peers=peers, way=way, found=found))
    print(f"\nSeconds from the start of the process, medians of {len(seeds)} seeds (each seed):\n")
    print("\n".join(lines))


def runs_of(setting: Setting, *, kept_in: Path | None) -> dict[str, dict[str, Any]]:
    """Return the figures of fastai's run and of both ways of vizsla.

    Args:
        setting: With the seed.
        kept_in: A JSON file; None keeps nothing.
    """
    settings = {"fastai": setting, "vizsla": setting, "recipe": replace(setting, epochs=0)}
    return {
        kind: kept_run(kind, chosen, kept_in=kept_in, needs="ends")
        for kind, chosen in settings.items()
    }


def row(
    name: str, setting: Setting, *, peers: Sequence[Reached], way: str, found: Sequence[Reached]
) -> str:
    """Return a row of the table.

    Args:
        name: Of the data.
        setting: Has the epochs.
        peers: When fastai was done, of each seed.
        way: One of ``WAYS``.
        found: When vizsla was as good, of each seed.
    """
    ratio = median(each.seconds for each in found) / median(each.seconds for each in peers)
    cells = [name, str(setting.epochs), _accuracies(peers), _seconds(peers)]
    cells += [WAYS[way], _accuracies(found), _seconds(found)]
    cells.append(f"{ratio:.2f}" if math.isfinite(ratio) else "not reached")
    return f"| {' | '.join(cells)} |"


def _shown(reached: Reached) -> str:
    when = f"in {reached.seconds:.1f} s" if math.isfinite(reached.seconds) else "at best"
    return f"{100 * reached.accuracy:.1f} % {when}"


def _accuracies(reached: Sequence[Reached]) -> str:
    percent = [100 * each.accuracy for each in reached]
    return f"{mean(percent):.1f} ({', '.join(f'{value:.1f}' for value in percent)})"


def _seconds(reached: Sequence[Reached]) -> str:
    each = [f"{one.seconds:.1f}" if math.isfinite(one.seconds) else "never" for one in reached]
    middle = median(one.seconds for one in reached)
    return f"{middle:.1f} ({', '.join(each)})" if math.isfinite(middle) else f"({', '.join(each)})"


if __name__ == "__main__":
    main()
