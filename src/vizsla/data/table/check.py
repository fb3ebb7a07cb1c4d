"""Find everything that is wrong with labelled images and their split, tell of all of it at once, before any training.

Also: read every image once to find those that cannot be read, leave these out, and count images by class and set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.images.decode import cause_of
from vizsla.data.loading.loader import map_rows
from vizsla.data.loading.order import check_rows
from vizsla.data.table.labels import (
    LabelledImages,
    class_texts,
    is_fraction,
    is_missing,
    is_several,
    label_text,
)
from vizsla.errors import ConfigError, DataError, LabelError, PictureError, Problem, raise_problems
from vizsla.paths import ImagePaths
from vizsla.text import counted, listed, quoted
from vizsla.types import is_labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from vizsla.data.images.reader import ImageReader
    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """How many images of a class are where.

    Attributes:
        label: Name of the class.
        num_train: Images to learn from.
        num_valid: Images held out.
        num_other: Images in neither set, such as those of a ``test`` folder.
    """

    label: str
    num_train: int
    num_valid: int
    num_other: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What is in a table, for people.

    Attributes:
        classes: Counts of each class, in the order of the vocabulary; an image with several labels counts in each of its
            classes. Empty where the labels are numbers.
        num_train: Images to learn from.
        num_valid: Images held out.
        num_other: Images in neither set.
        num_unlabelled: Those of the images in neither set whose label is not known.
        num_skipped: Unreadable images that were left out.
    """

    classes: tuple[ClassCount, ...]
    num_train: int
    num_valid: int
    num_other: int
    num_unlabelled: int
    num_skipped: int


def describe_data(table: ImageTable) -> DataSummary:
    """Count the images of a table by class and set."""
    outside = torch.ones(len(table.paths), dtype=torch.bool)
    outside[table.train_rows] = False
    outside[table.valid_rows] = False
    columns = [
        class_counts(table, rows)
        for rows in (table.train_rows, table.valid_rows, outside.nonzero()[:, 0])
    ]
    return DataSummary(
        classes=tuple(
            ClassCount(label=label, num_train=train, num_valid=valid, num_other=other)
            for label, train, valid, other in zip(table.vocab, *columns, strict=False)
        ),
        num_train=len(table.train_rows),
        num_valid=len(table.valid_rows),
        num_other=int(outside.sum()),
        num_unlabelled=int((~is_labelled(table.targets)).sum()),
        num_skipped=len(table.skipped),
    )


def fingerprint(table: ImageTable) -> str:
    """Return a digest of the images and labels of a table: SHA-256 over sorted (path, bytes, label).

    Args:
        table: Paths are taken relative to its root, so a moved folder keeps its fingerprint.

    Raises:
        PictureError: An image file is gone.
    """
    items: list[tuple[str, int, str]] = []
    for row, path in enumerate(table.paths):
        try:
            items.append((table.shown_path(row), path.stat().st_size, table.label(row)))
        except OSError as error:
            raise PictureError(
                f"The image {path} cannot be read any more: {error.strerror or error}. "
                "Put it back, or read the data again."
            ) from error
    return hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()


def class_counts(table: ImageTable, rows: torch.Tensor) -> list[int]:
    """Return how many of some rows have each class, in the order of the vocabulary; nothing where labels are numbers."""
    targets = table.targets[rows]
    if table.task == "regression":
        return []
    if table.task == "multi_category":
        return targets.nan_to_num().sum(0).long().tolist()
    return torch.bincount(targets[targets >= 0], minlength=len(table.vocab)).tolist()


ADD_OR_REMOVE = "Add images of the class, or remove it."


def missing_files(images: LabelledImages) -> list[Problem]:
    """Return the problem of image files that do not exist."""
    doubtful = range(len(images.paths)) if images.in_doubt is None else images.in_doubt
    text_of = ImagePaths.of(images.paths).text
    missing = [position for position in doubtful if not os.path.isfile(text_of(position))]  # noqa: PTH113 (with a Path for each 4 instead of 2 microseconds)
    if not missing:
        return []
    entries = listed([images.entry(position) for position in missing])
    return [
        Problem(
            kind=PictureError,
            text=f"{len(missing)} of {counted(len(images.paths), 'image file')} "
            f"{'does' if len(missing) == 1 else 'do'} not exist:\n{entries}\nCorrect the names, or bring the files there.",
        )
    ]


