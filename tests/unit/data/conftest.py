"""Tables of image files, and a small web server that can be told to misbehave."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path


@pytest.fixture
def table_of() -> Callable[..., ImageTable]:
    """Return a function that makes a table of image files, classed by their folders, all of them to train on."""

    def make(
        paths: Sequence[Path], *, train: Sequence[int] | None = None, valid: Sequence[int] = ()
    ) -> ImageTable:
        vocab = tuple(sorted({path.parent.name for path in paths}))
        return ImageTable(
            root=paths[0].parents[1],
            paths=tuple(paths),
            targets=torch.tensor([vocab.index(path.parent.name) for path in paths]),
            vocab=vocab,
            train_rows=torch.tensor(range(len(paths)) if train is None else train).long(),
            valid_rows=torch.tensor(valid).long(),
        )

    return make


@dataclass
class Web:
    """What the server has and does; the tests change it while it runs.

    Attributes:
        files: Content by path.
        address: Of the server, without a slash at the end.
        etag: Of every file; None sends none.
        ranges: Whether parts can be asked for.
        drops: For each of the next answers, the bytes after which the connection is cut.
        statuses: For each of the next answers, a status to give instead of the file.
        redirects: New addresses by path.
        announce_length: Whether the length is said.
        hold: Answers wait for it.
        asked: The requests so far: path and Range.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    etag: str | None = '"v1"'
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    announce_length: bool = True
    hold: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

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
            if web.statuses:
                self.send_error(web.statuses.pop(0))
            elif content is None:
                self.send_error(404)
            else:
                self.answer(content)

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
            if web.announce_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: web.drops.pop(0)] if web.drops else body)

        def start_asked_for(self, length: int) -> int | None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") == web.etag
            return int(match[1]) if match and same and web.ranges else None

    return Handler


@pytest.fixture
def web() -> Generator[Web]:
    """The server, running."""
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
