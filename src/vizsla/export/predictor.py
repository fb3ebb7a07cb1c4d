"""A model file and any pictures in, labels with probabilities out; the same decoding, resizing and network as validation.

Shapes: B pictures of a batch, H and W their sides, C classes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vizsla.augment.apply import BatchAugmentation
from vizsla.data.cache import PictureCache
from vizsla.data.dataloaders import default_device
from vizsla.data.decode import to_rgb
from vizsla.data.loader import default_num_workers
from vizsla.data.read_ahead import read_ahead
from vizsla.data.reader import PictureReader
from vizsla.errors import ConfigError, PictureError
from vizsla.export.bundle import load_bundle
from vizsla.infer.run import compute_logits, evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from vizsla.data.item_transforms import ItemPipeline, ItemTransforms
    from vizsla.models.classifier import Classifier

AnyPicture = Path | str | bytes | NDArray[np.uint8] | Image.Image
"""A file, the bytes of a file, uint8 values ``(H, W)`` or ``(H, W, 1 | 3 | 4)``, or a Pillow picture of any mode."""

_Source = TypeVar("_Source", bound=AnyPicture)
_NUM_TOP = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a classifier says of one picture; unpacks as (label, index, probabilities).

    Attributes:
        label: The most probable class.
        index: Its position in the vocabulary.
        probability: Its probability, 0-1.
        probabilities: float32 ``(C,)`` on the CPU, in the order of the vocabulary; left out of comparisons.
        top: The three (or fewer) most probable classes with their probabilities, best first.
    """

    label: str
    index: int
    probability: float
    probabilities: Tensor = field(compare=False, repr=False)
    top: tuple[tuple[str, float], ...]

    def __iter__(self) -> Iterator[str | int | Tensor]:
        """Yield label, index and probabilities, as notebooks unpack a prediction."""
        return iter((self.label, self.index, self.probabilities))


