"""Steps from a CUDA graph are the steps that are taken without one; whatever cannot be recorded goes the usual way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.augment.presets import aug_transforms
from vizsla.train.callbacks.averaging import EMACallback
from vizsla.train.callbacks.base import Callback
from vizsla.train.callbacks.step import MixUp
from vizsla.train.cuda_graphs import STEPS_BEFORE, CapturedGradients, has_hooks, is_known
from vizsla.train.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropy
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vizsla.train.callbacks.base import Fit

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


class Watch(Callback):
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
    watch = Watch()
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
        def before_fit(self, fit: Fit) -> None:
            fit.eager = True

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
