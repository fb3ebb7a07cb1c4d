"""Run folders: which one is taken, what is in it, and what is left when something fails half way."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from vizsla import (
    DataError,
    Fix,
    OutputError,
    PictureError,
    Predictions,
    Resize,
    TrainConfig,
    write_fixes,
)
from vizsla.data.cache import ImageCache
from vizsla.data.table import resolve_data
from vizsla.evaluate import HistoryPoint, summarise
from vizsla.model_file import load_bundle
from vizsla.recipe import DataConfig, TrainedRun
from vizsla.run import (
    RunFolder,
    RunPlan,
    config_text,
    make_run_folder,
    noted_on_stop,
    place_to_write,
    read_all,
    run_training,
    write_run,
)
from vizsla.train import Display
from vizsla.types import ImageTable

Write = Callable[..., None]

QUIET = Display(quiet=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def take(out: Path, *, force: bool = False) -> Path:
    with make_run_folder(out, force=force) as folder:
        return folder


def write_all(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("new")


def write_then_fail(folder: Path, name: str) -> None:
    write_all(folder, name)
    (folder / name).touch(exist_ok=False)


# --- which folder ----------------------------------------------------------------------------------------------------


def test_the_folder_is_made_with_those_above_it(tmp_path: Path):
    assert take(tmp_path / "runs" / "pets") == tmp_path / "runs" / "pets"
    assert list((tmp_path / "runs" / "pets").iterdir()) == []


def test_a_name_that_is_taken_gets_the_next_number_unless_forced(tmp_path: Path):
    (tmp_path / "pets-3").touch()  # a file takes a name too
    taken: list[str] = []
    for _ in range(3):
        taken.append(take(tmp_path / "pets").name)
        write_all(tmp_path / taken[-1], "notes.txt")
    assert taken == ["pets", "pets-2", "pets-4"]
    for name in ("pets", "new"):
        assert take(tmp_path / name, force=True) == tmp_path / name
    assert names_in(tmp_path) == ["new", "pets", "pets-2", "pets-3", "pets-4"]


def test_an_empty_folder_and_what_a_killed_run_left_take_no_name(tmp_path: Path):
    out = tmp_path / "pets"
    out.mkdir()
    assert take(out) == out
    for name in (".vizsla-lock", ".vizsla-results-abc/model.safetensors", "checkpoint/x"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("half")
    assert take(out).name == "pets-2"  # nobody knows what x is
    (out / "checkpoint" / "x").rename(out / "checkpoint" / ".vizsla-00000000-x.part.safetensors")
    os.utime(out / "checkpoint" / ".vizsla-00000000-x.part.safetensors", times=(0, 0))
    assert take(out) == out
    assert names_in(out) == []
    # All results were there, and the system failed while they were moved up.
    for name in ("pets/.vizsla-complete-abc/b.txt", "pets/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new")
    assert take(out, force=True) == out
    assert names_in(out) == ["a.txt", "b.txt"]


def test_a_folder_has_one_run_at_a_time(tmp_path: Path):
    out = tmp_path / "pets"
    with make_run_folder(out, force=False):
        for facts in (str(out), f"process {os.getpid()} on {platform.node()}", "--out"):
            with pytest.raises(OutputError, match=re.escape(facts)):
                take(out, force=True)
        assert take(out).name == "pets-2"
        with pytest.raises(OutputError, match="Another process"):
            take(out, force=True)
    assert names_in(out) == []
    assert take(out, force=True) == out


def test_a_folder_that_cannot_be_made_is_refused(here: Path):
    (here / "file").write_text("mine")
    (here / "link").symlink_to("nowhere")
    for name, force, facts in (
        ("file", True, r"file: File exists\. Choose another --out"),
        ("link/pets", False, "link/pets"),
        ("x" * 300, False, "File name too long"),
        ("x" * 300, True, "File name too long"),
    ):
        with pytest.raises(OutputError, match=facts):
            take(here / name, force=force)
    assert (here / "file").read_text() == "mine"
    for out in (".", "..", "/"):
        with pytest.raises(OutputError, match="no number can be added"):
            take(Path(out))
    assert take(Path(), force=True) == Path()
    assert names_in(here) == ["file", "link"]


def test_a_failure_before_anything_was_written_leaves_no_folder(tmp_path: Path):
    for error in (ValueError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, make_run_folder(tmp_path / "pets", force=False):
            raise error
        assert caught.value is error
        assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there_before_or_was_written(tmp_path: Path):
    (tmp_path / "pets").mkdir()
    for files in ([], ["notes.txt"]):
        write_all(tmp_path / "pets", *files)
        with pytest.raises(ValueError), make_run_folder(tmp_path / "pets", force=True):
            raise ValueError
        assert names_in(tmp_path / "pets") == files
    with pytest.raises(FileExistsError), make_run_folder(tmp_path / "new", force=False) as folder:
        write_then_fail(folder, "model.safetensors")
    assert names_in(tmp_path / "new") == ["model.safetensors"]


# --- where to write --------------------------------------------------------------------------------------------------


def test_earlier_files_are_replaced_when_all_new_ones_are_there(tmp_path: Path):
    with place_to_write(tmp_path / "new") as place:  # it was removed while training
        write_all(place, "a.txt")
    assert names_in(tmp_path / "new") == ["a.txt"]
    shutil.rmtree(tmp_path / "new")
    for name in ("a.txt", "b.txt", "mine.txt"):
        (tmp_path / name).write_text("earlier")
    with place_to_write(tmp_path) as place:
        assert place.parent == tmp_path
        write_all(place, "a.txt", "b.txt")
        assert (tmp_path / "a.txt").read_text() == "earlier"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "new",
        "b.txt": "new",
        "mine.txt": "earlier",
    }


def test_a_failure_keeps_the_earlier_run_beside_the_new_files(tmp_path: Path):
    (tmp_path / "a.txt").write_text("earlier")
    with pytest.raises(ValueError, match="mine"), place_to_write(tmp_path):
        raise ValueError("mine")
    assert names_in(tmp_path) == ["a.txt"]
    with pytest.raises(FileExistsError), place_to_write(tmp_path) as place:
        write_then_fail(place, "a.txt")
    (unfinished,) = tmp_path.glob("unfinished-*")
    assert names_in(tmp_path) == ["a.txt", unfinished.name]
    assert (tmp_path / "a.txt").read_text() == "earlier"
    assert (unfinished / "a.txt").read_text() == "new"


def test_a_folder_in_the_place_of_a_file_replaces_nothing(tmp_path: Path):
    (tmp_path / "a.txt").write_text("earlier")
    (tmp_path / "b.txt").mkdir()
    facts = r"b\.txt is a folder there.*untouched.*unfinished-"
    with pytest.raises(OutputError, match=facts), place_to_write(tmp_path) as place:
        write_all(place, "a.txt", "b.txt")
    assert (tmp_path / "a.txt").read_text() == "earlier"
    (unfinished,) = tmp_path.glob("unfinished-*")
    assert (unfinished / "a.txt").read_text() == "new"


def test_only_ctrl_c_gets_a_note():
    with pytest.raises(KeyboardInterrupt) as stop, noted_on_stop("Nothing was written."):
        raise KeyboardInterrupt
    assert stop.value.__notes__ == ["Nothing was written."]
    with pytest.raises(ValueError, match="mine") as other, noted_on_stop("Nothing was written."):
        raise ValueError("mine")
    assert not hasattr(other.value, "__notes__")


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    return resolve_data(image_folder, seed=0)


@pytest.fixture
def plan() -> RunPlan:
    return RunPlan(
        title="Shapes",
        data="pictures",
        config=TrainConfig(size=32, learning_rate=3e-5),
        references=(("by hand", 0.75),),
        notes=("Drawn by a test.",),
    )


def write_made_up(
    folder: Path,
    plan: RunPlan,
    *,
    table: ImageTable,
    make_classifier: Any,
    interrupted: bool = False,
) -> None:
    """Write into a folder what training could have left, without the training."""
    rows = table.valid_rows
    predictions = Predictions(
        rows=rows,
        paths=tuple(table.shown_path(row) for row in rows.tolist()),
        logits=torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0)),
        targets=table.targets[rows],
        vocab=table.vocab,
    )
    point = HistoryPoint(stage="head", epoch=0, train_loss=0.5, valid_loss=0.6, accuracy=0.8)
    run = TrainedRun(
        classifier=make_classifier(table.vocab),
        resize=Resize(32),
        predictions=predictions,
        history=(point,),
        recipe="Made up.",
        interrupted=interrupted,
    )
    metrics = summarise(predictions)
    write_run(folder, run=run, table=table, plan=plan, metrics=metrics, seconds=61.0, display=QUIET)


@pytest.fixture
def write(table: ImageTable, make_classifier: Any) -> Write:
    """Return ``write_made_up`` for the images of the table."""
    return partial(write_made_up, table=table, make_classifier=make_classifier)


def test_a_run_is_six_files(tmp_path: Path, write: Write, plan: RunPlan, run_files: list[str]):
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, plan, interrupted=True)
    assert names_in(folder) == run_files
    assert load_bundle(folder / "model.safetensors").manifest.notes == "Made up."
    history = (folder / "history.csv").read_text("utf-8").splitlines()
    assert len(history) == 2
    assert history[1].startswith("head,0,0.5,0.6,0.8,")
    report = (folder / "report.html").read_text("utf-8")
    assert "Made up. Stopped early by Ctrl-C." in report
    assert "Drawn by a test." in report
    written = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert (written["references"], written["interrupted"]) == ({"by hand": 0.75}, True)
    accuracy = written["metrics"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    facts = written["facts"]
    assert facts.pop("Time").startswith("01:01 on ")
    assert (
        facts.items()
        >= {
            "Images": "19 to learn from, 5 to validate on",
            "Classes": "2: cross, disc",
            "Network": "test_resnet",
            "Weights": "random; licence: unknown",
            "Recipe": "Made up. Stopped early by Ctrl-C.",
            "Image size": "32 x 32 pixels",
        }.items()
    )


def test_the_model_is_written_first(tmp_path: Path, write: Write, plan: RunPlan):
    (tmp_path / "history.csv").mkdir()  # the second file cannot be written
    with pytest.raises(OutputError, match="there is a folder of that name"):
        write(tmp_path, plan)
    assert names_in(tmp_path) == ["history.csv", "model.safetensors", "pictures"]


def test_unreadable_images_are_refused_or_left_out(image_folder: Path, plan: RunPlan):
    (image_folder / "cross" / "cross_3.jpg").write_bytes(b"")
    table = resolve_data(image_folder, seed=0)
    with pytest.raises(PictureError, match="1 of 24"):
        run_training(table, plan=plan, out=image_folder.parent / "run", display=QUIET)
    assert names_in(image_folder.parent) == [image_folder.name]
    skipping = replace(plan, on_bad="skip")
    kept, enlarged = read_all(table, plan=skipping, cache=ImageCache(), display=QUIET)
    assert len(kept.paths) == 23
    assert [path.name for path, _ in kept.skipped] == ["cross_3.jpg"]
    assert enlarged == ""


# --- texts -----------------------------------------------------------------------------------------------------------


def written_choices(folder: Path, source: Path | str = "x", **changes: Any) -> dict[str, object]:
    """Return what ``config.toml`` of a folder says back."""
    where = DataConfig(**changes)
    text = config_text(folder, source=source, where=where, on_bad="error", config=TrainConfig())
    (folder / "config.toml").write_text(text, "utf-8")
    return dict(RunFolder(folder).config)


def test_every_text_comes_back_from_the_toml(tmp_path: Path):
    texts = (
        "plain",
        'quo"tes\\b',
        "line\nbreak\ttab",
        "\x7f\x00\x1f",
        "umläut \u65e5",
        "\U0001f600",
    )
    for text in texts:
        assert written_choices(tmp_path, text)["data"] == text
    # What is not Unicode is escaped.
    assert written_choices(tmp_path, "a\udcff")["data"] == r"a\udcff"


def test_the_toml_has_every_choice_with_its_type(tmp_path: Path):
    config = TrainConfig(size=96, learning_rate=1e-5, epochs=3, seed=-1)
    text = config_text(
        tmp_path, source="elpv-dataset", where=DataConfig(valid="0.3"), on_bad="skip", config=config
    )
    assert tomllib.loads(text) == {
        "data": "elpv-dataset",
        "labels": "auto",
        "valid": "0.3",
        "label_level": "auto",
        "min_per_class": "auto",
        "group": "",
        "fixes": "",
        "new_classes": False,
        "on_bad": "skip",
        "arch": "efficientnet_lite0",
        "weights": "",
        "start_from": "",
        "epochs": 3,
        "minutes": "auto",
        "size": 96,
        "presize": "auto",
        "resize_method": "crop",
        "patience": 0,
        "augment": "default",
        "flip": "auto",
        "vertical_flip": False,
        "colour": True,
        "threshold": "0.5",
        "compress_gradients": "none",
        "balance": "none",
        "batch_size": 32,
        "learning_rate": 1e-5,
        "seed": -1,
        "precision": "auto",
        "num_workers": "auto",
        "device": "auto",
        "cache": "auto",
        "cache_budget": "auto",
        "truncated": "strict",
        "bit_depth": "auto",
    }


# --- read from anywhere ----------------------------------------------------------------------------------------------


def test_a_run_is_found_again_from_elsewhere_and_after_moves(
    tmp_path: Path,
    write: Write,
    table: ImageTable,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "shapes"
    folder.mkdir(parents=True)
    typed = image_folder.relative_to(tmp_path)
    plan = RunPlan(title="Shapes", data=str(typed), source=typed, config=TrainConfig(size=32))
    write(folder, plan)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def rows_found(run: Path, data: Path | None = None) -> list[str]:
        found = RunFolder(run).table(data)
        assert RunFolder(run).predictions(found).rows.tolist() == found.valid_rows.tolist()
        return [found.shown_path(row) for row in found.valid_rows.tolist()]

    expected = [table.shown_path(row) for row in table.valid_rows.tolist()]
    assert rows_found(folder) == expected
    # Both move together, as when a project is copied to another machine.
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "runs").rename(project / "runs")
    image_folder.rename(project / image_folder.name)
    assert rows_found(project / "runs" / "shapes") == expected
    # The data alone moves.
    (project / image_folder.name).rename(tmp_path / "photos")
    with pytest.raises(DataError) as error:
        RunFolder(project / "runs" / "shapes").table()
    assert str(image_folder) in str(error.value)
    assert "--data" in str(error.value)
    assert rows_found(project / "runs" / "shapes", tmp_path / "photos") == expected


def test_the_fixes_of_a_run_are_kept_with_it(
    tmp_path: Path, image_folder: Path, make_classifier: Any
):
    fixes = [
        Fix(path="cross/cross_1.jpg", action="relabel", label="disc", why="round"),
        Fix(path="disc/disc_2.jpg", action="drop"),
    ]
    file = write_fixes(tmp_path / "typed.csv", fixes)
    table = resolve_data(image_folder, fixes=file, seed=0)
    plan = RunPlan(title="Shapes", data="x", source=image_folder, config=TrainConfig(size=32))
    folder = tmp_path / "run"
    folder.mkdir()
    write_made_up(folder, plan, table=table, make_classifier=make_classifier)
    file.unlink()
    run = RunFolder(folder)
    found = run.table()
    assert found.fixes == table.fixes == tuple(fixes)
    assert found.targets.tolist() == table.targets.tolist()
    assert found.valid_rows.tolist() == table.valid_rows.tolist()
    assert run.predictions(found).rows.tolist() == table.valid_rows.tolist()
    assert run.metrics["facts"]["Fixes"] == "1 label changed, 1 image dropped"
    assert "1 label changed, 1 image dropped" in (folder / "report.html").read_text("utf-8")
    assert run.config["fixes"] == "fixes.csv"


def test_the_split_of_a_run_does_not_depend_on_what_files_hold_now(
    tmp_path: Path, image_folder: Path, make_classifier: Any
):
    drawn = resolve_data(image_folder, seed=0)
    copy, original = (drawn.file(int(rows[0])) for rows in (drawn.valid_rows, drawn.train_rows))
    content = Path(copy).read_bytes()
    shutil.copy(original, copy)
    plan = RunPlan(title="Shapes", data="x", source=image_folder, config=TrainConfig(size=32))
    together = resolve_data(image_folder, seed=0)
    assert not torch.equal(together.valid_rows, drawn.valid_rows)
    for number, table in enumerate((drawn, together)):  # earlier runs did not look at duplicates
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        write_made_up(folder, plan, table=table, make_classifier=make_classifier)
        for inside in (Path(original).read_bytes(), content):
            Path(copy).write_bytes(inside)
            run = RunFolder(folder)
            assert run.predictions(run.table()).rows.tolist() == table.valid_rows.tolist()


def test_a_table_of_labels_is_found_again_too(here: Path, image_folder: Path):
    (image_folder / "in.csv").touch()
    (here / "out.csv").touch()
    run = here / "run"
    run.mkdir()
    data = image_folder.relative_to(here)
    for typed, kept in (
        ("csv:in.csv,image=a,label=b", "csv:in.csv,image=a,label=b"),
        (f"csv:{data / 'in.csv'}", "csv:in.csv"),
        ("csv:out.csv,label=b", f"csv:{here / 'out.csv'},label=b"),
        ("regex:(.+),x", "regex:(.+),x"),
    ):
        assert written_choices(run, data, labels=typed)["labels"] == kept
    by_file = written_choices(run, data / "in.csv", labels=f"csv:{data / 'in.csv'},label=b")
    assert by_file["labels"] == "csv:,label=b"
