"""Average the weights of many steps or epochs: the average often predicts better than the last of them.

``torch.optim.swa_utils.AveragedModel`` and timm's ``ModelEmaV3`` are not used: both keep a deep copy of the whole model, the first
begins at the weights after the first step and has no slow start, the second has another one, and what they save has other names.
The kernel is the same, one call over all tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback
from vizsla.train.checkpoint import Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.trainer import Trainer

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class EMACallback(Callback):
    """Keeps an exponential moving average of the weights; it is what is validated, and what is left at the end.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the running statistics of batch norms
    are averaged too. The average begins slowly, ``min(decay, (1 + steps) / (10 + steps))``, so that a short fit is not an
    average with its own start.

    Args:
        decay: Share of the past in each step.

    Raises:
        ConfigError: ``decay`` is not between 0 and 1.
    """

    order = -10

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"decay lies between 0 and 1. Received: {decay}")
        self.decay = decay
        self.steps = 0
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def before_fit(self, fit: Fit) -> None:
        """Begin the average at the present weights."""
        self.steps = 0
        self._raw = None
        self._average = {
            name: value.detach().clone() for name, value in _floats(fit.trainer.model).items()
        }

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
        """Put the average in."""
        values = _floats(fit.trainer.model)
        self._raw = {name: value.detach().clone() for name, value in values.items()}
        _put(fit.trainer.model, self._average)

    def before_epoch(self, fit: Fit) -> None:
        """Train on with the weights themselves; until now everybody saw the average."""
        if self._raw is not None:
            _put(fit.trainer.model, self._raw)
            self._raw = None

    def after_fit(self, fit: Fit) -> None:
        """Leave the average, also where the fit was cut off within an epoch."""
        if self.steps and self._raw is None:
            _put(fit.trainer.model, self._average)
        self._average, self._raw = {}, None

    def state(self) -> dict[str, Any]:
        """Return the average and its age, and the weights themselves while the average is in their place."""
        raw = self._raw or {}
        return {
            "steps": self.steps,
            **{f"ema/{name}": value for name, value in self._average.items()},
            **{f"raw/{name}": value for name, value in raw.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the average."""
        self.steps = state["steps"]
        for name, value in self._average.items():
            value.copy_(state[f"ema/{name}"])
        raw = {name[4:]: value for name, value in state.items() if name.startswith("raw/")}
        self._raw = raw or None


class WeightSoup(Callback):
    """Averages the weights at the ends of the last epochs, and leaves the average if it has the lower validation loss.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018 (arXiv 1803.05407); Wortsman
    et al., "Model soups", 2022 (arXiv 2203.05482). Batch norms that were trained get new statistics from one pass over the
    training images.

    Args:
        last: Epochs to average; those of warm restarts are best taken at the ends of the cycles.

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
        """Begin with none."""
        del fit
        self._ingredients = []

    def after_epoch(self, fit: Fit) -> None:
        """Take a copy if this is one of the last epochs."""
        if fit.n_epoch - fit.epoch <= self.last:
            values = _floats(fit.trainer.model)
            self._ingredients.append({k: v.detach().clone() for k, v in values.items()})

    def after_fit(self, fit: Fit) -> None:
        """Average, measure, and leave the better of the two."""
        ingredients, self._ingredients = self._ingredients, []
        if fit.error is not None or len(ingredients) < 2:
            return
        trainer = fit.trainer
        single = Snapshot.of(trainer.model, None)
        soup = {
            name: torch.stack([each[name] for each in ingredients]).mean(dim=0)
            for name in ingredients[0]
        }
        _put(trainer.model, soup)
        renew_batch_norms(trainer)
        loss = trainer.measure(trainer.predictions())[0]
        before = fit.values["valid_loss"]
        better = loss < before
        if not better:
            trainer.model.load_state_dict(single.weights)
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
        """Take up the copies."""
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            _, number, name = key.split("/", 2)
            found.setdefault(int(number), {})[name] = value
        self._ingredients = [found[number] for number in sorted(found)]


@torch.no_grad()
def renew_batch_norms(trainer: Trainer) -> None:
    """Measure the statistics of all batch norms that train, by one pass over the training images in order."""
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
            trainer.model(batch.images)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        trainer.model.eval()


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers that can be averaged: not the counters of norms."""
    return {
        name: value.detach()
        for name, value in model.state_dict(keep_vars=True).items()
        if value.is_floating_point()
    }


@torch.no_grad()
def _put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    own = _floats(model)
    for name, value in values.items():
        own[name].copy_(value)
