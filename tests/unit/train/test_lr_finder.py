"""The finder on real learners with a tiny network: what it records, when it stops, and that it leaves no trace.

Golden values: tests/golden/lrfind.json.
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F

from vizsla import (
    Callback,
    ConfigError,
    MixUp,
    SuggestedLRs,
    TrainingError,
    minimum,
    robust,
    slide,
    steep,
    valley,
)
from vizsla.train.rates import (
    LOWEST_BEST,
    FinderCurve,
    RobustRate,
    find_learning_rate,
    plot_finder,
    ran_away,
    suggest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vizsla import Learner
    from vizsla.train.callbacks import Fit
    from vizsla.types import Batch

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "lrfind.json").read_text("utf-8"))
CURVES = {case["name"]: case for case in GOLDEN["curves"]}
TRAINED_HEAD = CURVES["real_head_after_training"]["recorded_losses"]


def state_of(learner: Learner) -> dict[str, Any]:
    """Return everything about a learner that its finder might touch."""
    return deepcopy(
        {
            "weights": learner.model.state_dict(),
            "trainable": [weight.requires_grad for weight in learner.model.parameters()],
            "modes": [part.training for part in learner.model.modules()],
            "optimiser": None if learner.opt is None else learner.opt.state_dict(),
            "random": torch.random.get_rng_state(),
            "epochs_done": learner.epochs_done,
            "recorded": (len(learner.recorder.fits), len(learner.recorder.history)),
        }
    )


assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


class FailAt(Callback):
    """Raises an error at one step of every fit."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step = step
        self.error = error
        self.steps_seen = 0

    def after_step(self, fit: Fit) -> None:
        self.steps_seen += 1
        if fit.step == self.step:
            raise self.error


def test_rates_and_running_mean_of_the_losses(make_learner: Any):
    learner = make_learner()
    assert len(learner.dls.train) == 5  # so it takes three epochs
    curve = find_learning_rate(learner, num_it=12, stop_div=False, end_lr=1e-3)
    expected = 1e-7 * (1e-3 / 1e-7) ** (np.arange(12) / 12)
    np.testing.assert_allclose(curve.lrs, expected, rtol=1e-9)
    assert curve.steps == len(curve.losses) == len(curve.runs[0]) == curve.num_it == 12
    assert not curve.stopped
    (losses,) = curve.runs
    assert len(set(losses)) == 12
    weights = 0.98 ** np.arange(12)[::-1]
    means = [np.average(losses[: n + 1], weights=weights[11 - n :]) for n in range(12)]
    np.testing.assert_allclose(curve.losses, means, rtol=1e-9)
    assert find_learning_rate(learner, num_it=12, stop_div=False, end_lr=1e-3) == curve
    for num_it in (1, 5, 6):
        assert find_learning_rate(learner, num_it=num_it, end_lr=1e-3).steps == 6


def test_first_loss_is_that_of_the_untouched_network(make_learner: Any):
    learner = make_learner(dropout=0.0)
    batch = next(learner.dls.train.batches(epoch=0))
    learner.model.train()
    with torch.no_grad():
        expected = F.cross_entropy(learner.model(batch.images), batch.targets)
    learner = make_learner(dropout=0.0)
    assert find_learning_rate(learner, num_it=6).runs[0][0] == pytest.approx(float(expected))


@pytest.mark.parametrize("frozen", [False, True], ids=["all trains", "body frozen"])
@pytest.mark.parametrize("trained", [False, True], ids=["no optimiser yet", "after a fit"])
def test_run_leaves_no_trace(make_learner: Any, tmp_path: Path, trained: bool, frozen: bool):
    learner = make_learner(metrics=[])
    if frozen:
        learner.freeze()
    if trained:
        learner.fit(1, 1e-3)
    learner.model.eval()
    before, files = state_of(learner), sorted(tmp_path.rglob("*"))
    curve = find_learning_rate(learner, num_it=9, stop_div=False)
    assert len(set(curve.losses)) == 9
    assert_same(state_of(learner), before)
    assert sorted(tmp_path.rglob("*")) == files
    assert all(weight.grad is None for weight in learner.model.parameters())
    for error in (KeyboardInterrupt(), ArithmeticError("mine"), TrainingError("mine")):
        with pytest.raises(type(error)) as raised:
            find_learning_rate(learner, num_it=20, cbs=FailAt(7, error))
        assert raised.value is error
        assert_same(state_of(learner), before)


