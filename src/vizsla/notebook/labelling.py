"""Labels of new pictures and the table of the training pictures in, the targets of the new ones in the same terms out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.data.table.labels import label_text
from vizsla.errors import LabelError
from vizsla.text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.types import PictureTable


def labelled_like(table: PictureTable, labels: Sequence[Any]) -> PictureTable:
    """Return a table with the targets that labels stand for.

    Args:
        table: Pictures without labels; its task and vocabulary are those of the training pictures.
        labels: One for each picture, or the ``LabelError`` that says why there is none.

    Raises:
        LabelError: A label is missing or no class of the training pictures; up to five are named.
    """
    number_of = {name: number for number, name in enumerate(table.vocab)}
    targets: list[Tensor | None] = [
        _target(one, table=table, number_of=number_of) for one in labels
    ]
    wrong = [place for place, target in enumerate(targets) if target is None]
    if wrong:
        entries = [f"{quoted(table.paths[place])}: {_shown(labels[place])}" for place in wrong]
        raise LabelError(
            f"{len(wrong)} of {len(labels)} pictures have no label that the training pictures have:\n"
            f"{listed(entries)}\nThe classes are {list(table.vocab)[:20]}. Correct the labels, or leave with_labels out."
        )
    known = [target for target in targets if target is not None]
    return replace(table, targets=torch.stack(known) if known else table.targets)


def _target(label: Any, *, table: PictureTable, number_of: dict[str, int]) -> Tensor | None:
    if isinstance(label, LabelError):
        return None
    match table.task:
        case "category":
            number = number_of.get(label_text(label) or "")
            return None if number is None else torch.tensor(number)
        case "multi_category":
            names = [str(label)] if isinstance(label, str) else [str(name) for name in label]
            if not number_of.keys() >= set(names):
                return None
            return torch.tensor([float(name in names) for name in table.vocab])
        case "regression":
            values = torch.as_tensor(label, dtype=torch.float32).reshape(-1)
            return values if len(values) == len(table.vocab) else None


def _shown(label: Any) -> str:
    return str(label) if isinstance(label, LabelError) else repr(label)
