"""The classifier: normalises once, refuses what is not an image, keeps its numbers out of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from vizsla.models.stages import Backbone

PREPROCESSING = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))


class Pool(nn.Module):
    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return maps[-1].mean((2, 3))


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone(nn.Identity(), preprocessing=PREPROCESSING)


def test_mean_is_subtracted_and_the_standard_deviation_divided_by_per_channel(backbone):
    classifier = Classifier(backbone, Pool(), vocab=("a", "b", "c"))
    logits = classifier(torch.ones(2, 3, 4, 4))
    assert torch.equal(logits, torch.tensor([[1.0, 3.0, 0.5]] * 2))


def test_its_parts_are_at_hand(backbone):
    head = Pool()
    classifier = Classifier(backbone, head, vocab=("a", "b"))
    assert classifier.backbone is backbone
    assert classifier.head is head
    assert classifier.vocab == ("a", "b")
    assert classifier.preprocessing == PREPROCESSING


def test_the_numbers_of_normalisation_are_not_among_the_weights(backbone):
    classifier = Classifier(backbone, Pool(), vocab=("a", "b"))
    assert classifier.state_dict() == {}
    assert {name for name, _ in classifier.named_buffers()} == {"mean", "std"}


def test_what_is_no_batch_of_float_pictures_is_refused(backbone):
    for images, shown in [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"torch\.uint8 \(1, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4), r"torch\.float32 \(3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 3), r"torch\.float32 \(1, 4, 4, 3\)"),
    ]:
        classifier = Classifier(backbone, Pool(), vocab=("a", "b"))
        with pytest.raises(ConfigError, match=rf"values 0-1\. Received: {shown}"):
            classifier(images)


def test_class_names_must_exist_and_differ(backbone):
    for vocab in [(), ("a", "b", "a")]:
        with pytest.raises(ConfigError, match="at least one class name, and each only once"):
            Classifier(backbone, Pool(), vocab=vocab)


def test_its_task_says_what_logits_mean(backbone):
    logits = torch.tensor([[0.0, 2.0]])
    one = Classifier(backbone, Pool(), vocab=("a", "b"))
    several = Classifier(backbone, Pool(), vocab=("a", "b"), task="multi_category")
    numbers = Classifier(backbone, Pool(), vocab=("a", "b"), task="regression")
    assert [it.task for it in (one, several, numbers)] == [
        "category",
        "multi_category",
        "regression",
    ]
    torch.testing.assert_close(one.activation(logits), logits.softmax(1))
    torch.testing.assert_close(several.activation(logits), logits.sigmoid())
    assert numbers.activation(logits) is logits
    with pytest.raises(ConfigError, match="Received: 'detection'"):
        Classifier(backbone, Pool(), vocab=("a", "b"), task="detection")  # pyright: ignore[reportArgumentType]
