"""The second stage: a classifier with a fitted head is trained end to end, and its best state is kept.

Norms stay as they were pretrained: the head was fitted on features in evaluation mode, so training starts at exactly its
accuracy, at low rates.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from vizsla.augment.geometry import Flip
from vizsla.augment.presets import aug_transforms
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.loading.order import balancing_weights
from vizsla.errors import ModelFileError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.models.groups import norm_parameters
from vizsla.recipe.features_first import show_point
from vizsla.recipe.flips import Flips
from vizsla.train.callbacks.base import Callback, Fit, as_callbacks
from vizsla.train.checkpoint import BestWeights
from vizsla.train.rates.schedules import one_cycle
from vizsla.train.step import resolve_precision
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from vizsla.augment.batch_augmentation import BatchTransform
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.train.callbacks.base import Callbacks
    from vizsla.train.display import Display
    from vizsla.types import Size

END_TO_END = "end to end"
"""Name of the stage in the history."""

RATE_SHARES = (0.2, 1.0, 0.1)
"""Of the peak rate, for early body, late body and head. The early body has the least to learn. The head is at the optimum of
its features and is wide: one Adam step moves its logits by the rate times the number of features.
"""

STRENGTHS: dict[str, dict[str, float]] = {
    "light": {"min_scale": 0.9, "mult": 0.5, "max_zoom": 1.05},
    "default": {"min_scale": 0.75},
    "strong": {"min_scale": 0.5, "mult": 2.0, "max_zoom": 1.2},
}
"""Arguments of ``aug_transforms`` for each strength of augmentation."""


class BestState:
    """The weights of a classifier in training with the lowest validation loss so far, with their predictions and a name in words.

    ``balanced``: each class has the same part in that loss.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        predictions: Predictions,
        name: str,
        balanced: bool = False,
    ) -> None:
        self.balanced = balanced
        self.classifier = classifier
        self.predictions = predictions
        self.name = name
        self._best = BestWeights()
        self._best.keep(classifier)

    def offer(self, predictions: Predictions, *, name: str) -> bool:
        """Keep the present weights if their validation loss is lower; return whether it is."""
        if not self._loss(predictions) < self._loss(self.predictions):
            return False
        self.predictions = predictions
        self.name = name
        self._best.keep(self.classifier)
        return True

    def _loss(self, predictions: Predictions) -> Tensor:
        if not self.balanced:
            return predictions.losses.mean()
        known = predictions.labelled
        weights = balancing_weights(predictions.targets[known])
        return (predictions.losses[known] * weights).sum() / weights.sum()

    def restore(self) -> None:
        """Put the best weights back into the classifier."""
        self._best.put_back(self.classifier)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {
            "name": self.name,
            "pictures": self._images(),
            "logits": self.predictions.logits,
            **self._best.state(),
        }

    def load_state(self, state: dict[str, Any], *, predict: Callable[[], Predictions]) -> None:
        """Continue from what ``state`` returned; if it was about other images, ``predict`` is called with its weights."""
        self.name = state["name"]
        self._best.load_state(state)
        if state["pictures"] == self._images():
            self.predictions = replace(self.predictions, logits=state["logits"])
            return
        present = BestWeights()
        present.keep(self.classifier)
        self.restore()
        self.predictions = predict()
        present.put_back(self.classifier)

    def _images(self) -> str:
        """Return a digest of the paths of the predicted images."""
        return hashlib.sha256("\n".join(self.predictions.paths).encode()).hexdigest()


def train_end_to_end(
    loaders: DataLoaders,
    *,
    best: BestState,
    history: list[HistoryPoint],
    notes: Mapping[str, Any],
    config: TrainConfig,
    display: Display,
    flips: Flips | None = None,
    cbs: Callbacks = None,
) -> None:
    """Train body and head together by one cycle, add a point per epoch to ``history``, and offer each state to ``best``.

    The loaders' validation images are predicted after each epoch; their seed, workers, device and cache are used. ``notes`` on
    what was done before are kept in checkpoints. ``flips`` are those that ``config`` asks for, unless others were decided on.
    """
    trainer = end_to_end_trainer(
        loaders, best.classifier, config=config, display=display, flips=flips
    )
    epochs = config.epochs_on(loaders.device)
    schedule = one_cycle(
        epochs * len(trainer.dls.train),
        peak_rates=tuple(share * config.learning_rate for share in RATE_SHARES),
    )
    trainer.run(
        schedule,
        n_epoch=epochs,
        stage=END_TO_END,
        cbs=[
            OfferEpochs(best, history=history, notes=notes, patience=config.patience),
            *as_callbacks(cbs),
        ],
    )


