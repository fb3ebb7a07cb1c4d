"""Build the table that everything else reads: labelled images and a split, checked, with targets of the task.

One function for each task: one class per image, a list of classes, or numbers. Each raises one error with everything that is
wrong with the images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vizsla.data.table.check import (
    class_problems,
    label_problems,
    missed_labels,
    missing_files,
    repeated_images,
    side_problems,
    unknown_classes,
)
from vizsla.data.table.labels import UNKNOWN_CLASS, build_vocab, class_texts
from vizsla.data.table.targets import (
    n_hot,
    number_targets,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
)
from vizsla.errors import ConfigError, LabelError, Problem, raise_problems
from vizsla.types import UNLABELLED, ImageTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from vizsla.data.table.labels import LabelledImages
    from vizsla.types import Task


def class_table(
    images: LabelledImages,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    vocab: Sequence[str] | None = None,
    sort: bool = True,
    add_na: bool = False,
) -> ImageTable:
    """Return the table of images that have one class each.

    Args:
        images: Images and labels as found.
        train: Positions of the images to learn from.
        valid: Positions of the images to hold out. Images in neither set stay in the table; a label of theirs that is
            missing or no class becomes ``UNLABELLED``.
        vocab: The classes, in their order; ``None`` takes them from the training images.
        sort: Whether to sort the classes, where they come from the images.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.

    Raises:
        DataError: Something is wrong with files, labels or split.
    """
    texts = class_texts(images.labels)
    own_labels = (images.labels[position] for position in train if texts[position] is not None)
    names = dict.fromkeys(own_labels) if vocab is None else vocab
    classes = _class_names(names, sort=sort and vocab is None, add_na=add_na)
    known = [text or "" for text in texts] if add_na else classes  # every label has a class then
    problems = [
        *_file_problems(images),
        *label_problems(images, sorted({*train, *valid})),
        *class_problems(images, train=train, valid=valid, vocab=known),
    ]
    index = {name: position for position, name in enumerate(classes)}
    unknown = index[UNKNOWN_CLASS] if add_na else UNLABELLED
    targets = [UNLABELLED if text is None else index.get(text, unknown) for text in texts]
    return _checked_table(
        images,
        problems,
        train=train,
        valid=valid,
        targets=torch.tensor(targets, dtype=torch.int64),
        vocab=classes,
        task="category",
    )


def class_list_table(
    images: LabelledImages,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    vocab: Sequence[str] | None = None,
    encoded: bool = False,
    add_na: bool = False,
) -> ImageTable:
    """Return the table of images that have a list of classes each; see ``class_table``.

    Raises:
        DataError: Something is wrong with files, labels or split.
        ConfigError: Labels are encoded and there is no ``vocab``.
    """
    if encoded:
        if not vocab:
            raise ConfigError(
                "MultiCategoryBlock(encoded=True) needs vocab, the names of the classes that the zeros and ones stand for. "
                "Received: vocab=None"
            )
        given = tuple(map(str, vocab))
        labels = [read_encoded(label, given) for label in images.labels]
    else:
        given = None if vocab is None else tuple(map(str, vocab))
        labels = list(map(read_label_set, images.labels))
    images = replace(images, labels=tuple(labels))
    train_labels = [labels[position] for position in train]
    seen = [name for label in train_labels if isinstance(label, tuple) for name in label]
    classes = _class_names(seen if given is None else given, sort=given is None, add_na=add_na)
    problems = _problems_of_lists(images, train=train, valid=valid)
    if not add_na:  # else every label has a class
        problems += unknown_classes(images, train=train, valid=valid, vocab=classes, several=True)
    if not classes and train and not problems:
        text = f"None of the {len(train)} training images has a class; all lists of labels are empty. {images.advice}"
        problems.append(Problem(kind=LabelError, text=text.rstrip()))
    return _checked_table(
        images,
        problems,
        train=train,
        valid=valid,
        targets=n_hot(labels, classes, unknown=classes.index(UNKNOWN_CLASS) if add_na else None),
        vocab=classes,
        task="multi_category",
    )


def number_table(
    images: LabelledImages,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    n_out: int | None = None,
    names: Sequence[str] = (),
) -> ImageTable:
    """Return the table of images that have a number each, or several; see ``class_table``.

    Args:
        images: Images and labels as found.
        train: Positions of the images to learn from.
        valid: Positions of the images to hold out.
        n_out: How many numbers each image must have; ``None`` is as many as most have.
        names: Of the numbers; of another length than these they are not used.

    Raises:
        DataError: Something is wrong with files, labels or split.
    """
    numbers = same_length(list(map(read_numbers, images.labels)), expected=n_out)
    images = replace(images, labels=tuple(numbers))
    problems = _problems_of_lists(images, train=train, valid=valid)
    num_numbers = next((len(label) for label in numbers if isinstance(label, tuple)), 1)
    vocab = tuple(names)
    if len(vocab) != num_numbers:
        vocab = tuple(f"value_{place}" for place in range(num_numbers))
        vocab = vocab if num_numbers > 1 else ("value",)
    return _checked_table(
        images,
        problems,
        train=train,
        valid=valid,
        targets=number_targets(numbers, num_numbers=num_numbers),
        vocab=vocab,
        task="regression",
    )


def _class_names(labels: Iterable[object], *, sort: bool, add_na: bool) -> tuple[str, ...]:
    vocab = build_vocab(labels, sort=sort, add_na=add_na)
    return tuple(dict.fromkeys(map(str, vocab)))


def _file_problems(images: LabelledImages) -> list[Problem]:
    return [*images.problems, *missing_files(images), *repeated_images(images)]


def _problems_of_lists(
    images: LabelledImages, *, train: Sequence[int], valid: Sequence[int]
) -> list[Problem]:
    return [
        *_file_problems(images),
        *missed_labels(images, sorted({*train, *valid})),
        *side_problems(train, valid),
    ]


def _checked_table(
    images: LabelledImages,
    problems: Sequence[Problem],
    *,
    train: Sequence[int],
    valid: Sequence[int],
    targets: Tensor,
    vocab: tuple[str, ...],
    task: Task,
) -> ImageTable:
    untrainable = raise_problems(problems, before_training=images.before_training)
    return ImageTable(
        root=images.root,
        paths=images.paths,
        targets=targets,
        vocab=vocab,
        train_rows=torch.tensor(list(train), dtype=torch.int64),
        valid_rows=torch.tensor(list(valid), dtype=torch.int64),
        task=task,
        untrainable=untrainable,
    )
