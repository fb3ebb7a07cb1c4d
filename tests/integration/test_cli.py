"""The command line from end to end on small real images: train, look at the run folder, predict in all three forms, check."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

import vizsla as package
from vizsla import SuggestedLRs
from vizsla.cli.app import COMMANDS
from vizsla.model_file import read_manifest
from vizsla.train.rates import RobustRate, describe

if TYPE_CHECKING:
    from conftest import Done

    RunVizsla = Callable[..., Done]

LABELS = ("cross", "disc")


@pytest.fixture(scope="module")
def workbench(
    tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path], vizsla: RunVizsla
) -> tuple[Path, Done]:
    """A folder with ``pictures/{cross,disc}/`` and the run ``run/`` that was trained on them, and what that printed."""
    folder = tmp_path_factory.mktemp("workbench")
    images = draw_folder(folder / "pictures")
    done = vizsla("train", images, "--size", "64", "--out", folder / "run")
    return folder, done


@pytest.fixture(scope="module")
def pictures(workbench: tuple[Path, Done]) -> Path:
    return workbench[0] / "pictures"


@pytest.fixture(scope="module")
def run(workbench: tuple[Path, Done]) -> Path:
    return workbench[0] / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return run / "model.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# --- train -----------------------------------------------------------------------------------------------------------


def test_train_prints_what_it_does_and_where_the_results_are(workbench: tuple[Path, Done]):
    folder, done = workbench
    assert (done.code, done.err) == (0, "")
    first, drawn, *lines = done.out.splitlines()
    assert str(folder / "pictures") in first  # before torch is imported
    *lines, predict, serve, label = lines
    for line, command in ((predict, "predict"), (serve, "serve"), (label, "label")):
        assert f"vizsla {command} {folder / 'run'}" in line
    assert drawn == "validation: 20% of each class, drawn with seed 0"
    assert lines[0] == "19 images to learn from, 5 to validate on, 2 classes"
    assert lines[1] == "24 images are smaller than 64 x 64 pixels and will be enlarged."
    assert lines[2].startswith("cache auto: 24 images")
    assert lines[3].startswith("Features of 24 images: ")
    assert lines[4].split() == ["images", "used", "accuracy", "loss"]
    assert [line.split()[0] for line in lines[5:9]] == ["2", "5", "10", "19"]
    told = [line for line in lines if line.startswith("Data: ")]
    # The size of the file tells crosses from discs.
    assert "of the images are classified correctly" in told[0]
    assert lines[-4 - len(told)].startswith(
        "Probabilities: calibrated when the head was fitted; checking them takes at least 10 "
    )
    assert lines[-2].startswith("Validation accuracy ")
    assert lines[-2].endswith("(5 images)")
    assert lines[-1] == f"Results: {folder / 'run'}/  (open {folder / 'run' / 'report.html'})"


def test_a_run_folder_has_metrics_and_choices(run: Path, pictures: Path, run_files: list[str]):
    assert sorted(contents(run)) == run_files
    written = json.loads((run / "metrics.json").read_text("utf-8"))
    for name, metric in written["metrics"].items():
        assert metric["name"] == name
        assert metric["num_pictures"] == 5
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert {"accuracy", "error_rate", "log_loss", "balanced_accuracy"} <= set(written["metrics"])
    assert written["metrics"]["accuracy"]["value"] >= 0.8
    assert written["interrupted"] is False
    assert written["facts"]["Data"] == str(pictures)
    assert written["facts"]["Classes"] == "2: cross, disc"
    choices = tomllib.loads((run / "config.toml").read_text("utf-8"))
    expected = {"data": str(pictures.resolve()), "labels": "auto", "arch": "efficientnet_lite0"}
    assert choices.items() >= expected.items()
    assert (choices["size"], choices["seed"], choices["learning_rate"]) == (64, 0, 1e-4)


def test_predictions_and_history_have_their_rows(run: Path, pictures: Path):
    rows = csv_rows((run / "predictions.csv").read_text("utf-8"))
    assert len(rows) == 5
    for row in rows:
        assert (pictures / row["path"]).is_file()
        assert row["label"] == Path(row["path"]).parent.name
        assert float(row[f"prob_{row['prediction']}"]) == float(row["probability"])
    rows = csv_rows((run / "history.csv").read_text("utf-8"))
    assert [(row["stage"], row["num_pictures"]) for row in rows] == [
        *(("head", "2"), ("head", "5"), ("head", "10"), ("head", "19"))
    ]


def test_the_model_file_has_the_metrics_and_the_digest_of_the_data(model: Path, run: Path):
    manifest = read_manifest(model)
    written = json.loads((run / "metrics.json").read_text("utf-8"))["metrics"]
    assert manifest.vocab == LABELS
    assert len(manifest.data_fingerprint) == 64
    assert {metric.name: metric.value for metric in manifest.metrics} == {
        name: metric["value"] for name, metric in written.items()
    }


def test_a_second_run_takes_the_next_name_unless_forced(
    vizsla: RunVizsla,
    run: Path,
    pictures: Path,
    here: Path,
    run_files: list[str],
):
    first = here / "runs" / "pictures"
    shutil.copytree(run, first)
    (first / "notes.txt").write_text("mine")
    earlier = contents(first)

    second = vizsla("train", pictures, "--size", "48")
    assert (second.code, second.err) == (0, "")
    assert "Results: runs/pictures-2/" in second.out
    assert sorted(contents(here / "runs" / "pictures-2")) == run_files
    assert contents(first) == earlier

    third = vizsla("train", pictures, "--size", "48", "--force")
    assert "Results: runs/pictures/" in third.out
    replaced = contents(first)
    assert sorted(replaced) == sorted([*run_files, "notes.txt"])
    assert replaced["notes.txt"] == b"mine"
    assert all(replaced[name] != earlier[name] for name in ("config.toml", "model.safetensors"))
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["pictures", "pictures-2"]


def test_labels_come_from_a_regex_or_a_csv_file(vizsla: RunVizsla, pictures: Path, tmp_path: Path):
    flat = tmp_path / "flat"
    flat.mkdir()
    files = sorted(pictures.rglob("*.png"))
    for file in files:
        shutil.copy(file, flat)
    table = tmp_path / "labels.csv"
    rows = [f"{number},{file.parent.name},{file.stem}" for number, file in enumerate(files)]
    table.write_text("\n".join(["id,what,which", *rows]), "utf-8")
    common = ("--size", "48", "--out")
    by_regex = vizsla("train", flat, "--labels", r"regex:^(.+)_\d+\.png$", *common, tmp_path / "a")
    by_csv = vizsla(
        *("train", flat, "--labels", f"csv:{table},image=which,label=what", *common, tmp_path / "b")
    )
    for done, folder in ((by_regex, tmp_path / "a"), (by_csv, tmp_path / "b")):
        assert (done.code, done.err) == (0, "")
        assert read_manifest(folder / "model.safetensors").vocab == LABELS
        for row in csv_rows((folder / "predictions.csv").read_text("utf-8")):
            assert row["path"].startswith(row["label"])


def test_a_csv_file_says_what_is_held_out(vizsla: RunVizsla, pictures: Path, tmp_path: Path):
    shutil.copytree(pictures, tmp_path / "pictures")
    rows = [
        f"pictures/{label}/{label}_{number}.png,{label},{number >= 9}"
        for label in LABELS
        for number in range(12)
    ]
    table = tmp_path / "pets.csv"
    table.write_text("\n".join(["path,label,is_valid", *rows]), "utf-8")
    done = vizsla("train", table, "--size", "48", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    held_out = csv_rows((tmp_path / "run" / "predictions.csv").read_text("utf-8"))
    assert sorted(row["path"] for row in held_out) == sorted(
        f"pictures/{label}/{label}_{number}.png" for label in LABELS for number in (9, 10, 11)
    )


@pytest.mark.parametrize(
    ("words", "metric", "answer"),
    [
        ("label=tags,delimiter=;", "exact_match", ["cross", "plain"]),
        ("label=score,kind=number", "mae", None),
    ],
)
def test_several_labels_and_numbers_go_all_the_way(
    vizsla: RunVizsla, pictures: Path, tmp_path: Path, words: str, metric: str, answer: object
):
    rows = [
        f"{label}/{label}_{number}.png,{label}{';plain' * (label == 'cross')},{3.0 + (label == 'disc')},p{number // 2}"
        for label in LABELS
        for number in range(12)
    ]
    table, run = tmp_path / "labels.csv", tmp_path / "run"
    table.write_text("\n".join(["file,tags,score,patient", *rows]), "utf-8")
    where = ("--labels", f"csv:{table},{words},group=patient")
    done = vizsla("train", pictures, *where, "--size", "48", "--epochs", "1", "--out", run)
    assert (done.code, done.err) == (0, "")
    assert metric.replace("_", " ") in done.out
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))["metrics"]
    assert next(iter(metrics)) == metric
    held_out = csv_rows((run / "predictions.csv").read_text("utf-8"))
    numbers = {row["path"].split("_")[-1] for row in held_out}
    assert all(
        {f"{n // 2 * 2}.png", f"{n // 2 * 2 + 1}.png"} <= numbers
        for n in [int(name[:-4]) for name in numbers]
    )
    image = pictures / "cross" / "cross_0.png"
    said = json.loads(vizsla("predict", run, image, "--json").out)["prediction"]
    assert said == answer if answer else abs(said["score"] - 3) < 0.5
    cut = ("--threshold", "cross=0.0", "--threshold", "disc=0", "--threshold", "plain=1.0")
    done = vizsla("predict", run, image, "--json", *cut)
    if answer:
        assert json.loads(done.out)["prediction"] == ["cross", "disc"]
        done = vizsla("predict", run, image, "--csv", tmp_path / "a.csv", "--threshold", "1")
        assert csv_rows((tmp_path / "a.csv").read_text("utf-8"))[0]["prediction"] == ""
    assert done.code == (0 if answer else 2)
    (run / "report.html").unlink()
    assert vizsla("report", run).code == 0
    assert metrics.keys() == json.loads((run / "metrics.json").read_text("utf-8"))["metrics"].keys()
    # Without the images that it was trained on, the validation images are left; the run's figures are those of the state kept.
    judged = json.loads(
        vizsla("evaluate", run, pictures, *where[:1], f"csv:{table},{words}", "--json").out
    )
    assert judged["metrics"][metric]["value"] == pytest.approx(metrics[metric]["value"], abs=1e-4)
    assert f"skipped {24 - len(held_out)} images" in judged["notes"][-1]
    said = vizsla("evaluate", run, pictures, "--labels", f"csv:{table},{words}").out
    assert f"{metric.replace('_', ' ')} " in said
    assert ("\nplain " in said) == bool(answer)
    assert ("\nstated " in said) == bool(answer)
    counts = json.loads(vizsla("check", pictures, *where, "--json").out)
    assert [one["label"] for one in counts["classes"] or counts["numbers"]] == (
        ["cross", "disc", "plain"] if answer else ["score"]
    )


def test_options_that_cannot_work_are_refused_first(vizsla: RunVizsla):
    for option, value, named in (
        ("--epochs", "some", "--epochs"),
        ("--epochs", "-1", "epochs"),
        ("--presize", "20", "presize"),
        ("--bs", "0", "--bs"),
        ("--lr", "nan", "--lr"),
        ("--precision", "fp8", "--precision"),
        ("--device", "tpu", "device"),
        ("--cache", "disc", "--cache"),
        ("--cache-budget", "lots", "--cache-budget"),
        *(("--threshold", word, "threshold") for word in ("f2", "1.5", "precision:0", "much")),
        ("--sizee", "64", "--size"),  # what was meant
    ):
        done = vizsla("train", "no-such-folder", "--size", "64", option, value)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("vizsla: ")
        assert named in done.err
        assert value in done.err or option == "--sizee"
    for words, named in (
        ("bench --labels regex:(.)", "DATA"),
        ("serve m.safetensors --data x", "--run"),
        ("predict m.safetensors x.jpg --null", "--null"),
        ("train x --cache off --cache-budget 1GB", "--cache-budget"),
    ):
        done = vizsla(*words.split())
        assert (done.code, named in done.err) == (2, True), done.err


def test_the_choices_of_a_run_train_another_one(
    vizsla: RunVizsla, run: Path, pictures: Path, here: Path
):
    done = vizsla("train", "--config", run / "config.toml", "--seed", "5", "--out", "again")
    assert (done.code, done.err) == (0, "")
    first, second = (
        tomllib.loads((folder / "config.toml").read_text("utf-8"))
        for folder in (run, here / "again")
    )
    assert second.pop("data_from_here") != first.pop("data_from_here")
    assert second == {**first, "seed": 5}
    # Labels of a table in the data are those of that table, whatever lies where the command is run.
    data = here / "project" / "data"
    shutil.copytree(pictures, data)
    rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.rglob("*.png"))]
    (data / "labels.csv").write_text("\n".join(["image,label", *rows]), "utf-8")
    words = ("--labels", f"csv:{data / 'labels.csv'}", "--size", "48", "--out", "project/run")
    assert vizsla("train", data, *words).code == 0
    (here / "labels.csv").write_text("image,label\nnone.png,other\n", "utf-8")
    (here / "project").rename(here / "copied")
    moved = vizsla("train", "--config", "copied/run/config.toml", "--out", "moved")
    assert (moved.code, moved.err) == (0, "")
    assert "19 images to learn from, 5 to validate on, 2 classes" in moved.out
    (here / "odd.toml").write_text("sizee = 3")
    odd = vizsla("train", pictures, "--config", "odd.toml")
    assert odd.code == 2
    assert "sizee" in odd.err
    assert "odd.toml" in odd.err


def test_a_missing_device_is_refused(vizsla: RunVizsla, model: Path, pictures: Path):
    absent = "mps" if torch.cuda.is_available() or sys.platform == "linux" else "cuda"
    commands = (
        ("train", pictures),
        ("train", pictures, "--arch", "auto"),
        ("predict", model, pictures),
    )
    for words in commands:
        done = vizsla(*words, "--device", absent)
        assert done.code == 2
        assert done.err.startswith("vizsla: ")
        assert absent in done.err
        assert "--device" in done.err


# --- find-lr -----------------------------------------------------------------------------------------------------------


def test_find_lr_prints_and_draws_rates(here: Path, image_folder: Path, vizsla: RunVizsla):
    words = ("find-lr", image_folder, "--size", 32, "--bs", 8, "--steps", 20, "--device", "cpu")
    done = vizsla(*words)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[1] == "19 images to learn from, 5 to validate on, 2 classes"
    names = [line.split()[0] for line in lines[lines.index("") + 1 :] if line]
    assert names[:5] == ["robust", "valley", "slide", "steep", "minimum"]
    assert lines[-1] == "Plot: pictures-learning-rate.png"
    with Image.open(here / "pictures-learning-rate.png") as plot:
        assert plot.format == "PNG"
    assert sorted(path.name for path in here.iterdir()) == [
        "pictures",
        "pictures-learning-rate.png",
    ]


def test_find_lr_needs_a_place_for_its_plot(tmp_path: Path, image_folder: Path, vizsla: RunVizsla):
    done = vizsla("find-lr", image_folder, "--out", tmp_path / "nowhere" / "lr.png")
    assert done.code == 2
    assert f"Cannot write {tmp_path / 'nowhere' / 'lr.png'}" in done.err
    assert done.out == ""


def test_the_robust_rate_is_shown_with_its_range_or_its_absence():
    safe = RobustRate(value=1e-4, low=2e-5, high=7e-4, num_runs=3)
    rates = {"robust": (1e-4, (1e-4, 0.5)), "valley": (3e-5, (3e-5, 0.6))}
    assert describe(SuggestedLRs(rates, unpacked=(), robust_rate=safe)) == (
        "robust    1.00e-04  safe from 2.00e-05 to 7.00e-04 in 3 runs",
        "valley    3.00e-05",
    )
    none = RobustRate(reason="No safe learning rate was found: mine.", num_runs=3)
    rates = {"robust": (math.nan, (math.nan, math.nan))}
    suggested = SuggestedLRs(rates, unpacked=(), note=none.reason, robust_rate=none)
    assert describe(suggested) == ("robust    none", "No safe learning rate was found: mine.")


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict_agrees_with_the_run(vizsla: RunVizsla, model: Path, run: Path, pictures: Path):
    written = csv_rows((run / "predictions.csv").read_text("utf-8"))
    done = vizsla("predict", model, *(pictures / row["path"] for row in written), "--csv", "-")
    assert (done.code, done.err) == (0, "")
    said = csv_rows(done.out)
    assert [row["path"] for row in said] == [str(pictures / row["path"]) for row in written]
    for row, expected in zip(said, written, strict=True):
        assert row["prediction"] == expected["prediction"]
        for column in ("probability", "prob_cross", "prob_disc"):
            assert float(row[column]) == pytest.approx(float(expected[column]), abs=2e-5)


def test_evaluate_judges_images_that_the_run_was_not_trained_on(
    vizsla: RunVizsla, model: Path, run: Path, pictures: Path, tmp_path: Path
):
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))["metrics"]
    done = vizsla("evaluate", run, pictures, "--csv", tmp_path / "said.csv")
    assert (done.code, done.err) == (0, "")
    assert f"{metrics['accuracy']['value']:.4f}" in done.out
    kept = [row["path"] for row in csv_rows((tmp_path / "said.csv").read_text("utf-8"))]
    assert kept == sorted(
        row["path"] for row in csv_rows((run / "predictions.csv").read_text("utf-8"))
    )
    compared = json.loads(vizsla("compare", run, tmp_path / "said.csv", "--json").out)
    assert (compared["difference"], compared["can_be_told_apart"]) == (0, False)
    assert compared["sentence"] in vizsla("compare", run, tmp_path / "said.csv").out
    assert vizsla("compare", run, tmp_path / "nothing.csv").code == 2
    assert vizsla("evaluate", run, pictures, "--part", "test").code == 2  # there is none
    test = tmp_path / "data" / "test"
    shutil.copytree(pictures, test)
    shutil.copytree(pictures, tmp_path / "data" / "train")
    (test / "disc" / "broken.png").write_text("Dear diary")
    done = vizsla("evaluate", model, tmp_path / "data", "--json")
    found = json.loads(done.out)
    assert (done.code, [*found["unreadable"]]) == (2, ["test/disc/broken.png"])
    assert [one["support"] for one in found["classes"]] == [12, 12]
    assert sum(one["num_answers"] for one in found["reliability"]) == 24
    wrong = round(24 * found["metrics"]["error_rate"]["value"])
    assert len(found["mistakes"]) == min(10, wrong)
    done = vizsla(
        "train", tmp_path / "data", "--size", "48", "--out", tmp_path / "run", "--on-bad", "skip"
    )
    assert (
        f"25 labelled images in neither set. To evaluate the model on them: vizsla evaluate {tmp_path / 'run'} {tmp_path / 'data'}\n"
        in done.out
    )
    shutil.copytree(test / "disc", test / "fox")
    done = vizsla("evaluate", model, tmp_path / "data")
    assert (done.code, done.out) == (2, "")
    assert "fox/disc_0.png" in done.err
    assert "'cross', 'disc'" in done.err
    assert (
        vizsla("evaluate", model, pictures, "--labels", "csv:x.csv,label=x,kind=number").code == 2
    )


def test_predict_keeps_the_order_given(vizsla: RunVizsla, model: Path, pictures: Path):
    single = pictures / "disc" / "disc_7.png"
    done = vizsla("predict", model, single, pictures / "cross", single)
    assert (done.code, done.err) == (0, "")
    in_folder = sorted((pictures / "cross").iterdir())
    assert [line.split("  ")[0] for line in done.out.splitlines()] == [
        str(path) for path in (single, *in_folder, single)
    ]
    shown_path, label, probability, top = done.out.splitlines()[0].split("  ")
    assert (shown_path, label) == (str(single), "disc")
    assert 50 < float(probability.removesuffix("%")) <= 100
    assert top.startswith(f"(disc {probability}, cross ")


@pytest.mark.parametrize("form", ["table", "--csv", "--json"])
def test_an_unreadable_image_gets_its_line_and_exit_code_2(
    vizsla: RunVizsla, model: Path, pictures: Path, tmp_path: Path, form: str
):
    (tmp_path / "b.jpg").write_text("Dear diary")
    for name in ("a.png", "c.png"):
        shutil.copy(pictures / "disc" / "disc_7.png", tmp_path / name)
    words = {"table": (), "--csv": ("--csv", "-"), "--json": ("--json",)}[form]
    done = vizsla("predict", model, tmp_path, *words)
    assert done.code == 2
    assert done.err == "vizsla: 1 image could not be read; see the lines above.\n"
    cause = "not an image: text that begins with 'Dear diary'"
    path = str(tmp_path / "b.jpg")
    if form == "table":
        lines = done.out.splitlines()
        assert [line.split("  ")[1] for line in (lines[0], lines[2])] == ["disc", "disc"]
        assert lines[1] == f"{path}  cannot be read: {cause}"
    elif form == "--csv":
        assert [row["prediction"] for row in csv_rows(done.out)] == ["disc", "", "disc"]
        assert list(csv_rows(done.out)[1].values()) == [path, "", "", "", "", cause]
    else:
        said = [json.loads(line) for line in done.out.splitlines()]
        assert [one.get("prediction") for one in said] == ["disc", None, "disc"]
        assert said[1] == {"path": path, "error": cause}


def test_missing_paths_and_two_formats_are_refused(vizsla: RunVizsla, model: Path, pictures: Path):
    long = "x" * 300
    done = vizsla("predict", model, pictures, "none.jpg", long, "nowhere/")
    assert (done.code, done.out) == (2, "")
    assert f"\n  'none.jpg'\n  '{long}'\n  'nowhere'\n" in done.err
    done = vizsla("predict", model, pictures, "--csv", "-", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err == "vizsla: --csv and --json cannot be used together. Choose one of them.\n"


def test_features_are_written_and_images_sorted(
    vizsla: RunVizsla, run: Path, pictures: Path, tmp_path: Path
):
    out = tmp_path / "features.npz"
    assert vizsla("embed", run, pictures, "--out", out).code == 0
    with np.load(out) as arrays:
        assert arrays["features"].shape[0] == len(arrays["path"]) == 24
    for words in (
        ["--out", out],
        ["--out", tmp_path / "f.csv"],
        [],
        ["--out", out, "--features", "x"],
    ):
        assert vizsla("embed", run, pictures, *words).code == 2
    done = vizsla("predict", run, pictures, "--sort-to", tmp_path / "sorted")
    assert done.code == 0
    folders = {label: len(list((tmp_path / "sorted" / label).iterdir())) for label in LABELS}
    assert sum(folders.values()) == 24
    assert all(
        f"{tmp_path / 'sorted' / label}: {folders[label]} images" in done.out for label in LABELS
    )
    again = ["--sort-to", tmp_path / "other"]
    for words in (
        ["--sort-to", tmp_path / "sorted"],
        ["--sort-to", pictures / "sorted"],
        ["--link"],
        [*again, "--link", "--copy"],
        [*again, "--csv", "-"],
        [*again, "--resume"],
        ["--top", "0"],
        ["--top", "2", "--csv", "-"],
    ):
        done = vizsla("predict", run, pictures, *words)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
    assert not (tmp_path / "other").exists()
    lines = vizsla("predict", run, pictures, "--top", "1").out.splitlines()
    assert all(line.count("%") == 2 for line in lines)


def test_a_pipe_that_is_closed_early_ends_predict_quietly(model: Path, pictures: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "vizsla", "predict", model, *[pictures] * 8],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    process.stdout.close()
    assert first.startswith(str(pictures / "cross" / "cross_0.png"))
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


# --- names that are no plain words -----------------------------------------------------------------------------------

ODD_NAMES = (
    " blank .png",
    "comma, semi;.png",
    "line\nbreak.png",
    "quo\"te's.png",
    "tab\tulator.png",
    "umläut \u65e5\u672c.png",
    "\U0001f600.png",
)
NOT_UTF_8 = os.fsdecode(b"\xff\xfe.png")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows allows none of these names")


@pytest.fixture
def odd_names(pictures: Path, tmp_path: Path) -> list[str]:
    """Paths, in the order of the folder, of copies of one picture under odd names."""
    names: list[str] = []
    for name in (*ODD_NAMES, NOT_UTF_8):
        try:
            shutil.copy(pictures / "disc" / "disc_7.png", tmp_path / name)
        except OSError:  # a file system that keeps valid Unicode only
            continue
        names.append(name)
    return sorted(str(tmp_path / name) for name in names)


@needs_posix
def test_odd_names_come_back(vizsla: RunVizsla, model: Path, tmp_path: Path, odd_names: list[str]):
    done = vizsla("predict", model, tmp_path)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == len(odd_names)
    assert f"{tmp_path}/line\\nbreak.png  disc" in done.out
    assert f"{tmp_path}/umläut \u65e5\u672c.png  disc" in done.out
    as_csv = vizsla("predict", model, tmp_path, "--csv", "-")
    as_json = vizsla("predict", model, tmp_path, "--json")
    assert (as_csv.code, as_csv.err, as_json.code, as_json.err) == (0, "", 0, "")
    # JSON has a way to write what is not Unicode, CSV has none: there the escape stays.
    escaped = [name.encode("utf-8", "backslashreplace").decode() for name in odd_names]
    assert [row["path"] for row in csv_rows(as_csv.out)] == escaped
    assert [json.loads(line)["path"] for line in as_json.out.splitlines()] == odd_names


@needs_posix
def test_classes_with_odd_names_go_all_the_way(
    vizsla: RunVizsla,
    pictures: Path,
    here: Path,
    run_files: list[str],
):
    odd = {"cross": 'a "q",\n\x7f\U0001f600', "disc": os.fsdecode(b"b\xff")}
    data = here / "wild\U0001f600\n"
    data.mkdir()
    try:
        for label, name in odd.items():
            shutil.copytree(pictures / label, data / name)
    except OSError as error:
        pytest.skip(f"this file system keeps valid Unicode only: {error}")
    checked = vizsla("check", data)
    assert (checked.code, checked.err) == (0, "")
    done = vizsla("train", data, "--size", "48")
    assert (done.code, done.err) == (0, "")
    run = here / "runs" / data.name
    assert sorted(contents(run)) == run_files
    assert tomllib.loads((run / "config.toml").read_text("utf-8"))["data"] == str(data)
    json.loads((run / "metrics.json").read_text("utf-8"))
    assert read_manifest(run / "model.safetensors").vocab == tuple(sorted(odd.values()))
    said = vizsla("predict", run / "model.safetensors", data, "--json")
    assert {json.loads(line)["prediction"] for line in said.out.splitlines()} == {*odd.values()}
    assert len(vizsla("predict", run / "model.safetensors", data).out.splitlines()) == 24


def test_an_image_may_be_named_like_an_option(
    vizsla: RunVizsla,
    model: Path,
    pictures: Path,
    here: Path,
):
    shutil.copy(pictures / "disc" / "disc_7.png", here / "--debug")
    done = vizsla("predict", model, "--", "--debug")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("--debug  disc  ")


# --- check, demo and the rest ----------------------------------------------------------------------------------------


def test_fixes_are_read_by_every_command_and_from_beside_a_config(
    vizsla: RunVizsla, model: Path, pictures: Path, here: Path
):
    fixes = here / "fixes.csv"
    fixes.write_text("path,action,label\ncross/cross_1.png,relabel,disc\ndisc/disc_2.png,drop,\n")
    for words in (("check", pictures), ("evaluate", model, pictures)):
        done = vizsla(*words, "--fixes", fixes)
        assert (done.code, done.err) == (0, "")
        assert "fixes: 1 label changed, 1 image dropped" in done.out
    (here / "old").mkdir()
    (here / "old" / "wrong.csv").write_text("path,action\ncross/cross_1.png,lose\n")
    (here / "old" / "config.toml").write_text(f'data = "{pictures}"\nfixes = "wrong.csv"\n')
    done = vizsla("train", "--config", "old/config.toml")
    assert (done.code, "'lose'" in done.err, "row 2" in done.err) == (2, True, True)


def test_check_counts_the_images_of_each_class(vizsla: RunVizsla, pictures: Path, here: Path):
    done = vizsla("check", pictures, "--valid", "0.25")
    assert (done.code, done.err) == (0, "")
    drawn, *lines = done.out.splitlines()
    assert drawn.startswith("validation: 25% of each class")
    assert [line.split() for line in lines[:4]] == [
        ["class", "train", "valid"],
        ["cross", "9", "3"],
        ["disc", "9", "3"],
        ["total", "18", "6"],
    ]
    assert lines[4] == "All 24 images can be read."
    done = vizsla("check", pictures, "--valid", "0.25", "--json")
    assert (done.code, done.err) == (0, "")
    counts = json.loads(done.out)
    assert counts["classes"][0] == {
        "label": "cross",
        "num_train": 9,
        "num_valid": 3,
        "num_other": 0,
    }
    assert (counts["num_train"], counts["num_valid"], counts["num_skipped"]) == (18, 6, 0)
    assert counts["notes"] == [drawn]
    assert list(here.iterdir()) == []  # nothing is written


def test_version_is_that_of_the_package(vizsla: RunVizsla):
    for words in (("--version",), ("--version", "train", "pictures")):
        done = vizsla(*words)
        assert (done.code, done.out, done.err) == (0, f"vizsla {package.__version__}\n", "")


def test_help_explains_every_command_and_option(vizsla: RunVizsla):
    for words in (("--help",), ("-h",), ("--debug",), ()):
        done = vizsla(*words)
        assert (done.code, done.err) == (0, "")
        rows = [line.strip(" │").split() for line in done.out.splitlines() if "│" in line]
        # In a narrow terminal a sentence goes on in the next row.
        names = [row[0] for row in rows if row[0] in COMMANDS]
        assert names == list(COMMANDS)
        assert names[:4] == ["demo", "train", "find-lr", "check"]
    for command, _ in COMMANDS.values():
        assert (command.__doc__ or "").splitlines()[0][-1] in "?."
    for command in COMMANDS:
        done = vizsla(command, "--help")
        assert (done.code, done.err) == (0, "")
        assert f"Usage: vizsla {command}" in done.out
        options = done.out.split("Parameters")[1] if "Parameters" in done.out else ""
        assert "[default: ]" not in options


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vizsla", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train" in done.stdout
    # One line per module: "import time: self [us] | cumulative | name".
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "vizsla" in imported
    assert imported & {"torch", "torchvision", "timm", "matplotlib", "pandas"} == set()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the extra demo")
def test_the_demo_reaches_what_it_promises(vizsla: RunVizsla, here: Path, run_files: list[str]):
    done = vizsla("demo")
    assert (done.code, done.err) == (0, "")
    assert "Licence: CC BY-NC-SA 4.0. Non-commercial use only;" in done.out
    assert "Published: 82.44% SVM on hand-crafted features\n" in done.out
    assert "Published: 88.42% CNN (fine-tuned VGG19)\n" in done.out
    run = here / "runs" / "demo"
    assert sorted(contents(run)) == run_files
    written = json.loads((run / "metrics.json").read_text("utf-8"))
    assert written["metrics"]["accuracy"]["value"] >= 0.85
    assert written["metrics"]["accuracy"]["num_pictures"] == 656
    assert sorted(written["references"].values()) == [0.8244, 0.8842]
    assert "CC BY-NC-SA 4.0" in (run / "report.html").read_text("utf-8")
