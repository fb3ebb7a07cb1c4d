"""The label page: images to look at, and decisions about them. Only who has the token of its address sees or changes anything.

The page decides on one image after another and says which version of it was shown, so that two people do not write over each other.
A decision is in the file before it is answered; the head is fitted again beside that, never in front of it.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from vizsla.auditing.labelling import Action, View
from vizsla.data.images.decode import decode_image
from vizsla.errors import ConfigError, DataError, PictureError, VizslaError
from vizsla.files import OURS, only_writer
from vizsla.serve import log
from vizsla.serve.app import ASSETS, asset, guarded
from vizsla.serve.guard import check_token, json_response
from vizsla.serve.limits import Limits, RefusedError
from vizsla.serve.metrics import Metrics
from vizsla.serve.server import host_names, listening, run_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from starlette.applications import Starlette
    from starlette.requests import Request

    from vizsla.auditing.labelling import Labelling
    from vizsla.serve.guard import Guard, HostNames

LABEL_ASSETS = {
    **{path: ASSETS[path] for path in ("/style.css", "/common.js", "/icon.svg")},
    "/": ("label.html", "text/html; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
}
VIEWS: tuple[View, ...] = get_args(View)
SIDES = (224, 720)
"""Longest sides of images: in the grid, and of the one that is looked at."""
MOST_QUEUED, MOST_CARDS, MOST_POINTS = 2_000, 64, 60
_MOST_BODY_BYTES = 20_000
_IMAGES_AT_ONCE = 4
_QUALITY = 85

_Body = TypeVar("_Body", bound=msgspec.Struct)


class Decide(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /api/decide`` takes; see ``Labelling.decide``."""

    image: int
    action: Action
    version: str
    label: str = ""


