"""The words of ``vizsla bench`` in, a call of ``run_bench`` out; a table or JSON on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vizsla.cli.options import (
    Arch,
    BatchSize,
    CacheBudget,
    CacheMode,
    Device,
    Labels,
    PictureSize,
    PrecisionName,
    Presize,
    Seed,
    Truncated,
    TruncatedFiles,
    Valid,
    Workers,
)
from vizsla.cli.terminal import as_json, check_arch, check_device, number_or_auto, reported_errors

if TYPE_CHECKING:
    from vizsla.train.display import Display
    from vizsla.types import PictureTable

MADE_UP = "photographs like those made up"
MADE_UP_COUNTS = (800, 200)


def bench(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="A folder of pictures, or a CSV file that lists them; without it photographs are made up.",
        ),
    ] = None,
    labels: Labels = "folder",
    valid: Valid = "auto",
    arch: Arch = "efficientnet_lite0",
    size: PictureSize = 224,
    presize: Presize = "auto",
    bs: BatchSize = 32,
    precision: PrecisionName = "auto",
    device: Device = "auto",
    workers: Workers = -1,
    truncated: Truncated = TruncatedFiles.strict,
    cache: CacheMode = "auto",
    cache_budget: CacheBudget = "auto",
    seed: Seed = 0,
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 40.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Measure what training and predicting cost here.

    Reads some of the pictures, takes some steps with random weights, and says what each part costs, how long training on
    all of them would take, what takes most of it, and which settings are faster. Give the same options as to train.

    \b
    Examples:
      vizsla bench pets
      vizsla bench pets --arch resnet34 --bs 64 --device cuda
      vizsla bench --json
    """  # noqa: D301 (click leaves a paragraph alone that begins with this very character)
    with reported_errors(context):
        import tempfile

        from vizsla.bench.results import lines_of
        from vizsla.bench.run import run_bench
        from vizsla.data.table.from_words import resolve_data
        from vizsla.recipe.recipe import TrainConfig
        from vizsla.train.display import Display

        check_arch(arch)
        check_device(device)
        config = TrainConfig(
            arch=arch,
            size=size,
            presize=number_or_auto(presize, option="--presize"),
            batch_size=bs,
            seed=seed,
            precision=precision,
            num_workers=workers,
            device=device,
            truncated="ok" if truncated is TruncatedFiles.ok else "strict",
            cache=cache,
            cache_budget=cache_budget,
        )
        display = Display(quiet=json)
        with tempfile.TemporaryDirectory(prefix="vizsla-bench-") as folder:
            if data is None:
                table, counts = _made_up(Path(folder), bs=bs, display=display), MADE_UP_COUNTS
            else:
                table, counts = resolve_data(data, labels=labels, valid=valid, seed=seed), None
            result = run_bench(
                table,
                config=config,
                data=MADE_UP if data is None else str(data),
                counts=counts,
                seconds=seconds,
                display=display,
            )
        if json:
            typer.echo(as_json(result))
            return
        for line in lines_of(result):
            display.line(line)


def _made_up(folder: Path, *, bs: int, display: Display) -> PictureTable:
    """Make photographs of two classes and return their table."""
    from vizsla.bench.made_up import make_photographs
    from vizsla.data.table.from_words import resolve_data

    number = max(16, min(128, 4 * bs))
    with display.bar("making photographs", total=number) as move:
        make_photographs(folder, number=number, on_progress=move)
    return resolve_data(folder, seed=0)
