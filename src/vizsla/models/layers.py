"""Layers that lessons build their own networks of, and what takes a network apart and puts it together again.

Names, arguments, defaults and random starts are those of fastai: the same ``torch.manual_seed`` gives the same weights.

Shapes: B images, C channels, h x w the size of a map.
"""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import weight_norm

from vizsla.errors import ConfigError
from vizsla.models.heads import AdaptiveConcatPool2d, create_head
from vizsla.models.names import Architecture, check_cut

NormType = Enum("NormType", "Batch BatchZero Weight Spectral Instance InstanceZero")
"""Norm of a ``ConvLayer``; with ``Zero`` its scale starts at 0, so that a residual block starts as its shortcut."""

Mish = nn.Mish
Swish = nn.SiLU
Activation = Callable[[], nn.Module]

_KAIMING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Mish, nn.SiLU)
_XAVIER = (nn.Sigmoid, nn.Tanh)


class PoolType:
    """Kinds of pooling for ``PoolFlatten``."""

    Avg, Max, Cat = "Avg", "Max", "Cat"


class Module(nn.Module):
    """A module whose ``__init__`` need not call that of ``nn.Module``."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Begin the module before its own ``__init__`` runs."""
        del args, options
        made = super().__new__(cls)
        nn.Module.__init__(made)
        return made

    def __init__(self) -> None:
        pass


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.func = func

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.func(x)


class Flatten(nn.Module):
    """``(B, ...)`` in, ``(B, D)`` out; with ``full`` one vector of everything."""

    def __init__(self, full: bool = False) -> None:
        super().__init__()
        self.full = full

    def forward(self, x: Tensor) -> Tensor:
        """Flatten."""
        return x.reshape(-1) if self.full else x.reshape(len(x), -1)


class View(nn.Module):
    """Changes the shape to ``size``."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Change the shape."""
        return x.reshape(self.size)


class ResizeBatch(View):
    """Changes the shape of each image of a batch to ``size``."""

    def forward(self, x: Tensor) -> Tensor:
        """Change the shape."""
        return x.reshape(len(x), *self.size)


def sequential(*args: nn.Module | Callable[[Tensor], Tensor]) -> nn.Sequential:
    """Return layers one after the other; a function becomes a ``Lambda``."""
    if len(args) == 1 and isinstance(args[0], OrderedDict):
        return nn.Sequential(cast("OrderedDict[str, nn.Module]", args[0]))
    return nn.Sequential(*(each if isinstance(each, nn.Module) else Lambda(each) for each in args))


