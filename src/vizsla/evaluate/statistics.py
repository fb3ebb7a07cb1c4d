"""The arithmetic of metrics: counts, rankings and explained variance, and the 95 % interval of each number.

Precision, recall, F1 and similar scores come from tallies of each class. A weighting says how often each image counts: once, or as often
as a resample drew it; R weightings are computed side by side. A share of nothing is 0, and equal scores of a ranking are
counted, as in scikit-learn.

Intervals:

- A share of images has Wilson's interval (E. B. Wilson, "Probable inference, the law of succession, and statistical
  inference", JASA 1927).
- A function of how often each image was drawn has a percentile bootstrap over images (Efron and Tibshirani, "An
  introduction to the bootstrap", 1993, ch. 13). The metric is written once, and the value is the case in which each
  image was drawn once.
- A metric of ranks would have to be sorted again for each resample. It states instead how far each image pulls it (its
  influence: the derivative with respect to the image's weight, at weight 1 for all), which gives the standard error at once
  (the infinitesimal jackknife: Jaeckel 1972; Efron and Tibshirani, ch. 21). For the area under the ROC curve that is the
  method of DeLong, DeLong and Clarke-Pearson (Biometrics 1988).

Shapes: N images, P of them positive, M not; C classes; R weightings. All numbers are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVEL = 0.95
NUM_RESAMPLES = 1000
_DRAWS_AT_ONCE = 2**21  # Keeps the bootstrap at about 60 MB, for any number of images.
_VALUES_AT_ONCE = 2**22  # Of a matrix that is copied in a wider type: 32 MB as float64.

Formula = Callable[["Tallies"], Tensor]
"""Tallies -> a score of each class, float64 ``(C, R)``."""

Measure = Callable[[Tensor], dict[str, Tensor]]
"""Counts float64 ``(N, R)``, how often each image was drawn -> metrics by name, float64 ``(R,)``, NaN where undefined."""


class Tallies(NamedTuple):
    """How often each class was right, there, and predicted: float64 ``(C, R)`` each."""

    hits: Tensor
    supports: Tensor
    predicted: Tensor

    @property
    def seen(self) -> Tensor:
        """Bool ``(C, R)``: the class occurs among targets or predictions."""
        return self.supports + self.predicted > 0

    def only(self, classes: Tensor) -> Tallies:
        """Return the tallies of some classes: positions int64, or bool ``(C,)``."""
        return Tallies(*(tally[classes] for tally in self))

    def total(self) -> Tallies:
        """Return the sums over classes as if they were one class."""
        return Tallies(*(tally.sum(0, keepdim=True) for tally in self))


def count_classes(
    targets: Tensor, predicted: Tensor, *, num_classes: int, counts: Tensor | None = None
) -> Tallies:
    """Count int64 targets and predictions ``(N,)``; without ``counts`` ``(N, R)`` each image counts once."""
    if counts is None:
        counts = torch.ones((len(targets), 1), dtype=torch.float64)
    right = (targets == predicted).nonzero()[:, 0]
    return Tallies(
        hits=sums_by(counts[right], groups=targets[right], num_groups=num_classes),
        supports=sums_by(counts, groups=targets, num_groups=num_classes),
        predicted=sums_by(counts, groups=predicted, num_groups=num_classes),
    )


def count_labels(targets: Tensor, predicted: Tensor, *, counts: Tensor | None = None) -> Tallies:
    """Count bool targets and predictions ``(N, C)``, any number of labels per image; ``counts`` as for classes."""
    if counts is None:
        counts = torch.ones((len(targets), 1), dtype=torch.float64)
    sums = torch.zeros((3, targets.shape[1], counts.shape[1]), dtype=torch.float64)
    # In parts, as a matrix of zeros and ones takes 4 times its bytes as float32. Such sums are exact below 2**24.
    for truth_BC, given_BC, counts_BR in in_parts(targets, predicted, counts):
        for total, decided_BC in zip(sums, (truth_BC & given_BC, truth_BC, given_BC), strict=True):
            total.add_(decided_BC.float().T @ counts_BR.float())
    return Tallies(*sums)


def sums_by(values: Tensor, *, groups: Tensor, num_groups: int) -> Tensor:
    """Return ``(num_groups, R)``: the sums of the rows of ``values`` ``(N, R)`` in each group."""
    sums = torch.zeros((num_groups, values.shape[1]), dtype=values.dtype)
    return sums.index_add_(0, groups, values)


def in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of all tensors, so few at a time that a copy of them in a wider type stays small."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, tensors[0].shape[1:].numel()))
    return zip(*(tensor.split(at_once) for tensor in tensors), strict=True)


def precision(tallies: Tallies) -> Tensor:
    """Return the share of what was predicted that is right, ``(C, R)``."""
    return _share(tallies.hits, tallies.predicted)


def recall(tallies: Tallies) -> Tensor:
    """Return the share of what is there that was found, ``(C, R)``."""
    return _share(tallies.hits, tallies.supports)


def jaccard(tallies: Tallies) -> Tensor:
    """Return what was rightly predicted over what is there or predicted, ``(C, R)``."""
    return _share(tallies.hits, tallies.supports + tallies.predicted - tallies.hits)


def f_beta(tallies: Tallies, *, beta: float = 1.0) -> Tensor:
    """Return the harmonic mean of precision and recall, with recall counting ``beta**2`` times, ``(C, R)``.

    C. J. van Rijsbergen, "Information retrieval", 1979, ch. 7.
    """
    weight = beta**2
    return _share((1 + weight) * tallies.hits, weight * tallies.supports + tallies.predicted)


def mean_of_seen(scores: Tensor, *, seen: Tensor) -> Tensor:
    """Return ``(R,)``: the mean of the scores ``(C, R)`` of the classes that were seen; NaN where none was."""
    return scores.masked_fill(~seen, 0).sum(0) / seen.sum(0)


def balanced_accuracy(tallies: Tallies) -> Tensor:
    """Return ``(R,)``: the mean recall of the classes that occur among the targets."""
    return mean_of_seen(recall(tallies), seen=tallies.supports > 0)


LEAST_IMBALANCE = 3.0
"""From here on classes count as unequal: always answering the larger of two is then right three times in four."""


def are_unequal(counts: Tensor) -> bool:
    """Whether the most frequent class has at least ``LEAST_IMBALANCE`` times the images of the rarest, ``(C,)``, that occurs."""
    occurring = counts[counts > 0]
    return len(occurring) > 1 and bool(occurring.max() >= LEAST_IMBALANCE * occurring.min())


def matthews_correlation(tallies: Tallies) -> Tensor:
    """Return ``(R,)``: the correlation of targets and predictions, -1 to 1; 0 where one of them is always the same.

    J. Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    """
    totals = tallies.supports.sum(0)
    together = tallies.hits.sum(0) * totals - (tallies.supports * tallies.predicted).sum(0)
    spreads = [
        totals.square() - margin.square().sum(0) for margin in (tallies.supports, tallies.predicted)
    ]
    return _share(together, (spreads[0] * spreads[1]).sqrt())


def cohen_kappa(confusion: Tensor, *, weights: str | None = None) -> Tensor:
    """Return how much better than by chance targets and predictions agree: 1 is perfect, 0 chance; a scalar.

    J. Cohen, "A coefficient of agreement for nominal scales", 1960, and "Weighted kappa", 1968.

    Args:
        confusion: ``(C, C)`` counts, rows actual, columns predicted.
        weights: None counts every mistake the same; ``"linear"`` and ``"quadratic"`` by the distance of the classes.

    Returns:
        NaN where only one class occurs, on both sides.
    """
    confusion = confusion.double()
    places = torch.arange(len(confusion), dtype=torch.float64)
    distance = (places[:, None] - places).abs()
    cost = {None: (distance > 0).double(), "linear": distance, "quadratic": distance.square()}
    by_chance = torch.outer(confusion.sum(1), confusion.sum(0)) / confusion.sum()
    return 1 - (cost[weights] * confusion).sum() / (cost[weights] * by_chance).sum()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0.0)


def places_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the place of each image's class, int64 ``(N,)``, among its scores ``(N, C)``: 0 for the highest.

    Of equal scores the first leads.
    """
    own_N1 = scores.gather(1, targets[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return ((scores > own_N1) | ((scores == own_N1) & before)).sum(1)


def explained_variance(errors: Tensor, targets: Tensor, *, counts: Tensor) -> Tensor:
    """Return ``(R,)``: R2 of each weighting, averaged over the numbers whose targets vary; NaN where none does.

    Errors are predictions minus targets; both are ``(N, K)``, counts ``(N, R)``.
    """
    # Around the mean, or the subtraction below would cancel where the targets are large and close together.
    centred = targets - targets.mean(dim=0)
    total_R = counts.sum(0)
    spread_KR = centred.square().T @ counts - (centred.T @ counts).square() / total_R
    # What is left of equal targets is rounding: at most a few units in the last place of their squares.
    varies_KR = spread_KR > 1e-12 * targets.square().T @ counts
    missed_KR = errors.square().T @ counts
    explained_KR = 1 - missed_KR / spread_KR.where(varies_KR, 1)
    return explained_KR.masked_fill(~varies_KR, 0).sum(0) / varies_KR.sum(0)


# --- intervals ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number about a classifier, with the range in which it may lie.

    Attributes:
        name: Name of the function that computes it.
        value: The metric of these images.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        num_pictures: How many labelled images it was computed from.
    """

    name: str
    value: float
    low: float
    high: float
    num_pictures: int


def wilson_interval(successes: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval for a share; without trials nothing is known and it is (0, 1).

    Raises:
        ConfigError: The counts or the level are impossible.

    Examples:
        >>> low, high = wilson_interval(98, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.930 0.994'
    """
    if not 0 <= successes <= trials or not 0 < level < 1:
        raise ConfigError(
            "An interval needs 0 <= successes <= trials and 0 < level < 1. "
            f"Received: successes={successes}, trials={trials}, level={level}"
        )
    if trials == 0:
        return 0.0, 1.0
    z_squared = normal_quantile(level) ** 2
    share = successes / trials
    centre = share + z_squared / (2 * trials)
    spread = math.sqrt(z_squared * (share * (1 - share) + z_squared / (4 * trials)) / trials)
    scale = 1 + z_squared / trials
    # Rounding would leave 1e-17 where the formula gives 0 or 1, and may pass the value by as much.
    low = 0.0 if successes == 0 else min((centre - spread) / scale, share)
    high = 1.0 if successes == trials else max((centre + spread) / scale, share)
    return low, high


def normal_quantile(level: float = LEVEL) -> float:
    """Return how many standard deviations around the mean hold a share ``level`` of a normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)


def share_metric(name: str, *, successes: int, trials: int) -> Metric:
    """Return a share of images with Wilson's interval; ``trials`` is at least 1."""
    low, high = wilson_interval(successes, trials)
    return Metric(name=name, value=successes / trials, low=low, high=high, num_pictures=trials)


def influence_metric(name: str, *, value: float, influence: Tensor) -> Metric:
    """Return a metric between 0 and 1 with the interval that the influences ``(N,)`` of the images give.

    The interval is symmetric in the log odds, so it stays within 0 and 1. At 0 or 1 no image pulls: such an interval
    has no width, and that says "not known", not "certain".
    """
    low = high = value
    if 0 < value < 1:
        error = float(influence.square().sum().sqrt())
        half = normal_quantile() * error / (value * (1 - value))
        odds = math.log(value / (1 - value))
        low, high = (1 / (1 + math.exp(-odds - shift)) for shift in (-half, half))
    return Metric(name=name, value=value, low=low, high=high, num_pictures=len(influence))


def bootstrap(
    measure: Measure, *, num_images: int, num_values: int = 1, seed: int
) -> dict[str, Metric]:
    """Return each metric with the middle 95 % of what it is on resamples of the images.

    Args:
        measure: All metrics of some resamples at a time; one set of resamples serves them all.
        num_images: N, at least 1.
        num_values: Numbers that ``measure`` makes for each resample beside the counts; more of them mean smaller parts.
        seed: The same seed gives the same resamples.

    Returns:
        By name. A metric that is undefined for the images themselves (NaN) is left out; resamples for which it is
        undefined do not count.
    """
    once_N1 = torch.ones((num_images, 1), dtype=torch.float64)
    values = {name: float(found) for name, found in measure(once_N1).items()}
    resampled: dict[str, list[Tensor]] = {name: [] for name in values}
    draws = generator(seed, "bootstrap")
    at_once = min(NUM_RESAMPLES, max(1, _DRAWS_AT_ONCE // max(num_images, num_values)))
    for start in range(0, NUM_RESAMPLES, at_once):
        num_resamples = min(at_once, NUM_RESAMPLES - start)
        drawn_NR = torch.randint(num_images, (num_images, num_resamples), generator=draws)
        cells = (drawn_NR * num_resamples).add_(torch.arange(num_resamples))
        counts = torch.bincount(cells.flatten(), minlength=drawn_NR.numel())
        for name, found in measure(counts.view_as(drawn_NR).double()).items():
            resampled[name].append(found)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    metrics: dict[str, Metric] = {}
    for name, value in values.items():
        if math.isnan(value):
            continue
        low, high = torch.cat(resampled[name]).nanquantile(ends).tolist()
        # The calibration error of resamples may lie above its value altogether, and an interval that leaves out what
        # was measured would mislead. (min and max pass over NaN in second place: all resamples undefined.)
        low, high = min(value, low), max(value, high)
        metrics[name] = Metric(name=name, value=value, low=low, high=high, num_pictures=num_images)
    return metrics


# --- rankings ---


class Ranked(NamedTuple):
    """A metric of a ranking, 0 to 1, and its influences ``(N,)``: how much it changes with the weight of each image."""

    value: float
    influence: Tensor


def roc_auc(scores: Tensor, positive: Tensor) -> Ranked | None:
    """Return the probability that a positive image scores above one that is not, equal scores counting half.

    Influences are the structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 1988). Only the positive
    scores are sorted, so a class with few images costs little. None where all or none are positive.
    """
    ascending_P, order_P = scores[positive].sort()
    others_M = scores[~positive].contiguous()
    num_positive, num_others = len(ascending_P), len(others_M)
    if num_positive == 0 or num_others == 0:
        return None
    below_M = torch.searchsorted(ascending_P, others_M)
    not_above_M = torch.searchsorted(ascending_P, others_M, right=True)
    # How many others lie below the k-th positive: those with at most k positives at or below them.
    others_below_P = torch.bincount(not_above_M, minlength=num_positive + 1).cumsum(0)[:-1]
    others_not_above_P = torch.bincount(below_M, minlength=num_positive + 1).cumsum(0)[:-1]
    wins_P = (others_below_P + others_not_above_P).double() / (2 * num_others)
    wins_M = 1 - (below_M + not_above_M).double() / (2 * num_positive)
    value = wins_P.mean()
    influence = torch.empty(len(scores), dtype=torch.float64)
    influence[positive.nonzero()[:, 0][order_P]] = (wins_P - value) / num_positive
    influence[~positive] = (wins_M - value) / num_others
    return Ranked(value=float(value), influence=influence)


def average_precision(scores: Tensor, positive: Tensor) -> Ranked | None:
    """Return the mean, over the positive images, of the precision among all that score at least as high.

    None where no image is positive.
    """
    num_images, num_positive = len(scores), int(positive.sum())
    if num_positive == 0:
        return None
    ascending_N, order_N = scores.sort()
    truth_N = positive[order_N].double()
    below_N = torch.searchsorted(ascending_N, ascending_N)
    up_to_N = torch.searchsorted(ascending_N, ascending_N, right=True)
    chosen_N = (num_images - below_N).double()
    precision_N = (num_positive - _sums_before(truth_N)[below_N]) / chosen_N
    value = (truth_N * precision_N).sum() / num_positive
    # A further image changes the precision at every positive that scores no more than it does.
    gained_N = _sums_before(truth_N / chosen_N)[up_to_N]
    lost_N = _sums_before(truth_N * precision_N / chosen_N)[up_to_N]
    influence = torch.empty(num_images, dtype=torch.float64)
    influence[order_N] = (truth_N * (precision_N - value + gained_N) - lost_N) / num_positive
    return Ranked(value=float(value), influence=influence)


def mean_over_classes(
    metric: Callable[[Tensor, Tensor], Ranked | None],
    scores: Tensor,
    *,
    positive: Callable[[int], Tensor],
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
) -> Ranked | None:
    """Return the mean of a metric over the classes for which it is defined; None where it is defined for none.

    Args:
        metric: ``roc_auc`` or ``average_precision``.
        scores: ``(N, C)``, any float; read a few classes at a time.
        positive: Class -> bool ``(N,)``.
        offsets: float64 ``(N,)``, subtracted from the scores of each image; turns logits into log-probabilities.
        weights: ``(C,)``, how much each class counts; None means all the same. Influences take them as fixed.
    """
    total, influence, sum_of_weights = 0.0, torch.zeros(len(scores), dtype=torch.float64), 0.0
    for index, column in _columns(scores):
        # As float32, or rounding in the 16th digit would order images that have the same probability.
        scores_N = column if offsets is None else (column - offsets).float()
        one = metric(scores_N, positive(index))
        if one is not None:
            weight = 1.0 if weights is None else float(weights[index])
            total += weight * one.value
            influence += weight * one.influence
            sum_of_weights += weight
    if sum_of_weights == 0:
        return None
    return Ranked(value=total / sum_of_weights, influence=influence / sum_of_weights)


def _columns(scores: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each column as contiguous float64; a block at a time, as single columns of a large matrix are read slowly."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(scores)))
    for start in range(0, scores.shape[1], at_once):
        block = scores[:, start : start + at_once].T.double().contiguous()
        yield from enumerate(block, start=start)


def _sums_before(values: Tensor) -> Tensor:
    """Return ``(N + 1,)``: the sum of the values before each place."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
