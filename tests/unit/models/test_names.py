"""Which library and name an architecture stands for."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from vizsla.errors import ConfigError
from vizsla.models.names import architecture_names, nearest_names, resolve_architecture


def test_the_packaged_network_is_timms():
    assert resolve_architecture("efficientnet_lite0") == ("timm", "efficientnet_lite0")


def test_a_name_that_both_libraries_have_means_timms_network():
    assert resolve_architecture("resnet34") == ("timm", "resnet34")


def test_a_name_with_a_known_tag_is_kept():
    assert resolve_architecture("resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")


def test_a_name_that_only_torchvision_has_means_torchvisions_network():
    assert resolve_architecture("mnasnet0_5") == ("torchvision", "mnasnet0_5")


def test_a_prefix_chooses_torchvision():
    assert resolve_architecture("torchvision:resnet34") == ("torchvision", "resnet34")


def test_torchvisions_function_means_torchvisions_network():
    assert resolve_architecture(torchvision.models.resnet34) == ("torchvision", "resnet34")


def test_a_name_that_timm_has_replaced_becomes_the_new_one():
    assert resolve_architecture("convnext_tiny_in22k") == ("timm", "convnext_tiny.fb_in22k")


def test_an_unknown_name_is_refused_with_the_three_nearest():
    with pytest.raises(ConfigError, match=r"'efficentnet_lite0'") as caught:
        resolve_architecture("efficentnet_lite0")
    assert "nearest names are: efficientnet_lite0, efficientnet_lite4, efficientnet_lite3." in str(
        caught.value
    )


def test_an_unknown_name_of_torchvision_is_refused_with_names_of_torchvision():
    with pytest.raises(ConfigError, match=r"torchvision is called 'resnet35'.*resnet34"):
        resolve_architecture("torchvision:resnet35")


@pytest.mark.parametrize("name", ["", "hf-hub:timm/resnet18", "local-dir:/tmp", "a/b"])
def test_other_texts_are_no_names(name):
    with pytest.raises(ConfigError, match="The nearest names are"):
        resolve_architecture(name)


def test_an_unknown_tag_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no weights 'a9_in1k'.*resnet18\.a1_in1k"):
        resolve_architecture("resnet18.a9_in1k")


def my_network() -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize("function", [my_network, torchvision.models.detection.ssd300_vgg16])
def test_a_function_that_is_no_classification_network_of_torchvision_is_refused(function):
    with pytest.raises(ConfigError, match=r"call it and pass the nn\.Module"):
        resolve_architecture(function)


def test_all_names_are_from_both_libraries_sorted_and_without_tags():
    names = architecture_names()
    assert {"resnet34", "convnext_atto", "mnasnet0_5", "efficientnet_lite0"} <= set(names)
    assert list(names) == sorted(names)
    assert not any("." in name for name in names)


def test_the_nearest_name_stands_first():
    assert nearest_names("B1", ("a1", "b1", "c3"), count=2) == ("b1", "a1")
