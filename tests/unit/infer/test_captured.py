"""Logits from a CUDA graph are those computed without one."""

from __future__ import annotations

import pytest
import torch

from vizsla.infer import compute_logits
from vizsla.models import Classifier, ConcatPoolHead, build_backbone, evaluation_mode
from vizsla.train import CapturedForward

pytestmark = pytest.mark.gpu


@pytest.fixture
def classifier() -> Classifier:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 3, lin_ftrs=[8], seed=1)
    return Classifier(backbone, head, vocab=("a", "b", "c")).place(torch.device("cuda"))


def batch(count: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, 32, 32), generator=generator).cuda()


def test_graph_gives_the_same_logits(classifier: Classifier):
    forward = CapturedForward(classifier, precision="fp32")
    given = [*(batch(4, seed=seed) for seed in range(5)), batch(2, seed=9), batch(4, seed=10)]
    with evaluation_mode(classifier):
        forward.refresh()
        found = [forward(images) for images in given]
        expected = [compute_logits(classifier, images) for images in given]
    assert forward.recorded_shape == (4, 3, 32, 32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_graph_follows_trained_weights_and_is_recorded_again_for_others(classifier: Classifier):
    forward = CapturedForward(classifier, precision="fp32")
    images = batch(4, seed=0)
    with evaluation_mode(classifier):
        forward.refresh()
        first = [forward(images) for _ in range(3)][-1]
        with torch.no_grad():
            for value in classifier.parameters():
                value.mul_(1.5)  # in place, as an optimiser does
        forward.refresh()
        assert forward.recorded_shape is not None
        moved = forward(images)
        torch.testing.assert_close(moved, compute_logits(classifier, images))
        assert not torch.allclose(moved, first)
        for value in classifier.parameters():
            value.data = value.data.clone()
        forward.refresh()
        assert forward.recorded_shape is None
        torch.testing.assert_close(forward(images), moved)


def test_hooks_are_called_for_every_batch(classifier: Classifier):
    forward = CapturedForward(classifier, precision="fp32")
    seen: list[int] = []
    classifier.head.register_forward_hook(lambda *_: seen.append(1))
    forward.refresh()
    with evaluation_mode(classifier):
        for _ in range(4):
            forward(batch(2, seed=0))
    assert len(seen) == 4
