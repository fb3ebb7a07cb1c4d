"""A small classifier of a network that timm knows by name, model files made of it, and a web server."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vizsla import Predictions, Resize
from vizsla.evaluate import Calibration, calibrate
from vizsla.evaluate.metrics import Metric
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.types import Task

VOCAB = ("cross", "disc", "none", "Füchse")

Rewrite = Callable[[Path, Callable[[dict[str, Any]], None]], Path]


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """Random weights, whose norm statistics are not those of a new network. Tests must not change it."""
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[16], ps=0.25, seed=1)
    classifier = Classifier(backbone, head, vocab=VOCAB).train()
    with torch.no_grad():
        classifier(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return classifier.eval()


@pytest.fixture(scope="session")
def saved_once(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    metric = Metric(name="accuracy", value=0.75, low=0.5, high=0.9, num_pictures=20)
    save_bundle(
        path, classifier=classifier, resize=Resize((48, 40)), size=(32, 36), metrics=[metric]
    )
    return path.read_bytes()


@pytest.fixture
def saved(saved_once: bytes, tmp_path: Path) -> Path:
    """A model file that a test may damage."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved_once)
    return path


@pytest.fixture(scope="session")
def from_logits() -> Callable[..., Predictions]:
    """Return a function that makes predictions of images 0.jpg, 1.jpg, ... from logits and targets."""

    def make(
        logits: Sequence[Sequence[float]] | Tensor,
        targets: Sequence[int] | Tensor,
        *,
        vocab: Sequence[str] = (),
        paths: Sequence[str] = (),
        task: Task = "category",
    ) -> Predictions:
        logits = torch.as_tensor(logits, dtype=torch.float32)
        dtype = torch.int64 if task == "category" else torch.float32
        return Predictions(
            rows=torch.arange(len(logits)),
            paths=tuple(paths) or tuple(f"{number}.jpg" for number in range(len(logits))),
            logits=logits,
            targets=torch.as_tensor(targets, dtype=dtype),
            vocab=tuple(vocab) or tuple(f"class {index}" for index in range(logits.shape[1])),
            task=task,
        )

    return make


@pytest.fixture(scope="session")
def calibration_for(from_logits: Any) -> Callable[[tuple[str, ...]], Calibration]:
    """Return a function from names of classes to a calibration of logits that are three times too sharp."""

    def fit(vocab: tuple[str, ...]) -> Calibration:
        random = torch.Generator().manual_seed(0)
        honest = torch.randn((200, len(vocab)), generator=random) * 2
        targets = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
        found = calibrate(from_logits(honest * 3, targets, vocab=vocab))
        assert found is not None
        return found

    return fit


@pytest.fixture
def calibrated(classifier: Classifier, tmp_path: Path, calibration_for: Any) -> Path:
    """A model file with a calibration."""
    path = tmp_path / "calibrated.safetensors"
    calibration = calibration_for(VOCAB)
    return save_bundle(path, classifier=classifier, resize=Resize(32), calibration=calibration)


@pytest.fixture
def rewrite() -> Rewrite:
    """Return a function that changes the manifest of a model file, with a matching digest, as an attacker would."""

    def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata())
        manifest = json.loads(header["vizsla.manifest"])
        edit(manifest)
        text = json.dumps(manifest)
        header = {
            "vizsla.manifest": text,
            "vizsla.sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        save_file(tensors, path, metadata=header)
        return path

    return change


@pytest.fixture(scope="session")
def run_python(python: Callable[..., str]) -> Callable[..., str]:
    """Return a function that runs code in a fresh interpreter, where limits may change, and returns what it prints."""
    return lambda code, *arguments: python("-W", "error", "-c", code, *arguments)


@dataclass
class Web:
    """A web server that can be told to misbehave; tests change it while it runs. Its headers satisfy the Hugging Face hub."""

    address: str = ""  # without a slash at the end
    files: dict[str, bytes] = field(default_factory=dict)  # by path
    redirects: dict[str, str] = field(default_factory=dict)  # new addresses by path
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range
    etag: str | None = '"v1"'
    ranges: bool = True
    announce_length: bool = True
    drops: list[int] = field(
        default_factory=list
    )  # after how many bytes the next connections are cut
    statuses: list[int] = field(default_factory=list)  # what the next GETs get instead of the file
    hold: threading.Event = field(default_factory=threading.Event)  # every answer waits for it

    def wait_until_asked(self) -> None:
        while not self.asked:
            time.sleep(0.01)


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            web.asked.append((self.path, self.headers.get("Range")))
            web.hold.wait(10)
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.end_headers()
                return
            content = web.files.get(self.path)
            if web.statuses and self.command == "GET":
                self.send_error(web.statuses.pop(0))
            elif content is None:
                self.send_error(404)
            else:
                self.answer(content)

        do_HEAD = do_GET

        def answer(self, content: bytes) -> None:
            start = self.start_asked_for(len(content))
            if start is not None and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(200 if start is None else 206)
            body = content[start or 0 :]
            if start is not None:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            if web.etag is not None:
                self.send_header("ETag", web.etag)
            self.send_header("X-Repo-Commit", "0" * 40)
            if web.announce_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: web.drops.pop(0)] if web.drops else body)

        def start_asked_for(self, length: int) -> int | None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") == web.etag
            return int(match[1]) if match and same and web.ranges else None

    return Handler


@pytest.fixture
def web() -> Generator[Web]:
    web = Web()
    web.hold.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
