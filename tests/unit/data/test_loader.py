"""ImageReader, ImageLoader, read_ahead, order: pixels, randomness, errors, caches, threads that end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vizsla import ConfigError, DataError, PictureError, Resize
from vizsla.data.cache import CacheMode, ImageCache
from vizsla.data.images import ImageReader
from vizsla.data.loading import (
    ImageLoader,
    balancing_weights,
    check_balance,
    check_share,
    check_weights,
    draw_rows,
    read_ahead,
    reading_meanwhile,
    rows_of,
    take_share,
    turns_of,
)
from vizsla.data.table import find_unreadable
from vizsla.machine import default_num_workers
from vizsla.types import ImageTable


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert reader_threads() == []


def reader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("vizsla-reader")]


def reader_of(resize: Resize | None = None, mode: CacheMode = "off", **options: Any) -> ImageReader:
    return ImageReader(resize=resize, cache=ImageCache(mode=mode, **options))


def loader_of(table: ImageTable, rows: Tensor | None = None, **options: Any) -> ImageLoader:
    settings: dict[str, Any] = dict(
        reader=reader_of(Resize(24)), batch_size=5, training=False, num_workers=2
    )
    rows = table.train_rows if rows is None else rows
    return ImageLoader(table, rows, **(settings | options))


def by_row(loader: ImageLoader, *, epoch: int = 0) -> dict[int, bytes]:
    return {
        row: image.numpy().tobytes()
        for batch in loader.batches(epoch=epoch)
        for row, image in zip(batch.rows.tolist(), batch.images.cpu(), strict=True)
    }


def replace_contents(paths: Iterable[Path]) -> None:
    """Give files other contents of the same size and time: decoding one fails."""
    for path in paths:
        facts = path.stat()
        path.write_bytes(b"x" * facts.st_size)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


# ── one image ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_source_gives_the_same_read_only_pixels(make_image: Callable[..., Path]):
    path = make_image("a.png")
    expected = np.asarray(Resize(24)(Image.open(path)))
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        pixels = reader_of(Resize(24)).read(source)
        assert np.array_equal(pixels, expected)
        assert not pixels.flags.writeable


def test_training_reads_the_strip_or_the_whole_image(make_image: Callable[..., Path]):
    path = make_image("a.png", size=(48, 64))
    reader = reader_of(Resize(24), mode="memory")
    for training, shape in [(True, (24, 32, 3)), (False, (24, 24, 3)), (True, (24, 32, 3))]:
        assert reader.read(path, training=training).shape == shape
        assert reader_of().read(path, training=training).shape == (48, 64, 3)


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_validation_batches_are_the_centred_images_in_order(table: ImageTable, num_workers: int):
    batches = list(loader_of(table, num_workers=num_workers).batches())
    assert torch.cat([batch.rows for batch in batches]).tolist() == list(range(24))
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 5, 4]
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.targets, table.targets[batch.rows])
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            expected = reader_of(Resize(24)).read(table.paths[row])
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_training_shuffles_by_seed_and_epoch_alone(table: ImageTable):
    def order(*, seed: int, epoch: int, batch_size: int = 5) -> list[int]:
        loader = loader_of(table, training=True, seed=seed, batch_size=batch_size)
        return torch.cat(loader.plan(epoch=epoch)).tolist()

    assert order(seed=0, epoch=0) == order(seed=0, epoch=0, batch_size=7)
    assert sorted(order(seed=0, epoch=0)) == list(range(24))
    orders = [order(seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(rows) for rows in (*orders, range(24))}) == 4


def test_training_windows_move_on_the_strip(table: ImageTable):
    loader = loader_of(table, training=True)
    starts = set()
    for epoch in range(4):
        for batch in loader.batches(epoch=epoch):
            for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
                strip = loader.reader.read(table.paths[row], training=True)
                crop = image.permute(1, 2, 0).numpy()
                assert strip.shape == (24, 32, 3)
                found = [x for x in range(9) if np.array_equal(strip[:, x : x + 24], crop)]
                assert found
                starts.update(found)
    assert starts == set(range(9))


def test_drop_last_never_drops_the_only_batch(table: ImageTable):
    for num_rows, drop_last, expected in [
        (24, False, [5, 5, 5, 5, 4]),
        (24, True, [5, 5, 5, 5]),
        (20, True, [5, 5, 5, 5]),
        (4, True, [4]),
        (5, True, [5]),
        (0, True, []),
        (0, False, []),
    ]:
        loader = loader_of(table, torch.arange(num_rows), training=True, drop_last=drop_last)
        assert [len(batch.rows) for batch in loader.batches()] == expected
        assert len(loader) == len(expected)


def test_without_resize_all_images_must_have_one_size(table: ImageTable):
    batch = next(loader_of(table, reader=reader_of(), training=True).batches())
    assert batch.images.shape == (5, 3, 48, 64)
    Image.new("RGB", (30, 20)).save(table.paths[1])
    for num_workers in (0, 2):
        with pytest.raises(DataError) as caught:
            list(loader_of(table, reader=reader_of(), num_workers=num_workers).batches())
        for fact in ("48 x 64 (cross/cross_0.jpg)", "20 x 30 (cross/cross_1.jpg)", "Resize("):
            assert fact in str(caught.value)


def test_impossible_numbers_and_rows_are_refused(table: ImageTable):
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        (dict(batch_size=0), ConfigError, "batch_size=0"),
        (dict(num_workers=-1), ConfigError, "num_workers=-1"),
        (dict(rows=torch.tensor([2, 24])), DataError, "from 0 to 23 .* from 2 to 24"),
    ]
    for options, error, facts in wrong:
        with pytest.raises(error, match=facts):
            loader_of(table, **options)
    assert loader_of(table, num_workers=None).num_workers == default_num_workers() <= 16


# ── errors and endings ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_first_unreadable_image_in_the_order_is_named(table: ImageTable, num_workers: int):
    table.paths[7].write_bytes(table.paths[7].read_bytes()[:500])
    table.paths[11].unlink()
    batches = loader_of(table, num_workers=num_workers).batches()
    assert next(batches).rows.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(PictureError) as caught:
        next(batches)
    assert f"Cannot read the image {table.paths[7]}: damaged: the file is truncated" in str(
        caught.value
    )
    with pytest.raises(StopIteration):
        next(batches)


def test_threads_end_however_the_batches_are_left(table: ImageTable):
    batches = loader_of(table, num_workers=3).batches()
    assert reader_threads() == []  # None starts before the first batch is asked for.
    next(batches)
    assert len(reader_threads()) == 3
    batches.close()
    assert reader_threads() == []
    for _ in loader_of(table).batches():
        break
    gc.collect()
    assert reader_threads() == []

    def fail(_: object) -> None:
        raise RuntimeError("consumer")

    reader = reader_of(Resize(24))
    for consume in (
        lambda: [fail(batch) for batch in loader_of(table).batches()],
        lambda: find_unreadable(table, table.train_rows, reader=reader, on_progress=fail),
    ):
        with pytest.raises(RuntimeError, match="consumer"):
            consume()
        gc.collect()
        assert reader_threads() == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot signal one thread")
def test_ctrl_c_while_waiting_ends_the_threads():
    release = threading.Event()
    main = threading.main_thread().ident or 0

    def work(job: int) -> int:
        if job == 0:
            time.sleep(0.2)
            signal.pthread_kill(main, signal.SIGINT)
        release.wait(timeout=0.3)
        return job

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(work, range(1000), num_workers=2, max_waiting=100))
    release.set()
    assert time.monotonic() - started < 5


# ── reading ahead ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_come_in_the_order_of_the_jobs():
    def work(job: int) -> int:
        time.sleep(0.002 * (job % 3))
        return job

    assert list(read_ahead(work, range(40), num_workers=4, max_waiting=8)) == list(range(40))


def test_threads_work_while_the_consumer_is_busy():
    done: list[int] = []
    results = read_ahead(done.append, range(20), num_workers=2, max_waiting=6)
    next(results)
    next(results)
    deadline = time.monotonic() + 5
    while len(done) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 7 <= len(done) <= 8
    results.close()


@pytest.mark.parametrize(("max_bytes", "expected"), [(1000, 10), (300, 3), (1, 2)])
def test_waiting_results_are_bounded_in_number_and_in_bytes(max_bytes: int, expected: int):
    lock, counts = threading.Lock(), Counter[str]()

    def work(job: int) -> int:
        with lock:
            counts["started"] += 1
        return 100

    results = read_ahead(
        work, range(50), num_workers=2, max_waiting=10, max_bytes=max_bytes, num_bytes=lambda n: n
    )
    for consumed, _ in enumerate(results):
        time.sleep(0.002)
        with lock:
            counts["most ahead"] = max(counts["most ahead"], counts["started"] - consumed)
    assert counts["started"] == 50
    assert counts["most ahead"] <= expected


def test_an_error_comes_in_order_and_cancels_the_rest():
    started: list[int] = []

    def work(job: int) -> int:
        started.append(job)
        time.sleep(0.001)
        if job == 5:
            raise LookupError("five")
        return job

    results = read_ahead(work, range(1000), num_workers=2, max_waiting=20)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(LookupError, match="five"):
        next(results)
    assert len(started) < 40


def test_without_workers_jobs_run_when_asked_for():
    done: list[int] = []
    results = read_ahead(done.append, range(5), num_workers=0, max_waiting=3)
    next(results)
    assert done == [0]


# ── the pass before training ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_workers", [0, 3])
def test_unreadable_images_are_all_found_with_their_causes(table: ImageTable, num_workers: int):
    table.paths[2].write_bytes(b"")
    table.paths[9].write_text("not a picture")
    table.paths[20].unlink()
    progress: list[int] = []
    found = find_unreadable(
        table,
        torch.tensor([20, 9, 3, 2]),
        reader=reader_of(Resize(24)),
        num_workers=num_workers,
        training=False,
        on_progress=progress.append,
    )
    assert [row for row, _ in found] == [20, 9, 2]
    for (_, cause), fact in zip(found, ["no such file", "'not a picture'", "0 bytes"], strict=True):
        assert fact in cause
    assert progress == [1, 2, 3, 4]


def test_the_pass_fills_the_cache(table: ImageTable):
    reader = reader_of(Resize(24), mode="memory")
    assert find_unreadable(table, table.train_rows, reader=reader, training=True) == ()
    assert reader.cache.describe().startswith("cache memory: 24 images")
    before = by_row(loader_of(table, training=True, reader=reader))
    replace_contents(table.paths)
    assert by_row(loader_of(table, training=True, reader=reader)) == before


# ── caches ────────────────────────────────────────────────────────────────────────────────────────────────────────────


MODES: tuple[CacheMode, ...] = ("off", "memory", "disk", "device")
each_cache_and_worker_count = pytest.mark.parametrize(
    ("mode", "num_workers"), [(mode, num_workers) for mode in MODES for num_workers in (0, 2)]
)


@pytest.fixture
def reader_with(tmp_path: Path) -> Callable[..., ImageReader]:
    """Return a function that makes a reader with a cache of some mode."""
    return lambda mode, budget=10**8, **options: reader_of(
        Resize(24), mode, budget_bytes=budget, folder=tmp_path / "cache", **options
    )


@each_cache_and_worker_count
def test_batches_are_the_same_for_every_cache(table, reader_with, mode, num_workers):
    for training in (True, False):
        expected = by_row(loader_of(table, training=training), epoch=1)
        loader = loader_of(
            table,
            training=training,
            num_workers=num_workers,
            reader=reader_with(mode),
            batch_size=7,
        )
        for _ in range(2):  # First read, then from the cache.
            assert by_row(loader, epoch=1) == expected


@pytest.mark.gpu
@each_cache_and_worker_count
def test_batches_on_cuda_are_those_of_the_cpu(table, reader_with, mode, num_workers):
    expected = by_row(loader_of(table, training=True), epoch=1)
    reader = reader_with(mode, 24 * 32 * 3 * (9 if num_workers else 100), device="cuda")
    loader = loader_of(table, training=True, device="cuda", num_workers=num_workers, reader=reader)
    for batch in loader.batches():
        assert batch.images.device.type == batch.targets.device.type == "cuda"
        assert torch.equal(batch.targets.cpu(), table.targets[batch.rows])
    for _ in range(2):
        found = by_row(loader, epoch=1)
        assert found.keys() == expected.keys()
        differences = [
            np.frombuffer(found[row], np.uint8).astype(float)
            - np.frombuffer(expected[row], np.uint8)
            for row in expected
        ]
        # The decoder of a device interpolates colours differently; what it does not decode is equal bit for bit.
        most = 8 if mode == "device" else 0
        assert max(np.abs(each).mean() for each in differences) <= most


def test_a_device_with_room_for_some_images_reads_the_others(table: ImageTable, reader_with):
    reader = reader_with("device", 24 * 32 * 3 * 9)
    loader = loader_of(table, training=True, reader=reader)
    for epoch in (0, 1, 2):
        assert by_row(loader, epoch=epoch) == by_row(loader_of(table, training=True), epoch=epoch)
    assert reader.cache.describe().startswith("cache device: 9 images")


@pytest.mark.parametrize("mode", MODES[1:])
def test_once_a_cache_has_all_images_none_is_read(table: ImageTable, reader_with, mode):
    loader = loader_of(table, reader=reader_with(mode))
    expected = by_row(loader)
    replace_contents(table.paths)
    assert by_row(loader) == expected
    if mode == "disk":  # nor by a later process
        assert by_row(loader_of(table, reader=reader_with(mode))) == expected


@each_cache_and_worker_count
def test_a_changed_file_is_read_again_and_a_lost_one_named(table, reader_with, mode, num_workers):
    loader = loader_of(table, num_workers=num_workers, reader=reader_with(mode))
    before = by_row(loader)
    Image.new("RGB", (30, 30), "red").save(table.paths[3])
    after = by_row(loader)
    assert [row for row in before if before[row] != after[row]] == [3]
    assert after == by_row(loader_of(table))
    table.paths[13].unlink()
    with pytest.raises(PictureError) as caught:
        by_row(loader)
    assert f"{table.paths[13]}: there is no such file" in str(caught.value)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_a_file_without_permission_is_named_or_cached(table: ImageTable, reader_with):
    plain, cached = loader_of(table), loader_of(table, reader=reader_with("memory"))
    expected = by_row(cached)
    table.paths[13].chmod(0)
    with pytest.raises(PictureError, match=r"cross_\d+|disc_\d+"):
        by_row(plain)
    assert by_row(cached) == expected


def test_a_file_that_is_written_to_while_it_is_read_is_not_kept(make_image: Callable[..., Path]):
    path, cache = make_image("a.png"), ImageCache(mode="memory", budget_bytes=10**6)
    reader = ImageReader(
        resize=Resize(24),
        cache=cache,
        on_decoded=lambda path, _size, _doubt: os.utime(path, ns=(5, 10**6)),
    )
    reader.read(path)
    assert cache.describe().startswith("cache memory: 0 images")


# ── slow files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pipe_at_row_12(table: ImageTable) -> Iterator[Callable[[], None]]:
    """Row 12 becomes a named pipe, which hangs its reader; returns a function that ends this."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path = table.paths[12]
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    freed = False

    def free() -> None:
        nonlocal freed
        if not freed:
            path.write_bytes(content)
        freed = True

    yield free
    if reader_threads():
        free()
    deadline = time.monotonic() + 5
    while reader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_hanging_file_stalls_its_own_batch_only(table: ImageTable, pipe_at_row_12):
    batches = loader_of(table).batches()
    started = time.monotonic()
    assert [next(batches).rows[0].item() for _ in range(2)] == [0, 5]
    assert time.monotonic() - started < 5
    threading.Timer(0.3, pipe_at_row_12).start()
    assert [batch.rows[0].item() for batch in batches] == [10, 15, 20]
    assert time.monotonic() - started > 0.3


