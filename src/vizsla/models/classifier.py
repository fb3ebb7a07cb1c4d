"""Classifier: normalise images once, run the backbone, run the head.

Shapes: B images, C classes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.models.heads import NoHead
from vizsla.types import LONGEST_CLASS_NAME, ClassType, Task, check_task, probabilities_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from vizsla.models.stages import Backbone
    from vizsla.types import Preprocessing


class Classifier(nn.Module):
    """A backbone, a head and the names of the classes.

    This is the only place where images are normalised, with the numbers that belong to the backbone's weights.

    Args:
        backbone: Gives stage maps.
        head: Called with the tuple of stage maps, returns logits ``(B, C)``.
        vocab: Names of the C classes (or numbers), in the order of the logits.
        task: What the logits stand for: one of the classes, any number of them, or the numbers themselves.
        class_type: What the classes were as labels.

    Examples:
        >>> from vizsla.models.backbones import build_backbone
        >>> from vizsla.models.heads import ConcatPoolHead
        >>> backbone = build_backbone("efficientnet_lite0")
        >>> head = ConcatPoolHead(backbone.num_features, 2)
        >>> classifier = Classifier(backbone, head, vocab=("cat", "dog"))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        *,
        vocab: tuple[str, ...],
        task: Task = "category",
        class_type: ClassType = "text",
    ) -> None:
        super().__init__()
        check_task(task)
        if not vocab or len(set(vocab)) != len(vocab):
            raise ConfigError(
                f"vocab needs at least one class name and no duplicates. Received: {vocab!r}"
            )
        if long := next((name for name in vocab if len(name) > LONGEST_CLASS_NAME), None):
            raise ConfigError(
                f"A class name has at most {LONGEST_CLASS_NAME:,} characters. One has {len(long):,}: {long[:60]!r}..."
            )
        self.backbone = backbone
        self.head = head
        self.vocab = tuple(vocab)
        self.task: Task = task
        self.class_type: ClassType = class_type
        self.is_grey = backbone.preprocessing.grey
        # Not saved with the weights: they are in the backbone's preprocessing, and once is enough.
        mean = torch.tensor(backbone.preprocessing.mean).view(1, -1, 1, 1)
        std = torch.tensor(backbone.preprocessing.std).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def __len__(self) -> int:
        """Return 2: body and head."""
        return 2

    def __getitem__(self, index: int | slice) -> nn.Module:
        """Return the body (0) or the layers of the head (1), as notebooks do: ``learn.model[0][-2]``, ``learn.model[1][-1]``."""
        head = getattr(self.head, "layers", self.head)
        if isinstance(index, slice):
            return nn.Sequential(self.backbone, head)[index]
        return (self.backbone, head)[index]

    @property
    def preprocessing(self) -> Preprocessing:
        """What the weights expect of images."""
        return self.backbone.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, C)`` of RGB or grey images, floating point ``(B, 3 or 1, H, W)`` with values 0-1."""
        return self.head(self.backbone(self._normalised(images)))

    def activation(self, logits: Tensor) -> Tensor:
        """Return what the logits stand for: their softmax, their sigmoid for labels, or the numbers themselves."""
        return probabilities_of(logits, task=self.task)

    def stage_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of all stages, which the head gets; arguments and errors are those of ``forward``.

        A user's whole network has none, which is a ConfigError.
        """
        if isinstance(self.head, NoHead):
            raise ConfigError(
                f"The network {self.backbone.spec.name} is your own and returns only logits, so there are no "
                "feature maps for heat maps, nearest images or embeddings. Give its body to vision_learner(dls, "
                "body), which adds a head."
            )
        return self.backbone(self._normalised(images))

    def _normalised(self, images: Tensor) -> Tensor:
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ConfigError(
                "A classifier takes floating point images (B, 3, H, W), or grey ones (B, 1, H, W), with values "
                f"0-1. Received: {images.dtype} {tuple(images.shape)}. The augmentation converts uint8 images to "
                "floats."
            )
        if self.is_grey:
            images = in_grey(images)
        return (images - self.mean) / self.std

    def place(self, device: torch.device) -> Classifier:
        """Move everything to a device, weights in channels-last order, the fastest for convolutions, and return ``self``.

        A user's whole network keeps its order: ``view`` fails on what channels-last weights give.
        """
        if isinstance(self.head, NoHead):
            return self.to(device=device)
        return self.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (stub lacks it)


def in_grey(images: Tensor) -> Tensor:
    """Return RGB images, floating point ``(B, 3, H, W)``, in grey, ``(B, 1, H, W)``, with the weights of Pillow's mode L."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601-2


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Put a module in evaluation mode for a while; afterwards every part has its own mode again."""
    # Setting the mode of 300 parts takes 2 ms, a tenth of a small network's prediction, and usually none has to change.
    trained = [part for part in module.modules() if part.training]
    if trained:
        module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True
