"""Loaders and the name of a network in, a learner out that is ready to be fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.seeding import derive_seed
from vizsla.train.learner import MOMENTA, Learner
from vizsla.train.optim import WEIGHT_DECAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vizsla.data.dataloaders import DataLoaders
    from vizsla.infer.run import Precision
    from vizsla.models.names import Architecture
    from vizsla.train.learner import LossFunction, MetricFunction


def vision_learner(
    dls: DataLoaders,
    arch: Architecture,
    *,
    pretrained: bool = True,
    weights: Path | str | None = None,
    loss_func: LossFunction = F.cross_entropy,
    lr: float = 0.001,
    metrics: MetricFunction | Sequence[MetricFunction] | None = None,
    wd: float = WEIGHT_DECAY,
    wd_bn_bias: bool = False,
    train_bn: bool = True,
    moms: tuple[float, float, float] = MOMENTA,
    concat_pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    ps: float = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    precision: Precision | str = "auto",
    quiet: bool = False,
) -> Learner:
    """Build a learner: a pretrained body, a new head for the classes of the data, the body frozen.

    Args:
        dls: Training and validation loaders; never changed. The preprocessing that belongs to the weights is part of
            the model, so two learners with different networks may share loaders.
        arch: Name of a network (``"efficientnet_lite0"`` needs no download), a function of ``torchvision.models``, or a
            module.
        pretrained: Start from published weights; otherwise from random ones, with nothing frozen.
        weights: A file of weights to use instead of the published ones.
        loss_func: As in ``Learner``.
        lr: As in ``Learner``.
        metrics: As in ``Learner``.
        wd: As in ``Learner``.
        wd_bn_bias: As in ``Learner``.
        train_bn: As in ``Learner``.
        moms: As in ``Learner``.
        concat_pool: Pool to maximum and mean instead of the mean alone.
        lin_ftrs: Widths of the hidden layers of the head; None is one of 512.
        ps: Dropout before the last layer of the head; half of it before the others.
        first_bn: Begin the head with a norm.
        bn_final: End it with one.
        lin_first: Linear layers before norms.
        y_range: Squeeze the outputs between these bounds.
        precision: As in ``Learner``.
        quiet: As in ``Learner``.

    Returns:
        The learner.

    Raises:
        ConfigError: There is no such network; the message has the nearest names.
        WeightsError: The weights cannot be found.

    Example:
        >>> dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, item_tfms=Resize(224))
        >>> learn = vision_learner(dls, "efficientnet_lite0", metrics=error_rate)
        >>> learn.fine_tune(2)
    """
    seed = derive_seed(dls.seed, "model")
    backbone = build_backbone(arch, pretrained=pretrained, weights_file=weights, seed=seed)
    head = ConcatPoolHead(
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
    learner = Learner(
        dls,
        Classifier(backbone, head, vocab=dls.vocab),
        loss_func=loss_func,
        lr=lr,
        metrics=metrics,
        wd=wd,
        wd_bn_bias=wd_bn_bias,
        train_bn=train_bn,
        moms=moms,
        precision=precision,
        quiet=quiet,
    )
    if pretrained or weights is not None:
        learner.freeze()
    return learner