_MOST_PLACES = 5
"""Of an image that is listed more often the first places are told."""


def repeated_images(images: LabelledImages) -> list[Problem]:
    """Return the problem of images that are listed more than once: one copy may be trained on, the other held out."""
    if images.in_doubt is not None:
        return []
    texts = map(os.path.normcase, ImagePaths.of(images.paths).texts())
    if len(set(texts)) == len(images.paths):
        return []
    positions_of: defaultdict[Path, list[int]] = defaultdict(list)
    for position, path in enumerate(images.paths):
        positions_of[path].append(position)
    repeated = {path: found for path, found in positions_of.items() if len(found) > 1}
    if not repeated:
        return []
    entries: list[str] = []
    for path, positions in repeated.items():
        texts = [_shown_label(images.labels[position]) for position in positions]
        labels = (
            f"each labelled {texts[0]!r}"
            if len(set(texts)) == 1
            else f"with different labels: {', '.join(map(repr, texts))}"
        )
        rows = list(map(images.row, positions[:_MOST_PLACES]))
        rows += ["..."] if len(positions) > _MOST_PLACES else []
        places = f" ({', '.join(rows)})" if images.row_word else ""
        entries.append(f"{quoted(path)}: {len(positions)} times{places}, {labels}")
    what = "is" if len(repeated) == 1 else "are"
    return [
        Problem(
            kind=DataError,
            text=f"{counted(len(repeated), 'image')} {what} listed more than once:\n{listed(entries)}\n"
            "List each image once, with the label that is right.",
            spoils_training_only=True,
        )
    ]


def missed_labels(images: LabelledImages, positions: Sequence[int]) -> list[Problem]:
    """Return the problem of images at ``positions`` whose label is a ``LabelError``, each with what it says."""
    misses = [p for p in positions if isinstance(images.labels[p], LabelError)]
    if not misses:
        return []
    # When nothing matches, three names show what names look like here; else the odd ones are of interest.
    none_found = len(misses) == len(positions)
    entries = [f"{images.entry(p)}: {images.labels[p]}" for p in misses]
    head = "None of" if none_found else f"{len(misses)} of"
    text = (
        f"{head} {counted(len(positions), 'image')} {'gives a' if none_found else 'give no'} label:"
    )
    return [_about(text, listed(entries, limit=3 if none_found else 5), images)]


def label_problems(images: LabelledImages, positions: Sequence[int]) -> list[Problem]:
    """Return what is wrong with the labels of the images at ``positions``, each taken alone, where each is one class."""
    by_fault: defaultdict[str, list[int]] = defaultdict(list)
    texts = class_texts(images.labels)
    for position in positions:
        if texts[position] is None:
            by_fault[_fault(images.labels[position])].append(position)
    problems = missed_labels(images, positions)
    for fault, (what, cure) in _FAULTS.items():
        if found := by_fault[fault]:
            text = f"{counted(len(found), 'image')} {'has' if len(found) == 1 else 'have'} {what}:"
            entries = [images.entry(position) for position in found]
            problems.append(_about(text, f"{listed(entries)}\n{cure}", images))
    return problems


_FAULTS = {
    "empty": ("an empty label", "Fill the label in, or remove the image."),
    "several": (
        "a list of labels",
        "An image has one class here. For several labels (multi-label) say so: y_block=MultiCategoryBlock, or in "
        "a DataBlock blocks=(ImageBlock, MultiCategoryBlock).",
    ),
    "fraction": (
        "a decimal number as label",
        "A class is text or a whole number. To predict numbers (regression) say so: y_block=RegressionBlock, or in a "
        "DataBlock blocks=(ImageBlock, RegressionBlock).",
    ),
}


def _fault(label: object) -> str:
    if isinstance(label, LabelError):
        return ""  # missed_labels tells of it
    if is_missing(label):
        return "empty"
    if is_several(label):
        return "several"
    return "fraction" if is_fraction(label) else ""


def _about(text: str, entries: str, images: LabelledImages) -> Problem:
    advice = f"\n{images.advice}" if images.advice else ""
    return Problem(kind=LabelError, text=f"{text}\n{entries}{advice}")


