"""The nearest training images have the highest cosine; runs and folders say which images there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vizsla import DataError, Predictor
from vizsla.data.table import resolve_data
from vizsla.infer import evenly_spread, pooled_features
from vizsla.models import Classifier, FeatureHead, build_backbone
from vizsla.serve import (
    NearestIndex,
    TrainingImage,
    build_index,
    features_of,
    images_of_folder,
    images_of_run,
)


def test_the_most_similar_come_first():
    features = torch.eye(4).half()
    index = NearestIndex(features=features, labels=("a", "b", "c", "d"), thumbnails=(b"0", b"1", b"2", b"3"))  # fmt: skip
    first, second = index.find(torch.tensor([[0.0, 0.6, 0.8, 0.0], [1.0, 0, 0, 0]]), count=2)
    assert [one.label for one in first] == ["c", "b"]
    assert [one.similarity for one in first] == pytest.approx([0.8, 0.6])
    assert (second[0].label, second[0].thumbnail, second[0].similarity) == ("a", b"0", 1.0)
    noise = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
    features = torch.nn.functional.normalize(noise, dim=1).half()  # many rows are compared like few
    names = tuple(map(str, range(20_000)))
    index = NearestIndex(features=features, labels=names, thumbnails=(b"",) * 20_000)
    (found,) = index.find(features[[12_345]].float(), count=1)
    assert found[0].label == "12345"


def test_an_index_keeps_what_can_be_read(predictor: Predictor, known: list[TrainingImage]):
    done: list[int] = []
    index = build_index(predictor, known, on_progress=done.append)
    assert index.labels == ("cross", "disc") * 4
    assert index.num_left_out == 1
    assert done == [9]
    assert index.features.dtype == torch.float16
    torch.testing.assert_close(index.features.float().norm(dim=1), torch.ones(8), atol=2e-3, rtol=0)
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in index.thumbnails)
    with pytest.raises(DataError, match="None of the 1 "):
        build_index(predictor, known[-1:])


def test_features_do_not_depend_on_the_batch(predictor: Predictor, known: list[TrainingImage]):
    pixels = [predictor.prepare(one.path) for one in known[:3]]
    together = features_of(predictor, pixels)
    alone = torch.cat([features_of(predictor, [one]) for one in pixels])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_standardised_features_of_a_feature_head_are_compared():
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    channels = backbone.stage_channels[-1]
    head = FeatureHead(stages=[len(backbone.stage_channels) - 1], statistics=["mean"], num_features=channels, num_classes=2)  # fmt: skip
    head.offset.fill_(0.3)
    head.scale[0] = 5.0
    classifier = Classifier(backbone, head, vocab=("a", "b")).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = (classifier.stage_maps(images)[-1].mean(dim=(2, 3)) - head.offset) * head.scale
    expected = plain / plain.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pooled_features(classifier, images), expected)


def test_images_are_labelled_by_their_folders(image_folder: Path):
    (image_folder / "cross" / "cross_0.jpg").rename(image_folder / "loose.jpg")
    found = {one.path.name: one.label for one in images_of_folder(image_folder)}
    assert len(found) == 24
    assert (found["loose.jpg"], found["cross_1.jpg"], found["disc_0.jpg"]) == ("", "cross", "disc")


def test_a_run_says_what_it_learned_from(image_folder: Path, tmp_path: Path):
    text = f'data = "{image_folder.as_posix()}"\nlabels = "folder"\nvalid = "0.25"\nseed = 3\n'
    (tmp_path / "config.toml").write_text(text)
    (tmp_path / "metrics.json").write_text('{"facts": {}}')
    table = resolve_data(image_folder, valid="0.25", seed=3)
    assert images_of_run(tmp_path) == [
        TrainingImage(path=table.paths[row], label=table.label(row))
        for row in table.train_rows.tolist()
    ]
    (tmp_path / "config.toml").unlink()
    for text in (None, "data = 3", "no toml", 'data = "x"\nseed = "y"'):
        if text is not None:
            (tmp_path / "config.toml").write_text(text)
        with pytest.raises(DataError, match=str(tmp_path)):
            images_of_run(tmp_path)


def test_of_too_many_images_evenly_spread_ones_are_taken(known: list[TrainingImage]):
    assert evenly_spread(known, most=3) == [known[0], known[3], known[6]]
    assert evenly_spread(known, most=9) == known
