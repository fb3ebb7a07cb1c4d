"""Heads: from the stage maps of a backbone to logits.

``create_head`` is the standard head of transfer learning; architecture and names are those of fastai 2 (Howard and Gugger,
"fastai: A Layered API for Deep Learning", 2020). ``FeatureHead`` is fitted in closed form (``recipe/head_fit.py``) on features that
a frozen body computed once. Afterwards it is an ordinary module: it is trained, saved and exported with the body.

Shapes: B images, C classes, D pooled features, M landmarks, maps ``(B, channels, h, w)``.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_POOLING: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda positions: positions.mean(2),
    "std": lambda positions: positions.std(2, correction=0),
    "max": lambda positions: positions.amax(2),
}
STATISTICS = tuple(_POOLING)
"""How a feature map can be pooled; ``std`` keeps how unevenly a feature is spread, which texture tasks need."""


def pool_statistics(
    maps: Sequence[Tensor], *, stages: Sequence[int], statistics: Sequence[str]
) -> Tensor:
    """Return the chosen statistics of the chosen maps ``(B, channels, h, w)`` over their positions, side by side.

    float32 ``(B, D)``: D is the sum of the stages' channels times the number of statistics.
    """
    positions = (maps[stage].flatten(2).float() for stage in stages)
    return torch.cat([_POOLING[name](each) for each in positions for name in statistics], dim=1)


class FeatureHead(nn.Module):
    """Pooled features, standardised; then a linear layer on them, on their RBF similarity to landmarks, or on both.

    With landmarks the k-th kernel feature is ``exp(-bandwidth / D * |z - landmark_k|^2)`` (Williams and Seeger, "Using the
    Nystroem method to speed up kernel machines", NIPS 2000); a larger bandwidth means a narrower kernel. ``num_features`` is D,
    ``num_landmarks`` M; ``with_linear`` puts the features before their similarities.
    """

    offset: Tensor
    scale: Tensor
    landmarks: Tensor

    def __init__(
        self,
        *,
        stages: Sequence[int],
        statistics: Sequence[str],
        num_features: int,
        num_classes: int,
        num_landmarks: int = 0,
        bandwidth: float = 1.0,
        with_linear: bool = False,
    ) -> None:
        super().__init__()
        if not stages or not statistics or not set(statistics) <= set(STATISTICS):
            raise ConfigError(
                f"A feature head needs stages and at least one statistic of {', '.join(STATISTICS)}. Received: "
                f"stages={list(stages)}, statistics={list(statistics)}"
            )
        self.stages = tuple(stages)
        self.statistics = tuple(statistics)
        self.bandwidth = bandwidth
        self.with_linear = with_linear
        self.register_buffer("offset", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("landmarks", torch.zeros(num_landmarks, num_features))
        # Zeros until it is fitted: a random start would draw from the global generator.
        num_inputs = num_landmarks + num_features * (with_linear or not num_landmarks)
        self.linear = _linear(num_inputs, num_classes, bias=True)
        nn.init.zeros_(self.linear.weight)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return logits ``(B, C)`` for the feature maps of all stages."""
        return self.classify(self.pool(maps))

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the pooled features ``(B, D)``, not yet standardised."""
        return pool_statistics(maps, stages=self.stages, statistics=self.statistics)

    def classify(self, features_BD: Tensor) -> Tensor:
        """Return logits ``(B, C)`` for pooled features, in their own precision whatever autocast says.

        A kernel is made of small differences between large squared norms: bfloat16 moves its logits by several percent.
        """
        with torch.autocast(features_BD.device.type, enabled=False):
            return self.linear(self.expand((features_BD - self.offset) * self.scale))

    def expand(self, standardised_BD: Tensor) -> Tensor:
        """Return the inputs of the linear layer: the features themselves, their similarity to each landmark, or both."""
        if not len(self.landmarks):
            return standardised_BD
        similarity_BM = rbf_kernel(standardised_BD, self.landmarks, bandwidth=self.bandwidth)
        return torch.cat([standardised_BD, similarity_BM], 1) if self.with_linear else similarity_BM

    def config(self) -> dict[str, Any]:
        """Return the settings that ``from_config`` builds a head of this shape from, as JSON values."""
        return {
            "kind": "features",
            "stages": list(self.stages),
            "statistics": list(self.statistics),
            "num_landmarks": len(self.landmarks),
            "bandwidth": self.bandwidth,
            "with_linear": self.with_linear,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, stage_channels: Sequence[int], num_classes: int
    ) -> FeatureHead:
        """Build an unfitted head from ``config()`` and the channels of the body's stages."""
        try:
            stages = [int(stage) for stage in config["stages"]]
            statistics = [str(statistic) for statistic in config["statistics"]]
            num_landmarks, bandwidth = int(config["num_landmarks"]), float(config["bandwidth"])
            with_linear = bool(
                config.get("with_linear", False)
            )  # files before 0.2 have no such heads
            num_features = sum(stage_channels[stage] for stage in stages) * len(statistics)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"These settings do not fit a feature head for a body with {len(stage_channels)} stages. "
                f"Received: {dict(config)!r}"
            ) from error
        if num_landmarks < 0 or min(stages, default=0) < 0:
            raise ConfigError(
                f"A feature head cannot have negative counts. Received: {dict(config)!r}"
            )
        return cls(
            stages=stages,
            statistics=statistics,
            num_features=num_features,
            num_classes=num_classes,
            num_landmarks=num_landmarks,
            bandwidth=bandwidth,
            with_linear=with_linear,
        )


