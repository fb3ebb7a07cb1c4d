"""Heat maps of where a classifier looks: on the object, the same for every kind of body, and without a trace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import ConfigError, grad_cam
from vizsla.infer import overlay
from vizsla.models import Classifier, ConcatPoolHead, FeatureHead, build_backbone
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 64
AS_IT_IS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Applies(nn.Module):
    """A body or a head that is a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, given: Any) -> Any:
        return self.function(given)


class LinearMean(nn.Module):
    """The mean of each channel of the last map through a linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = bias

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return F.linear(maps[-1].mean(dim=(2, 3)), self.weight, self.bias)


def own(body: nn.Module, head: nn.Module, *, num_classes: int = 2) -> Classifier:
    backbone = build_backbone(body, preprocessing=AS_IT_IS)
    return Classifier(backbone, head, vocab=tuple("abcdefgh"[:num_classes]))


@pytest.fixture
def colours() -> Classifier:
    """Maps of a quarter of the side; class a is red, class b is blue."""
    weight = torch.tensor([[1.0, -0.5, -0.5], [-0.5, -0.5, 1.0]])
    return own(nn.AvgPool2d(4), LinearMean(weight))


def scene() -> Tensor:
    """One image: a red square top left, a blue one bottom right, black elsewhere."""
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, 4:12, 4:12] = 1
    image[0, 2, 20:28, 20:28] = 1
    return image


def test_heat_lies_on_the_object_of_the_class(colours):
    heat = grad_cam(colours, scene().repeat(2, 1, 1, 1), targets=[0, 1])
    assert heat.shape == (2, 32, 32)
    assert heat.dtype == torch.float32
    assert not heat.requires_grad
    # The border of an object is blurred by enlarging maps of 8 x 8.
    for found, (first, last) in zip(heat, ((4, 12), (20, 28)), strict=True):
        assert bool((found[first + 2 : last - 2, first + 2 : last - 2] == 1).all())
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[first - 2 : last + 2, first - 2 : last + 2] = True
        assert bool((found[~inside] == 0).all())


def test_targets_are_predicted_given_or_several(colours):
    image = scene()
    image[0, 2] *= 0.5
    assert torch.equal(grad_cam(colours, image), grad_cam(colours, image, targets=[0]))
    image[0, 0] *= 0.1
    assert torch.equal(
        grad_cam(colours, image), grad_cam(colours, image, targets=torch.tensor([1]))
    )
    for kind in (torch.float32, torch.bool, torch.int64):
        heat = grad_cam(colours, scene(), targets=torch.tensor([[1, 1]]).to(kind))
        assert (heat[0, 8, 8], heat[0, 24, 24], heat[0, 8, 24]) == (1, 1, 0)
    # Nothing speaks for a class, no images, no gradients around.
    assert not grad_cam(colours, torch.zeros(1, 3, 32, 32), targets=[0]).any()
    assert grad_cam(colours, torch.zeros(0, 3, 32, 32)).shape == (0, 32, 32)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            heat = grad_cam(colours, scene())
            assert not torch.is_grad_enabled()
        assert torch.equal(heat, grad_cam(colours, scene()))


def test_formula_of_the_paper():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU())
    halves = Applies(
        lambda maps: torch.stack(
            [maps[-1][..., :3].mean(dim=(1, 2, 3)), maps[-1][..., 3:].mean(dim=(1, 2, 3))], dim=1
        )
    )
    classifier = own(body, halves)
    image = torch.rand(1, 3, 15, 15)
    maps = classifier.backbone(image)[-1][0].detach().numpy()  # (5, 7, 7)
    # The gradient of the mean of the left half: 1 / (5 * 7 * 3) there, 0 on the right; its mean over all 49 places.
    weight = (1 / (5 * 7 * 3)) * (7 * 3) / 49
    expected = np.maximum((weight * maps).sum(axis=0), 0)
    enlarged = F.interpolate(
        torch.from_numpy(expected)[None, None], size=(15, 15), mode="bilinear"
    )[0, 0]
    heat = grad_cam(classifier, image, targets=[0])[0]
    torch.testing.assert_close(heat, enlarged / enlarged.max())


def test_earlier_stage_gets_the_gradient_through_the_body():
    class TwoMaps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.AvgPool2d(2), nn.Conv2d(3, 1, 1, bias=False)

        def forward(self, images: Tensor) -> list[Tensor]:
            first = self.first(images)
            return [first, self.second(first)]

    body = TwoMaps().requires_grad_(requires_grad=False)
    body.second.weight.copy_(torch.tensor([1.0, 0.0, -1.0])[None, :, None, None])
    classifier = own(body, LinearMean(torch.ones(1, 1)), num_classes=1)
    heat = grad_cam(classifier, scene(), stage=0)
    assert heat[0, 8, 8] == 1
    assert heat[0, 24, 24] == 0
    torch.testing.assert_close(heat, grad_cam(classifier, scene(), stage=-2))


def test_last_map_of_one_position_is_skipped():
    def pooled_at_the_end(images: Tensor) -> list[Tensor]:
        maps = F.avg_pool2d(images, 4)
        return [maps, maps.mean(dim=(2, 3), keepdim=True)]

    head = LinearMean(torch.tensor([[1.0, 0.0, 0.0]]))
    heat = grad_cam(own(Applies(pooled_at_the_end), head, num_classes=1), scene())
    assert heat[0, 8, 8] == 1
    assert heat[0, 24, 24] == 0


def test_map_that_the_head_does_not_use_is_skipped():
    two_maps = Applies(lambda images: [F.avg_pool2d(images, 4), F.avg_pool2d(images, 8)])
    on_the_first = Applies(lambda maps: maps[-2].mean(dim=(2, 3)))
    classifier = own(two_maps, on_the_first, num_classes=3)  # red, green and blue
    assert grad_cam(classifier, scene(), targets=[2])[0, 24, 24] == 1
    with pytest.raises(ConfigError, match="stage 1 of 2"):
        grad_cam(classifier, scene(), stage=1)


def random_classifier(arch: str) -> Classifier:
    backbone = build_backbone(arch, pretrained=False)
    return Classifier(backbone, ConcatPoolHead(backbone.num_features, 3), vocab=("a", "b", "c"))


def kernel_classifier() -> Classifier:
    """Return a classifier with a kernel head on several stages."""
    backbone = build_backbone("efficientnet_lite0")
    channels = backbone.stage_channels
    head = FeatureHead(
        stages=(2, 4),
        statistics=("mean", "std", "max"),
        num_features=3 * (channels[2] + channels[4]),
        num_classes=3,
        num_landmarks=5,
    )
    random = torch.Generator().manual_seed(0)
    head.landmarks.normal_(generator=random)
    with torch.no_grad():
        head.linear.weight.normal_(generator=random)
    return Classifier(backbone, head, vocab=("a", "b", "c"))


@pytest.mark.parametrize("stage", [-1, 1])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "kernel"])  # fmt: skip
def test_classifier_stays_as_it_was(name, stage):
    classifier = (kernel_classifier() if name == "kernel" else random_classifier(name)).train()
    classifier.backbone.requires_grad_(requires_grad=False)
    classifier.backbone.network.eval()
    trained = next(iter(classifier.head.parameters()))
    trained.grad = torch.ones_like(trained)
    modes = [part.training for part in classifier.modules()]
    trains = [parameter.requires_grad for parameter in classifier.parameters()]
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    kept = images.clone()

    if (name, stage) == ("test_vit", 1):  # tokens go on to the next block, not the map
        with pytest.raises(ConfigError, match="stage 1 of "):
            grad_cam(classifier, images, targets=[0, 2], stage=stage)
        return
    heat = grad_cam(classifier, images, targets=[0, 2], stage=stage)

    assert heat.shape == (2, SIDE, SIDE)
    assert bool(torch.isfinite(heat).all())
    assert heat.amin() >= 0
    assert set(heat.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}
    assert [part.training for part in classifier.modules()] == modes
    assert [parameter.requires_grad for parameter in classifier.parameters()] == trains
    assert torch.equal(trained.grad, torch.ones_like(trained))
    assert all(parameter.grad is None for parameter in classifier.backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert torch.equal(images, kept)
    assert not images.requires_grad


def test_head_that_works_in_place():
    layers = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = own(nn.AvgPool2d(4), Applies(lambda maps: layers(maps[-1])), num_classes=3)
    assert grad_cam(classifier, scene(), targets=[0])[0, 8, 8] == 1


@pytest.fixture(scope="module")
def imagenet() -> Classifier:
    """The packaged network with its own classifier of ImageNet's 1000 classes."""
    from vizsla.models import packaged_weights

    tensors = packaged_weights().tensors
    head = LinearMean(tensors["_fc.weight"].clone(), tensors["_fc.bias"].clone())
    names = tuple(str(number) for number in range(1000))
    return Classifier(build_backbone("efficientnet_lite0"), head, vocab=names)


