"""The engine explains what was predicted, for every task, and says where it cannot."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vizsla import Predictor, Resize
from vizsla.machine import use_threads
from vizsla.models import Classifier
from vizsla.predict import AnyImage
from vizsla.serve import (
    SMALL_PIXELS,
    SMALL_PIXELS_AT_ONCE,
    Answer,
    Batcher,
    BatchRunner,
    Engine,
    Limits,
    Query,
    RefusedError,
    TrainingImage,
    answer_values,
    build_index,
    screen,
)
from vizsla.types import Task

Draw = Callable[..., Image.Image]


VOCAB = ("first", "second", "third")


def ask(engine: Engine, *images: bytes, heat: bool = True) -> list[Answer]:
    async def run() -> list[Answer]:
        async with engine:
            return await engine.answer(images, heat=heat, nearest=3)

    return asyncio.run(run())


def file_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_task_is_predicted_and_explained(draw: Draw, make_classifier: Any):
    data = file_of(draw("disc", number=4))
    kinds: dict[Task, type] = {"category": str, "multi_category": list, "regression": dict}
    for task, kind in kinds.items():
        predictor = Predictor(make_classifier(VOCAB, task=task), resize=Resize(64))
        (answer,) = ask(Engine(predictor, limits=Limits()), data)
        expected = predictor.predict(data)
        assert answer.prediction is not None
        assert answer.prediction.label == expected.label
        assert torch.equal(answer.prediction.probabilities, expected.probabilities)
        assert answer.heat is not None
        assert answer.nearest == []  # there is no index
        values = answer_values(answer, name="a")
        assert isinstance(values["prediction"], kind)
        assert ("probabilities" in values) == (task != "regression")


def test_images_of_their_own_size_are_held_to_fewer_pixels(draw: Draw, make_classifier: Any):
    predictor = Predictor(make_classifier(VOCAB), resize=None)
    engine = Engine(predictor, limits=Limits(), keeps_size=True)
    files = [file_of(draw("disc", number=n, size=(64 + 32 * (n % 2), 96))) for n in range(4)]
    answers = ask(engine, *files, file_of(Image.new("L", (2001, 2000))))
    for data, answer in zip(files, answers, strict=False):
        assert answer.prediction is not None
        wanted = predictor.predict(data).probabilities
        torch.testing.assert_close(answer.prediction.probabilities, wanted, atol=1e-6, rtol=0)
        assert answer.heat is not None
    assert answers[-1].error == "it has 2001 x 2000 pixels, more than 4 million"


def test_a_network_that_cannot_be_explained_still_predicts(draw: Draw, make_classifier: Any):
    predictor = Predictor(make_classifier(VOCAB), resize=Resize(64))

    class Constant(torch.nn.Module):
        def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return torch.zeros(len(maps[0]), 3)

    predictor.classifier.head = Constant()
    engine = Engine(predictor, limits=Limits())
    assert not engine.explains
    (answer,) = ask(engine, file_of(draw("disc", number=4)))
    assert answer.prediction is not None
    assert answer.heat is None


class Watched(Predictor):
    """Notes how many pixels are being decoded at the same time."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier, resize=Resize(64))
        self.lock = threading.Lock()
        self.under_way: list[int] = []
        self.highest = self.highest_large = 0

    def prepare(self, image: AnyImage) -> NDArray[np.uint8]:
        if not isinstance(image, bytes):
            return super().prepare(image)
        pixels = screen(image, max_pixels=10**9).pixels
        with self.lock:
            self.under_way.append(pixels)
            large = [one for one in self.under_way if one > SMALL_PIXELS]
            self.highest = max(self.highest, sum(self.under_way) - sum(large))
            self.highest_large = max(self.highest_large, len(large))
        try:
            time.sleep(0.01)  # Longer than it takes to begin with the others.
            return super().prepare(image)
        finally:
            with self.lock:
                self.under_way.remove(pixels)


@pytest.fixture
def watched(make_classifier: Any) -> Watched:
    return Watched(make_classifier(VOCAB))


