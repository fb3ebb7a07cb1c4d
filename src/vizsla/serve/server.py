"""Run a server until it is told to stop, then finish the requests in progress."""

from __future__ import annotations

import ipaddress
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from vizsla.errors import ConfigError, MissingExtraError
from vizsla.machine import long_lived_objects_set_aside, share_heaps
from vizsla.model_file.bundle import check_sha256, read_manifest
from vizsla.predict.predictor import Predictor
from vizsla.serve.limits import Limits, Places, RefusedError, body_too_large, busy
from vizsla.text import counted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from pathlib import Path
    from types import FrameType

    import uvicorn
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from vizsla.serve.guard import HostNames
    from vizsla.serve.log import LogLevel
    from vizsla.serve.nearest import NearestIndex

DEFAULT_PORT = 8000
_BACKLOG = 512

_MOST_HEADER_BYTES, _MOST_HEADERS, _MOST_QUEUED = 65_536, 128, 8
"""Of one request: bytes and lines of its header; and requests that a client sends before it has read the first answer."""

_MOST_WIRE_TO_BODY = 1.2  # Chunks have a line each.
_LINGER_SECONDS = 2.0


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
        sha256: The only model file that is opened has this digest; None opens any.
        log_level: What is logged on standard error: this and what is worse.
        access_log: Whether each request is logged too.
        examples: Images for visitors to try, see ``examples_of``; None shows none.
        fixes: File of fixes that keeps images that were answered wrongly, see ``Corrections``; None keeps none.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)
    allowed_hosts: tuple[str, ...] = ()
    title: str = ""
    max_batch: int = 0
    sha256: str | None = None
    log_level: LogLevel = "warning"
    access_log: bool = False
    examples: Path | None = None
    fixes: Path | None = None

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
    from vizsla.serve import decoding, log
    from vizsla.serve.app import build_app
    from vizsla.serve.corrections import Corrections
    from vizsla.serve.nearest import examples_of

    log.configure(level=plan.log_level, access=plan.access_log)
    with (
        listening(plan.host, plan.port) as listener,
        ExitStack() as stack,
    ):  # Before the model, which takes seconds.
        if plan.sha256 is not None:
            check_sha256(plan.model, plan.sha256)
        manifest = read_manifest(plan.model)
        processes = None
        if decoding.IS_AVAILABLE:
            seconds = min(plan.limits.seconds, decoding.MOST_SECONDS)
            processes = stack.enter_context(
                decoding.DecodingProcesses(
                    manifest.resize, bit_depth=manifest.bit_depth, seconds=seconds
                )
            )
        corrections = None
        if plan.fixes is not None:
            corrections = Corrections(plan.fixes, vocab=manifest.vocab, task=manifest.task)
        examples = () if plan.examples is None else examples_of(plan.examples)
        predictor = Predictor.load(plan.model, device=plan.device).faster()
        application = build_app(
            predictor,
            manifest=manifest,
            limits=plan.limits,
            title=plan.title or title_of(plan.model),
            index=make_index(predictor),
            names=host_names(listener, allowed=plan.allowed_hosts),
            max_batch=plan.max_batch,
            decoding=processes,
            examples=examples,
            corrections=corrections,
        )
        token = "" if corrections is None else f"#{corrections.token}"
        run_server(
            application,
            listener,
            limits=plan.limits,
            doing=f"Serving {plan.model}",
            token=token,
            say=say,
        )
    if corrections is not None and (number := corrections.num_kept):
        say(
            f"{counted(number, 'corrected image')}, in {plan.fixes}. Train on them with --fixes {plan.fixes}"
        )


def run_server(
    application: object,
    listener: socket.socket,
    *,
    limits: Limits,
    doing: str,
    token: str = "",
    say: Callable[[str], None],
) -> None:
    """Say what is done and at which address, and serve an ASGI application until SIGTERM or Ctrl-C; warn where other machines can reach it."""
    server = make_server(application, limits=limits)
    with _stopped_by_signals(server), long_lived_objects_set_aside():
        say(f"{doing} at {address_of(listener)}{token}  (Ctrl-C stops)")
        if not is_loopback(listener):
            say(
                f"Warning: other machines can reach this server, at {address_for_others(listener)}{token}. It has no passwords and no encryption; let only "
                "people whom you trust into this network, or put a proxy with both in front of it."
            )
        server.run(sockets=[listener])
    say("Stopped.")


def check_extra(purpose: str = "serve a model") -> None:
    """Raise MissingExtraError unless the packages of the extra are installed."""
    from importlib.util import find_spec

    for name in ("starlette", "uvicorn", "httptools", "python-multipart", "prometheus-client"):
        if find_spec(name.replace("-", "_")) is None:
            raise MissingExtraError(name, extra="serve", purpose=purpose)


