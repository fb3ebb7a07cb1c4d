"""PictureCache: makes each picture once, keeps within its budget, notices changed files."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vizsla.data.cache.cache import CacheMode, PictureCache, expected_bytes
from vizsla.data.cache.key import PictureKey
from vizsla.data.images.sizing import Resize
from vizsla.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from pathlib import Path


def key_of(number: int) -> PictureKey:
    return PictureKey(path=str(number), num_bytes=1, modified_ns=2, preparation="whole")


class Maker:
    """Makes pictures of 300 bytes and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> np.ndarray:
        self.count += 1
        return np.full((10, 10, 3), self.count, np.uint8)


def test_a_picture_is_made_once():
    cache, make = PictureCache(budget_bytes=1000), Maker()
    first, second = cache.get(key_of(0), make), cache.get(key_of(0), make)
    assert second is first
    assert make.count == 1


def test_it_stops_storing_at_its_budget_and_still_gives_pictures():
    cache, make = PictureCache(budget_bytes=700), Maker()
    for _ in range(2):
        for number in range(3):
            cache.get(key_of(number), make)
    assert make.count == 4
    assert cache.describe() == "cache auto: 2 pictures, 0.0 MB in memory of at most 0.0 MB"


def test_off_stores_nothing():
    cache, make = PictureCache(mode="off", budget_bytes=1000), Maker()
    cache.get(key_of(0), make)
    cache.get(key_of(0), make)
    assert make.count == 2
    assert cache.describe() == "cache off: every picture is decoded each time"


def test_what_it_gives_cannot_be_written_to():
    for cache in (PictureCache(), PictureCache(mode="off")):
        picture = cache.get(key_of(0), Maker())
        with pytest.raises(ValueError, match="read-only"):
            picture[0, 0, 0] = 9


def test_an_error_passes_through_and_nothing_is_kept():
    cache, make = PictureCache(budget_bytes=1000), Maker()

    def fail() -> np.ndarray:
        raise PictureError("broken")

    with pytest.raises(PictureError, match="broken"):
        cache.get(key_of(0), fail)
    cache.get(key_of(0), make)
    assert make.count == 1


def test_threads_that_ask_at_once_get_equal_pictures_and_the_bytes_are_counted_once():
    cache = PictureCache(budget_bytes=650)
    together = threading.Barrier(4)

    def make() -> np.ndarray:
        together.wait(timeout=10)
        return np.zeros((10, 10, 3), np.uint8)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.get(key_of(0), make), range(4)))
    assert cache.get(key_of(1), Maker()) is cache.get(key_of(1), Maker())


def test_a_changed_file_or_another_preparation_has_another_key(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before = PictureKey.of_file(path, preparation="centred 224")
    assert PictureKey.of_file(path, preparation="centred 224") == before
    assert PictureKey.of_file(path, preparation="strip 224") != before
    os.utime(path, ns=(1, 1))
    assert PictureKey.of_file(path, preparation="centred 224") != before


def test_budgets_are_stated_shares_of_the_free_memory():
    auto, memory = PictureCache().budget_bytes, PictureCache(mode="memory").budget_bytes
    assert auto > 0
    assert memory == pytest.approx(3 * auto, rel=0.2)
    assert PictureCache(mode="off").budget_bytes == 0


def test_unknown_modes_and_negative_budgets_are_refused():
    with pytest.raises(ConfigError, match=r"'disc'\. Use one of auto, memory, disk, off, device"):
        PictureCache(mode="disc")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(ConfigError, match="at least 0"):
        PictureCache(budget_bytes=-1)


# ── modes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_file_takes_the_room_of_its_earlier_state():
    cache, make = PictureCache(mode="memory", budget_bytes=300), Maker()
    for modified_ns in (1, 2, 2):
        cache.get(replace(key_of(0), modified_ns=modified_ns), make)
    assert make.count == 2
    assert cache.describe() == "cache memory: 1 pictures, 0.0 MB in memory of at most 0.0 MB"


@pytest.mark.parametrize("mode", ["memory", "disk", "device"])
def test_every_mode_gives_the_same_read_only_pixels(mode: CacheMode, tmp_path: Path):
    cache, make = PictureCache(mode=mode, budget_bytes=10**6, folder=tmp_path), Maker()
    first = cache.get(key_of(0), make)
    second = cache.get(key_of(0), make)
    assert np.array_equal(first, second)
    assert make.count == 1
    assert not second.flags.writeable
    assert cache.kind == mode
    assert cache.describe().startswith(f"cache {mode}: 1 pictures, 0.0 MB ")


def test_auto_takes_memory_if_everything_fits_there(tmp_path: Path):
    cache = PictureCache(expected_bytes=10**6, budget_bytes=2 * 10**6, folder=tmp_path)
    assert cache.kind == "memory"
    assert cache.describe() == (
        "cache auto: 0 pictures, 0.0 MB in memory of at most 2.0 MB (1.0 MB needed)"
    )


def test_auto_takes_the_disk_if_memory_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vizsla.data.cache.cache.free_memory_bytes", lambda: 400_000)
    assert PictureCache(expected_bytes=100_000, folder=tmp_path).kind == "memory"
    cache = PictureCache(expected_bytes=100_001, folder=tmp_path)
    assert cache.kind == "disk"
    assert str(tmp_path) in cache.describe()


def test_auto_keeps_in_memory_what_it_can_if_nothing_has_room_for_all(tmp_path: Path):
    cache = PictureCache(expected_bytes=10**7, budget_bytes=10**6, folder=tmp_path)
    assert (cache.kind, cache.budget_bytes) == ("memory", 10**6)


def test_auto_is_off_where_nearly_nothing_fits_and_says_why(tmp_path: Path):
    cache = PictureCache(expected_bytes=10**9, budget_bytes=10**6, folder=tmp_path)
    assert cache.kind == "off"
    assert cache.describe() == (
        "cache auto, no room (1.0 GB needed): every picture is decoded each time"
    )


def test_auto_does_without_a_disk_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vizsla.data.cache.cache.free_memory_bytes", lambda: 400_000)
    (tmp_path / "file").write_text("")
    cache = PictureCache(expected_bytes=200_000, folder=tmp_path / "file" / "x")
    assert cache.kind == "memory"


def test_what_pictures_will_take_is_reckoned():
    assert expected_bytes(Resize(10), num_centred=2, num_strips=4) == 300 * (2 + 6)
    assert expected_bytes(Resize(10, "squish"), num_centred=2, num_strips=4) == 300 * 6
    assert expected_bytes(None, num_centred=2, num_strips=4) is None
