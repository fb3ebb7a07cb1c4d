"""extract_features against running the network by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.infer.run import extract_features
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead, FeatureHead
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


class Body(nn.Sequential):
    """A body with a norm, whose output differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())


class Source:
    """Gives images in batches as a loader does, and remembers whether it was closed."""

    def __init__(self, images: Tensor, parts: Sequence[Sequence[int]]) -> None:
        self.images = images
        self.parts = parts
        self.closed = False

    def batches(self) -> Generator[Batch]:
        try:
            for part in self.parts:
                rows = torch.tensor(part)
                yield Batch(images=self.images[rows], targets=rows % 2, rows=rows)
        finally:
            self.closed = True


@pytest.fixture
def classifier() -> Classifier:
    """In training mode, with norm statistics that differ from those of a new network."""
    torch.manual_seed(0)
    classifier = Classifier(build_backbone(Body()), ConcatPoolHead(4, 2), vocab=("a", "b")).train()
    with torch.no_grad():
        classifier(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)))
    return classifier


@pytest.fixture
def head() -> FeatureHead:
    return FeatureHead(stages=(0,), statistics=("mean", "std"), num_features=8, num_classes=2)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_the_network_in_evaluation_mode(
    classifier: Classifier, head: FeatureHead, images: Tensor
):
    source = Source(images, [[6, 2], [0, 4], [5]])
    found = extract_features(classifier, source.batches(), head=head)
    order = [6, 2, 0, 4, 5]
    classifier.eval()
    normalised = (images[order] - classifier.mean) / classifier.std
    with torch.no_grad():
        (maps,) = classifier.backbone(normalised)
    expected = torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0)], 1)
    torch.testing.assert_close(found.values, expected[:, None])
    assert found.rows.tolist() == order
    assert found.targets.tolist() == [row % 2 for row in order]
    assert source.closed
    for tensor in (found.values, found.targets, found.rows):
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()
    assert found.values.dtype == torch.float32
    assert not found.values.requires_grad
    head.classify(found.values[:, 0]).sum().backward()


def test_mirrored_view_is_the_flipped_image(
    classifier: Classifier, head: FeatureHead, images: Tensor
):
    parts = [[0, 1, 2], [3, 4]]
    both, reversed_views = (
        extract_features(classifier, Source(images, parts).batches(), head=head, views=views)
        for views in (("plain", "mirrored"), ("mirrored", "plain"))
    )
    assert torch.equal(both.values.flip(1), reversed_views.values)
    plain = extract_features(classifier, Source(images, parts).batches(), head=head)
    flipped = extract_features(classifier, Source(images.flip(3), parts).batches(), head=head)
    assert both.values.shape == (5, 2, 8)
    assert torch.equal(both.values[:, 0], plain.values[:, 0])
    assert torch.equal(both.values[:, 1], flipped.values[:, 0])
    assert not torch.allclose(both.values[:, 0], both.values[:, 1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_error_closes_batches_and_restores_modes(
    classifier: Classifier, head: FeatureHead, images: Tensor, error: type[BaseException]
):
    def fail(done: int) -> None:
        raise error

    source = Source(images, [[0], [1]])
    modes = [part.training for part in classifier.modules()]
    with pytest.raises(error):
        extract_features(classifier, source.batches(), head=head, on_progress=fail)
    assert source.closed
    assert [part.training for part in classifier.modules()] == modes
    assert not torch.is_inference_mode_enabled()


def test_features_in_bf16(classifier: Classifier, head: FeatureHead, images: Tensor):
    exact = extract_features(classifier, Source(images, [[0, 1]]).batches(), head=head)
    rough = extract_features(
        classifier, Source(images, [[0, 1]]).batches(), head=head, precision="bf16"
    )
    assert rough.values.dtype == torch.float32
    assert not torch.equal(rough.values, exact.values)
    torch.testing.assert_close(rough.values, exact.values, atol=0.03, rtol=0.03)


def test_unknown_views_are_refused(classifier: Classifier, head: FeatureHead, images: Tensor):
    for views in ((), ("upside down",), ("plain", "Mirrored")):
        with pytest.raises(ConfigError, match="plain, mirrored"):
            extract_features(classifier, Source(images, [[0]]).batches(), head=head, views=views)
