"""Put images into a folder for each class that a model gives them: copies or links; nothing is moved or overwritten.

``sorted.csv`` in the folder says, row by row as they come, what went where.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.data.images.decode import cause_of
from vizsla.data.storage.storage import read_bytes
from vizsla.data.table.sources import get_image_files, holds_images
from vizsla.errors import ConfigError, OutputError, PictureError
from vizsla.predict.formats import Format, header_line, row_line
from vizsla.text import quoted, valid_unicode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from vizsla.predict.prediction import Prediction
    from vizsla.predict.predictor import Predictor

RECORD = "sorted.csv"
_COLUMNS = {"path": "text", "prediction": "text", "probability": "probability", "to": "text", "error": "text"}  # fmt: skip
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
# Windows takes these for devices, whatever follows a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_BYTES = 200  # Names of folders have at most 255; some are left for a number.


@dataclass(frozen=True, kw_only=True, slots=True)
class Sorted:
    """What was sorted.

    Attributes:
        num_images: Images that were predicted, and that cannot be read.
        num_failed: How many cannot be read; ``sorted.csv`` says why.
        num_unplaced: How many have none of several labels.
        num_of_folder: How many images went into each folder, by its name.
        renamed: Classes whose folder has another name, as theirs is not safe in a path.
    """

    num_images: int
    num_failed: int
    num_unplaced: int
    num_of_folder: dict[str, int]
    renamed: dict[str, str]


def folder_names(vocab: Iterable[str]) -> dict[str, str]:
    """Return a name for the folder of each class: one that every system takes, and that differs from others in more than case."""
    names: dict[str, str] = {}
    taken = {RECORD}
    for label in vocab:
        safe = _UNSAFE.sub("_", valid_unicode(label)).strip(". ")
        safe = safe.encode()[:_LONGEST_BYTES].decode(errors="ignore").rstrip(". ")
        if not safe or _DEVICES.fullmatch(safe):
            safe = f"_{safe}"
        numbered = (f"{safe}-{number}" if number > 1 else safe for number in count(1))
        names[label] = next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[label].casefold())
    return names


def check_sort_folder(folder: Path, sources: Iterable[Path]) -> None:
    """Raise OutputError unless a folder is new or empty, and outside of the folders whose images are sorted."""
    if folder.exists() and (not folder.is_dir() or next(folder.iterdir(), None) is not None):
        raise OutputError(
            f"{quoted(folder)} exists and is not an empty folder. Give the name of a new one: nothing is overwritten."
        )
    if not folder.parent.is_dir():
        raise OutputError(
            f"Cannot make {quoted(folder)}: there is no folder {quoted(folder.parent)}. Create it first."
        )
    place = folder.resolve()
    for source in sources:
        if source.is_dir() and place.is_relative_to(source.resolve()):
            raise OutputError(
                f"{quoted(folder)} is inside {quoted(source)}, the folder to sort, so the copies would be sorted "
                "again. Choose a folder outside it."
            )


def sort_images(
    predictor: Predictor,
    images: Path | str | Iterable[Path | str],
    folder: Path | str,
    *,
    link: bool = False,
    csv_safe: bool = False,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Sorted:
    """Put images into folders, see ``Predictor.sort_images``; ``options`` are those of ``predict_many``.

    ``csv_safe`` is as in ``PredictOptions``; ``on_progress`` is called with the number of images done.
    """
    folder = Path(folder)
    if predictor.task == "regression":
        raise ConfigError(
            "The model predicts numbers, but images can only be sorted into classes. Write the numbers to a "
            "file, such as --csv FILE."
        )
    if isinstance(images, Path | str):
        check_sort_folder(folder, [Path(images)])
        images = get_image_files(images) if holds_images(Path(images)) else [images]
    else:
        check_sort_folder(folder, [])
        images = map(_check_path, images)
    names = folder_names(predictor.vocab)
    found = predictor.predict_many(images, **options)
    next_numbers: dict[Path, int] = {}

    def rows_of(path: Path | str, said: Prediction | PictureError) -> Generator[dict[str, Any]]:
        """Put an image into its folders, and yield a row for each, or one if there is none."""
        if isinstance(said, PictureError):
            yield {"path": str(path), "error": cause_of(said)}
            return
        row = {"path": str(path), "prediction": said.label, "probability": said.probability}
        for label in said.labels:
            place = folder / names[label]
            place.mkdir(exist_ok=True)
            to = _placed(Path(path), place, link=link, next_numbers=next_numbers)
            num_of_folder[names[label]] += 1
            yield {**row, "to": str(to)}
        if not said.labels:
            yield row

    num_of_folder: Counter[str] = Counter()
    done = failed = unplaced = 0
    with _explained(folder), closing(found):
        folder.mkdir(exist_ok=True)
        with (folder / RECORD).open("x", encoding="utf-8", newline="") as record:
            record.write(header_line(Format.csv, _COLUMNS))
            for done, (path, said) in enumerate(found, start=1):
                for row in rows_of(path, said):
                    line = row_line(row, Format.csv, _COLUMNS, csv_safe=csv_safe)
                    record.write(valid_unicode(line))
                    record.flush()
                    failed += "error" in row
                    unplaced += "error" not in row and "to" not in row
                if on_progress is not None:
                    on_progress(done)
    return Sorted(
        num_images=done,
        num_failed=failed,
        num_unplaced=unplaced,
        num_of_folder=dict(sorted(num_of_folder.items())),
        renamed={label: name for label, name in names.items() if name != label},
    )


def _check_path(image: Any) -> Path | str:
    if not isinstance(image, Path | str):
        raise ConfigError(
            f"Only files can be sorted, so each image must be a path. Received: {type(image).__name__}"
        )
    return image


def _placed(image: Path, folder: Path, *, link: bool, next_numbers: dict[Path, int]) -> Path:
    """Copy an image into a folder, or link to it there, under its name or the next one with a number that is free."""
    target = folder / image.name
    for number in count(next_numbers.get(target, 1)):
        numbered = target if number == 1 else target.with_stem(f"{target.stem}-{number}")
        try:
            if link:
                if not image.is_file():
                    raise ConfigError(f"{quoted(image)} is not a file of its own, so it cannot be linked to. Leave --link out.")  # fmt: skip
                numbered.symlink_to(image.absolute())
            else:
                _copy(image, numbered)
        except FileExistsError:
            next_numbers[target] = number + 1
            continue
        return numbered
    raise AssertionError


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot sort images into {quoted(folder)}: {error.strerror or error} "
            f"({quoted(error.filename2 or error.filename or folder)}). The files written so far stay there; "
            f"{RECORD} lists them."
        ) from error


def _copy(image: Path, target: Path) -> None:
    data = read_bytes(image)
    with target.open("xb") as copy:
        try:
            copy.write(data)
        except BaseException:
            target.unlink()
            raise
    with suppress(OSError):  # some disks keep no times
        shutil.copystat(image, target)
