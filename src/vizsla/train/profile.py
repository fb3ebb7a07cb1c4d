"""A running fit in, the time of its steps by what it went to out: waiting for data, copy, augmentation, forward, backward, optimiser.

The profile hooks into the network and the optimiser, and replaces the augmentation of the training pictures for as long as an
epoch trains; nothing that is computed changes. On CUDA it waits for the device whenever one phase ends, since kernels would
otherwise be charged to whoever waits for them: such a run is slower than one without, and its shares are what counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

import torch

from vizsla.augment.apply import BatchAugmentation
from vizsla.train.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from vizsla.train.callback import Fit

WAITING, COPY, AUGMENTATION = "waiting for data", "copy to device", "augmentation"
FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"
OVERHEAD, VALIDATION = "everything else", "validation"
STEP_PHASES = (WAITING, COPY, AUGMENTATION, FORWARD, BACKWARD, OPTIMISER, OVERHEAD)
"""In the order in which a step goes through them. The backward pass has the loss with it, and clipping; what reads the losses a
few times a second is with waiting."""


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
        self.seconds: dict[str, float] = dict.fromkeys((*STEP_PHASES, VALIDATION), 0.0)
        self.num_steps = 0
        self._phase = ""
        self._since = 0.0
        self._device = torch.device("cpu")
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
        """Hook into the network and the optimiser."""
        self._device = fit.trainer.dls.device
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
        loader = fit.trainer.dls.train
        self._augmentation = loader.augmentation
        loader.augmentation = _WatchedAugmentation(loader.augmentation, switch=self._switch)
        self._begin(WAITING)

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
        self._switch("", wait=True)

    def after_fit(self, fit: Fit) -> None:
        """Leave everything as it was, and print the table."""
        self._phase = ""
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

    def _begin(self, phase: str) -> None:
        self._phase, self._since = phase, time.perf_counter()

    def _to(self, phase: str) -> None:
        """End the present phase of a step and begin another; the network also runs in validation, which has one phase."""
        if self._phase in STEP_PHASES:
            self._switch(phase, wait=True)

    def _switch(self, phase: str, *, wait: bool) -> None:
        if wait and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


class _WatchedAugmentation(BatchAugmentation):
    """Another augmentation that says when it begins and ends.

    Args:
        inner: Does the work.
        switch: Told of the phase that begins, and whether to wait for the device before that.
    """

    def __init__(self, inner: BatchAugmentation, *, switch: Callable[..., None]) -> None:
        vars(self).update(vars(inner))
        self._inner = inner
        self._switch = switch

    def __call__(self, images_u8: Tensor, *, rows: Tensor, epoch: int, training: bool) -> Tensor:
        """Do what the other one does."""
        self._switch(COPY, wait=False)  # What is still on its way to the device is charged to it.
        self._switch(AUGMENTATION, wait=True)
        images = self._inner(images_u8, rows=rows, epoch=epoch, training=training)
        self._switch(OVERHEAD, wait=True)
        return images
