"""Strangers' images are decoded in processes that may end; answers stay those of the predictor."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vizsla import Predictor, Resize
from vizsla.serve import IS_AVAILABLE, Answer, DecodingProcesses, Engine, Limits

pytestmark = pytest.mark.skipif(not IS_AVAILABLE, reason="only Linux limits processes that way")
FEW, MANY = 1_000, 50_000_000
Draw = Callable[..., Image.Image]


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def processes() -> Iterator[DecodingProcesses]:
    with DecodingProcesses(Resize(64), bit_depth=12, seconds=0.5) as started:
        started.wait_until_ready()
        yield started


def test_pixels_and_causes_are_those_of_the_predictor(processes: DecodingProcesses, make_classifier: Any, draw: Draw):  # fmt: skip
    predictor = Predictor(make_classifier(("a", "b")), resize=Resize(64), bit_depth=12)
    files = [file_of(draw("disc", number=n, size=(70, 90 + n)), ("PNG", "JPEG", "GIF", "BMP")[n % 4]) for n in range(24)]  # fmt: skip
    grey = np.linspace(0, 4095, 90 * 70).reshape(90, 70).astype(np.uint16)
    files.append(file_of(Image.fromarray(grey)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: processes.decode(data, most_pixels=FEW), files))
    for data, pixels in zip(files, found, strict=True):
        assert np.array_equal(pixels, predictor.prepare(data))
    assert "'no image'" in str(processes.decode(b"no image", most_pixels=FEW))

    async def ask(*, decoding: DecodingProcesses | None) -> list[Answer]:
        async with Engine(predictor, limits=Limits(), decoding=decoding) as engine:
            return await engine.answer([*files[:3], files[0][:-40], b"", b"no image"])

    apart, here = asyncio.run(ask(decoding=processes)), asyncio.run(ask(decoding=None))
    assert [one.error for one in apart] == [one.error for one in here]
    assert [one.prediction and one.prediction.label for one in apart] == [one.prediction and one.prediction.label for one in here]  # fmt: skip


def test_an_image_that_takes_too_much_is_refused_and_the_next_one_is_not(processes: DecodingProcesses, draw: Draw):  # fmt: skip
    good = file_of(draw("disc", number=1))
    large = file_of(Image.new("RGB", (6000, 6000)))
    slow = file_of(Image.effect_noise((2000, 2000), 60), "JPEG", progressive=True)
    start = slow.rindex(b"\xff\xda")
    slow = slow[:-2] + slow[start:-2] * 100 + slow[-2:]
    for bomb, bound in ((large, FEW), (slow, MANY)):
        refused: NDArray[np.uint8] | str = processes.decode(bomb, most_pixels=bound)
        assert isinstance(refused, str)
        assert "memory" in refused
        assert isinstance(processes.decode(good, most_pixels=bound), np.ndarray)
