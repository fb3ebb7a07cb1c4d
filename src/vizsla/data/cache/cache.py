"""A key and a way to make a picture in, the picture out, made only once while there is room: in memory, on disk, on a device."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch

from vizsla.data.cache.device import DeviceStore
from vizsla.data.cache.disk import DiskStore, cache_folder, disk_use
from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, OutputError
from vizsla.machine import free_device_bytes, free_memory_bytes, shown_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vizsla.data.cache.key import PictureKey

CacheMode = Literal["auto", "memory", "disk", "off", "device"]
Kind = Literal["memory", "disk", "off", "device"]

SHARE_OF_FREE_MEMORY = {"auto": 0.25, "memory": 0.75}
"""The budget in memory where none is given, as a share of what is free when the cache is made."""

SHARE_OF_FREE_DEVICE = {"auto": 0.25, "device": 0.5}
"""The same for a device: the network and its gradients need the rest."""

STRIP_WINDOWS = 1.5
"""Length of a typical strip in windows: most photos are 4:3 or 3:2."""

_WORTH_KEEPING = 0.05
"""Share of the pictures; keeping fewer saves no time that anybody would notice."""


class Store(Protocol):
    """A place that keeps pictures."""

    budget_bytes: int

    def find(self, key: PictureKey) -> NDArray[np.uint8] | None:
        """Return the read-only picture of a key, or None."""
        ...

    def keep(self, key: PictureKey, picture: NDArray[np.uint8]) -> object:
        """Take a read-only picture, if there is room."""
        ...

    def describe(self) -> str:
        """Return how many pictures and bytes are kept, and where."""
        ...


class MemoryStore:
    """Pictures in the memory of this process, until the budget is used up. For any number of threads.

    Args:
        budget_bytes: At most so many bytes of pixels.
    """

    def __init__(self, *, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._used_bytes = 0
        self._pictures: dict[tuple[str, str], tuple[PictureKey, NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def find(self, key: PictureKey) -> NDArray[np.uint8] | None:
        """Return the picture of a key, or None; another state of the same file does not count."""
        known = self._pictures.get(key.slot)
        return known[1] if known is not None and known[0] == key else None

    def keep(self, key: PictureKey, picture: NDArray[np.uint8]) -> None:
        """Take a picture in the place of an earlier state of the same file, if there is room."""
        with self._lock:
            known = self._pictures.get(key.slot)
            if known is not None and known[0] == key:
                return
            if known is not None:
                del self._pictures[key.slot]
                self._used_bytes -= known[1].nbytes
            if self._used_bytes + picture.nbytes <= self.budget_bytes:
                self._pictures[key.slot] = (key, picture)
                self._used_bytes += picture.nbytes

    def describe(self) -> str:
        """Return what is kept where, for people."""
        return f"{len(self._pictures)} pictures, {self._used_bytes / 1e6:.1f} MB in memory"


class PictureCache:
    """Keeps prepared pictures until the budget is used up; later ones are made anew each time. For any number of threads.

    Args:
        mode: ``"memory"``: in this process. ``"disk"``: in files that later and other runs use too, least recently used
            ones replaced (``disk_cache.py``). ``"device"``: on the device that trains, where batches are then gathered.
            ``"off"``: nowhere. ``"auto"``: on a CUDA device if all expected pictures fit into a quarter of its free
            memory; else in memory if they fit into a quarter of that; else on disk likewise; else as many as fit in
            memory, or none if that would be less than one in twenty.
        budget_bytes: At most so many bytes of pixels; None is three quarters of the free memory, half of that of a
            device, a quarter of the free space of a disk.
        device: The device that trains.
        expected_bytes: What all pictures will take, as ``expected_bytes`` reckons; None is not known: then ``"auto"`` is
            memory.
        folder: Where mode disk keeps pictures; None is ``cache_folder()``.

    Raises:
        ConfigError: The mode is unknown, or the budget is negative.
        OutputError: ``"disk"`` was asked for and its folder cannot be written to.
    """

    def __init__(
        self,
        *,
        mode: CacheMode = "auto",
        budget_bytes: int | None = None,
        device: torch.device | str = "cpu",
        expected_bytes: int | None = None,
        folder: Path | None = None,
    ) -> None:
        if mode not in get_args(CacheMode):
            raise ConfigError(
                f"There is no cache mode {mode!r}. Use one of {', '.join(get_args(CacheMode))}."
            )
        if budget_bytes is not None and budget_bytes < 0:
            raise ConfigError(f"budget_bytes is at least 0. Received: {budget_bytes}")
        self.mode: CacheMode = mode
        self.kind: Kind
        self._store: Store | None
        device = torch.device(device)
        self._expected_bytes = expected_bytes
        if mode == "auto":
            self.kind, self._store = _chosen(
                budget_bytes, device=device, expected=expected_bytes, folder=folder
            )
        else:
            self.kind = mode
            self._store = _store(
                mode, budget_bytes, device=device, expected=expected_bytes, folder=folder
            )
        self.budget_bytes = 0 if self._store is None else self._store.budget_bytes

    def get(self, key: PictureKey, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the picture of a key, from the cache or freshly made.

        Args:
            key: What the pixels depend on.
            make: Makes the picture. It runs outside of the lock; its errors pass through and nothing is kept.

        Returns:
            uint8 array, read-only: it may be shared with others.
        """
        known = self.find(key)
        if known is not None:
            return known
        picture = make()
        self.keep(key, picture)
        return picture

    def find(self, key: PictureKey) -> NDArray[np.uint8] | None:
        """Return the picture of a key, read-only, or None if it is not kept."""
        return None if self._store is None else self._store.find(key)

    def keep(self, key: PictureKey, picture: NDArray[np.uint8]) -> None:
        """Make a picture read-only and take it, if there is room."""
        picture.setflags(write=False)
        if self._store is not None:
            self._store.keep(key, picture)

    @property
    def device_store(self) -> DeviceStore | None:
        """What gathers batches on the device, if this cache keeps pictures there."""
        return self._store if isinstance(self._store, DeviceStore) else None

    def describe(self) -> str:
        """Return one line for people: mode, number of pictures, where, bytes used and allowed."""
        expected = (
            "" if self._expected_bytes is None else f" ({shown_bytes(self._expected_bytes)} needed)"
        )
        if self._store is None:
            why = f", no room{expected}" if self.mode == "auto" else ""
            return f"cache {self.mode}{why}: every picture is decoded each time"
        return (
            f"cache {self.mode}: {self._store.describe()} "
            f"of at most {self.budget_bytes / 1e6:.1f} MB{expected if self.mode == 'auto' else ''}"
        )


