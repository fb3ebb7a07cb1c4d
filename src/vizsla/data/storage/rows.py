"""Images in the rows of a Hugging Face dataset or a Parquet file, each read by a path that ends in its row: pets.parquet/17.

The library ``datasets`` downloads and converts; the rows are then in Arrow files that are mapped into memory, so any row is read
without the others. A dataset of the Hub is hf:OWNER/NAME, hf:OWNER/NAME:CONFIGURATION where it has several; its images are
hf:OWNER/NAME/SPLIT/ROW. Images in another column than the first that holds some are COLUMN:ROW instead of ROW.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from vizsla.errors import DataError, MissingExtraError
from vizsla.machine import home_folder
from vizsla.text import one_line, quoted

HUB = "hf:"
"""How the name of a dataset on the Hub begins."""
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_LOCK = threading.Lock()


def is_on_hub(path: Path | str) -> bool:
    """Return whether a path leads to a dataset on the Hub, not to an address such as hf://datasets/owner/name."""
    text = os.fspath(path)
    return text.startswith(HUB) and not text.startswith(f"{HUB}{os.sep}")


def is_saved_split(folder: str) -> bool:
    """Return whether ``save_to_disk`` of ``datasets`` wrote a folder of rows."""
    return os.path.isfile(os.path.join(folder, _SAVED))  # noqa: PTH113, PTH118


def is_saved_dataset(folder: Path) -> bool:
    """Return whether ``save_to_disk`` of ``datasets`` wrote a folder."""
    return (folder / _SAVED).is_file() or (folder / _SAVED_SPLITS).is_file()


def names_rows(data: Path) -> bool:
    """Return whether a path is a Parquet file, a pattern of them, a saved dataset or one on the Hub; not one of its images."""
    if is_on_hub(data):
        return str(data).count(os.sep) < 2 and not data.exists()
    return is_saved_dataset(data) or (data.suffix.lower() == ".parquet" and not data.is_dir())


