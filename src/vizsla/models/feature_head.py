"""Feature maps of several stages in, logits out: pooled statistics, standardised, then linear or through an RBF kernel.

The head is fitted in closed form (``train/head_fit.py``) on features that a frozen body computed once, and is an ordinary
module afterwards: it trains on with the body, is saved with it and exported with it.

Shape legend: B pictures, D pooled features, M landmarks, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATISTICS = ("mean", "std", "max")
"""What pooling can say of a feature map; ``std`` keeps how unevenly a feature is spread, which texture tasks need."""


def pool_statistics(
    maps: Sequence[Tensor], *, stages: Sequence[int], statistics: Sequence[str]
) -> Tensor:
    """Return the chosen statistics of the chosen maps over their positions, side by side.

    Args:
        maps: Feature maps ``(B, channels, h, w)``, one per stage.
        stages: Positions in ``maps``.
        statistics: Some of ``STATISTICS``.

    Returns:
        float32 ``(B, D)``, D = the sum of the stages' channels times the number of statistics.
    """
    pooled: list[Tensor] = []
    for stage in stages:
        positions = maps[stage].flatten(2).float()
        for statistic in statistics:
            if statistic == "mean":
                pooled.append(positions.mean(2))
            elif statistic == "std":
                pooled.append(positions.std(2, correction=0))
            else:
                pooled.append(positions.amax(2))
    return torch.cat(pooled, dim=1)


class FeatureHead(nn.Module):
    """Pooled features, standardised; then a linear layer on them, or on their RBF similarity to landmarks.

    With landmarks the k-th kernel feature is ``exp(-bandwidth / D * |z - landmark_k|^2)`` (Williams and Seeger, "Using the
    Nystroem method to speed up kernel machines", NIPS 2000).

    Args:
        stages: Which of the body's maps are pooled.
        statistics: Some of ``STATISTICS``.
        num_features: D.
        num_classes: C.
        num_landmarks: M; 0 means linear on the standardised features.
        bandwidth: Width of the kernel; larger means narrower. Ignored without landmarks.

    Raises:
        ConfigError: An unknown statistic, or no stage.
    """

    offset: Tensor
    scale: Tensor
    landmarks: Tensor

    def __init__(
        self,
        *,
        stages: Sequence[int],
        statistics: Sequence[str],
        num_features: int,
        num_classes: int,
        num_landmarks: int = 0,
        bandwidth: float = 1.0,
    ) -> None:
        super().__init__()
        if not stages or not statistics or not set(statistics) <= set(STATISTICS):
            raise ConfigError(
                f"A feature head needs stages and some of {', '.join(STATISTICS)}. "
                f"Received: stages={list(stages)}, statistics={list(statistics)}"
            )
        self.stages = tuple(stages)
        self.statistics = tuple(statistics)
        self.bandwidth = bandwidth
        self.register_buffer("offset", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("landmarks", torch.zeros(num_landmarks, num_features))
        # Zeros until it is fitted: a random start would draw from the global generator.
        linear = nn.Linear(num_landmarks or num_features, num_classes, device="meta")
        self.linear = linear.to_empty(device=self.offset.device)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return logits ``(B, C)`` for the feature maps of all stages."""
        return self.classify(self.pool(maps))

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the pooled features ``(B, D)``, not yet standardised."""
        return pool_statistics(maps, stages=self.stages, statistics=self.statistics)

    def classify(self, features_BD: Tensor) -> Tensor:
        """Return logits ``(B, C)`` for pooled features, in their own precision whatever autocast says.

        A kernel is made of small differences between large squared norms: bfloat16 moves its logits by several percent.
        """
        with torch.autocast(features_BD.device.type, enabled=False):
            return self.linear(self.expand((features_BD - self.offset) * self.scale))

    def expand(self, standardised_BD: Tensor) -> Tensor:
        """Return what the linear layer sees: the features themselves, or their similarity to each landmark."""
        if not len(self.landmarks):
            return standardised_BD
        return rbf_kernel(standardised_BD, self.landmarks, bandwidth=self.bandwidth)

    def config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to build a head of this shape, as JSON values."""
        return {
            "kind": "features",
            "stages": list(self.stages),
            "statistics": list(self.statistics),
            "num_landmarks": len(self.landmarks),
            "bandwidth": self.bandwidth,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, stage_channels: Sequence[int], num_classes: int
    ) -> FeatureHead:
        """Build an unfitted head from ``config()`` and the channels of the body's stages.

        Raises:
            ConfigError: A field is missing, of the wrong type, or names a stage that the body lacks.
        """
        try:
            stages = [int(stage) for stage in config["stages"]]
            statistics = [str(statistic) for statistic in config["statistics"]]
            num_landmarks, bandwidth = int(config["num_landmarks"]), float(config["bandwidth"])
            num_features = sum(stage_channels[stage] for stage in stages) * len(statistics)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"This is not the description of a feature head for a body with {len(stage_channels)} stages. "
                f"Received: {dict(config)!r}"
            ) from error
        if num_landmarks < 0 or min(stages, default=0) < 0:
            raise ConfigError(
                f"A feature head cannot have negative counts. Received: {dict(config)!r}"
            )
        return cls(
            stages=stages,
            statistics=statistics,
            num_features=num_features,
            num_classes=num_classes,
            num_landmarks=num_landmarks,
            bandwidth=bandwidth,
        )


def rbf_kernel(left_BD: Tensor, right_MD: Tensor, *, bandwidth: float) -> Tensor:
    """Return ``exp(-bandwidth / D * squared distance)`` for every pair, ``(B, M)``."""
    left_norms = left_BD.square().sum(1, keepdim=True)
    right_norms = right_MD.square().sum(1)
    squared = torch.addmm(left_norms + right_norms, left_BD, right_MD.T, alpha=-2).clamp_min(0)
    return torch.exp(squared * (-bandwidth / left_BD.shape[1]))
