"""Layers, XResNets and optimisers of lessons: what fastai recorded for the same expressions (tests/golden/record_layers.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.record_layers import STEPPERS, describe, optimise
from torch import nn

from vizsla import ConfigError, WeightsError
from vizsla.models import build_backbone, create_body, resolve_architecture

FOLDER = Path(__file__).resolve().parents[2] / "golden"
RECORD = json.loads((FOLDER / "layers.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def names(star: Any) -> dict[str, Any]:
    found = {**vars(star)}
    exec(STEPPERS, found)  # noqa: S102 (the tests' own text)
    return found


def test_layers_are_those_of_fastai(names: dict[str, Any]):
    for case in RECORD["layers"]:
        found = describe(case["expression"], case["input"], names)
        assert found["names"] == case["names"], case["expression"]
        assert found["weights"] == pytest.approx(case["weights"], rel=1e-6), case["expression"]
        for mode in ("output", "trained"):
            shape, mean, first = found[mode]
            assert shape == case[mode][0], case["expression"]
            assert [mean, *first] == pytest.approx([case[mode][1], *case[mode][2]], rel=1e-3, abs=1e-5), case["expression"]  # fmt: skip


def test_what_takes_networks_apart_says_what_fastai_says(names: dict[str, Any]):
    for expression, expected in RECORD["facts"].items():
        assert eval(expression, names) == expected, expression  # noqa: S307


def test_optimisers_move_as_those_of_fastai(names: dict[str, Any]):
    for case in RECORD["optimisers"]:
        found = optimise(case["expression"], names)
        # torch's RAdam adds eps a little earlier than fastai's.
        assert found["losses"] == pytest.approx(case["losses"], rel=1e-3), case["expression"]
        assert found["bias"] == pytest.approx(case["bias"], rel=1e-3, abs=1e-4), case["expression"]


def test_an_xresnet_is_an_architecture_by_name_and_by_function(names: dict[str, Any]):
    function = names["xresnet18"]
    for arch in (function, "xresnet18"):
        assert resolve_architecture(arch) == ("vizsla", "xresnet18")
    backbone = build_backbone("xresnet18[:6]", pretrained=False)
    assert backbone.stage_channels == (64, 64, 128)
    assert backbone.spec.arch == "xresnet18[:6]"
    assert isinstance(function(n_out=7, pretrained=False)[-1], nn.Linear)


def test_published_weights_of_an_xresnet_fit_a_last_layer_of_ones_own(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    published = names["xresnet50"](widen=0.25, n_out=9)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": published.state_dict()}, tmp_path / "checkpoints" / "xrn50_940.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for outputs in (9, 3):
        found = names["xresnet50"](pretrained=True, widen=0.25, n_out=outputs)
        assert torch.equal(found[4][0].convpath[0][0].weight, published[4][0].convpath[0][0].weight)
        assert torch.equal(found[-1].weight[:1], published[-1].weight[:1]) == (outputs == 9)
    with pytest.raises(WeightsError, match="xresnet18"):
        names["xresnet18"](pretrained=True)


def test_a_body_that_cannot_be_cut_off_is_refused_by_name():
    for model, options in (
        (nn.Sequential(nn.Conv2d(3, 4, 1)), {}),
        ("resnet18", {}),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2)), {"n_in": 2}),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.AvgPool2d(2)), {"n_in": 1}),
    ):
        with pytest.raises(ConfigError, match=r"Sequential has no pooling|vision_learner|n_in"):
            create_body(model, **options)  # pyright: ignore[reportArgumentType]


def test_a_body_for_grey_images_sums_the_weights_of_its_first_convolution():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2))
    grey = torch.rand(2, 1, 8, 8)
    expected = network[0](grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(create_body(network, n_in=1)(grey), expected)
