"""Is a model of vizsla as good as fastai's, and how soon? Tasks are given as FOLDER:EPOCHS; several seeds, with 95 % intervals.

    python -m benchmarks.accuracy COMMAND --help

Same files, split, weights (efficientnet_lite0), sizes, batch size and augmentation (``peer.py``), a process per measurement, by turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from benchmarks.measure import (
    KEPT_JSON,
    WORKERS,
    Command,
    Figures,
    Kept,
    Option,
    answer,
    described,
    has_fastai,
    head,
    row,
    with_parts,
)
from benchmarks.peer import Setting, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STUDENT_T = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t by degrees of freedom."""


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean of at most ten values, one of each seed; nan for a single value."""
    freedom = len(values) - 1
    return STUDENT_T[freedom] * stdev(values) / math.sqrt(len(values)) if freedom else math.nan


def with_interval(values: Sequence[float]) -> str:
    """Return the mean of shares in percent with its interval, and the single values in brackets."""
    percent = [100 * value for value in values]
    each = ", ".join(f"{value:.1f}" for value in percent)
    return f"{mean(percent):.1f}{_margin(percent)} ({each})"


def _margin(percent: Sequence[float]) -> str:
    return "" if len(percent) < 2 else f" ± {half_width(percent):.1f}"


# --- Tasks and their runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training task with all its seeds.

    Attributes:
        name: Of the data.
        setting: Of the first seed.
        seeds: All of them.
        kept: Runs that are not repeated.
    """

    name: str
    setting: Setting
    seeds: list[int]
    kept: Kept

    def error(self, kind: str, seed: int, *, epochs: int | None = None, called: str = "") -> float:
        """Train, say how it went, and return the error of the last model."""
        run = self.run(kind, seed, epochs=epochs)
        errors = ", ".join(f"{100 * values[-1]:.1f}" for values in run["values"])
        shown = f"{self.name}, seed {seed}, {called or kind}: error {errors} %"
        print(f"{shown}; {run['total_seconds']:.0f} s", flush=True)
        return run["values"][-1][-1]

    def run(self, kind: str, seed: int, *, epochs: int | None = None, needs: str = "") -> Figures:
        """Return the figures of a run."""
        setting = replace(self.setting, seed=seed)
        setting = setting if epochs is None else replace(setting, epochs=epochs)
        key = {"kind": kind, "setting": asdict(setting)}
        return self.kept.figures(key, partial(measured, kind, setting), needs=needs)


def _answer_tasks(
    options: argparse.Namespace,
    compare: Callable[[Sequence[Task]], None],
    *,
    demo: Callable[[Path], Path | None] | None = None,
) -> None:
    """Compare on the tasks of the command line, on few made-up images with --quick, or on the demo's where none are given."""
    with tempfile.TemporaryDirectory() as made_in:
        pairs: list[tuple[Path, int]] = options.tasks
        if not pairs and options.quick:
            pairs = [(with_parts(None, made_in=Path(made_in), count=48), 1)]
        folder = demo(Path(made_in)) if demo is not None and not pairs else None
        pairs = pairs if folder is None else [(folder, 1)]
        if not pairs:
            print(
                "Errors are worth comparing on real images only. Give FOLDER:EPOCHS, such as dogscats:2."
            )
            return
        kept = Kept(options.json)
        seeds = options.seeds[:1] if options.quick else options.seeds
        tasks: list[Task] = []
        for folder, epochs in pairs:
            setting = Setting(
                folder=str(folder),
                epochs=1 if options.quick else epochs,
                size=64 if options.quick else options.size,
                presize=80 if options.quick else options.presize,
                batch_size=16 if options.quick else options.batch_size,
                workers=options.workers,
                groups=getattr(options, "groups", 2),
            )
            tasks.append(Task(name=folder.name, setting=setting, seeds=seeds, kept=kept))
        print(described("vizsla", "fastai", "torch", "timm"), flush=True)
        compare(tasks)


# --- Errors ----------------------------------------------------------------------------------------------------------


def parity(options: argparse.Namespace) -> None:
    """Compare the validation error of vizsla's and of fastai's fine_tune, all else equal.

    The interval of the difference is that of the seeds' differences (Student's t).
    """
    _answer_tasks(options, _compare_fine_tune)


def _compare_fine_tune(tasks: Sequence[Task]) -> None:
    libraries = ["vizsla", *(["fastai"] if has_fastai() else [])]
    lines = [head("data", "passes", "vizsla", "fastai", "vizsla - fastai")]
    for task in tasks:
        errors: dict[str, list[float]] = {library: [] for library in libraries}
        for seed in task.seeds:
            for library in libraries:
                errors[library].append(task.error(library, seed))
        cells = [with_interval(each) for each in errors.values()]
        if "fastai" in errors:
            pairs = zip(errors["vizsla"], errors["fastai"], strict=True)
            differences = [100 * (own - other) for own, other in pairs]
            cells.append(f"{mean(differences):+.1f}{_margin(differences)}")
        passes = task.setting.freeze_epochs + task.setting.epochs
        lines.append(row(task.name, str(passes), *cells, *[""] * (3 - len(cells))))
    print("\nValidation error in %, mean ± 95 % interval (each seed):\n")
    print("\n".join(lines))


HEAD_ONLY, SAME_PASSES, FINE_TUNE = "recipe, 1 pass", "recipe, same passes", "fastai"


