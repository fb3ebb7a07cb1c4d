"""DeviceStore and DeviceDecoder: images stay on a device, where they are decoded and cut into batches. Here on the CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import DataLoaders, PictureError, Resize
from vizsla.data.cache import (
    CacheMode,
    DeviceDecoder,
    DeviceStore,
    ImageCache,
    ImageKey,
    upright,
    write_presized,
)
from vizsla.data.images import ImageReader, ResizeMethod, decode_image, window_box
from vizsla.data.loading import ImageLoader, Shipping
from vizsla.types import ImageTable

RESIZE = Resize(24)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def key_of(number: int) -> ImageKey:
    return ImageKey(path=str(number), num_bytes=1, modified_ns=0, preparation="strip")


def image_of(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("expected_bytes", [None, 5000])
def test_gathered_windows_are_those_of_presize(device: str, expected_bytes: int | None):
    store = DeviceStore(torch.device(device), budget_bytes=10**6, expected_bytes=expected_bytes)
    sizes = [(24, 32), (40, 24), (24, 24), (24, 100), (24, 32)]
    images = [image_of(*size, seed=seed) for seed, size in enumerate(sizes)]
    places = [store.keep(key_of(number), image) for number, image in enumerate(images)]
    assert len({place.buffer for place in places if place}) == (1 if expected_bytes is None else 3)
    order, positions = [3, 0, 1, 1, 4, 2], [0.99, 0.0, 0.5, 0.9999, 0.3, 0.7]
    corners = [
        window_box(sizes[number], (24, 24), x=at, y=at)[:2]
        for number, at in zip(order, positions, strict=True)
    ]
    batch = store.gather(
        [place for number in order if (place := places[number])],
        corners=corners,
        size=(24, 24),
    )
    assert batch.shape == (6, 24, 24, 3)
    for image, number, position in zip(batch.cpu(), order, positions, strict=True):
        assert np.array_equal(image.numpy(), Resize(24).view(images[number], draws=[position]))


def test_the_budget_is_kept_and_a_key_is_stored_once():
    store = DeviceStore(torch.device("cpu"), budget_bytes=700, expected_bytes=700)
    first = store.keep(key_of(0), image_of(10, 10))
    assert store.keep(key_of(0), image_of(10, 10)) == first
    assert store.keep(key_of(1), image_of(10, 10)) is not None
    assert store.keep(key_of(2), image_of(10, 10)) is None
    assert store.describe() == "2 images, 0.0 MB on the device cpu"


def test_threads_store_side_by_side():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10**6, expected_bytes=4000)
    images = [image_of(10, 10 + number, seed=number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.keep(key_of(number), images[number]), range(40)))
    for number, image in enumerate(images):
        found = store.find(key_of(number))
        assert found is not None
        assert np.array_equal(found, image)


def test_a_store_serves_its_own_device_only():
    store = DeviceStore(torch.device("cpu"), budget_bytes=10)
    assert store.serves(torch.device("cpu"))
    assert not store.serves(torch.device("meta"))


def photograph(height: int, width: int, *, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three plain files, one of them on its side; a progressive, a CMYK, a PNG, a truncated, an absent one."""
    found = [tmp_path / f"{number}.jpg" for number in range(8)]
    photograph(48, 64).save(found[0], quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(40, 70, seed=1).save(found[1], quality=95, exif=exif)
    photograph(30, 20, seed=2).save(found[2], quality=95)
    photograph(48, 64).save(found[3], progressive=True)
    photograph(48, 64).convert("CMYK").save(found[4])
    photograph(48, 64).save(found[5], format="PNG")
    found[6].write_bytes(found[0].read_bytes()[:-100])
    return found


def made(
    resize: Resize = RESIZE, *, device: str = "cpu"
) -> tuple[ImageReader, DeviceStore, DeviceDecoder]:
    reader = ImageReader(resize=resize, cache=ImageCache(mode="device", device=device))
    store = reader.cache.device_store
    assert store is not None
    return reader, store, DeviceDecoder(reader, store=store)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["crop", "squish"])
def test_only_plain_files_are_stored(paths: list[Path], device: str, method: ResizeMethod):
    resize = Resize((24, 30), method)
    reader, store, decoder = made(resize, device=device)
    decoder.fill(paths)
    assert store.describe().startswith("3 images")
    for path in paths[:3]:
        assert reader.place(path, training=True) is not None
        assert reader.place(path, training=False) is None
        found = reader.read(path, training=True).astype(int)
        expected = resize.presize(decode_image(path), training=True)
        assert found.shape == expected.shape
        # Decoders round differently, and CUDA's interpolates colours differently, which shows in images as colourful as these.
        assert np.abs(found - expected).mean() < (1 if device == "cpu" else 9)


def test_stored_images_are_not_decoded_again(paths: list[Path]):
    _, store, decoder = made()
    decoder.fill(paths[:2])
    before = store.describe()
    decoder.fill(paths[:2])
    assert store.describe() == before


