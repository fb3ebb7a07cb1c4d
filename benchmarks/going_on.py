r"""Does a model that goes on with new classes keep the old ones?

    python -m benchmarks.going_on IMAGES --labels 'regex:(.+)_\d+\.jpg$' --seeds 0 1 2

Trains on all but some classes, goes on with all of them (`vizsla train --from`), and compares both models on the validation images
of the old classes; images of the first training stay in their sets. The last line pools all seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from vizsla.data.table import resolve_data
from vizsla.evaluate import paired_interval


def main() -> None:
    """Measure, and print a line for each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--labels", default="auto")
    parser.add_argument("--new", type=int, default=3, help="classes that come in later (3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", default="0", help="end-to-end epochs of both trainings (0)")
    options = parser.parse_args()
    table = resolve_data(options.images, labels=options.labels, seed=0)
    gained = lost = compared = 0
    with tempfile.TemporaryDirectory() as place:
        for seed in options.seeds:
            folder = Path(place, str(seed))
            # Another set of classes comes in later each time.
            first = options.new * seed % len(table.vocab)
            new = {*(table.vocab * 2)[first : first + options.new]}
            for row, path in enumerate(table.paths):
                label = table.label(row)
                for data in ["all", *(["old"] if label not in new else [])]:
                    link = folder / data / label / path.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.resolve())
            _train(
                folder / "old",
                "--out",
                folder / "before",
                "--epochs",
                options.epochs,
                "--seed",
                seed,
            )
            words = ("--from", folder / "before", "--epochs", options.epochs, "--seed", seed)
            _train(folder / "all", "--out", folder / "after", *words)
            metrics = json.loads((folder / "after" / "metrics.json").read_text("utf-8"))
            found, accuracy = metrics["earlier"], metrics["metrics"]["accuracy"]
            among_old = _among(folder / "after" / "predictions.csv", without=new)
            print(
                f"seed {seed}: {len(table.vocab) - len(new)} classes, then {len(table.vocab)}. Old classes, "
                f"{found['num_pictures']} images: {found['values'][0]:.1%} before, {found['values'][1]:.1%} after "
                f"({100 * found['difference']:+.1f} points, {100 * found['low']:+.1f} to {100 * found['high']:+.1f}); {among_old:.1%} "
                f"where the new classes cannot be chosen. "
                f"All classes: {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})",
                flush=True,
            )
            gained += found["num_only_second"]
            lost += found["num_only_first"]
            compared += found["num_pictures"]
    low, high = paired_interval(gained, lost, num_pairs=compared)
    print(
        f"all seeds: {100 * (gained - lost) / compared:+.1f} points on {compared} images of old classes "
        f"({100 * low:+.1f} to {100 * high:+.1f})"
    )


def _among(predictions: Path, *, without: set[str]) -> float:
    """Return the accuracy on images of old classes when only these can be chosen."""
    right: list[bool] = []
    with predictions.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["label"] not in without:
                chances = {
                    name.removeprefix("prob_"): float(value)
                    for name, value in row.items()
                    if name.startswith("prob_")
                }
                said = max(chances.keys() - without, key=chances.__getitem__)
                right.append(said == row["label"])
    return sum(right) / len(right)


def _train(data: Path, *words: object) -> None:
    command = [sys.executable, "-m", "vizsla", "train", data, *words]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
