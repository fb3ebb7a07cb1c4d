"""Uploads in, what the model says of each out: decoded in threads, predicted together, explained where that is asked for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image

from vizsla.data.decode import cause_of
from vizsla.data.loader import default_num_workers
from vizsla.errors import ConfigError, PictureError
from vizsla.infer.grad_cam import grad_cam, overlay
from vizsla.serve.batching import Batcher
from vizsla.serve.memory import give_back_freed_memory
from vizsla.serve.nearest import features_of, jpeg_bytes, positions_by_shape
from vizsla.serve.screening import is_large, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.export.predictor import Prediction, Predictor
    from vizsla.serve.limits import Limits
    from vizsla.serve.nearest import NearestIndex, Neighbour

Result = TypeVar("Result")

CPU_BATCH, GPU_BATCH = 16, 64
"""Pictures that run through the network together; on a CPU larger batches take more memory and gain nothing."""

_BATCH_PIXELS = 32 * 512 * 512
_OWN_SIZE_PIXELS = 4_000_000
_HEATS_AT_ONCE = 8
_HEAT_SIDE = 448
_HEAT_QUALITY = 85
_WARM_UP_SIDE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A prepared picture and what is asked about it.

    Attributes:
        pixels: uint8 ``(H, W, 3)``, as ``Predictor.prepare`` gives them.
        heat: Show where the network looked.
        nearest: So many nearest training pictures.
    """

    pixels: NDArray[np.uint8]
    heat: bool = False
    nearest: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is said of one picture.

    Attributes:
        prediction: None where the picture cannot be read.
        error: Why it cannot be read, empty where it can.
        heat: JPEG bytes of what the network was shown, with a heat map over it.
        nearest: Training pictures, best first.
    """

    prediction: Prediction | None = None
    error: str = ""
    heat: bytes | None = None
    nearest: list[Neighbour] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    prediction: Prediction
    heat: Tensor | None = None  # uint8 (3, H, W)
    nearest: list[Neighbour] = field(default_factory=list)


class Engine:
    """Predicts for many tasks at once; an asynchronous context manager.

    Args:
        predictor: The only way to predict: probabilities are those of ``Predictor.predict``.
        limits: How large pictures may be.
        index: Training pictures to compare with; None for none.
        keeps_size: Whether the network sees pictures in their own size; they are then held to 4 million pixels.
        max_batch: Pictures that run through the network together; 1 predicts one by one, 0 takes what suits the device.
        on_batch: Told the size of each batch and the seconds that it took.

    Attributes:
        predictor: As given.
        index: As given.
        explains: Whether heat maps can be made of this network.
        max_pixels: Of one picture.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        limits: Limits,
        index: NearestIndex | None = None,
        keeps_size: bool = False,
        max_batch: int = 0,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.predictor = predictor
        self.index = index
        self.max_pixels = min(limits.pixels, _OWN_SIZE_PIXELS) if keeps_size else limits.pixels
        by_device = CPU_BATCH if predictor.device.type == "cpu" else GPU_BATCH
        self._max_batch = max_batch or by_device
        self.explains = self._warm_up()
        self._on_batch = on_batch
        self._num_decoding = 0

    async def __aenter__(self) -> Engine:
        """Start the threads."""
        self._decoders = ThreadPoolExecutor(
            max(2, default_num_workers()), thread_name_prefix="vizsla-decode"
        )
        # Pictures that take hundreds of megabytes to decode wait for each other, not in the way of all others.
        self._large_decoder = ThreadPoolExecutor(1, thread_name_prefix="vizsla-decode-large")
        self.batcher = Batcher[Wish, _Outcome](
            self._run,
            max_items=self._max_batch,
            max_cost=_BATCH_PIXELS,
            cost=lambda wish: wish.pixels.shape[0] * wish.pixels.shape[1],
            more_to_come=lambda: self._num_decoding > 0,
            on_batch=self._on_batch,
        )
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Finish what is under way and stop the threads."""
        await self.batcher.__aexit__()
        self._decoders.shutdown(cancel_futures=True)
        # Not waited for: the answer it works on is not wanted any more, and one picture may take a second.
        self._large_decoder.shutdown(wait=False, cancel_futures=True)

    async def work(self, function: Callable[[], Result]) -> Result:
        """Run a function that takes some milliseconds in a thread for decoding, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def answer(
        self, pictures: Sequence[bytes], *, heat: bool = False, nearest: int = 0
    ) -> list[Answer]:
        """Return what the model says of the bytes of some picture files, in their order.

        Args:
            pictures: Each a file of any kind; what is no picture gets an answer with the cause.
            heat: Show where the network looked, if ``explains``.
            nearest: Find so many training pictures, if there is an ``index``.

        Raises:
            RefusedError: Too many pictures are waiting (503).
            ConfigError: The network's output is not finite.
        """
        prepared = await self._prepare_all(pictures)
        wishes = [
            Wish(
                pixels=pixels,
                heat=heat and self.explains,
                nearest=nearest if self.index is not None else 0,
            )
            for pixels in prepared
            if not isinstance(pixels, str)
        ]
        outcomes = iter(await self.batcher.submit(wishes))
        return [
            Answer(error=pixels) if isinstance(pixels, str) else await self._described(next(outcomes))
            for pixels in prepared
        ]  # fmt: skip

    async def _prepare_all(self, pictures: Sequence[bytes]) -> list[NDArray[np.uint8] | str]:
        self._num_decoding += 1
        try:
            return list(await asyncio.gather(*map(self._prepared, pictures)))
        finally:
            self._num_decoding -= 1

    async def _prepared(self, data: bytes) -> NDArray[np.uint8] | str:
        """Return the pixels of a picture, or why there are none."""
        loop = asyncio.get_running_loop()
        cause, large = await loop.run_in_executor(self._decoders, self._screened, data)
        if cause is not None:
            return cause
        if large:
            return await loop.run_in_executor(self._large_decoder, self._large_decoded, data)
        return await loop.run_in_executor(self._decoders, self._decoded, data)

    def _screened(self, data: bytes) -> tuple[str | None, bool]:
        cause = refusal(data, max_pixels=self.max_pixels)
        return cause, cause is None and is_large(data)

    def _decoded(self, data: bytes) -> NDArray[np.uint8] | str:
        try:
            return self.predictor.prepare(data)
        except PictureError as error:
            return cause_of(error)

    def _large_decoded(self, data: bytes) -> NDArray[np.uint8] | str:
        try:
            return self._decoded(data)
        finally:
            give_back_freed_memory()

    async def _described(self, outcome: _Outcome) -> Answer:
        heat = outcome.heat
        encoded = None if heat is None else await self.work(lambda: _heat_jpeg(heat))
        return Answer(
            prediction=outcome.prediction,
            heat=encoded,
            nearest=outcome.nearest,
        )

    def _run(self, wishes: list[Wish]) -> list[_Outcome]:
        predictions = self.predictor.predict_prepared([wish.pixels for wish in wishes])
        heats = self._heats(wishes, predictions)
        neighbours = self._neighbours(wishes)
        return [
            _Outcome(
                prediction=prediction,
                heat=heats.get(position),
                nearest=neighbours.get(position, []),
            )
            for position, prediction in enumerate(predictions)
        ]

    def _heats(self, wishes: list[Wish], predictions: Sequence[Prediction]) -> dict[int, Tensor]:
        asked = [position for position, wish in enumerate(wishes) if wish.heat]
        heats: dict[int, Tensor] = {}
        for group in positions_by_shape(wishes[position].pixels for position in asked):
            for start in range(0, len(group), _HEATS_AT_ONCE):
                chosen = [asked[place] for place in group[start : start + _HEATS_AT_ONCE]]
                images = self.predictor.network_input(
                    [wishes[position].pixels for position in chosen]
                )
                targets = _explained([predictions[position] for position in chosen])
                maps = grad_cam(self.predictor.classifier, images, targets=targets).cpu()
                for position, image, heat in zip(chosen, images.cpu(), maps, strict=True):
                    heats[position] = overlay(image, heat)
        return heats

    def _neighbours(self, wishes: list[Wish]) -> dict[int, list[Neighbour]]:
        asked = [position for position, wish in enumerate(wishes) if wish.nearest]
        if not asked or self.index is None:
            return {}
        features = features_of(self.predictor, [wishes[position].pixels for position in asked])
        most = max(wishes[position].nearest for position in asked)
        found = self.index.find(features, count=most)
        return {
            position: neighbours[: wishes[position].nearest]
            for position, neighbours in zip(asked, found, strict=True)
        }

    def _warm_up(self) -> bool:
        """Predict a full batch of grey pictures, so that memory is what it will be; return whether heat maps can be made."""
        grey = self.predictor.prepare(np.full((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), 128, np.uint8))
        count = max(1, min(self._max_batch, _BATCH_PIXELS // grey[..., 0].size))
        predictions = self.predictor.predict_prepared([grey] * count)
        try:
            self._heats([Wish(pixels=grey, heat=True)], predictions)
        except ConfigError:  # The head gives no gradients, or no map has more than one position.
            return False
        return True


def _explained(predictions: Sequence[Prediction]) -> Tensor:
    """Return for each picture the classes to explain, ``(B, C)`` of 0 and 1: those that were predicted, or the likeliest."""
    rows: list[Tensor] = []
    for prediction in predictions:
        values = prediction.probabilities
        row = torch.zeros_like(values)
        index = prediction.index
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.any():
            row[index] = 1
        else:
            row[index if isinstance(index, int) else int(values.argmax())] = 1
        rows.append(row)
    return torch.stack(rows)


def _heat_jpeg(heat: Tensor) -> bytes:
    picture = Image.fromarray(heat.permute(1, 2, 0).numpy())
    picture.thumbnail((_HEAT_SIDE, _HEAT_SIDE))
    return jpeg_bytes(picture, quality=_HEAT_QUALITY)
