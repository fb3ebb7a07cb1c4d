"""A data set is downloaded and unpacked once, appears whole under its name, and is found again."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from vizsla.data import download as datasets
from vizsla.data.download import URLs, untar_data
from vizsla.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path


def tgz_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


PETS = tgz_of({"oxford-pets/images/a_1.jpg": b"1", "oxford-pets/annotations/list.txt": b"2"})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("VIZSLA_HOME", str(folder))
    return folder


@pytest.fixture
def url(web, home: Path) -> str:
    web.files["/pets.tgz"] = PETS
    return f"{web.address}/pets.tgz"


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_the_only_folder_of_an_archive_gets_the_archives_name(url: str, home: Path):
    path = untar_data(url)
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


def test_the_archive_is_used_again_when_the_folder_was_removed(web, url: str):
    path = untar_data(url)
    (path / "images" / "a_1.jpg").unlink()
    path.rename(path.with_name("elsewhere"))
    assert (untar_data(url) / "images" / "a_1.jpg").exists()
    assert len(web.asked) == 1


def test_folders_can_be_chosen(url: str, tmp_path: Path):
    base = tmp_path / "base"
    assert untar_data(url, base=base) == base / "data" / "pets"
    assert untar_data(url, base=base, c_key="sets") == base / "sets" / "pets"
    chosen = untar_data(url, archive=tmp_path / "tars", data=tmp_path / "here", base=base)
    assert chosen == tmp_path / "here" / "pets"
    assert (tmp_path / "tars" / "pets.tgz").exists()


def test_a_forced_download_replaces_the_folder_only_when_the_new_one_is_whole(web, url: str):
    path = untar_data(url)
    (path / "images" / "mine.jpg").write_bytes(b"x")
    web.files["/pets.tgz"] = b"no archive"
    with pytest.raises(DataError):
        untar_data(url, force_download=True)
    assert (path / "images" / "mine.jpg").exists()
    web.files["/pets.tgz"] = PETS
    untar_data(url, force_download=True)
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
    web, url: str, monkeypatch: pytest.MonkeyPatch, home: Path
):
    monkeypatch.setitem(datasets._SIZES, url, 5)
    with pytest.raises(DataError, match="not 5"):
        untar_data(url)
    assert visible(home / "archive") == []
    assert visible(home / "data") == []


def test_a_file_address_is_unpacked_where_asked(home: Path, tmp_path: Path):
    archive = tmp_path / "mine.tgz"
    archive.write_bytes(PETS)
    assert untar_data(archive.as_uri()) == home / "data" / "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine.tgz"]


def test_what_a_killed_program_left_is_in_nobodys_way(url: str, home: Path):
    left = home / "data" / ".pets.part" / "old"
    left.mkdir(parents=True)
    assert visible(untar_data(url)) == ["annotations", "images"]
    assert visible(home / "data") == ["pets"]


def test_two_programs_at_once_make_one_folder(web, url: str, home: Path):
    code = "import sys; from vizsla.data.download import untar_data; print(untar_data(sys.argv[1]))"
    web.hold.clear()
    program = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    while not web.asked:
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        here = pool.submit(untar_data, url)
        web.hold.set()
        assert here.result(timeout=60) == home / "data" / "pets"
    output = program.communicate(timeout=60)[0]
    assert output.splitlines()[-1] == str(home / "data" / "pets")
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    "address", ["https://host/", "https://host", "https://host/..", "https://host/.tgz"]
)
def test_an_address_without_a_file_name_is_refused(address: str, home: Path):
    with pytest.raises(ConfigError, match="ends in the name of its archive"):
        untar_data(address)


def test_every_listed_set_has_its_own_folder_and_a_known_size():
    addresses = [value for name, value in vars(URLs).items() if name.isupper()]
    assert set(addresses) == datasets._SIZES.keys() >= datasets._SHA256.keys()
    assert all(address.startswith("https://") for address in addresses)
    assert len({datasets._names(address)[1] for address in addresses}) == len(addresses)
    assert all(datasets._SIZES.values())
    assert {len(sha256) for sha256 in datasets._SHA256.values()} == {64}
