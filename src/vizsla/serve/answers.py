"""A prediction, or a model's description, in; plain values for JSON out, under the names that ``vizsla predict --json`` has."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from vizsla import __version__
from vizsla.evaluate.novelty import REFUSED_SHARE
from vizsla.text import printable

if TYPE_CHECKING:
    from vizsla.evaluate.calibration import Calibration
    from vizsla.model_file.manifest import Manifest
    from vizsla.predict.predictor import Prediction
    from vizsla.serve.engine import Answer, Engine
    from vizsla.serve.limits import Limits

MOST_NEAREST = 12

USUAL_COVERAGE = 0.9
"""Share of the label sets that hold the true label, where nobody asks for another."""

_LONGEST_NAME = 200
_SHOWN_LIMITS = ("body_bytes", "pictures", "requests_per_second", "seconds")


def shown_name(name: str) -> str:
    """Return the name of an upload to be read by people, on one line; it is never used as a path.

    Args:
        name: As the client gave it, any text.
    """
    one_line = printable(name).replace("\n", " ").replace("\t", " ").strip()
    return one_line if len(one_line) <= _LONGEST_NAME else f"{one_line[: _LONGEST_NAME - 1]}…"


def answer_values(answer: Answer, *, name: str, vocab: tuple[str, ...]) -> dict[str, object]:
    """Return one element of ``pictures`` in the response.

    Args:
        answer: What is said of the picture.
        name: As the client gave it.
        vocab: Names of the classes or numbers.
    """
    values: dict[str, object] = {"name": shown_name(name)}
    if answer.prediction is None:
        return {**values, "error": printable(answer.error)}
    values |= prediction_values(answer.prediction, vocab=vocab)
    if answer.heat is not None:
        values["heat"] = _data_address(answer.heat)
    if answer.nearest:
        values["nearest"] = [
            {
                "label": neighbour.label,
                "similarity": neighbour.similarity,
                "picture": _data_address(neighbour.thumbnail),
            }
            for neighbour in answer.nearest
        ]
    return values


def prediction_values(prediction: Prediction, *, vocab: tuple[str, ...]) -> dict[str, object]:
    """Return what a model says of a picture.

    Args:
        prediction: Of any task.
        vocab: Names of the classes or numbers.
    """
    if prediction.task == "regression":
        return {"prediction": dict(zip(vocab, prediction.values, strict=True))}
    several = prediction.task == "multi_category"
    values: dict[str, object] = {
        "prediction": list(prediction.labels) if several else prediction.label,
        "probability": prediction.probability,
        "top": [{"label": label, "probability": value} for label, value in prediction.top],
        "probabilities": dict(zip(vocab, prediction.probabilities.tolist(), strict=True)),
    }
    if prediction.label_set is not None:
        values |= {"label_set": list(prediction.label_set), "coverage": prediction.coverage}
    if prediction.none_of_these is not None:
        values |= {
            "familiarity": prediction.familiarity,
            "none_of_these": prediction.none_of_these,
        }
    return values


def usual_coverage(calibration: Calibration | None) -> float | None:
    """Return the coverage of label sets where nobody asks for another; None for a model that has none.

    Args:
        calibration: Of the model.
    """
    has_sets = calibration is not None and calibration.label_sets is not None
    return USUAL_COVERAGE if has_sets else None


def model_values(
    manifest: Manifest, *, engine: Engine, limits: Limits, title: str
) -> dict[str, object]:
    """Return what ``GET /api/model`` says.

    Args:
        manifest: Of the model file.
        engine: What it runs in.
        limits: What it takes.
        title: Name of the model for people.
    """
    shown = asdict(limits)
    return {
        "title": shown_name(title),
        "task": manifest.task,
        "vocab": list(manifest.vocab),
        "architecture": manifest.backbone.name,
        "weights": manifest.backbone.weights,
        "licence": manifest.backbone.licence,
        "size": manifest.size,
        "created": manifest.created,
        "recipe": manifest.notes,
        "metrics": [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in asdict(metric).items()
            }
            for metric in manifest.metrics
        ],
        "calibration": _calibration_values(engine.predictor.calibration),
        "coverage": usual_coverage(engine.predictor.calibration),
        "heat": engine.explains,
        "nearest": 0 if engine.index is None else len(engine.index.labels),
        "limits": {name: shown[name] for name in _SHOWN_LIMITS} | {"pixels": engine.max_pixels},
        "device": str(engine.predictor.device),
        "vizsla": __version__,
    }


def _calibration_values(calibration: Calibration | None) -> dict[str, object] | None:
    """Return how far the answers may be trusted; None where the model file does not say."""
    if calibration is None:
        return None
    return {
        "num_pictures": calibration.num_pictures,
        "temperature": calibration.temperature,
        "error_before": calibration.error_before,
        "error_after": calibration.error_after,
        "refused_share": REFUSED_SHARE,
        "separation": calibration.novelty.separation,
    }


def _data_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
