"""What is written to a terminal and elsewhere: control codes looked at byte by byte. Golden values: tests/golden/training.json."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from vizsla.train.display import Display, format_seconds

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "training.json").read_text("utf-8")
)
COLUMNS = ["epoch", "train_loss", "valid_loss", "error_rate", "time"]
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Console(file=io.StringIO(), force_terminal=True, width=100)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Console(file=io.StringIO(), soft_wrap=True)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), GOLDEN["seconds"])
def test_times_look_as_recorded(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_a_row_looks_as_recorded(pipe: Console):
    values, cells = GOLDEN["printed_row"]["values"], GOLDEN["printed_row"]["cells"]
    shown = [str(values[0]), *(f"{value:.6f}" for value in values[1:4]), values[4]]
    assert shown == cells
    display = Display(console=pipe)
    display.header(COLUMNS)
    display.row(cells)
    assert written(pipe).splitlines() == [
        "epoch     train_loss  valid_loss  error_rate  time",
        "0         1.551305    0.322132    0.106225    00:19",
    ]


def test_columns_are_as_wide_as_their_names_and_at_least_eight(pipe: Console):
    display = Display(console=pipe)
    display.header(["a", "a_rather_long_metric", "b"])
    display.row(["1", "2", "3"])
    first, second = written(pipe).splitlines()
    assert [first.index(name) for name in ("a_rather", "b")] == [10, 32]
    assert [second.index(cell) for cell in "123"] == [0, 10, 32]


def test_a_new_table_has_its_own_widths(pipe: Console):
    display = Display(console=pipe)
    display.header(["a_rather_long_metric", "b"])
    display.header(["a", "b"])
    display.row(["1", "2"])
    assert written(pipe).splitlines()[-1] == "1         2"


def test_outside_of_a_terminal_there_are_plain_lines_only(pipe: Console):
    display = Display(console=pipe)
    display.header(COLUMNS)
    with display.bar("epoch 1/1", total=3, unit="batches") as move:
        move(1, "loss 0.5")
        move(3)
    display.row(["0", "0.500000", "0.250000", "0.125000", "00:01"])
    text = written(pipe)
    assert text.count("\n") == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


@pytest.mark.parametrize("width", [20, 1000])
def test_text_is_shown_as_it_is(width: int):
    line = "[bold]not markup[/bold] [1/2] C:x:y :smile: http://x " + "long " * 60 + "end"
    console = Console(file=io.StringIO(), width=width)
    Display(console=console).line(line)
    assert written(console) == f"{line}\n"


def test_standard_output_is_where_lines_go_by_default(capsys: pytest.CaptureFixture[str]):
    Display().line("to the screen")
    assert capsys.readouterr().out == "to the screen\n"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]):
    display = Display(quiet=True)
    display.header(COLUMNS)
    with display.bar("epoch", total=2) as move:
        move(2)
    display.line("anything")
    assert capsys.readouterr() == ("", "")


def test_a_quiet_terminal_gets_no_control_codes(terminal: Console):
    terminal.quiet = True
    with Display(console=terminal).bar("epoch", total=2) as move:
        move(2)
    assert written(terminal) == ""


def test_a_terminal_sees_the_bar_and_gets_its_cursor_back(terminal: Console):
    with Display(console=terminal).bar("epoch 1/2", total=5, unit="batches") as move:
        move(5, "loss 0.1234")
    text = written(terminal)
    assert "epoch 1/2" in text
    assert "batches" in text
    assert "5/5" in text
    assert "loss 0.1234" in text
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_the_cursor_is_visible_again_after_an_error(terminal: Console, error: type[BaseException]):
    threads = threading.enumerate()
    standard = sys.stdout, sys.stderr

    def fail() -> None:
        with Display(console=terminal).bar("epoch", total=5) as move:
            move(2)
            raise error

    with pytest.raises(error):
        fail()
    text = written(terminal)
    assert text.count(HIDE_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    for thread in set(threading.enumerate()) - set(threads):
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert (sys.stdout, sys.stderr) == standard


def test_the_bar_is_wiped_from_a_terminal_and_the_table_stays(terminal: Console):
    display = Display(console=terminal)
    display.header(["epoch", "time"])
    with display.bar("training", total=1) as move:
        move(1)
    display.row(["0", "00:01"])
    text = written(terminal)
    # After the bar its line is erased, so that the row takes its place.
    assert "\x1b[2K" in text[text.rindex("training") :]
    assert text.endswith("0         00:01\n")
