"""Find images that are there more than once: files with the same bytes, and validation images that training saw almost alike.

The latter flatter the accuracy; the former may contradict one another, too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.data.loading.loader import map_rows
from vizsla.data.storage.storage import facts_of, read_bytes
from vizsla.paths import ImagePaths
from vizsla.text import counted, joined, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from vizsla.data.images.facts import ImageFacts
    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable

LEAST_LIKENESS = 0.995
"""Correlation of 24 x 24 grey values. Copies that were scaled or compressed again correlate by 0.998 and more."""
STANDS_OUT = 10.0
"""A copy differs by at most a tenth of the difference of the tenth-nearest training image. Cells of a solar module, which are
not copies, correlate by up to 0.9985: without this rule 32 of 656 were taken for copies, with it 3.
"""
_RANK = 10
_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A validation image that is in the training set too."""

    position: int  # Of the validation image, in its facts.
    train_row: int
    likeness: float  # Correlation of the two; 1 for files with the same bytes.
    is_exact: bool  # Whether the files have the same bytes.


def find_duplicates(valid: ImageFacts, train: ImageFacts) -> tuple[Duplicate, ...]:
    """Return the validation images that are also trained on, each with the training image most like it.

    Files with the same bytes come first, then the others by likeness.
    """
    place_of = {
        digest: place for place, digest in reversed(list(enumerate(train.digests))) if digest
    }
    exact = {
        position: place_of[digest]
        for position, digest in enumerate(valid.digests)
        if digest in place_of
    }
    found = [
        Duplicate(position=position, train_row=int(train.rows[place]), likeness=1.0, is_exact=True)
        for position, place in exact.items()
    ]
    if not len(train.rows):
        return ()
    for start in range(0, len(valid.rows), _AT_ONCE):
        likeness = valid.likenesses[start : start + _AT_ONCE] @ train.likenesses.T
        best = likeness.topk(min(_RANK, likeness.shape[1]), dim=1)
        values, places = best.values[:, 0], best.indices[:, 0]
        # With fewer than ten training images the last one stands for the tenth; a single one is judged on its own.
        usual = best.values[:, -1] if likeness.shape[1] > 1 else torch.zeros_like(values)
        is_copy = (values >= LEAST_LIKENESS) & (STANDS_OUT * (1 - values) <= 1 - usual)
        for offset in is_copy.nonzero()[:, 0].tolist():
            if start + offset not in exact:
                found.append(
                    Duplicate(
                        position=start + offset,
                        train_row=int(train.rows[places[offset]]),
                        likeness=min(1.0, float(values[offset])),
                        is_exact=False,
                    )
                )
    return tuple(sorted(found, key=lambda each: (not each.is_exact, -each.likeness)))


_TAIL_BYTES = 4096
"""Files of one size are told apart by their ends first: of 40,040 files of 22 KB on average 25,850 share their size, and only the
80 copies among them the end: 1.6 s and 9 MB on two busy cores.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """Images that several files hold, byte for byte.

    Attributes:
        kind: ``"different labels"``, ``"across sets"`` (training, validation and the rest) or ``"within a set"``; an image is of
            the first kind that fits.
        num_images: How many there are, each counted once.
        num_files: How many files hold them.
        examples: Shown paths and labels of the files of the first few images.
    """

    kind: str
    num_images: int
    num_files: int
    examples: tuple[tuple[tuple[str, str], ...], ...]

    def line(self) -> str:
        """Return the finding as a line of text."""
        shown = [
            joined(
                [
                    quoted(path) + (f" ({label})" if self.kind == "different labels" else "")
                    for path, label in files
                ],
                limit=3,
                separator=" = ",
            )
            for files in self.examples
        ]
        images = f"{counted(self.num_images, 'image')} in {self.num_files} files"
        more = f" and {self.num_images - len(shown)} more" if self.num_images > len(shown) else ""
        return f"exact duplicates {_WORDS[self.kind]}: {images}: {'; '.join(shown)}{more}"


_WORDS = {
    "different labels": "with different labels",
    "across sets": "across training, validation and test",
    "within a set": "within a set",
}
_NUM_EXAMPLES = 3


def same_files(
    paths: ImagePaths, *, num_workers: NumWorkers = "auto"
) -> tuple[tuple[int, ...], ...]:
    """Return the positions of files with the same bytes, a group for each image that several hold, in order.

    Only files that share their size are opened, and only those that share their last 4 KB as well are read whole. Files that
    cannot be read, and empty ones, are left out.
    """

    def groups(
        alike: Iterable[list[int]], key_of: Callable[[int], Hashable | None]
    ) -> list[list[int]]:
        """Divide groups of positions by a key of their files; one alone, or without a key, is dropped."""
        candidates = [row for rows in alike for row in rows]
        keys = iter(map_rows(key_of, torch.tensor(candidates).long(), num_workers=num_workers))
        found: list[list[int]] = []
        for rows in alike:
            by_key: defaultdict[Hashable, list[int]] = defaultdict(list)
            for row, key in zip(rows, keys, strict=False):
                if key is not None:
                    by_key[key].append(row)
            found += [same for same in by_key.values() if len(same) > 1]
        return found

    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for row in range(len(paths)):
        try:
            by_size[facts_of(paths.text(row)).num_bytes].append(row)
        except OSError:
            continue
    by_size.pop(0, None)
    same_size = [rows for rows in by_size.values() if len(rows) > 1]
    copies = groups(
        groups(same_size, lambda row: _digest(paths.text(row), last=_TAIL_BYTES)),
        lambda row: _digest(paths.text(row)),
    )
    return tuple(sorted(map(tuple, copies)))


def find_copies(table: ImageTable, *, num_workers: NumWorkers = "auto") -> tuple[Copies, ...]:
    """Return what is there more than once, those with different labels first; ``table.copies`` are not looked for again."""
    copies = table.copies
    if copies is None:
        copies = same_files(ImagePaths.of(table.paths), num_workers=num_workers)
    set_of = dict.fromkeys(table.train_rows.tolist(), "train")
    set_of |= dict.fromkeys(table.valid_rows.tolist(), "valid")
    by_kind: dict[str, list[tuple[int, ...]]] = {kind: [] for kind in _WORDS}
    for rows in copies:
        labels = {table.label(row) for row in rows} - {""}
        sets = {set_of.get(row) for row in rows}
        kind = "different labels" if len(labels) > 1 else "across sets" if len(sets) > 1 else "within a set"  # fmt: skip
        by_kind[kind].append(rows)
    return tuple(
        Copies(
            kind=kind,
            num_images=len(found),
            num_files=sum(map(len, found)),
            examples=tuple(
                tuple((table.shown_path(row), table.label(row)) for row in rows)
                for rows in found[:_NUM_EXAMPLES]
            ),
        )
        for kind, found in by_kind.items()
        if found
    )


def _digest(file: str, *, last: int | None = None) -> bytes | None:
    """Return a digest of a file, or of its last bytes; None if it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(file, last=last)).digest()
    except OSError:
        return None