def make_server(application: object, *, limits: Limits) -> uvicorn.Server:
    """Return a server of an ASGI application that has not started."""
    import uvicorn

    config = uvicorn.Config(
        application,  # pyright: ignore[reportArgumentType] (uvicorn's own types of ASGI differ in spelling)
        http=limited_connection(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
    )
    return uvicorn.Server(config)


def limited_connection(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits for each connection: its time, its number, its bytes and its chunks.

    uvicorn waits for ever for the first byte of a connection, for the rest of a header, and for a client that does not read its
    answer. Here a connection always has a deadline: a while for the next header, ``limits.seconds`` for a request. A body in chunks of
    one byte is work for the parser, not for the network; so chunks are counted, and what a refused client still sends is thrown away
    unread.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from vizsla.serve.guard import raw_refusal

    places = Places(limits)

    class LimitedConnection(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _refused: RefusedError | None = None
        _num_header_bytes = _num_wire_bytes = _num_chunks = 0
        _in_header = _in_body = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (as uvicorn has it)
            super().connection_made(transport)
            self._end_after(limits.header_seconds)
            if not places.enter(self, self.client[0] if self.client else ""):
                self._refuse(busy())

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            places.leave(self)
            if self._deadline is not None:
                self._deadline.cancel()

        def data_received(self, data: bytes) -> None:
            if self._refused is not None:
                return
            in_header, in_body = self._in_header, self._in_body
            super().data_received(data)
            self._num_header_bytes += len(data) if in_header else 0
            self._num_wire_bytes += len(data) if in_body or self._in_body else 0
            if self._in_header and self._num_header_bytes > _MOST_HEADER_BYTES:
                self._refuse(_long_header())
            elif self._num_wire_bytes > _MOST_WIRE_TO_BODY * limits.body_bytes + _MOST_HEADER_BYTES:
                self._refuse(body_too_large(limits))

        def send_400_response(self, msg: str) -> None:
            # uvicorn comes here for whatever a callback of the parser raises, too: httptools wraps it.
            self._refuse(self._refused or RefusedError(400, msg))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_header = True
            self._num_header_bytes = self._num_wire_bytes = self._num_chunks = 0
            if len(self.pipeline) >= _MOST_QUEUED:
                self._stop(RefusedError(400, "The client does not wait for its answers."))

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._num_header_bytes += len(name) + len(value)
            if len(self.headers) > _MOST_HEADERS or self._num_header_bytes > _MOST_HEADER_BYTES:
                self._stop(_long_header())

        def on_headers_complete(self) -> None:
            self._in_header, self._in_body = False, True
            super().on_headers_complete()
            places.works(self)
            self._end_after(limits.seconds + _LINGER_SECONDS)

        def on_chunk_header(self) -> None:
            self._num_chunks += 1
            if self._num_chunks > limits.chunks:
                self._stop(RefusedError(413, f"The body has more than {limits.chunks} chunks. Send larger ones."))  # fmt: skip

        def on_message_complete(self) -> None:
            self._in_body = False
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline:
                places.waits(self)
                is_read = not self.transport.get_write_buffer_size()
                self._end_after(limits.header_seconds if is_read else limits.seconds)

        def abort(self) -> None:
            """Close at once, whether or not the client has read its answer."""
            self.transport.abort()

        def _end_after(self, seconds: float) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, self.abort)

        def _stop(self, refused: RefusedError) -> None:
            self._refused = refused
            raise refused

        def _refuse(self, refused: RefusedError) -> None:
            """Answer, then read and throw away for a while: a client that is still sending would lose the answer otherwise."""
            self._refused = refused
            cycle = cast(
                "RequestResponseCycle | None", self.cycle
            )  # None before the first request.
            if cycle is None or cycle.response_complete or not cycle.response_started:
                self.transport.write(raw_refusal(refused))
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
            self._unset_keepalive_if_required()
            self._end_after(_LINGER_SECONDS)

    return LimitedConnection


def _long_header() -> RefusedError:
    return RefusedError(431, "The header of the request is too long.")


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
    return _address(listener, instead="localhost")


def address_for_others(listener: socket.socket) -> str:
    """Return the address to type into a browser on another machine or a phone."""
    return _address(listener, instead=_own_address() or socket.gethostname())


def _own_address() -> str:
    """Return the address of this machine in the network that leads outside, or nothing; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # an address of documentation, RFC 5737
        return probe.getsockname()[0]
    return ""


def _address(listener: socket.socket, *, instead: str) -> str:
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = instead
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
