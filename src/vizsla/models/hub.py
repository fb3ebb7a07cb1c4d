"""Where pretrained weights are published in, a local file out: from the caches of this machine, else from the network.

The caches are those of huggingface_hub and of torch.hub, so what other programs fetched is found, and the other way round.
A server that does not answer is given up after seconds, not after minutes of repeated tries: somebody waits.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from vizsla.errors import OutputError, WeightsError
from vizsla.files import atomic_write

_CHUNK_BYTES = 1 << 20
_TRUE_WORDS = {"1", "ON", "YES", "TRUE"}
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)
"""``ValueError`` is what urllib raises for an address without a scheme."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """Where a file of weights can be had.

    Attributes:
        repository: On the Hugging Face hub, as ``timm/resnet18.a1_in1k``, with ``@revision`` if not the newest;
            empty if it is not there.
        names: File names in that repository, the preferred one first.
        url: Address of the same weights elsewhere; empty if there is none.
    """

    repository: str = ""
    names: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """How weights are looked for.

    Attributes:
        endpoint: Address of the Hugging Face hub or of a mirror.
        hub_cache: Folder of huggingface_hub's cache.
        url_cache: Folder of files that were fetched by address.
        is_offline: No network at all, only the caches.
        timeout_seconds: How long a server may be silent.
    """

    endpoint: str
    hub_cache: Path
    url_cache: Path
    is_offline: bool
    timeout_seconds: float = 5.0


def hub_from_environment() -> Hub:
    """Return the hub that the environment asks for.

    The variables are those of huggingface_hub and torch: ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HOME``,
    ``HF_HUB_OFFLINE``, ``TORCH_HOME``. They are read now, so setting one in a running notebook has an effect.
    """
    from huggingface_hub import constants

    home = os.environ.get("HF_HOME")
    default_cache = Path(home) / "hub" if home else Path(constants.HF_HUB_CACHE)
    return Hub(
        endpoint=os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/"),
        hub_cache=Path(os.environ.get("HF_HUB_CACHE") or default_cache).expanduser(),
        url_cache=Path(torch.hub.get_dir()) / "checkpoints",
        is_offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE_WORDS,
    )


def find_weights_file(published: PublishedFile, *, hub: Hub) -> Path:
    """Return a local copy of published weights; fetch it if this machine has none.

    Args:
        published: Where the weights are.
        hub: Caches to look in, and the network to use.

    Raises:
        WeightsError: There is no copy and none could be fetched; the message has the reasons only.
    """
    cached = _cached(published, hub=hub)
    if cached is not None:
        return cached
    if hub.is_offline:
        raise WeightsError("no copy is on this machine, and HF_HUB_OFFLINE forbids the network")
    reasons: list[str] = []
    if published.repository:
        try:
            return _fetch_from_hub(published, hub=hub)
        except WeightsError as error:
            reasons.append(str(error))
    if published.url:
        try:
            return fetch_url(
                published.url, folder=hub.url_cache, timeout_seconds=hub.timeout_seconds
            )
        except WeightsError as error:
            reasons.append(str(error))
    raise WeightsError("; ".join(reasons) or "no place is known where they are published")


def fetch_url(url: str, *, folder: Path, timeout_seconds: float) -> Path:
    """Fetch a file into a folder, whole or not at all, and check it.

    A name such as ``resnet34-b627a593.pth`` promises how the SHA-256 digest of the file starts.

    Args:
        url: Address of the file; its last part is the name.
        folder: Made if it does not exist.
        timeout_seconds: How long the server may be silent.

    Raises:
        WeightsError: The server does not answer or has no such file, the file is not what its name promises, or the
            folder cannot be written to.
    """
    target = folder / PurePosixPath(urlsplit(url).path).name
    promised = re.search(r"-([0-9a-f]{8,64})\.", target.name)
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": "vizsla"})
        with (
            urllib.request.urlopen(request, timeout=timeout_seconds) as response,
            atomic_write(target) as temporary,
            temporary.open("wb") as file,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            if promised is not None and not digest.hexdigest().startswith(promised[1]):
                raise WeightsError(
                    f"{url} gave a file whose SHA-256 digest starts with {digest.hexdigest()[:8]}, not with "
                    f"{promised[1]} as its name says"
                )
    except OutputError as error:
        raise WeightsError(str(error)) from error
    except _NETWORK_ERRORS as error:
        raise WeightsError(f"{url} cannot be fetched: {_reason(error)}") from error
    return target


def _cached(published: PublishedFile, *, hub: Hub) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository, revision = _split_revision(published.repository)
    for name in published.names if repository else ():
        found = try_to_load_from_cache(repository, name, cache_dir=hub.hub_cache, revision=revision)
        if isinstance(found, str):
            return Path(found)
    if published.url:
        path = hub.url_cache / PurePosixPath(urlsplit(published.url).path).name
        if path.is_file():
            return path
    return None


def _fetch_from_hub(published: PublishedFile, *, hub: Hub) -> Path:
    """Fetch through huggingface_hub, after a short look whether anybody answers: on its own it tries for 20 seconds."""
    from huggingface_hub import hf_hub_download, hf_hub_url

    repository, revision = _split_revision(published.repository)
    reason = ""
    for name in published.names:
        url = hf_hub_url(repository, name, revision=revision, endpoint=hub.endpoint)
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "vizsla"})
        try:
            urllib.request.urlopen(request, timeout=hub.timeout_seconds).close()
        except urllib.error.HTTPError as error:
            reason = f"{url} answered {error.code} {error.reason}"
        except _NETWORK_ERRORS as error:
            # One server holds all names: if it does not answer, the next name is not tried.
            raise WeightsError(f"{url} cannot be fetched: {_reason(error)}") from error
        else:
            try:
                path = hf_hub_download(
                    repository,
                    name,
                    revision=revision,
                    endpoint=hub.endpoint,
                    cache_dir=hub.hub_cache,
                    etag_timeout=hub.timeout_seconds,
                )
            except Exception as error:
                # Exception, because it raises the errors of whichever HTTP library it is built on.
                raise WeightsError(f"{url} cannot be fetched: {_reason(error)}") from error
            return Path(path)
    raise WeightsError(reason)


def _split_revision(repository: str) -> tuple[str, str | None]:
    name, _, revision = repository.partition("@")
    return name, revision or None


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(inner) or type(error).__name__
