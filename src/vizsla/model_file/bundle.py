"""Write a classifier as one ``model.safetensors`` and open it again; nothing in the file can run, and damage is noticed.

The file is in the safetensors format: a JSON header, then the weights. The header's ``__metadata__`` holds two strings:
``vizsla.manifest`` (JSON, see ``manifest.py``) and ``vizsla.sha256``, the digest of that text. The manifest holds the digest
of the weights, so a changed byte anywhere is found. What a file claims is compared with its size, or with a network
without storage (on torch's "meta" device), before memory is set aside for it.

Of a file that is not a model only the first bytes are read. Pickles (``.pkl``, old ``.pth``) and zip archives (``.pth``,
``.pt``, Keras) are recognised by them and never opened: opening a pickle can run any program that its author put into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from vizsla import __version__
from vizsla.errors import ConfigError, ModelFileError
from vizsla.files import atomic_write, read_whole
from vizsla.infer.run import usable_device
from vizsla.model_file.final_resize import FinalResize
from vizsla.model_file.manifest import AGAIN, Manifest, manifest_from_json, manifest_to_json
from vizsla.model_file.rebuild import (
    STORED_DTYPES,
    Builder,
    Form,
    build_own_parts,
    describe_differences,
    expected_forms,
    form_of,
    forms_of,
    rebuild_classifier,
    shown_versions,
)
from vizsla.paths import is_address

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from vizsla.augment.batch_augmentation import BatchAugmentation
    from vizsla.data.images.sizing import Resize
    from vizsla.evaluate.calibration import Calibration
    from vizsla.evaluate.metrics import Metric
    from vizsla.models.classifier import Classifier
    from vizsla.types import Size

_LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, a little-endian number of 8 bytes."""

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""

_MOST_TENSORS = 20_000  # The deepest of timm's networks have 2,000.

