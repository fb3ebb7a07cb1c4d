"""Can the class be told from things that are not the object, and does a random split tear groups of images apart?

Each cue (size, file type, border ...) becomes a few numbers for each image, and the head of ``head_fit`` is fitted on them alone. Its
leave-one-out accuracy says how much of the classes follows from the cue: a network can learn it instead of the object and fails
where the cue is absent (Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence 2020).

Shapes: N images, D numbers of a cue, C classes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.auditing.traits import folder_parts
from vizsla.evaluate.statistics import normal_quantile, wilson_interval
from vizsla.recipe.head_fit import (
    NUM_LANDMARKS_OF_MANY,
    FeatureLayout,
    HeadSetting,
    fit_feature_head,
)
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from typing import Unpack

    from vizsla.auditing.traits import Traits
    from vizsla.recipe.head_fit import FitOptions

MOST_PROBED = 3_000
"""Images that a probe is fitted on: enough for an interval of two per cent, and a second for each cue."""
MOST_KINDS = 40
"""Values of a cue that get a column each, the most frequent ones."""
TELLING = 0.2
"""Share of what chance leaves open that a cue has to explain before it is named."""
NUM_FOLDS = 5
LEAST_LOST = 0.01
"""Accuracy that groups have to cost beyond chance before they are proposed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cue:
    """How well the classes follow from one thing that is not the object.

    Attributes:
        name: The cue, in words.
        accuracy: Leave-one-out, 0-1.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        chance: Accuracy of always naming the most frequent class.
        num_images: Images that were probed.
        given_away: The class that follows best: its name, the share of its images that is recognised, and the share of other images
            that is taken for it; None where no class is.
    """

    name: str
    accuracy: float
    low: float
    high: float
    chance: float
    num_images: int
    given_away: tuple[str, float, float] | None = None

    @property
    def explained(self) -> float:
        """Share of what chance leaves open, by the lower end of the interval; below 0 where it is worse than chance."""
        return (self.low - self.chance) / max(1 - self.chance, 1e-9)


def drawn_places(count: int, *, most: int, seed: int, purpose: str) -> Tensor:
    """Return at most so many of the places from 0 to ``count`` - 1, drawn by chance, ascending, int64."""
    return torch.randperm(count, generator=generator(seed, purpose))[:most].sort().values


def probe_cues(
    traits: Sequence[Traits], targets: Tensor, *, vocab: Sequence[str], seed: int
) -> tuple[Cue, ...]:
    """Return all cues that vary, the most telling first; targets are classes, int64 ``(N,)``."""
    chosen = drawn_places(len(targets), most=MOST_PROBED, seed=seed, purpose="cues")
    some, targets_N = [traits[place] for place in chosen.tolist()], targets[chosen]
    labels = set(vocab)
    columns: dict[str, Tensor] = {
        "the size of the image": _numbers(some, lambda one: (math.log(one.height), math.log(one.width), math.log(one.height / one.width))),
        "the size of the file": _numbers(some, lambda one: (math.log(max(1, one.num_bytes)),)),
        "the file type": _kinds([one.kind for one in some]),
        "the JPEG quality": _numbers(some, lambda one: (one.quality,)),
        "brightness and colour": _numbers(some, lambda one: one.colour),
        "the border": _numbers(some, lambda one: one.border),
        "marks near the edges": _numbers(some, lambda one: one.frame),
        "the camera": _kinds([one.camera for one in some]),
        "the date": _kinds([one.date for one in some]),
        "the folder": _kinds([folder_parts(one, labels=labels) for one in some]),
    }  # fmt: skip
    found = [
        cue
        for name, values_ND in columns.items()
        if (cue := probe(name, values_ND, targets_N, vocab=vocab, seed=seed))
    ]
    return tuple(sorted(found, key=lambda cue: -cue.explained))


