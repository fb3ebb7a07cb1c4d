"""Labellers and vocabularies against recorded results, and what is said about names that have no label."""

from __future__ import annotations

import json
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from vizsla.data.table.labels import (
    ColReader,
    RegexLabeller,
    build_vocab,
    label_text,
    parent_label,
    take_labels,
    using_attr,
)
from vizsla.errors import ConfigError, LabelError, TableError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def test_parent_label_is_the_folder():
    for path, label in GOLDEN["parent_label"]:
        assert parent_label(path) == parent_label(Path(path)) == label


@pytest.mark.parametrize("case", GOLDEN["regex_labeller"], ids=lambda case: case["pat"])
def test_regex_labeller_gives_the_recorded_labels(case: dict):
    labeller = RegexLabeller(case["pat"], match=case["match"])
    assert [[text, labeller(text)] for text, _ in case["pairs"]] == case["pairs"]


def test_regex_labeller_reads_paths_with_slashes():
    assert RegexLabeller("/([^/]+)_")(Path("images/keeshond_35.jpg")) == "keeshond"
    assert RegexLabeller("/([^/]+)_")(PureWindowsPath("images\\keeshond_35.jpg")) == "keeshond"


def test_using_attr_passes_one_attribute_on():
    labeller = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")
    assert labeller(Path("pets/great_pyrenees_173.jpg")) == "great_pyrenees"


@pytest.mark.parametrize("name", ["foo.png", "_3.jpg"])
def test_a_name_without_label_is_an_error_with_name_and_expression(name: str):
    with pytest.raises(LabelError, match=r"'\(\.\*\)_\\\\d\+' finds no label in '" + name):
        RegexLabeller(r"(.*)_\d+")(name)


def test_an_expression_without_group_is_refused():
    with pytest.raises(ConfigError, match=r"has no group.*round brackets"):
        RegexLabeller(r".+_\d+.jpg$")


def test_a_faulty_expression_is_refused():
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_col_reader_reads_by_name_and_position(row: object):
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
@pytest.mark.parametrize("column", ["breed", 2])
def test_col_reader_names_a_missing_column_and_those_there_are(row: object, column: str | int):
    with pytest.raises(TableError, match=rf"no column {column!r}\. It has: \['name', 'label'\]"):
        ColReader(column)(row)


@pytest.mark.parametrize("case", GOLDEN["category_map"], ids=lambda case: str(case["kwargs"]))
def test_vocabularies_are_the_recorded_ones(case: dict):
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
