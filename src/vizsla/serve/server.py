"""Run a server until it is told to stop, then finish the requests in progress."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, MissingExtraError
from vizsla.machine import long_lived_objects_set_aside, share_heaps
from vizsla.model_file.bundle import read_manifest
from vizsla.predict.predictor import Predictor
from vizsla.serve.limits import Limits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from pathlib import Path
    from types import FrameType

    import uvicorn

    from vizsla.serve.guard import HostNames
    from vizsla.serve.nearest import NearestIndex

DEFAULT_PORT = 8000
_BACKLOG = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ServePlan:
    """What to serve, and where.

    Attributes:
        model: A model file.
        host: Address to listen at; any but a loopback address lets other machines in.
        port: 0 for any free one.
        device: Where the network runs.
        limits: Limits of the server.
        allowed_hosts: Further names of this machine.
        title: Name of the model on the page; empty for that of its file or folder.
        max_batch: Images that run through the network together; 1 predicts one by one, 0 suits the device.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    allowed_hosts: tuple[str, ...] = ()
    title: str = ""
    max_batch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"A port is a number from 0 to 65535. Received: {self.port}")
        if self.max_batch < 0:
            raise ConfigError(f"A batch is a number of images. Received: {self.max_batch}")


def serve(
    plan: ServePlan,
    *,
    make_index: Callable[[Predictor], NearestIndex | None] = lambda _predictor: None,
    say: Callable[[str], None],
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for requests in progress.

    ``make_index`` makes the index of training images once the model is open, or returns None; ``say`` writes a line for people.

    Raises:
        MissingExtraError: A package of the extra ``serve`` is not installed.
        ModelFileError: The model cannot be opened.
        ConfigError: The address cannot be listened at, or there is no such device.
    """
    check_extra()
    share_heaps(1)
    from vizsla.serve.app import build_app
    from vizsla.serve.engine import faster_copy

    with listening(plan.host, plan.port) as listener:  # Before the model, which takes seconds.
        manifest = read_manifest(plan.model)
        predictor = faster_copy(Predictor.load(plan.model, device=plan.device))
        application = build_app(
            predictor,
            manifest=manifest,
            limits=plan.limits,
            title=plan.title or title_of(plan.model),
            index=make_index(predictor),
            names=host_names(listener, allowed=plan.allowed_hosts),
            max_batch=plan.max_batch,
        )
        server = make_server(application, limits=plan.limits)
        with _stopped_by_signals(server), long_lived_objects_set_aside():
            say(f"Serving {plan.model} at {address_of(listener)}  (Ctrl-C stops)")
            if not is_loopback(listener):
                say(
                    "Warning: other machines can reach this server. It has no passwords and no encryption; let only "
                    "people whom you trust into this network, or put a proxy with both in front of it."
                )
            server.run(sockets=[listener])
    say("Stopped.")


def check_extra() -> None:
    """Raise MissingExtraError unless the packages of the extra are installed."""
    from importlib.util import find_spec

    for name in ("starlette", "uvicorn", "python-multipart", "prometheus-client"):
        if find_spec(name.replace("-", "_")) is None:
            raise MissingExtraError(name, extra="serve", purpose="serve a model")


def make_server(application: object, *, limits: Limits) -> uvicorn.Server:
    """Return a server of an ASGI application that has not started."""
    import uvicorn

    # Damaged forms get their answer; a line for each on standard error would let visitors fill a disk.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    config = uvicorn.Config(
        application,  # pyright: ignore[reportArgumentType] (uvicorn's own types of ASGI differ in spelling)
        http=timed_connection(limits.header_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
    )
    return uvicorn.Server(config)


def timed_connection(header_seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a time limit for each request to arrive.

    uvicorn waits for ever for the first byte of a connection, for the rest of a header, and for the rest of a body that was already
    refused. Each such connection would hold one of the places, so a connection without a complete request is closed after a while,
    however many bytes have come. It is h11's protocol, not that of httptools: h11 limits the bytes of a header (64 kB), httptools does
    not, and a faster parser would gain little next to the milliseconds of the network.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedConnection(H11Protocol):
        _silence: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (as uvicorn has it)
            super().connection_made(transport)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_watching()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            answering = bool(self.cycle) and not self.cycle.response_complete
            if answering or self.transport.is_closing():
                self._stop_watching()
            elif self._silence is None:
                self._silence = self.loop.call_later(header_seconds, self._close)

        def _stop_watching(self) -> None:
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None

        def _close(self) -> None:
            self._silence = None
            self.transport.close()

    return TimedConnection


@contextmanager
def listening(host: str, port: int) -> Generator[socket.socket]:
    """Give a socket that listens at a name or address; port 0 is any free one.

    Raises:
        ConfigError: There is no such address here, or the port is taken or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"Cannot listen at {host!r}, port {port}: {why}. Choose another --port (0 takes a free one) or --host."
        ) from error
    with listener:
        yield listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """Return the address to type into a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def host_names(listener: socket.socket, *, allowed: tuple[str, ...]) -> HostNames:
    """Return the names of the server: where others can reach it, also the machine's name and any IP address."""
    from vizsla.serve.guard import LOOPBACK_NAMES, HostNames

    further = {name.lower().rstrip(".") for name in allowed}
    if is_loopback(listener):
        return HostNames(names=LOOPBACK_NAMES | further | {listener.getsockname()[0]})
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return HostNames(names=LOOPBACK_NAMES | further | own, any_address=True)


def title_of(model: Path) -> str:
    """Return a name for a model: that of its file, or of its folder where all files have the same name."""
    path = model.resolve()
    return path.parent.name if path.name == "model.safetensors" else path.stem


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Generator[None]:
    """Let signals stop a server, not the process: before it has started, and when it raises them again after its end."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
