"""DataBlock and ImageDataLoaders turn any source into a plain checked table, and refuse what they cannot do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from vizsla import (
    CategoryBlock,
    ColReader,
    ConfigError,
    DataBlock,
    DataError,
    DataLoaders,
    GrandparentSplitter,
    ImageBlock,
    ImageDataLoaders,
    IndexSplitter,
    LabelError,
    MultiCategoryBlock,
    PictureError,
    RandomSplitter,
    RegexLabeller,
    RegressionBlock,
    Resize,
    TableError,
    aug_transforms,
    get_image_files,
    parent_label,
    using_attr,
)
from vizsla.types import ImageTable


def folder_block(**arguments: object) -> DataBlock:
    defaults: dict[str, object] = {
        "get_items": get_image_files,
        "splitter": RandomSplitter(seed=42),
        "get_y": parent_label,
    }
    return DataBlock(**{**defaults, **arguments})  # pyright: ignore[reportArgumentType]


def test_the_notebook_block_gives_loaders(image_folder: Path):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
        item_tfms=Resize(46),
        batch_tfms=aug_transforms(size=32, min_scale=0.75),
    )
    loaders = block.dataloaders(image_folder, bs=4, num_workers=0, device="cpu")
    images, targets = loaders.one_batch()
    assert loaders.vocab == ("cross", "disc")
    assert (loaders.train.n, loaders.valid.n) == (20, 4)
    assert (images.shape, targets.shape) == ((4, 3, 32, 32), (4,))
    assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_the_table_has_the_splitters_order_over_sorted_files(image_folder: Path):
    table = folder_block().resolve(image_folder)
    files = get_image_files(image_folder)
    train, valid = RandomSplitter(seed=42)(files)
    assert list(table.paths) == files
    assert (table.train_rows.tolist(), table.valid_rows.tolist()) == (train, valid)
    assert table.root == image_folder
    assert [table.label(row) for row in range(24)] == [file.parent.name for file in files]
    blocks = (ImageBlock(), CategoryBlock(vocab=["disc", "cross"]))
    assert folder_block(blocks=blocks).resolve(image_folder).vocab == ("disc", "cross")


def test_a_block_is_resolved_again_for_each_source(make_image, tmp_path: Path):
    for name in ("first/a/1", "first/a/2", "first/b/3", "second/c/4", "second/d/5", "second/c/6"):
        make_image(f"{name}.png")
    block = folder_block(splitter=IndexSplitter([0]))
    for folder, vocab in (("first", "ab"), ("second", "cd"), ("first", "ab")):
        assert block.resolve(tmp_path / folder).vocab == tuple(vocab)


def test_items_in_neither_set_take_no_part(make_image, tmp_path: Path):
    for name in ("train/a/1.png", "train/b/2.png", "valid/b/3.png", "test/4.png"):
        make_image(name)
    table = folder_block(splitter=GrandparentSplitter()).resolve(tmp_path)
    shown = [table.shown_path(row) for row in range(len(table.paths))]
    assert shown == ["train/a/1.png", "train/b/2.png", "valid/b/3.png"]


def test_functions_and_column_readers_may_be_mixed_over_a_frame(image_folder: Path):
    names = [f"{label}/{label}_{n}.jpg" for label in ("cross", "disc") for n in range(3)]
    frame = pd.DataFrame({"name": names, "kind": ["x", "x", "x", "o", "o", "o"]})
    frame.index = pd.Index(range(10, 16))  # Only the order of the rows counts.

    def path_of(row: Any) -> Path:
        return image_folder / row["name"]

    def kind_of(row: Any) -> str:
        return row["kind"]

    tables = [
        DataBlock(get_x=get_x, get_y=get_y, splitter=RandomSplitter(seed=3)).resolve(frame)
        for get_x in (path_of, ColReader("name", pref=image_folder))
        for get_y in (kind_of, ColReader("kind"))
    ]
    assert {table.paths for table in tables} == {tuple(image_folder / name for name in names)}
    assert {table.vocab for table in tables} == {("o", "x")}
    assert [table.targets.tolist() for table in tables] == [[1, 1, 1, 0, 0, 0]] * 4
    with pytest.raises(ConfigError, match="get_x"):
        DataBlock(get_y=kind_of, splitter=RandomSplitter(seed=3)).resolve(frame)


def two_labels(path: Path) -> list[str]:
    return [path.parent.name, f"{path.stem[-1]}!"] if path.stem[-1] in "13" else []


def resolve(folder: Path, block: Any, get_y: Any, **arguments: Any) -> ImageTable:
    return folder_block(blocks=(ImageBlock, block), get_y=get_y, **arguments).resolve(folder)


def test_functions_may_return_lists_of_classes(image_folder: Path):
    table = resolve(image_folder, MultiCategoryBlock, two_labels)
    assert (table.task, table.vocab) == ("multi_category", ("1!", "3!", "cross", "disc"))
    for row, path in enumerate(table.paths):
        assert table.label(row) == ";".join(sorted(two_labels(path)))
    vocab = ["disc", "3!", "none", "cross", "1!"]
    table = resolve(image_folder, MultiCategoryBlock(vocab=vocab), two_labels)
    assert table.vocab == tuple(vocab)
    with pytest.raises(LabelError, match=r"2 classes .* not in vocab:\n  '1!'"):
        resolve(image_folder, MultiCategoryBlock(vocab=["disc", "cross"]), two_labels)
    block = MultiCategoryBlock(vocab=["disc", "cross"], add_na=True)
    table = resolve(image_folder, block, two_labels)
    assert table.vocab == ("#na#", "disc", "cross")
    assert {table.label(row) for row in range(24)} == {"", "#na#;cross", "#na#;disc"}


def test_classes_that_only_validation_has_are_all_reported(image_folder: Path):
    names = {"cross_1.jpg": ["a", "犬"], "cross_10.jpg": ["a", "b"], "disc_0.jpg": ["b", "é"]}
    with pytest.raises(LabelError, match=r"3 classes .*:\n  'b': 2 images(?s:.*)'é'(?s:.*)'犬'"):
        resolve(
            image_folder,
            MultiCategoryBlock,
            lambda path: names.get(path.name, ["a"]),
            splitter=IndexSplitter([1, 2, 12]),
        )


def test_images_without_any_class_cannot_be_learnt_from(image_folder: Path):
    for block, label, error, words in [
        (MultiCategoryBlock, [], LabelError, "None of the 20 training images"),
        (MultiCategoryBlock(encoded=True), [1], ConfigError, r"encoded=True\) needs vocab"),
    ]:
        with pytest.raises(error, match=words):
            resolve(image_folder, block, lambda _, label=label: label)


def test_functions_may_return_numbers(image_folder: Path):
    def size(path: Path) -> float:
        return -float(path.stem.split("_")[1])

    table = resolve(image_folder, RegressionBlock, size)
    assert (table.task, table.vocab) == ("regression", ("value",))
    assert table.targets[:, 0].tolist() == [size(path) for path in table.paths]
    pairs = resolve(image_folder, RegressionBlock, lambda path: torch.tensor([size(path), 2.0]))
    assert pairs.targets.tolist() == [[size(path), 2.0] for path in pairs.paths]
    with pytest.raises(LabelError, match=r"None of 24(?s:.*)1 numbers .* instead of 3"):
        resolve(image_folder, RegressionBlock(3), size)


def test_all_wrong_numbers_are_reported_at_once(image_folder: Path):
    odd: dict[str, Any] = {"cross_1.jpg": None, "cross_2.jpg": "old", "disc_3.jpg": [1.0, 2.0]}
    with pytest.raises(LabelError, match="3 of 24") as caught:
        resolve(image_folder, RegressionBlock, lambda path: odd.get(path.name, 1))
    for part in ("cross_1.jpg': None", "'old'", "it has 2 numbers"):
        assert part in str(caught.value)


def test_a_column_reader_names_numbers_and_zeros_and_ones(image_folder: Path):
    frame = pd.DataFrame({"name": [f"cross/cross_{n}.jpg" for n in range(6)], "age": range(6)})
    frame["sun"], frame["tags"] = [0, 1] * 3, ["a b", None, "b", "", "a", "a"]

    def table(block: object, get_y: ColReader) -> Any:
        return DataBlock(
            blocks=(ImageBlock, block),  # pyright: ignore[reportArgumentType]
            get_x=ColReader("name", pref=image_folder),
            get_y=get_y,
            splitter=IndexSplitter([0]),
        ).resolve(frame)

    assert table(RegressionBlock, ColReader("age")).vocab == ("age",)
    both = table(RegressionBlock, ColReader([1, "sun"]))
    assert (both.vocab, both.targets[5].tolist()) == (("age", "sun"), [5.0, 1.0])
    encoded = table(MultiCategoryBlock(encoded=True), ColReader(["sun"]))
    assert (encoded.vocab, encoded.targets[:, 0].tolist()) == (("sun",), [0, 1] * 3)
    of_row: Any = lambda row: [row["sun"].astype(str)]  # noqa: E731 (as cells write it)
    assert table(MultiCategoryBlock, of_row).vocab == ("0", "1")
    several = table(MultiCategoryBlock, ColReader("tags", label_delim=" "))
    assert [several.label(row) for row in range(6)] == ["a;b", "", "b", "", "a", "a"]


def test_getters_can_be_given_together(image_folder: Path):
    items = [(file, file.parent.name) for file in get_image_files(image_folder)]
    block = DataBlock(
        getters=[lambda item: item[0], lambda item: item[1]], splitter=RandomSplitter(seed=1)
    )
    assert block.resolve(items).vocab == ("cross", "disc")


def test_missing_labels_are_reported_before_any_loading(image_folder: Path):
    block = folder_block(get_y=using_attr(RegexLabeller(r"(disc)_\d+"), "name"))
    with pytest.raises(LabelError, match=r"12 of 24(?s:.*)and 7 more"):
        block.dataloaders(image_folder)


def test_missing_files_of_a_list_are_named_by_position(image_folder: Path):
    items = [*get_image_files(image_folder), image_folder / "disc" / "gone.jpg"]
    with pytest.raises(PictureError, match=r"item 24 \('.*/disc/gone\.jpg'\)"):
        DataBlock(get_y=parent_label, splitter=RandomSplitter(seed=0)).resolve(items)


def test_impossible_arguments_are_refused():
    cases: list[Any] = [
        ({"blocks": (ImageBlock,)}, r"Received: \(ImageBlock\)"),
        ({"blocks": (CategoryBlock, ImageBlock)}, r"Received: \(CategoryBlock, ImageBlock\)"),
        ({"blocks": (ImageBlock, ImageBlock())}, r"Received: \(ImageBlock, ImageBlock\(\)\)"),
        ({"dl_type": 3}, "dl_type.* 3"),
        ({"n_inp": 2}, "n_inp.* 2"),
        ({"getters": [parent_label]}, "getters.* 1"),
        ({"getters": [str, str], "get_y": str}, "getters.*get_y"),
        ({"get_x": [str, str]}, "get_x.* 2"),
        ({"item_tfms": 460}, "Resize"),
        ({"item_tfms": [Resize(10), str, Resize(20)]}, "Resize"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            DataBlock(**arguments)
    with pytest.raises(TypeError, match="get_itmes"):
        DataBlock(get_itmes=get_image_files)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="batch_size"):
        folder_block().dataloaders("x", batch_size=4)  # pyright: ignore[reportCallIssue]


def test_a_missing_or_impossible_part_is_named(image_folder: Path):
    cases: list[tuple[dict[str, Any], Any, type[Exception], str]] = [
        ({"get_items": None}, image_folder, ConfigError, "Add get_items=get_image_files"),
        ({"get_y": None}, image_folder, ConfigError, "get_y=parent_label"),
        ({"get_items": None}, [], DataError, "no items"),
        ({"get_items": None, "splitter": IndexSplitter([0])}, [(1, 2), (3, 4)], ConfigError, r"path.*tuple \(1, 2\)"),
        ({"splitter": lambda _: ([0, 1], [1, 2])}, image_folder, ConfigError, "1 items .* position 1"),
        ({"splitter": lambda _: ([0], [24])}, image_folder, ConfigError, "position 24.* 24 items"),
        ({"splitter": lambda _: ([0], [1], [2])}, image_folder, ConfigError, "3 lists"),
    ]  # fmt: skip
    for arguments, source, error, words in cases:
        block = folder_block(**{"get_y": str, **arguments})
        with pytest.raises(error, match=words):
            block.resolve(source)
    with pytest.raises(ConfigError, match="shuffle=False"):
        folder_block().dataloaders(image_folder, shuffle=False)


def test_new_changes_the_transforms_of_a_copy():
    block = folder_block(item_tfms=Resize(46))
    other = block.new(batch_tfms=aug_transforms(size=32))
    assert (other.item_tfms, block.batch_tfms) == (Resize(46), None)
    assert block.new(item_tfms=Resize(20)).item_tfms == Resize(20)


QUIET: dict[str, Any] = {"num_workers": 0, "device": "cpu", "item_tfms": Resize(24), "bs": 4}
FACTORIES = [name for name in vars(ImageDataLoaders) if name.startswith("from_")]


@pytest.fixture
def files(image_folder: Path) -> list[Path]:
    return get_image_files(image_folder)


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


def test_from_folder_uses_train_and_valid(make_image, tmp_path: Path):
    for name in ("train/a/1.png", "train/b/deep/b/2.png", "valid/b/3.png", "other/c/4.png"):
        make_image(name)
    loaders = ImageDataLoaders.from_folder(tmp_path, **QUIET)
    assert (loaders.vocab, loaders.path) == (("a", "b"), tmp_path)
    assert (loaders.train.n, valid_names(loaders)) == (2, ["3.png"])


def test_from_folder_takes_other_names_and_a_vocabulary(make_image, tmp_path: Path):
    for name in ("learn/a/1.png", "learn/b/2.png", "check/b/3.png"):
        make_image(name)
    loaders = ImageDataLoaders.from_folder(tmp_path, "learn", "check", vocab=["b", "a"], **QUIET)
    assert (loaders.vocab, valid_names(loaders)) == (("b", "a"), ["3.png"])
    with pytest.raises(DataError, match=r"'.*/train'"):
        ImageDataLoaders.from_folder(tmp_path)
    make_image("check/4.png")
    with pytest.raises(LabelError, match=r"1 of 4 .*:\n  '.*/check/4\.png'"):
        ImageDataLoaders.from_folder(tmp_path, "learn", "check")


def test_from_folder_can_split_at_random(image_folder: Path, files: list[Path]):
    loaders = ImageDataLoaders.from_folder(image_folder, valid_pct=0.25, seed=3, **QUIET)
    assert valid_names(loaders) == random_names(files, 3, 0.25)


def test_from_path_func_and_name_func_call_the_function(image_folder: Path, files: list[Path]):
    by_path = ImageDataLoaders.from_path_func(
        image_folder, files, lambda path: path.parent.name.upper(), seed=5, **QUIET
    )
    by_name = ImageDataLoaders.from_name_func(
        image_folder, files, lambda name: name.split("_")[0], seed=5, **QUIET
    )
    assert (by_path.vocab, by_name.vocab) == (("CROSS", "DISC"), ("cross", "disc"))
    assert valid_names(by_path) == valid_names(by_name) == random_names(files, 5)


def test_from_path_re_and_name_re_search_path_and_name(image_folder: Path, files: list[Path]):
    by_path = ImageDataLoaders.from_path_re(image_folder, files, r"/([^/]+)_\d+.jpg$", **QUIET)
    # Names are relative to the path.
    names = [file.relative_to(image_folder).as_posix() for file in files]
    by_name = ImageDataLoaders.from_name_re(image_folder, names, r"^(.)", **QUIET)
    assert (by_path.vocab, by_name.vocab) == (("cross", "disc"), ("c", "d"))
    assert by_name.table.paths == tuple(files)
    with pytest.raises(LabelError, match=r"None of 24(?s:.*)from the file name by"):
        ImageDataLoaders.from_name_re(image_folder, files, r"/([^/]+)_\d+.jpg$")


def test_from_lists_refuses_what_does_not_fit(image_folder: Path, files: list[Path]):
    cases: list[tuple[list[Path], list[Any], Any, type[Exception], str]] = [
        (files, ["a", "b"], None, ConfigError, "24 fnames, 2 labels"),
        ([], [], None, ConfigError, "fnames"),
        (files, [0.5] * 3 + ["x"] + [1] * 20, RegressionBlock, LabelError, r"1 of 24 .*:\n  item 3 .*'x'"),
        (files, ["a", "b"] * 11 + [0.5, 0.5], None, LabelError, r"2 images (?s:.*)RegressionBlock"),
    ]  # fmt: skip
    for names, labels, block, error, words in cases:
        with pytest.raises(error, match=words):
            ImageDataLoaders.from_lists(image_folder, names, labels, y_block=block)


def test_from_lists_takes_labels_of_each_task(image_folder: Path, files: list[Path]):
    def table_of(labels: Any, **arguments: Any) -> ImageTable:
        arguments = {"seed": 1, **QUIET, **arguments}
        return ImageDataLoaders.from_lists(image_folder, files, labels, **arguments).table

    lengths = table_of([len(file.parent.name) for file in files])
    assert (lengths.vocab, lengths.label(0)) == (("4", "5"), "5")
    several = table_of([["b", "a"], [], ["c"]] * 8)
    assert (several.task, several.vocab) == ("multi_category", ("a", "b", "c"))
    assert several.targets[:3].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert [several.label(row) for row in range(3)] == ["a;b", "", "c"]
    ages = [float(number) - 3 for number in range(24)]
    numbers = table_of(ages)
    assert (numbers.task, numbers.vocab) == ("regression", ("value",))
    assert (numbers.targets.shape, numbers.targets.dtype) == ((24, 1), torch.float32)
    assert numbers.targets[:, 0].tolist() == ages
    assert numbers.label(0) == "-3"
    pairs = table_of([(x, -x / 2) for x in ages], y_block=RegressionBlock(2))
    assert (pairs.vocab, pairs.label(1)) == (("value_0", "value_1"), "-2;1")


def test_from_df_reads_columns_by_position_and_name(image_folder: Path, frame, files):
    first = ImageDataLoaders.from_df(frame, image_folder, suff=".jpg", seed=2, **QUIET)
    assert (first.vocab, valid_names(first)) == (("c", "d"), random_names(files, 2))
    columns = {"fn_col": "name", "label_col": "kind", "valid_col": "held_out", "suff": ".jpg"}
    second = ImageDataLoaders.from_df(
        frame.reindex(columns=["held_out", "kind", "name"]),
        image_folder.parent,
        folder=image_folder.name,
        **columns,
        **QUIET,
    )
    assert second.table.paths == first.table.paths
    assert second.valid.rows.tolist() == [0, 4, 8, 12, 16, 20]


def test_from_df_reports_all_faults_with_their_rows(image_folder: Path, frame: pd.DataFrame):
    frame.loc[3, "kind"] = None
    frame.loc[5, "name"] = "gone"
    frame.loc[7, "name"] = frame.loc[8, "name"]
    frame.loc[9, "name"] = None
    with pytest.raises(DataError) as caught:
        ImageDataLoaders.from_df(frame, image_folder, suff=".jpg", seed=0)
    message = str(caught.value)
    assert "The data has 4 problems." in message
    for part in ("row 3 (", "row 5 (", "(row 7, row 8)", "row 9: (None,", "its first row is row 0"):
        assert part in message


def test_from_csv_reads_the_file_in_the_folder(image_folder: Path, frame: pd.DataFrame):
    frame.to_csv(image_folder / "labels.csv", index=False)
    loaders = ImageDataLoaders.from_csv(image_folder, suff=".jpg", valid_col="held_out", **QUIET)
    assert (loaders.vocab, loaders.valid.rows.tolist()) == (("c", "d"), [0, 4, 8, 12, 16, 20])
    frame.to_csv(image_folder / "l.txt", index=False, sep=";", header=False)
    loaders = ImageDataLoaders.from_csv(
        image_folder, "l.txt", header=None, delimiter=";", suff=".jpg", seed=0, **QUIET
    )
    assert (loaders.vocab, len(loaders.table.paths)) == (("c", "d"), 24)
    frame.loc[0, "name"] = "gone"
    frame.to_csv(image_folder / "labels.csv", index=False)
    with pytest.raises(PictureError, match=r"row 2 \('.*/gone\.jpg'\)"):
        ImageDataLoaders.from_csv(image_folder, suff=".jpg", seed=0)


@pytest.fixture
def tags(frame: pd.DataFrame) -> pd.DataFrame:
    """Images with two labels, one or none; pandas' missing cells; and two numbers."""
    frame["tags"] = ["sun; sea", "sea", None, " sun;;"] * 6
    frame["first"] = ["sun", "sea", None, "sun"] * 6
    frame["second"] = ["sea", None, None, " "] * 6
    frame["is_sun"], frame["is_sea"] = [1, 0, 0, 1] * 6, [1, 1, 0, 0] * 6
    frame["age"], frame["weight"] = [0.5, -1.0, 1e3, 7.0] * 6, [1, 2, 3, 4] * 6
    return frame


