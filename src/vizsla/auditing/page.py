"""The page of an audit: what was found, the gravest first, with the images; one offline file like the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.report.build import render_page
from vizsla.report.cards import SMALL_SIDE, TILE_SIDE, Album, Card

if TYPE_CHECKING:
    from vizsla.auditing.audit import Audit, Finding, Item, MoreData

MOST_SHOWN, MOST_RELATED = 24, 3
"""Images of a finding, and images beside each of them."""
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 240, 44, 48
WORDS = {"mend": "To correct", "look": "To look at", "know": "Good to know"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A finding with the cards that the page shows of it."""

    finding: Finding
    cards: tuple[tuple[Item, Card], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The learning curve in the units of its drawing: ``WIDTH`` x ``HEIGHT``."""

    points: tuple[tuple[float, float, str], ...]
    ahead: tuple[float, float, float, float]
    columns: tuple[tuple[float, str], ...]
    rows: tuple[tuple[float, str], ...]


def render_audit(audit: Audit) -> str:
    """Return the page as text.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    album, table = Album(), audit.table

    def card(row: int, *, side: int, related: tuple[int, ...] = ()) -> Card:
        return Card(
            path=table.shown_path(row),
            thumbnail=album.of_file(table.paths[row], side=side, bit_depth=table.bit_depth),
            label=table.label(row),
            neighbours=tuple(
                (card(other, side=TILE_SIDE), 0.0) for other in related[:MOST_RELATED]
            ),
        )

    shown = [
        Shown(
            finding=each,
            cards=tuple(
                (item, card(item.row, side=SMALL_SIDE, related=item.related))
                for item in each.items[:MOST_SHOWN]
            ),
        )
        for each in audit.findings
    ]
    severities = [each.severity for each in audit.findings]
    return render_page(
        "audit.html",
        title=f"Audit of {table.root.name or table.root}",
        audit=audit,
        shown=shown,
        words=WORDS,
        counts={name: severities.count(name) for name in WORDS},
        num_classes=len(table.vocab),
        num_right=None if audit.left_out is None else int(audit.left_out.correct.sum()),
        curve=None if audit.more_data is None else _curve(audit.more_data),
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        floor=HEIGHT - BOTTOM,
        num_related=MOST_RELATED,
    )


def _curve(more: MoreData) -> Curve:
    numbers = [number for number, _ in more.points] + [more.num_images]
    lowest = min([more.low, *(accuracy for _, accuracy in more.points)])
    step = next((step for step in (0.02, 0.05, 0.1, 0.2) if (1 - lowest) / step <= 5), 0.25)
    bottom = math.floor(lowest / step) * step

    def x(number: int) -> float:
        span = math.log(numbers[-1]) - math.log(numbers[0])
        return LEFT + 14 + (WIDTH - LEFT - 40) * (math.log(number) - math.log(numbers[0])) / span

    def y(accuracy: float) -> float:
        return 12 + (HEIGHT - BOTTOM - 12) * (1 - accuracy) / (1 - bottom)

    marks = [bottom + step * place for place in range(round((1 - bottom) / step) + 1)]
    return Curve(
        points=tuple(
            (x(number), y(accuracy), f"{accuracy:.1%}") for number, accuracy in more.points
        ),
        ahead=(x(more.num_images), y(more.accuracy), y(more.high), y(more.low)),
        columns=tuple((x(number), f"{number:,}") for number in numbers),
        rows=tuple((y(mark), f"{mark:.0%}") for mark in marks),
    )
