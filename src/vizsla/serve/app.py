"""The web application: the page, the JSON interface, health and metrics.

No request can make it open a file: the parts of the page are read from the package at the start, by fixed names.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vizsla.errors import ConfigError
from vizsla.serve.answers import (
    MOST_NEAREST,
    Error,
    Kept,
    answer_type,
    answer_values,
    description,
    model_values,
    usual_coverage,
)
from vizsla.serve.engine import Engine
from vizsla.serve.guard import Guard, HostNames, check_token, json_response, refusal
from vizsla.serve.limits import Admission, RateLimiter, RefusedError
from vizsla.serve.metrics import CONTENT_TYPE, Metrics
from vizsla.serve.uploads import check_content_type, read_uploads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from vizsla.model_file.manifest import Manifest
    from vizsla.predict.predictor import Predictor
    from vizsla.serve.corrections import Corrections
    from vizsla.serve.decoding import DecodingProcesses
    from vizsla.serve.limits import Limits
    from vizsla.serve.nearest import NearestIndex

ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/api": ("api.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/common.js": ("common.js", "text/javascript; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/api.js": ("api.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Every file that is served, by its path."""

_COVERAGE = re.compile(r"0?\.[0-9]{1,6}")


class JsonApi:
    """Answers the requests of programs; one per server."""

    def __init__(
        self,
        engine: Engine,
        *,
        manifest: Manifest,
        limits: Limits,
        metrics: Metrics,
        title: str,
        examples: tuple[bytes, ...],
        corrections: Corrections | None,
    ) -> None:
        self.engine = engine
        self.metrics = metrics
        self._limits = limits
        self._rates = RateLimiter(limits.requests_per_second)
        self.admission = Admission(limits)
        self._answer: Any = answer_type(manifest.task, calibration=engine.predictor.calibration)
        self._examples = examples
        self._corrections = corrections
        self._about = partial(
            model_values,
            manifest,
            engine=engine,
            limits=limits,
            title=title,
            num_examples=len(examples),
            takes_corrections=corrections is not None,
        )
        self._description = description(
            title=title,
            task=manifest.task,
            calibration=engine.predictor.calibration,
            limits=limits,
            max_pixels=engine.max_pixels,
            takes_corrections=corrections is not None,
        )

    async def predict(self, request: Request) -> Response:
        """Answer ``POST /api/predict``."""
        self._rates.take(request.client.host if request.client else "")
        heat = bool(_number(request, "heat", most=1))
        nearest = _number(request, "nearest", most=MOST_NEAREST)
        coverage = self._coverage(request)
        check_content_type(request.headers.get("content-type", ""))
        with self.admission.admitted(_content_length(request)):
            uploads = await read_uploads(request, limits=self._limits)
            answers = await self.engine.answer(
                [upload.data for upload in uploads], coverage=coverage, heat=heat, nearest=nearest
            )
        values = [
            self._answer(**answer_values(answer, name=upload.name))
            for upload, answer in zip(uploads, answers, strict=True)
        ]
        for answer in answers:
            self.metrics.note_image("unreadable" if answer.error else "predicted")
        status = 200 if any(answer.prediction is not None for answer in answers) else 422
        return json_response({"pictures": values}, status=status)

    def _coverage(self, request: Request) -> float | None:
        """Return the requested share of label sets that hold the true label; None where the model has no label sets."""
        usual = usual_coverage(self.engine.predictor.calibration)
        text = request.query_params.get("coverage")
        if text is None:
            return usual
        if usual is None:
            raise RefusedError(400, "This model has no label sets. Leave out coverage.")
        if not _COVERAGE.fullmatch(text) or float(text) == 0:
            raise RefusedError(
                400,
                f"coverage is a number between 0 and 1, such as {usual:g}. Received: {text[:40]!r}",
            )
        return float(text)

    async def correct(self, request: Request) -> Response:
        """Answer ``POST /api/correct``: the body is an image, ``label`` what it really shows."""
        corrections = self._corrections
        if corrections is None:
            raise RefusedError(404, "This server keeps no corrections. Start it with --fixes FILE.")
        self._rates.take(request.client.host if request.client else "")
        check_token(request, corrections.token, command="vizsla serve")
        check_content_type(request.headers.get("content-type", ""))
        with self.admission.admitted(_content_length(request)):
            uploads = await read_uploads(request, limits=self._limits)
            if len(uploads) != 1:
                raise RefusedError(400, "Correct one image at a time.")
            [answer] = await self.engine.answer([uploads[0].data])
            if answer.prediction is None:
                raise RefusedError(422, f"The image cannot be read: {answer.error}")
            label = request.query_params.get("label", "")
            keep = partial(corrections.keep, uploads[0].data, label, answer=answer.prediction.label)
            try:
                await asyncio.to_thread(keep)
            except ConfigError as error:
                raise RefusedError(400, str(error)) from None
        return json_response(Kept(label=label))

    async def example(self, request: Request) -> Response:
        """Answer ``GET /api/example``: a JPEG."""
        if not self._examples:
            raise RefusedError(404, "This server shows no examples. Start it with --examples PATH.")
        number = _number(request, "number", most=len(self._examples) - 1)
        headers = {"content-type": "image/jpeg", "cache-control": "private, max-age=3600"}
        return Response(self._examples[number], headers=headers)

    async def model(self, _request: Request) -> Response:
        """Answer ``GET /api/model``."""
        return json_response(self._about())

    async def openapi(self, _request: Request) -> Response:
        """Answer ``GET /openapi.json``."""
        return json_response(self._description)

    async def health(self, _request: Request) -> Response:
        """Answer ``GET /health``."""
        return json_response({"status": "ok"})

    async def counters(self, _request: Request) -> Response:
        """Answer ``GET /metrics``."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})


def build_app(
    predictor: Predictor,
    *,
    manifest: Manifest,
    limits: Limits,
    title: str,
    index: NearestIndex | None = None,
    names: HostNames | None = None,
    max_batch: int = 0,
    decoding: DecodingProcesses | None = None,
    examples: tuple[bytes, ...] = (),
    corrections: Corrections | None = None,
) -> Guard:
    """Return the web application. The network is tried once on a grey image.

    ``index`` holds training images to compare with; ``decoding`` are processes that decode, None does it here; ``names`` None means
    those of the loopback interface; ``examples`` are JPEGs for visitors to try; ``corrections`` keeps images that were
    answered wrongly, None keeps none.

    Raises:
        ConfigError: The network's output is not finite.
    """
    metrics = Metrics()
    engine = Engine(
        predictor,
        limits=limits,
        index=index,
        cover=None if manifest.resize is None else manifest.resize.cover(training=False),
        keeps_size=manifest.size is None,
        max_batch=max_batch,
        decoding=decoding,
        on_batch=metrics.note_batch,
    )
    api = JsonApi(
        engine,
        manifest=manifest,
        limits=limits,
        metrics=metrics,
        title=title,
        examples=examples,
        corrections=corrections,
    )
    room, gauge = api.admission, metrics.add_gauge
    gauge("vizsla_requests", "Predictions under way.", lambda: room.requests)
    gauge("vizsla_buffered_bytes", "Set aside for bodies.", lambda: room.reserved_bytes)
    gauge("vizsla_waiting_pictures", "Wait for their batch.", lambda: engine.batcher.num_waiting)

    @asynccontextmanager
    async def working(_app: Starlette) -> AsyncGenerator[None]:
        async with engine:
            yield

    routes = [
        Route("/api/predict", api.predict, methods=["POST"]),
        Route("/api/correct", api.correct, methods=["POST"]),
        Route("/api/example", api.example),
        Route("/api/model", api.model),
        Route("/openapi.json", api.openapi),
        Route("/health", api.health),
        Route("/metrics", api.counters),
        *(Route(path, asset(*file)) for path, file in ASSETS.items()),
    ]
    return guarded(routes, lifespan=working, limits=limits, metrics=metrics, names=names)


def guarded(
    routes: list[Route],
    *,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    limits: Limits,
    metrics: Metrics,
    names: HostNames | None,
) -> Guard:
    """Return an application of routes that refuses what a ``Guard`` refuses, and answers faults as JSON."""
    application = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            RefusedError: _refused,
            Exception: _unexpected,
            ClientDisconnect: _gone,
            404: _not_found,
            405: _wrong_method,
        },
    )
    application.router.redirect_slashes = False
    return Guard(
        application,
        limits=limits,
        metrics=metrics,
        routes=[route.path for route in routes],
        names=HostNames() if names is None else names,
    )


def asset(file: str, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with a file of the package, read once."""
    content = (files("vizsla.serve") / "static" / file).read_bytes()
    headers = {"content-type": content_type, "cache-control": "no-cache"}

    async def answer(_request: Request) -> Response:
        return Response(content, headers=headers)

    return answer


async def _refused(_request: Request, error: Exception) -> Response:
    return refusal(cast("RefusedError", error))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # Nobody reads it.


async def _unexpected(_request: Request, error: Exception) -> Response:
    raise error  # The guard logs it and answers, here as for faults of its own.


async def _not_found(_request: Request, _error: Exception) -> Response:
    return json_response(Error("There is nothing here. The page / says what there is."), status=404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    message = f"{request.method} is not possible here. The page / says what is."
    return json_response(Error(message), status=405, headers=headers)


def _number(request: Request, name: str, *, most: int) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= most):
        raise RefusedError(
            400, f"{name} is a whole number from 0 to {most}. Received: {text[:40]!r}"
        )
    return int(text)


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
