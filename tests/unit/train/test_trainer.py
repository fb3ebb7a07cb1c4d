"""Fits: rates, freezing, the optimiser, what is refused, what survives an error. Golden rates: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import (
    Callback,
    ConfigError,
    CrossEntropyLossFlat,
    DataLoaders,
    Learner,
    Resize,
    TrainingError,
    accuracy,
    aug_transforms,
    balanced_class_weights,
    error_rate,
)
from vizsla.models import (
    Classifier,
    ConcatPoolHead,
    FeatureHead,
    build_backbone,
    norm_parameters,
)
from vizsla.train import SmoothedLoss, resolve_precision

if TYPE_CHECKING:
    from vizsla.train.callbacks import Fit
    from vizsla.types import ImageTable

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "schedules.json").read_text("utf-8"))
FITS = {case["name"]: case for case in GOLDEN["fits"] if case["method"] != "lr_find"}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def changed(before: dict[str, Tensor], learner: Learner) -> set[str]:
    after = learner.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def steps_of(optimiser: Any) -> set[int]:
    return {int(state["step"]) for state in optimiser.state.values()}


def spy(learner: Learner) -> list[tuple[list[float], float]]:
    """Return what the optimiser is told at each step: the rate of each layer group, and the momentum."""
    told: list[tuple[list[float], float]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.requires_grad and learner.opt is not None:
            groups = learner.opt.param_groups
            rates = {group["layer_group"]: group["lr"] for group in groups}
            (momentum,) = {group["betas"][0] for group in groups}
            told.append(([rates[group] for group in sorted(rates)], momentum))
        return F.cross_entropy(logits, targets)

    learner.loss_func = loss
    return told


# --- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_each_fit_has_the_golden_rates_and_momentum(
    make_learner: Any, make_loaders: Any, name: str
):
    case = FITS[name]
    learner = make_learner(make_loaders(batch_size=20 // case["batches_per_epoch"]))
    told = spy(learner)
    assert len(learner.dls.train) == case["batches_per_epoch"]
    arguments = {
        key: slice(*value["slice"]) if isinstance(value, dict) else value
        for key, value in case["arguments"].items()
    }
    getattr(learner, case["method"])(**arguments)
    rates = np.concatenate([phase["learning_rates"] for phase in case["phases"]])
    momenta = [momentum for phase in case["phases"] for momentum in phase["momenta"]]
    for step, corrected in case.get("corrected_steps", {}).items():  # where the reference rounds
        rates[int(step)] = corrected
    # The reference rounds positions to float32, which near the end of a cosine is more than a millionth of the rate there.
    found = np.array([row for row, _ in told])
    assert (np.abs(found - rates) <= 1e-6 * (rates + rates.max(axis=0))).all()
    np.testing.assert_allclose([momentum for _, momentum in told], momenta, rtol=1e-5)
    assert learner.recorder.lrs == found[:, -1].tolist()


def test_fine_tune_keeps_the_history_of_both_phases(make_learner: Any):
    learner = make_learner(metrics=[accuracy, error_rate])
    learner.fine_tune(2)
    learner.fit(1)
    points = learner.recorder.history
    assert [point.stage for point in points] == ["frozen", "unfrozen", "unfrozen", "fit"]
    assert [point.epoch for point in points] == [0, 1, 2, 3]
    assert len(learner.recorder.losses) == len(learner.recorder.lrs) == 20
    assert learner.recorder.value_names[2:] == ("accuracy", "error_rate")
    for point, values in zip(points, learner.recorder.values, strict=True):
        assert values[:2] == [point.train_loss, point.valid_loss]
        assert values[2] == point.accuracy == 1 - values[3]
        assert point.seconds > 0


def test_the_training_loss_is_smoothed_over_the_fit(make_learner: Any):
    learner = make_learner()
    learner.fit(2)
    learner.fit(1)
    for epoch, steps in enumerate([slice(5), slice(10), slice(10, 15)]):
        smoothed = SmoothedLoss()
        smoothed.add(learner.recorder.losses[steps])
        assert learner.recorder.history[epoch].train_loss == smoothed.value


def test_fine_tune_learns(make_learner: Any):
    learner = make_learner(metrics=accuracy, dropout=0.0)
    before = learner.validate(0)
    # With 6 epochs of 2e-2, one seed of three ended with a higher loss than it began.
    learner.fine_tune(20, base_lr=1e-2)
    after = learner.validate(0)
    # From 0.69 to between 0.06 and 0.11, all images right: five seeds, with and without vector instructions.
    assert after[0] < before[0] / 2
    assert after[1] > 0.8


def test_cycles_of_one_length_restart_at_every_epoch(make_learner: Any):
    learner = make_learner()
    learner.fit_sgdr(3, 1, 1e-2, cycle_mult=1)
    one = [1e-2 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    np.testing.assert_allclose(learner.recorder.lrs, one * 3, rtol=1e-9)
    assert learner.recorder.last.stage == "warm restarts"


@pytest.mark.parametrize("train_bn", [True, False])
def test_a_frozen_body_trains_its_norms_or_nothing(make_learner: Any, train_bn: bool):
    def is_statistic(name: str) -> bool:
        return name.endswith(("running_mean", "running_var", "num_batches_tracked"))

    learner = make_learner(train_bn=train_bn, wd=0.3)
    norms = {id(value) for value in norm_parameters(learner.model)}
    parameters = dict(learner.model.named_parameters())
    head = {name for name in parameters if name.startswith("head.")}
    for _ in range(2):  # the second freeze comes after gradients and averages existed
        learner.unfreeze()
        before = state_of(learner)
        learner.fit(1, 1e-2)
        assert parameters.keys() <= changed(before, learner)
        learner.freeze()
        before = state_of(learner)
        learner.fit(1, 1e-1)
        moved = changed(before, learner)
        body = {name for name in moved if name.startswith("backbone.")}
        assert head <= moved
        assert any(is_statistic(name) for name in moved - body)
        assert any(is_statistic(name) for name in body) == train_bn
        allowed = {n for n, v in parameters.items() if id(v) in norms and train_bn} - head
        assert {name for name in body if not is_statistic(name)} == allowed


def test_the_optimiser_lives_until_it_is_reset_or_something_is_frozen(make_learner: Any):
    learner = make_learner()
    told = spy(learner)
    learner.fit_one_cycle(1, 1e-2, moms=(0.9, 0.8, 0.85))
    first = learner.opt
    learner.fit(1, 1e-3)
    assert learner.opt is first
    assert steps_of(first) == {10}
    # A fit at a constant rate leaves the momentum where the cycle ended.
    momenta = [momentum for _, momentum in told]
    assert set(momenta[5:]) == {momenta[4]} != {0.9}
    learner.fit(1, 1e-3, reset_opt=True)
    assert steps_of(learner.opt) == {5}
    for change in (learner.freeze, learner.unfreeze):
        change()
        assert learner.opt is None
        learner.fit(1, 1e-3)


def test_a_fit_may_set_the_weight_decay_from_now_on(make_learner: Any):
    learner = make_learner(wd=0.01)
    for options, expected in (({}, 0.01), ({"wd": 0.1}, 0.1), ({}, 0.1)):
        learner.fit(1, **options)
        assert {group["weight_decay"] for group in learner.opt.param_groups} == {expected, 0.0}
    learner.create_opt(wd=0.3)
    assert {group["weight_decay"] for group in learner.opt.param_groups} == {0.3, 0.0}
    assert learner.wd == 0.1


def test_freeze_to_counts_groups_from_either_end(make_learner: Any):
    learner = make_learner(train_bn=False)
    for n, expected in [(-1, [0, 0, 1]), (1, [0, 1, 1]), (-2, [0, 1, 1]), (0, [1, 1, 1])]:
        learner.freeze_to(n)
        trains = [all(value.requires_grad for value in group) for group in learner.groups]
        assert trains == expected
    with pytest.raises(ConfigError, match=r"freeze_to\(-4\)"):
        learner.freeze_to(-4)


def test_a_snapshot_puts_everything_back(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-2)
    snapshot, before, steps = learner.snapshot(), state_of(learner), steps_of(learner.opt)
    learner.freeze()
    learner.fit(1, 1e-1)
    learner.restore(snapshot)
    assert changed(before, learner) == set()
    assert all(value.requires_grad for value in learner.model.parameters())
    assert steps_of(learner.opt) == steps


# --- what is refused, and what survives ------------------------------------------------------------------------------

NO_EPOCHS = [0, -1, 1.5, True, "2", None]
NO_RATES: list[Any] = [0, -1e-3, math.nan, math.inf, [1e-3, 1e-3], slice(1e-3, None)]


def test_arguments_that_cannot_work_are_refused_before_the_first_step(make_learner: Any):
    learner = make_learner()
    epochs = [(n,) for n in NO_EPOCHS]
    fits = [*epochs, *((1, lr) for lr in NO_RATES)]
    cycles = [(0, 1), (1, 0), (1.5, 1), (1, 1, None, 0), (1, 1, None, -1)]
    for method, calls in {
        **dict.fromkeys(("fit", "fit_one_cycle", "fit_flat_cos"), fits),
        "fine_tune": epochs,
        "fit_sgdr": [*cycles, *((1, 1, lr) for lr in NO_RATES)],
    }.items():
        for arguments in calls:
            with pytest.raises(ConfigError):
                getattr(learner, method)(*arguments)
    assert learner.recorder.fits == []


def test_fine_tune_checks_both_phases_before_its_first_step(make_learner: Any):
    learner = make_learner()
    refused: list[dict[str, Any]] = [
        *({"freeze_epochs": 0}, {"lr_mult": 0}, {"lr_mult": -100}, {"lr_mult": math.nan}),
        *({"base_lr": -1e-3}, {"div": 0}, {"pct_start": 2}, {"moms": (1.0, 0.9, 0.9)}),
        {"lr_max": 1e-3},
    ]
    for options in refused:
        with pytest.raises(ConfigError, match="Received"):
            learner.fine_tune(1, **options)
    assert learner.recorder.losses == []
    assert all(parameter.requires_grad for parameter in learner.model.parameters())


def test_options_of_a_learner_that_cannot_work_are_refused(make_learner: Any, make_loaders: Any):
    refused: list[dict[str, Any]] = [
        *({"accumulate": 0}, {"clip": 0.0}, {"clip": -1.0}),
        *({"precision": "half"}, {"precision": ""}, {"precision": "BF16"}, {"precision": None}),
    ]
    for options in refused:
        with pytest.raises(ConfigError, match=re.escape(repr(*options.values()))):
            make_learner(**options)
    for vocab in [("disc", "cross"), ("cross", "disc", "star"), ("a", "b")]:
        backbone = build_backbone("test_resnet", pretrained=False)
        head = ConcatPoolHead(backbone.num_features, len(vocab))
        with pytest.raises(ConfigError, match=f"{len(vocab)} classes .*{vocab[0]}"):
            Learner(make_loaders(), Classifier(backbone, head, vocab=vocab))


def test_a_slice_the_wrong_way_round_warns(make_learner: Any):
    with pytest.warns(UserWarning, match=r"0\.01"):
        make_learner().fit(1, slice(1e-2, 1e-4))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"num_valid": 24}, "no training images"),
        ({"batch_size": 1}, "bs=1 and 20"),
        ({"num_valid": 23}, "bs=4 and 1 "),
    ],
)
def test_too_few_images_are_refused_before_the_first_step(
    make_learner: Any, make_loaders: Any, options: dict[str, Any], fact: str
):
    learner = make_learner(make_loaders(**options))
    with pytest.raises(TrainingError, match=fact):
        learner.fit(1)
    assert learner.recorder.losses == []


def test_a_batch_of_one_trains_a_head_without_norms(make_loaders: Any):
    loaders = make_loaders(num_valid=22, batch_size=1)
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    channels = backbone.stage_channels[-1]
    head = FeatureHead(stages=(-1,), statistics=("mean",), num_features=channels, num_classes=2)
    model = Classifier(backbone, head, vocab=loaders.vocab)
    learner = Learner(loaders, model, train_bn=False, quiet=True)
    with pytest.raises(TrainingError, match=r"1 image of \(32, 32\) pixels"):
        learner.fit(1)
    learner.freeze()  # the norms of the body too
    learner.fit(1)
    assert len(learner.recorder.losses) == 2
    assert all(map(math.isfinite, learner.recorder.losses))


def test_fewer_images_than_a_batch_still_train(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(batch_size=64))
    learner.fit(2)
    assert len(learner.recorder.losses) == 2


def test_without_validation_images_it_still_trains(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_valid=0), metrics=error_rate)
    learner.fit(1)
    assert len(learner.recorder.losses) == 6
    assert math.isfinite(learner.recorder.values[0][0])
    assert all(map(math.isnan, learner.recorder.values[0][1:]))


def failing(step: int, *, error: BaseException) -> Any:
    """Return a loss function that raises an error at one training step."""
    steps = iter(range(1000))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets)
        if logits.requires_grad and next(steps) == step:
            raise error
        return found

    return loss


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_error_in_a_step_arrives_unchanged_and_ends_the_reading_threads(
    make_learner: Any, make_loaders: Any, error: BaseException
):
    loaders = make_loaders(num_workers=2, batch_size=2)
    learner = make_learner(loaders, loss_func=failing(1, error=error))
    threads, random = set(threading.enumerate()), torch.get_rng_state()
    with pytest.raises(type(error)) as raised:
        learner.fit(1)
    assert raised.value is error
    assert set(threading.enumerate()) == threads
    assert torch.equal(torch.get_rng_state(), random)
    learner.fit(1)  # the learner can still be used
    assert len(learner.recorder.history) == 1


def test_an_error_in_a_metric_arrives_unchanged(make_learner: Any):
    error = ZeroDivisionError("mine")
    answers = iter([error, 0.5])

    def fussy(logits: Tensor, targets: Tensor) -> float:
        answer = next(answers)
        if isinstance(answer, ZeroDivisionError):
            raise answer
        return answer

    learner = make_learner(metrics=[accuracy, fussy])
    with pytest.raises(ZeroDivisionError) as raised:
        learner.fit(1)
    assert raised.value is error
    learner.fit(1)
    assert learner.recorder.values[-1][-1] == 0.5
    assert learner.recorder.value_names[2:] == ("accuracy", "fussy")


def test_a_fit_prints_a_table_unless_it_is_quiet(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    make_learner(quiet=True).fine_tune(1)
    assert capsys.readouterr() == ("", "")
    learner = make_learner(metrics=error_rate, quiet=False)
    learner.fine_tune(2)
    text = capsys.readouterr().out
    header = r"epoch     train_loss  valid_loss  error_rate  time\n"
    row = r"%d         \d\.\d{6}    \d\.\d{6}    \d\.\d{6}    \d\d:\d\d\n"
    assert re.fullmatch(header + row % 0 + header + row % 0 + row % 1, text)
    last = text.splitlines()[-1].split()
    assert last[1:4] == [f"{value:.6f}" for value in learner.recorder.values[-1]]


# --- random numbers --------------------------------------------------------------------------------------------------


def test_a_run_follows_from_its_seed_bit_for_bit(make_learner: Any, make_loaders: Any):
    def trained(**options: Any) -> tuple[list[float], dict[str, Tensor]]:
        torch.rand(1)  # what others draw plays no part
        learner = make_learner(make_loaders(transforms=aug_transforms(size=32), **options))
        learner.fine_tune(1)
        return learner.recorder.losses, state_of(learner)

    losses, state = trained()
    for num_workers in (0, 3):
        again, same = trained(num_workers=num_workers)
        assert again == losses
        assert all(torch.equal(value, state[name]) for name, value in same.items())
    assert trained(seed=1)[0] != losses


def test_dropout_differs_from_epoch_to_epoch(make_learner: Any, make_loaders: Any):
    # At a rate of next to nothing and one batch of whole images, only dropout makes two epochs differ.
    def losses(dropout: float) -> list[float]:
        learner = make_learner(make_loaders(batch_size=20, method="squish"), dropout=dropout)
        learner.fit(3, 1e-12)
        return learner.recorder.losses

    assert np.ptp(losses(0.0)) < 1e-4
    assert np.ptp(losses(0.5)) > 1e-3


def test_two_learners_share_loaders(make_learner: Any, make_loaders: Any):
    loaders = make_loaders()
    first = make_learner(loaders)
    expected = make_learner(make_loaders()).get_preds()[0]
    first.fit(1, 0.05)
    assert torch.equal(make_learner(loaders).get_preds()[0], expected)


# --- networks, losses and sampling of one's own ----------------------------------------------------------------------


def plain_learner(loaders: Any, **options: Any) -> Learner:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, loaders.c),
    )
    return Learner(
        loaders, model, splitter=lambda model: [list(model.parameters())], quiet=True, **options
    )


def test_a_users_module_trains_with_a_splitter(make_loaders: Any):
    learner = plain_learner(make_loaders())
    learner.fit_one_cycle(1, 1e-2)
    assert len(learner.groups) == 1
    assert repr(learner.loss_func) == "FlattenedLoss of CrossEntropyLoss()"
    assert learner.predictions().logits.shape == (4, 2)


def uneven_loaders(table: ImageTable, **options: Any) -> DataLoaders:
    """Return loaders of 3 crosses and 9 discs to train on, 4 images to validate on."""
    crosses, discs = ((table.targets == k).nonzero().flatten() for k in (0, 1))
    table = replace(
        table,
        train_rows=torch.cat([crosses[:3], discs[:9]]),
        valid_rows=torch.cat([crosses[-2:], discs[-2:]]),
    )
    return DataLoaders(
        table, resize=Resize(32), batch_size=4, num_workers=0, device="cpu", **options
    )


def test_class_weights_weigh_the_loss(table: ImageTable, make_learner: Any):
    loaders = uneven_loaders(table)
    targets = loaders.table.targets[loaders.table.train_rows]
    weights = balanced_class_weights(targets, num_classes=2)
    assert (weights[0] / weights[1]).item() == pytest.approx(3.0)
    learner = make_learner(loaders, loss_func=CrossEntropyLossFlat(weight=weights), dropout=0.0)
    learner.fit(1, 1e-12)
    predictions = learner.predictions()
    expected = F.cross_entropy(predictions.logits, predictions.targets, weight=weights)
    assert learner.recorder.values[0][1] == pytest.approx(float(expected), abs=1e-6)


def test_loaders_that_balance_by_weights_bring_the_loss(table: ImageTable, make_learner: Any):
    loaders = uneven_loaders(table, balance="weights")
    weights = balanced_class_weights(loaders)
    targets = loaders.table.targets[loaders.table.train_rows]
    assert torch.equal(weights, balanced_class_weights(targets, 2))
    losses: list[Any] = [make_learner(loaders, loss_func=None).loss_func, loaders.loss_func]
    assert all(torch.equal(loss.weight, weights) for loss in losses)
    for options in ({"loss_func": CrossEntropyLossFlat()}, {"loss_func": F.cross_entropy}):
        with pytest.raises(ConfigError, match="balance"):
            make_learner(loaders, **options)
    with pytest.raises(ConfigError, match="num_classes"):
        balanced_class_weights(targets)


def test_balanced_loaders_show_all_classes_equally_often(table: ImageTable, make_learner: Any):
    seen: list[Tensor] = []

    class Targets(Callback):
        def after_step(self, fit: Fit) -> None:
            assert fit.batch is not None
            seen.append(fit.batch.targets)

    make_learner(uneven_loaders(table, balance="sample")).fit(2, cbs=Targets())
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).bincount().tolist() == [6, 6]


def test_what_is_no_metric_is_refused_when_the_learner_is_made(make_learner: Any):
    for wrong, facts in (
        ("accuracy", "metrics=accuracy"),
        (["accuracy"], "'accuracy'"),
        (type("Needy", (), {"__init__": lambda self, k: None}), r"metrics=Needy\(\.\.\.\)"),
        ([accuracy, 5], "Received: 5"),
    ):
        with pytest.raises(ConfigError, match=facts):
            make_learner(metrics=wrong)
    with pytest.raises(ConfigError, match=r"2 classes.*cross, disc.*\(3,\)"):
        make_learner(loss_func=CrossEntropyLossFlat(weight=[1, 1, 1]))


# --- precision and compiling -----------------------------------------------------------------------------------------


def test_precisions_are_chosen_by_method(make_learner: Any):
    learner = make_learner()
    for method, expected in (("to_bf16", "bf16"), ("to_fp32", "fp32"), ("to_fp16", "fp32")):
        assert getattr(learner, method)() is learner
        assert learner.precision == expected  # fp16 would only be slower on a CPU


def test_auto_follows_the_device_and_the_network():
    norms = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for wish, device, model, expected in [
        ("auto", CPU, None, "fp32"),
        ("auto", CPU, norms, "fp32"),
        ("auto", torch.device("mps"), None, "fp32"),
        ("auto", CUDA, None, "bf16"),
        ("auto", CUDA, norms, "fp16"),
        ("auto", CUDA, nn.LayerNorm(4), "bf16"),
        ("fp32", CUDA, None, "fp32"),
        ("bf16", CUDA, norms, "bf16"),
        ("bf16", CPU, None, "bf16"),
        ("fp16", CUDA, None, "fp16"),
        ("fp16", CPU, None, "fp32"),
    ]:
        assert resolve_precision(wish, device=device, model=model) == expected


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch compiles for the CPU with a C++ compiler"
)
def test_a_compiled_network_trains_as_the_plain_one(make_loaders: Any):
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config

    def losses(*, compiled: bool) -> Tensor:
        torch.manual_seed(0)
        learner = plain_learner(make_loaders(), compile=compiled)
        learner.fit(1, 1e-2)
        learner.fit(1, 1e-2)  # compiled once
        return torch.tensor(learner.recorder.losses)

    # What torch has kept of earlier compilations may be for other instructions than it uses today, and then fails.
    with (
        inductor_config.patch(fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        compiled = losses(compiled=True)
    torch.testing.assert_close(compiled, losses(compiled=False), rtol=1e-4, atol=1e-5)
