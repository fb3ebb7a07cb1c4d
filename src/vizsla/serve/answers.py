"""The JSON interface: the types of its answers, and their description in OpenAPI 3.1.

The field names are those of ``Prediction.to_dict``, so ``vizsla predict --json`` and the server answer alike.
"""

from __future__ import annotations

import base64
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from vizsla import __version__
from vizsla.data.images.refusals import kind_of
from vizsla.errors import PictureKind
from vizsla.evaluate.novelty import REFUSED_SHARE
from vizsla.text import printable

if TYPE_CHECKING:
    from vizsla.evaluate.calibration import Calibration
    from vizsla.model_file.manifest import Manifest
    from vizsla.serve.engine import Answer, Engine
    from vizsla.serve.limits import Limits
    from vizsla.types import Task

Json = dict[str, object]
Share = Annotated[float, Meta(ge=0, le=1)]

MOST_NEAREST = 12

USUAL_COVERAGE = 0.9
"""Share of the label sets that hold the true label, unless a request asks for another."""

_LONGEST_NAME = 200

_REFUSALS = {
    "400": "The form is damaged or has no file, or a number in the query cannot be taken.",
    "403": "The request comes from a page of another site.",
    "413": "The body is too large, or has too many images.",
    "415": "The content type is none of those that a body may have.",
    "421": "The server does not go by the name in the Host header.",
    "429": "Too many requests from one address; Retry-After says when to try again.",
    "503": "Too busy or too slow; Retry-After says when to try again.",
}


class LabelProbability(Struct, frozen=True):
    """A class and how probable it is."""

    label: str
    probability: Share


class NearestImage(Struct, frozen=True):
    """A training image similar to the one that was sent; ``picture`` is a data: URL."""

    label: str
    similarity: float
    picture: str


class Error(Struct, frozen=True):
    """Why there is no answer."""

    error: str


class Kept(Struct, frozen=True):
    """The label that an image was kept with."""

    label: str


def answer_type(task: Task, *, calibration: Calibration | None) -> type[Struct]:
    """Return the type of the answer about one image."""
    kinds: dict[Task, Any] = {
        "category": str,
        "multi_category": list[str],
        "regression": dict[str, float],
    }
    optional: dict[str, Any] = {"error": str, "kind": PictureKind, "prediction": kinds[task]}
    if task != "regression":
        optional |= {
            "probability": Share,
            "top": list[LabelProbability],
            "probabilities": dict[str, Share],
        }
    if usual_coverage(calibration) is not None:
        meaning = (
            "Labels, likeliest first; the true one is among them with the probability coverage."
        )
        optional["label_set"] = Annotated[list[str], Meta(min_length=1, description=meaning)]
        optional["coverage"] = Share
    if calibration is not None and task == "category":
        meaning = "Share of the validation images that were no more like one of the classes."
        optional["familiarity"] = Annotated[float, Meta(ge=0, le=1, description=meaning)]
        meaning = f"Whether familiarity is below {REFUSED_SHARE:g}: the image looks like none of the classes."
        optional["none_of_these"] = Annotated[bool, Meta(description=meaning)]
    optional |= {"heat": str, "nearest": list[NearestImage]}
    fields = [(name, kind | UnsetType, UNSET) for name, kind in optional.items()]
    return msgspec.defstruct("Answer", [("name", str), *fields], kw_only=True)


def shown_name(name: str) -> str:
    """Return the name of an upload, any text, on one line for people to read; it is never used as a path."""
    one_line = printable(name).replace("\n", " ").replace("\t", " ").strip()
    return one_line if len(one_line) <= _LONGEST_NAME else f"{one_line[: _LONGEST_NAME - 1]}…"


def answer_values(answer: Answer, *, name: str) -> dict[str, Any]:
    """Return the fields of one element of ``pictures`` in the response."""
    values: dict[str, Any] = {"name": shown_name(name)}
    if answer.prediction is None:
        kind = kind_of(answer.error)
        values |= {} if kind is None else {"kind": kind}
        return {**values, "error": printable(answer.error)}
    values |= answer.prediction.to_dict()
    if answer.heat is not None:
        values["heat"] = _data_address(answer.heat)
    if answer.nearest:
        values["nearest"] = [
            NearestImage(one.label, one.similarity, _data_address(one.thumbnail))
            for one in answer.nearest
        ]
    return values


def usual_coverage(calibration: Calibration | None) -> float | None:
    """Return the default coverage of label sets; None for a model without them."""
    has_sets = calibration is not None and calibration.label_sets is not None
    return USUAL_COVERAGE if has_sets else None


