"""Is another network on this machine better, two joined, or more minutes? `python -m benchmarks.networks dogscats=DIR breeds=DIR solar`.

The default network alone, what `--arch auto` chooses, and networks that are joined: error and log loss on validation images, seconds
from read images to a trained network. `--archs efficientnet_lite0 --minutes auto 15` compares the head alone with what
`vizsla train --minutes 15` makes of it. `solar` are the images of `vizsla demo`; of breeds the label is the start of a file's name.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.accuracy import half_width
from benchmarks.measure import head, row
from vizsla import TrainConfig, train_classifier
from vizsla.data.demo_data import solar_cells
from vizsla.data.table import resolve_data
from vizsla.evaluate import measure
from vizsla.recipe import cache_for, loaders_for
from vizsla.train import Display
from vizsla.types import as_size

if TYPE_CHECKING:
    from vizsla.recipe import TrainedRun
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
    """Print a table of all tasks, seeds and networks, and the means over the seeds with their 95 % intervals (Student's t)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="solar, or NAME=FOLDER")
    parser.add_argument("--size", type=int, default=TrainConfig().size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--minutes", nargs="+", default=["auto"], help="auto: the head alone")
    options = parser.parse_args()
    print(
        head(
            "data",
            "seed",
            "asked for",
            "minutes",
            "network",
            "error, % (95 % interval)",
            "log loss",
            "s",
        )
    )
    for data in options.data:
        name = data.partition("=")[0]
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for seed in options.seeds:
            table = table_of(data, seed=seed)
            for arch, minutes in product(options.archs, options.minutes):
                config = TrainConfig(
                    arch=arch,
                    size=options.size,
                    seed=seed,
                    device="cpu",
                    minutes="auto" if minutes == "auto" else float(minutes),
                )
                run, seconds = _trained(table, config)
                accuracy = measure(run.predictions, "accuracy")
                error, low, high = (
                    100 - 100 * value for value in (accuracy.value, accuracy.high, accuracy.low)
                )
                loss = float(run.predictions.losses.mean())
                size = as_size(run.resize.size)[0]
                chosen = f"{run.classifier.backbone.spec.name} at {size}"
                if "kept: epoch" in run.recipe:
                    chosen += ", end to end"
                interval = f"{error:.1f} ({low:.1f} to {high:.1f})"
                print(
                    row(
                        name,
                        str(seed),
                        arch,
                        minutes,
                        chosen,
                        interval,
                        f"{loss:.3f}",
                        f"{seconds:.0f}",
                    ),
                    flush=True,
                )
                found.setdefault((arch, minutes), []).append((error, loss))
        if len(options.seeds) > 1:
            for (arch, minutes), figures in found.items():
                means = [
                    f"{mean(values):.{digits}f} ± {half_width(values):.{digits}f}"
                    for values, digits in zip(zip(*figures, strict=True), (1, 3), strict=True)
                ]
                print(row(name, "mean", arch, minutes, "", *means, ""), flush=True)
    return 0


def _trained(table: ImageTable, config: TrainConfig) -> tuple[TrainedRun, float]:
    """Read the images, train, and return the run and its seconds from then on."""
    cache = cache_for(table, config=config)
    loaders = loaders_for(table, config=config, cache=cache)
    for loader in (loaders.train, loaders.valid):
        for _ in loaders.loader_for(loader.rows).batches():
            pass
    started = time.perf_counter()
    run = train_classifier(table, config=config, cache=cache, display=Display(quiet=True))
    return run, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
