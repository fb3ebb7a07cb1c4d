"""The options that several commands of the command line share: what they are called, what their help says."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnBad(StrEnum):
    """What to do about pictures that cannot be read."""

    error = "error"
    skip = "skip"


class TruncatedFiles(StrEnum):
    """What to do about JPEGs that end too early."""

    strict = "strict"
    ok = "ok"


Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="A folder of pictures, or a CSV file that lists them."),
]
Labels = Annotated[
    str,
    typer.Option(
        help="folder | regex:PATTERN (on the file name) | csv:FILE[,image=COLUMN][,label=COLUMN]"
    ),
]
Valid = Annotated[
    str,
    typer.Option(
        help="Share of each class to hold out; auto: the folder valid where there is one, else 0.2."
    ),
]
Arch = Annotated[str, typer.Option(help="Network, by its name in timm or torchvision.")]
Weights = Annotated[
    Path | None, typer.Option(help="A file of weights for it instead of the published ones.")
]
Epochs = Annotated[
    str,
    typer.Option(
        help="End-to-end epochs after the head was fitted; auto: 5 on a CUDA device, else 0."
    ),
]
PictureSize = Annotated[
    int, typer.Option(help="Side of the square that the network sees, in pixels.")
]
Presize = Annotated[
    str,
    typer.Option(help="Short side at which pictures are kept for random crops; auto: 1.3 x size."),
]
BatchSize = Annotated[int, typer.Option("--bs", help="Pictures in a step.")]
LearningRate = Annotated[
    float, typer.Option("--lr", help="Peak learning rate of the end-to-end epochs.")
]
PrecisionName = Annotated[str, typer.Option(help="auto | fp32 | bf16 | fp16")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | mps")]
Workers = Annotated[int, typer.Option(help="Threads that read pictures; -1: one per core.")]
OnBadPictures = Annotated[
    OnBad, typer.Option(help="Refuse pictures that cannot be read, or train on the rest.")
]
Truncated = Annotated[
    TruncatedFiles,
    typer.Option(help="JPEGs that end too early: strict: unreadable; ok: take what is there."),
]
CacheMode = Annotated[
    str, typer.Option(help="Where prepared pictures are kept: auto|memory|disk|off|device")
]
CacheBudget = Annotated[
    str, typer.Option(help="What they may take, such as 4GB; auto: a share of what is free.")
]
Seed = Annotated[
    int, typer.Option(help="Split, crops and everything else that is random follow from it.")
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Print where the time went and write it to profile.json; on CUDA steps are slower then.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Write into the folder even if it exists.")]
