"""What fixes win back: a tenth of the training labels is wrong, the suspected ones are changed, untouched labels judge.

    python -m benchmarks.fixes --data FOLDER [--labels WORDS]

The head is fitted three times for each seed on the same features (efficientnet_lite0): with the labels of the data, with a tenth of
those of training images changed at random, and with fixes on top that give every image whose label is suspected, from leave-one-out
predictions, the class that it seems to be. Noise and fixes go through ``resolve_data(fixes=...)``, as for a user.
"""

from __future__ import annotations

import sys
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING

import torch

from benchmarks.accuracy import with_interval
from benchmarks.measure import Command, answer

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from vizsla import Fix, Predictions
    from vizsla.recipe.head_fit import FeatureLayout, FitOptions
    from vizsla.types import ImageTable

NOISE = 0.1


def fixes(options: argparse.Namespace) -> int:
    """Change a tenth of the training labels, fix the suspected ones, and compare accuracies on validation labels."""
    from vizsla.data.table import resolve_data
    from vizsla.evaluate import suspected_labels

    resolve = partial(resolve_data, options.folder, labels=options.labels)
    features_NVD, layout = _features(resolve(seed=0), size=options.size)
    found: list[tuple[float, ...]] = []
    for seed in range(options.seeds):
        clean = resolve(seed=seed)
        noise = _noise(clean, seed=seed)
        noisy = resolve(fixes=noise, seed=seed)
        before, _ = _fit(features_NVD, layout, clean)
        with_noise, left_out = _fit(features_NVD, layout, noisy)
        suggested = {int(left_out.rows[each.position]): each.suggestion for each in suspected_labels(left_out)}  # fmt: skip
        changed = [_relabel(noisy, row, label) for row, label in suggested.items()]
        mended = resolve(fixes=[*noise, *changed], seed=seed)
        after, _ = _fit(features_NVD, layout, mended)
        was_wrong, is_wrong = (table.targets != clean.targets for table in (noisy, mended))
        put_right = int((was_wrong & ~is_wrong).sum()) / int(was_wrong.sum())
        spoiled = int((is_wrong & ~was_wrong).sum()) / int((~was_wrong[clean.train_rows]).sum())
        found.append((before, with_noise, after, put_right, spoiled))
    names = ("labels of the data", f"{NOISE:.0%} wrong", "after fixes", "wrong labels put right", "right labels made wrong")  # fmt: skip
    columns = list(zip(*found, strict=True))
    for name, values in zip(names, columns, strict=True):
        print(f"{name:24} {with_interval(values)}")
    before, with_noise, after = map(mean, columns[:3])
    lost = before - with_noise
    print(f"won back: {(after - with_noise) / lost:.0%} of {100 * lost:.1f} points")
    return 0


def _features(table: ImageTable, *, size: int) -> tuple[Tensor, FeatureLayout]:
    """Return the features of all images in a split, by row, and their layout."""
    from vizsla import TrainConfig
    from vizsla.infer import extract_features
    from vizsla.recipe import loaders_for
    from vizsla.recipe.features_first import load_network, pooling_classifier

    config = TrainConfig(size=size)
    loaders = loaders_for(table, config=config)
    classifier, pooling, layout = pooling_classifier(loaders, load_network(config))
    rows = torch.cat([table.train_rows, table.valid_rows])
    batches = loaders.loader_for(rows).batches()
    found = extract_features(classifier, batches, head=pooling, views=("plain",))
    by_row = torch.zeros(len(table.paths), *found.values.shape[1:])
    by_row[found.rows] = found.values.float()
    return by_row, layout


def _noise(table: ImageTable, *, seed: int) -> list[Fix]:
    """Return fixes that give a tenth of the training images another class."""
    random = torch.Generator().manual_seed(seed)
    order = table.train_rows[torch.randperm(len(table.train_rows), generator=random)]
    chosen = order[: round(NOISE * len(order))]
    steps = torch.randint(1, len(table.vocab), (len(chosen),), generator=random)
    wrong = (table.targets[chosen] + steps) % len(table.vocab)
    return [_relabel(table, row, label) for row, label in zip(chosen.tolist(), wrong.tolist(), strict=True)]  # fmt: skip


def _relabel(table: ImageTable, row: int, label: int) -> Fix:
    from vizsla import Fix

    return Fix(path=table.shown_path(row), action="relabel", label=table.vocab[label])


def _fit(
    features_NVD: Tensor, layout: FeatureLayout, table: ImageTable
) -> tuple[float, Predictions]:
    """Fit a head, and return its accuracy on the validation images and its leave-one-out predictions of the others."""
    from vizsla import Predictions
    from vizsla.recipe import default_setting, fit_feature_head

    train, valid = features_NVD[table.train_rows], features_NVD[table.valid_rows]
    targets = table.targets[table.train_rows]
    problem: FitOptions = {"layout": layout, "num_classes": len(table.vocab)}
    setting = default_setting(layout, num_rows=train.shape[0] * train.shape[1])
    found = fit_feature_head(train, targets, setting=setting, **problem)
    columns = layout.columns(setting.stages, setting.statistics)
    with torch.inference_mode():
        said = found.head.classify(valid[:, 0, columns]).argmax(1)
    left_out = Predictions(
        rows=table.train_rows,
        paths=tuple(map(table.shown_path, table.train_rows.tolist())),
        logits=found.left_out,
        targets=targets,
        vocab=table.vocab,
    )
    return float((said == table.targets[table.valid_rows]).float().mean()), left_out


COMMANDS = {
    "fixes": Command(
        asks="what do fixes of suspected labels win back?",
        run=fixes,
        options={"labels": "auto", "size": 224, "seeds": 10},
        packages=("vizsla", "torch", "timm"),
        images="any",
    )
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
