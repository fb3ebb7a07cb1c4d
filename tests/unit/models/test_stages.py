"""Finding the stages of a network by trying it once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.stages import (
    SequentialMaps,
    _stretched_positions,
    middle_part,
    own_stages,
    sequential_stages,
    timm_stages,
    token_stages,
)

SIZE = (128, 128)


def convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


@pytest.fixture
def layers() -> nn.Sequential:
    """Three resolutions: channels 4, 4 | 6 | 8, 10."""
    return nn.Sequential(
        convolution(3, 4),
        nn.ReLU(),
        convolution(4, 6, stride=2),
        convolution(6, 8, stride=2),
        convolution(8, 10),
    )


class OnlyThisSize(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.side:
            raise ValueError(f"only {self.side}")
        return images


class Returns(nn.Module):
    def __init__(self, maps: object) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> object:
        return self.maps


def test_a_stage_ends_where_the_resolution_falls(layers):
    stages = sequential_stages(layers, steps=("0", "1", "2", "3", "4"), size=SIZE, name="mine")
    assert stages.maps == SequentialMaps(
        steps=("0", "1", "2", "3", "4"), stage_ends=("1", "2", "4")
    )
    assert stages.channels == (4, 6, 10)
    assert stages.early_end == "2"
    assert stages.fixed_size is None


def test_stage_maps_are_the_outputs_of_the_last_layers_of_the_stages(layers):
    stages = sequential_stages(layers, steps=("0", "1", "2", "3", "4"), size=SIZE, name="mine")
    images = torch.randn(2, 3, 16, 16)
    maps = stages.maps(layers, images)
    assert torch.equal(maps[0], layers[:2](images))
    assert torch.equal(maps[1], layers[:3](images))
    assert torch.equal(maps[2], layers(images))


def test_a_few_pixels_lost_at_the_border_begin_no_stage():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), convolution(5, 6, stride=2))
    stages = sequential_stages(layers, steps=("0", "1", "2"), size=SIZE, name="mine")
    assert stages.channels == (5, 6)


class ChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1)


def test_maps_with_their_channels_last_are_turned_round():
    layers = nn.Sequential(convolution(3, 7, stride=2), ChannelsLast(), nn.LayerNorm(7))
    stages = sequential_stages(layers, steps=("0", "1", "2"), size=SIZE, name="mine")
    assert stages.channels == (7,)
    images = torch.randn(2, 3, 8, 16)
    (found,) = stages.maps(layers, images)
    assert torch.equal(found, layers(images).permute(0, 3, 1, 2))
    assert found.shape == (2, 7, 4, 8)


@pytest.fixture
def small_vit() -> nn.Module:
    """Torchvision's ViT for 32 x 32 in patches of 8, with random positions and without its classifier."""
    from torchvision.models import VisionTransformer

    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    nn.init.normal_(vit.class_token)
    del vit.heads
    return vit.eval()


def test_the_tokens_of_a_vit_of_torchvision_become_maps(small_vit):
    stages = token_stages(small_vit)
    assert stages.channels == (8, 8, 8)
    assert stages.early_end == "encoder.layers.encoder_layer_1"
    assert stages.steps == ("conv_proj", *(f"encoder.layers.encoder_layer_{n}" for n in range(3)))
    images = torch.randn(2, 3, 32, 32)
    maps = stages.maps(small_vit, images)
    tokens = small_vit._process_input(images)
    whole = small_vit.encoder(torch.cat([small_vit.class_token.expand(2, -1, -1), tokens], dim=1))
    assert [tuple(found.shape) for found in maps] == [(2, 8, 4, 4)] * 3
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), whole[:, 1:])


def test_a_vit_of_torchvision_takes_pictures_of_other_sizes(small_vit):
    stages = token_stages(small_vit)
    assert stages.fixed_size is None
    assert stages.maps(small_vit, torch.randn(1, 3, 24, 48))[-1].shape == (1, 8, 3, 6)
    # Positions that are the same everywhere stay so, and the first one, which is no place, is not touched.
    with torch.no_grad():
        small_vit.encoder.pos_embedding[:, 1:] = torch.arange(8.0)
    stretched = _stretched_positions(small_vit.encoder.pos_embedding, grid=(2, 7))
    assert stretched.shape == (1, 15, 8)
    torch.testing.assert_close(stretched[0, 1:], torch.arange(8.0).expand(14, 8))
    assert torch.equal(stretched[:, 0], small_vit.encoder.pos_embedding[:, 0])


def test_a_network_that_only_takes_the_size_that_it_is_made_for_says_so():
    network = nn.Sequential(OnlyThisSize(128), convolution(3, 4))
    assert sequential_stages(network, steps=("0", "1"), size=SIZE, name="mine").fixed_size == SIZE
    assert own_stages(network, size=SIZE).fixed_size == SIZE


