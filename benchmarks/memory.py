"""A folder of photographs in, a table out: the memory of a process after each of ten epochs of loading and augmenting.

What counts is memory of the process itself (anonymous pages), not the pages of libraries: the share of those that a process is
charged with changes whenever another process that uses the same library starts or ends. Linux only.

    python -m benchmarks.memory --data FOLDER
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loader import LABELS, measured
from benchmarks.machine import described
from benchmarks.pictures import photographs

if TYPE_CHECKING:
    from collections.abc import Sequence

EPOCHS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with a sub-folder for each class (default: made-up photographs)",
    )
    parser.add_argument("--workers", type=int, default=None, help="default: one per core")
    parser.add_argument("--quick", action="store_true", help="few pictures")
    options = parser.parse_args(arguments)
    print(described("vizsla", "torch", "pillow"), flush=True)
    heads = " | ".join(str(epoch) for epoch in range(1, EPOCHS + 1))
    print(f"\n| MB after epoch | {heads} | last / second |\n|---|{'---:|' * (EPOCHS + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        count = 130 if options.quick else 600
        data = photographs(options.data, made_in=Path(folder), count=count)
        for library in ("vizsla", "vizsla-nocache"):
            run = measured(library, data=data, epochs=EPOCHS, workers=options.workers)
            after = " | ".join(f"{used / 1e6:,.0f}" for used in run["bytes_after_epoch"])
            print(f"| {LABELS[library]} | {after} | {run['flat']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
