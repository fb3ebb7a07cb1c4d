"""The names that users import: listed once by hand, documented as they are called, and imported without side effects."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import vizsla

INIT = Path(vizsla.__file__)
SECTION = re.compile(
    r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes|References):$"
)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+)( \([^)]*\))?: ")

ERRORS = [
    "VizslaError",
    "DataError",
    "PictureError",
    "LabelError",
    "TableError",
    "ConfigError",
    "WeightsError",
    "ModelFileError",
    "OutputError",
    "TrainingError",
    "MissingExtraError",
]
OTHERS = [
    "DataBlock",
    "ImageBlock",
    "CategoryBlock",
    "ImageDataLoaders",
    "DataLoaders",
    "Resize",
    "RandomResizedCrop",
    "RandomCrop",
    "CropPad",
    "RatioResize",
    "get_image_files",
    "parent_label",
    "RegexLabeller",
    "using_attr",
    "ColReader",
    "RandomSplitter",
    "GrandparentSplitter",
    "IndexSplitter",
    "FuncSplitter",
    "ColSplitter",
    "EndSplitter",
    "StratifiedSplitter",
    "aug_transforms",
    "Flip",
    "Dihedral",
    "Rotate",
    "Zoom",
    "Warp",
    "Brightness",
    "Contrast",
    "Saturation",
    "Hue",
    "RandomErasing",
    "RandomResizedCropGPU",
    "Normalize",
    "setup_aug_tfms",
    "Learner",
    "vision_learner",
    "load_learner",
    "from_hub",
    "push_to_hub",
    "accuracy",
    "error_rate",
    "train_classifier",
    "TrainConfig",
    "Predictions",
    "Predictor",
    "Prediction",
    "Adam",
    "BCEWithLogitsLossFlat",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CrossEntropyLossFlat",
    "CutMix",
    "EMACallback",
    "EarlyStoppingCallback",
    "F1Score",
    "FileSplitter",
    "FocalLossFlat",
    "GradientAccumulation",
    "GradientClip",
    "GroupSplitter",
    "JSONLLogger",
    "KeepBest",
    "LabelSmoothingCrossEntropy",
    "MaskSplitter",
    "FlipItem",
    "DihedralItem",
    "MixUp",
    "MultiCategoryBlock",
    "Precision",
    "ProgressiveResizing",
    "RandomSubsetSplitter",
    "Recall",
    "ReduceLROnPlateau",
    "RegressionBlock",
    "RocAuc",
    "SGD",
    "SaveModelCallback",
    "TensorBoardLogger",
    "TrainTestSplitter",
    "URLs",
    "WandbLogger",
    "WeightSoup",
    "accuracy_multi",
    "balanced_class_weights",
    "compare",
    "grad_cam",
    "minimum",
    "robust",
    "slide",
    "steep",
    "top_k_accuracy",
    "untar_data",
    "valley",
]
PUBLIC = sorted([*OTHERS, *ERRORS])


def test_the_public_names_are_these():
    assert sorted(vizsla.__all__) == sorted([*PUBLIC, "__version__"])


def test_dir_shows_the_public_names():
    assert dir(vizsla) == sorted(vizsla.__all__)


def test_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vizsla._MODULE_OF
    assert sorted(seen) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_one_of_its_module(name: str):
    module = importlib.import_module(vizsla._MODULE_OF[name])
    assert getattr(vizsla, name) is getattr(module, name)


def test_a_misspelt_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'vizsla' has no attribute 'Lerner'"):
        vizsla.Lerner  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018  reading it is the test


@pytest.mark.parametrize("name", ERRORS)
def test_errors_share_one_base(name: str):
    assert issubclass(getattr(vizsla, name), vizsla.VizslaError)


def sections(docstring: str | None) -> dict[str, list[str]]:
    """Return the lines below each Google section heading of a docstring; the text before them is section ""."""
    current, found = "", dict[str, list[str]]()
    for line in inspect.cleandoc(docstring or "").splitlines():
        if SECTION.match(line):
            current = line.removesuffix(":")
        else:
            found.setdefault(current, []).append(line)
    return found


def documented(docstring: str | None, section: str = "Args") -> list[str]:
    """Return the names that a section of a docstring describes, in order."""
    lines = sections(docstring).get(section, [])
    return [match[1].lstrip("*") for line in lines if (match := ENTRY.match(line))]


def parameters(thing: object) -> list[str]:
    """Return the parameter names of a function, method or class, without self."""
    if inspect.isclass(thing) and issubclass(thing, Exception) and "__init__" not in vars(thing):
        return []
    names = inspect.signature(thing).parameters if callable(thing) else {}
    return [name for name in names if name not in {"self", "cls"}]


def documented_parameters(thing: object) -> list[str]:
    """Return what a function or class says of its arguments; a dataclass says it of its attributes."""
    names = documented(thing.__doc__)
    if inspect.isclass(thing):
        names = names or documented(thing.__init__.__doc__)
        # A class that is built as its base is may refer to it.
        maker = next(each for each in thing.__mro__ if "__init__" in vars(each))
        names = names or documented(maker.__doc__)
        fields = documented(thing.__doc__, "Attributes")
        names = names or [name for name in fields if name in parameters(thing)]
    return names


def public_members() -> list[tuple[str, object]]:
    """Return (name, function) of the methods and properties that public classes define themselves."""
    found: list[tuple[str, object]] = []
    for name in PUBLIC:
        owner = getattr(vizsla, name)
        for attribute, value in vars(owner).items() if inspect.isclass(owner) else ():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if not attribute.startswith("_") and inspect.isfunction(function):
                found.append((f"{name}.{attribute}", function))
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_documents_the_arguments_that_it_takes(name: str):
    thing = getattr(vizsla, name)
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert own, f"{name} has no docstring of its own"
    assert own.splitlines()[0].endswith("."), own.splitlines()[0]
    assert documented_parameters(thing) == parameters(thing)


def test_public_methods_have_docstrings():
    assert [name for name, member in public_members() if not inspect.getdoc(member)] == []


def test_public_methods_document_only_arguments_that_they_take():
    wrong = {
        name: unknown
        for name, member in public_members()
        if (unknown := set(documented(inspect.getdoc(member))) - set(parameters(member)))
    }
    assert wrong == {}


def test_documented_reads_a_google_docstring():
    text = """Does a thing.

    Args:
        first: One line,
            and another: with a colon.
        *rest: More.
        second (int): Typed.

    Returns:
        value: Not an argument.
    """
    assert documented(text) == ["first", "rest", "second"]


def test_parameters_and_what_is_said_of_them_are_found():
    class Described:
        """A class.

        Args:
            first: Taken.

        Attributes:
            second: Not taken.
        """

        def __init__(self, first: int) -> None:
            self.second = first

    @dataclass(frozen=True)
    class Fields:
        """A record.

        Attributes:
            first: Taken.
            second: Not taken.
        """

        first: int
        second: int = field(init=False)

    for thing in (Described, Fields):
        assert documented_parameters(thing) == parameters(thing) == ["first"]


def run_python(program: str) -> list[str]:
    """Run a program in a fresh interpreter and return the JSON list that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_vizsla_imports_no_heavy_package():
    program = """
import json, sys
import vizsla
print(json.dumps(sorted({"torch", "torchvision", "timm", "matplotlib", "pandas", "numpy", "PIL"} & sys.modules.keys())))
"""
    assert run_python(program) == []


