"""An architecture and data in; lesson one's network out: body, two poolings, head, in one sequence of layers.

The engine trains the same layers inside of a ``Classifier``, which normalises. B: pictures; nf: inputs of the head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vizsla.classic.architectures import body_layers
from vizsla.errors import ConfigError
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.seeding import generator
from vizsla.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.classic.architectures import Arch, Stats
    from vizsla.models.groups import Group
    from vizsla.types import Task

HIDDEN = (512,)
DROPOUT = (0.25, 0.5)
"""Before the hidden layers, and before the last."""


class AdaptiveConcatPool2d(nn.Module):
    """Maps ``(B, N, h, w)`` in, ``(B, 2N, 1, 1)`` out: the largest value of each channel, then the mean of each."""

    def __init__(self) -> None:
        super().__init__()
        self.mp = nn.AdaptiveMaxPool2d(1)
        self.ap = nn.AdaptiveAvgPool2d(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps of any size."""
        return torch.cat([self.mp(maps), self.ap(maps)], dim=1)


class MapHead(nn.Module):
    """Pooling and head as the engine's classifier calls them.

    Args:
        pooling: Maps to vectors.
        layers: Vectors to outputs.
    """

    def __init__(self, pooling: nn.Sequential, layers: nn.Sequential) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = layers

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the features of pictures, ``(B, nf)``."""
        return self.pooling(maps[-1])

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs, ``(B, C)``."""
        return self.layers(self.pool(maps))


class ConvnetBuilder:
    """The parts of a network.

    Args:
        f: The architecture.
        vocab: Names of the outputs.
        task: What they stand for.
        stats: Mean and standard deviation that the pictures are normalised with; None leaves them at 0-1.
        ps: Dropout before each linear layer; one number for all; None for 0.25, and 0.5 before the last.
        xtra_fc: Widths of hidden layers; None for one of 512.
        xtra_cut: So many more layers of the body are cut off.
        custom_head: Takes maps instead of pooling and head.
        pretrained: Start from published weights.
        seed: Of the head's random weights.

    Attributes:
        name: ``resnet34_0``: the architecture and ``xtra_cut``.
        body: Layers of the body.
        top_model: Body and pooling.
        fc_model: The head.
        model: All in one sequence.
        classifier: All as the engine trains it.
        nf: Inputs of the head.

    Raises:
        ConfigError: The number of dropouts is not that of linear layers, or nothing is left of the body.
        WeightsError: There are no published weights.
    """

    def __init__(
        self,
        f: Arch,
        *,
        vocab: tuple[str, ...],
        task: Task,
        stats: Stats | None,
        ps: float | Sequence[float] | None,
        xtra_fc: Sequence[int] | None,
        xtra_cut: int,
        custom_head: nn.Module | None,
        pretrained: bool,
        seed: int,
    ) -> None:
        layers, early = body_layers(f, pretrained=pretrained)
        if not 0 <= xtra_cut < len(layers):
            raise ConfigError(
                f"xtra_cut is from 0 to {len(layers) - 1} for this architecture. Received: {xtra_cut}"
            )
        self.name = f"{getattr(f, '__name__', type(f).__name__)}_{xtra_cut}"
        self.body = layers[: len(layers) - xtra_cut]
        self._early = early
        mean, std = stats or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        backbone = build_backbone(
            nn.Sequential(*self.body),
            preprocessing=Preprocessing(mean=_triple(mean), std=_triple(std)),
        )
        self.nf = 2 * backbone.num_features
        if custom_head is not None:
            pooling, self.fc_model = nn.Sequential(), as_sequential(custom_head)
        else:
            pooling = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten())
            widths = (self.nf, *(HIDDEN if xtra_fc is None else xtra_fc), len(vocab))
            self.fc_model = build_head(widths, ps=ps, task=task, seed=seed)
        self._pooling = pooling
        self.top_model = nn.Sequential(*self.body, *pooling)
        self.model = nn.Sequential(*self.body, *pooling, *self.fc_model)
        head = MapHead(pooling, self.fc_model)
        self.classifier = Classifier(backbone, head, vocab=vocab, task=task)

    def get_layer_groups(self, precompute: bool = False) -> list[list[nn.Module]]:
        """Return the layers in groups: early body, late body with pooling, head; the head alone while it is trained alone.

        Args:
            precompute: Whether it is.
        """
        head = list(self.fc_model)
        if precompute:
            return [head]
        return [self.body[: self._early], [*self.body[self._early :], *self._pooling], head]


def build_head(
    widths: Sequence[int], *, ps: float | Sequence[float] | None, task: Task, seed: int
) -> nn.Sequential:
    """Make a head: norm, dropout, linear layer and ReLU for each width, then the final activation.

    Linear weights start from a normal distribution of standard deviation sqrt(2 / inputs) (He et al. 2015, arXiv
    1502.01852), biases at 0.

    Args:
        widths: Inputs, hidden layers, outputs.
        ps: See ``ConvnetBuilder``.
        task: Decides the activation: log-softmax, sigmoid for several labels, none for numbers.
        seed: Of the random weights.

    Raises:
        ConfigError: The number of dropouts is not that of linear layers.
    """
    count = len(widths) - 1
    if ps is None:
        ps = [DROPOUT[0]] * (count - 1) + [DROPOUT[1]]
    dropouts = [float(ps)] * count if isinstance(ps, int | float) else [float(p) for p in ps]
    if len(dropouts) != count:
        raise ConfigError(
            f"ps is one number or one for each of the {count} linear layers. Received: {ps!r}"
        )
    random = generator(seed, "classic head")
    layers: list[nn.Module] = []
    for number, p in enumerate(dropouts):
        inputs, outputs = widths[number : number + 2]
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.normal_(0, math.sqrt(2 / inputs), generator=random)
            linear.bias.zero_()
        layers.append(nn.BatchNorm1d(inputs))
        layers += [nn.Dropout(p)] if p else []
        layers += [linear] if number == count - 1 else [linear, nn.ReLU()]
    if task == "category":
        layers.append(nn.LogSoftmax(dim=1))
    elif task == "multi_category":
        layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def parameters_of(layers: Sequence[nn.Module]) -> Group:
    """Return the parameters of some layers."""
    return tuple(parameter for layer in layers for parameter in layer.parameters())


def as_sequential(module: nn.Module) -> nn.Sequential:
    """Return a module as a sequence: itself if it is one."""
    return module if isinstance(module, nn.Sequential) else nn.Sequential(module)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
