"""The results of a bench: times of the parts, estimates for a training run, advice, and all of it as lines.

Arithmetic only: nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vizsla.text import counted
from vizsla.train.profile import AUGMENTATION, BACKWARD, COPY, FORWARD, OPTIMISER

if TYPE_CHECKING:
    from vizsla.bench.elsewhere import Extrapolation

WORTH_SAYING = 1.1
"""A gain of less than a tenth is within the variation of the measurements."""
READING, NETWORK = "reading images", "the network"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTime:
    """The cost of one part of the work for one image; ``how`` says with which threads, batch or size it was measured."""

    name: str
    how: str
    milliseconds: float
    pictures_per_second: float

    @classmethod
    def of(cls, name: str, *, how: str, seconds: float) -> PartTime:
        """Return the time of a part that takes ``seconds`` for one image."""
        rate = 1 / seconds if seconds else 0.0
        return cls(name=name, how=how, milliseconds=1000 * seconds, pictures_per_second=rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The estimated time of a part of a training run, with what takes most of it and which share (0-1) that is.

    ``reading`` and ``network`` are the seconds that either would take alone.
    """

    name: str
    seconds: float
    bottleneck: str
    share: float
    reading: float
    network: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """How fast this machine is on some images.

    Attributes:
        data: Where the images come from, in words.
        num_train: Images to learn from.
        num_valid: Images held out.
        num_classes: Classes.
        num_sampled: Training images that were measured with.
        device: Name of the device.
        precision: Number format of the network.
        arch: The network.
        size: Side of the square that it sees, in pixels.
        presize: Short side at which training images are kept, in pixels.
        batch_size: Images per step.
        num_workers: Threads that read images.
        parts: What was measured.
        estimates: What that means for training on all of these images.
        advice: Faster settings, as far as they were measured.
        not_measured: What there was no time for.
        seconds: Time that the bench took.
        elsewhere: The same training on other machines, if that was asked.
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
    elsewhere: Extrapolation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds per image of each part of the work.

    Attributes:
        num_train: Images to learn from.
        num_valid: Images held out.
        shares_processor: Whether reading and the network need the same cores, so that their times add up; otherwise the slower
            one decides.
        size: Side of the square that the network sees, in pixels.
        read_strip: Reading at the presize, with all threads.
        read_centred: Reading at the size, with all threads.
        forward: Forward pass alone.
        phases: Of an end-to-end step, by the names of ``STEP_PHASES``.
        step: A whole end-to-end step, with cached images.
        frozen_step: A whole step with a frozen body whose norms train.
        kept_share: Share of the prepared images that fits into the cache, 0-1.
        needed: Size of all prepared images, in words.
        steps_by_batch: A whole step at other batch sizes.
        steps_by_size: A whole step at other sizes.
        reads_by_workers: Reading with other numbers of threads.
    """

    num_train: int
    num_valid: int
    shares_processor: bool
    size: int
    read_strip: float
    read_centred: float
    forward: float
    phases: dict[str, float]
    step: float
    frozen_step: float | None = None
    kept_share: float = 1.0
    needed: str = ""
    steps_by_batch: dict[int, float] = field(default_factory=dict[int, float])
    steps_by_size: dict[int, float] = field(default_factory=dict[int, float])
    reads_by_workers: dict[int, float] = field(default_factory=dict[int, float])


def estimates_of(measured: Measured) -> tuple[Estimate, ...]:
    """Return the estimated parts of a training run: features first, a frozen epoch, end-to-end epochs."""
    train, valid = measured.num_train, measured.num_valid
    read_again = (1 - measured.kept_share) * train * measured.read_strip
    validation = valid * measured.forward
    # The features-first stage sees training images twice, plain and mirrored.
    found = [
        _estimate(
            "features first, once",
            measured,
            reading=(train + valid) * measured.read_centred,
            network={FORWARD: (2 * train + valid) * measured.forward},
        )
    ]
    if measured.frozen_step is not None:
        network = {"the step": train * measured.frozen_step, "validation": validation}
        name = "a frozen epoch of fine_tune"
        found.append(_estimate(name, measured, reading=read_again, network=network))
    whole = sum(measured.phases.values()) or 1.0
    step = {
        NETWORK: sum(measured.phases.get(name, 0.0) for name in (FORWARD, BACKWARD, OPTIMISER)),
        AUGMENTATION: measured.phases.get(AUGMENTATION, 0.0) + measured.phases.get(COPY, 0.0),
    }
    step["everything else"] = whole - sum(step.values())
    network = {name: train * measured.step * value / whole for name, value in step.items()}
    network["validation"] = validation
    first = train * measured.read_strip
    return (
        *found,
        _estimate("the first end-to-end epoch", measured, reading=first, network=network),
        _estimate("each later end-to-end epoch", measured, reading=read_again, network=network),
    )


