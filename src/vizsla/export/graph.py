"""Build one module from decoded images to calibrated answers: resize, normalise, network; for ONNX and torch.export.

It does what ``Predictor`` does, in operations that torch.export can follow for every size of image and batch, so
ONNX files and exported programs contain their preprocessing. The presize keeps whole grey levels between its steps,
as ``data/images/sizing.py`` does; the final resize is one matrix for each axis, made by the kernels of training.

Shape legend: B images, H x W as decoded, h x w as the network sees them, C classes (or numbers).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vizsla.augment.kernels import area_average, prefilter_sizes, sample_at, sampling_grid
from vizsla.data.images.sizing import MAX_COPIED_PIXELS, resampler
from vizsla.errors import ConfigError
from vizsla.types import probabilities_of

if TYPE_CHECKING:
    from vizsla.data.images.sizing import Resize
    from vizsla.model_file.bundle import Bundle
    from vizsla.model_file.final_resize import FinalResize
    from vizsla.models.classifier import Classifier
    from vizsla.types import Size, Task


_PILLOW_DIGITS = 22
"""Binary digits of the weights of Pillow's resampling (``Resample.c``, ``PRECISION_BITS``)."""

_COARSE = 2.0**11
"""Weights of 22 digits are split into two of 11: 22 and the 8 of a pixel are more than float32 has. Of an image enlarged from
40 to 48 pixels every fourth value is halfway between two grey levels, and the last digit decides between them."""

_TORCH_LIMIT = 2**15
"""The largest weight of torch's resampling of bytes stays below this: it has as many digits as fit."""


class InferenceGraph(nn.Module):
    """Everything that happens to an image between its decoder and its answer; the classifier is used, not copied.

    Without ``presize`` decoded images keep their size; without ``final_resize`` presized images are what the network sees.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        presize: Presize | None,
        final_resize: SeparableResize | None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.presize = presize
        self.final_resize = final_resize
        self.classifier = classifier
        self.temperature = temperature
        self.task: Task = classifier.task

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, or numbers for regression, float32 ``(B, C)``, of upright RGB images uint8 ``(B, H, W, 3)``."""
        planes = images.permute(0, 3, 1, 2)
        if self.presize is not None:
            planes = self.presize(planes)
        values = planes.float()
        if self.final_resize is not None:
            values = self.final_resize(values)
        logits_BC = self.classifier(values / 255)
        if self.temperature != 1:
            logits_BC = logits_BC / self.temperature
        return probabilities_of(logits_BC, task=self.task)


