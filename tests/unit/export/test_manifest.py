"""A manifest survives JSON, and each field that is wrong is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from vizsla.data.images.sizing import Resize
from vizsla.errors import ModelFileError
from vizsla.evaluate.metrics import Metric
from vizsla.model_file.final_resize import FinalResize
from vizsla.model_file.manifest import Manifest, manifest_from_json, manifest_to_json
from vizsla.models.backbones import BackboneSpec
from vizsla.types import Preprocessing, Task

PATH = Path("model.safetensors")


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        vizsla_version="0.1.0",
        created="2025-03-01T12:00:00Z",
        backbone=BackboneSpec(source="timm", name="resnet18", weights="hub", licence="apache-2.0"),
        head={"kind": "concat_pool", "lin_ftrs": [16], "ps": 0.5},
        vocab=("Füchse", "\udcff", "😀"),
        preprocessing=Preprocessing(mean=(0.5, 0.25, 0.125), std=(1.0, 0.5, 0.1)),
        resize=Resize((460, 320), "pad", "zeros"),
        final_resize=FinalResize(
            size=(224, 160), mode="bicubic", crop_ratio=(0.75, 1.25), crop_scale=0.9
        ),
        metrics=(Metric(name="accuracy", value=0.1 + 0.2, low=0.25, high=0.5, num_pictures=7),),
        data_fingerprint="abc",
        notes="two\nlines",
        libraries={"torch": "2.6"},
        tensors_sha256="00",
    )


def read_changed(manifest: Manifest, place: str, value: object) -> Manifest:
    """Read the manifest after one field, given as ``a.b.0``, was replaced; ``...`` removes it."""
    content: dict[str, Any] = json.loads(manifest_to_json(manifest))
    *way, last = place.split(".")
    inner: Any = content
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return manifest_from_json(json.dumps(content), path=PATH)


@pytest.mark.parametrize("task", get_args(Task))
def test_a_manifest_comes_back_from_json_as_it_was(manifest: Manifest, task: Task):
    manifest = replace(manifest, task=task)
    assert manifest_from_json(manifest_to_json(manifest), path=PATH) == manifest


def test_a_file_that_does_not_say_its_task_predicts_one_class(manifest: Manifest):
    assert read_changed(manifest, "task", ...).task == "category"


def test_older_versions_are_not_given_labels_that_they_would_misread(manifest: Manifest):
    versions = [
        json.loads(manifest_to_json(replace(manifest, task=task)))["format_version"]
        for task in get_args(Task)
    ]
    assert versions == [1, 2, 2]


def test_a_manifest_without_sizes_comes_back_as_it_was(manifest: Manifest):
    plain = replace(manifest, resize=None, final_resize=FinalResize(), metrics=())
    assert manifest_from_json(manifest_to_json(plain), path=PATH) == plain
    assert plain.size is None


def test_the_size_is_that_of_the_last_resize(manifest: Manifest):
    assert manifest.size == (224, 160)
    assert replace(manifest, final_resize=FinalResize()).size == (460, 320)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_null_in_json_and_nan_after_it(
    manifest: Manifest, value: float
):
    metric = Metric(name="macro_f1", value=value, low=0.0, high=1.0, num_pictures=1)
    text = manifest_to_json(replace(manifest, metrics=(metric,)))
    assert '"value": null' in text
    assert math.isnan(manifest_from_json(text, path=PATH).metrics[0].value)


def test_fields_of_a_later_version_of_the_same_format_are_ignored(manifest: Manifest):
    assert read_changed(manifest, "later", {"temperature": 1.5}) == manifest


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("format", "other", "its field 'format' must be 'vizsla-model'. Received: \"other\""),
        ("format_version", "1", "its field 'format_version' must be a whole number from 1"),
        ("format_version", 0, "Received: 0"),
        ("format_version", True, "Received: true"),
        ("vizsla_version", ..., "its field 'vizsla_version' must be text, and is missing"),
        ("created", 5, "its field 'created' must be text. Received: 5"),
        ("backbone", [], "its field 'backbone' must be an object. Received: a list of 0"),
        ("backbone.source", "module", "'backbone.source' must be 'timm' or 'torchvision'"),
        ("backbone.name", None, "its field 'backbone.name' must be text. Received: null"),
        ("head", "x", "its field 'head' must be an object"),
        ("head", {"kind": "x" * 20_000}, "'head' must be an object of at most 10,000 characters"),
        ("vocab", {}, "its field 'vocab' must be a list. Received: an object"),
        ("vocab", [], "its field 'vocab' must be a list of class names, each once"),
        ("vocab", ["a", "b", "a"], "each once. Received: a list of 3"),
        ("vocab.1", 3, "its field 'vocab.1' must be text. Received: 3"),
        ("preprocessing.mean", [0.5, 0.5], "'preprocessing.mean' must be a list of 3 numbers"),
        ("preprocessing.mean.2", "0", "its field 'preprocessing.mean.2' must be a number"),
        ("preprocessing.std.0", 0, "its field 'preprocessing.std.0' must be a positive number"),
        ("preprocessing.std.0", True, "must be a positive number. Received: true"),
        ("preprocessing.std.0", 10**400, "must be a positive number"),
        ("preprocessing.size", [224], "'preprocessing.size' must be a list of height and width"),
        ("resize.size.0", 10**9, "'resize.size.0' must be a whole number from 1 to 16384"),
        ("resize.size.0", 2.5, "Received: 2.5"),
        ("resize.method", "stretch", "its field 'resize.method' must be 'crop' or 'pad'"),
        ("resize", ..., "its field 'resize' must be an object, and is missing"),
        ("final_resize.mode", "linear", "its field 'final_resize.mode' must be 'bilinear'"),
        ("final_resize.align_corners", None, "'final_resize.align_corners' must be True or False"),
        ("final_resize.crop_ratio", [1], "'final_resize.crop_ratio' must be a list of 2 numbers"),
        ("final_resize.crop_ratio", [2, 1], "its field 'final_resize' cannot be used"),
        ("metrics.0", 3, "its field 'metrics.0' must be an object. Received: 3"),
        ("metrics.0.value", "high", "its field 'metrics.0.value' must be a number"),
        ("metrics.0.value", ..., "its field 'metrics.0.value' must be a number, and is missing"),
        ("metrics.0.num_pictures", -1, "'metrics.0.num_pictures' must be a whole number from 0"),
        ("notes", [1], "its field 'notes' must be text. Received: a list of 1"),
        ("libraries.torch", 2.6, "its field 'libraries.torch' must be text. Received: 2.6"),
        ("task", "detection", "its field 'task' must be 'category' or 'multi_category' or 'regression'"),
        ("tensors_sha256", ..., "its field 'tensors_sha256' must be text, and is missing"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_was_received(
    manifest: Manifest, place: str, value: object, words: str
):
    with pytest.raises(ModelFileError) as caught:
        read_changed(manifest, place, value)
    assert words in str(caught.value)
    assert str(caught.value).startswith("model.safetensors is damaged")


def test_a_newer_format_names_the_version_that_wrote_it_whatever_else_it_holds():
    text = '{"format": "vizsla-model", "format_version": 3, "vizsla_version": "3.1"}'
    with pytest.raises(ModelFileError) as caught:
        manifest_from_json(text, path=PATH)
    assert str(caught.value) == (
        "model.safetensors is in model format 3, written by vizsla 3.1. The installed vizsla reads formats up to 2. "
        "Install a newer one: pip install --upgrade vizsla"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the manifest in its header is not JSON"),
        ("{'a': 1}", "the manifest in its header is not JSON"),
        ("[" * 100_000, "the manifest in its header is not JSON"),
        ("1" * 10_000, "the manifest in its header is not JSON"),
        ("[]", "its manifest must be an object. Received: a list of 0"),
        ("null", "its manifest must be an object. Received: null"),
        (" " * 16_000_001, "its manifest has 16,000,001 characters, more than 16,000,000"),
    ],
    ids=range(7),
)
def test_text_that_is_no_manifest_is_refused(text: str, words: str):
    with pytest.raises(ModelFileError) as caught:
        manifest_from_json(text, path=PATH)
    assert words in str(caught.value)
