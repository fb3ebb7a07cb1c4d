"""DiskStore: survives the process, notices damage, keeps its budget, and is shared by processes that run at once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vizsla.data.cache.cache import PictureCache
from vizsla.data.cache.disk import DiskStore, cache_folder, clear_disk_cache, disk_use
from vizsla.data.cache.key import PictureKey
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize
from vizsla.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

PICTURE_ON_DISK = 8192  # 40 x 50 x 3 bytes and the header, in whole blocks


def key_of(number: int, **other: object) -> PictureKey:
    facts = dict(path=f"/secret/{number}.jpg", num_bytes=1, modified_ns=2, preparation="whole")
    return PictureKey(**(facts | other))  # pyright: ignore[reportArgumentType]


def picture_of(number: int) -> np.ndarray:
    picture = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    picture.setflags(write=False)
    return picture


def store_of(folder: Path, *, num_pictures: int = 1000) -> DiskStore:
    """Return a store whose limit, a sixteenth below its budget, is exactly so many pictures."""
    return DiskStore(folder, budget_bytes=-(-num_pictures * PICTURE_ON_DISK * 16 // 15))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pic"))


def make_old(path: Path, *, seconds: float) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


# ── one process ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_one_store_keeps_another_finds_mapped_and_read_only(tmp_path: Path):
    store_of(tmp_path).keep(key_of(1), picture_of(1))
    found = store_of(tmp_path).find(key_of(1))
    assert found is not None
    assert np.array_equal(found, picture_of(1))
    assert found.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1
    assert store_of(tmp_path).find(key_of(2)) is None


@pytest.mark.parametrize(
    "other",
    [
        dict(path="/secret/1.JPG"),
        dict(num_bytes=9),
        dict(modified_ns=9),
        dict(preparation="half"),
        dict(decoder="another"),
    ],
)
def test_every_part_of_the_key_counts(tmp_path: Path, other: dict[str, object]):
    store = store_of(tmp_path)
    store.keep(key_of(1), picture_of(1))
    assert store.find(key_of(1, **other)) is None


def test_names_tell_nothing_and_the_folder_is_for_the_user_alone(tmp_path: Path):
    folder = tmp_path / "cache"
    store_of(folder).keep(key_of(1), picture_of(1))
    (entry,) = entries(folder)
    assert len(entry.stem) == 64
    assert set(entry.stem) <= set("0123456789abcdef")
    assert b"secret" not in entry.read_bytes()
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0


def test_a_name_that_is_no_text_is_a_key_too(tmp_path: Path):
    store = store_of(tmp_path)
    store.keep(key_of(1, path="/a\udcff\n'\".jpg"), picture_of(1))
    assert store.find(key_of(1, path="/a\udcff\n'\".jpg")) is not None


@pytest.mark.parametrize("where", [0, 20, 41, 53, 64, 3000, -1])
def test_a_flipped_bit_anywhere_is_noticed_and_the_picture_made_anew(tmp_path: Path, where: int):
    cache = PictureCache(mode="disk", budget_bytes=10**7, folder=tmp_path)
    cache.get(key_of(1), lambda: picture_of(1).copy())
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    content[where] ^= 16
    entry.write_bytes(content)
    again = cache.get(key_of(1), lambda: picture_of(7).copy())
    assert np.array_equal(again, picture_of(7))
    assert np.array_equal(cache.get(key_of(1), lambda: picture_of(8)), picture_of(7))
    assert "cache disk: 1 pictures, 0.0 MB on disk" in cache.describe()
    assert "1 damaged ones made anew" in cache.describe()


@pytest.mark.parametrize("num_bytes", [0, 10, 64, 5000])
def test_a_file_that_was_cut_short_is_noticed(tmp_path: Path, num_bytes: int):
    store = store_of(tmp_path)
    store.keep(key_of(1), picture_of(1))
    (entry,) = entries(tmp_path)
    os.truncate(entry, num_bytes)
    assert store.find(key_of(1)) is None
    assert entries(tmp_path) == []


def test_a_picture_under_the_name_of_another_is_not_used(tmp_path: Path):
    store = store_of(tmp_path)
    store.keep(key_of(1), picture_of(1))
    (first,) = entries(tmp_path)
    store.keep(key_of(2), picture_of(2))
    second = next(entry for entry in entries(tmp_path) if entry != first)
    second.write_bytes(first.read_bytes())
    assert store.find(key_of(2)) is None
    assert store.find(key_of(1)) is not None


# ── the budget ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_that_were_not_used_for_longest_make_room(tmp_path: Path):
    earlier = store_of(tmp_path)
    for number in range(8):
        earlier.keep(key_of(number), picture_of(number))
        newest = max(entries(tmp_path), key=lambda entry: entry.stat().st_mtime_ns)
        make_old(newest, seconds=1000 - number)
    later = store_of(tmp_path, num_pictures=8)
    assert later.find(key_of(0)) is not None  # It is the oldest, and used now.
    later.keep(key_of(8), picture_of(8))
    left = [number for number in range(9) if later.find(key_of(number)) is not None]
    assert left == [0, 3, 4, 5, 6, 7, 8]  # Two went: room for one, and an eighth more.


def test_a_run_does_not_evict_what_it_used_itself(tmp_path: Path):
    store = store_of(tmp_path, num_pictures=5)
    for _ in range(2):
        for number in range(20):
            if store.find(key_of(number)) is None:
                store.keep(key_of(number), picture_of(number))
    assert [number for number in range(20) if store.find(key_of(number)) is not None] == [*range(5)]


def test_a_budget_of_nothing_stores_nothing(tmp_path: Path):
    store = DiskStore(tmp_path, budget_bytes=0)
    store.keep(key_of(1), picture_of(1))
    assert entries(tmp_path) == []


def test_leftovers_of_a_crash_are_removed_once_they_are_old(tmp_path: Path):
    store_of(tmp_path).keep(key_of(1), picture_of(1))
    (entry,) = entries(tmp_path)
    old, new = entry.with_name("old.part"), entry.with_name("new.part")
    for part in (old, new):
        part.write_bytes(b"half")
    make_old(old, seconds=7200)
    store = store_of(tmp_path, num_pictures=3)  # So small that each storing looks.
    store.keep(key_of(2), picture_of(2))
    assert not old.exists()
    assert new.exists()


# ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"Cannot keep pictures in the folder .*file.*VIZSLA_HOME"
    ):
        PictureCache(mode="disk", folder=tmp_path / "file" / "cache")


def test_trouble_while_writing_ends_the_storing_and_is_told(tmp_path: Path):
    store = store_of(tmp_path)
    store.keep(key_of(1), picture_of(1))
    (entry,) = entries(tmp_path)
    clear_disk_cache(tmp_path)
    entry.parent.write_text("a file where the folder was")
    store.keep(key_of(1), picture_of(1))
    assert store.find(key_of(1)) is None
    assert "no more are stored: Not a directory" in store.describe()


def test_a_cleared_cache_fills_again(tmp_path: Path):
    store = store_of(tmp_path)
    store.keep(key_of(1), picture_of(1))
    assert clear_disk_cache(tmp_path).num_pictures == 1
    assert store.find(key_of(1)) is None
    store.keep(key_of(1), picture_of(1))
    assert store.find(key_of(1)) is not None


def test_clearing_removes_our_files_only(tmp_path: Path):
    store_of(tmp_path).keep(key_of(1), picture_of(1))
    others = [tmp_path / "note.pic", tmp_path / "ab" / "note.txt", tmp_path / "photos" / "a.pic"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("mine")
    clear_disk_cache(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
    assert disk_use(tmp_path).num_pictures == 0
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
    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.images.decode import open_picture
    from vizsla.data.images.sizing import Resize
    from vizsla.data.images.reader import PictureReader

    root, rounds = Path(sys.argv[1]), int(sys.argv[2])
    caches = [(Path(folder), int(budget)) for folder, budget in zip(sys.argv[3::2], sys.argv[4::2], strict=True)]
    paths = sorted(root.rglob("*.jpg"))
    expected = [np.asarray(Resize(32).centred(open_picture(path, cover=(32, 32)))) for path in paths]
    print("ready", flush=True)
    sys.stdin.readline()
    for folder, budget in caches * rounds:
        cache = PictureCache(mode="disk", budget_bytes=budget, folder=folder)
        reader = PictureReader(resize=Resize(32), cache=cache)
        for path, pixels in zip(paths, expected, strict=True):
            assert np.array_equal(reader.read(path), pixels), path
        assert "no more" not in cache.describe(), cache.describe()
    print("good", flush=True)
    """
)


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", READ_ALL, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_read_the_right_pixels_and_keep_the_budget(
    picture_folder: Path, tmp_path: Path
):
    roomy, tight = (tmp_path / "roomy", 10**8), (tmp_path / "tight", 14 * 4096)
    processes = [started(picture_folder, 8, *roomy, *tight) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "good\n"), err
    for folder, budget in (roomy, tight):
        assert disk_use(folder).num_bytes <= budget
        assert list(folder.rglob("*.part")) == []
    assert len(entries(roomy[0])) == 24


