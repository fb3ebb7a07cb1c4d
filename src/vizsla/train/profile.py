"""Where the time of training goes: waiting for data, copy, augmentation, forward, backward, optimiser.

The loader, the step and the events of the fit tell a clock when a phase begins; results stay the same. On CUDA the clock waits
for the device whenever a phase ends, because kernels would otherwise be charged to whoever waits for them, and steps are computed
operation by operation instead of from a captured graph. Such a run is slower than usual: read its shares, not its total.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from vizsla.train.callbacks.base import Callback
from vizsla.train.distributed import own_part

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.train.callbacks.base import Fit, FitSettings
    from vizsla.train.display import Display
    from vizsla.types import Batch

WAITING, COPY, AUGMENTATION = "waiting for data", "copy to device", "augmentation"
FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"
OVERHEAD, VALIDATION = "everything else", "validation"
STEP_PHASES = (WAITING, COPY, AUGMENTATION, FORWARD, BACKWARD, OPTIMISER, OVERHEAD)
"""In the order of a step. The backward pass includes the loss and clipping; reading the losses a few times a second counts as
waiting."""


class PhaseClock:
    """Charges time to the phase that is going on; ``seconds`` has the time of each so far.

    On CUDA it waits for the device when a phase ends.
    """

    def __init__(self, phases: Sequence[str], *, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(phases, 0.0)
        self.device = torch.device("cpu") if device is None else device
        self.phase = ""
        self._since = 0.0

    def to(self, phase: str, *, wait: bool = True) -> None:
        """End the present phase, if any, and begin another; with ``wait``, the first one includes what the device still computes."""
        if wait and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.phase:
            self.seconds[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def stop(self) -> None:
        """End the present phase."""
        self.to("")

    @contextmanager
    def augmenting(self) -> Generator[None]:
        """Charge the block to augmentation, and what is still being copied to the device to the copy."""
        self.to(COPY, wait=False)
        self.to(AUGMENTATION)
        yield
        self.to(OVERHEAD)


class StepProfile(Callback):
    """Adds up where the time of the training steps goes, and prints it when a fit ends.

    Args:
        show: Print the table when a fit ends.

    Attributes:
        seconds: Of each of ``STEP_PHASES``, and of the validation, over all fits.
        num_steps: Batches that were trained on.

    Examples:
        >>> profile = StepProfile()
        >>> learn.fit_one_cycle(1, cbs=profile)
        >>> profile.milliseconds("forward")
    """

    order: ClassVar[int] = 1000
    """Last: the time of other callbacks is charged to everything else."""

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self.num_steps = 0
        self._clock = PhaseClock((*STEP_PHASES, VALIDATION))
        self.seconds = self._clock.seconds

    def milliseconds(self, phase: str) -> float:
        """Return the mean time of one of ``STEP_PHASES`` in a step, in milliseconds."""
        return 1000 * self.seconds[phase] / max(self.num_steps, 1)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (phase, milliseconds a step, share of the step) as text: each phase, then the whole step."""
        whole = sum(self.milliseconds(phase) for phase in STEP_PHASES)
        rows = [(phase, self.milliseconds(phase)) for phase in STEP_PHASES]
        return [
            (name, f"{value:.2f}", f"{value / whole:.1%}" if whole else "")
            for name, value in [*rows, ("whole step", whole)]
        ]

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Listen to the phases; a captured step has none."""
        self._clock.device = fit.trainer.dls.device
        return replace(settings, eager=True, clock=self._clock)

    def before_epoch(self, fit: Fit) -> None:
        """Wait for the first batch."""
        del fit
        self._clock.to(WAITING)

    def after_step(self, fit: Fit) -> None:
        """Wait for the next batch."""
        del fit
        self.num_steps += 1
        self._clock.to(WAITING)

    def before_validate(self, fit: Fit) -> None:
        """Begin the validation."""
        del fit
        self._clock.to(VALIDATION)

    def after_epoch(self, fit: Fit) -> None:
        """End the validation."""
        del fit
        self._clock.stop()

    def after_fit(self, fit: Fit) -> None:
        """Print the table."""
        self._clock.phase = ""  # What an interrupted epoch was doing is not charged.
        if self.show and self.num_steps and fit.error is None:
            fit.trainer.display.header(("phase           ", "ms per step", "share"))
            for row in self.rows():
                fit.trainer.display.row(row)


def watched_batches(loader: DataLoader, *, clock: PhaseClock) -> Generator[Batch]:
    """Yield this process's part of a loader's batches; the clock is in ``FORWARD`` while the caller has a batch."""
    try:
        clock.to(WAITING)
        with closing(own_part(loader, augmenting=clock.augmenting)) as batches:
            for batch in batches:
                clock.to(FORWARD)
                yield batch
                clock.to(WAITING)
    finally:
        clock.to(OVERHEAD)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Where the time of a stage of a run went.

    ``number`` counts ``unit``: ``"images"``, each once however often it was used, or ``"steps"``. ``phases`` are seconds, in the
    order in which the phases come.
    """

    stage: str
    unit: str
    number: int
    phases: dict[str, float]

    @property
    def seconds(self) -> float:
        """Seconds of the whole stage."""
        return sum(self.phases.values())