class _HalfBackbone(nn.Module):
    """A backbone in float16, between images and maps in float32: heads add up squares, which leave the range of float16."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.float() for each in self.backbone(images.half()))


class Presize(nn.Module):
    """``Resize.centred`` for batches of tensors, without its first shrinking of images above 33 million pixels."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.size = resize.size
        self.method = resize.method
        self.pad_mode = resize.pad_mode
        self.most_by_torch = MAX_COPIED_PIXELS if resampler() == "torch" else 0

    def forward(self, planes: Tensor) -> Tensor:
        """Return float32 ``(B, 3, h, w)``, whole numbers 0-255, for uint8 ``(B, 3, H, W)``."""
        height, width = self.size
        if self.method != "squish":
            source_height, source_width = planes.shape[2], planes.shape[3]
            planes = self._boxed(
                planes, dim=2, side=source_height, wanted=source_width * height // width
            )
            planes = self._boxed(
                planes, dim=3, side=source_width, wanted=source_height * width // height
            )
        area = planes.shape[2] * planes.shape[3]
        values = planes.float()
        coarse, fine = self._weights(values.shape[3], width, area=area)
        values = _rounded(torch.matmul(values, coarse.T), torch.matmul(values, fine.T))
        coarse, fine = self._weights(values.shape[2], height, area=area)
        return _rounded(torch.matmul(coarse, values), torch.matmul(fine, values))

    def _weights(self, source_side: int, side: int, *, area: int) -> tuple[Tensor, Tensor]:
        """Return two float32 ``(side, source_side)``; their sum is how much each old pixel counts in each new one on one axis.

        Triangles over what a new pixel covers (Pillow, ``Resample.c``), in as many binary digits as the resampler has: with
        all digits one grey level in 200 comes out differently, which moves a probability by up to 0.005.
        """
        scale = source_side / torch.full((1, 1), side, dtype=torch.float64)
        centres = (torch.arange(side, dtype=torch.float64)[:, None] + 0.5) * scale
        old = torch.arange(source_side, dtype=torch.float64) + 0.5
        triangles = (1 - (old - centres).abs() / scale.clamp_min(1)).clamp_min(0)
        weights = triangles / triangles.sum(1, keepdim=True)
        powers = torch.tensor([2.0**digits for digits in range(_PILLOW_DIGITS + 1)]).double()
        fits = (weights.amax(dim=(0, 1)) * powers[1:] + 0.5).floor() < _TORCH_LIMIT
        # Pillow for images that would first have to be copied at great length, see data/images/sizing.py.
        by_pillow = torch.full((1,), area) > self.most_by_torch
        digits = torch.where(by_pillow, _PILLOW_DIGITS, fits.sum())
        unit = powers.index_select(0, digits)
        weights = (weights * unit + 0.5).floor() / unit
        coarse = (weights * _COARSE).floor() / _COARSE
        return coarse.float(), (weights - coarse).float()

    def _boxed(self, planes: Tensor, *, dim: int, side: int, wanted: int) -> Tensor:
        """Cut or pad one axis; ``wanted`` is how long it would be in a box of the right shape around the other one."""
        if self.method == "crop":
            length = torch.sym_min(side, torch.sym_max(1, wanted))
            # Two equal lines become what one would; torch.export treats an axis of length 1 as another graph.
            places = torch.arange(torch.sym_max(2, length)).clamp_max(length - 1)
            return planes.index_select(dim, places + (side - length) // 2)
        length = torch.sym_max(side, wanted)
        places = torch.arange(torch.sym_max(2, length)).clamp_max(length - 1) - (length - side) // 2
        last = torch.full((1,), side - 1)
        if self.pad_mode == "reflection":
            period = (2 * last).clamp_min(1)
            turned = torch.remainder(places, period)
            return planes.index_select(dim, torch.minimum(turned, period - turned))
        inside = torch.minimum(places.clamp_min(0), last)
        padded = planes.index_select(dim, inside)
        if self.pad_mode == "border":
            return padded
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        return torch.where((inside == places).view(shape), padded, torch.zeros_like(padded[:1]))


class SeparableResize(nn.Module):
    """A resampling along the axes as two matrix products: all that validation does after the presize.

    Args:
        down: float32 ``(h, H)``.
        across: float32 ``(w, W)``.
        clamps: Whether values are kept within 0-255; a cubic overshoots at edges.
    """

    down: Tensor
    across_T: Tensor

    def __init__(self, down: Tensor, across: Tensor, *, clamps: bool) -> None:
        super().__init__()
        self.register_buffer("down", down)
        self.register_buffer("across_T", across.T.contiguous())
        self.clamps = clamps

    def forward(self, values: Tensor) -> Tensor:
        """Return float ``(B, 3, h, w)`` for float ``(B, 3, H, W)``."""
        values = torch.matmul(self.down, torch.matmul(values, self.across_T))
        return values.clamp(0, 255) if self.clamps else values


def _rounded(coarse: Tensor, fine: Tensor) -> Tensor:
    # Whole levels apart from the rest, which keeps all digits of float32.
    whole = coarse.floor()
    return (whole + (coarse - whole + fine + 0.5).floor()).clamp(0, 255)


def inference_graph(
    bundle: Bundle, *, presized: bool = False, half: bool = False
) -> InferenceGraph:
    """Return the module that takes decoded images, for a model file that was opened on the CPU; it uses its classifier.

    ``presized``: images come at the size that the presize gives, and it is left out. ``half``: the network, without its head,
    computes in float16; it is a copy then.

    Raises:
        ConfigError: Images keep their own size until the final resize, so that this would differ from image to image.
    """
    resize, final = bundle.manifest.resize, bundle.manifest.final_resize
    calibration = bundle.manifest.calibration
    if resize is None and final.size is not None:
        raise ConfigError(
            f"This model resizes batches of images of any size to {final.size[0]} x {final.size[1]} pixels, which "
            "cannot be exported as one graph for all sizes. Train with item_tfms=Resize(...), then export."
        )
    classifier = bundle.classifier
    if half:
        classifier = copy.deepcopy(classifier)
        classifier.backbone = _HalfBackbone(classifier.backbone)  # pyright: ignore[reportAttributeAccessIssue] (it is called, no more)
    graph = InferenceGraph(
        classifier,
        presize=None if resize is None or presized else Presize(resize),
        final_resize=None if resize is None else separable_resize(final, source_size=resize.size),
        temperature=1.0 if calibration is None else calibration.temperature,
    )
    return graph.eval()


def separable_resize(final: FinalResize, *, source_size: Size) -> SeparableResize | None:
    """Return what validation does to images of one size, or None where it does nothing.

    The matrices come from the kernels of training, applied to one image for each row of the source: the area average
    before a strong shrinking, then the sampling at the places that the map of validation gives.
    """
    size = source_size if final.size is None else final.size
    warp_133 = final.augmentation().validation_map(1, source_size=source_size)
    if size == source_size and torch.equal(warp_133[0], torch.eye(3, dtype=warp_133.dtype)):
        return None
    pooled = [None]
    if final.mode != "nearest":
        pooled = prefilter_sizes(warp_133, source_size=source_size, size=size)
    grid = sampling_grid(warp_133.float(), size=size, align_corners=final.align_corners)
    matrices: list[Tensor] = []
    for side, pooled_side, places in zip(
        source_size,
        pooled[0] or (None, None),
        (grid[:, :, 0, 1], grid[:, 0, :, 0]),  # down and across: (1, outputs), -1 to 1
        strict=True,
    ):
        # How images of one row are sampled of which each has one white pixel.
        rows = torch.eye(side).view(side, 1, 1, side)
        if pooled_side is not None:
            rows = area_average(rows, size=(1, pooled_side))
        seen = sample_at(
            rows.permute(1, 0, 2, 3),  # as the channels of one image
            grid=torch.stack([places, torch.zeros_like(places)], dim=-1)[:, None],
            mode=final.mode,
            pad_mode=final.pad_mode,
            align_corners=final.align_corners,
        )
        matrices.append(seen[0, :, 0].T.contiguous())
    return SeparableResize(*matrices, clamps=final.mode == "bicubic")
