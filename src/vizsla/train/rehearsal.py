"""A trainer on CUDA in; the kernels of its first step loaded by a thread while the first pictures are decoded.

CUDA loads a kernel when it is first launched. For a step of resnet34 that takes a second, in which the device has nothing to do;
so does the decoding of the first pictures. Both at once take hardly longer than one of them.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from vizsla.infer.captured import has_hooks
from vizsla.infer.run import autocast

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from vizsla.train.trainer import Trainer
    from vizsla.types import Size

_ROOM = 0.5
"""Share of the device's memory that has to be free: a rehearsal takes as much as a step."""


@contextmanager
def rehearsal(trainer: Trainer) -> Generator[threading.Thread | None]:
    """Go forward and backward through a copy of the network, on pictures of noise, in a thread.

    Nothing of the trainer changes, nor any random number: the copy has its dropout switched off.

    Args:
        trainer: Its steps may be recorded as CUDA graphs, so nothing in them looks on.

    Yields:
        The thread, to be waited for before the first step; None where there is nothing to gain. It has ended afterwards.
    """
    size: Size | None = getattr(trainer.dls, "final_size", None)  # Cached features have none.
    is_known = trainer.uses_graphs() and not has_hooks(trainer.model)
    if size is None or not is_known or not _has_room():
        yield None
        return
    model = copy.deepcopy(trainer.model).eval()
    for part in model.modules():
        part.training = isinstance(part, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
    count = min(trainer.dls.train.bs, trainer.dls.train.n)
    targets = trainer.dls.table.targets[trainer.dls.train.rows[:count]]
    thread = threading.Thread(
        target=_rehearse,
        args=(trainer, model, (count, 3, *size), targets),
        name="vizsla-rehearsal",
        daemon=True,
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def _rehearse(trainer: Trainer, model: nn.Module, shape: tuple[int, ...], targets: Tensor) -> None:
    device = trainer.dls.device
    try:
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
            with autocast(device, trainer.precision):
                logits = model(images)
            trainer.loss_func(logits.float(), targets.to(device)).backward()
            torch.cuda.current_stream(device).synchronize()
    except (RuntimeError, ValueError):
        return  # The first step will tell.


def _has_room() -> bool:
    free, total = torch.cuda.mem_get_info()
    return free > _ROOM * total
