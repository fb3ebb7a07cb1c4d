"""Where a body ends, if somebody wants it elsewhere than usual: a number of parts in, a checked number, name or network out.

The number counts the children of the whole network, as in ``list(network.children())[:cut]``. A network of torchvision that
was cut is called ``resnet34[:6]``, and that name builds it again.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from torch import nn

from vizsla.errors import ConfigError

_CUT_NAME = re.compile(r"(.+)\[:(\d{1,4})\]")


def check_cut(cut: object) -> int:
    """Return ``cut`` if it is a whole number.

    Args:
        cut: What was given.

    Raises:
        ConfigError: It is something else, such as a function.
    """
    if isinstance(cut, bool) or not isinstance(cut, int):
        raise ConfigError(
            "cut is a whole number: how many of the network's parts to keep, or, negative, how many to leave out. "
            f"Received: {cut!r}. To cut with a function of your own, apply it to the network and pass the nn.Module "
            "that it returns."
        )
    return cut


def split_cut_name(name: str) -> tuple[str, int | None]:
    """Return the name of an architecture and where it is cut: ``"resnet34[:6]"`` is ``("resnet34", 6)``.

    Args:
        name: With or without a cut at its end.
    """
    found = _CUT_NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def cut_name(name: str, num_parts: int) -> str:
    """Return the name of an architecture of which only the first parts are kept.

    Args:
        name: Of the whole architecture.
        num_parts: How many of its children are kept.
    """
    return f"{name}[:{num_parts}]"


def kept_parts(network: nn.Module, *, cut: int, name: str) -> int:
    """Return how many children of a network a cut keeps.

    Args:
        network: Whole.
        cut: How many to keep; negative, how many to leave out.
        name: For messages.

    Raises:
        ConfigError: Nothing would be left, or there are not so many.
    """
    parts = [part for part, _ in network.named_children()]
    kept = cut if cut >= 0 else len(parts) + cut
    if not 1 <= kept <= len(parts):
        raise ConfigError(
            f"cut={cut} does not fit {name}, which has {len(parts)} parts: {', '.join(parts)}. "
            f"Give a number from 1 to {len(parts)}, or how many to leave out as a negative number."
        )
    return kept


def cut_module(network: nn.Module, *, cut: int) -> nn.Sequential:
    """Return the first children of a network, one after the other.

    Args:
        network: Its children run in the order in which it defines them.
        cut: How many to keep; negative, how many to leave out.

    Raises:
        ConfigError: As for ``kept_parts``.
    """
    kept = kept_parts(network, cut=cut, name=f"the network {type(network).__name__}")
    return nn.Sequential(OrderedDict(list(network.named_children())[:kept]))
