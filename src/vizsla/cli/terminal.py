"""What the commands of the command line share: errors as messages, results as lines, choices checked early."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from errno import EDQUOT, EFBIG, EIO, ENOSPC
from typing import TYPE_CHECKING

import typer

from vizsla.errors import ConfigError, OutputError, VizslaError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from vizsla.run.train import FinishedRun
    from vizsla.types import PictureTable


@contextmanager
def reported_errors(context: typer.Context) -> Generator[None]:
    """Turn errors of ours into one message and exit code 2, and Ctrl-C into exit code 130.

    With ``--debug`` the traceback takes the place of the message.
    """
    import traceback
    import warnings

    def say(error: BaseException, message: str) -> None:
        shown = "".join(traceback.format_exception(error)) if context.obj else f"vizsla: {message}"
        typer.echo(shown, err=True)

    # Pillow warns of oddities in files that it reads all the same; what it cannot read is reported by us.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        yield
    except VizslaError as error:
        say(error, str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        say(stop, " ".join(["Stopped by Ctrl-C.", *getattr(stop, "__notes__", ())]))
        raise typer.Exit(130) from None
    except OSError as error:
        # Without a file name it is standard output, which goes into a file on a full disk.
        if error.filename is not None or error.errno not in (ENOSPC, EDQUOT, EFBIG, EIO):
            raise
        cure = "The output is not complete; free some space and run the command again."
        say(error, f"Cannot write to standard output: {error.strerror}. {cure}")
        # What is still in the buffer would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(2) from None


def finish(run: FinishedRun, *, references: tuple[tuple[str, float], ...] = ()) -> None:
    """Print the result of a run and where its files are."""
    metric = run.metrics[0]
    form = ".2%" if metric.name in ("accuracy", "exact_match") else ".3f"
    typer.echo(
        f"\nValidation {metric.name.replace('_', ' ')} {metric.value:{form}}, "
        f"95 % interval {metric.low:{form}} to {metric.high:{form}} ({metric.num_pictures:,} pictures)"
    )
    for name, value in references:
        typer.echo(f"Published: {value:.2%} {name}")
    typer.echo(f"Results: {run.folder}{'/'}  (open {run.folder / 'report.html'})")
    if run.problem:
        typer.echo(f"vizsla: {run.problem}", err=True)
        raise typer.Exit(2)
    if run.interrupted:
        raise typer.Exit(130)


def number_or_auto(text: str, *, option: str) -> int | str:
    """Return a whole number, or ``"auto"``.

    Raises:
        ConfigError: It is neither.
    """
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{option} is 'auto' or a whole number. Received: {text!r}") from None


def data_name(data: Path) -> str:
    """Return what results on some data are called: the name of the folder, or of the file without its suffix."""
    return data.resolve().name if data.is_dir() else data.stem


def counts_line(table: PictureTable) -> str:
    """Return how many pictures and classes there are, in a sentence."""
    return (
        f"{len(table.train_rows):,} pictures to learn from, {len(table.valid_rows):,} to validate on, "
        f"{len(table.vocab)} classes"
    )


def check_writable(path: Path) -> None:
    """Find out before anything is computed whether a file can be written.

    Raises:
        OutputError: Its folder is not there, or it is a folder itself.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OutputError(f"Cannot write {path}: {what}. Choose another --out.")


def check_arch(arch: str) -> None:
    """Find out before the pictures are looked at whether there is such a network.

    Raises:
        ConfigError: There is none; the message has the nearest names.
    """
    from vizsla.models.names import resolve_architecture

    resolve_architecture(arch)


def check_device(device: str) -> None:
    """Find out before anything is read whether there is such a device.

    Raises:
        ConfigError: There is none, or it is not the name of one.
    """
    import torch

    is_there = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device not in is_there:
        raise ConfigError(f"--device is auto, cpu, cuda or mps. Received: {device!r}")
    if not is_there[device]:
        raise ConfigError(
            f"There is no device {device!r} here that torch can use. Leave --device out to take the best one there is."
        )


def as_json(value: object) -> str:
    """Return a dataclass of plain values as one JSON object; letters that are no Unicode are escapes."""
    return json.dumps(asdict(value))  # pyright: ignore[reportArgumentType] (any dataclass)
