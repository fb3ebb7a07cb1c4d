"""The stages of a run as they go by in, where its time went out: a table for people, plain values for a file."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vizsla.recipe.end_to_end import END_TO_END
from vizsla.train.profile import VALIDATION, PhaseClock, StepProfile

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import torch

    from vizsla.train.callbacks.base import Callback
    from vizsla.train.display import Display

READING, FEATURES_FIRST, RESULTS = "reading pictures", "features first", "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTime:
    """How long a part of a stage took.

    Attributes:
        phase: What was done.
        seconds: All of it together.
    """

    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Where the time of a stage of a run went.

    Attributes:
        stage: Its name.
        unit: What there was a number of: ``"pictures"`` or ``"steps"``.
        number: So many; each picture counts once, however often it was looked at.
        seconds: Of the whole stage.
        phases: In the order in which they come; they add up to the whole.
    """

    stage: str
    unit: str
    number: int
    seconds: float
    phases: tuple[PhaseTime, ...]


class RunProfile:
    """Takes the time of the stages of a run; a stage ends when the next begins.

    Args:
        wanted: Without it nothing is measured, and the run is as fast as it can be.

    Attributes:
        wanted: Whether somebody asked.
        steps: Takes part in the end-to-end epochs.

    Examples:
        >>> profile = RunProfile()
        >>> config = TrainConfig(size=128, epochs=0)
        >>> run = train_classifier(table, config=config, profile=profile)
        >>> profile.stages()[-1].seconds
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.steps = StepProfile(show=False)
        self._clocks: list[tuple[str, int, PhaseClock]] = []

    def stage(
        self,
        name: str,
        *,
        phases: Sequence[str],
        num_pictures: int,
        device: torch.device | None = None,
    ) -> PhaseClock:
        """Begin a stage and its first phase; return the clock to tell of the next phases and to stop.

        Args:
            name: Of the stage.
            phases: All that there will be, in the order to show them in.
            num_pictures: That it goes through.
            device: Where the work is done.
        """
        clock = PhaseClock(phases, device=device if self.wanted else None)
        self._clocks.append((name, num_pictures, clock))
        clock.to(phases[0])
        return clock

    @contextmanager
    def part(self, name: str, *, num_pictures: int) -> Generator[None]:
        """Take the time of the block as a stage without phases.

        Args:
            name: Of the stage.
            num_pictures: That it goes through.
        """
        clock = self.stage(name, phases=(name,), num_pictures=num_pictures)
        try:
            yield
        finally:
            clock.stop()

    def callbacks(self) -> list[Callback]:
        """Return what has to take part in the end-to-end epochs."""
        return [self.steps] if self.wanted else []

    def stages(self) -> tuple[StageTimes, ...]:
        """Return the stages so far, in the order in which they came."""
        found = [
            _times(name, seconds=clock.seconds, unit="pictures", number=number)
            for name, number, clock in self._clocks
        ]
        if self.steps.num_steps:
            steps = _times(
                END_TO_END, seconds=self.steps.seconds, unit="steps", number=self.steps.num_steps
            )
            last = len(found) - bool(found and found[-1].stage == RESULTS)
            found.insert(last, steps)
        return tuple(found)

    def values(self) -> dict[str, object]:
        """Return all of it as what JSON can hold."""
        stages = self.stages()
        return {
            "seconds": sum(stage.seconds for stage in stages),
            "stages": [asdict(stage) for stage in stages],
        }

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
                rows += [
                    (
                        f"  {part.phase}",
                        part.seconds,
                        None if part.phase == VALIDATION else part.seconds * each,
                    )
                    for part in stage.phases
                ]
        width = max(len(title) for title, _, _ in rows) if rows else 0
        display.line("")
        display.header(("where the time went".ljust(width), " seconds", "   share", " ms each"))
        for title, seconds, each in rows:
            cells = (f"{seconds:.2f}", f"{seconds / whole:.1%}", "" if each is None else f"{each:.2f}")  # fmt: skip
            display.row((title, *(cell.rjust(8) for cell in cells)))


def _times(name: str, *, seconds: dict[str, float], unit: str, number: int) -> StageTimes:
    return StageTimes(
        stage=name,
        unit=unit,
        number=number,
        seconds=sum(seconds.values()),
        phases=tuple(PhaseTime(phase=phase, seconds=value) for phase, value in seconds.items()),
    )
