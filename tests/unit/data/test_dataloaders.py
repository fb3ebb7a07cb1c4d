"""DataLoader and DataLoaders: what training and validation see, sizes, one batch, other images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vizsla import (
    Brightness,
    ConfigError,
    DataError,
    DataLoaders,
    Flip,
    PictureError,
    Resize,
    aug_transforms,
    default_device,
)
from vizsla.data.cache import ImageCache
from vizsla.types import UNLABELLED, ImageTable


@pytest.fixture
def table(image_folder: Path, table_of: Callable[..., ImageTable]) -> ImageTable:
    paths = sorted(image_folder.glob("*/*.jpg"))
    return table_of(paths, train=range(0, 24, 2), valid=range(23, 0, -2))


def loaders_of(table: ImageTable, **options: Any) -> DataLoaders:
    settings: dict[str, Any] = dict(
        resize=Resize(32), transforms=aug_transforms(size=24), batch_size=5, device="cpu"
    )
    return DataLoaders(table, **(settings | options))


def test_validation_batches_are_the_centred_images_over_255_in_order(table: ImageTable):
    loaders = loaders_of(table, transforms=[Flip(1.0), Brightness(0.5, 1.0)])
    rows, pixels = [], []
    for batch in loaders.valid.batches(epoch=3):
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.targets, table.targets[batch.rows])
        rows += batch.rows.tolist()
        pixels += list(batch.images)
    assert rows == list(range(23, 0, -2))
    for row, image in zip(rows, pixels, strict=True):
        centred = loaders.reader.read(table.paths[row])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), centred.astype(np.float32) / 255)


def test_training_batches_are_augmented_and_full(table: ImageTable):
    loaders = loaders_of(table)
    batches = list(loaders.train.batches())
    assert [tuple(batch.images.shape) for batch in batches] == [(5, 3, 24, 24)] * 2
    assert len(loaders.train) == 2
    for batch in batches:
        assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
        plain = next(loaders.loader_for(batch.rows).batches())
        assert torch.equal(plain.targets, batch.targets)
        assert not torch.equal(plain.images, batch.images)
    loaders = loaders_of(table, batch_size=64)
    assert len(loaders.train) == 1
    assert len(loaders.one_batch()[0]) == 12


def test_training_differs_by_epoch_and_repeats_by_seed(table: ImageTable):
    def images(*, epoch: int, **options: int) -> torch.Tensor:
        loaders = loaders_of(table, **({"batch_size": 12, "num_workers": 2} | options))
        batches = list(loaders.train.batches(epoch=epoch))
        order = torch.cat([batch.rows for batch in batches]).argsort()
        return torch.cat([batch.images for batch in batches])[order]

    first = images(seed=1, epoch=0)
    assert torch.equal(images(seed=1, epoch=0, batch_size=4, num_workers=0), first)
    assert not torch.equal(images(seed=1, epoch=1), first)
    assert not torch.equal(images(seed=2, epoch=0), first)


def test_loader_for_keeps_every_row_and_augments_if_asked(table: ImageTable):
    loaders = loaders_of(table)
    first, second = (list(loaders.loader_for(table.train_rows).batches(epoch=e)) for e in (0, 1))
    assert torch.cat([batch.rows for batch in first]).tolist() == table.train_rows.tolist()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
    training = loaders.loader_for(table.train_rows, training=True)
    rows = torch.cat([batch.rows for batch in training.batches(epoch=1)])
    assert rows.tolist() != table.train_rows.tolist()
    assert sorted(rows.tolist()) == table.train_rows.tolist()


def test_other_images_come_in_their_order_without_labels(table: ImageTable):
    loaders = loaders_of(table)
    loader = loaders.test_dl([table.paths[9], str(table.paths[1]), table.paths[9]])
    (batch,) = loader.batches()
    assert batch.targets.tolist() == [UNLABELLED] * 3
    shown = [loader.table.paths[row] for row in batch.rows.tolist()]
    assert shown == [table.paths[row] for row in (9, 1, 9)]
    expected = next(loaders.loader_for(torch.tensor([9, 1, 9])).batches())
    assert torch.equal(batch.images, expected.images)
    assert loader.table.vocab == loaders.vocab


def test_iterating_gives_images_and_targets(table: ImageTable):
    loaders = loaders_of(table)
    for (images, targets), batch in zip(loaders.valid, loaders.valid.batches(), strict=True):
        assert torch.equal(images, batch.images)
        assert torch.equal(targets, batch.targets)


def test_one_batch_reads_only_the_first(table: ImageTable):
    loaders = loaders_of(table, cache=ImageCache(mode="memory"))
    images, targets = loaders.one_batch()
    assert loaders.cache.describe().startswith("cache memory: 5 images")
    first = next(loaders_of(table).train.batches())
    assert torch.equal(images, first.images)
    assert torch.equal(targets, first.targets)
    assert not torch.equal(loaders.one_batch(epoch=1)[0], images)


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_goes_on_from_its_middle_bit_for_bit(table: ImageTable, start: int):
    whole = list(loaders_of(table, batch_size=4).train.batches(epoch=3))
    loaders = loaders_of(table, batch_size=4, cache=ImageCache(mode="memory"))
    for batch in whole[:start]:  # These are not read.
        for row in batch.rows.tolist():
            table.paths[row].unlink()
    rest = list(loaders.train.batches(epoch=3, start=start))
    assert len(rest) == 3 - start
    assert loaders.cache.describe().startswith(f"cache memory: {4 * (3 - start)} images")
    for batch, expected in zip(rest, whole[start:], strict=True):
        for name in ("rows", "targets", "images"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_a_start_outside_the_epoch_is_refused(table: ImageTable):
    for start in (3, -1):
        with pytest.raises(ConfigError, match=f"start={start}"):
            loaders_of(table).train.batches(start=start)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_what_one_would_see(table: ImageTable, world: int):
    for training in (True, False):
        loader = loaders_of(table).loader_for(table.valid_rows, training=training)  # 5, 5 and 2
        whole = list(loader.batches(epoch=1))
        parts = [list(loader.batches(epoch=1, share=(rank, world))) for rank in range(world)]
        assert {len(batches) for batches in parts} == {3}
        for number, batch in enumerate(whole):
            of_ranks = [batches[number] for batches in parts]
            assert {each.images.shape[1:] for each in of_ranks} == {(3, 24, 24)}
            for name in ("rows", "targets", "images"):
                found = torch.cat([getattr(each, name) for each in of_ranks])
                assert torch.equal(found, getattr(batch, name))


def test_a_share_without_images_is_an_empty_batch(table: ImageTable):
    loader = loaders_of(table, resize=None, transforms=()).loader_for(torch.tensor([3]))
    (batch,) = loader.batches(share=(0, 2))
    assert batch.images.shape == (0, 3, 1, 1)
    assert batch.images.dtype == torch.float32
    assert batch.rows.tolist() == batch.targets.tolist() == []


def test_balanced_training_shows_classes_equally(table: ImageTable):
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 23])  # nine crosses and a disc
    uneven = replace(table, train_rows=rows)
    loaders = loaders_of(uneven, balance="sample")
    batches = list(loaders.train.batches(epoch=2))
    targets = torch.cat([batch.targets for batch in batches])
    assert torch.bincount(targets).tolist() == [5, 5]
    shown = torch.cat([batch.images for batch in batches])[targets == 1]
    assert len({image.numpy().tobytes() for image in shown}) == 5
    again = torch.cat([batch.rows for batch in loaders.train.batches(epoch=2)])
    assert torch.equal(again, torch.cat([batch.rows for batch in batches]))
    valid = torch.cat([batch.rows for batch in loaders.valid.batches()])
    assert torch.equal(valid, table.valid_rows)


def test_auto_balances_classes_of_very_unequal_size_only(table: ImageTable):
    for num_discs, expected in ((3, "sample"), (4, "none")):  # to 10 crosses
        rows = torch.cat([torch.arange(10), torch.arange(12, 12 + num_discs)])
        assert loaders_of(replace(table, train_rows=rows), balance="auto").balance == expected
    assert loaders_of(table).balance == "none"


def test_weights_choose_the_training_rows(table: ImageTable):
    weights = [0.0] * 11 + [1.0]
    loaders = loaders_of(table, weights=weights)
    assert {row for batch in loaders.train.batches() for row in batch.rows.tolist()} == {22}
    with pytest.raises(ConfigError, match="balance or weights"):
        loaders_of(table, balance="sample", weights=weights)


def test_one_batch_of_nothing_is_refused(table: ImageTable):
    with pytest.raises(DataError, match="no images"):
        loaders_of(table).loader_for(torch.arange(0)).one_batch()


def test_attributes_describe_the_data(table: ImageTable):
    loaders = loaders_of(table, valid_batch_size=9)
    assert loaders.vocab == ("cross", "disc")
    assert loaders.c == 2
    assert loaders.path == table.root
    assert loaders.table is table
    assert loaders.bs == loaders.train.bs == 5
    assert loaders.valid.bs == 9
    assert (loaders.train.n, loaders.valid.n) == (12, 12)
    assert torch.equal(loaders.valid.rows, table.valid_rows)
    assert loaders.device == loaders.valid.device == torch.device("cpu")
    assert list(loaders) == [loaders[0], loaders[1]] == [loaders.train, loaders.valid]
    assert len(loaders) == 2
    with pytest.raises(IndexError):
        loaders[2]


def test_the_final_size_is_the_first_one_known(table: ImageTable):
    assert loaders_of(table, size=(16, 20)).final_size == (16, 20)
    assert loaders_of(table).final_size == (24, 24)
    assert loaders_of(table, transforms=()).final_size == (32, 32)
    assert loaders_of(table, transforms=(), resize=None).final_size is None
    assert loaders_of(table, size=(16, 20)).one_batch()[0].shape == (5, 3, 16, 20)


def test_both_loaders_share_one_cache(table: ImageTable):
    loaders = loaders_of(table)
    list(loaders.valid.batches())
    list(loaders.train.batches())
    assert loaders.cache.describe().startswith("cache auto: 22 images")
    for path in table.paths[1::2]:
        path.unlink()
    with pytest.raises(PictureError, match="there is no such file"):
        list(loaders.valid.batches())


def test_closing_early_ends_the_threads(table: ImageTable):
    for batches in (loaders_of(table).valid.batches(), iter(loaders_of(table).train)):
        next(batches)
        batches.close()  # pyright: ignore[reportAttributeAccessIssue]  a generator
    assert not [t for t in threading.enumerate() if t.name.startswith("vizsla-reader")]


def test_the_default_device_exists(table: ImageTable):
    assert DataLoaders(table, resize=Resize(8)).device == default_device()
    assert torch.zeros(1, device=default_device()).item() == 0
