"""Turn what the command line is given, a folder or CSV file and words for labels and split, into a checked table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.images.duplicates import same_files
from vizsla.data.images.near_duplicates import find_near_duplicates
from vizsla.data.table.block import (
    CategoryBlock,
    MultiCategoryBlock,
    OutputBlock,
    RegressionBlock,
    fixed_images,
)
from vizsla.data.table.check import file_problems, listing, scarce_classes
from vizsla.data.table.labels import (
    FOLDER_ADVICE,
    LabelledImages,
    RegexLabeller,
    advice_about,
    class_texts,
    folder_labels,
    holds_lists,
    is_missing,
    names_of,
    take_labels,
    targets_in,
    using_attr,
)
from vizsla.data.table.layout import layout_of
from vizsla.data.table.sources import check_folder, get_image_files, is_image_name, list_images
from vizsla.data.table.splits import (
    balanced_group_split,
    keep_together,
    positions_of,
    rarest_class_split,
    stratified_split,
)
from vizsla.data.table.tables import (
    JSON_SUFFIXES,
    SAVE_AS_CSV,
    Table,
    faulty_rows,
    images_of_table,
    metadata_table,
    read_table,
)
from vizsla.data.table.words import ALL_COLUMNS, TABLE_FORM, TableWords, table_words
from vizsla.errors import ConfigError, DataError, LabelError, Problem, TableError, raise_problems
from vizsla.paths import ImagePaths
from vizsla.text import counted, joined, quoted
from vizsla.types import UNLABELLED, ImageTable, Task, is_labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from vizsla.data.table.fixes import Fixes

DEFAULT_VALID_FRACTION = 0.2

IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "fn")
"""Column names that mean the image's path, the first that is there; else it is the first column of names of images."""

LABEL_COLUMNS = ("label", "class", "category", "target", "breed")
"""Column names that mean the label; else it is the first column that is not the image's."""

SPLIT_COLUMNS = ("is_valid", "split")
"""Column names that mean the split."""

