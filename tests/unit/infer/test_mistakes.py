"""Evidence: heat maps and neighbours of the worst mistakes, with or without what training left; the classifier stays as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla import DataLoaders, Resize
from vizsla.data.table import resolve_data
from vizsla.infer import (
    KnownImages,
    collect_evidence,
    evenly_spread,
    explained_positions,
    pooled_features,
    table_predictions,
)
from vizsla.infer import mistakes as evidence
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla import Predictions
    from vizsla.infer import Evidence


@pytest.fixture
def loaders(image_folder: Path) -> DataLoaders:
    table = resolve_data(image_folder, seed=0)
    return DataLoaders(table, resize=Resize(64), batch_size=4, seed=0, num_workers=0, device="cpu")


@pytest.fixture
def classifier(loaders: DataLoaders) -> Classifier:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet", pretrained=False)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[])
    return Classifier(backbone, head, vocab=loaders.vocab)


def predictions_of(loaders: DataLoaders, *, wrong: int) -> Predictions:
    table = loaders.table
    rows = table.valid_rows
    targets = table.targets[rows]
    answers = targets.clone()
    answers[:wrong] = 1 - answers[:wrong]
    logits = torch.eye(2)[answers] * torch.linspace(2, 3, len(rows))[:, None]
    return table_predictions(table, rows=rows, logits=logits, targets=targets)


@pytest.fixture
def collect(loaders: DataLoaders, classifier: Classifier) -> Callable[..., Evidence]:
    """Return a function that collects evidence about predictions, of which some are wrong."""

    def collect(*, wrong: int, **options: Any) -> Evidence:
        batches: dict[str, Any] = {"batches_of": lambda rows: loaders.loader_for(rows).batches()}
        return collect_evidence(
            classifier,
            predictions=predictions_of(loaders, wrong=wrong),
            table=loaders.table,
            num_workers=0,
            **(batches | options),
        )

    return collect


def test_each_mistake_has_a_heat_map_and_three_neighbours(
    loaders: DataLoaders, classifier: Classifier, collect: Callable[..., Evidence]
):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    modes = [part.training for part in classifier.modules()]
    bars: list[str] = []
    found = collect(wrong=2, on_progress=lambda what, _done, _total: bars.append(what))
    assert sorted(found.neighbours) == [0, 1]
    train = set(loaders.table.train_rows.tolist())
    for near in found.neighbours.values():
        assert len(near) == 3
        assert {each.row for each in near} <= train
        assert [each.similarity for each in near] == sorted((each.similarity for each in near), reverse=True)  # fmt: skip
    for pixels in found.heat.values():
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 64, 64))
    assert found.valid_facts is not None
    assert found.train_facts is not None
    assert found.valid_facts.rows.tolist() == loaders.table.valid_rows.tolist()
    assert found.train_facts.rows.tolist() == loaders.table.train_rows.tolist()
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert [part.training for part in classifier.modules()] == modes
    assert list(dict.fromkeys(bars)) == [
        "features of training images",
        "scanning validation files",
        "scanning training files",
    ]


def test_features_known_from_training_are_used(
    loaders: DataLoaders, classifier: Classifier, collect: Callable[..., Evidence]
):
    predictions = predictions_of(loaders, wrong=1)
    asked: list[int] = []

    def batches_of(rows: torch.Tensor):
        asked.append(len(rows))
        return loaders.loader_for(rows).batches()

    (batch,) = loaders.loader_for(predictions.rows[:1]).batches()
    own = pooled_features(classifier, batch.images)
    rows = loaders.table.train_rows[:2]
    known = KnownImages(rows=rows, features=torch.cat([-own, own]), left_out=predictions)
    found = collect(wrong=1, batches_of=batches_of, known=known)
    assert asked == [1]
    assert [each.row for each in found.neighbours[0]] == rows.flip(0).tolist()
    assert found.neighbours[0][0].similarity == pytest.approx(1, abs=1e-5)
    assert found.left_out is predictions


def test_without_mistakes_the_network_does_not_run(collect: Callable[..., Evidence]):
    def batches_of(rows: torch.Tensor):
        raise AssertionError(rows)

    found = collect(wrong=0, batches_of=batches_of)
    assert (found.heat, found.neighbours) == ({}, {})
    assert found.valid_facts is not None


def test_training_images_are_sampled_evenly(
    collect: Callable[..., Evidence], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evidence, "MOST_TRAINING", 4)
    found = collect(wrong=0)
    assert found.train_facts is not None
    assert len(found.train_facts.rows) == 4
    assert evenly_spread(range(10), most=4) == [0, 2, 5, 7]


def test_largest_errors_of_numbers_are_explained(loaders: DataLoaders):
    numbers = replace(
        predictions_of(loaders, wrong=0),
        logits=torch.zeros(len(loaders.table.valid_rows), 2),
        targets=torch.arange(2.0 * len(loaders.table.valid_rows)).view(-1, 2),
        task="regression",
    )
    last = len(loaders.table.valid_rows) - 1
    assert explained_positions(numbers, 2).tolist() == [last, last - 1]
