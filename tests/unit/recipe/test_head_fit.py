"""Fitted heads against heads that are really fitted again without each image, and the choice among them.

N images, V views of each, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from torch import Tensor

from vizsla import TrainingError
from vizsla.infer import FeatureStore
from vizsla.models import pool_statistics
from vizsla.recipe import (
    PENALTIES,
    FeatureLayout,
    HeadFit,
    HeadSetting,
    default_setting,
    fit_feature_head,
    head_fit,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SETTING = HeadSetting(stages=(0,), statistics=("mean",))
KERNEL = replace(SETTING, bandwidth=1.0)


def layout_of(num_features: int) -> FeatureLayout:
    return FeatureLayout(stages=(0,), statistics=("mean",), channels=(num_features,))


def fit(features: Tensor, targets: Tensor, *, bandwidth: float = 0.0, **options: Any) -> HeadFit:
    defaults: dict[str, Any] = {
        "layout": layout_of(features.shape[2]),
        "num_classes": int(targets.max()) + 1,
        "setting": replace(SETTING, bandwidth=bandwidth),
    }
    return fit_feature_head(features, targets, **(defaults | options))


def problem(
    num_images: int, num_views: int, num_features: int, *, num_classes: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return overlapping classes of unequal size; the views of an image are alike, columns differ in offset and scale."""
    random = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num_images, generator=random) ** 1.5 * num_classes).long()
    centres = torch.randn(num_classes, num_features, generator=random)
    images = centres[targets] + torch.randn(num_images, num_features, generator=random)
    views = torch.randn(num_images, num_views, num_features, generator=random) * 0.4
    scale = torch.linspace(0.5, 4, num_features)
    return (images[:, None] + views) * scale + torch.linspace(-3, 3, num_features), targets


def ring(num_images: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points inside (0) and outside (1) of a gap: no line parts them."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.arange(num_images) % 2
    angle = torch.rand(num_images, generator=random) * 2 * torch.pi
    radius = torch.rand(num_images, generator=random) * 0.5 + torch.where(targets == 1, 1.5, 0.0)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)[:, None], targets


@dataclass
class Reference:
    """Leave-one-image-out scores of a ridge regression that is solved anew for every image and penalty."""

    kernel_RR: Array
    wanted_NC: Array
    num_views: int
    weights_N: Array

    @property
    def weights_R(self) -> Array:
        return np.repeat(self.weights_N, self.num_views)

    @property
    def mean_eigenvalue(self) -> float:
        size = len(self.kernel_RR)
        centring = np.eye(size) - self.weights_R / self.weights_R.sum()
        return float(np.diag(centring @ self.kernel_RR @ centring.T) @ self.weights_R) / size

    def solve(
        self, kept: NDArray[np.bool_], penalty: float, *, at: NDArray[np.bool_] | slice
    ) -> Array:
        """Return scores at some rows of a ridge with an intercept without penalty, fitted on the kept rows."""
        size = int(kept.sum())
        system = np.ones((size + 1, size + 1))
        system[:size, :size] = self.kernel_RR[np.ix_(kept, kept)]
        system[:size, :size] += penalty * np.diag(1 / self.weights_R[kept])
        system[size, size] = 0
        wanted_RC = np.repeat(self.wanted_NC, self.num_views, axis=0)
        wanted = np.vstack([wanted_RC[kept], np.zeros((1, wanted_RC.shape[1]))])
        solution = np.linalg.solve(system, wanted)
        return self.kernel_RR[at][:, kept] @ solution[:size] + solution[size]

    def left_out(self, penalty: float) -> Array:
        """Return ``(N, C)``: the mean score of an image's views, by the ridge without any of them."""
        image_of_row = np.repeat(np.arange(len(self.wanted_NC)), self.num_views)
        return np.stack(
            [
                self.solve(image_of_row != image, penalty, at=image_of_row == image).mean(0)
                for image in range(len(self.wanted_NC))
            ]
        )


@torch.no_grad()
def classify(found: HeadFit, rows: Tensor) -> Tensor:
    return found.head.classify(rows)


