"""Paths that are kept as folders and names: the same as a list of paths, in a tenth of the memory."""

from __future__ import annotations

import copy
import os
import tracemalloc
from pathlib import Path

import pytest

from vizsla.paths import ImagePaths

NAMES = ["pets/a/1.jpg", "pets/b/2.jpg", "3.jpg", "pets/a/4.jpg", "/5.jpg", "pets/b/Pyrénées 犬.png"]  # fmt: skip


def test_paths_are_a_sequence():
    paths, expected = ImagePaths(NAMES), [Path(name) for name in NAMES]
    assert list(paths) == expected
    assert [paths[position] for position in range(-6, 6)] == expected * 2
    assert [paths.text(position) for position in range(-6, 6)] == [*map(str, expected)] * 2
    assert list(paths.texts()) == [*map(str, expected)]
    assert list(reversed(paths)) == expected[::-1]
    assert list(paths[1:4]) == expected[1:4]
    assert list(paths[::-2]) == expected[::-2]
    assert Path("3.jpg") in paths
    assert Path("4.jpg") not in paths
    assert paths.index(Path("pets/a/4.jpg")) == 3
    assert all(isinstance(path, Path) for path in paths)


def test_texts_are_normalised_as_by_path():
    assert ImagePaths(["./a//b/../1.jpg", "."]) == [Path("a/b/../1.jpg"), Path()]


def test_a_position_outside_is_an_index_error():
    for position in (6, -7, 100):
        with pytest.raises(IndexError):
            ImagePaths(NAMES)[position]


def test_paths_equal_any_sequence_of_the_same_paths():
    paths, expected = ImagePaths(NAMES), [Path(name) for name in NAMES]
    for same in (expected, tuple(expected), ImagePaths(expected), copy.deepcopy(paths)):
        assert paths == same
    assert tuple(expected) == paths
    for other in (expected[:-1], expected[::-1], "pets"):
        assert paths != other
    assert ImagePaths() == []
    assert hash(paths) == hash(tuple(expected))


def test_runs_of_names_in_folders_are_joined():
    runs = [("a" + os.sep, ["1.jpg", "é.jpg"]), ("", ["2.jpg"]), ("a" + os.sep, ["3.jpg"])]
    paths = ImagePaths.in_folders(runs)
    assert paths == [Path("a/1.jpg"), Path("a/é.jpg"), Path("2.jpg"), Path("a/3.jpg")]
    assert paths.folders == ("a" + os.sep, "")
    assert list(paths.folder_numbers) == [0, 0, 1, 0]


@pytest.mark.skipif(os.name != "posix", reason="names that are no text exist on posix only")
def test_undecodable_names_are_kept():
    odd = [Path("a/\udcff.jpg"), Path("\udcfe/é\udc80.jpg")]
    assert list(ImagePaths(odd)) == odd
    assert ImagePaths.in_folders([("a/", ["\udcff.jpg"])]) == odd[:1]


def test_chosen_paths_are_in_the_order_asked_for():
    assert ImagePaths(NAMES).chosen([4, 0, 0]) == [Path(NAMES[4]), Path(NAMES[0]), Path(NAMES[0])]


def test_the_text_shows_the_first_paths():
    assert repr(ImagePaths(["a.jpg"])) == "ImagePaths(['a.jpg'])"
    assert repr(ImagePaths(map(str, range(4)))) == "ImagePaths(['0', '1', '2', ... 4 in all])"


def test_a_path_takes_about_thirty_bytes():
    names = [f"image {number:07}.jpg" for number in range(20_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    paths = ImagePaths.in_folders([("images/", names)])
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(paths) == 20_000
    assert held < 35 * 20_000
