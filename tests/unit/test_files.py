"""atomic_write: a file appears whole or not at all, under real limits of the system."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vizsla import OutputError
from vizsla.files import atomic_write

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


@needs_posix
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, run_python):
    code = """
import resource, signal, sys
from vizsla.errors import OutputError
from vizsla.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(sys.argv[1]) as temporary:
        temporary.write_bytes(bytes(5000))
except OutputError as error:
    print(error)
"""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    assert f"Cannot write {path}: File too large." in run_python(code, path)
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
