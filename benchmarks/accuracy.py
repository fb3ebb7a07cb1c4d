"""Is a model of vizsla as good as fastai's, and how soon? Tasks are given as FOLDER:EPOCHS; several seeds, with 95 % intervals.

    python -m benchmarks.accuracy COMMAND --help

Same files, split, weights (efficientnet_lite0), sizes, batch size and augmentation (``peer.py``), a process per measurement, by turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import (
    KEPT_JSON,
    WORKERS,
    Command,
    Figures,
    Kept,
    Option,
    answer,
    head,
    installed,
    row,
    with_parts,
)
from benchmarks.peer import Setting, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TIMES_AS_LONG = 3
"""Of the epochs, where fastai is trained with small batches."""

STUDENT_T = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t by degrees of freedom."""


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean of at most ten values, one per seed; nan for a single value."""
    freedom = len(values) - 1
    return STUDENT_T[freedom] * stdev(values) / math.sqrt(len(values)) if freedom else math.nan


def _with_margin(percent: Sequence[float], form: str = ".1f") -> str:
    margin = "" if len(percent) < 2 else f" ± {half_width(percent):.1f}"
    return f"{mean(percent):{form}}{margin}"


def with_interval(values: Sequence[float]) -> str:
    """Return the mean of shares in percent with its interval, and the single values in brackets."""
    percent = [100 * value for value in values]
    return f"{_with_margin(percent)} ({', '.join(f'{value:.1f}' for value in percent)})"


# --- Tasks and their runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training task with all its seeds.

    Attributes:
        name: Name of the data.
        setting: That of the first seed.
        seeds: All of them.
        kept: Runs that are not repeated.
    """

    name: str
    setting: Setting
    seeds: list[int]
    kept: Kept

    @property
    def passes(self) -> str:
        """How often training sees the images."""
        return str(self.setting.freeze_epochs + self.setting.epochs)

    def run(
        self, kind: str, seed: int, *, needs: str = "", times: int = 1, **changes: int
    ) -> Figures:
        """Return the figures of a run, in a setting with changes and ``times`` as many epochs."""
        setting = replace(self.setting, seed=seed, **changes)
        setting = replace(setting, epochs=times * setting.epochs)
        key = {"kind": kind, "setting": asdict(setting)}
        return self.kept.figures(key, partial(measured, kind, setting), needs=needs)


def _tasks(
    options: argparse.Namespace, *, demo: Callable[[Path], Path | None] | None = None
) -> list[Task]:
    """Return the tasks of the command line; without any, few made-up images with --quick, or those of the demo."""
    pairs: list[tuple[Path, int]] = options.tasks
    if not pairs and options.quick:
        pairs = [(with_parts(None, made_in=options.made_in / "made up", count=48), 1)]
    if not pairs and demo is not None and (folder := demo(options.made_in)) is not None:
        pairs = [(folder, 1)]
    if not pairs:
        print("Errors are only comparable on real images. Give FOLDER:EPOCHS, such as dogscats:2.")
    kept = Kept(options.json)
    small = {"size": 64, "presize": 80, "batch_size": 16}
    sizes = small if options.quick else {name: getattr(options, name) for name in small}
    return [
        Task(
            name=folder.name,
            setting=Setting(
                folder=str(folder),
                epochs=1 if options.quick else epochs,
                workers=options.workers,
                groups=getattr(options, "groups", 2),
                **sizes,
            ),
            seeds=options.seeds[:1] if options.quick else options.seeds,
            kept=kept,
        )
        for folder, epochs in pairs
    ]


# --- Errors ----------------------------------------------------------------------------------------------------------

Errors = dict[str, list[float]]
Columns = dict[str, tuple[str, dict[str, int]]]
"""By their titles: kinds of training, and what is changed in the setting."""


def parity(options: argparse.Namespace) -> None:
    """Compare the validation error of vizsla's and of fastai's fine_tune, all else equal.

    The interval of the difference is that of the seeds' differences (Student's t).
    """

    def difference(errors: Errors) -> str:
        pairs = zip(errors["vizsla"], errors["fastai"], strict=True)
        return _with_margin([100 * (own - other) for own, other in pairs], "+.1f")

    columns: Columns = {"vizsla": ("vizsla", {}), "fastai": ("fastai", {})}
    _compare_errors(_tasks(options), columns, "vizsla - fastai", difference)


