"""Show progress: bars and tables in a terminal, HTML in a notebook, plain lines elsewhere."""

from __future__ import annotations

import html
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vizsla.text import duration_text, printable, say

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rich.console import Console

MIN_COLUMN_WIDTH = 8
SECONDS_BETWEEN_LINES = 25.0
"""How often a bar is a line where there is no terminal, as in a file or CI; many give up on what is silent for longer."""


class MoveBar(Protocol):
    """Moves a bar to a number of steps done, with a note beside it."""

    def __call__(self, done: int, note: str = "", /) -> None: ...  # noqa: D102


class Display:
    """Shows bars in a terminal, lines and tables everywhere; set ``bars`` to False to hide the bars.

    ``console`` None is standard output; ``quiet`` prints nothing at all.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = (
            Console(quiet=quiet, soft_wrap=True, force_jupyter=False)
            if console is None
            else console
        )
        self.bars = True
        self._columns: list[str] = []

    def line(self, text: str) -> None:
        """Print one line of text as it is: brackets and numbers are not decorated."""
        self.console.print(
            printable(text), markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    def header(self, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._columns = list(columns)
        self.row(columns)

    def row(self, cells: Sequence[str]) -> None:
        """Add a row to the present table."""
        self.line(table_text(self._columns, [cells]))

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[MoveBar]:
        """Show a bar with the time left in a terminal, or a line now and then elsewhere, while the block runs; yield a function to move it.

        Whatever ends the block, the terminal is left as it was.
        """
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if not (self.console.is_terminal and self.bars):
            with self._lines_now_and_then(label, total=total, unit=unit) as move:
                yield move
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=self.console.quiet
        ) as progress:
            task = progress.add_task(printable(label), total=total, note="")

            def move_bar(done: int, note: str = "", /) -> None:
                progress.update(task, completed=done, note=printable(note))

            yield move_bar

    @contextmanager
    def _lines_now_and_then(self, label: str, *, total: int, unit: str) -> Generator[MoveBar]:
        """Say every ``SECONDS_BETWEEN_LINES`` how far it is, also while a single step takes longer."""
        started, reached, is_over = time.monotonic(), 0, threading.Event()

        def move(done: int, _note: str = "", /) -> None:
            nonlocal reached
            reached = done

        def tell() -> None:
            while not is_over.wait(SECONDS_BETWEEN_LINES):
                passed = time.monotonic() - started
                if 0 < reached < total:
                    rest = duration_text(passed * (total - reached) / reached, space=" ")
                    self.line(f"{label}: {reached:,} of {total:,} {unit}, about {rest} left")
                else:
                    self.line(f"{label}: {duration_text(passed, space=' ')} so far")

        teller = threading.Thread(target=tell, name="vizsla progress", daemon=True)
        if self.bars and not self.console.quiet:
            teller.start()
        try:
            yield move
        finally:
            is_over.set()
            if teller.ident is not None:
                teller.join()


class Bars:
    """One bar after the other, each begun when its work first moves."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._stack = ExitStack()
        self._label = ""
        self._bar: MoveBar | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def move(self, label: str, done: int, total: int) -> None:
        """Move the bar of this label."""
        if label != self._label:
            self._stack.close()
            self._label = label
            self._bar = self._stack.enter_context(self._display.bar(label, total=total))
        if self._bar is not None:
            self._bar(done)


def format_seconds(seconds: float) -> str:
    """Return ``mm:ss``, or ``h:mm:ss`` from an hour on, truncated to whole seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


_SECONDS_BETWEEN = 0.2
"""A bar is redrawn at most five times a second: each drawing is a message to the browser."""

_BAR_WIDTH_PX = 240


def make_display(*, quiet: bool = False) -> Display:
    """Return the display for this place: HTML in a notebook, bars in a terminal, plain lines elsewhere."""
    return NotebookDisplay(quiet=quiet) if in_notebook() else Display(quiet=quiet)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ in {"ZMQInteractiveShell", "Shell"}  # the latter is Colab's


class NotebookDisplay(Display):
    """Shows tables and bars as HTML, changed in place; lines of text as they are."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._rows: list[list[str]] = []
        self._bar = ""
        self._place: Any = None

    def line(self, text: str) -> None:
        """Print one line of text as it is."""
        if not self.console.quiet:
            say(text)

    def header(self, columns: Sequence[str]) -> None:
        """Begin a table in a new place."""
        self._columns, self._rows, self._bar, self._place = list(columns), [], "", None
        self._show()

    def row(self, cells: Sequence[str]) -> None:
        """Add a row to the present table."""
        self._rows.append(list(cells))
        self._show()

    @contextmanager
    def bar(self, label: str, *, total: int, unit: str = "images") -> Generator[MoveBar]:
        """Show a bar below the present table while the block runs; yield a function to move it."""
        started = drawn = time.monotonic()
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
        """Draw table and bar in their place."""
        if self.console.quiet:
            return
        from IPython.display import display

        table = table_html(self._columns, self._rows) if self._columns else ""
        bundle = {
            "text/html": table + self._bar,
            "text/plain": table_text(self._columns, [self._columns, *self._rows]),
        }
        if self._place is None:
            self._place = display(bundle, raw=True, display_id=True)
        else:
            self._place.update(bundle, raw=True)


def table_html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in rows)
    return (
        '<table border="1" class="dataframe"><thead><tr style="text-align: left;">'
        f"{line(columns, 'th')}</tr></thead><tbody>{body}</tbody></table>"
    )


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of a table as text: left-justified below their columns, two spaces between these."""
    widths = [max(MIN_COLUMN_WIDTH, len(column)) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    )


def bar_html(label: str, *, done: int, total: int, unit: str, note: str, seconds: float) -> str:
    """Return a bar as HTML: the label before it, steps done, seconds taken and left, and a note after it."""
    rest = seconds * (total - done) / done if done else 0.0
    times = f"{format_seconds(seconds)} &lt; {format_seconds(rest)}" if done else ""
    words = [f"{done}/{total} {html.escape(unit)}", times, html.escape(note)]
    return (
        '<div style="display: flex; align-items: center; gap: 0.75em; margin: 0.3em 0;">'
        f"<span>{html.escape(label)}</span>"
        f'<progress value="{done}" max="{max(1, total)}" style="width: {_BAR_WIDTH_PX}px;"></progress>'
        f"<span>{' &nbsp; '.join(word for word in words if word)}</span></div>"
    )
