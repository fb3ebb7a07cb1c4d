"""Measure one thing in its own process, by turns with others, and print the figures as a table.

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
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
NUM_IMAGES, QUICK_IMAGES = 600, 64
_SECONDS_BETWEEN_LOOKS = 0.5
"""Each look at 3 GB takes 30 ms, in which that process waits for its memory."""

Figures = dict[str, Any]
Kind = TypeVar("Kind")


# --- A process per measurement ---------------------------------------------------------------------------------------


def in_own_process(function: str, **arguments: Any) -> Figures:
    """Call ``"module:function"`` of this folder in a fresh process, with arguments that JSON can hold.

    Returns:
        The dictionary that the function returned (or none), with ``began`` (of the process, in seconds since 1970), its elapsed time
        ``total_seconds`` and the ``peak_bytes`` of the process with all its children.
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
    # The parent looks only now and then, and may miss what was taken last.
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

    It counts the proportional set size: a page that n processes share counts as 1/n for each, so the sum over the tree is what the
    tree takes from the machine. Linux only; elsewhere ``peak_bytes`` stays 0.
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

    ``own`` leaves out the pages of files, such as libraries: their part changes whenever another process that uses the same
    library starts or ends.
    """
    line = "Pss_Anon:" if own else "Pss:"
    found, waiting = 0, [pid]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        with suppress(OSError):
            lines = (process / "smaps_rollup").read_text().splitlines()
            found += sum(int(each.split()[1]) * 1024 for each in lines if each.startswith(line))
        for task in process.glob("task/*/children"):
            with suppress(OSError):
                waiting += map(int, task.read_text().split())
    return found


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children, all cores together."""
    return sum(os.times()[:4])


# --- Turns, and measurements that are kept ---------------------------------------------------------------------------


def installed(kinds: Iterable[str]) -> list[str]:
    """Return the kinds of measurement that are possible here, and say so where fastai is missing."""
    wanted = list(kinds)
    own = [kind for kind in wanted if not kind.startswith("fastai")]
    if own == wanted or importlib.util.find_spec("fastai") is not None:
        return wanted
    print("fastai is not installed, so vizsla is measured alone: pip install fastai")
    return own


def by_turns(
    kinds: Sequence[Kind],
    *,
    rounds: int,
    measure: Callable[[Kind, int], Figures],
    told: Callable[[Kind, Figures], str] | None = None,
    json_file: Path | None = None,
) -> dict[Kind, list[Figures]]:
    """Measure everything once in each round, so that other work on the machine meets all of it.

    Args:
        kinds: What is measured.
        rounds: How many.
        measure: Takes a kind and the number of the round, from 1, and returns figures.
        told: Turns figures into a text that is printed at once; None prints nothing.
        json_file: Gets every single measurement at the end.
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
    """Measurements in a JSON file, which are not repeated; None keeps nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._runs: list[dict[str, Any]] = []
        if file is not None and file.is_file():
            self._runs = json.loads(file.read_text(encoding="utf-8"))

    def figures(
        self, key: dict[str, Any], measure: Callable[[], Figures], *, needs: str = ""
    ) -> Figures:
        """Return the kept figures of a measurement, or measure and keep them.

        ``needs`` names a figure that is used: a run of an older version without it is repeated.
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
    """Return the machine and the versions of the installed ones of some packages, in one line."""
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
    """Return the median, with the smallest and the largest value in brackets; empty for no values."""
    if not values:
        return ""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def head(*names: str) -> str:
    """Return the head of a Markdown table, the first column aligned left."""
    return f"{row(*names)}\n|---|" + "---:|" * (len(names) - 1)


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


class Measure(NamedTuple):
    """A row of a table of comparison: its name with unit, what takes the value or values from the figures of a run, digits."""

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
        ratios: (dividend, divisor); pairs that were not measured are left out.
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

Option = Any
"""Of a command: its default, or what ``argparse`` takes."""

DATA: Option = {"type": Path, "help": "with train and valid (default: made-up images)"}
ANY_DATA: Option = {"type": Path, "help": "a folder for each class (default: made-up images)"}
JSON: Option = {"type": Path, "help": "also write every single measurement there"}
KEPT_JSON: Option = {
    "type": Path,
    "help": "keeps every measurement; those in it are not repeated",
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
        run: Measures and prints; its docstring is the help. ``options.folder`` has the images, ``options.made_in`` is a
            temporary folder.
        options: Each ``Option`` by name; all commands have ``--quick``.
        packages: Their versions are printed first.
        images: ``"any"``: it takes ``--data``, a folder for each class; ``"parts"``: one with train and valid. Without
            ``--data`` images are made up.
        short: Its options where all questions are asked, so that together they do not take long.
        data: How it is told a folder of images, if not by ``images``.
    """

    asks: str
    run: Callable[[argparse.Namespace], int | None]
    options: dict[str, Option] = field(default_factory=dict)
    packages: tuple[str, ...] = ("vizsla", "fastai", "torch", "timm")
    images: str = ""
    short: str = ""
    data: str = ""


