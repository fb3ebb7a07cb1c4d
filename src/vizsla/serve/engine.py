"""Uploads in, what the model says of each out: decoded in threads, predicted together, explained where that is asked for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from vizsla.data.images.decode import cause_of
from vizsla.errors import PictureError
from vizsla.machine import default_num_workers, give_back_freed_memory
from vizsla.serve.batching import Batcher
from vizsla.serve.budget import Budget
from vizsla.serve.nearest import jpeg_bytes
from vizsla.serve.network import BATCH_PIXELS, Network, Outcome, Wish
from vizsla.serve.screening import SMALL_PIXELS, screened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.predict.predictor import Prediction, Predictor
    from vizsla.serve.limits import Limits
    from vizsla.serve.nearest import NearestIndex, Neighbour
    from vizsla.types import Size

Result = TypeVar("Result")

SMALL_PIXELS_AT_ONCE = 2 * SMALL_PIXELS
"""Pixels of ordinary pictures that are decoded at the same time; 6 bytes each were measured."""

_OWN_SIZE_PIXELS = 4_000_000
_HEAT_SIDE = 448
_HEAT_QUALITY = 85


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


class Engine:
    """Predicts for many tasks at once; an asynchronous context manager.

    At most ``SMALL_PIXELS_AT_ONCE`` pixels of ordinary pictures are being decoded at any time, and one larger picture. The
    others wait, in the order in which they came; larger pictures wait for one another and not in the way of ordinary ones.

    Args:
        predictor: The only way to predict: probabilities are those of ``Predictor.predict``.
        limits: How large pictures may be.
        index: Training pictures to compare with; None for none.
        cover: ``(height, width)`` that the predictor's decoding covers, so that large JPEGs are decoded shrunk; None where it
            decodes all pixels.
        keeps_size: Whether the network sees pictures in their own size; they are then held to 4 million pixels.
        max_batch: Pictures that run through the network together; 1 predicts one by one, 0 takes what suits the device.
        num_decoders: Threads that decode; 0 takes one for each processor, and two at least.
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
        cover: Size | None = None,
        keeps_size: bool = False,
        max_batch: int = 0,
        num_decoders: int = 0,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.predictor = predictor
        self.index = index
        self.max_pixels = min(limits.pixels, _OWN_SIZE_PIXELS) if keeps_size else limits.pixels
        self._cover = cover
        self._network = Network(predictor, index=index, max_batch=max_batch)
        self.explains = self._network.explains
        self._num_decoders = num_decoders or max(2, default_num_workers())
        self._on_batch = on_batch
        self._num_decoding = 0

    async def __aenter__(self) -> Engine:
        """Start the threads."""
        self._decoders = ThreadPoolExecutor(self._num_decoders, thread_name_prefix="vizsla-decode")
        self._budget = Budget(SMALL_PIXELS_AT_ONCE)
        # Pictures that take hundreds of megabytes to decode wait for each other, not in the way of all others.
        self._large_decoder = ThreadPoolExecutor(1, thread_name_prefix="vizsla-decode-large")
        self.batcher = Batcher[Wish, Outcome](
            self._network.run,
            begin=self._network.begin,
            max_items=self._network.max_batch,
            max_cost=BATCH_PIXELS,
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

    @property
    def pixels_in_decoding(self) -> int:
        """Of ordinary pictures, right now."""
        return self._budget.used

    async def work(self, function: Callable[[], Result]) -> Result:
        """Run a function that takes some milliseconds in a thread for decoding, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def answer(
        self,
        pictures: Sequence[bytes],
        *,
        coverage: float | None = None,
        heat: bool = False,
        nearest: int = 0,
    ) -> list[Answer]:
        """Return what the model says of the bytes of some picture files, in their order.

        Args:
            pictures: Each a file of any kind; what is no picture gets an answer with the cause.
            coverage: Of the label sets; None for none.
            heat: Show where the network looked, if ``explains``.
            nearest: Find so many training pictures, if there is an ``index``.

        Raises:
            RefusedError: Too many pictures are waiting (503).
            ConfigError: The network's output is not finite, or the model has no label sets.
        """
        prepared = await self._prepare_all(pictures)
        wishes = [
            Wish(
                pixels=pixels,
                coverage=coverage,
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
        found = await self.work(
            partial(screened, data, max_pixels=self.max_pixels, cover=self._cover)
        )
        if found.refusal:
            return found.refusal
        loop = asyncio.get_running_loop()
        if found.is_large:
            return await loop.run_in_executor(self._large_decoder, self._large_decoded, data)
        await self._budget.take(found.pixels)
        job = self._decoders.submit(self._decoded, data)
        # Given back when the thread is done, which may be after the request was given up.
        job.add_done_callback(
            lambda _job: loop.call_soon_threadsafe(self._budget.give, found.pixels)
        )
        return await asyncio.wrap_future(job)

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

    async def _described(self, outcome: Outcome) -> Answer:
        heat = outcome.heat
        encoded = None if heat is None else await self.work(lambda: _heat_jpeg(heat))
        return Answer(
            prediction=outcome.prediction,
            heat=encoded,
            nearest=outcome.nearest,
        )


def _heat_jpeg(heat: Tensor) -> bytes:
    picture = Image.fromarray(heat.permute(1, 2, 0).numpy())
    picture.thumbnail((_HEAT_SIDE, _HEAT_SIDE))
    return jpeg_bytes(picture, quality=_HEAT_QUALITY)
