"""Confusions, losses, suspected labels and their plots, against recorded values and cases worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from vizsla import ConfigError, Predictions
from vizsla.evaluate import (
    confusion_matrix,
    confusion_size,
    draw_confusion,
    grid_shape,
    image_grid,
    label_noise,
    least_certain,
    most_confused,
    set_fitting_titles,
    suspected_labels,
    top_losses,
    worst_mistakes,
)
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
NAN = float("nan")
Maker = Callable[..., Predictions]


@pytest.fixture
def recorded(from_logits: Maker) -> Predictions:
    case = GOLDEN["confusion_matrix"]
    return from_logits(torch.tensor(case["preds"]).log(), case["targs"])


def test_the_confusion_matrix_agrees_with_the_recorded_one(
    recorded: Predictions, from_confusion: Maker
):
    counts = confusion_matrix(recorded)
    assert counts.dtype == torch.int64
    assert counts.tolist() == GOLDEN["confusion_matrix"]["confusion"]
    absent = [[2, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert confusion_matrix(from_confusion(absent)).tolist() == absent


def test_most_confused_agrees_with_the_recorded_lists(from_confusion: Maker):
    for case in GOLDEN["most_confused"]:
        predictions = from_confusion(case["confusion"], vocab=case["vocab"])
        for min_count, expected in case["most_confused"].items():
            pairs = most_confused(predictions, min_count=int(min_count))
            assert pairs == [tuple(pair) for pair in expected]
            assert all(type(count) is int for _, _, count in pairs)
    for min_count in (0, -3):
        pairs = most_confused(from_confusion([[2, 0], [1, 4]]), min_count=min_count)
        assert pairs == [("class 1", "class 0", 1)]


def test_top_losses_agree_with_the_recorded_ones(recorded: Predictions):
    case = GOLDEN["top_losses"]
    torch.testing.assert_close(recorded.losses, torch.tensor(case["losses"]), atol=1e-5, rtol=0)
    assert top_losses(recorded, 4).tolist() == case["k4"]["idx"]
    assert top_losses(recorded, 3, largest=False).tolist() == case["k3_smallest"]["idx"]


def test_top_losses_are_all_by_default_and_equal_ones_keep_their_order(from_logits: Maker):
    predictions = from_logits([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [0, 0, 1])
    for k, expected in ((None, [1, 0, 2]), (99, [1, 0, 2]), (0, [])):
        assert top_losses(predictions, k).tolist() == expected


def test_images_without_label_have_no_place_among_losses(from_logits: Maker):
    predictions = from_logits([[9.0, 0.0], [0.0, 1.0], [2.0, 0.0]], [UNLABELLED, 0, 0])
    assert top_losses(predictions).tolist() == [1, 2]
    assert worst_mistakes(predictions).tolist() == [1]
    assert confusion_matrix(predictions).tolist() == [[1, 1], [0, 0]]


def test_worst_mistakes_leave_out_right_answers(from_logits: Maker, from_confusion: Maker):
    # The second image is right with a larger loss than the wrong third one has.
    logits = [[0.0, 5.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 9.0]]
    predictions = from_logits(logits, [0, 0, 2, 2])
    assert worst_mistakes(predictions).tolist() == [0, 2]
    assert worst_mistakes(predictions, 1).tolist() == [0]
    assert worst_mistakes(from_confusion([[2, 0], [0, 2]]), 12).tolist() == []


def test_least_certain_images_come_first_labelled_or_not(from_logits: Maker):
    predictions = from_logits([[4.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [0, UNLABELLED, 0])
    assert least_certain(predictions).tolist() == [1, 2, 0]
    assert least_certain(predictions, 2).tolist() == [1, 2]


def test_several_labels_are_ranked_by_their_mean_loss(from_logits: Maker):
    several = from_logits(
        [[9.0, -9.0], [0.2, -9.0], [-5.0, 5.0], [0.1, 0.0]],
        [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [NAN, NAN]],
        task="multi_category",
    )
    assert top_losses(several).tolist() == [2, 1, 0]
    assert top_losses(several, 1, largest=False).tolist() == [0]
    assert worst_mistakes(several).tolist() == [2, 1]
    assert least_certain(several).tolist() == [3, 1, 2, 0]


def test_numbers_are_ranked_by_their_squared_error(from_logits: Maker):
    numbers = from_logits([[1.0], [-1.0], [8.0]], [[1.5], [-4.0], [8.0]], task="regression")
    assert top_losses(numbers).tolist() == [1, 0, 2]


def test_what_cannot_be_answered_is_refused(from_logits: Maker):
    classes = from_logits([[1.0, 0.0]], [0])
    for ask in (top_losses, worst_mistakes, least_certain):
        with pytest.raises(ConfigError, match="k=-1"):
            ask(classes, -1)
    for task in ("multi_category", "regression"):
        for ask in (confusion_matrix, most_confused):
            with pytest.raises(ConfigError, match=f"'{task}'"):
                ask(from_logits([[0.0, 1.0]], [[0.0, 1.0]], task=task))
    for ask in (worst_mistakes, least_certain):
        with pytest.raises(ConfigError, match="'regression'"):
            ask(from_logits([[0.0, 1.0]], [[0.0, 1.0]], task="regression"))


def drawn_labels(num_images: int, *, spread: float, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of 4 classes, labels that follow them except where chance draws, and where it drew another class."""
    random = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(num_images, 4, generator=random)
    right = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    drawn = torch.randint(4, (num_images,), generator=random)
    targets = torch.where(torch.rand(num_images, generator=random) < noise, drawn, right)
    return logits, targets, (targets != right).nonzero()[:, 0]


