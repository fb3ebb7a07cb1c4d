"""Fit a head on cached features, in seconds and in closed form.

Regularised least squares on one-hot targets (Rifkin, Yeo, Poggio: "Regularized least-squares classification", 2003), on zeros
and ones where an image has several labels, or on numbers. Its leave-one-out predictions are nearly free (Allen's PRESS statistic,
1974), so the penalty is chosen on the training images alone, and the scores become calibrated logits by what is fitted on the same
leave-one-out predictions: one temperature for classes, a line for each of several labels. All views of an image are left out together.
With weights of classes all of this is weighted, and as exact.

More rows than ``MAX_ROWS`` are read by blocks, from memory or from a file: one pass for the spread of each feature, which landmarks
and penalty depend on, and one for the normal equations of all heads. The solution does not depend on the blocks. Leave-one-out is as
exact, for a random sample of the images: all of them would choose penalty and temperature no better.

By default the head is the mean of a linear head and a kernel head, without a choice: over eight tasks 15.0 % wrong and a log loss of
0.469, against 15.7 and 15.5 % alone (0.483, 0.486) and 15.9 % (0.495) for the best of seven (``benchmarks/LOG.md``).

Shape legend: N images, V views of each, R = N * V rows, D features, P expanded features, M landmarks, C classes or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from vizsla.models.heads import FeatureHead
from vizsla.recipe.normal_equations import RowBlocks, check_features, wanted_of
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vizsla.infer.stored_features import StoredFeatures
    from vizsla.recipe.normal_equations import NormalEquations
    from vizsla.types import Task

NUM_LANDMARKS = 1536
"""Every training row of a small set fits. The cost of the fit grows with the cube of this number; on 3,936 rows of solar cells 1,024
have a log loss of 0.285, 1,536 of 0.283.
"""
NUM_LANDMARKS_OF_MANY = 768
"""For many fits one after the other, at a tenth of the cost."""
MAX_KERNEL_ROWS = 20_000
"""Above this many rows the head is linear: with many images kernels gain least and cost most."""
MAX_ROWS = 50_000
"""Above this many rows they are read by blocks, and the images that are left out in turn are a random sample with so many rows."""
ROWS_AT_ONCE = 4096
BANDWIDTH = 1.0
"""For standardised features; two unrelated images have a similarity of about exp(-2)."""
LEAST_SPREAD = 0.1
"""Of the typical spread of a feature; features that vary less are not scaled up to it. A fifth of EfficientNet-Lite0's last
features are zero in all of 128 simple images, and one that is not zero in the next image would outweigh all others.
"""
NEWTON_STEPS, LONGEST_STEP = 30, 4.0
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-6, 5))
"""Shares of the mean eigenvalue of the Gram matrix, so that they mean the same on any data. Below these the
leave-one-out loss still falls, by 3 %, but not that of new images.
"""


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

    def weights(self, stages: Sequence[int], statistics: Sequence[str]) -> Tensor:
        """Return float32 ``(D,)``, what makes each statistic of each stage count alike, however many channels it has; 1 on average."""
        channels = torch.tensor([self.channels[stage] for stage in stages for _ in statistics])
        shares = channels.sum() / (len(channels) * channels.double())
        return shares.sqrt().float().repeat_interleave(channels)

    def last_stage(self, features_ND: Tensor) -> Tensor:
        """Return the mean features of the last stage, centred, each row of length 1: what images are compared by."""
        values_ND = features_ND[:, self.columns(self.stages[-1:], self.statistics[:1])]
        return F.normalize(values_ND - values_ND.mean(0), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSetting:
    """A kind of head to fit: which statistics of which stages it sees, and the bandwidth of its kernel, 0 for a linear head.

    ``with_linear`` is the mean of the kernel head and a linear one.
    """

    stages: tuple[int, ...]
    statistics: tuple[str, ...]
    bandwidth: float = 0.0
    with_linear: bool = False

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Those of the heads whose mean it is, 0 for a linear one."""
        return (0.0, self.bandwidth) if self.with_linear else (self.bandwidth,)

    def __str__(self) -> str:
        """Describe it in words, for tables and reports."""
        kind = "a kernel" if self.bandwidth else "a linear"
        kind = "the average of a linear and a kernel" if self.with_linear else kind
        stages = ", ".join(str(stage) for stage in self.stages)
        return f"{kind} classifier on the network's features (stage{'s' * (len(self.stages) > 1)} {stages})"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadFit:
    """A fitted head, and its results on the training images.

    Attributes:
        head: The head, in eval mode.
        setting: Its kind.
        penalties: One for each bandwidth, as shares of the mean eigenvalue.
        accuracy: Share of the images of ``sample`` that are right when the head is fitted without them; of several labels, the
            share of decisions that are; of numbers, the share of their variance that is explained, which may be below 0.
        loss: Mean cross-entropy of the same leave-one-out predictions, with smoothed targets; of numbers, the mean squared
            error, in their own units.
        task: What is predicted.
        sample: int64 ``(S,)``, positions of the images that were left out in turn: all, or a sample of many.
        left_out: float32 ``(S, C)``, logits of each of them from the head fitted without it.
    """

    head: FeatureHead
    setting: HeadSetting
    penalties: tuple[float, ...]
    accuracy: float
    loss: float
    task: Task
    sample: Tensor
    left_out: Tensor

    @property
    def result(self) -> str:
        """The leave-one-out accuracy in words."""
        what = {
            "category": "",
            "multi_category": " of decisions right",
            "regression": " of variance",
        }
        return f"{self.accuracy:.1%}{what[self.task]}"


