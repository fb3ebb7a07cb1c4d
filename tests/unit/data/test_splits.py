"""Splitters against recorded results, their independence of global state, and the promises of the stratified split."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from vizsla.data.table.splits import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    IndexSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    StratifiedSplitter,
    TrainTestSplitter,
    split_of_value,
    stratified_split,
)
from vizsla.errors import ConfigError, DataError, MissingExtraError, TableError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def sha256_of(positions: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, positions)).encode("ascii")).hexdigest()


def test_random_splitter_gives_the_recorded_split():
    for case in GOLDEN["random_splitter"]:
        train, valid = RandomSplitter(case["valid_pct"], case["seed"])(range(case["n"]))
        assert (len(train), len(valid)) == (case["n_train"], case["n_valid"])
        assert sha256_of(train) == case["sha256_train"]
        assert sha256_of(valid) == case["sha256_valid"]


def test_random_splitter_with_a_seed_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    RandomSplitter(seed=42)(range(100))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_splitter_without_a_seed_follows_the_global_one():
    torch.manual_seed(3)
    first = RandomSplitter()(range(100))
    torch.manual_seed(3)
    assert RandomSplitter()(range(100)) == first != RandomSplitter()(range(100))


def test_end_splitter_gives_the_recorded_split():
    for case in GOLDEN["end_splitter"]:
        split = EndSplitter(case["valid_pct"], case["valid_last"])(range(case["n"]))
        assert split == (case["train"], case["valid"])


def test_end_splitter_with_nothing_to_hold_out_trains_on_all():
    assert EndSplitter(0.2)(range(4)) == ([0, 1, 2, 3], [])
    assert EndSplitter(0.2, valid_last=False)(range(4)) == ([0, 1, 2, 3], [])


def test_index_splitter_gives_the_recorded_split():
    case = GOLDEN["index_splitter"]
    assert IndexSplitter(case["valid_idx"])(range(case["n"])) == (case["train"], case["valid"])


def test_index_splitter_refuses_a_position_outside():
    for position in [10, -1]:
        with pytest.raises(ConfigError, match=f"from 0 to 9. Received position {position}"):
            IndexSplitter([0, position])(range(10))


def test_grandparent_splitter_gives_the_recorded_split():
    for case in GOLDEN["grandparent_splitter"]:
        splitter = GrandparentSplitter(train_name=case["train_name"], valid_name=case["valid_name"])
        assert splitter([Path(item) for item in case["items"]]) == (case["train"], case["valid"])


def test_func_splitter_gives_the_recorded_split():
    case = GOLDEN["func_splitter"]
    assert FuncSplitter(lambda item: "b/" in item)(case["items"]) == (case["train"], case["valid"])


def test_mask_splitter_holds_out_where_the_mask_is_true():
    assert MaskSplitter([False, True, False, 1])("abcd") == ([0, 2], [1, 3])
    assert MaskSplitter(torch.tensor([True, False]))("ab") == ([1], [0])  # pyright: ignore[reportArgumentType]


def test_mask_splitter_refuses_a_mask_of_another_length():
    with pytest.raises(ConfigError, match="Received: 2 for 3 items"):
        MaskSplitter([True, False])("abc")


def test_file_splitter_holds_out_the_names_in_the_file(tmp_path: Path):
    (tmp_path / "valid.txt").write_bytes("\ufeffb.jpg\r\n\r\n Ä犬.png \r\n".encode())
    items = [Path("x/a.jpg"), Path("y/b.jpg"), Path("Ä犬.png")]
    assert FileSplitter(tmp_path / "valid.txt")(items) == ([0], [1, 2])


def test_file_splitter_says_what_is_wrong_with_the_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.txt' cannot be read.*one file name a line"):
        FileSplitter(tmp_path / "none.txt")([Path("a.jpg")])
    (tmp_path / "valid.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"None of the 2 names.*'a, b'; the first item is 'a.jpg'"):
        FileSplitter(tmp_path / "valid.txt")([Path("x/a.jpg")])


def test_col_splitter_gives_the_recorded_split():
    for case in GOLDEN["col_splitter"]:
        frame = pd.DataFrame(case["columns"])
        assert ColSplitter(**case["kwargs"])(frame) == (case["train"], case["valid"])


def test_col_splitter_understands_text_and_leaves_test_rows_out():
    frame = pd.DataFrame({"split": ["train", "Valid", "test", "False", "1"]})
    assert ColSplitter("split")(frame) == ([0, 3], [1, 4])


def test_col_splitter_names_what_it_cannot_use():
    with pytest.raises(TableError, match=r"no column 'fold'. The columns are: \['a'\]"):
        ColSplitter("fold")(pd.DataFrame({"a": [1]}))
    with pytest.raises(TableError, match=r"'a', row 1: .* Received: 'perhaps'"):
        ColSplitter("a")(pd.DataFrame({"a": ["yes", "perhaps"]}))
    with pytest.raises(TableError, match=r"no column 5. The columns are: \['a'\]"):
        ColSplitter(5)(pd.DataFrame({"a": [1]}))
    with pytest.raises(TableError, match="Received: list"):
        ColSplitter("a")([1, 2])


def test_a_fraction_outside_0_to_1_is_refused():
    for fraction in [-0.1, 1.0, 20]:
        for splitter in (RandomSplitter, EndSplitter, StratifiedSplitter):
            with pytest.raises(ConfigError, match=f"between 0 and 1. Received: {fraction}"):
                splitter(fraction)


def test_a_misspelt_argument_is_a_type_error():
    with pytest.raises(TypeError, match="valid_pcnt"):
        RandomSplitter(valid_pcnt=0.2)  # pyright: ignore[reportCallIssue]


def test_stratified_splitter_keeps_the_parts_of_the_classes():
    items = [
        Path(f"{label}/{n}.jpg") for label, count in (("a", 50), ("b", 10)) for n in range(count)
    ]
    train, valid = StratifiedSplitter(0.2, seed=1)(items)
    assert Counter(items[position].parent.name for position in valid) == {"a": 10, "b": 2}
    assert sorted(train + valid) == list(range(60))
    assert StratifiedSplitter(0.2, seed=1)(items) == (train, valid)
    assert StratifiedSplitter(0.2, seed=2)(items) != (train, valid)


def test_stratified_split_draws_a_class_independently_of_the_others():
    groups = ["a"] * 20 + ["b"] * 20
    _, both = stratified_split(groups, valid_fraction=0.25, seed=5)
    _, alone = stratified_split(groups[:20], valid_fraction=0.25, seed=5)
    assert [position for position in both if position < 20] == alone


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    fraction=st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5, 0.9]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_stratified_split_has_every_larger_group_on_both_sides(
    sizes: list[int], fraction: float, seed: int
):
    groups = [name for name, size in enumerate(sizes) for _ in range(size)]
    train, valid = stratified_split(groups, valid_fraction=fraction, seed=seed)
    assert sorted(train + valid) == list(range(len(groups)))
    in_train, in_valid = (Counter(groups[p] for p in part) for part in (train, valid))
    for name, size in enumerate(sizes):
        assert in_train[name] >= 1
        assert (in_valid[name] >= 1) == (size > 1)
        assert abs(in_valid[name] - fraction * size) <= 1


def test_stratified_split_holds_out_the_rounded_part_of_all():
    groups = [name for name in range(10) for _ in range(7)]
    assert len(stratified_split(groups, valid_fraction=0.2, seed=0)[1]) == 14


def test_cells_that_name_a_split_are_understood():
    cells = [True, "true", 1, "VAL", " valid ", False, 0, "no", "train", "test", "", None, "x"]
    expected = ["valid"] * 5 + ["train"] * 4 + ["test", None, None, None]
    assert [split_of_value(cell) for cell in cells] == expected


def test_random_subset_splitter_gives_the_recorded_split():
    case = GOLDEN["random_subset_splitter"]
    splitter = RandomSubsetSplitter(case["train_sz"], case["valid_sz"], case["seed"])
    before = torch.random.get_rng_state()
    assert splitter(range(case["n"])) == (case["train"], case["valid"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_subset_splitter_refuses_parts_that_cannot_be():
    for sizes in [(0, 0.2), (0.8, 0), (0.8, 0.3), (-0.1, 0.2)]:
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
