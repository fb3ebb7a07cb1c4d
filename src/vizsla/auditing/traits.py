"""What image files tell beside the object on them: how they were made, named and exposed. One pass reads them.

Some of it is a fault of the image (blank, dark, blurred ...), and some of it may give the class away (``shortcuts.py``).

N: images.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import ExifTags, Image

from vizsla.data.images.decode import decode_image, read_bytes
from vizsla.data.loading.loader import map_rows
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.data.images.near_duplicates import GreyImages
    from vizsla.data.images.reader import ImageReader
    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable

_SIDE = 224
"""Short side at which an image is judged, about what networks see; smaller ones are not enlarged."""
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_. ]?(0[1-9]|1[0-2])[-_. ]?(0[1-9]|[12]\d|3[01])(?!\d)"
)
_LEVELS = np.arange(256, dtype=np.float64)
_CELLS = 16
_OUTER = np.pad(np.zeros((_CELLS - 4, _CELLS - 4), dtype=bool), 2, constant_values=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What one file tells. Brightness is 0-255, upright sizes are in pixels.

    Attributes:
        height: Of the image.
        width: Of the image.
        num_bytes: Of the file.
        kind: Format and mode, such as ``"JPEG RGB"``.
        quality: Mean step of the luminance quantisation table of a JPEG, 0 for other formats: the larger, the coarser.
        camera: Make and model by EXIF, or empty.
        date: Year, month and day by EXIF, else by the path, as ``2024-05-31``; or empty.
        folder: Folders between the data's root and the file.
        colour: Mean red, green, blue, their spread over the image, and the mean saturation: 5 values.
        border: Mean and spread of the outermost fiftieth of each of four sides: 8 values.
        frame: How busy each of the 112 outer cells of a grid of 16 x 16 is, against the whole: a logo or a date stands out there.
        dark: The level below which 95 % of the pixels are.
        bright: The level above which 95 % of the pixels are.
        contrast: Standard deviation of grey values.
        sharpness: Variance of the Laplacian over the variance of grey values, at a short side of 224 pixels.
        flatness: Share of the pixels that have one of the two most frequent of 32 grey levels.
        edges: Share of the pixels with a step of more than 60 grey levels to the next.
    """

    height: int
    width: int
    num_bytes: int
    kind: str
    quality: float
    camera: str
    date: str
    folder: str
    colour: tuple[float, ...]
    border: tuple[float, ...]
    frame: tuple[float, ...]
    dark: float
    bright: float
    contrast: float
    sharpness: float
    flatness: float
    edges: float


def read_traits(
    table: ImageTable,
    rows: Tensor,
    *,
    reader: ImageReader | None = None,
    greys: GreyImages | None = None,
    num_workers: NumWorkers = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Traits | None, ...]:
    """Read the files of some rows, int64 ``(N,)``, once; None for one that cannot be read. See ``map_rows``.

    Whoever reads the images otherwise, too, saves decoding them again: ``reader`` reads them into its cache, as for validation, and
    ``greys`` takes them for ``find_near_duplicates``, in the order of the rows.
    """
    root, row_of = table.root, rows.tolist()
    cover = None if reader is None else reader.items.cover(training=False)
    is_large_enough = reader is not None and (cover is None or min(cover) >= _SIDE)

    def traits_of(place: int) -> Traits | None:
        path = Path(table.file(row_of[place]))
        folder = path.parent.relative_to(root) if path.is_relative_to(root) else path.parent
        seen: list[Image.Image] = []
        try:
            if reader is not None:
                reader.read(path, on_image=seen.append)
            data = read_bytes(path)
            image = seen[0] if seen and is_large_enough else decode_image(path, data=data, cover=(_SIDE, _SIDE), truncated="ok", bit_depth=table.bit_depth)  # fmt: skip
        except PictureError:
            return None
        if greys is not None:
            greys.put(place, image)
        return _traits(
            data, image, folder="" if folder == Path() else folder.as_posix(), name=path.name
        )

    places = torch.arange(len(rows))
    return tuple(map_rows(traits_of, places, num_workers=num_workers, on_progress=on_progress))


