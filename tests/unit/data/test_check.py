"""Every fault of labelled images is found, all of them are told in one message, and long lists are cut."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.build_table import class_table
from vizsla.data.table.check import (
    ClassCount,
    describe_data,
    drop_unreadable,
    lonely_classes,
    settle_unreadable,
)
from vizsla.data.table.labels import LabelledImages
from vizsla.errors import (
    ConfigError,
    DataError,
    LabelError,
    PictureError,
    Problem,
    TableError,
    raise_problems,
)
from vizsla.text import quoted
from vizsla.types import UNLABELLED, ImageTable

if TYPE_CHECKING:
    from pathlib import Path


def images_at(root: Path, **labels: object) -> LabelledImages:
    """Images ``{name}.jpg`` that exist, with these labels, as rows 2, 3, ... of a table."""
    for name in labels:
        (root / f"{name}.jpg").touch()
    return LabelledImages(
        root=root,
        paths=tuple(root / f"{name}.jpg" for name in labels),
        labels=tuple(labels.values()),
        row_word="row",
        row_numbers=tuple(range(2, 2 + len(labels))),
    )


def assemble(images: LabelledImages, **arguments: object) -> ImageTable:
    """Put every second image into validation."""
    count = len(images.paths)
    split = {"train": list(range(0, count, 2)), "valid": list(range(1, count, 2))}
    return class_table(images, **{**split, **arguments})  # pyright: ignore[reportArgumentType]


def test_good_pictures_become_a_table(tmp_path: Path):
    table = assemble(images_at(tmp_path, a="dog", b="cat", c="cat", d="dog"))
    assert table.vocab == ("cat", "dog")
    assert table.targets.tolist() == [1, 0, 0, 1]
    assert (table.train_rows.tolist(), table.valid_rows.tolist()) == ([0, 2], [1, 3])
    assert [table.shown_path(row) for row in range(2)] == ["a.jpg", "b.jpg"]
    assert table.skipped == ()


def test_a_given_vocabulary_keeps_its_order(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="cat", c="cat", d="dog")
    table = assemble(images, vocab=["dog", "cat", "fox"])
    assert (table.vocab, table.targets.tolist()) == (("dog", "cat", "fox"), [0, 1, 1, 0])


def test_classes_may_stay_in_order_of_appearance(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="cat", c="cat", d="dog")
    assert assemble(images, sort=False).vocab == ("dog", "cat")


def test_unknown_labels_can_have_a_class_of_their_own(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="fox", c="cat", d="dog")
    table = assemble(images, add_na=True)
    assert (table.vocab, table.targets.tolist()) == (("#na#", "cat", "dog"), [2, 0, 1, 2])


def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path):
    table = assemble(images_at(tmp_path, a=10, b=10, c=9, d=9))
    assert (table.vocab, table.targets.tolist()) == (("9", "10"), [1, 1, 0, 0])


def test_pictures_in_neither_set_may_lack_a_label(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="cat", c="cat", d="dog", e="fox", f=None)
    table = assemble(images, train=[0, 1], valid=[2, 3])
    assert table.targets.tolist() == [1, 0, 0, 1, UNLABELLED, UNLABELLED]


def test_a_class_only_in_validation_is_named_with_a_picture(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="fox", c="cat", d="dog", e="cat", f="fox")
    message = r"1 class is in validation but not in training:\n  'fox': 2 images, the first row 3 \('.*b\.jpg'\)\n"
    with pytest.raises(LabelError, match=message):
        assemble(images)


def test_a_training_label_outside_a_given_vocabulary_is_named(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat")
    with pytest.raises(LabelError, match=r"in training but not in vocab:\n  'cat': 1 image"):
        assemble(images, vocab=["dog", "fox", "cow"], valid=[1])


def test_a_single_class_is_refused(tmp_path: Path):
    with pytest.raises(LabelError, match="only one class, 'dog', for all 2 images"):
        assemble(images_at(tmp_path, a="dog", b="dog"))


def test_an_empty_set_is_refused(tmp_path: Path):
    for train, valid, side in [([0, 1], [], "validation"), ([], [0, 1], "training")]:
        with pytest.raises(DataError, match=f"There are no {side} images; all 2 images are for"):
            assemble(images_at(tmp_path, a="dog", b="cat"), train=train, valid=valid)


def test_missing_files_are_listed_with_their_rows(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat")
    images.paths[1].unlink()
    with pytest.raises(
        PictureError, match=r"1 of 4 image files does not exist:\n  row 3 \('.*b\.jpg'\)"
    ):
        assemble(images)


def test_a_name_that_no_file_system_takes_is_a_missing_file(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat")
    odd = (tmp_path / "x\0y.jpg", tmp_path / ("n" * 5000))
    with pytest.raises(
        PictureError, match=r"2 of 4 image files do not exist:\n  row 2 \('.*x\\x00y"
    ):
        assemble(replace(images, paths=(*odd, *images.paths[2:])))


def test_empty_labels_are_listed_with_their_rows(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat", e=None, f=float("nan"), g=" ")
    message = r"3 images have an empty label:\n  row 6 \('.*e\.jpg'\)\n  row 7 .*\n  row 8 .*\nFill the label in"
    with pytest.raises(LabelError, match=message):
        assemble(images)


def test_several_labels_and_decimal_numbers_are_no_class(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat", e=["a", "b"], f=0.5)
    with pytest.raises(LabelError, match=r"(?s)row 6 .*\(multi-label\).*row 7 .*\(regression\)"):
        assemble(images)


def test_repeated_pictures_are_listed_with_rows_and_labels(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="cat", e="cat", f="cat")
    a, b, c, d = images.paths[:4]
    message = (
        r"2 images are listed more than once:\n"
        r"  '.*a\.jpg': 2 times \(row 2, row 6\), with different labels: 'dog', 'cat'\n"
        r"  '.*c\.jpg': 2 times \(row 4, row 7\), each labelled 'cat'\n"
    )
    with pytest.raises(DataError, match=message):
        assemble(replace(images, paths=(a, b, c, d, a, c)))


@pytest.mark.parametrize(("num_missed", "num_shown"), [(6, 3), (5, 5), (30, 5)])
def test_misses_are_shown_by_three_or_five(tmp_path: Path, num_missed: int, num_shown: int):
    labels: dict[str, object] = {f"m{n}": LabelError("no label") for n in range(num_missed)}
    if num_shown == 5:
        labels |= {"x": "dog", "y": "dog", "z": "cat", "w": "cat"}
    images = replace(images_at(tmp_path, **labels), advice="Labels come from names.")
    with pytest.raises(LabelError) as caught:
        assemble(images)
    message = str(caught.value)
    assert message.count("no label\n") == num_shown
    assert message.endswith("\nLabels come from names.")
    head = f"None of {num_missed} images gives a label:" if num_shown == 3 else f"{num_missed} of"
    assert head in message
    assert ("and 25 more" in message) == (num_missed == 30)


def test_all_kinds_of_problems_are_told_at_once(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="fox", c="cat", d="", e="cat", f="dog")
    images.paths[4].unlink()
    known = Problem(kind=TableError, text="The table is odd.")
    with pytest.raises(DataError) as caught:
        assemble(replace(images, problems=(known,)))
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["The data has 4 problems.", "1. The table is odd."]
    numbered = [line for line in lines if re.match(r"\d\. ", line)]
    assert [line[:28] for line in numbered[1:]] == [
        "2. 1 of 6 image files does n",
        "3. 1 image has an empty labe",
        "4. 1 class is in validation ",
    ]


def test_classes_with_one_picture_are_named(tmp_path: Path):
    images = images_at(tmp_path, a="dog", b="dog", c="cat", d="fox")
    (problem,) = lonely_classes(images, range(4))
    assert re.match(
        r"2 classes have a single image.*:\n  'cat': row 4 .*\n  'fox': row 5 ", problem.text
    )
    assert lonely_classes(images, range(2)) == []


def test_problems_of_one_kind_keep_their_error_class():
    raise_problems([])
    with pytest.raises(TableError, match=r"^a$"):
        raise_problems([Problem(kind=TableError, text="a")])
    with pytest.raises(TableError, match="The data has 2 problems"):
        raise_problems([Problem(kind=TableError, text="a"), Problem(kind=TableError, text="b")])


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    labels = {"a": "cat", "b": "cat", "c": "dog", "d": "dog", "e": "cat", "f": "dog"}
    return class_table(images_at(tmp_path, **labels), train=[3, 0, 2, 4], valid=[5, 1])


def test_unreadable_pictures_are_refused_all_at_once(table: ImageTable):
    with pytest.raises(PictureError) as caught:
        settle_unreadable(table, [(0, "empty file"), (5, "is a text")])
    assert str(caught.value).splitlines() == [
        "2 of 6 images cannot be read:",
        f"  {quoted(table.paths[0])}: empty file",
        f"  {quoted(table.paths[5])}: is a text",
        "Repair or remove the files, or train on the rest with --on-bad skip (on_bad='skip').",
    ]


def test_skipped_pictures_leave_the_table_and_stand_in_skipped(table: ImageTable):
    after = settle_unreadable(table, [(0, "empty file"), (1, "is a text")], on_bad="skip")
    assert after.paths == table.paths[2:]
    assert after.targets.tolist() == [1, 1, 0, 1]
    assert (after.train_rows.tolist(), after.valid_rows.tolist()) == ([1, 0, 2], [3])
    assert after.vocab == table.vocab
    assert after.skipped == ((table.paths[0], "empty file"), (table.paths[1], "is a text"))
    assert len(table.paths) == 6
    again = drop_unreadable(after, [(0, "truncated")])
    assert again.skipped == (*after.skipped, (table.paths[2], "truncated"))


def test_nothing_unreadable_changes_nothing(table: ImageTable):
    assert settle_unreadable(table, []) is table


def test_a_class_that_loses_all_its_pictures_is_an_error(table: ImageTable):
    with pytest.raises(DataError, match=r"nothing to learn from:\n  'dog': 2 training images\n"):
        drop_unreadable(table, [(3, "x"), (2, "x")])


def test_a_set_that_loses_all_its_pictures_is_an_error(table: ImageTable):
    with pytest.raises(DataError, match=r"None of the 2 validation images can be read"):
        drop_unreadable(table, [(5, "x"), (1, "x")])
    with pytest.raises(DataError, match="None of the 4 training images can be read"):
        drop_unreadable(table, [(row, "x") for row in (0, 2, 3, 4)])


def test_an_unknown_way_with_bad_pictures_is_refused(table: ImageTable):
    with pytest.raises(ConfigError, match="Received: 'ignore'"):
        settle_unreadable(table, [], on_bad="ignore")  # pyright: ignore[reportArgumentType]


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


@pytest.fixture
def several_labels(tmp_path: Path) -> ImageTable:
    labels = {"a": ["x"], "b": ["x", "y"], "c": [], "d": ["y"], "e": None}
    return MultiCategoryBlock().table(images_at(tmp_path, **labels), train=[0, 1, 2], valid=[3])


def test_pictures_with_several_labels_count_in_each_class(several_labels: ImageTable):
    summary = describe_data(several_labels)
    assert summary.classes == (
        ClassCount(label="x", num_train=2, num_valid=0, num_other=0),
        ClassCount(label="y", num_train=1, num_valid=1, num_other=0),
    )
    assert (summary.num_other, summary.num_unlabelled) == (1, 1)


def test_a_class_among_several_that_loses_all_its_pictures_is_an_error(
    several_labels: ImageTable,
):
    assert drop_unreadable(several_labels, [(0, "x")]).targets.shape == (4, 2)
    with pytest.raises(DataError, match=r"nothing to learn from:\n  'y': 1 training image\n"):
        drop_unreadable(several_labels, [(1, "x")])


def test_numbers_have_no_classes_to_count_or_to_lose(tmp_path: Path):
    images = images_at(tmp_path, a=1.5, b=-2, c="3", d=None)
    table = RegressionBlock().table(images, train=[0, 1], valid=[2])
    summary = describe_data(table)
    assert (summary.classes, summary.num_train, summary.num_unlabelled) == ((), 2, 1)
    assert drop_unreadable(table, [(0, "x")]).targets[:2].tolist() == [[-2.0], [3.0]]


def test_repeated_pictures_show_several_labels(tmp_path: Path):
    images = images_at(tmp_path, a=["x"], b=["x", "y"], c=["y"])
    a, b, _ = images.paths
    with pytest.raises(
        DataError, match=r"2 times \(row 2, row 4\), with different labels: 'x', 'y'"
    ):
        MultiCategoryBlock().table(replace(images, paths=(a, b, a)), train=[0, 2], valid=[1])


@pytest.mark.parametrize("block", [MultiCategoryBlock(), RegressionBlock(), CategoryBlock()])
@pytest.mark.parametrize("side", ["training", "validation"])
def test_an_empty_set_is_refused_whatever_is_predicted(tmp_path: Path, block: Any, side: str):
    labels: dict[str, Any] = {"a": ["x"], "b": ["x"]}
    if not isinstance(block, MultiCategoryBlock):
        labels = {"a": 1, "b": 2}
    train, valid = ([], [0, 1]) if side == "training" else ([0, 1], [])
    with pytest.raises(DataError, match=f"There are no {side} images"):
        block.table(images_at(tmp_path, **labels), train=train, valid=valid)
