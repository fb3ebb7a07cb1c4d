"""A tiny calibrated model file, and images to predict, one of them broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsla import Resize
from vizsla.model_file import save_bundle

VOCAB = ("a", "b\r", 'c,"')


@pytest.fixture(scope="session")
def calibrated(
    tmp_path_factory: pytest.TempPathFactory, make_classifier: Any, calibration_for: Any
) -> Path:
    return save_bundle(
        tmp_path_factory.mktemp("calibrated") / "model.safetensors",
        classifier=make_classifier(VOCAB),
        resize=Resize(32),
        calibration=calibration_for(VOCAB),
    )


@pytest.fixture
def few_images(make_image: Callable[..., Path]) -> list[Path]:
    """Seven images, of which one cannot be read and some have names that CSV must quote."""
    names = ["a.png", "comma,.png", "line\nbreak.png", 'quo"te.png', "return\r.png", "z.png"]
    paths = [make_image(name, number=number, size=(32, 32)) for number, name in enumerate(names)]
    broken = paths[0].with_name("broken.png")
    broken.write_text("Dear diary")
    return [*paths[:3], broken, *paths[3:]]
