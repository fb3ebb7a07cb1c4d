"""Promises about runs that are disturbed: full disks, killed processes, two runs in one place, images that change."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vizsla import Checkpoint, ModelFileError, OutputError, Resize, TrainConfig
from vizsla.data.cache import ImageCache
from vizsla.data.table import resolve_data
from vizsla.export import export_model
from vizsla.model_file import save_bundle
from vizsla.models import build_backbone
from vizsla.predict import Format, PathSource, PredictOptions, write_predictions
from vizsla.recipe import train_classifier
from vizsla.run import RunPlan, make_run_folder, read_all, rebuild_report, run_training
from vizsla.train import Display

if TYPE_CHECKING:
    from conftest import Done

    Vizsla = Callable[..., Done]

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of a tiny network."""
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(backbone.network.state_dict(), path)
    return path


@pytest.fixture
def plan(image_folder: Path, weights: Path) -> RunPlan:
    config = TrainConfig(
        arch="test_resnet", weights=str(weights), size=32, batch_size=8, epochs=3, device="cpu"
    )
    return RunPlan(title="Shapes", data="pictures", source=image_folder, config=config)


@pytest.fixture
def train(plan: RunPlan, image_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that trains into ``run``."""

    def run(**options: Any) -> Any:
        table = resolve_data(image_folder, seed=0)
        options = {"plan": plan, "out": tmp_path / "run", "display": QUIET} | options
        return run_training(table, **options)

    return run


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_model(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


class AfterEpoch(Display):
    """Does something once, after an end-to-end epoch."""

    def __init__(self, number: int, work: Callable[[], Any]) -> None:
        super().__init__(quiet=True)
        self.number = number
        self.work = work

    def row(self, cells: Any) -> None:
        if cells[0] == "end to end" and cells[2] == str(self.number):
            self.work()


# --- full disks, and places that cannot be written -----------------------------------------------------------------------


@pytest.fixture
def writers(
    tmp_path: Path, make_classifier: Any, make_image: Callable[..., Path]
) -> dict[str, Callable[[Path], object]]:
    """What writes a file, by name."""
    classifier = make_classifier(("cross", "disc"))
    image = make_image("in/a.png")
    model = save_bundle(image.with_suffix(".safetensors"), classifier=classifier, resize=Resize(32))

    def predict(form: Format) -> Callable[[Path], object]:
        source, options = (
            PathSource(paths=[image] * 40),
            PredictOptions(device="cpu", num_workers=1),
        )
        return lambda folder: write_predictions(
            model, source, file=folder / f"out.{form}", form=form, options=options, force=True
        )

    return {
        "model": lambda folder: save_bundle(
            folder / "model.safetensors", classifier=classifier, resize=Resize(32)
        ),
        "predict csv": predict(Format.csv),
        "predict jsonl": predict(Format.json),
    }


def test_a_full_disk_is_our_error_and_the_old_file_stays(
    writers: dict[str, Callable[[Path], object]], tmp_path: Path, full_disk: Any
):
    for name, write in writers.items():
        folder = tmp_path / "out"
        folder.mkdir()
        with full_disk(0), pytest.raises(OutputError):
            write(folder)
        assert names_in(folder) == [], name
        write(folder)
        before = contents(folder)
        with full_disk(1000), pytest.raises(OutputError, match="File too large") as caught:
            write(folder)
        assert str(folder) in str(caught.value), name
        left = contents(folder)
        assert left.items() >= before.items(), name
        assert all(".part" in path for path in left.keys() - before.keys()), name
        write(folder)
        assert contents(folder).keys() == before.keys(), name
        shutil.rmtree(folder)


@pytest.mark.slow
def test_an_export_to_a_full_disk_is_our_error(
    tmp_path: Path, make_classifier: Any, full_disk: Any
):
    """Torch itself ends the process when it writes to one."""
    classifier = make_classifier(("cross", "disc"))
    model = save_bundle(tmp_path / "m.safetensors", classifier=classifier, resize=Resize(32))
    places: tuple[dict[str, Any], ...] = (
        {"torch_program": tmp_path / "m.pt2"},
        {"onnx": tmp_path / "m.onnx"},
    )
    for how in places:
        with full_disk(1000), pytest.raises(OutputError, match="File too large"):
            export_model(model, **how)
        gc.collect()
    assert names_in(tmp_path) == ["m.safetensors"]


def test_a_vanished_folder_is_our_error(
    writers: dict[str, Callable[[Path], object]], tmp_path: Path
):
    for name, write in writers.items():
        with pytest.raises(OutputError, match=str(tmp_path / "gone")):
            write(tmp_path / "gone")
        assert not (tmp_path / "gone").exists(), name


def test_a_disk_cache_that_is_full_only_stops_growing(
    image_folder: Path,
    tmp_path: Path,
    full_disk: Any,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path / "home"))
    cache = ImageCache(mode="disk")
    table = resolve_data(image_folder, seed=0)
    with full_disk(1000):
        read_all(table, plan=plan, cache=cache, display=QUIET)
    assert "storing stopped: File too large" in cache.describe()
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_run_outlives_a_full_disk(train: Any, plan: RunPlan, tmp_path: Path, full_disk: Any):
    whole = train(out=tmp_path / "whole")
    with warnings.catch_warnings(record=True) as shown, full_disk(1000):
        warnings.simplefilter("always")
        with pytest.raises(OutputError) as caught:
            train(checkpoint_seconds=1e-3)
    assert sum("Training continues" in str(each.message) for each in shown) >= 3
    assert "There is no earlier one to resume from" in str(shown[-1].message)
    assert str(tmp_path / "run") in str(caught.value)
    assert not (tmp_path / "run").exists()

    # Once there was a checkpoint, it stays, and a later run goes on from it.
    with warnings.catch_warnings():
        stack = ExitStack()
        warnings.simplefilter("ignore")
        full = AfterEpoch(2, lambda: stack.enter_context(full_disk(1000)))
        with stack, pytest.raises(OutputError, match="--resume"):
            train(display=full)
    assert names_in(tmp_path / "run") == ["checkpoint"]
    train(resume=True)
    assert same_model(tmp_path / "run", whole.folder)


# --- before the first image is read ----------------------------------------------------------------------------------


def test_what_can_be_refused_is_refused_together_and_before_the_images(
    vizsla: Vizsla, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for path in image_folder.rglob("*.jpg"):
        path.write_text(f"{path} is no image, which would be found by reading it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "file").touch()
    done = vizsla("train", image_folder, "--arch", "resnet50", "--out", tmp_path / "file" / "run")
    assert done.code == 2
    for fact in ("2 problems", f"{tmp_path / 'file'}", "resnet50", "HF_HUB_OFFLINE"):
        assert fact in done.err
    assert "no image" not in done.err
    done = vizsla("train", image_folder, "--arch", "resnet51", "--device", "mps")
    assert all(fact in done.err for fact in ("2 problems", "resnet51", "mps"))
    done = vizsla(
        "train", image_folder, "--weights", tmp_path / "none.pth", "--out", tmp_path / "a"
    )
    assert (done.code, "none.pth" in done.err) == (2, True)
    assert names_in(tmp_path) == ["file", "pictures"]


def test_results_that_exist_are_refused_or_numbered_at_once(
    vizsla: Vizsla, image_folder: Path, here: Path, make_classifier: Any
):
    run = here / "run"
    run.mkdir()
    save_bundle(
        run / "model.safetensors", classifier=make_classifier(("a", "b")), resize=Resize(32)
    )
    for name in ("out.csv", "m.onnx", "m.pt2", "m.bin", "g.golden.npz", "run/predictions.csv"):
        (here / name).write_text("mine")
    before = contents(here)
    for words, fact in (
        (("predict", run, image_folder, "--csv", "out.csv"), "'out.csv' exists"),
        (
            ("predict", run, image_folder, "--csv", "run/predictions.csv", "--force"),
            "belongs to the run in",
        ),
        (("predict", run, image_folder, "--csv", "run/metrics.json"), "belongs to the run in"),
        (("export", run, "--onnx", "m.onnx"), "m.onnx exists"),
        (("export", run, "--onnx", "g.onnx"), "g.golden.npz exists"),
        (("export", run, "--torch", "m.pt2"), "m.pt2 exists"),
        (("export", run, "--openvino", "m.xml"), "m.bin exists"),
        (("export", run, "--space", "run", "--force"), "run exists"),
        (("export", run, "--docker", "none/docker"), "no folder none"),
        (("export", run, "--torch", "run/model.safetensors", "--force"), "belongs to the run in"),
        (("export", run, "--torch", "none/m.pt2"), "no folder none"),
    ):
        done = vizsla(*words)
        assert (done.code, done.out) == (2, ""), words
        assert fact in done.err, words
    assert contents(here) == before
    done = vizsla("predict", run, image_folder, "--csv", "out.csv", "--force", "--device", "cpu")
    assert done.code == 0
    assert (here / "out.csv").read_text("utf-8").startswith("path,")


# --- two runs, and runs that were killed -----------------------------------------------------------------------------


def test_a_second_run_into_one_place_is_refused_and_named(train: Any, tmp_path: Path):
    refused: list[str] = []

    def go_on_too() -> None:
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputError) as caught:
                train(**how)
            refused.append(str(caught.value))

    train(display=AfterEpoch(2, go_on_too))
    assert len(refused) == 2
    assert all(f"process {os.getpid()} on " in text for text in refused)
    assert [name for name in names_in(tmp_path / "run") if name.startswith(".")] == []
    with (
        make_run_folder(tmp_path / "run", force=True),
        pytest.raises(OutputError, match="Another process"),
    ):
        rebuild_report(tmp_path / "run", display=QUIET)


def test_a_checkpoint_that_vanishes_does_not_lose_the_head(train: Any, tmp_path: Path):
    """As when another process had finished the run meanwhile, and removed its checkpoint."""
    whole = train(out=tmp_path / "whole")
    checkpoint = tmp_path / "run" / "checkpoint" / "checkpoint.safetensors"

    def stop() -> None:
        raise KeyboardInterrupt

    assert train(display=AfterEpoch(2, stop)).interrupted
    (tmp_path / "run" / "model.safetensors").unlink()

    class Vanish(Display):
        def bar(self, label: str, **options: Any) -> Any:
            checkpoint.unlink(missing_ok=True)  # when images are read, after the checkpoint
            return super().bar(label, **options)

    train(resume=True, display=Vanish(quiet=True))
    assert same_model(tmp_path / "run", whole.folder)


@pytest.mark.slow
def test_epochs_without_the_fitted_head_are_refused(train: Any, plan: RunPlan, tmp_path: Path):
    def stop() -> None:
        raise KeyboardInterrupt

    train(display=AfterEpoch(2, stop))

    class Forgetful(Checkpoint):
        def before_fit(self, fit: Any) -> None:
            pass

    with pytest.raises(ModelFileError, match="fitted head"):
        train_classifier(
            resolve_data(tmp_path / "pictures", seed=0),
            config=plan.config,
            display=QUIET,
            checkpoint=Forgetful(tmp_path / "run" / "checkpoint", resume=True),
        )


# --- images that change while training -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["gone", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a folder", "cut off"))],
)
def test_an_image_that_is_gone_or_damaged_ends_the_epochs_with_the_best_state(
    train: Any, image_folder: Path, tmp_path: Path, run_files: list[str], change: str
):
    path = sorted(image_folder.rglob("*.jpg"))[3]
    facts, content = path.stat(), path.read_bytes()

    def disturb() -> None:
        path.unlink()
        if change == "a folder":
            path.mkdir()
        elif change == "cut off":
            path.write_bytes(content[: len(content) // 2])

    done = train(display=AfterEpoch(1, disturb))
    assert path.name in done.problem
    assert "best state so far is kept" in done.problem
    assert names_in(tmp_path / "run") == sorted(["checkpoint", *run_files])
    if path.is_dir():
        path.rmdir()
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    again = train(resume=True)
    assert (again.problem, names_in(tmp_path / "run")) == ("", run_files)
    assert same_model(tmp_path / "run", train(out=tmp_path / "whole").folder)


# --- signals ---------------------------------------------------------------------------------------------------------


SIGNALS_ITSELF = """
import json, os, sys
from vizsla.cli.app import main
waiting, number = json.loads(sys.argv.pop(1)), int(sys.argv.pop(1))
def hook(event, arguments):
    if event == "open" and waiting and str(arguments[0]).endswith(waiting[0].lstrip("+")):
        if waiting[0].startswith("+"):  # the next one
            waiting[0] = waiting[0][1:]
        else:
            waiting.pop(0)
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
main()
"""


def signalled(*words: object, at: Sequence[str], number: int) -> tuple[int, str]:
    """Run a command that signals itself when it opens files whose names end so, one after the other.

    Returns:
        Its exit code, and what it wrote to standard error.
    """
    command = [sys.executable, "-c", SIGNALS_ITSELF, json.dumps(at), number, *words]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=250)  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sends signals")
def test_a_signal_in_each_phase_leaves_nothing_half_done(
    vizsla: Vizsla, image_folder: Path, here: Path, weights: Path, run_files: list[str]
):
    small = ("--arch", "test_resnet", "--weights", weights, "--device", "cpu", "--size", 32, "--bs", 8)  # fmt: skip
    train = ("train", image_folder, *small, "--out", "run")
    epochs = ("--epochs", 3, "--checkpoint-every", 1e-3)
    for at, options, left, words in (
        (["tiny.safetensors"], (), [], "Told to end."),
        ([".jpg"], (), [], "nothing was written"),
        ([".part.csv"], (), ["unfinished"], "some files are missing"),
        ([".part.html"], epochs, ["checkpoint", "unfinished"], "Continue with --resume"),
    ):
        code, said = signalled(*train, *options, at=at, number=signal.SIGTERM)
        assert (code, words in said) == (143, True), (at, said)
        found = names_in(here / "run") if left else []
        assert [name.partition("-")[0] for name in found] == left, at
        assert (here / "run").exists() == bool(left), at
        shutil.rmtree(here / "run", ignore_errors=True)
    # Ctrl-C saves the best state, and again while that is written: the checkpoint is there to go on from.
    twice = ["+++++.part.safetensors", ".part.csv"]
    code, said = signalled(*train, *epochs, at=twice, number=signal.SIGINT)
    assert (code, "Continue with --resume" in said) == (130, True), said
    assert vizsla(*train, *epochs, "--resume").code == 0
    shutil.rmtree(next((here / "run").glob("unfinished-*")))
    assert names_in(here / "run") == run_files

    report = (here / "run" / "report.html").read_bytes()
    for command, at, words in (
        (("report", "run"), ".part.html", "Told to end"),
        (("export", "run", "--torch", "m.pt2"), ".part.pt2", "Told to end"),
        (
            ("predict", "run", image_folder, "--csv", "out.csv"),
            "out.csv.part",
            "continue with --resume",
        ),
    ):
        code, said = signalled(*command, at=[at], number=signal.SIGTERM)
        assert (code, words in said) == (143, True), said
    assert names_in(here / "run") == run_files
    assert (here / "run" / "report.html").read_bytes() == report
    assert vizsla("predict", "run", image_folder, "--csv", "out.csv", "--resume").code == 0
    assert names_in(here) == ["out.csv", "pictures", "run"]
