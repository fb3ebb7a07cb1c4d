"""Train in several processes as if one did it all: each has a part of every batch.

``torchrun --nproc-per-node N -m vizsla train ...`` starts the processes and connects them by environment variables. Gradients are
averaged by torch's DistributedDataParallel. The batch size is that of all processes together, and every image counts the same, so
rates, losses and results are those of one process. Without ``start``, everything here is about one process.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import re
import secrets
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.overrides import TorchFunctionMode

from vizsla import __version__
from vizsla.data.table.check import image_facts
from vizsla.errors import ConfigError, DataError, TrainingError
from vizsla.evaluate.predictions import Predictions
from vizsla.text import first_line, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.types import Batch, ImageTable

_LOST_PROCESS = re.compile(r"gloo|NCCL|TCPStore|Connection (closed|reset)|Broken pipe")
"""What torch says when a process that it waits for is gone."""

VERSIONS = {"the version of vizsla": __version__, "the version of torch": torch.__version__}

SECONDS_TO_JOIN = 1800
"""How long a process waits for the first one, as torch does."""

MOST_NAMED = 5
"""Differences between processes that an error names."""

STEPS_BETWEEN_READS = 20
"""Several processes read losses and clocks at the same steps; otherwise one would wait for others that do not."""


@contextmanager
def start(device: str = "auto") -> Generator[torch.device | None]:
    """Join the other processes if torchrun started several, leave them at the end; yield the device of this one, None if alone.

    With ``"cuda"`` each process takes the GPU of its number; ``"auto"`` does so if there are GPUs; otherwise the CPU. An error
    that ends the block gets a note of the process and its machine.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine.
        TrainingError: The other processes cannot be reached, or one of them has ended in the block.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        yield None
        return
    where = f"This is process {os.environ['RANK']} of {world}, on {platform.node()}."
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
    try:
        store, rank, _ = next(rendezvous("env://"))
        store = _own_part(store, rank=rank, world=world)
        distributed.init_process_group(
            "nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=world
        )
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"The other processes cannot be reached at {address} ({first_line(error)}). Open all ports between "
            "the machines; if a machine has several network interfaces, name the right one in GLOO_SOCKET_IFNAME "
            f"(with GPUs, NCCL_SOCKET_IFNAME). {where}"
        ) from error
    try:
        yield own
    except Exception as error:
        if not (isinstance(error, RuntimeError) and _LOST_PROCESS.search(str(error))):
            error.add_note(where)
            raise
        raise TrainingError(
            f"Another process of this training has ended, so this one cannot continue ({first_line(error)}). "
            "Check the output of that process, then restart all; --resume (in Python: Checkpoint(resume=True)) "
            f"continues from the last checkpoint. {where}"
        ) from error
    finally:
        distributed.destroy_process_group()


def _own_part(store: Store, *, rank: int, world: int) -> Store:
    """Return a part of the processes' common store into which no earlier process has written.

    torchrun keeps one store for all restarts (torch 2.14), and gloo takes the addresses in it for those of the new processes. So the
    first process names a new part, and each other one waits until that has heard itself and not one that is gone.
    """
    own = secrets.token_hex(8)
    if rank == 0:
        store.set("part", own)
        heard = {other: store.get(f"{own}/{other}").decode() for other in range(1, world)}
        for other, token in heard.items():
            store.set(f"{own}/{other}/heard", token)
        return PrefixStore(own, store)
    until = time.monotonic() + SECONDS_TO_JOIN
    while time.monotonic() < until:
        part = store.get("part").decode()
        store.set(f"{part}/{rank}", own)
        answer = f"{part}/{rank}/heard"
        if store.check([answer]) and store.get(answer).decode() == own:
            return PrefixStore(part, store)
        time.sleep(0.05)
    raise RuntimeError("the first process did not answer")


def share() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return share()[0] == 0


GradientCompression = Literal["none", "fp16", "bf16", "powersgd"]
"""How gradients are sent to other processes: as they are, in 16 bits, or as matrices of low rank."""

POWER_SGD_RANK = 2
"""With it ResNet-18 lost no accuracy, with 1 it did: Vogels et al., "PowerSGD", 2019 (arXiv 1905.13727), table 3."""

_ONE_BUCKET_MB = 2**20


