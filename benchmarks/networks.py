"""Is another network on this machine better, or two joined? `python -m benchmarks.networks dogscats=DIR breeds=DIR solar --size 96 --seeds 0`.

The default network alone, what `--arch auto` chooses, and networks that are joined: error and log loss on validation images, seconds
from read images to a fitted head. `solar` are the images of `vizsla demo`; of breeds the label is the start of a file's name.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla import TrainConfig, train_classifier
from vizsla.data.demo_data import solar_cells
from vizsla.data.table import resolve_data
from vizsla.evaluate import measure
from vizsla.recipe import cache_for, loaders_for
from vizsla.train import Display

if TYPE_CHECKING:
    from vizsla.types import ImageTable

ARCHS = ("efficientnet_lite0", "auto", "efficientnet_lite0+efficientnet_lite2")


def table_of(data: str, *, seed: int) -> ImageTable:
    """Return the images of a task by its name, `solar` or NAME=FOLDER."""
    name, _, folder = data.partition("=")
    if name == "solar":
        return solar_cells(seed=seed)
    labels = r"regex:(.+)_\d+\.jpg$" if name == "breeds" else "auto"
    return resolve_data(Path(folder), labels=labels, seed=seed)


def main() -> int:
    """Print a table of all tasks, seeds and networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="solar, or NAME=FOLDER")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    options = parser.parse_args()
    print(
        "| data | seed | network | error, % (95 % interval) | log loss | s |\n|---|---|---|---|---|---|"
    )
    for data in options.data:
        for seed in options.seeds:
            table = table_of(data, seed=seed)
            for arch in options.archs:
                config = TrainConfig(arch=arch, size=options.size, seed=seed, epochs=0)
                cache = cache_for(table, config=config)
                loaders = loaders_for(table, config=config, cache=cache)
                for loader in (loaders.train, loaders.valid):
                    for _ in loaders.loader_for(loader.rows).batches():
                        pass
                started = time.perf_counter()
                run = train_classifier(
                    table, config=config, cache=cache, display=Display(quiet=True)
                )
                seconds = time.perf_counter() - started
                found = measure(run.predictions, "accuracy")
                error = f"{100 - 100 * found.value:.1f} ({100 - 100 * found.high:.1f} to {100 - 100 * found.low:.1f})"
                chosen = run.classifier.backbone.spec.name
                shown = f"auto: {chosen}" if arch == "auto" else chosen
                loss = float(run.predictions.losses.mean())
                cells = (
                    data.partition("=")[0],
                    str(seed),
                    shown,
                    error,
                    f"{loss:.3f}",
                    f"{seconds:.0f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
