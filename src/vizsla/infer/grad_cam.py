"""Show where a classifier looked: heat maps by Grad-CAM. The classifier is left as it was.

Selvaraju et al., "Grad-CAM: Visual explanations from deep networks via gradient-based localization", ICCV 2017 (arXiv
1610.02391): the maps of a stage are weighted with the mean gradient of the logit over their positions and summed; negative values
are cut off. Backbones give their maps themselves, so no layer has to be named, and networks of tokens work like others.

Shapes: B images, C classes, stage maps ``(B, K, h, w)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.models.classifier import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.models.classifier import Classifier

STRENGTH = 0.6
"""How much of the image the hottest colour covers in ``overlay``."""

# Black-violet, red, yellow: darker to lighter, so it can be read in grey and with any colour vision.
_COLOURS = ((0.15, 0.0, 0.35), (0.85, 0.15, 0.2), (1.0, 0.9, 0.3))


def grad_cam(
    classifier: Classifier,
    images: Tensor,
    *,
    targets: Tensor | Sequence[int] | None = None,
    stage: int = -1,
) -> Tensor:
    """Return a heat map for each image: how strongly each place supports a class.

    This works with frozen bodies and under ``torch.no_grad()``; modes, gradients and ``requires_grad`` stay as they are.

    Args:
        classifier: Used in evaluation mode and float32.
        images: Floating point ``(B, 3, H, W)`` with values 0-1.
        targets: The class to explain for each image, int64 ``(B,)``; or ``(B, C)`` with 1 or True for one class or more,
            whose logits are added. None for the class with the largest logit.
        stage: Position of a stage map of the backbone; -1 for the last one that the head looks at and that has more than
            one position. Of networks that are joined, -1 adds the heat of each network's last map.

    Returns:
        float32 ``(B, H, W)`` on the classifier's device, 0 to 1, bilinearly enlarged; the hottest place of an image is 1,
        unless nothing in it supports the class.

    Raises:
        ConfigError: The images have another shape, the targets are not one per image, there is no such stage, its map
            has a single position, or the logits do not depend on it: in networks of tokens they depend only on the maps that
            the head uses.

    Examples:
        >>> heat = grad_cam(classifier, batch.images)
        >>> shown = overlay(batch.images[0], heat[0])
    """
    parameter = next(classifier.parameters(), classifier.mean)
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(parameter.device.type, enabled=False),
        evaluation_mode(classifier),
    ):
        # A copy outside of any graph; made inside inference mode, it could not have gradients.
        copied = images.detach().to(parameter.device, copy=True)
        ranges = classifier.backbone.stage_ranges
        if stage != -1 or len(ranges) == 1:
            ranges = (range(len(classifier.backbone.stage_channels)),)
        found = [
            _maps_and_gradients(classifier, copied, targets=targets, stage=stage, among=among)
            for among in ranges
        ]
    size = (images.shape[2], images.shape[3])
    heats: list[Tensor] = []
    for chosen_maps, gradients in found:
        weights = gradients.mean(dim=(2, 3), keepdim=True)
        heat = (weights * chosen_maps).sum(dim=1, keepdim=True).clamp_min(0).float()
        if len(found) > 1:  # a smaller map has the same part of the logit in fewer places
            heat = heat * (heat.shape[2] * heat.shape[3])
        heats.append(F.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0])
    heat = heats[0] if len(heats) == 1 else torch.stack(heats).sum(0)
    largest = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, heat / largest.clamp_min(torch.finfo(heat.dtype).tiny), 0.0)


def overlay(image: Tensor, heat: Tensor, *, strength: float = STRENGTH) -> Tensor:
    """Return an image with its heat map over it, uint8 ``(3, H, W)``.

    Args:
        image: RGB ``(3, H, W)``, uint8 0-255 or floating point 0-1.
        heat: Floating point 0-1 ``(h, w)``, one of those from ``grad_cam``; enlarged bilinearly if it is smaller.
        strength: How much of the image the hottest colour covers, 0 to 1; cold places cover nothing.
    """
    if image.ndim != 3 or image.shape[0] != 3 or heat.ndim != 2:
        raise ConfigError(
            "overlay takes one RGB image (3, H, W) and its heat map (h, w). "
            f"Received: {tuple(image.shape)} and {tuple(heat.shape)}"
        )
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength must be from 0 to 1. Received: {strength!r}")
    below = image.float() if image.is_floating_point() else image.float() / 255
    heat = heat.detach().to(image.device, torch.float32)[None, None]
    heat = F.interpolate(heat, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
    share = heat.clamp(0, 1) * strength
    mixed = torch.lerp(below, _colours(heat[0].clamp(0, 1)), share)
    return (mixed.clamp(0, 1) * 255).round().to(torch.uint8)


def _maps_and_gradients(
    classifier: Classifier,
    images: Tensor,
    *,
    targets: Tensor | Sequence[int] | None,
    stage: int,
    among: range,
) -> tuple[Tensor, Tensor]:
    """Return the maps of the chosen stage ``(B, K, h, w)`` and the gradients of the classes' logits with respect to them.

    The stage -1 is one of those ``among``, the maps of one network.
    """
    with torch.no_grad():
        maps = classifier.stage_maps(images)
    leaves = tuple(found.detach().requires_grad_() for found in maps)
    scores = _scores(classifier.head(_copies(leaves)), targets)
    direct = _gradients(scores, leaves)
    used = [position for position in among if direct[position] is not None]
    chosen = _chosen_stage(maps, used=used, stage=stage, among=among)
    gradient = direct[chosen]
    if gradient is not None and chosen == used[-1]:
        return maps[chosen], gradient
    # Later maps, which the head uses too, depend on this one: the gradient has to come back through the body. Images that
    # need gradients make torch keep what that takes, even if no parameter needs any.
    maps = classifier.stage_maps(images.requires_grad_())
    scores = _scores(classifier.head(_copies(maps)), targets)
    (gradient,) = _gradients(scores, (maps[chosen],))
    if gradient is None:
        raise ConfigError(
            f"The logits do not depend on the map of stage {chosen} of {len(maps)}: neither the head nor later "
            "layers use it (transformers pass on tokens instead). Choose stage=-1, with images large enough that "
            "the last map has more than one position."
        )
    return maps[chosen].detach(), gradient


def _copies(maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return maps that a head may overwrite, as in-place layers do."""
    return tuple(found.clone() for found in maps)


