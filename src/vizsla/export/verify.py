"""An ONNX file and pictures with the answers that it gave when it was written in; how far its answers are off here out.

Needs numpy and onnxruntime and no network, torch or model file: the pictures and answers lie beside the ONNX file as NPZ.

Shape legend: B pictures of one size, H x W, C classes (or numbers).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from vizsla.errors import MissingExtraError, ModelFileError
from vizsla.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

LARGEST_DIFFERENCE = 1e-3
"""Answers further apart than this are not the same answers: it is the last digit of a probability shown in percent."""

INPUT_NAME = "images"
METADATA_PREFIX = "vizsla."
_AGAIN = "Write both again with `vizsla export MODEL --onnx FILE`."
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Some pictures of one size, and what was said of them when the file was written.

    Attributes:
        name: Of the pictures, for messages.
        images: uint8 ``(B, H, W, 3)``.
        answers: float32 ``(B, C)``.
    """

    name: str
    images: NDArray[np.uint8]
    answers: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far answers are off.

    Attributes:
        max_difference: The largest, of a probability; of a number relative to it where it is above 1.
        worst: Name of the pictures where it was found; empty if there are none.
        num_batches: Batches that were compared.
        num_pictures: Pictures in them.
    """

    max_difference: float = 0.0
    worst: str = ""
    num_batches: int = 0
    num_pictures: int = 0

    def with_batch(self, golden: Golden, *, found: NDArray[np.float32]) -> Parity:
        """Return what is known after one more batch.

        Args:
            golden: What was expected.
            found: float32 ``(B, C)``, what there is. Another shape, or a number that is not finite, is infinitely far off.
        """
        difference = _difference(golden.answers, found)
        is_worse = difference > self.max_difference or not self.worst
        return Parity(
            max_difference=difference if is_worse else self.max_difference,
            worst=golden.name if is_worse else self.worst,
            num_batches=self.num_batches + 1,
            num_pictures=self.num_pictures + len(golden.images),
        )

    @property
    def is_close(self) -> bool:
        """Whether no difference is above ``LARGEST_DIFFERENCE``."""
        return self.max_difference <= LARGEST_DIFFERENCE


class _Session(Protocol):
    """What onnxruntime gives for a file."""

    def run(self, outputs: None, inputs: Mapping[str, NDArray[np.uint8]]) -> list[Any]: ...


def golden_path(onnx_path: Path | str) -> Path:
    """Return where the golden pictures of an ONNX file lie: ``model.onnx`` has ``model.golden.npz``."""
    return Path(onnx_path).with_suffix(".golden.npz")


def verify_onnx(path: Path | str, *, golden: Path | str | None = None) -> Parity:
    """Compare the answers that an ONNX file gives here with those that it gave when it was written.

    Args:
        path: The ONNX file.
        golden: The NPZ file; None for the one beside it.

    Returns:
        The largest difference, at most ``LARGEST_DIFFERENCE``.

    Raises:
        ModelFileError: A file is missing or damaged, or the answers differ by more; the message names the picture.
        MissingExtraError: onnxruntime is not installed.

    Example:
        >>> verify_onnx("model.onnx").max_difference < 1e-3
        True
    """
    path = Path(path)
    answer = onnx_answers(path)
    parity = Parity()
    for batch in read_golden(golden_path(path) if golden is None else Path(golden)):
        parity = parity.with_batch(batch, found=answer(batch.images))
    if not parity.is_close:
        raise ModelFileError(
            f"{path} does not give the answers here that it gave when it was written: for the picture {parity.worst} they "
            f"differ by {parity.max_difference:.2g}, and at most {LARGEST_DIFFERENCE:g} is the same. If the files belong "
            "together, try another version of onnxruntime."
        )
    return parity


def onnx_answers(path: Path) -> Answers:
    """Return a function from uint8 ``(B, H, W, 3)`` to float32 ``(B, C)``, computed by onnxruntime on the CPU.

    Args:
        path: The ONNX file.

    Raises:
        ModelFileError: It is missing, or onnxruntime cannot use it; also when the function is called.
        MissingExtraError: onnxruntime is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"There is no ONNX file {path}. Check the path, or write it. {_AGAIN}")
    session = _session(path)

    def answers(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return session.run(None, {INPUT_NAME: images})[0]
        except Exception as error:
            raise ModelFileError(
                f"onnxruntime cannot compute {path} for {len(images)} pictures of {images.shape[1]} x {images.shape[2]} "
                f"pixels: {_first_line(error)} {_AGAIN}"
            ) from error

    return answers


def write_golden(path: Path, batches: Sequence[Golden]) -> None:
    """Write pictures and answers as one NPZ file, whole or not at all.

    Args:
        path: Where to.
        batches: At least one.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for number, batch in enumerate(batches):
        # The file goes to others, and folders of this machine are nobody's business.
        arrays[f"name_{number}"] = np.array(PurePath(batch.name).name)
        arrays[f"images_{number}"] = batch.images
        arrays[f"answers_{number}"] = batch.answers
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def read_golden(path: Path) -> Iterable[Golden]:
    """Yield what ``write_golden`` wrote, batch by batch.

    Args:
        path: The NPZ file. It may come from anywhere: nothing in it is unpickled.

    Raises:
        ModelFileError: It is missing, damaged, or holds something else.
    """
    try:
        # numpy leaves a file open that turns out to be no archive, so it is opened here.
        with path.open("rb") as stream:
            file: Any = np.load(stream, allow_pickle=False)
            names: list[str] = getattr(file, "files", [])
            count = sum(name.startswith("images_") for name in names)
            if not count:
                raise ValueError("it holds no pictures")
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
            f"The pictures and answers to compare with cannot be read from {path}: {reason}. Copy the file from where the "
            f"ONNX file came. {_AGAIN}"
        ) from error


def _check(batch: Golden) -> None:
    images, answers = batch.images, batch.answers
    is_pictures = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    is_answers = answers.dtype == np.float32 and answers.ndim == 2 and len(answers) == len(images)
    if not (is_pictures and is_answers and images.size):
        raise ValueError(
            f"{batch.name[:80]!r} has pictures {images.dtype} {images.shape} and answers {answers.dtype} {answers.shape}"
        )


def _difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    apart = np.abs(found.astype(np.float64) - expected)
    return float((apart / np.maximum(1.0, np.abs(expected))).max(initial=0.0))


def _session(path: Path) -> _Session:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", purpose="run an ONNX file") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about itself
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
    except Exception as error:
        raise ModelFileError(f"onnxruntime cannot open {path}: {_first_line(error)}") from error
    if names != [INPUT_NAME]:
        raise ModelFileError(
            f"{path} was not written by `vizsla export`: its inputs are {names}, where one named {INPUT_NAME!r} is expected."
        )
    return cast("_Session", session)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
