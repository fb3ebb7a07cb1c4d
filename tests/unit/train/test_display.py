"""What training shows and records: bars and tables byte by byte, notebooks, the recorder and its plots. Golden values: tests/golden/training.json."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from vizsla import ConfigError, OutputError, accuracy
from vizsla.evaluate import HistoryPoint
from vizsla.train import (
    Display,
    FitRecord,
    NotebookDisplay,
    Recorder,
    bar_html,
    format_seconds,
    make_display,
    save_history,
    table_html,
)
from vizsla.train import display as notebook_display

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "training.json").read_text("utf-8"))
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


# --- terminals and pipes ---------------------------------------------------------------------------------------------


def test_where_there_is_no_terminal_lines_say_how_far_it_is_also_in_a_long_step(
    pipe: Console, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vizsla.train.display.SECONDS_BETWEEN_LINES", 0.02)
    with Display(console=pipe).bar("reading images", total=2000) as move:
        wait_for(pipe, "reading images: 0.0 s so far")
        move(1000)
        wait_for(pipe, "reading images: 1,000 of 2,000 images, about 0.")
    before = written(pipe)
    time.sleep(0.05)
    assert written(pipe) == before


def wait_for(console: Console, words: str) -> None:
    end = time.monotonic() + 10
    while words not in written(console):
        assert time.monotonic() < end, written(console)
        time.sleep(0.005)


def test_times_look_as_recorded():
    for seconds, text in GOLDEN["seconds"]:
        assert format_seconds(seconds) == text


def test_tables_look_as_recorded_and_bars_do_not_show_in_a_pipe(pipe: Console):
    values, cells = GOLDEN["printed_row"]["values"], GOLDEN["printed_row"]["cells"]
    shown = [str(values[0]), *(f"{value:.6f}" for value in values[1:4]), values[4]]
    assert shown == cells
    display = Display(console=pipe)
    display.header(["a", "a_rather_long_metric", "b"])
    display.row(["1", "2", "3"])
    display.header(COLUMNS)  # A new table has its own widths.
    with display.bar("epoch 1/1", total=3, unit="batches") as move:
        move(1, "loss 0.5")
        move(3)
    display.row(cells)
    assert written(pipe).splitlines() == [
        "a         a_rather_long_metric  b",
        "1         2                     3",
        "epoch     train_loss  valid_loss  error_rate  time",
        "0         1.551305    0.322132    0.106225    00:19",
    ]


def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]):
    line = "[bold]not markup[/bold] [1/2] C:x:y :smile: http://x " + "long " * 60 + "end"
    for width in [20, 1000]:
        console = Console(file=io.StringIO(), width=width)
        Display(console=console).line(line)
        assert written(console) == f"{line}\n"
    for display in (Display(), NotebookDisplay()):
        display.line("[1] to the screen")
        assert capsys.readouterr().out == "[1] to the screen\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str], terminal: Console, page: Page):
    terminal.quiet = True
    for display in (Display(quiet=True), Display(console=terminal), NotebookDisplay(quiet=True)):
        display.header(COLUMNS)
        display.row(COLUMNS)
        with display.bar("epoch", total=2) as move:
            move(2)
        display.line("anything")
    assert capsys.readouterr() == ("", "")
    assert written(terminal) == ""
    assert page.shown == []


def test_a_terminal_sees_the_bar_until_it_is_wiped(terminal: Console):
    display = Display(console=terminal)
    display.header(["epoch", "time"])
    with display.bar("epoch 1/2", total=5, unit="batches") as move:
        move(5, "loss 0.1234")
    display.row(["0", "00:01"])
    text = written(terminal)
    assert all(part in text for part in ("epoch 1/2", "batches", "5/5", "loss 0.1234"))
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    # After the bar its line is erased, so that the row takes its place.
    assert "\x1b[2K" in text[text.rindex("epoch 1/2") :]
    assert text.endswith("0         00:01\n")


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


# --- notebooks -------------------------------------------------------------------------------------------------------


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
def test_a_bar_moves_below_the_table_and_goes_after_an_error_too(page: Page):
    display = NotebookDisplay()
    display.header(("epoch",))

    def interrupt() -> None:
        with display.bar("epoch 1/2", total=92, unit="batches") as move:
            move(31, "loss 1.2345")
            (during,) = page.shown
            assert '<progress value="31" max="92"' in during["text/html"]
            assert "epoch 1/2" in during["text/html"]
            assert "loss 1.2345" in during["text/html"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    (after,) = page.shown
    assert "<progress" not in after["text/html"]


@pytest.mark.usefixtures("_at_once")
def test_bars_without_a_table_have_their_own_places_and_can_be_hidden(page: Page):
    display = NotebookDisplay()
    for label in ("reading", "predicting", "hidden"):
        display.bars = label != "hidden"
        with display.bar(label, total=2) as move:
            move(1)
    assert [bundle["text/html"] for bundle in page.shown] == ["", ""]


def test_a_fast_bar_sends_few_messages(page: Page):
    with NotebookDisplay().bar("reading", total=1000) as move:
        for done in range(1000):
            move(done)
    assert page.num_messages < 20


def test_names_are_escaped_and_a_bar_says_how_long_it_will_take():
    table = table_html(("<b>",), [("a & b",)])
    assert "<b>" not in table
    assert "a &amp; b" in table
    bar = bar_html("<i>", done=0, total=0, unit="<u>", note="<s>", seconds=0)
    assert 'max="1"' in bar
    assert not any(tag in bar for tag in ("<i>", "<u>", "<s>"))
    assert "00:10 &lt; 00:30" in bar_html("", done=5, total=20, unit="", note="", seconds=10)


def test_the_place_decides_what_is_shown(monkeypatch: pytest.MonkeyPatch):
    for shell, kind in [
        ("ZMQInteractiveShell", NotebookDisplay),
        ("TerminalInteractiveShell", Display),
        (None, Display),
    ]:
        running: Any = None if shell is None else type(shell, (), {})()
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda it=running: it)
        assert type(make_display(quiet=True)) is kind
    monkeypatch.delitem(sys.modules, "IPython")
    assert type(make_display()) is Display


# --- the history file ------------------------------------------------------------------------------------------------

POINTS = [
    HistoryPoint(stage="head, 10 pictures", epoch=0, valid_loss=1 / 3, accuracy=0.5, seconds=0.125),
    HistoryPoint(
        stage="end to end",
        epoch=1,
        train_loss=0.1 + 0.2,
        valid_loss=1e-7,
        accuracy=2 / 3,
        seconds=12.5,
    ),
]


def test_every_point_is_a_row_with_numbers_in_full_precision(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", POINTS)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].split(",") == [column.name for column in fields(HistoryPoint)]
    assert lines[0].startswith("stage,epoch,train_loss,valid_loss,accuracy,seconds")
    assert lines[1].startswith('"head, 10 pictures",0,,0.3333333333333333,0.5,0.125')
    assert "None" not in lines[1]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == [point.stage for point in POINTS]
    for row, point in zip(rows, POINTS, strict=True):
        assert int(row["epoch"]) == point.epoch
        for name in ("train_loss", "valid_loss", "accuracy", "seconds"):
            value = getattr(point, name)
            assert (float(row[name]) if row[name] else None) == value, name
    assert save_history(path, []).read_text("utf-8").splitlines() == lines[:1]
    with pytest.raises(OutputError, match=r"missing.*history\.csv"):
        save_history(tmp_path / "missing" / "history.csv", POINTS)


# --- plots of the record ---------------------------------------------------------------------------------------------


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Two fits; the last of two epochs of five steps."""
    last = FitRecord(
        stage="unfrozen",
        losses=[float(step) for step in range(10)],
        smoothed=[10.0 - step for step in range(10)],
        lrs=[0.1 * step for step in range(10)],
        moms=[0.95] * 10,
        iters=[5, 10],
        values=[[6.0, 5.5, 0.25], [1.0, 2.5, 0.75]],
    )
    yield Recorder(metrics=(accuracy,), fits=[FitRecord(stage="frozen"), last])
    plt.close("all")


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in axes.get_lines()
    }


