"""``vizsla serve`` in a real browser: images are sent and answered, errors are shown, the keyboard is enough, nothing leaves."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vizsla import Predictor, Resize
from vizsla.infer import compute_logits
from vizsla.model_file import save_bundle

PHONE, DESK = 390, 1280
VOCAB = ("cross", "disc", "<b>none</b>")
# The browser reads commands from file 3 and answers on file 4, JSON with a zero byte after each.
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
# Texts that stick out at the sides, and the width that the page needs.
PROBE = """(() => {
  const cut = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest(".hidden, .skip, pre, noscript")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width && (box.left < 0 || box.right > document.documentElement.clientWidth)) cut.push(node.data.trim());
    }
  }
  return {cut, width: document.documentElement.scrollWidth, visible: document.documentElement.clientWidth};
})()"""
# Form controls and links without a name that a screen reader could say, and images without an alt attribute.
NAMELESS = """[...document.querySelectorAll("button, a, input, img, section")].filter((one) =>
  one.offsetParent !== null && !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") ||
  one.textContent.trim() || one.hasAttribute("alt"))).map((one) => one.outerHTML)"""


class Browser:
    """A page of a headless Chromium, driven by the DevTools protocol."""

    def __init__(self, *command: str) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(commands), str(answers), *command,
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requested: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        return message

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of what it promises."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        assert self.evaluate(
            f"""new Promise((resolve) => {{
              const until = performance.now() + {1000 * seconds};
              const look = () => ({condition}) ? resolve(true)
                : performance.now() > until ? resolve(false) : setTimeout(look, 20);
              look();
            }})"""
        ), (
            f"{condition} did not come true; the page says {self.evaluate('document.body.innerText')}"
        )

    def open(self, address: str, *, width: int = DESK, dark: bool = False) -> None:
        self.requested.clear()
        self.complaints.clear()
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {address!r} && document.readyState === 'complete'")
        self.wait("!document.querySelector('#about') || !document.querySelector('#about').hidden")

    def choose(self, *paths: Path) -> None:
        """Give files to the page's file input, as its dialog would, and wait for the answers."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])
        self.wait(f"document.querySelectorAll('.answer').length >= {len(paths)}")
        self.wait("!document.querySelector('[aria-busy]')")

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def screenshot(self, path: Path) -> None:
        """Write an image of the whole page."""
        shown = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))


