"""The words of ``vizsla serve`` in, a call of ``serve`` out; lines for people on standard output."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import typer

from vizsla.cli.terminal import check_device, reported_errors
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.predict.predictor import Predictor
    from vizsla.serve.nearest import NearestIndex


def serve(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model.safetensors.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any free one.")] = 8000,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run that made the model: shows the nearest of its training pictures."
        ),
    ] = None,
    nearest: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to show the nearest of, labelled by their folders."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A further name that this machine goes by."),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | mps")] = "auto",
    max_batch: Annotated[
        int,
        typer.Option(help="Pictures that run through the network together; 0: by the device."),
    ] = 0,
    max_mb: Annotated[float, typer.Option(help="Megabytes in a request.")] = 20.0,
    max_megapixels: Annotated[float, typer.Option(help="Millions of pixels in a picture.")] = 50.0,
    max_pictures: Annotated[int, typer.Option(help="Pictures in a request.")] = 32,
    max_rate: Annotated[
        float, typer.Option(help="Requests a second from one address; 0: any number.")
    ] = 50.0,
    max_seconds: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 30.0,
    max_requests: Annotated[
        int, typer.Option(help="Requests under way at once; others are asked to come again.")
    ] = 128,
) -> None:
    """Show a model on a web page, with a JSON interface beside it.

    The page takes pictures that are dropped, chosen or pasted and shows the answer, where the network looked and, with
    --run or --nearest, the most similar training pictures. Pictures are not stored. Only this machine can reach it,
    unless --host says otherwise.

    \b
    Examples:
      vizsla serve runs/pets/model.safetensors --run runs/pets
      curl -F pictures=@cat.jpg http://127.0.0.1:8000/api/predict
    """  # noqa: D301 (click leaves a paragraph alone that begins with this very character)
    with reported_errors(context):
        from vizsla.serve.limits import Limits
        from vizsla.serve.run import ServePlan
        from vizsla.serve.run import serve as run_serve

        if run is not None and nearest is not None:
            raise ConfigError("--run and --nearest exclude each other. Choose one of them.")
        check_device(device)
        body_bytes = round(max_mb * 1e6)
        limits = Limits(
            body_bytes=body_bytes,
            buffered_bytes=max(256_000_000, body_bytes),
            pixels=round(max_megapixels * 1e6),
            pictures=max_pictures,
            requests_per_second=max_rate,
            seconds=max_seconds,
            requests=max_requests,
        )
        plan = ServePlan(
            model=model,
            host=host,
            port=port,
            device=device,
            limits=limits,
            allowed_hosts=tuple(allowed_host or ()),
            title=title,
            max_batch=max_batch,
        )
        run_serve(
            plan,
            make_index=lambda predictor: _index(predictor, run=run, nearest=nearest),
            say=typer.echo,
        )


def _index(predictor: Predictor, *, run: Path | None, nearest: Path | None) -> NearestIndex | None:
    """Read the training pictures, with a bar in a terminal."""
    from vizsla.serve.nearest import (
        MOST_PICTURES,
        build_index,
        pictures_of_folder,
        pictures_of_run,
    )
    from vizsla.train.display import Display

    if run is not None:
        pictures = pictures_of_run(run)
    elif nearest is not None:
        pictures = pictures_of_folder(nearest)
    else:
        return None
    display = Display()
    total = min(len(pictures), MOST_PICTURES)
    with display.bar("reading training pictures", total=total) as move:
        index = build_index(predictor, pictures, on_progress=move)
    left_out = f"; {index.num_left_out:,} cannot be read" if index.num_left_out else ""
    of = f" of {len(pictures):,}" if len(pictures) > total else ""
    display.line(
        f"Nearest pictures are sought among {len(index.labels):,}{of} training pictures{left_out}."
    )
    return index
