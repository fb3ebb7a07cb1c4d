"""Promises about bad input: one message that says what, where and the way out; exit code 2; nothing is written over."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from vizsla import Resize
from vizsla.model_file import save_bundle

if TYPE_CHECKING:
    from conftest import Done

    RunVizsla = Callable[..., Done]

Refusal = Callable[..., str]

needs_posix = pytest.mark.skipif(
    os.name != "posix", reason="uses limits or devices of POSIX systems"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of the test, so that messages have short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def earlier_run(folder: Path, run_files: list[str]) -> Path:
    """A run folder ``results/pets`` of six files and one of the user's own."""
    run = folder / "results" / "pets"
    run.mkdir(parents=True)
    for name in (*run_files, "notes.txt"):
        (run / name).write_text(f"{name} of an earlier run")
    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, and every folder as an empty entry."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def message_of(done: Done) -> str:
    """Return the one message of a refused command."""
    assert done.code == 2
    assert done.err.startswith("vizsla: ")
    assert done.err.count("vizsla: ") == 1
    assert "Traceback" not in done.err
    return done.err.removeprefix("vizsla: ").rstrip("\n")


@pytest.fixture
def refusal(vizsla: RunVizsla, earlier_run: Path) -> Refusal:
    """Return a function that trains over an earlier run, expects to be refused before training, and returns the message."""

    def refuse(*words: str) -> str:
        before = contents(earlier_run.parent)
        done = vizsla("train", *words, "--size", "64", "--out", "results/pets", "--force")
        assert "valid_loss" not in done.out, "training had begun"
        assert contents(earlier_run.parent) == before
        return message_of(done)

    return refuse


# --- images and classes ----------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_with_those_that_are_there(refusal: Refusal, folder: Path):
    (folder / "animals" / "pets").mkdir(parents=True)
    assert refusal("animals/pet") == (
        "There is no folder 'animals/pet'. Check the spelling. 'animals' contains these folders:\n  'pets'"
    )


def test_a_folder_without_images_and_an_empty_one(refusal: Refusal, folder: Path):
    (folder / "texts").mkdir()
    assert refusal("texts") == (
        "There are no images in 'texts' and the folders below it: no files at all. "
        "Give the folder that holds the images."
    )
    for name in ("a.txt", "b.txt", "c.pdf"):
        (folder / "texts" / name).write_text("no picture")
    assert refusal("texts") == (
        "There are no images in 'texts' and the folders below it. The files there have these extensions:\n"
        "  .txt: 2 files\n  .pdf: 1 file\n"
        "Give the folder of the images, or convert them to JPEG or PNG."
    )


def test_a_single_class_is_refused(refusal: Refusal, image_folder: Path):
    shutil.rmtree(image_folder / "disc")
    message = refusal("pictures")
    assert message.startswith(
        "There is only one class, 'cross', for all 12 images. A classifier needs at least two."
    )
    assert "Put each class into its own folder" in message


def test_a_class_with_a_single_image_is_named(refusal: Refusal, make_image: Callable[..., Path]):
    for number in range(4):
        make_image(f"pictures/cross/{number}.jpg", number=number)
    make_image("pictures/disc/0.jpg", label="disc")
    assert refusal("pictures") == (
        "1 class has only one image, which cannot be in both training and validation:\n"
        "  'disc': 'pictures/disc/0.jpg'\n"
        "Add images of the class, remove it, or train on it without validating it: --min-per-class 1 (min_per_class=1)."
    )


def test_a_class_with_a_single_image_is_trained_on_if_asked(
    vizsla: RunVizsla, image_folder: Path, make_image: Callable[..., Path]
):
    make_image("pictures/star/0.jpg", label="star")
    done = vizsla("train", image_folder, "--size", "64", "--out", "run", "--min-per-class", "1")
    assert done.code == 0
    told = "not validated: 1 class has no validation images: 'star'"
    assert told in done.out
    assert told in json.loads(Path("run/metrics.json").read_text("utf-8"))["notes"]
    report = Path("run/report.html").read_text("utf-8")
    assert "not validated: 1 class" in report
    assert vizsla("report", "run").code == 0