@pytest.fixture(scope="module")
def browser(
    chromium: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    opened = Browser(*chromium, f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    yield opened
    opened.close()


@contextmanager
def serving(*words: object, port: str = "0") -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Run ``vizsla serve``, on a free port: its address and its process, which is stopped at the end."""
    command = [sys.executable, "-m", "vizsla", "serve", *map(str, words), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                found = re.search(r"at (http://\S+/)", line)
                if found:
                    break
            else:
                raise AssertionError(said)
            yield found.group(1), process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    draw: Callable[..., Image.Image],
    draw_folder: Callable[..., Path],
    make_classifier: Any,
) -> Path:
    """A model file, a folder of training images, and files to send."""
    made = tmp_path_factory.mktemp("serve")
    model = make_classifier(VOCAB)
    save_bundle(made / "shapes.safetensors", classifier=model, resize=Resize(64))
    draw_folder(made / "known", per_class=4)
    draw("cross", number=9).save(made / "a cross.png")
    draw("disc", number=9, size=(90, 40)).save(made / "a disc.jpg")
    (made / "no picture.jpg").write_text("<script>document.title = 'stolen'</script>")
    noise = np.random.default_rng(0).integers(0, 255, (260, 260, 3), dtype=np.uint8)
    Image.fromarray(noise).save(made / "too many bytes.png")
    Image.new("RGB", (1200, 1000)).save(made / "too many pixels.png")
    draw("cross", number=3).save(made / "<img src=x onerror=alert(1)>.png")
    return made


@pytest.fixture(scope="module")
def trusting(folder: Path, make_calibration: Any) -> Path:
    """A model file for which "a cross.png" may be two of its classes, and all other images look foreign."""
    path = folder / "trusting.safetensors"
    predictor = Predictor.load(folder / "shapes.safetensors")
    first, second, third = sorted(predictor.predict(folder / "a cross.png").probabilities.tolist())[::-1]  # fmt: skip
    largest = {}
    for name in ("a cross.png", "a disc.jpg"):
        pixels = predictor.prepare(folder / name)
        largest[name] = compute_logits(predictor.classifier, predictor.network_input([pixels])).max().item()  # fmt: skip
    assert largest["a cross.png"] != largest["a disc.jpg"]
    middle = sum(largest.values()) / 2
    calibration = make_calibration(
        temperature=1.0,
        thresholds=((first + second) / 2, (second + third) / 2),
        quantiles=(middle - 100, middle + 100),
        foreign_below=middle,
    )
    return save_bundle(
        path, classifier=predictor.classifier, resize=Resize(64), calibration=calibration
    )


@pytest.fixture(scope="module")
def trusting_server(trusting: Path) -> Iterator[str]:
    with serving(trusting) as (address, _):
        yield address


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    words = ("--nearest", folder / "known", "--max-mb", "0.15", "--max-megapixels", "1")
    with serving(folder / "shapes.safetensors", *words) as (address, _):
        yield address


def test_an_image_gets_answer_heat_map_and_nearest(browser: Browser, server: str, folder: Path):
    browser.open(server)
    browser.choose(folder / "a cross.png")
    browser.wait("document.querySelector('.verdict:not([hidden])')")
    expected = Predictor.load(folder / "shapes.safetensors").predict(folder / "a cross.png")
    assert browser.evaluate("document.querySelector('.verdict .label').textContent") == expected.label  # fmt: skip
    names = browser.evaluate(
        "[...document.querySelectorAll('.bars .name')].map(n => n.textContent)"
    )
    assert sorted(names) == sorted(VOCAB)
    shown = browser.evaluate("document.querySelector('.bars .value').textContent")
    assert shown == f"{100 * expected.probability:.1f}\u202f%"
    browser.wait("document.querySelector('.heat img').naturalWidth === 64")
    browser.wait("[...document.querySelectorAll('.near img')].every(i => i.naturalWidth > 0)")
    assert browser.evaluate("document.querySelectorAll('.near li').length") == 6
    assert browser.complaints == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_an_answer_has_its_label_set_and_says_if_foreign(
    browser: Browser, trusting: Path, trusting_server: str, folder: Path, width: int
):
    predictor = Predictor.load(trusting)
    answers = [predictor.predict(folder / name, coverage=0.9) for name in ("a cross.png", "a disc.jpg")]  # fmt: skip
    assert sorted(bool(answer.none_of_these) for answer in answers) == [False, True]
    known, foreign = sorted((0, 1), key=lambda place: bool(answers[place].none_of_these))
    browser.open(trusting_server, width=width)
    browser.choose(folder / "a cross.png", folder / "a disc.jpg")
    sets, notices = (
        browser.evaluate(
            f"[...document.querySelectorAll('.answer {part}')].map(n => n.hidden ? '' : n.textContent.replace(/\\s+/g, ' ').trim())"
        )
        for part in (".set", ".foreign")
    )
    labels = answers[known].label_set or ()
    words = f"Only {labels[0]}" if len(labels) == 1 else " or ".join(labels)
    stated = "This set holds the true label in 90 % of images like those of validation."
    assert sets[known] == f"{words} {stated}"
    assert sets[foreign] == ""  # "Only a cross" would contradict the notice
    assert notices[known] == ""
    assert notices[foreign].startswith("Looks like none of the classes ")
    assert "of the validation images were as little like any of the classes as this one. 5 % of the images of known classes get this notice too." in notices[foreign]  # fmt: skip
    said = browser.evaluate("document.querySelector('#status').textContent")
    assert ("Looks like none of the classes" in said) == bool(
        answers[0 if said.startswith("a cross") else 1].none_of_these
    )
    assert browser.evaluate(PROBE) == {"cut": [], "width": width, "visible": width}
    assert browser.evaluate(NAMELESS) == []
    facts = browser.evaluate("document.querySelector('#facts').innerText")
    assert (
        "As the model gives them; calibration error 10.0\u202f% on 40\u202fvalidation images"
        in facts
    )
    assert browser.complaints == []


def test_a_label_set_is_put_into_words(browser: Browser, server: str, folder: Path):
    browser.open(server)
    for labels, words in (
        (["a"], "Only a"),
        (["a", "b"], "a or b"),
        (["a", "<b>", "c"], "a, <b> or c"),
        (list("abcdefgh"), "a, b, c, d, e, f, g or h"),
        (list("abcdefghij"), "a, b, c, d, e, f, g or one of 3 others"),
        ([str(number) for number in range(20)], "Any of the 20\u202fclasses"),
    ):
        assert browser.evaluate(f"setWords({json.dumps(labels)}, 20)") == words
    browser.choose(folder / "a cross.png")  # this model has none
    assert browser.evaluate("document.querySelector('.set').hidden")
    assert browser.evaluate("document.querySelector('.foreign').hidden")
    assert "Calibrated" not in browser.evaluate("document.querySelector('#facts').innerText")


def test_every_failure_is_said_in_words_on_its_card(browser: Browser, server: str, folder: Path):
    browser.open(server)
    names = ("no picture.jpg", "too many bytes.png", "too many pixels.png", "a disc.jpg")
    browser.choose(*(folder / name for name in names))
    faults = browser.evaluate(
        "[...document.querySelectorAll('.answer')].map(a => a.querySelector('.fault').hidden ? '' : a.querySelector('.fault').innerText)"
    )
    assert faults[0].startswith("Cannot be read\n\nNot an image: text")
    assert faults[1].startswith("Too big\n\nIt has 0.2\u202fMB, and this server takes 0.15\u202fMB")
    assert faults[2].startswith("Too big\n\nIt has 1200 x 1000 pixels, more than 1 million")
    assert faults[3] == ""
    assert browser.evaluate("document.title") != "stolen"


def test_a_stopped_server_is_said_and_trying_again_works(browser: Browser, folder: Path):
    with serving(folder / "shapes.safetensors") as (address, process):
        browser.open(address)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        browser.choose(folder / "a cross.png")
        browser.wait("!document.querySelector('.again').hidden")
        assert "does not answer" in browser.evaluate("document.querySelector('.fault').innerText")
        assert "does not answer" in browser.evaluate("document.querySelector('#status').textContent")  # fmt: skip
    with serving(folder / "shapes.safetensors", port=address.split(":")[-1].strip("/")):
        browser.evaluate("document.querySelector('.again').click()")
        browser.wait("!document.querySelector('.verdict').hidden")
        assert browser.evaluate("document.querySelector('.fault').hidden")


def test_names_are_shown_as_text_and_not_as_markup(browser: Browser, server: str, folder: Path):
    browser.open(server)
    name = "<img src=x onerror=alert(1)>.png"
    browser.choose(folder / name)
    assert browser.evaluate("document.querySelector('.path').textContent") == name
    assert browser.evaluate("document.querySelectorAll('.path img').length") == 0


def test_an_image_can_be_pasted_and_dropped(browser: Browser, server: str):
    browser.open(server)
    for kind, event in (
        ("paste", "new ClipboardEvent('paste', {clipboardData: carried})"),
        ("drop", "new DragEvent('drop', {dataTransfer: carried})"),
    ):
        browser.evaluate(
            f"""(async () => {{
              const canvas = new OffscreenCanvas(40, 40);
              canvas.getContext("2d").fillRect(4, 4, 20, 20);
              const carried = new DataTransfer();
              carried.items.add(new File([await canvas.convertToBlob()], "{kind}.png", {{type: "image/png"}}));
              dispatchEvent({event});
            }})()"""
        )
        browser.wait(f"document.querySelector('.answer .path').textContent === '{kind}.png'")
        browser.wait("!document.querySelector('[aria-busy]')")
        assert browser.evaluate("document.querySelector('.answer .fault').hidden")


def test_the_keyboard_is_enough(browser: Browser, server: str, folder: Path):
    browser.open(server)
    browser.evaluate("byId('files').addEventListener('click', (e) => { window.asked = true; e.preventDefault(); })")  # fmt: skip
    for _ in range(6):
        browser.press("Tab", 9)
        if browser.evaluate("document.activeElement.id") == "choose":
            break
    browser.press("Enter", 13)
    assert browser.evaluate("window.asked")
    browser.choose(folder / "a cross.png", folder / "a disc.jpg")
    reached: list[str] = []
    for _ in range(5):
        browser.press("Tab", 9)
        reached.append(browser.evaluate("document.activeElement.textContent.trim()"))
    assert "Remove all" in reached
    assert reached.count("Remove") == 2
    browser.evaluate("document.querySelector('.answer .remove').focus()")
    browser.press("Enter", 13)
    assert browser.evaluate("document.querySelectorAll('.answer').length") == 1
    assert browser.evaluate("document.activeElement.className") == "plain remove"


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_every_part_has_a_name(
    browser: Browser, server: str, folder: Path, tmp_path: Path, width: int, dark: bool
):
    browser.open(server, width=width, dark=dark)
    browser.choose(folder / "a disc.jpg", folder / "no picture.jpg")
    found = browser.evaluate(PROBE)
    assert found == {"cut": [], "width": width, "visible": width}
    assert browser.evaluate(NAMELESS) == []
    # A tall image is seen whole.
    assert browser.evaluate("[...document.querySelectorAll('.thumb')].every(t => t.scrollHeight <= t.clientHeight + 1)")  # fmt: skip
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
    assert corner == ((0x16, 0x18, 0x1B) if dark else (0xFA, 0xF9, 0xF6))


def test_no_request_leaves_the_server(browser: Browser, server: str, folder: Path):
    browser.open(server)
    browser.choose(folder / "a cross.png")
    assert len(browser.requested) >= 4
    assert [url for url in browser.requested if not url.startswith((server, "blob:", "data:", "about:"))] == []  # fmt: skip


def test_the_interface_has_a_page_that_lists_its_calls(browser: Browser, server: str):
    browser.open(f"{server}api", width=PHONE)
    browser.wait("document.querySelectorAll('.call').length === 5")
    assert browser.evaluate(PROBE)["cut"] == []
    text = browser.evaluate("document.body.innerText")
    assert f"{server}api/predict" in text
    assert "POST/api/predict" in text.replace(" ", "")
    assert browser.complaints == []
