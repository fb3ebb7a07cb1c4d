"""Ending a body elsewhere than usual."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from vizsla.errors import ConfigError
from vizsla.models.backbones import build_backbone
from vizsla.models.names import cut_module, cut_name, kept_parts, split_cut_name


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


@pytest.mark.parametrize("cut", [0, 5, -4, -5])
def test_a_cut_that_leaves_nothing_or_asks_for_too_much_is_refused(cut):
    network = nn.Sequential(*(nn.ReLU() for _ in range(4)))
    with pytest.raises(ConfigError, match=rf"cut={cut} does not fit mine, which has 4 parts: 0, 1"):
        kept_parts(network, cut=cut, name="mine")


@pytest.mark.parametrize("cut", [lambda network: network, 2.0, True, "layer2"])
def test_a_cut_that_is_no_whole_number_is_refused(cut: Any):
    for arch in (torchvision.models.resnet18, nn.Sequential(nn.ReLU())):
        with pytest.raises(ConfigError, match=r"cut is a whole number.*pass the nn\.Module"):
            build_backbone(arch, pretrained=False, cut=cut)


@pytest.mark.parametrize("arch", ["convnext_atto", "efficientnet_lite0", "resnet18[:6]"])
def test_networks_of_timm_are_not_cut(arch):
    cut = None if "[" in arch else 6
    with pytest.raises(ConfigError, match=r"cut=6 works for networks of torchvision"):
        build_backbone(arch, pretrained=False, cut=cut)


def test_a_cut_inside_the_head_is_refused():
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match="'resnet18' is not a sequence of stages"),
    ):
        build_backbone("torchvision:resnet18", pretrained=False, cut=10)
