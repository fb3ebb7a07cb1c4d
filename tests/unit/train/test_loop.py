"""The training loop against a plain one written out here, and what it does when something goes wrong."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import TrainingError
from vizsla.train import loop
from vizsla.train.callbacks.base import Callback, Fit, FitSettings
from vizsla.train.optim import build_optimiser
from vizsla.train.recorder import SmoothedLoss
from vizsla.train.schedules import Schedule, constant, one_cycle
from vizsla.train.step import (
    TrainingStep,
    step_copied_unless,
    step_fused_unless,
    step_unless,
)
from vizsla.train.trainer import Trainer
from vizsla.types import Batch, PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "training.json").read_text("utf-8")
)
NUM_BATCHES = 6
PEAKS = (0.02, 0.05)


def small_network() -> nn.Sequential:
    random = torch.Generator().manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=random)
        network[5].bias.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue] (a Linear)
    return network


def batches(*, num_batches: int = NUM_BATCHES) -> list[Batch]:
    random = torch.Generator().manual_seed(4)
    return [
        Batch(
            images=torch.rand(5, 3, 8, 8, generator=random),
            targets=torch.randint(3, (5,), generator=random),
            rows=torch.arange(5) + 5 * position,
        )
        for position in range(num_batches)
    ]


class Source:
    """Gives batches as a loader does, and remembers how many were taken and whether it was closed."""

    def __init__(self, given: list[Batch]) -> None:
        self.given = given
        self.taken = 0
        self.closed = False

    def batches(self) -> Generator[Batch]:
        try:
            for batch in self.given:
                self.taken += 1
                yield batch
        finally:
            self.closed = True


class Loader:
    """The loader of a trainer, which gives what a generator gives."""

    bs = 5

    def __init__(self, given: Generator[Batch], *, num_batches: int) -> None:
        self.given = given
        self.n = 5 * num_batches

    def __len__(self) -> int:
        return self.n // 5

    def batches(self, **_: Any) -> Generator[Batch]:
        return self.given


class Bar:
    """A display that notes where its bar was moved to."""

    def __init__(self) -> None:
        self.moved: list[int] = []

    def line(self, text: str) -> None:
        raise AssertionError(text)

    @contextmanager
    def bar(self, *_: object, **__: object) -> Generator[Any]:
        yield lambda done, _note: self.moved.append(done)


@dataclass
class Context:
    """A network that is ready to be trained on some steps of a schedule."""

    network: nn.Module
    schedule: Schedule
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    callbacks: tuple[Callback, ...] = ()
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    bar: Bar = field(default_factory=Bar)
    optimiser: Any = None


def groups_of(network: Any) -> tuple[tuple[nn.Parameter, ...], ...]:
    return tuple(network[0].parameters()), tuple(network[1:].parameters())


def context_for(
    network: nn.Module,
    *,
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    num_steps: int = NUM_BATCHES,
    callbacks: tuple[Callback, ...] = (),
    **options: Any,
) -> Context:
    schedule = one_cycle(num_steps, peak_rates=PEAKS)
    return Context(network, schedule, loss_function, callbacks, options)


class Watch(Callback):
    """Begins a fit at a step, and keeps what it recorded."""

    order = 1000

    def __init__(self, *, first_step: int) -> None:
        self.first_step = first_step
        self.losses: list[float] = []

    def before_fit(self, fit: Fit) -> None:
        fit.first_step = self.first_step

    def after_fit(self, fit: Fit) -> None:
        self.losses = fit.record.losses


def train_epoch(context: Context, source: Generator[Batch], *, first_step: int = 0) -> list[float]:
    """Run a fit of one epoch and return the losses of its steps."""
    num_steps = context.schedule.num_steps
    table = PictureTable(
        root=Path("/images"),
        paths=tuple(Path(f"/images/{row}.jpg") for row in range(30)),
        targets=torch.zeros(30, dtype=torch.int64),
        vocab=("a", "b", "c"),
        train_rows=torch.arange(30),
        valid_rows=torch.arange(0),
    )
    loaders: Any = SimpleNamespace(
        table=table,
        vocab=table.vocab,
        path=table.root,
        device=torch.device("cpu"),
        seed=0,
        train=Loader(source, num_batches=num_steps),
        valid=None,
    )
    trainer = Trainer(
        loaders,
        context.network,
        context.loss_function,
        splitter=groups_of,
        quiet=True,
        **context.options,
    )
    trainer.display = context.bar  # pyright: ignore[reportAttributeAccessIssue] (all a trial asks for)
    trainer.opt = context.optimiser
    watch = Watch(first_step=first_step)
    try:
        trainer.run(
            context.schedule,
            n_epoch=1,
            stage="fit",
            cbs=[*context.callbacks, watch],
            measured=False,
        )
    finally:
        context.optimiser = trainer.opt
    return watch.losses


def step_for(network: nn.Module, **options: Any) -> TrainingStep:
    return TrainingStep(
        network,
        loss_function=F.cross_entropy,
        optimiser=build_optimiser(network, groups_of(network)),
        **options,
    )


def plain_loop(network: nn.Sequential) -> list[float]:
    """The same training written out in bare torch."""
    conv, norm, linear = network[0], network[1], network[5]
    optimiser = torch.optim.AdamW(
        [
            {"params": [conv.weight], "weight_decay": 0.01, "peak": 0.02},
            {"params": [linear.weight], "weight_decay": 0.01, "peak": 0.05},
            {"params": [norm.weight, norm.bias, linear.bias], "weight_decay": 0.0, "peak": 0.05},
        ],
        lr=1.0,
        eps=1e-5,
    )
    network.train()
    losses: list[float] = []
    for step, batch in enumerate(batches()):
        position = step / NUM_BATCHES
        if position < 0.25:
            rise = (1 - math.cos(math.pi * (position / 0.25))) / 2
            factor, momentum = (1 / 25) + (1 - 1 / 25) * rise, 0.95 - 0.1 * rise
        else:
            fall = (1 - math.cos(math.pi * ((position - 0.25) / 0.75))) / 2
            factor, momentum = 1 + (1e-5 - 1) * fall, 0.85 + 0.1 * fall
        for group in optimiser.param_groups:
            group["lr"], group["betas"] = group["peak"] * factor, (momentum, 0.99)
        optimiser.zero_grad()
        loss = F.cross_entropy(network(batch.images), batch.targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_losses_and_weights_are_those_of_a_plain_loop():
    expected_network, network = small_network(), small_network()
    expected = plain_loop(expected_network)
    found = train_epoch(context_for(network), Source(batches()).batches())
    # The first steps to the last bit; later ones see rates that were added up in another order.
    assert found[:1] == expected[:1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected_network.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_losses_are_those_of_a_plain_loop_bit_for_bit_at_the_same_rates():
    expected_network, network = small_network(), small_network()
    context = context_for(network)
    optimiser = torch.optim.AdamW(
        [
            {"params": [expected_network[0].weight], "weight_decay": 0.01},
            {"params": [expected_network[5].weight], "weight_decay": 0.01},
            {
                "params": [*expected_network[1].parameters(), expected_network[5].bias],
                "weight_decay": 0.0,
            },
        ],
        eps=1e-5,
        fused=True,
    )
    expected: list[float] = []
    for step, batch in enumerate(batches()):
        rates, momentum = context.schedule.rates_at(step), context.schedule.momentum_at(step)
        for group, rate in zip(optimiser.param_groups, (rates[0], rates[1], rates[1]), strict=True):
            group["lr"], group["betas"] = rate, (momentum, 0.99)
        optimiser.zero_grad()
        loss = F.cross_entropy(expected_network(batch.images), batch.targets)
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    assert train_epoch(context, Source(batches()).batches()) == expected
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected_network.state_dict()[name]), name


def test_two_epochs_through_one_schedule_equal_one_long_epoch():
    once, twice = small_network(), small_network()
    given = batches()
    whole = train_epoch(context_for(once), Source(given).batches())
    context = context_for(twice)
    halves = train_epoch(context, Source(given[:3]).batches())
    halves += train_epoch(context, Source(given[3:]).batches(), first_step=3)
    assert halves == whole


def test_every_loss_is_reported_once_and_in_order():
    kept: list[Tensor] = []

    class Keep(Callback):
        def after_step(self, fit: Fit) -> None:
            assert fit.loss is not None
            kept.append(fit.loss)

    losses = train_epoch(
        context_for(small_network(), callbacks=(Keep(),)), Source(batches()).batches()
    )
    assert losses == torch.stack(kept).tolist()


def test_no_gradient_is_left_behind():
    network = small_network()
    train_epoch(context_for(network), Source(batches()).batches())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_no_batches_make_no_steps():
    source = Source([])
    assert train_epoch(context_for(small_network()), source.batches()) == []
    assert source.closed


def infinite_at(step: int, value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss function whose result is ``value`` at one step."""
    calls = iter(range(1000))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets)
        return found * value if next(calls) == step else found

    return loss


