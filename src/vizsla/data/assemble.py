"""Labelled pictures and a split in, a checked ``PictureTable`` out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.data.check import class_problems, label_problems, missing_files, repeated_pictures
from vizsla.data.labels import UNKNOWN_CLASS, LabelledPictures, build_vocab, label_text
from vizsla.data.problems import raise_problems
from vizsla.types import UNLABELLED, PictureTable

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    own_labels = [
        pictures.labels[position]
        for position in train
        if label_text(pictures.labels[position]) is not None
    ]
    names = own_labels if vocab is None else vocab
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
        known = [label_text(label) or "" for label in pictures.labels]
    problems += class_problems(pictures, train=train, valid=valid, vocab=known)
    raise_problems(problems)
    index = {name: position for position, name in enumerate(classes)}
    unknown = index[UNKNOWN_CLASS] if add_na else UNLABELLED
    targets = [
        UNLABELLED if text is None else index.get(text, unknown)
        for text in map(label_text, pictures.labels)
    ]
    return PictureTable(
        root=pictures.root,
        paths=pictures.paths,
        targets=torch.tensor(targets, dtype=torch.int64),
        vocab=classes,
        train_rows=torch.tensor(list(train), dtype=torch.int64),
        valid_rows=torch.tensor(list(valid), dtype=torch.int64),
    )
