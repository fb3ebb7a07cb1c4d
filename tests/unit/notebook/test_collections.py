"""Collections print short and take any index; the small helpers of notebooks do what the lessons take for granted."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vizsla import ConfigError
from vizsla.notebook import Inf, L, collection_text, first, noop, patch_path, set_seed, tensor

Patched: Any = Path
GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "reprs.json").read_text("utf-8")
)
ITEMS = L("a", "b", "c", "d")


@pytest.fixture
def _patched() -> Generator[None]:
    """``pathlib.Path`` as notebooks have it, then as it was."""
    before = Path.__dict__.get("__repr__")
    patch_path()
    yield
    for name in ("ls", "BASE_PATH", "__repr__"):
        if name in Path.__dict__:
            delattr(Path, name)
    if before is not None:
        Path.__repr__ = before


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
        ({"a": 1}, ["a"]),
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
    with pytest.raises(TypeError):
        ITEMS[["a"]]  # pyright: ignore[reportArgumentType, reportCallIssue]


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


def test_methods_give_collections():
    assert L(1, 2, 3).map(lambda x: x * x) == [1, 4, 9]
    assert L("ab").map(list) == [["a", "b"]]
    assert L(0, 1, None, 2).filter() == [1, 2]
    assert L(1, 2, 3).filter(lambda x: x > 1, negate=True) == [1]
    assert L(3, 1, 2).sorted() == [1, 2, 3]
    assert L(3, 1, 2).sorted(reverse=True) == [3, 2, 1]
    assert L(-3, 1, 2).sorted(key=abs) == [1, 2, -3]
    assert L(1 + 5j, 2 + 3j).sorted(key="imag") == [2 + 3j, 1 + 5j]
    assert L((1, "b"), (2, "a")).sorted(key=1) == [(2, "a"), (1, "b")]
    assert L((1, [2, 3]), (4, [5, 6])).itemgot(1, 0) == [2, 5]
    assert L(1 + 5j, 2).attrgot("imag") == [5.0, 0]
    assert L({"a": 1}, {"b": 2}).attrgot("a", 0) == [1, 0]
    assert L(3, 1, 3, 2).unique() == [3, 1, 2]
    assert L(3, 1, 3, 2).unique(sort=True) == [1, 2, 3]
    assert L([1, 2, 3], "ab").zip() == [(1, "a"), (2, "b")]
    assert repr(L([1, 2], 3, None, "ab").concat()) == "(#4) [1,2,3,'ab']"


def test_small_helpers():
    for _ in range(2):  # each access starts from the beginning
        assert list(itertools.islice(Inf.count, 3)) == [0, 1, 2]
        assert list(itertools.islice(Inf.ones, 3)) == [1, 1, 1]
        assert list(itertools.islice(Inf.zeros, 2)) == [0, 0]
        assert list(itertools.islice(Inf.nones, 2)) == [None, None]
    assert (first(range(3)), first([]), first(range(9), lambda x: x > 4)) == (0, None, 5)
    assert (noop(3), noop()) == (3, None)


def test_numbers_of_any_kind_become_a_tensor():
    for given, dtype in (
        ([1, 2, 3], torch.int64),
        ((1.0, 2.0), torch.float32),
        (np.array([1.0, 2.0]), torch.float32),
        (np.array([1, 2], dtype=np.uint8), torch.uint8),
        (np.array([1.0], dtype=np.float16), torch.float16),
        (torch.tensor([1.0], dtype=torch.float64), torch.float32),
        (range(3), torch.int64),
        (L(1, 2), torch.int64),
        ((x for x in (1, 2)), torch.int64),
        ([True, False], torch.bool),
        (pd.Series([0.5, 1.5]), torch.float32),
        ([torch.tensor([1, 2]), torch.tensor([3, 4])], torch.int64),
        (2.5, torch.float32),
        (Image.new("RGB", (3, 2)), torch.uint8),
        ([], torch.float32),
    ):
        assert tensor(given).dtype == dtype, given
    assert tensor(0, 1, 0, 1).tolist() == [0, 1, 0, 1]
    assert tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert tensor(torch.tensor([1.0]), torch.tensor([2.0])).shape == (2, 1)
    assert tensor(Image.new("RGB", (3, 2))).shape == (2, 3, 3)
    assert tensor(3).shape == ()
    assert tensor([1, 2], dtype=torch.float16).dtype == torch.float16
    for wrong in ([[1, 2], [3]], ["a"], "abc", None):
        with pytest.raises(ConfigError):
            tensor(wrong)


def test_a_fitting_tensor_is_returned_and_an_array_is_copied():
    given = torch.arange(3)
    assert tensor(given) is given
    array = np.arange(3)
    array.setflags(write=False)
    tensor(array)[0] = 7
    assert array[0] == 0


def test_one_seed_sets_all_generators_and_cudnn_on_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    drawn = []
    for _ in range(2):
        set_seed(3)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert torch.backends.cudnn.benchmark
    set_seed(1, reproducible=True)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.usefixtures("_patched")
def test_paths_below_the_base_print_relative_to_it(tmp_path: Path):
    assert repr(tmp_path / "a b.jpg") == f"Path('{tmp_path.as_posix()}/a b.jpg')"
    assert repr(Path("a/../b")) == "Path('a/../b')"
    Patched.BASE_PATH = tmp_path
    patch_path()
    assert tmp_path == Patched.BASE_PATH  # patching again keeps it
    path = tmp_path / "images" / "Bengal_1.jpg"
    assert repr(path) == GOLDEN["path_base"]
    assert repr(Path("/other/x.jpg")) == GOLDEN["path_outside"]
    assert str(path).endswith("images/Bengal_1.jpg")
    assert path.is_absolute()
    assert repr(tmp_path) == "Path('.')"
    assert repr(L(tmp_path / "images", tmp_path / "annotations")) == GOLDEN["collection_two"]
    Patched.BASE_PATH = str(tmp_path)
    assert repr(path) == GOLDEN["path_base"]


@pytest.mark.usefixtures("_patched")
def test_a_listing_is_sorted_by_name(tmp_path: Path):
    for name in ("b.jpg", "a.JPG", ".hidden", "c.txt", "B.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    folder = Patched(tmp_path)
    assert isinstance(folder.ls(), L)
    for options, expected in (
        ({}, [".hidden", "B.png", "a.JPG", "b.jpg", "c.txt", "folder"]),
        ({"n_max": 2}, [".hidden", "B.png"]),
        ({"file_type": "image"}, ["B.png", "a.JPG", "b.jpg"]),
        ({"file_exts": ".jpg"}, ["a.JPG", "b.jpg"]),
        ({"file_exts": [".txt", ".png"]}, ["B.png", "c.txt"]),
    ):
        assert [path.name for path in folder.ls(**options)] == expected


def test_importing_the_module_leaves_paths_alone():
    assert not hasattr(Path, "ls")
    assert "Path('" in repr(Path("a"))
    assert repr(Path("a")) != "Path('a')"
