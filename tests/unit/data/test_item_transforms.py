"""Item transforms and the reader: their order, what is cached, what an error names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import (
    ConfigError,
    CropPad,
    DataError,
    DataLoaders,
    Dihedral,
    DihedralItem,
    Flip,
    FlipItem,
    ImageDataLoaders,
    PictureError,
    RandomCrop,
    RandomResizedCrop,
    RatioResize,
    Resize,
    Rotate,
)
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    ImageReader,
    ItemPipeline,
    ItemTransforms,
    Truncated,
    function_name,
    item_pipeline,
    symmetry,
)
from vizsla.data.table import find_unreadable
from vizsla.types import ImageTable


def inverted(pixels: np.ndarray) -> np.ndarray:
    return 255 - pixels


def noise(height: int = 30, width: int = 40) -> Image.Image:
    values = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def reader_of(transforms: ItemTransforms | ItemPipeline, **options: Any) -> ImageReader:
    return ImageReader(resize=transforms, cache=ImageCache(mode="memory"), **options)


class Recorder:
    """A function that notes the shapes that it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        return pixels

    def __repr__(self) -> str:
        return "Recorder()"


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lists_are_divided_at_the_sizing():
    first, last = Recorder(), Recorder()
    pipeline = item_pipeline([first, FlipItem(), Resize(24), last, inverted, DihedralItem()])
    after = FlipItem(), last, inverted, DihedralItem()
    assert pipeline == ItemPipeline(before=(first,), sizing=Resize(24), after=after)
    assert pipeline.functions == (first, last, inverted)
    assert pipeline.num_draws == 4
    reader_of(pipeline).read(noise())
    assert (first.shapes, last.shapes) == ([(30, 40, 3)], [(24, 24, 3)])


def test_a_single_transform_none_and_an_empty_list_are_lists_too():
    assert item_pipeline(Resize(24)) == item_pipeline([Resize(24)]) == item_pipeline((Resize(24),))
    assert item_pipeline(None) == item_pipeline([]) == item_pipeline(()) == ItemPipeline()
    assert item_pipeline(inverted) == ItemPipeline(after=(inverted,))
    assert item_pipeline(item_pipeline(Resize(24))) == item_pipeline(Resize(24))


def test_impossible_lists_are_refused():
    for wrong, fact in [
        *((each, "460") for each in (460, [460, inverted])),
        ("Resize", "'Resize'"),
        ([Resize(10), inverted, Resize(20)], "size=(20, 20)"),
        ([Resize(10), FlipItem(), CropPad(5)], "CropPad(size=(5, 5)"),
        (Resize, "Resize(...)"),
        ([Flip()], "Flip("),
        ([Rotate()], "Rotate("),
        ([Resize((24, 32)), DihedralItem()], "size=(24, 32)"),
    ]:
        with pytest.raises(ConfigError) as caught:
            item_pipeline(wrong)  # pyright: ignore[reportArgumentType]  the mistake under test
        assert fact in str(caught.value)
    with pytest.raises(ConfigError, match=r"FlipItem.*1\.5"):
        FlipItem(1.5)


def test_a_function_before_the_resize_sees_the_full_scale():
    for transforms, expected in [
        (Resize(24), (72, 72)),
        ([Resize(24, reducing_gap=1), inverted], (24, 24)),
        ([inverted, Resize(24)], None),
        (RandomResizedCrop(24, min_scale=0.25), (48, 48)),
        (None, None),
    ]:
        assert item_pipeline(transforms).cover(training=True) == expected


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_training_view_goes_through_the_functions_after_the_resize():
    reader = reader_of([Resize(24), inverted])
    kept = reader.read(noise(), training=True)
    assert kept.shape == (24, 32, 3)
    assert np.array_equal(reader.read(noise(), draws=[0.0]), 255 - kept[:, :24])


def test_a_function_may_write_into_what_it_is_given(make_image: Callable[..., Path]):
    def blackened(pixels: np.ndarray) -> np.ndarray:
        pixels[:] = 0
        return pixels

    image, path = noise(), make_image("a.png")
    for transforms in ([blackened, Resize(24)], [Resize(24), blackened]):
        reader = reader_of(transforms)
        assert not reader.read(image).any()
        assert not reader.read(path).any()
        assert not reader.read(path).any()
        kept = reader.cache.find(reader.key(path, training=False))
        assert kept is None or kept.any()
    assert np.asarray(image).any()


def test_a_function_may_change_the_size_and_return_a_view():
    reader = reader_of([lambda pixels: pixels[::-1, :20], Resize((30, 20))])
    assert np.array_equal(reader.read(noise(30, 40)), np.asarray(noise(30, 40))[::-1, :20])