class SequentialEx(nn.Module):
    """Layers one after the other; a ``MergeLayer`` or ``ProdLayer`` among them gets what went into the first as well."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        found = x
        for layer in self.layers:
            found = layer(found, x) if isinstance(layer, MergeLayer | ProdLayer) else layer(found)
        return found

    def __getitem__(self, index: int) -> nn.Module:
        return self.layers[index]

    def append(self, layer: nn.Module) -> nn.ModuleList:
        """Add a layer at the end."""
        return self.layers.append(layer)


class MergeLayer(nn.Module):
    """Adds what went into a ``SequentialEx`` to what comes out of its layers, or, if ``dense``, puts it beside."""

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """Merge both."""
        return torch.cat([x, first], dim=1) if self.dense else x + first


class ProdLayer(nn.Module):
    """Multiplies what comes out of the layers of a ``SequentialEx`` with what went in."""

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """Multiply both."""
        return x * first


def AdaptiveAvgPool(sz: int = 1, ndim: int = 2) -> nn.Module:  # noqa: N802 (the notebooks' name)
    """Return mean pooling to ``sz`` places in each of ``ndim`` dimensions."""
    return getattr(nn, f"AdaptiveAvgPool{ndim}d")(sz)


def MaxPool(  # noqa: N802
    ks: int = 2, stride: int | None = None, padding: int = 0, ndim: int = 2, ceil_mode: bool = False
) -> nn.Module:
    """Return maximum pooling over ``ks`` places; ``ceil_mode`` is ignored, as fastai does."""
    del ceil_mode
    return getattr(nn, f"MaxPool{ndim}d")(ks, stride=stride, padding=padding)


def AvgPool(  # noqa: N802
    ks: int = 2, stride: int | None = None, padding: int = 0, ndim: int = 2, ceil_mode: bool = False
) -> nn.Module:
    """Return mean pooling over ``ks`` places."""
    make = getattr(nn, f"AvgPool{ndim}d")
    return make(ks, stride=stride, padding=padding, ceil_mode=ceil_mode)


class PoolFlatten(nn.Sequential):
    """Pools each channel of a map to one number (two for ``PoolType.Cat``) and flattens."""

    def __init__(self, pool_type: str = PoolType.Avg) -> None:
        pools = {
            PoolType.Avg: nn.AdaptiveAvgPool2d,
            PoolType.Max: nn.AdaptiveMaxPool2d,
            PoolType.Cat: AdaptiveConcatPool2d,
        }
        super().__init__(pools[pool_type](1), Flatten())


def BatchNorm(  # noqa: N802
    nf: int, ndim: int = 2, norm_type: NormType = NormType.Batch, **options: Any
) -> nn.Module:
    """Return a batch norm of ``nf`` channels whose bias starts at 0.001."""
    return _norm("Batch", nf, ndim, norm_type is NormType.BatchZero, options)


def InstanceNorm(  # noqa: N802
    nf: int,
    ndim: int = 2,
    norm_type: NormType = NormType.Instance,
    affine: bool = True,
    **options: Any,
) -> nn.Module:
    """Return an instance norm of ``nf`` channels whose bias starts at 0.001."""
    zero = norm_type is NormType.InstanceZero
    return _norm("Instance", nf, ndim, zero, {"affine": affine, **options})


class LinBnDrop(nn.Sequential):
    """A norm, dropout and a linear layer, in this order or, with ``lin_first``, linear layer, norm, dropout."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bn: bool = True,
        p: float = 0.0,
        act: nn.Module | None = None,
        lin_first: bool = False,
    ) -> None:
        before: list[nn.Module] = [BatchNorm(n_out if lin_first else n_in, ndim=1)] if bn else []
        before += [nn.Dropout(p)] if p else []
        linear: list[nn.Module] = [nn.Linear(n_in, n_out, bias=not bn)]
        linear += [] if act is None else [act]
        super().__init__(*((linear + before) if lin_first else (before + linear)))


class ConvLayer(nn.Sequential):
    """A convolution, its norm and its activation.

    Args:
        ni: Channels in.
        nf: Channels out.
        ks: Size of the kernel.
        stride: Of the convolution.
        padding: None keeps the size of the map at stride 1.
        bias: None gives the convolution a bias where no norm follows.
        ndim: Dimensions of a map.
        norm_type: One of ``NormType``; None for none.
        bn_1st: The norm comes before the activation.
        act_cls: Makes the activation; None for none.
        transpose: A transposed convolution.
        init: Draws the weights, in place; ``"auto"`` follows the activation, None keeps torch's start.
        xtra: A last layer.
        bias_std: Spread of the first biases.
        options: Further arguments of the convolution, such as ``groups``.
    """

    def __init__(
        self,
        ni: int,
        nf: int,
        ks: int = 3,
        stride: int = 1,
        padding: int | None = None,
        bias: bool | None = None,
        ndim: int = 2,
        norm_type: NormType | None = NormType.Batch,
        bn_1st: bool = True,
        act_cls: Activation | None = nn.ReLU,
        transpose: bool = False,
        init: str | Callable[[Tensor], Any] | None = "auto",
        xtra: nn.Module | None = None,
        bias_std: float = 0.01,
        **options: Any,
    ) -> None:
        if padding is None:
            padding = 0 if transpose else (ks - 1) // 2
        is_batch = norm_type in (NormType.Batch, NormType.BatchZero)
        is_instance = norm_type in (NormType.Instance, NormType.InstanceZero)
        if bias is None:
            bias = not (is_batch or is_instance)
        make = getattr(nn, f"Conv{'Transpose' if transpose else ''}{ndim}d")
        conv = make(ni, nf, ks, stride=stride, padding=padding, bias=bias, **options)
        activation = None if act_cls is None else act_cls()
        _start(conv, activation, init=init, bias_std=bias_std)
        if norm_type is NormType.Weight:
            conv = weight_norm(conv)
        elif norm_type is NormType.Spectral:
            conv = spectral_norm(conv)
        after: list[nn.Module] = []
        if is_batch:
            after.append(BatchNorm(nf, ndim, cast("NormType", norm_type)))
        elif is_instance:
            after.append(InstanceNorm(nf, ndim, cast("NormType", norm_type)))
        if activation is not None:
            after.insert(len(after) if bn_1st else 0, activation)
        super().__init__(conv, *after, *([] if xtra is None else [xtra]))


