"""Callbacks: when they are called, what they may do to a fit, and each of those that come with vizsla."""

from __future__ import annotations

import csv
import io
import json
import math
import operator
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import (
    Callback,
    ConfigError,
    CrossEntropyLossFlat,
    CSVLogger,
    CutMix,
    EarlyStoppingCallback,
    EMACallback,
    GradientAccumulation,
    GradientClip,
    JSONLLogger,
    KeepBest,
    MissingExtraError,
    MixUp,
    MLflowLogger,
    OutputError,
    ProgressiveResizing,
    ReduceLROnPlateau,
    SaveModelCallback,
    ShowGraphCallback,
    TensorBoardLogger,
    TerminateOnNaNCallback,
    WandbLogger,
    WeightSoup,
    accuracy,
    aug_transforms,
    error_rate,
)
from vizsla.augment import blend_images
from vizsla.train import batch_loss
from vizsla.train.callbacks import Fit, renew_batch_norms
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EVENTS = [
    "before_fit", "before_epoch", "before_step", "after_step", "before_validate", "after_epoch", "after_fit",
]  # fmt: skip
EPOCH = ["before_epoch", *["before_step", "after_step"] * 5, "before_validate", "after_epoch"]


def at(event: str, act: Callable[..., Any], *, order: int = 0) -> Callback:
    """Return a callback that calls a function at an event, and returns what it returns."""

    def called(_: Callback, *arguments: Any) -> Any:
        return act(*arguments)

    return type("At", (Callback,), {event: called, "order": order})()


def failing(event: str, error: BaseException, *, step: int | None = None) -> Callback:
    """Return a callback that raises an error at an event, the one after a step if given."""

    def fail(fit: Fit, *_: Any) -> None:
        if step in (None, fit.step):
            raise error

    return at(event, fail)


def stopping(event: str, *, step: int | None = None) -> Callback:
    return at(event, lambda fit: fit.stop("Enough.") if step in (None, fit.step) else None)


def diary(entries: list[str], *, name: str = "", order: int = 0) -> Callback:
    """Return a callback that writes down every event."""

    def noting(event: str) -> Callable[..., Any]:
        def note(_: Callback, fit: Fit, batch: Any = None) -> Any:
            entries.append(f"{name}{event}")
            return batch

        return note

    return type("Diary", (Callback,), {e: noting(e) for e in EVENTS} | {"order": order})()