def recipe(options: argparse.Namespace) -> None:
    """Compare the error of the recipe of `vizsla train` with that of fastai's fine_tune.

    The same number of passes over the images: fine_tune(N) makes 1 + N, the recipe one to fit the head on features and N end to
    end. What `vizsla train` does on a CPU unless told otherwise, the one pass alone, is in the table too.
    """
    _answer_tasks(options, _compare_recipe)


def _compare_recipe(tasks: Sequence[Task]) -> None:
    columns = [HEAD_ONLY, SAME_PASSES, *([FINE_TUNE] if has_fastai() else [])]
    lines = [head("data", "passes", *columns, "recipe / fastai")]
    for task in tasks:
        errors: dict[str, list[float]] = {column: [] for column in columns}
        for seed in task.seeds:
            for column in columns:
                kind = "fastai" if column == FINE_TUNE else "recipe"
                epochs = 0 if column == HEAD_ONLY else None
                errors[column].append(task.error(kind, seed, epochs=epochs, called=column))
        ratio = ""
        if FINE_TUNE in errors:
            ratio = f"{mean(errors[SAME_PASSES]) / max(mean(errors[FINE_TUNE]), 1e-9):.2f}"
        passes = task.setting.freeze_epochs + task.setting.epochs
        lines.append(row(task.name, str(passes), *map(with_interval, errors.values()), ratio))
    print("\nValidation error in %, mean ± 95 % interval (each seed):\n")
    print("\n".join(lines))


# --- Time ------------------------------------------------------------------------------------------------------------

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


def first_as_good(run: Figures, *, wanted: float) -> Reached:
    """Return when a run first had a validated model with an accuracy.

    Args:
        run: From ``peer.measured``: ``values`` with the error last, and ``ends``.
        wanted: Accuracy, a share.
    """
    accuracies = [1 - values[-1] for values in run["values"]]
    for accuracy, seconds in zip(accuracies, run["ends"], strict=True):
        # The end of a fit within the recipe is not known; its last line is that of the model it leaves.
        if accuracy >= wanted - 1e-6 and not math.isnan(seconds):
            return Reached(seconds=seconds, accuracy=accuracy)
    return Reached(seconds=math.inf, accuracy=max(accuracies))


def time_to_accuracy(options: argparse.Namespace) -> None:
    """Time how long until a model is as good as the one that fastai's fine_tune ends with.

    The clock starts with the process, so imports count, and stops when a validated model reaches the accuracy that fastai has at
    the end of fine_tune(N) with the same seed. vizsla gets there with the same fine_tune(N), after whichever epoch is the first
    to be as good, and with the recipe of `vizsla train`: a head on features that are computed once. What fastai's process spends
    on being handed the split is not counted. Without a folder the images are 600 solar cells, if the package elpv-dataset is
    installed (the extra demo).
    """
    _answer_tasks(options, _compare_times, demo=solar_cells)


def _compare_times(tasks: Sequence[Task]) -> None:
    if not has_fastai():
        return
    names = ["data", "`fine_tune`", "fastai: accuracy, %", "fastai, s"]
    lines = [head(*names, "vizsla", "accuracy, %", "s", "vizsla / fastai")]
    for task in tasks:
        peers: list[Reached] = []
        own: dict[str, list[Reached]] = {way: [] for way in WAYS}
        for seed in task.seeds:
            peer = task.run("fastai", seed, needs="ends")
            wanted = 1 - peer["values"][-1][-1]
            peers.append(Reached(seconds=peer["ends"][-1], accuracy=wanted))
            for way, found in own.items():
                run = task.run(way, seed, epochs=0 if way == "recipe" else None, needs="ends")
                found.append(first_as_good(run, wanted=wanted))
            figures = [f"{way} {_shown(found[-1])}" for way, found in own.items()]
            print(
                f"{task.name}, seed {seed}: fastai {_shown(peers[-1])}; {'; '.join(figures)}",
                flush=True,
            )
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
    """Return a folder with ``train`` and ``valid`` of links to real images, two classes of solar cells; None without them.

    The images are the first ones of a split with seed 0.
    """
    if importlib.util.find_spec("elpv_dataset") is None:
        return None
    from vizsla.data.table.demo_data import solar_cells as all_solar_cells

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


def _options(*, size: int, presize: int) -> dict[str, Option]:
    return {
        "tasks": {
            "positional": True,
            "nargs": "*",
            "type": folder_and_epochs,
            "metavar": "FOLDER:EPOCHS",
            "help": "a folder with train and valid, or with images called class_number.jpg; epochs of fine_tune",
        },
        "seeds": {"nargs": "+", "type": int, "default": [0, 1, 2]},
        "size": {"default": size, "help": "side that the network sees"},
        "presize": {"default": presize, "help": "side before augmentation"},
        "batch_size": {"default": 32},
        "workers": WORKERS,
        "json": KEPT_JSON,
    }


COMMANDS = {
    "time-to-accuracy": Command(
        asks="How long from a cold start to the accuracy of fastai's fine_tune?",
        run=time_to_accuracy,
        options=_options(size=128, presize=160),
        short="--seeds 0",
        data="{folder}:2",
    ),
    "parity": Command(
        asks="Is the error of fine_tune that of fastai's? (needs folders of images)",
        run=parity,
        options=_options(size=128, presize=160)
        | {"groups": {"default": 2, "choices": (2, 3), "help": "parameter groups of fastai"}},
        short="--seeds 0",
        data="{folder}:2",
    ),
    "recipe": Command(
        asks="Is the error of vizsla train below that of fastai's fine_tune? (needs folders)",
        run=recipe,
        options=_options(size=224, presize=291),
        short="--seeds 0",
        data="{folder}:2",
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