def _traits(data: bytes, image: Image.Image, *, folder: str, name: str) -> Traits:
    size, kind, quality, camera, date = _header(data, image)
    if (shrink := _SIDE / min(image.size)) < 1:
        image = image.resize([max(1, round(side * shrink)) for side in image.size], Image.Resampling.BOX)  # fmt: skip
    grey = image.convert("L")
    counts = np.array(grey.histogram(), dtype=np.float64) / (grey.width * grey.height)
    mean = float(counts @ _LEVELS)
    variance = float(counts @ (_LEVELS - mean) ** 2)
    low, high = np.searchsorted(counts.cumsum(), (0.05, 0.95))
    colours = np.array(image.histogram(), dtype=np.float64).reshape(3, 256) @ _LEVELS
    saturation = (
        np.array(image.convert("HSV").getchannel(1).histogram(), dtype=np.float64) @ _LEVELS
    )
    values = np.asarray(grey, dtype=np.int16)
    steps = np.abs(np.diff(values, axis=1))
    named = _DATE.search(f"{folder}/{name}")
    return Traits(
        height=size[0],
        width=size[1],
        num_bytes=len(data),
        kind=kind,
        quality=quality,
        camera=camera,
        date=date or ("-".join(named.groups()) if named else ""),
        folder=folder,
        colour=(
            *(colours / values.size).tolist(),
            math.sqrt(variance),
            float(saturation) / (255 * values.size),
        ),
        border=_border(values),
        frame=_frame(values),
        dark=float(high),
        bright=float(low),
        contrast=math.sqrt(variance),
        sharpness=_laplacian_variance(values) / max(variance, 1.0),
        flatness=float(np.sort(counts.reshape(32, 8).sum(1))[-2:].sum()),
        edges=float((steps > 60).mean()) if steps.size else 0.0,
    )


def _header(data: bytes, image: Image.Image) -> tuple[tuple[int, int], str, float, str, str]:
    """Return size, kind, quality, camera and date; what a damaged header does not tell stays empty."""
    size = (image.height, image.width)
    try:
        with Image.open(BytesIO(data)) as opened:
            exif = opened.getexif()
            turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = opened.size
            size = (width, height) if turned else (height, width)
            tables = getattr(opened, "quantization", None) or {}
            quality = float(np.mean(next(iter(tables.values())))) if tables else 0.0
            maker = [str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]  # fmt: skip
            taken = str(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, ""))
            date = re.match(r"(\d{4}):(\d\d):(\d\d)", taken)
            kind = f"{opened.format} {opened.mode}"
    except Exception:  # noqa: BLE001 (metadata of any kind may be damaged; the image was decoded)
        return size, "", 0.0, "", ""
    return (
        size,
        kind,
        quality,
        " ".join(filter(None, maker)),
        "-".join(date.groups()) if date else "",
    )


def _border(grey: NDArray[np.int16]) -> tuple[float, ...]:
    rows, columns = (max(1, side // 50) for side in grey.shape)
    strips = (grey[:rows], grey[-rows:], grey[:, :columns], grey[:, -columns:])
    return tuple(float(value) for strip in strips for value in (strip.mean(), strip.std()))


def _frame(grey: NDArray[np.int16]) -> tuple[float, ...]:
    """Return the logarithm of the mean step between neighbouring pixels in each outer cell, less that of the whole image."""
    if min(grey.shape) <= _CELLS:
        return (0.0,) * int(_OUTER.sum())
    steps = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    starts, ends = (np.linspace(0, side, _CELLS + 1).astype(int) for side in steps.shape)
    sums = np.add.reduceat(
        np.add.reduceat(steps, starts[:-1], axis=0, dtype=np.int64), ends[:-1], axis=1
    )
    means = sums / np.outer(np.diff(starts), np.diff(ends))
    return tuple((np.log(means + 1) - math.log(means.mean() + 1))[_OUTER].tolist())


def _laplacian_variance(grey: NDArray[np.int16]) -> float:
    if min(grey.shape) < 3:
        return 0.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    # Less what rounding to whole levels adds: (16 + 4) / 12.
    return max(0.0, float((around - 4 * inner).var()) - 20 / 12)


TINY = 64
"""Pixels: on a shorter side a network that sees 224 gets less than a twelfth of its pixels from the image."""
LONGEST_RATIO = 3.0
FAULTS: tuple[tuple[str, str, Callable[[Traits], bool]], ...] = (
    ("blank", "one even colour", lambda one: one.contrast < 4),
    (
        "dark",
        "95 % of the pixels are nearly black",
        lambda one: one.contrast >= 4 and one.dark < 45,
    ),
    (
        "overexposed",
        "95 % of the pixels are nearly white",
        lambda one: one.contrast >= 4 and one.bright > 215,
    ),
    (
        "blurred",
        "no sharp edge at the size that networks see",
        lambda one: one.contrast >= 4 and one.sharpness < 0.004,
    ),
    ("tiny", f"a side of less than {TINY} pixels", lambda one: min(one.height, one.width) < TINY),
    (
        "long",
        f"one side is more than {LONGEST_RATIO:g} times the other",
        lambda one: max(one.height, one.width) > LONGEST_RATIO * min(one.height, one.width),
    ),
    (
        "text",
        "two flat levels with hard edges, like a screenshot or a scanned page",
        lambda one: one.flatness > 0.75 and one.edges > 0.02 and one.colour[4] < 0.15,
    ),
)
"""(name, what it means, test). Thresholds: see ``benchmarks/audit.py``."""


def folder_parts(traits: Traits, *, labels: set[str]) -> str:
    """Return the folders of an image that are not named like a class."""
    parts = [part for part in traits.folder.split("/") if part and part not in labels]
    return "/".join(parts)
