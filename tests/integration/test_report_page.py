"""The report in a real browser: it fits a telephone, nothing overlaps or is cut, and no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import Audit, Predictions
from vizsla.auditing import Cue, Finding, Item, MoreData
from vizsla.data.images import find_duplicates, image_facts
from vizsla.evaluate import HistoryPoint, LabelNoise, summarise, worst_mistakes
from vizsla.infer import Evidence, Neighbour
from vizsla.report import ReportContent, write_report
from vizsla.types import ImageTable

PHONE, DESK = 390, 1280
# Headless Chromium makes no window narrower than 500 pixels, so a telephone is a frame in a wider page.
# It listens before the first frame may speak.
HOST = """<!doctype html><body style="margin:0"><script>
addEventListener("message", message => {{
  const line = document.createElement("pre");
  line.className = "answer";
  line.textContent = message.data;
  document.body.append(line);
}});
</script>{frames}"""
FRAME = '<iframe name="{name}" src="{address}" style="border:0;width:{width}px;height:{height}px"></iframe>'
# Sends the width of the page, the texts that stick out at the right, and the pairs of texts that overlap. What lies
# in a .scroll box may be reached by scrolling in it. Rectangles are shrunk: line boxes of neighbours may touch.
PROBE = """<script>addEventListener("load", () => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || ["SCRIPT", "STYLE"].includes(node.parentElement.tagName)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width && box.height) texts.push({node, box});
    }
  }
  const wide = document.documentElement.clientWidth;
  const cut = texts.filter(({node, box}) => box.left < 0 || (box.right > wide && !node.parentElement.closest(".scroll")));
  const overlaps = [];
  for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
    const [a, b] = [texts[i].box, texts[j].box];
    const height = 0.25 * Math.min(a.height, b.height);
    if (a.left + 2 < b.right && b.left + 2 < a.right && a.top + height < b.bottom - height && b.top + height < a.bottom - height) {
      overlaps.push(texts[i].node.data.trim() + " | " + texts[j].node.data.trim());
    }
  }
  // What the page's own script does: sort by a heading, and open what a link leads into.
  const names = () => [...document.querySelectorAll(".classes tbody tr")].map(row => row.cells[0].textContent);
  const supports = () => [...document.querySelectorAll(".classes tbody tr")].map(row => Number(row.cells[1].textContent));
  const buttons = [...document.querySelectorAll(".classes thead button")];
  const sorted = {buttons: buttons.length};
  if (buttons.length) {
    buttons[0].click();
    sorted.names = names();
    buttons[1].click();
    sorted.supports = supports();
  }
  const groups = document.querySelector("details.groups");
  if (groups) {
    groups.open = false;
    document.querySelector("td a").click();
    dispatchEvent(new HashChangeEvent("hashchange"));
    sorted.opened = groups.open;
  }
  parent.postMessage(JSON.stringify({sorted,
    name: window.name, width: document.documentElement.scrollWidth, visible: wide, texts: texts.length,
    cut: cut.map(({node}) => node.data.trim()), overlaps: overlaps,
  }), "*");
});</script>"""


@pytest.fixture(scope="module")
def browse(
    chromium: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Return a function that opens a page in a fresh browser and returns what that prints."""

    def run(page: Path, *flags: str) -> str:
        profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
        command = [*chromium, "--virtual-time-budget=3000", profile, *flags, page.as_uri()]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    return run


