"""What is saved comes back the same; what cannot come back is refused before anything is written."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vizsla import (
    ConfigError,
    CropPad,
    Flip,
    ModelFileError,
    OutputError,
    PictureError,
    Predictor,
    RandomResizedCrop,
    RandomResizedCropGPU,
    RatioResize,
    Resize,
    aug_transforms,
)
from vizsla.augment import BatchAugmentation, BatchTransform
from vizsla.data.images import ItemTransforms, Sizing, item_pipeline
from vizsla.data.table import fingerprint, resolve_data
from vizsla.evaluate.metrics import Metric
from vizsla.model_file import (
    FinalResize,
    Manifest,
    check_is_safetensors,
    expected_forms,
    load_bundle,
    read_manifest,
    rebuild_classifier,
    save_bundle,
    storable,
)
from vizsla.models import BackboneSpec, Classifier, ConcatPoolHead, FeatureHead, build_backbone


def logits_of(classifier: Classifier) -> Tensor:
    images = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return classifier.eval()(images)


def test_the_opened_classifier_gives_equal_logits(classifier: Classifier, saved: Path):
    opened = load_bundle(saved).classifier
    assert torch.equal(logits_of(opened), logits_of(classifier))
    assert not any(part.training for part in opened.modules())
    assert opened.vocab == classifier.vocab


def test_other_heads_and_libraries_give_equal_logits(tmp_path: Path):
    timm = build_backbone("test_resnet", pretrained=False)
    torchvision = build_backbone("torchvision:squeezenet1_1", pretrained=False)
    fitted = FeatureHead(
        stages=[1, 2], statistics=["mean", "std"], num_features=160, num_classes=2, num_landmarks=5
    )
    for buffer in fitted.buffers():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    for backbone, head in (
        (timm, fitted),
        (torchvision, ConcatPoolHead(torchvision.num_features, 2)),
    ):
        classifier = Classifier(backbone, head, vocab=("a", "b"))
        path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
        assert read_manifest(path).backbone.source == backbone.spec.source
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
    for name, expected in {
        "backbone": classifier.backbone.spec,
        "preprocessing": classifier.preprocessing,
        "vocab": classifier.vocab,
        "head": classifier.head.config(),  # pyright: ignore[reportCallIssue] (a ConcatPoolHead)
        "resize": Resize(48, "squish"),
        "size": (32, 32),
        "metrics": (metric,),
        "data_fingerprint": "1234",
        "notes": "from a test",
    }.items():
        assert getattr(manifest, name) == expected, name
    assert manifest.final_resize.crop_ratio == (0.9, 1.1)
    assert manifest.libraries["torch"] == torch.__version__.split("+")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest.created)
    assert load_bundle(path).manifest == manifest


def test_other_programs_and_users_can_read_the_file(classifier: Classifier, tmp_path: Path):
    (tmp_path / "plain").touch()
    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=None)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with safe_open(path, framework="pt") as file:
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


def test_what_a_file_could_not_bring_back_is_not_saved(classifier: Classifier, tmp_path: Path):
    known = build_backbone("test_resnet", pretrained=False)
    changed, renamed, half = (copy.deepcopy(classifier) for _ in range(3))
    half.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    changed.head.add_module("more", nn.Linear(4, 4))
    renamed.backbone.spec = replace(renamed.backbone.spec, name="gone")
    for wrong, facts in (
        (half, "phase.*complex64"),
        (Classifier(known, nn.Identity(), vocab=("a",)), "head Identity"),
        (changed, "test_resnet was changed .*head.more.bias is unexpected"),
        (renamed, "network gone cannot be rebuilt"),
    ):
        with pytest.raises(ConfigError, match=facts):
            save_bundle(tmp_path / "m.safetensors", classifier=wrong, resize=None)
    with pytest.raises(OutputError, match="Create the folder first"):
        save_bundle(tmp_path / "no" / "m.safetensors", classifier=classifier, resize=None)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_of_manifest_or_weights_is_noticed(saved: Path):
    content = saved.read_bytes()
    changed = bytearray(content)
    changed[-100] ^= 1
    saved.write_bytes(changed)
    assert read_manifest(saved).vocab[0] == "cross"
    with pytest.raises(ModelFileError, match="its weights are not those that were written"):
        load_bundle(saved)
    assert content.count(b"cross") == 1
    saved.write_bytes(content.replace(b"cross", b"Cross"))
    with pytest.raises(ModelFileError, match="its manifest was changed after it was written"):
        read_manifest(saved)


def test_a_tensor_of_a_strange_type_is_refused_before_it_is_read(saved: Path):
    with safe_open(saved, framework="pt") as file:
        header = dict(file.metadata())
    save_file({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}, saved, metadata=header)
    with pytest.raises(ModelFileError, match="its tensor 'a' is of type F8_E4M3"):
        load_bundle(saved)


def test_weights_that_do_not_fit_the_named_network_are_named(saved: Path, rewrite: Any):
    rewrite(saved, lambda manifest: manifest["head"].update(lin_ftrs=[17]))
    shapes = r"head\.layers\.4\.weight is F32 \[16, 192\] and should be F32 \[17, 192\]"
    with pytest.raises(ModelFileError, match=rf"network test_resnet: .*{shapes}.*and 3 more"):
        load_bundle(saved)


def test_a_file_with_another_digest_is_not_opened(saved: Path):
    found = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert Predictor.load(saved, device="cpu", sha256=found.upper()).path == saved
    with pytest.raises(ModelFileError, match=rf"its SHA-256 is {found}, expected {'0' * 64}"):
        Predictor.load(saved, sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"64 hexadecimal digits.*'0x12'"):
        Predictor.load(saved, sha256="0x12")
    saved.unlink()
    with pytest.raises(ModelFileError, match="There is no model file"):
        Predictor.load(saved, sha256="0" * 64)


def test_the_fingerprint_is_of_names_sizes_and_labels_alone(image_folder: Path, tmp_path: Path):
    table = resolve_data(image_folder, seed=0)
    same = fingerprint(table)
    backwards = replace(table, paths=table.paths[::-1], targets=table.targets.flip(0))
    elsewhere = resolve_data(shutil.copytree(image_folder, tmp_path / "copy"), seed=0)
    assert fingerprint(backwards) == fingerprint(elsewhere) == same
    assert fingerprint(replace(table, targets=1 - table.targets)) != same
    first = table.paths[0]
    renamed = replace(table, paths=(first.rename(first.with_name("other.jpg")), *table.paths[1:]))
    assert fingerprint(renamed) != same
    with pytest.raises(PictureError, match=rf"{first.name} can no longer be read"):
        fingerprint(table)
    first.write_bytes(b"another number of bytes")
    assert fingerprint(table) != same


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        check_is_safetensors(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_not_a_model_file_is_never_opened(saved: Path, tmp_path: Path):
    check_is_safetensors(saved)
    assert "There is no model file" in refusal(tmp_path / "gone.safetensors")
    assert str(tmp_path / "model.safetensors") in refusal(tmp_path)
    path = tmp_path / "other"
    for protocol in range(6):
        for value in ([1, 2], {"a": 1}, [], {}, {1, 2}, Path("x")):
            path.write_bytes(pickle.dumps(value, protocol=protocol))
            assert "is a Python pickle. It was not opened" in refusal(path), (protocol, value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    assert "is a zip archive" in refusal(path)
    for content, words in (
        (b"", "0 bytes"),
        (b"\x08\0\0\0\0\0\0\0{", "9 bytes"),
        (b"\x09\0\0\0\0\0\0\0{}      ", "should have 9 bytes"),
        (b"\0\0\0\0\0\0\0\x80{}      ", "should have 9,223,372,036,854,775,808 bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "not in the safetensors format"),
        (b"epoch,loss\n1,0.5\n", "not in the safetensors format"),
    ):
        path.write_bytes(content)
        assert words in refusal(path), content


def test_a_header_beyond_the_limit_of_the_format_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(300_000_000)  # A hole: takes no disk space.
    assert "its header should have 200,000,000 bytes (at most 100,000,000)" in refusal(path)


def test_a_header_length_that_looks_like_a_pickle_is_accepted(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((0x0280).to_bytes(8, "little") + b"{}".ljust(0x0280))
    assert path.read_bytes()[:2] == b"\x80\x02"
    check_is_safetensors(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_a_pipe_is_refused_without_waiting_and_a_read_error_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(tmp_path / "pipe")
    assert "/proc/self/mem: Input/output error" in refusal(Path("/proc/self/mem"))


PATH = Path("model.safetensors")


@pytest.fixture
def manifest(saved: Path) -> Manifest:
    return read_manifest(saved)


def spec(source: str, name: str) -> BackboneSpec:
    return BackboneSpec(source=source, name=name, weights="random", licence="")  # pyright: ignore[reportArgumentType] (some are wrong on purpose)


def test_the_rebuilt_classifier_has_origin_and_normalisation_of_the_manifest(manifest: Manifest):
    marked = replace(
        manifest,
        backbone=replace(manifest.backbone, weights="hub", licence="MIT"),
        preprocessing=replace(manifest.preprocessing, mean=(0.1, 0.2, 0.3)),
    )
    classifier = rebuild_classifier(marked, path=PATH)
    assert classifier.backbone.spec == marked.backbone
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


def test_global_random_numbers_are_left_as_they_are(manifest: Manifest):
    features = {"kind": "features", "stages": [1], "statistics": ["mean"]}
    features |= {"num_landmarks": 0, "bandwidth": 1.0}
    before = torch.get_rng_state()
    rebuild_classifier(replace(manifest, head=features), path=PATH)
    expected_forms(manifest, path=PATH, found=forms(20))
    assert torch.equal(torch.get_rng_state(), before)


def forms(count: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """So many small tensors, as a file may hold them."""
    return {str(number): ("F32", (4,)) for number in range(count)}


def test_a_network_that_calculates_while_it_is_built_needs_no_memory(manifest: Manifest):
    # 2.6 GB of weights; torchvision's RegNets cannot be built on the "meta" device alone.
    largest = replace(manifest, backbone=spec("torchvision", "regnet_y_128gf"))
    found = {str(number): ("F32", (1_000_000,)) for number in range(640)}
    expected = expected_forms(largest, path=PATH, found=found)
    assert expected["backbone.network.stem.0.weight"] == ("F32", (32, 3, 3, 3))
    assert sum(torch.Size(shape).numel() for _, shape in expected.values()) > 600_000_000


def test_a_head_of_exabytes_is_given_up(manifest: Manifest):
    heads: tuple[dict[str, object], ...] = (
        {"kind": "concat_pool", "lin_ftrs": [10**9, 10**9]},
        {"kind": "features", "stages": [0] * 1000, "statistics": ["mean"], "num_landmarks": 10**9, "bandwidth": 1.0},
    )  # fmt: skip
    for head in heads:
        with pytest.raises(ModelFileError, match="far larger than the file"):
            expected_forms(replace(manifest, head=head), path=PATH, found=forms(20))


def test_a_large_network_is_given_up_as_soon_as_a_small_file_cannot_hold_it(manifest: Manifest):
    for source, name in (
        ("torchvision", "regnet_y_128gf"),
        ("timm", "mvitv2_huge_cls"),
        ("timm", "vit_giant_patch14_224"),
    ):
        large = replace(manifest, backbone=spec(source, name))
        with pytest.raises(ModelFileError, match=f"{name}, which is far larger than the file"):
            expected_forms(large, path=PATH, found=forms(10))


def test_an_unknown_network_is_named_with_the_versions_that_knew_it(manifest: Manifest):
    libraries = {"torch": "9.0", "timm": "8.5"}
    for source, name in (
        ("timm", "resnet_next_year"),
        ("torchvision", "test_resnet"),
        ("timm", "hf-hub:somebody/model"),
        ("timm", "local-dir:/tmp"),
        ("timm", "../../etc/passwd"),
        ("timm", ""),
    ):
        other = replace(manifest, backbone=spec(source, name), libraries=libraries)
        with pytest.raises(ModelFileError) as caught:
            rebuild_classifier(other, path=PATH)
        for fact in (f"{source} {name!r}", "vizsla 0.1.0, torch 9.0, timm 8.5"):
            assert fact in str(caught.value)


def test_a_head_that_makes_no_sense_is_refused(manifest: Manifest):
    heads: tuple[dict[str, object], ...] = (
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
    )  # fmt: skip
    for head in heads:
        with pytest.raises(ModelFileError, match="cannot be built"):
            expected_forms(replace(manifest, head=head), path=PATH, found=forms(20))


def test_a_final_resize_shows_what_validation_saw():
    images, rows = torch.randint(0, 256, (3, 3, 40, 52), dtype=torch.uint8), torch.arange(3)
    cases: tuple[tuple[Sequence[BatchTransform], tuple[int, int] | None], ...] = (
        ([], None),
        ([], (20, 24)),
        (aug_transforms(), None),
        (aug_transforms(size=24), None),
        (aug_transforms(size=24, mode="bicubic", pad_mode="zeros", align_corners=False), (30, 20)),
        (aug_transforms(size=24, min_scale=0.5), None),
        ([RandomResizedCropGPU(24, ratio=(1, 1), valid_scale=0.7)], None),
        ([Flip(mode="nearest"), RandomResizedCropGPU((16, 24), ratio=(0.5, 0.6))], None),
    )
    for transforms, size in cases:
        original = BatchAugmentation(transforms, size=size, seed=3)
        copied = FinalResize.of(original).augmentation()
        expected = original(images, rows=rows, epoch=0, training=False)
        assert torch.equal(copied(images, rows=rows, epoch=0, training=False), expected)
    copied = FinalResize.of(BatchAugmentation(aug_transforms(size=24))).augmentation()
    trained = copied(images, rows=rows, epoch=1, training=True)
    assert torch.equal(trained, copied(images, rows=rows, epoch=0, training=False))


def shown(resize: Sizing | None, augmentation: BatchAugmentation, image: Image.Image) -> Tensor:
    pixels = np.array(image if resize is None else resize.presize(image, training=False))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return augmentation(images, rows=torch.arange(1), epoch=0, training=False)


def drawn(height: int = 90, width: int = 120) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def test_a_stored_random_resized_crop_shows_the_same_pixels():
    plain = BatchAugmentation(aug_transforms())
    for size, val_xtra in product((24, 37, 64), (0.0, 0.14)):
        crop = RandomResizedCrop(size, val_xtra=val_xtra)
        found = shown(*storable(item_pipeline(crop), plain), drawn())
        expected = shown(crop, plain, drawn())
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)
    crop = RandomResizedCrop(64)
    batches = BatchAugmentation(aug_transforms(size=32))
    found = shown(*storable(item_pipeline(crop), batches), drawn())
    assert found.shape == (1, 3, 32, 32)
    assert (found - shown(crop, batches, drawn())).abs().mean() < 0.01


def test_a_plain_resize_is_stored_as_it_is():
    batches = BatchAugmentation(aug_transforms(size=24, min_scale=0.5))
    assert storable(item_pipeline(Resize(40)), batches) == (Resize(40), batches)
    assert storable(item_pipeline(None), batches) == (None, batches)


def test_what_a_file_cannot_hold_is_refused():
    cases: tuple[tuple[ItemTransforms, str], ...] = (
        ([Resize(24), np.flipud], "flipud"),
        (CropPad(24), r"CropPad\(size=\(24, 24\)"),
        (RatioResize(24), r"RatioResize\(max_sz=24\)\. Use Resize"),
    )
    for transforms, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            storable(item_pipeline(transforms), BatchAugmentation())
    batches = BatchAugmentation(aug_transforms(size=24, min_scale=0.5))
    with pytest.raises(ConfigError, match="a random crop of batches"):
        storable(item_pipeline(RandomResizedCrop(40)), batches)


pytest.importorskip("resource", reason="limits of memory are of POSIX systems")

FUZZER = Path(__file__).with_name("model_file_fuzzer.py")
SEED = 20_250
MOST_KILOBYTES = 150_000
MOST_SECONDS = 4


@pytest.fixture
def check_damaged(tmp_path: Path, python: Callable[..., str]) -> Callable[[int], None]:
    """Return a function that has so many damaged copies of a model file opened, and looks at what came of it."""
    path = tmp_path / "model.safetensors"
    backbone = build_backbone("test_efficientnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 3, lin_ftrs=[4], seed=1)
    with torch.no_grad():
        save_bundle(
            path,
            classifier=Classifier(backbone, head, vocab=("a", "b", "c")),
            resize=Resize(32),
            size=(32, 32),
            metrics=[Metric(name="accuracy", value=0.75, low=0.5, high=0.9, num_pictures=20)],
        )

    def check(count: int) -> None:
        found = json.loads(python(FUZZER, path, SEED, 0, count, timeout=1500).splitlines()[-1])
        assert found["problems"] == []
        assert found["forbidden"] == []
        assert found["grown_kilobytes"] < MOST_KILOBYTES
        assert found["slowest"][0] < MOST_SECONDS
        outcomes = found["outcomes"].values()
        assert sum(sum(outcome.values()) for outcome in outcomes) == count
        # Damage that is no damage would test nothing, and a file that is refused always neither.
        refused = sum(outcome.get("refused", 0) for outcome in outcomes)
        assert 0.6 * count < refused < 0.98 * count

    return check


def test_50_damaged_files_are_refused_or_open(check_damaged: Callable[[int], None]):
    check_damaged(50)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_10_000_damaged_files_are_refused_or_open(check_damaged: Callable[[int], None]):
    check_damaged(10_000)
