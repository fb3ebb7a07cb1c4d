"""The limits of a server, and the counting that enforces them: request rates, places for requests, shares of a budget.

Everything here is used from one event loop only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import Counter, OrderedDict, deque
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

_MOST_CLIENTS = 10_000
_MOST_TURNED_AWAY = 128  # Connections without a place that are still being told so.
_BURST_SECONDS = 2.0
_IPV6_NETWORK_BITS = 64  # Whoever has one such address has the whole network.


DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What browsers show and cameras write; the decoders of the others are younger, and met far less."""

FURTHER_FORMATS = {
    "tiff": "TIFF",
    "avif": "AVIF",
    "heic": "HEIF",
    "jpeg2000": "JPEG2000",
    "ppm": "PPM",
    "ico": "ICO",
}
"""Formats by the names of the option ``--formats``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        body_bytes: Largest request.
        pixels: Largest image; larger ones are refused by their header, before they are decoded.
        formats: Formats of images, as Pillow calls them.
        images: Images per request.
        requests_per_second: Predictions for one client (an IPv4 address or an IPv6 /64 network), with bursts of two seconds'
            worth; 0 is any number.
        seconds: Time of one request, from its headers to the last byte of the answer.
        requests: Predictions in progress at once; more are asked to try again.
        buffered_bytes: Bodies of all requests in progress together; more are asked to try again.
        chunks: Parts in which a body of unknown length may be sent; 20 MB in pieces of 1 kB are 20,000.
        connections: Open connections.
        connections_per_client: Those of one client; behind a proxy all have the proxy's address.
        header_seconds: Time from the opening of a connection, or the end of an answer, to the next request's headers.
        stop_seconds: Time that requests in progress have when the server is told to stop.

    Raises:
        ConfigError: A number is negative, or 0 where that makes no sense.
    """

    body_bytes: int = 20_000_000
    pixels: int = 50_000_000
    formats: tuple[str, ...] = DEFAULT_FORMATS
    images: int = 32
    requests_per_second: float = 50.0
    seconds: float = 30.0
    requests: int = 128
    buffered_bytes: int = 256_000_000
    chunks: int = 25_000
    connections: int = 512
    connections_per_client: int = 128
    header_seconds: float = 10.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "formats":
                continue
            value = getattr(self, field.name)
            lowest_is_zero = field.name == "requests_per_second"
            if not math.isfinite(value) or value < 0 or (value == 0 and not lowest_is_zero):
                least = "0 or more" if lowest_is_zero else "above 0"
                raise ConfigError(
                    f"The limit {field.name} is a number {least}. Received: {value!r}"
                )
        if self.buffered_bytes < self.body_bytes:
            raise ConfigError(
                "The limit buffered_bytes holds at least one body. "
                f"Received: buffered_bytes={self.buffered_bytes}, body_bytes={self.body_bytes}"
            )


def formats_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the formats that are taken, of the names of further ones, each maybe several with commas between them.

    Raises:
        ConfigError: There is no such format.
    """
    named = [name.strip().lower() for text in names for name in text.split(",")]
    for name in named:
        if name not in FURTHER_FORMATS:
            raise ConfigError(
                f"--formats takes {', '.join(FURTHER_FORMATS)}; JPEG, PNG, WebP, GIF and BMP are always taken. Received: {name!r}"
            )
    return (*DEFAULT_FORMATS, *(FURTHER_FORMATS[name] for name in named))


class RefusedError(Exception):
    """Why a request is refused: HTTP status, a sentence for people, and when to try again (None if that does not help)."""

    def __init__(self, status: int, message: str, *, retry_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_seconds = retry_seconds


class RateLimiter:
    """Counts the requests of each client: a bucket of tokens each, filled at a steady rate; a rate of 0 counts nothing."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Take a token of the client at an IP address; raise RefusedError (429) if none is left."""
        if not self._per_second:
            return
        client, now = _client(address), self._clock()
        tokens, since = self._buckets.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - since) * self._per_second)
        if tokens < 1:
            self._buckets[client] = (tokens, now)
            wait = math.ceil((1 - tokens) / self._per_second)
            raise RefusedError(
                429,
                f"There are more than {self._per_second:g} requests a second from this address. Try again later.",
                retry_seconds=max(1, wait),
            )
        self._buckets[client] = (tokens - 1, now)
        while len(self._buckets) > _MOST_CLIENTS:  # The ones unused for longest had time to refill.
            self._buckets.popitem(last=False)


