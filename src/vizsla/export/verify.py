"""Check that an exported file answers as its model does: when it is written, and later on any machine.

``compare`` and ``Reference`` do it while a file is written, on images of many sizes, one by one and in batches. Only what comes
after the decoder is compared: both get the same pixels. Without images of the user's own there are synthetic ones, smooth
and grainy, in the sizes at which preprocessing goes wrong first.

``verify_onnx`` does it later, with images and answers that lie beside the ONNX file as NPZ. It needs numpy and onnxruntime, but
no network, torch or model file.

Shape legend: B images of one size, H x W, C classes (or numbers).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import numpy as np
import torch

from vizsla.cores import num_cores
from vizsla.data.images.decode import decode_image, source_name
from vizsla.data.table.sources import get_image_files, holds_images
from vizsla.errors import MissingExtraError, ModelFileError, OutputError, PictureError
from vizsla.files import atomic_write
from vizsla.seeding import generator
from vizsla.text import first_line
from vizsla.types import DECISION_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from vizsla.predict.predictor import Predictor
    from vizsla.types import Size, Task

    Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

LARGEST_DIFFERENCE = 1e-3
"""Answers further apart than this are not the same: it is the last digit of a probability shown in percent."""

INPUT_NAME = "images"
METADATA_PREFIX = "vizsla."
_AGAIN = "Write both again with `vizsla export MODEL --onnx FILE`."
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Some images of one size, and the answers to them when the file was written.

    Attributes:
        name: Of the images, for messages.
        images: uint8 ``(B, H, W, 3)``; empty where only the answers are compared.
        answers: float32 ``(B, C)``.
    """

    name: str
    images: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    answers: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far answers may be off; it stands in an ONNX file's metadata.

    Attributes:
        max_difference: Of any probability, or number relative to it where it is above 1.
        mean_difference: The mean over all images, see ``Parity``.
        agreement: The share of images, 0-1, that must get the same answer.
    """

    max_difference: float = 1.0
    mean_difference: float = 1.0
    agreement: float = 0.0

    def fault(self, parity: Parity) -> str:
        """Return in what answers are too far off, as a part of a sentence; empty if they are close enough."""
        if not parity.max_difference <= self.max_difference:
            return f"for the image {parity.worst} they differ by {parity.max_difference:.2g}, at most {self.max_difference:g} is allowed"
        if not parity.mean_difference <= self.mean_difference:
            return f"they differ by {parity.mean_difference:.2g} on average, at most {self.mean_difference:g} is allowed"
        if parity.agreement < self.agreement:
            return f"{parity.agreement:.1%} of the images get the same answer, but at least {self.agreement:.0%} must"
        return ""


Precision = Literal["float32", "float16", "int8"]
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(max_difference=LARGEST_DIFFERENCE),
    "float16": Tolerance(mean_difference=0.01, agreement=0.98),
    "int8": Tolerance(mean_difference=0.1, agreement=0.9),
}
"""What is kept. A few images near a border between classes may change sides; benchmarks/README.md has what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far answers are off.

    Attributes:
        task: What they say; decides what the same answer is: the class, all labels, or for numbers any.
        thresholds: Of several labels, as in a manifest; None is 0.5 for all.
        max_difference: The largest difference of a probability, or of a number, relative to it where it is above 1.
        worst: Name of the images where it was found; empty if there are none.
        num_batches: Batches that were compared.
        num_images: Images in them.
        sum_differences: Over the images: half the sum of the differences of a category's probabilities (the share that has moved to
            other classes), otherwise their mean.
        num_agreeing: Images with the same answer.
    """

    task: str = "category"
    thresholds: tuple[float, ...] | None = None
    max_difference: float = 0.0
    worst: str = ""
    num_batches: int = 0
    num_images: int = 0
    sum_differences: float = 0.0
    num_agreeing: int = 0

    def with_batch(self, golden: Golden, *, found: NDArray[np.float32]) -> Parity:
        """Return what is known after one more batch, for which float32 ``(B, C)`` was found.

        Another shape, or a number that is not finite, is infinitely far off.
        """
        expected = golden.answers
        if found.shape != expected.shape or not np.isfinite(found).all():
            apart, agreeing = np.full(expected.shape, np.inf), 0
        else:
            apart = np.abs(found.astype(np.float64) - expected) / np.maximum(1, np.abs(expected))
            agreeing = self._num_agreeing(expected, found)
        difference = float(apart.max(initial=0.0))
        is_worse = difference > self.max_difference or not self.worst
        each = apart.sum(1) / 2 if self.task == "category" else apart.mean(1)
        return replace(
            self,
            max_difference=difference if is_worse else self.max_difference,
            worst=golden.name if is_worse else self.worst,
            num_batches=self.num_batches + 1,
            num_images=self.num_images + len(expected),
            sum_differences=self.sum_differences + float(each.sum()),
            num_agreeing=self.num_agreeing + agreeing,
        )

    def _num_agreeing(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> int:
        if self.task == "category":
            return int((expected.argmax(1) == found.argmax(1)).sum())
        if self.task == "multi_category":
            least = DECISION_THRESHOLD if self.thresholds is None else np.array(self.thresholds)
            return int(((expected > least) == (found > least)).all(1).sum())
        return len(expected)

    @property
    def mean_difference(self) -> float:
        """The mean over the images, see ``sum_differences``."""
        return self.sum_differences / max(1, self.num_images)

    @property
    def agreement(self) -> float:
        """The share of images with the same answer, 0-1."""
        return self.num_agreeing / max(1, self.num_images)


def golden_path(onnx_path: Path | str) -> Path:
    """Return where the golden images of an ONNX file lie: ``model.onnx`` has ``model.golden.npz``."""
    return Path(onnx_path).with_suffix(".golden.npz")


def verify_onnx(path: Path | str, *, golden: Path | str | None = None) -> Parity:
    """Compare the answers that an ONNX file gives here with those that it gave when it was written.

    The latter come from the NPZ file ``golden``, by default the one beside it.

    Raises:
        ModelFileError: A file is missing or damaged, or the answers differ by more than the tolerance in its metadata; the
            message says in what.
        MissingExtraError: onnxruntime is not installed.

    Examples:
        >>> verify_onnx("model.onnx").max_difference < 1e-3
        True
    """
    path = Path(path)
    answer = OnnxAnswers(path)
    parity = Parity(task=answer.task, thresholds=answer.thresholds)
    for batch in read_golden(golden_path(path) if golden is None else Path(golden)):
        parity = parity.with_batch(batch, found=answer(batch.images))
    if fault := answer.tolerance.fault(parity):
        raise ModelFileError(
            f"{path} gives different answers here than when it was written: {fault}. If the files belong "
            "together, try another version of onnxruntime."
        )
    return parity


class OnnxAnswers:
    """A function from uint8 ``(B, H, W, 3)`` to float32 ``(B, C)``, computed by onnxruntime on the CPU.

    ``num_threads`` are one per core by default; onnxruntime by itself knows no quotas.

    Attributes:
        task: What the file's metadata says is predicted.
        thresholds: Of several labels, by its metadata.
        tolerance: How far its answers may be off, by its metadata; files of earlier versions are float32.
    """

    def __init__(self, path: Path, *, num_threads: int | None = None) -> None:
        if not path.is_file():
            raise ModelFileError(
                f"There is no ONNX file {path}. Check the path, or write it. {_AGAIN}"
            )
        self.path = path
        self._session = _session(path, num_threads or num_cores())
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.task = str(metadata.get(f"{METADATA_PREFIX}task", "category"))
        self.thresholds: tuple[float, ...] | None = None
        self.tolerance = TOLERANCES["float32"]
        if stated := metadata.get(f"{METADATA_PREFIX}tolerance"):
            thresholds = metadata.get(f"{METADATA_PREFIX}thresholds", "null")
            try:
                self.tolerance = msgspec.json.decode(stated, type=Tolerance)
                self.thresholds = msgspec.json.decode(thresholds, type=tuple[float, ...] | None)
            except msgspec.MsgspecError as error:
                raise ModelFileError(
                    f"The metadata of {path} is damaged: its tolerance or thresholds cannot be read ({error}). {_AGAIN}"
                ) from error

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the answers; raise ModelFileError if onnxruntime cannot compute them."""
        try:
            return self._session.run(None, {INPUT_NAME: images})[0]
        except Exception as error:
            raise ModelFileError(
                f"onnxruntime cannot compute {self.path} for {len(images)} images of {images.shape[1]} x {images.shape[2]} "
                f"pixels: {first_line(error)} {_AGAIN}"
            ) from error


