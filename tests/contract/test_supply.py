"""The lock file names every package that pyproject.toml asks for, no older than its bound, and no place to fetch them from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_lock_file_has_what_is_asked_for_and_no_address():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    asked += [Requirement(text) for extra in ("demo", "dev", "notebook", "onnx", "parquet", "report", "serve")
              for text in project["optional-dependencies"][extra]]  # fmt: skip
    lock = (REPOSITORY / "requirements-dev.lock").read_text("utf-8")
    assert "://" not in lock
    assert not re.search(r"^-", lock, re.MULTILINE)
    locked = [Requirement(line) for line in lock.splitlines()]
    found = {one.name: next(iter(one.specifier)).version for one in locked}
    wrong = [
        str(one)
        for one in asked
        if one.name != "vizsla" and not one.specifier.contains(found.get(one.name.lower(), "0"))
    ]
    assert wrong == []
