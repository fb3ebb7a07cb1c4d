"""``from vizsla.classic.early import *``: the dialect as it was in November 2017, whose ``TTA`` returns a mean.

The mean is that of the log-probabilities. It may decide otherwise than the mean of the probabilities, which
``vizsla.classic`` leaves to the notebook; see ``docs/classic.md``.
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

        Args:
            n_aug: Number of augmented versions; for every four of them the plain outputs count once more.
            is_test: Take the test images instead of the validation images.
        """
        log_preds, targets = super().TTA(n_aug, is_test)
        return log_preds.mean(axis=0), targets
