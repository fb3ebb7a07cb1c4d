"""Steps of the optimiser against recorded ones, and what never moves. Golden values: tests/golden/training.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.models.groups import Group, freeze_to, norm_parameters
from vizsla.train.loop import StepContext, train_epoch
from vizsla.train.optim import EPSILON, MOMENTUM, SQUARED_MOMENTUM, build_adamw, set_hyperparameters
from vizsla.train.schedules import Schedule, constant, one_cycle, rates_per_group
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Generator

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "training.json").read_text("utf-8")
)
PROBLEM = GOLDEN["problem"]
CASES = {case["name"]: case for case in GOLDEN["cases"]}
NUM_STEPS = 5


def toy() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.load_state_dict(
        {name: torch.tensor(value) for name, value in PROBLEM["start"].items()}, strict=False
    )
    return model


def groups_of(model: nn.Sequential, layers: list[list[int]]) -> tuple[Group, ...]:
    return tuple(
        tuple(parameter for position in group for parameter in model[position].parameters())
        for group in layers
    )


def whole_set() -> Generator[Batch]:
    inputs, targets = torch.tensor(PROBLEM["inputs"]), torch.tensor(PROBLEM["targets"])
    yield Batch(images=inputs, targets=targets, rows=torch.arange(len(targets)))


def run(
    model: nn.Sequential, optimiser: torch.optim.AdamW, schedule: Schedule
) -> tuple[list[float], list[dict[str, Tensor]]]:
    context = StepContext(
        model=model, loss_function=F.cross_entropy, optimiser=optimiser, schedule=schedule
    )
    losses: list[float] = []
    states: list[dict[str, Tensor]] = []
    for step in range(len(schedule.learning_rates)):
        losses += train_epoch(context, whole_set(), first_step=step)
        states.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return losses, states


def prepared(case: dict[str, Any]) -> tuple[nn.Sequential, torch.optim.AdamW, Schedule]:
    model = toy()
    groups = groups_of(model, case.get("groups", [[0, 1, 2]]))
    if "freeze" in case:
        norms = norm_parameters(model) if case.get("train_norms", True) else ()
        freeze_to(groups, case["freeze"], train_norms=norms)
    rates = slice(*case["rates"]["slice"]) if "rates" in case else 0.1
    per_group = rates_per_group(rates, num_groups=len(groups))
    schedule = (
        one_cycle(NUM_STEPS, peak_rates=per_group)
        if case.get("one_cycle")
        else constant(NUM_STEPS, rates=per_group)
    )
    optimiser = build_adamw(
        model,
        groups,
        weight_decay=case.get("weight_decay", 0.01),
        decay_norms_and_biases=case.get("decay_norms_and_biases", False),
    )
    return model, optimiser, schedule


@pytest.mark.parametrize("name", CASES)
def test_parameters_after_every_step_are_the_golden_ones(name: str):
    case = CASES[name]
    losses, states = run(*prepared(case))
    np.testing.assert_allclose(losses, case["losses"], atol=3e-4)
    for state, expected in zip(states, case["params_after_step"], strict=True):
        for parameter, value in expected.items():
            # A bias before a norm has no gradient but rounding, which Adam scales up.
            tolerance = 2e-3 if parameter == "0.bias" else 3e-4
            np.testing.assert_allclose(state[parameter], value, atol=tolerance, err_msg=parameter)


def test_running_statistics_after_the_steps_are_the_golden_ones():
    model, optimiser, schedule = prepared(CASES["adam_defaults"])
    run(model, optimiser, schedule)
    buffers = dict(model[1].named_buffers())
    for name, expected in GOLDEN["running_statistics"].items():
        np.testing.assert_allclose(buffers[name], expected, atol=1e-3)


@pytest.mark.parametrize("name", ["frozen", "frozen_bn_trains", "frozen_bn_fixed"])
def test_a_frozen_layer_stays_exactly_as_it_is(name: str):
    model, optimiser, schedule = prepared(CASES[name])
    run(model, optimiser, schedule)
    for parameter in ("0.weight", "0.bias"):
        assert torch.equal(model.state_dict()[parameter], torch.tensor(PROBLEM["start"][parameter]))


def test_a_layer_that_was_trained_and_then_frozen_does_not_move_again():
    # The recorded library goes on shrinking it by weight decay: its gradient stays zero instead of none.
    model = toy()
    groups = groups_of(model, [[0], [1, 2]])
    run(model, build_adamw(model, groups), constant(1, rates=(0.1, 0.1)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_to(groups, -1, train_norms=norm_parameters(model))
    run(model, build_adamw(model, groups, weight_decay=0.3), constant(4, rates=(0.1, 0.1)))
    after = model.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert not torch.equal(after["2.weight"], before["2.weight"])
    freeze_to(groups, 0)
    run(model, build_adamw(model, groups), constant(1, rates=(0.1, 0.1)))
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_each_parameter_that_trains_is_handed_over_once_with_its_group_and_decay():
    model = toy()
    optimiser = build_adamw(model, groups_of(model, [[0], [1, 2]]), weight_decay=0.25)
    found = {
        id(parameter): (group["layer_group"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 6
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == {
        "0.weight": (0, 0.25),
        "0.bias": (0, 0.0),
        "1.weight": (1, 0.0),
        "1.bias": (1, 0.0),
        "2.weight": (1, 0.25),
        "2.bias": (1, 0.0),
    }


def test_a_step_gets_the_rates_of_its_groups_and_its_momentum():
    model = toy()
    optimiser = build_adamw(model, groups_of(model, [[0], [1], [2]]))
    schedule = Schedule(learning_rates=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), momenta=(0.5, 0.25))
    set_hyperparameters(optimiser, schedule, step=1)
    assert [(group["layer_group"], group["lr"]) for group in optimiser.param_groups] == [
        (0, 4.0),
        (0, 4.0),
        (1, 5.0),
        (2, 6.0),
        (2, 6.0),
    ]
    assert {group["betas"] for group in optimiser.param_groups} == {(0.25, SQUARED_MOMENTUM)}


def test_a_schedule_without_momenta_leaves_the_momentum_as_it_was():
    model = toy()
    optimiser = build_adamw(model, groups_of(model, [[0, 1, 2]]))
    assert {group["betas"] for group in optimiser.param_groups} == {(MOMENTUM, SQUARED_MOMENTUM)}
    set_hyperparameters(optimiser, Schedule(learning_rates=((1.0,),), momenta=(0.6,)), step=0)
    set_hyperparameters(optimiser, constant(1, rates=(2.0,)), step=0)
    assert {group["betas"] for group in optimiser.param_groups} == {(0.6, SQUARED_MOMENTUM)}
    assert {group["lr"] for group in optimiser.param_groups} == {2.0}
    assert {group["eps"] for group in optimiser.param_groups} == {EPSILON}
