"""Words typed in a terminal in, calls of the public functions out; results on standard output, errors on standard error.

Exit codes: 0 done, 2 something was wrong with what was given (one message says what), 130 stopped by Ctrl-C.
Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from vizsla import __version__
from vizsla.errors import ConfigError
from vizsla.terminal import (
    check_arch,
    check_device,
    finish,
    number_or_auto,
    reported_errors,
)

app = typer.Typer(
    help="Labelled pictures in, a strong and honest image classifier out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OnBad(StrEnum):
    """What to do about pictures that cannot be read."""

    error = "error"
    skip = "skip"


class TruncatedFiles(StrEnum):
    """What to do about JPEGs that end too early."""

    strict = "strict"
    ok = "ok"


Truncated = Annotated[
    TruncatedFiles,
    typer.Option(help="JPEGs that end too early: strict: unreadable; ok: take what is there."),
]
Seed = Annotated[
    int, typer.Option(help="Split, crops and everything else that is random follow from it.")
]
Force = Annotated[bool, typer.Option("--force", help="Write into the folder even if it exists.")]
Epochs = Annotated[
    str,
    typer.Option(
        help="End-to-end epochs after the head was fitted; auto: 5 on a CUDA device, else 0."
    ),
]


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, names = arguments[:end], arguments[end:]
    if "--debug" in options:  # understood anywhere, not only before the command
        options = ["--debug", *(option for option in options if option != "--debug")]
    app([*options, *names], prog_name="vizsla")


@app.callback(invoke_without_command=True)
def prepare(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Labelled pictures in, a strong and honest image classifier out."""
    context.obj = debug
    # File and class names need not be valid Unicode, nor a terminal know their letters; escapes are shown instead.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if version:
        typer.echo(f"vizsla {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    epochs: Epochs = "auto",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Train on 2,624 pictures of solar cells: which are defective?

    The pictures are in the package elpv-dataset; pip install "vizsla[demo]" brings it.
    """
    with reported_errors(context):
        from vizsla.data.external import SOLAR_CELLS, solar_cells
        from vizsla.runs import RunPlan, run_training
        from vizsla.train.progress import Display
        from vizsla.train.recipes import TrainConfig

        display = Display()
        display.line(f"Data: {SOLAR_CELLS.name}")
        display.line(
            f"Licence: {SOLAR_CELLS.licence}. {SOLAR_CELLS.terms} {SOLAR_CELLS.licence_url}"
        )
        references = tuple((result.method, result.accuracy) for result in SOLAR_CELLS.published)
        plan = RunPlan(
            title="Defects in solar cells",
            data=SOLAR_CELLS.name,
            config=TrainConfig(epochs=number_or_auto(epochs, option="--epochs"), seed=seed),
            choices=(("data", "elpv-dataset"),),
            references=references,
            notes=(
                f"The pictures are under {SOLAR_CELLS.licence} ({SOLAR_CELLS.licence_url}): {SOLAR_CELLS.terms}",
                *SOLAR_CELLS.citation,
            ),
        )
        run = run_training(solar_cells(seed=seed), plan=plan, out=out, force=force, display=display)
        finish(run, references=references)


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="A folder of pictures, or a CSV file that lists them."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="folder | regex:PATTERN (on the file name) | csv:FILE[,image=COLUMN][,label=COLUMN]"
        ),
    ] = "folder",
    valid: Annotated[
        str,
        typer.Option(
            help="Share of each class to hold out; auto: the folder valid where there is one, else 0.2."
        ),
    ] = "auto",
    arch: Annotated[
        str, typer.Option(help="Network, by its name in timm or torchvision.")
    ] = "efficientnet_lite0",
    epochs: Epochs = "auto",
    size: Annotated[
        int, typer.Option(help="Side of the square that the network sees, in pixels.")
    ] = 224,
    presize: Annotated[
        str,
        typer.Option(
            help="Short side at which pictures are kept for random crops; auto: 1.3 x size."
        ),
    ] = "auto",
    bs: Annotated[int, typer.Option("--bs", help="Pictures in a step.")] = 32,
    lr: Annotated[
        float, typer.Option("--lr", help="Peak learning rate of the end-to-end epochs.")
    ] = 1e-4,
    precision: Annotated[str, typer.Option(help="auto | fp32 | bf16")] = "auto",
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | mps")] = "auto",
    workers: Annotated[
        int, typer.Option(help="Threads that read pictures; -1: one per core.")
    ] = -1,
    on_bad: Annotated[
        OnBad, typer.Option(help="Refuse pictures that cannot be read, or train on the rest.")
    ] = OnBad.error,
    truncated: Truncated = TruncatedFiles.strict,
    cache: Annotated[
        str, typer.Option(help="Where prepared pictures are kept: auto|memory|disk|off|device")
    ] = "auto",
    cache_budget: Annotated[
        str, typer.Option(help="What they may take, such as 4GB; auto: a share of what is free.")
    ] = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: runs/NAME.")
    ] = None,
    force: Force = False,
) -> None:
    """Train a classifier; write model, numbers and report.

    The results are in a folder of their own, by default runs/NAME; an earlier run is never written over without --force.
    """
    with reported_errors(context):
        from vizsla.data.resolve import resolve_data
        from vizsla.runs import RunPlan, run_training
        from vizsla.train.progress import Display
        from vizsla.train.recipes import TrainConfig

        config = TrainConfig(
            arch=arch,
            epochs=number_or_auto(epochs, option="--epochs"),
            size=size,
            presize=number_or_auto(presize, option="--presize"),
            batch_size=bs,
            learning_rate=lr,
            seed=seed,
            precision=precision,
            num_workers=workers,
            device=device,
            truncated="ok" if truncated is TruncatedFiles.ok else "strict",
            cache=cache,
            cache_budget=cache_budget,
        )
        check_arch(arch)
        check_device(device)
        table = resolve_data(data, labels=labels, valid=valid, seed=seed)
        display = Display()
        display.line(
            f"{len(table.train_rows):,} pictures to learn from, {len(table.valid_rows):,} to validate on, "
            f"{len(table.vocab)} classes"
        )
        name = data.resolve().name if data.is_dir() else data.stem
        plan = RunPlan(
            title=name,
            data=str(data),
            config=config,
            on_bad="skip" if on_bad is OnBad.skip else "error",
            choices=(("data", str(data)), ("labels", labels), ("valid", valid)),
        )
        folder = Path("runs") / name if out is None else out
        finish(run_training(table, plan=plan, out=folder, force=force, display=display))


@app.command()
def check(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="A folder of pictures, or a CSV file that lists them."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="folder | regex:PATTERN (on the file name) | csv:FILE[,image=COLUMN][,label=COLUMN]"
        ),
    ] = "folder",
    valid: Annotated[str, typer.Option(help="Share of each class to hold out, or auto.")] = "auto",
    truncated: Truncated = TruncatedFiles.strict,
    seed: Seed = 0,
) -> None:
    """Say what is in the data and what is wrong with it."""
    with reported_errors(context):
        from vizsla.data.cache import PictureCache
        from vizsla.data.check import describe_data
        from vizsla.data.resolve import resolve_data
        from vizsla.runs import RunPlan, enlarged_pictures, read_all
        from vizsla.train.progress import Display
        from vizsla.train.recipes import TrainConfig

        table = resolve_data(data, labels=labels, valid=valid, seed=seed)
        display = Display()
        config = TrainConfig(truncated="ok" if truncated is TruncatedFiles.ok else "strict")
        plan = RunPlan(title="", data=str(data), config=config)
        table = read_all(table, plan=plan, cache=PictureCache(mode="off"), display=display)
        summary = describe_data(table)
        width = max(len(one.label) for one in summary.classes)
        display.line(f"{'class'.ljust(width)}  {'train':>7}  {'valid':>7}  {'other':>7}")
        for one in summary.classes:
            display.line(
                f"{one.label.ljust(width)}  {one.num_train:>7,}  {one.num_valid:>7,}  {one.num_other:>7,}"
            )
        display.line(f"All {summary.num_train + summary.num_valid:,} pictures can be read.")
        enlarged = enlarged_pictures(table, plan=plan)
        if enlarged:
            display.line(enlarged)


@app.command()
def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors.")],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Pictures, or folders of them.")
    ],
    csv: Annotated[
        bool, typer.Option("--csv", help="Comma-separated, with every class's probability.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | mps")] = "auto",
    workers: Annotated[
        int, typer.Option(help="Threads that read pictures; -1: one per core.")
    ] = -1,
) -> None:
    """Say what is on pictures: class, probability, likeliest three."""
    with reported_errors(context):
        from vizsla.predicting import Format, print_predictions

        if csv and json:
            raise ConfigError("--csv and --json exclude each other. Choose one of them.")
        check_device(device)
        form = Format.csv if csv else Format.json if json else Format.table
        failed = print_predictions(
            model, paths, form=form, device=device, num_workers=None if workers < 0 else workers
        )
        if failed:
            pictures = "1 picture" if failed == 1 else f"{failed:,} pictures"
            typer.echo(f"vizsla: {pictures} could not be read; see the lines above.", err=True)
            raise typer.Exit(2)


@app.command("cache")
def show_cache(
    context: typer.Context,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all pictures from it.")] = False,
) -> None:
    """Show what is kept on disk between runs, or remove it."""
    with reported_errors(context):
        from vizsla.data.disk_cache import cache_folder, clear_disk_cache, disk_use
        from vizsla.data.room import shown_bytes

        folder = cache_folder()
        if clear:
            before = clear_disk_cache(folder)
            typer.echo(
                f"Removed {before.num_pictures:,} pictures, {shown_bytes(before.num_bytes)}, from {folder}"
            )
            return
        use = disk_use(folder)
        typer.echo(f"place   {use.folder}")
        typer.echo(f"size    {shown_bytes(use.num_bytes)}, {use.num_pictures:,} pictures")
        typer.echo(
            f"budget  {shown_bytes(use.budget_bytes)}, a quarter of the space that is free or taken by it; "
            "train --cache-budget changes it for a run"
        )
