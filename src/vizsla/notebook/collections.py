"""The small helpers that notebooks expect by name.

Importing this module changes nothing; ``patch_path`` gives ``pathlib.Path`` its listing and its short form.
"""

from __future__ import annotations

import itertools
import mimetypes
import operator
import reprlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from vizsla.data.loading.loader import read_ahead
from vizsla.errors import ConfigError
from vizsla.lists import L, is_array
from vizsla.machine import default_num_workers
from vizsla.train.display import make_display

Item = TypeVar("Item")


class Endless:
    """Iterators that never end; each access gives a new one."""

    @property
    def count(self) -> Iterator[int]:
        """0, 1, 2, ..."""
        return itertools.count()

    @property
    def zeros(self) -> Iterator[int]:
        """0, 0, 0, ..."""
        return itertools.repeat(0)

    @property
    def ones(self) -> Iterator[int]:
        """1, 1, 1, ..."""
        return itertools.repeat(1)

    @property
    def nones(self) -> Iterator[None]:
        """None, None, None, ..."""
        return itertools.repeat(None)


Inf = Endless()
"""Endless iterators: ``Inf.count``, ``Inf.zeros``, ``Inf.ones``, ``Inf.nones``."""


def first(items: Iterable[Item], function: Callable[[Item], object] | None = None) -> Item | None:
    """Return the first item (for which a function is true), or None."""
    return next((item for item in items if function is None or function(item)), None)


def noop(x: Any = None) -> Any:
    """Return ``x``."""
    return x


