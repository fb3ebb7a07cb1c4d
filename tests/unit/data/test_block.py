"""DataBlock resolves any source afresh into a plain table, checks it first, and refuses what it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

from vizsla.augment.presets import aug_transforms
from vizsla.data.images.sizing import Resize
from vizsla.data.table.block import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from vizsla.data.table.labels import ColReader, RegexLabeller, parent_label, using_attr
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import ColSplitter, GrandparentSplitter, IndexSplitter, RandomSplitter
from vizsla.errors import ConfigError, DataError, LabelError, PictureError

if TYPE_CHECKING:
    from pathlib import Path


def folder_block(**arguments: object) -> DataBlock:
    defaults: dict[str, object] = {
        "get_items": get_image_files,
        "splitter": RandomSplitter(seed=42),
        "get_y": parent_label,
    }
    return DataBlock(**{**defaults, **arguments})  # pyright: ignore[reportArgumentType]


def test_the_notebook_block_gives_loaders(picture_folder: Path):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
        item_tfms=Resize(46),
        batch_tfms=aug_transforms(size=32, min_scale=0.75),
    )
    loaders = block.dataloaders(picture_folder, bs=4, num_workers=0, device="cpu")
    images, targets = loaders.one_batch()
    assert loaders.vocab == ("cross", "disc")
    assert (loaders.train.n, loaders.valid.n) == (20, 4)
    assert (images.shape, targets.shape) == ((4, 3, 32, 32), (4,))
    assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_the_table_has_the_splitters_order_over_sorted_files(picture_folder: Path):
    table = folder_block().resolve(picture_folder)
    files = get_image_files(picture_folder)
    train, valid = RandomSplitter(seed=42)(files)
    assert list(table.paths) == files
    assert (table.train_rows.tolist(), table.valid_rows.tolist()) == (train, valid)
    assert table.root == picture_folder
    assert [table.label(row) for row in range(24)] == [file.parent.name for file in files]


def test_a_block_is_resolved_anew_for_each_source(make_picture, tmp_path: Path):
    for name in (
        "first/a/1.png",
        "first/a/2.png",
        "first/b/3.png",
        "second/c/4.png",
        "second/d/5.png",
    ):
        make_picture(name)
    make_picture("second/c/6.png")
    block = folder_block(splitter=IndexSplitter([0]))
    assert block.resolve(tmp_path / "first").vocab == ("a", "b")
    assert block.resolve(tmp_path / "second").vocab == ("c", "d")
    assert block.resolve(tmp_path / "first").vocab == ("a", "b")


def test_blocks_may_be_instances_and_keep_a_given_vocabulary(picture_folder: Path):
    blocks = (ImageBlock(), CategoryBlock(vocab=["disc", "cross"]))
    assert folder_block(blocks=blocks).resolve(picture_folder).vocab == ("disc", "cross")


def test_items_in_neither_set_take_no_part(make_picture, tmp_path: Path):
    for name in ("train/a/1.png", "train/b/2.png", "valid/b/3.png", "test/4.png"):
        make_picture(name)
    table = folder_block(splitter=GrandparentSplitter()).resolve(tmp_path)
    assert [table.shown_path(row) for row in range(len(table.paths))] == [
        "train/a/1.png",
        "train/b/2.png",
        "valid/b/3.png",
    ]


def test_a_frame_is_a_source(picture_folder: Path):
    names = [f"{label}/{label}_{n}" for label in ("cross", "disc") for n in range(3)]
    frame = pd.DataFrame({"name": names, "kind": ["x", "x", "x", "o", "o", "o"], "n": range(6)})
    frame["is_valid"] = [False, False, True, False, True, False]
    frame.index = pd.Index([10, 11, 12, 13, 14, 15])
    block = DataBlock(
        get_x=ColReader("name", pref=picture_folder, suff=".jpg"),
        get_y=ColReader("kind"),
        splitter=ColSplitter(),
    )
    table = block.resolve(frame, path=picture_folder)
    assert table.vocab == ("o", "x")
    assert table.targets.tolist() == [1, 1, 1, 0, 0, 0]
    assert table.valid_rows.tolist() == [2, 4]
    assert table.shown_path(5) == "disc/disc_2.jpg"


def test_functions_and_column_readers_may_be_mixed_over_a_frame(picture_folder: Path):
    names = [f"{label}/{label}_{n}.jpg" for label in ("cross", "disc") for n in range(3)]
    frame = pd.DataFrame({"name": names, "kind": ["x", "x", "x", "o", "o", "o"]})

    def path_of(row: Any) -> Path:
        return picture_folder / row["name"]

    def kind_of(row: Any) -> str:
        return row["kind"]

    tables = [
        DataBlock(get_x=get_x, get_y=get_y, splitter=RandomSplitter(seed=3)).resolve(frame)
        for get_x in (path_of, ColReader("name", pref=picture_folder))
        for get_y in (kind_of, ColReader("kind"))
    ]
    assert {table.paths for table in tables} == {tuple(picture_folder / name for name in names)}
    assert [table.targets.tolist() for table in tables] == [[1, 1, 1, 0, 0, 0]] * 4
    with pytest.raises(ConfigError, match="Give a get_x"):
        DataBlock(get_y=kind_of, splitter=RandomSplitter(seed=3)).resolve(frame)


def two_labels(path: Path) -> list[str]:
    return [path.parent.name, f"{path.stem[-1]}!"] if path.stem[-1] in "13" else []


def test_functions_may_return_lists_of_classes(picture_folder: Path):
    table = folder_block(blocks=(ImageBlock, MultiCategoryBlock), get_y=two_labels).resolve(
        picture_folder
    )
    assert (table.task, table.vocab) == ("multi_category", ("1!", "3!", "cross", "disc"))
    for row, path in enumerate(table.paths):
        assert table.label(row) == ";".join(sorted(two_labels(path)))


def test_a_vocabulary_for_several_labels_keeps_its_order_and_knows_all(picture_folder: Path):
    def resolve(**arguments: Any) -> Any:
        blocks = (ImageBlock, MultiCategoryBlock(**arguments))
        return folder_block(blocks=blocks, get_y=two_labels).resolve(picture_folder)

    vocab = ["disc", "3!", "none", "cross", "1!"]
    assert resolve(vocab=vocab).vocab == tuple(vocab)
    with pytest.raises(LabelError, match=r"2 classes are in training but not in vocab:\n  '1!'"):
        resolve(vocab=["disc", "cross"])
    table = resolve(vocab=["disc", "cross"], add_na=True)
    assert table.vocab == ("#na#", "disc", "cross")
    assert {table.label(row) for row in range(24)} == {"", "#na#;cross", "#na#;disc"}


def test_classes_that_only_validation_has_are_told_all_at_once(picture_folder: Path):
    names = {"cross_1.jpg": ["a", "犬"], "cross_10.jpg": ["a", "b"], "disc_0.jpg": ["b", "é"]}
    block = folder_block(
        blocks=(ImageBlock, MultiCategoryBlock),
        get_y=lambda path: names.get(path.name, ["a"]),
        splitter=IndexSplitter([1, 2, 12]),
    )
    message = (
        r"3 classes are in validation but not in training:\n  'b': 2 images(?s:.*)'é'(?s:.*)'犬'"
    )
    with pytest.raises(LabelError, match=message):
        block.resolve(picture_folder)


def test_pictures_without_any_class_cannot_be_learnt_from(picture_folder: Path):
    blocks = (ImageBlock, MultiCategoryBlock)
    with pytest.raises(LabelError, match="None of the 20 training images has a class"):
        folder_block(blocks=blocks, get_y=lambda _: []).resolve(picture_folder)
    with pytest.raises(ConfigError, match=r"encoded=True\) needs vocab"):
        folder_block(
            blocks=(ImageBlock, MultiCategoryBlock(encoded=True)), get_y=lambda _: [1]
        ).resolve(picture_folder)


def test_functions_may_return_numbers(picture_folder: Path):
    def size(path: Path) -> float:
        return -float(path.stem.split("_")[1])

    blocks = (ImageBlock, RegressionBlock)
    table = folder_block(blocks=blocks, get_y=size).resolve(picture_folder)
    assert (table.task, table.vocab) == ("regression", ("value",))
    assert table.targets[:, 0].tolist() == [size(path) for path in table.paths]
    pairs = folder_block(blocks=blocks, get_y=lambda path: torch.tensor([size(path), 2.0])).resolve(
        picture_folder
    )
    assert pairs.targets.tolist() == [[size(path), 2.0] for path in pairs.paths]
    with pytest.raises(
        LabelError, match=r"None of 24 images gives(?s:.*)1 numbers .* instead of 3"
    ):
        folder_block(blocks=(ImageBlock, RegressionBlock(3)), get_y=size).resolve(picture_folder)


def test_all_that_is_wrong_with_numbers_is_told_at_once(picture_folder: Path):
    odd: dict[str, Any] = {"cross_1.jpg": None, "cross_2.jpg": "old", "disc_3.jpg": [1.0, 2.0]}
    block = folder_block(
        blocks=(ImageBlock, RegressionBlock), get_y=lambda path: odd.get(path.name, 1)
    )
    with pytest.raises(LabelError, match="3 of 24 images give no label") as caught:
        block.resolve(picture_folder)
    for part in ("cross_1.jpg': the label is None", "'old' is no number", "it has 2 numbers"):
        assert part in str(caught.value)


def test_a_column_reader_names_numbers_and_zeros_and_ones(picture_folder: Path):
    frame = pd.DataFrame({"name": [f"cross/cross_{n}.jpg" for n in range(6)], "age": range(6)})
    frame["sun"], frame["tags"] = [0, 1] * 3, ["a b", None, "b", "", "a", "a"]

    def table(block: object, get_y: ColReader) -> Any:
        return DataBlock(
            blocks=(ImageBlock, block),  # pyright: ignore[reportArgumentType]
            get_x=ColReader("name", pref=picture_folder),
            get_y=get_y,
            splitter=IndexSplitter([0]),
        ).resolve(frame)

    assert table(RegressionBlock, ColReader("age")).vocab == ("age",)
    both = table(RegressionBlock, ColReader([1, "sun"]))
    assert (both.vocab, both.targets[5].tolist()) == (("age", "sun"), [5.0, 1.0])
    encoded = table(MultiCategoryBlock(encoded=True), ColReader(["sun"]))
    assert (encoded.vocab, encoded.targets[:, 0].tolist()) == (("sun",), [0, 1] * 3)
    several = table(MultiCategoryBlock, ColReader("tags", label_delim=" "))
    assert [several.label(row) for row in range(6)] == ["a;b", "", "b", "", "a", "a"]


def test_getters_can_be_given_together(picture_folder: Path):
    items = [(file, file.parent.name) for file in get_image_files(picture_folder)]
    block = DataBlock(
        getters=[lambda item: item[0], lambda item: item[1]], splitter=RandomSplitter(seed=1)
    )
    assert block.resolve(items).vocab == ("cross", "disc")


def test_labels_that_cannot_be_taken_are_told_before_any_loading(picture_folder: Path):
    block = folder_block(get_y=using_attr(RegexLabeller(r"(disc)_\d+"), "name"))
    with pytest.raises(LabelError, match=r"12 of 24 images give no label:(?s:.*)and 7 more"):
        block.dataloaders(picture_folder)


def test_missing_files_of_a_list_are_named_by_their_place(picture_folder: Path):
    items = [*get_image_files(picture_folder), picture_folder / "disc" / "gone.jpg"]
    with pytest.raises(PictureError, match=r"item 24 \('.*/disc/gone\.jpg'\)"):
        DataBlock(get_y=parent_label, splitter=RandomSplitter(seed=0)).resolve(items)


def test_a_misspelt_argument_is_a_type_error(picture_folder: Path):
    with pytest.raises(TypeError, match="get_itmes"):
        DataBlock(get_itmes=get_image_files)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="batch_size"):
        folder_block().dataloaders(picture_folder, batch_size=4)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": (ImageBlock,)}, r"Received: \(ImageBlock\)"),
        ({"blocks": (CategoryBlock, ImageBlock)}, r"Received: \(CategoryBlock, ImageBlock\)"),
        (
            {"blocks": (ImageBlock, ImageBlock())},
            r"MultiCategoryBlock.*Received: \(ImageBlock, ImageBlock\(\)\)",
        ),
        ({"dl_type": 3}, "dl_type is not supported"),
        ({"n_inp": 2}, "Received: 2"),
        ({"getters": [parent_label]}, "getters needs 2 functions.* Received: 1"),
        ({"getters": [str, str], "get_y": str}, "Give either getters"),
        ({"get_x": [str, str]}, "get_x needs 1 function.* Received: 2"),
        ({"item_tfms": 460}, "one Resize"),
        ({"item_tfms": [Resize(10), Resize(20)]}, "one Resize"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        DataBlock(**arguments)


def test_a_missing_part_is_named_with_a_cure(picture_folder: Path):
    with pytest.raises(ConfigError, match="Add get_items=get_image_files"):
        DataBlock(get_y=parent_label).resolve(picture_folder)
    with pytest.raises(ConfigError, match="Add for example get_y=parent_label"):
        DataBlock(get_items=get_image_files).resolve(picture_folder)
    with pytest.raises(DataError, match="gives no items"):
        DataBlock(get_y=parent_label).resolve([])
    with pytest.raises(ConfigError, match=r"by its path. Received: tuple \(1, 2\)"):
        DataBlock(get_y=str, splitter=IndexSplitter([0])).resolve([(1, 2), (3, 4)])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (([0, 1], [1, 2]), "1 items into training and into validation, the first at position 1"),
        (([0], [24]), "position 24; there are 24 items"),
        (([0], [1], [2]), "Received: 3 lists"),
    ],
)
def test_an_impossible_split_is_refused(picture_folder: Path, split: object, message: str):
    with pytest.raises(ConfigError, match=message):
        folder_block(splitter=lambda _: split).resolve(picture_folder)


def test_the_order_of_training_cannot_be_switched_off(picture_folder: Path):
    with pytest.raises(ConfigError, match="always shuffled"):
        folder_block().dataloaders(picture_folder, shuffle=False)


def test_new_changes_the_transforms_of_a_copy():
    block = folder_block(item_tfms=Resize(46))
    other = block.new(batch_tfms=aug_transforms(size=32))
    assert (other.item_tfms, block.batch_tfms) == (Resize(46), None)
    assert block.new(item_tfms=Resize(20)).item_tfms == Resize(20)
