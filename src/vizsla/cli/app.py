"""Words typed in a terminal in, calls of the public functions out; results on standard output, errors on standard error.

Exit codes: 0 done, 2 something was wrong with what was given (one message says what), 130 stopped by Ctrl-C.
Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from vizsla import __version__
from vizsla.cli.bench import bench
from vizsla.cli.export import add_commands as add_export_commands
from vizsla.cli.options import (
    Arch,
    BatchSize,
    CacheBudget,
    CacheMode,
    Data,
    Device,
    Epochs,
    Force,
    Labels,
    LearningRate,
    OnBad,
    OnBadPictures,
    PictureSize,
    PrecisionName,
    Presize,
    Profile,
    Seed,
    Truncated,
    TruncatedFiles,
    Valid,
    Weights,
    Workers,
)
from vizsla.cli.predict import predict
from vizsla.cli.report import report
from vizsla.cli.serve import serve
from vizsla.cli.terminal import (
    as_json,
    check_arch,
    check_device,
    check_writable,
    counts_line,
    data_name,
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
        from vizsla.data.table.demo_data import SOLAR_CELLS, solar_cells
        from vizsla.recipe.recipe import TrainConfig
        from vizsla.run.train import RunPlan, run_training
        from vizsla.train.display import Display

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
    data: Data,
    labels: Labels = "folder",
    valid: Valid = "auto",
    arch: Arch = "efficientnet_lite0",
    weights: Weights = None,
    epochs: Epochs = "auto",
    size: PictureSize = 224,
    presize: Presize = "auto",
    bs: BatchSize = 32,
    lr: LearningRate = 1e-4,
    precision: PrecisionName = "auto",
    device: Device = "auto",
    workers: Workers = -1,
    on_bad: OnBadPictures = OnBad.error,
    truncated: Truncated = TruncatedFiles.strict,
    cache: CacheMode = "auto",
    cache_budget: CacheBudget = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: runs/NAME.")
    ] = None,
    checkpoint_every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How often the end-to-end epochs write their state, for --resume.",
        ),
    ] = 300.0,
    profile: Profile = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the folder that was cut off; begin if there is none.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Write into the folder even if it exists; with --resume: even if data or settings differ.",
        ),
    ] = False,
) -> None:
    """Train a classifier; write model, numbers and report.

    The results are in a folder of their own, by default runs/NAME; an earlier run is never written over without --force.

    \b
    Examples:
      vizsla train pets
      vizsla train pets/images --labels 'regex:(.+)_\\d+\\.jpg$' --epochs 3 --size 160
      vizsla train pets --epochs 10 --resume
      torchrun --nproc-per-node 4 -m vizsla train pets --epochs 5
    """  # noqa: D301 (click leaves a paragraph alone that begins with this very character)
    with reported_errors(context):
        from vizsla.data.table.from_words import resolve_data
        from vizsla.recipe.recipe import TrainConfig
        from vizsla.run.train import RunPlan, run_training
        from vizsla.train import distributed
        from vizsla.train.display import Display

        check_arch(arch)
        check_device(device)
        with distributed.start(device) as own_device:
            config = TrainConfig(
                arch=arch,
                weights="" if weights is None else str(weights),
                epochs=number_or_auto(epochs, option="--epochs"),
                size=size,
                presize=number_or_auto(presize, option="--presize"),
                batch_size=bs,
                learning_rate=lr,
                seed=seed,
                precision=precision,
                num_workers=workers,
                device=device if own_device is None else str(own_device),
                truncated="ok" if truncated is TruncatedFiles.ok else "strict",
                cache=cache,
                cache_budget=cache_budget,
            )
            table = resolve_data(data, labels=labels, valid=valid, seed=seed)
            display = Display(quiet=not distributed.is_main())
            display.line(counts_line(table))
            name = data_name(data)
            plan = RunPlan(
                title=name,
                data=str(data),
                config=config,
                on_bad="skip" if on_bad is OnBad.skip else "error",
                choices=(("data", str(data)), ("labels", labels), ("valid", valid)),
            )
            run = run_training(
                table,
                plan=plan,
                out=Path("runs") / name if out is None else out,
                force=force,
                resume=resume,
                checkpoint_seconds=checkpoint_every,
                profile=profile,
                display=display,
            )
            main = distributed.is_main()
        if main:
            finish(run)


@app.command("find-lr")
def find_lr(
    context: typer.Context,
    data: Data,
    labels: Labels = "folder",
    valid: Valid = "auto",
    arch: Arch = "efficientnet_lite0",
    weights: Weights = None,
    size: PictureSize = 224,
    presize: Presize = "auto",
    bs: BatchSize = 32,
    precision: PrecisionName = "auto",
    device: Device = "auto",
    workers: Workers = -1,
    truncated: Truncated = TruncatedFiles.strict,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Steps of each of three runs.")] = 100,
    out: Annotated[
        Path | None, typer.Option(help="The plot, a PNG; default: NAME-learning-rate.png.")
    ] = None,
) -> None:
    """Suggest a learning rate for the end-to-end epochs.

    Prints rates for train --lr and draws the loss over the rate. Give the same options as to train: the rate is raised from
    where its end-to-end epochs would begin, and nothing is kept of that.
    """
    with reported_errors(context):
        from vizsla.data.table.from_words import resolve_data
        from vizsla.recipe.recipe import EPOCH_COLUMNS, TrainConfig
        from vizsla.run.find_rate import describe, find_rate
        from vizsla.train.display import Display
        from vizsla.train.lr_finder import save_finder_plot

        check_arch(arch)
        check_device(device)
        config = TrainConfig(
            arch=arch,
            weights="" if weights is None else str(weights),
            size=size,
            presize=number_or_auto(presize, option="--presize"),
            batch_size=bs,
            seed=seed,
            precision=precision,
            num_workers=workers,
            device=device,
            truncated="ok" if truncated is TruncatedFiles.ok else "strict",
        )
        table = resolve_data(data, labels=labels, valid=valid, seed=seed)
        plot = Path(f"{data_name(data)}-learning-rate.png") if out is None else out
        check_writable(plot)
        display = Display()
        display.line(counts_line(table))
        display.header(EPOCH_COLUMNS)
        curve, suggestions = find_rate(table, config=config, display=display, num_it=steps)
        typer.echo()
        for line in describe(suggestions):
            typer.echo(line)
        typer.echo(f"Plot: {save_finder_plot(plot, curve, suggestions)}")


@app.command()
def check(
    context: typer.Context,
    data: Data,
    labels: Labels = "folder",
    valid: Valid = "auto",
    truncated: Truncated = TruncatedFiles.strict,
    seed: Seed = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print the counts as one JSON object.")
    ] = False,
) -> None:
    """Say what is in the data and what is wrong with it.

    Exit code 0: it can be trained on. Exit code 2: it cannot; all faults are named.

    \b
    Examples:
      vizsla check pets
      vizsla check labels.csv --labels csv:labels.csv,image=file,label=breed --json
    """  # noqa: D301 (click leaves a paragraph alone that begins with this very character)
    with reported_errors(context):
        from vizsla.data.cache.cache import PictureCache
        from vizsla.data.images.facts import SmallPictures
        from vizsla.data.table.check import describe_data
        from vizsla.data.table.from_words import resolve_data
        from vizsla.recipe.recipe import TrainConfig
        from vizsla.run.train import RunPlan, enlarged_pictures, read_all
        from vizsla.train.display import Display
        from vizsla.types import as_size

        table = resolve_data(data, labels=labels, valid=valid, seed=seed)
        display = Display(quiet=json)
        config = TrainConfig(truncated="ok" if truncated is TruncatedFiles.ok else "strict")
        plan = RunPlan(title="", data=str(data), config=config)
        cache, small = PictureCache(mode="off"), SmallPictures(as_size(config.size))
        table = read_all(table, plan=plan, cache=cache, display=display, small=small)
        summary = describe_data(table)
        if json:
            typer.echo(as_json(summary))
            return
        width = max(len(one.label) for one in summary.classes)
        display.line(f"{'class'.ljust(width)}  {'train':>7}  {'valid':>7}  {'other':>7}")
        for one in summary.classes:
            display.line(
                f"{one.label.ljust(width)}  {one.num_train:>7,}  {one.num_valid:>7,}  {one.num_other:>7,}"
            )
        display.line(f"All {summary.num_train + summary.num_valid:,} pictures can be read.")
        enlarged = enlarged_pictures(table, plan=plan, small=small)
        if enlarged:
            display.line(enlarged)


app.command()(predict)


@app.command("cache")
def show_cache(
    context: typer.Context,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all pictures from it.")] = False,
) -> None:
    """Show what is kept on disk between runs, or remove it."""
    with reported_errors(context):
        from vizsla.data.cache.disk import cache_folder, clear_disk_cache, disk_use
        from vizsla.machine import shown_bytes

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


app.command()(serve)
add_export_commands(app)
app.command()(report)
app.command()(bench)