def find_with_an_interrupted_loss(learner: Learner) -> None:
    plain, calls = learner.loss_func, [0]

    def interrupted(logits: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return plain(logits, targets)

    learner.loss_func = interrupted
    with pytest.raises(KeyboardInterrupt):
        find_learning_rate(learner, num_it=20)
    learner.loss_func = plain


FINDERS: list[Callable[[Learner], object]] = [
    partial(find_learning_rate, num_it=7, stop_div=False),
    partial(find_learning_rate, num_it=6, num_runs=3),
    partial(find_learning_rate, start_lr=1e2, end_lr=1e38, num_it=12),  # infinite losses
    find_with_an_interrupted_loss,
]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("where", ["before", "between"])
def test_fit_after_the_finder_is_the_fit_without_it(
    make_learner: Any, finder: Callable[[Learner], object], where: str
):
    def train(learner: Learner, *, probe: bool) -> Learner:
        if where == "between":
            learner.freeze()
            learner.fit_one_cycle(1, 1e-2)
        if probe:
            finder(learner)
        learner.fit_one_cycle(1, slice(1e-4, 1e-2))
        return learner

    plain = train(make_learner(), probe=False)
    probed = train(make_learner(), probe=True)
    assert_same(state_of(probed), state_of(plain))
    for name in ("losses", "values"):
        found, expected = ([getattr(fit, name) for fit in one.recorder.fits] for one in (probed, plain))  # fmt: skip
        assert found == expected


def test_every_run_sees_other_batches_from_the_same_weights(make_learner: Any):
    learner = make_learner(dropout=0.0)
    curve = find_learning_rate(learner, num_it=7, num_runs=3, end_lr=1e-3)
    assert len(curve.runs) == 3
    assert len({run[0] for run in curve.runs}) == 3
    assert {len(run) for run in curve.runs} == {7}
    assert curve.runs[0] == find_learning_rate(learner, num_it=7, end_lr=1e-3).runs[0]
    single = [find_learning_rate(learner, num_it=7, end_lr=1e-3).losses]
    assert curve.losses != single[0]
    assert curve.losses[0] == pytest.approx(np.mean([run[0] for run in curve.runs]))


def test_runaway_loss_ends_the_run_but_not_too_early(make_learner: Any):
    curve = find_learning_rate(make_learner(), start_lr=1.0, end_lr=1e6, num_it=60)
    assert curve.stopped
    assert 60 // 10 + 15 <= curve.steps < 60
    best = max(LOWEST_BEST, min(curve.losses))
    assert curve.losses[-1] > 4 * best
    assert all(loss <= 4 * best for loss in curve.losses[21:-1])
    curve = find_learning_rate(make_learner(), start_lr=1.0, end_lr=1e2, num_it=40, stop_div=False)
    assert curve.steps == 40
    assert not curve.stopped
    assert max(curve.losses) > 4 * max(LOWEST_BEST, min(curve.losses))


def test_loss_that_is_not_finite_ends_the_run_without_an_error(make_learner: Any):
    steps = 0

    def breaking(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return F.cross_entropy(logits, targets) * (math.nan if steps > 4 else 1.0)

    curve = find_learning_rate(make_learner(loss_func=breaking), num_it=20, stop_div=False)
    assert curve.stopped
    assert curve.steps == 5
    assert math.isnan(curve.losses[-1])
    found = suggest(curve, (minimum, valley))
    assert all(math.isnan(rate) for rate in found)
    assert "0 of 5 losses" in found.note


def test_only_callbacks_that_change_batches_take_part(make_learner: Any):
    class Counting(Callback):
        def __init__(self) -> None:
            self.steps = 0

        def before_step(self, fit: Fit, batch: Batch) -> Batch:
            self.steps += 1
            return batch

    watching, counting = FailAt(1, ArithmeticError()), Counting()
    learner = make_learner()
    learner.cbs = [watching, counting]
    plain = find_learning_rate(learner, num_it=6)
    assert watching.steps_seen == 0
    assert counting.steps == 0  # put back, too
    learner.cbs = [MixUp(0.4)]
    assert find_learning_rate(learner, num_it=6).losses != plain.losses


def test_impossible_ranges_are_refused_before_the_first_step(make_learner: Any, make_loaders: Any):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start_lr": 0.0}, "positive finite"),
        ({"start_lr": -1e-7}, "positive finite"),
        ({"end_lr": math.nan}, "positive finite"),
        ({"start_lr": 1.0, "end_lr": 0.1}, r"start_lr=1\.0, end_lr=0\.1"),
        ({"start_lr": 1.0, "end_lr": 1.0}, r"start_lr=1\.0, end_lr=1\.0"),
        ({"num_it": 0}, "num_it"),
        ({"num_it": 9.5}, "num_it"),
        ({"num_runs": 0}, "num_runs"),
    ]
    learner, watch = make_learner(), FailAt(1, ArithmeticError())
    for options, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            find_learning_rate(learner, cbs=watch, **options)
    assert watch.steps_seen == 0
    with pytest.raises(TrainingError, match="no training images"):
        find_learning_rate(make_learner(make_loaders(num_valid=24)))


def test_rule_for_stopping():
    stops = partial(ran_away, wait=25, lowest_best=LOWEST_BEST)
    assert not any(stops(TRAINED_HEAD[: n + 1]) for n in range(len(TRAINED_HEAD)))
    later = [*TRAINED_HEAD, *[0.02] * 20]
    assert not stops(later)
    assert stops([*later, 0.21])
    assert not ran_away([1.0, 9.0], wait=3)
    assert ran_away([1.0, 9.0, 9.0], wait=3)
    assert ran_away([1.0, math.inf], wait=3)


def curve_of(steps: int) -> FinderCurve:
    lrs = tuple(10.0 ** (-7 + 8 * step / 100) for step in range(steps))
    losses = tuple(2 - step / 100 for step in range(steps))
    return FinderCurve(lrs=lrs, losses=losses, runs=(losses,), num_it=100)


@pytest.fixture
def _closed_figures():
    yield
    plt.close("all")


@pytest.mark.usefixtures("_closed_figures")
def test_plot_shows_the_curve_without_its_end_and_the_suggestions():
    curve = curve_of(60)
    found = suggest(curve, (minimum, valley))
    ax: Any = plot_finder(curve, found)
    line, *dots = ax.get_lines()
    np.testing.assert_allclose(line.get_xdata(), curve.lrs[:-5])
    np.testing.assert_allclose(line.get_ydata(), curve.losses[:-5])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("Learning Rate", "Loss", "log")
    assert [dot.get_label() for dot in dots] == ["minimum", "valley"]
    places = [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots]
    assert places == list(found.dots.values())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["minimum", "valley"]
    safe = RobustRate(value=1e-3, low=1e-4, high=1e-2)
    found = SuggestedLRs({"robust": (1e-3, (1e-3, 1.7))}, unpacked=[1e-3], robust_rate=safe)
    ax = plot_finder(curve, found)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["robust", "safe range"]


@pytest.mark.usefixtures("_closed_figures")
def test_plot_of_a_curve_alone_or_a_short_one():
    axes = plt.subplots()[1]
    assert plot_finder(curve_of(60), ax=axes) is axes
    assert len(axes.get_lines()) == 1
    assert axes.get_legend() is None
    for steps in (0, 1, 5):
        ax: Any = plot_finder(curve_of(steps), suggest(curve_of(steps)))
        (line,) = ax.get_lines()
        assert len(line.get_xdata()) == steps


@pytest.mark.usefixtures("_closed_figures")
def test_lr_find_shows_the_valley_and_unpacks_to_two(make_learner: Any):
    learner = make_learner()
    found = learner.lr_find(num_it=40, end_lr=0.1)
    assert repr(found) == f"SuggestedLRs(valley={found.valley})"
    lr_min, lr_steep = learner.lr_find(num_it=40, end_lr=0.1, show_plot=False)
    curve = find_learning_rate(learner, num_it=40, end_lr=0.1)
    assert [lr_min, lr_steep] == list(suggest(curve, (minimum, steep)))
    assert learner.lr_find(num_it=6, show_plot=False, suggest_funcs=None) is None


def test_lr_find_makes_several_runs_for_the_robust_suggestion(make_learner: Any):
    learner = make_learner()
    before = state_of(learner)
    found = learner.lr_find(num_it=24, end_lr=1e-5, show_plot=False, suggest_funcs=(valley, robust))
    assert found.robust_rate.num_runs == 3
    assert list(found.as_dict()) == ["valley", "robust"]
    assert_same(state_of(learner), before)


def test_lr_find_says_when_there_are_too_few_points(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    learner = make_learner(quiet=False)
    found = learner.lr_find(num_it=12, show_plot=False, suggest_funcs=(valley, slide))
    assert all(
        math.isnan(rate)
        for rate in (found.valley, found.slide, *learner.lr_find(num_it=19, show_plot=False))
    )
    assert capsys.readouterr().out.startswith(f"{found.note}\n")
    assert "valley or slide" in found.note
