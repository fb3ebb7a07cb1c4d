"""The classifier: normalises once, refuses what is not an image, keeps its numbers out of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vizsla import ConfigError
from vizsla.models import Backbone, Classifier, build_backbone
from vizsla.types import Preprocessing, Task

PREPROCESSING = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))


class Pool(nn.Module):
    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return maps[-1].mean((2, 3))


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone(nn.Identity(), preprocessing=PREPROCESSING)


def test_classifier_normalises_per_channel_and_keeps_its_parts(backbone):
    head = Pool()
    classifier = Classifier(backbone, head, vocab=("a", "b", "c"))
    logits = classifier(torch.ones(2, 3, 4, 4))
    assert torch.equal(logits, torch.tensor([[1.0, 3.0, 0.5]] * 2))
    assert classifier.backbone is backbone
    assert classifier.head is head
    assert classifier.vocab == ("a", "b", "c")
    assert classifier.preprocessing == PREPROCESSING
    assert classifier.state_dict() == {}  # mean and std are not among the weights
    assert {name for name, _ in classifier.named_buffers()} == {"mean", "std"}


def test_images_that_are_not_a_batch_of_floats_are_refused(backbone):
    classifier = Classifier(backbone, Pool(), vocab=("a", "b"))
    for images in (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 3)):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            classifier(images)
        assert f"{images.dtype} {tuple(images.shape)}" in str(error.value)


def test_vocab_names_must_differ(backbone):
    for vocab in [(), ("a", "b", "a")]:
        with pytest.raises(ConfigError, match="vocab"):
            Classifier(backbone, Pool(), vocab=vocab)


def test_activation_follows_the_task(backbone):
    logits = torch.tensor([[0.0, 2.0]])
    cases: list[tuple[Task, Tensor]] = [
        ("category", logits.softmax(1)),
        ("multi_category", logits.sigmoid()),
        ("regression", logits),
    ]
    for task, expected in cases:
        classifier = Classifier(backbone, Pool(), vocab=("a", "b"), task=task)
        assert classifier.task == task
        torch.testing.assert_close(classifier.activation(logits), expected)
    with pytest.raises(ConfigError, match="'detection'"):
        Classifier(backbone, Pool(), vocab=("a", "b"), task="detection")  # pyright: ignore[reportArgumentType]
