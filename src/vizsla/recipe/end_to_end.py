"""The second stage: a classifier with a fitted head is trained end to end, where that pays.

Norms stay as they were pretrained: the head was fitted on features in evaluation mode, so training starts at exactly its
accuracy, at low rates. Whether it pays is tried first on a part of the training images and judged by the others: the head alone, the
trained weights and those half way between the two compete. The validation images that are reported decide nothing.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from vizsla.augment.geometry import Flip
from vizsla.augment.presets import aug_transforms
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.loading.order import balancing_weights
from vizsla.errors import ModelFileError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.evaluate.statistics import normal_quantile
from vizsla.models.classifier import evaluation_mode
from vizsla.models.groups import norm_parameters
from vizsla.models.layers import in_channels
from vizsla.recipe.features_first import EPOCH_COLUMNS, show_point
from vizsla.recipe.flips import Flips
from vizsla.text import counted
from vizsla.train.callbacks.averaging import (
    EMACallback,
    copy_of_floats,
    mix_weights,
    put_weights,
)
from vizsla.train.callbacks.base import Callback, Fit, FitSettings, as_callbacks
from vizsla.train.checkpoint import BestWeights
from vizsla.train.display import format_seconds
from vizsla.train.distributed import STEPS_BETWEEN_READS, any_of
from vizsla.train.rates.schedules import Schedule
from vizsla.train.step import resolve_precision
from vizsla.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from vizsla.augment.batch_augmentation import BatchTransform
    from vizsla.data.images.item_transforms import ItemPipeline, ItemTransforms
    from vizsla.evaluate.predictions import Predictions
    from vizsla.models.classifier import Classifier
    from vizsla.recipe.config import TrainConfig
    from vizsla.recipe.features_first import HeldOut
    from vizsla.train.callbacks.base import Callbacks
    from vizsla.train.display import Display
    from vizsla.types import ImageTable, Size

END_TO_END = "end to end"
"""Name of the stage in the history."""

TRIAL = "trial"
"""Name of what is tried on a part of the training images."""

TRIAL_SHARE = 0.9
"""Of the seconds that there are: the rest is for predictions and for an epoch that takes longer."""
HALF_WAY = 0.5
MOST_SAVED_BYTES = 3_000_000_000
"""Of what a step keeps for its gradients on a CPU: 32 images of 224 pixels in the default network are 2.5 GB, in it and the next one
together at 320 pixels 12.2 GB.
"""
EMA_DECAY = 0.99
WARM_UP_STEPS = 50
FEWEST_STEPS, MOST_STEPS, PATIENCE_STEPS = 200, 20_000, 100
"""Where epochs are not given: of the schedule, and how many steps may pass without a lower loss, besides half of those before."""

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
    """The weights of a classifier in training that are kept so far, with their predictions and a name in words."""

    def __init__(self, classifier: Classifier, *, predictions: Predictions, name: str) -> None:
        self.classifier = classifier
        self.predictions = predictions
        self.name = name
        self._best = BestWeights()
        self._best.keep(classifier)

    def keep(self, predictions: Predictions, *, name: str) -> None:
        """Keep the present weights instead."""
        self.predictions = predictions
        self.name = name
        self._best.keep(self.classifier)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What training end to end is worth, as images say that it did not see.

    Attributes:
        epochs: How many to train on all training images.
        share: How far to go from the weights before to those that were trained: 1, half way, or 0: keep the former.
        line: What was found, for people; empty where nothing was tried.
    """

    epochs: int
    share: float = 1.0
    line: str = ""


