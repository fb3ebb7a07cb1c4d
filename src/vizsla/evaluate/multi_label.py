"""Predictions of several labels per picture in, numbers with 95 % intervals out; pictures without a label are left out.

A label is predicted where its probability is above 0.5. ``evaluate/intervals.py`` says where the intervals come from.

Shapes: N labelled pictures, C labels, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vizsla.evaluate import statistics as formulas
from vizsla.evaluate import statistics as ranking
from vizsla.evaluate.labelled import labelled_part, undefined
from vizsla.evaluate.statistics import (
    Measure,
    Metric,
    Ranked,
    bootstrap,
    influence_metric,
    mean_over_classes,
    share_metric,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.evaluate.predictions import Predictions

_VALUES_AT_ONCE = 2**22


def summarise_labels(predictions: Predictions, *, seed: int = 0) -> tuple[Metric, ...]:
    """Return all metrics of this module; one set of resamples serves all of them.

    Args:
        predictions: Of several labels per picture; at least one picture whose labels are known.
        seed: Seed of the bootstrap.

    Returns:
        What these pictures do not define, such as the mean average precision without any label, is left out.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    resampled = _resampled(predictions, seed=seed)
    ranked = {
        "mean_average_precision": _ranked(predictions, ranking.average_precision),
        "roc_auc": _ranked(predictions, ranking.roc_auc),
    }
    names = ("accuracy_multi", "hamming_loss", "macro_f1", "micro_f1")
    return (
        exact_match(predictions),
        *(resampled[name] for name in names if name in resampled),
        *(
            influence_metric(name, value=found.value, influence=found.influence)
            for name, found in ranked.items()
            if found is not None
        ),
        resampled["log_loss"],
    )


def exact_match(predictions: Predictions) -> Metric:
    """Return the share of pictures of which all labels were predicted and no other, with Wilson's interval.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    known = labelled_part(predictions, task="multi_category")
    right = int((known.predicted == known.targets.bool()).all(dim=1).sum())
    return share_metric("exact_match", successes=right, trials=len(known.targets))


def accuracy_multi(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the share of decisions, one for each picture and label, that are right.

    Args:
        predictions: Of several labels per picture.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return _resampled(predictions, seed=seed)["accuracy_multi"]


def hamming_loss(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the share of decisions, one for each picture and label, that are wrong.

    Args:
        predictions: Of several labels per picture.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return _resampled(predictions, seed=seed)["hamming_loss"]


def macro_f1(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean F1 of the labels that occur among truth or predictions.

    Args:
        predictions: Of several labels per picture.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label, or none has any and none is predicted.
        ConfigError: The predictions are of another task.
    """
    return _defined(_resampled(predictions, seed=seed).get("macro_f1"), name="macro_f1")


def micro_f1(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the F1 of all decisions together: frequent labels count more.

    Args:
        predictions: Of several labels per picture.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label, or none has any and none is predicted.
        ConfigError: The predictions are of another task.
    """
    return _defined(_resampled(predictions, seed=seed).get("micro_f1"), name="micro_f1")


def mean_average_precision(predictions: Predictions) -> Metric:
    """Return the average precision of each label, averaged over the labels that occur ("mAP").

    Average precision is the mean, over the pictures with the label, of the precision among all that score at least as
    high. The interval comes from each picture's influence, on the log odds.

    Raises:
        DataError: No picture has a label, or none has any.
        ConfigError: The predictions are of another task.
    """
    return _ranked_metric("mean_average_precision", _ranked(predictions, ranking.average_precision))


def roc_auc(predictions: Predictions) -> Metric:
    """Return the area under the ROC curve of each label, averaged over those that some pictures have and some have not.

    Raises:
        DataError: No picture has a label, or each label is on all pictures or none.
        ConfigError: The predictions are of another task.
    """
    return _ranked_metric("roc_auc", _ranked(predictions, ranking.roc_auc))


def log_loss(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean binary cross-entropy of all decisions, in nats.

    Args:
        predictions: Of several labels per picture.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are of another task.
    """
    return _resampled(predictions, seed=seed)["log_loss"]


def _resampled(predictions: Predictions, *, seed: int) -> dict[str, Metric]:
    return bootstrap(
        _measure(predictions),
        num_pictures=int(predictions.labelled.sum()),
        num_values=len(predictions.vocab),
        seed=seed,
    )


def _measure(predictions: Predictions) -> Measure:
    known = labelled_part(predictions, task="multi_category")
    truth_NC, num_pictures = known.targets.bool(), len(known.targets)
    wrong_N = (truth_NC != known.predicted).double().mean(dim=1)
    at_once = max(1, _VALUES_AT_ONCE // truth_NC.shape[1])
    parts = zip(known.logits.split(at_once), known.targets.split(at_once), strict=True)
    losses_N = torch.cat(
        [
            F.binary_cross_entropy_with_logits(
                logits_BC.double(), targets_BC.double(), reduction="none"
            ).mean(dim=1)
            for logits_BC, targets_BC in parts
        ]
    )

    def measure(counts: Tensor) -> dict[str, Tensor]:
        tallies = formulas.count_labels(truth_NC, known.predicted, counts=counts)
        hamming = wrong_N @ counts / num_pictures
        together = tallies.total()
        return {
            "accuracy_multi": 1 - hamming,
            "hamming_loss": hamming,
            "macro_f1": formulas.mean_of_seen(formulas.f_beta(tallies), seen=tallies.seen),
            "micro_f1": formulas.mean_of_seen(formulas.f_beta(together), seen=together.seen),
            "log_loss": losses_N @ counts / num_pictures,
        }

    return measure


def _ranked(
    predictions: Predictions, metric: Callable[[Tensor, Tensor], Ranked | None]
) -> Ranked | None:
    known = labelled_part(predictions, task="multi_category")
    return mean_over_classes(
        metric, known.logits, positive=lambda index: known.targets[:, index].bool()
    )


def _ranked_metric(name: str, ranked: Ranked | None) -> Metric:
    if ranked is None:
        raise undefined(name, why="no label is on some of them and missing on others")
    return influence_metric(name, value=ranked.value, influence=ranked.influence)


def _defined(metric: Metric | None, *, name: str) -> Metric:
    if metric is None:
        raise undefined(name, why="they have no labels, and none was predicted")
    return metric
