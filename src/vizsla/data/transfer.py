"""The address of a file in, its bytes in a part file out; a dropped connection is taken up where it ended.

Beside ``NAME.part`` a ``NAME.part.json`` says which version of the file it is a part of (its ETag or date, as the server
named it), so that parts of two versions are never put together.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from http import HTTPStatus
from http.client import HTTPException
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from vizsla import __version__
from vizsla.data.room import free_disk_bytes, shown_bytes
from vizsla.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vizsla.data.transfer_bar import TransferBar

_TIMEOUT_SECONDS = 30.0
_BLOCK = 2**18
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)$")


class _DroppedError(Exception):
    """Why a try failed that may succeed later."""


class _OfNoUseError(Exception):
    """What came so far is of no use to a later call.

    Args:
        error: What to raise.
    """

    def __init__(self, error: DataError | OutputError) -> None:
        super().__init__(str(error))
        self.error = error


def fetch(
    url: str, part: Path, *, size: int | None, pauses_seconds: Sequence[float], bar: TransferBar
) -> None:
    """Fill a part file, in as many tries as it takes; what is there from an earlier call is gone on with.

    Args:
        url: ``http`` or ``https``.
        part: The file; its folder must exist.
        size: In bytes, if it is known.
        pauses_seconds: Waits before each new try; a try that brings any bytes starts over from the first.
        bar: Shows it.

    Raises:
        DataError: The server does not give it, or gives another size. Only after a connection that kept breaking the
            part file stays, for a later call to go on with.
        OutputError: It cannot be written, or the disk has no room for it.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            _try_once(url, part, size=size, bar=bar)
            return
        except _DroppedError as drop:
            failures = 0 if _size(part) > before else failures
            if failures >= len(pauses_seconds):
                raise _gave_up(url, part, drop, tries=failures + 1) from drop
            bar.line(f"{drop}; trying again in {pauses_seconds[failures]:g} s")
            time.sleep(pauses_seconds[failures])
            failures += 1
        except _OfNoUseError as failure:
            forget(part)
            raise failure.error from failure.error.__cause__


def forget(part: Path) -> None:
    """Remove a part file and what is known of it."""
    for path in (part, _note_path(part)):
        path.unlink(missing_ok=True)


def unlike(url: str, why: str) -> DataError:
    """Return the error for a file that is not the expected one."""
    return DataError(
        f"The file from {url} is not the one that was expected: {why}. It is not used. The transfer may have been "
        "tampered with, or the file was replaced. Try again; if you have the file from elsewhere, give its address as "
        "file:///PATH."
    )


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a path that the system does not let us write."""
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}. Free some space, or choose another place; "
        "VIZSLA_HOME names the folder that is used."
    )


def _try_once(url: str, part: Path, *, size: int | None, bar: TransferBar) -> None:
    validator = _validator(part, url)
    start = 0 if validator is None else _size(part)
    headers = {"User-Agent": f"vizsla/{__version__}", "Accept-Encoding": "identity"}
    if validator is not None and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        response = _open(Request(url, headers=headers))
    except HTTPError as error:
        with error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _status_error(url, error) from error
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # it was whole already
            forget(part)
            raise _DroppedError("The server has not as much as was begun with") from error
    with response:
        start = _continued_at(response, start)
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        _check_announced(url, part, total=total, start=start, size=size)
        if not start:
            _begin(part, url=url, headers=response.headers)
        _copy(
            response, part, start=start, total=total, most=total if size is None else size, bar=bar
        )


def _open(request: Request) -> Any:
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        _SafeRedirects(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError:
        raise
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"Cannot download {request.full_url}: the server's certificate is not valid ({error.reason}). "
                "Check the address, and the certificates of this system."
            ) from error
        raise _DroppedError(f"No connection to {request.host} ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _DroppedError(f"No answer from {request.host} ({error})") from error


class _SafeRedirects(HTTPRedirectHandler):
    """Follows a server that says a file is elsewhere, but never to other kinds of addresses or out of https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DataError(
                f"Cannot download {req.full_url}: the server sends to {newurl!r}, which is not a safe address."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _status_error(url: str, error: HTTPError) -> Exception:
    if error.code in _TEMPORARY_STATUS:
        return _DroppedError(f"The server answered {error.code} ({error.reason})")
    return DataError(
        f"Cannot download {url}: the server answered {error.code} ({error.reason}). Check the address."
    )


def _gave_up(url: str, part: Path, drop: _DroppedError, *, tries: int) -> DataError:
    end = "Check the connection, and try again later."
    if _size(part) == 0 or _validator(part, url) is None:
        forget(part)
    else:
        end = f"{shown_bytes(_size(part))} are kept; check the connection, and call it again to go on from there."
    return DataError(f"Cannot download {url}: {drop}; {tries} tries were made. {end}")


def _continued_at(response: Any, start: int) -> int:
    """Return from which byte on the server sends: ``start`` if it agreed, else 0."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range") or "")
    if match is None or int(match[1]) != start:
        raise _DroppedError("The server sent another part than was asked for")
    return start


def _check_announced(
    url: str, part: Path, *, total: int | None, start: int, size: int | None
) -> None:
    """Refuse, before it is transferred, what cannot be right or has no room."""
    if total is None:
        return
    if size is not None and total != size:
        raise _OfNoUseError(unlike(url, f"it has {total:,} bytes, not {size:,}"))
    try:
        free = free_disk_bytes(part.parent)
    except OSError as error:
        raise unwritable(part.parent, error) from error
    if total - start > free:
        raise OutputError(
            f"Cannot download {url} to {part.parent}: it takes {shown_bytes(total - start)}, and {shown_bytes(free)} are "
            "free there. Free some space, or set VIZSLA_HOME to a folder on another disk."
        )


def _copy(
    response: Any, part: Path, *, start: int, total: int | None, most: int | None, bar: TransferBar
) -> None:
    done = start
    try:
        file = part.open("ab" if start else "wb", buffering=0)
    except OSError as error:
        raise _unwritable_part(part, error) from error
    with file:
        while True:
            try:
                data = response.read1(_BLOCK)
            except (OSError, HTTPException) as error:
                raise _DroppedError(f"The connection broke after {done:,} bytes") from error
            if not data:
                break
            done += len(data)
            if most is not None and done > most:
                raise _OfNoUseError(unlike(response.url, f"it has more than {most:,} bytes"))
            try:
                _write_all(file, data)
            except OSError as error:
                raise _unwritable_part(part, error) from error
            bar.move(done, total)
    if total is not None and done < total:
        raise _DroppedError(f"The connection ended after {done:,} of {total:,} bytes")


def _write_all(file: Any, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _begin(part: Path, *, url: str, headers: Any) -> None:
    """Throw away what was there and note which version begins now, if the server says it."""
    forget(part)
    tag = headers.get("ETag")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    if version:
        try:
            _note_path(part).write_text(json.dumps({"url": url, "version": version}), "utf-8")
        except OSError as error:
            raise _unwritable_part(part, error) from error


def _unwritable_part(part: Path, error: OSError) -> _OfNoUseError:
    failure = unwritable(part, error)
    failure.__cause__ = error
    return _OfNoUseError(failure)


def _validator(part: Path, url: str) -> str | None:
    """Return what the server called the version that the part file is of."""
    try:
        note: Any = json.loads(_note_path(part).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("url") != url:
        return None
    version = note.get("version")
    return version if isinstance(version, str) and version.isprintable() else None
