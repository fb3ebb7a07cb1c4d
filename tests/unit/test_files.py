"""Files that appear whole or not at all, under real limits of the system; places with one writer at a time."""

from __future__ import annotations

import errno
import os
import platform
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from vizsla import OutputError
from vizsla.files import atomic_folder, atomic_write, only_writer, remove_leftovers, writer_of

needs_posix = pytest.mark.skipif(os.name != "posix", reason="uses limits or links of POSIX systems")


def test_a_file_appears_or_is_replaced_only_at_the_end(tmp_path: Path):
    path = tmp_path / "history.csv"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".csv")
    with atomic_write(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), TimeoutError("mine")])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail_half_way()
    assert caught.value is error
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_folder_appears_only_at_the_end_and_replaces_nothing(tmp_path: Path, full_disk: Any):
    path = tmp_path / "space"
    (tmp_path / ".vizsla-space.part-folder").mkdir()  # of a writer that was killed
    (tmp_path / ".vizsla-space.part-folder" / "old.txt").write_text("old")
    with atomic_folder(path) as temporary:
        (temporary / "app.py").write_text("x")
        assert not path.exists()
        with pytest.raises(OutputError, match="Another process"), atomic_folder(path):
            pass
    assert [file.name for file in path.iterdir()] == ["app.py"]
    with pytest.raises(OutputError, match="space exists"), atomic_folder(path):
        pass
    other = tmp_path / "other"
    other.mkdir()
    with (
        pytest.raises(OutputError, match="Cannot write"),
        full_disk(),
        atomic_folder(other) as temporary,
    ):
        (temporary / "app.py").write_text("x")
    with pytest.raises(ValueError, match="mine"), atomic_folder(other) as temporary:
        raise ValueError("mine")
    assert sorted(tmp_path.rglob("*")) == [other, path, path / "app.py"]
    with atomic_folder(other) as temporary:
        (temporary / "app.py").write_text("x")
    assert (other / "app.py").is_file()


def test_an_error_about_another_file_is_not_called_an_output_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "input.csv").read_text()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named_before_the_block_runs(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name, words in [
        ("no/a.txt", "No such file or directory"),
        ("folder", "folder of that name"),
        ("file/a.txt", "file, not a folder"),
    ]:
        path = tmp_path / name
        with pytest.raises(OutputError, match=f"Cannot write {path}.*{words}"), atomic_write(path):
            pytest.fail("the block must not run")


@needs_posix
def test_the_umask_sets_the_permissions(tmp_path: Path):
    path = tmp_path / ("n" * 251 + ".csv")  # the longest name that is allowed
    before = os.umask(0o022)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@needs_posix
def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "other").mkdir()
    target = tmp_path / "other" / "real.txt"
    target.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, full_disk: Any):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    facts = f"Cannot write {path}: File too large."
    with full_disk(1000), pytest.raises(OutputError, match=facts), atomic_write(path) as temporary:
        temporary.write_bytes(bytes(5000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@needs_posix
def test_a_folder_without_write_permission_is_an_output_error(tmp_path: Path, run_python):
    # The administrator may write anywhere, so the test becomes the user nobody first. It stays in the folder, because
    # that user may not enter its parents.
    code = """
import os, sys
from vizsla.errors import OutputError
from vizsla.files import atomic_write
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
try:
    with atomic_write("a.txt"):
        print("the block must not run")
except OutputError as error:
    print(error)
"""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    folder.chmod(0o555)
    try:
        said = run_python(code, folder)
        assert said.startswith("Cannot write a.txt: Permission denied.")
    finally:
        folder.chmod(0o755)
    assert (folder / "a.txt").read_text() == "old"


# --- other processes -------------------------------------------------------------------------------------------------

HOLDING = """
import sys, time
from pathlib import Path
from vizsla.files import atomic_folder, atomic_write, only_writer
folder = Path(sys.argv[1])
with only_writer(folder / "lock", of=folder), atomic_write(folder / "a.txt") as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(100)
"""


@contextmanager
def another_process(folder: Path) -> Generator[subprocess.Popen[str]]:
    """Give a process that holds a lock file in a folder and is half through writing a file there."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@needs_posix
def test_a_place_has_one_writer_which_is_named_until_it_is_killed(tmp_path: Path):
    lock = tmp_path / "lock"
    with another_process(tmp_path) as process:
        for _ in range(2):  # the first try must not free it
            with pytest.raises(OutputError) as caught, only_writer(lock, of=tmp_path):
                pytest.fail("the block must not run")
            facts = (str(tmp_path), f"process {process.pid} on {platform.node()}", "since 20")
            assert all(fact in str(caught.value) for fact in facts)
        assert writer_of(lock).startswith(f"process {process.pid} on ")
    assert writer_of(lock) == ""
    with only_writer(lock, of=tmp_path):
        assert writer_of(lock).startswith(f"process {os.getpid()} on ")
    assert not lock.exists()
    (tmp_path / "file").touch()
    for bad in (tmp_path / "none" / "lock", tmp_path / "file" / "lock"):
        with pytest.raises(OutputError, match="Cannot write"), only_writer(bad, of=bad.parent):
            pytest.fail("the block must not run")


@needs_posix
def test_what_a_killed_writer_left_is_removed_and_a_living_one_keeps_its_file(tmp_path: Path):
    with another_process(tmp_path) as process:
        with atomic_write(tmp_path / "b.txt") as temporary:
            temporary.write_text("b")
        assert sum(path.name.startswith(".vizsla-") for path in tmp_path.iterdir()) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    others = [tmp_path / f".vizsla-00000000-{age}.part.txt" for age in ("new", "old")]
    for path in others:
        path.touch()
    os.utime(others[1], times=(0, time.time() - 100_000))
    with atomic_write(tmp_path / "c.txt") as temporary:
        temporary.write_text("c")
    # Whether a writer on another machine lives is known of its files' age alone.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(others[0].name, "b.txt", "c.txt", "lock"),
    ]
    remove_leftovers(tmp_path / "no such folder")


@needs_posix
def test_without_locks_the_note_in_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = tmp_path / "lock"
    for note, is_alive in (
        ("", False),
        ('{"process": 2147483646, "machine": "MINE", "since": "then"}', False),
        ('{"process": 1, "machine": "MINE", "since": "then"}', True),
        ('{"process": 1, "machine": "elsewhere", "since": "then"}', True),
    ):
        lock.write_text(note.replace("MINE", platform.node()))
        assert bool(writer_of(lock)) == is_alive
        with ExitStack() as stack:
            if is_alive:
                stack.enter_context(pytest.raises(OutputError, match=f"remove {lock}"))
            stack.enter_context(only_writer(lock, of=tmp_path))
        assert lock.exists() == is_alive
    with atomic_write(tmp_path / "a.txt") as temporary:
        remove_leftovers(tmp_path)
        temporary.write_text("a")
