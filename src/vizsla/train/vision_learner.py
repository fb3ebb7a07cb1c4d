"""Build a learner from data and the name of a network, ready to be fine-tuned."""

from __future__ import annotations

import warnings
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar, Unpack

from vizsla.errors import ConfigError
from vizsla.models.backbones import adapt_input_channels, build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.seeding import derive_seed
from vizsla.train.learner import Learner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.models.names import Architecture
    from vizsla.train.trainer import TrainerOptions

P = ParamSpec("P")
R = TypeVar("R")


def vision_learner(
    dls: DataLoaders,
    arch: Architecture,
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool = True,
    weights: Path | str | None = None,
    *,
    cut: int | None = None,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    n_in: int = 3,
    **options: Unpack[TrainerOptions],
) -> Learner:
    """Build a learner: a pretrained body, a new head for the classes of the data, the body frozen.

    Args:
        dls: Training and validation loaders; never changed. The preprocessing that belongs to the weights is part of
            the model, so two learners with different networks may share loaders.
        arch: Name of a network (``"efficientnet_lite0"`` needs no download), a function of ``torchvision.models``, or a
            module.
        normalize: Images are always normalised as the weights expect it; only ``True`` is accepted.
        n_out: Number of outputs; None is what the data has, and another number is refused.
        pretrained: Start from published weights; otherwise from random ones, with nothing frozen.
        weights: A file of weights to use instead of the published ones.
        cut: Where the body ends, counted in the children of a torchvision network; None is before its own head.
        custom_head: Called with the maps of all stages instead of the usual head, used as it is.
        concat_pool: Pool to maximum and mean instead of the mean alone.
        lin_ftrs: Widths of the hidden layers of the head; None is one of 512.
        ps: Dropout before the last layer of the head; half of it before the others.
        first_bn: Begin the head with a norm.
        bn_final: End it with one.
        lin_first: Linear layers before norms.
        y_range: Squeeze the outputs between these bounds.
        n_in: Channels of an image; images are RGB here, so it is 3.
        options: ``loss_func``, ``metrics``, ``cbs``, ``wd`` and all else that a ``Trainer`` is given, by name.

    Returns:
        The learner.

    Raises:
        ConfigError: There is no such network (the message has the nearest names), or an argument cannot work.
        WeightsError: The weights cannot be found.

    Examples:
        >>> dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, item_tfms=Resize(224))
        >>> learn = vision_learner(dls, "efficientnet_lite0", metrics=error_rate)
        >>> learn.fine_tune(2)
    """
    if normalize is not True:
        raise ConfigError(
            "The model normalises images with the numbers that belong to its weights; that cannot be switched off. "
            f"Received: normalize={normalize!r}. Leave it out."
        )
    if n_out is not None and n_out != dls.c:
        raise ConfigError(
            f"The data has {dls.c} classes or numbers to predict, so the network needs as many outputs. Received: n_out={n_out}. "
            "Leave it out."
        )
    seed = derive_seed(dls.seed, "model")
    backbone = adapt_input_channels(
        build_backbone(arch, pretrained=pretrained, weights_file=weights, seed=seed, cut=cut), n_in
    )
    head = custom_head or ConcatPoolHead(
        backbone.num_features,
        dls.c,
        lin_ftrs=lin_ftrs,
        ps=ps,
        concat_pool=concat_pool,
        first_bn=first_bn,
        bn_final=bn_final,
        lin_first=lin_first,
        y_range=y_range,
        seed=seed,
    )
    classifier = Classifier(backbone, head, vocab=dls.vocab, task=dls.table.task)
    learner = Learner(dls, classifier, **options)
    if pretrained or weights is not None:
        learner.freeze()
    return learner


def _renamed(function: Callable[P, R], old: str) -> Callable[P, R]:
    """Return a function under its old name, which says so."""
    message = f"`{old}` has been renamed to `{function.__name__}` -- please update your code"

    @wraps(function)
    def under_old_name(*args: P.args, **kwargs: P.kwargs) -> R:
        warnings.warn(message, stacklevel=2)
        return function(*args, **kwargs)

    under_old_name.__name__ = under_old_name.__qualname__ = old
    return under_old_name


cnn_learner = _renamed(vision_learner, "cnn_learner")
"""The name that ``vision_learner`` had in older notebooks; warns and does the same."""
