"""The transforms of lesson one, and how the engine applies them.

Scale, zoom, rotation, flip and crop become one sizing on the CPU and one map with one interpolation (``vizsla.augment``);
``RandomLighting`` has its own formula and comes last. Arrays are HWC float 0-1 before and CHW normalised after. B: images of a
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.augment.geometry import Dihedral, Flip, Rotate, Zoom
from vizsla.classic.metrics import to_array
from vizsla.classic.models import IMAGENET_STATS, INCEPTION_STATS, Arch, Stats, stats_of
from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.reader import ImageReader
from vizsla.data.images.sizing import (
    RandomResizedCrop,
    Resize,
    Sizing,
    cut_or_padded,
    window_box,
)
from vizsla.errors import ConfigError
from vizsla.seeding import counter_uniform

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vizsla.augment.batch_augmentation import BatchTransform
    from vizsla.augment.kernels import PadMode
    from vizsla.data.images.sizing import Box, Pixels
    from vizsla.types import Size

__all__ = [
    "CONSTANT",
    "REFLECT",
    "REPLICATE",
    "CropType",
    "RandomDihedral",
    "RandomFlip",
    "RandomLighting",
    "RandomRotate",
    "RandomScale",
    "Scale",
    "TfmType",
    "Transforms",
    "imagenet_stats",
    "inception_stats",
    "tfms_from_model",
    "tfms_from_stats",
    "transforms_basic",
    "transforms_side_on",
    "transforms_top_down",
]

imagenet_stats = IMAGENET_STATS
inception_stats = INCEPTION_STATS

REFLECT: PadMode = "reflection"
REPLICATE: PadMode = "border"
CONSTANT: PadMode = "zeros"
_OPENCV_BORDERS: dict[object, PadMode] = {0: CONSTANT, 1: REPLICATE, 2: REFLECT, 4: REFLECT}


# --- what a notebook asks for ------------------------------------------------------------------------------------------


class CropType(IntEnum):
    """How a square is taken out of an image."""

    RANDOM = 1
    CENTER = 2
    NO = 3
    GOOGLENET = 4


class TfmType(IntEnum):
    """What a transform does to the target; classification has only NO."""

    NO = 1
    PIXEL = 2
    COORD = 3
    CLASS = 4


@dataclass(frozen=True)
class Scale:
    """Bring the smaller side to ``sz`` pixels."""

    sz: int


@dataclass(frozen=True)
class RandomScale:
    """Bring the smaller side to between ``sz`` and ``max_zoom * sz`` pixels.

    Args:
        sz: Pixels.
        max_zoom: Largest factor, or (smallest, largest).
        p: Probability; otherwise the factor is 1.
    """

    sz: int
    max_zoom: float | tuple[float, float]
    p: float = 0.75

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest factor."""
        if isinstance(self.max_zoom, Sequence):
            low, high = self.max_zoom
            return float(low), float(high)
        return 1.0, float(self.max_zoom)


