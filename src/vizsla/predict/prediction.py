"""What a model says about an image: label, probabilities, label set, "none of these"; computed from logits.

Shapes: V views of each of B images, C classes (or numbers, where the task is regression).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch

from vizsla.errors import ConfigError
from vizsla.lists import L
from vizsla.types import (
    LABEL_SEPARATOR,
    ClassType,
    Task,
    has_class,
    label_of,
    probabilities_of,
    surest,
    typed_class,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vizsla.evaluate.calibration import Calibration

_NUM_TOP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction for one image; unpacks as (label, index, probabilities).

    Attributes:
        label: The most probable class. Several labels: those whose probability is above their threshold, joined by ``;``,
            empty if none is. Regression: the numbers, joined by ``;``.
        index: Position of the label in the vocabulary. Several labels: bool ``(C,)``, which of them. Regression: float32
            ``(C,)``, the numbers.
        probability: Of the label, 0-1; of several labels, that of the least certain decision; NaN for regression.
            Calibrated where the model file says how.
        probabilities: float32 ``(C,)`` on the CPU, in the order of the vocabulary; the numbers for regression. Left out of
            comparisons.
        top: The three (or fewer) most probable classes with their probabilities, best first; empty for regression.
        labels: The class; the classes; or none for regression.
        values: The numbers in the order of the vocabulary; empty unless the task is regression.
        task: What was predicted.
        familiarity: Share of the validation images that resembled their best class no more than this image does, 0-1; near
            0 means that the image resembles no class. None for several labels (an image may have none), and if the model
            file does not have it.
        none_of_these: Whether ``familiarity`` is so low that the image probably shows none of the classes; 5 % of the
            validation images, all of known classes, get True. None as for ``familiarity``.
        label_set: Classes, best first, that contain the true one with the probability ``coverage``; None if not asked for.
        coverage: As asked for.
        vocab: Names of the classes or numbers, in the order of the probabilities.
        class_type: Type of the labels: unpacking returns classes as this type, everything else as text.
    """

    label: str
    index: int | Tensor = field(compare=False)
    probability: float
    probabilities: Tensor = field(compare=False, repr=False)
    top: tuple[tuple[str, float], ...]
    labels: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    task: Task = "category"
    familiarity: float | None = None
    none_of_these: bool | None = None
    label_set: tuple[str, ...] | None = None
    coverage: float | None = None
    vocab: tuple[str, ...] = field(default=(), compare=False, repr=False)
    class_type: ClassType = field(default="text", compare=False, repr=False)

    def best(self, count: int) -> tuple[tuple[str, float], ...]:
        """Return the ``count`` most probable classes with their probabilities, best first; empty for regression.

        Args:
            count: Of classes, at least 1; all where there are fewer.

        Raises:
            ConfigError: ``count`` is below 1.
        """
        if count < 1:
            raise ConfigError(f"The number of top classes must be at least 1. Received: {count}")
        named = {label for label, _ in self.top}
        order = self.probabilities.argsort(descending=True, stable=True).tolist()
        others = (index for index in order if self.top and self.vocab[index] not in named)
        rest = ((self.vocab[index], float(self.probabilities[index])) for index in others)
        return tuple(islice(chain(self.top, rest), count))

    def to_dict(self, num_top: int = _NUM_TOP) -> dict[str, Any]:
        """Return plain values under the names of JSON rows, CSV columns and the server's answers.

        ``top`` has the ``num_top`` most probable classes.

        Regression has ``prediction``, a number by name. Otherwise there are ``prediction`` (a list where there may be several
        labels), ``probability``, ``top`` and ``probabilities``; with a calibration ``familiarity`` and ``none_of_these``; and
        ``label_set`` and ``coverage`` where they were asked for.
        """
        if self.task == "regression":
            return {"prediction": dict(zip(self.vocab, self.values, strict=True))}
        values: dict[str, Any] = {
            "prediction": list(self.labels) if self.task == "multi_category" else self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": value} for label, value in self.best(num_top)],
            "probabilities": dict(zip(self.vocab, self.probabilities.tolist(), strict=True)),
        }
        if self.label_set is not None:
            values |= {"label_set": list(self.label_set), "coverage": self.coverage}
        if self.none_of_these is not None:
            values |= {"familiarity": self.familiarity, "none_of_these": self.none_of_these}
        return values

    def __iter__(self) -> Iterator[object]:
        """Yield label, index and probabilities, as notebooks unpack a prediction.

        The first is an ``L`` of classes where there may be several, and for regression a tuple of the numbers. Classes that were
        whole numbers, or true and false, are so again. The index is a tensor, which notebooks ask for its ``.item()``.
        """
        first: object = typed_class(self.label, self.class_type)
        if self.task == "multi_category":
            first = L([typed_class(label, self.class_type) for label in self.labels])
        elif self.task == "regression":
            first = self.values
        return iter((first, torch.as_tensor(self.index), self.probabilities))

    def __getitem__(self, position: int | slice) -> Any:
        """Return one of label, index and probabilities, as by unpacking: ``[2].max()`` is the largest probability."""
        return tuple(self)[position]

    def __len__(self) -> int:
        """Return 3, the number of parts that it unpacks to."""
        return 3

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _repr_html_(self) -> str:
        """Return the prediction as a card, for notebooks."""
        from vizsla.notebook.cards import prediction_card

        return prediction_card(self).html()


