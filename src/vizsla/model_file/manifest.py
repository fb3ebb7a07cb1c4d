"""What a model file says of its network, as a ``Manifest``; to JSON text and back, every field checked.

The text stands in the header of the model file. It is data from outside: ``manifest_from_json`` takes nothing for
granted, and names the field that is wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast, get_args

from vizsla.augment.kernels import Mode
from vizsla.data.images.sizing import PadMode, Resize, ResizeMethod
from vizsla.errors import ConfigError, ModelFileError
from vizsla.evaluate.calibration import LARGEST_TEMPERATURE, LEAST_TEMPERATURE, Calibration
from vizsla.evaluate.conformal import LabelSets
from vizsla.evaluate.metrics import Metric
from vizsla.evaluate.novelty import Novelty
from vizsla.model_file.final_resize import FinalResize
from vizsla.models.backbones import BackboneSpec
from vizsla.types import Preprocessing, Size, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FORMAT_NAME = "vizsla-model"
FORMAT_VERSION = 2
"""The newest format; it rises when a file can no longer be read by older versions of vizsla.

Format 1 knows one class for each picture. Several labels and numbers are format 2, so that an older version does not take
them for classes. A file is written in the lowest format that can say what it holds.
"""

_LARGEST_SIDE = 16_384  # Pixels; a damaged size must not make predict() allocate without bound.
_LONGEST_TEXT = (
    16_000_000  # Characters. 21,000 class names of ImageNet-21k take less than one million.
)
_LONGEST_HEAD = 10_000  # Characters of JSON; a head of a million layers would take all memory before it is found wrong.
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything about a trained classifier but its weights.

    Attributes:
        vizsla_version: The version that wrote the file.
        created: When, UTC, as ``2025-03-01T12:00:00Z``.
        backbone: Network and origin and licence of the weights that training started from.
        head: Settings of the head, as ``build_head`` takes them.
        vocab: Names of the classes or numbers, in the order of the logits.
        preprocessing: What the classifier normalises with.
        resize: How a decoded picture becomes one of fixed size (presize); None if pictures keep their own size.
        final_resize: How it then becomes what the network sees.
        metrics: Measured on the validation pictures, with their intervals.
        data_fingerprint: Identifies the pictures and labels that it was trained on; empty if not known.
        notes: Free text.
        libraries: Versions of the libraries that wrote the file, by name.
        tensors_sha256: Digest of the weights, see ``bundle.py``.
        task: What is predicted of a picture.
        calibration: What makes its answers honest; None where that is not known, as in older files.
    """

    vizsla_version: str
    created: str
    backbone: BackboneSpec
    head: Mapping[str, object]
    vocab: tuple[str, ...]
    preprocessing: Preprocessing
    resize: Resize | None
    final_resize: FinalResize
    metrics: tuple[Metric, ...]
    data_fingerprint: str
    notes: str
    libraries: Mapping[str, str]
    tensors_sha256: str
    task: Task = "category"
    calibration: Calibration | None = None

    @property
    def size(self) -> Size | None:
        """``(height, width)`` that the network sees; None if pictures keep their own size."""
        if self.final_resize.size is not None:
            return self.final_resize.size
        return None if self.resize is None else self.resize.size


def manifest_to_json(manifest: Manifest) -> str:
    """Return a manifest as JSON text; numbers that are not finite become null."""
    version = 1 if manifest.task == "category" else FORMAT_VERSION
    content = {"format": FORMAT_NAME, "format_version": version, **asdict(manifest)}
    content["metrics"] = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(metric).items()
        }
        for metric in manifest.metrics
    ]
    return json.dumps(content, allow_nan=False)


def manifest_from_json(text: str, *, path: Path) -> Manifest:
    """Read a manifest from JSON text and check every field of it.

    Args:
        text: As ``manifest_to_json`` writes it.
        path: The model file, for messages.

    Raises:
        ModelFileError: The text is not JSON, comes from a newer format, or a field is missing or of the wrong type.
    """
    fields = _Fields(_parsed(text, path=path), path=path)
    _check_format(fields)
    backbone = fields.group("backbone")
    preprocessing = fields.group("preprocessing")
    return Manifest(
        vizsla_version=fields.text("vizsla_version"),
        created=fields.text("created"),
        backbone=BackboneSpec(
            source=backbone.one_of("source", ("timm", "torchvision")),
            name=backbone.text("name"),
            weights=backbone.text("weights"),
            licence=backbone.text("licence"),
        ),
        head=_head(fields),
        vocab=_vocab(fields),
        preprocessing=Preprocessing(
            mean=preprocessing.triple("mean"),
            std=preprocessing.triple("std", positive=True),
            size=preprocessing.size("size"),
        ),
        resize=fields.optional("resize", _resize),
        final_resize=_final_resize(fields, "final_resize"),
        metrics=fields.items("metrics", _metric),
        data_fingerprint=fields.text("data_fingerprint"),
        notes=fields.text("notes"),
        libraries=_libraries(fields),
        tensors_sha256=fields.text("tensors_sha256"),
        # Files of the first versions do not say: there was one task.
        task=fields.one_of("task", get_args(Task)) if "task" in fields.names else "category",
        calibration=fields.optional("calibration", _calibration)
        if "calibration" in fields.names
        else None,
    )


