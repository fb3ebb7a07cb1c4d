"""Predict many uploads at once: decoded in threads, predicted together in batches, explained on request.

On a CPU torch gives each layer of a batch to all processors, and each layer waits for the slowest of them. A server has other
work on these processors: 16 images took 22 ms of processor time each that way, with two cores busy decoding as well, and 12 ms
where each processor takes its own images through all layers.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image

from vizsla.data.images.decode import cause_of
from vizsla.errors import ConfigError, PictureError
from vizsla.infer.grad_cam import grad_cam, overlay
from vizsla.machine import default_num_workers, give_back_freed_memory, map_in_threads, use_threads
from vizsla.predict.predictor import BATCH_PIXELS
from vizsla.serve.batching import Batcher
from vizsla.serve.limits import FairBudget
from vizsla.serve.nearest import features_of, jpeg_bytes
from vizsla.serve.uploads import SMALL_PIXELS, screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.predict.predictor import Prediction, Predictor
    from vizsla.serve.decoding import DecodingProcesses
    from vizsla.serve.limits import Limits
    from vizsla.serve.nearest import NearestIndex, SimilarImage
    from vizsla.types import Size

Value = TypeVar("Value")

SMALL_PIXELS_AT_ONCE = 2 * SMALL_PIXELS
"""Pixels of ordinary images that are decoded at the same time; they take 6 bytes each, as measured."""

_OWN_SIZE_PIXELS = 4_000_000
_HEAT_SIDE = 448
_HEAT_QUALITY = 85
CPU_BATCH_OF_EACH, LEAST_CPU_BATCH, GPU_BATCH = 8, 16, 64
"""Images that run through the network together: for each processor, for all of them at least, and on a GPU.

For 16 images, EfficientNet-Lite0's largest maps are 77 MB, more than a thread gets from glibc without a system call: 11.5 ms per
image; for 8 or 4 images 7.6."""

MOST_CPU_BATCH = 64
_HEATS_AT_ONCE = 8
_WARM_UP_SIDE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer about one image: a prediction, or why it cannot be read.

    Attributes:
        prediction: None where the image cannot be read.
        error: Why it cannot be read, else empty.
        heat: JPEG bytes of what the network was shown, with a heat map over it.
        nearest: Training images, best first.
    """

    prediction: Prediction | None = None
    error: str = ""
    heat: bytes | None = None
    nearest: list[SimilarImage] = field(default_factory=list)