def describe(
    logits: Tensor,
    *,
    task: Task,
    vocab: tuple[str, ...],
    class_type: ClassType = "text",
    calibration: Calibration | None = None,
    coverage: float | None = None,
    thresholds: tuple[float, ...] | None = None,
) -> list[Prediction]:
    """Return what logits ``(V, B, C)`` on the CPU say about B images; probabilities are averaged over the V views."""
    if task == "regression":
        # Copies, which can be used outside of inference mode.
        return [_numbers(row.clone(), vocab=vocab) for row in logits.mean(0).unbind()]
    temperature = 1.0 if calibration is None else calibration.temperature
    # An image may have none of several labels: a small largest logit says no more than that.
    novelty = None if calibration is None or task != "category" else calibration.novelty
    least = None
    if calibration is not None and calibration.label_sets is not None and coverage is not None:
        least = calibration.label_sets.threshold(coverage)
    probabilities_BC = probabilities_of(logits / temperature, task=task).mean(0)
    # A single view by its logits, as probabilities may round to the same value. Stable: of equals the first, as argmax does.
    ranked_BC = logits[0] if len(logits) == 1 else probabilities_BC
    order_BC = ranked_BC.argsort(dim=1, descending=True, stable=True)
    largest_B: list[float] = logits.mean(0).amax(1).tolist()
    predictions: list[Prediction] = []
    for probabilities, order, largest in zip(
        probabilities_BC.unbind(), order_BC.unbind(), largest_B, strict=True
    ):
        best: list[int] = order[:_NUM_TOP].tolist()
        top = tuple((vocab[index], float(probabilities[index])) for index in best)
        label, index, probability, labels = top[0][0], best[0], top[0][1], (top[0][0],)
        if task == "multi_category":
            index = has_class(probabilities, thresholds)
            labels = tuple(name for name, has in zip(vocab, index.tolist(), strict=True) if has)
            label = LABEL_SEPARATOR.join(labels)
            probability = float(surest(probabilities, index))
        label_set = None
        if least is not None:
            # The likeliest class is there even where none reaches it: an empty set would not help.
            count = max(1, int((probabilities >= least).sum()))
            label_set = tuple(vocab[index] for index in order[:count].tolist())
        prediction = Prediction(
            label=label,
            index=index,
            probability=probability,
            probabilities=probabilities,
            top=top,
            labels=labels,
            task=task,
            familiarity=None if novelty is None else novelty.familiarity(largest),
            none_of_these=None if novelty is None else largest < novelty.threshold,
            label_set=label_set,
            coverage=coverage,
            vocab=vocab,
            class_type=class_type,
        )
        predictions.append(prediction)
    return predictions


def _numbers(numbers: Tensor, *, vocab: tuple[str, ...]) -> Prediction:
    """Return the prediction for one image where the task is regression."""
    return Prediction(
        label=label_of(numbers, task="regression", vocab=vocab),
        index=numbers,
        probability=math.nan,
        probabilities=numbers,
        top=(),
        values=tuple(numbers.tolist()),
        task="regression",
        vocab=vocab,
    )
