"""MixUp and CutMix: the arithmetic of the reference, the distribution of the shares, and which images are mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from vizsla import ConfigError
from vizsla.augment import (
    Draws,
    beta_shares,
    blend_images,
    cut_mix,
    mix_up,
    mixed_loss,
    paste_boxes,
    paste_images,
)

RECORD = json.loads((Path(__file__).parents[2] / "golden" / "mix.json").read_text("utf-8"))
PER_IMAGE = nn.CrossEntropyLoss(reduction="none")


def draws_for(count: int, *, seed: int = 0) -> Draws:
    return Draws(seed=seed, epoch=0, rows=torch.arange(count))


def flat_images(count: int, size: tuple[int, int] = (6, 8)) -> Tensor:
    """Images of one value each: 0, 1, 2, ..."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(count, 3, *size)


def test_mixup_equals_the_reference():
    case = RECORD["mixup"]
    images, targets = torch.tensor(case["x"]), torch.tensor(case["y"])
    lam, perm = torch.tensor(case["lam"]), torch.tensor(case["perm"])
    mixed = blend_images(images, targets, shares=lam, partners=perm)
    torch.testing.assert_close(mixed.images, torch.tensor(case["mixed"]), atol=1e-5, rtol=0)
    loss = mixed_loss(torch.tensor(case["pred"]), mixed, loss=PER_IMAGE)
    assert float(loss) == pytest.approx(case["loss"], abs=1e-5)


def test_cutmix_equals_the_reference():
    for case in RECORD["cutmix"]["cases"]:
        size = case["H"], case["W"]
        centre = torch.tensor([[case["cy"], case["cx"]]]).expand(2, 2)
        shares = torch.tensor([case["lam"]] * 2, dtype=torch.float64)
        boxes = paste_boxes(shares, centres=centre, size=size)
        left, top, right, bottom = case["box_x1y1x2y2"]
        assert boxes[0].tolist() == [top, left, bottom, right]
        images = flat_images(2, size)
        mixed = paste_images(
            images, torch.tensor([0, 1]), boxes=boxes, partners=torch.tensor([1, 0])
        )
        assert mixed.shares.tolist() == pytest.approx([case["adjusted_lam"]] * 2)
        assert bool((mixed.images[0, :, top:bottom, left:right] == 1).all())
        assert float(mixed.images[0].mean()) == pytest.approx(1 - case["adjusted_lam"])
        assert mixed.partner_targets.tolist() == [1, 0]


def test_shares_follow_the_beta_distribution():
    for alpha in [0.2, 0.4, 0.5, 1.0, 3.0, 20.0]:
        uniform = draws_for(4000).uniform("test", count=2)
        shares = beta_shares(uniform, alpha=alpha)
        assert bool(((shares >= 0) & (shares <= 1)).all())
        fit = scipy.stats.kstest(shares.numpy(), scipy.stats.beta(alpha, alpha).cdf)
        assert fit.pvalue > 0.01


def test_shares_are_finite_at_the_ends():
    ends = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0.25], [1, 0.5], [0.5, 0.25]]) * (1 - 2**-24)
    for alpha in (1e-3, 1.0, 100.0):
        assert bool(beta_shares(ends.double(), alpha=alpha).isfinite().all())


def test_mixup_keeps_the_larger_part_of_each_image():
    images, targets = flat_images(30), torch.arange(30) + 100
    mixed = mix_up(images, targets, draws=draws_for(30))
    assert 0.5 <= float(mixed.shares.min()) < 0.7 < float(mixed.shares.max()) <= 1
    assert sorted(mixed.partner_targets.tolist()) == targets.tolist()
    assert mixed.partner_targets.tolist() != targets.tolist()
    partners = mixed.partner_targets - 100
    expected = mixed.shares * torch.arange(30.0) + (1 - mixed.shares) * partners
    torch.testing.assert_close(mixed.images[:, 0, 0, 0], expected)


def test_cutmix_pastes_boxes_of_their_own():
    images, targets = flat_images(30, (20, 30)), torch.arange(30)
    mixed = cut_mix(images, targets, draws=draws_for(30))
    own = (mixed.images == images).all(dim=1).double().mean(dim=(1, 2))
    moved = mixed.partner_targets != targets
    torch.testing.assert_close(own[moved].float(), mixed.shares[moved])
    assert len(set(mixed.shares.tolist())) > 20
    assert bool((mixed.images.flatten(1).amax(dim=1) <= torch.maximum(targets, mixed.partner_targets)).all())  # fmt: skip


def test_mixing_is_repeatable_and_leaves_its_input():
    for mix in [mix_up, cut_mix]:
        images, targets = flat_images(8).clone(), torch.arange(8)
        before = images.clone()
        one, again, other = (mix(images, targets, draws=draws_for(8, seed=n)) for n in (1, 1, 2))
        assert torch.equal(one.images, again.images)
        assert not torch.equal(one.images, other.images)
        assert torch.equal(images, before)
        alone = mix(images[3:4], torch.tensor([4]), draws=draws_for(1))
        torch.testing.assert_close(alone.images, images[3:4])
        assert alone.partner_targets.tolist() == [4]


def test_impossible_mixtures_are_refused():
    with pytest.raises(ConfigError, match="alpha"):
        mix_up(flat_images(2), torch.arange(2), draws=draws_for(2), alpha=0)
    with pytest.raises(ConfigError, match="2 images, 3 targets, 2 rows"):
        cut_mix(flat_images(2), torch.arange(3), draws=draws_for(2))
