"""Record what fastai 2.8.12 does with images and in cells, in ``notebook_helpers.json``: ``python tests/golden/notebook_helpers.py``.

Run it where fastai is installed (the extra ``bench``); the tests read the file alone.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import inspect
import io
import json
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import fastai.vision.all as fastai  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

SIZES = {"wide.png": (40, 30), "tall.jpg": (30, 60), "small.png": (8, 6), "grey.png": (20, 50)}
"""(width, height) of the images; the tests make the same ones."""


def draw(folder: Path) -> None:
    """Write the images, and a file that is none."""
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        (image.convert("L") if name == "grey.png" else image).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"<html>no image</html>")


def downloads(folder: Path) -> dict[str, Any]:
    """Return what download_images makes of addresses on a server in this folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{name}" for name in [*SIZES, "none.png"]]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        returned = fastai.download_images(Path(place) / "by_digest", urls=urls)
        found["returned"] = returned
        found["suffixes"] = sorted(file.suffix for file in (Path(place) / "by_digest").iterdir())
        kept = Path(place) / "kept"
        fastai.download_images(kept, urls=urls, preserve_filename=True)
        found["names"] = sorted(file.name for file in kept.iterdir())
        (Path(place) / "urls.txt").write_text("\n".join(urls))
        fastai.download_images(Path(place) / "two", Path(place) / "urls.txt", max_pics=2)
        found["max_pics_2"] = len(list((Path(place) / "two").iterdir()))
    server.shutdown()
    return found


def resized(folder: Path) -> dict[str, Any]:
    """Return the sizes and modes that resize_images writes."""
    with tempfile.TemporaryDirectory() as place:
        fastai.resize_images(folder, max_size=32, dest=place, max_workers=0)
        files = sorted(Path(place).iterdir())
        return {file.name: [list(Image.open(file).size), Image.open(file).mode] for file in files}


def places(folder: Path) -> dict[str, Any]:
    """Return where a learner exports to, and what the file is called."""
    options = {"bs": 2, "num_workers": 0}
    of_block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=fastai.get_image_files,
        get_y=fastai.parent_label,
        item_tfms=fastai.Resize(16),
    ).dataloaders(folder, **options)
    of_folder = fastai.ImageDataLoaders.from_folder(
        folder, valid_pct=0.5, item_tfms=fastai.Resize(16), **options
    )
    return {
        "block_is_data": of_block.path == folder,
        "folder_is_data": of_folder.path == folder,
        "default": inspect.signature(fastai.Learner.export).parameters["fname"].default,
    }


def names_of_transforms() -> dict[str, Any]:
    """Return the settings in the names of item transforms, without those that only fastai has."""
    found: dict[str, Any] = {}
    for transform in (fastai.Resize(64), fastai.Resize((64, 32), "squish"), fastai.RandomResizedCrop(64)):  # fmt: skip
        kind, settings = transform.name.split(" -- ")
        settings = re.sub(r"'resamples': \(.*?\)>?\), |, 'p': 1.0", "", settings)
        found[repr((kind, transform.size, getattr(transform, "method", "")))] = settings
    return found


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as other:
        folder = Path(place)
        draw(folder)
        labelled = Path(other)
        for name in ("a", "b"):
            (labelled / name).mkdir()
            for number in range(3):
                shutil.copy(folder / "wide.png", labelled / name / f"{number}.png")
        record = {
            "_meta": {"origin": "fastai 2.8.12, by notebook_helpers.py"},
            "images": SIZES,
            "download_images": downloads(folder),
            "resize_images_32": resized(folder),
            "export": places(labelled),
            "verify_images": [path.name for path in fastai.verify_images(sorted(folder.iterdir()))],
        }
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