@pytest.mark.parametrize("step", range(NUM_BATCHES))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_goes_unnoticed(step: int, value: float):
    source = Source(batches())
    context = context_for(small_network(), loss_function=infinite_at(step, value))
    rates = ", ".join(
        f"group {group}: {rate:.3g}" for group, rate in enumerate(context.schedule.rates_at(step))
    )
    with pytest.raises(TrainingError) as error:
        train_epoch(context, source.batches())
    message = str(error.value)
    assert message.startswith(
        f"The loss became {value} at step {step} of {NUM_BATCHES}, at learning rates {rates} "
    )
    files = ", ".join(f"{5 * step + place}.jpg" for place in range(5))
    assert f"on {files}. That step" in message
    assert "ten times lower" in message
    assert source.closed


def test_the_step_that_is_named_counts_from_the_start_of_the_fit():
    context = context_for(small_network(), loss_function=infinite_at(1, math.nan), num_steps=12)
    with pytest.raises(TrainingError, match="at step 7 of 12"):
        train_epoch(context, Source(batches()).batches(), first_step=6)


def test_training_ends_at_the_first_look_after_a_bad_loss(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", -1.0)  # look after every step
    source = Source(batches())
    context = context_for(small_network(), loss_function=infinite_at(2, math.nan))
    with pytest.raises(TrainingError, match="at step 2"):
        train_epoch(context, source.batches())
    assert source.taken == 3
    assert source.closed


def test_looking_after_every_step_changes_no_loss(monkeypatch: pytest.MonkeyPatch):
    seldom = train_epoch(context_for(small_network()), Source(batches()).batches())
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", -1.0)
    context = context_for(small_network())
    assert train_epoch(context, Source(batches()).batches()) == seldom
    assert context.bar.moved == [*range(1, NUM_BATCHES + 1), NUM_BATCHES]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_moves_no_weight_from_that_very_step_on(value: float):
    stopped, bad = small_network(), small_network()
    train_epoch(context_for(stopped), Source(batches()[:3]).batches())
    with pytest.raises(TrainingError, match="step 3"):
        train_epoch(
            context_for(bad, loss_function=infinite_at(3, value)), Source(batches()).batches()
        )
    for (name, weight), expected in zip(bad.named_parameters(), stopped.parameters(), strict=True):
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("step", [step_unless, step_fused_unless, step_copied_unless])
def test_every_way_to_leave_a_step_out_moves_the_weights_otherwise_and_by_the_same(step: Any):
    """The ways of other devices, on a CPU."""

    def moved(take: Callable[[torch.optim.Optimizer], object], *, factor: float) -> list[Tensor]:
        network = without_norm()
        optimiser = build_optimiser(network, groups_of(network))
        for _ in range(2):
            loss = F.cross_entropy(network(batches()[0].images), batches()[0].targets)
            (loss * factor).backward()
            take(optimiser)
            optimiser.zero_grad()
        return [value.detach() for value in network.parameters()]

    no, yes = torch.tensor(False), torch.tensor(True)  # noqa: FBT003 (values)
    plain = moved(lambda optimiser: optimiser.step(), factor=1.0)
    kept = moved(lambda optimiser: step(yes, optimiser), factor=math.nan)
    same = moved(lambda optimiser: step(no, optimiser), factor=1.0)
    for expected, found in ((plain, same), (list(without_norm().parameters()), kept)):
        assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory")])
def test_batches_are_closed_when_a_step_fails_and_the_error_arrives_unchanged(
    error: BaseException | type[BaseException],
):
    def fail(logits: Tensor, targets: Tensor) -> Tensor:
        raise error

    source = Source(batches())
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind) as raised:
        train_epoch(
            context_for(small_network(), loss_function=fail), source.batches(), first_step=0
        )
    assert raised.value is error or isinstance(error, type)
    assert source.closed
    assert source.taken == 1


