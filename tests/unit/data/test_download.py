"""A download is whole and checked, or an error; dropped connections are resumed; nothing unfinished stays."""

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
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vizsla import ConfigError, DataError, OutputError, URLs, untar_data
from vizsla.data import download, download_file, extract_archive

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.01, 0.01))


@pytest.fixture
def no_second_try(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())


@pytest.fixture
def url(web) -> str:
    web.files["/a.bin"] = CONTENT
    return f"{web.address}/a.bin"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.bin"


def left_in(folder: Path) -> set[str]:
    """Return the names in a folder, without the lock, which stays."""
    return {path.name for path in folder.iterdir()} - {".a.bin.lock"}


def test_a_file_is_downloaded_once_and_again_when_damaged_or_forced(web, url: str, target: Path):
    for _ in range(2):
        assert download_file(url, target, size=len(CONTENT), sha256=SHA256) == target
        assert left_in(target.parent) == {"a.bin"}
        assert len(web.asked) == 1
    target.write_bytes(CONTENT[:-1] + b"x")
    download_file(url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    download_file(url, target, sha256=SHA256, force=True)
    assert len(web.asked) == 3


@pytest.mark.parametrize(
    ("server", "ranges"),
    [
        ({"drops": [300_000, 200_000]}, [None, "bytes=300000-", "bytes=500000-"]),
        # Tries that make progress do not count.
        ({"drops": [100_000] * 4}, [None, *(f"bytes={n}00000-" for n in range(1, 5))]),
        ({"drops": [300_000], "ranges": False}, [None, "bytes=300000-"]),
        ({"drops": [300_000], "etag": None}, [None, None]),
        ({"statuses": [503, 500]}, [None] * 3),
    ],
)
def test_a_dropped_connection_is_resumed(web, url: str, target: Path, server, ranges):
    vars(web).update(server)
    download_file(url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in web.asked] == ranges


@pytest.mark.usefixtures("no_second_try")
def test_a_later_call_continues_what_an_earlier_one_left(web, url: str, target: Path):
    for whole in (False, True):
        web.drops = [300_000]
        with pytest.raises(DataError, match=r"0\.3 MB are kept"):
            download_file(url, target)
        assert left_in(target.parent) == {"a.bin.part", "a.bin.part.json"}
        if whole:  # only its name is missing
            target.with_name("a.bin.part").write_bytes(CONTENT)
        download_file(url, target, sha256=SHA256)
        assert web.asked[-1][1] == ("bytes=1024000-" if whole else "bytes=300000-")
        assert target.read_bytes() == CONTENT
        assert left_in(target.parent) == {"a.bin"}
        target.unlink()


@pytest.mark.usefixtures("no_second_try")
def test_parts_of_two_versions_are_never_joined(web, url: str, target: Path):
    web.drops = [300_000]
    with pytest.raises(DataError):
        download_file(url, target)
    web.etag = '"v2"'
    web.files["/a.bin"] = CONTENT[::-1]
    download_file(url, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_server_that_does_not_deliver_leaves_nothing(web, url: str, target: Path):
    web.statuses = [503] * 9
    for address, words, num_requests in (
        (url, "503 .* 3 tries", 3),
        (f"{web.address}/none.bin", "404", 1),
        ("http://127.0.0.1:9/a.bin", r"127\.0\.0\.1:9 ", 0),
    ):
        with pytest.raises(DataError, match=words):
            download_file(address, target)
        assert len(web.asked) == num_requests
        assert left_in(target.parent) == set()
        web.asked, web.statuses = [], []


def test_a_file_of_another_size_or_sha256_leaves_nothing(web, url: str, target: Path):
    cases: list[tuple[bool, dict[str, Any], str]] = [
        (True, {"sha256": "0" * 64}, f"{SHA256}, not {'0' * 64}"),
        (True, {"size": 12}, "1,024,000 bytes, not 12"),
        (False, {"size": 1000}, "more than 1,000 bytes"),
        (False, {"size": 2_000_000}, "1,024,000 bytes, not 2,000,000"),
    ]
    for announced, expected, words in cases:
        web.announce_length = announced
        with pytest.raises(DataError, match=words):
            download_file(url, target, **expected)
        assert left_in(target.parent) == set()


def test_a_refused_new_version_leaves_the_old_file(web, url: str, target: Path):
    download_file(url, target, sha256=SHA256)
    web.files["/a.bin"] = b"something else"
    with pytest.raises(DataError):
        download_file(url, target, sha256=SHA256, force=True)
    assert target.read_bytes() == CONTENT


def test_later_downloads_must_match_the_noted_checksum(web, url: str, target: Path, capsys):
    download_file(url, target)
    note = json.loads(target.with_name("a.bin.sha256.json").read_text())
    assert (note["url"], note["size"], note["sha256"]) == (url, len(CONTENT), SHA256)
    said = capsys.readouterr().out
    assert url in said
    assert SHA256 in said
    target.unlink()
    web.files["/a.bin"] = CONTENT[::-1]
    with pytest.raises(DataError, match=f"not {SHA256}"):
        download_file(url, target)
    assert left_in(target.parent) == {"a.bin.sha256.json"}
    target.with_name("a.bin.sha256.json").write_text("{}")
    with pytest.raises(DataError, match=r"a\.bin\.sha256\.json"):
        download_file(url, target)


def test_redirects_are_followed_to_web_addresses_only(web, url: str, target: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    web.redirects = {"/moved.bin": url, "/local.bin": secret.as_uri(), "/ftp.bin": "ftp://host/a"}
    download_file(f"{web.address}/moved.bin", target, sha256=SHA256)
    for name in ("local", "ftp"):
        with pytest.raises(DataError, match=r"is not allowed|not a secure address"):
            download_file(f"{web.address}/{name}.bin", tmp_path / "b.bin")


def test_other_addresses_are_refused(target: Path):
    for address in ["ftp://host/a.tgz", "a.tgz", "/data/a.tgz", "file://host/a", "https:///a"]:
        with pytest.raises(ConfigError, match=address):
            download_file(address, target)
    for address in ["https://host/", "https://host", "https://host/..", "https://host/.tgz"]:
        with pytest.raises(ConfigError, match=address):
            untar_data(address)


def test_a_file_address_is_used_where_it_is(tmp_path: Path, target: Path):
    source = tmp_path / "a file.bin"
    source.write_bytes(CONTENT)
    assert download_file(source.as_uri(), target, sha256=SHA256) == source
    assert not target.parent.exists()
    with pytest.raises(DataError, match="1,024,000 bytes, not 3"):
        download_file(source.as_uri(), target, size=3)
    with pytest.raises(DataError, match=r"none\.bin"):
        download_file((tmp_path / "none.bin").as_uri(), target)


def test_two_calls_at_a_time_download_once(web, url: str, target: Path):
    web.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(download_file, url, target) for _ in range(2)]
        web.wait_until_asked()
        web.hold.set()
        assert [call.result() for call in calls] == [target, target]
    assert target.read_bytes() == CONTENT
    assert len(web.asked) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of posix systems")
def test_a_full_disk_leaves_nothing(url: str, target: Path, run_python):
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
    assert f"Cannot write {target}.part: File too large." in run_python(code, url, target)
    assert left_in(target.parent) == set()


def test_a_folder_that_cannot_be_made_is_an_output_error(url: str, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="VIZSLA_HOME"):
        download_file(url, tmp_path / "file" / "a.bin")


def test_a_killed_download_leaves_no_lock_behind(web, url: str, target: Path):
    code = """
import sys
from pathlib import Path
from vizsla.data.download import download_file
download_file(sys.argv[1], Path(sys.argv[2]))
"""
    web.hold.clear()
    process = subprocess.Popen([sys.executable, "-c", code, url, str(target)])
    web.wait_until_asked()
    process.kill()
    process.wait()
    web.hold.set()
    assert not target.exists()
    download_file(url, target)
    assert target.read_bytes() == CONTENT


FILES = {"set/train/a.jpg": b"one", "set/train/b.jpg": b"two" * 5000, "set/empty.txt": b""}


def tar_of(
    files: dict[str, bytes], *extra: tarfile.TarInfo, layout: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
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


def special(name: str, kind: bytes, target: str = "", **attributes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that unpacks bytes below ``tmp_path/there``."""

    def run(content: bytes) -> Path:
        archive = tmp_path / "archive.any"
        archive.write_bytes(content)
        extract_archive(archive, tmp_path / "there")
        return tmp_path / "there"

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


LONG = "/".join(["folder" * 20] * 3) + "/ümläut.jpg"
INNER = zip_of({"a.txt": b"x"})
HOLLOW = [special(".", tarfile.DIRTYPE), special("set/hollow", tarfile.DIRTYPE)]


@pytest.mark.parametrize(
    ("content", "files"),
    [
        *((pack(tar_of(FILES, *HOLLOW)), FILES) for pack in (bytes, gzip.compress, bz2.compress, lzma.compress)),
        (zip_of({**FILES, "set/hollow/": b""}), FILES),
        (tar_of({"inner.zip": INNER}), {"inner.zip": INNER}),
        (zip_of({"set\\a.jpg": b"x"}), {"set/a.jpg": b"x"}),
        (tar_of({LONG: b"x"}, layout=tarfile.GNU_FORMAT), {LONG: b"x"}),
        (tar_of({LONG: b"x"}), {LONG: b"x"}),
    ],
    ids=["tar", "gzip", "bzip2", "xz", "zip", "tar of a zip", "names from Windows", "GNU", "PAX"],
)  # fmt: skip
def test_archives_are_known_by_their_first_bytes(content: bytes, files, unpack):
    there = unpack(content)
    assert contents(there) == files
    assert (there / "set" / "hollow").is_dir() == (files is FILES)


def test_permissions_of_the_archive_are_not_applied(unpack):
    there = unpack(tar_of({}, special("run.sh", tarfile.REGTYPE, mode=0o6777)))
    assert stat.S_IMODE((there / "run.sh").stat().st_mode) & 0o6111 == 0


EVIL = ["../evil", "a/../../evil", "/tmp/evil", "a/..", "C:\\evil", "C:evil", "..\\evil", "\\evil", "\\\\host\\share\\evil"]  # fmt: skip


def test_names_outside_the_folder_are_refused(unpack, tmp_path: Path):
    for make in (tar_of, zip_of):
        for name in EVIL:
            with pytest.raises(DataError, match="leads out of the folder"):
                unpack(make({"good.txt": b"x", name: b"evil"}))
            assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


SPECIAL = [
    (special("way", tarfile.SYMTYPE, "/etc"), "link"),
    (special("way", tarfile.SYMTYPE, "good.txt"), "link"),
    (special("way", tarfile.LNKTYPE, "good.txt"), "link"),
    (special("way", tarfile.LNKTYPE, "../../etc/passwd"), "link"),
    (special("way", tarfile.BLKTYPE), "device"),
    (special("way", tarfile.CHRTYPE), "device"),
    (special("way", tarfile.FIFOTYPE), "device"),
    (special("way", b"Q"), "device"),
]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        *((tar_of({"good.txt": b"x"}, info), kind) for info, kind in SPECIAL),
        (zip_of({"way": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), "link"),
        (zip_of({"way": b"/etc/passwd"}, mode=stat.S_IFCHR | 0o777), "device"),
    ],
)
def test_links_and_devices_are_refused(content: bytes, kind: str, unpack, tmp_path: Path):
    with pytest.raises(DataError, match=f"'way' in it is a {kind}"):
        unpack(content)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


@pytest.mark.parametrize("make", [lambda files: gzip.compress(tar_of(files)), zip_of])
def test_a_decompression_bomb_is_refused_early(make, unpack, tmp_path: Path):
    bomb = make({"zeros": bytes(60_000_000)})
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match=r"10\.5 MB"):
        unpack(bomb)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.any"]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"comment": "0" * 5_000_000}, "one of its headers"),
        ({"GNU.sparse.size": "99999999999", "GNU.sparse.map": "0,0"}, "special file"),
    ],
    ids=["long", "sparse"],
)
def test_a_bomb_within_a_header_is_refused(headers: dict[str, str], words: str, unpack):
    info = special("a.txt", tarfile.REGTYPE, pax_headers=headers)
    with pytest.raises(DataError, match=words):
        unpack(gzip.compress(tar_of({}, info)))


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_limits_hold_for_bytes_and_files(make, unpack, monkeypatch: pytest.MonkeyPatch):
    for limit, most, words in (("MAX_FILES", 2, "2 files"), ("MAX_UNPACKED_BYTES", 1000, "0.0 MB")):
        with monkeypatch.context() as patch:
            patch.setattr(download, limit, most)
            with pytest.raises(DataError, match=words):
                unpack(make(FILES))


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


def flipped(content: bytes, *places: int) -> bytes:
    changed = bytearray(content)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


ZIP = zip_of({"a.txt": b"x"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((content, r"neither a tar nor a zip|damaged") for content in (b"", b"<html>no</html>", b"PK\x03\x04", b"\x1f\x8b\x08\x00")),
        (flipped(gzip.compress(tar_of(FILES)), -6), "damaged or cut off"),
        (flipped(ZIP, ZIP.index(b"PK\x03\x04") + 6, ZIP.index(b"PK\x01\x02") + 8), "'a.txt' .*encrypted"),
        (tar_of({"a/b/c": b"x", "a/b": b"y"}), "'a/b' is both a file and a folder"),
    ],
)  # fmt: skip
def test_unreadable_archives_are_refused(content: bytes, words: str, unpack):
    with pytest.raises(DataError, match=words):
        unpack(content)


def test_an_existing_folder_is_not_written_into(unpack, tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    with pytest.raises(OutputError, match="File exists"):
        unpack(tar_of(FILES))
    assert (tmp_path / "there" / "mine").exists()


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


def test_a_data_set_is_downloaded_and_unpacked_once(web, url_datasets: str, home: Path):
    (home / "data" / ".pets.part" / "old").mkdir(parents=True)  # left by a killed program
    path = untar_data(url_datasets)
    files = {"images/a_1.jpg": b"1", "annotations/list.txt": b"2"}
    assert (path, contents(path)) == (home / "data" / "pets", files)
    assert visible(home / "data") == ["pets"]
    assert visible(home / "archive") == ["pets.tgz", "pets.tgz.sha256.json"]
    assert untar_data(f"{url_datasets}?version=1") == path
    path.rename(path.with_name("elsewhere"))
    assert contents(untar_data(url_datasets)) == files
    assert len(web.asked) == 1


def test_an_archive_without_a_top_folder_keeps_its_files(web, home: Path):
    web.files["/a.tar.gz"] = tgz_of({"x.csv": b"1", "images/y.jpg": b"2", "._x.csv": b"3"})
    assert visible(untar_data(f"{web.address}/a.tar.gz")) == ["._x.csv", "images", "x.csv"]


def test_folders_can_be_chosen(url_datasets: str, tmp_path: Path):
    base = tmp_path / "base"
    assert untar_data(url_datasets, base=base) == base / "data" / "pets"
    assert untar_data(url_datasets, base=base, c_key="sets") == base / "sets" / "pets"
    chosen = untar_data(url_datasets, archive=tmp_path / "tars", data=tmp_path / "here", base=base)
    assert chosen == tmp_path / "here" / "pets"
    assert (tmp_path / "tars" / "pets.tgz").exists()


def test_a_forced_download_replaces_the_folder_at_its_end(web, url_datasets: str):
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


def test_a_bad_archive_leaves_no_folder(web, home: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(download._KNOWN, f"{web.address}/known.tgz", (5, None))
    for name, files, words in [
        ("evil", {"../../evil.txt": b"x"}, "leads out"),
        ("bomb", {"a.bin": bytes(50_000_000)}, "unpacks to more"),
        ("empty", {}, "no files"),
        ("known", FILES, "not 5"),
    ]:
        web.files[f"/{name}.tgz"] = tgz_of(files)
        with pytest.raises(DataError, match=words):
            untar_data(f"{web.address}/{name}.tgz")
        assert visible(home / "data") == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_file_address_is_unpacked_where_asked(home: Path, tmp_path: Path):
    archive = tmp_path / "mine.tgz"
    archive.write_bytes(PETS)
    assert untar_data(archive.as_uri()) == home / "data" / "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine.tgz"]


def test_two_programs_at_once_make_one_folder(web, url_datasets: str, home: Path):
    code = "import sys; from vizsla.data.download import untar_data; print(untar_data(sys.argv[1]))"
    web.hold.clear()
    program = subprocess.Popen(
        [sys.executable, "-c", code, url_datasets], stdout=subprocess.PIPE, text=True
    )
    web.wait_until_asked()
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(untar_data, url_datasets)
        web.hold.set()
        assert here.result(timeout=60) == home / "data" / "pets"
    output = program.communicate(timeout=60)[0]
    assert output.splitlines()[-1] == str(home / "data" / "pets")
    assert len(web.asked) == 1


def test_every_listed_set_has_its_own_folder_and_a_known_size():
    addresses = [value for name, value in vars(URLs).items() if name.isupper()]
    assert {*addresses} == download._KNOWN.keys()
    assert all(address.startswith("https://") for address in addresses)
    assert len({download._names(address)[1] for address in addresses}) == len(addresses)
    sizes, sums = zip(*download._KNOWN.values(), strict=True)
    assert all(sizes)
    assert {len(sha256) for sha256 in sums if sha256} == {64}
