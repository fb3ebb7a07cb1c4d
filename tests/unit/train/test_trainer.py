"""What a learner keeps, refuses and survives. Golden rates: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.errors import ConfigError, TrainingError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.groups import norm_parameters
from vizsla.train.callbacks.base import FitSettings
from vizsla.train.learner import Learner
from vizsla.train.losses import CrossEntropyLossFlat, balanced_class_weights
from vizsla.train.metrics import accuracy
from vizsla.train.step import TrainingStep, make_scaler
from vizsla.types import Batch, ImageTable

if TYPE_CHECKING:
    from vizsla.train.callbacks.base import Fit

FITS = {
    case["name"]: case
    for case in json.loads(
        (Path(__file__).resolve().parents[2] / "golden" / "schedules.json").read_text("utf-8")
    )["fits"]
}


def state_of(learner: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


# --- fits ------------------------------------------------------------------------------------------------------------


def spy(learner: Learner) -> list[tuple[dict[int, float], float]]:
    """Return what will be told to the optimiser at each step: rates by group, and the momentum."""
    told: list[tuple[dict[int, float], float]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.requires_grad and learner.opt is not None:
            groups = learner.opt.param_groups
            rates = {group["layer_group"]: group["lr"] for group in groups}
            told.append((rates, groups[0]["betas"][0]))
        return F.cross_entropy(logits, targets)

    learner.loss_func = loss
    return told


@pytest.mark.parametrize("name", ["flat_cos", "sgdr", "sgdr_mult3", "start_epoch", "one_cycle_3x4"])
def test_each_fit_gives_every_batch_the_golden_rates(
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
    rates = [row for phase in case["phases"] for row in phase["learning_rates"]]
    assert len(told) == len(rates)
    for step, ((found, _), expected) in enumerate(zip(told, rates, strict=True)):
        corrected = case.get("corrected_steps", {}).get(str(step))  # where the reference rounds
        expected = expected if corrected is None else [corrected] * len(expected)
        np.testing.assert_allclose(
            [found[group] for group in sorted(found)], expected, rtol=1e-5, atol=1e-9
        )


def test_cycles_of_one_length_begin_anew_at_every_epoch(make_learner: Any):
    learner = make_learner()
    learner.fit_sgdr(3, 1, 1e-2, cycle_mult=1)
    one = [1e-2 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    np.testing.assert_allclose(learner.recorder.lrs, one * 3, rtol=1e-9)
    assert learner.recorder.last.stage == "warm restarts"


def test_a_plain_fit_leaves_the_momentum_where_it_was(make_learner: Any):
    learner = make_learner()
    told = spy(learner)
    learner.fit_one_cycle(1, 1e-2, moms=(0.9, 0.8, 0.85))
    last = told[-1][1]
    learner.fit(1, 1e-3)
    assert {momentum for _, momentum in told[5:]} == {last}
    assert last != 0.9


def test_epochs_before_start_epoch_read_nothing_and_count_as_done(make_learner: Any):
    learner = make_learner()
    learner.fit_one_cycle(3, 1e-2, start_epoch=2)
    assert len(learner.recorder.losses) == 5
    assert len(learner.recorder.values) == 1
    whole = make_learner()
    whole.fit_one_cycle(3, 1e-2)
    assert learner.recorder.lrs == whole.recorder.lrs[10:]


def test_the_optimiser_lives_across_fits_unless_it_is_reset(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-3)
    first = learner.opt
    learner.fit(1, 1e-3)
    assert learner.opt is first
    assert {int(state["step"]) for state in first.state.values()} == {10}
    learner.fit(1, 1e-3, reset_opt=True)
    assert {int(state["step"]) for state in learner.opt.state.values()} == {5}


def test_freezing_and_unfreezing_start_the_optimiser_afresh(make_learner: Any):
    for change in ["freeze", "unfreeze"]:
        learner = make_learner()
        learner.fit(1, 1e-3)
        getattr(learner, change)()
        assert learner.opt is None


def test_weight_decay_is_that_of_the_fit_from_now_on(make_learner: Any):
    learner = make_learner(wd=0.01)

    def decays() -> set[float]:
        return {group["weight_decay"] for group in learner.opt.param_groups}

    learner.fit(1)
    assert decays() == {0.01, 0.0}
    learner.fit(1, wd=0.1)
    assert decays() == {0.1, 0.0}
    learner.fit(1)
    assert decays() == {0.1, 0.0}


@pytest.mark.parametrize("train_bn", [True, False])
def test_frozen_parameters_never_change_however_often_they_were_trained(
    make_learner: Any, train_bn: bool
):
    learner = make_learner(train_bn=train_bn, wd=0.1)
    for _ in range(2):  # the second freeze comes after gradients and averages were there
        learner.unfreeze()
        learner.fit(1, 1e-2)
        learner.freeze()
        norms = {id(value) for value in norm_parameters(learner.model)} if train_bn else set()
        head = {id(value) for value in learner.groups[-1]}
        before = {
            name: value.detach().clone()
            for name, value in learner.model.named_parameters()
            if id(value) not in norms | head
        }
        learner.fit(1, 1e-1)
        after = dict(learner.model.named_parameters())
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert len(before) > 5


def test_a_slice_the_wrong_way_round_says_what_it_did(make_learner: Any):
    with pytest.warns(UserWarning, match="0.01"):
        make_learner().fit(1, slice(1e-2, 1e-4))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_rates_and_files(make_learner: Any):
    steps = iter(range(100))
    rows: list[list[int]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets)
        return found * math.nan if logits.requires_grad and next(steps) == 3 else found

    from vizsla.train.callbacks.base import Callback

    class Rows(Callback):
        def after_step(self, fit: Fit) -> None:
            assert fit.batch is not None
            rows.append(fit.batch.rows.tolist())

    learner = make_learner(loss_func=loss)
    with pytest.raises(TrainingError) as error:
        learner.fit(1, slice(1e-4, 1e-2), cbs=Rows())
    files = ", ".join(learner.dls.table.shown_path(row) for row in rows[3])
    text = str(error.value)
    assert text.startswith(
        "The loss became nan at step 3 of 5, at learning rates group 0: 0.0001, group 1: 0.001, group 2: 0.01 "
    )
    assert files in text


def test_a_metric_that_raises_arrives_unchanged_and_the_learner_can_be_used(make_learner: Any):
    error = ZeroDivisionError("mine")
    broken = True

    def fussy(logits: Tensor, targets: Tensor) -> float:
        if broken:
            raise error
        return 0.5

    learner = make_learner(metrics=[accuracy, fussy])
    with pytest.raises(ZeroDivisionError) as raised:
        learner.fit(1)
    assert raised.value is error
    broken = False
    learner.fit(1)
    assert learner.recorder.values[-1][-1] == 0.5
    assert learner.recorder.metric_names == ("accuracy", "fussy")


def test_a_batch_of_one_with_batch_norm_is_refused_before_the_first_step(
    make_learner: Any, make_loaders: Any
):
    learner = make_learner(make_loaders(batch_size=1))
    with pytest.raises(TrainingError, match=r"Received: bs=1 and 20 training images\. Take bs=2"):
        learner.fit(1)
    learner = make_learner(make_loaders(num_valid=23))
    with pytest.raises(TrainingError, match="Received: bs=4 and 1 training images"):
        learner.fit(1)


def test_a_batch_of_one_trains_a_head_without_norms(make_loaders: Any):
    loaders = make_loaders(num_valid=22, batch_size=1)
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(backbone.num_features, 2)

        def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
            return self.linear(maps[-1].mean(dim=(2, 3)))

    model = Classifier(backbone, Head(), vocab=loaders.vocab)
    learner = Learner(loaders, model, train_bn=False, quiet=True)
    with pytest.raises(
        TrainingError, match=r"cannot be trained on 1 image of \(32, 32\) pixels.*bs=2"
    ):
        learner.fit(1)
    learner.freeze()  # the norms of the body too
    learner.fit(1)
    assert len(learner.recorder.losses) == 2
    assert all(map(math.isfinite, learner.recorder.losses))


def test_a_rate_that_cannot_work_is_refused(make_learner: Any):
    for method in ["fit", "fit_one_cycle", "fit_flat_cos"]:
        for lr in [0, 0.0, -1e-3, math.nan, math.inf]:
            learner = make_learner()
            with pytest.raises(ConfigError, match=r"(?i)learning rate"):
                getattr(learner, method)(1, lr)
            with pytest.raises(ConfigError, match=r"(?i)learning rate"):
                learner.fit_sgdr(1, 1, lr)
            assert learner.recorder.fits == []


def test_numbers_of_cycles_that_cannot_work_are_refused(make_learner: Any):
    for cycles in [
        {"n_cycles": 0},
        {"cycle_len": 0},
        {"cycle_mult": 0},
        {"n_cycles": 1.5},
        {"cycle_mult": -1},
    ]:
        with pytest.raises(ConfigError, match="Received"):
            make_learner().fit_sgdr(**{"n_cycles": 1, "cycle_len": 1, **cycles})


def test_options_of_a_learner_that_cannot_work_are_refused(make_loaders: Any):
    refused: list[dict[str, Any]] = [{"accumulate": 0}, {"clip": 0.0}, {"clip": -1.0}]
    for options in refused:
        loaders = make_loaders()
        model = plain_model(loaders)
        with pytest.raises(ConfigError, match="Received: accumulate="):
            Learner(loaders, model, splitter=one_group, **options)


# --- losses, weights, sampling ---------------------------------------------------------------------------------------


def plain_model(loaders: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, loaders.c),
    )


def one_group(model: nn.Module) -> list[list[nn.Parameter]]:
    return [list(model.parameters())]


def test_a_module_of_ones_own_trains_with_a_splitter(make_loaders: Any):
    loaders = make_loaders()
    learner = Learner(loaders, plain_model(loaders), splitter=one_group, quiet=True)
    learner.fit_one_cycle(1, 1e-2)
    assert len(learner.groups) == 1
    assert repr(learner.loss_func) == "FlattenedLoss of CrossEntropyLoss()"
    assert learner.predictions().logits.shape == (4, 2)


def uneven(table: ImageTable) -> ImageTable:
    """Return a table with 3 crosses and 9 discs to learn from, 4 pictures to validate on."""
    crosses, discs = ((table.targets == k).nonzero().flatten() for k in (0, 1))
    return ImageTable(
        root=table.root,
        paths=table.paths,
        targets=table.targets,
        vocab=table.vocab,
        train_rows=torch.cat([crosses[:3], discs[:9]]),
        valid_rows=torch.cat([crosses[-2:], discs[-2:]]),
    )


def test_class_weights_weigh_the_loss(table: ImageTable, make_learner: Any):
    loaders = DataLoaders(
        uneven(table), resize=Resize(32), batch_size=4, num_workers=0, device="cpu"
    )
    targets = loaders.table.targets[loaders.table.train_rows]
    weights = balanced_class_weights(targets, num_classes=2)
    assert (weights[0] / weights[1]).item() == pytest.approx(3.0)
    learner = make_learner(loaders, loss_func=CrossEntropyLossFlat(weight=weights), dropout=0.0)
    learner.fit(1, 1e-12)
    predictions = learner.predictions()
    expected = F.cross_entropy(predictions.logits, predictions.targets, weight=weights)
    assert learner.recorder.values[0][1] == pytest.approx(float(expected), abs=1e-6)


def test_balanced_loaders_show_all_classes_equally_often(table: ImageTable, make_learner: Any):
    from vizsla.train.callbacks.base import Callback

    seen: list[Tensor] = []

    class Targets(Callback):
        def after_step(self, fit: Fit) -> None:
            assert fit.batch is not None
            seen.append(fit.batch.targets)

    loaders = DataLoaders(
        uneven(table),
        resize=Resize(32),
        batch_size=4,
        num_workers=0,
        device="cpu",
        balanced=True,
    )
    learner = make_learner(loaders)
    learner.fit(2, cbs=Targets())
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).bincount().tolist() == [6, 6]


# --- precision and compiling -----------------------------------------------------------------------------------------


def test_a_step_in_fp16_needs_no_scaler_on_a_cpu():
    linear = nn.Linear(12, 2)
    network = nn.Sequential(nn.Flatten(), linear)
    before = linear.weight.detach().clone()
    step = TrainingStep(
        network,
        loss_function=F.cross_entropy,
        optimiser=torch.optim.SGD(network.parameters(), lr=0.1),
        precision="fp16",
        settings=FitSettings(clip=1.0),
    )
    assert make_scaler("fp16").is_enabled() is torch.cuda.is_available()
    batch = Batch(
        images=torch.rand(4, 3, 2, 2), targets=torch.tensor([0, 1, 0, 1]), rows=torch.arange(4)
    )
    loss = step(batch)
    assert loss.dtype == torch.float32
    assert not torch.equal(linear.weight, before)


def test_precisions_are_chosen_by_word(make_learner: Any):
    learner = make_learner()
    assert learner.to_bf16() is learner
    assert learner.precision == "bf16"
    assert learner.to_fp32() is learner
    assert learner.precision == "fp32"
    assert learner.to_fp16() is learner
    assert learner.precision == "fp32"  # on a CPU it would only be slower


@pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch compiles for the CPU with a C++ compiler"
)
def test_a_compiled_network_trains_as_the_plain_one(make_loaders: Any):
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config

    def losses(*, compiled: bool) -> list[float]:
        torch.manual_seed(0)
        loaders = make_loaders(num_valid=4)
        learner = Learner(
            loaders, plain_model(loaders), splitter=one_group, compile=compiled, quiet=True
        )
        learner.fit(1, 1e-2)
        learner.fit(1, 1e-2)  # compiled once
        return learner.recorder.losses

    # What torch has kept of earlier compilations may be for other instructions than it uses today, and then fails.
    with (
        inductor_config.patch(fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        compiled = losses(compiled=True)
    torch.testing.assert_close(
        torch.tensor(compiled), torch.tensor(losses(compiled=False)), rtol=1e-4, atol=1e-5
    )


def test_a_snapshot_puts_everything_back(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 1e-2)
    snapshot = learner.snapshot()
    before = state_of(learner)
    steps = {int(state["step"]) for state in learner.opt.state.values()}
    learner.freeze()
    learner.fit(1, 1e-1)
    learner.restore(snapshot)
    assert all(torch.equal(value, before[name]) for name, value in state_of(learner).items())
    assert all(value.requires_grad for value in learner.model.parameters())
    assert {int(state["step"]) for state in learner.opt.state.values()} == steps
