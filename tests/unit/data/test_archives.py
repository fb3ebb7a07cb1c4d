"""Archives are unpacked whole or refused, and nothing is ever written outside of the folder."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from vizsla.data.download import Limits, extract_archive
from vizsla.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
        extract_archive(archive, tmp_path / "there", limits=limits)
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


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"PK\x03\x04", b"\x1f\x8b\x08\x00"])
def test_what_is_no_archive_is_refused(content: bytes, unpack):
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
