"""Heads: golden layers, start values, and the way from settings back to a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vizsla.errors import ConfigError
from vizsla.models.heads import (
    AdaptiveConcatPool2d,
    ConcatPoolHead,
    SigmoidRange,
    build_head,
    create_head,
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


@pytest.mark.parametrize("name", GOLDEN["create_head"])
def test_create_head_makes_the_golden_layers(name):
    case = GOLDEN["create_head"][name]
    head = create_head(case["nf"], case["n_out"], **case["kwargs"])
    assert [describe(layer) for layer in head] == case["layers"]
    shapes = {name: list(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes == case["params"]
    assert sum(parameter.numel() for parameter in head.parameters()) == case["n_params"]


@pytest.mark.parametrize("name", GOLDEN["create_head"])
def test_every_variant_gives_logits_and_gradients(name):
    case = GOLDEN["create_head"][name]
    head = create_head(case["nf"], case["n_out"], **case["kwargs"])
    has_pool = case["kwargs"].get("pool", True)
    logits = head(torch.randn(4, case["nf"], 3, 3) if has_pool else torch.randn(4, case["nf"]))
    assert logits.shape == (4, case["n_out"])
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_linear_weights_start_with_the_standard_deviation_of_kaiming():
    head = create_head(512, 4000, lin_ftrs=[4000])
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert linears[0].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=1e-2)
    assert linears[1].weight.std().item() == pytest.approx((2 / 4000) ** 0.5, rel=1e-2)
    assert linears[0].weight.mean().item() == pytest.approx(0, abs=1e-3)


def test_biases_of_linear_layers_start_at_zero():
    head = create_head(8, 3, lin_first=True)
    last = list(head)[-1]
    assert isinstance(last, nn.Linear)
    assert last.bias.tolist() == [0, 0, 0]


def test_the_seed_decides_the_weights_and_the_global_random_state_stays():
    before = torch.random.get_rng_state()
    first, again, other = (create_head(8, 3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["8.weight"], other["8.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pooling_gives_the_largest_value_then_the_mean():
    case = GOLDEN["adaptive_concat_pool"]
    maps = torch.tensor(case["x"]).view(case["shape"])
    pooled = AdaptiveConcatPool2d()(maps)
    assert pooled.shape == (2, 8, 1, 1)
    np.testing.assert_allclose(pooled.flatten().numpy(), case["out"], atol=1e-6)


def test_a_range_squeezes_numbers_between_its_bounds():
    values = torch.tensor([-1e4, 0.0, 1e4])
    assert SigmoidRange(1, 5)(values).tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("ps", [1.0, -0.1, [0.1, 0.2, 0.3], []])
def test_dropouts_that_cannot_work_are_refused(ps):
    with pytest.raises(ConfigError, match=r"each of the 2 linear layers\. Received: "):
        create_head(8, 3, ps=ps)


@pytest.mark.parametrize("widths", [{"nf": 0}, {"n_out": 0}, {"lin_ftrs": [4, -1]}])
def test_widths_that_cannot_work_are_refused(widths):
    with pytest.raises(ConfigError, match="Widths of a head are positive"):
        create_head(**({"nf": 8, "n_out": 3} | widths))


def test_the_head_reads_the_last_map():
    head = ConcatPoolHead(8, 3).eval()
    maps = (torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3))
    assert torch.equal(head(maps), head.layers(maps[-1]))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lin_ftrs": [16, 8], "ps": [0.1, 0.2, 0.3], "bn_final": True},
        {"lin_ftrs": [], "concat_pool": False, "first_bn": False},
        {"lin_first": True, "y_range": (0.0, 5.0), "ps": 0},
    ],
)
def test_a_head_is_rebuilt_from_its_settings_as_json(settings):
    head = ConcatPoolHead(8, 3, **settings).eval()
    config = json.loads(json.dumps(head.config()))
    rebuilt = build_head(config, stage_channels=(4, 8), num_classes=3).eval()
    rebuilt.load_state_dict(head.state_dict())
    maps = (torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3))
    assert torch.equal(rebuilt(maps), head(maps))
    assert isinstance(rebuilt, ConcatPoolHead)
    assert rebuilt.config() == head.config()


def test_changing_the_settings_does_not_change_the_head():
    head = ConcatPoolHead(8, 3)
    head.config()["kind"] = "other"
    assert head.config()["kind"] == "concat_pool"


@pytest.mark.parametrize("config", [{}, {"kind": "attention"}, {"kind": None}])
def test_an_unknown_kind_of_head_is_refused(config):
    with pytest.raises(ConfigError, match='the kinds are "concat_pool" and "features"'):
        build_head(config, stage_channels=(8,), num_classes=3)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="has no setting width; it has kind, lin_ftrs, ps"):
        build_head({"kind": "concat_pool", "width": 3}, stage_channels=(8,), num_classes=3)


@pytest.mark.parametrize("setting", [{"lin_ftrs": 5}, {"ps": "high"}, {"y_range": [1]}])
def test_a_setting_of_the_wrong_type_is_refused(setting):
    with pytest.raises(ConfigError):
        build_head({"kind": "concat_pool", **setting}, stage_channels=(8,), num_classes=3)
