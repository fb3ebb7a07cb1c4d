"""Texts: numbers never claim more than they are, and no character can disguise a file name."""

from __future__ import annotations

import pytest

from vizsla.text import (
    duration_text,
    number_range,
    number_text,
    percent_range,
    percent_text,
    printable,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.975, "97.5 %"),
        (0.99951, "> 99.9 %"),
        (0.0004, "< 0.1 %"),
        (0.0005, "0.1 %"),
    ],
)
def test_a_share_reads_as_all_or_nothing_only_when_it_is(value: float, text: str):
    assert percent_text(value).replace("\u202f", " ") == text


def test_a_published_share_keeps_two_digits():
    assert percent_text(0.8842, decimals=2) == "88.42\u202f%"


def test_ranges_have_an_en_dash():
    assert percent_range(0.943, 0.989) == "94.3\u201398.9\u202f%"
    assert percent_range(0.0, 0.0001) == "< 0.1\u202f%"
    assert number_range(0.1, 0.25) == "0.100\u20130.250"
    assert number_range(0.0, 0.0001) == number_text(0.0001) == "< 0.001"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185.2, "3 min 05 s"),
        (7805.0, "2 h 10 min"),
    ],
)
def test_times_read_as_people_write_them(seconds: float, text: str):
    assert duration_text(seconds).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("\u732b \U0001f408.jpg", "\u732b \U0001f408.jpg"),
        ("gpj.\u202etac", "gpj.\\u202etac"),
        ("bad\udcff.jpg", "bad\\udcff.jpg"),
        ("nul\x00\x1b[2J", "nul\\x00\\x1b[2J"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_disguising_characters_are_written_out(name: str, shown: str):
    assert printable(name) == shown
