"""What a million images cost beyond reading them: features on disk and their head, the table and what is written of it.

python -m benchmarks.millions COMMAND --help
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import make_links
from benchmarks.measure import Command, Figures, answer, head, in_own_process, row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from torch import Tensor

    from vizsla.infer import StoredFeatures

NUM_CLASSES, NUM_FEATURES = 100, 1280
APART, SHARED = 0.09, 32
"""How far class means lie from one another, in standard deviations of each feature, and how many directions all noise shares."""
NUM_NEW = 20_000


# --- The head --------------------------------------------------------------------------------------------------------


def fit(options: argparse.Namespace) -> None:
    """Fit the linear head on synthetic features in a file: class means, noise in common directions and noise of each image.

    The file takes 5 KB an image and is removed. Each fit is a process of its own; ``new images`` are others of the same kind.
    """
    number = 20_000 if options.quick else options.images
    with tempfile.TemporaryDirectory(dir=options.within) as folder:
        made = in_own_process("millions:make", folder=folder, number=number)
        print(
            f"{number:,} x {NUM_FEATURES:,} features of {NUM_CLASSES} classes written in {made['seconds']:.0f} s\n"
        )
        print(head("head", "fitted on", "s", "peak memory, MB", "left out: right", "new: right"))
        for kind, part in (("linear", 50_000), ("linear", number), ("both", number)):
            found = in_own_process(
                "millions:fit_once", folder=folder, number=number, part=part, kind=kind
            )
            name = "linear" if kind == "linear" else "linear and kernel"
            memory = f"{found['peak'] / 1e6:,.0f}"
            figures = (
                f"{found['seconds']:.0f}",
                memory,
                f"{found['left_out']:.1%}",
                f"{found['new']:.1%}",
            )
            print(row(name, f"{min(part, number):,}", *figures), flush=True)
        same = in_own_process("millions:compare", folder=folder, number=number)
        print(
            f"\nBy blocks and at once, {same['images']:,} images: logits differ by {same['blocks']:.1e} at most"
        )
        print(f"float16 instead of float32: logits differ by {same['half']:.1e} at most")


def make(folder: str, number: int) -> Figures:
    """Write the features."""
    from vizsla.infer import FeatureStore

    started = time.perf_counter()
    store = FeatureStore(folder=Path(folder), identity={})
    with store.writing("features.f32", shape=(number, 1, NUM_FEATURES)) as writer:
        for start in range(0, number, 10_000):
            values, _ = _synthetic(start, min(10_000, number - start))
            writer.add(values)
    return {"seconds": time.perf_counter() - started}


def fit_once(folder: str, number: int, part: int, kind: str) -> Figures:
    """Fit a head on the first images of the file."""
    import torch

    from vizsla.machine import peak_memory_bytes
    from vizsla.recipe import fit_feature_head

    features, targets, options = _problem(folder, number)
    if part < number:
        features, targets = features.some(images=torch.arange(part)), targets[:part]
    if kind != "linear":
        options["setting"] = _with_kernel(options["setting"])
    started = time.perf_counter()
    found = fit_feature_head(features, targets, **options)
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes()
    new, wanted = _synthetic(number + 10_000, NUM_NEW)
    with torch.inference_mode():
        right = (found.head.classify(new[:, 0]).argmax(1) == wanted).float().mean()
    return {"seconds": seconds, "peak": peak, "left_out": found.accuracy, "new": float(right)}


def compare(folder: str, number: int) -> Figures:
    """Fit some images by blocks, at once, and at once in float16; return the largest difference of logits."""
    import torch

    from vizsla.recipe import fit_feature_head

    features, targets, options = _problem(folder, number)
    images = torch.arange(0, number, max(1, number // 20_000))
    values, targets = features[images], targets[images]
    options["setting"] = _with_kernel(options["setting"])
    fits = (
        fit_feature_head(values, targets, **options),
        fit_feature_head(features.some(images=images), targets, rows_at_once=4096, **options),
        fit_feature_head(values.half().float(), targets, **options),
    )
    with torch.inference_mode():
        at_once, by_blocks, in_half = (each.head.classify(values[:, 0]) for each in fits)
    largest = at_once.abs().max()
    return {
        "images": len(images),
        "blocks": float((at_once - by_blocks).abs().max() / largest),
        "half": float((at_once - in_half).abs().max() / largest),
        "left out": float((fits[0].left_out - fits[1].left_out).abs().max() / largest),
    }


def _problem(folder: str, number: int) -> tuple[StoredFeatures, Tensor, dict[str, Any]]:
    import torch

    from vizsla.infer import StoredFeatures
    from vizsla.recipe import FeatureLayout, HeadSetting

    features = StoredFeatures(path=Path(folder) / "features.f32", stored=(number, 1, NUM_FEATURES))
    targets = torch.cat(
        [_targets(start, min(10_000, number - start)) for start in range(0, number, 10_000)]
    )
    layout = FeatureLayout(stages=(0,), statistics=("mean",), channels=(NUM_FEATURES,))
    setting = HeadSetting(stages=(0,), statistics=("mean",))
    return features, targets, {"layout": layout, "num_classes": NUM_CLASSES, "setting": setting}


def _with_kernel(setting: Any) -> Any:
    from dataclasses import replace

    return replace(setting, bandwidth=1.0, with_linear=True)


def _targets(start: int, count: int) -> Tensor:
    import torch

    from vizsla.seeding import generator

    return torch.randint(NUM_CLASSES, (count,), generator=generator(0, f"targets {start}"))


def _synthetic(start: int, count: int) -> tuple[Tensor, Tensor]:
    """Return features ``(count, 1, D)`` and classes of images from a position on."""
    import torch

    from vizsla.seeding import generator

    kinds = generator(0, "kinds")
    means_CD = APART * torch.randn(NUM_CLASSES, NUM_FEATURES, generator=kinds)
    directions_SD = torch.randn(SHARED, NUM_FEATURES, generator=kinds)
    chance = generator(0, f"features {start}")
    targets = _targets(start, count)
    values = torch.randn(count, NUM_FEATURES, generator=chance)
    values += torch.randn(count, SHARED, generator=chance) @ directions_SD
    return (values + means_CD[targets])[:, None], targets


# --- The table -------------------------------------------------------------------------------------------------------

CASES, QUICK_CASES = (100_000, 1_000_000), (1_000, 2_000)
CLASSES = 1_000


def table(options: argparse.Namespace) -> None:
    """Measure everything that a run does with its images beside reading them: time, and the most memory beyond what was held before.

    Images are hard links to a few small ones, in a folder for each of 1,000 classes.
    """
    for number in QUICK_CASES if options.quick else CASES:
        with tempfile.TemporaryDirectory(dir=options.within) as folder:
            make_links(
                Path(folder) / "made", num_files=number, num_classes=min(CLASSES, number // 10)
            )
            found = in_own_process("millions:use_table", folder=f"{folder}/made")
        print(
            f"\n{number:,} images\n\n"
            + head("", "s", "peak, bytes an image", "kept, bytes an image")
        )
        for name, (seconds, peak, kept) in found["steps"].items():
            print(
                row(name, f"{seconds:.1f}", f"{peak / number:,.0f}", f"{kept / number:,.0f}"),
                flush=True,
            )


def use_table(folder: str) -> Figures:
    """List images, make their table, and write what is made of it."""
    import torch

    from vizsla.data.images import find_copies
    from vizsla.data.table import fingerprint, resolve_data
    from vizsla.infer import table_predictions
    from vizsla.machine import give_back_freed_memory
    from vizsla.train import data_identity

    steps: dict[str, tuple[float, float, float]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        gc.collect()
        give_back_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before, started = _memory("VmRSS"), time.perf_counter()
        result = work()
        seconds, peak = time.perf_counter() - started, _memory("VmHWM")
        gc.collect()
        give_back_freed_memory()
        steps[name] = (seconds, peak - before, _memory("VmRSS") - before)
        return result

    images = Path(folder) / "images"
    find_copies(resolve_data(images, seed=0))  # libraries are loaded
    table = step("table: list, labels, split", lambda: resolve_data(images, seed=0))
    step("copies by content", lambda: find_copies(table))
    step("digest of images and labels", lambda: fingerprint(table))
    step("the same with the split", lambda: data_identity(table))
    rows = torch.arange(len(table.paths))
    logits = torch.randn(len(rows), 2)
    some = replace(table, vocab=("a", "b"), targets=table.targets % 2)
    said = step(
        "predictions of all images",
        lambda: table_predictions(some, rows=rows, logits=logits, targets=some.targets),
    )
    step("predictions as CSV", lambda: said.save_csv(Path(folder) / "predictions.csv"))
    return {"steps": steps}


def _memory(name: str) -> int:
    """Return a figure of this process in bytes, ``VmRSS`` or ``VmHWM``. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


COMMANDS = {
    "head": Command(
        asks="How long does the head of a million images take, in how much memory?",
        run=fit,
        options={
            "images": 1_000_000,
            "within": {"type": Path, "help": "where to keep the features (default: temporary)"},
        },
    ),
    "table": Command(
        asks="What do listing, table, split, digests and predictions of a million images take?",
        run=table,
        options={
            "within": {"type": Path, "help": "where to make the folders (default: temporary)"}
        },
    ),
}

if __name__ == "__main__":
    sys.exit(answer(COMMANDS))
