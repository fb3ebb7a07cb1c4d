"""Steps of the optimiser against recorded ones, and what never moves. Golden values: tests/golden/{training,optimisers}.json."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import SGD, Adam, ConfigError, TrainingError
from vizsla.models import Group, freeze_to, norm_parameters
from vizsla.train import (
    MOMENTUM,
    OptimiserFactory,
    build_optimiser,
    optimiser_names,
    set_hyperparameters,
)
from vizsla.train.rates import Schedule, constant, one_cycle, rates_per_group

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).resolve().parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "training.json").read_text("utf-8"))
OTHERS = json.loads((FOLDER / "optimisers.json").read_text("utf-8"))["cases"]
PROBLEM = GOLDEN["problem"]
CASES = {case["name"]: case for case in (*GOLDEN["cases"], *OTHERS)}
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


def optimiser_of(
    model: nn.Sequential,
    *,
    layers: Sequence[list[int]] = ([0, 1, 2],),
    opt_func: OptimiserFactory = Adam,
    weight_decay: float | Sequence[float] | None = None,
) -> torch.optim.Optimizer:
    return build_optimiser(
        model, groups_of(model, list(layers)), opt_func=opt_func, weight_decay=weight_decay
    )


def run(
    model: nn.Sequential, optimiser: torch.optim.Optimizer, schedule: Schedule
) -> tuple[list[float], list[dict[str, Tensor]]]:
    inputs, targets = torch.tensor(PROBLEM["inputs"]), torch.tensor(PROBLEM["targets"])
    losses: list[float] = []
    states: list[dict[str, Tensor]] = []
    for step in range(schedule.num_steps):
        set_hyperparameters(
            optimiser, rates=schedule.rates_at(step), momentum=schedule.momentum_at(step)
        )
        optimiser.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        states.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return losses, states


def prepared(case: dict[str, Any]) -> tuple[nn.Sequential, torch.optim.Optimizer, Schedule]:
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
    factory = {"adam": Adam, "sgd": SGD}[case.get("optimiser", "adam")]
    optimiser = build_optimiser(
        model,
        groups,
        opt_func=partial(factory, **case.get("settings", {})),
        weight_decay=case.get("weight_decay"),
        decay_norms_and_biases=case.get("decay_norms_and_biases", False),
    )
    return model, optimiser, schedule


@pytest.mark.parametrize("name", CASES)
def test_golden_parameters_after_every_step(name: str):
    case = CASES[name]
    losses, states = run(*prepared(case))
    np.testing.assert_allclose(losses, case["losses"], atol=3e-4)
    for state, expected in zip(states, case["params_after_step"], strict=True):
        for parameter, value in expected.items():
            # A bias before a norm has no gradient but rounding, which Adam scales up.
            tolerance = 2e-3 if parameter == "0.bias" else 3e-4
            np.testing.assert_allclose(state[parameter], value, atol=tolerance, err_msg=parameter)


def test_golden_running_statistics():
    model, optimiser, schedule = prepared(CASES["adam_defaults"])
    run(model, optimiser, schedule)
    buffers = dict(model[1].named_buffers())
    for name, expected in GOLDEN["running_statistics"].items():
        np.testing.assert_allclose(buffers[name], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "first", "second"), [(0.25, 0.25, 0.25), ((0.5, 0.25), 0.5, 0.25), (None, 0.01, 0.01)]
)
def test_groups_and_decay_of_parameters(
    given: float | tuple[float, ...] | None, first: float, second: float
):
    model = toy()
    optimiser = optimiser_of(model, layers=([0], [1, 2]), weight_decay=given)
    found = {
        id(parameter): (group["layer_group"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 6
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == {
        "0.weight": (0, first),
        "0.bias": (0, 0.0),
        "1.weight": (1, 0.0),
        "1.bias": (1, 0.0),
        "2.weight": (1, second),
        "2.bias": (1, 0.0),
    }


def test_fused_kernels_are_used_on_one_device():
    model = nn.Linear(2, 2)
    assert Adam(model.parameters(), 0.1).defaults["fused"] is True
    assert SGD([{"params": model.weight}], 0.1).defaults["fused"] is True
    mixed = [*model.parameters(), *nn.Linear(2, 2, device="meta").parameters()]
    assert Adam(mixed, 0.1).defaults["fused"] is None


def test_weight_decay_of_sgd():
    # Two steps without gradients. Decoupled: (1 - 0.05)^2; added to the gradient, the second step has momentum too.
    ends: dict[bool, list[float]] = {True: [], False: []}
    for decouple, found in ends.items():
        weight = nn.Parameter(torch.ones(1))
        optimiser = SGD([weight], 0.1, mom=0.9, wd=0.5, decouple_wd=decouple)
        for _ in range(2):
            weight.grad = torch.zeros(1)
            optimiser.step()
            found.append(weight.item())
    assert ends[True] == pytest.approx([0.95, 0.9025])
    assert ends[False] == pytest.approx([0.95, 0.95 - 0.1 * (0.9 * 0.5 + 0.95 * 0.5)])


def test_momentum_of_sgd_stays_zero_if_it_was_made_without():
    without = optimiser_of(toy(), opt_func=SGD)
    with_some = optimiser_of(toy(), opt_func=partial(SGD, mom=0.8))
    for momentum in (0.0, 0.7):
        for optimiser in (without, with_some):
            set_hyperparameters(optimiser, rates=(0.1,), momentum=momentum)
        assert {group["momentum"] for group in without.param_groups} == {0.0}
        assert {group["momentum"] for group in with_some.param_groups} == {momentum}


def test_tensors_of_a_captured_graph_are_overwritten_in_place():
    optimiser = optimiser_of(toy())
    rate = torch.tensor(1.0)
    optimiser.param_groups[0]["lr"] = rate
    set_hyperparameters(optimiser, rates=(0.5,), momentum=None)
    assert optimiser.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", "AdamW"),
        ("AdamW", "AdamW"),
        ("sgd", "SGD"),
        ("RMSprop", "RMSprop"),
        ("adagrad", "Adagrad"),
        ("lion", "Lion"),
        ("lamb", "Lamb"),
        ("lookahead_lamb", "Lookahead"),
        (torch.optim.NAdam, "NAdam"),
        (partial(torch.optim.SGD, nesterov=True, momentum=0.9), "SGD"),
    ],
)
def test_optimiser_by_name_class_or_partial_learns(name: OptimiserFactory, kind: str):
    model = toy()
    optimiser = optimiser_of(model, layers=([0], [1, 2]), opt_func=name, weight_decay=0.01)
    assert type(optimiser).__name__ == kind
    losses, _ = run(model, optimiser, constant(NUM_STEPS, rates=(0.01, 0.01)))
    assert losses[-1] < losses[0]


def test_optimiser_names():
    names = optimiser_names()
    assert {"adam", "adamw", "sgd", "rmsprop", "lion", "lamb"} <= set(names)
    assert not {"lbfgs", "optimizer", "adahessian"} & set(names)
    assert list(names) == sorted(names)
    assert optimiser_of(toy(), opt_func="sgd").defaults["momentum"] == MOMENTUM


def without_groups(params: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([one for group in params for one in group["params"]], lr=lr)


def test_impossible_optimisers_are_refused():
    cases: list[tuple[Any, str]] = [
        ("adamv", r"'adamv'.*: adam"),
        ("LBFGS", "LBFGS"),
        (partial(Adam, sqr_mom=1.5), r"Adam.*Invalid beta"),
        (cast("Any", partial)(SGD, nesterov=True), r"SGD.*'nesterov'"),
        (without_groups, "without_groups.*SGD"),
        (lambda params, lr: None, "NoneType"),
        (3, "3$"),
    ]
    for opt_func, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            optimiser_of(toy(), opt_func=opt_func)
    bias_free = nn.Sequential(nn.Linear(2, 2, bias=False))  # LBFGS takes a single group
    with pytest.raises(ConfigError, match="LBFGS"):
        build_optimiser(bias_free, (tuple(bias_free.parameters()),), opt_func=torch.optim.LBFGS)


def test_impossible_weight_decays_are_refused():
    decays: list[tuple[Any, str]] = [((0.1, 0.2), "1 parameter groups.*2"), (-0.1, r"-0\.1"), (float("nan"), "nan")]  # fmt: skip
    for weight_decay, facts in decays:
        with pytest.raises(ConfigError, match=facts):
            optimiser_of(toy(), weight_decay=weight_decay)
    with pytest.raises(ConfigError, match=r"Rprop.*wd=0\.1"):
        optimiser_of(toy(), opt_func="rprop", weight_decay=0.1)


def test_nothing_to_train_is_refused():
    model = toy()
    freeze_to((tuple(model.parameters()), ()), -1)
    with pytest.raises(TrainingError, match="1 parameter groups"):
        optimiser_of(model)