def probe(
    name: str, values_ND: Tensor, targets_N: Tensor, *, vocab: Sequence[str], seed: int
) -> Cue | None:
    """Return how well classes follow from a few numbers, float32 ``(N, D)``; None where none of them varies."""
    varies = (values_ND - values_ND[:1]).abs().amax(0) > 1e-6
    values_ND = values_ND[:, varies]
    num_classes = len(vocab)
    counts = torch.bincount(targets_N, minlength=num_classes)
    if not varies.any() or int((counts > 0).sum()) < 2:
        return None
    width = values_ND.shape[1]
    fit = fit_feature_head(
        (values_ND - values_ND.mean(0))[:, None] / values_ND.std(0),
        targets_N,
        layout=FeatureLayout(stages=(0,), statistics=("mean",), channels=(width,)),
        num_classes=num_classes,
        setting=HeadSetting(stages=(0,), statistics=("mean",), bandwidth=0.5),
        num_landmarks=NUM_LANDMARKS_OF_MANY,
        seed=seed,
    )
    predicted_N, known_N = fit.left_out.argmax(1), targets_N[fit.sample]
    right = int((predicted_N == known_N).sum())
    low, high = wilson_interval(right, len(fit.sample))
    return Cue(
        name=name,
        accuracy=right / len(fit.sample),
        low=low,
        high=high,
        chance=int(counts.max()) / len(targets_N),
        num_images=len(fit.sample),
        given_away=_given_away(predicted_N, known_N, vocab=vocab),
    )


def _given_away(
    predicted_N: Tensor, known_N: Tensor, *, vocab: Sequence[str]
) -> tuple[str, float, float] | None:
    """Return the class of which most is recognised, if it is over half beyond chance and most that is taken for it is of it."""
    best: tuple[str, float, float] | None = None
    for number, name in enumerate(vocab):
        of_class = known_N == number
        hits, others = (
            int((predicted_N[of_class] == number).sum()),
            int((predicted_N[~of_class] == number).sum()),
        )
        size = int(of_class.sum())
        if (
            size
            and wilson_interval(hits, size)[0] > 0.5
            and hits > 2 * others
            and (best is None or hits / size > best[1])
        ):
            best = (name, hits / size, others / max(1, len(known_N) - size))
    return best


def _numbers(traits: Sequence[Traits], of: Callable[[Traits], tuple[float, ...]]) -> Tensor:
    return torch.tensor([of(one) for one in traits], dtype=torch.float32)


def _kinds(values: Sequence[Hashable]) -> Tensor:
    """Return a column of zeros and ones for each of the most frequent values that at least two images have."""
    common = [value for value, count in Counter(values).most_common(MOST_KINDS) if count > 1]
    if len(common) < 2:
        return torch.zeros(len(values), 0)
    return torch.tensor([[value == each for each in common] for value in values]).float()


# --- groups ----------------------------------------------------------------------------------------------------------

