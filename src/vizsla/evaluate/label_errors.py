"""Find labels that are probably wrong, from predictions on images that were not learned from.

Confident learning (Northcutt, Jiang, Chuang, "Confident learning: Estimating uncertainty in dataset labels", JAIR 2021): the
threshold of a class is its mean probability among the images labelled with it. An image is surely of a class if its probability
reaches that threshold. Where the likeliest such class is not its label, the label is suspected. The thresholds allow for
classes that the network is less sure of than others.

Shapes: N images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        position: In the predictions.
        suggestion: The class that it probably is, as a position in the vocabulary.
        label_probability: Of the class that the label says, 0-1.
        probability: Of the suggested class, 0-1.
    """

    position: int
    suggestion: int
    label_probability: float
    probability: float


def suspected_labels(predictions: Predictions) -> tuple[Suspect, ...]:
    """Return the images whose label is suspected, the largest gap between suggestion and label first; none for other tasks."""
    if predictions.task != "category":
        return ()
    places = (predictions.targets != UNLABELLED).nonzero()[:, 0]
    probabilities_NC = predictions.logits[places].double().softmax(dim=1)
    targets_N = predictions.targets[places]
    num_classes = len(predictions.vocab)
    own_N = probabilities_NC.gather(1, targets_N[:, None])[:, 0]
    counts_C = torch.bincount(targets_N, minlength=num_classes).double()
    sums_C = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, targets_N, own_N)
    # No image can surely be of a class that no label names.
    thresholds_C = (sums_C / counts_C).nan_to_num(nan=torch.inf)
    # An image alone in its class has its own probability as threshold; rounding must not decide.
    sure_NC = probabilities_NC >= thresholds_C - 1e-12
    likeliest_N = probabilities_NC.where(sure_NC, -1.0).argmax(dim=1)
    suspected = sure_NC.any(dim=1) & (likeliest_N != targets_N)
    found = [
        Suspect(
            position=int(places[place]),
            suggestion=int(likeliest_N[place]),
            label_probability=float(own_N[place]),
            probability=float(probabilities_NC[place, likeliest_N[place]]),
        )
        for place in suspected.nonzero()[:, 0].tolist()
    ]
    # Where the label is likelier than the suggestion after all, the network does not contradict it.
    found = [each for each in found if each.probability > each.label_probability]
    return tuple(sorted(found, key=lambda each: each.label_probability - each.probability))
