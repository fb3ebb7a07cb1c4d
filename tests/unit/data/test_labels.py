"""Labellers and vocabularies against recorded results, and what is said about names that have no label."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from vizsla.data.table.block import (
    CategoryBlock,
    ImageBlock,
    MultiCategoryBlock,
    RegressionBlock,
    block_for_columns,
    block_for_labels,
    output_block,
)
from vizsla.data.table.labels import (
    ColReader,
    RegexLabeller,
    build_vocab,
    label_text,
    parent_label,
    take_labels,
    using_attr,
)
from vizsla.data.table.targets import (
    n_hot,
    number_targets,
    read_encoded,
    read_label_set,
    read_numbers,
    same_length,
)
from vizsla.errors import ConfigError, LabelError, TableError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def test_parent_label_is_the_folder():
    for path, label in GOLDEN["parent_label"]:
        assert parent_label(path) == parent_label(Path(path)) == label


def test_regex_labeller_gives_the_recorded_labels():
    for case in GOLDEN["regex_labeller"]:
        labeller = RegexLabeller(case["pat"], match=case["match"])
        assert [[text, labeller(text)] for text, _ in case["pairs"]] == case["pairs"]


def test_regex_labeller_reads_paths_with_slashes():
    assert RegexLabeller("/([^/]+)_")(Path("images/keeshond_35.jpg")) == "keeshond"
    assert RegexLabeller("/([^/]+)_")(PureWindowsPath("images\\keeshond_35.jpg")) == "keeshond"


def test_using_attr_passes_one_attribute_on():
    labeller = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")
    assert labeller(Path("pets/great_pyrenees_173.jpg")) == "great_pyrenees"


def test_a_name_without_label_is_an_error_with_name_and_expression():
    for name in ["foo.png", "_3.jpg"]:
        with pytest.raises(LabelError, match=r"'\(\.\*\)_\\\\d\+' finds no label in '" + name):
            RegexLabeller(r"(.*)_\d+")(name)


def test_an_expression_that_is_faulty_or_has_no_group_is_refused():
    with pytest.raises(ConfigError, match="no group"):
        RegexLabeller(r".+_\d+.jpg$")
    with pytest.raises(ConfigError, match=r"no regular expression: .* at position 0"):
        RegexLabeller("(a")


def test_a_misspelt_argument_is_a_type_error():
    with pytest.raises(TypeError, match="patern"):
        RegexLabeller(patern="(a)")  # pyright: ignore[reportCallIssue]


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
        with pytest.raises(
            TableError, match=rf"no column {column!r}\. It has: \['name', 'label', 'n'\]"
        ):
            ColReader(column).read_frame(frame)


def test_col_reader_splits_several_labels():
    assert ColReader("l", label_delim=" ")({"l": "a b"}) == ["a", "b"]
    for empty in ("", None, float("nan"), pd.NA):
        assert ColReader("l", label_delim=" ")({"l": empty}) == []
    assert ColReader("l", label_delim=";")({"l": "a; b c;;"}) == ["a", "b c"]


def test_col_reader_names_a_missing_column_and_those_there_are():
    for row in ROWS:
        for column in ["breed", 2]:
            with pytest.raises(
                TableError, match=rf"no column {column!r}\. It has: \['name', 'label'\]"
            ):
                ColReader(column)(row)


def test_vocabularies_are_the_recorded_ones():
    for case in GOLDEN["category_map"]:
        column = [float("nan") if value == "NaN(float)" else value for value in case["col"]]
        assert list(build_vocab(column, **case["kwargs"])) == case["vocab"]


def test_a_categorical_column_keeps_its_order():
    case = GOLDEN["category_map_categorical"]
    for column in (
        pd.Categorical(case["values"], categories=case["categories"]),
        pd.Series(pd.Categorical(case["values"], categories=case["categories"])),
    ):
        assert list(build_vocab(column)) == case["vocab"]
        assert list(build_vocab(column, strict=True)) == case["vocab_strict"]


def test_numbers_beside_text_are_sorted_as_text():
    assert build_vocab(["b", 10, 9, "a"]) == (10, 9, "a", "b")


def test_only_texts_and_whole_numbers_name_a_class():
    assert [label_text(label) for label in ("a", 3, True)] == ["a", "3", "True"]
    nothing = (
        None,
        float("nan"),
        np.float32("nan"),
        pd.NA,
        pd.NaT,
        " ",
        0.5,
        ["a"],
        ("a", "b"),
        LabelError("no"),
    )
    assert [label_text(label) for label in nothing] == [None] * len(nothing)


def test_take_labels_keeps_the_reason_of_each_miss():
    labels = take_labels(["a_1.jpg", "b.jpg"], RegexLabeller(r"(.)_"))
    assert labels[0] == "a"
    assert isinstance(labels[1], LabelError)


def test_a_row_without_names_just_lacks_the_column():
    with pytest.raises(TableError, match=r"^A row has no column 2\.$"):
        ColReader(2)(("a", "b"))


def test_a_failing_label_function_is_reported_with_the_item():
    with pytest.raises(LabelError, match=r"failed on 'x/b\.jpg': IndexError: list index") as caught:
        take_labels([Path("x/b.jpg")], lambda path: path.name.split("_")[1])
    assert isinstance(caught.value.__cause__, IndexError)


def test_other_errors_of_ours_pass_through_a_label_function():
    with pytest.raises(TableError, match="no column 'l'"):
        take_labels([{"a": 1}], ColReader("l"))


NAN = float("nan")


def test_label_lists_are_encoded_as_recorded():
    case = GOLDEN["multi_category"]
    labels = list(map(read_label_set, case["items"]))
    assert n_hot(labels, case["vocab"], unknown=None).tolist() == case["encoded"]


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
    ]:
        assert read_label_set(label) == classes


def test_what_is_no_list_of_classes_says_why():
    cases: list[Any] = [
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
    ]
    for label, words in cases:
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


def test_zeros_and_ones_name_their_classes():
    for label, classes in [
        ([1, 0, 1], ("a", "c")),
        (["0", "1.0", "0"], ("b",)),
        (np.array([True, False, False]), ("a",)),
    ]:
        assert read_encoded(label, ("a", "b", "c")) == classes


def test_other_lists_are_no_zeros_and_ones():
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


def test_what_is_no_number_says_why():
    for label, words in [
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
    ]:
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


def test_labels_that_are_given_say_what_they_are():
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


def test_several_columns_or_a_delimiter_are_several_labels():
    assert block_for_columns(1, None, None) == CategoryBlock()
    assert block_for_columns(["kind"], None, None) == CategoryBlock()
    assert block_for_columns(["kind", "colour"], None, None) == MultiCategoryBlock()
    assert block_for_columns("tags", " ", None) == MultiCategoryBlock()
    assert block_for_columns(["x", "y"], None, RegressionBlock) == RegressionBlock()


def test_what_is_no_block_is_refused():
    with pytest.raises(ConfigError, match=r"y_block is CategoryBlock.*Received: 'regression'"):
        block_for_columns(1, None, "regression")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="y_block is"):
        block_for_labels(["a"], ImageBlock)  # pyright: ignore[reportArgumentType]


def test_a_picture_and_a_block_of_labels_make_a_pair():
    for block in [CategoryBlock, MultiCategoryBlock, RegressionBlock]:
        assert output_block((ImageBlock, block)) == output_block((ImageBlock(), block())) == block()


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="n_out is at least 1"):
        RegressionBlock(0)
    with pytest.raises(ConfigError, match="Leave one of them out"):
        MultiCategoryBlock(encoded=True, add_na=True)