_OTHER_FILES = {
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"): " Unpack it, and give the folder.",
    (".parquet", ".xlsx", ".xls", ".feather", ".arrow"): f" {SAVE_AS_CSV}",
}  # fmt: skip
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", *JSON_SUFFIXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Images as listed, what is predicted of them, and what the data says of the split.

    Attributes:
        images: Without a split.
        splits: The split that the data states: ``train``, ``valid`` or ``test`` for each image.
        groups: The group of each image, where groups are to be kept together.
        block: Makes the table.
    """

    images: LabelledImages
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    block: OutputBlock = field(default_factory=CategoryBlock)


def resolve_data(
    data: Path | str,
    *,
    labels: str = "auto",
    valid: float | str = "auto",
    label_level: int | Literal["auto"] = "auto",
    min_per_class: int | Literal["auto"] = "auto",
    group: str = "",
    fixes: Fixes = None,
    new_classes: bool = False,
    moved: Iterable[tuple[str, str]] | None = None,
    seed: int,
    sides: Mapping[str, str] | None = None,
) -> ImageTable:
    r"""Find the images, their labels and the split of a data set, and check all of it.

    A split that is drawn has files with the same bytes in one set: those that it would tear apart move, see ``keep_together``.

    Args:
        data: A folder of images, or a CSV file (``labels`` is then ``csv:`` with that file).
        labels: Where labels come from. ``"auto"``: files ``metadata.csv`` or ``metadata.jsonl`` beside the images, see
            ``metadata_table``, else the folders; refused where they contradict one another. ``"folder"``: the folders, see
            ``label_level``. ``"regex:PATTERN"``: the first group of the expression, searched in the file name.
            ``"csv:FILE[,image=COLUMN][,label=COLUMN]"``: a table; its images are found by their path below ``data`` (or the CSV
            file's folder), else by their file name or stem anywhere below it. Columns that are not named are chosen by
            ``IMAGE_COLUMNS`` and ``LABEL_COLUMNS``.
            ``delimiter=TEXT`` after these means that an image has several labels, separated by it; several times
            ``label=COLUMN``, or ``label=*`` for all columns left, that each column is a label (zeros and ones) or holds
            one; ``kind=number`` that numbers are predicted.
        valid: ``"auto"`` keeps the split that the data states: a column ``is_valid`` or ``split``, or folders under the
            usual names (``layout.SPLIT_WORDS``); without one a fifth is held out, of each class where an image has one, and
            of the images of each rare label where it has several. A number between 0 and 1 holds out that part, and is
            refused where the data states a split; ``"pool:0.2"`` pools its parts and draws another. Images of a ``test``
            folder or row stay in neither set.
        label_level: Which level of folders names the class, counted from 1 below the split folders; ``"auto"`` is the only
            one that can, and is refused where there are two. Refused where labels do not come from folders.
        min_per_class: Classes with fewer images are refused. ``"auto"``: 2 where a split is drawn, so that each class can be
            learnt and measured. 1: a single image goes to training, and a note says that its class is not measured.
        group: Images of one group, such as one patient, are never in both sets: the name of a column (also ``group=COLUMN``
            in ``labels``), or ``"regex:PATTERN"``, whose first group is searched in the path below ``data``. Of
            ``NUM_GROUP_DRAWS`` draws of whole groups the one is taken that is most like all images in its labels. ``"auto"`` reads
            all images and keeps near duplicates in one set, as exact ones are; a split of the data stays, with a note.
        fixes: A file of fixes, or what ``read_fixes`` returns. The split is drawn by the labels of the data and then changed, so
            that every image without a fix is where it would be without all of them.
        new_classes: Whether fixes may name classes that no image of the data has.
        moved: What a run moved because of duplicates, see ``ImageTable``; none are looked for then.
        seed: Makes the drawn split repeatable.
        sides: Sets, ``"train"`` or ``"valid"``, in which images stay by their real paths when a split is drawn, other than of
            groups: those that they had when an earlier model was trained.

    Raises:
        DataError: Something is wrong with the data; the message names all of it.
        ConfigError: An argument cannot be understood, or does not go with the others.

    Examples:
        >>> table = resolve_data("breeds", labels=r"regex:(.+)_\d+\.jpg$", seed=0)
    """
    fraction, is_pooled = _valid_fraction(valid)
    if min_per_class != "auto" and min_per_class < 1:
        raise ConfigError(
            f"min_per_class is 'auto' or a number of images from 1 on. Received: {min_per_class!r}"
        )
    level = None if label_level == "auto" else label_level
    find_near = group == "auto"
    found = _find(Path(data), labels, level, "" if find_near else group)
    splits, groups = found.splits, found.groups
    images, dropped = fixed_images(found.images, found.block, fixes, new_classes=new_classes)
    classes = _classes_of(found.images, found.block)
    if images.fixes:  # an image without a label of its own is drawn by that of its fix
        fixed = _classes_of(images, found.block)
        classes = [own or new for own, new in zip(classes, fixed, strict=True)]
    least = 1 if min_per_class == "auto" else min_per_class
    if splits is not None and "valid" in splits and not is_pooled:
        if fraction is None:
            train, held_out = (positions_of(splits, name) for name in ("train", "valid"))
            problems = (*images.problems, *_torn_groups(groups, train, held_out))
            images = replace(images, train=train, valid=held_out, problems=problems)
            if find_near and moved is None:
                images = _note_near_duplicates(images)
            return _checked(images.without(dropped), found.block, min_per_class=least)
        raise ConfigError(
            f"The data has a split of its own, {splits.count('train'):,} images for training and {splits.count('valid'):,} for "
            f"validation. Received: valid={valid}. Leave it out to keep that split, or draw another from all of these images "
            f"with pool:{valid} (--valid pool:{valid})."
        )
    all_positions = range(len(images.paths))
    divided = [p for p in all_positions if splits is None or splits[p] != "test"]
    is_class = isinstance(found.block, CategoryBlock)
    if is_class:  # images that nobody has labelled yet take no part
        divided = [p for p in divided if classes[p] or p not in dropped]
    part = fraction or DEFAULT_VALID_FRACTION
    chosen = [classes[position] for position in divided]
    if groups is not None:
        of = [groups[position] for position in divided]
        train, held_out = balanced_group_split(of, chosen, valid_fraction=part, seed=seed)
        of_what = f"the images in whole groups ({len({*of}):,} groups)"
    elif is_class:
        texts = [names[0] if names else None for names in chosen]
        train, held_out = stratified_split(texts, valid_fraction=part, seed=seed)
        least = 2 if min_per_class == "auto" else min_per_class
        of_what = "each class"
    else:
        train, held_out = rarest_class_split(chosen, valid_fraction=part, seed=seed)
        of_what = "the images"
    notes = [*images.notes, f"validation: {part:.0%} of {of_what}, drawn with seed {seed}"]
    if sides and groups is None:
        paths = ImagePaths.of(images.paths)
        drawn = ["train"] * len(divided)
        for place in held_out:
            drawn[place] = "valid"
        kept = [
            sides.get(os.path.realpath(paths.text(position)), side)
            for position, side in zip(divided, drawn, strict=True)
        ]
        if "valid" in kept:  # else all of these images were in the earlier training
            train, held_out = positions_of(kept, "train"), positions_of(kept, "valid")
            notes.append("images of the earlier training stay in their sets")
    images = replace(
        images,
        by_chance=groups is None and not is_class,
        train=[divided[position] for position in train],
        valid=[divided[position] for position in held_out],
        notes=tuple(notes),
    )
    if moved is None:
        images = _keep_copies_together(
            images, groups, classes, find_near=find_near, to_training=bool(sides)
        )
    else:
        images = _move(images, dict(moved))
    return _checked(images.without(dropped), found.block, min_per_class=least)


def _checked(images: LabelledImages, block: OutputBlock, *, min_per_class: int) -> ImageTable:
    """Return the table of images, or raise one error with all that is wrong, classes with too few images included."""
    scarce = scarce_classes(
        images, _classes_of(images, block), images.used, min_per_class=min_per_class
    )
    return block.table(replace(images, problems=(*images.problems, *scarce)))


def _move(images: LabelledImages, moved: Mapping[str, str]) -> LabelledImages:
    """Return images of which some, by their shown paths, are in other sets."""
    if not moved:
        return images
    set_of = dict.fromkeys(images.train, "train") | dict.fromkeys(images.valid, "valid")
    set_of = {position: moved.get(images.shown_path(position), was) for position, was in set_of.items()}  # fmt: skip
    train, valid = (sorted(p for p in set_of if set_of[p] == name) for name in ("train", "valid"))
    return replace(images, train=train, valid=valid, moved=tuple(moved.items()))


def _near_duplicates(images: LabelledImages) -> list[tuple[int, ...]]:
    """Return the positions of images in the sets that were made from one photograph, in groups; all images are read."""
    none = torch.zeros(0, dtype=torch.int64)
    table = ImageTable(
        root=images.root,
        paths=images.paths,
        targets=torch.full((len(images.paths),), UNLABELLED),
        vocab=(),
        train_rows=none,
        valid_rows=none,
    )
    return [group.rows for group in find_near_duplicates(table, torch.tensor(images.used))]


def _note_near_duplicates(images: LabelledImages) -> LabelledImages:
    """Return images with a note about near duplicates that a split of the data has in both sets, if there are any."""
    train, valid = set(images.train), set(images.valid)
    torn = [rows for rows in _near_duplicates(images) if {*rows} & train and {*rows} & valid]
    if not torn:
        return images
    are = "group of near duplicates is" if len(torn) == 1 else "groups of near duplicates are"
    shown = [" = ".join(quoted(images.paths[row]) for row in rows[:3]) for rows in torn]
    note = f"{len(torn):,} {are} in training and in validation, as the data has them: {joined(shown, limit=3)}"
    return replace(images, notes=(*images.notes, note))


def _keep_copies_together(
    images: LabelledImages,
    groups: Sequence[str] | None,
    classes: Sequence[Sequence[str]],
    *,
    find_near: bool,
    to_training: bool,
) -> LabelledImages:
    """Return images whose sets, which were drawn, share no file with the same bytes, nor near duplicates; say how many moved."""
    copies = same_files(ImagePaths.of(images.paths))
    members: defaultdict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(groups or ()):
        members[name].append(position)
    drawn = list(images.train), list(images.valid)
    near = _near_duplicates(images) if find_near else []
    together = [*members.values(), *copies, *near]
    train, valid = keep_together(drawn, together, classes, to_training=to_training)
    moved = {images.shown_path(position): "train" for position in {*train} - {*drawn[0]}}
    moved |= {images.shown_path(position): "valid" for position in {*valid} - {*drawn[1]}}
    images = replace(images, train=train, valid=valid, copies=copies, moved=tuple(sorted(moved.items())))  # fmt: skip
    if not moved:
        return images
    what = "exact or near duplicate" if find_near else "exact duplicate"
    note = (
        f"{counted(len(moved), 'image')} moved so that no {what} is in training and in validation"
    )
    problems = images.problems
    if drawn[1] and not valid:
        text = (
            f"All {counted(len(drawn[1]), 'image')} drawn for validation are {what}s of training images, so nothing is "
            "left to measure with. Add other images, or name both sets yourself: folders train and valid."
        )
        problems = (*problems, Problem(kind=DataError, text=text))
    return replace(images, notes=(*images.notes, note), problems=problems)


Part = Literal["auto", "train", "valid", "test", "all"]
"""Which images of labelled data to judge; ``auto``: ``test`` where the data has such a part, else ``valid``, else all."""


def labelled_data(
    data: Path | str,
    *,
    vocab: tuple[str, ...],
    task: Task,
    labels: str = "auto",
    label_level: int | Literal["auto"] = "auto",
    group: str = "",
    part: Part = "auto",
    fixes: Fixes = None,
    trained_on: Collection[str] = (),
) -> ImageTable:
    """Find labelled images to judge a model on, in a table with the model's vocabulary whose ``valid_rows`` they are.

    ``data``, ``labels``, ``label_level``, ``group`` and ``fixes`` are as for ``resolve_data``. Images whose real paths are in
    ``trained_on`` are left out and counted, and with ``group`` the others of their groups, too.

    Raises:
        DataError: An image is missing, or its label is, or the model does not know it; the message names all of them.
        ConfigError: The labels are not of the model's task, or the data has no such part.
    """
    found = _find(Path(data), labels, None if label_level == "auto" else label_level, group)
    if found.block.task != task:
        words = {
            "category": "one class of each image",
            "multi_category": "several labels: --labels csv:FILE,label=COLUMN,delimiter=TEXT",
            "regression": "numbers: --labels csv:FILE,label=COLUMN,kind=number",
        }
        raise ConfigError(
            f"The model predicts {words[task]}. Received labels of the task {found.block.task!r}: labels {labels!r}"
        )
    splits = found.splits
    images, dropped = fixed_images(found.images, found.block, fixes, new_classes=True)
    parts = [name for name in ("test", "valid", "train") if splits is not None and name in splits]
    if part not in ("auto", "all", *parts):
        raise ConfigError(
            f"The data has no part {part!r}. Received: part={part!r}; choose one of: {', '.join(['auto', 'all', *parts])}."
        )
    held_out = [name for name in parts if name != "train"]
    chosen = part if part != "auto" else next(iter(held_out), "all")
    judged = range(len(images.paths)) if chosen == "all" else positions_of(splits or (), chosen)
    images = replace(images, valid=judged).without(dropped)
    judged = images.valid
    groups = [of for p, of in enumerate(found.groups or ()) if p not in dropped]
    if isinstance(found.block, MultiCategoryBlock):
        images = replace(images, labels=tuple(found.block.label_sets(images)))
    targets = targets_in(images.labels, vocab=vocab, task=task)
    is_known = is_labelled(targets).tolist()
    unknown = [position for position in judged if not is_known[position]]
    problems = [*images.problems, *file_problems(images)]
    if unknown:
        words = (
            "image has no label that the model knows",
            "images have no label that the model knows",
        )
        entries = [f"{images.entry(p)}: {images.labels[p]!s:.80}" for p in unknown]
        cure = f"The model knows {', '.join(map(repr, vocab[:20]))}. Correct the labels, or leave the images out."
        problems.append(listing(LabelError, words, entries, cure))
    raise_problems(problems)
    of_part = "all images" if chosen == "all" else f"the part {chosen!r}"
    notes = [f"judged: {of_part}, {counted(len(judged), 'image')}"]
    if trained_on:  # a real path is several calls of the system
        looked_at = range(len(images.paths)) if groups else judged
        paths = ImagePaths.of(images.paths)
        known = {p for p in looked_at if os.path.realpath(paths.text(p)) in trained_on}
        torn = {groups[p] for p in known} if groups else {*()}
        of_groups = [p for p in judged if p not in known and groups and groups[p] in torn]
        if seen := len(known.intersection(judged)):
            notes.append(f"left out: {counted(seen, 'image')} that the model was trained on")
        if of_groups:
            notes.append(
                f"left out: {counted(len(of_groups), 'image')} of groups that the model was trained on"
            )
        known.update(of_groups)
        judged = [p for p in judged if p not in known]
    return ImageTable(
        root=images.root,
        paths=images.paths,
        targets=targets,
        vocab=vocab,
        task=task,
        train_rows=torch.zeros(0, dtype=torch.int64),
        valid_rows=torch.tensor(list(judged), dtype=torch.int64),
        notes=(*images.notes, *notes),
        fixes=images.fixes,
    )


def _classes_of(images: LabelledImages, block: OutputBlock) -> list[tuple[str, ...]]:
    """Return the classes of each image; none where its label is a number or cannot be used."""
    if isinstance(block, RegressionBlock):
        return [()] * len(images.labels)
    if isinstance(block, MultiCategoryBlock):
        return [names_of(found) or () for found in block.label_sets(images)]
    return [() if text is None else (text,) for text in class_texts(images.labels)]


def _torn_groups(
    groups: Sequence[str] | None, train: Sequence[int], valid: Sequence[int]
) -> list[Problem]:
    """Return the problem of groups that the split of the data has in both sets."""
    if groups is None:
        return []
    torn = sorted({groups[p] for p in train} & {groups[p] for p in valid})
    if not torn:
        return []
    words = ("group is in training and in validation", "groups are in training and in validation")
    cure = "Move each into one set, or draw another split by groups: --valid pool:0.2."
    return [listing(DataError, words, list(map(repr, torn)), cure)]


def _valid_fraction(valid: float | str) -> tuple[float | None, bool]:
    """Return the part to hold out, None for what the data states, and whether its own split is to be pooled."""
    if valid == "auto":
        return None, False
    text = str(valid)
    try:
        fraction = float(text.removeprefix("pool:"))
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise ConfigError(
            "valid is the part of each class to hold out, a number between 0 and 1 such as 0.2, 'pool:0.2' to draw it "
            f"from a data set that is split already, or 'auto'. Received: {valid!r}"
        )
    return fraction, text.startswith("pool:")


def _find(data: Path, labels: str, label_level: int | None, group: str) -> _Found:
    kind, _, rest = labels.partition(":")
    from_folders = labels in ("auto", "folder")
    if label_level is not None and (data.is_file() or not from_folders):
        raise ConfigError(
            "label_level says which level of folders names the class, and labels do not come from folders here. "
            f"Received: label_level={label_level}, labels {labels!r}, data {quoted(data)}. Leave --label-level out."
        )
    words = table_words(labels)
    if data.is_file():
        if is_image_name(data.name):
            raise DataError(
                f"{quoted(data)} is an image. Give the folder that holds the images, or a CSV file."
            )
        if data.suffix.lower() not in _TABLE_SUFFIXES:
            way = next((way for ends, way in _OTHER_FILES.items() if data.name.lower().endswith(ends)), "")  # fmt: skip
            raise DataError(
                f"{quoted(data)} is neither a folder of images nor a table ({', '.join(_TABLE_SUFFIXES)}).{way}"
            )
        if (not from_folders and kind != "csv") or Path(words.file or data) != data:
            raise ConfigError(
                f"Labels come from the CSV file that is given as the data, {quoted(data)}. Received: labels {labels!r}. "
                "Leave labels out, name columns (labels csv:,image=COLUMN,label=COLUMN), or give the folder as data."
            )
        return _find_in_table(read_table(data), data.parent, words, group)
    check_folder(data)
    if labels == "auto" and label_level is None and (metadata := metadata_table(data)):
        return _find_in_metadata(metadata, data, group)
    if from_folders:
        return _find_in_folder(data, None, label_level, group)
    if kind == "regex":
        return _find_in_folder(data, RegexLabeller(rest), None, group)
    if kind == "csv":
        here, below = Path(words.file), data / words.file
        file = below if below.is_file() and not here.is_file() else here
        return _find_in_table(read_table(file), data, words, group)
    raise ConfigError(
        f"labels is 'auto', 'folder', 'regex:PATTERN' or {TABLE_FORM!r}. Received: {labels!r}"
    )


def _find_in_folder(
    data: Path, labeller: RegexLabeller | None, label_level: int | None, group: str
) -> _Found:
    listing = list_images(data)
    paths, in_doubt = listing.paths, listing.in_doubt
    layout = layout_of(paths, (data,), label_level=label_level, need_classes=labeller is None)
    of_name = None if labeller is None else using_attr(labeller, "name")
    labels = take_labels(paths, of_name) if of_name else folder_labels(paths, layout.classes)
    splits: list[str] | None = None
    beside: set[int] = set()
    if layout.splits is not None:  # images beside its folders, such as a sample, take no part
        splits = [layout.splits[number] for number in paths.folder_numbers]
        beside = {position for position, split in enumerate(splits) if not split}
    images = LabelledImages(
        root=data,
        paths=paths,
        in_doubt=in_doubt,
        labels=labels,
        advice=advice_about(of_name)
        if of_name
        else FOLDER_ADVICE + _parent_hint(data, layout.classes),
        notes=(*listing.notes, *layout.notes),
    ).without(beside)
    splits = splits and [split for split in splits if split]
    images, groups = _groups_in_paths(images, group) if group else (images, None)
    return _Found(images=images, splits=splits, groups=groups)


def _groups_in_paths(
    images: LabelledImages, group: str
) -> tuple[LabelledImages, Sequence[str] | None]:
    """Return the group of each image, searched in its path below the root; a path without one is a problem."""
    kind, _, pattern = group.partition(":")
    if kind != "regex":
        raise ConfigError(
            f"group is 'regex:PATTERN', searched in the paths of the images, or a column of the table that has the labels. "
            f"Received: group {group!r}, and no table"
        )
    root = images.root.as_posix()
    below = [path.removeprefix(f"{root}/") for path in ImagePaths.of(images.paths).texts()]
    found = take_labels(below, RegexLabeller(pattern))
    missed = [text for text, of in zip(below, found, strict=True) if isinstance(of, LabelError)]
    if missed:
        words = (f"path has no group {pattern!r}", f"paths have no group {pattern!r}")
        problem = listing(
            LabelError, words, list(map(quoted, missed)), "Correct the expression of the groups."
        )
        images = replace(images, problems=(*images.problems, problem))
    return images, list(map(str, found))


def _parent_hint(data: Path, classes: Sequence[str]) -> str:
    """Return a question where there is one class at most and the folder above holds more: it may be one level too deep."""
    if len({*classes} - {""}) > 1:
        return ""
    parent = data.resolve().parent
    with suppress(OSError):
        beside = [
            child
            for child in sorted(parent.iterdir())
            if child.is_dir() and child != data.resolve()
        ]
        found = [child.name for child in beside[:20] if any(map(is_image_name, os.listdir(child)))]  # noqa: PTH208 (names)
        if found:
            return f" Did you mean the folder above, {quoted(parent)}? It also holds {', '.join(found[:5])}."
    return ""


def _find_in_metadata(table: Table, data: Path, group: str) -> _Found:
    """Return what a table says that was found beside the images.

    Raises:
        DataError: Several columns may be the label, or folders name other classes.
    """
    used = ("file_name", *SPLIT_COLUMNS, group)
    others = [name for name in table.columns if name.lower() not in used]
    if len(others) > 1 and not {*map(str.lower, others)} & {*LABEL_COLUMNS}:
        raise DataError(
            f"Any of these columns of {table.source} may be the label: {', '.join(map(repr, others))}. "
            "Say which: --labels csv:FILE,label=COLUMN; or --labels folder."
        )
    found = _find_in_table(table, data, TableWords(image="file_name"), group)
    if classes := _other_classes(data, found.images):
        raise DataError(
            f"Labels may come from folders ({joined(classes, limit=5)}) or from {table.source}, and they differ. "
            "Say which: --labels folder or --labels csv:FILE."
        )
    return found


def _other_classes(data: Path, images: LabelledImages) -> Sequence[str]:
    """Return the classes that folders name, where these are several and not the labels of the images."""
    try:
        in_folders = _find_in_folder(data, None, None, "").images
    except DataError:
        return ()
    class_of = dict(zip(ImagePaths.of(in_folders.paths).texts(), in_folders.labels, strict=True))
    classes = sorted({label for label in class_of.values() if isinstance(label, str)})
    pairs = zip(ImagePaths.of(images.paths).texts(), images.labels, strict=True)
    known = ((path, str(label)) for path, label in pairs if not is_missing(label))
    differ = any(class_of.get(path, label) != label for path, label in known)
    return classes if differ and len(classes) > 1 else ()


def _find_in_table(table: Table, folder: Path, words: TableWords, group: str) -> _Found:
    if words.group and group not in ("", words.group):
        raise ConfigError(
            f"The groups are named twice. Received: group={words.group} among the labels, and group {group!r}"
        )
    in_column = words.group or ("" if group.startswith("regex:") else group)
    group_column = table.position(in_column) if in_column else None
    split_columns = [name for name in table.columns if name.lower() in SPLIT_COLUMNS]
    split = table.position(split_columns[0]) if split_columns else None
    image_column, label_columns = _choose_columns(table, words, taken=(group_column, split))
    several = words.has_several_columns
    notes: list[str] = []
    problems: list[Problem] = []
    images, splits = images_of_table(
        table,
        folder=folder,
        image=image_column,
        label=label_columns if several else label_columns[0],
        split=split,
        delimiter=words.delimiter or None,
        locate=partial(_locate, folder=folder, notes=notes, problems=problems),
    )
    if not words.label and words.kind == "class":
        problems += _labels_to_refuse(table, label_columns[0], image=image_column)
    block = _block_of(words, table, label_columns)
    names = table.columns
    of_labels = ", ".join(repr(names[column]) for column in label_columns)
    what = {"class": "labels", "labels": "several labels", "number": "numbers"}[words.kind]
    told = (
        f"{what} from column{'s' * several} {of_labels}, images from column {names[image_column]!r}"
    )
    if split is not None:
        told += f", split from column {names[split]!r}"
    groups = None
    if group_column is not None:
        told += f", groups from column {names[group_column]!r}"
        groups, missed = _groups_in_column(table, group_column, image=image_column)
        problems += missed
    images = replace(
        images, notes=(*images.notes, told, *notes), problems=(*images.problems, *problems)
    )
    if group and group_column is None:
        images, groups = _groups_in_paths(images, group)
    found = _Found(images=images, splits=splits, groups=groups, block=block)
    if splits is not None:
        return found
    paths = ImagePaths.of(images.paths)
    of_folders = layout_of(paths, (folder,), need_classes=False)
    if of_folders.splits is None or not all(of_folders.splits):
        return found
    splits = [of_folders.splits[number] for number in paths.folder_numbers]
    return replace(
        found, splits=splits, images=replace(images, notes=(*images.notes, *of_folders.notes))
    )


def _block_of(words: TableWords, table: Table, label_columns: Sequence[int]) -> OutputBlock:
    """Return the block of the labels of a table; where all columns hold zeros and ones, each column is a label.

    Raises:
        TableError: The labels are all columns that are left, and some hold something else.
    """
    if words.kind == "class":
        return CategoryBlock()
    if words.kind == "number":
        return RegressionBlock()
    others = [c for c in label_columns if not {str(cell) for cell in table.column(c)} <= {"0", "1"}]
    if words.label == (ALL_COLUMNS,) and others:
        names = ", ".join(repr(table.columns[column]) for column in others)
        raise TableError(
            f"label=* takes every column that is left as a label of zeros and ones, and these of {table.source} hold something "
            f"else: {names}. Name the columns of labels: label=COLUMN,label=COLUMN."
        )
    return MultiCategoryBlock(encoded=words.has_several_columns and not others)


def _groups_in_column(table: Table, column: int, *, image: int) -> tuple[list[str], list[Problem]]:
    """Return the group of each row that names an image; a row without one is a problem."""
    rows = [row for row, name in enumerate(table.column(image)) if not is_missing(name)]
    cells = table.column(column)
    absent = [row for row in rows if is_missing(cells[row])]
    what = f"no group in column {table.columns[column]!r}"
    problems = (
        [faulty_rows(table, absent, what, "Fill it in, or delete the row.")] if absent else []
    )
    return [str(cells[row]).strip() for row in rows], problems


def _choose_columns(
    table: Table, words: TableWords, *, taken: Sequence[int | None]
) -> tuple[int, list[int]]:
    """Return the columns of the image and of its label: those that are named, else by their names, else by their cells.

    Columns that are ``taken`` for other things are chosen only where they are named.
    """
    if len(table.columns) < 2:
        raise TableError(
            f"The table {table.source} has a single column, {', '.join(table.columns)!r}. "
            "It needs one for the image's path and one for its label."
        )
    by_name = {name.lower(): position for position, name in reversed([*enumerate(table.columns)])}

    def first(names: Sequence[str], used: Sequence[int | None]) -> int | None:
        found = (by_name[name] for name in names if name in by_name)
        return next((position for position in found if position not in used), None)

    every = words.label == (ALL_COLUMNS,) and ALL_COLUMNS not in table.columns
    named = [] if every else list(map(table.position, words.label))
    image = table.position(words.image) if words.image else first(IMAGE_COLUMNS, [*named, *taken])
    labels = named or [first(LABEL_COLUMNS, [image, *taken])]
    # An index that a program wrote has no name, or that of its kind.
    free = [p for p, name in enumerate(table.columns) if name and not name.startswith("Unnamed:")]
    free = [position for position in free if position not in taken]
    free = free if len(free) > 1 else list(range(len(table.columns)))
    if image is None:
        others = [position for position in free if position not in labels]
        files = (p for p in others if is_image_name(str(table.rows[0][p]).strip()))
        image = next(files, others[0])
    rest = [position for position in free if position != image]
    if every:
        return image, rest
    return image, [rest[0] if position is None else position for position in labels]


def _locate(
    cells: Sequence[object], *, folder: Path, notes: list[str], problems: list[Problem]
) -> list[Path]:
    """Return the file of each name: the path below ``folder``, else the only file below it that the name can mean.

    A name that was written on another system or changed on its way is found again by, in this order, its path with slashes,
    the file's name, its stem, both in any case, its number without leading zeros. How many were is a note.
    """
    names = list(map(str, cells))
    paths = [folder / name for name in names]
    absent = [position for position, path in enumerate(paths) if not os.path.isfile(path)]  # noqa: PTH113 (Path.is_file fails on names that are too long)
    if not absent:
        return paths
    try:
        below = get_image_files(folder)
    except DataError:  # no image there at all: the names are reported as missing
        return paths
    ways: list[tuple[str, Callable[[str], str]]] = [
        ("slashes and blanks", _plain),
        ("the file's name", _name),
        ("its name without the extension", lambda text: PurePosixPath(_name(text)).stem),
        ("its name in another case", lambda text: _name(text).casefold()),
        ("leading zeros", lambda text: _unpadded(PurePosixPath(_name(text)).stem)),
    ]
    written = [file.relative_to(folder).as_posix() for file in below]
    found = Counter[str]()
    twice: list[str] = []
    for what, key in ways:
        if not absent:
            break
        files: defaultdict[str, list[Path]] = defaultdict(list)
        for text, file in zip(written, below, strict=True):
            files[key(text)].append(file)
        left: list[int] = []
        for position in absent:
            candidates = files.get(key(names[position]), [])
            if len(candidates) == 1:
                paths[position] = candidates[0]
                found[what] += 1
            elif candidates:
                paths[position] = candidates[0]
                places = ", ".join(quoted(each.relative_to(folder)) for each in candidates[:3])
                twice.append(f"{names[position]!r} may be any of {len(candidates)}: {places}")
            else:
                left.append(position)
        absent = left
    notes += [f"{counted(number, 'image')} found by {what}" for what, number in found.items()]
    if twice:
        words = ("name means more than one image", "names mean more than one image")
        cure = f"Write the path below {quoted(folder)}."
        problems.append(listing(TableError, words, twice, cure))
    return paths


def _plain(text: str) -> str:
    """Return a path with slashes, without blanks around it, drive and dot; accents are single letters, as no Mac writes them."""
    plain = unicodedata.normalize("NFC", text.strip().replace("\\", "/"))
    return re.sub(r"^(?:[A-Za-z]:)?/*(?:\./)*", "", plain)


def _name(text: str) -> str:
    return _plain(text).rpartition("/")[2]


def _unpadded(stem: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", stem)


def _labels_to_refuse(table: Table, label: int, *, image: int) -> list[Problem]:
    """Return the problem of a column that holds something else than one class for each image; nothing is guessed then."""
    column, name = [str(cell).strip() for cell in table.column(label)], table.columns[label]
    about = f"Column {name!r} of {table.source}"
    empty = [row for row, cell in enumerate(column) if cell in _MISSING_WORDS]
    problems: list[Problem] = []
    if empty:
        words = (
            f"label of column {name!r} is a missing value",
            f"labels of column {name!r} are missing values",
        )
        entries = [f"row {table.numbers[row]}: {column[row]!r}" for row in empty]
        problems.append(listing(LabelError, words, entries, "Fill them in, or delete the rows."))
    filled = [cell for cell in column if cell]
    if not filled:
        return problems

    def refuse(what: str, words: str, python: str) -> None:
        way = f'Say so: --labels "csv:FILE,{words}"; in Python ImageDataLoaders.from_csv(..., {python}).'
        problems.append(Problem(kind=LabelError, text=f"{what} {way}"))

    others = [place for place in range(len(table.columns)) if place != image]
    zero_one = [
        table.columns[place] for place in others if {*map(str, table.column(place))} <= {"0", "1"}
    ]
    if len(zero_one) > 1 and len(zero_one) == len(others):
        refuse(
            f"The columns {', '.join(map(repr, zero_one))} of {table.source} hold zeros and ones: an image can have several "
            "of these labels, and one column cannot say which.",
            "label=*",
            f"label_col={zero_one!r}, y_block=MultiCategoryBlock(encoded=True)",
        )
    for delimiter in "|; ":
        if holds_lists(filled, delimiter):
            example = next(cell for cell in filled if delimiter in cell)
            refuse(
                f"{about} holds lists of labels, such as {example!r}.",
                f"label={name},delimiter={delimiter.strip() or repr(delimiter)}",
                f"label_col={name!r}, label_delim={delimiter!r}",
            )
    if all(re.fullmatch(r"-?\d+\.\d+(?:[eE][-+]?\d+)?", cell) for cell in filled):
        refuse(
            f"{about} holds decimal numbers, such as {filled[0]}: they are measured, not classes.",
            f"label={name},kind=number",
            f"label_col={name!r}, y_block=RegressionBlock",
        )
    return problems


_MISSING_WORDS = frozenset(("nan", "NaN", "NAN", "<NA>", "NULL", "N/A", "#N/A"))
"""What programs write for a missing value. ``none`` and ``None`` may be the name of a class."""
