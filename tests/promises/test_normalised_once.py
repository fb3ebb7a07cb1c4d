"""Pictures are normalised exactly once, with the numbers of the weights, whatever stands in the list of transforms."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vizsla import ImageDataLoaders, Normalize, Resize
from vizsla.models import Classifier, build_backbone
from vizsla.types import Preprocessing

OWN = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OTHERS = Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class LastMap(nn.Module):
    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return maps[-1].flatten(1)


def test_a_normalize_in_the_transforms_does_not_normalise_a_second_time(image_folder: Path):
    classifier = Classifier(build_backbone(nn.Identity(), preprocessing=OWN), LastMap(), vocab=("a", "b"))  # fmt: skip
    seen: list[Tensor] = []
    for transforms in ([], [OTHERS], [Normalize()]):
        loaders = ImageDataLoaders.from_folder(
            image_folder, valid_pct=0.5, seed=1, item_tfms=Resize(24), batch_tfms=transforms,
            bs=8, num_workers=0, device="cpu",
        )  # fmt: skip
        for loader in loaders:
            images, _ = loader.one_batch()
            assert 0 <= float(images.min()) < float(images.max()) <= 1
            expected = ((images - 0.5) / 0.25).flatten(1)
            torch.testing.assert_close(classifier(images), expected)
        seen.append(loaders.valid.one_batch()[0])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
