"""Batches of any form through a network: what comes out, and that the network is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.infer.run import compute_outputs
from vizsla.types import UNLABELLED, Batch


class Mean(nn.Module):
    """Two logits: the mean of the picture, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3)) * self.scale
        return torch.stack([mean, -mean], dim=1)


IMAGES = torch.arange(5, dtype=torch.float32).view(5, 1, 1, 1).expand(5, 3, 4, 4) / 10
TARGETS = torch.tensor([0, 1, 0, 1, 1])
LOGITS = torch.stack([torch.arange(5) / 10, -torch.arange(5) / 10], dim=1)


def batch(place: slice, *, targets: Tensor = TARGETS) -> Batch:
    return Batch(images=IMAGES[place], targets=targets[place], rows=torch.arange(5)[place])


@pytest.mark.parametrize(
    "batches",
    [
        [(IMAGES[:3], TARGETS[:3]), (IMAGES[3:], TARGETS[3:])],
        [[IMAGES, TARGETS]],
        ((IMAGES[:1], TARGETS[:1]), (IMAGES[1:], TARGETS[1:])),
        [batch(slice(0, 2)), batch(slice(2, 5))],
    ],
    ids=["pairs", "a list", "a tuple", "batches"],
)
def test_batches_of_any_form_give_outputs_in_their_order(batches: Any):
    found = compute_outputs(Mean(), batches, keep_images=True)
    torch.testing.assert_close(found.logits, LOGITS)
    assert found.targets is not None
    assert torch.equal(found.targets, TARGETS)
    assert found.images is not None
    assert torch.equal(found.images, IMAGES)
    assert found.logits.dtype == torch.float32
    assert not found.logits.requires_grad


@pytest.mark.parametrize(
    "batches",
    [
        [(IMAGES,)],
        [batch(slice(None), targets=torch.full((5,), UNLABELLED))],
        [(IMAGES[:3], TARGETS[:3]), (IMAGES[3:],)],
    ],
    ids=["no targets", "unknown", "some without"],
)
def test_without_labels_there_are_no_targets(batches: Any):
    found = compute_outputs(Mean(), batches)
    torch.testing.assert_close(found.logits, LOGITS)
    assert found.targets is None
    assert found.images is None


def test_what_has_no_length_is_refused_by_its_type():
    with pytest.raises(ConfigError, match=r"Received: generator\. Wrap it: dl=list\(\.\.\.\)"):
        compute_outputs(Mean(), (pair for pair in [(IMAGES, TARGETS)]))


def test_nothing_to_predict_is_said():
    with pytest.raises(ConfigError, match="the loader gives no batches"):
        compute_outputs(Mean(), [])


def test_every_part_is_afterwards_in_the_mode_that_it_was_in():
    network = nn.Sequential(Mean(), nn.Dropout(0.9), nn.Dropout(0.9))
    network.train()
    network[2].eval()
    torch.testing.assert_close(compute_outputs(network, [(IMAGES, TARGETS)]).logits, LOGITS)
    assert [part.training for part in network.modules()] == [True, True, True, False]


def test_a_loader_is_closed_after_an_error():
    closed: list[bool] = []

    class Loader:
        def batches(self) -> Any:
            try:
                yield batch(slice(None))
            finally:
                closed.append(True)

    class Broken(Mean):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        compute_outputs(Broken(), Loader())
    assert closed == [True]
