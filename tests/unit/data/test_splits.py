"""Splitters against recorded results, their independence of global state, and the promises of the stratified split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vizsla.data.table.splits import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    IndexSplitter,
    MaskSplitter,
    RandomSplitter,
    StratifiedSplitter,
    split_of_value,
    stratified_split,
)
from vizsla.errors import ConfigError, DataError, TableError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def sha256_of(positions: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, positions)).encode("ascii")).hexdigest()


@pytest.mark.parametrize("case", GOLDEN["random_splitter"], ids=str)
def test_random_splitter_gives_the_recorded_split(case: dict):
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


@pytest.mark.parametrize("case", GOLDEN["end_splitter"], ids=str)
def test_end_splitter_gives_the_recorded_split(case: dict):
    split = EndSplitter(case["valid_pct"], case["valid_last"])(range(case["n"]))
    assert split == (case["train"], case["valid"])


def test_end_splitter_with_nothing_to_hold_out_trains_on_all():
    assert EndSplitter(0.2)(range(4)) == ([0, 1, 2, 3], [])
    assert EndSplitter(0.2, valid_last=False)(range(4)) == ([0, 1, 2, 3], [])


def test_index_splitter_gives_the_recorded_split():
    case = GOLDEN["index_splitter"]
    assert IndexSplitter(case["valid_idx"])(range(case["n"])) == (case["train"], case["valid"])


@pytest.mark.parametrize("position", [10, -1])
def test_index_splitter_refuses_a_position_outside(position: int):
    with pytest.raises(ConfigError, match=f"from 0 to 9. Received position {position}"):
        IndexSplitter([0, position])(range(10))


@pytest.mark.parametrize("case", GOLDEN["grandparent_splitter"], ids=str)
def test_grandparent_splitter_gives_the_recorded_split(case: dict):
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


@pytest.mark.parametrize("case", GOLDEN["col_splitter"], ids=lambda case: str(case["kwargs"]))
def test_col_splitter_gives_the_recorded_split(case: dict):
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


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 20])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float):
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
