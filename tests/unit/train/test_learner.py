"""The learner on small images with a tiny network: fits, predictions, signatures, ``vision_learner``. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import inspect
import io
import json
import math
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.augment.presets import aug_transforms
from vizsla.data.images.sizing import Resize
from vizsla.data.table.block import DataBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import IndexSplitter
from vizsla.errors import ConfigError, PictureError, TrainingError, WeightsError
from vizsla.evaluate.calibration import calibrate
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.groups import norm_parameters
from vizsla.models.heads import ConcatPoolHead
from vizsla.notebook.model_summary import Table
from vizsla.predict.predictor import Predictor, load_learner
from vizsla.train import learner as learner_module
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.callbacks.step import MixUp
from vizsla.train.display import Display
from vizsla.train.learner import Learner, vision_learner
from vizsla.train.losses import BCEWithLogitsLossFlat, MSELossFlat
from vizsla.train.metrics import accuracy, accuracy_multi, error_rate
from vizsla.train.recorder import SmoothedLoss
from vizsla.train.step import resolve_precision

FITS = {
    case["name"]: case
    for case in json.loads(
        (Path(__file__).resolve().parents[2] / "golden" / "schedules.json").read_text("utf-8")
    )["fits"]
}


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def changed(before: dict[str, Tensor], learner: Learner) -> set[str]:
    after = learner.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def norm_names(learner: Learner) -> set[str]:
    norms = {id(parameter) for parameter in norm_parameters(learner.model)}
    return {name for name, value in learner.model.named_parameters() if id(value) in norms}


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def spy(make_learner: Any, **options: Any) -> tuple[Learner, list[dict[int, tuple[float, float]]]]:
    """Return a learner, and per training step what its optimiser was told: {layer group: (rate, momentum)}."""
    told: list[dict[int, tuple[float, float]]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.requires_grad:
            groups = learner.opt.param_groups
            told.append(
                {group["layer_group"]: (group["lr"], group["betas"][0]) for group in groups}
            )
        return F.cross_entropy(logits, targets)

    learner = make_learner(loss_func=loss, **options)
    return learner, told


@pytest.mark.parametrize(
    "name",
    ["fit_slice", "one_cycle_default_lr", "one_cycle_custom", "fine_tune_2", "fine_tune_wd_div"],
)
def test_each_fit_gives_every_batch_the_golden_rates_and_momentum(make_learner: Any, name: str):
    case = FITS[name]
    learner, told = spy(make_learner)
    assert len(learner.dls.train) == case["batches_per_epoch"]
    assert len(learner.groups) == case["num_groups"]
    arguments = {
        key: slice(*value["slice"]) if isinstance(value, dict) else value
        for key, value in case["arguments"].items()
    }
    getattr(learner, case["method"])(**arguments)
    rates = [rates for phase in case["phases"] for rates in phase["learning_rates"]]
    momenta = [momentum for phase in case["phases"] for momentum in phase["momenta"]]
    assert len(told) == len(rates)
    for found, expected, momentum in zip(told, rates, momenta, strict=True):
        assert set(found) == {0, 1, 2}
        for group, (rate, beta) in found.items():
            np.testing.assert_allclose(rate, expected[group], rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(beta, momentum, rtol=1e-5)
    np.testing.assert_allclose(
        learner.recorder.lrs, [row[-1] for row in rates], rtol=1e-5, atol=1e-9
    )


def test_fine_tune_keeps_the_history_of_both_phases(make_learner: Any):
    learner = make_learner(metrics=[accuracy, error_rate])
    learner.fine_tune(2)
    points = learner.recorder.history
    assert [point.stage for point in points] == ["frozen", "unfrozen", "unfrozen"]
    assert [point.epoch for point in points] == [0, 1, 2]
    assert len(learner.recorder.losses) == len(learner.recorder.lrs) == 15
    assert learner.recorder.metric_names == ("accuracy", "error_rate")
    for point, values in zip(points, learner.recorder.values, strict=True):
        assert values[:2] == [point.train_loss, point.valid_loss]
        assert values[2] == point.accuracy == 1 - values[3]
        assert point.seconds > 0
    learner.fit(1)
    assert len(learner.recorder.history) == 4
    assert learner.recorder.history[3].stage == "fit"


def test_the_training_loss_is_smoothed_over_the_fit(make_learner: Any):
    learner = make_learner()
    learner.fit(2)
    for epoch in range(2):
        smoothed = SmoothedLoss()
        smoothed.add(learner.recorder.losses[: 5 * (epoch + 1)])
        assert learner.recorder.history[epoch].train_loss == smoothed.value
    learner.fit(1)
    smoothed = SmoothedLoss()
    smoothed.add(learner.recorder.losses[10:])
    assert learner.recorder.history[2].train_loss == smoothed.value


def test_fine_tune_learns(make_learner: Any):
    learner = make_learner(metrics=accuracy, dropout=0.0)
    before = learner.validate(0)
    # With 6 epochs of 2e-2, one seed of three ended with a higher loss than it began.
    learner.fine_tune(20, base_lr=1e-2)
    after = learner.validate(0)
    # From 0.69 to between 0.06 and 0.11, all images right: five seeds, with and without vector instructions.
    assert after[0] < before[0] / 2
    assert after[1] > 0.8


def test_frozen_only_the_head_and_the_norms_train_and_statistics_move(make_learner: Any):
    learner = make_learner()
    learner.freeze()
    before = state_of(learner)
    learner.fit(1, 0.01)
    moved = changed(before, learner)
    body = {name for name in moved if name.startswith("backbone.")}
    assert {name for name in body if not is_statistic(name)} == {
        name for name in norm_names(learner) if name.startswith("backbone.")
    }
    assert any(is_statistic(name) for name in body)
    assert {name for name, _ in learner.model.head.named_parameters(prefix="head")} <= moved


def test_without_train_bn_a_frozen_body_stays_exactly_as_it_is(make_learner: Any):
    learner = make_learner(train_bn=False)
    learner.freeze()
    before = state_of(learner)
    learner.fit(1, 0.01)
    moved = changed(before, learner)
    assert all(name.startswith("head.") for name in moved)
    assert any(is_statistic(name) for name in moved)


def test_unfreezing_lets_everything_train_again(make_learner: Any):
    learner = make_learner(train_bn=False)
    learner.freeze()
    learner.unfreeze()
    before = state_of(learner)
    learner.fit(1, 0.01)
    assert {name for name, _ in learner.model.named_parameters()} <= changed(before, learner)


def test_what_was_trained_and_then_frozen_does_not_move_by_weight_decay(make_learner: Any):
    learner = make_learner(wd=0.3)
    learner.fit(1, 0.05)
    learner.freeze()
    before = state_of(learner)
    learner.fit(1, 0.05)
    moved = {
        name
        for name in changed(before, learner)
        if name.startswith("backbone.") and not is_statistic(name)
    }
    assert moved <= norm_names(learner)


def test_the_optimiser_lives_across_fits_until_something_is_frozen(make_learner: Any):
    learner, told = spy(make_learner)
    learner.fit_one_cycle(1)
    learner.fit(1)
    # A fit at a constant rate leaves the momentum where the cycle ended.
    assert told[5][2][1] == told[4][2][1] != 0.9
    learner.unfreeze()
    learner.fit(1)
    assert told[10][2][1] == 0.9


def test_metrics_see_the_whole_validation_set_at_once(make_learner: Any, make_loaders: Any):
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def share_of_first(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append((tuple(logits.shape), tuple(targets.shape)))
        return (logits.argmax(1) == 0).float().mean()

    learner = make_learner(make_loaders(num_valid=7), metrics=[share_of_first, error_rate])
    loss, first, error = learner.validate()
    assert seen == [((7, 2), (7,))]
    predictions = learner.predictions()
    assert first == pytest.approx(float((predictions.predicted == 0).float().mean()))
    assert error == pytest.approx(1 - float(predictions.correct.float().mean()))
    assert loss == pytest.approx(float(predictions.losses.mean()), rel=1e-6)


def test_a_fit_reports_what_validate_says_afterwards(make_learner: Any):
    learner = make_learner(metrics=error_rate)
    learner.fit(1)
    assert learner.recorder.values[0][1:] == learner.validate()


def test_probabilities_are_rows_that_sum_to_one_in_the_order_of_the_split(make_learner: Any):
    learner = make_learner()
    for split, rows in enumerate((learner.dls.train.rows, learner.dls.valid.rows)):
        probabilities, targets = learner.get_preds(split)
        assert probabilities.shape == (len(rows), 2)
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(rows)))
        assert torch.equal(targets, learner.dls.table.targets[rows])


def test_training_pictures_are_predicted_as_in_validation(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(transforms=aug_transforms(size=32, max_rotate=30.0)))
    first, targets = learner.get_preds(0)
    second, _ = learner.get_preds(0)
    assert torch.equal(first, second)
    held_out = make_loaders(num_valid=24)
    expected = make_learner(held_out).get_preds(1)[0][: len(targets)]
    torch.testing.assert_close(first, expected)


def test_prediction_leaves_the_model_as_it_was(make_learner: Any):
    learner = make_learner()
    learner.model.train()
    before = state_of(learner)
    learner.get_preds()
    learner.validate()
    learner.predict(learner.dls.table.paths[0])
    assert changed(before, learner) == set()
    assert all(part.training for part in learner.model.modules())


def test_predict_unpacks_and_says_what_get_preds_says(make_learner: Any):
    learner = make_learner()
    learner.fit(1, 0.01)
    probabilities, _ = learner.get_preds()
    for row, expected in zip(learner.dls.valid.rows.tolist(), probabilities, strict=True):
        path = learner.dls.table.paths[row]
        label, index, found = learner.predict(path)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert index == int(expected.argmax())
        assert label == learner.dls.vocab[index]


def test_predict_takes_a_picture_in_any_form_and_leaves_it_alone(make_learner: Any):
    learner = make_learner()
    path = learner.dls.table.paths[0]
    expected = learner.predict(path).probabilities
    with Image.open(path) as picture:
        loaded = picture.copy()
    pixels = np.asarray(loaded)
    before = pixels.copy()
    for item in (str(path), path.read_bytes(), loaded, pixels):
        assert torch.equal(learner.predict(item).probabilities, expected)
    assert np.array_equal(pixels, before)
    assert np.array_equal(np.asarray(loaded), before)


def test_an_exported_model_gives_the_same_probabilities(make_learner: Any, tmp_path: Path):
    learner = make_learner()
    learner.fit(1, 0.01)
    before = state_of(learner)
    path = learner.export(tmp_path / "model.safetensors")
    assert changed(before, learner) == set()
    probabilities, _ = learner.get_preds()
    paths = [learner.dls.table.paths[row] for row in learner.dls.valid.rows.tolist()]
    for opened in (Predictor.load(path, device="cpu"), load_learner(path)):
        assert opened.vocab == learner.dls.vocab
        found = torch.stack([opened.predict(path).probabilities for path in paths])
        torch.testing.assert_close(found, probabilities, atol=1e-5, rtol=1e-5)
    learner.fit(1)  # it goes on training


def test_predict_is_calibrated_as_the_exported_model_is(
    make_learner: Any, make_loaders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # A temperature that is kept takes more images than there are here.
    monkeypatch.setattr(learner_module, "calibrate", partial(calibrate, temperature=3.0))
    learner = make_learner(make_loaders(num_valid=12))
    path = learner.dls.table.paths[0]
    plain = learner.model.activation(learner.predictions(dl=learner.dls.test_dl([path])).logits)
    opened = Predictor.load(learner.export(tmp_path / "model.safetensors"), device="cpu")
    assert opened.calibration == learner.calibration()
    probabilities = learner.predict(path).probabilities
    torch.testing.assert_close(probabilities, opened.predict(path).probabilities)
    assert not torch.allclose(probabilities, plain[0], atol=1e-3)


def test_the_calibration_is_fitted_once_for_each_state_of_the_network(
    make_learner: Any, make_loaders: Any, monkeypatch: pytest.MonkeyPatch
):
    learner = make_learner(make_loaders(num_valid=12))
    predicted: list[int] = []
    predictions = type(learner).predictions

    def count(self: Any, *arguments: Any, **options: Any) -> Any:
        predicted.append(self.steps_done)
        return predictions(self, *arguments, **options)

    monkeypatch.setattr(type(learner), "predictions", count)
    path = learner.dls.table.paths[0]
    learner.predict(path)
    first = learner.calibration()
    learner.predict(path)
    assert predicted == [0]
    learner.fit(1, 1e-2)
    steps = learner.steps_done
    learner.predict(path)  # The validation of the epoch is all that it takes.
    assert learner.calibration() != first
    assert predicted == [0, steps]
    with pytest.raises(KeyboardInterrupt):
        learner.fit(1, 1e-2, cbs=Interrupt())
    second = learner.calibration()
    assert predicted == [0, steps, steps + 2]
    learner.model.load_state_dict(make_learner().model.state_dict())
    assert learner.calibration() != second


class Interrupt(Callback):
    def after_step(self, fit: Fit) -> None:
        if fit.step == 2:
            raise KeyboardInterrupt


def test_an_exported_model_resizes_on_the_device_as_validation_does(
    make_learner: Any, make_loaders: Any, tmp_path: Path
):
    learner = make_learner(make_loaders(transforms=aug_transforms(size=24)))
    path = learner.export(tmp_path / "model.safetensors")
    probabilities, _ = learner.get_preds()
    picture = learner.dls.table.paths[int(learner.dls.valid.rows[0])]
    found = Predictor.load(path, device="cpu").predict(picture).probabilities
    torch.testing.assert_close(found, probabilities[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(learner.predict(picture).probabilities, found)


def test_a_model_of_other_classes_is_refused(make_loaders: Any):
    for vocab in [("disc", "cross"), ("cross", "disc", "star"), ("a", "b")]:
        backbone = build_backbone("test_resnet", pretrained=False)
        head = ConcatPoolHead(backbone.num_features, len(vocab))
        with pytest.raises(ConfigError, match=f"has {len(vocab)} classes.*the data 2"):
            Learner(make_loaders(), Classifier(backbone, head, vocab=vocab))


def test_an_unknown_precision_is_refused(make_learner: Any):
    with pytest.raises(ConfigError, match="Received: 'fp8'"):
        make_learner(precision="fp8")


def trained(make_learner: Any, loaders: Any) -> tuple[list[float], dict[str, Tensor]]:
    learner = make_learner(loaders)
    learner.fine_tune(1)
    return learner.recorder.losses, state_of(learner)


def test_the_same_seed_gives_the_same_run_bit_for_bit_whatever_the_number_of_workers(
    make_learner: Any, make_loaders: Any
):
    runs: list[tuple[list[float], dict[str, Tensor]]] = []
    for num_workers in (0, 0, 3):
        torch.rand(1)  # what others draw plays no part
        loaders = make_loaders(num_workers=num_workers, transforms=aug_transforms(size=32))
        runs.append(trained(make_learner, loaders))
    for losses, state in runs[1:]:
        assert losses == runs[0][0]
        assert all(torch.equal(value, runs[0][1][name]) for name, value in state.items())


def test_another_seed_gives_another_run(make_learner: Any, make_loaders: Any):
    first, _ = trained(make_learner, make_loaders(seed=0))
    second, _ = trained(make_learner, make_loaders(seed=1))
    assert first != second


def test_dropout_differs_from_epoch_to_epoch(make_learner: Any, make_loaders: Any):
    # At a rate of next to nothing and one batch of whole pictures, only dropout tells two epochs apart.
    def losses(dropout: float) -> list[float]:
        learner = make_learner(make_loaders(batch_size=20, method="squish"), dropout=dropout)
        learner.fit(3, 1e-12)
        return learner.recorder.losses

    assert np.ptp(losses(0.0)) < 1e-4
    assert np.ptp(losses(0.5)) > 1e-3


def test_training_leaves_the_global_random_state_alone(make_learner: Any):
    learner = make_learner()
    state = torch.get_rng_state()
    learner.fit(1)
    learner.get_preds()
    assert torch.equal(torch.get_rng_state(), state)


def test_two_learners_share_loaders(make_learner: Any, make_loaders: Any):
    loaders = make_loaders()
    first = make_learner(loaders)
    expected = make_learner(make_loaders()).get_preds()[0]
    first.fit(1, 0.05)
    assert torch.equal(make_learner(loaders).get_preds()[0], expected)


def test_bf16_trains_nearly_as_float32(make_learner: Any):
    exact, rough = make_learner(dropout=0.0), make_learner(dropout=0.0, precision="bf16")
    exact.fit(1)
    rough.fit(1)
    assert rough.recorder.losses[0] != exact.recorder.losses[0]
    assert rough.recorder.losses[0] == pytest.approx(exact.recorder.losses[0], abs=0.05)


def test_only_a_positive_whole_number_of_epochs_is_trained(make_learner: Any):
    for method in ["fit", "fit_one_cycle", "fit_flat_cos", "fine_tune"]:
        for epochs in [0, -1, 1.5, True, "2", None]:
            learner = make_learner()
            before = state_of(learner)
            with pytest.raises(
                ConfigError, match=f"from 1 on. Received: {re.escape(repr(epochs))}"
            ):
                getattr(learner, method)(epochs)
            assert changed(before, learner) == set()
            assert learner.recorder.history == []


def test_rates_that_cannot_work_are_refused_before_the_first_step(make_learner: Any):
    for method in ["fit", "fit_one_cycle"]:
        for rates in [0, -1e-3, math.nan, [1e-3, 1e-3], slice(1e-3, None)]:
            learner = make_learner()
            with pytest.raises(ConfigError, match=r"(?i)learning rates"):
                getattr(learner, method)(1, rates)
            assert learner.recorder.losses == []


def test_without_training_pictures_nothing_is_trained(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_valid=24))
    with pytest.raises(TrainingError, match="no training images"):
        learner.fit(1)


def test_fewer_pictures_than_a_batch_still_train(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(batch_size=64))
    learner.fit(2)
    assert len(learner.recorder.losses) == 2


def failing(step: int, *, error: BaseException | None = None) -> Any:
    """Return a loss function that raises ``error``, or without one gives nan, at one training step."""
    steps = iter(range(1000))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = F.cross_entropy(logits, targets)
        if not logits.requires_grad or next(steps) != step:
            return found
        if error is not None:
            raise error
        return found * math.nan

    return loss


def test_a_loss_that_is_not_finite_stops_the_fit_and_names_the_step(make_learner: Any):
    learner = make_learner(loss_func=failing(7))
    with pytest.raises(
        TrainingError, match=r"became nan at step 7 of 10, at learning rates group 0: 0\.0"
    ):
        learner.fit(2, 1e-2)
    assert len(learner.recorder.history) == 1


def test_a_divergence_in_the_very_last_step_is_noticed_too(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(batch_size=20))
    with pytest.raises(ConfigError, match="not finite"):
        learner.fit(1, 1e30)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_error_in_a_step_arrives_unchanged_and_ends_the_reading_threads(
    make_learner: Any, make_loaders: Any, error: BaseException
):
    loaders = make_loaders(num_workers=2, batch_size=2)
    learner = make_learner(loaders, loss_func=failing(1, error=error))
    before = set(threading.enumerate())
    with pytest.raises(type(error)) as raised:
        learner.fit(1)
    assert raised.value is error
    assert set(threading.enumerate()) == before
    learner.fit(1)  # the learner can still be used
    assert len(learner.recorder.history) == 1


def test_a_fit_prints_a_table_without_control_characters(
    make_learner: Any, capsys: pytest.CaptureFixture[str]
):
    learner = make_learner(metrics=error_rate, quiet=False)
    learner.fine_tune(2)
    text = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    header = r"epoch     train_loss  valid_loss  error_rate  time\n"
    row = r"%d         \d\.\d{6}    \d\.\d{6}    \d\.\d{6}    \d\d:\d\d\n"
    assert re.fullmatch(header + row % 0 + header + row % 0 + row % 1, text)
    last = text.splitlines()[-1].split()
    assert last[1:4] == [f"{value:.6f}" for value in learner.recorder.values[-1]]


def test_quiet_prints_nothing(make_learner: Any, capsys: pytest.CaptureFixture[str]):
    learner = make_learner(quiet=True)
    learner.fine_tune(1)
    assert capsys.readouterr() == ("", "")


def test_freeze_to_counts_groups_from_either_end(make_learner: Any):
    learner = make_learner(train_bn=False)

    def training() -> list[bool]:
        return [all(value.requires_grad for value in group) for group in learner.groups]

    learner.freeze_to(-1)
    assert training() == [False, False, True]
    learner.freeze_to(1)
    assert training() == [False, True, True]
    learner.freeze_to(-2)
    assert training() == [False, True, True]
    learner.freeze_to(0)
    assert training() == [True, True, True]
    with pytest.raises(ConfigError, match="counts beyond the first"):
        learner.freeze_to(-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"freeze_epochs": 0},
        {"lr_mult": 0},
        {"lr_mult": -100},
        {"lr_mult": math.nan},
        {"base_lr": -1e-3},
        {"div": 0},
        {"pct_start": 2},
        {"moms": (1.0, 0.9, 0.9)},
    ],
    ids=str,
)
def test_fine_tune_refuses_what_cannot_work_before_its_first_step(
    make_learner: Any, arguments: dict[str, Any]
):
    learner = make_learner()
    with pytest.raises(ConfigError, match="Received"):
        learner.fine_tune(1, **arguments)
    assert learner.recorder.losses == []
    assert all(parameter.requires_grad for parameter in learner.model.parameters())


def test_without_validation_pictures_it_trains_all_the_same(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_valid=0), metrics=error_rate)
    learner.fit(1)
    assert len(learner.recorder.losses) == 6
    assert math.isfinite(learner.recorder.values[0][0])
    assert all(map(math.isnan, learner.recorder.values[0][1:]))


@pytest.fixture
def learner(make_learner: Any, make_loaders: Any) -> Learner:
    """A learner with ten pictures to validate on, in batches of four, that was trained a little."""
    learner = make_learner(make_loaders(num_valid=10), metrics=[accuracy, error_rate])
    learner.fit(1, 1e-2)
    return learner


def noop(values: Tensor) -> Tensor:
    return values


# --- get_preds -------------------------------------------------------------------------------------------------------


def test_predictions_of_the_validation_pictures_come_in_their_order(learner: Any):
    probabilities, targets = learner.get_preds()
    assert (probabilities.shape, probabilities.dtype) == ((10, 2), torch.float32)
    assert type(probabilities) is type(targets) is Tensor
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(10))
    assert torch.equal(targets, learner.dls.table.targets[learner.dls.table.valid_rows])
    predictions = learner.predictions()
    assert torch.equal(predictions.probabilities, probabilities)


def test_predictions_of_the_training_pictures_are_not_augmented(
    make_learner: Any, make_loaders: Any
):
    learner = make_learner(make_loaders(transforms=aug_transforms(size=32)))
    first, targets = learner.get_preds(ds_idx=0)
    again, _ = learner.get_preds(0)
    assert torch.equal(first, again)
    assert len(first) == 20  # the batch that training leaves out is there
    assert torch.equal(targets, learner.dls.table.targets[learner.dls.table.train_rows])


def test_one_batch_gives_the_first_predictions(learner: Any):
    """Pictures are normalised once wherever a batch comes from."""
    images, targets = learner.dls.valid.one_batch()
    found, known = learner.get_preds(dl=[(images, targets)])
    expected, all_targets = learner.get_preds()
    assert len(found) == learner.dls.valid.bs == 4
    torch.testing.assert_close(found, expected[:4], atol=1e-6, rtol=0)
    assert torch.equal(known, all_targets[:4])
    assert learner.get_preds(dl=[learner.dls.valid.one_batch()])[0].shape == (4, 2)


def test_a_loader_without_labels_gives_no_targets(learner: Any):
    rows = learner.dls.table.valid_rows.flip(0).tolist()
    loader = learner.dls.test_dl([learner.dls.table.paths[row] for row in rows])
    probabilities, targets = learner.get_preds(dl=loader)
    assert targets is None
    expected = learner.get_preds()[0]
    torch.testing.assert_close(probabilities, expected.flip(0), atol=1e-6, rtol=0)


def test_inputs_come_first_then_decoded_and_losses(learner: Any):
    images, probabilities, targets, decoded, losses = learner.get_preds(
        with_input=True, with_decoded=True, with_loss=True
    )
    assert images.shape == (10, 3, 32, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(decoded, probabilities.argmax(dim=1))
    logits = learner.get_preds(act=noop)[0]
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(logits.softmax(dim=1), probabilities)
    torch.testing.assert_close(images[:4], learner.dls.valid.one_batch()[0])


def test_losses_without_labels_are_refused(learner: Any):
    loader = learner.dls.test_dl([learner.dls.table.paths[0]])
    with pytest.raises(ConfigError, match="have no labels, so they have no loss"):
        learner.get_preds(dl=loader, with_loss=True)


def test_a_split_that_does_not_exist_is_refused_everywhere(learner: Any):
    for method in ["get_preds", "validate", "tta", "show_results"]:
        for split in [2, -1, None]:
            with pytest.raises(ConfigError, match=f"Received: {split}"):
                getattr(learner, method)(split)


# --- validate --------------------------------------------------------------------------------------------------------


def test_validate_gives_loss_and_metrics_of_the_whole_set(learner: Any):
    found = learner.validate()
    probabilities, targets = learner.get_preds()
    right = float((probabilities.argmax(dim=1) == targets).float().mean())
    expected = [float(F.nll_loss(probabilities.log(), targets)), right, 1 - right]
    assert found == pytest.approx(expected, abs=1e-5)
    assert learner.recorder.values[-1][1:] == found


def test_validate_takes_another_loader(learner: Any):
    loader = learner.dls.loader_for(learner.dls.table.valid_rows)
    assert learner.validate(dl=loader) == pytest.approx(learner.validate(), abs=1e-6)
    unlabelled = learner.dls.test_dl([learner.dls.table.paths[0]])
    with pytest.raises(ConfigError, match="with_labels=True"):
        learner.validate(dl=unlabelled)


# --- predict and tta -------------------------------------------------------------------------------------------------


def test_predict_with_input_begins_with_what_the_network_saw(learner: Any):
    row = int(learner.dls.table.valid_rows[0])
    path = learner.dls.table.paths[row]
    picture, label, index, probabilities = learner.predict(path, with_input=True)
    torch.testing.assert_close(picture, learner.dls.valid.one_batch()[0][0])
    plain = learner.predict(path)
    assert (label, index) == tuple(plain)[:2]
    assert torch.equal(probabilities, tuple(plain)[2])


def test_predict_refuses_what_is_no_picture(learner: Any, tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(PictureError):
        learner.predict(tmp_path / "notes.jpg")


@pytest.fixture
def augmenting(make_learner: Any, make_loaders: Any) -> Learner:
    return make_learner(make_loaders(num_valid=6, transforms=aug_transforms(size=32)))


def test_tta_weighs_views_and_plain_pictures(augmenting: Any):
    ((views, plain), targets) = augmenting.tta(beta=None)
    mixed, again = augmenting.tta()
    expected, known = augmenting.get_preds()
    torch.testing.assert_close(plain, expected)
    assert torch.equal(targets, known)
    assert torch.equal(again, known)
    torch.testing.assert_close(mixed, 0.75 * views + 0.25 * plain)
    assert not torch.allclose(views, plain, atol=1e-4)
    highest, _ = augmenting.tta(use_max=True)
    assert bool((highest >= plain - 1e-6).all())
    assert float(highest.sum(dim=1).max()) > 1


def test_views_differ_and_are_the_same_next_time(augmenting: Any):
    ((one, _), _), ((two, _), _) = augmenting.tta(n=1, beta=None), augmenting.tta(n=2, beta=None)
    ((again, _), _) = augmenting.tta(n=1, beta=None)
    assert torch.equal(one, again)
    assert not torch.allclose(one, two, atol=1e-6)


def test_tta_of_other_pictures_and_of_the_training_pictures(augmenting: Any):
    table = augmenting.dls.table
    rows = table.valid_rows.flip(0)
    loader = augmenting.dls.test_dl([table.paths[row] for row in rows.tolist()])
    found, targets = augmenting.tta(dl=loader)
    assert targets is None
    assert found.shape == (6, 2)
    on_training, known = augmenting.tta(0)
    assert on_training.shape == (18, 2)
    assert torch.equal(known, table.targets[table.train_rows])


def test_views_that_cannot_be_made_are_refused(augmenting: Any):
    for n in [0, -1, 1.5]:
        with pytest.raises(ConfigError, match=f"at least 1. Received: {n}"):
            augmenting.tta(n=n)


# --- pictures, bars, signatures --------------------------------------------------------------------------------------


def test_results_are_shown_with_label_and_prediction(learner: Any):
    from matplotlib import pyplot as plt

    learner.show_results(max_n=4, shuffle=False)
    titles = [axes.get_title() for axes in plt.gcf().axes if axes.get_images()]
    vocab = learner.dls.vocab
    _, targets, decoded = learner.get_preds(with_decoded=True)
    pairs = zip(targets[:4].tolist(), decoded[:4].tolist(), strict=True)
    assert titles == [f"{vocab[target]}\n{vocab[guess]}" for target, guess in pairs]
    colours = [axes.title.get_color() for axes in plt.gcf().axes if axes.get_images()]
    agree = (targets[:4] == decoded[:4]).tolist()
    assert colours == ["green" if right else "red" for right in agree]
    plt.close("all")


def test_without_bars_the_table_stays(make_learner: Any):
    text = io.StringIO()
    learner = make_learner(quiet=False)
    learner.display = Display(console=Console(file=text, force_terminal=True, width=100))
    with learner.no_bar() as same:
        assert same is learner
        learner.fit(1)
    assert "\x1b[" not in text.getvalue()
    assert "train_loss" in text.getvalue()
    assert learner.display.bars
    learner.fit(1)
    assert "epoch 1/1" in text.getvalue()


def test_arguments_are_written_out_in_their_order():
    for method, names in [
        ("fit", ["n_epoch", "lr", "wd", "cbs", "reset_opt", "start_epoch"]),
        (
            "fit_one_cycle",
            [
                "n_epoch",
                "lr_max",
                "div",
                "div_final",
                "pct_start",
                "wd",
                "moms",
                "cbs",
                "reset_opt",
                "start_epoch",
            ],
        ),
        (
            "fit_flat_cos",
            ["n_epoch", "lr", "div_final", "pct_start", "wd", "cbs", "reset_opt", "start_epoch"],
        ),
        (
            "fit_sgdr",
            [
                "n_cycles",
                "cycle_len",
                "lr_max",
                "cycle_mult",
                "cbs",
                "reset_opt",
                "wd",
                "start_epoch",
            ],
        ),
        ("get_preds", ["ds_idx", "dl", "with_input", "with_decoded", "with_loss", "act"]),
        ("validate", ["ds_idx", "dl"]),
        ("tta", ["ds_idx", "dl", "n", "beta", "use_max"]),
        ("lr_find", ["start_lr", "end_lr", "num_it", "stop_div", "show_plot", "suggest_funcs"]),
        ("save", ["file", "with_opt"]),
        ("load", ["file", "device", "with_opt", "strict"]),
    ]:
        assert list(inspect.signature(getattr(Learner, method)).parameters)[1:] == names


def test_fine_tune_refuses_lr_max_with_a_hint(make_learner: Any):
    with pytest.raises(ConfigError, match=r"Give base_lr"):
        make_learner().fine_tune(1, lr_max=1e-3)


def test_pictures_of_other_channels_are_refused(make_loaders: Any):
    with pytest.raises(ConfigError, match="n_in is 3"):
        vision_learner(make_loaders(), "test_resnet", pretrained=False, n_in=1, quiet=True)


# --- several labels, numbers -----------------------------------------------------------------------------------------

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 60, 220)}
NAMES = ("blue", "green", "red")


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """32 pictures with stripes of any of three colours, which their names tell, and how bright they are."""
    random = np.random.default_rng(0)
    for number in range(32):
        present = [name for place, name in enumerate(NAMES) if (number >> place) & 1]
        pixels = random.integers(90, 110, (24, 24, 3), dtype=np.uint8)
        for name in present:
            top = 8 * NAMES.index(name)
            pixels[top : top + 8] = COLOURS[name]
        brightness = int(random.integers(0, 60))
        pixels = (pixels.astype(int) + brightness).clip(0, 255).astype(np.uint8)
        name = f"{number}_{'+'.join(present) or 'none'}_{brightness}.png"
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def colours_of(path: Path) -> list[str]:
    return [name for name in path.stem.split("_")[1].split("+") if name != "none"]


def brightness_of(path: Path) -> float:
    return int(path.stem.split("_")[2]) / 60


def learner_of_stripes(
    stripes: Path, block: Any, get_y: Any, metrics: Any, *, epochs: int = 6, **options: Any
) -> Any:
    data = DataBlock(
        blocks=(ImageBlock, block),
        get_items=get_image_files,
        get_y=get_y,
        splitter=IndexSplitter(list(range(24, 32))),
        item_tfms=Resize(24),
    )
    loaders = data.dataloaders(stripes, bs=8, seed=0, num_workers=0, device="cpu")
    learner = vision_learner(
        loaders, "test_resnet", pretrained=False, metrics=metrics, quiet=True, ps=0.0, **options
    )
    learner.fit_one_cycle(epochs, 1e-2)
    return learner


def test_several_labels_are_learned_from_end_to_end(stripes: Path, tmp_path: Path):
    # After 6 epochs 0.67 to 0.92 of the labels are right, after 20 all of them: six seeds.
    learner = learner_of_stripes(stripes, MultiCategoryBlock, colours_of, accuracy_multi, epochs=20)
    assert isinstance(learner.loss_func, BCEWithLogitsLossFlat)
    assert learner.dls.vocab == NAMES
    table = learner.dls.table
    probabilities, targets, decoded, losses = learner.get_preds(with_decoded=True, with_loss=True)
    assert torch.equal(targets, table.targets[table.valid_rows])
    assert torch.equal(decoded, probabilities > 0.5)
    expected = F.binary_cross_entropy(probabilities, targets, reduction="none").mean(dim=1)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-4)
    loss, right = learner.validate()
    assert loss == pytest.approx(float(losses.mean()), abs=1e-5)
    assert learner.recorder.values[-1][0] < learner.recorder.losses[0]
    assert right > 0.8
    path = table.paths[int(table.valid_rows[0])]
    prediction = learner.predict(path)
    torch.testing.assert_close(tuple(prediction)[2], probabilities[0], atol=1e-5, rtol=1e-5)
    views, _ = learner.tta(n=1)
    assert views.shape == probabilities.shape
    opened = Predictor.load(learner.export(stripes / "model.safetensors"), device="cpu")
    torch.testing.assert_close(
        opened.predict(path).probabilities, probabilities[0], atol=1e-5, rtol=1e-5
    )
    assert learner.recorder.history[-1].accuracy is None  # not of one class each


def test_numbers_are_learned_from_end_to_end(stripes: Path):
    # Without bounds and with a hidden layer, the losses of 24 images jump by factors of ten for so long that the rounding of the
    # processor decides where they end, in a plain loop of torch too.
    learner = learner_of_stripes(
        stripes, RegressionBlock, brightness_of, None, epochs=20, y_range=(-0.1, 1.1), lin_ftrs=[]
    )
    assert isinstance(learner.loss_func, MSELossFlat)
    table = learner.dls.table
    values, targets, decoded, losses = learner.get_preds(with_decoded=True, with_loss=True)
    # One number for all would be wrong by the variance. Five seeds and three instruction sets left 0.04 to 0.10 of it.
    assert learner.recorder.values[-1][1] < 0.4 * float(targets.var(unbiased=False))
    assert values.shape == targets.shape == (8, 1)
    assert torch.equal(decoded, values)  # the outputs themselves
    torch.testing.assert_close(losses, (values - targets).square().mean(dim=1))
    assert learner.validate() == [pytest.approx(float(losses.mean()), abs=1e-6)]
    path = table.paths[int(table.valid_rows[0])]
    assert learner.predict(path).values == pytest.approx(values[0].tolist(), abs=1e-5)
    learner.save("numbers")
    learner.load("numbers")
    opened = Predictor.load(learner.export(stripes / "model.safetensors"), device="cpu")
    assert opened.predict(path).values == pytest.approx(values[0].tolist(), abs=1e-5)


def test_results_of_several_labels_and_of_numbers_can_be_shown(stripes: Path):
    from matplotlib import pyplot as plt

    for block, get_y in ((MultiCategoryBlock, colours_of), (RegressionBlock, brightness_of)):
        learner_of_stripes(stripes, block, get_y, None).show_results(max_n=2)
        assert len([axes for axes in plt.gcf().axes if axes.get_images()]) == 2
        plt.close("all")


def test_a_loss_of_ones_own_decides_what_outputs_mean(make_learner: Any):
    learner = make_learner(loss_func=nn.MSELoss())
    raw = learner.get_preds(act=noop)[0]
    assert torch.equal(learner.get_preds()[0], raw)
    assert not math.isclose(float(raw.sum()), len(raw))


def classifier_of(learner: Learner) -> Classifier:
    assert isinstance(learner.model, Classifier)
    return learner.model


def trainable_body(learner: Any) -> list[str]:
    body = classifier_of(learner).backbone.named_parameters()
    return [name for name, value in body if value.requires_grad]


def test_pretrained_weights_start_frozen_and_fine_tune_learns_from_few_small_pictures(
    make_loaders: Any,
):
    learner = vision_learner(
        make_loaders(num_valid=8, batch_size=8),
        "efficientnet_lite0",
        metrics=error_rate,
        train_bn=False,
        quiet=True,
    )
    assert trainable_body(learner) == []
    assert (
        classifier_of(learner).preprocessing.mean
        == classifier_of(learner).backbone.preprocessing.mean
    )
    before = learner.validate()[0]
    learner.fine_tune(2, base_lr=5e-3)
    points = learner.recorder.history
    assert [point.stage for point in points] == ["frozen", "unfrozen", "unfrozen"]
    # The head on pretrained features learns: 0.48 to 0.61 times the loss, five seeds. Where the loss of the body's two epochs on
    # 16 images ends depends on the seed; test_fine_tune_learns has the epochs that this takes.
    assert points[0].valid_loss is not None
    assert points[0].valid_loss < 0.8 * before
    assert len(trainable_body(learner)) > 100


def test_random_weights_start_with_nothing_frozen(make_loaders: Any):
    learner = vision_learner(make_loaders(), "test_resnet", pretrained=False, quiet=True)
    assert all(value.requires_grad for value in learner.model.parameters())
    assert classifier_of(learner).backbone.spec.weights == "random"


def test_frozen_norms_train_unless_asked_not_to(make_loaders: Any):
    learner = vision_learner(make_loaders(), "efficientnet_lite0", quiet=True)
    names = trainable_body(learner)
    assert names
    assert all(".bn" in name or "bn" in name for name in names)


def test_a_network_of_ones_own_keeps_its_weights(make_loaders: Any):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
    expected = {name: value.clone() for name, value in body.state_dict().items()}
    learner = vision_learner(make_loaders(), body, pretrained=False, quiet=True)
    for name, value in classifier_of(learner).backbone.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    learner.fine_tune(1)
    assert len(learner.recorder.history) == 2


def test_settings_of_the_head_reach_it(make_loaders: Any):
    learner = vision_learner(
        make_loaders(),
        "test_resnet",
        pretrained=False,
        concat_pool=False,
        lin_ftrs=[16, 8],
        ps=0.2,
        first_bn=False,
        bn_final=True,
        lin_first=True,
        y_range=(-1.0, 1.0),
        quiet=True,
    )
    head = classifier_of(learner).head
    assert isinstance(head, ConcatPoolHead)
    expected = ConcatPoolHead(
        classifier_of(learner).backbone.num_features,
        2,
        concat_pool=False,
        lin_ftrs=[16, 8],
        ps=0.2,
        first_bn=False,
        bn_final=True,
        lin_first=True,
        y_range=(-1.0, 1.0),
    )
    assert head.config() == expected.config()
    assert str(head) == str(expected)


def test_settings_of_the_learner_reach_it(make_loaders: Any):
    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)

    learner = vision_learner(
        make_loaders(),
        "test_resnet",
        pretrained=False,
        loss_func=loss,
        lr=0.5,
        metrics=[error_rate],
        wd=0.25,
        wd_bn_bias=True,
        train_bn=False,
        moms=(0.8, 0.7, 0.8),
        precision="bf16",
        quiet=True,
    )
    assert learner.loss_func is loss
    assert (learner.lr, learner.wd, learner.wd_bn_bias, learner.train_bn) == (
        0.5,
        0.25,
        True,
        False,
    )
    assert learner.metrics == (error_rate,)
    assert learner.moms == (0.8, 0.7, 0.8)
    assert learner.precision == "bf16"


def test_random_weights_follow_from_the_seed_of_the_loaders_alone(make_loaders: Any):
    def weights(seed: int) -> torch.Tensor:
        torch.rand(1)
        learner = vision_learner(
            make_loaders(seed=seed), "test_resnet", pretrained=False, quiet=True
        )
        return torch.cat([value.flatten() for value in learner.model.parameters()])

    state = torch.get_rng_state()
    with torch.random.fork_rng():
        first, second, other = weights(0), weights(0), weights(1)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    with torch.random.fork_rng():
        vision_learner(make_loaders(), "test_resnet", pretrained=False, quiet=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_misspelt_network_is_answered_with_near_names(make_loaders: Any):
    with pytest.raises(ConfigError, match="efficientnet_lite0"):
        vision_learner(make_loaders(), "eficientnet_lite0")


def test_a_missing_file_of_weights_is_named(make_loaders: Any, tmp_path: Any):
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        vision_learner(make_loaders(), "test_resnet", weights=tmp_path / "missing.safetensors")


def rows_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    rules = [place for place, line in enumerate(lines) if set(line) == {"-"}]
    return [line.split() for line in lines[rules[1] + 1 : rules[2]]]


def test_the_totals_are_those_of_the_parameters(make_learner: Any):
    learner = make_learner()
    total = sum(value.numel() for value in learner.model.parameters())
    learner.freeze()
    trains = sum(value.numel() for value in learner.model.parameters() if value.requires_grad)
    lines = learner.summary().splitlines()
    assert f"Total params: {total:,}" in lines
    assert f"Total trainable params: {trains:,}" in lines
    assert f"Total non-trainable params: {total - trains:,}" in lines
    assert "," in f"{total:,}"


def test_every_layer_has_its_row_with_shape_and_parameters(make_learner: Any):
    learner = make_learner()
    rows = rows_of(learner.summary())
    leaves = [part for part in learner.model.modules() if not list(part.children())]
    with_parameters = [type(part).__name__ for part in leaves if list(part.parameters())]
    assert [row[0] for row in rows if row[-1] in ("True", "False")] == with_parameters
    counted = sum(int(row[-2].replace(",", "")) for row in rows if row[-1] in ("True", "False"))
    assert counted == sum(value.numel() for value in learner.model.parameters())
    last = rows[-1]
    assert last == ["Linear", "1", "x", "2", "16", "True"]  # 8 hidden features, 2 classes


def test_it_says_how_the_model_is_trained(make_learner: Any):
    learner = make_learner(metrics=accuracy)
    learner.cbs = [MixUp()]
    learner.freeze()
    lines = learner.summary().splitlines()
    assert lines[0] == "Classifier (Input shape: 1 x 3 x 32 x 32)"
    assert "Optimizer used: Adam" in lines
    assert lines[-2:] == ["Model frozen up to parameter group #2", "Callbacks: MixUp"]


def test_with_trained_norms_a_frozen_model_is_called_frozen(make_learner: Any):
    learner = make_learner()
    learner.freeze()
    assert "Model frozen up to parameter group #2" in learner.summary()


@pytest.mark.parametrize("num_valid", [4, 0])
def test_nothing_is_changed(make_learner: Any, make_loaders: Any, num_valid: int):
    learner = make_learner(make_loaders(num_valid=num_valid))
    learner.model.train()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    random = torch.get_rng_state()
    learner.summary()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(part.training for part in learner.model.modules())
    assert all(not part._forward_hooks for part in learner.model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_notebook_shows_it_without_quotes():
    assert repr(Table("a\nb")) == "a\nb"


@pytest.mark.parametrize(
    ("wish", "device", "found"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "mps", "fp32"),
        ("auto", "cuda", "bf16"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("fp16", "cuda", "fp16"),
        ("fp16", "cpu", "fp32"),
    ],
)
def test_auto_follows_the_device_and_a_wish_is_kept(wish: str, device: str, found: str):
    assert resolve_precision(wish, device=torch.device(device)) == found


def test_on_cuda_networks_with_batch_norms_get_what_those_are_fast_in():
    device = torch.device("cuda")
    norms = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert resolve_precision("auto", device=device, model=norms) == "fp16"
    assert resolve_precision("auto", device=device, model=nn.LayerNorm(4)) == "bf16"
    assert resolve_precision("bf16", device=device, model=norms) == "bf16"
    assert resolve_precision("auto", device=torch.device("cpu"), model=norms) == "fp32"


def test_any_other_precision_is_refused():
    wishes: list[Any] = ["half", "", "BF16", None]
    for wish in wishes:
        with pytest.raises(
            ConfigError, match=f"'auto', 'fp32', 'bf16' or 'fp16'. Received: {wish!r}"
        ):
            resolve_precision(wish, device=torch.device("cpu"))
