"""Read, write and apply fixes: what is to be done with single images of a data set, while its files stay as they are."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.data.storage.storage import absolute, is_there
from vizsla.data.table.check import listing
from vizsla.data.table.labels import class_type_of, is_missing, read_numbers
from vizsla.data.table.tables import read_table
from vizsla.errors import ConfigError, DataError, LabelError, OutputError, Problem, TableError
from vizsla.files import OURS, atomic_write
from vizsla.paths import ImagePaths, is_address
from vizsla.text import counted, joined, listed, quoted, valid_unicode
from vizsla.types import LABEL_SEPARATOR, Fix, typed_class

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from vizsla.data.table.labels import LabelledImages
    from vizsla.types import Task

Fixes = Path | str | tuple[Fix, ...] | list[Fix] | None
"""Fixes as users give them: a file, or what ``read_fixes`` returns; None and ``""`` are none."""

COLUMNS = ("path", "action", "label", "why", "when")
_FORMULA = re.compile(r"('*)[=+\-@\t\r]")
_SECONDS_TO_WAIT = 10.0


def read_fixes(path: Path | str) -> tuple[Fix, ...]:
    """Read a file of fixes: CSV with the columns ``path`` and ``action``, and optionally ``label``, ``why`` and ``when``.

    Args:
        path: A file as ``write_fixes`` writes it; one without rows has no fixes.

    Raises:
        TableError: The file cannot be read, lacks a column, or has rows that are not fixes; all of them are named.

    Examples:
        >>> write_fixes("fixes.csv", [Fix(path="cat/1.jpg", action="drop")])
        >>> read_fixes("fixes.csv")[0].action
        'drop'
    """
    table = read_table(path, may_be_empty=True)
    present = [name for name in COLUMNS if name in (*COLUMNS[:2], *table.columns)]
    columns = [table.column(name) for name in present]
    found: list[Fix] = []
    faults: list[str] = []
    for number, *cells in zip(table.numbers, *columns, strict=True):
        texts = [_read_cell("" if cell is None else str(cell)) for cell in cells]
        row: dict[str, Any] = dict(zip(present, texts, strict=True))
        row["action"] = row["action"].strip().lower()
        try:
            found.append(Fix(**row, source=f"row {number} of {table.source}"))
        except ConfigError as error:
            faults.append(f"row {number}: {error}")
    if faults:
        raise TableError(
            f"{counted(len(faults), 'row')} of {table.source}{table.counting} cannot be used:\n"
            f"{listed(faults)}\n"
            "Correct or delete these rows."
        )
    return tuple(found)


def write_fixes(path: Path | str, fixes: Iterable[Fix], *, append: bool = False) -> Path:
    """Write fixes to a CSV file, whole or not at all, and return its path.

    Args:
        path: The file; its folder must exist.
        fixes: In any order. If an image has several, the one with the latest ``when`` is used, so none need be removed.
        append: Whether to add to the fixes in the file instead of replacing them; two processes may append at once.

    Raises:
        OutputError: The file cannot be written, or another process has been writing to it for ten seconds; it is
        unchanged.
        TableError: ``append`` is true, and the file does not hold fixes.
    """
    place = Path(path)
    if not append:
        return _write(place, fixes)
    with _only_writer(place):
        earlier = read_fixes(place) if place.exists() else ()
        return _write(place, (*earlier, *fixes))


def take_back(path: Path | str, fix: Fix) -> None:
    """Remove a fix from a file, the last of equal ones; all others stay.

    Raises:
        OutputError: As ``write_fixes``.
        DataError: It is not there any more.
    """
    place = Path(path)
    with _only_writer(place):
        found = list(read_fixes(place)) if place.exists() else []
        if fix not in found:
            raise DataError(
                f"{place} no longer has this row: {fix.path}, {fix.action}, {fix.when}. The file was not changed. "
                "If you edited it, reload the page or start again."
            )
        del found[len(found) - 1 - found[::-1].index(fix)]
        _write(place, found)


@contextmanager
def _only_writer(place: Path) -> Generator[None]:
    """Wait until no other process changes a file."""
    from filelock import FileLock, Timeout

    with ExitStack() as held:
        if place.parent.is_dir():  # a lock makes the folder
            lock = FileLock(place.with_name(f"{OURS}{place.name}.lock"), timeout=_SECONDS_TO_WAIT)
            try:
                held.enter_context(lock)
            except (Timeout, OSError) as error:
                what = "another process is writing to it" if isinstance(error, Timeout) else error.strerror  # fmt: skip
                raise OutputError(
                    f"Cannot write {place}: {what}. The file was not changed. Try again, or choose another place."
                ) from error
        yield


def _write(place: Path, fixes: Iterable[Fix]) -> Path:
    rows = [list(map(_written_cell, astuple(fix)[: len(COLUMNS)])) for fix in fixes]
    # Before Python 3.13 a lone carriage return is only quoted where everything is.
    is_odd = any("\r" in cell for row in rows for cell in row)
    with (
        atomic_write(place) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(
            file, lineterminator="\n", quoting=csv.QUOTE_ALL if is_odd else csv.QUOTE_MINIMAL
        )
        writer.writerows([COLUMNS, *rows])
    return place


def _written_cell(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula, and that UTF-8 and ``read_table`` can hold."""
    text = valid_unicode(text).replace("\0", r"\x00")
    return f"'{text}" if _FORMULA.match(text) else text


