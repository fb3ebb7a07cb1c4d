"""Check labelled images and their split, and report everything that is wrong at once, before any training.

Also: read every image once to find those that cannot be read, leave these out, and count images by class and set.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.images.decode import cause_of
from vizsla.data.images.refusals import kind_of
from vizsla.data.loading.loader import map_rows
from vizsla.data.loading.order import check_rows
from vizsla.data.storage.storage import facts_of, is_there
from vizsla.data.table.labels import LabelledImages, is_fraction, is_missing, is_several
from vizsla.data.table.sources import is_image_name
from vizsla.errors import ConfigError, DataError, LabelError, PictureError, Problem, raise_problems
from vizsla.paths import ImagePaths
from vizsla.text import LISTED_AT_MOST, counted, joined, listed, quoted
from vizsla.types import ImageTable, is_labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from vizsla.data.images.duplicates import Copies
    from vizsla.data.images.reader import ImageReader
    from vizsla.errors import PictureKind
    from vizsla.machine import NumWorkers
    from vizsla.types import ClassType, Task

Names = str | tuple[str, ...] | None
"""The class of an image, or its classes; None where its label cannot be used."""

_ITEMS_OF_PART = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """How many images of a class are in training, in validation, and in neither, such as those of a ``test`` folder."""

    label: str
    num_train: int
    num_valid: int
    num_other: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberRange:
    """The least, the mean and the largest of a number over the images of both sets."""

    label: str
    least: float
    mean: float
    most: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableImage:
    """An image that was left out, why, and what kind of refusal that is, see ``PictureError``."""

    path: str
    kind: PictureKind | None
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What is in a table; ``num_unlabelled`` of the other images have no label, and ``num_skipped`` were ``unreadable``.

    ``notes`` say what was guessed of the layout and what was left out, ``suspicious`` what seems to be missing of images that
    can be read, by their paths, ``copies`` which images are there more than once, and ``bit_depth`` how many bits 16-bit images
    use, if there are any.

    Classes are in the order of the vocabulary, and an image with several labels counts in each of its classes. Where the
    labels are numbers there are no classes but ``numbers``.
    """

    classes: tuple[ClassCount, ...]
    numbers: tuple[NumberRange, ...]
    num_train: int
    num_valid: int
    num_other: int
    num_unlabelled: int
    num_skipped: int
    suspicious: dict[str, str]
    notes: tuple[str, ...]
    copies: tuple[Copies, ...] = ()
    bit_depth: int | None = None
    unreadable: tuple[UnreadableImage, ...] = ()


def describe_data(table: ImageTable, *, copies: tuple[Copies, ...] = ()) -> DataSummary:
    """Count the images of a table by class and set; ``copies`` are those of ``find_copies``."""
    outside = torch.ones(len(table.paths), dtype=torch.bool)
    outside[torch.cat([table.train_rows, table.valid_rows])] = False
    columns = [
        class_counts(table, rows)
        for rows in (table.train_rows, table.valid_rows, outside.nonzero()[:, 0])
    ]
    return DataSummary(
        classes=tuple(
            ClassCount(label=label, num_train=train, num_valid=valid, num_other=other)
            for label, train, valid, other in zip(table.vocab, *columns, strict=False)
        ),
        numbers=_number_ranges(table) if table.task == "regression" else (),
        num_train=len(table.train_rows),
        num_valid=len(table.valid_rows),
        num_other=int(outside.sum()),
        num_unlabelled=int((~is_labelled(table.targets)).sum()),
        num_skipped=len(table.skipped),
        suspicious=paths_with_causes(table.root, table.suspicious),
        notes=table.notes,
        copies=copies,
        bit_depth=table.bit_depth,
        unreadable=tuple(
            UnreadableImage(path=path.as_posix(), kind=kind_of(cause), cause=cause)
            for path, cause in table.skipped
        ),
    )


def _number_ranges(table: ImageTable) -> tuple[NumberRange, ...]:
    values = table.targets[torch.cat([table.train_rows, table.valid_rows])]
    of_all = (values.amin(0), values.double().mean(0), values.amax(0))
    return tuple(
        NumberRange(label=label, least=least, mean=mean, most=most)
        for label, least, mean, most in zip(
            table.vocab, *(each.tolist() for each in of_all), strict=True
        )
    )


def class_counts(table: ImageTable, rows: Tensor) -> list[int]:
    """Return how many of some rows have each class, in the order of the vocabulary; nothing where labels are numbers."""
    targets = table.targets[rows]
    if table.task == "regression":
        return []
    if table.task == "multi_category":
        return targets.nan_to_num().sum(0).long().tolist()
    return torch.bincount(targets[targets >= 0], minlength=len(table.vocab)).tolist()


