"""The training loop and its step: against plain torch, when something goes wrong, profiled, and from CUDA graphs."""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
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
    EMACallback,
    LabelSmoothingCrossEntropy,
    MixUp,
    TrainingError,
    aug_transforms,
)
from vizsla.train import (
    STEP_PHASES,
    STEPS_BEFORE,
    VALIDATION,
    CapturedGradients,
    Display,
    SmoothedLoss,
    StepProfile,
    TrainingStep,
    build_optimiser,
    has_hooks,
    is_known,
    loop,
    rehearsal,
    step_copied_unless,
    step_fused_unless,
    step_unless,
)
from vizsla.train.callbacks import Fit, FitSettings
from vizsla.train.rates import one_cycle
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    LossFunction = Callable[[Tensor, Tensor], Tensor]

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "training.json").read_text("utf-8"))
NUM_BATCHES = 5  # of four images each
PEAKS = [0.005, 0.02, 0.05]


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


def batch_of(first: int, end: int) -> Batch:
    """Return some of ten images of noise."""
    random = torch.Generator().manual_seed(4)
    return Batch(
        images=torch.rand(10, 3, 8, 8, generator=random)[first:end],
        targets=torch.randint(3, (10,), generator=random)[first:end],
        rows=torch.arange(first, end),
    )


class Bar(Display):
    """A display that notes where its bar was moved to."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.moved: list[int] = []

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[Any]:
        yield lambda done, _note="": self.moved.append(done)


# --- the loop --------------------------------------------------------------------------------------------------------


def test_a_fit_is_a_plain_loop_of_torch_bit_for_bit(make_learner: Any):
    learner = make_learner(dropout=0.0)
    plain = deepcopy(learner.model).train()
    group_of = {id(value): place for place, group in enumerate(learner.groups) for value in group}
    pairs = zip(learner.model.parameters(), plain.parameters(), strict=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": [own], "group": group_of[id(value)], "weight_decay": 0.01 * (own.ndim > 1)}
            for value, own in pairs
        ],
        eps=1e-5,
        fused=True,
    )
    schedule = one_cycle(NUM_BATCHES, peak_rates=PEAKS)
    expected: list[float] = []
    for step, batch in enumerate(learner.dls.train.batches()):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rates_at(step)[group["group"]]
            group["betas"] = (schedule.momentum_at(step), 0.99)
        optimiser.zero_grad()
        loss = F.cross_entropy(plain(batch.images), batch.targets)
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    learner.fit_one_cycle(1, PEAKS)
    assert learner.recorder.losses == expected
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def infinite_at(step: int, value: float) -> LossFunction:
    """Return a loss function whose result is ``value`` at one training step."""
    calls = iter(range(1000))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets)
        return found * value if logits.requires_grad and next(calls) == step else found

    return loss


class StopAt(Callback):
    """Ends a fit after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, fit: Fit) -> None:
        if fit.step == self.step:
            fit.stop("Enough.")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_and_moves_no_weight(make_learner: Any, value: float):
    for step in (0, 2, NUM_BATCHES - 1):
        learner, stopped = make_learner(loss_func=infinite_at(step, value)), make_learner()
        with pytest.raises(TrainingError) as error:
            learner.fit_one_cycle(1, PEAKS)
        rates = one_cycle(NUM_BATCHES, peak_rates=PEAKS).rates_at(step)
        message = str(error.value)
        assert f" {value} at step {step} of {NUM_BATCHES}," in message
        assert f"group 0: {rates[0]:.3g}, group 1: {rates[1]:.3g}, " in message
        batch = list(learner.dls.train.batches())[step]
        assert all(learner.dls.table.paths[row].name in message for row in batch.rows.tolist())
        if step:
            stopped.fit_one_cycle(1, PEAKS, cbs=StopAt(step))
        pairs = zip(learner.model.named_parameters(), stopped.model.parameters(), strict=True)
        for (name, weight), expected in pairs:
            assert torch.equal(weight, expected), name


def test_a_loss_that_is_not_finite_in_a_later_epoch_or_step(make_learner: Any, make_loaders: Any):
    learner = make_learner(loss_func=infinite_at(7, math.nan))
    with pytest.raises(TrainingError, match="nan at step 7 of 10"):
        learner.fit(2, 1e-2)
    assert len(learner.recorder.history) == 1
    with pytest.raises(ConfigError, match="not finite"):  # of the very last step, by the validation
        make_learner(make_loaders(batch_size=20)).fit(1, 1e30)