def test_a_process_that_was_killed_leaves_no_wrong_pixels(picture_folder: Path, tmp_path: Path):
    folder = tmp_path / "cache"
    process = started(picture_folder, 10**6, folder, 10**8)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    deadline = time.monotonic() + 20
    while len(entries(folder)) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=20)
    reader = PictureReader(
        resize=Resize(32), cache=PictureCache(mode="disk", budget_bytes=10**8, folder=folder)
    )
    plain = PictureReader(resize=Resize(32), cache=PictureCache(mode="off"))
    for path in sorted(picture_folder.rglob("*.jpg")):
        assert np.array_equal(reader.read(path), plain.read(path))
    assert "damaged" not in reader.cache.describe()


def test_a_later_process_does_not_decode_what_an_earlier_one_kept(
    picture_folder: Path, tmp_path: Path
):
    paths = sorted(picture_folder.rglob("*.jpg"))
    caches = [PictureCache(mode="disk", budget_bytes=10**8, folder=tmp_path) for _ in range(2)]
    first, second = (PictureReader(resize=Resize(32), cache=cache) for cache in caches)
    expected = [first.read(path).copy() for path in paths]
    for path in paths:  # The same size and time, other content: whoever decodes it fails.
        facts = path.stat()
        path.write_bytes(b"x" * facts.st_size)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    for path, pixels in zip(paths, expected, strict=True):
        assert np.array_equal(second.read(path), pixels)
