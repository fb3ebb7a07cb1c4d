"""A batch of float pictures in, one move of the weights and the loss out: forward, backward, optimiser.

Nothing here waits for the device. Gradients may be gathered over several batches before the weights move, and a batch that
does not fit into the device's memory goes through in parts; in both cases every picture counts the same, so the result is
that of one large batch (except for batch norms, which see the parts).

A wish and a device in, the number format that the network computes in out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from vizsla.augment.mix import MixedBatch, mixed_loss
from vizsla.errors import ConfigError, TrainingError
from vizsla.infer.run import Precision, autocast
from vizsla.train.cuda_graphs import CapturedGradients
from vizsla.train.distributed import share
from vizsla.train.losses import per_picture
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    LossFunction = Callable[[Tensor, Tensor], Tensor]


def resolve_precision(
    precision: str, *, device: torch.device, model: nn.Module | None = None
) -> Precision:
    """Return ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` is fp32, but on CUDA, which gains from less, fp16 for networks with batch norms and bf16 for others: cuDNN has fast
    kernels for batch norms in fp16 alone. A step of resnet34 (64 pictures of 224 pixels, H100, torch 2.11) takes 7.7 ms in fp16
    and 9.3 in bf16. fp16 stays fp32 on a CPU, where it would only be slower.

    Args:
        precision: The wish.
        device: Where it computes.
        model: What will be trained, where that is known.

    Raises:
        ConfigError: It is none of the four.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        has_norms = model is not None and any(
            isinstance(part, nn.BatchNorm2d) for part in model.modules()
        )
        return "fp16" if has_norms else "bf16"
    for known in get_args(Precision):
        if precision == known:
            return "fp32" if known == "fp16" and device.type == "cpu" else known
    raise ConfigError(f"precision is 'auto', 'fp32', 'bf16' or 'fp16'. Received: {precision!r}")


GRADIENT_SCALE = 2.0**12
"""Where fp16 begins to scale its losses, so that small gradients do not vanish; it adapts within a few steps."""


class TrainingStep:
    """Moves the weights of a model.

    Args:
        model: Trained in place; its mode is the caller's choice.
        loss_function: Takes logits ``(B, C)`` in float32 and targets, returns the mean over the pictures.
        optimiser: Over the parameters that train.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"``; fp16 scales its losses.
        accumulate: Batches whose gradients are gathered before the weights move.
        clip: Largest norm of all gradients together; None leaves them.
        forward: What the pictures go through, where that is not the model itself: its compiled form.
        scaler: Scales the losses of fp16; None is a new one.
        whole_batch: Pictures of a batch in all, where several processes have a part each; None where this one has it whole.
        captured: Compute loss and gradients from CUDA graphs where one step is one batch; results are the same.
        say: Told in a sentence when batches have to be split.

    Attributes:
        parts: How many parts a batch goes through in.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_function: LossFunction,
        optimiser: torch.optim.Optimizer,
        precision: Precision = "fp32",
        accumulate: int = 1,
        clip: float | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        whole_batch: int | None = None,
        captured: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.loss_function = loss_function
        self.optimiser = optimiser
        self.precision: Precision = precision
        self.accumulate = accumulate
        self.clip = clip
        self.forward = model if forward is None else forward
        self.whole_batch = whole_batch
        self.say = say
        self.parts = 1
        self.scaler = make_scaler(precision) if scaler is None else scaler
        self._batches = 0
        self._pictures = 0
        self._unit = 1
        self._is_unscaled = False
        self._captured: CapturedGradients | None = None
        if captured and accumulate == 1 and whole_batch is None and self.forward is model:
            self._captured = CapturedGradients(
                self._unscaled, model=model, remember=self._remember_unscaled, say=say
            )

    def refresh(self) -> None:
        """Look at the model's modes and at what of it trains; call it before an epoch."""
        if self._captured is not None:
            self._captured.refresh()

    @property
    def gave_up_graphs(self) -> bool:
        """Whether a step could not be recorded."""
        return self._captured is not None and self._captured.gave_up

    def __call__(self, batch: Batch, *, last: bool = False) -> Tensor:
        """Take one step.

        Args:
            batch: Float pictures on the model's device.
            last: Move the weights even if fewer than ``accumulate`` batches are gathered.

        Returns:
            The mean loss of the batch, a scalar that stays on the device. Of several processes each gets what its part adds to
            it, times their number: the mean over the processes is the mean loss of the whole batch.

        Raises:
            TrainingError: Not even one picture fits into the device's memory, or a batch norm gets a single value.
        """
        size = len(batch.rows) if self.whole_batch is None else self.whole_batch
        if not self._batches:
            self._unit = size
        loss = self._add_gradients(batch)
        self._batches += 1
        self._pictures += size
        if last or self._batches >= self.accumulate:
            self._move()
        return loss

    def _add_gradients(self, batch: Batch) -> Tensor:
        """Go through a batch in as few parts as the memory allows."""
        if self._captured is not None and self.parts == 1:
            loss = self._captured(batch)
            if loss is not None:
                return loss
            if self._captured.gave_up:  # What the recording told the scaler did not happen.
                self.scaler._per_optimizer_states.pop(id(self.optimiser), None)  # pyright: ignore[reportPrivateUsage]
        while True:
            try:
                return self._backward(batch)
            except torch.OutOfMemoryError as error:
                # Of several processes the others would wait for gradients that this one computes twice.
                alone = self.whole_batch is None
                if self.parts >= len(batch.rows) or self._batches or not alone:
                    raise TrainingError(
                        f"The device's memory is not enough for {-(-len(batch.rows) // self.parts)} pictures of "
                        f"{tuple(batch.images.shape[2:])} pixels: {error}. Take a smaller batch, smaller pictures, or "
                        "a smaller network."
                    ) from error
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise TrainingError(
                    f"Batch norms cannot be trained on {len(batch.rows)} picture{'s' * (len(batch.rows) > 1)} of "
                    f"{tuple(batch.images.shape[2:])} pixels: the last maps of the network are of one pixel, and the mean "
                    "of one value is that value. Take bs=2 or more, larger pictures, or train_bn=False."
                ) from error
            # Outside of the handler: the traceback of the error keeps the tensors of the failed step alive.
            self.optimiser.zero_grad(set_to_none=True)
            self.parts *= 2
            self.say(
                f"Out of memory: batches of {len(batch.rows)} go through in {self.parts} parts from now on. Rates and "
                "results stay those of the whole batch; batch norms see the parts."
            )

    def _unscaled(self, batch: Batch) -> Tensor:
        """Go through a batch, and in fp16 look for infinities at once: one kernel of a graph, a loop over parameters outside."""
        loss = self._backward(batch)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)
        return loss

    def _remember_unscaled(self) -> Callable[[], None]:
        """Return what lets the scaler know, after a graph ran, what the recorded call told it."""
        if not self.scaler.is_enabled():
            return lambda: None
        number = id(self.optimiser)
        known = dict(self.scaler._per_optimizer_states[number])  # pyright: ignore[reportPrivateUsage] (it has no other way in)

        def recall() -> None:
            self.scaler._per_optimizer_states[number] = dict(known)  # pyright: ignore[reportPrivateUsage]
            self._is_unscaled = True

        return recall

    def _backward(self, batch: Batch) -> Tensor:
        total: Tensor | None = None
        size, weight = len(batch.rows), 1.0
        if self.whole_batch is not None:
            # Gradients and losses are averaged over the processes as if all parts were of one size.
            weight = size * share()[1] / self.whole_batch
            size = self.whole_batch
        for part in split_batch(batch, self.parts):
            with autocast(part.images.device, self.precision):
                logits = self.forward(part.images)
            loss = batch_loss(logits.float(), part, loss_function=self.loss_function)
            loss = loss * (weight * len(part.rows) / len(batch.rows))
            self.scaler.scale(loss * (size / self._unit)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise TrainingError("A batch without pictures came to be trained on.")
        return total

    def _move(self) -> None:
        gathered = self._pictures / self._unit
        self._batches = self._pictures = 0
        if self.clip is not None or gathered != 1:
            if not self._is_unscaled:
                self.scaler.unscale_(self.optimiser)
            parameters = [
                parameter
                for group in self.optimiser.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            ]
            if gathered != 1:
                for parameter in parameters:
                    parameter.grad.div_(gathered)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._is_unscaled = False
        self.optimiser.zero_grad(set_to_none=True)


def make_scaler(precision: Precision) -> torch.amp.GradScaler:
    """Return what scales the losses of fp16, so that small gradients do not vanish; idle in other precisions and on a CPU."""
    needed = precision == "fp16" and torch.cuda.is_available()
    return torch.amp.GradScaler("cuda", init_scale=GRADIENT_SCALE, enabled=needed)


def batch_loss(logits: Tensor, batch: Batch, *, loss_function: LossFunction) -> Tensor:
    """Return the mean loss of a batch; pictures that were mixed count for both of their targets.

    Args:
        logits: float32 ``(B, C)``, of ``batch.images``.
        batch: What went through the network.
        loss_function: Takes logits and targets, returns the mean over the pictures.
    """
    if batch.shares is None or batch.partner_targets is None:
        return loss_function(logits, batch.targets)
    mixed = MixedBatch(
        images=batch.images,
        targets=batch.targets,
        partner_targets=batch.partner_targets,
        shares=batch.shares,
    )
    return mixed_loss(logits, mixed, loss=per_picture(loss_function))


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch in so many parts of neighbouring pictures, which share its memory."""
    if parts == 1:
        return [batch]
    size = -(-len(batch.rows) // parts)
    places = [slice(first, first + size) for first in range(0, len(batch.rows), size)]
    return [
        Batch(
            images=batch.images[place],
            targets=batch.targets[place],
            rows=batch.rows[place],
            partner_targets=None if batch.partner_targets is None else batch.partner_targets[place],
            shares=None if batch.shares is None else batch.shares[place],
        )
        for place in places
    ]
