"""The words of ``vizsla predict`` in, rows on standard output or in a file out; the bar and the summary on standard error."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vizsla.cli.options import Device, Workers  # noqa: TC001 (typer reads the annotations)
from vizsla.cli.terminal import check_device, reported_errors
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vizsla.predict.formats import Format
    from vizsla.predict.stream import Predicted

_STDOUT = Path("-")


def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...", help="Pictures, or folders of them; -: a list on standard input."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Comma-separated, every class's probability; -: print it."
        ),
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="One JSON object per line.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="A Parquet file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a file that was not finished.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Throw away the rows of a file that was not finished.")
    ] = False,
    lists: Annotated[
        list[Path] | None,
        typer.Option("--list", metavar="FILE", help="A file with one path in each line."),
    ] = None,
    null: Annotated[
        bool,
        typer.Option("--null", "-0", help="The paths of lists end with zero bytes (find -print0)."),
    ] = False,
    tta: Annotated[
        int, typer.Option("--tta", metavar="N", help="Views of each picture to average, 1 to 12.")
    ] = 1,
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Add the set of classes that holds the true one so often, as 0.95."
        ),
    ] = None,
    device: Device = "auto",
    bs: Annotated[int, typer.Option("--bs", help="Pictures that are computed together.")] = 32,
    workers: Workers = -1,
) -> None:
    """Say what is on pictures: class, probability, likeliest three.

    Any number of pictures, in the order given, in memory that does not grow with them. A file that is written appears
    when it is whole; until then its rows lie beside it, and --resume goes on with them after a stop of any kind. A
    picture that cannot be read gets a row with the cause, and the exit code is then 2.

    \b
    Examples:
      vizsla predict runs/pets/model.safetensors holiday/ new.jpg
      vizsla predict model.safetensors archive/ --csv archive.csv --resume
      find . -name '*.jpg' -print0 | vizsla predict model.safetensors - -0 --json
    """  # noqa: D301 (typer wants the character itself)
    with reported_errors(context):
        from vizsla.predict.stream import (
            PathSource,
            PredictOptions,
            print_predictions,
            write_predictions,
        )

        form, file = _target(csv=csv, jsonl=jsonl, parquet=parquet, json=json)
        if file is None and (resume or force):
            raise ConfigError(
                "--resume and --force are about a file. Give --csv, --jsonl or --parquet FILE."
            )
        check_device(device)
        source = PathSource(paths=paths or (), lists=lists or (), null=null)
        options = PredictOptions(
            device=device,
            batch_size=bs,
            num_workers=None if workers < 0 else workers,
            views=tta,
            coverage=coverage,
        )
        with _bar(source.num_known, prints=file is None) as move:
            if file is None:
                done = print_predictions(
                    model, source, form=form, options=options, on_progress=move
                )
            else:
                done = _kept_on_stop(
                    lambda: write_predictions(
                        model,
                        source,
                        file=file,
                        form=form,
                        options=options,
                        resume=resume,
                        force=force,
                        on_progress=move,
                    )
                )
        if done is None:
            typer.echo(f"{file} is complete already.", err=True)
            return
        if file is not None:
            typer.echo(_summary(done, file=file), err=True)
        if done.num_failed:
            number = f"{done.num_failed:,} pictures" if done.num_failed > 1 else "1 picture"
            where = "the lines above" if file is None else "the column 'error'"
            typer.echo(f"vizsla: {number} could not be read; see {where}.", err=True)
            raise typer.Exit(2)


def _target(
    *, csv: Path | None, jsonl: Path | None, parquet: Path | None, json: bool
) -> tuple[Format, Path | None]:
    """Return the form, and the file to write, None for standard output."""
    from vizsla.predict.formats import Format

    chosen = {
        "--csv": (Format.csv, csv),
        "--jsonl": (Format.json, jsonl),
        "--parquet": (Format.parquet, parquet),
        "--json": (Format.json, _STDOUT if json else None),
    }
    given = [name for name, (_, file) in chosen.items() if file is not None]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} exclude each other. Choose one of them.")
    if not given:
        return Format.table, None
    form, file = chosen[given[0]]
    return form, None if file == _STDOUT else file


def _summary(done: Predicted, *, file: Path) -> str:
    pictures = "1 picture" if done.num_pictures == 1 else f"{done.num_pictures:,} pictures"
    rate = done.num_pictures / max(done.seconds, 1e-9)
    before = f" (after {done.num_before:,} that were there)" if done.num_before else ""
    return f"{file}: {pictures}{before} in {done.seconds:.1f} s, {rate:,.0f} pictures/s"


def _kept_on_stop(work: Callable[[], Predicted | None]) -> Predicted | None:
    try:
        return work()
    except KeyboardInterrupt as stop:
        stop.add_note("The rows until then are kept; go on with --resume.")
        raise


@contextmanager
def _bar(total: int | None, *, prints: bool) -> Generator[Callable[[int], None]]:
    """Show a bar on standard error while the block runs, unless rows appear on the same screen."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shown = console.is_terminal and not (prints and sys.stdout.isatty())
    columns = (
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("pictures {task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("", total=total, rate="")
        first: list[tuple[int, float]] = []

        def move(done: int) -> None:
            now = time.perf_counter()
            if not first:  # Rows of before cost no time.
                first.append((done, now))
            rate = (done - first[0][0]) / max(now - first[0][1], 1e-9)
            progress.update(task, completed=done, rate=f"{rate:,.0f}/s" if rate else "")

        yield move
