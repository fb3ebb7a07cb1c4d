"""Gathered steps, clipped gradients, growing pictures: what changes in a fit, and that nothing stays changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.augment.presets import aug_transforms
from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.step import GradientAccumulation, GradientClip, ProgressiveResizing

if TYPE_CHECKING:
    from vizsla.types import Batch


class Moves(Callback):
    """Notes after which steps the weights had moved."""

    order = 100

    def __init__(self) -> None:
        self.moved: list[bool] = []
        self.before: list[torch.Tensor] = []

    def before_fit(self, fit: Fit) -> None:
        self.before = [value.detach().clone() for value in fit.trainer.model.parameters()]

    def after_step(self, fit: Fit) -> None:
        now = [value.detach().clone() for value in fit.trainer.model.parameters()]
        pairs = zip(now, self.before, strict=True)
        self.moved.append(any(not torch.equal(a, b) for a, b in pairs))
        self.before = now


@pytest.mark.parametrize(
    ("n_acc", "moved"),
    [
        (4, [True] * 5),
        (8, [False, True, False, True, True]),  # what is left at the end is a step too
        (9, [False, False, True, False, True]),  # rounded up to whole batches
        (100, [False, False, False, False, True]),
    ],
)
def test_gradients_are_gathered_until_so_many_pictures_were_seen(
    make_learner: Any, n_acc: int, moved: list[bool]
):
    learner, moves = make_learner(), Moves()
    learner.fit(2, 1e-2, cbs=[GradientAccumulation(n_acc), moves])
    assert moves.moved == moved * 2
    assert all(value.grad is None for value in learner.model.parameters())


def test_gathering_is_over_with_the_fit(make_learner: Any):
    learner = make_learner()
    learner.fit(1, cbs=GradientAccumulation(8))
    assert learner.accumulate == 1
    moves = Moves()
    learner.fit(1, 1e-2, cbs=moves)
    assert moves.moved == [True] * 5


def test_an_option_of_the_learner_comes_back_though_another_callback_failed(make_learner: Any):
    class Fail(Callback):
        order = -1

        def before_fit(self, fit: Fit) -> None:
            raise ValueError("mine")

    learner = make_learner()
    learner.accumulate, learner.clip = 3, 0.25
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=[Fail(), GradientAccumulation(8), GradientClip(2.0)])
    assert (learner.accumulate, learner.clip) == (3, 0.25)


def test_gradients_are_clipped_to_a_norm_in_this_fit_alone(
    make_learner: Any, monkeypatch: pytest.MonkeyPatch
):
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def note(self: Any, *arguments: Any, **options: Any) -> Any:
        gradients = [
            value.grad.flatten()
            for group in self.param_groups
            for value in group["params"]
            if value.grad is not None
        ]
        norms.append(float(torch.cat(gradients).norm()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    learner = make_learner()
    learner.fit(1, 1e-3, cbs=GradientClip(0.01))
    assert norms == pytest.approx([0.01] * 5, rel=1e-3)
    assert learner.clip is None
    learner.fit(1, 1e-3)
    assert min(norms[5:]) > 0.02


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientAccumulation(0),
        lambda: GradientClip(0.0),
        lambda: GradientClip(-1.0),
        lambda: GradientClip(1.0, norm_type=1.0),
        lambda: ProgressiveResizing(()),
        lambda: ProgressiveResizing((64, 0)),
    ],
)
def test_a_number_that_cannot_work_is_refused(make: Any):
    with pytest.raises(ConfigError, match="Received"):
        make()


class Sizes(Callback):
    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.sizes.append(tuple(batch.images.shape[2:]))
        return batch


@pytest.mark.parametrize("transforms", [(), aug_transforms(size=32)], ids=["plain", "augmented"])
def test_pictures_grow_from_part_to_part_of_a_fit(
    make_learner: Any, make_loaders: Any, transforms: Any
):
    loaders = make_loaders(transforms=transforms)
    learner, sizes = make_learner(loaders), Sizes()
    before = loaders.train.augmentation
    learner.fit(3, cbs=[ProgressiveResizing((16, (24, 20), 32)), sizes])
    assert sizes.sizes == [(16, 16)] * 5 + [(24, 20)] * 5 + [(32, 32)] * 5
    assert loaders.train.augmentation is before
    assert loaders.valid.one_batch()[0].shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("n_epoch", "sides"),
    [(1, [16]), (2, [16, 24]), (4, [16, 16, 24, 32]), (6, [16, 16, 24, 24, 32, 32])],
)
def test_parts_are_as_equal_as_epochs_allow(
    make_learner: Any, make_loaders: Any, n_epoch: int, sides: list[int]
):
    learner, sizes = make_learner(make_loaders(batch_size=20)), Sizes()
    learner.fit(n_epoch, cbs=[ProgressiveResizing((16, 24, 32)), sizes])
    assert [size[0] for size in sizes.sizes] == sides
