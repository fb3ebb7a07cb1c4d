"""A classifier in, its parameters in groups out; freezing of groups, and which parameters take no weight decay.

The groups are early body, late body and head: the later a layer, the more it has to learn for a new task, so groups get
their own learning rates and may be frozen. A frozen parameter never changes: it needs no gradient and keeps none.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vizsla.models.classifier import Classifier

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


def parameter_groups(classifier: Classifier) -> tuple[Group, Group, Group]:
    """Return the parameters of a classifier as early body, late body and head.

    The body is cut after the first half of its stages, the middle one of an odd number included: a resnet after
    ``layer2``, EfficientNet-Lite0 after ``blocks.2``, a transformer of twelve blocks after the sixth. Every parameter is
    in exactly one group; a group may be empty.
    """
    network = classifier.backbone.network
    early = _own_parameters(_modules_until(network, classifier.backbone.early_end))
    late = _without(network.parameters(), early)
    head = _without(classifier.head.parameters(), early, late)
    return early, late, head


def freeze_to(groups: Sequence[Group], n: int, *, train_norms: Iterable[nn.Parameter] = ()) -> None:
    """Freeze all groups before position ``n`` and let the others train.

    Frozen parameters lose their gradients too, so that no optimiser goes on moving them.

    Args:
        groups: From ``parameter_groups``, or any others.
        n: First group that trains; negative numbers count from the end, so -1 trains the last group only and 0 all.
            A number beyond the last group freezes everything, with a warning.
        train_norms: Parameters that train although their group is frozen, usually ``norm_parameters(classifier)``.

    Raises:
        ConfigError: ``n`` counts from the end beyond the first group.
    """
    if n < -len(groups):
        raise ConfigError(
            f"freeze_to({n}) counts beyond the first of {len(groups)} parameter groups. "
            f"Give a number from {-len(groups)} to {len(groups) - 1}; 0 trains everything."
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

    A frozen body then gives the same features throughout, which may be computed once. ``module.train()`` instead keeps
    all statistics moving, as the notebooks' library does.

    Args:
        module: Changed in place.
    """
    module.train()
    for norm in _norms(module):
        parameters = tuple(norm.parameters(recurse=False))
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            norm.eval()


def norm_parameters(module: nn.Module) -> Group:
    """Return weights and biases of all normalisation layers in a module."""
    return _own_parameters(_norms(module))


def undecayed_parameters(module: nn.Module) -> Group:
    """Return the parameters that take no weight decay: all biases, and all parameters of norms.

    Decay pulls weights towards zero to keep the function smooth; a bias or the scale of a norm does not make it rough.
    """
    biases = (
        parameter
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2] == "bias" or name.endswith("_bias")
    )
    return _without([*norm_parameters(module), *biases])


def decay_split(group: Group, *, module: nn.Module) -> tuple[Group, Group]:
    """Return the parameters of a group that take weight decay, and those that do not.

    Args:
        group: Parameters of ``module``.
        module: Tells which parameters are biases and norms.
    """
    exempt = undecayed_parameters(module)
    decayed = _without(group, exempt)
    return decayed, _without(group, decayed)


def _modules_until(network: nn.Module, last: str) -> list[nn.Module]:
    """Return the modules of a network in order of definition, up to the one called ``last`` with all in it."""
    modules = list(network.named_modules(remove_duplicate=False))
    ends = [
        position
        for position, (name, _) in enumerate(modules)
        if last and (name == last or name.startswith(f"{last}."))
    ]
    return [module for _, module in modules[: ends[-1] + 1]] if ends else []


def _norms(module: nn.Module) -> list[nn.Module]:
    # The name finds norms that libraries define on their own, such as timm's RmsNorm or EvoNorm2dS0.
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
