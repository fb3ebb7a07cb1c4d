"""DeviceStore: pictures of any size stay on a device, and batches of windows are cut from them there. Here on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vizsla.data.cache.device import DeviceStore
from vizsla.data.cache.key import PictureKey
from vizsla.data.images.sizing import window

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def key_of(number: int, *, modified_ns: int = 0) -> PictureKey:
    return PictureKey(path=str(number), num_bytes=1, modified_ns=modified_ns, preparation="strip")


def picture_of(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("expected_bytes", [None, 5000])
def test_gathered_windows_are_those_of_presize(device: str, expected_bytes: int | None):
    store = DeviceStore(torch.device(device), budget_bytes=10**6, expected_bytes=expected_bytes)
    sizes = [(24, 32), (40, 24), (24, 24), (24, 100), (24, 32)]
    pictures = [picture_of(*size, seed=seed) for seed, size in enumerate(sizes)]
    places = [store.keep(key_of(number), picture) for number, picture in enumerate(pictures)]
    assert len({place.buffer for place in places if place}) == (1 if expected_bytes is None else 3)
    order, positions = [3, 0, 1, 1, 4, 2], [0.99, 0.0, 0.5, 0.9999, 0.3, 0.7]
    batch = store.gather(
        [place for number in order if (place := places[number])],
        positions=positions,
        size=(24, 24),
    )
    assert batch.shape == (6, 24, 24, 3)
    for image, number, position in zip(batch.cpu(), order, positions, strict=True):
        expected = window(pictures[number], size=(24, 24), position=position)
        assert np.array_equal(image.numpy(), expected)


def test_pictures_come_back_as_they_were_and_read_only():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10**6)
    store.keep(key_of(0), picture_of(7, 9))
    found = store.find(key_of(0))
    assert found is not None
    assert np.array_equal(found, picture_of(7, 9))
    assert not found.flags.writeable
    assert store.find(key_of(1)) is None


def test_a_changed_file_is_not_found_and_takes_the_place_of_the_earlier_state():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10**6)
    store.keep(key_of(0), picture_of(7, 9))
    assert store.locate(key_of(0, modified_ns=5)) is None
    store.keep(key_of(0, modified_ns=5), picture_of(7, 9, seed=5))
    assert store.locate(key_of(0)) is None
    assert store.locate(key_of(0, modified_ns=5)) is not None


def test_the_budget_is_kept_and_a_key_is_stored_once():
    store = DeviceStore(torch.device("cpu"), budget_bytes=700, expected_bytes=700)
    first = store.keep(key_of(0), picture_of(10, 10))
    assert store.keep(key_of(0), picture_of(10, 10)) == first
    assert store.keep(key_of(1), picture_of(10, 10)) is not None
    assert store.keep(key_of(2), picture_of(10, 10)) is None
    assert store.describe() == "2 pictures, 0.0 MB on the device cpu"


def test_threads_store_side_by_side():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10**6, expected_bytes=4000)
    pictures = [picture_of(10, 10 + number, seed=number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.keep(key_of(number), pictures[number]), range(40)))
    for number, picture in enumerate(pictures):
        found = store.find(key_of(number))
        assert found is not None
        assert np.array_equal(found, picture)


def test_a_store_serves_its_own_device_only():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10)
    assert store.serves(torch.device("cpu"))
    assert not store.serves(torch.device("meta"))
