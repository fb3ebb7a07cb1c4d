"""What a fit leaves behind: smoothed losses, the finder's stop, the plots."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from vizsla.classic import ConvLearner, ImageClassifierData, tfms_from_model
from vizsla.classic.training import EndOfFit, LossRecorder, LRFinder
from vizsla.train.callbacks.base import Fit
from vizsla.train.schedules import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "classic.json").read_text("utf-8")
)


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")


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


@pytest.mark.parametrize("case", GOLDEN["loss_smoothing"]["cases"])
def test_losses_are_smoothed_as_recorded(case: dict[str, Any]):
    assert feed(LossRecorder(), case["losses"]).losses == pytest.approx(case["debiased"], rel=1e-9)


def test_rates_are_those_of_the_last_group():
    recorder = feed(LossRecorder(), [1.0, 1.0])
    assert recorder.lrs == [0.01, 0.02]
    assert recorder.iterations == [1, 2]


@pytest.mark.parametrize(
    "case",
    GOLDEN["lr_find"]["stop_cases"],
    ids=[c["name"] for c in GOLDEN["lr_find"]["stop_cases"]],
)
def test_the_finder_stops_where_recorded(case: dict[str, Any]):
    finder = LRFinder()
    losses = [math.nan if loss is None else loss for loss in case["smoothed_losses"]]
    stops = [step for step, loss in enumerate(losses) if finder.diverges(loss, step=step)]
    assert (stops[0] if stops else None) == case["stops_at_batch_index"]


def test_a_step_that_ends_the_search_is_not_recorded():
    finder = LRFinder()
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


def test_a_search_whose_loss_runs_away_ends_before_that_and_prints_no_row(
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


def test_the_plot_of_rates_has_the_labels_of_the_original():
    import matplotlib.pyplot as plt

    feed(LossRecorder(), [1.0] * 3).plot_lr()
    axes = plt.gca()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "learning rate")
    drawn: Any = axes.lines[0].get_ydata()
    assert list(drawn) == pytest.approx([0.01, 0.02, 0.03])


def test_momenta_are_drawn_beside_the_rates():
    import matplotlib.pyplot as plt

    feed(LossRecorder(), [1.0] * 2, momenta=(0.9, 0.8)).plot_lr()
    left, right = plt.gcf().axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("learning rate", "momentum")


def test_the_finder_draws_losses_against_rates_without_both_ends():
    import matplotlib.pyplot as plt

    feed(finder := LRFinder(), [1.0] * 30)
    finder.plot()
    axes = plt.gca()
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate (log scale)", "loss")
    assert len(axes.lines[0].get_xdata()) == 30 - 10 - 6  # pyright: ignore[reportArgumentType]


def test_losses_are_drawn_against_steps():
    import matplotlib.pyplot as plt

    feed(LossRecorder(), [1.0] * 30).plot_loss()
    assert list(plt.gca().lines[0].get_xdata()) == list(range(11, 26))  # pyright: ignore[reportArgumentType]