class Undo(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /api/undo`` takes."""

    image: int
    version: str


class NewClass(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /api/classes`` takes."""

    name: str


class LabelApi:
    """Answers the page; one per server. ``command`` gives the command that trains on what was decided."""

    def __init__(
        self, labelling: Labelling, *, token: str, title: str, command: Callable[[], str]
    ) -> None:
        self._labelling = labelling
        self._token = token
        self._title = title
        self._command = command
        self._changed = asyncio.Event()
        self._is_fitting = False
        self._decoding = ThreadPoolExecutor(_IMAGES_AT_ONCE, thread_name_prefix="label-image")

    async def keep_fitting(self) -> None:
        """Fit the head whenever something was decided, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._is_fitting = True
            try:
                await asyncio.to_thread(self._labelling.fit)
            except VizslaError as error:  # what it said before still holds
                log.note_fault(error, {"method": "", "path": "fit"})
            self._is_fitting = False

    async def state(self, request: Request) -> Response:
        """Answer ``GET /api/state``."""
        self._check_token(request)
        return json_response(await asyncio.to_thread(self._state))

    async def queue(self, request: Request) -> Response:
        """Answer ``GET /api/queue``: which images to look at, in order."""
        self._check_token(request)
        view = request.query_params.get("view", "todo")
        if view not in VIEWS:
            raise RefusedError(400, f"view is one of {', '.join(VIEWS)}. Received: {view[:40]!r}")
        found = self._labelling.queue(view)
        return json_response({"images": found[:MOST_QUEUED], "total": len(found)})

    async def cards(self, request: Request) -> Response:
        """Answer ``GET /api/cards``: what is known of some images."""
        self._check_token(request)
        asked = request.query_params.get("images", "").split(",")[:MOST_CARDS]
        images = [self._image(text) for text in asked]
        return json_response({"cards": await asyncio.to_thread(self._cards, images)})

    async def image(self, request: Request) -> Response:
        """Answer ``GET /api/image``: a JPEG."""
        self._check_token(request)
        position = self._image(request.query_params.get("image", ""))
        side = SIDES[request.query_params.get("large", "") == "1"]
        path = self._labelling.images.paths[position]
        try:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._decoding, partial(_jpeg, path, side=side))
        except (PictureError, OSError):
            raise RefusedError(404, "The image can no longer be read.") from None
        # Its address has the token, which is another one after the next start.
        headers = {"content-type": "image/jpeg", "cache-control": "private, max-age=3600"}
        return Response(data, headers=headers)

    async def decide(self, request: Request) -> Response:
        """Answer ``POST /api/decide``."""
        asked = await self._body(request, Decide)
        position = self._image(str(asked.image))
        change = partial(self._labelling.decide, position, asked.action, label=asked.label, version=asked.version)  # fmt: skip
        return await self._change(position, change)

    async def undo(self, request: Request) -> Response:
        """Answer ``POST /api/undo``."""
        asked = await self._body(request, Undo)
        position = self._image(str(asked.image))
        change = partial(self._labelling.undo, position, version=asked.version)
        return await self._change(position, change)

    async def add_class(self, request: Request) -> Response:
        """Answer ``POST /api/classes``."""
        asked = await self._body(request, NewClass)
        try:
            name = await asyncio.to_thread(self._labelling.add_class, asked.name)
        except ConfigError as error:
            raise RefusedError(400, str(error)) from None
        return json_response({"name": name, "state": await asyncio.to_thread(self._state)})

    async def _change(self, position: int, change: Callable[[], None]) -> Response:
        status, error = 200, ""
        try:
            await asyncio.to_thread(change)
        except DataError as conflict:
            status, error = 409, str(conflict)
        except ConfigError as wrong:
            raise RefusedError(400, str(wrong)) from None
        self._changed.set()
        [card] = await asyncio.to_thread(self._cards, [position])
        state = await asyncio.to_thread(self._state)
        return json_response({"error": error, "card": card, "state": state}, status=status)

    def _state(self) -> dict[str, Any]:
        labelling = self._labelling
        judged = labelling.judged
        counts = labelling.class_counts()
        latest = labelling.latest
        sizes = {view: len(labelling.queue(view)) for view in VIEWS}
        return {
            "title": self._title,
            "revision": labelling.revision,
            "fitting": self._is_fitting or self._changed.is_set(),
            "classes": [{"name": name, "count": counts[name]} for name in labelling.classes],
            "counts": sizes,
            "accuracy": judged.accuracy,
            "history": labelling.history[-MOST_POINTS:],
            "latest": latest and {"image": latest[0], "version": latest[1]},
            "file": str(labelling.file),
            "lacking": labelling.lacking(),
            "command": self._command(),
        }

    def _cards(self, images: list[int]) -> list[dict[str, Any]]:
        labelling = self._labelling
        cards: list[dict[str, Any]] = []
        for position, near in zip(images, labelling.neighbours(images), strict=True):
            suggestion, probability = labelling.suggestion(position)
            fix = labelling.fix(position)
            cards.append(
                {
                    "image": position,
                    "path": labelling.shown[position],
                    "given": labelling.given[position],
                    "label": labelling.label(position),
                    "decided": labelling.is_decided(position),
                    "dropped": fix is not None and fix.action == "drop",
                    "version": labelling.version(position),
                    "suggestion": suggestion,
                    "probability": probability,
                    "reason": labelling.reason(position),
                    "near": [{"image": one, "label": labelling.label(one)} for one in near],
                }
            )
        return cards

    def _check_token(self, request: Request) -> None:
        check_token(request, self._token, command="vizsla label")

    def _image(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(self._labelling.shown)):  # fmt: skip
            raise RefusedError(404, f"There is no image {text[:40]!r} here.")
        return int(text)

    async def _body(self, request: Request, kind: type[_Body]) -> _Body:
        """Return what a request says; only a page of this server can send this content type without asking first."""
        self._check_token(request)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "Send JSON, with the content type application/json.")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY_BYTES:
                raise RefusedError(413, f"The request has more than {_MOST_BODY_BYTES:,} bytes.")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, ValueError) as error:
            raise RefusedError(400, f"The request cannot be understood: {error}") from None


def build_label_app(
    labelling: Labelling,
    *,
    token: str,
    title: str,
    command: Callable[[], str],
    limits: Limits | None = None,
    names: HostNames | None = None,
) -> Guard:
    """Return the web application of the label page; ``names`` None means those of the loopback interface."""
    api = LabelApi(labelling, token=token, title=title, command=command)

    @asynccontextmanager
    async def working(_app: Starlette) -> AsyncGenerator[None]:
        fitting = asyncio.create_task(api.keep_fitting())
        try:
            yield
        finally:
            fitting.cancel()

    routes = [
        Route("/api/state", api.state),
        Route("/api/queue", api.queue),
        Route("/api/cards", api.cards),
        Route("/api/image", api.image),
        Route("/api/decide", api.decide, methods=["POST"]),
        Route("/api/undo", api.undo, methods=["POST"]),
        Route("/api/classes", api.add_class, methods=["POST"]),
        *(Route(path, asset(*file)) for path, file in LABEL_ASSETS.items()),
    ]
    limits = Limits() if limits is None else limits
    return guarded(routes, lifespan=working, limits=limits, metrics=Metrics(), names=names)


def serve_labels(
    make: Callable[[], Labelling],
    *,
    file: Path,
    title: str,
    command: Callable[[Labelling], str],
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: tuple[str, ...] = (),
    say: Callable[[str], None],
) -> None:
    """Show the label page until SIGTERM or Ctrl-C; then say how to train on what was decided.

    Args:
        make: Makes the labelling, once the address and the file are free.
        file: Its file of fixes.
        title: Heading of the page.
        command: Gives the command that trains on it.
        host: Address to listen at; any but a loopback address lets other machines in.
        port: 0 for any free one.
        allowed_hosts: Further names of this machine.
        say: Writes a line for people.

    Raises:
        ConfigError: The address cannot be listened at.
        OutputError: Another server writes to the file.
    """
    log.configure(level="warning", access=False)
    limits, token = Limits(), secrets.token_urlsafe(16)
    lock = file.with_name(f"{OURS}{file.name}.label.lock")
    with listening(host, port) as listener, only_writer(lock, of=file):
        labelling = make()
        train = partial(command, labelling)
        application = build_label_app(
            labelling,
            token=token,
            title=title,
            command=train,
            limits=limits,
            names=host_names(listener, allowed=allowed_hosts),
        )
        run_server(application, listener, limits=limits, doing="Label", token=f"#{token}", say=say)
    number = labelling.num_decided
    say(f"{number:,} image{'s' * (number != 1)} decided, in {file}")
    say(labelling.lacking() or f"Train on them: {train()}")


def _jpeg(path: Path, *, side: int) -> bytes:
    """Return an image as JPEG, its longest side at most ``side`` pixels."""
    image = decode_image(path, cover=(side, side), truncated="ok")
    image.thumbnail((side, side))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY)
    return written.getvalue()
