"""What ``balance`` does where classes are of very unequal size: ``python -m benchmarks.imbalance dogscats=DIR breeds=DIR``.

Of some classes only one image in twenty is kept for training; all are validated on as many images. Recall says how each class
fares, so the accuracy at the proportions of the training images follows from the same images as the balanced accuracy.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import torch

from vizsla import TrainConfig, get_image_files, train_classifier, vision_learner
from vizsla.augment import aug_transforms
from vizsla.data.cache import ImageCache
from vizsla.data.images import Resize
from vizsla.data.loading import DataLoaders
from vizsla.data.table import resolve_data
from vizsla.evaluate import per_class
from vizsla.train import Display

if TYPE_CHECKING:
    from vizsla.recipe.config import Balance

RATIO = 20
SIZE = 96


def unequal_copy(
    files: dict[str, tuple[list[Path], list[Path]]], *, rare: set[str], seed: int, to: Path
) -> Path:
    """Link (training, validation) files of each class into folders, one in ``RATIO`` of the training files of rare ones."""
    for name, parts in files.items():
        for part, paths in zip(("train", "valid"), parts, strict=True):
            if part == "train" and name in rare:
                order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
                paths = [paths[at] for at in order[: max(2, len(paths) // RATIO)].tolist()]
            for path in paths:
                place = to / part / name / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
    return to


def files_of(kind: str, folder: Path) -> tuple[dict[str, tuple[list[Path], list[Path]]], set[str]]:
    """Return the files of each class in two parts, and the classes to make rare."""
    if kind == "dogscats":
        parts = [{name: sorted((folder / part / name).iterdir()) for name in ("cats", "dogs")} for part in ("train", "valid")]  # fmt: skip
        return {name: (parts[0][name], parts[1][name]) for name in ("cats", "dogs")}, {"dogs"}
    by_breed: dict[str, list[Path]] = {}
    for path in sorted(get_image_files(folder)):
        if path.name[0].isupper():  # the cats: 60 of each breed
            by_breed.setdefault(path.name.rpartition("_")[0], []).append(path)
    return {name: (paths[:40], paths[40:]) for name, paths in by_breed.items()}, set(
        sorted(by_breed)[::2]
    )


def recalls(
    way: str, balance: Balance, *, folder: Path, seed: int, cache: ImageCache
) -> list[float]:
    """Train, and return the recall of each class."""
    quiet = Display(quiet=True)
    table = resolve_data(folder, seed=seed)
    if way == "fine_tune(2)":
        dls = DataLoaders.from_table(table, Resize(128), aug_transforms(size=SIZE, min_scale=0.75), seed=seed, bs=32, balance=balance)  # fmt: skip
        learn = vision_learner(dls, "efficientnet_lite0", quiet=True)
        learn.fine_tune(2)
        predictions = learn.predictions()
    else:
        epochs = 2 if "epochs" in way else 0
        config = TrainConfig(size=SIZE, epochs=epochs, seed=seed, balance=balance)
        predictions = train_classifier(table, config=config, display=quiet, cache=cache).predictions
    return [score.recall for score in per_class(predictions)]


def main() -> None:
    """Print a row of a Markdown table for each data set, way of training and balance."""
    print("| data | training | balance | accuracy | balanced accuracy | recall of rare classes |")
    print("|---|---|---|---|---|---|", flush=True)
    seeds = (0, 1, 2)
    for word in sys.argv[1:]:
        kind, _, place = word.partition("=")
        files, rare = files_of(kind, Path(place).resolve())
        for way in ("head", "2 epochs", "fine_tune(2)"):
            for balance in ("none", "weights", "sample"):
                rows: list[tuple[float, float, float]] = []
                for seed in seeds:
                    with tempfile.TemporaryDirectory() as made:
                        folder = unequal_copy(files, rare=rare, seed=seed, to=Path(made))
                        found = recalls(way, balance, folder=folder, seed=seed, cache=ImageCache())
                    parts = [1 if name in rare else RATIO for name in sorted(files)]
                    natural = sum(
                        part * recall for part, recall in zip(parts, found, strict=True)
                    ) / sum(parts)
                    of_rare = mean(
                        recall for part, recall in zip(parts, found, strict=True) if part == 1
                    )
                    rows.append((natural, mean(found), of_rare))
                shown = " | ".join(
                    f"{mean(column):.1%} ({min(column):.1%} to {max(column):.1%})"
                    for column in zip(*rows, strict=True)
                )
                print(f"| {kind} | {way} | {balance} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
