"""The order in which images come up in an epoch, decided by (rows, seed, epoch), and one process's share of a batch.

A *turn* says which image comes up, and how often it came up before in the epoch: ``row + 2**32 * times_before``. Random
numbers are keyed by turns, so that an image that comes up twice in an epoch is cropped and augmented in two ways. Where no
row is repeated, turns are the rows themselves. N: rows; M: turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.statistics import are_unequal
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

Balance = Literal["none", "auto", "weights", "sample"]
"""What to do about classes of unequal size: weigh images in the loss, or draw those of rare classes more often; ``"auto"`` does what
``AUTO_BALANCE`` says where they are, see ``are_unequal``.
"""

AUTO_BALANCE: Literal["weights", "sample"] = "sample"
"""At 20 to 1 it took the balanced accuracy from 72.8 to 88.8 % in end-to-end epochs, weights to 88.3 % (benchmarks/README.md)."""

Share = tuple[int, int]
"""(rank, world): which process this is, of how many that work on the same batches."""

ALL: Share = (0, 1)
"""The share of a process that works alone."""

_ROW_BITS = 32
_ROW_MASK = (1 << _ROW_BITS) - 1


def check_rows(rows: Tensor, *, count: int) -> Tensor:
    """Return rows of a table of ``count`` rows as int64 ``(N,)`` on the CPU; raise a DataError for one outside of it."""
    rows = rows.to(device="cpu", dtype=torch.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise DataError(
            f"Rows must be from 0 to {count - 1} in this table. Received: rows from {int(rows.min())} to "
            f"{int(rows.max())}"
        )
    return rows


def rows_of(turns: Tensor) -> Tensor:
    """Return the rows of some turns, int64 ``(M,)``."""
    return turns & _ROW_MASK


def turns_of(rows: Tensor) -> Tensor:
    """Return the turns of rows that come up in this order, int64 ``(N,)``."""
    order = torch.argsort(rows, stable=True)
    in_order = rows[order]
    is_first = torch.ones_like(in_order, dtype=torch.bool)
    is_first[1:] = in_order[1:] != in_order[:-1]
    positions = torch.arange(len(rows))
    first_position = torch.cummax(torch.where(is_first, positions, 0), dim=0).values
    turns = torch.empty_like(rows)
    turns[order] = in_order + ((positions - first_position) << _ROW_BITS)
    return turns


def shuffle_rows(rows: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Return rows, int64 ``(N,)``, in the random order of an epoch."""
    return rows[torch.randperm(len(rows), generator=generator(seed, f"order {epoch}"))]


def draw_rows(
    rows: Tensor, *, weights: Tensor, groups: Tensor | None = None, seed: int, epoch: int
) -> Tensor:
    """Draw N rows with replacement, in proportion to their weights ``(N,)``, and return them in random order.

    The draws are spread evenly (systematic sampling): a row that is expected 2.4 times comes up 2 or 3 times, and the rows
    of a group (int64 ``(N,)``, the class of each row; None is one group) together as often as their weights say, give or
    take one. Independent draws would stray much further.
    """
    chance = generator(seed, f"draw {epoch}")
    order = torch.randperm(len(rows), generator=chance)
    if groups is not None:
        order = order[torch.argsort(groups[order], stable=True)]
    ends = weights[order].double().cumsum(0)
    start = torch.rand((), generator=chance, dtype=torch.float64)
    points = (torch.arange(len(rows), dtype=torch.float64) + start) * (ends[-1:] / len(rows))
    # Rounding may put the last point at the very end; it means the last row that has a weight.
    last = int((ends < ends[-1:]).sum())
    chosen = torch.searchsorted(ends, points, right=True).clamp(max=last)
    return shuffle_rows(rows[order[chosen]], seed=seed, epoch=epoch)


def check_balance(balance: Balance, targets: Tensor) -> Literal["none", "weights", "sample"]:
    """Return what is done about classes of unequal size, with ``"auto"`` decided by the targets, int64 ``(N,)``, of training images.

    Raises:
        ConfigError: There is no such way, or images do not have one class each.
    """
    if balance not in get_args(Balance):
        raise ConfigError(
            f"balance must be one of {', '.join(get_args(Balance))}. Received: {balance!r}"
        )
    has_classes = targets.ndim == 1 and not targets.is_floating_point()
    if balance in ("none", "auto"):
        is_needed = (
            balance == "auto" and has_classes and are_unequal(torch.bincount(targets[targets >= 0]))
        )
        return AUTO_BALANCE if is_needed else "none"
    if not has_classes:
        raise ConfigError(
            f"balance={balance!r} balances classes in training, but these images do not have one class each "
            f"(targets are {targets.dtype} of shape {tuple(targets.shape)}). Leave it out."
        )
    return balance


def balancing_weights(targets: Tensor) -> Tensor:
    """Return weights, float64 ``(N,)``, with which all classes in the targets, int64 ``(N,)``, come up equally often."""
    _, which, counts = torch.unique(targets, return_inverse=True, return_counts=True)
    return 1.0 / counts[which].double()


def check_weights(weights: Tensor | Sequence[float], *, count: int) -> Tensor:
    """Return the weights of ``count`` rows as float64 ``(N,)`` on the CPU; raise a ConfigError if they cannot be used."""
    found = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    fits = found.shape == (count,)
    if not fits or not bool(found.isfinite().all()) or bool((found < 0).any()):
        what = (
            f"shape {tuple(found.shape)}" if not fits else "numbers that are negative or not finite"
        )
        raise ConfigError(
            f"weights must be {count} numbers of at least 0, one for each row. Received: {what}"
        )
    if count and not bool(found.any()):
        raise ConfigError(
            "All weights are 0, so no image can be drawn. Give at least one image a weight above 0."
        )
    return found


def check_share(share: Share) -> None:
    """Raise a ConfigError for a share that is not (rank, world) with 0 <= rank < world."""
    rank, world = share
    if not 0 <= rank < world:
        raise ConfigError(
            f"share must be (rank, world), with rank from 0 to world - 1. Received: share={share!r}"
        )


def take_share(batch: Tensor, *, share: Share) -> Tensor:
    """Return one process's rows of a batch, ``(B,)``: neighbours, as many as every other process has, give or take one.

    The shares of all processes, in the order of their ranks, make up the batch. Where a batch has fewer rows than there are
    processes, some shares are empty.
    """
    rank, world = share
    return batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]