def test_an_error_of_the_loader_arrives_unchanged():
    cause = OSError("the disk is gone")

    def broken() -> Generator[Batch]:
        yield batches()[0]
        raise cause

    with pytest.raises(OSError, match="the disk is gone") as raised:
        train_epoch(context_for(small_network()), broken())
    assert raised.value is cause


def test_bf16_trains_nearly_as_float32_and_the_loss_stays_float32():
    exact, rough = (
        step_for(small_network(), precision=precision) for precision in ("fp32", "bf16")
    )
    batch = batches()[0]
    first, second = exact(batch), rough(batch)
    assert second.dtype == torch.float32
    assert not second.requires_grad
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, atol=0.02, rtol=0)
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("case", GOLDEN["smoothed_losses"], ids=lambda case: f"beta {case['beta']}")
def test_losses_are_smoothed_as_recorded(case: dict[str, list[float]]):
    one_by_one, at_once = SmoothedLoss(beta=case["beta"]), SmoothedLoss(beta=case["beta"])  # pyright: ignore[reportArgumentType] (a number)
    found: list[float] = []
    for loss in case["losses"]:
        one_by_one.add([loss])
        found.append(one_by_one.value)
    at_once.add(case["losses"])
    np.testing.assert_allclose(found, case["smoothed"], atol=1e-5)
    assert at_once.value == found[-1]


