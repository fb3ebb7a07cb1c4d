"""Images in the rows of Hugging Face datasets and Parquet files: found with labels and splits, and read by a path alone."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vizsla import (
    ConfigError,
    DataError,
    ImageDataLoaders,
    MissingExtraError,
    TableError,
    get_image_files,
)
from vizsla.data import pack
from vizsla.data.images import decode_image
from vizsla.data.storage import facts_of, is_there, read_bytes
from vizsla.data.table import resolve_data
from vizsla.predict import walk_images

NAMES = ("zebra", "ant")  # not in the order of the alphabet


@pytest.fixture(scope="module")
def files(draw: Callable[..., Image.Image]) -> list[bytes]:
    """12 PNG files."""
    found: list[bytes] = []
    for number in range(12):
        buffer = io.BytesIO()
        draw("disc" if number % 2 else "cross", number=number, size=(24, 32)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@pytest.fixture
def library(here: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    """The library ``datasets``, without a network, its caches and the working directory in the folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("VIZSLA_HOME", str(here / "home"))
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


@pytest.fixture
def make(library: Any, files: list[bytes]) -> Callable[..., Any]:
    """Return a function that makes a dataset of some images with two classes and further columns."""

    def made(rows: range = range(12), **columns: Any) -> Any:
        features = library.Features(
            {
                "image": library.Image(),
                "caption": library.Value("string"),
                "label": library.ClassLabel(names=[*NAMES]),
            }
        )
        cells = {
            "image": [{"bytes": files[row], "path": f"{row}.png"} for row in rows],
            "caption": [f"image {row}" for row in rows],
            "label": [row % 2 for row in rows],
        }
        dataset = library.Dataset.from_dict(cells, features=features)
        for name, values in columns.items():
            dataset = dataset.add_column(name, values)
        return dataset

    return made


def test_datasets_in_every_form_are_the_same_table(
    here: Path, make: Callable[..., Any], library: Any, files: list[bytes]
):
    parts = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
    splits = library.DatasetDict({name: make(rows) for name, rows in parts.items()})
    splits.save_to_disk(here / "saved")
    for name, dataset in splits.items():
        (here / "owner" / "name" / "data").mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(here / "owner" / "name" / "data" / f"{name}-00000-of-00001.parquet")
    sources = {"hf:owner/name": "train/3", "saved": "train/3", "owner/name": "data/train-00000-of-00001.parquet/3"}  # fmt: skip
    for source, third in sources.items():
        table = resolve_data(source, seed=0)
        assert table.vocab == NAMES, source
        assert get_image_files(source) == [*map(Path, walk_images(Path(source)))] == [*table.paths]
        rows = [row for name in sorted(parts) for row in parts[name]]
        assert [read_bytes(path) for path in table.paths] == [files[row] for row in rows]
        assert table.targets.tolist() == [row % 2 for row in rows]
        assert [rows[row] for row in table.train_rows.tolist()] == [*parts["train"]]
        assert [rows[row] for row in table.valid_rows.tolist()] == [*parts["validation"]]
        assert table.shown_path(rows.index(3)) == third
        image = table.paths[rows.index(3)]
        assert decode_image(image).size == (32, 24)
        assert facts_of(image).num_bytes == len(files[3])
        assert is_there(image)
        assert not is_there(image.with_name("12"))
        packed = resolve_data(pack(table, here / f"packed {third[0]}{len(source)}").folder, seed=0)
        assert torch.equal(packed.targets, table.targets)
        assert torch.equal(packed.train_rows, table.train_rows)
        assert [read_bytes(path) for path in packed.paths] == [read_bytes(path) for path in table.paths]  # fmt: skip