def _gradients(scores: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradient of the sum of scores with respect to each input, None where it does not depend on it."""
    if not scores.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(scores.sum(), inputs, allow_unused=True)


def _scores(logits: Tensor, targets: Tensor | Sequence[int] | None) -> Tensor:
    """Return the logit of each image's class, or the sum of its classes' logits, ``(B,)``."""
    count, num_classes = logits.shape
    if targets is None:
        return logits.amax(dim=1)
    chosen = torch.as_tensor(targets, device=logits.device)
    if chosen.shape == logits.shape:
        return (logits * chosen.to(logits.dtype)).sum(dim=1)
    whole = not chosen.is_floating_point() and chosen.dtype != torch.bool
    if chosen.shape != (count,) or not whole:
        raise ConfigError(
            f"targets must have one class number for each of {count} images, or a row of {num_classes} zeros and "
            f"ones. Received: {chosen.dtype} {tuple(chosen.shape)}"
        )
    if count and not 0 <= int(chosen.min()) <= int(chosen.max()) < num_classes:
        raise ConfigError(
            f"targets must be class numbers from 0 to {num_classes - 1}. Received: {chosen.tolist()}"
        )
    return logits.gather(1, chosen.long().unsqueeze(1)).squeeze(1)


def _chosen_stage(maps: tuple[Tensor, ...], *, used: list[int], stage: int, among: range) -> int:
    """Return the position of the map that ``stage`` means."""
    has_extent = [found.shape[2] * found.shape[3] > 1 for found in maps]
    if not used:
        raise ConfigError(
            "The logits do not depend on the stage maps: the head gives no gradients. Use a head of torch operations."
        )
    if stage == -1:
        looked_at = [
            position for position in among if position <= used[-1] and has_extent[position]
        ]
        if looked_at:
            return looked_at[-1]
    elif not -len(maps) <= stage < len(maps):
        raise ConfigError(
            f"The backbone has {len(maps)} stages, 0 to {len(maps) - 1}. Received: stage={stage}"
        )
    elif has_extent[stage]:
        return stage % len(maps)
    sides = ", ".join(f"{found.shape[2]} x {found.shape[3]}" for found in maps)
    raise ConfigError(
        f"A map with a single position cannot show where. The maps have these sizes: {sides}. Use larger images, "
        "or another stage."
    )


def _colours(heat: Tensor) -> Tensor:
    """Return colours ``(3, H, W)`` for heat ``(H, W)`` from 0 to 1."""
    cold, warm, hot = (heat.new_tensor(colour)[:, None, None] for colour in _COLOURS)
    lower = torch.lerp(cold, warm, (heat * 2).clamp(0, 1))
    return torch.lerp(lower, hot, (heat * 2 - 1).clamp(0, 1))
