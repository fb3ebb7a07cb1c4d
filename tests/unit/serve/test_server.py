"""Where a server listens, what it calls itself, and how the command line says what is wrong."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsla import ConfigError, MissingExtraError
from vizsla.serve import (
    ServePlan,
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
    assert (done.code, done.err) == (2, "vizsla: --run and --nearest exclude each other. Choose one of them.\n")  # fmt: skip
    done = vizsla("serve", "m", "--max-mb", "0")
    assert (done.code, done.err) == (2, "vizsla: The limit body_bytes is a number above 0. Received: 0\n")  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_ends_the_command_with_code_0(model: Path):
    command = [sys.executable, "-m", "vizsla", "serve", str(model), "--port", "0", "--host", "0.0.0.0"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"Serving {model} at http://localhost:")
            warning = process.stdout.readline()
            assert warning.startswith("Warning: other machines can reach this server.")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "Stopped.\n", "")
