"""Splits that are drawn: against recorded ones, against scikit-learn, and the promises of the split by groups."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from vizsla.data.table.splits import GroupSplitter, RandomSubsetSplitter, TrainTestSplitter
from vizsla.errors import ConfigError, DataError, MissingExtraError, TableError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def test_random_subset_splitter_gives_the_recorded_split():
    case = GOLDEN["random_subset_splitter"]
    splitter = RandomSubsetSplitter(case["train_sz"], case["valid_sz"], case["seed"])
    before = torch.random.get_rng_state()
    assert splitter(range(case["n"])) == (case["train"], case["valid"])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [(0, 0.2), (0.8, 0), (0.8, 0.3), (-0.1, 0.2)])
def test_random_subset_splitter_refuses_parts_that_cannot_be(sizes: tuple[float, float]):
    with pytest.raises(ConfigError, match=f"train_sz={sizes[0]}, valid_sz={sizes[1]}"):
        RandomSubsetSplitter(*sizes)
    assert len(RandomSubsetSplitter(0.7, 0.3, seed=0)(range(10))[0]) == 7


def test_train_test_splitter_gives_the_recorded_split():
    case = GOLDEN["train_test_splitter"]
    splitter = TrainTestSplitter(case["test_size"], case["random_state"])
    assert splitter(range(case["n"])) == (case["train"], case["valid"])


def test_train_test_splitter_passes_classes_and_sizes_on():
    classes = ["a"] * 12 + ["b"] * 4
    expected = train_test_split(
        range(16), test_size=4, train_size=8, stratify=classes, random_state=7
    )
    found = TrainTestSplitter(4, 7, stratify=classes, train_size=8)([*range(16)])
    assert found == tuple(expected)
    assert [classes[position] for position in found[1]].count("b") == 1
    assert TrainTestSplitter(0.25, shuffle=False)(range(4)) == ([0, 1, 2], [3])


def test_train_test_splitter_explains_what_scikit_learn_refuses():
    with pytest.raises(ConfigError, match=r"cannot split 3 items: .*test_size=1.5"):
        TrainTestSplitter(1.5)(range(3))
    with pytest.raises(ConfigError, match="cannot split 4 items"):
        TrainTestSplitter(0.5, stratify=["a", "a", "a", "b"])(range(4))


def test_train_test_splitter_without_scikit_learn_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*pip install"):
        TrainTestSplitter()(range(4))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    fraction=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_group_is_never_on_both_sides_and_both_have_one(
    sizes: list[int], fraction: float, seed: int
):
    groups = [name for name, size in enumerate(sizes) for _ in range(size)]
    train, valid = GroupSplitter(groups.__getitem__, fraction, seed)(range(len(groups)))
    assert sorted(train + valid) == list(range(len(groups)))
    assert not {groups[p] for p in train} & {groups[p] for p in valid}
    assert train
    assert valid
    if min(sizes) == max(sizes):
        nearest = min(max(round(fraction * len(sizes)), 1), len(sizes) - 1)
        assert abs(len(valid) / sizes[0] - nearest) <= 1


def test_groups_are_drawn_by_the_seed_whatever_the_order_of_the_items():
    items = [f"p{number % 10}" for number in range(40)]
    splitter = GroupSplitter(str, 0.3, seed=4)
    held_out = {items[p] for p in splitter(items)[1]}
    backwards = items[::-1]
    assert {backwards[p] for p in splitter(backwards)[1]} == held_out
    assert len(held_out) == 3
    assert {items[p] for p in GroupSplitter(str, 0.3, seed=5)(items)[1]} != held_out


def test_groups_may_stand_in_a_column():
    frame = pd.DataFrame({"file": list("abcdef"), "patient": [1, 1, 2, 2, 3, 3]})
    by_name = GroupSplitter("patient", 0.34, seed=0)(frame)
    assert len(by_name[1]) == 2
    assert GroupSplitter(1, 0.34, seed=0)(frame) == by_name
    assert GroupSplitter(lambda row: row["patient"], 0.34, seed=0)(frame) == by_name
    with pytest.raises(TableError, match="no column 'ward'"):
        GroupSplitter("ward")(frame)
    with pytest.raises(TableError, match=r"GroupSplitter splits the rows.*Received: list"):
        GroupSplitter("ward")([1, 2])


def test_one_group_cannot_be_split():
    with pytest.raises(DataError, match=r"5 items in 1 group\(s\): 'a'"):
        GroupSplitter(lambda _: "a")(range(5))
    with pytest.raises(ConfigError, match="held out, between 0 and 1"):
        GroupSplitter(str, 1)


def test_without_a_seed_groups_follow_torchs_generator():
    items = range(100)
    torch.manual_seed(1)
    first = GroupSplitter(str)(items)
    torch.manual_seed(1)
    assert GroupSplitter(str)(items) == first != GroupSplitter(str)(items)
