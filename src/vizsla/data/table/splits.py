"""Splitters: which items are for training and which for validation; the same seed gives the same split anywhere.

A splitter is called with the items and returns the positions of both sets, in order unless it says otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from vizsla.data.table.labels import each_item, is_missing, parent_label
from vizsla.errors import ConfigError, DataError, MissingExtraError, TableError
from vizsla.seeding import derive_seed, generator
from vizsla.text import counted, quoted

if TYPE_CHECKING:
    import pandas as pd

Split = tuple[list[int], list[int]]
"""Positions of the training items, positions of the validation items."""

Splitter = Callable[[Any], Split]
"""A function of the items that returns the positions of both sets.

One with an attribute ``by_chance`` that is true lets a ``DataBlock`` move an image of a class that training would miss.
"""


@dataclass(frozen=True)
class RandomSplitter:
    """Puts a random part of the items into the validation set; both sets are in random order.

    Args:
        valid_pct: The part, from 0 up to but not including 1; rounded down to whole items.
        seed: Makes the split repeatable and leaves torch's global generator alone; ``None`` draws from it.

    Examples:
        >>> RandomSplitter(seed=42)(range(10))
        ([1, 8, 4, 5, 0, 9, 3, 7], [2, 6])
    """

    valid_pct: float = 0.2
    seed: int | None = None
    by_chance: ClassVar = True

    def __post_init__(self) -> None:
        _check_fraction(self.valid_pct, zero_allowed=True)

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        order = _random_order(len(items), self.seed)
        cut = int(self.valid_pct * len(items))
        return order[cut:], order[:cut]


@dataclass(frozen=True)
class RandomSubsetSplitter:
    """Draws a training and a validation set that need not be all of the items; both are in random order.

    Args:
        train_sz: Part of the items to learn from, between 0 and 1; rounded down to whole items.
        valid_sz: Part of the items to hold out, likewise.
        seed: As in ``RandomSplitter``.

    Raises:
        ConfigError: A part is not above 0, or both together are more than all items.

    Examples:
        >>> RandomSubsetSplitter(0.3, 0.2, seed=42)(range(20))
        ([2, 14, 18, 15, 1, 10], [0, 4, 6, 11])
    """

    train_sz: float
    valid_sz: float
    seed: int | None = None
    by_chance: ClassVar = True

    def __post_init__(self) -> None:
        # The sum of two parts such as 0.7 and 0.3 may pass 1 by rounding.
        if not (
            self.train_sz > 0 and self.valid_sz > 0 and self.train_sz + self.valid_sz < 1 + 1e-9
        ):
            raise ConfigError(
                "train_sz and valid_sz must be shares of the items, each above 0 and at most 1 together. "
                f"Received: train_sz={self.train_sz!r}, valid_sz={self.valid_sz!r}"
            )

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        order = _random_order(len(items), self.seed)
        num_train = int(len(items) * self.train_sz)
        num_valid = int(len(items) * self.valid_sz)
        return order[:num_train], order[num_train : num_train + num_valid]


@dataclass(frozen=True)
class EndSplitter:
    """Puts the last items into the validation set, for images in the order of time.

    Args:
        valid_pct: The part, between 0 and 1; rounded down to whole items.
        valid_last: ``False`` takes the first items instead.
    """

    valid_pct: float = 0.2
    valid_last: bool = True

    def __post_init__(self) -> None:
        _check_fraction(self.valid_pct, zero_allowed=False)

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        cut = int(self.valid_pct * len(items))
        first = len(items) - cut if self.valid_last else 0
        return _hold_out(range(first, first + cut), len(items))


@dataclass(frozen=True)
class IndexSplitter:
    """Puts the items at given positions into the validation set, in the order given.

    Args:
        valid_idx: The positions, from 0.

    Raises:
        ConfigError: When called: there is no item at a position.
    """

    valid_idx: Sequence[int]

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        valid = [int(position) for position in self.valid_idx]
        outside = [position for position in valid if not 0 <= position < len(items)]
        if outside:
            raise ConfigError(
                f"IndexSplitter: positions must be from 0 to {len(items) - 1}, as there are {len(items)} items. "
                f"Received position {outside[0]}."
            )
        return _hold_out(valid, len(items))


@dataclass(frozen=True)
class FuncSplitter:
    """Puts the items for which a function is true into the validation set.

    Args:
        func: Called with each item; with each row of a DataFrame.
    """

    func: Callable[[Any], Any]

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        return _hold_out_where(map(self.func, each_item(items)))


@dataclass(frozen=True)
class MaskSplitter:
    """Puts the items at which a list of true and false is true into the validation set.

    Args:
        mask: For each item whether it is held out.

    Raises:
        ConfigError: When called: the mask has another length than the items.
    """

    mask: Sequence[Any]

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        if len(self.mask) != len(items):
            raise ConfigError(
                f"MaskSplitter needs a true or false for each item. Received: {len(self.mask)} for {len(items)} items."
            )
        return _hold_out_where(self.mask)


@dataclass(frozen=True)
class FileSplitter:
    """Puts the items whose file names a text file lists, one a line, into the validation set.

    Args:
        fname: The text file, in UTF-8.
        col: Name or position of the column of file names, where the items are a DataFrame.

    Raises:
        DataError: When called: the file cannot be read, or names none of the items.
        TableError: When called: the items are a DataFrame, and ``col`` is not one of its columns.
    """

    fname: Path | str
    col: str | int | None = None

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        path = Path(self.fname)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"The list of validation images {quoted(path)} cannot be read: {error}. Give a UTF-8 text file "
                "with one file name per line."
            ) from error
        names = {line.strip() for line in lines} - {""}
        if self.col is not None:
            items = column_of(items, self.col, user="FileSplitter").tolist()
        elif hasattr(items, "iterrows"):
            raise _needs_column(
                items,
                "FileSplitter",
                "of the file names",
                f"FileSplitter({self.fname!r}, col=NAME)",
            )
        split = _hold_out_where(Path(item).name in names for item in items)
        if not split[1]:
            example = repr(Path(items[0]).name) if len(items) else "nothing"
            raise DataError(
                f"None of the {counted(len(names), 'name')} in {quoted(path)} is the file name of an item. "
                f"Received: {', '.join(sorted(names)[:3])!r}; the first item is {example}. Write names without "
                "folders and with their extension."
            )
        return split


@dataclass(frozen=True)
class GrandparentSplitter:
    """Splits by the folder two levels above the file, as in ``train/beagle/1.jpg``; files in other folders are left out.

    Args:
        train_name: Name of the training folder, or several.
        valid_name: Name of the validation folder, or several.

    Raises:
        TableError: When called: the items are a DataFrame.
    """

    train_name: str | Sequence[str] = "train"
    valid_name: str | Sequence[str] = "valid"

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        if hasattr(items, "iterrows"):
            raise _needs_column(
                items,
                "GrandparentSplitter",
                "that says which row is for validation",
                "ColSplitter(NAME)",
            )
        names = [Path(item).parent.parent.name for item in items]
        return positions_of(names, self.train_name), positions_of(names, self.valid_name)


@dataclass(frozen=True)
class ColSplitter:
    """Splits the rows of a DataFrame by one of its columns.

    Args:
        col: Name or position of the column.
        on: The value, or list of values, that puts a row into the validation set. ``None`` takes the rows where the
            column is true; text such as ``"False"``, ``"train"``, ``"valid"`` is understood.

    Raises:
        TableError: When called: the items are not a DataFrame, lack the column, or have a cell that names no split.
    """

    col: str | int = "is_valid"
    on: Any = None

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        column = column_of(items, self.col, user="ColSplitter")
        if self.on is not None:
            wanted = [self.on] if isinstance(self.on, str | int | float) else list(self.on)
            return _hold_out_where(column.isin(wanted).tolist())
        splits = [split_of_value(value) for value in column.tolist()]
        if None in splits:
            row = splits.index(None)
            raise TableError(
                f"Column {self.col!r}, row {row}: the cell does not say whether the row is for validation. "
                f"Received: {column.tolist()[row]!r}. Write True or False, or name the values that mean "
                f"validation: ColSplitter({self.col!r}, on=0)."
            )
        return positions_of(splits, "train"), positions_of(splits, "valid")


@dataclass(frozen=True)
class StratifiedSplitter:
    """Puts the same part of every class into the validation set.

    Args:
        valid_pct: The part, between 0 and 1.
        seed: Makes the split repeatable; ``None`` draws one from torch's global generator.
        label_func: Returns the class of an item; or the name or position of the column of a DataFrame that has it.

    Raises:
        TableError: When called: the items are a DataFrame, and no function or column of it says the class.
    """

    valid_pct: float = 0.2
    seed: int | None = None
    label_func: Callable[[Any], Hashable] | str | int = parent_label
    by_chance: ClassVar = True

    def __post_init__(self) -> None:
        _check_fraction(self.valid_pct, zero_allowed=False)

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        seed = _seed_or_drawn(self.seed)
        if self.label_func is parent_label and hasattr(items, "iterrows"):
            raise _needs_column(
                items, "StratifiedSplitter", "of the classes", "StratifiedSplitter(label_func=NAME)"
            )
        groups = _groups_of(items, self.label_func, user="StratifiedSplitter")
        return stratified_split(groups, valid_fraction=self.valid_pct, seed=seed)


def stratified_split(groups: Sequence[Hashable], *, valid_fraction: float, seed: int) -> Split:
    """Split positions so that each group has the same part in validation.

    The validation set has ``valid_fraction`` of all items, rounded; what is left of it after each group's whole part goes
    to the groups with the largest remainders (the method of Hamilton). A group of two or more has at least one item in
    both sets, even if that changes the total; a single item goes to training. Each group draws its members with its own
    generator, so adding a group changes those of the others only through its number of items.

    Examples:
        >>> train, valid = stratified_split(["cat"] * 8 + ["dog"] * 4, valid_fraction=0.25, seed=0)
        >>> len(train), len(valid)
        (9, 3)
    """
    members = _members(groups)
    counts = _shares([len(positions) for positions in members.values()], valid_fraction)
    valid: list[int] = []
    for (name, positions), count in zip(members.items(), counts, strict=True):
        order = torch.randperm(len(positions), generator=generator(seed, f"split/{name}"))
        valid += [positions[index] for index in order[:count].tolist()]
    return _hold_out(sorted(valid), len(groups))


def rarest_class_split(
    classes: Sequence[Sequence[str]], *, valid_fraction: float, seed: int
) -> Split:
    """Split positions that have any number of classes: stratified by the rarest class of each.

    A common class has its part in both sets anyway; a rare one might have none (the idea of Sechidis, Tsoumakas and Vlahavas:
    "On the stratification of multi-label data", 2011).
    """
    counts = Counter(chain.from_iterable(classes))
    rarest = [min(own, key=lambda name: (counts[name], name), default="") for own in classes]
    return stratified_split(rarest, valid_fraction=valid_fraction, seed=seed)


def keep_together(
    split: Split,
    groups: Iterable[Iterable[int]],
    classes: Sequence[Sequence[str]],
    *,
    to_training: bool = False,
) -> Split:
    """Move positions so that no group is in both sets.

    Groups that share a position are one. Only members of torn groups move: all to the set with which the number of
    validation images of their class stays nearest to what was drawn, else to training. None takes the last training image
    of a class. ``to_training`` moves all of them to training.

    Examples:
        >>> keep_together(([0, 2, 3, 4, 5], [1]), [(0, 1)], [["cat"]] * 6)
        ([0, 1, 2, 3, 4, 5], [])
    """
    train, valid = map(set, split)
    learned = Counter(chain.from_iterable(classes[position] for position in train))
    gained = Counter[tuple[str, ...]]()
    for group in _joined(groups):
        held_out, seen = [p for p in group if p in valid], [p for p in group if p in train]
        if not held_out or not seen:
            continue
        own = tuple(classes[group[0]])
        lost = Counter(chain.from_iterable(classes[position] for position in seen))
        if (
            not to_training
            and all(learned[name] > number for name, number in lost.items())
            and abs(gained[own] + len(seen)) < abs(gained[own] - len(held_out))
        ):  # fmt: skip
            source, target, moved = train, valid, seen
            learned -= lost
            gained[own] += len(seen)
        else:
            source, target, moved = valid, train, held_out
            learned.update(chain.from_iterable(classes[position] for position in held_out))
            gained[own] -= len(held_out)
        source.difference_update(moved)
        target.update(moved)
    return split if train == {*split[0]} else (sorted(train), sorted(valid))


def _joined(groups: Iterable[Iterable[int]]) -> list[list[int]]:
    """Return groups, joined where they share a position, in the order of their first positions."""
    number_of: dict[int, int] = {}
    members: dict[int, set[int]] = {}
    for number, group in enumerate(groups):
        whole = set(group)
        for touched in {number_of[position] for position in whole if position in number_of}:
            whole |= members.pop(touched)
        members[number] = whole
        number_of |= dict.fromkeys(whole, number)
    return sorted(map(sorted, members.values()))


NUM_GROUP_DRAWS = 20
"""Groups differ in size and in classes: the best of several draws is taken."""


def balanced_group_split(
    groups: Sequence[str], classes: Sequence[Sequence[str]], *, valid_fraction: float, seed: int
) -> Split:
    """Split positions by whole groups; of ``NUM_GROUP_DRAWS`` draws return the one whose validation set is most like the rest.

    A class without training images weighs most, then each position that a class has too many or too few.
    """
    counts = Counter(chain.from_iterable(classes))

    def misses(split: Split) -> tuple[int, float]:
        held_out = Counter(chain.from_iterable(classes[position] for position in split[1]))
        unlearned = sum(held_out[name] == number for name, number in counts.items())
        off = sum(abs(held_out[name] - valid_fraction * n) for name, n in counts.items())
        return unlearned, off + abs(len(split[1]) - valid_fraction * len(groups))

    seeds = [derive_seed(seed, f"groups/{number}") for number in range(NUM_GROUP_DRAWS)]
    draws = [GroupSplitter(groups.__getitem__, valid_fraction, each) for each in seeds]
    return min((draw(range(len(groups))) for draw in draws), key=misses)


@dataclass(frozen=True)
class TrainTestSplitter:
    """Splits as scikit-learn's ``train_test_split`` does, which it calls; both sets are in its order.

    Args:
        test_size: Part of the items to hold out, or their number.
        random_state: Makes the split repeatable; ``None`` draws from NumPy's global generator.
        stratify: The class of each item, to give both sets the same part of every class.
        train_size: Part or number of the items to learn from; ``None`` is all others.
        shuffle: ``False`` takes the items in order, the last ones for validation.

    Raises:
        ConfigError: When called: scikit-learn refuses the arguments for these items.
        MissingExtraError: When called: scikit-learn is not installed.

    Examples:
        >>> TrainTestSplitter(random_state=0)(range(10))
        ([4, 9, 1, 6, 7, 3, 0, 5], [2, 8])
    """

    test_size: float | int = 0.2
    random_state: int | None = None
    stratify: Sequence[Any] | None = None
    train_size: float | int | None = None
    shuffle: bool = True

    @property
    def by_chance(self) -> bool:
        """Whether the sets are drawn, not taken in order."""
        return self.shuffle

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        try:
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise MissingExtraError(
                "scikit-learn", extra="notebook", purpose="split as train_test_split does"
            ) from error
        try:
            train, valid = train_test_split(
                range(len(items)),
                test_size=self.test_size,
                train_size=self.train_size,
                random_state=self.random_state,
                shuffle=self.shuffle,
                stratify=self.stratify,
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"TrainTestSplitter cannot split {len(items)} items: {error} Received: {self!r:.300}"
            ) from error
        return list(train), list(valid)


@dataclass(frozen=True)
class GroupSplitter:
    """Holds out whole groups, such as all images of one patient, so that none has images in both sets.

    The groups are drawn one after the other; one is held out if that brings the number of items held out closer to
    ``valid_pct`` of all. At least one group is in each set.

    Args:
        group: Returns the group of an item; or the name or position of the column of a DataFrame that has it.
        valid_pct: Part of the items to hold out, between 0 and 1.
        seed: As in ``StratifiedSplitter``.

    Raises:
        ConfigError: ``valid_pct`` is not between 0 and 1.
        DataError: When called: all items are in one group.
        TableError: When called: ``group`` is a column, and the items are not a DataFrame that has it.

    Examples:
        >>> patients = ["ann", "ann", "bob", "bob", "eve"]
        >>> GroupSplitter(patients.__getitem__, valid_pct=0.4, seed=0)(range(5))
        ([2, 3, 4], [0, 1])
    """

    group: Callable[[Any], Hashable] | str | int
    valid_pct: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_fraction(self.valid_pct, zero_allowed=False)

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets."""
        groups = _groups_of(items, self.group, user="GroupSplitter")
        members = _members(groups)
        if len(members) < 2:
            raise DataError(
                f"GroupSplitter needs at least two groups, one for each set. Received: {len(items)} items in "
                f"{len(members)} group(s): {', '.join(map(repr, members))}. Choose another group, or a splitter "
                "that divides groups."
            )
        own = generator(_seed_or_drawn(self.seed), "split/groups")
        in_order = list(members.values())
        drawn = [in_order[index] for index in torch.randperm(len(members), generator=own).tolist()]
        target = self.valid_pct * len(items)
        held_out: list[list[int]] = []
        total = 0
        for positions in drawn:
            if abs(total + len(positions) - target) < abs(total - target):
                held_out.append(positions)
                total += len(positions)
        if len(held_out) == len(drawn):
            held_out.pop()
        if not held_out:  # every group is more than twice too large
            held_out = [min(drawn, key=len)]
        return _hold_out(sorted(chain.from_iterable(held_out)), len(items))


