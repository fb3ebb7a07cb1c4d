"""The address of a file in, the whole and checked file on the disk out, or an error and nothing that looks like it.

What arrives goes into ``NAME.part`` (``transfer.py``); only a file of the right size and SHA-256 gets its name. Where no
SHA-256 is known, that of the first download is written down in ``NAME.sha256.json``, and later downloads are held to it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vizsla.data.lock import locked
from vizsla.data.problems import quoted
from vizsla.data.room import shown_bytes
from vizsla.data.transfer import fetch, forget, unlike, unwritable
from vizsla.data.transfer_bar import say, transfer_bar
from vizsla.errors import ConfigError, DataError
from vizsla.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before each new try after a dropped connection; a try that brings any bytes starts over from the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is known of a file before it is there.

    Attributes:
        size: In bytes; None if unknown.
        sha256: In hexadecimal; None if unknown.
    """

    size: int | None = None
    sha256: str | None = None


def download(
    url: str,
    target: Path,
    *,
    expected: Expected | None = None,
    force: bool = False,
    quiet: bool = False,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> Path:
    """Bring a file from the internet to a place on the disk.

    Calls for one target at the same time, from any process, wait for each other.

    Args:
        url: An ``http``, ``https`` or ``file`` address.
        target: Where it goes; its folder is made. A ``file`` address is used where it is, and nothing is written.
        expected: Its size and SHA-256, if they are known.
        force: Download it even if it is there; what is there stays until the new one is whole.
        quiet: Say nothing.
        pauses_seconds: Waits before each new try after a dropped connection.

    Returns:
        ``target``, or the path of a ``file`` address.

    Raises:
        ConfigError: It is another kind of address.
        DataError: It cannot be had, or is not what was expected. What came of it is removed, except the beginning of a
            file that a later call can go on with.
        OutputError: It cannot be written; what came of it is removed.

    Example:
        >>> download("https://example.com/pets.tgz", Path("pets.tgz"), expected=Expected(size=811706944))
    """
    expected = expected or Expected()
    local = local_path(url)
    if local is not None:
        _checked(local, url=url, expected=expected, recorded=None)
        return local
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    waiting = f"Another program is downloading {target.name}; waiting for it."
    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, on_wait=lambda: say(waiting, quiet=quiet)):
        recorded = _recorded(target, url)
        if target.exists() and not force:
            try:
                _checked(target, url=url, expected=expected, recorded=recorded)
            except DataError:
                say(
                    f"{target} is damaged or of another version; downloading it again.", quiet=quiet
                )
            else:
                return target
        _download_now(
            url, target, expected=expected, recorded=recorded, quiet=quiet, pauses=pauses_seconds
        )
    return target


def local_path(url: str) -> Path | None:
    """Return the path of a ``file`` address, or None for one of the internet.

    Args:
        url: An address.

    Raises:
        ConfigError: It is another kind of address, or names a file of another machine.
        DataError: There is no such file.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ConfigError(
            "An address begins with https://, http:// or file:/// (Path(...).absolute().as_uri() gives the last). "
            f"Received: {url!r}"
        )
    path = Path(url2pathname(parts.path))
    if not path.is_file():
        raise DataError(f"There is no file {quoted(path)}. Check the address {url!r}.")
    return path


def _download_now(
    url: str,
    target: Path,
    *,
    expected: Expected,
    recorded: str | None,
    quiet: bool,
    pauses: Sequence[float],
) -> None:
    part = target.with_name(f"{target.name}.part")
    say(f"Downloading {url} to {target}", quiet=quiet)
    with transfer_bar(f"Downloading {target.name}", quiet=quiet) as bar:
        fetch(url, part, size=expected.size, pauses_seconds=pauses, bar=bar)
    try:
        found = _checked(part, url=url, expected=expected, recorded=recorded)
        if expected.sha256 is None and recorded is None:
            _record(target, url=url, found=found, quiet=quiet)
        os.replace(part, target)  # noqa: PTH105 (Path.replace says less: its error lacks the target on some systems)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        forget(part)


def _checked(path: Path, *, url: str, expected: Expected, recorded: str | None) -> Expected:
    """Return size and SHA-256 of a file that is as expected."""
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        raise unlike(url, f"it has {size:,} bytes, not {expected.size:,}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known = recorded if expected.sha256 is None else expected.sha256.lower()
    if known is not None and sha256 != known:
        when = " as when it was first downloaded" if expected.sha256 is None else ""
        raise unlike(url, f"its SHA-256 is {sha256}, not {known}{when}")
    return Expected(size=size, sha256=sha256)


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256.json")


def _recorded(target: Path, url: str) -> str | None:
    """Return the SHA-256 that a file from this address had when it first came."""
    try:
        record: Any = json.loads(_record_path(target).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read {_record_path(target)}, which says what {target.name} was like when it first came: {error}. "
            "Delete it to trust the next download."
        ) from error
    same = isinstance(record, dict) and record.get("url") == url
    return str(record["sha256"]) if same and "sha256" in record else None


def _record(target: Path, *, url: str, found: Expected, quiet: bool) -> None:
    path = _record_path(target)
    record = {
        "url": url,
        "size": found.size,
        "sha256": found.sha256,
        "first_downloaded": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    say(
        f"No check sum is known for {url}. What came ({shown_bytes(found.size or 0)}, SHA-256 {found.sha256}) is noted "
        f"in {path}; later downloads must be the same.",
        quiet=quiet,
    )