def answer(commands: Mapping[str, Command], arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names and return the exit code; a single one needs no name."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(formatter_class=style)
    parsers = parser.add_subparsers(required=True, metavar="COMMAND") if len(commands) > 1 else None
    for name, command in commands.items():
        own = parser
        if parsers is not None:
            own = parsers.add_parser(name, help=command.asks, formatter_class=style)
        _add_options(own, command)
    options = parser.parse_args(arguments)
    command = options.command
    if options.quick and hasattr(options, "rounds"):
        options.rounds = 1
    print(described(*command.packages), flush=True)
    with tempfile.TemporaryDirectory() as made_in:
        options.made_in = Path(made_in)
        if command.images:
            make = with_parts if command.images == "parts" else images_or_made_up
            count = QUICK_IMAGES if options.quick else NUM_IMAGES
            options.folder = make(options.data, made_in=options.made_in / "made up", count=count)
        return command.run(options) or 0


def one_of(*choices: str) -> Option:
    """Return an option that takes one of some words, by default the first."""
    return {"default": choices[0], "choices": choices}


def several(choices: Sequence[str], default: Sequence[str] | None = None) -> Option:
    """Return an option that takes several of some words, by default all."""
    known = list(choices)
    chosen = known if default is None else list(default)
    return {"nargs": "+", "choices": known, "default": chosen, "type": str}


def _add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = "\n".join(line.strip() for line in (command.run.__doc__ or "").split("\n"))
    parser.set_defaults(command=command)
    data = {"any": {"data": ANY_DATA}, "parts": {"data": DATA}}.get(command.images, {})
    for name, option in (data | command.options).items():
        known = dict(option) if isinstance(option, dict) else {"default": option}
        default = known.get("default")
        if "type" not in known and "action" not in known and default is not None:
            known["type"] = type(default)
        flag = name if known.pop("positional", False) else f"--{name.replace('_', '-')}"
        parser.add_argument(flag, **known)
    parser.add_argument("--quick", action="store_true", help="little data, to see that it runs")


# --- Images ----------------------------------------------------------------------------------------------------------


def images_or_made_up(folder: Path | None, *, made_in: Path, count: int = NUM_IMAGES) -> Path:
    """Return the given folder, or one that is filled with made-up photographs of two classes, 500 x 375."""
    if folder is not None:
        return folder.resolve()
    made_in.mkdir(parents=True, exist_ok=True)
    in_own_process("measure:make_up", folder=str(made_in), count=count)
    return made_in


def with_parts(folder: Path | None, *, made_in: Path, count: int = NUM_IMAGES) -> Path:
    """Return the given folder, or one with made-up photographs in ``train``, and a third as many in ``valid``."""
    if folder is not None:
        return folder.resolve()
    images_or_made_up(None, made_in=made_in / "train", count=count)
    images_or_made_up(None, made_in=made_in / "valid", count=count // 3)
    return made_in


def make_up(folder: str, count: int) -> None:
    """Fill a folder with made-up photographs."""
    from vizsla.bench import make_photographs

    make_photographs(Path(folder), number=count)


if __name__ == "__main__":
    main()
