"""Nothing in, how long many files in one folder take to list out, by the clock and in processor time.

python -m benchmarks.listing [--files 50000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import described
from vizsla.data.table.sources import get_image_files

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the fastest round.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2,000 files, one round")
    options = parser.parse_args(arguments)
    if options.quick:
        options.files, options.rounds = 2_000, 1
    print(described("vizsla"))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.files):
            (Path(folder) / f"picture {number:06d}.jpg").touch()
        walls: list[float] = []
        processors: list[float] = []
        for _ in range(options.rounds):
            wall, processor = time.perf_counter(), time.process_time()
            found = len(get_image_files(folder))
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
            if found != options.files:
                raise SystemExit(f"{found:,} of {options.files:,} files were found")
    print(
        f"{options.files:,} files in one folder: {min(walls):.2f} s by the clock ({max(walls):.2f} s at the slowest), "
        f"{min(processors):.2f} s of processor time"
    )


if __name__ == "__main__":
    main()
