"""Fit a head on cached features, in seconds and in closed form.

Regularised least squares on one-hot targets (Rifkin, Yeo, Poggio: "Regularized least-squares classification", 2003). Its
leave-one-out predictions are nearly free (Allen's PRESS statistic, 1974), so the stages, the kernel, its width and the
penalty are chosen on the training images alone, and the scores become calibrated logits by a temperature fitted on the
same leave-one-out predictions. All views of an image are left out together.

Shape legend: N images, V views of each, R = N * V rows, D features, P expanded features, M landmarks, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vizsla.errors import TrainingError
from vizsla.models.heads import FeatureHead, rbf_kernel
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_LANDMARKS = 2048
"""Every training row of a small set fits; the cost of the fit grows with the cube of this number."""
NUM_LANDMARKS_TO_CHOOSE = 768
"""Enough to tell good settings from bad ones, at a twentieth of the cost."""
MAX_KERNEL_ROWS = 20_000
"""Above this many rows only linear heads are tried: with many images kernels gain least and cost most."""
MAX_ROWS = 50_000
"""Above this many rows a head is fitted on a random sample: more rows no longer improve its few thousand numbers."""
BANDWIDTHS = (0.5, 1.0)
"""For standardised features; at 1 two unrelated images have a similarity of about exp(-2)."""
LEAST_SPREAD = 0.1
"""Of the typical spread of a feature; features that vary less are not scaled up to it. A fifth of EfficientNet-Lite0's last
features are zero in all of 128 simple images, and one that is not zero in the next image would outweigh all others.
"""
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-6, 5))
"""Shares of the mean eigenvalue of the Gram matrix, so that they mean the same on any data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLayout:
    """Which columns of a feature matrix belong to which stage and statistic; the order is that of ``pool_statistics``.

    ``channels`` are those of all stages of the body.
    """

    stages: tuple[int, ...]
    statistics: tuple[str, ...]
    channels: tuple[int, ...]

    def columns(self, stages: Sequence[int], statistics: Sequence[str]) -> Tensor:
        """Return the positions, int64, of the columns of some stages and statistics, in the order of pooling them alone."""
        starts: dict[tuple[int, str], int] = {}
        position = 0
        for stage in self.stages:
            for statistic in self.statistics:
                starts[stage, statistic] = position
                position += self.channels[stage]
        return torch.cat(
            [
                torch.arange(self.channels[stage]) + starts[stage, statistic]
                for stage in stages
                for statistic in statistics
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSetting:
    """A kind of head to fit: which statistics of which stages it sees, and the bandwidth of its kernel, 0 for a linear head."""

    stages: tuple[int, ...]
    statistics: tuple[str, ...]
    bandwidth: float = 0.0

    def __str__(self) -> str:
        """Describe it in words, for tables and reports."""
        kind = f"kernel head (bandwidth {self.bandwidth:g})" if self.bandwidth else "linear head"
        stages = ", ".join(str(stage) for stage in self.stages)
        return f"{kind} on {' and '.join(self.statistics)} of stage{'s' * (len(self.stages) > 1)} {stages}"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadFit:
    """A fitted head, and its results on the training images.

    Attributes:
        head: The head, in eval mode.
        setting: Its kind.
        penalty: As a share of the mean eigenvalue.
        accuracy: Share of training images that are right when the head is fitted without them.
        loss: Mean cross-entropy of the same leave-one-out predictions, with targets smoothed by 1 / (N + 2).
        sample: int64 ``(S,)``, positions of the images that it was fitted on.
        left_out: float32 ``(S, C)``, logits of each of them from the head fitted without it.
    """

    head: FeatureHead
    setting: HeadSetting
    penalty: float
    accuracy: float
    loss: float
    sample: Tensor
    left_out: Tensor


def candidate_settings(layout: FeatureLayout) -> tuple[HeadSetting, ...]:
    """Return the heads worth trying on features of this layout.

    The last stage says what things are, the stages before it say what they are made of: tasks like ImageNet need the
    former, textures and defects the latter.
    """
    last, before = layout.stages[-1:], layout.stages[:-1] or layout.stages
    linear = [
        HeadSetting(stages=last, statistics=layout.statistics[:1]),
        HeadSetting(stages=before, statistics=layout.statistics),
        HeadSetting(stages=layout.stages, statistics=layout.statistics[:1]),
    ]
    kernels = [
        replace(setting, bandwidth=bandwidth) for setting in linear[:2] for bandwidth in BANDWIDTHS
    ]
    return tuple(dict.fromkeys([*linear, *kernels]))


def choose_setting(
    features: Tensor,
    targets: Tensor,
    *,
    layout: FeatureLayout,
    num_classes: int,
    settings: Sequence[HeadSetting],
    seed: int = 0,
) -> HeadSetting:
    """Return the setting whose leave-one-out loss on the training images is lowest.

    Kernels are left out where there are more than ``MAX_KERNEL_ROWS`` rows. The rest is as for ``fit_feature_head``.
    """
    num_rows = features.shape[0] * features.shape[1]
    tried = [
        setting for setting in settings if not setting.bandwidth or num_rows <= MAX_KERNEL_ROWS
    ]
    fits = [
        fit_feature_head(
            features,
            targets,
            layout=layout,
            num_classes=num_classes,
            setting=setting,
            num_landmarks=NUM_LANDMARKS_TO_CHOOSE,
            seed=seed,
        )
        for setting in tried
    ]
    if not fits:
        raise TrainingError("No setting of a head was given to choose from.")
    return min(fits, key=lambda fit: fit.loss).setting


def fit_feature_head(
    features: Tensor,
    targets: Tensor,
    *,
    layout: FeatureLayout,
    num_classes: int,
    setting: HeadSetting,
    num_landmarks: int = NUM_LANDMARKS,
    seed: int = 0,
) -> HeadFit:
    """Fit one head with the penalty and the temperature whose leave-one-out loss is lowest.

    Args:
        features: float32 ``(N, V, D)``, pooled features of V views of each training image.
        targets: int64 ``(N,)``, classes ``0 .. num_classes - 1``.
        layout: What the columns are.
        num_classes: C.
        setting: What to fit.
        num_landmarks: M, at most; fewer if there are fewer rows.
        seed: For the choice of landmarks, and of the sample where there are more than ``MAX_ROWS`` rows.
    """
    bad = int((~torch.isfinite(features)).sum())
    if len(features) < 2 or bad:
        raise TrainingError(
            "A head is fitted on finite features of at least two images. "
            f"Received: {len(features)} images, {bad} values that are not finite."
        )
    random = generator(seed, "head fit")
    num_views = features.shape[1]
    sample = (
        torch.randperm(len(features), generator=random)[: max(2, MAX_ROWS // num_views)]
        .sort()
        .values
    )
    rows_RD = features[sample].flatten(0, 1)[:, layout.columns(setting.stages, setting.statistics)]
    offset, scale = rows_RD.mean(0), _scale(rows_RD)
    rows_RD = (rows_RD - offset) * scale
    onehot_RC = F.one_hot(targets[sample], num_classes).double().repeat_interleave(num_views, 0)
    prior_C = onehot_RC.mean(0)
    chosen = torch.randperm(len(rows_RD), generator=random)[:num_landmarks].sort().values
    landmarks_MD = rows_RD[chosen] if setting.bandwidth else rows_RD[:0]

    expanded_RP, to_weights = _expand(rows_RD, landmarks_MD, bandwidth=setting.bandwidth)
    centre_P = expanded_RP.mean(0)
    solution = _best_penalty(
        expanded_RP - centre_P, onehot_RC - prior_C, prior_C, num_views=num_views
    )
    bias_C = prior_C * solution.temperature - centre_P @ expanded_RP.T @ solution.dual_RC
    head = FeatureHead(
        stages=setting.stages,
        statistics=setting.statistics,
        num_features=rows_RD.shape[1],
        num_classes=num_classes,
        num_landmarks=len(landmarks_MD),
        bandwidth=setting.bandwidth,
    ).eval()
    with torch.no_grad():
        head.offset.copy_(offset)
        head.scale.copy_(scale)
        head.landmarks.copy_(landmarks_MD)
        head.linear.weight.copy_((to_weights @ solution.dual_RC).T)
        head.linear.bias.copy_(bias_C)
    return HeadFit(
        head=head,
        setting=setting,
        penalty=solution.penalty,
        accuracy=solution.accuracy,
        loss=solution.loss,
        sample=sample,
        left_out=(solution.scores_NC * solution.temperature).float(),
    )


def _scale(rows_RD: Tensor) -> Tensor:
    """Return ``(D,)``: what brings each column to a spread of one, or to less where it hardly varies."""
    spread_D = rows_RD.std(0)
    typical = spread_D.square().mean().sqrt()
    return 1 / spread_D.clamp_min(max(LEAST_SPREAD * float(typical), 1e-6))


def _expand(rows_RD: Tensor, landmarks_MD: Tensor, *, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Return expanded rows ``(R, P)`` and the matrix that takes dual coefficients to the weights of the linear layer."""
    rows_RD, landmarks_MD = rows_RD.double(), landmarks_MD.double()
    if not bandwidth:
        return rows_RD, rows_RD.T
    similarity_RM = rbf_kernel(rows_RD, landmarks_MD, bandwidth=bandwidth)
    among_MM = rbf_kernel(landmarks_MD, landmarks_MD, bandwidth=bandwidth)
    # Two views of one image may be nearly the same landmark; the jitter keeps their matrix positive definite.
    root_MM = torch.linalg.cholesky(among_MM + 1e-6 * torch.eye(len(among_MM), dtype=torch.float64))
    expanded_RM = torch.linalg.solve_triangular(root_MM, similarity_RM.T, upper=False).T
    return expanded_RM, torch.linalg.solve_triangular(root_MM.T, expanded_RM.T, upper=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solution:
    """The best penalty, its leave-one-out scores, and the dual coefficients that it leads to, already in logit units."""

    loss: float
    accuracy: float
    penalty: float
    temperature: float
    scores_NC: Tensor
    dual_RC: Tensor


def _best_penalty(
    centred_RP: Tensor, centred_RC: Tensor, prior_C: Tensor, *, num_views: int
) -> _Solution:
    """Return the penalty with the lowest leave-one-image-out loss; one eigendecomposition serves all penalties.

    Rows and targets are centred, which is the same as an intercept without penalty. It is left out with the image too, by
    the 1 / R in the leverage: a row that stays in the mean is minus the sum of all others, and they would give it away.
    """
    basis_RK, eigenvalues_K = _spectrum(centred_RP)
    in_basis_KC = basis_RK.T @ centred_RC
    # Identical rows have no eigenvalue above zero; with the floor their head predicts the prior.
    mean_eigenvalue = (centred_RP.square().sum() / len(centred_RP)).clamp_min(1e-12)
    blocks_NVK = basis_RK.unflatten(0, (-1, num_views))
    wanted_NVC = centred_RC.unflatten(0, (-1, num_views))
    targets_N = (wanted_NVC[:, 0] + prior_C).argmax(1)
    # A hair above one keeps an image that the penalty leaves entirely free from dividing by zero.
    identity = (1 + 1e-9) * torch.eye(num_views, dtype=torch.float64)
    solutions: list[_Solution] = []
    for share in PENALTIES:
        penalised_K = eigenvalues_K + share * mean_eigenvalue
        shrink_K = eigenvalues_K / penalised_K
        fitted_NVC = (basis_RK @ (shrink_K[:, None] * in_basis_KC)).unflatten(0, (-1, num_views))
        leverage_NVV = (blocks_NVK * shrink_K) @ blocks_NVK.mT + 1 / len(centred_RP)
        residual_NVC = torch.linalg.solve(identity - leverage_NVV, wanted_NVC - fitted_NVC)
        scores_NC = (wanted_NVC - residual_NVC).mean(1) + prior_C
        temperature, loss = _temperature(scores_NC, targets_N)
        solutions.append(
            _Solution(
                loss=loss,
                accuracy=float((scores_NC.argmax(1) == targets_N).double().mean()),
                penalty=share,
                temperature=temperature,
                scores_NC=scores_NC,
                dual_RC=basis_RK @ (in_basis_KC / penalised_K[:, None]) * temperature,
            )
        )
    return min(solutions, key=lambda solution: solution.loss)


def _spectrum(expanded_RP: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors ``(R, K)`` and squared singular values ``(K,)``, from the smaller Gram matrix."""
    if len(expanded_RP) <= expanded_RP.shape[1]:
        eigenvalues, basis = torch.linalg.eigh(expanded_RP @ expanded_RP.T)
        return basis, eigenvalues.clamp_min(0)
    eigenvalues, directions = torch.linalg.eigh(expanded_RP.T @ expanded_RP)
    kept = eigenvalues > eigenvalues[-1] * 1e-12
    eigenvalues, directions = eigenvalues[kept], directions[:, kept]
    return expanded_RP @ directions / eigenvalues.sqrt(), eigenvalues


def _temperature(scores_NC: Tensor, targets_N: Tensor) -> tuple[float, float]:
    """Return the factor that makes ``factor * scores`` the best-calibrated logits, and their mean cross-entropy.

    Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017), on a grid from 1 to 100 in steps
    of 5 %: finer than the loss can tell. Targets are smoothed by 1 / (N + 2), as Platt did (1999): few images that are all
    right do not prove that the next one is.
    """
    smoothing = 1 / (len(targets_N) + 2)
    factors = torch.logspace(0, 2, 95, dtype=torch.float64)
    losses = torch.stack(
        [
            F.cross_entropy(scores_NC * factor, targets_N, label_smoothing=2 * smoothing)
            for factor in factors
        ]
    )
    best = int(losses.argmin())
    return float(factors[best]), float(losses[best])