def test_a_function_that_fails_is_named_with_the_image(make_image: Callable[..., Path]):
    def careless(pixels: np.ndarray) -> np.ndarray:
        raise IndexError("no such corner")

    path = make_image("pets/a.jpg")
    for transforms in ([careless, Resize(24)], [Resize(24), careless]):
        with pytest.raises(ConfigError, match=r"careless .*pets/a\.jpg.*no such corner") as caught:
            reader_of(transforms).read(path)
        assert isinstance(caught.value.__cause__, IndexError)
    for result, shown in [
        (None, "NoneType"),
        (np.zeros((4, 4, 3), np.float32), r"float32 of shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 of shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 of shape \(0, 4, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 of shape \(3, 4, 4\)"),
    ]:
        wrong: Any = lambda _pixels, result=result: result  # noqa: E731
        with pytest.raises(ConfigError, match=rf"<lambda> .*a\.jpg .*: {shown}"):
            reader_of([Resize(24), wrong]).read(path)


def test_functions_without_a_name_are_shown_as_they_print():
    assert function_name(inverted) == "inverted"
    assert function_name(Recorder()) == "Recorder()"
    assert "partial" in function_name(functools.partial(np.roll, shift=1))


def test_functions_after_the_resize_see_cached_pixels_each_time(make_image: Callable[..., Path]):
    path, recorder = make_image("a.png", size=(30, 40)), Recorder()
    plain, reader = reader_of(Resize(24)), reader_of([Resize(24), inverted, recorder])
    for source in (path, path, Image.open(path)):
        assert np.array_equal(reader.read(source), 255 - plain.read(path))
    window = plain.read(path, draws=[0.3])
    assert np.array_equal(reader.read(path, draws=[0.3]), 255 - window)
    assert len(recorder.shapes) == 4


def test_results_of_functions_before_the_resize_are_not_cached(make_image: Callable[..., Path]):
    path, recorder = make_image("a.png"), Recorder()
    reader = reader_of([recorder, Resize(24)])
    for _ in range(2):
        assert np.array_equal(reader.read(path), reader_of(Resize(24)).read(path))
    assert len(recorder.shapes) == 2
    assert "0 images" in reader.cache.describe()


# ── flips ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_symmetries_of_an_item_are_those_of_a_batch_and_of_pillow():
    pixels = np.asarray(noise(9, 9))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for number in range(8):
        found = symmetry(pixels, number)
        expected = Dihedral(p=1.0, draw=number, mode="nearest")(images) * 255
        assert torch.equal(
            torch.from_numpy(found.copy()).permute(2, 0, 1), expected.round().to(torch.uint8)
        )
        if number:
            turned = Image.fromarray(pixels).transpose(Image.Transpose(number - 1))
            assert np.array_equal(found, np.asarray(turned))


def test_a_flip_acts_with_its_probability():
    pixels = np.asarray(noise(9, 9))
    assert np.array_equal(FlipItem(p=0.3).view(pixels, draws=[0.29]), pixels[:, ::-1])
    assert np.array_equal(FlipItem(p=0.3).view(pixels, draws=[0.3]), pixels)
    assert np.array_equal(DihedralItem(p=0.5).view(pixels, draws=[0.5, 0.3]), pixels)
    turned = DihedralItem(p=0.5).view(pixels, draws=[0.4, 3 / 8])
    assert np.array_equal(turned, np.rot90(pixels))


def test_a_call_acts_at_once_on_arrays_and_pillow_images():
    pixels = np.asarray(noise(6, 8))
    assert np.array_equal(FlipItem(p=1)(pixels), pixels[:, ::-1])
    flipped = FlipItem(p=1)(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(flipped), pixels[:, ::-1])
    torch.manual_seed(0)
    shapes = {DihedralItem()(Image.fromarray(pixels)).size for _ in range(40)}
    assert shapes == {(6, 8), (8, 6)}


