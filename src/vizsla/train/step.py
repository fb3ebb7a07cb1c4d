"""One training step: forward, backward, and one move of the weights by the optimiser.

Nothing here waits for the device. Gradients may be added up over several batches before the weights move, and a batch too large
for the device's memory goes through in parts. Either way every image counts the same, so the result is that of one large batch
(except for batch norms, which see the parts). A loss that is not finite moves no weight.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from vizsla.augment.mix import MixedBatch, mixed_loss
from vizsla.errors import ConfigError, TrainingError
from vizsla.infer.run import NumberFormat, autocast
from vizsla.text import counted
from vizsla.train.callbacks.base import (
    CancelBackwardException,
    CancelStepException,
    FitSettings,
)
from vizsla.train.cuda_graphs import CapturedGradients
from vizsla.train.distributed import any_on_device, share
from vizsla.train.losses import per_image
from vizsla.train.profile import BACKWARD, FORWARD, OPTIMISER, OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.train.callbacks.events import EventCaller
    from vizsla.types import Batch

    LossFunction = Callable[[Tensor, Tensor], Tensor]

GRADIENT_SCALE = 2.0**12
"""First factor on the losses of fp16; it adapts within a few steps."""


class TrainingStep:
    """Computes the gradients of a batch and moves the weights of a model by them.

    Args:
        loss_function: Takes logits ``(B, C)`` in float32 and targets, returns the mean over the images.
        forward: What images go through instead of the model itself: its compiled form.
        whole_batch: Images of a batch over all processes; None where this process has the whole batch.
        captured: Compute loss and gradients from CUDA graphs where one step is one batch; results are the same.
        say: Called with a sentence when batches have to be split.
        events: Told about outputs and losses, which it may change.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_function: LossFunction,
        optimiser: torch.optim.Optimizer,
        precision: NumberFormat = "fp32",
        settings: FitSettings | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        whole_batch: int | None = None,
        captured: bool = False,
        say: Callable[[str], None] = lambda _: None,
        events: EventCaller | None = None,
    ) -> None:
        settings = FitSettings() if settings is None else settings
        self.model = model
        self.loss_function = loss_function
        self.optimiser = optimiser
        self.precision: NumberFormat = precision
        self.accumulate = settings.accumulate
        self.clip = settings.clip
        self.forward = model if forward is None else forward
        self.whole_batch = whole_batch
        self.say = say
        self.events = events
        self.parts = settings.parts
        self.scaler = make_scaler(precision) if scaler is None else scaler
        self._enter: Callable[[str], None] = (
            (lambda _: None) if settings.clock is None else settings.clock.to
        )
        self._batches = 0
        self._images = 0
        self._unit = 1
        self._is_unscaled = False
        self._was_bad: Tensor | None = None
        self._captured: CapturedGradients | None = None
        if captured and self.accumulate == 1 and whole_batch is None and self.forward is model:
            self._captured = CapturedGradients(
                self._unscaled, model=model, remember=self._remember_unscaled, say=say
            )

    def refresh(self) -> None:
        """Notice changed modes and frozen parameters of the model; call it before an epoch."""
        if self._captured is not None:
            self._captured.refresh()

    @property
    def gave_up_graphs(self) -> bool:
        """Whether a step could not be recorded."""
        return self._captured is not None and self._captured.gave_up

    def __call__(self, batch: Batch, *, last: bool = False) -> Tensor:
        """Take one step and return the mean loss of the batch, a scalar on the device.

        Of several processes each gets what its part adds to the loss, times their number: the mean over the processes is the
        mean loss of the whole batch. ``last`` moves the weights even where fewer than ``accumulate`` batches are added up.

        Raises:
            TrainingError: Not even one image fits into the device's memory, or a batch norm gets a single value.
        """
        size = len(batch.rows) if self.whole_batch is None else self.whole_batch
        if not self._batches:
            self._unit = size
        loss = self._replayed(batch)
        while loss is None:
            try:
                loss = self._backward(batch)
            except torch.OutOfMemoryError as error:
                # With several processes, the others would wait for gradients that this one computes twice.
                alone = self.whole_batch is None
                if self.parts >= len(batch.rows) or self._batches or not alone:
                    raise TrainingError(
                        f"The device has too little memory for {-(-len(batch.rows) // self.parts)} images of "
                        f"{tuple(batch.images.shape[2:])} pixels: {error}. Use a smaller batch, smaller images, "
                        "or a smaller network."
                    ) from error
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise TrainingError(
                    f"Batch norm cannot be trained on {counted(len(batch.rows), 'image')} of "
                    f"{tuple(batch.images.shape[2:])} pixels: the network's last feature maps have a single "
                    "pixel, and batch statistics need several values. Use bs=2 or more, larger images, or "
                    "train_bn=False."
                ) from error
            if loss is None:
                # Outside the handler: the traceback of the error keeps the tensors of the failed step alive.
                self.optimiser.zero_grad(set_to_none=True)
                self.parts *= 2
                self.say(
                    f"Out of memory: batches of {len(batch.rows)} are processed in {self.parts} parts from now "
                    "on. Learning rates and gradients stay those of the whole batch; batch norm sees the parts."
                )
        if not self.scaler.is_enabled():
            is_bad = ~torch.isfinite(loss)
            self._was_bad = is_bad if self._was_bad is None else self._was_bad | is_bad
        self._batches += 1
        self._images += size
        if last or self._batches >= self.accumulate:
            self._move()
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradients of a batch, and return its loss."""
        total: Tensor | None = None
        size, weight = len(batch.rows), 1.0
        if self.whole_batch is not None:
            # Gradients and losses are averaged over the processes as if all parts had one size.
            weight = size * share()[1] / self.whole_batch
            size = self.whole_batch
        for part in split_batch(batch, self.parts):
            self._enter(FORWARD)
            with autocast(part.images.device, self.precision):
                logits = self.forward(part.images)
            if self.events is not None:
                logits = self.events.see_outputs(logits)
            self._enter(BACKWARD)
            loss = batch_loss(logits.float(), part, loss_function=self.loss_function)
            loss = loss * (weight * len(part.rows) / len(batch.rows))
            with suppress(CancelBackwardException):
                graded = loss if self.events is None else self.events.see_loss(loss)
                self.scaler.scale(graded * (size / self._unit)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise TrainingError("A training batch has no images.")
        return total

    def _move(self) -> None:
        """Let the optimiser move the weights by the gradients added up so far."""
        gathered = self._images / self._unit
        self._batches = self._images = 0
        if self.clip is not None or gathered != 1:
            if not self._is_unscaled:
                self.scaler.unscale_(self.optimiser)
            parameters = parameters_with_gradients(self.optimiser)
            if gathered != 1:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.div_(gathered)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip)
        self._enter(OPTIMISER)
        with suppress(CancelStepException):
            if self.scaler.is_enabled():  # It looks for infinities itself.
                self.scaler.step(self.optimiser)
            elif self._was_bad is not None:
                step_unless(any_on_device(self._was_bad), self.optimiser)
        self._enter(OVERHEAD)
        self.scaler.update()
        self._is_unscaled = False
        self.optimiser.zero_grad(set_to_none=True)

    def _replayed(self, batch: Batch) -> Tensor | None:
        """Add the gradients of a batch from a CUDA graph, and return its loss; None where there is no graph for it."""
        if self._captured is None or self.parts > 1:
            return None
        loss = self._captured(batch)
        if loss is None and self._captured.gave_up:
            # What the recording told the scaler did not happen.
            self.scaler._per_optimizer_states.pop(id(self.optimiser), None)  # pyright: ignore[reportPrivateUsage]
        return loss

    def _unscaled(self, batch: Batch) -> Tensor:
        """Add gradients, and in fp16 look for infinities at once: one kernel in a graph, a loop over parameters outside."""
        loss = self._backward(batch)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)
        return loss

    def _remember_unscaled(self) -> Callable[[], None]:
        """Return a function that tells the scaler, after a graph ran, what the recorded call told it."""
        if not self.scaler.is_enabled():
            return lambda: None
        number = id(self.optimiser)
        known = dict(self.scaler._per_optimizer_states[number])  # pyright: ignore[reportPrivateUsage] (it has no other way in)

        def recall() -> None:
            self.scaler._per_optimizer_states[number] = dict(known)  # pyright: ignore[reportPrivateUsage]
            self._is_unscaled = True

        return recall


def step_unless(flag: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Let an optimiser move the weights unless a flag, a bool on their device, is set; do not wait for the device."""
    if flag.device.type == "cpu":  # There is nothing to wait for.
        if not flag:
            optimiser.step()
    elif getattr(optimiser, "_step_supports_amp_scaling", False):
        step_fused_unless(flag, optimiser)
    else:
        step_copied_unless(flag, optimiser)


