"""Read the layout of image folders: which of them are a split, and which level of them names the class.

Names alone decide, no image is opened. What is a guess is said in ``notes``; what two readers would read in two ways is refused,
with what was seen and the option that decides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vizsla.errors import DataError
from vizsla.text import counted, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vizsla.paths import ImagePaths

Parts = tuple[str, ...]
"""The folders on the way from the data to an image: ("train", "cats") of train/cats/1.jpg."""

# fmt: off
SPLIT_WORDS = {
    "train": "train", "training": "train", "trn": "train", "trainval": "train", "fit": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "devel": "valid", "development": "valid",
    "holdout": "valid", "heldout": "valid", "eval": "valid",
    "test": "test", "testing": "test", "tst": "test",
}
# fmt: on
"""Words for the parts of a split, as folders of data sets use them."""

FILLERS = frozenset(("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "part", "folder"))  # fmt: skip
"""Words that stand beside them and say nothing: training_set, test-images."""

_SPLIT_WORD_IN_ONE = re.compile(rf"({'|'.join(SPLIT_WORDS)})(?:{'|'.join(FILLERS)})?\d*")
_NO_CLASS_NAME = re.compile(r"[\d\W_]*(?:(?:batch|part|fold|session|day|week|year)[\d\W_]*)?")
"""Numbers, dates and batches: 2023, 2024-01, batch_3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What the folders of a data set say.

    Attributes:
        classes: The class of each folder; empty where none is named, because images lie beside the folders of classes.
        splits: The split of each folder, ``train``, ``valid`` or ``test``, empty for one that takes no part; None: the folders
            are no split.
        notes: What was guessed or left out, a line each.
    """

    classes: tuple[str, ...]
    splits: tuple[str, ...] | None
    notes: tuple[str, ...]


class SplitName(NamedTuple):
    """A folder's name, read as a part of a split.

    Attributes:
        split: ``train``, ``valid`` or ``test``.
        prefix: What comes before, the name of the data set: ``seg`` of seg_train.
    """

    split: str
    prefix: str


def read_split_name(name: str) -> SplitName | None:
    """Read a folder's name as a part of a split, in any case, with fillers and the name of the data set before it.

    Examples:
        >>> read_split_name("Training_Set"), read_split_name("seg_test1"), read_split_name("trains")
        (SplitName(split='train', prefix=''), SplitName(split='test', prefix='seg'), None)
    """
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    while len(words) > 1 and (words[-1] in FILLERS or words[-1].isdigit()):
        words.pop()
    found = _SPLIT_WORD_IN_ONE.fullmatch(words[-1]) if words else None
    if found is None:
        return None
    prefix = " ".join(word for word in words[:-1] if word not in FILLERS)
    return SplitName(SPLIT_WORDS[found[1]], prefix)


def layout_of(
    paths: ImagePaths,
    roots: Sequence[Path],
    *,
    label_level: int | None = None,
    need_classes: bool = True,
) -> Layout:
    """Return the layout of the folders of images, each below one of ``roots``; one that lies elsewhere counts as a root itself."""

    def below(folder: Path) -> Parts:
        found = (folder.relative_to(root).parts for root in roots if folder.is_relative_to(root))
        return next(found, ())

    counts = Counter(paths.folder_numbers)
    return read_layout(
        _out_of_shards([below(Path(folder)) for folder in paths.folders]),
        [counts[number] for number in range(len(paths.folders))],
        root=roots[0] if len(roots) == 1 else roots[0].parent,
        label_level=label_level,
        need_classes=need_classes,
    )


def _out_of_shards(folders: Sequence[Parts]) -> list[Parts]:
    """Return folders without the shards on the way; those that are named as a split (train-000.tar) stand for its folders."""
    shards = {part for parts in folders for part in parts if part.lower().endswith(".tar")}
    read = {shard: read_split_name(shard[:-4]) for shard in shards}
    kinds = {split.split for split in read.values() if split}
    is_split = None not in read.values() and "train" in kinds and len(kinds) > 1
    stand_in = {
        shard: (f"{split.prefix}_{split.split}".lstrip("_"),) if is_split and split else ()
        for shard, split in read.items()
    }
    return [sum((stand_in.get(part, (part,)) for part in parts), ()) for parts in folders]


def read_layout(
    folders: Sequence[Parts],
    counts: Sequence[int],
    *,
    root: Path,
    label_level: int | None = None,
    need_classes: bool = True,
) -> Layout:
    """Say what folders of images are.

    Args:
        folders: Where images lie, each once, as parts below ``root``; ``()`` is the root itself.
        counts: How many images lie in each.
        root: For messages.
        label_level: Which level names the class, counted from 1 below the split folders; None finds out.
        need_classes: Whether the folders are asked for classes; otherwise labels come from elsewhere, and only the split counts.

    Raises:
        DataError: The folders can be read in two ways, or hold no level that names classes.
    """
    notes: list[str] = []
    shared = _wrapping(folders)
    inner = [parts[shared:] for parts in folders]
    if shared:
        notes.append(f"images are in {quoted(root.joinpath(*folders[0][:shared]))}")
    split_names = _split_level(inner)
    splits: tuple[str, ...] | None = None
    kept = list(range(len(inner)))
    if split_names is not None:
        level, by_name = split_names
        splits = tuple(
            by_name.get(parts[level], "") if len(parts) > level else "" for parts in inner
        )
        kept = [number for number, split in enumerate(splits) if split]
        notes.append(_split_note(by_name, level))
        notes += _left_out_note(inner, counts, splits)
        inner = [_without_split(parts, level) for parts in inner]
    classes = [""] * len(inner)
    if need_classes:
        chosen = [inner[number] for number in kept]
        level = _label_level(chosen, label_level, root=root, notes=notes)
        for number in kept:
            classes[number] = inner[number][level] if len(inner[number]) > level else ""
    return Layout(classes=tuple(classes), splits=splits, notes=tuple(notes))


def _wrapping(folders: Sequence[Parts]) -> int:
    """Return how many levels above all images hold one folder only, and no class: data/mydata/train/..."""
    shared = 0
    while folders and all(len(parts) > shared + 1 for parts in folders):
        names = {parts[shared] for parts in folders}
        if len(names) > 1 or read_split_name(next(iter(names))) is not None:
            break
        shared += 1
    return shared


def _split_level(folders: Sequence[Parts]) -> tuple[int, dict[str, str]] | None:
    """Return the level whose folders are a split, and what each of them is; None where there is none.

    It is the first level (train/cats), or the one below it in every folder (cats/train). A folder ``train`` alone says nothing:
    it may hold images of trains.
    """
    for level in (0, 1):
        names = {parts[level] for parts in folders if len(parts) > level}
        read = {name: split for name in names if (split := read_split_name(name)) is not None}
        kinds = {split.split for split in read.values()}
        prefixes = {split.prefix for split in read.values()}
        if "train" not in kinds or len(kinds) < 2 or len(prefixes) > 1:
            continue
        if level == 0 or (len(read) == len(names) and all(len(parts) > 1 for parts in folders)):
            return level, {name: split.split for name, split in read.items()}
    return None


def _without_split(parts: Parts, level: int) -> Parts:
    """Return the folders on the way without the split's; one of the same meaning below it goes too: seg_train/seg_train."""
    if len(parts) <= level:
        return parts
    rest = parts[level + 1 :]
    own = read_split_name(parts[level])
    if level == 0 and rest and own is not None and read_split_name(rest[0]) == own:
        rest = rest[1:]
    return parts[:level] + rest


