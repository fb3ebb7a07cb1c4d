"""Does the order of the label page bring more than labels at random?

python -m benchmarks.label_order --help
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from benchmarks.measure import Command, answer, head, row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vizsla.auditing import Labelling

STEPS = (10, 20, 40, 80, 160)
FITTED_AFTER = 5


def order(options: argparse.Namespace) -> int:
    """Label one half of the images, at random and as the page shows them, and judge the head on the other half.

    The head is fitted after every 5 labels, as the page does. Mean and standard deviation are those of halves.
    """
    from vizsla.auditing import open_labelling
    from vizsla.data.table import images_to_label
    from vizsla.recipe import TrainConfig

    print(head("data", "order", *(f"{step} labels" for step in STEPS)))
    for name in options.data:
        images, num_own = images_to_label(name, labels=options.labels)
        truth = list(map(str, images.labels))
        blank = replace(images, labels=("",) * len(truth))
        with tempfile.TemporaryDirectory() as folder:
            labelling = open_labelling(
                blank,
                num_own=num_own,
                file=Path(folder) / "fixes.csv",
                config=TrainConfig(),
                classes=sorted({*truth}),
            )
            for way in ("at random", "page"):
                curves = [
                    list(_curve(labelling, truth, seed=seed, at_random=way == "at random"))
                    for seed in range(options.halves)
                ]
                cells = (f"{mean(at):.1%} ± {stdev(at):.1%}" for at in zip(*curves, strict=True))
                print(row(Path(name).name, way, *cells), flush=True)
    return 0


def _curve(
    labelling: Labelling, truth: list[str], *, seed: int, at_random: bool
) -> Iterator[float]:
    """Yield the accuracy on one half at each step; afterwards no image has a label."""
    import torch

    from vizsla.seeding import generator

    shuffled = torch.randperm(len(truth), generator=generator(seed, "halves")).tolist()
    held_out, pool = shuffled[: len(truth) // 2], shuffled[len(truth) // 2 :]
    num_labels = 0
    while num_labels < STEPS[-1]:
        labelling.fit()
        queue = pool[num_labels:] if at_random else labelling.queue("todo")
        is_open = (p for p in queue if p in pool and not labelling.is_decided(p))
        for position, _ in zip(is_open, range(FITTED_AFTER), strict=False):
            labelling.decide(position, "label", label=truth[position], version="")
            num_labels += 1
        if num_labels in STEPS:
            labelling.fit()
            yield mean(labelling.suggestion(p)[0] == truth[p] for p in held_out)
    while (latest := labelling.latest) is not None:
        labelling.undo(latest[0], version=latest[1])


COMMANDS = {
    "order": Command(
        asks="Does the order of the label page bring more than labels at random?",
        run=order,
        packages=("vizsla", "torch"),
        options={
            "data": {"nargs": "+", "required": True, "type": str, "help": "folders"},
            "labels": {"default": "auto", "type": str, "help": "as for vizsla train"},
            "halves": {"default": 5, "type": int, "help": "how often"},
        },
        data="--data {folder}",
    )
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
