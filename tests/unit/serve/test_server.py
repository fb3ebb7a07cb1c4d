"""Where a server listens, what it calls itself, and how the command line says what is wrong."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vizsla import ConfigError, MissingExtraError
from vizsla.serve import (
    Limits,
    ServePlan,
    address_for_others,
    address_of,
    check_extra,
    host_names,
    is_loopback,
    listening,
    title_of,
)


def test_the_loopback_interface_goes_by_its_own_names_only():
    with listening("127.0.0.1", 0) as listener:
        assert is_loopback(listener)
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}/"
        names = host_names(listener, allowed=("Cats.Example.",))
    assert names.names == {"localhost", "127.0.0.1", "::1", "cats.example"}
    assert not names.any_address


def test_another_interface_goes_by_the_machines_name_and_any_address():
    with listening("0.0.0.0", 0) as listener:
        assert not is_loopback(listener)
        assert address_of(listener).startswith("http://localhost:")
        outside = address_for_others(listener)
        assert outside.endswith(f":{listener.getsockname()[1]}/")
        assert not {"localhost", "0.0.0.0"} & set(outside.split("/")[2].split(":"))
        names = host_names(listener, allowed=())
    assert socket.gethostname().lower() in names.names
    assert names.any_address


def test_addresses_and_ports_that_cannot_be_had_are_refused():
    for host in ("192.0.2.1", "no such name.invalid", "a" * 300):
        with pytest.raises(ConfigError, match=host), listening(host, 0):
            pass
    for wrong in (-1, 65536):
        with pytest.raises(ConfigError, match=f"from 0 to 65535.*{wrong}"):
            ServePlan(model=Path("m"), port=wrong)
    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: .* Choose another --port"), listening("127.0.0.1", port):  # fmt: skip
            pass


def test_a_model_is_called_as_its_file_or_its_run():
    assert title_of(Path("/a/pets/model.safetensors")) == "pets"
    assert title_of(Path("/a/pets/birds.safetensors")) == "birds"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find_spec(name))  # fmt: skip
    with pytest.raises(MissingExtraError, match=r"pip install .*starlette"):
        check_extra()


def test_the_command_line_says_what_is_wrong(vizsla: Callable[..., Any], tmp_path: Path):
    done = vizsla("serve", tmp_path / "none.safetensors", "--port", "0")
    assert (done.code, done.out) == (2, "")
    assert "none.safetensors" in done.err
    done = vizsla("serve", "m", "--run", tmp_path, "--nearest", tmp_path)
    assert (done.code, done.err) == (2, "vizsla: --run and --nearest cannot be used together. Choose one of them.\n")  # fmt: skip
    done = vizsla("serve", "m", "--max-mb", "0")
    assert (done.code, done.err) == (2, "vizsla: The limit body_bytes is a number above 0. Received: 0\n")  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_ends_the_command_with_code_0(model: Path):
    command = [sys.executable, "-m", "vizsla", "serve", str(model), "--port", "0", "--host", "0.0.0.0", "--access-log"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            started = process.stdout.readline()
            assert started.startswith(f"Serving {model} at http://localhost:")
            warning = process.stdout.readline()
            assert warning.startswith("Warning: other machines can reach this server, at http://")
            (port,) = re.findall(r":(\d+)/", started)
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
            connection.request("GET", "/%1b[2J%e2%80%ae")
            assert connection.getresponse().status == 404
            connection.close()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "Stopped.\n")
    assert err.removesuffix("\n").isprintable()
    (line,) = map(json.loads, err.splitlines())
    assert (line["message"], line["path"], line["status"]) == ("request", "/\x1b[2J\u202e", 404)


SLOW = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n12"
CHUNKED = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, dict(response.headers), response.read().decode()


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_body_of_very_many_chunks_or_of_little_but_framing_is_refused(serve, draw):
    limits = Limits(requests_per_second=0, body_bytes=100_000, chunks=1000)
    image = png(draw("disc", number=1))
    with serve(limits) as client:
        with client.connect() as connection:
            connection.sendall(CHUNKED + b"1\r\nx\r\n" * 2000)
            status, headers, body = answer(connection)
        assert status == 413
        assert "more than 1000 chunks" in body
        assert "content-security-policy" in headers
        with client.connect() as connection:
            connection.sendall(CHUNKED + (b"1;" + b"x" * 10_000 + b"\r\nx\r\n") * 30)
            assert answer(connection)[0] == 413
        with client.connect() as connection:
            pieces = b"".join(b"40\r\n" + image[at : at + 64].ljust(64, b"\0") + b"\r\n" for at in range(0, len(image), 64))  # fmt: skip
            connection.sendall(CHUNKED + pieces + b"0\r\n\r\n")
            assert answer(connection)[0] == 200


def test_headers_without_end_and_requests_without_patience_are_refused(serve):
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with serve() as client:
        for sent, status in (
            (start + b"x: " + b"x" * 1_000_000, 431),
            (start + b"x: " + b"x" * 100_000 + b"\r\ny: z\r\n", 431),
            (start + b"a: b\r\n" * 200 + b"\r\n", 431),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            ((start + b"\r\n") * 200, 400),
        ):
            with client.connect() as connection:
                connection.sendall(sent)
                statuses = [answer(connection)[0]]
                while statuses[-1] == 200:
                    statuses.append(answer(connection)[0])
            assert statuses == [status], sent[-20:]


def test_a_request_ends_in_time_whatever_the_client_does(serve):
    limits = Limits(requests_per_second=0, seconds=0.3)
    with serve(limits) as client, client.connect() as dripping, client.connect() as deaf:
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        dripping.sendall(CHUNKED)
        with suppress(ConnectionError):
            for _ in range(10):
                dripping.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)
        assert answer(dripping)[0] == 503
        assert answer(deaf)[0] == 200
        assert b"vizsla_requests 0" in client.ask("GET", "/metrics").body


def test_slow_headers_do_not_shut_others_out(serve, draw):
    image = png(draw("disc", number=1))
    for limits in (
        Limits(requests_per_second=0, connections=20, connections_per_client=100),
        Limits(requests_per_second=0, connections=100, connections_per_client=20),
    ):
        with serve(limits) as client, ExitStack() as stack:
            slow = [stack.enter_context(client.connect()) for _ in range(60)]
            for connection in slow:
                with suppress(ConnectionError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: lo")
            assert client.predict(("a.png", image)).status == 200
            assert is_closed(slow[0])  # Who came first and said nothing has gone.


def test_a_client_with_all_its_places_at_work_is_told_to_try_again(serve):
    limits = Limits(requests_per_second=0, connections_per_client=2, seconds=5)
    with serve(limits) as client, client.connect() as one, client.connect() as other:
        for connection in (one, other):
            connection.sendall(SLOW)
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # It is at work.
        with client.connect() as third:
            third.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000))  # fmt: skip
            status, headers, _ = answer(third)
        assert (status, headers["retry-after"]) == (503, "1")
        one.sendall(b"3456789")
        assert answer(one)[0] == 422
