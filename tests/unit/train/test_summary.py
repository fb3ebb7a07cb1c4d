"""The table of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vizsla.train.callbacks.step import MixUp
from vizsla.train.metrics import accuracy
from vizsla.train.summary import Table


def rows_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    rules = [place for place, line in enumerate(lines) if set(line) == {"-"}]
    return [line.split() for line in lines[rules[1] + 1 : rules[2]]]


def test_the_totals_are_those_of_the_parameters(make_learner: Any):
    learner = make_learner()
    total = sum(value.numel() for value in learner.model.parameters())
    learner.freeze()
    trains = sum(value.numel() for value in learner.model.parameters() if value.requires_grad)
    lines = learner.summary().splitlines()
    assert f"Total params: {total:,}" in lines
    assert f"Total trainable params: {trains:,}" in lines
    assert f"Total non-trainable params: {total - trains:,}" in lines
    assert "," in f"{total:,}"


def test_every_layer_has_its_row_with_shape_and_parameters(make_learner: Any):
    learner = make_learner()
    rows = rows_of(learner.summary())
    leaves = [part for part in learner.model.modules() if not list(part.children())]
    with_parameters = [type(part).__name__ for part in leaves if list(part.parameters())]
    assert [row[0] for row in rows if row[-1] in ("True", "False")] == with_parameters
    counted = sum(int(row[-2].replace(",", "")) for row in rows if row[-1] in ("True", "False"))
    assert counted == sum(value.numel() for value in learner.model.parameters())
    last = rows[-1]
    assert last == ["Linear", "1", "x", "2", "16", "True"]  # 8 hidden features, 2 classes


def test_it_says_how_the_model_is_trained(make_learner: Any):
    learner = make_learner(metrics=accuracy)
    learner.cbs = [MixUp()]
    learner.freeze()
    lines = learner.summary().splitlines()
    assert lines[0] == "Classifier (Input shape: 1 x 3 x 32 x 32)"
    assert "Optimizer used: Adam" in lines
    assert lines[-2:] == ["Model frozen up to parameter group #2", "Callbacks: MixUp"]


def test_with_trained_norms_a_frozen_model_is_called_frozen(make_learner: Any):
    learner = make_learner()
    learner.freeze()
    assert "Model frozen up to parameter group #2" in learner.summary()


@pytest.mark.parametrize("num_valid", [4, 0])
def test_nothing_is_changed(make_learner: Any, make_loaders: Any, num_valid: int):
    learner = make_learner(make_loaders(num_valid=num_valid))
    learner.model.train()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    random = torch.get_rng_state()
    learner.summary()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(part.training for part in learner.model.modules())
    assert all(not part._forward_hooks for part in learner.model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_notebook_shows_it_without_quotes():
    assert repr(Table("a\nb")) == "a\nb"
