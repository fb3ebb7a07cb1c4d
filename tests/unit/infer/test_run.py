"""Runs over batches with a network of two layers, compared with running it by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from vizsla import ConfigError
from vizsla.infer import (
    compute_logits,
    compute_outputs,
    extract_features,
    mix_with_plain,
    predict_batches,
    usable_device,
)
from vizsla.models import Classifier, ConcatPoolHead, FeatureHead, build_backbone
from vizsla.types import UNLABELLED, Batch, ImageTable, Task

if TYPE_CHECKING:
    from collections.abc import Generator

VOCAB = ("cat", "dog", "fish")


class Body(nn.Sequential):
    """A body with a norm, whose output differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())


@pytest.fixture
def classifier() -> Classifier:
    """In training mode, with norm statistics that differ from those of a new network."""
    backbone = build_backbone(Body())
    classifier = Classifier(backbone, ConcatPoolHead(4, 3, lin_ftrs=[8]), vocab=VOCAB).train()
    with torch.no_grad():
        classifier(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)))
    return classifier


@pytest.fixture
def table() -> ImageTable:
    return ImageTable(
        root=Path("/data"),
        paths=tuple(Path(f"/data/{number}.jpg") for number in range(7)),
        targets=torch.tensor([0, 1, 2, 0, 1, 2, UNLABELLED]),
        vocab=VOCAB,
        train_rows=torch.arange(3),
        valid_rows=torch.arange(3, 7),
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def of_task(table: ImageTable, task: Task) -> ImageTable:
    targets = torch.randint(2, (7, 3), generator=torch.Generator().manual_seed(2)).float()
    return replace(table, task=task, targets=targets)


def batches_of(images: Tensor, table: ImageTable, rows: list[list[int]]) -> Generator[Batch]:
    for part in rows:
        yield Batch(images=images[part], targets=table.targets[part], rows=torch.tensor(part))


def test_predictions_are_those_of_the_network_in_evaluation_mode(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    seen: list[int] = []
    batches = batches_of(images, table, [[6, 2], [0, 4], [5]])
    found = predict_batches(classifier, batches, table=table, on_progress=seen.append)
    assert classifier.training
    assert torch.is_grad_enabled()
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    order = [6, 2, 0, 4, 5]
    with torch.no_grad():
        expected = classifier.eval()(images[order])
    torch.testing.assert_close(found.logits, expected)
    assert found.rows.tolist() == order
    assert found.paths == ("6.jpg", "2.jpg", "0.jpg", "4.jpg", "5.jpg")
    assert found.targets.tolist() == [UNLABELLED, 2, 0, 1, 2]
    assert found.vocab == VOCAB
    assert found.logits.dtype == torch.float32
    assert found.logits.device.type == "cpu"
    assert not found.logits.is_inference()
    assert not found.logits.requires_grad
    assert seen == [2, 4, 5]


def test_no_batches_give_no_predictions(classifier: Classifier, table: ImageTable):
    found = predict_batches(classifier, [], table=table)
    assert found.logits.shape == (0, 3)
    assert found.paths == ()
    assert found.rows.dtype == torch.int64


def test_logits_in_bf16(classifier: Classifier, images: Tensor):
    classifier.eval()
    exact = compute_logits(classifier, images)
    rough = compute_logits(classifier, images, precision="bf16")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    with pytest.raises(ConfigError, match="'fp8'"):
        compute_logits(classifier, images, precision="fp8")  # pyright: ignore[reportArgumentType]


def test_error_closes_the_generator_and_restores_modes(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    norm = classifier.backbone.network[1]  # pyright: ignore[reportIndexIssue] (a Sequential)
    norm.eval()
    closed: list[bool] = []

    def batches() -> Generator[Batch]:
        try:
            yield from batches_of(images, table, [[0], [1]])
        finally:
            closed.append(True)

    def fail(done: int) -> None:
        assert not any(part.training for part in classifier.modules())
        raise KeyboardInterrupt

    generator = batches()
    with pytest.raises(KeyboardInterrupt):
        predict_batches(classifier, generator, table=table, on_progress=fail)
    assert closed == [True]
    assert list(generator) == []
    assert [part for part in classifier.modules() if not part.training] == [norm]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("task", ["multi_category", "regression"])
def test_float_targets(classifier: Classifier, table: ImageTable, images: Tensor, task: Task):
    table = of_task(table, task)
    classifier = Classifier(classifier.backbone, classifier.head, vocab=VOCAB, task=task)
    found = predict_batches(classifier, batches_of(images, table, [[6, 2], [0]]), table=table)
    assert found.task == task
    assert torch.equal(found.targets, table.targets[[6, 2, 0]])
    nothing = predict_batches(classifier, [], table=table)
    assert (nothing.targets.shape, nothing.logits.shape) == ((0, 3), (0, 3))


def test_classifier_for_another_task_is_refused(classifier: Classifier, table: ImageTable):
    with pytest.raises(ConfigError, match=r"'category'.*'regression'"):
        predict_batches(classifier, [], table=of_task(table, "regression"))


@pytest.fixture
def head() -> FeatureHead:
    return FeatureHead(stages=(0,), statistics=("mean", "std"), num_features=8, num_classes=2)


def test_features_are_those_of_the_network_in_evaluation_mode(
    classifier: Classifier, head: FeatureHead, table: ImageTable, images: Tensor
):
    order = [6, 2, 0, 4, 5]
    found = extract_features(
        classifier, batches_of(images, table, [[6, 2], [0, 4], [5]]), head=head
    )
    assert classifier.training
    classifier.eval()
    with torch.no_grad():
        (maps,) = classifier.backbone((images[order] - classifier.mean) / classifier.std)
    expected = torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0)], 1)
    torch.testing.assert_close(found.values, expected[:, None])
    assert found.rows.tolist() == order
    assert torch.equal(found.targets, table.targets[order])
    for tensor in (found.values, found.targets, found.rows):
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()
    assert found.values.dtype == torch.float32
    assert not found.values.requires_grad
    head.classify(found.values[:, 0]).sum().backward()
    rough = extract_features(
        classifier, batches_of(images, table, [order]), head=head, precision="bf16"
    )
    assert rough.values.dtype == torch.float32
    assert not torch.equal(rough.values, found.values)
    torch.testing.assert_close(rough.values, found.values, atol=0.03, rtol=0.03)


