"""``vizsla train --resume``: a run that was killed, told to end, or is another one than it was."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from vizsla import Checkpoint
from vizsla.data import pack

if TYPE_CHECKING:
    from conftest import Done

    Train = Callable[..., Done]

NUM_STEPS = 8
"""Two epochs of 19 images in batches of 4."""
OPTIONS = ("--size", 64, "--epochs", 2, "--bs", 4, "--lr", 1e-3, "--device", "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def train(images: Path, vizsla: Callable[..., Done]) -> Train:
    """Return a function that trains into a folder with ``OPTIONS`` and what else is given."""

    def run(folder: Path, *words: object, data: Path = images) -> Done:
        return vizsla("train", data, *OPTIONS, "--out", folder, *words)

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = train(folder)
    assert (done.code, done.err) == (0, "")
    return folder


def train_until(
    step: int, number: int, *, folder: Path, train: Train, every: float
) -> tuple[int, dict[str, Any]]:
    """Train in a process that gets a signal after a step; return its status, and what it printed if it could."""
    printed = folder.with_name("printed.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which are not used
        child = os.fork()
    if not child:
        after_step = Checkpoint.after_step

        def then_signal(self: Checkpoint, fit: Any) -> None:
            after_step(self, fit)
            if fit.step == step:
                os.kill(os.getpid(), number)

        Checkpoint.after_step = then_signal
        try:
            done = train(folder, "--checkpoint-every", every)
            printed.write_text(json.dumps({"code": done.code, "out": done.out, "err": done.err}))
            os._exit(done.code)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    return status, json.loads(printed.read_text()) if printed.exists() else {}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def same_run(found: Path, expected: Path) -> None:
    """Compare model, figures and history of two run folders, bit for bit."""
    first, second = weights(found), weights(expected)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (found, expected))
    assert one["metrics"] == two["metrics"]
    assert one["facts"]["Recipe"] == two["facts"]["Recipe"]
    assert history(found) == history(expected)
    assert sorted(path.name for path in found.iterdir()) == sorted(
        path.name for path in expected.iterdir()
    )
    predictions = [(run / "predictions.csv").read_bytes() for run in (found, expected)]
    assert predictions[0] == predictions[1]


@pytest.mark.parametrize(
    ("step", "every", "goes_on_after"),
    [(2, 1e-3, 2), (6, 1e-3, 6), (7, 300, 4)],
    ids=["first epoch", "second epoch", "since the last epoch"],
)
def test_a_killed_run_ends_as_one_that_was_not(
    train: Train, whole: Path, tmp_path: Path, step: int, every: float, goes_on_after: int
):
    folder = tmp_path / "run"
    status, _ = train_until(step, signal.SIGKILL, folder=folder, train=train, every=every)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir()) == [".vizsla-lock", "checkpoint"]
    done = train(folder, "--resume")
    assert (done.code, done.err) == (0, "")
    assert f"Resuming after step {goes_on_after} of {NUM_STEPS}." in done.out
    same_run(folder, whole)


@pytest.mark.slow
def test_a_killed_run_on_shards_ends_as_one_that_was_not(
    images: Path, vizsla: Callable[..., Done], tmp_path: Path
):
    shards = pack(images, tmp_path / "shards", shard_mb=0.02).folder
    assert len(list(shards.glob("*.tar"))) > 2

    def train(folder: Path, *words: object) -> Done:
        return vizsla("train", shards, *OPTIONS, "--out", folder, *words)

    assert train(tmp_path / "whole").code == 0
    folder = tmp_path / "run"
    status, _ = train_until(6, signal.SIGKILL, folder=folder, train=train, every=1e-3)
    assert os.WTERMSIG(status) == signal.SIGKILL
    done = train(folder, "--resume")
    assert (done.code, done.err) == (0, "")
    assert f"Resuming after step 6 of {NUM_STEPS}." in done.out
    same_run(folder, tmp_path / "whole")


def test_a_run_that_is_told_to_end_says_how_to_go_on(train: Train, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    status, printed = train_until(5, signal.SIGTERM, folder=folder, train=train, every=300)
    assert os.WEXITSTATUS(status) == printed["code"] == 143
    last = printed["out"].splitlines()[-1]
    assert last.startswith(f"Stopped by a signal after step 6 of {NUM_STEPS}; the checkpoint is ")
    assert "--resume" in last
    done = train(folder, "--resume")
    assert (done.code, done.err) == (0, "")
    same_run(folder, whole)


@pytest.fixture(scope="module")
def cut_off_once(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    folder = tmp_path_factory.mktemp("cut_off") / "run"
    train_until(6, signal.SIGKILL, folder=folder, train=train, every=1e-3)
    return folder


@pytest.fixture
def cut_off(cut_off_once: Path, tmp_path: Path) -> Path:
    """The folder of a run that was killed in its second epoch."""
    return shutil.copytree(cut_off_once, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (("--size", 96), ["size: 64 then, 96 now", "presize: 83 then, 125 now"]),
        (("--lr", 1e-4), ["learning rate: 0.001 then, 0.0001 now"]),
        (("--epochs", 3, "--bs", 8), ["epochs: 2 then, 3 now", "batch size: 4 then, 8 now"]),
        (("--valid", 0.5), ["split: training or validation images have changed"]),
    ],
    ids=["size", "rate", "several", "split"],
)
def test_other_choices_are_refused_by_name(
    train: Train, cut_off: Path, options: tuple[Any, ...], differs: list[str]
):
    done = train(cut_off, *options, "--resume")
    assert done.code == 2
    for text in (*differs, "--force"):
        assert text in done.err
    assert [path.name for path in cut_off.iterdir()] == ["checkpoint"]


def test_force_goes_on_with_other_choices(train: Train, cut_off: Path):
    done = train(cut_off, "--bs", 8, "--epochs", 3, "--resume", "--force")
    assert (done.code, done.err) == (0, "")
    assert "Resuming despite differences: batch size: 4 then, 8 now" in done.out
    assert "Resuming after step 2 of 6." in done.out  # the first epoch of three is done
    assert [row["epoch"] for row in history(cut_off)][-3:] == ["1", "2", "3"]


def test_force_goes_on_with_other_images(
    train: Train, cut_off: Path, tmp_path: Path, draw_folder: Callable[..., Path]
):
    more = draw_folder(tmp_path / "images", per_class=20)
    refused = train(cut_off, "--resume", data=more)
    assert refused.code == 2
    assert "data: images or labels have changed" in refused.err
    done = train(cut_off, "--resume", "--force", data=more)
    assert (done.code, done.err) == (0, "")
    metrics = json.loads((cut_off / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["num_pictures"] == 8


def test_another_network_is_refused_even_by_force(train: Train, cut_off: Path):
    done = train(cut_off, "--arch", "resnet18", "--resume", "--force")
    assert done.code == 2
    assert "arch: efficientnet_lite0 then, resnet18 now" in done.err


def test_a_finished_run_is_not_trained_anew(train: Train, whole: Path, tmp_path: Path):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = train(folder, "--resume")
    assert done.code == 2
    assert f"nothing to resume in {folder}" in done.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_a_run_one_begins(train: Train, whole: Path, tmp_path: Path):
    done = train(tmp_path / "run", "--resume")
    assert (done.code, done.err) == (0, "")
    same_run(tmp_path / "run", whole)


def test_checkpoints_are_written_at_a_positive_interval(train: Train, tmp_path: Path):
    for seconds in ("0", "-1", "nan"):
        done = train(tmp_path / "run", "--checkpoint-every", seconds)
        assert done.code == 2
        assert "a positive number" in done.err
    assert list(tmp_path.iterdir()) == []
