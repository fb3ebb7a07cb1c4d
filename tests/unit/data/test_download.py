"""A download is whole and checked, or an error; dropped connections are taken up; nothing half-made stays."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from vizsla.data import download as datasets
from vizsla.data.download import Limits, URLs, download_file, extract_archive, untar_data
from vizsla.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_redirects_are_followed_to_web_addresses_only(web, url: str, target: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    web.redirects = {"/moved.bin": url, "/local.bin": secret.as_uri(), "/ftp.bin": "ftp://host/a"}
    download_file(f"{web.address}/moved.bin", target, sha256=SHA256)
    for name in ("local", "ftp"):
        with pytest.raises(DataError, match=r"is not allowed|which is not a safe address"):
            download_file(f"{web.address}/{name}.bin", tmp_path / "b.bin")


def test_other_addresses_are_refused(target: Path):
    for address in ["ftp://host/a.tgz", "a.tgz", "/data/a.tgz", "file://host/a", "https:///a"]:
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
        calls = [pool.submit(download_file, url, target) for _ in range(2)]
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
    download_file(sys.argv[1], Path(sys.argv[2]))
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, url, str(target)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"Cannot write {target}.part: File too large." in done.stdout
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
    download_file(url, target)
    assert target.read_bytes() == CONTENT


FILES = {"set/train/a.jpg": b"one", "set/train/b.jpg": b"two" * 5000, "set/empty.txt": b""}


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], *, mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that unpacks bytes below ``tmp_path/there``."""

    def run(content: bytes, *, limits: Limits | None = None) -> Path:
        archive = tmp_path / "archive.any"
        archive.write_bytes(content)
        extract_archive(archive, tmp_path / "there", limits=limits or Limits())
        return tmp_path / "there"

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tar_files_are_known_by_their_first_bytes(pack, unpack):
    folder = special("set/hollow", tarfile.DIRTYPE)
    there = unpack(pack(tar_of(FILES, special(".", tarfile.DIRTYPE), folder)))
    assert contents(there) == FILES
    assert (there / "set" / "hollow").is_dir()


def test_zip_files_are_known_by_their_first_bytes(unpack):
    there = unpack(zip_of({**FILES, "set/hollow/": b""}))
    assert contents(there) == FILES
    assert (there / "set" / "hollow").is_dir()


def test_a_tar_that_holds_a_zip_is_a_tar(unpack):
    inner = zip_of({"a.txt": b"x"})
    assert contents(unpack(tar_of({"inner.zip": inner}))) == {"inner.zip": inner}


def test_names_from_windows_make_folders_everywhere(unpack):
    assert contents(unpack(zip_of({"set\\a.jpg": b"x"}))) == {"set/a.jpg": b"x"}


def test_long_names_and_modern_headers_are_read(unpack):
    name = "/".join(["folder" * 20] * 3) + "/ümläut.jpg"
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        there = unpack(buffer.getvalue())
        assert contents(there) == {name: b"x"}
        (there / name).unlink()
        for folder in sorted(there.rglob("*"), reverse=True):
            folder.rmdir()
        there.rmdir()


def test_permissions_of_the_archive_are_not_applied(unpack):
    info = special("run.sh", tarfile.REGTYPE)
    info.mode = 0o6777
    there = unpack(tar_of({}, info))
    assert stat.S_IMODE((there / "run.sh").stat().st_mode) & 0o6111 == 0


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/tmp/evil", "a/..", "C:\\evil", "C:evil", "..\\evil", "\\evil", "\\\\host\\share\\evil"],
)  # fmt: skip
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_that_lead_out_are_refused(name: str, make, unpack, tmp_path: Path):
    with pytest.raises(DataError, match="leads out of the folder"):
        unpack(make({"good.txt": b"x", name: b"evil"}))
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        (special("way", tarfile.SYMTYPE, "/etc"), "link"),
        (special("way", tarfile.SYMTYPE, "good.txt"), "link"),
        (special("way", tarfile.LNKTYPE, "good.txt"), "link"),
        (special("way", tarfile.LNKTYPE, "../../etc/passwd"), "link"),
        (special("disk", tarfile.BLKTYPE), "device"),
        (special("tty", tarfile.CHRTYPE), "device"),
        (special("pipe", tarfile.FIFOTYPE), "device"),
        (special("unknown", b"Q"), "device, pipe or other special file"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(info, kind: str, unpack, tmp_path: Path):
    with pytest.raises(DataError, match=f"'{info.name}' in it is a {kind}"):
        unpack(tar_of({"good.txt": b"x"}, info))
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


@pytest.mark.parametrize(("mode", "kind"), [(stat.S_IFLNK, "link"), (stat.S_IFCHR, "device")])
def test_links_and_devices_in_a_zip_are_refused(mode: int, kind: str, unpack, tmp_path: Path):
    with pytest.raises(DataError, match=f"'way' in it is a {kind}"):
        unpack(zip_of({"way": b"/etc/passwd"}, mode=mode | 0o777))
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


@pytest.mark.parametrize("make", [lambda files: gzip.compress(tar_of(files)), zip_of])
def test_a_decompression_bomb_is_refused_early(make, unpack, tmp_path: Path):
    bomb = make({"zeros": bytes(60_000_000)})
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match=r"10\.5 MB"):
        unpack(bomb)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


