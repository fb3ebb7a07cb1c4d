"""Find images with their labels, split and groups in a folder or table, as words of the command line describe them."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vizsla.data.storage.patterns import names_shards
from vizsla.data.table.block import CategoryBlock, OutputBlock, RegressionBlock
from vizsla.data.table.check import listing
from vizsla.data.table.columns import (
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    block_of,
    choose_columns,
    groups_in_column,
    labels_to_refuse,
)
from vizsla.data.table.labels import (
    FOLDER_ADVICE,
    LabelledImages,
    RegexLabeller,
    advice_about,
    folder_labels,
    is_missing,
    take_labels,
    using_attr,
)
from vizsla.data.table.layout import layout_of
from vizsla.data.table.packed import packed_images
from vizsla.data.table.row_sources import RowTable, table_of_rows
from vizsla.data.table.shard_labels import labels_in_shards
from vizsla.data.table.sources import check_folder, holds_images, is_image_name, list_images
from vizsla.data.table.tables import (
    JSON_SUFFIXES,
    SAVE_AS_CSV,
    Table,
    images_of_table,
    locate_by_name,
    metadata_table,
    read_table,
)
from vizsla.data.table.words import TABLE_FORM, TableWords, table_words
from vizsla.errors import ConfigError, DataError, LabelError, Problem
from vizsla.paths import ImagePaths
from vizsla.text import counted, joined, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_OTHER_FILES = {
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"): " Unpack it, and give the folder.",
    (".parquet", ".xlsx", ".xls", ".feather", ".arrow"): f" {SAVE_AS_CSV}",
}  # fmt: skip
_NUMBERED_NAME = r"^(.+?)[ ._-]*\d+\.[^.]+$"
"""A class and a number, as in cat.0.jpg, beagle_17.png."""
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", *JSON_SUFFIXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
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


def find_images(data: Path, labels: str, label_level: int | None, group: str) -> Found:
    """List the images of a folder or table with their labels, as stated; the arguments are those of ``resolve_data``."""
    kind, _, rest = labels.partition(":")
    from_folders = labels in ("auto", "folder")
    is_table = data.is_file() and not names_shards(data)
    if label_level is not None and (is_table or not from_folders):
        raise ConfigError(
            "label_level chooses the level of folders that names the class, but here labels do not come from "
            f"folders. Received: label_level={label_level}, labels {labels!r}, data {quoted(data)}. Leave "
            "--label-level out."
        )
    if (rows := table_of_rows(data, labels, group)) is not None:
        return _find_in_rows(rows, group)
    words = table_words(labels)
    if is_table:
        if is_image_name(data.name):
            raise DataError(
                f"{quoted(data)} is an image. Give the folder of the images, or a CSV file."
            )
        if data.suffix.lower() not in _TABLE_SUFFIXES:
            way = next((way for ends, way in _OTHER_FILES.items() if data.name.lower().endswith(ends)), "")  # fmt: skip
            raise DataError(
                f"{quoted(data)} is neither a folder of images nor a table ({', '.join(_TABLE_SUFFIXES)}).{way}"
            )
        if (not from_folders and kind != "csv") or Path(words.file or data) != data:
            raise ConfigError(
                f"The data is a CSV file, so labels come from it: {quoted(data)}. Received: labels {labels!r}. "
                "Leave labels out, name its columns (labels csv:,image=COLUMN,label=COLUMN), or give a folder as "
                "the data."
            )
        return _find_in_table(read_table(data), data.parent, words, group)
    if labels == "auto" and label_level is None and (packed := packed_images(data)):
        images, splits, block = packed
        images, groups = _groups_in_paths(images, group) if group else (images, None)
        return Found(images=images, splits=splits, groups=groups, block=block)
    if not holds_images(data):
        check_folder(data)
    if labels == "auto" and label_level is None and (metadata := metadata_table(data)):
        return _find_in_metadata(metadata, data, group)
    if from_folders or labels == "cls" or kind == "json":
        label_files = "" if label_level is not None or labels == "folder" else labels
        return _find_in_folder(data, None, label_level, group, label_files=label_files)
    if labels == "none":
        found = _find_in_folder(data, _no_label, None, group)
        advice = "Label them: vizsla label DATA --labels none."
        return replace(found, images=replace(found.images, advice=advice))
    if labels == "name" or kind == "regex":
        return _find_in_folder(
            data, RegexLabeller(_NUMBERED_NAME if labels == "name" else rest), None, group
        )
    if kind == "csv":
        here, below = Path(words.file), data / words.file
        file = below if below.is_file() and not here.is_file() else here
        return _find_in_table(read_table(file), data, words, group)
    raise ConfigError(
        f"labels must be 'auto', 'folder', 'name', 'none', 'regex:PATTERN', {TABLE_FORM!r}, or for shards 'cls' "
        f"or 'json:FIELD'. Received: {labels!r}"
    )


def _no_label(_name: str) -> NoReturn:
    raise LabelError("it has no label yet")


def _find_in_folder(
    data: Path,
    labeller: Callable[[str], object] | None,
    label_level: int | None,
    group: str,
    *,
    label_files: str = "",
) -> Found:
    """Find images whose labels their names say, or ``label_files`` in shards, see ``labels_in_shards``."""
    listing = list_images(data)
    paths, in_doubt, data = listing.paths, listing.in_doubt, listing.root
    if label_files not in ("", "auto") and not listing.shards:
        raise ConfigError(
            f"Labels in .cls and .json files are for shards, but {quoted(data)} holds image files. Received: "
            f"labels {label_files!r}"
        )
    in_files = labels_in_shards(listing, label_files) if label_files and listing.shards else None
    need_classes = labeller is None and in_files is None
    layout = layout_of(paths, (data,), label_level=label_level, need_classes=need_classes)
    of_name = None if labeller is None else using_attr(labeller, "name")
    notes = (*listing.notes, *layout.notes)
    if in_files is not None:
        labels, advice = tuple(in_files[0]), f"Labels are read from {in_files[1]} in the shards."
        notes = (*notes, f"labels from {in_files[1]}")
    elif of_name:
        labels, advice = take_labels(paths, of_name), advice_about(of_name)
    else:
        labels = folder_labels(paths, layout.classes)
        advice = FOLDER_ADVICE + _hint_for_one_class(data, paths, layout.classes)
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
        advice=advice,
        notes=notes,
    ).without(beside)
    splits = splits and [split for split in splits if split]
    images, groups = _groups_in_paths(images, group) if group else (images, None)
    return Found(images=images, splits=splits, groups=groups)


def _groups_in_paths(
    images: LabelledImages, group: str
) -> tuple[LabelledImages, Sequence[str] | None]:
    """Return the group of each image, searched in its path below the root; a path without one is a problem."""
    kind, _, pattern = group.partition(":")
    if kind != "regex":
        raise ConfigError(
            "group must be 'regex:PATTERN', matched against image paths, or a column of the table of labels. "
            f"Received: group {group!r}, and no table"
        )
    root = images.root.as_posix()
    below = [path.removeprefix(f"{root}/") for path in ImagePaths.of(images.paths).texts()]
    found = take_labels(below, RegexLabeller(pattern))
    missed = [text for text, of in zip(below, found, strict=True) if isinstance(of, LabelError)]
    if missed:
        words = (f"path has no group {pattern!r}", f"paths have no group {pattern!r}")
        problem = listing(
            LabelError,
            words,
            list(map(quoted, missed)),
            "Correct the regular expression for groups.",
        )
        images = replace(images, problems=(*images.problems, problem))
    return images, list(map(str, found))


def _hint_for_one_class(data: Path, paths: ImagePaths, classes: Sequence[str]) -> str:
    """Return what may give classes where folders give one at most: the names of the files, or the folder above."""
    if len({*classes} - {""}) > 1:
        return ""
    if by_name := _classes_in_names(paths):
        return f" File names such as {paths[0].name!r} give {counted(by_name, 'class', 'classes')} with --labels name."
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


def _classes_in_names(paths: ImagePaths) -> int:
    """Return how many classes names like beagle_17.jpg tell apart; 0 where they do not look like classes."""
    found = (re.match(_NUMBERED_NAME, Path(text).name) for text in paths.texts())
    images_of = Counter(match[1] for match in found if match)
    # A name for each image or two is no class, and a few images with other names do not decide.
    telling = images_of.total() >= max(0.8 * len(paths), 3 * len(images_of))
    return len(images_of) if telling and len(images_of) > 1 else 0


def _find_in_metadata(table: Table, data: Path, group: str) -> Found:
    """Return what a table says that was found beside the images.

    Raises:
        DataError: Several columns may be the label, or folders name other classes.
    """
    used = ("file_name", *SPLIT_COLUMNS, group)
    others = [name for name in table.columns if name.lower() not in used]
    if len(others) > 1 and not {*map(str.lower, others)} & {*LABEL_COLUMNS}:
        raise DataError(
            f"Several columns of {table.source} may be the label: {', '.join(map(repr, others))}. Choose with "
            "--labels csv:FILE,label=COLUMN or --labels folder."
        )
    found = _find_in_table(table, data, TableWords(image="file_name"), group)
    if classes := _other_classes(data, found.images):
        raise DataError(
            f"Folders ({joined(classes, limit=5)}) and {table.source} both give labels, and they differ. Choose "
            "with --labels folder or --labels csv:FILE."
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


def _find_in_rows(rows: RowTable, group: str) -> Found:
    """Return the images of a Hugging Face dataset or of Parquet files; classes keep the order that their column gives them."""
    found = _find_in_table(rows.table, rows.folder, rows.words, group, locate=ImagePaths)
    images = replace(found.images, in_doubt=())
    own = [label if isinstance(label, list) else [label] for label in images.labels]
    known = {str(name): name for names in own for name in names if not is_missing(name)}
    vocab = [known[name.strip()] for name in rows.classes if name.strip() in known]
    block = replace(found.block, vocab=vocab) if vocab and not isinstance(found.block, RegressionBlock) else found.block  # fmt: skip
    return replace(found, images=images, block=block)


def _find_in_table(
    table: Table,
    folder: Path,
    words: TableWords,
    group: str,
    *,
    locate: Callable[[Sequence[Any]], Sequence[Path]] | None = None,
) -> Found:
    """Return the images of a table; ``locate`` gives their paths, None looks for their names below the folder."""
    if words.group and group not in ("", words.group):
        raise ConfigError(
            f"Groups are given twice; give them once. Received: group={words.group} among the labels, and group "
            f"{group!r}"
        )
    in_column = words.group or ("" if group.startswith("regex:") else group)
    group_column = table.position(in_column) if in_column else None
    split_columns = [name for name in table.columns if name.lower() in SPLIT_COLUMNS]
    split = table.position(split_columns[0]) if split_columns else None
    image_column, label_columns = choose_columns(table, words, taken=(group_column, split))
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
        locate=locate or partial(locate_by_name, folder=folder, notes=notes, problems=problems),
    )
    if not words.label and words.kind == "class":
        problems += labels_to_refuse(table, label_columns[0], image=image_column)
    block = block_of(words, table, label_columns)
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
        groups, missed = groups_in_column(table, group_column, image=image_column)
        problems += missed
    images = replace(
        images, notes=(*images.notes, told, *notes), problems=(*images.problems, *problems)
    )
    if group and group_column is None:
        images, groups = _groups_in_paths(images, group)
    found = Found(images=images, splits=splits, groups=groups, block=block)
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
