"""MixUp and CutMix in training. Golden values: tests/golden/mix.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from vizsla.augment.mix import blend_images, paste_boxes
from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.step import CutMix, MixUp
from vizsla.train.losses import CrossEntropyLossFlat
from vizsla.train.step import batch_loss
from vizsla.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "mix.json").read_text("utf-8"))


class Keep(Callback):
    """Keeps the batches as they go into the network, and as they were before they were mixed."""

    order = 95

    def __init__(self) -> None:
        self.mixed: list[Batch] = []

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.mixed.append(batch)
        return batch


class KeepBefore(Keep):
    order = 0


def run(make_learner: Any, mixing: Callback, *, loaders: Any = None) -> tuple[Keep, Keep, Any]:
    learner = make_learner(loaders, dropout=0.0)
    before, after = KeepBefore(), Keep()
    learner.fit(1, 1e-12, cbs=[before, mixing, after])
    return before, after, learner


def test_the_mixed_loss_is_the_golden_one():
    case = GOLDEN["mixup"]
    images, targets = torch.tensor(case["x"]), torch.tensor(case["y"])
    mixed = blend_images(
        images,
        targets,
        shares=torch.tensor(case["lam"]),
        partners=torch.tensor(case["perm"]),
    )
    torch.testing.assert_close(mixed.images, torch.tensor(case["mixed"]), atol=1e-6, rtol=0)
    batch = Batch(
        images=mixed.images,
        targets=targets,
        rows=torch.arange(len(targets)),
        partner_targets=mixed.partner_targets,
        shares=mixed.shares,
    )
    logits = torch.tensor(case["pred"])
    for loss_function in (F.cross_entropy, CrossEntropyLossFlat()):
        loss = batch_loss(logits, batch, loss_function=loss_function)
        assert float(loss) == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("case", GOLDEN["cutmix"]["cases"])
def test_boxes_and_shares_are_the_golden_ones(case: dict[str, Any]):
    height, width = case["H"], case["W"]
    boxes = paste_boxes(
        torch.tensor([case["lam"]]),
        centres=torch.tensor([[case["cy"], case["cx"]]]),
        size=(height, width),
    )
    top, left, bottom, right = boxes[0].tolist()
    assert [left, top, right, bottom] == case["box_x1y1x2y2"]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    assert share == pytest.approx(case["adjusted_lam"], abs=1e-9)


def partner_of(batch: Batch, place: int, *, originals: Tensor, inside: Tensor) -> Tensor:
    """Return the original that the changed part of a picture was taken from."""
    hits = [
        each for each in originals if torch.equal(each[:, inside], batch.images[place][:, inside])
    ]
    assert len(hits) == 1
    return hits[0]


def test_cutmix_pastes_one_box_of_another_picture_and_counts_its_area(make_learner: Any):
    before, after, _ = run(make_learner, CutMix())
    assert len(after.mixed) == 5
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        assert mixed.shares is not None
        for place, share in enumerate(mixed.shares.tolist()):
            inside = (mixed.images[place] != plain.images[place]).any(dim=0)
            if not inside.any():
                continue  # Its own box, or an empty one.
            ys, xs = inside.nonzero().unbind(1)
            box = torch.zeros_like(inside)
            box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
            partner_of(mixed, place, originals=plain.images, inside=box)
            # Pixels may agree by chance along an edge, so the box that is seen may be a little smaller.
            assert 1 - share >= float(box.float().mean()) - 1e-6
            assert 1 - share <= float(box.float().mean()) + 0.1


def test_mixup_blends_with_at_most_half_of_another_picture(make_learner: Any):
    before, after, _ = run(make_learner, MixUp())
    shares = torch.cat([batch.shares for batch in after.mixed if batch.shares is not None])
    assert len(shares) == 20
    assert float(shares.min()) >= 0.5
    assert float(shares.max()) <= 1.0
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        assert torch.equal(mixed.targets, plain.targets)
        assert mixed.shares is not None
        for place, share in enumerate(mixed.shares):
            rests = [
                mixed.images[place] - torch.lerp(other, plain.images[place], share)
                for other in plain.images
            ]
            assert min(float(rest.abs().max()) for rest in rests) < 1e-6


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_the_recorded_loss_counts_both_targets(make_learner: Any, mixing: Any):
    _, after, learner = run(make_learner, mixing())
    learner.model.train()
    for batch, loss in zip(after.mixed, learner.recorder.losses, strict=True):
        logits = learner.model(batch.images)
        own = F.cross_entropy(logits, batch.targets, reduction="none")
        shares, partners = batch.shares, batch.partner_targets
        assert shares is not None
        assert partners is not None
        partner = F.cross_entropy(logits, partners, reduction="none")
        expected = (shares * own + (1 - shares) * partner).mean().detach()
        assert loss == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_a_picture_alone_in_its_batch_stays_as_it_is(
    make_learner: Any, make_loaders: Any, mixing: Any
):
    loaders = make_loaders(num_valid=4, batch_size=1)
    learner = make_learner(loaders)
    learner.check_batches = lambda: None  # the head's norms need two; here they are not trained
    learner.training_mode = learner.model.eval
    before, after = KeepBefore(), Keep()
    learner.fit(1, 1e-3, cbs=[before, mixing(), after])
    assert len(after.mixed) == 20
    for plain, mixed in zip(before.mixed, after.mixed, strict=True):
        torch.testing.assert_close(mixed.images, plain.images, atol=1e-6, rtol=0)
        assert mixed.partner_targets is not None
        assert torch.equal(mixed.partner_targets, plain.targets)


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_the_same_seed_mixes_in_the_same_way(make_learner: Any, mixing: Any):
    first, second = (run(make_learner, mixing())[2].recorder.losses for _ in range(2))
    assert first == second


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_an_alpha_that_cannot_work_is_refused(mixing: Any, alpha: float):
    with pytest.raises(ConfigError, match=f"above 0. Received: {alpha}"):
        mixing(alpha)


def test_a_loss_that_cannot_be_had_for_each_picture_is_refused_before_the_first_step(
    make_learner: Any,
):
    def mean_only(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)

    learner = make_learner(loss_func=mean_only)
    with pytest.raises(ConfigError):
        learner.fit(1, cbs=MixUp())
    assert learner.recorder.losses == []


def test_validation_pictures_are_not_mixed(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-12, cbs=MixUp())
    assert learner.recorder.values[0][1] == pytest.approx(learner.validate()[0], abs=1e-6)
