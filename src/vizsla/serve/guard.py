"""Check each request before the application sees it: who is asking, how long it may take, what browsers may do.

Three kinds of attack come through a visitor's own browser, from someone else's page. Such a page may call this machine by its own
name (DNS rebinding), which the Host check finds; it may send a form here without reading the answer, which the Origin check
finds; and it may frame the page, which the headers forbid. No other site may read answers (there is no CORS).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from starlette.responses import Response

from vizsla.serve.limits import RefusedError
from vizsla.serve.log import note_fault, note_request
from vizsla.text import valid_unicode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
    from typing import Any

    from starlette.requests import Request

    from vizsla.serve.limits import Limits
    from vizsla.serve.metrics import Metrics

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HostNames:
    """The names of a server.

    Attributes:
        names: Names of this machine, lower case.
        any_address: Whether any IP address is accepted too: a page cannot rebind one.
    """

    names: Collection[str] = LOOPBACK_NAMES
    any_address: bool = False


class Guard:
    """Refuses bad requests, sets headers on answers, holds each request to its time, and counts.

    Requests are counted by their path if it is one of ``routes``, else as ``other``.
    """

    def __init__(
        self,
        application: Application,
        *,
        limits: Limits,
        metrics: Metrics,
        routes: Collection[str],
        names: HostNames,
    ) -> None:
        self._application = application
        self._limits = limits
        self._metrics = metrics
        self._routes = frozenset(routes)
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event, as ASGI defines it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_headers(message.get("headers", ()))}
            await send(message)

        try:
            async with asyncio.timeout(self._limits.seconds):
                self._check(scope)
                await self._application(scope, receive, guarded_send)
        except RefusedError as refused:
            await refusal(refused)(scope, receive, guarded_send)
        except TimeoutError:
            if status == 0:
                refused = RefusedError(
                    503,
                    f"The answer took longer than {self._limits.seconds:g} seconds. Try again later, with less.",
                    retry_seconds=5,
                )
                answer = refusal(refused)
                answer.headers["connection"] = "close"  # The rest of its body is not waited for.
                await answer(scope, receive, guarded_send)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is logged, and the visitor gets an answer)
            refused = note_fault(error, scope)
            if status == 0:
                await refusal(refused)(scope, receive, guarded_send)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            seconds = time.monotonic() - started
            self._metrics.note_request(route, status=status, seconds=seconds)
            note_request(scope, status=status, seconds=seconds)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}  # fmt: skip
        host, _ = _address_in(f"//{headers.get('host', '')}")
        known = self._names
        if host not in known.names and not (known.any_address and _is_address(host)):
            raise RefusedError(
                421,
                "This server does not have that name. Use its address, or start it with --allowed-host NAME.",
            )
        if scope["method"] in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        foreign = origin is not None and _address_in(origin) != _address_in(f"//{headers['host']}")
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise RefusedError(403, "Pages of other sites cannot send images to this server.")


def check_token(request: Request, token: str, *, command: str) -> None:
    """Raise RefusedError unless a request has the token: in a header, or, for what a page shows, in its address."""
    given = request.headers.get("x-token") or request.query_params.get("token", "")
    if not secrets.compare_digest(given.encode(), token.encode()):
        raise RefusedError(403, f"Open the whole address that {command} printed; it ends with a token that is needed here.")  # fmt: skip


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response, in ASCII; names that are not valid Unicode, which JSON cannot hold, are shown with escapes."""
    text = json.dumps(_in_unicode(msgspec.to_builtins(value)), separators=(",", ":"))
    return Response(text, status_code=status, headers=headers, media_type="application/json")


def _in_unicode(value: Any) -> Any:
    if isinstance(value, dict):
        return {valid_unicode(name): _in_unicode(one) for name, one in value.items()}
    if isinstance(value, list):
        return list(map(_in_unicode, value))
    return valid_unicode(value) if isinstance(value, str) else value


def refusal(refused: RefusedError) -> Response:
    """Return the answer to a refused request."""
    again = refused.retry_seconds
    headers = None if again is None else {"retry-after": str(again)}
    return json_response({"error": refused.message}, status=refused.status, headers=headers)


def raw_refusal(refused: RefusedError) -> bytes:
    """Return the whole answer to a client whose request does not reach the application; the connection is then closed."""
    answer = refusal(refused)
    answer.headers["connection"] = "close"
    lines = [f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}".encode()]
    lines += [b": ".join(header) for header in _with_headers(answer.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])


def _with_headers(headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
    return [*headers, *((name, value) for name, value in added if name not in present)]


def _address_in(url: str) -> tuple[str, int | None]:
    """Return name, lower case and without brackets, and port of an address; ``("", None)`` if it is none."""
    try:
        found = urlsplit(url)
        return (found.hostname or "").rstrip("."), found.port
    except ValueError:
        return "", None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
