"""Rules about the shape of src/vizsla that no linter checks: a docstring on each module, no assert."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vizsla"
FILES = sorted(SOURCE.rglob("*.py"))


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
