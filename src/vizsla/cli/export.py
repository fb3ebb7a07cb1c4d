"""The commands that turn a model file into other formats and check those; ``add_commands`` gives them to the command line."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer

from vizsla.cli.terminal import reported_errors


def add_commands(app: typer.Typer) -> None:
    """Register ``export`` and ``verify``.

    Args:
        app: The command line.
    """
    app.command("export")(export)
    app.command("verify")(verify)


def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors.")],
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="ONNX file to write, with its preprocessing inside."),
    ] = None,
    torch: Annotated[
        Path | None, typer.Option("--torch", help="Program of torch.export (.pt2) to write.")
    ] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--pictures",
            help="A picture or a folder of them to check with; may be repeated. Default: some made for this.",
        ),
    ] = None,
) -> None:
    """Write a model as ONNX or as a torch.export program.

    Its answers are compared with the model's before it is kept; beside an ONNX file lie pictures and answers that
    `vizsla verify` compares with anywhere. Needs: pip install "vizsla[onnx]"

    Example: vizsla export runs/pets/model.safetensors --onnx pets.onnx --pictures data/valid
    """
    with reported_errors(context):
        from vizsla.export.onnx import export_model

        for written in export_model(model, onnx=onnx, torch_program=torch, pictures=pictures or ()):
            parity = written.parity
            typer.echo(
                f"{written.path}: max difference {parity.max_difference:.1e} on {parity.num_pictures:,} pictures "
                f"in {parity.num_batches:,} batches (worst: {parity.worst})"
            )
            if written.golden is not None:
                typer.echo(
                    f"{written.golden}: pictures and answers for `vizsla verify {written.path}`"
                )


def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="As `vizsla export` wrote it.")],
    golden: Annotated[
        Path | None, typer.Option(help="Pictures and answers; default: FILE.golden.npz.")
    ] = None,
) -> None:
    """Check that an ONNX file answers as when it was written.

    Exit code 0: it does, to 0.001. Exit code 2: it does not, or a file is missing or damaged.

    Example: vizsla verify pets.onnx
    """
    with reported_errors(context):
        from vizsla.export.verify import verify_onnx

        parity = verify_onnx(file, golden=golden)
        typer.echo(
            f"{file}: max difference {parity.max_difference:.1e} on {parity.num_pictures:,} pictures "
            f"in {parity.num_batches:,} batches"
        )
