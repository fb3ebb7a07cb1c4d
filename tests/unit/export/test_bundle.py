"""What is saved comes back the same; what cannot come back is refused before anything is written."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.augment.geometry import RandomResizedCropGPU
from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, ModelFileError, OutputError, PictureError
from vizsla.evaluate.metrics import Metric
from vizsla.model_file.bundle import fingerprint, load_bundle, read_manifest, save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead, FeatureHead
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from pathlib import Path


def pictures() -> Tensor:
    return torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(2))


def logits_of(classifier: Classifier) -> Tensor:
    with torch.no_grad():
        return classifier.eval()(pictures())


def test_the_opened_classifier_gives_equal_logits(classifier: Classifier, saved: Path):
    opened = load_bundle(saved).classifier
    assert torch.equal(logits_of(opened), logits_of(classifier))
    assert not any(part.training for part in opened.modules())
    assert opened.vocab == classifier.vocab


def test_a_head_of_fitted_features_gives_equal_logits(tmp_path: Path):
    backbone = build_backbone("test_resnet", pretrained=False)
    head = FeatureHead(
        stages=[1, 2], statistics=["mean", "std"], num_features=160, num_classes=2, num_landmarks=5
    )
    for buffer in head.buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    classifier = Classifier(backbone, head, vocab=("a", "b"))
    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert torch.equal(logits_of(load_bundle(path).classifier), logits_of(classifier))


def test_a_network_of_torchvision_gives_equal_logits(tmp_path: Path):
    backbone = build_backbone("torchvision:squeezenet1_1", pretrained=False)
    classifier = Classifier(backbone, ConcatPoolHead(backbone.num_features, 2), vocab=("a", "b"))
    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert read_manifest(path).backbone.source == "torchvision"
    assert torch.equal(logits_of(load_bundle(path).classifier), logits_of(classifier))


def test_the_manifest_has_what_was_given(classifier: Classifier, tmp_path: Path):
    metric = Metric(name="accuracy", value=0.75, low=0.5, high=0.9, num_pictures=20)
    crop = RandomResizedCropGPU(32, ratio=(0.9, 1.1), valid_scale=0.8, mode="bicubic")
    path = save_bundle(
        tmp_path / "m.safetensors",
        classifier=classifier,
        resize=Resize(48, "squish"),
        augmentation=BatchAugmentation([crop]),
        metrics=[metric],
        data_fingerprint="1234",
        notes="from a test",
    )
    manifest = read_manifest(path)
    assert manifest.backbone == classifier.backbone.spec
    assert manifest.preprocessing == classifier.preprocessing
    assert manifest.vocab == classifier.vocab
    assert manifest.head == classifier.head.config()  # pyright: ignore[reportCallIssue] (a ConcatPoolHead)
    assert manifest.resize == Resize(48, "squish")
    assert manifest.size == (32, 32)
    assert manifest.final_resize.crop_ratio == (0.9, 1.1)
    assert manifest.metrics == (metric,)
    assert manifest.data_fingerprint == "1234"
    assert manifest.notes == "from a test"
    assert manifest.libraries["torch"] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest.created)
    assert load_bundle(path).manifest == manifest


def test_any_program_that_reads_safetensors_can_read_the_weights(
    classifier: Classifier, saved: Path
):
    with safe_open(saved, framework="pt") as file:
        assert set(file.keys()) == set(classifier.state_dict())


def test_saving_does_not_change_the_classifier(tmp_path: Path):
    backbone = build_backbone("test_resnet", pretrained=False)
    classifier = Classifier(backbone, ConcatPoolHead(backbone.num_features, 2), vocab=("a", "b"))
    classifier.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue] (torch's overloads lack it)
    before = copy.deepcopy(classifier.state_dict())
    random_state = torch.get_rng_state()
    save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert classifier.training
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.stride() == before[name].stride(), name


def test_half_precision_weights_are_stored_as_float32(tmp_path: Path, classifier: Classifier):
    half = copy.deepcopy(classifier).bfloat16()
    path = save_bundle(tmp_path / "m.safetensors", classifier=half, resize=None)
    for name, value in load_bundle(path).classifier.state_dict().items():
        expected = half.state_dict()[name]
        assert torch.equal(value, expected.float() if expected.is_floating_point() else expected)


def test_weights_that_two_layers_share_are_stored_for_both(classifier: Classifier, tmp_path: Path):
    tied = copy.deepcopy(classifier)
    norms = [part for part in tied.modules() if isinstance(part, nn.BatchNorm2d)]
    first, second = [norm for norm in norms if norm.num_features == 192]
    second.weight = first.weight
    path = save_bundle(tmp_path / "m.safetensors", classifier=tied, resize=None)
    assert torch.equal(logits_of(load_bundle(path).classifier), logits_of(tied))


def test_others_may_read_the_file(classifier: Classifier, tmp_path: Path):
    other = tmp_path / "plain"
    other.touch()
    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert path.stat().st_mode == other.stat().st_mode


def test_a_module_of_the_users_own_is_refused_before_anything_is_written(tmp_path: Path):
    backbone = build_backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    classifier = Classifier(backbone, ConcatPoolHead(4, 2), vocab=("a", "b"))
    with pytest.raises(ConfigError, match=r"Sequential is an nn\.Module of your own"):
        save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_the_users_own_is_refused(tmp_path: Path):
    backbone = build_backbone("test_resnet", pretrained=False)
    classifier = Classifier(backbone, nn.Identity(), vocab=("a",))
    with pytest.raises(ConfigError, match="The head Identity is not one that"):
        save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)


def test_a_network_that_was_changed_after_it_was_built_is_refused(
    classifier: Classifier, tmp_path: Path
):
    changed = copy.deepcopy(classifier)
    changed.head.add_module("more", nn.Linear(4, 4))
    with pytest.raises(ConfigError) as caught:
        save_bundle(tmp_path / "m.safetensors", classifier=changed, resize=None)
    assert "test_resnet was changed after it was built" in str(caught.value)
    assert "head.more.bias is unexpected" in str(caught.value)


def test_a_network_whose_name_is_gone_is_refused(classifier: Classifier, tmp_path: Path):
    renamed = copy.deepcopy(classifier)
    renamed.backbone.spec = replace(renamed.backbone.spec, name="gone")
    with pytest.raises(ConfigError, match="The network gone cannot be built again"):
        save_bundle(tmp_path / "m.safetensors", classifier=renamed, resize=None)


def test_a_missing_folder_is_an_output_error(classifier: Classifier, tmp_path: Path):
    with pytest.raises(OutputError, match="Create the folder first"):
        save_bundle(tmp_path / "no" / "m.safetensors", classifier=classifier, resize=None)


def test_a_safetensors_file_without_manifest_is_no_model(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match="is a safetensors file, but not one that vizsla"):
        read_manifest(path)


def test_an_edited_manifest_is_noticed(saved: Path):
    content = saved.read_bytes()
    assert content.count(b"cross") == 1
    saved.write_bytes(content.replace(b"cross", b"Cross"))
    with pytest.raises(ModelFileError, match="its manifest was changed after it was written"):
        read_manifest(saved)


def test_changed_weights_are_noticed(saved: Path):
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    assert read_manifest(saved).vocab[0] == "cross"
    with pytest.raises(ModelFileError, match="its weights are not those that were written"):
        load_bundle(saved)


def test_a_tensor_of_a_strange_type_is_refused_before_it_is_read(saved: Path):
    with safe_open(saved, framework="pt") as file:
        header = dict(file.metadata())
    save_file({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}, saved, metadata=header)
    with pytest.raises(ModelFileError, match="its tensor 'a' is of type F8_E4M3"):
        load_bundle(saved)


def test_weights_that_do_not_fit_the_named_network_are_named(saved: Path, rewrite: Any):
    def other_head(manifest: dict[str, Any]) -> None:
        manifest["head"]["lin_ftrs"] = [17]

    rewrite(saved, other_head)
    with pytest.raises(ModelFileError) as caught:
        load_bundle(saved)
    assert "do not fit the network test_resnet: " in str(caught.value)
    assert "head.layers.4.weight is F32 [16, 192] and should be F32 [17, 192]" in str(caught.value)
    assert "; and 3 more" in str(caught.value)


def test_a_network_that_the_installed_libraries_lack_is_named(saved: Path, rewrite: Any):
    def other_network(manifest: dict[str, Any]) -> None:
        manifest["backbone"]["name"] = "resnet_next_year"

    rewrite(saved, other_network)
    with pytest.raises(ModelFileError, match="timm 'resnet_next_year' with a head of kind"):
        load_bundle(saved)


def test_the_fingerprint_depends_on_names_sizes_and_labels_and_not_on_order_or_place(
    tmp_path: Path,
):
    def table(root: Path, names: list[str], targets: list[int]) -> PictureTable:
        nothing = torch.zeros(0, dtype=torch.int64)
        return PictureTable(
            root=root,
            paths=tuple(root / name for name in names),
            targets=torch.tensor(targets),
            vocab=("a", "b"),
            train_rows=nothing,
            valid_rows=nothing,
        )

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("x.jpg", "y.jpg", "z.jpg")):
            (tmp_path / folder / name).write_bytes(bytes(number + 1))
    one, two = tmp_path / "one", tmp_path / "two"
    same = fingerprint(table(one, ["x.jpg", "y.jpg"], [0, 1]))
    assert fingerprint(table(two, ["y.jpg", "x.jpg"], [1, 0])) == same
    assert fingerprint(table(one, ["x.jpg", "y.jpg"], [0, 0])) != same
    assert fingerprint(table(one, ["x.jpg", "z.jpg"], [0, 1])) != same
    (two / "y.jpg").write_bytes(np.arange(9, dtype=np.uint8).tobytes())
    assert fingerprint(table(two, ["x.jpg", "y.jpg"], [0, 1])) != same
    (two / "y.jpg").unlink()
    with pytest.raises(PictureError, match=r"y\.jpg cannot be read any more"):
        fingerprint(table(two, ["x.jpg", "y.jpg"], [0, 1]))
