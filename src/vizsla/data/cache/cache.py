"""Keep prepared images so that each is decoded and presized once: in memory, on disk, on the device that trains, or nowhere."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from vizsla.data.cache.device import DeviceStore
from vizsla.data.cache.disk import DiskStore, cache_folder, disk_use
from vizsla.data.images.decode import DECODER_VERSION
from vizsla.data.storage.storage import absolute, facts_of
from vizsla.errors import ConfigError, OutputError
from vizsla.machine import free_device_bytes, free_memory_bytes, shown_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.data.images.sizing import Pixels, Sizing
    from vizsla.data.storage.storage import Facts

CacheMode = Literal["auto", "memory", "disk", "off", "device"]

SHARE_OF_FREE_MEMORY = {"auto": 0.25, "memory": 0.75}
"""The default budget in memory, as a share of what is free when the cache is made."""

SHARE_OF_FREE_DEVICE = {"auto": 0.25, "device": 0.5}
"""The same for a device: the network and its gradients need the rest."""

_WORTH_KEEPING = 0.05
"""Share of the images; keeping fewer saves no noticeable time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageKey:
    """Everything that the pixels of a prepared image depend on; a changed file gets another key."""

    path: str  # Absolute.
    num_bytes: int
    modified_ns: int  # When the file was last written, nanoseconds since 1970.
    preparation: str  # What is done to the image after decoding, in words.
    decoder: str = DECODER_VERSION

    @classmethod
    def of_file(cls, path: Path | str, *, preparation: str) -> ImageKey:
        """Return the key of a file as it is now; raise an OSError if there is no such file."""
        num_bytes, modified_ns = facts_of(path)
        return cls(
            path=absolute(path),
            num_bytes=num_bytes,
            modified_ns=modified_ns,
            preparation=preparation,
        )

    def fits(self, facts: Facts) -> bool:
        """Whether the file still has the size and time of this key."""
        return facts == (self.num_bytes, self.modified_ns)

    @property
    def slot(self) -> tuple[str, str]:
        """The file and its preparation: what stays the same when the file changes."""
        return self.path, self.preparation