def try_end_to_end(
    loaders: DataLoaders,
    *,
    start: Classifier,
    held_out: HeldOut,
    config: TrainConfig,
    display: Display,
    flips: Flips | None = None,
    seconds: float | None = None,
) -> Trial:
    """Train a copy without a part of the training images, and compare on these what it says with what ``start`` says of them.

    The validation images have no part in it, and neither ``start`` nor its head may know the images that are held out.
    ``config.epochs`` are judged at their end, or with ``config.patience`` at the best one; where they are "auto", as many as pay, with
    ``seconds`` in such a time that training on all images afterwards ends within them too.

    Of all states the one counts whose gain is surest, by the lower end of its 95 % interval: often the one half way, which gains
    less and errs less. Training pays where that end is above 0 with the images that did not choose the state: on 95 images the best
    of 20 states looks better by 0.01 than it is (``benchmarks/LOG.md``).
    """
    if seconds is not None and seconds <= 0:
        return Trial(epochs=0, share=0.0, line="No time was left to train end to end.")
    classifier = copy.deepcopy(start).place(loaders.device)
    part = replace(loaders.table, train_rows=held_out.rest, valid_rows=held_out.held)
    num_rest, num_held = len(held_out.rest), len(held_out.held)
    num_all = num_rest + num_held
    trainer = end_to_end_trainer(
        _like(loaders, part, resize=loaders.reader.items),
        classifier,
        config=config,
        display=display,
        flips=flips,
    )
    before = trainer.predictions()
    steps = len(trainer.dls.train)
    epochs = config.epochs_on(loaders.device)
    if seconds is not None:
        epochs = max(1, MOST_STEPS // steps)
        seconds *= TRIAL_SHARE * num_rest / (num_rest + num_all)
    elif config.epochs == "auto":
        epochs = max(epochs, math.ceil(FEWEST_STEPS / steps))
    judge = _Judge(
        before,
        balanced=loaders.balance != "none",
        is_any_epoch=config.chooses_epochs,
        patience=config.patience * steps,
        seconds=seconds,
    )
    within = "" if seconds is None else f" for at most {format_seconds(seconds)}"
    display.line(
        f"Trying end-to-end training{within} without {num_held:,} of {num_all:,} training images, which then judge it."
    )
    schedule = _schedule(epochs * steps, config=config)
    trainer.run(schedule, epochs, TRIAL, cbs=[InParts(), EMACallback(EMA_DECAY), judge])
    found, line = judge.best, "Nothing could be tried"
    gain, least = judge.gain
    if found is not None:
        how = "" if found.share == 1 else " half way"
        line = (
            f"Mean loss of the held-out training images {judge.loss_before:.4f} with the head alone, lower by {gain:.4f}{how} after "
            f"{counted(found.epochs, 'epoch', 'epochs')} (by {least:.4f} at least, with 95 % confidence)"
        )
    if found is None or least <= 0:
        found = Trial(epochs=0, share=0.0)
    line += f"; {'training end to end pays' if found.share else 'the head alone stays'}."
    display.line(line)
    return replace(found, epochs=found.epochs if config.chooses_epochs else epochs, line=line)


def train_end_to_end(
    loaders: DataLoaders,
    *,
    best: BestState,
    trial: Trial,
    history: list[HistoryPoint],
    notes: Mapping[str, Any],
    config: TrainConfig,
    display: Display,
    flips: Flips | None = None,
    cbs: Callbacks = None,
) -> None:
    """Train body and head together as a trial found it best, and add a point per epoch to ``history``.

    The loaders' validation images are predicted after each epoch and decide nothing; their seed, workers, device and cache are
    used. ``best`` keeps the last epoch, unless the trial had no use for it. ``notes`` on what was done before are kept in checkpoints.
    ``flips`` are those that ``config`` asks for, unless others were decided on.
    """
    trainer = end_to_end_trainer(
        loaders, best.classifier, config=config, display=display, flips=flips
    )
    trainer.run(
        _schedule(trial.epochs * len(trainer.dls.train), config=config),
        n_epoch=trial.epochs,
        stage=END_TO_END,
        cbs=[
            InParts(),
            EMACallback(EMA_DECAY, start=1 - (trial.share or 1.0)),
            OfferEpochs(best, history=history, notes=notes, is_kept=bool(trial.share)),
            *as_callbacks(cbs),
        ],
    )


def _like(
    loaders: DataLoaders,
    table: ImageTable,
    *,
    resize: ItemTransforms | ItemPipeline,
    transforms: Sequence[BatchTransform] = (),
) -> DataLoaders:
    """Return loaders with the options of others."""
    return DataLoaders(
        table,
        resize=resize,
        transforms=transforms,
        batch_size=loaders.bs,
        seed=loaders.seed,
        num_workers=loaders.num_workers,
        device=loaders.device,
        cache=loaders.cache,
        truncated=loaders.reader.truncated,
        balance=loaders.balance,
    )


def _schedule(num_steps: int, *, config: TrainConfig) -> Schedule:
    """Return rates that rise in the first steps and then stay: the average of the weights settles without a fall, at any step."""
    rising = min(WARM_UP_STEPS, max(1, num_steps // 4))
    return Schedule(
        rates=tuple(share * config.learning_rate for share in RATE_SHARES),
        factors=tuple(min(1.0, (step + 1) / rising) for step in range(num_steps)),
    )


class InParts(Callback):
    """Keeps what a step saves on a CPU within ``most_bytes``; norms that are not trained make the result that of the whole batch."""

    def __init__(self, most_bytes: int = MOST_SAVED_BYTES) -> None:
        self.most_bytes = most_bytes

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Choose how many parts a batch goes through in."""
        dls = fit.trainer.dls
        if dls.device.type != "cpu" or dls.final_size is None:
            return settings
        saved = dls.train.bs * saved_bytes(fit.trainer.classifier, size=dls.final_size)
        return replace(
            settings, parts=min(dls.train.bs, max(1, math.ceil(saved / self.most_bytes)))
        )


def saved_bytes(classifier: Classifier, *, size: Size) -> int:
    """Return how many bytes the forward pass of one image of ``(height, width)`` keeps for gradients, besides the weights."""
    weights = {parameter.data_ptr() for parameter in classifier.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            saved[tensor.data_ptr()] = tensor.nbytes
        return tensor.detach()

    image = torch.zeros(1, in_channels(classifier), *size)
    with (
        evaluation_mode(classifier),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        _logits = classifier(image)  # holds what is saved, so that no address is used twice
    return sum(saved.values())


class _Judge(Callback):
    """Compares each epoch of a trial, and the weights half way to it, with the state before it; ends the trial when it no longer pays."""

    def __init__(
        self,
        before: Predictions,
        *,
        balanced: bool,
        is_any_epoch: bool,
        patience: int,
        seconds: float | None,
    ) -> None:
        self.is_any_epoch = is_any_epoch
        self.patience = patience
        self.seconds = seconds
        self.before = before.losses.double()
        weights = torch.ones_like(self.before)
        if balanced:
            weights = balancing_weights(before.targets)
        self.weights = weights / weights.sum()
        self.loss_before = float(self.weights @ self.before)
        self.tried: list[tuple[Trial, Tensor]] = []
        self.best_loss = math.inf
        self.best_step = 0

    @property
    def best(self) -> Trial | None:
        """The state whose gain is surest; None if none was judged."""
        return self._surest(torch.ones_like(self.weights, dtype=torch.bool))

    @property
    def gain(self) -> tuple[float, float]:
        """The loss that is gained, and the lower end of its 95 % interval: each half of the images judges what the other half chose."""
        gains = torch.zeros_like(self.before)
        is_even = torch.arange(len(gains)) % 2 == 0  # neighbours are often of one class
        for judging in (is_even, ~is_even):
            chosen = self._surest(~judging)
            for trial, losses in self.tried:
                if trial is chosen:
                    gains[judging] = (self.before - losses)[judging]
        return self._interval(gains)

    def _surest(self, some: Tensor) -> Trial | None:
        """Return the state with the highest lower end on some of the images."""
        if not self.tried:
            return None
        ends = [
            self._interval((self.before - losses)[some], self.weights[some])[1]
            for _, losses in self.tried
        ]
        return self.tried[max(range(len(ends)), key=ends.__getitem__)][0]

    def _interval(self, gains: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
        """Return the mean of the gains of some images, and the lower end of its 95 % interval, endless where nothing is known."""
        weights = self.weights if weights is None else weights / weights.sum()
        mean, number = float(weights @ gains), len(gains)
        if number < 2 or not math.isfinite(mean):
            return mean, -math.inf
        squares = float((weights * (gains - mean)).square().sum()) * number / (number - 1)
        return mean, mean - normal_quantile() * math.sqrt(squares)

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Name the epochs."""
        del fit
        return replace(settings, epoch_name="trial")

    def before_fit(self, fit: Fit) -> None:
        """Remember where it begins."""
        self.started = time.monotonic()
        self.start = copy_of_floats(fit.trainer.model)

    def after_step(self, fit: Fit) -> None:
        """End the trial in an epoch that takes longer than there is time for."""
        if fit.step % STEPS_BETWEEN_READS == 0:
            self._end_in_time(fit)

    def after_epoch(self, fit: Fit) -> None:
        """Judge the weights."""
        if not self.is_any_epoch and fit.step < fit.num_steps:
            return
        trainer = fit.trainer
        self._judge(fit, fit.predictions or trainer.predictions(), share=1.0)
        trained = copy_of_floats(trainer.model)
        put_weights(trainer.model, mix_weights(self.start, trained, HALF_WAY))
        self._judge(fit, trainer.predictions(), share=HALF_WAY)
        put_weights(trainer.model, trained)
        waited = fit.step - self.best_step
        if self.patience:
            is_over = waited >= self.patience
        else:
            is_over = self.is_any_epoch and waited > PATIENCE_STEPS + self.best_step / 2
        if is_over and fit.step < fit.num_steps:
            fit.stop(f"More steps do not pay: no lower loss in {waited} steps.")
        self._end_in_time(fit)

    def _judge(self, fit: Fit, said: Predictions, *, share: float) -> None:
        losses = said.losses.double()
        self.tried.append((Trial(epochs=fit.epoch + 1, share=share), losses))
        if (loss := float(self.weights @ losses)) < self.best_loss:
            self.best_loss, self.best_step = loss, fit.step

    def _end_in_time(self, fit: Fit) -> None:
        if self.seconds is None:
            return
        if any_of(time.monotonic() - self.started > self.seconds):
            fit.stop("The time for the trial is over.")


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
    training = _like(
        loaders,
        loaders.table,
        resize=loaders.reader.items if config.augment == "none" else config.resizing(presized=True),
        transforms=_training_transforms(config, size=loaders.final_size, flips=flips),
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
    """Shows each epoch, adds it to the history of the run, and keeps its state; ``notes`` are kept in checkpoints."""

    def __init__(
        self,
        best: BestState,
        *,
        history: list[HistoryPoint],
        notes: Mapping[str, Any],
        is_kept: bool = True,
    ) -> None:
        self.best = best
        self.history = history
        self.notes = notes
        self.is_kept = is_kept
        self._trainer: Trainer | None = None

    def before_fit(self, fit: Fit) -> None:
        """Remember the trainer, for ``load_state``, and begin the table."""
        self._trainer = fit.trainer
        fit.trainer.display.header(EPOCH_COLUMNS)

    def before_epoch(self, fit: Fit) -> None:
        """Refuse to train a head that a checkpoint was to bring and did not."""
        if not self.best.name:
            raise ModelFileError(
                f"The checkpoint to continue from was lost before epoch {fit.epoch + 1}, and the fitted head with it. "
                "Leave out --resume to train from the start."
            )

    def after_epoch(self, fit: Fit) -> None:
        """Record the epoch."""
        if fit.predictions is not None and self.is_kept:
            self.best.keep(fit.predictions, name=f"epoch {fit.epoch + 1}")
        point = replace(fit.trainer.recorder.history[-1], epoch=fit.epoch + 1)
        show_point(point, display=fit.trainer.display)
        self.history.append(point)

    def state(self) -> dict[str, Any]:
        """Return the results so far, and the settings of the head."""
        return {
            "head": self.best.classifier.head.config(),  # pyright: ignore[reportCallIssue] (heads have it)
            "notes": dict(self.notes),
            "history": [asdict(point) for point in self.history],
            **self.best.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from them."""
        self.history[:] = [HistoryPoint(**point) for point in state["history"]]
        if self._trainer is not None:
            self.best.load_state(state, predict=self._trainer.predictions)
