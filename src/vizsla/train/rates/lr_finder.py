"""Find a learning rate: raise it batch by batch and watch the loss; the trainer is left exactly as it was.

Smith, "Cyclical learning rates for training neural networks", WACV 2017 (arXiv 1506.01186), section 3.3. The run is an ordinary
fit without validation and without a record; weights, statistics of norms and the optimiser are kept in memory and put back,
however it ends. ``suggestions`` reads rates from the curve.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, TrainingError
from vizsla.files import atomic_write
from vizsla.train.callbacks.base import Callback, as_callbacks, has_short_form
from vizsla.train.loop import own_random_numbers
from vizsla.train.rates.schedules import lr_range, whole_number
from vizsla.train.rates.suggestions import SKIPPED_AT_END
from vizsla.train.recorder import SmoothedLoss

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from vizsla.train.callbacks.base import Callbacks, Fit
    from vizsla.train.rates.suggestions import SuggestedLRs
    from vizsla.train.trainer import Trainer
    from vizsla.types import Task

FEWEST_STEPS = 6
"""Fewer are not worth a plot, so a smaller number is raised to this."""

RUNAWAY = 4.0
"""A smoothed loss this many times its best has run away."""

LOWEST_BEST = 0.05
"""A best loss below this counts as this: a trained classifier starts near 0, where one odd image makes four times its best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinderCurve:
    """The loss over the learning rate.

    Attributes:
        lrs: Rate at every step: of the last parameter group, or, with ``shares``, the rate they are shares of.
        losses: Running mean of the losses at every step; with several runs, their mean.
        runs: The plain losses of every run.
        num_it: Steps that were asked for.
        stopped: Whether the loss ran away before the last of them.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...]
    num_it: int
    stopped: bool = False

    @property
    def steps(self) -> int:
        """Number of points."""
        return len(self.lrs)


def find_learning_rate(
    trainer: Trainer,
    *,
    start_lr: float = 1e-7,
    end_lr: float = 10.0,
    num_it: int = 100,
    stop_div: bool = True,
    num_runs: int = 1,
    shares: Sequence[float] | None = None,
    cbs: Callbacks = None,
) -> FinderCurve:
    """Raise the rate of all groups by equal factors, batch by batch, and watch the loss. The trainer is left as it was.

    Callbacks of the trainer that change batches (MixUp) take part; those that only watch are not called.

    Args:
        trainer: Its weights, norms, optimiser, modes, record and random numbers are put back. Nothing is written.
        start_lr: Of the first step.
        end_lr: The step after the last would have it.
        num_it: Steps, at least 6; over as many epochs as it takes.
        stop_div: End when the smoothed loss is four times its best, though not before ``num_it // 10 + 15`` steps.
        num_runs: Runs from the same weights, each with other batches; the curve is as long as the shortest.
        shares: The share of the rate that each group trains at; None is all of it.
        cbs: Further callbacks of these runs.
    """
    whole_number(num_it, name="num_it", least=1)
    whole_number(num_runs, name="num_runs", least=1)
    steps = max(FEWEST_STEPS, num_it)
    shares = [1.0] * len(trainer.groups) if shares is None else shares
    starts = [share * start_lr for share in shares]
    schedule = lr_range(steps, starts, end_lr * shares[-1])
    if not start_lr < end_lr:
        raise ConfigError(
            f"start_lr must be below end_lr. Received: start_lr={start_lr}, end_lr={end_lr}"
        )
    taking_part = [
        each
        for each in trainer.cbs
        if type(each).before_step is not Callback.before_step or has_short_form(type(each))
    ]
    probes: list[_Probe] = []
    with _left_as_it_was(trainer) as begin_again:
        for run in range(num_runs):
            begin_again(run)
            probes.append(_Probe(num_steps=steps, stop_div=stop_div, task=trainer.dls.table.task))
            trainer.check_batches()
            try:
                trainer.run(
                    schedule,
                    n_epoch=-(-steps // len(trainer.dls.train)),
                    stage="learning rates",
                    cbs=[*taking_part, *as_callbacks(cbs), probes[-1]],
                    measured=False,
                )
            except TrainingError:
                # The loop notices a loss that is not finite, too, and raises an error; here it is the end of the curve.
                if not probes[-1].stopped:
                    raise
    done = min(len(probe.losses) for probe in probes)
    smoothed = zip(*(probe.smoothed[:done] for probe in probes), strict=True)
    return FinderCurve(
        lrs=tuple(schedule.rates_at(step)[-1] / shares[-1] for step in range(done)),
        losses=tuple(math.fsum(losses) / num_runs for losses in smoothed),
        runs=tuple(tuple(probe.losses[:done]) for probe in probes),
        num_it=steps,
        stopped=any(probe.stopped for probe in probes),
    )


def ran_away(
    smoothed: Sequence[float], *, wait: int = 0, lowest_best: float = 0.0, ratio: float = RUNAWAY
) -> bool:
    """Return whether the last smoothed loss is more than ``ratio`` times the best; one that is not finite always has run away.

    A best below ``lowest_best`` counts as that. Fewer than ``wait`` losses never stop a run.
    """
    if not math.isfinite(smoothed[-1]):
        return True
    return len(smoothed) >= wait and smoothed[-1] > ratio * max(min(smoothed), lowest_best)


def plot_finder(
    curve: FinderCurve,
    suggestions: SuggestedLRs | None = None,
    ax: Axes | None = None,
    *,
    skip_end: int = SKIPPED_AT_END,
) -> Axes:
    """Draw the loss over the rate without the last points, with a dot for each suggestion, and return the axes.

    Rates that are nan get no dot; the range of the robust one is shaded.
    """
    from matplotlib import pyplot as plt

    if ax is None:
        ax = plt.subplots()[1]
    shown = slice(None, -skip_end if curve.steps > skip_end > 0 else None)
    ax.plot(curve.lrs[shown], curve.losses[shown])
    ax.set_xlabel("Learning Rate")
    ax.set_ylabel("Loss")
    ax.set_xscale("log")
    if suggestions is None:
        return ax
    dots = {
        name: dot for name, dot in suggestions.dots.items() if all(math.isfinite(x) for x in dot)
    }
    for number, (name, (rate, loss)) in enumerate(dots.items(), start=1):
        ax.plot(rate, loss, "o", label=name, color=f"C{number}")
    found = suggestions.robust_rate
    if found is not None and found.safe:
        ax.axvspan(found.low, found.high, alpha=0.1, color="grey", label="safe range")
    if dots:
        ax.legend(loc="best")
    return ax


def save_finder_plot(path: Path, curve: FinderCurve, suggestions: SuggestedLRs) -> Path:
    """Write what ``plot_finder`` draws as PNG, and return the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    plot_finder(curve, suggestions, ax=figure.subplots())
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


