"""Fixtures of the tests of weights: a small web server on this machine, and environments without any cached weights."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class FileServer:
    """Serves ``files`` by path, as the Hugging Face hub does; ``requests`` are those that it got.

    It has the files that ``only_promised`` names, but does not hand them out.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    only_promised: set[str] = field(default_factory=set)


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            served.requests.append((self.command, self.path))
            content = served.files.get(self.path)
            if with_body and self.path in served.only_promised:
                content = None
            self.send_response(200 if content is not None else 404)
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_body and content is not None:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  (its name shadows a builtin)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights on this machine, and a hub that refuses connections; returns the folder of the caches."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # The discard port: nobody listens.
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path
