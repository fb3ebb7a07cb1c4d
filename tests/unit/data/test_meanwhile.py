"""Pictures that will be wanted are read meanwhile, and nothing is said of those that cannot be."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.data.cache.cache import CacheMode, PictureCache
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.loader import PictureLoader, reading_meanwhile
from vizsla.errors import PictureError
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def loader_of(paths: list[Path], *, mode: CacheMode = "device", workers: int = 4) -> PictureLoader:
    table = PictureTable(
        root=paths[0].parent,
        paths=tuple(paths),
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("picture",),
        train_rows=torch.arange(0),
        valid_rows=torch.arange(len(paths)),
    )
    reader = PictureReader(resize=Resize(16), cache=PictureCache(mode=mode, device="cpu"))
    return PictureLoader(
        table, table.valid_rows, reader=reader, batch_size=2, training=False, num_workers=workers
    )


@pytest.fixture
def paths(make_picture: Callable[..., Path]) -> list[Path]:
    return [make_picture(f"{number}.jpg", size=(20, 30)) for number in range(5)]


def reading_threads() -> list[threading.Thread]:
    names = "vizsla-reader", "vizsla-meanwhile"
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def wait_until_read(loader: PictureLoader, count: int) -> None:
    for _ in range(1000):
        if loader.reader.cache.describe().startswith(f"cache device: {count} pictures"):
            return
        threading.Event().wait(0.01)
    pytest.fail(loader.reader.cache.describe())


def test_the_pictures_are_there_afterwards_and_the_threads_are_gone(paths: list[Path]):
    loader = loader_of(paths)
    with reading_meanwhile(loader):
        wait_until_read(loader, 5)
    assert not reading_threads()
    for path in paths:
        assert loader.reader.place(path, training=False) is not None
    found = torch.cat([batch.images for batch in loader.batches()])
    expected = torch.cat([batch.images for batch in loader_of(paths, mode="off").batches()])
    assert torch.equal(found, expected)


def test_it_ends_early_where_nobody_waits_any_more(paths: list[Path]):
    loader = loader_of(paths * 200)
    with reading_meanwhile(loader):
        pass
    assert not reading_threads()


def test_a_bad_picture_is_left_for_who_wants_it(paths: list[Path]):
    paths[2].write_bytes(b"\xff\xd8\xff nothing")
    loader = loader_of(paths)
    with reading_meanwhile(loader):
        wait_until_read(loader, 4)
    with pytest.raises(PictureError, match=r"2\.jpg"):
        list(loader.batches())


@pytest.mark.parametrize(("mode", "workers"), [("memory", 4), ("off", 4), ("device", 2)])
def test_where_it_would_not_help_nothing_is_read(paths: list[Path], mode: CacheMode, workers: int):
    loader = loader_of(paths, mode=mode, workers=workers)
    with reading_meanwhile(loader):
        assert not reading_threads()