class _Probe(Callback):
    """Reads the loss of every step and ends the fit after the last rate or when the loss has run away."""

    order = 1000  # last: after whatever changes the loss

    def __init__(self, *, num_steps: int, stop_div: bool, task: Task) -> None:
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.stopped = False
        self._num_steps = num_steps
        self._wait = num_steps // 10 + 15
        self._ratio = RUNAWAY if stop_div else math.inf
        # A regression's loss has the units of its targets, so no number is "near 0" for all of them.
        self._lowest_best = 0.0 if task == "regression" else LOWEST_BEST
        self._mean = SmoothedLoss()

    def after_step(self, fit: Fit) -> None:
        """Read the loss, and decide."""
        # This waits for the device: whether to go on depends on the loss.
        loss = math.nan if fit.loss is None else float(fit.loss)
        self.losses.append(loss)
        self.smoothed += self._mean.add([loss])
        if ran_away(
            self.smoothed, wait=self._wait, lowest_best=self._lowest_best, ratio=self._ratio
        ):
            self.stopped = True
            fit.stop("The loss diverged.")
        elif len(self.losses) == self._num_steps:
            fit.stop("All rates were tried.")


@contextmanager
def _left_as_it_was(trainer: Trainer) -> Generator[Callable[[int], None]]:
    """Leave the trainer as it was before the block, however the block ends.

    The block gets a function that restores everything and moves on to the batches of a run, given its number.
    """
    snapshot, epochs_done = trainer.snapshot(), trainer.epochs_done
    callbacks = [(each, dict(vars(each))) for each in trainer.cbs]

    def begin_again(run: int) -> None:
        trainer.restore(snapshot)
        # Data and random numbers of an epoch follow from its number. The next fit may well use those of the first run; no fit
        # ever reaches those of the others.
        trainer.epochs_done = epochs_done + run * 1_000_000
        for callback, state in callbacks:
            vars(callback).clear()
            vars(callback).update(state)

    try:
        with own_random_numbers(device=trainer.dls.device):
            yield begin_again
    finally:
        begin_again(0)
