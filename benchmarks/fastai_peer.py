"""A training task in, the same in fastai out: its loaders, its learner with the same weights, its ``fine_tune``.

The files and the split are vizsla's: fastai is handed them, since it lists folders in the order in which the system does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from benchmarks.peers import ARCHITECTURE, MIN_SCALE, EpochLog, Setting, vizsla_loaders

if TYPE_CHECKING:
    from vizsla.types import PictureTable

EARLY_PARTS = 6
"""Normalisation, stem, its norm and three of the seven stages: where vizsla cuts between early and late body."""


def lite0(pretrained: bool = True) -> nn.Sequential:
    """Return normalisation and body, a pooling layer (fastai cuts before it) and a stand-in for the classifier."""
    from vizsla.models.backbones import build_backbone

    backbone = build_backbone(ARCHITECTURE, pretrained=pretrained)
    body = cast("Any", backbone.network)
    normalised = _Normalise(backbone.preprocessing.mean, backbone.preprocessing.std)
    layers = [body.conv_stem, body.bn1, *body.blocks, body.conv_head, body.bn2]
    return nn.Sequential(nn.Sequential(normalised, *layers), nn.AdaptiveAvgPool2d(1), nn.Identity())


def fastai_loaders(setting: Setting, table: PictureTable) -> Any:
    """Return fastai's loaders of the pictures of vizsla's table with the same split."""
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        aug_transforms,
        defaults,
    )

    labels = {
        path: table.vocab[target]
        for path, target in zip(table.paths, table.targets.tolist(), strict=True)
    }

    augmented = aug_transforms(size=setting.size, min_scale=MIN_SCALE)

    def label_of(path: Path) -> str:
        return labels[path]

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(table.vocab))),
        get_y=label_of,
        splitter=IndexSplitter(table.valid_rows.tolist()),
        item_tfms=Resize(setting.presize if setting.augment else setting.size),
        batch_tfms=augmented if setting.augment else None,
    )
    workers = defaults.cpus if setting.workers < 0 else setting.workers
    return block.dataloaders(
        list(table.paths), bs=setting.batch_size, num_workers=workers, device="cpu"
    )


def fastai_learner(setting: Setting, table: PictureTable) -> Any:
    """Return fastai's learner with the same weights, its body frozen."""
    from fastai.vision.all import L, error_rate, params, set_seed, vision_learner

    def three_groups(model: Any) -> Any:
        body = model[0][0]
        return L(body[:EARLY_PARTS], body[EARLY_PARTS:], model[1:]).map(params)

    set_seed(setting.seed)
    splitter = three_groups if setting.groups == 3 else None
    learn = vision_learner(
        fastai_loaders(setting, table),
        lite0,
        metrics=error_rate,
        splitter=splitter,
        path=Path.cwd(),
    )
    set_seed(setting.seed)
    return learn


def train_fastai(setting: Setting) -> EpochLog:
    """Fine-tune with fastai; without unfrozen epochs, train the head alone."""
    from fastai.vision.all import Callback

    log = EpochLog()

    class Watch(Callback):
        """Notes times and values."""

        order = 90  # after the recorder

        def before_epoch(self) -> None:
            log.start()

        def after_train(self) -> None:
            log.trained()

        def after_epoch(self) -> None:
            log.end(list(self.learn.recorder.values[-1]))

    started = time.perf_counter()
    table = vizsla_loaders(setting).table
    log.helped_seconds = time.perf_counter() - started
    learn = fastai_learner(setting, table)
    with learn.no_bar(), learn.no_logging():
        if setting.epochs:
            learn.fine_tune(setting.epochs, freeze_epochs=setting.freeze_epochs, cbs=Watch())
        else:
            learn.fit_one_cycle(setting.freeze_epochs, cbs=Watch())
    return log


class _Normalise(nn.Module):
    """Normalises pictures with values 0-1.

    Args:
        mean: Of each channel.
        std: Of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return them normalised."""
        return (images - self.mean) / self.std
