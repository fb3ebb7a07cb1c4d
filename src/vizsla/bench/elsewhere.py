"""What a training run would take on other machines, and cost: from what was measured here, with every assumption said.

Arithmetic only. The speed of a GPU comes from a table of ``benchmarks/README.md`` or from the user, never from a data sheet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.recipe.config import EPOCHS_ON_GPU
from vizsla.text import counted

if TYPE_CHECKING:
    from vizsla.bench.results import Estimate
    from vizsla.recipe.config import TrainConfig

EFFICIENCY = 0.9
"""An assumption, not a measurement: what several machines reach of the sum of their speeds."""
MEASURED_SIZE = 224
MEASURED = {"h100": {"resnet34": 5912 / 0.97, "resnet50": 5912 / 1.69}}
"""Training images a second of a later end-to-end epoch, with its validation: the table "CUDA" of ``benchmarks/README.md``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """Other machines to estimate for.

    Attributes:
        machines: How many, each with one GPU, or each like this one.
        gpu: Its name; with ``speed_up`` any name, else one of ``MEASURED``.
        speed_up: How many times as fast as here it runs the network; None: from the table, or 1 without a GPU.
        efficiency: What several machines reach of the sum of their speeds, above 0 and at most 1.
        price: Of one machine for an hour, in any currency; None: no cost is estimated.

    Raises:
        ConfigError: A number cannot be, or the speed of the GPU is not known.
    """

    machines: int = 1
    gpu: str = ""
    speed_up: float | None = None
    efficiency: float = EFFICIENCY
    price: float | None = None

    def __post_init__(self) -> None:
        for is_wrong, words, value in (
            (self.machines < 1, "machines (--machines) is at least 1", self.machines),
            (
                self.speed_up is not None and not 0 < self.speed_up < float("inf"),
                "speed_up (--speed-up) is a positive number: how many times as fast as here",
                self.speed_up,
            ),
            (
                not 0 < self.efficiency <= 1,
                "efficiency (--efficiency) is above 0 and at most 1",
                self.efficiency,
            ),
            (
                self.price is not None and not 0 <= self.price < float("inf"),
                "price (--price) is that of one machine for an hour, 0 or more",
                self.price,
            ),
        ):
            if is_wrong:
                raise ConfigError(f"{words}. Received: {value}")
        if self.gpu and self.speed_up is None and self.gpu.lower() not in MEASURED:
            raise ConfigError(
                f"The speed of this GPU was not measured. Received: {self.gpu!r}. Known: {', '.join(MEASURED)}. For others say how "
                "many times as fast as this machine they run the network: --speed-up."
            )

    def check(self, config: TrainConfig) -> None:
        """Raise a ConfigError where the GPU was not measured with this network and size: before anything is measured here."""
        if not self.gpu or self.speed_up is not None:
            return
        known = MEASURED[self.gpu.lower()]
        if config.arch not in known or config.size != MEASURED_SIZE:
            raise ConfigError(
                f"The speed of {self.gpu} was measured with {' and '.join(known)} at {MEASURED_SIZE} pixels. Received: "
                f"{config.arch} at {config.size}. Say how many times as fast as this machine it runs that: --speed-up."
            )

    def estimate(
        self, estimates: tuple[Estimate, ...], *, config: TrainConfig, step: float, device: str
    ) -> Extrapolation:
        """Return the estimates for these machines.

        ``step`` are the seconds of an end-to-end step for one image here, ``device`` the type of torch's device here.
        """
        speed_up, source = self.speed_up or 1.0, "as --speed-up says"
        if self.gpu and self.speed_up is None:
            rate = MEASURED[self.gpu.lower()][config.arch]
            speed_up = rate * step
            source = f"{rate:,.0f} images/s in benchmarks/README.md, {1 / step:,.1f} here"
        same = not self.gpu and self.speed_up is None
        spread = self.machines * (self.efficiency if self.machines > 1 else 1.0)
        found: list[Estimate] = []
        for each in estimates:
            # A GPU computes while the processor reads.
            seconds = each.seconds if same else max(each.reading, each.network / speed_up)
            found.append(replace(each, seconds=seconds / spread))
        epochs = config.epochs
        if isinstance(epochs, str):
            epochs = EPOCHS_ON_GPU if self.gpu or device == "cuda" else 0
        features, *_, first, later = (each.seconds for each in found)
        total = features + (first + (epochs - 1) * later if epochs else 0.0)
        assumptions = ["each machine reads images as fast as this one"]
        if not same:
            assumptions.append(
                f"the network runs {f'{speed_up:,.0f}' if speed_up >= 100 else f'{speed_up:.3g}'} times as fast as here ({source}), while images are read"
            )
        if self.machines > 1:
            assumptions.append(
                f"{counted(self.machines, 'machine')} reach {self.efficiency:.0%} of the sum of their speeds (--efficiency; not measured)"
            )
        assumptions.append("starting, copying data and fitting the head are not counted")
        if self.price is not None:
            assumptions.append(f"a machine costs {self.price:g} an hour (--price), by the second")
        return Extrapolation(
            machines=self.machines,
            gpu=self.gpu,
            speed_up=speed_up,
            estimates=tuple(found),
            epochs=epochs,
            seconds=total,
            cost=None if self.price is None else self.price * self.machines * total / 3600,
            assumptions=tuple(assumptions),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """Estimates for other machines.

    Attributes:
        machines: How many.
        gpu: Its name; empty for machines like this one.
        speed_up: How many times as fast as here each runs the network.
        estimates: Of the parts of a training run.
        epochs: End-to-end epochs of that run.
        seconds: Of the whole run.
        cost: Of the whole run and all machines, in the currency of the price; None without one.
        assumptions: What it rests on, a line each.
    """

    machines: int
    gpu: str
    speed_up: float
    estimates: tuple[Estimate, ...]
    epochs: int
    seconds: float
    cost: float | None
    assumptions: tuple[str, ...]