class Connection(Protocol):
    """What ``Places`` needs to know of a connection."""

    def abort(self) -> None:
        """Close it at once."""
        ...


class Places:
    """Gives places to connections: of all clients together, and of each; who has waited longest without a request makes room."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clients: dict[Connection, str] = {}
        self._num_of_client: Counter[str] = Counter()
        self._waiting: OrderedDict[Connection, str] = OrderedDict()
        self._turned_away: OrderedDict[Connection, str] = OrderedDict()

    def enter(self, connection: Connection, address: str) -> bool:
        """Give a new connection from an IP address a place, and return whether there was one."""
        client = _client(address)
        candidates: Iterable[Connection] = ()
        is_full = self._num_of_client[client] >= self._limits.connections_per_client
        if is_full:
            candidates = (one for one, other in self._waiting.items() if other == client)
        elif len(self._clients) >= self._limits.connections:
            is_full, candidates = True, iter(self._waiting)
        oldest = next(iter(candidates), None)
        if oldest is not None:
            self.leave(oldest)
            oldest.abort()
        elif is_full:
            self._turned_away[connection] = ""
            if len(self._turned_away) > _MOST_TURNED_AWAY:
                self._turned_away.popitem(last=False)[0].abort()
            return False
        self._clients[connection] = self._waiting[connection] = client
        self._num_of_client[client] += 1
        return True

    def works(self, connection: Connection) -> None:
        """Note that a request of a connection is being answered."""
        self._waiting.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """Note that an answer is complete."""
        if connection in self._clients:
            self._waiting[connection] = self._clients[connection]

    def leave(self, connection: Connection) -> None:
        """Take the place back; one without a place is ignored."""
        client = self._clients.pop(connection, None)
        self._waiting.pop(connection, None)
        self._turned_away.pop(connection, None)
        if client is not None:
            self._num_of_client[client] -= 1
            if not self._num_of_client[client]:
                del self._num_of_client[client]


class Admission:
    """Admits requests while there is room for them and for their bodies.

    Attributes:
        requests: Requests in progress.
        reserved_bytes: Memory reserved for their bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.reserved_bytes = 0

    @contextmanager
    def admitted(self, body_bytes: int | None) -> Generator[None]:
        """Hold a place for a request while the block runs; None for a body of unknown length.

        Raises:
            RefusedError: There is no room now (503), or the body is too large (413).
        """
        limits = self._limits
        if body_bytes is not None and body_bytes > limits.body_bytes:
            raise body_too_large(limits)
        reserved = limits.body_bytes if body_bytes is None else body_bytes
        is_full = self.requests >= limits.requests
        if is_full or self.reserved_bytes + reserved > limits.buffered_bytes:
            raise busy()
        self.requests += 1
        self.reserved_bytes += reserved
        try:
            yield
        finally:
            self.requests -= 1
            self.reserved_bytes -= reserved


def busy() -> RefusedError:
    """Return the answer to a request while there is no room."""
    return RefusedError(503, "The server is busy. Try again in one second.", retry_seconds=1)


def body_too_large(limits: Limits) -> RefusedError:
    """Return the answer to a body that is too large."""
    return RefusedError(
        413,
        f"The request has more than {limits.body_bytes / 1e6:g} MB. Send fewer or smaller images.",
    )


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    amount: int
    turn: asyncio.Future[None]


class FairBudget:
    """Limits what tasks of one event loop use together, such as the pixels being decoded.

    First come, first served: tasks that need little never overtake one that needs much.

    Attributes:
        used: Amount in use now.

    Examples:
        >>> budget = FairBudget(24_000_000)
        >>> await budget.take(500 * 375)
        >>> budget.give(500 * 375)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self.used = 0

    @property
    def num_waiting(self) -> int:
        """Tasks that wait for their share."""
        return sum(not waiting.turn.done() for waiting in self._waiting)

    async def take(self, amount: int) -> None:
        """Wait until there is enough, then count it as used; a cancelled caller has taken nothing.

        More than the whole budget waits for all of it.
        """
        amount = min(amount, self._most)
        waiting = _Waiting(amount=amount, turn=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._let_in()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.cancelled():
                self._let_in()  # The ones behind it may need less.
            else:  # Its turn came at the same moment.
                self.give(amount)
            raise

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        self.used -= min(amount, self._most)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.turn.cancelled():
                if self.used + first.amount > self._most:
                    return
                self.used += first.amount
                first.turn.set_result(None)
            self._waiting.popleft()


def _client(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))
    return str(found)