def write_golden(path: Path, batches: Sequence[Golden]) -> None:
    """Write images and answers as one NPZ file, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, batch in enumerate(batches):
        # Only the last part: the folders of this machine are not for others.
        arrays[f"name_{number}"] = np.array(PurePath(batch.name).name)
        arrays[f"images_{number}"] = batch.images
        arrays[f"answers_{number}"] = batch.answers
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def read_golden(path: Path) -> Iterable[Golden]:
    """Yield what ``write_golden`` wrote. The file may come from anywhere: nothing in it is unpickled."""
    try:
        # numpy leaves a file open that turns out to be no archive, so it is opened here.
        with path.open("rb") as stream:
            file: Any = np.load(stream, allow_pickle=False)
            names: list[str] = getattr(file, "files", [])
            count = sum(name.startswith("images_") for name in names)
            if not count:
                raise ValueError("it holds no images")
            for number in range(count):
                batch = Golden(
                    name=str(file[f"name_{number}"]),
                    images=file[f"images_{number}"],
                    answers=file[f"answers_{number}"],
                )
                _check(batch)
                yield batch
    except _READ_ERRORS as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ModelFileError(
            f"The images and answers to compare with cannot be read from {path}: {reason}. Copy the file from where the "
            f"ONNX file came. {_AGAIN}"
        ) from error


def _check(batch: Golden) -> None:
    images, answers = batch.images, batch.answers
    are_images = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    is_answers = answers.dtype == np.float32 and answers.ndim == 2 and len(answers) == len(images)
    if not (are_images and is_answers and images.size):
        raise ValueError(
            f"{batch.name[:80]!r} has images {images.dtype} {images.shape} and answers {answers.dtype} {answers.shape}"
        )


def _session(path: Path, num_threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="run an ONNX file") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about itself
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
    except Exception as error:
        raise ModelFileError(f"onnxruntime cannot open {path}: {first_line(error)}") from error
    if names != [INPUT_NAME]:
        raise ModelFileError(
            f"{path} was not written by `vizsla export`: its inputs are {names}, where one named {INPUT_NAME!r} is expected."
        )
    return session


_LARGEST_GOLDEN = 8_000_000
"""Bytes of images, before they are compressed."""

_BATCH_SIZES = (2, 5)
_GRAIN = 48.0  # Grey levels; what an image taken in the dark has.


class Reference:
    """The answers of a predictor on the CPU, for images as they come out of the decoder.

    Args:
        predictor: Of the model file.
        images: Files, and folders whose images are all taken; empty for synthetic ones.
        cover: The size that a JPEG is decoded to cover, as the predictor's reader asks for.

    Attributes:
        files: Of ``images``, those in folders too.
    """

    def __init__(
        self, predictor: Predictor, *, images: Sequence[Path | str] = (), cover: Size | None
    ) -> None:
        self._predictor = predictor
        self.files = tuple(
            file
            for given in map(Path, images)
            for file in (get_image_files(given) if holds_images(given) else [given])
        )
        self._cover = cover

    def batches(self) -> Iterator[Golden]:
        """Yield batches with the predictor's answers: each image alone, then some of them with their mirror images."""
        sources = self._decoded() if self.files else _synthetic()
        for number, (name, pixels) in enumerate(sources):
            yield self._golden(name, pixels[None])
            if number < len(_BATCH_SIZES):
                count = _BATCH_SIZES[number]
                yield self._golden(f"{name} ({count} times)", _variants(pixels, count=count))

    def _golden(self, name: str, images: NDArray[np.uint8]) -> Golden:
        answers = [self._predictor.predict(image).probabilities for image in images]
        return Golden(name=name, images=images, answers=torch.stack(answers).float().numpy())

    def _decoded(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for file in self.files:
            yield (
                source_name(file),
                np.array(
                    decode_image(file, cover=self._cover, bit_depth=self._predictor.bit_depth)
                ),
            )


def decoding_parity(predictor: Predictor, files: Iterable[Path]) -> Parity | None:
    """Return how far answers for JPEG files are from those for all of their pixels, as other programs decode them.

    None if there is no JPEG file among them.
    """
    jpegs = [file for file in files if file.suffix.lower().startswith((".jpg", ".jpeg"))]
    decoded = (np.array(decode_image(file, bit_depth=predictor.bit_depth)) for file in jpegs)
    pairs = zip(predictor.predict_many(decoded), predictor.predict_many(jpegs), strict=True)
    parity = Parity(task=predictor.task)
    for (_, in_full), (file, found) in pairs:
        if isinstance(in_full, PictureError):
            raise in_full
        if isinstance(found, PictureError):
            raise found
        expected, answer = (one.probabilities[None].float().numpy() for one in (in_full, found))
        parity = parity.with_batch(Golden(name=source_name(file), answers=expected), found=answer)
    return parity if parity.num_images else None


def compare(
    batches: Iterator[Golden], *, answers: Sequence[Answers], task: Task = "category"
) -> tuple[list[Parity], list[Golden]]:
    """Return how far each program's answers are off, and the first batches, up to 8 MB, for a golden file."""
    parities = [Parity(task=task) for _ in answers]

    def compared() -> Iterator[Golden]:
        nonlocal parities
        for batch in batches:
            parities = [
                parity.with_batch(batch, found=answer(batch.images))
                for parity, answer in zip(parities, answers, strict=True)
            ]
            yield batch

    kept = first_batches(compared())
    return parities, kept


def first_batches(batches: Iterator[Golden]) -> list[Golden]:
    """Go through all batches, and return the first ones, up to 8 MB, for a golden file."""
    kept: list[Golden] = []
    num_bytes = 0
    for batch in batches:
        num_bytes += batch.images.nbytes
        if not kept or num_bytes <= _LARGEST_GOLDEN:
            kept.append(batch)
    return kept


def check_close(parity: Parity, *, tolerance: Tolerance, path: Path, cure: str) -> None:
    """Raise OutputError if a program does not answer as the model does."""
    if fault := tolerance.fault(parity):
        raise OutputError(
            f"{path} was not written, because its answers differ from the model's: {fault}. {cure}"
        )


def _variants(pixels: NDArray[np.uint8], *, count: int) -> NDArray[np.uint8]:
    """Return a batch ``(count, H, W, 3)`` of different images of one size."""
    kinds = (pixels, pixels[:, ::-1], 255 - pixels, pixels[::-1], pixels[..., ::-1])
    return np.ascontiguousarray(np.stack([kinds[number % len(kinds)] for number in range(count)]))


def _synthetic() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield textured images: usual sizes, both ways round, tiny ones, and very long ones."""
    sizes = ((240, 320), (160, 160), (500, 333), (61, 47), (1, 1), (2, 90), (300, 3), (33, 800), (1024, 768))  # fmt: skip
    for number, (height, width) in enumerate(sizes):
        yield f"made for this check, {height} x {width}", _texture((height, width), number=number)


def _texture(size: Size, *, number: int) -> NDArray[np.uint8]:
    """Return uint8 ``(H, W, 3)``: clouds of a few scales, and grain on every other image."""
    random = generator(number, "parity images")
    values = torch.full((1, 3, *size), 128.0)
    for cells in (2, 5, 16):
        coarse = torch.randn((1, 3, cells, cells), generator=random) * 200 / cells
        values += torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    if number % 2:
        values += torch.randn(values.shape, generator=random) * _GRAIN
    pixels = values.clamp(0, 255).byte()[0].permute(1, 2, 0).contiguous().numpy()
    return cast("NDArray[np.uint8]", pixels)
