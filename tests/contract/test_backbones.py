"""What every backbone promises, of whichever family and library: maps, groups, freezing, norms that stay when frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from torch import nn

from vizsla.models import (
    Classifier,
    ConcatPoolHead,
    build_backbone,
    fine_groups,
    freeze_to,
    norm_parameters,
    parameter_groups,
    train_mode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vizsla.models import Backbone

SIDE = 64
BACKBONES = {
    "torchvision resnet18": torchvision.models.resnet18,
    "timm convnext_atto": "convnext_atto",
    "timm vit_tiny": "vit_tiny_patch16_224",
    "packaged lite0": "efficientnet_lite0",
    "timm densenet121": "densenet121",
    "timm mobilenet": "mobilenetv3_small_050",
    "timm regnet": "regnetx_002",
    "torchvision shufflenet": "torchvision:shufflenet_v2_x0_5",
    "timm eva02_tiny": "eva02_tiny_patch14_224",
    "timm dinov3 vit_tiny": "vit_tiny_patch16_dinov3_qkvb",
}
LARGE_BACKBONES = {
    "timm dinov3 vit_small": "vit_small_patch16_dinov3",
    "timm dinov3 convnext_tiny": "convnext_tiny.dinov3_lvd1689m",
    "timm dinov2 vit_small": "vit_small_patch14_dinov2",
    "timm siglip": "vit_base_patch32_siglip_256",
    "timm siglip gap": "vit_base_patch16_siglip_gap_224",
    "timm naflexvit siglip": "naflexvit_base_patch16_siglip",
    "timm convnextv2_atto": "convnextv2_atto",
    "timm eva02_small": "eva02_small_patch14_224",
    "timm swin_tiny": "swin_tiny_patch4_window7_224",
    "torchvision swin_t": "torchvision:swin_t",
    "torchvision vit_b_32": "torchvision:vit_b_32",
    "torchvision regnet": "torchvision:regnet_y_400mf",
    "torchvision densenet121": "torchvision:densenet121",
    "torchvision googlenet": "torchvision:googlenet",
}
AFTER_POOLING = tuple(
    f"backbone.network.{name}." for name in ("head.norm", "conv_head", "fc_norm", "attn_pool")
)
ROWS = [
    *BACKBONES,
    *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE_BACKBONES),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # Such small pictures gain nothing from a second thread, and lose much where the cores are busy.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ROWS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    arch = {**BACKBONES, **LARGE_BACKBONES}[request.param]
    return build_backbone(arch, pretrained=arch == "efficientnet_lite0")


@pytest.fixture
def classifier(backbone: Backbone) -> Iterator[Classifier]:
    """A classifier around the shared backbone, which is as it was afterwards."""
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    yield Classifier(backbone, ConcatPoolHead(backbone.num_features, 3), vocab=("a", "b", "c"))
    backbone.load_state_dict(before)
    for parameter in backbone.parameters():
        parameter.requires_grad_()
        parameter.grad = None
    backbone.train()


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def train_one_step(classifier: Classifier) -> None:
    classifier(pictures()).square().sum().backward()
    trained = [parameter for parameter in classifier.parameters() if parameter.grad is not None]
    torch.optim.SGD(trained, lr=0.01).step()


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in module.named_buffers() if "running" in name}


def test_maps_have_the_promised_channels_and_only_get_smaller(backbone):
    with torch.no_grad():
        maps = backbone(pictures())
    assert tuple(found.shape[:2] for found in maps) == tuple(
        (2, channels) for channels in backbone.stage_channels
    )
    assert backbone.num_features == backbone.stage_channels[-1]
    sides = [found.shape[2] for found in maps]
    assert all(found.shape[2] == found.shape[3] for found in maps)
    assert sides == sorted(sides, reverse=True)


def test_wide_pictures_give_wide_maps(backbone):
    with torch.no_grad():
        last = backbone(torch.rand(1, 3, 64, 128))[-1]
    assert last.shape[3] == 2 * last.shape[2]


def test_memory_order_does_not_change_the_maps(backbone):
    backbone.eval()
    with torch.no_grad():
        usual = backbone(pictures())
        channels_last = backbone(pictures().to(memory_format=torch.channels_last))
    backbone.train()
    torch.testing.assert_close(channels_last, usual, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("divide", [parameter_groups, fine_groups])
def test_every_parameter_is_in_exactly_one_group(classifier, divide):
    groups = divide(classifier)
    members = [id(parameter) for group in groups for parameter in group]
    assert len(members) == len(set(members))
    assert set(members) == {id(parameter) for parameter in classifier.parameters()}
    assert all(groups)
    assert len(groups) == 3 if divide is parameter_groups else 8 <= len(groups) <= 64
    head = {id(parameter) for parameter in classifier.head.parameters()}
    assert {id(parameter) for parameter in groups[-1]} == head


def test_groups_follow_the_layers_as_they_run(classifier):
    # A change of one group's weights changes the maps of that depth and later ones, never an earlier map.
    fine = fine_groups(classifier)[:-1]
    classifier.eval()
    with torch.no_grad():
        before = classifier.backbone(pictures(1))
        first_changed: list[int] = []
        for group in (fine[0], fine[len(fine) // 2], fine[-1]):
            # Not vectors: the last norm of a network of tokens is applied to all of its maps.
            matrices = [parameter for parameter in group if parameter.ndim > 1]
            for parameter in matrices:
                parameter.mul_(2)
            after = classifier.backbone(pictures(1))
            changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
            first_changed.append(changed.index(True) if True in changed else len(changed))
            for parameter in matrices:
                parameter.div_(2)
    assert first_changed == sorted(first_changed)
    assert first_changed[0] == 0
    assert first_changed[1] > 0


def test_the_head_alone_trains_when_frozen_and_nothing_else_has_gradients(classifier):
    early, late, head = parameter_groups(classifier)
    freeze_to((early, late, head), -1)
    train_one_step(classifier)
    assert all(parameter.grad is None for parameter in (*early, *late))
    assert all(parameter.grad is not None for parameter in head)


def test_frozen_parameters_and_statistics_stay_in_training_mode(classifier):
    groups = parameter_groups(classifier)
    freeze_to(groups, -1)
    train_mode(classifier)
    before = {name: tensor.clone() for name, tensor in classifier.backbone.state_dict().items()}
    train_one_step(classifier)
    after = classifier.backbone.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_norms_of_a_frozen_body_train_if_asked(classifier):
    groups = parameter_groups(classifier)
    norms = {id(parameter) for parameter in norm_parameters(classifier.backbone)}
    assert norms
    freeze_to(groups, -1, train_norms=norm_parameters(classifier))
    train_mode(classifier)
    before = statistics(classifier.backbone)
    train_one_step(classifier)
    for parameter in classifier.backbone.parameters():
        assert parameter.requires_grad == (id(parameter) in norms)
    after = statistics(classifier.backbone)
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_unfrozen_everything_gets_a_gradient_but_what_only_a_classifier_used(classifier):
    groups = parameter_groups(classifier)
    freeze_to(groups, -1)
    freeze_to(groups, 0)
    train_one_step(classifier)
    idle = {name for name, parameter in classifier.named_parameters() if parameter.grad is None}
    # ConvNeXt and EVA normalise after pooling, which is the head's part; MobileNet v3 has a layer there, SigLIP pools by attention.
    assert all(name.startswith(AFTER_POOLING) for name in idle)


def test_one_picture_gives_the_same_logits_as_in_a_batch(classifier):
    classifier.eval()
    with torch.no_grad():
        together = classifier(pictures(3))
        alone = torch.cat([classifier(pictures(3)[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def test_a_rebuilt_classifier_with_the_same_weights_gives_equal_logits(classifier):
    classifier.eval()
    spec = classifier.backbone.spec
    again = build_backbone(
        spec.arch, pretrained=False, preprocessing=classifier.preprocessing, seed=9
    )
    twin = Classifier(again, ConcatPoolHead(again.num_features, 3), vocab=classifier.vocab).eval()
    twin.load_state_dict(classifier.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(pictures()), classifier(pictures()))
