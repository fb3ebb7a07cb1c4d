"""Fixtures that many tests share: small image files whose classes differ by shape and colour, and the command line."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image, ImageDraw

from vizsla.cli.app import main
from vizsla.evaluate import Calibration, LabelSets, Novelty
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.types import Task

# Property tests draw the same examples every day, and no test fails because the machine is busy.
# HYPOTHESIS_PROFILE=explore draws others each time: add what it finds to the test as an @example.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what forks and trains in the child: torch refuses that once the process has exported a network."""
    items.sort(key=lambda item: item.path.name != "test_distributed.py")


def pytest_collection_finish() -> None:
    """Leave what torch and the tests themselves consist of to the end: looking through it again and again took an eighth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Small tensors gain nothing from a second thread, which beside a busy process waits for the first. The processes that
    # tests start have one too.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts():
    # A shell starts background jobs with Ctrl-C ignored, and the processes that tests start would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def draw_image(label: str, *, number: int, size: tuple[int, int] = (48, 64)) -> Image.Image:
    """Return an RGB image of ``size`` (height, width): a red disc or a blue cross on noise; ``number`` varies it."""
    height, width = size
    noise = np.random.default_rng([number, sum(label.encode())])
    pixels = noise.integers(90, 166, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    x = int(noise.integers(width // 4, 3 * width // 4))
    y = int(noise.integers(height // 4, 3 * height // 4))
    radius = int(noise.integers(min(size) // 6, min(size) // 3))
    if sum(label.encode()) % 2 == 1:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(210, 40, 40))
    else:
        draw.line((x - radius, y - radius, x + radius, y + radius), fill=(40, 60, 220), width=6)
        draw.line((x - radius, y + radius, x + radius, y - radius), fill=(40, 60, 220), width=6)
    return image


def unpatch_paths() -> None:
    """Give ``pathlib.Path`` back what Python gave it; importing ``vizsla.all``, as checking a notebook does, changes it for good."""
    for name in ("ls", "BASE_PATH", "__repr__"):
        if name in Path.__dict__:
            delattr(Path, name)


@pytest.fixture
def patched_paths() -> Generator[None]:
    """``pathlib.Path`` as notebooks have it, for one test."""
    from vizsla.notebook import patch_path

    patch_path()
    yield
    unpatch_paths()


@pytest.fixture(scope="module")
def star() -> Generator[Any]:
    """``vizsla.all``, imported without leaving its mark on ``pathlib.Path`` for the tests that come after."""
    import vizsla.all
    from vizsla.notebook import patch_path

    patch_path()  # An earlier test may have imported it, and put paths back.
    yield vizsla.all
    unpatch_paths()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """``draw_image``, for fixtures that outlive a test."""
    return draw_image


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes one image below the test's folder and returns its path."""

    def make(
        name: str, *, label: str = "cross", number: int = 0, size: tuple[int, int] = (48, 64)
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(label, number=number, size=size).save(path)
        return path

    return make


@pytest.fixture(scope="session")
def draw_folder() -> Callable[..., Path]:
    """Return a function that writes ``cross/cross_0.png``, ``disc/disc_0.png`` and so on below a folder, and returns it."""

    def draw_all(
        root: Path,
        *,
        per_class: int = 12,
        suffix: str = ".png",
        size: tuple[int, int] = (48, 64),
    ) -> Path:
        for label in ("cross", "disc"):
            (root / label).mkdir(parents=True)
            for number in range(per_class):
                path = root / label / f"{label}_{number}{suffix}"
                draw_image(label, number=number, size=size).save(path, quality=95)
        return root

    return draw_all


@pytest.fixture(scope="session")
def drawn_once(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    return draw_folder(tmp_path_factory.mktemp("drawn") / "pictures", suffix=".jpg")


@pytest.fixture
def image_folder(tmp_path: Path, drawn_once: Path) -> Path:
    """A folder ``pictures/{cross,disc}/`` with 12 small JPEGs in each, that a test may change."""
    return shutil.copytree(drawn_once, tmp_path / "pictures")


@pytest.fixture(scope="session")
def run_files() -> list[str]:
    """The files of a run folder."""
    return [
        *("config.toml", "history.csv", "metrics.json"),
        *("model.safetensors", "predictions.csv", "report.html"),
    ]


@pytest.fixture(scope="session")
def make_classifier() -> Callable[..., Classifier]:
    """Return a function that makes a small classifier of ``test_resnet``, always with the same random weights."""

    def make(vocab: tuple[str, ...], *, task: Task = "category") -> Classifier:
        backbone = build_backbone("test_resnet", pretrained=False, seed=1)
        head = ConcatPoolHead(backbone.num_features, len(vocab), lin_ftrs=[16], seed=1)
        return Classifier(backbone, head, vocab=vocab, task=task).eval()

    return make


@pytest.fixture(scope="session")
def make_calibration() -> Callable[..., Calibration]:
    """Return a function that makes up how far to trust a model: its label sets of 50 and 90 %, and what is foreign to it."""

    def make(
        *,
        temperature: float,
        thresholds: tuple[float, ...],
        quantiles: tuple[float, ...],
        foreign_below: float,
    ) -> Calibration:
        return Calibration(
            temperature=temperature,
            num_pictures=40,
            error_before=0.2,
            error_after=0.1,
            loss_before=1.0,
            loss_after=0.9,
            label_sets=LabelSets(coverages=(0.5, 0.9), thresholds=thresholds, num_pictures=40),
            novelty=Novelty(
                quantiles=quantiles, threshold=foreign_below, num_pictures=40, separation=0.75
            ),
        )

    return make


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


LabelServer = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[str]"]]]


@pytest.fixture(scope="session")
def label_server() -> LabelServer:
    """Return a function of a folder, a size and words, a context in which ``vizsla label`` runs: its address and its process."""

    @contextmanager
    def run(folder: Path, size: int, *words: str) -> Generator[tuple[str, subprocess.Popen[str]]]:
        command = [
            sys.executable,
            "-m",
            "vizsla",
            "label",
            *words,
            "--size",
            str(size),
            "--port",
            "0",
        ]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                said = ""
                for line in process.stdout:
                    said += line
                    if line.startswith("Label at "):
                        yield line.split()[2], process
                        return
                raise AssertionError(said)
            finally:
                process.kill()

    return run


@pytest.fixture(scope="session")
def full_disk() -> Callable[..., AbstractContextManager[None]]:
    """Return a function of a number of bytes, a context in which no file of this process can grow beyond it.

    Every write fails as on a full disk (EFBIG for ENOSPC), and nobody has to be root for it.
    """
    resource = pytest.importorskip("resource", reason="limits as POSIX systems have them")

    @contextmanager
    def limited(num_bytes: int = 0) -> Generator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Return a function that runs a new interpreter with the given words and returns what it printed."""

    def run(*words: object, timeout: float = 250, **options: Any) -> str:
        command = [sys.executable, *map(str, words)]
        options |= {"capture_output": True, "text": True, "timeout": timeout}
        done = subprocess.run(command, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
