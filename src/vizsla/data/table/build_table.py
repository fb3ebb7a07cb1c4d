"""Labelled pictures and a split in, a checked ``PictureTable`` out: of one class each, of several labels, or of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.data.table.blocks import CategoryBlock, MultiCategoryBlock, OutputBlock, RegressionBlock
from vizsla.data.table.check import (
    class_problems,
    label_problems,
    missed_labels,
    missing_files,
    repeated_pictures,
    side_problems,
    unknown_classes,
)
from vizsla.data.table.labels import UNKNOWN_CLASS, LabelledPictures, build_vocab, class_texts
from vizsla.data.table.targets import (
    n_hot,
    number_targets,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
)
from vizsla.errors import ConfigError, DataError, LabelError, Problem, raise_problems
from vizsla.types import UNLABELLED, PictureTable, Task

if TYPE_CHECKING:
    from collections.abc import Sequence


def assemble_for(
    block: OutputBlock,
    pictures: LabelledPictures,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    names: Sequence[str] = (),
) -> PictureTable:
    """Build the table that a block asks for, or raise one error with everything that is wrong with the pictures.

    Args:
        block: Says what the labels are.
        pictures: Pictures and labels as found.
        train: Positions of the pictures to learn from.
        valid: Positions of the pictures to hold out. Pictures in neither set stay in the table; a label of theirs that
            cannot be used is not known.
        names: Of the columns that the labels stand in, where they do; they name numbers and zeros and ones.

    Raises:
        DataError: Something is wrong with files, labels or split.
        ConfigError: The block and the labels do not fit together.
    """
    if isinstance(block, CategoryBlock):
        return assemble_table(
            pictures,
            train=train,
            valid=valid,
            vocab=block.vocab,
            sort=block.sort,
            add_na=block.add_na,
        )
    if isinstance(block, MultiCategoryBlock):
        return _assemble_label_sets(block, pictures, train=train, valid=valid, names=names)
    return _assemble_numbers(block, pictures, train=train, valid=valid, names=names)


def assemble_table(
    pictures: LabelledPictures,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    vocab: Sequence[str] | None = None,
    sort: bool = True,
    add_na: bool = False,
) -> PictureTable:
    """Build the table of pictures, or raise one error with everything that is wrong with them.

    Args:
        pictures: Pictures and labels as found.
        train: Positions of the pictures to learn from.
        valid: Positions of the pictures to hold out. Pictures in neither set stay in the table; a label of theirs that is
            missing or no class becomes ``UNLABELLED``.
        vocab: The classes, in their order; ``None`` takes them from the training pictures.
        sort: Whether to sort the classes, where they come from the pictures.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.

    Raises:
        DataError: Something is wrong with files, labels or split.
    """
    used = sorted({*train, *valid})
    texts = class_texts(pictures.labels)
    own_labels = (pictures.labels[position] for position in train if texts[position] is not None)
    names = dict.fromkeys(own_labels) if vocab is None else vocab
    raw_vocab = build_vocab(names, sort=sort and vocab is None, add_na=add_na)
    classes = tuple(dict.fromkeys(str(name) for name in raw_vocab))
    problems = [
        *pictures.problems,
        *missing_files(pictures),
        *repeated_pictures(pictures),
        *label_problems(pictures, used),
    ]
    known = classes
    if add_na:  # then every label has a class
        known = [text or "" for text in texts]
    problems += class_problems(pictures, train=train, valid=valid, vocab=known)
    untrainable = raise_problems(problems, before_training=pictures.before_training)
    index = {name: position for position, name in enumerate(classes)}
    unknown = index[UNKNOWN_CLASS] if add_na else UNLABELLED
    targets = [UNLABELLED if text is None else index.get(text, unknown) for text in texts]
    return _table(
        pictures,
        train=train,
        valid=valid,
        targets=torch.tensor(targets, dtype=torch.int64),
        vocab=classes,
        task="category",
        untrainable=untrainable,
    )


def _assemble_label_sets(
    block: MultiCategoryBlock,
    pictures: LabelledPictures,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    names: Sequence[str],
) -> PictureTable:
    given = tuple(map(str, block.vocab)) if block.vocab is not None else None
    if block.encoded:
        given = given or tuple(names)
        if not given:
            raise ConfigError(
                "MultiCategoryBlock(encoded=True) needs vocab, the names of the classes that the zeros and ones stand for. "
                "Received: vocab=None"
            )
        labels = [read_encoded(label, given) for label in pictures.labels]
    else:
        labels = list(map(read_label_set, pictures.labels))
    pictures = replace(pictures, labels=tuple(labels))
    train_labels = [labels[position] for position in train]
    seen = [name for label in train_labels if isinstance(label, tuple) for name in label]
    raw_vocab = build_vocab(
        seen if given is None else given, sort=given is None, add_na=block.add_na
    )
    vocab = tuple(dict.fromkeys(map(str, raw_vocab)))
    problems = _common_problems(pictures, train=train, valid=valid)
    if not block.add_na:  # else every label has a class
        problems += unknown_classes(pictures, train=train, valid=valid, vocab=vocab, several=True)
    if not vocab and train and not problems:
        text = f"None of the {len(train)} training pictures has a class; all lists of labels are empty. {pictures.advice}"
        problems.append(Problem(kind=LabelError, text=text.rstrip()))
    untrainable = raise_problems(problems, before_training=pictures.before_training)
    return _table(
        pictures,
        train=train,
        valid=valid,
        targets=n_hot(labels, vocab, unknown=vocab.index(UNKNOWN_CLASS) if block.add_na else None),
        vocab=vocab,
        task="multi_category",
        untrainable=untrainable,
    )


def _assemble_numbers(
    block: RegressionBlock,
    pictures: LabelledPictures,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    names: Sequence[str],
) -> PictureTable:
    numbers = same_length(list(map(read_numbers, pictures.labels)), expected=block.n_out)
    pictures = replace(pictures, labels=tuple(numbers))
    problems = _common_problems(pictures, train=train, valid=valid)
    untrainable = raise_problems(problems, before_training=pictures.before_training)
    num_numbers = len(next(label for label in numbers if not isinstance(label, LabelError)))
    vocab = tuple(names)
    if len(vocab) != num_numbers:
        vocab = tuple(f"value_{place}" for place in range(num_numbers))
        vocab = vocab if num_numbers > 1 else ("value",)
    return _table(
        pictures,
        train=train,
        valid=valid,
        targets=number_targets(numbers, num_numbers=num_numbers),
        vocab=vocab,
        task="regression",
        untrainable=untrainable,
    )


def _common_problems(
    pictures: LabelledPictures, *, train: Sequence[int], valid: Sequence[int]
) -> list[Problem]:
    return [
        *pictures.problems,
        *missing_files(pictures),
        *repeated_pictures(pictures),
        *missed_labels(pictures, sorted({*train, *valid})),
        *side_problems(train, valid),
    ]


def _table(
    pictures: LabelledPictures,
    *,
    train: Sequence[int],
    valid: Sequence[int],
    targets: Tensor,
    vocab: tuple[str, ...],
    task: Task,
    untrainable: DataError | None,
) -> PictureTable:
    return PictureTable(
        root=pictures.root,
        paths=pictures.paths,
        targets=targets,
        vocab=vocab,
        train_rows=torch.tensor(list(train), dtype=torch.int64),
        valid_rows=torch.tensor(list(valid), dtype=torch.int64),
        task=task,
        untrainable=untrainable,
    )
