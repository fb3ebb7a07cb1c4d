"""A fit of lesson one: cycles, rates, the finder, what is recorded, printed, drawn and saved, against recorded numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vizsla import ConfigError
from vizsla.classic import ConvLearner, ImageClassifierData, tfms_from_model
from vizsla.classic.training import (
    BestSaver,
    CycleSaver,
    EndOfFit,
    FitPlan,
    LossRecorder,
    LRFinder,
    decays_of,
    header_line,
    rates_of,
    returned_values,
    row_line,
)
from vizsla.train.callbacks import Fit
from vizsla.train.rates import Schedule, lr_range


def plan(
    n_cycle: int, cycle_len: int | None, cycle_mult: float, batches: int, **more: Any
) -> FitPlan:
    lengths = {"n_cycle": n_cycle, "cycle_len": cycle_len, "cycle_mult": cycle_mult}
    return FitPlan(**lengths, batches=batches, **more)  # pyright: ignore[reportArgumentType]


def test_epochs_are_those_of_the_original(recorded: Any):
    for case in recorded["epochs"]["cases"]:
        found = plan(case["n_cycle"], case["cycle_len"], case["cycle_mult"], 1)
        assert found.epochs == case["epochs"], case


def test_cycles_have_the_recorded_rates(recorded: Any):
    assert plan(2, None, 1, 3).schedule((0.5,)).factors == (1.0,) * 6
    schedule = plan(3, 1, 1, 32).schedule((0.01,))
    rates = [schedule.rates_at(step)[0] for step in range(schedule.num_steps)]
    assert rates == pytest.approx(recorded["sgdr"]["fit_1e-2_3_cycle_len_1_nb32"]["lrs"], rel=1e-9)
    golden = recorded["sgdr"]["fit_1e-4_1e-3_1e-2_3_cycle_len_1_cycle_mult_2_nb32"]
    schedule = plan(3, 1, 2, 32).schedule(tuple(golden["group_lrs"]))
    assert schedule.num_steps == golden["n_iter"]
    for step, last in enumerate(golden["lrs_last_group"]):
        assert schedule.rates_at(step) == pytest.approx((last / 100, last / 10, last), rel=1e-9)
    for batches in (2, 3, 4):
        golden = recorded["sgdr"]["tiny_multipliers_3_cycles"][str(batches)]
        assert plan(3, 1, 1, batches).schedule((1.0,)).factors == pytest.approx(golden, rel=1e-9)
    golden = recorded["sgdr"]["vizsla_on_cycle_end_fires_after_n_batches"]
    assert plan(3, 1, 2, 32).cycle_ends == tuple(step for step, _ in golden)


def test_triangles_have_the_recorded_factors(recorded: Any):
    for more, batches, name in (
        ({"use_clr": (32, 5)}, 32, "use_clr_(32,5)_nb32_multiplier"),
        ({"use_clr": (10, 10, 0.95, 0.85)}, 32, "use_clr_(10,10,0.95,0.85)_nb32"),
        ({"use_clr_beta": (20, 10, 0.95, 0.85)}, 40, "use_clr_beta_(20,10,0.95,0.85)_nb40"),
    ):
        golden = recorded["clr"][name]
        schedule = plan(1, 1, 1, batches, **more).schedule((1.0,))
        factors = golden if isinstance(golden, list) else golden["multiplier"]
        assert schedule.factors == pytest.approx(factors, rel=1e-9), name
        if isinstance(golden, dict):
            momenta = golden["momentum_used_at_iteration"]
            assert schedule.momenta == pytest.approx(momenta, rel=1e-9), name
    with pytest.raises(ConfigError, match="cycle_len"):
        plan(1, None, 1, 32, use_clr=(32, 5)).schedule((1.0,))
    with pytest.raises(ValueError, match="cut_div=5"):
        plan(1, 1, 1, 4, use_clr=(32, 5)).schedule((1.0,))


def test_the_finder_rises_by_the_recorded_factors(recorded: Any):
    golden = recorded["lr_find"]
    for count in (10, 32):
        schedule = lr_range(count, (1e-5,), 10.0)
        rates = [schedule.rates_at(step)[0] for step in range(count)]
        assert rates == pytest.approx(golden[f"geometric_n{count}"], rel=1e-9)
    schedule = lr_range(32, (1e-7, 1e-6, 1e-5), 10.0)
    for step, name in ((0, "first"), (16, "at_16"), (31, "last")):
        expected = golden["array_start_1e-7_1e-6_1e-5_n32"][name]
        assert schedule.rates_at(step) == pytest.approx(expected, rel=1e-9)
    schedule = lr_range(32, (1e-5,), 10.0, linearly=True)
    for step, rate in golden["linear_n32_points"].items():
        assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)


def test_rates_and_decays_are_one_or_one_per_group():
    for lrs in (0.1, [0.1], np.array([0.1])):
        assert rates_of(lrs, num_groups=3, head_only=False) == (0.1, 0.1, 0.1)
    rates = np.array([1e-4, 1e-3, 1e-2])
    assert rates_of(rates, num_groups=3, head_only=False) == (1e-4, 1e-3, 1e-2)
    assert decays_of(None, num_groups=2) == (0.0, 0.0)
    assert decays_of(0.1, num_groups=2) == (0.1, 0.1)
    assert decays_of([0.1, 0.2], num_groups=2) == (0.1, 0.2)
    with pytest.raises(ConfigError, match="3 weight decays"):
        decays_of([0.1, 0.2, 0.3], num_groups=2)


def feed(
    recorder: LossRecorder, losses: Sequence[float], momenta: tuple[float, ...] = ()
) -> LossRecorder:
    """Show a recorder a fit whose rate is 0.01 * (step + 1)."""
    factors = tuple(float(step + 1) for step in range(len(losses)))
    schedule = Schedule(rates=(0.001, 0.01), factors=factors, momenta=momenta)
    trainer: Any = SimpleNamespace(steps_done=0)
    fit = Fit(
        trainer=trainer, stage="", number=0, n_epoch=1, num_batches=len(losses), schedule=schedule
    )
    recorder.before_fit(fit)
    for loss in losses:
        fit.step_done(torch.tensor(loss, dtype=torch.float64), rows=torch.zeros(1))
        recorder.after_step(fit)
    fit.read_losses()
    return recorder


def test_losses_and_rates_are_recorded(recorded: Any):
    for case in recorded["loss_smoothing"]["cases"]:
        found = feed(LossRecorder(), case["losses"]).losses
        assert found == pytest.approx(case["debiased"], rel=1e-9)
    recorder = feed(LossRecorder(), [1.0, 1.0])
    assert recorder.lrs == [0.01, 0.02]
    assert recorder.iterations == [1, 2]


def test_the_finder_stops_where_recorded(recorded: Any):
    for case in recorded["lr_find"]["stop_cases"]:
        finder = LRFinder()
        losses = [math.nan if loss is None else loss for loss in case["smoothed_losses"]]
        stops = [step for step, loss in enumerate(losses) if finder.diverges(loss, step=step)]
        assert (stops[0] if stops else None) == case["stops_at_batch_index"], case["name"]
    finder = LRFinder()  # the step that ends the search is not recorded
    with pytest.raises(EndOfFit):
        feed(finder, [0.1] * 12 + [1000.0])
    assert len(finder.lrs) == len(finder.losses) == 12


def make_learner(lesson: str, tiny: Callable[[bool], nn.Module]) -> ConvLearner:
    data = ImageClassifierData.from_paths(lesson, bs=4, tfms=tfms_from_model(tiny, 32))
    return ConvLearner.pretrained(tiny, data, pretrained=False)


@pytest.mark.parametrize("linear", [False, True])
def test_a_search_takes_one_epoch_and_prints_a_row_at_its_end(
    lesson: str,
    tiny: Callable[[bool], nn.Module],
    linear: bool,
    capsys: pytest.CaptureFixture[str],
):
    learner = make_learner(lesson, tiny)
    learner.lr_find(start_lr=1e-5, end_lr=1e-3, linear=linear)
    steps = np.arange(len(learner.data.trn_dl)) / len(learner.data.trn_dl)
    expected = 1e-3 * steps if linear else 1e-5 * 1e2**steps
    np.testing.assert_allclose(learner.sched.lrs, expected, rtol=1e-9)
    assert len(learner.sched.losses) == len(expected) > 3
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_search_ends_before_its_loss_runs_away(
    lesson: str, tiny: Callable[[bool], nn.Module], capsys: pytest.CaptureFixture[str]
):
    steps = 0

    def breaking(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return torch.nn.functional.nll_loss(outputs, targets) * (math.nan if steps == 4 else 1.0)

    learner = make_learner(lesson, tiny)
    learner.crit = breaking
    learner.lr_find()
    assert len(learner.sched.lrs) == len(learner.sched.losses) == 3
    assert all(math.isfinite(loss) for loss in learner.sched.losses)
    assert len(capsys.readouterr().out.splitlines()) < 2


def test_rates_are_drawn_next_to_momenta():
    feed(LossRecorder(), [1.0] * 3).plot_lr()
    axes = plt.gca()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "learning rate")
    drawn: Any = axes.lines[0].get_ydata()
    assert list(drawn) == pytest.approx([0.01, 0.02, 0.03])
    plt.close("all")
    feed(LossRecorder(), [1.0] * 2, momenta=(0.9, 0.8)).plot_lr()
    left, right = plt.gcf().axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("learning rate", "momentum")


def test_losses_are_drawn_against_rates_or_steps_without_both_ends():
    feed(finder := LRFinder(), [1.0] * 30)
    finder.plot()
    axes = plt.gca()
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate (log scale)", "loss")
    assert len(axes.lines[0].get_xdata()) == 30 - 10 - 6  # pyright: ignore[reportArgumentType]
    plt.close("all")
    feed(LossRecorder(), [1.0] * 30).plot_loss()
    assert list(plt.gca().lines[0].get_xdata()) == list(range(11, 26))  # pyright: ignore[reportArgumentType]


def test_the_printed_table_is_the_recorded_one(recorded: Any):
    assert (
        header_line(["epoch", "trn_loss", "val_loss", "accuracy"]) == recorded["format"]["header"]
    )
    assert header_line(["epoch", "trn_loss", "val_loss"]) == recorded["format"]["no_metrics_header"]
    for row in recorded["format"]["rows"]:
        values = [float("nan") if value is None else float(value) for value in row["values"]]
        assert row_line(row["epoch"], values) == row["line"]
    shortest = repr(returned_values([0.1, 0.021074643358588219, 0.9931640625]))
    assert shortest == "[0.021074643, 0.9931640625]"


def test_the_best_weights_are_saved():
    for epochs, expected in (
        ([[0, 1.0, 0.5], [0, 2.0, 0.6], [0, 1.0, 0.4]], [0, 1]),  # the metric rises
        (
            [[0, 1.0, 0.5], [0, 0.9, 0.5], [0, 0.95, 0.5]],
            [0, 1],
        ),  # it is the same and the loss falls
        ([[0, 1.0], [0, 1.1], [0, 0.9]], [0, 2]),  # there are no metrics
    ):
        seen: list[int] = []
        saved: list[int] = []
        saver = BestSaver(partial(lambda at, done: at.append(len(done)), saved, seen))
        for number, values in enumerate(epochs):
            fit: Any = SimpleNamespace(record=SimpleNamespace(values=[values]))
            saver.after_epoch(fit)
            seen.append(number)
        assert saved == expected


def test_cycles_are_saved_after_their_last_step():
    found: list[tuple[int, int]] = []
    step = 0
    saver = CycleSaver(lambda cycle: found.append((step, cycle)), ends=(2, 6))
    for step in range(1, 7):
        fit: Any = SimpleNamespace(step=step)
        saver.after_step(fit)
    assert found == [(2, 0), (6, 1)]