def _read_cell(text: str) -> str:
    found = _FORMULA.match(text)
    return text[1:] if found and found[1] else text


def given_fixes(fixes: Fixes) -> tuple[Fix, ...]:
    """Return fixes that may be given as a file."""
    if isinstance(fixes, str | Path):
        return read_fixes(fixes) if str(fixes) else ()
    return tuple(fixes or ())


def fixes_text(fixes: Sequence[Fix]) -> str:
    """Return what fixes do, in words."""
    counts = Counter(fix.action for fix in fixes)
    parts = (
        (counts["relabel"], f"{counted(counts['relabel'], 'label')} changed"),
        (counts["add"], f"{counted(counts['add'], 'image')} added"),
        (counts["drop"], f"{counted(counts['drop'], 'image')} dropped"),
        (counts["keep"], f"{counts['keep']:,} confirmed"),
    )
    return ", ".join(words for number, words in parts if number) or "nothing changed"


def apply_fixes(
    images: LabelledImages,
    fixes: Sequence[Fix],
    *,
    task: Task,
    known: Mapping[str, Any],
    encoded: Sequence[str] = (),
    new_classes: bool = False,
) -> tuple[LabelledImages, frozenset[int]]:
    """Return images with the labels of their fixes, and the positions of those to leave out.

    What is wrong with the fixes becomes problems of the images. Where fixes label images that had no label, the others without
    one are left out: somebody began to label them.

    Args:
        images: As they were found.
        fixes: Their paths are absolute, or relative to the images' root.
        task: What labels mean; several are separated by ``;`` in a fix.
        known: The classes of the data, by their names.
        encoded: The classes of labels of zeros and ones, in order.
        new_classes: Whether other classes may be named. Where the data has none they always may.
    """
    chosen, problems, notes = _fixes_by_position(images, fixes)
    labels = list(images.labels)
    unknown: defaultdict[str, list[Fix]] = defaultdict(list)
    not_numbers: list[str] = []
    effective: list[Fix] = []
    has_none = {p for p, label in enumerate(labels) if isinstance(label, LabelError) or is_missing(label)}  # fmt: skip
    usual_type = class_type_of(list(known.values())) or "text"
    for position, fix in chosen.items():
        if fix.gives_label:
            names = [name.strip() for name in fix.label.split(LABEL_SEPARATOR) if name.strip()]
            if task == "category":
                names = [fix.label if fix.label in known else fix.label.strip()]
            before = labels[position]
            if task == "regression":
                labels[position] = numbers = read_numbers(names)
                if isinstance(numbers, LabelError):
                    not_numbers.append(f"{_entry(fix)}: {numbers}")
            else:
                if known and (encoded or not new_classes):
                    for name in {*names} - {*known}:
                        unknown[name].append(fix)
                made = [known.get(name, typed_class(name, usual_type)) for name in names]
                labels[position] = made[0] if task == "category" else made
                if encoded:
                    labels[position] = [int(name in names) for name in encoded]
            if str(before) == str(labels[position]):  # equal arrays are no single truth
                continue
        effective.append(fix)
    if unknown:
        problems.append(_unknown_labels(unknown, known, may_be_new=not encoded))
    if not_numbers:
        words = ("label in a fix is not a number", "labels in fixes are not numbers")
        problems.append(listing(LabelError, words, not_numbers, "Correct the labels."))
    notes.insert(0, f"fixes: {fixes_text(effective)}")
    dropped = {position for position, fix in chosen.items() if fix.action == "drop"}
    labelled = {position for position, fix in chosen.items() if fix.gives_label}
    left_out = has_none - labelled - dropped if has_none & labelled and task != "multi_category" else set[int]()  # fmt: skip
    if left_out:
        notes.append(f"skipped {counted(len(left_out), 'image')} without a label")
    images = replace(
        images,
        labels=tuple(labels),
        fixes=tuple(effective),
        problems=(*images.problems, *problems),
        notes=(*images.notes, *notes),
    )
    return images, frozenset(dropped | left_out)


