"""Transforms and pictures in, the pictures with the transforms applied at once out: for looking, and for calls by hand.

In training a ``BatchAugmentation`` does this, with random numbers that depend on seed, epoch and row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.apply import apply_policy
from vizsla.augment.merge import merge_transforms
from vizsla.augment.sample import Draws
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.augment.policy import BatchTransform


def act(
    transforms: Sequence[BatchTransform],
    images: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return pictures after some transforms, composed as in training: one interpolation, one colour step.

    Args:
        transforms: What is done, random or fixed. A ``Normalize`` acts after the others.
        images: One picture ``(C, H, W)`` or a batch ``(B, C, H, W)``, uint8 0-255 or float 0-1; left as they are.
        generator: Where random draws come from; ``None``: torch's default generator.

    Returns:
        Pictures of the same class, float: in the dtype that came in, float32 for uint8.

    Raises:
        ConfigError: It is neither one picture nor a batch, or the transforms cannot be composed.
    """
    policy = merge_transforms(transforms)
    plain = as_batch(images)
    seed = int(torch.randint(2**62, (), generator=generator))
    draws = Draws(seed=seed, epoch=0, rows=torch.arange(len(plain)), images=plain)
    found = apply_policy(plain, policy=policy, draws=draws)
    return in_form_of(images, found if policy.normalize is None else policy.normalize(found))


def as_batch(images: Tensor) -> Tensor:
    """Return plain pictures ``(B, C, H, W)``.

    Args:
        images: One picture ``(C, H, W)`` or a batch.

    Raises:
        ConfigError: It is neither.
    """
    if images.ndim not in {3, 4}:
        raise ConfigError(
            "A TensorImage that is transformed is one picture (channels, height, width) or a batch of them. "
            f"Received: shape {tuple(images.shape)}"
        )
    plain = images.as_subclass(Tensor)
    return plain[None] if plain.ndim == 3 else plain


def in_form_of(images: Tensor, found: Tensor) -> Tensor:
    """Return float pictures in the form of those that came in: their class, their dtype, one or a batch."""
    if images.dtype.is_floating_point:
        found = found.to(images.dtype)
    return (found[0] if images.ndim == 3 else found).as_subclass(type(images))