class Engine:
    """Predicts for many tasks at once, exactly as ``Predictor.predict``; an asynchronous context manager.

    At any time at most ``SMALL_PIXELS_AT_ONCE`` pixels of ordinary images are being decoded, and one larger image. The others wait in
    order of arrival; larger images wait for one another without holding up ordinary ones.

    Args:
        predictor: Opens and predicts images.
        limits: How large images may be, and of which formats.
        decoding: Processes that decode; None decodes in threads of this one.
        index: Training images to compare with.
        cover: ``(height, width)`` that the predictor's decoding covers, so that large JPEGs are decoded shrunk; None where it
            decodes all pixels.
        keeps_size: Whether the network sees images in their own size, which is then limited to 4 million pixels.
        max_batch: Images that run through the network together; 1 predicts one by one, 0 suits the device.
        num_decoders: Threads that decode; 0 is one per processor, and at least two.
        on_batch: Called with the size of each batch and the seconds that it took.

    Attributes:
        explains: Whether heat maps can be made for this network.
        max_pixels: Largest image.
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
        decoding: DecodingProcesses | None = None,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.predictor = predictor
        self.index = index
        self.max_pixels = min(limits.pixels, _OWN_SIZE_PIXELS) if keeps_size else limits.pixels
        self._cover = cover
        self._formats = limits.formats
        self._decoding = decoding
        self._runner = BatchRunner(predictor, index=index, max_batch=max_batch)
        self.explains = self._runner.explains
        self._num_decoders = num_decoders or max(2, default_num_workers())
        self._on_batch = on_batch
        self._num_decoding = 0

    async def __aenter__(self) -> Engine:
        """Start the threads, and wait for the processes."""
        if self._decoding is not None:
            self._decoding.wait_until_ready()
        self._decoders = ThreadPoolExecutor(self._num_decoders, thread_name_prefix="vizsla-decode")
        self._budget = FairBudget(SMALL_PIXELS_AT_ONCE)
        # Images that take hundreds of megabytes to decode wait for each other, without holding up all others.
        self._large_decoder = ThreadPoolExecutor(1, thread_name_prefix="vizsla-decode-large")
        self.batcher = Batcher[Query, QueryResult](
            self._runner.run,
            begin=self._runner.begin,
            max_items=self._runner.max_batch,
            max_cost=BATCH_PIXELS,
            cost=lambda query: query.pixels.shape[0] * query.pixels.shape[1],
            more_to_come=lambda: self._num_decoding > 0,
            on_batch=self._on_batch,
        )
        await self.batcher.__aenter__()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Finish the work in progress and stop the threads."""
        await self.batcher.__aexit__()
        self._decoders.shutdown(cancel_futures=True)
        # Not waited for: nobody wants its answer any more, and one image may take a second.
        self._large_decoder.shutdown(wait=False, cancel_futures=True)

    @property
    def pixels_in_decoding(self) -> int:
        """Pixels of ordinary images that are being decoded now."""
        return self._budget.used

    async def work(self, function: Callable[[], Value]) -> Value:
        """Run a function that takes some milliseconds in a decoding thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def answer(
        self,
        images: Sequence[bytes],
        *,
        coverage: float | None = None,
        heat: bool = False,
        nearest: int = 0,
    ) -> list[Answer]:
        """Return the answers about the bytes of some files, in order; an unreadable one gets the cause.

        There are heat maps only if ``explains``, nearest images only with an ``index``.

        Raises:
            RefusedError: Too many images are waiting (503).
            ConfigError: The network's output is not finite, or the model has no label sets.
        """
        self._num_decoding += 1
        try:
            prepared = await asyncio.gather(*map(self._prepared, images))
        finally:
            self._num_decoding -= 1
        queries = [
            Query(
                pixels=pixels,
                coverage=coverage,
                heat=heat and self.explains,
                nearest=nearest if self.index is not None else 0,
            )
            for pixels in prepared
            if not isinstance(pixels, str)
        ]
        results = iter(await self.batcher.submit(queries))
        answers: list[Answer] = []
        for pixels in prepared:
            if isinstance(pixels, str):
                answers.append(Answer(error=pixels))
                continue
            result = next(results)
            shown = result.heat
            jpeg = None if shown is None else await self.work(partial(_heat_jpeg, shown))
            answers.append(Answer(prediction=result.prediction, heat=jpeg, nearest=result.nearest))
        return answers

    async def _prepared(self, data: bytes) -> NDArray[np.uint8] | str:
        """Return the pixels of an image, or why there are none."""
        found = await self.work(
            partial(
                screen,
                data,
                max_pixels=self.max_pixels,
                formats=self._formats,
                cover=self._cover,
            )
        )
        if found.refusal:
            return found.refusal
        loop = asyncio.get_running_loop()
        if found.is_large:
            return await loop.run_in_executor(self._large_decoder, self._large_decoded, data)
        await self._budget.take(found.pixels)
        job = self._decoders.submit(self._decoded, data)
        # Given back when the thread is done, perhaps after the request was cancelled.
        job.add_done_callback(
            lambda _job: loop.call_soon_threadsafe(self._budget.give, found.pixels)
        )
        return await asyncio.wrap_future(job)

    def _decoded(self, data: bytes, *, most_pixels: int = SMALL_PIXELS) -> NDArray[np.uint8] | str:
        if self._decoding is not None:
            return self._decoding.decode(data, most_pixels=most_pixels)
        try:
            return self.predictor.prepare(data)
        except PictureError as error:
            return cause_of(error)

    def _large_decoded(self, data: bytes) -> NDArray[np.uint8] | str:
        try:
            return self._decoded(data, most_pixels=self.max_pixels)
        finally:
            give_back_freed_memory()


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A prepared image, uint8 ``(H, W, 3)`` from ``Predictor.prepare``, and what to compute for it."""

    pixels: NDArray[np.uint8]
    coverage: float | None = None
    heat: bool = False
    nearest: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryResult:
    """The results for one image; ``heat`` is uint8 ``(3, H, W)``, the image with its heat map."""

    prediction: Prediction
    heat: Tensor | None = None
    nearest: list[SimilarImage] = field(default_factory=list)


