"""Open a model file and predict images: single ones and streams, with the decoding, resizing and network of validation.

Several fixed views of each image can be averaged, which is test-time augmentation without chance: the image, its mirror image,
then enlarged parts of seven eighths of its sides: the centre and the four corners, each plain and mirrored. Where the classes differ
by left and right, there are no mirror images.

Shapes: B images of a batch, H and W their sides, C classes (or numbers, where the task is regression), V views.
"""

from __future__ import annotations

import copy
import math
import os
import platform
import tempfile
from contextlib import closing, nullcontext
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.any_image import AnyImage, Bytes, as_source
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.dataloaders import DataLoader, DataLoaders, default_device
from vizsla.data.loading.loader import read_ahead
from vizsla.data.table.sources import get_image_files, holds_images
from vizsla.errors import (
    ConfigError,
    ModelFileError,
    PictureError,
    memory_checked,
    unknown_attribute,
)
from vizsla.evaluate.conformal import check_coverage
from vizsla.evaluate.metrics import measure
from vizsla.evaluate.predictions import Predictions
from vizsla.evaluate.thresholds import as_thresholds
from vizsla.infer.run import (
    FeatureKind,
    check_feature_kind,
    compute_logits,
    compute_outputs,
    image_features,
    usable_device,
)
from vizsla.infer.streamline import streamlined
from vizsla.machine import default_num_workers
from vizsla.model_file.bundle import (
    check_sha256,
    load_bundle,
    model_name,
    model_source,
    read_manifest,
    save_bundle,
)
from vizsla.model_file.final_resize import storable
from vizsla.model_file.manifest import manifest_digest
from vizsla.models.classifier import evaluation_mode
from vizsla.predict.prediction import Prediction, describe
from vizsla.seeding import generator
from vizsla.text import counted, joined, say
from vizsla.types import (
    ImageTable,
    has_class,
    logits_of,
    probabilities_of,
    unknown_targets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from numpy.typing import NDArray

    from vizsla.data.images.item_transforms import ItemPipeline, ItemTransforms
    from vizsla.data.table.fixes import Fixes
    from vizsla.data.table.from_words import Part
    from vizsla.evaluate.calibration import Calibration
    from vizsla.model_file.bundle import Bundle
    from vizsla.model_file.rebuild import Builder
    from vizsla.models.classifier import Classifier
    from vizsla.predict.evaluation import Evaluation
    from vizsla.predict.sorting import Sorted
    from vizsla.types import Task


KEPT_SHARE = 7 / 8
"""Of each side that the enlarged views keep: 224 of 256 pixels, as the centre crop of most published evaluations."""

# (down, across): 0 is the upper or left edge, 1 the lower or right one.
_PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
MOST_VIEWS = 2 * (1 + len(_PLACES))


def view_of(images: Tensor, *, number: int, flip: bool = True) -> Tensor:
    """Return view 0 to ``MOST_VIEWS`` - 1 of each image, float ``(B, 3, h, w)``, in the same shape; half as many without ``flip``."""
    number = number if flip else 2 * number
    if number >= 2:
        down, across = _PLACES[number // 2 - 1]
        height, width = images.shape[-2:]
        rows, columns = max(1, round(height * KEPT_SHARE)), max(1, round(width * KEPT_SHARE))
        top, left = round(down * (height - rows)), round(across * (width - columns))
        part = images[..., top : top + rows, left : left + columns]
        images = functional.interpolate(part, size=(height, width), mode="bilinear")
    return images.flip(-1) if number % 2 else images


_USUAL_PIXELS = 512 * 512
_TRIAL_SIZE = (64, 64)
BATCH_PIXELS = 32 * _USUAL_PIXELS
"""Of larger images, those that run through a network together have at most so many pixels."""

_METRIC_OF_TASK: dict[Task, str] = {
    "category": "accuracy",
    "multi_category": "exact_match",
    "regression": "mae",
}
_OF_LEARNERS = {
    "fit fit_one_cycle fit_flat_cos fit_sgdr fine_tune freeze unfreeze freeze_to lr_find create_opt add_cb add_cbs": (
        "Train a new one that begins with its weights: vision_learner(dls, ARCH, weights=FILE).fine_tune(1)."
    ),
    "save export": "The file is the model: copy it, or open another with load_learner(FILE).",
    "tta": "Average views of each image with predict(image, views=4).",
    "show_results": "Predict images of your own with predict_many(files), and draw one with show_image(file).",
    "recorder": "The history of a training is in the folder of its run, history.csv.",
    "summary": "Print the network: print(learn.model).",
}
"""What a learner has, and what to do where there is only a model file."""

_Source = TypeVar("_Source", bound=AnyImage)
_Answer = TypeVar("_Answer")


class Predictor:
    """Predicts single images and streams of them.

    Args:
        classifier: Used in evaluation mode; each part of it keeps the mode that it was in.
        resize: Resizes a decoded image; None if images keep their own size. Or everything that is done to each image, such
            as ``DataLoaders.reader.items``.
        augmentation: What batches go through after that, as in validation; None for nothing.
        calibration: Adjusts the probabilities; None leaves them as the network gives them.
        bit_depth: How many bits the values of 16-bit images use, 8 to 16; None scales them by 65,535.
        flip: Whether mirror images may be among the ``views``: False for classes that differ by left and right.
        thresholds: Of several labels, the probability above which an image has each class; None is 0.5 for all.

    Attributes:
        vocab: Names of the classes or numbers, in the order of the probabilities.
        task: What is predicted.
        classifier: The network.
        calibration: What was fitted on the validation images.
        thresholds: Of several labels, as given or set by ``set_thresholds``.
        path: The model file that it was loaded from; None if it was loaded from bytes, or not loaded.
        flip: As given.

    An image gets the same prediction alone, in a batch of any size, and in validation, except for rounding in the network,
    which may change the sixth digit; logits are divided by the temperature before they become probabilities.

    Examples:
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
        calibration: Calibration | None = None,
        bit_depth: int | None = None,
        flip: bool = True,
        thresholds: tuple[float, ...] | None = None,
    ) -> None:
        self.flip = flip
        self.calibration = calibration
        self.vocab = classifier.vocab
        self.task: Task = classifier.task
        self.thresholds = thresholds
        self.classifier = classifier
        self.path: Path | None = None
        # The absolute path of the model file, and the digest of its manifest.
        self._file: tuple[str, str] | None = None
        self._builder: Builder | None = None
        self._faster: tuple[Classifier, Classifier] | None = (
            None  # the classifier, and what it became
        )
        self._reader = ImageReader(resize=resize, cache=ImageCache(mode="off"), bit_depth=bit_depth)
        self._augmentation = BatchAugmentation() if augmentation is None else augmentation

    @classmethod
    def load(
        cls,
        path: Path | str | bytes | BinaryIO,
        device: torch.device | str = "auto",
        *,
        sha256: str | None = None,
        builder: Builder | None = None,
    ) -> Predictor:
        """Open a model file.

        Args:
            path: A file that ``vizsla train`` or ``Learner.export`` wrote: its path, its bytes, or open for reading bytes.
            device: ``"auto"`` is CUDA if there is one, else Apple's MPS, else the CPU.
            sha256: Expected SHA-256 of the whole file, 64 hexadecimal digits; any other file is refused unopened. None
                opens any file: damage is detected without it, but not a deliberate replacement.
            builder: For a file with your own parts: a function without arguments that builds the network given to
                ``Learner``, or the head given as ``custom_head``, or (body, head) if both are yours. None for all other files.

        Raises:
            ModelFileError: The file is missing, damaged, not a model file, in a newer format, or does not have that digest;
                or it needs a builder, or the builder builds a different network.
            ConfigError: This machine has no such device, the digest is not one, or the builder fails or is not needed.
            OutOfMemoryError: The network does not fit into memory.
        """
        chosen = default_device() if device == "auto" else usable_device(device)
        source = model_source(path)
        if sha256 is not None:
            check_sha256(source, sha256)
        doing = f"opening {model_name(source)}"
        with memory_checked(doing, cure="Use a machine or device with more memory."):
            bundle = load_bundle(source, device=chosen, builder=builder)
            bundle.classifier.place(chosen)
        predictor = cls.of_bundle(bundle)
        predictor._builder = builder
        if isinstance(source, Path):
            predictor.path = source
            predictor._file = (str(source.absolute()), manifest_digest(bundle.manifest))
        return predictor

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Predictor:
        """Return the predictor of a model file that is already open; its classifier is used, not copied."""
        return cls(
            bundle.classifier,
            resize=bundle.manifest.resize,
            augmentation=bundle.manifest.final_resize.augmentation(),
            calibration=bundle.manifest.calibration,
            bit_depth=bundle.manifest.bit_depth,
            flip=bundle.manifest.flip,
            thresholds=bundle.manifest.thresholds,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the model file is and what is in it, or else the bytes of one; and thresholds. Other changes are not sent."""
        if self._file is not None:
            return _reopened, (*self._file, str(self.device), self.thresholds, self._builder)
        resize, augmentation = storable(self._reader.items, self._augmentation)
        with tempfile.TemporaryDirectory() as folder:
            file = save_bundle(
                Path(folder) / "model.safetensors",
                classifier=self.classifier,
                resize=resize,
                augmentation=augmentation,
                calibration=self.calibration,
                bit_depth=self.bit_depth,
                flip=self.flip,
            )
            if self._builder is None and (parts := read_manifest(file).own_parts):
                raise ConfigError(
                    f"This predictor has a {' and '.join(parts)} of your own, whose code cannot be sent to "
                    "another process. Export the learner, and send Predictor.load(FILE, builder=FUNCTION), with "
                    "a function defined at the top level of a module."
                )
            return _reopened, (
                file.read_bytes(),
                None,
                str(self.device),
                self.thresholds,
                self._builder,
            )

    def __copy__(self) -> Predictor:
        """Return a predictor that shares the network, not one that is opened again as after pickling."""
        made = object.__new__(type(self))
        made.__dict__ = self.__dict__.copy()
        return made

    def faster(self) -> Predictor:
        """Return a faster predictor that shares the weights where possible and gives the same predictions up to rounding.

        Returns itself if nothing can be gained; for images of more than 512 x 512 pixels, as two are needed for the trial;
        and on a GPU: its convolutions round their weights to ten bits (TF32), and weights with norms folded in would round
        differently.
        """
        presize = self._reader.items.sizing and self._reader.items.sizing.size
        if self.device.type != "cpu" or math.prod(presize or _TRIAL_SIZE) > _USUAL_PIXELS:
            return self
        if self._faster is None or self._faster[0] is not self.classifier:
            noise = torch.randint(256, (2, *_TRIAL_SIZE, 3), generator=generator(0, "faster"))
            images = [self.prepare(pixels) for pixels in noise.to(torch.uint8).numpy()]
            quick = streamlined(self.classifier, images=self.network_input(images))
            self._faster = self.classifier, quick
        made = copy.copy(self)
        made.classifier = self._faster[1]
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        """Return a predictor with a network of its own."""
        made = copy.copy(self)
        made.classifier, made._faster = copy.deepcopy(self.classifier, memo), None
        return made

    def __getattr__(self, name: str) -> Any:
        """Say of what a learner has, and a model file cannot give, what to do instead."""
        way = next((way for names, way in _OF_LEARNERS.items() if name in names.split()), None)
        if way is None:
            raise unknown_attribute(self, name)
        raise _NotInFileError(f"A model that was loaded from a file has no {name}. {way}")

    def __repr__(self) -> str:
        from vizsla.notebook.cards import predictor_card

        return predictor_card(self).text()

    def _repr_html_(self) -> str:
        """Return the predictor as a card, for notebooks."""
        from vizsla.notebook.cards import predictor_card

        return predictor_card(self).html()

    @property
    def dls(self) -> DataLoaders:
        """Loaders without images, which prepare new images as this model needs them: ``dls.test_dl(files)``, ``dls.vocab``."""
        nothing = torch.zeros(0, dtype=torch.int64)
        table = ImageTable(
            root=Path(),
            paths=(),
            targets=unknown_targets(0, task=self.task, num_outputs=len(self.vocab)),
            vocab=self.vocab,
            class_type=self.classifier.class_type,
            train_rows=nothing,
            valid_rows=nothing,
            task=self.task,
        )
        cache = ImageCache(mode="off")
        loaders = DataLoaders(
            table,
            resize=self._reader.items,
            device=self.device,
            cache=cache,
            bit_depth=self.bit_depth,
        )
        loaders.augmentation = self._augmentation
        return loaders

    def get_preds(
        self,
        dl: DataLoader | None = None,
        with_decoded: bool = False,
        with_input: bool = False,
        reorder: bool = True,  # noqa: ARG002
    ) -> tuple[Tensor | None, ...]:
        """Return the predictions for the images of a loader, in its order.

        Args:
            dl: As ``dls.test_dl(files)`` gives it.
            with_decoded: Add the predicted classes (or labels, or numbers).
            with_input: Put the images first, as the network sees them.
            reorder: Without effect: images are never read out of order.

        Returns:
            Probabilities as from ``predict``, float32 ``(N, C)`` on the CPU; the targets, None where no label is known; then
            the decoded predictions, if asked for.

        Raises:
            ConfigError: There is no ``dl``.
        """
        if dl is None:
            raise ConfigError(
                "A model file holds no images, so get_preds() has nothing to predict. "
                "Give it some: get_preds(dl=learn.dls.test_dl(files))."
            )
        outputs = compute_outputs(self.classifier, dl, keep_images=with_input)
        temperature = 1.0 if self.calibration is None else self.calibration.temperature
        # A calibration of numbers has the temperature 1.
        probabilities = probabilities_of(outputs.logits / temperature, task=self.task)
        found = (outputs.images,) if with_input else ()
        found += (probabilities, outputs.targets)
        if not with_decoded:
            return found
        decoded = probabilities
        if self.task == "category":
            decoded = outputs.logits.argmax(1)
        elif self.task == "multi_category":
            decoded = has_class(probabilities, self.thresholds)
        return *found, decoded

    def set_thresholds(self, thresholds: float | Sequence[float] | Mapping[str, float]) -> None:
        """For several labels: replace the thresholds of the model file.

        Args:
            thresholds: The probability above which an image has a class: one number for all, a number for each, or numbers by
                class; the other classes then keep theirs.

        Raises:
            ConfigError: They are not probabilities, a class does not exist, or the model does not predict several labels.
        """
        self.thresholds = as_thresholds(
            thresholds, vocab=self.vocab, task=self.task, now=self.thresholds
        )

    def validate(self, dl: DataLoader | None = None) -> list[float]:
        """Return the mean loss on labelled images and the first metric of the task; ``evaluate`` gives intervals.

        Args:
            dl: As ``dls.test_dl(items, with_labels=True)`` of the learner that wrote the file gives it.

        Returns:
            The loss of the calibrated outputs, and ``accuracy`` (several labels: ``exact_match``, numbers: ``mae``).

        Raises:
            ConfigError: There is no ``dl``, or its images have no labels, or labels of another model.
        """
        if dl is None:
            raise ConfigError(
                "A model file holds no images, so there is nothing to validate on. Evaluate it on labelled "
                "images with evaluate(DATA) or vizsla evaluate MODEL DATA, or on a loader with validate(dl=...)."
            )
        probabilities, targets = self.get_preds(dl)
        if targets is None or probabilities is None:
            raise ConfigError(
                "These images have no labels, so there is nothing to compare with. Make the loader with with_labels=True."
            )
        if dl.table.vocab != self.vocab:
            raise ConfigError(
                f"The labels of these images are not those of the model. It has {joined(self.vocab, limit=10)}. "
                f"Received: {joined(dl.table.vocab, limit=10)}"
            )
        said = Predictions(
            rows=torch.arange(len(targets)),
            paths=tuple(map(dl.table.shown_path, dl.rows.tolist())),
            logits=logits_of(probabilities, task=self.task),
            targets=targets,
            vocab=self.vocab,
            task=self.task,
            thresholds=self.thresholds,
        )
        return [float(said.losses.nanmean()), measure(said, _METRIC_OF_TASK[self.task]).value]

    def evaluate(
        self,
        data: Path | str,
        *,
        labels: str = "auto",
        label_level: int | Literal["auto"] = "auto",
        part: Part = "auto",
        fixes: Fixes = None,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Evaluation:
        """Evaluate the model on labelled images, which should not be its training images.

        Args:
            data: A folder of images, or a CSV file.
            labels: Where labels come from, in the words of ``vizsla train --labels``.
            label_level: Which level of folders names the class, as for ``train``.
            part: ``"test"``, ``"valid"``, ``"train"`` or ``"all"`` images of the data; ``"auto"``: the test part where the data
                has one, else the validation part, else all.
            fixes: A file of labels to change and images to drop, or what ``read_fixes`` returns.
            batch_size: As for ``predict_many``.
            num_workers: As for ``predict_many``.

        Raises:
            DataError: An image is missing, or its label is, or the model does not know it; or no image can be read.
            ConfigError: The labels are not of the model's task, or the data has no such part.

        Examples:
            >>> for metric in predictor.evaluate("pets").metrics:
            ...     print(metric.name, metric.value, metric.low, metric.high)
        """
        from vizsla.predict.evaluation import evaluate_model

        return evaluate_model(
            self,
            data,
            labels=labels,
            label_level=label_level,
            part=part,
            fixes=fixes,
            batch_size=batch_size,
            num_workers=num_workers,
        )

    @property
    def model(self) -> Classifier:
        """The network, under the name that it has in a learner."""
        return self.classifier

    def no_bar(self) -> AbstractContextManager[Predictor]:
        """Return a context that changes nothing: a predictor shows no bars."""
        return nullcontext(self)

    @property
    def bit_depth(self) -> int | None:
        """How many bits the values of 16-bit images use; None scales them by 65,535."""
        return self._reader.bit_depth

    @property
    def device(self) -> torch.device:
        """Where the classifier runs."""
        return next(self.classifier.parameters()).device

    def predict(
        self, image: AnyImage, *, coverage: float | None = None, views: int = 1
    ) -> Prediction:
        """Classify one image.

        Args:
            image: A path; the bytes of a file, also as base64 text or a data URL; a file open for reading bytes, taken from its
                beginning; a tensor ``(H, W)`` or ``(1 | 3 | 4, H, W)`` or an array ``(H, W)`` or ``(H, W, 1 | 3 | 4)`` of uint8
                0-255 or floats 0-1; or a Pillow image of any mode. It is not changed.
            coverage: Also return the set of classes that contains the true one with this probability, for example 0.95; see
                ``Prediction.label_set``. None for no set.
            views: Number of views of the image to average, 1 to 12: the image, its mirror image, then enlarged crops. If
                the model was trained without mirror images, 1 to 6 without them. Label sets were fitted without views.

        Raises:
            PictureError: The image cannot be read.
            ConfigError: The network's output is not finite, there are no such views, or the model file has no label sets.
        """
        self.check_options(coverage=coverage, views=views)
        return self.predict_prepared([self.prepare(image)], coverage=coverage, views=views)[0]

    def check_options(self, *, coverage: float | None, views: int) -> None:
        """Raise ConfigError if there are no such views, or the model file has no label sets for the coverage."""
        most = MOST_VIEWS if self.flip else MOST_VIEWS // 2
        if not isinstance(views, int) or not 1 <= views <= most:  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
            why = "" if self.flip else ", as this model was trained without mirror images"
            raise ConfigError(
                f"The number of views of each image must be a whole number from 1 to {most}{why}. Received: "
                f"{views!r}"
            )
        if coverage is None:
            return
        check_coverage(coverage)
        if self.calibration is None or self.calibration.label_sets is None:
            raise ConfigError(
                "There are no label sets for this model: they need one class per image and labelled validation images "
                "when the model file is written. Leave out coverage, or export the model again."
            )

    def prepare(self, image: AnyImage) -> NDArray[np.uint8]:
        """Decode an image and bring it to size, as validation sees it; safe in any thread.

        Returns:
            uint8 ``(H, W, 3)`` for ``predict_prepared``.

        Raises:
            PictureError: The image cannot be read.
        """
        return self._reader.read(as_source(image, bit_depth=self.bit_depth))

    def predict_prepared(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        coverage: float | None = None,
        views: int = 1,
    ) -> list[Prediction]:
        """Return the predictions of images that ``prepare`` gave, of any sizes, in one batch for each size.

        Raises:
            ConfigError: As from ``predict``.
            OutOfMemoryError: They do not fit into memory together.
        """
        self.check_options(coverage=coverage, views=views)

        def predictions(seen: Tensor) -> list[Prediction]:
            logits_VBC = torch.stack(
                [
                    compute_logits(self.classifier, view_of(seen, number=number, flip=self.flip))
                    for number in range(views)
                ]
            ).cpu()
            _check_finite(logits_VBC)
            return describe(
                logits_VBC,
                task=self.task,
                vocab=self.vocab,
                class_type=self.classifier.class_type,
                calibration=self.calibration,
                coverage=coverage,
                thresholds=self.thresholds,
            )

        return self._in_batches(images, predictions, doing="predicting")

    def _in_batches(
        self,
        images: Sequence[NDArray[np.uint8]],
        compute: Callable[[Tensor], Iterable[_Answer]],
        *,
        doing: str,
    ) -> list[_Answer]:
        """Return what is computed of prepared images, one answer for each, in their order."""
        answers: dict[int, _Answer] = {}
        for positions in self.batches_of(images):
            shown = [images[position] for position in positions]
            height, width, _ = shown[0].shape
            doing_so = f"{doing} {counted(len(shown), 'image')} of {height} x {width} pixels"
            cure = "Use a smaller batch_size (--bs), or a device with more memory."
            with memory_checked(doing_so, cure=cure), evaluation_mode(self.classifier):
                found = compute(self.network_input(shown))
            answers.update(zip(positions, found, strict=True))
        return [answers[position] for position in range(len(images))]

    def batches_of(self, images: Iterable[NDArray[np.uint8]]) -> list[list[int]]:
        """Return the positions of images that ``prepare`` gave, those together that can run through the network together.

        They have one shape. A model file can ask for images of 8 million pixels, so of those larger than 512 x 512 only as
        many are together as have ``BATCH_PIXELS``.
        """
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(position)
        batches: list[list[int]] = []
        for (height, width, _), positions in by_shape.items():
            pixels = max(height * width, math.prod(self._augmentation.size or (0,)))
            together = len(positions) if pixels <= _USUAL_PIXELS else max(1, BATCH_PIXELS // pixels)
            batches += [
                positions[start : start + together] for start in range(0, len(positions), together)
            ]
        return batches

    def network_input(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return what the network sees of images of one size that ``prepare`` gave, for heat maps and features.

        Returns:
            float32 ``(B, 3, height, width)`` with values 0-1, on the classifier's device.
        """
        images_u8 = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return self._augmentation(
            images_u8.to(self.device), rows=torch.arange(len(images_u8)), epoch=0, training=False
        )

    @overload
    def predict_many(
        self,
        images: Path | str,
        *,
        batch_size: int = 32,
        num_workers: int | None = None,
        coverage: float | None = None,
        views: int = 1,
    ) -> Generator[tuple[Path, Prediction | PictureError]]: ...
    @overload
    def predict_many(
        self,
        images: Iterable[_Source],
        *,
        batch_size: int = 32,
        num_workers: int | None = None,
        coverage: float | None = None,
        views: int = 1,
    ) -> Generator[tuple[_Source, Prediction | PictureError]]: ...
    def predict_many(
        self,
        images: Path | str | Iterable[AnyImage],
        *,
        batch_size: int = 32,
        num_workers: int | None = None,
        coverage: float | None = None,
        views: int = 1,
    ) -> Generator[tuple[AnyImage, Prediction | PictureError]]:
        """Yield each image with its prediction, in the order given; works for any number of images.

        Args:
            images: In any form that ``predict`` takes; they are taken a few batches ahead of the results. Or one image, or the
                path of a folder whose images are all taken, sorted by path.
            batch_size: Images that run through the network together.
            num_workers: Threads that decode; 0 decodes in the caller's, None means one per processor, at most 16.
            coverage: See ``predict``.
            views: See ``predict``.

        Returns:
            The image as given, with its prediction, or the error where it cannot be read.

        Raises:
            ConfigError: ``batch_size`` is below 1 or ``num_workers`` below 0; see also ``predict``.
            DataError: A folder has no images.
        """
        self.check_options(coverage=coverage, views=views)
        predict = partial(self.faster().predict_prepared, coverage=coverage, views=views)
        return self._stream(images, predict, batch_size=batch_size, num_workers=num_workers)

    def sort_images(
        self,
        images: Path | str | Iterable[Path | str],
        folder: Path | str,
        *,
        link: bool = False,
        batch_size: int = 32,
        num_workers: int | None = None,
        views: int = 1,
    ) -> Sorted:
        """Copy images into one folder per predicted class; nothing is moved or overwritten.

        Duplicate names in a class get a number. An image with several labels goes to the folder of each, one with none to
        no folder. ``sorted.csv`` in the folder lists where each image went, and which images cannot be read. A class whose
        name is not safe as a folder name gets another folder name, see ``Sorted.renamed``.

        Args:
            images: Paths of files, or that of a folder whose images are all taken.
            folder: A new or empty folder, outside the folder of the images.
            link: Make symbolic links instead of copies.
            batch_size: As for ``predict_many``.
            num_workers: As for ``predict_many``.
            views: As for ``predict_many``.

        Raises:
            OutputError: The folder has files already, lies among the images, or cannot be written.
            ConfigError: The model predicts numbers, or an option cannot work.
            DataError: A folder has no images.
        """
        from vizsla.predict.sorting import sort_images

        how: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "views": views}
        return sort_images(self, images, folder, link=link, **how)

    def embed(
        self,
        images: AnyImage | Iterable[AnyImage],
        *,
        features: FeatureKind = "head",
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Generator[tuple[AnyImage, Tensor | PictureError]]:
        """Yield each image with its features, in the order given; any number of images, in constant memory.

        Args:
            images: As for ``predict_many``.
            features: ``"head"``: what the head reads, its pooled and standardised statistics of several stages after ``vizsla
                train``, the largest value and the mean of each channel of the last stage after ``vision_learner``.
                ``"body"``: the mean of each channel of the last stage, which does not depend on the head.
            batch_size: As for ``predict_many``.
            num_workers: As for ``predict_many``.

        Returns:
            The image as given, with its features, float32 ``(D,)`` on the CPU, or the error where it cannot be read.

        Raises:
            ConfigError: There are no such features, or a number is out of range.
            DataError: A folder has no images.

        Examples:
            >>> for path, features in predictor.embed("pets"):
            ...     print(path, features.shape)
        """
        check_feature_kind(features, self.classifier)

        quick = self.faster()

        def embed(prepared: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
            return quick._in_batches(prepared, rows_of, doing="computing the features of")

        def rows_of(seen: Tensor) -> Sequence[Tensor]:
            found = image_features(quick.classifier, seen, kind=features)
            _check_finite(found)
            return found.unbind()

        return self._stream(images, embed, batch_size=batch_size, num_workers=num_workers)

    def _stream(
        self,
        images: AnyImage | Iterable[AnyImage],
        compute: Callable[[list[NDArray[np.uint8]]], Sequence[_Answer]],
        *,
        batch_size: int,
        num_workers: int | None,
    ) -> Generator[tuple[AnyImage, _Answer | PictureError]]:
        """Yield each image with what is computed of it; what cannot work is refused at the call."""
        num_workers = default_num_workers() if num_workers is None else num_workers
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"batch_size must be at least 1 and num_workers at least 0. Received: batch_size={batch_size}, "
                f"num_workers={num_workers}"
            )
        prepared = read_ahead(
            self._prepared,
            _several(images),
            num_workers=num_workers,
            max_waiting=2 * batch_size,
            num_bytes=lambda read: getattr(read[1], "nbytes", 0),
        )

        def answers() -> Generator[tuple[AnyImage, _Answer | PictureError]]:
            with closing(prepared):
                while batch := list(islice(prepared, batch_size)):
                    readable = [each for _, each in batch if not isinstance(each, PictureError)]
                    found = iter(compute(readable))
                    for image, pixels in batch:
                        failed = isinstance(pixels, PictureError)
                        yield image, pixels if failed else next(found)

        return answers()

    def _prepared(self, image: AnyImage) -> tuple[AnyImage, NDArray[np.uint8] | PictureError]:
        try:
            return image, self.prepare(image)
        except PictureError as error:
            return image, error


def _check_finite(outputs: Tensor) -> None:
    if not outputs.isfinite().all():
        raise ConfigError(
            "The network's output is not finite: its weights are damaged. "
            "Train it again with a lower learning rate."
        )


class _NotInFileError(ConfigError, AttributeError):
    """What notebooks ask of a learner, and a model file does not hold."""


@lru_cache(maxsize=2)  # a pool of processes sends a predictor along with every few images
def _reopened(
    model: str | bytes,
    digest: str | None,
    device: str,
    thresholds: tuple[float, ...] | None,
    builder: Builder | None,
) -> Predictor:
    """Open the model of a pickled predictor, by the path or the bytes of its file."""
    if isinstance(model, str) and not Path(model).exists():
        raise ModelFileError(
            f"There is no model file {model} on {platform.node()}, where this predictor was sent to. Put the file there, or send a "
            "predictor that was loaded from bytes, which go with it: Predictor.load(Path(FILE).read_bytes())."
        )
    if digest is not None and manifest_digest(read_manifest(model)) != digest:
        raise ModelFileError(
            f"The file {model!s} was replaced by another model since this predictor was loaded. Load it again."
        )
    predictor = Predictor.load(model, device=device, builder=builder)
    predictor.thresholds = thresholds
    return predictor


def _several(images: Any) -> Iterable[AnyImage]:
    """Return images one after another: those of a folder, a single one, or what was given."""
    if isinstance(images, str | os.PathLike) and _is_folder(images):
        return get_image_files(os.fspath(images))
    if isinstance(images, str | os.PathLike):
        return [images if isinstance(as_source(images), bytes) else Path(images)]
    is_array = getattr(images, "ndim", 1) in (0, 2, 3)  # one of 1 dimension is a column of images
    if is_array or isinstance(images, Bytes | Image.Image) or hasattr(images, "read"):
        return [images]
    if not hasattr(images, "__iter__"):
        return [as_source(images)]  # It says what an image is.
    return images


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return holds_images(Path(path))
    except OSError:  # a text that is too long for a path
        return False


def load_learner(
    fname: Path | str | bytes | BinaryIO, cpu: bool = True, *, builder: Builder | None = None
) -> Predictor:
    """Open an exported model, for prediction only; the name is the one that fastai notebooks use.

    Args:
        fname: A model file, as ``Learner.export`` or ``vizsla train`` wrote it: its path, its bytes, or open for reading bytes.
            Where there is no ``export.pkl``, as fastai's ``learn.export()`` writes it, it is the ``model.safetensors`` there.
        cpu: Predict on the CPU; otherwise on the best device there is.
        builder: Builds the parts of the network that are your own, see ``Predictor.load``.

    Raises:
        ModelFileError: The file is missing, damaged, not one of ours, or newer than this version; or it needs a builder.
        ConfigError: The builder fails or is not needed.

    Examples:
        >>> load_learner("model.safetensors").predict("cat.jpg").label
        'cat'
    """
    source = model_source(fname)
    if isinstance(source, Path) and source.name == "export.pkl" and not source.exists():
        written = source.with_name("model.safetensors")
        if written.exists():
            say(
                f"Opening {written}, which is what learn.export() writes; there is no {source.name}."
            )
            source = written
    return Predictor.load(source, device="cpu" if cpu else "auto", builder=builder)
