"""Time an epoch in one, two and four processes, and what batch norms over all of them and compressed gradients cost.

    python -m benchmarks.processes [--images 256] [--size 64] [--epochs 3] [--processes 1 2 4]

Processes of one machine share its cores, so this shows what the work together costs, not what more machines bring. The first
epoch, which decodes, is left out. Losses are those of the last step, and the order is a digest of all rows trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from vizsla.train.callbacks import Fit

KINDS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "fp16": {"compress_gradients": "fp16"},
    "bf16": {"compress_gradients": "bf16"},
    "powersgd": {"compress_gradients": "powersgd"},
    "norms of all": {"sync_batch_norm": True},
}


def train(options: argparse.Namespace) -> None:
    """Train in one of the processes of torchrun; the main one prints what it measured as JSON."""
    from vizsla import Callback, ImageDataLoaders, Resize, vision_learner
    from vizsla.train import all_of, distributed

    digest = hashlib.sha256()
    times = [time.perf_counter()]

    class Watch(Callback):
        def after_step(self, fit: Fit) -> None:
            rows = [] if fit.batch is None else fit.batch.rows.tolist()
            digest.update(repr([row for part in all_of(rows) for row in part]).encode())
            if fit.step % fit.num_batches == 0:
                times.append(time.perf_counter())

    with distributed.start("cpu"):
        dls = ImageDataLoaders.from_folder(
            options.data,
            valid_pct=0.1,
            seed=0,
            item_tfms=Resize(options.size),
            bs=options.batch_size,
            device="cpu",
            num_workers=1,
        )
        learn = vision_learner(
            dls, options.arch, pretrained=False, quiet=True, **KINDS[options.kind]
        )
        learn.unfreeze()
        learn.fit_one_cycle(options.epochs, 1e-3, cbs=Watch())
        loss = learn.recorder.losses[-1]
        epochs = [after - before for before, after in pairwise(times[1:])]
        if distributed.is_main():
            found = {
                "seconds": statistics.median(epochs),
                "loss": loss,
                "order": digest.hexdigest(),
            }
            print(json.dumps(found))


def main() -> int:
    """Start the processes of each row of the table, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--kind", choices=KINDS, default="as usual", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is not None:
        train(options)
        return 0
    from vizsla.bench.made_up import make_photographs

    print("| processes | what | seconds an epoch | last loss | order |\n|---:|---|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder), number=options.images)
        for processes in options.processes:
            for kind in KINDS if processes > 1 else ["as usual"]:
                words = [*sys.argv[1:], "--kind", kind, "--data", folder]
                start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
                done = subprocess.run(
                    [
                        *start,
                        "--nproc-per-node",
                        str(processes),
                        "-m",
                        "benchmarks.processes",
                        *words,
                    ],
                    cwd=ROOT,
                    env={"OMP_NUM_THREADS": "1", **os.environ},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {processes} | {kind} | {found['seconds']:.2f} | {found['loss']:.6f} | {found['order'][:8]} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
