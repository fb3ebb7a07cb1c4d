"""Batches are answered as single pictures are, however they are shared out; a quickened predictor says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.machine import use_threads
from vizsla.serve.nearest import build_index
from vizsla.serve.network import Network, Wish, quickened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

    from vizsla.predict.predictor import Predictor
    from vizsla.serve.nearest import KnownPicture

    Draw = Callable[..., Image.Image]


@pytest.fixture(params=[1, 2])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    use_threads(request.param)
    yield request.param
    use_threads(before)


@pytest.mark.parametrize(("count", "max_batch"), [(1, 0), (2, 0), (5, 0), (19, 0), (1, 1)])
@pytest.mark.usefixtures("num_threads")
def test_answers_are_those_of_the_predictor(predictor: Predictor, draw: Draw, count: int, max_batch: int):  # fmt: skip
    network = Network(predictor, max_batch=max_batch)
    assert network.max_batch == (1 if max_batch else 16)
    pixels = [predictor.prepare(draw("disc", number=number)) for number in range(count)]
    outcomes = network.run([Wish(pixels=one) for one in pixels])
    for one, outcome in zip(pixels, outcomes, strict=True):
        (expected,) = predictor.predict_prepared([one])
        assert outcome.prediction.label == expected.label
        found = outcome.prediction.probabilities
        torch.testing.assert_close(found, expected.probabilities, atol=1e-6, rtol=0)


def test_each_picture_gets_what_was_asked_about_it(calibrated: Predictor, known: list[KnownPicture], draw: Draw):  # fmt: skip
    network = Network(calibrated, index=build_index(calibrated, known))
    pixels = calibrated.prepare(draw("cross", number=7))
    wishes = [
        Wish(pixels=pixels),
        Wish(pixels=pixels, coverage=0.9, nearest=2),
        Wish(pixels=pixels, coverage=0.5, heat=True),
        Wish(pixels=pixels, coverage=0.9),
    ]
    outcomes = network.run(wishes)
    for wish, outcome in zip(wishes, outcomes, strict=True):
        (expected,) = calibrated.predict_prepared([pixels], coverage=wish.coverage)
        assert outcome.prediction.label_set == expected.label_set
        assert outcome.prediction.coverage == wish.coverage
        assert (outcome.heat is not None) == wish.heat
        assert len(outcome.nearest) == wish.nearest
    assert len(outcomes[1].prediction.label_set or ()) > len(outcomes[2].prediction.label_set or ())


def test_a_quickened_predictor_says_the_same_within_a_ten_thousandth(predictor: Predictor, draw: Draw):  # fmt: skip
    quick = quickened(predictor)
    assert quick.classifier is not predictor.classifier
    pictures = [draw("disc", number=number) for number in range(5)]
    for picture in pictures:
        expected, found = predictor.predict(picture), quick.predict(picture)
        assert found.label == expected.label
        torch.testing.assert_close(found.probabilities, expected.probabilities, atol=1e-4, rtol=0)
    norms = [layer for layer in predictor.classifier.modules() if "Norm" in type(layer).__name__]
    left = [layer for layer in quick.classifier.modules() if "Norm2d" in type(layer).__name__]
    assert norms
    assert left == []
