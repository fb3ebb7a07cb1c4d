"""Tables of image files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from vizsla.types import ImageTable


@pytest.fixture
def odd_names() -> list[str]:
    """Unusual names that the file system allows."""
    names = ["with space.png", "quo'te\".png", "new\nline.png", "été 犬.png"]
    if sys.platform == "linux":  # Other systems refuse names that are not valid text.
        names.append(os.fsdecode(b"caf\xe9.png"))
    return names


@pytest.fixture
def table(image_folder: Path, table_of: Callable[..., ImageTable]) -> ImageTable:
    """The 12 crosses and 12 discs, all of them for training."""
    return table_of(sorted(image_folder.glob("*/*.jpg")))


@pytest.fixture
def table_of() -> Callable[..., ImageTable]:
    """Return a function that makes a table of image files, labelled by their folders, all of them for training."""

    def make(
        paths: Sequence[Path], *, train: Sequence[int] | None = None, valid: Sequence[int] = ()
    ) -> ImageTable:
        vocab = tuple(sorted({path.parent.name for path in paths}))
        return ImageTable(
            root=paths[0].parents[1],
            paths=tuple(paths),
            targets=torch.tensor([vocab.index(path.parent.name) for path in paths]),
            vocab=vocab,
            train_rows=torch.tensor(range(len(paths)) if train is None else train).long(),
            valid_rows=torch.tensor(valid).long(),
        )

    return make


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes empty files of these names, for what opens no image."""

    def make_files(*names: str) -> Path:
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return make_files