def standardised(head: HeadFit, features: Tensor) -> Array:
    rows = features.flatten(0, 1)
    return ((rows - head.head.offset) * head.head.scale).double().numpy()


def reference_for(
    found: HeadFit, features: Tensor, targets: Tensor, *, class_weights: Tensor | None = None
) -> Reference:
    rows = standardised(found, features)
    if found.setting.bandwidth:
        distances = cdist(rows, rows, "sqeuclidean")
        kernel = np.exp(-found.setting.bandwidth / rows.shape[1] * distances)
    else:
        kernel = rows @ rows.T
    wanted = (
        np.eye(int(targets.max()) + 1)[targets] if targets.ndim == 1 else targets.double().numpy()
    )
    weights = np.ones(len(targets))
    if class_weights is not None:
        weights = class_weights[targets].double().numpy()
    return Reference(kernel, wanted, features.shape[1], weights)


def smoothed_loss(
    logits: Array, targets: NDArray[np.int64], *, weights: Array | None = None
) -> float:
    """Cross-entropy to targets that keep 1 - 2s for the class and spread 2s over all, s = 1 / (N + 2)."""
    num_images, num_classes = logits.shape
    spread = 2 / (num_images + 2)
    wanted = np.eye(num_classes)[targets] * (1 - spread) + spread / num_classes
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(np.average(-(wanted * log_probabilities).sum(1), weights=weights))


@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize("num_features", [4, 60])
@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.4, 1.0, 3.0])])
def test_head_has_the_lowest_leave_one_out_loss(
    num_views: int, num_features: int, bandwidth: float, class_weights: Tensor | None
):
    if class_weights is not None and num_views == 3:
        return  # the smaller numbers say it
    features, targets = problem(17, num_views, num_features)
    found = fit(features, targets, bandwidth=bandwidth, class_weights=class_weights)
    reference = reference_for(found, features, targets, class_weights=class_weights)
    results: list[tuple[float, float, float, float]] = []
    for share in PENALTIES:
        scores = reference.left_out(share * reference.mean_eigenvalue)
        accuracy = float((scores.argmax(1) == targets.numpy()).mean())
        for factor in np.logspace(0, 2, 95):
            loss = smoothed_loss(scores * factor, targets.numpy(), weights=reference.weights_N)
            results.append((loss, accuracy, share, float(factor)))
    loss, accuracy, share, factor = min(results)
    assert found.penalties == (share,)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert found.loss == pytest.approx(loss, rel=1e-5)

    everything = np.ones(len(targets) * num_views, dtype=bool)
    scores = reference.solve(everything, share * reference.mean_eigenvalue, at=slice(None))
    logits = classify(found, features.flatten(0, 1)).numpy()
    np.testing.assert_allclose(logits, scores * factor, atol=2e-3 * np.abs(scores * factor).max())


def test_weights_of_classes_find_more_images_of_a_rare_one():
    random = torch.Generator().manual_seed(2)
    targets = (torch.arange(210) >= 200).long()
    features = torch.randn(210, 1, 4, generator=random) + 1.5 * targets[:, None, None]
    recalls: list[float] = []
    for class_weights in (None, torch.ones(2), torch.tensor([210 / 400, 210 / 20])):
        found = fit(features, targets, class_weights=class_weights)
        right = found.left_out.argmax(1) == targets
        assert found.accuracy == pytest.approx(float(right.float().mean()))
        recalls.append(float(right[targets == 1].float().mean()))
    assert recalls[0] == recalls[1]
    assert recalls[0] < 0.7 < 0.85 < recalls[2]


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_numbers_have_the_lowest_leave_one_out_error(bandwidth: float):
    features, classes = problem(17, 2, 4)
    targets = torch.stack([classes + features[:, 0, 0], 1000.0 * features[:, 0, 1]], 1)
    found = fit(features, targets, bandwidth=bandwidth, num_classes=2, task="regression")
    reference, wanted = reference_for(found, features, targets), targets.double().numpy()
    best = min(
        (float(((scores - wanted) ** 2).mean()), share)
        for share in PENALTIES
        for scores in [reference.left_out(share * reference.mean_eigenvalue)]
    )
    assert (found.loss, found.penalties) == (pytest.approx(best[0], rel=1e-5), (best[1],))
    scores = reference.left_out(best[1] * reference.mean_eigenvalue)
    np.testing.assert_allclose(found.left_out, scores, rtol=1e-4, atol=1e-3)
    explained = 1 - ((scores - wanted) ** 2).mean(0) / wanted.var(0)
    assert found.accuracy == pytest.approx(explained.mean(), abs=1e-6)