def end_to_end_trainer(
    loaders: DataLoaders,
    classifier: Classifier,
    *,
    config: TrainConfig,
    display: Display,
    flips: Flips | None = None,
) -> Trainer:
    """Return a trainer of everything but the norms; its arguments are those of ``train_end_to_end``."""
    flips = Flips.asked_for(config) if flips is None else flips
    training = DataLoaders(
        loaders.table,
        resize=loaders.reader.items if config.augment == "none" else config.resizing(presized=True),
        transforms=_training_transforms(config, size=loaders.final_size, flips=flips),
        batch_size=loaders.bs,
        seed=loaders.seed,
        num_workers=loaders.num_workers,
        device=loaders.device,
        cache=loaders.cache,
        truncated=loaders.reader.truncated,
        balance=loaders.balance,
    )
    training.valid = loaders.valid  # prepared as before
    trainer = Trainer(
        training,
        classifier,
        train_bn=False,
        precision=resolve_precision(config.precision, device=loaders.device, model=classifier),
        compress_gradients=config.compress_gradients,
        show_table=False,
    )
    trainer.display = display
    trainer.unfreeze()
    for parameter in norm_parameters(classifier):
        parameter.requires_grad_(False)  # noqa: FBT003 (the only way to call it)
    return trainer


def _training_transforms(
    config: TrainConfig, *, size: Size | None, flips: Flips
) -> list[BatchTransform]:
    """Return what training images go through; with no augmentation only the asked-for flips, at the size that they have."""
    vertical = [Flip(vertical=True)] if flips.upside_down else []
    if config.augment == "none":
        return [*([Flip()] if flips.sideways else []), *vertical]
    strength: dict[str, Any] = STRENGTHS[config.augment]
    if not config.colour:
        strength = {**strength, "max_lighting": 0.0}
    return aug_transforms(size=size, do_flip=flips.sideways, xtra_tfms=vertical, **strength)


class OfferEpochs(Callback):
    """Shows each epoch, adds it to the history of the run, and offers its state; ``notes`` are kept in checkpoints.

    After ``patience`` epochs in a row that are not the best so far it ends the fit; 0 never does.
    """

    def __init__(
        self,
        best: BestState,
        *,
        history: list[HistoryPoint],
        notes: Mapping[str, Any],
        patience: int = 0,
    ) -> None:
        self.best = best
        self.history = history
        self.notes = notes
        self.patience = patience
        self.wait = 0
        self._trainer: Trainer | None = None

    def before_fit(self, fit: Fit) -> None:
        """Remember the trainer, for ``load_state``."""
        self._trainer = fit.trainer

    def before_epoch(self, fit: Fit) -> None:
        """Refuse to train a head that a checkpoint was to bring and did not."""
        if not self.best.name:
            raise ModelFileError(
                f"The checkpoint to continue from was lost before epoch {fit.epoch + 1}, and the fitted head with it. "
                "Leave out --resume to train from the start."
            )

    def after_epoch(self, fit: Fit) -> None:
        """Record the epoch."""
        if fit.predictions is not None:
            is_best = self.best.offer(fit.predictions, name=f"epoch {fit.epoch + 1}")
            self.wait = 0 if is_best else self.wait + 1
        point = replace(fit.trainer.recorder.history[-1], epoch=fit.epoch + 1)
        show_point(point, display=fit.trainer.display)
        self.history.append(point)
        if self.patience and self.wait >= self.patience and fit.step < fit.num_steps:
            fit.stop(
                f"Stopped after epoch {fit.epoch + 1} of {fit.n_epoch}: no lower validation loss in {self.wait} epochs (--patience)."
            )

    def state(self) -> dict[str, Any]:
        """Return the results so far, and the settings of the head."""
        return {
            "head": self.best.classifier.head.config(),  # pyright: ignore[reportCallIssue] (heads have it)
            "notes": dict(self.notes),
            "history": [asdict(point) for point in self.history],
            "wait": self.wait,
            **self.best.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from them."""
        self.history[:] = [HistoryPoint(**point) for point in state["history"]]
        self.wait = state.get("wait", 0)  # earlier checkpoints have none
        if self._trainer is not None:
            self.best.load_state(state, predict=self._trainer.predictions)