def _parsed(text: str, *, path: Path) -> object:
    if len(text) > _LONGEST_TEXT:
        raise ModelFileError(
            f"{path} is damaged or not written by vizsla: its manifest has {len(text):,} characters, more than {_LONGEST_TEXT:,}."
        )
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged: the manifest in its header is not JSON ({error}). "
            "Copy the file again from where it came, or export the model again."
        ) from error


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; one with a name twice means different things to different readers."""
    content: dict[str, object] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the field {name[:80]!r} is there twice")
        content[name] = value
    return content


def _check_format(fields: _Fields) -> None:
    """Before anything else: a newer format may have other fields, and then complaints about fields mislead."""
    fields.one_of("format", (FORMAT_NAME,))
    version = fields.whole("format_version", low=1)
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{fields.path} is in model format {version}, written by vizsla {fields.text('vizsla_version')[:40]}. "
            f"The installed vizsla reads formats up to {FORMAT_VERSION}. "
            "Install a newer one: pip install --upgrade vizsla"
        )


def _head(fields: _Fields) -> Mapping[str, object]:
    head = fields.mapping("head")
    if len(json.dumps(head)) > _LONGEST_HEAD:
        fields.refuse("head", dict(head), f"an object of at most {_LONGEST_HEAD:,} characters")
    return head


def _vocab(fields: _Fields) -> tuple[str, ...]:
    vocab = fields.items("vocab", _Fields.text)
    if not vocab or len(set(vocab)) != len(vocab):
        fields.refuse("vocab", list(vocab), "a list of class names, each once")
    return vocab


def _resize(fields: _Fields, name: str) -> Resize:
    resize = fields.group(name)
    return Resize(
        resize.size("size"),
        method=resize.one_of("method", get_args(ResizeMethod)),
        pad_mode=resize.one_of("pad_mode", get_args(PadMode)),
    )


def _final_resize(fields: _Fields, name: str) -> FinalResize:
    final = fields.group(name)
    resize = FinalResize(
        size=final.optional("size", _Fields.size),
        mode=final.one_of("mode", get_args(Mode)),
        pad_mode=final.one_of("pad_mode", get_args(PadMode)),
        align_corners=final.one_of("align_corners", (True, False)),
        crop_ratio=final.optional("crop_ratio", _Fields.pair),
        crop_scale=final.number("crop_scale", positive=True),
    )
    try:
        resize.augmentation()
    except ConfigError as error:
        raise ModelFileError(
            f"{fields.path} is damaged: its field {name!r} cannot be used. {error}"
        ) from error
    return resize


def _metric(fields: _Fields, name: str) -> Metric:
    metric = fields.group(name)
    value, low, high = (metric.optional(end, _Fields.number) for end in ("value", "low", "high"))
    return Metric(
        name=metric.text("name"),
        value=math.nan if value is None else value,
        low=math.nan if low is None else low,
        high=math.nan if high is None else high,
        num_pictures=metric.whole("num_pictures", low=0),
    )


def _calibration(fields: _Fields, name: str) -> Calibration:
    found = fields.group(name)
    temperature = found.number("temperature", positive=True)
    if not LEAST_TEMPERATURE * 0.99 <= temperature <= LARGEST_TEMPERATURE * 1.01:
        expected = f"a number from {LEAST_TEMPERATURE:g} to {LARGEST_TEMPERATURE:g}"
        found.refuse("temperature", temperature, expected)
    return Calibration(
        temperature=temperature,
        num_pictures=found.whole("num_pictures", low=0),
        error_before=found.share("error_before"),
        error_after=found.share("error_after"),
        loss_before=found.number("loss_before"),
        loss_after=found.number("loss_after"),
        label_sets=found.optional("label_sets", _label_sets),
        novelty=_novelty(found.group("novelty")),
    )


def _label_sets(fields: _Fields, name: str) -> LabelSets:
    sets = fields.group(name)
    coverages = sets.items("coverages", _Fields.share)
    thresholds = sets.items("thresholds", _Fields.share)
    if len(thresholds) != len(coverages) or list(coverages) != sorted(coverages):
        sets.refuse("thresholds", list(thresholds), "as many numbers as ascending coverages")
    return LabelSets(
        coverages=coverages,
        thresholds=thresholds,
        num_pictures=sets.whole("num_pictures", low=0),
    )


def _novelty(fields: _Fields) -> Novelty:
    quantiles = fields.items("quantiles", _Fields.number)
    if len(quantiles) < 2 or list(quantiles) != sorted(quantiles):
        fields.refuse("quantiles", list(quantiles), "two or more ascending numbers")
    return Novelty(
        quantiles=quantiles,
        threshold=fields.number("threshold"),
        num_pictures=fields.whole("num_pictures", low=0),
        separation=fields.optional("separation", _Fields.share),
    )


def _libraries(fields: _Fields) -> Mapping[str, str]:
    libraries = fields.group("libraries")
    return {name: libraries.text(name) for name in libraries.names}


def _shown(value: object) -> str:
    """Few words for a JSON value of any size and depth."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(cast('list[object]', value))}"
    return json.dumps(value, ensure_ascii=False)[:80]


