"""Labellers and vocabularies against recorded results, and the errors for names without a label."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from vizsla import (
    CategoryBlock,
    CategoryMap,
    ColReader,
    ConfigError,
    ImageBlock,
    LabelError,
    MultiCategoryBlock,
    RegexLabeller,
    RegressionBlock,
    TableError,
    parent_label,
    using_attr,
)
from vizsla.data.table import (
    block_for_columns,
    block_for_labels,
    label_text,
    n_hot,
    number_targets,
    output_block,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
    take_labels,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))
NAN = float("nan")


def test_parent_label_is_the_folder():
    for path, label in GOLDEN["parent_label"]:
        assert parent_label(path) == parent_label(Path(path)) == label


def test_regex_labeller_gives_the_recorded_labels():
    for case in GOLDEN["regex_labeller"]:
        labeller = RegexLabeller(case["pat"], match=case["match"])
        assert [[text, labeller(text)] for text, _ in case["pairs"]] == case["pairs"]


def test_regex_labeller_reads_names_and_paths_with_slashes():
    for path in (Path("images/keeshond_35.jpg"), PureWindowsPath("images\\keeshond_35.jpg")):
        assert RegexLabeller("/([^/]+)_")(path) == "keeshond"
        assert using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")(path) == "keeshond"


def test_a_name_without_label_is_named_with_the_expression():
    for name in ["foo.png", "_3.jpg"]:
        with pytest.raises(LabelError, match=r"'\(\.\*\)_\\\\d\+' .*'" + name):
            RegexLabeller(r"(.*)_\d+")(name)


def test_impossible_arguments_are_refused():
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: RegexLabeller(r".+_\d+.jpg$"), ConfigError, "no group"),
        (lambda: RegexLabeller("(a"), ConfigError, "at position 0"),
        (lambda: RegexLabeller(patern="(a)"), TypeError, "patern"),  # pyright: ignore[reportCallIssue]
        (lambda: RegressionBlock(0), ConfigError, "n_out"),
        (lambda: MultiCategoryBlock(encoded=True, add_na=True), ConfigError, "add_na=True"),
        (lambda: block_for_columns(1, None, "x"), ConfigError, "y_block .*'x'"),  # pyright: ignore[reportArgumentType]
        (lambda: block_for_labels(["a"], ImageBlock), ConfigError, "y_block"),  # pyright: ignore[reportArgumentType]
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()


class Row(NamedTuple):
    """A row as pandas' itertuples gives it."""

    name: str
    label: str


ROWS = [
    pd.Series({"name": "beagle_1", "label": "beagle"}),
    {"name": "beagle_1", "label": "beagle"},
    Row("beagle_1", "beagle"),
]


def test_col_reader_reads_by_name_and_position():
    for row in ROWS:
        assert ColReader("label")(row) == ColReader(1)(row) == "beagle"
        assert ColReader(["label", 0])(row) == ["beagle", "beagle_1"]
        assert ColReader("name", pref="images/", suff=".jpg")(row) == "images/beagle_1.jpg"
        assert ColReader("name", pref=Path("images"), suff=".jpg")(row) == "images/beagle_1.jpg"
        for column in ["breed", 2]:
            with pytest.raises(TableError, match=rf"{column!r}.*\['name', 'label'\]"):
                ColReader(column)(row)
    with pytest.raises(TableError, match=r"no column 2\.$"):
        ColReader(2)(("a", "b"))


def test_col_reader_reads_a_whole_frame_as_it_reads_its_rows():
    frame = pd.DataFrame({"name": ["a", "b"], "label": ["x y", "z"], "n": [1, 2]})
    rows = [row for _, row in frame.iterrows()]
    for reader in (
        ColReader("name", pref="p/"),
        ColReader(2),
        ColReader(["name", 2]),
        ColReader("label", label_delim=" "),
    ):
        assert reader.read_frame(frame) == [reader(row) for row in rows]
    for column in ("breed", 3):
        with pytest.raises(TableError, match=rf"{column!r}.*\['name', 'label', 'n'\]"):
            ColReader(column).read_frame(frame)


