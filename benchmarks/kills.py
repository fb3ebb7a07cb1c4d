"""Kill commands at random moments, start them again until they are done, and compare with runs that nothing disturbed.

    python -m benchmarks.kills [--kills 100] [--seed 0] [NAME ...]

A killed process is one of ours that has loaded its libraries already, so that most kills hit work and not imports. What is compared
of a folder: the names of its files (nothing may be left over) and their contents, without times.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_IN_A_ROW = 3
SMALL = ("--device", "cpu", "--bs", "4")


def command(*words: object) -> int:
    """Run a command line in the present folder and return its exit code."""
    from vizsla.cli.app import main

    sys.argv = ["vizsla", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)


def fit(images: Path) -> int:
    """Fine-tune with averages and mixed images, from the checkpoint if there is one, and export."""
    from vizsla import Checkpoint, EMACallback, ImageDataLoaders, MixUp, Resize, vision_learner

    dls = ImageDataLoaders.from_folder(
        images, valid_pct=0.2, seed=0, item_tfms=Resize(64), bs=4, device="cpu"
    )
    learn = vision_learner(dls, "test_resnet", pretrained=False, quiet=True)
    callbacks = [EMACallback(0.9), MixUp(), Checkpoint("state", every_steps=2, resume=True)]
    learn.fine_tune(2, freeze_epochs=1, cbs=callbacks)
    learn.export(Path.cwd() / "model.safetensors")
    shutil.rmtree("state")
    return 0


def go_on(train: Callable[[], int]) -> int:
    """Train with --resume, which refuses a run that is complete already."""
    run = Path("run")
    is_done = (run / "model.safetensors").is_file() and not (run / "checkpoint").exists()
    return 0 if is_done else train()


def facts_of(path: Path) -> Any:
    """Return what has to be the same of a file."""
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name: value.numpy().tobytes() for name, value in tensors.items()}
    if path.name == "metrics.json":
        return json.loads(path.read_text("utf-8"))["metrics"]
    if path.name == "history.csv":
        with path.open(newline="") as file:
            return [{**row, "seconds": ""} for row in csv.DictReader(file)]
    if path.suffix in (".npz", ".pt2"):
        with zipfile.ZipFile(path) as archive:
            return {each.filename.partition("/")[2]: each.CRC for each in archive.infolist()}
    if (
        path.name == "report.html" and path.parent.name != "reported"
    ):  # it says how long training took
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, Any]:
    """Return the facts of all files below a folder by their names."""
    return {
        str(path.relative_to(folder)): facts_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(work: Callable[[], int], folder: Path) -> int:
    """Do the work in a child of this process, in a folder; return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which are not used
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        with (folder.parent / "said.txt").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        code = work()
    finally:
        os._exit(code)


def code_of(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturb(work: Callable[[], int], prepare: Callable[[Path], object], *, kills: int, chance: Any, place: Path) -> str:  # fmt: skip
    """Kill the work again and again; return what happened as cells of a table."""
    whole, seconds = place / "whole", 0.0
    for _ in range(2):  # the first one warms up
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        prepare(whole)
        started = time.perf_counter()
        if code := code_of(start(work, whole)):
            raise SystemExit(f"code {code}: {(place / 'said.txt').read_text()[-2000:]}")
        seconds = time.perf_counter() - started
    expected = contents(whole)
    done = same = rounds = 0
    while done < kills:
        folder = place / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        prepare(folder)
        in_a_row, code = 0, -1
        while code < 0:
            child = start(work, folder)
            if in_a_row < MOST_IN_A_ROW and done < kills:
                time.sleep(chance.uniform(0, seconds))
                os.kill(child, signal.SIGKILL)
            code = code_of(child)
            done, in_a_row = done + (code < 0), in_a_row + 1
        found = contents(folder)
        rounds += 1
        same += code == 0 and found == expected
        if code or found != expected:
            differing = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]  # fmt: skip
            print(f"  exit code {code}, other: {sorted(differing)}")
            print((place / "said.txt").read_text()[-600:])
    return f"{done} | {rounds} | {same} | {seconds:.1f}"


def main() -> None:
    """Run all tasks, or those that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kills", type=int, default=100, help="of all tasks together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import random  # noqa: TID251 (when to kill; no result depends on it)

    import torch
    from safetensors.torch import save_file

    from vizsla.bench.made_up import make_photographs
    from vizsla.models.backbones import build_backbone

    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="vizsla-kills-"))
    images, tiny, run = place / "images", place / "tiny.safetensors", place / "run"
    images.mkdir()
    make_photographs(images, number=60, on_progress=lambda _: None)
    save_file(build_backbone("test_resnet", pretrained=False, seed=1).network.state_dict(), tiny)
    network = ("--arch", "test_resnet", "--weights", tiny, "--size", 64)
    train = partial(command, "train", images, *network, *SMALL)
    if code := code_of(start(partial(train, "--out", run), place)):
        raise SystemExit(f"Training failed with code {code}.")
    model = run / "model.safetensors"

    def nothing(_: Path) -> None: ...

    def copy(folder: Path) -> None:
        shutil.copytree(run, folder / "reported")

    predict = partial(command, "predict", model, *[images] * 8, *SMALL, "--resume")
    tasks: dict[str, tuple[Callable[[], int], Callable[[Path], object]]] = {
        "train, CLI": (
            partial(
                go_on,
                partial(
                    train, "--epochs", 3, "--checkpoint-every", 0.02, "--resume", "--out", "run"
                ),
            ),
            nothing,
        ),
        "fit with EMA and MixUp": (partial(fit, images), nothing),
        "predict --csv": (partial(predict, "--csv", "out.csv"), nothing),
        "predict --jsonl": (partial(predict, "--jsonl", "out.jsonl"), nothing),
        "predict --parquet": (partial(predict, "--parquet", "out.parquet"), nothing),
        "export": (
            partial(command, "export", model, "--onnx", "m.onnx", "--torch", "m.pt2", "--force"),
            nothing,
        ),
        "report": (partial(command, "report", "reported", "--device", "cpu"), copy),
    }
    chosen = {name: task for name, task in tasks.items() if not options.names or any(word in name for word in options.names)}  # fmt: skip
    print(
        "| what | kills | rounds | same as undisturbed, nothing left over | seconds undisturbed |"
    )
    print("|---|---|---|---|---|")
    for number, (name, (work, prepare)) in enumerate(chosen.items()):
        inside = place / f"task-{number}"
        inside.mkdir()
        kills = -(-options.kills // len(chosen))
        chance = random.Random(f"{options.seed} {name}")
        print(f"| {name} | {disturb(work, prepare, kills=kills, chance=chance, place=inside)} |", flush=True)  # fmt: skip
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
