"""Messages advise to install exactly the extras of pyproject.toml; all ways to run out of memory are one error."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vizsla import ConfigError, MissingExtraError, OutOfMemoryError, VizslaError
from vizsla.errors import PACKAGES_OF_EXTRA, memory_checked

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_packages_of_each_extra_are_those_of_the_project():
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    always = {re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]}

    def packages(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in extras[extra]:
            own = re.fullmatch(r"vizsla\[(.+)\]", requirement)
            if own is None:
                found.add(re.split(r"[<>=]", requirement)[0])
            else:
                found |= set().union(*map(packages, own[1].split(",")))
        return found

    assert {extra: packages(extra) - always for extra in extras if extra != "dev"} == {
        extra: set(names) for extra, names in PACKAGES_OF_EXTRA.items()
    }


def test_a_missing_extra_is_named_with_a_command():
    error = MissingExtraError("pyarrow", extra="parquet", purpose="write Parquet files")
    assert "pip install pyarrow" in str(error)
    assert "vizsla[" not in str(error)


def test_all_ways_to_run_out_of_memory_are_one_error():
    much = 2**55
    ways: tuple[Callable[[], object], ...] = (
        lambda: torch.empty(much),
        lambda: np.empty(much),
        lambda: bytearray(much),
        lambda: mmap.mmap(-1, much),
    )
    for way in ways:
        with (
            pytest.raises(
                OutOfMemoryError, match=r"while counting sheep .* Count fewer."
            ) as caught,
            memory_checked("counting sheep", cure="Count fewer."),
        ):
            way()
        assert isinstance(caught.value, MemoryError)
        assert isinstance(caught.value, VizslaError)
    for error in (RuntimeError("shapes differ"), OSError("gone"), ConfigError("out of memory")):
        with pytest.raises(type(error)), memory_checked("counting", cure=""):
            raise error


CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.colors = "nocolor"
shell.run_cell("from vizsla.errors import DataError, Problem, raise_problems")
for mode in ("Context", "Verbose"):
    shell.run_line_magic("xmode", mode)
    shell.run_cell("def mine():\\n    raise_problems([Problem(kind=DataError, text='all wrong')])\\nmine()")
"""


def test_a_notebook_shows_the_lines_of_the_user_unless_it_asks_for_all(tmp_path: Path):
    pytest.importorskip("IPython")
    done = subprocess.run(
        [sys.executable, "-c", CELLS],
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    short, whole = done.stdout.split("Verbose")
    for shown in (short, whole):
        assert "mine()" in shown
        assert "raise_problems([" in shown
        assert "all wrong" in shown
    assert "errors.py" not in short
    assert "errors.py" in whole
