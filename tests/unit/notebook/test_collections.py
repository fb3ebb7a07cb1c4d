"""The small helpers of notebooks do what the lessons take for granted."""

from __future__ import annotations

import importlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.conftest import unpatch_paths

from vizsla import ConfigError
from vizsla.lists import L
from vizsla.notebook import (
    Inf,
    collections,
    first,
    ifnone,
    image2tensor,
    noop,
    patch_path,
    range_of,
    set_seed,
    tensor,
    to_np,
)

Patched: Any = Path
GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "reprs.json").read_text("utf-8")
)


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


def test_small_helpers_of_cells():
    assert (ifnone(None, 2), ifnone(0, 2)) == (2, 0)
    assert range_of("abc") == range_of(3) == [0, 1, 2]
    one, (two,) = to_np([torch.ones(2, requires_grad=True), (torch.zeros(1),)])
    assert (one.tolist(), two.tolist()) == ([1, 1], [0])
    grey = Image.new("L", (4, 3), 9)
    assert image2tensor(grey).tolist() == [[[9] * 4] * 3]
    assert image2tensor(grey.convert("RGB")).shape == (3, 3, 4)
    assert image2tensor(grey).dtype == torch.uint8


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


@pytest.mark.usefixtures("patched_paths")
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


@pytest.mark.usefixtures("patched_paths")
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
    unpatch_paths()
    plain = repr(Path("a"))
    importlib.reload(collections)
    assert not hasattr(Path, "ls")
    assert repr(Path("a")) == plain
