"""Train in several processes as if one did it all: each has a part of every batch.

``torchrun --nproc-per-node N -m vizsla train ...`` starts the processes and connects them by environment variables. Gradients are
averaged by torch's DistributedDataParallel. The batch size is that of all processes together, and every image counts the same, so
rates, losses and results are those of one process. Without ``start``, everything here is about one process.
"""

from __future__ import annotations

import os
import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from vizsla.errors import ConfigError, TrainingError
from vizsla.evaluate.predictions import Predictions
from vizsla.text import first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.types import Batch

_LOST_PROCESS = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset)|Broken pipe")
"""What torch says when a process that it waits for is gone."""

STEPS_BETWEEN_READS = 20
"""Several processes read losses and clocks at the same steps; otherwise one would wait for others that do not."""


@contextmanager
def start(device: str = "auto") -> Generator[torch.device | None]:
    """Join the other processes if torchrun started several, leave them at the end; yield the device of this one, None if alone.

    With ``"cuda"`` each process takes the GPU of its number; ``"auto"`` does so if there are GPUs; otherwise the CPU.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine.
        TrainingError: Another process has ended in the block.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if on_cuda and number >= torch.cuda.device_count():
        raise ConfigError(
            f"Process {number} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. "
            "Start fewer processes: torchrun --nproc-per-node N."
        )
    own = torch.device("cuda", number) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield own
    except RuntimeError as error:
        if not _LOST_PROCESS.search(str(error)):
            raise
        raise TrainingError(
            f"Another process of this training has ended, and this one cannot go on without it ({first_line(error)}). Look at what "
            "that one wrote, and start all again; with --resume (in Python: Checkpoint(resume=True)) from the last checkpoint."
        ) from error
    finally:
        distributed.destroy_process_group()


def share() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return share()[0] == 0


def as_one(model: nn.Module) -> nn.Module:
    """Return the model, kept in step with those of the other processes if there are any.

    Batch norms that train see each process's own part of a batch; their running statistics are those of the main process.
    """
    if share()[1] == 1 or not any(value.requires_grad for value in model.parameters()):
        return model
    device = next(model.parameters()).device
    # A head that pools early stages leaves later layers without gradients; torch finds out which in the first step. The graph
    # of a fit stays the same.
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, static_graph=True
    )


def mean_over_processes(losses: Tensor) -> Tensor:
    """Average losses over the processes, each of which has its part of every loss."""
    _, world = share()
    if world > 1:
        distributed.all_reduce(losses)
        losses = losses / world
    return losses


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process; every process has to call this."""
    _, world = share()
    if world == 1:
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return bool(found.item())


def any_on_device(flag: Tensor) -> Tensor:
    """Return the same for a bool on a device, without waiting for it; every process has to call this."""
    if share()[1] == 1:
        return flag
    found = flag.float()
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return found > 0


def own_part(loader: DataLoader, **options: Any) -> Generator[Batch]:
    """Yield this process's part of the batches of a loader, without those that leave it no images."""
    with closing(loader.batches(share=share(), **options)) as batches:
        for batch in batches:
            if len(batch.rows):
                yield batch


def all_of(part: Any) -> list[Any]:
    """Return the values of all processes, in their order; every process has to call this."""
    _, world = share()
    if world == 1:
        return [part]
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, part)
    return parts


def whole_predictions(part: Predictions, *, order: Tensor) -> Predictions:
    """Join the predictions of all processes, in the order of the rows ``order``, int64 ``(N,)``."""
    if share()[1] == 1:
        return part
    parts: list[Predictions] = all_of(part)
    rows = torch.cat([each.rows for each in parts])
    places = positions_of(order, rows)
    paths = [path for each in parts for path in each.paths]
    return Predictions(
        rows=rows[places],
        paths=tuple(paths[place] for place in places.tolist()),
        logits=torch.cat([each.logits for each in parts])[places],
        targets=torch.cat([each.targets for each in parts])[places],
        vocab=part.vocab,
        task=part.task,
    )


def positions_of(wanted: Tensor, rows: Tensor) -> Tensor:
    """Return where each of the wanted rows stands among distinct rows."""
    place_of = {row: place for place, row in enumerate(rows.tolist())}
    return torch.tensor([place_of[row] for row in wanted.tolist()], dtype=torch.int64)


def check_parts(batch_sizes: Sequence[int]) -> None:
    """Check that every process gets images of every training batch.

    Raises:
        ConfigError: A batch has fewer images than there are processes.
    """
    _, world = share()
    if min(batch_sizes, default=world) < world:
        raise ConfigError(
            f"Batches of {min(batch_sizes)} images cannot be shared by {world} processes. Take a larger batch or fewer "
            "processes."
        )
