"""Plots of a recorder: the lines that were recorded, with the words of the seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vizsla.errors import ConfigError
from vizsla.train.recorder import FitRecord, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def recorder() -> Recorder:
    """Two fits; the last of two epochs of five steps."""
    last = FitRecord(
        stage="unfrozen",
        losses=[float(step) for step in range(10)],
        smoothed=[10.0 - step for step in range(10)],
        lrs=[0.1 * step for step in range(10)],
        moms=[0.95] * 10,
        iters=[5, 10],
        values=[[6.0, 5.5, 0.25], [1.0, 2.5, 0.75]],
    )
    return Recorder(metric_names=("accuracy",), fits=[FitRecord(stage="frozen"), last])


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in axes.get_lines()
    }


def test_the_learning_curve_has_smoothed_and_validation_losses(recorder: Recorder):
    axes = recorder.plot_loss()
    assert lines_of(axes) == {
        "train": ([5, 6, 7, 8, 9], [5.0, 4.0, 3.0, 2.0, 1.0]),
        "valid": ([5, 10], [5.5, 2.5]),
    }
    expected = "<Axes: title={'center': 'learning curve'}, xlabel='steps', ylabel='loss'>"
    assert repr(axes) == expected


def test_validation_within_what_is_skipped_is_left_out(recorder: Recorder):
    assert lines_of(recorder.plot_loss(skip_start=6))["valid"] == ([10], [2.5])


def test_a_short_fit_is_drawn_whole(recorder: Recorder):
    recorder.last.smoothed = recorder.last.smoothed[:6]
    assert lines_of(recorder.plot_loss())["train"][0] == [0, 1, 2, 3, 4, 5]


def test_what_is_drawn_can_be_chosen(recorder: Recorder):
    _, given = plt.subplots()
    axes = recorder.plot_loss(0, with_valid=False, log=True, show_epochs=True, ax=given)
    assert axes is given
    assert axes.get_yscale() == "log"
    assert len(axes.get_lines()) == 3  # training, and the ends of two epochs


def test_the_schedule_has_rate_and_momentum(recorder: Recorder):
    recorder.plot_sched()
    assert [(axes.get_title(), axes.get_ylabel()) for axes in plt.gcf().axes] == [
        ("lr", "learning rate"),
        ("mom", "momentum"),
    ]
    (rates, *_) = lines_of(plt.gcf().axes[0]).values()
    assert rates[1][-1] == pytest.approx(0.9)


def test_a_schedule_without_momentum_is_one_plot(recorder: Recorder):
    recorder.last.moms = []
    recorder.plot_sched()
    assert len(plt.gcf().axes) == 1


def test_metrics_are_drawn_beside_the_losses(recorder: Recorder):
    recorder.plot_metrics()
    losses, accuracy = plt.gcf().axes
    assert lines_of(losses) == {"train": ([0, 1], [6.0, 1.0]), "valid": ([0, 1], [5.5, 2.5])}
    assert accuracy.get_title() == "accuracy"
    assert [y for _, y in lines_of(accuracy).values()] == [[0.25, 0.75]]


def test_nothing_trained_is_said():
    recorder = Recorder()
    for plot in (recorder.plot_loss, recorder.plot_sched, recorder.plot_metrics):
        with pytest.raises(ConfigError, match="Nothing was trained"):
            plot()