class Predictor:
    """Predicts single pictures and streams of them.

    Args:
        classifier: Used in evaluation mode; each part of it is left in the mode that it was in.
        resize: How a decoded picture becomes one of fixed size; None if pictures keep their own size. Or all that is done
            to each picture, such as ``DataLoaders.items``.
        augmentation: What batches go through after that; used as in validation. None for nothing.

    Attributes:
        vocab: Class names in the order of the probabilities.

    Example:
        >>> predictor = Predictor.load("model.safetensors")
        >>> predictor.predict("photo.jpg").label
        'cat'
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        resize: ItemTransforms | ItemPipeline,
        augmentation: BatchAugmentation | None = None,
    ) -> None:
        self.vocab = classifier.vocab
        self._classifier = classifier
        self._reader = PictureReader(resize=resize, cache=PictureCache(mode="off"))
        self._augmentation = BatchAugmentation() if augmentation is None else augmentation

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "auto") -> Predictor:
        """Open a model file.

        Args:
            path: A file that ``save_bundle`` wrote.
            device: Where to run; ``"auto"`` is CUDA if there is one, else Apple's MPS, else the CPU.

        Raises:
            ModelFileError: The file is missing, foreign, damaged, or in a newer format.
        """
        bundle = load_bundle(path, device=default_device() if device == "auto" else device)
        return cls(
            bundle.classifier.to(memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue] (torch's overloads lack it)
            resize=bundle.manifest.resize,
            augmentation=bundle.manifest.final_resize.augmentation(),
        )

    def predict(self, picture: AnyPicture) -> Prediction:
        """Return what the classifier says of one picture.

        Args:
            picture: See ``AnyPicture``. It is not changed.

        Raises:
            PictureError: The picture cannot be read.
            ConfigError: The network's output is not finite.
        """
        return self._predict_batch([self._pixels(picture)])[0]

    def predict_many(
        self, pictures: Iterable[_Source], *, batch_size: int = 32, num_workers: int | None = None
    ) -> Generator[tuple[_Source, Prediction | PictureError]]:
        """Yield each picture with what the classifier says of it, in the order given; any number of pictures.

        Args:
            pictures: See ``AnyPicture``. They are taken a few batches ahead of the results.
            batch_size: Pictures that run through the network together.
            num_workers: Threads that decode; 0 decodes in the caller's, None means one for each processor, at most 16.

        Returns:
            The picture as given, and its prediction, or the error where it cannot be read.

        Raises:
            ConfigError: ``batch_size`` is below 1 or ``num_workers`` below 0, or the network's output is not finite.
        """
        num_workers = default_num_workers() if num_workers is None else num_workers
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                "batch_size is at least 1 and num_workers at least 0. "
                f"Received: batch_size={batch_size}, num_workers={num_workers}"
            )
        return self._stream(pictures, batch_size=batch_size, num_workers=num_workers)

    def _stream(
        self, pictures: Iterable[_Source], *, batch_size: int, num_workers: int
    ) -> Generator[tuple[_Source, Prediction | PictureError]]:
        prepared = read_ahead(
            self._prepared, pictures, num_workers=num_workers, max_waiting=2 * batch_size
        )
        with closing(prepared):
            while batch := list(islice(prepared, batch_size)):
                readable = [pixels for _, pixels in batch if not isinstance(pixels, PictureError)]
                predictions = iter(self._predict_batch(readable))
                for picture, pixels in batch:
                    failed = isinstance(pixels, PictureError)
                    yield picture, pixels if failed else next(predictions)

    def _prepared(self, picture: _Source) -> tuple[_Source, NDArray[np.uint8] | PictureError]:
        try:
            return picture, self._pixels(picture)
        except PictureError as error:
            return picture, error

    def _pixels(self, picture: AnyPicture) -> NDArray[np.uint8]:
        """Return uint8 ``(H, W, 3)`` of the presize, as validation sees it."""
        if isinstance(picture, Path | str | bytes):
            return self._reader.read(picture)
        return self._reader.prepare(_as_rgb(picture))

    def _predict_batch(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the predictions of pictures, in their order; those of one size run together."""
        positions_of: dict[tuple[int, ...], list[int]] = {}
        for position, picture in enumerate(pictures):
            positions_of.setdefault(picture.shape, []).append(position)
        predictions: dict[int, Prediction] = {}
        for positions in positions_of.values():
            logits_BC = self._logits(np.stack([pictures[position] for position in positions]))
            predictions.update(zip(positions, map(self._described, logits_BC), strict=True))
        return [predictions[position] for position in range(len(pictures))]

    def _logits(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Return float32 ``(B, C)`` on the CPU for uint8 ``(B, H, W, 3)``."""
        images_u8 = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        device = next(self._classifier.parameters()).device
        images = self._augmentation(
            images_u8.to(device), rows=torch.arange(len(images_u8)), epoch=0, training=False
        )
        with evaluation_mode(self._classifier):
            logits_BC = compute_logits(self._classifier, images).cpu()
        if not logits_BC.isfinite().all():
            raise ConfigError(
                "The network's output is not finite: its weights are damaged. Train it again with a lower learning rate."
            )
        return logits_BC

    def _described(self, logits: Tensor) -> Prediction:
        probabilities = logits.softmax(dim=0)
        # By logits: probabilities may round to the same value. Stable: the first of equals is taken, as argmax does.
        order: list[int] = logits.argsort(descending=True, stable=True).tolist()
        top = tuple((self.vocab[index], float(probabilities[index])) for index in order[:_NUM_TOP])
        return Prediction(
            label=top[0][0],
            index=order[0],
            probability=top[0][1],
            probabilities=probabilities,
            top=top,
        )


def load_learner(fname: Path | str, cpu: bool = True) -> Predictor:
    """Open an exported model under the name that notebooks know; what comes back predicts, and does not train on.

    Args:
        fname: A model file, as ``Learner.export`` or ``vizsla train`` wrote it.
        cpu: Predict on the CPU; otherwise on the best device there is.

    Raises:
        ModelFileError: The file is missing, damaged, not one of ours, or newer than this version.

    Example:
        >>> load_learner("model.safetensors").predict("cat.jpg").label
        'cat'
    """
    return Predictor.load(fname, device="cpu" if cpu else "auto")


def _as_rgb(picture: NDArray[np.uint8] | Image.Image) -> Image.Image:
    """Return a picture from memory as upright RGB; what was given is not changed."""
    if not isinstance(picture, Image.Image):
        picture = _from_array(picture)
    try:
        return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:
        raise PictureError(
            f"Cannot use the picture {picture!r}: {error}. Give a picture that Pillow can convert to RGB."
        ) from error


def _from_array(values: object) -> Image.Image:
    if not isinstance(values, np.ndarray):
        raise PictureError(
            "A picture is a path, the bytes of a file, a numpy array or a Pillow picture. "
            f"Received: {type(values).__name__}"
        )
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))
    if values.dtype != np.uint8 or not is_picture or 0 in values.shape:
        raise PictureError(
            "A numpy picture has uint8 values 0-255 of shape (height, width) or (height, width, 1, 3 or 4). "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
