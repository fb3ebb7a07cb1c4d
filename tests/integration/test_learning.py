"""The default recipe learns two classes of small images, and what it returns is one network that says what was reported."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vizsla import DataLoaders, Predictions, Predictor, TrainConfig, train_classifier
from vizsla.data.table import resolve_data
from vizsla.infer import FeatureStore, predict_batches
from vizsla.model_file import save_bundle
from vizsla.models import FeatureHead
from vizsla.recipe import EPOCH_COLUMNS, LARGER_SIZE, TrainedRun, better_features, loaders_for
from vizsla.recipe.features_first import features_first
from vizsla.train import Display, MoveBar, RunProfile
from vizsla.types import ImageTable

CONFIG = TrainConfig(epochs=0, size=64, batch_size=8, device="cpu", num_workers=2)


@pytest.fixture
def table(draw_folder: Callable[..., Path], tmp_path: Path) -> ImageTable:
    folder = draw_folder(tmp_path / "many", per_class=16, suffix=".jpg")
    return resolve_data(folder, valid=0.25, seed=0)


def train(table: ImageTable, config: TrainConfig = CONFIG) -> TrainedRun:
    return train_classifier(table, config=config, display=Display(quiet=True))


def predicted_anew(run: TrainedRun, table: ImageTable) -> Predictions:
    """What the returned network says, which should be what was reported."""
    loaders = DataLoaders(table, resize=run.resize, batch_size=7, num_workers=0, device="cpu")
    again = predict_batches(run.classifier, loaders.valid.batches(), table=table)
    torch.testing.assert_close(again.logits, run.predictions.logits, atol=2e-3, rtol=1e-3)
    return again


def mean_loss(predictions: Predictions) -> float:
    return float(predictions.losses.mean())


def test_two_classes_are_told_apart_in_seconds(draw_folder: Callable[..., Path], tmp_path: Path):
    folder = draw_folder(tmp_path / "many", per_class=60, suffix=".jpg")
    table = resolve_data(folder, valid=0.25, seed=0)
    started = time.process_time()
    run = train(table)
    assert time.process_time() - started < 20
    assert len(run.predictions.rows) == 30
    assert run.predictions.correct.float().mean() >= 0.95
    assert [point.accuracy for point in run.history][-1] == run.predictions.correct.float().mean()
    assert not run.interrupted
    assert not any(part.training for part in run.classifier.modules())


@pytest.mark.parametrize("epochs", [0, 1])
def test_the_returned_network_says_what_is_reported(table: ImageTable, epochs: int, tmp_path: Path):
    run = train(table, replace(CONFIG, epochs=epochs))
    assert isinstance(run.classifier.head, FeatureHead)
    again = predicted_anew(run, table)
    assert torch.equal(again.rows, run.predictions.rows)
    assert torch.equal(again.predicted, run.predictions.predicted)
    path = save_bundle(tmp_path / "model.safetensors", classifier=run.classifier, resize=run.resize)
    predictor = Predictor.load(path, device="cpu")
    for position in (0, len(again.rows) - 1):
        image = table.paths[int(again.rows[position])]
        torch.testing.assert_close(
            predictor.predict(image).probabilities,
            run.predictions.probabilities[position],
            atol=1e-3,
            rtol=1e-3,
        )


def test_training_end_to_end_is_kept_only_where_it_pays(table: ImageTable):
    head_alone = train(table)
    for learning_rate in (1e-4, 0.05):  # the latter ruins the network; the head alone is then kept
        run = train(table, replace(CONFIG, epochs=1, learning_rate=learning_rate))
        assert len(run.history) == len(head_alone.history) + 1
        is_kept = "kept: epoch 1" in run.recipe
        if not is_kept:
            assert torch.equal(run.predictions.logits, head_alone.predictions.logits)
            assert "kept: the head on frozen features" in run.recipe
        assert not (is_kept and learning_rate == 0.05)
        last = run.history[-1 if is_kept else -2]
        assert last.valid_loss is not None
        assert mean_loss(run.predictions) == pytest.approx(last.valid_loss, rel=1e-6)
        assert mean_loss(predicted_anew(run, table)) == pytest.approx(
            mean_loss(run.predictions), rel=1e-3, abs=1e-5
        )


def test_minutes_are_spent_on_other_features_and_then_on_steps(
    draw_folder: Callable[..., Path], tmp_path: Path
):
    few = resolve_data(draw_folder(tmp_path / "few", per_class=4), valid=0.25, seed=0)
    quiet = Display(quiet=True)
    quiet.header(EPOCH_COLUMNS)
    asked = TrainConfig(batch_size=8, device="cpu", num_workers=0)
    first = features_first(loaders_for(few, config=asked), config=asked, display=quiet)
    stage = better_features(
        first,
        store=FeatureStore(folder=tmp_path / "features", identity={}),
        seconds=1.0,
        until=math.inf,
        display=quiet,
        profile=RunProfile(wanted=False),
    )
    kept, loaders = stage.features.config, stage.features.loaders
    assert stage.fit.loss <= first.fit.loss
    assert kept.size in (asked.size, LARGER_SIZE)
    assert any(f"{LARGER_SIZE} pixels" in note for note in stage.notes)
    again = predict_batches(stage.classifier, loaders.valid.batches(), table=few)
    torch.testing.assert_close(again.logits, stage.predictions.logits, atol=1e-3, rtol=1e-3)
    small = replace(asked, minutes=0.01, size=64)  # a size that was asked for stays
    run = train(few, small)
    assert "kept: " in run.recipe
    assert run.resize == small.resizing()


def test_a_seed_gives_the_same_predictions_with_any_number_of_workers(table: ImageTable):
    runs = [train(table, replace(CONFIG, epochs=1, num_workers=number)) for number in (0, 2)]
    assert torch.equal(runs[0].predictions.logits, runs[1].predictions.logits)


class Interrupting(Display):
    """Ctrl-C arrives when the bar of the second end-to-end epoch is shown."""

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[MoveBar]:
        if label.startswith("epoch 2"):
            raise KeyboardInterrupt
        with super().bar(label, total=total, unit=unit) as move:
            yield move


def test_ctrl_c_keeps_the_best_state_so_far(table: ImageTable):
    console = Console(file=io.StringIO())
    run = train_classifier(
        table, config=replace(CONFIG, epochs=3), display=Interrupting(console=console)
    )
    assert run.interrupted
    assert [point.stage for point in run.history].count("end to end") == 1
    predicted_anew(run, table)
    assert isinstance(console.file, io.StringIO)
    assert "Ctrl-C" in console.file.getvalue()


def test_a_loss_that_explodes_keeps_the_best_state_so_far(table: ImageTable):
    run = train(table, replace(CONFIG, epochs=2, learning_rate=1e30))
    assert "step" in run.problem
    assert "kept" in run.problem
    assert run.predictions.correct.float().mean() >= 0.75
    predicted_anew(run, table)