def test_several_labels_have_the_lowest_leave_one_out_loss():
    features, classes = problem(40, 2, 6)
    random = torch.Generator().manual_seed(1)
    rare, noise = torch.arange(40) == 5, torch.rand(40, generator=random) < 0.5
    targets = torch.stack([classes == 0, classes != 2, rare, noise], 1).float()
    found = fit(features, targets, num_classes=4, task="multi_category")
    reference, wanted = reference_for(found, features, targets), targets.double().numpy()
    positive = wanted.sum(0)
    smoothed = np.where(wanted > 0, (positive + 1) / (positive + 2), 1 / (40 - positive + 2))

    def loss_of(line: Array, label: int, scores: Array) -> float:
        logits = line[0] * scores[:, label] + line[1]
        return float((np.logaddexp(0, logits) - smoothed[:, label] * logits).mean())

    results: list[tuple[float, float, Array]] = []
    for share in PENALTIES:
        scores = reference.left_out(share * reference.mean_eigenvalue)
        lines = [
            minimize(loss_of, (1.0, 0.0), (label, scores), bounds=[(0, None), (None, None)])
            for label in range(4)
        ]
        logits = np.stack([line.x[0] * scores[:, n] + line.x[1] for n, line in enumerate(lines)], 1)
        results.append((float(np.mean([line.fun for line in lines])), share, logits))
    loss, share, logits = min(results, key=lambda result: result[0])
    assert (found.loss, found.penalties) == (pytest.approx(loss, rel=1e-4), (share,))
    np.testing.assert_allclose(found.left_out, logits, atol=0.02)
    assert found.accuracy == pytest.approx(((logits > 0) == (wanted > 0)).mean(), abs=1e-9)
    assert "decisions" in found.result


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
@pytest.mark.parametrize("num_views", [1, 2])
@pytest.mark.parametrize("num_features", [3, 100])
def test_leave_one_out_on_random_labels_is_guessing(
    bandwidth: float, num_views: int, num_features: int
):
    # The rows of centred features sum to zero, so a row that stays in the mean is known from all others.
    random = torch.Generator().manual_seed(1)
    images = torch.randn(60, 1, num_features, generator=random)
    features = images + 0.01 * torch.randn(60, num_views, num_features, generator=random)
    targets = torch.arange(60)[torch.randperm(60, generator=random)] % 2
    found = fit(features, targets, bandwidth=bandwidth)
    assert found.accuracy < 0.7
    assert found.loss > 0.62


def test_leave_one_out_foretells_new_images():
    features, targets = problem(160, 2, 200, seed=2)
    for bandwidth in (0.0, 1.0):
        found = fit(features[:80], targets[:80], bandwidth=bandwidth)
        logits = classify(found, features[80:, 0])
        loss = smoothed_loss(logits.double().numpy(), targets[80:].numpy())
        accuracy = float((logits.argmax(1) == targets[80:]).float().mean())
        assert accuracy == pytest.approx(found.accuracy, abs=0.12)
        assert loss == pytest.approx(found.loss, abs=0.12)


def test_columns_of_some_stages_and_statistics():
    random = torch.Generator().manual_seed(0)
    channels = (2, 3, 5, 4, 7)
    maps = [torch.rand(2, number, 3, 3, generator=random) for number in channels]
    layout = FeatureLayout(stages=(1, 2, 4), statistics=("mean", "std"), channels=channels)
    everything = pool_statistics(maps, stages=layout.stages, statistics=layout.statistics)
    for stages, statistics in [
        ((1, 2, 4), ("mean", "std")),
        ((4,), ("mean",)),
        ((1, 2), ("std",)),
        ((4, 1), ("std", "mean")),
        ((2,), ("std", "mean")),
    ]:
        alone = pool_statistics(maps, stages=stages, statistics=statistics)
        columns = layout.columns(stages, statistics)
        assert columns.dtype == torch.int64
        assert torch.equal(everything[:, columns], alone)


