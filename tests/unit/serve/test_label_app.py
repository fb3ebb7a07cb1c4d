"""The label page's server: who may ask, what two tabs do to one another, and that what was answered is in the file."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from vizsla import read_fixes
from vizsla.auditing import Labelling
from vizsla.data.table import images_to_label
from vizsla.recipe import FeatureLayout
from vizsla.serve import LABEL_ASSETS, build_label_app

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from conftest import Done, LabelServer

    from .conftest import Client, Response  # noqa: TID252 (tests/conftest.py has the plain name)

TOKEN = "a secret"
HOSTILE = "<img src=x onerror=alert(1)>"


class Tab:
    """One page: it asks with the token of its address."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get(self, path: str) -> Any:
        answer = self.client.ask("GET", path, headers={"x-token": TOKEN})
        assert answer.status == 200, answer.body
        return answer.json

    def post(self, path: str, **body: Any) -> Response:
        headers = {"x-token": TOKEN, "content-type": "application/json"}
        return self.client.ask("POST", path, body=json.dumps(body).encode(), headers=headers)

    def decide(self, image: int, label: str, *, version: str = "") -> Response:
        return self.post("/api/decide", image=image, action="label", label=label, version=version)

    def card(self, image: int) -> Any:
        return self.get(f"/api/cards?images={image}")["cards"][0]

    def settled(self) -> Any:
        """Return the state once the head knows of every decision."""
        for _ in range(500):
            state = self.get("/api/state")
            if not state["fitting"]:
                return state
            time.sleep(0.01)
        raise AssertionError("the head is never fitted")


@pytest.fixture
def photos(tmp_path: Path, draw: Callable[..., Image.Image]) -> Path:
    """Twenty images: six crosses and six discs in folders, one of them in the wrong one, and eight that nobody has labelled."""
    root = tmp_path / "photos"
    for number in range(20):
        kind = ("cross", "disc")[number % 2]
        folder = {True: kind, False: ""}[number < 12]
        place = (
            root / ("disc" if number == 4 else folder) / f"{number:02} {HOSTILE}".replace("/", "")
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        draw(kind, number=number).save(f"{place}.png")
    return root


@pytest.fixture
def labelling(photos: Path, tmp_path: Path) -> Labelling:
    images, num_own = images_to_label(photos)
    kinds = torch.tensor([int(Path(path).name[:2]) % 2 for path in map(str, images.paths)])
    noise = torch.randn((len(kinds), 4), generator=torch.Generator().manual_seed(0))
    return Labelling(
        images,
        num_own=num_own,
        features=torch.nn.functional.one_hot(kinds, 4) * 4 + noise,
        layout=FeatureLayout(stages=(0,), statistics=("mean",), channels=(4,)),
        file=tmp_path / "fixes.csv",
    )


@pytest.fixture
def tab(labelling: Labelling, client_of: Callable[..., Any]) -> Generator[Tab]:
    with client_of(build_label_app(labelling, token=TOKEN, title=HOSTILE, command=lambda: "vizsla train x")) as client:  # fmt: skip
        yield Tab(client)


def test_nothing_is_shown_or_changed_without_the_token(tab: Tab, labelling: Labelling):
    body = json.dumps({"image": 0, "action": "drop", "version": ""}).encode()
    kind = {"content-type": "application/json"}
    for method, path in (
        ("GET", "/api/state"),
        ("GET", "/api/queue"),
        ("GET", "/api/cards?images=0"),
        ("GET", "/api/image?image=0"),
        ("GET", "/api/image?image=0&token=guess"),
        ("POST", "/api/decide"),
        ("POST", "/api/undo"),
        ("POST", "/api/classes"),
    ):
        for headers in (kind, {**kind, "x-token": "guess"}, {**kind, "x-token": "\xe9"}):
            assert tab.client.ask(method, path, body=body, headers=headers).status == 403, path
    foreign = {**kind, "x-token": TOKEN, "origin": "http://elsewhere.example"}
    assert tab.client.ask("POST", "/api/decide", body=body, headers=foreign).status == 403
    rebound = {"host": "elsewhere.example", "x-token": TOKEN}
    assert tab.client.ask("GET", "/api/state", headers=rebound).status == 421
    assert not labelling.file.exists()
    for path, (_, content_type) in LABEL_ASSETS.items():
        answer = tab.client.ask("GET", path)
        assert (answer.status, answer.headers["content-type"]) == (200, content_type)
        assert TOKEN.encode() not in answer.body


def test_requests_that_make_no_sense_are_refused(tab: Tab, labelling: Labelling):
    right: dict[str, Any] = {"image": 0, "action": "drop", "version": ""}
    for changed, status in (
        ({"image": 20}, 404),
        ({"image": -1}, 404),
        ({"image": "0"}, 400),
        ({"action": "delete"}, 400),
        ({"version": None}, 400),
        ({"action": "label", "label": "unheard"}, 400),
        ({"extra": 1}, 400),
        ({"label": "x" * 30_000}, 413),
    ):
        answer = tab.post("/api/decide", **right | changed)
        assert (answer.status, bool(answer.json["error"])) == (status, True), changed
    headers = {"x-token": TOKEN, "content-type": "text/plain"}
    assert tab.client.ask("POST", "/api/decide", body=json.dumps(right).encode(), headers=headers).status == 415  # fmt: skip
    headers["content-type"] = "application/json"
    assert tab.client.ask("POST", "/api/decide", body=b"{", headers=headers).status == 400
    assert tab.client.ask("GET", "/api/queue?view=x", headers=headers).status == 400
    assert tab.client.ask("GET", "/api/image?image=../x", headers=headers).status == 404
    assert tab.post("/api/classes", name="a\nb").status == 400
    assert not labelling.file.exists()


def test_labels_are_given_undone_and_learned_from(tab: Tab, labelling: Labelling):
    labelling.fit()
    queue = tab.get("/api/queue")["images"]
    assert all(
        not labelling.given[image] for image in queue
    )  # 11 right labels do not make one suspicious
    wrong = next(p for p, path in enumerate(labelling.shown) if path.startswith("disc/04"))
    assert tab.get("/api/queue?view=doubtful") == {"images": [wrong], "total": 1}
    card = tab.card(wrong)
    assert (card["given"], card["suggestion"], card["decided"]) == ("disc", "cross", False)
    assert len(card["near"]) == 5
    answer = tab.decide(wrong, "cross").json
    assert answer["card"]["label"] == "cross"
    assert answer["state"]["latest"] == {"image": wrong, "version": answer["card"]["version"]}
    assert answer["state"]["counts"]["decided"] == 1
    [fix] = read_fixes(labelling.file)
    assert (fix.path, fix.action, fix.label) == (labelling.shown[wrong], "relabel", "cross")
    state = tab.settled()
    assert state["accuracy"]["num_labels"] == 12
    undone = tab.post("/api/undo", image=wrong, version=answer["card"]["version"]).json
    assert (undone["card"]["label"], undone["state"]["latest"]) == ("disc", None)
    assert tab.post("/api/classes", name=" new ").json["state"]["classes"][-1] == {"name": "new", "count": 0}  # fmt: skip
    large = tab.client.ask("GET", f"/api/image?image={wrong}&large=1&token=a%20secret")
    with Image.open(io.BytesIO(large.body)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (64, 48))
    assert tab.get("/api/state")["title"] == HOSTILE


def test_two_tabs_do_not_write_over_each_other(tab: Tab, labelling: Labelling):
    other = Tab(tab.client)
    first = tab.decide(0, "disc")
    second = other.decide(0, "cross")
    assert (first.status, second.status) == (200, 409)
    assert second.json["card"]["label"] == "disc"
    assert other.decide(0, "cross", version=second.json["card"]["version"]).status == 200
    assert tab.post("/api/undo", image=0, version=first.json["card"]["version"]).status == 409
    assert [fix.label for fix in read_fixes(labelling.file)] == ["disc", "cross"]
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda image=image: statuses.append(tab.decide(image, "disc").status)
        )
        for image in range(1, 19)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 18
    fixes = read_fixes(labelling.file)
    assert len(fixes) == 20
    assert len({fix.when for fix in fixes}) == 20


