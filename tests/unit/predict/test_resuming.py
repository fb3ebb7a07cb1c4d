"""A file of predictions that was stopped anywhere and resumed is the file of a run that was not stopped."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vizsla.errors import ConfigError, OutputError
from vizsla.predict.files import part_of, settings_of
from vizsla.predict.formats import Format
from vizsla.predict.parquet import parts_of
from vizsla.predict.stream import PathSource, Predicted, PredictOptions, write_predictions

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = PredictOptions(device="cpu", num_workers=1, batch_size=4, coverage=0.9)
FORMS = [Format.csv, Format.json, Format.parquet]


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stop_after(number: int) -> Callable[[int], None]:
    def move(done: int) -> None:
        if done == number:
            raise StoppedError

    return move


def written(
    model: Path,
    paths: list[Path],
    file: Path,
    form: Format,
    *,
    options: PredictOptions = OPTIONS,
    resume: bool = False,
    force: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Predicted | None:
    if form is Format.parquet:
        pytest.importorskip("pyarrow")
    return write_predictions(
        model,
        PathSource(paths=paths),
        file=file,
        form=form,
        options=options,
        resume=resume,
        force=force,
        on_progress=on_progress,
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_file_has_a_row_for_each_picture_in_order_and_nothing_is_left_beside_it(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path, form: Format
):
    file = tmp_path / "out" / "predictions"
    file.parent.mkdir()
    done = written(calibrated, few_pictures, file, form)
    assert done is not None
    assert (done.num_pictures, done.num_failed, done.num_before) == (7, 1, 0)
    assert [path.name for path in file.parent.iterdir()] == ["predictions"]
    if form is Format.parquet:
        import pyarrow.parquet as parquet

        rows = parquet.read_table(file).to_pylist()
        assert rows[3]["prediction"] is None
        assert rows[3]["prob_a"] is None
        assert 0 < rows[0]["prob_a"] < 1
    elif form is Format.csv:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["prediction"] == "" for row in rows] == [number == 3 for number in range(7)]
    else:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in few_pictures]
    assert rows[3]["error"] == "it is no picture but text that begins with 'Dear diary'"
    assert ("label_set" in rows[0], "familiarity" in rows[0]) == (True, True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [1, 4, 9, 13])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path, form: Format, stop: int
):
    whole, file, paths = tmp_path / "whole", tmp_path / "file", [*few_pictures, *few_pictures]
    written(calibrated, paths, whole, form)
    with pytest.raises(StoppedError):
        written(calibrated, paths, file, form, on_progress=stop_after(stop))
    assert not file.exists()
    done = written(calibrated, paths, file, form, resume=True)
    assert done is not None
    assert done.num_before + done.num_pictures == 14
    assert file.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
        [*(path.name for path in few_pictures), "file", "whole"]
    )
    assert not parts_of(file).exists()
    assert written(calibrated, paths, file, form, resume=True) is None


@pytest.mark.parametrize("form", [Format.csv, Format.json])
def test_a_part_that_was_cut_anywhere_goes_on_to_the_same_bytes(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path, form: Format
):
    whole, file = tmp_path / "whole", tmp_path / "file"
    written(calibrated, few_pictures, whole, form)
    with pytest.raises(StoppedError):
        written(calibrated, few_pictures, file, form, on_progress=stop_after(7))
    content, settings = part_of(file).read_bytes(), settings_of(file).read_bytes()
    assert content == whole.read_bytes()
    for end in {0, 1, 40, *range(100, len(content), len(content) // 12), len(content)}:
        part_of(file).write_bytes(content[:end])
        settings_of(file).write_bytes(settings)
        written(calibrated, few_pictures, file, form, resume=True)
        assert file.read_bytes() == content


def test_parquet_rows_come_in_groups_of_whole_batches_and_a_lost_part_is_made_again(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("vizsla.predict.parquet.ROWS", 6)
    whole, file, paths = tmp_path / "whole", tmp_path / "file", [*few_pictures, *few_pictures]
    written(calibrated, paths, whole, Format.parquet)
    metadata = parquet.ParquetFile(whole).metadata
    assert [metadata.row_group(group).num_rows for group in range(4)] == [4, 4, 4, 2]
    for stop, kept in ((3, 0), (4, 4), (14, 12)):
        with pytest.raises(StoppedError):
            written(calibrated, paths, file, Format.parquet, on_progress=stop_after(stop))
        done = written(calibrated, paths, file, Format.parquet, resume=True)
        assert done is not None
        assert done.num_before == kept
        assert file.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_other_pictures_or_options_are_not_mixed_in(
    calibrated: Path,
    few_pictures: list[Path],
    tmp_path: Path,
    form: Format,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("vizsla.predict.parquet.ROWS", 4)
    file = tmp_path / "file"
    with pytest.raises(StoppedError):
        written(calibrated, few_pictures, file, form, on_progress=stop_after(5))
    with pytest.raises(ConfigError, match="Go on with --resume, or predict anew with --force"):
        written(calibrated, few_pictures, file, form)
    with pytest.raises(ConfigError, match=r"--tta was 1 and is 2"):
        written(
            calibrated, few_pictures, file, form, options=replace(OPTIONS, views=2), resume=True
        )
    swapped = [few_pictures[1], few_pictures[0], *few_pictures[2:]]
    with pytest.raises(ConfigError, match=r"Row 1 .* is about '.*a\.png', and now it is '.*comma"):
        written(calibrated, swapped, file, form, resume=True)
    with pytest.raises(ConfigError, match=r"Row 3 .* and now there is no such picture"):
        written(calibrated, few_pictures[:2], file, form, resume=True)
    done = written(calibrated, swapped, file, form, force=True)
    assert done is not None
    assert (done.num_pictures, done.num_before) == (7, 0)


def test_an_old_file_is_there_until_the_new_one_is_whole(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path
):
    file = tmp_path / "file.csv"
    file.write_text("old")
    with pytest.raises(StoppedError):
        written(calibrated, few_pictures, file, Format.csv, on_progress=stop_after(5))
    assert file.read_text() == "old"
    written(calibrated, few_pictures, file, Format.csv, resume=True)
    assert file.read_text("utf-8").startswith("path,")


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_opened(tmp_path: Path):
    none, source = tmp_path / "none.safetensors", PathSource(paths=[tmp_path])
    for file in (tmp_path, tmp_path / "nowhere" / "file.csv"):
        with pytest.raises(OutputError, match="Choose another file"):
            write_predictions(none, source, file=file, form=Format.csv)


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from vizsla.predict.predictor import Predictor
from vizsla.predict.stream import PathSource
from vizsla.predict.formats import Format
from vizsla.predict.stream import PredictOptions, write_predictions

torch.set_num_threads(1)
model, listing, folder = map(Path, sys.argv[1:4])
form, chance = Format(sys.argv[4]), random.Random(int(sys.argv[5]))
options = PredictOptions(device="cpu", num_workers=2, batch_size=8)
Predictor.load(model, device="cpu")  # what that imports need not be imported by each child
if form is Format.parquet:
    import pyarrow.parquet
    import vizsla.predict.parquet
    vizsla.predict.parquet.ROWS = 16

def start(file):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        source = PathSource(lists=[listing])
        write_predictions(model, source, file=file, form=form, options=options, resume=True)
        code = 0
    finally:
        os._exit(code)

started = time.perf_counter()
assert os.waitpid(start(folder / "whole"), 0)[1] == 0
seconds, kills = time.perf_counter() - started, 0
while True:
    child = start(folder / "killed")
    time.sleep(chance.uniform(0.3, 0.8) * seconds)
    if kills < 6:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    kills += 1
print(kills)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes")
@pytest.mark.parametrize(
    "form",
    [
        Format.csv,
        pytest.param(Format.json, marks=pytest.mark.slow),
        pytest.param(Format.parquet, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_loses_and_doubles_nothing(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path, form: Format
):
    if form is Format.parquet:
        pytest.importorskip("pyarrow")
    listing = tmp_path / "list"
    listing.write_bytes(
        b"".join(bytes(path) + b"\n" for path in few_pictures if "\n" not in str(path)) * 15
    )
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            KILLED_AGAIN_AND_AGAIN,
            calibrated,
            listing,
            tmp_path,
            form,
            "7",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 2
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    shutil.rmtree(tmp_path / "killed.parts.done", ignore_errors=True)
    assert not part_of(tmp_path / "killed").exists()


@pytest.mark.slow
def test_memory_is_flat_over_twenty_thousand_pictures(
    calibrated: Path, few_pictures: list[Path], tmp_path: Path
):
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    listing = tmp_path / "list"
    one = b"".join(bytes(path) + b"\n" for path in few_pictures if "\n" not in str(path))
    listing.write_bytes(one * (20_000 // 6 + 1))
    seen: dict[int, int] = {}

    def note(done: int) -> None:
        if done % 4_000 == 0:
            seen[done] = resident_bytes()

    done = write_predictions(
        calibrated,
        PathSource(lists=[listing]),
        file=tmp_path / "out.csv",
        form=Format.csv,
        options=PredictOptions(device="cpu", num_workers=2),
        on_progress=note,
    )
    assert done is not None
    assert done.num_pictures >= 20_000
    assert seen[20_000] - seen[4_000] < 8_000_000