def step_fused_unless(flag: Tensor, optimiser: Any) -> None:
    """Do so for one of torch's fused optimisers: their kernels read a flag, which is how torch's fp16 scaler skips steps."""
    optimiser.grad_scale, optimiser.found_inf = None, flag.float()
    try:
        optimiser.step()
    finally:
        del optimiser.grad_scale, optimiser.found_inf


@torch.no_grad()
def step_copied_unless(flag: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Do so for any other optimiser: the device puts back a copy of the weights."""
    weights = parameters_with_gradients(optimiser)
    before = [weight.clone() for weight in weights]
    optimiser.step()
    for weight, kept in zip(weights, before, strict=True):
        weight.copy_(torch.where(flag, kept, weight))


def parameters_with_gradients(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimiser that have a gradient."""
    return [
        parameter
        for group in optimiser.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]


def make_scaler(precision: NumberFormat) -> torch.amp.GradScaler:
    """Return what scales the losses of fp16, so that small gradients do not vanish; idle in other precisions and on a CPU."""
    needed = precision == "fp16" and torch.cuda.is_available()
    return torch.amp.GradScaler("cuda", init_scale=GRADIENT_SCALE, enabled=needed)


def batch_loss(logits: Tensor, batch: Batch, *, loss_function: LossFunction) -> Tensor:
    """Return the mean loss of logits, float32 ``(B, C)``; mixed images count for both of their targets."""
    if batch.shares is None or batch.partner_targets is None:
        return loss_function(logits, batch.targets)
    mixed = MixedBatch(
        images=batch.images,
        targets=batch.targets,
        partner_targets=batch.partner_targets,
        shares=batch.shares,
    )
    return mixed_loss(logits, mixed, loss=per_image(loss_function))


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch as this many batches of neighbouring images, which share its memory."""
    if parts == 1:
        return [batch]
    size = -(-len(batch.rows) // parts)
    whole = {each.name: getattr(batch, each.name) for each in fields(batch)}
    given = {name: tensor for name, tensor in whole.items() if tensor is not None}
    return [
        replace(batch, **{name: tensor[first : first + size] for name, tensor in given.items()})
        for first in range(0, len(batch.rows), size)
    ]


def resolve_precision(
    precision: str, *, device: torch.device, model: nn.Module | None = None
) -> NumberFormat:
    """Return ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` is fp32, except on CUDA: fp16 for networks with batch norms, for which cuDNN has fast kernels in fp16 alone, and bf16
    for others. A step of resnet34 (64 images of 224 pixels, H100, torch 2.11) takes 7.7 ms in fp16 and 9.3 in bf16. fp16 stays fp32
    on a CPU, where it would only be slower.

    Raises:
        ConfigError: It is none of the four.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        parts = () if model is None else model.modules()
        return "fp16" if any(isinstance(part, nn.BatchNorm2d) for part in parts) else "bf16"
    for known in get_args(NumberFormat):
        if precision == known:
            return "fp32" if known == "fp16" and device.type == "cpu" else known
    raise ConfigError(
        f"precision must be 'auto', 'fp32', 'bf16' or 'fp16'. Received: {precision!r}"
    )
