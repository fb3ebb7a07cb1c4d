"""Loaders and a network in, a trained classifier out: the learner of the notebooks, over the plain loop of ``loop.py``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torch.nn import functional as F

from vizsla.errors import ConfigError, TrainingError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.export.bundle import fingerprint, save_bundle
from vizsla.export.final_resize import storable
from vizsla.export.predictor import AnyPicture, Prediction, Predictor
from vizsla.infer.run import Precision, predict_batches
from vizsla.models.groups import freeze_to, norm_parameters, parameter_groups, train_mode
from vizsla.seeding import derive_seed
from vizsla.train.loop import SmoothedLoss, StepContext, own_random_numbers, train_epoch
from vizsla.train.optim import WEIGHT_DECAY, build_adamw
from vizsla.train.precision import resolve_precision
from vizsla.train.progress import Display, format_seconds
from vizsla.train.recorder import Recorder
from vizsla.train.schedules import Rates, Schedule, constant, one_cycle, rates_per_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from vizsla.data.dataloaders import DataLoader, DataLoaders
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.classifier import Classifier

    MetricFunction = Callable[[Tensor, Tensor], Tensor]
    LossFunction = Callable[[Tensor, Tensor], Tensor]

MOMENTA = (0.95, 0.85, 0.95)
"""Momentum at the start, the peak and the end of a one-cycle."""


class Learner:
    """Trains a classifier on loaders and remembers what happened.

    Args:
        dls: Training and validation loaders; never changed.
        model: Trained in place, on the device of the loaders.
        loss_func: Takes logits ``(B, C)`` and targets ``(B,)``; the default is cross-entropy.
        lr: Learning rate where a fit is given none.
        metrics: One function or several, each called with the logits ``(N, C)`` and targets ``(N,)`` of the whole
            validation set, so that batches of unequal size cannot bend it.
        wd: Weight decay.
        wd_bn_bias: Decay norms and biases too.
        train_bn: Train norms, and update their statistics, in frozen groups too: fastai's rule, good when the new
            pictures look unlike those of the pretraining. Without it a frozen body stays exactly as it is.
        moms: Momentum at the start, the peak and the end of a one-cycle.
        precision: ``"fp32"``, or ``"bf16"`` autocast; ``"auto"`` is bf16 on CUDA and fp32 elsewhere.
        quiet: Print nothing.

    Attributes:
        recorder: History of all fits.

    Raises:
        ConfigError: Model and data have different classes, or ``precision`` is unknown.
    """

    def __init__(
        self,
        dls: DataLoaders,
        model: Classifier,
        *,
        loss_func: LossFunction = F.cross_entropy,
        lr: float = 0.001,
        metrics: MetricFunction | Sequence[MetricFunction] | None = None,
        wd: float = WEIGHT_DECAY,
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        moms: tuple[float, float, float] = MOMENTA,
        precision: Precision | str = "auto",
        quiet: bool = False,
    ) -> None:
        if tuple(model.vocab) != tuple(dls.vocab):
            raise ConfigError(
                f"The model has {len(model.vocab)} classes {list(model.vocab[:5])} and the data {len(dls.vocab)} "
                f"{list(dls.vocab[:5])}. Build the model for the classes of the data, in their order."
            )
        self.dls = dls
        self.model = model.place(dls.device)
        self.loss_func = loss_func
        self.lr = lr
        self.metrics: tuple[MetricFunction, ...] = _as_tuple(metrics)
        self.wd = wd
        self.wd_bn_bias = wd_bn_bias
        self.train_bn = train_bn
        self.moms = moms
        self.precision: Precision = resolve_precision(precision, device=dls.device)
        self.display = Display(quiet=quiet)
        self.recorder = Recorder(metric_names=tuple(_name(metric) for metric in self.metrics))
        self.groups = parameter_groups(model)
        self._optimiser: torch.optim.AdamW | None = None

    def freeze(self) -> None:
        """Train the head only (with ``train_bn`` the norms of the body too)."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything."""
        self.freeze_to(0)

    def freeze_to(self, n: int) -> None:
        """Freeze the parameter groups before position ``n``; the optimiser starts afresh.

        Args:
            n: First group that trains; negative numbers count from the end.
        """
        norms = norm_parameters(self.model) if self.train_bn else ()
        freeze_to(self.groups, n, train_norms=norms)
        self._optimiser = None

    def fit(self, n_epoch: int, lr: Rates | None = None) -> None:
        """Train at constant rates.

        Args:
            n_epoch: Passes over the training pictures.
            lr: One rate, a slice, or one per group; None is the learner's own.

        Raises:
            ConfigError: A number cannot work.
            TrainingError: The loss is not finite any more, or there is nothing to train on.
        """
        num_steps = self._num_steps(n_epoch)
        rates = rates_per_group(self.lr if lr is None else lr, num_groups=len(self.groups))
        self._fit(n_epoch, schedule=constant(num_steps, rates=rates), stage="fit")

    def fit_one_cycle(
        self,
        n_epoch: int,
        lr_max: Rates | None = None,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] | None = None,
    ) -> None:
        """Train with the one-cycle policy (``schedules.one_cycle``).

        Args:
            n_epoch: Passes over the training pictures.
            lr_max: Rates at the peak: one, a slice, or one per group; None is the learner's own.
            div: The cycle starts at ``lr_max / div``.
            div_final: It ends at ``lr_max / div_final``.
            pct_start: Part of the cycle that rises.
            moms: Momentum at the start, the peak and the end; None is the learner's own.

        Raises:
            ConfigError: A number cannot work.
            TrainingError: The loss is not finite any more, or there is nothing to train on.
        """
        schedule = self._cycle(n_epoch, lr_max, div, div_final, pct_start, moms)
        self._fit(n_epoch, schedule=schedule, stage="one cycle")

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        freeze_epochs: int = 1,
        lr_mult: float = 100,
        pct_start: float = 0.3,
        div: float = 5.0,
        div_final: float = 1e5,
        moms: tuple[float, float, float] | None = None,
    ) -> None:
        """Train the head with the body frozen, then everything with smaller rates for earlier layers.

        Args:
            epochs: Passes over the training pictures with everything trained.
            base_lr: Peak rate of the head in the frozen phase; half of it afterwards.
            freeze_epochs: Passes with the body frozen.
            lr_mult: The earliest layers train at a rate so many times lower than the head.
            pct_start: Part of the second cycle that rises.
            div: The second cycle starts at its peak rate / div.
            div_final: Both cycles end at the peak rate / div_final.
            moms: Momentum at the start, the peak and the end; None is the learner's own.

        Raises:
            ConfigError: A number cannot work.
            TrainingError: The loss is not finite any more, or there is nothing to train on.
        """
        if not lr_mult > 0:
            raise ConfigError(f"lr_mult is positive. Received: {lr_mult}")
        # Both before the first step: a bad number of the second would otherwise be found after the first was trained.
        frozen = self._cycle(freeze_epochs, slice(base_lr), 25.0, div_final, 0.99, moms)
        rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
        unfrozen = self._cycle(epochs, rates, div, div_final, pct_start, moms)
        self.freeze()
        self._fit(freeze_epochs, schedule=frozen, stage="frozen")
        self.unfreeze()
        self._fit(epochs, schedule=unfrozen, stage="unfrozen")

    def predictions(self, ds_idx: int = 1) -> Predictions:
        """Return what the model says of the training (0) or validation (1) pictures, prepared as in validation.

        Raises:
            ConfigError: ``ds_idx`` is neither.
        """
        if ds_idx not in (0, 1):
            raise ConfigError(
                f"ds_idx is 0 for training or 1 for validation pictures. Received: {ds_idx!r}"
            )
        return self._predict(
            self.dls.valid if ds_idx == 1 else self.dls.loader_for(self.dls.train.rows)
        )

    def get_preds(self, ds_idx: int = 1) -> tuple[Tensor, Tensor]:
        """Return probabilities float32 ``(N, C)`` and targets int64 ``(N,)`` of a split, on the CPU, in its order."""
        predictions = self.predictions(ds_idx)
        return predictions.probabilities, predictions.targets

    def validate(self, ds_idx: int = 1) -> list[float]:
        """Return the loss and the metrics on a split."""
        return self._measure(self.predictions(ds_idx))

    def predict(self, item: AnyPicture) -> Prediction:
        """Return what the model says of one picture; unpacks as (label, index, probabilities).

        Args:
            item: A path, the bytes of a file, a uint8 array ``(H, W, 3)`` or a Pillow picture, which stays as it is.

        Raises:
            PictureError: The picture cannot be read.
        """
        predictor = Predictor(self.model, resize=self.dls.items, augmentation=self.dls.augmentation)
        return predictor.predict(item)

    def export(self, fname: Path | str = "model.safetensors") -> Path:
        """Write the model as one safe file that ``load_learner`` and ``vizsla predict`` open; the learner stays as it is.

        Args:
            fname: File to write.

        Returns:
            The path.

        Raises:
            OutputError: The file cannot be written; an old one is untouched.
            ConfigError: The network, or an item transform, is of your own making: a file without code cannot hold it.
        """
        from vizsla.evaluate.metrics import summarise

        resize, augmentation = storable(self.dls.items, self.dls.augmentation)
        return save_bundle(
            fname,
            classifier=self.model,
            resize=resize,
            augmentation=augmentation,
            metrics=summarise(self.predictions()),
            data_fingerprint=fingerprint(self.dls.table),
        )

    def _cycle(
        self,
        n_epoch: int,
        lr_max: Rates | None,
        div: float,
        div_final: float,
        pct_start: float,
        moms: tuple[float, float, float] | None,
    ) -> Schedule:
        return one_cycle(
            self._num_steps(n_epoch),
            peak_rates=rates_per_group(
                self.lr if lr_max is None else lr_max, num_groups=len(self.groups)
            ),
            div=div,
            div_final=div_final,
            pct_start=pct_start,
            momenta=self.moms if moms is None else moms,
        )

    def _num_steps(self, n_epoch: object) -> int:
        if not isinstance(n_epoch, int) or isinstance(n_epoch, bool) or n_epoch < 1:
            raise ConfigError(
                f"Train for a whole number of epochs, at least 1. Received: {n_epoch!r}"
            )
        if not len(self.dls.train):
            raise TrainingError("There are no training pictures.")
        return n_epoch * len(self.dls.train)

    def _fit(self, n_epoch: int, *, schedule: Schedule, stage: str) -> None:
        """Train and validate epoch by epoch, print the table, record everything."""
        if self._optimiser is None:
            self._optimiser = build_adamw(
                self.model,
                self.groups,
                weight_decay=self.wd,
                decay_norms_and_biases=self.wd_bn_bias,
            )
        smoothed = SmoothedLoss()
        self.display.header(
            ["epoch", "train_loss", "valid_loss", *self.recorder.metric_names, "time"]
        )
        for epoch in range(n_epoch):
            started = time.monotonic()
            self._train_epoch(epoch, n_epoch, schedule=schedule, smoothed=smoothed)
            predictions = self.predictions()
            values = [smoothed.value, *self._measure(predictions)]
            seconds = time.monotonic() - started
            self.recorder.values.append(values)
            self.recorder.history.append(
                HistoryPoint(
                    stage=stage,
                    epoch=len(self.recorder.history),
                    train_loss=values[0],
                    valid_loss=values[1],
                    accuracy=float(predictions.correct.float().mean()),
                    seconds=seconds,
                )
            )
            self.display.row(
                [str(epoch), *(f"{value:.6f}" for value in values), format_seconds(seconds)]
            )

    def _train_epoch(
        self, epoch: int, n_epoch: int, *, schedule: Schedule, smoothed: SmoothedLoss
    ) -> None:
        if self._optimiser is None:
            raise TrainingError("There is no optimiser; call fit, fit_one_cycle or fine_tune.")
        num_batches = len(self.dls.train)
        with self.display.bar(
            f"epoch {epoch + 1}/{n_epoch}", total=num_batches, unit="batches"
        ) as move:

            def on_read(done: int, fresh: list[float]) -> None:
                smoothed.add(fresh)
                move(done, f"loss {smoothed.value:.4f}")

            context = StepContext(
                model=self.model,
                loss_function=self.loss_func,
                optimiser=self._optimiser,
                schedule=schedule,
                precision=self.precision,
                on_read=on_read,
            )
            if self.train_bn:
                self.model.train()
            else:
                train_mode(self.model)
            # Epochs are counted over all fits: no two see the same crops in the same order.
            position = len(self.recorder.history)
            batches = self.dls.train.batches(epoch=position)
            first_step = epoch * num_batches
            seed = derive_seed(self.dls.seed, f"dropout of epoch {position}")
            with own_random_numbers(seed, device=self.dls.device):
                self.recorder.losses += train_epoch(context, batches, first_step=first_step)
            done = schedule.learning_rates[first_step : first_step + num_batches]
            self.recorder.lrs += [rates[-1] for rates in done]

    def _predict(self, loader: DataLoader) -> Predictions:
        return predict_batches(
            self.model, loader.batches(), table=self.dls.table, precision=self.precision
        )

    def _measure(self, predictions: Predictions) -> list[float]:
        logits, targets = predictions.logits, predictions.targets
        return [float(function(logits, targets)) for function in (self.loss_func, *self.metrics)]


def _as_tuple(
    metrics: MetricFunction | Sequence[MetricFunction] | None,
) -> tuple[MetricFunction, ...]:
    if metrics is None:
        return ()
    return (metrics,) if callable(metrics) else tuple(metrics)


def _name(metric: MetricFunction) -> str:
    return getattr(metric, "__name__", type(metric).__name__)