def _groups_of(items: Any, group: Callable[[Any], Hashable] | str | int, *, user: str) -> list[Any]:
    if isinstance(group, str | int):
        return column_of(items, group, user=user).tolist()
    return list(map(group, each_item(items)))


def _needs_column(items: pd.DataFrame, user: str, what: str, way: str) -> TableError:
    return TableError(
        f"{user} needs the column {what}, as the items are the rows of a DataFrame. "
        f"The columns are: {[str(name) for name in items.columns]}. Write {way}."
    )


def column_of(items: Any, column: str | int, *, user: str) -> pd.Series:
    """Return a column by name or position, for ``user``; a number that is a name counts as one.

    Raises:
        TableError: ``items`` is not a DataFrame, or lacks the column.
    """
    if not hasattr(items, "iloc"):
        raise TableError(
            f"{user} splits the rows of a DataFrame. Received: {type(items).__name__}. "
            "Give a DataFrame as the source, or choose another splitter."
        )
    by_name = not isinstance(column, int) or column in items.columns
    present = column in items.columns if by_name else -items.shape[1] <= column < items.shape[1]
    if not present:
        raise TableError(
            f"There is no column {column!r}. The columns are: {[str(name) for name in items.columns]}. "
            "Name one of them."
        )
    return items[column] if by_name else items.iloc[:, column]