def test_col_reader_splits_several_labels():
    assert ColReader("l", label_delim=" ")({"l": "a b"}) == ["a", "b"]
    assert ColReader("l", label_delim=";")({"l": "a; b c;;"}) == ["a", "b c"]
    for empty in ("", None, NAN, pd.NA):
        assert ColReader("l", label_delim=" ")({"l": empty}) == []


def test_vocabularies_are_the_recorded_ones():
    for case in GOLDEN["category_map"]:
        column = [NAN if value == "NaN(float)" else value for value in case["col"]]
        assert CategoryMap(column, **case["kwargs"]) == case["vocab"]
    case = GOLDEN["category_map_categorical"]
    categorical = pd.Categorical(case["values"], categories=case["categories"])
    for column in (categorical, pd.Series(categorical)):
        assert CategoryMap(column) == case["vocab"]
        assert CategoryMap(column, strict=True) == case["vocab_strict"]


def test_numbers_beside_text_are_sorted_as_text():
    assert CategoryMap(["b", 10, 9, "a"]) == [10, 9, "a", "b"]


def test_only_texts_and_whole_numbers_name_a_class():
    assert [label_text(label) for label in ("a", 3, True)] == ["a", "3", "True"]
    for label in (None, NAN, np.float32("nan"), pd.NA, pd.NaT, " ", 0.5, ["a"], ("a", "b")):
        assert label_text(label) is None
    assert label_text(LabelError("no")) is None


def test_a_label_function_may_miss_but_not_fail():
    found, missed = take_labels(["a_1.jpg", "b.jpg"], RegexLabeller(r"(.)_"))
    assert found == "a"
    assert isinstance(missed, LabelError)
    with pytest.raises(LabelError, match=r"'x/b\.jpg': IndexError") as caught:
        take_labels([Path("x/b.jpg")], lambda path: path.name.split("_")[1])
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(TableError, match="'l'"):
        take_labels([{"a": 1}], ColReader("l"))


def test_label_lists_are_encoded_as_recorded():
    case = GOLDEN["multi_category"]
    assert n_hot(case["items"], case["vocab"], unknown=None).tolist() == case["encoded"]


def test_lists_of_classes_are_read():
    for label, classes in [
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
        (["x" * 500], ("x" * 500,)),
    ]:
        assert read_label_set(label) == classes


def test_zeros_and_ones_name_their_classes():
    for label, classes in [
        ([1, 0, 1], ("a", "c")),
        (["0", "1.0", "0"], ("b",)),
        (np.array([True, False, False]), ("a",)),
    ]:
        assert read_encoded(label, ("a", "b", "c")) == classes
    for label in [[1, 0], [1, 0, 2], ["a", "b", "c"], None, [NAN, 0, 1], []]:
        assert isinstance(read_encoded(label, ("a", "b", "c")), LabelError)


def test_numbers_are_read():
    for label, numbers in [
        (3, (3.0,)),
        (-2.5, (-2.5,)),
        (" 1e3 ", (1000.0,)),
        (["1", 2, -3.5], (1.0, 2.0, -3.5)),
        (np.float32(0.5), (0.5,)),
        (np.array([[1.0], [2.0]])[:, 0], (1.0, 2.0)),
        (torch.tensor(4), (4.0,)),
        (True, (1.0,)),
    ]:
        assert read_numbers(label) == numbers


