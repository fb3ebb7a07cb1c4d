"""The profile of a run: its stages, their phases, and the table."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console

from vizsla.data.table.from_words import resolve_data
from vizsla.recipe.config import TrainConfig
from vizsla.recipe.features_first import FEATURE_PHASES
from vizsla.recipe.recipe import features_first, loaders_for, train_classifier
from vizsla.recipe.run_profile import RunProfile
from vizsla.train.display import Display
from vizsla.train.profile import FORWARD, OVERHEAD, PhaseClock

if TYPE_CHECKING:
    from pathlib import Path


CONFIG = TrainConfig(size=32, epochs=0, device="cpu")
QUIET = Display(quiet=True)


def test_a_clock_charges_what_is_going_on_and_nothing_after_its_stop():
    clock = PhaseClock(("one", "two"))
    clock.to("one")
    clock.to("two")
    clock.stop()
    after = dict(clock.seconds)
    clock.stop()
    assert clock.seconds == after
    assert list(after) == ["one", "two"]
    assert min(after.values()) > 0


def test_the_features_stage_has_every_phase(picture_folder: Path):
    profile = RunProfile()
    train_classifier(
        resolve_data(picture_folder, seed=0), config=CONFIG, display=QUIET, profile=profile
    )
    (stage,) = profile.stages()  # no end-to-end epochs, so no steps
    assert (stage.stage, stage.unit, stage.number) == ("features first", "pictures", 24)
    assert [part.phase for part in stage.phases] == list(FEATURE_PHASES)
    seconds = {part.phase: part.seconds for part in stage.phases}
    for phase in ("loading the network", "waiting for data", FORWARD, "choosing a head"):
        assert seconds[phase] > 0
    assert stage.seconds == pytest.approx(sum(seconds.values()))


def test_the_features_stage_is_the_same_with_and_without_a_profile(picture_folder: Path):
    loaders = loaders_for(resolve_data(picture_folder, seed=0), config=CONFIG)
    augmentation = loaders.valid.augmentation
    plain = features_first(loaders, config=CONFIG, display=QUIET)
    watched = features_first(loaders, config=CONFIG, display=QUIET, profile=RunProfile())
    assert torch.equal(plain.predictions.logits, watched.predictions.logits)
    assert loaders.valid.augmentation is augmentation


def test_the_table_has_stages_and_their_phases_in_order():
    profile = RunProfile()
    clock = profile.stage("looking", phases=("far", OVERHEAD), num_pictures=10)
    clock.stop()
    clock.seconds.update({"far": 3.0, OVERHEAD: 1.0})
    clock = profile.stage("writing", phases=("writing",), num_pictures=0)
    clock.stop()
    clock.seconds["writing"] = 4.0
    file = io.StringIO()
    console = Console(file=file, soft_wrap=True, width=100)
    profile.show(Display(console=console))
    assert file.getvalue().splitlines() == [
        "",
        "where the time went    seconds     share   ms each",
        "looking, 10 pictures      4.00     50.0%    400.00",
        "  far                     3.00     37.5%    300.00",
        "  everything else         1.00     12.5%    100.00",
        "writing, 0 pictures       4.00     50.0%      0.00",
    ]


def test_a_profile_that_is_not_wanted_takes_no_part_in_the_steps():
    assert RunProfile(wanted=False).callbacks() == []
    assert RunProfile().callbacks() != []