def test_reading_the_losses_after_every_step_changes_none(
    make_learner: Any, monkeypatch: pytest.MonkeyPatch
):
    seldom, often = make_learner(), make_learner()
    seldom.fit(1)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", -1.0)
    often.display = bar = Bar()
    often.fit(1)
    assert often.recorder.losses == seldom.recorder.losses
    assert bar.moved[: NUM_BATCHES + 1] == [*range(1, NUM_BATCHES + 1), NUM_BATCHES]
    steps: list[int] = []

    class Steps(Callback):
        def after_step(self, fit: Fit) -> None:
            steps.append(fit.step)

    with pytest.raises(TrainingError, match="at step 2"):
        make_learner(loss_func=infinite_at(2, math.nan)).fit(1, cbs=Steps())
    assert steps == [1, 2, 3]


def test_losses_are_smoothed_as_recorded():
    assert math.isnan(SmoothedLoss().value)
    for case in GOLDEN["smoothed_losses"]:
        one_by_one, at_once = SmoothedLoss(beta=case["beta"]), SmoothedLoss(beta=case["beta"])  # pyright: ignore[reportArgumentType] (a number)
        found = [one_by_one.add([loss])[0] for loss in case["losses"]]
        np.testing.assert_allclose(found, case["smoothed"], atol=1e-5)
        assert at_once.add(case["losses"]) == found
        assert at_once.value == one_by_one.value == found[-1]


# --- the step --------------------------------------------------------------------------------------------------------


def weights_after(
    network: nn.Sequential, given: list[Batch], *, clip: float | None = None, **options: Any
) -> dict[str, Tensor]:
    """Return the weights after one step of the optimiser over these batches."""
    step = TrainingStep(
        network,
        loss_function=F.cross_entropy,
        optimiser=torch.optim.SGD(network.parameters(), lr=1.0),
        settings=FitSettings(accumulate=len(given), clip=clip),
        **options,
    )
    for batch in given:
        step(batch)
    return network.state_dict()


def near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_accumulated_batches_of_unequal_size_count_as_one_large_batch(clip: float | None):
    parts = [batch_of(0, 6), batch_of(6, 8), batch_of(8, 10)]
    expected = weights_after(small_network(), [batch_of(0, 10)], clip=clip)
    found = weights_after(small_network(), parts, clip=clip)
    near(found, expected)
    if clip is not None:
        start = small_network().state_dict()
        moved = torch.cat([(found[name] - start[name]).flatten() for name in start])
        assert float(moved.norm()) == pytest.approx(clip, rel=1e-3)


class SmallMemory(nn.Sequential):
    """A network whose device has memory for a few images."""

    most = 2

    def forward(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] (names)
        if len(images) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(images)}")
        return super().forward(images)


def test_a_batch_that_does_not_fit_goes_through_in_parts():
    said: list[str] = []
    batch = batch_of(0, 5)
    expected = weights_after(small_network(), [batch])
    network = SmallMemory(*small_network())
    near(weights_after(network, [batch], say=said.append), expected)
    assert ["in 2 parts" in said[0], "in 4 parts" in said[1], len(said)] == [True, True, 2]
    network.most = 0
    with pytest.raises(TrainingError, match=r" 1 images of \(8, 8\) pixels"):
        weights_after(network, [batch])


def test_every_way_to_skip_a_step_skips_it_and_otherwise_takes_it():
    """The ways of other devices, on a CPU."""

    def moved(take: Callable[[torch.optim.Optimizer], object], *, factor: float) -> list[Tensor]:
        network, batch = small_network(), batch_of(0, 5)
        optimiser = build_optimiser(network, (tuple(network.parameters()),))
        for _ in range(2):
            loss = F.cross_entropy(network(batch.images), batch.targets)
            (loss * factor).backward()
            take(optimiser)
            optimiser.zero_grad()
        return [value.detach() for value in network.parameters()]

    no, yes = torch.tensor(False), torch.tensor(True)  # noqa: FBT003 (values)
    plain = moved(lambda optimiser: optimiser.step(), factor=1.0)
    start = list(small_network().parameters())
    for step in [step_unless, step_fused_unless, step_copied_unless]:
        kept = moved(partial(step, yes), factor=math.nan)
        same = moved(partial(step, no), factor=1.0)
        for expected, found in ((plain, same), (start, kept)):
            assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


def test_bf16_trains_nearly_as_float32(make_learner: Any):
    exact, rough = (make_learner(precision=name, dropout=0.0) for name in ("fp32", "bf16"))
    for learner in (exact, rough):
        learner.fit(1, 1e-3)
        assert {value.dtype for value in learner.model.parameters()} == {torch.float32}
    assert rough.recorder.losses[0] != exact.recorder.losses[0]
    assert rough.recorder.losses[0] == pytest.approx(exact.recorder.losses[0], abs=0.02)