def recipe(options: argparse.Namespace) -> None:
    """Compare the error of the recipe of `vizsla train` with that of fastai's fine_tune.

    The same number of passes over the images: fine_tune(N) makes 1 + N, the recipe one to fit the head on features and N end to
    end. What `vizsla train` does by default on a CPU, the one pass alone, is in the table too. In small sets fastai's head has few
    steps at batch 32: with --small-batches 16 8 it is trained with these too, for three times the epochs.
    """
    columns: Columns = {
        "recipe, 1 pass": ("recipe", {"epochs": 0}),
        "recipe, same passes": ("recipe", {}),
        "fastai": ("fastai", {}),
    }
    for size in options.small_batches:
        columns[f"fastai, batch {size}, {TIMES_AS_LONG} x epochs"] = (
            "fastai",
            {"batch_size": size, "times": TIMES_AS_LONG},
        )

    def ratio(errors: Errors) -> str:
        best = min(mean(values) for name, values in errors.items() if name.startswith("fastai"))
        return f"{mean(errors['recipe, same passes']) / max(best, 1e-9):.2f}"

    _compare_errors(_tasks(options), columns, "recipe / best of fastai", ratio)


def _compare_errors(
    tasks: Sequence[Task],
    columns: Columns,
    last: str,
    compare: Callable[[Errors], str],
) -> None:
    """Print the errors of each column, a kind of training and its epochs, and in the last column a comparison with fastai."""
    if not tasks:
        return
    names = installed(columns)
    lines = [head("data", "passes", *names, *([last] if "fastai" in names else []))]
    for task in tasks:
        errors: Errors = {name: [] for name in names}
        for seed in task.seeds:
            for name in names:
                kind, changes = columns[name]
                run = task.run(kind, seed, **changes)
                shown = ", ".join(f"{100 * values[-1]:.1f}" for values in run["values"])
                seconds = f"{run['total_seconds']:.0f} s"
                print(f"{task.name}, seed {seed}, {name}: error {shown} %; {seconds}", flush=True)
                errors[name].append(run["values"][-1][-1])
        cells = [compare(errors)] if "fastai" in names else []
        lines.append(row(task.name, task.passes, *map(with_interval, errors.values()), *cells))
    print("\nValidation error in %, mean ± 95 % interval (each seed):\n")
    print("\n".join(lines))


# --- Time ------------------------------------------------------------------------------------------------------------

WAYS = {"vizsla": "vizsla, the same `fine_tune`", "recipe": "vizsla, its recipe"}


class Reached(NamedTuple):
    """When a run was good enough, in seconds since the process started or infinite, and the accuracy then or at best."""

    seconds: float
    accuracy: float


def first_as_good(run: Figures, *, wanted: float) -> Reached:
    """Return when a run of ``peer.measured`` first had a validated model with an accuracy, 0 to 1."""
    accuracies = [1 - values[-1] for values in run["values"]]
    for accuracy, seconds in zip(accuracies, run["ends"], strict=True):
        # The end of a fit within the recipe is not known; its last line is that of the final model.
        if accuracy >= wanted - 1e-6 and not math.isnan(seconds):
            return Reached(seconds, accuracy)
    return Reached(math.inf, max(accuracies))


