"""A manifest survives JSON, and each field that is wrong is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from vizsla import ModelFileError, Predictor, Resize
from vizsla.evaluate.metrics import Metric
from vizsla.model_file import (
    FinalResize,
    Manifest,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
)
from vizsla.models import BackboneSpec
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


def test_a_manifest_comes_back_from_json_as_it_was(manifest: Manifest):
    plain = replace(manifest, resize=None, final_resize=FinalResize(), metrics=())
    versions: list[int] = []
    for one in (plain, *(replace(manifest, task=task) for task in get_args(Task))):
        text = manifest_to_json(one)
        assert manifest_from_json(text, path=PATH) == one
        versions.append(json.loads(text)["format_version"])
    # Older versions are not given labels that they would misread.
    assert versions == [1, 1, 2, 2]
    assert read_changed(manifest, "task", ...).task == "category"
    for bit_depth, version in ((16, 1), (12, 3), (8, 3)):
        text = manifest_to_json(replace(manifest, bit_depth=bit_depth))
        assert json.loads(text)["format_version"] == version
        assert manifest_from_json(text, path=PATH).bit_depth == bit_depth
    assert '"bit_depth"' not in manifest_to_json(manifest)
    text = manifest_to_json(replace(manifest, flip=False))
    assert json.loads(text)["format_version"] == 4
    assert not manifest_from_json(text, path=PATH).flip
    assert '"flip"' not in manifest_to_json(manifest)
    with pytest.raises(ModelFileError, match="flip"):
        read_changed(manifest, "flip", "no")
    with pytest.raises(ModelFileError, match="bit_depth"):
        read_changed(manifest, "bit_depth", 17)
    several = replace(manifest, task="multi_category")
    cuts = tuple(0.25 for _ in several.vocab)
    text = manifest_to_json(replace(several, thresholds=cuts))
    assert json.loads(text)["format_version"] == 4
    assert manifest_from_json(text, path=PATH).thresholds == cuts
    for refused, values in ((several, [0.5] * 9), (several, [2.0, 0.5]), (manifest, list(cuts))):
        with pytest.raises(ModelFileError, match="thresholds"):
            read_changed(refused, "thresholds", values)
    assert '"class_type"' not in manifest_to_json(manifest)
    assert read_changed(manifest, "class_type", "int").class_type == "int"


def test_the_size_is_that_of_the_last_resize(manifest: Manifest):
    assert manifest.size == (224, 160)
    presized = replace(manifest, final_resize=FinalResize())
    assert presized.size == (460, 320)
    assert replace(presized, resize=None).size is None


def test_a_metric_that_is_not_finite_is_null_in_json(manifest: Manifest):
    for value in (math.nan, math.inf):
        metric = Metric(name="macro_f1", value=value, low=0.0, high=1.0, num_pictures=1)
        text = manifest_to_json(replace(manifest, metrics=(metric,)))
        assert '"value": null' in text
        assert math.isnan(manifest_from_json(text, path=PATH).metrics[0].value)


def test_fields_of_a_later_version_of_the_same_format_are_ignored(manifest: Manifest):
    assert read_changed(manifest, "later", {"temperature": 1.5}) == manifest


# The field that is replaced (``...`` removes it), its value, the field that the message names, and what it says was received.
WRONG: tuple[tuple[str, object, str, str], ...] = (
    ("class_type", "float", "class_type", '"float"'),
    ("format", "other", "format", '"other"'),
    ("format_version", "1", "format_version", '"1"'),
    ("format_version", 0, "format_version", "0"),
    ("format_version", True, "format_version", "true"),
    ("created", 5, "created", "5"),
    ("backbone", [], "backbone", "a list of 0"),
    ("head.kind", "none", "backbone.source", '"timm"'),
    ("backbone.name", None, "backbone.name", "null"),
    ("backbone.name", ..., "backbone", "an object"),
    ("head", "x", "head", '"x"'),
    ("head", {"kind": "x" * 20_000}, "head", "an object"),
    ("vocab", {}, "vocab", "an object"),
    ("vocab", [], "vocab", "a list of 0"),
    ("vocab", ["a", "b", "a"], "vocab", "a list of 3"),
    ("vocab.1", 3, "vocab.1", "3"),
    ("preprocessing.mean", [0.5, 0.5], "preprocessing.mean", "a list of 2"),
    ("preprocessing.mean.2", "0", "preprocessing.mean.2", '"0"'),
    ("preprocessing.std.0", 0, "preprocessing.std", "a list of 3"),
    ("preprocessing.std.0", True, "preprocessing.std.0", "true"),
    ("preprocessing.size", [224], "preprocessing.size", "a list of 1"),
    ("resize.size.0", 10**9, "resize.size", "a list of 2"),
    ("resize.size.0", 2.5, "resize.size.0", "2.5"),
    ("resize.size", [4096, 4096], "resize.size", "a list of 2"),
    ("final_resize.size", [1, 4097], "final_resize.size", "a list of 2"),
    ("vocab.0", "x" * 1001, "vocab", "a list of 3"),
    ("backbone.name", "x" * 1001, "backbone.name", f'"{"x" * 79}'),
    ("metrics.0.name", "x" * 1001, "metrics.0.name", f'"{"x" * 79}'),
    ("libraries.torch", "x" * 1001, "libraries", "an object"),
    ("resize.method", "stretch", "resize.method", '"stretch"'),
    ("final_resize.mode", "linear", "final_resize.mode", '"linear"'),
    ("final_resize.align_corners", None, "final_resize.align_corners", "null"),
    ("final_resize.crop_ratio", [1], "final_resize.crop_ratio", "a list of 1"),
    ("final_resize.crop_ratio.0", -1, "final_resize.crop_ratio", "a list of 2"),
    ("metrics.0", 3, "metrics.0", "3"),
    ("metrics.0.value", "high", "metrics.0.value", '"high"'),
    ("metrics.0.value", ..., "metrics.0", "an object"),
    ("metrics.0.num_pictures", -1, "metrics.0.num_pictures", "-1"),
    ("notes", [1], "notes", "a list of 1"),
    ("libraries.torch", 2.6, "libraries", "an object"),
    ("task", "detection", "task", '"detection"'),
)  # fmt: skip


def test_a_wrong_field_is_named_with_what_was_received(manifest: Manifest):
    for place, value, field, received in WRONG:
        with pytest.raises(ModelFileError) as caught:
            read_changed(manifest, place, value)
        message = str(caught.value)
        assert message.startswith("model.safetensors is damaged"), place
        assert f"its field {field!r} " in message, place
        assert f"Received: {received}." in message, place


def test_a_missing_field_is_named(manifest: Manifest):
    for field in ("vizsla_version", "resize", "tensors_sha256"):
        with pytest.raises(ModelFileError, match=f"`{field}`"):
            read_changed(manifest, field, ...)


def test_numbers_and_ranges_that_make_no_sense_are_refused(manifest: Manifest):
    for number in (10**400, 1e300, 2**63, float("nan")):
        with pytest.raises(ModelFileError, match="out of range"):
            read_changed(manifest, "preprocessing.std.0", number)
    with pytest.raises(ModelFileError, match="'final_resize' cannot be used"):
        read_changed(manifest, "final_resize.crop_ratio", [2, 1])


def test_a_field_that_is_there_twice_is_refused(manifest: Manifest):
    text = manifest_to_json(manifest).replace('"notes"', '"notes": "", "notes"')
    with pytest.raises(ModelFileError, match="'notes' is there twice"):
        manifest_from_json(text, path=PATH)


def test_text_that_is_not_a_manifest_is_refused():
    for text, words in (
        *((text, "not JSON") for text in ("", "{'a': 1}", "[" * 100_000, "1" * 10_000)),
        ("[]", "a list of 0"),
        ("null", "null"),
        (" " * 16_000_001, "16,000,001 characters"),
    ):
        with pytest.raises(ModelFileError, match=words):
            manifest_from_json(text, path=PATH)


def test_the_model_file_keeps_a_calibration(calibrated: Path, saved: Path, calibration_for: Any):
    manifest = read_manifest(calibrated)
    assert manifest.calibration == calibration_for(manifest.vocab)
    assert read_manifest(saved).calibration is None


def test_an_impossible_calibration_is_refused_by_name(calibrated: Path):
    sound = read_manifest(calibrated)
    for place, value, field in (
        ("temperature", 0, "temperature"),
        ("temperature", 1e9, "temperature"),
        ("error_after", 2, "error_after"),
        ("num_pictures", "many", "num_pictures"),
        ("novelty", None, "novelty"),
        ("label_sets", {"coverages": [0.9, 0.5], "thresholds": [0.1, 0.2], "num_pictures": 9}, "label_sets.thresholds"),
        ("label_sets", {"coverages": [0.9], "thresholds": [0.1, 0.2], "num_pictures": 9}, "label_sets.thresholds"),
    ):  # fmt: skip
        with pytest.raises(ModelFileError, match=f"'calibration.{field}'"):
            read_changed(sound, f"calibration.{place}", value)


def test_a_file_without_calibration_predicts_as_before(
    saved: Path, rewrite: Callable[..., Path], make_image: Callable[..., Path]
):
    image = make_image("a.png")
    expected = Predictor.load(saved, device="cpu").predict(image)
    rewrite(saved, lambda manifest: manifest.pop("calibration"))
    found = Predictor.load(saved, device="cpu").predict(image)
    assert found == expected
    assert (found.familiarity, found.none_of_these, found.label_set) == (None, None, None)