def test_using_every_public_name_changes_no_global_state():
    program = """
import json, locale, logging, multiprocessing, os, random, signal, sys, warnings
import numpy, PIL.Image, torch

def state():
    return {
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": repr(numpy.random.get_state()),
        "random state": repr(random.getstate()),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "matmul precision": torch.get_float32_matmul_precision(),
        "torch print options": repr(torch._tensor_str.PRINT_OPTS),
        "numpy print options": repr(numpy.get_printoptions()),
        "warning filters": repr(warnings.filters),
        "log handlers": (repr(logging.root.handlers), logging.root.level),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "environment": dict(os.environ),
        "hooks": (repr(sys.excepthook), repr(signal.getsignal(signal.SIGINT))),
        "path": list(sys.path),
        "locale": locale.setlocale(locale.LC_ALL),
        "pixel limit": PIL.Image.MAX_IMAGE_PIXELS,
        "truncated pictures": sys.modules["PIL.ImageFile"].LOAD_TRUNCATED_IMAGES,
    }

import PIL.ImageFile
before = state()
import vizsla
for name in vizsla.__all__:
    getattr(vizsla, name)
after = state()
print(json.dumps([what for what in before if before[what] != after[what]]))
"""
    assert run_python(program) == []


def test_no_public_name_imports_an_optional_or_slow_package():
    program = """
import json, sys
import vizsla
for name in vizsla.__all__:
    getattr(vizsla, name)
print(json.dumps(sorted({"torchvision", "timm", "matplotlib", "pandas", "jinja2", "elpv_dataset"} & sys.modules.keys())))
"""
    assert run_python(program) == []