class MemoryStore:
    """Images in the memory of this process, until the budget is used up. Safe for any number of threads."""

    def __init__(self, *, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._used_bytes = 0
        self._images: dict[tuple[str, str], tuple[ImageKey, Pixels]] = {}
        self._lock = threading.Lock()

    def find(self, key: ImageKey) -> Pixels | None:
        """Return the image of a key, or None; an earlier state of the same file does not count."""
        known = self._images.get(key.slot)
        return known[1] if known is not None and known[0] == key else None

    def keep(self, key: ImageKey, pixels: Pixels) -> None:
        """Take an image in the place of an earlier state of the same file, if there is room."""
        with self._lock:
            known = self._images.get(key.slot)
            if known is not None and known[0] == key:
                return
            if known is not None:
                del self._images[key.slot]
                self._used_bytes -= known[1].nbytes
            if self._used_bytes + pixels.nbytes <= self.budget_bytes:
                self._images[key.slot] = (key, pixels)
                self._used_bytes += pixels.nbytes

    def describe(self) -> str:
        """Return how many images and bytes are kept, and where."""
        return f"{len(self._images)} images, {self._used_bytes / 1e6:.1f} MB in memory"


class ImageCache:
    """Keeps prepared images until the budget is used up; later ones are decoded each time. Safe for any number of threads.

    Args:
        mode: ``"memory"``: in this process. ``"disk"``: in files that later and other runs use too, the least recently used
            ones replaced (``disk.py``). ``"device"``: on the device that trains, where batches are then gathered.
            ``"off"``: nowhere. ``"auto"``: on a CUDA device if all expected images fit into a quarter of its free
            memory; else in memory if they fit into a quarter of that; else on disk likewise; else as many as fit in
            memory, or none if that would be less than one in twenty.
        budget_bytes: Most bytes of pixels; None is three quarters of the free memory, half of that of a device, a quarter of
            the free space of a disk.
        device: The device that trains.
        expected_bytes: What all images will take, from ``expected_bytes``; None if unknown: then ``"auto"`` is memory.
        folder: Where mode disk keeps images; None is ``cache_folder()``.

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
            raise ConfigError(f"budget_bytes must be at least 0. Received: {budget_bytes}")
        self.mode: CacheMode = mode
        self._expected_bytes = expected_bytes
        self._store = _open_store(
            mode, budget_bytes, torch.device(device), expected=expected_bytes, folder=folder
        )
        self.budget_bytes = 0 if self._store is None else self._store.budget_bytes

    def find(self, key: ImageKey) -> Pixels | None:
        """Return the read-only image of a key, or None if it is not kept."""
        return None if self._store is None else self._store.find(key)

    def keep(self, key: ImageKey, pixels: Pixels) -> None:
        """Make an image read-only, and take it if there is room."""
        pixels.setflags(write=False)
        if self._store is not None:
            self._store.keep(key, pixels)

    @property
    def device_store(self) -> DeviceStore | None:
        """What gathers batches on the device, if this cache keeps images there."""
        return self._store if isinstance(self._store, DeviceStore) else None

    def describe(self) -> str:
        """Return one line to read: mode, number of images, where, bytes used and allowed."""
        expected = (
            "" if self._expected_bytes is None else f" ({shown_bytes(self._expected_bytes)} needed)"
        )
        if self._store is None:
            why = f", not enough room{expected}" if self.mode == "auto" else ""
            return f"cache {self.mode}{why}: every image is decoded each time"
        return (
            f"cache {self.mode}: {self._store.describe()} "
            f"of at most {self.budget_bytes / 1e6:.1f} MB{expected if self.mode == 'auto' else ''}"
        )


def expected_bytes(sizing: Sizing | None, *, num_centred: int, num_strips: int) -> int | None:
    """Return about how many bytes images take once they are prepared; None if that depends on the images.

    ``num_centred`` are prepared as in validation, ``num_strips`` as in training.
    """
    size, num_windows = (None, None) if sizing is None else (sizing.size, sizing.num_windows())
    if size is None or num_windows is None:
        return None
    return int(3 * size[0] * size[1] * (num_centred + num_windows * num_strips))


def _open_store(
    mode: CacheMode,
    budget: int | None,
    device: torch.device,
    *,
    expected: int | None,
    folder: Path | None,
) -> MemoryStore | DiskStore | DeviceStore | None:
    """Return the store of a mode; for ``"auto"`` the fastest in which all expected images fit, see ``ImageCache``."""
    if mode == "off":
        return None
    if mode == "disk":
        return DiskStore(cache_folder() if folder is None else folder, budget_bytes=budget)
    if mode == "device":
        if budget is None:
            budget = int(SHARE_OF_FREE_DEVICE[mode] * free_device_bytes(device))
        return DeviceStore(device, budget_bytes=budget, expected_bytes=expected)
    if mode == "memory":
        if budget is None:
            budget = int(SHARE_OF_FREE_MEMORY[mode] * free_memory_bytes())
        return MemoryStore(budget_bytes=budget)
    limit = 2**62 if budget is None else budget
    if device.type == "cuda" and expected is not None:
        room = min(limit, int(SHARE_OF_FREE_DEVICE[mode] * free_device_bytes(device)))
        if expected <= room:
            return DeviceStore(device, budget_bytes=room, expected_bytes=expected)
    room = min(limit, int(SHARE_OF_FREE_MEMORY[mode] * free_memory_bytes()))
    if expected is None or expected <= room:
        return MemoryStore(budget_bytes=room)
    try:
        place = cache_folder() if folder is None else folder
        on_disk = min(limit, disk_use(place).budget_bytes)
        if expected <= on_disk * 15 // 16:
            return DiskStore(place, budget_bytes=on_disk)
    except (OutputError, ConfigError):
        pass  # Nobody asked for the disk.
    return MemoryStore(budget_bytes=room) if room >= _WORTH_KEEPING * expected else None