def test_validation_is_not_flipped_and_training_differs_by_epoch_and_row(table: ImageTable):

    def pixels_of(*item_tfms: Any, epoch: int = 0, training: bool = True) -> torch.Tensor:
        resize = [Resize((24, 32)), *item_tfms]
        loaders = DataLoaders(table, resize=resize, device="cpu", num_workers=1)
        loader = loaders.loader_for(table.train_rows, training=training)
        (batch,) = loader.batches(epoch=epoch)
        return batch.images[batch.rows.argsort()]

    plain = pixels_of(training=False)
    assert torch.equal(pixels_of(FlipItem(), training=False), plain)
    first, again, second = (pixels_of(FlipItem(), epoch=epoch) for epoch in (0, 0, 1))
    mirrored = [bool(torch.equal(a, b.flip(2))) for a, b in zip(first, plain, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(first, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 4 <= sum(mirrored) <= 20
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# ── loaders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def loaders_of(folder: Path, transforms: ItemTransforms, *, num_workers: int = 2) -> DataLoaders:
    options: dict[str, Any] = dict(bs=4, device="cpu", num_workers=num_workers)
    return ImageDataLoaders.from_folder(
        folder, valid_pct=0.25, seed=1, item_tfms=transforms, **options
    )


@pytest.mark.parametrize(
    "transforms",
    [
        RandomResizedCrop(24, min_scale=0.3),
        RandomCrop((20, 28)),
        CropPad(70),
        [inverted, Resize(24)],
        [Resize(24), np.ascontiguousarray],
    ],
)
def test_training_views_depend_on_neither_workers_nor_cache(image_folder: Path, transforms):
    def by_row(loaders: DataLoaders, epoch: int = 0) -> dict[int, bytes]:
        return {
            row: image.numpy().tobytes()
            for batch in loaders.train.loader.batches(epoch=epoch)
            for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
        }

    loaders = loaders_of(image_folder, transforms)
    first = by_row(loaders)
    assert by_row(loaders_of(image_folder, transforms, num_workers=0)) == first
    assert by_row(loaders) == first  # this time from the cache


def test_random_resized_crops_move_between_epochs_and_reach_the_network(image_folder: Path):
    loaders = loaders_of(image_folder, RandomResizedCrop(24, min_scale=0.3))
    assert loaders.final_size == (24, 24)
    batches = [next(loaders.train.loader.batches(epoch=epoch)) for epoch in (0, 0, 1)]
    assert batches[0].images.shape == (4, 3, 24, 24)
    assert torch.equal(batches[0].images, batches[1].images)
    images, targets = loaders.one_batch()
    assert (images.shape, targets.shape) == ((4, 3, 24, 24), (4,))
    valid = next(loaders.valid.batches())
    expected = RandomResizedCrop(24)(Image.open(loaders.table.paths[int(valid.rows[0])]))
    found = (valid.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(found, np.asarray(expected))


def test_ratio_resize_keeps_shapes_so_mixed_batches_are_refused(image_folder: Path, make_image):
    make_image("pictures/disc/tall.jpg", size=(90, 30))
    loaders = loaders_of(image_folder, RatioResize(24))
    assert loaders.final_size is None
    with pytest.raises(DataError, match=r"18 x 24 .*; 24 x 8 .*tall\.jpg"):
        list(loaders.loader_for(torch.tensor([0, 24])).batches())


# ── files that end too early ──────────────────────────────────────────────────────────────────────────────────────────


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    return path


def test_truncated_jpegs_are_bad_unless_asked_for(make_image: Callable[..., Path]):
    path, cache = cut_short(make_image("a.jpg")), ImageCache(mode="memory")
    lenient = ImageReader(resize=Resize(24), cache=cache, truncated="ok")
    assert lenient.read(path).shape == (24, 24, 3)
    # Readers that disagree share no cached pixels.
    with pytest.raises(PictureError, match="truncated"):
        ImageReader(resize=Resize(24), cache=cache).read(path)


def test_loaders_take_truncated_jpegs_where_asked_to(image_folder: Path):
    table = loaders_of(image_folder, Resize(24)).table
    cut_short(table.paths[0])
    rows = torch.arange(len(table.paths))
    expected: dict[Truncated, int] = {"strict": 1, "ok": 0}
    for truncated, number in expected.items():
        loaders = DataLoaders(table, resize=Resize(24), device="cpu", truncated=truncated)
        assert len(find_unreadable(table, rows, reader=loaders.reader)) == number


# ── names and shapes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_odd_names_and_shapes_go_into_a_batch(image_folder: Path, make_image, odd_names: list[str]):
    for number, name in enumerate(odd_names):
        make_image(f"pictures/disc/{name}", number=number)
    for number, size in enumerate([(1, 1), (10, 20_000), (20_000, 10), (3, 5)]):
        make_image(f"pictures/cross/shape_{number}.png", size=(48, 64))
        Image.new("RGB", (size[1], size[0])).save(image_folder / f"cross/shape_{number}.png")
    loaders = loaders_of(image_folder, Resize(24))
    rows = torch.arange(len(loaders.table.paths))
    assert len(rows) == 24 + len(odd_names) + 4
    for training in (False, True):
        batches = list(loaders.loader_for(rows, training=training).batches())
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == rows.tolist()
        assert all(batch.images.shape[1:] == (3, 24, 24) for batch in batches)
