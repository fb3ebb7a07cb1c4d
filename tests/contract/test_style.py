"""Rules about the shape of the code that no linter checks: docstrings of modules, no assert, how tests import."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vizsla"
TESTS = SOURCE.parents[1] / "tests"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("vizsla", *file.relative_to(SOURCE).with_suffix("").parts))
    for file in FILES
    if file.name != "__init__.py"
}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def test_there_is_something_to_check():
    assert len(FILES) > 10


def test_every_module_says_what_it_is_for():
    trees = {str(file.relative_to(SOURCE)): parsed(file) for file in FILES}
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_nothing_is_asserted():
    assert [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Assert)
    ] == []


def test_examples_stand_under_a_heading_that_documentation_renders():
    assert [
        str(file.relative_to(SOURCE))
        for file in FILES
        if re.search(r"^ *Example:$", file.read_text("utf-8"), re.MULTILINE)
    ] == []


def test_tests_import_names_from_the_packages_that_export_them():
    """So that a file of the source can move without an edit in every test of it."""
    found: list[str] = []
    for file in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                package = import_module(node.module.rpartition(".")[0])
                exported = {each.name for each in node.names} & set(
                    vars(package).get("__all__", ())
                )
                found += [f"{file.name}:{node.lineno}: {name}" for name in sorted(exported)]
    assert found == []
