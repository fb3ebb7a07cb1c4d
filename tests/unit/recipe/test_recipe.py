"""The options of a run, its two stages, and where their time goes."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from rich.console import Console

from vizsla import (
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
from vizsla.recipe import EPOCH_COLUMNS, FEATURE_PHASES, BestState, loaders_for, train_end_to_end
from vizsla.recipe.features_first import features_first
from vizsla.train import FORWARD, OVERHEAD, Display, RunProfile

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vizsla import DataLoaders
    from vizsla.evaluate import HistoryPoint

CONFIG = TrainConfig(size=32, batch_size=4, epochs=0, device="cpu")
QUIET = Display(quiet=True)


def test_presize_is_1_3_times_the_size():
    assert TrainConfig().kept_size == round(1.3 * TrainConfig().size)
    assert TrainConfig(size=64, presize=64).kept_size == 64
    assert TrainConfig(size=100).kept_size == 130


def test_impossible_options_are_refused():
    options: dict[str, list[Any]] = {
        "epochs": [-1, 1.5, "many"],
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


def test_everything_but_norms_trains_and_the_best_state_is_restored(
    classifier: Classifier, loaders: DataLoaders
):
    norms = {id(parameter) for parameter in norm_parameters(classifier)}
    trained = {name for name, value in classifier.named_parameters() if id(value) not in norms}
    before = state_of(classifier)
    start = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    best = BestState(classifier, predictions=start, name="start")
    points: list[HistoryPoint] = []
    QUIET.header(EPOCH_COLUMNS)
    config = replace(CONFIG, epochs=2, presize=40, learning_rate=1e-2, precision="fp32")
    train_end_to_end(loaders, best=best, history=points, notes={}, config=config, display=QUIET)
    assert [point.epoch for point in points] == [1, 2]
    after = classifier.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == trained
    best.restore()
    again = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    assert torch.equal(again.logits, best.predictions.logits)
    losses = [point.valid_loss for point in points if point.valid_loss is not None]
    assert float(best.predictions.losses.mean()) <= min(losses) + 1e-6


def test_patience_ends_epochs_that_do_not_beat_the_head(
    classifier: Classifier, loaders: DataLoaders
):
    start = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    perfect = replace(start, logits=100 * torch.eye(2)[start.targets])
    for patience, epochs in ((1, 1), (2, 2), (0, 3), (3, 3)):
        points: list[HistoryPoint] = []
        config = replace(CONFIG, epochs=3, presize=40, patience=patience, precision="fp32")
        best = BestState(classifier, predictions=perfect, name="the head")
        train_end_to_end(loaders, best=best, history=points, notes={}, config=config, display=QUIET)
        assert (len(points), best.name) == (epochs, "the head")


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
