"""Every fault of labelled images is found, all of them are reported in one message, and long lists are cut."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import (
    CategoryBlock,
    ConfigError,
    DataError,
    LabelError,
    MultiCategoryBlock,
    PictureError,
    RegressionBlock,
    TableError,
)
from vizsla.data.table import (
    ClassCount,
    LabelledImages,
    class_texts,
    describe_data,
    drop_unreadable,
    json_parts,
    scarce_classes,
    settle_unreadable,
)
from vizsla.errors import Problem, raise_problems
from vizsla.text import quoted
from vizsla.types import UNLABELLED, ImageTable

if TYPE_CHECKING:
    from pathlib import Path


def images_at(root: Path, *labels: object) -> LabelledImages:
    """Images ``a.jpg``, ``b.jpg``, ... that exist, with these labels, as rows 2, 3, ... of a table."""
    paths = [root / f"{chr(ord('a') + n)}.jpg" for n in range(len(labels))]
    for path in paths:
        path.touch()
    return LabelledImages(
        root=root,
        paths=paths,
        labels=labels,
        row_word="row",
        row_numbers=tuple(range(2, 2 + len(labels))),
    )


def assemble(images: LabelledImages, block: Any = None, **sets: Any) -> ImageTable:
    """Put every second image into validation."""
    count = len(images.paths)
    sets = {"train": range(0, count, 2), "valid": range(1, count, 2), **sets}
    return (block or CategoryBlock()).table(replace(images, **sets))


@pytest.mark.parametrize(
    ("labels", "block", "vocab", "targets"),
    [
        ("dog cat cat dog", CategoryBlock(), "cat dog", [1, 0, 0, 1]),
        ("dog cat cat dog", CategoryBlock(vocab=["dog", "cat", "fox"]), "dog cat fox", [0, 1, 1, 0]),
        ("dog cat cat dog", CategoryBlock(sort=False), "dog cat", [0, 1, 1, 0]),
        ("dog fox cat dog", CategoryBlock(add_na=True), "#na# cat dog", [2, 0, 1, 2]),
    ],
)  # fmt: skip
def test_labels_become_classes_in_their_order(tmp_path: Path, labels, block, vocab, targets):
    table = assemble(images_at(tmp_path, *labels.split()), block)
    assert table.vocab == tuple(vocab.split())
    assert table.targets.tolist() == targets
    assert (table.train_rows.tolist(), table.valid_rows.tolist()) == ([0, 2], [1, 3])
    assert [table.shown_path(row) for row in range(2)] == ["a.jpg", "b.jpg"]
    assert table.skipped == ()


def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path):
    table = assemble(images_at(tmp_path, 10, 10, 9, 9))
    assert (table.vocab, table.targets.tolist()) == (("9", "10"), [1, 1, 0, 0])


def test_images_in_neither_set_may_lack_a_label(tmp_path: Path):
    images = images_at(tmp_path, "dog", "cat", "cat", "dog", "fox", None)
    table = assemble(images, train=[0, 1], valid=[2, 3])
    assert table.targets.tolist() == [1, 0, 0, 1, UNLABELLED, UNLABELLED]


NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (["dog", "fox", "cat", "dog", "cat", "fox"], {}, r"validation but not in training:\n  'fox': 2 images, .* row 3 \('.*b\.jpg'\)\n"),
        (["dog", "dog", "cat", "cat"], {"block": CategoryBlock(vocab=["dog", "fox", "cow"]), "valid": [1]}, r"not in vocab:\n  'cat': 1 image"),
        (["dog", "dog"], {}, "only one class, 'dog', for all 2 images"),
        (["dog", "dog", "cat", "cat", None, NAN, " "], {}, r"3 images .*:\n  row 6 \('.*e\.jpg'\)\n  row 7 .*\n  row 8 .*\n"),
        (["dog", "dog", "cat", "cat", ["a", "b"], 0.5], {}, r"(?s)row 6 .*\(multi-label\).*row 7 .*\(regression\)"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_listed_with_their_rows(
    tmp_path: Path, labels, arguments, words
):
    with pytest.raises(LabelError, match=words):
        assemble(images_at(tmp_path, *labels), **arguments)


@pytest.mark.parametrize("block", [MultiCategoryBlock(), RegressionBlock(), CategoryBlock()])
@pytest.mark.parametrize("side", ["training", "validation"])
def test_an_empty_set_is_refused(tmp_path: Path, block: Any, side: str):
    labels: list[Any] = [["x"], ["x"]] if isinstance(block, MultiCategoryBlock) else [1, 2]
    train, valid = ([], [0, 1]) if side == "training" else ([0, 1], [])
    with pytest.raises(DataError, match=f"no {side} images; all 2 images"):
        assemble(images_at(tmp_path, *labels), block, train=train, valid=valid)


def test_missing_files_are_listed_with_their_rows(tmp_path: Path):
    images = images_at(tmp_path, "dog", "dog", "cat", "cat")
    images.paths[1].unlink()
    with pytest.raises(PictureError, match=r"1 of 4 .* does not exist:\n  row 3 \('.*b\.jpg'\)"):
        assemble(images)
    # Names that no file system takes.
    odd = (tmp_path / "x\0y.jpg", tmp_path / ("n" * 5000))
    with pytest.raises(PictureError, match=r"2 of 4 .* do not exist:\n  row 2 \('.*x\\x00y"):
        assemble(replace(images, paths=(*odd, *images.paths[2:])))


def test_repeated_images_are_listed_with_rows_and_labels(tmp_path: Path):
    images = images_at(tmp_path, "dog", "dog", "cat", "cat", "cat", "cat")
    a, b, c, d = images.paths[:4]
    message = (
        r"2 images are listed more than once:\n"
        r"  '.*a\.jpg': 2 times \(row 2, row 6\), .* 'dog', 'cat'\n"
        r"  '.*c\.jpg': 2 times \(row 4, row 7\), each labelled 'cat'\n"
    )
    with pytest.raises(DataError, match=message):
        assemble(replace(images, paths=(a, b, c, d, a, c)))
    images = images_at(tmp_path, ["x"], ["x", "y"], ["y"])
    with pytest.raises(DataError, match=r"2 times \(row 2, row 4\), .* 'x', 'y'"):
        assemble(replace(images, paths=(a, b, a)), MultiCategoryBlock())


@pytest.mark.parametrize(("num_missed", "num_shown"), [(6, 3), (5, 5), (20, 5)])
def test_misses_are_shown_by_three_or_five(tmp_path: Path, num_missed: int, num_shown: int):
    labels: list[object] = [LabelError("no label")] * num_missed
    if num_shown == 5:
        labels += ["dog", "dog", "cat", "cat"]
    images = replace(images_at(tmp_path, *labels), advice="Labels come from names.")
    with pytest.raises(LabelError) as caught:
        assemble(images)
    message = str(caught.value)
    assert message.count("no label\n") == num_shown
    assert message.endswith("\nLabels come from names.")
    assert message.startswith(f"None of {num_missed}" if num_shown == 3 else f"{num_missed} of")
    assert ("and 15 more" in message) == (num_missed == 20)


def test_all_kinds_of_problems_are_reported_at_once(tmp_path: Path):
    images = images_at(tmp_path, "dog", "fox", "cat", "", "cat", "dog")
    images.paths[4].unlink()
    known = Problem(kind=TableError, text="The table is odd.")
    with pytest.raises(DataError) as caught:
        assemble(replace(images, problems=(known,)))
    lines = str(caught.value).splitlines()
    assert lines[0] == "The data has 4 problems."
    assert [line[:28] for line in lines if re.match(r"\d\. ", line)] == [
        "1. The table is odd.",
        "2. 1 of 6 image files does n",
        "3. 1 image has an empty labe",
        "4. 1 class is in validation ",
    ]


def test_classes_with_one_image_are_named(tmp_path: Path):
    images = images_at(tmp_path, "dog", "dog", "cat", "fox")
    texts = class_texts(images.labels)
    (problem,) = scarce_classes(images, texts, range(4), min_per_class=2)
    assert re.match(
        r"2 classes have only one image.*:\n  'cat': row 4 .*\n  'fox': row 5 ", problem.text
    )
    assert scarce_classes(images, texts, range(2), min_per_class=2) == []
    (problem,) = scarce_classes(images, texts, range(4), min_per_class=3)
    assert [f"{name!r}: {count} image" in problem.text for name, count in (("cat", 1), ("dog", 2))]


def test_problems_of_one_kind_keep_their_error_class():
    raise_problems([])
    with pytest.raises(TableError, match=r"^a$"):
        raise_problems([Problem(kind=TableError, text="a")])
    with pytest.raises(TableError, match="2 problems"):
        raise_problems([Problem(kind=TableError, text="a"), Problem(kind=TableError, text="b")])


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    images = images_at(tmp_path, "cat", "cat", "dog", "dog", "cat", "dog")
    return assemble(images, train=[3, 0, 2, 4], valid=[5, 1])


def test_unreadable_images_are_refused_all_at_once(table: ImageTable):
    assert settle_unreadable(table, []) is table
    with pytest.raises(PictureError) as caught:
        settle_unreadable(table, [(0, "empty file"), (5, "is a text")])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 of 6")
    assert lines[1:3] == [
        f"  {quoted(table.paths[0])}: empty file",
        f"  {quoted(table.paths[5])}: is a text",
    ]
    assert "--on-bad skip" in lines[3]
    with pytest.raises(ConfigError, match="'ignore'"):
        settle_unreadable(table, [], on_bad="ignore")  # pyright: ignore[reportArgumentType]


def test_skipped_images_leave_the_table_and_stand_in_skipped(table: ImageTable):
    after = settle_unreadable(table, [(0, "empty file"), (1, "is a text")], on_bad="skip")
    assert after.paths == table.paths[2:]
    assert after.targets.tolist() == [1, 1, 0, 1]
    assert (after.train_rows.tolist(), after.valid_rows.tolist()) == ([1, 0, 2], [3])
    assert after.vocab == table.vocab
    assert after.skipped == ((table.paths[0], "empty file"), (table.paths[1], "is a text"))
    assert len(table.paths) == 6
    again = drop_unreadable(after, [(0, "truncated")])
    assert again.skipped == (*after.skipped, (table.paths[2], "truncated"))


def test_a_class_or_set_that_loses_all_its_images_is_an_error(table: ImageTable):
    for rows, words in [
        ([3, 2], r"\n  'dog': 2 training images\n"),
        ([5, 1], "None of the 2 validation images"),
        ([0, 2, 3, 4], "None of the 4 training images"),
    ]:
        with pytest.raises(DataError, match=words):
            drop_unreadable(table, [(row, "x") for row in rows])


def test_data_is_counted_by_class_and_set(table: ImageTable):
    targets = table.targets.clone()
    targets[4] = UNLABELLED
    other = replace(
        table, targets=targets, train_rows=torch.tensor([3, 0, 2]), valid_rows=torch.tensor([1])
    )
    summary = describe_data(other)
    assert summary.classes == (
        ClassCount(label="cat", num_train=1, num_valid=1, num_other=0),
        ClassCount(label="dog", num_train=2, num_valid=0, num_other=1),
    )
    assert (summary.num_train, summary.num_valid, summary.num_other) == (3, 1, 2)
    assert (summary.num_unlabelled, summary.num_skipped) == (1, 0)


def test_images_with_several_labels_count_in_each_class(tmp_path: Path):
    images = images_at(tmp_path, ["x"], ["x", "y"], [], ["y"], None)
    table = assemble(images, MultiCategoryBlock(), train=[0, 1, 2], valid=[3])
    summary = describe_data(table)
    assert summary.classes == (
        ClassCount(label="x", num_train=2, num_valid=0, num_other=0),
        ClassCount(label="y", num_train=1, num_valid=1, num_other=0),
    )
    assert (summary.num_other, summary.num_unlabelled) == (1, 1)
    assert drop_unreadable(table, [(0, "x")]).targets.shape == (4, 2)
    with pytest.raises(DataError, match=r"\n  'y': 1 training image\n"):
        drop_unreadable(table, [(1, "x")])


def test_numbers_have_no_classes_to_count_or_to_lose(tmp_path: Path):
    images = images_at(tmp_path, 1.5, -2, "3", None)
    table = assemble(images, RegressionBlock(), train=[0, 1], valid=[2])
    summary = describe_data(table)
    assert (summary.classes, summary.num_train, summary.num_unlabelled) == ((), 2, 1)
    assert drop_unreadable(table, [(0, "x")]).targets[:2].tolist() == [[-2.0], [3.0]]


def test_json_in_parts_is_the_json_of_the_whole():
    for number in (0, 1, 999, 1000, 1001, 2500):
        items = [(f"é {place}.jpg", place, "cat") for place in range(number)]
        assert "".join(json_parts(items)) == json.dumps(items)
