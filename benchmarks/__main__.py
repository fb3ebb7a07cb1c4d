"""Answer several questions one after another, each in its own process; without names all those for the CPU.

    python -m benchmarks [NAME ...] [--quick | --full] [--data FOLDER]

Together they take less than a quarter of an hour on two quiet cores, because most take one round where a question alone takes
three; --full gives them all their rounds. --data has sub-folders train and valid with a folder per class in each; without it
images are made up, and questions that need real ones are left out. --quick uses little data, to see that everything runs: its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import accuracy, audit, data, fixes, gpu, label_order, notebook, scale, speed
from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from benchmarks.measure import Command

MODULES = (data, speed, notebook, accuracy, gpu, audit, fixes, label_order, scale)
ONLY_BY_NAME = ("gpu", *audit.COMMANDS, *fixes.COMMANDS, *label_order.COMMANDS, *scale.COMMANDS)
"""They need CUDA, other packages, or images with labels."""


def main() -> int:
    """Answer the questions that were named, and return 1 where one failed."""
    known = {name: command for module in MODULES for name, command in module.COMMANDS.items()}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    listed = "\n".join(f"{name:16} {command.asks}" for name, command in known.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--data", type=Path, help="with train and valid (default: made-up images)")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="little data")
    extent.add_argument("--full", action="store_true", help="as many rounds as each takes alone")
    options = parser.parse_args()
    names: list[str] = options.names or [name for name in known if name not in ONLY_BY_NAME]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no question {unknown[0]!r}; there are {', '.join(known)}")
    failed: list[str] = []
    began = time.perf_counter()
    for name in names:
        print(f"\n== {name}: {known[name].asks} ==", flush=True)
        started = time.perf_counter()
        if subprocess.run(_command(name, known[name], options), cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"({name} took {time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\n(all of it took {time.perf_counter() - began:.0f} s)")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _command(name: str, command: Command, options: argparse.Namespace) -> list[str]:
    """Return the command line that asks one question."""
    (module,) = [module for module in MODULES if name in module.COMMANDS]
    words = [sys.executable, "-m", module.__name__]
    if len(module.COMMANDS) > 1:
        words.append(name)
    if options.data is not None:  # before the options: some of these take any number of words
        data = command.data or ("--data {folder}" if command.images else "")
        words += [word.format(folder=options.data.resolve()) for word in data.split()]
    if options.quick:
        return [*words, "--quick"]
    return words if options.full else [*words, *command.short.split()]


if __name__ == "__main__":
    sys.exit(main())
