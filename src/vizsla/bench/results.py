"""The values that a bench leaves: what was measured, what follows from it, and the same as lines for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTime:
    """What one part of the work costs.

    Attributes:
        name: Of the part.
        how: Threads, batch or size that it was measured with.
        milliseconds: For one picture.
        pictures_per_second: The same the other way round.
    """

    name: str
    how: str
    milliseconds: float
    pictures_per_second: float

    @classmethod
    def of(cls, name: str, *, how: str, seconds: float) -> PartTime:
        """Return the time of a part.

        Args:
            name: Of the part.
            how: What it was measured with.
            seconds: For one picture.
        """
        rate = 1 / seconds if seconds else 0.0
        return cls(name=name, how=how, milliseconds=1000 * seconds, pictures_per_second=rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a part of a training run will take, reckoned from the measured parts.

    Attributes:
        name: Of the part of the run.
        seconds: About.
        bottleneck: What takes most of it.
        share: Which part of it that is, 0-1.
    """

    name: str
    seconds: float
    bottleneck: str
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What this machine does with these pictures.

    Attributes:
        data: Where the pictures come from, in words.
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        num_classes: Classes.
        num_sampled: Training pictures that were measured with.
        device: Name of what computes.
        precision: Of the network.
        arch: The network.
        size: Side of the square that it sees, in pixels.
        presize: Short side at which training pictures are kept, in pixels.
        batch_size: Pictures in a step.
        num_workers: Threads that read pictures.
        parts: What was measured.
        estimates: What that means for training on all of these pictures.
        advice: What would be faster, as far as it was measured.
        not_measured: What there was no time for.
        seconds: What the bench took.
    """

    data: str
    num_train: int
    num_valid: int
    num_classes: int
    num_sampled: int
    device: str
    precision: str
    arch: str
    size: int
    presize: int
    batch_size: int
    num_workers: int
    parts: tuple[PartTime, ...]
    estimates: tuple[Estimate, ...]
    advice: tuple[str, ...]
    not_measured: tuple[str, ...]
    seconds: float


def lines_of(result: BenchResult) -> list[str]:
    """Return a result as lines for people: a table of the parts, the estimates, and advice."""
    lines = [
        f"{result.arch} at {result.size} pixels, presize {result.presize}, batches of {result.batch_size}, "
        f"{result.precision}, {result.num_workers} reading threads; {result.device}",
        "",
    ]
    rows = [("part", "measured with", "ms a picture", "pictures/s")]
    rows += [
        (part.name, part.how, f"{part.milliseconds:,.2f}", f"{part.pictures_per_second:,.1f}")
        for part in result.parts
    ]
    name, how = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines += [f"{a.ljust(name)}  {b.ljust(how)}  {c:>12}  {d:>10}" for a, b, c, d in rows]
    number = result.num_train + result.num_valid
    lines += ["", f"Training on {result.data} ({number:,} pictures) would take about:"]
    width = max(len(each.name) for each in result.estimates)
    lines += [
        f"{each.name.ljust(width)}  {shown_seconds(each.seconds):>9}, most of it {each.bottleneck} ({each.share:.0%})"
        for each in result.estimates
    ]
    if result.advice:
        lines += ["", "What would change that, as measured here:", *result.advice]
    else:
        lines += ["", "None of the other settings that were measured is faster by a tenth or more."]
    if result.not_measured:
        left = ", ".join(result.not_measured)
        lines.append(f"Not measured, for want of time (--seconds): {left}")
    return lines


def shown_seconds(seconds: float) -> str:
    """Return a time for people: ``0.42 s``, ``93 s``, ``12 min``, ``3.4 h``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