def test_head_on_some_stages_uses_only_their_columns():
    layout = FeatureLayout(stages=(0, 1), statistics=("mean", "std"), channels=(2, 3))
    random = torch.Generator().manual_seed(0)
    features = torch.randn(40, 1, 10, generator=random)
    columns = layout.columns((1,), ("std",))
    targets = (features[:, 0, columns[0]] > 0).long()
    setting = HeadSetting(stages=(1,), statistics=("std",))
    part = fit(features, targets, layout=layout, setting=setting)
    alone = fit(features[:, :, columns], targets)
    assert part.head.config()["stages"] == [1]
    assert part.head.config()["statistics"] == ["std"]
    for name, value in part.head.state_dict().items():
        assert torch.equal(value, alone.head.state_dict()[name]), name


def test_mean_of_a_linear_and_a_kernel_head():
    features, targets = problem(40, 2, 12, seed=4)
    setting = default_setting(layout_of(12), num_rows=80)
    best = fit(features, targets, setting=setting)
    alone = [fit(features, targets, bandwidth=bandwidth) for bandwidth in (0.0, 1.0)]
    assert setting == replace(KERNEL, with_linear=True)
    assert best.penalties == (*alone[0].penalties, *alone[1].penalties)
    rows = torch.cat([features[:, 0], torch.randn(9, 12)])
    # Every head has its own temperature, so that the mean is of scores: least squares, one for each class.
    scores = [classify(each, rows) / gain(each) for each in alone]
    torch.testing.assert_close(
        classify(best, rows).softmax(1),
        (gain(best) * (scores[0] + scores[1]) / 2).softmax(1), rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    left_out = torch.stack([each.left_out / gain(each) for each in alone]).sum(0)
    assert torch.equal(best.left_out.argmax(1), left_out.argmax(1))
    assert "average of a linear and a kernel" in str(setting)


def gain(found: HeadFit) -> Tensor:
    """Return the factor from scores, which sum to 1 over the classes, to logits."""
    return found.left_out.sum(1).mean()


@pytest.mark.parametrize("num_features", [5, 60])
@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_landmarks_enough_to_stand_for_all_rows(num_features: int, bandwidth: float):
    features, targets = problem(50, 1, num_features)
    features = torch.cat([features, features + 0.01])  # each twice: half of the rows say it all
    targets = targets.repeat(2)
    everything = fit(features, targets, bandwidth=bandwidth)
    landmarks = fit(features, targets, bandwidth=bandwidth, num_landmarks=99)
    assert landmarks.loss == pytest.approx(everything.loss, rel=0.02)
    said = [classify(found, features[:, 0]).softmax(1) for found in (everything, landmarks)]
    torch.testing.assert_close(*said, rtol=0, atol=0.02)


def test_statistics_count_alike_however_many_channels():
    layout = FeatureLayout(stages=(0, 1), statistics=("mean", "std"), channels=(2, 8))
    weights = layout.weights((0, 1), ("mean", "std"))
    assert weights.square().mean() == pytest.approx(1.0)
    parts = weights.square().split([2, 2, 8, 8])
    assert [float(part.sum()) for part in parts] == pytest.approx([5.0] * 4)
    assert torch.equal(layout.weights((1,), ("std",)), torch.ones(8))


def test_a_linear_head_that_is_of_no_use_does_no_harm():
    features, targets = ring(160)
    linear, kernel, both = (
        fit(features, targets, setting=setting)
        for setting in (SETTING, KERNEL, default_setting(layout_of(2), num_rows=160))
    )
    assert linear.accuracy < 0.65
    assert both.loss < 1.2 * kernel.loss
    new, new_targets = ring(100, seed=1)
    for found in (kernel, both):
        assert found.accuracy > 0.97
        assert (classify(found, new[:, 0]).argmax(1) == new_targets).float().mean() > 0.97


def test_same_seed_gives_the_same_head_and_changes_nothing_else():
    features, targets = problem(40, 2, 6)
    before, state = (features.clone(), targets.clone()), torch.get_rng_state()
    for bandwidth in (0.0, 0.5):
        first, second = (fit(features, targets, bandwidth=bandwidth, seed=7) for _ in range(2))
        for name in ("loss", "accuracy", "penalties"):
            assert getattr(first, name) == getattr(second, name)
        for name, value in first.head.state_dict().items():
            assert torch.equal(value, second.head.state_dict()[name]), name
            assert value.dtype == torch.float32
            assert value.isfinite().all()
        assert not first.head.training
        assert all(parameter.requires_grad for parameter in first.head.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(features, before[0])
    assert torch.equal(targets, before[1])


def test_landmarks_are_training_rows():
    features, targets = problem(40, 2, 6)

    def landmarks(seed: int) -> Tensor:
        head = fit(features, targets, bandwidth=1.0, num_landmarks=10, seed=seed).head
        assert head.config()["num_landmarks"] == 10
        rows = (features.flatten(0, 1) - head.offset) * head.scale
        same = (head.landmarks[:, None] == rows).all(2)
        assert same.any(1).all()
        return head.landmarks

    assert torch.equal(landmarks(1), landmarks(1))
    assert not torch.equal(landmarks(1), landmarks(2))


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
@pytest.mark.parametrize("num_images", [4, 12, 100])
def test_confidence_after_few_images(bandwidth: float, num_images: int):
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(num_images) % 2
    side = (2 * targets - 1)[:, None, None]
    features = 5.0 * side + 0.1 * torch.randn(num_images, 2, 3, generator=random)
    found = fit(features, targets, bandwidth=bandwidth)
    assert found.accuracy == 1.0
    assert 0 < found.loss < 0.7
    confidence = float(classify(found, features[:, 0]).softmax(1).amax(1).mean())
    # Platt's estimate for an image like them is 1 - 1 / (N + 2).
    assert confidence == pytest.approx(1 - 1 / (num_images + 2), abs=0.09)


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_features_that_were_zero_in_training(bandwidth: float):
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(80) % 2
    features = torch.randn(80, 1, 100, generator=random) + (targets - 0.5)[:, None, None]
    features[..., 96:98] = 0.0
    features[..., 98:] = 0.1
    features[3, 0, 96] = 1e-7  # almost asleep
    found = fit(features, targets, bandwidth=bandwidth)
    awake = features[:, 0].clone()
    awake[:, 96:] += 0.5
    asleep, woken = classify(found, features[:, 0]), classify(found, awake)
    assert (asleep.argmax(1) == targets).all()
    assert (woken.argmax(1) == targets).float().mean() > 0.95
    assert (woken.softmax(1) - asleep.softmax(1)).abs().mean() < 0.2


@pytest.mark.parametrize("bandwidth", [0.0, 1.0])
def test_identical_images_give_the_frequencies_of_classes(bandwidth: float):
    features = torch.full((8, 2, 5), 0.1)
    targets = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    found = fit(features, targets, bandwidth=bandwidth)
    logits = classify(found, features[:, 0])
    assert np.isfinite(found.loss)
    torch.testing.assert_close(logits, logits[:1].expand(8, 2))
    assert (logits[:, 0] > logits[:, 1]).all()


def test_two_images_and_classes_without_images():
    found = fit(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([0, 1]))
    assert np.isfinite(found.loss)
    assert all(value.isfinite().all() for value in found.head.state_dict().values())
    features, _ = problem(12, 2, 4)
    targets = torch.tensor([0] * 11 + [2])
    found = fit(features, targets, num_classes=4)
    logits = classify(found, features[:, 0])
    assert logits.shape == (12, 4)
    assert (logits[:11].argmax(1) == 0).all()


def test_impossible_features_are_refused():
    for value in (torch.nan, torch.inf, -torch.inf):
        features, targets = problem(10, 2, 4)
        features[3, 1, 2] = value
        features[4, 0, :2] = value
        with pytest.raises(TrainingError, match="10 images, 3 values"):
            fit(features, targets)
    features, targets = problem(10, 2, 4)
    refit = partial(fit_feature_head, layout=layout_of(4), num_classes=3, setting=SETTING)
    for count in (0, 1):
        with pytest.raises(TrainingError, match=f"{count} images, 0 values"):
            refit(features[:count], targets[:count])


def test_blocks_of_rows_give_the_head_of_all_rows_at_once():
    features, targets = problem(40, 2, 6)
    several = torch.stack([targets == 0, targets > 0, features[:, 0, 0] > 0], 1).float()
    weights = {"class_weights": torch.tensor([0.5, 1.0, 2.0])}
    kinds: tuple[tuple[Tensor, dict[str, Any]], ...] = (
        (targets, {}),
        (targets, weights),
        (several, {"task": "multi_category", "num_classes": 3}),
        (several, {"task": "regression", "num_classes": 3}),
    )
    # Six features: with four landmarks a linear head is on these, with forty on the features.
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=2e-6)
    for num_landmarks in (4, 40):
        for wanted, more in kinds:
            refit = partial(
                fit,
                features,
                wanted,
                setting=replace(KERNEL, with_linear=True),
                num_landmarks=num_landmarks,
                **more,
            )
            whole = refit()
            for rows_at_once in (1, 7, 80):
                found = refit(rows_at_once=rows_at_once)
                assert found.penalties == whole.penalties
                assert torch.equal(found.sample, whole.sample)
                assert found.loss == pytest.approx(whole.loss, rel=1e-6)
                assert found.accuracy == pytest.approx(whole.accuracy, rel=1e-6)
                close(found.left_out, whole.left_out)
                rows = features.flatten(0, 1)
                close(classify(found, rows), classify(whole, rows))


def test_order_of_rows_does_not_matter():
    features, targets = problem(60, 1, 6)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for setting in (SETTING, KERNEL):  # every row is a landmark
        found = fit(features, targets, setting=setting, rows_at_once=7)
        other = fit(features[order], targets[order], setting=setting, rows_at_once=7)
        rows = features.flatten(0, 1)
        close = partial(torch.testing.assert_close, rtol=1e-6, atol=2e-6)
        close(classify(found, rows), classify(other, rows))
        close(found.left_out[order], other.left_out)


def test_many_rows_are_all_fitted_and_a_sample_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    features, targets = problem(60, 2, 4)
    everything = fit(features, targets)
    monkeypatch.setattr(head_fit, "MAX_ROWS", 40)
    found = fit(features, targets)
    torch.testing.assert_close(found.head.offset, everything.head.offset)
    assert len(found.sample) == len(found.left_out) == 20
    # Each of them is left out of all 60 images: the same as solving again without it, up to the temperature.
    reference = reference_for(found, features, targets)
    expected = reference.left_out(found.penalties[0] * reference.mean_eigenvalue)[found.sample]
    scores = found.left_out.double().numpy()
    assert np.allclose(scores / scores[0, 0], expected / expected[0, 0], rtol=1e-5)
    # From a file it is the same head to the bit.
    store = FeatureStore(folder=tmp_path, identity={})
    with store.writing("features", shape=(60, 2, 4)) as writer:
        writer.add(features)
    from_file = fit_feature_head(
        writer.features, targets, layout=layout_of(4), num_classes=3, setting=SETTING
    )
    for name, value in found.head.state_dict().items():
        assert torch.equal(value, from_file.head.state_dict()[name])
    features[50, 1, 2] = torch.nan
    with pytest.raises(TrainingError, match="60 images, 1 values"):
        fit(features, targets)


def test_default_sees_every_feature_and_kernels_cost_too_much_on_many_rows():
    layout = FeatureLayout(stages=(2, 3), statistics=("mean", "std"), channels=(1, 2, 3, 4))
    for num_rows, bandwidths in ((20_000, (0.0, 1.0)), (20_001, (0.0,))):
        setting = default_setting(layout, num_rows=num_rows)
        assert setting.bandwidths == bandwidths
        assert (setting.stages, setting.statistics) == (layout.stages, layout.statistics)
    assert "linear" in str(SETTING)
    setting = HeadSetting(stages=(2, 3), statistics=("mean", "std"), bandwidth=0.5)
    assert "kernel" in str(setting)
    assert "stages 2, 3" in str(setting)
