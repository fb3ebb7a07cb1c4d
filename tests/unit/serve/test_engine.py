"""The engine explains what was predicted, for every task, and says where it cannot."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.data.presize import Resize
from vizsla.export.predictor import Predictor
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.serve.answers import answer_values
from vizsla.serve.engine import Engine
from vizsla.serve.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_a_large_picture_is_decoded_too():
    predictor = predictor_of("category", resize=Resize(64))
    (answer,) = ask(Engine(predictor, limits=Limits()), file_of(Image.new("L", (4000, 3001), 128)))
    assert answer.prediction is not None
