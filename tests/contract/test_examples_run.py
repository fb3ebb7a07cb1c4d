"""What the documentation shows runs: every example of a docstring, and every Python block of README and docs, on made-up images.

Sizes are made small, so that the training in them takes a second. Left out is only what needs a network.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

import vizsla
from vizsla import ImageDataLoaders, Predictor, Resize, aug_transforms, vision_learner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "vizsla"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = (
    (r"Resize\((\d+|\(\d+, \d+\))\)", "Resize(32)"),
    (r"\b(size|sz)=\d+", r"\1=24"),
    (r"fine_tune\(\d+", "fine_tune(1"),
)
NEEDS_NETWORK = re.compile(r"_hub\(|untar_data\(|huggingface|http")
NEEDS_ONNX = re.compile(r"onnx")
NEEDS_CLUSTER = re.compile(r"import ray|pyspark")  # tests/unit/integrations has them
CLASSES = ("beagle", "cat", "dog")
OBJECTS = {"dls", "learn", "classifier", "table", "predictor", "predictions", "batch", "images"}
COLOURS = ((200, 120, 40), (90, 90, 90), (30, 60, 160))


def make_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        label = next((place for place, one in enumerate(CLASSES) if one in name), 0)
        colour = tuple((value + 7 * number) % 256 for value in COLOURS[label])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(folder / name)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, star: ModuleType) -> Iterator[dict[str, Any]]:
    """The folder that examples take for granted, as the current one, and the objects that they talk about."""
    folder = tmp_path_factory.mktemp("examples")
    make_images(folder, [f"pets/{label}/{number}.jpg" for label in CLASSES for number in range(16)])
    make_images(folder, [f"breeds/{label}_{number}.jpg" for label in CLASSES for number in range(8)])  # fmt: skip
    make_images(folder, [f"dogscats/{split}/{label}/{number}.jpg" for split in ("train", "valid") for label in ("cat", "dog") for number in range(4)])  # fmt: skip
    make_images(folder, ["photo.jpg", "new.jpg", "cat.jpg", "holiday/a.jpg", "holiday/b.jpg"])
    before, here = torch.get_num_threads(), Path.cwd()
    os.chdir(folder)
    dls = ImageDataLoaders.from_folder(
        "pets",
        valid_pct=0.5,
        seed=3,
        item_tfms=Resize(32),
        batch_tfms=aug_transforms(size=24),
        bs=4,
    )
    learn = vision_learner(dls, "efficientnet_lite0", quiet=True)
    learn.fit(1)
    for run in ("runs/pets", "runs/pets-2"):
        Path(run).mkdir(parents=True)
        learn.predictions().save_csv(Path(run) / "predictions.csv")
    learn.export(folder / "model.safetensors")
    for name in ("runs/pets/model.safetensors", "pets.safetensors", "pets/pets.safetensors"):
        shutil.copy("model.safetensors", name)
    batch = next(iter(dls.train.batches()))
    yield (
        vars(star)
        | {name: getattr(vizsla, name) for name in vizsla.__all__}
        | {
            "dls": dls,
            "learn": learn,
            "classifier": learn.model,
            "table": dls.table,
            "predictor": Predictor.load("model.safetensors", device="cpu"),
            "predictions": learn.predictions(),
            "batch": batch,
            "images": batch.images,
        }
    )
    os.chdir(here)
    torch.set_num_threads(before)


def smaller(code: str) -> str:
    for pattern, small in SMALL:
        code = re.sub(pattern, small, code)
    return code


def run(code: str, names: dict[str, Any]) -> str:
    """Run a statement, asynchronous ones too, and return what it printed, as an interactive interpreter does."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, "<example>", "single", flags, dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result = eval(compiled, names)  # noqa: S307 (our own documentation)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    return printed.getvalue()


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield (place, module, docstring) of all docstrings with an example."""
    for file in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("vizsla", *file.relative_to(SOURCE).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if ">>> " in text:
                    name = getattr(node, "name", "")
                    yield f"{module}:{name}", module.removesuffix(".__init__"), text


def failures_of(place: str, module: str, text: str, given: dict[str, Any]) -> list[str]:
    """Run the examples of a docstring, and return what went otherwise than it says."""
    own = {
        name: thing
        for name, thing in vars(importlib.import_module(module)).items()
        if name not in OBJECTS
    }
    names = given | own
    checker, options = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for example in doctest.DocTestParser().get_examples(text):
        try:
            found = run(example.source if example.want else smaller(example.source), names)
        except Exception as error:  # noqa: BLE001 (it is told with its place)
            return [f"{place}: {example.source.strip()}\n    {type(error).__name__}: {error}"]
        if example.want and not checker.check_output(example.want, found, options):
            return [
                f"{place}: {example.source.strip()}\n    says {example.want!r}, gives {found!r}"
            ]
    return []


@pytest.mark.parametrize("topic", ["rest", pytest.param("onnx", marks=pytest.mark.slow)])
def test_examples_of_docstrings_run(topic: str, given: dict[str, Any]):
    wrong: list[str] = []
    for place, module, text in docstrings():
        if NEEDS_NETWORK.search(text.split(">>>", 1)[1]) or (topic == "onnx") != bool(
            NEEDS_ONNX.search(text)
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong += failures_of(place, module, text, dict(given))
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_pages_runs(page: Path, given: dict[str, Any]):
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if any(needs.search(code) for needs in (NEEDS_NETWORK, NEEDS_ONNX, NEEDS_CLUSTER)):
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(smaller(code), page.name, "exec"), names)  # noqa: S102 (our own documentation)
