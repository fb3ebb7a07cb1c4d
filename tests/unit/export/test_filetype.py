"""What is given as a model file is recognised by its first bytes, and never opened when it is something else."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from vizsla.errors import ModelFileError
from vizsla.model_file.bundle import check_is_safetensors


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        check_is_safetensors(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_model_file_passes(saved: Path):
    check_is_safetensors(saved)


def test_a_missing_file_is_named(tmp_path: Path):
    assert refusal(tmp_path / "m.safetensors").startswith("There is no model file ")


def test_of_a_folder_the_file_in_it_is_suggested(tmp_path: Path):
    assert refusal(tmp_path).endswith(f"for example {tmp_path / 'model.safetensors'}")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, [], {}, {1, 2}, Path("x")], ids=repr)
def test_pickles_of_all_protocols_are_recognised(tmp_path: Path, protocol: int, value: object):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert "is a Python pickle. It was not opened" in refusal(path)


def test_a_zip_archive_is_not_opened(tmp_path: Path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    assert "is a zip archive, in which torch.save puts pickles. It was not opened" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short to be a model file: 0 bytes"),
        (b"\x08\0\0\0\0\0\0\0{", "too short to be a model file: 9 bytes"),
        (b"\x09\0\0\0\0\0\0\0{}      ", "cut short or damaged: its header should have 9 bytes"),
        (b"\0\0\0\0\0\0\0\x80{}      ", "its header should have 9,223,372,036,854,775,808 bytes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "it is not in the safetensors format, it begins with"),
        (b"epoch,loss\n1,0.5\n", "it is not in the safetensors format, it begins with"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_words_that_fit(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_header_beyond_the_limit_of_the_format_is_refused_even_if_the_file_is_that_large(
    tmp_path: Path,
):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(300_000_000)  # A hole: takes no disk space.
    assert "its header should have 200,000,000 bytes (at most 100,000,000)" in refusal(path)


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((0x0280).to_bytes(8, "little") + b"{}".ljust(0x0280))
    assert path.read_bytes()[:2] == b"\x80\x02"
    check_is_safetensors(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_the_system_cannot_read_is_named_with_the_reason():
    assert "Cannot read the model file /proc/self/mem: Input/output error" in refusal(
        Path("/proc/self/mem")
    )
