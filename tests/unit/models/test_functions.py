"""The functions that stand for architectures: they carry names, build networks when called, and cost nothing before."""

from __future__ import annotations

import pytest
from torchvision import models

from vizsla.errors import ConfigError
from vizsla.models.backbones import FUNCTION_NAMES, TORCHVISION_FUNCTIONS, architecture_function
from vizsla.models.names import resolve_architecture


def test_there_is_one_for_each_of_torchvisions_networks():
    assert sorted(TORCHVISION_FUNCTIONS) == models.list_models(module=models)


def test_a_function_means_torchvisions_network():
    assert resolve_architecture(architecture_function("resnet34")) == ("torchvision", "resnet34")


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