def test_wrong_labels_are_found_and_counted(from_logits: Maker):
    logits, targets, wrong = drawn_labels(2000, spread=6, noise=0.1)
    found = label_noise(from_logits(logits, targets))
    assert found is not None
    assert found.low < len(wrong) / 2000 < found.high
    places = {each.position for each in found.suspects}
    assert len(places & set(wrong.tolist())) > 0.8 * len(wrong)
    assert len(places - set(wrong.tolist())) < 0.35 * len(places)
    order = [each.label_probability for each in found.suspects]
    assert order == sorted(order)
    first = found.suspects[0]
    assert first.suggestion == logits[first.position].argmax() != targets[first.position]
    assert first.wrong > 0.99 > 0.01 > first.label_probability


def test_the_share_of_wrong_labels_is_the_likeliest_one(from_logits: Maker):
    for noise, scale in ((0.0, 1.0), (0.05, 1.0), (0.2, 0.5)):
        logits, targets, _ = drawn_labels(800, spread=5, noise=noise)

        def unlikelihood(values: Any, logits: Any = logits, targets: Any = targets) -> float:
            share, temperature = values
            own = (logits.double() / temperature).softmax(1)[range(800), targets]
            return -float(((1 - share) * own + share / 4).log().sum())

        best = minimize(
            unlikelihood, (0.05, 1.0), method="Nelder-Mead", bounds=((0, 0.6), (0.1, 9))
        )
        found = label_noise(from_logits(logits * scale, targets))
        assert found is not None
        # The shares that are tried are 12 % apart.
        assert found.rate == pytest.approx(0.75 * best.x[0], rel=0.07, abs=3e-4)
        assert found.low <= found.rate <= found.high


def test_a_weak_network_does_not_make_labels_wrong(from_logits: Maker):
    logits, targets, _ = drawn_labels(1000, spread=1.5, noise=0)
    assert float((logits.argmax(1) == targets).float().mean()) < 0.7
    found = label_noise(from_logits(logits * 3, targets))  # surer than it may be
    assert found is not None
    assert (found.low, found.suspects) == (0, ())


