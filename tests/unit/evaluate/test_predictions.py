"""Predictions: what they derive from logits, what they refuse, how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from vizsla import ConfigError, OutputError, Predictions
from vizsla.types import UNLABELLED

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
Maker = Callable[..., Predictions]
NAN = torch.nan


def test_probabilities_losses_and_classes_agree_with_recorded_values(from_logits: Maker):
    case = GOLDEN["cross_entropy"]
    predictions = from_logits(case["acts"], case["targ"])
    torch.testing.assert_close(predictions.probabilities, torch.tensor(case["softmax"]))
    torch.testing.assert_close(predictions.losses, torch.tensor(case["ce_none"]))
    assert predictions.losses.mean().item() == pytest.approx(case["ce_mean"], abs=1e-5)
    assert predictions.predicted.tolist() == case["flat_decodes"]


def test_confidence_is_the_probability_of_the_predicted_class(from_logits: Maker):
    predictions = from_logits([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0)).item()]], [0, 0])
    torch.testing.assert_close(predictions.confidence, torch.tensor([0.5, 0.75]))
    assert predictions.correct.tolist() == [True, False]


def test_an_image_without_label_has_no_loss_and_is_not_correct(from_logits: Maker):
    predictions = from_logits([[5.0, 0.0], [5.0, 0.0]], [UNLABELLED, 0])
    assert predictions.losses.isnan().tolist() == [True, False]
    assert predictions.correct.tolist() == [False, True]
    assert [predictions.label(0), predictions.label(1)] == ["", "class 0"]


def test_no_images_are_predictions_of_any_task(from_logits: Maker):
    for task, targets in (
        ("category", []),
        ("multi_category", torch.zeros(0, 3)),
        ("regression", torch.zeros(0, 3)),
    ):
        predictions = from_logits(torch.zeros(0, 3), targets, task=task)
        assert predictions.losses.shape == (0,)
        assert len(predictions.predicted) == len(predictions.to_frame()) == 0


def test_some_images_are_taken_by_position_or_mask(from_logits: Maker):
    predictions = from_logits([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [0, 1, 0])
    found = predictions.take(torch.tensor([2, 0]))
    assert (found.rows.tolist(), found.paths) == ([2, 0], ("2.jpg", "0.jpg"))
    assert (found.logits[:, 0].tolist(), found.targets.tolist()) == ([3, 1], [0, 0])
    assert predictions.take(predictions.targets == 1).paths == ("1.jpg",)


def test_what_does_not_fit_together_is_refused():
    fields = {
        "rows": torch.arange(2),
        "paths": ("a.jpg", "b.jpg"),
        "logits": torch.zeros(2, 2),
        "targets": torch.zeros(2, dtype=torch.int64),
        "vocab": ("cat", "dog"),
    }
    some, none = [0.0, 1.0], [NAN, NAN]
    for changed, facts in (
        ({"rows": torch.arange(3)}, r"rows.*int64.*\(2,\).*\(3,\)"),
        ({"logits": torch.zeros(2, 3)}, r"logits.*float32.*\(2, 2\)"),
        ({"logits": torch.zeros(2, 2, dtype=torch.float64)}, "Received: torch.float64"),
        ({"logits": torch.tensor([some, [NAN, 0.0]])}, "1 of 2 images, first for 'b"),
        ({"targets": torch.zeros(2)}, "targets.*int64"),
        ({"targets": torch.tensor([0, 2])}, r"'b.jpg'.*from 0 to 1.*Received: 2"),
        ({"targets": torch.tensor([-2, 0])}, r"'a.jpg'.*from 0 to 1.*Received: -2"),
        ({"vocab": ("cat", "cat")}, "'cat', 'cat'"),
        ({"task": "detection", "targets": torch.zeros(2, 2)}, "category, .*'detection'"),
        ({"task": "multi_category"}, r"targets.*float32.*\(2, 2\)"),
        ({"task": "multi_category", "targets": [some, [0.5, 1.0]]}, "'b.jpg'.*0.5, 1"),
        ({"task": "multi_category", "targets": [[NAN, 1.0], some]}, "'a.jpg'.*NaN for all"),
        ({"task": "regression", "targets": [some, [NAN, 1.0]]}, "'b.jpg'.*finite.*all NaN"),
        ({"task": "regression", "targets": [[torch.inf, 1.0], some]}, "'a.jpg'.*finite"),
        (
            {"task": "regression", "targets": [some, none], "logits": [none, some]},
            "1 of 2 images, first for 'a",
        ),
    ):
        given = {
            name: torch.tensor(value) if isinstance(value, list) else value
            for name, value in (fields | changed).items()
        }
        with pytest.raises(ConfigError, match=facts):
            Predictions(**given)  # pyright: ignore[reportArgumentType]


def test_the_frame_has_a_column_for_each_class(from_logits: Maker):
    predictions = from_logits([[1.0, 3.0], [2.0, 0.0]], [0, UNLABELLED], vocab=("cat", "dog"))
    frame = predictions.to_frame()
    assert " ".join(frame) == "path label prediction probability loss prob_cat prob_dog"
    assert frame["label"].tolist() == ["cat", ""]
    assert frame["prediction"].tolist() == ["dog", "cat"]
    assert frame["probability"].tolist() == predictions.confidence.tolist()
    assert frame["prob_dog"].tolist() == predictions.probabilities[:, 1].tolist()
    assert frame["loss"].isna().tolist() == [False, True]


def assert_is_as_pandas_writes_it(path: Path, predictions: Predictions) -> None:
    text = predictions.to_frame().to_csv(index=False, lineterminator="\n")
    assert path.read_bytes() == text.encode("utf-8")


def test_the_csv_gives_back_names_and_probabilities(from_logits: Maker, tmp_path: Path):
    paths = ('a "quoted", name.jpg', "two\nlines.jpg", "\u732b.jpg")
    logits = 20 * torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    predictions = replace(
        from_logits(logits, [0, UNLABELLED, 0], vocab=("cat", "dog")), paths=paths
    )
    path = predictions.save_csv(tmp_path / "predictions.csv")
    assert_is_as_pandas_writes_it(path, predictions)
    frame = pd.read_csv(path, encoding="utf-8", keep_default_na=False)
    assert tuple(frame["path"]) == paths
    read = torch.tensor(frame["prob_cat"].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(read, predictions.probabilities[:, 0], rtol=1e-6, atol=0)


def test_a_file_name_that_is_not_unicode_is_written_as_an_escape(
    from_logits: Maker, tmp_path: Path
):
    predictions = replace(from_logits([[1.0, 0.0]], [0]), paths=("bad\udcff.jpg",))
    path = predictions.save_csv(tmp_path / "predictions.csv")
    assert "bad\\udcff.jpg" in path.read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="missing"):
        predictions.save_csv(tmp_path / "missing" / "predictions.csv")


MULTI_LOGITS = [[4.0, -1.0, 0.5], [-3.0, -0.5, -2.0], [0.0, 9.0, -9.0]]
MULTI_TARGETS = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [NAN, NAN, NAN]]


@pytest.fixture
def several(from_logits: Maker) -> Predictions:
    vocab = ("sea", "sun", "犬")
    return from_logits(MULTI_LOGITS, MULTI_TARGETS, vocab=vocab, task="multi_category")


@pytest.fixture
def numbers(from_logits: Maker) -> Predictions:
    targets = [[1.0, -2.0], [0.0, 0.0], [NAN, NAN]]
    logits = [[1.5, -2.0], [3.0, -1.0], [7.0, 8.0]]
    return from_logits(logits, targets, vocab=("age", "mass"), task="regression")


def test_each_of_several_labels_is_predicted_above_a_half(several: Predictions):
    logits = torch.tensor(MULTI_LOGITS)
    torch.testing.assert_close(several.probabilities, 1 / (1 + (-logits).exp()))
    assert several.predicted.dtype == torch.bool
    assert several.predicted.tolist() == [
        [True, False, True],
        [False, False, False],
        [False, True, False],  # exactly a half is not above it
    ]
    assert several.correct.tolist() == [True, False, False]
    assert several.labelled.tolist() == [True, True, False]
    expected = [torch.sigmoid(torch.tensor(logit)).item() for logit in (0.5, 0.5)] + [0.5]
    assert several.confidence.tolist() == pytest.approx(expected)


def test_the_loss_of_several_labels_is_the_mean_over_the_classes(several: Predictions):
    expected = torch.nn.functional.binary_cross_entropy(
        several.probabilities[:2], torch.tensor(MULTI_TARGETS[:2]), reduction="none"
    ).mean(1)
    torch.testing.assert_close(several.losses[:2], expected)
    assert several.losses[2].isnan()


def test_several_labels_are_written_joined(several: Predictions, tmp_path: Path):
    path = several.save_csv(tmp_path / "predictions.csv")
    assert_is_as_pandas_writes_it(path, several)
    frame = pd.read_csv(path, encoding="utf-8", keep_default_na=False)
    assert " ".join(frame) == "path label prediction probability loss prob_sea prob_sun prob_犬"
    assert frame["label"].tolist() == ["sea;犬", "sun", ""]
    assert frame["prediction"].tolist() == ["sea;犬", "", "sun"]
    assert [several.label(0), several.prediction(0), several.prediction(1)] == ["sea;犬"] * 2 + [""]
    assert frame["prob_sun"].tolist() == pytest.approx(several.probabilities[:, 1].tolist())


def test_numbers_are_their_own_prediction_with_squared_errors(numbers: Predictions):
    assert numbers.probabilities is numbers.logits
    assert numbers.predicted is numbers.logits
    assert numbers.losses[:2].tolist() == [0.125, 5.0]
    assert numbers.losses[2].isnan()
    assert (numbers.label(0), numbers.prediction(0), numbers.label(2)) == ("1;-2", "1.5;-2", "")


def test_numbers_are_neither_correct_nor_certain(numbers: Predictions):
    for name in ("correct", "confidence"):
        with pytest.raises(ConfigError, match=f"{name}.*'regression'"):
            getattr(numbers, name)


def test_numbers_are_written_beside_their_targets(numbers: Predictions, tmp_path: Path):
    path = numbers.save_csv(tmp_path / "predictions.csv")
    assert_is_as_pandas_writes_it(path, numbers)
    frame = pd.read_csv(path)
    expected = "path loss target_age prediction_age target_mass prediction_mass"
    assert " ".join(frame) == expected
    assert frame["prediction_age"].tolist() == [1.5, 3.0, 7.0]
    assert frame["target_mass"].tolist()[:2] == [-2.0, 0.0]
    assert frame["target_mass"].isna().tolist() == [False, False, True]
