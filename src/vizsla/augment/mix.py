"""MixUp and CutMix: batches in which each image holds part of another one, and their loss.

``mix_up``: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017. ``cut_mix``: Yun et al., "CutMix", 2019. Both
draw for each image on its own. ``blend_images``, ``paste_boxes`` and ``paste_images`` are the arithmetic alone.

Shape legend: B images, C channels, H x W pixels, N classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.augment.batch_augmentation import Draws
    from vizsla.types import Size


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedBatch:
    """Images that each show two."""

    images: Tensor  # float (B, C, H, W)
    targets: Tensor  # int64 (B,) of the images themselves
    partner_targets: Tensor  # int64 (B,) of what was mixed in
    shares: Tensor  # float (B,), 0-1: how much is left of the images themselves


def mix_up(images: Tensor, targets: Tensor, *, draws: Draws, alpha: float = 0.4) -> MixedBatch:
    """Blend each image with another one of the batch; an image that is alone in its batch stays as it is.

    Shares are Beta(alpha, alpha), and the larger part stays; the default leaves most images almost as they are. The share of
    an image depends on its row only, its partner on the rows of the batch.
    """
    _check(images, targets, draws=draws, alpha=alpha)
    uniform = draws.uniform("augment/mixup", count=3)
    shares = beta_shares(uniform[:, :2], alpha=alpha)
    return blend_images(
        images, targets, shares=torch.maximum(shares, 1 - shares), partners=uniform[:, 2].argsort()
    )


def cut_mix(images: Tensor, targets: Tensor, *, draws: Draws, alpha: float = 1.0) -> MixedBatch:
    """Paste a box of another image of the batch into each image; an image that is alone in its batch stays as it is.

    1 minus the box's share of the area, before it is cut off at the edges, is Beta(alpha, alpha); the batch has the shares of
    the pixels. The box of an image depends on its row only, its partner on the rows of the batch.
    """
    _check(images, targets, draws=draws, alpha=alpha)
    height, width = images.shape[-2:]
    uniform = draws.uniform("augment/cutmix", count=5)
    shares = beta_shares(uniform[:, :2], alpha=alpha)
    centres = (uniform[:, 2:4] * torch.tensor([height, width])).floor().long()
    boxes = paste_boxes(shares, centres=centres, size=(height, width))
    return paste_images(images, targets, boxes=boxes, partners=uniform[:, 4].argsort())


def beta_shares(uniform: Tensor, *, alpha: float) -> Tensor:
    """Turn pairs of uniform numbers ``(B, 2)`` into numbers ``(B,)`` that are Beta(alpha, alpha), exactly and without rejection.

    By the polar method for Student's t (Bailey, Mathematics of Computation 62, 1994), of which a symmetric beta is a function.
    """
    # 1 - u is above 0, so the logarithm is finite; expm1 keeps the difference where u is small.
    spread = torch.expm1(-torch.log1p(-uniform[:, 0]) / alpha).clamp_max(1e300)
    direction = (2 * math.pi * uniform[:, 1]).cos()
    square = spread * direction**2
    return 0.5 + 0.5 * direction.sign() * (square / (1 + square)).sqrt()


def paste_boxes(shares: Tensor, *, centres: Tensor, size: Size) -> Tensor:
    """Return the boxes around centres (y, x), int64 ``(B, 2)``, that leave about these shares ``(B,)`` of the images.

    Boxes are int64 ``(B, 4)``: top, left, bottom, right in pixels, cut off at the edges; bottom and right are not included.
    """
    limits = torch.tensor(size)
    sides = (limits * (1 - shares)[:, None].sqrt()).round().long()
    low = (centres - sides // 2).clamp(min=0).minimum(limits)
    high = (centres + sides // 2).clamp(min=0).minimum(limits)
    return torch.cat([low, high], dim=1)


def blend_images(
    images: Tensor, targets: Tensor, *, shares: Tensor, partners: Tensor
) -> MixedBatch:
    """Return ``share * image + (1 - share) * partner``; ``partners``, int64 ``(B,)``, are positions in the batch."""
    partners = partners.to(images.device)
    shares = shares.to(images.device, images.dtype)
    blended = torch.lerp(images[partners], images, shares[:, None, None, None])
    return MixedBatch(
        images=blended, targets=targets, partner_targets=targets[partners], shares=shares
    )


def paste_images(images: Tensor, targets: Tensor, *, boxes: Tensor, partners: Tensor) -> MixedBatch:
    """Return the images with a box (see ``paste_boxes``) from their partners at the same place."""
    height, width = images.shape[-2:]
    device = images.device
    partners, boxes = partners.to(device), boxes.to(device)
    top, left, bottom, right = boxes[..., None].unbind(1)  # each B 1
    ys, xs = (torch.arange(side, device=device) for side in (height, width))
    in_rows, in_columns = (ys >= top) & (ys < bottom), (xs >= left) & (xs < right)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    pasted_area = ((bottom - top) * (right - left)).squeeze(1)
    return MixedBatch(
        images=torch.where(inside, images[partners], images),
        targets=targets,
        partner_targets=targets[partners],
        shares=(1 - pasted_area.double() / (height * width)).to(images.dtype),
    )


def mixed_loss(
    logits: Tensor, batch: MixedBatch, *, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the mean loss of logits ``(B, N)``; both targets of an image count as much as there is to see of them.

    ``loss`` gives one loss per image, ``(B,)``, as ``nn.CrossEntropyLoss(reduction="none")`` does.
    """
    own, partners = loss(logits, batch.targets), loss(logits, batch.partner_targets)
    return torch.lerp(partners, own, batch.shares.to(own.dtype)).mean()


def _check(images: Tensor, targets: Tensor, *, draws: Draws, alpha: float) -> None:
    if alpha <= 0:
        raise ConfigError(
            f"alpha, which sets how strongly images are mixed, must be above 0. Received: {alpha!r}"
        )
    if not len(images) == len(targets) == len(draws.rows):
        raise ConfigError(
            f"Mixing needs one target and one row for each image. Received: {len(images)} images, "
            f"{len(targets)} targets, {len(draws.rows)} rows"
        )
