"""The star list, imported without leaving its mark on ``pathlib.Path`` for the tests that come after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture(scope="module")
def star() -> Iterator[ModuleType]:
    """``vizsla.all``."""
    before = Path.__dict__.get("__repr__")
    import vizsla.all
    from vizsla.notebook import patch_path

    patch_path()  # An earlier test may have imported it, and put paths back.

    yield vizsla.all
    for name in ("ls", "BASE_PATH", "__repr__"):
        if name in Path.__dict__:
            delattr(Path, name)
    if before is not None:
        Path.__repr__ = before
