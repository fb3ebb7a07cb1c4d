"""One library and one training task in, one line of JSON out: what each epoch gave and took; a process per measurement."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fastai_peer import train_fastai
from benchmarks.machine import MemoryWatch
from benchmarks.peers import (
    Setting,
    cpu_seconds,
    run_model_alone,
    run_quick_start,
    train_recipe,
    train_vizsla,
)

TRAINERS = {
    "vizsla": train_vizsla,
    "vizsla bf16": partial(train_vizsla, precision="bf16"),
    "fastai": train_fastai,
    "model": run_model_alone,
    "recipe": train_recipe,
    "quick start": run_quick_start,
}


def measured(library: str, setting: Setting) -> dict[str, Any]:
    """Run one training task in a process of its own.

    Args:
        library: ``"vizsla"`` or ``"fastai"`` for ``fine_tune``, ``"recipe"`` for what ``vizsla train``
            does, ``"model"`` for forward and backward alone, ``"quick start"`` for lesson one's.
        setting: The task.

    Returns:
        ``values``, ``seconds``, ``train_seconds`` and ``epoch_cpu_seconds`` of each epoch; ``ends``, when each was
        validated, in seconds since the process started, without what it spent on being handed another library's split;
        ``cpu_seconds`` and wall ``total_seconds`` of the process from its start; its ``peak_bytes`` with all its children.
    """
    command = [sys.executable, "-m", "benchmarks.fit", library, json.dumps(asdict(setting))]
    root = Path(__file__).parents[1]
    began, started = time.time(), time.perf_counter()
    with (
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child,
        MemoryWatch(child.pid) as watch,
    ):
        printed, _ = child.communicate()
    if child.returncode != 0:
        raise SystemExit(f"the measurement of {library} failed with exit code {child.returncode}")
    figures = json.loads(printed.strip().splitlines()[-1])
    not_its_own = began + figures.pop("helped_seconds")
    return figures | {
        "ends": [moment - not_its_own for moment in figures["ends"]],
        "peak_bytes": watch.peak_bytes,
        "total_seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Train as the command line asks and print the figures."""
    library, setting = sys.argv[1], Setting(**json.loads(sys.argv[2]))
    log = TRAINERS[library](setting)
    figures = {
        "values": log.values,
        "seconds": log.seconds,
        "train_seconds": log.train_seconds,
        "epoch_cpu_seconds": log.cpu_seconds,
        "cpu_seconds": cpu_seconds(),
        "ends": log.ends,
        "helped_seconds": log.helped_seconds,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
