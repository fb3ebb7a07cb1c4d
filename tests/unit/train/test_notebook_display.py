"""What training says in a notebook: one HTML table for each fit, changed in place; checked in a real kernel, too."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import IPython.display
import pytest

from vizsla.train import display as notebook_display
from vizsla.train.display import (
    Display,
    NotebookDisplay,
    bar_html,
    make_display,
    table_html,
    table_text,
)


@dataclass
class Page:
    """What a front end shows: bundles, each changed by the updates of its place."""

    shown: list[dict[str, str]] = field(default_factory=list)
    num_messages: int = 0

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Place:
        assert raw
        assert display_id
        self.num_messages += 1
        self.shown.append(dict(bundle))
        return Place(page=self, number=len(self.shown) - 1)


@dataclass
class Place:
    """One output of a page."""

    page: Page
    number: int

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.page.num_messages += 1
        self.page.shown[self.number] = dict(bundle)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setattr(IPython.display, "display", page.display)
    return page


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook_display, "_SECONDS_BETWEEN", 0.0)


def test_each_fit_has_a_table_of_its_own(page: Page):
    display = NotebookDisplay()
    display.header(("epoch", "train_loss", "time"))
    display.row(("0", "1.551305", "00:19"))
    display.header(("epoch", "train_loss", "time"))
    display.row(("0", "0.529473", "00:23"))
    display.row(("1", "0.330207", "00:24"))
    first, second = page.shown
    assert first["text/html"].startswith('<table border="1" class="dataframe"><thead>')
    assert first["text/html"].count("<tr") == 2
    assert second["text/html"].count("<tr") == 3
    assert second["text/plain"].splitlines() == [
        "epoch     train_loss  time",
        "0         0.529473    00:23",
        "1         0.330207    00:24",
    ]


@pytest.mark.usefixtures("_at_once")
def test_a_bar_moves_below_the_table_and_goes(page: Page):
    display = NotebookDisplay()
    display.header(("epoch",))
    with display.bar("epoch 1/2", total=92, unit="batches") as move:
        move(31, "loss 1.2345")
        (during,) = page.shown
        assert '<progress value="31" max="92"' in during["text/html"]
        assert "epoch 1/2" in during["text/html"]
        assert "loss 1.2345" in during["text/html"]
    (after,) = page.shown
    assert "<progress" not in after["text/html"]


@pytest.mark.usefixtures("_at_once")
def test_a_bar_goes_after_an_error(page: Page):
    display = NotebookDisplay()
    display.header(("epoch",))
    shown = display.bar("epoch 1/2", total=2)
    shown.__enter__()(1)
    shown.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "<progress" not in page.shown[0]["text/html"]


@pytest.mark.usefixtures("_at_once")
def test_bars_without_a_table_have_places_of_their_own(page: Page):
    display = NotebookDisplay()
    for label in ("reading", "predicting"):
        with display.bar(label, total=2) as move:
            move(1)
    assert [bundle["text/html"] for bundle in page.shown] == ["", ""]


@pytest.mark.usefixtures("_at_once")
def test_bars_can_be_switched_off(page: Page):
    display = NotebookDisplay()
    display.bars = False
    with display.bar("reading", total=2) as move:
        move(1)
    assert page.shown == []


def test_a_fast_bar_sends_few_messages(page: Page):
    with NotebookDisplay().bar("reading", total=1000) as move:
        for done in range(1000):
            move(done)
    assert page.num_messages < 20


def test_quiet_says_nothing(page: Page, capsys: pytest.CaptureFixture[str]):
    display = NotebookDisplay(quiet=True)
    display.header(("epoch",))
    display.row(("0",))
    display.line("better")
    assert page.shown == []
    assert capsys.readouterr().out == ""


def test_a_line_goes_to_where_output_goes_now(capsys: pytest.CaptureFixture[str]):
    display = NotebookDisplay()
    display.line("No improvement since epoch [1]")
    assert capsys.readouterr().out == "No improvement since epoch [1]\n"


def test_what_names_say_is_no_html():
    assert "<b>" not in table_html(("<b>",), [("a & b",)])
    assert "a &amp; b" in table_html(("<b>",), [("a & b",)])
    bar = bar_html("<i>", done=0, total=0, unit="<u>", note="<s>", seconds=0)
    assert 'max="1"' in bar
    assert not any(tag in bar for tag in ("<i>", "<u>", "<s>"))


def test_a_bar_says_how_long_it_will_take():
    assert "00:10 &lt; 00:30" in bar_html("", done=5, total=20, unit="", note="", seconds=10)


def test_the_text_has_columns_at_least_eight_wide():
    assert table_text(("epoch", "time"), [("0", "00:01")]) == "epoch     time\n0         00:01"


@pytest.mark.parametrize(
    ("shell", "kind"),
    [
        ("ZMQInteractiveShell", NotebookDisplay),
        ("TerminalInteractiveShell", Display),
        (None, Display),
    ],
)
def test_the_place_decides(shell: str | None, kind: type, monkeypatch: pytest.MonkeyPatch):
    running: Any = None if shell is None else type(shell, (), {})()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: running)
    assert type(make_display(quiet=True)) is kind


def test_without_ipython_lines_are_plain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "IPython")
    assert type(make_display()) is Display
