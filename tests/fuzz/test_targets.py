"""Each target on its seeds, and on the inputs under which something gave way that has been mended since."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.targets import TARGETS, kept_seeds

FOUND = {
    "table": (
        b"T\tdo\tdog\r,\n1,0\n1,b,0dicdoWg1a,,\n1,0\n1,bng\t\r\n",  # no row names an image that is there
        b"Timage,label\nx\0y/a.png,cat\nb.png,dog\n",
    ),
    "part": (b"Cnot JSON", b'C{"error": "of no path"}', b"C[]"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_takes_its_seeds_and_what_was_found(name: str, tmp_path: Path):
    target = TARGETS[name](tmp_path)
    for data in (*target.seeds(), *kept_seeds(name), *FOUND.get(name, ()), b"", b"\0"):
        target(data)
    if hasattr(target, "close"):
        target.close()