def test_where_no_label_is_suspected(from_logits: Maker):
    logits, targets, _ = drawn_labels(400, spread=6, noise=0.1)
    targets[targets == 2] = 0
    found = suspected_labels(from_logits(logits, targets))
    assert found
    assert all(each.suggestion != 2 for each in found)  # no label names it
    assert label_noise(from_logits(logits, torch.zeros(400).long())) is None
    assert suspected_labels(from_logits(logits, torch.full((400,), UNLABELLED))) == ()
    assert suspected_labels(from_logits([[3.0, 3.0]], [[0.0, 0.0]], task="multi_category")) == ()


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_the_confusion_plot_has_counts_names_and_readable_colours(from_confusion: Maker):
    axes = plt.figure().add_subplot()
    draw_confusion(axes, from_confusion([[9, 1], [0, 6]], vocab=("cat", "dog")))
    assert [text.get_text() for text in axes.texts] == ["9", "1", "0", "6"]
    assert [text.get_color() for text in axes.texts] == ["white", "black", "black", "white"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90.0}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted", "Actual")
    assert axes.get_title() == "Confusion matrix"


def test_long_names_of_classes_fit_beside_a_confusion_matrix(from_confusion: Maker):
    cases = [
        (name, side)
        for name in ("american_staffordshire_bull_terrier", "x" * 200)
        for side in (4.0, None)
    ]
    for name, given in cases:
        predictions = from_confusion([[9, 1], [0, 6]], vocab=("cat", name))
        side = confusion_size(predictions.vocab) if given is None else given
        assert side < 12
        figure = plt.figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        draw_confusion(axes, predictions)
        figure.canvas.draw()
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
            assert figure.bbox.containsx(label.get_window_extent().x0)
            assert figure.bbox.containsy(label.get_window_extent().y0)
        assert axes.get_window_extent().width > figure.bbox.width / 3


def test_the_confusion_plot_shows_shares_or_no_numbers(from_confusion: Maker):
    predictions = from_confusion([[3, 1], [0, 0]])
    cases: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"normalise": True, "decimals": 1}, ["0.8", "0.2", "0.0", "0.0"]),
        ({"show_numbers": False}, []),
    )
    for options, expected in cases:
        axes = plt.figure().add_subplot()
        draw_confusion(axes, predictions, **options)
        assert [text.get_text() for text in axes.texts] == expected


def test_rows_and_columns_of_a_grid_follow_from_the_number():
    for n, given, expected in (
        (9, {}, (3, 3)),
        (24, {}, (4, 6)),
        (1, {}, (1, 1)),
        (8, {}, (2, 4)),
        (7, {"ncols": 3}, (3, 3)),
        (7, {"nrows": 2}, (2, 4)),
        (9, {"nrows": 1, "ncols": 3}, (1, 3)),
    ):
        assert grid_shape(n, **given) == expected
    for n, given in ((0, {}), (1, {"nrows": 0}), (1, {"ncols": -1})):
        with pytest.raises(ConfigError, match="at least one image"):
            grid_shape(n, **given)


def test_a_grid_has_room_for_images_and_lines_of_title():
    places = image_grid(3, nrows=2, ncols=2)
    assert len(places) == 3
    assert len(plt.gcf().axes) == 4
    assert not any(axes.axison for axes in plt.gcf().axes)
    assert plt.gcf().get_size_inches().tolist() == [6.0, 6.0]
    image_grid(1, title_lines=3, title="above")
    assert plt.gcf().get_size_inches()[1] > 3.2
    assert plt.gcf().get_suptitle() == "above"


def test_only_long_titles_shrink_and_then_break_until_they_fit():
    long = "american_staffordshire_bull_terrier_of_some_kind"
    for title in (long[:30], long, ";".join([long] * 3), "x" * 200, f"cat\n{long}"):
        places = image_grid(4)
        set_fitting_titles(places, [title] * 4)
        figure = plt.gcf()
        figure.canvas.draw()
        for axes in places:
            assert axes.title.get_window_extent().width <= figure.bbox.width / 2
            assert axes.title.get_window_extent().y1 <= figure.bbox.height
            assert float(axes.title.get_fontsize()) >= 8
            assert axes.title.get_text().replace("\n", "") == title.replace("\n", "")
    places = image_grid(2)
    set_fitting_titles(places, ["cat", "dog", "unused"], colours=["green", "red", "red"])
    usual = plt.figure().add_subplot().set_title("x").get_fontsize()
    assert [axes.title.get_fontsize() for axes in places] == [usual, usual]
    assert [axes.title.get_color() for axes in places] == ["green", "red"]
