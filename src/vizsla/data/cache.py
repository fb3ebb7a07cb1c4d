"""A key and a way to make a picture in, the picture out, made only once while there is room; uint8 arrays in memory."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from vizsla.data.decode import DECODER_VERSION
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

CacheMode = Literal["auto", "memory", "off"]

SHARE_OF_FREE_MEMORY = {"auto": 0.25, "memory": 0.75, "off": 0.0}
"""The budget of each mode where none is given, as a share of the memory that is free when the cache is made."""

_ASSUMED_FREE_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureKey:
    """Everything that the pixels of a prepared picture depend on; a changed file gets another key.

    Attributes:
        path: The file.
        num_bytes: Its size.
        modified_ns: When it was last written, nanoseconds since 1970.
        preparation: What is done to the picture after decoding, in words.
        decoder: Version of the decoder.
    """

    path: str
    num_bytes: int
    modified_ns: int
    preparation: str
    decoder: str = DECODER_VERSION

    @classmethod
    def of_file(cls, path: Path, *, preparation: str) -> PictureKey:
        """Return the key of a file as it is now.

        Args:
            path: The file.
            preparation: What is done to the picture after decoding, in words.

        Raises:
            OSError: There is no such file.
        """
        facts = path.stat()
        return cls(
            path=str(path),
            num_bytes=facts.st_size,
            modified_ns=facts.st_mtime_ns,
            preparation=preparation,
        )


class PictureCache:
    """Keeps prepared pictures until the budget is used up; later ones are made anew each time. For any number of threads.

    Args:
        mode: ``"auto"`` and ``"memory"`` keep pictures in memory, in a quarter or in three quarters of what is free
            (``SHARE_OF_FREE_MEMORY``); ``"off"`` keeps none.
        budget_bytes: At most so many bytes of pixels instead; None follows the mode.

    Raises:
        ConfigError: The mode is unknown, or the budget is negative.
    """

    def __init__(self, *, mode: CacheMode = "auto", budget_bytes: int | None = None) -> None:
        if mode not in get_args(CacheMode):
            raise ConfigError(
                f"There is no cache mode {mode!r}. Use one of {', '.join(get_args(CacheMode))}."
            )
        if budget_bytes is not None and budget_bytes < 0:
            raise ConfigError(f"budget_bytes is at least 0. Received: {budget_bytes}")
        if mode == "off":
            budget_bytes = 0
        elif budget_bytes is None:
            budget_bytes = int(SHARE_OF_FREE_MEMORY[mode] * free_memory_bytes())
        self.mode: CacheMode = mode
        self.budget_bytes = budget_bytes
        self._used_bytes = 0
        self._pictures: dict[PictureKey, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def get(self, key: PictureKey, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the picture of a key, from the cache or freshly made.

        Args:
            key: What the pixels depend on.
            make: Makes the picture. It runs outside of the lock; its errors pass through and nothing is kept.

        Returns:
            uint8 array, read-only: it may be shared with others.
        """
        with self._lock:
            known = self._pictures.get(key)
        if known is not None:
            return known
        picture = make()
        picture.setflags(write=False)
        with self._lock:
            if key not in self._pictures and self._used_bytes + picture.nbytes <= self.budget_bytes:
                self._pictures[key] = picture
                self._used_bytes += picture.nbytes
        return picture

    def describe(self) -> str:
        """Return one line for people: mode, number of pictures, bytes used and allowed."""
        if self.mode == "off":
            return "cache off: every picture is decoded each time"
        return (
            f"cache {self.mode}: {len(self._pictures)} pictures, {self._used_bytes / 1e6:.1f} MB in memory "
            f"of at most {self.budget_bytes / 1e6:.1f} MB"
        )


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return how much memory a program may take now without harm.

    On Linux it is what the kernel calls available, or less where a control group (a container) sets a limit. Elsewhere
    it is half of the machine's memory, and 4 GiB where even that is not known.

    Args:
        root: Where the system's files lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(int(available.split()[1]) * 1024, _left_in_control_group(root))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return _ASSUMED_FREE_BYTES


def _left_in_control_group(root: Path) -> int:
    """Return what control groups (version 2) leave to this program; a huge number where there is no limit."""
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return 2**62
        used = int((group / "memory.current").read_text())
        files = [
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        ]
        return max(0, int(limit) - used + sum(files))
    except (OSError, ValueError, IndexError):
        return 2**62
