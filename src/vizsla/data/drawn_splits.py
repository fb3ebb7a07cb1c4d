"""Items in, a split that is drawn at random out: of a part of the items, as scikit-learn draws it, or of whole groups."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vizsla.data.splits import Split, column_of
from vizsla.errors import ConfigError, DataError, MissingExtraError
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence


@dataclass(frozen=True)
class RandomSubsetSplitter:
    """Draws a training and a validation set that need not be all of the items.

    Args:
        train_sz: Part of the items to learn from, between 0 and 1; rounded down to whole items.
        valid_sz: Part of the items to hold out, likewise.
        seed: Makes the split repeatable; the global generator of torch is then left alone. ``None`` draws from it.

    Raises:
        ConfigError: A part is not above 0, or both together are more than all items.

    Example:
        >>> RandomSubsetSplitter(0.3, 0.2, seed=42)(range(20))
        ([2, 14, 18, 15, 1, 10], [0, 4, 6, 11])
    """

    train_sz: float
    valid_sz: float
    seed: int | None = None

    def __post_init__(self) -> None:
        # The sum of two parts such as 0.7 and 0.3 may pass 1 by rounding.
        if not (
            self.train_sz > 0 and self.valid_sz > 0 and self.train_sz + self.valid_sz < 1 + 1e-9
        ):
            raise ConfigError(
                "train_sz and valid_sz are parts of the items, above 0 and together at most 1. "
                f"Received: train_sz={self.train_sz!r}, valid_sz={self.valid_sz!r}"
            )

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets, in random order."""
        own = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        order: list[int] = torch.randperm(len(items), generator=own).tolist()
        num_train = int(len(items) * self.train_sz)
        num_valid = int(len(items) * self.valid_sz)
        return order[:num_train], order[num_train : num_train + num_valid]


@dataclass(frozen=True)
class TrainTestSplitter:
    """Splits as scikit-learn's ``train_test_split`` does, which it calls.

    Args:
        test_size: Part of the items to hold out, or their number.
        random_state: Makes the split repeatable; ``None`` draws from NumPy's global generator.
        stratify: The class of each item, where the sets shall have the same part of every class.
        train_size: Part or number of the items to learn from; ``None`` is all others.
        shuffle: ``False`` takes the items in order, the last ones for validation.

    Example:
        >>> TrainTestSplitter(random_state=0)(range(10))
        ([4, 9, 1, 6, 7, 3, 0, 5], [2, 8])
    """

    test_size: float | int = 0.2
    random_state: int | None = None
    stratify: Sequence[Any] | None = None
    train_size: float | int | None = None
    shuffle: bool = True

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets, in the order that scikit-learn gives.

        Raises:
            ConfigError: scikit-learn refuses the arguments, for these items.
            MissingExtraError: scikit-learn is not installed.
        """
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
    """Holds out whole groups, such as all pictures of one patient, so that none has pictures on both sides.

    The groups are drawn one after the other; one is held out where that brings the number of items held out closer to
    ``valid_pct`` of all. At least one group is in each set.

    Args:
        group: Returns the group of an item; or the name or position of the column of a DataFrame that has it.
        valid_pct: Part of the items to hold out, between 0 and 1.
        seed: Makes the split repeatable; ``None`` draws a seed from torch's global generator.

    Raises:
        ConfigError: ``valid_pct`` is not between 0 and 1.

    Example:
        >>> patients = ["ann", "ann", "bob", "bob", "eve"]
        >>> GroupSplitter(patients.__getitem__, valid_pct=0.4, seed=0)(range(5))
        ([2, 3, 4], [0, 1])
    """

    group: Callable[[Any], Hashable] | str | int
    valid_pct: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.valid_pct < 1:
            raise ConfigError(
                f"valid_pct is the part of the pictures that is held out, between 0 and 1. Received: {self.valid_pct!r}"
            )

    def __call__(self, items: Any) -> Split:
        """Return the positions of both sets, in order.

        Raises:
            DataError: All items are in one group.
            TableError: ``group`` is a column, and ``items`` is no DataFrame that has it.
        """
        members: defaultdict[str, list[int]] = defaultdict(list)
        for position, name in enumerate(self._groups(items)):
            members[str(name)].append(position)
        if len(members) < 2:
            raise DataError(
                f"GroupSplitter needs groups for both sets. Received: {len(items)} items in {len(members)} group(s): "
                f"{', '.join(map(repr, members))}. Choose another group, or a splitter that divides groups."
            )
        seed = int(torch.randint(2**62, ())) if self.seed is None else self.seed
        names = sorted(members)
        order: list[int] = torch.randperm(
            len(names), generator=generator(seed, "split/groups")
        ).tolist()
        drawn = [names[index] for index in order]
        held_out = _closest([len(members[name]) for name in drawn], self.valid_pct * len(items))
        valid = sorted(p for index in held_out for p in members[drawn[index]])
        chosen = set(valid)
        return [position for position in range(len(items)) if position not in chosen], valid

    def _groups(self, items: Any) -> Sequence[Hashable]:
        if isinstance(self.group, str | int):
            return column_of(items, self.group, user="GroupSplitter").tolist()
        if hasattr(items, "iterrows"):
            return [self.group(row) for _, row in items.iterrows()]
        return [self.group(item) for item in items]


def _closest(sizes: Sequence[int], target: float) -> list[int]:
    """Return the positions of sizes that are taken, in turn, where that brings their sum closer to the target."""
    taken: list[int] = []
    total = 0
    for position, size in enumerate(sizes):
        if abs(total + size - target) < abs(total - target):
            taken.append(position)
            total += size
    if not taken:  # every group is more than twice too large
        return [min(range(len(sizes)), key=lambda position: sizes[position])]
    return taken[:-1] if len(taken) == len(sizes) else taken