def test_the_smoothed_loss_is_unknown_before_the_first_step():
    assert math.isnan(SmoothedLoss().value)


def test_own_random_numbers_leave_the_global_state_alone():
    before = torch.get_rng_state()
    with loop.own_random_numbers(device=torch.device("cpu")):
        torch.manual_seed(5)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_own_random_numbers_restore_the_global_state_after_an_error():
    before = torch.get_rng_state()

    def fail() -> None:
        with loop.own_random_numbers(device=torch.device("cpu")):
            torch.rand(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_constant_schedule_trains_too():
    context = context_for(small_network())
    context.schedule = constant(NUM_BATCHES, rates=(0.05, 0.05))
    first = train_epoch(context, Source(batches()).batches())
    assert all(map(math.isfinite, first))


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        images=torch.cat([part.images for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
    )


def without_norm() -> nn.Sequential:
    network = small_network()
    network[1] = nn.Identity()
    return network


def gradients_moved(
    network: nn.Sequential, given: list[Batch], *, clip: float | None = None, **options: Any
) -> dict[str, Any]:
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


def test_gathered_batches_of_unequal_size_move_the_weights_as_one_large_batch():
    whole = joined(batches()[:2])
    parts = [
        Batch(images=whole.images[place], targets=whole.targets[place], rows=whole.rows[place])
        for place in (slice(0, 6), slice(6, 8), slice(8, 10))
    ]
    expected = gradients_moved(without_norm(), [whole])
    found = gradients_moved(without_norm(), parts)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_gathered_batches_are_clipped_together():
    expected = gradients_moved(without_norm(), [joined(batches()[:2])], clip=0.01)
    found = gradients_moved(without_norm(), batches()[:2], clip=0.01)
    start = without_norm().state_dict()
    moved = torch.cat([(found[name] - start[name]).flatten() for name in start])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_what_is_left_of_gathered_batches_is_a_step_at_the_end_of_the_epoch():
    network = without_norm()
    context = context_for(network, accumulate=4)
    before = [value.clone() for value in network.parameters()]
    train_epoch(context, Source(batches()).batches())
    assert {int(state["step"]) for state in context.optimiser.state.values()} == {
        2
    }  # 4 + 2 batches
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(
        torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)
    )


class SmallMemory(nn.Sequential):
    """A network whose device has memory for so many pictures."""

    most = 2

    def forward(self, pictures: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] (names)
        if len(pictures) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(pictures)}")
        return super().forward(pictures)


def test_a_batch_that_does_not_fit_goes_through_in_parts_and_moves_the_weights_as_a_whole():
    said: list[str] = []
    batch = batches()[0]  # of 5 pictures
    expected = gradients_moved(without_norm(), [batch])
    found = gradients_moved(SmallMemory(*without_norm()), [batch], say=said.append)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert [text.split(":")[0] for text in said] == ["Out of memory", "Out of memory"]
    assert "in 4 parts" in said[-1]


def test_a_picture_that_does_not_fit_is_an_error_that_says_what_to_do():
    network = SmallMemory(*without_norm())
    network.most = 0
    with pytest.raises(TrainingError, match=r"not enough for 1 images of .8, 8. pixels.*smaller"):
        gradients_moved(network, [batches()[0]])


def test_mixed_pictures_count_for_both_of_their_targets():
    batch = batches()[0]
    shares = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    partners = (batch.targets + 1) % 3
    network = without_norm()
    logits = network(batch.images)
    expected = (
        (
            shares * F.cross_entropy(logits, batch.targets, reduction="none")
            + (1 - shares) * F.cross_entropy(logits, partners, reduction="none")
        )
        .mean()
        .detach()
    )
    mixed = Batch(
        images=batch.images,
        targets=batch.targets,
        rows=batch.rows,
        partner_targets=partners,
        shares=shares,
    )
    assert float(step_for(network)(mixed)) == pytest.approx(float(expected), rel=1e-6)