@pytest.mark.parametrize("name", ["flower.jpg", "china.jpg"])
def test_hottest_quarter_of_a_photo_matters_most(imagenet, name):
    from sklearn.datasets import load_sample_image

    photo: Any = load_sample_image(name)
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    heat = grad_cam(imagenet, image)
    blocks = F.avg_pool2d(heat[:, None], 112).flatten()
    assert blocks.max() > 1.5 * blocks.min()
    covered = image.repeat(3, 1, 1, 1)
    for row, block in ((1, int(blocks.argmax())), (2, int(blocks.argmin()))):
        top, left = 112 * (block // 2), 112 * (block % 2)
        covered[row, :, top : top + 112, left : left + 112] = image.mean()
    imagenet.eval()
    with torch.no_grad():
        logits = imagenet(covered)
    of_class = logits[:, logits[0].argmax()]
    assert of_class[0] - of_class[1] > of_class[0] - of_class[2] + 0.5


def test_impossible_explanations_are_refused(colours):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"targets": [0, 1]}, "1 images, or a row of 2"),
        ({"targets": torch.tensor([0.0])}, "torch.float32 (1,)"),
        ({"targets": torch.tensor([True])}, "torch.bool (1,)"),
        ({"targets": [2]}, "[2]"),
        ({"targets": [-1]}, "[-1]"),
        ({"stage": 1}, "stage=1"),
        ({"stage": -2}, "stage=-2"),
        ({"images": torch.zeros(1, 3, 4, 4)}, "1 x 1"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "floating point"),
    ]
    for changes, facts in cases:
        arguments: dict[str, Any] = {"images": scene(), **changes}
        with pytest.raises(ConfigError, match=re.escape(facts)):
            grad_cam(colours, **arguments)
    constant = Applies(lambda maps: torch.zeros(len(maps[-1]), 2))
    with pytest.raises(ConfigError, match="head"):
        grad_cam(own(nn.AvgPool2d(4), constant), scene())


