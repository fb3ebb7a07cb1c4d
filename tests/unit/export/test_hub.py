"""Pushing to and fetching from a repository, against a small server that speaks as much of the hub's language as is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vizsla import ConfigError, ModelFileError, OutputError, Predictor, from_hub, push_to_hub
from vizsla.export import model_card
from vizsla.model_file import load_bundle, read_manifest

Rewrite = Callable[..., Path]

TOKEN = "hf_right"
Files = dict[str, bytes]


@dataclass
class StandIn:
    """What the server has and was asked."""

    url: str = ""
    repositories: dict[str, list[Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    failures: list[tuple[str, int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(
        self, method: str, path: str, body: bytes, token: str
    ) -> tuple[int, dict[str, str], bytes]:
        path = path.split("?")[0]
        self.asked.append(f"{method} {path}")
        for failure in self.failures:
            if failure[0] in path:
                self.failures.remove(failure)
                return failure[1], {}, b"{}"
        if method in ("HEAD", "GET"):
            return self.fetch(path)
        if token != f"Bearer {TOKEN}":
            return 401, {}, b'{"error": "Invalid username or password."}'
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
            status = 409 if name in self.repositories else 200
            self.repositories.setdefault(name, [])
            self.private.setdefault(name, wanted.get("visibility") == "private")
            return status, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
        if path == "/api/validate-yaml":
            return 200, {}, b'{"errors": [], "warnings": []}'
        repository = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return 200, {}, json.dumps({"files": files}).encode()
        if parts[4] == "commit":
            files = dict(self.repositories[repository][-1]) if self.repositories[repository] else {}
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.repositories[repository].append(files)
            url = f"{self.url}/{repository}/commit/{self.commit_id(repository)}"
            done = {"commitUrl": url, "commitOid": self.commit_id(repository)}
            return 200, {}, json.dumps(done).encode()
        return 404, {}, b"{}"

    def commit_id(self, repository: str) -> str:
        return hashlib.sha1(repr(len(self.repositories[repository])).encode()).hexdigest()

    def fetch(self, path: str) -> tuple[int, dict[str, str], bytes]:
        owner, name, _, revision, *rest = path.strip("/").split("/")
        commits = self.repositories.get(f"{owner}/{name}")
        if not commits:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", self.commit_id(f"{owner}/{name}")):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        content = commits[-1].get("/".join(rest))
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": self.commit_id(f"{owner}/{name}"),
        }
        return 200, headers, content


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            status, headers, content = stand_in.answer(self.command, self.path, body, token)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = handle_any

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()


IMAGE = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_what_was_pushed_comes_back_and_predicts_the_same(hub: StandIn, saved: Path):
    assert push_to_hub(saved, "me/shapes", token=TOKEN, endpoint=hub.url) == f"{hub.url}/me/shapes"
    (files,) = hub.repositories["me/shapes"]
    assert set(files) == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == saved.read_bytes()
    assert hub.private == {"me/shapes": False}
    predictor = from_hub("me/shapes", endpoint=hub.url)
    expected = Predictor.load(saved).predict(IMAGE)
    assert predictor.predict(IMAGE).probabilities.tolist() == expected.probabilities.tolist()


def test_a_repository_without_an_owner_is_that_of_the_token(hub: StandIn, saved: Path):
    assert push_to_hub(saved, "shapes", private=True, token=TOKEN) == f"{hub.url}/me/shapes"
    assert hub.private == {"me/shapes": True}


def test_a_revision_outlives_a_second_push(hub: StandIn, saved: Path, rewrite: Rewrite):
    push_to_hub(saved, "me/shapes", token=TOKEN)
    first = hub.commit_id("me/shapes")
    assert from_hub("me/shapes", revision=first).path is not None
    rewrite(saved, lambda manifest: manifest.update(notes="second"))
    push_to_hub(Predictor.load(saved), "me/shapes", token=TOKEN)
    newest, old = from_hub("me/shapes").path, from_hub("me/shapes", revision=first).path
    assert newest is not None
    assert old is not None
    assert [read_manifest(path).notes for path in (newest, old)] == ["second", ""]
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    assert from_hub("me/shapes", revision=first, sha256=digest).path == old
    with pytest.raises(ModelFileError, match=digest):
        from_hub("me/shapes", sha256=digest)


def test_a_learner_is_exported_and_pushed(hub: StandIn, saved: Path):
    class Exporting:
        def export(self, fname: Path | str) -> Path:
            return saved.rename(fname)

    content = saved.read_bytes()
    push_to_hub(Exporting(), "me/shapes", token=TOKEN)
    assert hub.repositories["me/shapes"][0]["model.safetensors"] == content


def test_only_the_safetensors_file_is_ever_asked_for(hub: StandIn, saved: Path):
    hub.repositories["me/shapes"] = [
        {"model.safetensors": saved.read_bytes(), "pytorch_model.bin": b"x", "config.json": b"{}"}
    ]
    from_hub("me/shapes")
    assert {line.rpartition("/")[2] for line in hub.asked} == {"model.safetensors"}


def test_a_pickle_under_the_name_of_the_model_is_refused(hub: StandIn):
    hub.repositories["me/shapes"] = [{"model.safetensors": b"\x80\x04\x95" + bytes(100)}]
    with pytest.raises(ModelFileError, match="pickle"):
        from_hub("me/shapes")


def test_a_server_that_is_busy_for_a_moment_is_asked_again(hub: StandIn, saved: Path):
    hub.failures += [("/api/repos/create", 503), ("/preupload/", 503)]
    push_to_hub(saved, "me/shapes", token=TOKEN)
    assert len(hub.repositories["me/shapes"]) == 1


def test_a_copy_on_this_machine_is_used_when_the_hub_is_gone(hub: StandIn, saved: Path):
    push_to_hub(saved, "me/shapes", token=TOKEN)
    from_hub("me/shapes")
    hub.failures += [("/resolve/", 500)] * 20
    assert from_hub("me/shapes").vocab == load_bundle(saved).manifest.vocab


def test_what_cannot_be_fetched_is_our_error_with_advice(hub: StandIn):
    hub.repositories["me/empty"] = [{"README.md": b"hello"}]
    gone = "http://127.0.0.1:9"
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("me/none", {}, "no such repository"),
        ("me/empty", {}, "no file model.safetensors"),
        ("me/empty", {"revision": "v9"}, "no such revision"),
        ("me/shapes", {"endpoint": gone}, f"{gone}.* does not answer"),
    )
    for name, options, words in cases:
        with pytest.raises(ModelFileError, match=f"{name}.*{words}"):
            from_hub(name, **options)


def test_a_refusal_while_pushing_is_our_error(hub: StandIn, saved: Path):
    with pytest.raises(OutputError, match=r"401.*hf auth login"):
        push_to_hub(saved, "me/shapes", token="hf_wrong")
    assert hub.repositories == {}
    for status, words in (
        (401, "not logged in"),
        (403, "permission"),
        (404, "no such repository"),
    ):
        hub.failures.append(("/commit/", status))
        with pytest.raises(OutputError, match=words):
            push_to_hub(saved, "me/shapes", token=TOKEN)
    assert hub.repositories["me/shapes"] == []


def test_what_is_no_name_of_a_repository_is_refused(hub: StandIn, saved: Path):
    for name in ("a/b/c", "me/../shapes", "me shapes", ""):
        with pytest.raises(ConfigError, match="valid repository name"):
            push_to_hub(saved, name, token=TOKEN)
        with pytest.raises(ConfigError, match="valid repository name"):
            from_hub(name)
    assert hub.asked == []


def test_a_damaged_file_is_not_pushed(hub: StandIn, saved: Path):
    saved.write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(ModelFileError):
        push_to_hub(saved, "me/shapes", token=TOKEN)
    assert hub.asked == []


def test_a_predictor_without_a_file_cannot_be_pushed(saved: Path):
    bundle = load_bundle(saved)
    with pytest.raises(ConfigError, match="not loaded from a model file"):
        push_to_hub(Predictor(bundle.classifier, resize=None), "me/shapes")


def test_the_card_says_how_good_the_model_is_and_how_to_load_it(saved: Path):
    card = model_card(read_manifest(saved), repo_id="me/shapes")
    assert card.startswith("---\nlibrary_name: vizsla\n")
    assert "| accuracy | 0.75 | 0.5 to 0.9 | 20 |" in card
    assert "`cross`, `disc`, `none`, `Füchse`" in card
    assert 'from_hub("me/shapes")' in card
    assert "Licence of those weights: unknown" in card
    assert "No calibration of its probabilities is recorded." in card
    for heading in ("Use", "How good it is", "Classes", "Where it comes from", "Limits"):
        assert f"\n## {heading}\n" in card


def test_texts_of_a_foreign_file_are_no_markup_in_the_card(saved: Path, rewrite: Rewrite):
    def edit(manifest: dict[str, Any]) -> None:
        manifest["notes"] = "<script>x</script>\n# Title [a](http://b)"
        manifest["vocab"] = ["a`b", "c\n# d", "", "e"]

    card = model_card(read_manifest(rewrite(saved, edit)), repo_id="me/shapes")
    assert "``a`b``, `c # d`, ` `, `e`" in card
    assert r"\<script\>x\</script\> \# Title \[a\](http://b)" in card
