"""A model file and a file made of it in; the answers of both compared on pictures of many sizes, one by one and in batches.

Only what comes after the decoder is compared: both get the same pixels. Without pictures of the user's own there are some
made for this, smooth ones and grainy ones, whose sizes are those at which preprocessing goes wrong first.

Shape legend: B pictures of one size, H x W.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from vizsla.data.decode import open_picture, source_name
from vizsla.data.sources import get_image_files
from vizsla.errors import DataError, OutputError
from vizsla.export.verify import LARGEST_DIFFERENCE, Golden, Parity
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vizsla.export.predictor import Predictor
    from vizsla.export.verify import Answers
    from vizsla.types import Size

_LARGEST_GOLDEN = 8_000_000
"""Bytes of pictures, before they are compressed."""

_BATCH_SIZES = (2, 5)
_GRAIN = 48.0  # Grey levels; what a picture taken in the dark has.


class Reference:
    """The answers of a model file, for pictures as they come out of the decoder.

    Args:
        predictor: On the CPU.
        pictures: Files, and folders whose pictures are all taken; empty for pictures made for this.
        cover: The size that a JPEG is decoded to cover, as the predictor's reader asks for.

    Raises:
        DataError: A folder has no pictures.
    """

    def __init__(
        self, predictor: Predictor, *, pictures: Sequence[Path | str] = (), cover: Size | None
    ) -> None:
        self._predictor = predictor
        self._files = [file for given in map(Path, pictures) for file in _files_of(given)]
        self._cover = cover

    def batches(self) -> Iterator[Golden]:
        """Yield batches with the predictor's answers: each picture alone, then some of them with their mirror images.

        Raises:
            PictureError: One cannot be read.
        """
        sources = self._decoded() if self._files else _synthetic()
        for number, (name, pixels) in enumerate(sources):
            yield self._golden(name, pixels[None])
            if number < len(_BATCH_SIZES):
                count = _BATCH_SIZES[number]
                yield self._golden(f"{name} ({count} times)", _variants(pixels, count=count))

    def _golden(self, name: str, images: NDArray[np.uint8]) -> Golden:
        answers = [self._predictor.predict(picture).probabilities for picture in images]
        return Golden(name=name, images=images, answers=torch.stack(answers).float().numpy())

    def _decoded(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for file in self._files:
            yield source_name(file), np.array(open_picture(file, cover=self._cover))


def compare(
    batches: Iterator[Golden], *, answers: Sequence[Answers]
) -> tuple[list[Parity], list[Golden]]:
    """Compare what several programs answer with what was expected.

    Args:
        batches: Pictures and expected answers; each is asked for once and not kept.
        answers: The programs.

    Returns:
        The differences of each program, and batches for a golden file: the first ones, up to 8 MB.
    """
    parities = [Parity() for _ in answers]
    kept: list[Golden] = []
    num_bytes = 0
    for batch in batches:
        parities = [
            parity.with_batch(batch, found=answer(batch.images))
            for parity, answer in zip(parities, answers, strict=True)
        ]
        num_bytes += batch.images.nbytes
        if not kept or num_bytes <= _LARGEST_GOLDEN:
            kept.append(batch)
    return parities, kept


def check_close(parity: Parity, *, path: Path) -> None:
    """Raise an error where a program does not answer as the model does.

    Args:
        parity: What was measured.
        path: The file that was to be written, for the message.

    Raises:
        OutputError: The largest difference is above ``LARGEST_DIFFERENCE``.
    """
    if not parity.is_close:
        raise OutputError(
            f"{path} was not written: for the picture {parity.worst} its answers differ from the model's by "
            f"{parity.max_difference:.2g}, and at most {LARGEST_DIFFERENCE:g} is the same. Leave out pictures of more than "
            "33 million pixels, or try other versions of torch and onnxruntime."
        )


def _files_of(given: Path) -> Sequence[Path]:
    files = get_image_files(given) if given.is_dir() else [given]
    if not files:
        raise DataError(f"There are no pictures in {given}. Give a folder with pictures.")
    return files


def _variants(pixels: NDArray[np.uint8], *, count: int) -> NDArray[np.uint8]:
    """Return a batch ``(count, H, W, 3)`` of different pictures of one size."""
    kinds = (pixels, pixels[:, ::-1], 255 - pixels, pixels[::-1], pixels[..., ::-1])
    return np.ascontiguousarray(np.stack([kinds[number % len(kinds)] for number in range(count)]))


def _synthetic() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield textured pictures: usual sizes, both ways round, tiny ones, and very long ones."""
    sizes = (
        (240, 320),
        (160, 160),
        (500, 333),
        (61, 47),
        (1, 1),
        (2, 90),
        (300, 3),
        (33, 800),
        (1024, 768),
    )
    for number, (height, width) in enumerate(sizes):
        yield f"made for this check, {height} x {width}", _texture((height, width), number=number)


def _texture(size: Size, *, number: int) -> NDArray[np.uint8]:
    """Return uint8 ``(H, W, 3)``: clouds of a few scales, and grain on every other picture."""
    random = generator(number, "parity pictures")
    values = torch.full((1, 3, *size), 128.0)
    for cells in (2, 5, 16):
        coarse = torch.randn((1, 3, cells, cells), generator=random) * 200 / cells
        values += torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    if number % 2:
        values += torch.randn(values.shape, generator=random) * _GRAIN
    pixels = values.clamp(0, 255).byte()[0].permute(1, 2, 0).contiguous().numpy()
    return cast("NDArray[np.uint8]", pixels)