@dataclass(frozen=True)
class RandomRotate:
    """Turn about the middle by up to ``deg`` degrees either way.

    Args:
        deg: Largest angle.
        p: Probability.
        mode: What is seen outside the image: ``REFLECT``, ``REPLICATE`` or ``CONSTANT``.
        tfm_y: ``TfmType.NO``.
    """

    deg: float
    p: float = 0.75
    mode: PadMode | int = REFLECT
    tfm_y: TfmType = TfmType.NO


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right, with probability ``p``."""

    tfm_y: TfmType = TfmType.NO
    p: float = 0.5


@dataclass(frozen=True)
class RandomDihedral:
    """Turn by a multiple of 90 degrees and mirror half of the images."""

    tfm_y: TfmType = TfmType.NO


@dataclass(frozen=True)
class RandomLighting:
    """Add to all pixels, and move them towards their mean or away from it, always.

    Args:
        b: Largest change of brightness either way, for values 0-1.
        c: Largest change of contrast: a draw c >= 0 multiplies by 1 + c, one below by 1 / (1 - c).
        tfm_y: Ignored for classification.
    """

    b: float
    c: float
    tfm_y: int = 1


ScaleTransform = Scale | RandomScale

transforms_basic = [RandomRotate(10), RandomLighting(0.05, 0.05)]
transforms_side_on = [*transforms_basic, RandomFlip()]
transforms_top_down = [*transforms_basic, RandomDihedral()]


# --- how the engine does it --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledCrop(Sizing):
    """Scales the smaller side of each image, adds a border, and cuts out a square; the middle in validation.

    Attributes:
        size: ``(height, width)`` of the square.
        short_side: What the smaller side is scaled to, at least that of the square.
        pad: Pixels of border on all sides, in training.
        pad_mode: Filling of the border, see ``Resize``.
        centred_only: Whether training cuts out the middle too.
    """

    size: Size
    short_side: int
    pad: int
    pad_mode: PadMode
    centred_only: bool
    num_draws: ClassVar[int] = 2  # x and y.

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return the square of the smaller side."""
        return self.short_side, self.short_side

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return the middle of the scaled image; for a random crop in training, all of it with its border."""
        if training and not self.centred_only:
            scaled = Image.fromarray(Resize(self.short_side).presize(image, training=True))
            box = (-self.pad, -self.pad, scaled.width + self.pad, scaled.height + self.pad)
            return np.asarray(cut_or_padded(scaled, box, pad_mode=self.pad_mode))
        scaled = Resize(self.short_side).presize(image, training=False)
        start = -(-(self.short_side - self.size[0]) // 2)
        end = start + self.size[0]
        return np.ascontiguousarray(scaled[start:end, start:end])

    def part(self, size: Size, draws: Sequence[float]) -> Box:
        """Return a square anywhere in the scaled image; the draws are x and y."""
        return window_box(size, self.size, x=draws[0], y=draws[1])


class Lighting(BatchAugmentation):
    """The engine's augmentation followed by ``RandomLighting``."""

    def __init__(
        self,
        transforms: Sequence[BatchTransform],
        *,
        size: Size,
        seed: int,
        lighting: tuple[RandomLighting, ...],
    ) -> None:
        super().__init__(transforms, size=size, seed=seed)
        self.lighting = lighting

    def ahead(
        self, plan: Sequence[Tensor], *, epoch: int, training: bool
    ) -> Callable[[int, Tensor], Tensor]:
        """Return a function that augments the batches of a plan, see ``BatchAugmentation``."""
        augment = super().ahead(plan, epoch=epoch, training=training)

        def augment_and_relight(number: int, images_u8: Tensor) -> Tensor:
            images, rows = augment(number, images_u8), plan[number]
            for at, each in enumerate(self.lighting if training else ()):
                stream = f"classic lighting {at}"
                draws = counter_uniform(self.seed, stream, epoch=epoch, rows=rows, count=2)
                brightness, contrast = (draws * 2 - 1).to(images.device).unbind(1)
                images = relight(images, brightness=brightness * each.b, contrast=contrast * each.c)
            return images

        return augment_and_relight