def from_columns(folder: Path, tags: pd.DataFrame, from_file: bool, **arguments: Any) -> Any:
    arguments = {"suff": ".jpg", "seed": 0, **QUIET, **arguments}
    if not from_file:
        return ImageDataLoaders.from_df(tags, folder, **arguments)
    tags.to_csv(folder / "labels.csv", index=False)
    return ImageDataLoaders.from_csv(folder, **arguments)


ZEROS_AND_ONES = {"label_col": ["is_sea", "is_sun"], "y_block": MultiCategoryBlock(encoded=True)}
NAMED = MultiCategoryBlock(encoded=True, vocab=["sea", "sun"])


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(
    ("arguments", "vocab"),
    [
        ({"label_col": "tags", "label_delim": ";"}, ("sea", "sun")),
        ({"label_col": ["first", "second"]}, ("sea", "sun")),
        ({"label_col": [5, "second", "tags"], "label_delim": ";"}, ("sea", "sun")),
        (ZEROS_AND_ONES, ("is_sea", "is_sun")),
        ({**ZEROS_AND_ONES, "y_block": NAMED}, ("sea", "sun")),
    ],
    ids=range(5),
)
def test_several_labels_are_read_from_columns(image_folder, tags, from_file, arguments, vocab):
    loaders = from_columns(image_folder, tags, from_file, **arguments)
    assert (loaders.table.task, loaders.vocab) == ("multi_category", vocab)
    assert loaders.table.targets.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]] * 6
    images, targets = loaders.one_batch()
    assert (len(images), targets.shape, targets.dtype) == (4, (4, 2), torch.float32)


