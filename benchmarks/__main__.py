"""Names of questions in, their tables out, one after another, each in a process of its own; all for the CPU without names.

    python -m benchmarks [NAME ...] [--quick]

``--quick`` asks with little data, to see that everything runs: its figures mean nothing. ``python -m benchmarks.NAME --help``
says what else one of them can be told. All of them together are meant to take less than a quarter of an hour on two quiet cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

QUESTIONS = {
    "decode": "How fast is a JPEG decoded and presized, by which library?",
    "listing": "How long does a folder of 50,000 files take to list?",
    "augment": "How fast is the augmentation of a batch, beside fastai's?",
    "loader": "How fast are pictures loaded and augmented, beside fastai, and in how much memory?",
    "memory": "Does memory stay flat over ten epochs?",
    "imports": "What does importing vizsla take, beside torch and fastai?",
    "growth": "How do listing, split and table grow with files and classes?",
    "step": "What do a training step and one prediction cost beyond the network?",
    "predict": "What does a prediction cost beyond decoding and the network, and how many a second?",
    "epoch": "How long is an epoch, and in how much memory, beside fastai and the network alone?",
    "precompute": "How long is lesson one's quick start, beside one frozen epoch of fastai?",
    "parity": "Is the error of fine_tune that of fastai's? (needs folders of pictures)",
    "recipe": "Is the error of vizsla train below that of fastai's fine_tune? (needs folders)",
}
"""Modules of this folder with a ``main`` that takes ``--quick``, each with what it answers."""

NEEDS_CUDA = {"cuda": "The first pass, later passes and the augmentation on a GPU"}


def main() -> int:
    """Ask the questions that were named, and return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = QUESTIONS | NEEDS_CUDA
    listed = "\n".join(f"{name:10} {text}" for name, text in known.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    names: list[str] = options.names or list(QUESTIONS)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no question {unknown[0]!r}; there are {', '.join(known)}")
    failed: list[str] = []
    for name in names:
        print(f"\n== {name}: {known[name]} ==", flush=True)
        started = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] * options.quick)]
        if subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode:
            failed.append(name)
        print(f"({name} took {time.perf_counter() - started:.0f} s)", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
