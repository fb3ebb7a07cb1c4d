"""Average the weights of many steps or epochs: the average often predicts better than the last of them.

``torch.optim.swa_utils.AveragedModel`` and timm's ``ModelEmaV3`` are not used: both keep a deep copy of the whole model and save it
under other names, torch's begins at the weights after the first step and has no slow start, and timm's slow start is another one.
The kernel is the same, one call over all tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback
from vizsla.train.checkpoint import BestWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.trainer import Trainer

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class EMACallback(Callback):
    """Keeps an exponential moving average of the weights, validates it, and leaves it in the model at the end.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the running statistics of batch norms
    are averaged too. The average begins slowly, ``min(decay, (1 + steps) / (10 + steps))``, so that in a short fit the initial
    weights do not dominate it.

    Args:
        decay: Share of the old average at each step.
        start: Share of the weights from before the fit that is mixed into the result, from 0 to below 1. At 0.5 it is about
            as good as averaging the probabilities of both networks, at the cost of one (Wortsman et al., "Robust
            fine-tuning of zero-shot models", CVPR 2022).

    Raises:
        ConfigError: A number is out of range.
    """

    order = -10

    def __init__(self, decay: float = 0.999, *, start: float = 0.0) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"decay must be between 0 and 1. Received: {decay}")
        if not 0 <= start < 1:
            raise ConfigError(f"start must be a share from 0 to below 1. Received: {start}")
        self.decay = decay
        self.start = start
        self.steps = 0
        self._start: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def before_fit(self, fit: Fit) -> None:
        """Begin the average at the present weights."""
        self.steps = 0
        self._raw = None
        self._average = copy_of_floats(fit.trainer.model)
        self._start = copy_of_floats(fit.trainer.model) if self.start else {}

    @torch.no_grad()
    def after_step(self, fit: Fit) -> None:
        """Move the average a little towards the weights."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        values = _floats(fit.trainer.model)
        # torch's own averaged models use this call too.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            list(self._average.values()), [values[name] for name in self._average], share
        )

    def before_validate(self, fit: Fit) -> None:
        """Put the average into the model."""
        self._raw = copy_of_floats(fit.trainer.model)
        self._put_average(fit)

    def before_epoch(self, fit: Fit) -> None:
        """Continue training with the weights themselves."""
        if self._raw is not None:
            put_weights(fit.trainer.model, self._raw)
            self._raw = None

    def after_fit(self, fit: Fit) -> None:
        """Leave the average, also where the fit ended within an epoch."""
        if self.steps and self._raw is None:
            self._put_average(fit)
        self._average, self._start, self._raw = {}, {}, None

    def _put_average(self, fit: Fit) -> None:
        mixed = mix_weights(self._start, self._average, 1 - self.start) if self.start else None
        put_weights(fit.trainer.model, self._average if mixed is None else mixed)

    def state(self) -> dict[str, Any]:
        """Return the average and its age, and the weights themselves while the average is in their place."""
        return {
            "steps": self.steps,
            **{f"ema/{name}": value for name, value in self._average.items()},
            **{f"raw/{name}": value for name, value in (self._raw or {}).items()},
            **{f"start/{name}": value for name, value in self._start.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the average from ``state``."""
        self.steps = state["steps"]
        for name, value in self._average.items():
            value.copy_(state[f"ema/{name}"])
        for name, value in self._start.items():
            value.copy_(state[f"start/{name}"])
        raw = {name[4:]: value for name, value in state.items() if name.startswith("raw/")}
        self._raw = raw or None


class WeightSoup(Callback):
    """Averages the weights at the ends of the last epochs, and leaves the average if it has the lower validation loss.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018 (arXiv 1803.05407); Wortsman
    et al., "Model soups", 2022 (arXiv 2203.05482). Batch norms that were trained get new statistics from one pass over the
    training images.

    Args:
        last: How many epochs to average, counted from the end.

    Raises:
        ConfigError: ``last`` is less than 2.
    """

    order = 50

    def __init__(self, last: int = 3) -> None:
        if last < 2:
            raise ConfigError(f"An average needs at least 2 epochs. Received: last={last!r}")
        self.last = last
        self._ingredients: list[dict[str, Tensor]] = []

    def before_fit(self, fit: Fit) -> None:
        """Forget the epochs of an earlier fit."""
        del fit
        self._ingredients = []

    def after_epoch(self, fit: Fit) -> None:
        """Copy the weights of one of the last epochs."""
        if fit.n_epoch - fit.epoch <= self.last:
            self._ingredients.append(copy_of_floats(fit.trainer.model))

    def after_fit(self, fit: Fit) -> None:
        """Average, validate, and leave the better of the two in the model."""
        ingredients, self._ingredients = self._ingredients, []
        if fit.error is not None or len(ingredients) < 2:
            return
        trainer = fit.trainer
        single = BestWeights()
        single.keep(trainer.model)
        soup = {
            name: torch.stack([each[name] for each in ingredients]).mean(dim=0)
            for name in ingredients[0]
        }
        put_weights(trainer.model, soup)
        renew_batch_norms(trainer)
        found = trainer.predictions()
        loss = trainer.measure(found)[0]
        before = fit.values["valid_loss"]
        better = loss < before
        if not better:
            single.put_back(trainer.model)
        trainer.display.line(
            f"Average of the weights of {len(ingredients)} epochs: valid_loss {loss:.6f}, the last epoch alone {before:.6f}; "
            f"kept: {'the average' if better else 'the last epoch'}."
        )

    def state(self) -> dict[str, Any]:
        """Return the copies."""
        return {
            f"soup/{number}/{name}": value
            for number, each in enumerate(self._ingredients)
            for name, value in each.items()
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the copies from ``state``."""
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            _, number, name = key.split("/", 2)
            found.setdefault(int(number), {})[name] = value
        self._ingredients = [found[number] for number in sorted(found)]


@torch.no_grad()
def renew_batch_norms(trainer: Trainer) -> None:
    """Measure the statistics of all batch norms that train anew, in one pass over the training images."""
    norms = [
        part
        for part in trainer.model.modules()
        if isinstance(part, _BATCH_NORMS) and part.track_running_stats
    ]
    trainer.training_mode()
    moving = [norm for norm in norms if norm.training]
    trainer.model.eval()
    if not moving:
        return
    momenta = {norm: norm.momentum for norm in moving}
    for norm in moving:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    try:
        for batch in trainer.dls.train.batches(epoch=trainer.epochs_done):
            trainer.classifier(batch.images)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        trainer.model.eval()


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that can be averaged: all but the counters of norms."""
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if value.is_floating_point()}


def copy_of_floats(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the parameters and buffers that can be averaged."""
    return {name: value.clone() for name, value in _floats(model).items()}


@torch.no_grad()
def put_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy what ``copy_of_floats`` returned into a model."""
    own = _floats(model)
    for name, value in values.items():
        own[name].copy_(value)


def mix_weights(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return the weights that lie the ``share`` of the way from ``start`` to ``end``."""
    return {name: torch.lerp(value, end[name], share) for name, value in start.items()}