def test_a_disk_that_is_full_is_said_and_the_decision_can_be_sent_again(
    tab: Tab, labelling: Labelling, full_disk: Callable[..., Any]
):
    with full_disk():
        answer = tab.decide(0, "disc")
    assert answer.status == 500
    assert str(labelling.file) in answer.json["error"]
    assert tab.card(0)["decided"] is False
    assert tab.decide(0, "disc").status == 200


def port_and_token(address: str) -> tuple[int, str]:
    port, token = address.removeprefix("http://127.0.0.1:").split("/#")
    return int(port), token


@pytest.mark.slow
def test_a_killed_server_loses_nothing_and_only_one_serves_a_file(
    photos: Path, client_at: Callable[[int], Client], label_server: LabelServer, vizsla: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.chdir(photos.parent)
    (photos / "broken.jpg").write_bytes(b"no image")
    headers = {"content-type": "application/json"}
    with label_server(photos.parent, 32, "photos", "--classes", HOSTILE) as (address, process):
        port, headers["x-token"] = port_and_token(address)
        body = {"image": 1, "action": "label", "label": HOSTILE, "version": ""}
        answer = client_at(port).ask("POST", "/api/decide", body=json.dumps(body).encode(), headers=headers)  # fmt: skip
        assert answer.status == 200
        done = vizsla("label", "photos", "--port", "0")
        assert (done.code, str(process.pid) in done.err) == (2, True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with label_server(photos.parent, 32, "photos") as (address, process):
        port, headers["x-token"] = port_and_token(address)
        state = client_at(port).ask("GET", "/api/state", headers=headers).json
        assert [one["name"] for one in state["classes"]] == ["cross", "disc", HOSTILE]
        assert (state["counts"]["decided"], state["latest"]["image"]) == (1, 1)
        assert state["command"] == "vizsla train photos --fixes photos-fixes.csv --new-classes"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(30) == 0
    assert "photos-fixes.csv" in said


def test_handlers_of_other_libraries_stay_open(
    photos: Path, vizsla: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
):
    closed: list[logging.Handler] = []

    class Foreign(logging.Handler):  # absl's closes standard error
        def close(self) -> None:
            closed.append(self)
            super().close()

    foreign = Foreign()
    monkeypatch.chdir(photos.parent)
    assert vizsla("label", "photos", "--host", "not.a.host.example").code == 2
    assert closed == []
    foreign.close()


@pytest.mark.parametrize(
    "words",
    [
        ("label", "nowhere"),
        ("label", "photos", "--label-level", "9"),
        ("label", "photos", "--fixes", "nowhere/fixes.csv"),
        ("label", "photos", "--unlabelled", "nowhere"),
        ("label", "photos", "--host", "not.a.host.example"),
        ("label", "photos", "--size", "0"),
    ],
)
def test_wrong_words_end_before_anything_is_served(
    photos: Path, vizsla: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):  # fmt: skip
    monkeypatch.chdir(photos.parent)
    done = vizsla(*words)
    assert (done.code, done.err.startswith("vizsla: ")) == (2, True)
    assert [path.name for path in photos.parent.iterdir() if not path.name.startswith(".")] == ["photos"]  # fmt: skip
