"""Images that are no files of their own: members of tar shards."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from vizsla import DataError, PictureError
from vizsla.data.images import decode_image, same_files
from vizsla.data.storage import facts_of, index_folder, is_there, open_shard, read_bytes
from vizsla.paths import ImagePaths

CONTENTS = {"b/2.jpg": b"two" * 400, "a.png": b"one", "b/2.cls": b"7\n", "é.gif": b"e"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path / "home"))


def write_shard(path: Path, contents: Mapping[str, bytes], *, form: int = tarfile.USTAR_FORMAT, mtime: float = 0) -> Path:  # fmt: skip
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), mtime
            archive.addfile(member, io.BytesIO(data))
    return path


def test_images_in_shards_of_every_form_are_read(tmp_path: Path):
    long = "/".join(["folder" * 9] * 3) + "/1.jpg"
    for form, mtime in (
        (tarfile.USTAR_FORMAT, 0),
        (tarfile.GNU_FORMAT, 0),
        (tarfile.PAX_FORMAT, 0),
        (tarfile.PAX_FORMAT, 1.5),  # each file has a header of its own for the half second
    ):
        contents = {**CONTENTS, long: b"long"}
        shard = write_shard(tmp_path / f"{form}-{mtime}.tar", contents, form=form, mtime=mtime)
        assert open_shard(str(shard)).names() == sorted(contents, key=os.fsencode)
        for name, data in contents.items():
            path = shard / name
            assert read_bytes(path) == data
            assert read_bytes(path, last=2) == data[-2:]
            assert facts_of(path) == (len(data), shard.stat().st_mtime_ns)
            assert is_there(path)
        assert open_shard(str(shard)).labels() == {"b/2": "7"}


def test_an_ordinary_file_is_read_as_ever(tmp_path: Path):
    file = tmp_path / "x.tar" / "a.jpg"  # a folder may have any name
    file.parent.mkdir()
    file.write_bytes(b"abcdef")
    assert (read_bytes(file), read_bytes(file, last=2)) == (b"abcdef", b"ef")
    assert facts_of(file) == (6, file.stat().st_mtime_ns)
    assert is_there(file)
    assert not is_there(file.parent / "b.jpg")
    assert not is_there(file.parent)
    for missing in (file.parent / "b.jpg", tmp_path / "no.tar" / "b.jpg", tmp_path / "b.jpg"):
        with pytest.raises(FileNotFoundError):
            read_bytes(missing)
        with pytest.raises(FileNotFoundError):
            facts_of(missing)


def test_an_index_is_kept_and_made_again_when_the_shard_changes(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", CONTENTS)
    assert read_bytes(shard / "a.png") == b"one"
    (kept,) = index_folder().glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    write_shard(shard, {"a.png": b"another"})
    assert read_bytes(shard / "a.png") == b"another"
    assert not is_there(shard / "b" / "2.jpg")
    assert kept.stat().st_mtime_ns != written
    kept.write_bytes(kept.read_bytes()[:-5])  # damaged: made again by the next process
    os.utime(shard)
    assert read_bytes(shard / "a.png") == b"another"
    assert list(index_folder().iterdir()) == [kept]


def test_a_shard_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path):
    whole = write_shard(tmp_path / "whole.tar", CONTENTS).read_bytes()
    damaged = bytearray(whole)
    damaged[1536 + 512 + 7] ^= 1
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.jpg"))
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    cases = {
        "in-a-file": whole[:1000],
        "in-a-header": whole[: 512 + 1536 + 100],
        "damaged": bytes(damaged),
        "joined": whole + whole,
        "text": b"no tar" * 200,
        "nothing": b"",
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
    for name in (*cases, "twice", "packed"):
        shard = tmp_path / f"{name}.tar"
        with pytest.raises(DataError, match=f"{name}.tar") as caught:
            read_bytes(shard / "a.jpg")
        assert not isinstance(caught.value, PictureError)  # it is not one image that is left out
    assert not list(index_folder().glob("*"))


def test_a_shard_that_goes_away_is_not_one_missing_image(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", CONTENTS)
    assert read_bytes(shard / "a.png") == b"one"
    shard.rename(tmp_path / "1.tar")
    for ask in (read_bytes, facts_of):
        with pytest.raises(DataError, match=r"0\.tar") as caught:
            ask(shard / "a.png")
        assert not isinstance(caught.value, PictureError)  # nor is it left out
    assert not is_there(shard / "a.png")
    (tmp_path / "1.tar").rename(shard)
    assert read_bytes(shard / "a.png") == b"one"


def test_what_opens_images_opens_those_of_shards(tmp_path: Path, image_folder: Path):
    files = sorted(image_folder.rglob("*.jpg"))
    contents = {file.relative_to(image_folder).as_posix(): file.read_bytes() for file in files}
    shard = write_shard(tmp_path / "0.tar", contents)
    members = [shard / name for name in contents]
    for file, member in zip(files, members, strict=True):
        assert decode_image(member).tobytes() == decode_image(file).tobytes()
    with pytest.raises(PictureError, match="no such file"):
        decode_image(shard / "none.jpg")
    pairs = same_files(ImagePaths([*files, *members]))
    assert pairs == tuple((number, number + len(files)) for number in range(len(files)))