def _estimate(
    name: str, measured: Measured, *, reading: float, network: dict[str, float]
) -> Estimate:
    computing = sum(network.values())
    seconds = reading + computing if measured.shares_processor else max(reading, computing)
    bottleneck, most = max({READING: reading, **network}.items(), key=lambda part: part[1])
    return Estimate(
        name=name,
        seconds=seconds,
        bottleneck=bottleneck,
        share=min(1.0, most / seconds) if seconds else 0.0,
        reading=reading,
        network=computing,
    )


def advice_of(measured: Measured) -> tuple[str, ...]:
    """Return what would make training faster, in sentences with the measured figures."""
    lines: list[str] = []
    if measured.steps_by_batch:
        size, seconds = min(measured.steps_by_batch.items(), key=lambda item: item[1])
        if measured.step / seconds >= WORTH_SAYING:
            lines.append(
                f"--bs {size}: {measured.step / seconds:.2f} times the images a second in end-to-end steps "
                f"({1 / seconds:,.1f} instead of {1 / measured.step:,.1f})"
            )
    for size, seconds in sorted(measured.steps_by_size.items(), reverse=True):
        if size < measured.size and measured.step / seconds >= WORTH_SAYING:
            lines.append(
                f"--size {size}: {measured.step / seconds:.2f} times the images a second in end-to-end steps; the network "
                "sees less"
            )
    if measured.reads_by_workers:
        workers, seconds = min(measured.reads_by_workers.items(), key=lambda item: item[1])
        now, then = (_epochs(each)[0] for each in (measured, replace(measured, read_strip=seconds)))
        if now / then >= WORTH_SAYING:
            lines.append(
                f"--workers {workers}: reads {measured.read_strip / seconds:.2f} times as fast "
                f"({1 / seconds:,.0f} instead of {1 / measured.read_strip:,.0f} images/s); the first end-to-end epoch takes "
                f"{shown_seconds(then)} instead of {shown_seconds(now)}"
            )
    now, then = (_epochs(each)[1] for each in (measured, replace(measured, kept_share=1.0)))
    if now / then >= WORTH_SAYING:
        lines.append(
            f"A larger --cache-budget, or --cache disk: prepared images take {measured.needed} and there is room for "
            f"{measured.kept_share:.0%} of them; with room for all a later epoch takes {shown_seconds(then)} instead of "
            f"{shown_seconds(now)}"
        )
    return tuple(lines)


def _epochs(measured: Measured) -> tuple[float, float]:
    """Return the seconds of the first and of a later end-to-end epoch, never 0."""
    *_, first, later = estimates_of(measured)
    return max(first.seconds, 1e-9), max(later.seconds, 1e-9)


def lines_of(result: BenchResult) -> list[str]:
    """Return a result as lines: a table of the parts, the estimates, and advice."""
    lines = [
        f"{result.arch} at {result.size} pixels, presize {result.presize}, batches of {result.batch_size}, "
        f"{result.precision}, {result.num_workers} reading threads; {result.device}",
        "",
    ]
    rows = [("part", "measured with", "ms an image", "images/s")]
    rows += [
        (part.name, part.how, f"{part.milliseconds:,.2f}", f"{part.pictures_per_second:,.1f}")
        for part in result.parts
    ]
    name, how = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines += [f"{a.ljust(name)}  {b.ljust(how)}  {c:>12}  {d:>10}" for a, b, c, d in rows]
    number = result.num_train + result.num_valid
    lines += ["", f"Training on {result.data} ({number:,} images) would take about:"]
    width = max(len(each.name) for each in result.estimates)
    lines += [
        f"{each.name.ljust(width)}  {shown_seconds(each.seconds):>9}, most of it {each.bottleneck} ({each.share:.0%})"
        for each in result.estimates
    ]
    if result.elsewhere is not None:
        lines += _elsewhere_lines(result.elsewhere)
    if result.advice:
        lines += ["", "What would change that, as measured here:", *result.advice]
    else:
        lines += ["", "None of the other settings that were measured is faster by a tenth or more."]
    if result.not_measured:
        left = ", ".join(result.not_measured)
        lines.append(f"Not measured, because time (--seconds) ran out: {left}")
    return lines


def _elsewhere_lines(found: Extrapolation) -> list[str]:
    """Return other machines as lines: each part, the whole run, the assumptions."""
    place = f"{counted(found.machines, 'machine')} {f'with {found.gpu}' if found.gpu else 'like this one'}"
    whole = f"all, with {counted(found.epochs, 'end-to-end epoch')}"
    width = max(len(whole), *(len(each.name) for each in found.estimates))
    cost = "" if found.cost is None else f", {found.cost:,.2f} in all"
    cost = ", less than 0.01 in all" if found.cost and found.cost < 0.01 else cost
    return [
        "",
        f"On {place} the same would take about:",
        *(
            f"{each.name.ljust(width)}  {shown_seconds(each.seconds):>9}"
            for each in found.estimates
        ),
        f"{whole.ljust(width)}  {shown_seconds(found.seconds):>9}{cost}",
        "This assumes:",
        *(f"- {line}" for line in found.assumptions),
    ]


def shown_seconds(seconds: float) -> str:
    """Return a time such as ``0.42 s``, ``93 s``, ``12 min``, ``3.4 h``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
