"""Lists of classes and numbers as they come, hostile ones too, become targets or say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.targets import (
    n_hot,
    number_targets,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
)
from vizsla.errors import LabelError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))
NAN = float("nan")


def test_label_lists_are_encoded_as_recorded():
    case = GOLDEN["multi_category"]
    labels = list(map(read_label_set, case["items"]))
    assert n_hot(labels, case["vocab"], unknown=None).tolist() == case["encoded"]


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ([], ()),
        (["b", "a", "b"], ("b", "a")),
        (("犬", "a;b", "é"), ("犬", "a;b", "é")),
        ([3, -1, True], (3, -1, True)),
        (np.array(["x", "y"]), ("x", "y")),
        (np.array([2, 1]), (2, 1)),
        (torch.tensor([4]), (4,)),
        (pd.Series(["x"]), ("x",)),
        ((name for name in "ab"), ("a", "b")),
        ({"a"}, ("a",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_lists_of_classes_are_read(label: Any, classes: tuple[Any, ...]):
    assert read_label_set(label) == classes


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("a b", "'a b', and not a list of labels; split it"),
        (7, "7, and not a list of labels"),
        (0.5, "0.5, and not a list of labels"),
        (None, "the label is None; it must be a list"),
        (NAN, "the label is nan; it must be a list"),
        (pd.NA, "it must be a list"),
        ("", "it must be a list"),
        ({"a": 1}, "which is no list"),
        (["a", ""], r"a label of the list \['a', ''\] is empty"),
        (["a", NAN], "is empty"),
        (["a", None], "is empty"),
        (["a", 0.5], "0.5 in the list .* is no class.*need a RegressionBlock"),
        (["a", ["b"]], r"\['b'\] in the list"),
        ([{"a": 1}], "is no class"),
        (["x" * 500], None),
        ([0.25] * 500, r"0.25 in the list \[0.25, 0.25.*\.\.\. is no class"),
    ],
    ids=range(16),
)
def test_what_is_no_list_of_classes_says_why(label: Any, words: str | None):
    found = read_label_set(label)
    if words is None:
        assert found == tuple(label)
        return
    assert isinstance(found, LabelError)
    assert len(str(found)) < 300
    with pytest.raises(LabelError, match=words):
        raise found


def test_an_error_of_the_label_function_is_kept():
    error = LabelError("no label in 'x.jpg'")
    assert read_label_set(error) is read_numbers(error) is read_encoded(error, ("a",)) is error


def test_unknown_classes_take_the_place_for_them_or_make_the_label_unknown():
    labels = [("a", "z"), ("z",), LabelError("x"), ()]
    known = n_hot(labels, ("#na#", "a"), unknown=0)
    assert known[[0, 1, 3]].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert known[2].isnan().all()
    assert n_hot(labels, ("a", "b"), unknown=None).isnan().all(1).tolist() == [True] * 3 + [False]
    assert known.dtype == torch.float32


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ([1, 0, 1], ("a", "c")),
        (["0", "1.0", "0"], ("b",)),
        (np.array([True, False, False]), ("a",)),
    ],
    ids=str,
)
def test_zeros_and_ones_name_their_classes(label: Any, classes: tuple[str, ...]):
    assert read_encoded(label, ("a", "b", "c")) == classes


@pytest.mark.parametrize("label", [[1, 0], [1, 0, 2], ["a", "b", "c"], None, [NAN, 0, 1], []])
def test_other_lists_are_no_zeros_and_ones(label: Any):
    assert isinstance(read_encoded(label, ("a", "b", "c")), LabelError)


@pytest.mark.parametrize(
    ("label", "numbers"),
    [
        (3, (3.0,)),
        (-2.5, (-2.5,)),
        (" 1e3 ", (1000.0,)),
        (["1", 2, -3.5], (1.0, 2.0, -3.5)),
        (np.float32(0.5), (0.5,)),
        (np.array([[1.0], [2.0]])[:, 0], (1.0, 2.0)),
        (torch.tensor(4), (4.0,)),
        (True, (1.0,)),
    ],
    ids=str,
)
def test_numbers_are_read(label: Any, numbers: tuple[float, ...]):
    assert read_numbers(label) == numbers


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "the label is None, which is no number"),
        (NAN, "the label is nan, which is no number"),
        (np.float32("nan"), "which is no number"),
        ("", "which is no number"),
        ("old", "'old' is no number"),
        ("1_000", "'1_000' is no number"),
        (1j, "is no number"),
        ("inf", "'inf' is not finite"),
        ("nan", "'nan' is not finite"),
        (1e39, "too large for 32 bits"),
        (10**400, "too large for 32 bits"),
        ([1.0, None], "None is no number"),
        ([1.0, NAN], "nan is not finite"),
        ([], "the list of numbers is empty"),
        ([[1.0, 2.0]], "is no number"),
        ({1, 2}, "which has no order"),
        ({"x": 1}, "which has no order"),
    ],
    ids=range(17),
)
def test_what_is_no_number_says_why(label: Any, words: str):
    found = read_numbers(label)
    assert isinstance(found, LabelError)
    with pytest.raises(LabelError, match=words):
        raise found


def test_pictures_have_as_many_numbers_as_most():
    labels = [(1.0, 2.0), (3.0,), (4.0, 5.0), LabelError("x")]
    found = same_length(labels, expected=None)
    assert found[0] == (1.0, 2.0)
    assert str(found[1]) == "it has 1 numbers (3.0,) instead of 2"
    assert [isinstance(label, LabelError) for label in same_length(labels, expected=1)] == [
        True, False, True, True,
    ]  # fmt: skip


def test_numbers_become_rows_of_float32_and_unknown_ones_nan():
    targets = number_targets([(1.5, -2.0), LabelError("x")], num_numbers=2)
    assert (targets.dtype, targets[0].tolist()) == (torch.float32, [1.5, -2.0])
    assert targets[1].isnan().all()
    assert number_targets([], num_numbers=2).shape == (0, 2)


def test_empty_cells_name_no_class_but_stay_where_numbers_are_wanted():
    cells = [["a", NAN, " ", "b"], NAN, None, "a", []]
    assert MultiCategoryBlock().cell_labels(cells) == (["a", "b"], [], [], "a", [])
    for block in (RegressionBlock(), CategoryBlock(), MultiCategoryBlock(encoded=True)):
        assert block.cell_labels(cells) == tuple(cells)
