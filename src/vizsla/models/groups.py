"""Parameter groups of a classifier: freezing, learning rates by depth, and which parameters take no weight decay.

The groups are early body, late body and head, or one per block. The later a layer, the more it has to learn for a new task,
so each group has its own learning rate and can be frozen. A frozen parameter never changes: it gets no gradient and keeps none.
"""

from __future__ import annotations

import math
import warnings
from itertools import zip_longest
from typing import TYPE_CHECKING, cast

from torch import nn

from vizsla.errors import ConfigError
from vizsla.models.classifier import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vizsla.models.stages import Backbone

Group = tuple[nn.Parameter, ...]
"""Parameters that are trained or frozen together."""

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def parameter_groups(model: nn.Module) -> tuple[Group, ...]:
    """Return the parameters of a classifier as early body, late body and head; of another module, one group of those that train.

    The body is cut after the first half of its stages, the middle one of an odd number included: a resnet after
    ``layer2``, EfficientNet-Lite0 after ``blocks.2``, a transformer of twelve blocks after the sixth. Every parameter is
    in exactly one group; a group can be empty.
    """
    if not isinstance(model, Classifier):
        return (tuple(each for each in model.parameters() if each.requires_grad),)
    parts = model.backbone.parts
    early = _own_parameters(
        module for part in parts for module in _modules_until(part.network, part.early_end)
    )
    late = _without(model.backbone.network.parameters(), early)
    head = _without(model.head.parameters(), early, late)
    return early, late, head


def fine_groups(classifier: Classifier) -> tuple[Group, ...]:
    """Return the parameters of a classifier block by block, the head last; for rates that fall with the depth.

    Networks of timm are divided by their ``group_matcher``, others into the blocks of their containers; a single norm
    joins the block before it. convnext_tiny has 20 groups, swin_base 26, efficientnet_b3 28, a transformer of 12 blocks 14,
    resnet18 10. Every parameter is in exactly one group, in the order in which the layers run.
    """
    body = _fine_body(classifier.backbone)
    return (*body, _without(classifier.head.parameters(), *body))