class FitOptions(TypedDict):
    """What is the same for every head of a data set; see ``fit_feature_head``."""

    layout: FeatureLayout
    num_classes: int
    task: NotRequired[Task]
    class_weights: NotRequired[Tensor | None]
    seed: NotRequired[int]


def default_setting(layout: FeatureLayout, *, num_rows: int) -> HeadSetting:
    """Return the head that suits any data: the mean of a linear head and a kernel head on all features, each statistic counting alike.

    The last stage says what things are, the stages before it say what they are made of: tasks like ImageNet need the
    former, textures and defects the latter. A head that is of no use gets a penalty that leaves nothing of it. With more than
    ``MAX_KERNEL_ROWS`` rows, images times views, it is the linear head alone.
    """
    linear = HeadSetting(stages=layout.stages, statistics=layout.statistics)
    if num_rows > MAX_KERNEL_ROWS:
        return linear
    return replace(linear, bandwidth=BANDWIDTH, with_linear=True)


def fit_feature_head(
    features: Tensor | StoredFeatures,
    targets: Tensor,
    *,
    layout: FeatureLayout,
    num_classes: int,
    setting: HeadSetting,
    num_landmarks: int = NUM_LANDMARKS,
    task: Task = "category",
    class_weights: Tensor | None = None,
    seed: int = 0,
    rows_at_once: int | None = None,
) -> HeadFit:
    """Fit one head with the penalty and the calibration whose leave-one-out loss is lowest.

    Args:
        features: float32 ``(N, V, D)``, pooled features of V views of each training image, in memory or in a file.
        targets: int64 ``(N,)``, classes ``0 .. num_classes - 1``; for several labels and for numbers float32 ``(N, C)``.
        layout: What the columns are.
        num_classes: C.
        setting: What to fit.
        num_landmarks: M, at most; fewer if there are fewer rows.
        task: What the targets are.
        class_weights: float ``(C,)``, how much an image of each class counts; None for all the same.
        seed: For the choice of landmarks, and of the sample where there are more than ``MAX_ROWS`` rows.
        rows_at_once: Read the rows by blocks of this size, however few there are; None does so above ``MAX_ROWS``, with
            ``ROWS_AT_ONCE``.

    Raises:
        TrainingError: There are fewer than two images, or features that are not finite.
    """
    random = generator(seed, "head fit")
    num_views = features.shape[1]
    order = torch.randperm(len(features), generator=random)
    sample = order[: max(2, MAX_ROWS // num_views)].sort().values
    by_blocks = rows_at_once is not None or len(sample) < len(features)
    whole = features[sample]
    check_features(len(features), num_bad=0 if by_blocks else int((~whole.isfinite()).sum()))
    columns = layout.columns(setting.stages, setting.statistics)
    rows_RD = whole.flatten(0, 1)[:, columns]
    del whole
    blocks = RowBlocks(
        features=features,
        targets=targets,
        columns=columns,
        images_at_once=max(1, (rows_at_once or ROWS_AT_ONCE) // num_views),
        num_classes=num_classes if task == "category" else None,
        class_weights=class_weights,
    )
    if by_blocks:
        offset_D, spread_D = blocks.spread(around_D=rows_RD.double().mean(0))
    else:
        offset_D, spread_D = rows_RD.mean(0), rows_RD.std(0)
    scale_D = _scale(spread_D) * layout.weights(setting.stages, setting.statistics)
    rows_RD = (rows_RD - offset_D) * scale_D
    wanted_NC, weights_N = wanted_of(
        targets[sample], num_classes=blocks.num_classes, class_weights=class_weights
    )
    chosen_M = torch.randperm(len(rows_RD), generator=random)[:num_landmarks].sort().values
    landmarks_MD = rows_RD[chosen_M]
    problem = _Problem(
        rows_RD=rows_RD,
        landmarks_MD=landmarks_MD,
        chosen_M=chosen_M,
        wanted_NC=wanted_NC,
        weights_N=weights_N,
        weights_R=None if weights_N is None else weights_N.repeat_interleave(num_views),
        num_views=num_views,
        task=task,
    )
    if by_blocks:
        expansions = [partial(problem.expand, bandwidth=each) for each in setting.bandwidths]
        equations = blocks.normal_equations(expansions, offset_D=offset_D, scale_D=scale_D)
        solutions = [
            problem.solve_equations(each, bandwidth=bandwidth)
            for each, bandwidth in zip(equations, setting.bandwidths, strict=True)
        ]
    else:
        products_RM = rows_RD.double() @ landmarks_MD.double().T
        solutions = [problem.solve(bandwidth, products_RM) for bandwidth in setting.bandwidths]
    scores_NC = torch.stack([each.scores_NC for each in solutions]).mean(0)
    found = problem.calibrate(scores_NC)
    gain_C = found.gain_C / len(solutions)
    kept_MD = landmarks_MD if setting.bandwidth else landmarks_MD[:0]
    head = FeatureHead(
        stages=setting.stages,
        statistics=setting.statistics,
        num_features=rows_RD.shape[1],
        num_classes=wanted_NC.shape[1],
        num_landmarks=len(kept_MD),
        bandwidth=setting.bandwidth,
        with_linear=setting.with_linear,
    ).eval()
    with torch.no_grad():
        head.offset.copy_(offset_D)
        head.scale.copy_(scale_D)
        head.landmarks.copy_(kept_MD)
        head.linear.weight.copy_(torch.cat([each.weights_PC * gain_C for each in solutions]).T)
        bias_C = torch.stack([each.bias_C for each in solutions]).sum(0)
        head.linear.bias.copy_(bias_C * gain_C + found.shift_C)
    return HeadFit(
        head=head,
        setting=setting,
        penalties=tuple(each.penalty for each in solutions),
        accuracy=found.accuracy,
        loss=found.loss,
        task=task,
        sample=sample,
        left_out=(scores_NC * found.gain_C + found.shift_C).float(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solution:
    """The best penalty, its leave-one-out scores, and what the scores are: ``expanded @ weights_PC + bias_C``."""

    penalty: float
    scores_NC: Tensor
    weights_PC: Tensor
    bias_C: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """Standardised features and what is wanted of them."""

    rows_RD: Tensor
    landmarks_MD: Tensor
    chosen_M: Tensor
    wanted_NC: Tensor
    weights_N: Tensor | None
    weights_R: Tensor | None
    num_views: int
    task: Task

    def calibrate(self, scores_NC: Tensor) -> _Calibrated:
        """Return what makes logits of leave-one-out scores."""
        calibrate = _CALIBRATIONS[self.task]
        return calibrate(scores_NC, wanted_NC=self.wanted_NC, weights_N=self.weights_N)

    @property
    def row_roots(self) -> Tensor:
        """Roots of the weights of the rows."""
        if self.weights_R is None:
            return torch.ones(len(self.rows_RD), 1, dtype=torch.float64)
        return self.weights_R.sqrt()[:, None]

    def sees_features(self, bandwidth: float) -> bool:
        """Whether a head is on the features themselves; otherwise it is on their similarity to the landmarks."""
        return not bandwidth and self.rows_RD.shape[1] <= len(self.landmarks_MD)

    def solve(self, bandwidth: float, products_RM: Tensor) -> _Solution:
        """Fit a head with one bandwidth, 0 for a linear one; where every row is a landmark it needs no expanded rows.

        One product of rows and landmarks serves all bandwidths.
        """
        wanted_RC = self.wanted_NC.repeat_interleave(self.num_views, 0)
        prior_C = _mean(wanted_RC, weights_R=self.weights_R)
        rows_RD, landmarks_MD, similarity_RM = self.rows_RD, self.landmarks_MD, products_RM
        if bandwidth:
            norms_R = rows_RD.double().square().sum(1)
            similarity_RM = _similarity(
                products_RM, norms_R, norms_R[self.chosen_M], width=bandwidth / rows_RD.shape[1]
            )
        root_R1 = self.row_roots
        root_MM: Tensor | None = None
        if self.sees_features(bandwidth):
            factor_RP = rows_RD.double()
        elif len(landmarks_MD) == len(rows_RD):
            factor_RP = None
        else:
            root_MM = _root(similarity_RM[self.chosen_M])
            factor_RP = torch.linalg.solve_triangular(root_MM, similarity_RM.T, upper=False).T
        if factor_RP is None:
            mean_R = _mean(similarity_RM, weights_R=self.weights_R)
            mean = _mean(mean_R, weights_R=self.weights_R)
            centred_RR = similarity_RM - mean_R - mean_R[:, None] + mean
            eigenvalues_K, basis_RK = torch.linalg.eigh(root_R1 * centred_RR * root_R1.T)
            # What centring leaves of identical rows is rounding.
            kept = eigenvalues_K > 1e-12 * similarity_RM.trace()
            eigenvalues_K, basis_RK = eigenvalues_K[kept], basis_RK[:, kept]
        else:
            centred_RP = factor_RP - _mean(factor_RP, weights_R=self.weights_R)
            basis_RK, eigenvalues_K = _spectrum(root_R1 * centred_RP)
        tried = self._penalised(
            basis_RK,
            eigenvalues_K,
            prior_C,
            in_basis_KC=basis_RK.T @ ((wanted_RC - prior_C) * root_R1),
            num_rows=len(basis_RK),
            total_weight=root_R1.square().sum(),
        )
        best = min(tried, key=lambda each: each.loss)
        dual_RC = root_R1 * (basis_RK @ best.solution_KC)
        weights_PC = dual_RC
        if factor_RP is not None and root_MM is not None:
            expanded_MC = factor_RP.T @ dual_RC
            weights_PC = torch.linalg.solve_triangular(root_MM.T, expanded_MC, upper=True)
        if bandwidth:
            centre_P = _mean(similarity_RM, weights_R=self.weights_R)
        else:
            inputs_D = rows_RD if root_MM is None else landmarks_MD
            weights_PC = inputs_D.double().T @ weights_PC
            centre_P = _mean(rows_RD.double(), weights_R=self.weights_R)
        return _Solution(
            penalty=best.penalty,
            scores_NC=best.scores_NC,
            weights_PC=weights_PC,
            bias_C=prior_C - centre_P @ weights_PC,
        )

    def expand(self, rows_BD: Tensor, *, bandwidth: float) -> Tensor:
        """Return what a head sees of rows, float64: the features, or similarities to the landmarks."""
        rows_BD, landmarks_MD = rows_BD.double(), self.landmarks_MD.double()
        if self.sees_features(bandwidth):
            return rows_BD
        products_BM = rows_BD @ landmarks_MD.T
        if not bandwidth:
            return products_BM
        norms_B, norms_M = rows_BD.square().sum(1), landmarks_MD.square().sum(1)
        return _similarity(products_BM, norms_B, norms_M, width=bandwidth / rows_BD.shape[1])

    def solve_equations(self, found: NormalEquations, *, bandwidth: float) -> _Solution:
        """Fit the same head on more rows than these, which are those that are left out in turn."""
        gram_PP, root_MM = found.gram_PP, None
        if not self.sees_features(bandwidth):
            root_MM = _root(self.expand(self.landmarks_MD, bandwidth=bandwidth))
            half_MM = torch.linalg.solve_triangular(root_MM, gram_PP, upper=False)
            gram_PP = torch.linalg.solve_triangular(root_MM, half_MM.T, upper=False)
        eigenvalues_K, to_basis_PK = torch.linalg.eigh(gram_PP)
        kept = eigenvalues_K > eigenvalues_K[-1].clamp_min(0) * 1e-12
        eigenvalues_K, to_basis_PK = eigenvalues_K[kept], to_basis_PK[:, kept]
        to_basis_PK = to_basis_PK / eigenvalues_K.sqrt()
        if root_MM is not None:
            to_basis_PK = torch.linalg.solve_triangular(root_MM.T, to_basis_PK, upper=True)
        basis_RK = torch.cat(
            [
                (self.expand(rows_BD, bandwidth=bandwidth) - found.mean_P) @ to_basis_PK
                for rows_BD in self.rows_RD.split(ROWS_AT_ONCE)
            ]
        )
        tried = self._penalised(
            basis_RK.mul_(self.row_roots),
            eigenvalues_K,
            found.prior_C,
            in_basis_KC=to_basis_PK.T @ found.cross_PC,
            num_rows=found.num_rows,
            total_weight=found.total_weight,
        )
        best = min(tried, key=lambda each: each.loss)
        weights_PC = to_basis_PK @ (eigenvalues_K[:, None] * best.solution_KC)
        bias_C = found.prior_C - found.mean_P @ weights_PC
        if root_MM is not None and not bandwidth:
            weights_PC = self.landmarks_MD.double().T @ weights_PC
        return _Solution(
            penalty=best.penalty, scores_NC=best.scores_NC, weights_PC=weights_PC, bias_C=bias_C
        )

    def _penalised(
        self,
        basis_RK: Tensor,
        eigenvalues_K: Tensor,
        prior_C: Tensor,
        *,
        in_basis_KC: Tensor,
        num_rows: int,
        total_weight: Tensor,
    ) -> Iterator[_Penalised]:
        """Leave each image out with each penalty; one eigendecomposition serves all of them.

        ``num_rows`` and ``total_weight`` are those of all rows that the head is fitted on.

        Rows and targets are centred, which is the same as an intercept without penalty. It is left out with the image too, by
        the 1 / R in the leverage: a row that stays in the mean is minus the sum of all others, and they would give it away.

        Least squares with weights are those of rows and targets that are multiplied by the roots of the weights.
        """
        num_views, root_R1 = self.num_views, self.row_roots
        wanted_RC = (self.wanted_NC.repeat_interleave(num_views, 0) - prior_C) * root_R1
        # Identical rows have no eigenvalue above zero; with the floor their head predicts the prior.
        mean_eigenvalue = (eigenvalues_K.sum() / num_rows).clamp_min(1e-12)
        blocks_NVK = basis_RK.unflatten(0, (-1, num_views))
        wanted_NVC = wanted_RC.unflatten(0, (-1, num_views))
        root_NV1 = root_R1.unflatten(0, (-1, num_views))
        of_means_NVV = root_NV1 @ root_NV1.mT / total_weight
        # A hair above one keeps an image that the penalty leaves entirely free from dividing by zero.
        identity = (1 + 1e-9) * torch.eye(num_views, dtype=torch.float64)
        shares_S = torch.tensor(PENALTIES, dtype=torch.float64)
        penalised_SK = eigenvalues_K + shares_S[:, None] * mean_eigenvalue
        shrink_SK = eigenvalues_K / penalised_SK
        # For all penalties in one pass over the basis, which takes longer than what is computed.
        leverage_SNVV = of_means_NVV.repeat(len(shares_S), 1, 1, 1)
        for view, other in product(range(num_views), repeat=2):
            both_NK = blocks_NVK[:, view] * blocks_NVK[:, other]
            leverage_SNVV[:, :, view, other] += shrink_SK @ both_NK.T
        for number, share in enumerate(PENALTIES):
            fitted_RC = basis_RK @ (shrink_SK[number][:, None] * in_basis_KC)
            residual_NVC = torch.linalg.solve(
                identity - leverage_SNVV[number],
                wanted_NVC - fitted_RC.unflatten(0, (-1, num_views)),
            )
            scores_NC = ((wanted_NVC - residual_NVC) / root_NV1).mean(1) + prior_C
            yield _Penalised(
                penalty=share,
                loss=self.calibrate(scores_NC).loss,
                scores_NC=scores_NC,
                solution_KC=in_basis_KC / penalised_SK[number][:, None],
            )


def _mean(rows: Tensor, *, weights_R: Tensor | None) -> Tensor:
    """Return the mean of rows ``(R, ...)``, weighted if there are weights."""
    return rows.mean(0) if weights_R is None else weights_R @ rows / weights_R.sum()


def _scale(spread_D: Tensor) -> Tensor:
    """Return ``(D,)``: what brings each column to a spread of one, or to less where it hardly varies."""
    typical = spread_D.square().mean().sqrt()
    return 1 / spread_D.clamp_min(max(LEAST_SPREAD * float(typical), 1e-6))


def _similarity(products_RM: Tensor, norms_R: Tensor, norms_M: Tensor, *, width: float) -> Tensor:
    """Return the kernel of rows and landmarks, from their products and squared lengths."""
    squared_RM = norms_R[:, None] + norms_M - 2 * products_RM
    return torch.exp(squared_RM.clamp_min(0) * -width)


def _root(among_MM: Tensor) -> Tensor:
    """Return the triangular root of the similarities among landmarks (the Nystroem method's)."""
    # Two views of one image may be nearly the same landmark; the jitter keeps their matrix positive definite.
    jitter_M = (1e-6 * among_MM.diagonal().mean()).clamp_min(1e-12).expand(len(among_MM))
    return torch.linalg.cholesky(among_MM + jitter_M.diag())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Calibrated:
    """What makes ``gain_C * scores + shift_C`` the best logits, float64 ``(C,)`` each, and how good they are."""

    gain_C: Tensor
    shift_C: Tensor
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Penalised:
    """A penalty, its leave-one-out loss and scores, and the solution in the basis."""

    penalty: float
    loss: float
    scores_NC: Tensor
    solution_KC: Tensor


def _spectrum(expanded_RP: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors ``(R, K)`` and squared singular values ``(K,)``, from the smaller Gram matrix."""
    if len(expanded_RP) <= expanded_RP.shape[1]:
        eigenvalues, basis = torch.linalg.eigh(expanded_RP @ expanded_RP.T)
        return basis, eigenvalues.clamp_min(0)
    eigenvalues, directions = torch.linalg.eigh(expanded_RP.T @ expanded_RP)
    kept = eigenvalues > eigenvalues[-1] * 1e-12
    eigenvalues, directions = eigenvalues[kept], directions[:, kept]
    return expanded_RP @ directions / eigenvalues.sqrt(), eigenvalues


def _temperature(scores_NC: Tensor, *, wanted_NC: Tensor, weights_N: Tensor | None) -> _Calibrated:
    """Calibrate classes by one factor.

    Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017), on a grid from 1 to 100 in steps
    of 5 %: finer than the loss can tell, which is convex. Targets are smoothed by 1 / (N + 2), as Platt did (1999): few images that are all
    right do not prove that the next one is. Images count by their weights, whose mean is about 1.
    """
    targets_N = wanted_NC.argmax(1)
    smoothing = 1 / (len(targets_N) + 2)
    factors = torch.logspace(0, 2, 95, dtype=torch.float64)
    shares_N = torch.ones(len(targets_N), dtype=torch.float64) if weights_N is None else weights_N
    shares_N = shares_N / shares_N.sum()

    @cache
    def loss_at(number: int) -> float:
        losses_N = F.cross_entropy(
            scores_NC * factors[number], targets_N, reduction="none", label_smoothing=2 * smoothing
        )
        return float(losses_N @ shares_N)

    best, last = 0, len(factors) - 1
    while best < last:
        middle = (best + last) // 2
        best, last = (middle + 1, last) if loss_at(middle + 1) < loss_at(middle) else (best, middle)
    return _Calibrated(
        gain_C=factors[best].expand(scores_NC.shape[1]),
        shift_C=torch.zeros(scores_NC.shape[1], dtype=torch.float64),
        loss=loss_at(best),
        accuracy=float((scores_NC.argmax(1) == targets_N).double().mean()),
    )


def _platt_lines(scores_NC: Tensor, *, wanted_NC: Tensor, weights_N: None) -> _Calibrated:  # noqa: ARG001 (there are no classes to weigh)
    """Calibrate each of several labels by a line, fitted by Newton's method.

    Platt: "Probabilistic outputs for support vector machines", 1999, with his smoothed targets: a label on one image of a
    hundred is not certain on the next one like it. A line that would fall is level: that label gets its share of the images.
    """
    num_images = len(wanted_NC)
    positive_C = wanted_NC.sum(0)
    high_C = (positive_C + 1) / (positive_C + 2)
    low_C = 1 / (num_images - positive_C + 2)
    smoothed_NC = torch.where(wanted_NC > 0, high_C, low_C)
    level_C = smoothed_NC.mean(0).logit()
    inputs_CN2 = torch.stack([scores_NC.T, torch.ones_like(scores_NC.T)], dim=2)
    line_C2 = torch.stack([torch.zeros_like(level_C), level_C], dim=1)
    ridge_22 = 1e-6 * torch.eye(2, dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        fitted_CN = (inputs_CN2 @ line_C2[:, :, None])[:, :, 0].sigmoid()
        slope_C2 = (inputs_CN2.mT @ (fitted_CN - smoothed_NC.T)[:, :, None])[:, :, 0]
        weighted_CN2 = inputs_CN2 * (fitted_CN * (1 - fitted_CN))[:, :, None]
        step_C2 = torch.linalg.solve(inputs_CN2.mT @ weighted_CN2 + ridge_22, slope_C2)
        # Far from the optimum a full step can overshoot; no logit need move by more than this at once.
        line_C2 = line_C2 - step_C2.clamp(-LONGEST_STEP, LONGEST_STEP)
    falls_C = line_C2[:, 0] <= 0
    gain_C = line_C2[:, 0].masked_fill(falls_C, 0)
    shift_C = torch.where(falls_C, level_C, line_C2[:, 1])
    logits_NC = scores_NC * gain_C + shift_C
    return _Calibrated(
        gain_C=gain_C,
        shift_C=shift_C,
        loss=float(F.binary_cross_entropy_with_logits(logits_NC, smoothed_NC)),
        accuracy=float(((logits_NC > 0) == wanted_NC.bool()).double().mean()),
    )


def _as_measured(scores_NC: Tensor, *, wanted_NC: Tensor, weights_N: None) -> _Calibrated:  # noqa: ARG001 (there are no classes to weigh)
    """Leave numbers as they are."""
    ones_C = torch.ones(scores_NC.shape[1], dtype=torch.float64)
    squares_C = (scores_NC - wanted_NC).square().mean(0)
    explained_C = 1 - squares_C / wanted_NC.var(0, correction=0).clamp_min(1e-12)
    return _Calibrated(
        gain_C=ones_C,
        shift_C=torch.zeros_like(ones_C),
        loss=float(squares_C.mean()),
        accuracy=float(explained_C.mean()),
    )


_CALIBRATIONS: dict[Task, Callable[..., _Calibrated]] = {
    "category": _temperature,
    "multi_category": _platt_lines,
    "regression": _as_measured,
}