def fingerprint(table: ImageTable) -> str:
    """Return a digest of the images and labels of a table: SHA-256 over sorted (path, bytes, label).

    Paths are relative to the table's root, so a moved folder keeps its fingerprint.

    Raises:
        PictureError: An image file is gone.
    """
    facts = image_facts(table)
    facts.sort()
    return digest_of(json_parts(facts))


def json_parts(items: Sequence[object]) -> Iterator[str]:
    """Yield the JSON of a list in parts: that of a million images takes hundreds of megabytes at once."""
    yield "["
    for start in range(0, len(items), _ITEMS_OF_PART):
        part = json.dumps(items[start : start + _ITEMS_OF_PART])[1:-1]
        yield f", {part}" if start else part
    yield "]"


def digest_of(parts: Iterable[str]) -> str:
    """Return the SHA-256 of a text that is given in parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


def image_facts(table: ImageTable) -> list[tuple[str, int, str]]:
    """Return the path below the root, the bytes and the label of each image.

    Raises:
        PictureError: An image file is gone.
    """
    items: list[tuple[str, int, str]] = []
    for row, path in enumerate(table.paths):
        try:
            items.append((table.shown_path(row), facts_of(path).num_bytes, table.label(row)))
        except OSError as error:
            raise PictureError(
                f"The image {path} can no longer be read: {error.strerror or error}. Put it back, or read the "
                "data again."
            ) from error
    return items


def checked_table(
    images: LabelledImages,
    *,
    label_problems: Sequence[Problem],
    class_problems: Sequence[Problem] = (),
    targets: Tensor,
    vocab: tuple[str, ...],
    task: Task,
    class_type: ClassType = "text",
) -> ImageTable:
    """Return the table of images, or raise one error with everything that is wrong with files, labels, sets and classes."""
    problems = [
        *images.problems,
        *file_problems(images),
        *label_problems,
        *_empty_sets(images.train, images.valid),
        *class_problems,
    ]
    return ImageTable(
        root=images.root,
        paths=images.paths,
        targets=targets,
        vocab=vocab,
        train_rows=torch.tensor(list(images.train), dtype=torch.int64),
        valid_rows=torch.tensor(list(images.valid), dtype=torch.int64),
        task=task,
        untrainable=raise_problems(problems, before_training=images.before_training),
        notes=images.notes,
        class_type=class_type,
        copies=images.copies,
        moved=images.moved,
        fixes=images.fixes,
    )


def listing(
    kind: type[DataError],
    words: tuple[str, str],
    entries: Sequence[str],
    cure: str,
    *,
    spoils_training_only: bool = False,
) -> Problem:
    """Return a problem of some things, with ``words`` for one and for several, a line for each, and a way out."""
    text = f"{counted(len(entries), *words)}:\n{listed(entries)}\n{cure}"
    return Problem(kind=kind, text=text.rstrip(), spoils_training_only=spoils_training_only)


_ADD_OR_REMOVE = "Add images of the class, or remove it."
_MOST_PLACES = 5
"""Rows that are named of an image that is listed more than once."""


def file_problems(images: LabelledImages) -> Iterator[Problem]:
    """Yield the problems of files that do not exist, and of images that may be trained on and held out as well."""
    doubtful = range(len(images.paths)) if images.in_doubt is None else images.in_doubt
    paths = ImagePaths.of(images.paths)
    missing = [position for position in doubtful if not is_there(paths.text(position))]
    if missing:
        names_in = cache(
            _image_names
        )  # a folder is listed once, however many of its images are missing
        files = f"of {counted(len(images.paths), 'image file')}"
        ends = ("is not a file", "are not files") if all(map(os.path.lexists, map(paths.text, missing))) else ("does not exist", "do not exist")  # fmt: skip
        yield listing(
            PictureError,
            (f"{files} {ends[0]}", f"{files} {ends[1]}"),
            [images.entry(p) + _nearest(paths.text(p), names_in) for p in missing[:LISTED_AT_MOST]]
            + [images.entry(p) for p in missing[LISTED_AT_MOST:]],
            "Correct the names, or put the files there.",
        )
    if images.in_doubt is not None:
        return
    if len(set(map(os.path.normcase, paths.texts()))) == len(paths):
        return
    positions_of: defaultdict[Path, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        positions_of[path].append(position)
    entries: list[str] = []
    for path, positions in positions_of.items():
        if len(positions) == 1:
            continue
        texts = [_shown_label(images.labels[position]) for position in positions]
        same = len(set(texts)) == 1
        labels = f"each labelled {texts[0]!r}" if same else f"with different labels: {', '.join(map(repr, texts))}"  # fmt: skip
        rows = list(map(images.row, positions[:_MOST_PLACES]))
        rows += ["..."] if len(positions) > _MOST_PLACES else []
        places = f" ({', '.join(rows)})" if images.row_word else ""
        entries.append(f"{quoted(path)}: {len(positions)} times{places}, {labels}")
    if entries:
        yield listing(
            DataError,
            ("image is listed more than once", "images are listed more than once"),
            entries,
            "List each image once, with its correct label.",
            spoils_training_only=True,
        )


def _image_names(folder: str) -> dict[str, str]:
    """Return the names of the images in a folder, by themselves in lower case; none where it cannot be listed."""
    try:
        return {name.casefold(): name for name in os.listdir(folder) if is_image_name(name)}  # noqa: PTH208 (names)
    except (OSError, ValueError):  # a path with a zero byte is a ValueError
        return {}


def _nearest(path: str, names_in: Callable[[str], dict[str, str]]) -> str:
    """Return words about what is there instead, or the image in the same folder that was perhaps meant, or nothing."""
    if os.path.lexists(path):
        what = "a folder" if os.path.isdir(path) else "a pipe, socket or device" if os.path.exists(path) else "a broken link"  # fmt: skip  # noqa: PTH110, PTH112
        return f", it is {what}"
    folder, name = os.path.split(path.replace("\\", "/"))
    there = names_in(folder)
    near = get_close_matches(name.strip().casefold(), there, 1, 0.75)
    return f", did you mean {there[near[0]]!r}?" if near else ""


def _shown_label(label: object) -> str:
    if isinstance(label, LabelError) or is_missing(label):
        return ""
    return ";".join(map(str, label)) if isinstance(label, tuple | list) else str(label)


def _empty_sets(train: Sequence[int], valid: Sequence[int]) -> Iterator[Problem]:
    if not train and not valid:
        yield Problem(kind=DataError, text="There are no images to train on. Add images.")
        return
    for side, positions, other, rest in (
        ("training", train, "validation", valid),
        ("validation", valid, "training", train),
    ):
        if not positions:
            all_are = f"all {len(rest)} images are" if len(rest) != 1 else "the only image is"
            text = f"There are no {side} images; {all_are} for {other}."
            yield Problem(
                kind=DataError,
                text=f"{text} Add images, or choose another split.",
                spoils_training_only=side == "validation",
            )


def missed_labels(images: LabelledImages) -> list[Problem]:
    """Return the problem of images in the sets whose label is a ``LabelError``, each with what it says."""
    if LabelError not in map(type, images.labels):
        return []
    used = images.used
    misses = [p for p in used if isinstance(images.labels[p], LabelError)]
    if not misses:
        return []
    entries = [f"{images.entry(p)}: {images.labels[p]}" for p in misses]
    # When nothing matches, three names show what names look like here; else the odd ones are of interest.
    none_found, of_all = len(misses) == len(used), counted(len(used), "image")
    head = f"None of {of_all} gives a label" if none_found else f"{len(misses)} of {of_all} give no label"  # fmt: skip
    text = f"{head}:\n{listed(entries, limit=3 if none_found else 5)}\n{images.advice}"
    return [Problem(kind=LabelError, text=text.rstrip())]


def label_problems(images: LabelledImages, texts: Sequence[str | None]) -> list[Problem]:
    """Return what is wrong with labels in the sets where each must be one class; ``texts`` are these, or None."""
    if None not in texts:
        return []
    by_fault: defaultdict[int, list[int]] = defaultdict(list)
    for position in images.used:
        label = images.labels[position]
        if texts[position] is None and not isinstance(label, LabelError):
            kind = next(kind for kind, (is_fault, *_) in enumerate(_FAULTS) if is_fault(label))
            by_fault[kind].append(position)
    problems = missed_labels(images)
    for kind, found in sorted(by_fault.items()):
        _, what, cure = _FAULTS[kind]
        words = (f"image has {what}", f"images have {what}")
        entries, cure = [images.entry(position) for position in found], f"{cure}\n{images.advice}"
        problems.append(listing(LabelError, words, entries, cure))
    return problems


_FAULTS = (
    (is_missing, "an empty label", "Fill in the label, or remove the image."),
    (
        lambda label: isinstance(label, Mapping),
        "an object as its label",
        "Write the class itself: text, a whole number, or true or false.",
    ),
    (
        is_several,
        "a list of labels",
        "An image has one class here. For several labels per image (multi-label), use "
        "y_block=MultiCategoryBlock, or in a DataBlock blocks=(ImageBlock, MultiCategoryBlock).",
    ),
    (
        is_fraction,
        "a decimal number as its label",
        "A class is text or a whole number. To predict numbers (regression), use y_block=RegressionBlock, or in "
        "a DataBlock blocks=(ImageBlock, RegressionBlock).",
    ),
)


def scarce_classes(
    images: LabelledImages,
    names: Sequence[Names],
    positions: Sequence[int],
    *,
    min_per_class: int,
) -> list[Problem]:
    """Return the problem of classes with fewer images than wanted; with one, no split can have it on both sides."""
    counts = Counter(chain.from_iterable(_classes(names[position]) for position in positions))
    if min(counts.values(), default=min_per_class) >= min_per_class:
        return []
    scarce = {
        label: found
        for label, found in _by_class(names, positions).items()
        if len(found) < min_per_class
    }
    alone = min_per_class == 2
    rest = "only one image, which cannot be in both training and validation" if alone else f"fewer than {min_per_class} images"  # fmt: skip
    entries = [
        f"{label!r}: {images.entry(found[0]) if alone else counted(len(found), 'image')}"
        for label, found in scarce.items()
    ]
    words = (f"class has {rest}", f"classes have {rest}")
    cure = (
        "Add images of the class, remove it, or train on it without validating it: --min-per-class 1 "
        "(min_per_class=1)."
        if alone
        else _ADD_OR_REMOVE
    )
    return [listing(LabelError, words, entries, cure)]


def settle_draw(
    images: LabelledImages, names: Sequence[Names], *, keep_out: bool = False
) -> LabelledImages:
    """Return images whose sets suit their classes, and say which classes are not measured.

    Where chance drew the sets (``images.by_chance``), the first image of each class that only validation would have moves to
    training, with a warning: the draw is at fault, not the data. ``keep_out`` leaves it, as one of a class to be unknown.
    """
    in_train = set(chain.from_iterable(_classes(names[p]) for p in images.train))
    moved: list[int] = []
    missed: list[str] = []
    for position in images.valid if images.by_chance and not keep_out else ():
        if new := [name for name in _classes(names[position]) if name not in in_train]:
            moved.append(position)
            missed += new
            in_train.update(new)
    notes = list(images.notes)
    if moved:
        are = "is" if len(moved) == 1 else "are"
        notes.append(
            f"the random split left {counted(len(missed), 'class', 'classes')} without a training image, so "
            f"{counted(len(moved), 'image')} {are} moved to training from validation: "
            f"{joined(list(map(repr, missed)), limit=5)}"
        )
        warnings.warn(notes[-1], stacklevel=2)
    gone = set(moved)
    valid = [position for position in images.valid if position not in gone]
    measured = set(chain.from_iterable(_classes(names[p]) for p in valid))
    if valid and (unmeasured := sorted(in_train - measured)):
        has = "class has" if len(unmeasured) == 1 else "classes have"
        notes.append(
            f"not validated: {len(unmeasured)} {has} no validation images: "
            f"{joined(list(map(repr, unmeasured)), limit=5)}"
        )
    return replace(images, train=[*images.train, *moved], valid=valid, notes=tuple(notes))


def _classes(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()


def lookalike_classes(
    images: LabelledImages, names: Sequence[Names], vocab: Sequence[str]
) -> list[Problem]:
    """Return the problem of classes whose names differ only in case, blanks or the way that accents are written.

    Single letters are different in case: sets of handwriting have both.
    """
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in vocab:
        key = " ".join(unicodedata.normalize("NFC", name).split())
        spellings[key.casefold() if len(key) > 1 else key].append(name)
    alike = [same for same in spellings.values() if len(same) > 1]
    if not alike:
        return []
    positions = _by_class(names, images.used)
    entries: list[str] = []
    for same in alike:
        shown = map(
            repr if len({unicodedata.normalize("NFC", name) for name in same}) > 1 else ascii, same
        )
        entries.append(
            " and ".join(
                f"{text} ({counted(len(positions.get(name, ())), 'image')})"
                for text, name in zip(shown, same, strict=True)
            )
        )
    words = ("class is spelled in several ways", "classes are spelled in several ways")
    cure = (
        "Give each class one spelling. If they really are different classes, list them all in vocab "
        "(CategoryBlock(vocab=[...]))."
    )
    return [listing(LabelError, words, entries, cure)]


def unknown_classes(
    images: LabelledImages, names: Sequence[Names], vocab: Sequence[str]
) -> list[Problem]:
    """Return the problems of classes that the classifier would not know, or never see."""
    known = {*vocab, None}
    if not images.train or {names[p] for p in (*images.train, *images.valid)} <= known:
        return []
    in_train, in_valid = _by_class(names, images.train), _by_class(names, images.valid)
    unseen = {label: found for label, found in in_valid.items() if label not in in_train}
    problems: list[Problem] = []
    for found, where in (
        (in_train, "in training but not in vocab"),
        (unseen, "in validation but not in training"),
    ):
        entries = [
            f"{label!r}: {counted(len(positions), 'image')}, first {images.entry(positions[0])}"
            for label, positions in found.items()
            if label not in known
        ]
        if entries:
            words = (f"class is {where}", f"classes are {where}")
            problems.append(listing(LabelError, words, entries, _ADD_OR_REMOVE))
    return problems


def _by_class(names: Sequence[Names], positions: Sequence[int]) -> Mapping[str, list[int]]:
    """Return the positions of each class, classes in alphabetical order; images without a usable label are left out."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        for name in _classes(names[position]):
            found[name].append(position)
    return dict(sorted(found.items()))


