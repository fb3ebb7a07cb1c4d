"""A machine in, how many bytes may be taken of its memory, disk and device out; and numbers of bytes as people write them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch

from vizsla.errors import ConfigError

_ASSUMED_FREE_BYTES = 4 * 2**30
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_NUM_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)\s*", re.IGNORECASE)


def parse_bytes(text: int | str, *, option: str) -> int:
    """Return a number of bytes that was written as ``4GB``, ``500 MB``, ``1.5GiB`` or plainly.

    Args:
        text: What was written. kB, MB, GB, TB are powers of 1000, KiB to TiB of 1024; the B may be missing.
        option: Name of the option, for the message.

    Raises:
        ConfigError: It is no number of bytes.
    """
    match = _NUM_BYTES.fullmatch(str(text))
    if match is None or (match[3] and not match[2]):
        raise ConfigError(
            f"{option} is a number of bytes such as 500MB, 4GB or 1.5GiB. Received: {text!r}"
        )
    unit = match[2].lower()
    return int(float(match[1]) * (_BINARY_UNITS if match[3] else _UNITS)[unit])


def shown_bytes(num_bytes: int) -> str:
    """Return a number of bytes for people: ``"3.2 GB"``, ``"0.4 MB"``."""
    if num_bytes >= 10**9:
        return f"{num_bytes / 1e9:,.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"


def home_folder() -> Path:
    """Return the folder that vizsla keeps things in between runs: ``$VIZSLA_HOME``, else ``~/.vizsla``; it may not exist.

    Raises:
        ConfigError: ``VIZSLA_HOME`` is not set and the user has no home folder.
    """
    chosen = os.environ.get("VIZSLA_HOME")
    if chosen:
        return Path(chosen).absolute()
    try:
        return Path.home() / ".vizsla"
    except RuntimeError as error:
        raise ConfigError(
            "There is no home folder to keep files in. Set VIZSLA_HOME to a folder."
        ) from error


def free_disk_bytes(folder: Path) -> int:
    """Return the free space of the disk that a folder is on, or will be on once it is made.

    Raises:
        OSError: The disk does not tell.
    """
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    return shutil.disk_usage(existing).free


def free_device_bytes(device: torch.device) -> int:
    """Return how much memory of a device may be taken now; of the CPU's and Apple's it is that of the machine."""
    if device.type != "cuda":
        return free_memory_bytes()
    free, _total = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + idle


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
