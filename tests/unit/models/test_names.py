"""Which library and name an architecture stands for, where it is cut, and the functions that stand for names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision import models

from vizsla.errors import ConfigError
from vizsla.models.backbones import architecture_function, build_backbone
from vizsla.models.names import (
    FUNCTION_NAMES,
    TORCHVISION_FUNCTIONS,
    architecture_names,
    cut_module,
    cut_name,
    kept_parts,
    nearest_names,
    resolve_architecture,
    split_cut_name,
)


def test_a_name_means_timms_network_where_timm_has_it_and_else_torchvisions():
    for arch, expected in [
        ("efficientnet_lite0", ("timm", "efficientnet_lite0")),
        ("resnet34", ("timm", "resnet34")),
        ("resnet18.a1_in1k", ("timm", "resnet18.a1_in1k")),
        ("mnasnet0_5", ("torchvision", "mnasnet0_5")),
        ("torchvision:resnet34", ("torchvision", "resnet34")),
        (models.resnet34, ("torchvision", "resnet34")),
        (architecture_function("resnet34"), ("torchvision", "resnet34")),
        # A name that timm has replaced.
        ("convnext_tiny_in22k", ("timm", "convnext_tiny.fb_in22k")),
    ]:
        assert resolve_architecture(arch) == expected


def test_an_unknown_name_is_refused_with_the_nearest():
    nearest = "nearest names are: efficientnet_lite0, efficientnet_lite4, efficientnet_lite3."
    for arch, words in [
        ("efficentnet_lite0", f"'efficentnet_lite0'.*{nearest}"),
        ("torchvision:resnet35", r"torchvision is called 'resnet35'.*resnet34"),
        ("resnet18.a9_in1k", r"no weights 'a9_in1k'.*resnet18\.a1_in1k"),
        *(
            (name, "The nearest names are")
            for name in ("", "hf-hub:timm/resnet18", "local-dir:/tmp", "a/b")
        ),
    ]:
        with pytest.raises(ConfigError, match=words):
            resolve_architecture(arch)


def my_network() -> nn.Module:
    return nn.Identity()


def test_a_function_that_is_no_classification_network_of_torchvision_is_refused():
    for function in [my_network, torchvision.models.detection.ssd300_vgg16]:
        with pytest.raises(ConfigError, match=r"call it and pass the nn\.Module"):
            resolve_architecture(function)


def test_all_names_are_from_both_libraries_sorted_and_without_tags():
    names = architecture_names()
    assert {"resnet34", "convnext_atto", "mnasnet0_5", "efficientnet_lite0"} <= set(names)
    assert list(names) == sorted(names)
    assert not any("." in name for name in names)


def test_the_nearest_name_stands_first():
    assert nearest_names("B1", ("a1", "b1", "c3"), count=2) == ("b1", "a1")


def test_a_cut_is_part_of_the_name():
    assert split_cut_name(cut_name("torchvision:resnet34", 6)) == ("torchvision:resnet34", 6)
    assert split_cut_name("resnet18.a1_in1k") == ("resnet18.a1_in1k", None)


def test_where_a_network_of_torchvision_ends_can_be_chosen():
    with torch.device("meta"):
        backbone = build_backbone(torchvision.models.resnet18, pretrained=False, cut=6)
        again = build_backbone(backbone.spec.arch, pretrained=False)
    assert [name for name, _ in backbone.network.named_children()][-1] == "layer2"
    assert backbone.stage_channels == (64, 64, 128)
    assert backbone.spec.arch == "torchvision:resnet18[:6]"
    assert again.spec == backbone.spec
    assert again.state_dict().keys() == backbone.state_dict().keys()


def test_the_usual_place_may_be_named_too_and_leaves_the_name_as_it_is():
    with torch.device("meta"):
        backbone = build_backbone("torchvision:resnet18", pretrained=False, cut=-2)
    assert backbone.spec.name == "resnet18"
    assert backbone.stage_channels == (64, 64, 128, 256, 512)


def test_a_cut_body_takes_the_weights_of_the_whole_network(tmp_path):
    whole = torchvision.models.squeezenet1_1()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    # Its children are features and classifier; the first alone is the usual body.
    backbone = build_backbone("torchvision:squeezenet1_1[:1]", weights_file=tmp_path / "whole.pth")
    assert backbone.spec.name == "squeezenet1_1"
    assert torch.equal(
        backbone.network.get_parameter("features.0.weight"),
        whole.get_parameter("features.0.weight"),
    )


def test_a_network_of_ones_own_is_cut_after_its_first_children():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten())
    backbone = build_backbone(network, cut=-1)
    assert backbone.stage_channels == (5,)
    assert backbone.network.get_parameter("0.weight") is network[0].weight
    assert [name for name, _ in cut_module(network, cut=2).named_children()] == ["0", "1"]


def test_a_cut_that_leaves_nothing_or_asks_for_too_much_is_refused():
    for cut in [0, 5, -4, -5]:
        network = nn.Sequential(*(nn.ReLU() for _ in range(4)))
        with pytest.raises(
            ConfigError, match=rf"cut={cut} does not fit mine, which has 4 parts: 0, 1"
        ):
            kept_parts(network, cut=cut, name="mine")


def test_a_cut_that_is_no_whole_number_is_refused():
    refused: list[Any] = [lambda network: network, 2.0, True, "layer2"]
    for cut in refused:
        for arch in (torchvision.models.resnet18, nn.Sequential(nn.ReLU())):
            with pytest.raises(ConfigError, match=r"cut is a whole number.*pass the nn\.Module"):
                build_backbone(arch, pretrained=False, cut=cut)


def test_networks_of_timm_are_not_cut():
    for arch in ["convnext_atto", "efficientnet_lite0", "resnet18[:6]"]:
        cut = None if "[" in arch else 6
        with pytest.raises(ConfigError, match=r"cut=6 works for networks of torchvision"):
            build_backbone(arch, pretrained=False, cut=cut)


def test_a_cut_inside_the_head_is_refused():
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match="'resnet18' is not a sequence of stages"),
    ):
        build_backbone("torchvision:resnet18", pretrained=False, cut=10)


def test_there_is_one_for_each_of_torchvisions_networks():
    assert sorted(TORCHVISION_FUNCTIONS) == models.list_models(module=models)


def test_the_packaged_network_has_a_function_too():
    function = architecture_function("efficientnet_lite0")
    assert resolve_architecture(function) == ("timm", "efficientnet_lite0")
    assert sum(weight.numel() for weight in function(pretrained=True).parameters()) > 3e6


def test_a_function_builds_the_network():
    function = architecture_function("squeezenet1_1")
    assert (function.__name__, function.__qualname__) == ("squeezenet1_1", "squeezenet1_1")
    assert "squeezenet1_1" in (function.__doc__ or "")
    assert type(function()) is type(models.squeezenet1_1())


def test_other_names_have_none():
    assert "convnext_tiny.fb_in22k" not in FUNCTION_NAMES
    with pytest.raises(ConfigError, match="'resnet35'"):
        architecture_function("resnet35")
