"""Numbers of bytes as people write them, and where vizsla keeps things; free memory is tested with the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vizsla.errors import ConfigError
from vizsla.machine import free_device_bytes, free_disk_bytes, home_folder, parse_bytes, shown_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4_000_000_000),
        ("500 MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2k", 2000),
        ("7KiB", 7168),
        ("3 tb", 3 * 10**12),
        ("12345", 12345),
        ("0", 0),
        (99, 99),
        ("10B", 10),
    ],
)
def test_bytes_are_read_as_people_write_them(text: int | str, expected: int):
    assert parse_bytes(text, option="--cache-budget") == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "4 apples", "1,5GB", "iB", "4iB", -3, "auto"])
def test_what_is_no_number_of_bytes_is_refused(text: int | str):
    with pytest.raises(
        ConfigError, match=r"--cache-budget is a number of bytes such as .* Received"
    ):
        parse_bytes(text, option="--cache-budget")


def test_bytes_are_shown_in_words():
    assert [shown_bytes(number) for number in (0, 450_000, 3_210_000_000, 4 * 10**12)] == [
        "0.0 MB",
        "0.5 MB",
        "3.2 GB",
        "4,000.0 GB",
    ]


def test_the_disk_of_a_folder_that_is_still_to_be_made_is_asked(tmp_path: Path):
    there, to_be = free_disk_bytes(tmp_path), free_disk_bytes(tmp_path / "a" / "b")
    assert to_be == pytest.approx(there, rel=0.1)


def test_the_memory_of_the_cpu_is_that_of_the_machine():
    assert free_device_bytes(torch.device("cpu")) > 0


def test_home_is_absolute_even_if_given_as_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIZSLA_HOME", "here")
    assert home_folder() == Path.cwd() / "here"