def test_the_learning_curve_has_smoothed_and_validation_losses(recorder: Recorder):
    axes = recorder.plot_loss()
    assert lines_of(axes) == {
        "train": ([5, 6, 7, 8, 9], [5.0, 4.0, 3.0, 2.0, 1.0]),
        "valid": ([5, 10], [5.5, 2.5]),
    }
    expected = "<Axes: title={'center': 'learning curve'}, xlabel='steps', ylabel='loss'>"
    assert repr(axes) == expected
    assert lines_of(recorder.plot_loss(skip_start=6))["valid"] == ([10], [2.5])
    recorder.last.smoothed = recorder.last.smoothed[:6]  # A short fit is drawn whole.
    assert lines_of(recorder.plot_loss())["train"][0] == [0, 1, 2, 3, 4, 5]


def test_several_fits_are_drawn_one_after_the_other(recorder: Recorder):
    recorder.fits[0] = FitRecord(
        stage="frozen",
        losses=[8.0] * 3,
        smoothed=[8.0] * 3,
        lrs=[0.5] * 3,
        iters=[3],
        values=[[8.0, 7.0, 0.1]],
    )  # without a schedule of the momentum
    for fits in (2, None):
        drawn = lines_of(recorder.plot_loss(0, fits=fits))
        assert drawn["train"][1][:4] == [8.0, 8.0, 8.0, recorder.last.smoothed[0]]
        assert drawn["valid"] == ([3, 8, 13], [7.0, 5.5, 2.5])
    recorder.plot_metrics(fits=2)
    assert lines_of(plt.gcf().axes[0])["valid"] == ([0, 1, 2], [7.0, 5.5, 2.5])
    recorder.plot_sched(fits=2)
    assert [np.size(axes.get_lines()[0].get_xdata()) for axes in plt.gcf().axes] == [13, 13]
    with pytest.raises(ConfigError, match="fits=0"):
        recorder.plot_loss(fits=0)