@pytest.mark.parametrize("from_file", [False, True])
def test_numbers_are_read_from_columns(image_folder: Path, tags: pd.DataFrame, from_file: bool):
    def table_of(label_col: Any) -> ImageTable:
        arguments = {"label_col": label_col, "y_block": RegressionBlock}
        return from_columns(image_folder, tags, from_file, **arguments).table

    assert table_of("age").vocab == ("age",)
    both = table_of(["age", "weight"])
    assert (both.vocab, both.label(2)) == (("age", "weight"), "1000;3")
    assert both.targets[:2].tolist() == [[0.5, 1.0], [-1.0, 2.0]]


def test_columns_that_cannot_be_used_are_named(image_folder: Path, tags: pd.DataFrame):
    tags.loc[2, "age"] = None
    cases: list[tuple[str, Any, type[Exception], str]] = [
        ("age", RegressionBlock, LabelError, r"1 of 24 .*:\n  row 2 .* None is"),
        ("kind", RegressionBlock, LabelError, r"None of 24(?s:.*)column 'kind'"),
        ("kind", MultiCategoryBlock, LabelError, "label_delim"),
        ("breed", None, TableError, "'breed' in the DataFrame"),
        ("kind", "numbers", ConfigError, "y_block.*'numbers'"),
    ]
    for label_col, y_block, error, words in cases:
        with pytest.raises(error, match=words):
            from_columns(image_folder, tags, from_file=False, label_col=label_col, y_block=y_block)


def test_loaders_have_the_sizes_that_were_asked_for(image_folder: Path, files: list[Path]):
    loaders = ImageDataLoaders.from_name_re(
        image_folder, files, "^(.)", seed=1, batch_tfms=aug_transforms(size=16), val_bs=2, **QUIET
    )
    assert (loaders.train.bs, loaders.valid.bs) == (4, 2)
    assert [tuple(images.shape) for images, _ in loaders.valid] == [(2, 3, 16, 16)] * 2


def test_a_misspelt_argument_is_a_type_error_at_once():
    for name in FACTORIES:
        factory = getattr(ImageDataLoaders, name)
        required = [
            one for one in inspect.signature(factory).parameters.values()
            if one.default is one.empty and one.kind is not one.VAR_KEYWORD
        ]  # fmt: skip
        with pytest.raises(TypeError, match="vaild_pct"):
            factory(*["(nowhere)"] * len(required), vaild_pct=0.2)


def test_all_factories_share_the_arguments_of_the_loaders():
    for name in FACTORIES:
        parameters = inspect.signature(getattr(ImageDataLoaders, name)).parameters
        shared = [each for each in parameters if each != "label_level"]
        assert shared[-3:] == ["item_tfms", "batch_tfms", "options"]
