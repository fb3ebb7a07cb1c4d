"""What cells of public notebooks write gives what fastai 2.8.12 gives for it (tests/golden/idioms.json).

A new cell: add it to the file with null as its result, then, from the repository's root with fastai (the extra ``bench``):
``python -m tests.contract.test_idioms``.
"""

from __future__ import annotations

import ast
import json
import numbers
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECORD = Path(__file__).parents[1] / "golden" / "idioms.json"


def plain(value: Any) -> Any:
    """Return a result as JSON has it: collections, arrays and tables as lists, numbers in 4 digits, other things as text."""
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, numbers.Number):
        number = round(float(value), 4)  # pyright: ignore[reportArgumentType]
        return int(number) if number.is_integer() else number
    if hasattr(value, "to_dict"):  # a table or a column
        return plain(value.to_dict("list") if value.ndim == 2 else value.tolist())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    return list(map(plain, value)) if isinstance(value, Iterable) else str(value)


def run_cell(cell: str, names: dict[str, Any]) -> Any:
    """Run the lines of a cell and return what its last one gives, as JSON has it."""
    tree = ast.parse(cell)
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # pyright: ignore[reportAttributeAccessIssue]
        exec(compile(tree, "cell", "exec"), names)  # noqa: S102 (cells of our own file)
        return plain(eval(compile(last, "cell", "eval"), names))  # noqa: S307
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102
    return None


def run_cells(cells: Iterable[str], names: dict[str, Any]) -> dict[str, Any]:
    """Return what each cell gives; what follows it sees what it changed, as in a notebook."""
    found: dict[str, Any] = {}
    for cell in cells:
        try:
            found[cell] = run_cell(cell, names)
        except Exception as error:  # noqa: BLE001 (the test shows it)
            found[cell] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", json.loads(RECORD.read_text("utf-8"))["parts"])
def test_cells_give_what_they_give_with_fastai(star: ModuleType, tmp_path: Path, part: str):
    recorded = json.loads(RECORD.read_text("utf-8"))["parts"][part]
    names = {**vars(star), "path": tmp_path}
    found = run_cells(recorded, names)
    wrong = [
        f"{cell}\n  fastai {recorded[cell]}\n  vizsla {found[cell]}"
        for cell in recorded
        if found[cell] != recorded[cell]
    ]
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    import fastai.vision.all as star_of_fastai  # pyright: ignore[reportMissingImports]

    warnings.simplefilter("ignore")
    whole = json.loads(RECORD.read_text("utf-8"))
    parts: list[str] = []
    for part, cells in whole["parts"].items():
        with tempfile.TemporaryDirectory() as folder:
            found = run_cells(cells, {**vars(star_of_fastai), "path": Path(folder)})
        lines = [f"{json.dumps(cell)}: {json.dumps(result)}" for cell, result in found.items()]
        parts.append(f"{json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n}")
    origin = f'"_meta": {json.dumps(whole["_meta"])}'
    RECORD.write_text(f'{{{origin}, "parts": {{\n' + ",\n".join(parts) + "\n}}\n", encoding="utf-8")