def expected_bytes(resize: object, *, num_centred: int, num_strips: int) -> int | None:
    """Return about how many bytes pictures take once they are prepared; None where that depends on the pictures.

    Args:
        resize: What brings them to one size; known of ``Resize`` only.
        num_centred: Pictures prepared as in validation.
        num_strips: Pictures prepared as in training, taken to be ``STRIP_WINDOWS`` long where they are cropped.
    """
    if not isinstance(resize, Resize):
        return None
    long = STRIP_WINDOWS if resize.method == "crop" else 1.0
    return int(3 * resize.size[0] * resize.size[1] * (num_centred + long * num_strips))


def _store(
    kind: Kind,
    budget: int | None,
    *,
    device: torch.device,
    expected: int | None,
    folder: Path | None,
) -> Store | None:
    if kind == "off":
        return None
    if kind == "disk":
        return DiskStore(cache_folder() if folder is None else folder, budget_bytes=budget)
    if kind == "device":
        if budget is None:
            budget = int(SHARE_OF_FREE_DEVICE["device"] * free_device_bytes(device))
        return DeviceStore(device, budget_bytes=budget, expected_bytes=expected)
    if budget is None:
        budget = int(SHARE_OF_FREE_MEMORY["memory"] * free_memory_bytes())
    return MemoryStore(budget_bytes=budget)


def _chosen(
    budget: int | None, *, device: torch.device, expected: int | None, folder: Path | None
) -> tuple[Kind, Store | None]:
    """Return the fastest place where all expected pictures fit; see ``PictureCache``."""
    limit = 2**62 if budget is None else budget
    if device.type == "cuda" and expected is not None:
        room = min(limit, int(SHARE_OF_FREE_DEVICE["auto"] * free_device_bytes(device)))
        if expected <= room:
            return "device", DeviceStore(device, budget_bytes=room, expected_bytes=expected)
    room = min(limit, int(SHARE_OF_FREE_MEMORY["auto"] * free_memory_bytes()))
    if expected is None or expected <= room:
        return "memory", MemoryStore(budget_bytes=room)
    try:
        place = cache_folder() if folder is None else folder
        on_disk = min(limit, disk_use(place).budget_bytes)
        if expected <= on_disk * 15 // 16:
            return "disk", DiskStore(place, budget_bytes=on_disk)
    except (OutputError, ConfigError):
        pass  # Nobody asked for the disk.
    if room >= _WORTH_KEEPING * expected:
        return "memory", MemoryStore(budget_bytes=room)
    return "off", None
