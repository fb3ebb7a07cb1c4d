"""The learner on small pictures with a tiny network. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
import re
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vizsla.augment.presets import aug_transforms
from vizsla.errors import ConfigError, TrainingError
from vizsla.evaluate.calibration import calibrate
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.groups import norm_parameters
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.predictor import Predictor, load_learner
from vizsla.train import learner as learner_module
from vizsla.train.callbacks.base import Callback, Fit
from vizsla.train.learner import Learner
from vizsla.train.metrics import accuracy, error_rate
from vizsla.train.recorder import SmoothedLoss

if TYPE_CHECKING:
    from vizsla.train.schedules import Rates

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


@pytest.mark.parametrize("vocab", [("disc", "cross"), ("cross", "disc", "star"), ("a", "b")])
def test_a_model_of_other_classes_is_refused(make_loaders: Any, vocab: tuple[str, ...]):
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


@pytest.mark.parametrize("epochs", [0, -1, 1.5, 2.0, math.nan, True, "2", None])
@pytest.mark.parametrize("method", ["fit", "fit_one_cycle", "fine_tune"])
def test_only_a_positive_whole_number_of_epochs_is_trained(
    make_learner: Any, method: str, epochs: Any
):
    learner = make_learner()
    before = state_of(learner)
    with pytest.raises(ConfigError, match=f"from 1 on. Received: {re.escape(repr(epochs))}"):
        getattr(learner, method)(epochs)
    assert changed(before, learner) == set()
    assert learner.recorder.history == []


@pytest.mark.parametrize("rates", [0, -1e-3, math.nan, [1e-3, 1e-3], slice(1e-3, None)], ids=str)
@pytest.mark.parametrize("method", ["fit", "fit_one_cycle"])
def test_rates_that_cannot_work_are_refused_before_the_first_step(
    make_learner: Any, method: str, rates: Rates
):
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


@pytest.mark.parametrize("split", [2, -1])
def test_a_split_that_does_not_exist_is_refused(make_learner: Any, split: int):
    with pytest.raises(ConfigError, match=f"Received: {split}"):
        make_learner().get_preds(split)


def test_without_validation_pictures_it_trains_all_the_same(make_learner: Any, make_loaders: Any):
    learner = make_learner(make_loaders(num_valid=0), metrics=error_rate)
    learner.fit(1)
    assert len(learner.recorder.losses) == 6
    assert math.isfinite(learner.recorder.values[0][0])
    assert all(map(math.isnan, learner.recorder.values[0][1:]))
