"""A trainer in, what one of its training steps costs out: the whole of it, and each phase."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vizsla.bench.budget import wait_for
from vizsla.train.callbacks.base import Callback
from vizsla.train.cuda_graphs import STEPS_BEFORE
from vizsla.train.profile import STEP_PHASES, StepProfile
from vizsla.train.schedules import constant

if TYPE_CHECKING:
    from vizsla.train.callbacks.base import Fit
    from vizsla.train.trainer import Trainer

MAX_EPOCHS = 1000
_RATE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """What a training step costs.

    Attributes:
        seconds: Of a whole step, as it is without looking into it.
        phases: Seconds of each of ``STEP_PHASES``; they add up to more where a step cannot be looked into for nothing.
        num_pictures: In a step.
    """

    seconds: float
    phases: dict[str, float]
    num_pictures: int


def time_steps(trainer: Trainer, *, within: float, settled: bool = False) -> StepTimes:
    """Take training steps for some seconds; the first one, in which memory and kernels are set up, does not count.

    Args:
        trainer: Its network is trained a little, at a tiny rate.
        within: Seconds, the set-up included. At least one step is counted.
        settled: Steps of this kind were taken before: where there is no time for a second one, the first counts.

    Raises:
        TrainingError: There is nothing to train on.
        PictureError: A picture cannot be read.
    """
    profile = StepProfile(show=False)
    on_cuda = trainer.dls.device.type == "cuda"
    clock = _Until(within / 2 if on_cuda else within, profile=profile, settled=settled)
    _run(trainer, [profile, clock])
    phases = {name: value / clock.num_steps for name, value in clock.phases.items()}
    if on_cuda:  # Where the step is captured as a whole, its phases say nothing about it.
        clock = _Until(within / 2, warm_up=2 * STEPS_BEFORE)
        _run(trainer, [clock])
    loader = trainer.dls.train
    return StepTimes(
        seconds=clock.seconds / clock.num_steps,
        phases=phases,
        num_pictures=min(loader.bs, loader.n),
    )


def _run(trainer: Trainer, callbacks: list[Callback]) -> None:
    steps = MAX_EPOCHS * len(trainer.dls.train)
    schedule = constant(steps, rates=[_RATE] * len(trainer.groups))
    trainer.run(schedule, n_epoch=MAX_EPOCHS, stage="bench", cbs=callbacks, measured=False)


class _Until(Callback):
    """Ends a fit after some seconds, and knows what its steps took.

    Args:
        within: Seconds from the beginning of the fit.
        profile: What its phases are taken from.
        warm_up: So many steps at the beginning do not count.
        settled: They do where there is no time for more.
    """

    order: ClassVar[int] = StepProfile.order + 1

    def __init__(
        self,
        within: float,
        *,
        profile: StepProfile | None = None,
        warm_up: int = 1,
        settled: bool = False,
    ) -> None:
        self.within = within
        self.warm_up = warm_up
        self.settled = settled
        self.num_steps = 0
        self.seconds = 0.0
        self.phases: dict[str, float] = {}
        self._profile = profile
        self._began = self._since = 0.0
        self._before: dict[str, float] = {}

    def before_fit(self, fit: Fit) -> None:
        """Start the clock."""
        del fit
        self._began = self._since = time.perf_counter()

    def after_step(self, fit: Fit) -> None:
        """Look at the clock."""
        elapsed = time.perf_counter() - self._began
        is_warm_up = fit.step <= self.warm_up
        last = elapsed > self.within and (self.settled or not is_warm_up)
        if fit.step == self.warm_up or last:
            wait_for(fit.trainer.dls.device)
        now = time.perf_counter()
        phases = {} if self._profile is None else dict(self._profile.seconds)
        if is_warm_up and not last:
            self._since, self._before = now, phases
            return
        self.num_steps += 1
        self.seconds = now - self._since
        self.phases = {
            name: phases[name] - self._before.get(name, 0.0)
            for name in STEP_PHASES
            if name in phases
        }
        if last:
            fit.stop("measured")
