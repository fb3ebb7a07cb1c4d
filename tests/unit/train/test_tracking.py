"""Stopping early, keeping the best, lowering rates: what each does with a given course of the validation loss."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.tracking import (
    EarlyStoppingCallback,
    KeepBest,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)
from vizsla.train.metrics import accuracy, error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor


class Course(Callback):
    """Gives the epochs of a fit these validation losses, before anybody looks at them."""

    order = -100

    def __init__(self, losses: Sequence[float], *, name: str = "valid_loss") -> None:
        self.losses = losses
        self.name = name

    def after_epoch(self, fit: Fit) -> None:
        fit.values[self.name] = self.losses[fit.epoch]


class Weights(Callback):
    """Remembers the weights at the end of every epoch."""

    order = -90

    def __init__(self) -> None:
        self.of_epoch: list[dict[str, Tensor]] = []

    def after_epoch(self, fit: Fit) -> None:
        state = fit.trainer.model.state_dict()
        self.of_epoch.append({name: value.clone() for name, value in state.items()})


def run(make_learner: Any, losses: Sequence[float], *cbs: Callback, **options: Any) -> Any:
    learner = make_learner(quiet=False, metrics=[accuracy, error_rate], **options)
    name = getattr(cbs[0], "monitor", "valid_loss")
    learner.fit(len(losses), 1e-2, cbs=[Course(losses, name=name), *cbs])
    return learner


def same(learner: Any, weights: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(value, weights[name]) for name, value in learner.model.state_dict().items()
    )


# --- stopping early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "options", "epochs"),
    [
        ([5, 4, 3, 2, 1], {}, 5),
        ([5, 4, 4, 3], {}, 3),  # no improvement for one epoch
        ([5, 6, 4, 5, 6, 7, 1], {"patience": 3}, 6),
        ([5.0, 4.95, 4.0, 3.0], {"min_delta": 0.1}, 2),  # better, and not by enough
        ([5.0, 4.95, 4.89, 4.0], {"min_delta": 0.1, "patience": 2}, 4),
        ([0.1, 0.2, 0.2, 0.5], {"monitor": "accuracy"}, 3),  # larger is better
        ([0.9, 0.5, 0.6, 0.1], {"monitor": "error_rate"}, 3),
        ([1, 2, 3, 2], {"comp": operator.gt}, 4),
        ([math.nan, 1, 2], {}, 1),
    ],
)
def test_a_fit_that_does_not_get_better_ends(
    make_learner: Any, losses: list[float], options: dict[str, Any], epochs: int
):
    learner = run(make_learner, losses, EarlyStoppingCallback(**options))
    assert len(learner.recorder.values) == epochs


def test_early_stopping_says_since_when(make_learner: Any, capsys: pytest.CaptureFixture[str]):
    run(make_learner, [3, 2, 4, 5, 1], EarlyStoppingCallback(patience=2))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "No improvement since epoch 1: early stopping"


def test_a_new_fit_begins_to_count_anew_unless_it_is_not_to(make_learner: Any):
    learner = make_learner()
    stopping = EarlyStoppingCallback(reset_on_fit=False)
    learner.fit(1, cbs=[Course([1.0]), stopping])
    learner.fit(3, cbs=[Course([2.0, 3.0, 4.0]), stopping])
    assert len(learner.recorder.last.values) == 1
    stopping = EarlyStoppingCallback()
    learner.fit(1, cbs=[Course([1.0]), stopping])
    learner.fit(3, cbs=[Course([2.0, 3.0, 4.0]), stopping])
    assert len(learner.recorder.last.values) == 2


@pytest.mark.parametrize(
    "kind", [EarlyStoppingCallback, KeepBest, SaveModelCallback, ReduceLROnPlateau]
)
def test_a_figure_that_is_not_there_is_refused_before_the_first_step(
    make_learner: Any, kind: type[TrackerCallback]
):
    learner = make_learner(metrics=accuracy)
    with pytest.raises(
        ConfigError,
        match="cannot watch 'balance': this learner has train_loss, valid_loss, accuracy",
    ):
        learner.fit(1, cbs=kind("balance"))
    assert learner.recorder.losses == []


# --- keeping the best ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "monitor", "best"),
    [([3, 1, 2], "valid_loss", 1), ([3, 2, 1], "valid_loss", 2), ([0.1, 0.9, 0.5], "accuracy", 1)],
)
def test_the_weights_of_the_best_epoch_are_left(
    make_learner: Any, losses: list[float], monitor: str, best: int
):
    keeping, weights = KeepBest(monitor), Weights()
    learner = run(make_learner, losses, keeping, weights)
    assert (keeping.epoch, keeping.best) == (best, losses[best])
    assert same(learner, weights.of_epoch[best])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=repr)
def test_the_best_weights_are_left_after_an_error_too(make_learner: Any, error: BaseException):
    class Fail(Callback):
        def after_step(self, fit: Fit) -> None:
            if fit.step == 12:
                raise error

    learner, weights = make_learner(), Weights()
    with pytest.raises(type(error)):
        learner.fit(3, 1e-2, cbs=[Course([1.0, 2.0, 3.0]), KeepBest(), weights, Fail()])
    assert same(learner, weights.of_epoch[0])


def test_a_fit_without_a_whole_epoch_leaves_its_weights(make_learner: Any):
    class Stop(Callback):
        def after_step(self, fit: Fit) -> None:
            fit.stop("Enough.")

    learner = make_learner()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.fit(1, 1e-2, cbs=[KeepBest(), Stop()])
    assert not same(learner, before)


# --- saving ----------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir())


def test_better_weights_are_saved_and_loaded_in_the_end(
    make_learner: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    weights = Weights()
    saving = SaveModelCallback(fname="best")
    learner = run(make_learner, [3.0, 1.0, 2.0], saving, weights, path=tmp_path)
    assert names(tmp_path) == ["best.safetensors"]
    assert same(learner, weights.of_epoch[1])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Better")]
    assert lines == [
        "Better model found at epoch 0 with valid_loss value: 3.0.",
        "Better model found at epoch 1 with valid_loss value: 1.0.",
    ]


@pytest.mark.parametrize(
    ("every", "epochs"), [(True, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])]
)
def test_every_so_many_epochs_are_saved_by_number(
    make_learner: Any, tmp_path: Path, every: bool | int, epochs: list[int]
):
    weights = Weights()
    saving = SaveModelCallback(every_epoch=every)
    learner = run(make_learner, [1.0, 2.0, 3.0, 4.0], saving, weights, path=tmp_path)
    assert names(tmp_path) == [f"model_{epoch}.safetensors" for epoch in epochs]
    assert same(learner, weights.of_epoch[-1])
    learner.load(f"model_{epochs[-1]}", with_opt=False)
    assert same(learner, weights.of_epoch[epochs[-1]])


def test_the_last_weights_are_saved_if_so_wished(make_learner: Any, tmp_path: Path):
    learner = run(make_learner, [1.0, 2.0], SaveModelCallback(at_end=True), path=tmp_path)
    last = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.fit(1, 1e-2)
    learner.load("model", with_opt=False)
    assert same(learner, last)


def test_the_state_of_the_optimiser_is_saved_with_them_if_so_wished(
    make_learner: Any, tmp_path: Path
):
    learner = run(make_learner, [2.0, 1.0], SaveModelCallback(with_opt=True), path=tmp_path)
    steps = {int(state["step"]) for state in learner.opt.state.values()}
    assert steps == {10}
    learner = run(make_learner, [1.0, 2.0], SaveModelCallback(with_opt=True), path=tmp_path)
    steps = {int(state["step"]) for state in learner.opt.state.values()}
    assert steps == {5}  # of the best epoch


# --- lower rates -----------------------------------------------------------------------------------------------------


def rates_of_epochs(learner: Any) -> list[float]:
    return learner.recorder.lrs[::5]


@pytest.mark.parametrize(
    ("losses", "options", "divisors"),
    [
        ([3, 2, 1, 1], {}, [1, 1, 1, 1]),
        ([1, 2, 3, 4], {}, [1, 1, 10, 100]),
        ([1, 2, 3, 4, 5], {"patience": 2}, [1, 1, 1, 10, 10]),
        ([1, 2, 0.5, 1], {"factor": 2.0}, [1, 1, 2, 2]),
        ([1, 2, 3, 4], {"min_lr": 5e-3}, [1, 1, 2, 2]),
        ([1, 0.95, 0.9, 0.4], {"min_delta": 0.2, "factor": 4.0}, [1, 1, 4, 16]),
    ],
)
def test_rates_fall_when_the_fit_does_not_get_better(
    make_learner: Any, losses: list[float], options: dict[str, Any], divisors: list[float]
):
    learner = run(make_learner, losses, ReduceLROnPlateau(**options))
    expected = [1e-2 / divisor for divisor in divisors]
    assert rates_of_epochs(learner) == pytest.approx(expected, rel=1e-12)


def test_lower_rates_are_told(make_learner: Any, capsys: pytest.CaptureFixture[str]):
    run(make_learner, [1, 2, 3], ReduceLROnPlateau())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert lines == ["Epoch 1: reducing lr to 0.001"]  # at the end there is nothing left to lower


def test_all_groups_keep_their_ratio(make_learner: Any):
    seen: list[tuple[float, ...]] = []

    class Look(Callback):
        def before_epoch(self, fit: Fit) -> None:
            seen.append(fit.schedule.rates_at(fit.step))

    learner = make_learner()
    learner.fit(3, slice(1e-4, 1e-2), cbs=[Course([1.0, 2.0, 3.0]), ReduceLROnPlateau(), Look()])
    assert seen[0] == pytest.approx((1e-4, 1e-3, 1e-2))
    assert seen[2] == pytest.approx((1e-5, 1e-4, 1e-3))


@pytest.mark.parametrize("factor", [1.0, 0.1, -2.0])
def test_a_factor_that_would_not_lower_is_refused(factor: float):
    with pytest.raises(ConfigError, match=f"above 1. Received: {factor}"):
        ReduceLROnPlateau(factor=factor)


def test_the_callback_against_nan_is_there_for_notebooks_that_name_it(make_learner: Any):
    learner = make_learner()
    learner.fit(1, cbs=TerminateOnNaNCallback())
    assert len(learner.recorder.losses) == 5
