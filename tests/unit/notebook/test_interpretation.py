"""Interpretation gives the numbers of fastai and scikit-learn and draws images; the cleaner proposes and touches no file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import classification_report as reference_report

from vizsla import (
    ClassificationInterpretation,
    ConfigError,
    DataBlock,
    ImageBlock,
    ImageClassifierCleaner,
    LabelSmoothingCrossEntropy,
    Learner,
    MultiCategoryBlock,
    Predictions,
    RegressionBlock,
    read_fixes,
    vision_learner,
)
from vizsla.evaluate import classification_report

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "interp.json").read_text(encoding="utf-8")
)


@pytest.fixture
def from_counts(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function that makes predictions whose confusion matrix is the given one."""

    def make(counts: Sequence[Sequence[int]], vocab: Sequence[str]) -> Predictions:
        table = torch.tensor(counts)
        actual, guess = table.nonzero().repeat_interleave(table[table > 0], dim=0).unbind(1)
        return from_logits(torch.eye(len(vocab))[guess], actual, vocab=vocab)

    return make


def nothing(_: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no image is read for numbers")


@pytest.fixture
def golden(learn: Learner, from_logits: Callable[..., Predictions]) -> ClassificationInterpretation:
    case = GOLDEN["confusion_matrix"]
    predictions = from_logits(torch.tensor(case["preds"]).log(), case["targs"], vocab="abc")
    return ClassificationInterpretation(learn, predictions, images=nothing)


@pytest.fixture(scope="module")
def interp(learn: Learner) -> ClassificationInterpretation:
    return ClassificationInterpretation.from_learner(learn)


def test_the_confusion_matrix_is_that_of_fastai(golden: ClassificationInterpretation):
    found = golden.confusion_matrix()
    assert found.dtype == np.int64
    assert found.tolist() == GOLDEN["confusion_matrix"]["confusion"]


def test_most_confused_is_that_of_fastai(learn: Learner, from_counts: Callable[..., Predictions]):
    for case in GOLDEN["most_confused"]:
        predictions = from_counts(case["confusion"], case["vocab"])
        interp = ClassificationInterpretation(learn, predictions, images=nothing)
        for least, expected in case["most_confused"].items():
            if int(least) > 0:  # there zeros and the diagonal are listed
                found = interp.most_confused(min_val=int(least))
                assert [list(triple) for triple in found] == expected
                assert all(type(count) is int for *_, count in found)


def test_top_losses_are_those_of_fastai(golden: ClassificationInterpretation):
    case = GOLDEN["top_losses"]
    np.testing.assert_allclose(golden.losses, case["losses"], atol=1e-5)
    losses, positions = golden.top_losses(4)
    np.testing.assert_allclose(losses, case["k4"]["losses"], atol=1e-5)
    assert positions.tolist() == case["k4"]["idx"]
    losses, positions, items = golden.top_losses(3, largest=False, items=True)
    np.testing.assert_allclose(losses, case["k3_smallest"]["losses"], atol=1e-5)
    assert positions.tolist() == case["k3_smallest"]["idx"]
    assert items == [Path(f"{place}.jpg") for place in case["k3_smallest"]["idx"]]
    assert len(golden.top_losses()[0]) == 20
    with pytest.raises(ConfigError, match="k=-1"):
        golden.top_losses(-1)


def test_the_report_is_that_of_scikit_learn(
    golden: ClassificationInterpretation,
    from_counts: Callable[..., Predictions],
    capsys: pytest.CaptureFixture[str],
):
    golden.print_classification_report()
    expected = reference_report(
        golden.targs, golden.decoded, labels=[0, 1, 2], target_names=["a", "b", "c"]
    )
    assert capsys.readouterr().out == f"{expected}\n"
    vocab = ("cat", "a_breed_with_a_long_name", "absent")
    predictions = from_counts([[5, 2, 0], [1, 9, 3], [0, 0, 0]], vocab)
    for digits in (2, 4):
        expected = reference_report(
            predictions.targets,
            predictions.predicted,
            labels=[0, 1, 2],
            target_names=vocab,
            digits=digits,
            zero_division=0,  # pyright: ignore[reportArgumentType] (its stub says text)
        )
        assert classification_report(predictions, digits=digits) == expected


def test_the_model_runs_once(learn: Learner, monkeypatch: pytest.MonkeyPatch):
    interp = ClassificationInterpretation.from_learner(learn)
    monkeypatch.setattr(learn, "model", None)
    assert interp.confusion_matrix().sum() == 4
    assert len(interp.top_losses()[0]) == 4
    interp.plot_confusion_matrix()
    assert interp.preds.shape == (4, 4)
    assert interp.targs.tolist() == [0, 2, 3, 3]


def test_training_images_are_seen_as_in_validation(learn: Learner):
    first, second = (ClassificationInterpretation.from_learner(learn, ds_idx=0) for _ in range(2))
    assert torch.equal(first.preds, second.preds)
    assert len(first.preds) == 16


def test_a_list_of_batches_is_interpreted(learn: Learner):
    batch = learn.dls.valid.one_batch()
    interp = ClassificationInterpretation.from_learner(learn, dl=[batch])
    whole = ClassificationInterpretation.from_learner(learn)
    torch.testing.assert_close(interp.preds, whole.preds)
    interp.plot_top_losses(2)
    with pytest.raises(ConfigError, match="no labels"):
        ClassificationInterpretation.from_learner(learn, dl=[batch[:1]])  # pyright: ignore[reportArgumentType]


def test_the_learners_own_loss_counts(learn: Learner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learn, "loss_func", LabelSmoothingCrossEntropy())
    interp = ClassificationInterpretation.from_learner(learn)
    assert not torch.allclose(interp.losses, interp.predictions.losses)


def test_the_confusion_plot_has_counts_or_shares(golden: ClassificationInterpretation):
    golden.plot_confusion_matrix(figsize=(12, 12), dpi=60)
    figure = plt.gcf()
    (axes,) = figure.axes
    assert (figure.get_dpi(), figure.get_size_inches().tolist()) == (60, [12.0, 12.0])
    assert [text.get_text() for text in axes.texts] == ["3", "2", "3", "2", "4", "0", "4", "0", "2"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Confusion matrix", "Predicted", "Actual")  # fmt: skip
    plt.close("all")
    golden.plot_confusion_matrix(normalize=True, norm_dec=1, title="Shares")
    (axes,) = plt.gcf().axes
    assert axes.texts[0].get_text() == "0.4"
    assert axes.get_title() == "Shares"


def test_top_losses_are_drawn_with_their_titles(interp: ClassificationInterpretation):
    interp.plot_top_losses(3, nrows=1)
    losses, positions = interp.top_losses(3)
    shown = [axes for axes in plt.gcf().axes if axes.get_images()]
    assert len(shown) == 3
    place = int(positions[0])
    guess, label = (interp.vocab[int(of[place])] for of in (interp.decoded, interp.targs))
    probability = float(interp.preds[place].max())
    assert shown[0].get_title() == f"{guess}/{label}\n{float(losses[0]):.2f} / {probability:.2f}"
    assert plt.gcf().get_suptitle() == "Prediction/Actual/Loss/Probability"
    with pytest.raises(ConfigError, match="image"):
        interp.plot_top_losses(0)
    with pytest.raises(ConfigError, match="image"):
        interp.plot_grad_cam(0)


def test_grad_cam_colours_the_images(interp: ClassificationInterpretation, learn: Learner):
    modes = [part.training for part in learn.model.modules()]
    interp.plot_grad_cam(2, stage=2)
    shown = [axes.get_images()[0].get_array() for axes in plt.gcf().axes]
    plain = interp._images(interp.top_losses(2)[1])
    assert [pixels.shape for pixels in shown if pixels is not None] == [(24, 24, 3)] * 2
    assert not np.allclose(np.asarray(shown[0]), plain[0].permute(1, 2, 0).numpy())
    assert [part.training for part in learn.model.modules()] == modes


def test_chosen_images_are_drawn_green_where_right(learn: Learner):
    interp = ClassificationInterpretation.from_learner(learn)
    interp.show_results([0, 3])
    shown = [axes for axes in plt.gcf().axes if axes.get_images()]
    for axes, place in zip(shown, (0, 3), strict=True):
        right = bool(interp.decoded[place] == interp.targs[place])
        assert axes.title.get_color() == ("green" if right else "red")
        assert axes.get_title().splitlines()[0] == interp.vocab[int(interp.targs[place])]


@pytest.mark.parametrize(
    ("kind", "get_y", "label"),
    [
        (MultiCategoryBlock, lambda path: [path.stem.split("_")[0], "pet"], "Bengal;pet"),
        (RegressionBlock, lambda path: float(path.stem[-1]), "1"),
    ],
)
def test_other_labels_are_interpreted_too(
    kind: type, get_y: Callable[[Path], object], label: str, pets: DataBlock, breeds: Path
):
    block = replace(pets, blocks=(ImageBlock, kind), get_y=get_y)
    loaders = block.dataloaders(breeds, bs=4, num_workers=0, device="cpu")
    learner = vision_learner(loaders, "efficientnet_lite0", pretrained=False, quiet=True)
    interp = ClassificationInterpretation.from_learner(learner)
    interp.plot_top_losses(4)
    titles = [axes.get_title() for axes in plt.gcf().axes if axes.get_images()]
    assert any(f"/{label}\n" in title for title in titles)
    interp.plot_grad_cam(1)
    interp.show_results([0])
    if kind is RegressionBlock:
        with pytest.raises(ConfigError, match="regression"):
            interp.confusion_matrix()


# --- the cleaner -------------------------------------------------------------------------------------------------------


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


def test_marks_are_saved_as_fixes_that_loaders_take(
    cleaner: ImageClassifierCleaner, pets: DataBlock, breeds: Path, tmp_path: Path
):
    for index, mark in enumerate(("<Delete>", "beagle", "<Keep>")):
        cleaner.mark(index, mark)
    names = [path.name for path in cleaner.fns[:3]]
    file = cleaner.save_fixes(tmp_path / "fixes.csv")
    cleaner.mark(2, "beagle")
    assert cleaner.save_fixes(file) == file
    found = [(fix.path, fix.action, fix.label) for fix in read_fixes(file)]
    assert found[:3] == [(names[0], "drop", ""), (names[1], "relabel", "beagle"), (names[2], "keep", "")]  # fmt: skip
    table = replace(pets, fixes=file).resolve(breeds)
    assert len(table.paths) == len(cleaner.learn.dls.table.paths) - 1
    labels = {table.shown_path(row): table.label(row) for row in range(len(table.paths))}
    assert (labels[names[1]], labels[names[2]]) == ("beagle", "beagle")


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
    block = replace(
        pets, blocks=(ImageBlock, RegressionBlock), get_y=lambda path: float(path.stem[-1])
    )
    numbers = block.dataloaders(breeds, bs=4, num_workers=0)
    learner = vision_learner(numbers, "efficientnet_lite0", pretrained=False, quiet=True)
    with pytest.raises(ConfigError, match="'regression'"):
        ImageClassifierCleaner(learner)
