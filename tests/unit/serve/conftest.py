"""A small model, and servers of it on the loopback interface that tests talk to over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vizsla import Predictor, Resize
from vizsla.model_file import read_manifest, save_bundle
from vizsla.serve import Limits, TrainingImage, build_app, build_index, listening, make_server

Serve = Callable[..., AbstractContextManager["Client"]]

VOCAB = ("cross", "disc", "Füchse")


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Client:
    """Talks to a server, one connection for each request."""

    port: int

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return Response(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=content,
        )

    def predict(
        self, *files: tuple[str, bytes], query: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        body, kind = form(*files)
        given = {"content-type": kind, **(headers or {})}
        return self.ask("POST", f"/api/predict{query}", body=body, headers=given)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a multipart body with files, and its content type."""
    boundary = "part-of-a-form"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="pictures"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@contextmanager
def running(application: object, *, limits: Limits) -> Generator[Client]:
    """Serve an application on a free port."""
    with listening("127.0.0.1", 0) as listener:
        server = make_server(application, limits=limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Client(port=listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def client_of() -> Callable[..., AbstractContextManager[Client]]:
    """Return a context manager that serves an application."""
    return lambda application: running(application, limits=Limits())


@pytest.fixture(scope="session")
def client_at() -> Callable[[int], Client]:
    """Return a function from the port of a server to a client of it."""
    return lambda port: Client(port=port)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, make_classifier: Any) -> Path:
    path = tmp_path_factory.mktemp("serve") / "shapes.safetensors"
    return save_bundle(path, classifier=make_classifier(VOCAB), resize=Resize(64))


@pytest.fixture(scope="session")
def predictor(model: Path) -> Predictor:
    return Predictor.load(model, device="cpu")


@pytest.fixture(scope="session")
def calibrated(model: Path, make_calibration: Any) -> Predictor:
    """The same model as if it had been calibrated: one label at a coverage of 0.5, several at 0.9, nothing is foreign to it."""
    predictor = Predictor.load(model, device="cpu")
    predictor.calibration = make_calibration(
        temperature=2.0, thresholds=(0.9, 0.05), quantiles=(-20.0, 0.0, 20.0), foreign_below=-18.0
    )
    return predictor


@pytest.fixture(scope="session")
def known(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]
) -> list[TrainingImage]:
    """Eight pictures of two classes, and one that is none."""
    folder = tmp_path_factory.mktemp("known")
    pictures: list[TrainingImage] = []
    for number in range(8):
        label = ("cross", "disc")[number % 2]
        path = folder / f"{number}.png"
        draw(label, number=number).save(path)
        pictures.append(TrainingImage(path=path, label=label))
    (folder / "broken.png").write_bytes(b"no picture")
    return [*pictures, TrainingImage(path=folder / "broken.png", label="disc")]


@pytest.fixture(scope="session")
def serve(model: Path, predictor: Predictor, known: list[TrainingImage]) -> Serve:
    """Return a context manager that runs a server with the given limits."""

    @contextmanager
    def run(
        limits: Limits | None = None,
        *,
        nearest: bool = False,
        using: Predictor | None = None,
        model: Path = model,
        **options: Any,
    ) -> Generator[Client]:
        limits = Limits(requests_per_second=0) if limits is None else limits
        application = build_app(
            predictor if using is None else using,
            manifest=read_manifest(model),
            limits=limits,
            title="Shapes",
            index=build_index(predictor, known) if nearest else None,
            **options,
        )
        with running(application, limits=limits) as client:
            yield client

    return run


@pytest.fixture(scope="module")
def client(serve: Serve) -> Iterator[Client]:
    """A server with training pictures and generous limits."""
    with serve(nearest=True) as running:
        yield running
