"""The command line from end to end on small real pictures: train, look at the run folder, predict in all three forms, check."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import vizsla as package
from vizsla.cli.app import COMMANDS
from vizsla.model_file import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Done
    from PIL import Image

    RunVizsla = Callable[..., Done]

RUN_FILES = [
    "config.toml",
    "history.csv",
    "metrics.json",
    "model.safetensors",
    "predictions.csv",
    "report.html",
]
LABELS = ("cross", "disc")


@pytest.fixture(scope="module")
def workbench(
    tmp_path_factory: pytest.TempPathFactory,
    draw: Callable[..., Image.Image],
    vizsla: RunVizsla,
) -> tuple[Path, Done]:
    """A folder with ``pictures/{cross,disc}/`` and the run ``run/`` that was trained on them, and what that printed."""
    folder = tmp_path_factory.mktemp("workbench")
    for label in LABELS:
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            draw(label, number=number).save(folder / "pictures" / label / f"{label}_{number}.png")
    done = vizsla("train", folder / "pictures", "--size", "64", "--out", folder / "run")
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
    lines = done.out.splitlines()
    assert lines[0] == "19 images to learn from, 5 to validate on, 2 classes"
    assert lines[1] == "24 images are smaller than 64 x 64 pixels and will be enlarged."
    assert lines[2].startswith("cache auto: 24 images")
    assert lines[3].split() == [
        *("stage", "images", "epoch", "train_loss", "valid_loss", "accuracy", "time")
    ]
    assert lines[-2].startswith("Validation accuracy ")
    assert lines[-2].endswith("(5 images)")
    assert lines[-1] == f"Results: {folder / 'run'}/  (open {folder / 'run' / 'report.html'})"


def test_a_run_folder_has_metrics_with_intervals_and_choices_as_toml(run: Path, pictures: Path):
    assert sorted(contents(run)) == RUN_FILES
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
    expected = {"data": str(pictures.resolve()), "labels": "folder", "arch": "efficientnet_lite0"}
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


def test_a_second_run_takes_the_next_name_and_force_replaces_the_first(
    vizsla: RunVizsla, run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "runs" / "pictures"
    shutil.copytree(run, first)
    (first / "notes.txt").write_text("mine")
    earlier = contents(first)

    second = vizsla("train", pictures, "--size", "48")
    assert (second.code, second.err) == (0, "")
    assert "Results: runs/pictures-2/" in second.out
    assert sorted(contents(tmp_path / "runs" / "pictures-2")) == RUN_FILES
    assert contents(first) == earlier

    third = vizsla("train", pictures, "--size", "48", "--force")
    assert "Results: runs/pictures/" in third.out
    replaced = contents(first)
    assert sorted(replaced) == sorted([*RUN_FILES, "notes.txt"])
    assert replaced["notes.txt"] == b"mine"
    assert all(replaced[name] != earlier[name] for name in ("config.toml", "model.safetensors"))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["pictures", "pictures-2"]


def test_labels_from_names_by_a_regex_and_from_a_csv_file(
    vizsla: RunVizsla, pictures: Path, tmp_path: Path
):
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


def test_a_csv_file_as_data_with_train_and_valid_rows(
    vizsla: RunVizsla, pictures: Path, tmp_path: Path
):
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


def test_an_end_to_end_epoch_is_in_the_history_and_the_same_seed_gives_the_same_run(
    vizsla: RunVizsla, pictures: Path, tmp_path: Path
):
    options = ("--size", "32", "--bs", "8", "--epochs", "1", "--seed", "3")
    for name in ("a", "b"):
        done = vizsla("train", pictures, *options, "--out", tmp_path / name)
        assert (done.code, done.err) == (0, "")
        assert "end to end" in done.out
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one["predictions.csv"] == other["predictions.csv"]
    rows = csv_rows(one["history.csv"].decode())
    assert (rows[-1]["stage"], rows[-1]["epoch"]) == ("end to end", "1")


def test_an_option_that_cannot_work_is_refused_before_the_data_is_looked_at(vizsla: RunVizsla):
    for option, value, named in (
        ("--epochs", "some", "--epochs"),
        ("--epochs", "-1", "epochs"),
        ("--presize", "20", "presize"),
        ("--bs", "0", "batch_size"),
        ("--lr", "nan", "learning_rate"),
        ("--precision", "fp8", "--precision"),
        ("--device", "tpu", "device"),
        ("--sizee", "64", "--size"),  # what was meant
    ):
        done = vizsla("train", "no-such-folder", "--size", "64", option, value)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("vizsla: ")
        assert named in done.err
        assert value in done.err or option == "--sizee"


def test_the_choices_of_a_run_train_another_one(
    vizsla: RunVizsla, run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = vizsla("train", "--config", run / "config.toml", "--seed", "5", "--out", "again")
    assert (done.code, done.err) == (0, "")
    first, second = (
        tomllib.loads((folder / "config.toml").read_text("utf-8"))
        for folder in (run, tmp_path / "again")
    )
    assert second.pop("data_from_here") != first.pop("data_from_here")
    assert second == {**first, "seed": 5}
    # Labels of a table in the data are those of that table, whatever lies where the command is run.
    data = tmp_path / "project" / "data"
    shutil.copytree(pictures, data)
    rows = [f"{path.relative_to(data)},{path.parent.name}" for path in sorted(data.rglob("*.png"))]
    (data / "labels.csv").write_text("\n".join(["image,label", *rows]), "utf-8")
    words = ("--labels", f"csv:{data / 'labels.csv'}", "--size", "48", "--out", "project/run")
    assert vizsla("train", data, *words).code == 0
    (tmp_path / "labels.csv").write_text("image,label\nnone.png,other\n", "utf-8")
    (tmp_path / "project").rename(tmp_path / "copied")
    moved = vizsla("train", "--config", "copied/run/config.toml", "--out", "moved")
    assert (moved.code, moved.err) == (0, "")
    assert "19 images to learn from, 5 to validate on, 2 classes" in moved.out
    (tmp_path / "odd.toml").write_text("sizee = 3")
    odd = vizsla("train", pictures, "--config", "odd.toml")
    assert odd.code == 2
    assert "sizee" in odd.err
    assert "odd.toml" in odd.err


def test_a_missing_device_is_refused(vizsla: RunVizsla, model: Path, pictures: Path):
    absent = "mps" if torch.cuda.is_available() or sys.platform == "linux" else "cuda"
    for words in (("train", pictures), ("predict", model, pictures)):
        done = vizsla(*words, "--device", absent)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"vizsla: There is no device '{absent}' here that torch can use. "
            "Leave --device out to take the best one there is.\n"
        )


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict_says_what_predictions_csv_says(
    vizsla: RunVizsla, model: Path, run: Path, pictures: Path
):
    written = csv_rows((run / "predictions.csv").read_text("utf-8"))
    done = vizsla("predict", model, *(pictures / row["path"] for row in written), "--csv", "-")
    assert (done.code, done.err) == (0, "")
    said = csv_rows(done.out)
    assert [row["path"] for row in said] == [str(pictures / row["path"]) for row in written]
    for row, expected in zip(said, written, strict=True):
        assert row["prediction"] == expected["prediction"]
        for column in ("probability", "prob_cross", "prob_disc"):
            assert float(row[column]) == pytest.approx(float(expected[column]), abs=2e-5)


def test_predict_prints_folders_and_files_in_the_order_given(
    vizsla: RunVizsla, model: Path, pictures: Path
):
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


def test_predict_csv_has_a_column_for_each_class(vizsla: RunVizsla, model: Path, pictures: Path):
    done = vizsla("predict", model, pictures, "--csv", "-")
    header, *lines = done.out.splitlines()
    assert header == "path,prediction,probability,prob_cross,prob_disc,error"
    assert len(lines) == 24
    for row in csv_rows(done.out):
        likeliest = max(LABELS, key=lambda label: float(row[f"prob_{label}"]))
        assert (row["prediction"], row["probability"]) == (likeliest, row[f"prob_{likeliest}"])
        assert float(row["prob_cross"]) + float(row["prob_disc"]) == pytest.approx(1, abs=2e-6)
        assert row["error"] == ""


def test_predict_json_is_one_object_per_line(vizsla: RunVizsla, model: Path, pictures: Path):
    done = vizsla("predict", model, pictures / "disc", "--json")
    objects: list[dict[str, Any]] = [json.loads(line) for line in done.out.splitlines()]
    assert len(objects) == 12
    for one in objects:
        assert list(one) == ["path", "prediction", "probability", "top", "probabilities"]
        assert one["top"][0] == {"label": one["prediction"], "probability": one["probability"]}
        assert one["probabilities"][one["prediction"]] == one["probability"]


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
    cause = "it is not an image but text that begins with 'Dear diary'"
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


def test_missing_paths_and_two_formats_are_refused_before_the_first_line(
    vizsla: RunVizsla, model: Path, pictures: Path
):
    long = "x" * 300
    done = vizsla("predict", model, pictures, "none.jpg", long, "nowhere/")
    assert (done.code, done.out) == (2, "")
    assert f"\n  'none.jpg'\n  '{long}'\n  'nowhere'\n" in done.err
    done = vizsla("predict", model, pictures, "--csv", "-", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err == "vizsla: --csv and --json exclude each other. Choose one of them.\n"


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
def test_odd_names_come_back_from_table_csv_and_json(
    vizsla: RunVizsla, model: Path, tmp_path: Path, odd_names: list[str]
):
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
    vizsla: RunVizsla, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    odd = {"cross": 'a "q",\n\x7f\U0001f600', "disc": os.fsdecode(b"b\xff")}
    data = tmp_path / "wild\U0001f600\n"
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
    run = tmp_path / "runs" / data.name
    assert sorted(contents(run)) == RUN_FILES
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures / "disc" / "disc_7.png", tmp_path / "--debug")
    done = vizsla("predict", model, "--", "--debug")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("--debug  disc  ")


# --- check, demo and the rest ----------------------------------------------------------------------------------------


def test_check_counts_the_images_of_each_class(
    vizsla: RunVizsla, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = vizsla("check", pictures, "--valid", "0.25")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["class", "train", "valid", "other"]
    assert [line.split() for line in lines[1:3]] == [
        *(["cross", "9", "3", "0"], ["disc", "9", "3", "0"])
    ]
    assert lines[3] == "All 24 images can be read."
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
    assert list(tmp_path.iterdir()) == []  # nothing is written


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
    for command in COMMANDS.values():
        assert (command.__doc__ or "").splitlines()[0][-1] in "?."
    for command in COMMANDS:
        done = vizsla(command, "--help")
        assert (done.code, done.err) == (0, "")
        assert f"Usage: vizsla {command}" in done.out
        options = done.out.split("Parameters")[1] if "Parameters" in done.out else ""
        assert "[default: ]" not in options


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the extra demo")
def test_the_demo_reaches_what_it_promises(
    vizsla: RunVizsla, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = vizsla("demo")
    assert (done.code, done.err) == (0, "")
    assert "Licence: CC BY-NC-SA 4.0. Not for commercial use;" in done.out
    assert "Published: 82.44% SVM on hand-crafted features\n" in done.out
    assert "Published: 88.42% CNN (fine-tuned VGG19)\n" in done.out
    run = tmp_path / "runs" / "demo"
    assert sorted(contents(run)) == RUN_FILES
    written = json.loads((run / "metrics.json").read_text("utf-8"))
    assert written["metrics"]["accuracy"]["value"] >= 0.85
    assert written["metrics"]["accuracy"]["num_pictures"] == 656
    assert sorted(written["references"].values()) == [0.8244, 0.8842]
    assert "CC BY-NC-SA 4.0" in (run / "report.html").read_text("utf-8")
