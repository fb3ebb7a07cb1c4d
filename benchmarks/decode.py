"""JPEG files in, a table of milliseconds for each picture and decoder out: whole, and decoded for a presize.

    python -m benchmarks.decode [--data FOLDER] [--rounds 5] [--pictures 8] [--clock wall|cpu] [--json FILE]

FOLDER is any folder of pictures; they are brought to 500 x 375 and to 12 megapixels (4000 x 3000). Without one the script draws
pictures whose spectrum is that of photographs. Decoders that are not installed are left out. Each cell is the fastest of the
rounds; the decoders take turns within a round, so that other work on the machine slows all of them alike. ``--clock cpu``
counts processor time instead, which other work hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
from PIL import Image

import vizsla
from vizsla.data.images.decode import open_picture
from vizsla.data.images.sizing import Resize, resize
from vizsla.data.table.sources import get_image_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

Decoder = Callable[[bytes, int | None], object]
"""Takes the bytes of a JPEG and the presize, None for the whole picture."""

KINDS = {"500 x 375": (375, 500), "12 megapixels": (3000, 4000)}
PRESIZES = (None, 160, 224, 460)


def vizsla_decoder(data: bytes, presize: int | None) -> object:
    """What training does: the smallest scale that covers the presize, then ``Resize``."""
    if presize is None:
        return np.asarray(open_picture(data))
    sizing = Resize(presize)
    return sizing.presize(open_picture(data, cover=sizing.size), training=True)


def pillow_resized(picture: Image.Image, presize: int) -> Image.Image:
    """Resized by Pillow so that the short side is the presize."""
    width, height = picture.size
    factor = presize / min(width, height)
    size = round(factor * width), round(factor * height)
    return picture.resize(size, Image.Resampling.BILINEAR)


def pillow_whole(data: bytes, presize: int | None) -> object:
    """Every pixel is decoded, then resized, both by Pillow."""
    picture = Image.open(BytesIO(data))
    picture.load()
    return np.asarray(picture if presize is None else pillow_resized(picture, presize))


def torchvision_whole(data: bytes, presize: int | None) -> object:
    """Decoded by torchvision, which knows no scales; resized by Pillow."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    if presize is None:
        return pixels
    return np.asarray(pillow_resized(Image.fromarray(np.ascontiguousarray(pixels)), presize))


def resized_as_vizsla_does(pixels: NDArray[np.uint8], presize: int) -> NDArray[np.uint8]:
    """Resized so that the short side is the presize."""
    height, width, _ = pixels.shape
    factor = presize / min(width, height)
    return resize(pixels, size=(round(factor * height), round(factor * width)))


def simplejpeg_scaled(data: bytes, presize: int | None, *, fast: bool = False) -> object:
    """Decoded by simplejpeg at the smallest scale that covers the presize; resized by Pillow."""
    import simplejpeg

    side = 0 if presize is None else presize
    pixels = simplejpeg.decode_jpeg(
        data, min_height=side, min_width=side, min_factor=1, fastdct=fast, fastupsample=fast
    )
    return pixels if presize is None else resized_as_vizsla_does(pixels, presize)


def simplejpeg_fast(data: bytes, presize: int | None) -> object:
    """The same with the coarser inverse transform and chroma upsampling."""
    return simplejpeg_scaled(data, presize, fast=True)


def decoders() -> dict[str, Decoder]:
    """Return the decoders that are installed, by name."""
    found: dict[str, Decoder] = {
        "Pillow, whole": pillow_whole,
        "vizsla (Pillow, scaled)": vizsla_decoder,
    }
    for package, entries in (
        ("torchvision", {"torchvision, whole": torchvision_whole}),
        (
            "simplejpeg",
            {"simplejpeg, scaled": simplejpeg_scaled, "simplejpeg, scaled, fast": simplejpeg_fast},
        ),
    ):
        try:
            __import__(package)
        except ImportError:
            continue
        found |= entries
    return found


