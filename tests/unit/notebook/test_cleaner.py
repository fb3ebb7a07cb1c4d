"""The cleaner proposes and notes; it never touches a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from vizsla import (
    ConfigError,
    DataBlock,
    ImageBlock,
    ImageClassifierCleaner,
    RegressionBlock,
    vision_learner,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla import Learner


@pytest.fixture
def cleaner(learn: Learner) -> ImageClassifierCleaner:
    return ImageClassifierCleaner(learn)


def test_images_of_a_class_come_by_loss(cleaner: ImageClassifierCleaner, learn: Learner):
    chosen = cleaner.choose("great_pyrenees", "Valid")
    assert chosen is cleaner
    assert len(cleaner.fns) == 2
    assert all(path.name.startswith("great_pyrenees_") for path in cleaner.fns)
    predictions = learn.predictions(1)
    loss_of = dict(zip(predictions.paths, predictions.losses.tolist(), strict=True))
    losses = [loss_of[path.name] for path in cleaner.fns]
    assert losses == sorted(losses, reverse=True)


def test_it_begins_with_the_first_class_in_training(cleaner: ImageClassifierCleaner):
    assert {path.name.split("_")[0] for path in cleaner.fns} == {"Bengal"}
    assert len(ImageClassifierCleaner(cleaner.learn, max_n=2).fns) == 2


def test_marks_are_kept_and_nothing_is_touched(cleaner: ImageClassifierCleaner, breeds: Path):
    before = sorted(breeds.iterdir())
    cleaner.mark(0, "<Delete>")
    cleaner.mark(2, "beagle")
    cleaner.mark(1, "Bengal")  # its own class: nothing changes
    assert cleaner.delete() == [0]
    assert cleaner.change() == [(2, "beagle")]
    assert cleaner.choose("beagle").delete() == []
    assert cleaner.choose("Bengal").delete() == [0]
    cleaner.mark(0, "<Keep>")
    assert cleaner.delete() == []
    assert sorted(breeds.iterdir()) == before


def test_contradicted_labels_are_proposed(cleaner: ImageClassifierCleaner):
    proposed = cleaner.propose(probability=0)
    assert all(one.prediction != one.label for one in proposed)
    assert all(one.action == one.prediction for one in proposed)
    losses = [one.loss for one in proposed]
    assert losses == sorted(losses, reverse=True)
    assert cleaner.propose(probability=1) == []


def test_the_list_is_written_as_a_table(cleaner: ImageClassifierCleaner, tmp_path: Path):
    cleaner.mark(0, "<Delete>")
    written = pd.read_csv(cleaner.save_csv(tmp_path / "proposals.csv", probability=1))
    assert list(written.columns) == ["path", "split", "label", "prediction", "probability", "loss", "action"]  # fmt: skip
    assert written["action"].tolist() == ["<Delete>"]
    assert written["path"].tolist() == [str(cleaner.fns[0])]


def test_the_images_are_drawn_with_their_marks(cleaner: ImageClassifierCleaner):
    cleaner.mark(1, "<Delete>")
    cleaner.show()
    titles = [axes.get_title() for axes in plt.gcf().axes if axes.get_images()]
    assert [title.splitlines()[1] for title in titles[:2]] == ["<Keep>", "<Delete>"]
    assert titles[0].startswith("0: ")


def test_unknown_classes_splits_and_positions_are_refused(cleaner: ImageClassifierCleaner):
    cases: Any = (
        (cleaner.choose, ("mouse",), "'mouse'"),
        (cleaner.choose, ("Bengal", "Test"), "'Test'"),
        (cleaner.mark, (99, "<Keep>"), "99"),
        (cleaner.mark, (0, "mouse"), "'mouse'"),
    )
    for call, words, named in cases:
        with pytest.raises(ConfigError, match=named):
            call(*words)


def test_numbers_have_no_labels_to_propose(breeds: Path, pets: DataBlock):
    numbers = DataBlock(
        blocks=(ImageBlock, RegressionBlock),
        get_items=pets.get_items,
        get_y=lambda path: float(path.stem[-1]),
        item_tfms=pets.item_tfms,
    ).dataloaders(breeds, bs=4, num_workers=0)
    learner = vision_learner(numbers, "efficientnet_lite0", pretrained=False, quiet=True)
    with pytest.raises(ConfigError, match="'regression'"):
        ImageClassifierCleaner(learner)