def model_values(
    manifest: Manifest,
    *,
    engine: Engine,
    limits: Limits,
    title: str,
    num_examples: int,
    takes_corrections: bool,
) -> dict[str, object]:
    """Return the answer to ``GET /api/model``."""
    calibration, thresholds = engine.predictor.calibration, engine.predictor.thresholds
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
        "calibration": calibration
        and {
            "num_pictures": calibration.num_pictures,
            "temperature": calibration.temperature,
            "error_before": calibration.error_before,
            "error_after": calibration.error_after,
            "refused_share": REFUSED_SHARE,
            "separation": calibration.novelty.separation,
        },
        "thresholds": thresholds and dict(zip(manifest.vocab, thresholds, strict=True)),
        "coverage": usual_coverage(calibration),
        "heat": engine.explains,
        "nearest": 0 if engine.index is None else len(engine.index.labels),
        "examples": num_examples,
        "corrections": takes_corrections,
        "limits": {
            "body_bytes": limits.body_bytes,
            "pictures": limits.images,
            "requests_per_second": limits.requests_per_second,
            "seconds": limits.seconds,
            "pixels": engine.max_pixels,
            "formats": list(limits.formats),
        },
        "device": str(engine.predictor.device),
        "vizsla": __version__,
    }


def _data_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def description(
    *,
    title: str,
    task: Task,
    calibration: Calibration | None,
    limits: Limits,
    max_pixels: int,
    takes_corrections: bool,
) -> Json:
    """Return the OpenAPI document."""
    rate = f"{limits.requests_per_second:g} requests a second from one address"
    taken = [
        f"images as {', '.join(limits.formats)}",
        f"{limits.body_bytes / 1e6:g} MB a request",
        f"{limits.images} images a request",
        f"{max_pixels / 1e6:g} million pixels an image",
        f"{limits.seconds:g} seconds an answer",
        *([rate] if limits.requests_per_second else []),
    ]
    answer: Any = answer_type(task, calibration=calibration)
    predictions = msgspec.defstruct("Predictions", [("pictures", list[answer])])
    kept = [Kept] if takes_corrections else []
    _, schemas = msgspec.json.schema_components(
        [predictions, Error, *kept], ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"vizsla: {title}",
            "version": __version__,
            "description": f"Classify images with a trained model. Limits: {', '.join(taken)}.",
        },
        "paths": {
            "/api/predict": {"post": _predict(limits, calibration=calibration)},
            **({"/api/correct": {"post": _correct()}} if takes_corrections else {}),
            "/api/model": {"get": _plain("Describe the model and the limits.", "application/json")},
            "/health": {"get": _plain("Say whether the server takes images.", "application/json")},
            "/metrics": {"get": _plain("Count what was done, for Prometheus.", "text/plain")},
            "/openapi.json": {"get": _plain("This description.", "application/json")},
        },
        "components": {"schemas": schemas},
    }


def _predict(limits: Limits, *, calibration: Calibration | None) -> Json:
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["pictures"],
        "properties": {
            "pictures": {"type": "array", "items": binary, "minItems": 1, "maxItems": limits.images}
        },
    }
    coverage: list[Json] = []
    if (usual := usual_coverage(calibration)) is not None:
        schema = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": usual}
        meaning = (
            "Share of images, drawn like the validation images, whose label_set holds the true label, at least; on "
            "average over all, not for each class by itself."
        )
        coverage = [{"name": "coverage", "in": "query", "description": meaning, "schema": schema}]
    answers = {"application/json": {"schema": {"$ref": "#/components/schemas/Predictions"}}}
    return {
        "summary": "Predict one image or several.",
        "description": (
            "Each file of the form is an image, whatever its field is called; or the body is one image. An unreadable "
            "image has its place in the answer, with the cause."
        ),
        "parameters": [
            _parameter("heat", "1: add where the network looked (Grad-CAM), as a JPEG.", most=1),
            _parameter("nearest", "Number of most similar training images.", MOST_NEAREST),
            *coverage,
            {
                "name": "name",
                "in": "query",
                "description": "Name of an image that is the body, to find it again in the answer.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": binary},
                "application/octet-stream": {"schema": binary},
            },
        },
        "responses": {
            "200": {"description": "One answer for each image, in order.", "content": answers},
            "422": {"description": "No image could be read.", "content": answers},
            **_refusals(),
        },
    }


def _refusals() -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": meaning, "content": error} for status, meaning in _REFUSALS.items()
    }


def _correct() -> Json:
    text = {"type": "string"}
    kept = {"application/json": {"schema": {"$ref": "#/components/schemas/Kept"}}}
    return {
        "summary": "Keep an image that was answered wrongly, with its right label.",
        "description": "The body is the image. It is stored beside the file of --fixes, which gets a row.",
        "parameters": [
            {"name": "label", "in": "query", "required": True, "schema": text, "description": "Its label; several are separated by ;"},
            {"name": "x-token", "in": "header", "required": True, "schema": text, "description": "The token of the printed address."},
        ],
        "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        "responses": {
            "200": {"description": "It is kept.", "content": kept},
            "422": {"description": "The image cannot be read."},
            **_refusals(),
        },
    }  # fmt: skip


def _parameter(name: str, meaning: str, most: int) -> Json:
    schema = {"type": "integer", "minimum": 0, "maximum": most, "default": 0}
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _plain(summary: str, content_type: str) -> Json:
    return {
        "summary": summary,
        "responses": {"200": {"description": "It.", "content": {content_type: {}}}},
    }
