"""Published weights: from the caches first, from the network whole and checked, and a quick answer if there is none."""

from __future__ import annotations

import hashlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from vizsla.errors import WeightsError
from vizsla.models.weights import (
    Hub,
    PublishedFile,
    fetch_url,
    find_weights_file,
    hub_from_environment,
)

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORY = "timm/tiny.r1"
NAMES = ("model.safetensors", "pytorch_model.bin")
CONTENT = b"weights " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


def make_hub(
    folder: Path, *, endpoint: str = "http://127.0.0.1:9", is_offline: bool = False
) -> Hub:
    return Hub(
        endpoint=endpoint,
        hub_cache=folder / "hub",
        url_cache=folder / "urls",
        is_offline=is_offline,
        timeout_seconds=0.3,
    )


def cache_on_hub(folder: Path, *, name: str, commit: str = "abc", branch: str = "main") -> Path:
    """Lay a file into a cache as huggingface_hub does."""
    repository = folder / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    path = repository / "snapshots" / commit / name
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    return path


def test_a_copy_in_the_hub_cache_is_used_without_network(tmp_path):
    path = cache_on_hub(tmp_path, name=NAMES[1])
    published = PublishedFile(repository=REPOSITORY, names=NAMES)
    assert find_weights_file(published, hub=make_hub(tmp_path, is_offline=True)) == path


def test_the_revision_that_is_asked_for_is_used(tmp_path):
    cache_on_hub(tmp_path, name=NAMES[0], commit="new")
    old = cache_on_hub(tmp_path, name=NAMES[0], commit="old", branch="v1")
    published = PublishedFile(repository=f"{REPOSITORY}@v1", names=NAMES)
    assert find_weights_file(published, hub=make_hub(tmp_path, is_offline=True)) == old


def test_a_copy_fetched_by_address_before_is_used_without_network(tmp_path):
    path = tmp_path / "urls" / "tiny.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    published = PublishedFile(
        repository=REPOSITORY, names=NAMES, url="https://example.org/a/tiny.pth"
    )
    assert find_weights_file(published, hub=make_hub(tmp_path, is_offline=True)) == path


def test_offline_without_a_copy_no_server_is_asked(tmp_path, file_server):
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url=f"{file_server.url}/tiny.pth")
    hub = make_hub(tmp_path, endpoint=file_server.url, is_offline=True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids the network"):
        find_weights_file(published, hub=hub)
    assert file_server.requests == []


def test_a_file_comes_from_the_hub_once_and_then_from_its_cache(tmp_path, file_server):
    file_server.files[f"/{REPOSITORY}/resolve/main/{NAMES[0]}"] = CONTENT
    published = PublishedFile(repository=REPOSITORY, names=NAMES)
    path = find_weights_file(published, hub=make_hub(tmp_path, endpoint=file_server.url))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hub")
    assert find_weights_file(published, hub=make_hub(tmp_path, is_offline=True)) == path


def test_the_second_name_is_fetched_if_the_hub_lacks_the_first(tmp_path, file_server):
    file_server.files[f"/{REPOSITORY}/resolve/main/{NAMES[1]}"] = CONTENT
    published = PublishedFile(repository=REPOSITORY, names=NAMES)
    path = find_weights_file(published, hub=make_hub(tmp_path, endpoint=file_server.url))
    assert path.name == NAMES[1]


def test_the_address_is_used_if_the_hub_has_nothing(tmp_path, file_server):
    file_server.files[f"/tiny-{DIGEST}.pth"] = CONTENT
    url = f"{file_server.url}/tiny-{DIGEST}.pth"
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url=url)
    path = find_weights_file(published, hub=make_hub(tmp_path, endpoint=file_server.url))
    assert path == tmp_path / "urls" / f"tiny-{DIGEST}.pth"
    assert path.read_bytes() == CONTENT


def test_all_reasons_are_told_if_nothing_answers_with_a_file(tmp_path, file_server):
    published = PublishedFile(repository=REPOSITORY, names=NAMES, url="http://127.0.0.1:9/tiny.pth")
    with pytest.raises(WeightsError) as caught:
        find_weights_file(published, hub=make_hub(tmp_path, endpoint=file_server.url))
    assert "pytorch_model.bin answered 404 Not Found" in str(caught.value)
    assert "127.0.0.1:9/tiny.pth cannot be fetched: " in str(caught.value)


def test_a_hub_that_promises_a_file_and_does_not_hand_it_out_is_reported(tmp_path, file_server):
    path = f"/{REPOSITORY}/resolve/main/{NAMES[0]}"
    file_server.files[path] = CONTENT
    file_server.only_promised.add(path)
    published = PublishedFile(repository=REPOSITORY, names=NAMES)
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be fetched: "):
        find_weights_file(published, hub=make_hub(tmp_path, endpoint=file_server.url))


def test_weights_that_are_published_nowhere_are_not_found(tmp_path):
    with pytest.raises(WeightsError, match="no place is known"):
        find_weights_file(PublishedFile(), hub=make_hub(tmp_path))


def test_a_hub_that_refuses_connections_is_given_up_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be fetched"):
        find_weights_file(PublishedFile(repository=REPOSITORY, names=NAMES), hub=make_hub(tmp_path))
    assert time.monotonic() - start < 2


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        published = PublishedFile(repository=REPOSITORY, names=NAMES, url=f"{url}/tiny.pth")
        start = time.monotonic()
        with pytest.raises(WeightsError, match="timed out"):
            find_weights_file(published, hub=make_hub(tmp_path, endpoint=url))
    assert time.monotonic() - start < 3


def test_a_fetched_file_that_is_not_what_its_name_promises_is_refused(tmp_path, file_server):
    file_server.files["/tiny-01234567.pth"] = CONTENT
    with pytest.raises(WeightsError, match=f"starts with {DIGEST}, not with 01234567"):
        fetch_url(f"{file_server.url}/tiny-01234567.pth", folder=tmp_path / "a", timeout_seconds=1)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path, file_server):
    file_server.files["/tiny.pth"] = CONTENT
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"tiny\.pth cannot be fetched: .*"):
        fetch_url(f"{file_server.url}/tiny.pth", folder=tmp_path / "file", timeout_seconds=1)


def test_a_place_that_cannot_be_written_is_told(tmp_path, file_server):
    file_server.files["/tiny.pth"] = CONTENT
    (tmp_path / "tiny.pth").mkdir()
    with pytest.raises(WeightsError, match=r"Cannot write .*tiny\.pth"):
        fetch_url(f"{file_server.url}/tiny.pth", folder=tmp_path, timeout_seconds=1)


def test_an_address_that_is_none_is_told(tmp_path):
    with pytest.raises(WeightsError, match=r"tiny\.pth cannot be fetched: unknown url type"):
        fetch_url("tiny.pth", folder=tmp_path, timeout_seconds=1)


def test_the_environment_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_from_environment() == Hub(
        endpoint="https://mirror.example.org",
        hub_cache=tmp_path / "cache",
        url_cache=tmp_path / "torch" / "hub" / "checkpoints",
        is_offline=True,
    )


def test_the_home_of_the_hub_holds_its_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub = hub_from_environment()
    assert hub.hub_cache == tmp_path / "hub"
    assert not hub.is_offline
