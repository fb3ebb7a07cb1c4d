"""When callbacks are told of what, and what they may do to a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.metrics import accuracy

if TYPE_CHECKING:
    from vizsla.types import Batch

STEP = ["before_step", "after_step"]
EPOCH = ["before_epoch", *STEP * 5, "before_validate", "after_epoch"]


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self, entries: list[str], *, name: str = "") -> None:
        self.entries = entries
        self.name = name

    def before_fit(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_fit")

    def before_epoch(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_epoch")

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        self.entries.append(f"{self.name}before_step")
        return batch

    def after_step(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_step")

    def before_validate(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}before_validate")

    def after_epoch(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_epoch")

    def after_fit(self, fit: Fit) -> None:
        self.entries.append(f"{self.name}after_fit")


EVENTS = [
    "before_fit", "before_epoch", "before_step", "after_step", "before_validate", "after_epoch", "after_fit",
]  # fmt: skip


def failing(event: str, error: BaseException) -> Callback:
    """Return a callback that raises an error at an event."""

    def fail(self: Callback, *arguments: Any) -> None:
        raise error

    return type("Failing", (Callback,), {event: fail})()


def test_events_come_in_order(make_learner: Any):
    entries: list[str] = []
    make_learner().fit(2, cbs=Diary(entries))
    assert entries == ["before_fit", *EPOCH, *EPOCH, "after_fit"]


def test_both_phases_of_fine_tune_are_fits(make_learner: Any):
    entries: list[str] = []
    make_learner().fine_tune(1, cbs=Diary(entries))
    assert entries == ["before_fit", *EPOCH, "after_fit"] * 2


def test_a_lower_order_is_told_first_whoever_was_given_first(make_learner: Any):
    entries: list[str] = []

    class Late(Diary):
        order: ClassVar[int] = 5

    learner = make_learner()
    learner.cbs = [Late(entries, name="late ")]
    learner.fit(1, cbs=[Diary(entries, name="early ")])
    assert entries[:4] == [
        "early before_fit",
        "late before_fit",
        "early before_epoch",
        "late before_epoch",
    ]
    assert entries[-2:] == ["early after_fit", "late after_fit"]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_a_callback_arrives_unchanged_and_all_are_told_of_the_end(
    make_learner: Any, event: str, error: BaseException
):
    entries: list[str] = []
    learner = make_learner()
    with pytest.raises(type(error)) as raised:
        learner.fit(1, cbs=[failing(event, error), Diary(entries)])
    assert raised.value is error
    assert entries.count("after_fit") == 1
    assert entries[-1] == "after_fit"
    learner.fit(1)  # it can be used again
    assert len(learner.recorder.last.values) == 1


def test_the_end_knows_what_ended_the_fit(make_learner: Any):
    seen: list[BaseException | None] = []

    class Last(Callback):
        def after_fit(self, fit: Fit) -> None:
            seen.append(fit.error)

    error = ValueError("mine")
    learner = make_learner()
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=[failing("after_step", error), Last()])
    learner.fit(1, cbs=Last())
    assert seen == [error, None]


def test_an_error_at_the_end_does_not_hide_the_one_before_it(make_learner: Any):
    first = ValueError("first")
    with pytest.raises(ValueError, match="first") as raised:
        make_learner().fit(
            1, cbs=[failing("after_step", first), failing("after_fit", OSError("second"))]
        )
    assert raised.value is first
    assert raised.value.__notes__ == ["Failing.after_fit failed too: OSError: second"]


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_fit_that_is_told_to_stop_ends_after_that_step(
    make_learner: Any, step: int, capsys: pytest.CaptureFixture[str]
):
    class Stop(Callback):
        def after_step(self, fit: Fit) -> None:
            if fit.step == step:
                fit.stop("Enough.")

    learner = make_learner(quiet=False)
    learner.fit(2, cbs=Stop())
    assert len(learner.recorder.losses) == step
    # An epoch that was cut off is not measured, a whole one is.
    assert len(learner.recorder.values) == step // 5
    assert capsys.readouterr().out.splitlines()[-1] == "Enough."


def test_after_an_epoch_the_figures_of_the_epoch_are_there(make_learner: Any):
    seen: list[dict[str, float]] = []

    class Look(Callback):
        def after_epoch(self, fit: Fit) -> None:
            assert fit.predictions is not None
            assert fit.values["accuracy"] == float(fit.predictions.correct.float().mean())
            seen.append(fit.values)

    learner = make_learner(metrics=accuracy)
    learner.fit(2, cbs=Look())
    assert [list(values) for values in seen] == [["train_loss", "valid_loss", "accuracy"]] * 2
    assert [list(values.values()) for values in seen] == learner.recorder.values


def test_a_callback_may_change_the_batch(make_learner: Any):
    class Black(Callback):
        def before_step(self, fit: Fit, batch: Batch) -> Batch:
            return replace(
                batch,
                images=torch.zeros_like(batch.images),
                targets=torch.zeros_like(batch.targets),
            )

    learner = make_learner(dropout=0.0)
    learner.fit(1, 1e-12, cbs=Black())
    losses = {round(loss, 5) for loss in learner.recorder.losses}
    assert losses == {round(learner.recorder.losses[0], 5)}  # all pictures are the same to it


def test_what_is_no_callback_is_refused(make_learner: Any):
    with pytest.raises(ConfigError, match=r"inherit from Callback\. Received: <class"):
        make_learner().fit(1, cbs=[Diary])


def test_a_fit_that_never_began_leaves_no_trace(make_learner: Any):
    learner = make_learner()
    with pytest.raises(ValueError, match="mine"):
        learner.fit(1, cbs=failing("before_fit", ValueError("mine")))
    assert learner.recorder.fits == []
    learner.fit(1)
    assert len(learner.recorder.fits) == 1


def test_one_that_overrides_nothing_changes_nothing(make_learner: Any):
    plain, watched = make_learner(), make_learner()
    plain.fit(1)
    watched.fit(1, cbs=[Callback()])
    assert plain.recorder.losses == watched.recorder.losses
    assert Callback().state() == {}
