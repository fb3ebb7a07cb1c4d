"""The engine explains what was predicted, for every task, and says where it cannot."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.data.images.sizing import Resize
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.predictor import Predictor
from vizsla.serve.answers import answer_values
from vizsla.serve.engine import SMALL_PIXELS_AT_ONCE, Engine
from vizsla.serve.limits import Limits
from vizsla.serve.screening import SMALL_PIXELS, screened

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from vizsla.predict.predictor import AnyImage
    from vizsla.serve.engine import Answer
    from vizsla.types import Task

VOCAB = ("first", "second", "third")


def predictor_of(task: Task, *, resize: Resize | None) -> Predictor:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[16], seed=1)
    return Predictor(Classifier(backbone, head, vocab=VOCAB, task=task).eval(), resize=resize)


def ask(engine: Engine, *pictures: bytes, heat: bool = True) -> list[Answer]:
    async def run() -> list[Answer]:
        async with engine:
            return await engine.answer(pictures, heat=heat, nearest=3)

    return asyncio.run(run())


def file_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("task", ["category", "multi_category", "regression"])
def test_every_task_is_predicted_and_explained(draw: Callable[..., Image.Image], task: Task):
    predictor = predictor_of(task, resize=Resize(64))
    data = file_of(draw("disc", number=4))
    (answer,) = ask(Engine(predictor, limits=Limits()), data)
    expected = predictor.predict(data)
    assert answer.prediction is not None
    assert answer.prediction.label == expected.label
    assert torch.equal(answer.prediction.probabilities, expected.probabilities)
    assert answer.heat is not None
    assert answer.nearest == []  # there is no index
    values = answer_values(answer, name="a", vocab=VOCAB)
    kinds = {"category": str, "multi_category": list, "regression": dict}
    assert isinstance(values["prediction"], kinds[task])
    assert ("probabilities" in values) == (task != "regression")


def test_pictures_of_their_own_size_run_beside_each_other_and_are_held_to_fewer_pixels(
    draw: Callable[..., Image.Image],
):
    predictor = predictor_of("category", resize=None)
    engine = Engine(predictor, limits=Limits(), keeps_size=True)
    files = [file_of(draw("disc", number=n, size=(64 + 32 * (n % 2), 96))) for n in range(4)]
    answers = ask(engine, *files, file_of(Image.new("L", (2001, 2000))))
    for data, answer in zip(files, answers, strict=False):
        assert answer.prediction is not None
        wanted = predictor.predict(data).probabilities
        torch.testing.assert_close(answer.prediction.probabilities, wanted, atol=1e-6, rtol=0)
        assert answer.heat is not None
    assert answers[-1].error == "it has 2001 x 2000 pixels, more than 4 million"


def test_a_network_that_cannot_be_explained_predicts_all_the_same(draw: Callable[..., Image.Image]):
    predictor = predictor_of("category", resize=Resize(64))

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

    def watch(self) -> None:
        self.lock = threading.Lock()
        self.under_way: list[int] = []
        self.highest = self.highest_large = 0

    def prepare(self, image: AnyImage) -> NDArray[np.uint8]:
        if not isinstance(image, bytes):
            return super().prepare(image)
        pixels = screened(image, max_pixels=10**9).pixels
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


def test_never_more_pixels_than_stated_are_in_decoding_and_all_pictures_are_answered():
    plain = predictor_of("category", resize=Resize(64))
    predictor = Watched(plain.classifier, resize=Resize(64))
    predictor.watch()
    sides = [(4000, 2900), (4000, 1500), (40, 30), (4100, 3000)]
    files = [file_of(Image.new("1", side)) for side in sides]

    async def ask_all() -> list[list[Answer]]:
        async with Engine(predictor, limits=Limits(), num_decoders=16) as engine:
            asked = [engine.answer([files[number % len(files)]]) for number in range(32)]
            answers = await asyncio.gather(*asked)
            assert engine.pixels_in_decoding == 0
            return answers

    answers = asyncio.run(ask_all())
    assert all(answer.prediction is not None for (answer,) in answers)
    assert SMALL_PIXELS < predictor.highest <= SMALL_PIXELS_AT_ONCE
    assert predictor.highest_large == 1


def test_a_picture_that_is_given_up_counts_until_its_thread_is_done_with_it():
    plain = predictor_of("category", resize=Resize(64))
    predictor = Watched(plain.classifier, resize=Resize(64))
    predictor.watch()
    data = file_of(Image.new("1", (2000, 1000)))

    async def give_up() -> tuple[int, int]:
        async with Engine(predictor, limits=Limits()) as engine:
            asked = asyncio.create_task(engine.answer([data]))
            while not predictor.under_way:
                await asyncio.sleep(0.001)
            asked.cancel()
            await asyncio.wait([asked])
            while_decoding = engine.pixels_in_decoding
            while engine.pixels_in_decoding:
                await asyncio.sleep(0.001)
            return while_decoding, len(predictor.under_way)

    assert asyncio.run(give_up()) == (2_000_000, 0)


def test_a_large_picture_is_decoded_too():
    predictor = predictor_of("category", resize=Resize(64))
    (answer,) = ask(Engine(predictor, limits=Limits()), file_of(Image.new("L", (4000, 3001), 128)))
    assert answer.prediction is not None