def test_a_bomb_within_a_header_is_refused(unpack):
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {"comment": "0" * 5_000_000}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(DataError, match="one of its headers is larger than 1 MiB"):
        unpack(gzip.compress(buffer.getvalue()))


def test_a_sparse_file_of_holes_is_refused(unpack):
    info = tarfile.TarInfo("holes")
    info.pax_headers = {"GNU.sparse.size": "99999999999", "GNU.sparse.map": "0,0"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(DataError, match="is a device, pipe or other special file"):
        unpack(buffer.getvalue())


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_limits_hold_for_bytes_and_files(make, unpack):
    with pytest.raises(DataError, match="more than 2 files"):
        unpack(make(FILES), limits=Limits(max_files=2))
    with pytest.raises(DataError, match=r"than .* together|are .* together"):
        unpack(make(FILES), limits=Limits(max_bytes=1000))


def test_a_zip_that_lies_about_a_size_is_refused(unpack):
    content = bytearray(zip_of({"a.txt": b"0" * 1000}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(mark) + offset
        content[place : place + 4] = (10).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"damaged at the file 'a.txt'"):
        unpack(bytes(content))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_that_is_cut_off_is_refused(pack, unpack, tmp_path: Path):
    whole = pack(tar_of({"noise": zlib.compress(bytes(9)) * 4000, **FILES}))
    for part in (0.05, 0.5):
        with pytest.raises(DataError, match=r"damaged|ends within|neither"):
            unpack(whole[: int(part * len(whole))])
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


def test_an_archive_that_is_damaged_at_its_end_is_refused(unpack):
    content = bytearray(gzip.compress(tar_of(FILES)))
    content[-6] ^= 1
    with pytest.raises(DataError, match="damaged or cut off"):
        unpack(bytes(content))


def test_what_is_no_archive_is_refused(unpack):
    for content in [b"", b"<html>no</html>", b"PK\x03\x04", b"\x1f\x8b\x08\x00"]:
        with pytest.raises(DataError, match=r"neither a tar nor a zip|damaged"):
            unpack(content)


def test_an_encrypted_zip_is_refused(unpack):
    content = bytearray(zip_of({"a.txt": b"x"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    with pytest.raises(DataError, match=r"'a.txt' in it cannot be read .*encrypted"):
        unpack(bytes(content))


def test_a_name_that_is_file_and_folder_is_refused(unpack):
    with pytest.raises(DataError, match="'a/b' is both a file and a folder"):
        unpack(tar_of({"a/b/c": b"x", "a/b": b"y"}))


def test_an_existing_folder_is_not_written_into(unpack, tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    with pytest.raises(OutputError, match="File exists"):
        unpack(tar_of(FILES))
    assert (tmp_path / "there" / "mine").exists()


def test_progress_is_told_the_bytes_written(tmp_path: Path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of(FILES))
    told: list[int] = []
    extract_archive(archive, tmp_path / "there", progress=told.append)
    assert told[-1] == sum(map(len, FILES.values()))


def tgz_of(files: dict[str, bytes]) -> bytes:
    return gzip.compress(tar_of(files), mtime=0)


PETS = tgz_of({"oxford-pets/images/a_1.jpg": b"1", "oxford-pets/annotations/list.txt": b"2"})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("VIZSLA_HOME", str(folder))
    return folder


@pytest.fixture
def url_datasets(web, home: Path) -> str:
    web.files["/pets.tgz"] = PETS
    return f"{web.address}/pets.tgz"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_the_only_folder_of_an_archive_gets_the_archives_name(url_datasets: str, home: Path):
    path = untar_data(url_datasets)
    assert path == home / "data" / "pets"
    assert (path / "images" / "a_1.jpg").read_bytes() == b"1"
    assert visible(home / "data") == ["pets"]
    assert visible(home / "archive") == ["pets.tgz", "pets.tgz.sha256.json"]


def test_files_beside_each_other_stay_so(web, home: Path):
    web.files["/a.tar.gz"] = tgz_of({"x.csv": b"1", "images/y.jpg": b"2", "._x.csv": b"3"})
    assert visible(untar_data(f"{web.address}/a.tar.gz")) == ["._x.csv", "images", "x.csv"]


def test_a_folder_that_exists_is_returned_without_asking(web, home: Path):
    (home / "data" / "pets").mkdir(parents=True)
    assert untar_data(f"{web.address}/pets.tgz?version=1") == home / "data" / "pets"
    assert web.asked == []


def test_the_archive_is_used_again_when_the_folder_was_removed(web, url_datasets: str):
    path = untar_data(url_datasets)
    (path / "images" / "a_1.jpg").unlink()
    path.rename(path.with_name("elsewhere"))
    assert (untar_data(url_datasets) / "images" / "a_1.jpg").exists()
    assert len(web.asked) == 1


def test_folders_can_be_chosen(url_datasets: str, tmp_path: Path):
    base = tmp_path / "base"
    assert untar_data(url_datasets, base=base) == base / "data" / "pets"
    assert untar_data(url_datasets, base=base, c_key="sets") == base / "sets" / "pets"
    chosen = untar_data(url_datasets, archive=tmp_path / "tars", data=tmp_path / "here", base=base)
    assert chosen == tmp_path / "here" / "pets"
    assert (tmp_path / "tars" / "pets.tgz").exists()


def test_a_forced_download_replaces_the_folder_only_when_the_new_one_is_whole(
    web, url_datasets: str
):
    path = untar_data(url_datasets)
    (path / "images" / "mine.jpg").write_bytes(b"x")
    web.files["/pets.tgz"] = b"no archive"
    with pytest.raises(DataError):
        untar_data(url_datasets, force_download=True)
    assert (path / "images" / "mine.jpg").exists()
    web.files["/pets.tgz"] = PETS
    untar_data(url_datasets, force_download=True)
    assert not (path / "images" / "mine.jpg").exists()
    assert visible(path.parent) == ["pets"]


@pytest.mark.parametrize(
    "files", [{"../../evil.txt": b"x"}, {"/evil.txt": b"x"}, {"a.bin": bytes(50_000_000)}, {}]
)
def test_a_hostile_or_empty_archive_leaves_no_folder(
    files: dict[str, bytes], web, home: Path, tmp_path: Path
):
    web.files["/bad.tgz"] = tgz_of(files)
    with pytest.raises(DataError):
        untar_data(f"{web.address}/bad.tgz")
    assert visible(home / "data") == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_known_set_is_held_to_its_size(
    web, url_datasets: str, monkeypatch: pytest.MonkeyPatch, home: Path
):
    monkeypatch.setitem(datasets._SIZES, url_datasets, 5)
    with pytest.raises(DataError, match="not 5"):
        untar_data(url_datasets)
    assert visible(home / "archive") == []
    assert visible(home / "data") == []


def test_a_file_address_is_unpacked_where_asked(home: Path, tmp_path: Path):
    archive = tmp_path / "mine.tgz"
    archive.write_bytes(PETS)
    assert untar_data(archive.as_uri()) == home / "data" / "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine.tgz"]


def test_what_a_killed_program_left_is_in_nobodys_way(url_datasets: str, home: Path):
    left = home / "data" / ".pets.part" / "old"
    left.mkdir(parents=True)
    assert visible(untar_data(url_datasets)) == ["annotations", "images"]
    assert visible(home / "data") == ["pets"]


def test_two_programs_at_once_make_one_folder(web, url_datasets: str, home: Path):
    code = "import sys; from vizsla.data.download import untar_data; print(untar_data(sys.argv[1]))"
    web.hold.clear()
    program = subprocess.Popen(
        [sys.executable, "-c", code, url_datasets], stdout=subprocess.PIPE, text=True
    )
    while not web.asked:
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(untar_data, url_datasets)
        web.hold.set()
        assert here.result(timeout=60) == home / "data" / "pets"
    output = program.communicate(timeout=60)[0]
    assert output.splitlines()[-1] == str(home / "data" / "pets")
    assert len(web.asked) == 1


def test_an_address_without_a_file_name_is_refused(home: Path):
    for address in ["https://host/", "https://host", "https://host/..", "https://host/.tgz"]:
        with pytest.raises(ConfigError, match="ends in the name of its archive"):
            untar_data(address)


def test_every_listed_set_has_its_own_folder_and_a_known_size():
    addresses = [value for name, value in vars(URLs).items() if name.isupper()]
    assert set(addresses) == datasets._SIZES.keys() >= datasets._SHA256.keys()
    assert all(address.startswith("https://") for address in addresses)
    assert len({datasets._names(address)[1] for address in addresses}) == len(addresses)
    assert all(datasets._SIZES.values())
    assert {len(sha256) for sha256 in datasets._SHA256.values()} == {64}
