"""A running fit in, the time of its steps by what it went to out: waiting for data, copy, augmentation, forward, backward, optimiser.

The profile hooks into the network and the optimiser, and replaces the augmentation of the training pictures for as long as an
epoch trains; nothing that is computed changes. On CUDA it waits for the device whenever one phase ends, since kernels would
otherwise be charged to whoever waits for them, and the step is computed operation by operation instead of from a captured graph:
such a run is slower than one without, and its shares are what counts.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

import torch

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.train.callbacks.base import Callback

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.train.callbacks.base import Fit
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


class StepProfile(Callback):
    """Adds up where the time of the training steps goes, and prints it when a fit ends.

    Args:
        show: Print the table when a fit ends.

    Attributes:
        seconds: Of each of ``STEP_PHASES``, and of the validation, over all fits.
        num_steps: Batches that were trained on.

    Example:
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
        self._hooks: list[RemovableHandle] = []
        self._augmentation: BatchAugmentation | None = None

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

    def before_fit(self, fit: Fit) -> None:
        """Hook into the network and the optimiser; a captured step would run past the hooks."""
        fit.eager = True
        self._clock.device = fit.trainer.dls.device
        model, optimiser = fit.trainer.model, fit.trainer.opt
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._to(FORWARD)),
            model.register_forward_hook(lambda *_: self._to(BACKWARD)),
        ]
        if optimiser is not None:
            self._hooks += [
                optimiser.register_step_pre_hook(lambda *_: self._to(OPTIMISER)),
                optimiser.register_step_post_hook(lambda *_: self._to(OVERHEAD)),
            ]

    def before_epoch(self, fit: Fit) -> None:
        """Put the watched augmentation in, and begin to wait for the first batch."""
        self._put_back(fit)  # After an epoch that was not validated it is still in.
        loader = fit.trainer.dls.train
        self._augmentation = loader.augmentation
        loader.augmentation = _WatchedAugmentation(loader.augmentation, clock=self._clock)
        self._clock.to(WAITING)

    def after_step(self, fit: Fit) -> None:
        """The next batch is waited for from here on."""
        del fit
        self.num_steps += 1
        self._to(OVERHEAD)
        self._to(WAITING)

    def before_validate(self, fit: Fit) -> None:
        """The steps of the epoch are done."""
        self._to(VALIDATION)
        self._put_back(fit)

    def after_epoch(self, fit: Fit) -> None:
        """The validation is done."""
        del fit
        self._clock.stop()

    def after_fit(self, fit: Fit) -> None:
        """Leave everything as it was, and print the table."""
        self._clock.phase = ""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._put_back(fit)
        if self.show and self.num_steps and fit.error is None:
            fit.trainer.display.header(("phase           ", "ms per step", "share"))
            for row in self.rows():
                fit.trainer.display.row(row)

    def _put_back(self, fit: Fit) -> None:
        if self._augmentation is not None:
            fit.trainer.dls.train.augmentation = self._augmentation
            self._augmentation = None

    def _to(self, phase: str) -> None:
        """End the present phase of a step and begin another; the network also runs in validation, which has one phase."""
        if self._clock.phase in STEP_PHASES:
            self._clock.to(phase)


def watched_batches(
    loader: DataLoader, batches: Generator[Batch], *, clock: PhaseClock
) -> Generator[Batch]:
    """Yield batches that go through a network; waiting, copy, augmentation and the network (``FORWARD``) are told apart.

    Args:
        loader: Makes the batches; its augmentation is watched until the end.
        batches: Of the loader; closed at the end, whatever happens.
        clock: Knows these phases, and ``OVERHEAD``, which goes on afterwards.
    """
    augmentation = loader.augmentation
    loader.augmentation = _WatchedAugmentation(augmentation, clock=clock)
    try:
        clock.to(WAITING)
        with closing(batches):
            for batch in batches:
                clock.to(FORWARD)
                yield batch
                clock.to(WAITING)
    finally:
        loader.augmentation = augmentation
        clock.to(OVERHEAD)


class _WatchedAugmentation(BatchAugmentation):
    """Another augmentation that says when it begins and ends.

    Args:
        inner: Does the work.
        clock: Told of the phase that begins.
    """

    def __init__(self, inner: BatchAugmentation, *, clock: PhaseClock) -> None:
        vars(self).update(vars(inner))
        self._inner = inner
        self._clock = clock

    def __call__(self, images_u8: Tensor, *, rows: Tensor, epoch: int, training: bool) -> Tensor:
        """Do what the other one does."""
        self._clock.to(COPY, wait=False)  # What is still on its way to the device is charged to it.
        self._clock.to(AUGMENTATION)
        images = self._inner(images_u8, rows=rows, epoch=epoch, training=training)
        self._clock.to(OVERHEAD)
        return images