MANIFEST_KEY = "vizsla.manifest"
_DIGEST_KEY = "vizsla.sha256"
_LIBRARIES = ("torch", "torchvision", "timm", "safetensors", "pillow", "numpy")
_KEEP_WEIGHTS = (
    "save only the weights: safetensors.torch.save_model(classifier, 'weights.safetensors')"
)
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Protocols 2 to 5 begin with their number, protocols 0 and 1 with the first thing that they hold: a list, a dictionary,
# an imported name. (Python, Lib/pickletools.py)
_PICKLE = re.compile(rb"\x80[\x02-\x0f]|\(?[ld]p\d+\n|\(?c[\w.]+\n[\w.]+\n|\(?[]}]q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What a model file holds: the classifier, in evaluation mode, and everything else."""

    classifier: Classifier
    manifest: Manifest


def save_bundle(
    path: Path | str,
    *,
    classifier: Classifier,
    resize: Resize | None,
    augmentation: BatchAugmentation | None = None,
    size: Size | None = None,
    metrics: Sequence[Metric] = (),
    data_fingerprint: str = "",
    notes: str = "",
    calibration: Calibration | None = None,
    bit_depth: int | None = None,
    flip: bool = True,
    thresholds: tuple[float, ...] | None = None,
) -> Path:
    """Write a classifier and all that is needed to use it as one file, whole or not at all.

    The classifier is not changed; its weights are stored as float32. ``resize`` (on the CPU) and then ``augmentation`` (of
    batches) say how validation images came to the size that the network saw; ``size`` replaces that of the latter. Without
    ``calibration`` probabilities stay as the network gives them. ``bit_depth`` says how many bits the 16-bit images used,
    ``flip`` whether mirror images were trained on. ``thresholds`` are those of several labels, for calibrated probabilities; None is
    0.5 for all.

    Raises:
        ConfigError: The network was changed after it was built, so that its name does not describe it, or holds something
            that is no tensor.
        OutputError: The file cannot be written. An old one is untouched.

    Examples:
        >>> save_bundle("model.safetensors", classifier=classifier, resize=Resize((224, 224)))
    """
    head = dict(_check_can_be_named(classifier))
    tensors = _tensors_to_save(classifier)
    final_resize = FinalResize() if augmentation is None else FinalResize.of(augmentation)
    manifest = Manifest(
        vizsla_version=__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        backbone=classifier.backbone.spec,
        head=head,
        vocab=classifier.vocab,
        preprocessing=classifier.preprocessing,
        resize=resize,
        final_resize=final_resize if size is None else replace(final_resize, size=size),
        metrics=tuple(metrics),
        data_fingerprint=data_fingerprint,
        notes=notes,
        libraries=_library_versions(),
        tensors_sha256=_digest(tensors),
        task=classifier.task,
        calibration=calibration,
        class_type=classifier.class_type,
        bit_depth=bit_depth,
        flip=flip,
        thresholds=thresholds,
    )
    _check_can_be_rebuilt(manifest, tensors)
    text = manifest_to_json(manifest)
    header = {MANIFEST_KEY: text, _DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}
    # Not safetensors' save_file: its errors lack the system's error number, and only their owner can read its files.
    content = save(tensors, metadata=header)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def model_source(model: Path | str | bytes | BinaryIO) -> Path | bytes:
    """Return a model file as a path or its bytes; raise ModelFileError for what is neither of these nor an open file."""
    given: Any = model
    if isinstance(given, Path | bytes):
        return given
    if isinstance(given, str | os.PathLike):
        return Path(cast("str", given))
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if not hasattr(given, "read"):
        raise ModelFileError(
            f"A model is the path of a model.safetensors, its bytes, or an open file. Received: {type(given).__name__}"
        )
    try:
        return read_whole(given)
    except ValueError as error:
        raise ModelFileError(f"Cannot read the model from {given!r:.200}: {error}") from error


def model_name(source: Path | bytes) -> Path:
    """Return how messages name a model file."""
    return source if isinstance(source, Path) else Path(f"the model of {len(source):,} bytes")


def read_manifest(model: Path | str | bytes) -> Manifest:
    """Return what a model file, or its bytes, says of itself; the weights are not read.

    Raises:
        ModelFileError: The file is missing, foreign, damaged, or in a newer format.
    """
    source = model_source(model)
    path = model_name(source)
    check_is_safetensors(source)
    with _opened(source) as file:
        header: dict[str, str] = file.metadata() or {}
    text = header.get(MANIFEST_KEY)
    if text is None:
        raise ModelFileError(
            f"{path} is a safetensors file, but not a finished model: it lacks the manifest that names classes and "
            "architecture. Read what learn.save wrote with learn.load, or start from weights: `vizsla train DATA --weights "
            "FILE`, vision_learner(dls, arch, weights=FILE)."
        )
    manifest = manifest_from_json(text, path=path)
    if header.get(_DIGEST_KEY) != hashlib.sha256(text.encode()).hexdigest():
        raise ModelFileError(
            f"{path} is damaged: its manifest was changed after it was written (the digest does not match). {AGAIN}"
        )
    return manifest


def load_bundle(
    model: Path | str | bytes,
    *,
    device: torch.device | str = "cpu",
    builder: Builder | None = None,
) -> Bundle:
    """Open a model file, or its bytes: rebuild the network by its name and put the weights in. No code of the file is run.

    ``builder`` is called for the parts of the network that are the user's own; it returns the module, or (body, head).

    Raises:
        ModelFileError: The file is missing, foreign, damaged, in a newer format, or of a network that the installed
            timm and torchvision do not know; or of a user's own, and there is no builder or it makes another network.
        ConfigError: This machine has no such device, or the builder fails or is not needed.
    """
    source, device = model_source(model), usable_device(device)
    path = model_name(source)
    manifest = read_manifest(source)
    own = build_own_parts(manifest, builder, path=path)
    with _opened(source) as file:
        found = _forms_in(file, path=path)
        expected = expected_forms(manifest, path=path, found=found, own=own)
        problems = describe_differences(expected, found)
        if problems:
            cure = (
                "The builder must build the network that was trained, with the same settings."
                if own
                else f"They were written with {shown_versions(manifest)}; installing these versions may help."
            )
            raise ModelFileError(
                f"The weights in {path} do not fit the network {manifest.backbone.name}: {problems}. {cure}"
            )
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in found}
    if _digest(tensors) != manifest.tensors_sha256:
        raise ModelFileError(
            f"{path} is damaged: its weights are not those that were written (the digest does not match). {AGAIN}"
        )
    classifier = rebuild_classifier(manifest, path=path, own=own)
    classifier.load_state_dict(tensors)
    return Bundle(classifier=classifier.to(device).eval(), manifest=manifest)