def state_of(learner: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(learner: Any, weights: dict[str, Tensor]) -> bool:
    found = learner.model.state_dict()
    return all(torch.equal(value, found[name]) for name, value in weights.items())


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_come_in_order_in_every_fit(make_learner: Any):
    entries: list[str] = []
    make_learner().fit(2, cbs=diary(entries))
    assert entries == ["before_fit", *EPOCH, *EPOCH, "after_fit"]
    entries.clear()
    make_learner().fine_tune(1, cbs=diary(entries))
    assert entries == ["before_fit", *EPOCH, "after_fit"] * 2


def test_a_lower_order_is_called_first(make_learner: Any):
    entries: list[str] = []
    learner = make_learner()
    learner.cbs = [diary(entries, name="late ", order=5)]
    learner.fit(1, cbs=[diary(entries, name="early ")])
    expected = ["before_fit", *EPOCH, "after_fit"]
    assert entries == [f"{name} {event}" for event in expected for name in ("early", "late")]


def test_an_error_of_a_callback_arrives_unchanged_and_all_are_told_of_the_end(make_learner: Any):
    for error in [RuntimeError("mine"), KeyboardInterrupt()]:
        for event in EVENTS:
            entries: list[str] = []
            learner = make_learner()
            with pytest.raises(type(error)) as raised:
                learner.fit(1, cbs=[failing(event, error), diary(entries)])
            assert raised.value is error
            assert entries.count("after_fit") == 1
            assert entries[-1] == "after_fit"
            assert event != "before_fit" or learner.recorder.fits == []  # It never began.
            learner.fit(1)  # The learner can be used again.
            assert len(learner.recorder.last.values) == 1


def test_after_fit_knows_the_error_and_does_not_hide_it(make_learner: Any):
    seen: list[BaseException | None] = []
    last = at("after_fit", lambda fit: seen.append(fit.error))
    error = ValueError("first")
    learner = make_learner()
    with pytest.raises(ValueError, match="first") as raised:
        learner.fit(
            1, cbs=[failing("after_step", error), failing("after_fit", OSError("2nd")), last]
        )
    learner.fit(1, cbs=last)
    assert seen == [error, None]
    assert raised.value is error
    assert raised.value.__notes__ == ["At.after_fit failed too: OSError: 2nd"]


def test_a_fit_that_is_told_to_stop_ends_after_that_step(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    for step in (1, 5, 7):
        learner = make_learner(quiet=False)
        learner.fit(2, cbs=stopping("after_step", step=step))
        assert len(learner.recorder.losses) == step
        # An interrupted epoch is not measured, a whole one is.
        assert len(learner.recorder.values) == step // 5
        assert capsys.readouterr().out.splitlines()[-1] == "Enough."


def test_after_an_epoch_its_values_are_there(make_learner: Any):
    seen: list[dict[str, float]] = []

    def look(fit: Fit) -> None:
        assert fit.predictions is not None
        assert fit.values["accuracy"] == float(fit.predictions.correct.float().mean())
        seen.append(fit.values)

    learner = make_learner(metrics=accuracy)
    learner.fit(2, cbs=at("after_epoch", look))
    assert [list(values) for values in seen] == [["train_loss", "valid_loss", "accuracy"]] * 2
    assert [list(values.values()) for values in seen] == learner.recorder.values


def test_a_callback_that_does_nothing_changes_nothing(make_learner: Any):
    losses: list[list[float]] = []
    for cbs in [(), Callback(), [TerminateOnNaNCallback()]]:
        learner = make_learner()
        learner.fit(1, cbs=cbs)
        losses.append(learner.recorder.losses)
    assert losses[0] == losses[1] == losses[2]
    assert Callback().state() == {}


# --- watching results ------------------------------------------------------------------------------------------------


def course(losses: Sequence[float], *, name: str = "valid_loss") -> Callback:
    """Return a callback that gives epochs these results before other callbacks see them."""
    return at("after_epoch", lambda fit: fit.values.update({name: losses[fit.epoch]}), order=-100)


class Weights(Callback):
    """Remembers the weights at the end of every epoch."""

    order = -90

    def __init__(self) -> None:
        self.of_epoch: list[dict[str, Tensor]] = []

    def after_epoch(self, fit: Fit) -> None:
        self.of_epoch.append(state_of(fit.trainer))


def run(make_learner: Any, losses: Sequence[float], *cbs: Callback, **options: Any) -> Any:
    learner = make_learner(quiet=False, metrics=[accuracy, error_rate], **options)
    name = getattr(cbs[0], "monitor", "valid_loss")
    learner.fit(len(losses), 1e-2, cbs=[course(losses, name=name), *cbs])
    return learner


def test_early_stopping_ends_a_fit_that_stops_getting_better(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    cases: list[tuple[list[float], dict[str, Any], int]] = [
        ([5, 4, 3, 2, 1], {}, 5),
        ([5, 4, 4, 3], {}, 3),  # no improvement for one epoch
        ([5, 6, 4, 5, 6, 7, 1], {"patience": 3}, 6),
        ([5.0, 4.95, 4.0, 3.0], {"min_delta": 0.1}, 2),  # better, and not by enough
        ([5.0, 4.95, 4.89, 4.0], {"min_delta": 0.1, "patience": 2}, 4),
        ([0.1, 0.2, 0.2, 0.5], {"monitor": "accuracy"}, 3),  # larger is better
        ([0.9, 0.5, 0.6, 0.1], {"monitor": "error_rate"}, 3),
        ([1, 2, 3, 2], {"comp": operator.gt}, 4),
        ([math.nan, 1, 2], {}, 1),
        ([3, 2, 4, 5, 1], {"patience": 2}, 4),
    ]
    for losses, options, epochs in cases:
        learner = run(make_learner, losses, EarlyStoppingCallback(**options))
        assert len(learner.recorder.values) == epochs, (losses, options)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "No improvement since epoch 1: early stopping"


def test_a_new_fit_forgets_the_best_value_unless_told_not_to(make_learner: Any):
    for reset, epochs in ((False, 1), (True, 2)):
        learner, stops = make_learner(), EarlyStoppingCallback(reset_on_fit=reset)
        learner.fit(1, cbs=[course([1.0]), stops])
        learner.fit(3, cbs=[course([2.0, 3.0, 4.0]), stops])
        assert len(learner.recorder.last.values) == epochs


def test_an_unknown_value_is_refused_before_the_first_step(make_learner: Any):
    for kind in [EarlyStoppingCallback, KeepBest, SaveModelCallback, ReduceLROnPlateau]:
        learner = make_learner(metrics=accuracy)
        with pytest.raises(ConfigError, match=r"'balance': .* train_loss, valid_loss, accuracy"):
            learner.fit(1, cbs=kind("balance"))
        assert learner.recorder.losses == []


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


def test_the_best_epoch_of_both_phases_of_fine_tune_is_left(make_learner: Any, tmp_path: Path):
    for losses, best in (([1.0, 3.0, 2.0], 0), ([3.0, 2.0, 1.0], 2)):
        for keeping in (KeepBest(), SaveModelCallback()):
            learner, weights = make_learner(path=tmp_path), Weights()
            given = iter(losses)
            cbs = [
                at(
                    "after_epoch",
                    lambda fit, given=given: fit.values.update(valid_loss=next(given)),
                    order=40,
                )
            ]
            learner.fine_tune(2, 1e-2, cbs=[*cbs, keeping, weights])
            assert keeping.best == losses[best]
            assert same(learner, weights.of_epoch[best]), (losses, keeping)
    keeping = KeepBest(reset_on_fit=False)
    learner.fit(1, cbs=[course([1.0]), keeping])
    best = state_of(learner)
    learner.fit(1, 1e-2, cbs=[course([2.0]), keeping])
    assert same(learner, best)


def test_the_best_weights_are_left_after_an_error_too(make_learner: Any):
    for error in [KeyboardInterrupt(), RuntimeError("mine")]:
        learner, weights = make_learner(), Weights()
        cbs = [course([1, 2, 3]), KeepBest(), weights, failing("after_step", error, step=12)]
        with pytest.raises(type(error)):
            learner.fit(3, 1e-2, cbs=cbs)
        assert same(learner, weights.of_epoch[0])


def test_a_fit_without_a_whole_epoch_leaves_its_weights(make_learner: Any):
    learner = make_learner()
    before = state_of(learner)
    learner.fit(1, 1e-2, cbs=[KeepBest(), stopping("after_step")])
    assert not same(learner, before)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir())


def test_better_weights_are_saved_and_loaded_in_the_end(
    make_learner: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    weights = Weights()
    saving = SaveModelCallback(fname="best")
    learner = run(make_learner, [3.0, 1.0, 2.0], saving, weights, path=tmp_path)
    assert saved(tmp_path) == ["best.safetensors"]
    assert same(learner, weights.of_epoch[1])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Better")]
    assert lines == [
        "Better model found at epoch 0 with valid_loss value: 3.0.",
        "Better model found at epoch 1 with valid_loss value: 1.0.",
    ]


def test_every_few_epochs_are_saved_by_number(make_learner: Any, tmp_path: Path):
    for every, epochs in [(True, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])]:
        weights, path = Weights(), tmp_path / repr(every)
        saving = SaveModelCallback(every_epoch=every)
        learner = run(make_learner, [1.0, 2.0, 3.0, 4.0], saving, weights, path=path)
        assert saved(path) == [f"model_{epoch}.safetensors" for epoch in epochs]
        assert same(learner, weights.of_epoch[-1])
        learner.load(f"model_{epochs[-1]}", with_opt=False)
        assert same(learner, weights.of_epoch[epochs[-1]])


def test_the_last_weights_or_the_optimiser_are_saved_on_request(make_learner: Any, tmp_path: Path):
    learner = run(make_learner, [1.0, 2.0], SaveModelCallback(at_end=True), path=tmp_path)
    last = state_of(learner)
    learner.fit(1, 1e-2)
    learner.load("model", with_opt=False)
    assert same(learner, last)
    for losses, steps in (([2.0, 1.0], 10), ([1.0, 2.0], 5)):  # those of the best epoch
        learner = run(make_learner, losses, SaveModelCallback(with_opt=True), path=tmp_path)
        assert {int(state["step"]) for state in learner.opt.state.values()} == {steps}


def test_rates_fall_when_the_fit_stops_getting_better(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    cases: list[tuple[list[float], dict[str, Any], list[float]]] = [
        ([3, 2, 1, 1], {}, [1, 1, 1, 1]),
        ([1, 2, 3, 4], {}, [1, 1, 10, 100]),
        ([1, 2, 3, 4, 5], {"patience": 2}, [1, 1, 1, 10, 10]),
        ([1, 2, 0.5, 1], {"factor": 2.0}, [1, 1, 2, 2]),
        ([1, 2, 3, 4], {"min_lr": 5e-3}, [1, 1, 2, 2]),
        ([1, 0.95, 0.9, 0.4], {"min_delta": 0.2, "factor": 4.0}, [1, 1, 4, 16]),
    ]
    for losses, options, divisors in cases:
        learner = run(make_learner, losses, ReduceLROnPlateau(**options))
        expected = [1e-2 / divisor for divisor in divisors]
        assert learner.recorder.lrs[::5] == pytest.approx(expected, rel=1e-12)
    capsys.readouterr()
    run(make_learner, [1, 2, 3], ReduceLROnPlateau())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert lines == ["Epoch 1: reducing lr to 0.001"]  # at the end there is nothing left to lower
    for factor in [1.0, 0.1, -2.0]:
        with pytest.raises(ConfigError, match=f"Received: {factor}"):
            ReduceLROnPlateau(factor=factor)


def test_all_groups_keep_their_ratio_when_rates_fall(make_learner: Any):
    seen: list[tuple[float, ...]] = []
    look = at("before_epoch", lambda fit: seen.append(fit.schedule.rates_at(fit.step)))
    cbs = [course([1.0, 2.0, 3.0]), ReduceLROnPlateau(), look]
    make_learner().fit(3, slice(1e-4, 1e-2), cbs=cbs)
    assert seen[0] == pytest.approx((1e-4, 1e-3, 1e-2))
    assert seen[2] == pytest.approx((1e-5, 1e-4, 1e-3))


# --- averaging -------------------------------------------------------------------------------------------------------


def floats(learner: Any) -> dict[str, Tensor]:
    state = learner.model.state_dict()
    return {n: v.clone().double() for n, v in state.items() if v.is_floating_point()}


def near(learner: Any, expected: dict[str, Tensor]) -> bool:
    found = floats(learner)
    return all(torch.allclose(found[n], v, atol=1e-6, rtol=1e-5) for n, v in expected.items())


class Reference(Callback):
    """Averages in float64, after the weights have moved and before an average is put in."""

    order = -100

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.raw: list[dict[str, Tensor]] = []
        self.measured: list[bool] = []

    def before_fit(self, fit: Fit) -> None:
        self.average = floats(fit.trainer)

    def after_step(self, fit: Fit) -> None:
        keep = min(self.decay, (1 + fit.step) / (10 + fit.step))
        now = floats(fit.trainer)
        self.raw.append(now)
        self.average = {n: keep * v + (1 - keep) * now[n] for n, v in self.average.items()}

    def after_epoch(self, fit: Fit) -> None:
        self.measured.append(near(fit.trainer, self.average))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_of_all_steps_is_validated_and_left(make_learner: Any, decay: float):
    learner, reference = make_learner(), Reference(decay)
    learner.fit(2, 1e-2, cbs=[EMACallback(decay), reference])
    assert len(reference.raw) == 10
    assert reference.measured == [True, True]
    assert near(learner, reference.average)
    assert not near(learner, reference.raw[-1])
    assert learner.recorder.values[-1][1] == pytest.approx(learner.validate()[0], abs=1e-6)


def test_training_goes_on_with_the_weights_themselves(make_learner: Any):
    plain, averaged, reference = make_learner(), make_learner(), Reference(0.9)
    before: list[dict[str, Tensor]] = []

    def look(fit: Fit, batch: Batch) -> Batch:
        before.append(floats(fit.trainer))
        return batch

    plain.fit(2, 1e-2)
    averaged.fit(2, 1e-2, cbs=[EMACallback(0.9), reference, at("before_step", look, order=100)])
    assert averaged.recorder.losses == plain.recorder.losses
    for now, after in zip(before[1:], reference.raw[:-1], strict=True):
        assert all(torch.equal(now[name], value) for name, value in after.items())


def test_an_error_leaves_the_average_too(make_learner: Any):
    learner, reference = make_learner(), Reference(0.9)
    fail = failing("after_step", KeyboardInterrupt(), step=3)
    with pytest.raises(KeyboardInterrupt):
        learner.fit(1, 1e-2, cbs=[EMACallback(0.9), reference, fail])
    # The average of the third step was made before the third step failed.
    assert near(learner, reference.average)


def judge(loss: float) -> Callback:
    """Return a callback that sets the validation loss of the last epoch, so that the soup wins or loses."""
    return at("after_epoch", lambda fit: fit.values.update(valid_loss=loss), order=40)


@pytest.mark.parametrize("last", [2, 3])
def test_a_soup_is_the_mean_of_the_last_epochs(make_learner: Any, last: int):
    learner, ends = make_learner(), Weights()
    learner.fit(4, 1e-2, cbs=[WeightSoup(last), ends, judge(1e9)])
    names = [name for name, _ in learner.model.named_parameters()]
    kept = [{name: each[name].double() for name in names} for each in ends.of_epoch[-last:]]
    mean = {name: torch.stack([each[name] for each in kept]).mean(dim=0) for name in names}
    assert near(learner, mean)
    assert not near(learner, kept[-1])


def test_a_worse_or_single_soup_leaves_everything_as_it_was(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    for epochs, other in ((2, judge(-1.0)), (1, stopping("after_epoch"))):
        learner, plain = make_learner(quiet=False), make_learner()
        plain.fit(epochs, 1e-2)
        learner.fit(2, 1e-2, cbs=[WeightSoup(2), other])
        assert same(learner, state_of(plain))
        text = capsys.readouterr().out
        told = "Average of the weights of 2 epochs: valid_loss "
        assert (told in text) == ("alone -1.000000; kept: the last epoch." in text) == (epochs == 2)


def test_norms_get_the_statistics_of_the_training_images(make_learner: Any):
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


def test_frozen_norms_keep_their_statistics(make_learner: Any):
    learner = make_learner(train_bn=False)
    learner.model.requires_grad_(False)  # noqa: FBT003 (the only way to call it)
    before = state_of(learner)
    renew_batch_norms(learner)
    assert same(learner, before)


# --- loggers ---------------------------------------------------------------------------------------------------------


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


@pytest.fixture
def learner(make_learner: Any, tmp_path: Path) -> Any:
    return make_learner(metrics=accuracy, path=tmp_path)


def test_all_epochs_of_fine_tune_are_in_the_csv_in_full_precision(learner: Any, tmp_path: Path):
    learner.fine_tune(2, cbs=CSVLogger())
    rows = csv_rows(tmp_path / "history.csv")
    assert [row["stage"] for row in rows] == ["frozen", "unfrozen", "unfrozen"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0]) == ["stage", "epoch", "train_loss", "valid_loss", "accuracy", "time"]
    values = [[float(row[name]) for name in list(row)[2:5]] for row in rows]
    assert values == learner.recorder.values
    assert all(float(row["time"]) > 0 for row in rows)


def test_all_epochs_of_fine_tune_are_in_the_json_lines(learner: Any, tmp_path: Path):
    learner.fine_tune(1, cbs=JSONLLogger("logs/run.jsonl"))
    text = (tmp_path / "logs" / "run.jsonl").read_text("utf-8")
    rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("frozen", 5), ("unfrozen", 5)]
    values = [[row[name] for name in ("train_loss", "valid_loss", "accuracy")] for row in rows]
    assert values == learner.recorder.values
    assert [row["learning_rates"][-1] for row in rows] == learner.recorder.lrs[4::5]
    assert len(rows[0]["learning_rates"]) == 3


def test_a_log_is_complete_after_every_epoch(learner: Any, tmp_path: Path):
    for logger, num_lines in ((CSVLogger("log.csv"), 3), (JSONLLogger("log.jsonl"), 2)):
        fail = failing("before_epoch", KeyboardInterrupt(), step=10)
        with pytest.raises(KeyboardInterrupt):
            learner.fit(4, cbs=[logger, fail])
        assert len((tmp_path / logger.fname).read_text().splitlines()) == num_lines


def test_a_new_logger_begins_a_new_file_unless_it_appends(learner: Any, tmp_path: Path):
    path = tmp_path / "history.csv"
    path.write_text("something old\n")
    learner.fit(1, cbs=CSVLogger())
    assert len(csv_rows(path)) == 1
    learner.fit(2, cbs=CSVLogger(append=True))
    assert [row["epoch"] for row in csv_rows(path)] == ["0", "1", "2"]
    assert path.read_text().count("train_loss") == 1
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken"):
        learner.fit(1, cbs=CSVLogger("taken"))


def test_fit_after_fit_is_one_history(learner: Any, tmp_path: Path):
    (tmp_path / "history.csv").write_text("of yesterday\n")
    for stage in ("fit", "one cycle"):
        fit = learner.fit if stage == "fit" else learner.fit_one_cycle
        fit(2, cbs=[CSVLogger(), JSONLLogger()])  # new loggers each time
    rows = csv_rows(tmp_path / "history.csv")
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        *(("fit", "0"), ("fit", "1"), ("one cycle", "2"), ("one cycle", "3"))
    ]
    lines = (tmp_path / "history.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [point.epoch for point in learner.recorder.history] == [0, 1, 2, 3]
    assert [float(row["valid_loss"]) for row in rows] == [row[1] for row in learner.recorder.values]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_step_and_every_epoch(learner: Any, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    learner.fine_tune(1, cbs=logger)
    logger.writer.close()
    events: Any = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    recorder = learner.recorder
    expected = {
        "loss/step": (range(10), recorder.losses),
        "learning_rate": (range(10), recorder.lrs),
        **{
            f"epoch/{name}": ((5, 10), [values[place] for values in recorder.values])
            for place, name in enumerate(recorder.value_names)
        },
    }
    assert sorted(events.Tags()["scalars"]) == sorted(expected)
    for name, (steps, values) in expected.items():
        points = events.Scalars(name)
        assert [point.step for point in points] == list(steps)
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6)


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
    values = [[row[name] for name in ("train_loss", "valid_loss", "accuracy")] for row in sent]
    assert values == learner.recorder.values
    assert [row["learning_rate"] for row in sent] == learner.recorder.lrs[4::5]
    assert run.summary["accuracy"] == sent[-1]["accuracy"]


def test_wandb_without_a_run_is_an_error_before_the_first_step(learner: Any, wandb: Any):
    with pytest.raises(ConfigError, match=r"wandb\.init"):
        learner.fit(1, cbs=WandbLogger())
    assert learner.recorder.losses == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SQLAlchemy's, of what MLflow does
def test_mlflow_gets_every_epoch_of_all_fits(learner: Any, tmp_path: Path):
    mlflow: Any = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ConfigError, match=r"mlflow\.start_run"):
        learner.fit(1, cbs=MLflowLogger())
    assert learner.recorder.losses == []
    with mlflow.start_run() as run:
        learner.fine_tune(1, cbs=MLflowLogger())
    for place, name in enumerate(learner.recorder.value_names):
        sent = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
        assert [point.step for point in sent] == [0, 1]
        assert [point.value for point in sent] == [row[place] for row in learner.recorder.values]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    for kind, package, module in [
        (TensorBoardLogger, "tensorboard", "torch.utils.tensorboard.writer"),
        (WandbLogger, "wandb", "wandb"),
        (MLflowLogger, "mlflow", "mlflow"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"'{package}' .*pip install"):
            kind()


def test_the_losses_are_drawn_at_the_end(learner: Any):
    learner.fit(1, cbs=ShowGraphCallback())
    (axes,) = plt.gcf().axes
    assert axes.get_title() == "learning curve"
    plt.close("all")


def test_an_event_that_nothing_would_call_is_refused_with_the_one_that_was_meant():
    def nothing(self: Any) -> None: ...

    for name, facts in (
        ("after_bach", r"after_bach .*after_batch, as def after_batch\(self\)"),
        ("on_batch_end", "on_batch_end .*after_step"),
        ("on_epoch_end", "on_epoch_end .*after_epoch"),
        ("before_fti", "before_fti .*before_fit"),
    ):
        with pytest.raises(ConfigError, match=rf"Mine\.{facts}"):
            type("Mine", (Callback,), {name: nothing})
    type("Mine", (Callback,), {"on_my_own": nothing, "_after_work": nothing})


def test_callbacks_may_be_classes_and_nothing_else(make_learner: Any):
    learner = make_learner(cbs=[MixUp, GradientClip(1.0)])
    learner.fit(1, cbs=ShowGraphCallback)
    plt.close("all")
    assert [type(each) for each in learner.cbs] == [MixUp, GradientClip]
    for wrong in ("mixup", 5, [F.cross_entropy], nn.Identity):
        with pytest.raises(ConfigError, match="inherit from Callback"):
            make_learner(cbs=wrong)


# --- how steps are taken ---------------------------------------------------------------------------------------------


class Moves(Callback):
    """Notes after which steps the weights had moved."""

    def __init__(self) -> None:
        self.moved: list[bool] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.before = [value.detach().clone() for value in fit.trainer.model.parameters()]
        return batch

    def after_step(self, fit: Fit) -> None:
        self.moved.append(not all(map(torch.equal, fit.trainer.model.parameters(), self.before)))


def test_gradients_add_up_until_enough_images_were_seen(make_learner: Any):
    for n_acc, expected in [
        (4, [True] * 5),
        (8, [False, True, False, True, True]),  # what is left at the end is a step too
        (9, [False, False, True, False, True]),  # rounded up to whole batches
        (100, [False, False, False, False, True]),
    ]:
        learner, moves = make_learner(), Moves()
        learner.fit(2, 1e-2, cbs=[GradientAccumulation(n_acc), moves])
        assert moves.moved == expected * 2
        assert all(value.grad is None for value in learner.model.parameters())
        learner.fit(1, 1e-2, cbs=moves)  # in that fit alone
        assert moves.moved[10:] == [True] * 5


def test_the_options_of_a_learner_survive_a_failed_fit(make_learner: Any):
    learner = make_learner(accumulate=3, clip=0.25)
    fail = failing("before_fit", ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=[fail, GradientAccumulation(8), GradientClip(2.0)])
    assert (learner.accumulate, learner.clip) == (3, 0.25)


def test_gradients_are_clipped_to_a_norm_in_this_fit_alone(
    make_learner: Any, monkeypatch: pytest.MonkeyPatch
):
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def note(self: Any, *arguments: Any, **options: Any) -> Any:
        values = [value for group in self.param_groups for value in group["params"]]
        norms.append(float(nn.utils.get_total_norm([v.grad for v in values if v.grad is not None])))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    learner = make_learner()
    learner.fit(1, 1e-3, cbs=GradientClip(0.01))
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)
    learner.fit(1, 1e-3)
    assert min(norms[5:]) > 0.02


def test_numbers_that_cannot_work_are_refused():
    refused: list[tuple[Callable[..., Callback], list[Any]]] = [
        (GradientAccumulation, [0]),
        (GradientClip, [0.0, -1.0]),
        (partial(GradientClip, norm_type=1.0), [1.0]),
        (ProgressiveResizing, [(), (64, 0)]),
        (MixUp, [0.0, -1.0]),
        (CutMix, [0.0, -1.0]),
        (EMACallback, [0.0, 1.0, -0.5, 2.0]),
        (WeightSoup, [1]),
    ]
    for kind, values in refused:
        for value in values:
            with pytest.raises(ConfigError, match="Received"):
                kind(value)


def keep_batches(kept: list[Batch], *, order: int = 95) -> Callback:
    """Return a callback that keeps batches; after 90 they are mixed."""

    def keep(_: Fit, batch: Batch) -> Batch:
        kept.append(batch)
        return batch

    return at("before_step", keep, order=order)


@pytest.mark.parametrize("transforms", [(), aug_transforms(size=32)], ids=["plain", "augmented"])
def test_images_grow_from_part_to_part_of_a_fit(
    make_learner: Any, make_loaders: Any, transforms: Any
):
    loaders = make_loaders(transforms=transforms)
    before, kept = loaders.train.augmentation, list[Batch]()
    resizing = ProgressiveResizing((16, (24, 20), 32))
    make_learner(loaders).fit(3, cbs=[resizing, keep_batches(kept)])
    sizes = [tuple(batch.images.shape[2:]) for batch in kept]
    assert sizes == [(16, 16)] * 5 + [(24, 20)] * 5 + [(32, 32)] * 5
    assert loaders.train.augmentation is before
    assert loaders.valid.one_batch()[0].shape[2:] == (32, 32)


def test_parts_are_as_equal_as_epochs_allow(make_learner: Any, make_loaders: Any):
    for sides in ([16], [16, 24], [16, 16, 24, 32], [16, 16, 24, 24, 32, 32]):
        kept: list[Batch] = []
        cbs = [ProgressiveResizing((16, 24, 32)), keep_batches(kept)]
        make_learner(make_loaders(batch_size=20)).fit(len(sides), cbs=cbs)
        assert [batch.images.shape[2] for batch in kept] == sides


# --- mixing ----------------------------------------------------------------------------------------------------------

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "mix.json").read_text("utf-8"))


