"""What a run was made with in, to be compared when it is taken up again; errors that say what to do about a difference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, OutputError
from vizsla.files import atomic_write
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Settings = dict[str, object]
"""What rows depend on, by the names of the options; a run is taken up with the same only."""


def write_settings(path: Path, settings: Settings) -> None:
    """Write what a run is made with.

    Raises:
        OutputError: It cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def check_settings(path: Path, settings: Settings, *, file: Path) -> None:
    """Compare what a run was made with and what it is to go on with.

    Args:
        path: As ``write_settings`` wrote it.
        settings: Those of now.
        file: The file that both are about.

    Raises:
        ConfigError: They differ, or it is not known what the run was made with.
    """
    try:
        known: Mapping[str, object] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"It is not known how the rows beside {quoted(file)} were made: {quoted(path)} cannot be read. "
            "Predict anew with --force."
        ) from error
    different = [
        f"{name} was {known.get(name)!r:.80} and is {value!r:.80}"
        for name, value in settings.items()
        if known.get(name) != value
    ]
    if different:
        raise ConfigError(
            f"The unfinished {quoted(file)} was made in another way: {'; '.join(different)}. "
            "Give the same as before, or predict anew with --force."
        )


def expect_same(known: str, given: str | None, *, number: int, file: Path) -> str:
    """Return a picture that was given, if the row at its place is about it.

    Args:
        known: Path in the row.
        given: Path that was given; None if there are no more.
        number: Number of the row, from 1.
        file: The file that the row is of.

    Raises:
        ConfigError: They differ.
    """
    if given is None or _as_written(given) != _as_written(known):
        now = "there is no such picture" if given is None else f"it is {quoted(given)}"
        raise ConfigError(
            f"Row {number:,} of the unfinished {quoted(file)} is about {quoted(known)}, and now {now}. "
            "Give the same pictures in the same order, or predict anew with --force."
        )
    return given


def _as_written(path: str) -> str:
    return path.encode("utf-8", errors="backslashreplace").decode("utf-8")


def said_of(error: OSError, *, file: Path) -> OutputError:
    """Return the error that says that a file cannot be written, to be raised from the system's.

    Args:
        error: The system's.
        file: What was to be written.
    """
    return OutputError(
        f"Cannot write {quoted(file)}: {error.strerror or error}. The rows until then are kept beside it: "
        "free some space or mend the permissions, and go on with --resume."
    )
