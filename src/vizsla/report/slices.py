"""The accuracy on kinds of images, and which of them are worse than the rest beyond chance.

A slice is compared with all other images by Fisher's exact test, one-sided (R. A. Fisher, "The design of experiments", 1935),
and the p-values are corrected for how many slices were looked at by Holm's method (S. Holm, "A simple sequentially rejective
multiple test procedure", Scandinavian Journal of Statistics 1979): the chance that any slice is called worse though none is
stays below 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.evaluate.statistics import wilson_interval
from vizsla.text import percent_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.data.images.facts import ImageFacts
    from vizsla.evaluate.predictions import Predictions

ERROR_RATE = 0.05
FEWEST = 5
"""Slices of fewer images are shown, but not compared: no number of mistakes among them would be telling."""
NUM_PARTS = 4
MOST_FOLDERS = 20
_SHAPES = ("upright (taller than 5:4)", "nearly square", "wide (wider than 5:4)")
_SHAPE_RATIO = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A kind of images and how many of them are right.

    Attributes:
        quality: By what the images were divided.
        name: What the images have in common.
        num_pictures: How many there are.
        num_correct: How many of them are right.
        p_value: Chance that so few are right if the slice is no harder than the rest, corrected for the number of slices
            that were compared; None where it was not compared.
    """

    quality: str
    name: str
    num_pictures: int
    num_correct: int
    p_value: float | None = None

    @property
    def share(self) -> float:
        """How many of them are right, 0-1."""
        return self.num_correct / self.num_pictures

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return wilson_interval(self.num_correct, self.num_pictures)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than the rest beyond chance."""
        return self.p_value is not None and self.p_value < ERROR_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceFindings:
    """All slices.

    Attributes:
        tables: The slices by one property, for each property.
        sentences: One per slice that is worse than the rest beyond chance, worst first.
        num_compared: Slices that were compared with the rest.
    """

    tables: tuple[tuple[Slice, ...], ...]
    sentences: tuple[str, ...]
    num_compared: int


def slice_findings(predictions: Predictions, facts: ImageFacts | None) -> SliceFindings:
    """Put the accuracy of kinds of images into words.

    Args:
        predictions: Of classes, one or several per image; images without a label are left out.
        facts: Of the same images in the same order; None leaves the folders alone.
    """
    labelled = predictions.labelled
    correct = predictions.correct[labelled]
    groups: list[list[Slice]] = []
    for title, names in _groupings(predictions, facts, labelled=labelled):
        found = _slices(names, correct, title=title)
        if len(found) > 1:
            groups.append(found)
    compared = with_p_values(
        [each for group in groups for each in group], num_correct=int(correct.sum()), num_pictures=len(correct)
    )  # fmt: skip
    left = iter(compared)
    tables = tuple(tuple(next(left) for _ in group) for group in groups)
    worse = sorted((each for each in compared if each.is_worse), key=lambda each: each.p_value or 0)
    number = sum(each.p_value is not None for each in compared)
    sentences = tuple(
        _sentence(each, num_correct=int(correct.sum()), num_pictures=len(correct), number=number)
        for each in worse
    )
    return SliceFindings(tables=tables, sentences=sentences, num_compared=number)


def with_p_values(
    slices: Sequence[Slice], *, num_correct: int, num_pictures: int
) -> tuple[Slice, ...]:
    """Return the slices with p-values that are corrected for their number."""
    raw = {
        place: hypergeometric_tail(
            each.num_correct, drawn=each.num_pictures, marked=num_correct, total=num_pictures
        )
        for place, each in enumerate(slices)
        if min(each.num_pictures, num_pictures - each.num_pictures) >= FEWEST
    }
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, place in enumerate(sorted(raw, key=raw.__getitem__)):
        largest = max(largest, min(1.0, (len(raw) - rank) * raw[place]))
        corrected[place] = largest
    return tuple(replace(each, p_value=corrected.get(place)) for place, each in enumerate(slices))


def hypergeometric_tail(most: int, *, drawn: int, marked: int, total: int) -> float:
    """Return the chance of at most ``most`` marked ones among ``drawn`` of ``total``, ``marked`` of which are marked."""
    whole = _log_choose(total, drawn)
    fewest = max(0, drawn + marked - total)
    terms = (
        _log_choose(marked, count) + _log_choose(total - marked, drawn - count) - whole
        for count in range(fewest, min(most, marked, drawn) + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def _log_choose(number: int, chosen: int) -> float:
    return math.lgamma(number + 1) - math.lgamma(chosen + 1) - math.lgamma(number - chosen + 1)


def _groupings(
    predictions: Predictions, facts: ImageFacts | None, *, labelled: Tensor
) -> list[tuple[str, list[str]]]:
    """Return (title, name of the slice of each labelled image); an empty name is in no slice."""
    groupings: list[tuple[str, list[str]]] = []
    if facts is not None:
        heights, widths = facts.heights[labelled].double(), facts.widths[labelled].double()
        readable = heights > 0
        sides = torch.minimum(heights, widths).where(readable, torch.nan)
        groupings.append(("Short side in pixels", _parts(sides)))
        brightness = facts.brightness[labelled].double() * 100
        groupings.append(("Brightness, 0 to 100", _parts(brightness)))
        ratios = (widths / heights.clamp_min(1)).where(readable, torch.nan)
        groupings.append(("Shape", [_shape(ratio) for ratio in ratios.tolist()]))
    folders = _folders(predictions, labelled=labelled)
    if folders:
        groupings.append(("Folder", folders))
    return groupings


def _parts(values: Tensor) -> list[str]:
    """Cut numbers into at most four parts of about the same number of images; equal numbers stay together."""
    known = values[~values.isnan()]
    if not len(known):
        return [""] * len(values)
    ranks = torch.tensor([place / NUM_PARTS for place in range(1, NUM_PARTS)], dtype=torch.float64)
    edges = known.quantile(ranks, interpolation="lower").unique()
    parts = torch.bucketize(values.contiguous(), edges, right=False)
    names: dict[int, str] = {}
    for part in parts[~values.isnan()].unique().tolist():
        inside = values[(parts == part) & ~values.isnan()]
        first, last = f"{float(inside.min()):.0f}", f"{float(inside.max()):.0f}"
        names[part] = first if first == last else f"{first} to {last}"
    return [
        "" if math.isnan(value) else names[part]
        for value, part in zip(values.tolist(), parts.tolist(), strict=True)
    ]


def _shape(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    if ratio < 1 / _SHAPE_RATIO:
        return _SHAPES[0]
    return _SHAPES[2] if ratio > _SHAPE_RATIO else _SHAPES[1]


def _folders(predictions: Predictions, *, labelled: Tensor) -> list[str]:
    """Return the folder of each labelled image; nothing where folders are the classes, or are too many to show."""
    places = labelled.nonzero()[:, 0].tolist()
    folders = [predictions.paths[place].rpartition("/")[0] or "." for place in places]
    labels = [predictions.label(place) for place in places]
    counts = Counter(folders)
    one_each = len(set(zip(folders, labels, strict=True))) == len(counts)
    if len(counts) < 2 or one_each:
        return []
    shown = {name for name, _ in counts.most_common(MOST_FOLDERS)}
    return [name if name in shown else "" for name in folders]


def _slices(names: list[str], correct: Tensor, *, title: str) -> list[Slice]:
    """Return the slices in the order of their names: numbers by their size, others as letters go."""
    sizes = Counter(name for name in names if name)
    hits = Counter(name for name, hit in zip(names, correct.tolist(), strict=True) if hit)
    return [
        Slice(quality=title, name=name, num_pictures=sizes[name], num_correct=hits[name])
        for name in sorted(sizes, key=_order)
    ]


def _order(name: str) -> tuple[float, str]:
    if name in _SHAPES:
        return float(_SHAPES.index(name)), name
    first = name.split(" to ")[0]
    return (float(first), name) if first.isdigit() else (math.inf, name)


def _sentence(part: Slice, *, num_correct: int, num_pictures: int, number: int) -> str:
    rest = num_pictures - part.num_pictures
    of_rest = (num_correct - part.num_correct) / rest
    chance = max(part.p_value or 0.0, 1e-9)
    shown = "less than 1 of 1,000" if chance < 0.001 else f"1 of {round(1 / chance)}"
    return (
        f"{part.quality}, {part.name}: {percent_text(part.share)} of {part.num_pictures:,} images are right, "
        f"of the rest {percent_text(of_rest)}. Chance alone would show such a gap in {shown} reports that look at "
        f"{number} slices."
    )
