"""Fixtures that many tests share: small real picture files whose classes differ by shape and colour, and the command line."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image, ImageDraw

from vizsla.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Property tests draw the same examples every day, and no test fails because the machine is busy.
# HYPOTHESIS_PROFILE=explore draws others each time: add what it finds to the test as an @example.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Small tensors gain nothing from more, and beside another busy process a second one waits for the first. So it is in the
    # processes that tests start.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts():
    # A shell starts what runs in the background with Ctrl-C ignored, and so would be the processes that tests start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def draw_image(label: str, *, number: int, size: tuple[int, int] = (48, 64)) -> Image.Image:
    """Return an RGB picture of ``size`` (height, width): a red disc or a blue cross, elsewhere noise; ``number`` varies it."""
    height, width = size
    noise = np.random.default_rng([number, sum(label.encode())])
    pixels = noise.integers(90, 166, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    x = int(noise.integers(width // 4, 3 * width // 4))
    y = int(noise.integers(height // 4, 3 * height // 4))
    radius = int(noise.integers(min(size) // 6, min(size) // 3))
    if sum(label.encode()) % 2 == 1:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(210, 40, 40))
    else:
        draw.line((x - radius, y - radius, x + radius, y + radius), fill=(40, 60, 220), width=6)
        draw.line((x - radius, y + radius, x + radius, y - radius), fill=(40, 60, 220), width=6)
    return picture


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """``draw_image``, for fixtures that outlive a test."""
    return draw_image


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes one picture below the test's folder and returns its path."""

    def make(
        name: str, *, label: str = "cross", number: int = 0, size: tuple[int, int] = (48, 64)
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(label, number=number, size=size).save(path)
        return path

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder ``pictures/{cross,disc}/`` with 12 small JPEGs in each."""
    root = tmp_path / "pictures"
    for label in ("cross", "disc"):
        (root / label).mkdir(parents=True)
        for number in range(12):
            draw_image(label, number=number).save(
                root / label / f"{label}_{number}.jpg", quality=95
            )
    return root


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def vizsla() -> Callable[..., Done]:
    """Return a function that runs the command line in this process with the given words."""

    def run(*words: object) -> Done:
        out, err = (
            io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="")
            for errors in ("strict", "backslashreplace")  # as the interpreter opens them
        )
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["vizsla", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
        texts: list[str] = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            texts.append(stream.read())
        return Done(code=int(ended.value.code or 0), out=texts[0], err=texts[1])

    return run