def make_content(
    folder: Path, *, vocab: Sequence[str], num_images: int, names: Sequence[str] = ()
) -> ReportContent:
    """Make a report on noise images, of which about one in five is wrong."""
    draws = torch.Generator().manual_seed(0)
    targets = torch.arange(num_images) % len(vocab)
    logits = torch.randn(num_images, len(vocab), generator=draws)
    logits[torch.arange(num_images), targets] += 2.0
    noise = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(16):
        name = names[number % len(names)] if names else f"{vocab[number % len(vocab)]}"
        paths.append(folder / f"{name[:200]}_{number}.jpg")
        shape = ((60, 90, 3), (90, 60, 3), (300, 8, 3))[number % 3]
        Image.fromarray(noise.integers(0, 255, shape, dtype=np.uint8)).save(paths[-1])
    table = ImageTable(
        root=folder,
        paths=tuple(paths[row % 16] for row in range(num_images)),
        targets=targets,
        vocab=tuple(vocab),
        train_rows=torch.arange(0),
        valid_rows=torch.arange(num_images),
        skipped=((folder / "empty.jpg", "not an image: the file is empty (0 bytes)"), (folder / ("s" * 90), "c" * 90)),
    )  # fmt: skip
    predictions = Predictions(
        rows=torch.arange(num_images),
        paths=tuple(table.shown_path(row) for row in range(num_images)),
        logits=logits,
        targets=targets,
        vocab=tuple(vocab),
    )
    history = tuple(
        HistoryPoint(
            stage=("features", "head", "whole network")[epoch // 4],
            epoch=epoch % 4,
            train_loss=1 / (epoch + 1),
            valid_loss=1 / (epoch + 1) ** 0.8,
            accuracy=1 - 0.5 / (epoch + 1),
            seconds=71.0,
        )
        for epoch in range(12)
    )
    return ReportContent(
        title="A report whose title is long enough to need more than one line on a telephone",
        facts=(
            ("Network", "efficientnet_lite0, 4.6 million parameters"),
            ("Data", "/data/a_rather_long_folder_name" * 6),
            ("Images", "600 to learn from, 200 held out"),
        ),
        history=history,
        metrics=summarise(predictions),
        references=(("SVM, Deitsch et al. 2019", 0.8244), ("CNN, Deitsch et al. 2019", 0.8842)),
        predictions=predictions,
        table=table,
        notes=("The weights keep their own licence.", "n" * 200),
        evidence=make_evidence(table, predictions),
        temperature=1.25,
        data=(
            (
                "From the file type alone 98 % (95\u201399 %) of the images are classified correctly.",
                "Save all alike.",
            ),
            ("n" * 200, ""),
        ),
    )


def make_evidence(table: ImageTable, predictions: Predictions) -> Evidence:
    """Make up what was found out about the images: heat maps, neighbours, file facts with copies in both sets."""
    worst = worst_mistakes(predictions, 12).tolist()
    rows = (0, min(1, len(table.paths) - 1), min(5, len(table.paths) - 1))
    facts = image_facts(table, predictions.rows, num_workers=0)
    return Evidence(
        valid_facts=facts,
        train_facts=facts,
        duplicates=find_duplicates(facts, facts),
        heat={position: torch.full((3, 64, 64), 150, dtype=torch.uint8) for position in worst[::2]},
        neighbours={
            position: tuple(Neighbour(row=row, similarity=0.5) for row in rows)
            for position in worst
        },
        left_out=predictions,
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Report files: an ordinary one, one with 40 classes, one with names that are hard to set."""
    folder = tmp_path_factory.mktemp("reports")
    long_word = "Averyverylongnamewithoutanyplacewhereitmaybreak" * 2
    breeds = [f"American_Breed_{index}" for index in range(40)]
    hard = ["<b>bold</b>", long_word, "\u732b \u0642\u0637"]
    names = ["<script>alert(1)<", "a" * 180, "two\nlines", "\u202egpj"]
    cases = [
        ("two", ["cats", "dogs"], 200, ()),
        ("nine", breeds[:9], 200, ()),
        ("forty", breeds, 400, ()),
        ("hostile", hard, 30, names),
        ("single", ["cats", "dogs"], 1, ()),
    ]
    written: dict[str, Path] = {}
    for name, vocab, num_images, file_names in cases:
        (folder / name).mkdir()
        content = make_content(folder / name, vocab=vocab, num_images=num_images, names=file_names)
        written[name] = write_report(folder / f"{name}.html", content=content)
        if name == "hostile":
            written["audit"] = make_audit(content).save(folder / "audit")
    return written


def make_audit(content: ReportContent) -> Audit:
    """Make up what an audit found in the images of a report, a finding of each severity."""
    table, predictions = content.table, content.predictions
    items = tuple(
        Item(row=row, reason="31.2 % as labelled", suggestion=table.vocab[row % 3], score=0.7, related=(0, 1, 2, 3))
        for row in range(8)
    )  # fmt: skip
    shortcut = Finding(kind="shortcut", severity="know", title=f"{table.vocab[1]} follows from the border.", advice="Crop it.")  # fmt: skip
    return Audit(
        table=table,
        findings=(
            Finding(kind="label", severity="mend", title="8 labels are suspected.", advice="Look.", items=items),
            Finding(kind="outlier", severity="look", title="2 images are odd.", advice="Look.", items=items[:2]),
            shortcut,
        ),
        rows=torch.arange(len(table.paths)),
        left_out=predictions,
        noise=LabelNoise(rate=0.05, low=0.01, high=0.09, suspects=(), confused=()),
        cues=(Cue(name="the border", accuracy=0.9, low=0.8, high=0.95, chance=0.4, num_images=30),),
        more_data=MoreData(points=((7, 0.5), (15, 0.7), (30, 0.8)), num_images=60, accuracy=0.85, low=0.8, high=0.9),
        network="efficientnet_lite0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def answers(
    pages: dict[str, Path], browse: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the probe found on a copy of each page, at the width of a telephone and of a desk."""
    folder = tmp_path_factory.mktemp("probes")
    frames: list[str] = []
    for name, page in pages.items():
        html = page.read_text(encoding="utf-8")
        # Style and script keep their hashes: were they refused, the copy would be as bad as the page.
        probe = PROBE.removeprefix("<script>").removesuffix("</script>")
        digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
        html = html.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        html = html.replace("</body>", f"{PROBE}</body>").replace("<details>", "<details open>")
        html = html.replace('<details class="groups">', '<details class="groups" open>')
        copy = folder / f"{name}.html"
        copy.write_text(html, encoding="utf-8")
        frames += [
            FRAME.format(name=f"{name}-{width}", address=copy.as_uri(), width=width, height=900)
            for width in (PHONE, DESK)
        ]
    host = folder / "host.html"
    host.write_text(HOST.format(frames="".join(frames)), encoding="utf-8")
    dom = browse(host, "--dump-dom")
    found = [
        json.loads(unescape(text)) for text in re.findall(r'<pre class="answer">(.*?)</pre>', dom)
    ]
    return {answer["name"]: answer for answer in found}


def test_pages_fit_their_screen_and_work(
    answers: dict[str, dict[str, Any]], pages: dict[str, Path]
):
    assert len(answers) == 2 * len(pages)
    for case, found in answers.items():
        assert found["visible"] == int(case.split("-")[1])
        assert found["width"] <= found["visible"], f"{case} scrolls sideways"
        assert found["texts"] > 80, case
        assert (found["cut"], found["overlaps"]) == ([], []), case
        # Headings sort, and links open what they lead into.
        after = found["sorted"]
        if case.startswith("audit-"):
            continue
        assert after["buttons"] == 5
        assert after["names"] == sorted(after["names"], key=str.lower) or "hostile" in case
        assert after["supports"] == sorted(after["supports"], reverse=True), case
        assert after.get("opened", True), case


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_shipped_page_is_drawn(
    pages: dict[str, Path], browse: Callable[..., str], tmp_path: Path, width: int
):
    frame = FRAME.format(name="page", address=pages["two"].as_uri(), width=width, height=3000)
    host = tmp_path / "host.html"
    host.write_text(HOST.format(frames=frame), encoding="utf-8")
    file = tmp_path / "page.png"
    browse(host, f"--screenshot={file}", f"--window-size={max(width, 500)},3000")
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").crop((0, 0, width, 3000)))
    # The page's own background in the corner proves that its style was accepted under its policy.
    assert pixels[2, 2].tolist() in ([0xFA, 0xF9, 0xF6], [0x16, 0x18, 0x1B])
    filled = (np.abs(pixels.astype(int) - pixels[2, 2]).max(axis=2) > 40).mean(axis=1)
    parts = filled.reshape(6, 500).mean(axis=1)
    assert (parts > 0.005).all(), "there is something in each sixth of the first 3,000 pixels"
    assert len(np.unique(pixels.astype(int) @ [65536, 256, 1])) > 1000


def test_every_finding_of_an_audit_is_reached_by_a_link(pages: dict[str, Path]):
    html = pages["audit"].read_text("utf-8")
    targets = re.findall(r'<a href="#([^"]+)"', html)
    assert targets == ["finding-1", "finding-2", "finding-3"]
    assert [html.count(f'id="{target}"') for target in targets] == [1, 1, 1]
    assert "<script>alert" not in html


class _Ears(BaseHTTPRequestHandler):
    """Answers nothing and remembers what was asked for."""

    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine: its address, and the list of what was asked of it."""
    handler = type("Ears", (_Ears,), {"heard": []})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", handler.heard
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_the_policy_stops_what_a_hostile_name_could_bring_in(
    pages: dict[str, Path],
    browse: Callable[..., str],
    server: tuple[str, list[str]],
    tmp_path: Path,
):
    address, heard = server
    html = pages["hostile"].read_text(encoding="utf-8")
    evil = (
        f'<img src="{address}/{{0}}.png"><link rel="stylesheet" href="{address}/{{0}}.css">'
        f'<style>body {{{{ background: url("{address}/{{0}}-style.png") }}}}</style>'
        f'<script>new Image().src = "{address}/{{0}}-script.png"</script>'
        f'<iframe src="{address}/{{0}}.html"></iframe>'
    )
    guarded = html.replace("</body>", evil.format("guarded") + "</body>")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    bare = policy.sub("", guarded).replace("guarded", "bare")
    frames: list[str] = []
    for name, text in (("guarded", guarded), ("bare", bare)):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        page = (tmp_path / f"{name}.html").as_uri()
        frames.append(FRAME.format(name=name, address=page, width=DESK, height=900))
    host = tmp_path / "host.html"
    host.write_text(HOST.format(frames="".join(frames)), encoding="utf-8")
    browse(host, "--dump-dom")
    assert len([path for path in heard if "bare" in path]) >= 4
    assert [path for path in heard if "guarded" in path] == []
