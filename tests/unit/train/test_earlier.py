"""Go on from an earlier model in Python: what is kept of its file, what is said, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import (
    ConfigError,
    DataLoaders,
    Learner,
    ModelFileError,
    Resize,
    load_learner,
    vision_learner,
)
from vizsla.infer import compute_logits
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, FeatureHead, build_backbone
from vizsla.types import ImageTable, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

OTHER_NUMBERS = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def classifier_of(vocab: tuple[str, ...], *, kernel: bool = False) -> Any:
    """Return a classifier of a tiny network with a head of random numbers."""
    backbone = build_backbone("test_resnet", pretrained=False, preprocessing=OTHER_NUMBERS, seed=3)
    channels = backbone.stage_channels[-1]
    if kernel:
        head: Any = FeatureHead(
            stages=[len(backbone.stage_channels) - 1],
            statistics=["mean"],
            num_features=channels,
            num_classes=len(vocab),
            num_landmarks=5,
        )
    else:
        head = ConcatPoolHead(channels, len(vocab), lin_ftrs=[8], bn_final=True, seed=3)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in head.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=random)
    return Classifier(backbone, head, vocab=vocab).eval()


@pytest.fixture
def loaders_of(table: ImageTable) -> Any:
    """Return a function that makes loaders of 24 images with the given classes."""

    def make(*vocab: str) -> DataLoaders:
        rows = torch.arange(24)
        labelled = replace(
            table,
            vocab=vocab,
            targets=rows % len(vocab),
            train_rows=rows[:20],
            valid_rows=rows[20:],
        )
        return DataLoaders(labelled, resize=Resize(32), batch_size=4, num_workers=0, device="cpu")

    return make


@pytest.mark.parametrize("kernel", [False, True])
def test_rows_of_classes_that_are_there_again_are_kept(
    loaders_of: Any, tmp_path: Path, images: torch.Tensor, capsys: Any, kernel: bool
):
    old = classifier_of(("disc", "cross", "star"), kernel=kernel)
    file = save_bundle(tmp_path / "model.safetensors", classifier=old, resize=Resize(48, "squish"))
    for weights, arch in (
        (file, None),
        (tmp_path, "test_resnet"),
    ):  # the file, or the folder of a run
        learn: Any = vision_learner(loaders_of("ball", "cross", "disc"), arch, weights=weights)
        assert learn.num_frozen_groups == 2
        assert learn.model.preprocessing == OTHER_NUMBERS
        before, after = (compute_logits(each.eval(), images) for each in (old, learn.model))
        assert torch.equal(after[:, 1], before[:, 1])  # cross
        assert torch.equal(after[:, 2], before[:, 0])  # disc
        said = capsys.readouterr().out
        for fact in (
            "kept: 2 classes: cross, disc",
            "new: 1 class: ball",
            "dropped: 1 class: star",
        ):
            assert fact in said
        assert "48 x 48 pixels (squish)" in said
        assert "32 x 32 pixels (crop)" in said
    learn.fine_tune(1)
    assert learn.predict(str(learn.dls.table.paths[0])).label in learn.dls.vocab


def test_what_save_wrote_is_kept_too(
    loaders_of: Any, tmp_path: Path, images: torch.Tensor, capsys: Any
):
    old: Any = Learner(
        loaders_of("cross", "disc"), classifier_of(("cross", "disc")), path=tmp_path, quiet=True
    )
    file = old.save("old", with_opt=False)
    options: dict[str, Any] = {"lin_ftrs": [8], "bn_final": True}
    loaders = loaders_of("ball", "cross", "disc")
    learn: Any = vision_learner(loaders, "test_resnet", weights=file, **options)
    for name, value in old.model.backbone.state_dict().items():
        assert torch.equal(learn.model.backbone.state_dict()[name], value), name
    rows = [each.model.head.state_dict()["layers.8.weight"] for each in (old, learn)]
    assert torch.equal(rows[1][1:], rows[0])
    assert "new: 1 class: ball" in capsys.readouterr().out
    learn = vision_learner(loaders, weights=file)  # a head of other widths
    assert learn.model.head.state_dict()["layers.4.weight"].shape == (512, 2 * 96)
    assert "the head is new" in capsys.readouterr().out
    learn = vision_learner(loaders, "test_resnet", weights=file, custom_head=ConcatPoolHead(96, 3))
    assert "the head is new" in capsys.readouterr().out


def test_the_wrong_door_names_the_right_one(loaders_of: Any, tmp_path: Path):
    loaders = loaders_of("cross", "disc")
    old = classifier_of(("cross", "disc"))
    model = save_bundle(tmp_path / "model.safetensors", classifier=old, resize=Resize(32))
    learn = Learner(loaders, old, path=tmp_path, quiet=True)
    saved = learn.save("old", with_opt=False)
    with pytest.raises(ConfigError, match=r"test_resnet.*resnet18"):
        vision_learner(loaders, "resnet18", weights=model)
    with pytest.raises(ConfigError, match=r"weights=FILE"):
        vision_learner(loaders)
    with pytest.raises(ModelFileError, match=r"load_learner.*weights=FILE.*--from"):
        learn.load(model)
    other = Learner(loaders_of("cross", "ring"), classifier_of(("cross", "ring")), quiet=True)
    with pytest.raises(ModelFileError, match=r"ring.*weights=FILE"):
        other.load(saved)
    with pytest.raises(ModelFileError, match=r"learn\.load.*--weights"):
        load_learner(saved)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=re.escape(str(tmp_path / "empty"))):
        vision_learner(loaders, weights=tmp_path / "empty")