@pytest.mark.parametrize(
    "last", [nn.Flatten(), OnlyThisSize(1), Returns(torch.zeros(1, 5, 6, 7)), nn.LSTM(3, 3)]
)
def test_layers_that_give_no_square_maps_are_refused(last):
    network = nn.Sequential(convolution(3, 4), last)
    with pytest.raises(ConfigError, match="'mine' is not a sequence of stages with square maps"):
        sequential_stages(network, steps=("0", "1"), size=SIZE, name="mine")


def test_trying_a_network_changes_neither_statistics_nor_modes(layers):
    norm = nn.BatchNorm2d(10).eval()
    network = nn.Sequential(*layers, norm).train()
    norm.eval()
    own_stages(network, size=SIZE)
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() == 0
    assert not norm.training
    assert network.training
    assert network[0].training


def test_a_network_of_ones_own_gives_one_map_or_several(layers):
    assert own_stages(layers, size=SIZE).channels == (10,)
    several = Returns([torch.zeros(1, 5, 4, 4), torch.zeros(1, 7, 2, 2)])
    stages = own_stages(several, size=SIZE)
    assert stages.channels == (5, 7)
    assert len(stages.maps(several, torch.zeros(1, 3, 8, 8))) == 2


@pytest.mark.parametrize(
    ("returned", "shown"), [(torch.zeros(1, 5), r"\(1, 5\)"), ([torch.zeros(1, 5, 2, 2), 3], "int")]
)
def test_a_network_of_ones_own_without_maps_is_refused(returned, shown):
    with pytest.raises(ConfigError, match=rf"The network Returns returns {shown} where maps"):
        own_stages(Returns(returned), size=SIZE)


def test_a_network_of_ones_own_that_fails_is_refused():
    with pytest.raises(ConfigError, match=r"OnlyThisSize fails on a picture \(1, 3, 128, 128\)"):
        own_stages(OnlyThisSize(1), size=SIZE)


def test_the_middle_part_ends_the_first_half_of_the_children(layers):
    assert middle_part(layers) == "2"
    assert middle_part(nn.Sequential(layers)) == "0.2"
    assert middle_part(nn.Sequential(nn.ReLU())) == "0"
    assert middle_part(nn.ReLU()) == ""


class LikeTimm(nn.Module):
    """Gives two maps and an output, as networks of timm do."""

    num_features = 6

    def __init__(self, output: object, *, can_normalise: bool = True, info: object = None) -> None:
        super().__init__()
        self.first, self.second = convolution(3, 4), convolution(4, 6, stride=2)
        self.output = output
        self.can_normalise = can_normalise
        self.feature_info = info

    def forward_intermediates(self, images: Tensor, *, norm: bool, output_fmt: str) -> object:
        if norm and not self.can_normalise:
            raise AssertionError("normalization of features not supported")
        first = self.first(images)
        second = self.second(first)
        return (self.output(second) if callable(self.output) else self.output), [first, second]


def doubled(maps: Tensor) -> Tensor:
    return maps * 2


def as_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("output", "factor"), [(doubled, 2.0), (as_tokens, 1.0), (None, 1.0)])
def test_timms_own_output_replaces_the_last_map_if_it_is_a_map_of_that_shape(output, factor):
    network = LikeTimm(output)
    stages = timm_stages(network, size=SIZE, name="mine")
    images = torch.randn(2, 3, 8, 8)
    maps = stages.maps(network, images)
    assert stages.channels == (4, 6)
    assert torch.equal(maps[-1], network.second(network.first(images)) * factor)


def test_timms_own_output_is_appended_if_it_has_other_channels():
    further = convolution(6, 9)
    network = LikeTimm(further)
    network.num_features = 9
    stages = timm_stages(network, size=SIZE, name="mine")
    assert stages.channels == (4, 6, 9)
    assert [part.shape[1] for part in stages.maps(network, torch.zeros(1, 3, 8, 8))] == [4, 6, 9]


def test_a_network_of_timm_that_cannot_normalise_maps_gives_them_as_they_are():
    network = LikeTimm(None, can_normalise=False)
    assert timm_stages(network, size=SIZE, name="mine").channels == (4, 6)


def test_a_network_of_timm_whose_last_map_is_not_its_features_is_refused():
    network = LikeTimm(None)
    network.num_features = 7
    with pytest.raises(ConfigError, match="'mine' does not give maps of features"):
        timm_stages(network, size=SIZE, name="mine")


def test_a_network_of_timm_without_intermediate_maps_is_refused(layers):
    layers.num_features = 10
    with pytest.raises(ConfigError, match="'mine' does not give maps of features"):
        timm_stages(layers, size=SIZE, name="mine")


@pytest.mark.parametrize(
    ("info", "early_end"),
    [
        ([{"module": "first"}, {"module": "second"}], "first"),
        ([{"module": "second"}], "second"),
        ([{"module": "third"}], "first"),
        (None, "first"),
    ],
)
def test_timms_record_of_stages_decides_where_the_early_body_ends_if_it_is_right(info, early_end):
    assert timm_stages(LikeTimm(None, info=info), size=SIZE, name="mine").early_end == early_end
