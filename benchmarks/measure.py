"""Measure one thing in a process of its own, by turns with others, and print the figures as a table.

Everything that the benchmarks share: the process per measurement and its memory, turns, tables, options, images. Nothing heavy is
imported here: pages of libraries that a parent shares with its child would be missing in the child's memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
NUM_IMAGES = 600
_SECONDS_BETWEEN_LOOKS = 0.5
"""Looking at 3 GB takes 30 ms, in which that process waits for its memory."""

Figures = dict[str, Any]
Kind = TypeVar("Kind")


# --- A process per measurement ---------------------------------------------------------------------------------------


def in_own_process(function: str, **arguments: Any) -> Figures:
    """Call a function in a fresh process.

    Args:
        function: ``"module:function"`` of this folder. It returns a dictionary that JSON can hold, or None.
        arguments: Of the function; JSON must hold them too.

    Returns:
        What the function returned, with ``began`` (of the process, in seconds since 1970), its wall time ``total_seconds`` and the
        ``peak_bytes`` of the process with all its children.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.measure", function]
    began, started = time.time(), time.perf_counter()
    with (
        subprocess.Popen(
            [*command, json.dumps(arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as child,
        MemoryWatch(child.pid) as watch,
    ):
        printed, _ = child.communicate()
    if child.returncode != 0:
        raise SystemExit(
            f"{function} failed with exit code {child.returncode}. Its arguments: {arguments}"
        )
    figures: Figures = json.loads(printed.strip().splitlines()[-1])
    # The parent looks now and then; what was taken last it may miss.
    peak_bytes = max(watch.peak_bytes, figures.pop("end_bytes"))
    total_seconds = time.perf_counter() - started
    return figures | {"began": began, "total_seconds": total_seconds, "peak_bytes": peak_bytes}


def main() -> None:
    """Call a function as ``in_own_process`` asks, and print its figures as one line of JSON."""
    module, _, name = sys.argv[1].partition(":")
    figures = getattr(import_module(f"benchmarks.{module}"), name)(**json.loads(sys.argv[2]))
    print(json.dumps((figures or {}) | {"end_bytes": tree_bytes(os.getpid())}))


class MemoryWatch:
    """Looks twice a second at how much memory a process and all its children hold, and remembers the most.

    It counts the proportional set size: a page that n processes share counts as 1/n for each, so the sum over the tree is
    what the tree takes from the machine. Linux only; elsewhere ``peak_bytes`` stays 0.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(self.pid))


def tree_bytes(pid: int, *, own: bool = False) -> int:
    """Return the proportional set size of a process and all its children, in bytes; 0 where the system does not say.

    Args:
        pid: The process.
        own: Without the pages of files, such as libraries: their part changes whenever another process that uses the same
            library starts or ends.
    """
    line = "Pss_Anon:" if own else "Pss:"
    return sum(_process_bytes(each, line=line) for each in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


def _process_bytes(pid: int, *, line: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(each.split()[1]) * 1024 for each in lines if each.startswith(line))


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that ended, all cores together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# --- Turns, and measurements that are kept ---------------------------------------------------------------------------


def has_fastai() -> bool:
    """Return whether fastai is installed, and say so where it is not."""
    if importlib.util.find_spec("fastai") is not None:
        return True
    print("fastai is not installed, so vizsla is measured alone: pip install fastai")
    return False


def installed(kinds: Iterable[str]) -> list[str]:
    """Return the kinds of measurement that are possible here: those of fastai need fastai."""
    wanted = list(kinds)
    if not any(kind.startswith("fastai") for kind in wanted) or has_fastai():
        return wanted
    return [kind for kind in wanted if not kind.startswith("fastai")]


def by_turns(
    kinds: Sequence[Kind],
    *,
    rounds: int,
    measure: Callable[[Kind, int], Figures],
    told: Callable[[Kind, Figures], str] | None = None,
    json_file: Path | None = None,
) -> dict[Kind, list[Figures]]:
    """Measure everything once in each round: other work on the machine then meets all of them.

    Args:
        kinds: What is measured.
        rounds: How many.
        measure: Takes a kind and the number of the round, from 1, and returns figures.
        told: Says in words what was measured, which is printed at once; None prints nothing.
        json_file: Every single measurement is written there in the end.
    """
    runs: dict[Kind, list[Figures]] = {kind: [] for kind in kinds}
    for number in range(1, rounds + 1):
        for kind in kinds:
            figures = measure(kind, number)
            runs[kind].append(figures)
            if told is not None:
                print(f"round {number}, {told(kind, figures)}", flush=True)
    if json_file is not None:
        json_file.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    return runs


class Kept:
    """Measurements in a JSON file; those that are there are not repeated.

    Args:
        file: The file; None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._runs: list[dict[str, Any]] = []
        if file is not None and file.is_file():
            self._runs = json.loads(file.read_text(encoding="utf-8"))

    def figures(
        self, key: dict[str, Any], measure: Callable[[], Figures], *, needs: str = ""
    ) -> Figures:
        """Return kept figures, or measure and keep them.

        Args:
            key: Names the measurement.
            measure: Measures it.
            needs: A figure that is used; a run of an older version that lacks it is repeated.
        """
        for run in self._runs:
            is_it = all(name in run and run[name] == value for name, value in key.items())
            if is_it and (not needs or needs in run["figures"]):
                return run["figures"]
        figures = measure()
        self._runs.append(key | {"figures": figures})
        if self._file is not None:
            text = json.dumps(self._runs, indent=1) + "\n"
            self._file.write_text(text, encoding="utf-8")
        return figures


# --- Tables ----------------------------------------------------------------------------------------------------------


def described(*packages: str) -> str:
    """Return the machine and the versions of some packages in one line; packages that are not installed are left out."""
    versions: list[str] = []
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = platform.python_version()
    return f"{_processor()}, {os.cpu_count()} cores{load}; Python {python}, {', '.join(versions)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def with_spread(values: Sequence[float], *, digits: int = 0) -> str:
    """Return the median and, in brackets, the smallest and the largest value; nothing of no values."""
    if not values:
        return ""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def head(*names: str) -> str:
    """Return the head of a Markdown table, the first column to the left."""
    return f"{row(*names)}\n|---|" + "---:|" * (len(names) - 1)


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A row of a table of comparison.

    Attributes:
        name: With its unit.
        figure: Takes the figures of a run; one value or several.
        digits: After the point.
    """

    name: str
    figure: Callable[[Figures], float | list[float]]
    digits: int = 2


def comparison(
    runs: Mapping[str, Sequence[Figures]],
    measures: Iterable[Measure],
    *,
    ratios: Iterable[tuple[str, str]] = (),
    digits: int = 2,
) -> str:
    """Return a Markdown table: medians over the rounds, smallest and largest in brackets, ratios of medians.

    Args:
        runs: Figures of every round, by what was measured.
        measures: The rows.
        ratios: (above, below), what is divided by what; pairs that were not measured are left out.
        digits: Of the ratios.
    """
    pairs = [pair for pair in ratios if runs.keys() >= set(pair)]
    lines = [head("", *runs, *(f"{above} / {below}" for above, below in pairs))]
    for measure in measures:
        values: dict[str, list[float]] = {}
        for kind, each in runs.items():
            found = [measure.figure(run) for run in each]
            flat = [one if isinstance(one, list) else [one] for one in found]
            values[kind] = [value for one in flat for value in one]
        cells = [with_spread(each, digits=measure.digits) for each in values.values()]
        for above, below in pairs:
            both = [statistics.median(values[kind]) for kind in (above, below) if values[kind]]
            cells.append(f"{both[0] / both[1]:.{digits}f}" if len(both) == 2 else "")
        lines.append(row(measure.name, *cells))
    return "\n".join(lines)


# --- The command line ------------------------------------------------------------------------------------------------

Option = dict[str, Any]
DATA: Option = {"type": Path, "help": "with train and valid (default: made-up images)"}
ANY_DATA: Option = {"type": Path, "help": "a folder for each class (default: made-up images)"}
JSON: Option = {"type": Path, "help": "also write every single measurement there"}
KEPT_JSON: Option = {
    "type": Path,
    "help": "every measurement is written there, and not repeated if it is there",
}


def _auto_or_number(word: str) -> int | str:
    return word if word == "auto" else int(word)


WORKERS: Option = {
    "default": "auto",
    "type": _auto_or_number,
    "help": "threads of vizsla, processes of fastai (default: each library's own choice)",
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A question: how it is asked, and who answers it.

    Attributes:
        asks: What it answers.
        run: Measures and prints; its docstring is the help.
        options: What ``argparse`` is told of each option, by name, and whether it is "positional"; ``--quick`` is one of all.
        short: What it is told where all questions are asked, so that together they do not take long.
        data: How it is told a folder of images; empty where it takes none.
    """

    asks: str
    run: Callable[[argparse.Namespace], int | None]
    options: dict[str, Option] = field(default_factory=dict)
    short: str = ""
    data: str = ""


def answer(commands: Mapping[str, Command], arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names and return the exit code; a single one needs no name."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(commands) == 1:
        ((_, only),) = commands.items()
        _add_options(parser, only)
    else:
        parsers = parser.add_subparsers(required=True, metavar="COMMAND")
        for name, command in commands.items():
            style = argparse.RawDescriptionHelpFormatter
            _add_options(
                parsers.add_parser(name, help=command.asks, formatter_class=style), command
            )
    options = parser.parse_args(arguments)
    return options.command.run(options) or 0


def _add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = "\n".join(line.strip() for line in (command.run.__doc__ or "").split("\n"))
    parser.set_defaults(command=command)
    for name, option in command.options.items():
        known = dict(option)
        default = known.get("default")
        if "type" not in known and "action" not in known and default is not None:
            known["type"] = type(default)
        flag = name if known.pop("positional", False) else f"--{name.replace('_', '-')}"
        parser.add_argument(flag, **known)
    parser.add_argument("--quick", action="store_true", help="little data, to see that it runs")


# --- Images ----------------------------------------------------------------------------------------------------------


def images_or_made_up(folder: Path | None, *, made_in: Path, count: int = NUM_IMAGES) -> Path:
    """Return a folder of images: the one given, or one that is filled with made-up photographs of two classes, 500 x 375."""
    if folder is not None:
        return folder.resolve()
    made_in.mkdir(parents=True, exist_ok=True)
    in_own_process("measure:make_up", folder=str(made_in), count=count)
    return made_in


def with_parts(folder: Path | None, *, made_in: Path, count: int = NUM_IMAGES) -> Path:
    """Return a folder with ``train`` and ``valid``: the one given, or one with made-up photographs, a third as many to validate."""
    if folder is not None:
        return folder.resolve()
    images_or_made_up(None, made_in=made_in / "train", count=count)
    images_or_made_up(None, made_in=made_in / "valid", count=count // 3)
    return made_in


def make_up(folder: str, count: int) -> None:
    """Fill a folder with made-up photographs."""
    from vizsla.bench.made_up import make_photographs

    make_photographs(Path(folder), number=count)


if __name__ == "__main__":
    main()
