"""Images go to folders of their classes: copied or linked, numbered where names meet, and never over what is there."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import ConfigError, DataError, OutputError, Prediction, Predictor, Resize
from vizsla.predict import folder_names
from vizsla.types import Task

VOCAB = ("con", "a/b")


@pytest.fixture(scope="module")
def predictor_of(make_classifier: Callable[..., Any]) -> Callable[..., Predictor]:
    """Return a function that makes a predictor of a task; images that differ get different classes."""

    def make(task: Task = "category") -> Predictor:
        classifier = make_classifier(VOCAB, task=task)
        torch.manual_seed(1)
        with torch.no_grad():  # norms that know such images, so that answers differ
            classifier.train()(torch.rand(16, 3, 32, 32))
        return Predictor(classifier.eval(), resize=Resize(32))

    return make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three folders whose images have the same names, and a file that is no image."""
    folder = tmp_path / "photos"
    for number in range(9):
        path = folder / str(number % 3) / f"{number // 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 30 + 25 * number, (32, 32, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    (folder / "0" / "diary.png").write_text("Dear diary")
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sorted.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.parametrize("link", [False, True])
def test_each_image_is_in_the_folder_of_its_class(
    predictor_of: Callable[..., Predictor], photos: Path, tmp_path: Path, link: bool
):
    predictor, out, before = predictor_of(), tmp_path / "out", contents(photos)
    done = predictor.sort_images(photos, out, link=link, batch_size=4)
    assert contents(photos) == before
    assert (done.num_images, done.num_failed, done.num_unplaced) == (10, 1, 0)
    assert done.renamed == {"con": "_con", "a/b": "a_b"}
    assert sum(done.num_of_folder.values()) == 9
    rows = rows_of(out)
    placed = [row for row in rows if row["to"]]
    assert len({row["to"] for row in placed}) == 9
    for row in placed:
        target, source = Path(row["to"]), Path(row["path"])
        said = predictor.predict(source)
        assert (row["prediction"], target.parent) == (said.label, out / done.renamed[said.label])
        assert target.read_bytes() == source.read_bytes()
        assert target.is_symlink() == link
        assert not link or target.resolve() == source.resolve()
        assert link or target.stat().st_mtime == pytest.approx(source.stat().st_mtime, abs=0.01)
    for name in done.num_of_folder:
        stems = sorted(path.stem for path in (out / name).iterdir())
        firsts = {stem.split("-")[0] for stem in stems}
        # The first of a name keeps it, the others have numbers without gaps.
        for first in firsts:
            same = [stem for stem in stems if stem.split("-")[0] == first]
            assert sorted(same) == [
                first,
                *(f"{first}-{number}" for number in range(2, len(same) + 1)),
            ]
    (failed,) = [row for row in rows if row["error"]]
    assert failed["path"].endswith("diary.png")
    assert failed["to"] == ""


def test_several_labels_are_several_places_and_numbers_are_refused(
    predictor_of: Callable[..., Predictor], photos: Path, tmp_path: Path
):
    predictor, out = predictor_of("multi_category"), tmp_path / "out"
    done = predictor.sort_images(photos, out)
    expected = {str(path): said.labels for path, said in predictor.predict_many(photos) if isinstance(said, Prediction)}  # fmt: skip
    assert done.num_unplaced == sum(not labels for labels in expected.values())
    for path, labels in expected.items():
        places = [Path(row["to"]).parent.name for row in rows_of(out) if row["path"] == path and row["to"]]  # fmt: skip
        assert places == [done.renamed[label] for label in labels]
    with pytest.raises(ConfigError, match="numbers"):
        predictor_of("regression").sort_images(photos, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_is_overwritten_or_sorted_twice(
    predictor_of: Callable[..., Predictor], photos: Path, tmp_path: Path
):
    predictor, full = predictor_of(), tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(photos)
    for folder in (full, full / "mine.txt", photos, photos / "out", tmp_path / "link" / "out", tmp_path / "no" / "out"):  # fmt: skip
        with pytest.raises(OutputError):
            predictor.sort_images(photos, folder)
    with pytest.raises(DataError):
        predictor.sort_images(tmp_path / "full", tmp_path / "out")
    with pytest.raises(ConfigError, match="bytes"):
        predictor.sort_images([b"x"], tmp_path / "out")  # pyright: ignore[reportArgumentType] (wrong on purpose)
    assert (full / "mine.txt").read_text() == "mine"
    assert list(full.iterdir()) == [full / "mine.txt"]
    assert not (photos / "out").exists()


def test_names_of_folders_are_safe_on_every_system():
    vocab = ("cat", "Cat", "a/b", "a\\b", "..", ".hidden", "nul", "LPT1.x", "tail. ", "sorted.csv", "", "\udce9", "犬" * 300, "x\n")  # fmt: skip
    names = folder_names(vocab)
    assert list(names) == list(vocab)
    assert (names["cat"], names["Cat"], names["a/b"]) == ("cat", "Cat-2", "a_b")
    folded = [name.casefold() for name in names.values()]
    assert len(set(folded)) == len(folded)
    assert "sorted.csv" not in folded
    for name in names.values():
        assert not set(name) & set('<>:"/\\|?*\n')
        assert name.strip(". ") == name
        assert 0 < len(name.encode()) < 255
        assert name.split(".")[0].upper() not in ("NUL", "LPT1")