def safetensors_header(path: Path) -> dict[str, str]:
    """Return the texts in the header of a safetensors file; empty for any other file, and where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def check_sha256(source: Path | bytes, expected: str) -> None:
    """Raise ModelFileError unless the bytes of a file have this SHA-256, which names both; ConfigError if it is none."""
    path = model_name(source)
    if not _SHA256.fullmatch(expected):
        raise ConfigError(
            f"A SHA-256 is 64 hexadecimal digits, as `sha256sum FILE` prints it. Received: {expected[:80]!r}"
        )
    check_is_safetensors(source)
    try:
        with path.open("rb") if isinstance(source, Path) else BytesIO(source) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    if found != expected.lower():
        raise ModelFileError(
            f"{path} is not the expected file and was not opened: its SHA-256 is {found}, expected "
            f"{expected.lower()}. Download the file again, or correct the digest."
        )


def check_is_safetensors(source: Path | bytes) -> None:
    """Raise ModelFileError for what cannot be a safetensors file: missing, a folder, a pickle or archive, cut short."""
    path = model_name(source)
    if isinstance(source, bytes):
        _check_start(path, source[:64], num_bytes=len(source))
        return
    try:
        if path.is_dir():
            raise ModelFileError(
                f"{path} is a folder, not a model file. Give the file in it, for example {path / 'model.safetensors'}"
            )
        if not path.exists():
            cure = "Check the path; `vizsla train` writes RUN/model.safetensors"
            if is_address(path):
                cure = "It is an address: download the file first, or open one of the Hugging Face hub with from_hub."
            raise ModelFileError(f"There is no model file {path}. {cure}")
        if not path.is_file():  # Reading a pipe or a device could wait forever.
            raise ModelFileError(f"{path} is a device or a pipe. Give the path of a model file.")
        with path.open("rb") as file:
            _check_start(path, file.read(64), num_bytes=path.stat().st_size)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"Cannot read the model file {path}: {error.strerror or error}. Check its permissions and the disk."
    )


def _check_start(path: Path, start: bytes, *, num_bytes: int) -> None:
    header_length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    fits = _LENGTH_BYTES + header_length <= num_bytes and header_length <= LARGEST_HEADER
    # First, as the length may begin like a pickle (640 is 80 02).
    if fits and start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        return
    unopened = "It was not opened, because opening a pickle can run any program."
    for what, is_it in (
        (f"a Python pickle. {unopened}", _PICKLE.match(start)),
        (f"a zip archive, in which torch.save puts pickles. {unopened}", start.startswith(_ZIP)),
        ("an HDF5 file, as Keras writes it.", start.startswith(_HDF5)),
    ):
        if is_it:
            raise ModelFileError(
                f"{path} is {what} Give a model.safetensors that vizsla wrote, or train and export the model with vizsla."
            )
    if num_bytes < _LENGTH_BYTES + 2:
        raise ModelFileError(f"{path} is too short to be a model file: {num_bytes} bytes. {AGAIN}")
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        raise ModelFileError(
            f"{path} is cut short or damaged: its header should have {header_length:,} bytes (at most "
            f"{LARGEST_HEADER:,}), the file has {num_bytes:,}. {AGAIN}"
        )
    raise ModelFileError(
        f"{path} is not a model file: it is not in the safetensors format, it begins with {start[:16]!r}. "
        "Give a model.safetensors that vizsla wrote."
    )


def _check_can_be_named(classifier: Classifier) -> Mapping[str, object]:
    """Return the settings of the head; raise ConfigError for a network that only the user's code can make."""
    config = getattr(classifier.head, "config", None)
    if not callable(config):
        raise ConfigError(
            f"vizsla cannot rebuild the head {type(classifier.head).__name__} from a model file. Give it to "
            f"vision_learner as custom_head, use ConcatPoolHead or FeatureHead, or {_KEEP_WEIGHTS}."
        )
    return cast("Mapping[str, object]", config())


