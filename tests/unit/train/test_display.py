"""What training shows and records: bars and tables byte by byte, notebooks, the recorder and its plots. Golden values: tests/golden/training.json."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import threading
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
from rich.console import Console

from vizsla.errors import ConfigError, OutputError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.train import display as notebook_display
from vizsla.train.display import (
    Display,
    NotebookDisplay,
    bar_html,
    format_seconds,
    make_display,
    table_html,
    table_text,
)
from vizsla.train.recorder import FitRecord, Recorder, save_history

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes


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


def test_times_look_as_recorded():
    for seconds, text in GOLDEN["seconds"]:
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


def test_text_is_shown_as_it_is():
    for width in [20, 1000]:
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


def test_a_quiet_notebook_display_says_nothing(page: Page, capsys: pytest.CaptureFixture[str]):
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
    rows = [("epoch", "time"), ("0", "00:01")]
    assert table_text(rows[0], rows) == "epoch     time\n0         00:01"


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
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["head, 10 pictures", "end to end"]
    for row, point in zip(rows, POINTS, strict=True):
        assert int(row["epoch"]) == point.epoch
        for name in ("train_loss", "valid_loss", "accuracy", "seconds"):
            value = getattr(point, name)
            assert (float(row[name]) if row[name] else None) == value, name


def test_a_figure_that_a_stage_does_not_have_is_empty(tmp_path: Path):
    lines = save_history(tmp_path / "history.csv", POINTS[:1]).read_text("utf-8").splitlines()
    assert lines[0].split(",") == [column.name for column in fields(HistoryPoint)]
    assert lines[1].startswith('"head, 10 pictures",0,,0.3333333333333333,0.5,0.125')
    assert "None" not in lines[1]


def test_pandas_reads_it(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(save_history(tmp_path / "history.csv", POINTS))
    assert frame["stage"].tolist() == [point.stage for point in POINTS]
    assert frame["train_loss"].isna().tolist() == [True, False]


def test_no_epochs_give_a_header_alone(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", [])
    (line,) = path.read_text("utf-8").splitlines()
    assert line.startswith("stage,epoch,train_loss,valid_loss,accuracy,seconds")


def test_an_old_file_is_untouched_when_the_new_one_cannot_be_written(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", POINTS)
    before = path.read_bytes()

    class Broken:
        """A history that ends in an error."""

        def __iter__(self):
            yield POINTS[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_history(path, Broken())  # pyright: ignore[reportArgumentType] (that is the test)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match=r"missing.*history\.csv"):
        save_history(tmp_path / "missing" / "history.csv", POINTS)


def test_two_recorders_share_nothing():
    first, second = Recorder(), Recorder()
    first.losses.append(1.0)
    first.history.append(POINTS[0])
    assert second.losses == []
    assert second.history == []


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def recorder() -> Recorder:
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
    return Recorder(metric_names=("accuracy",), fits=[FitRecord(stage="frozen"), last])


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


def test_validation_within_what_is_skipped_is_left_out(recorder: Recorder):
    assert lines_of(recorder.plot_loss(skip_start=6))["valid"] == ([10], [2.5])


def test_a_short_fit_is_drawn_whole(recorder: Recorder):
    recorder.last.smoothed = recorder.last.smoothed[:6]
    assert lines_of(recorder.plot_loss())["train"][0] == [0, 1, 2, 3, 4, 5]


def test_what_is_drawn_can_be_chosen(recorder: Recorder):
    _, given = plt.subplots()
    axes = recorder.plot_loss(0, with_valid=False, log=True, show_epochs=True, ax=given)
    assert axes is given
    assert axes.get_yscale() == "log"
    assert len(axes.get_lines()) == 3  # training, and the ends of two epochs


def test_the_schedule_has_rate_and_momentum(recorder: Recorder):
    recorder.plot_sched()
    assert [(axes.get_title(), axes.get_ylabel()) for axes in plt.gcf().axes] == [
        ("lr", "learning rate"),
        ("mom", "momentum"),
    ]
    (rates, *_) = lines_of(plt.gcf().axes[0]).values()
    assert rates[1][-1] == pytest.approx(0.9)


def test_a_schedule_without_momentum_is_one_plot(recorder: Recorder):
    recorder.last.moms = []
    recorder.plot_sched()
    assert len(plt.gcf().axes) == 1


def test_metrics_are_drawn_beside_the_losses(recorder: Recorder):
    recorder.plot_metrics()
    losses, accuracy = plt.gcf().axes
    assert lines_of(losses) == {"train": ([0, 1], [6.0, 1.0]), "valid": ([0, 1], [5.5, 2.5])}
    assert accuracy.get_title() == "accuracy"
    assert [y for _, y in lines_of(accuracy).values()] == [[0.25, 0.75]]


def test_nothing_trained_is_said():
    recorder = Recorder()
    for plot in (recorder.plot_loss, recorder.plot_sched, recorder.plot_metrics):
        with pytest.raises(ConfigError, match="Nothing was trained"):
            plot()
