"""Normal equations of least squares over any number of rows, which are read by blocks, from memory or from a file.

Sums are float64, so neither the size of the blocks nor the order of the rows changes a result by more than rounding.

Shape legend: N images, V views of each, B rows of a block, D features, P expanded features, C classes or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vizsla.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from vizsla.infer.stored_features import StoredFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalEquations:
    """The sums over all rows that a ridge regression follows from, float64, rows and targets centred.

    Attributes:
        gram_PP: Products of the expanded features.
        cross_PC: Their products with the targets.
        mean_P: What was centred of the features.
        prior_C: What was centred of the targets.
        num_rows: How many rows there are.
        total_weight: The sum of their weights.
    """

    gram_PP: Tensor
    cross_PC: Tensor
    mean_P: Tensor
    prior_C: Tensor
    num_rows: int
    total_weight: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlocks:
    """Rows of features with their targets, some images at a time.

    Attributes:
        features: float32 ``(N, V, D')``.
        targets: See ``fit_feature_head``.
        columns: int64 ``(D,)``, which features are used.
        images_at_once: In a block.
        num_classes: C; None where targets are the numbers themselves.
        class_weights: float ``(C,)``, or None.
    """

    features: Tensor | StoredFeatures
    targets: Tensor
    columns: Tensor
    images_at_once: int
    num_classes: int | None
    class_weights: Tensor | None

    def spread(self, *, around_D: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each feature, float32 ``(D,)``; sums are ``around_D``, so that nothing cancels.

        Raises:
            TrainingError: There are values that are not finite.
        """
        sums_D, squares_D = torch.zeros_like(around_D), torch.zeros_like(around_D)
        num_rows = num_bad = 0
        for block in self._blocks():
            num_bad += int((~torch.isfinite(self.features[block])).sum())
            apart_BD = self._rows(block).double() - around_D
            sums_D += apart_BD.sum(0)
            squares_D += apart_BD.square().sum(0)
            num_rows += len(apart_BD)
        check_features(len(self.features), num_bad=num_bad)
        variance_D = (squares_D - sums_D.square() / num_rows) / (num_rows - 1)
        return (around_D + sums_D / num_rows).float(), variance_D.clamp_min(0).sqrt().float()

    def normal_equations(
        self,
        expansions: Sequence[Callable[[Tensor], Tensor]],
        *,
        offset_D: Tensor,
        scale_D: Tensor,
    ) -> list[NormalEquations]:
        """Return the equations of several expansions of the standardised rows, float32 ``(B, D)`` to float64 ``(B, P)``, in one pass."""
        grams: list[Tensor] = []
        crosses: list[Tensor] = []
        sums: list[Tensor] = []
        wanted_sum, total, num_rows = torch.tensor(0.0), torch.tensor(0.0), 0
        num_views = self.features.shape[1]
        for block in self._blocks():
            rows_BD = (self._rows(block) - offset_D) * scale_D
            wanted_BC, weights_B = wanted_of(
                self.targets[block], num_classes=self.num_classes, class_weights=self.class_weights
            )
            wanted_BC = wanted_BC.repeat_interleave(num_views, 0)
            if weights_B is None:
                weights_B = torch.ones(len(wanted_BC) // num_views, dtype=torch.float64)
            weights_B1 = weights_B.repeat_interleave(num_views)[:, None]
            for place, expand in enumerate(expansions):
                expanded_BP = expand(rows_BD)
                weighted_BP = expanded_BP * weights_B1 if self.class_weights is not None else expanded_BP  # fmt: skip
                if not num_rows:
                    num_expanded = expanded_BP.shape[1]
                    grams.append(expanded_BP.new_zeros(num_expanded, num_expanded))
                    crosses.append(expanded_BP.new_zeros(num_expanded, wanted_BC.shape[1]))
                    sums.append(expanded_BP.new_zeros(num_expanded))
                grams[place].addmm_(expanded_BP.T, weighted_BP)
                crosses[place].addmm_(weighted_BP.T, wanted_BC)
                sums[place] += weighted_BP.sum(0)
            wanted_sum = wanted_sum + (wanted_BC * weights_B1).sum(0)
            total = total + weights_B1.sum()
            num_rows += len(rows_BD)
        prior_C = wanted_sum / total
        return [
            NormalEquations(
                gram_PP=gram_PP.addr_(sum_P, sum_P / total, alpha=-1),
                cross_PC=cross_PC.addr_(sum_P, prior_C, alpha=-1),
                mean_P=sum_P / total,
                prior_C=prior_C,
                num_rows=num_rows,
                total_weight=total,
            )
            for gram_PP, cross_PC, sum_P in zip(grams, crosses, sums, strict=True)
        ]

    def _blocks(self) -> Iterator[slice]:
        starts = range(0, len(self.features), self.images_at_once)
        return (slice(start, start + self.images_at_once) for start in starts)

    def _rows(self, block: slice) -> Tensor:
        return self.features[block].flatten(0, 1)[:, self.columns]


def wanted_of(
    targets: Tensor, *, num_classes: int | None, class_weights: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return what a ridge should answer for some images, float64 ``(N, C)``, and how much each counts, ``(N,)`` or None."""
    wanted_NC = targets if num_classes is None else F.one_hot(targets, num_classes)
    return wanted_NC.double(), None if class_weights is None else class_weights.double()[targets]


def check_features(num_images: int, *, num_bad: int) -> None:
    """Raise TrainingError where a head cannot be fitted: fewer than two images, or values that are not finite."""
    if num_images < 2 or num_bad:
        raise TrainingError(
            "A head is fitted on finite features of at least two images. "
            f"Received: {num_images} images, {num_bad} values that are not finite."
        )
