"""Record what fastai 2.8.12 does with images and in cells, in ``notebook_helpers.json``: ``python tests/golden/notebook_helpers.py``.

Run it where fastai is installed (the extra ``bench``); the tests read the file alone.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
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


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder)
        record = {
            "_meta": {"origin": "fastai 2.8.12, by notebook_helpers.py"},
            "images": SIZES,
            "download_images": downloads(folder),
            "resize_images_32": resized(folder),
            "verify_images": [path.name for path in fastai.verify_images(sorted(folder.iterdir()))],
        }
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
