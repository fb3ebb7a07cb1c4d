"""A classifier with a fitted head in, the same classifier trained end to end out; the best state is remembered on the way.

Norms stay as they were pretrained: the head was fitted on features in evaluation mode, so training starts from exactly its
accuracy, at low rates.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torch.nn import functional as F

from vizsla.augment.policy import aug_transforms
from vizsla.data.dataloaders import DataLoader, DataLoaders
from vizsla.data.presize import Resize
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.infer.run import predict_batches
from vizsla.models.groups import freeze_to, norm_parameters, parameter_groups, train_mode
from vizsla.train.features_first import show_point
from vizsla.train.loop import SmoothedLoss, StepContext, train_epoch
from vizsla.train.optim import build_adamw
from vizsla.train.schedules import one_cycle

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch

    from vizsla.data.dataloaders import DataLoader
    from vizsla.evaluate.predictions import Predictions
    from vizsla.infer.run import Precision
    from vizsla.models.classifier import Classifier
    from vizsla.train.progress import Display

RATE_SHARES = (0.2, 1.0, 0.1)
"""Of the peak rate, for early body, late body and head. The early body knows most already. The head was fitted to the
optimum of its features and is wide: one Adam step moves its logits by the rate times the number of features.
"""


class BestState:
    """The weights with the lowest validation loss so far, and what they predict.

    Args:
        classifier: The one that is being trained; the given predictions are those of its present weights.
        predictions: On the validation pictures.
        name: Of the present state, for people.
    """

    def __init__(self, classifier: Classifier, *, predictions: Predictions, name: str) -> None:
        self.classifier = classifier
        self.predictions = predictions
        self.name = name
        self._weights = _copied(classifier)

    def offer(self, predictions: Predictions, *, name: str) -> None:
        """Take the present weights if their validation loss is lower."""
        if predictions.losses.mean() < self.predictions.losses.mean():
            self.predictions = predictions
            self.name = name
            self._weights = _copied(self.classifier)

    def restore(self) -> None:
        """Put the best weights back into the classifier."""
        self.classifier.load_state_dict(self._weights)


def train_end_to_end(
    loaders: DataLoaders,
    *,
    best: BestState,
    epochs: int,
    presize: int,
    learning_rate: float,
    precision: Precision,
    display: Display,
) -> Generator[HistoryPoint]:
    """Train body and head together by one cycle, yield each epoch's results, and offer each state to ``best``.

    Args:
        loaders: Their validation pictures are predicted after each epoch; their seed, workers, device and cache are used.
        best: Holds the classifier, which is trained in place.
        epochs: Passes over the training pictures.
        presize: Short side, in pixels, at which training pictures are kept for random crops.
        learning_rate: Peak rate of the late body; see ``RATE_SHARES``.
        precision: Of the forward pass.
        display: Shows bars and a row per epoch.

    Yields:
        The results of each epoch.

    Raises:
        TrainingError: The loss is not finite any more.
        PictureError: A picture cannot be read.
    """
    classifier = best.classifier
    train = _training_loader(loaders, presize=presize)
    groups = parameter_groups(classifier)
    freeze_to(groups, 0)
    for parameter in norm_parameters(classifier):
        parameter.requires_grad_(False)  # noqa: FBT003 (the only way to call it)
    train_mode(classifier)
    schedule = one_cycle(
        epochs * len(train),
        peak_rates=tuple(share * learning_rate for share in RATE_SHARES),
    )
    optimiser = build_adamw(classifier, groups)
    smoothed = SmoothedLoss()
    for epoch in range(epochs):
        started = time.monotonic()
        with display.bar(f"epoch {epoch + 1}/{epochs}", total=len(train), unit="batches") as move:

            def on_read(done: int, fresh: list[float]) -> None:
                smoothed.add(fresh)
                move(done, f"loss {smoothed.value:.4f}")

            context = StepContext(
                model=classifier,
                loss_function=F.cross_entropy,
                optimiser=optimiser,
                schedule=schedule,
                precision=precision,
                on_read=on_read,
            )
            train_epoch(context, train.batches(epoch=epoch), first_step=epoch * len(train))
        predictions = predict_batches(
            classifier, loaders.valid.batches(), table=loaders.table, precision=precision
        )
        best.offer(predictions, name=f"epoch {epoch + 1}")
        point = HistoryPoint(
            stage="end to end",
            epoch=epoch + 1,
            train_loss=smoothed.value,
            valid_loss=float(predictions.losses.mean()),
            accuracy=float(predictions.correct.float().mean()),
            seconds=time.monotonic() - started,
        )
        show_point(point, display=display)
        yield point


def _training_loader(loaders: DataLoaders, *, presize: int) -> DataLoader:
    """Return a loader of the same training pictures that keeps them at the presize, in the same cache, and augments them."""
    size = loaders.final_size
    return DataLoaders(
        loaders.table,
        resize=Resize(presize),
        transforms=aug_transforms(size=size, min_scale=0.75),
        batch_size=loaders.bs,
        seed=loaders.seed,
        num_workers=loaders.num_workers,
        device=loaders.device,
        cache=loaders.cache,
        truncated=loaders.reader.truncated,
    ).train


def _copied(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in classifier.state_dict().items()}
