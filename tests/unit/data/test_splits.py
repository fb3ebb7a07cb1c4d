"""Splitters against recorded results, their independence of global state, and the promises of the stratified split."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from vizsla import (
    ColSplitter,
    ConfigError,
    DataBlock,
    DataError,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    ImageBlock,
    IndexSplitter,
    LabelError,
    MaskSplitter,
    MissingExtraError,
    MultiCategoryBlock,
    RandomSplitter,
    RandomSubsetSplitter,
    StratifiedSplitter,
    TableError,
    TrainTestSplitter,
    get_image_files,
    parent_label,
)
from vizsla.data.table import Split, keep_together, split_of_value, stratified_split

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "split.json").read_text("utf-8"))


def sha256_of(positions: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, positions)).encode("ascii")).hexdigest()


def test_random_splitter_gives_the_recorded_split():
    before = torch.random.get_rng_state()
    for case in GOLDEN["random_splitter"]:
        train, valid = RandomSplitter(case["valid_pct"], case["seed"])(range(case["n"]))
        assert (len(train), len(valid)) == (case["n_train"], case["n_valid"])
        assert sha256_of(train) == case["sha256_train"]
        assert sha256_of(valid) == case["sha256_valid"]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_seed_splitters_follow_torchs_generator():
    items = range(100)
    for splitter in (RandomSplitter(), GroupSplitter(str)):
        torch.manual_seed(3)
        first = splitter(items)
        torch.manual_seed(3)
        assert splitter(items) == first != splitter(items)


def recorded() -> list[tuple[Any, Any, dict[str, Any]]]:
    """Return splitters, their items, and the recorded split."""
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (EndSplitter(case["valid_pct"], case["valid_last"]), range(case["n"]), case)
        for case in GOLDEN["end_splitter"]
    ]
    cases += [
        (GrandparentSplitter(case["train_name"], case["valid_name"]), case["items"], case)
        for case in GOLDEN["grandparent_splitter"]
    ]
    cases += [
        (ColSplitter(**case["kwargs"]), pd.DataFrame(case["columns"]), case)
        for case in GOLDEN["col_splitter"]
    ]
    case = GOLDEN["index_splitter"]
    cases.append((IndexSplitter(case["valid_idx"]), range(case["n"]), case))
    case = GOLDEN["func_splitter"]
    cases.append((FuncSplitter(lambda item: "b/" in item), case["items"], case))
    case = GOLDEN["random_subset_splitter"]
    subset = RandomSubsetSplitter(case["train_sz"], case["valid_sz"], case["seed"])
    cases.append((subset, range(case["n"]), case))
    case = GOLDEN["train_test_splitter"]
    sklearn = TrainTestSplitter(case["test_size"], case["random_state"])
    return [*cases, (sklearn, range(case["n"]), case)]


def test_splitters_give_the_recorded_splits():
    before = torch.random.get_rng_state()
    for splitter, items, case in recorded():
        assert splitter(items) == (case["train"], case["valid"]), splitter
    assert torch.equal(torch.random.get_rng_state(), before)


def test_end_splitter_with_nothing_to_hold_out_trains_on_all():
    assert EndSplitter(0.2)(range(4)) == ([0, 1, 2, 3], [])
    assert EndSplitter(0.2, valid_last=False)(range(4)) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize(
    ("splitter", "items", "error", "words"),
    [
        (IndexSplitter([0, 10]), range(10), ConfigError, "0 to 9.* position 10"),
        (IndexSplitter([0, -1]), range(10), ConfigError, "0 to 9.* position -1"),
        (MaskSplitter([True, False]), "abc", ConfigError, "2 for 3 items"),
        (FileSplitter("none.txt"), [Path("a.jpg")], DataError, r"none\.txt"),
        (ColSplitter("fold"), pd.DataFrame({"a": [1]}), TableError, r"'fold'.* \['a'\]"),
        (ColSplitter("a"), pd.DataFrame({"a": ["yes", "perhaps"]}), TableError, "'a', row 1: .*'perhaps'"),
        (ColSplitter(5), pd.DataFrame({"a": [1]}), TableError, r"5.* \['a'\]"),
        (ColSplitter("a"), [1, 2], TableError, "ColSplitter.*list"),
        (GroupSplitter("ward"), pd.DataFrame({"a": [1]}), TableError, "'ward'"),
        (GroupSplitter("ward"), [1, 2], TableError, "GroupSplitter.*list"),
        (StratifiedSplitter(), pd.DataFrame({"a": [1]}), TableError, r"\['a'\].*label_func=NAME"),
        (StratifiedSplitter(label_func="b"), pd.DataFrame({"a": [1]}), TableError, "'b'"),
        (GrandparentSplitter(), pd.DataFrame({"a": [1]}), TableError, r"\['a'\].*ColSplitter"),
        (FileSplitter(__file__), pd.DataFrame({"a": [1]}), TableError, r"\['a'\].*col=NAME"),
        (GroupSplitter(lambda _: "a"), range(5), DataError, r"5 items in 1 group\(s\): 'a'"),
        (TrainTestSplitter(1.5), range(3), ConfigError, "3 items: .*test_size=1.5"),
        (TrainTestSplitter(0.5, stratify=["a", "a", "a", "b"]), range(4), ConfigError, "4 items"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_named(splitter: Any, items: Any, error: type[Exception], words):
    with pytest.raises(error, match=words):
        splitter(items)


def test_impossible_fractions_are_refused():
    for fraction in [-0.1, 1.0, 20]:
        for splitter in (RandomSplitter, EndSplitter, StratifiedSplitter):
            with pytest.raises(ConfigError, match=f"{fraction}"):
                splitter(fraction)
        with pytest.raises(ConfigError, match=f"{fraction}"):
            GroupSplitter(str, fraction)
    for sizes in [(0, 0.2), (0.8, 0), (0.8, 0.3), (-0.1, 0.2)]:
        with pytest.raises(ConfigError, match=f"train_sz={sizes[0]}, valid_sz={sizes[1]}"):
            RandomSubsetSplitter(*sizes)
    assert len(RandomSubsetSplitter(0.7, 0.3, seed=0)(range(10))[0]) == 7
    with pytest.raises(TypeError, match="valid_pcnt"):
        RandomSplitter(valid_pcnt=0.2)  # pyright: ignore[reportCallIssue]


def test_every_row_of_a_table_is_in_a_set(tmp_path: Path):
    rows = [(f"{number}.jpg", "ab"[number % 2], number % 5) for number in range(20)]
    frame = pd.DataFrame(rows, columns=["file", "label", "fold"])
    (tmp_path / "valid.txt").write_text("0.jpg\n5.jpg\n")
    for splitter in (
        RandomSplitter(0.2),
        RandomSplitter(0.2, seed=1),
        EndSplitter(0.2),
        StratifiedSplitter(0.2, label_func="label"),
        StratifiedSplitter(0.2, label_func=lambda row: row["label"]),
        FuncSplitter(lambda row: row["fold"] == 0),
        GroupSplitter("fold"),
        ColSplitter("fold", on=4),
        FileSplitter(tmp_path / "valid.txt", col="file"),
        TrainTestSplitter(0.2),
        MaskSplitter((frame["fold"] == 1).tolist()),
    ):
        train, valid = splitter(frame)
        assert sorted(train + valid) == list(range(20)), splitter
        assert train, splitter
        assert valid, splitter


def test_mask_splitter_holds_out_where_the_mask_is_true():
    assert MaskSplitter([False, True, False, 1])("abcd") == ([0, 2], [1, 3])
    assert MaskSplitter(torch.tensor([True, False]))("ab") == ([1], [0])  # pyright: ignore[reportArgumentType]


def test_file_splitter_holds_out_the_names_in_the_file(tmp_path: Path):
    (tmp_path / "valid.txt").write_bytes("\ufeffb.jpg\r\n\r\n Ä犬.png \r\n".encode())
    items = [Path("x/a.jpg"), Path("y/b.jpg"), Path("Ä犬.png")]
    assert FileSplitter(tmp_path / "valid.txt")(items) == ([0], [1, 2])


def test_a_list_that_names_no_item_is_an_error(tmp_path: Path):
    (tmp_path / "valid.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"2 names.*'a, b'.*'a\.jpg'"):
        FileSplitter(tmp_path / "valid.txt")([Path("x/a.jpg")])


def test_col_splitter_understands_text_and_leaves_test_rows_out():
    frame = pd.DataFrame({"split": ["train", "Valid", "test", "False", "1"]})
    assert ColSplitter("split")(frame) == ([0, 3], [1, 4])


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
@settings(max_examples=60)
def test_stratified_split_has_each_group_on_both_sides(sizes: list[int], fraction, seed: int):
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


def test_train_test_splitter_passes_classes_and_sizes_on():
    classes = ["a"] * 12 + ["b"] * 4
    expected = train_test_split(
        range(16), test_size=4, train_size=8, stratify=classes, random_state=7
    )
    found = TrainTestSplitter(4, 7, stratify=classes, train_size=8)([*range(16)])
    assert found == tuple(expected)
    assert [classes[position] for position in found[1]].count("b") == 1
    assert TrainTestSplitter(0.25, shuffle=False)(range(4)) == ([0, 1, 2], [3])


def test_scikit_learn_is_named_when_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*scikit-learn"):
        TrainTestSplitter()(range(4))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    fraction=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60)
def test_a_group_is_on_one_side_and_both_have_one(sizes: list[int], fraction: float, seed: int):
    groups = [name for name, size in enumerate(sizes) for _ in range(size)]
    train, valid = GroupSplitter(groups.__getitem__, fraction, seed)(range(len(groups)))
    assert sorted(train + valid) == list(range(len(groups)))
    assert not {groups[p] for p in train} & {groups[p] for p in valid}
    assert train
    assert valid
    if min(sizes) == max(sizes):
        nearest = min(max(round(fraction * len(sizes)), 1), len(sizes) - 1)
        assert abs(len(valid) / sizes[0] - nearest) <= 1


def test_the_order_of_items_does_not_change_the_drawn_groups():
    items = [f"p{number % 10}" for number in range(40)]
    splitter = GroupSplitter(str, 0.3, seed=4)
    held_out = {items[p] for p in splitter(items)[1]}
    backwards = items[::-1]
    assert {backwards[p] for p in splitter(backwards)[1]} == held_out
    assert len(held_out) == 3
    assert {items[p] for p in GroupSplitter(str, 0.3, seed=5)(items)[1]} != held_out


def test_groups_may_be_a_column():
    frame = pd.DataFrame({"file": list("abcdef"), "patient": [1, 1, 2, 2, 3, 3]})
    by_name = GroupSplitter("patient", 0.34, seed=0)(frame)
    assert len(by_name[1]) == 2
    assert GroupSplitter(1, 0.34, seed=0)(frame) == by_name
    assert GroupSplitter(lambda row: row["patient"], 0.34, seed=0)(frame) == by_name


@pytest.mark.parametrize(
    "splitter",
    [RandomSplitter(0.5, seed=2), RandomSubsetSplitter(0.5, 0.5, 2), TrainTestSplitter(0.5, 2)],
)
def test_a_draw_that_leaves_a_class_without_training_images_moves_one(make, splitter):
    names = [f"{number}_{'ab'[number % 2]}.jpg" for number in range(10)]
    train, valid = splitter(names)
    rare = {valid[0]: "x", valid[1]: "y", valid[2]: "y"}
    files = [make(f"{rare.get(n, name[2])}/{name}") / f"{rare.get(n, name[2])}/{name}" for n, name in enumerate(names)]  # fmt: skip
    block = DataBlock(get_y=parent_label, splitter=splitter)
    with pytest.warns(
        UserWarning, match="2 images are moved to training from validation: 'x', 'y'"
    ):
        table = block.resolve(files)
    assert table.train_rows.tolist() == [*train, *valid[:2]]
    assert table.valid_rows.tolist() == valid[2:]
    assert any(
        "not validated: 1 class has no validation images: 'x'" in note for note in table.notes
    )
    full = [path for path in files if path.parent.name in "ab"]
    assert sorted(block.resolve(full).train_rows.tolist()) == sorted(splitter(full)[0])


def test_a_draw_keeps_an_image_of_each_label_of_several_in_training(make):
    splitter = RandomSplitter(0.5, seed=2)
    _, valid = splitter(range(10))
    labels = [["a", "rare"] if n == valid[0] else ["a"] if n % 2 else ["b"] for n in range(10)]
    names = [f"{number}.jpg" for number in range(10)]
    files = [make(*names) / name for name in names]
    block = DataBlock((ImageBlock, MultiCategoryBlock), get_y=lambda n: labels[n], get_x=files.__getitem__, splitter=splitter)  # fmt: skip
    with pytest.warns(UserWarning, match="moved to training from validation: 'rare'"):
        assert valid[0] in block.resolve(range(10)).train_rows.tolist()


def test_a_split_of_the_users_own_is_not_changed(make):
    root = make("a/1.jpg", "b/2.jpg", "c/3.jpg")
    for splitter in (IndexSplitter([2]), EndSplitter(0.4), TrainTestSplitter(1, shuffle=False)):
        block = DataBlock(get_items=get_image_files, get_y=parent_label, splitter=splitter)
        with pytest.raises(LabelError, match=r"not in training:\n  'c'"):
            block.resolve(root)


def test_what_belongs_together_goes_where_the_number_of_validation_images_stays():
    cases: list[tuple[Split, list[tuple[int, ...]], str, Split]] = [
        (([0, 1, 2, 3], [4, 5]), [], "aaaaaa", ([0, 1, 2, 3], [4, 5])),
        (([3, 1, 2, 0], [5, 4]), [(0, 1), (4, 5), (8, 9)], "aaaaaa", ([3, 1, 2, 0], [5, 4])),
        # A pair goes to training, the next one to validation; each class is counted on its own.
        (([0, 1, 2, 3], [4, 5]), [(0, 4), (1, 5)], "aaaaaa", ([0, 2, 3, 4], [1, 5])),
        (([0, 1, 2, 3], [4, 5]), [(0, 4), (1, 5)], "abaaab", ([0, 1, 2, 3, 4, 5], [])),
        # More are held out than learned from: the smaller part moves, unless it is the last of a class.
        (([0, 1, 5], [2, 3, 4]), [(0, 2, 3, 4)], "aaaaaa", ([1, 5], [0, 2, 3, 4])),
        (([0, 1, 5], [2, 3, 4]), [(0, 2, 3, 4)], "abaaab", ([0, 1, 2, 3, 4, 5], [])),
        # Groups that share a member are one.
        (([0, 1, 2, 3], [4, 5]), [(0, 1), (1, 4)], "aaaaaa", ([0, 1, 2, 3, 4], [5])),
    ]  # fmt: skip
    for split, groups, classes, expected in cases:
        assert keep_together(split, groups, list(map(tuple, classes))) == expected