def test_decoding_keeps_to_its_budget_of_pixels(watched: Watched):
    sides = [(4000, 2900), (4000, 1500), (40, 30), (4100, 3000)]
    files = [file_of(Image.new("1", side)) for side in sides]

    async def ask_all() -> list[list[Answer]]:
        async with Engine(watched, limits=Limits(), num_decoders=16) as engine:
            asked = [engine.answer([files[number % len(files)]]) for number in range(32)]
            answers = await asyncio.gather(*asked)
            assert engine.pixels_in_decoding == 0
            return answers

    answers = asyncio.run(ask_all())
    assert all(answer.prediction is not None for (answer,) in answers)
    assert SMALL_PIXELS < watched.highest <= SMALL_PIXELS_AT_ONCE
    assert watched.highest_large == 1


def test_a_cancelled_image_counts_until_its_thread_is_done(watched: Watched):
    data = file_of(Image.new("1", (2000, 1000)))

    async def give_up() -> tuple[int, int]:
        async with Engine(watched, limits=Limits()) as engine:
            asked = asyncio.create_task(engine.answer([data]))
            while not watched.under_way:
                await asyncio.sleep(0.001)
            asked.cancel()
            await asyncio.wait([asked])
            while_decoding = engine.pixels_in_decoding
            while engine.pixels_in_decoding:
                await asyncio.sleep(0.001)
            return while_decoding, len(watched.under_way)

    assert asyncio.run(give_up()) == (2_000_000, 0)


@pytest.fixture(params=[1, 2])
def _num_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    use_threads(request.param)
    yield
    use_threads(before)


@pytest.mark.usefixtures("_num_threads")
def test_answers_are_those_of_the_predictor(predictor: Predictor, draw: Draw):
    pixels = [predictor.prepare(draw("disc", number=number)) for number in range(19)]
    expected = [predictor.predict_prepared([one])[0] for one in pixels]
    for count, max_batch in ((1, 0), (2, 0), (5, 0), (19, 0), (1, 1)):
        network = BatchRunner(predictor, max_batch=max_batch)
        assert network.max_batch == (1 if max_batch else 16)
        outcomes = network.run([Query(pixels=one) for one in pixels[:count]])
        assert len(outcomes) == count
        for outcome, wanted in zip(outcomes, expected, strict=False):
            assert outcome.prediction.label == wanted.label
            found = outcome.prediction.probabilities
            torch.testing.assert_close(found, wanted.probabilities, atol=1e-6, rtol=0)


def test_each_query_gets_its_answer(calibrated: Predictor, known: list[TrainingImage], draw: Draw):
    network = BatchRunner(calibrated, index=build_index(calibrated, known))
    pixels = calibrated.prepare(draw("cross", number=7))
    queries = [
        Query(pixels=pixels),
        Query(pixels=pixels, coverage=0.9, nearest=2),
        Query(pixels=pixels, coverage=0.5, heat=True),
        Query(pixels=pixels, coverage=0.9),
    ]
    outcomes = network.run(queries)
    for query, outcome in zip(queries, outcomes, strict=True):
        (expected,) = calibrated.predict_prepared([pixels], coverage=query.coverage)
        assert outcome.prediction.label_set == expected.label_set
        assert outcome.prediction.coverage == query.coverage
        assert (outcome.heat is not None) == query.heat
        assert len(outcome.nearest) == query.nearest
    assert len(outcomes[1].prediction.label_set or ()) > len(outcomes[2].prediction.label_set or ())


def test_the_faster_copy_agrees_within_a_ten_thousandth(predictor: Predictor, draw: Draw):
    quick = predictor.faster()
    assert quick.classifier is not predictor.classifier
    for number in range(5):
        image = draw("disc", number=number)
        expected, found = predictor.predict(image), quick.predict(image)
        assert found.label == expected.label
        torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-4, rtol=0)
    norms = [layer for layer in predictor.classifier.modules() if "Norm" in type(layer).__name__]
    left = [layer for layer in quick.classifier.modules() if "Norm2d" in type(layer).__name__]
    assert norms
    assert left == []


def test_results_come_to_who_asked_in_the_order_asked():
    async def run() -> list[list[int]]:
        async with Batcher[int, int](lambda items: [item * 10 for item in items], max_items=4) as batcher:  # fmt: skip
            return await asyncio.gather(*(batcher.submit([n, n + 1, n + 2]) for n in range(50)))

    assert asyncio.run(run()) == [[10 * n, 10 * n + 10, 10 * n + 20] for n in range(50)]


