"""What goes in and what comes out: the blocks that a ``DataBlock`` or a factory is given in, the one that gives labels out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vizsla.data.table.labels import is_fraction, is_missing, is_several
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class ImageBlock:
    """Says that a picture goes in."""


@dataclass(frozen=True)
class CategoryBlock:
    """Says that one of several classes comes out.

    Args:
        vocab: The classes; their order is kept. ``None`` takes those of the training pictures.
        sort: Whether classes that are taken from the pictures are sorted.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.
    """

    vocab: Sequence[str] | None = None
    sort: bool = True
    add_na: bool = False


@dataclass(frozen=True)
class MultiCategoryBlock:
    """Says that any number of several classes comes out; a picture's label is a list of them, which may be empty.

    Args:
        encoded: Whether a label is a list of zeros and ones, one for each class, instead of a list of classes.
        vocab: The classes; their order is kept. ``None`` takes those of the training pictures, sorted; with ``encoded`` the
            names of the columns that a ``ColReader`` reads.
        add_na: Whether a class ``"#na#"`` at position 0 takes labels that are not in the vocabulary.

    Raises:
        ConfigError: ``encoded`` and ``add_na`` are both true: zeros and ones name no unknown class.

    Example:
        >>> MultiCategoryBlock(vocab=["cloudy", "clear", "water"])
        MultiCategoryBlock(encoded=False, vocab=['cloudy', 'clear', 'water'], add_na=False)
    """

    encoded: bool = False
    vocab: Sequence[str] | None = None
    add_na: bool = False

    def __post_init__(self) -> None:
        if self.encoded and self.add_na:
            raise ConfigError(
                "MultiCategoryBlock: with encoded=True every label has its place in the vocabulary, so there is nothing for "
                "add_na=True to take. Leave one of them out."
            )


@dataclass(frozen=True)
class RegressionBlock:
    """Says that numbers come out; a picture's label is a number, or a sequence of as many as every other picture has.

    Args:
        n_out: How many numbers a picture has; ``None`` takes it from the labels.

    Raises:
        ConfigError: ``n_out`` is below 1.
    """

    n_out: int | None = None

    def __post_init__(self) -> None:
        if self.n_out is not None and self.n_out < 1:
            raise ConfigError(f"RegressionBlock: n_out is at least 1. Received: {self.n_out!r}")


OutputBlock = CategoryBlock | MultiCategoryBlock | RegressionBlock
OutputBlockOrClass = (
    OutputBlock | type[CategoryBlock] | type[MultiCategoryBlock] | type[RegressionBlock]
)
BlockOrClass = ImageBlock | type[ImageBlock] | OutputBlockOrClass

_CHOICE = (
    "CategoryBlock (one of several classes), MultiCategoryBlock (any number of them, multi-label) or RegressionBlock "
    "(numbers)"
)


def output_block(blocks: Sequence[BlockOrClass]) -> OutputBlock:
    """Return the instance of the output's block.

    Raises:
        ConfigError: ``blocks`` is not a picture and one kind of label.
    """
    made = [block() if isinstance(block, type) else block for block in blocks]
    if len(made) == 2 and isinstance(made[0], ImageBlock) and isinstance(made[1], OutputBlock):
        return made[1]
    names = [block.__name__ if isinstance(block, type) else repr(block) for block in blocks]
    raise ConfigError(
        f"blocks is an ImageBlock, one picture in, and one block for its label: {_CHOICE}. "
        f"Received: ({', '.join(names)})"
    )


def block_for_labels(labels: Iterable[Any], y_block: OutputBlockOrClass | None) -> OutputBlock:
    """Return the block for labels that are given as a list.

    Args:
        labels: The labels. Decimal numbers are numbers to predict, lists are several labels, all else is a class.
        y_block: The block that was asked for, which decides.

    Raises:
        ConfigError: ``y_block`` is no block of labels.
    """
    if y_block is not None:
        return _made(y_block)
    known = [label for label in labels if not is_missing(label)]
    if any(map(is_several, known)):
        return MultiCategoryBlock()
    is_decimal = any(map(is_fraction, known)) and not any(isinstance(label, str) for label in known)
    return RegressionBlock() if is_decimal else CategoryBlock()


def block_for_columns(
    label_col: str | int | Sequence[str | int],
    label_delim: str | None,
    y_block: OutputBlockOrClass | None,
) -> OutputBlock:
    """Return the block for labels that stand in columns of a table.

    Args:
        label_col: The column, or several; several hold several labels.
        label_delim: What stands between the labels of a cell; if given, there may be several.
        y_block: The block that was asked for, which decides.

    Raises:
        ConfigError: ``y_block`` is no block of labels.
    """
    if y_block is not None:
        return _made(y_block)
    several_columns = not isinstance(label_col, str | int) and len(label_col) > 1
    return MultiCategoryBlock() if several_columns or label_delim is not None else CategoryBlock()


def _made(y_block: OutputBlockOrClass) -> OutputBlock:
    block = y_block() if isinstance(y_block, type) else y_block
    if not isinstance(block, OutputBlock):  # pyright: ignore[reportUnnecessaryIsInstance] (from the user)
        raise ConfigError(f"y_block is {_CHOICE}. Received: {y_block!r}")
    return block
