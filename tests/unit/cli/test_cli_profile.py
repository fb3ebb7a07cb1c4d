"""``vizsla train --profile``: a table on the screen and a file beside the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done


def test_train_profile_prints_where_the_time_went_and_writes_it(
    vizsla: Callable[..., Done], picture_folder: Path, tmp_path: Path
):
    out = tmp_path / "run"
    done = vizsla("train", picture_folder, "--size", "32", "--profile", "--out", out)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("where the time"))
    assert lines[start + 1].startswith("reading pictures, 24 pictures")
    assert lines[start + 2].startswith("features first, 24 pictures")
    stages = json.loads((out / "profile.json").read_text("utf-8"))["stages"]
    names = ["reading pictures", "features first", "results"]
    assert [stage["stage"] for stage in stages] == names
