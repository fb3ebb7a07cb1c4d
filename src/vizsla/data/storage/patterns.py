"""Find the shards or Parquet files that a pattern means: ``shards/{000..099}.tar``, ``train-*.tar``, at an address too."""

from __future__ import annotations

import glob
import itertools
import re
from pathlib import Path

from vizsla.data.storage import addresses
from vizsla.errors import DataError
from vizsla.paths import is_address
from vizsla.text import quoted

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MOST_SHARDS = 1_000_000


def names_shards(data: Path) -> bool:
    """Return whether a path is written as one tar file or as a pattern of them; a folder of that name is a folder."""
    return data.suffix.lower() == ".tar" and not data.is_dir()


def expand_pattern(data: Path) -> tuple[Path, list[str]]:
    """Return the shards or Parquet files that a path or pattern means, sorted, and the folder that they are shown relative to.

    Files that braces name are returned whether they exist or not. A single tar is its own folder.

    Raises:
        DataError: The pattern means no file, or more than a million.
    """
    text = str(data)
    names = [text] if data.is_file() else _braced(text)
    if not data.is_file() and glob.has_magic(text.replace("{", "").replace("}", "")):
        matched = [_matching(name) for name in names]
        names = list(dict.fromkeys(itertools.chain.from_iterable(matched)))
        if not names:
            raise DataError(f"There is no file {quoted(data)}. Check the spelling; put quotes around the pattern.")  # fmt: skip
    if len(names) == 1 and names[0] == text:
        return data, names
    plain = itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), data.parent.parts)
    return Path(*plain), sorted(names, key=lambda name: f"{Path(name).as_posix()}/")


def _matching(pattern: str) -> list[str]:
    return addresses.expand(pattern) if is_address(pattern) else sorted(glob.glob(pattern, recursive=True))  # fmt: skip  # noqa: PTH207 (a pattern may be absolute)


def _braced(pattern: str) -> list[str]:
    """Return the texts that braces stand for: ``{00..11}`` for numbers, as wide as the first, and ``{train,val}``."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    if found[3] is not None:
        words = found[3].split(",")
    else:
        first, last = int(found[1]), int(found[2])
        if last - first >= _MOST_SHARDS:
            raise DataError(f"{quoted(pattern)} stands for {last - first + 1:,} shards, which is too many. Check the numbers.")  # fmt: skip
        words = [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]
    return [
        pattern[: found.start()] + word + rest for word in words for rest in _braced(pattern[found.end() :])
    ]  # fmt: skip
