"""Where the time of training goes: waiting for data, copy, augmentation, forward, backward, optimiser.

The loader, the step and the loop say when a phase begins; nothing that is computed changes. On CUDA the clock waits for the
device whenever a phase ends, since kernels would otherwise be charged to whoever waits for them, and the step is computed
operation by operation instead of from a captured graph: such a run is slower than one without, and its shares are what counts.
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
"""In the order in which a step goes through them. The backward pass has the loss with it, and clipping; what reads the losses a
few times a second is with waiting."""


class PhaseClock:
    """Charges time to whichever phase is going on.

    Args:
        phases: What there is.
        device: Where a phase's work is done; a CUDA device is waited for when a phase ends.

    Attributes:
        seconds: Of each phase so far.
    """

    def __init__(self, phases: Sequence[str], *, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(phases, 0.0)
        self.device = torch.device("cpu") if device is None else device
        self.phase = ""
        self._since = 0.0

    def to(self, phase: str, *, wait: bool = True) -> None:
        """End the present phase, where there is one, and begin another.

        Args:
            phase: The next one; an empty text stops the clock.
            wait: For the device, so that what it still computes belongs to the phase that ends.
        """
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
        """Charge the block to augmentation, and what is still on its way to the device to the copy."""
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
    """Last: what other callbacks take is charged to everything else."""

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self.num_steps = 0
        self._clock = PhaseClock((*STEP_PHASES, VALIDATION))
        self.seconds = self._clock.seconds

    def milliseconds(self, phase: str) -> float:
        """Return the mean time of a phase in a step, in milliseconds.

        Args:
            phase: One of ``STEP_PHASES``.
        """
        return 1000 * self.seconds[phase] / max(self.num_steps, 1)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (phase, milliseconds in a step, share of the step) of each phase, and of all together, as texts."""
        whole = sum(self.milliseconds(phase) for phase in STEP_PHASES)
        rows = [(phase, self.milliseconds(phase)) for phase in STEP_PHASES]
        return [
            (name, f"{value:.2f}", f"{value / whole:.1%}" if whole else "")
            for name, value in [*rows, ("whole step", whole)]
        ]

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Ask to be told of the phases; a captured step has none."""
        self._clock.device = fit.trainer.dls.device
        return replace(settings, eager=True, clock=self._clock)

    def before_epoch(self, fit: Fit) -> None:
        """The first batch is waited for."""
        del fit
        self._clock.to(WAITING)

    def after_step(self, fit: Fit) -> None:
        """The next batch is waited for from here on."""
        del fit
        self.num_steps += 1
        self._clock.to(WAITING)

    def before_validate(self, fit: Fit) -> None:
        """The steps of the epoch are done."""
        del fit
        self._clock.to(VALIDATION)

    def after_epoch(self, fit: Fit) -> None:
        """The validation is done."""
        del fit
        self._clock.stop()

    def after_fit(self, fit: Fit) -> None:
        """Print the table."""
        self._clock.phase = ""  # Of an epoch that was cut off: what was going on is not charged.
        if self.show and self.num_steps and fit.error is None:
            fit.trainer.display.header(("phase           ", "ms per step", "share"))
            for row in self.rows():
                fit.trainer.display.row(row)


def watched_batches(loader: DataLoader, *, clock: PhaseClock) -> Generator[Batch]:
    """Yield this process's part of a loader's batches, which go through a network; the clock is told of every phase.

    Args:
        loader: Makes the batches; its threads end with the generator.
        clock: Knows the phases up to ``FORWARD``, which is that of whoever takes a batch, and ``OVERHEAD``, which goes on
            afterwards.
    """
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

    Attributes:
        stage: Its name.
        unit: What was counted: ``"images"`` or ``"steps"``.
        number: How many; each image counts once, however often it was looked at.
        phases: Seconds of each phase, in the order in which they come.
    """

    stage: str
    unit: str
    number: int
    phases: dict[str, float]

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return sum(self.phases.values())


class RunProfile:
    """Takes the time of the stages of a run; a stage ends when the next begins.

    Args:
        wanted: Without it nothing is measured, and the run is as fast as it can be.

    Examples:
        >>> profile = RunProfile()
        >>> config = TrainConfig(size=128, epochs=0)
        >>> run = train_classifier(table, config=config, profile=profile)
        >>> profile.stages()[-1].seconds
    """

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
        """Begin a stage and its first phase; return the clock to tell of the next phases and to stop.

        Args:
            name: Of the stage.
            phases: All that there will be, in the order to show them in.
            num_images: That it goes through.
            device: Where the work is done.
        """
        clock = PhaseClock(phases, device=device if self.wanted else None)
        self._stages.append((name, num_images, clock))
        clock.to(phases[0])
        return clock

    @contextmanager
    def part(self, name: str, *, num_images: int) -> Generator[None]:
        """Take the time of the block as a stage without phases."""
        clock = self.stage(name, phases=(name,), num_images=num_images)
        try:
            yield
        finally:
            clock.stop()

    def steps(self, name: str) -> list[Callback]:
        """Begin a stage of training steps; return the callbacks that have to take part in its fit."""
        if not self.wanted:
            return []
        profile = StepProfile(show=False)
        self._stages.append((name, 0, profile))
        return [profile]

    def stages(self) -> tuple[StageTimes, ...]:
        """Return the stages so far, in the order in which they came."""
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
        """Return all of it as what JSON can hold."""
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
