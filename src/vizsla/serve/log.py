"""What a server writes to standard error: one JSON object a line, in ASCII, and few enough that visitors cannot fill a disk.

Names and headers of visitors are in these lines; as JSON in ASCII they hold nothing that a terminal would obey.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import TYPE_CHECKING, Literal, TextIO

from vizsla.errors import VizslaError, is_out_of_memory
from vizsla.serve.limits import RefusedError
from vizsla.text import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any

LogLevel = Literal["debug", "info", "warning", "error", "critical"]

_FIELDS = ("id", "client", "method", "path", "status", "seconds", "left_out")
_LONGEST_TEXT = 2_000  # Characters of a path or message.
_LONGEST_TRACEBACK = 20_000
_LINES_AT_ONCE, _SECONDS_FOR_LINE = 20, 3.0
"""Lines about faults that are written at once, and how long until there may be another: 1,200 an hour at most."""

_faults = logging.getLogger("vizsla.serve")
_requests = logging.getLogger("vizsla.serve.access")


def configure(*, level: LogLevel, access: bool) -> None:
    """Send the server's own lines and those of uvicorn to standard error; lines about requests only on demand."""
    few, every = logging.StreamHandler[TextIO](), logging.StreamHandler[TextIO]()
    few.addFilter(FewLines())
    # Not by logging.config, which closes the handlers of all other libraries; absl's takes standard error along.
    for name, handler, least in (
        ("vizsla.serve", few, level.upper()),
        ("uvicorn", few, level.upper()),
        ("vizsla.serve.access", every, "INFO" if access else "CRITICAL"),
    ):
        handler.setFormatter(JsonLines())
        logger = logging.getLogger(name)
        for earlier in tuple(logger.handlers):
            logger.removeHandler(earlier)
        logger.addHandler(handler)
        logger.setLevel(least)
        logger.propagate = False
    logging.getLogger("python_multipart").setLevel("CRITICAL")  # damaged forms get their answer


class JsonLines(logging.Formatter):
    """One JSON object for each record: time, level, message, what is known of the request, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage()[:_LONGEST_TEXT],
        }
        known = {name: record.__dict__[name] for name in _FIELDS if name in record.__dict__}
        if record.exc_info:
            known["traceback"] = self.formatException(record.exc_info)[-_LONGEST_TRACEBACK:]
        return json.dumps(values | known)


class FewLines(logging.Filter):
    """Lets some lines through at once and then one every few seconds; the next one says how many were left out."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._left, self._since = float(_LINES_AT_ONCE), clock()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written."""
        now = self._clock()
        earned = (now - self._since) / _SECONDS_FOR_LINE
        self._left, self._since = min(_LINES_AT_ONCE, self._left + earned), now
        if self._left < 1:
            self._left_out += 1
            return False
        self._left -= 1
        if self._left_out:
            record.left_out, self._left_out = self._left_out, 0
        return True


def note_request(scope: MutableMapping[str, Any], *, status: int, seconds: float) -> None:
    """Log a request, if that was asked for."""
    if _requests.isEnabledFor(logging.INFO):
        extra = {**_about(scope), "status": status, "seconds": round(seconds, 4)}
        _requests.info("request", extra=extra)


def note_fault(error: Exception, scope: MutableMapping[str, Any]) -> RefusedError:
    """Log an error that nobody expected, with its traceback, and return the answer; both have the same id."""
    number = secrets.token_hex(4)
    _faults.error(
        "%s: %s", type(error).__name__, first_line(error), exc_info=error, extra={"id": number, **_about(scope)}
    )  # fmt: skip
    if is_out_of_memory(error):
        message = "There was not enough memory for this request. Send fewer or smaller images, or try again later."
        return RefusedError(503, f"{message} (id {number})", retry_seconds=5)
    message = (
        str(error) if isinstance(error, VizslaError) else "The server failed; its log says why."
    )
    return RefusedError(500, f"{message} (id {number})")


def _about(scope: MutableMapping[str, Any]) -> dict[str, object]:
    client = scope.get("client")
    return {
        "client": client[0] if client else "",
        "method": scope["method"],
        "path": scope["path"][:_LONGEST_TEXT],
    }