def as_one(
    model: nn.Module, *, compression: GradientCompression = "none", sync_norms: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return what images go through: the model, kept in step with those of the other processes if there are any.

    Unless ``sync_norms``, batch norms that train see each process's own part of a batch; their running statistics are those of
    the main process.
    """
    if share()[1] == 1 or not any(value.requires_grad for value in model.parameters()):
        return model
    device = next(model.parameters()).device
    # A head that pools early stages leaves later layers without gradients; torch finds out which in the first step. The graph
    # of a fit stays the same.
    is_cpu = device.type == "cpu"
    together = nn.parallel.DistributedDataParallel(
        model,
        device_ids=None if is_cpu else [device],
        static_graph=True,
        # Hooks of several buckets would send their messages in any order, which only NCCL allows.
        bucket_cap_mb=_ONE_BUCKET_MB if is_cpu and compression == "powersgd" else None,
    )
    if compression == "powersgd":
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

        state = powerSGD_hook.PowerSGDState(
            None,
            matrix_approximation_rank=POWER_SGD_RANK,
            start_powerSGD_iter=2,
            # With 0, gradients of a lower rank become nan.
            orthogonalization_epsilon=1e-8,  # pyright: ignore[reportArgumentType] (by its default torch declares an int)
        )
        together.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif compression != "none":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        together.register_comm_hook(None, getattr(default_hooks, f"{compression}_compress_hook"))
    elif is_cpu:
        together.register_comm_hook(None, lambda _, bucket: _average_in_order(bucket.buffer()))
    if not sync_norms:
        return together

    def forward(images: Tensor) -> Tensor:
        with _SyncedNorms():
            return together(images)

    return forward


def _average_in_order(gradients: Tensor) -> torch.futures.Future[Tensor]:
    """Average the gradients of a bucket over the processes, each value added up in the order of the processes.

    gloo's own order depends on where a value stands in the bucket, and torch makes other buckets after the first step of a fit:
    with more than two processes, a resumed run would differ in the last bits from one that was not cut off.
    """
    world = share()[1]
    sent = nn.functional.pad(gradients, (0, -len(gradients) % world))
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent)
    total, *others = received.view(world, -1)
    for other in others:
        total += other
    distributed.all_gather([*sent.view(world, -1)], total / world)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(sent[: len(gradients)])
    return done


class _SyncedNorms(TorchFunctionMode):
    """Lets every batch norm that trains inside the block see the batches of all processes.

    torch's SyncBatchNorm does so on GPUs alone, and replaces the modules. This catches the function that all kinds of batch norms
    call, so it also works on CPUs, and timm's, which add an activation, stay what they are.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func is nn.functional.batch_norm:
            given = inspect.signature(func).bind(*args, **named)
            given.apply_defaults()
            if given.arguments["training"]:
                return _norm_of_all(**given.arguments)
        return func(*args, **named)


class _SumOverProcesses(torch.autograd.Function):
    """Adds up a tensor over the processes; its gradient is that of all of their losses."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        del ctx
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _SumOverProcesses.forward(ctx, gradients[0])


def _norm_of_all(
    input: Tensor,  # noqa: A002 (torch's names)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Do what torch's ``batch_norm`` does in training, for the values of all processes, with their gradients."""
    del training
    rank, world = share()
    values = input.float()
    axes = [axis for axis in range(values.ndim) if axis != 1]
    own_var, own_mean = torch.var_mean(values, axes, correction=0)
    count = own_mean.new_full((1,), values.numel() / values.shape[1])
    own = torch.cat([count, own_mean, own_var])
    # A row for each process: their sum is everyone's table, and its gradient goes back to all.
    table = torch.stack([own if row == rank else torch.zeros_like(own) for row in range(world)])
    table = _SumOverProcesses.apply(table)
    counts, means, variances = table.split([1, len(own_mean), len(own_mean)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    # Not the mean of squares less the square of the mean, which loses digits.
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1] + [1] * (values.ndim - 2)
    return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)


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


def from_process(number: int, value: Any) -> Any:
    """Return the value that the process of this number has; every process has to call this."""
    if share()[1] == 1:
        return value
    sent = [value]
    distributed.broadcast_object_list(sent, src=number)
    return sent[0]


def check_same_settings(settings: Mapping[str, object]) -> None:
    """Check that all processes were started with the same settings; every process has to call this.

    Raises:
        ConfigError: In every process: some differ; they are named with the machines.
    """
    mains: dict[str, object] = from_process(0, dict(settings))
    differing = [
        f"{name} is {value!r} for process {share()[0]} on {platform.node()}, {mains[name]!r} for the first one"
        for name, value in settings.items()
        if mains[name] != value
    ]
    found = [line for part in all_of(differing) for line in part]
    if found:
        raise ConfigError(
            f"The processes were started differently: {joined(found, limit=MOST_NAMED, separator='; ')}. Give all machines the "
            "same command and the same versions."
        )


def check_same_images(table: ImageTable) -> None:
    """Check that all processes have the same images, labels and split; every process has to call this.

    Raises:
        DataError: In every process: they differ; machines and images are named.
        PictureError: An image is gone.
    """
    if share()[1] == 1:
        return
    facts = image_facts(table)
    train, valid = set(table.train_rows.tolist()), set(table.valid_rows.tolist())
    digest = hashlib.sha256(ascii((facts, sorted(train), sorted(valid))).encode()).hexdigest()
    if len(set(all_of(digest))) == 1:
        return
    images = {
        path: f"{num_bytes:,} bytes, label {label!r}, in "
        + ("training" if row in train else "validation" if row in valid else "neither set")
        for row, (path, num_bytes, label) in enumerate(facts)
    }
    mains: dict[str, str] = from_process(0, images)
    problems = [f"{path} is missing" for path in mains.keys() - images.keys()]
    problems += [f"{path} is only there" for path in images.keys() - mains.keys()]
    problems += [
        f"{path} has {own}, not {mains[path]}"
        for path, own in images.items()
        if mains.get(path, own) != own
    ]
    shown = joined(sorted(problems), limit=MOST_NAMED, separator="; ")
    first, *others = dict.fromkeys(all_of((platform.node(), shown)))
    different = [
        f"On {machine}: {shown or 'the same in another order'}." for machine, shown in others
    ]
    raise DataError(
        f"The data differ between machines. Against those on {first[0]}: {' '.join(different)} Copy the same "
        "files to all machines, or put them on a shared disk."
    )


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
            f"Batches of {min(batch_sizes)} images cannot be shared by {world} processes. Use a larger batch or "
            "fewer processes."
        )