def rbf_kernel(left_BD: Tensor, right_MD: Tensor, *, bandwidth: float) -> Tensor:
    """Return ``exp(-bandwidth / D * squared distance)`` for every pair, ``(B, M)``."""
    left_norms = left_BD.square().sum(1, keepdim=True)
    right_norms = right_MD.square().sum(1)
    squared = torch.addmm(left_norms + right_norms, left_BD, right_MD.T, alpha=-2).clamp_min(0)
    return torch.exp(squared * (-bandwidth / left_BD.shape[1]))


_HIDDEN_WIDTHS = (512,)
_NORM_BIAS = 1e-3  # fastai's start; a norm that starts at exactly 0 leaves half of the ReLUs before it undecided.


class AdaptiveConcatPool2d(nn.Module):
    """Maps ``(B, N, h, w)`` in, ``(B, 2N, 1, 1)`` out: the largest value of each channel, then the mean of each.

    With a ``size`` other than 1 the maps that come out are of that size.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size or 1

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps of any size."""
        if self.size != 1:
            pools = F.adaptive_max_pool2d, F.adaptive_avg_pool2d
            return torch.cat([pool(maps, self.size) for pool in pools], dim=1)
        # amax, not a pooling layer: on CUDA its gradient is deterministic.
        largest = maps.amax(dim=(2, 3), keepdim=True)
        return torch.cat([largest, maps.mean(dim=(2, 3), keepdim=True)], dim=1)