def _split_note(by_name: Mapping[str, str], level: int) -> str:
    by_split: defaultdict[str, list[str]] = defaultdict(list)
    for name, split in sorted(by_name.items()):
        by_split[split].append(name)
    told = [
        f"{', '.join(by_split[split])} for {use}"
        for split, use in (("train", "training"), ("valid", "validation"), ("test", "testing, unused"))
        if split in by_split
    ]  # fmt: skip
    return f"split from folders{' inside each class' if level else ''}: {'; '.join(told)}"


def _left_out_note(
    folders: Sequence[Parts], counts: Sequence[int], splits: Sequence[str]
) -> Iterable[str]:
    left_out: Counter[str] = Counter()
    for parts, count, split in zip(folders, counts, splits, strict=True):
        if not split:
            left_out[parts[0] if parts else "."] += count
    if left_out:
        names = ", ".join(f"{name} ({count:,})" for name, count in sorted(left_out.items()))
        yield f"skipped {counted(left_out.total(), 'image')} outside the split folders: {names}"


def _label_level(
    folders: Sequence[Parts], chosen: int | None, *, root: Path, notes: list[str]
) -> int:
    """Return the level that names the class, counted from 0."""
    deepest = max(map(len, folders), default=0)
    if chosen is not None:
        if not 1 <= chosen <= deepest:
            raise DataError(
                f"The folders in {quoted(root)} have {counted(deepest, 'level')}. Received: label level {chosen}"
            )
        return chosen - 1
    names_of = [
        {parts[level] for parts in folders if len(parts) > level} for level in range(deepest)
    ]
    everywhere = [all(len(parts) > level for parts in folders if parts) for level in range(deepest)]
    candidates = [
        level
        for level in range(deepest)
        if everywhere[level]
        and len(names_of[level]) > 1
        and not all(map(_NO_CLASS_NAME.fullmatch, names_of[level]))
    ]
    if not candidates:  # a single class, or classes with numbers for names
        candidates = [level for level in range(deepest) if len(names_of[level]) > 1][:1]
    if len(candidates) > 1:
        raise DataError(
            f"{len(candidates)} levels of folders in {quoted(root)} may name the class:\n"
            f"{listed([_level_line(level, names_of[level]) for level in candidates])}\n"
            "Choose one with --label-level (label_level)."
        )
    level = candidates[0] if candidates else 0
    if deepest > 1:
        notes.append(f"labels from folder {_level_line(level, names_of[level])}")
    return level


def _level_line(level: int, names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")
    return f"level {level + 1}: {shown}"
