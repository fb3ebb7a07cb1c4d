"""Architectures: their library and name, where they are cut, and their functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision import models

from vizsla import ConfigError
from vizsla.models import (
    FUNCTION_NAMES,
    TORCHVISION_FUNCTIONS,
    architecture_function,
    architecture_names,
    build_backbone,
    cut_module,
    kept_parts,
    nearest_names,
    resolve_architecture,
)


def test_names_of_both_libraries():
    for arch, expected in [
        ("efficientnet_lite0", ("timm", "efficientnet_lite0")),
        ("resnet34", ("timm", "resnet34")),
        ("resnet18.a1_in1k", ("timm", "resnet18.a1_in1k")),
        ("hf-hub:timm/resnet18.a1_in1k", ("timm", "resnet18.a1_in1k")),
        ("hf_hub:timm/resnet18", ("timm", "resnet18")),
        ("mnasnet0_5", ("torchvision", "mnasnet0_5")),
        ("torchvision:resnet34", ("torchvision", "resnet34")),
        (models.resnet34, ("torchvision", "resnet34")),
        (architecture_function("resnet34"), ("torchvision", "resnet34")),
        # A name that timm has replaced.
        ("convnext_tiny_in22k", ("timm", "convnext_tiny.fb_in22k")),
    ]:
        assert resolve_architecture(arch) == expected


def test_unknown_names_are_refused_with_the_nearest():
    nearest = "efficientnet_lite0, efficientnet_lite4, efficientnet_lite3"
    cases: list[tuple[Any, str]] = [
        ("efficentnet_lite0", f"'efficentnet_lite0'.*{nearest}"),
        ("torchvision:resnet35", r"'resnet35'.*resnet34"),
        ("resnet18.a9_in1k", r"'a9_in1k'.*resnet18\.a1_in1k"),
        *((name, f"'{name}'") for name in ("", "hf-hub:a/resnet18", "local-dir:/tmp", "a/b")),
        (my_network, "my_network"),
        (torchvision.models.detection.ssd300_vgg16, "ssd300_vgg16"),
    ]
    for arch, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            resolve_architecture(arch)


def my_network() -> nn.Module:
    return nn.Identity()


def test_architecture_names_are_sorted_and_without_tags():
    names = architecture_names()
    assert {"resnet34", "convnext_atto", "mnasnet0_5", "efficientnet_lite0"} <= set(names)
    assert list(names) == sorted(names)
    assert not any("." in name for name in names)
    assert nearest_names("B1", ("a1", "b1", "c3"), count=2) == ("b1", "a1")
    for family in ("dinov3", "siglip"):
        assert all(family in name for name in nearest_names(family, names))


def test_network_of_torchvision_is_cut():
    with torch.device("meta"):
        backbone = build_backbone(torchvision.models.resnet18, pretrained=False, cut=6)
        again = build_backbone(backbone.spec.arch, pretrained=False)
        usual = build_backbone("torchvision:resnet18", pretrained=False, cut=-2)
    assert [name for name, _ in backbone.network.named_children()][-1] == "layer2"
    assert backbone.stage_channels == (64, 64, 128)
    assert backbone.spec.arch == "torchvision:resnet18[:6]"
    assert again.spec == backbone.spec
    assert again.state_dict().keys() == backbone.state_dict().keys()
    assert usual.spec.name == "resnet18"
    assert usual.stage_channels == (64, 64, 128, 256, 512)


def test_cut_body_takes_weights_of_the_whole_network(tmp_path):
    whole = torchvision.models.squeezenet1_1()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    # Its children are features and classifier; the first alone is the usual body.
    backbone = build_backbone("torchvision:squeezenet1_1[:1]", weights_file=tmp_path / "whole.pth")
    assert backbone.spec.name == "squeezenet1_1"
    assert torch.equal(
        backbone.network.get_parameter("features.0.weight"),
        whole.get_parameter("features.0.weight"),
    )


def test_own_network_is_cut_after_its_first_children():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten())
    backbone = build_backbone(network, cut=-1)
    assert backbone.stage_channels == (5,)
    assert backbone.network.get_parameter("0.weight") is network[0].weight
    assert [name for name, _ in cut_module(network, cut=2).named_children()] == ["0", "1"]


def test_impossible_cuts_are_refused():
    network = nn.Sequential(*(nn.ReLU() for _ in range(4)))
    for cut in [0, 5, -4, -5]:
        with pytest.raises(ConfigError, match=rf"cut={cut}.*4 parts"):
            kept_parts(network, cut=cut, name="mine")
    refused: list[Any] = [lambda network: network, 2.0, True, "layer2"]
    for cut in refused:
        for arch in (torchvision.models.resnet18, network):
            with pytest.raises(ConfigError, match=r"nn\.Module"):
                build_backbone(arch, pretrained=False, cut=cut)
    for arch, cut in (("convnext_atto", 6), ("efficientnet_lite0", 6), ("resnet18[:6]", None)):
        with pytest.raises(ConfigError, match=r"cut=6.*timm"):
            build_backbone(arch, pretrained=False, cut=cut)
    with torch.device("meta"), pytest.raises(ConfigError, match="'resnet18'"):
        build_backbone("torchvision:resnet18", pretrained=False, cut=10)  # inside the head


def test_functions_of_architectures():
    assert sorted(TORCHVISION_FUNCTIONS) == models.list_models(module=models)
    packaged = architecture_function("efficientnet_lite0")
    assert resolve_architecture(packaged) == ("timm", "efficientnet_lite0")
    assert sum(weight.numel() for weight in packaged(pretrained=True).parameters()) > 3e6
    function = architecture_function("squeezenet1_1")
    assert (function.__name__, function.__qualname__) == ("squeezenet1_1", "squeezenet1_1")
    assert "squeezenet1_1" in (function.__doc__ or "")
    assert type(function()) is type(models.squeezenet1_1())
    assert "convnext_tiny.fb_in22k" not in FUNCTION_NAMES
    with pytest.raises(ConfigError, match="'resnet35'"):
        architecture_function("resnet35")
