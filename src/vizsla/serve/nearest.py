"""Find the training images that a network finds most similar to a new one: an index of their features and thumbnails.

Shapes: N training images, B new ones, D features.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from vizsla.data.images.decode import decode_image
from vizsla.data.loading.loader import read_ahead
from vizsla.data.table.sources import get_image_files
from vizsla.errors import DataError, PictureError
from vizsla.infer.neighbours import evenly_spread, nearest, pooled_features
from vizsla.machine import default_num_workers
from vizsla.run.folder import CONFIG, RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vizsla.predict.predictor import Predictor

MOST_IMAGES = 30_000
"""Of more images every k-th is taken; this many take about 300 MB with a thousand features."""

THUMBNAIL_SIDE = 144
_JPEG_QUALITY = 78
MOST_EXAMPLES, EXAMPLE_SIDE = 6, 640
"""Images to try on the page, and their longest side."""
_EXAMPLE_QUALITY = 90
_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImage:
    """A training image: its file, which no visitor learns of, and its label, empty if unknown."""

    path: Path
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarImage:
    """A known image that is similar to a new one.

    Attributes:
        label: Its label.
        similarity: Cosine, 1 for images that the network cannot tell apart.
        thumbnail: The bytes of a JPEG.
    """

    label: str
    similarity: float
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestIndex:
    """Features, labels and thumbnails of known images, all in memory.

    Attributes:
        features: float16 ``(N, D)``, rows of length 1.
        labels: One for each row.
        thumbnails: JPEG bytes for each row.
        num_left_out: Images that could not be read.
    """

    features: Tensor
    labels: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    num_left_out: int = 0

    def find(self, queries_BD: Tensor, *, count: int) -> list[list[SimilarImage]]:
        """Return the most similar known images for the features of each new one, best first."""
        return [
            [
                SimilarImage(
                    label=self.labels[row], similarity=similarity, thumbnail=self.thumbnails[row]
                )
                for row, similarity in found
            ]
            for found in nearest(queries_BD, self.features, count=count)
        ]


def build_index(
    predictor: Predictor,
    images: Sequence[TrainingImage],
    *,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> NearestIndex:
    """Read known images once and keep what is needed to find them again; unreadable ones are left out.

    Raises:
        DataError: None of them can be read.
    """
    chosen = evenly_spread(images, most=MOST_IMAGES)

    def read(known: TrainingImage) -> tuple[TrainingImage, NDArray[np.uint8] | None]:
        try:
            return known, predictor.prepare(known.path)
        except PictureError:
            return known, None

    features: list[Tensor] = []
    labels: list[str] = []
    thumbnails: list[bytes] = []
    workers = default_num_workers()
    ahead = read_ahead(read, chosen, num_workers=workers, max_waiting=2 * _BATCH_SIZE)
    with closing(ahead):
        done = 0
        while batch := list(islice(ahead, _BATCH_SIZE)):
            readable = [(known, pixels) for known, pixels in batch if pixels is not None]
            features += features_of(predictor, [pixels for _, pixels in readable]).half()
            labels += [known.label for known, _ in readable]
            thumbnails += [_thumbnail(pixels) for _, pixels in readable]
            done += len(batch)
            on_progress(done)
    if not labels:
        raise DataError(
            f"None of the {len(chosen):,} training images can be read, so none can be shown as nearest. "
            "Leave --run or --nearest out, or give the folder where they are."
        )
    return NearestIndex(
        features=torch.stack(features),
        labels=tuple(labels),
        thumbnails=tuple(thumbnails),
        num_left_out=len(chosen) - len(labels),
    )


def features_of(predictor: Predictor, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return the features of prepared images of any sizes, float32 ``(B, D)``; images of one size run together."""
    rows: dict[int, Tensor] = {}
    for positions in predictor.batches_of(images):
        seen = predictor.network_input([images[position] for position in positions])
        rows.update(zip(positions, pooled_features(predictor.classifier, seen), strict=True))
    return torch.stack([rows[position] for position in range(len(images))]) if rows else torch.zeros(0, 0)  # fmt: skip


def images_of_folder(folder: Path) -> list[TrainingImage]:
    """Return the images below a folder, labelled with the name of their own folder; those directly in it have no label.

    Raises:
        DataError: It is not a folder or has no images.
    """
    return [
        TrainingImage(path=path, label="" if path.parent == folder else path.parent.name)
        for path in get_image_files(folder)
    ]


def images_of_run(folder: Path, *, data: Path | None = None) -> list[TrainingImage]:
    """Return the images that a run of ``vizsla train`` or ``vizsla demo`` learned from; ``data`` is where they are now.

    Raises:
        DataError: A file of the run is missing or damaged, or its images are gone.
    """
    table = RunFolder(folder).table(data)
    return [
        TrainingImage(path=table.paths[row], label=table.label(row))
        for row in table.train_rows.tolist()
    ]


def examples_of(place: Path) -> tuple[bytes, ...]:
    """Return a few images for visitors to try, as JPEG without names or camera data.

    Args:
        place: An image, a folder of images, or the folder of a run: then they are validation images.

    Raises:
        DataError: There are no images, or none can be read.
    """
    if (place / CONFIG).is_file():
        table = RunFolder(place).table()
        paths = [table.paths[row] for row in table.valid_rows.tolist()]
    else:
        paths = [place] if place.is_file() else list(get_image_files(place))
    examples: list[bytes] = []
    for path in evenly_spread(paths, most=MOST_EXAMPLES):
        with suppress(PictureError, OSError):
            image = decode_image(path, cover=(EXAMPLE_SIDE, EXAMPLE_SIDE))
            image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
            examples.append(jpeg_bytes(image, quality=_EXAMPLE_QUALITY))
    if not examples:
        raise DataError(f"None of the images of --examples {place} can be read. Give other images.")
    return tuple(examples)


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=2)
    return jpeg_bytes(image, quality=_JPEG_QUALITY)


def jpeg_bytes(image: Image.Image, *, quality: int) -> bytes:
    """Return an RGB image as the bytes of a JPEG file."""
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
