"""The manifest of a model file: what it says about its network, written as JSON and read back with every field checked.

The text is in the header of the model file. It is data from outside: ``manifest_from_json`` takes nothing for granted,
and names the field that is wrong.
"""

# ruff: noqa: TC001 (msgspec reads the types of the fields when the program runs)

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, ModelFileError
from vizsla.evaluate.calibration import Calibration
from vizsla.evaluate.metrics import Metric
from vizsla.model_file.final_resize import FinalResize
from vizsla.models.heads import NoHead, OwnHead
from vizsla.models.stages import BackboneSpec
from vizsla.types import (
    LARGEST_SIDE,
    LONGEST_CLASS_NAME,
    MOST_PIXELS,
    ClassType,
    Preprocessing,
    Size,
    Task,
    is_usable_size,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

AGAIN = "Copy the file again from its source, or export the model again."
FORMAT_NAME = "vizsla-model"
FORMAT_VERSION = 5
"""The newest format; it rises when a file can no longer be read by older versions of vizsla.

Format 1 has one class per image. Several labels and numbers are format 2, so that an older version does not take them for
classes. A bit depth below 16 is format 3: an older version would see 16-bit images almost black. Classes that differ by left and
right, and thresholds of several labels, are format 4: an older version would average over mirror images, or decide at 0.5. So are
parts of the network that are the user's own. Networks that see grey images are format 5. A file is written in the lowest format that can hold it.
"""

_FULL_DEPTH = 16
_LARGEST_NUMBER = 1e30
_LONGEST_TEXT = 16_000_000  # Characters. 21,000 class names of ImageNet-21k take under a million.
_LONGEST_NAME = 1_000  # Characters of a name or version; they are shown in messages and searched for among networks.
_LONGEST_HEAD = 10_000  # Characters of JSON; a head of a million layers would fill the memory.
_TEMPERATURES = (0.0099, 101.0)  # What every version of vizsla has ever fitted.
_ENDS = ("value", "low", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything about a trained classifier except its weights.

    Attributes:
        vizsla_version: The version that wrote the file.
        created: When, UTC, as ``2025-03-01T12:00:00Z``.
        backbone: Network and origin and licence of the weights that training started from.
        head: Settings of the head, as ``build_head`` takes them.
        vocab: Names of the classes or numbers, in the order of the logits.
        preprocessing: What the classifier normalises with.
        resize: How a decoded image becomes one of fixed size (presize); None if images keep their own size.
        final_resize: How it then becomes what the network sees.
        metrics: Measured on the validation images, with their intervals.
        data_fingerprint: Identifies the images and labels of the training; empty if not known.
        notes: Free text.
        libraries: Versions of the libraries that wrote the file, by name.
        tensors_sha256: Digest of the weights, see ``bundle.py``.
        task: What is predicted of an image.
        calibration: How far its answers can be trusted; None where that is not known, as in older files.
        class_type: What the classes were as labels; only written where that is not text.
        bit_depth: How many bits the values of 16-bit images used, 8 to 16; None where there were none, and in older files,
            whose 16-bit images were scaled by 65,535.
        flip: Whether it was trained on mirror images too, or may have been; only written where it was not.
        thresholds: Of several labels, the calibrated probability above which an image has each class; None is 0.5 for all.
    """

    vizsla_version: str
    created: str
    backbone: BackboneSpec
    head: dict[str, Any]
    vocab: tuple[str, ...]
    preprocessing: Preprocessing
    resize: Resize | None
    final_resize: FinalResize
    metrics: tuple[Metric, ...]
    data_fingerprint: str
    notes: str
    libraries: dict[str, str]
    tensors_sha256: str
    task: Task = "category"
    calibration: Calibration | None = None
    class_type: ClassType = "text"
    bit_depth: int | None = None
    flip: bool = True
    thresholds: tuple[float, ...] | None = None

    @property
    def size(self) -> Size | None:
        """``(height, width)`` that the network sees; None if images keep their own size."""
        if self.final_resize.size is not None:
            return self.final_resize.size
        return None if self.resize is None else self.resize.size

    @property
    def own_parts(self) -> dict[str, str]:
        """The parts of the network that only the user's code can build, each with the name of its class, body before head."""
        kind, parts = self.head.get("kind"), dict[str, str]()
        if self.backbone.source == "module":
            parts["network" if kind == NoHead.kind else "body"] = self.backbone.name
        if kind == OwnHead.kind:
            parts["head"] = str(self.head.get("name"))[:_LONGEST_NAME]
        return parts


def manifest_digest(manifest: Manifest) -> str:
    """Return a SHA-256 that is the same only for the same model: the manifest holds the digest of the weights."""
    return hashlib.sha256(manifest_to_json(manifest).encode()).hexdigest()


def manifest_to_json(manifest: Manifest) -> str:
    """Return a manifest as JSON text; metrics that are not finite become null."""
    version = 1 if manifest.task == "category" else 2
    if (manifest.bit_depth or _FULL_DEPTH) < _FULL_DEPTH:
        version = 3
    if not manifest.flip or manifest.thresholds is not None or manifest.own_parts:
        version = 4
    if manifest.preprocessing.grey:
        version = 5
    content: dict[str, Any] = {"format": FORMAT_NAME, "format_version": version, **asdict(manifest)}
    if manifest.class_type == "text":
        del content["class_type"]
    for name in ("bit_depth", "thresholds"):
        if content[name] is None:
            del content[name]
    if manifest.flip:
        del content["flip"]
    if version < 5:
        del content["preprocessing"]["grey"]
    for metric in content["metrics"]:
        metric |= {end: None for end in _ENDS if not math.isfinite(metric[end])}
    # Not msgspec.json, which cannot write or read the lone surrogates of file names that are not valid Unicode.
    return json.dumps(content, allow_nan=False)


def manifest_from_json(text: str, *, path: Path) -> Manifest:
    """Read a manifest from JSON text and check every field of it; messages name the file at ``path``.

    Raises:
        ModelFileError: The text is not JSON, comes from a newer format, or a field is missing or of the wrong type.
    """
    content = _parsed(text, path=path)
    _check_format(content, path=path)
    for metric in _list_of_objects(content.get("metrics")):
        metric |= {end: math.nan for end in _ENDS if metric.get(end, 0) is None}
    if isinstance(resize := content.get("resize"), dict):  # not stated by earlier versions
        resize.setdefault("reducing_gap", 1.0)
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$.")
        field = re.sub(r"\[(\d+)\]", r".\1", place.rstrip("`").replace("[...]", ""))
        _refuse(field, _value_at(content, field), f"{said[:1].lower()}{said[1:200]}", path=path)
    except UnicodeEncodeError as error:  # a lone surrogate where one of a few words is expected
        _refuse("", error.object, "one of its values is not allowed", path=path)
    for field, is_right, expected in _expectations(manifest):
        if not is_right:
            _refuse(field, _value_at(content, field), f"expected {expected}", path=path)
    try:
        manifest.final_resize.augmentation()
    except ConfigError as error:
        raise ModelFileError(
            f"{path} is damaged: its field 'final_resize' cannot be used. {error}"
        ) from error
    return manifest


def _parsed(text: str, *, path: Path) -> dict[str, Any]:
    if len(text) > _LONGEST_TEXT:
        raise ModelFileError(
            f"{path} is damaged or not written by vizsla: its manifest has {len(text):,} characters, more than "
            f"{_LONGEST_TEXT:,}."
        )
    try:
        content = json.loads(
            text,
            object_pairs_hook=_each_once,
            parse_constant=_bounded,
            parse_float=_bounded,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged: the manifest in its header is not JSON that vizsla writes ({error}). {AGAIN}"
        ) from error
    if not isinstance(content, dict):
        _refuse("", content, "expected an object", path=path)
    return cast("dict[str, Any]", content)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object. One with a name twice means different things to different readers; msgspec takes the last."""
    content: dict[str, object] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the field {name[:80]!r} is there twice")
        content[name] = value
    return content


def _bounded(text: str) -> float:
    value = float(text)
    if not abs(value) < _LARGEST_NUMBER:
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"the number {text[:40]} is out of range")
    return int(text)


def _check_format(content: dict[str, Any], *, path: Path) -> None:
    """Check the format first: a newer one may have other fields, and complaints about those would mislead."""
    if content.get("format") != FORMAT_NAME:
        _refuse("format", content.get("format"), f"expected {FORMAT_NAME!r}", path=path)
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        _refuse("format_version", version, "expected a whole number from 1", path=path)
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} is in model format {version}, written by vizsla {str(content.get('vizsla_version'))[:40]}. "
            f"The installed vizsla reads formats up to {FORMAT_VERSION}. "
            "Install a newer one: pip install --upgrade vizsla"
        )


def _expectations(manifest: Manifest) -> Generator[tuple[str, bool, str]]:
    """Yield what msgspec does not check: the field, whether its value is right, and what it should be."""
    is_whole = manifest.head.get("kind") == NoHead.kind
    source_is_right = not is_whole or manifest.backbone.source == "module"
    yield "backbone.source", source_is_right, "'module', as there is no head"
    short = len(json.dumps(manifest.head)) <= _LONGEST_HEAD
    yield "head", short, f"an object of at most {_LONGEST_HEAD:,} characters"
    spec = manifest.backbone
    named = {f"backbone.{name}": getattr(spec, name) for name in ("name", "weights", "licence")}
    named |= {
        name: getattr(manifest, name) for name in ("vizsla_version", "created", "tensors_sha256")
    }
    named |= {f"metrics.{number}.name": one.name for number, one in enumerate(manifest.metrics)}
    for field, text in (
        *named.items(),
        *(("libraries", text) for text in chain(*manifest.libraries.items())),
    ):
        yield field, len(text) <= _LONGEST_NAME, f"at most {_LONGEST_NAME:,} characters"
    vocab = manifest.vocab
    yield "vocab", 0 < len(vocab) == len(set(vocab)), "a list of class names, each once"
    longest = max(map(len, vocab), default=0)
    yield (
        "vocab",
        longest <= LONGEST_CLASS_NAME,
        f"names of at most {LONGEST_CLASS_NAME:,} characters",
    )
    preprocessing = manifest.preprocessing
    channels = len(preprocessing.mean)
    yield (
        "preprocessing.mean",
        channels in ((1, 3) if preprocessing.grey else (3,)),
        "a number for each channel",
    )
    yield (
        "preprocessing.std",
        len(preprocessing.std) == channels and min(preprocessing.std) > 0,
        "as many positive numbers",
    )
    sizes = {
        "preprocessing.size": manifest.preprocessing.size,
        "resize.size": manifest.resize and manifest.resize.size,
        "final_resize.size": manifest.final_resize.size,
    }
    for field, size in sizes.items():
        expected = f"whole numbers from 1 to {LARGEST_SIDE:,}, and {MOST_PIXELS:,} pixels in all"
        yield field, size is None or is_usable_size(size), expected
    final = manifest.final_resize
    ratio_is_right = final.crop_ratio is None or min(final.crop_ratio) > 0
    yield "final_resize.crop_ratio", ratio_is_right, "positive numbers"
    yield "final_resize.crop_scale", final.crop_scale > 0, "a positive number"
    depth_is_right = 8 <= (manifest.bit_depth or _FULL_DEPTH) <= _FULL_DEPTH
    yield "bit_depth", depth_is_right, f"a whole number from 8 to {_FULL_DEPTH}"
    if manifest.thresholds is not None:
        fits = manifest.task == "multi_category" and len(manifest.thresholds) == len(vocab)
        fits = fits and all(0 <= value <= 1 for value in manifest.thresholds)
        yield "thresholds", fits, "a number from 0 to 1 for each of several labels"
    for number, metric in enumerate(manifest.metrics):
        field = f"metrics.{number}.num_pictures"
        yield field, metric.num_pictures >= 0, "a whole number from 0"
    if manifest.calibration is not None:
        yield from _expectations_of(manifest.calibration)


def _expectations_of(found: Calibration) -> Generator[tuple[str, bool, str]]:
    least, largest = _TEMPERATURES
    is_right = least <= found.temperature <= largest
    yield "calibration.temperature", is_right, f"a number from {least} to {largest}"
    for name in ("error_before", "error_after"):
        yield f"calibration.{name}", 0 <= getattr(found, name) <= 1, "a number from 0 to 1"
    yield "calibration.num_pictures", found.num_pictures >= 0, "a whole number from 0"
    if found.label_sets is not None:
        coverages, thresholds = found.label_sets.coverages, found.label_sets.thresholds
        ascend = len(thresholds) == len(coverages) and list(coverages) == sorted(coverages)
        are_shares = all(0 <= value <= 1 for value in (*coverages, *thresholds))
        yield (
            "calibration.label_sets.thresholds",
            ascend and are_shares,
            "as many numbers from 0 to 1 as ascending coverages",
        )
    quantiles, separation = found.novelty.quantiles, found.novelty.separation
    ascend = len(quantiles) >= 2 and list(quantiles) == sorted(quantiles)
    yield "calibration.novelty.quantiles", ascend, "two or more ascending numbers"
    is_share = separation is None or 0 <= separation <= 1
    yield "calibration.novelty.separation", is_share, "a number from 0 to 1"


def _list_of_objects(value: object) -> list[dict[str, Any]]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _refuse(field: str, received: object, problem: str, *, path: Path) -> NoReturn:
    place = f"its field {field!r} is wrong" if field else "its manifest is wrong"
    raise ModelFileError(
        f"{path} is damaged or not written by vizsla: {place}: {problem}. "
        f"Received: {_shown(received)}. {AGAIN}"
    )


def _value_at(content: object, field: str) -> object:
    """Return the value at a place such as ``resize.size.0``; None where there is none."""
    for step in field.split(".") if field else ():
        if isinstance(content, dict):
            content = cast("dict[str, object]", content).get(step)
        elif isinstance(content, list) and step.isdecimal():
            items = cast("list[object]", content)
            content = items[int(step)] if int(step) < len(items) else None
    return content


def _shown(value: object) -> str:
    """Return a few words for a JSON value of any size and depth."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(cast('list[object]', value))}"
    return json.dumps(value[:80] if isinstance(value, str) else value, ensure_ascii=False)[:80]
