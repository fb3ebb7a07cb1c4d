"""Nothing in, a table out: what importing vizsla, its notebook surfaces and fastai takes in a fresh process.

python -m benchmarks.imports --rounds 5
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.machine import described, with_spread

if TYPE_CHECKING:
    from collections.abc import Sequence

STATEMENTS = {
    "import torch": "torch",
    "import vizsla": "vizsla",
    "from vizsla.all import *": "vizsla.all",
    "from vizsla.classic import *": "vizsla.classic",
    "from fastai.vision.all import *": "fastai",
}
_PROGRAM = """
import json, resource, time
started, cpu = time.perf_counter(), time.process_time()
exec({statement!r})
taken = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps([*taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args(arguments)
    statements = [
        statement for statement, module in STATEMENTS.items() if _is_there(module.partition(".")[0])
    ]
    figures: dict[str, list[list[float]]] = {statement: [] for statement in statements}
    rounds = 1 if options.quick else options.rounds
    for number in range(rounds + 1):  # The first reads the files from the disk and does not count.
        for statement in statements:
            taken = in_fresh_process(statement)
            if number:
                figures[statement].append(taken)
    print(described("vizsla", "fastai", "torch"))
    print(f"\nMedian of {rounds} fresh processes (fastest-slowest), files in the page cache:\n")
    print("| | seconds | CPU seconds | peak memory, MB | seconds beyond torch |")
    print("|---|---:|---:|---:|---:|")
    base = median(taken[0] for taken in figures["import torch"])
    for statement in statements:
        wall, cpu, memory = zip(*figures[statement], strict=True)
        cells = [
            f"`{statement}`",
            with_spread(wall, digits=2),
            f"{median(cpu):.2f}",
            f"{median(memory) / 1e6:,.0f}",
            f"{median(wall) - base:+.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


def in_fresh_process(statement: str) -> list[float]:
    """Return wall seconds, processor seconds and peak bytes of a statement in a process of its own."""
    program = _PROGRAM.format(statement=statement)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    main()
