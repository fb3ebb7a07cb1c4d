"""Prepared pictures and what is asked about each in; predictions, heat maps and nearest pictures out, a whole batch together.

On a CPU torch gives each layer of a batch to all processors, and each layer waits for the slowest of them. A server has other
work on these processors: 16 pictures took 22 ms of processor time each that way, two cores being busy with decoding as well,
and 12 ms where each processor has pictures of its own and works through all layers with them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from vizsla.errors import ConfigError
from vizsla.infer.grad_cam import grad_cam, overlay
from vizsla.infer.streamline import streamlined
from vizsla.machine import map_in_threads, use_threads
from vizsla.seeding import generator
from vizsla.serve.nearest import features_of, positions_by_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.predict.predictor import Prediction, Predictor
    from vizsla.serve.nearest import NearestIndex, Neighbour

CPU_BATCH_OF_EACH, LEAST_CPU_BATCH, GPU_BATCH = 8, 16, 64
"""Pictures that run through the network together: for each processor, for all of them at least, and on a GPU.

Of 16 pictures, EfficientNet-Lite0's largest maps are 77 MB, more than a thread gets from glibc without a trip to the system:
11.5 ms a picture, of 8 or 4 pictures 7.6."""

MOST_CPU_BATCH = 64
BATCH_PIXELS = 32 * 512 * 512
_HEATS_AT_ONCE = 8
_WARM_UP_SIDE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A prepared picture and what is asked about it.

    Attributes:
        pixels: uint8 ``(H, W, 3)``, as ``Predictor.prepare`` gives them.
        coverage: Of the label set; None for none.
        heat: Show where the network looked.
        nearest: So many nearest training pictures.
    """

    pixels: NDArray[np.uint8]
    coverage: float | None = None
    heat: bool = False
    nearest: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was asked for.

    Attributes:
        prediction: As ``Predictor.predict`` gives it.
        heat: uint8 ``(3, H, W)``, the picture with the heat map over it; None if not asked for.
        nearest: Training pictures, best first.
    """

    prediction: Prediction
    heat: Tensor | None = None
    nearest: list[Neighbour] = field(default_factory=list)


class Network:
    """Answers batches of wishes, in one thread that calls it.

    Args:
        predictor: The only way to predict: probabilities are those of ``Predictor.predict``.
        index: Training pictures to compare with; None for none.
        max_batch: Pictures that run together; 1 predicts one by one, on all processors; 0 takes what suits the device.

    Attributes:
        predictor: As given.
        index: As given.
        max_batch: Pictures that run together at most.
        explains: Whether heat maps can be made of this network.

    Raises:
        ConfigError: The network's output is not finite.
    """

    def __init__(
        self, predictor: Predictor, *, index: NearestIndex | None = None, max_batch: int = 0
    ) -> None:
        self.predictor = predictor
        self.index = index
        self._num_threads = torch.get_num_threads()
        usual_batch = GPU_BATCH
        if predictor.device.type == "cpu":
            usual_batch = max(LEAST_CPU_BATCH, CPU_BATCH_OF_EACH * self._num_threads)
            usual_batch = min(usual_batch, MOST_CPU_BATCH)
        self.max_batch = max_batch or usual_batch
        self._shares_batches = predictor.device.type == "cpu" and self.max_batch > 1
        self.explains = self._warm_up()

    def begin(self) -> None:
        """Prepare the thread that will call ``run``: elsewhere torch may have been told to use fewer processors."""
        use_threads(self._num_threads)

    def run(self, wishes: list[Wish]) -> list[Outcome]:
        """Return what was asked for about each picture.

        Args:
            wishes: Any number of them.

        Raises:
            ConfigError: The network's output is not finite.
        """
        predictions = self._predictions(wishes)
        heats = self._heats(wishes, predictions)
        neighbours = self._neighbours(wishes)
        return [
            Outcome(
                prediction=prediction,
                heat=heats.get(position),
                nearest=neighbours.get(position, []),
            )
            for position, prediction in enumerate(predictions)
        ]

    def _predictions(self, wishes: list[Wish]) -> list[Prediction]:
        if not self._shares_batches or len(wishes) < self._num_threads:
            return self._predicted(wishes)  # An image that comes alone gets all processors.
        return map_in_threads(
            self._predicted, wishes, num_threads=self._num_threads, together=CPU_BATCH_OF_EACH
        )

    def _predicted(self, wishes: list[Wish]) -> list[Prediction]:
        """Return the predictions of pictures, those with the same coverage together."""
        coverages = {wish.coverage for wish in wishes}
        if len(coverages) == 1:
            pixels = [wish.pixels for wish in wishes]
            return self.predictor.predict_prepared(pixels, coverage=coverages.pop())
        found = {
            coverage: iter(self._predicted([wish for wish in wishes if wish.coverage == coverage]))
            for coverage in coverages
        }
        return [next(found[wish.coverage]) for wish in wishes]

    def _heats(self, wishes: list[Wish], predictions: Sequence[Prediction]) -> dict[int, Tensor]:
        asked = [position for position, wish in enumerate(wishes) if wish.heat]
        heats: dict[int, Tensor] = {}
        for group in positions_by_shape(wishes[position].pixels for position in asked):
            for start in range(0, len(group), _HEATS_AT_ONCE):
                chosen = [asked[place] for place in group[start : start + _HEATS_AT_ONCE]]
                images = self.predictor.network_input(
                    [wishes[position].pixels for position in chosen]
                )
                targets = _explained([predictions[position] for position in chosen])
                maps = grad_cam(self.predictor.classifier, images, targets=targets).cpu()
                for position, image, heat in zip(chosen, images.cpu(), maps, strict=True):
                    heats[position] = overlay(image, heat)
        return heats

    def _neighbours(self, wishes: list[Wish]) -> dict[int, list[Neighbour]]:
        asked = [position for position, wish in enumerate(wishes) if wish.nearest]
        if not asked or self.index is None:
            return {}
        features = features_of(self.predictor, [wishes[position].pixels for position in asked])
        most = max(wishes[position].nearest for position in asked)
        found = self.index.find(features, count=most)
        return {
            position: neighbours[: wishes[position].nearest]
            for position, neighbours in zip(asked, found, strict=True)
        }

    def _warm_up(self) -> bool:
        """Predict a full batch of grey pictures, so that memory is what it will be; return whether heat maps can be made."""
        grey = self.predictor.prepare(np.full((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), 128, np.uint8))
        count = max(1, min(self.max_batch, BATCH_PIXELS // grey[..., 0].size))
        predictions = self._predictions([Wish(pixels=grey)] * count)
        try:
            self._heats([Wish(pixels=grey, heat=True)], predictions)
        except ConfigError:  # The head gives no gradients, or no map has more than one position.
            return False
        return True


def quickened(predictor: Predictor) -> Predictor:
    """Return a predictor that says the same, up to rounding, in less time.

    Args:
        predictor: Left as it is; the same one comes back where nothing can be gained, and on a GPU: its convolutions round
            their weights to ten bits (TF32), and weights with norms in them would be rounded to others.
    """
    if predictor.device.type != "cpu":
        return predictor
    noise = torch.randint(
        256, (2, _WARM_UP_SIDE, _WARM_UP_SIDE, 3), generator=generator(0, "quickened")
    )
    pictures = [predictor.prepare(pixels) for pixels in noise.to(torch.uint8).numpy()]
    classifier = streamlined(predictor.classifier, images=predictor.network_input(pictures))
    quick = copy.copy(predictor)
    quick.classifier = classifier
    return quick


def _explained(predictions: Sequence[Prediction]) -> Tensor:
    """Return for each picture the classes to explain, ``(B, C)`` of 0 and 1: those that were predicted, or the likeliest."""
    rows: list[Tensor] = []
    for prediction in predictions:
        values = prediction.probabilities
        row = torch.zeros_like(values)
        index = prediction.index
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.any():
            row[index] = 1
        else:
            row[index if isinstance(index, int) else int(values.argmax())] = 1
        rows.append(row)
    return torch.stack(rows)
