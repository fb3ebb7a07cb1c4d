"""Find labels that are probably wrong, and estimate how many are, from predictions on images that were not learned from.

A share of the labels is taken to be drawn by chance (Mnih and Hinton, "Learning to label aerial images from noisy data", ICML
2012): the label of an image is ``(1 - noise) * softmax(logits / temperature) + noise / C``. Noise and temperature are those under
which the given labels are likeliest. A weak network gets a high temperature and no noise: that it mistakes similar classes
for one another does not make their labels wrong. A label is suspected where it is likelier to come from chance than such
confusion explains.

``python -m benchmarks.audit labels`` compares it with confident learning (Northcutt et al., JAIR 2021) as cleanlab 2.9 does it, on the
same probabilities. Suspected labels, share of them that are wrong, share of the wrong ones that are among them:

    labels changed               here             cleanlab
    dogs and cats, none of 800   1                1
    at random, 5 % / 10 %        43 .91 .97 / 84 .94 .99    42 .93 .97 / 79 .96 .95
    17 breeds, none of 472       0                93
    at random, 5 % / 10 %        1 1.0 .04 / 32 .88 .60     112 .16 .75 / 137 .29 .85
    to similar ones, 5 / 10 %    1 1.0 .04 / 0              113 .14 .67 / 139 .24 .70

Of the breeds the network knows 72 %. Where it is weak, this finds fewer of the wrong labels, and hardly suspects a right one.

Shapes: N images, C classes that labels name, T temperatures, S shares of noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions

SUSPECTED = 0.2
"""Probability of being drawn by chance from which a label is suspected. In the trials above 0.88 to 1 of such labels were wrong."""
_TEMPERATURES = torch.logspace(-0.75, 0.75, 46, dtype=torch.float64)
_SHARES = torch.cat([torch.zeros(1), torch.logspace(-3.5, -0.3, 65)]).double()
_HALF_CHI2 = 1.92
"""By how much the logarithm of the likelihood may fall within a 95 % interval (Wilks, 1938)."""
_MOST_FITTED = 5_000_000
"""Logits that the two numbers are fitted on; more would not change them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        position: In the predictions.
        suggestion: The class that it probably is, as a position in the vocabulary.
        label_probability: Of the class that the label says, 0-1, if no label were wrong.
        probability: Of the suggested class, 0-1.
        wrong: Probability that the label was drawn by chance, 0-1.
    """

    position: int
    suggestion: int
    label_probability: float
    probability: float
    wrong: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelNoise:
    """How many labels are wrong, and which.

    Attributes:
        rate: Estimated share of wrong labels, 0-1.
        low: Lower end of its 95 % interval (profile likelihood).
        high: Upper end.
        suspects: Images whose label is suspected, the surest first.
        confused: The other images that are taken for another class, those whose label is least probable first: confusions explain
            them, but where labels were changed to similar classes, these are among them.
    """

    rate: float
    low: float
    high: float
    suspects: tuple[Suspect, ...]
    confused: tuple[Suspect, ...]


def label_noise(predictions: Predictions) -> LabelNoise | None:
    """Estimate the share of wrong labels and name them; None for other tasks, and where labels name fewer than two classes."""
    places = predictions.labelled.nonzero()[:, 0] if predictions.task == "category" else []
    if not len(places) or len(present := predictions.targets[places].unique()) < 2:
        return None
    # No image is taken for a class that no label names.
    logits_NC = predictions.logits[places][:, present].double()
    targets_N = torch.searchsorted(present, predictions.targets[places])
    num_classes = len(present)
    some = torch.linspace(
        0, len(places) - 1, min(len(places), max(1, _MOST_FITTED // num_classes))
    ).long()
    known_T = torch.stack(
        [_of_label(logits_NC[some] / one, targets_N[some]) for one in _TEMPERATURES]
    )
    likelihood_TS = torch.stack(
        [((1 - share) * known_T + share / num_classes).log().sum(1) for share in _SHARES], dim=1
    )
    profile_S = likelihood_TS.amax(0)
    best = int(profile_S.argmax())
    noise, temperature = float(_SHARES[best]), _TEMPERATURES[likelihood_TS[:, best].argmax()]
    likely_S = _SHARES[profile_S > profile_S[best] - _HALF_CHI2] * (num_classes - 1) / num_classes

    probabilities_NC = (logits_NC / temperature).softmax(dim=1)
    own_N = probabilities_NC.gather(1, targets_N[:, None])[:, 0]
    by_chance = noise / num_classes
    wrong_N = by_chance / ((1 - noise) * own_N + by_chance).clamp_min(1e-300)
    highest = probabilities_NC.max(dim=1)
    mistaken_N = highest.indices != targets_N
    found = [
        Suspect(
            position=int(places[place]),
            suggestion=int(present[highest.indices[place]]),
            label_probability=float(own_N[place]),
            probability=float(highest.values[place]),
            wrong=float(wrong_N[place]),
        )
        for place in mistaken_N.nonzero()[:, 0].tolist()
    ]
    found.sort(key=lambda each: each.label_probability)
    return LabelNoise(
        rate=noise * (num_classes - 1) / num_classes,
        low=float(likely_S[0]),
        high=float(likely_S[-1]),
        suspects=tuple(each for each in found if each.wrong > SUSPECTED),
        confused=tuple(each for each in found if each.wrong <= SUSPECTED),
    )


def suspected_labels(predictions: Predictions) -> tuple[Suspect, ...]:
    """Return the images whose label is suspected, the surest first; none for other tasks. See ``label_noise``."""
    noise = label_noise(predictions)
    return () if noise is None else noise.suspects


def _of_label(logits_NC: Tensor, targets_N: Tensor) -> Tensor:
    return logits_NC.softmax(dim=1).gather(1, targets_N[:, None])[:, 0]
