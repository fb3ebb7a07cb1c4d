"""Show progress: bars and tables in a terminal, HTML in a notebook, plain lines elsewhere; nothing else prints."""

from __future__ import annotations

import html
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rich.console import Console

MIN_COLUMN_WIDTH = 8


class MoveBar(Protocol):
    """Moves a bar to a number of steps done, with a note beside it."""

    def __call__(self, done: int, note: str = "", /) -> None:
        """Move it."""
        ...


class Display:
    """Bars that move in a terminal and stay silent elsewhere; lines and tables everywhere.

    Args:
        quiet: Say nothing at all.
        console: Where to write; None is standard output.

    Attributes:
        bars: Whether to show bars.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = (
            Console(quiet=quiet, soft_wrap=True, force_jupyter=False)
            if console is None
            else console
        )
        self.bars = True
        self._widths: list[int] = []

    def line(self, text: str) -> None:
        """Write one line of text as it is: brackets and numbers are not decorated."""
        self.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def header(self, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._widths = [max(MIN_COLUMN_WIDTH, len(column)) for column in columns]
        self.row(columns)

    def row(self, cells: Sequence[str]) -> None:
        """Write a row of the table that was begun last, left-justified, two spaces between columns."""
        padded = (cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        self.line("  ".join(padded).rstrip())

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[MoveBar]:
        """Show a bar with rate and time left while the block runs; give a function to move it.

        Outside of a terminal nothing is shown. Whatever ends the block, the terminal is left as it was.
        """
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        shown = self.bars and self.console.is_terminal and not self.console.quiet
        with Progress(
            *columns, console=self.console, transient=True, disable=not shown
        ) as progress:
            task = progress.add_task(label, total=total, note="")

            def move(done: int, note: str = "", /) -> None:
                progress.update(task, completed=done, note=note)

            yield move


def format_seconds(seconds: float) -> str:
    """Return ``mm:ss``, or ``h:mm:ss`` from an hour on, truncated to whole seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


_SECONDS_BETWEEN = 0.2
"""A bar is drawn anew at most five times a second: each drawing is a message to the browser."""

_BAR_WIDTH_PX = 240


def make_display(*, quiet: bool = False) -> Display:
    """Return what suits the place: HTML in a notebook, bars in a terminal, plain lines elsewhere.

    Args:
        quiet: Say nothing at all.
    """
    return NotebookDisplay(quiet=quiet) if in_notebook() else Display(quiet=quiet)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook (one that shows HTML)."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}  # the latter is Colab's


class NotebookDisplay(Display):
    """Tables and bars of HTML, changed in place; lines of text as they are.

    Args:
        quiet: Say nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._quiet = quiet
        self._columns: list[str] = []
        self._rows: list[list[str]] = []
        self._bar = ""
        self._place: Any = None

    def line(self, text: str) -> None:
        """Write one line of text as it is."""
        if not self._quiet:
            sys.stdout.write(text + "\n")

    def header(self, columns: Sequence[str]) -> None:
        """Begin a table, in a place of its own."""
        self._columns, self._rows, self._bar, self._place = list(columns), [], "", None
        self._show()

    def row(self, cells: Sequence[str]) -> None:
        """Add a row to the table that was begun last."""
        self._rows.append(list(cells))
        self._show()

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[MoveBar]:
        """Show a bar with time left while the block runs; give a function to move it.

        It stands below the table that was begun last, and is gone afterwards, whatever ends the block.
        """
        started = time.monotonic()
        drawn = started
        own_place = not self._columns

        def move(done: int, note: str = "", /) -> None:
            nonlocal drawn
            now = time.monotonic()
            if self.bars and now - drawn >= _SECONDS_BETWEEN:
                drawn = now
                self._bar = bar_html(
                    label, done=done, total=total, unit=unit, note=note, seconds=now - started
                )
                self._show()

        try:
            yield move
        finally:
            if self._bar:
                self._bar = ""
                self._show()
            if own_place:
                self._place = None

    def _show(self) -> None:
        """Draw table and bar, in the place where they were drawn before."""
        if self._quiet:
            return
        from IPython.display import display

        table = table_html(self._columns, self._rows) if self._columns else ""
        bundle = {
            "text/html": table + self._bar,
            "text/plain": table_text(self._columns, self._rows) if self._columns else "",
        }
        if self._place is None:
            self._place = display(bundle, raw=True, display_id=True)
        else:
            self._place.update(bundle, raw=True)


def table_html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML.

    Args:
        columns: Names above the columns.
        rows: Cells of each row.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    head = line(columns, "th").replace("<tr>", '<tr style="text-align: left;">')
    body = "".join(line(cells, "td") for cells in rows)
    return f'<table border="1" class="dataframe"><thead>{head}</thead><tbody>{body}</tbody></table>'


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same table as text, for places that show no HTML."""
    widths = [max(MIN_COLUMN_WIDTH, len(column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (columns, *rows)
    ]
    return "\n".join(lines)


def bar_html(label: str, *, done: int, total: int, unit: str, note: str, seconds: float) -> str:
    """Return a bar as HTML.

    Args:
        label: Before it.
        done: Steps done.
        total: Steps in all.
        unit: Of the steps.
        note: After it.
        seconds: How long it took so far.
    """
    rest = seconds * (total - done) / done if done else 0.0
    times = f"{format_seconds(seconds)} &lt; {format_seconds(rest)}" if done else ""
    words = [f"{done}/{total} {html.escape(unit)}", times, html.escape(note)]
    return (
        '<div style="display: flex; align-items: center; gap: 0.75em; margin: 0.3em 0;">'
        f"<span>{html.escape(label)}</span>"
        f'<progress value="{done}" max="{max(1, total)}" style="width: {_BAR_WIDTH_PX}px;"></progress>'
        f"<span>{' &nbsp; '.join(word for word in words if word)}</span></div>"
    )
