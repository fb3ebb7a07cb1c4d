"""The training loop and its step against plain ones written out here, when something goes wrong, profiled, and from CUDA graphs."""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla import ImageDataLoaders, Resize, vision_learner
from vizsla.augment.presets import aug_transforms
from vizsla.errors import TrainingError
from vizsla.train import loop
from vizsla.train.callbacks.averaging import EMACallback
from vizsla.train.callbacks.base import Callback, Fit, FitSettings
from vizsla.train.callbacks.step import MixUp
from vizsla.train.cuda_graphs import STEPS_BEFORE, CapturedGradients, has_hooks, is_known, rehearsal
from vizsla.train.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from vizsla.train.optim import build_optimiser
from vizsla.train.profile import STEP_PHASES, VALIDATION, StepProfile
from vizsla.train.rates.schedules import Schedule, constant, one_cycle
from vizsla.train.recorder import SmoothedLoss
from vizsla.train.step import (
    TrainingStep,
    step_copied_unless,
    step_fused_unless,
    step_unless,
)
from vizsla.train.trainer import Trainer
from vizsla.types import Batch, ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from vizsla.train.callbacks.base import Fit
    from vizsla.train.learner import Learner


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
    table = ImageTable(
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


def test_a_loss_that_is_not_finite_never_goes_unnoticed():
    for value in [math.nan, math.inf]:
        for step in (0, 3, NUM_BATCHES - 1):
            source = Source(batches())
            context = context_for(small_network(), loss_function=infinite_at(step, value))
            rates = ", ".join(
                f"group {group}: {rate:.3g}"
                for group, rate in enumerate(context.schedule.rates_at(step))
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


def test_a_loss_that_is_not_finite_moves_no_weight_from_that_very_step_on():
    for value in [math.nan, math.inf]:
        stopped, bad = small_network(), small_network()
        train_epoch(context_for(stopped), Source(batches()[:3]).batches())
        with pytest.raises(TrainingError, match="step 3"):
            train_epoch(
                context_for(bad, loss_function=infinite_at(3, value)), Source(batches()).batches()
            )
        for (name, weight), expected in zip(
            bad.named_parameters(), stopped.parameters(), strict=True
        ):
            assert torch.equal(weight, expected), name


def test_every_way_to_leave_a_step_out_moves_the_weights_otherwise_and_by_the_same():
    """The ways of other devices, on a CPU."""
    for step in [step_unless, step_fused_unless, step_copied_unless]:

        def moved(
            take: Callable[[torch.optim.Optimizer], object], *, factor: float
        ) -> list[Tensor]:
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
        kept = moved(partial(step, yes), factor=math.nan)
        same = moved(partial(step, no), factor=1.0)
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


def test_losses_are_smoothed_as_recorded():
    for case in GOLDEN["smoothed_losses"]:
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


@pytest.fixture
def learn(image_folder: Path) -> Learner:
    dls = ImageDataLoaders.from_folder(
        image_folder,
        valid_pct=0.34,
        seed=1,
        item_tfms=Resize(36),
        batch_tfms=aug_transforms(size=32),
        bs=8,
        device="cpu",
    )
    return vision_learner(dls, "efficientnet_lite0", pretrained=False, quiet=True)


def test_every_phase_of_a_step_on_the_cpu_but_the_copy_takes_time(learn: Learner) -> None:
    profile = StepProfile()
    learn.fit(2, 1e-3, cbs=profile)
    assert profile.num_steps == 2 * len(learn.dls.train)
    for phase in (*STEP_PHASES, VALIDATION):
        assert profile.seconds[phase] >= 0
    for phase in ("waiting for data", "augmentation", "forward", "backward", "optimiser"):
        assert profile.milliseconds(phase) > 0


def test_rows_end_with_the_whole_step(learn: Learner) -> None:
    profile = StepProfile()
    learn.fit(1, 1e-3, cbs=profile)
    *phases, whole = profile.rows()
    assert [name for name, _, _ in phases] == list(STEP_PHASES)
    assert whole[0] == "whole step"
    assert whole[2] == "100.0%"
    assert float(whole[1]) == pytest.approx(sum(float(row[1]) for row in phases), abs=0.05)


def test_training_with_a_profile_is_training_without(learn: Learner) -> None:
    start = learn.snapshot()
    learn.fit(1, 1e-3)
    plain = [parameter.detach().clone() for parameter in learn.model.parameters()]
    learn.restore(start)
    learn.epochs_done = 0
    learn.fit(1, 1e-3, cbs=StepProfile(), reset_opt=True)
    assert all(
        torch.equal(one, other) for one, other in zip(plain, learn.model.parameters(), strict=True)
    )


class _Fails(Callback):
    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        raise TrainingError("as the test wants it")


def test_what_it_put_in_is_gone_after_an_error(learn: Learner) -> None:
    before = learn.dls.train.augmentation
    with pytest.raises(TrainingError, match="as the test wants it"):
        learn.fit(1, 1e-3, cbs=[_Fails(), StepProfile()])
    assert learn.dls.train.augmentation is before
    assert not learn.model._forward_hooks
    assert not learn.model._forward_pre_hooks


def test_table_is_printed_when_a_fit_ends(
    learn: Learner, capsys: pytest.CaptureFixture[str]
) -> None:
    from vizsla.train.display import Display

    learn.display = Display()
    learn.show_table = False
    learn.fit(1, 1e-3, cbs=StepProfile())
    printed = capsys.readouterr().out
    for phase in (*STEP_PHASES, "whole step"):
        assert phase in printed


class _Looks(Callback):
    def __init__(self) -> None:
        self.eager: list[bool] = []

    def after_step(self, fit: Fit) -> None:
        self.eager.append(fit.settings.eager)


def test_a_profiled_fit_asks_for_steps_that_can_be_looked_into(learn: Learner) -> None:
    looks = _Looks()
    learn.fit(1, 1e-3, cbs=[looks, StepProfile(show=False)])
    assert looks.eager
    assert all(looks.eager)


def test_a_trial_of_several_epochs_leaves_the_augmentation_as_it_was(learn: Learner) -> None:
    before = learn.dls.train.augmentation
    profile = StepProfile(show=False)
    schedule = constant(2 * len(learn.dls.train), rates=[1e-4] * len(learn.groups))
    learn.run(schedule, n_epoch=2, stage="trial", cbs=profile, measured=False)
    assert profile.num_steps == 2 * len(learn.dls.train)
    assert profile.seconds["augmentation"] > 0
    assert learn.dls.train.augmentation is before


gpu = pytest.mark.gpu


class OwnLoss(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)


def test_parts_of_known_packages_are_known():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert is_known(model, nn.CrossEntropyLoss())
    assert is_known(model, F.cross_entropy)
    assert is_known(model, CrossEntropyLossFlat())
    assert is_known(model, LabelSmoothingCrossEntropy())


def test_a_part_of_the_users_own_is_not_known():
    class Own(nn.Module):
        pass

    assert not is_known(nn.Sequential(Own()), nn.CrossEntropyLoss())
    assert not is_known(nn.Linear(2, 2), OwnLoss())
    assert not is_known(nn.Linear(2, 2), lambda logits, _targets: logits.sum())


def test_hooks_are_seen():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert not has_hooks(model)
    handle = model[1].register_forward_hook(lambda *_: None)
    assert has_hooks(model)
    handle.remove()
    assert not has_hooks(model)
    model[0].register_full_backward_hook(lambda *_: None)
    assert has_hooks(model)


class WatchLosses(Callback):
    """Notes the loss of every step and which of them came from a graph."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.grads: list[bool] = []

    def after_step(self, fit: Fit) -> None:
        self.losses.append(float(fit.loss if fit.loss is not None else torch.nan))


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


def trained(
    make_learner: Any,
    make_loaders: Any,
    *,
    cuda_graphs: bool | None,
    precision: str = "fp32",
    cbs: tuple[Callback, ...] = (),
    loss_func: Any = None,
    stages: tuple[bool, ...] = (False,),
) -> tuple[list[float], dict[str, Tensor], Any]:
    loaders = make_loaders(num_workers=2, transforms=aug_transforms(size=32)).to("cuda")
    watch = WatchLosses()
    extra = {} if loss_func is None else {"loss_func": loss_func}
    learner = make_learner(loaders, precision=precision, **extra)
    learner.cuda_graphs = cuda_graphs
    for frozen in stages:
        (learner.freeze if frozen else learner.unfreeze)()
        learner.fit_one_cycle(3, 1e-3, cbs=[watch, *cbs])
    state = {name: value.cpu().clone() for name, value in learner.model.state_dict().items()}
    return watch.losses, state, learner


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fit_from_graphs_is_the_fit_without(
    make_learner: Any, make_loaders: Any, replays: list[int], exact: None, precision: str
):
    stages = True, False
    losses, state, _ = trained(
        make_learner, make_loaders, cuda_graphs=False, precision=precision, stages=stages
    )
    assert not replays
    found, same, _ = trained(
        make_learner, make_loaders, cuda_graphs=None, precision=precision, stages=stages
    )
    # 20 pictures in batches of 4: five steps an epoch, three epochs, two fits.
    assert len(found) == len(losses) == 30
    assert len(replays) == 30 - 2 * STEPS_BEFORE
    assert found == pytest.approx(losses, rel=1e-5, abs=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


@gpu
def test_mixed_batches_and_averaged_weights_are_the_same_too(
    make_learner: Any, make_loaders: Any, replays: list[int], exact: None
):
    losses, state, _ = trained(
        make_learner, make_loaders, cuda_graphs=False, cbs=(MixUp(), EMACallback(0.9))
    )
    found, same, _ = trained(
        make_learner, make_loaders, cuda_graphs=None, cbs=(MixUp(), EMACallback(0.9))
    )
    assert replays
    assert found == pytest.approx(losses, rel=1e-5, abs=1e-6)
    for name, value in state.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


@gpu
def test_a_loss_of_the_users_own_is_not_recorded_unasked(
    make_learner: Any, make_loaders: Any, replays: list[int]
):
    trained(make_learner, make_loaders, cuda_graphs=None, loss_func=OwnLoss())
    assert not replays
    trained(make_learner, make_loaders, cuda_graphs=True, loss_func=OwnLoss())
    assert replays


@gpu
def test_who_wants_to_see_every_operation_gets_them(
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

    trained(make_learner, make_loaders, cuda_graphs=None, cbs=(Eager(),))
    hooked = Hooked()
    trained(make_learner, make_loaders, cuda_graphs=None, cbs=(hooked,))
    assert not replays
    assert hooked.seen >= 15


@gpu
def test_what_cannot_be_recorded_goes_on_without_a_graph(
    make_learner: Any, make_loaders: Any, replays: list[int], capsys: pytest.CaptureFixture[str]
):
    class Asking(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            loss = F.cross_entropy(logits, targets)
            return loss if float(loss.detach()) > 0 else loss * 0  # asks the device

    losses, _, learner = trained(
        make_learner, make_loaders, cuda_graphs=True, loss_func=Asking(), stages=(False,)
    )
    assert not replays
    assert len(losses) == 15
    assert all(loss == loss for loss in losses)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert learner.cuda_graphs is False  # It is not tried again.
    learner.fit_one_cycle(1, 1e-3)
    assert not replays


@gpu
def test_a_model_that_changed_is_recorded_anew():
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


@pytest.mark.gpu
def test_weights_statistics_and_random_numbers_stay_as_they_were(
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


@pytest.mark.gpu
def test_who_looks_on_sees_no_rehearsal(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_workers=2).to("cuda"))
    learner.cuda_graphs = False
    with rehearsal(learner) as thread:
        assert thread is None
