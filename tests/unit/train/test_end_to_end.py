"""Training of body and fitted head together, and the best state that is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from vizsla.evaluate.predictions import Predictions
from vizsla.infer.run import predict_batches
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.groups import norm_parameters
from vizsla.models.heads import FeatureHead
from vizsla.recipe.end_to_end import BestState, train_end_to_end
from vizsla.train.display import Display

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.evaluate.predictions import HistoryPoint

VOCAB = ("cross", "disc")


@pytest.fixture
def classifier() -> Classifier:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    channels = backbone.stage_channels[-1]
    head = FeatureHead(stages=(-1,), statistics=("mean",), num_features=channels, num_classes=2)
    return Classifier(backbone, head, vocab=VOCAB).eval()


def predictions(*, logit: float) -> Predictions:
    """Return predictions that are the better, the larger the logit."""
    return Predictions(
        rows=torch.arange(2),
        paths=("a", "b"),
        logits=torch.tensor([[logit, 0.0], [0.0, logit]]),
        targets=torch.tensor([0, 1]),
        vocab=VOCAB,
    )


def state_of(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def change(classifier: Classifier) -> None:
    with torch.no_grad():
        for value in classifier.state_dict().values():
            value.add_(1)


def test_the_state_with_the_lowest_loss_is_put_back(classifier: Classifier):
    best = BestState(classifier, predictions=predictions(logit=1.0), name="start")
    change(classifier)
    best.offer(better := predictions(logit=2.0), name="epoch 1")
    expected = state_of(classifier)
    change(classifier)
    best.offer(predictions(logit=1.5), name="epoch 2")
    best.restore()
    assert best.name == "epoch 1"
    assert best.predictions is better
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_equal_loss_does_not_replace_an_earlier_state(classifier: Classifier):
    best = BestState(classifier, predictions=predictions(logit=1.0), name="start")
    expected = state_of(classifier)
    change(classifier)
    best.offer(predictions(logit=1.0), name="epoch 1")
    best.restore()
    assert best.name == "start"
    assert all(torch.equal(v, expected[name]) for name, v in classifier.state_dict().items())


def run(loaders: DataLoaders, classifier: Classifier) -> tuple[BestState, list[HistoryPoint]]:
    start = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    best = BestState(classifier, predictions=start, name="start")
    display = Display(quiet=True)
    display.header(("stage", "pictures", "epoch", "train_loss", "valid_loss", "accuracy", "time"))
    points: list[HistoryPoint] = []
    train_end_to_end(
        loaders,
        best=best,
        history=points,
        epochs=2,
        presize=40,
        learning_rate=1e-2,
        precision="fp32",
        display=display,
    )
    return best, points


def test_everything_trains_but_norms_stay_as_they_were(classifier: Classifier, make_loaders: Any):
    norms = {id(parameter) for parameter in norm_parameters(classifier)}
    fixed = {name for name, value in classifier.named_parameters() if id(value) in norms}
    before = state_of(classifier)
    _, points = run(make_loaders(), classifier)
    assert [point.epoch for point in points] == [1, 2]
    changed = {
        name
        for name, value in classifier.state_dict().items()
        if not torch.equal(value, before[name])
    }
    trained = {name for name, _ in classifier.named_parameters()} - fixed
    assert changed == trained


def test_the_best_predictions_are_those_of_the_restored_network(
    classifier: Classifier, make_loaders: Any
):
    loaders = make_loaders()
    best, points = run(loaders, classifier)
    best.restore()
    again = predict_batches(classifier, loaders.valid.batches(), table=loaders.table)
    assert torch.equal(again.logits, best.predictions.logits)
    losses = [point.valid_loss for point in points if point.valid_loss is not None]
    assert float(best.predictions.losses.mean()) <= min(losses) + 1e-6
