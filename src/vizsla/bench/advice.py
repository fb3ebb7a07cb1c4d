"""What was measured in; how long the parts of a training run will take, and what would make it faster, out. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vizsla.bench.results import Estimate, shown_seconds
from vizsla.train.profile import AUGMENTATION, BACKWARD, COPY, FORWARD, OPTIMISER

WORTH_SAYING = 1.1
"""Settings that are faster by less than a tenth are within what measurements vary."""
READING, NETWORK = "reading pictures", "the network"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds for one picture, of each part of the work.

    Attributes:
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        shares_processor: Whether reading and the network need the same cores, so that their times add up; else the
            slower of them decides.
        batch_size: Pictures in a step.
        size: Side of the square that the network sees, in pixels.
        num_workers: Threads that read pictures.
        read_strip: Reading at the presize, with all threads.
        read_centred: Reading at the size, with all threads.
        forward: Forward pass alone.
        phases: Of an end-to-end step, by the names of ``STEP_PHASES``.
        step: A whole end-to-end step, pictures kept.
        frozen_step: A whole step with a frozen body whose norms train.
        kept_share: Part of the prepared pictures that the cache has room for, 0-1.
        needed: What all prepared pictures take, in words.
        steps_by_batch: A whole step at other batch sizes.
        steps_by_size: A whole step at other sizes.
        reads_by_workers: Reading with other numbers of threads.
    """

    num_train: int
    num_valid: int
    shares_processor: bool
    batch_size: int
    size: int
    num_workers: int
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
    """Return what the parts of a training run will take: features first, a frozen epoch, end-to-end epochs."""
    train, valid = measured.num_train, measured.num_valid
    read_again = (1 - measured.kept_share) * train * measured.read_strip
    validation = valid * measured.forward
    # Training pictures are looked at twice, plain and mirrored.
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
    )


def advice_of(measured: Measured) -> tuple[str, ...]:
    """Return what would make training faster, in sentences, each with what was measured."""
    lines: list[str] = []
    if measured.steps_by_batch:
        size, seconds = min(measured.steps_by_batch.items(), key=lambda item: item[1])
        if measured.step / seconds >= WORTH_SAYING:
            lines.append(
                f"--bs {size}: {measured.step / seconds:.2f} times the pictures a second in end-to-end steps "
                f"({1 / seconds:,.1f} instead of {1 / measured.step:,.1f})"
            )
    for size, seconds in sorted(measured.steps_by_size.items(), reverse=True):
        if size < measured.size and measured.step / seconds >= WORTH_SAYING:
            lines.append(
                f"--size {size}: {measured.step / seconds:.2f} times the pictures a second in end-to-end steps; the network "
                "sees less"
            )
    if measured.reads_by_workers:
        workers, seconds = min(measured.reads_by_workers.items(), key=lambda item: item[1])
        now, then = (_epochs(each)[0] for each in (measured, replace(measured, read_strip=seconds)))
        if now / then >= WORTH_SAYING:
            lines.append(
                f"--workers {workers}: reads {measured.read_strip / seconds:.2f} times as fast "
                f"({1 / seconds:,.0f} instead of {1 / measured.read_strip:,.0f} pictures/s); the first end-to-end epoch takes "
                f"{shown_seconds(then)} instead of {shown_seconds(now)}"
            )
    now, then = (_epochs(each)[1] for each in (measured, replace(measured, kept_share=1.0)))
    if now / then >= WORTH_SAYING:
        lines.append(
            f"A larger --cache-budget, or --cache disk: prepared pictures take {measured.needed} and there is room for "
            f"{measured.kept_share:.0%} of them; with room for all a later epoch takes {shown_seconds(then)} instead of "
            f"{shown_seconds(now)}"
        )
    return tuple(lines)


def _epochs(measured: Measured) -> tuple[float, float]:
    """Return the seconds of the first and of a later end-to-end epoch; never nothing."""
    *_, first, later = estimates_of(measured)
    return max(first.seconds, 1e-9), max(later.seconds, 1e-9)
