"""What training has to say in, a terminal with bars or plain lines out; the one place that writes to the screen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

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
    def bar(self, label: str, *, total: int, unit: str = "pictures") -> Generator[MoveBar]:
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