def test_what_cannot_be_read_says_why():
    cases: list[tuple[Any, Any, str]] = [
        (read_label_set, "a b", "'a b'.*label_delim"),
        (read_label_set, 7, "7"),
        (read_label_set, 0.5, r"0\.5"),
        (read_label_set, None, "None"),
        (read_label_set, NAN, "nan"),
        (read_label_set, pd.NA, "NA"),
        (read_label_set, "", "''"),
        (read_label_set, {"a": 1}, "{'a': 1}"),
        (read_label_set, ["a", ""], r"'' in the list \['a', ''\]"),
        (read_label_set, ["a", NAN], "nan in the list"),
        (read_label_set, ["a", None], "None in the list"),
        (read_label_set, ["a", 0.5], r"0\.5 in the list .*RegressionBlock"),
        (read_label_set, ["a", ["b"]], r"\['b'\] in the list"),
        (read_label_set, [{"a": 1}], "in the list"),
        (read_label_set, [0.25] * 500, r"0\.25 in the list \[0.25, 0.25.*\.\.\."),
        (read_numbers, None, "None"),
        (read_numbers, np.float32("nan"), "nan"),
        (read_numbers, "", "''"),
        (read_numbers, "old", "'old' is not a number"),
        (read_numbers, "1_000", "'1_000' is not a number"),
        (read_numbers, 1j, "not a number"),
        (read_numbers, "inf", "'inf' is not finite"),
        (read_numbers, "nan", "'nan' is not finite"),
        (read_numbers, 1e39, "32 bits"),
        (read_numbers, 10**400, "32 bits"),
        (read_numbers, [1.0, None], "None is not a number"),
        (read_numbers, [1.0, NAN], "nan is not finite"),
        (read_numbers, [], "empty"),
        (read_numbers, [[1.0, 2.0]], "not a number"),
        (read_numbers, {1, 2}, "no order"),
        (read_numbers, {"x": 1}, "no order"),
    ]
    for read, label, words in cases:
        found = read(label)
        assert isinstance(found, LabelError)
        assert len(str(found)) < 300
        with pytest.raises(LabelError, match=words):
            raise found
    error = LabelError("no label in 'x.jpg'")
    assert read_label_set(error) is read_numbers(error) is read_encoded(error, ("a",)) is error


def test_unknown_classes_count_as_na_or_unknown():
    names = [("a", "z"), ("z",), None, ()]
    known = n_hot(names, ("#na#", "a"), unknown=0)
    assert known[[0, 1, 3]].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert known[2].isnan().all()
    assert n_hot(names, ("a", "b"), unknown=None).isnan().all(1).tolist() == [True] * 3 + [False]
    assert known.dtype == torch.float32


def test_all_images_need_the_same_number_of_numbers():
    labels = [(1.0, 2.0), (3.0,), (4.0, 5.0), LabelError("x")]
    found = same_length(labels, expected=None)
    assert found[0] == (1.0, 2.0)
    assert str(found[1]) == "it has 1 numbers (3.0,) instead of 2"
    wrong = [isinstance(label, LabelError) for label in same_length(labels, expected=1)]
    assert wrong == [True, False, True, True]


def test_numbers_become_rows_of_float32_and_unknown_ones_nan():
    targets = number_targets([(1.5, -2.0), LabelError("x")], num_numbers=2)
    assert (targets.dtype, targets[0].tolist()) == (torch.float32, [1.5, -2.0])
    assert targets[1].isnan().all()
    assert number_targets([], num_numbers=2).shape == (0, 2)


def test_the_labels_choose_their_block():
    for labels, expected in [
        (["a", "b"], CategoryBlock()),
        ([1, 2], CategoryBlock()),
        ([1, "b"], CategoryBlock()),
        ([], CategoryBlock()),
        ([NAN, None], CategoryBlock()),
        (["a", NAN], CategoryBlock()),
        (["a", 0.5], CategoryBlock()),
        ([0.5, -1.5], RegressionBlock()),
        ([1, 0.5, None], RegressionBlock()),
        (np.array([1.0, 2.0]), RegressionBlock()),
        ([["a", "b"], ["a"]], MultiCategoryBlock()),
        ([[], ["a"], None], MultiCategoryBlock()),
    ]:
        assert block_for_labels(labels, None) == expected
        assert block_for_labels(labels, RegressionBlock(2)) == RegressionBlock(2)
    assert block_for_columns(1, None, None) == CategoryBlock()
    assert block_for_columns(["kind"], None, None) == CategoryBlock()
    assert block_for_columns(["kind", "colour"], None, None) == MultiCategoryBlock()
    assert block_for_columns("tags", " ", None) == MultiCategoryBlock()
    assert block_for_columns(["x", "y"], None, RegressionBlock) == RegressionBlock()


def test_an_image_and_a_block_of_labels_make_a_pair():
    for block in [CategoryBlock, MultiCategoryBlock, RegressionBlock]:
        assert output_block((ImageBlock, block)) == output_block((ImageBlock(), block())) == block()