GROUP_PATTERNS = (
    r"^(?:.*/)?([^/]*?)[ _.-]*\d+\.[^./]+$",  # the name without its last number: scan7_003.png, video12-0001.jpg
    r"^(?:.*/)?([^/_. -]+)[_. -][^/]*$",  # what comes before the first separator: p017_left_2.png
    r"^(.*)/[^/]+$",  # the folder
)
"""What may name a group, such as a patient or a video, in a path below the data's root."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """Groups of images that a random split tears apart.

    Attributes:
        pattern: For ``--group regex:...``.
        num_groups: How many there are.
        example: One of them.
        accuracy: Mean of five random parts, each predicted by a head fitted on the others.
        grouped_accuracy: The same where a group is in one part.
        low: Lower end of the 95 % interval of the accuracy that is lost, paired over the images.
        high: Upper end.
    """

    pattern: str
    num_groups: int
    example: str
    accuracy: float
    grouped_accuracy: float
    low: float
    high: float


def find_grouping(
    paths: Sequence[str],
    features_ND: Tensor,
    targets_N: Tensor,
    *,
    setting: HeadSetting,
    **options: Unpack[FitOptions],
) -> Grouping | None:
    """Return the groups, named in the paths below the root, that cost most accuracy when a split respects them; None if none does.

    Features are of the images as the layout says, float32 ``(N, D)``; targets classes, int64 ``(N,)``.
    """
    seed = options.get("seed", 0)
    chosen = drawn_places(len(targets_N), most=MOST_PROBED, seed=seed, purpose="groups")
    features_ND, targets_N = features_ND[chosen], targets_N[chosen]
    some = [paths[int(place)] for place in chosen]
    alone: Tensor | None = None
    best: Grouping | None = None
    for pattern in GROUP_PATTERNS:
        matches = [re.search(pattern, path) for path in some]
        groups = [
            str(found[1]) if found else path for path, found in zip(some, matches, strict=True)
        ]
        if not _may_group(groups, targets_N.tolist(), num_classes=options["num_classes"]):
            continue
        right = partial(_right_across_folds, features_ND, targets_N, setting=setting, **options)
        if alone is None:
            alone = right(range(len(some)))
        together = right(groups)
        lost_N = alone.double() - together.double()
        lost = float(lost_N.mean())
        half = normal_quantile() * float(lost_N.std()) / math.sqrt(len(lost_N))
        if lost - half > LEAST_LOST and (best is None or lost - half > best.low):
            best = Grouping(
                pattern=pattern,
                num_groups=len(set(groups)),
                example=Counter(groups).most_common(1)[0][0],
                accuracy=float(alone.double().mean()),
                grouped_accuracy=float(together.double().mean()),
                low=lost - half,
                high=lost + half,
            )
    return best


def _may_group(groups: Sequence[str], targets: Sequence[int], *, num_classes: int) -> bool:
    """Whether groups are many enough to be divided, hold several images, and are not the classes by another name."""
    sizes = Counter(groups)
    of_class: dict[int, set[str]] = {}
    for group, target in zip(groups, targets, strict=True):
        of_class.setdefault(target, set()).add(group)
    several = sum(size for size in sizes.values() if size > 1)
    return (
        len(sizes) >= max(2 * num_classes, 2 * NUM_FOLDS)
        and several > len(groups) / 2
        and max(sizes.values()) <= len(groups) / NUM_FOLDS
        and all(len(names) >= 2 for names in of_class.values())
    )


def _right_across_folds(
    features_ND: Tensor,
    targets_N: Tensor,
    groups: Sequence[Hashable],
    *,
    setting: HeadSetting,
    **options: Unpack[FitOptions],
) -> Tensor:
    """Return which images are right, bool ``(N,)``, when the head is fitted without their part; groups stay in one part."""
    names = list(dict.fromkeys(groups))
    order = torch.randperm(
        len(names), generator=generator(options.get("seed", 0), "folds")
    ).tolist()
    sizes = Counter(groups)
    room: list[int] = [0] * NUM_FOLDS
    fold_of: dict[Hashable, int] = {}
    for place in order:
        fold = room.index(min(room))
        fold_of[names[place]] = fold
        room[fold] += sizes[names[place]]
    fold_N = torch.tensor([fold_of[group] for group in groups])
    columns = options["layout"].columns(setting.stages, setting.statistics)
    right_N = torch.zeros(len(groups), dtype=torch.bool)
    for fold in range(NUM_FOLDS):
        held_out = fold_N == fold
        fit = fit_feature_head(
            features_ND[~held_out][:, None],
            targets_N[~held_out],
            setting=setting,
            num_landmarks=NUM_LANDMARKS_OF_MANY,
            **options,
        )
        with torch.inference_mode():
            logits = fit.head.classify(features_ND[held_out][:, columns])
        right_N[held_out] = logits.argmax(1) == targets_N[held_out]
    return right_N
