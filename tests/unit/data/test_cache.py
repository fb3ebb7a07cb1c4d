"""ImageCache and DiskStore: each image is made once, budgets hold, changed and damaged files are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vizsla import ConfigError, OutputError, Resize
from vizsla.data.cache import (
    CacheMode,
    DiskStore,
    ImageCache,
    ImageKey,
    cache_folder,
    clear_disk_cache,
    disk_use,
    expected_bytes,
)
from vizsla.data.images import ImageReader
from vizsla.data.storage import facts_of


def key_of(number: int) -> ImageKey:
    return ImageKey(path=str(number), num_bytes=1, modified_ns=2, preparation="whole")


class Maker:
    """Makes images of 300 bytes and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> np.ndarray:
        self.count += 1
        return np.full((10, 10, 3), self.count, np.uint8)


def get(cache: ImageCache, key: ImageKey, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an image from the cache, or make it and offer it to the cache."""
    found = cache.find(key)
    if found is None:
        found = make()
        cache.keep(key, found)
    return found


def test_the_cache_keeps_within_its_budget():
    cache, make = ImageCache(budget_bytes=700), Maker()
    for _ in range(2):
        for number in range(3):
            get(cache, key_of(number), make)
    assert make.count == 4
    assert get(cache, key_of(0), make) is get(cache, key_of(0), make)
    assert cache.describe() == "cache auto: 2 images, 0.0 MB in memory of at most 0.0 MB"


def test_off_stores_nothing():
    cache, make = ImageCache(mode="off", budget_bytes=1000), Maker()
    for _ in range(2):
        image = get(cache, key_of(0), make)
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0, 0] = 9
    assert make.count == 2
    assert cache.budget_bytes == 0
    assert cache.describe() == "cache off: every image is decoded each time"


def test_threads_that_ask_at_once_count_the_bytes_once():
    cache = ImageCache(budget_bytes=650)
    together = threading.Barrier(4)

    def make() -> np.ndarray:
        together.wait(timeout=10)
        return np.zeros((10, 10, 3), np.uint8)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: get(cache, key_of(0), make), range(4)))
    assert get(cache, key_of(1), Maker()) is get(cache, key_of(1), Maker())


def test_a_changed_file_or_another_preparation_has_another_key(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    before = ImageKey.of_file(path, preparation="centred 224")
    assert ImageKey.of_file(path, preparation="centred 224") == before
    assert before.fits(facts_of(path))
    assert ImageKey.of_file(path, preparation="strip 224") != before
    os.utime(path, ns=(1, 1))
    assert ImageKey.of_file(path, preparation="centred 224") != before
    assert not before.fits(facts_of(path))


def test_budgets_are_shares_of_the_free_memory():
    auto, memory = ImageCache().budget_bytes, ImageCache(mode="memory").budget_bytes
    assert auto > 0
    assert memory == pytest.approx(3 * auto, rel=0.2)


def test_unknown_modes_and_negative_budgets_are_refused():
    with pytest.raises(ConfigError, match=r"'disc'.* auto, memory, disk, off, device"):
        ImageCache(mode="disc")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(ConfigError, match="Received: -1"):
        ImageCache(budget_bytes=-1)


# ── modes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_file_replaces_its_old_pixels():
    cache, make = ImageCache(mode="memory", budget_bytes=300), Maker()
    for modified_ns in (1, 2, 2):
        get(cache, replace(key_of(0), modified_ns=modified_ns), make)
    assert make.count == 2
    assert cache.describe() == "cache memory: 1 images, 0.0 MB in memory of at most 0.0 MB"


@pytest.mark.parametrize("mode", ["memory", "disk", "device"])
def test_every_mode_gives_the_same_read_only_pixels(mode: CacheMode, tmp_path: Path):
    cache, make = ImageCache(mode=mode, budget_bytes=10**6, folder=tmp_path), Maker()
    first = get(cache, key_of(0), make)
    second = get(cache, key_of(0), make)
    assert np.array_equal(first, second)
    assert make.count == 1
    assert not second.flags.writeable
    assert cache.describe().startswith(f"cache {mode}: 1 images, 0.0 MB ")


def test_auto_takes_the_fastest_place_with_room_for_all(tmp_path: Path, monkeypatch):
    cache = ImageCache(expected_bytes=10**6, budget_bytes=2 * 10**6, folder=tmp_path)
    assert "in memory of at most 2.0 MB (1.0 MB needed)" in cache.describe()
    monkeypatch.setattr("vizsla.data.cache.cache.free_memory_bytes", lambda: 400_000)
    (tmp_path / "file").write_text("")
    for needed, folder, place in [
        (100_000, tmp_path, "in memory"),
        (100_001, tmp_path, f"on disk in {tmp_path}"),
        (200_000, tmp_path / "file" / "x", "in memory"),  # This folder cannot be made.
    ]:
        assert place in ImageCache(expected_bytes=needed, folder=folder).describe()


def test_auto_keeps_what_it_can_unless_that_is_nearly_nothing(tmp_path: Path):
    cache = ImageCache(expected_bytes=10**7, budget_bytes=10**6, folder=tmp_path)
    assert "in memory of at most 1.0 MB" in cache.describe()
    cache = ImageCache(expected_bytes=10**9, budget_bytes=10**6, folder=tmp_path)
    assert "not enough room (1.0 GB needed)" in cache.describe()


def test_expected_bytes_follow_the_sizing():
    assert expected_bytes(Resize(10), num_centred=2, num_strips=4) == 300 * (2 + 6)
    assert expected_bytes(Resize(10, "squish"), num_centred=2, num_strips=4) == 300 * 6
    assert expected_bytes(None, num_centred=2, num_strips=4) is None


IMAGE_ON_DISK = 8192  # 40 x 50 x 3 bytes and the header, in whole blocks


def disk_key(number: int, **other: object) -> ImageKey:
    facts = dict(path=f"/secret/{number}.jpg", num_bytes=1, modified_ns=2, preparation="whole")
    return ImageKey(**(facts | other))  # pyright: ignore[reportArgumentType]


def image_of(number: int) -> np.ndarray:
    image = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image.setflags(write=False)
    return image


def store_of(folder: Path, *, num_images: int = 1000) -> DiskStore:
    """Return a store whose limit, a sixteenth below its budget, is exactly ``num_images``."""
    return DiskStore(folder, budget_bytes=-(-num_images * IMAGE_ON_DISK * 16 // 15))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pic"))


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    """A store with one image, number 1."""
    store = store_of(tmp_path)
    store.keep(disk_key(1), image_of(1))
    return store


def make_old(path: Path, *, seconds: float) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


# ── one process ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_store_finds_what_another_kept(store: DiskStore):
    other = store_of(store.folder)
    found = other.find(disk_key(1))
    assert found is not None
    assert np.array_equal(found, image_of(1))
    assert found.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1
    assert other.find(disk_key(2)) is None


def test_every_part_of_the_key_counts(store: DiskStore):
    for name, value in [
        ("path", "/secret/1.JPG"),
        ("num_bytes", 9),
        ("modified_ns", 9),
        ("preparation", "half"),
        ("decoder", "another"),
    ]:
        assert store.find(replace(disk_key(1), **{name: value})) is None
    odd = replace(disk_key(1), path="/a\udcff\n'\".jpg")  # Not valid text.
    store.keep(odd, image_of(1))
    assert store.find(odd) is not None


def test_entries_are_anonymous_and_the_folder_private(tmp_path: Path):
    folder = tmp_path / "cache"
    store_of(folder).keep(disk_key(1), image_of(1))
    (entry,) = entries(folder)
    assert len(entry.stem) == 64
    assert set(entry.stem) <= set("0123456789abcdef")
    assert b"secret" not in entry.read_bytes()
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("where", [0, 20, 41, 53, 64, 3000, -1])
def test_a_flipped_bit_is_noticed_and_the_image_made_again(tmp_path: Path, where: int):
    cache = ImageCache(mode="disk", budget_bytes=10**7, folder=tmp_path)
    get(cache, disk_key(1), lambda: image_of(1).copy())
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    content[where] ^= 16
    entry.write_bytes(content)
    again = get(cache, disk_key(1), lambda: image_of(7).copy())
    assert np.array_equal(again, image_of(7))
    assert np.array_equal(get(cache, disk_key(1), lambda: image_of(8)), image_of(7))
    assert "cache disk: 1 images, 0.0 MB on disk" in cache.describe()
    assert "1 damaged ones rebuilt" in cache.describe()


@pytest.mark.parametrize("num_bytes", [0, 10, 64, 5000])
def test_a_file_that_was_cut_short_is_noticed(store: DiskStore, num_bytes: int):
    (entry,) = entries(store.folder)
    os.truncate(entry, num_bytes)
    assert store.find(disk_key(1)) is None
    assert entries(store.folder) == []


def test_an_image_under_the_name_of_another_is_not_used(store: DiskStore):
    (first,) = entries(store.folder)
    store.keep(disk_key(2), image_of(2))
    second = next(entry for entry in entries(store.folder) if entry != first)
    second.write_bytes(first.read_bytes())
    assert store.find(disk_key(2)) is None
    assert store.find(disk_key(1)) is not None


# ── the budget ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_least_recently_used_images_make_room(tmp_path: Path):
    earlier = store_of(tmp_path)
    for number in range(8):
        earlier.keep(disk_key(number), image_of(number))
        newest = max(entries(tmp_path), key=lambda entry: entry.stat().st_mtime_ns)
        make_old(newest, seconds=1000 - number)
    later = store_of(tmp_path, num_images=8)
    assert later.find(disk_key(0)) is not None  # The oldest is used now.
    later.keep(disk_key(8), image_of(8))
    left = [number for number in range(9) if later.find(disk_key(number)) is not None]
    assert left == [0, 3, 4, 5, 6, 7, 8]  # Two went: room for one, and an eighth more.


def test_a_run_does_not_evict_what_it_used_itself(tmp_path: Path):
    store = store_of(tmp_path, num_images=5)
    for _ in range(2):
        for number in range(20):
            if store.find(disk_key(number)) is None:
                store.keep(disk_key(number), image_of(number))
    left = [number for number in range(20) if store.find(disk_key(number)) is not None]
    assert left == [*range(5)]


def test_a_budget_of_nothing_stores_nothing(tmp_path: Path):
    DiskStore(tmp_path, budget_bytes=0).keep(disk_key(1), image_of(1))
    assert entries(tmp_path) == []


def test_leftovers_of_a_crash_are_removed_once_they_are_old(store: DiskStore):
    (entry,) = entries(store.folder)
    old, new = entry.with_name("old.part"), entry.with_name("new.part")
    for part in (old, new):
        part.write_bytes(b"half")
    make_old(old, seconds=7200)
    # This store is so small that it looks into the folder each time.
    store_of(store.folder, num_images=3).keep(disk_key(2), image_of(2))
    assert not old.exists()
    assert new.exists()


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*VIZSLA_HOME"):
        ImageCache(mode="disk", folder=tmp_path / "file" / "cache")


def test_an_error_while_writing_ends_the_storing(store: DiskStore):
    (entry,) = entries(store.folder)
    clear_disk_cache(store.folder)
    entry.parent.write_text("a file where the folder was")
    store.keep(disk_key(1), image_of(1))
    assert store.find(disk_key(1)) is None
    assert "Not a directory" in store.describe()


def test_a_cleared_cache_fills_again(store: DiskStore):
    assert clear_disk_cache(store.folder).num_images == 1
    assert store.find(disk_key(1)) is None
    store.keep(disk_key(1), image_of(1))
    assert store.find(disk_key(1)) is not None


def test_clearing_removes_our_files_only(store: DiskStore, tmp_path: Path):
    others = [tmp_path / "note.pic", tmp_path / "ab" / "note.txt", tmp_path / "photos" / "a.pic"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("mine")
    clear_disk_cache(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
    assert disk_use(tmp_path).num_images == 0
    assert clear_disk_cache(tmp_path / "nothing here").num_bytes == 0


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache" / "pictures"
    monkeypatch.delenv("VIZSLA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".vizsla" / "cache" / "pictures"


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

READ_ALL = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from vizsla.data.cache.cache import ImageCache
    from vizsla.data.images.decode import decode_image
    from vizsla.data.images.sizing import Resize
    from vizsla.data.images.reader import ImageReader

    root, rounds = Path(sys.argv[1]), int(sys.argv[2])
    caches = [(Path(folder), int(budget)) for folder, budget in zip(sys.argv[3::2], sys.argv[4::2], strict=True)]
    paths = sorted(root.rglob("*.jpg"))
    expected = [np.asarray(Resize(32)(decode_image(path, cover=(32, 32)))) for path in paths]
    print("ready", flush=True)
    sys.stdin.readline()
    for folder, budget in caches * rounds:
        cache = ImageCache(mode="disk", budget_bytes=budget, folder=folder)
        reader = ImageReader(resize=Resize(32), cache=cache)
        for path, pixels in zip(paths, expected, strict=True):
            assert np.array_equal(reader.read(path), pixels), path
        assert "no more" not in cache.describe(), cache.describe()
    print("good", flush=True)
    """
)


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start a process that reads all images once its input ends; it is ready when this returns."""
    command = [sys.executable, "-c", READ_ALL, *map(str, arguments)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_read_the_right_pixels_within_the_budget(image_folder: Path, tmp_path: Path):
    roomy, tight = (tmp_path / "roomy", 10**8), (tmp_path / "tight", 14 * 4096)
    processes = [started(image_folder, 8, *roomy, *tight) for _ in range(2)]
    for process in processes:
        let_go(process)
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "good\n"), err
    for folder, budget in (roomy, tight):
        assert disk_use(folder).num_bytes <= budget
        assert list(folder.rglob("*.part")) == []
    assert len(entries(roomy[0])) == 24


def test_a_killed_process_leaves_no_wrong_pixels(image_folder: Path, tmp_path: Path):
    folder = tmp_path / "cache"
    process = started(image_folder, 10**6, folder, 10**8)
    let_go(process)
    deadline = time.monotonic() + 20
    while len(entries(folder)) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=20)
    reader = ImageReader(
        resize=Resize(32), cache=ImageCache(mode="disk", budget_bytes=10**8, folder=folder)
    )
    plain = ImageReader(resize=Resize(32), cache=ImageCache(mode="off"))
    for path in sorted(image_folder.rglob("*.jpg")):
        assert np.array_equal(reader.read(path), plain.read(path))
    assert "damaged" not in reader.cache.describe()