def test_a_file_that_hangs_for_too_long_is_named(table: ImageTable, pipe_at_row_12, monkeypatch):
    monkeypatch.setattr("vizsla.data.loading.loader.MAX_SECONDS", 0.2)
    monkeypatch.setattr("vizsla.data.loading.loader.CLOSE_SECONDS", 0.2)
    with pytest.raises(PictureError) as caught:
        list(loader_of(table).batches())
    assert str(table.paths[12]) in str(caught.value)
    assert "0.2 seconds" in str(caught.value)
    assert len(reader_threads()) == 1
    pipe_at_row_12()


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TEN_EPOCHS = """
import gc, os, sys
from pathlib import Path
import torch
from vizsla.augment.presets import aug_transforms
from vizsla.data.cache.cache import ImageCache
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.images.sizing import Resize
from vizsla.machine import default_num_workers
from vizsla.types import ImageTable

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def epoch(loaders, number):
    for loader in loaders:
        for batch in loader.batches(epoch=number):
            pass

torch.set_num_threads(1)
paths = tuple(sorted(Path(sys.argv[1]).rglob("*.jpg"))) * 2
table = ImageTable(
    root=Path(sys.argv[1]), paths=paths, targets=torch.zeros(len(paths), dtype=torch.int64), vocab=("a",),
    train_rows=torch.arange(len(paths)), valid_rows=torch.arange(12),
)
for mode in ("off", "memory", "disk", "device"):
    loaders = DataLoaders(
        table, resize=Resize(48), transforms=aug_transforms(size=32), batch_size=8, num_workers=2, device="cpu",
        cache=ImageCache(mode=mode, budget_bytes=10**7, folder=Path(sys.argv[2])),
    )
    for number in range(4):
        epoch(loaders, number)
    before = resident()
    for number in range(4, 14):
        epoch(loaders, number)
    print(mode, resident() / before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_ten_epochs_leave_memory_flat(image_folder: Path, tmp_path: Path, run_python):
    lines = run_python(TEN_EPOCHS, image_folder, tmp_path / "cache").splitlines()
    ratios = {mode: float(ratio) for mode, ratio in map(str.split, lines)}
    assert ratios == {mode: pytest.approx(1, abs=0.02) for mode in MODES}


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_turns_count_how_often_a_row_came_up_before():
    rows = torch.tensor([7, 3, 7, 7, 0, 3])
    turns = turns_of(rows)
    assert torch.equal(rows_of(turns), rows)
    assert [turn >> 32 for turn in turns.tolist()] == [0, 0, 1, 2, 0, 1]
    rows = torch.arange(50).flip(0)  # Without repeats turns are rows.
    assert torch.equal(turns_of(rows), rows)
    assert turns_of(rows[:0]).tolist() == []


def test_drawn_classes_and_their_images_come_equally_often():
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 7)
    rows = torch.arange(100, 197)
    weights = balancing_weights(targets)
    for epoch in range(5):
        found = draw_rows(rows, weights=weights, groups=targets, seed=1, epoch=epoch) - 100
        counts = torch.bincount(targets[found], minlength=3)
        assert counts.sum() == 97
        assert counts.max() - counts.min() <= 1
        each = torch.bincount(found, minlength=97)
        assert set(each[:60].tolist()) <= {0, 1}
        assert set(each[60:90].tolist()) <= {1, 2}
        assert set(each[90:].tolist()) <= {4, 5}


def test_drawn_rows_depend_on_seed_and_epoch_alone():
    rows, weights = torch.arange(40), torch.linspace(1, 3, 40)
    drawings = [
        draw_rows(rows, weights=weights, seed=seed, epoch=epoch).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert drawings[0] == drawings[3]
    assert len({tuple(each) for each in drawings}) == 3


def test_a_weight_of_zero_keeps_a_row_out():
    weights = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])
    found = [
        draw_rows(torch.arange(5), weights=weights, seed=0, epoch=epoch) for epoch in range(50)
    ]
    counts = torch.bincount(torch.cat(found), minlength=5).tolist()
    assert counts[0] == counts[2] == counts[4] == 0
    assert abs(counts[3] - 2 * counts[1]) < 30


def test_equal_weights_draw_each_row_once():
    found = draw_rows(torch.arange(33), weights=torch.ones(33), seed=0, epoch=0)
    assert sorted(found.tolist()) == list(range(33))


@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 8, 64])
def test_shares_divide_a_batch_evenly(num_rows: int):
    batch = torch.arange(num_rows)
    for world in (1, 2, 3, 8):
        parts = [take_share(batch, share=(rank, world)) for rank in range(world)]
        assert torch.equal(torch.cat(parts), batch)
        sizes = [len(each) for each in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("ask", "facts"),
    [
        (lambda: check_weights([1.0, 2.0], count=3), r"3 numbers .*\(2,\)"),
        (lambda: check_weights([1.0, float("nan")], count=2), "not finite"),
        (lambda: check_weights([1.0, -1.0], count=2), "negative"),
        (lambda: check_weights([0.0, 0.0], count=2), "0"),
        (lambda: check_share((2, 2)), r"share=\(2, 2\)"),
        (lambda: check_balance("sample", torch.zeros(4, 3)), r"balance='sample'.*\(4, 3\)"),
        (lambda: check_balance("weights", torch.zeros(4)), "balance='weights'.*float32"),
        (lambda: check_balance("yes", torch.arange(4)), "none, auto, weights, sample.*'yes'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_impossible_weights_and_shares_are_refused(ask: Callable[[], object], facts: str):
    with pytest.raises(ConfigError, match=facts):
        ask()


# ── reading while something else goes on ──────────────────────────────────────────────────────────────────────────────


def meanwhile_threads() -> list[threading.Thread]:
    names = "vizsla-reader", "vizsla-meanwhile"
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def wait_until_read(loader: ImageLoader, count: int) -> None:
    for _ in range(1000):
        if loader.reader.cache.describe().startswith(f"cache device: {count} images"):
            return
        time.sleep(0.01)
    pytest.fail(loader.reader.cache.describe())


def waiting_loader(table: ImageTable, mode: CacheMode = "device", **options: Any) -> ImageLoader:
    settings: dict[str, Any] = dict(rows=torch.arange(5), num_workers=4)
    return loader_of(table, reader=reader_of(Resize(16), mode), **(settings | options))


def test_images_read_meanwhile_are_kept(table: ImageTable):
    loader = waiting_loader(table)
    with reading_meanwhile(loader):
        wait_until_read(loader, 5)
    assert not meanwhile_threads()
    for path in table.paths[:5]:
        assert loader.reader.place(path, training=False) is not None
    assert by_row(loader) == by_row(waiting_loader(table, "off"))


def test_reading_meanwhile_ends_with_the_block(table: ImageTable):
    with reading_meanwhile(waiting_loader(table, rows=torch.arange(5).repeat(200))):
        pass
    assert not meanwhile_threads()


def test_a_bad_image_is_reported_where_it_is_needed(table: ImageTable):
    table.paths[2].write_bytes(b"\xff\xd8\xff nothing")
    loader = waiting_loader(table)
    with reading_meanwhile(loader):
        wait_until_read(loader, 4)
    with pytest.raises(PictureError, match=r"cross_10\.jpg"):
        list(loader.batches())


@pytest.mark.parametrize(("mode", "num_workers"), [("memory", 4), ("off", 4), ("device", 2)])
def test_nothing_is_read_where_it_would_not_help(table: ImageTable, mode, num_workers):
    with reading_meanwhile(waiting_loader(table, mode, num_workers=num_workers)):
        assert not meanwhile_threads()


def test_ctrl_c_while_a_thread_starts_is_not_covered_up(monkeypatch: pytest.MonkeyPatch):
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "vizsla-reader-1":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(str, range(9), num_workers=3, max_waiting=6))
