"""Fixtures for lesson one's dialect: a folder of its layout, and a network that trains in no time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image
from torch import nn


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """What the original computes."""
    path = Path(__file__).resolve().parents[2] / "golden" / "classic.json"
    return json.loads(path.read_text("utf-8"))


@pytest.fixture
def lesson(tmp_path: Path, draw: Callable[..., Image.Image]) -> str:
    """A folder with 10 + 4 JPEGs of each of two classes and 6 + 4 PNGs of a third; the path ends in a slash."""
    torch.manual_seed(0)
    for name, numbers in (("train", range(10)), ("valid", range(10, 14))):
        for label, suffix in (("cats", "jpg"), ("dogs", "jpg"), ("signs", "png")):
            folder = tmp_path / "lesson" / name / label
            folder.mkdir(parents=True)
            for number in list(numbers)[: 6 if suffix == "png" else 10]:
                shape = "cross" if label == "cats" else "disc"
                size = (40, 56) if label != "signs" else (44, 36)
                draw(shape, number=number, size=size).save(folder / f"{label}.{number}.{suffix}")
    return f"{tmp_path}/lesson/"


@pytest.fixture
def tiny() -> Callable[[bool], nn.Module]:
    """An architecture of one convolution."""

    def tiny_net(pretrained: bool) -> nn.Module:
        del pretrained
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    return tiny_net
