"""Each factory finds pictures, labels and split as its name says; all refuse misspelt arguments and unusable data."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from vizsla.augment.policy import aug_transforms
from vizsla.data.factories import ImageDataLoaders
from vizsla.data.presize import Resize
from vizsla.data.sources import get_image_files
from vizsla.data.splits import RandomSplitter
from vizsla.errors import ConfigError, DataError, LabelError, PictureError, TableError

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.data.dataloaders import DataLoaders

QUIET: dict[str, Any] = {"num_workers": 0, "device": "cpu", "item_tfms": Resize(24), "bs": 4}
FACTORIES = [name for name in vars(ImageDataLoaders) if name.startswith("from_")]


@pytest.fixture
def files(picture_folder: Path) -> list[Path]:
    return get_image_files(picture_folder)


@pytest.fixture
def frame(files: list[Path]) -> pd.DataFrame:
    names = [f"{file.parent.name}/{file.stem}" for file in files]
    kinds = [file.parent.name[0] for file in files]
    held_out = [number % 4 == 0 for number in range(24)]
    return pd.DataFrame({"name": names, "kind": kinds, "held_out": held_out, "other": "x"})


def valid_names(loaders: DataLoaders) -> list[str]:
    return [loaders.table.paths[row].name for row in loaders.valid.rows.tolist()]


def random_names(files: list[Path], seed: int, part: float = 0.2) -> list[str]:
    return [files[position].name for position in RandomSplitter(part, seed)(files)[1]]


def test_from_folder_uses_train_and_valid(make_picture, tmp_path: Path):
    for name in ("train/a/1.png", "train/b/deep/b/2.png", "valid/b/3.png", "other/c/4.png"):
        make_picture(name)
    loaders = ImageDataLoaders.from_folder(tmp_path, **QUIET)
    assert (loaders.vocab, loaders.path) == (("a", "b"), tmp_path)
    assert (loaders.train.n, valid_names(loaders)) == (2, ["3.png"])


def test_from_folder_takes_other_names_and_a_vocabulary(make_picture, tmp_path: Path):
    for name in ("learn/a/1.png", "learn/b/2.png", "check/b/3.png"):
        make_picture(name)
    loaders = ImageDataLoaders.from_folder(tmp_path, "learn", "check", vocab=["b", "a"], **QUIET)
    assert (loaders.vocab, valid_names(loaders)) == (("b", "a"), ["3.png"])


def test_from_folder_can_split_at_random(picture_folder: Path, files: list[Path]):
    loaders = ImageDataLoaders.from_folder(picture_folder, valid_pct=0.25, seed=3, **QUIET)
    assert valid_names(loaders) == random_names(files, 3, 0.25)


def test_from_folder_refuses_pictures_outside_class_folders(make_picture, tmp_path: Path):
    for name in ("train/a/1.png", "train/b/2.png", "valid/3.png"):
        make_picture(name)
    with pytest.raises(LabelError, match=r"1 of 3 pictures give no label:\n  '.*/valid/3\.png'"):
        ImageDataLoaders.from_folder(tmp_path, **QUIET)


def test_from_folder_names_the_folder_that_is_missing(picture_folder: Path):
    with pytest.raises(DataError, match=r"no folder '.*/train'"):
        ImageDataLoaders.from_folder(picture_folder)


def test_from_path_func_and_name_func_call_the_function(picture_folder: Path, files: list[Path]):
    by_path = ImageDataLoaders.from_path_func(
        picture_folder, files, lambda path: path.parent.name.upper(), seed=5, **QUIET
    )
    by_name = ImageDataLoaders.from_name_func(
        picture_folder, files, lambda name: name.split("_")[0], seed=5, **QUIET
    )
    assert (by_path.vocab, by_name.vocab) == (("CROSS", "DISC"), ("cross", "disc"))
    assert valid_names(by_path) == valid_names(by_name) == random_names(files, 5)


def test_from_path_re_and_name_re_search_path_and_name(picture_folder: Path, files: list[Path]):
    by_path = ImageDataLoaders.from_path_re(picture_folder, files, r"/([^/]+)_\d+.jpg$", **QUIET)
    by_name = ImageDataLoaders.from_name_re(picture_folder, files, r"^(.)", **QUIET)
    assert (by_path.vocab, by_name.vocab) == (("cross", "disc"), ("c", "d"))
    with pytest.raises(LabelError, match="None of 24 pictures gives a label"):
        ImageDataLoaders.from_name_re(picture_folder, files, r"/([^/]+)_\d+.jpg$")


def test_names_that_lie_below_the_path_are_found(picture_folder: Path, files: list[Path]):
    names = [file.relative_to(picture_folder).as_posix() for file in files]
    loaders = ImageDataLoaders.from_name_re(picture_folder, names, r"^(.)", seed=1, **QUIET)
    assert loaders.table.paths == tuple(files)


def test_from_lists_takes_labels_in_order(picture_folder: Path, files: list[Path]):
    labels = [len(file.parent.name) for file in files]
    loaders = ImageDataLoaders.from_lists(picture_folder, files, labels, seed=1, **QUIET)
    assert (loaders.vocab, loaders.table.label(0)) == (("4", "5"), "5")


def test_from_lists_refuses_what_does_not_fit(picture_folder: Path, files: list[Path]):
    with pytest.raises(ConfigError, match="Received: 24 fnames, 2 labels"):
        ImageDataLoaders.from_lists(picture_folder, files, ["a", "b"])
    with pytest.raises(ConfigError, match="fnames is empty"):
        ImageDataLoaders.from_lists(picture_folder, [], [])
    with pytest.raises(LabelError, match=r"24 pictures have a decimal number.*(?s:.*)regression"):
        ImageDataLoaders.from_lists(picture_folder, files, [0.5] * 24)
    with pytest.raises(LabelError, match=r"24 pictures have a list of labels(?s:.*)multi-label"):
        ImageDataLoaders.from_lists(picture_folder, files, [["a", "b"]] * 24)


def test_from_df_reads_columns_by_position_and_name(
    picture_folder: Path, frame: pd.DataFrame, files: list[Path]
):
    first = ImageDataLoaders.from_df(frame, picture_folder, suff=".jpg", seed=2, **QUIET)
    assert (first.vocab, valid_names(first)) == (("c", "d"), random_names(files, 2))
    second = ImageDataLoaders.from_df(
        frame.reindex(columns=["held_out", "kind", "name"]),
        picture_folder.parent,
        folder=picture_folder.name,
        suff=".jpg",
        fn_col="name",
        label_col="kind",
        valid_col="held_out",
        **QUIET,
    )
    assert second.table.paths == first.table.paths
    assert second.valid.rows.tolist() == [0, 4, 8, 12, 16, 20]


def test_from_df_tells_all_faults_with_their_rows(picture_folder: Path, frame: pd.DataFrame):
    frame.loc[3, "kind"] = None
    frame.loc[5, "name"] = "gone"
    frame.loc[7, "name"] = frame.loc[8, "name"]
    frame.loc[9, "name"] = None
    with pytest.raises(DataError) as caught:
        ImageDataLoaders.from_df(frame, picture_folder, suff=".jpg", seed=0)
    message = str(caught.value)
    assert "The data has 4 problems." in message
    for part in ("row 3 (", "row 5 (", "(row 7, row 8)", "row 9: (None,", "its first row is row 0"):
        assert part in message


def test_from_df_names_a_missing_column(picture_folder: Path, frame: pd.DataFrame):
    with pytest.raises(TableError, match="no column 'breed' in the DataFrame"):
        ImageDataLoaders.from_df(frame, picture_folder, label_col="breed")


def test_from_csv_reads_the_file_in_the_folder(picture_folder: Path, frame: pd.DataFrame):
    frame.to_csv(picture_folder / "labels.csv", index=False)
    loaders = ImageDataLoaders.from_csv(picture_folder, suff=".jpg", valid_col="held_out", **QUIET)
    assert (loaders.vocab, loaders.valid.rows.tolist()) == (("c", "d"), [0, 4, 8, 12, 16, 20])


def test_from_csv_follows_delimiter_and_header(picture_folder: Path, frame: pd.DataFrame):
    frame.to_csv(picture_folder / "l.txt", index=False, sep=";", header=False)
    loaders = ImageDataLoaders.from_csv(
        picture_folder, "l.txt", header=None, delimiter=";", suff=".jpg", seed=0, **QUIET
    )
    assert (loaders.vocab, len(loaders.table.paths)) == (("c", "d"), 24)


def test_from_csv_names_missing_files_by_their_row(picture_folder: Path, frame: pd.DataFrame):
    frame.loc[0, "name"] = "gone"
    frame.to_csv(picture_folder / "labels.csv", index=False)
    with pytest.raises(PictureError, match=r"row 2 \('.*/gone\.jpg'\)"):
        ImageDataLoaders.from_csv(picture_folder, suff=".jpg", seed=0)


@pytest.mark.parametrize("name", ["label_delim", "y_block"])
def test_several_labels_and_numbers_are_refused_for_now(
    picture_folder: Path, frame: pd.DataFrame, name: str
):
    with pytest.raises(ConfigError, match=f"{name} is not supported so far.*multi-label"):
        ImageDataLoaders.from_df(frame, picture_folder, **{name: ","})  # pyright: ignore[reportArgumentType]


def test_loaders_have_the_sizes_that_were_asked_for(picture_folder: Path, files: list[Path]):
    loaders = ImageDataLoaders.from_name_re(
        picture_folder, files, "^(.)", seed=1, batch_tfms=aug_transforms(size=16), val_bs=2, **QUIET
    )
    assert (loaders.train.bs, loaders.valid.bs) == (4, 2)
    assert [tuple(images.shape) for images, _ in loaders.valid] == [(2, 3, 16, 16)] * 2


@pytest.mark.parametrize("name", FACTORIES)
def test_a_misspelt_argument_is_a_type_error(name: str):
    with pytest.raises(TypeError, match="vaild_pct"):
        getattr(ImageDataLoaders, name)(vaild_pct=0.2)


@pytest.mark.parametrize("name", FACTORIES)
def test_all_factories_share_the_arguments_of_the_loaders(name: str):
    parameters = inspect.signature(getattr(ImageDataLoaders, name)).parameters
    assert list(parameters)[-7:-5] == ["item_tfms", "batch_tfms"]
    assert list(parameters)[-5:] == ["bs", "val_bs", "shuffle", "device", "num_workers"]
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())


def test_there_are_as_many_factories_as_announced():
    assert FACTORIES == [
        "from_folder",
        "from_path_func",
        "from_name_func",
        "from_path_re",
        "from_name_re",
        "from_lists",
        "from_df",
        "from_csv",
    ]
