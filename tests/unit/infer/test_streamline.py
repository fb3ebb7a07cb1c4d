"""A streamlined classifier gives the same answers, and the original stays as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from vizsla import grad_cam
from vizsla.infer import OneDnnConvolution, StreamlinedOnce, streamlined
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.models import Architecture

VOCAB = ("first", "second", "third")


def classifier_of(arch: Architecture) -> Classifier:
    """Return a classifier with random weights, and statistics in its norms as if it had been trained."""
    backbone = build_backbone(arch, pretrained=False, seed=1)
    classifier = Classifier(backbone, ConcatPoolHead(backbone.num_features, 3, seed=1), vocab=VOCAB)
    generator = torch.Generator().manual_seed(2)
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return classifier.eval()


def images_of(count: int, *, seed: int = 0, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def num_layers(classifier: Classifier, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in classifier.modules())


@pytest.mark.parametrize(
    ("arch", "norms_left"),
    [("efficientnet_lite0", 0), ("resnet18", 0), ("torchvision:mobilenet_v3_small", 0), ("densenet121", 62)],
)  # fmt: skip
def test_norms_are_folded_and_probabilities_stay(arch: str, norms_left: int):
    classifier = classifier_of(arch)
    changed = streamlined(classifier, images=images_of(2))
    assert num_layers(changed, nn.BatchNorm2d) == norms_left
    for count in (1, 5):
        images = images_of(count, seed=count)
        with torch.no_grad():
            expected, found = (one(images).softmax(1) for one in (classifier, changed))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_original_stays_as_it_was_and_grad_cam_works_on_the_copy():
    classifier = classifier_of("test_resnet")
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    norm = next(layer for layer in classifier.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.train()
    changed = streamlined(classifier, images=images_of(2))
    assert changed is not classifier
    assert norm.training
    after = classifier.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(layer._forward_hooks for layer in classifier.modules())
    assert not any(layer._forward_pre_hooks for layer in classifier.modules())
    images = images_of(3)
    expected, found = (grad_cam(one, images, targets=[0, 1, 2]) for one in (classifier, changed))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_several_runs_share_one_copy():
    once = StreamlinedOnce(classifier_of("test_resnet"))
    made = once(images_of(5))
    assert num_layers(made, nn.BatchNorm2d) == 0
    assert once(images_of(3, seed=1)) is made


def test_network_without_convolutions_and_norms_is_returned():
    classifier = classifier_of("vit_tiny_patch16_224")
    assert streamlined(classifier, images=images_of(1, side=224)) is classifier


class Odd(nn.Module):
    """Convolutions and norms joined in ways that must not be folded."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        if self.way == "used beside it":
            return self.last(self.norm(maps) + maps)
        if self.way == "written into":
            return self.last(self.norm(maps.relu_()))
        if self.way == "used twice":
            return self.last(self.norm(maps) + self.norm(2 * maps))
        if self.way == "looked into":
            return self.last(self.norm(maps)) * self.norm.weight[0].item()
        return self.last(self.norm(maps + 1))


@pytest.mark.parametrize(
    "way", ["used beside it", "written into", "used twice", "looked into", "with something between"]
)
def test_norms_that_cannot_be_folded_stay(way: str):
    classifier = classifier_of(Odd(way))
    changed = streamlined(classifier, images=images_of(2))
    assert num_layers(changed, nn.BatchNorm2d) == 1
    with torch.no_grad():
        assert torch.equal(changed(images_of(3)), classifier(images_of(3)))


ACTIVATIONS = (nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 2), nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"))  # fmt: skip


def test_a_convolution_by_one_dnn_is_the_convolution_with_its_activation():
    random = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(8, 12, 1, groups=4),
        nn.Conv2d(8, 8, 3, 2, padding=1, groups=8, bias=False),
    ]
    layers += [Conv2dSame(8, 12, 3, 2), Conv2dSame(8, 8, 5, 2, groups=8), Conv2dSame(8, 4, (2, 5), (3, 1))]  # fmt: skip
    for layer in layers:
        for activation in ACTIVATIONS:
            assert isinstance(layer, nn.Conv2d)
            fast = OneDnnConvolution(layer, activation, shape=(2, 8, 9, 7))
            for size in ((2, 8, 9, 7), (1, 8, 10, 12), (20, 8, 9, 7)):
                maps = torch.randn(size, generator=random)
                expected = activation(layer(maps))
                torch.testing.assert_close(
                    fast(maps), expected, atol=1e-5, rtol=0
                )  # with gradients
                with torch.no_grad():
                    torch.testing.assert_close(fast(maps), expected, atol=1e-5, rtol=0)
