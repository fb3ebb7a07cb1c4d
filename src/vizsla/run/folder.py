"""The wish for a folder in, a folder that can be written to out; what an earlier run left there is never lost half-way."""

from __future__ import annotations

import contextlib
import tempfile
from contextlib import contextmanager
from errno import EISDIR
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def run_folder(out: Path, *, force: bool) -> Generator[Path]:
    """Make the folder of a run, or the next free one, and make sure that files can be written there.

    If the block fails before anything was written, a folder that was made is removed again.

    Args:
        out: The wish.
        force: Take it even if it exists.

    Raises:
        OutputError: It cannot be made or written to.
    """
    folder = out
    try:
        existed = force and out.is_dir()
        folder = out if existed else _new_folder(out, force=force)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    try:
        yield folder
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):  # It stays if a file was written.
                folder.rmdir()
        raise


def _new_folder(out: Path, *, force: bool) -> Path:
    for number in count(1):
        if number > 1 and out.name in ("", ".."):
            break
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if force or Path(error.filename) != folder:  # Else a part of the path is in the way.
                raise
        else:
            return folder
    raise OutputError(
        f"Cannot write results to the folder {out}: it exists, and its name cannot get a number. "
        "Choose another --out, or write into it with --force."
    )


@contextmanager
def place_to_write(folder: Path) -> Generator[Path]:
    """Give a folder to write the files of a run in: an empty one itself, so that what was written stays if a later file fails.

    If something is in the folder, an earlier run for example, the place is a new folder ``unfinished-...`` in it. Its files
    take the places of those with the same names when the block has succeeded, so that the files of two runs never mix.
    """
    try:
        used = any(folder.iterdir())
        place = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder)) if used else folder
    except OSError as error:
        raise _cannot_write_to(folder, error) from error
    if not used:
        yield folder
        return
    try:
        yield place
        _move_files(place, folder)
    except OutputError as error:
        kept = f" What was written of the new run is in {place}." if any(place.iterdir()) else ""
        raise OutputError(f"{error} The earlier files in {folder} are untouched.{kept}") from error
    finally:
        with contextlib.suppress(OSError):  # It stays if a file was written before another failed.
            place.rmdir()


def _move_files(source: Path, target: Path) -> None:
    """Move the files of a folder into another one, all or none unless the system fails in between."""
    try:
        names = sorted(file.name for file in source.iterdir())
        for name in names:
            if (target / name).is_dir():
                raise IsADirectoryError(EISDIR, f"{name} is a folder there")
        for name in names:
            (source / name).replace(target / name)
    except OSError as error:
        raise _cannot_write_to(target, error) from error


def _cannot_write_to(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write results to the folder {folder}: {error.strerror}. Choose another --out."
    )


@contextmanager
def noted_on_stop(note: str) -> Generator[None]:
    """Add a note to the Ctrl-C that ends the block, for the message about it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(note)
        raise
