"""Turn what the command line is given, a folder or CSV file and words for labels and split, into a checked table."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.data.images.duplicates import same_files
from vizsla.data.images.near_duplicates import find_near_duplicates
from vizsla.data.storage.storage import absolute, is_there
from vizsla.data.table.block import (
    CategoryBlock,
    MultiCategoryBlock,
    OutputBlock,
    RegressionBlock,
    fixed_images,
)
from vizsla.data.table.check import file_problems, listing, scarce_classes
from vizsla.data.table.find_labels import Found, find_images
from vizsla.data.table.fixes import given_fixes
from vizsla.data.table.labels import LabelledImages, class_texts, names_of, targets_in
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import (
    balanced_group_split,
    keep_together,
    positions_of,
    rarest_class_split,
    stratified_split,
)
from vizsla.errors import ConfigError, DataError, LabelError, Problem, raise_problems
from vizsla.paths import ImagePaths, is_address
from vizsla.text import counted, joined, quoted
from vizsla.types import UNLABELLED, ImageTable, Task, is_labelled

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from vizsla.data.table.fixes import Fixes
    from vizsla.types import Fix

DEFAULT_VALID_FRACTION = 0.2


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
        data: A folder of images; tar shards, as ``shards/{000..099}.tar``, with ``*``, or the folder that holds them and no image; a
            folder or shards at an address that fsspec reads (``s3://...``); a folder that ``pack`` wrote; a CSV file (``labels`` is then
            ``csv:`` with that file); a Parquet file or a folder of them, a folder that ``save_to_disk`` of ``datasets`` wrote, or
            ``hf:OWNER/NAME`` (``labels`` is then ``"auto"`` or ``hf:COLUMN``, followed by words as for a table).
        labels: Where labels come from. ``"auto"``: files ``metadata.csv`` or ``metadata.jsonl`` beside the images, see
            ``metadata_table``, else the folders; refused where they contradict one another. ``"folder"``: the folders, see
            ``label_level``. ``"name"``: the file name before its number, ``beagle_17.jpg`` or ``cat.0.jpg``. ``"none"``: nowhere, only
            fixes name classes. ``"regex:PATTERN"``: the first group of the expression, searched in the file name.
            ``"csv:FILE[,image=COLUMN][,label=COLUMN]"``: a table; its images are found by their path below ``data`` (or the CSV
            file's folder), else by their file name or stem anywhere below it. Columns that are not named are chosen by
            ``IMAGE_COLUMNS`` and ``LABEL_COLUMNS``.
            ``delimiter=TEXT`` after these means that an image has several labels, separated by it; several times
            ``label=COLUMN``, or ``label=*`` for all columns left, that each column is a label (zeros and ones) or holds
            one; ``kind=number`` that numbers are predicted.
            Of shards also ``"cls"`` and ``"json:FIELD"``, the files beside the images, see ``labels_in_shards``; ``"auto"`` takes
            these where there are any.
        valid: ``"auto"`` keeps the split that the data states: a column ``is_valid`` or ``split``, or folders under the
            usual names (``layout.SPLIT_WORDS``); without one a fifth is held out, of each class where an image has one, and
            of the images of each rare label where it has several. A number between 0 and 1, or ``"20%"``, holds out that part, and is
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
            that every image without a fix is where it would be without all of them. Images that they add go to training.
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
            f"min_per_class must be 'auto' or a number of images of at least 1. Received: {min_per_class!r}"
        )
    level = None if label_level == "auto" else label_level
    find_near = group == "auto"
    fixes = given_fixes(fixes)
    found = find_images(Path(data), labels, level, "" if find_near else group)
    num_own = len(found.images.paths)
    found = _with_added(found, fixes)
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
            f"The data is already split: {splits.count('train'):,} images for training and {splits.count('valid'):,} for "
            f"validation. Received: valid={valid}. Leave valid out to keep this split, or draw a new one from all of these images "
            f"with pool:{valid} (--valid pool:{valid})."
        )
    all_positions = range(len(images.paths))
    divided = [p for p in all_positions[:num_own] if splits is None or splits[p] != "test"]
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
            notes.append("images keep the set they had in the earlier training")
    images = replace(
        images,
        by_chance=groups is None and not is_class,
        train=[*(divided[position] for position in train), *all_positions[num_own:]],
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


def _with_added(found: Found, fixes: Sequence[Fix]) -> Found:
    """Return what was found and the images elsewhere that fixes add: training images, each a group of its own."""
    root = found.images.root
    places = [
        absolute(fix.path if is_address(fix.path) else root / fix.path)
        for fix in fixes
        if fix.action == "add"
    ]
    if not places:
        return found
    own = set(map(absolute, ImagePaths.of(found.images.paths).texts()))
    added = [place for place in dict.fromkeys(places) if place not in own and is_there(place)]
    if not added:
        return found
    splits, groups = found.splits, found.groups
    return replace(
        found,
        images=found.images.with_unlabelled(added),
        splits=None if splits is None else [*splits, *["train"] * len(added)],
        groups=None if groups is None else [*groups, *added],
    )


def images_to_label(
    data: Path | str,
    *,
    labels: str = "auto",
    label_level: int | Literal["auto"] = "auto",
    unlabelled: Path | str | None = None,
) -> tuple[LabelledImages, int]:
    """Find images with the class of each, where it has one, for a person to look at.

    Args:
        data: As for ``resolve_data``; also a folder in which no image has a label.
        labels: As for ``resolve_data``.
        label_level: As for ``resolve_data``.
        unlabelled: A folder of further images, without labels.

    Returns:
        The images, those of ``data`` first, and how many these are.

    Raises:
        DataError: The images cannot be found, or a file is missing.
        ConfigError: Images have several labels or numbers.
    """
    found = find_images(Path(data), labels, None if label_level == "auto" else label_level, "")
    if not isinstance(found.block, CategoryBlock):
        raise ConfigError(
            f"Only data with one class per image can be labelled here. Received labels for the task {found.block.task!r}: "
            f"labels {labels!r}. Write corrections to a CSV file of fixes instead."
        )
    images = found.images
    raise_problems([*images.problems, *file_problems(images)])
    num_own = len(images.paths)
    if unlabelled is None:
        return images, num_own
    own = {os.path.realpath(text) for text in ImagePaths.of(images.paths).texts()}
    more = map(absolute, get_image_files(unlabelled))
    return images.with_unlabelled(
        path for path in more if os.path.realpath(path) not in own
    ), num_own


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
    note = f"{len(torn):,} {are} in both training and validation, as split in the data: {joined(shown, limit=3)}"
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
        f"{counted(len(moved), 'image')} moved so that no {what} is in both training and validation"
    )
    problems = images.problems
    if drawn[1] and not valid:
        text = (
            f"All {counted(len(drawn[1]), 'image')} drawn for validation are {what}s of training images, so none "
            "are left for validation. Add different images, or make the split yourself with folders train and "
            "valid."
        )
        problems = (*problems, Problem(kind=DataError, text=text))
    return replace(images, notes=(*images.notes, note), problems=problems)


Part = Literal["auto", "train", "valid", "test", "all"]
"""Which images of labelled data to evaluate on; ``auto``: ``test`` where the data has such a part, else ``valid``, else all."""


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
    found = find_images(Path(data), labels, None if label_level == "auto" else label_level, group)
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
            f"The data has no part {part!r}. Choose one of: {', '.join(['auto', 'all', *parts])}."
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
        cure = (
            f"The model's classes are {', '.join(map(repr, vocab[:20]))}. Correct the labels, or remove the "
            "images."
        )
        problems.append(listing(LabelError, words, entries, cure))
    raise_problems(problems)
    of_part = "all images" if chosen == "all" else f"part {chosen!r}"
    notes = [f"evaluated on {of_part}, {counted(len(judged), 'image')}"]
    if trained_on:  # a real path is several calls of the system
        looked_at = range(len(images.paths)) if groups else judged
        paths = ImagePaths.of(images.paths)
        known = {p for p in looked_at if os.path.realpath(paths.text(p)) in trained_on}
        torn = {groups[p] for p in known} if groups else {*()}
        of_groups = [p for p in judged if p not in known and groups and groups[p] in torn]
        if seen := len(known.intersection(judged)):
            notes.append(f"skipped {counted(seen, 'image')} that the model was trained on")
        if of_groups:
            notes.append(
                f"skipped {counted(len(of_groups), 'image')} in groups that the model was trained on"
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
    words = (
        "group is in both training and validation",
        "groups are in both training and validation",
    )
    cure = "Move each into one set, or draw another split by groups: --valid pool:0.2."
    return [listing(DataError, words, list(map(repr, torn)), cure)]


def _valid_fraction(valid: float | str) -> tuple[float | None, bool]:
    """Return the part to hold out, None for what the data states, and whether its own split is to be pooled."""
    if valid == "auto":
        return None, False
    text = str(valid)
    try:
        number = text.removeprefix("pool:")
        fraction = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise ConfigError(
            "valid must be the share of each class to hold out, such as 0.2 or 20%; pool:20% to draw a new split of data that is "
            f"already split; or auto. Received: {valid}"
        )
    return fraction, text.startswith("pool:")
