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
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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


def images(file: Path) -> dict[str, Any]:
    """Return sizes and shapes of an image and of its smaller copies."""
    plain: Any = Image.open(file)
    own = fastai.PILImage.create(file)
    limits = ({"max_px": 300}, {"max_h": 10}, {"max_w": 20, "max_h": 25}, {"max_px": 10**6}, {"max_w": 7, "max_px": 99})  # fmt: skip
    return {
        "shape": [list(plain.shape), list(own.shape)],
        "n_px": [plain.n_px, own.n_px],
        "aspect": plain.aspect,
        "to_thumb": [list(plain.to_thumb(*to).size) for to in ((16,), (16, 8), (100,))],
        "reshape": list(plain.reshape(10, 20).size),
        "resize_max": [[limit, list(own.resize_max(**limit).size)] for limit in limits],
    }


def names_of_transforms() -> list[str]:
    """Return the names of item transforms, without the settings that only fastai has."""
    transforms = (fastai.Resize(64), fastai.Resize(64, "squish"), fastai.RandomResizedCrop(64))  # fmt: skip
    return [re.sub(r", 'resamples': \(.*?>\)|, 'p': 1.0", "", each.name) for each in transforms]


def labels(folder: Path) -> dict[str, Any]:
    """Return classes, and the numbers of images, of loaders by several roads."""
    options = {"item_tfms": fastai.Resize(16), "bs": 2, "num_workers": 0, "seed": 1}
    files = fastai.get_image_files(folder)
    frame = pd.DataFrame({"file": [str(file) for file in files], "label": [file.parent.name for file in files]})  # fmt: skip
    loaders = fastai.ImageDataLoaders
    block = fastai.DataBlock.from_columns(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=lambda df: (df["file"], df["label"]),
        item_tfms=fastai.Resize(16),
    )
    made = {
        "bool": loaders.from_path_func(folder, files, lambda path: path.parent.name == "a", **options),
        "int": loaders.from_path_func(folder, files, lambda path: int(path.stem) % 2, **options),
        "flat": loaders.from_folder(folder / "a", valid_pct=0.5, **options),
        "columns": block.dataloaders(frame, bs=2, num_workers=0),
        "shuffle_train": loaders.from_df(frame, "/", shuffle_train=True, **options),
    }  # fmt: skip
    return {
        name: [list(dls.vocab), len(dls.train_ds), len(dls.valid_ds)] for name, dls in made.items()
    }


def results(folder: Path) -> list[Any]:
    """Return the figures that show_results draws: its arguments, size in inches, axes, and axes with an image."""
    dls = fastai.ImageDataLoaders.from_folder(folder, valid_pct=0.7, item_tfms=fastai.Resize(32), bs=4, num_workers=0, seed=1)  # fmt: skip
    learn = fastai.vision_learner(dls, fastai.resnet18, pretrained=False)
    drawn: list[Any] = []
    for options in ({"nrows": 1, "ncols": 3, "figsize": (9, 3)}, {"max_n": 4, "figsize": (5, 6)}, {"max_n": 3, "nrows": 3}):  # fmt: skip
        for what, show in (("results", learn.show_results), ("batch", dls.valid.show_batch)):
            with contextlib.redirect_stdout(io.StringIO()):
                show(**options)
            figure = plt.gcf()
            filled = sum(bool(axes.images) for axes in figure.axes)
            size = list(figure.get_size_inches()) if "figsize" in options else None
            drawn.append([what, options, size, filled])
            plt.close("all")
    return drawn


def cells() -> dict[str, Any]:
    """Return what the small helpers of cells give."""
    nested = (fastai.torch.ones(2), [fastai.torch.ones(1)], {"a": fastai.torch.ones(1)}, 3)
    moved = fastai.to_cpu(nested)
    return {
        "parallel": list(fastai.parallel(pow, [1, 2, 3], 2, n_workers=0)),
        "parallel_threads": list(fastai.parallel(len, ["a", "bc"], n_workers=2, threadpool=True)),
        "to_cpu": [type(part).__name__ for part in moved],
        "interpretation": [name for name in dir(fastai.Interpretation) if not name.startswith("_")],
    }


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as other:
        folder = Path(place)
        draw(folder)
        labelled = Path(other)
        for name in ("a", "b"):
            (labelled / name).mkdir()
            for number in range(8):
                shutil.copy(folder / "wide.png", labelled / name / f"{number}.png")
        record = {
            "_meta": {"origin": "fastai 2.8.12, by notebook_helpers.py"},
            "images": SIZES,
            "download_images": downloads(folder),
            "resize_images_32": resized(folder),
            "export": places(labelled),
            "pil_images": images(folder / "wide.png"),
            "names": names_of_transforms(),
            "labels": labels(labelled),
            "figures": results(labelled),
            "cells": cells(),
            "verify_images": [path.name for path in fastai.verify_images(sorted(folder.iterdir()))],
        }
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