def drawn_photograph(number: int, *, size: tuple[int, int] = (375, 500)) -> Image.Image:
    """Return noise with the 1/f amplitude spectrum of natural pictures, its channels correlated as in photographs."""
    height, width = size
    chance = np.random.default_rng(number)  # noqa: TID251 (a benchmark's own pictures)
    distance = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    amplitude = 1 / np.maximum(distance, 1)
    channels = []
    for _ in range(4):
        phase = np.exp(2j * np.pi * chance.random(amplitude.shape))
        values = np.fft.irfft2(amplitude * phase, s=size)
        channels.append(values / values.std())
    light, *tints = channels
    pixels = np.stack([122 + 55 * light + 14 * tint for tint in tints], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded_pictures(
    folder: Path | None, *, size: tuple[int, int], count: int, quality: int
) -> list[bytes]:
    """Return JPEGs of one size, of photographs or drawn ones, upright pictures turned."""
    if folder is None:
        pictures = [drawn_photograph(number) for number in range(count)]
    else:
        files = get_image_files(folder)
        pictures = [open_picture(path) for path in files[:: max(1, len(files) // count)][:count]]
    encoded: list[bytes] = []
    for picture in pictures:
        lying = picture.rotate(90, expand=True) if picture.height > picture.width else picture
        buffer = BytesIO()
        resized = lying.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        resized.save(buffer, format="JPEG", quality=quality)
        encoded.append(buffer.getvalue())
    return encoded


def seconds_each(
    decoder: Decoder, pictures: list[bytes], *, presize: int | None, threads: int, clock: str
) -> float:
    """Return seconds for each picture, several threads working at once."""
    now = time.perf_counter if clock == "wall" else time.process_time
    with ThreadPoolExecutor(threads) as pool:
        started = now()
        for _ in pool.map(lambda data: (decoder(data, presize), None)[1], pictures):
            pass
        return (now() - started) / len(pictures)


def measure(
    kind: str, pictures: list[bytes], *, rounds: int, clock: str
) -> list[dict[str, object]]:
    """Return one record for each decoder, presize and number of threads."""
    samples: dict[tuple[str, int | None, int], list[float]] = {}
    for _ in range(rounds + 1):
        for presize in PRESIZES:
            for threads in (1, 2):
                for name, decoder in decoders().items():
                    taken = seconds_each(
                        decoder, pictures, presize=presize, threads=threads, clock=clock
                    )
                    samples.setdefault((name, presize, threads), []).append(taken)
    return [
        {
            "pictures": kind,
            "decoder": name,
            "presize": presize,
            "threads": threads,
            "milliseconds": 1000 * min(taken[1:]),
            "median": 1000 * statistics.median(taken[1:]),
            "clock": clock,
        }
        for (name, presize, threads), taken in samples.items()
    ]


def print_table(kind: str, records: list[dict[str, object]], *, megabytes: float) -> None:
    """Print one Markdown table: a row for each decoder, one and two threads in a cell."""
    print(f"\n**{kind}**, {megabytes:.2f} MB each; ms a picture with 1 thread / 2 threads\n")
    print("| decoder | whole | " + " | ".join(str(side) for side in PRESIZES[1:]) + " |")
    print("|---|" + "---:|" * len(PRESIZES))
    found = {
        (record["decoder"], record["presize"], record["threads"]): record["milliseconds"]
        for record in records
    }
    for name in decoders():
        cells = [f"{found[name, side, 1]:.1f} / {found[name, side, 2]:.1f}" for side in PRESIZES]
        print(f"| {name} | {' | '.join(cells)} |")
    whole = float(str(found["Pillow, whole", None, 1]))
    ratios = [
        whole / float(str(found["vizsla (Pillow, scaled)", side, 1])) for side in PRESIZES[1:]
    ]
    print("\nPillow's whole decode against vizsla's decode and presize, 1 thread: ", end="")
    print(
        ", ".join(
            f"{ratio:.1f}x at {side}" for ratio, side in zip(ratios, PRESIZES[1:], strict=True)
        )
    )


def main() -> None:
    """Run the benchmark as the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder of pictures (default: made-up photographs)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two pictures, one round")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.pictures = 1, 2
    torch.set_num_threads(1)
    print(
        f"vizsla {vizsla.__version__}, Pillow {PIL.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    )
    source = "drawn" if options.data is None else "photographs"
    print(
        f"{options.pictures} {source}, JPEG quality {options.quality}, "
        f"{options.rounds} rounds after one to warm up, {options.clock} time"
    )
    everything: list[dict[str, object]] = []
    for kind, size in KINDS.items():
        pictures = encoded_pictures(
            options.data, size=size, count=options.pictures, quality=options.quality
        )
        records = measure(kind, pictures, rounds=options.rounds, clock=options.clock)
        megabytes = statistics.mean(len(data) for data in pictures) / 1e6
        print_table(kind, records, megabytes=megabytes)
        everything += records
    if options.json is not None:
        options.json.write_text(json.dumps(everything, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
