"""Heads: golden layers, initial values, the head of pooled features, and heads rebuilt from their settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from vizsla import ConfigError
from vizsla.models import (
    STATISTICS,
    AdaptiveConcatPool2d,
    ConcatPoolHead,
    FeatureHead,
    HeadOptions,
    SigmoidRange,
    build_head,
    create_head,
    pool_statistics,
    rbf_kernel,
)

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "models_heads.json").read_text("utf-8")
)
DESCRIBED = {
    "BatchNorm1d": ("num_features", "eps", "momentum"),
    "Dropout": ("p",),
    "Linear": ("in_features", "out_features"),
    "SigmoidRange": ("low", "high"),
}


def describe(layer: nn.Module) -> dict[str, Any]:
    """Describe a layer as the golden file does."""
    name = type(layer).__name__
    description = {"type": name} | {key: getattr(layer, key) for key in DESCRIBED.get(name, ())}
    if isinstance(layer, nn.Linear):
        description["bias"] = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.BatchNorm1d):
        description["weight_init"] = layer.weight.unique().item()
        description["bias_init"] = layer.bias.unique().item()
    return description


def test_golden_layers_of_create_head():
    for name in GOLDEN["create_head"]:
        case = GOLDEN["create_head"][name]
        head = create_head(case["nf"], case["n_out"], **case["kwargs"])
        assert [describe(layer) for layer in head] == case["layers"]
        shapes = {name: list(parameter.shape) for name, parameter in head.named_parameters()}
        assert shapes == case["params"]
        assert sum(parameter.numel() for parameter in head.parameters()) == case["n_params"]
        has_pool = case["kwargs"].get("pool", True)
        logits = head(torch.randn(4, case["nf"], 3, 3) if has_pool else torch.randn(4, case["nf"]))
        assert logits.shape == (4, case["n_out"])
        logits.square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


def test_random_start_is_kaiming():
    head = create_head(512, 4000, lin_ftrs=[4000])
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert linears[0].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=1e-2)
    assert linears[1].weight.std().item() == pytest.approx((2 / 4000) ** 0.5, rel=1e-2)
    assert linears[0].weight.mean().item() == pytest.approx(0, abs=1e-3)
    last = list(create_head(8, 3, lin_first=True))[-1]
    assert isinstance(last, nn.Linear)
    assert last.bias.tolist() == [0, 0, 0]


def test_seed_decides_the_weights():
    before = torch.random.get_rng_state()
    first, again, other = (create_head(8, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["8.weight"], other["8.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pooling_and_range():
    case = GOLDEN["adaptive_concat_pool"]
    maps = torch.tensor(case["x"]).view(case["shape"])
    pooled = AdaptiveConcatPool2d()(maps)
    assert pooled.shape == (2, 8, 1, 1)
    np.testing.assert_allclose(pooled.flatten().numpy(), case["out"], atol=1e-6)
    values = torch.tensor([-1e4, 0.0, 1e4])
    assert SigmoidRange(1, 5)(values).tolist() == [1.0, 3.0, 5.0]


def test_impossible_dropouts_and_widths_are_refused():
    for ps in [1.0, -0.1, [0.1, 0.2, 0.3], []]:
        with pytest.raises(ConfigError, match="ps"):
            create_head(8, 3, ps=ps)
    refused: list[tuple[int, int, list[int]]] = [(0, 3, [4]), (8, 0, [4]), (8, 3, [4, -1])]
    for inputs, outputs, hidden in refused:
        with pytest.raises(ConfigError, match=f"nf={inputs}.*n_out={outputs}"):
            create_head(inputs, outputs, hidden)


def test_head_is_rebuilt_from_its_settings():
    several: list[HeadOptions] = [
        {},
        {"lin_ftrs": [16, 8], "ps": [0.1, 0.2, 0.3], "bn_final": True},
        {"lin_ftrs": [], "concat_pool": False, "first_bn": False},
        {"lin_first": True, "y_range": (0.0, 5.0), "ps": 0},
    ]
    for settings in several:
        head = ConcatPoolHead(8, 3, **settings).eval()
        config = json.loads(json.dumps(head.config()))
        rebuilt = build_head(config, stage_channels=(4, 8), num_classes=3).eval()
        rebuilt.load_state_dict(head.state_dict())
        maps = (torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3))
        assert torch.equal(rebuilt(maps), head(maps))
        assert torch.equal(head(maps), head.layers(maps[-1]))
        assert isinstance(rebuilt, ConcatPoolHead)
        assert rebuilt.config() == head.config()
        head.config()["kind"] = "other"  # a copy
        assert head.config()["kind"] == "concat_pool"


def test_unknown_kinds_and_settings_are_refused():
    for config, facts in [
        ({}, "None"),
        ({"kind": "attention"}, "'attention'"),
        ({"kind": None}, "None"),
        ({"kind": "concat_pool", "width": 3}, r"width.*lin_ftrs, ps"),
        ({"kind": "concat_pool", "lin_ftrs": 5}, "'lin_ftrs': 5"),
        ({"kind": "concat_pool", "ps": "high"}, "high"),
        ({"kind": "concat_pool", "y_range": [1]}, r"'y_range': \[1\]"),
    ]:
        with pytest.raises(ConfigError, match=facts):
            build_head(config, stage_channels=(8,), num_classes=3)


CHANNELS = (3, 4, 5)


def make_maps(num_images: int = 6) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(num_images, channels, 8 >> stage, 6 >> stage, generator=random)
        for stage, channels in enumerate(CHANNELS)
    )


def make_head(
    *, num_landmarks: int = 0, stages: tuple[int, ...] = (1, 2), with_linear: bool = False
) -> FeatureHead:
    """Return a head full of random numbers, as if fitted."""
    statistics = ("mean", "std")
    head = FeatureHead(
        stages=stages,
        statistics=statistics,
        num_features=2 * sum(CHANNELS[stage] for stage in stages),
        num_classes=3,
        num_landmarks=num_landmarks,
        bandwidth=0.5,
        with_linear=with_linear,
    )
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in head.state_dict().values():
            value.normal_(generator=random)
        head.scale.abs_()
    return head


def test_statistics_are_those_of_numpy():
    maps = make_maps()
    arrays = [stage.numpy().reshape(len(stage), stage.shape[1], -1) for stage in maps]
    columns = [(one.std(2), one.mean(2), one.max(2)) for one in (arrays[2], arrays[0])]
    expected = np.concatenate([*columns[0], *columns[1]], axis=1)
    found = pool_statistics(maps, stages=[2, 0], statistics=["std", "mean", "max"])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_statistics_of_single_bfloat16_and_constant_maps():
    (single,) = maps = (torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)),)
    found = pool_statistics(maps, stages=[0], statistics=STATISTICS)
    expected = single.flatten(1)
    torch.testing.assert_close(found, torch.cat([expected, torch.zeros(2, 3), expected], 1))
    maps = tuple(stage.bfloat16() for stage in make_maps())
    found = pool_statistics(maps, stages=[0], statistics=["mean"])
    assert found.dtype == torch.float32
    assert torch.equal(found, maps[0].float().mean((2, 3)))
    constant = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pool_statistics([constant], stages=[0], statistics=STATISTICS).sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_kernel_is_that_of_scipy():
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        for bandwidth in [0.5, 1.0, 3.0]:
            random = torch.Generator().manual_seed(0)
            left, right = (
                torch.randn(number, 40, generator=random, dtype=torch.float64) for number in (7, 9)
            )
            expected = np.exp(-bandwidth / 40 * cdist(left, right, "sqeuclidean"))
            found = rbf_kernel(left.to(dtype), right.to(dtype), bandwidth=bandwidth)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_kernel_of_a_point_with_itself():
    points = 100 * torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    found = rbf_kernel(points, points, bandwidth=1.0)
    assert found.max() <= 1
    np.testing.assert_allclose(found.diagonal(), 1, atol=0.02)


@pytest.mark.parametrize(("num_landmarks", "with_linear"), [(0, False), (4, False), (4, True)])
def test_feature_head_follows_its_formula_and_is_rebuilt(num_landmarks: int, with_linear: bool):
    head, maps = make_head(num_landmarks=num_landmarks, with_linear=with_linear), make_maps()
    features = torch.randn(6, 18, generator=torch.Generator().manual_seed(2))
    rows = (features.numpy() - head.offset.numpy()) * head.scale.numpy()
    if num_landmarks:
        similarity = np.exp(-0.5 / 18 * cdist(rows, head.landmarks, "sqeuclidean"))
        rows = np.concatenate([rows, similarity], axis=1) if with_linear else similarity
    weight, bias = (value.detach().numpy() for value in head.linear.parameters())
    config = json.loads(json.dumps(head.config()))
    again = build_head(config, stage_channels=CHANNELS, num_classes=3)
    assert isinstance(again, FeatureHead)
    assert again.config() == head.config()
    again.load_state_dict(head.state_dict())
    with torch.no_grad():
        logits = head(maps)
        assert logits.shape == (6, 3)
        assert torch.equal(head.classify(head.pool(maps)), logits)
        pooled = pool_statistics(maps, stages=(1, 2), statistics=("mean", "std"))
        assert torch.equal(head.pool(maps), pooled)
        found = head.classify(features)
        np.testing.assert_allclose(found, rows @ weight.T + bias, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head.classify(features), found)
        assert torch.equal(again(maps), logits)


def test_new_feature_head_is_zero_and_only_its_linear_layer_trains():
    state = torch.get_rng_state()
    head = FeatureHead(stages=(0,), statistics=("mean",), num_features=3, num_classes=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(head(make_maps()), torch.zeros(6, 2))
    head = make_head(num_landmarks=4)
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    head(make_maps()).sum().backward()
    assert isinstance(head.linear, nn.Linear)
    assert head.linear.weight.grad is not None


def test_impossible_feature_heads_are_refused():
    for stages, statistics in [((), ("mean",)), ((0,), ()), ((0,), ("median",)), ((0,), ("mean", "Std"))]:  # fmt: skip
        with pytest.raises(ConfigError) as error:
            FeatureHead(stages=stages, statistics=statistics, num_features=3, num_classes=2)
        assert f"stages={list(stages)}, statistics={list(statistics)}" in str(error.value)
    changes: dict[str, list[object]] = {
        "stages": [[7], ["last"], None, [], [-1]],
        "statistics": [3, ["median"]],
        "num_landmarks": [-1, "many"],
        "bandwidth": [None],
    }
    for field, values in changes.items():
        config = make_head().config()
        del config[field]
        for broken in (config, *({**config, field: value} for value in values)):
            with pytest.raises(ConfigError, match="feature head"):
                build_head(broken, stage_channels=CHANNELS, num_classes=3)