class RunProfile:
    """Times the stages of a run; a stage ends when the next begins. With ``wanted=False`` nothing is measured."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self._stages: list[tuple[str, int, PhaseClock | StepProfile]] = []

    def stage(
        self,
        name: str,
        *,
        phases: Sequence[str],
        num_images: int,
        device: torch.device | None = None,
    ) -> PhaseClock:
        """Begin a stage and its first phase; return the clock, to be told of the next phases and to be stopped."""
        clock = PhaseClock(phases, device=device if self.wanted else None)
        self._stages.append((name, num_images, clock))
        clock.to(phases[0])
        return clock

    @contextmanager
    def part(self, name: str, *, num_images: int) -> Generator[None]:
        """Time the block as a stage without phases."""
        clock = self.stage(name, phases=(name,), num_images=num_images)
        try:
            yield
        finally:
            clock.stop()

    def steps(self, name: str) -> list[Callback]:
        """Begin a stage of training steps; return the callbacks for its fit."""
        if not self.wanted:
            return []
        profile = StepProfile(show=False)
        self._stages.append((name, 0, profile))
        return [profile]

    def stages(self) -> tuple[StageTimes, ...]:
        """Return the stages so far, in order."""
        found: list[StageTimes] = []
        for name, num_images, source in self._stages:
            is_steps = isinstance(source, StepProfile)
            number = source.num_steps if is_steps else num_images
            if number or not is_steps:
                unit = "steps" if is_steps else "images"
                times = dict(source.seconds)
                found.append(StageTimes(stage=name, unit=unit, number=number, phases=times))
        return tuple(found)

    def values(self) -> dict[str, object]:
        """Return everything in a form that JSON can hold."""
        stages = [
            {
                "stage": stage.stage,
                "unit": stage.unit,
                "number": stage.number,
                "seconds": stage.seconds,
                "phases": [{"phase": name, "seconds": of} for name, of in stage.phases.items()],
            }
            for stage in self.stages()
        ]
        return {"seconds": sum(stage.seconds for stage in self.stages()), "stages": stages}

    def show(self, display: Display) -> None:
        """Print a table: each stage, and each of its phases below it."""
        stages = self.stages()
        whole = sum(stage.seconds for stage in stages) or 1.0
        rows: list[tuple[str, float, float | None]] = []
        for stage in stages:
            each = 1000 / stage.number if stage.number else 0.0
            title = f"{stage.stage}, {stage.number:,} {stage.unit}"
            rows.append((title, stage.seconds, stage.seconds * each))
            if len(stage.phases) > 1:
                for name, seconds in stage.phases.items():
                    rows.append(
                        (f"  {name}", seconds, None if name == VALIDATION else seconds * each)
                    )
        width = max((len(title) for title, _, _ in rows), default=0)
        display.line("")
        display.header(("where the time went".ljust(width), " seconds", "   share", " ms each"))
        for title, seconds, each in rows:
            cells = (f"{seconds:.2f}", f"{seconds / whole:.1%}", "" if each is None else f"{each:.2f}")  # fmt: skip
            display.row((title, *(cell.rjust(8) for cell in cells)))