def _fixes_by_position(
    images: LabelledImages, fixes: Sequence[Fix]
) -> tuple[dict[int, Fix], list[Problem], list[str]]:
    """Return the fix that counts for each position, what is wrong with the paths of others, and what must be said."""
    found: defaultdict[int, list[Fix]] = defaultdict(list)
    outside: list[Fix] = []
    missing: list[Fix] = []
    for fix, position in zip(fixes, positions_of_fixes(images, fixes), strict=True):
        if position is not None:
            found[position].append(fix)
        else:
            exists = any(map(is_there, _places(fix, absolute(images.root))))
            (outside if exists else missing).append(fix)
    problems: list[Problem] = []
    notes: list[str] = []
    if missing:
        words = ("fix matches no image", "fixes match no image")
        cure = f"Paths must be absolute or relative to {quoted(images.root)}. Correct them, or delete the rows."
        problems.append(listing(DataError, words, list(map(_entry, missing)), cure))
    if outside:
        are = "fix is about an image" if len(outside) == 1 else "fixes are about images"
        shown = joined(list(map(_entry, outside)), limit=3)
        notes.append(f"ignored: {len(outside):,} {are} outside the data: {shown}")
    several = [
        same for same in found.values() if len({(fix.action, fix.label) for fix in same}) > 1
    ]
    if several:
        have = "image has" if len(several) == 1 else "images have"
        shown = joined([" and ".join(map(_entry, same)) for same in several], limit=3)
        notes.append(
            f"{len(several):,} {have} several different fixes, of which the latest is used: {shown}"
        )
    chosen = {position: sorted(same, key=lambda fix: fix.seconds)[-1] for position, same in found.items()}  # fmt: skip
    return chosen, problems, notes


def positions_of_fixes(images: LabelledImages, fixes: Iterable[Fix]) -> list[int | None]:
    """Return the position of the image that each fix is about, None where it is none of these."""
    root = absolute(images.root)
    texts = ImagePaths.of(images.paths).texts()
    position_of = {valid_unicode(absolute(text)): p for p, text in enumerate(texts)}
    found = ((position_of.get(place) for place in _places(fix, root)) for fix in fixes)
    return [next((p for p in positions if p is not None), None) for positions in found]


def _places(fix: Fix, root: str) -> list[str]:
    """Return where the image of a fix may be, the likeliest first."""
    texts = (fix.path, fix.path.strip().replace("\\", "/"))
    places = [absolute(text if is_address(text) else os.path.join(root, text)) for text in texts]  # noqa: PTH118
    if os.path.isabs(fix.path):  # noqa: PTH117 (it may lie below the same folder by another name)
        below = os.path.relpath(os.path.realpath(fix.path), os.path.realpath(root))
        places.append(os.path.abspath(os.path.join(root, below)))  # noqa: PTH100, PTH118
    return places


def _entry(fix: Fix) -> str:
    return f"{fix.source} ({quoted(fix.path)})" if fix.source else quoted(fix.path)


def _unknown_labels(
    unknown: Mapping[str, Sequence[Fix]], known: Mapping[str, Any], *, may_be_new: bool
) -> Problem:
    entries: list[str] = []
    for name, fixes in unknown.items():
        near = get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        number = counted(len(fixes), "image")
        entries.append(f"{name!r}: {number}, first {_entry(fixes[0])}{meant}")
    words = (
        "label in the fixes is not a class of the data",
        "labels in the fixes are not classes of the data",
    )
    cure = f"The classes are {joined(list(map(repr, known)), limit=20)}. Correct the labels"
    cure += ", or allow new classes: --new-classes (new_classes=True)." if may_be_new else "."
    return listing(LabelError, words, entries, cure)