class BatchRunner:
    """Answers batches of queries, all from one thread; its options are those of ``Engine``.

    Raises:
        ConfigError: The network's output is not finite.
    """

    def __init__(
        self, predictor: Predictor, *, index: NearestIndex | None = None, max_batch: int = 0
    ) -> None:
        self.predictor = predictor
        self.index = index
        self._num_threads = torch.get_num_threads()
        usual_batch = GPU_BATCH
        if predictor.device.type == "cpu":
            usual_batch = max(LEAST_CPU_BATCH, CPU_BATCH_OF_EACH * self._num_threads)
            usual_batch = min(usual_batch, MOST_CPU_BATCH)
        self.max_batch = max_batch or usual_batch
        self._splits_batches = predictor.device.type == "cpu" and self.max_batch > 1
        self.explains = self._warm_up()

    def begin(self) -> None:
        """Prepare the thread that will call ``run``: elsewhere torch may have been limited to fewer processors."""
        use_threads(self._num_threads)

    def run(self, queries: list[Query]) -> list[QueryResult]:
        """Return the results for each image; raise ConfigError if the network's output is not finite."""
        predictions = self._predictions(queries)
        heats = self._heats(queries, predictions)
        similar = self._similar(queries)
        return [
            QueryResult(prediction=one, heat=heats.get(place), nearest=similar.get(place, []))
            for place, one in enumerate(predictions)
        ]

    def _predictions(self, queries: list[Query]) -> list[Prediction]:
        if not self._splits_batches or len(queries) < self._num_threads:
            return self._predicted(queries)  # A single image gets all processors.
        return map_in_threads(
            self._predicted, queries, num_threads=self._num_threads, together=CPU_BATCH_OF_EACH
        )

    def _predicted(self, queries: list[Query]) -> list[Prediction]:
        """Return the predictions of images, grouped by coverage."""
        coverages = {query.coverage for query in queries}
        if len(coverages) == 1:
            pixels = [query.pixels for query in queries]
            return self.predictor.predict_prepared(pixels, coverage=coverages.pop())
        found = {
            coverage: iter(
                self._predicted([query for query in queries if query.coverage == coverage])
            )
            for coverage in coverages
        }
        return [next(found[query.coverage]) for query in queries]

    def _heats(self, queries: list[Query], predictions: Sequence[Prediction]) -> dict[int, Tensor]:
        asked = [position for position, query in enumerate(queries) if query.heat]
        heats: dict[int, Tensor] = {}
        for group in self.predictor.batches_of(queries[position].pixels for position in asked):
            for start in range(0, len(group), _HEATS_AT_ONCE):
                chosen = [asked[place] for place in group[start : start + _HEATS_AT_ONCE]]
                images = self.predictor.network_input(
                    [queries[position].pixels for position in chosen]
                )
                targets = _explained([predictions[position] for position in chosen])
                maps = grad_cam(self.predictor.classifier, images, targets=targets).cpu()
                for position, image, heat in zip(chosen, images.cpu(), maps, strict=True):
                    heats[position] = overlay(image, heat)
        return heats

    def _similar(self, queries: list[Query]) -> dict[int, list[SimilarImage]]:
        asked = [position for position, query in enumerate(queries) if query.nearest]
        if not asked or self.index is None:
            return {}
        features = features_of(self.predictor, [queries[position].pixels for position in asked])
        most = max(queries[position].nearest for position in asked)
        found = self.index.find(features, count=most)
        return {
            position: similar[: queries[position].nearest]
            for position, similar in zip(asked, found, strict=True)
        }

    def _warm_up(self) -> bool:
        """Predict a full batch of grey images, to take the memory at once; return whether heat maps can be made."""
        grey = self.predictor.prepare(np.full((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), 128, np.uint8))
        count = max(1, min(self.max_batch, BATCH_PIXELS // grey[..., 0].size))
        predictions = self._predictions([Query(pixels=grey)] * count)
        try:
            self._heats([Query(pixels=grey, heat=True)], predictions)
        except ConfigError:  # The head gives no gradients, or no map has more than one position.
            return False
        return True


def _explained(predictions: Sequence[Prediction]) -> Tensor:
    """Return the classes to explain for each image, ``(B, C)`` of 0 and 1: the predicted ones, or the likeliest."""
    rows: list[Tensor] = []
    for prediction in predictions:
        values, index = prediction.probabilities, prediction.index
        row = torch.zeros_like(values)
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.any():
            row[index] = 1
        else:
            row[index if isinstance(index, int) else int(values.argmax())] = 1
        rows.append(row)
    return torch.stack(rows)


def _heat_jpeg(heat: Tensor) -> bytes:
    image = Image.fromarray(heat.permute(1, 2, 0).numpy())
    image.thumbnail((_HEAT_SIDE, _HEAT_SIDE))
    return jpeg_bytes(image, quality=_HEAT_QUALITY)
