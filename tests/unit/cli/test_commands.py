"""``vizsla cache`` and the cache options of ``vizsla train``, in a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vizsla import ConfigError, Resize, TrainConfig
from vizsla.data.cache import ImageCache, ImageKey
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done


@pytest.fixture
def filled_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VIZSLA_HOME whose cache holds three images."""
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path))
    cache = ImageCache(mode="disk")
    for number in range(3):
        key = ImageKey(path=str(number), num_bytes=1, modified_ns=2, preparation="whole")
        cache.keep(key, np.zeros((300, 300, 3), np.uint8))
    return tmp_path


def test_cache_shows_place_size_and_budget(filled_home: Path, vizsla: Callable[..., Done]):
    result = vizsla("cache")
    assert result.code == 0
    place, size, budget = result.out.splitlines()
    assert place == f"place   {filled_home / 'cache' / 'pictures'}"
    assert size == "size    0.8 MB, 3 images"
    assert budget.startswith("budget  ")
    assert "a quarter of the space" in budget


def test_cache_clear_removes_the_images(
    filled_home: Path, monkeypatch: pytest.MonkeyPatch, vizsla: Callable[..., Done]
):
    result = vizsla("cache", "--clear")
    assert result.code == 0
    folder = filled_home / "cache" / "pictures"
    assert result.out == f"Removed 3 images, 0.8 MB, from {folder}\n"
    assert list(folder.iterdir()) == []
    assert vizsla("cache").out.splitlines()[1] == "size    0.0 MB, 0 images"
    monkeypatch.setenv("VIZSLA_HOME", str(filled_home / "none"))
    for arguments in (["cache"], ["cache", "--clear"]):
        assert vizsla(*arguments).code == 0
    assert not (filled_home / "none").exists()  # looking makes no folder


def test_train_refuses_wrong_cache_options(image_folder: Path, vizsla: Callable[..., Done]):
    for words, named in (
        (("--cache", "disc"), "disc"),
        (("--cache-budget", "lots"), "cache_budget is a number of bytes such as 500MB"),
    ):
        result = vizsla("train", image_folder, *words)
        assert result.code == 2
        assert named in result.err
    assert TrainConfig(cache="disk", cache_budget="4GB").cache == "disk"
    assert TrainConfig(cache_budget=500).cache_budget == 500
    with pytest.raises(ConfigError, match="cache_budget"):
        TrainConfig(cache_budget=-1)


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


def test_a_model_is_exported_and_verified(model: Path, vizsla: Callable[..., Done]):
    onnx = model.with_suffix(".onnx")
    done = vizsla("export", str(model), "--onnx", str(onnx))
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith(f"{onnx}: max difference ")
    assert second.endswith(f"images and answers for `vizsla verify {onnx}`")
    verified = vizsla("verify", str(onnx))
    assert verified.code == 0
    assert verified.out.startswith(f"{onnx}: max difference ")
    onnx.with_suffix(".golden.npz").write_bytes(b"x")
    damaged = vizsla("verify", str(onnx))
    assert damaged.code == 2
    assert "golden.npz" in damaged.err
    nothing = vizsla("export", str(model))
    assert nothing.code == 2
    assert "--onnx FILE, --torch FILE" in nothing.err


def test_train_profile_prints_where_the_time_went_and_writes_it(
    vizsla: Callable[..., Done], image_folder: Path, tmp_path: Path
):
    out = tmp_path / "run"
    done = vizsla("train", image_folder, "--size", "32", "--profile", "--out", out)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("where the time"))
    assert lines[start + 1].startswith("reading images, 24 images")
    assert lines[start + 2].startswith("features first, 24 images")
    stages = json.loads((out / "profile.json").read_text("utf-8"))["stages"]
    names = ["reading images", "features first", "results"]
    assert [stage["stage"] for stage in stages] == names
