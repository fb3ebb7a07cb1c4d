"""How many bytes are done in, a moving bar in a terminal or a line now and then elsewhere out."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vizsla.data.room import shown_bytes

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


class TransferBar:
    """Shows how far a transfer is.

    Args:
        label: What is being done.
        console: Where to write.
        bar: Of a terminal, running; None to write lines.
    """

    def __init__(self, label: str, *, console: Console, bar: Progress | None) -> None:
        self._label = label
        self._console = console
        self._bar = bar
        self._task = None if bar is None else bar.add_task(label, total=None)
        self._last = time.monotonic()

    def move(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` bytes of ``total`` are there; ``total`` is None while it is not known."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            of = "" if total is None else f" of {shown_bytes(total)}"
            self.line(f"{self._label}: {shown_bytes(done)}{of}")

    def line(self, text: str) -> None:
        """Write a line as it is, above a bar."""
        self._console.print(text, markup=False, highlight=False)


@contextmanager
def transfer_bar(label: str, *, quiet: bool = False) -> Generator[TransferBar]:
    """Show how a transfer goes on while the block runs; the bar goes away, lines stay.

    Args:
        label: What is being done.
        quiet: Show nothing.

    Yields:
        What shows it.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, soft_wrap=True, quiet=quiet)
    if quiet or not console.is_terminal:
        yield TransferBar(label, console=console, bar=None)
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield TransferBar(label, console=console, bar=bar)


def say(text: str, *, quiet: bool = False) -> None:
    """Write one line to standard output as it is.

    Args:
        text: The line.
        quiet: Do not.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, soft_wrap=True, quiet=quiet)
    console.print(text, markup=False, highlight=False)
