"""The profile of a fit: its phases, its table, and that it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla import ImageDataLoaders, Resize, TrainingError, vision_learner
from vizsla.augment.presets import aug_transforms
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.profile import STEP_PHASES, VALIDATION, StepProfile
from vizsla.train.schedules import constant

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.train.learner import Learner
    from vizsla.types import Batch


@pytest.fixture
def learn(picture_folder: Path) -> Learner:
    dls = ImageDataLoaders.from_folder(
        picture_folder,
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
