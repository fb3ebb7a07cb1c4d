"""Callbacks: when they are told of what, what they may do to a fit, and each of those that come with vizsla."""

from __future__ import annotations

import csv
import io
import json
import math
import operator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vizsla.augment.mix import blend_images, paste_boxes
from vizsla.augment.presets import aug_transforms
from vizsla.errors import ConfigError, MissingExtraError, OutputError
from vizsla.train.callbacks.averaging import EMACallback, WeightSoup, renew_batch_norms
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.loggers import (
    CSVLogger,
    JSONLLogger,
    ShowGraphCallback,
    TensorBoardLogger,
    WandbLogger,
)
from vizsla.train.callbacks.step import (
    CutMix,
    GradientAccumulation,
    GradientClip,
    MixUp,
    ProgressiveResizing,
)
from vizsla.train.callbacks.tracking import (
    EarlyStoppingCallback,
    KeepBest,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
)
from vizsla.train.losses import CrossEntropyLossFlat
from vizsla.train.metrics import accuracy, error_rate
from vizsla.train.step import batch_loss
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


STEP = ["before_step", "after_step"]
EPOCH = ["before_epoch", *STEP * 5, "before_validate", "after_epoch"]


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self, entries: list[str], *, name: str = "") -> None:
        self.entries = entries
        self.name = name

    def before_fit(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_fit")

    def before_epoch(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_epoch")

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.entries.append(f"{self.name}before_step")
        return batch

    def after_step(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_step")

    def before_validate(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_validate")

    def after_epoch(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_epoch")

    def after_fit(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_fit")


EVENTS = [
    "before_fit", "before_epoch", "before_step", "after_step", "before_validate", "after_epoch", "after_fit",
]  # fmt: skip


def failing(event: str, error: BaseException) -> Callback:
    """Return a callback that raises an error at an event."""

    def fail(self: Callback, *arguments: Any) -> None:
        raise error

    return type("Failing", (Callback,), {event: fail})()


def test_events_come_in_order(make_learner: Any):
    entries: list[str] = []
    make_learner().fit(2, cbs=Diary(entries))
    assert entries == ["before_fit", *EPOCH, *EPOCH, "after_fit"]


def test_both_phases_of_fine_tune_are_fits(make_learner: Any):
    entries: list[str] = []
    make_learner().fine_tune(1, cbs=Diary(entries))
    assert entries == ["before_fit", *EPOCH, "after_fit"] * 2


def test_a_lower_order_is_told_first_whoever_was_given_first(make_learner: Any):
    entries: list[str] = []

    class Late(Diary):
        order: ClassVar[int] = 5

    learner = make_learner()
    learner.cbs = [Late(entries, name="late ")]
    learner.fit(1, cbs=[Diary(entries, name="early ")])
    assert entries[:4] == [
        "early before_fit",
        "late before_fit",
        "early before_epoch",
        "late before_epoch",
    ]
    assert entries[-2:] == ["early after_fit", "late after_fit"]


def test_an_error_of_a_callback_arrives_unchanged_and_all_are_told_of_the_end(make_learner: Any):
    for error in [RuntimeError("mine"), KeyboardInterrupt()]:
        for event in EVENTS:
            entries: list[str] = []
            learner = make_learner()
            with pytest.raises(type(error)) as raised:
                learner.fit(1, cbs=[failing(event, error), Diary(entries)])
            assert raised.value is error
            assert entries.count("after_fit") == 1
            assert entries[-1] == "after_fit"
            learner.fit(1)  # it can be used again
            assert len(learner.recorder.last.values) == 1


def test_the_end_knows_what_ended_the_fit(make_learner: Any):
    seen: list[BaseException | None] = []

    class Last(Callback):
        def after_fit(self, fit: Fit) -> None:
            seen.append(fit.error)

    error = ValueError("mine")
    learner = make_learner()
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=[failing("after_step", error), Last()])
    learner.fit(1, cbs=Last())
    assert seen == [error, None]


def test_an_error_at_the_end_does_not_hide_the_one_before_it(make_learner: Any):
    first = ValueError("first")
    with pytest.raises(ValueError, match="first") as raised:
        make_learner().fit(
            1, cbs=[failing("after_step", first), failing("after_fit", OSError("second"))]
        )
    assert raised.value is first
    assert raised.value.__notes__ == ["Failing.after_fit failed too: OSError: second"]


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_fit_that_is_told_to_stop_ends_after_that_step(
    make_learner: Any, step: int, capsys: pytest.CaptureFixture[str]
):
    class Stop(Callback):
        def after_step(self, fit: Fit) -> None:
            if fit.step == step:
                fit.stop("Enough.")

    learner = make_learner(quiet=False)
    learner.fit(2, cbs=Stop())
    assert len(learner.recorder.losses) == step
    # An epoch that was cut off is not measured, a whole one is.
    assert len(learner.recorder.values) == step // 5
    assert capsys.readouterr().out.splitlines()[-1] == "Enough."


def test_after_an_epoch_the_figures_of_the_epoch_are_there(make_learner: Any):
    seen: list[dict[str, float]] = []

    class Look(Callback):
        def after_epoch(self, fit: Fit) -> None:
            assert fit.predictions is not None
            assert fit.values["accuracy"] == float(fit.predictions.correct.float().mean())
            seen.append(fit.values)

    learner = make_learner(metrics=accuracy)
    learner.fit(2, cbs=Look())
    assert [list(values) for values in seen] == [["train_loss", "valid_loss", "accuracy"]] * 2
    assert [list(values.values()) for values in seen] == learner.recorder.values


def test_a_callback_may_change_the_batch(make_learner: Any):
    class Black(Callback):
        def before_step(self, fit: Fit, batch: Batch) -> Batch:
            return replace(
                batch,
                images=torch.zeros_like(batch.images),
                targets=torch.zeros_like(batch.targets),
            )

    learner = make_learner(dropout=0.0)
    learner.fit(1, 1e-12, cbs=Black())
    losses = {round(loss, 5) for loss in learner.recorder.losses}
    assert losses == {round(learner.recorder.losses[0], 5)}  # all pictures are the same to it


def test_what_is_no_callback_is_refused(make_learner: Any):
    with pytest.raises(ConfigError, match=r"inherit from Callback\. Received: <class"):
        make_learner().fit(1, cbs=[Diary])


def test_a_fit_that_never_began_leaves_no_trace(make_learner: Any):
    learner = make_learner()
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=failing("before_fit", ValueError("mine")))
    assert learner.recorder.fits == []
    learner.fit(1)
    assert len(learner.recorder.fits) == 1


def test_one_that_overrides_nothing_changes_nothing(make_learner: Any):
    plain, watched = make_learner(), make_learner()
    plain.fit(1)
    watched.fit(1, cbs=[Callback()])
    assert plain.recorder.losses == watched.recorder.losses
    assert Callback().state() == {}


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


def test_a_figure_that_is_not_there_is_refused_before_the_first_step(make_learner: Any):
    for kind in [EarlyStoppingCallback, KeepBest, SaveModelCallback, ReduceLROnPlateau]:
        learner = make_learner(metrics=accuracy)
        with pytest.raises(
            ConfigError,
            match="cannot watch 'balance': this learner has train_loss, valid_loss, accuracy",
        ):
            learner.fit(1, cbs=kind("balance"))
        assert learner.recorder.losses == []


# --- keeping the best ------------------------------------------------------------------------------------------------


def test_the_weights_of_the_best_epoch_are_left(make_learner: Any):
    for losses, monitor, best in [
        ([3, 1, 2], "valid_loss", 1),
        ([3, 2, 1], "valid_loss", 2),
        ([0.1, 0.9, 0.5], "accuracy", 1),
    ]:
        keeping, weights = KeepBest(monitor), Weights()
        learner = run(make_learner, losses, keeping, weights)
        assert (keeping.epoch, keeping.best) == (best, losses[best])
        assert same(learner, weights.of_epoch[best])


def test_the_best_weights_are_left_after_an_error_too(make_learner: Any):
    for error in [KeyboardInterrupt(), RuntimeError("mine")]:

        class Fail(Callback):
            def after_step(self, fit: Fit) -> None:
                if fit.step == 12:
                    raise error  # noqa: B023 (used in the same turn)

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


def test_a_factor_that_would_not_lower_is_refused():
    for factor in [1.0, 0.1, -2.0]:
        with pytest.raises(ConfigError, match=f"above 1. Received: {factor}"):
            ReduceLROnPlateau(factor=factor)


def test_the_callback_against_nan_is_there_for_notebooks_that_name_it(make_learner: Any):
    learner = make_learner()
    learner.fit(1, cbs=TerminateOnNaNCallback())
    assert len(learner.recorder.losses) == 5


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


def test_a_decay_that_cannot_work_is_refused():
    for decay in [0.0, 1.0, -0.5, 2.0]:
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


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def learner(make_learner: Any, tmp_path: Path) -> Any:
    return make_learner(metrics=accuracy, path=tmp_path)


def test_both_phases_of_fine_tune_are_in_the_csv_in_full_precision(learner: Any, tmp_path: Path):
    learner.fine_tune(2, cbs=CSVLogger())
    rows = csv_rows(tmp_path / "history.csv")
    assert [row["stage"] for row in rows] == ["frozen", "unfrozen", "unfrozen"]
    assert [row["epoch"] for row in rows] == ["0", "0", "1"]
    assert list(rows[0]) == ["stage", "epoch", "train_loss", "valid_loss", "accuracy", "time"]
    figures = [[float(row[name]) for name in list(row)[2:5]] for row in rows]
    assert figures == learner.recorder.values
    assert all(float(row["time"]) > 0 for row in rows)


def test_both_phases_of_fine_tune_are_in_the_json_lines(learner: Any, tmp_path: Path):
    learner.fine_tune(1, cbs=JSONLLogger("logs/run.jsonl"))
    rows = json_rows(tmp_path / "logs" / "run.jsonl")
    assert [row["stage"] for row in rows] == ["frozen", "unfrozen"]
    assert [row["step"] for row in rows] == [5, 5]
    assert [[row[n] for n in ("train_loss", "valid_loss", "accuracy")] for row in rows] == (
        learner.recorder.values
    )
    assert [row["learning_rates"][-1] for row in rows] == learner.recorder.lrs[4::5]
    assert len(rows[0]["learning_rates"]) == 3


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_what_is_written_is_complete_after_every_epoch(
    learner: Any, tmp_path: Path, kind: type[CSVLogger]
):
    def fail_after(epochs: int) -> Any:
        from vizsla.train.callbacks.base import Callback

        class Fail(Callback):
            def before_epoch(self, fit: Fit) -> None:
                if fit.epoch == epochs:
                    raise KeyboardInterrupt

        return Fail()

    with pytest.raises(KeyboardInterrupt):
        learner.fit(4, cbs=[kind("log.txt"), fail_after(2)])
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2 + (kind is CSVLogger)


def test_a_new_logger_begins_a_new_file_unless_it_is_to_append(learner: Any, tmp_path: Path):
    path = tmp_path / "history.csv"
    path.write_text("something old\n")
    learner.fit(1, cbs=CSVLogger())
    assert len(csv_rows(path)) == 1
    learner.fit(2, cbs=CSVLogger(append=True))
    assert [row["epoch"] for row in csv_rows(path)] == ["0", "0", "1"]
    assert path.read_text().count("train_loss") == 1


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(learner: Any, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*taken: Is a directory"):
        learner.fit(1, cbs=CSVLogger("taken"))


# --- dashboards ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_step_and_every_epoch(learner: Any, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    learner.fine_tune(1, cbs=logger)
    logger.writer.close()
    events: Any = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "epoch/accuracy",
        "epoch/train_loss",
        "epoch/valid_loss",
        "learning_rate",
        "loss/step",
    ]
    losses = events.Scalars("loss/step")
    assert [point.step for point in losses] == list(range(10))
    assert [point.value for point in losses] == pytest.approx(learner.recorder.losses, rel=1e-6)
    rates = [point.value for point in events.Scalars("learning_rate")]
    assert rates == pytest.approx(learner.recorder.lrs, rel=1e-6)
    valid = events.Scalars("epoch/valid_loss")
    assert [point.step for point in valid] == [5, 10]
    expected = [values[1] for values in learner.recorder.values]
    assert [point.value for point in valid] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Weights & Biases, which sends nothing anywhere."""
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield module
    module.finish()
    module.teardown()


def test_wandb_gets_every_epoch(learner: Any, wandb: Any, monkeypatch: pytest.MonkeyPatch):
    run = wandb.init(project="pictures", mode="offline")
    sent: list[dict[str, Any]] = []
    log = wandb.log
    monkeypatch.setattr(wandb, "log", lambda entry: (sent.append(entry), log(entry)))
    learner.fine_tune(1, cbs=WandbLogger())
    assert [
        [row["train_loss"], row["valid_loss"], row["accuracy"]] for row in sent
    ] == learner.recorder.values
    assert [row["learning_rate"] for row in sent] == learner.recorder.lrs[4::5]
    assert run.summary["accuracy"] == sent[-1]["accuracy"]


def test_wandb_without_a_run_is_an_error_before_the_first_step(learner: Any, wandb: Any):
    with pytest.raises(ConfigError, match=r"Call wandb\.init\(project=\.\.\.\) first"):
        learner.fit(1, cbs=WandbLogger())
    assert learner.recorder.losses == []


@pytest.mark.parametrize(
    ("kind", "package"), [(TensorBoardLogger, "tensorboard"), (WandbLogger, "wandb")]
)
def test_a_package_that_is_not_there_is_named_with_what_brings_it(
    kind: Any, package: str, monkeypatch: pytest.MonkeyPatch
):
    import sys

    blocked = "torch.utils.tensorboard.writer" if package == "tensorboard" else package
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}' is needed.*pip install"):
        kind()


def test_the_losses_are_drawn_at_the_end(learner: Any):
    from matplotlib import pyplot as plt

    learner.fit(1, cbs=ShowGraphCallback())
    (axes,) = plt.gcf().axes
    assert axes.get_title() == "learning curve"
    plt.close("all")


class Moves(Callback):
    """Notes after which steps the weights had moved."""

    order = 100

    def __init__(self) -> None:
        self.moved: list[bool] = []
        self.before: list[torch.Tensor] = []

    def before_fit(self, fit: Fit) -> None:
        self.before = [value.detach().clone() for value in fit.trainer.model.parameters()]

    def after_step(self, fit: Fit) -> None:
        now = [value.detach().clone() for value in fit.trainer.model.parameters()]
        pairs = zip(now, self.before, strict=True)
        self.moved.append(any(not torch.equal(a, b) for a, b in pairs))
        self.before = now


def test_gradients_are_gathered_until_so_many_pictures_were_seen(make_learner: Any):
    for n_acc, moved in [
        (4, [True] * 5),
        (8, [False, True, False, True, True]),  # what is left at the end is a step too
        (9, [False, False, True, False, True]),  # rounded up to whole batches
        (100, [False, False, False, False, True]),
    ]:
        learner, moves = make_learner(), Moves()
        learner.fit(2, 1e-2, cbs=[GradientAccumulation(n_acc), moves])
        assert moves.moved == moved * 2
        assert all(value.grad is None for value in learner.model.parameters())


def test_gathering_is_over_with_the_fit(make_learner: Any):
    learner = make_learner()
    learner.fit(1, cbs=GradientAccumulation(8))
    assert learner.accumulate == 1
    moves = Moves()
    learner.fit(1, 1e-2, cbs=moves)
    assert moves.moved == [True] * 5


def test_an_option_of_the_learner_comes_back_though_another_callback_failed(make_learner: Any):
    class Fail(Callback):
        order = -1

        def before_fit(self, fit: Fit) -> None:
            raise ValueError("mine")

    learner = make_learner()
    learner.accumulate, learner.clip = 3, 0.25
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=[Fail(), GradientAccumulation(8), GradientClip(2.0)])
    assert (learner.accumulate, learner.clip) == (3, 0.25)


def test_gradients_are_clipped_to_a_norm_in_this_fit_alone(
    make_learner: Any, monkeypatch: pytest.MonkeyPatch
):
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def note(self: Any, *arguments: Any, **options: Any) -> Any:
        gradients = [
            value.grad.flatten()
            for group in self.param_groups
            for value in group["params"]
            if value.grad is not None
        ]
        norms.append(float(torch.cat(gradients).norm()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    learner = make_learner()
    learner.fit(1, 1e-3, cbs=GradientClip(0.01))
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)
    assert learner.clip is None
    learner.fit(1, 1e-3)
    assert min(norms[5:]) > 0.02


def test_a_number_that_cannot_work_is_refused():
    for make in [
        lambda: GradientAccumulation(0),
        lambda: GradientClip(0.0),
        lambda: GradientClip(-1.0),
        lambda: GradientClip(1.0, norm_type=1.0),
        lambda: ProgressiveResizing(()),
        lambda: ProgressiveResizing((64, 0)),
    ]:
        with pytest.raises(ConfigError, match="Received"):
            make()


class Sizes(Callback):
    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.sizes.append(tuple(batch.images.shape[2:]))
        return batch


@pytest.mark.parametrize("transforms", [(), aug_transforms(size=32)], ids=["plain", "augmented"])
def test_pictures_grow_from_part_to_part_of_a_fit(
    make_learner: Any, make_loaders: Any, transforms: Any
):
    loaders = make_loaders(transforms=transforms)
    learner, sizes = make_learner(loaders), Sizes()
    before = loaders.train.augmentation
    learner.fit(3, cbs=[ProgressiveResizing((16, (24, 20), 32)), sizes])
    assert sizes.sizes == [(16, 16)] * 5 + [(24, 20)] * 5 + [(32, 32)] * 5
    assert loaders.train.augmentation is before
    assert loaders.valid.one_batch()[0].shape[2:] == (32, 32)


def test_parts_are_as_equal_as_epochs_allow(make_learner: Any, make_loaders: Any):
    for n_epoch, sides in [
        (1, [16]),
        (2, [16, 24]),
        (4, [16, 16, 24, 32]),
        (6, [16, 16, 24, 24, 32, 32]),
    ]:
        learner, sizes = make_learner(make_loaders(batch_size=20)), Sizes()
        learner.fit(n_epoch, cbs=[ProgressiveResizing((16, 24, 32)), sizes])
        assert [size[0] for size in sizes.sizes] == sides


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "mix.json").read_text("utf-8"))


class Keep(Callback):
    """Keeps the batches as they go into the network, and as they were before they were mixed."""

    order = 95

    def __init__(self) -> None:
        self.mixed: list[Batch] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.mixed.append(batch)
        return batch


class KeepBefore(Keep):
    order = 0


def run_mixing(
    make_learner: Any, mixing: Callback, *, loaders: Any = None
) -> tuple[Keep, Keep, Any]:
    learner = make_learner(loaders, dropout=0.0)
    before, after = KeepBefore(), Keep()
    learner.fit(1, 1e-12, cbs=[before, mixing, after])
    return before, after, learner


def test_the_mixed_loss_is_the_golden_one():
    case = GOLDEN["mixup"]
    images, targets = torch.tensor(case["x"]), torch.tensor(case["y"])
    mixed = blend_images(
        images,
        targets,
        shares=torch.tensor(case["lam"]),
        partners=torch.tensor(case["perm"]),
    )
    torch.testing.assert_close(mixed.images, torch.tensor(case["mixed"]), atol=1e-6, rtol=0)
    batch = Batch(
        images=mixed.images,
        targets=targets,
        rows=torch.arange(len(targets)),
        partner_targets=mixed.partner_targets,
        shares=mixed.shares,
    )
    logits = torch.tensor(case["pred"])
    for loss_function in (F.cross_entropy, CrossEntropyLossFlat()):
        loss = batch_loss(logits, batch, loss_function=loss_function)
        assert float(loss) == pytest.approx(case["loss"], abs=1e-5)


def test_boxes_and_shares_are_the_golden_ones():
    for case in GOLDEN["cutmix"]["cases"]:
        height, width = case["H"], case["W"]
        boxes = paste_boxes(
            torch.tensor([case["lam"]]),
            centres=torch.tensor([[case["cy"], case["cx"]]]),
            size=(height, width),
        )
        top, left, bottom, right = boxes[0].tolist()
        assert [left, top, right, bottom] == case["box_x1y1x2y2"]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        assert share == pytest.approx(case["adjusted_lam"], abs=1e-9)


def partner_of(batch: Batch, place: int, *, originals: Tensor, inside: Tensor) -> Tensor:
    """Return the original that the changed part of a picture was taken from."""
    hits = [
        each for each in originals if torch.equal(each[:, inside], batch.images[place][:, inside])
    ]
    assert len(hits) == 1
    return hits[0]


def test_cutmix_pastes_one_box_of_another_picture_and_counts_its_area(make_learner: Any):
    before, after, _ = run_mixing(make_learner, CutMix())
    assert len(after.mixed) == 5
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        assert mixed.shares is not None
        for place, share in enumerate(mixed.shares.tolist()):
            inside = (mixed.images[place] != plain.images[place]).any(dim=0)
            if not inside.any():
                continue  # Its own box, or an empty one.
            ys, xs = inside.nonzero().unbind(1)
            box = torch.zeros_like(inside)
            box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
            partner_of(mixed, place, originals=plain.images, inside=box)
            # Pixels may agree by chance along an edge, so the box that is seen may be a little smaller.
            assert 1 - share >= float(box.float().mean()) - 1e-6
            assert 1 - share <= float(box.float().mean()) + 0.1


def test_mixup_blends_with_at_most_half_of_another_picture(make_learner: Any):
    before, after, _ = run_mixing(make_learner, MixUp())
    shares = torch.cat([batch.shares for batch in after.mixed if batch.shares is not None])
    assert len(shares) == 20
    assert float(shares.min()) >= 0.5
    assert float(shares.max()) <= 1.0
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        assert torch.equal(mixed.targets, plain.targets)
        assert mixed.shares is not None
        for place, share in enumerate(mixed.shares):
            rests = [
                mixed.images[place] - torch.lerp(other, plain.images[place], share)
                for other in plain.images
            ]
            assert min(float(rest.abs().max()) for rest in rests) < 1e-6


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_the_recorded_loss_counts_both_targets(make_learner: Any, mixing: Any):
    _, after, learner = run_mixing(make_learner, mixing())
    learner.model.train()
    for batch, loss in zip(after.mixed, learner.recorder.losses, strict=True):
        logits = learner.model(batch.images)
        own = F.cross_entropy(logits, batch.targets, reduction="none")
        shares, partners = batch.shares, batch.partner_targets
        assert shares is not None
        assert partners is not None
        partner = F.cross_entropy(logits, partners, reduction="none")
        expected = (shares * own + (1 - shares) * partner).mean().detach()
        assert loss == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_a_picture_alone_in_its_batch_stays_as_it_is(
    make_learner: Any, make_loaders: Any, mixing: Any
):
    loaders = make_loaders(num_valid=4, batch_size=1)
    learner = make_learner(loaders)
    learner.check_batches = lambda: None  # the head's norms need two; here they are not trained
    learner.training_mode = learner.model.eval
    before, after = KeepBefore(), Keep()
    learner.fit(1, 1e-3, cbs=[before, mixing(), after])
    assert len(after.mixed) == 20
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        torch.testing.assert_close(mixed.images, plain.images, atol=1e-6, rtol=0)
        assert mixed.partner_targets is not None
        assert torch.equal(mixed.partner_targets, plain.targets)


def test_the_same_seed_mixes_in_the_same_way(make_learner: Any):
    for mixing in [MixUp, CutMix]:
        first, second = (run_mixing(make_learner, mixing())[2].recorder.losses for _ in range(2))
        assert first == second


def test_an_alpha_that_cannot_work_is_refused():
    for alpha in [0.0, -1.0]:
        for mixing in [MixUp, CutMix]:
            with pytest.raises(ConfigError, match=f"above 0. Received: {alpha}"):
                mixing(alpha)


def test_a_loss_that_cannot_be_had_for_each_picture_is_refused_before_the_first_step(
    make_learner: Any,
):
    def mean_only(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)

    learner = make_learner(loss_func=mean_only)
    with pytest.raises(ConfigError):
        learner.fit(1, cbs=MixUp())
    assert learner.recorder.losses == []


def test_validation_pictures_are_not_mixed(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-12, cbs=MixUp())
    assert learner.recorder.values[0][1] == pytest.approx(learner.validate()[0], abs=1e-6)
