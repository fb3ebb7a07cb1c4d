"""Folders for a Space and for Docker: their programs run without torch, and texts of strangers are no code in them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from vizsla import ConfigError, OutputError, Predictor
from vizsla.export import ExportedModel, OnnxPredictor, export_model

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

WITHOUT_TORCH = "import sys; sys.modules['torch'] = sys.modules['vizsla'] = None; "


@pytest.fixture
def photo(tmp_path: Path, draw: Callable[..., Image.Image]) -> Path:
    path = tmp_path / "photo.jpg"
    draw("disc", number=1, size=(300, 200)).save(path)
    return path


def expected_of(model: Path, photo: Path) -> dict[str, float]:
    return Predictor.load(model, device="cpu").predict(photo).to_dict()["probabilities"]


def vocab_of(one: ExportedModel) -> list[str]:
    return list(OnnxPredictor(one.path / "model.onnx").vocab)


def test_a_space_predicts_and_its_card_is_valid(
    trained: Any, small: tuple[ExportedModel, ...], photo: Path, python: Callable[..., str]
):
    space = small[1].path
    assert sorted(file.name for file in space.iterdir()) == [
        *("README.md", "app.py", "model.onnx", "requirements.txt", "runtime.py")
    ]
    program = f"{WITHOUT_TORCH}import json, app; print(json.dumps([app.predict(sys.argv[1]), app.predict(None)]))"
    found, nothing = json.loads(python("-c", program, photo, cwd=space))
    assert found == pytest.approx(expected_of(trained.model, photo), abs=0.1)
    assert nothing is None
    _, head, text = (space / "README.md").read_text("utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert (card["title"], card["sdk"], card["app_file"]) == (space.name, "gradio", "app.py")
    name = next(name for name in vocab_of(small[1]) if "script" in name)
    assert f"`` {name} ``" in text
    assert "<script>" not in text.replace(name, "")
    assert '\n# pets: "\\# \\{x\\}\n' in text


def test_a_page_answers(small: tuple[ExportedModel, ...], photo: Path, python: Callable[..., str]):
    pytest.importorskip("gradio")
    program = """
import sys, app, gradio_client
page = app.page()
_, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
client = gradio_client.Client(address, verbose=False)
print(client.predict(gradio_client.handle_file(sys.argv[1]), api_name="/predict")["label"])
"""
    assert python("-c", program, photo, cwd=small[1].path).strip() in vocab_of(small[1])


def test_no_text_of_a_stranger_is_in_a_program(small: tuple[ExportedModel, ...]):
    for one in small[1:]:
        for file in one.path.iterdir():
            if file.suffix not in (".onnx", ".md"):
                text = file.read_text("utf-8")
                assert not any(name in text for name in (*vocab_of(one), "pets: "))


def test_a_docker_context_is_complete_and_its_program_answers(
    trained: Any, small: tuple[ExportedModel, ...], photo: Path
):
    pytest.importorskip("waitress")
    docker = small[2].path
    lines = (docker / "Dockerfile").read_text("utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert sorted(copied) == ["app.py", "model.onnx", "requirements.txt", "runtime.py"]
    assert {file.name for file in docker.iterdir()} == {*copied, "Dockerfile", "README.md"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = f"{WITHOUT_TORCH}import os, runpy; os.environ['PORT'] = '{port}'; sys.path.insert(0, '.'); runpy.run_path('app.py', run_name='__main__')"
    server = subprocess.Popen(
        [sys.executable, "-c", program], cwd=docker, stderr=subprocess.DEVNULL
    )
    try:

        def ask(path: str, data: bytes | None = None) -> tuple[int, Any]:
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data) as answer:
                        return answer.status, json.load(answer)
                except urllib.error.HTTPError as error:
                    return error.code, json.load(error)
                except urllib.error.URLError:  # It has not begun to listen.
                    assert server.poll() is None
                    time.sleep(0.05)
            raise AssertionError("no answer")

        assert ask("/") == (200, {"task": "category", "classes": vocab_of(small[2])})
        status, said = ask("/predict", photo.read_bytes())
        assert status == 200
        assert said["probabilities"] == pytest.approx(expected_of(trained.model, photo), abs=0.1)
        for path, data, expected in (
            ("/predict", b"no image", 400),
            ("/predict", None, 405),
            ("/other", b"x", 404),
        ):
            status, said = ask(path, data)
            assert (status, list(said)) == (expected, ["error"])
    finally:
        server.kill()
        server.wait()


def test_a_folder_that_is_there_is_never_replaced(trained: Any, tmp_path: Path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    cases: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"space": taken}, OutputError, "taken exists"),
        ({"onnx": tmp_path / "m.onnx", "docker": taken}, OutputError, "taken exists"),
        ({"docker": tmp_path / "none" / "docker"}, OutputError, "no folder"),
        ({"executorch": tmp_path / "m.pte", "precision": "int8"}, ConfigError, "executorch"),
    )
    for options, error, words in cases:
        with pytest.raises(error, match=words):
            export_model(trained.model, **options)
    assert [file.name for file in tmp_path.rglob("*")] == ["taken", "mine.txt"]