class SimpleCNN(nn.Sequential):
    """One ``ConvLayer`` after the other, with ``filters[i]`` channels in and ``filters[i + 1]`` out, then mean pooling.

    Args:
        filters: Channels, those of the image first: ``[3, 16, 32, num_classes]``.
        kernel_szs: None is 3 for all.
        strides: None is 2 for all.
        bn: All layers but the last have a batch norm.
    """

    def __init__(
        self,
        filters: Sequence[int],
        kernel_szs: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        bn: bool = True,
    ) -> None:
        number = len(filters) - 1
        sizes = kernel_szs or [3] * number
        steps = strides or [2] * number
        layers = [
            ConvLayer(
                filters[place],
                filters[place + 1],
                sizes[place],
                stride=steps[place],
                norm_type=NormType.Batch if bn and place < number - 1 else None,
            )
            for place in range(number)
        ]
        super().__init__(*layers, PoolFlatten())


def SEModule(ch: int, reduction: int, act_cls: Activation = nn.ReLU) -> SequentialEx:  # noqa: N802
    """Return a block that scales each channel by weights computed from all channels (Hu et al., 2018)."""
    hidden = math.ceil(ch // reduction / 8) * 8
    return SequentialEx(
        nn.AdaptiveAvgPool2d(1),
        ConvLayer(ch, hidden, ks=1, norm_type=None, act_cls=act_cls),
        ConvLayer(hidden, ch, ks=1, norm_type=None, act_cls=nn.Sigmoid),
        ProdLayer(),
    )


class SimpleSelfAttention(nn.Module):
    """Lets each position of a map attend to all others, at a cost linear in the number of positions.

    Args:
        n_in: Channels.
        ks: Size of the kernel.
        sym: Only ``False`` is accepted: a symmetric kernel.
    """

    def __init__(self, n_in: int, ks: int = 1, sym: bool = False) -> None:
        super().__init__()
        if sym:
            raise ConfigError("SimpleSelfAttention has no symmetric kernel. Leave sym out.")
        conv = nn.Conv1d(n_in, n_in, ks, padding=ks // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight)
        self.conv = spectral_norm(conv)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        places_BCN = x.flatten(2)
        seen_BCC = places_BCN @ places_BCN.transpose(1, 2)
        return (self.gamma * (seen_BCC @ self.conv(places_BCN)) + places_BCN).reshape(x.shape)


class ResBlock(nn.Module):
    """A residual block: two convolutions for ``expansion=1``, else three, beside a shortcut; the activation comes last.

    The shortcut pools where the block has a stride, so that no value is skipped (He et al., "Bag of tricks for image
    classification", 2019). The block starts as its shortcut.

    Args:
        expansion: Channels in and out are this many times ``ni`` and ``nf``.
        ni: Channels in.
        nf: Channels out.
        stride: Of the block.
        groups: Of its ``ks`` x ``ks`` convolution.
        reduction: Adds an ``SEModule``.
        nh1: Channels after the first convolution of three; None is ``nh2``.
        nh2: Channels before the last convolution; None is ``nf``.
        dw: That convolution works on each channel alone.
        g2: Groups of the last convolution.
        sa: Adds a ``SimpleSelfAttention``.
        sym: As there.
        norm_type: Batch, instance or other norm.
        act_cls: Makes the activations.
        ndim: Dimensions of a map.
        ks: Size of the kernel.
        pool: Makes the pooling of the shortcut.
        pool_first: Pool before the 1x1 convolution of the shortcut.
        options: Further arguments of ``ConvLayer``.
    """

    def __init__(
        self,
        expansion: int,
        ni: int,
        nf: int,
        stride: int = 1,
        groups: int = 1,
        reduction: int | None = None,
        nh1: int | None = None,
        nh2: int | None = None,
        dw: bool = False,
        g2: int = 1,
        sa: bool = False,
        sym: bool = False,
        norm_type: NormType | None = NormType.Batch,
        act_cls: Activation = nn.ReLU,
        ndim: int = 2,
        ks: int = 3,
        pool: Callable[..., nn.Module] = AvgPool,
        pool_first: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        zero: dict[Any, NormType] = {
            NormType.Batch: NormType.BatchZero,
            NormType.Instance: NormType.InstanceZero,
        }
        nh2 = nf if nh2 is None else nh2
        nh1 = nh2 if nh1 is None else nh1
        ni, nf = ni * expansion, nf * expansion
        inner: Any = {"norm_type": norm_type, "act_cls": act_cls, "ndim": ndim, **options}
        last: Any = {**inner, "norm_type": zero.get(norm_type, norm_type), "act_cls": None}
        if expansion == 1:
            groups = ni if dw else groups
            path: list[nn.Module] = [
                ConvLayer(ni, nh2, ks, stride=stride, groups=groups, **inner),
                ConvLayer(nh2, nf, ks, groups=g2, **last),
            ]
        else:
            groups = nh1 if dw else groups
            path = [
                ConvLayer(ni, nh1, 1, **inner),
                ConvLayer(nh1, nh2, ks, stride=stride, groups=groups, **inner),
                ConvLayer(nh2, nf, 1, groups=g2, **last),
            ]
        if reduction:
            path.append(SEModule(nf, reduction=reduction, act_cls=act_cls))
        if sa:
            path.append(SimpleSelfAttention(nf, ks=1, sym=sym))
        shortcut: list[nn.Module] = []
        if ni != nf:
            shortcut.append(ConvLayer(ni, nf, 1, act_cls=None, ndim=ndim, **options))
        if stride != 1:
            shortcut.insert(
                0 if pool_first else len(shortcut), pool(stride, ndim=ndim, ceil_mode=True)
            )
        self.convpath = nn.Sequential(*path)
        self.idpath = nn.Sequential(*shortcut)
        self.act = nn.ReLU(inplace=True) if act_cls is nn.ReLU else act_cls()

    def forward(self, x: Tensor) -> Tensor:
        """Return the next map."""
        return self.act(self.convpath(x) + self.idpath(x))


# --- random starts ---


def init_default(m: nn.Module, func: Callable[[Tensor], Any] | None = nn.init.kaiming_normal_) -> nn.Module:  # fmt: skip
    """Initialise the weights of one layer with ``func``, set its bias to 0, and return it."""
    weight, bias = getattr(m, "weight", None), getattr(m, "bias", None)
    if func is not None and isinstance(weight, Tensor):
        func(weight)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)
    return m


def apply_init(m: nn.Module, func: Callable[[Tensor], Any] = nn.init.kaiming_normal_) -> None:
    """Initialise the weights of all trainable layers of a network except norms, see ``init_default``."""
    for layer in m.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and weight.requires_grad:
            init_default(layer, func)


def init_cnn(m: nn.Module) -> None:
    """Set all biases of a network to 0, and draw the weights of its convolutions and linear layers (``kaiming_normal_``)."""
    for layer in m.modules():
        if isinstance(getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(cast("Tensor", layer.bias))
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)


# --- networks taken apart ---


def params(m: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network."""
    return list(m.parameters())


def default_split(m: Any) -> list[list[nn.Parameter]]:
    """Return the parameters of (body, head, ...) in two groups, for ``Learner(splitter=default_split)``."""
    return [params(m[0]), params(m[1:])]


def has_pool_type(m: nn.Module) -> bool:
    """Whether a network is or contains a pooling layer."""
    return any(re.search(r"Pool[123]d$", type(part).__name__) for part in m.modules())


def _sum_first_channels(network: nn.Module) -> None:
    """Let the first convolution of a network take one channel, as if it got that three times."""
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    name, first = next(iter(convolutions.items()), ("", None))
    if first is None or first.in_channels != 3:
        raise ConfigError(
            f"n_in=1 needs a network whose first convolution takes 3 channels. Received: {type(network).__name__}"
        )
    grey = copy.deepcopy(first)
    grey.in_channels, grey.weight = 1, nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    network.set_submodule(name, grey)


def in_channels(m: nn.Module) -> int:
    """Return how many channels the first convolution of a network takes."""
    for weight in m.parameters():
        if weight.ndim == 4:
            return weight.shape[1]
    raise ConfigError(f"{type(m).__name__} has no convolution, so it has no number of channels.")


def model_sizes(m: nn.Sequential, size: tuple[int, int] = (64, 64)) -> list[torch.Size]:
    """Return the shape of what each child of a network gives for one image of ``size``."""
    shapes: list[torch.Size] = []
    first = next(m.parameters())
    found = first.new_zeros((1, in_channels(m), *size))
    m.eval()
    with torch.no_grad():
        for layer in m.children():
            found = layer(found)
            shapes.append(found.shape)
    return shapes


def num_features_model(m: nn.Sequential) -> int:
    """Return the number of channels that a network gives; it is tried on images of 32 to 2,048 pixels."""
    for side in (32, 64, 128, 256, 512, 1024):
        try:
            return model_sizes(m, (side, side))[-1][1]
        except (RuntimeError, ValueError):
            continue
    return model_sizes(m, (2048, 2048))[-1][1]


def create_body(
    model: nn.Module | Architecture,
    n_in: int = 3,
    pretrained: bool = True,
    cut: int | Callable[[nn.Module], nn.Module] | None = None,
) -> nn.Module:
    """Return the first children of a network as ``nn.Sequential``: its body.

    Args:
        model: A network, or a function such as ``resnet34``, which is called with ``pretrained``.
        n_in: Channels of an image: 3 or 1. For 1 the first convolution gets the sum of its weights over the channels.
        pretrained: Start from published weights, where ``model`` is a function.
        cut: Where to cut, as in ``list(model.children())[:cut]``, or a function that does it; None is before the last child that pools.

    Raises:
        ConfigError: ``model`` is neither, no child pools, or images of ``n_in`` channels are not possible.
    """
    if isinstance(model, str) or not callable(model):
        raise ConfigError(
            f"create_body takes a network, or a function such as resnet34. Received: {model!r:.80}. A network by its name goes into "
            "vision_learner(dls, NAME)."
        )
    network = model if isinstance(model, nn.Module) else model(pretrained=pretrained)
    if n_in not in (1, 3):
        raise ConfigError(f"n_in must be 3, or 1 for grey images. Received: {n_in!r}")
    if n_in == 1:
        _sum_first_channels(network)
    if callable(cut):
        return cut(network)
    children = list(network.children())
    if cut is None:
        pooling = [place for place, child in enumerate(children) if has_pool_type(child)]
        if not pooling:
            raise ConfigError(
                f"{type(network).__name__} has no pooling layer, so the end of its body is unknown. Give cut, the "
                "number of children to keep."
            )
        cut = pooling[-1]
    return nn.Sequential(*children[: check_cut(cut)])


def create_vision_model(
    arch: Architecture,
    n_out: int,
    pretrained: bool = True,
    cut: int | Callable[[nn.Module], nn.Module] | None = None,
    n_in: int = 3,
    init: Callable[[Tensor], Any] | None = nn.init.kaiming_normal_,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    **head_options: Any,
) -> nn.Sequential:
    """Return (body, head) for ``Learner(dls, model, splitter=default_split)``; ``vision_learner`` does the same in one call.

    Args:
        arch: See ``model`` of ``create_body``.
        n_out: Outputs of the head.
        pretrained: See ``create_body``.
        cut: See ``create_body``.
        n_in: See ``create_body``.
        init: Draws the weights of the head; None keeps them.
        custom_head: Layers in place of ``create_head``.
        concat_pool: See ``create_head``.
        **head_options: Further arguments of ``create_head``.
    """
    body = create_body(arch, n_in, pretrained, cut)
    head = custom_head
    if head is None:
        features = num_features_model(cast("nn.Sequential", body))
        head = create_head(features, n_out, concat_pool=concat_pool, **head_options)
    model = nn.Sequential(body, head)
    if init is not None:
        apply_init(model[1], init)
    return model


def _norm(kind: str, nf: int, ndim: int, zero: bool, options: dict[str, Any]) -> nn.Module:
    norm = getattr(nn, f"{kind}Norm{ndim}d")(nf, **options)
    if norm.affine:
        nn.init.constant_(norm.bias, 1e-3)
        nn.init.constant_(norm.weight, 0.0 if zero else 1.0)
    return norm


def _start(
    conv: nn.Module,
    activation: nn.Module | None,
    *,
    init: str | Callable[[Tensor], Any] | None,
    bias_std: float,
) -> None:
    """Draw bias and weights of a convolution, in this order, as fastai does."""
    bias = getattr(conv, "bias", None)
    if isinstance(bias, Tensor):
        nn.init.normal_(bias, 0, bias_std) if bias_std else nn.init.zeros_(bias)
    if init == "auto":
        init = nn.init.kaiming_uniform_ if isinstance(activation, _KAIMING) else None
        init = nn.init.xavier_uniform_ if isinstance(activation, _XAVIER) else init
    if callable(init):
        init(cast("Tensor", conv.weight))