def tensor(
    *values: Any,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return numbers as a tensor; 64-bit floats become 32-bit ones, as networks have them.

    Args:
        *values: A number, a list (of lists), an array, an image, a table, a tensor, or a list of tensors of one shape;
            several arguments are taken as a list of them.
        dtype: Type of the result; None keeps that of the values.
        device: Device of the result; None keeps a tensor where it is.

    Returns:
        A tensor with its own memory; a tensor that already fits is returned itself.

    Raises:
        ConfigError: They are not numbers, or lists of different lengths.

    Examples:
        >>> tensor(0.5, 1, 2)
        tensor([0.5000, 1.0000, 2.0000])
    """
    given: Any = values[0] if len(values) == 1 else list(values)
    try:
        found = given if isinstance(given, Tensor) else _as_tensor(given)
        if dtype is None and found.dtype == torch.float64:
            dtype = torch.float32
        return found.to(device=device, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"tensor takes numbers, lists of equal lengths, arrays and tensors ({error}). "
            f"Received: {reprlib.repr(given)}"
        ) from error


def _as_tensor(given: Any) -> Tensor:
    if hasattr(given, "iloc"):
        given = given.to_numpy()
    elif isinstance(given, Iterable) and not is_array(given):
        given = list(given)
        if given and all(isinstance(each, Tensor) for each in given):
            return torch.stack(given)
    if is_array(given):
        # A copy: torch may not write into memory that is read-only, and an array's owner may.
        return torch.from_numpy(np.array(given))
    return torch.tensor(given)


def ifnone(a: Any, b: Any) -> Any:
    """Return ``a``, or ``b`` if it is None."""
    return b if a is None else a


def range_of(a: Any) -> list[int]:
    """Return the positions of the items of a collection, or the numbers below one."""
    return list(range(len(a) if hasattr(a, "__len__") else a))


def to_np(x: Any) -> Any:
    """Return a tensor as an array on the CPU; of a list or tuple each element."""
    return type(x)(map(to_np, x)) if isinstance(x, list | tuple) else x.detach().cpu().numpy()


def image2tensor(img: Any) -> Tensor:
    """Return an image of PIL, ``(H, W)`` or ``(H, W, C)`` values, as a uint8 tensor ``(C, H, W)``."""
    values = tensor(img)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def set_seed(s: int, reproducible: bool = False) -> None:
    """Set the seeds of torch, numpy and Python at once; ``reproducible`` also picks cuDNN's deterministic, perhaps slower, algorithms.

    vizsla's own draws come from the seed of the data loaders; this is for code around it.
    """
    import random  # noqa: TID251 (seeding the generators that others use is what this is for)

    random.seed(s)
    np.random.seed(s % 2**32)  # noqa: NPY002, TID251 (as above)
    torch.manual_seed(s)
    if reproducible:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def patch_path() -> None:
    """Give ``pathlib.Path`` the method ``ls`` and the attribute ``BASE_PATH``, for the whole program.

    ``path.ls()`` lists a folder. With ``Path.BASE_PATH = folder`` paths below that folder print relative to it; the paths themselves
    do not change. Calling it again changes nothing.
    """
    for name, value in (("ls", _ls), ("BASE_PATH", None)):
        if not hasattr(Path, name):
            setattr(Path, name, value)
    Path.__repr__ = _path_text


def _ls(
    self: Path,
    n_max: int | None = None,
    file_type: str | None = None,
    file_exts: str | Sequence[str] | None = None,
) -> L[Path]:
    """List the files and folders in a folder by name, hidden ones too.

    Args:
        self: The folder.
        n_max: Return at most this many.
        file_type: Only files of this kind, as ``mimetypes`` knows them: ``"image"``, ``"text"``.
        file_exts: Only files with this ending or one of these, such as ``".jpg"``.
    """
    endings = {ending.lower() for ending in L(file_exts)}
    if file_type is not None:
        known = mimetypes.types_map.items()
        endings |= {ending for ending, kind in known if kind.startswith(f"{file_type}/")}
    anything = file_type is None and file_exts is None
    found = sorted(self.iterdir(), key=operator.attrgetter("name"))
    chosen = [path for path in found if anything or path.suffix.lower() in endings]
    return L(chosen[:n_max])


def _path_text(self: Path) -> str:
    base = getattr(Path, "BASE_PATH", None)
    shown = self
    if base is not None and self.is_relative_to(base):
        shown = self.relative_to(base)
    return f"Path({shown.as_posix()!r})"


imagenet_stats = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's red, green and blue, for pixels 0-1."""


class ResizeMethod(StrEnum):
    """How ``Resize`` makes an image square."""

    Crop = "crop"
    Pad = "pad"
    Squish = "squish"


class PadMode(StrEnum):
    """What is seen outside an image."""

    Zeros = "zeros"
    Border = "border"
    Reflection = "reflection"


@dataclass(frozen=True)
class ItemGetter:
    """Takes one part of an item: ``item[i]``."""

    i: Any

    def __call__(self, item: Any) -> Any:
        """Return that part of an item."""
        return item[self.i]


@dataclass(frozen=True)
class AttrGetter:
    """Takes the attribute ``nm`` of an item, or ``default`` where it is missing."""

    nm: str
    default: Any = None

    def __call__(self, item: Any) -> Any:
        """Return that attribute of an item."""
        return getattr(item, self.nm, self.default)


def parallel(
    f: Callable[..., Any],
    items: Iterable[Any],
    *args: Any,
    n_workers: int | None = None,
    total: int | None = None,  # noqa: ARG001
    progress: bool = False,
    pause: float = 0,
    method: str | None = None,  # noqa: ARG001
    threadpool: bool = True,  # noqa: ARG001
    timeout: float | None = None,  # noqa: ARG001
    chunksize: int = 1,  # noqa: ARG001
    **kwargs: Any,
) -> L[Any]:
    """Return ``f(item, *args, **kwargs)`` of each item, in order, called in threads; the first error ends it.

    Args:
        f: The function; reading and resizing images, as Pillow and numpy do it, lets other threads work.
        items: What it is called with.
        *args: Further arguments.
        n_workers: Threads; None is one for each core, 0 calls it in this thread.
        total: Without effect, as are ``method``, ``threadpool``, ``timeout`` and ``chunksize``: they are about processes.
        progress: Draw a bar.
        pause: Seconds to wait before each call.
        method: See ``total``.
        threadpool: See ``total``.
        timeout: See ``total``.
        chunksize: See ``total``.
        **kwargs: Further arguments by name.

    Examples:
        >>> parallel(len, ["a", "bc"])
        (#2) [1,2]
    """

    def call(item: Any) -> Any:
        time.sleep(pause)
        return f(item, *args, **kwargs)

    jobs = list(items)
    workers = default_num_workers() if n_workers is None else n_workers
    results = read_ahead(call, jobs, num_workers=workers, max_waiting=8 * max(1, workers))
    found: L[Any] = L()
    with make_display(quiet=not progress).bar("Working", total=len(jobs), unit="items") as move:
        for result in results:
            found.append(result)
            move(len(found))
    return found


def to_cpu(b: Any) -> Any:
    """Return tensors on the CPU: one, or a list, tuple or dict of them, however nested; anything else as it is."""
    if isinstance(b, Tensor):
        return b.cpu()
    if isinstance(b, Mapping):
        return {name: to_cpu(value) for name, value in b.items()}
    if isinstance(b, list | tuple):
        made = [to_cpu(value) for value in b]
        return type(b)(*made) if hasattr(b, "_fields") else type(b)(made)
    return b


def save_pickle(*_file_and_object: Any) -> NoReturn:
    """Refuse to write a pickle, and say what to write instead.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(
        "vizsla neither writes nor reads pickles: opening one can run any program. Tensors, and lists and dicts of them: "
        "torch.save(x, 'x.pt'), then torch.load('x.pt', weights_only=True). Arrays: np.save. Tables: df.to_csv. Models: learn.export()."
    )


def load_pickle(*_file: Any) -> NoReturn:
    """Refuse to open a pickle, as ``save_pickle`` refuses to write one.

    Raises:
        ConfigError: Always.
    """
    save_pickle()
