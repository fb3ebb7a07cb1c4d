"""``vizsla train --resume``: a run that was killed, told to end, or is another one than it was."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from vizsla import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done
    from PIL import Image

    RunVizsla = Callable[..., Done]

NUM_STEPS = 8
"""Two epochs of 19 pictures in batches of 4."""
OPTIONS = ("--size", 64, "--epochs", 2, "--bs", 4, "--lr", 1e-3, "--device", "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for label in ("cross", "disc"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            draw(label, number=number).save(folder / label / f"{label}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory, vizsla: RunVizsla) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = vizsla("train", pictures, *OPTIONS, "--out", folder)
    assert (done.code, done.err) == (0, "")
    return folder


def train_until(
    step: int, number: int, *, folder: Path, pictures: Path, vizsla: RunVizsla, every: float
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
            done = vizsla("train", pictures, *OPTIONS, "--out", folder, "--checkpoint-every", every)
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
    pictures: Path,
    whole: Path,
    tmp_path: Path,
    vizsla: RunVizsla,
    step: int,
    every: float,
    goes_on_after: int,
):
    folder = tmp_path / "run"
    status, _ = train_until(
        step, signal.SIGKILL, folder=folder, pictures=pictures, vizsla=vizsla, every=every
    )
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
    done = vizsla("train", pictures, *OPTIONS, "--out", folder, "--resume")
    assert (done.code, done.err) == (0, "")
    assert f"Going on after step {goes_on_after} of {NUM_STEPS}." in done.out
    same_run(folder, whole)


def test_a_run_that_is_told_to_end_says_how_to_go_on(
    pictures: Path, whole: Path, tmp_path: Path, vizsla: RunVizsla
):
    folder = tmp_path / "run"
    status, printed = train_until(
        5, signal.SIGTERM, folder=folder, pictures=pictures, vizsla=vizsla, every=300
    )
    assert os.WEXITSTATUS(status) == printed["code"] == 143
    last = printed["out"].splitlines()[-1]
    assert last.startswith(f"Told to end after step 6 of {NUM_STEPS}; the state is in ")
    assert "--resume" in last
    done = vizsla("train", pictures, *OPTIONS, "--out", folder, "--resume")
    assert (done.code, done.err) == (0, "")
    same_run(folder, whole)


@pytest.fixture(scope="module")
def cut_off(pictures: Path, tmp_path_factory: pytest.TempPathFactory, vizsla: RunVizsla) -> Path:
    """The folder of a run that was killed in its second epoch; copy it."""
    folder = tmp_path_factory.mktemp("cut_off") / "run"
    train_until(6, signal.SIGKILL, folder=folder, pictures=pictures, vizsla=vizsla, every=1e-3)
    return folder


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (("--size", 96), ["size: 64 then, 96 now", "presize: 83 then, 125 now"]),
        (("--lr", 1e-4), ["learning rate: 0.001 then, 0.0001 now"]),
        (("--epochs", 3, "--bs", 8), ["epochs: 2 then, 3 now", "batch size: 4 then, 8 now"]),
        (("--valid", 0.5), ["split: other training or validation images than then"]),
    ],
    ids=["size", "rate", "several", "split"],
)
def test_other_choices_are_refused_by_name(
    pictures: Path,
    cut_off: Path,
    tmp_path: Path,
    vizsla: RunVizsla,
    options: tuple[Any, ...],
    differs: list[str],
):
    folder = shutil.copytree(cut_off, tmp_path / "run")
    done = vizsla("train", pictures, *OPTIONS, *options, "--out", folder, "--resume")
    assert done.code == 2
    assert "was another one. What differs: " in done.err
    for text in differs:
        assert text in done.err
    assert "--force" in done.err
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]


def test_force_goes_on_with_other_choices(
    pictures: Path, cut_off: Path, tmp_path: Path, vizsla: RunVizsla
):
    folder = shutil.copytree(cut_off, tmp_path / "run")
    options = ("--bs", 8, "--epochs", 3, "--out", folder)
    done = vizsla("train", pictures, *OPTIONS, *options, "--resume", "--force")
    assert (done.code, done.err) == (0, "")
    assert "Going on although something differs: batch size: 4 then, 8 now" in done.out
    assert "Going on after step 2 of 6." in done.out  # the first epoch of three is done
    assert [row["epoch"] for row in history(folder)][-3:] == ["1", "2", "3"]


def test_force_goes_on_with_other_pictures(
    pictures: Path,
    cut_off: Path,
    tmp_path: Path,
    vizsla: RunVizsla,
    draw: Callable[..., Image.Image],
):
    more = shutil.copytree(pictures, tmp_path / "pictures")
    for label in ("cross", "disc"):
        for number in range(12, 20):
            draw(label, number=number).save(more / label / f"{label}_{number}.png")
    folder = shutil.copytree(cut_off, tmp_path / "run")
    refused = vizsla("train", more, *OPTIONS, "--out", folder, "--resume")
    assert refused.code == 2
    assert "data: other images or labels than then" in refused.err
    done = vizsla("train", more, *OPTIONS, "--out", folder, "--resume", "--force")
    assert (done.code, done.err) == (0, "")
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["num_pictures"] == 8


def test_another_network_is_refused_even_by_force(
    pictures: Path, cut_off: Path, tmp_path: Path, vizsla: RunVizsla
):
    folder = shutil.copytree(cut_off, tmp_path / "run")
    words = ("train", pictures, *OPTIONS, "--arch", "resnet18", "--out", folder)
    done = vizsla(*words, "--resume", "--force")
    assert done.code == 2
    assert "arch: efficientnet_lite0 then, resnet18 now" in done.err


def test_a_finished_run_is_not_trained_anew(
    pictures: Path, whole: Path, tmp_path: Path, vizsla: RunVizsla
):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = vizsla("train", pictures, *OPTIONS, "--out", folder, "--resume")
    assert done.code == 2
    assert done.err.startswith(f"vizsla: There is nothing to go on with in {folder}: its model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_without_a_run_one_begins(pictures: Path, whole: Path, tmp_path: Path, vizsla: RunVizsla):
    done = vizsla("train", pictures, *OPTIONS, "--out", tmp_path / "run", "--resume")
    assert (done.code, done.err) == (0, "")
    same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_checkpoints_are_written_at_a_positive_interval(
    pictures: Path, tmp_path: Path, vizsla: RunVizsla, seconds: str
):
    done = vizsla(
        "train", pictures, *OPTIONS, "--out", tmp_path / "run", "--checkpoint-every", seconds
    )
    assert done.code == 2
    assert "a positive number" in done.err
    assert list(tmp_path.iterdir()) == []
