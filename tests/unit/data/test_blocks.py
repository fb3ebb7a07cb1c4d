"""Blocks say what comes out; the right one is chosen where none is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vizsla.data.table.block import (
    CategoryBlock,
    ImageBlock,
    MultiCategoryBlock,
    RegressionBlock,
    block_for_columns,
    block_for_labels,
    output_block,
)
from vizsla.errors import ConfigError

NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "b"], CategoryBlock()),
        ([1, 2], CategoryBlock()),
        ([1, "b"], CategoryBlock()),
        ([], CategoryBlock()),
        ([NAN, None], CategoryBlock()),
        (["a", NAN], CategoryBlock()),
        (["a", 0.5], CategoryBlock()),
        ([0.5, -1.5], RegressionBlock()),
        ([1, 0.5, None], RegressionBlock()),
        (np.array([1.0, 2.0]), RegressionBlock()),
        ([["a", "b"], ["a"]], MultiCategoryBlock()),
        ([[], ["a"], None], MultiCategoryBlock()),
    ],
    ids=str,
)
def test_labels_that_are_given_say_what_they_are(labels: Any, expected: object):
    assert block_for_labels(labels, None) == expected
    assert block_for_labels(labels, RegressionBlock(2)) == RegressionBlock(2)


def test_several_columns_or_a_delimiter_are_several_labels():
    assert block_for_columns(1, None, None) == CategoryBlock()
    assert block_for_columns(["kind"], None, None) == CategoryBlock()
    assert block_for_columns(["kind", "colour"], None, None) == MultiCategoryBlock()
    assert block_for_columns("tags", " ", None) == MultiCategoryBlock()
    assert block_for_columns(["x", "y"], None, RegressionBlock) == RegressionBlock()


def test_what_is_no_block_is_refused():
    with pytest.raises(ConfigError, match=r"y_block is CategoryBlock.*Received: 'regression'"):
        block_for_columns(1, None, "regression")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="y_block is"):
        block_for_labels(["a"], ImageBlock)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("block", [CategoryBlock, MultiCategoryBlock, RegressionBlock])
def test_a_picture_and_a_block_of_labels_make_a_pair(block: Any):
    assert output_block((ImageBlock, block)) == output_block((ImageBlock(), block())) == block()


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="n_out is at least 1"):
        RegressionBlock(0)
    with pytest.raises(ConfigError, match="Leave one of them out"):
        MultiCategoryBlock(encoded=True, add_na=True)