def lonely_classes(images: LabelledImages, positions: Sequence[int]) -> list[Problem]:
    """Return the problem of classes with one image only, which no stratified split can have on both sides."""
    texts = class_texts(images.labels)
    counts = Counter(texts[position] for position in positions)
    if not any(number == 1 and text is not None for text, number in counts.items()):
        return []
    positions_of = _by_class(images, positions)
    lonely = {label: found[0] for label, found in positions_of.items() if len(found) == 1}
    entries = [f"{label!r}: {images.entry(position)}" for label, position in lonely.items()]
    what = "has" if len(lonely) == 1 else "have"
    return [
        Problem(
            kind=LabelError,
            text=f"{counted(len(lonely), 'class', 'classes')} {what} a single image, which cannot be in training and "
            f"in validation:\n{listed(entries)}\n{ADD_OR_REMOVE}",
        )
    ]


def side_problems(train: Sequence[int], valid: Sequence[int]) -> list[Problem]:
    """Return the problem of a set that has no images."""
    return [
        Problem(
            kind=DataError,
            text=f"There are no {side} images; all {counted(len(rest), 'image')} are for {other}. "
            "Add images, or split them otherwise.",
        )
        for side, positions, other, rest in (
            ("training", train, "validation", valid),
            ("validation", valid, "training", train),
        )
        if not positions
    ]


def class_problems(
    images: LabelledImages, *, train: Sequence[int], valid: Sequence[int], vocab: Sequence[str]
) -> list[Problem]:
    """Return what is wrong with the classes as a whole and with how the split divides them."""
    texts = class_texts(images.labels)
    classes = {texts[position] for side in (train, valid) for position in side}
    number = len(train) + len(valid)
    if len(classes) == 1 and None not in classes:
        text = f"There is only one class, {classes.pop()!r}, for all {counted(number, 'image')}. A classifier needs two."
        advice = f" {images.advice}" if images.advice else ""
        only_one = Problem(kind=LabelError, text=f"{text}{advice}", spoils_training_only=True)
        return [*side_problems(train, valid), only_one]
    return [
        *side_problems(train, valid),
        *unknown_classes(images, train=train, valid=valid, vocab=vocab),
    ]


def unknown_classes(
    images: LabelledImages,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    vocab: Sequence[str],
    several: bool = False,
) -> list[Problem]:
    """Return the problems of classes that the classifier would not know, or never see."""
    if not train:
        return []
    texts = [] if several else class_texts(images.labels)
    if texts and {texts[p] for side in (train, valid) for p in side} <= {*vocab, None}:
        return []
    in_train = _by_class(images, train, several=several)
    in_valid = _by_class(images, valid, several=several)
    unseen = {label: found for label, found in in_valid.items() if label not in in_train}
    return [
        *_outside_vocab(images, in_train, vocab, where="in training but not in vocab"),
        *_outside_vocab(images, unseen, vocab, where="in validation but not in training"),
    ]


def _outside_vocab(
    images: LabelledImages,
    classes: Mapping[str, Sequence[int]],
    vocab: Sequence[str],
    *,
    where: str,
) -> list[Problem]:
    known = set(vocab)
    outside = {label: found for label, found in classes.items() if label not in known}
    if not outside:
        return []
    entries = [
        f"{label!r}: {counted(len(found), 'image')}, the first {images.entry(found[0])}"
        for label, found in outside.items()
    ]
    text = f"{counted(len(outside), 'class', 'classes')} {'is' if len(outside) == 1 else 'are'} {where}:"
    return [Problem(kind=LabelError, text=f"{text}\n{listed(entries)}\n{ADD_OR_REMOVE}")]


