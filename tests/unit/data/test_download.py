"""A download is whole and checked, or an error; dropped connections are taken up; nothing half-made stays."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from vizsla.data.download import download_file
from vizsla.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAUSES = (0.01, 0.01)


@pytest.fixture
def url(web) -> str:
    web.files["/a.bin"] = CONTENT
    return f"{web.address}/a.bin"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.bin"


def left_in(folder: Path) -> set[str]:
    """Names in a folder, but for the lock, which stays."""
    return {path.name for path in folder.iterdir()} - {".a.bin.lock"}


def test_a_file_arrives_whole_and_its_folder_is_made(url: str, target: Path):
    assert download_file(url, target, size=len(CONTENT), sha256=SHA256) == target
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"a.bin"}


def test_what_is_there_and_right_is_not_downloaded_again(web, url: str, target: Path):
    download_file(url, target, sha256=SHA256)
    download_file(url, target, sha256=SHA256)
    assert len(web.asked) == 1


def test_what_is_there_and_damaged_is_downloaded_again(url: str, target: Path, capsys):
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1] + b"x")
    download_file(url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert "damaged or of another version" in capsys.readouterr().out


def test_a_forced_download_replaces_what_is_there(web, url: str, target: Path):
    download_file(url, target, sha256=SHA256)
    download_file(url, target, sha256=SHA256, force=True)
    assert len(web.asked) == 2


def test_a_dropped_connection_is_taken_up_where_it_ended(web, url: str, target: Path, capsys):
    web.drops = [300_000, 200_000]
    download_file(url, target, sha256=SHA256, pauses_seconds=PAUSES)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in web.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert (
        "The connection ended after 300,000 of 1,024,000 bytes; trying again in 0.01 s"
        in capsys.readouterr().out
    )


def test_tries_that_bring_something_do_not_count(web, url: str, target: Path):
    web.drops = [100_000] * 6
    download_file(url, target, sha256=SHA256, pauses_seconds=PAUSES)
    assert target.read_bytes() == CONTENT


def test_without_ranges_the_file_is_begun_anew(web, url: str, target: Path):
    web.ranges = False
    web.drops = [300_000]
    download_file(url, target, sha256=SHA256, pauses_seconds=PAUSES)
    assert target.read_bytes() == CONTENT


def test_without_a_version_the_file_is_begun_anew(web, url: str, target: Path):
    web.etag = None
    web.drops = [300_000]
    download_file(url, target, sha256=SHA256, pauses_seconds=PAUSES)
    assert [asked for _, asked in web.asked] == [None, None]
    assert target.read_bytes() == CONTENT


def test_parts_of_two_versions_are_never_put_together(web, url: str, target: Path):
    web.drops = [300_000]
    with pytest.raises(DataError):
        download_file(url, target, pauses_seconds=())
    web.etag = '"v2"'
    web.files["/a.bin"] = CONTENT[::-1]
    download_file(url, target, pauses_seconds=())
    assert target.read_bytes() == CONTENT[::-1]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(web, url: str, target: Path):
    web.drops = [300_000]
    with pytest.raises(DataError, match=r"0\.3 MB are kept; .* to go on from there"):
        download_file(url, target, pauses_seconds=())
    assert left_in(target.parent) == {"a.bin.part", "a.bin.part.json"}
    download_file(url, target, sha256=SHA256, pauses_seconds=())
    assert web.asked[-1][1] == "bytes=300000-"
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {"a.bin"}


def test_a_part_that_is_whole_needs_only_its_name(web, url: str, target: Path):
    web.drops = [300_000]
    with pytest.raises(DataError):
        download_file(url, target, pauses_seconds=())
    target.with_name("a.bin.part").write_bytes(CONTENT)
    download_file(url, target, sha256=SHA256, pauses_seconds=())
    assert target.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(web, url: str, target: Path):
    web.statuses = [503, 500]
    download_file(url, target, sha256=SHA256, pauses_seconds=PAUSES)
    assert target.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_an_error_after_all_tries(web, url: str, target: Path):
    web.statuses = [503] * 9
    with pytest.raises(DataError, match=r"The server answered 503 .* 3 tries were made"):
        download_file(url, target, pauses_seconds=PAUSES)
    assert len(web.asked) == 3
    assert left_in(target.parent) == set()


def test_a_missing_file_is_an_error_at_once_and_leaves_nothing(web, target: Path):
    with pytest.raises(DataError, match=r"the server answered 404 \(Not Found\)"):
        download_file(f"{web.address}/none.bin", target, pauses_seconds=PAUSES)
    assert len(web.asked) == 1
    assert left_in(target.parent) == set()


def test_no_server_is_an_error_that_names_it(target: Path):
    with pytest.raises(DataError, match=r"No connection to 127\.0\.0\.1:9 "):
        download_file("http://127.0.0.1:9/a.bin", target, pauses_seconds=(0.01,))


def test_a_wrong_sha256_is_refused_and_leaves_nothing(url: str, target: Path):
    with pytest.raises(DataError, match=f"its SHA-256 is {SHA256}, not {'0' * 64}"):
        download_file(url, target, sha256="0" * 64)
    assert left_in(target.parent) == set()


def test_a_wrong_size_is_refused_before_it_is_transferred(url: str, target: Path):
    with pytest.raises(DataError, match="it has 1,024,000 bytes, not 12"):
        download_file(url, target, size=12)
    assert left_in(target.parent) == set()


def test_a_size_that_is_not_announced_is_checked_on_the_way(web, url: str, target: Path):
    web.announce_length = False
    with pytest.raises(DataError, match="it has more than 1,000 bytes"):
        download_file(url, target, size=1000)
    with pytest.raises(DataError, match="it has 1,024,000 bytes, not 2,000,000"):
        download_file(url, target, size=2_000_000)
    assert left_in(target.parent) == set()


def test_a_refused_new_version_leaves_the_old_file(web, url: str, target: Path):
    download_file(url, target, sha256=SHA256)
    web.files["/a.bin"] = b"something else"
    with pytest.raises(DataError):
        download_file(url, target, sha256=SHA256, force=True)
    assert target.read_bytes() == CONTENT


def test_an_unknown_check_sum_is_noted_and_said(url: str, target: Path, capsys):
    download_file(url, target)
    note = json.loads(target.with_name("a.bin.sha256.json").read_text())
    assert {name: note[name] for name in ("url", "size", "sha256")} == {
        "url": url,
        "size": len(CONTENT),
        "sha256": SHA256,
    }
    said = capsys.readouterr().out
    assert f"No check sum is known for {url}" in said
    assert SHA256 in said


def test_a_later_download_must_be_the_same_as_the_first(web, url: str, target: Path):
    download_file(url, target)
    target.unlink()
    web.files["/a.bin"] = CONTENT[::-1]
    with pytest.raises(DataError, match=f"not {SHA256} as when it was first downloaded"):
        download_file(url, target)
    assert left_in(target.parent) == {"a.bin.sha256.json"}


def test_a_quiet_download_says_nothing(web, url: str, target: Path, capsys):
    web.drops = [1000]
    download_file(url, target, quiet=True, pauses_seconds=PAUSES)
    assert capsys.readouterr().out == ""


def test_redirects_are_followed_to_web_addresses_only(web, url: str, target: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    web.redirects = {"/moved.bin": url, "/local.bin": secret.as_uri(), "/ftp.bin": "ftp://host/a"}
    download_file(f"{web.address}/moved.bin", target, sha256=SHA256)
    for name in ("local", "ftp"):
        with pytest.raises(DataError, match=r"is not allowed|which is not a safe address"):
            download_file(f"{web.address}/{name}.bin", tmp_path / "b.bin")


@pytest.mark.parametrize(
    "address", ["ftp://host/a.tgz", "a.tgz", "/data/a.tgz", "file://host/a", "https:///a"]
)
def test_other_addresses_are_refused(address: str, target: Path):
    with pytest.raises(ConfigError, match="An address begins with https://"):
        download_file(address, target)


def test_a_file_address_is_used_where_it_is(tmp_path: Path, target: Path):
    source = tmp_path / "a file.bin"
    source.write_bytes(CONTENT)
    assert download_file(source.as_uri(), target, sha256=SHA256) == source
    assert not target.parent.exists()
    with pytest.raises(DataError, match="not the one that was expected"):
        download_file(source.as_uri(), target, size=3)
    with pytest.raises(DataError, match="There is no file"):
        download_file((tmp_path / "none.bin").as_uri(), target)


def test_two_calls_at_a_time_download_once(web, url: str, target: Path):
    web.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(download_file, url, target, quiet=True) for _ in range(2)]
        while not web.asked:
            time.sleep(0.01)
        web.hold.set()
        assert [call.result() for call in calls] == [target, target]
    assert target.read_bytes() == CONTENT
    assert len(web.asked) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of posix systems")
def test_a_full_disk_leaves_nothing(url: str, target: Path):
    code = """
import resource, signal, sys
from pathlib import Path
from vizsla.data.download import download_file
from vizsla.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    download_file(sys.argv[1], Path(sys.argv[2]), quiet=True)
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, url, str(target)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"Cannot write {target}.part: File too large.")
    assert left_in(target.parent) == set()


def test_a_folder_that_cannot_be_made_is_an_output_error(url: str, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="VIZSLA_HOME"):
        download_file(url, tmp_path / "file" / "a.bin")


def test_a_killed_download_leaves_a_part_and_no_lock_behind(web, url: str, target: Path):
    code = """
import sys
from pathlib import Path
from vizsla.data.download import download_file
download_file(sys.argv[1], Path(sys.argv[2]))
"""
    web.hold.clear()
    process = subprocess.Popen([sys.executable, "-c", code, url, str(target)])
    while not web.asked:
        time.sleep(0.01)
    process.kill()
    process.wait()
    web.hold.set()
    assert not target.exists()
    download_file(url, target, quiet=True)
    assert target.read_bytes() == CONTENT
