"""Each task from its labels to the predictions of the saved file: the same numbers all the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

from vizsla.data.images.sizing import Resize
from vizsla.data.table.block import DataBlock
from vizsla.data.table.blocks import CategoryBlock, ImageBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.labels import parent_label
from vizsla.data.table.sources import get_image_files
from vizsla.data.table.splits import RandomSplitter
from vizsla.errors import ConfigError
from vizsla.infer.run import predict_batches
from vizsla.model_file.bundle import load_bundle, save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.prediction import Prediction, describe
from vizsla.predict.predictor import Predictor

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.types import Task


def several(path: Path) -> list[str]:
    number = int(path.stem.split("_")[1])
    return [name for name, present in (("odd", number % 2), ("large", number > 5)) if present]


def measures(path: Path) -> tuple[float, float]:
    number = int(path.stem.split("_")[1])
    return -number / 2, 1000.0 * number


TASKS: dict[Task, tuple[Any, Any, tuple[str, ...]]] = {
    "category": (CategoryBlock, parent_label, ("cross", "disc")),
    "multi_category": (MultiCategoryBlock, several, ("large", "odd")),
    "regression": (RegressionBlock(2), measures, ("value_0", "value_1")),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture
def loaders(picture_folder: Path, task: Task) -> DataLoaders:
    block, get_y, _ = TASKS[task]
    return DataBlock(
        blocks=(ImageBlock, block),
        get_items=get_image_files,
        splitter=RandomSplitter(0.4, seed=3),
        get_y=get_y,
        item_tfms=Resize((40, 32)),
    ).dataloaders(picture_folder, bs=5, num_workers=0, device="cpu")


@pytest.fixture
def trained(loaders: DataLoaders) -> Classifier:
    """Random weights whose head is scaled so that predictions differ from picture to picture."""
    table = loaders.table
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(table.vocab), lin_ftrs=[], seed=2)
    classifier = Classifier(backbone, head, vocab=table.vocab, task=table.task).train()
    with torch.no_grad():
        classifier(torch.rand(8, 3, 40, 32, generator=torch.Generator().manual_seed(1)))
        for weights in head.parameters():
            weights.mul_(3)
    return classifier.eval()


def test_a_task_goes_all_the_way_from_labels_to_the_saved_file(
    loaders: DataLoaders, trained: Classifier, task: Task, tmp_path: Path
):
    table = loaders.table
    _, get_y, vocab = TASKS[task]
    assert (table.task, table.vocab) == (task, vocab)
    predictions = predict_batches(trained, loaders.valid.batches(), table=table)
    assert predictions.task == task
    assert torch.equal(predictions.targets, table.targets[table.valid_rows])
    assert predictions.losses.isfinite().all()
    labels = [get_y(table.paths[row]) for row in table.valid_rows.tolist()]
    for position, label in enumerate(labels):
        parts = [label] if isinstance(label, str) else label
        shown = parts if task != "regression" else [f"{part:g}" for part in parts]
        assert predictions.label(position) == ";".join(sorted(shown, key=str) if task == "multi_category" else shown)  # fmt: skip

    path = save_bundle(tmp_path / "m.safetensors", classifier=trained, resize=Resize((40, 32)))
    bundle = load_bundle(path)
    assert (bundle.manifest.task, bundle.classifier.task) == (task, task)
    again = predict_batches(bundle.classifier, loaders.valid.batches(), table=table)
    torch.testing.assert_close(again.logits, predictions.logits)
    predictor = Predictor.load(path, device="cpu")
    assert (predictor.task, predictor.vocab) == (task, vocab)
    pictures = [table.paths[row] for row in table.valid_rows.tolist()]
    found = [answer for _, answer in predictor.predict_many(pictures)]
    for position, answer in enumerate(found):
        assert isinstance(answer, Prediction)
        torch.testing.assert_close(
            answer.probabilities, predictions.probabilities[position], atol=2e-6, rtol=1e-5
        )
        if task != "regression":
            assert answer.label == predictions.prediction(position)
            confidence = predictions.confidence[position].item()
            assert answer.probability == pytest.approx(confidence, abs=2e-6)
    frame = pd.read_csv(predictions.save_csv(tmp_path / "p.csv"), keep_default_na=False)
    assert len(frame) == len(pictures)


def test_training_batches_hold_the_targets_of_their_rows(loaders: DataLoaders):
    for epoch in range(2):
        for batch in loaders.train.batches(epoch=epoch):
            assert torch.equal(batch.targets, loaders.table.targets[batch.rows])
            assert batch.partner_targets is batch.shares is None


def test_other_pictures_have_no_targets(loaders: DataLoaders, trained: Classifier, task: Task):
    loader = loaders.test_dl(loaders.table.paths[:3])
    table = loader.loader.table
    predictions = predict_batches(trained, loader.batches(), table=table)
    assert predictions.task == task
    assert predictions.labelled.tolist() == [False] * 3
    assert predictions.losses.isnan().all()


LOGITS = torch.tensor([0.4, -3.0, 2.0, 0.0])
VOCAB = ("a", "b;c", "犬", "d")


def said_of(logits: torch.Tensor, *, task: Task, vocab: tuple[str, ...]) -> Prediction:
    """What one view of one picture says."""
    (prediction,) = describe(logits[None, None], task=task, vocab=vocab)
    return prediction


def test_several_labels_unpack_as_list_mask_and_probabilities():
    found = said_of(LOGITS, task="multi_category", vocab=VOCAB)
    labels, mask, probabilities = found
    assert labels == ["a", "犬"]
    assert found.label == "a;犬"
    assert isinstance(mask, torch.Tensor)
    assert mask.tolist() == [True, False, True, False]
    assert isinstance(probabilities, torch.Tensor)
    torch.testing.assert_close(probabilities, LOGITS.sigmoid())
    assert found.top[0] == ("犬", pytest.approx(torch.tensor(2.0).sigmoid().item()))
    assert [name for name, _ in found.top] == ["犬", "a", "d"]
    assert found.probability == 0.5  # the last class might be there as well as not
    assert said_of(torch.tensor([-9.0]), task="multi_category", vocab=("a",)).labels == ()


def test_numbers_unpack_as_value_tensor_and_tensor():
    pair = said_of(torch.tensor([0.5, -2.0]), task="regression", vocab=("x", "y"))
    assert (pair.values, pair.label, pair.labels, pair.top) == ((0.5, -2.0), "0.5;-2", (), ())
    assert math.isnan(pair.probability)
    value, index, outputs = pair
    assert value == (0.5, -2.0)
    assert index is outputs
    single, *_ = said_of(torch.tensor([0.25]), task="regression", vocab=("x",))
    assert single == 0.25


def test_one_class_unpacks_as_before():
    label, index, probabilities = said_of(LOGITS, task="category", vocab=VOCAB)
    assert (label, index) == ("犬", 2)
    assert isinstance(probabilities, torch.Tensor)
    torch.testing.assert_close(probabilities, LOGITS.softmax(0))


@pytest.mark.parametrize("device", ["cuda:7", "gpu", "mps:3"])
def test_a_device_that_is_not_there_is_our_error(saved: Path, device: str):
    with pytest.raises(ConfigError, match=device):
        Predictor.load(saved, device=device)
    with pytest.raises(ConfigError, match=device):
        load_bundle(saved, device=device)
