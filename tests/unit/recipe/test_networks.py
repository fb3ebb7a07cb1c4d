"""Choosing a network by leave-one-out, two networks side by side, and what a network wants of the size."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from rich.console import Console

from vizsla import ConfigError, TrainConfig, grad_cam, train_classifier, vision_learner
from vizsla.data.table import resolve_data
from vizsla.infer import image_features, predict_batches
from vizsla.model_file import load_bundle, save_bundle
from vizsla.models import BackboneSpec, Classifier, build_backbone
from vizsla.recipe import EPOCH_COLUMNS, TrainedRun, choose_network, loaders_for
from vizsla.recipe.features_first import (
    compute_features,
    features_first,
    finish_stage,
    join_features,
)
from vizsla.train import Display
from vizsla.types import ImageTable

CONFIG = TrainConfig(size=32, batch_size=8, epochs=0, device="cpu")
TINY = "test_resnet.r160_in1k"
BOTH = f"efficientnet_lite0+{TINY}"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of one small network are in the cache of the hub, which cannot be reached; returns their file."""
    import timm

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "hub" / f"models--timm--{TINY}"
    file = folder / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return file


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    return resolve_data(image_folder, seed=0)


@pytest.fixture
def screen() -> Display:
    return Display(console=Console(file=io.StringIO(), width=200))


def text_on(screen: Display) -> str:
    return cast("io.StringIO", screen.console.file).getvalue()


def train(table: ImageTable, screen: Display, **options: Any) -> TrainedRun:
    return train_classifier(table, config=replace(CONFIG, **options), display=screen)


def test_the_fastest_network_that_may_be_the_best_is_chosen(table: ImageTable, screen: Display):
    archs = ("efficientnet_lite0", TINY)
    loaders = loaders_for(table, config=CONFIG)
    choice = choose_network(loaders, config=CONFIG, display=screen, archs=archs)
    assert {each.arch for each in choice.tried} == {*archs, BOTH}
    losses = [each.loss for each in choice.tried]
    assert losses == sorted(losses)
    best = choice.tried[0]
    speeds = {best.arch: best.images_per_second}
    for each in choice.tried[1:]:
        worse = (each.losses - best.losses).double()
        if worse.mean() <= 1.96 * worse.std() / len(worse) ** 0.5:
            speeds[each.arch] = each.images_per_second
    assert choice.arch == max(speeds, key=lambda arch: speeds[arch])
    assert choice.arch in choice.reason
    for each in choice.tried:
        assert sorted(each.left_out.rows.tolist()) == sorted(table.train_rows.tolist())
        assert f"{each.loss:.4f}" in text_on(screen)


def test_what_is_too_slow_damaged_or_for_another_size_is_left_out(
    table: ImageTable, screen: Display, weights: Path
):
    loaders = loaders_for(table, config=CONFIG)
    archs = ("efficientnet_lite0", TINY)
    choice = choose_network(loaders, config=CONFIG, display=screen, archs=archs, seconds=0)
    assert [each.arch for each in choice.tried] == [archs[0]] == [choice.arch]
    assert f"Not compared: {TINY}" in text_on(screen)
    weights.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=TINY):
        choose_network(loaders, config=CONFIG, display=screen, archs=(TINY,))


def test_auto_trains_the_network_that_it_chose(table: ImageTable, screen: Display):
    run = train(table, screen, arch="auto")
    arch = run.classifier.backbone.spec.arch
    assert arch in text_on(screen)
    assert arch in run.recipe
    with pytest.raises(ConfigError, match=r"mine\.pth"):
        TrainConfig(arch="auto", weights="mine.pth")


def test_joined_networks_are_one_model(table: ImageTable, screen: Display, tmp_path: Path):
    run = train(table, screen, arch=BOTH, size=64)
    classifier = run.classifier
    backbone = classifier.backbone
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = [build_backbone(arch).eval() for arch in BOTH.split("+")]
    expected: list[torch.Tensor] = []
    with torch.inference_mode():
        for part in parts:
            expected += Classifier(part, classifier.head, vocab=table.vocab).stage_maps(images)
        maps = classifier.stage_maps(images)
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert backbone.spec.licence == "Apache-2.0 AND apache-2.0"
    assert backbone.spec.licence_note == ""

    path = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=run.resize)
    opened = load_bundle(path).classifier
    with torch.inference_mode():
        torch.testing.assert_close(opened(images), classifier(images))
        body = image_features(classifier, images, kind="body")
    assert body.shape == (2, sum(part.num_features for part in parts))

    heat = grad_cam(classifier, images)
    first, second = (grad_cam(classifier, images, stage=each[-1]) for each in backbone.stage_ranges)
    assert heat.shape == (2, 64, 64)
    assert ((first > 0) | (second > 0) | (heat == 0)).all()
    assert not torch.equal(heat, first)
    assert not torch.equal(heat, second)


def test_features_of_two_networks_that_saw_the_images_are_joined(
    table: ImageTable, screen: Display
):
    loaders = loaders_for(table, config=CONFIG)
    screen.header(EPOCH_COLUMNS)
    first = features_first(loaders, config=CONFIG, display=screen)
    other = compute_features(loaders, config=replace(CONFIG, arch=TINY), display=screen)
    both = join_features(first.features, other)
    assert both.config.arch == BOTH
    stage = finish_stage(both, both.fit(), display=screen, started=0.0)
    again = predict_batches(stage.classifier, loaders.valid.batches(), table=table)
    torch.testing.assert_close(again.logits, stage.predictions.logits, atol=1e-3, rtol=1e-3)
    at_once = train(table, screen, arch=BOTH)
    torch.testing.assert_close(at_once.predictions.logits, again.logits, atol=1e-3, rtol=1e-3)


def test_a_name_in_a_join_that_does_not_exist_is_named():
    for arch in ("efficientnet_lite0+nonsense", "nonsense+efficientnet_lite0"):
        with pytest.raises(ConfigError, match="'nonsense'"):
            build_backbone(arch)


def test_joined_networks_need_a_head_that_reads_both(table: ImageTable):
    loaders = loaders_for(table, config=CONFIG)
    with pytest.raises(ConfigError, match=r"efficientnet_lite0\+test_resnet"):
        vision_learner(loaders, BOTH)


def test_the_size_becomes_a_multiple_of_the_patch(
    table: ImageTable, screen: Display, tmp_path: Path
):
    file = tmp_path / "vit.safetensors"
    vit = build_backbone("test_vit", pretrained=False)
    safetensors.torch.save_file(vit.network.state_dict(), file)
    for size, expected in ((42, 48), (5, 16)):
        run = train(table, screen, arch="test_vit", weights=str(file), size=size)
        assert run.resize.size == (expected, expected)
    assert text_on(screen).count("48 x 48") == 1


def test_a_licence_that_does_not_allow_everything_is_told():
    for licence, is_told in (
        ("dinov3-license", True),
        ("cc-by-nc-4.0", True),
        ("Apache-2.0 AND dinov3-license", True),
        ("MIT", False),
        ("Apache-2.0 AND bsd-3-clause", False),
        ("unknown", False),
    ):
        spec = BackboneSpec(source="timm", name="net", weights="hub", licence=licence)
        assert (licence in spec.licence_note) == is_told