def find_unreadable(
    table: ImageTable,
    rows: torch.Tensor,
    *,
    reader: ImageReader,
    num_workers: NumWorkers = "auto",
    training: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[tuple[int, str], ...]:
    """Read every image of some rows once, into the reader's cache, and return (row, cause) of those that cannot be read.

    The cause is in words, without the path. ``training`` is as in ``ImageReader.read``; ``on_progress`` is called in this
    thread after each image with the number of images read so far.

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
    """Refuse images that cannot be read, or leave them out as ``drop_unreadable`` does.

    Raises:
        PictureError: There are such images and ``on_bad`` is ``"error"``.
        ConfigError: ``on_bad`` is something else.
    """
    if on_bad not in ("error", "skip"):
        raise ConfigError(f"on_bad must be 'error' or 'skip'. Received: {on_bad!r}")
    if not unreadable:
        return table
    if on_bad == "skip":
        return drop_unreadable(table, unreadable)
    entries = [f"{quoted(table.paths[row])}: {cause}" for row, cause in unreadable]
    raise PictureError(
        f"{len(unreadable)} of {counted(len(table.paths), 'image')} cannot be read:\n"
        f"{listed(entries)}\n"
        "Repair or remove the files, or skip them with --on-bad skip (on_bad='skip')."
    )


def note_suspicious(table: ImageTable, doubts: Mapping[str, str]) -> ImageTable:
    """Return a table that names the images that seem incomplete, by their paths, and says so in its notes."""
    if not doubts:
        return table
    found = tuple((Path(path), doubt) for path, doubt in sorted(doubts.items()))
    entries = [f"{path} ({doubt})" for path, doubt in paths_with_causes(table.root, found).items()]
    what = counted(len(found), "image seems", "images seem")
    note = f"{what} incomplete: {joined(entries, limit=5)}"
    return replace(table, suspicious=found, notes=(*table.notes, note))


def paths_with_causes(root: Path, causes: Sequence[tuple[Path, str]]) -> dict[str, str]:
    """Return ``(path, cause)`` of images by their posix paths, relative to ``root`` where they lie below it."""
    return {
        (path.relative_to(root) if path.is_relative_to(root) else path).as_posix(): cause
        for path, cause in causes
    }


def drop_unreadable(table: ImageTable, bad: Sequence[tuple[int, str]]) -> ImageTable:
    """Return a table without the images that cannot be read, which are added to ``skipped``. The vocabulary stays.

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
        copies=None if table.copies is None else tuple(_left_of(table.copies, new_row)),
    )
    raise_problems(_emptied(table, after))
    return after


def _left_of(groups: Iterable[tuple[int, ...]], new_row: Tensor) -> Iterator[tuple[int, ...]]:
    """Yield groups of rows by their new numbers, without rows that are gone (-1)."""
    for rows in groups:
        left = tuple(row for row in new_row[list(rows)].tolist() if row >= 0)
        if len(left) > 1:
            yield left


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
        text = f"Without the unreadable images these classes have no training images:\n{listed(emptied)}"
        text += "\nRepair the files, or remove the class."
        problems.append(Problem(kind=DataError, text=text))
    return problems
