"""How fast shards are indexed and read, next to tar itself, webdataset and Hugging Face datasets.

python -m benchmarks.scale shards --data FOLDER --count 1000000
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Command, Figures, answer, in_own_process, row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

PER_SHARD, READ_AT_MOST = 5_000, 20
SIDE = 64
"""Pixels of the small copies: a million take 3.5 GB."""


def shards(options: argparse.Namespace) -> None:
    """Index and read shards of small copies of the images in a folder, which come up again under new names."""
    folder = Path(tempfile.mkdtemp(prefix="vizsla-shards-", dir=options.within))
    os.environ["VIZSLA_HOME"] = str(folder / "home")
    try:
        num_bytes = write_shards(folder, source=options.folder, count=options.count)
        print(
            f"{options.count:,} images in {-(-options.count // PER_SHARD)} shards, {num_bytes / 1e9:.2f} GB\n"
        )
        print(row("what", "seconds", "images/s", "MB/s", "peak MB"))
        print(row(*["---"] * 5))
        for name, function in (
            ("index (first time)", "listing"),
            ("index (kept)", "listing"),
            ("tar --to-stdout", "raw_tar"),
            ("vizsla, in order", "in_order"),
            ("vizsla, shuffled", "shuffled"),
            ("webdataset", "of_webdataset"),
            ("datasets, streamed", "of_datasets"),
        ):
            figures = in_own_process(f"scale:{function}", folder=str(folder))
            seconds, count = figures["seconds"], figures["count"]
            print(
                row(
                    name,
                    f"{seconds:.1f}",
                    f"{count / seconds:,.0f}",
                    ""
                    if "index" in name
                    else f"{num_bytes * count / options.count / seconds / 1e6:,.0f}",
                    f"{figures['peak_bytes'] / 1e6:,.0f}",
                ),
                flush=True,
            )
            if per_image := figures.get("bytes_per_image"):
                print(f"table and index: {per_image:.0f} bytes an image", flush=True)
    finally:
        shutil.rmtree(folder)


def write_shards(folder: Path, *, source: Path, count: int) -> int:
    """Write shards of small JPEGs with a .cls file each; return how many bytes they take."""
    from PIL import Image

    copies: list[tuple[bytes, bytes]] = []
    for file in sorted(source.rglob("*.jpg")):
        with Image.open(file) as image:
            small = io.BytesIO()
            image.convert("RGB").resize((SIDE, SIDE)).save(small, "JPEG", quality=75)
        copies.append((small.getvalue(), str(len(copies) % 10).encode()))
    for first in range(0, count, PER_SHARD):
        with tarfile.open(
            folder / f"{first // PER_SHARD:04}.tar", "w", format=tarfile.USTAR_FORMAT
        ) as archive:
            for number in range(first, min(first + PER_SHARD, count)):
                for data, suffix in zip(copies[number % len(copies)], ("jpg", "cls"), strict=True):
                    member = tarfile.TarInfo(f"{number:08}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return sum(file.stat().st_size for file in folder.glob("*.tar"))


def _timed(count_images: Callable[[], int]) -> Figures:
    started = time.perf_counter()
    count = count_images()
    return {"seconds": time.perf_counter() - started, "count": count}


def listing(folder: str) -> Figures:
    """Find the images and labels of all shards; the second time the index is there."""
    from benchmarks.measure import tree_bytes
    from vizsla.data.images import decode_image
    from vizsla.data.table.find_labels import find_images

    before = tree_bytes(os.getpid(), own=True)
    started = time.perf_counter()
    found = find_images(Path(folder), "auto", None, "")
    seconds = time.perf_counter() - started
    decode_image(found.images.paths[0])
    count = len(found.images.paths)
    grown = tree_bytes(os.getpid(), own=True) - before
    return {"seconds": seconds, "count": count, "bytes_per_image": grown / count}


def raw_tar(folder: str) -> Figures:
    """Read shards with GNU tar."""

    def read() -> int:
        for shard in _some(folder):
            subprocess.run(
                ["tar", "--extract", "--to-stdout", "--file", shard],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return PER_SHARD * len(_some(folder))

    return _timed(read)


def in_order(folder: str) -> Figures:
    """Read images as validation does."""
    return _read_all(folder, is_shuffled=False)


def shuffled(folder: str) -> Figures:
    """Read images as an epoch of training does."""
    return _read_all(folder, is_shuffled=True)


def _read_all(folder: str, *, is_shuffled: bool) -> Figures:
    from vizsla.data.storage import open_shard, read_bytes

    shards = [(shard, open_shard(shard)) for shard in _some(folder)]
    texts = [f"{path}/{name}" for path, shard in shards for name in shard.names() if name.endswith(".jpg")]  # fmt: skip
    if is_shuffled:
        texts = _shuffled(texts)

    def read() -> int:
        for text in texts:
            read_bytes(text)
        return len(texts)

    return _timed(read)


def of_webdataset(folder: str) -> Figures:
    """Read samples with webdataset, which streams them in order; nothing is decoded."""
    from webdataset.compat import WebDataset

    return _timed(lambda: sum(1 for _ in WebDataset(_some(folder), shardshuffle=False)))


def of_datasets(folder: str) -> Figures:
    """Read samples with Hugging Face datasets, streamed; nothing is decoded."""
    from datasets import Image, load_dataset

    def read() -> int:
        streamed: Any = load_dataset("webdataset", data_files=_some(folder), split="train", streaming=True)  # fmt: skip
        return sum(1 for _ in streamed.cast_column("jpg", Image(decode=False)))

    return _timed(read)


def _some(folder: str) -> list[str]:
    return sorted(map(str, Path(folder).glob("*.tar")))[:READ_AT_MOST]


def _shuffled(texts: list[str]) -> list[str]:
    import torch

    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return [texts[position] for position in order.tolist()]


class _Slow(SimpleHTTPRequestHandler):
    """Sends parts of files, each after 20 ms, as a distant server does."""

    def do_GET(self) -> None:
        """Answer a request for a part."""
        time.sleep(0.02)
        file, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if asked is None:
            super().do_GET()
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        with file.open("rb") as opened:
            opened.seek(first)
            data = opened.read(last + 1 - first)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def addresses(options: argparse.Namespace) -> None:
    """Read shards from a server that answers after 20 ms: in blocks that are kept, or the bytes of each image alone."""
    folder = Path(tempfile.mkdtemp(prefix="vizsla-shards-", dir=options.within))
    os.environ["VIZSLA_HOME"] = str(folder / "home")
    try:
        write_shards(folder, source=options.folder, count=options.count)
        for address in _served(folder):
            pattern = f"{address}/{{0000..{-(-options.count // PER_SHARD) - 1:04}}}.tar"
            print(row("how", "seconds", "images/s"))
            print(row(*["---"] * 3))
            for how in ("index and first reading", "again, blocks kept", "each image alone"):
                figures = in_own_process("scale:from_address", pattern=pattern, alone=how == "each image alone")  # fmt: skip
                print(row(how, f"{figures['seconds']:.1f}", f"{figures['count'] / figures['seconds']:,.0f}"), flush=True)  # fmt: skip
    finally:
        shutil.rmtree(folder)


def from_address(pattern: str, *, alone: bool) -> Figures:
    """Read images in random order with one thread; at most 2,000 where each is fetched alone."""
    from vizsla.data.storage import addresses as files
    from vizsla.data.storage import open_shard, read_bytes
    from vizsla.data.table import list_images

    started = time.perf_counter()
    texts = _shuffled(list(list_images(pattern).paths.texts()))
    if alone:
        texts = texts[:2_000]
        open_shard(texts[0][: texts[0].index(".tar") + 4])
        shutil.rmtree(files.block_folder())
        files.BLOCK_BYTES = 1  # none is kept: there is no folder
        started = time.perf_counter()
    for text in texts:
        read_bytes(text)
    return {"seconds": time.perf_counter() - started, "count": len(texts)}


WITHIN = {"type": Path, "help": "where to write the shards (default: temporary)"}
COMMANDS = {
    "shards": Command(
        asks="How fast are shards indexed and read, next to tar, webdataset and datasets?",
        run=shards,
        packages=("vizsla", "webdataset", "datasets"),
        images="any",
        options={"count": {"default": 1_000_000, "type": int}, "within": WITHIN},
    ),
    "addresses": Command(
        asks="How fast are shards read over a network, in blocks and image by image?",
        run=addresses,
        packages=("vizsla", "fsspec", "aiohttp"),
        images="any",
        options={"count": {"default": 20_000, "type": int}, "within": WITHIN},
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
