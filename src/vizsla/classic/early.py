"""``from vizsla.classic.early import *``: the dialect as it was in November 2017, whose ``TTA`` returns a mean.

It is the mean of the log-probabilities, whose decision can differ from that of the mean of the probabilities, which
``vizsla.classic`` leaves to the notebook (``docs/classic.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vizsla import classic
from vizsla.classic import learner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = list(classic.__all__)  # pyright: ignore[reportUnsupportedDunderAll]

globals().update({name: getattr(classic, name) for name in __all__})


class ConvLearner(learner.ConvLearner):
    """The learner whose ``TTA`` returns the mean over the versions of each image."""

    def TTA(  # noqa: N802 (the notebooks' name for it)
        self, n_aug: int = 4, is_test: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the mean log-probabilities over plain and augmented versions, float32 ``(N, C)``, and targets ``(N,)``.

        For every four augmented versions the plain outputs count once more; ``is_test`` takes the test images.
        """
        log_preds, targets = super().TTA(n_aug, is_test)
        return log_preds.mean(axis=0), targets
