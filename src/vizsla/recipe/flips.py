"""Decide which mirror images of its images a classifier learns from.

Mirror images of photographs are more images for nothing. Where classes differ by left and right, as arrows and letters do, they
teach the opposite. The first stage has the features of both: a head is fitted with mirror images and without them, and where it makes
far fewer mistakes without, they are left out.

Shape legend: N images, V views of each, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from vizsla.recipe.head_fit import HeadSetting, fit_feature_head
from vizsla.seeding import generator

if TYPE_CHECKING:
    from typing import Unpack

    from torch import Tensor

    from vizsla.infer.stored_features import StoredFeatures
    from vizsla.recipe.config import TrainConfig
    from vizsla.recipe.head_fit import FitOptions, HeadFit

FEWEST_COMPARED, MOST_COMPARED = 500, 2_000
"""Images, a tenth of all between these numbers: the comparison costs a hundredth of computing their features."""
LEAST_SURPRISE = 4.0
"""Standard errors by which mirror images must hurt: by chance that is one data set in 30,000."""
LARGEST_SHARE = 0.75
"""Of the mistakes that are left without mirror images; a smaller gain is not worth half of the training images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flips:
    """Which mirror images of training images are of the same class.

    Attributes:
        sideways: Left and right exchanged.
        upside_down: Top and bottom exchanged.
    """

    sideways: bool = True
    upside_down: bool = False

    @classmethod
    def asked_for(cls, config: TrainConfig) -> Flips:
        """Return what the options of a run say, before the images were looked at."""
        sideways = config.augment != "none" if config.flip == "auto" else config.flip
        return cls(sideways=sideways, upside_down=config.vertical_flip)

    @property
    def views(self) -> tuple[str, ...]:
        """The views of each training image whose features the head learns from."""
        chosen = {
            "plain": True,
            "mirrored": self.sideways,
            "upside down": self.upside_down,
            "turned": self.sideways and self.upside_down,
        }
        return tuple(view for view, is_chosen in chosen.items() if is_chosen)


def without_harmful(
    flips: Flips,
    features: Tensor | StoredFeatures,
    targets: Tensor,
    *,
    found: HeadFit,
    **options: Unpack[FitOptions],
) -> tuple[Flips, tuple[str, ...]]:
    """Return the flips that do no harm, and a line for each that does.

    Linear heads are compared, on the same images, by what they say of each when it is left out. Nothing is compared where the head
    that was ``found`` with all views makes hardly a mistake. The features, float32 ``(N, V, D)``, are of the views of ``flips``;
    the rest is as for ``fit_feature_head``.
    """
    mistakes = _mistakes(found, targets[found.sample])
    if len(flips.views) == 1 or not _is_worse(mistakes, torch.zeros_like(mistakes)):
        return flips, ()
    order = torch.randperm(len(features), generator=generator(options.get("seed", 0), "flips"))
    number = min(max(len(features) // 10, FEWEST_COMPARED), MOST_COMPARED)
    chosen = order[:number].sort().values
    values, targets = features[chosen], targets[chosen]
    fit = partial(fit_feature_head, targets=targets, **options)
    layout = options["layout"]
    linear = HeadSetting(stages=layout.stages, statistics=layout.statistics)
    plain = fit(values[:, :1], setting=linear)
    kept, lines = flips, list[str]()
    words = {"category": "Classes", "multi_category": "Labels", "regression": "Numbers"}
    for view, field, ways, images, off in (
        ("mirrored", "sideways", "left and right", "mirror images", "Mirroring is off."),
        ("upside down", "upside_down", "up and down", "images upside down", "Vertical flips are off."),
    ):  # fmt: skip
        if view not in flips.views:
            continue
        pair = values[:, [0, flips.views.index(view)]]
        both = fit(pair, setting=linear)
        if _is_worse(_mistakes(both, targets), _mistakes(plain, targets)):
            kept = replace(kept, **{field: False})
            lines.append(
                f"{words[plain.task]} differ by {ways}: leave-one-out {both.result} with {images}, {plain.result} without. {off}"
            )
    return kept, tuple(lines)


def _mistakes(fit: HeadFit, targets: Tensor) -> Tensor:
    """Return how wrong the leave-one-out prediction of each image is, float64 ``(N,)``."""
    said = fit.left_out
    if fit.task == "category":
        return (said.argmax(1) != targets).double()
    if fit.task == "multi_category":
        return ((said > 0) != targets.bool()).double().mean(1)
    return ((said - targets).double().square() / targets.double().var(0).clamp_min(1e-12)).mean(1)


def _is_worse(mistakes: Tensor, others: Tensor) -> bool:
    """Whether there are more mistakes than others on the same images ``(N,)``, by much and not by chance."""
    more = mistakes - others
    surprise = more.sum() / more.square().sum().sqrt().clamp_min(1e-12)
    return bool(others.mean() <= LARGEST_SHARE * mistakes.mean() and surprise >= LEAST_SURPRISE)