def time_to_accuracy(options: argparse.Namespace) -> None:
    """Time how long until a model is as good as the one that fastai's fine_tune ends with.

    The clock starts with the process, so imports count, and stops when a validated model reaches the accuracy that fastai has at
    the end of fine_tune(N) with the same seed. vizsla gets there with the same fine_tune(N), after the first epoch that is as
    good, and with the recipe of `vizsla train`: a head on features that are computed once. The time that fastai's process spends
    on being handed the split is not counted. Without a folder the images are 600 solar cells, if the package elpv-dataset is
    installed (the extra demo).
    """
    tasks = _tasks(options, demo=solar_cells)
    if not tasks or installed(["fastai"]) == []:
        return
    names = ["data", "`fine_tune`", "fastai: accuracy, %", "fastai, s"]
    lines = [head(*names, "vizsla", "accuracy, %", "s", "vizsla / fastai")]
    for task in tasks:
        peers: list[Reached] = []
        own: dict[str, list[Reached]] = {way: [] for way in WAYS}
        for seed in task.seeds:
            peer = task.run("fastai", seed, needs="ends")
            wanted = 1 - peer["values"][-1][-1]
            peers.append(Reached(peer["ends"][-1], wanted))
            for way, found in own.items():
                changes = {"epochs": 0} if way == "recipe" else {}
                run = task.run(way, seed, needs="ends", **changes)
                found.append(first_as_good(run, wanted=wanted))
            figures = [
                f"{way} {_shown(each[-1])}" for way, each in {"fastai": peers, **own}.items()
            ]
            print(f"{task.name}, seed {seed}: {'; '.join(figures)}", flush=True)
        for way, found in own.items():
            ratio = median(each.seconds for each in found) / median(each.seconds for each in peers)
            cells = [task.name, str(task.setting.epochs), _accuracies(peers), _seconds(peers)]
            cells += [WAYS[way], _accuracies(found), _seconds(found)]
            lines.append(row(*cells, f"{ratio:.2f}" if math.isfinite(ratio) else "not reached"))
    num_seeds = len(tasks[0].seeds)
    print(f"\nSeconds from the start of the process, medians of {num_seeds} seeds (each seed):\n")
    print("\n".join(lines))


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


def solar_cells(made_in: Path, *, num_train: int = 400, num_valid: int = 200) -> Path | None:
    """Return a folder with links to solar cells of two classes, the first ones of a split with seed 0; None without them."""
    if importlib.util.find_spec("elpv_dataset") is None:
        return None
    from vizsla.data import solar_cells as all_solar_cells

    table = all_solar_cells(seed=0)
    folder = made_in / "solar cells"
    parts = (("train", table.train_rows[:num_train]), ("valid", table.valid_rows[:num_valid]))
    for part, rows in parts:
        for number in rows.tolist():
            link = folder / part / table.label(number) / table.paths[number].name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(table.paths[number].resolve())
    return folder


# --- The command line ------------------------------------------------------------------------------------------------


def folder_and_epochs(text: str) -> tuple[Path, int]:
    """Return the folder and the epochs of ``FOLDER:EPOCHS``."""
    folder, _, epochs = text.rpartition(":")
    if not folder or not epochs.isdigit():
        raise argparse.ArgumentTypeError(f"it is FOLDER:EPOCHS, such as dogscats:2, not {text!r}")
    return Path(folder).resolve(), int(epochs)


def _command(
    asks: str, run: Callable[[argparse.Namespace], None], *, size: int, **more: Option
) -> Command:
    options: dict[str, Option] = {
        "tasks": {
            "positional": True,
            "nargs": "*",
            "type": folder_and_epochs,
            "metavar": "FOLDER:EPOCHS",
            "help": "a folder with train and valid, or with images called class_number.jpg; epochs of fine_tune",
        },
        "seeds": {"nargs": "+", "type": int, "default": [0, 1, 2]},
        "size": {"default": size, "help": "side that the network sees"},
        "presize": {"default": {128: 160, 224: 291}[size], "help": "side before augmentation"},
        "batch_size": 32,
        "workers": WORKERS,
        "json": KEPT_JSON,
    }
    return Command(asks=asks, run=run, options=options | more, short="--seeds 0", data="{folder}:2")


COMMANDS = {
    "time-to-accuracy": _command(
        "How long from a cold start to the accuracy of fastai's fine_tune?",
        time_to_accuracy,
        size=128,
    ),
    "parity": _command(
        "Is the error of fine_tune that of fastai's? (needs folders of images)",
        parity,
        size=128,
        groups={"default": 2, "choices": (2, 3), "help": "parameter groups of fastai"},
    ),
    "recipe": _command(
        "Is the error of vizsla train below that of fastai's fine_tune? (needs folders)",
        recipe,
        size=224,
        small_batches={
            "nargs": "*",
            "type": int,
            "default": [],
            "help": "batch sizes with which fastai trains three times as long, such as 16 8",
        },
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
