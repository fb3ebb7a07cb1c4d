"""``vizsla find-lr``: suggestions for ``vizsla train --lr``, and the plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from vizsla import SuggestedLRs
from vizsla.train.rates import RobustRate, describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from conftest import Done

NOWHERE = (float("nan"), float("nan"))


def test_rates_are_printed_and_drawn(
    tmp_path: Path,
    image_folder: Path,
    vizsla: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    words = ("find-lr", image_folder, "--size", 32, "--bs", 8, "--steps", 20, "--device", "cpu")
    done = vizsla(*words)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "19 images to learn from, 5 to validate on, 2 classes"
    names = [line.split()[0] for line in lines[lines.index("") + 1 :] if line]
    assert names[:5] == ["robust", "valley", "slide", "steep", "minimum"]
    assert lines[-1] == "Plot: pictures-learning-rate.png"
    with Image.open(tmp_path / "pictures-learning-rate.png") as plot:
        assert plot.format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pictures",
        "pictures-learning-rate.png",
    ]


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(
    tmp_path: Path, image_folder: Path, vizsla: Callable[..., Done]
):
    done = vizsla("find-lr", image_folder, "--out", tmp_path / "nowhere" / "lr.png")
    assert done.code == 2
    assert done.err.startswith(
        f"vizsla: Cannot write {tmp_path / 'nowhere' / 'lr.png'}: there is no"
    )
    assert done.out == ""


def test_the_robust_rate_is_shown_with_its_range():
    found = RobustRate(value=1e-4, low=2e-5, high=7e-4, num_runs=3)
    suggested = SuggestedLRs(
        {"robust": (1e-4, (1e-4, 0.5)), "valley": (3e-5, (3e-5, 0.6))},
        unpacked=(),
        robust_rate=found,
    )
    assert describe(suggested) == (
        "robust    1.00e-04  safe from 2.00e-05 to 7.00e-04 in 3 runs",
        "valley    3.00e-05",
    )


def test_that_there_is_no_safe_rate_is_said():
    found = RobustRate(reason="There is no safe learning rate here: mine.", num_runs=3)
    suggested = SuggestedLRs(
        {"robust": (float("nan"), NOWHERE)}, unpacked=(), note=found.reason, robust_rate=found
    )
    assert describe(suggested) == ("robust    none", "There is no safe learning rate here: mine.")
