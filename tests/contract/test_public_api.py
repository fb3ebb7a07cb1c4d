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
from typing import TYPE_CHECKING, Any

import pytest

import vizsla
import vizsla.classic
from vizsla.models import FUNCTION_NAMES

if TYPE_CHECKING:
    from types import ModuleType

SECTION = re.compile(
    r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes|References):$"
)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+)( \([^)]*\))?: ")

PUBLIC = sorted(set(vizsla.__all__) - {"__version__"})
ERRORS = [name for name in PUBLIC if name.endswith("Error")]
RECORDED = json.loads(
    (Path(__file__).parents[1] / "golden" / "public_names.json").read_text("utf-8")
)
# Names of lesson 1 that meant something else there.
CLASSIC_MEANS_OTHER = {"Callback", "accuracy", "accuracy_multi", "imagenet_stats"}
# Modules and helpers that cells use without importing them.
STANDARD = {"F", "Image", "PIL", "Path", "SimpleNamespace", "json", "math", "nn", "np", "os", "partial", "pd", "plt", "random", "re", "shutil", "torch"}  # fmt: skip
CELLS_ONLY = {"AttrGetter", "Category", "MultiCategory", "TitledStr", "decode_at", "show_at", "store_attr", "Inf", "Interpretation", "ItemGetter", "L", "PadMode", "ResizeMethod", "TfmdDL", "cnn_learner", "first", "load_pickle", "noop", "parallel", "patch_image", "patch_path", "plot_function", "resize_image", "search_images_bing", "search_images_ddg", "save_pickle", "search_images_serpapi", "set_seed", "subplots", "tensor", "to_cpu"}  # fmt: skip
MODULES = {"DataLoader", "Tensor", "array", "attrgetter", "itemgetter", "matplotlib", "ndarray", "sigmoid", "string", "sys", "tempfile", "time", "warnings"}  # fmt: skip
HELPERS = {"ifnone", "image2tensor", "range_of", "to_np"}
LESSON_LAYERS = {"AdaptiveAvgPool", "AdaptiveConcatPool2d", "AvgPool", "BatchNorm", "ConvLayer", "Flatten", "InstanceNorm", "Lambda", "LinBnDrop", "MaxPool", "MergeLayer", "Mish", "Module", "NormType", "PoolFlatten", "PoolType", "ResBlock", "ResizeBatch", "SEModule", "SequentialEx", "SigmoidRange", "SimpleCNN", "SimpleSelfAttention", "Swish", "View", "apply_init", "create_body", "create_head", "create_vision_model", "default_split", "has_pool_type", "in_channels", "init_cnn", "init_default", "model_sizes", "num_features_model", "params", "sequential"}  # fmt: skip
CALLBACKS = {"ActivationStats", *(f"Cancel{part}Exception" for part in ("Backward", "Batch", "Epoch", "Fit", "Step", "Train", "Valid")), "Hook", "Hooks", "Metric", "hook_output", "hook_outputs"}  # fmt: skip
OPTIMISERS = {
    "LabelSmoothingCrossEntropyFlat",
    "Lookahead",
    "OptimWrapper",
    "Optimizer",
    "RAdam",
    "ranger",
}


def stub_lines() -> list[tuple[str, str]]:
    """Return (module, name) of each line of the stub."""
    tree = ast.parse(Path(vizsla.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in nodes for alias in node.names)
    return [(f"vizsla.{node.module}", alias.name) for node in nodes for alias in node.names]


def test_the_stub_is_the_list_of_public_names():
    assert sorted(name for _, name in stub_lines()) == PUBLIC


def test_no_name_that_users_know_was_lost():
    assert set(RECORDED["vizsla"]) - set(vizsla.__all__) == set()


def test_dir_shows_the_public_names():
    assert dir(vizsla) == sorted(vizsla.__all__)


def test_a_public_name_is_the_one_of_its_module():
    for module, name in stub_lines():
        assert getattr(vizsla, name) is getattr(importlib.import_module(module), name), name


def test_every_front_door_gives_the_same_things(star: ModuleType):
    for door, other in ((star, set[str]()), (vizsla.classic, CLASSIC_MEANS_OTHER)):
        shared = set(PUBLIC) & set(door.__all__)
        different = {name for name in shared if getattr(door, name) is not getattr(vizsla, name)}
        assert different == other


def test_the_star_list_is_the_one_that_cells_know(star: ModuleType):
    assert sorted(star.__all__) == sorted(RECORDED["vizsla.all"])
    own = set(star.__all__) - set(PUBLIC) - set(FUNCTION_NAMES) - STANDARD - MODULES - HELPERS
    assert own == CELLS_ONLY | LESSON_LAYERS | CALLBACKS | OPTIMISERS


def test_a_misspelt_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'vizsla' has no attribute 'Lerner'"):
        vizsla.Lerner  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018  reading it is the test


def test_errors_share_one_base():
    assert ERRORS
    assert all(issubclass(getattr(vizsla, name), vizsla.VizslaError) for name in ERRORS)


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
    names = list(inspect.signature(thing).parameters) if callable(thing) else []
    is_method = not inspect.isclass(thing) and names[:1] in (["self"], ["cls"])
    return names[1:] if is_method else names


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


def test_a_public_name_documents_the_arguments_that_it_takes():
    for name in PUBLIC:
        thing = getattr(vizsla, name)
        if not callable(thing):
            continue
        own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert own, f"{name} has no docstring of its own"
        assert own.splitlines()[0].endswith("."), own.splitlines()[0]
        assert documented_parameters(thing) == parameters(thing), name


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


def run_python(program: str) -> Any:
    """Run a program in a fresh interpreter and return the JSON that it prints."""
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


def test_using_every_public_name_changes_no_global_state_and_imports_no_optional_or_slow_package():
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
changed = [what for what in before if before[what] != after[what]]
slow = {"torchvision", "timm", "matplotlib", "pandas", "jinja2", "elpv_dataset"} & sys.modules.keys()
print(json.dumps([changed, sorted(slow)]))
"""
    assert run_python(program) == [[], []]