def _check_can_be_rebuilt(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raise ConfigError for a classifier that could not be opened again; better now than when it is needed."""
    name = manifest.backbone.name
    if manifest.own_parts:
        return
    try:
        expected = expected_forms(manifest, path=Path("the model"), found=forms_of(tensors))
    except ModelFileError as error:
        raise ConfigError(
            f"The network {name} cannot be rebuilt from its name and settings: {error.__cause__} Use an "
            f"architecture and a head that vizsla built, or {_KEEP_WEIGHTS}."
        ) from error
    problems = describe_differences(expected, forms_of(tensors))
    if problems:
        raise ConfigError(
            f"The network {name} was changed after it was built, so its name and settings no longer describe it: "
            f"{problems}. Build a new one, or {_KEEP_WEIGHTS}."
        )


def _tensors_to_save(classifier: Classifier) -> dict[str, Tensor]:
    """Return the weights on the CPU, contiguous, floats as float32; none shares memory with another."""
    tensors: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, value in classifier.state_dict().items():
        form = form_of(value) if isinstance(value, Tensor) else (type(value).__name__, ())  # pyright: ignore[reportUnnecessaryIsInstance] (get_extra_state gives anything)
        if form[0] not in STORED_DTYPES:
            raise ConfigError(
                f"A model file holds tensors of {', '.join(STORED_DTYPES)}. The network's {name!r} is {form[0]}. "
                "Make it one of these, or leave it out of the state with register_buffer(..., persistent=False)."
            )
        tensor: Tensor = value.detach().to("cpu").contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if tensor.untyped_storage().data_ptr() in owners:  # Tied weights; the format refuses them.
            tensor = tensor.clone()
        owners.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of name, type, shape and bytes of every tensor, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, *form_of(tensor)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _forms_in(file: Any, *, path: Path) -> dict[str, Form]:
    """Return type and shape of each tensor; safetensors has compared them and their positions with the file's size."""
    forms: dict[str, Form] = {}
    names: list[str] = file.keys()
    if len(names) > _MOST_TENSORS:
        raise ModelFileError(
            f"{path} is damaged or not written by vizsla: it holds {len(names):,} tensors, more than {_MOST_TENSORS:,}. {AGAIN}"
        )
    for name in names:
        if isinstance(file, _InMemory):
            dtype, shape = form_of(file.get_tensor(name))
        else:
            entry = file.get_slice(name)
            dtype, shape = entry.get_dtype(), tuple(entry.get_shape())
        if dtype not in STORED_DTYPES:
            raise ModelFileError(
                f"{path} is damaged or not written by vizsla: its tensor {name[:80]!r} is of type {dtype}, where only "
                f"{', '.join(STORED_DTYPES)} occur. {AGAIN}"
            )
        forms[name] = dtype, shape
    return forms


class _InMemory:
    """The bytes of a safetensors file, to be asked as ``safe_open`` is."""

    def __init__(self, data: bytes) -> None:
        try:
            self._tensors = load(data)
        except KeyError as error:  # a type that torch does not have
            raise SafetensorError(f"a tensor is of type {error}") from error
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        self._header: dict[str, Any] = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])

    def metadata(self) -> dict[str, str] | None:
        return self._header.get("__metadata__")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]


@contextmanager
def _opened(source: Path | bytes) -> Generator[Any]:
    try:
        if isinstance(source, bytes):
            yield _InMemory(source)
            return
        with safe_open(source, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{model_name(source)} is damaged or not a safetensors file: {str(error)[:300]}. {AGAIN}"
        ) from error


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        # Some builds go by another name, for example pillow-simd.
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
