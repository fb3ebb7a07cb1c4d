"""Predictions in, the table of precision, recall and F1 per class out, as text in the layout of scikit-learn's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.evaluate.metrics import per_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.metrics import ClassScore
    from vizsla.evaluate.predictions import Predictions

_COLUMNS = ("precision", "recall", "f1-score", "support")
_WIDTH = 9


def classification_report(predictions: Predictions, *, digits: int = 2) -> str:
    """Return precision, recall, F1 and support of each class, the accuracy, and means over classes.

    Args:
        predictions: At least one picture with a label.
        digits: After the decimal point.

    Returns:
        Lines of text; ``macro avg`` counts every class alike, ``weighted avg`` every picture.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class each.
    """
    scores = per_class(predictions)
    total = sum(score.support for score in scores)
    known = predictions.labelled
    accuracy = float(predictions.correct[known].double().mean())
    width = max(len("weighted avg"), *(len(score.name) for score in scores))

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:>{width}} " + "".join(f" {cell:>{_WIDTH}}" for cell in cells)

    def numbers(values: Sequence[float], support: int) -> list[str]:
        return [*(f"{value:.{digits}f}" for value in values), str(support)]

    lines = [line("", _COLUMNS), ""]
    for score in scores:
        values = (score.precision, score.recall, score.f1)
        lines.append(line(score.name, numbers(values, score.support)))
    lines += ["", line("accuracy", ["", "", *numbers([accuracy], total)])]
    equal = [1 / len(scores)] * len(scores)
    by_support = [score.support / max(total, 1) for score in scores]
    for name, weights in (("macro avg", equal), ("weighted avg", by_support)):
        lines.append(line(name, numbers(_means(scores, weights), total)))
    return "\n".join(lines) + "\n"


def _means(scores: Sequence[ClassScore], weights: Sequence[float]) -> list[float]:
    rows = [(score.precision, score.recall, score.f1) for score in scores]
    columns = zip(*rows, strict=True)
    return [sum(w * value for w, value in zip(weights, column, strict=True)) for column in columns]
