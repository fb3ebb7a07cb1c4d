"""The accuracy on kinds of images, and which kinds are worse than the rest beyond chance.

A slice is compared with all other images by Fisher's exact test, one-sided (R. A. Fisher, "The design of experiments", 1935),
and the p-values are corrected for the number of slices by Holm's method (S. Holm, "A simple sequentially rejective
multiple test procedure", Scandinavian Journal of Statistics 1979): the chance that any slice is called worse though none is
stays below 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
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
_SHAPE_RATIO = 1.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A kind of images and how many of them are right.

    Attributes:
        quality: The property by which the images were divided.
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
    """Compare kinds of labelled images, which have one class or several; without ``facts`` of them only the folders."""
    labelled = predictions.labelled
    correct = predictions.correct[labelled]
    num_correct, num_pictures = int(correct.sum()), len(correct)
    kinds = {} if facts is None else _kinds_of_files(facts, labelled=labelled)
    kinds["Folder"] = _folders(predictions.take(labelled))
    slices = [
        Slice(
            quality=quality,
            name=name,
            num_pictures=int(inside.sum()),
            num_correct=int(correct[inside].sum()),
        )
        for quality, parts in kinds.items()
        if len(parts) > 1
        for name, inside in parts.items()
    ]
    slices = with_p_values(slices, num_correct=num_correct, num_pictures=num_pictures)
    worse = sorted((each for each in slices if each.is_worse), key=lambda each: each.p_value or 0)
    num_compared = sum(each.p_value is not None for each in slices)
    return SliceFindings(
        tables=tuple(tuple(group) for _, group in groupby(slices, lambda each: each.quality)),
        sentences=tuple(
            _sentence(each, num_correct=num_correct, num_pictures=num_pictures, number=num_compared)
            for each in worse
        ),
        num_compared=num_compared,
    )


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


def _kinds_of_files(facts: ImageFacts, *, labelled: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return, by property and then by name, which of the labelled images are of a kind, bool ``(N,)``."""
    heights, widths = facts.heights[labelled].double(), facts.widths[labelled].double()
    readable = heights > 0
    ratios = (widths / heights.clamp_min(1)).where(readable, torch.nan)
    upright, wide = ratios < 1 / _SHAPE_RATIO, ratios > _SHAPE_RATIO
    shapes = {
        "upright (taller than 5:4)": upright,
        "nearly square": readable & ~upright & ~wide,
        "wide (wider than 5:4)": wide,
    }
    return {
        "Short side in pixels": _parts(torch.minimum(heights, widths).where(readable, torch.nan)),
        "Brightness, 0 to 100": _parts(facts.brightness[labelled].double() * 100),
        "Shape": {name: inside for name, inside in shapes.items() if inside.any()},
    }


def _parts(values: Tensor) -> dict[str, Tensor]:
    """Cut numbers into at most four parts of about the same number of images; equal numbers stay together."""
    known = ~values.isnan()
    if not known.any():
        return {}
    ranks = torch.tensor([place / NUM_PARTS for place in range(1, NUM_PARTS)], dtype=torch.float64)
    edges = values[known].quantile(ranks, interpolation="lower").unique()
    parts = torch.bucketize(values.contiguous(), edges, right=False).where(known, -1)
    found: dict[str, Tensor] = {}
    for part in parts[known].unique().tolist():
        inside = parts == part
        first, last = f"{float(values[inside].min()):.0f}", f"{float(values[inside].max()):.0f}"
        name = first if first == last else f"{first} to {last}"
        found[name] = (
            found.get(name, torch.zeros_like(known)) | inside
        )  # Rounded names may be equal.
    return found


def _folders(labelled: Predictions) -> dict[str, Tensor]:
    """Return the images of each folder; nothing where folders are the classes. Of many only the largest are shown."""
    folders = [path.rpartition("/")[0] or "." for path in labelled.paths]
    labels = [labelled.label(place) for place in range(len(folders))]
    counts = Counter(folders)
    if len(counts) < 2 or len(set(zip(folders, labels, strict=True))) == len(counts):
        return {}
    names = [name for name, _ in counts.most_common(MOST_FOLDERS)]
    # Numbers by their size, before other names.
    names.sort(key=lambda name: (float(name) if name.isdigit() else math.inf, name))
    return {name: torch.tensor([folder == name for folder in folders]) for name in names}


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
