"""The options of a run, its two stages, and where their time goes."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from rich.console import Console

from vizsla import (
    Callback,
    ConfigError,
    OutputError,
    PictureError,
    TrainConfig,
    TrainingError,
    train_classifier,
)
from vizsla.data.table import resolve_data
from vizsla.infer import FeatureStore, predict_batches
from vizsla.models import Classifier, FeatureHead, build_backbone, norm_parameters
from vizsla.recipe import (
    EPOCH_COLUMNS,
    FEATURE_PHASES,
    BestState,
    InParts,
    Trial,
    end_to_end_trainer,
    loaders_for,
    saved_bytes,
    train_end_to_end,
    try_end_to_end,
)
from vizsla.recipe.features_first import HeldOut, features_first
from vizsla.train import FORWARD, OVERHEAD, Display, RunProfile

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vizsla import DataLoaders
    from vizsla.evaluate import HistoryPoint
    from vizsla.train.callbacks import Fit

CONFIG = TrainConfig(size=32, batch_size=4, epochs=0, device="cpu")
QUIET = Display(quiet=True)


def test_presize_is_1_3_times_the_size():
    assert TrainConfig().kept_size == round(1.3 * TrainConfig().size)
    assert TrainConfig(size=64, presize=64).kept_size == 64
    assert TrainConfig(size=100).kept_size == 130


def test_impossible_options_are_refused():
    options: dict[str, list[Any]] = {
        "epochs": [-1, 1.5, "many"],
        "minutes": [0, -1.0, True, float("inf"), float("nan")],
        "size": [0, -64],
        "presize": [100, "large"],
        "batch_size": [0],
        "patience": [-1, 1.5],
        "learning_rate": [0.0, -1e-3],
        "device": ["tpu"],
        "augment": ["wild"],
        "flip": ["maybe", 1],
        "colour": ["auto"],
        "vertical_flip": [0],
    }
    for name, values in options.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"{name}.*{value!r}"):
                TrainConfig(**{name: value})


VOCAB = ("cross", "disc")


@pytest.fixture
def loaders(image_folder: Path) -> DataLoaders:
    return loaders_for(resolve_data(image_folder, seed=0), config=CONFIG)


@pytest.fixture
def classifier() -> Classifier:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    channels = backbone.stage_channels[-1]
    head = FeatureHead(stages=(-1,), statistics=("mean",), num_features=channels, num_classes=2)
    return Classifier(backbone, head, vocab=VOCAB).eval()


def state_of(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def test_everything_but_norms_trains_and_the_last_epoch_is_kept(
    classifier: Classifier, loaders: DataLoaders
):
    norms = {id(parameter) for parameter in norm_parameters(classifier)}
    trained = {name for name, value in classifier.named_parameters() if id(value) not in norms}
    before = state_of(classifier)
    start = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    config = replace(CONFIG, epochs=2, presize=40, learning_rate=1e-2, precision="fp32")
    kept: dict[float, dict[str, Tensor]] = {}
    for share in (1.0, 0.5, 0.0):
        classifier.load_state_dict(before)
        best = BestState(classifier, predictions=start, name="start")
        points: list[HistoryPoint] = []
        QUIET.header(EPOCH_COLUMNS)
        train_end_to_end(
            loaders,
            best=best,
            trial=Trial(epochs=2, share=share),
            history=points,
            notes={},
            config=config,
            display=QUIET,
        )
        assert [point.epoch for point in points] == [1, 2]
        after = state_of(classifier)
        assert {name for name in after if not torch.equal(after[name], before[name])} == trained
        best.restore()
        kept[share] = state_of(classifier)
        again = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
        assert torch.equal(again.logits, best.predictions.logits)
    for name, value in before.items():
        assert torch.equal(kept[0.0][name], value)
        if name in trained:
            torch.testing.assert_close(kept[0.5][name], (value + kept[1.0][name]) / 2)


def tried(
    loaders: DataLoaders, classifier: Classifier, *, seconds: float | None = None, **options: Any
) -> Trial:
    config = replace(CONFIG, presize=40, precision="fp32", **options)
    before = state_of(classifier)
    rows = loaders.train.rows
    every_fourth = torch.arange(len(rows)) % 4 == 0
    head = cast("FeatureHead", classifier.head)
    found = try_end_to_end(
        loaders,
        start=classifier,
        held_out=HeldOut(rest=rows[~every_fourth], held=rows[every_fourth], head=head),
        config=config,
        display=QUIET,
        seconds=seconds,
    )
    assert all(torch.equal(value, before[name]) for name, value in state_of(classifier).items())
    return found


def test_held_out_training_images_decide_what_is_kept(classifier: Classifier, loaders: DataLoaders):
    # The head is all zeros, so training lowers the loss; a ruinous rate does not.
    assert tried(loaders, classifier, epochs=3, learning_rate=1e-3).share > 0
    assert tried(loaders, classifier, epochs=3, learning_rate=10.0).share == 0
    free = tried(loaders, classifier, epochs="auto", learning_rate=1e-3, seconds=0.5)
    assert free.epochs >= 1
    assert free.share > 0
    late = tried(loaders, classifier, epochs="auto", learning_rate=1e-3, seconds=-1.0)
    assert (late.epochs, late.share) == (0, 0)


def test_patience_ends_a_trial_that_does_not_pay(classifier: Classifier, loaders: DataLoaders):
    found = tried(loaders, classifier, epochs=300, patience=1, learning_rate=10.0)
    assert (found.epochs, found.share) == (0, 0)


def test_a_step_in_parts_saves_less_and_is_that_of_the_whole_batch(
    classifier: Classifier, loaders: DataLoaders
):
    before = state_of(classifier)
    saved = saved_bytes(classifier, size=(32, 32))
    assert 3.8 * saved < saved_bytes(classifier, size=(64, 64)) < 4 * saved
    config = replace(CONFIG, augment="none", precision="fp32")
    after: dict[int, tuple[int, dict[str, Tensor]]] = {}
    for most_bytes in (4 * saved, 2 * saved, 1):
        classifier.load_state_dict(before)
        trainer = end_to_end_trainer(loaders, classifier, config=config, display=QUIET)
        trainer.fit(1, lr=1e-2, cbs=[InParts(most_bytes), parts := SeenParts()])
        after[most_bytes] = parts.number, state_of(classifier)
    assert [number for number, _ in after.values()] == [1, 2, 4]
    (_, whole), *others = after.values()
    for name, value in whole.items():
        for _, state in others:
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)


class SeenParts(Callback):
    """Remembers how many parts a batch goes through in."""

    number = 0

    def before_fit(self, fit: Fit) -> None:
        self.number = fit.settings.parts


def test_the_validation_images_decide_nothing(classifier: Classifier, loaders: DataLoaders):
    table = loaders.table
    targets = table.targets.clone()
    targets[table.valid_rows] = 1 - targets[table.valid_rows]
    other = loaders_for(replace(table, targets=targets), config=CONFIG)
    options: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3}
    assert tried(other, classifier, **options) == tried(loaders, classifier, **options)


def test_features_stage_has_every_phase(image_folder: Path):
    profile = RunProfile()
    train_classifier(
        resolve_data(image_folder, seed=0), config=CONFIG, display=QUIET, profile=profile
    )
    (stage,) = profile.stages()  # no end-to-end epochs, so no steps
    assert (stage.stage, stage.unit, stage.number) == ("features first", "images", 24)
    seconds = stage.phases
    assert list(seconds) == list(FEATURE_PHASES)
    for phase in ("loading the network", "waiting for data", FORWARD, "fitting the head"):
        assert seconds[phase] > 0
    assert stage.seconds == pytest.approx(sum(seconds.values()))


def test_profile_does_not_change_the_features_stage(image_folder: Path):
    loaders = loaders_for(resolve_data(image_folder, seed=0), config=CONFIG)
    augmentation = loaders.valid.augmentation
    plain = features_first(loaders, config=CONFIG, display=QUIET)
    watched = features_first(loaders, config=CONFIG, display=QUIET, profile=RunProfile())
    assert torch.equal(plain.predictions.logits, watched.predictions.logits)
    assert loaders.valid.augmentation is augmentation


def test_features_too_large_for_memory_give_the_same_result_also_after_a_stop(
    image_folder: Path, tmp_path: Path
):
    table = resolve_data(image_folder, seed=0)
    config = replace(CONFIG, batch_size=4)
    look = partial(features_first, config=config, display=QUIET)
    expected = look(loaders_for(table, config=config))
    store = FeatureStore(folder=tmp_path / "features", identity={"size": 32}, memory_bytes=0)
    found = look(loaders_for(table, config=config), store=store)
    assert torch.equal(found.predictions.logits, expected.predictions.logits)
    assert expected.history[-1].valid_loss == found.history[-1].valid_loss
    assert not store.folder.exists()

    missing = table.paths[int(table.train_rows[-1])]
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(PictureError):
        look(loaders_for(table, config=config), store=store)
    missing.write_bytes(content)
    (note,) = store.folder.glob("*.json")
    num_done = json.loads(note.read_text())["images"]
    assert 0 < num_done < len(table.train_rows)
    resumed = replace(store, resume=True)
    spoilt = replace(resumed, folder=tmp_path / "spoilt")
    shutil.copytree(store.folder, spoilt.folder)
    file = spoilt.folder / note.with_suffix(".f32").name
    file.write_bytes(np.float32(np.nan).tobytes() + file.read_bytes()[4:])
    with pytest.raises(TrainingError, match="1 values"):  # what is there is not computed again
        look(loaders_for(table, config=config), store=spoilt)
    found = look(loaders_for(table, config=config), store=resumed)
    assert torch.equal(found.predictions.logits, expected.predictions.logits)
    for folder, identity in ((store.folder, {"size": 64}), (tmp_path / "none", {})):
        other = FeatureStore(folder=folder, identity=identity, resume=True)
        other.prepare(1)
        with other.writing("new.f32", shape=(2, 1, 3)) as writer:
            assert writer.num_done == 0
    with pytest.raises(OutputError, match=r"1,000,000\.0 GB"):
        store.prepare(10**15)


def test_table_of_a_profile():
    profile = RunProfile()
    clock = profile.stage("looking", phases=("far", OVERHEAD), num_images=10)
    clock.stop()
    clock.seconds.update({"far": 3.0, OVERHEAD: 1.0})
    clock = profile.stage("writing", phases=("writing",), num_images=0)
    clock.stop()
    clock.seconds["writing"] = 4.0
    file = io.StringIO()
    console = Console(file=file, soft_wrap=True, width=100)
    profile.show(Display(console=console))
    assert file.getvalue().splitlines() == [
        "",
        "where the time went   seconds     share   ms each",
        "looking, 10 images       4.00     50.0%    400.00",
        "  far                    3.00     37.5%    300.00",
        "  everything else        1.00     12.5%    100.00",
        "writing, 0 images        4.00     50.0%      0.00",
    ]
    assert RunProfile(wanted=False).steps("end to end") == []
    assert RunProfile().steps("end to end") != []
