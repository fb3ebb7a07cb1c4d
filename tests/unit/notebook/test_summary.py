"""``summary()`` tells the same story as fastai's, line by line, and says what is missing where images make no batch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vizsla import (
    ConfigError,
    DataBlock,
    EndSplitter,
    Flip,
    ImageBlock,
    LabelError,
    MultiCategoryBlock,
    RegexLabeller,
    RegressionBlock,
    Resize,
    Rotate,
    using_attr,
)
from vizsla.notebook import CollateError

Told = Callable[..., str]

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "summary.json").read_text(encoding="utf-8")
)
SETTINGS = re.compile(r" -- \{.*\}")


@pytest.fixture
def told(pets: DataBlock, breeds: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """Return a function that changes the description, summarises it, and returns the text."""

    def tell(source: Any = breeds, *, bs: int = 4, **changes: Any) -> str:
        replace(pets, **changes).summary(source, bs=bs)
        return capsys.readouterr().out

    return tell


def in_common(lines: list[str], *, folder: str = "<PATH>") -> list[str]:
    """Return the lines without settings, empty lines, and what only one of both says."""
    first_time, kept = True, list[str]()
    for line in lines:
        bare = SETTINGS.sub("", line.replace(folder, "<PATH>")).rstrip()
        if bare.startswith("Final sample"):
            first_time = False
        again = not first_time and re.match(
            r"Collecting|Found|2 datasets|Setting up Pipeline", bare
        )
        ours_alone = bare.startswith(("    +", "In training all of this"))
        if bare and not again and not ours_alone:
            kept.append(bare)
    return kept


def test_it_tells_what_fastai_tells(told: Told, breeds: Path):
    out = told()
    assert in_common(out.splitlines(), folder=str(breeds.parent)) == in_common(GOLDEN["good"])
    # What is merged is listed with its own probability.
    assert "    + Rotate -- {'max_deg': 10.0, 'p': 0.75}" in out
    assert " -> Brightness -- {'max_lighting': 0.2, 'p': 0.75, 'batch': False}" in out
    assert "interpolated once, from 36x36 to 24x24" in out


def test_several_sizes_are_diagnosed(
    pets: DataBlock, breeds: Path, capsys: pytest.CaptureFixture[str]
):
    plain = replace(pets, item_tfms=None, batch_tfms=None)
    with pytest.raises(CollateError, match=r"60 x 40 \(Bengal_2.jpg\).*item_tfms=Resize") as raised:
        plain.summary(breeds)
    assert isinstance(raised.value, RuntimeError)
    lines = capsys.readouterr().out.splitlines()
    expected = in_common(GOLDEN["not_collatable"])
    assert in_common(lines, folder=str(breeds.parent)) == expected


def test_a_missing_label_ends_it(pets: DataBlock, breeds: Path, capsys: pytest.CaptureFixture[str]):
    broken = replace(pets, get_y=using_attr(RegexLabeller(r"^(zzz)"), "name"))
    with pytest.raises(LabelError, match="None of 20"):
        broken.summary(breeds)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("Setting up Pipeline: partial")


def test_a_batch_holds_the_images_there_are(told: Told):
    out = told(bs=64)
    assert "Adding the next 15 samples" in out
    assert "TensorImage of size 16x3x24x24" in out
    with pytest.raises(ConfigError, match="bs=0"):
        told(bs=0)


def test_transforms_of_the_users_own_are_steps(told: Told):
    assert "TensorImage of size 4x3x20x20" in told(batch_tfms=[Flip(size=20), Rotate()])
    out = told(item_tfms=[np.fliplr, Resize(30)])
    assert "Setting up after_item: Pipeline: fliplr -> Resize" in out


def test_other_labels_are_told_too(told: Told):
    cases: tuple[tuple[type, Callable[[Path], object], str, str], ...] = (
        (MultiCategoryBlock, lambda path: [path.stem.split("_")[0], "cat"], "MultiCategorize", r"TensorMultiCategory\(\["),
        (RegressionBlock, lambda path: float(path.stem.split("_")[-1]), "RegressionSetup", r"tensor\(\[2\.\]\)"),
    )  # fmt: skip
    for block, get_y, name, sample in cases:
        out = told(blocks=(ImageBlock, block), get_y=get_y)
        assert f"<lambda> -> {name}" in out
        assert re.search(rf"Final sample: \(PILImage mode=RGB size=40x60, {sample}", out)


def test_a_list_of_paths_is_a_source(told: Told, breeds: Path):
    out = told(sorted(breeds.iterdir()), get_items=None, splitter=EndSplitter())
    assert "Collecting items from a list of 20" in out
    assert "starting from\n      " + str(breeds / "Bengal_1.jpg") in out


def test_the_batch_is_drawn_on_request(pets: DataBlock, breeds: Path):
    pets.summary(breeds, show_batch=True)
    assert len([axes for axes in plt.gcf().axes if axes.get_images()]) == 4
