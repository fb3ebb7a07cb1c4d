"""XResNets: residual networks with a stem of three convolutions and shortcuts that pool.

He et al., "Bag of tricks for image classification with convolutional neural networks", 2019 (arXiv 1812.01187). Layers, names of
the weights and random start are those of fastai, so weights that it saved fit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from vizsla.models.layers import (
    Activation,
    AdaptiveAvgPool,
    ConvLayer,
    Flatten,
    MaxPool,
    ResBlock,
    init_cnn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LAYERS = {
    "18": (1, (2, 2, 2, 2)),
    "34": (1, (3, 4, 6, 3)),
    "50": (4, (3, 4, 6, 3)),
    "101": (4, (3, 4, 23, 3)),
    "152": (4, (3, 8, 36, 3)),
}
"""Expansion, and blocks of each stage."""

_WIDTHS = (64, 128, 256, 512)

NUM_BODY_PARTS = 8
"""Children before the pooling: three convolutions, a pooling, four stages."""

LAST_EARLY_PART = "2"
"""The child with which fastai's early group of parameters ends, the last convolution of the stem."""

PUBLISHED_URLS = {"xresnet50": "https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth"}
"""Where weights are published; fast.ai has those of one of these networks."""


class XResNet(nn.Sequential):
    """An XResNet from RGB images ``(B, 3, H, W)`` to outputs ``(B, n_out)``.

    Args:
        block: Makes a residual block, such as ``ResBlock``.
        expansion: 1 for blocks of two convolutions, 4 for those of three.
        layers: Blocks of each stage.
        p: Dropout before the last layer.
        c_in: Channels of an image.
        n_out: Outputs.
        stem_szs: Channels of the stem's convolutions.
        widen: Multiplies the channels of the stages.
        sa: Ends the first stage with self-attention.
        act_cls: Makes the activations.
        ks: Size of the kernels, odd.
        stride: Of the stem, its pooling and all stages but the first.
        options: Further arguments of ``block``.
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        expansion: int,
        layers: Sequence[int],
        p: float = 0.0,
        c_in: int = 3,
        n_out: int = 1000,
        stem_szs: Sequence[int] = (32, 32, 64),
        widen: float = 1.0,
        sa: bool = False,
        act_cls: Activation = nn.ReLU,
        ks: int = 3,
        stride: int = 2,
        **options: Any,
    ) -> None:
        sizes = (c_in, *stem_szs)
        stem = [
            ConvLayer(sizes[i], sizes[i + 1], ks, stride=1 if i else stride, act_cls=act_cls)
            for i in range(len(stem_szs))
        ]
        widths = [64 // expansion, *(int(width * widen) for width in _WIDTHS)]
        stages: list[nn.Module] = []
        for place, count in enumerate(layers):
            last = count - 1 if sa and place == len(layers) - 4 else None
            blocks = [
                block(
                    expansion,
                    widths[place + 1] if number else widths[place],
                    widths[place + 1],
                    stride=1 if number or not place else stride,
                    sa=number == last,
                    act_cls=act_cls,
                    ks=ks,
                    **options,
                )
                for number in range(count)
            ]
            stages.append(nn.Sequential(*blocks))
        super().__init__(
            *stem,
            MaxPool(ks=ks, stride=stride, padding=ks // 2),
            *stages,
            AdaptiveAvgPool(),
            Flatten(),
            nn.Dropout(p),
            nn.Linear(widths[-1] * expansion, n_out),
        )
        init_cnn(self)


def _se_resnext_block(
    expansion: int, ni: int, nf: int, groups: int = 32, base_width: int = 4, **options: Any
) -> ResBlock:
    return ResBlock(expansion, ni, nf, groups=groups, nh2=nf * base_width // 64 * groups, **options)


def _se_block(expansion: int, ni: int, nf: int, **options: Any) -> ResBlock:
    return ResBlock(expansion, ni, nf, nh1=nf * 2, nh2=nf * expansion, **options)


def build_xresnet(name: str, **options: Any) -> XResNet:
    """Return the network of a name in ``XRESNET_NAMES`` with random weights; the options are those of ``XResNet``."""
    kind = name.rstrip("0123456789")
    expansion, layers = _LAYERS[name.removeprefix(kind)]
    block: Callable[..., nn.Module] = ResBlock
    if kind == "xse_resnet":
        block = partial(_se_block, reduction=16)
    elif kind in ("xresnext", "xse_resnext"):
        block = partial(_se_resnext_block, reduction=16 if kind == "xse_resnext" else None)
    return XResNet(block, expansion, layers, **options)
