"""Texts: numbers never claim more than they are, and no character can disguise a file name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vizsla import ConfigError, VizslaError
from vizsla.text import (
    counted,
    duration_text,
    first_line,
    joined,
    listed,
    number_range,
    number_text,
    percent_range,
    percent_text,
    printable,
    quoted,
    say,
    valid_unicode,
)


def test_only_exact_shares_read_as_all_or_nothing():
    for value, text in [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.975, "97.5 %"),
        (0.99951, "> 99.9 %"),
        (0.0004, "< 0.1 %"),
        (0.0005, "0.1 %"),
    ]:
        assert percent_text(value).replace("\u202f", " ") == text
    assert percent_text(0.8842, decimals=2) == "88.42\u202f%"


def test_ranges_have_an_en_dash():
    assert percent_range(0.943, 0.989) == "94.3\u201398.9\u202f%"
    assert percent_range(0.0, 0.0001) == "< 0.1\u202f%"
    assert number_range(0.1, 0.25) == "0.100\u20130.250"
    assert number_range(0.0, 0.0001) == number_text(0.0001) == "< 0.001"


def test_times_read_as_people_write_them():
    for seconds, text in [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185.2, "3 min 05 s"),
        (7805.0, "2 h 10 min"),
    ]:
        assert duration_text(seconds).replace("\u202f", " ") == text


def test_disguising_characters_are_written_out(capsys: pytest.CaptureFixture[str]):
    for name, shown in [
        ("cat.jpg", "cat.jpg"),
        ("\u732b \U0001f408.jpg", "\u732b \U0001f408.jpg"),
        ("gpj.\u202etac", "gpj.\\u202etac"),
        ("bad\udcff.jpg", "bad\\udcff.jpg"),
        ("nul\x00\x1b[2J", "nul\\x00\\x1b[2J"),
        ("two\nlines", "two\nlines"),
        ("\x9b31m\u200e\u061c\u2066\u2028", "\\x9b31m\\u200e\\u061c\\u2066\\u2028"),
    ]:
        assert printable(name) == shown
        assert str(VizslaError(name)) == str(ConfigError(name)) == shown
        for err in (False, True):
            say(name, err=err)
            found = capsys.readouterr()
            assert (found.out, found.err) == (("", f"{shown}\n") if err else (f"{shown}\n", ""))
    assert valid_unicode("caf\udce9 é") == "caf\\udce9 é"


def test_long_lists_are_cut_with_a_count_of_the_rest():
    lines = listed([str(number) for number in range(33)]).splitlines()
    assert lines == [f"  {number}" for number in range(20)] + ["  ... and 13 more"]
    assert listed(["a", "b"]) == "  a\n  b"
    assert joined(["a", "b", "c"], limit=2, separator="; ") == "a; b and 1 more"
    assert joined(["a", "b"], limit=2) == "a, b"


def test_words_agree_with_their_number():
    assert counted(1, "class", "classes") == "1 class"
    assert counted(2, "class", "classes") == "2 classes"
    assert [counted(0, "row"), counted(1, "row")] == ["0 rows", "1 row"]


def test_shown_paths_stay_on_one_line():
    assert quoted(Path("a b/new\nline é 犬.jpg")) == "'a b/new\\nline é 犬.jpg'"
    assert quoted("caf\udce9") == "'caf\\udce9'"


def test_the_first_line_of_an_error_is_never_empty():
    assert first_line(ValueError("\n  one \ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 900), limit=10) == "x" * 10