def test_what_is_drawn_can_be_chosen(recorder: Recorder):
    _, given = plt.subplots()
    axes = recorder.plot_loss(0, with_valid=False, log=True, show_epochs=True, ax=given)
    assert axes is given
    assert axes.get_yscale() == "log"
    assert len(axes.get_lines()) == 3  # training, and the ends of two epochs


def test_the_schedule_has_rate_and_momentum_where_there_is_one(recorder: Recorder):
    recorder.plot_sched()
    assert [(axes.get_title(), axes.get_ylabel()) for axes in plt.gcf().axes] == [
        ("lr", "learning rate"),
        ("mom", "momentum"),
    ]
    (rates, *_) = lines_of(plt.gcf().axes[0]).values()
    assert rates[1][-1] == pytest.approx(0.9)
    recorder.last.moms = []
    recorder.plot_sched()
    assert len(plt.gcf().axes) == 1


def test_metrics_are_drawn_beside_the_losses(recorder: Recorder):
    recorder.plot_metrics()
    losses, accuracy = plt.gcf().axes
    assert lines_of(losses) == {"train": ([0, 1], [6.0, 1.0]), "valid": ([0, 1], [5.5, 2.5])}
    assert accuracy.get_title() == "accuracy"
    assert [y for _, y in lines_of(accuracy).values()] == [[0.25, 0.75]]


def test_there_is_nothing_to_draw_before_a_fit():
    recorder = Recorder()
    for plot in (recorder.plot_loss, recorder.plot_sched, recorder.plot_metrics):
        with pytest.raises(ConfigError):
            plot()