# --- the profile -----------------------------------------------------------------------------------------------------


def test_a_profile_times_every_phase_and_prints_a_table(
    make_learner: Any, make_loaders: Any, capsys: pytest.CaptureFixture[str]
):
    class Looks(Callback):
        def after_step(self, fit: Fit) -> None:
            assert fit.settings.eager  # a replayed step cannot be looked into

    learn = make_learner(make_loaders(transforms=aug_transforms(size=32)))
    learn.display, learn.show_table = Display(), False
    profile = StepProfile()
    learn.fit(2, 1e-3, cbs=[profile, Looks()])
    assert profile.num_steps == 10
    assert profile.seconds.keys() == {*STEP_PHASES, VALIDATION}
    assert all(seconds >= 0 for seconds in profile.seconds.values())
    for phase in ("waiting for data", "augmentation", "forward", "backward", "optimiser"):
        assert profile.milliseconds(phase) > 0
    rows = profile.rows()
    assert [name for name, _, _ in rows] == [*STEP_PHASES, "whole step"]
    assert rows[-1][2] == "100.0%"
    assert float(rows[-1][1]) == pytest.approx(sum(float(row[1]) for row in rows[:-1]), abs=0.05)
    printed = capsys.readouterr().out
    assert all(text in printed for row in rows for text in row)