class Rows:
    """The rows of one split or file.

    Attributes:
        image_columns: Names of the columns that hold images: bytes, or bytes and path as ``datasets`` writes them.
        plain_columns: Names of those that hold text, numbers, or lists of these.
        class_names: Names of the classes of a column, in their order, where the column knows them.
        modified_ns: When the newest of its files was written, nanoseconds since 1970.
    """

    def __init__(self, dataset: Any) -> None:
        kinds = {field.name: field.type for field in dataset.data.schema}
        self._columns = {name: dataset.data.column(name) for name in kinds}
        self.image_columns = tuple(name for name, kind in kinds.items() if _is_of_images(kind))
        self.plain_columns = tuple(name for name, kind in kinds.items() if _is_plain(kind))
        self.class_names: dict[str, tuple[str, ...]] = {}
        for name, feature in dataset.features.items():
            of_one = getattr(feature, "feature", feature)  # of a list: that of its parts
            if names := getattr(of_one, "names", None):
                self.class_names[name] = tuple(names)
        files = [each["filename"] for each in dataset.cache_files]
        self.modified_ns = max((os.stat(file).st_mtime_ns for file in files), default=0)  # noqa: PTH116
        self._num_rows: int = dataset.num_rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def cells(self, column: str) -> list[Any]:
        """Return the cells of a plain column; classes by their names, None where a row has none."""
        values = self._columns[column].to_pylist()
        names = self.class_names.get(column)
        if names is None:
            return values

        def named(value: Any) -> Any:
            if isinstance(value, list):
                return [named(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
            return names[value] if isinstance(value, int) and value >= 0 else None

        return list(map(named, values))

    def num_bytes(self, name: str) -> int:
        """Return the length of an image, by its row or COLUMN:ROW; errors as ``read``."""
        return len(self._buffer(name))

    def read(self, name: str, *, last: int | None = None) -> bytes:
        """Return the bytes of an image, or the ``last`` ones.

        Raises:
            FileNotFoundError: There is no such row or column.
            OSError: The row has no image, or the file that it names cannot be read.
        """
        buffer = self._buffer(name)
        return bytes(buffer if last is None else buffer[-last:])

    def _buffer(self, name: str) -> memoryview:
        column, _, row = name.rpartition(":")
        column = column or next(iter(self.image_columns), "")
        cells = self._columns[column] if column in self.image_columns else ()
        if not row.isdecimal() or int(row) >= len(cells):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        value = cells[int(row)]
        if hasattr(value, "keys") and value.is_valid:  # as ``datasets`` writes them
            file, value = value["path"].as_py(), value["bytes"]
            if not value.is_valid and file:
                return memoryview(Path(file).read_bytes())
        if not value.is_valid:
            raise OSError(errno.ENODATA, "the row has no image", name)
        return memoryview(value.as_buffer())


def _is_of_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {kind.field(place).name for place in range(kind.num_fields)} == {"bytes", "path"}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    return bool(
        pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    )


def open_rows(path: str) -> Rows:
    """Return the rows of a Parquet file, of a saved split, or of a split of a dataset on the Hub (hf:OWNER/NAME/SPLIT).

    Raises:
        OSError: There is no such file; a folder is an IsADirectoryError.
        DataError: There is no such dataset or it cannot be read.
        MissingExtraError: The package ``datasets`` is missing.
    """
    if path.startswith(HUB):
        source, _, split = path.rpartition("/")
        try:
            return open_splits(source)[split]
        except KeyError:
            raise DataError(
                f"{source} has no split {split!r}. It has {', '.join(open_splits(source))}."
            ) from None
    file = path if path.endswith(".parquet") else os.path.join(path, _SAVED)  # noqa: PTH118
    facts = os.stat(file)  # noqa: PTH116 (paid for every image)
    if stat.S_ISDIR(facts.st_mode):  # Spark gives folders such names
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with _LOCK:
        return _open(path, facts.st_size, facts.st_mtime_ns)


def open_splits(source: str) -> dict[str, Rows]:
    """Return the rows of each split of a dataset on the Hub or in a folder; of a folder without splits the name is empty.

    Errors are as those of ``open_rows``.
    """
    if not source.startswith(HUB):
        splits = [each.name for each in sorted(Path(source).iterdir()) if (each / _SAVED).is_file()]
        return {split: open_rows(os.path.join(source, split)) for split in splits} or {"": open_rows(source)}  # fmt: skip  # noqa: PTH118
    with _LOCK:
        return _download(source)


@lru_cache(maxsize=4096)
def _open(path: str, _num_bytes: int, _modified_ns: int) -> Rows:
    datasets = _library()
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it would print what the error says
    try:
        if path.endswith(".parquet"):
            folder = home_folder() / "cache" / "datasets"
            return Rows(datasets.Dataset.from_parquet(path, cache_dir=str(folder)))
        return Rows(datasets.load_from_disk(path))
    except Exception as error:
        raise DataError(
            f"{quoted(path)} cannot be read: {one_line(error)}. Create it again."
        ) from error
    finally:
        datasets.logging.set_verbosity(level)


@lru_cache(maxsize=64)
def _download(source: str) -> dict[str, Rows]:
    datasets = _library()
    name, _, configuration = source.removeprefix(HUB).partition(":")
    try:
        found = datasets.load_dataset(name, configuration or None)
    except datasets.exceptions.DatasetNotFoundError as error:
        cure = "Check the spelling. If it is private or gated, ask for access on its page and log in: hf auth login, or HF_TOKEN."
        raise DataError(
            f"The dataset {name!r} was not found or is not accessible: {one_line(error)} {cure}"
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"The dataset {name!r} cannot be downloaded and is not in the cache: {one_line(error)}. Connect to "
            "the network, or give Parquet files or a folder written by save_to_disk."
        ) from error
    except Exception as error:
        cure = f"If it has several configurations, name one: {HUB}{name}:CONFIGURATION."
        raise DataError(f"The dataset {name!r} cannot be read: {one_line(error)} {cure}") from error
    return {str(split): Rows(rows) for split, rows in sorted(found.items())}


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", extra="hf", purpose="read Hugging Face datasets and Parquet files") from error  # fmt: skip
    return datasets
