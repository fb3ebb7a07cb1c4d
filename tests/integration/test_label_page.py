"""``vizsla label`` in a real browser, by keyboard: twenty labels, one undone, a kill, and a training on what is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vizsla import read_fixes

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import LabelServer
    from PIL import Image

    from .conftest import Browser  # noqa: TID252 (tests/conftest.py has the plain name)

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>"
KEYS = {"Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}
PHONE, DESK = 390, 1280


def press(browser: Browser, key: str) -> None:
    browser.press(key, KEYS.get(key) or ord(key.upper()))


def settle(browser: Browser) -> None:
    """Wait until every decision is saved, and what came of it is shown."""
    browser.wait("!page.waiting.length && !page.sending && page.cards.length")


def name_class(browser: Browser, name: str) -> None:
    """Label the image with a class of a new name, by keyboard."""
    press(browser, "/")
    browser.call("Input.insertText", text=name)
    press(browser, "Enter")
    browser.wait("!document.querySelector('#search').open")
    settle(browser)


@pytest.fixture
def photos(tmp_path: Path, draw: Callable[..., Image.Image]) -> Path:
    """Forty images that nobody has labelled; their names say nothing but which kind they are."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        kind = ("cross", "disc")[number % 2]
        draw(kind, number=number).save(folder / f"{number:02} {HOSTILE}.png")
    return folder


def test_twenty_labels_by_keyboard_outlive_a_kill_and_are_trained_on(
    browser: Browser, label_server: LabelServer, photos: Path, tmp_path: Path
):
    fixes = tmp_path / "photos-fixes.csv"

    def kind_of_current() -> str:
        return ("cross", "disc")[int(browser.evaluate("page.cards[page.at].path.slice(0, 2)")) % 2]

    with label_server(tmp_path, 64, "photos") as (address, process):
        browser.open(address)
        settle(browser)
        first = kind_of_current()
        name_class(browser, first)
        while first == kind_of_current():
            press(browser, "1")
            settle(browser)
        name_class(browser, kind_of_current())
        keys = {name: str(place + 1) for place, name in enumerate(browser.evaluate("page.state.classes.map((one) => one.name)"))}  # fmt: skip
        while browser.evaluate("page.state.counts.decided") < 20:
            press(browser, keys[kind_of_current()])
            settle(browser)
        last = browser.evaluate("page.state.latest.image")
        press(browser, "u")
        settle(browser)
        assert browser.evaluate("[page.state.counts.decided, page.cards[page.at].image]") == [19, last]  # fmt: skip
        press(browser, keys[kind_of_current()])  # and at once, with the server gone before the next
        settle(browser)
        browser.wait("page.state.accuracy && !document.querySelector('#rather').hidden", seconds=30)
        assert browser.complaints == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        press(browser, "1")
        browser.wait("!document.querySelector('#trouble').hidden")
        assert browser.evaluate("page.waiting.length") == 1  # it is said, and kept
    decided = read_fixes(fixes)
    assert len(decided) == 20
    browser.evaluate("page.waiting = []")  # leaving the page would be asked about
    with label_server(tmp_path, 64, "photos") as (address, process):
        browser.open(address)
        settle(browser)
        assert browser.evaluate("page.state.counts.decided") == 20
        press(browser, "u")  # what the process before did
        settle(browser)
        assert read_fixes(fixes) == decided[:-1]
        press(browser, keys[kind_of_current()])
        settle(browser)
        command = browser.evaluate("document.querySelector('#command').textContent")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert command in process.stdout.read()
    assert command == "vizsla train photos --fixes photos-fixes.csv"
    words = [sys.executable, "-m", *command.split(), "--size", "64", "--device", "cpu", "--out", "run"]  # fmt: skip
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert trained["facts"]
    fixes_of_run = {(Path(fix.path).name, fix.label) for fix in read_fixes(tmp_path / "run" / "fixes.csv")}  # fmt: skip
    assert fixes_of_run == {(fix.path, fix.label) for fix in read_fixes(fixes)}
    assert all(label == ("cross", "disc")[int(name[:2]) % 2] for name, label in fixes_of_run)
    assert sorted(path.name for path in photos.iterdir()) == [f"{n:02} {HOSTILE}.png" for n in range(40)]  # fmt: skip


def test_two_tabs_see_one_another_and_the_page_fits_everywhere(
    browser: Browser, label_server: LabelServer, photos: Path, tmp_path: Path
):
    words = [word for name in (HOSTILE, "w" * 80, *"abcdefghij") for word in ("--classes", name)]
    with label_server(tmp_path, 64, "photos", *words) as (address, _):
        for width, dark in ((PHONE, True), (DESK, False)):
            browser.open(address, width=width, dark=dark)
            settle(browser)
            assert browser.layout() == {"cut": [], "width": width, "visible": width}
            assert browser.nameless() == []
            assert browser.evaluate("document.querySelectorAll('#classes img, #path img').length") == 0  # fmt: skip
        # Another page decides first: this one says so and keeps its own answer.
        other = """(async () => {
          const {image, version} = page.cards[page.at];
          const headers = {"x-token": token, "content-type": "application/json"};
          const body = JSON.stringify({image, action: "drop", version});
          return (await fetch("/api/decide", {method: "POST", headers, body})).status;
        })()"""
        assert browser.evaluate(other) == 200
        press(browser, "1")
        settle(browser)
        browser.wait("!document.querySelector('#conflict').hidden")
        assert [fix.action for fix in read_fixes(tmp_path / "photos-fixes.csv")] == ["drop"]
        browser.evaluate("document.querySelector('#mine').click()")
        settle(browser)
        labels = [fix.label for fix in read_fixes(tmp_path / "photos-fixes.csv")]
        assert labels == ["", HOSTILE]
        assert browser.evaluate("document.querySelector('#conflict').hidden")
        # A class beyond the ninth key is found by its letters.
        press(browser, "/")
        browser.call("Input.insertText", text="J")
        assert browser.evaluate("found()[page.picked].name") == "j"
        press(browser, "Enter")
        settle(browser)
        assert read_fixes(tmp_path / "photos-fixes.csv")[-1].label == "j"
        at = browser.evaluate("page.at")
        press(browser, "ArrowRight")
        assert browser.evaluate("page.at") == at + 1
        press(browser, "k")  # it has no label that could be right
        assert len(read_fixes(tmp_path / "photos-fixes.csv")) == 3