def _by_class(
    images: LabelledImages, positions: Sequence[int], *, several: bool = False
) -> dict[str, list[int]]:
    """Return the positions of each class, classes in alphabetical order; images without a usable label are left out."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        label = images.labels[position]
        for name in map(label_text, label if several and isinstance(label, tuple) else (label,)):
            if name is not None:
                found[name].append(position)
    return dict(sorted(found.items()))


def _shown_label(label: object) -> str:
    if isinstance(label, LabelError) or is_missing(label):
        return ""
    return ";".join(map(str, label)) if isinstance(label, tuple | list) else str(label)


def find_unreadable(
    table: ImageTable,
    rows: torch.Tensor,
    *,
    reader: ImageReader,
    num_workers: NumWorkers = "auto",
    training: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[tuple[int, str], ...]:
    """Read every image of some rows once, into the reader's cache, and return those that cannot be read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which images.
        reader: Reads one image.
        num_workers: Threads; ``"auto"`` is one for each core, 0 reads in this thread.
        training: Which form of the image the cache gets, see ``ImageReader.read``.
        on_progress: Called in this thread after each image with the number of images read so far.

    Returns:
        ``(row, cause)`` in the order of ``rows``; the cause is in words, without the path.

    Raises:
        DataError: A row is outside of the table.
    """

    def cause(row: int) -> str | None:
        try:
            reader.read(table.file(row), training=training)
        except PictureError as error:
            return cause_of(error)
        return None

    rows = check_rows(rows, count=len(table.paths))
    causes = map_rows(cause, rows, num_workers=num_workers, on_progress=on_progress)
    found = zip(rows.tolist(), causes, strict=True)
    return tuple((row, cause) for row, cause in found if cause is not None)


def settle_unreadable(
    table: ImageTable,
    unreadable: Sequence[tuple[int, str]],
    *,
    on_bad: Literal["error", "skip"] = "error",
) -> ImageTable:
    """Refuse or leave out images that cannot be read.

    Returns:
        The table without them; they stand in its ``skipped``.

    Raises:
        PictureError: There are such images and ``on_bad`` is ``"error"``.
        DataError: Without them a class or a set has no images left.
        ConfigError: ``on_bad`` is something else.
    """
    if on_bad not in ("error", "skip"):
        raise ConfigError(f"on_bad is 'error' or 'skip'. Received: {on_bad!r}")
    if not unreadable:
        return table
    if on_bad == "skip":
        return drop_unreadable(table, unreadable)
    entries = [f"{quoted(table.paths[row])}: {cause}" for row, cause in unreadable]
    raise PictureError(
        f"{len(unreadable)} of {counted(len(table.paths), 'image')} cannot be read:\n{listed(entries)}\n"
        "Repair or remove the files, or train on the rest with --on-bad skip (on_bad='skip')."
    )


def drop_unreadable(table: ImageTable, bad: Sequence[tuple[int, str]]) -> ImageTable:
    """Return a table without the images that cannot be read; they are added to ``skipped``.

    Rows are numbered anew. The vocabulary stays.

    Raises:
        DataError: A class that had training images, or a whole set, has none left.
    """
    causes = dict(bad)
    kept = [row for row in range(len(table.paths)) if row not in causes]
    new_row = torch.full((len(table.paths),), -1, dtype=torch.int64)
    new_row[kept] = torch.arange(len(kept))
    train, valid = (new_row[rows] for rows in (table.train_rows, table.valid_rows))
    after = replace(
        table,
        paths=ImagePaths.of(table.paths).chosen(kept),
        targets=table.targets[kept],
        train_rows=train[train >= 0],
        valid_rows=valid[valid >= 0],
        skipped=(*table.skipped, *((table.paths[row], cause) for row, cause in causes.items())),
    )
    raise_problems(_emptied(table, after))
    return after


def _emptied(before: ImageTable, after: ImageTable) -> list[Problem]:
    problems = [
        Problem(
            kind=DataError,
            text=f"None of the {len(old)} {side} images can be read. Repair the files.",
        )
        for side, old, new in (
            ("training", before.train_rows, after.train_rows),
            ("validation", before.valid_rows, after.valid_rows),
        )
        if len(old) and not len(new)
    ]
    counts = zip(
        before.vocab,
        class_counts(before, before.train_rows),
        class_counts(after, after.train_rows),
        strict=False,  # numbers have no classes, so no counts
    )
    emptied = [
        f"{name!r}: {counted(old, 'training image')}"
        for name, old, new in counts
        if old and not new
    ]
    if emptied and len(after.train_rows):
        text = f"Without the unreadable images these classes have nothing to learn from:\n{listed(emptied)}"
        text += "\nRepair the files, or remove the class."
        problems.append(Problem(kind=DataError, text=text))
    return problems