class _Fields:
    """A JSON object from a model file whose fields are read with their type; complaints name field and file."""

    def __init__(self, content: object, *, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        if not isinstance(content, dict):
            self.refuse("", content, "an object")
        self._content = cast("dict[str, object]", content)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._content)

    def refuse(self, name: str, received: object, expected: str) -> NoReturn:
        field = f"{self.prefix}{name}".rstrip(".")
        place = f"its field {field!r}" if field else "its manifest"
        raise ModelFileError(
            f"{self.path} is damaged or not written by vizsla: {place} must be {expected}. "
            f"Received: {_shown(received)}. Export the model again, or copy the file again."
        )

    def _value(self, name: str, expected: str) -> object:
        if name not in self._content:
            self.refuse(name, None, f"{expected}, and is missing")
        return self._content[name]

    def text(self, name: str) -> str:
        value = self._value(name, "text")
        if not isinstance(value, str):
            self.refuse(name, value, "text")
        return value

    def one_of(self, name: str, allowed: tuple[_Item, ...]) -> _Item:
        expected = " or ".join(repr(item) for item in allowed)
        value = self._value(name, expected)
        found = next((item for item in allowed if value == item), None)
        if found is None:
            self.refuse(name, value, expected)
        return found

    def whole(self, name: str, *, low: int, high: int = 2**63 - 1) -> int:
        expected = f"a whole number from {low} to {high}"
        value = self._value(name, expected)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, value, expected)
        return value

    def number(self, name: str, *, positive: bool = False) -> float:
        expected = "a positive number" if positive else "a number"
        value = self._value(name, expected)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.refuse(name, value, expected)
        # Comparisons, because a whole number of 400 digits has no float.
        if not -1e30 < value < 1e30 or (positive and value <= 0):
            self.refuse(name, str(value), expected)
        return float(value)

    def share(self, name: str) -> float:
        value = self.number(name)
        if not 0 <= value <= 1:
            self.refuse(name, value, "a number from 0 to 1")
        return value

    def optional(self, name: str, read: Callable[[_Fields, str], _Item]) -> _Item | None:
        """Read a field with ``read(fields, name)``, or return None if it is null; missing is not null."""
        is_null = name in self._content and self._content[name] is None
        return None if is_null else read(self, name)

    def mapping(self, name: str) -> Mapping[str, object]:
        return self.group(name)._content

    def group(self, name: str) -> _Fields:
        content = self._value(name, "an object")
        return _Fields(content, path=self.path, prefix=f"{self.prefix}{name}.")

    def items(self, name: str, read: Callable[[_Fields, str], _Item]) -> tuple[_Item, ...]:
        """Read a list, each item with ``read(fields, its number)``."""
        content = self._value(name, "a list")
        if not isinstance(content, list):
            self.refuse(name, content, "a list")
        numbered = {str(number): item for number, item in enumerate(cast("list[object]", content))}
        fields = _Fields(numbered, path=self.path, prefix=f"{self.prefix}{name}.")
        return tuple(read(fields, number) for number in numbered)

    def numbers(self, name: str, *, count: int, positive: bool = False) -> tuple[float, ...]:
        values = self.items(name, lambda fields, item: fields.number(item, positive=positive))
        if len(values) != count:
            self.refuse(name, list(values), f"a list of {count} numbers")
        return values

    def pair(self, name: str) -> tuple[float, float]:
        low, high = self.numbers(name, count=2, positive=True)
        return low, high

    def triple(self, name: str, *, positive: bool = False) -> tuple[float, float, float]:
        red, green, blue = self.numbers(name, count=3, positive=positive)
        return red, green, blue

    def size(self, name: str) -> Size:
        sides = self.items(name, lambda fields, item: fields.whole(item, low=1, high=_LARGEST_SIDE))
        if len(sides) != 2:
            self.refuse(name, list(sides), "a list of height and width")
        return sides[0], sides[1]
