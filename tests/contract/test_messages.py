"""Errors name arguments and options that exist: each ``name=`` and ``--name`` in the text of an error is held to the signatures."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "vizsla"
SIGNATURES = json.loads((REPOSITORY / "tests" / "golden" / "signatures.json").read_text("utf-8"))
# Of other libraries, and of functions that only programs and vizsla itself call.
FOREIGN = {"max_results", "weights_only", "persistent", "project", "buffered_bytes", "body_bytes", "fits", "level", "momenta", "on_bad", "stages", "statistics", "successes", "trials"}  # fmt: skip
# Of pip and torchrun.
FOREIGN_OPTIONS = {"concatenate", "force-reinstall", "max-restarts", "nproc-per-node", "upgrade"}
ARGUMENT = re.compile(r"(?<![\w.\-/&?])([a-z_]\w*)=(?!=)")
IN_BRACKETS = re.compile(r"\(([a-z]+_[a-z_]+)\)")
OPTION = re.compile(r"(?<![\w\-])--([a-z][a-z0-9-]+)")


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Return (file, node) of all that the source consists of."""
    files = sorted(SOURCE.rglob("*.py"))
    return [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]


def known_arguments() -> set[str]:
    """Return the names of all arguments of public functions, methods and classes, by any front door, and of their options."""
    found: set[str] = set()
    for door in SIGNATURES.values():
        for arguments in door.values():
            found |= {one.removeprefix("keyword ").split("=")[0].lstrip("*") for one in arguments}
    for _, node in nodes():
        if isinstance(node, ast.ClassDef) and any("TypedDict" in ast.unparse(base) for base in node.bases):  # fmt: skip
            found |= {ast.unparse(line.target) for line in node.body if isinstance(line, ast.AnnAssign)}  # fmt: skip
    return found


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of each string within a ``raise``."""
    for path, node in nodes():
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        text = " ".join(
            part.value
            for part in ast.walk(node.exc)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        yield f"{path.relative_to(SOURCE)}:{node.lineno}", text


def test_errors_name_arguments_that_exist():
    known = known_arguments() | FOREIGN
    wrong = [
        f"{place}: {name}"
        for place, text in texts_of_errors()
        for name in (*ARGUMENT.findall(text), *IN_BRACKETS.findall(text))
        if name not in known
    ]
    assert wrong == []


def test_errors_name_options_that_exist():
    written = " ".join(path.read_text("utf-8") for path in (SOURCE / "cli").glob("*.py"))
    declared = set(
        re.findall(r'": "([a-z-]+)",', written)
    )  # options with another name than their argument
    declared |= set(re.findall(r"\b([a-z]\w+): ", written)) | set(re.findall(r'"--([a-z0-9-]+)"', written))  # fmt: skip
    options = {name.replace("_", "-") for name in declared | known_arguments()} | FOREIGN_OPTIONS
    wrong = [
        f"{place}: --{name}"
        for place, text in texts_of_errors()
        for name in OPTION.findall(text)
        if name not in options and name.removeprefix("no-") not in options
    ]
    assert wrong == []
