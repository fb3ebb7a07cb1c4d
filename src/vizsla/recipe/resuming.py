"""A checkpoint in; what a run did before its end-to-end epochs, or what speaks against going on with it, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError
from vizsla.recipe.end_to_end import OfferEpochs
from vizsla.train.checkpoint import differences

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.train.checkpoint import Checkpoint

_CANNOT_DIFFER = ("arch", "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class CutOffRun:
    """What a checkpoint knows of the part of a run before its end-to-end epochs.

    Attributes:
        head: What the head is made of, for ``build_head``.
        recipe: What was done, in words.
        settings: With which data and choices.
    """

    head: dict[str, Any]
    recipe: str
    settings: dict[str, Any]


def read_cut_off(checkpoint: Checkpoint | None, *, settings: Mapping[str, Any]) -> CutOffRun | None:
    """Return what is known of a run that was cut off in its end-to-end epochs, or None if there is none to go on with.

    Args:
        checkpoint: Read if it is to resume and its file is there.
        settings: Data and choices of the present run.

    Raises:
        ModelFileError: The file is damaged.
        ConfigError: It is of a run with other data or choices, and ``checkpoint.force`` is off or cannot help.
    """
    kept = None if checkpoint is None else checkpoint.kept_by(OfferEpochs)
    if checkpoint is None or kept is None:
        return None
    found = CutOffRun(head=kept["head"], **kept["notes"])
    _check(found, settings=settings, checkpoint=checkpoint)
    return found


def _check(cut_off: CutOffRun, *, settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    differing = differences(cut_off.settings, dict(settings))
    if not differing or (checkpoint.force and not differing.keys() & set(_CANNOT_DIFFER)):
        return
    raise ConfigError(
        f"The run that is to go on ({checkpoint.path}) was another one. What differs: {'; '.join(differing.values())}. Give "
        "what was given then, leave out --resume to train anew, or go on all the same with --force, which cannot bridge "
        "another network."
    )