def test_nothing_is_decoded_for_a_full_store(paths: list[Path]):
    store = DeviceStore(torch.device("cpu"), budget_bytes=10)
    decoder = DeviceDecoder(made()[0], store=store)
    decoder.fill(paths[:1])
    assert store.is_full
    decoder.fill(paths[:3])
    assert store.describe().startswith("0 images")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_pillow_turns_them(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    photograph(20, 30).save(path, exif=exif, quality=95)
    plain = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    expected = np.asarray(decode_image(path))
    assert np.array_equal(upright(plain, orientation).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (24, 24), (10, 7), (40, 2000)])
def test_presizing_is_that_of_the_cpu_within_two_grey_levels(size: tuple[int, int]):
    resize = Resize(24)
    photo = photograph(*size)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    expected = resize.presize(photo, training=True).astype(int)
    found_box = resize.presize_box(size, training=True)
    assert found_box is not None
    box, strip_size = found_box
    assert strip_size == expected.shape[:2]
    found = torch.empty((2, *strip_size, 3), dtype=torch.uint8)
    write_presized(torch.stack([image, image.flip(2)]), box=box, out=found)
    assert np.abs(found[0].numpy() - expected).max() <= 2
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = resize.presize(mirrored, training=True).astype(int)
    assert np.abs(found[1].numpy() - expected).max() <= 2


def test_a_file_that_only_looks_plain_leaves_its_batch_to_pillow(paths: list[Path]):
    data = bytearray(paths[0].read_bytes())
    start = data.index(b"\xff\xdb")  # Its quantisation table, without which nothing can be decoded.
    data[start + 1] = 0xFE
    paths[0].write_bytes(bytes(data))
    reader, store, decoder = made()
    decoder.fill(paths[:3])
    assert store.describe().startswith("0 images")
    assert reader.read(paths[1], training=True).shape == (42, 24, 3)
    with pytest.raises(PictureError, match=r"0\.jpg"):
        reader.read(paths[0], training=True)


class DecodingLoader(ImageLoader):
    """A loader that decodes on the CPU as others do only on CUDA."""

    def _device_decoder(self, shipping: Shipping) -> DeviceDecoder | None:
        assert shipping.store is not None
        return DeviceDecoder(self.reader, store=shipping.store)


def loader_of(
    kind: type[ImageLoader], table: ImageTable, mode: CacheMode, *, num_workers: int
) -> ImageLoader:
    reader = ImageReader(resize=Resize(24), cache=ImageCache(mode=mode))
    settings: dict[str, Any] = dict(batch_size=4, training=True, num_workers=num_workers)
    return kind(table, table.train_rows, reader=reader, **settings)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_loader_decodes_whole_batches_once(paths: list[Path], table_of, num_workers: int):
    table = table_of(paths[:6] + paths[:5])
    loader = loader_of(DecodingLoader, table, "device", num_workers=num_workers)
    first, again = (list(loader.batches(epoch=3)) for _ in range(2))
    assert loader.reader.cache.describe().startswith("cache device: 6 images")
    usual = loader_of(ImageLoader, table, "off", num_workers=num_workers)
    assert [len(batch.rows) for batch in first] == [4, 4, 3]
    for one, other, expected in zip(first, again, usual.batches(epoch=3), strict=True):
        for name in ("rows", "targets", "images"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert torch.equal(one.rows, expected.rows)
        assert torch.equal(one.targets, expected.targets)
        assert (one.images.float() - expected.images.float()).abs().mean() < 1


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_bad_file_among_whole_batches_is_named(paths: list[Path], table_of, num_workers: int):
    loader = loader_of(DecodingLoader, table_of(paths[:7]), "device", num_workers=num_workers)
    with pytest.raises(PictureError, match=r"6\.jpg: damaged: the file is truncated"):
        list(loader.batches())
    assert not [t for t in threading.enumerate() if t.name.startswith("vizsla-reader")]


@pytest.mark.gpu
def test_loaders_on_cuda_fill_the_store_and_name_the_bad_file(paths: list[Path], table_of):
    def loaders_of(files: list[Path]) -> DataLoaders:
        table, cache = table_of(files), ImageCache(mode="device", device="cuda")
        return DataLoaders(table, resize=Resize(24), batch_size=4, device="cuda", cache=cache)

    loaders = loaders_of(paths[:6])
    loader = loaders.loader_for(torch.arange(6), training=True)
    first = [batch.images.cpu() for batch in loader.batches(epoch=1)]
    again = [batch.images.cpu() for batch in loader.batches(epoch=1)]
    assert [len(images) for images in first] == [4, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert loaders.cache.describe().startswith("cache device: 6 images")
    with pytest.raises(PictureError, match=r"6\.jpg: damaged: the file is truncated"):
        list(loaders_of(paths[:7]).loader_for(torch.arange(7), training=True).batches())