def layer_decay_rates(rate: float, *, num_groups: int, decay: float) -> tuple[float, ...]:
    """Return one learning rate per group, which falls by the factor ``decay`` from each group to the one before it.

    Layer-wise decay: Clark et al., "ELECTRA", ICLR 2020 (arXiv 2003.10555); for images Bao et al., "BEiT", ICLR 2022
    (arXiv 2106.08254), with 0.65 to 0.9.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(
            f"A learning rate must be a positive finite number, such as 1e-3. Received: {rate!r}"
        )
    if not 0 < decay <= 1:
        raise ConfigError(
            "The layer-wise decay of learning rates must be above 0 and at most 1 (1: all rates are equal); 0.75 "
            f"is usual. Received: {decay!r}"
        )
    return tuple(rate * decay ** (num_groups - 1 - position) for position in range(num_groups))


def freeze_to(groups: Sequence[Group], n: int, *, train_norms: Iterable[nn.Parameter] = ()) -> None:
    """Freeze all groups before position ``n`` and let the others train; negative numbers count from the end.

    -1 trains the last group only, 0 all, and a number beyond the last group nothing, with a warning. ``train_norms`` train in any
    case. Frozen parameters lose their gradients too, so that no optimiser keeps moving them.
    """
    if n < -len(groups):
        raise ConfigError(
            f"freeze_to({n}) is out of range for {len(groups)} parameter groups. Give a number from "
            f"{-len(groups)} to {len(groups) - 1}; 0 trains everything."
        )
    first = n + len(groups) if n < 0 else n
    if first >= len(groups):
        warnings.warn(
            f"freeze_to({n}) freezes all {len(groups)} parameter groups: nothing will be trained.",
            stacklevel=2,
        )
    kept = {id(parameter) for parameter in train_norms}
    for position, group in enumerate(groups):
        for parameter in group:
            trains = position >= first or id(parameter) in kept
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None


def train_mode(module: nn.Module) -> None:
    """Put a module in training mode, except norms whose parameters are all frozen: their statistics stay.

    A frozen body then always gives the same features, so they can be computed once. ``module.train()`` instead keeps all
    statistics moving, as fastai does.
    """
    module.train()
    for norm in _norms(module):
        parameters = tuple(norm.parameters(recurse=False))
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            norm.eval()


def norm_parameters(module: nn.Module) -> Group:
    """Return weights and biases of all normalisation layers in a module."""
    return _own_parameters(_norms(module))


def decay_split(group: Group, *, module: nn.Module) -> tuple[Group, Group]:
    """Return the parameters of a group that take weight decay, and those that do not: the biases and norms of ``module``.

    Decay pulls weights towards zero to keep the function smooth; biases and the scales of norms do not make it rough.
    """
    biases = (
        parameter
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2] == "bias" or name.endswith("_bias")
    )
    decayed = _without(group, norm_parameters(module), tuple(biases))
    return decayed, _without(group, decayed)


def _fine_body(backbone: Backbone) -> tuple[Group, ...]:
    """Return the parameters of a body block by block; of networks that are joined, the last blocks are one group, and so on."""
    if len(backbone.parts) > 1:
        bodies = [_fine_body(part)[::-1] for part in backbone.parts]
        return tuple(sum(blocks, ()) for blocks in zip_longest(*bodies, fillvalue=()))[::-1]
    network = backbone.network
    matcher = getattr(network, "group_matcher", None)
    if matcher is not None:
        groups = _timm_groups(network, cast("Callable[..., object]", matcher)(coarse=False))
    else:
        groups = _block_groups(network, blocks=_blocks(network, backbone.steps))
    norms = {id(parameter) for parameter in norm_parameters(network)}
    joined: list[Group] = []
    for group in groups:
        if joined and all(id(parameter) in norms for parameter in group):
            joined[-1] += group
        else:
            joined.append(group)
    return tuple(joined)


def _timm_groups(network: nn.Module, matcher: object) -> list[Group]:
    """Return the groups of a network of timm; parameters that its matcher does not know join the last of them."""
    from timm.models import group_parameters

    names = cast("Mapping[int, Sequence[str]]", group_parameters(network, matcher))  # pyright: ignore[reportArgumentType] (a regular expression or a function, as timm made it)
    parameters = dict(network.named_parameters())
    return [tuple(parameters[name] for name in names[number]) for number in sorted(names)]


def _block_groups(network: nn.Module, *, blocks: Sequence[nn.Module]) -> list[Group]:
    """Return the parameters in order of definition; each block with parameters begins a group."""
    owners = {
        id(parameter): number
        for number, block in reversed(list(enumerate(blocks)))
        for parameter in block.parameters()
    }
    groups: list[list[nn.Parameter]] = []
    current: int | None = None
    for parameter in network.parameters():
        # Parameters outside all blocks (position embeddings, a last norm) stay with the block before them.
        owner = owners.get(id(parameter), current)
        if not groups or (current is not None and owner != current):
            groups.append([])
        groups[-1].append(parameter)
        current = owner
    return [tuple(group) for group in groups]


def _blocks(network: nn.Module, steps: Sequence[str]) -> list[nn.Module]:
    """Return the layers that run one after the other, with containers taken apart."""
    parts = [network.get_submodule(step) for step in steps] or list(network.children())
    while len(parts) == 1 and any(True for _ in parts[0].children()):
        parts = list(parts[0].children())
    return [layer for part in parts for layer in _uncontained(part)]


def _uncontained(part: nn.Module) -> list[nn.Module]:
    """Return the layers in a container, at any depth; of anything else, the part itself."""
    if not isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return [part]
    return [layer for inner in part.children() for layer in _uncontained(inner)]


def _modules_until(network: nn.Module, last: str) -> list[nn.Module]:
    """Return the modules of a network in order of definition, up to the one called ``last`` and everything inside it."""
    modules = list(network.named_modules(remove_duplicate=False))
    ends = [
        position
        for position, (name, _) in enumerate(modules)
        if last and (name == last or name.startswith(f"{last}."))
    ]
    return [module for _, module in modules[: ends[-1] + 1]] if ends else []


def _norms(module: nn.Module) -> list[nn.Module]:
    # The class name finds norms that libraries define themselves, such as timm's RmsNorm or EvoNorm2dS0.
    return [
        part
        for part in module.modules()
        if isinstance(part, _NORMS) or "norm" in type(part).__name__.lower()
    ]


def _own_parameters(modules: Iterable[nn.Module]) -> Group:
    return _without(
        parameter for module in modules for parameter in module.parameters(recurse=False)
    )


def _without(parameters: Iterable[nn.Parameter], *others: Group) -> Group:
    """Return parameters, each once, except those in the other groups."""
    # By identity: tensors compare element by element.
    seen = {id(parameter) for group in others for parameter in group}
    kept: list[nn.Parameter] = []
    for parameter in parameters:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            kept.append(parameter)
    return tuple(kept)
