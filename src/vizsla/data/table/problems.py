"""Findings about the data in, one error whose message names them all out; and how paths and lists are written in it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LISTED_AT_MOST = 20
"""Longer lists in a message are cut here, with a count of the rest: a terminal shows about that much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with the data.

    Attributes:
        kind: The error to raise if this is the only kind of problem.
        text: What is wrong, where, and the way out.
        spoils_training_only: The pictures can be looked at all the same.
    """

    kind: type[DataError]
    text: str
    spoils_training_only: bool = False


def raise_problems(problems: Sequence[Problem], *, for_looking: bool = False) -> None:
    """Raise one error that tells of all problems, or return if there is none.

    Args:
        problems: What was found, in the order in which it shall be told.
        for_looking: Only warn of problems that spoil nothing but training.

    Raises:
        DataError: There is a problem. It is the subclass of the problems where they share one.
    """
    if for_looking:
        for problem in problems:
            if problem.spoils_training_only:
                warnings.warn(f"Look, but do not train. {problem.text}", stacklevel=2)
        problems = [problem for problem in problems if not problem.spoils_training_only]
    if not problems:
        return
    kinds = {problem.kind for problem in problems}
    kind = kinds.pop() if len(kinds) == 1 else DataError
    if len(problems) == 1:
        raise kind(problems[0].text)
    numbered = [f"{number}. {problem.text}" for number, problem in enumerate(problems, start=1)]
    raise kind("\n".join([f"The data has {len(problems)} problems.", *numbered]))


def quoted(path: Path | str) -> str:
    """Return a path as messages show it: posix slashes, in quotes, line breaks and undecodable bytes escaped."""
    return repr(str(path).replace(os.sep, "/"))


def listed(entries: Sequence[str], *, limit: int = LISTED_AT_MOST) -> str:
    """Return entries one a line, indented, at most ``limit`` of them and then how many there are besides."""
    lines = [f"  {entry}" for entry in entries[:limit]]
    if len(entries) > limit:
        lines.append(f"  ... and {len(entries) - limit} more")
    return "\n".join(lines)


def counted(number: int, word: str, plural: str = "") -> str:
    """Return a number with its word, for example ``1 row``, ``3 rows``, ``2 classes``."""
    return f"{number} {word if number == 1 else plural or word + 's'}"
