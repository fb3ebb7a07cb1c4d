"""Transforms that users write act in loaders, repeatably; Datasets make the table of a DataBlock; what cannot be is refused by name.

What cells give is compared with fastai in tests/contract/test_idioms.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import (
    Categorize,
    ConfigError,
    CropPad,
    DataBlock,
    DataLoaders,
    Datasets,
    DihedralItem,
    FlipItem,
    ImageBlock,
    IntToFloatTensor,
    ItemTransform,
    LabelError,
    MultiCategorize,
    Normalize,
    OneHotEncode,
    PILImage,
    PILImageBW,
    Pipeline,
    RandomCrop,
    RandomResizedCrop,
    RandomSplitter,
    RandTransform,
    RegexLabeller,
    RegressionSetup,
    Resize,
    TensorCategory,
    TensorImage,
    TfmdLists,
    ToTensor,
    Transform,
    TransformBlock,
    get_image_files,
    using_attr,
)
from vizsla.model_file import storable

LABEL = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")


class Noise(RandTransform):
    """Noise that depends on the seed that it gets."""

    order = 2

    def encodes(self, image: PILImage) -> PILImage:
        shift = np.random.default_rng(self.seed).integers(0, 256, np.array(image).shape)
        return PILImage.create((np.array(image) + shift).astype(np.uint8))


class Dark(RandTransform):
    def encodes(self, images: TensorImage) -> torch.Tensor:
        return images * 0


class Always(Noise):
    split_idx = None


def halved(images: TensorImage) -> torch.Tensor:
    return images / 2


class Both(ItemTransform):
    def encodes(self, both: list[Any]) -> list[Any]:
        return both


class OfLabels(Transform):
    def encodes(self, label: TensorCategory) -> TensorCategory:
        return label


def loaders(breeds: Path, items: Any = None, batches: Any = None, **given: Any) -> DataLoaders:
    items = Resize(32) if items is None else items
    block = DataBlock(
        get_y=LABEL, splitter=RandomSplitter(seed=42), item_tfms=items, batch_tfms=batches
    )
    given = {"bs": 4, "num_workers": 0, "device": "cpu", **given}
    return block.dataloaders(get_image_files(breeds), **given)


def by_row(dls: DataLoaders, *, epoch: int) -> dict[int, torch.Tensor]:
    return {
        row: image
        for batch in dls.train.batches(epoch=epoch)
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
    }


def test_what_a_transform_draws_depends_on_seed_epoch_and_image_alone(breeds: Path):
    for noise in (Noise(0.5), Noise(0.5, order=0)):
        first = by_row(loaders(breeds, [noise, Resize(32)]), epoch=0)
        other = loaders(breeds, [noise, Resize(32)], bs=8, num_workers=3)
        again, later = by_row(other, epoch=0), by_row(other, epoch=1)
        plain = by_row(loaders(breeds), epoch=0)
        assert all(torch.equal(first[row], again[row]) for row in first)
        changed = [row for row in first if not torch.equal(first[row], plain[row])]
        assert 0 < len(changed) < len(first)
        assert not all(torch.equal(first[row], later[row]) for row in first)
        assert torch.equal(other.valid.one_batch()[0], loaders(breeds, bs=8).valid.one_batch()[0])


def test_the_order_of_a_transform_decides_what_it_sees(breeds: Path):
    seen: dict[str, set[Any]] = {}

    def note(name: str, **options: Any) -> Transform:
        def encodes(image: PILImage) -> None:
            seen.setdefault(name, set()).add(image.size)
            return image  # pyright: ignore[reportReturnType]

        return Transform(encodes, **options)

    listed = [
        note("early"),
        note("late", order=2),
        Resize(32),
        note("after"),
        note("never", split_idx=1),
    ]
    loaders(breeds, listed).train.one_batch()
    assert set(seen) == {"early", "late", "after"}
    assert seen["late"] == seen["after"] == {(32, 32)}
    assert len(seen["early"]) > 1


def test_images_come_as_the_annotation_says(breeds: Path):
    kinds: list[tuple[type, Any]] = []

    def as_image(image: Image.Image) -> Image.Image:
        kinds.append((type(image), image.size))
        return image

    def as_tensor(image: TensorImage) -> TensorImage:
        kinds.append((type(image), (tuple(image.shape), image.dtype)))
        return image

    def as_array(image: np.ndarray) -> np.ndarray:
        kinds.append((type(image), image.shape))
        return image

    functions = [Transform(one, order=2) for one in (as_image, as_tensor, as_array)]
    loaders(breeds, [Resize(32), *functions]).valid.one_batch()
    assert kinds[:3] == [
        (PILImage, (32, 32)),
        (TensorImage, ((3, 32, 32), torch.uint8)),
        (np.ndarray, (32, 32, 3)),
    ]
    dark = loaders(breeds, batches=[Dark(p=1), Normalize(), IntToFloatTensor])
    assert float(dark.one_batch()[0].max()) == 0 < float(dark.valid.one_batch()[0].max())


def test_a_model_file_holds_what_validation_sees_and_no_code(breeds: Path):
    for items in (
        [Resize(48), RandomCrop(32)],
        [Resize(48), CropPad((32, 24))],
        [Resize(32), Noise()],
    ):
        dls = loaders(breeds, items, batches=[Dark(p=1)])
        resize, augmentation = storable(dls.reader.items, dls.augmentation)
        held = loaders(breeds, resize)
        held.valid.augmentation = augmentation
        seen, expected = held.valid.one_batch()[0], dls.valid.one_batch()[0]
        assert seen.shape == expected.shape
        assert float((seen - expected).abs().max()) < 0.01
    for code in ({"items": [Resize(32), Always()]}, {"batches": Transform(halved)}):
        dls = loaders(breeds, **code)
        with pytest.raises(ConfigError, match=r"Always|halved"):
            storable(dls.reader.items, dls.augmentation)


def test_datasets_make_the_table_of_a_data_block(breeds: Path):
    files = get_image_files(breeds)
    splits = RandomSplitter(seed=42)(files)
    dsets = Datasets(files, [[PILImage.create], [LABEL, Categorize]], splits=splits)
    made = dsets.dataloaders(
        after_item=[ToTensor(), Resize(32)],
        after_batch=[FlipItem(), IntToFloatTensor()],
        bs=4,
        device="cpu",
    )
    expected = loaders(breeds).table
    assert list(made.table.paths) == list(expected.paths)
    assert torch.equal(made.table.targets, expected.targets)
    assert torch.equal(made.table.train_rows, expected.train_rows)
    assert made.vocab == dsets.vocab == expected.vocab
    assert [step.name for step in made.after_batch] == ["IntToFloatTensor", "Flip"]
    assert Pipeline([str, len, float])(123) == 3.0
    assert made.test_dl(files[:3], with_labels=True).one_batch()[1].tolist() == [0, 0, 0]
    both = DataLoaders.from_dsets(
        dsets.train, dsets.valid, after_item=Resize(32), bs=4, device="cpu"
    )
    for ours, theirs in zip(both, made, strict=True):
        assert sorted(map(str, ours.items)) == sorted(map(str, theirs.items))
    named = [path.name.rpartition("_")[0] for path in both.table.paths]
    assert [both.vocab[target] for target in both.table.targets.tolist()] == named
    with pytest.raises(ConfigError, match="list"):
        DataLoaders.from_dsets([1], [2])


def test_lists_of_several_labels_and_numbers_are_resolved_too(breeds: Path):
    files = get_image_files(breeds)
    splits = RandomSplitter(seed=42)(files)
    several = [LABEL, lambda label: [label, "cat"], MultiCategorize(), OneHotEncode()]
    numbers = [LABEL, lambda label: [len(label), 0.5], RegressionSetup()]
    for steps, task, count in ((several, "multi_category", 5), (numbers, "regression", 2)):
        dls = Datasets(files, [PILImageBW.create, steps], splits=splits).dataloaders(
            after_item=[Resize(32), RandomCrop(24)],
            after_batch=[DihedralItem(), RandomResizedCrop(20)],
            bs=4,
            device="cpu",
        )
        images, targets = dls.one_batch()
        assert (dls.table.task, images.shape[2:], targets.shape) == (task, (20, 20), (4, count))
        assert dls.valid.one_batch()[0].shape[1:] == (1, 20, 20)


def test_steps_act_by_hand_and_more_can_be_added(breeds: Path):
    dls = loaders(breeds, [Resize(32), Noise()])
    image, label = dls.after_item(dls.train_ds[0])
    assert (type(image), image.shape, int(label)) == (
        TensorImage,
        (3, 32, 32),
        int(dls.train_ds[0][1]),
    )
    dls.after_batch.add([Dark(p=1)])
    assert [step.name for step in dls.after_batch][-1] == "Dark -- {'p': 1}"
    assert float(dls.one_batch()[0].max()) == 0
    dls.train.after_item.add(FlipItem())
    names = [step.name.split(" ")[0] for step in dls.train.after_item]
    assert names == ["Resize", "FlipItem", "Noise", "ToTensor"]


def test_what_cannot_be_is_refused_by_name(breeds: Path):
    files = get_image_files(breeds)
    splits = RandomSplitter(seed=42)(files)
    image, label = [PILImage.create], [LABEL, Categorize()]

    def resolved(*steps: Any, splits: Any = splits, **given: Any) -> Callable[[], DataLoaders]:
        return lambda: Datasets(files, list(steps), splits=splits).dataloaders(
            device="cpu", **given
        )

    for make, fact in (
        (resolved([Image.fromarray, LABEL], label), "PILImage.create"),
        (resolved(image, [LABEL]), "Categorize()"),
        (resolved(image), "test_dl"),
        (resolved(image, image, label), "3"),
        (resolved(image, label, splits=[*splits, [0]]), "3 sets"),
        (resolved(image, label, before_batch=[len]), "before_batch"),
        (resolved(image, label, dl_type=dict), "dl_type"),
        (TfmdLists(files, LABEL).dataloaders, "Datasets"),
        (lambda: loaders(breeds, [Resize(32), Both()]), "Both"),
        (lambda: loaders(breeds, [Resize(32), OfLabels()]), "OfLabels"),
        (lambda: loaders(breeds, batches=[Noise()]), "item_tfms"),
        (
            lambda: loaders(breeds, batches=[Transform(torch.argmax, order=9)]).one_batch(),
            "Received",
        ),
        (lambda: DataBlock(get_y=[LABEL, LABEL]), "get_y"),
        (lambda: DataBlock(blocks=(ImageBlock, TransformBlock(type_tfms=LABEL))), "Categorize()"),
        (lambda: TransformBlock(dl_type=dict), "dl_type"),
        (lambda: Pipeline([3]), "3"),
        (lambda: Pipeline([Resize]), "Resize("),
        (resolved(image, label, splits=[[0, 99], [1]]), "99"),
        (lambda: Transform(3), "3"),  # pyright: ignore[reportArgumentType]
        (lambda: Categorize()("a"), "vocab"),
        (lambda: OneHotEncode()([1]), "c="),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert fact in str(caught.value), fact
    for make in (lambda: Categorize(["a"])("b"), lambda: MultiCategorize(["a"])("a")):
        with pytest.raises(LabelError, match=r"'b'|'a'"):
            make()
