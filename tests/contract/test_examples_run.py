"""What the documentation shows runs: every example of a docstring, and every Python block and command of README and docs, on made-up images.

Sizes are made small, so that the training in them takes a second. What cannot run here is in ``NOT_HERE``, with the reason; of commands that
are left out the words are read at least. ``scripts/pages.py`` runs the pages that show what is printed.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

import vizsla
from vizsla import ImageDataLoaders, Predictor, Resize, aug_transforms, vision_learner
from vizsla.cli.app import app
from vizsla.export import export_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "vizsla"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = (
    (r"Resize\((\d+|\(\d+, \d+\))\)", "Resize(32)"),
    (r"\b(size|sz)=\d+", r"\1=24"),
    (r"fine_tune\(\d+", "fine_tune(1"),
)
NEEDS_NETWORK = re.compile(r"_hub\(|untar_data\(|huggingface|http")
NEEDS_ONNX = re.compile(r"onnx")
NOT_HERE = {
    NEEDS_NETWORK.pattern: "needs a network; those on this machine alone are in the tests of serving",
    r"hf:|saved-dataset|parts/": "needs a network, or a dataset of that name: tests/unit/data",
    r"shards/|audit shards": "the names of shards that exist nowhere: tests/unit/data",
    r"import ray|pyspark|--engine ray": "starts a cluster: tests/unit/integrations",
    r"torchrun|distributed\.start": "starts processes: tests/integration/test_cluster.py",
    r"vizsla (serve|label)": "runs until it is stopped: tests/integration",
    r"--int8|--fp16": "a model of a few flat colours moves too far in 8 bits: tests/unit/export",
    r"executorch": "a package that is not installed for tests",
    r"vizsla demo|\.venv": "CI and its users run the demo: it takes a minute",
    r"^(make|pip|python|docker) ": "other programs; `make test` is what runs this",
}
FOR_THE_SITE = ("first-classifier.md", "report.md", "gallery.md", "audit.md")
"""Pages whose commands ``scripts/pages.py`` runs, because it shows what they print."""
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
    if topic == "onnx":  # examples read it before the one that writes it
        export_model("model.safetensors", onnx="model.onnx")
    for place, module, text in docstrings():
        if NEEDS_NETWORK.search(text.split(">>>", 1)[1]) or (topic == "onnx") != bool(
            NEEDS_ONNX.search(text)
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong += failures_of(place, module, text, dict(given))
    assert wrong == [], "\n".join(wrong)


def runs_here(code: str) -> bool:
    return not any(re.search(reason, code, re.MULTILINE) for reason in NOT_HERE)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, code), a command of a terminal at a time."""
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        whole = [code] if language == "python" else code.replace("\\\n", " ").splitlines()
        yield from ((language, one) for one in whole)


def run_python(code: str, page: Path, names: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(smaller(code), page.name, "exec"), names)  # noqa: S102 (our own documentation)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_pages_runs(page: Path, given: dict[str, Any]):
    if page.name in ("first-classifier.md", "gallery.md"):
        pytest.skip("scripts/docs runs it")
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, code in blocks(page):
        if language == "python" and runs_here(code) and not NEEDS_ONNX.search(code):
            run_python(code, page, names)


def words_of(line: str) -> list[str]:
    """Return what stands behind ``vizsla`` in a command; nothing for other programs."""
    command = re.search(r"(?:^|^\$ |\| |-m )vizsla (.*)", line)
    return shlex.split(command[1], comments=True) if command else []


def test_commands_of_pages_are_understood():
    wrong: list[str] = []
    for page in [*PAGES, REPOSITORY / "CONTRIBUTING.md"]:
        for language, line in blocks(page):
            words = words_of(line) if language == "console" else []
            try:
                if words and not words[0].startswith("--"):
                    app.parse_args(words, exit_on_error=False, print_error=False)
            except Exception as error:  # noqa: BLE001 (it is told with its place)
                wrong.append(f"{page.name}: {line}\n    {error}")
    assert wrong == [], "\n".join(wrong)


def make_tables(root: Path) -> None:
    """Write the folders that commands take for granted, 12 images in each, and their tables."""
    names = [f"{label}_{number}.jpg" for number in range(8) for label in CLASSES]
    for folder in ("planet", "leaves", "scans", "photos", "new-photos", "archive", "data/valid"):
        make_images(root / folder, names)
    tables = {
        "pets/labels.csv": ("file,breed", "{0}/{1}.jpg,{0}"),
        "planet/train.csv": ("image,tags", "{0}_{1}.jpg,{0} tag{2}"),
        "leaves/leaves.csv": ("image,area", "{0}_{1}.jpg,{1}.5"),
        "scans/scans.csv": ("image,finding,patient_id", "{0}_{1}.jpg,{0},{0}{3}"),
        "photos/tags.csv": ("image,tags", "{0}_{1}.jpg,{0};crowd"),
        "new-photos/labels.csv": ("image,breed", "{0}_{1}.jpg,{0}"),
    }
    for name, (head, row) in tables.items():
        rows = [row.format(label, n, n % 2, n // 2) for n in range(8) for label in CLASSES]
        (root / name).write_text("\n".join([head, *rows]), encoding="utf-8")
    cell = {"cell_type": "code", "metadata": {}, "source": "from fastai.vision.all import *", "outputs": [], "execution_count": None}  # fmt: skip
    (root / "lesson.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))  # fmt: skip


def small_words(words: list[str]) -> list[str]:
    """Return the words of a command with a small size and little time."""
    for option, value in (("--minutes", "0.05"), ("--epochs", "1")):
        if option in words:
            words[words.index(option) + 1] = value
    trains = words[0] in ("train", "audit") and "--from" not in words
    return [*words, "--size", "32"] if trains else words


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, vizsla: Any) -> Path:
    """A folder with everything that commands take for granted, and a finished run."""
    folder = tmp_path_factory.mktemp("commands")
    make_images(folder, [f"pets/{label}/{number}.jpg" for label in CLASSES for number in range(16)])
    make_images(folder, [f"breeds/{label}_{number}.jpg" for label in CLASSES for number in range(8)])  # fmt: skip
    make_images(folder, ["photo.jpg", "new.jpg", "cat.jpg", "holiday/a.jpg", "holiday/b.jpg"])
    make_tables(folder)
    out = folder / "runs" / "pets"
    done = vizsla("train", folder / "pets", "--size", 32, "--out", out)
    assert done.code == 0, done.err
    shutil.copytree(out, folder / "runs" / "pets-2")
    for name in ("model.safetensors", "pets.safetensors"):
        shutil.copy(out / "model.safetensors", folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in FOR_THE_SITE], ids=lambda page: page.name)  # fmt: skip
def test_commands_of_pages_run(
    page: Path, finished_run: Path, tmp_path: Path, vizsla: Any, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, code in blocks(page):
        if language == "python" and NEEDS_ONNX.search(code) and runs_here(code):
            run_python(code, page, names)
        elif language == "console" and "|" not in code and words_of(code) and runs_here(code):
            done = vizsla(*small_words(words_of(code)))
            assert done.code == 0, f"{code}\n{done.out}{done.err}"
