"""``vizsla serve`` in a real browser: images are sent and answered, errors are shown, the keyboard is enough, nothing leaves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vizsla import Predictor, Resize, read_fixes
from vizsla.infer import compute_logits
from vizsla.model_file import save_bundle

if TYPE_CHECKING:
    from .conftest import Browser  # noqa: TID252 (tests/conftest.py has the plain name)

pytestmark = pytest.mark.slow

PHONE, DESK = 390, 1280
VOCAB = ("cross", "disc", "<b>none</b>")


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
                found = re.search(r"at (http://\S+)", line)
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
    assert "of the validation images were as unlike all of the classes as this one. 5 % of the images of known classes get this notice too." in notices[foreign]  # fmt: skip
    said = browser.evaluate("document.querySelector('#status').textContent")
    assert ("Looks like none of the classes" in said) == bool(
        answers[0 if said.startswith("a cross") else 1].none_of_these
    )
    assert browser.layout() == {"cut": [], "width": width, "visible": width}
    assert browser.nameless() == []
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
    found = browser.layout()
    assert found == {"cut": [], "width": width, "visible": width}
    assert browser.nameless() == []
    # A tall image is seen whole.
    assert browser.evaluate("[...document.querySelectorAll('.thumb')].every(t => t.scrollHeight <= t.clientHeight + 1)")  # fmt: skip
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
    assert corner == ((0x16, 0x18, 0x1B) if dark else (0xFA, 0xF9, 0xF6))


def test_an_example_is_classified_corrected_and_saved(browser: Browser, folder: Path, tmp_path: Path):  # fmt: skip
    words = ("--examples", folder / "known", "--fixes", tmp_path / "fixes.csv")
    with serving(folder / "shapes.safetensors", *words) as (address, _):
        browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
        browser.open(address, width=PHONE, dark=True)
        browser.wait("document.querySelector('#example-list button')")
        assert "Ctrl" not in browser.evaluate("document.body.innerText")
        assert browser.evaluate("document.querySelector('#camera').offsetHeight") >= 44
        assert browser.evaluate("document.querySelector('#photo').getAttribute('capture')") == "environment"  # fmt: skip
        browser.evaluate("document.querySelector('#example-list button').click()")
        browser.wait("document.querySelector('.verdict:not([hidden])')")
        browser.evaluate("URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; }")  # fmt: skip
        browser.evaluate("document.querySelector('#save').click()")
        browser.wait("window.saved")
        header, row, _ = browser.evaluate("window.saved").split("\r\n")
        assert header == "path,prediction,probability,prob_cross,prob_disc,prob_<b>none</b>"
        assert row.startswith("example 1.jpg,")
        browser.evaluate("document.querySelector('.correct form').requestSubmit()")
        browser.wait("!document.querySelector('.corrected').hidden")
        chosen = browser.evaluate("document.querySelector('.correct select').value")
        [fix] = read_fixes(tmp_path / "fixes.csv")
        assert (fix.action, fix.label) == ("add", chosen)
        assert Path(fix.path).is_file()
        browser.open(address.partition("#")[0], width=PHONE)
        browser.choose(folder / "a cross.png")
        assert browser.evaluate("document.querySelector('.correct').hidden")  # without the token
        assert browser.layout() == {"cut": [], "width": PHONE, "visible": PHONE}
        assert browser.nameless() == []
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_no_request_leaves_the_server(browser: Browser, server: str, folder: Path):
    browser.open(server)
    browser.choose(folder / "a cross.png")
    assert len(browser.requested) >= 4
    assert [url for url in browser.requested if not url.startswith((server, "blob:", "data:", "about:"))] == []  # fmt: skip


def test_the_interface_has_a_page_that_lists_its_calls(browser: Browser, server: str):
    browser.open(f"{server}api", width=PHONE)
    browser.wait("document.querySelectorAll('.call').length === 5")
    assert browser.layout()["cut"] == []
    text = browser.evaluate("document.body.innerText")
    assert f"{server}api/predict" in text
    assert "POST/api/predict" in text.replace(" ", "")
    assert browser.complaints == []
