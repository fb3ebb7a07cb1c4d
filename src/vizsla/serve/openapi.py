"""What a server takes in; the description of its interface, as OpenAPI 3.1 has it, out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla import __version__
from vizsla.evaluate.novelty import REFUSED_SHARE
from vizsla.serve.answers import MOST_NEAREST, usual_coverage

if TYPE_CHECKING:
    from vizsla.evaluate.calibration import Calibration
    from vizsla.serve.limits import Limits
    from vizsla.types import Task

Json = dict[str, object]

_REFUSALS = {
    "400": "The form is damaged or has no file, or a number in the query cannot be taken.",
    "403": "The request comes from a page of another site.",
    "413": "The body is too large, or has too many pictures.",
    "415": "The content type is none of those that a body may have.",
    "421": "The server does not go by the name in the Host header.",
    "429": "Too many requests from one address; Retry-After says when to come again.",
    "503": "Too busy or too slow; Retry-After says when to come again.",
}


def description(
    *, title: str, task: Task, calibration: Calibration | None, limits: Limits, max_pixels: int
) -> Json:
    """Return the OpenAPI document.

    Args:
        title: Name of the model.
        task: What is predicted.
        calibration: Of the model file; None if it has none.
        limits: What the server takes.
        max_pixels: Of one picture.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"vizsla: {title}",
            "version": __version__,
            "description": (
                "Pictures in, what a trained classifier says of them out. Limits: "
                f"{limits.body_bytes / 1e6:g} MB a request, {limits.pictures} pictures a request, "
                f"{max_pixels / 1e6:g} million pixels a picture, {limits.seconds:g} seconds an answer"
                + (
                    f", {limits.requests_per_second:g} requests a second from one address."
                    if limits.requests_per_second
                    else "."
                )
            ),
        },
        "paths": {
            "/api/predict": {"post": _predict(limits, calibration=calibration)},
            "/api/model": {"get": _plain("Describe the model and the limits.", "application/json")},
            "/health": {
                "get": _plain("Say whether the server takes pictures.", "application/json")
            },
            "/metrics": {"get": _plain("Count what was done, for Prometheus.", "text/plain")},
            "/openapi.json": {"get": _plain("This description.", "application/json")},
        },
        "components": {"schemas": _schemas(task, calibration=calibration)},
    }


def _predict(limits: Limits, *, calibration: Calibration | None) -> Json:
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["pictures"],
        "properties": {"pictures": {"type": "array", "items": binary, "maxItems": limits.pictures}},
    }
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers = {"application/json": {"schema": {"$ref": "#/components/schemas/Predictions"}}}
    return {
        "summary": "Predict one picture or several.",
        "description": (
            "Each file of the form is a picture, whatever its field is called; or the body is one picture. An unreadable "
            "picture has its place in the answer, with the cause."
        ),
        "parameters": [
            _parameter("heat", "1: add where the network looked (Grad-CAM), as a JPEG.", most=1),
            _parameter("nearest", "So many training pictures that are most alike.", MOST_NEAREST),
            *_coverage_parameters(calibration),
            {
                "name": "name",
                "in": "query",
                "description": "Name of a picture that is the body, to find it again in the answer.",
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
            "200": {"description": "One answer for each picture, in order.", "content": answers},
            "422": {"description": "No picture could be read.", "content": answers},
            **{
                status: {"description": meaning, "content": error}
                for status, meaning in _REFUSALS.items()
            },
        },
    }


def _parameter(name: str, meaning: str, most: int) -> Json:
    schema = {"type": "integer", "minimum": 0, "maximum": most, "default": 0}
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _coverage_parameters(calibration: Calibration | None) -> list[Json]:
    usual = usual_coverage(calibration)
    if usual is None:
        return []
    schema = {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "default": usual,
    }
    meaning = (
        "Share of pictures, drawn as the validation pictures were, whose label_set holds the true "
        "label, at least; on average over all, not for each class by itself."
    )
    return [{"name": "coverage", "in": "query", "description": meaning, "schema": schema}]


def _plain(summary: str, content_type: str) -> Json:
    return {
        "summary": summary,
        "responses": {"200": {"description": "It.", "content": {content_type: {}}}},
    }


def _schemas(task: Task, *, calibration: Calibration | None) -> Json:
    number: Json = {"type": "number"}
    share: Json = {"type": "number", "minimum": 0, "maximum": 1}
    text: Json = {"type": "string"}
    labelled: Json = {"type": "object", "properties": {"label": text, "probability": share}}
    nearest: Json = {
        "type": "object",
        "properties": {"label": text, "similarity": number, "picture": text},
    }
    properties: Json = {"name": text, "error": text}
    if task == "regression":
        properties["prediction"] = {"type": "object", "additionalProperties": number}
    else:
        several = task == "multi_category"
        properties |= {
            "prediction": {"type": "array", "items": text} if several else text,
            "probability": share,
            "top": {"type": "array", "items": labelled},
            "probabilities": {"type": "object", "additionalProperties": share},
        }
    if usual_coverage(calibration) is not None:
        properties["label_set"] = {
            "type": "array",
            "items": text,
            "minItems": 1,
            "description": "Labels, likeliest first, among which the true one is with the probability coverage.",
        }
        properties["coverage"] = share
    if calibration is not None:
        properties["familiarity"] = {
            **share,
            "description": "Share of the validation pictures that were no more like one of the classes.",
        }
        properties["none_of_these"] = {
            "type": "boolean",
            "description": (
                f"Whether familiarity is below {REFUSED_SHARE:g}: the picture looks like none of the classes."
            ),
        }
    properties |= {"heat": text, "nearest": {"type": "array", "items": nearest}}
    return {
        "Predictions": {
            "type": "object",
            "required": ["pictures"],
            "properties": {
                "pictures": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}
            },
        },
        "Answer": {"type": "object", "required": ["name"], "properties": properties},
        "Error": {"type": "object", "required": ["error"], "properties": {"error": text}},
    }