def test_a_class_that_only_validation_has_is_named(
    refusal: Refusal, make_image: Callable[..., Path]
):
    for place in ("train/cross", "train/disc", "valid/cross", "valid/disc", "valid/star"):
        for number in range(2):
            make_image(f"pictures/{place}/{number}.jpg", number=number)
    assert refusal("pictures") == (
        "1 class is in validation but not in training:\n"
        "  'star': 2 images, first 'pictures/valid/star/0.jpg'\n"
        "Add images of the class, or remove it."
    )


# --- images that cannot be read --------------------------------------------------------------------------------------

CAUSES = {
    "cross/cut.jpg": "damaged: the file is truncated (it ends before the image is complete)",
    "cross/text.jpg": "not an image: text that begins with 'Dear diary'",
    "disc/zero.jpg": "not an image: the file is empty (0 bytes)",
}


@pytest.fixture
def damaged_folder(image_folder: Path) -> Path:
    """Twelve good images of each class, and the three bad ones of ``CAUSES``."""
    good = (image_folder / "cross" / "cross_0.jpg").read_bytes()
    for (name, _), content in zip(
        CAUSES.items(), (good[: len(good) // 2], b"Dear diary", b""), strict=True
    ):
        (image_folder / name).write_bytes(content)
    return image_folder


@pytest.mark.usefixtures("damaged_folder")
def test_all_unreadable_images_are_listed_before_training(refusal: Refusal):
    lines = refusal("pictures").splitlines()
    assert lines[0] == "3 of 27 images cannot be read:"
    assert sorted(lines[1:-1]) == [
        f"  'pictures/{name}': {cause}" for name, cause in CAUSES.items()
    ]
    assert lines[-1].startswith("Repair or remove the files, or skip them with --on-bad skip")


@pytest.mark.usefixtures("damaged_folder")
def test_check_lists_all_unreadable_images(vizsla: RunVizsla):
    message = message_of(vizsla("check", "pictures"))
    assert all(f"'pictures/{name}': {cause}" in message for name, cause in CAUSES.items())
    done = vizsla("check", "pictures", "--json")
    listed = {
        one["path"]: (one["kind"], one["cause"]) for one in json.loads(done.out)["unreadable"]
    }
    assert done.code == 2
    assert listed == {
        f"pictures/{name}": (cause.partition(":")[0], cause) for name, cause in CAUSES.items()
    }


@pytest.mark.usefixtures("damaged_folder")
def test_on_bad_skip_trains_on_the_rest_and_the_report_lists_the_others(
    vizsla: RunVizsla, folder: Path
):
    done = vizsla("train", "pictures", "--size", "64", "--out", "run", "--on-bad", "skip")
    assert (done.code, done.err) == (0, "")
    assert "Skipped 3 unreadable images; the report lists the causes." in done.out
    report = re.sub(r"<[^>]*>", "", (folder / "run" / "report.html").read_text("utf-8"))
    assert all(f"{name}{cause}" in report for name, cause in escaped_causes().items())
    predictions = (folder / "run" / "predictions.csv").read_text("utf-8")
    assert not any(name in predictions for name in CAUSES)


def escaped_causes() -> dict[str, str]:
    return {name: cause.replace("'", "&#39;") for name, cause in CAUSES.items()}


# --- tables ----------------------------------------------------------------------------------------------------------

GOOD_ROWS = tuple(
    f"{label}_{number},{label}" for label in ("cross", "disc") for number in range(12)
)


def write_table(*rows: str) -> None:
    Path("labels.csv").write_text("\n".join(("file,kind", *rows)), "utf-8")


@pytest.mark.usefixtures("image_folder")
@pytest.mark.parametrize("role", ["image", "label"])
def test_a_table_without_the_named_column_says_which_it_has(refusal: Refusal, role: str):
    write_table(*GOOD_ROWS)
    assert refusal("pictures", "--labels", f"csv:labels.csv,{role}=breed") == (
        "There is no column 'breed' in 'labels.csv'. It has these columns:\n  0: 'file'\n  1: 'kind'\nName one of them."
    )


@pytest.mark.usefixtures("image_folder")
def test_a_table_with_a_missing_file_names_row_and_path(refusal: Refusal):
    write_table(*GOOD_ROWS, "cross_99,cross")
    assert refusal("pictures", "--labels", "csv:labels.csv") == (
        "1 of 25 image files does not exist:\n  row 26 ('pictures/cross_99')\n"
        "Correct the names, or put the files there."
    )


@pytest.mark.usefixtures("image_folder")
def test_a_table_with_an_empty_label_names_the_row(refusal: Refusal):
    write_table("cross_0, ", *GOOD_ROWS[1:])
    assert refusal("pictures", "--labels", "csv:labels.csv") == (
        "1 image has an empty label:\n  row 2 ('pictures/cross/cross_0.jpg')\n"
        "Fill in the label, or remove the image.\n"
        "Labels are read from column 'kind' of 'labels.csv' (its header is row 1)."
    )


@pytest.mark.usefixtures("image_folder")
def test_a_table_with_duplicate_rows_names_them(refusal: Refusal):
    write_table(*GOOD_ROWS, GOOD_ROWS[0], "disc_11,cross")
    assert refusal("pictures", "--labels", "csv:labels.csv") == (
        "2 images are listed more than once:\n"
        "  'pictures/cross/cross_0.jpg': 2 times (row 2, row 26), each labelled 'cross'\n"
        "  'pictures/disc/disc_11.jpg': 2 times (row 25, row 27), with different labels: 'disc', 'cross'\n"
        "List each image once, with its correct label."
    )


# --- regular expressions and networks --------------------------------------------------------------------------------


@pytest.mark.usefixtures("image_folder")
def test_a_regex_that_matches_nothing_shows_three_of_the_names(refusal: Refusal):
    message = refusal("pictures", "--labels", r"regex:(.+)-\d+")
    assert message.startswith("None of 24 images gives a label:\n")
    assert [f"'pictures/cross/cross_{number}.jpg'" in message for number in (0, 1, 10, 11)] == [
        *(True, True, True),
        False,
    ]
    assert "... and 21 more" in message


@pytest.mark.usefixtures("image_folder")
def test_a_regex_without_a_group_is_told_to_get_one(refusal: Refusal):
    message = refusal("pictures", "--labels", r"regex:.+_\d+")
    assert "has no group, so it does not say which part is the label" in message
    assert r"Put parentheses around that part, for example '(.+)_\d+\.jpg$'." in message


@pytest.mark.usefixtures("image_folder")
def test_a_network_that_does_not_exist_gets_the_three_nearest_names(refusal: Refusal):
    message = refusal("pictures", "--arch", "efficientnet_lite9")
    assert message.startswith("No network of timm and torchvision is called 'efficientnet_lite9'.")
    nearest = re.search(r"The nearest names are: ([\w, ]+)\. Choose one of them", message)
    assert nearest is not None
    assert len(nearest[1].split(", ")) == 3
    assert all(name.startswith("efficientnet_lite") for name in nearest[1].split(", "))


# --- model files -----------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle of it creates a file when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.fixture
def refused_model(vizsla: RunVizsla, make_image: Callable[..., Path]) -> Callable[[str], str]:
    """Return a function that predicts with a model file, expects to be refused without a line of output, and returns why."""
    make_image("new.jpg")

    def refuse(model: str) -> str:
        done = vizsla("predict", model, "new.jpg")
        assert done.out == ""
        return message_of(done)

    return refuse


def test_a_model_file_that_cannot_be_read_is_named(refused_model: Callable[[str], str]):
    save_file({"a": torch.zeros(100)}, "model.safetensors")
    whole = Path("model.safetensors").read_bytes()
    cases = {
        "empty": (b"", "empty is too short to be a model file: 0 bytes."),
        "cut": (whole[:40], "cut is cut short or damaged"),
        "page": (b"<!doctype html>" * 9, "page is not a model file"),
        "foreign": (whole, "foreign is a safetensors file, but not a finished model"),
    }
    for name, (content, start) in cases.items():
        Path(name).write_bytes(content)
        assert refused_model(name).startswith(start)
    assert refused_model("none") == (
        "There is no model file none. Check the path; `vizsla train` writes RUN/model.safetensors"
    )


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_given_as_model_is_refused_and_never_opened(
    refused_model: Callable[[str], str], kind: str
):
    if kind == "pickle":
        Path("model.pkl").write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save(Bomb(), "model.pkl")
    message = refused_model("model.pkl")
    assert "It was not opened, because opening a pickle can run any program." in message
    assert "Give a model.safetensors that vizsla wrote" in message
    assert not Path("exploded").exists()


def test_a_model_of_a_newer_format_says_who_wrote_it(refused_model: Callable[[str], str]):
    text = '{"format": "vizsla-model", "format_version": 7, "vizsla_version": "4.2.0"}'
    digest = hashlib.sha256(text.encode()).hexdigest()
    header = {"vizsla.manifest": text, "vizsla.sha256": digest}
    save_file({"a": torch.zeros(1)}, "model.safetensors", metadata=header)
    message = refused_model("model.safetensors")
    assert "model format 7, written by vizsla 4.2.0" in message
    assert "pip install" in message


# --- places that cannot be written to --------------------------------------------------------------------------------


@pytest.mark.usefixtures("image_folder")
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_in_place_of_a_folder_of_the_output_is_refused_before_training(
    vizsla: RunVizsla, force: tuple[str, ...], folder: Path
):
    (folder / "file").write_text("mine")
    for out in ("file/run", "file/deep/run"):
        done = vizsla("train", "pictures", "--size", "64", "--out", out, *force)
        assert message_of(done) == (
            f"Cannot write results to the folder {out}: Not a directory. Choose another --out."
        )
        assert "valid_loss" not in done.out
    assert (folder / "file").read_text() == "mine"


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="a folder of Linux that nobody can write to"
)
@pytest.mark.usefixtures("image_folder")
@pytest.mark.parametrize("out", ["/proc/results", "/proc"])
def test_a_folder_that_even_root_cannot_write_to_is_refused_before_training(
    vizsla: RunVizsla, out: str
):
    done = vizsla("train", "pictures", "--size", "64", "--out", out, "--force")
    message = message_of(done)
    assert message.startswith(f"Cannot write results to the folder {out}: ")
    assert message.endswith(". Choose another --out.")
    assert "valid_loss" not in done.out


def in_own_mounts(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount, seen by nobody else; skip the test where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("the program unshare is not installed")
    enter = ["unshare", "--mount", "--map-root-user", "sh", "-euc"]
    allowed = subprocess.run(
        [*enter, "mount -t tmpfs -o size=1m tmpfs ."], check=False, capture_output=True
    )
    if allowed.returncode != 0:
        pytest.skip("mounting in a name space of one's own is not allowed here")
    return subprocess.run(
        [*enter, script, sys.executable, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.usefixtures("image_folder", "earlier_run")
def test_a_read_only_disk_is_refused_before_training():
    done = in_own_mounts(
        """
mount --bind results results
mount -o remount,bind,ro results
status=0
"$0" -m vizsla train pictures --size 64 --out results/pets --force || status=$?
exit $status
"""
    )
    assert done.returncode == 2
    assert done.stderr == (
        "vizsla: Cannot write results to the folder results/pets: Read-only file system. Choose another --out.\n"
    )
    assert "valid_loss" not in done.stdout


# --- a full disk -----------------------------------------------------------------------------------------------------


@needs_posix
@pytest.mark.usefixtures("image_folder")
def test_a_limit_on_files_while_writing_leaves_the_earlier_run_as_it_was(
    vizsla: RunVizsla, earlier_run: Path
):
    resource = pytest.importorskip("resource", reason="limits of file size are of POSIX systems")
    before = contents(earlier_run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so a write beyond the limit fails as on a full disk. The model is larger, all else smaller.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        over = vizsla("train", "pictures", "--size", "64", "--out", "results/pets", "--force")
        beside = vizsla("train", "pictures", "--size", "64", "--out", "results/pets")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.fullmatch(
        r"Cannot write results/pets/unfinished-\w+/model\.safetensors: File too large\. Nothing was left there\. .+ "
        r"The earlier files in results/pets are untouched\.",
        message_of(over),
    )
    assert message_of(beside).startswith(
        "Cannot write results/pets-2/model.safetensors: File too large."
    )
    assert contents(earlier_run) == before
    assert [path.name for path in earlier_run.parent.iterdir()] == ["pets"]


@pytest.mark.usefixtures("image_folder", "earlier_run")
def test_a_disk_that_fills_up_after_the_model_leaves_the_earlier_run_and_the_new_model():
    # There is room for the lock, one more folder and one more file: the earlier run must not become half of each.
    done = in_own_mounts(
        """
mkdir disk
mount -t tmpfs -o size=64m,nr_inodes=40 tmpfs disk
cp -r results/pets disk/pets
mkdir disk/filler
number=0
while touch disk/filler/$number 2>errors; do number=$((number + 1)); done
grep -q "No space left" errors
rm disk/filler/0 disk/filler/1 disk/filler/2
status=0
"$0" -m vizsla train pictures --size 64 --out disk/pets --force || status=$?
rm -r disk/filler
for file in results/pets/*; do cmp "$file" "disk/pets/${file##*/}"; done
ls disk/pets/unfinished-*
exit $status
"""
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"vizsla: Cannot write disk/pets/unfinished-\w+/history\.csv: No space left on device\. "
        r"Nothing was left there\. Free some space, or choose a place on another disk\. "
        r"The earlier files in disk/pets are untouched\. "
        r"The unfinished new run is in disk/pets/unfinished-\w+\.\n",
        done.stderr,
    )
    assert done.stdout.splitlines()[-1] == "model.safetensors"


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="the device that is always full is of Linux"
)
def test_predictions_that_do_not_fit_on_the_disk_end_with_one_message(
    make_image: Callable[..., Path], make_classifier: Any
):
    make_image("new.jpg")
    classifier = make_classifier(("cross", "disc"))
    save_bundle("model.safetensors", classifier=classifier, resize=Resize(32))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vizsla", "predict", "model.safetensors", "new.jpg"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "vizsla: Cannot write to standard output: No space left on device. "
        "The output is not complete; free some space and run the command again.\n"
    )


# --- tracebacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--debug", "train", "none"), ("train", "none", "--debug")])
def test_debug_shows_the_traceback(vizsla: RunVizsla, words: tuple[str, ...]):
    done = vizsla(*words)
    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert "in resolve_data" in done.err
    assert (
        done.err.rstrip()
        .splitlines()[-1]
        .startswith("vizsla.errors.DataError: There is no folder 'none'.")
    )


def test_exact_duplicates_are_counted_and_named(vizsla: RunVizsla, image_folder: Path):
    shutil.copy(image_folder / "cross" / "cross_0.jpg", image_folder / "disc" / "a copy.jpg")
    line = "exact duplicates with different labels: 1 image in 2 files: 'cross/cross_0.jpg' (cross) = 'disc/a copy.jpg' (disc)"
    assert line in vizsla("check", "pictures").out
    (copies,) = json.loads(vizsla("check", "pictures", "--json").out)["copies"]
    assert (copies["kind"], copies["num_images"], copies["num_files"]) == ("different labels", 1, 2)
    assert ["disc/a copy.jpg", "disc"] in copies["examples"][0]
    done = vizsla("train", "pictures", "--size", "64", "--out", "run", "--epochs", "0", "--lr", "1")
    assert line in done.out
    assert "Not used, as there are no end-to-end epochs (--epochs): --lr\n" in done.out
    assert line in json.loads(Path("run/metrics.json").read_text("utf-8"))["notes"]
