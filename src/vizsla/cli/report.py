"""The words of ``vizsla report`` in, a call of ``rebuild_report`` out."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer

from vizsla.cli.options import Device  # noqa: TC001 (typer reads the annotations)
from vizsla.cli.terminal import check_device, reported_errors


def report(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that train or demo wrote.")],
    device: Device = "auto",
) -> None:
    """Write the report of a run anew, from its files.

    The pictures must still be where they were. The page, report.html in that folder, is replaced at the end. Only training has
    seen each training picture with a model that did not learn from it (leave-one-out), and a run folder does not keep what
    that model said: the new page lists suspected labels of validation pictures, and none of training pictures.

    \b
    Example:
      vizsla report runs/pets
    """  # noqa: D301 (click leaves a paragraph alone that begins with this very character)
    with reported_errors(context):
        from vizsla.run.report import rebuild_report
        from vizsla.train.display import Display

        check_device(device)
        page = rebuild_report(run, device=device, display=Display())
        typer.echo(f"Report: {page}")