def test_overlay_shows_the_image_in_cold_places_and_the_colour_in_hot_ones():
    image = torch.full((3, 8, 8), 0.2)
    heat = torch.zeros(8, 8)
    heat[0, 0], heat[0, 1] = 1.0, 0.5
    as_bytes = (image * 255).to(torch.uint8)
    halfway = 0.5 * (torch.tensor([0.85, 0.15, 0.2]) + 0.2) * 255
    for given in (image, as_bytes):
        shown = overlay(given, heat, strength=1.0)
        assert shown.dtype == torch.uint8
        assert shown.shape == (3, 8, 8)
        assert shown[:, 4, 4].tolist() == [51, 51, 51]
        assert shown[:, 0, 0].tolist() == [255, 230, 76]
        assert (shown[:, 0, 1].float() - halfway).abs().max() <= 1
    assert torch.equal(overlay(image, heat, strength=0.0), as_bytes)


def test_overlay_enlarges_a_small_heat_map():
    shown = overlay(torch.zeros(3, 8, 16), torch.tensor([[0.0, 1.0]]), strength=1.0).float()
    red = shown[0, 0]
    assert red[0] == 0
    assert red[-1] == 255
    assert bool((red.diff() >= 0).all())


def test_overlay_of_other_shapes_is_refused():
    image, heat = torch.zeros(3, 4, 4), torch.zeros(4, 4)
    for given, warmth, strength, received in [
        (image[None], heat, 0.5, "(1, 3, 4, 4) and (4, 4)"),
        (image, heat[None], 0.5, "(3, 4, 4) and (1, 4, 4)"),
        (image, heat, 1.5, "1.5"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(received)):
            overlay(given, warmth, strength=strength)
