"""Metrics of lesson one on small examples, and its images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn import metrics

from vizsla.classic import (
    ImageModelResults,
    T,
    V,
    accuracy,
    accuracy_multi,
    accuracy_np,
    accuracy_thresh,
    confusion_matrix,
    f2,
    plot_confusion_matrix,
    plots,
    plots_from_files,
    to_np,
)
from vizsla.classic.metrics import binary_cross_entropy, usual_loss, usual_metrics


def test_accuracy_of_a_whole_set_is_not_bent_by_batches(recorded: Any):
    case = recorded["validation_average"]["case"]
    targets = np.zeros(case["n"], dtype=int)
    scores = np.tile([1.0, 0.0], (case["n"], 1))
    scores[: case["errors"]] = [0.0, 1.0]
    assert accuracy_np(scores, targets) == case["weighted"]


def test_accuracy_averages_probabilities_of_passes_not_their_logarithms(recorded: Any):
    case = recorded["tta"]["opposite_decisions"]
    dogs = np.array(case["p_class1_per_pass"])
    log_preds = np.log(np.stack([1 - dogs, dogs], axis=1))[:, None]
    assert accuracy(log_preds, np.array([case["argmax_of_mean_probs"]])) == 1.0


def test_several_labels_are_counted_one_by_one():
    preds = np.array([[0.9, 0.2], [0.6, 0.7]])
    targs = np.array([[1, 0], [0, 1]])
    assert accuracy_multi(preds, targs, 0.5) == 0.75
    assert accuracy_thresh(0.65)(preds, targs) == 1.0


def test_the_confusion_matrix_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    actual, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    expected = metrics.confusion_matrix(actual, predicted)
    assert np.array_equal(confusion_matrix(actual, predicted), expected)


def test_arrays_become_tensors_and_back():
    assert T([1, 2]).dtype == torch.int64
    assert T(np.array([1.0])).dtype == torch.float32
    assert [part.tolist() for part in V([[1], [2]])] == [[1], [2]]
    assert [part.tolist() for part in to_np((torch.ones(1), torch.zeros(1)))] == [[1.0], [0.0]]


def test_losses_and_metrics_follow_the_labels():
    assert usual_loss("category") is torch.nn.functional.nll_loss
    assert usual_metrics("category") == [accuracy]
    assert usual_metrics("regression") == []
    probabilities, targets = torch.tensor([[0.9, 0.2]]), torch.tensor([[1.0, 0.0]])
    expected = -(np.log(0.9) + np.log(0.8)) / 2
    assert float(binary_cross_entropy(probabilities, targets)) == pytest.approx(expected)


def test_the_confusion_matrix_is_printed_and_drawn(
    capsys: pytest.CaptureFixture[str], recorded: Any
):
    plot_confusion_matrix(np.array([[996, 4], [8, 992]]), ["cats", "dogs"])
    assert capsys.readouterr().out == recorded["format"]["confusion_print"] + "\n"
    axes = plt.gcf().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted label", "True label")
    assert [text.get_text() for text in axes.texts] == ["996", "4", "8", "992"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]
    plt.close("all")
    plot_confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], normalize=True)
    assert "0.75" in capsys.readouterr().out
    assert plt.gcf().axes[0].images[0].get_array().max() == 0.75  # pyright: ignore[reportOptionalMemberAccess]


def test_images_are_drawn_in_rows_whatever_the_place_of_their_channels():
    plots(np.random.default_rng(0).random((5, 3, 8, 9)), rows=2, titles=range(5), maintitle="five")
    axes = plt.gcf().axes
    assert [each.images[0].get_array().shape for each in axes] == [(8, 9, 3)] * 5  # pyright: ignore[reportOptionalMemberAccess]
    assert [each.get_title() for each in axes] == list("01234")
    plots([])  # an empty figure


def test_files_are_drawn_beside_each_other(make_image: Callable[..., Path]):
    files = [make_image("a.png"), str(make_image("b.jpg", number=1))]
    plots_from_files(files, titles=["a", "b"])
    shown = [(axes.get_title(), axes.images[0].get_array().shape) for axes in plt.gcf().axes]  # pyright: ignore[reportOptionalMemberAccess]
    assert shown == [("a", (48, 64, 3)), ("b", (48, 64, 3))]


def test_f2_is_that_of_the_best_threshold():
    random = np.random.default_rng(0)
    preds, targs = random.random((40, 5)) / 2, random.integers(0, 2, (40, 5))
    of_thresholds = [
        metrics.fbeta_score(targs, preds > threshold, beta=2, average="samples", zero_division=0)  # pyright: ignore[reportArgumentType] (0 is allowed)
        for threshold in (0.1, 0.2, 0.3)
    ]
    assert f2(preds, targs, 0.1, 0.35, 0.1) == pytest.approx(max(of_thresholds))
    assert float(f2(torch.eye(3), torch.eye(3))) == 1
    assert f2(np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_results_show_the_surest_and_the_least_sure():
    class Images:
        y = np.array([0, 0, 1, 1])

        def __getitem__(self, place: Any) -> tuple[Any, int]:
            return np.full((3, 2, 2), place / 10), 0

        def denorm(self, images: Any) -> Any:
            return images.transpose(0, 2, 3, 1)

    dogs = np.array([0.1, 0.7, 0.45, 0.9])
    dataset: Any = Images()
    results = ImageModelResults(dataset, np.log(np.stack([1 - dogs, dogs], axis=1)))
    shown: list[list[str]] = []
    for draw, y in (
        (results.plot_most_correct, 1),
        (results.plot_most_incorrect, 0),
        (results.plot_most_uncertain, 1),
    ):
        assert draw(y) is None
        shown.append([axes.get_title() for axes in plt.gcf().axes])
        plt.close("all")
    assert shown == [["0.9000"], ["0.3000"], ["0.4500", "0.7000", "0.1000", "0.9000"]]
    assert results.most_by_correct(1, is_correct=True).tolist() == [3]
    assert results.most_by_correct(1, is_correct=False).tolist() == [2]
    assert results.most_by_uncertain(0).tolist() == [2, 1, 0, 3]
    sure = ImageModelResults(SimpleNamespace(y=np.array([0])), np.log([[0.9, 0.1]]))  # pyright: ignore[reportArgumentType]
    assert sure.plot_most_incorrect(0) is False
