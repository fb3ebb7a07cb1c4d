"""Labelled pictures and a split in, everything that is wrong with them out, all at once and before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.labels import (
    LabelledPictures,
    is_fraction,
    is_missing,
    is_several,
    label_text,
)
from vizsla.data.problems import Problem, counted, listed, quoted, raise_problems
from vizsla.errors import ConfigError, DataError, LabelError, PictureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vizsla.types import PictureTable

ADD_OR_REMOVE = "Add pictures of the class, or remove it."


def missing_files(pictures: LabelledPictures) -> list[Problem]:
    """Return the problem of picture files that do not exist."""
    missing = [position for position, path in enumerate(pictures.paths) if not _is_file(path)]
    if not missing:
        return []
    entries = listed([pictures.entry(position) for position in missing])
    return [
        Problem(
            kind=PictureError,
            text=f"{len(missing)} of {counted(len(pictures.paths), 'picture file')} "
            f"{'does' if len(missing) == 1 else 'do'} not exist:\n{entries}\nCorrect the names, or bring the files there.",
        )
    ]


def repeated_pictures(pictures: LabelledPictures) -> list[Problem]:
    """Return the problem of pictures that are listed more than once: one copy may be trained on, the other held out."""
    positions_of: defaultdict[Path, list[int]] = defaultdict(list)
    for position, path in enumerate(pictures.paths):
        positions_of[path].append(position)
    repeated = {path: found for path, found in positions_of.items() if len(found) > 1}
    if not repeated:
        return []
    entries: list[str] = []
    for path, positions in repeated.items():
        texts = [label_text(pictures.labels[position]) or "" for position in positions]
        labels = (
            f"each labelled {texts[0]!r}"
            if len(set(texts)) == 1
            else f"with different labels: {', '.join(map(repr, texts))}"
        )
        places = f" ({', '.join(map(pictures.row, positions))})" if pictures.row_word else ""
        entries.append(f"{quoted(path)}: {len(positions)} times{places}, {labels}")
    what = "is" if len(repeated) == 1 else "are"
    return [
        Problem(
            kind=DataError,
            text=f"{counted(len(repeated), 'picture')} {what} listed more than once:\n{listed(entries)}\n"
            "List each picture once, with the label that is right.",
        )
    ]


def label_problems(pictures: LabelledPictures, positions: Sequence[int]) -> list[Problem]:
    """Return what is wrong with the labels of the pictures at ``positions``, each taken alone."""
    by_fault: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        by_fault[_fault(pictures.labels[position])].append(position)
    problems: list[Problem] = []
    if misses := by_fault["missed"]:
        # When nothing matches, three names show what names look like here; else the odd ones are of interest.
        none_found = len(misses) == len(positions)
        entries = [f"{pictures.entry(p)}: {pictures.labels[p]}" for p in misses]
        head = "None of" if none_found else f"{len(misses)} of"
        text = f"{head} {counted(len(positions), 'picture')} {'gives a' if none_found else 'give no'} label:"
        problems.append(_about(text, listed(entries, limit=3 if none_found else 5), pictures))
    for fault, (what, cure) in _FAULTS.items():
        if found := by_fault[fault]:
            text = (
                f"{counted(len(found), 'picture')} {'has' if len(found) == 1 else 'have'} {what}:"
            )
            entries = [pictures.entry(position) for position in found]
            problems.append(_about(text, f"{listed(entries)}\n{cure}", pictures))
    return problems


_FAULTS = {
    "empty": ("an empty label", "Fill the label in, or remove the picture."),
    "several": (
        "a list of labels",
        "One label for each picture is supported so far, not several (multi-label).",
    ),
    "fraction": (
        "a decimal number as label",
        "Predicting numbers (regression) is not supported so far; write classes as text or whole numbers.",
    ),
}


def _fault(label: object) -> str:
    if isinstance(label, LabelError):
        return "missed"
    if is_missing(label):
        return "empty"
    if is_several(label):
        return "several"
    return "fraction" if is_fraction(label) else ""


def _about(text: str, entries: str, pictures: LabelledPictures) -> Problem:
    advice = f"\n{pictures.advice}" if pictures.advice else ""
    return Problem(kind=LabelError, text=f"{text}\n{entries}{advice}")


def lonely_classes(pictures: LabelledPictures, positions: Sequence[int]) -> list[Problem]:
    """Return the problem of classes with one picture only, which no stratified split can have on both sides."""
    positions_of = _by_class(pictures, positions)
    lonely = {label: found[0] for label, found in positions_of.items() if len(found) == 1}
    if not lonely:
        return []
    entries = [f"{label!r}: {pictures.entry(position)}" for label, position in lonely.items()]
    what = "has" if len(lonely) == 1 else "have"
    return [
        Problem(
            kind=LabelError,
            text=f"{counted(len(lonely), 'class', 'classes')} {what} a single picture, which cannot be in training and "
            f"in validation:\n{listed(entries)}\n{ADD_OR_REMOVE}",
        )
    ]


def class_problems(
    pictures: LabelledPictures, *, train: Sequence[int], valid: Sequence[int], vocab: Sequence[str]
) -> list[Problem]:
    """Return what is wrong with the classes as a whole and with how the split divides them.

    Args:
        pictures: The pictures.
        train: Positions of the training pictures.
        valid: Positions of the validation pictures.
        vocab: The classes that the classifier will know.
    """
    in_train, in_valid = _by_class(pictures, train), _by_class(pictures, valid)
    problems: list[Problem] = []
    sides = {"training": train, "validation": valid}
    for side in [side for side, positions in sides.items() if not positions]:
        other = "validation" if side == "training" else "training"
        problems.append(
            Problem(
                kind=DataError,
                text=f"There are no {side} pictures; all {counted(len(sides[other]), 'picture')} are for {other}. "
                "Add pictures, or split them otherwise.",
            )
        )
    classes = {**in_train, **in_valid}
    number = len(train) + len(valid)
    if len(classes) == 1 and sum(map(len, (*in_train.values(), *in_valid.values()))) == number:
        text = f"There is only one class, {next(iter(classes))!r}, for all {counted(number, 'picture')}. A classifier needs two."
        advice = f" {pictures.advice}" if pictures.advice else ""
        problems.append(Problem(kind=LabelError, text=f"{text}{advice}"))
    elif train:
        problems += _outside_vocab(pictures, in_train, vocab, where="in training but not in vocab")
        unseen = {label: found for label, found in in_valid.items() if label not in in_train}
        problems += _outside_vocab(
            pictures, unseen, vocab, where="in validation but not in training"
        )
    return problems


def _outside_vocab(
    pictures: LabelledPictures,
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
        f"{label!r}: {counted(len(found), 'picture')}, the first {pictures.entry(found[0])}"
        for label, found in outside.items()
    ]
    text = f"{counted(len(outside), 'class', 'classes')} {'is' if len(outside) == 1 else 'are'} {where}:"
    return [Problem(kind=LabelError, text=f"{text}\n{listed(entries)}\n{ADD_OR_REMOVE}")]


def _by_class(pictures: LabelledPictures, positions: Sequence[int]) -> dict[str, list[int]]:
    """Return the positions of each class, classes in alphabetical order; pictures without a usable label are left out."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        label = label_text(pictures.labels[position])
        if label is not None:
            found[label].append(position)
    return dict(sorted(found.items()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example a name that is too long for the file system
        return False


def settle_unreadable(
    table: PictureTable,
    unreadable: Sequence[tuple[int, str]],
    *,
    on_bad: Literal["error", "skip"] = "error",
) -> PictureTable:
    """Refuse or leave out pictures that cannot be read.

    Args:
        table: The table that they are in.
        unreadable: Their rows, each with the cause, as ``find_unreadable`` returns them.
        on_bad: ``"error"`` refuses them, all in one message; ``"skip"`` goes on with the rest.

    Returns:
        The table without them; they stand in its ``skipped``.

    Raises:
        PictureError: There are such pictures and ``on_bad`` is ``"error"``.
        DataError: Without them a class or a set has no pictures left.
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
        f"{len(unreadable)} of {counted(len(table.paths), 'picture')} cannot be read:\n{listed(entries)}\n"
        "Repair or remove the files, or train on the rest with --on-bad skip (on_bad='skip')."
    )


def drop_unreadable(table: PictureTable, bad: Sequence[tuple[int, str]]) -> PictureTable:
    """Return a table without the pictures that cannot be read; they are added to ``skipped``.

    Rows are numbered anew. The vocabulary stays.

    Args:
        table: The table.
        bad: Rows of the table, each with the cause.

    Raises:
        DataError: A class that had training pictures, or a whole set, has none left.
    """
    causes = dict(bad)
    kept = [row for row in range(len(table.paths)) if row not in causes]
    new_row = torch.full((len(table.paths),), -1, dtype=torch.int64)
    new_row[kept] = torch.arange(len(kept))
    after = replace(
        table,
        paths=tuple(table.paths[row] for row in kept),
        targets=table.targets[kept],
        train_rows=_renumbered(table.train_rows, new_row),
        valid_rows=_renumbered(table.valid_rows, new_row),
        skipped=(*table.skipped, *((table.paths[row], cause) for row, cause in causes.items())),
    )
    raise_problems(_emptied(table, after))
    return after


def _renumbered(rows: torch.Tensor, new_row: torch.Tensor) -> torch.Tensor:
    renumbered = new_row[rows]
    return renumbered[renumbered >= 0]


def _emptied(before: PictureTable, after: PictureTable) -> list[Problem]:
    problems = [
        Problem(
            kind=DataError,
            text=f"None of the {len(old)} {side} pictures can be read. Repair the files.",
        )
        for side, old, new in (
            ("training", before.train_rows, after.train_rows),
            ("validation", before.valid_rows, after.valid_rows),
        )
        if len(old) and not len(new)
    ]
    old_counts = Counter(before.targets[before.train_rows].tolist())
    left = set(after.targets[after.train_rows].tolist())
    emptied = [
        f"{before.vocab[target]!r}: {counted(number, 'training picture')}"
        for target, number in sorted(old_counts.items())
        if target not in left
    ]
    if emptied and len(after.train_rows):
        text = f"Without the unreadable pictures these classes have nothing to learn from:\n{listed(emptied)}"
        problems.append(
            Problem(kind=DataError, text=f"{text}\nRepair the files, or remove the class.")
        )
    return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """How many pictures of a class are where.

    Attributes:
        label: Name of the class.
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        num_other: Pictures in neither set, such as those of a ``test`` folder.
    """

    label: str
    num_train: int
    num_valid: int
    num_other: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What is in a table, for people.

    Attributes:
        classes: Counts of each class, in the order of the vocabulary.
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        num_other: Pictures in neither set.
        num_unlabelled: Those of the pictures in neither set whose label is not known.
        num_skipped: Unreadable pictures that were left out.
    """

    classes: tuple[ClassCount, ...]
    num_train: int
    num_valid: int
    num_other: int
    num_unlabelled: int
    num_skipped: int


def describe_data(table: PictureTable) -> DataSummary:
    """Count the pictures of a table by class and set."""
    outside = torch.ones(len(table.paths), dtype=torch.bool)
    outside[table.train_rows] = False
    outside[table.valid_rows] = False
    other_targets = table.targets[outside]
    columns = [
        torch.bincount(targets[targets >= 0], minlength=len(table.vocab)).tolist()
        for targets in (
            table.targets[table.train_rows],
            table.targets[table.valid_rows],
            other_targets,
        )
    ]
    return DataSummary(
        classes=tuple(
            ClassCount(label=label, num_train=train, num_valid=valid, num_other=other)
            for label, train, valid, other in zip(table.vocab, *columns, strict=True)
        ),
        num_train=len(table.train_rows),
        num_valid=len(table.valid_rows),
        num_other=len(other_targets),
        num_unlabelled=int((table.targets < 0).sum()),
        num_skipped=len(table.skipped),
    )