class Recorder:
    """Gives items back and notes their batches; the first batch takes until ``go_on`` is set."""

    def __init__(self, *, waits: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.first_runs, self.go_on = threading.Event(), threading.Event()
        if not waits:
            self.go_on.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.first_runs.set()
        self.go_on.wait(10)
        return items


def test_what_arrives_while_a_batch_runs_makes_the_next_one():
    record = Recorder(waits=True)

    async def run() -> None:
        async with Batcher[int, int](record, max_items=4) as batcher:
            asked = [asyncio.create_task(batcher.submit([0]))]
            await asyncio.to_thread(record.first_runs.wait, 10)
            asked += [asyncio.create_task(batcher.submit([n])) for n in range(1, 8)]
            await asyncio.sleep(0)
            record.go_on.set()
            await asyncio.gather(*asked)

    asyncio.run(run())
    assert record.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_an_idle_thread_waits_briefly_if_more_is_on_its_way():
    async def run(record: Recorder, *, more_to_come: bool) -> None:
        waiting: Any = {"max_wait_seconds": 5, "more_to_come": lambda: more_to_come}
        async with Batcher[int, int](record, max_items=2, **waiting) as batcher:
            first = asyncio.create_task(batcher.submit([1]))
            await asyncio.sleep(0.05)
            await batcher.submit([2])
            await first

    for more_to_come, expected in ((True, [[1, 2]]), (False, [[1], [2]])):
        record = Recorder()
        asyncio.run(run(record, more_to_come=more_to_come))
        assert record.batches == expected

    async def wait_alone() -> float:
        waiting: Any = {"max_wait_seconds": 0.02, "more_to_come": lambda: True}
        async with Batcher[int, int](lambda items: items, max_items=2, **waiting) as batcher:
            started = time.monotonic()
            await batcher.submit([1])
            return time.monotonic() - started

    assert 0.02 <= asyncio.run(wait_alone()) < 5


def test_batches_are_bounded_by_cost_but_one_item_may_cost_more():
    record = Recorder()

    async def run() -> None:
        batcher = Batcher[int, int](record, max_items=9, max_cost=10, cost=float)
        async with batcher:
            await batcher.submit([4, 6, 1, 99, 5, 5])

    asyncio.run(run())
    assert record.batches == [[4, 6], [1], [99], [5, 5]]


def test_an_item_that_fails_takes_no_other_with_it():
    def divide(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    async def run() -> list[object]:
        async with Batcher[int, float](divide, max_items=8) as batcher:
            asked = [batcher.submit([item]) for item in (1, 0, 2)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    one, failed, half = asyncio.run(run())
    assert (one, half) == ([1.0], [0.5])
    assert isinstance(failed, ZeroDivisionError)


def test_more_than_may_wait_is_refused_and_what_waits_is_kept():
    async def run() -> list[int]:
        async with Batcher[int, int](lambda items: items, max_items=2, max_waiting=3) as batcher:
            kept = asyncio.create_task(batcher.submit([1, 2, 3]))
            await asyncio.sleep(0)
            with pytest.raises(RefusedError) as refused:
                await batcher.submit([4])
            assert refused.value.status == 503
            return await kept

    assert asyncio.run(run()) == [1, 2, 3]


def test_items_of_a_cancelled_caller_are_left_out():
    record = Recorder(waits=True)

    async def run() -> None:
        async with Batcher[int, int](record, max_items=1) as batcher:
            first = asyncio.create_task(batcher.submit([1]))
            await asyncio.to_thread(record.first_runs.wait, 10)
            dropped = asyncio.create_task(batcher.submit([2]))
            kept = asyncio.create_task(batcher.submit([3]))
            await asyncio.sleep(0)
            dropped.cancel()
            await asyncio.sleep(0)
            record.go_on.set()
            assert (await first, await kept) == ([1], [3])

    asyncio.run(run())
    assert record.batches == [[1], [3]]


def test_the_end_finishes_what_waits_and_takes_nothing_new():
    async def run() -> list[int]:
        batcher = Batcher[int, int](lambda items: items, max_items=1)
        async with batcher:
            waiting = asyncio.create_task(batcher.submit([1, 2, 3]))
            await asyncio.sleep(0)
        with pytest.raises(RefusedError):
            await batcher.submit([4])
        return await waiting

    assert asyncio.run(run()) == [1, 2, 3]
