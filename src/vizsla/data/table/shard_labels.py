"""Take the labels of images in shards from the files beside them, as WebDataset writes them: 17.jpg, 17.cls, 17.json.

A file belongs to an image if their names are the same up to the first dot.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from vizsla.data.storage.shards import key_of, open_shard
from vizsla.data.storage.storage import is_there, read_bytes
from vizsla.data.table.columns import LABEL_COLUMNS
from vizsla.data.table.tables import clean_labels
from vizsla.errors import ConfigError, DataError, LabelError
from vizsla.paths import ImagePaths
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vizsla.data.table.sources import Listing

CLASS_NAMES = "classes.txt"
"""A file beside the shards with a class on each line: the class 0 of .cls files is the first."""


def labels_in_shards(listing: Listing, labels: str) -> tuple[Sequence[Any], str] | None:
    """Return the label of each image as the files beside it say, and where it was read, in words; None if folders name classes.

    Args:
        listing: Images of shards.
        labels: ``"cls"``, ``"json:FIELD"``; ``"auto"`` takes ``.cls`` files where there are any, else a field of ``.json`` files that
            is called as one of ``LABEL_COLUMNS``.

    Raises:
        DataError: Numbers in ``.cls`` files do not fit the file ``classes.txt``.
    """
    if labels in ("auto", "cls"):
        texts = [open_shard(shard).labels() for shard in listing.shards]
        if labels == "cls" or any(texts):
            by_shard = dict(zip(listing.shards, texts, strict=True))
            keys = list(_keys(listing))
            found = [by_shard[shard].get(key) for shard, key in keys]
            return _named(found, listing.root), f".cls files{_shared(keys)}"
    field = labels.removeprefix("json:") if labels.startswith("json:") else ""
    if labels == "auto":
        shard, key = next(_keys(listing))
        about = _read_json(shard, key) if is_there(f"{shard}/{key}.json") else {}
        field = next((name for name in about if name.lower() in LABEL_COLUMNS), "")
        if not field:
            return None
    if labels.startswith("json:") and not field:
        raise ConfigError(
            "Choose the field of the .json files that holds the label: --labels json:FIELD."
        )
    keys = list(_keys(listing))
    found = [_field(shard, key, field) for shard, key in keys]
    return found, f"the field {field!r} of .json files{_shared(keys)}"


def _shared(keys: Sequence[tuple[str, str]]) -> str:
    number = len(keys) - len({*keys})
    return f" ({number:,} images share one with another image)" if number else ""


def _keys(listing: Listing) -> Iterator[tuple[str, str]]:
    """Yield the shard and the key of each image."""
    paths, known = ImagePaths.of(listing.paths), {*listing.shards}
    ends = (
        (folder, found.end() - 1)
        for folder in paths.folders
        for found in re.finditer(r"\.tar[/\\]", folder)
    )
    shards = {folder: folder[:end] for folder, end in ends if folder[:end] in known}
    for number, text in zip(paths.folder_numbers, paths.texts(), strict=True):
        shard = shards[paths.folders[number]]
        yield shard, key_of(text[len(shard) + 1 :])


def _named(texts: Sequence[str | None], root: Path) -> Sequence[Any]:
    """Return what .cls files say as classes: names, numbers, or names for numbers where there is a list of them."""
    missing = LabelError("there is no .cls file beside it")
    given = [text for text in texts if text is not None]
    file = (root.parent if root.suffix == ".tar" else root) / CLASS_NAMES
    names: list[str] = []
    if all(map(str.isdecimal, given)) and is_there(file):
        names = read_bytes(file).decode("utf-8-sig").split("\n")
        names = [name.strip() for name in names[: -1 if not names[-1].strip() else None]]
        most = max(map(int, given), default=0)
        if most >= len(names):
            raise DataError(
                f"{quoted(file)} names {len(names):,} classes, and .cls files have numbers up to {most:,}, counted from 0. "
                "Add the names that are missing."
            )
    cleaned = iter(clean_labels(given))
    classes = [None if text is None else next(cleaned) for text in texts]
    return [missing if one is None else names[int(one)] if names else one for one in classes]


def _field(shard: str, key: str, field: str) -> Any:
    try:
        about = _read_json(shard, key)
    except LabelError as error:
        return error
    if field not in about:
        return LabelError(
            f"its .json file has no field {field!r}, but {', '.join(map(repr, about))}"
        )
    return about[field]


def _read_json(shard: str, key: str) -> dict[str, Any]:
    try:
        about = json.loads(read_bytes(f"{shard}/{key}.json"))
    except FileNotFoundError:
        raise LabelError("there is no .json file beside it") from None
    except ValueError as error:
        raise LabelError(f"its .json file is damaged: {error}") from error
    if not isinstance(about, dict):
        raise LabelError("its .json file is not an object with fields")
    return about