def split_of_value(value: Any) -> str | None:
    """Return the set that a cell names, ``"train"``, ``"valid"`` or ``"test"``, or ``None`` where it names none.

    Text is understood in any case: ``true 1 yes valid val validation`` / ``false 0 no train training`` / ``test``.
    Numbers other than 0 and 1 name none: a column of folds is not one of sets.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str):
        return {0: "train", 1: "valid"}.get(value)
    return _SPLIT_OF_TEXT.get(value.strip().lower())


_SPLIT_OF_TEXT = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "valid", "val", "validation"), "valid"),
    **dict.fromkeys(("false", "0", "0.0", "no", "train", "training"), "train"),
    "test": "test",
}


def _shares(sizes: Sequence[int], fraction: float) -> list[int]:
    """Return whole shares of ``fraction`` of each size; their sum is the rounded share of the total, as far as possible."""
    exact = [Fraction(fraction).limit_denominator(10**6) * size for size in sizes]
    shares = [int(share) for share in exact]
    left_over = int(sum(exact) + Fraction(1, 2)) - sum(shares)
    by_remainder = sorted(range(len(sizes)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[:left_over]:
        shares[index] += 1
    return [
        min(max(share, 1), size - 1) if size > 1 else 0
        for share, size in zip(shares, sizes, strict=True)
    ]


def _random_order(count: int, seed: int | None) -> list[int]:
    """Return positions in random order; without a seed torch's global generator draws it, as in the lessons."""
    own = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=own).tolist()