def test_bytes_and_columns_of_any_parquet_file(here: Path, files: list[bytes]):
    pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "jpg": files,
        "mask": files[::-1],
        "kind": ["a", "b"] * 6,
        "tags": [["red"], ["red", "round"], []] * 4,
        "age": [0.5 * row for row in range(12)],
        "patient": [f"p{row // 3}" for row in range(12)],
    }
    file = here / "x.parquet"
    parquet.write_table(arrow.table(columns), file, row_group_size=5)
    with pytest.raises(TableError, match="kind"):
        resolve_data(file, seed=0)
    table = resolve_data(file, labels="hf:kind", group="patient", seed=0)
    assert table.vocab == ("a", "b")
    assert table.paths[7] == file / "7"
    assert {int(row) // 3 for row in table.train_rows}.isdisjoint({int(row) // 3 for row in table.valid_rows})  # fmt: skip
    several = resolve_data(file, labels="hf:tags", seed=0)
    assert (several.task, several.vocab) == ("multi_category", ("red", "round"))
    assert several.targets[4].tolist() == [1, 1]
    numbers = resolve_data(file, labels="hf:age,kind=number", seed=0)
    assert numbers.targets[:, 0].tolist() == columns["age"]
    masks = resolve_data(file, labels="hf:image=mask,label=kind", seed=0)
    assert [read_bytes(path) for path in masks.paths] == files[::-1]
    for labels, kind in (("hf:colour", TableError), ("hf:image=kind,label=age", TableError), ("folder", ConfigError)):  # fmt: skip
        with pytest.raises(kind, match=r"x\.parquet"):
            resolve_data(file, labels=labels, seed=0)
    parquet.write_table(arrow.table({**columns, "jpg": [b"text", None, *files[2:]]}), file)
    assert read_bytes(file / "0") == b"text", "a file that changes is read again"
    with pytest.raises(OSError, match="no image"):
        read_bytes(file / "1")


def test_parts_are_named_as_a_folder_or_by_a_pattern(here: Path, files: list[bytes]):
    pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = here / "photos.parquet"  # as Spark names it
    folder.mkdir()
    for number in range(3):
        some = files[number::3]
        cells = {"bytes": some, "breed": ["ab"[files.index(file) % 2] for file in some]}
        parquet.write_table(arrow.table(cells), folder / f"part-{number}.snappy.parquet")
    whole = resolve_data(folder, seed=0)
    assert whole.vocab == ("a", "b")
    assert [read_bytes(path) for path in whole.paths] == [*files[0::3], *files[1::3], *files[2::3]]
    for data in (folder / "*.parquet", folder / "part-{0..2}.snappy.parquet"):
        table = resolve_data(data, seed=0)
        assert [*map(table.shown_path, range(12))] == [*map(whole.shown_path, range(12))]
        assert table.valid_rows.tolist() == whole.valid_rows.tolist()
        assert get_image_files(data) == [*map(Path, walk_images(data))] == [*whole.paths]
    with pytest.raises(DataError, match=r"part-3\.snappy"):
        resolve_data(folder / "part-{0..3}.snappy.parquet", seed=0)
    with pytest.raises(DataError, match="from_folder"):
        ImageDataLoaders.from_folder(folder, valid_pct=0.2)


def test_what_cannot_be_read_is_said(
    here: Path, library: Any, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(DataError, match="owner/absent"):
        resolve_data("hf:owner/absent", seed=0)

    def gated(name: str, configuration: str | None) -> None:
        raise library.exceptions.DatasetNotFoundError(f"Dataset '{name}' is a gated dataset")

    with monkeypatch.context() as patch:
        patch.setattr(library, "load_dataset", gated)
        with pytest.raises(DataError, match=r"(?s)owner/gated.*HF_TOKEN"):
            resolve_data("hf:owner/gated", seed=0)
    (here / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="broken"):
        resolve_data("broken.parquet", seed=0)
    make().remove_columns("image").to_parquet(here / "plain.parquet")
    with pytest.raises(TableError, match="caption"):
        resolve_data("plain.parquet", seed=0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    make_other = here / "other.parquet"
    make_other.write_bytes((here / "plain.parquet").read_bytes())
    with pytest.raises(MissingExtraError, match="datasets"):
        resolve_data(make_other, seed=0)
