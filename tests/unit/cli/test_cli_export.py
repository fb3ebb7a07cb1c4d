"""``vizsla export`` and ``vizsla verify``: what they print, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from vizsla.cli.app import app
from vizsla.data.images.sizing import Resize
from vizsla.model_file.bundle import save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    classifier = Classifier(
        backbone, ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[]), vocab=("a", "b")
    )
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    return save_bundle(path, classifier=classifier.eval(), resize=Resize(40))


def test_a_model_is_exported_and_verified(model: Path):
    onnx = model.with_suffix(".onnx")
    done = CliRunner().invoke(app, ["export", str(model), "--onnx", str(onnx)])
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{onnx}: max difference ")
    assert second.endswith(f"pictures and answers for `vizsla verify {onnx}`")
    verified = CliRunner().invoke(app, ["verify", str(onnx)])
    assert verified.exit_code == 0, verified.output
    assert verified.stdout.startswith(f"{onnx}: max difference ")
    onnx.with_suffix(".golden.npz").write_bytes(b"x")
    damaged = CliRunner().invoke(app, ["verify", str(onnx)])
    assert damaged.exit_code == 2
    assert "golden.npz" in damaged.stderr


def test_export_without_a_file_to_write_says_which_there_are(model: Path):
    done = CliRunner().invoke(app, ["export", str(model)])
    assert done.exit_code == 2
    assert "--onnx FILE, --torch FILE" in done.stderr