class SigmoidRange(nn.Module):
    """Squeeze numbers of any size between two bounds."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, values: Tensor) -> Tensor:
        """Return ``sigmoid(values)`` stretched to the range."""
        return torch.sigmoid(values) * (self.high - self.low) + self.low


class HeadOptions(TypedDict, total=False):
    """The options of ``create_head`` that a ``ConcatPoolHead`` has, with the same defaults."""

    lin_ftrs: Sequence[int] | None
    ps: float | Sequence[float]
    concat_pool: bool
    first_bn: bool
    bn_final: bool
    lin_first: bool
    y_range: tuple[float, float] | None
    seed: int


def create_head(
    nf: int,
    n_out: int,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    pool: bool = True,
    concat_pool: bool = True,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    *,
    seed: int = 0,
) -> nn.Sequential:
    """Build the layers from one feature map (or vector) to logits: pooling, then blocks of norm, dropout, linear and ReLU.

    Names and order of the arguments are those of fastai. Linear weights start from a normal distribution with
    standard deviation sqrt(2 / inputs) (He et al. 2015, arXiv 1502.01852), norm biases at 0.001.

    Args:
        nf: Channels of the map.
        n_out: Outputs, one per class.
        lin_ftrs: Widths of the hidden layers; None for one of 512.
        ps: Dropout before each linear layer; one number p means p for the last and p/2 for the others. 0 leaves it out.
        pool: Begin with pooling; without it the input is ``(B, nf)``.
        concat_pool: Pool to maximum and mean of each channel instead of the mean alone.
        first_bn: Begin the first block with a norm; without it the first linear layer has a bias.
        bn_final: End with a norm of the outputs.
        lin_first: Blocks are linear, ReLU, norm, dropout instead, and the last layer is linear with a bias.
        y_range: Squeeze the outputs between these bounds.
        seed: Of the random weights.

    Raises:
        ConfigError: The number of dropouts is neither one nor one per linear layer, one of them is not in [0, 1), or a
            width is not positive.

    Examples:
        >>> head = create_head(512, 37)
        >>> [type(layer).__name__ for layer in head][:4]
        ['AdaptiveConcatPool2d', 'Flatten', 'BatchNorm1d', 'Dropout']
    """
    hidden = _HIDDEN_WIDTHS if lin_ftrs is None else tuple(lin_ftrs)
    num_inputs = nf * 2 if pool and concat_pool else nf
    widths = (num_inputs, *hidden, n_out)
    if min(widths) < 1:
        raise ConfigError(
            f"Widths of a head must be positive. Received: nf={nf}, {hidden}, n_out={n_out}"
        )
    dropouts = _dropouts(ps, count=len(widths) - 1)
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    blocks = _linear_first_blocks if lin_first else _norm_first_blocks
    layers += blocks(widths, dropouts, first_bn=first_bn)
    if bn_final:
        layers.append(nn.BatchNorm1d(n_out, momentum=0.01))
    if y_range is not None:
        layers.append(SigmoidRange(*y_range))
    random = generator(seed, "head")
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, generator=random)
    return nn.Sequential(*layers)


HEAD_DEFAULTS: dict[str, object] = {
    name: parameter.default
    for name, parameter in inspect.signature(create_head).parameters.items()
    if name in HeadOptions.__annotations__ and name != "seed"
}
"""The options of a head whose settings do not mention them."""


class ConcatPoolHead(nn.Module):
    """``create_head`` over the last stage map."""

    kind = "concat_pool"

    def __init__(self, num_features: int, num_classes: int, **options: Unpack[HeadOptions]) -> None:
        super().__init__()
        self.layers = create_head(num_features, num_classes, pool=True, **options)
        # Without the seed, which only affects the random start: a head that is rebuilt gets its weights from elsewhere.
        self._config: dict[str, object] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {"kind": self.kind, **HEAD_DEFAULTS, **options}.items()
            if name != "seed"
        }

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return logits ``(B, C)`` from the stage maps of a backbone."""
        return self.layers(maps[-1])

    def pool(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return what the first norm or linear layer gets, ``(B, D)``."""
        return self.layers[:2](maps[-1])

    def config(self) -> dict[str, object]:
        """Return the settings as JSON values; ``build_head`` makes the head from them again."""
        return dict(self._config)


class OwnHead(nn.Module):
    """A user's own layers as the head; they get the last map, as in fastai."""

    kind = "own"

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return what the layers make of the last map; it is contiguous, because people call ``view`` on it."""
        return self.layers(maps[-1].contiguous())

    def config(self) -> dict[str, object]:
        """Return what a model file says of the head; only its builder can make it again."""
        return {"kind": self.kind, "name": type(self.layers).__name__}


class NoHead(nn.Module):
    """Stands behind a user's whole network, whose last output is the logits."""

    kind = "none"

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the logits."""
        return maps[-1]

    def config(self) -> dict[str, object]:
        """Return what a model file says of it."""
        return {"kind": self.kind}


def build_head(
    config: Mapping[str, object],
    *,
    stage_channels: tuple[int, ...],
    num_classes: int,
    own_layers: nn.Module | None = None,
) -> nn.Module:
    """Make a head from its settings, with random weights; ``own_layers`` are those of a user's own head."""
    kind = config.get("kind")
    if kind == NoHead.kind:
        return NoHead()
    if kind == OwnHead.kind and own_layers is not None:
        return OwnHead(own_layers)
    if kind == "features":
        return FeatureHead.from_config(
            config, stage_channels=stage_channels, num_classes=num_classes
        )
    if kind != ConcatPoolHead.kind:
        raise ConfigError(
            f'Unknown kind of head: {kind!r}. Known kinds: "{ConcatPoolHead.kind}" and "features". '
            "A newer vizsla may know it."
        )
    options = {name: value for name, value in config.items() if name != "kind"}
    unknown = sorted(set(options) - set(HEAD_DEFAULTS))
    if unknown:
        raise ConfigError(
            f"A head of kind {ConcatPoolHead.kind!r} has no setting {', '.join(unknown)}; "
            f"it has {', '.join(HEAD_DEFAULTS)}. A newer vizsla may know more."
        )
    try:
        return ConcatPoolHead(stage_channels[-1], num_classes, **cast("HeadOptions", options))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"No head can be built from these settings: {dict(config)!r}. {error}"
        ) from error


