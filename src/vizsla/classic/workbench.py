"""A network and data in; what is being trained, on pictures or on features, and which of its groups train, out.

There are two trainers of the engine: one of the whole network on pictures, one of the head alone on features of the body that
were computed once (``precompute``). Both train the same head.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from vizsla.classic.features import cached_features
from vizsla.classic.fitting import CallbackBridge, ClassicTrainer, TablePrinter
from vizsla.classic.models import parameters_of
from vizsla.classic.plan import decays_of
from vizsla.classic.sched import EndOfFit
from vizsla.infer.run import predict_batches
from vizsla.train.optim import build_optimiser

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from vizsla.classic.data import ImageClassifierData
    from vizsla.classic.fitting import Callback
    from vizsla.classic.loaders import Batches
    from vizsla.classic.models import ConvnetBuilder
    from vizsla.classic.sched import LossRecorder
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.groups import Group
    from vizsla.train.optim import OptimiserFactory
    from vizsla.train.schedules import Schedule
    from vizsla.train.trainer import MetricFunction

DEFAULT_OPTIMISER = partial(torch.optim.SGD, momentum=0.9)


class Workbench:
    """Trainers of one network on one data object.

    Args:
        images: Pictures.
        models: The network.

    Attributes:
        images: As given.
        models: As given.
        features: The same data as features; None until they are computed.
        whole: Trains body and head on pictures.
        head: Trains the head on features; None until they are computed.
        head_only: Whether the latter is in use.
    """

    def __init__(self, images: ImageClassifierData, models: ConvnetBuilder) -> None:
        self.images = images
        self.models = models
        self.features: ImageClassifierData | None = None
        self.whole = self._new_trainer(images, models.classifier)
        self.head: ClassicTrainer | None = None
        self.head_only = False

    @property
    def data(self) -> ImageClassifierData:
        """What is trained on."""
        return self.features if self.head_only and self.features is not None else self.images

    @property
    def trainer(self) -> ClassicTrainer:
        """What trains."""
        return self.head if self.head_only and self.head is not None else self.whole

    def freeze_norms(self, frozen: bool) -> None:
        """Keep the statistics of all norms, or let them move again."""
        for trainer in (self.whole, self.head):
            if trainer is not None:
                trainer.norms_frozen = frozen

    def compute_features(self, folder: Path) -> None:
        """Run the body over all pictures once, or read what it gave from a cache.

        Args:
            folder: Of the cache.

        Raises:
            PictureError: A picture cannot be read.
            OutputError: The cache cannot be written.
        """
        data = self.images
        size = f"{self.models.name}_{data.sz}"

        def of(loader: Batches, name: str) -> NDArray[Any]:
            return cached_features(
                self.models,
                loader,
                file=folder / f"{name}_{size}.npy",
                preparation=repr(data.tfms[1]),
                precision=self.whole.precision,
                display=self.whole.display,
            )

        self.features = data.of_features(
            of(data.fix_dl, "x_act"),
            of(data.val_dl, "x_act_val"),
            None if data.test_dl is None else of(data.test_dl, "x_act_test"),
        )
        self.head = self._new_trainer(self.features, self.models.fc_model)
        self.head.norms_frozen = self.whole.norms_frozen

    def run(
        self,
        schedule: Schedule,
        *,
        n_epoch: int,
        sched: LossRecorder,
        opt_fn: OptimiserFactory | None,
        wds: float | Sequence[float] | None,
        metrics: Sequence[MetricFunction],
        callbacks: Sequence[Callback] | None,
        savers: Sequence[Any] = (),
    ) -> OrderedDict[int, list[float]] | None:
        """Run one fit with a new optimiser, and print a row per epoch.

        Args:
            schedule: Rates of every step.
            n_epoch: Passes over the training items.
            sched: Records it.
            opt_fn: Makes the optimiser; None is SGD with momentum.
            wds: Weight decay, one or one per group.
            metrics: Functions of outputs and targets.
            callbacks: Of the user's.
            savers: Callbacks of the engine that save weights.

        Returns:
            The printed values by epoch; None if a callback ended the fit within an epoch.
        """
        trainer = self.trainer
        trainer.metrics = tuple(metrics)
        trainer.recorder.metric_names = tuple(map(_name_of, metrics))
        trainer.opt = build_optimiser(
            trainer.model,
            trainer.groups,
            opt_func=DEFAULT_OPTIMISER if opt_fn is None else opt_fn,
            weight_decay=decays_of(wds, num_groups=len(trainer.groups)),
            decay_norms_and_biases=True,
        )
        table = TablePrinter()
        cbs = [sched, table, *savers, CallbackBridge(callbacks or (), sched=sched)]
        try:
            trainer.run(schedule, n_epoch=n_epoch, stage="lesson one", cbs=cbs)
        except EndOfFit:
            if not sched.epochs or sched.epochs[-1] < len(sched.lrs):
                return None
        return table.values

    def predictions(self, loader: Batches, *, whole: bool = False, epoch: int = 0) -> Predictions:
        """Return what the network says of the items of a loader.

        Args:
            loader: Of pictures or features, as ``data`` has them.
            whole: Use body and head, whatever is being trained.
            epoch: Another one has other crops, where they are random.
        """
        trainer = self.whole if whole else self.trainer
        model: Any = trainer.model
        return predict_batches(
            model, loader.batches(epoch=epoch), table=loader.table, precision=trainer.precision
        )

    def _new_trainer(self, data: ImageClassifierData, model: nn.Module) -> ClassicTrainer:
        of_head = model is self.models.fc_model

        def split(module: nn.Module) -> list[Group]:
            del module
            return [parameters_of(group) for group in self.models.get_layer_groups(of_head)]

        loaders: Any = data.loaders
        return ClassicTrainer(
            loaders, model, splitter=split, train_bn=False, wd_bn_bias=True, show_table=False
        )


def _name_of(metric: MetricFunction) -> str:
    inner = getattr(metric, "func", metric)  # a partial has no name of its own
    return getattr(inner, "__name__", type(inner).__name__)
