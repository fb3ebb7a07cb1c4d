"""Rules about the shape of src/vizsla that no linter checks: short files, short functions, a docstring on each module."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vizsla"
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES_OF_A_MODULE = 400
MOST_LINES_OF_A_FUNCTION = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def statement_lines(function: Function) -> int:
    """Count the lines that hold statements: no signature, docstring, comment or empty line."""
    lines: set[int] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.stmt) or node is function or is_docstring(node):
            continue
        blocks = [block for field in ("body", "cases") for block in getattr(node, field, [])]
        first = blocks[0] if blocks else None
        start = (
            first.pattern.lineno
            if isinstance(first, ast.match_case)
            else getattr(first, "lineno", 0)
        )
        last = max(start - 1, node.lineno) if first else node.end_lineno or node.lineno
        lines.update(range(node.lineno, last + 1))
    return len(lines)


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def test_there_is_something_to_check():
    assert len(FILES) > 10


def test_modules_are_short():
    lengths = {
        str(file.relative_to(SOURCE)): len(file.read_text("utf-8").splitlines()) for file in FILES
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_OF_A_MODULE} == {}


def test_functions_are_short():
    assert {
        f"{file.relative_to(SOURCE)}:{node.lineno} {node.name}": statement_lines(node)
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, Function) and statement_lines(node) > MOST_LINES_OF_A_FUNCTION
    } == {}


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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('def f(\n    a,\n    b,\n):\n    """One.\n\n    Two.\n    """\n    return a', 1),
        ("def f(a):\n    # why\n\n    b = [\n        a,\n    ]\n    return b", 4),
        ("def f(a):\n    for b in a:\n        if b:\n            g(b)\n    else:\n        h()", 4),
        ('def f():\n    def g():\n        """Doc."""\n        return 1\n\n    return g', 3),
        ("def f(a):\n    match a:\n        case 1:\n            return 2\n        case _:\n            return 3", 3),
        ("def f(a):\n    with a(\n        1,\n    ):\n        pass", 4),
        ("def f(): return 1", 1),
    ],
)  # fmt: skip
def test_statement_lines_are_counted_right(text: str, count: int):
    (function,) = ast.parse(text).body
    assert isinstance(function, Function)
    assert statement_lines(function) == count
