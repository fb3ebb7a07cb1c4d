"""Packing data into tar shards: what is in them, that they read back as the same table, and that a kill costs nothing."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Done

from vizsla import ConfigError, DataError, Fix, OutputError, PictureError
from vizsla.data import PackedFormat, pack
from vizsla.data.images import decode_image
from vizsla.data.storage import read_bytes
from vizsla.data.table import Fixes, resolve_data
from vizsla.types import ImageTable

SHARD_MB = 0.02  # a few images


@pytest.fixture
def draw_tree(draw: Callable[..., Image.Image], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that draws images at names below a folder of the test, and returns it."""

    def make(*names: str, size: tuple[int, int] = (48, 64)) -> Path:
        for number, name in enumerate(names):
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path.parent.name, number=number, size=size).save(path)
        return tmp_path / "data"

    return make


@pytest.fixture
def folder(draw_tree: Callable[..., Path]) -> Path:
    """20 JPEGs and PNGs of two classes, in split folders with a test set."""
    kinds = ("jpg", "png")
    return draw_tree(
        *(f"{split}/{name}/{number}.{kinds[number % 2]}" for split, count in (("train", 6), ("valid", 2), ("test", 2)) for name in ("cross", "disc") for number in range(count)),
    )  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def members(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all members of the shards, by their names."""
    found: dict[str, bytes] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert member.name not in found
                found[member.name] = file.read()
    return found


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_bytes())


def assert_same_table(packed: ImageTable, source: ImageTable) -> None:
    """Hold a table that was read back against the one that was packed, row by row."""
    rows = [int(path.stem) for path in packed.paths]
    assert rows == list(range(len(source.paths)))
    assert packed.task == source.task
    assert packed.class_type == source.class_type
    assert packed.vocab == source.vocab
    assert torch.equal(packed.targets.nan_to_num(-9), source.targets.nan_to_num(-9))
    assert torch.equal(packed.train_rows, source.train_rows)
    assert torch.equal(packed.valid_rows, source.valid_rows)
    for path, before in zip(packed.paths, source.paths, strict=True):
        assert read_bytes(path) == before.read_bytes()


def test_images_keep_their_bytes_and_name_their_row(folder: Path, tmp_path: Path):
    table = resolve_data(folder, seed=0)
    done = pack(folder, tmp_path / "out", shard_mb=SHARD_MB, seed=3)
    found = members(done.folder)
    assert len(found) == 3 * done.num_images == 3 * 20
    for row, path in enumerate(table.paths):
        assert found[f"{row:09}{path.suffix}"] == path.read_bytes()
        assert int(found[f"{row:09}.cls"]) == int(table.targets[row])
        facts = json.loads(found[f"{row:09}.json"])
        assert facts["row"] == row
        assert (facts["label"], facts["split"]) == (path.parent.name, path.parent.parent.name)
        assert facts["path"] == path.relative_to(folder).as_posix()
    assert (done.folder / "classes.txt").read_text() == "cross\ndisc\n"
    stated = manifest(done.folder)
    assert stated["seed"] == 3
    assert stated["counts"]["train"] == {"cross": 6, "disc": 6}
    assert {each["split"] for each in stated["shards"]} == {"train", "valid", "test"}
    for each in stated["shards"]:
        data = (done.folder / each["name"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (each["sha256"], each["num_bytes"])
        assert len(data) <= SHARD_MB * 1e6 + 1024
    rows = [int(name[:9]) for name in found if name.endswith(".cls")]
    in_train = [row for row in rows if row in table.train_rows]
    assert in_train != sorted(in_train)


def test_bytes_follow_from_data_and_seed_alone(folder: Path, tmp_path: Path):
    def shards(name: str, **options: Any) -> dict[str, bytes]:
        out = pack(folder, tmp_path / name, shard_mb=SHARD_MB, **options).folder
        return {file: data for file, data in content(out).items() if file != "manifest.json"}

    one = shards("one", num_workers=0)
    assert shards("two", num_workers=3) == one
    assert shards("three", seed=1) != one


def test_a_pack_reads_back_as_the_table_it_was_made_of(
    folder: Path, draw_tree: Callable[..., Path], tmp_path: Path
):
    flat = draw_tree(*(f"flat/{number}.png" for number in range(12)))
    cells = {
        "numbers as classes": ("label", [7 if n % 2 else 10 for n in range(12)], ""),
        "several labels": ("label", ["a|b" if n % 2 else "" if n == 4 else "c" for n in range(12)], ",label=label,delimiter=|"),
        "numbers": ("label", [0.1 * n for n in range(12)], ",label=label,kind=number"),
    }  # fmt: skip
    sources: dict[str, tuple[Path, str, Fixes]] = {
        "split folders": (folder, "auto", None),
        "fixes": (folder, "auto", [
            Fix(path="train/cross/0.jpg", action="relabel", label="disc"),
            Fix(path="train/disc/1.png", action="drop"),
        ]),
        "a split that is drawn": (folder / "train", "auto", None),
    }  # fmt: skip
    for name, (column, values, words) in cells.items():
        file = flat / f"{name}.csv"
        rows = [f"flat/{number}.png,{value}" for number, value in enumerate(values)]
        file.write_text("\n".join([f"image,{column}", *rows]))
        sources[name] = (flat, f"csv:{file}{words}", None)
    for name, (data, labels, fixes) in sources.items():
        source = resolve_data(data, labels=labels, fixes=fixes, seed=5)
        done = pack(data, tmp_path / name, labels=labels, fixes=fixes, seed=5, shard_mb=SHARD_MB)
        assert_same_table(resolve_data(done.folder, seed=0), source)
        again = pack(source, tmp_path / name, seed=5, shard_mb=SHARD_MB)
        assert again.num_kept == again.num_shards, "a table is the data that it was made of"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_a_pack(folder: Path, tmp_path: Path):
    webdataset = pytest.importorskip("webdataset")
    out = pack(folder, tmp_path / "out", shard_mb=SHARD_MB).folder
    urls = sorted(map(str, out.glob("train-*.tar")))
    loaded = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    gc.collect()  # it leaves files open
    table = resolve_data(folder, seed=0)
    assert sorted(sample["json"]["row"] for sample in loaded) == table.train_rows.tolist()
    for sample in loaded:
        row = sample["json"]["row"]
        assert sample["cls"] == int(table.targets[row])
        suffix = table.paths[row].suffix[1:]
        with Image.open(table.paths[row]) as image:
            assert np.array_equal(sample[suffix], np.asarray(image.convert("RGB")))


def test_large_images_are_made_smaller_once(draw_tree: Callable[..., Path], tmp_path: Path):
    names = [f"{label}/{number}.jpg" for label in ("cross", "disc") for number in range(2)]
    data = draw_tree(*names, size=(120, 90))
    small = data / "cross" / "small.jpg"
    Image.new("RGB", (40, 30), "red").save(small)
    deep = data / "cross" / "deep.png"
    Image.fromarray(np.full((90, 90), 4000, dtype=np.uint16)).save(deep)
    turned = data / "disc" / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (120, 90), "blue").save(turned, exif=exif)
    table = resolve_data(data, seed=0)
    kinds: dict[PackedFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
    for kind, suffix in kinds.items():
        found = members(pack(table, tmp_path / kind, size=45, image_format=kind).folder)
        for row, path in enumerate(table.paths):
            if path in (small, deep):
                assert found[f"{row:09}{path.suffix}"] == path.read_bytes()
                continue
            with Image.open(io.BytesIO(found[f"{row:09}{suffix}"])) as image:
                assert image.size == (45, 60)
                whole = decode_image(path).resize(image.size, Image.Resampling.BILINEAR)
                pixels = np.asarray(image.convert("RGB"), dtype=float)
                assert np.abs(pixels - np.asarray(whole)).mean() < 6


def test_a_killed_pack_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path):
    table = resolve_data(folder, seed=0)

    def die(done: int, *, last: int) -> None:  # nothing is cleaned up, as after SIGKILL
        if done >= last:
            os._exit(9)

    whole = content(pack(table, tmp_path / "whole", shard_mb=SHARD_MB).folder)
    out = tmp_path / "out"
    kept: list[int] = []
    for last in (1, 7, 16, 20):
        child = os.fork()
        if not child:
            pack(table, out, shard_mb=SHARD_MB, num_workers=2, on_progress=partial(die, last=last))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        there = {name: data for name, data in content(out).items() if name.endswith(".tar") and name[0] != "."}  # fmt: skip
        assert there.items() <= whole.items(), "a shard under its final name is whole"
        kept.append(len(there))
    assert kept == sorted(kept)
    assert kept[-1] > kept[0] == 0
    done = pack(table, out, shard_mb=SHARD_MB)
    assert done.num_kept == kept[-1]
    assert content(out) == whole


def test_a_shard_that_was_changed_is_written_again(folder: Path, tmp_path: Path):
    out = pack(folder, tmp_path / "out", shard_mb=SHARD_MB).folder
    whole, names = content(out), sorted(file.name for file in out.glob("train-*.tar"))
    data = bytearray(whole[names[1]])
    data[600] ^= 1
    (out / names[1]).write_bytes(data)
    (out / names[2]).unlink()
    with pytest.raises(DataError, match=names[2]):
        resolve_data(out, seed=0)
    assert pack(folder, out, shard_mb=SHARD_MB).num_kept == 1
    assert content(out) == whole


def test_a_folder_is_never_written_over(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"out"):
        pack(folder, out)
    (out / "mine.txt").unlink()
    pack(folder, out)
    before = content(out)
    (folder / "train" / "cross" / "0.jpg").touch()
    changes: list[dict[str, Any]] = [{}, {"size": 32}, {"seed": 1}]
    for options in changes:
        with pytest.raises(OutputError, match=r"out"):
            pack(folder, out, **options)
    assert content(out) == before
    faults: list[dict[str, Any]] = [
        {"size": 0},
        {"image_format": "gif"},
        {"shard_mb": 0},
        {"on_bad": "ask"},
    ]
    for wrong in faults:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            pack(folder, tmp_path / "other", **wrong)
    assert not (tmp_path / "other").exists()


def test_unreadable_images_are_named_and_counted(
    folder: Path, tmp_path: Path, vizsla: Callable[..., Done]
):
    bad = folder / "train" / "cross" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    out = tmp_path / "out"
    with pytest.raises(PictureError, match=r"1 of 20 [^\n]*\n[^\n]*train/cross/0\.jpg"):
        pack(folder, out)
    assert not (out / "manifest.json").exists()
    told = vizsla("pack", folder, out, "--on-bad", "skip")
    assert told.code == 0
    assert "train/cross/0.jpg" in told.out
    assert list(manifest(out)["unreadable"]) == ["train/cross/0.jpg"]
    table = resolve_data(out, seed=0)
    assert len(table.paths) == 19
    assert len(table.train_rows) == 11
