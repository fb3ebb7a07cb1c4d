"""How far an answer may be trusted goes with it: label sets with their coverage, and whether it looks like none of the classes."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from vizsla.evaluate.novelty import Novelty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from vizsla.predict.predictor import Predictor

    Draw = Callable[..., Image.Image]


@pytest.fixture(scope="module")
def trusted(serve: Any, calibrated: Predictor) -> Iterator[Any]:
    """A server of a model with a calibration."""
    with serve(using=calibrated) as client:
        yield client


@pytest.fixture(scope="module")
def picture(draw: Draw) -> bytes:
    buffer = io.BytesIO()
    draw("cross", number=7).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_answer_has_its_label_set_of_90_percent_and_its_familiarity(trusted, calibrated: Predictor, picture: bytes):  # fmt: skip
    (answer,) = trusted.predict(("a.png", picture)).json["pictures"]
    expected = calibrated.predict(picture, coverage=0.9)
    assert expected.label_set is not None
    assert answer["label_set"] == list(expected.label_set)
    assert answer["coverage"] == 0.9
    assert answer["familiarity"] == expected.familiarity
    assert answer["none_of_these"] is expected.none_of_these is False
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)


@pytest.mark.parametrize("coverage", ["0.5", ".995", "0.999999"])
def test_another_coverage_can_be_asked_for(trusted, calibrated: Predictor, picture: bytes, coverage: str):  # fmt: skip
    query = f"?coverage={coverage}"
    (answer,) = trusted.predict(("a.png", picture), query=query).json["pictures"]
    expected = calibrated.predict(picture, coverage=float(coverage)).label_set
    assert answer["label_set"] == list(expected or ())
    assert answer["coverage"] == float(coverage)


@pytest.mark.parametrize("coverage", ["0", "1", "0.0", "1.5", "-0.5", "nan", "x", "", "0.9e-1", "0.12345678", "\u0660.\u0669"])  # fmt: skip
def test_a_coverage_that_is_none_is_refused(trusted, picture: bytes, coverage: str):
    from urllib.parse import quote

    response = trusted.predict(("a.png", picture), query=f"?coverage={quote(coverage)}")
    assert response.status == 400
    assert response.json["error"].startswith("coverage is a number between 0 and 1, such as 0.9.")


def test_a_picture_that_is_like_none_of_the_classes_is_said_to_be(serve, calibrated: Predictor, picture: bytes):  # fmt: skip
    calibration = calibrated.calibration
    assert calibration is not None
    novelty = Novelty(quantiles=(50.0, 90.0), threshold=60.0, num_pictures=20, separation=None)
    calibrated.calibration = replace(calibration, novelty=novelty)
    try:
        with serve(using=calibrated) as client:
            (answer,) = client.predict(("a.png", picture)).json["pictures"]
    finally:
        calibrated.calibration = calibration
    assert answer["none_of_these"] is True
    assert answer["familiarity"] == 0.0


def test_a_model_without_a_calibration_says_nothing_of_it(client, picture: bytes):
    (answer,) = client.predict(("a.png", picture)).json["pictures"]
    assert not {"label_set", "coverage", "familiarity", "none_of_these"} & set(answer)
    refused = client.predict(("a.png", picture), query="?coverage=0.9")
    assert refused.status == 400
    assert refused.json["error"] == "This model has no label sets. Leave out coverage."
    about = client.ask("GET", "/api/model").json
    assert about["calibration"] is None
    assert about["coverage"] is None
    described = client.ask("GET", "/openapi.json").json
    assert "label_set" not in described["components"]["schemas"]["Answer"]["properties"]
    names = [one["name"] for one in described["paths"]["/api/predict"]["post"]["parameters"]]
    assert "coverage" not in names


def test_the_description_has_every_field_of_an_answer_with_its_kind(trusted, picture: bytes):
    kinds = {"string": str, "number": float, "array": list, "object": dict, "boolean": bool}
    (answer,) = trusted.predict(("a.png", picture), query="?heat=1").json["pictures"]
    described = trusted.ask("GET", "/openapi.json").json
    fields = described["components"]["schemas"]["Answer"]["properties"]
    assert set(answer) <= set(fields)
    for name, value in answer.items():
        assert type(value) is kinds[fields[name]["type"]], name
    (coverage,) = (
        one
        for one in described["paths"]["/api/predict"]["post"]["parameters"]
        if one["name"] == "coverage"
    )
    assert coverage["schema"]["default"] == 0.9
    assert "holds the true label" in coverage["description"]


def test_the_model_says_how_its_answers_were_made_honest(trusted, calibrated: Predictor):
    about = trusted.ask("GET", "/api/model").json
    calibration = calibrated.calibration
    assert calibration is not None
    assert about["coverage"] == 0.9
    assert about["calibration"] == {
        "num_pictures": 40,
        "temperature": 2.0,
        "error_before": 0.2,
        "error_after": 0.1,
        "refused_share": 0.05,
        "separation": 0.75,
    }
