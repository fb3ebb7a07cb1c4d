"""Promises about Ctrl-C, typed into a real terminal: the best so far is saved, or nothing is left, and the terminal is sane."""

from __future__ import annotations

import csv
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vizsla import Predictor

termios = pytest.importorskip("termios", reason="terminals as POSIX systems have them")

# The terminal becomes that of the process, so that its Ctrl-C reaches it as it does from a keyboard.
COMMAND = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from vizsla.cli.app import main
main()
"""
CTRL_C = b"\x03"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
SECONDS_AT_MOST = 200


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code, all that it wrote, and whether the terminal's settings are those of before."""

    code: int
    screen: str
    settings_kept: bool

    @property
    def last_words(self) -> str:
        """What was written last, without what moves the cursor."""
        return re.sub(r"\x1b\[[?\d;]*\w", "", self.screen).replace("\r", "").split("^C")[-1]


def press_ctrl_c(*words: str, folder: Path, at: bytes) -> Ended:
    """Run vizsla in a terminal and type Ctrl-C as soon as ``at`` is on the screen."""
    ours, its = os.openpty()
    settings = termios.tcgetattr(its)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    screen = b""
    deadline = time.monotonic() + SECONDS_AT_MOST
    pressed = False
    try:
        while True:
            if select.select([ours], [], [], 0.05)[0]:
                screen += os.read(ours, 65536)
            elif process.poll() is not None:
                break
            assert time.monotonic() < deadline, screen[-2000:]
            if not pressed and at in screen:
                os.write(ours, CTRL_C)
                pressed = True
        settings_kept = termios.tcgetattr(its) == settings
    finally:
        process.kill()
        process.wait()
        os.close(its)
        os.close(ours)
    assert pressed, screen[-2000:]
    return Ended(
        code=process.returncode,
        screen=screen.decode(errors="replace"),
        settings_kept=settings_kept,
    )


def assert_terminal_is_sane(ended: Ended) -> None:
    assert ended.settings_kept
    assert HIDE_CURSOR in ended.screen, "no bar was shown"
    assert ended.screen.rfind(SHOW_CURSOR) > ended.screen.rfind(HIDE_CURSOR)
    assert "Traceback" not in ended.screen


def test_ctrl_c_while_features_are_computed_leaves_no_run_folder(
    draw_folder: Callable[..., Path], tmp_path: Path
):
    # So many images, at this size, that the stage lasts for seconds.
    draw_folder(tmp_path / "pictures", per_class=100)
    ended = press_ctrl_c(
        *("train", "pictures", "--size", "224", "--out", "run"),
        folder=tmp_path,
        at=b"features, training",
    )
    assert ended.code == 130
    assert_terminal_is_sane(ended)
    assert ended.last_words.endswith("vizsla: Stopped by Ctrl-C. There was no model to save yet.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_ctrl_c_in_an_end_to_end_epoch_saves_the_best_state(image_folder: Path):
    folder = image_folder.parent
    ended = press_ctrl_c(
        *("train", "pictures", "--size", "32", "--bs", "4", "--epochs", "12", "--out", "run"),
        folder=folder,
        at=b"epoch 3/12",
    )
    assert ended.code == 130
    assert_terminal_is_sane(ended)
    assert "Stopped by Ctrl-C; the best state so far is kept." in ended.last_words
    assert "Results: run/" in ended.last_words
    metrics = json.loads((folder / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["interrupted"] is True
    stopped = r"Then \d+ of 12 end-to-end epochs; kept: ([\w ]+)\. Stopped early by Ctrl-C\."
    found = re.search(stopped, (folder / "run" / "report.html").read_text("utf-8"))
    assert found is not None
    assert_kept_state_was_saved(folder, found[1])


def assert_kept_state_was_saved(folder: Path, kept: str) -> None:
    """The model is that of the epoch that was kept, or the head on frozen features, and the predictions are its own."""
    with (folder / "run" / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    with (folder / "run" / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert [row["stage"] for row in history].count("end to end") >= 2
    stage = "end to end" if kept.startswith("epoch") else "head"
    last = [row for row in history if row["stage"] == stage][-1]
    losses = [float(row["loss"]) for row in predictions]
    assert sum(losses) / len(losses) == pytest.approx(float(last["valid_loss"]), rel=1e-4)
    predictor = Predictor.load(folder / "run" / "model.safetensors", device="cpu")
    for row in predictions:
        prediction = predictor.predict(folder / "pictures" / row["path"])
        assert prediction.label == row["prediction"]
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=1e-4)
