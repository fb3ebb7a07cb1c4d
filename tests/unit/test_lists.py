"""``L`` prints short, takes any index and is a list; tests/contract/test_idioms.py compares its methods with fastai's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vizsla import ConfigError
from vizsla.lists import L, collection_text

ITEMS = L("a", "b", "c", "d")


def test_a_collection_prints_its_length_and_at_most_20_items():
    twenty = ",".join(map(str, range(20)))
    assert repr(L()) == "(#0) []"
    assert repr(L(1, "b", None)) == "(#3) [1,'b',None]"
    assert str(L(range(20))) == f"(#20) [{twenty}]"
    assert repr(L(range(7393))) == f"(#7393) [{twenty}...]"
    items = L(1)
    items.append(items)
    assert repr(items) == "(#2) [1,(#...)]"


def test_only_printed_items_are_asked_for():
    class Lazy:
        def __len__(self):
            return 1000

        def __getitem__(self, place):
            assert place < 3
            return place

    lazy: Any = Lazy()
    assert collection_text(lazy, limit=3) == "(#1000) [0,1,2...]"


def test_one_thing_is_wrapped_and_collections_are_taken_apart():
    for given, items in (
        (None, []),
        ("abc", ["abc"]),
        (b"abc", [b"abc"]),
        (5, [5]),
        (Path("a"), [Path("a")]),
        ((1, 2), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}, [{"a": 1}]),
        (iter("ab"), ["a", "b"]),
        ([None], [None]),
    ):
        assert L(given) == items
    for thing in (
        np.arange(3),
        torch.arange(3),
        pd.DataFrame({"a": [1, 2]}),
        Image.new("L", (2, 2)),
    ):
        assert L(thing)[0] is thing
        assert len(L(thing)) == 1
    assert L(np.arange(3), use_list=True) == [0, 1, 2]
    assert L([1], None, "ab") == [[1], None, "ab"]


def test_a_number_gives_an_item_and_slices_lists_and_masks_a_collection():
    for place, item in ((1, "b"), (-1, "d"), (np.int64(2), "c"), (torch.tensor(0), "a")):
        assert ITEMS[place] == item  # pyright: ignore[reportArgumentType, reportCallIssue]
    mask = [False, True, True, False]
    places: tuple[Any, ...] = (
        *(slice(1, 3), [1, 2], (1, -2), np.array([1, 2]), torch.tensor([1, 2]), L(1, 2)),
        *(mask, np.array(mask), torch.tensor(mask)),
    )
    for place in places:
        assert ITEMS[place] == ["b", "c"]
        assert isinstance(ITEMS[place], L)
    assert ITEMS[[]] == []


def test_wrong_places_are_errors():
    with pytest.raises(ConfigError, match=r"each of the 4 items. Received: 2 values"):
        ITEMS[[True, False]]
    with pytest.raises(IndexError):
        ITEMS[4]
    for wrong in (["a"], [0.5], 0.5, torch.ones(2, 2)):
        with pytest.raises(ConfigError, match="a whole number, a list of them"):
            ITEMS[wrong]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_it_is_a_list():
    assert isinstance(ITEMS, list)
    assert ITEMS == ["a", "b", "c", "d"]
    assert ["a", "b", "c", "d"] == ITEMS  # noqa: SIM300 (a list may stand first)
    assert ITEMS != ["a"]
    assert "b" in ITEMS
    assert json.dumps(ITEMS) == '["a", "b", "c", "d"]'
    assert isinstance(copy.copy(ITEMS), L)
    assert isinstance(ITEMS.copy(), L)
    assert copy.deepcopy(ITEMS) == ITEMS


def test_sums_are_collections():
    assert repr(L(1) + [2] + (3,) + None + "ab") == "(#4) [1,2,3,'ab']"
    assert repr([0] + L(1)) == "(#2) [0,1]"  # noqa: RUF005
    assert repr(L(1, 2) * 2) == "(#4) [1,2,1,2]"
    items = L(1)
    items += "ab"
    assert items == [1, "ab"]
    assert isinstance(items, L)