def test_a_profiled_fit_has_the_same_results(make_learner: Any, make_loaders: Any):
    loaders = make_loaders(transforms=aug_transforms(size=32))
    plain, profiled = make_learner(loaders), make_learner(loaders)
    plain.fit(1, 1e-3)
    profiled.fit(1, 1e-3, cbs=StepProfile())
    pairs = zip(plain.model.parameters(), profiled.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# --- CUDA graphs -----------------------------------------------------------------------------------------------------

gpu = pytest.mark.gpu


class OwnLoss(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)


def test_only_parts_of_known_packages_are_known():
    class Own(nn.Module):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    losses = nn.CrossEntropyLoss(), F.cross_entropy, CrossEntropyLossFlat(), LabelSmoothingCrossEntropy()  # fmt: skip
    assert all(is_known(model, loss) for loss in losses)
    assert not is_known(nn.Sequential(Own()), nn.CrossEntropyLoss())
    assert not is_known(model, OwnLoss())
    assert not is_known(model, lambda logits, _targets: logits.sum())


def test_hooks_are_noticed():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert not has_hooks(model)
    handle = model[1].register_forward_hook(lambda *_: None)
    assert has_hooks(model)
    handle.remove()
    assert not has_hooks(model)
    model[0].register_full_backward_hook(lambda *_: None)
    assert has_hooks(model)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every step from a graph."""
    count: list[int] = []
    whole = CapturedGradients.__call__

    def call(self: CapturedGradients, batch: Batch) -> Tensor | None:
        loss = whole(self, batch)
        count.extend([1] * (loss is not None))
        return loss

    monkeypatch.setattr(CapturedGradients, "__call__", call)
    return count


@pytest.fixture
def exact() -> Iterator[None]:
    """Let the device compute the same each time."""
    backends = torch.backends
    before = backends.cudnn.deterministic, backends.cudnn.allow_tf32
    backends.cudnn.deterministic, backends.cudnn.allow_tf32 = True, False
    yield
    backends.cudnn.deterministic, backends.cudnn.allow_tf32 = before


def fit_on_gpu(
    make_learner: Any,
    make_loaders: Any,
    *,
    cuda_graphs: bool | None,
    cbs: tuple[Callback, ...] = (),
    stages: tuple[bool, ...] = (False,),
    **options: Any,
) -> tuple[list[float], dict[str, Tensor], Any]:
    """Train three epochs per stage, frozen or not; return the losses of all steps, the weights and the learner."""
    loaders = make_loaders(num_workers=2, transforms=aug_transforms(size=32)).to("cuda")
    learner = make_learner(loaders, **options)
    learner.cuda_graphs = cuda_graphs
    for frozen in stages:
        (learner.freeze if frozen else learner.unfreeze)()
        learner.fit_one_cycle(3, 1e-3, cbs=[*cbs])
    state = {name: value.cpu().clone() for name, value in learner.model.state_dict().items()}
    return learner.recorder.losses, state, learner


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fit_from_graphs_is_the_fit_without(
    make_learner: Any, make_loaders: Any, replays: list[int], exact: None, precision: str
):
    options: dict[str, Any] = {"precision": precision, "stages": (True, False)}
    losses, state, _ = fit_on_gpu(make_learner, make_loaders, cuda_graphs=False, **options)
    assert not replays
    found, same, _ = fit_on_gpu(make_learner, make_loaders, cuda_graphs=None, **options)
    # 20 images in batches of 4: five steps an epoch, three epochs, two fits.
    assert len(found) == len(losses) == 30
    assert len(replays) == 30 - 2 * STEPS_BEFORE
    assert found == pytest.approx(losses, rel=1e-5, abs=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


@gpu
def test_mixed_batches_and_averaged_weights_are_the_same_too(
    make_learner: Any, make_loaders: Any, replays: list[int], exact: None
):
    (losses, state, _), (found, same, _) = (
        fit_on_gpu(make_learner, make_loaders, cuda_graphs=graphs, cbs=(MixUp(), EMACallback(0.9)))
        for graphs in (False, None)
    )
    assert replays
    assert found == pytest.approx(losses, rel=1e-5, abs=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


@gpu
def test_a_users_loss_is_recorded_only_on_request(
    make_learner: Any, make_loaders: Any, replays: list[int]
):
    fit_on_gpu(make_learner, make_loaders, cuda_graphs=None, loss_func=OwnLoss())
    assert not replays
    fit_on_gpu(make_learner, make_loaders, cuda_graphs=True, loss_func=OwnLoss())
    assert replays


@gpu
def test_callbacks_and_hooks_that_watch_get_every_operation(
    make_learner: Any, make_loaders: Any, replays: list[int]
):
    class Eager(Callback):
        def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
            return replace(settings, eager=True)

    class Hooked(Callback):
        seen = 0

        def before_fit(self, fit: Fit) -> None:
            def count(*_: Any) -> None:
                self.seen += 1

            fit.trainer.model.register_forward_hook(count)

    fit_on_gpu(make_learner, make_loaders, cuda_graphs=None, cbs=(Eager(),))
    hooked = Hooked()
    fit_on_gpu(make_learner, make_loaders, cuda_graphs=None, cbs=(hooked,))
    assert not replays
    assert hooked.seen >= 15


@gpu
def test_a_step_that_cannot_be_recorded_goes_on_without_a_graph(
    make_learner: Any, make_loaders: Any, replays: list[int], capsys: pytest.CaptureFixture[str]
):
    class Asking(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            loss = F.cross_entropy(logits, targets)
            return loss if float(loss.detach()) > 0 else loss * 0  # asks the device

    losses, _, learner = fit_on_gpu(
        make_learner, make_loaders, cuda_graphs=True, loss_func=Asking()
    )
    assert not replays
    assert len(losses) == 15
    assert all(loss == loss for loss in losses)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert learner.cuda_graphs is False  # It is not tried again.
    learner.fit_one_cycle(1, 1e-3)
    assert not replays


@gpu
def test_a_changed_model_is_recorded_again():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).cuda()

    def compute(batch: Batch) -> Tensor:
        loss = F.cross_entropy(model(batch.images), batch.targets)
        loss.backward()
        return loss.detach()

    captured = CapturedGradients(compute, model=model)
    batch = Batch(
        images=torch.randn(8, 4, device="cuda"),
        targets=torch.zeros(8, dtype=torch.int64, device="cuda"),
        rows=torch.arange(8),
    )

    def step() -> Tensor | None:
        for parameter in model.parameters():
            parameter.grad = None
        return captured(batch)

    def recorded() -> Tensor:
        captured.refresh()
        for _ in range(STEPS_BEFORE):
            assert step() is None
            compute(batch)
        loss = step()
        assert loss is not None
        return loss

    first = recorded()
    captured.refresh()  # Nothing changed: the graph stays.
    assert step() is not None
    model[1].eval()
    second = recorded()
    assert float(second) != float(first)
    model[0].requires_grad_(requires_grad=False)
    recorded()
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None


def test_on_a_cpu_there_is_nothing_to_rehearse(make_learner: Any):
    with rehearsal(make_learner()) as thread:
        assert thread is None


@gpu
def test_a_rehearsal_changes_no_weights_statistics_or_random_numbers(
    make_learner: Any, make_loaders: Any
):
    learner = make_learner(make_loaders(num_workers=2).to("cuda"), precision="bf16")
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    random_state = torch.cuda.get_rng_state()
    with rehearsal(learner) as thread:
        assert thread is not None
        thread.join()
    assert not [t for t in threading.enumerate() if t.name == "vizsla-rehearsal"]
    assert torch.equal(torch.cuda.get_rng_state(), random_state)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in learner.model.parameters())


@gpu
def test_there_is_no_rehearsal_without_graphs(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_workers=2).to("cuda"))
    learner.cuda_graphs = False
    with rehearsal(learner) as thread:
        assert thread is None
