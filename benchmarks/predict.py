"""Nothing in; tables out: what ``Predictor.predict`` costs beyond decoding and the network, and predictions a second.

    python -m benchmarks.predict [--arch efficientnet_lite0] [--rounds 30] [--workers 0 2] [--clock wall|cpu] [--quick]

1. One picture: decoding and presizing it and running the network on it, written out by hand, beside ``Predictor.predict`` of a
   calibrated model with a label set. They take turns, and the ratio is the median of the rounds' ratios, so that other work on
   the machine slows both alike.
2. Many pictures: ``predict_many`` and the rows of ``vizsla predict --csv``, in pictures a second.

The weights are random, which costs the same as trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.decode import drawn_photograph
from benchmarks.machine import described
from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize
from vizsla.evaluate.calibration import calibrate
from vizsla.evaluate.predictions import Predictions
from vizsla.model_file.bundle import save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.predict.formats import Format
from vizsla.predict.predictor import Predictor
from vizsla.predict.stream import PathSource, PredictOptions, write_predictions

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_CLASSES = 37
_CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
}


def main() -> None:
    """Measure as the command line asks and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=256, help="of the second table")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--clock", choices=tuple(_CLOCKS), default="wall")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.arch, options.size, options.rounds, options.pictures = "test_resnet", 64, 3, 16
    print(described("torch", "pillow", "numpy"))
    with tempfile.TemporaryDirectory() as folder:
        model = calibrated_model(Path(folder), arch=options.arch, size=options.size)
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for number in range(8):
            drawn_photograph(number).save(pictures / f"{number}.jpg", quality=90)
        overhead(model, pictures / "0.jpg", options=options)
        throughput(model, sorted(pictures.iterdir()), options=options)


def calibrated_model(folder: Path, *, arch: str, size: int) -> Path:
    """Write a model file with random weights and all that a prediction may tell, and return its path."""
    torch.manual_seed(0)
    backbone = build_backbone(arch, pretrained=False, seed=0)
    vocab = tuple(f"class {number}" for number in range(NUM_CLASSES))
    head = ConcatPoolHead(backbone.num_features, NUM_CLASSES, seed=0)
    predictions = Predictions(
        rows=torch.arange(500),
        paths=tuple(map(str, range(500))),
        logits=torch.randn(500, NUM_CLASSES),
        targets=torch.randint(NUM_CLASSES, (500,)),
        vocab=vocab,
    )
    return save_bundle(
        folder / "model.safetensors",
        classifier=Classifier(backbone, head, vocab=vocab).eval(),
        resize=Resize(size),
        calibration=calibrate(predictions),
    )


def overhead(model: Path, picture: Path, *, options: argparse.Namespace) -> None:
    """Print what one prediction takes beyond decoding and the network."""
    predictor = Predictor.load(model, device="cpu")
    reader = PictureReader(resize=Resize(options.size), cache=PictureCache(mode="off"))
    classifier = predictor.classifier

    def by_hand() -> None:
        pixels = torch.from_numpy(np.stack([reader.read(picture)]))
        with torch.inference_mode():
            classifier(pixels.permute(0, 3, 1, 2).float() / 255)

    functions = {
        "decode + forward, by hand": by_hand,
        "Predictor.predict": lambda: predictor.predict(picture, coverage=0.95),
    }
    clock = _CLOCKS[options.clock]
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(options.rounds + 3):
        for name, function in functions.items():
            started = clock()
            function()
            if turn >= 3:  # The first ones warm up.
                seconds[name].append(clock() - started)
    plain, ours = seconds.values()
    for name, taken in seconds.items():
        print(
            f"{name:28} {1000 * statistics.median(taken):7.2f} ms  (best {1000 * min(taken):.2f})"
        )
    ratio = statistics.median(one / other for one, other in zip(ours, plain, strict=True))
    print(
        f"{'ratio':28} {ratio:7.3f}     (of the best {min(ours) / min(plain):.3f}); at most 1.3 is promised"
    )


def throughput(model: Path, pictures: list[Path], *, options: argparse.Namespace) -> None:
    """Print how many pictures a second are predicted."""
    count = max(1, options.pictures // len(pictures))
    source = PathSource(paths=pictures * count)
    file = model.with_name("rows.csv")
    for num_workers in options.workers:
        done = write_predictions(
            model,
            source,
            file=file,
            form=Format.csv,
            options=PredictOptions(device="cpu", num_workers=num_workers),
        )
        if done is not None:
            rate = done.num_images / done.seconds
            print(f"to CSV, {num_workers} decode threads     {rate:7.1f} pictures/s")


if __name__ == "__main__":
    main()
