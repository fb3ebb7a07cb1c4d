"""predict_batches and its parts, with a network of two layers, held against running it by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from vizsla.errors import ConfigError
from vizsla.infer.run import (
    compute_logits,
    compute_outputs,
    evaluation_mode,
    mix_with_plain,
    predict_batches,
    usable_device,
)
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.types import UNLABELLED, Batch, ImageTable, Task

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


VOCAB = ("cat", "dog", "fish")


class Body(nn.Sequential):
    """A body with a norm, whose output differs between training and evaluation."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())


@pytest.fixture
def classifier() -> Classifier:
    backbone = build_backbone(Body())
    classifier = Classifier(backbone, ConcatPoolHead(4, 3, lin_ftrs=[8]), vocab=VOCAB)
    return classifier.train()


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
    return torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def of_task(table: ImageTable, task: Task) -> ImageTable:
    targets = torch.randint(2, (7, 3), generator=torch.Generator().manual_seed(2)).float()
    return replace(table, task=task, targets=targets)


def batches_of(images: Tensor, table: ImageTable, rows: list[list[int]]) -> Iterator[Batch]:
    for part in rows:
        yield Batch(images=images[part], targets=table.targets[part], rows=torch.tensor(part))


def test_logits_are_those_of_the_network_in_evaluation_mode_in_the_order_of_the_batches(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    found = predict_batches(
        classifier, batches_of(images, table, [[6, 2], [0, 4], [5]]), table=table
    )
    order = [6, 2, 0, 4, 5]
    with torch.no_grad():
        expected = classifier.eval()(images[order])
    torch.testing.assert_close(found.logits, expected)
    assert found.rows.tolist() == order
    assert found.paths == ("6.jpg", "2.jpg", "0.jpg", "4.jpg", "5.jpg")
    assert found.targets.tolist() == [UNLABELLED, 2, 0, 1, 2]
    assert found.vocab == VOCAB


def test_predictions_are_plain_float32_tensors_on_the_cpu(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    logits = predict_batches(classifier, batches_of(images, table, [[0, 1]]), table=table).logits
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"
    assert not logits.is_inference()
    assert not logits.requires_grad


def test_the_classifier_is_not_changed(classifier: Classifier, table: ImageTable, images: Tensor):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    predict_batches(classifier, batches_of(images, table, [[0, 1], [2]]), table=table)
    assert classifier.training
    assert torch.is_grad_enabled()
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_batches_give_no_predictions(classifier: Classifier, table: ImageTable):
    found = predict_batches(classifier, [], table=table)
    assert found.logits.shape == (0, 3)
    assert found.paths == ()
    assert found.rows.dtype == torch.int64


def test_progress_gets_the_number_of_pictures_so_far(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    seen: list[int] = []
    batches = batches_of(images, table, [[0, 1, 2], [3]])
    predict_batches(classifier, batches, table=table, on_progress=seen.append)
    assert seen == [3, 4]


def test_bf16_gives_nearly_the_same_as_float32(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    classifier.eval()
    exact = compute_logits(classifier, images)
    rough = compute_logits(classifier, images, precision="bf16")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_an_unknown_precision_is_refused(classifier: Classifier, images: Tensor):
    with pytest.raises(ConfigError, match="Received: 'fp8'"):
        compute_logits(classifier, images, precision="fp8")  # pyright: ignore[reportArgumentType] (that is the test)


def test_every_part_is_in_its_own_mode_again_after_an_error(classifier: Classifier):
    norm = classifier.backbone.network[1]  # pyright: ignore[reportIndexIssue] (a Sequential)
    norm.eval()

    def fail_inside() -> None:
        with evaluation_mode(classifier):
            assert not any(part.training for part in classifier.modules())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert [part for part in classifier.modules() if not part.training] == [norm]


def test_a_generator_of_batches_is_closed_when_the_network_fails(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    closed: list[bool] = []

    def batches() -> Generator[Batch]:
        try:
            yield from batches_of(images.double(), table, [[0], [1]])
        finally:
            closed.append(True)

    generator = batches()
    with pytest.raises(RuntimeError):
        predict_batches(classifier, generator, table=table)
    assert closed == [True]
    assert classifier.training


@pytest.mark.parametrize("task", ["multi_category", "regression"])
def test_float_targets_arrive_in_the_order_of_the_batches(
    classifier: Classifier, table: ImageTable, images: Tensor, task: Task
):
    table = of_task(table, task)
    classifier = Classifier(classifier.backbone, classifier.head, vocab=VOCAB, task=task)
    found = predict_batches(classifier, batches_of(images, table, [[6, 2], [0]]), table=table)
    assert found.task == task
    assert torch.equal(found.targets, table.targets[[6, 2, 0]])
    nothing = predict_batches(classifier, [], table=table)
    assert (nothing.targets.shape, nothing.logits.shape) == ((0, 3), (0, 3))


def test_a_classifier_of_another_task_is_refused_before_it_runs(
    classifier: Classifier, table: ImageTable, images: Tensor
):
    with pytest.raises(ConfigError, match=r"task 'category' and .* 'regression'. Build it"):
        predict_batches(
            classifier, batches_of(images, table, [[0]]), table=of_task(table, "regression")
        )


def test_devices_that_are_not_there_are_named():
    assert usable_device("cpu") == torch.device("cpu")
    missing = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if not there]  # fmt: skip
    for name in (*missing, "cuda:99"):
        with pytest.raises(ConfigError, match=rf"The device '{name}' was asked for"):
            usable_device(name)
    with pytest.raises(ConfigError, match=r"no device of that name. Received: 'gpu'"):
        usable_device("gpu")


class Mean(nn.Module):
    """Two logits: the mean of the image, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3)) * self.scale
        return torch.stack([mean, -mean], dim=1)


IMAGES = torch.arange(5, dtype=torch.float32).view(5, 1, 1, 1).expand(5, 3, 4, 4) / 10
TARGETS = torch.tensor([0, 1, 0, 1, 1])
LOGITS = torch.stack([torch.arange(5) / 10, -torch.arange(5) / 10], dim=1)


def batch(place: slice, *, targets: Tensor = TARGETS) -> Batch:
    return Batch(images=IMAGES[place], targets=targets[place], rows=torch.arange(5)[place])


@pytest.mark.parametrize(
    "batches",
    [
        [(IMAGES[:3], TARGETS[:3]), (IMAGES[3:], TARGETS[3:])],
        [[IMAGES, TARGETS]],
        ((IMAGES[:1], TARGETS[:1]), (IMAGES[1:], TARGETS[1:])),
        [batch(slice(0, 2)), batch(slice(2, 5))],
    ],
    ids=["pairs", "a list", "a tuple", "batches"],
)
def test_batches_of_any_form_give_outputs_in_their_order(batches: Any):
    found = compute_outputs(Mean(), batches, keep_images=True)
    torch.testing.assert_close(found.logits, LOGITS)
    assert found.targets is not None
    assert torch.equal(found.targets, TARGETS)
    assert found.images is not None
    assert torch.equal(found.images, IMAGES)
    assert found.logits.dtype == torch.float32
    assert not found.logits.requires_grad


@pytest.mark.parametrize(
    "batches",
    [
        [(IMAGES,)],
        [batch(slice(None), targets=torch.full((5,), UNLABELLED))],
        [(IMAGES[:3], TARGETS[:3]), (IMAGES[3:],)],
    ],
    ids=["no targets", "unknown", "some without"],
)
def test_without_labels_there_are_no_targets(batches: Any):
    found = compute_outputs(Mean(), batches)
    torch.testing.assert_close(found.logits, LOGITS)
    assert found.targets is None
    assert found.images is None


def test_what_has_no_length_is_refused_by_its_type():
    with pytest.raises(ConfigError, match=r"Received: generator\. Wrap it: dl=list\(\.\.\.\)"):
        compute_outputs(Mean(), (pair for pair in [(IMAGES, TARGETS)]))


def test_nothing_to_predict_is_said():
    with pytest.raises(ConfigError, match="the loader gives no batches"):
        compute_outputs(Mean(), [])


def test_a_loader_is_closed_after_an_error():
    closed: list[bool] = []

    class Loader:
        def batches(self) -> Any:
            try:
                yield batch(slice(None))
            finally:
                closed.append(True)

    class Broken(Mean):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        compute_outputs(Broken(), Loader())
    assert closed == [True]


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tta.json").read_text("utf-8"))
VIEWS, PLAIN = torch.tensor(GOLDEN["aug_preds"]), torch.tensor(GOLDEN["plain_preds"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "beta_0_25"),
        ({"beta": 0.25}, "beta_0_25"),
        ({"beta": 0.6}, "beta_0_6"),
        ({"use_max": True}, "use_max"),
    ],
)
def test_views_and_plain_pictures_are_mixed_as_recorded(options: dict[str, Any], name: str):
    mixed = mix_with_plain(VIEWS, PLAIN, **options)
    torch.testing.assert_close(mixed, torch.tensor(GOLDEN[name]), atol=1e-5, rtol=0)


def test_without_a_beta_both_come_apart():
    mean, plain = mix_with_plain(VIEWS, PLAIN, beta=None)
    torch.testing.assert_close(mean, torch.tensor(GOLDEN["beta_none"][0]), atol=1e-5, rtol=0)
    assert torch.equal(plain, PLAIN)


@pytest.mark.parametrize(("beta", "expected"), [(0.0, VIEWS.mean(dim=0)), (1.0, PLAIN)])
def test_the_ends_of_beta_are_one_or_the_other(beta: float, expected: torch.Tensor):
    mixed = mix_with_plain(VIEWS, PLAIN, beta=beta)
    torch.testing.assert_close(mixed, expected)
