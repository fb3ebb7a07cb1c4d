"""Averages of weights against averages that are computed here, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from vizsla.errors import ConfigError
from vizsla.train.callbacks.averaging import EMACallback, WeightSoup, renew_batch_norms
from vizsla.train.callbacks.base import Callback, Fit

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.types import Batch


def floats(learner: Any) -> dict[str, Tensor]:
    state = learner.model.state_dict()
    return {n: v.clone().double() for n, v in state.items() if v.is_floating_point()}


def near(learner: Any, expected: dict[str, Tensor], *, tolerance: float = 1e-6) -> bool:
    found = floats(learner)
    return all(
        torch.allclose(found[name], value, atol=tolerance, rtol=1e-5)
        for name, value in expected.items()
    )


class Reference(Callback):
    """Averages in float64, after the weights have moved and before anybody puts an average in."""

    order = -100

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self.raw: list[dict[str, Tensor]] = []
        self.measured: list[bool] = []
        self.trained: list[dict[str, Tensor]] = []

    def before_fit(self, fit: Fit) -> None:
        self.average = floats(fit.trainer)

    def after_step(self, fit: Fit) -> None:
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = floats(fit.trainer)
        self.raw.append(now)
        self.average = {n: keep * v + (1 - keep) * now[n] for n, v in self.average.items()}

    def after_epoch(self, fit: Fit) -> None:
        self.measured.append(near(fit.trainer, self.average))


class SeeWhatTrains(Callback):
    order = 100

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.before.append(floats(fit.trainer))
        return batch


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_that_of_all_steps_and_is_what_is_validated_and_left(
    make_learner: Any, decay: float
):
    learner, reference = make_learner(), Reference(decay)
    learner.fit(2, 1e-2, cbs=[EMACallback(decay), reference])
    assert reference.steps == 10
    assert reference.measured == [True, True]
    assert near(learner, reference.average)
    assert not near(learner, reference.raw[-1])
    assert learner.recorder.values[-1][1] == pytest.approx(learner.validate()[0], abs=1e-6)


def test_training_goes_on_with_the_weights_themselves(make_learner: Any):
    plain, averaged, steps = make_learner(), make_learner(), SeeWhatTrains()
    reference = Reference(0.9)
    plain.fit(2, 1e-2)
    averaged.fit(2, 1e-2, cbs=[EMACallback(0.9), reference, steps])
    assert averaged.recorder.losses == plain.recorder.losses
    for before, after in zip(steps.before[1:], reference.raw[:-1], strict=True):
        assert all(torch.equal(before[name], value) for name, value in after.items())


def test_an_error_leaves_the_average_too(make_learner: Any):
    class Fail(Callback):
        def after_step(self, fit: Fit) -> None:
            if fit.step == 3:
                raise KeyboardInterrupt

    learner, reference = make_learner(), Reference(0.9)
    with pytest.raises(KeyboardInterrupt):
        learner.fit(1, 1e-2, cbs=[EMACallback(0.9), reference, Fail()])
    # The average of the third step was made before the third step failed.
    assert near(learner, reference.average)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0])
def test_a_decay_that_cannot_work_is_refused(decay: float):
    with pytest.raises(ConfigError, match=f"between 0 and 1. Received: {decay}"):
        EMACallback(decay)


class EndsOfEpochs(Callback):
    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def after_epoch(self, fit: Fit) -> None:
        self.weights.append(floats(fit.trainer))


class Judge(Callback):
    """Makes the validation loss of the last epoch so large, or so small, that the soup wins, or loses."""

    order = 40

    def __init__(self, loss: float) -> None:
        self.loss = loss

    def after_epoch(self, fit: Fit) -> None:
        fit.values["valid_loss"] = self.loss


def parameters_of(learner: Any) -> set[str]:
    return {name for name, _ in learner.model.named_parameters()}


@pytest.mark.parametrize("last", [2, 3])
def test_a_soup_is_the_mean_of_the_last_epochs(make_learner: Any, last: int):
    learner, ends = make_learner(), EndsOfEpochs()
    learner.fit(4, 1e-2, cbs=[WeightSoup(last), ends, Judge(1e9)])
    names = parameters_of(learner)
    expected = {
        name: torch.stack([each[name] for each in ends.weights[-last:]]).mean(dim=0)
        for name in names
    }
    assert near(learner, expected)
    assert not near(learner, {name: ends.weights[-1][name] for name in names})


def test_a_soup_that_is_worse_leaves_everything_as_it_was(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    learner, plain = make_learner(quiet=False), make_learner()
    learner.fit(2, 1e-2, cbs=[WeightSoup(2), Judge(-1.0)])
    plain.fit(2, 1e-2)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Average of the weights of 2 epochs: valid_loss ")
    assert last.endswith("the last epoch alone -1.000000; kept: the last epoch.")


def test_norms_get_the_statistics_of_the_training_pictures(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-2)
    seen: list[Tensor] = []
    norm = next(part for part in learner.model.modules() if isinstance(part, nn.BatchNorm2d))
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    renew_batch_norms(learner)
    hook.remove()
    assert len(seen) == 5
    means = torch.stack([each.mean(dim=(0, 2, 3)) for each in seen])
    variances = torch.stack([each.transpose(0, 1).flatten(1).var(dim=1) for each in seen])
    torch.testing.assert_close(norm.running_mean, means.mean(dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.running_var, variances.mean(dim=0), atol=1e-5, rtol=1e-5)
    assert norm.momentum == 0.1
    assert not any(part.training for part in learner.model.modules())


def test_norms_that_are_frozen_keep_their_statistics(make_learner: Any):
    learner = make_learner(train_bn=False)
    learner.model.requires_grad_(False)  # noqa: FBT003 (the only way to call it)
    before = floats(learner)
    renew_batch_norms(learner)
    assert all(torch.equal(value, before[name]) for name, value in floats(learner).items())


def test_a_fit_that_was_stopped_before_two_epochs_is_left_as_it_is(make_learner: Any):
    class Stop(Callback):
        def after_epoch(self, fit: Fit) -> None:
            fit.stop("Enough.")

    learner, plain = make_learner(), make_learner()
    learner.fit(2, 1e-2, cbs=[WeightSoup(2), Stop()])
    plain.fit(1, 1e-2)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name


def test_a_soup_of_one_is_refused():
    with pytest.raises(ConfigError, match=r"at least 2 epochs\. Received: last=1"):
        WeightSoup(1)
