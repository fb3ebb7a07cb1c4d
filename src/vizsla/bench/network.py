"""Some pictures and a configuration in, what a network costs on them out: steps, forward pass, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.bench.budget import seconds_of, wait_for
from vizsla.bench.steps import StepTimes, time_steps
from vizsla.data.cache.cache import PictureCache
from vizsla.data.loading.dataloaders import default_device
from vizsla.infer.run import compute_logits, evaluation_mode, predict_batches
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.recipe.end_to_end import end_to_end_trainer
from vizsla.recipe.recipe import loaders_for
from vizsla.train.display import Display
from vizsla.train.step import resolve_precision
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from vizsla.infer.run import NumberFormat
    from vizsla.recipe.config import TrainConfig
    from vizsla.types import PictureTable


def random_classifier(config: TrainConfig, *, vocab: tuple[str, ...]) -> Classifier:
    """Return the network of a configuration with random weights, on its device.

    Args:
        config: Choices of the training.
        vocab: The classes.

    Raises:
        ConfigError: There is no such network.
    """
    device = default_device() if config.device == "auto" else torch.device(config.device)
    backbone = build_backbone(config.arch, pretrained=False, seed=config.seed)
    head = ConcatPoolHead(backbone.num_features, len(vocab), lin_ftrs=[], first_bn=False)
    return Classifier(backbone, head, vocab=vocab).place(device)


class NetworkBench:
    """A network, and loaders of some pictures.

    Args:
        table: The pictures; all training rows are used.
        config: Choices of the training.
        cache: Where the pictures are once they were read.
        classifier: The network.

    Attributes:
        classifier: The network.
        device: Where it computes.
        precision: Of the network.
    """

    def __init__(
        self,
        table: PictureTable,
        *,
        config: TrainConfig,
        cache: PictureCache,
        classifier: Classifier,
    ) -> None:
        self.config = config
        self._table = table
        self._loaders = loaders_for(table, config=config, cache=cache)
        self.device = self._loaders.device
        self.precision: NumberFormat = resolve_precision(
            config.precision, device=self.device, model=classifier
        )
        self.classifier = classifier

    def end_to_end(self, *, within: float) -> StepTimes:
        """Return what a step of an end-to-end epoch costs: everything trains but the norms."""
        return time_steps(self._trainer(), within=within)

    def frozen(self, *, within: float) -> StepTimes:
        """Return what a step costs with a frozen body whose norms train, as ``fine_tune`` begins; after ``end_to_end``."""
        trainer = Trainer(
            self._trainer().dls, self.classifier, precision=self.precision, quiet=True
        )
        trainer.freeze()
        return time_steps(trainer, within=within, settled=True)

    def _trainer(self) -> Trainer:
        return end_to_end_trainer(
            self._loaders, self.classifier, config=self.config, display=Display(quiet=True)
        )

    def forward(self, *, within: float) -> float:
        """Return the seconds that a picture's forward pass takes, in batches."""
        images = self._loaders.loader_for(self._table.train_rows).one_batch()[0].as_subclass(Tensor)
        with evaluation_mode(self.classifier):
            seconds = seconds_of(
                lambda: compute_logits(self.classifier, images, precision=self.precision),
                within=within,
                device=self.device,
            )
        return seconds / len(images)

    def predict(self, rows: Tensor) -> float:
        """Return the seconds that a picture takes from its file to its answer, of many.

        Args:
            rows: int64 ``(N,)``, which pictures; none of them is kept.
        """
        loaders = loaders_for(self._table, config=self.config, cache=PictureCache(mode="off"))
        wait_for(self.device)

        def predict_all() -> None:
            batches = loaders.loader_for(rows).batches()
            predict_batches(self.classifier, batches, table=self._table, precision=self.precision)

        # Within nothing there is time for one call only.
        return seconds_of(predict_all, within=0.0, device=self.device) / max(len(rows), 1)

    def predict_one(self, row: int, *, within: float) -> float:
        """Return the seconds from the file of a picture to its answer, alone."""
        loaders = loaders_for(self._table, config=self.config, cache=PictureCache(mode="off"))
        path = self._table.paths[row]

        def answer() -> Tensor:
            pixels = torch.tensor(loaders.reader.read(path))
            images_u8 = pixels.permute(2, 0, 1)[None].to(self.device)
            images = loaders.augmentation(
                images_u8, rows=torch.tensor([row]), epoch=0, training=False
            )
            return compute_logits(self.classifier, images, precision=self.precision).cpu()

        with evaluation_mode(self.classifier):
            return seconds_of(answer, within=within, device=self.device)
