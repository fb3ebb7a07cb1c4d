"""A manifest in, the page of a model repository (Markdown with a YAML head) out: what the model says, how well, and for whom."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vizsla.evaluate.metrics import Metric
    from vizsla.export.manifest import Manifest

_MOST_CLASSES = 200
_HEAD = """---
library_name: vizsla
pipeline_tag: image-classification
tags:
- vizsla
- image-classification
---
"""
_TASKS = {
    "category": "Says which one of {count} classes a picture shows.",
    "multi_category": "Says which of {count} classes a picture shows; any number of them.",
    "regression": "Predicts {count} numbers of a picture.",
}


def model_card(manifest: Manifest, *, repo_id: str) -> str:
    """Return the text of ``README.md`` for a model.

    Args:
        manifest: Of the model file. Its texts may come from anywhere and are shown as they are, not as Markdown.
        repo_id: Name of the repository.
    """
    task = _TASKS[manifest.task].format(count=len(manifest.vocab))
    size = manifest.size
    sees = "pictures of their own size" if size is None else f"{size[0]} x {size[1]} pixels"
    parts = [
        _HEAD,
        f"# {_text(repo_id.rpartition('/')[2])}\n",
        f"{task} The network is {_code(manifest.backbone.name)} of {manifest.backbone.source} and sees {sees}.\n",
        _use(repo_id),
        _quality(manifest.metrics),
        _honesty(manifest),
        _classes(manifest),
        _origin(manifest),
        _caveats(manifest),
    ]
    if manifest.notes:
        parts.append(f"## Notes\n\n{_text(manifest.notes)}\n")
    return "\n".join(parts)


def _use(repo_id: str) -> str:
    return (
        "## Use\n\n```\npip install vizsla\n```\n\n```python\n"
        "from vizsla import from_hub\n\n"
        f'predictor = from_hub("{repo_id}")\n'
        'print(predictor.predict("photo.jpg").label)\n```\n\n'
        "The file holds weights and plain data; opening it runs no code of anybody's.\n"
    )


def _quality(metrics: tuple[Metric, ...]) -> str:
    if not metrics:
        return "## How good it is\n\nNothing was measured when the file was written.\n"
    rows = [
        f"| {_text(metric.name)} | {_number(metric.value)} | {_number(metric.low)} to {_number(metric.high)} "
        f"| {metric.num_pictures:,} |"
        for metric in metrics
    ]
    return (
        "## How good it is\n\nMeasured on validation pictures, which it was not trained on:\n\n"
        "| measure | value | 95 % interval | pictures |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _honesty(manifest: Manifest) -> str:
    """Return how far the probabilities are to be trusted."""
    found = manifest.calibration
    if found is None:
        return (
            "No calibration of its probabilities is recorded.\n"
            if manifest.task != "regression"
            else ""
        )
    return (
        f"Logits are divided by {found.temperature:.3g} before they become probabilities. Expected calibration error on "
        f"{found.num_pictures:,} held-out pictures: {_number(found.error_before)} before, {_number(found.error_after)} after.\n"
    )


def _classes(manifest: Manifest) -> str:
    title = "Numbers" if manifest.task == "regression" else "Classes"
    shown = ", ".join(map(_code, manifest.vocab[:_MOST_CLASSES]))
    rest = len(manifest.vocab) - _MOST_CLASSES
    more = f", and {rest:,} more in the file" if rest > 0 else ""
    return f"## {title}\n\n{shown}{more}\n"


def _origin(manifest: Manifest) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    fingerprint = _code(manifest.data_fingerprint) if manifest.data_fingerprint else "not known"
    return (
        "## Where it comes from\n\n"
        f"- Training started from: {_text(manifest.backbone.weights)}\n"
        f"- Licence of those weights: {_text(manifest.backbone.licence)}. That of the training pictures is for their owner to say.\n"
        f"- Fingerprint of pictures and labels: {fingerprint}\n"
        f"- Fingerprint of the weights: {_code(manifest.tensors_sha256)}\n"
        f"- Written {_text(manifest.created)} by vizsla {_text(manifest.vizsla_version)} ({_text(versions)})\n"
    )


def _caveats(manifest: Manifest) -> str:
    lines = [
        "The numbers above hold for pictures like those of the validation set: the same sources, cameras and share of "
        "each class. Measure it on pictures of your own before relying on it.",
        "Class names are those of the people who labelled the pictures; mistakes of theirs are learnt too.",
    ]
    if manifest.task == "category":
        lines.insert(
            1,
            "A picture of something else gets one of the classes all the same, sometimes with a high probability.",
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not known"


def _text(text: str) -> str:
    """Return text on one line in which nothing is Markdown or HTML."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", "".join(filter(str.isprintable, flat)))


def _code(text: str) -> str:
    """Return a name as a code span, also where it has backticks or line breaks."""
    flat = "".join(filter(str.isprintable, " ".join(text.split())))
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{space}{flat or ' '}{space}{fence}"
