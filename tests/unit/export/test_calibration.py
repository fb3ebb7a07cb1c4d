"""What is fitted on validation predictions: temperature, label sets and "none of these" do what they state, and are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, ModelFileError
from vizsla.evaluate.calibration import FEWEST_PICTURES, calibrate, fit_temperature
from vizsla.evaluate.conformal import fit_label_sets
from vizsla.evaluate.novelty import fit_novelty
from vizsla.evaluate.predictions import Predictions
from vizsla.model_file.bundle import read_manifest, save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.prediction import describe
from vizsla.predict.predictor import MOST_VIEWS, Predictor, view_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCAB = ("a", "b", "c", "d")


def drawn(number: int, *, seed: int = 0, sharpness: float = 3.0) -> Predictions:
    """Predictions whose logits are ``sharpness`` times those that the targets were drawn from."""
    random = torch.Generator().manual_seed(seed)
    honest = torch.randn((number, len(VOCAB)), generator=random) * 2
    targets = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
    return Predictions(
        rows=torch.arange(number),
        paths=tuple(map(str, range(number))),
        logits=honest * sharpness,
        targets=targets,
        vocab=VOCAB,
    )


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_the_temperature_is_what_the_logits_were_multiplied_by(sharpness: float):
    predictions = drawn(4_000, sharpness=sharpness)
    found = fit_temperature(predictions.logits, predictions.targets, task="category")
    assert found == pytest.approx(sharpness, rel=0.06)


def test_no_other_temperature_has_a_lower_loss():
    predictions = drawn(500)
    found = fit_temperature(predictions.logits, predictions.targets, task="category")
    smoothing = 2 / (500 + 2)

    def loss(temperature: float) -> float:
        logits = predictions.logits.double() / temperature
        return float(
            functional.cross_entropy(logits, predictions.targets, label_smoothing=smoothing)
        )

    assert loss(found) <= min(loss(found * 0.99), loss(found * 1.01))


def test_several_labels_have_a_temperature_too():
    random = torch.Generator().manual_seed(1)
    honest = torch.randn((2_000, 4), generator=random) * 2
    targets = torch.bernoulli(honest.sigmoid(), generator=random)
    found = fit_temperature(honest * 2.5, targets, task="multi_category")
    assert found == pytest.approx(2.5, rel=0.06)


def test_the_error_after_is_close_to_that_on_pictures_of_another_day():
    calibration = calibrate(drawn(2_000))
    assert calibration is not None
    other = drawn(20_000, seed=9)
    again = calibrate(other, temperature=calibration.temperature)
    assert again is not None
    assert calibration.error_after == pytest.approx(again.error_after, abs=0.03)
    assert calibration.loss_after == pytest.approx(again.loss_after, abs=0.03)
    assert calibration.error_before > 0.1 > 0.05 > calibration.error_after


def test_a_temperature_that_does_not_help_is_not_taken():
    calibration = calibrate(drawn(30, sharpness=1.0, seed=4))
    assert calibration is not None
    assert (calibration.temperature == 1) == (calibration.loss_after == calibration.loss_before)
    perfect = replace(drawn(20), logits=functional.one_hot(drawn(20).targets, 4).float() * 500)
    kept = calibrate(perfect)
    assert kept is not None
    assert (kept.temperature, kept.error_after) == (1.0, kept.error_before)


def test_numbers_and_too_few_pictures_have_no_calibration():
    few = drawn(FEWEST_PICTURES - 1)
    assert calibrate(few) is None
    many = drawn(50)
    unlabelled = replace(many, targets=torch.full((50,), -1))
    assert calibrate(unlabelled) is None
    numbers = replace(many, targets=torch.zeros(50, 4), task="regression")
    assert calibrate(numbers) is None


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_label_sets_hold_the_true_class_as_often_as_they_state(coverage: float):
    calibration = calibrate(drawn(1_000))
    assert calibration is not None
    other = drawn(5_000, seed=11)
    answers = describe(
        other.logits[None], task="category", vocab=VOCAB, calibration=calibration, coverage=coverage
    )
    held = [
        VOCAB[target] in (answer.label_set or ())
        for answer, target in zip(answers, other.targets.tolist(), strict=True)
    ]
    # The likeliest class is always there, which at a low coverage holds more than asked for.
    assert np.mean(held) > coverage - 0.02
    if coverage >= 0.9:
        assert np.mean(held) < coverage + 0.02
    assert all(answer.label_set and answer.label_set[0] == answer.label for answer in answers)


def test_thresholds_are_the_order_statistics_of_the_theorem():
    sets = fit_label_sets(torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4]))
    # Of 9 pictures, ceil(10 * 0.9) = 9: the lowest of the nine; 0.91 would need a tenth picture.
    assert sets.threshold(0.9) == pytest.approx(0.1)
    assert sets.threshold(0.5) == pytest.approx(0.5)
    assert sets.threshold(0.505) == sets.threshold(0.51) == pytest.approx(0.4)
    assert sets.threshold(0.91) == sets.threshold(0.9999) == 0
    for wrong in (0.0, 1.0, 95.0):
        with pytest.raises(ConfigError, match="A coverage is above 0 and below 1"):
            sets.threshold(wrong)


def test_95_percent_of_known_pictures_pass_and_flat_answers_do_not():
    predictions = drawn(2_000)
    calibration = calibrate(predictions)
    assert calibration is not None
    other = drawn(5_000, seed=3)
    answers = describe(other.logits[None], task="category", vocab=VOCAB, calibration=calibration)
    refused = sum(answer.none_of_these is True for answer in answers)
    assert refused / len(answers) == pytest.approx(0.05, abs=0.015)
    shares = [answer.familiarity or 0.0 for answer in answers]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    (flat,) = describe(
        torch.full((1, 1, 4), -9.0), task="category", vocab=VOCAB, calibration=calibration
    )
    assert (flat.none_of_these, flat.familiarity) == (True, 0.0)


def test_separation_is_that_of_classes_that_were_left_out():
    logits = torch.eye(3).repeat(20, 1) * 5
    targets = torch.arange(3).repeat(20)
    assert fit_novelty(logits, targets=targets).separation == 1.0
    assert fit_novelty(torch.ones(60, 3), targets=targets).separation == 0.5
    assert fit_novelty(logits[:, :2], targets=targets.clamp(max=1)).separation is None


@pytest.fixture
def calibrated(classifier: Classifier, tmp_path: Path) -> Path:
    predictions = replace(drawn(200), vocab=classifier.vocab)
    return save_bundle(
        tmp_path / "calibrated.safetensors",
        classifier=classifier,
        resize=Resize(32),
        calibration=calibrate(predictions),
    )


def test_the_model_file_keeps_it(calibrated: Path, saved: Path):
    assert read_manifest(calibrated).calibration == calibrate(
        replace(drawn(200), vocab=read_manifest(calibrated).vocab)
    )
    assert read_manifest(saved).calibration is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 0}, "calibration.temperature"),
        ({"temperature": 1e9}, "calibration.temperature"),
        ({"error_after": 2}, "calibration.error_after"),
        ({"num_pictures": "many"}, "calibration.num_pictures"),
        ({"novelty": None}, "calibration.novelty"),
        ({"label_sets": {"coverages": [0.9, 0.5], "thresholds": [0.1, 0.2], "num_pictures": 9}}, "thresholds"),
        ({"label_sets": {"coverages": [0.9], "thresholds": [0.1, 0.2], "num_pictures": 9}}, "thresholds"),
    ],
)  # fmt: skip
def test_a_calibration_that_cannot_be_is_refused_by_name(
    calibrated: Path, rewrite: Callable[..., Path], change: dict[str, Any], field: str
):
    rewrite(calibrated, lambda manifest: manifest["calibration"].update(change))
    with pytest.raises(ModelFileError, match=field):
        read_manifest(calibrated)


def test_a_file_of_before_opens_and_predicts_as_it_did(
    saved: Path, rewrite: Callable[..., Path], make_picture: Callable[..., Path]
):
    picture = make_picture("a.png")
    expected = Predictor.load(saved, device="cpu").predict(picture)
    rewrite(saved, lambda manifest: manifest.pop("calibration"))
    found = Predictor.load(saved, device="cpu").predict(picture)
    assert found == expected
    assert (found.familiarity, found.none_of_these, found.label_set) == (None, None, None)


def test_probabilities_are_those_of_the_logits_divided_by_the_temperature(
    calibrated: Path, make_picture: Callable[..., Path]
):
    predictor = Predictor.load(calibrated, device="cpu")
    assert predictor.calibration is not None
    picture = make_picture("a.png")
    plain = Predictor(predictor.classifier, resize=Resize(32)).predict(picture)
    found = predictor.predict(picture, coverage=0.9)
    expected = (plain.probabilities.log() / predictor.calibration.temperature).softmax(0)
    torch.testing.assert_close(found.probabilities, expected, atol=1e-5, rtol=0)
    assert (found.label, found.coverage) == (plain.label, 0.9)
    assert found.label_set is not None


def test_one_picture_and_a_batch_agree_with_views_and_label_sets(
    calibrated: Path, make_picture: Callable[..., Path], tmp_path: Path
):
    paths = [make_picture(f"many/{number}.png", number=number) for number in range(5)]
    predictor = Predictor.load(calibrated, device="cpu")
    folder = tmp_path / "many"
    many = list(predictor.predict_many(folder, batch_size=3, coverage=0.8, views=3))
    assert [path for path, _ in many] == paths
    for path, answer in many:
        one = predictor.predict(path, coverage=0.8, views=3)
        assert not isinstance(answer, Exception)
        assert one.label_set == answer.label_set
        torch.testing.assert_close(one.probabilities, answer.probabilities, atol=1e-5, rtol=0)
    ((_, single),) = predictor.predict_many(paths[0])
    assert not isinstance(single, Exception)
    assert single.label == predictor.predict(paths[0]).label


def test_views_of_a_picture_and_of_its_mirror_image_agree(calibrated: Path):
    predictor = Predictor.load(calibrated, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    one, other = (
        predictor.predict(picture, views=4).probabilities for picture in (pixels, mirrored)
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    plain = [predictor.predict(picture).probabilities for picture in (pixels, mirrored)]
    both = predictor.predict(pixels, views=2).probabilities
    torch.testing.assert_close(both, torch.stack(plain).mean(0), atol=1e-5, rtol=0)


def test_every_view_has_the_size_of_the_picture_and_shows_a_part_of_it():
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 8, 16)
    views = [view_of(ramp, number=number) for number in range(MOST_VIEWS)]
    assert {view.shape for view in views} == {ramp.shape}
    assert torch.equal(views[0], ramp)
    assert torch.equal(views[1], ramp.flip(-1))
    assert all(float(view.min()) >= 0 and float(view.max()) <= 1 for view in views)
    assert len({tuple(view.flatten().tolist()) for view in views[2:4]}) == 2


@pytest.mark.parametrize("views", [0, MOST_VIEWS + 1, 1.5])
def test_a_number_of_views_that_there_is_not_is_refused(calibrated: Path, views: int):
    predictor = Predictor.load(calibrated, device="cpu")
    with pytest.raises(ConfigError, match="a whole number from 1 to 12"):
        predictor.predict_many([], views=views)


def test_label_sets_of_a_model_without_them_are_refused(saved: Path):
    predictor = Predictor.load(saved, device="cpu")
    with pytest.raises(ConfigError, match="There are no label sets for this model"):
        predictor.predict_many([], coverage=0.9)


def test_several_labels_have_novelty_and_no_label_sets(tmp_path: Path):
    random = torch.Generator().manual_seed(1)
    predictions = Predictions(
        rows=torch.arange(30),
        paths=tuple(map(str, range(30))),
        logits=torch.randn((30, 2), generator=random),
        targets=torch.randint(2, (30, 2), generator=random).float(),
        vocab=("x", "y"),
        task="multi_category",
    )
    calibration = calibrate(predictions)
    assert calibration is not None
    assert calibration.label_sets is None
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[], seed=1)
    classifier = Classifier(backbone, head, vocab=("x", "y"), task="multi_category")
    path = save_bundle(
        tmp_path / "m.safetensors",
        classifier=classifier,
        resize=Resize(32),
        calibration=calibration,
    )
    found = Predictor.load(path, device="cpu").predict(np.zeros((32, 32, 3), np.uint8))
    assert isinstance(found.none_of_these, bool)