def _seed_or_drawn(seed: int | None) -> int:
    return int(torch.randint(2**62, ())) if seed is None else seed


def _members(groups: Sequence[Hashable]) -> dict[str, list[int]]:
    """Return the positions of each group, sorted by the group's name."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[str(group)].append(position)
    return dict(sorted(members.items()))


def _hold_out(valid: Sequence[int], num_items: int) -> Split:
    """Return all other positions in order, and those of the validation set as given."""
    chosen = set(valid)
    return [position for position in range(num_items) if position not in chosen], list(valid)


def _hold_out_where(mask: Iterable[Any]) -> Split:
    held_out = list(map(bool, mask))
    return _hold_out([position for position, held in enumerate(held_out) if held], len(held_out))


def positions_of(names: Sequence[Any], wanted: str | Sequence[str]) -> list[int]:
    """Return the positions of the wanted names."""
    chosen = {wanted} if isinstance(wanted, str) else set(wanted)
    return [position for position, name in enumerate(names) if name in chosen]


def _check_fraction(fraction: float, *, zero_allowed: bool) -> None:
    if not (0 <= fraction < 1 if zero_allowed else 0 < fraction < 1):
        raise ConfigError(
            f"valid_pct must be the share of images to hold out, between 0 and 1. Received: {fraction!r}"
        )