@torch.no_grad()
def relight(images: Tensor, *, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return images, float ``(B, 3, H, W)`` 0-1, with another brightness and contrast, clipped to 0-1.

    ``brightness`` ``(B,)`` is added. ``contrast`` ``(B,)`` moves pixels away from the mean of all pixels and channels: 0.05 by a factor
    of 1.05, -0.05 by 1 / 1.05.
    """
    factor = torch.where(contrast >= 0, 1 + contrast, 1 / (1 - contrast))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = (images - mean) * factor[:, None, None, None] + mean
    return (changed + brightness[:, None, None, None]).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """How training or validation images are prepared; made by ``tfms_from_model`` and ``tfms_from_stats``.

    Calling it prepares one image: ``val_tfms(open_image(path))`` is what ``learn.predict_array`` takes, less the batch axis.

    Attributes:
        sz: Pixels per side of the result.
        sizing: Preparation on the CPU.
        policies: Transforms that follow with one interpolation; empty for validation.
        lighting: Changes of brightness and contrast after that.
        stats: Mean and standard deviation for normalising images; None leaves them at 0-1.
        is_random: Whether an image comes out differently each time.
    """

    sz: int
    sizing: Sizing
    policies: tuple[BatchTransform, ...] = ()
    lighting: tuple[RandomLighting, ...] = ()
    stats: Stats | None = IMAGENET_STATS
    is_random: bool = False

    @cached_property
    def _statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        mean, std = self.stats or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        return np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)

    def augmentation(self, *, seed: int) -> Lighting:
        """Return what turns uint8 batches into float batches 0-1, with random numbers of this seed."""
        return Lighting(self.policies, size=(self.sz, self.sz), seed=seed, lighting=self.lighting)

    def normalised(self, images: Tensor) -> Tensor:
        """Return images of 0-1, ``(..., 3, H, W)``, normalised."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in self._statistics)
        return (images - mean) / std

    def denorm(self, x: NDArray[Any] | Tensor) -> NDArray[np.float32]:
        """Return normalised images, ``(3, H, W)`` or ``(N, 3, H, W)``, for plotting: float32 ``(N, H, W, 3)``, about 0-1; N is 1 for one."""
        images = to_array(x).astype(np.float32)
        images = images[None] if images.ndim == 3 else images
        mean, std = self._statistics
        return images.transpose(0, 2, 3, 1) * std + mean

    def __call__(self, im: NDArray[Any] | Image.Image, y: object = None) -> Any:
        """Prepare one image.

        Args:
            im: Values 0-1 or bytes, ``(H, W, 3)``, any size; or an image of PIL.
            y: Returned with the image if it is not None.

        Returns:
            float32 ``(3, sz, sz)``, normalised; or that and ``y``.
        """
        reader = ImageReader(resize=self.sizing, cache=ImageCache(mode="off"))
        image = im if isinstance(im, Image.Image) else as_image(im)
        x = self.prepare(image, reader=reader)
        return x if y is None else (x, y)

    def prepare(self, source: Path | Image.Image, *, reader: ImageReader) -> NDArray[np.float32]:
        """Return one image as the network sees it, float32 ``(3, sz, sz)``, normalised; ``reader`` has this sizing."""
        seed, draws, row = 0, None, torch.zeros(1, dtype=torch.int64)
        if self.is_random:
            seed = int(torch.randint(2**31, ()))
            drawn = counter_uniform(seed, "crop", epoch=0, rows=row, count=reader.num_draws)
            draws = drawn[0].tolist()
        batch = torch.tensor(reader.read(source, draws=draws)).permute(2, 0, 1)[None]
        augment = self.augmentation(seed=seed)
        images = augment(batch, rows=row, epoch=0, training=self.is_random)
        return np.ascontiguousarray(self.normalised(images)[0].numpy())


def as_image(values: NDArray[Any]) -> Image.Image:
    """Return ``(H, W, 3)`` values as an image: floats are 0-1, uint8 0-255."""
    pixels = values if values.dtype == np.uint8 else np.rint(np.clip(values, 0, 1) * 255)
    return Image.fromarray(pixels.astype(np.uint8))


def tfms_from_model(
    f_model: Arch,
    sz: int,
    aug_tfms: Sequence[Any] | None = None,
    max_zoom: float | tuple[float, float] | None = None,
    pad: int = 0,
    crop_type: CropType | None = CropType.RANDOM,
    tfm_y: TfmType | None = None,
    sz_y: int | None = None,
    pad_mode: PadMode | int = REFLECT,
    norm_y: bool = True,
    scale: ScaleTransform | Sequence[ScaleTransform] | None = None,
) -> tuple[Transforms, Transforms]:
    """Return the preparation of training and of validation images, with the statistics of an architecture.

    Args:
        f_model: The architecture, such as ``resnet34``.
        sz: Pixels per side of what the network sees.
        aug_tfms: Augmentation in training, such as ``transforms_side_on``, or the engine's own transforms.
        max_zoom: Largest zoom in training, or (smallest, largest).
        pad: Pixels of border that a training crop may reach into.
        crop_type: How the square is cut.
        tfm_y: None or ``TfmType.NO``: targets that are images or points are not supported.
        sz_y: None, for the same reason.
        pad_mode: What is seen outside the image.
        norm_y: Ignored.
        scale: What brings images to a size, instead of ``max_zoom``.

    Raises:
        NotImplementedError: The targets are to be transformed too.
        ConfigError: A number cannot work.
    """
    stats = stats_of(f_model)
    return tfms_from_stats(
        stats, sz, aug_tfms, max_zoom, pad, crop_type, tfm_y, sz_y, pad_mode, norm_y, scale
    )


def tfms_from_stats(
    stats: Stats | None,
    sz: int,
    aug_tfms: Sequence[Any] | None = None,
    max_zoom: float | tuple[float, float] | None = None,
    pad: int = 0,
    crop_type: CropType | None = CropType.RANDOM,
    tfm_y: TfmType | None = None,
    sz_y: int | None = None,
    pad_mode: PadMode | int = REFLECT,
    norm_y: bool = True,
    scale: ScaleTransform | Sequence[ScaleTransform] | None = None,
) -> tuple[Transforms, Transforms]:
    """Return what ``tfms_from_model`` does, with a mean and a standard deviation per channel; None leaves images at 0-1."""
    del norm_y
    if tfm_y not in (None, TfmType.NO) or sz_y is not None:
        raise NotImplementedError(
            "Targets that are images or points (tfm_y, sz_y) are not supported: vizsla.classic only classifies."
        )
    crop = CropType.RANDOM if crop_type is None else CropType(crop_type)
    scaling = _scaling(scale, sz=sz, max_zoom=max_zoom)
    border = _border(pad_mode)
    policies, lighting = _policies(aug_tfms, border=border)
    grow = 1.0
    if isinstance(scaling, RandomScale) and crop in (CropType.RANDOM, CropType.CENTER):
        low, grow = scaling.limits
        point = 0.5 if crop == CropType.CENTER else None
        policies.append(Zoom(low, grow, scaling.p, None, point, point, pad_mode=border))
    # Scaled to what the largest zoom needs, so that zooming invents no pixels.
    side, short = (math.ceil(pixels * max(1.0, grow)) for pixels in (sz, scaling.sz))
    train = _sizing(crop, side=side, short=short, pad=math.ceil(pad * side / sz), pad_mode=border)
    still = CropType.NO if crop == CropType.NO else CropType.CENTER
    valid = _sizing(still, side=sz, short=scaling.sz, pad=0, pad_mode=border)
    if still == CropType.CENTER and scaling.sz == sz:
        valid = Resize(sz, reducing_gap=_GAP)
    mean_and_std = None if stats is None else (_floats(stats[0]), _floats(stats[1]))
    return (
        Transforms(
            sz=sz,
            sizing=train,
            policies=tuple(policies),
            lighting=tuple(lighting),
            stats=mean_and_std,
            is_random=True,
        ),
        Transforms(sz=sz, sizing=valid, stats=mean_and_std),
    )


def _scaling(
    scale: ScaleTransform | Sequence[ScaleTransform] | None,
    *,
    sz: int,
    max_zoom: float | tuple[float, float] | None,
) -> ScaleTransform:
    given = list(scale) if isinstance(scale, Sequence) else [] if scale is None else [scale]
    if len(given) > 1 or not all(hasattr(one, "sz") for one in given):
        raise ConfigError(f"scale must be one Scale or RandomScale. Received: {scale!r}")
    chosen = given[0] if given else Scale(sz) if max_zoom is None else RandomScale(sz, max_zoom)
    if chosen.sz < sz:
        raise ConfigError(
            f"Images must be scaled to at least the size that is cropped from them. Received: {chosen} for sz={sz}"
        )
    return chosen


def _border(mode: PadMode | int) -> PadMode:
    found = _OPENCV_BORDERS.get(mode, mode)
    if found not in (REFLECT, REPLICATE, CONSTANT):
        raise ConfigError(
            f"A border mode must be REFLECT, REPLICATE or CONSTANT. Received: {mode!r}"
        )
    return found


def _policies(
    aug_tfms: Sequence[Any] | Any | None, *, border: PadMode
) -> tuple[list[BatchTransform], list[RandomLighting]]:
    """Return the transforms of the one map, and the lighting that follows it; the caller's list is not changed."""
    policies: list[BatchTransform] = []
    lighting: list[RandomLighting] = []
    given = [] if aug_tfms is None else aug_tfms if isinstance(aug_tfms, Sequence) else [aug_tfms]
    for transform in given:
        match transform:
            case RandomLighting():
                lighting.append(transform)
            case RandomRotate():
                # The first transform decides the border of all.
                mode = border if transform.mode == REFLECT else _border(transform.mode)
                policies.append(Rotate(transform.deg, transform.p, pad_mode=mode))
            case RandomFlip():
                policies.append(Flip(transform.p, pad_mode=border))
            case RandomDihedral():
                policies.append(Dihedral(1.0, pad_mode=border))
            case _:
                policies.append(transform)
    return policies, lighting


_GAP = 1.0
"""JPEGs are decoded at the smallest scale that covers the size: the lesson's runs keep the numbers that they had."""


def _sizing(crop: CropType, *, side: int, short: int, pad: int, pad_mode: PadMode) -> Sizing:
    if crop == CropType.NO:
        return Resize(side, "squish", reducing_gap=_GAP)
    if crop == CropType.GOOGLENET:
        return RandomResizedCrop(side, 0.08, (0.75, 1.333))
    if crop == CropType.RANDOM and side == short and not pad:
        return Resize(side, reducing_gap=_GAP)
    return ScaledCrop(
        size=(side, side),
        short_side=short,
        pad=pad,
        pad_mode=pad_mode,
        centred_only=crop == CropType.CENTER,
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
