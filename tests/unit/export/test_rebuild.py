"""A network is built again from its name; a file cannot make that take more memory than its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.errors import ModelFileError
from vizsla.model_file.bundle import read_manifest
from vizsla.model_file.rebuild import (
    describe_differences,
    expected_forms,
    form_of,
    rebuild_classifier,
)
from vizsla.models.backbones import BackboneSpec

if TYPE_CHECKING:
    from vizsla.model_file.manifest import Manifest
    from vizsla.models.classifier import Classifier

PATH = Path("model.safetensors")


@pytest.fixture
def manifest(saved: Path) -> Manifest:
    return read_manifest(saved)


def spec(source: str, name: str) -> BackboneSpec:
    return BackboneSpec(source=source, name=name, weights="random", licence="")  # pyright: ignore[reportArgumentType] (some are wrong on purpose)


def test_expected_forms_are_those_of_the_classifier(classifier: Classifier, manifest: Manifest):
    forms = {name: form_of(value) for name, value in classifier.state_dict().items()}
    assert expected_forms(manifest, path=PATH) == forms


def test_the_rebuilt_classifier_says_where_its_weights_are_from(manifest: Manifest):
    marked = replace(manifest, backbone=replace(manifest.backbone, weights="hub", licence="MIT"))
    assert rebuild_classifier(marked, path=PATH).backbone.spec == marked.backbone


def test_normalisation_is_that_of_the_manifest(manifest: Manifest):
    changed = replace(manifest.preprocessing, mean=(0.1, 0.2, 0.3))
    classifier = rebuild_classifier(replace(manifest, preprocessing=changed), path=PATH)
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


def test_global_random_numbers_are_left_as_they_are(manifest: Manifest):
    features = {"kind": "features", "stages": [1], "statistics": ["mean"]}
    features |= {"num_landmarks": 0, "bandwidth": 1.0}
    before = torch.get_rng_state()
    rebuild_classifier(replace(manifest, head=features), path=PATH)
    expected_forms(manifest, path=PATH)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "concat_pool", "lin_ftrs": [10**9, 10**9]},
        {"kind": "features", "stages": [0] * 1000, "statistics": ["mean"],
         "num_landmarks": 10**9, "bandwidth": 1.0},
    ],
    ids=["hidden layers", "landmarks"],
)  # fmt: skip
def test_shapes_of_a_head_of_exabytes_need_no_memory(manifest: Manifest, head: dict[str, object]):
    forms = expected_forms(replace(manifest, head=head), path=PATH)
    assert max(torch.Size(shape).numel() for _, shape in forms.values()) >= 10**12


def test_a_network_that_cannot_be_built_without_memory_is_built_with_it(manifest: Manifest):
    regnet = replace(manifest, backbone=spec("torchvision", "regnet_x_400mf"))
    forms = expected_forms(regnet, path=PATH)
    assert forms["backbone.network.stem.0.weight"] == ("F32", (32, 3, 3, 3))


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (spec("timm", "resnet_next_year"), "timm 'resnet_next_year'"),
        (spec("torchvision", "test_resnet"), "torchvision 'test_resnet'"),
        (spec("timm", "hf-hub:somebody/model"), "timm 'hf-hub:somebody/model'"),
        (spec("timm", "local-dir:/tmp"), "timm 'local-dir:/tmp'"),
        (spec("timm", "../../etc/passwd"), "timm '../../etc/passwd'"),
        (spec("timm", ""), "timm ''"),
    ],
)
def test_an_unknown_network_is_named_with_the_versions_that_knew_it(
    manifest: Manifest, backbone: BackboneSpec, words: str
):
    libraries = {"torch": "9.0", "timm": "8.5"}
    with pytest.raises(ModelFileError) as caught:
        rebuild_classifier(replace(manifest, backbone=backbone, libraries=libraries), path=PATH)
    assert f"model.safetensors cannot be built: {words}" in str(caught.value)
    assert "written with vizsla 0.1.0, torch 9.0, timm 8.5" in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"kind": "transformer"},
        {"kind": "concat_pool", "lin_ftrs": "many"},
        {"kind": "concat_pool", "lin_ftrs": [-1]},
        {"kind": "concat_pool", "ps": [[]]},
        {"kind": "concat_pool", "y_range": [1]},
        {"kind": "concat_pool", "num_layers": 5},
        {"kind": ["features"]},
        {"kind": "features", "stages": [99], "statistics": ["mean"]},
        {"kind": "features", "stages": [0], "statistics": ["mean"], "num_landmarks": 10**40, "bandwidth": 1},
    ],
)  # fmt: skip
def test_a_head_that_makes_no_sense_is_refused(manifest: Manifest, head: dict[str, object]):
    with pytest.raises(ModelFileError, match="cannot be built"):
        expected_forms(replace(manifest, head=head), path=PATH)


def test_differences_name_at_most_three_tensors():
    one, two = ("F32", (1,)), ("F32", (2, 2))
    expected = dict.fromkeys("abcde", one)
    assert describe_differences(expected, expected) == ""
    found = {"b": two, "c": ("I64", (1,)), "d": one, "e": one, "x": one}
    assert describe_differences(expected, found) == (
        "a is missing; b is F32 [2, 2] and should be F32 [1]; c is I64 [1] and should be F32 [1]; and 1 more"
    )