def run_mixing(make_learner: Any, mixing: Callback) -> tuple[list[tuple[Batch, Any]], Any]:
    """Train an epoch at next to no rate; return pairs of the plain and the mixed batches, and the learner."""
    learner = make_learner(dropout=0.0)
    plain, mixed = list[Batch](), list[Batch]()
    learner.fit(1, 1e-12, cbs=[keep_batches(plain, order=0), mixing, keep_batches(mixed)])
    return list(zip(plain, mixed, strict=True)), learner


def test_the_mixed_loss_is_the_golden_one():
    names = ("x", "y", "lam", "perm", "mixed", "pred", "loss")
    case = {name: torch.tensor(GOLDEN["mixup"][name]) for name in names}
    mixed = blend_images(case["x"], case["y"], shares=case["lam"], partners=case["perm"])
    torch.testing.assert_close(mixed.images, case["mixed"], atol=1e-6, rtol=0)
    batch = Batch(
        images=mixed.images,
        targets=case["y"],
        rows=torch.arange(len(case["y"])),
        partner_targets=mixed.partner_targets,
        shares=mixed.shares,
    )
    for loss_function in (F.cross_entropy, CrossEntropyLossFlat()):
        loss = batch_loss(case["pred"], batch, loss_function=loss_function)
        assert float(loss) == pytest.approx(float(case["loss"]), abs=1e-5)


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_the_recorded_loss_counts_both_targets(make_learner: Any, mixing: Any):
    pairs, learner = run_mixing(make_learner, mixing())
    assert any(not torch.equal(batch.images, plain.images) for plain, batch in pairs)
    valid_loss = learner.validate()[0]
    learner.model.train()
    for (plain, batch), loss in zip(pairs, learner.recorder.losses, strict=True):
        assert torch.equal(batch.targets, plain.targets)
        logits = learner.model(batch.images)
        own, partner = (
            F.cross_entropy(logits, targets, reduction="none")
            for targets in (batch.targets, batch.partner_targets)
        )
        expected = (batch.shares * own + (1 - batch.shares) * partner).mean().detach()
        assert loss == pytest.approx(float(expected), abs=1e-5)
    # Validation images are not mixed, and the same seed mixes in the same way.
    assert learner.recorder.values[0][1] == pytest.approx(valid_loss, abs=1e-6)
    again = run_mixing(make_learner, mixing())[1]
    assert again.recorder.losses == learner.recorder.losses


def test_a_loss_without_losses_of_images_is_refused_before_the_first_step(make_learner: Any):
    def mean_only(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)

    learner = make_learner(loss_func=mean_only)
    with pytest.raises(ConfigError):
        learner.fit(1, cbs=MixUp())
    assert learner.recorder.losses == []