def test_mirrored_view_is_the_flipped_image(
    classifier: Classifier, head: FeatureHead, table: ImageTable, images: Tensor
):
    def features(images: Tensor, *views: str) -> Tensor:
        batches = batches_of(images, table, [[0, 1, 2], [3, 4]])
        return extract_features(classifier, batches, head=head, views=views).values

    both = features(images, "plain", "mirrored")
    assert both.shape == (5, 2, 8)
    assert torch.equal(both.flip(1), features(images, "mirrored", "plain"))
    assert torch.equal(both[:, :1], features(images, "plain"))
    assert torch.equal(both[:, 1:], features(images.flip(3), "plain"))
    assert not torch.allclose(both[:, 0], both[:, 1])
    for views in ((), ("diagonal",), ("plain", "Mirrored")):
        with pytest.raises(ConfigError, match="plain, mirrored"):
            features(images, *views)


def test_missing_devices_are_refused():
    assert usable_device("cpu") == torch.device("cpu")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in (*(name for name in there if not there[name]), "cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"'{name}'"):
            usable_device(name)


def test_batches_of_any_form(classifier: Classifier, table: ImageTable, images: Tensor):
    x, y = images[:6], table.targets[:6]
    unlabelled = Batch(images=x, targets=torch.full_like(y, UNLABELLED), rows=torch.arange(6))
    with_labels: list[Any] = [
        [(x[:3], y[:3]), (x[3:], y[3:])],
        [[x, y]],
        ((x[:1], y[:1]), (x[1:], y[1:])),
        list(batches_of(images, table, [[0, 1], [2, 3, 4, 5]])),
    ]
    without: list[Any] = [[(x,)], [unlabelled], [(x[:3], y[:3]), (x[3:],)]]
    expected = compute_logits(classifier.eval(), x)
    for batches in with_labels:
        found = compute_outputs(classifier, batches, keep_images=True)
        torch.testing.assert_close(found.logits, expected)
        assert found.targets is not None
        assert torch.equal(found.targets, y)
        assert found.images is not None
        assert torch.equal(found.images, x)
        assert found.logits.dtype == torch.float32
        assert not found.logits.requires_grad
    for batches in without:
        found = compute_outputs(classifier, batches)
        torch.testing.assert_close(found.logits, expected)
        assert found.targets is found.images is None
    for files in ([Path("a.jpg")], ["a.jpg"], [["a.jpg"]], [None]):
        with pytest.raises(ConfigError, match="test_dl"):
            compute_outputs(classifier, files)
    with pytest.raises(ConfigError, match="generator"):
        compute_outputs(classifier, (pair for pair in [(x, y)]))
    with pytest.raises(ConfigError, match="no batches"):
        compute_outputs(classifier, [])


def test_loader_is_closed_after_an_error(classifier: Classifier):
    closed: list[bool] = []

    class FiveChannels:
        def batches(self) -> Any:
            try:
                yield torch.zeros(1, 5, 16, 12), torch.zeros(1, dtype=torch.int64)
            finally:
                closed.append(True)

    with pytest.raises(ConfigError, match="5"):
        compute_outputs(classifier, FiveChannels())
    assert closed == [True]


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tta.json").read_text("utf-8"))
VIEWS, PLAIN = torch.tensor(GOLDEN["aug_preds"]), torch.tensor(GOLDEN["plain_preds"])


def test_golden_mixtures_of_views():
    cases: list[tuple[str, dict[str, Any]]] = [
        ("beta_0_25", {}),
        ("beta_0_25", {"beta": 0.25}),
        ("beta_0_6", {"beta": 0.6}),
        ("use_max", {"use_max": True}),
    ]
    for name, options in cases:
        mixed = mix_with_plain(VIEWS, PLAIN, **options)
        torch.testing.assert_close(mixed, torch.tensor(GOLDEN[name]), atol=1e-5, rtol=0)
    mean, plain = mix_with_plain(VIEWS, PLAIN, beta=None)
    torch.testing.assert_close(mean, torch.tensor(GOLDEN["beta_none"][0]), atol=1e-5, rtol=0)
    assert torch.equal(plain, PLAIN)
    torch.testing.assert_close(mix_with_plain(VIEWS, PLAIN, beta=0.0), VIEWS.mean(dim=0))
    torch.testing.assert_close(mix_with_plain(VIEWS, PLAIN, beta=1.0), PLAIN)
