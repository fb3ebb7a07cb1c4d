"""Names of questions in, their tables out, one after another, each in a process of its own; all for the CPU without names.

    python -m benchmarks [NAME ...] [--quick | --full] [--data FOLDER]

All of them together take less than a quarter of an hour on two quiet cores, because most take one round of what
``python -m benchmarks.NAME`` takes three of; ``--full`` leaves them their own rounds. ``--data`` has sub-folders ``train`` and
``valid`` with a folder per class in each; without it pictures are drawn, and what needs real ones is left out. ``--quick`` asks
with little data, to see that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A module of this folder with a ``main`` that takes ``--quick``.

    Attributes:
        asks: What it answers.
        short: What it is told unless ``--full`` is asked for, so that all together do not take long.
        data: How it is told a folder of pictures; empty where it takes none.
    """

    asks: str
    short: tuple[str, ...] = ()
    data: str = ""


DATA = "--data {folder}"
TASK = "{folder}:2"
QUESTIONS = {
    "decode": Question(
        asks="How fast is a JPEG decoded and presized, by which library?",
        short=("--rounds", "2", "--pictures", "4"),
        data=DATA,
    ),
    "listing": Question(
        asks="How long does a folder of 50,000 files take to list?", short=("--rounds", "2")
    ),
    "augment": Question(
        asks="How fast is the augmentation of a batch, beside fastai's?", short=("--rounds", "1")
    ),
    "loader": Question(
        asks="How fast are pictures loaded and augmented, beside fastai, and in how much memory?",
        short=("--rounds", "1"),
        data=DATA,
    ),
    "memory": Question(asks="Does memory stay flat over ten epochs?", data=DATA),
    "imports": Question(
        asks="What does importing vizsla take, beside torch and fastai?", short=("--rounds", "1")
    ),
    "growth": Question(
        asks="How do listing, split and table grow with files and classes?", short=("--rounds", "1")
    ),
    "step": Question(
        asks="What do a training step and one prediction cost beyond the network?",
        short=("--rounds", "2"),
        data=DATA,
    ),
    "predict": Question(
        asks="What does a prediction cost beyond decoding and the network, and how many a second?",
        short=("--rounds", "10"),
    ),
    "tasks": Question(
        asks="What do import, loaders, lr_find, validate, tta, predict, export and load take, beside fastai?",
        short=("--rounds", "1", "--num-it", "20", "--many", "500"),
        data=DATA,
    ),
    "epoch": Question(
        asks="How long is an epoch, and in how much memory, beside fastai and the network alone?",
        short=("--rounds", "1"),
        data=DATA,
    ),
    "precompute": Question(
        asks="How long is lesson one's quick start, beside one frozen epoch of fastai?",
        short=("--rounds", "1", "--size", "128"),
        data=DATA,
    ),
    "time_to_accuracy": Question(
        asks="How long from a cold start to the accuracy of fastai's fine_tune?",
        short=("--seeds", "0"),
        data=TASK,
    ),
    "parity": Question(
        asks="Is the error of fine_tune that of fastai's? (needs folders of pictures)",
        short=("--seeds", "0"),
        data=TASK,
    ),
    "recipe": Question(
        asks="Is the error of vizsla train below that of fastai's fine_tune? (needs folders)",
        short=("--seeds", "0"),
        data=TASK,
    ),
}
NEEDS_CUDA = {
    "gpu": Question(
        asks="How long are epochs on a GPU, beside fastai and the network alone?", data=DATA
    )
}


def main() -> int:
    """Ask the questions that were named, and return 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = QUESTIONS | NEEDS_CUDA
    listed = "\n".join(f"{name:16} {question.asks}" for name, question in known.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--data", type=Path, help="with train and valid (default: drawn pictures)")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="little data")
    extent.add_argument("--full", action="store_true", help="as many rounds as each takes alone")
    options = parser.parse_args()
    names: list[str] = options.names or list(QUESTIONS)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no question {unknown[0]!r}; there are {', '.join(known)}")
    failed: list[str] = []
    began = time.perf_counter()
    for name in names:
        print(f"\n== {name}: {known[name].asks} ==", flush=True)
        started = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{name}", *words(known[name], options)]
        if subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode:
            failed.append(name)
        print(f"({name} took {time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\n(all of it took {time.perf_counter() - began:.0f} s)")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def words(question: Question, options: argparse.Namespace) -> list[str]:
    """Return what the command of a question is told.

    Args:
        question: The question.
        options: Of the command line.
    """
    told: list[str] = []
    if options.data is not None:  # before the options: some of these take any number of words
        folder = str(options.data.resolve())
        told += [word.format(folder=folder) for word in question.data.split()]
    if options.quick:
        return [*told, "--quick"]
    return told if options.full else [*told, *question.short]


if __name__ == "__main__":
    sys.exit(main())
