"""Messages advise to install exactly the extras of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from vizsla import MissingExtraError
from vizsla.errors import PACKAGES_OF_EXTRA

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_packages_of_each_extra_are_those_of_the_project():
    extras = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in extras[extra]:
            own = re.fullmatch(r"vizsla\[(.+)\]", requirement)
            if own is None:
                found.add(re.split(r"[<>=\[]", requirement)[0])
            else:
                found |= set().union(*map(packages, own[1].split(",")))
        return found

    assert {extra: packages(extra) for extra in extras if extra != "dev"} == {
        extra: set(names) for extra, names in PACKAGES_OF_EXTRA.items()
    }


def test_a_missing_extra_is_named_with_a_command():
    error = MissingExtraError("pyarrow", extra="parquet", purpose="write Parquet files")
    assert "pip install pyarrow" in str(error)
    assert "vizsla[" not in str(error)