def _dropouts(ps: float | Sequence[float], *, count: int) -> tuple[float, ...]:
    """Return the dropout before each of ``count`` linear layers."""
    given = (ps,) if isinstance(ps, int | float) else tuple(ps)
    dropouts = (*(given[0] / 2,) * (count - 1), given[0]) if len(given) == 1 else given
    if len(dropouts) != count or not all(0 <= dropout < 1 for dropout in dropouts):
        raise ConfigError(
            f"ps must be one dropout probability from 0 to below 1, or one for each of the {count} linear layers. "
            f"Received: {ps!r}"
        )
    return dropouts


def _norm_first_blocks(
    widths: tuple[int, ...], dropouts: tuple[float, ...], *, first_bn: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    last = len(dropouts) - 1
    for number, dropout in enumerate(dropouts):
        has_norm = first_bn or number > 0
        layers += [_norm(widths[number])] if has_norm else []
        layers += [nn.Dropout(dropout)] if dropout > 0 else []
        layers.append(_linear(widths[number], widths[number + 1], bias=not has_norm))
        layers += [nn.ReLU(inplace=True)] if number < last else []
    return layers


def _linear_first_blocks(
    widths: tuple[int, ...], dropouts: tuple[float, ...], *, first_bn: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Dropout(dropouts[0])] if dropouts[0] > 0 else []
    for number, dropout in enumerate(dropouts[1:]):
        has_norm = first_bn or number > 0
        layers.append(_linear(widths[number], widths[number + 1], bias=not has_norm))
        layers.append(nn.ReLU(inplace=True))
        layers += [_norm(widths[number + 1])] if has_norm else []
        layers += [nn.Dropout(dropout)] if dropout > 0 else []
    layers.append(_linear(widths[-2], widths[-1], bias=True))
    return layers


def _norm(width: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(width)
    nn.init.constant_(norm.bias, _NORM_BIAS)
    return norm


def _linear(num_inputs: int, num_outputs: int, *, bias: bool) -> nn.Linear:
    # Without its own random start: that would draw from the global generator.
    layer = nn.Linear(num_inputs, num_outputs, bias=bias, device="meta")
    layer.weight = nn.Parameter(torch.empty(num_outputs, num_inputs))
    if bias:
        layer.bias = nn.Parameter(torch.zeros(num_outputs))
    return layer


def keep_classes(
    head: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    known: Sequence[str],
    wanted: Sequence[str],
) -> bool:
    """Copy the tensors of an earlier head for the classes ``known`` into one of the same settings for the classes ``wanted``.

    Rows of classes that both have are copied by name, and so is all that does not belong to a class; rows of new classes stay as they
    are. Where the heads differ in more than their classes nothing is copied, and the answer is False.
    """
    own = head.state_dict()
    of_class = _tensors_of_classes(head)
    if own.keys() != tensors.keys() or (not of_class and [*known] != [*wanted]):
        return False
    merged: dict[str, Tensor] = {}
    both = [name for name in wanted if name in known]
    places_new = torch.tensor([wanted.index(name) for name in both], dtype=torch.int64)
    places_old = torch.tensor([known.index(name) for name in both], dtype=torch.int64)
    for name, new in own.items():
        old = tensors[name]
        if name in of_class:
            if old.shape != (len(known), *new.shape[1:]):
                return False
            merged[name] = new.clone()
            merged[name][places_new] = old[places_old].to(new)
        elif old.shape == new.shape:
            merged[name] = old
        else:
            return False
    head.load_state_dict(merged)
    return True


def _tensors_of_classes(head: nn.Module) -> set[str]:
    """Return the names of the tensors with a row for each class: those of the last linear layer and of what follows it."""
    parts = dict(head.named_modules())
    linear = [name for name, part in parts.items() if isinstance(part, nn.Linear)]
    if not linear:
        return set()
    after = [*parts][[*parts].index(linear[-1]) :]
    return {
        name
        for name, value in head.state_dict().items()
        if name.rpartition(".")[0] in after and value.ndim
    }
