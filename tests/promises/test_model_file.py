"""Promises about the model file: it opens anywhere, runs nothing, notices damage, and a failed export harms nothing."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vizsla import ModelFileError, OutputError, Predictor, Resize
from vizsla.evaluate.metrics import Metric
from vizsla.model_file import load_bundle, read_manifest, save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OPENERS: tuple[Callable[[Path], object], ...] = (read_manifest, load_bundle, Predictor.load)


@pytest.fixture(scope="module")
def classifier(make_classifier: Callable[..., Classifier]) -> Classifier:
    return make_classifier(("cross", "disc"))


@pytest.fixture(scope="module")
def content(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound model file."""
    path = tmp_path_factory.mktemp("promises") / "model.safetensors"
    return save_bundle(path, classifier=classifier, resize=Resize(48), size=(32, 32)).read_bytes()


@pytest.fixture
def model_file(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def logits_of(classifier: Classifier) -> Tensor:
    with torch.no_grad():
        return classifier(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def weights_are_equal(one: Classifier, other: Classifier) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


# --- opens anywhere, runs nothing ------------------------------------------------------------------------------------

OPEN_AND_PREDICT = """
import json, pickle, sys
import torch

class Refused:
    def __init__(self, *args, **kwargs):
        raise SystemExit("something was unpickled")

pickle.Unpickler = pickle.load = pickle.loads = torch.load = Refused

from vizsla.predict.predictor import Predictor

answer = Predictor.load(sys.argv[1], device="cpu").predict(sys.argv[2])
print(json.dumps({"label": answer.label, "probabilities": answer.probabilities.tolist(),
                  "modules": list(sys.modules)}))
"""


@pytest.fixture(scope="module")
def elsewhere(
    tmp_path_factory: pytest.TempPathFactory, python: Callable[..., str]
) -> tuple[dict[str, Any], Path, Path]:
    """What a fresh interpreter says that opens a model file with all unpickling disabled; the file and the picture."""
    folder = tmp_path_factory.mktemp("elsewhere")
    backbone = build_backbone("efficientnet_lite0", pretrained=False, seed=1)
    made = Classifier(backbone, ConcatPoolHead(1280, 2, seed=1), vocab=("cross", "disc")).eval()
    save_bundle(folder / "model.safetensors", classifier=made, resize=Resize(48), size=(32, 32))
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    printed = python("-c", OPEN_AND_PREDICT, "model.safetensors", "picture.png", cwd=folder)
    return json.loads(printed), folder / "model.safetensors", folder / "picture.png"


def test_a_model_file_opens_and_predicts_with_all_unpickling_disabled(
    elsewhere: tuple[dict[str, Any], Path, Path],
):
    found, model, picture = elsewhere
    expected = Predictor.load(model, device="cpu").predict(picture)
    assert found["label"] == expected.label
    assert found["probabilities"] == pytest.approx(expected.probabilities.tolist(), abs=2e-6)


def test_a_model_file_opens_without_the_training_parts(
    elsewhere: tuple[dict[str, Any], Path, Path],
):
    modules = elsewhere[0]["modules"]
    assert "vizsla.model_file.bundle" in modules
    above = ("train", "recipe", "report", "run", "notebook", "classic", "all", "serve", "cli")
    assert {f"vizsla.{name}" for name in above} & set(modules) == set()


def test_opening_the_packaged_network_and_predicting_imports_no_heavy_package(
    elsewhere: tuple[dict[str, Any], Path, Path],
):
    heavy = {"timm", "torchvision", "pandas", "matplotlib", "sympy", "torch._dynamo"}
    assert heavy & set(elsewhere[0]["modules"]) == set()


class Bomb:
    """A pickle of it creates a file when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["pickle 0", "pickle 2", "pickle 5", "torch", "torch of old"])
@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__qualname__)
def test_a_crafted_pickle_is_refused_and_never_executed(
    tmp_path: Path, kind: str, opener: Callable[[Path], object]
):
    path, marker = tmp_path / "model.safetensors", tmp_path / "executed"
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Bomb(marker), protocol=int(kind[-1])))
    else:
        torch.save(Bomb(marker), path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(ModelFileError, match="not opened, because opening a pickle can run any"):
        opener(path)
    assert not marker.exists()


def test_the_crafted_pickle_of_these_tests_would_have_run(tmp_path: Path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))  # noqa: S301 (it shows that the bomb is a real one)
    assert (tmp_path / "executed").exists()


# --- old, newer and damaged files ------------------------------------------------------------------------------------


def frozen(name: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Write a model file as an earlier version wrote it; return its path and what is in it."""
    golden = json.loads((GOLDEN / name).read_text())
    tensors: dict[str, Tensor] = {}
    for number, (name, (dtype, shape)) in enumerate(golden["tensors"].items()):
        values = (torch.arange(int(np.prod(shape, dtype=int))) * 31 + number * 17) % 101 + 27
        tensors[name] = (values / 1024 if dtype == "F32" else values).reshape(shape)
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata=golden["metadata"])
    return path, tensors


def test_a_model_file_of_version_0_1_0_still_opens(tmp_path: Path):
    path, tensors = frozen("model_file_v1.json", tmp_path)
    bundle = load_bundle(path)
    for name, value in bundle.classifier.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    manifest = bundle.manifest
    metric = Metric(name="accuracy", value=0.75, low=0.5, high=0.875, num_pictures=8)
    assert manifest.vocab == ("cross", "disc")
    assert (manifest.backbone.name, manifest.backbone.weights) == ("test_resnet", "random")
    assert (manifest.resize, manifest.size) == (Resize(48, reducing_gap=1), (32, 32))
    assert manifest.metrics == (metric,)
    assert (manifest.data_fingerprint, manifest.notes) == ("0123abcd", "golden")
    assert (manifest.task, manifest.calibration) == ("category", None)


def test_a_model_file_of_format_2_still_opens(tmp_path: Path):
    path, tensors = frozen("model_file_v2.json", tmp_path)
    bundle = load_bundle(path)
    for name, value in bundle.classifier.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    manifest = bundle.manifest
    assert (manifest.task, manifest.vocab) == ("multi_category", ("large", "odd", "Füchse"))
    assert manifest.head["kind"] == "features"
    assert (manifest.resize, manifest.size) == (
        Resize((48, 40), "pad", "zeros", reducing_gap=1),
        (32, 36),
    )
    assert (manifest.final_resize.crop_ratio, manifest.final_resize.mode) == (
        (0.75, 1.25),
        "bicubic",
    )
    assert [metric.name for metric in manifest.metrics] == ["f1_macro", "auc"]
    assert np.isnan(manifest.metrics[1].value)
    assert manifest.calibration is not None
    assert manifest.calibration.temperature == 1.5
    assert manifest.calibration.novelty.quantiles == (-1.5, 0.25, 3.0)
    picture = (np.arange(60 * 50 * 3) * 37 % 251).astype(np.uint8).reshape(60, 50, 3)
    found = Predictor.load(path, device="cpu").predict(picture).probabilities.tolist()
    assert found == pytest.approx([0.5096017, 0.5146443, 0.5196838], abs=1e-5)


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(tmp_path: Path):
    text = '{"format": "vizsla-model", "format_version": 7, "vizsla_version": "4.2.0"}'
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = tmp_path / "model.safetensors"
    header = {"vizsla.manifest": text, "vizsla.sha256": digest}
    save_file({"a": torch.zeros(1)}, path, metadata=header)
    for opener in OPENERS:
        with pytest.raises(ModelFileError, match=r"model format 7, written by vizsla 4\.2\.0"):
            opener(path)


@pytest.mark.parametrize("num_kept", [0, 1, 7, 8, 9, 100, 20_000, -100_000, -1])
def test_a_truncated_file_is_refused(model_file: Path, content: bytes, num_kept: int):
    model_file.write_bytes(content[:num_kept])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is ") as caught:
        load_bundle(model_file)
    assert str(model_file) in str(caught.value)


def test_bytes_after_the_end_are_noticed(model_file: Path, content: bytes):
    model_file.write_bytes(content + b"more")
    with pytest.raises(ModelFileError):
        load_bundle(model_file)


def test_300_damaged_files_are_refused_or_load_as_if_undamaged(
    model_file: Path, content: bytes, classifier: Classifier
):
    draw = np.random.default_rng(0)
    header_end = 8 + int.from_bytes(content[:8], "little")
    manifest = read_manifest(model_file)
    start = time.monotonic()
    num_refused = 0
    for number in range(300):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        # A third each: the length and what follows it, the header, anywhere.
        end = (24, header_end, len(content))[number % 3]
        for position in draw.integers(0, end, size=1 + number % 2):
            damaged[position] ^= draw.integers(1, 256, dtype=np.uint8)
        model_file.write_bytes(damaged.tobytes())
        try:
            bundle = load_bundle(model_file)
        except ModelFileError:
            num_refused += 1
        else:
            assert bundle.manifest == manifest
            assert weights_are_equal(bundle.classifier, classifier)
    assert num_refused > 290
    assert time.monotonic() - start < 60


# --- a failed export -------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_a_usable_classifier(
    model_file: Path, content: bytes, classifier: Classifier
):
    resource = pytest.importorskip("resource", reason="limits of file size are of POSIX systems")
    before = logits_of(classifier)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so a write beyond the limit fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))
    try:
        with pytest.raises(OutputError) as caught:
            save_bundle(model_file, classifier=classifier, resize=Resize(48))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(model_file) in str(caught.value)
    assert "What was there before is untouched." in str(caught.value)
    assert model_file.read_bytes() == content
    assert list(model_file.parent.iterdir()) == [model_file]
    assert torch.equal(logits_of(classifier), before)
    save_bundle(model_file, classifier=classifier, resize=Resize(48))
    assert weights_are_equal(load_bundle(model_file).classifier, classifier)
